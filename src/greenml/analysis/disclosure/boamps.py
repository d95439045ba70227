"""The report of a computing task as BoAmps has it (Boavizta), as JSON.

Source: BoAmps, report schema of 2026-04 (https://github.com/Boavizta/BoAmps). ``quality`` follows from the interval:
high is 10 %, medium 25 %, low 50 %.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from greenml.analysis.disclosure.model import Model, Run, added, json_text, rounded
from greenml.errors import SettingsError
from greenml.record.schema import DeviceRecord, Quantity, RunRecord
from greenml.reports import _format, _parts
from greenml.reports.card import sections as card_facts
from greenml.units import JOULES_PER_KWH

SPECIFICATION = "https://github.com/Boavizta/BoAmps/tree/main/model"
QUALITIES = ((0.10, "high"), (0.25, "medium"), (0.50, "low"))
STAGES = {"pre-training": "training", "fine-tuning": "finetuning", "discarded": "training"}
COMPONENTS = {"gpu": "gpu", "cpu": "cpu", "dram": "ram"}
PARAMETERS_PER_BILLION = 1e9


def render(model: Model) -> str:
    """Write one report: a measure a run whose energy is known, and what was not known left out or ``unknown``.

    Raises:
        SettingsError: no run's energy is known, without which there is no report.
    """
    measured = [run for run in model.runs if run.energy_joules.value is not None]
    if not measured:
        why = model.runs[0].energy_joules.why or "not measured"
        raise SettingsError(f"--format boamps: a report needs the energy, which none of the runs has: {why}")
    stages = list(dict.fromkeys(STAGES.get(run.stage, run.stage) for run in model.runs))
    first = model.runs[0].record
    report: dict[str, Any] = {
        "header": {
            "formatVersionSpecificationUri": SPECIFICATION,
            "reportId": first.run_id,
            "reportDatetime": f"{model.now:%Y-%m-%d %H:%M:%S}",
            "reportStatus": "draft" if any(run.record.status == "running" for run in model.runs) else "final",
            "publisher": _without_unknown(
                {
                    "name": model.answer("publisher"),
                    "confidentialityLevel": model.answer("confidentiality") or "internal",
                }
            ),
        },
        "task": {
            "taskStage": "+".join(stages),
            "taskFamily": model.answer("task") or "unknown",
            "algorithms": [_algorithm(model)],
            "dataset": [{"dataUsage": "input", "dataType": model.answer("data_type") or "other"}],
            "taskDescription": _description(model),
        },
        "measures": [_measure(run) for run in measured],
        "system": {"os": ", ".join(_told(model, _system)) or "unknown"},
        "software": _without_unknown(
            {"language": "python", "version": ", ".join(_told(model, lambda record: record.environment.python)) or None}
        ),
        "infrastructure": _without_unknown(
            {
                "infraType": model.answer("infrastructure") or "other",
                "cloudProvider": ", ".join(_told(model, lambda record: record.place.cloud)) or None,
                "cloudInstance": ", ".join(_told(model, lambda record: record.place.sku)) or None,
                "components": _components(model) or [{"componentType": "unknown", "nbComponent": 1}],
            }
        ),
        "environment": _without_unknown(
            {
                "country": ", ".join(_told(model, _country)) or model.answer("country") or "unknown",
                "location": ", ".join(_told(model, lambda record: record.place.region)) or None,
                "powerSourceCarbonIntensity": _intensity(model),
            }
        ),
    }
    quality = _quality(added([run.energy_joules for run in model.runs]))
    if quality:
        report["quality"] = quality
    return json_text(report)


def _description(model: Model) -> str:
    """Name the runs; the format has no other place for a figure that is a lower bound."""
    text = f"{len(model.runs)} runs" if len(model.runs) > 1 else model.runs[0].record.name or "one run"
    energy = added([run.energy_joules for run in model.runs])
    return f"{text}; the energy is a lower bound: {energy.why}" if energy.at_least else text


def _told(model: Model, what: Callable[[RunRecord], str]) -> list[str]:
    """Return what the runs tell of a text, each once."""
    return list(dict.fromkeys(text for run in model.runs if (text := what(run.record))))


def _system(record: RunRecord) -> str:
    return record.environment.os or next((host.os for host in record.hosts if host.os), "")


def _country(record: RunRecord) -> str:
    return record.place.country_name or record.place.country_iso3


def _intensity(model: Model) -> float | None:
    """Return the runs' carbon intensity in g CO2e/kWh: their one, else the mean by energy; None where one lacks it."""
    factors = [run.record.factors.carbon_intensity for run in model.runs]
    values = {None if factor is None else factor.value for factor in factors}
    if len(values) == 1:
        return values.pop()
    weights = [run.energy_joules.value for run in model.runs]
    pairs = [
        (factor.value, weight)
        for factor, weight in zip(factors, weights, strict=True)
        if factor is not None and weight is not None
    ]
    total = math.fsum(weight for _, weight in pairs)
    if len(pairs) < len(factors) or not total:
        return None
    return math.fsum(value * weight for value, weight in pairs) / total


