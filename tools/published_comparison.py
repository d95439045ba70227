"""Make ``docs/published-comparison.md``: two published trainings of BART on SAMSum, set side by side from two imports.

``tools/build_docs.py`` writes the page and checks it. What is computed comes from the records that the page's own
commands make; what is quoted stands in the template (``published_comparison.md.j2``) with its source.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from greenml import cli, open_record
from greenml.reports import _format

AZURE = (
    "greenml import --name azureml --duration 9m27s --started 2021-07-01 --metric rouge1=55.162 "
    "--sku ND40rs_v2 --region westus2 --tier dedicated --output azureml.json"
)
SAGEMAKER = (
    "greenml import --name sagemaker --duration 24m --started 2021-04-01 --metric rouge1=42.621 "
    "--sku p3.16xlarge --nodes 2 --region us-east-1 --tier dedicated --output sagemaker.json"
)
# As SageMaker's own text names it today; not part of the comparison, for the question of the quoted $28.
OTHER_SIZE = (
    "greenml import --name p3dn --duration 24m --started 2021-04-01 --sku p3dn.24xlarge --nodes 2 --region us-east-1 "
    "--output p3dn.json"
)
COMPARE = "greenml compare azureml.json sagemaker.json --metric rouge1"
TEMPLATE = Path(__file__).with_suffix(".md.j2")
BLOG = "https://huggingface.co/blog/sagemaker-distributed-training-seq2seq"


def page() -> str:
    """Return the page."""
    with tempfile.TemporaryDirectory() as folder:
        azure, sagemaker, other = (_side(command, Path(folder)) for command in (AZURE, SAGEMAKER, OTHER_SIZE))
        rows = json.loads(_greenml([*shlex.split(COMPARE)[1:], "--json"], Path(folder)))["rows"]
    change = rows[1]["figures"]["cost_dedicated_usd"]["change"]["ratio"]
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(azure=azure, sagemaker=sagemaker, other=other, change=change, compare=COMPARE, blog=BLOG)


@dataclass(frozen=True)
class Side:
    """A published training: the import's command, and what follows from its record."""

    command: str
    seconds: str
    node_seconds: float
    node_hours: float
    rate: str
    usd: float
    cost: str
    low_priority: str
    source: str


def _side(command: str, folder: Path) -> Side:
    """Run an import, and return what the page says of its record."""
    words = shlex.split(command)[1:]
    _greenml(words, folder)
    record = open_record(folder / words[-1])
    total, price = record.total(), record.factors.prices["dedicated"]
    assert total is not None
    usd = {tier: quantity.value for tier, quantity in total.cost_usd.items() if quantity.value is not None}
    return Side(
        command=_wrapped(command),
        seconds=_format.duration(record.duration_seconds),
        node_seconds=record.duration_seconds,
        node_hours=record.place.nodes * record.duration_seconds / 3600,
        rate=_format.money(price.value),
        usd=usd["dedicated"],
        cost=_format.money(usd["dedicated"]),
        low_priority=_format.money(usd["low_priority"]) if "low_priority" in usd else "-",
        source=f"{_format.source(price.source)}.",
    )


def _greenml(words: list[str], folder: Path) -> str:
    """Run a command of greenml in a folder; its output."""
    output = io.StringIO()
    with _within(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        cli.group.main(words, standalone_mode=False, prog_name="greenml")
    return output.getvalue()


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:  # Python 3.10 has no contextlib.chdir
    before, variables = Path.cwd(), dict(os.environ)
    for name in [name for name in variables if name.startswith("GREENML_")]:
        del os.environ[name]
    os.environ["GREENML_CACHE_DIR"] = str(folder)  # the bundled prices alone, not those that somebody fetched
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)


def _wrapped(command: str) -> str:
    """Break a command at its options, to lines that fit."""
    lines, line = [], ""
    for part in command.replace(" --", "\n--").split("\n"):
        if line and len(line) + len(part) > 100:
            lines.append(line)
            line = f"  {part}"
        else:
            line = f"{line} {part}" if line else part
    return " \\\n".join([*lines, line])


if __name__ == "__main__":
    print(page())
