"""Which run to look at, and what stands around its figures."""

from __future__ import annotations

import locale
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from greenml import finishing, trace
from greenml.cli._live_view import Frame, printable
from greenml.errors import RecordError
from greenml.following import Following
from greenml.moment import Now
from greenml.record import Factor, Factors, RunRecord
from greenml.reports import _format
from greenml.seats import run_dir_of


def find(path: Path | None) -> Path:
    """Return the run directory of a run.json, of a run directory itself, or of the newest run in a folder.

    A run that is going on goes before one that ended.

    Raises:
        RecordError: there is no trace; says where it was looked for.
    """
    path = path or Path()
    if path.is_dir():
        folders = [path] if trace.paths(path) else [one for one in path.glob("*.trace") if trace.paths(one)]
        if folders:
            return max(folders, key=lambda one: (going_on(one), _began(one)))
        looked = f"no run in {path.resolve()}: no folder *.trace in it"
    else:
        run_dir = run_dir_of(path)
        if trace.paths(run_dir):
            return run_dir
        if path.exists():
            raise RecordError(f"{path}: has no traces in {run_dir}; 'greenml report {path}' shows it")
        looked = f"no run at {path}: no traces in {run_dir}"
    raise RecordError(f"{looked}; name a run's run.json or folder, or wait for it with --wait")


def going_on(run_dir: Path) -> bool:
    """Tell whether a process of a run lives."""
    return any(trace.is_alive(path, str(header.get("host", ""))) for path, header in _headers(run_dir))


def _began(run_dir: Path) -> float:
    return max((float(header.get("unix_seconds", 0.0)) for _, header in _headers(run_dir)), default=0.0)


def _headers(run_dir: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for path in trace.paths(run_dir):
        try:
            found.append((path, trace.read_header(path)))
        except RecordError:
            continue  # of a process that has just made it
    return found


class Watched:
    """A run that is looked at: its figures with the factors that its own record will have.

    Args:
        run_dir: of the run.
        foot: how to leave the view.
    """

    def __init__(self, run_dir: Path, foot: str = "") -> None:
        self._run_dir, self._foot = run_dir, foot
        self._following = Following(run_dir)

    def now(self) -> Now:
        """Return the run at this moment."""
        return self._following.now()

    def frame(self) -> Frame:
        """Return what stands around the figures."""
        run = self._following
        encoding = getattr(sys.stdout, "encoding", None) or locale.getpreferredencoding(False)
        return Frame(
            title=self._run_dir.with_suffix(".json").name,
            at=datetime.now().astimezone(),
            tier=run.settings.tier or str(run.place.get("tier") or ""),
            factors=_factors(run.factors, run.settings.intensity),
            foot=self._foot,
            ascii_only=not encoding.lower().replace("-", "").startswith("utf8"),
        )

    def last_words(self) -> str:
        """Return how the run ended and what it used, as its record has it."""
        output = self._run_dir.with_suffix(".json")
        try:
            record = finishing.make(self._run_dir)
        except RecordError as error:
            return f"{output}: {error}"
        unwritten = record.status == "killed" and not output.exists()
        hint = (
            f"'greenml finish {output}' writes its record" if unwritten else f"'greenml report {output}' tells the rest"
        )
        return printable(f"{output}: {_summary(record)}; {hint}")


def _factors(factors: Factors, provider: str) -> str:
    """Name what energy is multiplied with, in a line; the record may take a provider's hours in place of it."""
    parts = []
    intensity, pue = factors.carbon_intensity, factors.pue
    if intensity is not None:
        hours = f", the year; the record takes the hours of {provider}" if provider else ""
        parts.append(f"{_format.number(intensity.value, 4)} g CO2e/kWh ({_found(intensity)}{hours})")
    if pue is not None:
        parts.append(f"PUE {_format.number(pue.value, 3)} ({_found(pue)})")
    if factors.prices:
        price = next(iter(factors.prices.values()))
        parts.append(f"price of {price.code}" if price.code else "price as given")
    return ", ".join(parts)


def _found(factor: Factor) -> str:
    if factor.scope == "none":
        return "no figure for the place"
    words = factor.code or factor.scope.replace("_", " ")
    return f"{words}, assumed" if factor.assumed else words


def _summary(record: RunRecord) -> str:
    total = record.total()
    how = f"{record.status} ({record.error})" if record.error else record.status
    parts = [f"{how} after {_format.duration(record.duration_seconds)}"]
    if total is not None:
        for quantity, write in ((total.it_energy_joules, _format.energy), (total.emissions_grams, _format.mass)):
            parts.append(_format.figure(quantity, write))
        parts += [f"{_format.figure(usd, _format.money)} {_format.tier(name)}" for name, usd in total.cost_usd.items()]
    return ", ".join(parts)
