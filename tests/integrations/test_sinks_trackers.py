"""Sinks of experiment trackers with the real trackers: what is there afterwards has the joules of the record."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import greenml
from greenml.accounting.status import RunningTotals, RunStatus
from greenml.reports import _format
from greenml.sinks import RunInfo, tensorboard

from .shared import Later

accumulation = Later("tensorboard.backend.event_processing.event_accumulator")
wandb_internal_pb2 = Later("wandb.proto.wandb_internal_pb2")

SERVER = """
import os, sys
folder = sys.argv[1]
os.environ |= {
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db", "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
}
from mlflow.server import app  # what `mlflow server` serves
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "GREENML_SINKS": ""}
TRAINER = Path(__file__).with_name("toy_trainer.py")
MEASURED = """
import sys, time
import greenml
run = greenml.track("run.json", name="t5", sinks=[sys.argv[1]]).start()
time.sleep(1.4)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A tracking server of MLflow with SQLite below it; returns its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | QUIET,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            child.stdout.close()


@pytest.fixture
def python(tmp_path):
    """Run code in a folder of its own; returns the record that is there afterwards."""

    def run(code: str, *arguments: str, **environment: str) -> greenml.RunRecord:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=tmp_path, capture_output=True, text=True,
            timeout=240, env={**os.environ, **QUIET, "TRACKIO_DIR": str(tmp_path / "trackio"), **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return greenml.open_record(tmp_path / "run.json")

    return run


def joules(record: greenml.RunRecord) -> float:
    assert [note.text for note in record.notes if note.code == "sink"] == []
    return record.total().it_energy_joules.value


SEND_TWICE = """
import sys
from greenml.cli import main
for _ in range(2):
    try:
        main(["send", "run.json", "--sink", sys.argv[1]])
    except SystemExit as ended:
        assert not ended.code
