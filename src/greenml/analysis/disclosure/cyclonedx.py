"""A machine learning bill of materials: CycloneDX 1.7 with the model's energy and emissions by stage, as JSON.

The document is written by cyclonedx-python-lib; that has no model cards yet, so the card is added to its JSON.

Source: CycloneDX 1.7, ``modelCard.considerations.environmentalConsiderations`` (ECMA-424).
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot7

from greenml.analysis.disclosure import model as disclosure
from greenml.analysis.disclosure.model import Model, added, json_text, kilowatt_hours, rounded
from greenml.record.schema import Quantity

ACTIVITIES = {"pre-training": "training", "evaluation": "validation", "discarded": "other"}
GRAMS_PER_TONNE = 1e6


def render(model: Model) -> str:
    """Write a bill of materials whose subject is the model; a stage whose energy is not known has no entry."""
    reference = str(uuid.uuid5(uuid.NAMESPACE_URL, "greenml:" + ",".join(run.record.run_id for run in model.runs)))
    component = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL, name=model.name, version=model.answer("version"), bom_ref=reference
    )
    bom = Bom(serial_number=uuid.UUID(reference))
    bom.metadata.timestamp = model.now
    bom.metadata.component = component
    content = json.loads(JsonV1Dot7(bom).output_as_string())
    consumptions = [
        _consumption(model, stage, joules, grams)
        for stage, _, joules, grams in disclosure.by_stage(model)
        if joules.value is not None
    ]
    card: dict[str, Any] = {"properties": _properties(model)}
    if consumptions:
        card["considerations"] = {"environmentalConsiderations": {"energyConsumptions": consumptions}}
    content["metadata"]["component"]["modelCard"] = card
    return json_text(content)


def _consumption(model: Model, stage: str, joules: Quantity, grams: Quantity) -> dict[str, Any]:
    energy = {"value": kilowatt_hours(joules), "unit": "kWh"}
    runs = model.of([stage])
    properties = {"stage": stage, "runs": str(len(runs)), "boundary": disclosure.boundary(runs)}
    if joules.at_least:
        properties["lower_bound"] = joules.why
    if grams.at_least:
        properties["co2_lower_bound"] = grams.why
    if stated := disclosure.interval(joules, "kWh"):
        properties["energy_interval_95_percent"] = stated
    made: dict[str, Any] = {
        "activity": ACTIVITIES.get(stage, stage),
        "energyProviders": [
            {
                "organization": {"name": model.answer("energy_provider") or "unknown"},
                "energySource": "unknown",
                "energyProvided": energy,
            }
        ],
        "activityEnergyCost": energy,
        "properties": [{"name": f"greenml:{name}", "value": value} for name, value in properties.items()],
    }
    if grams.value is not None:
        made["co2CostEquivalent"] = {"value": rounded(grams, 1 / GRAMS_PER_TONNE), "unit": "tCO2eq"}
    return made


def _properties(model: Model) -> list[dict[str, str]]:
    energy = added([run.energy_joules for run in model.runs])
    known = {
        "parameters": model.answer("parameters"),
        "training_flops": model.answer("flops"),
        "training_tokens": model.answer("training_tokens"),
        "method": disclosure.method(model.runs, energy),
    }
    return [{"name": f"greenml:{name}", "value": value} for name, value in known.items() if value is not None]
