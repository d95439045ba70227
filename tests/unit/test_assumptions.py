"""What is assumed of a run: found at the right level, kept apart, and changed only where it is asked for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from greenml.accounting import assumptions
from greenml.errors import SettingsError
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Factors,
    Host,
    Note,
    PhaseRecord,
    PlaceRecord,
    RunRecord,
    Usage,
)
from greenml.reports import _parts
from greenml.settings import Settings

START = datetime(2021, 7, 14, 9, 30, tzinfo=timezone.utc)
JOULES = 2_448_690.0  # eight V100, 43 min 51 s
SECONDS = 3600.0


def measured(**more: Any) -> RunRecord:
    usage = Usage(energy_joules=JOULES, energy_low_joules=JOULES * 0.95, energy_high_joules=JOULES * 1.05)
    half = Usage(energy_joules=JOULES / 2, energy_low_joules=JOULES * 0.45, energy_high_joules=JOULES * 0.55)
    gpu = DeviceRecord(
        id="GPU-0",
        kind="gpu",
        name="Tesla V100-SXM2-32GB",
        count=8,
        host="n",
        method="counter",
        sensor="nvml",
        usage=usage,
    )
    fields = {
        "greenml_version": "0.1.0", "run_id": "r", "status": "completed", "started": START,
        "ended": START + timedelta(seconds=SECONDS), "duration_seconds": SECONDS, "hosts": [Host(name="n")],
        "place": PlaceRecord(), "devices": [gpu], "factors": Factors(),
        "phases": [PhaseRecord(path="train", count=1, seconds=SECONDS / 2, spans=[], usage={"GPU-0": half})],
    }  # fmt: skip
    return RunRecord(**{**fields, **more})


def accounted(**told: Any) -> RunRecord:
    known_from = dict.fromkeys(told, "argument")
    settings = assumptions.check(Settings(**told, known_from=known_from))
    return assumptions.account(measured(), settings)


def codes(record: RunRecord) -> list[str]:
    """The notes' codes but for that on the machine: the scripted devices are not those of the SKU on purpose."""
    return [note.code for note in record.notes if note.code != "machine-mismatch"]


def intensity(record: RunRecord) -> tuple[str, str, float]:
    factor = record.factors.carbon_intensity
    assert factor is not None
    return factor.scope, factor.code, factor.value


@pytest.mark.parametrize("change", [{}, {"pue": 1.3}])
def test_a_size_that_two_clouds_sell_keeps_its_cloud(change: dict[str, float]):
    record = accounted(sku="lambda/1x H100 PCIe 80GB", region="USA", pue=1.2, carbon_intensity=50.0)
    record = assumptions.reaccount(record, **change) if change else record
    assert record.place.sku == "lambda/1x H100 PCIe 80GB"
    price = record.factors.prices["dedicated"]
    assert record.total().cost_usd["dedicated"].value == pytest.approx(price.value * SECONDS / 3600)
    assert record.total().emissions_grams.value == pytest.approx(JOULES / 3.6e6 * 50 * change.get("pue", 1.2))


def test_the_published_run_gets_the_published_factors():
    record = accounted(sku="Standard_ND40rs_v2", region="West US 2")
    assert intensity(record) == ("egrid_subregion", "NWPP", 289.63)
    assert record.factors.other_basis is not None
    assert (record.factors.other_basis.basis, record.factors.other_basis.value) == ("lifecycle", 335.24)
    assert record.factors.prices["dedicated"].value == 22.03
    assert record.factors.prices["low_priority"].value == 4.41
    assert record.factors.pue is not None
    assert (record.factors.pue.value, record.factors.pue.scope, record.factors.pue.code) == (
        1.15, "region", "azure/westus2",
    )  # fmt: skip
    place = record.place
    assert (place.sku, place.sku_label, place.cloud, place.region) == ("ND40rs_v2", "8 X V100 32GB", "azure", "westus2")
    assert place.known_from == {"sku": "argument", "region": "argument"}
    for factor in (record.factors.carbon_intensity, record.factors.pue, *record.factors.prices.values()):
        assert factor is not None
        assert factor.source.name
        assert factor.source.published
        assert factor.low <= factor.value <= factor.high
    assert codes(record) == []


def test_totals_recompute_from_the_other_fields():
    record = accounted(sku="ND40rs_v2", region="westus2", nodes=2)
    factors = record.factors
    assert factors.pue is not None
    assert factors.carbon_intensity is not None
    for scope, joules, seconds in (("run", JOULES, SECONDS), ("train", JOULES / 2, SECONDS / 2)):
        total = record.total(scope)
        assert total is not None
        assert total.facility_energy_joules.value == pytest.approx(joules * factors.pue.value)
        grams = joules * factors.pue.value / 3.6e6 * factors.carbon_intensity.value
        assert total.emissions_grams.value == pytest.approx(grams)
        for tier, price in factors.prices.items():
            assert total.cost_usd[tier].value == pytest.approx(seconds / 3600 * 2 * price.value)
    assert record.devices == measured().devices
    assert [total.scope for total in record.totals] == ["run", "train"]


