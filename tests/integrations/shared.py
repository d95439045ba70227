"""What the tests of several frameworks share: a late import, a program in a process of its own, a broken greenml."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap

import pytest


class Later:
    """A module that is imported when a test first uses it.

    Every worker reads every file of tests; only the one that runs a framework's tests then pays for its import.
    Where one of the needed packages is not installed, the whole file is skipped.
    """

    def __init__(self, name, *needs):
        self._name = name
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # pytest asks every name of a file for some of these
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


def run_program(folder, code, *words, ranks=1, seconds=120, **environment):
    """Run Python code in a folder, under torchrun if there are ranks; nothing from outside steers greenml or CUDA."""
    (folder / "program.py").write_text(textwrap.dedent(code))
    launch = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
    return subprocess.run(
        [sys.executable, *launch, "program.py", *words],
        cwd=folder,
        env=plain | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def assert_one_at_a_time(records):
    """Hold that no moment is in two attempts of these records."""
    attempts = sorted(
        (attempt.started.timestamp(), attempt.seconds) for record in records for attempt in record.attempts
    )
    for (start, seconds), (next_start, _) in itertools.pairwise(attempts):
        assert start + seconds <= next_start + 0.001


def break_greenml(monkeypatch, fault):
    """Make sensors, a run's methods or its start raise; the fault ``none`` changes nothing."""

    def broken(*_, **__):
        raise RuntimeError("broken")

    methods = ("begin_phase", "end_phase", "totals", "params", "describe", "count", "log", "save")
    targets = {
        "none": (),
        "sensors": ("greenml.sensors.discover",),
        "run": tuple(f"greenml.run.track.Run.{method}" for method in methods),
        "start": ("greenml.run.track.Run.start",),
    }
    for target in targets[fault]:
        monkeypatch.setattr(target, broken)
