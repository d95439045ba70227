"""Ray Train's workers and Ray Tune's trials: one record a training, one a trial, and the sum of a sweep."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.tune

import greenml
from greenml.factors.prices import tier_name
from greenml.integrations import environment
from greenml.integrations._trainer_run import PATIENCE_SECONDS, Budget
from greenml.run.assembly import DatedCurve, DeviceKey, dated_curves
from greenml.run.finish import finish
from greenml.trace import run_dir_of

log = logging.getLogger("greenml")
COUNTED = ("gpu", "cpu", "dram")  # whose energy makes up a record's
SUMMARY = "sweep.json"
LOOK_SECONDS = 1.0  # a budget adds up no oftener
ENERGIES = ("it_energy_joules", "facility_energy_joules", "emissions_grams")
Span = tuple[float, float]  # Unix seconds


@contextlib.contextmanager
def track_worker(output: str | os.PathLike[str] | None = None, **settings: Any) -> Iterator[greenml.Run]:  # noqa: ANN401
    """Measure a worker of Ray Train, inside ``train_loop_per_worker``.

    Every worker does so: each device is measured once, and world rank 0 speaks for the run. Workers that Ray starts
    again after a failure are another attempt of the same run.

    Args:
        output: where the record goes, the same for every worker; ``run.json`` in the experiment's folder by default.
            On several hosts that folder must be shared.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    context = ray.train.get_context()
    world_size, rank = context.get_world_size(), context.get_world_rank()
    run = _run(output, _experiment_folder(context), {"resume": True, "name": context.get_experiment_name(), **settings})
    ranks = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": context.get_local_rank()}
    with environment(**ranks, RAY_JOB_ID=ray.get_runtime_context().get_job_id()), run:
        ran = {"framework": f"ray {ray.__version__}", "world_size": world_size, "node_rank": context.get_node_rank()}
        run.describe(ran=ran)
        yield run


@contextlib.contextmanager
def track_trial(output: str | os.PathLike[str] | None = None, **settings: Any) -> Iterator[greenml.Run]:  # noqa: ANN401
    """Measure a trial of Ray Tune, inside the function that is tuned: one run a trial.

    A trial that a scheduler stops early is completed; one that Ray starts again is another attempt of its run.

    Args:
        output: where the record goes; ``run.json`` in the trial's folder by default.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """
    context = ray.tune.get_context()
    with _run(output, _trial_folder(context), {"resume": True, "name": context.get_trial_name(), **settings}) as run:
        run.describe(ran={"framework": f"ray {ray.__version__}", "resources": str(context.get_trial_resources())})
        yield run


