"""``greenml watch`` and ``greenml run --live`` in a real pseudo-terminal, at a program that really runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from greenml.record import file as records

from .simnvml import GIB, Gpu, Square
from .terminal import Terminal

GREENML = [sys.executable, "-m", "greenml"]
TRAINING = """
import sys, time
import greenml
seconds = float(sys.argv[2])
with greenml.track(sys.argv[1], name="toy", sku="ND40rs_v2", region="westus2", tier="dedicated") as run:
    with run.phase("train"):
        began, steps = time.monotonic(), 1000
        while (done := (time.monotonic() - began) / seconds) < 1:
            run.progress(int(done * steps), steps)
            time.sleep(0.01)
        run.progress(steps, steps)
    with run.phase("eval"), run.phase("generate"):
        time.sleep(2)
"""
STEADY = [Gpu(power=200.0 + 10 * at, utilization=0.5, memory_used=(8 + at) * GIB) for at in range(8)]
WAVES = [Gpu(power=Square(60, 280, 3.0), utilization=Square(0, 1, 3.0), memory_used=8 * GIB) for _ in range(8)]
UNITS = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}


@pytest.fixture
def plain_environment():
    steering = ("CUDA_", "GREENML_", "NO_COLOR", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


@pytest.fixture
def terminal(tmp_path, plain_environment):
    """Run a command on a terminal of its own."""
    opened = []

    def begin(*command, columns=100, lines=30, **environment):
        opened.append(Terminal(command, tmp_path, plain_environment | environment, columns, lines))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


def joules(text, name="Energy"):
    """The energy that a line of the view tells first."""
    value, unit = re.search(rf"{name} +([\d.]+) (J|Wh|kWh)\b", text).groups()
    return float(value) * UNITS[unit]


def seconds(text):
    """The billed time that the view's first line tells."""
    found = re.search(r"running +(?:(\d+)m )?(\d+)s", text)
    return 60 * int(found[1] or 0) + int(found[2])


def watts(text, gpu):
    """The power that a GPU's bar tells, of 300 W; None where it tells none."""
    found = re.search(rf"GPU {gpu} .* (\d+)/300 W", text)
    return int(found[1]) if found else None


def about(told, true):
    """Whether a power is right to what a counter says of it in a second: it moves each 20 ms, or 2 % of that."""
    return told is not None and abs(told - true) <= 0.021 * true + 0.5


def test_the_view_follows_a_run_to_its_end(start, terminal, tmp_path):
    shown = terminal(*GREENML, "watch", "--wait", str(tmp_path / "host-0"))
    shown.until(lambda text: "waiting for a run" in text)
    program = start(STEADY, 16.0, code=TRAINING)
    text = shown.until(
        lambda text: all(about(watts(text, at), 200 + 10 * at) for at in range(8)) and "Phase     train" in text
    )
    assert "toy" in text.splitlines()[0]
    assert re.search(r"GPU 3 .*/300 W .* 50 % .* 11\.8/34\.4 GB", text)
    assert "8 X Tesla V100-SXM2-32GB" in text
    assert "$22.03/h" in text  # ND40rs_v2 in westus2
    assert re.search(r"CPU +.* W", text)
    early = joules(text)
    awaited = re.compile(r"Energy .* kW +([\d.]+) Wh")
    text = shown.until(lambda text: "to go" in text and "at the end, expected" in text and awaited.search(text))
    later, expected = joules(text), 3600 * float(awaited.search(text)[1])
    assert later > early
    rate = float(re.search(r"([\d.]+) kW", text)[1])
    of_gpus = sum(watts(text, at) for at in range(8))
    modelled = sum(map(float, re.findall(r"(?:CPU|DRAM) .* ([\d.]+)/[\d.]+ W", text)))  # more on busy processors
    assert of_gpus == pytest.approx(1880, rel=0.021)  # 200 + 210 + ... + 270 W
    assert rate == pytest.approx((of_gpus + modelled) / 1000, abs=0.01)  # each is rounded
    step = int(re.search(r"Step .* ([\d,]+) of 1,000", text)[1].replace(",", ""))
    assert 0 < step < 1000
    text = shown.until(lambda text: "eval" in text and "generate" in text)
    assert "eval" in text.split("Phase")[1].splitlines()[0].split("\u203a")[0]  # the inner one after the outer
    last = (joules(text), seconds(text))
    assert shown.ended() == 0
    program.said_nothing()
    total = program.record.total().it_energy_joules.value
    assert re.search(r"run\.json:\s*completed\s*after", shown.text.replace("\n", "")), shown.text  # a long path wraps
    missed = program.record.duration_seconds - last[1]
    assert total - 1900 * (missed + 1) <= last[0] <= total + 1900
    trained = program.record.total("train").it_energy_joules.value
    assert expected == pytest.approx(trained, rel=0.15)
    assert shown.clean()


