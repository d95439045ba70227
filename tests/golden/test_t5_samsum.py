"""A published card that was put together by hand comes out of the same sources, byte for byte."""

import json
from pathlib import Path

import pytest

from greenml.record import file as record_file
from greenml.record import importers
from greenml.record.schema import Factor, Factors, PlaceRecord, Quantity, RunRecord, SourceRef, Totals
from greenml.reports import markdown, terminal

GOLDEN = Path(__file__).parent / "t5-3b-samsum"
PRICES = {"low_priority": 4.41, "dedicated": 22.03}


def imported() -> RunRecord:
    facts = json.loads((GOLDEN / "run.facts.json").read_text())
    return importers.load(
        codecarbon=GOLDEN / "emissions.csv",
        azure_monitor=sorted(GOLDEN.glob("azure-monitor-*.json")),
        trainer_output=GOLDEN,
        duration_seconds=facts["run_duration_s"],
        name="t5-3b-samsum",
    )


def reported(value: float | None, why: str = "") -> Quantity:
    return Quantity(value=value, basis="reported", why=why)


def accounted(run: RunRecord) -> RunRecord:
    gpu, host = run.devices
    nothing = reported(None, "no such metric in the sources")
    place = {
        "cloud": "azure",
        "region": "westus2",
        "billing_name": "US West 2",
        "sku": "ND40rs_v2",
        "sku_label": "8 X V100 32GB",
    }
    prices = {
        tier: Factor(
            value=price,
            low=price,
            high=price,
            unit="USD/h",
            scope="sku",
            source=SourceRef(name="Azure", published="2021-07"),
        )
        for tier, price in PRICES.items()
    }
    total = Totals(
        scope="run",
        seconds=run.duration_seconds,
        gpu_energy_joules=reported(gpu.usage.energy_joules),
        cpu_energy_joules=nothing,
        dram_energy_joules=nothing,
        it_energy_joules=reported(gpu.usage.energy_joules),
        facility_energy_joules=nothing,
        emissions_grams=nothing,
        cost_usd={
            tier: Quantity(value=run.duration_seconds / 3600 * price, basis="assumed") for tier, price in PRICES.items()
        },
        gpu_utilization_ratio=gpu.usage.utilization_ratio,
        cpu_utilization_ratio=host.usage.utilization_ratio,
        gpu_memory_mean_bytes=gpu.usage.memory_mean_bytes,
        gpu_memory_peak_bytes=gpu.usage.memory_max_bytes,
    )
    return run.model_copy(
        update={
            "place": PlaceRecord.model_validate(run.place.model_dump() | place),
            "factors": Factors(prices=prices),
            "totals": [total],
        }
    )


@pytest.mark.parametrize("table", ["expected-resource-usage.md", "expected-carbon-emissions.md"])
def test_card_has_the_published_table(table: str) -> None:
    expected = (GOLDEN / table).read_bytes()
    assert b"\n\n" + expected + b"\n" in markdown.render(accounted(imported())).encode()


def test_card_says_that_the_scopes_differ() -> None:
    card = markdown.render(accounted(imported()))
    resource, carbon = card.split("## Carbon Emissions")
    assert "Covers the whole run: 2631.05 s, set-up and evaluation included." in resource
    assert "Covers the training phase only: 1841.46 s." in carbon
    assert "emissions in kg CO2e, energy_consumed in kWh" in carbon
    assert "mean over the used GPUs of each one's peak" in resource
    assert "x 0.7308 h x 1 node: low priority $4.41" in resource


def test_figures_pass_through_unrounded() -> None:
    run = imported()
    gpu, host = run.devices
    assert gpu.usage.energy_joules == 2448690.0
    assert gpu.usage.utilization_ratio == 56.9 / 100
    assert gpu.usage.memory_mean_bytes == 26770e6
    assert gpu.usage.memory_max_bytes == 30490e6
    assert host.usage.utilization_ratio == 0.46
    assert (gpu.method, gpu.sensor, host.kind) == ("reported", "azure_monitor", "host")
    assert run.reported[0].row["emissions"] == "0.17802492531467784"
    assert run.metrics["predict_rougeL"] == 45.1257
    assert run.params["learning_rate"] == 3e-05
    assert run.trainer["ds_config"]["zero_optimization"]["stage"] == 2
    assert [(phase.path, phase.seconds) for phase in run.phases] == [
        ("train", 1841.4621863365173),
        ("eval", 163.8357),
        ("predict", 168.8245),
    ]
    assert run.place.known_from["region"] == "codecarbon"


def test_nothing_in_it_contradicts_itself() -> None:
    assert importers.conflicts(accounted(imported())) == []


def test_same_sources_give_the_same_record_and_it_survives_its_file(tmp_path: Path) -> None:
    run = imported()
    assert run == imported()
    record_file.write(run, tmp_path / "run.json")
    assert record_file.read(tmp_path / "run.json") == run


def test_terminal_shows_unknown_energies_in_words() -> None:
    text = terminal.render(accounted(imported()), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    cpu = next(line for line in text.splitlines() if "CPU energy" in line)
    assert "not measured" in cpu
    assert "0 J" not in cpu
