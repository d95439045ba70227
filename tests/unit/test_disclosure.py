"""Disclosure files: sums and digits are right, each format is read back by its own library, unknown is never 0."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import datetime, timedelta, timezone

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from spdx_python_model import v3_0_1 as spdx

from greenml.accounting import assumptions
from greenml.analysis.disclosure import model
from greenml.analysis.disclosure import model as disclosure
from greenml.analysis.disclosure.model import Model, Run, added, digits
from greenml.cli import main
from greenml.errors import SettingsError
from greenml.record import file as record_file
from greenml.record.schema import DeviceRecord, Factors, PlaceRecord, Quantity, RunRecord, Usage
from greenml.settings import Settings

START = datetime(2026, 3, 31, 23, tzinfo=timezone.utc)
KWH = 3.6e6


def run(
    number: int = 1,
    kwh: float | None = 10.0,
    *,
    stage: str = "training",
    hours: float = 2.0,
    started: datetime = START,
    status: str = "completed",
    trainer: dict | None = None,
    region: str = "swedencentral",
) -> Run:
    joules = None if kwh is None else kwh * KWH
    usage = Usage(
        energy_joules=joules, energy_low_joules=joules and joules * 0.95, energy_high_joules=joules and joules * 1.05,
        covered_seconds=hours * 3600, why="" if joules else "no permission",
    )  # fmt: skip
    device = DeviceRecord(
        id="GPU-1", kind="gpu", name="NVIDIA A100", host="node", method="counter" if joules else None, sensor="nvml",
        calibration_ratio=0.05, usage=usage,
    )  # fmt: skip
    record = RunRecord(
        greenml_version="1.0", run_id=f"run-{number}", name="bart", status=status, started=started,
        ended=started + timedelta(hours=hours), duration_seconds=hours * 3600, place=PlaceRecord(), devices=[device],
        factors=Factors(), trainer=trainer or {},
    )  # fmt: skip
    settings = Settings(region=region, carbon_intensity=50.0, pue=1.2)
    return Run(assumptions.account(record, assumptions.check(settings)), stage)


def rendered(name: str, *runs: Run, **answers: str) -> str:
    return disclosure.render(name, Model(list(runs), answers))


def test_the_energy_is_the_sum_of_all_stages_that_made_the_model():
    runs = [run(1, 10), run(2, 5, stage="fine-tuning"), run(3, 1, stage="discarded"), run(4, 100, stage="inference")]
    page = rendered("gpai", *runs)
    [line] = [line for line in page.splitlines() if "Amount of energy" in line]
    assert "0.019 MWh" in line  # (10 + 5 + 1) x 1.2 = 19.2 kWh, +- 5 %: two digits
    assert "(95 % interval: 0.0182 MWh to 0.0202 MWh)" in line
    assert "| inference | 1 | 0.12 MWh" in page


@given(st.floats(1e-3, 1e12), st.floats(1e-6, 0.9))
def test_digits_follow_the_interval(value: float, ratio: float):
    """The last digit that is written is of the size of the half width, but two digits are always written."""
    half = value * ratio
    count = digits(Quantity(value=value, low=value - half, high=value + half, basis="measured"))
    unit = 10.0 ** (math.floor(math.log10(value)) - count + 1)  # of the last digit
    half = max(value * ratio, value + half - value, value - (value - half))
    assert count in (2, 6) or unit <= half * 1.001 < 10 * unit * 1.002


@given(st.lists(st.tuples(st.floats(0, 1e9), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_a_sum_with_a_missing_or_open_part_is_a_lower_bound(parts):
    quantities = [
        Quantity(value=value if known else None, low=value * 0.9 if known else None,
                 high=value * 1.1 if known and not bound else None, basis="measured", at_least=known and bound, why="x")
        for value, known, bound in parts
    ]  # fmt: skip
    total = added(quantities)
    known = [value for value, is_known, _ in parts if is_known]
    if not known:
        assert total.value is None
        return
    assert total.value == pytest.approx(sum(known))
    whole = all(is_known and not bound for _, is_known, bound in parts)
    assert total.at_least is not whole
    assert (total.high is None) is not whole


def test_runs_side_by_side_take_their_time_once_and_their_hardware_each():
    runs = [run(1, hours=24), run(2, hours=24, started=START + timedelta(hours=12)), run(3, hours=12)]
    page = rendered("gpai", *runs)
    assert "| Training time (wall clock) | 1.5 days (less than 1 month) |" in page
    assert "| Training time (hardware) | 2.5 GPU days |" in page


def test_the_method_is_about_a_hundred_words_and_names_the_boundary():
    runs = [run(1), run(2, status="failed"), run(3, stage="discarded")]
    words = model.method(runs, added([each.energy_joules for each in runs]))
    assert 70 <= len(words.split()) <= 140
    for part in ("GPU measured", "power usage effectiveness of 1.2", "1 discarded and 1 unfinished", "95 % interval"):
        assert part in words


def test_a_run_over_the_end_of_a_month_is_shared_out_by_its_time():
    rows = list(csv.DictReader(io.StringIO(rendered("ledger", run(1, 10, hours=4)))))
    assert [(row["month"], float(row["energy_mwh"])) for row in rows] == [("2026-03", 0.003), ("2026-04", 0.009)]
    assert [float(row["location_based_tco2e"]) for row in rows] == pytest.approx([0.00015, 0.00045])
    assert {row["market_based_tco2e"] for row in rows} == {""}  # no contract's figure: not known, not 0
    assert {(row["country"], row["months_split_by"], row["category"]) for row in rows} == {
        ("SWE", "time", "scope 3, category 1")
    }


def test_the_score_is_the_formula_and_what_is_not_known_is_null():
    facts = {"flops": {"total": 2e18}, "counts": {"tokens": 4e6}}
    report = json.loads(rendered("sci", run(1, 10, trainer=facts), run(2, 10, trainer=facts, status="failed")))
    grams = 2 * 10 * 1.2 * 50
    assert report["operational_grams"]["value"] == grams
    scores = {score["functional_unit"]: score for score in report["scores"]}
    flop, token, parameter = scores.values()
    assert flop["operational_grams_per_unit"]["value"] == pytest.approx(grams / 4e18 * 1e15, rel=1e-3)
    assert token["operational_grams_per_unit"]["value"] == pytest.approx(grams / 8e6 * 1e3, rel=1e-3)
    assert parameter["units"] is None
    assert [each["status"] for each in report["boundary"]["runs"]] == ["completed", "failed"]


def test_open_ends_stay_open_in_the_score():
    """A lower bound has no upper end, nor have sums with a run whose hardware's making is not known."""
    part, whole = run(1, 10), run(2, 10)
    total = part.total
    grams = total.emissions_grams.model_copy(update={"high": None, "at_least": True})
    embodied = Quantity(value=None, low=100.0, high=200.0, basis="assumed")
    bound = with_total(part, emissions_grams=grams, embodied_grams=embodied)
    known = with_total(whole, embodied_grams=embodied)
    report = json.loads(rendered("sci", bound, known, flops="1e18"))
    assert report["embodied_grams"] == {"value": None, "low": 200.0, "high": 400.0}
    flop = report["scores"][0]["total_grams_per_unit"]
    assert flop["low"] == pytest.approx((grams.low + known.total.emissions_grams.low + 200) / 1e3, rel=1e-3)
    assert (flop["high"], report["lower_bound"]) == (None, True)
    lacking = Run(known.record.model_copy(update={"run_id": "run-3", "totals": []}), "training")
    for other in (lacking, with_total(run(4, 10), embodied_grams=None)):
        report = json.loads(rendered("sci", known, other, flops="1e18"))
        assert report["embodied_grams"] == {"value": None, "low": 100.0, "high": None}
        assert (report["scores"][0]["total_grams_per_unit"]["high"], report["lower_bound"]) == (None, True)


