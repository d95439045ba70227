"""The shell of the HTML pages: one file that opens from disk, reads well everywhere, and asks no network.

How a page is made::

    shown = table("Energy by phase", ["phase", Column("energy", figure=True)], rows)
    body = section("Energy", shown, chart(figure, label))
    html = page("digits", body, scripts=["..."])

Every function takes plain ``str`` and escapes it; what is HTML already is ``Markup`` and goes in as it is, and every
function here returns ``Markup``. So text of a run cannot become HTML by being forgotten.

**Charts.** ``chart`` takes a plain Plotly figure (``{"data": [...], "layout": {...}}``) and a label that says in words
what it shows. Colours are names of ``_palette``, written ``"var(--series-1)"``, so that the chart
follows the colour scheme and prints on white. Text of a run that Plotly shows (names, ticks, hovers) goes through
``plotly_text``: Plotly reads some HTML of its own. Charts with the same ``group`` zoom together; ``zoom(group)`` makes
the buttons for that, and ``picker(group, ...)`` check boxes that show and hide the traces whose ``meta`` is the
check box's key. No legend is drawn unless the figure asks for one.

**Tables.** A row's first cell is its heading. Columns of figures are ``Column(title, figure=True)``. A cell is ``str``,
``Markup``, or ``Cell(content, sort=...)`` with the number or text that it is sorted by. ``sortable=True`` makes each
heading a button. Wide tables scroll inside their own box.

**Scripts** of a page run after its charts were prepared; ``window.greenml`` has ``figures`` (a Map of each plot's
element to its figure) and ``draw(element)``. When all charts are drawn, ``<html data-charts="drawn">`` is set and
``performance.mark("charts-drawn")`` made. The content security policy names each script by its hash and forbids
everything else: no network, no other script, no ``on...`` attributes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from greenml.reports._palette import DARK, LIGHT

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
{body}
<script type="application/json" id="themes">{themes}</script>
{scripts}
</body>
</html>
"""


class Markup(str):
    """HTML that is safe already, and is not escaped again."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; ``figure`` ones are set to the right, with digits of one width."""

    title: str
    figure: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell, with what it is sorted by where that is not its text."""

    content: str
    sort: float | str | None = None


def text(value: object) -> Markup:
    """Escape text for HTML, in an element or in a quoted attribute; ``Markup`` stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def join(*parts: str) -> Markup:
    """Put parts one after the other, each escaped unless it is ``Markup``."""
    return Markup("\n".join(text(part) for part in parts if part))


def element(name: str, *parts: str, **attributes: str) -> Markup:
    """Return an element; an attribute's trailing underscore is dropped, other ones become hyphens."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items() if value != ""
    )
    return Markup(f"<{name}{words}>{''.join(text(part) for part in parts)}</{name}>")


def link(label: str, url: str) -> Markup:
    """Return a link to a web page; the label alone where the address is not one (``javascript:`` and such)."""
    if not re.match(r"https?://[^\s]+$", url):
        return text(label)
    return element("a", label, href=url, rel="noopener noreferrer")


def plotly_text(value: object) -> str:
    """Make text safe for Plotly's names, ticks and hovers, where some tags and entities would be obeyed."""
    flat = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def data(value: object) -> Markup:
    """Write a value as compact JSON that can stand in a script element: no tag, comment or line end survives in it."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return Markup(written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def slug(title: str) -> str:
    """Return a title as an id."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"


def section(title: str, *parts: str, id: str = "") -> Markup:  # noqa: A002  the attribute's name
    """Return a part of the page under a heading of the second level."""
    name = id or slug(title)
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, "\n", join(*parts), id=name, aria_labelledby=f"{name}-title")


