"""The notebooks run, show figures that can only come of a measured run, and store no path of a machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from launches import environment

NEEDED = (
    "nbclient",
    "ipykernel",
    "pandas",
    "matplotlib",
    "sklearn",
    "torch",
    "transformers",
    "datasets",
    "rouge_score",
)
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

NAMES = ("1-first-card", "2-end-to-end", "3-study")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what runs a notebook, each once; all of them in one copy of the examples."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter's own packages
        import notebooks
    folder, done = tmp_path_factory.mktemp("notebooks"), {}

    def run(name: str) -> Any:
        if name not in done:
            with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
                warnings.simplefilter("ignore")
                patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
                done[name] = notebooks.execute(notebooks.NOTEBOOKS / f"{name}.ipynb", folder)
        return done[name], "\n".join(notebooks.texts(done[name]))

    return run


def figure(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in:\n{text[:3000]}"
    return float(match[1])


def test_first_card(made: Any) -> None:
    _, text = made("1-first-card")
    assert figure(r"accuracy (0\.\d+)", text) > 0.9
    joules = figure(r"it_energy_joules +([\d.e+-]+)", text)
    assert 0 < joules < 1e5
    assert figure(r"cost, dedicated +([\d.e+-]+)", text) > 0
    assert "GPU energy: None because" in text
    assert "| Run Duration |" in text


def test_end_to_end(made: Any) -> None:
    content, text = made("2-end-to-end")
    whole, frozen = (figure(rf"{name} +[\d.]+ s +([\d.]+) J", text) for name in ("whole", "frozen"))
    assert whole > 0
    assert frozen > 0
    assert "| Run Duration |" in text
    assert "eval_loss" in text
    assert "What if: whole" in text
    assert figure(r"page\.html has ([\d.]+) MB", text) > 1
    assert (
        sum("image/png" in output.get("data", {}) for cell in content.cells for output in cell.get("outputs", [])) == 1
    )


def test_study(made: Any) -> None:
    content, text = made("3-study")
    assert "9 cells: 9 completed" in text
    assert "Trade-off against float64" in text
    assert re.search(r"float32 +1 +completed", text)
    assert "All runs of the study" in text
    assert (
        sum("image/png" in output.get("data", {}) for cell in content.cells for output in cell.get("outputs", [])) == 2
    )


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_whole_and_hold_no_path(name: str) -> None:
    import nbformat
    import notebooks

    path = Path(notebooks.NOTEBOOKS, f"{name}.ipynb")
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert notebooks.check(content) == []
    assert sum(bool(cell.outputs) for cell in cells) >= 4
