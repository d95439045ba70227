"""The published run elsewhere: what low priority saves, and how its regions rank, with their sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenml.analysis.advice import advise
from greenml.analysis.what_if import ranked, what_if
from greenml.cli import main
from greenml.record import file as record_file
from greenml.record.schema import RunRecord

GOLDEN = Path(__file__).parent / "t5-3b-samsum"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    output = tmp_path / "run.json"
    words = ["--sku", "ND40rs_v2", "--region", "westus2", "--nodes", "1", "--duration", "2631.05"]
    files = [f"azure-monitor-{name}.json" for name in (
        "GpuEnergyJoules", "GpuUtilizationPercentage", "GpuMemoryUtilizationMegabytes", "CpuUtilizationPercentage",
    )]  # fmt: skip
    monitored = [word for name in files for word in ("--azure-monitor", str(GOLDEN / name))]
    with pytest.raises(SystemExit) as end:
        main([
            "import", "--output", str(output), *words, "--codecarbon", str(GOLDEN / "emissions.csv"), *monitored,
            "--trainer-output", str(GOLDEN),
        ])  # fmt: skip
    assert end.value.code == 0
    return output


def read(path: Path) -> RunRecord:
    return record_file.read(path)


def test_low_priority_saves_twelve_dollars_eighty_eight(published, capsys):
    found = what_if(read(published), ("tiers",))
    low = next(tier for tier in found.tiers if tier.name == "low_priority")
    assert low.change_usd == pytest.approx(2631.05 / 3600 * (4.41 - 22.03))
    assert f"{low.change_usd:.2f}" == "-12.88"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["what-if", str(published)])
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if " low priority " in line and "-$" in line)
    assert row.split()[:6] == ["2", "low", "priority", "$3.22", "-$12.88", "-80.0%"]
    assert "$16.10 dedicated" in out


def test_the_regions_rank_by_what_their_grids_and_halls_are(published):
    found = what_if(read(published), ("regions",))
    kwh = 2_448_690.0 / 3.6e6
    rows = [(one.name, one.emissions_grams.value) for one in ranked(found.regions, "carbon")]
    assert rows == [
        ("azure/westeurope", pytest.approx(kwh * 1.14 * 274.4)),
        ("azure/eastus", pytest.approx(kwh * 1.14 * 291.59)),
        ("azure/westus2", pytest.approx(kwh * 1.15 * 289.63)),
        ("azure/usgovvirginia", pytest.approx(kwh * 1.18 * 291.59)),
        ("azure/usgovarizona", pytest.approx(kwh * 1.18 * 373.35)),
        ("azure/southcentralus", pytest.approx(kwh * 1.28 * 370.66)),
        ("azure/southeastasia", pytest.approx(kwh * 1.34 * 412.26)),
    ]


def test_the_ranking_prints_its_sources(published, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["what-if", str(published), "--regions"])
    out = capsys.readouterr().out
    sources = out[out.index("\nSources\n") :]
    for words in (
        "eGRID",
        "Green Software Foundation), 2026-02-24",
        "Apache Libcloud), 2020-08-30",
        "Azure Machine Learning price of ND40rs_v2 in West US 2 (Microsoft), 2021-07-01",
    ):
        assert words in " ".join(sources.split())
    assert "0.6802 kWh of IT energy, reported" in " ".join(out.split())


def test_the_advice_claims_what_the_imported_figures_support_and_no_more(published):
    made = advise(read(published))
    assert [finding.rule for finding in made.findings] == ["preemptible"]
    silent = {one.rule: one.why for one in made.silent}
    assert silent["evaluation"] == "the phase eval came once: it cannot be done less often"
    assert "fp16" in silent["mixed-precision"]
    assert len(silent) == 8