class GreenTuneCallback(ray.tune.Callback):  # type: ignore[misc,unused-ignore]  # of no type where Ray is not
    """Keeps what a sweep took: ``sweep.json`` in the experiment's folder, the sum of its trials' records.

    The trials measure themselves, with ``track_trial()`` and its default output. The sum is written after every trial
    that ends, and at the end of the experiment.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trials = _Trials()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """Sum up so far."""
        self._write(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """Sum up so far: what failed was spent too."""
        self._write(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:  # noqa: ANN401
        """Sum up, and write the records of trials whose processes Ray ended before they had."""
        self._write(trials)
        for folder in (Path(trial.path) for trial in trials if trial.path):
            self._finish(folder)

    def _finish(self, folder: Path) -> None:
        output = folder / "run.json"
        try:
            trial = None if output.exists() else self._trials.read(folder)
            if trial is not None and trial.record.status != "running":  # else its process writes it yet
                finish(run_dir_of(output), output)
        except Exception as error:  # noqa: BLE001  no fault of ours may end a sweep
            log.warning("greenml: %s was not written: %s: %s", output, type(error).__name__, error)

    def _write(self, trials: list[Any]) -> None:
        try:
            folders = {Path(trial.path).name: Path(trial.path) for trial in trials if trial.path}
            if folders:
                text = json.dumps(_sum_up(folders, self._trials), indent=2) + "\n"
                (next(iter(folders.values())).parent / SUMMARY).write_text(text, encoding="utf-8")
        except Exception as error:  # noqa: BLE001  no fault of ours may end a sweep
            log.warning("greenml: %s was not written: %s: %s", SUMMARY, type(error).__name__, error)


class SweepBudget(ray.tune.Stopper):  # type: ignore[misc,unused-ignore]  # of no type where Ray is not
    """Ends a sweep that has used what it may: every trial counts, those that failed or were stopped early too.

    Args:
        experiment: the experiment's folder, of trials that measure themselves.
        max_kwh: of the machines with their share of the facility, as the records have it.
        max_usd: at the price of ``tier``.
        max_kg: kg CO2e.
        tier: whose price counts.

    What a trial does not know (the price of its machine, say) is not in the sum; the log says so, once a limit.

    Raises:
        SettingsError: no limit is given, one is not above 0, or there is no such tier.
    """

    def __init__(
        self,
        experiment: str | os.PathLike[str],
        *,
        max_kwh: float | None = None,
        max_usd: float | None = None,
        max_kg: float | None = None,
        tier: str = "dedicated",
    ) -> None:
        self._experiment = Path(experiment)
        self._budget = Budget(max_usd, max_kg, max_kwh, tier_name(tier), dry_run=False)
        if not self._budget.given:
            raise greenml.SettingsError("a budget needs max_kwh, max_usd or max_kg")
        self._budget.check_limits()
        self._trials = _Trials()
        self._unknown: set[str] = set()  # limits of which the log says that a trial does not know what it used
        self._looked_seconds = 0.0
        self.reason = ""  # what is used up, once something is

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the sweep is to end."""
        now = time.monotonic()
        if self.reason or now - self._looked_seconds < LOOK_SECONDS or not self._experiment.is_dir():
            return bool(self.reason)
        self._looked_seconds = now
        try:
            sweep = _sum_up(trial_folders(self._experiment), self._trials)
            self._warn_of_unknown(sweep["trials"])
            self.reason = self._budget.exceeded(_running_totals(sweep["total"]))
        except Exception as error:  # noqa: BLE001  no fault of ours may end a sweep
            log.warning("greenml: the budget of %s: %s: %s", self._experiment, type(error).__name__, error)
        return bool(self.reason)

    def _warn_of_unknown(self, trials: Mapping[str, Any]) -> None:
        for name, trial in trials.items():
            if trial["status"] == "running" and trial["record"]["seconds"] < PATIENCE_SECONDS:
                continue  # its sensors are yet to be read
            for limit in set(self._budget.unknown(_running_totals(trial["record"]))) - self._unknown:
                self._unknown.add(limit)
                text = "greenml: budget: %s does not count trial %s: what it used is not known"
                log.warning(text, limit, name)


def summarize(experiment: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the sum of the records in an experiment's trial folders, for a sweep that was killed or had no callback.

    An AzureML sweep is summed likewise, of a folder with what was downloaded of each of its trials.

    What trials side by side share is counted once: the energy of a device that several measured at the same moment,
    and the hour of a node that ran several, are divided among them.

    Returns:
        ``total`` of the sweep, with the names of the figures that some trial does not know (``at_least``); ``trials``,
        each with its ``share`` of the total and with its own ``record``'s figures;
        ``unmeasured``, the folders without a record. None is not known.
    """
    return _sum_up(trial_folders(experiment), _Trials())


def trial_folders(experiment: str | os.PathLike[str]) -> dict[str, Path]:
    """Return where the trials' records are, or would be, by the names of the folders in an experiment's.

    A record may lie deeper in a trial's folder: AzureML's outputs are in ``TRIAL/named-outputs/run``.
    """
    trials = {path.name: path for path in sorted(Path(experiment).iterdir()) if path.is_dir()}
    return {name: _record_folder(folder) for name, folder in trials.items()}


def _record_folder(folder: Path) -> Path:
    record = folder / "run.json"
    if record.exists() or run_dir_of(record).exists():
        return folder
    deeper = (path.parent for name in (record.name, run_dir_of(record).name) for path in sorted(folder.rglob(name)))
    return next(deeper, folder)


def _run(output: str | os.PathLike[str] | None, folder: str | None, settings: dict[str, Any]) -> greenml.Run:
    run = greenml.track(output, **settings)
    if "output" in run.settings.known_from or not folder:
        return run
    Path(folder).mkdir(parents=True, exist_ok=True)
    return greenml.track(Path(folder) / "run.json", **settings)


def _trial_folder(context: Any) -> str | None:  # noqa: ANN401
    """Return the trial's folder in the experiment's; where that is no file system of this machine, Ray's copy of it.

    A worker that Ray uses again for another trial has a copy that Ray does not bring to the experiment's.
    """
    with contextlib.suppress(AttributeError, NotImplementedError):  # Ray's local mode; its interface may change
        storage = context.get_storage()
        if storage.storage_filesystem.type_name == "local":
            return str(storage.trial_fs_path)
    return str(context.get_trial_dir())


def _experiment_folder(context: Any) -> str | None:  # noqa: ANN401
    """Return the experiment's folder, if it is on a file system of this machine."""
    try:
        storage = context.get_storage()
        return str(storage.experiment_fs_path) if storage.storage_filesystem.type_name == "local" else None
    except (AttributeError, NotImplementedError):  # Ray's local mode; its interface may change
        return None


# The sum of a sweep.


@dataclass(frozen=True, slots=True)
class _Trial:
    """A trial's record, and its devices' energy over time as far as its traces are there."""

    record: greenml.RunRecord
    curves: Mapping[DeviceKey, Sequence[DatedCurve]]

    @property
    def spans(self) -> list[Span]:
        """When it ran: its attempts."""
        starts = [(attempt.started.timestamp(), attempt.seconds) for attempt in self.record.attempts]
        return [(start, start + seconds) for start, seconds in starts]

    def joules(self, device: Any, start: float, end: float) -> float:  # noqa: ANN401  a device of a record
        """Return what a device used between two moments of an attempt."""
        curves = self.curves.get(_key(device))
        if curves:
            return sum(curve.between(start, end) for curve in curves)
        own = next((known for known in self.record.devices if _key(known) == _key(device)), None)
        series = next((line for line in self._series if own is not None and line.device == own.id), None)
        if self.record.timeline is None or series is None or not series.power_watts:  # as an imported record
            joules = own.usage.energy_joules if own is not None else None
            return (joules or 0.0) * (end - start) / (sum(end - start for start, end in self.spans) or math.inf)
        step, shift = self.record.timeline.step_seconds, self._run_clock(start) - start
        return sum(
            (watts or 0.0) * max(0.0, min(end + shift, (at + 1) * step) - max(start + shift, at * step))
            for at, watts in enumerate(series.power_watts)
        )

    def read_spans(self, device: Any) -> list[Span]:  # noqa: ANN401
        """Return when a device was read; without traces, all the time."""
        curves = self.curves.get(_key(device))
        return [curve.span for curve in curves] if curves else self.spans

    @property
    def _series(self) -> Sequence[Any]:
        return self.record.timeline.series if self.record.timeline is not None else ()

    def _run_clock(self, unix: float) -> float:
        """Return a moment on the run's clock, on which the attempts lie end to end."""
        begin = 0.0
        for start, end in self.spans:
            if unix <= end:
                return begin + max(0.0, unix - start)
            begin += end - start
        return begin


class _Trials:
    """Reads trials; what has ended is read once."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, _Trial]] = {}

    def read(self, folder: Path) -> _Trial | None:
        """Return a folder's trial; None where there is no record."""
        path = folder / "run.json"
        if not path.exists() and not run_dir_of(path).exists():  # it has not begun
            return None
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if folder in self._known and self._known[folder][0] == changed:
            return self._known[folder][1]
        try:
            record = greenml.open_record(path)
        except greenml.GreenMLError:
            return None
        try:
            curves = dated_curves(run_dir_of(path))
        except greenml.GreenMLError:  # the traces are gone: the record's timeline is coarser
            curves = {}
        trial = _Trial(record, curves)
        if changed and record.status != "running":
            self._known[folder] = changed, trial
        return trial


def _sum_up(folders: Mapping[str, Path], trials: _Trials) -> dict[str, Any]:
    read = {name: trials.read(folder) for name, folder in folders.items()}
    measured = {name: trial for name, trial in read.items() if trial is not None}
    everyone = list(measured.values())
    shares = {}
    for name, trial in measured.items():
        devices = _device_joules(trial, everyone)
        whole_joules = sum(
            device.usage.energy_joules or 0.0 for device in trial.record.devices if device.kind in COUNTED
        )
        energy_share = sum(devices.values()) / whole_joules if whole_joules else 1.0
        figures = _scaled(trial.record, energy_share, _time_share(trial, everyone))
        shares[name] = {**figures, "device_energy_joules": devices}
    both = {
        name: {"status": trial.record.status, "share": shares[name], "record": _scaled(trial.record, 1.0, 1.0)}
        for name, trial in measured.items()
    }
    unmeasured = [name for name, trial in read.items() if trial is None]
    total = _total(list(shares.values()))
    return {"greenml_version": greenml.__version__, "total": total, "trials": both, "unmeasured": unmeasured}


def _scaled(record: greenml.RunRecord, energy_share: float, time_share: float) -> dict[str, Any]:
    """Return a record's figures, as much of them as is its own."""
    figures = record.total()
    if figures is None:
        return {"seconds": record.duration_seconds * time_share, "at_least": []}
    quantities = {name: getattr(figures, name) for name in ENERGIES}
    return {
        "seconds": record.duration_seconds * time_share,
        **{name: None if of.value is None else of.value * energy_share for name, of in quantities.items()},
        "at_least": [name for name, of in quantities.items() if of.at_least],
        "cost_usd": {
            tier: cost.value * time_share for tier, cost in figures.cost_usd.items() if cost.value is not None
        },
    }


def _total(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up; a figure that no trial knows is None, and one that some do not know is at least the sum of the others."""
    total: dict[str, Any] = {}
    unknown: list[str] = []
    for name in ("seconds", *ENERGIES):
        known = [share[name] for share in shares if share.get(name) is not None]
        total[name] = sum(known) if known else None
        unknown += [name] * (len(known) < len(shares) or any(name in share["at_least"] for share in shares))
    costs = [share.get("cost_usd", {}) for share in shares]
    devices = [share["device_energy_joules"] for share in shares]
    total["device_energy_joules"] = {
        key: sum(joules.get(key, 0.0) for joules in devices) for joules in devices for key in joules
    }
    total["cost_usd"] = {tier: sum(cost.get(tier, 0.0) for cost in costs) for cost in costs for tier in cost}
    unknown += [f"cost_usd {tier}" for tier in total["cost_usd"] if any(tier not in cost for cost in costs)]
    return total | {"at_least": unknown}


def _running_totals(figures: Mapping[str, Any]) -> greenml.RunningTotals:
    joules, grams = figures.get("facility_energy_joules"), figures.get("emissions_grams")
    return greenml.RunningTotals(figures["seconds"], joules, None, grams, figures.get("cost_usd", {}))


def _device_joules(trial: _Trial, trials: Sequence[_Trial]) -> dict[str, float]:
    """Return a trial's energy by device: of each moment, an equal part of what the device used among those who ran.

    What it used is the mean of those who read it then: a trial that began a moment ago may not yet.
    """
    joules: dict[str, float] = {}
    for device in trial.record.devices:
        if device.kind in COUNTED and device.usage.energy_joules is not None:
            key = _key(device)
            beside = [other for other in trials if key in map(_key, other.record.devices)]
            joules["/".join(key)] = _equal_part(trial, device, beside)
    return joules


def _equal_part(trial: _Trial, device: Any, beside: Sequence[_Trial]) -> float:  # noqa: ANN401
    spans = [span for other in beside for span in other.spans]
    reads = [(other, span) for other in beside for span in other.read_spans(device)]
    joules = 0.0
    for start, end in trial.spans:
        inner = [edge for span in (*spans, *(span for _, span in reads)) for edge in span if start < edge < end]
        for left, right in itertools.pairwise(sorted({start, end, *inner})):
            middle = (left + right) / 2
            readers = {id(other): other for other, span in reads if span[0] <= middle <= span[1]}
            if readers:
                used = sum(other.joules(device, left, right) for other in readers.values()) / len(readers)
                joules += used / max(1, sum(span[0] <= middle <= span[1] for span in spans))
    return joules


def _time_share(trial: _Trial, trials: Sequence[_Trial]) -> float:
    """Return how much of a trial's time is its own, when each host's is divided among those who ran on it."""
    hosts = [host.name for host in trial.record.hosts]
    beside = [[other for other in trials if host in {node.name for node in other.record.hosts}] for host in hosts]
    return (
        sum(_share(trial, others, lambda start, end: end - start) for others in beside) / len(hosts) if hosts else 1.0
    )


def _key(device: Any) -> DeviceKey:  # noqa: ANN401
    """Name a device across records: one of several hosts has the host before the device's id."""
    return device.host, device.id.removeprefix(f"{device.host}/")


def _share(trial: _Trial, beside: Sequence[_Trial], amount: Callable[[float, float], float]) -> float:
    """Return the share of an amount that is a trial's own: between two moments, one of as many as ran then."""
    spans = [span for other in beside for span in other.spans]
    whole = divided = 0.0
    for start, end in trial.spans:
        over = [span for span in spans if span[0] < end and span[1] > start]
        edges = sorted({start, end, *(edge for span in over for edge in span if start < edge < end)})
        for left, right in itertools.pairwise(edges):
            part = amount(left, right)
            whole += part
            divided += part / max(1, sum(span[0] < right and span[1] > left for span in over))
    return divided / whole if whole > 0 else 1.0
