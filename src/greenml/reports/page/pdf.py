"""A page as PDF, printed by a browser that is on the machine, without a window and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from greenml.errors import SettingsError

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "microsoft-edge-stable", "msedge",
)  # fmt: skip
# Where an installer puts a browser that it does not put on PATH.
INSTALLED = {
    "darwin": (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
    ),
    "win32": (
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    ),
}
OPTIONS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--no-pdf-header-footer",
    # No network: no name resolves, and nothing is asked in the background.
    "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-pings",
)  # fmt: skip
TIMEOUT_SECONDS = 120.0
LONGEST_REASON = 200  # characters of what the browser says


def render(page: str, folder: Path, *, browsers: Sequence[str] = BROWSERS) -> bytes:
    """Return the PDF of a page.

    Args:
        page: its HTML.
        folder: where the browser may read and write; a packaged browser cannot use every temporary folder.
        browsers: names or paths of those to use, the first that there is.

    Raises:
        SettingsError: there is no browser, or it makes no PDF; says what to do.
    """
    browser = find(browsers)
    with tempfile.TemporaryDirectory(prefix="greenml-pdf-", dir=folder, ignore_cleanup_errors=True) as name:
        source, output = Path(name, "page.html").absolute(), Path(name, "page.pdf").absolute()
        source.write_bytes(page.encode("utf-8"))
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox does not run as root
        command = [
            browser, *OPTIONS, *(["--no-sandbox"] if as_root else []), f"--user-data-dir={source.parent / 'profile'}",
            f"--print-to-pdf={output}", source.as_uri(),
        ]  # fmt: skip
        reason = _run(command)
        try:
            content = output.read_bytes()
        except OSError:
            content = b""
    if not content.startswith(b"%PDF-"):
        raise SettingsError(f"{browser} made no PDF{reason}; write the page with --html and print it from a browser")
    return content


def find(browsers: Iterable[str] = BROWSERS) -> str:
    """Return the path of a browser.

    Raises:
        SettingsError: there is none; says what to install.
    """
    names = tuple(browsers)
    places = INSTALLED.get(sys.platform, ()) if names == BROWSERS else ()
    path = next((path for name in (*names, *places) if (path := shutil.which(name))), None)
    if path is None:
        raise SettingsError(
            "--pdf needs Chromium, Chrome or Edge, and none is on PATH; install one (Debian, Ubuntu: apt-get install "
            "chromium), or write the page with --html and print it from any browser"
        )
    return path


def _run(command: Sequence[str]) -> str:
    """Run the browser; return what it says of a failure, to be put after other words."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f" in {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        return f" ({error.strerror or error})"
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if not done.returncode or not lines:
        return f" (exit status {done.returncode})"
    text = "".join(letter if letter.isprintable() else " " for letter in lines[-1])
    return f" ({text.strip()[:LONGEST_REASON]})"
