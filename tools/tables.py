"""The bundled tables as files: read, merge, write, and stamp with a version and SOURCES.md.

Usage: ``python tools/tables.py`` after any edit of a table; ``--check`` only says whether that was done.

The tables in ``src/greenml/factors/data`` are the truth. They are edited by hand or by ``tools/refresh_tables.py``,
checked by ``tools/check_tables.py``, and read by ``greenml.factors.tables``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

Row = dict[str, str]
Tables = dict[str, list[Row]]

DATA = Path(__file__).resolve().parent.parent / "src" / "greenml" / "factors" / "data"

# What makes a row of each table one of a kind. Rows are sorted by it.
KEYS = {
    "carbon_intensity": ("scope", "code", "year", "basis", "source"),
    "countries": ("iso3",),
    "cpu_parts": ("kind", "key"),
    "cpus": ("cpu_model",),
    "embodied": ("kind", "model", "source"),
    "equivalents": ("id",),
    "gpus": ("gpu_model",),
    "prices": ("cloud", "sku", "region", "tier", "as_of"),
    "provider_defaults": ("provider", "year"),
    "region_aliases": ("alias",),
    "regions": ("cloud", "region"),
    "skus": ("cloud", "sku"),
    "sources": ("source_id",),
    "subdivisions": ("code",),
}
CODES_ONLY = {"iso-3166": ("countries", "subdivisions")}  # tables of codes and names, without a column of sources

LEFT_OUT = """\
* Spot prices of EC2 in us-east-1 of 2023-10-10: their only source is an AGPL-3.0 repository.
* Spot prices that were not below the full price of their date: no offer.
* Consumption-based yearly figures of 1,760 grid zones by Electricity Maps: ODbL-1.0, whose share-alike would bind
  the whole database.
* Embodied carbon of 8 GPUs by BoaviztAPI: results of AGPL-3.0 software. Its figure of the H100 is 3.5 times
  NVIDIA's own.
* Of a copy of Intel's product pages that lies in an AGPL-3.0 repository, all but Intel's own counts of cores and
  threads (column `cores_source`), which are facts of Intel.