def test_a_what_if_elsewhere_changes_what_belongs_to_the_place_and_nothing_else():
    before = accounted(sku="ND40rs_v2", region="westus2", tier="low_priority", nodes=2)
    after = assumptions.reaccount(before, region="swedencentral")
    assert (after.place.region, after.place.country_iso3, after.place.sku) == ("swedencentral", "SWE", "ND40rs_v2")
    assert (after.place.tier, after.place.nodes) == ("low_priority", 2)
    assert after.place.known_from == {
        "sku": "argument", "tier": "argument", "nodes": "argument", "region": "what-if",
    }  # fmt: skip
    assert intensity(after)[2] < 60 < intensity(before)[2]
    assert after.factors.pue is not None
    assert after.factors.pue.value == 1.16
    for name in ("devices", "phases", "duration_seconds", "started", "run_id", "hosts", "attempts", "metrics"):
        assert getattr(after, name) == getattr(before, name)
    was, now = before.total(), after.total()
    assert was is not None
    assert now is not None
    assert now.it_energy_joules == was.it_energy_joules
    assert codes(after)[0] == "what-if"
    assert "region swedencentral; energy and time are those measured" in after.notes[0].text
    assert before == accounted(sku="ND40rs_v2", region="westus2", tier="low_priority", nodes=2)


def test_there_and_back_is_where_it_was():
    before = accounted(sku="ND40rs_v2", region="westus2")
    back = assumptions.reaccount(assumptions.reaccount(before, region="swedencentral"), region="westus2")
    assert back.totals == before.totals
    assert back.factors == before.factors


def test_what_was_given_stays_unless_it_belongs_to_what_changes():
    before = accounted(
        sku="ND40rs_v2", region="westus2", carbon_intensity=21.5, pue=1.3, price_per_hour=9.0, tier="spot"
    )
    assert intensity(before) == ("given", "", 21.5)
    assert before.factors.prices.keys() == {"spot"}
    tier = assumptions.reaccount(before, tier="low_priority")
    assert intensity(tier)[2] == 21.5
    assert tier.factors.pue == before.factors.pue
    assert tier.factors.prices["low_priority"].value == 4.41, "the given price was of the other tier"
    elsewhere = assumptions.reaccount(before, region="swedencentral")
    assert intensity(elsewhere)[0] != "given"
    assert elsewhere.factors.pue is not None
    assert elsewhere.factors.pue.value == 1.16
    nodes = assumptions.reaccount(before, nodes=4)
    assert nodes.factors == before.factors
    total = nodes.total()
    assert total is not None
    assert total.cost_usd["spot"].value == pytest.approx(4 * 9.0)
    both = assumptions.reaccount(before, region="swedencentral", carbon_intensity=30.0)
    assert intensity(both) == ("given", "", 30.0)


def test_a_what_if_without_a_change_changes_nothing():
    before = accounted(sku="ND40rs_v2", region="westus2")
    assert assumptions.reaccount(before, region=None, tier=None) == before


@pytest.mark.parametrize("region", ["SWE", "US-WA", "NWPP", "CA-QC", "world", "westus2", "aws/us-east-1"])
def test_another_tier_leaves_the_place_where_it_is(region):
    before = accounted(region=region)
    after = assumptions.reaccount(before, tier="spot")
    assert after.factors.carbon_intensity == before.factors.carbon_intensity
    assert after.factors.pue == before.factors.pue
    for name in ("region", "country_iso3", "state", "grid_zone", "egrid_subregion"):
        assert getattr(after.place, name) == getattr(before.place, name)


def test_a_place_that_is_not_known_is_the_world_and_assumed():
    record = accounted()
    factor = record.factors.carbon_intensity
    assert factor is not None
    assert (factor.scope, factor.assumed) == ("world", True)
    assert factor.low < factor.value < factor.high
    assert "no region was given" in factor.note
    assert record.factors.pue is not None
    assert (record.factors.pue.value, record.factors.pue.assumed) == (1.0, True)
    assert record.factors.pue.high > 1.4
    assert record.factors.prices == {}
    asked = accounted(region="world").factors.carbon_intensity
    assert asked is not None
    assert not asked.assumed


def test_what_the_machine_says_counts_where_the_user_said_nothing():
    found = {"cloud": "azure", "region": "westus2", "sku": "Standard_ND40rs_v2", "from": "azure metadata service"}
    told = assumptions.account(measured(), Settings(region="auto"), found)
    assert intensity(told)[1] == "NWPP"
    assert told.place.known_from == {"region": "azure metadata service", "sku": "azure metadata service"}
    user = assumptions.account(measured(), Settings(region="SWE", known_from={"region": "argument"}), found)
    assert user.place.country_iso3 == "SWE"
    assert user.place.known_from["region"] == "argument"