def test_the_bars_move_with_the_power(start, terminal, tmp_path):
    start(WAVES, 60.0, code=TRAINING)
    shown = terminal(*GREENML, "watch", "--wait", "host-0")
    shown.until(lambda text: "GPU 0" in text and "/300 W" in text)
    lengths = set()
    shown.until(
        lambda text: lengths.add(text.split("GPU 0")[1][:24].count("\u2501")) or max(lengths) - min(lengths) > 5
    )


def test_a_resized_terminal_is_filled_again(start, terminal, tmp_path):
    start(STEADY, 60.0, code=TRAINING)
    shown = terminal(*GREENML, "watch", "--wait", "host-0/run.json")
    shown.until(lambda text: "GPU 7" in text and "/300 W" in text and "so far" in text)
    shown.resize(60, 14)
    text = shown.until(lambda text: "8 GPUs" in text and re.search(r"\b(19[6-9]|20[0-4])-(26[4-9]|27[0-6]) W", text))
    assert "so far" in text
    assert max(map(len, text.splitlines())) <= 60
    shown.resize(120, 40)
    text = shown.until(lambda text: "GPU 7" in text and "8 GPUs" not in text)
    assert text.count("GPU 7") == 1
    assert "g CO2e/kWh" in text


@pytest.mark.parametrize(
    ("leave", "code"),
    [
        pytest.param("q", 0, id="q"),
        pytest.param("\x03", 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, id="SIGHUP"),
    ],
)
def test_the_terminal_is_left_as_it_was(start, terminal, tmp_path, leave, code):
    program = start([], 60.0, code=TRAINING)
    shown = terminal(*GREENML, "watch", "--wait", "host-0", columns=80, lines=24)
    shown.until(lambda text: "so far" in text)
    assert not shown.clean()  # it has the screen for itself, and keys are not shown
    if isinstance(leave, str):
        shown.type(leave)
    else:
        shown.process.send_signal(leave)
    assert shown.ended() == code
    assert shown.clean()
    assert program.process.poll() is None  # the run goes on


def test_a_closed_terminal_ends_it(start, tmp_path, terminal):
    program = start([], 60.0, code=TRAINING)
    shown = terminal(*GREENML, "watch", "--wait", "host-0")
    shown.until(lambda text: "so far" in text)
    os.close(shown.master)
    assert shown.process.wait(60) == 129
    assert program.process.poll() is None
    shown.master = os.open(os.devnull, os.O_RDONLY)  # for close()


def test_a_killed_run_is_said_to_be_killed(start, terminal, tmp_path):
    program = start(STEADY[:1], 60.0, code=TRAINING)
    shown = terminal(*GREENML, "watch", "--wait", "host-0")
    shown.until(lambda text: about(watts(text, 0), 200))
    program.process.kill()
    program.process.wait()
    shown.until(lambda text: re.search(r"toy +killed", text))
    assert shown.ended() == 0
    assert "run.json: killed after" in shown.text
    assert "'greenml finish" in shown.text.replace("\n", "")
    assert shown.clean()


def test_no_color(start, terminal, tmp_path):
    start(STEADY[:1], 60.0, code=TRAINING)
    plain = terminal(*GREENML, "watch", "--wait", "host-0", NO_COLOR="1")
    colored = terminal(*GREENML, "watch", "--wait", "host-0")
    for shown in (plain, colored):
        shown.until(lambda text: about(watts(text, 0), 200))
    color = re.compile(rb"\x1b\[[\d;]*3[1-7]m")
    assert color.search(colored.raw)
    assert not color.search(plain.raw)


