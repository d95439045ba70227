"""A person's text file: read and written byte for byte, whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from greenml.errors import RecordError


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
    """Write a text as it is; a reader sees the old file or the new one, never a part.

    A file that is there keeps its mode, and a symbolic link stays one.

    Raises:
        RecordError: the file cannot be written; nothing was changed.
    """
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(0, "it is read-only")
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _mode_of_a_new_file()
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text.encode("utf-8"))
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other, before Python 3.13
        raise RecordError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _mode_of_a_new_file() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
