"""Fetch the charting library of the HTML pages: the published cartesian file of plotly.js, with its licence.

The version and the SHA-256 of both files are pinned here. A file that differs is refused, and nothing is changed.

Usage: ``python tools/fetch_plotly.py`` (needs npm, which comes with Node.js); ``--check`` only compares the files that
are there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE, VERSION = "plotly.js-cartesian-dist-min", "4.1.1"
STATIC = Path(__file__).parents[1] / "src" / "greenml" / "reports" / "page" / "static"
# In the package: where it lies here, and its SHA-256.
FILES = {
    "plotly-cartesian.min.js": (
        STATIC / "plotly-cartesian.min.js",
        "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a",
    ),
    "LICENSE": (STATIC / "plotly-LICENSE.txt", "8c45d9eaf50c2f72dd9c7ab9ef440788ba58a3538484b5c51c1f17d5128752e7"),
}


def differing(contents: dict[str, bytes]) -> list[str]:
    """Return the names of the files whose SHA-256 is not the pinned one."""
    return [
        name for name, (_, pinned) in FILES.items() if hashlib.sha256(contents.get(name, b"")).hexdigest() != pinned
    ]


def fetch() -> dict[str, bytes]:
    """Return the files of the published package."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not on PATH; it comes with Node.js")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = (npm, "pack", "--silent", f"{PACKAGE}@{VERSION}")
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        archives = list(folder.glob("*.tgz"))
        if done.returncode or not archives:
            sys.exit(done.stderr.strip() or f"npm pack {PACKAGE}@{VERSION} failed")
        with tarfile.open(archives[0]) as archive:
            members = {member: archive.extractfile(f"package/{member}") for member in FILES}
            return {member: stream.read() for member, stream in members.items() if stream is not None}


def main() -> None:
    """Fetch the files, or compare those that are there."""
    check = "--check" in sys.argv[1:]
    contents = {name: path.read_bytes() for name, (path, _) in FILES.items() if path.exists()} if check else fetch()
    if names := differing(contents):
        sys.exit(f"{PACKAGE} {VERSION}: {', '.join(names)}: not the pinned SHA-256")
    for name, (path, _) in FILES.items():
        if not check:
            path.write_bytes(contents[name])
        print(f"{path}: {path.stat().st_size:,} bytes, as pinned")


if __name__ == "__main__":
    main()
