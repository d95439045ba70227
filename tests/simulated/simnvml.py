"""A simulated NVML: describe GPUs, build the library, run a child on it, know the exact truth.

library = simnvml.build(folder)
script = simnvml.Script(gpus=(simnvml.Gpu(power=simnvml.Square(100, 300, period_seconds=0.25)),))
path = simnvml.write(script, folder / "script")
subprocess.run([...], env=os.environ | simnvml.environment(library, path))
script.energy_joules(0, started, ended)  # monotonic seconds of any process on this host
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .script import (
    A100,
    DRIVER_NOT_LOADED,
    GIB,
    GPU_IS_LOST,
    H100,
    NOT_SUPPORTED,
    UNKNOWN,
    Error,
    Fault,
    Gpu,
    Hang,
    Mig,
    Script,
    Slow,
)
from .signals import Constant, Shape, Square, steps

__all__ = [
    "A100",
    "DRIVER_NOT_LOADED",
    "GIB",
    "GPU_IS_LOST",
    "H100",
    "NOT_SUPPORTED",
    "NO_COMPILER",
    "UNKNOWN",
    "Constant",
    "Error",
    "Fault",
    "Gpu",
    "Hang",
    "Mig",
    "Script",
    "Shape",
    "Slow",
    "Square",
    "build",
    "calls",
    "compiler",
    "environment",
    "fake_nvidia_smi",
    "steps",
    "write",
]

SOURCES = Path(__file__).parent / "nvml"
NO_COMPILER = "the simulated NVML needs Linux and a C compiler (cc, gcc or clang)"


def write(script: Script, path: Path) -> Path:
    """Write the script where ``SIMNVML_SCRIPT`` may point to."""
    lines = [f"origin {script.origin_monotonic_ns} {script.origin_realtime_ns}"]
    lines.append(f"driver {script.driver} {script.cuda}")
    lines += [fault.line() for fault in script.faults]
    for gpu in script.gpus:
        lines += gpu.lines()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return path


def compiler() -> str | None:
    """Return the C compiler, or None where the library cannot be built."""
    if sys.platform != "linux":
        return None
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compile the library below ``folder``, once for each set of missing symbols, and return its path.

    Args:
        without: symbols that it must not have, as NVML spells them: ``nvmlDeviceGetHandleByIndex_v2``.
    """
    cc = compiler()
    if cc is None:
        raise FileNotFoundError(NO_COMPILER)
    sources = sorted(SOURCES.glob("*.c"))
    key = hashlib.sha256(" ".join(sorted(without)).encode())
    for source in [*sources, SOURCES / "simnvml.h"]:
        key.update(source.read_bytes())
    library = folder / f"simnvml-{key.hexdigest()[:12]}" / "libnvidia-ml.so.1"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_name(f"unfinished-{os.getpid()}")
    command = [cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    command += [f"-D{symbol}=absent_{symbol}" for symbol in without]
    command += ["-o", str(unfinished), *map(str, sources), "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    unfinished.replace(library)
    return library


def environment(
    library: Path, script: Path, *, calls: Path | None = None, commands: Path | None = None
) -> dict[str, str]:
    """Return what to add to a child's environment.

    Args:
        library: from ``build()``.
        script: from ``write()``.
        calls: file to which every call is appended; see ``calls()``.
        commands: folder of ``fake_nvidia_smi()``, put first on PATH.
    """
    found = {"LD_LIBRARY_PATH": _first(library.parent, "LD_LIBRARY_PATH"), "SIMNVML_SCRIPT": str(script)}
    if calls is not None:
        found["SIMNVML_CALLS"] = str(calls)
    if commands is not None:
        found["PATH"] = _first(commands, "PATH")
    return found


def _first(folder: Path, variable: str) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get(variable, ""))))


def calls(path: Path) -> Counter[str]:
    """Count each function's calls, by all processes, in the file that ``environment(calls=...)`` named."""
    return Counter(line.split()[2] for line in path.read_text().splitlines()) if path.exists() else Counter()


def fake_nvidia_smi(folder: Path) -> Path:
    """Put an ``nvidia-smi`` that only succeeds into ``folder``: CodeCarbon looks for it before NVML."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA-SMI (simulated)'\n")
    command.chmod(0o755)
    return folder
