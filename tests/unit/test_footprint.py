"""Beyond operation: water, embodied carbon as a range, SCI, and a contract's emissions beside the location's."""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from pathlib import Path

import pytest

from greenml.accounting import assumptions, totals
from greenml.errors import FactorError, SettingsError
from greenml.factors import embodied, places, pue_water, tables
from greenml.record.schema import DeviceRecord, Factors, Host, PhaseRecord, PlaceRecord, RunRecord, Usage
from greenml.reports import markdown, terminal
from greenml.settings import Settings, resolve

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
YEAR = 365 * 24 * 3600.0


def gpu(at: int, name: str = "NVIDIA A100-SXM4-40GB", host: str = "node", **own: object) -> DeviceRecord:
    usage = Usage(energy_joules=3.6e6, energy_low_joules=3.5e6, energy_high_joules=3.7e6)
    fields = {"method": "counter", "sensor": "nvml", **own}
    return DeviceRecord(id=f"{host}-{at}", kind="gpu", name=name, host=host, usage=usage, **fields)


def measured(devices: list[DeviceRecord], seconds: float = YEAR / 1000, **counts: float) -> RunRecord:
    train = PhaseRecord(
        path="train", count=1, seconds=seconds / 2, spans=[(0.0, seconds / 2)],
        usage={device.id: device.usage for device in devices},
    )  # fmt: skip
    return RunRecord(
        greenml_version="0", run_id="r", status="completed", started=START, ended=START, duration_seconds=seconds,
        place=PlaceRecord(), devices=devices, factors=Factors(), phases=[train],
        trainer={"counts": counts} if counts else {},
    )  # fmt: skip


def accounted(record: RunRecord, **settings: object) -> RunRecord:
    return assumptions.account(record, assumptions.check(Settings(**settings)))


def test_water_is_it_energy_times_the_region_s_wue():
    record = accounted(measured([gpu(0), gpu(1)]), region="westus2")
    (row,) = (row for row in tables.rows("regions") if (row["cloud"], row["region"]) == ("azure", "westus2"))
    liters = float(row["wue_l_per_kwh"])
    water = record.total().water_liters
    assert water.value == pytest.approx(2 * liters)
    assert (water.low, water.high) == pytest.approx((2 * 3.5 / 3.6 * liters, 2 * 3.7 / 3.6 * liters))
    assert record.factors.wue.year == int(row["wue_year"])
    assert "figure of 2022, 4 years before the run" in record.factors.wue.note
    assert record.total("train").water_liters.value == pytest.approx(2 * liters)


def test_the_wue_is_not_multiplied_with_the_pue():
    record = accounted(measured([gpu(0)]), region="westus2", pue=2.0)
    assert record.total().water_liters.value == pytest.approx(record.factors.wue.value)


def test_water_that_nobody_reports_is_not_known():
    without = next(row for row in tables.rows("regions") if not row["wue_l_per_kwh"] and row["cloud"] == "oci")
    place = places.find(f"{without['cloud']}/{without['region']}")
    with pytest.raises(FactorError, match=f"{without['cloud']} reports no water usage"):
        pue_water.wue(place, START)
    record = accounted(measured([gpu(0)]))
    assert record.factors.wue is None
    assert record.total().water_liters.value is None
    assert "WUE" in record.total().water_liters.why


def test_every_wue_is_a_plausible_figure_with_a_year():
    for row in tables.rows("regions"):
        if row["wue_l_per_kwh"]:
            found = pue_water.wue(places.find(f"{row['cloud']}/{row['region']}"), START)
            assert 0 <= found.liters_per_kwh < 10
            assert 2019 <= found.year <= 2026


def test_embodied_carbon_is_a_range_of_published_figures():
    """An A100: 127.6, 150 and 181 kg for the card, 318 with its share of the server."""
    card = embodied.card("NVIDIA A100-SXM4-80GB", with_host=False)
    assert (card.low, card.high) == (127_600.0, 181_000.0)
    assert embodied.card("A100", with_host=True).high == 318_000.0
    assert len(card.sources) == 3
    assert all(source.name and source.published for source in card.sources)


