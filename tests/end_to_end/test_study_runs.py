"""Studies that run: real cells, failures, budgets, Ctrl-C, SIGKILL, cells side by side, a Ray cluster, batch files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from greenml.analysis.record_search import open_record
from greenml.analysis.study import folder, report
from greenml.analysis.study.tables import rectangle

CELL = """
import os, signal, sys, time
from pathlib import Path
what, here = sys.argv[1], Path(sys.argv[2])
print("running", what)
if what == "oom":
    raise MemoryError
if what == "fail":
    sys.exit(3)
if what == "tracked":
    import greenml
    with greenml.track() as run, run.phase("train"):
        run.log(eval_score=float(sys.argv[3]))
if what == "wait":  # until the test says so; counts the Ctrl-C that it gets
    def count(number, frame):
        with open(here / "signals", "a") as stream:
            stream.write("x")
    signal.signal(signal.SIGINT, count)
    (here / "begun").write_text(str(os.getpid()))
    end = time.monotonic() + 100
    while time.monotonic() < end and not Path("go").exists() and not (here / "signals").exists():
        time.sleep(0.05)
    time.sleep(0.5)  # in which a second Ctrl-C would be counted
    sys.exit(130 if (here / "signals").exists() else 0)
if what == "meet":  # the other cell that runs at the same time
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    Path(f"gpu-{gpus}").write_text("")
    end = time.monotonic() + 100
    while len(list(Path().glob("gpu-*"))) < 2:
        if time.monotonic() > end:
            sys.exit("alone")
        time.sleep(0.05)
if what == "sleep":
    time.sleep(100)
"""
COMMON = """
name: s
command: "{python} cell.py {what} {folder} {seed}"
parameters: {what: ok}
price_per_hour: 3.6
carbon_intensity: 400
pue: 1
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cell.py").write_text(CELL)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GREENML_")]:
        monkeypatch.delenv(name)
    return tmp_path


def write(text: str) -> None:
    Path("study.yaml").write_text(COMMON + text)


def study(*words: str, expect: int = 0) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "greenml", "study", *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "greenml", "study", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def states(name: str = "s") -> dict[str, tuple[str, str]]:
    return {cell.name: (cell.state, cell.reason) for cell in folder.load(Path(name)).cells}


def test_a_study_with_failures_runs_to_its_end(place):
    write(
        "retries: 1\nseeds: [5]\nvariants: {ok: , oom: {parameters: {what: oom}}, fail: {parameters: {what: fail}},"
        " tracked: {parameters: {what: tracked}}}\n"
    )
    said = study("run", "study.yaml")
    assert states() == {
        "ok/seed-5": ("completed", ""),
        "oom/seed-5": ("failed", "out of memory"),
        "fail/seed-5": ("failed", "exit code 3"),
        "tracked/seed-5": ("completed", ""),
    }
    made = folder.load(Path("s"))
    cells = {cell.variant.name: cell for cell in made.cells}
    assert [len(cells[name].attempts) for name in ("ok", "oom", "fail")] == [1, 1, 2]  # memory: a result
    assert cells["tracked"].record.metrics == {"eval_score": 5.0}
    assert [phase.path for phase in cells["tracked"].record.phases] == ["train"]
    assert (cells["fail"].folder / "attempt-1" / "run.json").is_file()
    assert (cells["fail"].folder / "output.log").read_text().startswith("running fail")
    # Every attempt counts, once.
    records = [open_record(path) for path in Path("s").rglob("run.json")]
    assert len(records) == made.spent.attempts == 5
    energy = sum(record.total().facility_energy_joules.value for record in records)
    assert made.spent.facility_energy_joules == pytest.approx(energy)
    assert made.spent.cost_usd["dedicated"] == pytest.approx(sum(record.duration_seconds for record in records) / 1000)
    assert "4 cells in 5 attempts" in said
    assert "fail/seed-5: once more" in said
    # There is nothing more to do, and nothing is done twice.
    assert "started" not in study("run", "s")
    assert folder.load(Path("s")).spent.attempts == 5
    # What was copied from elsewhere is collected: here, all cells of another machine's folder.
    shutil.copytree("s", "elsewhere")
    shutil.rmtree("s/cells/fail")
    (Path("elsewhere/cells/fail/seed-5") / "run.json").unlink()
    said = study("collect", "s", "elsewhere")
    assert "fail/seed-5: collected" in said
    assert "made from its traces" in said
    assert folder.load(Path("s")).spent.attempts == 5


