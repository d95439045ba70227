"""A signal that comes as an import takes or holds a lock: neither that import nor the handler's call fails or hangs.

``GREENML_STRESS_RUNS`` says at how many imports of a run the signal comes (42 by default, over all handlers; 5,000 for
every one), ``GREENML_STRESS_SEED`` which.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RUNS = int(os.environ.get("GREENML_STRESS_RUNS", "42"))
SEED = int(os.environ.get("GREENML_STRESS_SEED", "1"))
HANDLERS = ("own imports", "save", "stop", "totals", "card")
# As an import waits for its module's lock, as it holds that lock's own one, and as it holds the one all imports share
# and another thread, which imports what the handler will, waits for that.
MOMENTS = ("registered", "locked", "found")
CASES = [
    (handler, moment) for handler in HANDLERS for moment in MOMENTS if (handler, moment) != ("own imports", "found")
]

PROGRAM = '''
import _imp
import importlib._bootstrap as bootstrap
import json, logging, os, random, signal, sys, threading, traceback
import greenml

greenml.track  # imported
handler, moment, seed, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
LOCK = bootstrap._ModuleLock.acquire.__code__
FOUND = bootstrap.BuiltinImporter.find_spec.__func__.__code__  # the first that an import asks with the shared lock

class Interrupt:
    """Sends this process a signal as this thread takes or holds a lock of an import: the at-th from now."""
    def __init__(self, at):
        self.at, self.seen, self.sent = at, 0, False
    def calls(self, frame, event, arg):
        if frame.f_code is (FOUND if moment == "found" else LOCK):
            self.seen += 1
            if self.seen == self.at and moment == "found":
                sys.settrace(None)
                self.import_elsewhere([name for name in json.load(open("../0/modules")) if name not in sys.modules])
                self.sent = True
                signal.raise_signal(signal.SIGUSR1)
            return self.lines if self.seen == self.at else None
    def import_elsewhere(self, names):
        """Another thread is in the middle of importing all that this run will import, and waits for the shared lock."""
        locks = [bootstrap._get_module_lock(name) for name in names]
        ready = threading.Event()
        def go():
            held = [lock for lock in locks if lock.owner is None and lock.acquire()]
            ready.set()
            _imp.acquire_lock()
            _imp.release_lock()
            for lock in held:
                lock.release()
        threading.Thread(target=go, daemon=True).start()
        ready.wait(1)  # the sampler's thread may have taken one meanwhile
    def lines(self, frame, event, arg):
        if moment == "registered":
            is_now = bool(bootstrap._blocking_on.get(threading.get_ident()))
        else:
            is_now = repr(frame.f_locals["self"].lock).startswith("<locked")
        if event == "line" and is_now and not self.sent:
            self.sent = True
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)
        return self.lines

def measured(at, interrupt):
    run, fresh = None, iter(range(100))
    def handle(*_):
        if handler == "own imports":
            __import__(f"fresh_{next(fresh)}")
        elif run is not None:
            run.card("card.md") if handler == "card" else getattr(run, handler)()
    signal.signal(signal.SIGUSR1, handle)
    sys.settrace(interrupt.calls)
    run = greenml.track("run.json", sku="ND40rs_v2", region="westus2")
    run.start()
    with run.phase("train"):
        run.log(loss=1.0)
        if handler != "own imports":  # which would be between the program and Python
            import fresh_training
    if at % 2:
        run.totals()
    run.save()
    run.stop()
    sys.settrace(None)
    return run.record

def tried(at, folder, warnings):
    """Return whether the signal was sent; raises where something is wrong."""
    os.mkdir(folder), os.chdir(folder)
    before = set(sys.modules)
    record = measured(at, interrupt := Interrupt(at))
    with open("imports", "w") as file:
        file.write(str(interrupt.seen))
    with open("modules", "w") as file:
        json.dump(sorted(set(sys.modules) - before), file)
    notes = [note.text for note in record.notes if note.code in ("call-failed", "sensor-absent")]
    wrong = [text for text in notes + warnings if "KeyError" in text or "not written" in text]
    assert not wrong, wrong
    assert record.hosts[0].memory_bytes and record.metrics == {"loss": 1.0} or interrupt.sent and handler == "stop"
    return interrupt.sent

def in_a_child(at):
    """Return whether an import was there to be interrupted."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # one that hangs dies by that
        warnings = []
        class Keep(logging.Handler):
            def emit(self, record): warnings.append(record.getMessage())
        logging.getLogger("greenml").addHandler(Keep())
        try:
            os._exit(0 if tried(at, f"{at}", warnings) else 3)
        except BaseException:
            print(f"import {at}:", traceback.format_exc(), flush=True)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, 3 << 8), (at, status)
    return status == 0

os.mkdir("modules")
sys.path.insert(0, os.path.abspath("modules"))
for name in ["training", *range(100)]:
    open(f"modules/fresh_{name}.py", "w").close()
in_a_child(0)  # sends none, and counts
most = int(open("0/imports").read())
sent = [in_a_child(at) for at in random.Random(seed).sample(range(1, most + 1), min(runs, most))]
print(sum(sent) / len(sent) > 0.5)  # what another thread imports first is not there to be interrupted
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks and SIGUSR1 are POSIX's")
@pytest.mark.parametrize(("handler", "moment"), CASES)
def test_a_signal_as_an_import_takes_a_lock_harms_nothing(tmp_path, plain_environment, handler, moment):
    (tmp_path / "program.py").write_text(PROGRAM)
    runs = max(1, RUNS // len(CASES))
    done = subprocess.run(
        [sys.executable, "program.py", handler, moment, str(SEED), str(runs)], cwd=tmp_path, env=plain_environment,
        capture_output=True, text=True, timeout=60 * (10 + runs),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stdout + done.stderr