def with_total(made: Run, **changes: object) -> Run:
    totals = [made.total.model_copy(update=changes), *made.record.totals[1:]]
    return Run(made.record.model_copy(update={"totals": totals}), made.stage)


def test_emissions_that_are_a_lower_bound_say_so():
    grams = run(1, 10).total.emissions_grams.model_copy(update={"high": None, "at_least": True, "why": "half of it"})
    bound = with_total(run(1, 10, hours=0.5), emissions_grams=grams)
    [row] = csv.DictReader(io.StringIO(rendered("ledger", bound)))
    names = ("energy_lower_bound", "location_based_lower_bound", "market_based_lower_bound")
    assert [row[name] for name in names] == ["no", "yes", ""]  # there is no market-based figure
    card = json.loads(rendered("cyclonedx", bound))["metadata"]["component"]["modelCard"]
    [use] = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    properties = {each["name"]: each["value"] for each in use["properties"]}
    assert (properties["greenml:co2_lower_bound"], "greenml:lower_bound" in properties) == ("half of it", False)
    assert use["activityEnergyCost"] == {"value": 12.0, "unit": "kWh"}
    assert properties["greenml:energy_interval_95_percent"] == "11.4 kWh to 12.6 kWh"


def test_without_training_there_are_no_days_of_it():
    page = rendered("gpai", run(1, stage="inference"))
    assert page.count("N/A (no run of training was given)") == 2
    assert "0 days" not in page