def test_a_cell_that_is_told_to_stop_has_not_completed_also_where_its_command_ends_well(place):
    write(
        "seeds: [1]\nvariants: {a: }\ntimeout_minutes: 0.03\n"
        """command: [sh, -c, 'trap "exit 0" INT TERM; touch {folder}/up; while sleep 0.1; do :; done']\n"""
    )
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace(COMMON.splitlines()[2] + "\n", ""))
    study("run", "study.yaml", expect=1)  # none completed
    assert states() == {"a/seed-1": ("failed", "timeout")}
    # As a scheduler that takes the machine away does.
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace("timeout_minutes: 0.03", ""))
    study("run", "study.yaml", "--slurm", "--output", "t")
    process = start("cell", "t", "1")
    wait_for((place / "t/cells/a/seed-1/up").exists, "the cell has not begun")
    process.terminate()
    process.communicate(timeout=100)
    assert states("t") == {"a/seed-1": ("stopped", "stopped by SIGTERM")}


def test_a_killed_study_goes_on_and_the_killed_attempt_counts(place):
    write("seeds: [1]\nvariants: {a: {parameters: {what: wait}}, b: {}}\n")
    process = start("run", "study.yaml")
    begun = place / "s/cells/a/seed-1/begun"
    wait_for(begun.exists, "the cell has not begun")
    wait_for(lambda: '"t"' in _trace(begun.parent), "nothing was measured")
    command = int(begun.read_text())
    supervisor = _parent(command)
    for pid in (process.pid, supervisor):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: states()["a/seed-1"][0] == "killed", "it was not killed")
    (place / "go").touch()
    study("run", "study.yaml")
    made = folder.load(Path("s"))
    cell = next(cell for cell in made.cells if cell.variant.name == "a")
    assert [attempt.state for attempt in cell.attempts] == ["killed", "completed"]
    assert [cell.state for cell in made.cells] == ["completed", "completed"]
    assert cell.attempts[0].record.duration_seconds > 0  # from its traces
    assert made.spent.seconds == pytest.approx(sum(attempt.record.duration_seconds for attempt in made.attempts))
    assert not _runs(command)  # what the killed attempt left running was ended before the next began


def _trace(cell: Path) -> str:
    return "".join(path.read_text() for path in cell.glob("run.trace/*.jsonl"))


def _parent(pid: int) -> int:
    import psutil

    return psutil.Process(pid).ppid()


