"""``greenml estimate``: what a training will use, before it runs or from a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from greenml.cli import _terminal
from greenml.cli._options import assumed

UNITS = ("steps", "epochs", "samples", "tokens")


@click.command("estimate")
@click.argument("probe", metavar="[PROBE.JSON]", required=False, type=click.Path(path_type=Path))
@click.option("--steps", type=float, metavar="N", help="From a probe: for so many steps.")
@click.option("--epochs", type=float, metavar="N", help="From a probe: for so many epochs.")
@click.option("--samples", type=float, metavar="N", help="From a probe: for so many samples.")
@click.option("--tokens", type=float, metavar="N", help="From a probe: for so many tokens.")
@click.option("--gpu-hours", type=float, metavar="H", help="Without a probe: hours times GPUs.")
@click.option("--hours", type=float, metavar="H", help="Without a probe: how long it runs.")
@click.option("--gpus", type=int, metavar="N", help="Without a SKU: how many GPUs.")
@click.option("--gpu-model", default="", metavar="NAME", help="Without a SKU: which, as nvidia-smi names it.")
@click.option("--utilization", type=float, metavar="RATIO", help="Of the GPUs, 0 to 1; 0.9 (0.5 to 1) by default.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@assumed
def command(  # noqa: PLR0917  options
    probe: Path | None,
    gpu_hours: float | None,
    hours: float | None,
    gpus: int | None,
    gpu_model: str,
    utilization: float | None,
    *,
    as_json: bool,
    **place: Any,  # noqa: ANN401
) -> None:
    """Estimate energy, carbon and cost before a training runs.

    From a machine: greenml estimate --sku ND40rs_v2 --gpu-hours 8 --region westus2. From the record of a short run of
    the same training: greenml estimate probe.json --steps 10000. Every figure has an interval, and none is measured.
    """
    from greenml.analysis import estimation

    units = {name: value for name in UNITS if (value := place.pop(name)) is not None}
    if probe is None:
        _only(not units, f"--{next(iter(units), '')} needs a probe: greenml estimate probe.json --steps 10000")
        made = estimation.of_machine(
            place, hours=hours, gpu_hours=gpu_hours, gpus=gpus, gpu_model=gpu_model, utilization_ratio=utilization
        )
    else:
        machine = (gpu_hours, hours, gpus, gpu_model or None, utilization)
        _only(
            all(value is None for value in machine), "a probe tells machine and time itself; give --steps or the like"
        )
        _only(len(units) == 1, "how long: give one of --steps, --epochs, --samples or --tokens")
        made = _from_probe(probe, place, *next(iter(units.items())))
    if as_json:
        from pydantic import TypeAdapter

        _terminal.echo_json(TypeAdapter(estimation.Estimate).dump_json(made, indent=2).decode())
    else:
        click.echo(estimation.render(made, _terminal.width(100)), nl=False)


def _only(right: bool, message: str) -> None:
    from greenml.errors import SettingsError

    if not right:
        raise SettingsError(message)


def _from_probe(path: Path, changes: dict[str, Any], unit: str, units: float) -> Any:  # noqa: ANN401  an Estimate
    from greenml.accounting import assumptions
    from greenml.analysis import estimation, record_search

    record = record_search.open_record(path)
    if any(value is not None for value in changes.values()):
        record = assumptions.reaccount(record, **changes)
    return estimation.of_probe(record, unit, units)
