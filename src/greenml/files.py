"""Files: whole-file reads, atomic replacement, and the two kinds of lock.

``replace`` is the one way in which greenml writes a whole file. ``locked`` is for work that must be done by one process
at a time (``filelock``: it also works on Windows). ``ProcessLock`` says that a process lives, or that it holds a
device: the kernel releases it when the process dies, and other processes test it without waiting.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from greenml.errors import RecordError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

LONGEST_SHOWN = 40  # characters of a file's name in that of its new version
LOCK_SECONDS = 120.0  # the longest wait for another process that works in the same folder
# What a file system without locks answers (some network mounts): there, every process goes ahead as if it were alone.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def read(path: Path) -> str:
    """Return the text of a file: its line endings, and a byte order mark if it has one, are part of it.

    Raises:
        RecordError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8, at byte {error.start}; convert it first") from None


def write(path: Path, text: str) -> None:
    """Write a text with ``replace``, for a file that a person named: makes its folder, refuses a read-only file.

    Raises:
        RecordError: the file cannot be written; nothing was changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is read-only")
        replace(path, text.encode("utf-8"))
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other, before Python 3.13
        raise RecordError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def replace(path: Path, content: bytes, *, modified_seconds: float | None = None) -> None:
    """Replace a file, or create it, in one step: a reader sees the old file or the new one, never a part.

    A file that is there keeps its mode, and a symbolic link stays one. A new file gets the mode that the process's
    umask gives it.

    Args:
        path: of the file.
        content: all of it.
        modified_seconds: the time of change that the file is to have; now by default.

    Raises:
        OSError: it cannot be written; nothing was changed.
    """
    with replacing(path) as descriptor:
        append(descriptor, content)
        if modified_seconds is not None:
            os.utime(descriptor if os.utime in os.supports_fd else path, (modified_seconds, modified_seconds))


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[int]:
    """Open a new file beside another one, which it replaces at the end of the block.

    The new file is open for appending. It is on the disk before it takes the other's place. Where the block raises, it
    is removed, and the other file is as it was.

    Args:
        path: of the file.
        sync: False where the caller has synced what matters: a sync may take seconds on a busy disk.

    Yields:
        The descriptor of the new file; it is closed at the end.

    Raises:
        OSError: the file cannot be written.
    """
    target = path.resolve()
    name = target.name[:LONGEST_SHOWN]  # a name may be as long as the file system allows: there is room for no more
    temporary = target.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(target.stat().st_mode)
                if mode != stat.S_IMODE(os.fstat(descriptor).st_mode):
                    temporary.chmod(mode)
            yield descriptor
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append(descriptor: int, content: bytes) -> None:
    """Write all of a content.

    Raises:
        OSError: not all of it could be written.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


_entered = threading.local()


@contextlib.contextmanager
def locked(path: Path, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a file's lock for the block, against every other thread and process.

    A thread that holds it, or waits for it, enters again at once: the handler of a signal that came meanwhile would
    otherwise wait for ever for the code that it interrupted.

    Args:
        path: of the lock's file, which is created where it is missing.
        timeout_seconds: how long to wait for another process.

    Raises:
        TimeoutError: another process has held it for that long.
        OSError: the file cannot be created.
    """
    paths: set[str] = _entered.__dict__.setdefault("paths", set())
    key = os.path.abspath(path)  # noqa: PTH100  links may differ, a lock's file is named one way
    if key in paths:
        yield
        return
    if not path.parent.is_dir():  # filelock would make it: a folder that somebody took away stays away
        raise FileNotFoundError(errno.ENOENT, "the folder is not there", str(path.parent))
    paths.add(key)
    lock = FileLock(key, timeout=timeout_seconds)
    try:
        try:
            lock.acquire()
        except Timeout:
            raise TimeoutError(
                errno.ETIMEDOUT, f"another process has held {path} for {timeout_seconds:.0f} s"
            ) from None
        except NotImplementedError:  # how filelock says ENOSYS
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        try:
            yield
        finally:
            lock.release(force=True)
    finally:
        paths.discard(key)


def is_gone(folder: Path) -> bool:
    """Tell whether a folder is not there any more; one that cannot be looked at (a network's) may be."""
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


class OwnDescriptor:
    """A file's descriptor, which the program may close: a daemon closes all, a fault one twice.

    Its number is then another file's. That is neither written to nor closed.

    Args:
        number: of the open file.
    """

    def __init__(self, number: int) -> None:
        self.number, self._opened = number, os.fstat(number)

    def is_open(self) -> bool:
        """Tell whether the number is still that of the file that was opened."""
        try:
            return os.path.samestat(os.fstat(self.number), self._opened)
        except OSError:
            return False

    def close(self) -> None:
        """Close it, if it is open."""
        if self.is_open():
            os.close(self.number)


class ProcessLock:
    """An exclusive kernel lock on a file, held until ``release()`` or the death of the process.

    The file goes with the lock; one that a killed process left behind is free and used again.
    A forked child shares the lock with its parent, so ``forget()`` closes the child's side.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: OwnDescriptor | None = None

    @property
    def held(self) -> bool:
        """True while this process holds it."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Take it without waiting; False where another process has it.

        A file system without locks (some network mounts) gives it to everyone, as if each were alone.

        Raises:
            OSError: the file cannot be created.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                if not _lock(descriptor):
                    return False
                if _is_at(descriptor, self.path):  # else its last holder has just removed the file
                    self._descriptor, descriptor = OwnDescriptor(descriptor), -1
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
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.close()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, shared: bool = False) -> bool:
    if fcntl is None:  # Windows
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks: better measured twice and noted than not at all
        return True
    return True


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the ``ProcessLock`` of an existing file."""
    try:  # to read is enough, and possible for the files of others
        descriptor = os.open(path, os.O_RDONLY if fcntl is not None else os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)  # processes that only test it do not see each other
    finally:
        os.close(descriptor)
