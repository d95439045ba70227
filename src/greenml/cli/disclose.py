"""``greenml disclose``: the records of a model as the file that a regulator, a registry or a report asks for."""

from __future__ import annotations

from pathlib import Path

import click

from greenml import files, redaction

FORMATS = {
    "gpai": "the EU's Model Documentation Form: Markdown",
    "boamps": "BoAmps report: JSON",
    "spdx": "SPDX 3.0.1 AI profile: JSON-LD",
    "cyclonedx": "CycloneDX 1.7 ML-BOM: JSON",
    "sci": "SCI for AI: JSON",
    "csv": "ledger of CSRD and the GHG Protocol: CSV",
}


@click.command("disclose")
@click.argument("runs", metavar="RUN...", nargs=-1)
@click.option(
    "--format", "name", type=click.Choice(list(FORMATS)), required=True,
    help="; ".join(f"{name}: {words}" for name, words in FORMATS.items()) + ".",
)  # fmt: skip
@click.option(
    "--stage", "staged", nargs=2, multiple=True, metavar="STAGE RUN",
    help="A run of another stage than training: pre-training, fine-tuning, evaluation, inference, or discarded for "
    "what was thrown away. May be repeated.",
)  # fmt: skip
@click.option(
    "--param", "given", multiple=True, metavar="NAME=VALUE",
    help="What no record knows: parameters=406e6, publisher=Name. May be repeated.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write here, not to the terminal."
)
def command(
    runs: tuple[str, ...], name: str, staged: tuple[tuple[str, str], ...], given: tuple[str, ...], output: Path | None
) -> None:
    """Write what a model's runs used as a disclosure file.

    RUN is a run.json, a folder (searched for records) or a glob; without --stage its stage is training.
    """
    from greenml.analysis import record_search
    from greenml.analysis.disclosure import model as disclosure
    from greenml.errors import SettingsError, did_you_mean, nearest

    if not runs and not staged:
        raise click.UsageError("Missing argument 'RUN...'.")
    answers = disclosure.answers(given)
    made: list[disclosure.Run] = []
    for stage, words in [("training", list(runs)), *((stage, [word]) for stage, word in staged)]:
        if stage not in disclosure.STAGES:
            hint = did_you_mean(nearest(stage, disclosure.STAGES, 1))
            raise SettingsError(
                f"--stage {stage}: there is no such stage{hint or '; there are ' + ', '.join(disclosure.STAGES)}"
            )
        if words:
            records, skipped = record_search.load(words)
            for text in skipped:
                click.echo(f"greenml: {redaction.printable_line(text)}", err=True)
            made += [disclosure.Run(record, stage) for _, record in records]
    model = disclosure.Model(disclosure.each_once(made), answers)
    text = disclosure.render("ledger" if name == "csv" else name, model)
    if output is None:
        click.echo(text, nl=False)
    else:
        files.write(output, text)
        click.echo(
            f"{output}: {len(model.runs)} {'run' if len(model.runs) == 1 else 'runs'}, {FORMATS[name]}", err=True
        )
    if asked := disclosure.open_questions(model):
        click.echo(f"greenml: {asked}", err=True)
