"""Records as a DataFrame: a row a run, units in the names, nothing that is not known as 0."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scripted_study import Scripted, record, study

import greenml
from greenml.record import file as record_file


def test_a_row_a_run_with_units_in_the_names(tmp_path: Path) -> None:
    record_file.write(record(Scripted(seconds=100.0), name="a"), tmp_path / "a" / "run.json")
    made = record(Scripted(seconds=200.0), name="b", params={"lr": 0.1, "data": {"seed": 3}}, metrics={})
    record_file.write(made, tmp_path / "b" / "run.json")
    frame = greenml.to_dataframe(tmp_path)
    assert list(frame["name"]) == ["a", "b"]
    assert list(frame["duration_seconds"]) == [100.0, 200.0]
    assert list(frame["it_energy_joules"]) == [30_000.0, 60_000.0]
    assert list(frame["it_energy_low_joules"]) == [28_500.0, 57_000.0]
    assert list(frame["cost_dedicated_usd"]) == [1.0, 2.0]
    assert frame["power_mean_watts"].mean() == 300.0
    assert list(frame["params.data.seed"].dropna()) == [3]
    assert frame["metrics.predict_rouge1"].isna().tolist() == [False, True]
    assert frame["cpu_energy_joules"].isna().all()
    assert "variant" not in frame


def test_runs_of_a_study_have_their_variant_and_seed(tmp_path: Path) -> None:
    frame = greenml.to_dataframe(
        [study(tmp_path / "study", {"fp32": Scripted(), "fp16": Scripted(watts=250.0)}, seeds=2)]
    )
    joules = frame.groupby("variant")["it_energy_joules"].mean()
    assert sorted(zip(frame["variant"], frame["seed"], strict=True)) == [
        ("fp16", 1), ("fp16", 2), ("fp32", 1), ("fp32", 2),
    ]  # fmt: skip
    assert joules["fp16"] < joules["fp32"]


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(greenml.RecordError, match="no run record"):
        greenml.to_dataframe(tmp_path)
    with pytest.raises(greenml.RecordError, match="no path"):
        greenml.to_dataframe([])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(greenml.SettingsError, match=r"pip install 'greenml\[pandas\]'"):
        greenml.to_dataframe(tmp_path)