"""


# MLflow


def mlflow_run(server: str, identifier: str) -> dict:
    answer = requests.get(f"{server}/api/2.0/mlflow/runs/get", {"run_id": identifier}, timeout=20)
    run = answer.json()["run"]
    run["metrics"] = {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}
    run["tags"] = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
    return run


def mlflow_rows(server: str, identifier: str, key: str) -> list[tuple[float, int]]:
    found = {"run_id": identifier, "metric_key": key}
    answer = requests.get(f"{server}/api/2.0/mlflow/metrics/get-history", found, timeout=20).json()
    return [(metric["value"], metric["step"]) for metric in answer.get("metrics", [])]


def test_mlflow_has_its_active_run_completed(server, python):
    """Figures are there while it runs. The training ends its run before greenml; the record is sent again, twice."""
    code = """
    import sys, time
    import greenml, mlflow
    client = mlflow.MlflowClient()
    with mlflow.start_run() as active:
        run = greenml.track("run.json", sinks=[sys.argv[1]]).start()
        mlflow.log_metric("loss", 0.5, step=7)
        end = time.monotonic() + 60
        while not client.get_metric_history(active.info.run_id, "green/energy_joules"):
            assert time.monotonic() < end
            time.sleep(0.1)
    assert mlflow.active_run() is None
    run.stop()
    """
    record = python(code, "mlflow", MLFLOW_TRACKING_URI=server)
    identifier = record.trainer["trackers"]["mlflow"]
    run = mlflow_run(server, identifier)
    assert run["metrics"]["green/energy_joules"] == joules(record)
    assert run["metrics"]["green/seconds"] == record.duration_seconds
    assert run["metrics"]["loss"] == 0.5
    assert run["tags"]["greenml.run_id"] == record.run_id
    assert run["tags"]["greenml.energy"].partition(" (")[0] == _format.energy(joules(record))
    assert run["info"]["status"] == "FINISHED"
    rows = mlflow_rows(server, identifier, "green/energy_joules")
    assert max(rows, key=lambda row: row[1])[0] == joules(record)
    python(SEND_TWICE, "mlflow", MLFLOW_TRACKING_URI=server)
    assert mlflow_rows(server, identifier, "green/energy_joules") == rows
    files = requests.get(f"{server}/api/2.0/mlflow/artifacts/list", {"run_id": identifier, "path": "green"}, timeout=20)
    assert [file["path"] for file in files.json()["files"]] == ["green/card.md", "green/page.html", "green/run.json"]
    kept = requests.get(
        f"{server}/get-artifact", {"run_uuid": identifier, "path": "green/run.json"}, timeout=20
    ).json()  # fmt: skip
    assert kept["totals"][0]["it_energy_joules"]["value"] == joules(record)


def test_mlflow_gets_a_run_of_its_own_that_is_found_again(server, python):
    """Without an active run, in the experiment that the environment names; the server was away while it ran."""
    code = MEASURED + "run.stop('failed', 'out of memory')"
    record = python(code, "mlflow:http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    assert [note.text[:12] for note in record.notes if note.code == "sink"] == ["sink mlflow:"]
    python(SEND_TWICE, f"mlflow:{server}", MLFLOW_EXPERIMENT_NAME="sums")
    experiment = requests.get(
        f"{server}/api/2.0/mlflow/experiments/get-by-name", {"experiment_name": "sums"}, timeout=20
    ).json()["experiment"]  # fmt: skip
    runs = requests.post(
        f"{server}/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment["experiment_id"]]}, timeout=20
    ).json()["runs"]  # fmt: skip
    (run,) = (mlflow_run(server, run["info"]["run_id"]) for run in runs)
    assert run["tags"]["greenml.run_id"] == record.run_id
    assert run["info"]["run_name"] == "t5"
    assert run["info"]["status"] == "FAILED"
    joules = record.total().it_energy_joules.value
    assert run["metrics"]["green/energy_joules"] == joules
    rows = mlflow_rows(server, run["info"]["run_id"], "green/energy_joules")
    assert rows == [(joules, int(record.duration_seconds) + 1)]


def test_mlflow_joins_the_run_of_the_environment_as_on_azureml(server, python):
    made = requests.post(f"{server}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}, timeout=20).json()
    identifier = made["run"]["info"]["run_id"]
    record = python(MEASURED + "run.stop()", "mlflow", MLFLOW_TRACKING_URI=server, MLFLOW_RUN_ID=identifier)
    run = mlflow_run(server, identifier)
    assert run["metrics"]["green/energy_joules"] == joules(record)
    assert run["info"]["status"] == "RUNNING"  # its end is not greenml's to tell


# Weights & Biases


def wandb_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read a .wandb file: a log of LevelDB after 7 bytes, in blocks of 32 KiB; wandb has no reader in Python now."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:  # too little of the block is left for a header
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)  # after the checksum
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_rows(folder: Path) -> tuple[list[dict], dict, dict[str, str]]:
    """Return what offline runs hold: rows, the summary, and by what each metric is drawn."""
    rows, summary, steps = [], {}, {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(path):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows += [row] if row else []
            summary |= {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update
            }
            steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    return rows, summary, steps


ACTIVE_WANDB = """
import wandb
active = wandb.init(project="p")
with run.phase("train"):
    for step in range(100, 140):
        active.log({"loss": step / 100}, step=step)
        time.sleep(0.04)
