"""The frame of the HTML pages: templates, style, scripts and the content security policy.

A page is one file. It opens from disk, reads well on a phone, on paper and in a dark scheme, and asks no network.

**Text.** The templates (``*.html.j2``) escape what they are given. Nothing from a record is ever marked as safe: only
files of this package are (``_static``). Text that Plotly shows (names, ticks, hovers) goes through ``plotly_text``,
because Plotly reads some HTML of its own.

**Charts.** A ``Chart`` is a Plotly figure of plain lists and dicts with a label that says in words what it shows.
Colours are names of the palette, written ``"var(--series-1)"``, so that a chart follows the colour scheme and prints
on white. Charts with the same ``group`` zoom together, and a group's check boxes show and hide the traces whose
``meta`` is the box's key.

**Scripts.** All charts are drawn before the document's ``load`` event, so that a page that is printed at once is
whole. Then ``<html data-charts="drawn">`` is set and ``performance.mark("charts-drawn")`` made. ``window.greenml`` has
``figures`` (a Map of each plot's element to its figure) and ``draw(element)``. The policy names each script by its
hash and forbids everything else.

**PDF.** A page is printed by a browser that is on the machine, without a window and without a network.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from greenml.errors import SettingsError

PACKAGE = "greenml.reports.page"
PLOTLY = "plotly-cartesian.min.js"  # the published file, which tools/fetch_plotly.py fetches and checks

LIGHT = {
    "--page": "#f6f7f5", "--surface": "#ffffff", "--raised": "#f0f2ef", "--text": "#161c19", "--muted": "#535e58",
    "--line": "#dde2de", "--grid": "#e6eae7", "--accent": "#0b6e4f", "--accent-soft": "#e2f1ea",
    "--warn": "#8a4b00", "--warn-soft": "#fdf1de", "--bad": "#a3261d", "--gap": "#8b958f",
    "--series-1": "#0067a5", "--series-2": "#c04a00", "--series-3": "#00795a", "--series-4": "#a8437f",
    "--series-5": "#8a6a00", "--series-6": "#3c8fc7", "--series-7": "#6f5bc0", "--series-8": "#5f6a64",
    "--shade-1": "#e3ecf6", "--shade-2": "#fceee3", "--shade-3": "#dff1e8", "--shade-4": "#f7e7f1",
    "--shade-5": "#f4eed5", "--shade-6": "#ebe7f8",
}  # fmt: skip
DARK = {
    "--page": "#101412", "--surface": "#181d1a", "--raised": "#212724", "--text": "#e7ece9", "--muted": "#a6b1ab",
    "--line": "#303833", "--grid": "#29302c", "--accent": "#5ccf9f", "--accent-soft": "#17332a",
    "--warn": "#f1bd6d", "--warn-soft": "#33280f", "--bad": "#ff9288", "--gap": "#77827c",
    "--series-1": "#5db4ef", "--series-2": "#ff9457", "--series-3": "#3fcb9d", "--series-4": "#ee93c6",
    "--series-5": "#e8bd3f", "--series-6": "#a9d6f7", "--series-7": "#b8a4ff", "--series-8": "#b3bcb7",
    "--shade-1": "#1b2d3d", "--shade-2": "#33251c", "--shade-3": "#183226", "--shade-4": "#35212f",
    "--shade-5": "#302b17", "--shade-6": "#28243d",
}  # fmt: skip
SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))  # told apart by colour-blind eyes, in this order


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that Plotly draws.

    Attributes:
        figure: of plain lists and dicts, None where nothing is known.
        label: what it shows, for those who do not see it; the figures themselves belong in a table.
        title, unit: the heading above it; no heading where the title is empty.
        group: of charts that zoom together and share check boxes.
        caption: under it.
        height: in CSS pixels.
    """

    figure: Mapping[str, Any]
    label: str
    title: str = ""
    unit: str = ""
    group: str = ""
    caption: str = ""
    height: int = 300


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a web page; the label alone where the address is not one (``javascript:`` and such)."""

    label: str
    url: str = ""

    @property
    def is_web(self) -> bool:
        """Whether the address is one of the web."""
        return re.match(r"https?://[^\s]+$", self.url) is not None


@dataclass(frozen=True, slots=True)
class Script:
    """A script of a page, with the hash that the content security policy names it by."""

    text: Markup
    sha256: str


def plotly_text(value: object) -> str:
    """Make text safe for Plotly's names, ticks and hovers, where some tags and entities would be obeyed."""
    flat = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def render(template: str, *, charts: bool, package: str = PACKAGE, **context: object) -> str:
    """Render a page.

    Args:
        template: its file, which extends ``base.html.j2``.
        charts: whether it holds any; without one the charting library is left out.
        package: whose ``templates`` folder holds the template.
        context: what the template reads.
    """
    scripts = [_script(name) for name in ((PLOTLY, "page.js") if charts else ("page.js",))]
    themes = {"light": LIGHT, "dark": DARK}
    page = environment(package).get_template(template)
    return page.render(style=style(), scripts=scripts, themes=themes, **context)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _printable(value: Any) -> Any:  # noqa: ANN401
    """Return what a template shows without what HTML has not: control characters; nor what turns a text around."""
    return _UNPRINTABLE.sub(" ", value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def environment(package: str = PACKAGE) -> Environment:
    """Return the templates' environment: everything is escaped, and a name that is not known is an error."""
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, PACKAGE))]
    made = Environment(
        autoescape=True, loader=ChoiceLoader(loaders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_printable,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made


@cache
def _static(name: str) -> Markup:
    """Return a file of this package, which is the only text that is not escaped."""
    content = (files(PACKAGE) / "static" / name).read_text(encoding="utf-8")
    return Markup(content)  # noqa: S704


@cache
def _script(name: str) -> Script:
    text = _static(name)
    return Script(text, base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii"))


def style() -> Markup:
    """Return the style that all pages share, in a light and a dark scheme."""

    def block(colors: Mapping[str, str]) -> str:
        return " ".join(f"{name}: {value};" for name, value in colors.items())

    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {block(DARK)} }} }}"
    return Markup(f":root {{ {block(LIGHT)} }}\n{dark}\n") + _static("page.css")  # noqa: S704


BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
    "microsoft-edge-stable", "msedge",
)  # fmt: skip
# Where an installer puts a browser that it does not put on PATH.
INSTALLED_BROWSERS = {
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
BROWSER_OPTIONS = (
    "--headless", "--disable-gpu", "--no-first-run", "--no-default-browser-check", "--disable-extensions",
    "--no-pdf-header-footer",
    # No network: no name resolves, and nothing is asked in the background.
    "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-pings",
)  # fmt: skip
PRINT_SECONDS = 120.0
LONGEST_REASON = 200  # characters of what the browser says


def pdf(page: str, folder: Path, *, browsers: Sequence[str] = BROWSERS) -> bytes:
    """Return the PDF of a page.

    Args:
        page: its HTML.
        folder: where the browser may read and write; a packaged browser cannot use every temporary folder.
        browsers: names or paths of those to use, the first that there is.

    Raises:
        SettingsError: there is no browser, or it makes no PDF; says what to do.
    """
    browser = _browser(browsers)
    with tempfile.TemporaryDirectory(prefix="greenml-pdf-", dir=folder, ignore_cleanup_errors=True) as name:
        source, output = Path(name, "page.html").absolute(), Path(name, "page.pdf").absolute()
        source.write_bytes(page.encode("utf-8"))
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox does not run as root
        command = [
            browser, *BROWSER_OPTIONS, *(["--no-sandbox"] if as_root else []),
            f"--user-data-dir={source.parent / 'profile'}", f"--print-to-pdf={output}", source.as_uri(),
        ]  # fmt: skip
        reason = _print(command)
        try:
            content = output.read_bytes()
        except OSError:
            content = b""
    if not content.startswith(b"%PDF-"):
        raise SettingsError(f"{browser} made no PDF{reason}; write the page with --html and print it from a browser")
    return content


def _browser(browsers: Iterable[str] = BROWSERS) -> str:
    """Return the path of a browser.

    Raises:
        SettingsError: there is none; says what to install.
    """
    names = tuple(browsers)
    places = INSTALLED_BROWSERS.get(sys.platform, ()) if names == BROWSERS else ()
    path = next((path for name in (*names, *places) if (path := shutil.which(name))), None)
    if path is None:
        raise SettingsError(
            "--pdf needs Chromium, Chrome or Edge, and none is on PATH; install one (Debian, Ubuntu: apt-get install "
            "chromium), or write the page with --html and print it from any browser"
        )
    return path


def _print(command: Sequence[str]) -> str:
    """Run the browser; return what it says of a failure, to be put after other words."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PRINT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f" in {PRINT_SECONDS:g} s"
    except OSError as error:
        return f" ({error.strerror or error})"
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if not done.returncode or not lines:
        return f" (exit status {done.returncode})"
    text = "".join(letter if letter.isprintable() else " " for letter in lines[-1])
    return f" ({text.strip()[:LONGEST_REASON]})"
