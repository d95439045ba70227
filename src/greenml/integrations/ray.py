"""Ray Train's workers and Ray Tune's trials: one record a training, one a trial, and the sum of a sweep."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.tune

import greenml

log = logging.getLogger("greenml")
COUNTED = ("gpu", "cpu", "dram")  # whose energy makes up a record's
SUMMARY = "sweep.json"


@contextmanager
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
    with _told(RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=context.get_local_rank()), run:
        ran = {"framework": f"ray {ray.__version__}", "world_size": world_size, "node_rank": context.get_node_rank()}
        run.describe(ran=ran)
        yield run


@contextmanager
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
    with _run(output, context.get_trial_dir(), {"resume": True, "name": context.get_trial_name(), **settings}) as run:
        run.describe(ran={"framework": f"ray {ray.__version__}", "resources": str(context.get_trial_resources())})
        yield run


class GreenTuneCallback(ray.tune.Callback):  # type: ignore[misc,unused-ignore]  # of no type where Ray is not
    """Keeps what a sweep took: ``sweep.json`` in the experiment's folder, the sum of its trials' records.

    The trials measure themselves, with ``track_trial()`` and its default output. The sum is written after every trial
    that ends, and at the end of the experiment.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """Sum up so far."""
        self._write(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ANN401
        """Sum up so far: what failed was spent too."""
        self._write(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:  # noqa: ANN401
        """Sum up."""
        self._write(trials)

    def _write(self, trials: list[Any]) -> None:
        try:
            folders = [Path(trial.path) for trial in trials if trial.path]
            if folders:
                text = json.dumps(_sum_up(folders), indent=2) + "\n"
                (folders[0].parent / SUMMARY).write_text(text, encoding="utf-8")
        except Exception as error:  # noqa: BLE001  no fault of ours may end a sweep
            log.warning("greenml: %s was not written: %s: %s", SUMMARY, type(error).__name__, error)


def summarize(experiment: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the sum of the records in an experiment's trial folders, for a sweep that was killed or had no callback.

    What trials side by side share is counted once: the energy of a device that several measured at the same moment,
    and the hour of a node that ran several, are divided among them.

    Returns:
        ``total`` of the sweep; ``trials``, each with its ``share`` of the total and with its own ``record``'s figures;
        ``unmeasured``, the folders without a record. None is not known.
    """
    return _sum_up(sorted(one for one in Path(experiment).iterdir() if one.is_dir()))


def _run(output: str | os.PathLike[str] | None, folder: str | None, settings: dict[str, Any]) -> greenml.Run:
    run = greenml.track(output, **settings)
    if "output" in run.settings.known_from or not folder:
        return run
    Path(folder).mkdir(parents=True, exist_ok=True)
    return greenml.track(Path(folder) / "run.json", **settings)


def _experiment_folder(context: Any) -> str | None:  # noqa: ANN401
    """Return the experiment's folder, if it is on a file system of this machine."""
    try:
        storage = context.get_storage()
        return str(storage.experiment_fs_path) if storage.storage_filesystem.type_name == "local" else None
    except (AttributeError, NotImplementedError):  # Ray's local mode; its interface may change
        return None


@contextmanager
def _told(**told: int) -> Iterator[None]:
    """Tell greenml the rank as torchrun would, where the backend of Ray Train does not (it does for torch)."""
    missing = {} if "RANK" in os.environ else {name: str(value) for name, value in told.items()}
    before = {name: os.environ.get(name) for name in missing}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# The sum of a sweep.


def _sum_up(folders: Sequence[Path]) -> dict[str, Any]:
    records, unmeasured = {}, []
    for folder in folders:
        try:
            records[folder.name] = greenml.open_record(folder / "run.json")
        except greenml.GreenMLError:
            unmeasured.append(folder.name)
    every = list(records.values())
    shares = {one: _scaled(its, _energy_share(its, every), _time_share(its, every)) for one, its in records.items()}
    trials = {
        name: {"status": record.status, "share": shares[name], "record": _scaled(record, 1.0, 1.0)}
        for name, record in records.items()
    }
    total = _total(list(shares.values()))
    return {"greenml_version": greenml.__version__, "total": total, "trials": trials, "unmeasured": unmeasured}


def _scaled(record: greenml.RunRecord, energy_share: float, time_share: float) -> dict[str, Any]:
    """Return a record's figures, as much of them as is its own."""
    figures = record.total()
    if figures is None:
        return {"seconds": record.duration_seconds * time_share}

    def of(value: float | None) -> float | None:
        return None if value is None else value * energy_share

    return {
        "seconds": record.duration_seconds * time_share,
        "it_energy_joules": of(figures.it_energy_joules.value),
        "facility_energy_joules": of(figures.facility_energy_joules.value),
        "emissions_grams": of(figures.emissions_grams.value),
        "cost_usd": {
            tier: cost.value * time_share for tier, cost in figures.cost_usd.items() if cost.value is not None
        },
    }


def _total(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add up; a figure that no trial knows is None."""
    total: dict[str, Any] = {}
    for name in ("seconds", "it_energy_joules", "facility_energy_joules", "emissions_grams"):
        known = [one[name] for one in shares if one.get(name) is not None]
        total[name] = sum(known) if known else None
    costs = [one.get("cost_usd", {}) for one in shares]
    total["cost_usd"] = {tier: sum(one.get(tier, 0.0) for one in costs) for one in costs for tier in one}
    return total


def _energy_share(record: greenml.RunRecord, every: Sequence[greenml.RunRecord]) -> float:
    """Return how much of a record's energy is its own, when each device's is divided among those who measured it."""
    whole = own = 0.0
    series = {one.device: one.power_watts for one in record.timeline.series} if record.timeline else {}
    for device in record.devices:
        joules = device.usage.energy_joules
        if device.kind in COUNTED and joules:
            beside = [one for one in every if _key(device) in map(_key, one.devices)]
            whole += joules
            own += joules * _share(record, beside, series.get(device.id) or [])
    return own / whole if whole else 1.0


def _time_share(record: greenml.RunRecord, every: Sequence[greenml.RunRecord]) -> float:
    """Return how much of a record's time is its own, when each host's is divided among those who ran on it."""
    hosts = [host.name for host in record.hosts]
    beside = [[one for one in every if host in {other.name for other in one.hosts}] for host in hosts]
    return sum(_share(record, ones, []) for ones in beside) / len(hosts) if hosts else 1.0


def _key(device: Any) -> tuple[str, str]:  # noqa: ANN401
    """Name a device across records: one of several hosts has the host before the device's id."""
    return device.host, device.id.removeprefix(f"{device.host}/")


def _share(record: greenml.RunRecord, beside: Sequence[greenml.RunRecord], watts: Sequence[float | None]) -> float:
    """Return the mean over a record's timeline, weighted with power, of one over how many ran at that moment."""
    if record.timeline is None:
        return 1.0
    weights = [watt or 0.0 for watt in watts]
    if not any(weights):
        weights = [1.0] * record.timeline.bins
    step = record.timeline.step_seconds
    moments = [_unix(record, min((at + 0.5) * step, record.duration_seconds)) for at in range(len(weights))]
    ran = [max(1, sum(_ran(one, moment) for one in beside)) for moment in moments]
    return sum(weight / many for weight, many in zip(weights, ran, strict=True)) / sum(weights)


def _unix(record: greenml.RunRecord, seconds: float) -> float:
    """Return when a second of the run's clock was: its attempts lie end to end there."""
    for attempt in record.attempts:
        if seconds <= attempt.seconds:
            return attempt.started.timestamp() + seconds
        seconds -= attempt.seconds
    return record.started.timestamp() + seconds


def _ran(record: greenml.RunRecord, moment: float) -> bool:
    return any(0 <= moment - one.started.timestamp() <= one.seconds for one in record.attempts)
