"""However a tracked program ends, its record says so; and greenml leaves nothing behind in the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest


def test_phases_nest_repeat_and_add_up(program, record):
    done = program("""
        import greenml, json, time
        with greenml.track() as run:
            begun = time.monotonic()
            for _ in range(3):
                with run.phase("train"):
                    time.sleep(0.3)
                    with run.phase("eval"):
                        time.sleep(0.1)
            trained = time.monotonic()
            with run.phase("predict"):
                time.sleep(0.2)
            print(json.dumps([trained - begun, time.monotonic() - trained]))
            run.params(lr=3e-5, layers=[1, 2], nested={"a": None})
            run.log({"loss": 0.5}); run.log(loss=0.25, bad=float("nan"))
            run.note("by hand")
    """)
    made = record()
    assert [(phase.path, phase.count) for phase in made.phases] == [("train", 3), ("train/eval", 3), ("predict", 1)]
    train, inner, predict = made.phases
    trained, predicted = json.loads(done.stdout)
    assert 1.2 <= train.seconds <= trained
    assert 0.3 <= inner.seconds <= train.seconds - 0.9
    assert 0.2 <= predict.seconds <= predicted
    assert made.params == {"lr": 3e-5, "layers": [1, 2], "nested": {"a": None}}
    assert made.metrics == {"loss": 0.25, "bad": "nan"}
    assert [note.text for note in made.notes if note.code == "user"] == ["by hand"]
    for device in made.devices:
        if device.usage.energy_joules is not None:
            top = sum(one.usage[device.id].energy_joules for one in (train, predict))
            assert top <= device.usage.energy_joules * (1 + 1e-9)
            assert top >= 0.5 * device.usage.energy_joules
            assert inner.usage[device.id].energy_joules < train.usage[device.id].energy_joules


@pytest.mark.parametrize(
    ("ending", "status", "error", "code"),
    [
        ("raise ValueError('no\\nway')", "failed", "ValueError: no way", 1),
        ("raise KeyboardInterrupt", "interrupted", "KeyboardInterrupt", -signal.SIGINT),
        ("sys.exit(3)", "failed", "SystemExit: 3", 3),
        ("sys.exit(0)", "completed", None, 0),
        ("pass", "completed", None, 0),
    ],
)
@pytest.mark.parametrize(
    "form", ["with greenml.track():\n    {}", "greenml.track().start(); time.sleep(1)\n{}"], ids=["with", "start"]
)
def test_endings(program, record, form, ending, status, error, code):
    if form.startswith("greenml") and ending.startswith("sys.exit(3"):
        pytest.skip("an interpreter that exits does not tell its exit functions why")
    done = program("import greenml, sys, time\n" + form.format(ending), check=False)
    assert done.returncode == code
    made = record()
    assert (made.status, made.error) == (status, error)
    assert made.ended is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_can_be_finished(tmp_path, plain_environment, greenml, record, number):
    code = "import greenml, time\nwith greenml.track(sku='ND40rs_v2', region='westus2') as run:\n"
    code += "    with run.phase('train'):\n        print('up', flush=True); time.sleep(60)"
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=plain_environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "up\n"
    time.sleep(2.4)
    child.send_signal(number)
    assert child.wait(10) == -number  # greenml takes no signal handler
    child.stdout.close()
    assert not (tmp_path / "run.json").exists()
    told = greenml("report", "run.json")
    assert told.returncode == 0
    assert "killed" in told.stdout
    assert "greenml finish" in told.stderr
    assert greenml("finish", "run.json").returncode == 0
    made = record()
    assert made.status == "killed"
    assert 1.0 < made.duration_seconds < time.monotonic() - started  # its last second is lost
    assert made.total("train").cost_usd["dedicated"].value > 0


def test_an_existing_record_is_never_overwritten(program, record, tmp_path):
    code = "import greenml\nwith greenml.track(name='{}'): pass"
    program(code.format("first"))
    before = (tmp_path / "run.json").read_bytes()
    done = program(code.format("second"))
    assert "run.json belongs to another run; this one goes to run-2.json" in done.stderr
    assert (tmp_path / "run.json").read_bytes() == before
    assert record("run-2.json").name == "second"


def test_resume_adds_up(program, record):
    code = "import greenml, time\nwith greenml.track(resume=True, price_per_hour=3600) as run:\n"
    code += "    with run.phase('train'): time.sleep({})\n    run.log(step={})"
    program(code.format(1.0, 1))
    first = record()
    program(code.format(2.0, 2))
    both = record()
    assert both.run_id == first.run_id
    assert [attempt.number for attempt in both.attempts] == [1, 2]
    assert both.duration_seconds == pytest.approx(sum(attempt.seconds for attempt in both.attempts))
    assert 3.0 <= both.phase("train").seconds <= both.duration_seconds
    assert first.phase("train").seconds + 2.0 <= both.phase("train").seconds
    assert both.metrics == {"step": 2}
    assert both.total().cost_usd["dedicated"].value == pytest.approx(both.duration_seconds)
    cpu = next(device for device in both.devices if device.kind == "cpu")
    assert both.phase("train").seconds - 1.0 < cpu.usage.covered_seconds <= both.duration_seconds  # sensors start first


def test_children_neither_write_nor_finish_their_parents_run(program, record):
    """Data loader workers, by fork and by spawn; then the parent's own end."""
    done = program("""
        import multiprocessing, os, sys, time
        import greenml

        def work(number):
            return os.getpid()

        def main():
            run = greenml.track().start()
            pid = os.fork()
            if pid == 0:
                with run.phase("child"):
                    run.log(child=1)
                run.stop()
                sys.exit(0)  # exit functions run
            os.waitpid(pid, 0)
            for method in ("fork", "spawn"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    pool.map(work, range(4))
            time.sleep(0.2)
            with run.phase("parent"):
                pass
            run.stop()
            print(run.record.status)

        if __name__ == "__main__":
            main()
    """)
    assert done.stdout == "completed\n"
    assert [phase.path for phase in record().phases] == ["parent"]
    assert record().metrics == {}
    assert record().attempts[0].processes == 1


