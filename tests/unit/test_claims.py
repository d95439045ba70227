"""DeviceClaims: one holder among all processes of a host, and none when it is dead."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from greenml import files
from greenml.files import ProcessLock, is_locked
from greenml.run.recorder import DeviceClaims

TAKE = """
import os, signal, sys
from pathlib import Path
from greenml.run.recorder import DeviceClaims
claims = DeviceClaims(sys.argv[1], Path(sys.argv[2]))
print(claims.take("GPU-1"), flush=True)
sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="flock")


class Child:
    """A process that takes a claim and holds it until it is told to go, or killed."""

    def __init__(self, run_id: str, folder: Path, code: str = TAKE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, run_id, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("go\n", timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


def test_one_of_four_processes_has_it(tmp_path: Path):
    children = [Child("run", tmp_path) for _ in range(4)]
    answers = [child.says() for child in children]
    for child in children:
        child.end()
    assert sorted(answers) == ["False", "False", "False", "True"]


def test_a_killed_holder_holds_nothing(tmp_path: Path):
    child = Child("run", tmp_path)
    assert child.says() == "True"
    mine = DeviceClaims("run", tmp_path)
    assert not mine.take("GPU-1")
    child.kill()
    assert mine.take("GPU-1")
    assert mine.take("GPU-1"), "asked again, it is still mine"
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_neither_holds_nor_releases(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from greenml.run.recorder import DeviceClaims
claims = DeviceClaims(sys.argv[1], Path(sys.argv[2]))
assert claims.take("GPU-1")
told, tell = os.pipe()
if os.fork() == 0:
    claims.forget()
    os.write(tell, b"x")
    sys.stdin.readline()  # outlives its parent
    os._exit(0)
os.read(told, 1)
print("forked", flush=True)
os.read(told, 1)
"""
    child = Child("run", tmp_path, code)
    assert child.says() == "forked"
    mine = DeviceClaims("run", tmp_path)
    assert not mine.take("GPU-1"), "the child's forget() left the parent's lock alone"
    child.process.kill()
    child.process.wait(timeout=30)
    assert mine.take("GPU-1"), "the forked child, which lives, does not hold it"
    child.end()
    mine.release()


def test_runs_and_devices_do_not_collide(tmp_path: Path):
    one, other = DeviceClaims("run", tmp_path), DeviceClaims("another", tmp_path)
    assert one.take("GPU-1")
    assert other.take("GPU-1")
    assert other.take("GPU-2")
    assert len(list(tmp_path.iterdir())) == 3
    one.release()
    assert len(list(tmp_path.iterdir())) == 2
    assert not DeviceClaims("another", tmp_path).take("GPU-2")
    assert one.take("GPU-1")
    one.release()
    other.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_still_lets_a_process_measure(tmp_path: Path):
    (tmp_path / "file").write_text("")
    claims = DeviceClaims("run", tmp_path / "file" / "claims")
    assert claims.take("GPU-1")
    assert claims.take("GPU-1")
    claims.release()


def test_no_link_is_followed(tmp_path: Path):
    (tmp_path / "target").write_text("precious")
    lock = ProcessLock(tmp_path / "lock")
    lock.path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="lock"):
        lock.acquire()
    assert (tmp_path / "target").read_text() == "precious"


def test_one_thread_at_a_time_is_inside(tmp_path: Path):
    path = tmp_path / "lock"
    inside, most, rounds = [0], [0], 40

    def work() -> None:
        for _ in range(rounds):
            with files.locked(path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most[0] == 1


def test_a_thread_enters_its_own_lock_again(tmp_path: Path):
    """As the handler of a signal does; the inner block's end does not open the lock to others."""
    path = tmp_path / "lock"
    with files.locked(path, timeout_seconds=1):
        with files.locked(path, timeout_seconds=1):
            pass
        code = "import sys; from pathlib import Path; from greenml import files\n"
        code += "try:\n    with files.locked(Path(sys.argv[1]), timeout_seconds=0.1): print('inside')\n"
        code += "except TimeoutError: print('outside')"
        child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert child.stdout == "outside\n"


def test_a_lock_that_another_process_keeps_ends_in_an_error(tmp_path: Path):
    code = """
import sys
from pathlib import Path
from greenml import files
with files.locked(Path(sys.argv[2]) / "lock"):
    print("held", flush=True)
    sys.stdin.readline()
"""
    child = Child("run", tmp_path, code)
    assert child.says() == "held"
    with pytest.raises(TimeoutError, match="another process has held"), files.locked(tmp_path / "lock", 0.2):
        pass
    child.kill()
    with files.locked(tmp_path / "lock", timeout_seconds=10):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path, umask: int):
    old = tmp_path / "old"
    old.write_text("x")
    old.chmod(0o604)
    before = os.umask(umask)
    try:
        files.replace(tmp_path / "new", b"n")
        files.replace(old, b"o")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask
    assert (old.read_bytes(), stat.S_IMODE(old.stat().st_mode)) == (b"o", 0o604)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_what_fails_within_a_replacement_changes_nothing(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with files.replacing(path) as descriptor:
            files.append(descriptor, b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_asking_whether_it_is_locked_looks_like_no_lock_to_another_who_asks(tmp_path: Path):
    """Ranks look at the same dead trace at once; none may take another's look for life."""
    path = tmp_path / "dead.alive"
    path.write_text("")
    code = """
import sys
from pathlib import Path
from greenml.files import is_locked
path = Path(sys.argv[2]) / sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
print(sum(is_locked(path) for _ in range(20000)), flush=True)
"""
    children = [Child(path.name, tmp_path, code) for _ in range(3)]
    assert [child.says() for child in children] == ["ready"] * 3
    for child in children:
        assert child.process.stdin is not None
        child.process.stdin.write("go\n")
        child.process.stdin.flush()
    answers = [child.says() for child in children]
    for child in children:
        child.end()
    assert answers == ["0", "0", "0"]
    assert not is_locked(tmp_path / "none")