def test_outside_a_terminal_it_prints_lines(start, tmp_path, plain_environment):
    program = start(STEADY, 8.0, code=TRAINING)
    done = subprocess.run(
        [*GREENML, "watch", "--wait", "--every", "0.5", "host-0"],
        cwd=tmp_path, env=plain_environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    program.said_nothing()
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    *going_on, last = done.stdout.splitlines()
    assert len(going_on) > 5
    assert all(" toy: running, " in line for line in going_on)
    known = [float(found[1]) * UNITS[found[2]] for found in re.finditer(r", ([\d.]+) (J|Wh) at ", done.stdout)]
    assert known == sorted(known)
    assert known[-1] > 3600
    total = program.record.total()
    assert last.startswith("host-0/run.json: completed after")
    # "At least" where busy cores let a GPU's first reading come late.
    shown = re.search(r"([\d.]+) Wh, (?:at least )?[\d.]+ g CO2e, \$([\d.]+) dedicated", last)
    assert shown, last
    assert float(shown[1]) * 3600 == pytest.approx(total.it_energy_joules.value, rel=1e-3)
    assert float(shown[2]) == pytest.approx(total.cost_usd["dedicated"].value, abs=0.01)
    again = subprocess.run(
        [*GREENML, "watch", "host-0/run.json"], cwd=tmp_path, env=plain_environment, capture_output=True, text=True
    )
    assert again.stdout.splitlines() == [last]  # of a run that ended, the last words alone


def test_the_newest_run_that_goes_on_is_shown(start, tmp_path, plain_environment):
    program = start([], 60.0, code=TRAINING)
    watch = [*GREENML, "watch", "--every", "60"]
    with subprocess.Popen(
        [*watch, "--wait", "host-0"], cwd=tmp_path, env=plain_environment, stdout=subprocess.PIPE, text=True
    ) as first:
        assert "toy: running" in first.stdout.readline()
        ended = tmp_path / "host-0" / "later.json"
        code = f"import greenml\nwith greenml.track({str(ended)!r}, name='later'): pass"
        subprocess.run([sys.executable, "-c", code], env=plain_environment, check=True)
        with subprocess.Popen(
            watch, cwd=tmp_path / "host-0", env=plain_environment, stdout=subprocess.PIPE, text=True
        ) as second:
            assert "toy: running" in second.stdout.readline()  # not the later one, which ended
            second.terminate()
        first.terminate()
    program.process.kill()


def test_where_there_is_no_run_that_is_said(tmp_path, plain_environment):
    (tmp_path / "b.trace").mkdir()
    for arguments, says in (
        ([], f"no run in {tmp_path}"),
        (["a.json"], "no run at a.json: no traces in a.trace"),
        (["b.trace"], f"no run in {tmp_path / 'b.trace'}"),
        (["c.json"], "c.json: has no traces in c.trace; 'greenml report c.json' shows it"),
        (["d.json"], "d.trace/1.jsonl: not a trace (no header)"),
    ):
        if arguments == ["c.json"]:
            (tmp_path / "c.json").write_text("{}")
            (tmp_path / "d.trace").mkdir()
            (tmp_path / "d.trace" / "1.jsonl").write_text("no trace\n")
        done = subprocess.run(
            [*GREENML, "watch", *arguments], cwd=tmp_path, env=plain_environment, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert says in done.stderr
        assert ("--wait" in done.stderr) == ("no run" in says)
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with job control")
@pytest.mark.parametrize("how", ["watch", "run --live"])
def test_ctrl_z_and_back(start, terminal, tmp_path, how):
    start(STEADY[:1], 90.0, code=TRAINING)
    shell = terminal("bash", "--norc", "--noprofile", "--noediting", "-i", columns=90, lines=30, PS1="$ ")
    shell.until(lambda text: "$" in text)
    arguments = "watch --wait host-0" if how == "watch" else "run --live --quiet -- sleep 80"
    shell.type(f"{' '.join(GREENML)} {arguments}\n")
    shell.until(lambda text: "so far" in text)
    assert not shell.clean()
    shell.type("\x1a")
    shell.until(lambda text: "Stopped" in text and shell.clean())
    shell.type("fg\n")
    shell.until(lambda _: not shell.clean())
    shell.type("\x03")
    shell.until(lambda _: shell.clean())
    shell.type("echo the code is $?\n")
    shell.until(lambda text: "the code is 130" in text)


NOISY = """
import os, sys, time
print("tty", sys.stdout.isatty(), sys.stderr.isatty(), "lines", os.get_terminal_size(1).lines, flush=True)
for at in range(60):
    print(f"\\x1b[32mline {at} \\u00e9\\x1b[0m", flush=True)
    for part in range(3):
        sys.stderr.write(f"\\r{at}: {part} of 3"); sys.stderr.flush(); time.sleep(0.03)
    sys.stderr.write("\\n")
    while at == 40 and not os.path.exists("seen"): time.sleep(0.05)
sys.stdout.write("the last words")
sys.exit(7)
"""


def test_run_live_keeps_the_commands_output_and_code(terminal, tmp_path):
    command = [*GREENML, "run", "--live", "--region", "SWE", "--", sys.executable, "-c", NOISY]
    shown = terminal(*command, lines=30, PYTHONUNBUFFERED="1")
    text = shown.until(lambda text: "so far" in text and "40: 2 of 3" in text)
    for _ in range(20):  # a terminal that is slow to take what is written, and signals that cut writes short
        shown.process.send_signal(signal.SIGWINCH)
        time.sleep(0.05)
    (tmp_path / "seen").touch()
    lines = text.splitlines()
    view = next(at for at, line in enumerate(lines) if line.startswith("\u2500" * 100))
    assert any(line.startswith("line ") for line in lines[:view])
    assert not any(line.startswith("line ") for line in lines[view:])  # nothing of it below
    assert "run.json" in lines[view + 1]
    assert shown.ended() == 7
    whole = shown.text
    said = re.search(r"tty (\w+) (\w+) lines (\d+)", whole)
    assert said[1] == said[2] == "True"
    for at in range(60):
        assert whole.count(f"line {at} \u00e9\n") == 1
        assert whole.count(f"\n{at}: 2 of 3\n") == 1
    assert "the last words" in whole
    assert "\u2500" * 100 not in "\n".join(shown.look())  # the view is gone
    assert "Totals" in whole
    assert shown.clean()


def test_run_live_hands_ctrl_c_to_the_command(terminal, tmp_path):
    code = """
import sys, time
try:
    print("up", flush=True); time.sleep(60)
except KeyboardInterrupt:
    print("stopped by hand", flush=True); time.sleep(1); sys.exit(5)
"""
    shown = terminal(*GREENML, "run", "--live", "--quiet", "--", sys.executable, "-c", code, columns=80, lines=24)
    shown.until(lambda text: "up" in text and "so far" in text)
    shown.resize(100, 40)
    shown.until(lambda text: re.search("\u2500" * 100, text) and text.count("so far") == 1)
    shown.type("\x03")
    assert shown.ended() == 5
    assert "stopped by hand" in shown.text
    assert shown.clean()


def test_run_live_goes_on_where_its_terminal_is_closed(terminal, tmp_path):
    code = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: None)
print("listens", flush=True)
while not os.path.exists("closed"): time.sleep(0.05)
for _ in range(3000): print("x" * 100, flush=True)
"""
    shown = terminal(*GREENML, "run", "--live", "--", sys.executable, "-c", code)
    shown.until(lambda text: "so far" in text and "listens" in text)
    os.close(shown.master)
    (tmp_path / "closed").touch()
    shown.process.wait(60)
    shown.master = os.open(os.devnull, os.O_RDONLY)  # for close()
    assert records.read(tmp_path / "run.json").status == "completed"


def test_run_live_outside_a_terminal(tmp_path, plain_environment):
    code = "import sys, time; print(sys.stdout.isatty()); time.sleep(4); sys.exit(3)"
    done = subprocess.run(
        [*GREENML, "run", "--live", "--quiet", "--", sys.executable, "-c", code],
        cwd=tmp_path, env=plain_environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stdout == "False\n"
    assert re.search(r"run\.json: running, \d+s, .* J at ", done.stderr)
    assert "\x1b" not in done.stderr
