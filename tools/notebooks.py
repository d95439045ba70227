"""Run the notebooks of ``examples/notebooks``, and keep their outputs: ``python tools/notebooks.py [NAME...]``.

Each runs in a copy of ``examples``, so that nothing is left behind. What they store holds no path of the machine that
ran them: ``check`` refuses one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "examples" / "notebooks"
SECONDS = 300  # of a cell, on a busy machine
PATHS = re.compile(r"(?:/(?:tmp|home|root|work|opt|usr|var|Users)/|[A-Z]:\\\\)[\w.\-/\\]*")


def execute(notebook: Path, folder: Path) -> Any:  # noqa: ANN401  nbformat has no types
    """Run a notebook in a folder's copy of the examples, and return it with its outputs.

    Raises:
        CellExecutionError: a cell raised.
    """
    examples = folder / "examples"
    if not examples.exists():
        shutil.copytree(ROOT / "examples", examples, ignore=shutil.ignore_patterns("__pycache__"))
    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        content, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(examples / "notebooks")}}
    )
    here = str(Path(sys.executable).parent)  # where the commands of this Python are
    client.execute(env={**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"})
    return content


def texts(content: Any) -> list[str]:  # noqa: ANN401
    """Return what the cells of a notebook show as text."""
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    return [
        str(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
        + str(output.get("data", {}).get("text/html", ""))
        + "\n".join(output.get("traceback", []))
        for output in outputs
    ]


def pictures(content: Any) -> int:  # noqa: ANN401
    """Return how many pictures a notebook shows."""
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def check(content: Any) -> list[str]:  # noqa: ANN401
    """Return the paths of a machine that a notebook's outputs hold."""
    return [match for text in texts(content) for match in PATHS.findall(text)]


def main(names: list[str]) -> None:
    """Run the notebooks, and write each with its outputs."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            content = execute(path, Path(folder))
        if found := check(content):
            sys.exit(f"{path.name}: its outputs hold paths of this machine: {', '.join(sorted(set(found)))}")
        for cell in content.cells:
            cell.metadata.pop("execution", None)  # when each cell ran
        content.metadata.pop("language_info", None)
        nbformat.write(content, path)
        print(f"{path.name}: {len(content.cells)} cells, {pictures(content)} pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
