"""``greenml doctor``: what will be measured here and how, what will not and why."""

from __future__ import annotations

import time

import click

from greenml.errors import GreenMLError
from greenml.model import Reading, Sensor, Wanted

PATIENCE_SECONDS = 10.0
_HOW = {
    "counter": "energy counter",
    "gauge": "power, integrated",
    "estimate": "modelled, not measured",
    None: "no energy",
}


@click.command("doctor")
@click.option("--gpus", metavar="LIST", help="'all' of the node, or a list: 0,1; those CUDA shows by default.")
@click.option("--sku", metavar="SKU", help="Check this machine size too.")
@click.option("--region", metavar="REGION", help="Check this region too.")
def command(gpus: str | None, sku: str | None, region: str | None) -> int:
    """Tell what greenml will measure on this machine, and how.

    Also what it will not and why, and what would fix it.
    """
    import threading

    from greenml.settings import resolve

    settings = resolve({"gpus": gpus, "sku": sku, "region": region})
    found: list[tuple[Sensor, Reading | str]] = []
    absent: list[str] = []
    asked: list[str] = []
    failed: list[GreenMLError] = []

    def look() -> None:
        from greenml import sensors

        try:
            here = sensors.discover(
                Wanted(gpus=settings.gpus), lambda _, text: absent.append(text), lambda name, _: asked.append(name)
            )
            found.extend((sensor, _read(sensor)) for sensor in here)
        except GreenMLError as error:
            failed.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if failed:
        raise failed[0]
    if thread.is_alive():
        absent.append(f"{asked[-1]}: a call to its driver has not returned for {PATIENCE_SECONDS:.0f} s; see 'dmesg'")
    _print_devices(found)
    _print_absent(absent)
    _print_place(settings.sku, settings.region)
    return 0


def _read(sensor: Sensor) -> Reading | str:
    try:
        sensor.read()
        time.sleep(0.2)  # utilization and modelled power are of the time between two reads
        return sensor.read()
    except GreenMLError as error:
        return str(error)


def _print_devices(found: list[tuple[Sensor, Reading | str]]) -> None:
    from rich import box
    from rich.table import Table

    from greenml.cli._tables import show

    table = Table(box=box.SIMPLE_HEAD, title="What is measured here", title_justify="left")
    for name in ("device", "name", "how", "doubt", "now"):
        table.add_column(name, overflow="fold")
    for sensor, reading in found:
        device = sensor.device
        doubt = f"±{device.gain_ratio:.0%}" if device.method else "-"
        now = reading if isinstance(reading, str) else _now(reading)
        table.add_row(f"{device.kind} {device.id}", device.name, f"{_HOW[device.method]} ({device.sensor})", doubt, now)
    show(table, plain_width=120)
    for sensor, _ in found:
        if sensor.device.note:
            click.echo(f"  {sensor.device.kind}: {sensor.device.note}")


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
    from greenml import assumptions, job
    from greenml.settings import Settings

    me = job.current()
    cloud = {"azure": "an Azure VM", "aws": "an AWS VM", "gcp": "a Google VM"}.get(
        job.cloud(), "no cloud VM that its DMI data names"
    )
    click.echo("\nWhere this is")
    click.echo(f"  machine: {cloud}; nobody was asked over a network")
    if me.launcher or me.names:
        ranks = f"{me.launcher}, rank {me.rank} of {me.world_size}" if me.launcher else "no launcher"
        click.echo(f"  job: {ranks}{''.join(f', {name} {value}' for name, value in me.names.items())}")
    checked = assumptions.check(Settings(sku=sku, region=region))
    click.echo(f"  sku: {checked.sku or 'not told; no cost (sku=, GREENML_SKU, or [tool.greenml] in pyproject.toml)'}")
    click.echo(f"  region: {region or 'not told; the world average is assumed (region=, GREENML_REGION)'}")
