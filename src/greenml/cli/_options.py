"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from greenml.factors import INTENSITY_PROVIDERS

_ASSUMED = (
    click.option(
        "--sku",
        metavar="SKU",
        help="The cloud's machine size, for the price: ND40rs_v2 ('greenml skus' lists them).",
    ),
    click.option("--region", metavar="REGION", help="Where it runs: westus2, SWE ('greenml regions' lists them)."),
    click.option("--tier", metavar="TIER", help="Which price was paid: dedicated, low_priority or spot."),
    click.option("--nodes", type=int, metavar="N", help="Machines billed."),
    click.option("--carbon-intensity", type=float, metavar="G_PER_KWH", help="In place of the tables, g CO2e/kWh."),
    click.option(
        "--basis",
        metavar="BASIS",
        help="Of the carbon intensity: direct (at the power plants; the default) or lifecycle (with fuel supply).",
    ),
    click.option("--price-per-hour", type=float, metavar="USD", help="In place of the tables, USD per node and hour."),
    click.option("--pue", type=float, metavar="RATIO", help="Power usage effectiveness, in place of the tables."),
    click.option(
        "--market-intensity", type=float, metavar="G_PER_KWH", help="Of your contract, shown beside the location's."
    ),
    click.option("--lifetime-years", type=float, metavar="YEARS", help="Over which making the hardware is shared out."),
)


def formats(**choices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options that each choose a format, of which at most one can be given; the command gets it as ``style``.

    Args:
        choices: help of each format by its name.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:  # noqa: ANN401  as the command has it
            chosen = [name for name in choices if values.pop(f"as_{name}")]
            if len(chosen) > 1:
                raise click.UsageError(f"give --{chosen[0]} or --{chosen[1]}, not both")
            return function(style=chosen[0] if chosen else None, **values)

        for name in reversed(choices):
            command = click.option(f"--{name}", f"as_{name}", is_flag=True, help=choices[name])(command)
        return command

    return decorate


def intensity(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that names the provider of the carbon intensity over time."""
    words = f"Ask for the carbon intensity over time: {', '.join(INTENSITY_PROVIDERS)}, or a CSV file of yours."
    return click.option("--intensity", metavar="PROVIDER|CSV", help=words)(function)


def assumed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where and on what a run happened."""
    for option in reversed(_ASSUMED):
        function = option(function)
    return function