"""

ATTRIBUTIONS = """\
* Carbon intensity and generation shares of countries and the world: Ember (2026); Energy Institute -
  Statistical Review of World Energy - with major processing by Our World in Data. Licensed under CC-BY-4.0
  (<https://creativecommons.org/licenses/by/4.0/>).
* Processor power, the survey PUE and part of the equivalents: Green Algorithms (Lannelongue, Grealey,
  Inouye), <https://www.green-algorithms.org>. Licensed under CC-BY-4.0
  (<https://creativecommons.org/licenses/by/4.0/>).
* Carbon intensity of Australian states: National Greenhouse Accounts Factors, Commonwealth of Australia.
  Licensed under CC-BY-4.0 (<https://creativecommons.org/licenses/by/4.0/>).
* Carbon intensity of Canadian provinces to 2019: Environment and Climate Change Canada. Contains information
  licensed under the Open Government Licence - Canada (<https://open.canada.ca/en/open-government-licence-canada>).
* PUE of two years: Mytton, Journal of Cloud Computing 2020. Licensed under CC-BY-4.0.
* eGRID and the Greenhouse Gas Equivalencies Calculator: United States Environmental Protection Agency, public
  domain.
* Apache Libcloud: Copyright (c) 2010-2021 The Apache Software Foundation. The Apache-2.0 sources
  below are used under that licence (<https://www.apache.org/licenses/LICENSE-2.0>).
* Changes made to all of them: rows selected, columns renamed and joined, units converted where the table's
  column says so.

The MIT sources are carbontracker; CodeCarbon, Copyright (c) 2019 Mila, BCG Gamma, CometML, Haverford College,
Copyright (c) 2023 Code Carbon NGO; the website of Full Stack Deep Learning; gpu-pricing, Copyright (c) 2026
gpu-pricing contributors; Microsoft Aspire; tsaol/aws-gpu; USEPA/power-profiler; under these terms:

> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without
> limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
> the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
> conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial
> portions of the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
> LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
> EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
> IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR
> THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@dataclass
class Merge:
    """What a merge did to a table."""

    added: int = 0
    changed: int = 0
    same: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.added} rows added, {self.changed} changed, {self.same} as they were"


def read(table: str, folder: Path = DATA) -> list[Row]:
    """Return a table's rows."""
    with (folder / f"{table}.csv").open("r", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_all(folder: Path = DATA) -> Tables:
    """Return every table."""
    return {table: read(table, folder) for table in KEYS}


def key(table: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what makes a row one of a kind."""
    return tuple(row[name] for name in KEYS[table])


def text(rows: Sequence[Row]) -> str:
    """Return rows as CSV, with the line ends of Unix."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write(table: str, rows: Iterable[Row], folder: Path = DATA) -> None:
    """Write a table, sorted by its key."""
    content = text(sorted(rows, key=lambda row: key(table, row)))
    (folder / f"{table}.csv").write_bytes(content.encode("utf-8"))


def merge(table: str, new_rows: Iterable[Mapping[str, str]], folder: Path = DATA) -> Merge:
    """Put rows into a table: a row of the same key is replaced, another is added. Columns not given stay empty.

    Raises:
        ValueError: a row has a column that the table does not have.
    """
    rows = read(table, folder)
    blank, index, result = dict.fromkeys(rows[0], ""), {key(table, row): row for row in rows}, Merge()
    for new in new_rows:
        if unknown := set(new) - set(blank):
            raise ValueError(f"{table} has no column {', '.join(sorted(unknown))}")
        row = blank | dict(new)
        old = index.get(key(table, row))
        result.added += old is None
        result.changed += old is not None and old != row
        result.same += old == row
        index[key(table, row)] = row
    write(table, index.values(), folder)
    return result


def merge_prices(new_rows: Iterable[Mapping[str, str]], folder: Path = DATA) -> Merge:
    """Put prices into the table of prices, which keeps the first and the last date of every run of one price.

    Dropped, with a note: what the tables of sizes and regions do not have, and spot that is not below the full price.
    """
    rows = read("prices", folder)
    sizes = {(row["cloud"], row["sku"]) for row in read("skus", folder)}
    regions = {(row["cloud"], row["region"]) for row in read("regions", folder)}
    series: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        series.setdefault(key("prices", row)[:4], {})[row["as_of"]] = row
    result, unknown, no_offer = Merge(), 0, 0
    new_rows = [dict(row) for row in new_rows]
    for new in sorted(new_rows, key=lambda row: row["tier"]):  # the full price before its spot
        if (new["cloud"], new["sku"]) not in sizes or (new["cloud"], new["region"]) not in regions:
            unknown += 1
            continue
        identity = key("prices", new)[:4]
        if new["tier"] == "spot":
            full = series.get((*identity[:3], "dedicated"), {})
            nearest = min(full.values(), key=lambda row: _days(row["as_of"], new["as_of"]), default=None)
            if nearest is not None and float(new["usd_per_hour"]) >= float(nearest["usd_per_hour"]):
                no_offer += 1
                continue
        dates = series.setdefault(identity, {})
        old = dates.get(new["as_of"])
        dates[new["as_of"]] = new
        result.added += old is None
        result.changed += old is not None and old != new
        result.same += old == new
        for middle in _middles(dates):
            del dates[middle]
    if unknown:
        result.notes.append(f"{unknown} prices of sizes or regions that the tables do not have were passed over")
    if no_offer:
        result.notes.append(f"{no_offer} spot prices that are not below the full price were dropped")
    write("prices", (row for dates in series.values() for row in dates.values()), folder)
    return result


def _days(first: str, second: str) -> int:
    return abs((date.fromisoformat(first) - date.fromisoformat(second)).days)


def _middles(dates: Mapping[str, Row]) -> list[str]:
    """Return the dates between two of the same price and source, which say nothing."""
    order = sorted(dates)
    figure = {day: (float(dates[day]["usd_per_hour"]), dates[day]["source"]) for day in order}
    return [
        day
        for before, day, after in zip(order, order[1:], order[2:], strict=False)
        if figure[before] == figure[day] == figure[after]
    ]


def content_of(location: str) -> bytes:
    """Return what a file or an ``https://`` address holds."""
    if location.startswith("https://"):
        with urllib.request.urlopen(location, timeout=120) as answer:
            return answer.read()  # type: ignore[no-any-return]
    return Path(location).read_bytes()


def users(tables: Mapping[str, Sequence[Row]]) -> dict[str, set[str]]:
    """Return the tables that use a source, by its id."""
    using: dict[str, set[str]] = {source: set(names) for source, names in CODES_ONLY.items()}
    for table, rows in tables.items():
        for row in rows:
            for part in f"{row.get('source', '')}+{row.get('cores_source', '')}".split("+"):
                if part:
                    using.setdefault(part, set()).add(table)
    return using


def version(tables: Mapping[str, Sequence[Row]], folder: Path = DATA) -> str:
    """Return the newest date of any row and a hash over all tables: ``2026-08-22+0123456789ab``."""
    dates = (row.get("as_of") or row.get("source_date") or "" for rows in tables.values() for row in rows)
    digest = hashlib.sha256()
    for name in sorted(f"{table}.csv" for table in tables):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return f"{max(dates)}+{digest.hexdigest()[:12]}"


def link(document: str) -> str:
    """Return a document as Markdown: a link where it is the address of a page."""
    host = document.split("/", maxsplit=1)[0]
    return f"<https://{document}>" if "." in host and " " not in document and ":" not in document else document


def sources_page(tables: Mapping[str, Sequence[Row]], tables_version: str) -> str:
    """Return SOURCES.md."""
    using = users(tables)
    lines = [
        "# Sources of the tables",
        "",
        "Written by `tools/tables.py` from `sources.csv`; do not edit. A row's `source` cell holds one or more ids of",
        "this page joined by `+`; its `as_of` or `source_date` is the day that the figure stood at. An empty",
        "cell is not known.",
        f"Version of the tables: `{tables_version}`.",
        "",
        "| table | rows |",
        "| --- | ---: |",
        *(f"| `{name}.csv` | {len(rows):,} |" for name, rows in sorted(tables.items())),
        "",
        "## Attribution",
        "",
        ATTRIBUTIONS,
        "## Left out",
        "",
        LEFT_OUT,
        "## Sources",
        "",
    ]
    for row in tables["sources"]:
        document = ", ".join(filter(None, [link(row["repository_or_document"]), row["path"] and f"`{row['path']}`"]))
        facts = {
            "publisher": row["publisher"],
            "document": document,
            "version": row["version"],
            "date": row["data_date"],
            "licence": row["licence"],
            "used by": ", ".join(f"`{name}.csv`" for name in sorted(using.get(row["source_id"], ()))),
            "note": row["note"],
        }
        lines += [f"### {row['source_id']}", "", row["title"], ""]
        lines += [f"* {name}: {value}" for name, value in facts.items() if value]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def stamp(folder: Path = DATA) -> dict[str, str]:
    """Return the files that follow from the tables: VERSION and SOURCES.md."""
    tables = read_all(folder)
    tables_version = version(tables, folder)
    return {"VERSION": tables_version + "\n", "SOURCES.md": sources_page(tables, tables_version)}


def main(arguments: Sequence[str]) -> int:
    """Write VERSION and SOURCES.md, or say whether they are those of the tables."""
    parser = argparse.ArgumentParser(description="Write VERSION and SOURCES.md from greenml's tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where they are not up to date")
    options = parser.parse_args(arguments)
    old = [name for name, content in stamp().items() if (DATA / name).read_text(encoding="utf-8") != content]
    if options.check:
        for name in old:
            print(f"{name} is not that of the tables; run python tools/tables.py")
        return bool(old)
    for table in KEYS:
        write(table, read(table))
    for name, content in stamp().items():
        (DATA / name).write_bytes(content.encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
