"""What a run would have been elsewhere: the same energy, other factors, and what their doubts can tell apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.accounting import assumptions
from greenml.analysis.what_if import (
    Option,
    carbon_uncertainty,
    compared,
    cost_uncertainty,
    ranked,
    render,
    start_times,
    what_if,
    with_starts,
)
from greenml.cli import main
from greenml.errors import FactorError
from greenml.factors import tables
from greenml.factors.types import IntensitySeries, IntensitySlot, Source
from greenml.record import file as record_file
from greenml.record.schema import DeviceRecord, Factors, Host, PlaceRecord, RunRecord, Series, Timeline, Usage
from greenml.settings import Settings

START = datetime(2021, 7, 6, 21, 15, tzinfo=timezone.utc)
SECONDS = 7200.0
KWH = 5.0
JOULES = KWH * 3.6e6


def run(doubt: float = 0.05, **more: Any) -> RunRecord:
    usage = Usage(energy_joules=JOULES, energy_low_joules=JOULES * (1 - doubt), energy_high_joules=JOULES * (1 + doubt))
    gpu = DeviceRecord(id="GPU-0", kind="gpu", name="V100", host="n", method="counter", sensor="nvml", usage=usage)
    fields = {
        "greenml_version": "0.1.0", "run_id": "r", "status": "completed", "started": START,
        "ended": START + timedelta(seconds=SECONDS), "duration_seconds": SECONDS, "hosts": [Host(name="n")],
        "place": PlaceRecord(), "devices": [gpu], "factors": Factors(),
    }  # fmt: skip
    return RunRecord(**{**fields, **more})


def accounted(measured: RunRecord | None = None, **told: Any) -> RunRecord:
    told = told or {"sku": "ND40rs_v2", "region": "westus2"}
    settings = assumptions.check(Settings(**told, known_from=dict.fromkeys(told, "argument")))
    return assumptions.account(measured or run(), settings)


def named(options: tuple[Option, ...], name: str) -> Option:
    return next(option for option in options if option.name == name)


def test_another_region_is_the_same_energy_times_its_own_factors():
    found = what_if(accounted(), ("regions",))
    there = named(found.regions, "azure/eastus")
    assert there.emissions_grams.value == pytest.approx(KWH * 1.14 * 291.59)
    assert there.change_grams == pytest.approx(KWH * (1.14 * 291.59 - 1.15 * 289.63))
    assert there.usd == pytest.approx(2 * 22.032)
    assert there.change_usd == pytest.approx(2 * (22.032 - 22.03))
    assert found.run.emissions_grams.value == pytest.approx(KWH * 1.15 * 289.63)
    assert [region.name for region in found.regions if region.is_run] == ["azure/westus2"]
    assert found.tiers == found.skus == ()


def test_the_ranking_begins_with_the_least():
    found = what_if(accounted(), ("regions",))
    by_carbon = [one.emissions_grams.value for one in ranked(found.regions, "carbon")]
    by_cost = [one.usd for one in ranked(found.regions, "cost")]
    assert by_carbon == sorted(by_carbon)
    assert by_cost == sorted(by_cost)
    assert by_carbon != by_cost


@pytest.mark.parametrize("doubt", [0.0, 0.05, 0.5])
def test_the_doubt_of_the_energy_cancels(doubt):
    found = what_if(accounted(run(doubt)), ("regions",))
    there = named(found.regions, "azure/eastus")
    # 332.41 g a kWh of IT energy against 333.07: each may lie as far toward the other as its interval goes.
    by_hand = KWH * math.hypot((320.749 - 291.59) * 1.14, (289.63 - 260.667) * 1.15)
    assert carbon_uncertainty(there, found.run) == pytest.approx(by_hand)
    assert there.carbon_apart is False
    assert named(found.regions, "azure/southcentralus").carbon_apart is True


def test_a_provider_s_average_pue_does_not_cancel_between_two_regions():
    found = what_if(accounted(sku="ND40rs_v2", region="usgovarizona"), ("regions",))
    there = named(found.regions, "azure/usgovvirginia")
    here, other = found.run.factors, there.factors
    for factors in (here, other):
        assert factors.pue is not None
        assert (factors.pue.value, factors.pue.low, factors.pue.high) == (1.18, 1.11, 1.35)
    by_hand = KWH * math.hypot(
        (373.35 - 320.32) * 1.18, (1.18 - 1.11) * 373.35, (320.749 - 291.59) * 1.18, (1.35 - 1.18) * 291.59
    )
    assert carbon_uncertainty(there, found.run) == pytest.approx(by_hand, rel=1e-4)


def test_the_same_grid_cancels():
    found = what_if(accounted(), ("tiers", "skus"))
    assert carbon_uncertainty(named(found.tiers, "low_priority"), found.run) == 0.0
    assert named(found.tiers, "low_priority").change_grams == 0.0
    assert named(found.tiers, "low_priority").carbon_apart is False


@pytest.mark.parametrize("basis", ["direct", "lifecycle"])
def test_a_ranking_has_one_basis(basis):
    """Show 4: over all of the cloud's regions, with a price or not."""
    found = what_if(accounted(sku="ND40rs_v2", region="westus2", basis=basis), ("regions",), every=True)
    assert len(found.regions) > 50
    assert {option.factors.carbon_intensity.basis for option in found.regions} == {basis}
    assert f"Regions, by carbon on the {basis} basis" in render(found)


