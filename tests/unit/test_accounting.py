"""Energy x factors: totals that recompute from the record, intervals that multiply, unknowns that say why."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.accounting import totals
from greenml.record.schema import (
    DeviceRecord,
    Factor,
    Factors,
    Note,
    PlaceRecord,
    Quantity,
    RunRecord,
    SourceRef,
    UncertaintyBudget,
    Usage,
)  # fmt: skip
from greenml.reports import markdown

SOURCE = SourceRef(name="a table", url="https://example.org", published="2026-01-01")


def factor(value: float, low: float | None = None, high: float | None = None, **more: object) -> Factor:
    made = {"value": value, "low": value if low is None else low, "high": value if high is None else high}
    return Factor.model_validate({**made, "unit": "1", "scope": "given", "source": SOURCE, **more})


def device(name: str, kind: str = "gpu", joules: float | None = None, method: str = "counter", **more: object):
    usage = {"energy_joules": joules, **more}
    if joules is not None:
        usage = {"energy_low_joules": joules * 0.95, "energy_high_joules": joules * 1.1, **usage}
    elif "why" not in more:
        usage["why"] = f"{name}: lost"
    record = DeviceRecord(
        id=name, kind=kind, name=name, host="node", method=method, sensor="nvml", usage=Usage.model_validate(usage)
    )
    return record, record.usage


FACTORS = Factors(
    carbon_intensity=factor(400.0, 300.0, 600.0),
    pue=factor(1.2, 1.1, 1.5),
    prices={"dedicated": factor(22.03), "low_priority": factor(4.4, 4.3, 4.5, derived=True)},
)


def test_totals_are_the_sum_of_the_devices_times_the_factors():
    used = [device("g0", joules=3.6e6), device("g1", joules=7.2e6), device("cpu", "cpu", 1.8e6, "estimate")]
    made = totals.totals("run", 7200.0, used, FACTORS, nodes=3)
    assert made.gpu_energy_joules.value == pytest.approx(10.8e6)
    assert made.gpu_energy_joules.basis == "measured"
    assert made.cpu_energy_joules.basis == "modelled"
    assert made.it_energy_joules.value == pytest.approx(12.6e6)
    assert made.it_energy_joules.basis == "modelled", "a sum is known no better than its worst part"
    assert made.facility_energy_joules.value == pytest.approx(12.6e6 * 1.2)
    assert made.emissions_grams.value == pytest.approx(3.5 * 1.2 * 400.0)
    # Three unlike devices: 0.05, 0.1 and 0.025 kWh down, twice that up, in quadrature: 0.11456 and 0.22913 kWh.
    assert made.it_energy_joules.low == pytest.approx(3.6e6 * (3.5 - 0.114564), rel=1e-6)
    assert made.it_energy_joules.high == pytest.approx(3.6e6 * (3.5 + 0.229129), rel=1e-6)
    # Relative, down: 3.27 % of energy, 8.33 % of PUE, 25 % of intensity; up: 6.55 %, 25 %, 50 %.
    assert made.emissions_grams.low == pytest.approx(1680 * (1 - 0.265548), rel=1e-5)
    assert made.emissions_grams.high == pytest.approx(1680 * (1 + 0.562837), rel=1e-5)
    assert made.cost_usd["dedicated"].value == pytest.approx(2 * 3 * 22.03)
    assert made.cost_usd["dedicated"].basis == "assumed"
    assert made.cost_usd["low_priority"].basis == "derived"
    assert made.cost_usd["low_priority"].high == pytest.approx(2 * 3 * 4.5)


def test_what_is_not_known_is_none_and_says_why():
    made = totals.totals("run", 100.0, [device("g0"), device("g1", why="g1: no driver")], FACTORS, 1)
    assert made.gpu_energy_joules == Quantity(value=None, basis="measured", why="g0: lost; g1: no driver")
    for quantity in (made.it_energy_joules, made.facility_energy_joules, made.emissions_grams):
        assert quantity.value is None
        assert "g1: no driver" in quantity.why
    assert made.cpu_energy_joules.value is None
    assert made.cpu_energy_joules.why.startswith("no CPU ")
    assert made.gpu_utilization_ratio is None
    nothing = totals.totals("run", 100.0, [], Factors(), 1)
    assert nothing.it_energy_joules.why == "nothing was measured"
    assert nothing.cost_usd == {}


def test_one_gpu_of_two_is_named_and_the_other_counts():
    made = totals.totals("run", 100.0, [device("g0", joules=1000.0), device("g1")], FACTORS, 1)
    assert made.gpu_energy_joules.value == 1000.0
    why = "1 of 2 GPUs measured, without g1; g1: lost; no upper end, for its power limit is not known"
    for quantity in (made.gpu_energy_joules, made.it_energy_joules, made.facility_energy_joules, made.emissions_grams):
        assert (quantity.why, quantity.at_least, quantity.high) == (why, True, None)
    assert (made.gpu_count, made.gpu_measured_count) == (2, 1)


def test_a_missing_factor_is_none_downstream_only():
    used = [device("g0", joules=1000.0)]
    no_intensity = totals.totals("run", 1.0, used, Factors(pue=factor(1.5)), 1)
    assert no_intensity.facility_energy_joules.value == 1500.0
    assert no_intensity.emissions_grams.value is None
    assert no_intensity.emissions_grams.why == "no carbon intensity is known"
    no_pue = totals.totals("run", 1.0, used, Factors(carbon_intensity=factor(100.0)), 1)
    assert no_pue.it_energy_joules.value == 1000.0
    assert (no_pue.facility_energy_joules.value, no_pue.emissions_grams.value) == (None, None)


def test_an_unknown_cpu_does_not_hide_the_gpu():
    made = totals.totals("run", 1.0, [device("g0", joules=10.0), device("cpu", "cpu", why="cpu: no RAPL")], FACTORS, 1)
    assert made.it_energy_joules.value == 10.0
    assert made.it_energy_joules.why == "cpu: no RAPL"
    assert made.dram_energy_joules.value is None
    assert made.dram_energy_joules.why.startswith("no DRAM ")


def test_figures_without_a_band_stay_without_one_until_a_factor_has_one():
    used = [device("g0", joules=1000.0, method="reported", energy_low_joules=None, energy_high_joules=None)]
    made = totals.totals("run", 1.0, used, FACTORS, 1)
    assert (made.gpu_energy_joules.low, made.gpu_energy_joules.high) == (None, None)
    assert made.gpu_energy_joules.basis == "reported"
    assert made.facility_energy_joules.low == pytest.approx(1100.0)


def test_the_peak_is_the_mean_over_the_used_gpus():
    used = [
        device("g0", joules=1.0, utilization_ratio=0.9, memory_max_bytes=30e9, memory_mean_bytes=20e9),
        device("g1", joules=1.0, utilization_ratio=0.5, memory_max_bytes=20e9, memory_mean_bytes=10e9),
        device("idle", joules=1.0, utilization_ratio=0.0, memory_max_bytes=1e6, memory_mean_bytes=1e6),
    ]
    made = totals.totals("run", 1.0, used, Factors(), 1)
    assert made.gpu_memory_peak_bytes == pytest.approx(25e9)
    assert made.gpu_utilization_ratio == pytest.approx(1.4 / 3)
    all_idle = totals.totals("run", 1.0, used[2:], Factors(), 1)
    assert all_idle.gpu_memory_peak_bytes == pytest.approx(1e6)


def test_a_figure_of_several_devices_weighs_as_many():
    eight, one = device("azure", joules=1.0, utilization_ratio=0.5), device("g", joules=1.0, utilization_ratio=0.95)
    used = [(eight[0].model_copy(update={"count": 8}), eight[1]), one]
    assert totals.totals("run", 1.0, used, Factors(), 1).gpu_utilization_ratio == pytest.approx((4 + 0.95) / 9)


def test_hosts_are_not_devices_with_energy():
    host = device("host", "host", joules=None, method=None, utilization_ratio=0.4, memory_max_bytes=7e9)
    made = totals.totals("run", 1.0, [device("g0", joules=5.0), host], FACTORS, 1)
    assert made.it_energy_joules.value == 5.0
    assert made.it_energy_joules.why == ""
    assert (made.cpu_utilization_ratio, made.host_memory_peak_bytes) == (0.4, 7e9)


bands = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)).map(sorted)


@given(energy=bands, pue=bands, intensity=bands, seconds=st.floats(0, 1e6), nodes=st.integers(1, 64))
def test_every_total_lies_in_its_band(energy, pue, intensity, seconds, nodes):
    low, value, high = energy
    used = [device("g0", joules=value, energy_low_joules=low, energy_high_joules=high)]
    factors = Factors(
        pue=factor(pue[1], pue[0], pue[2]),
        carbon_intensity=factor(intensity[1], intensity[0], intensity[2]),
        prices={"spot": factor(pue[1], pue[0], pue[2])},
    )
    made = totals.totals("run", seconds, used, factors, nodes)
    for one in (made.facility_energy_joules, made.emissions_grams, made.cost_usd["spot"]):
        assert one.value is not None
        assert one.low <= one.value * (1 + 1e-9) + 1e-12
        assert one.value <= one.high * (1 + 1e-9) + 1e-12
    corner = high / 3.6e6 * pue[2] * intensity[2]  # everything at its highest at once: no interval goes beyond
    assert made.emissions_grams.high <= corner * (1 + 1e-9) + 1e-12
    assert made.emissions_grams.low >= low / 3.6e6 * pue[0] * intensity[0] - 1e-9 * made.emissions_grams.value - 1e-12


def unmeasured(limit: float | None) -> tuple[DeviceRecord, Usage]:
    """A GPU that was there for 100 s and told no energy."""
    usage = Usage(
        why="vGPU: no energy",
        uncertainty=UncertaintyBudget(coverage_joules=None if limit is None else limit * 100.0),
    )
    record = DeviceRecord(
        id="vgpu", kind="gpu", name="vGPU", host="n", method=None, sensor="nvml", power_limit_watts=limit, usage=usage
    )
    return record, usage


def measured(kind: str, joules: float) -> tuple[DeviceRecord, Usage]:
    usage = Usage(
        energy_joules=joules, energy_low_joules=joules, energy_high_joules=joules, covered_seconds=100.0,
        uncertainty=UncertaintyBudget(),
    )  # fmt: skip
    record = DeviceRecord(id=kind, kind=kind, name=kind, host="n", method="counter", sensor="x", usage=usage)
    return record, usage


@pytest.mark.parametrize("kind", ["gpu", "cpu", "dram"])
@pytest.mark.parametrize("limit", [300.0, None])
def test_a_gpu_that_was_not_measured_makes_every_total_at_least(kind, limit):
    """Whatever else was measured: the interval reaches to its power limit over the time that it was there."""
    made = totals.totals("run", 100.0, [measured(kind, 5000.0), unmeasured(limit)], FACTORS, 1)
    energy, facility = made.it_energy_joules, made.facility_energy_joules
    assert (energy.value, energy.low, energy.at_least) == (5000.0, 5000.0, True)
    assert energy.high == (None if limit is None else 5000.0 + 300.0 * 100.0)
    assert facility.at_least
    assert made.emissions_grams.at_least
    assert (facility.high is None) == (made.emissions_grams.high is None) == (limit is None)
    assert (made.gpu_count, made.gpu_measured_count) == ((2, 1) if kind == "gpu" else (1, 0))
    assert "vGPU" in energy.why


@pytest.mark.parametrize("covered", [100.0, 98.5, 60.0])
def test_a_gpu_lost_midway_makes_its_total_at_least(covered):
    record, usage = measured("gpu", 5000.0)
    lost = 300.0 * (100.0 - covered)
    usage.covered_seconds, usage.energy_high_joules = covered, 5000.0 + lost
    usage.uncertainty = UncertaintyBudget(coverage_joules=lost)
    record.power_limit_watts = 300.0
    made = totals.totals("run", 100.0, [(record, usage), measured("cpu", 10.0)], FACTORS, 1)
    partly = covered < 98.0
    assert made.it_energy_joules.at_least == made.emissions_grams.at_least == partly
    assert made.it_energy_joules.high == pytest.approx(5010.0 + lost)
    assert made.gpu_energy_joules.why == ("without 40.0 s of gpu" if partly else "")
    assert (made.gpu_count, made.gpu_measured_count) == (1, 0 if partly else 1)


def test_a_driver_that_never_answered_makes_every_total_at_least():
    """How many GPUs there are is not known: the rest is no total, and no report says that there were none."""
    cpu, usage = measured("cpu", 5000.0)
    note = Note(code="sensor-hung", text="nvml never answered; what it would have measured is missing")
    record = RunRecord(
        greenml_version="0", run_id="r", status="completed", started=datetime(2026, 1, 1, tzinfo=timezone.utc),
        duration_seconds=100.0, devices=[cpu.model_copy(update={"usage": usage})], notes=[note],
        factors=Factors(), ended=None, place=PlaceRecord(),
    )  # fmt: skip
    [made] = totals.totals_of(record, Factors(pue=factor(1.5)), 1)
    assert made.it_energy_joules.at_least
    assert (made.it_energy_joules.value, made.it_energy_joules.high, made.facility_energy_joules.high) == (
        5000,
        None,
        None,
    )
    assert "nvml never answered" in made.it_energy_joules.why
    assert not markdown.has_no_gpu(record)
    [without] = totals.totals_of(record.model_copy(update={"notes": []}), Factors(), 1)
    assert not without.it_energy_joules.at_least
