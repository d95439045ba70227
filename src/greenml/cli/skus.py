"""``greenml skus``: lists the machine sizes that have a name here."""

from __future__ import annotations

import click


@click.command("skus")
@click.argument("pattern", default="")
def command(pattern: str) -> None:
    """List machine sizes whose name holds PATTERN.

    Or matches it: ND*. With what is in them.
    """
    from rich import box
    from rich.table import Table

    from greenml.cli._terminal import show
    from greenml.errors import SettingsError
    from greenml.factors import skus

    matches = skus.search(pattern)
    if not matches:
        if not any(sign in pattern for sign in "*?["):
            matches = [skus.find(pattern)]  # by another spelling of its name; else says what is near it
        else:
            raise SettingsError(f"no SKU matches {pattern!r}; 'greenml skus' without a pattern lists all")
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("cloud", "left"), ("SKU", "left"), ("what", "left"), ("vCPU", "right"), ("GiB", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for sku in matches:
        table.add_row(sku.cloud, sku.name, sku.label, _number(sku.vcpus), _number(sku.memory_gib))
    show(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