def test_a_figure_on_another_basis_stands_apart_and_unranked():
    found = what_if(accounted(), ("regions",))
    there = named(found.regions, "azure/westeurope")
    factor = there.factors.carbon_intensity.model_copy(update={"basis": "lifecycle"})
    other = replace(there, factors=there.factors.model_copy(update={"carbon_intensity": factor}))
    apart = compared(other, found.run)
    assert not apart.comparable
    assert apart.change_grams is None
    options = (*(option for option in found.regions if option is not there), apart)
    assert apart not in ranked(options, "carbon")
    assert apart in ranked(options, "cost")
    text = render(replace(found, regions=options), by="carbon")
    assert "Not ranked, with a figure on another basis or none: azure/westeurope (274.4 g/kWh, lifecycle)." in text


def test_a_given_figure_against_the_tables_is_marked():
    record = accounted(sku="ND40rs_v2", region="westus2", carbon_intensity=21.5, price_per_hour=9.0)
    there = named(what_if(record, ("regions",)).regions, "azure/eastus")
    assert there.change_grams == pytest.approx(KWH * (1.14 * 291.59 - 1.15 * 21.5))
    assert there.change_usd == pytest.approx(2 * (22.032 - 9.0))
    assert set(there.warnings) == {
        "the run's intensity was given, this one is the tables'",
        "the run's price was given, this one is a list price",
    }


def test_tiers_are_told_apart_by_their_prices():
    found = what_if(accounted(), ("tiers",))
    low = named(found.tiers, "low_priority")
    assert low.change_usd == pytest.approx(2 * (4.41 - 22.03))
    assert low.cost_apart is True
    assert "can be preempted" in low.warnings
    assert any(warning.startswith("price of 2025-02-13") for warning in named(found.tiers, "spot").warnings)
    assert not any(warning.startswith("price of") for warning in low.warnings)


def test_a_derived_price_counts_with_its_band():
    record = accounted(sku="NC24ads_A100_v4", region="westus2", tier="low_priority")
    found = what_if(record, ("tiers",))
    price = record.factors.prices["low_priority"]
    assert price.derived
    dedicated = named(found.tiers, "dedicated")
    assert cost_uncertainty(dedicated, found.run) == pytest.approx(2 * (price.high - price.value))
    assert dedicated.change_usd == pytest.approx(2 * price.value * 4, rel=1e-6)


def test_regions_without_a_price_are_counted_not_hidden():
    record = accounted()
    some, every = what_if(record, ("regions",)), what_if(record, ("regions",), every=True)
    azure = {row["region"] for row in tables.rows("regions") if row["cloud"] == "azure"}
    assert len(every.regions) == len(azure)
    assert some.left_out == (
        f"{len(azure) - len(some.regions)} regions of azure have no price of ND40rs_v2 in the tables; --all ranks them "
        "too",
    )
    assert named(every.regions, "azure/swedencentral").usd is None


def test_only_sizes_with_the_same_gpus_are_claimed():
    found = what_if(accounted(), ("skus",))
    names = {one.name for one in found.skus}
    assert names == {"azure/ND40rs_v2", "aws/p3dn.24xlarge"}, "p3.16xlarge has as many V100, of 16 GB"
    other = named(found.skus, "aws/p3dn.24xlarge")
    listed = [row for row in tables.lookup("prices", "aws", "p3dn.24xlarge") if row["tier"] == "dedicated"]
    assert other.usd == pytest.approx(2 * min(float(row["usd_per_hour"]) for row in listed))
    assert other.region.startswith("aws/")