def test_a_lone_figure_is_widened_to_a_range():
    """NVIDIA's own 164 kg of an H100 (1,312 kg a baseboard of eight), divided and times 3.5."""
    card = embodied.card("NVIDIA H100 80GB HBM3", with_host=True)
    assert (card.low, card.high) == pytest.approx((164_000 / 3.5, 164_000 * 3.5))
    assert "one figure" in card.note


@pytest.mark.parametrize("name", ["NVIDIA A10", "NVIDIA A30", "Tesla V100-SXM2-32GB", "NVIDIA GeForce RTX 4090", "GPU"])
def test_a_model_without_a_figure_takes_no_other_s(name):
    with pytest.raises(FactorError, match="no published figure"):
        embodied.card(name, with_host=True)


def test_the_share_of_one_gpu_is_that_of_its_time():
    """A thousandth of a year of 4 to 6; one GPU of a server of unknown size: 127.6 to 318 kg."""
    share = accounted(measured([gpu(0)])).total().embodied_grams
    assert share.value is None, "a range has no single figure"
    assert share.low == pytest.approx(127_600 / 6 / 1000)
    assert share.high == pytest.approx(318_000 / 4 / 1000)
    assert share.why == "published figures disagree; without the host, whose size is not known"


def test_eight_gpus_are_a_whole_server():
    record = accounted(measured([gpu(at, host=host) for host in ("a", "b") for at in range(8)]))
    share = record.total().embodied_grams
    assert share.low == pytest.approx((16 * 127_600 + 2 * 1_000_000) / 6 / 1000)
    assert share.high == pytest.approx((16 * 181_000 + 2 * 4_283_000) / 4 / 1000)
    assert "host" not in share.why
    train = record.total("train").embodied_grams
    assert train.low == pytest.approx(share.low / 2), "a phase has the share of its own time"


def test_hardware_counts_for_the_time_that_it_was_there():
    """Two attempts of half the time each, on other machines: 16 GPUs were seen, 8 at a time."""
    devices = [gpu(at, host=host) for host in ("a", "b") for at in range(8)]
    for device in devices:
        device.usage.covered_seconds = YEAR / 2000
    share = accounted(measured(devices)).total().embodied_grams
    assert share.low == pytest.approx((8 * 127_600 + 1_000_000) / 6 / 1000)
    assert share.high == pytest.approx((8 * 181_000 + 4_283_000) / 4 / 1000)


def test_a_given_lifetime_is_taken():
    record = accounted(measured([gpu(0)]), lifetime_years=5.0)
    share = record.total().embodied_grams
    assert (share.low, share.high) == pytest.approx((127_600 / 5 / 1000, 318_000 / 5 / 1000))
    again = assumptions.reaccount(record, region="SWE").total().embodied_grams
    assert again.low == share.low, "what the user said of the hardware stays when the place changes"
    with pytest.raises(SettingsError, match="lifetime of 0 years"):
        assumptions.check(Settings(lifetime_years=0.0))


def test_an_unknown_model_is_named():
    share = accounted(measured([gpu(0, "Tesla V100-SXM2-32GB")])).total().embodied_grams
    assert (share.value, share.low, share.high) == (None, None, None)
    assert share.why == "no published figure for making Tesla V100-SXM2-32GB is in the tables"
    both = accounted(measured([gpu(0), gpu(1, "Tesla V100-SXM2-32GB")])).total().embodied_grams
    assert both.low == pytest.approx(127_600 / 6 / 1000)
    assert "without Tesla V100-SXM2-32GB" in both.why
    none = accounted(measured([])).total().embodied_grams
    assert "no GPU took part" in none.why


