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
LEVELS = (
    ("errors", "units"),
    ("files", "redaction"),
    ("settings", "factors", "record"),
    ("trace",),
    ("sensors", "energy", "reports"),
    ("accounting",),
    ("sinks",),
    ("run",),
    ("analysis",),
    ("greenml",),
    ("cli", "integrations"),
    ("__main__",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
THE_EXCEPTION = ("greenml", "integrations")  # GreenCallback, imported when it is asked for

HEAVY = ("pydantic", "pynvml", "psutil", "requests", "rich", "click", "jinja2", "torch", "transformers", "numpy")


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


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_an_import_goes_to_a_lower_level_or_stays_in_its_package(path: Path):
    own = part(path)
    for other, name in imported(path):
        below = LEVEL_OF[other] < LEVEL_OF[own]
        assert below or other == own or (own, other) == THE_EXCEPTION, f"{own} imports {other} ({name})"


def public(folder: str) -> list[str]:
    return sorted(path.stem for path in (SOURCE / folder).glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", [name for name in public("sensors") if name not in ("sampler", "window")])
def test_a_sensor_has_probe(name: str):
    probe = importlib.import_module(f"greenml.sensors.{name}").probe
    first, *others = inspect.signature(probe).parameters.values()
    assert first.name == "wanted"
    assert all(other.default is not inspect.Parameter.empty for other in others)  # roots, clocks: for tests


@pytest.mark.parametrize("name", public("reports"))
def test_a_report_renders_a_record_alone(name: str):
    render = importlib.import_module(f"greenml.reports.{name}").render
    first, *others = inspect.signature(render).parameters.values()
    assert first.name == "record"
    assert all(other.default is not inspect.Parameter.empty for other in others)
    assert inspect.signature(render).return_annotation == "str"


@pytest.mark.slow
@pytest.mark.parametrize("name", public("sinks"))
def test_a_sink_is_made_of_its_argument(name: str):
    create = importlib.import_module(f"greenml.sinks.{name}").create
    assert list(inspect.signature(create).parameters) == ["argument"]


@pytest.mark.parametrize("name", public("record/importers"))
def test_an_importer_loads(name: str):
    assert callable(importlib.import_module(f"greenml.record.importers.{name}").load)


@pytest.mark.parametrize("name", public("cli"))
def test_a_command_is_listed_under_its_name(name: str):
    from greenml.cli import COMMANDS

    command = importlib.import_module(f"greenml.cli.{name}").command
    assert COMMANDS[command.name] == name


@pytest.mark.slow  # imports all frameworks
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
