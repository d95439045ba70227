"""Real programs that track themselves, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from greenml import record_file as records


@pytest.fixture
def plain_environment():
    """This process's environment without what would steer greenml or CUDA."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}


@pytest.fixture
def program(tmp_path, plain_environment):
    """Run Python code in a folder of its own; returns the finished process."""

    def run(code, *arguments, check=True, **environment):
        (tmp_path / "program.py").write_text(textwrap.dedent(code))
        done = subprocess.run(
            [sys.executable, "program.py", *arguments],
            cwd=tmp_path,
            env=plain_environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def greenml(tmp_path, plain_environment):
    """Run the command line in a folder of its own."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "greenml", *map(str, arguments)],
            cwd=tmp_path,
            env=plain_environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def record(tmp_path):
    """Read a record of the folder."""
    return lambda name="run.json": records.read(tmp_path / name)