def test_an_orphan_does_not_keep_the_claims(tmp_path, plain_environment, program, record):
    """A worker forked by a rank that is killed must not hold the rank's devices."""
    code = textwrap.dedent("""
        import os, sys, time
        import greenml
        run = greenml.track().start()
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        print("up", flush=True)
        time.sleep(30)
    """)
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=plain_environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert first.stdout.readline() == "up\n"
        first.kill()
        first.wait()
        program(
            "import greenml, time\nwith greenml.track(): time.sleep(1)", GREENML_RUN_DIR=str(tmp_path / "run.trace")
        )
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.stdout.close()
    assert {len(list((tmp_path / "run.trace").glob("*.alive")))} <= {0, 1}
    cpu = next(device for device in record().devices if device.kind == "cpu")
    assert cpu.usage.covered_seconds > 0.8


def test_decorator_and_misuse(program, record, tmp_path):
    done = program("""
        import greenml
        @greenml.track("a.json")
        def train(x):
            return x + 1
        print(train(1), train.__name__)
        for wrong in (dict(sku="ND40rs_v3"), dict(region="wetsus2"), dict(tier="cheap"), dict(pue=0.5), dict(nodes=0),
                      dict(interval=-1), dict(output="x.txt"), dict(carbon_intensity=0.3)):
            try:
                greenml.track(**wrong)
            except greenml.SettingsError as error:
                print(wrong, "->", error)
    """)
    first, *rest = done.stdout.splitlines()
    assert first == "2 train"
    assert len(rest) == 8
    assert "did you mean 'ND40rs_v2'" in rest[0]
    assert "westus2" in rest[1]
    assert "low_priority" in rest[2]
    assert record("a.json").status == "completed"
    assert [path.name for path in tmp_path.glob("*.json")] == ["a.json"]


def test_nothing_outlives_the_run(program):
    done = program("""
        import os, signal, threading
        import greenml
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        files = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
        with greenml.track(): pass
        assert threading.active_count() == 1, threading.enumerate()
        assert before == {n: signal.getsignal(n) for n in before}
        if files:
            left = set(os.listdir("/proc/self/fd"))
            assert len(left) <= len(files), (files, left)
        run = greenml.track("again.json").start()
        assert run.stop() is run.stop()
        with run.phase("after the end"): run.log(x=1)
    """)
    assert done.stderr == "greenml: Run.log() had no effect: the run has ended\n"


