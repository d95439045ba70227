"""Settings: argument, then environment, then pyproject.toml, then default; a mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.settings import Settings, resolve


def project(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    inside = folder / "src" / "deep"
    inside.mkdir(parents=True, exist_ok=True)
    return inside


def test_nothing_told_is_the_defaults(tmp_path: Path):
    assert resolve({"sku": None}, {}, tmp_path) == Settings()
    assert Settings().output == Path("run.json")


def test_who_comes_first(tmp_path: Path):
    table = '[tool.greenml]\nsku = "from file"\nregion = "file"\ntier = "file"\nnodes = 2\ninterval = 0.5\npue = 1\n'
    folder = project(tmp_path, table)
    environment = {"GREENML_SKU": "from env", "GREENML_REGION": "env", "GREENML_TIER": "", "GREENML_NODES": " 3 "}
    settled = resolve({"sku": "argument", "region": None}, environment, folder)
    assert (settled.sku, settled.region, settled.tier, settled.nodes) == ("argument", "env", "file", 3)
    assert (settled.interval, settled.pue) == (0.5, 1.0)
    assert settled.known_from == {
        "sku": "argument", "region": "environment, GREENML_REGION", "nodes": "environment, GREENML_NODES",
        "tier": "pyproject.toml", "interval": "pyproject.toml", "pue": "pyproject.toml",
    }  # fmt: skip


def test_the_nearest_pyproject_counts_even_without_our_table(tmp_path: Path):
    project(tmp_path, '[tool.greenml]\nregion = "SWE"\n')
    inner = tmp_path / "src"
    assert resolve({}, {}, inner).region == "SWE"
    (inner / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert resolve({}, {}, inner).region == ""


def test_a_tilde_is_the_home_of_who_runs_it(tmp_path: Path, monkeypatch):
    """As a shell has it; one that stands in pyproject.toml, in quotes or behind ``--output=`` meets no shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert resolve({"output": "~/a.json"}, {}, tmp_path).output == tmp_path / "a.json"
    assert resolve({}, {"GREENML_OUTPUT": "~"}, tmp_path).output == tmp_path / "run.json"
    assert resolve({"output": "~nobody-of-that-name/a.json"}, {}, tmp_path).output == Path(
        "~nobody-of-that-name/a.json"
    )


def test_output_is_a_folder_that_exists_or_a_json_file(tmp_path: Path):
    assert resolve({"output": tmp_path}, {}, tmp_path).output == tmp_path / "run.json"
    assert resolve({"output": "a/b.json"}, {}, tmp_path).output == Path("a/b.json")
    with pytest.raises(SettingsError, match=r"must be a folder that exists or a file that ends in \.json"):
        resolve({"output": tmp_path / "none"}, {}, tmp_path)


@pytest.mark.parametrize(
    ("given", "settled"),
    [("all", "all"), (" ALL ", "all"), ("0,1", [0, 1]), ("", []), ("GPU-ab, 2", ["GPU-ab", 2]),
     ([0, "MIG-1"], [0, "MIG-1"]), ((3,), [3])],
)  # fmt: skip
def test_gpus(tmp_path: Path, given, settled):
    assert resolve({"gpus": given}, {}, tmp_path).gpus == settled


WRONG = [
    ("argument", {"nodes": 0}, "nodes is 0; it must be 1 to"),
    ("argument", {"nodes": 1.5}, "whole number"),
    ("argument", {"nodes": True}, "whole number"),
    ("argument", {"nodes": "two"}, "whole number"),
    ("argument", {"interval": 0.0}, "0.01 to 3600 s"),
    ("argument", {"interval": float("nan")}, "must be a number"),
    ("argument", {"interval": 10**400}, "interval"),
    ("argument", {"carbon_intensity": "low"}, "must be a number"),
    ("argument", {"gpus": 5}, "'all' or a list"),
    ("argument", {"gpus": [0.5]}, "'all' or a list"),
    ("argument", {"output": "run.txt"}, ".json"),
    ("argument", {"output": 5}, "output"),
    ("argument", {"output": "a\0b.json"}, "no null character"),
    ("argument", {"colour": "green"}, "there are basis, carbon_intensity, gpus"),
    ("environment", {"GREENML_NODES": "x"}, "GREENML_NODES is 'x'"),
    ("environment", {"GREENML_PUE": "inf"}, "GREENML_PUE"),
    ("environment", {"GREENML_OUTPUT": "no/such/folder"}, "GREENML_OUTPUT"),
    ("pyproject", '[tool.greenml]\nregoin = "SWE"\n', "did you mean 'region'?"),
    ("pyproject", "[tool.greenml]\nzzz = 1\n", "there are basis, carbon_intensity"),
    ("pyproject", "[tool.greenml\nsku = 1\n", "not valid TOML"),
    ("pyproject", "[tool.greenml]\nnodes = [1]\n", "pyproject.toml nodes is [1]"),
    ("pyproject", "[tool.greenml]\noutput = 5\n", "output"),
    ("pyproject", '# tool.greenml\ntool = "box"\n', None),
    ("pyproject", '[tool]\ngreenml = "x" # tool.greenml\n', "greenml"),
]


@pytest.mark.parametrize(("where", "given", "says"), WRONG, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_that_says_what_would_be_right(tmp_path: Path, where, given, says):
    folder = project(tmp_path, given if where == "pyproject" else "")
    arguments = given if where == "argument" else {}
    environment = given if where == "environment" else {}
    if says is None:
        assert resolve(arguments, environment, folder) == Settings()
        return
    with pytest.raises(SettingsError) as error:
        resolve(arguments, environment, folder)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@given(st.sampled_from(["nodes", "interval", "pue", "gpus", "name", "sku"]), st.text(st.characters(codec="utf-8")))
@example(name="gpus", text="²")  # a digit, and no number
def test_whatever_stands_in_the_environment_is_a_setting_or_one_line(name, text):
    lines = []
    try:
        resolve({}, {f"GREENML_{name.upper()}": text}, Path("/"))
    except SettingsError as error:
        lines = str(error).split("\n")
    assert len(lines) <= 1
