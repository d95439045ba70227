"""Who on this host measures which device: each exactly once.

A claim is a lock on a file in the host's temporary folder, keyed by run and device. The kernel lets it go when
its process dies, however it dies, and another process of the run takes it at its next tick.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt


class FileLock:
    """An exclusive lock on a file, held until ``release()`` or the death of the process.

    The file goes with the lock; one that a killed process left behind is free and used again.
    A forked child shares the lock with its parent, so ``forget()`` closes the child's side.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """True while this process holds it."""
        return self._descriptor is not None

    def acquire(self, *, block: bool = False) -> bool:
        """Take it; False where another process has it.

        A file system without locks (some network mounts) gives it to everyone, as if each were alone.

        Raises:
            OSError: the file cannot be made.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                if not _lock(descriptor, block=block):
                    return False
                if _is_at(descriptor, self.path):  # else its last holder removed it while we waited: a dead letter
                    self._descriptor, descriptor = descriptor, -1
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return True

    def release(self) -> None:
        """Let it go, and remove the file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # Windows does not remove an open file
                self.path.unlink()
            self.forget()

    def forget(self) -> None:
        """Close this process's side of it: a forked child leaves the lock to its parent."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        self.acquire(block=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, block: bool, shared: bool = False) -> bool:
    if fcntl is None:  # Windows
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if block else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks: better measured twice and noted than not at all
        return True
    return True


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the lock on an existing file."""
    try:  # to read is enough, and possible for the files of others
        descriptor = os.open(path, os.O_RDONLY if fcntl is not None else os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor, block=False, shared=True)  # those who only look do not see each other
    finally:
        os.close(descriptor)


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # no disk takes a file now; where locks cannot be had, a process measures for itself
        return Path("/tmp")  # noqa: S108  not written to without a lock


class Claims:
    """The devices that this process measures for a run."""

    def __init__(self, run_id: str, folder: Path | None = None) -> None:
        self._run_id = run_id
        self._folder = folder or _temporary() / "greenml-claims"
        self._locks: dict[str, FileLock] = {}

    def take(self, device_id: str) -> bool:
        """Claim a device; True where this process has it now.

        A temporary folder that cannot be written claims everything: a lone process must still measure.
        """
        lock = self._locks.get(device_id)
        if lock is None:
            key = hashlib.sha256(f"{self._run_id}\n{device_id}".encode()).hexdigest()[:32]
            lock = self._locks[device_id] = FileLock(self._folder / f"{key}.lock")
        if lock.held:
            return True
        try:
            self._open_folder()
            return lock.acquire()
        except OSError:
            return True

    def _open_folder(self) -> None:
        if not self._folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # shared by the users of the host, as the temporary folder is
                self._folder.chmod(0o1777)

    def release(self) -> None:
        """Let all go."""
        for lock in self._locks.values():
            lock.release()

    def forget(self) -> None:
        """Close a forked child's side of every claim."""
        for lock in self._locks.values():
            lock.forget()