@pytest.mark.parametrize(
    ("kwh", "energy", "stated"),
    [
        (1e-6, "1.2e-9 MWh", "1.14e-9 MWh to 1.26e-9 MWh"),
        (0.5, "0.00060 MWh", "0.000570 MWh to 0.000630 MWh"),
        (123456789.0, "150000 MWh", "141000 MWh to 156000 MWh"),
    ],
)
def test_megawatt_hours_have_no_digit_beyond_their_interval(kwh: float, energy: str, stated: str):
    page = rendered("gpai", run(1, kwh))
    assert f"| Amount of energy used for training | {energy} (95 % interval: {stated}) |" in page


def test_one_run_is_no_sum():
    words = model.method([run(1, status="failed")], run(1).energy_joules)
    assert "The figure is that of one run on 1 X NVIDIA A100" in words
    assert "The run did not complete: failed." in words
    assert "added" not in words


def test_a_machine_without_gpus_has_node_days():
    made = run(1, 1.0, hours=12)
    cpu = made.record.devices[0].model_copy(update={"kind": "cpu", "name": "AMD EPYC", "sensor": "rapl"})
    without = Run(made.record.model_copy(update={"devices": [cpu]}), "training")
    assert "| Training time (hardware) | 0.5 node days (no GPUs) |" in rendered("gpai", without)
    both = rendered("gpai", without, run(2, 1.0, hours=24))
    assert "| Training time (hardware) | 1 GPU days, and 0.5 node days without GPUs |" in both


def test_a_sum_says_which_runs_have_which_part():
    made = run(1)
    cpu = Quantity(value=1.0, basis="measured")
    facility = Quantity(value=None, basis="derived", why="no PUE")
    runs = [with_total(made, cpu_energy_joules=cpu), with_total(run(2), facility_energy_joules=facility), run(3, None)]
    assert model.boundary(runs) == (
        "the energy of GPUs and CPUs (1 of 2 runs), multiplied by a power usage effectiveness of 1.2 (given by the "
        "user) in 1 of 2 runs, without the facility's cooling and losses in the others"
    )
    assert model.boundary([run(3, None)]) == "no energy is known"


def test_a_ledger_says_nothing_of_figures_that_are_not_known():
    [row] = csv.DictReader(io.StringIO(rendered("ledger", run(1, None, hours=0.5))))
    assert {name for name, cell in row.items() if cell} == {"month", "country", "region", "stage", "category", "runs"}


