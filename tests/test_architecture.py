"""The design, held by a test: what may import what, what a plug-in folder promises, how light an import is."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import greenml

SOURCE = Path(greenml.__file__).parent
MOST_LINES = 340
LEVELS = {
    0: ("units", "errors", "printable", "facts"),
    1: ("model", "moment", "intensity_record", "record", "tables", "text_file", "data", "energy_curve", "trace_lines"),
    2: (
        "sensors", "sampler", "claims", "trace", "attempts", "compaction", "span_joining", "energy", "usages",
        "carbon_hours", "course_mean", "accounting", "per_unit", "job", "factors",
        "importers", "reports", "settings", "doubts", "surroundings", "metadata_service", "values", "exits",
        "open_phases", "forecast",
        "tail", "live", "live_intensity",
        "record_file", "window", "pace",
    ),
    3: (
        "analysis", "assembly", "assumptions", "footprint", "scopes", "intensity_watch", "seats", "finishing",
        "merging", "gathering", "recorder", "run", "following",
    ),
    4: ("cli", "greenml", "__main__", "integrations"),
}  # fmt: skip
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}

# Modules of one level that may know each other, and why.
ALLOWED = {
    ("record", "intensity_record"),  # the part of it that changes over time
    ("trace_lines", "model"),  # which they hold
    ("carbon_hours", "usages"),  # hours are cut out of curves
    ("trace", "claims"),  # a trace is alive while its lock is held
    ("compaction", "span_joining"),  # fewer phases
    ("compaction", "energy"),  # what a phase's stretches used, before they are joined
    ("attempts", "trace"), ("attempts", "usages"),  # what lies on a run's clock: traces, spans of it
    ("compaction", "trace"),  # rewrites a trace, in its own lines
    ("assumptions", "scopes"), ("assumptions", "footprint"),  # what is assumed beyond operation
    ("accounting", "doubts"),  # each total's band
    ("usages", "energy"),  # what a device did is read off its curve
    ("seats", "trace"), ("seats", "claims"), ("seats", "job"),
    ("finishing", "assembly"), ("finishing", "assumptions"), ("finishing", "seats"),
    ("sampler", "window"),  # readings add up in it
    ("merging", "finishing"), ("merging", "seats"), ("gathering", "merging"),
    ("factors", "claims"),  # one update of the fetched prices at a time
    ("exits", "values"), ("open_phases", "values"),  # how a process ended, or a phase is called, in words
    ("tail", "trace"),  # one trace, as it grows
    ("live", "trace"), ("live", "job"), ("live", "tail"),  # running totals are of all traces, as they grow
    ("live_intensity", "carbon_hours"), ("live_intensity", "tail"),  # which hours its bins fell into
    ("live", "live_intensity"), ("live", "forecast"),  # what the steps in them let expect
    ("recorder", "seats"), ("recorder", "intensity_watch"), ("finishing", "intensity_watch"),
    ("intensity_watch", "assumptions"),  # where the run is
    ("run", "seats"), ("run", "recorder"), ("run", "assumptions"), ("run", "finishing"),
    ("run", "gathering"), ("run", "following"), ("following", "finishing"),
    ("analysis", "assumptions"),  # a record accounted elsewhere, or before it runs
    ("run", "greenml"),  # __version__ alone
    ("greenml", "run"), ("greenml", "finishing"), ("greenml", "record"), ("greenml", "errors"), ("__main__", "cli"),
    ("greenml", "integrations"),  # GreenCallback, when it is asked for
    ("cli", "greenml"),  # __version__ alone
    ("integrations", "greenml"),  # the public names
}  # fmt: skip

HEAVY = ("pydantic", "pynvml", "psutil", "requests", "rich", "click", "torch", "transformers", "numpy")


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    """The part of the design that a file belongs to: its folder's name, or its own."""
    relative = path.relative_to(SOURCE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "greenml" if relative.stem == "__init__" else relative.stem


def imported(path: Path) -> set[tuple[str, str]]:
    """(part, name) of everything of greenml that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, line {node.lineno}"
            words = (node.module or "").split(".")
            if words[0] != "greenml":
                continue
            for alias in node.names:
                is_module = len(words) > 1 or alias.name in LEVEL_OF
                where = ([*words, alias.name][1]) if is_module else "greenml"
                found.add((where, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                words = alias.name.split(".")
                if words[0] == "greenml":
                    found.add((words[1] if len(words) > 1 else "greenml", ""))
    return found


def test_every_module_has_a_level():
    assert {part(path) for path in modules()} == set(LEVEL_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path):
    own = part(path)
    for other, name in imported(path):
        below = LEVEL_OF[other] < LEVEL_OF[own]
        assert below or other == own or (own, other) in ALLOWED, f"{own} imports {other} ({name})"
        if other == "greenml":
            assert name == "__version__" or own == "integrations"


def test_no_exception_is_allowed_that_nobody_needs():
    used = {(part(path), other) for path in modules() for other, _ in imported(path)}
    sideways = {pair for pair in used if pair[0] != pair[1] and LEVEL_OF[pair[0]] <= LEVEL_OF[pair[1]]}
    needless = {pair for pair in ALLOWED if LEVEL_OF[pair[0]] <= LEVEL_OF[pair[1]]} - sideways
    assert needless == set()


def public(folder: str) -> list[str]:
    return sorted(path.stem for path in (SOURCE / folder).glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", public("sensors"))
def test_a_sensor_has_probe(name: str):
    probe = importlib.import_module(f"greenml.sensors.{name}").probe
    first, *others = inspect.signature(probe).parameters.values()
    assert first.name == "wanted"
    assert all(one.default is not inspect.Parameter.empty for one in others)  # roots, clocks: for tests


@pytest.mark.parametrize("name", public("reports"))
def test_a_report_renders_a_record_alone(name: str):
    render = importlib.import_module(f"greenml.reports.{name}").render
    first, *others = inspect.signature(render).parameters.values()
    assert first.name == "record"
    assert all(one.default is not inspect.Parameter.empty for one in others)
    assert inspect.signature(render).return_annotation == "str"


@pytest.mark.parametrize("name", public("importers"))
def test_an_importer_loads(name: str):
    assert callable(importlib.import_module(f"greenml.importers.{name}").load)


@pytest.mark.parametrize("name", public("cli"))
def test_a_command_is_listed_under_its_name(name: str):
    from greenml.cli import COMMANDS

    command = importlib.import_module(f"greenml.cli.{name}").command
    assert COMMANDS[command.name] == name


def test_every_public_name_is_there():
    assert sorted(greenml.__all__) == greenml.__all__
    assert {name for name in greenml.__all__ if getattr(greenml, name) is None} == set()
    assert set(dir(greenml)) == set(greenml.__all__)
    with pytest.raises(AttributeError, match="tracker"):
        _ = greenml.tracker


def test_an_import_brings_nothing_with_it():
    code = (
        "import sys, threading, json, greenml\n"
        f"print(json.dumps([[one for one in {HEAVY!r} if one in sys.modules], threading.active_count(),"
        " sorted(one for one in sys.modules if one.startswith('greenml'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy, threads, own = json.loads(done.stdout)
    assert heavy == []
    assert threads == 1
    assert own == ["greenml"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_is_one_idea(path: Path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES
