"""--explain: every line can be followed to its result, every result is the record's, every doubt has its part."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from greenml.accounting import assumptions
from greenml.analysis import explanation
from greenml.errors import RecordError, SettingsError
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Factors,
    IntensityScope,
    IntensitySeriesRecord,
    IntensitySlotRecord,
    PhaseRecord,
    PlaceRecord,
    RunRecord,
    SourceRef,
    UncertaintyBudget,
    Usage,
)
from greenml.settings import Settings

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "t5-3b-samsum"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def follow(text: str) -> list[tuple[str, float, float]]:
    """Compute every printed line anew, from its own words: (line, what follows, what is printed)."""
    found = []
    for line in text.splitlines():
        if " = " not in line or line.lstrip().startswith("-"):
            continue
        left, right = line.split(":", 1)[-1].rsplit(" = ", 1)
        words = [NUMBER.match(word)[0] if NUMBER.match(word) else word for word in left.split()]
        words = [{"x": "*"}.get(word, word) for word in words if NUMBER.fullmatch(word) or word in ("x", "/", "+")]
        found.append((line.strip(), eval(" ".join(words)), float(NUMBER.match(right)[0])))
    return found


def holds(text: str, least: int) -> None:
    lines = follow(text)
    assert len(lines) >= least, text
    for line, follows, printed in lines:
        assert follows == pytest.approx(printed, rel=2e-9), line


def a100(at: int, joules: float, **own: float) -> DeviceRecord:
    parts = {f"{source}_joules": value for source, value in own.items()}
    spread = math.hypot(own.get("calibration", 0.0), own.get("quantisation", 0.0), own.get("unsampled", 0.0))
    usage = Usage(
        energy_joules=joules,
        energy_low_joules=joules - spread,
        energy_high_joules=joules + spread + own.get("coverage", 0.0),
        uncertainty=UncertaintyBudget(**parts),
        covered_seconds=990.0,
        power_mean_watts=joules / 990.0,
    )
    return DeviceRecord(
        id=f"GPU-{at}", kind="gpu", name="NVIDIA A100-SXM4-40GB", host="node", method="counter", sensor="nvml",
        calibration_ratio=0.05, step_seconds=0.1, power_limit_watts=400.0, detail={"index": str(at)}, usage=usage,
    )  # fmt: skip


def cpu(joules: float, gain: float) -> DeviceRecord:
    usage = Usage(
        energy_joules=joules, energy_low_joules=joules - gain, energy_high_joules=joules + gain,
        uncertainty=UncertaintyBudget(calibration_joules=gain), covered_seconds=1000.0,
        power_mean_watts=joules / 1000.0,
    )  # fmt: skip
    return DeviceRecord(
        id="cpu", kind="cpu", name="AMD EPYC 7V12", host="node", method="estimate", sensor="estimate", usage=usage
    )


def run(devices: list[DeviceRecord], counts: dict[str, float] | None = None, **settings: object) -> RunRecord:
    start = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
    attempts = [
        AttemptRecord(number=at + 1, started=start, ended=start, seconds=seconds, status="completed")
        for at, seconds in enumerate((400.0, 600.0))
    ]
    train = PhaseRecord(
        path="train",
        count=1,
        seconds=800.0,
        spans=[(100.0, 900.0)],
        usage={device.id: device.usage for device in devices},
    )
    measured = RunRecord(
        greenml_version="0", run_id="r", status="completed", started=start, ended=start, duration_seconds=1000.0,
        attempts=attempts, place=PlaceRecord(), devices=devices, factors=Factors(), phases=[train],
        trainer={"counts": counts} if counts else {},
    )  # fmt: skip
    return assumptions.account(measured, assumptions.check(Settings(**settings)))


@pytest.fixture
def gpus() -> list[DeviceRecord]:
    return [a100(at, 200_000.0 + at, calibration=10_000.0, quantisation=30.0, coverage=4_000.0) for at in range(8)]


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "run"
    shutil.copytree(GOLDEN, folder)
    metrics = sorted(path.name for path in folder.glob("azure-monitor-*.json"))
    words = ["--sku", "ND40rs_v2", "--region", "westus2", "--nodes", "1", "--duration", "2631.05"]
    words += ["--codecarbon", "emissions.csv", "--trainer-output", ".", "--azure-monitor", *metrics]
    done = greenml(folder, "import", *words)
    assert done.returncode == 0, done.stderr
    return folder


def greenml(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "greenml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_published_cost_step_by_step(golden):
    told = greenml(golden, "report", "run.json", "--explain", "cost").stdout
    assert "Cost, dedicated: $16.10" in told
    assert "22.03 USD/h x 2631.05 s / 3600 s/h x 1 node = 16.10056431 USD" in told
    assert "Azure Machine Learning price of ND40rs_v2 in West US 2 (Microsoft), 2021-07-01" in " ".join(told.split())
    holds(told, 3)


def test_the_published_emissions_step_by_step(golden):
    """0.178 kg is 0.5982 kWh at the tables' 297.6 g/kWh, as CodeCarbon computed it."""
    told = greenml(golden, "report", "run.json", "--explain", "emissions").stdout
    assert "as CodeCarbon reported them: 0.178 kg CO2e" in told
    assert "reported: 0.598202034 kWh x 297.6 g/kWh / 1000 g/kg = 0.1780249253 kg" in told
    assert "by the tables: 0.598202034 kWh x 297.6 g/kWh / 1000 g/kg = 0.1780249253 kg" in told
    assert "both are the same" in told
    assert "2815993.5 J / 3600000 J/kWh x 297.6 g/kWh = 232.788796 g" in told
    holds(told, 4)


def test_a_given_intensity_is_not_called_the_tables(golden):
    told = greenml(golden, "report", "run.json", "--carbon-intensity", "100", "--explain", "emissions").stdout
    assert "by this report: 0.598202034 kWh x 100 g/kWh / 1000 g/kg = 0.0598202034 kg" in told
    assert "by the tables" not in told


def test_every_headline_of_the_published_run_can_be_followed(golden):
    told = greenml(golden, "report", "--explain", "run.json").stdout
    holds(told, 7)
    headings = re.findall(r"^\d+\. (.+?):", told, re.MULTILINE)
    assert headings[0] == "Duration"
    assert [heading for heading in headings if heading.startswith("Cost")] == [
        "Cost, dedicated",
        "Cost, low priority",
        "Cost, spot",
    ]
    assert len(set(headings)) == len(headings), "a step stands once, however many figures need it"
    record = json.loads((golden / "run.json").read_text())
    water = record["totals"][0]["water_liters"]["value"]
    assert f"= {water:.10g} L" in told


def test_a_measured_run_from_its_devices_to_the_totals(gpus):
    record = run([*gpus, cpu(50_000.0, 25_000.0)], region="westus2", sku="ND96asr_v4")
    told = explanation.render(explanation.explain(record), width=100)
    holds(told, 8 + 1 + 6)
    total = record.total()
    assert f"{total.it_energy_joules.value:.10g} J x {record.factors.pue.value}" in told
    assert told.count("energy counter, last reading less first") == 8
    assert "400 s + 600 s = 1000 s" in told


def test_each_doubt_has_its_part_of_the_variance(gpus):
    """Eight gains of 10 kJ are 80 kJ; with 25 kJ of the model's they make 83.8 kJ: 91 and 9 % of the variance."""
    record = run([*gpus, cpu(50_000.0, 25_000.0)], region="westus2")
    (step,) = (one for one in explanation.explain(record, "energy") if one.name == "energy")
    parts = {share.source: share for share in step.shares}
    gain, model = (
        parts["calibration, nvml, gpu, NVIDIA A100-SXM4-40GB"],
        parts["calibration, estimate, cpu, AMD EPYC 7V12"],
    )
    edge, gap = parts["quantisation"], parts["coverage"]
    squares = 80_000.0**2 + 25_000.0**2 + 8 * 30.0**2
    assert gain.up == gain.down == 80_000.0
    assert gain.of_variance == pytest.approx(80_000.0**2 / squares)
    assert model.of_variance == pytest.approx(25_000.0**2 / squares)
    assert edge.up == pytest.approx(30 * math.sqrt(8))
    assert (gap.down, gap.up, gap.of_variance) == (0.0, 32_000.0, None)
    assert sum(share.of_variance or 0.0 for share in step.shares) == pytest.approx(1.0)
    low, high = step.interval
    value = record.total().it_energy_joules.value
    assert value - low == pytest.approx(math.sqrt(squares))
    assert high - value == pytest.approx(math.sqrt(squares) + 32_000.0)


def test_every_band_follows_from_the_doubts_that_are_shown(gpus):
    """Value, the quadrature of the doubts, and a gap upward: nothing else is in an interval."""
    record = run([*gpus, cpu(50_000.0, 25_000.0)], region="westus2", sku="ND96asr_v4", market_intensity=20.0)
    steps = [step for step in explanation.explain(record) if step.shares]
    assert {"facility", "emissions", "market", "water", "energy", "gpu_energy"} <= {step.name for step in steps}
    for step in steps:
        value = step.lines[-1].result
        low, high = step.interval
        gap = sum(share.up for share in step.shares if share.of_variance is None)
        assert value - low == pytest.approx(math.hypot(*(share.down for share in step.shares))), step.name
        ups = (share.up for share in step.shares if share.of_variance is not None)
        assert high - value == pytest.approx(math.hypot(*ups) + gap), step.name


def test_the_largest_doubt_of_emissions_comes_first(gpus):
    record = run(gpus, region="westus2")
    (step,) = (one for one in explanation.explain(record, "emissions") if one.name == "emissions")
    assert step.shares[0].source == "carbon intensity"
    assert [share.of_variance for share in step.shares[:-1]] == sorted(
        (share.of_variance for share in step.shares[:-1]), reverse=True
    )
    grams = record.total().emissions_grams
    ratio = record.factors.carbon_intensity.high / record.factors.carbon_intensity.value - 1
    assert step.shares[0].up == pytest.approx(grams.value * ratio)


def test_many_devices_are_counted_together():
    record = run(
        [a100(at, 1000.0 + random.Random(at).random(), calibration=50.0) for at in range(64)], region="westus2"
    )
    told = explanation.render(explanation.explain(record, "gpu_energy"))
    assert "64 devices" in told
    assert len(told.splitlines()) < 20


def test_water_embodied_market_and_sci_can_be_followed(gpus):
    counts = {"samples": 40_000, "tokens": 9_000_000, "epochs": 3}
    record = run(gpus, counts, region="westus2", sku="ND96asr_v4", market_intensity=20.0)
    told = explanation.render(explanation.explain(record))
    holds(told, 20)
    for words in (
        "Water, on site",
        "market-based",
        "per 1,000 samples",
        "per million tokens",
        "per epoch",
        "least: ",
        "most: ",
    ):
        assert words in told


def hourly(joules: list[float], grams: list[float]) -> IntensitySeriesRecord:
    """A course of the run's hours: what it used in each, at so many g/kWh."""
    start = datetime(2026, 3, 1, tzinfo=timezone.utc)
    hours = [start + timedelta(hours=at) for at in range(len(grams) + 1)]
    scope = IntensityScope(
        covered_joules=sum(joules), uncovered_joules=0.0,
        covered_grams_per_kwh=sum(a * b for a, b in zip(joules, grams, strict=True)) / sum(joules),
    )  # fmt: skip
    return IntensitySeriesRecord(
        provider="scripted", signal="average", area="ZZ", source=SourceRef(name="a grid"), energy_from="curves",
        low_grams_per_kwh=min(grams), high_grams_per_kwh=max(grams), covered_seconds=1000.0, uncovered_seconds=0.0,
        covered_time_mean_grams_per_kwh=sum(grams) / len(grams), time_mean_grams_per_kwh=sum(grams) / len(grams),
        scopes={"run": scope, "train": scope},
        slots=[
            IntensitySlotRecord(start=a, end=b, grams_per_kwh=g, it_energy_joules={"run": j, "train": j})
            for (a, b), j, g in zip(pairwise(hours), joules, grams, strict=True)
        ],
    )  # fmt: skip


@pytest.mark.parametrize("hours", [3, 40])
def test_an_intensity_over_time_is_a_sum_over_its_slots(hours):
    """Three hours are listed; of forty, those past the twenty-fourth stand as one, and it still adds up."""
    joules = [100_000.0 + 1000 * at for at in range(hours)]
    grams = [50.0 + 10 * at for at in range(hours)]
    factors = Factors(intensity_series=hourly(joules, grams))
    measured = run([a100(0, sum(joules), calibration=1000.0)]).model_copy(update={"factors": factors})
    record = assumptions.account(measured, Settings(region="SWE", pue=1.2, intensity="uk_grid"))
    told = explanation.render(explanation.explain(record, "emissions"))
    holds(told, 5)
    assert "the sum over the slots of energy x intensity" in " ".join(told.split())
    assert "100000 J x 50 g/kWh + 101000 J x 60 g/kWh" in told
    assert ("are one here" in told) == (hours > 24)
    exact = 1.2 * sum(a * b for a, b in zip(joules, grams, strict=True)) / 3.6e6
    assert record.total().emissions_grams.value == pytest.approx(exact)
    assert f"= {exact:.9f}"[:9] in told


def test_a_wrong_figure_says_what_is_right(gpus):
    with pytest.raises(SettingsError, match=r"no figure is called 'co2'; there are duration, .*emissions"):
        explanation.explain(run(gpus), "co2")
    with pytest.raises(RecordError, match="no totals"):
        explanation.explain(run(gpus).model_copy(update={"totals": []}))


def test_what_is_not_known_is_said(golden):
    told = greenml(golden, "report", "run.json", "--explain", "cpu_energy").stdout
    assert "CPU energy: not measured (no CPU energy was imported)" in told
    assert greenml(golden, "report", "run.json", "--explain", "co2").returncode == 2
