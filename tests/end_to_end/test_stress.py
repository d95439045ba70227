"""Runs whose forks, signals, phases, results and ends come in a random order: none hangs, raises or loses its record.

``GREENML_STRESS_RUNS`` says how many runs (60 by default; 1,000 before a release), ``GREENML_STRESS_SEED`` which.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from greenml.record import file as records

RUNS = int(os.environ.get("GREENML_STRESS_RUNS", "60"))
SEED = int(os.environ.get("GREENML_STRESS_SEED", "1"))
RUNS_OF_A_PROCESS = 10

PROGRAM = '''
import logging, os, random, signal, sys, threading, time
import greenml

seed, runs = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
warnings = []
class Keep(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())
logging.getLogger("greenml").addHandler(Keep())
children = []

def child(run):
    """What a worker does with its parent's run: nothing of it may count."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # one that hangs dies by that
    try:
        run.log(child=True)
        with run.phase("child"):
            import json, email.message, importlib.metadata, greenml.run.finish
        run.save(); run.stop()
        if rng.random() < 0.2:
            with greenml.track(f"child-{os.getpid()}.json") as own:
                own.log(own=1)
        if rng.random() < 0.5:
            sys.exit(0)
        os._exit(0)
    except SystemExit:
        raise
    except BaseException as error:
        print("CHILD", repr(error), file=sys.stderr, flush=True)
        os._exit(9)

def fork(run):
    pid = os.fork()
    if pid == 0:
        child(run)
    children.append(pid)

def fork_from_thread(run):
    thread = threading.Thread(target=fork, args=(run,)); thread.start(); thread.join()

def nested(run):
    with run.phase("outer"):
        with run.phase("inner"):
            time.sleep(rng.uniform(0, 0.01))

ACTIONS = [fork, fork_from_thread, nested, lambda run: run.log(loss=rng.random()), lambda run: run.totals(),
           lambda run: run.progress(rng.randrange(9), rng.choice([None, 9])), lambda run: run.save(),
           lambda run: run.note("a note"), lambda run: time.sleep(rng.uniform(0, 0.05)),
           lambda run: run.begin_phase("open")]
HANDLED = [lambda run: run.save(), lambda run: run.stop("interrupted"), lambda run: run.log(handled=1), nested,
           lambda run: run.totals(), lambda run: run.card("card.md"), lambda run: None]

for number in range(runs):
    run = greenml.track(f"run-{seed}-{number}.json", sku="ND40rs_v2", region="westus2")
    handled, signals = rng.choice(HANDLED), iter(range(20))
    def handler(*_):
        if next(signals, None) is None:  # on busy cores a handler lasts longer than the signals' interval
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        handled(run)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.4), rng.choice([0, 0.05]))
    run.start()
    for _ in range(rng.randrange(8)):
        rng.choice(ACTIONS)(run)
    run.stop()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert run.record is not None, (number, warnings)
for pid in children:
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
# A handler that interrupts an import cannot use what is being imported: the call is refused with a note.
print("warnings", [text for text in warnings if "belongs to another" not in text and "had no effect" not in text])
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks and SIGALRM are POSIX's")
@pytest.mark.parametrize("part", range((RUNS + RUNS_OF_A_PROCESS - 1) // RUNS_OF_A_PROCESS))
def test_no_order_of_things_hangs_or_loses_a_record(tmp_path, plain_environment, part):
    seed, runs = SEED * 1000 + part, min(RUNS_OF_A_PROCESS, RUNS - part * RUNS_OF_A_PROCESS)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", str(seed), str(runs)], cwd=tmp_path, env=plain_environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "warnings []\n"), f"seed {seed}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "CHILD" not in done.stderr
    for number in range(runs):
        made = records.read(tmp_path / f"run-{seed}-{number}.json")
        assert made.status in ("completed", "interrupted"), seed
        assert "child" not in made.metrics
        assert not {"child"} & {phase.path for phase in made.phases}
        assert made.attempts[0].processes == 1
    assert {records.read(path).metrics["own"] for path in tmp_path.glob("child-*.json")} <= {1}
