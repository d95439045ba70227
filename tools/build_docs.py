"""Write the generated part of ``docs/``: two schemas, ``reference.md``, a table in ``sinks.md``, a comparison.

Usage: ``python tools/build_docs.py [--check]``

The schemas are those of the run record and of the study file; the reference is made from the docstrings of greenml's
public names and from the options of its commands. The same source gives the same text. ``--check`` writes nothing and
exits with 1 if a file is out of date. A schema is compared by what it says, not by its bytes: pydantic's releases order
keys in different ways and spell some of them out.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args, get_origin

import click
import published_comparison
from pydantic import BaseModel

import greenml
from greenml import cli
from greenml.analysis.study import plan as study_plan
from greenml.record import file as record_file
from greenml.record import schema as record_schema
from greenml.sinks._names import METRICS

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMA = "run.schema.json"
STUDY_SCHEMA = "study.schema.json"
REFERENCE = "reference.md"
SINKS = "sinks.md"
PUBLISHED = "published-comparison.md"
ORDER = ("track", "Run", "open_record", "RunRecord", "to_dataframe")  # then the errors, in the order of their tree
LISTS = ("Args", "Attributes", "Raises")
FIELD_TYPES = {"float | None": "number or null", "float": "number", "int": "whole number", "str": "text"}
FIELD_TYPES |= {"int | None": "whole number or null", "str | None": "text or null", "bool": "true or false"}
FIELD_TYPES |= {"bool | None": "true, false or null", "datetime": "time", "datetime | None": "time or null"}


def schema() -> str:
    """Return the JSON Schema of run.json."""
    return json.dumps(record_file.json_schema(), indent=2) + "\n"


def study_schema() -> str:
    """Return the JSON Schema of study.yaml."""
    return json.dumps(study_plan.json_schema(), indent=2) + "\n"


def reference() -> str:
    """Return the reference page."""
    parts = [
        "# Reference",
        "Made by `tools/build_docs.py` from the docstrings and the command line's own options; do not edit.",
        "## Python",
        "Everything below is imported as `greenml.<name>`. Importing greenml loads no framework, no driver and "
        "no network.",
    ]
    for name in ORDER:
        parts += _name(name)
    parts += ["### Errors", *_errors(), "## Command line", *_commands(), "## Settings", *_settings()]
    parts += ["## run.json", *_record()]
    return "\n\n".join(parts) + "\n"


def sinks_page() -> str:
    """Return the page of the sinks, with the table of names between its marks."""
    page = (DOCS / SINKS).read_text(encoding="utf-8")
    rows = ["| OpenTelemetry | Prometheus | labels | trackers | what it is |", "| --- | --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(metric.labels)
        names = f"`{metric.opentelemetry}` ({metric.unit}) | `{metric.prometheus}` | {labels} | `{metric.tracker}"
        rows.append(f"| {names}{'_…' * bool(labels)}` | {metric.description} |")
    before, mark, rest = page.partition("<!-- made by tools/build_docs.py -->\n")
    return before + mark + "\n".join(rows) + "\n" + rest[rest.index("<!-- end -->") :]


def _name(name: str) -> list[str]:
    thing = getattr(greenml, name)
    if isinstance(thing, FunctionType):
        return [f"### {name}", _signature(thing, name), _text(thing)]
    parts = [f"### {name}", _text(thing)]
    if issubclass(thing, BaseModel):
        parts.append("Its fields are listed under [run.json](#runjson).")
    for method, value in vars(thing).items():
        if method.startswith("_"):
            continue
        if isinstance(value, property):
            parts += [f"#### {name}.{method}", _text(value)]
        elif isinstance(value, FunctionType):
            parts += [f"#### {name}.{method}", _signature(inspect.unwrap(value), method, name), _text(value)]
    return parts


def _signature(function: FunctionType, name: str, owner: str = "") -> str:
    """Write a call one parameter a line where it is long, as the source does."""
    signature = inspect.signature(function)
    words, star = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{mark}{parameter.name}: {parameter.annotation}{default}")
    returns = "" if signature.return_annotation in ("None", signature.empty) else f" -> {signature.return_annotation}"
    returns = returns.replace("Iterator[None]", "ContextManager[None]")
    called = f"{owner}.{name}" if owner else f"greenml.{name}"
    line = f"{called}({', '.join(words)}){returns}"
    if len(line) > 100:
        line = "\n".join([f"{called}(", *(f"    {word}," for word in words), f"){returns}"])
    return f"```python\n{line}\n```"


def _text(thing: object) -> str:
    """Turn a docstring into Markdown: its lists of arguments and errors become lists."""
    lines: list[str] = []
    inside = False
    for line in inspect.cleandoc(thing.__doc__ or "").splitlines():
        if line.rstrip(":") in LISTS and line.endswith(":"):
            lines += [f"**{line.rstrip(':')}**", ""]
            inside = True
        elif line == "Returns:":
            lines += ["**Returns**", ""]
        elif inside and (entry := re.match(r"    (\w[\w, ]*): (.*)", line)):
            names = ", ".join(f"`{name.strip()}`" for name in entry[1].split(","))
            lines.append(f"- {names}: {entry[2]}")
        elif line.startswith("        "):
            lines.append("  " + line.strip())
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(line.strip())
    return "\n".join(lines).replace("``", "`").strip()


def _errors() -> list[str]:
    names = [name for name in greenml.__all__ if name.endswith("Error")]
    tree = inspect.getmodule(greenml.GreenMLError)
    written = {var: at for at, var in enumerate(vars(tree))}
    rows = ["| error | is a | means |", "| --- | --- | --- |"]
    for name in sorted(names, key=written.__getitem__):
        error = getattr(greenml, name)
        bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
        rows.append(f"| `{name}` | {bases} | {_cell(error.__doc__)} |")
    return ["\n".join(rows)]


def _commands() -> list[str]:
    context = click.Context(cli.group, info_name="greenml")
    parts = ["A mistake gives one line on standard error and exit code 2."]
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        parts += _command(name, command)
        for word in command.list_commands(context) if isinstance(command, click.Group) else ():
            value = command.get_command(context, word)
            assert value is not None
            if not value.hidden:
                parts += _command(f"{name} {word}", value)
    return parts


def _command(name: str, command: click.Command) -> list[str]:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option)]
    words = " ".join(_argument(argument) for argument in arguments)
    parts = [f"### greenml {name}", f"```text\ngreenml {name}{' [OPTIONS]' * bool(options)} {words}".rstrip()]
    parts[-1] += "\n```"
    parts.append(inspect.cleandoc(command.help or ""))
    if options:
        rows = ["| option | what it says |", "| --- | --- |"]
        rows += [f"| `{_option(option)}` | {_help(option)} |" for option in options]
        parts.append("\n".join(rows))
    return parts


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    if option.is_flag:
        return option.opts[0]
    kinds = {"integer": "N", "float": "NUMBER", "path": "FILE"}
    return f"{option.opts[0]} {option.metavar or kinds.get(option.type.name, 'TEXT')}"


def _help(option: click.Option) -> str:
    default = f" Default: {option.default}." if option.show_default else ""
    return _cell(f"{option.help}{default}")


def _settings() -> list[str]:
    from greenml import settings

    rows = ["| argument | environment | `[tool.greenml]` |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | `GREENML_{name.upper()}` | `{name}` |" for name in settings._KINDS]
    return [
        "What is not given as an argument is looked for in the environment, then in `[tool.greenml]` of the nearest "
        "`pyproject.toml`, upward from the working folder. `gpus` may be text there: `all`, or `0,1`.",
        "\n".join(rows),
    ]


def _record() -> list[str]:
    """List the fields of every part of the record, in the order of the source."""
    parts = [
        f"Schema version {record_schema.SCHEMA_VERSION}. The machine-readable form is [{SCHEMA}]({SCHEMA}). "
        "Names end in their unit; null is not known, and is never 0."
    ]
    models = [var for var in vars(record_schema).values() if inspect.isclass(var) and issubclass(var, BaseModel)]
    own = [model for model in models if model.__module__ == record_schema.__name__ and model is not record_schema.Model]
    own.sort(key=lambda one: (one is not record_schema.RunRecord, inspect.getsourcelines(one)[1]))
    for model in own:
        rows = ["| field | type | what it is |", "| --- | --- | --- |"]
        for name, kind in inspect.get_annotations(model).items():
            if name in model.model_fields:
                rows.append(f"| `{name}` | {_kind(str(kind))} | {_cell(model.model_fields[name].description)} |")
        parts += [f"### {model.__name__}" if model is not record_schema.RunRecord else "### The record", _first(model)]
        parts.append("\n".join(rows))
    return parts


def _kind(written: str) -> str:
    """Write an annotation for a reader: plain words for plain types, a Literal's words themselves."""
    known = getattr(record_schema, written, None)
    if get_origin(known) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(known))
    return FIELD_TYPES.get(written) or f"`{written}`".replace("|", "\\|")


def _first(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").replace("``", "`")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")


def _same(name: str, old: str, new: str) -> bool:
    if not name.endswith(".json"):
        return old == new
    try:
        return bool(_meaning(json.loads(old)) == _meaning(json.loads(new)))
    except ValueError:
        return False


def _meaning(node: Any) -> Any:  # noqa: ANN401  any JSON
    """Return a schema without what pydantic's releases write in different ways."""
    if isinstance(node, list):
        return [_meaning(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _meaning(value) for key, value in node.items()}
    if isinstance(plain.get("allOf"), list) and len(plain["allOf"]) == 1:  # a reference that has a default
        plain |= plain.pop("allOf")[0]
    if plain.get("additionalProperties") is True:  # the same as not said
        del plain["additionalProperties"]
    return plain


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Write the generated documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is out of date")
    check = parser.parse_args().check
    stale = []
    for name, text in (
        (SCHEMA, schema()),
        (STUDY_SCHEMA, study_schema()),
        (REFERENCE, reference()),
        (SINKS, sinks_page()),
        (PUBLISHED, published_comparison.page()),
    ):
        path = DOCS / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if _same(name, old, text):
            continue
        stale.append(name)
        if not check:
            DOCS.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name}: {'out of date; run python tools/build_docs.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
