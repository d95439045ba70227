"""``greenml run`` around real commands, and a tracker inside one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from greenml.record import file as records


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


def test_a_signal_that_is_ignored_stays_ignored(tmp_path, plain_environment):
    """As of ``nohup``: the command outlives the terminal, and so does its measurement."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP), flush=True); input()"
    parent = subprocess.Popen(
        ["nohup", sys.executable, "-m", "greenml", "run", "--quiet", "--", sys.executable, "-c", code],
        cwd=tmp_path,
        env=plain_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout.readline() == "1\n"  # SIG_IGN
    parent.send_signal(signal.SIGHUP)
    parent.communicate("\n", timeout=60)
    assert parent.returncode == 0
    assert records.read(tmp_path / "run.json").status == "completed"


def test_a_tracker_inside_joins_with_its_phases(greenml, record, tmp_path):
    code = "import greenml, time\nwith greenml.track('inner.json', sku='ND40rs_v2') as run:\n"
    code += "    with run.phase('train'): time.sleep(1)\n    run.log(rouge1=54.8)"
    done = greenml("run", "--region", "westus2", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "inner.json").exists()
    made = record()
    assert [phase.path for phase in made.phases] == ["train"]
    assert made.metrics == {"rouge1": 54.8}
    assert made.attempts[0].processes == 2
    assert [device.kind for device in made.devices].count("cpu") == 1
    assert made.place.region == "westus2"
    assert made.phase("train").usage["cpu-estimate"].energy_joules > 0 or made.devices[0].method == "counter"


@pytest.mark.parametrize(
    ("word", "code", "reason"),
    [
        ("no-such-program-here", 127, "No such file or directory"),
        ("./no-such-program-here", 127, "No such file or directory"),
        ("/tmp", 126, "Is a directory"),
        ("./data.txt", 126, "Permission denied"),
        ("./no-interpreter", 126, "Exec format error"),
    ],
)
def test_a_command_that_cannot_be_run_takes_no_name(greenml, tmp_path, word, code, reason):
    (tmp_path / "data.txt").write_text("not a program")
    (tmp_path / "no-interpreter").write_bytes(b"\x7fELF, and nothing else")
    (tmp_path / "no-interpreter").chmod(0o755)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = greenml("run", "--", word, "x.py")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"greenml: {word}: {reason}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert greenml("run", "--quiet", "--", sys.executable, "-c", "pass").returncode == 0
    assert (tmp_path / "run.json").exists()


COUNTS_INTERRUPTS = """
import signal, sys, time
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, handler)
open("up", "w").close()
until = time.monotonic() + 60
while not count and time.monotonic() < until:
    time.sleep(0.02)
time.sleep(1.0)  # a second one would come by now
open("count", "w").write(str(count))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
@pytest.mark.parametrize("standard_input", ["terminal", "pipe", "/dev/null"])
@pytest.mark.parametrize("sender", ["terminal", "kill", "kill, in the foreground of a terminal"])
def test_one_ctrl_c_is_one_interrupt(tmp_path, plain_environment, standard_input, sender):
    """From a terminal the command has it already, whatever its standard input is; another process's is passed on."""
    import pty

    command = [sys.executable, "-m", "greenml", "run", "--quiet", "--", sys.executable, "-c", COUNTS_INTERRUPTS]
    controls = sender != "kill"
    if standard_input == "terminal" and not controls:
        pytest.skip("without a terminal there is none on standard input")
    primary, secondary = pty.openpty()
    # A session of its own; with a terminal, that is its controlling one, as of a login.
    code = "import os, sys, fcntl, termios; os.setsid()\n"
    code += f"if {controls}: fcntl.ioctl({secondary}, termios.TIOCSCTTY, 0)\n"
    code += f"if {standard_input == 'terminal'}: os.dup2({secondary}, 0)\n"
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    given = {"pipe": subprocess.PIPE}.get(standard_input, subprocess.DEVNULL)
    child = subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=tmp_path, env=plain_environment, stdin=given,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[secondary],
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "up").exists() and time.monotonic() < until:
            time.sleep(0.05)
        if sender == "terminal":
            os.write(primary, b"\x03")
        else:
            child.send_signal(signal.SIGINT)
        child.wait(60)
    finally:
        child.kill()
        if child.stdin:
            child.stdin.close()
        os.close(primary)
        os.close(secondary)
    assert (tmp_path / "count").read_text() == "1"
    assert records.read(tmp_path / "run.json").status == "completed"


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