def test_boamps_tells_of_all_runs_where_and_on_what():
    sweden, norway = run(1, 10), run(2, 30, region="norwayeast")
    factor = norway.record.factors.carbon_intensity.model_copy(update={"value": 10.0})
    factors = norway.record.factors.model_copy(update={"carbon_intensity": factor})
    eight = [norway.record.devices[0].model_copy(update={"id": f"GPU-{number}"}) for number in range(8)]
    other = Run(norway.record.model_copy(update={"factors": factors, "devices": eight}), "training")
    report = json.loads(rendered("boamps", sweden, other))
    assert report["environment"] == {
        "country": "Sweden, Norway", "location": "swedencentral, norwayeast", "powerSourceCarbonIntensity": 20.0,
    }  # fmt: skip
    [gpu] = report["infrastructure"]["components"]
    assert (gpu["componentName"], gpu["nbComponent"]) == ("NVIDIA A100", 8)
    imported = sweden.record.devices[0].model_copy(update={"method": "reported", "name": "4 x Tesla V100"})
    moved = Run(sweden.record.model_copy(update={"devices": [imported]}), "training")
    [gpu] = json.loads(rendered("boamps", moved))["infrastructure"]["components"]
    assert (gpu["componentName"], gpu["nbComponent"]) == ("Tesla V100", 4)


def test_a_part_of_the_tokens_is_not_taken_for_all():
    model = Model([run(1, trainer={"counts": {"tokens": 4e6}}), run(2)])
    assert model.number("training_tokens") is None
    assert "--param training_tokens=" in disclosure.open_questions(model)


def test_cyclonedx_validates_and_holds_each_stage():
    document = rendered("cyclonedx", run(1, 10), run(2, 5, stage="evaluation"), run(3, None, stage="inference"))
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(document) is None
    card = json.loads(document)["metadata"]["component"]["modelCard"]
    uses = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert [(use["activity"], use["activityEnergyCost"]["value"]) for use in uses] == [
        ("training", 12.0), ("validation", 6.0),
    ]  # fmt: skip
    assert uses[0]["co2CostEquivalent"] == {"value": 0.0006, "unit": "tCO2eq"}


def test_spdx_is_read_back_by_its_own_bindings():
    document = rendered("spdx", run(1, 10), run(2, 5, stage="fine-tuning"), parameters="406000000.0")
    objects = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(document.encode()), objects)
    [package] = objects.foreach_type(spdx.ai_AIPackage)
    energy = package.ai_energyConsumption
    assert [float(each.ai_energyQuantity) for each in energy.ai_trainingEnergyConsumption] == [12.0]
    assert [float(each.ai_energyQuantity) for each in energy.ai_finetuningEnergyConsumption] == [6.0]
    assert not list(energy.ai_inferenceEnergyConsumption)
    assert "power usage effectiveness" in package.ai_informationAboutTraining


