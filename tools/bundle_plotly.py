"""Bundle the part of plotly.js that the pages use, with the licences of all that is in it.

The whole library is 4.8 MB, of which a browser reads every letter before it draws; this part is a quarter of that. It
is made as plotly.js's CUSTOM_BUNDLE.md describes, from the packages that npm has, with esbuild.

Usage: ``python tools/bundle_plotly.py`` (needs Node.js with npm)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PLOTLY, ESBUILD = "4.1.1", "0.28.2"
REPORTS = Path(__file__).parents[1] / "src" / "greenml" / "reports"
TRACES = ("bar", "heatmap")  # beside scatter, which is in the core
BANNER = f"/* plotly.js {PLOTLY}: core, {', '.join(TRACES)}. Licences: plotly-LICENSES.txt */"
OPTIONS = (
    "--bundle", "--minify", "--format=iife", "--global-name=Plotly", "--target=es2016", "--charset=ascii",
    "--define:global=window", "--alias:stream=stream-browserify", "--legal-comments=none", f"--banner:js={BANNER}",
    "--loader:.css=empty", "--metafile=meta.json", "--outfile=plotly.min.js",
)  # fmt: skip


def call(folder: Path, *command: str) -> None:
    """Run a command in a folder; its words are shown where it fails."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"{command[0]} failed")


def licences(folder: Path) -> Iterator[str]:
    """Tell each package that is in the bundle, with its licence."""
    inputs = json.loads((folder / "meta.json").read_text())["outputs"]["plotly.min.js"]["inputs"]
    inside = {name for name, found in inputs.items() if found["bytesInOutput"]}
    homes = {home for name in inside if (home := _home(Path(name))) is not None}
    for home in sorted(homes, key=str):
        about = json.loads((folder / home / "package.json").read_text())
        texts = sorted(path for path in (folder / home).iterdir() if path.name.lower().startswith(("licen", "copying")))
        text = texts[0].read_text().strip() if texts else f"{about.get('license')}, {about.get('author')}"
        yield f"{about['name']} {about['version']}\n\n{text}\n"


def _home(file: Path) -> Path | None:
    """Return the folder of the package that a file of node_modules is of."""
    if "node_modules" not in file.parts:
        return None
    last = len(file.parts) - 1 - file.parts[::-1].index("node_modules")
    return Path(*file.parts[: last + (3 if file.parts[last + 1].startswith("@") else 2)])


def main() -> None:
    """Make the bundle."""
    if shutil.which("npm") is None:
        sys.exit("npm is not on PATH; it comes with Node.js")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "package.json").write_text("{}")
        call(folder, "npm", "install", "--silent", "--no-audit", f"plotly.js@{PLOTLY}", f"esbuild@{ESBUILD}")
        traces = ", ".join(f'require("plotly.js/lib/{name}")' for name in TRACES)
        entry = (
            f'const Plotly = require("plotly.js/lib/core");\nPlotly.register([{traces}]);\nmodule.exports = Plotly;\n'
        )
        (folder / "entry.js").write_text(entry)
        call(folder, "node_modules/.bin/esbuild", "entry.js", *OPTIONS)
        made = (folder / "plotly.min.js").read_text(encoding="utf-8")
        ascii_only = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], made)  # one byte a letter
        (REPORTS / "plotly.min.js").write_text(ascii_only, encoding="ascii", newline="\n")
        (REPORTS / "plotly-LICENSES.txt").write_text(f"\n{'=' * 80}\n".join(licences(folder)))
    print(f"{REPORTS / 'plotly.min.js'}: {(REPORTS / 'plotly.min.js').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