def test_a_machine_that_the_tables_do_not_know_is_no_error():
    found = {"cloud": "azure", "region": "moonbase1", "sku": "Standard_Moon_v1", "from": "azure metadata service"}
    record = assumptions.account(measured(), Settings(region="auto"), found)
    assert record.place.cloud == "azure"
    assert record.place.sku == ""
    assert intensity(record)[0] == "world"


def test_a_tier_or_price_that_is_not_there_is_a_note():
    tier = accounted(sku="ND40rs_v2", region="swedencentral", tier="spot")
    assert codes(tier) in (["tier-missing"], ["price-missing"])
    none = assumptions.reaccount(accounted(sku="ND40rs_v2", region="westus2"), region="SWE")
    assert none.factors.prices == {}
    assert "price-missing" in codes(none)
    total = none.total()
    assert total is not None
    assert total.cost_usd == {}


def test_notes_of_an_earlier_accounting_go_and_others_stay():
    record = measured(notes=[Note(code="price-missing", text="old"), Note(code="counter-reset", text="kept")])
    again = assumptions.account(record, assumptions.check(Settings(sku="ND40rs_v2", region="westus2")))
    assert codes(again) == ["counter-reset"]


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ({"sku": "ND40rs_v3"}, "ND40rs_v2"),
        ({"region": "westus22"}, "westus2"),
        ({"region": "us-east-1", "sku": "ND40rs_v2"}, "aws"),
        ({"tier": "cheap"}, "low_priority"),
        ({"carbon_intensity": 0.4}, "g/kWh"),
        ({"carbon_intensity": -1.0}, "0 to 3000"),
        ({"pue": 0.8}, "1.0 to 5"),
        ({"price_per_hour": -3.0}, "0 or more"),
        ({"nodes": 0}, "1"),
        ({"nodes": -2}, "1"),
    ],
)
def test_a_mistake_is_one_line_with_what_would_be_right(told, right):
    for ask in (lambda: assumptions.check(Settings(**told)), lambda: assumptions.reaccount(accounted(), **told)):
        with pytest.raises(SettingsError) as error:
            ask()
        assert right in str(error.value)
        assert "\n" not in str(error.value)


def attempt(number: int, *hosts: str) -> AttemptRecord:
    return AttemptRecord(
        number=number, started=START, ended=None, seconds=SECONDS / 2, status="completed", hosts=list(hosts)
    )  # fmt: skip


def test_a_run_that_went_on_elsewhere_is_billed_for_the_machines_that_it_had_at_a_time():
    """Preempted, and resumed on two other machines: two were billed at any time, not four."""
    hosts = [Host(name=name) for name in "abcd"]
    tries = [attempt(1, "a", "b"), attempt(2, "c", "d")]
    gpus = [
        measured().devices[0].model_copy(update={"id": f"GPU-{name}-{at}", "host": name, "count": 1})
        for name in "abcd"
        for at in range(8)
    ]
    run = measured(hosts=hosts, attempts=tries, devices=gpus)
    made = assumptions.account(run, Settings(sku="ND40rs_v2", region="westus2", known_from={"sku": "argument"}))
    assert made.place.nodes == 2
    assert made.totals[0].cost_usd["dedicated"].value == pytest.approx(22.03 * SECONDS / 3600 * 2)
    assert "nodes-differ" not in codes(made)
    assert _parts.hardware(made) == "16 X Tesla V100-SXM2-32GB"

    tries[1] = attempt(2, "c", "d", "e")
    uneven = assumptions.account(measured(hosts=[*hosts, Host(name="e")], attempts=tries), Settings())
    assert uneven.place.nodes == 3
    note = next(note.text for note in uneven.notes if note.code == "nodes-differ")
    assert note == "attempts ran on 2 to 3 machines; the cost has 3 for all of the time"
    assert codes(assumptions.reaccount(uneven, region="SWE")).count("nodes-differ") == 1
    assert "nodes-differ" not in codes(assumptions.reaccount(uneven, nodes=2))


def test_the_basis_is_a_setting_and_stays_when_a_record_is_accounted_again():
    direct = accounted(sku="ND40rs_v2", region="westus2")
    lifecycle = accounted(sku="ND40rs_v2", region="westus2", basis="LCA")
    for record, basis, grams, other in ((direct, "direct", 289.63, 335.24), (lifecycle, "lifecycle", 335.24, 289.63)):
        factors = record.factors
        assert (factors.carbon_intensity.basis, factors.carbon_intensity.value) == (basis, grams)
        assert factors.other_basis.value == other
        elsewhere = assumptions.reaccount(record, region="swedencentral")
        assert elsewhere.factors.carbon_intensity.basis == basis
    assert (
        assumptions.reaccount(direct, basis="lifecycle").factors.carbon_intensity == lifecycle.factors.carbon_intensity
    )
    with pytest.raises(SettingsError, match="unknown basis 'market'"):
        assumptions.reaccount(direct, basis="market")
