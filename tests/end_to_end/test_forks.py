"""Forks at any moment of a run's life: no child hangs on a lock of greenml's, and none writes into its parent's run."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from greenml.record import file as records

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks are POSIX's")

AT_RANDOM_MOMENTS = '''
import os, random, signal, sys, threading, time
import greenml

FORKS, RUNS = 50, 5
dice = random.Random(int(sys.argv[1]))
children, ended = [], threading.Event()

def child(run, number):
    """What a worker may do: import what its parent was importing, speak to the run, and end in either way."""
    signal.alarm(60)  # one that hangs dies by that
    try:
        import greenml.sensors.nvml, greenml.sensors.estimate, greenml.accounting.status
        if number % 10 == 0:
            import greenml.run.finish  # with pydantic
        run.log(child=True)
        with run.phase("child"):
            run.progress(1, 2)
        run.totals(); run.save(); run.stop()
    except BaseException as error:
        print("CHILD", repr(error), file=sys.stderr, flush=True)
        os._exit(9)
    if number % 2:
        os._exit(0)

def fork(run, number):
    pid = os.fork()
    if pid == 0:
        child(run, number)
        return True
    children.append(pid)
    return False

def forks_beside(run, numbers):
    """Fork from a thread of its own, while the main thread starts, works, saves and stops."""
    for number in numbers:
        time.sleep(dice.uniform(0, 0.08))
        if fork(run, number):
            sys.exit(0)  # ends the thread: the child's last one

def works(stopped):
    while not stopped.is_set():
        sum(range(10_000)); time.sleep(0.001)

stopped = threading.Event()
threads = [threading.Thread(target=works, args=(stopped,), daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
for number in range(RUNS):
    run = greenml.track(f"run-{number}.json", sku="ND40rs_v2", region="westus2")
    each = FORKS // RUNS
    thread = threading.Thread(target=forks_beside, args=(run, range(number * each, (number + 1) * each)))
    thread.start()
    run.start()
    going_on = True
    while going_on:
        going_on = thread.is_alive()
        with run.phase("step"):
            time.sleep(0.005)
        if dice.random() < 0.02:
            run.save()
    run.stop()
    thread.join()
stopped.set()
statuses = [os.waitpid(pid, 0)[1] for pid in children]
print(len(statuses), set(statuses))
'''


def test_fifty_forks_at_random_moments_beside_threads(program, tmp_path, request):
    seed = request.config.option.hypothesis_seed or 0
    done = program(AT_RANDOM_MOMENTS, str(seed))
    assert done.stdout == "50 {0}\n", f"seed {seed}: {done.stderr}"
    assert "Traceback" not in done.stderr
    made = [records.read(path) for path in sorted(tmp_path.glob("run-*.json"))]
    assert len(made) == 5
    for record in made:
        assert (record.status, record.metrics) == ("completed", {})
        assert {phase.path for phase in record.phases} == {"step"}
        assert record.attempts[0].processes == 1


IN_ITS_FIRST_SECOND = """
import os, signal, sys, time
import greenml
run = greenml.track(f"run-{sys.argv[1]}.json", sku="ND40rs_v2", region="westus2").start()
time.sleep(float(sys.argv[2]))
pid = os.fork()
if pid == 0:  # it imports what the parent may be within the import of
    signal.alarm(20)
    import pydantic, requests, psutil
    import greenml.sensors.nvml, greenml.sensors.estimate, greenml.accounting, greenml.run.finish
    os._exit(0)
print(os.waitpid(pid, 0)[1], run.stop().status)
"""


def test_a_fork_in_the_first_moments_of_a_program_leaves_no_child_waiting(program, request):
    """Each in a program of its own, which imports for the first time."""
    seed = request.config.option.hypothesis_seed or 0
    dice = random.Random(int(seed))
    moments = [f"{dice.uniform(0, 0.12):.3f}" for _ in range(24)]
    program(IN_ITS_FIRST_SECOND, "first", "0")  # writes the program, which the others only run
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda number: program(IN_ITS_FIRST_SECOND, str(number), moments[number]), range(24)))
    assert [one.stdout for one in done] == ["0 completed\n"] * 24, f"seed {seed}, {moments}"


WORKERS = """
import multiprocessing, sys
import greenml

def work(number):
    import pydantic, greenml.run.finish
    return number * number

def main():
    run = greenml.track("run.json").start()  # the workers come within its first second
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map_async(work, range(4)).get(60))
    print(run.stop().status)

if __name__ == "__main__":
    main()
"""


def test_pools_of_workers_by_every_start_method(program, record):
    done = program(WORKERS)
    squares = [0, 1, 4, 9]
    assert done.stdout == f"fork {squares}\nspawn {squares}\nforkserver {squares}\ncompleted\n"
    assert record().attempts[0].processes == 1


LOADERS = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
import greenml

class Rows(Dataset):
    def __len__(self): return 8
    def __getitem__(self, at):
        import greenml.run.finish
        return torch.tensor(at)

def main():
    run = greenml.track("run.json").start()
    for method in ("fork", "spawn", "forkserver"):
        with run.phase(method):
            loader = DataLoader(Rows(), batch_size=4, num_workers=1, multiprocessing_context=method, timeout=60)
            print(method, [batch.tolist() for batch in loader])
    print(run.stop().status)

if __name__ == "__main__":
    main()
"""


def test_workers_of_a_data_loader_by_every_start_method(program, record):
    pytest.importorskip("torch", reason="torch is not installed")
    done = program(LOADERS, OMP_NUM_THREADS="1")
    rows = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert done.stdout == f"fork {rows}\nspawn {rows}\nforkserver {rows}\ncompleted\n", done.stderr
    made = record()
    assert [phase.path for phase in made.phases] == ["fork", "spawn", "forkserver"]
    assert made.attempts[0].processes == 1