def test_a_full_disk_costs_the_record_and_nothing_else(program, tmp_path):
    """RLIMIT_FSIZE stands for a disk that is full: every write past it fails."""
    done = program("""
        import resource, signal, time
        import greenml
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        run = greenml.track().start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with run.phase("train"):
            time.sleep(1.2)
        print(run.stop())
    """)
    assert done.stdout == "None\n"
    assert "could not be written" in done.stderr
    assert "greenml finish run.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_user_gives_can_always_be_written(program, record):
    """A file's name in another encoding, numbers of numpy, and parameters that hold themselves."""
    program(
        """
        import greenml, numpy
        with greenml.track(carbon_intensity=100.0) as run:
            params = {"file": "caf\\udce9.txt"}
            params["params"] = params
            run.params(params)
            run.count(tokens=numpy.int64(5), samples=True and 3, nothing="many")
            run.note("caf\\udce9")
        """,
        b"caf\xe9.txt".decode("utf-8", "surrogateescape"),
    )
    made = record()
    assert made.status == "completed"
    assert made.params["file"] == "caf?.txt"
    assert made.trainer["counts"] == {"tokens": 5, "samples": 3}
    assert made.environment.command[1] == "caf?.txt"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")
def test_a_signal_s_handler_may_speak_to_the_run(program, record):
    """As one that is told of a preemption does, in the middle of whatever the training was writing."""
    program(
        """
        import greenml, signal, time
        with greenml.track() as run:
            def told(*_):
                run.note("preempted soon")
                with run.phase("saving"):
                    run.log(saved=True)
            signal.signal(signal.SIGALRM, told)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                with run.phase("step"):
                    run.log(loss=1.0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )
    made = record()
    assert made.status == "completed"
    assert made.metrics == {"loss": 1.0, "saved": True}
    assert {"step", "saving"} <= {phase.path.rpartition("/")[2] for phase in made.phases}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
def test_what_a_signal_s_handler_raises_reaches_the_program(program, record):
    """A time limit that is over, or a preemption, while the program was within a call of the run."""
    done = program("""
        import signal, time
        import greenml
        class Over(Exception): pass
        class Limit:
            def over(self, *_): raise Over
        class Late:  # the signal comes as greenml makes text of it
            def __str__(self): signal.raise_signal(signal.SIGALRM); return "x"
        signal.signal(signal.SIGALRM, Limit().over)
        run = greenml.track().start()
        reached = []
        for call in (lambda: run.log(x=Late()), lambda: run.params([Late()]), lambda: run.begin_phase(Late()),
                     lambda: run.note(Late()), lambda: run.stop(Late())):
            try:
                call()
            except Over:
                reached.append(1)
        class Wrong:
            def __str__(self): raise ValueError
        run.log(wrong=Wrong())
        run.log(kept=1)
        run.stop()
        print(len(reached))
    """)
    assert done.stdout == "5\n"
    assert (record().status, record().metrics["kept"]) == ("completed", 1)
    assert record().metrics["wrong"] == "(Wrong that cannot be printed: ValueError)"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")
@pytest.mark.parametrize(
    "place",
    [
        "psutil virtual_memory",
        "psutil create_time",
        "sensors modules",
        "recorder start",
        "recorder stop",
        "finish finish",
    ],
)
def test_what_a_handler_raises_as_a_run_starts_or_ends_reaches_the_program(program, record, place):
    """Where greenml goes on after a fault of its own, it does not after the program's."""
    done = program(
        """
        import signal, sys, psutil
        import greenml
        class Over(Exception): pass
        def over(*_): raise Over
        signal.signal(signal.SIGALRM, over)
        file, name = "PLACE".split()
        def calls(frame, event, arg):
            if frame.f_code.co_name == name and file in frame.f_code.co_filename:
                sys.settrace(None)
                signal.raise_signal(signal.SIGALRM)
        for output in ("first.json", "second.json"):
            run = greenml.track(output)
            sys.settrace(calls if output == "first.json" else None)
            try:
                run.start()
                run.stop()
            except Over:
                print("over")
        """.replace("PLACE", place)
    )
    assert done.stdout == "over\n"
    assert record("second.json").status == "completed"
    if "start" in place or "stop" in place or "finish" in place:  # the run had begun
        assert record("first.json").status == "completed"  # made at the end of the process


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
def test_a_handler_that_ends_the_run_within_an_import_loses_no_record(program, record):
    """What makes the record is being imported when the signal comes: it is made as soon as that can be."""
    done = program(
        """
        import importlib.abc, os, signal, sys
        import greenml
        first, second = greenml.track("first.json").start(), greenml.track("second.json").start()
        signal.signal(signal.SIGUSR1, lambda *_: (first.stop("interrupted"), second.save()))
        class Signals(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "pydantic":
                    sys.meta_path.remove(self)
                    os.kill(os.getpid(), signal.SIGUSR1)
        sys.meta_path.insert(0, Signals())
        second.save()
        print(second.stop().status, first.record)
        """
    )
    assert done.stderr == ""
    assert done.stdout == "completed None\n"
    assert record("first.json").status == "interrupted"  # made at the end of the process
    assert record("second.json").status == "completed"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size")
def test_a_disk_that_is_full_for_a_while_costs_that_while_alone(program, record):
    """From before the first line of the trace; the limit of a file's size fails as a full disk does."""
    program(
        """
        import greenml, resource, time
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
        run = greenml.track().start()
        time.sleep(1.5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        time.sleep(3)
        run.stop()
        """
    )
    made = record()
    assert made.status == "completed"
    cpu = next(device for device in made.devices if device.kind == "cpu")
    assert cpu.usage.covered_seconds > 1.5


def test_a_signal_that_comes_as_the_command_is_started_reaches_it(program, record):
    done = program(
        """
        import os, signal, subprocess

        class Popen(subprocess.Popen):
            def __init__(self, words, **options):
                if words[0] == "sleep":
                    os.kill(os.getpid(), signal.SIGTERM)  # nobody to hand it on to yet
                super().__init__(words, **options)

        subprocess.Popen = Popen
        from greenml.cli import main
        main(["run", "--", "sleep", "60"])
        """,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert (record().status, record().error) == ("failed", "killed by SIGTERM")


def test_a_child_of_greenml_run_sees_the_totals_that_its_parent_accounts(tmp_path, greenml, record):
    code = (
        "import greenml, time\n"
        "with greenml.track() as run:\n"
        "    time.sleep(2)\n"
        "    while not (told := run.totals().cost_usd):\n"
        "        time.sleep(0.1)\n"
        "    print('told', told, flush=True)\n"
    )
    done = greenml("run", "--price-per-hour", "3600", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    told = next(line for line in done.stdout.splitlines() if line.startswith("told "))
    assert 1.5 < float(told.rpartition(" ")[2].rstrip("}")) <= record().duration_seconds


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_what_a_command_of_greenml_run_leaves_behind_is_not_of_its_run(tmp_path, greenml, program, record):
    """Such as a shell, or a server, that has its environment and outlives it."""
    code = "import os; open('left', 'w').write(os.environ['GREENML_RUN_DIR'])"
    done = greenml("run", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    ended = record()
    later = "import greenml\nwith greenml.track('later.json') as run: run.log(x=1)"
    said = program(later, GREENML_RUN_DIR=(tmp_path / "left").read_text()).stderr
    assert said == "greenml: the run that GREENML_RUN_DIR names has ended; this is another\n"
    assert record("later.json").metrics == {"x": 1}
    assert record() == ended
    greenml("finish", "run.json")
    assert (record().duration_seconds, record().metrics) == (ended.duration_seconds, {})


def test_a_command_whose_greenml_run_was_killed_is_of_its_run(tmp_path, plain_environment, record):
    code = (
        "import os, signal, time, greenml\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "time.sleep(0.3)\n"
        "with greenml.track('own.json') as run: run.log(x=1)\n"
    )
    command = [sys.executable, "-m", "greenml", "run", "--", sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, env=plain_environment, stdout=subprocess.PIPE, text=True) as process:
        process.communicate(timeout=60)  # the command has its output open until it ends
    assert record().metrics == {"x": 1}
    assert not (tmp_path / "own.json").exists()


def test_an_output_that_takes_nothing_is_one_line(tmp_path, plain_environment):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "greenml", "skus", "ND40"], cwd=tmp_path, env=plain_environment, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "greenml: cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("estimate", "--sku", "ND40rs_v2", "--hours", "1e300"), "hours: give at most"),
        (("estimate", "--sku", "ND40rs_v2", "--gpu-hours", "8", "--nodes", "1000000000"), "it must be 1 to 100000"),
        (("estimate", "--sku", "ND40rs_v2", "--hours", "1", "--price-per-hour", "1e300"), "at most 1e+06"),
    ],
)
def test_what_no_run_can_be_is_one_line(greenml, words, says):
    done = greenml(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_heavy_is_imported_before_the_record_is_made(program):
    done = program("""
        import sys, time
        import greenml
        run = greenml.track(sku="ND40rs_v2", region="westus2").start()
        time.sleep(1.5)
        print(sorted({"pydantic", "requests", "rich", "click"} & set(sys.modules)))
        print(run.stop().status)
    """)
    assert done.stdout == "[]\ncompleted\n"


def test_a_record_lands_where_it_was_asked_for_and_no_call_raises(program, record, tmp_path):
    done = program("""
        import datetime, os
        import greenml
        os.mkdir("elsewhere")
        class Unprintable:
            def __str__(self): raise RuntimeError("no")
        tracked = greenml.track("asked.json")
        os.chdir("elsewhere")
        run = tracked.start()
        os.chdir("/")
        run.progress(1, None); run.progress("x", object())
        itself = {}; itself["itself"] = itself
        run.log({Unprintable(): Unprintable(), 3: 1 + 2j, "bytes": b"b"}, loops=itself, day=datetime.date(2026, 1, 2))
        run.params(text="x" * 100_000_000)
        run.log(1, 2, 3); run.card(None); run.end_phase("none"); run.begin_phase("p", "never")
        run.note(Unprintable())
        run.stop()
    """)
    assert "Traceback" not in done.stderr
    made = record("asked.json")
    assert made.status == "completed"
    assert (made.metrics["3"], made.metrics["bytes"], made.metrics["day"]) == ("(1+2j)", "b'b'", "2026-01-02")
    assert len(made.params["text"]) < 10_010
    assert "params: a text of 100,000,000 characters was cut to 10,000" in [note.text for note in made.notes]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_coroutines_and_generators_are_measured_until_they_end(program, record):
    done = program("""
        import asyncio, time
        import greenml
        @greenml.track("coroutine.json")
        async def work(x):
            await asyncio.sleep(0.3)
            return x
        @greenml.track("generator.json")
        def numbers():
            got = yield 1
            time.sleep(0.3)
            yield got
        @greenml.track("failing.json")
        async def failing():
            yield 1
            raise ValueError("no")
        async def main():
            print(await asyncio.gather(work(1), work(2)))
            try:
                async for _ in failing(): pass
            except ValueError: print("raised")
            with greenml.track("phases.json") as run:
                async def task(name):
                    with run.phase(name):
                        await asyncio.sleep(0.05)
                        with run.phase("inner"): await asyncio.sleep(0.05)
                with run.phase("outer"):
                    await asyncio.gather(task("a"), task("b"))
        asyncio.run(main())
        reader = numbers(); next(reader); print(reader.send(5)); reader.close()
    """)
    assert done.stdout == "[1, 2]\nraised\n5\n"
    for name in ("coroutine.json", "coroutine-2.json", "generator.json"):
        made = record(name)
        assert (made.status, made.duration_seconds >= 0.3) == ("completed", True)
    assert (record("failing.json").status, record("failing.json").error) == ("failed", "ValueError: no")
    paths = {phase.path for phase in record("phases.json").phases}
    assert paths == {"outer", "outer/a", "outer/b", "outer/a/inner", "outer/b/inner"}


def test_parameters_and_results_may_have_any_name(program, record):
    """As those that a program has: ``run.params(**vars(arguments))``."""
    done = program("""
        import greenml
        names = {name: 1 for name in ("run", "self", "method", "keywords", "values", "so_far")}
        with greenml.track() as run:
            run.params(**names); run.log(**names); run.describe(**names); run.count(**names)
    """)
    assert done.stderr == ""
    made = record("run.json")
    assert made.params == made.metrics == dict.fromkeys(("run", "self", "method", "keywords", "values", "so_far"), 1)


def test_runs_can_be_copied_and_pickled_and_what_they_decorate_too(program, record, tmp_path):
    """A copy is a run that has not started; joblib and Ray pickle a function of the script with all that it holds."""
    done = program("""
        import copy, pickle
        import cloudpickle
        import greenml
        def double(x): return 2 * x
        work = greenml.track("work.json")(double)
        with greenml.track(name="whole") as run:
            step = run.phase("step")(double)
            print(cloudpickle.loads(cloudpickle.dumps(work))(2), cloudpickle.loads(cloudpickle.dumps(step))(3))
            for copied in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run), copy.copy(run)):
                copied.log(lost=1)
                with copied.phase("lost"): pass
                print(copied.stop())
            run.log(kept=1)
            with pickle.loads(pickle.dumps(run)) as other: other.log(other=1)
        print(pickle.loads(pickle.dumps(run)).record.status)
    """)
    assert done.stdout == "4 6\nNone\nNone\nNone\ncompleted\n"
    assert (record("run.json").metrics, record("run.json").phases) == ({"kept": 1}, [])
    assert (record("run-2.json").metrics, record("run-2.json").name) == ({"other": 1}, "whole")
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["run-2.json", "run.json", "work.json"]


def test_methods_are_measured_in_either_order_of_the_decorators(program, tmp_path):
    done = program("""
        import greenml
        track = greenml.track("a.json")
        class Model:
            @track
            @staticmethod
            def plain(x): return x
            @track
            @classmethod
            def of_class(cls, x): return (cls.__name__, x)
            @staticmethod
            @track
            def plain_within(x): return x
            @track
            def method(self, x): return x
        print(Model.plain(1), Model().plain(2), Model.of_class(3), Model().plain_within(4), Model().method(5))
        for wrong in (lambda: track(property(len)), lambda: track(Model), lambda: track(None),
                      lambda: greenml.track(len)):
            try:
                wrong()
            except greenml.SettingsError as error:
                print(error)
    """)
    first, *rest = done.stdout.splitlines()
    assert first == "1 2 ('Model', 3) 4 5"
    assert len(rest) == 4
    assert all("put the decorator at a function" in text for text in rest[:3])
    assert "@greenml.track()" in rest[3]
    assert len(list(tmp_path.glob("*.json"))) == 5


def test_a_working_folder_that_is_gone_is_no_trouble_where_the_output_is_absolute(program, record, tmp_path):
    program("""
        import os, sys
        import greenml
        os.mkdir("gone"); os.chdir("gone"); os.rmdir(os.getcwd())
        with greenml.track(sys.argv[1]) as run: run.log(x=1)
    """, str(tmp_path / "kept.json"))  # fmt: skip
    assert record("kept.json").metrics == {"x": 1}


def test_a_record_lands_where_it_was_asked_for_though_links_and_folders_on_the_way_changed(program, record):
    done = program("""
        import os
        import greenml
        os.makedirs("runs/1"); os.makedirs("runs/2"); os.mkdir("work"); os.symlink("1", "runs/latest")
        first = greenml.track("runs/latest/run.json").start()
        os.chdir("work")
        second = greenml.track("../run.json").start()
        os.chdir(".."); os.rmdir("work"); os.remove("runs/latest"); os.symlink("2", "runs/latest")
        first.stop(); second.stop()
    """)
    assert done.stderr == ""
    assert record("runs/1/run.json").status == record("run.json").status == "completed"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
def test_a_folder_whose_name_is_not_utf_8_costs_no_figure(program, record):
    program("""
        import os, time
        import greenml
        with greenml.track(os.fsdecode(b"gr\\xf6sse/run.json")) as run: time.sleep(0.3)
        os.rename(run.output, "run.json")
    """)
    made = record()
    assert not [note for note in made.notes if note.code != "sensor-absent"]
    assert made.total().it_energy_joules.value > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a locale has any name")
def test_a_name_that_the_locale_does_not_have_is_refused_in_a_line(program):
    done = program(
        "import greenml; greenml.track(chr(252) + '/run.json').start()", check=False,
        LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith("greenml.errors.SettingsError: output "), done.stderr
    assert "cannot be written" in last


@pytest.mark.parametrize("start", ["run = greenml.track().start()", "run = greenml.track().__enter__()"])
def test_a_start_in_a_file_that_spawned_workers_import_again_is_the_programs_alone(program, record, tmp_path, start):
    """A run that a worker begins itself, in a function, is measured as any other."""
    done = program(f"""
        import multiprocessing
        import greenml
        {start}
        run.params(lr=1)
        def work(number):
            with greenml.track(f"work-{{number}}.json") as own, run.phase("work"): own.log(number=number)
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool: pool.map(work, [3])
            run.stop()
    """)
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["run.json", "work-3.json"]
    assert sorted(path.name for path in tmp_path.glob("*.trace")) == ["run.trace", "work-3.trace"]
    assert (record().status, record().params, record("work-3.json").metrics) == ("completed", {"lr": 1}, {"number": 3})