# The fields and words that a BoAmps report must have, and those that it may choose from.
BOAMPS = {
    "type": "object",
    "required": ["header", "task", "measures", "system", "software", "infrastructure", "environment"],
    "properties": {
        "header": {
            "required": ["reportDatetime", "publisher"],
            "properties": {
                "reportDatetime": {"pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"},
                "publisher": {
                    "required": ["confidentialityLevel"],
                    "properties": {"confidentialityLevel": {"enum": ["public", "internal", "confidential", "secret"]}},
                },
            },
        },
        "task": {
            "required": ["taskStage", "taskFamily", "algorithms", "dataset"],
            "properties": {
                "algorithms": {"minItems": 1, "items": {"properties": {"parametersNumber": {"type": "number"}}}},
                "dataset": {
                    "minItems": 1,
                    "items": {
                        "required": ["dataUsage", "dataType"],
                        "properties": {
                            "dataUsage": {"enum": ["input", "output"]},
                            "dataType": {
                                "enum": ["tabular", "audio", "boolean", "image", "video", "object", "text", "token",
                                         "word", "other"]
                            },
                        },
                    },
                },
            },
        },
        "measures": {
            "minItems": 1,
            "items": {
                "required": ["measurementMethod", "powerConsumption"],
                "properties": {"powerConsumption": {"type": "number", "exclusiveMinimum": 0}},
            },
        },
        "system": {"required": ["os"]},
        "software": {"required": ["language"]},
        "infrastructure": {
            "required": ["infraType", "components"],
            "properties": {
                "infraType": {"enum": ["publicCloud", "privateCloud", "onPremise", "other"]},
                "components": {
                    "minItems": 1,
                    "items": {
                        "required": ["componentType", "nbComponent"],
                        "properties": {"nbComponent": {"type": "integer"}},
                    },
                },
            },
        },
        "environment": {"required": ["country"]},
        "quality": {"enum": ["high", "medium", "low"]},
    },
}  # fmt: skip


def test_boamps_has_its_fields_and_its_quality_is_the_intervals():
    report = json.loads(rendered("boamps", run(1, 10), run(2, None), parameters="406000000.0", task="summarization"))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(report, BOAMPS)
    assert [measure["powerConsumption"] for measure in report["measures"]] == [12.0]
    assert report["task"]["algorithms"][0]["parametersNumber"] == 0.406
    assert "quality" not in report  # one run's energy is not known
    assert "2 runs; the energy is a lower bound: 1 of 2 runs without a figure" in report["task"]["taskDescription"]
    assert json.loads(rendered("boamps", run(1, 10)))["quality"] == "high"


def test_boamps_without_any_energy_is_refused():
    with pytest.raises(SettingsError, match=r"needs the energy, which none of the runs has: .*no permission"):
        rendered("boamps", run(1, None))


@pytest.mark.parametrize("name", ["gpai", "sci", "cyclonedx", "spdx", "ledger"])
def test_energy_that_is_not_known_is_never_0(name: str):
    document = rendered(name, run(1, None))
    figures = {"gpai": "N/A (no permission) |", "sci": '"energy_kwh": null', "ledger": ",1,,,,,,,,"}
    assert figures.get(name, "greenml") in document
    assert "energyconsumption" not in document.lower()


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("paramters=1e6", "did you mean 'parameters'"),
        ("parameters=0", "a number above 0, such as 406e6"),
        ("parameters=nan", "a number above 0"),
        ("parameters", "write parameters=406e6"),
        ("confidentiality=top", "public, internal, confidential, secret"),
        ("country=sweden", "alpha-3"),
    ],
)
def test_a_wrong_answer_is_one_line(word: str, answer: str):
    with pytest.raises(SettingsError, match=answer):
        disclosure.answers([word])


def test_the_command_line(tmp_path, capsys):
    for number in (1, 2):
        record_file.write(run(number).record, tmp_path / f"{number}.json")
    first, second = (str(tmp_path / f"{number}.json") for number in (1, 2))
    form = tmp_path / "form.md"
    words = ["disclose", first, first, "--stage", "fine-tuning", second, "--format", "gpai", "--param", "model=bart"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--output", str(form)])
    assert ended.value.code == 0
    assert "| fine-tuning | 1 | 0.012 MWh" in form.read_text()
    assert "| training | 1 | 0.012 MWh" in form.read_text()  # given twice, counted once
    errors = capsys.readouterr().err
    assert "left open: parameters (how many parameters the model has), flops" in errors
    for wrong, line in (
        (
            ["disclose", first, "--stage", "fine-tuning", first, "--format", "sci"],
            "given as training and as fine-tuning",
        ),
        (["disclose", first, "--stage", "finetuning", second, "--format", "sci"], "did you mean 'fine-tuning'?"),
        (["disclose", "--format", "sci"], "Missing argument"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2
        assert line in capsys.readouterr().err