def _runs(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_cell_that_outlives_its_study_is_waited_for(place):
    write("seeds: [1]\nvariants: {a: {parameters: {what: wait}}}\n")
    process = start("run", "study.yaml")
    wait_for((place / "s/cells/a/seed-1/begun").exists, "the cell has not begun")
    process.kill()
    process.communicate(timeout=60)
    assert states() == {"a/seed-1": ("running", "")}
    process = start("run", "s")
    assert "a/seed-1: still runs; it is waited for" in process.stdout.readline()
    (place / "go").touch()
    process.communicate(timeout=100)
    assert process.returncode == 0
    assert [attempt.state for attempt in folder.load(Path("s")).attempts] == ["completed"]


def test_ctrl_c_reaches_the_command_once_and_the_study_goes_on_later(place):
    write("seeds: [1]\nvariants: {a: {parameters: {what: wait}}, b: {parameters: {what: wait}}}\n")
    process = start("run", "study.yaml")
    wait_for(lambda: list(place.glob("s/cells/*/seed-1/begun")), "no cell has begun")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert "'greenml study run s' goes on" in said
    assert [path.read_text() for path in place.glob("s/cells/*/seed-1/signals")] == ["x"]
    assert sorted(states().values()) == [("pending", ""), ("stopped", "stopped")]
    (place / "go").touch()
    study("run", "s")
    assert set(states().values()) == {("completed", "")}
    assert folder.load(Path("s")).spent.attempts == 3


def test_a_budget_stops_what_runs_and_leaves_the_rest_out(place):
    write("seeds: [1, 2]\nvariants: {a: {parameters: {what: sleep}}}\nmax_usd: 0.002\n")  # two seconds
    said = study("run", "study.yaml", expect=3)
    assert "The budget left cells out: max_usd 0.002" in said
    (first, reason), (second, why) = (states()[cell.name] for cell in folder.load(Path("s")).cells)
    assert (first, second) == ("stopped", "pending")
    assert reason.startswith("budget: max_usd 0.002")
    assert why.startswith("budget: max_usd 0.002")
    assert 0.002 <= folder.load(Path("s")).spent.cost_usd["dedicated"] < 0.1  # of a hundred seconds
    # A budget that nobody can hold ends the study after its first cell, and says so.
    text = Path("study.yaml").read_text().replace("price_per_hour: 3.6", "sku: ND40rs_v2").replace("sleep", "ok")
    Path("study.yaml").write_text(text)
    said = study("run", "study.yaml", "--output", "n", expect=3)
    assert "max_usd 0.002 cannot be held: the cost of no run is known" in said
    assert sorted(state for state, _ in states("n").values()) == ["completed", "pending"]
    # A probe tells what a cell uses; the plan knows what a budget is good for.
    write("seeds: [1, 2]\nvariants: {a: {}}\n")
    study("plan", "study.yaml", "--output", "p", "--probe")
    write("seeds: [1, 2]\nvariants: {a: {}}\nmax_usd: 0.000001\n")
    assert "It allows 0 of the 1 cells" in study("plan", "study.yaml", "--output", "p")
    assert sorted(states("p").values()) == [("completed", ""), ("pending", "")]


def test_cells_run_side_by_side_each_with_its_gpu(place, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    write("seeds: [1, 2]\ngpus: 1\nvariants: {a: {parameters: {what: meet}}}\n")
    study("run", "study.yaml")
    assert sorted(path.name for path in place.glob("gpu-*")) == ["gpu-4", "gpu-7"]
    made = folder.load(Path("s"))
    assert all(0.5 <= attempt.shared_ratio < 1 for attempt in made.attempts)
    whole = sum(attempt.record.total().cost_usd["dedicated"].value for attempt in made.attempts)
    assert made.spent.cost_usd["dedicated"] < 0.99 * whole  # the machine is billed once
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace("gpus: 1", "gpus: 3").replace("s\n", "t\n", 1))
    assert "variant a needs 3 GPUs; this machine shows 2" in study("run", "study.yaml", "--output", "t", expect=2)


MEASURED = ("seconds", "joules", "grams", "usd", "bytes", "watts", "utilization", "pounds", "ratio")


def tables(name: str) -> dict[str, list[dict[str, object]]]:
    """Return the rows of a study's report, of each figure that is measured whether it is known."""
    made = report.build(folder.load(Path(name)), metric="eval_score", better="higher", target=1.5)
    shown = {table.key: rectangle(table)[1] for table in made.tables}
    shown.pop("pareto")  # follows from what is measured
    return {
        key: [
            {column: value is not None if any(part in column for part in MEASURED) else value
             for column, value in row.items()}
            for row in rows
        ]
        for key, rows in shown.items()
    }  # fmt: skip


@pytest.mark.alone  # Ray gives up on a node that is slow to start
def test_a_ray_cluster_of_two_workers_runs_the_cells(place):
    pytest.importorskip("ray", reason="Ray is not installed")
    write("seeds: [1, 2]\nvariants: {a: {parameters: {what: tracked}}, b: {parameters: {what: fail}}}\n")
    program = """
import subprocess, sys, warnings
warnings.simplefilter("ignore")
from ray.cluster_utils import Cluster
for attempt in range(3):  # Ray gives up on a node that takes more than half a minute to start, as on a busy machine
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        break
    except Exception:
        if attempt == 2:
            raise
words = [sys.executable, "-m", "greenml", "study", "run", "study.yaml", "--ray", "--ray-address", cluster.address]
code = subprocess.run(words).returncode
cluster.shutdown()
sys.exit(code)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    on_ray = states()
    study("run", "study.yaml", "--output", "here")
    assert on_ray == states("here")
    cells = folder.load(Path("s")).cells
    assert {cell.record.metrics["eval_score"] for cell in cells if cell.variant.name == "a"} == {1.0, 2.0}
    assert tables("s") == tables("here")
    assert "no Ray cluster at 127.0.0.1:1" in study(
        "run", "study.yaml", "--output", "none", "--ray-address", "127.0.0.1:1", expect=2
    )


def test_a_slurm_array_has_a_task_for_each_cell(place):
    write("seeds: [1, 2]\ngpus: 2\ntimeout_minutes: 5\nvariants: {a: {}, b: {gpus: 4}}\nmax_usd: 1000\n")
    said = study("run", "study.yaml", "--slurm", "--parallel", "3", "--sbatch=--partition=gpu")
    assert "The budget (1000 USD) keeps tasks from starting; it stops none that runs." in said
    script = (place / "s/slurm.sh").read_text()
    assert "#SBATCH --array=0-3%3\n" in script
    assert "#SBATCH --gpus-per-node=4\n" in script
    assert "#SBATCH --time=15\n" in script
    assert "#SBATCH --partition=gpu\n" in script
    subprocess.run(["bash", "-n", "s/slurm.sh"], check=True)
    if shutil.which("sbatch") and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0:
        subprocess.run(["sbatch", "--test-only", "s/slurm.sh"], check=True)
    for task in ("0", "0", "3"):  # a task that is started twice has nothing more to do
        subprocess.run(
            ["bash", "s/slurm.sh"], env=os.environ | {"SLURM_ARRAY_TASK_ID": task}, check=True, timeout=120,
            capture_output=True,
        )  # fmt: skip
    assert "4 cells: 2 completed, 2 pending" in study("collect", "s")
    assert [cell.state for cell in folder.load(Path("s")).cells] == ["completed", "pending", "pending", "completed"]


def test_azureml_takes_the_pipeline_and_its_cells_are_collected(place):
    write("seeds: [1]\ntimeout_minutes: 5\nvariants: {a: {}, b: {}}\nmax_usd: 1000\n")
    assert "--azureml needs --compute" in study("run", "study.yaml", "--azureml", expect=2)
    words = ("--azureml", "--compute", "azureml:gpus", "--environment", "azureml:greenml:1")
    assert "The budget (1000 USD) does not hold there" in study("run", "study.yaml", *words)
    jobs = yaml.safe_load((place / "s/azureml.yml").read_text())["jobs"]
    assert len(jobs) == 2
    with warnings.catch_warnings():  # those of its own dependencies
        warnings.simplefilter("ignore")
        ml = pytest.importorskip("azure.ai.ml", reason="azure-ai-ml is not installed")
        pipeline = ml.load_job(place / "s/azureml.yml")
        checked = pipeline._validate()
        assert checked.passed, checked.error_messages
        assert Path(pipeline.jobs["cell_0001"].component.code).name in ("..", place.name)
    # A job's command, where Azure would run it: in a copy of the folder, into a folder of its own.
    shutil.copytree(place, place.with_name("snapshot"))
    for name, job in jobs.items():
        words = job["command"].replace("${{outputs.cell}}", str(place / "downloads" / name / "cell"))
        words = words.replace("python ", f"{sys.executable} ", 1)
        subprocess.run(
            ["bash", "-c", words], cwd=place.with_name("snapshot"), check=True, timeout=120, capture_output=True
        )
    said = study("collect", "s", "downloads")
    assert "2 cells: 2 completed" in said
    assert all(cell.usable for cell in folder.load(Path("s")).cells)


def test_study_json_is_what_the_documentation_says(place):
    write("seeds: [1]\nvariants: {a: {}}\n")
    study("run", "study.yaml")
    content = json.loads(Path("s/study.json").read_text())
    assert {"greenml_study", "id", "created", "directory", "profile", "cells", "study"} == content.keys()
    cell = json.loads(Path("s/cells/a/seed-1/cell.json").read_text())
    assert {"greenml_cell", "study", "variant", "seed", "attempts"} == cell.keys()


def test_a_command_that_goes_on_from_its_checkpoint_adds_up_in_one_record(place):
    (place / "cell.py").write_text(
        "import sys; from pathlib import Path; done = Path(sys.argv[2], 'checkpoint')\n"
        "if not done.exists(): done.touch(); sys.exit(1)\n"
    )
    write("seeds: [1]\nvariants: {a: {}}\nresume: true\nretries: 1\n")
    said = study("run", "study.yaml")
    (cell,) = folder.load(Path("s")).cells
    assert [attempt.state for attempt in cell.attempts] == ["failed", "completed"]
    assert [attempt.status for attempt in cell.record.attempts] == ["failed", "completed"]
    assert folder.load(Path("s")).spent.seconds == pytest.approx(cell.record.duration_seconds)
    assert "not known" not in said
