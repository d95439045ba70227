"""AIPerf's summary of a benchmark, ``profile_export_aiperf.json``: its GPUs' energy, tokens, requests and latencies.

GPU energy stands in ``telemetry_data``, a GPU each. AIPerf 0.5 and later tell the energy of the benchmark; earlier ones
gave statistics of the counter, of which the difference of the largest and the least is the energy, and the mean is not.
Units are those that the file names. Its CSV has energies to 0.01 MJ only and no times, so the JSON is asked for.

Source: https://docs.nvidia.com/aiperf/reference/json-export-schema (schema 1.0 to 1.5), read 2026-11-28.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from greenml.errors import RecordError
from greenml.record import file as record_file
from greenml.record.importers._part import Part, read_json
from greenml.record.schema import DeviceRecord, Note, PhaseRecord, RunRecord, Usage
from greenml.units import BYTES_PER_GB

PHASE = "serving"
MOST = 1e30  # of any figure: above, it is damage
SAME_SECONDS = 1.0  # clocks of two programs on one machine, and the last bin of a timeline
ENERGY = ("nvidia_energy_consumption", "amd_energy_consumption", "energy_consumption")  # schema 1.5, and before
POWER = ("nvidia_power_usage", "amd_power", "gpu_power_usage")
UTILIZATION = ("nvidia_gpu_utilization", "amd_gfx_activity", "gpu_utilization")
MEMORY = ("nvidia_memory_used", "amd_memory_used", "gpu_memory_used")
JOULES = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0}
SECONDS = {"sec": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# A figure of the file, and what the record calls it.
COUNTS = {
    "request_count": "requests", "error_request_count": "failed_requests", "total_isl": "input_tokens",
    "total_osl": "output_tokens", "total_output_tokens": "output_tokens",
}  # fmt: skip
LATENCIES = ("request_latency", "time_to_first_token", "inter_token_latency")
STATISTICS = ("avg", "p50", "p90", "p95", "p99")


def load(path: Path, host_record: Path | None = None) -> Part:
    """Read the file.

    Args:
        path: of profile_export_aiperf.json.
        host_record: of a greenml run that went on meanwhile, as ``greenml run -- aiperf profile ...`` makes it: its
            CPUs and DRAM over the time of the benchmark are taken over.

    Raises:
        RecordError: a file is not what it should be, or the run was at another time.
    """
    if path.suffix.lower() == ".csv":
        raise RecordError(
            f"{path}: the CSV has no times, and energies to 0.01 MJ only; give profile_export_aiperf.json"
        )
    content = read_json(path)
    if "request_count" not in content and "telemetry_data" not in content:
        raise RecordError(f"{path}: not AIPerf's profile_export_aiperf.json: no request_count, no telemetry_data")
    started, ended = _time(content, "start_time", path), _time(content, "end_time", path)
    seconds = _value(content.get("benchmark_duration"), SECONDS, f"{path}: benchmark_duration")
    if seconds is None and started is not None and ended is not None:
        seconds = (ended - started).total_seconds()
    if started is None or not seconds or seconds <= 0:
        raise RecordError(
            f"{path}: it does not tell when the benchmark was: start_time, end_time or benchmark_duration"
        )
    devices = list(_devices(content, path, seconds))
    if host_record is not None:
        devices += _beside(record_file.read(host_record), host_record, started, seconds)
    notes = (
        []
        if any(device.kind == "gpu" for device in devices)
        else [Note(code="aiperf", text=f"{path.name}: no GPU telemetry; give aiperf --gpu-telemetry")]
    )
    if content.get("was_cancelled"):
        notes.append(Note(code="aiperf", text=f"{path.name}: the benchmark was cancelled"))
    phase = PhaseRecord(
        path=PHASE, count=1, seconds=seconds, spans=[], usage={device.id: device.usage for device in devices}
    )
    return Part(
        started=started, ended=ended or started, devices=devices, phases=[phase],
        metrics=_metrics(content, path), params=_params(content), notes=notes,
    )  # fmt: skip


def _beside(record: RunRecord, path: Path, started: datetime, seconds: float) -> list[DeviceRecord]:
    """Return the CPUs and DRAM of a record over the time of the benchmark, by the power of its timeline."""
    timeline, begin = record.timeline, (started - record.started.astimezone(timezone.utc)).total_seconds()
    if (
        timeline is None
        or begin < -SAME_SECONDS
        or begin + seconds > timeline.step_seconds * timeline.bins + SAME_SECONDS
    ):
        raise RecordError(f"{path}: its run does not cover the time of the benchmark, {started} and {seconds:.0f} s on")
    watts_of = {series.device: series.power_watts for series in timeline.series}
    devices = []
    for device in record.devices:
        energy, watts = device.usage.energy_joules, watts_of.get(device.id, [])
        if device.kind not in ("cpu", "dram") or not energy:
            continue
        joules = covered = 0.0
        for at, power in enumerate(watts):
            lies_in = min((at + 1) * timeline.step_seconds, begin + seconds) - max(at * timeline.step_seconds, begin)
            if power is not None and lies_in > 0:
                joules, covered = joules + power * lies_in, covered + lies_in
        low, high = device.usage.energy_low_joules, device.usage.energy_high_joules
        usage = Usage(
            energy_joules=joules, energy_low_joules=None if low is None else low / energy * joules,
            energy_high_joules=None if high is None else high / energy * joules, covered_seconds=covered,
            power_mean_watts=joules / covered if covered else None,
        )  # fmt: skip
        note = f"of the record {path.name}, by its power over the time of the benchmark"
        devices.append(device.model_copy(update={"usage": usage, "note": note}))
    if not devices:
        raise RecordError(f"{path}: it has no energy of CPUs or DRAM")
    return devices


def _time(content: Mapping[str, Any], name: str, path: Path) -> datetime | None:
    text = content.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise RecordError(f"{path}: {name} is {text!r}, not an ISO date and time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _number(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
        raise RecordError(f"{where} is {value!r}, not a number from 0 up")
    return float(value)


def _value(block: object, units: Mapping[str, float], where: str, statistic: str = "avg") -> float | None:
    """Return a figure of a block in SI; None where it is not there."""
    if not isinstance(block, dict) or (number := _number(block.get(statistic), where)) is None:
        return None
    unit = str(block.get("unit", ""))
    if unit not in units:
        raise RecordError(f"{where} is in {unit!r}; it is read in {', '.join(units)}")
    return number * units[unit]


def _devices(content: Mapping[str, Any], path: Path, seconds: float) -> Iterator[DeviceRecord]:
    telemetry = content.get("telemetry_data")
    endpoints = telemetry.get("endpoints") if isinstance(telemetry, dict) else None
    seen: set[str] = set()
    for endpoint in endpoints.values() if isinstance(endpoints, dict) else ():
        gpus = endpoint.get("gpus") if isinstance(endpoint, dict) else None
        for key, gpu in gpus.items() if isinstance(gpus, dict) else ():
            if not isinstance(gpu, dict) or not isinstance(gpu.get("metrics"), dict):
                raise RecordError(f"{path}: {key}: a GPU without metrics")
            name = str(gpu.get("gpu_uuid") or key)
            if name not in seen:  # two exporters of one machine tell of the same GPUs
                seen.add(name)
                yield _device(gpu, name, path, seconds)


def _device(gpu: Mapping[str, Any], name: str, path: Path, seconds: float) -> DeviceRecord:
    metrics, where = gpu["metrics"], f"{path}: {name}"
    joules = _energy(metrics, where)
    mean_watts, max_watts = (_of(metrics, POWER, {"W": 1.0}, where, statistic) for statistic in ("avg", "max"))
    why = ""
    if joules is None and mean_watts is not None:
        joules, note = mean_watts * seconds, "energy: AIPerf's mean power times the benchmark's duration"
    elif joules is None:
        why, note = "AIPerf has neither energy nor power of it", ""
    else:
        note = ""
    usage = Usage(
        energy_joules=joules, why=why, covered_seconds=seconds if joules is not None else None,
        power_mean_watts=mean_watts, power_max_watts=max_watts,
        utilization_ratio=_of(metrics, UTILIZATION, {"%": 0.01}, where),
        memory_mean_bytes=_of(metrics, MEMORY, {"GB": BYTES_PER_GB}, where),
        memory_max_bytes=_of(metrics, MEMORY, {"GB": BYTES_PER_GB}, where, "max"),
    )  # fmt: skip
    return DeviceRecord(
        id=name, kind="gpu", name=str(gpu.get("gpu_name") or "GPU"), host=str(gpu.get("hostname") or ""),
        method="reported", sensor="aiperf", note=note, usage=usage,
    )  # fmt: skip


def _of(
    metrics: Mapping[str, Any], names: tuple[str, ...], units: Mapping[str, float], where: str, statistic: str = "avg"
) -> float | None:
    name = next((name for name in names if name in metrics), "")
    return _value(metrics.get(name), units, f"{where}: {name}", statistic)


def _energy(metrics: Mapping[str, Any], where: str) -> float | None:
    """Return what a GPU used: the counter's difference, which later versions tell as ``avg`` and nothing else."""
    least, most = (_of(metrics, ENERGY, JOULES, where, statistic) for statistic in ("min", "max"))
    if least is None or most is None:
        return _of(metrics, ENERGY, JOULES, where)
    if most < least:
        raise RecordError(f"{where}: the energy counter's least is above its largest")
    return most - least


def _metrics(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    made: dict[str, float] = {}
    for name, called in COUNTS.items():
        block = content.get(name)
        count = _number(block.get("avg"), f"{path}: {name}") if isinstance(block, dict) else None
        if count is not None:
            made[called] = count
    for name in LATENCIES:
        for statistic in STATISTICS:
            seconds = _value(content.get(name), SECONDS, f"{path}: {name}", statistic)
            if seconds is not None:
                made[f"{name}_{statistic}_seconds"] = seconds
    return made


def _params(content: Mapping[str, Any]) -> dict[str, Any]:
    names = ("aiperf_version", "schema_version", "benchmark_id")
    return {name: content[name] for name in names if isinstance(content.get(name), str)}
