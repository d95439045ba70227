"""A comparison as text for programs: CSV and JSON, in SI units and unrounded."""

from __future__ import annotations

import csv
import io
import json

from greenml.analysis.comparison._words import VERDICTS
from greenml.analysis.comparison.compare import Comparison, Row
from greenml.analysis.comparison.compare_text import judged


def table(comparison: Comparison) -> str:
    """Render CSV: a row a run, SI units, unrounded; empty is not known."""
    several = {one.key for one in comparison.columns for row in comparison.rows if row.cells[one.key].count > 1}
    stream = io.StringIO()
    rows = [_flat(comparison, at, several) for at in range(len(comparison.rows))]
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _flat(comparison: Comparison, at: int, several: set[str]) -> dict[str, str | float | int | None]:
    row = comparison.rows[at]
    flat: dict[str, str | float | int | None] = {
        "name": row.label,
        "path": ";".join(run.path for run in row.runs),
        "run_id": ";".join(run.record.run_id for run in row.runs),
        "status": ";".join(sorted({run.record.status for run in row.runs})),
        "runs": len(row.runs),
        "baseline": "yes" if at == comparison.baseline else "no",
    }
    for one in comparison.columns:
        cell, difference = row.cells[one.key], row.differences.get(one.key)
        flat[one.key] = cell.figure.value
        flat |= {f"{one.key}_low": cell.figure.low, f"{one.key}_high": cell.figure.high}
        if one.key in several:
            flat |= {f"{one.key}_spread": cell.spread, f"{one.key}_count": cell.count}
        flat |= {
            f"{one.key}_change_ratio": difference.change_ratio if difference else None,
            f"{one.key}_change_low_ratio": difference.low_ratio if difference else None,
            f"{one.key}_change_high_ratio": difference.high_ratio if difference else None,
            f"{one.key}_verdict": VERDICTS[difference.verdict] if difference else "",
        }
    return flat


def as_json(comparison: Comparison) -> str:
    """Render JSON: the same figures as the CSV's, with reasons, warnings and fronts."""
    columns, rows = comparison.columns, comparison.rows
    told = {
        "baseline": rows[comparison.baseline].label,
        "rows": [
            {
                "name": row.label,
                "runs": [{"name": run.label, "path": run.path, "run_id": run.record.run_id} for run in row.runs],
                "figures": {one.key: _told(row, one.key) for one in columns},
            }
            for row in rows
        ],
        "not_known": dict(comparison.unknown),
        "warnings": list(comparison.warnings),
        "judged": judged(comparison),
        "pareto_fronts": [
            {
                "takes": one.takes.key, "quality": one.quality.key, "better": one.quality.better,
                "rows": [rows[at].label for at in sorted(one.best)], "why_none": one.why,
            }
            for one in comparison.fronts
        ],
    }  # fmt: skip
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _told(row: Row, key: str) -> dict[str, object]:
    cell, difference = row.cells[key], row.differences.get(key)
    told: dict[str, object] = {
        "value": cell.figure.value, "low": cell.figure.low, "high": cell.figure.high, "why": cell.figure.why,
        "count": cell.count, "spread": cell.spread,
    }  # fmt: skip
    if difference is not None:
        low, high = (
            one if one is not None and abs(one) != float("inf") else None
            for one in (difference.low_ratio, difference.high_ratio)
        )
        told["change"] = {
            "ratio": difference.change_ratio, "low_ratio": low, "high_ratio": high,
            "verdict": VERDICTS[difference.verdict],
        }  # fmt: skip
    return told
