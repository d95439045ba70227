"""``greenml doctor``: what is measured here and how, what is not and why."""

from __future__ import annotations

import time

import click

from greenml.errors import SettingsError
from greenml.trace.types import Device, Reading, Sensor, Wanted

PATIENCE_SECONDS = 10.0
METHODS = {
    "counter": "energy counter",
    "gauge": "power, integrated",
    "estimate": "modelled, not measured",
    None: "no energy",
}
SCOPES = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM", "host": "host", "process": "the run's processes"}


@click.command("doctor")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@click.option("--sku", metavar="SKU", help="Check this machine size too.")
@click.option("--region", metavar="REGION", help="Check this region too.")
def command(gpus: str | None, sku: str | None, region: str | None) -> int:
    """Say what greenml measures on this machine, and how.

    Also what it does not measure, why, and what would change that.
    """
    import threading

    from greenml.settings import resolve

    settings = resolve({"gpus": gpus, "sku": sku, "region": region})
    readings: list[tuple[Sensor, Reading | str]] = []
    absent: list[str] = []
    probed: list[str] = []
    errors: list[SettingsError] = []

    def look() -> None:
        from greenml import sensors

        try:
            here = sensors.discover(
                Wanted(gpus=settings.gpus), lambda _, text: absent.append(text), lambda name, _: probed.append(name)
            )
            readings.extend((sensor, _read(sensor)) for sensor in here)
        except SettingsError as error:
            errors.append(error)
        except Exception as error:  # noqa: BLE001  this command exists for machines on which something fails
            absent.append(f"{probed[-1] if probed else 'sensors'}: {type(error).__name__}: {error}")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if errors:
        raise errors[0]
    if thread.is_alive():
        name = probed[-1] if probed else "sensors"
        absent.append(f"{name}: a call to its driver has not returned for {PATIENCE_SECONDS:.0f} s; see 'dmesg'")
    included = {kind for sensor, _ in readings for kind in sensor.device.detail.get("includes", "").split()}
    _print_devices([reading for reading in readings if reading[0].device.kind not in included])
    _print_absent(absent)
    _print_place(settings.sku, settings.region)
    return 0


def _read(sensor: Sensor) -> Reading | str:
    try:
        sensor.read()
        time.sleep(0.2)  # utilization and modelled power are of the time between two reads
        return sensor.read()
    except Exception as error:  # noqa: BLE001  a sensor's fault is what this command tells
        return str(error) or type(error).__name__


def _print_devices(readings: list[tuple[Sensor, Reading | str]]) -> None:
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show

    table = Table(box=box.SIMPLE_HEAD, title="What is measured here", title_justify="left")
    for name in ("device", "name", "scope", "how", "uncertainty", "now"):
        table.add_column(name, overflow="fold")
    for sensor, reading in readings:
        device = sensor.device
        uncertainty = f"±{device.calibration_ratio:.0%}" if device.method else "-"
        now = reading if isinstance(reading, str) else _now(reading)
        how = f"{METHODS[device.method]} ({device.sensor})"
        table.add_row(f"{device.kind} {device.id}", device.name, _scope(device), how, uncertainty, now)
    show(table, plain_width=120)
    for sensor, _ in readings:
        if sensor.device.note:
            click.echo(f"  {sensor.device.kind}: {sensor.device.note}")


def _scope(device: Device) -> str:
    """Return what the device's figures are of."""
    if device.detail.get("scope") == "module":
        return "module"
    scope = SCOPES.get(device.kind, device.kind)
    if device.id == "psys":
        return "the whole platform"
    if device.share_ratio < 1:
        return f"{scope}, {device.share_ratio:.0%} of it this run's"
    return scope


def _now(reading: Reading) -> str:
    from greenml.reports import _format

    parts = []
    if reading.power_watts is not None:
        parts.append(_format.watts(reading.power_watts))
    if reading.utilization_ratio is not None:
        parts.append(f"{reading.utilization_ratio:.0%} busy")
    if reading.memory_bytes is not None:
        parts.append(f"{_format.gigabytes(reading.memory_bytes)} GB used")
    return ", ".join(parts) or "-"


def _print_absent(absent: list[str]) -> None:
    if absent:
        click.echo("\nWhat is not, and why")
        for text in absent:
            click.echo(f"  - {text}")


def _print_place(sku: str, region: str) -> None:
    from greenml.accounting.check import check
    from greenml.run import environment, membership
    from greenml.settings import Settings

    me = membership.current()
    cloud = {"azure": "an Azure VM", "aws": "an AWS VM", "gcp": "a Google VM"}.get(
        environment.cloud(), "no cloud VM that its DMI data names"
    )
    click.echo("\nWhere this is")
    click.echo(f"  machine: {cloud}; nothing was asked over a network")
    if me.launcher or me.names:
        ranks = f"{me.launcher}, rank {me.rank} of {me.world_size}" if me.launcher else "no launcher"
        click.echo(f"  job: {ranks}{''.join(f', {name} {value}' for name, value in me.names.items())}")
    checked = check(Settings(sku=sku, region=region))
    click.echo(f"  sku: {checked.sku or 'not given; no cost (sku=, GREENML_SKU, or [tool.greenml] in pyproject.toml)'}")
    click.echo(f"  region: {region or 'not given; the world average is assumed (region=, GREENML_REGION)'}")