def test_a_card_of_another_form_is_another_gpu():
    found = what_if(accounted(sku="NC24s_v3", region="westus2"), ("skus",))  # V100 of 16 GB, PCIe
    warned = {one.name: one.warnings for one in found.skus}
    assert "azure/NC24rs_v3" in warned
    assert not {"aws/p3.8xlarge", "oci/VM.GPU3.4", "verda/4V100.20V"} & set(warned)  # SXM2
    assert warned["azure/NC24rs_v3"][0] == "another machine around the same GPUs"
    assert warned["ovhcloud/t1-le-180"][0] == "another machine, whose GPUs may have another form (PCIe, SXM)"


def test_a_card_whose_memory_clouds_tell_otherwise_is_the_same_gpu():
    found = what_if(accounted(sku="p6-b200.48xlarge", region="us-east-1"), ("skus",))  # 179 GB; others say 180
    assert {"lambda/gpu_8x_b200_sxm6", "oci/BM.GPU.B200.8"} <= {one.name for one in found.skus}


def test_a_seller_that_names_no_region_has_a_price_and_no_carbon():
    found = what_if(accounted(sku="NV36ads_A10_v5", region="westus2"), ("skus",))
    nowhere = [one for one in found.skus if not one.region]
    for one in nowhere:
        assert one.emissions_grams.value is None
        assert "names no region" in one.emissions_grams.why
        assert one.usd is not None
    assert nowhere


def test_regions_are_not_ranked_by_a_cost_that_none_has():
    told = render(what_if(accounted(region="uksouth"), ("regions",)))
    assert "Regions, by carbon" in told
    assert "Regions, by cost" not in told


def test_what_is_not_known_is_said():
    found = what_if(accounted(region="SWE"))
    assert found.regions == found.tiers == found.skus == ()
    assert set(found.silent) == {"regions", "tiers", "skus"}
    text = render(found)
    assert "the record names no cloud region" in text
    assert "the record names no machine size" in text


def test_a_run_without_energy_is_ranked_by_cost():
    record = accounted(run(devices=[]))
    found = what_if(record, ("regions", "tiers"))
    assert all(region.emissions_grams.value is None for region in found.regions)
    assert named(found.tiers, "low_priority").change_usd == pytest.approx(2 * (4.41 - 22.03))
    assert "not measured" in render(found)


def test_the_text_names_every_source_and_fits():
    text = render(what_if(accounted()), width=100)
    for words in ("eGRID", "Green Software Foundation", "Apache Libcloud", "Microsoft", "AWS price list"):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 110
    by_cost = render(what_if(accounted()), by="cost")
    assert "Regions, by cost" in by_cost
    assert "Regions, by carbon" not in by_cost


# Start times.


def slots(values: list[float], start: datetime = START, minutes: float = 60.0) -> IntensitySeries:
    step = timedelta(minutes=minutes)
    made = [IntensitySlot(start + at * step, start + (at + 1) * step, value) for at, value in enumerate(values)]
    return IntensitySeries("mine.csv", "average", "", tuple(made), Source("mine.csv"))


def with_power(watts: list[float]) -> RunRecord:
    step = SECONDS / len(watts)
    line = Timeline(step_seconds=step, bins=len(watts), series=[Series(device="GPU-0", power_watts=watts)])
    return accounted(run(timeline=line))


@given(
    st.lists(st.floats(10, 900), min_size=3, max_size=12),
    st.lists(st.floats(1, 500), min_size=1, max_size=9),
)
def test_each_start_is_the_exact_sum_over_its_hours(values, watts):
    record = with_power(watts)
    found = start_times(record, slots(values))
    step, scale = SECONDS / len(watts), JOULES / sum(watts)
    for at, row in enumerate(found.rows):
        grams = 0.0
        for number, power in enumerate(watts):  # each step of power, cut at the hours
            begin, end = at * 3600 + number * step, at * 3600 + (number + 1) * step
            for hour, value in enumerate(values):
                inside = max(0.0, min(end, (hour + 1) * 3600) - max(begin, hour * 3600))
                grams += power * scale * inside / step / 3.6e6 * value
        assert row.emissions_grams == pytest.approx(grams * 1.15, rel=1e-9)
    assert len(found.rows) == len(values) - 1, "two hours do not fit behind the last"
    assert found.best.emissions_grams == min(row.emissions_grams for row in found.rows)