def test_a_phase_that_ran_on_one_of_two_machines_has_that_one_s_share():
    """Resumed elsewhere: the evaluation ran on the second machine alone, as if there had been no other."""

    def of(*hosts: str) -> float:
        there = {host: gpu(0, host=host) for host in hosts}
        for one in there.values():
            one.usage.covered_seconds = 1000.0
        made = measured(list(there.values()), seconds=1000.0 * len(hosts))
        unread = Usage(why="no energy was read in this time")
        used = {value.id: value.usage if name == hosts[-1] else unread for name, value in there.items()}
        phase = PhaseRecord(path="eval", count=1, seconds=1000.0, spans=[(0.0, 1000.0)], usage=used)
        record = accounted(made.model_copy(update={"phases": [phase], "hosts": [Host(name=host) for host in hosts]}))
        return record.total("eval").embodied_grams.high

    assert of("a", "b") == pytest.approx(of("b"))


def test_imported_figures_take_their_gpus_from_the_machine_size():
    device = gpu(0, "GPUs as Azure Monitor counts them", "", method="reported", sensor="azure_monitor")
    record = accounted(measured([device]), sku="ND96asr_v4", region="westus2", nodes=2)
    assert [(one.code, one.count) for one in record.factors.embodied] == [("A100", 16), ("server", 2)]
    share = record.total().embodied_grams
    assert share.low == pytest.approx((16 * 127_600 + 2 * 1_000_000) / 6 / 1000)


def test_sci_per_functional_unit():
    """(E x I + M) / R over the training phase, operation and making apart, a range because M is one."""
    record = accounted(measured([gpu(0)], samples=40_000.0, tokens=5e6, epochs=4.0), carbon_intensity=300.0, pue=1.2)
    scores = {score.unit: score for score in record.sci}
    assert list(scores) == ["1,000 samples", "million tokens", "epoch"]
    assert [score.units for score in scores.values()] == [40.0, 5.0, 4.0]
    samples = scores["1,000 samples"]
    share = record.total("train").embodied_grams
    assert samples.scope == "train"
    assert samples.operational_grams.value == pytest.approx(1.0 * 1.2 * 300 / 40)
    assert samples.embodied_grams.value is None
    assert samples.embodied_grams.high == pytest.approx(share.high / 40)
    assert samples.total_grams.value is None
    assert samples.total_grams.low == pytest.approx((3.5 / 3.6 * 1.2 * 300 + share.low) / 40)
    assert samples.total_grams.high == pytest.approx((3.7 / 3.6 * 1.2 * 300 + share.high) / 40)


def test_sci_without_embodied_carbon_is_not_known_but_its_operation_is():
    record = accounted(measured([gpu(0, "Tesla V100-SXM2-32GB")], epochs=2.0), carbon_intensity=300.0, pue=1.0)
    (score,) = record.sci
    assert score.operational_grams.value == pytest.approx(150.0)
    assert score.total_grams.value is None
    assert score.total_grams.low is None
    assert "M is not known: no published figure" in score.total_grams.why
    assert accounted(measured([gpu(0)])).sci == []


def test_a_contract_s_figure_stands_beside_the_location_s():
    location = accounted(measured([gpu(0)]), region="westus2")
    market = accounted(measured([gpu(0)]), region="westus2", market_intensity=0.0)
    total = market.total()
    assert total.emissions_grams == location.total().emissions_grams
    assert total.market_emissions_grams.value == 0.0
    assert location.total().market_emissions_grams is None
    assert market.factors.market_intensity.scope == "given"
    assert total.market_emissions_grams.basis == total.emissions_grams.basis
    half = accounted(measured([gpu(0)]), pue=1.5, market_intensity=20.0).total()
    assert half.market_emissions_grams.value == pytest.approx(1.5 * 20)
    with pytest.raises(SettingsError, match="looks like kg/kWh"):
        assumptions.check(Settings(market_intensity=0.02))


