"""finish(): a run directory to its run.json, for a run that ended, was killed or is running."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from greenml import files
from greenml.accounting import assumptions, hourly
from greenml.errors import FactorError, RecordError, SettingsError
from greenml.record import file as record_file
from greenml.record.schema import Factors, Note, RunRecord
from greenml.reports import model_card
from greenml.run import assembly, intensity_poller
from greenml.settings import Settings
from greenml.trace import run_dir_of, trace_paths
from greenml.trace.types import Trace

log = logging.getLogger("greenml")
T = TypeVar("T")


def traces(run_dir: Path) -> list[Trace]:
    """Read every trace of a run directory that can be read."""
    return assembly.load(run_dir)[0]


def finish(run_dir: Path, output: Path, cards: Iterable[Path] = ()) -> RunRecord:
    """Make the record of a run directory and write it, and its tables into model cards.

    Args:
        run_dir: of the run.
        output: where run.json goes.
        cards: the model cards that this process was given. Those that other processes of the run were given are
            brought up to date too, so that the last process to end leaves the final figures in all of them.

    Raises:
        RecordError: there is no trace to make it from, or it cannot be written.
    """
    try:
        with files.locked(run_dir / "lock"):
            record, traces = _make(run_dir)
            record_file.write(record, output)
            _write_cards(record, dict.fromkeys([*cards, *_cards_of(traces)]))
            return record
    except OSError as error:
        raise RecordError(f"{run_dir}: cannot be locked: {error.strerror or error}") from None


def make(run_dir: Path) -> RunRecord:
    """Make the record of a run directory, with the factors that its settings ask for; nothing is written.

    Raises:
        RecordError: there is no trace to make it from.
    """
    return _make(run_dir)[0]


def _make(run_dir: Path) -> tuple[RunRecord, list[Trace]]:
    """Return the record and the traces of the last attempt."""
    measured, run_attempts = assembly.assemble(run_dir)
    traces = run_attempts[-1].traces
    place: dict[str, Any] = next((trace.facts["place"] for trace in traces if trace.facts.get("place")), {})
    settings, place = _settings_and_place([trace.header for trace in traces], place)
    record, troubles = _without_trouble(settings, lambda usable: assumptions.account(measured, usable, place))
    total = record.total()
    served = [trace for attempt in run_attempts for trace in attempt.traces if "serving" in trace.facts]
    if total is not None and served:
        record = record.model_copy(update={"serving": assembly.serving_record(served, total.it_energy_joules)})
    notes = [*record.notes, *(Note(code="factor", text=text) for text in troubles), *_lost_work(record, settings)]
    return record.model_copy(update={"notes": notes}), traces


def _lost_work(record: RunRecord, settings: Settings) -> Iterator[Note]:
    """Yield the note of what was done after a checkpoint from which the run went on."""
    lost = record.trainer.get("lost_work")
    if not isinstance(lost, Mapping):
        return
    step, seconds, joules = lost.get("resumed_step"), lost.get("seconds"), lost.get("energy_joules")
    if seconds is None:
        text = f"lost work: not known; no attempt tells when the checkpoint of step {step} was saved"
    else:
        run = record.total()
        price = run.cost_usd.get(settings.tier or "dedicated") if run is not None else None
        share = seconds / record.duration_seconds if record.duration_seconds else 0.0
        money = f", ${price.value * share:.2f}" if price is not None and price.value else ""
        energy = "energy not known" if joules is None else f"{joules:.1f} J"
        since = f"checkpoint of step {step}" if step else "start (no checkpoint was resumed from)"
        text = f"lost work: {seconds:.1f} s, {energy}{money} of earlier attempts, after the {since}, are counted"
    yield Note(code="lost-work", text=text)


def _cards_of(traces: Iterable[Trace]) -> Iterator[Path]:
    """Yield the model cards that the processes of a run were given, those that hold its tables already."""
    for trace in traces:
        for name in trace.facts.get("cards", {}):
            with contextlib.suppress(OSError, RecordError, ValueError):
                if "<!-- greenml" in files.read(Path(name)):  # a marker of ours
                    yield Path(name)


def _without_trouble(settings: Settings, use: Callable[[Settings], T]) -> tuple[T, list[str]]:
    """Use settings without those whose values this version's tables do not have; returns what was wrong with each."""
    troubles: list[str] = []
    while True:
        try:
            return use(settings), troubles
        except SettingsError as error:
            troubles.append(str(error))
            settings = _better(settings, use)


