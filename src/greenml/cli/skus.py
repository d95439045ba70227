"""``greenml skus``: the machine sizes that have a name here."""

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

    from greenml.cli._tables import show
    from greenml.errors import SettingsError
    from greenml.factors import skus

    found = skus.search(pattern)
    if not found:
        raise SettingsError(f"no SKU matches {pattern!r}; 'greenml skus' without a pattern lists all")
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("cloud", "left"), ("SKU", "left"), ("what", "left"), ("vCPU", "right"), ("GiB", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for one in found:
        table.add_row(one.cloud, one.name, one.label, _number(one.vcpus), _number(one.memory_gib))
    show(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
