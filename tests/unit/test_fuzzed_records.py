"""Records of a wrong shape: each is refused in one line or rendered by every report, never a traceback.

``GREENML_FUZZ=2000`` tries as many mutations; a test run tries a few, others at each commit.
"""

from __future__ import annotations

import copy
import json
import os
import random
from functools import partial
from pathlib import Path

import pytest

from greenml import reports
from greenml.accounting import assumptions
from greenml.cli import main
from greenml.errors import GreenMLError, RecordError
from greenml.record import file as record_file
from greenml.record import importers
from greenml.settings import resolve

GOLDEN = Path(__file__).parents[1] / "golden" / "t5-3b-samsum"
STORED = Path(__file__).parent / "data" / "record-1.0.json"
FORMATS = ("terminal", "markdown", "csv", "latex", "model_card")
WRONG = (
    None, True, -1, 0, 1e308, -1e-300, 3.5, "", "x", "\u00e9" * 3, "2021-01-01T00:00:00Z", "NaN", [], {}, [1], [None],
    {"a": 1}, 10**30, [[]], {"a": {"b": []}},
)  # fmt: skip


@pytest.fixture(scope="module")
def documents() -> list[object]:
    """The published run's record and a stored one with an intensity series, as JSON."""
    measured = importers.load(
        codecarbon=GOLDEN / "emissions.csv",
        azure_monitor=sorted(GOLDEN.glob("azure-monitor-*.json")),
        trainer_output=GOLDEN,
        duration_seconds=2631.05,
    )
    accounted = assumptions.account(measured, resolve({"sku": "ND40rs_v2", "region": "westus2"}))
    stored = json.loads(record_file.read(STORED).model_dump_json())
    return [json.loads(accounted.model_dump_json()), stored, json.loads(STORED.read_text())]


def places(value: object, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value within a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, part in inside for path in [(*above, key), *places(part, (*above, key))]]


def mutated(document: object, chance: random.Random) -> object:
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 2, 3))):
        path = chance.choice(places(document))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        value, kind = parent[path[-1]], chance.random()
        if kind < 0.2 and isinstance(parent, dict):
            parent.pop(path[-1])
        elif kind < 0.3 and isinstance(parent, list):
            parent.insert(path[-1], copy.deepcopy(value))
        elif kind < 0.4 and isinstance(value, int | float) and not isinstance(value, bool):
            parent[path[-1]] = value * chance.choice((-1, 0, 1e6, 1e-9, 1e300))
        else:
            parent[path[-1]] = copy.deepcopy(chance.choice(WRONG))
    return document


def test_a_record_of_a_wrong_shape_is_refused_in_one_line_or_rendered(documents, tmp_path: Path, request) -> None:
    path = tmp_path / "run.json"
    seed = int(request.config.option.hypothesis_seed)
    read = 0
    for number in range(int(os.environ.get("GREENML_FUZZ", "150"))):
        chance = random.Random(f"{seed} {number}")
        path.write_text(json.dumps(mutated(chance.choice(documents), chance)))
        record, refusals = None, []
        try:
            record = record_file.read(path)
        except RecordError as error:
            refusals.append(str(error))
        if record is not None:
            read += 1
            formats = (*FORMATS, "html") if number % 10 == 0 else FORMATS
            uses = [partial(reports.render, record, name) for name in formats]
            for use in (*uses, partial(assumptions.reaccount, record)):
                try:
                    use()
                except GreenMLError as error:
                    refusals.append(str(error))
        assert not any("\n" in refusal for refusal in refusals), f"mutation {number}"
    assert read > 0


OUT_OF_RANGE = [
    (("timeline", "series", 0, "utilization_ratio"), [1e308, 1e308]),
    (("devices", 0, "usage", "uncertainty", "quantisation_joules"), 1e308),
    (("factors", "prices", "dedicated", "value"), 1e308),
    (("factors", "prices", "low_priority"), {"value": 0.0, "low": 0.0, "high": 0.0}),
    (("metrics", "eval_loss"), 10**400),
    (("metrics", "eval_loss"), 1e308),
    (("params", "seed"), -(10**400)),
]


@pytest.mark.parametrize(("place", "value"), OUT_OF_RANGE)
def test_a_figure_out_of_all_range_ends_no_command(documents, tmp_path: Path, place, value, capsys) -> None:
    """Explained, drawn and compared with another run, in both directions."""
    known = next(known for known in documents if place in places(known) or place[0] in {"metrics", "params"})
    document = copy.deepcopy(known)
    within = document
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = within[place[-1]] | value if isinstance(value, dict) and place[-1] in within else value
    (tmp_path / "run.json").write_text(json.dumps(document))
    (tmp_path / "other.json").write_text(json.dumps(known | {"run_id": "other", "name": "other"}))
    run, other = str(tmp_path / "run.json"), str(tmp_path / "other.json")
    for words in (
        ["report", run, "--explain"], ["report", run, "--html", str(tmp_path / "page.html")], ["advise", run],
        ["compare", run, other], ["compare", other, run, "--json"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, capsys.readouterr().err


def test_a_series_over_no_time_is_accounted_with_what_fills_its_gaps(documents, tmp_path: Path) -> None:
    document = copy.deepcopy(documents[1])
    document["factors"]["intensity_series"] |= {"covered_seconds": 0.0, "uncovered_seconds": 0.0}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    series = assumptions.reaccount(record_file.read(path)).factors.intensity_series
    assert series.time_mean_grams_per_kwh > 0