def _better(settings: Settings, use: Callable[[Settings], object]) -> Settings:
    """Return settings without the one that cannot be used; without any, where more than one cannot."""
    for unusable in settings.known_from:
        known_from = {name: origin for name, origin in settings.known_from.items() if name != unusable}
        usable = Settings(**{name: getattr(settings, name) for name in known_from}, known_from=known_from)
        with contextlib.suppress(SettingsError):
            use(usable)
            return usable
    return Settings()


def current_factors(headers: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> tuple[Factors, Settings]:
    """Return the factors that a running run would be accounted with now, and its settings.

    Args:
        headers: of the last attempt's traces, that of the lead process first.
        place: cloud, region, sku and tier, as far as the machine's metadata tells.
    """
    settings, place = _settings_and_place(headers, place)
    return _without_trouble(settings, lambda usable: assumptions.current_factors(usable, place))[0], settings


def _settings_and_place(
    headers: Sequence[Mapping[str, Any]], place: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Return the user's settings of a run, and what its lead machine tells of its place."""
    place = dict(place)
    cloud = headers[0].get("host_facts", {}).get("cloud", "") if headers else ""
    if cloud and not place.get("cloud"):
        place |= {"cloud": cloud, "from": "the machine's DMI data"}
    return _settings([header.get("settings", {}) for header in headers]), place


def _settings(settings_of_processes: Sequence[Mapping[str, Any]]) -> Settings:
    """Merge the settings of several processes: of each, the first process that was given it counts."""
    names = {field.name for field in fields(Settings)} - {"output", "known_from"}
    values: dict[str, Any] = {}
    known_from: dict[str, str] = {}
    for settings in settings_of_processes:
        for name, origin in settings.get("known_from", {}).items():
            if name in names and name not in values:
                values[name], known_from[name] = settings.get(name), origin
    return Settings(**values, known_from=known_from)


def with_intensity(record: RunRecord, path: str | os.PathLike[str], provider: str) -> RunRecord:
    """Ask a provider for the carbon intensity over the hours of a run, and account the run again with it.

    Args:
        record: of the run, as ``open_record`` gave it or accounted again.
        path: where it was opened; the traces beside it hold the energy over time.
        provider: its name, as in ``greenml.factors.intensity_providers.series``.

    Raises:
        FactorError: the provider has no value for these hours.
        SettingsError: there is no such provider.
    """
    from greenml.factors import intensity_providers

    start = record.started.astimezone(timezone.utc)
    end = (record.ended or start + timedelta(seconds=record.duration_seconds)).astimezone(timezone.utc)
    end, basis = max(end, start + timedelta(seconds=1)), assumptions.basis_of(record)
    series = intensity_providers.series(provider, assumptions.place_of(record), start, end, basis)
    folder = next((folder for folder in _trace_folders(Path(path)) if trace_paths(folder)), None)
    measured = assembly.assemble(folder, series)[0] if folder is not None else None
    if measured is not None and measured.run_id == record.run_id:
        hours = measured.factors.intensity_series
    else:
        hours = hourly.from_record(record, series)
    if hours is None:
        raise FactorError(f"{intensity_providers.label(provider)}: none of its hours is one of this run's")
    factors = record.factors.model_copy(update={"intensity_series": hours})
    notes = [note for note in record.notes if note.code != intensity_poller.NOTE_CODE]
    return assumptions.reaccount(record.model_copy(update={"factors": factors, "notes": notes}))


def _trace_folders(path: Path) -> list[Path]:
    return [run_dir_of(path / "run.json"), path] if path.is_dir() else [run_dir_of(path)]


def _write_cards(record: RunRecord, paths: Iterable[Path]) -> None:
    """Put a record's tables into model cards; every byte outside of their markers stays. A failure is logged."""
    for path in paths:
        try:
            card = files.read(path) if path.exists() else ""
            if (updated := model_card.insert(card, record)) != card:
                files.write(path, updated)
        except (OSError, RecordError, SettingsError) as error:  # the first: it cannot even be looked for
            log.warning("greenml: the model card was not written: %s: %s", path, str(error).removeprefix(f"{path}: "))
