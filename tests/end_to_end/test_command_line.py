"""``greenml run`` around real commands, and a tracker inside one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from greenml import record_file as records


def test_exit_code_and_report(greenml, record):
    done = greenml(
        "run", "--sku", "ND40rs_v2", "--region", "westus2", "--", sys.executable, "-c", "import sys; sys.exit(7)"
    )
    assert done.returncode == 7
    assert "US West 2" in done.stderr
    made = record()
    assert (made.status, made.error) == ("failed", "exit code 7")
    assert made.environment.command[0].startswith("python")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_command_that_dies_by_a_signal(greenml, record, number):
    done = greenml("run", "--quiet", "--", sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert done.returncode == 128 + number
    assert record().error == f"killed by {number.name}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_command(tmp_path, plain_environment, number):
    code = "import signal, sys, time\n"
    code += f"signal.signal({int(number)}, lambda *_: (print('got it', flush=True), sys.exit(5)))\n"
    code += "print('up', flush=True)\nwhile True: time.sleep(0.1)"
    parent = subprocess.Popen(
        [sys.executable, "-m", "greenml", "run", "--quiet", "--", sys.executable, "-c", code],
        cwd=tmp_path,
        env=plain_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(number)
    assert parent.stdout.readline() == "got it\n"
    assert parent.wait(10) == 5
    parent.stdout.close()
    assert records.read(tmp_path / "run.json").error == "exit code 5"


def test_a_tracker_inside_joins_with_its_phases(greenml, record, tmp_path):
    code = "import greenml, time\nwith greenml.track('inner.json', sku='ND40rs_v2') as run:\n"
    code += "    with run.phase('train'): time.sleep(1)\n    run.log(rouge1=54.8)"
    done = greenml("run", "--region", "westus2", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "inner.json").exists()
    made = record()
    assert [one.path for one in made.phases] == ["train"]
    assert made.metrics == {"rouge1": 54.8}
    assert made.attempts[0].processes == 2
    assert [one.kind for one in made.devices].count("cpu") == 1
    assert made.place.region == "westus2"
    assert made.phase("train").usage["cpu-estimate"].energy_joules > 0 or made.devices[0].method == "counter"


def test_a_command_that_is_not_there(greenml):
    done = greenml("run", "--", "no-such-program-here")
    assert done.returncode == 127
    assert "no-such-program-here: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_after_the_command_are_the_commands(greenml, record):
    done = greenml(
        "run", "--quiet", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--sku", "x", "--token", "abc"
    )
    assert "['--sku', 'x', '--token', 'abc']" in done.stdout
    assert record().environment.command[-4:] == ["--sku", "x", "--token", "***"]


def test_the_run_survives_its_parent(tmp_path, plain_environment, greenml):
    """The watching parent is killed: the traces still make a record."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "greenml",
            "run",
            "--",
            sys.executable,
            "-c",
            "import time; print('up', flush=True); time.sleep(4)",
        ],
        cwd=tmp_path,
        env=plain_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout.readline() == "up\n"
    time.sleep(1.5)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    done = greenml("finish")
    assert done.returncode == 0, done.stderr
    made = records.read(tmp_path / "run.json")
    assert made.status == "killed"
    assert made.duration_seconds > 1.0
