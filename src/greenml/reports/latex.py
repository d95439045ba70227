r"""Renders a run as a LaTeX table for a paper; needs ``\usepackage{booktabs}`` and nothing else.

It is as wide as the text of a page at most. pdfLaTeX takes Latin letters; names in others need XeLaTeX or LuaLaTeX.
"""

from __future__ import annotations

import re

from greenml import redaction
from greenml.record.schema import Factor, RunRecord
from greenml.reports import _format, _parts

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''",
}  # fmt: skip
_LAST_OF_PDFLATEX = 0x17F  # Latin Extended-A; what is beyond it has no glyph in the fonts of pdfLaTeX
_LIGATURE = re.compile(r"-{2,}|[?!]`|,,|''|``")  # two or more letters that TeX's fonts would draw as one

Row = tuple[str, str, str, str]


def render(record: RunRecord) -> str:
    """Render the table: figure, value, interval, how it is known; the sources are below it."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"  \centering\small",
        f"  \\caption{{Energy, carbon and cost of {escape(record.name or record.run_id or 'the run')}.}}",
        r"  \label{tab:greenml}",
        r"  \begin{tabular}{@{}lrrp{0.25\linewidth}@{}}",
        r"    \toprule",
        r"    & Value & Interval & Known how \\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in _rows(record)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"",
        r"  \medskip",
        r"  \begin{minipage}{\linewidth}\footnotesize",
        *(f"    {line}" for line in _sources(record)),
        r"  \end{minipage}",
        r"\end{table}",
    ]
    text = "\n".join(lines) + "\n"
    beyond = sorted({letter for letter in text if ord(letter) > _LAST_OF_PDFLATEX})
    return f"% {' '.join(beyond)}: needs XeLaTeX or LuaLaTeX, with a font that has them\n{text}" if beyond else text


def escape(text: str) -> str:
    """Escape text for LaTeX: special characters print as themselves, and no two form a ligature."""
    apart = _LIGATURE.sub(lambda match: "\0".join(match[0]), redaction.printable_line(text))
    return "".join("{}" if letter == "\0" else _SPECIAL.get(letter, letter) for letter in apart)


def _number(text: str) -> str:
    """Write a figure: a space that does not break before its unit, CO2e with its index."""
    return re.sub(r"(?<=\d) (?!to\b)", "~", escape(text)).replace("CO2e", r"CO\textsubscript{2}e")


def _words(text: str) -> str:
    return escape(text).replace("CO2e", r"CO\textsubscript{2}e")


def _rows(record: RunRecord) -> list[Row]:
    groups = ("energy", "emissions", "footprint", "cost", "reported")
    figures = [figure for figure in _parts.figures(record) if figure.group in groups and _fits(figure)]
    figures.sort(key=lambda figure: groups.index(figure.group))
    return [
        ("Duration", _number(_format.duration(record.duration_seconds)), "", _clock(record)),
        *(
            (escape(figure.label), _number(figure.text), _number(figure.interval), _words(figure.how))
            for figure in figures
        ),
    ]


def _fits(figure: _parts.RunFigure) -> bool:
    """Tell whether a figure is one of a paper's: of the footprint, carbon by contract and embodied carbon are."""
    return figure.group != "footprint" or figure.name in ("market_emissions_grams", "embodied_grams")


def _clock(record: RunRecord) -> str:
    imported = record.devices and all(_format.is_imported(device) for device in record.devices)
    return "reported" if imported else "measured"


def _sources(record: RunRecord) -> list[str]:
    factors = record.factors
    lines = [_factor("Carbon intensity", factors.carbon_intensity), _factor("PUE", factors.pue)]
    if other := _format.other_basis(record):
        lines.insert(1, f"{escape(other)}.")
    lines += [
        f"Price of a node per hour: {_words(_format.price(tier, price))}." for tier, price in factors.prices.items()
    ]
    ran_on = _parts.machine(record) or _parts.hardware(record)
    if ran_on:
        lines.insert(0, f"Ran on {escape(ran_on)}.")
    phases = " and ".join(dict.fromkeys(reported.scope for reported in record.reported if reported.scope != "run"))
    apart = f"; figures named {escape(phases)} cover that phase" if phases else ""
    lines.insert(0, f"Figures cover the whole run, set-up and evaluation included{apart}.")
    if len(record.attempts) > 1:
        lines.insert(0, f"The run took {len(record.attempts)} attempts; every figure is their sum.")
    if record.status in _format.STATUS_WORDS:
        lines.insert(0, f"Status: {escape(_format.STATUS_WORDS[record.status])}.")
    version = f"greenml {record.greenml_version}".strip()
    tables = f", tables {factors.tables_version}" if factors.tables_version else ""
    return [*lines, f"Made with {escape(version + tables)}."]


def _factor(name: str, factor: Factor | None) -> str:
    return f"{name}: {_words(_format.factor(factor)) if factor else _format.NOT_KNOWN}."