def _without_unknown(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _algorithm(model: Model) -> dict[str, Any]:
    parameters = model.number("parameters")
    packages = model.runs[0].record.environment.packages
    framework = next((name for name in ("transformers", "lightning", "keras", "torch") if name in packages), None)
    return _without_unknown(
        {
            "trainingType": "transferLearning" if model.of(["fine-tuning"]) else None,
            "algorithmName": model.name,
            "parametersNumber": None if parameters is None else parameters / PARAMETERS_PER_BILLION,
            "framework": framework,
            "frameworkVersion": packages.get(framework or ""),
        }
    )


def _measure(run: Run) -> dict[str, Any]:
    total, record = run.total, run.record
    return _without_unknown(
        {
            "measurementMethod": "greenml",
            "manufacturer": "greenml",
            "version": record.greenml_version,
            "powerConsumption": rounded(run.energy_joules, 1 / JOULES_PER_KWH),
            "measurementDuration": record.duration_seconds,
            "measurementDateTime": f"{record.started:%Y-%m-%d %H:%M:%S}",
            "averageUtilizationCpu": total.cpu_utilization_ratio if total else None,
            "averageUtilizationGpu": total.gpu_utilization_ratio if total else None,
            "cpuTrackingMode": _format.sensors(record, "cpu") or None,
            "gpuTrackingMode": _format.sensors(record, "gpu") or None,
        }
    )


def _components(model: Model) -> list[dict[str, Any]]:
    """Return each kind and name of hardware once, with the most that one run had of it at a time."""
    counts: dict[tuple[str, str], int] = {}
    shares: dict[tuple[str, str], float] = {}
    for run in model.runs:
        own: dict[tuple[str, str], int] = {}
        for kind, component in COMPONENTS.items():
            for device in _parts.at_a_time(run.record, kind) or _reported(run.record, kind):
                key = component, device.name
                own[key] = own.get(key, 0) + device.count
                shares.setdefault(key, min(1.0, max(0.0, device.share_ratio)))
        counts |= {key: max(count, counts.get(key, 0)) for key, count in own.items()}
    return [
        {"componentName": name, "componentType": component, "nbComponent": count, "share": shares[component, name]}
        for (component, name), count in counts.items()
    ]


def _reported(record: RunRecord, kind: str) -> list[DeviceRecord]:
    """Return what another tool reported, as far as its name (``8 x NAME``) or the machine's size tells how many."""
    made = []
    count, _ = card_facts.gpu_count(record) if kind == "gpu" else (0, "")
    for device in record.devices:
        if device.kind != kind or device.method != "reported":
            continue
        named = re.fullmatch(r"(\d+) x (.+)", device.name)
        many = int(named[1]) if named else count if device.count == 1 else device.count
        if many:
            name = named[2] if named else (kind == "gpu" and _gpu_of(record)) or device.name
            made.append(device.model_copy(update={"count": many, "name": name}))
    return made


def _gpu_of(record: RunRecord) -> str:
    """Return the GPU of the machine's size: ``V100 32GB`` of ``8 X V100 32GB``; empty where it is not told."""
    named = re.fullmatch(r"\d+ X (.+)", record.place.sku_label)
    return named[1] if named else ""


def _quality(energy: Quantity) -> str | None:
    if energy.value is None or not energy.value or energy.low is None or energy.high is None or energy.at_least:
        return None
    ratio = max(energy.high - energy.value, energy.value - energy.low) / energy.value
    return next((name for most, name in QUALITIES if ratio <= most), None)