def test_market_based_is_asked_for_again_only_at_the_same_place():
    record = accounted(measured([gpu(0)]), region="westus2", market_intensity=20.0)
    assert assumptions.reaccount(record, pue=1.3).total().market_emissions_grams.value == pytest.approx(1.3 * 20)
    assert assumptions.reaccount(record, region="SWE").total().market_emissions_grams is None
    added = assumptions.reaccount(accounted(measured([gpu(0)]), region="westus2"), market_intensity=20.0)
    assert added.total().market_emissions_grams is not None
    assert not [note for note in added.notes if note.code == "what-if"], "a second figure changes none"


def test_the_settings_are_read_from_the_environment(tmp_path):
    told = resolve({}, {"GREENML_MARKET_INTENSITY": "35", "GREENML_LIFETIME_YEARS": "5"}, tmp_path)
    assert (told.market_intensity, told.lifetime_years) == (35.0, 5.0)


def test_totals_recompute_from_the_rest_of_the_record():
    record = accounted(measured([gpu(at) for at in range(8)], epochs=3.0), region="westus2", market_intensity=20.0)
    read = RunRecord.model_validate_json(record.model_dump_json())
    assert totals.totals_of(read, read.factors, read.place.nodes) == read.totals
    assert totals.sci_scores(read.total("train"), read.trainer) == read.sci


def test_an_older_record_still_loads():
    record = accounted(measured([gpu(0)], epochs=3.0), region="westus2").model_dump(mode="json")
    for total in record["totals"]:
        for name in ("market_emissions_grams", "water_liters", "embodied_grams"):
            del total[name]
    for name in ("market_intensity", "wue", "embodied", "lifetime"):
        del record["factors"][name]
    del record["sci"]
    read = RunRecord.model_validate(record)
    assert read.total().water_liters is None
    assert "Water" not in terminal.render(read)
    again = assumptions.reaccount(read)
    assert again.total().water_liters.value is not None


def test_reports_show_what_is_known_and_leave_the_card_alone():
    record = accounted(measured([gpu(0)], epochs=3.0), region="westus2", market_intensity=20.0)
    shown = terminal.render(record, width=100)
    for words in (
        "Market-based",
        "Water, on site",
        "Embodied, share",
        "SCI per epoch",
        "Lifetime of hardware: 4 to 6 years",
    ):
        assert words in shown
    card = markdown.render(record)
    assert "## Footprint" not in card
    assert card.split("Notes on")[0] in markdown.render(record, footprint=True)
    table = markdown.render(record, footprint=True).split("## Footprint")[1]
    assert "| Embodied, share | 21.27 to 79.50 g CO2e" in table
    plain = accounted(measured([gpu(0, "Tesla V100")]))
    assert "## Footprint" not in markdown.render(plain, footprint=True)


def test_pounds_on_request():
    """1 kWh at 453.59237 g/kWh is a pound."""
    record = accounted(measured([gpu(0)]), carbon_intensity=453.59237, pue=1.0)
    assert "1.000 lb CO2e" in terminal.render(record, pounds=True)
    assert "lb CO2e" not in terminal.render(record)
    assert "emissions in pounds: 1.000 lb CO2e (1 lb is 0.45359237 kg)." in markdown.render(record, pounds=True)
    assert markdown.render(record).splitlines()[0] == markdown.render(record, pounds=True).splitlines()[0]


def test_the_year_of_a_region_s_pue_is_printed():
    record = accounted(measured([gpu(0)]), region="westus2")
    assert f"PUE: 1.15; region azure/westus2, {record.factors.pue.year};" in " ".join(terminal.render(record).split())


def test_the_table_holds_nothing_that_may_not_be_shipped():
    path = Path(embodied.__file__).parent / "data" / "embodied.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert {row["kind"] for row in rows} == {"card", "card_and_host", "host"}
    assert not any("boavizta" in row["source"] for row in rows)
    assert all(100 < float(row["kgco2e"]) < 5000 for row in rows)
