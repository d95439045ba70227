"""Real programs that track themselves, and what they leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from greenml.record import file as records

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture
def plain_environment():
    """This process's environment without what would steer greenml or CUDA."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "GREENML_"))}
    return kept | {"GREENML_CACHE_DIR": os.environ["GREENML_CACHE_DIR"]}  # the tests' own


@pytest.fixture
def program(tmp_path, plain_environment):
    """Run Python code in a folder of its own; returns the finished process."""

    def run(code, *arguments, check=True, **environment):
        (tmp_path / "program.py").write_text(textwrap.dedent(code))
        done = subprocess.run(
            [sys.executable, "program.py", *arguments],
            cwd=tmp_path,
            env=plain_environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def greenml(tmp_path, plain_environment):
    """Run the command line in a folder of its own."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "greenml", *map(str, arguments)],
            cwd=tmp_path,
            env=plain_environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def record(tmp_path):
    """Read a record of the folder."""
    return lambda name="run.json": records.read(tmp_path / name)


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium or Chrome, without a window; skipped, with the reason, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: looked for {', '.join(BROWSERS)}")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox does not run as root
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield chromium
        chromium.close()


@pytest.fixture
def view(browser):
    """Open an HTML file without a network; at the end nothing may have failed, warned, or asked for anything else.

    ``view(path, width=390, color_scheme="dark", ...)`` returns playwright's page, with all charts drawn.
    """
    troubles, contexts = [], []

    def show(path, *, width=1280, height=900, charts=True, **settings):
        context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:", "blob:")) else troubles.append(f"asked {request.url}")
            ),
        )
        page.goto(path.as_uri())
        if charts:
            page.wait_for_selector("html[data-charts=drawn]", state="attached", timeout=60_000)
        return page

    yield show
    for context in contexts:
        with contextlib.suppress(Exception):  # the browser itself died: the test has said so
            context.close()
    assert troubles == []


@pytest.fixture
def violations():
    """Say what axe-core finds serious or critical in a page: a line each, empty where nothing is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def check(page):
        found = axe.Axe().run(page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:160]}: {node.get('failureSummary', '')[:300]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    return check
