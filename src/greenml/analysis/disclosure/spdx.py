"""An SPDX 3.0.1 document whose AI package holds the model's energy by stage, as JSON-LD.

The document is written by spdx-python-model, the bindings that the SPDX project makes from its model; they check every
property.

Source: SPDX 3.0.1, AI profile: ``energyConsumption``.
"""

from __future__ import annotations

import io
import uuid
from typing import Any

from spdx_python_model import v3_0_1 as spdx

from greenml.analysis.disclosure import model as disclosure
from greenml.analysis.disclosure.model import Model, Run, added, kilowatt_hours

NAMESPACE = "https://spdx.org/spdxdocs/greenml-"
KINDS = {
    "pre-training": "ai_trainingEnergyConsumption",
    "training": "ai_trainingEnergyConsumption",
    "evaluation": "ai_trainingEnergyConsumption",
    "discarded": "ai_trainingEnergyConsumption",
    "fine-tuning": "ai_finetuningEnergyConsumption",
    "inference": "ai_inferenceEnergyConsumption",
}
PARAMETERS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed")


def render(model: Model) -> str:
    """Write the document; what SPDX has no field for stands in its texts."""
    runs = list(model.runs)
    name = ",".join(run.record.run_id for run in runs)
    base = f"{NAMESPACE}{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
    creator = spdx.SoftwareAgent(spdxId=f"{base}#greenml", name=f"greenml {runs[0].record.greenml_version}")
    supplier = spdx.Organization(spdxId=f"{base}#publisher", name=model.answer("publisher") or "NOASSERTION")
    created = spdx.CreationInfo(specVersion="3.0.1", created=model.now.replace(microsecond=0), createdBy=[creator])
    ended = max(run.record.ended or run.record.started for run in runs)
    package = spdx.ai_AIPackage(
        spdxId=f"{base}#model",
        creationInfo=created,
        name=model.name,
        software_packageVersion=model.answer("version") or "NOASSERTION",
        software_downloadLocation=model.answer("download_location") or "NOASSERTION",
        software_primaryPurpose=spdx.software_SoftwarePurpose.model,
        releaseTime=ended.replace(microsecond=0),
        suppliedBy=supplier,
        ai_informationAboutTraining=disclosure.method(runs, added([run.energy_joules for run in runs])),
        ai_hyperparameter=_entries({"parameters": model.answer("parameters"), **_hyperparameters(runs[-1])}),
        ai_metric=_entries({key: value for key, value in runs[-1].record.metrics.items() if _is_number(value)}),
    )
    energy = _energy(model)
    if energy is not None:
        package.ai_energyConsumption = energy
    document = spdx.SpdxDocument(
        spdxId=f"{base}#document",
        creationInfo=created,
        name=f"{model.name}: energy of its making",
        profileConformance=[spdx.ProfileIdentifierType.core, spdx.ProfileIdentifierType.software,
                            spdx.ProfileIdentifierType.ai],
        rootElement=[package],
        element=[package, supplier, creator],
    )  # fmt: skip
    for agent in (creator, supplier):
        agent.creationInfo = created
    objects = spdx.SHACLObjectSet([document, package, supplier, creator])
    stream = io.BytesIO()
    spdx.JSONLDSerializer().write(objects, stream, indent=2)
    return stream.getvalue().decode() + "\n"


def _energy(model: Model) -> Any:  # noqa: ANN401  the bindings' class
    """Return the energy by stage; None where none is known."""
    energy = spdx.ai_EnergyConsumption()
    known = False
    for stage, _, joules, _ in disclosure.by_stage(model):
        kwh = kilowatt_hours(joules)
        if kwh is not None:
            described = spdx.ai_EnergyConsumptionDescription(
                ai_energyQuantity=kwh, ai_energyUnit=spdx.ai_EnergyUnitType.kilowattHour
            )
            getattr(energy, KINDS[stage]).append(described)
            known = True
    return energy if known else None


def _entries(values: dict[str, Any]) -> list[Any]:
    return [spdx.DictionaryEntry(key=key, value=str(value)) for key, value in values.items() if value is not None]


def _hyperparameters(run: Run) -> dict[str, Any]:
    arguments = run.record.trainer.get("training_args")
    given = {**(arguments if isinstance(arguments, dict) else {}), **run.record.params}
    return {name: given[name] for name in PARAMETERS if name in given}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
