"""examples/study/search.py on a local Ray cluster with two scripted GPUs: every joule of the sweeps, once."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import greenml
from greenml.run.assembly import dated_curves
from integrations.shared import Later

from . import simnvml
from .conftest import environment
from .simnvml import Gpu, Square

integration = Later("greenml.integrations.ray", "ray")
ROOT = Path(__file__).resolve().parents[2]
SEARCH = ROOT / "examples" / "study" / "search.py"
STRATEGIES = ("grid", "random", "tpe", "asha", "pbt")
MAX_JOULES = 2_500.0  # of each strategy: some six seconds of what two GPUs and the host draw, with the facility
PEAK_WATTS = (300, 150)  # of the two GPUs
POPULATION = 2  # of population based training: both run at once, and after two epochs the worse goes on from the better
LIMIT_SECONDS = 600
STARTS = 4  # of the cluster, at most

missing = [name for name in ("optuna", "sklearn") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.alone,  # how far trials come within their energy hangs on the processors
]


@pytest.fixture(scope="module")
def searched(libraries, tmp_path_factory):
    """Run all strategies; returns the script of the GPUs and the folder."""
    folder = tmp_path_factory.mktemp("search")
    low_high = zip((100, 50), PEAK_WATTS, (0.7, 1.1), strict=True)
    script = simnvml.Script(gpus=tuple(Gpu(power=Square(*wave)) for wave in low_high))
    variables = environment(script, libraries(), folder) | {"OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    variables["RAY_ADDRESS"] = "local"  # a cluster of its own
    line = [sys.executable, str(SEARCH), "--max_kwh", str(MAX_JOULES / 3.6e6), "--output", str(folder / "run")]
    line += ["--population", str(POPULATION), "--most_epochs", "1000000"]  # its budget ends it
    settings = {"GREENML_PRICE_PER_HOUR": "3.6", "GREENML_CARBON_INTENSITY": "400", "GREENML_INTERVAL": "0.1"}
    for _ in range(STARTS):
        done = subprocess.run(
            line, env=variables | settings, capture_output=True, text=True, timeout=LIMIT_SECONDS, cwd=folder
        )
        if "timed out during startup" not in done.stderr:  # what Ray says of a cluster on a machine that is too busy
            break
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return script, folder / "run"


def spans_of(folder):
    """The trials' records, and when some trial ran, joined where several did, as Unix seconds.

    A trial that was under way when the budget was used up may have been killed: its traces are its record.
    """
    records = [greenml.open_record(path / "run.json") for path in begun(folder)]
    attempts = [attempt for record in records for attempt in record.attempts]
    spans = [(attempt.started.timestamp(), attempt.started.timestamp() + attempt.seconds) for attempt in attempts]
    return records, joined(spans)


def begun(folder):
    """The folders of the trials that began."""
    return [path for path in integration.trial_folders(folder).values() if (path / "run.trace").exists()]


def read_spans(folders, uuid):
    """When some trial read a GPU, which begins some time after a trial began, as Unix seconds."""
    spans = []
    for folder in folders:
        of_devices = dated_curves(folder / "run.trace")
        spans += [curve.span for (_, device), curves in of_devices.items() if device == uuid for curve in curves]
    return joined(spans)


def joined(spans):
    """Spans without those parts that another one has too."""
    result = []
    for start, end in sorted(spans):
        if result and start < result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_trials_add_up_to_what_the_devices_used(searched, strategy):
    script, folder = searched
    records, spans = spans_of(folder / strategy)
    sweep = integration.summarize(folder / strategy)
    assert len(sweep["trials"]) == len(records) > 1
    origin = (script.origin_realtime_ns - script.origin_monotonic_ns) / 1e9  # Unix time of the monotonic clock's zero
    truth = late = 0.0
    for gpu, uuid in enumerate(one.uuid for one in script.gpus):
        read = read_spans(begun(folder / strategy), uuid)
        truth += sum(script.energy_joules(gpu, start - origin, end - origin) for start, end in read)
        # A counter's step is late by anything up to its 20 ms, at both ends of a span; 4 standard deviations.
        late += (PEAK_WATTS[gpu] * 0.02) ** 2 * 2 * len(read) / 12
    shares = [trial["share"]["device_energy_joules"] for trial in sweep["trials"].values()]
    of_gpus = sum(joules for share in shares for device, joules in share.items() if "GPU" in device)
    assert of_gpus == pytest.approx(truth, abs=0.01 * truth + 4 * math.sqrt(late))
    assert sum(sweep["total"]["device_energy_joules"].values()) == pytest.approx(sweep["total"]["it_energy_joules"])
    assert sweep["total"]["seconds"] == pytest.approx(sum(end - start for start, end in spans), rel=1e-3)
    # Side by side, both trials of a moment measured both GPUs: without sharing it would be near twice as much.
    alone = sum(device.usage.energy_joules for record in records for device in record.devices if device.kind == "gpu")
    assert alone > 1.2 * truth


def test_every_strategy_has_had_the_same_budget(searched):
    _, folder = searched
    outcomes = {row["strategy"]: row for row in json.loads((folder / "search.json").read_text())}
    assert tuple(outcomes) == STRATEGIES
    for strategy, row in outcomes.items():
        if strategy != "grid" or row["ended_by"] != "no more trials":  # a grid has only so many points
            assert row["ended_by"].startswith("max_kwh"), row
            assert row["energy_kwh"] >= MAX_JOULES / 3.6e6
        assert 0 < row["best"] <= 1
        assert row["cost_usd"] == pytest.approx(row["seconds"] / 1000, rel=1e-6)
        for trial in row["unmeasured"]:  # made in advance, and never begun
            results = folder / row["strategy"] / trial / "result.json"
            assert not results.exists() or results.read_text() == ""
        assert row["best_over_time"][-1]["best"] == row["best"]
        assert row["failed"] == 0
    assert outcomes["asha"]["stopped_early"] > 0
    text = (folder / "search.md").read_text()
    assert all(f"| {strategy} |" in text for strategy in STRATEGIES)


def test_trials_that_population_based_training_continues_are_attempts_of_their_own_records(searched):
    _, folder = searched
    records, _ = spans_of(folder / "pbt")
    assert len(records) == POPULATION
    for path in begun(folder / "pbt"):
        results = [json.loads(line) for line in (path / "result.json").read_text().splitlines() if line.strip()]
        if any(result["config"] != results[0]["config"] for result in results):  # it went on from the other trial
            assert (folder / "pbt" / "pbt_global.txt").read_text()  # Ray's own log of that
        began = sum(result["iterations_since_restore"] == 1 for result in results)
        attempts = greenml.open_record(path / "run.json").attempts
        assert 1 <= began <= len(attempts)  # on busy processors one may be replaced before it reported anything
        assert len(attempts) == len(list((path / "run.trace").glob("*.jsonl"))), "each is a process of its own"
    for record in records:
        assert record.duration_seconds == pytest.approx(sum(attempt.seconds for attempt in record.attempts), abs=0.01)


def test_a_sweep_that_ran_elsewhere_is_collected(searched, tmp_path):
    """As AzureML leaves its trials: each in outputs of its own; one that was cut off has its traces alone."""
    _, folder = searched
    trials = [path for path in integration.trial_folders(folder / "random").values() if (path / "run.json").exists()][
        :3
    ]
    for number, path in enumerate(trials):
        shutil.copytree(path, tmp_path / "sweep" / f"trial_{number}" / "named-outputs" / "run")
    cut_off = tmp_path / "sweep" / "trial_0" / "named-outputs" / "run"
    (cut_off / "run.json").unlink()
    for trace in (cut_off / "run.trace").glob("*.jsonl"):  # without its last line, that of the end
        trace.write_text("".join(trace.read_text().splitlines(keepends=True)[:-1]))
    line = [
        sys.executable,
        str(SEARCH),
        "--collect",
        f"azure={tmp_path / 'sweep'}",
        "--metric",
        "accuracy",
        "--lower_is_better",
    ]
    done = subprocess.run(
        [*line, "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out" / "search.json").read_text())
    records = [greenml.open_record(path / "run.json") for path in trials]
    assert (row["strategy"], row["trials"], row["stopped_early"]) == ("azure", len(trials), 1)
    assert row["best"] == min(record.metrics["accuracy"] for record in records)  # as one would ask of a loss
    sweep = integration.summarize(tmp_path / "sweep")
    assert sorted(sweep["trials"]) == [f"trial_{number}" for number in range(len(trials))]
    assert row["energy_kwh"] == pytest.approx(sweep["total"]["facility_energy_joules"] / 3.6e6)
