r"""A run as a table for a paper, in LaTeX; needs ``\usepackage{booktabs}`` and nothing else.

It is as wide as the text of a page at most. pdfLaTeX takes Latin letters; names in others need XeLaTeX or LuaLaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from greenml import printable
from greenml.record import Factor, Quantity, RunRecord
from greenml.reports import _format, _machine, _reported, markdown

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''",
}  # fmt: skip
_LAST_OF_PDFLATEX = 0x17F  # Latin Extended-A; what is beyond it has no glyph in the fonts of pdfLaTeX
_LIGATURE = re.compile(r"-{2,}|[?!]`|,,|''|``")  # two or more letters that TeX's fonts would draw as one

Row = tuple[str, str, str, str]


def render(record: RunRecord) -> str:
    """Render the table: figure, value, band, how it is known; the sources are below it."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"  \centering\small",
        f"  \\caption{{Energy, carbon and cost of {escape(record.name or record.run_id or 'the run')}.}}",
        r"  \label{tab:greenml}",
        r"  \begin{tabular}{@{}lrrp{0.25\linewidth}@{}}",
        r"    \toprule",
        r"    & Value & Band & Known how \\",
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
    """Make text safe for LaTeX: every special character is itself, and no two become a ligature."""
    apart = _LIGATURE.sub(lambda found: "\0".join(found[0]), printable.line(text))
    return "".join("{}" if letter == "\0" else _SPECIAL.get(letter, letter) for letter in apart)


def _number(text: str) -> str:
    """Write a figure: a space that does not break before its unit, CO2e with its index."""
    return re.sub(r"(?<=\d) (?!to\b)", "~", escape(text)).replace("CO2e", r"CO\textsubscript{2}e")


def _words(text: str) -> str:
    return escape(text).replace("CO2e", r"CO\textsubscript{2}e")


def _rows(record: RunRecord) -> list[Row]:
    total = record.total()
    rows: list[Row] = [("Duration", _number(_format.duration(record.duration_seconds)), "", _clock(record))]
    if total is None:
        return [*rows, ("Energy, carbon, cost", _format.NOT_KNOWN, "", "the record has no totals")]
    rows += [
        _energy(record, "GPU energy", "gpu", total.gpu_energy_joules),
        _energy(record, "CPU energy", "cpu", total.cpu_energy_joules),
        _energy(record, "DRAM energy", "dram", total.dram_energy_joules),
        _row("IT energy", total.it_energy_joules, _format.energy),
        _row("with PUE", total.facility_energy_joules, _format.energy),
        _row(_format.emissions_name(record), total.emissions_grams, _format.mass),
    ]
    if total.market_emissions_grams is not None:
        rows.append(_row("Emissions, market-based", total.market_emissions_grams, _format.mass))
    if total.embodied_grams is not None and total.embodied_grams.low is not None:
        spread = _number(_format.interval(total.embodied_grams.low, total.embodied_grams.high, _format.mass))
        rows.append(("Embodied carbon, share", "a range", spread, escape(total.embodied_grams.basis)))
    rows += [_row(f"Cost, {_format.tier(tier)}", one, _format.money) for tier, one in total.cost_usd.items()]
    if not total.cost_usd:
        rows.append(("Cost", _format.NOT_KNOWN, "", escape(markdown.no_price(record))))
    return [*rows, *_told(record)]


def _told(record: RunRecord) -> list[Row]:
    """Return what other tools told, each of its own scope."""
    rows: list[Row] = []
    for one in record.reported:
        how = escape(f"reported ({_format.SENSOR_NAMES.get(one.tool, one.tool)})")
        for name, value, write in (
            ("energy", _reported.energy_joules(one), _format.energy),
            ("emissions", _reported.emissions_grams(one), _format.mass),
        ):
            told = _format.optional(value, write, _format.NOT_KNOWN)
            rows.append((escape(f"{one.scope} {name}"), _number(told), "", how))
    return rows


def _clock(record: RunRecord) -> str:
    imported = record.devices and all(device.sensor in _format.IMPORTED_SENSORS for device in record.devices)
    return "reported" if imported else "measured"


def _row(name: str, quantity: Quantity, write: Callable[[float], str]) -> Row:
    value = _number(write(quantity.value)) if quantity.value is not None else _format.unknown(quantity, reason=False)
    how = _format.reason(quantity) or (f"{quantity.basis}; {quantity.why}" if quantity.why else quantity.basis)
    return escape(name), value, _number(_format.band(quantity, write)), _words(how)


def _energy(record: RunRecord, name: str, kind: str, quantity: Quantity) -> Row:
    row = _row(name, quantity, _format.energy)
    return (*row[:3], escape(_format.known_how(record, kind, quantity))) if quantity.value is not None else row


def _sources(record: RunRecord) -> list[str]:
    factors = record.factors
    lines = [_factor("Carbon intensity", factors.carbon_intensity), _factor("PUE", factors.pue)]
    lines += [f"Price of a node per hour: {_words(_format.price(tier, one))}." for tier, one in factors.prices.items()]
    ran_on = _machine.machine(record) or _machine.hardware(record)
    if ran_on:
        lines.insert(0, f"Ran on {escape(ran_on)}.")
    phases = " and ".join(dict.fromkeys(one.scope for one in record.reported if one.scope != "run"))
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
