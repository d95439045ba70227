"""Build the tables that greenml ships from a folder of collected facts.

Usage: ``python tools/build_tables.py FACTS_FOLDER [--output src/greenml/data]``

The same facts give the same bytes. What a licence does not let us ship is left out, and ``SOURCES.md`` says
so. ``countries.csv`` and ``subdivisions.csv`` hold codes and names only; they are kept by hand and copied.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Row = dict[str, str]

DATA = Path(__file__).resolve().parent.parent / "src" / "greenml" / "data"
BY_HAND = ("countries", "subdivisions")
OTHER_TIERS = {"on_demand": "dedicated", "spot": "spot"}
NOT_SHIPPED = {
    "vantage-ec2-2023": "an AGPL-3.0 repository",
    "boaviztapi-2.5.0": "results of AGPL-3.0 software",
    "electricity-maps-odbl": "ODbL-1.0, whose share-alike would bind the whole database",
}

KEYS = {
    "prices": ("cloud", "sku", "region", "tier", "as_of"),
    "skus": ("cloud", "sku"),
    "regions": ("cloud", "region"),
    "carbon_intensity": ("scope", "code", "year", "basis", "source"),
    "gpus": ("gpu_model",),
    "cpus": ("cpu_model",),
    "provider_defaults": ("provider",),
    "equivalents": ("id",),
    "sources": ("source_id",),
    "embodied": ("kind", "model", "source"),
    "countries": ("iso3",),
    "subdivisions": ("code",),
}

ISO_3166 = {
    "source_id": "iso-3166",
    "title": "Codes and names of countries, US states and Canadian provinces",
    "publisher": "ISO 3166; names after the IANA time zone database",
    "repository_or_document": "github.com/eggert/tz",
    "path": "iso3166.tab",
    "version": "",
    "note": "short English names; codes are facts",
    "data_date": "2024-12-31",
    "licence": "public domain (tz); facts",
}

# Of one card, of one card with its share of the server around it, or of a server without its cards.
CARD, CARD_AND_HOST, HOST = "card", "card_and_host", "host"
EMBODIED_KINDS = {"chien-2023-hotcarbon": CARD_AND_HOST}  # of the facts' sources; every other one is of a card
EMBODIED = (
    (CARD, "NVIDIA A100-SXM4-40GB", "127.6", "cradle to gate, from a card that was taken apart", "falk-2025-a100"),
    (CARD, "NVIDIA H100 80GB HBM3", "164", "cradle to gate, one eighth of a baseboard", "nvidia-hgx-h100-pcf"),
    (CARD, "NVIDIA B200", "284.25", "cradle to gate, one eighth of a baseboard", "nvidia-hgx-b200-pcf"),
    (HOST, "server", "1000", "manufacture; one processor, little memory, no storage", "ccf-coefficients"),
    (HOST, "server", "2500", "production of a server like BLOOM's, without its GPUs", "luccioni-2022-bloom"),
    (HOST, "server", "4283", "manufacture; two processors, 384 GB, 31 TB of SSD", "dell-r740-lca"),
)
EMBODIED_SOURCES = (
    {
        "source_id": "falk-2025-a100",
        "title": "More than Carbon: Cradle-to-Grave environmental impacts of GenAI training on the Nvidia A100 GPU",
        "publisher": "Falk et al. 2025",
        "repository_or_document": "arXiv:2509.00093",
        "note": "127.6 kg CO2e cradle to gate; as public repositories quote it, the paper was not reopened",
        "data_date": "2025-09",
        "licence": "fact",
    },
    {
        "source_id": "nvidia-hgx-h100-pcf",
        "title": "HGX H100 product carbon footprint summary",
        "publisher": "NVIDIA, ISO 14067",
        "note": "1,312 kg CO2e a baseboard of eight; as public repositories quote it, the document was not reopened",
        "data_date": "2025-07",
        "licence": "fact",
    },
    {
        "source_id": "nvidia-hgx-b200-pcf",
        "title": "HGX B200 product carbon footprint summary",
        "publisher": "NVIDIA, ISO 14067",
        "note": "2,274 kg CO2e a baseboard of eight; as public repositories quote it, the document was not reopened",
        "data_date": "2025",
        "licence": "fact",
    },
    {
        "source_id": "ccf-coefficients",
        "title": "Manufacturing emissions of a commodity rack server",
        "publisher": "Cloud Carbon Footprint (Thoughtworks; Teads)",
        "repository_or_document": "github.com/cloud-carbon-footprint/cloud-carbon-coefficients",
        "path": "ccfcoef/constants.py",
        "version": "0bdac99782be",
        "note": "without local storage; the same file has a lifespan of 4 years",
        "data_date": "2024-03-25",
        "licence": "Apache-2.0",
    },
    {
        "source_id": "dell-r740-lca",
        "title": "Life cycle assessment of the Dell PowerEdge R740",
        "publisher": "thinkstep 2019, as in Finkbeiner, Link, Hoffmann, TU Berlin 2021",
        "repository_or_document": "www.hardwarewartung.com/en/ecological-benefit-of-extending-the-use-phase-of-servers",
        "note": "4,283 kg CO2e for making it, four fifths of that its SSDs",
        "data_date": "2021-06-04",
        "licence": "fact",
    },
)

# What a report cites, where the facts name the copy that was read.
CITED = {
    "owid-ember": {
        "repository_or_document": "ourworldindata.org/grapher/carbon-intensity-electricity",
        "path": "carbon-intensity-electricity.csv, as in github.com/sayanarman/CAP6938-Final-Project",
    },
    "seed-azureml-2021-07": {
        "publisher": "Microsoft",
        "repository_or_document": "quoted in the requirements of this project",
        "path": "",
    },
}

ATTRIBUTIONS = """\
* Country and world carbon intensity: Ember (2026); Energy Institute - Statistical Review of World Energy -
  with major processing by Our World in Data. Licensed under CC-BY-4.0
  (<https://creativecommons.org/licenses/by/4.0/>).
* Processor power, the survey PUE and part of the equivalents: Green Algorithms (Lannelongue, Grealey,
  Inouye), <https://www.green-algorithms.org>. Licensed under CC-BY-4.0
  (<https://creativecommons.org/licenses/by/4.0/>).
* eGRID and the Greenhouse Gas Equivalencies Calculator: United States Environmental Protection Agency, public
  domain.
* Apache Libcloud: Copyright (c) 2010-2021 The Apache Software Foundation. The Apache-2.0 sources
  below are used under that licence (<https://www.apache.org/licenses/LICENSE-2.0>).
* Changes made to all of them: rows selected, columns renamed and joined, units converted where the table's
  column says so.

The MIT sources are CodeCarbon, Copyright (c) 2019 Mila, BCG Gamma, CometML, Haverford College, Copyright (c)
2023 Code Carbon NGO; gpu-pricing, Copyright (c) 2026 gpu-pricing contributors; tsaol/aws-gpu;
USEPA/power-profiler; under these terms:

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
class Build:
    """The tables on their way, and what was left out of them, in words."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def read(path: Path) -> list[Row]:
    """Return a CSV file's rows."""
    with path.open("r", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def select(rows: Iterable[Row], columns: Iterable[str]) -> list[Row]:
    """Return the rows with these columns only, in this order."""
    names = list(columns)
    return [{name: row[name] for name in names} for row in rows]


def shippable(row: Row) -> bool:
    """Tell whether no source of the row stands in the way of shipping it."""
    return not set(row["source"].split("+")) & set(NOT_SHIPPED)


def prices(facts: Path, build: Build) -> None:
    """Join the clouds' prices: one vocabulary of tiers, no derivable columns."""
    azure = [row | {"cloud": "azure"} for row in read(facts / "azure_prices.csv")]
    for row in azure:
        if row["arm_sku_name"] != f"Standard_{row['sku']}":
            raise ValueError(f"azure_prices.csv: {row['arm_sku_name']} is not Standard_ and the SKU's name")
    other = [row | {"tier": OTHER_TIERS[row["tier"]]} for row in read(facts / "other_cloud_prices.csv")]
    every = azure + other
    if {row["currency"] for row in every} != {"USD"}:
        raise ValueError("prices: a currency other than USD")
    kept = [row for row in every if shippable(row)]
    build.left_out.append(
        f"{len(every) - len(kept)} EC2 prices of us-east-1, 2023-10-10, with every EC2 spot price "
        f"(`vantage-ec2-2023`): their only source is {NOT_SHIPPED['vantage-ec2-2023']}."
    )
    columns = ("cloud", "sku", "region", "tier", "usd_per_hour", "as_of", "source")
    build.tables["prices"] = select(kept, columns)


def skus(facts: Path, build: Build) -> None:
    """Join the clouds' machine sizes; the ARM name of Azure is ``Standard_`` and the name."""
    azure = [row | {"cloud": "azure"} for row in read(facts / "azure_skus.csv")]
    other = read(facts / "other_cloud_skus.csv")
    columns = other[0].keys()
    build.tables["skus"] = select(azure + other, columns)


def processors(facts: Path, build: Build) -> None:
    """Take GPUs without their embodied carbon, and CPUs."""
    gpus = read(facts / "gpus.csv")
    columns = [name for name in gpus[0] if not name.startswith("embodied_")]
    build.tables["gpus"] = select(gpus, columns)
    build.tables["cpus"] = read(facts / "cpus.csv")


def embodied(facts: Path, build: Build) -> None:
    """Take what making a card or a server emitted: the facts that may be shipped, and those that stand above."""
    every = read(facts / "gpu_embodied.csv")
    kept = [
        {
            "kind": EMBODIED_KINDS.get(row["source"], CARD),
            "model": row["gpu_model"],
            **{name: row[name] for name in ("kgco2e", "boundary", "source", "source_date")},
        }
        for row in every
        if shippable(row)
    ]
    dates = {row["source_id"]: row["data_date"] for row in [*read(facts / "sources.csv"), *EMBODIED_SOURCES]}
    names = ("kind", "model", "kgco2e", "boundary", "source")
    more = [dict(zip(names, row, strict=True)) | {"source_date": dates[row[-1]]} for row in EMBODIED]
    build.tables["embodied"] = kept + more
    build.left_out.append(
        f"embodied carbon of {len(every) - len(kept)} GPUs (`boaviztapi-2.5.0`, in `gpu_embodied.csv` and in the "
        f"columns `embodied_*` of `gpus.csv`): {NOT_SHIPPED['boaviztapi-2.5.0']}. Its figure of the H100 is 3.5 times "
        "NVIDIA's own."
    )


def intensity(facts: Path, build: Build) -> None:
    """Take the carbon intensities that may be shipped."""
    every = read(facts / "carbon_intensity.csv")
    build.tables["carbon_intensity"] = [row for row in every if shippable(row) and row["code"] != "US-usa"]
    zones = len(read(facts / "carbon_intensity_odbl.csv"))
    build.left_out.append(
        f"{zones:,} consumption-based yearly figures of grid zones, Electricity Maps "
        f"(`electricity-maps-odbl`): {NOT_SHIPPED['electricity-maps-odbl']}."
    )
    build.left_out.append("the row `US-usa` of the state table: the whole country, 2016, which `country USA` has.")


def used_sources(facts: Path, build: Build) -> dict[str, set[str]]:
    """Fill the table of sources with those that shipped rows use.

    Returns:
        The tables that use a source, by its id.
    """
    users: dict[str, set[str]] = {}
    for table, rows in build.tables.items():
        for row in rows:
            for one in filter(None, row.get("source", "").split("+")):
                users.setdefault(one, set()).add(table)
    users["iso-3166"] = set(BY_HAND)
    facts_rows = read(facts / "sources.csv")
    blank = dict.fromkeys(facts_rows[0], "")
    added = [blank | one for one in EMBODIED_SOURCES]
    every = {row["source_id"]: row for row in [*facts_rows, ISO_3166, *added]}
    every = {one: row | CITED.get(one, {}) for one, row in every.items()}
    build.tables["sources"] = [every[one] for one in sorted(users)]
    if bad := set(users) & set(NOT_SHIPPED):
        raise ValueError(f"sources that may not be shipped are used: {sorted(bad)}")
    return users


def check(table: str, rows: list[Row]) -> None:
    """Hold what lookups rely on: unique keys, one line a row, no quotes in the cells of the key.

    Raises:
        ValueError: a row breaks it.
    """
    seen = set()
    for row in rows:
        key = tuple(row[name] for name in KEYS[table])
        if key in seen:
            raise ValueError(f"{table}: {key} is there twice")
        seen.add(key)
        if any(len(cell.splitlines()) > 1 for cell in row.values()):
            raise ValueError(f"{table}: {key} has a cell of several lines")
        if table in {"prices", "carbon_intensity"} and any(mark in cell for cell in key for mark in ',"'):
            raise ValueError(f"{table}: {key} would need quotes")


def text(rows: list[Row]) -> str:
    """Return the rows as CSV, with the line ends of Unix."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def version(files: dict[str, str], tables: dict[str, list[Row]]) -> str:
    """Return the newest date of any row and a hash over all tables: ``2026-08-22+0123456789ab``."""
    dates = (row.get("as_of") or row.get("source_date") or "" for rows in tables.values() for row in rows)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]}\0".encode())
    return f"{max(dates)}+{digest.hexdigest()[:12]}"


def link(document: str) -> str:
    """Return a document as Markdown: a link where it is the address of a page."""
    host = document.split("/", maxsplit=1)[0]
    return f"<https://{document}>" if "." in host and " " not in document and ":" not in document else document


def sources_page(build: Build, users: dict[str, set[str]], tables_version: str) -> str:
    """Return SOURCES.md."""
    lines = [
        "# Sources of the tables",
        "",
        "Written by `tools/build_tables.py`; do not edit. A row's `source` cell holds one or more ids of",
        "this page joined by `+`; its `as_of` or `source_date` is the day that the figure stood at. An empty",
        "cell is not known.",
        f"Version of the tables: `{tables_version}`.",
        "",
        "| table | rows |",
        "| --- | ---: |",
        *(f"| `{name}.csv` | {len(rows):,} |" for name, rows in sorted(build.tables.items())),
        "",
        "## Attribution",
        "",
        ATTRIBUTIONS,
        "## Left out",
        "",
        *(f"* {line}" for line in build.left_out),
        "",
        "## Sources",
        "",
    ]
    for row in build.tables["sources"]:
        document = ", ".join(filter(None, [link(row["repository_or_document"]), row["path"] and f"`{row['path']}`"]))
        facts = {
            "publisher": row["publisher"],
            "document": document,
            "version": row["version"],
            "date": row["data_date"],
            "licence": row["licence"],
            "used by": ", ".join(f"`{name}.csv`" for name in sorted(users[row["source_id"]])),
            "note": row["note"],
        }
        lines += [f"### {row['source_id']}", "", row["title"], ""]
        lines += [f"* {name}: {value}" for name, value in facts.items() if value]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def build_files(facts: Path) -> dict[str, str]:
    """Return every file of the package's data folder that this script writes, by name."""
    build = Build()
    prices(facts, build)
    skus(facts, build)
    intensity(facts, build)
    processors(facts, build)
    embodied(facts, build)
    build.tables["regions"] = read(facts / "cloud_regions.csv")
    for same in ("provider_defaults", "equivalents"):
        build.tables[same] = read(facts / f"{same}.csv")
    for same in BY_HAND:
        build.tables[same] = read(DATA / f"{same}.csv")
    users = used_sources(facts, build)
    for table, rows in build.tables.items():
        rows.sort(key=lambda row, keys=KEYS[table]: tuple(row[name] for name in keys))  # type: ignore[misc]
        check(table, rows)
    files = {f"{table}.csv": text(rows) for table, rows in build.tables.items()}
    tables_version = version(files, build.tables)
    return files | {
        "VERSION": tables_version + "\n",
        "SOURCES.md": sources_page(build, users, tables_version),
    }


def main(arguments: list[str]) -> int:
    """Write the tables."""
    parser = argparse.ArgumentParser(description="Build greenml's bundled tables from a folder of facts.")
    parser.add_argument("facts", type=Path, metavar="FACTS_FOLDER")
    parser.add_argument("--output", type=Path, default=DATA)
    options = parser.parse_args(arguments)
    for name, content in sorted(build_files(options.facts).items()):
        (options.output / name).write_bytes(content.encode("utf-8"))
        print(f"{len(content):>10,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