"""


def test_wandb_has_its_active_run_completed_and_its_step_stays(python, tmp_path):
    """Python ends with both going on: greenml ends first, though it began first."""
    record = python(MEASURED + ACTIVE_WANDB, "wandb")
    rows, summary, steps = wandb_rows(tmp_path)
    assert summary["green/energy_joules"] == joules(record)
    assert summary["greenml/run_id"] == record.run_id
    assert steps["green/energy_joules"] == steps["green/gpu_power_watts_*"] == "green/seconds"
    assert [(row["_step"], row["loss"]) for row in rows] == [(step, step / 100) for step in range(100, 140)]
    assert any("green/energy_joules" in row for row in rows)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    # A run that is resumed offline lies in a folder of its own, of the same run.
    python(SEND_TWICE, "wandb")
    _, summary, _ = wandb_rows(tmp_path)
    assert summary["green/energy_joules"] == joules(record)
    # offline-run-20261130_144012-ID, and -1 after it where another began in the same second.
    names = {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")}
    assert names == {record.trainer["trackers"]["wandb"].rpartition("/")[2]}


def test_wandb_has_a_run_completed_that_ended_early(python, tmp_path):
    record = python(MEASURED + ACTIVE_WANDB + "active.finish()\nrun.stop()", "wandb")
    _, summary, _ = wandb_rows(tmp_path)
    assert summary["green/energy_joules"] == joules(record)


def test_wandb_gets_a_run_of_its_own(python, tmp_path):
    record = python(MEASURED + "import wandb\nrun.stop()\nassert wandb.run is None", "wandb:sums")
    _, summary, _ = wandb_rows(tmp_path)
    assert summary["green/energy_joules"] == joules(record)
    assert summary["green/seconds"] == record.duration_seconds
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert folder.name.endswith(f"greenml-{record.run_id}")


# Trackio


def trackio_rows(folder: Path, project: str, table: str = "system_metrics") -> list[dict]:
    (path,) = folder.glob(f"trackio/**/{project}*.db")
    with sqlite3.connect(path) as store:
        rows = store.execute(f"SELECT run_name, metrics FROM {table} ORDER BY id").fetchall()
    store.close()
    return [json.loads(metrics) | {"run": name} for name, metrics in rows]


def test_trackio_has_its_active_run_completed(python, tmp_path):
    code = """
    import trackio
    active = trackio.init("p", name="mine", auto_log_cpu=False)
    with run.phase("train"):
        trackio.log({"loss": 0.5}, step=7)
    run.stop()
    trackio.finish()
    """
    record = python(MEASURED + textwrap.dedent(code), "trackio")
    rows = trackio_rows(tmp_path, "p")
    assert rows[-1]["green/energy_joules"] == joules(record)
    assert {row["run"] for row in rows} == {"mine"}
    python(SEND_TWICE, "trackio")
    assert trackio_rows(tmp_path, "p") == rows


def test_trackio_gets_a_run_of_its_own(python, tmp_path):
    record = python(MEASURED + "run.stop()", "trackio:sums")
    rows = trackio_rows(tmp_path, "sums", "metrics")
    assert {row["run"] for row in rows} == {f"greenml-{record.run_id}"}
    assert rows[-1]["green/energy_joules"] == joules(record)
    python(SEND_TWICE, "trackio:sums")
    assert trackio_rows(tmp_path, "sums", "metrics") == rows


# TensorBoard


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = accumulation.EventAccumulator(str(folder), size_guidance=accumulation.STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    if tag in accumulator.Tags()["tensors"]:
        events = [(event.step, *event.tensor_proto.double_val) for event in accumulator.Tensors(tag)]
        return [(step, value[0]) for step, *value in events if value]
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_tensorboard_is_written_by_the_writer_that_is_open(tmp_path, closed):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "logs"))
    run = greenml.track(tmp_path / "run.json", sinks=["tensorboard"]).start()
    run.offer(writer)
    writer.add_scalar("loss", 0.5, 7)
    if closed:
        writer.close()
    record = run.stop()
    assert scalars(tmp_path / "logs", "loss") == [(7, 0.5)]
    assert scalars(tmp_path / "logs", "green/energy_joules")[-1][1] == pytest.approx(joules(record), rel=1e-6)
    assert len(list((tmp_path / "logs").iterdir())) == 1 + closed
    writer.close()


def test_tensorboard_has_a_file_of_its_own(python, tmp_path):
    record = python(MEASURED + "run.stop()", "tensorboard:logs")
    (path,) = (tmp_path / "logs" / "greenml").iterdir()
    assert path.name.endswith(record.run_id)
    before = path.read_bytes()
    rows = scalars(path.parent, "green/energy_joules")
    assert rows[-1] == (int(record.duration_seconds) + 1, joules(record))
    python(SEND_TWICE, "tensorboard:logs")
    assert path.read_bytes() == before
    path.unlink()
    python(SEND_TWICE, "tensorboard:logs")
    assert scalars(path.parent, "green/energy_joules") == rows[-1:]


def test_tensorboard_without_a_writer_costs_a_note(tmp_path):
    with greenml.track(tmp_path / "run.json", sinks=["tensorboard"]) as run:
        pass
    (text,) = (note.text for note in run.record.notes if note.code == "sink")
    assert "give run.offer(writer), or tensorboard:FOLDER" in text


def test_tensorboard_waits_for_a_writer_that_the_training_opens_late(tmp_path):
    """No note while it may still come; then it has the figures from the first on, and of many every so often."""
    with greenml.track(tmp_path / "run.json") as run:
        pass
    sink = tensorboard.create("")
    sink.patience_seconds = -1.0  # is over
    sink.open(RunInfo(run.record.run_id))
    for second in range(1000):
        totals = RunningTotals(float(second), 100.0 * second, 0.0, 0.0, {})
        sink.update(RunStatus("", "running", None, 1, ("a",), 1, totals))
    sink.look([tensorboard.EventFile(tmp_path / "logs" / "events.out.tfevents.1")])
    sink.close(run.record)
    rows = scalars(tmp_path / "logs", "green/energy_joules")
    assert rows[0] == (0, 0.0)
    assert rows[-2][0] > 900
    assert 50 <= len(rows) <= 102
    assert all(value == 100.0 * second for second, value in rows[:-1])
    assert rows[-1][1] == joules(run.record)


SECRETS = """
run.params({{"hub_token": sys.argv[3], "learning_rate": 0.1}})
run.log(password={password!r})
run.note("api_key=" + {password!r})
run.stop("failed", "denied for token " + sys.argv[3])
"""


def test_no_key_is_in_what_a_sink_keeps(server, python, tmp_path):
    """Keys in the run's name, results, notes, command line and environment, and in a sink's own address."""
    key, password = "hf_" + "aB3dE5fG7h" * 3, "hunter2hunter2"
    code = MEASURED.replace('"t5"', "'t5 ' + sys.argv[3]").replace("[sys.argv[1]]", "sys.argv[1].split()")
    code += SECRETS.format(password=password)
    names = f"trackio wandb tensorboard:logs prometheus:a.prom mlflow:{server} "
    names += f"prometheus:push=http://me:{password}@127.0.0.1:9"
    environment = {"WANDB_DATA_DIR": str(tmp_path), "WANDB_API_KEY": password * 3}
    record = python(code, names, "--api-key", key, **environment)
    python(SEND_TWICE, f"mlflow:{server}")  # on busy processors it has not all at the run's end
    assert "sink prometheus: " in " ".join(note.text for note in record.notes)
    kept = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for part in ("trackio", "wandb", "logs", "a.prom"):
        assert b"energy_joules" in b"".join(data for path, data in kept.items() if path.parts[0] == part), part
    found = requests.post(
        f"{server}/api/2.0/mlflow/runs/search", timeout=20,
        json={"experiment_ids": ["0"], "filter": f"tags.`greenml.run_id` = '{record.run_id}'"},
    )  # fmt: skip
    kept["mlflow"] = found.content
    (run,) = found.json()["runs"]
    for name in ("run.json", "page.html", "card.md"):
        where = {"run_uuid": run["info"]["run_id"], "path": f"green/{name}"}
        kept[name] = requests.get(f"{server}/get-artifact", where, timeout=20).content
    assert [path for path, data in kept.items() if key.encode() in data or password.encode() in data] == []


# Frameworks


def test_a_trainer_and_its_reporters(tmp_path):
    """Reporters open their runs when training begins. Python ends without another word, and greenml before them."""
    logs = str(tmp_path / "logs")
    options = {
        "folder": str(tmp_path), "callback": {"sinks": ["tensorboard", "wandb"]}, "step_seconds": 0.05,
        "arguments": {"report_to": ["tensorboard", "wandb"], "max_steps": 6, "logging_steps": 2},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(TRAINER), json.dumps(options)], cwd=tmp_path, capture_output=True, text=True,
        timeout=240, env={**os.environ, **QUIET, "TENSORBOARD_LOGGING_DIR": logs, "WANDB_PROJECT": "p"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = greenml.open_record(tmp_path / "run.json")
    _, summary, steps = wandb_rows(tmp_path)
    assert summary["green/energy_joules"] == joules(record)
    assert steps["green/energy_joules"] == "green/seconds"
    assert summary["train/global_step"] == 6
    (folder,) = {path.parent for path in Path(logs).rglob("events*")}
    assert scalars(folder, "green/energy_joules")[-1][1] == pytest.approx(joules(record), rel=1e-6)
    assert [step for step, _ in scalars(folder, "train/loss")] == [2, 4, 6]


def test_lightnings_logger(python, tmp_path):
    code = """
    import warnings
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl, torch
    from lightning.pytorch.loggers import TensorBoardLogger
    from greenml.integrations.lightning import GreenCallback
    from torch.utils.data import DataLoader

    class Line(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
        def training_step(self, batch, _):
            loss = self.layer(batch).square().mean()
            self.log("loss", loss)
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    green = GreenCallback("run.json", sinks=["tensorboard"])
    trainer = pl.Trainer(
        max_steps=4, log_every_n_steps=1, accelerator="cpu", devices=1, enable_progress_bar=False, callbacks=[green],
        enable_checkpointing=False, enable_model_summary=False, logger=TensorBoardLogger("logs", version=0),
    )
    trainer.fit(Line(), DataLoader(torch.ones(16, 3), batch_size=4))
    green.stop()
    """
    record = python(code)
    folder = tmp_path / "logs" / "lightning_logs" / "version_0"
    assert scalars(folder, "green/energy_joules")[-1][1] == pytest.approx(joules(record), rel=1e-6)
    assert [step for step, _ in scalars(folder, "loss")] == [0, 1, 2, 3]