def table(
    caption: str,
    columns: Iterable[str | Column],
    rows: Iterable[Sequence[str | Cell]],
    *,
    sortable: bool = False,
    quiet: bool = False,
    last: bool = False,
) -> Markup:
    """Return a table in a box that scrolls by itself, also by keyboard.

    Args:
        caption: what it holds.
        columns: from the left; the first one's cells are the rows' headings.
        rows: with a cell for each column.
        sortable: the headings are buttons that sort.
        quiet: the caption is for screen readers only, as the heading above says the same.
        last: the last row is a sum, set apart.
    """
    known = [column if isinstance(column, Column) else Column(column) for column in columns]
    head = Markup("".join(_heading(column, sortable) for column in known))
    body = Markup("\n".join(_row(row, known) for row in rows))
    name = element("caption", caption, class_="quiet" if quiet else "")
    words = " ".join(word for word, wanted in (("sortable", sortable), ("summed", last)) if wanted)
    made = element(
        "table", name, element("thead", element("tr", head)), element("tbody", Markup(f"\n{body}\n")), class_=words
    )
    return element("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)


def _heading(column: Column, sortable: bool) -> Markup:
    title = element("button", column.title, type="button") if sortable else column.title
    return element("th", title, scope="col", class_="figure" if column.figure else "")


def _row(row: Sequence[str | Cell], columns: Sequence[Column]) -> Markup:
    made = []
    for place, (cell, column) in enumerate(zip(row, columns, strict=True)):
        content, sort = (cell.content, cell.sort) if isinstance(cell, Cell) else (cell, None)
        attributes = {"class_": "figure" if column.figure else "", "data_sort": "" if sort is None else str(sort)}
        if place == 0:
            made.append(element("th", content, scope="row", **attributes))
        else:
            made.append(element("td", content, **attributes))
    return element("tr", *made)


def chart(
    figure: Mapping[str, Any], label: str, *, group: str = "", caption: str = "", height: int = 300, more: str = ""
) -> Markup:
    """Return a chart.

    Args:
        figure: a Plotly figure, plain lists and dicts, None where nothing is known.
        label: what it shows, for those who do not see it; the figures themselves belong in a table.
        group: of charts that zoom together and share a picker.
        caption: under it.
        height: in CSS pixels.
        more: HTML under the caption, such as a table in ``details``.
    """
    plot = element("div", class_="plot", role="img", aria_label=label, style=f"height:{int(height)}px")
    held = Markup(f'<script type="application/json">{data(figure)}</script>')
    told = element("figcaption", caption) if caption else Markup("")
    return element("figure", plot, held, told, more, class_="chart", data_group=group)


def details(summary: str, *parts: str) -> Markup:
    """Return what is folded up until somebody asks for it; printed open."""
    return element("details", element("summary", summary), "\n", join(*parts))


def zoom(group: str, label: str = "Zoom the charts") -> Markup:
    """Return the buttons that zoom and move the charts of a group."""
    words = {"in": "Zoom in", "out": "Zoom out", "back": "Earlier", "on": "Later", "reset": "Show all"}
    buttons = [element("button", word, type="button", data_zoom=key) for key, word in words.items()]
    return element("div", *buttons, class_="tools", role="group", aria_label=label, data_for=group)


def picker(group: str, title: str, items: Iterable[tuple[str, str, str]]) -> Markup:
    """Return check boxes that show and hide traces of a group's charts.

    Args:
        group: of the charts.
        title: what is picked.
        items: key (the traces' ``meta``), label, and mark of each: a border's style and colour
            (``dashed var(--series-1)``), an area's (``fill var(--shade-1)``), or empty.
    """
    boxes = [
        element("label", Markup(f'<input type="checkbox" checked data-key="{text(key)}">'), _swatch(mark), " ", label)
        for key, label, mark in items
    ]
    return element("fieldset", element("legend", title), *boxes, class_="picker", data_for=group)


def _swatch(mark: str) -> Markup:
    if not mark:
        return Markup("")
    filled = mark.startswith("fill ")
    style = f"background:{mark[5:]}" if filled else f"border-top:3px {mark}"
    return element("span", class_="swatch area" if filled else "swatch", style=style, aria_hidden="true")


def page(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """Return the whole page.

    Args:
        title: the document's.
        body: its landmarks: usually ``header``, ``main id="content"`` and ``footer``.
        scripts: of this page, beside the shell's own and Plotly.

    """
    sources = [*([_asset("plotly.min.js")] if 'class="chart"' in body else []), _asset("_page.js"), *scripts]
    allowed = " ".join(f"'sha256-{_hash(source)}'" for source in sources)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _SHELL.format(
        policy=policy,
        title=text(title),
        style=_style(),
        body=text(body),
        themes=data({"light": LIGHT, "dark": DARK}),
        scripts="\n".join(f"<script>{source}</script>" for source in sources),
    )


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")


@cache
def _asset(name: str) -> str:
    return files("greenml.reports").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    def block(colors: Mapping[str, str]) -> str:
        return " ".join(f"{name}: {value};" for name, value in colors.items())

    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {block(DARK)} }} }}"
    return f":root {{ {block(LIGHT)} }}\n{dark}\n{_asset('_page.css')}"
