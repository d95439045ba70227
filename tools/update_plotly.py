"""Put a release of plotly.js into the package: the partial bundle that has the charts of the pages, and its licence.

The bundle is taken from npm as it is published; npm checks it against the registry's own sum.

Usage: ``python tools/update_plotly.py 4.1.1``
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPORTS = Path(__file__).parents[1] / "src" / "greenml" / "reports"
PACKAGE = "plotly.js-cartesian-dist-min"  # scatter, bar and heatmap: a third of the size of all of Plotly
FILES = {"package/plotly-cartesian.min.js": "plotly-cartesian.min.js", "package/LICENSE": "plotly-LICENSE"}


def main() -> None:
    """Fetch one release."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("version", help="of plotly.js, e.g. 4.1.1")
    version = parser.parse_args().version
    if shutil.which("npm") is None:
        sys.exit("npm is not on PATH; it comes with Node.js")
    with tempfile.TemporaryDirectory() as name:
        fetched = subprocess.run(
            ["npm", "pack", "--silent", f"{PACKAGE}@{version}"], cwd=name, check=False, capture_output=True, text=True
        )
        if fetched.returncode:
            sys.exit(fetched.stderr.strip() or f"npm has no {PACKAGE}@{version}")
        with tarfile.open(Path(name, fetched.stdout.strip())) as package:
            for member, target in FILES.items():
                file = package.extractfile(member)
                if file is None:
                    sys.exit(f"{PACKAGE}@{version} has no {member}")
                (REPORTS / target).write_bytes(file.read())
                print(f"{REPORTS / target}: {PACKAGE} {version}")


if __name__ == "__main__":
    main()