def test_energy_in_the_first_hour_wants_the_clean_hour_first():
    front = start_times(with_power([300.0, 100.0]), slots([500, 50, 500, 100]))
    assert front.best.start == START + timedelta(hours=1)
    assert front.best.emissions_grams == pytest.approx(KWH * 1.15 * (0.75 * 50 + 0.25 * 500))
    assert front.worst.emissions_grams == pytest.approx(KWH * 1.15 * (0.75 * 500 + 0.25 * 100))
    assert front.run is not None
    assert front.run.emissions_grams == pytest.approx(KWH * 1.15 * (0.75 * 500 + 0.25 * 50))
    back = start_times(with_power([100.0, 300.0]), slots([500, 50, 500, 100]))
    assert back.best.start == START


def test_a_run_shorter_than_its_window_says_from_when_it_is_taken():
    hours, whole = slots([100, 200, 300]), accounted()
    half = whole.model_copy(update={"duration_seconds": SECONDS / 2})
    assert not any("is taken as from" in assume for assume in start_times(whole, hours).assumes)
    told = start_times(half, hours).assumes
    assert any(one.startswith("when in its 7200 s the run was is not known") for one in told)


def test_a_gap_in_the_course_allows_no_start_across_it():
    whole = slots([100.0] * 6)
    holed = IntensitySeries("p", "marginal", "CAISO", whole.slots[:2] + whole.slots[3:], Source("p"))
    found = start_times(accounted(), holed)
    assert [row.start.hour for row in found.rows] == [21, 0, 1]
    assert any("marginal" in assume for assume in found.assumes)
    assert any("even" in assume for assume in found.assumes), "there is no timeline"


def test_a_course_elsewhere_in_time_says_nothing_of_the_run_itself():
    found = start_times(accounted(), slots([100.0, 200.0, 300.0], START + timedelta(days=30)))
    assert found.run is None
    text = render(with_starts(what_if(accounted(), ()), accounted(), slots([100.0, 200.0], START)))
    assert "Start times" in text
    with pytest.raises(FactorError, match="no start lies wholly in it"):
        start_times(accounted(), slots([100.0]))
    with pytest.raises(FactorError, match="energy is not known"):
        start_times(accounted(run(devices=[])), slots([100.0] * 4))


# The command.


@pytest.fixture
def run_json(tmp_path):
    record_file.write(accounted(), tmp_path / "run.json")
    return tmp_path / "run.json"


def said(capsys, *words: object) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command_as_json(capsys, run_json):
    code, out, _ = said(capsys, "what-if", run_json, "--json", "--tiers")
    assert code == 0
    told = json.loads(out)
    assert told["regions"] == []
    by_name = {tier["name"]: tier for tier in told["tiers"]}
    assert by_name["low_priority"]["change_usd"] == pytest.approx(2 * (4.41 - 22.03))
    assert by_name["low_priority"]["factors"]["prices"]["low_priority"]["source"]["published"] == "2021-07-01"


def test_the_command_with_another_place_and_a_course(capsys, run_json, tmp_path):
    course = tmp_path / "mine.csv"
    rows = [f"{(START + timedelta(hours=at)).isoformat()},{value}" for at, value in enumerate([400, 100, 100, 400])]
    course.write_text("time,g_per_kwh\n" + "\n".join(rows) + "\n", encoding="utf-8")
    code, out, err = said(capsys, "what-if", run_json, "--start-times", "--intensity", course, "--pue", "1")
    assert (code, err) == (0, "")
    best = next(line for line in out.splitlines() if line.strip().startswith("best"))
    assert "2021-07-06 22:15 UTC" in best
    assert "500.0 g CO2e" in best
    assert "Regions" not in out


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["--start-times"], "--intensity"),
        (["--intensity", "nosuch.csv"], "nosuch.csv"),
        (["--by", "beauty"], "carbon"),
        (["--top", "0"], "0"),
        (["--region", "westus22"], "westus2"),
    ],
)
def test_a_mistake_is_one_line(capsys, run_json, words, right):
    code, out, err = said(capsys, "what-if", run_json, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert right in err
