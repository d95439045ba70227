"""What every test shares: a cache of its own, tiers, a seed for property tests, and quiet for what measures time.

``pytest`` runs everything; ``pytest -m "not slow"`` is the inner loop. Slow tests spend more than half of their time in
waiting for programs, so there are two workers a processor where they run, and one more than processors where they do
not. Tests marked ``alone`` measure time or load: while one of them runs, the other workers wait. On busy processors a
program may be too late for its test: ``.ci/run`` tries what failed once more, one test after the other.

Property tests search for new examples at every commit: the seed is made of the commit's hash and printed at the top;
``--hypothesis-seed`` repeats a run.
"""

from __future__ import annotations

import compileall
import fcntl
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parent.parent
SLOW_FOLDERS = ("end_to_end", "integrations", "simulated")  # they start real programs
# These start many processes at once and keep all processors busy: two workers take them, one after the other each.
HEAVY = {
    "test_summarization.py": 1, "test_study_smoke.py": 1,
    "test_ray.py": 2, "test_notebooks.py": 2, "test_serving_example.py": 2, "test_study_runs.py": 2,
}  # fmt: skip
ALONE = re.compile(r"^@pytest\.mark\.alone\b(?:(?!^def ).*\n)*?def (test_\w+)", re.MULTILINE)
# Every other file is the work of one worker: the longest begin first. Any other order works too.
LONGEST = (
    "test_search_strategies.py", "test_track.py", "test_half_known_gpus.py", "test_trainer.py", "test_watch.py",
    "test_transformers.py", "test_bench_serve.py", "test_lightning.py", "test_slurm.py", "test_sinks_faults.py",
    "test_sinks_trackers.py", "test_sampler.py", "test_many_processes.py", "test_nvml_sensor.py", "test_forks.py",
    "test_stress.py", "test_pages.py", "test_gathering.py", "test_intensity_during_a_run.py", "test_lifecycle.py",
    "test_benchmarks.py", "test_beside.py",
)  # fmt: skip

sys.dont_write_bytecode = False  # of tests: pytest's work on each assert is kept for the next run

hypothesis.settings.register_profile("commit", deadline=None, print_blob=True)
hypothesis.settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "commit"))


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config):
    processors = os.cpu_count() or 1
    return processors + 1 if config.option.markexpr == "not slow" else min(8, 2 * processors)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # once, also where Python writes no bytecode: hundreds of programs import it
        compileall.compile_dir(ROOT / "src", quiet=2)
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = seed_of_the_commit()


class Scheduling(LoadFileScheduling):
    """Each file is the work of one worker; the heavy ones are that of two, and what runs alone that of one."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
        self._alone = {name: ALONE.findall(text) for name, text in files.items() if "pytest.mark.alone" in text}

    def _split_scope(self, nodeid):
        path, test = nodeid.split("[", 1)[0].split("::", 1)
        name = Path(path).name
        if name in HEAVY:
            return f"heavy {HEAVY[name]}"
        marked = self._alone.get(name)  # empty: the file is marked as a whole
        return path if marked is None or (marked and test not in marked) else "alone"


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def seed_of_the_commit():
    """An integer of the commit's hash; 0 outside of a git checkout."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return str(int(done.stdout[:8], 16)) if done.returncode == 0 else "0"


def pytest_report_header(config):
    return f"property tests: --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_ignore_collect(collection_path, config):
    """Leave the slow folders unread where none of their tests would run."""
    if config.option.markexpr == "not slow" and collection_path.name in SLOW_FOLDERS:
        return True
    return None


def pytest_collection_modifyitems(items):
    """Mark the tests that start programs as slow; the long files go first, the tests that run alone go last.

    A test that waits to be alone lets no other begin: beside a file of minutes, it would hold up all workers.
    """
    for item in items:
        if item.path.relative_to(ROOT / "tests").parts[0] in SLOW_FOLDERS:
            item.add_marker("slow")
    items.sort(key=_turn)


def _turn(item):
    name = item.path.name
    return (
        item.get_closest_marker("alone") is not None and name not in HEAVY,
        item.get_closest_marker("slow") is None,
        list(HEAVY).index(name) if name in HEAVY else len(HEAVY),
        LONGEST.index(name) if name in LONGEST else len(LONGEST),
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Let a test run beside those of other workers, or alone, from its set-up to its tear-down.

    Who waits to be alone holds the gate, so that nobody else comes into the room.
    """
    worker = getattr(item.config, "workerinput", None)
    if worker is None:  # one process
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    folder = Path(tempfile.gettempdir())
    gate_path, room_path = (folder / f"greenml-tests-{worker['testrunuid']}.{name}" for name in ("gate", "room"))
    with gate_path.open("w") as gate, room_path.open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    before = os.environ.get("GREENML_CACHE_DIR")
    os.environ["GREENML_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))  # children inherit it
    yield
    if before is None:
        del os.environ["GREENML_CACHE_DIR"]
    else:
        os.environ["GREENML_CACHE_DIR"] = before
