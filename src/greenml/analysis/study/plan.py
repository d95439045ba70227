"""The study file: a command template, its variants and seeds, budgets; and the cells that follow from it.

A variant is a change of the command, a cell is a variant with a seed. The file is YAML (docs/study.md), the JSON Schema
is ``docs/study.schema.json``.

**The order of the cells** is random, and balanced so that a drift of the machine does not become an effect. Every seed
is a block, and every block holds each variant once, so that a difference between blocks reaches all variants alike (a
randomised complete block design). Within a block the place matters: what runs late runs on a warmer, fuller or slower
machine. So the blocks are balanced: over all of them, the places of each variant have the same sum. A trend that is
linear in time then adds the same to every variant's mean. Pairs of blocks mirror each other (ABC, CBA); of an odd
number of blocks, three are a set with equal sums.

Source: R. A. Bradley, C.-M. Yeh: Trend-free block designs: theory. The Annals of Statistics 8 (1980), 883-893. With b
blocks of k variants, a design without a linear trend within the blocks is possible if and only if b (k + 1) is even;
where it is odd, the sums here differ by 1.
"""

from __future__ import annotations

import itertools
import random
import re
import shlex
import shutil
import string
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
)

from greenml import files, redaction
from greenml.analysis.comparison.columns import direction as metric_direction
from greenml.errors import SettingsError, did_you_mean, nearest

BUILT_IN = ("seed", "variant", "folder", "study", "python", "gpus", "args")
MOST_CELLS = 10_000
_VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]{0,99}")

Scalar = StrictBool | StrictInt | float | str | None
Value = Scalar | list[Scalar]


def _words(value: object) -> object:
    """Split a command line into words, as a shell would; leave a list as it is."""
    if isinstance(value, str):
        return shlex.split(value)
    if isinstance(value, list):
        return ["" if word is None else _text(word) if not isinstance(word, str) else word for word in value]
    return value


def _texts(value: object) -> object:
    """Make texts of the numbers and booleans that YAML made of a variable's value."""
    if isinstance(value, dict):
        return {name: _text(part) if part is not None else "" for name, part in value.items()}
    return value


_SCALARS = {"type": ["string", "number", "boolean", "null"]}
Words = Annotated[
    list[str],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _SCALARS}]}),
]
Variables = Annotated[
    dict[str, str], BeforeValidator(_texts), WithJsonSchema({"type": "object", "additionalProperties": _SCALARS})
]


class Model(BaseModel):
    """A part of the study file: unknown keys are refused, values are checked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Change(Model):
    """What a variant changes."""

    description: str = Field("", description="what it is, in a few words, for the report")
    parameters: dict[str, Value] = Field({}, description="values of the command's placeholders")
    args: Words = Field([], description="words that are added to the command")
    env: Variables = Field({}, description="environment variables")
    command: Words | None = Field(None, description="in place of the study's command")
    gpus: int | None = Field(None, ge=0, description="GPUs that a cell needs; the study's by default")
    expected_minutes: float | None = Field(None, gt=0, description="how long a cell takes, for the plan")


class Quality(Model):
    """The metric by which the results are judged."""

    metric: str = Field(description="its name in the record: eval_rouge1")
    direction: Literal["higher", "lower"] | None = Field(
        None, description="which values are better; needed where the metric's name does not tell"
    )
    target: float | None = Field(None, description="the value that is good enough: energy, time and cost to reach it")


class Options(Model):
    """What a study says, and what a profile says otherwise."""

    description: str = ""
    command: Words | None = Field(None, description="template: {seed}, {variant}, {folder}, and every parameter")
    parameters: dict[str, Value] = Field({}, description="values of the command's placeholders, by name")
    args: Words = Field([], description="words that every cell's command gets")
    env: Variables = Field({}, description="environment variables of every cell")
    seeds: list[StrictInt] | None = Field(None, description="a cell for each seed of each variant")
    gpus: int | None = Field(
        None, ge=0, description="GPUs that a cell needs; 0 for none; by default all there are, one cell at a time"
    )
    parallel: int | None = Field(None, ge=1, description="cells side by side, where they need no GPU; 1 by default")
    retries: int | None = Field(None, ge=0, le=100, description="how often a cell that failed is started again; 0")
    timeout_minutes: float | None = Field(None, gt=0, description="after which a cell is stopped")
    expected_minutes: float | None = Field(None, gt=0, description="how long a cell takes, for the plan")
    max_usd: float | None = Field(None, gt=0, description="budget of the whole study, USD")
    max_kwh: float | None = Field(None, gt=0, description="budget of the whole study, kWh with PUE")
    max_kg: float | None = Field(None, gt=0, description="budget of the whole study, kg CO2e")
    quality: Quality | None = None
    sku: str | None = Field(None, description="machine size, for the price: ND40rs_v2")
    region: str | None = Field(None, description="where it runs: westus2")
    tier: str | None = Field(None, description="which price is paid: dedicated, low_priority or spot")
    nodes: int | None = Field(None, ge=1, description="machines billed for a cell")
    price_per_hour: float | None = Field(None, ge=0, description="USD per node and hour")
    carbon_intensity: float | None = Field(None, ge=0, description="g CO2e per kWh")
    pue: float | None = Field(None, ge=1, description="power usage effectiveness")


class Profile(Options):
    """What differs on a machine, or in a quick trial of the study. What it does not say is as the study says."""

    variants: dict[str, Change] = Field({}, description="changes of single variants; a new name adds a variant")
    without: dict[str, str] = Field({}, description="variants that are left out, each with the reason")


class StudyFile(Options):
    """A study: a command over variants and seeds."""

    name: str = Field(description="of the study, and of its folder", min_length=1)
    variants: dict[str, Change] = Field({}, description="by name: each changes the command in its own way")
    combinations: dict[str, list[str]] = Field({}, description="by name: variants that are applied together")
    factors: dict[str, list[Scalar] | dict[str, Change]] = Field(
        {}, description="a full grid: a variant for each combination of the levels of all factors"
    )
    baseline: str | None = Field(None, description="the variant that the others are compared with; the first one")
    order_seed: int = Field(0, description="of the random order of the cells")
    resume: bool = Field(
        False, description="the command goes on from its own checkpoint: attempts of a cell add up in one record"
    )
    profiles: dict[str, Profile] = Field({}, description="by name: --profile NAME")
    smoke: Profile | None = Field(None, description="a quick trial of everything: --smoke")
    without: dict[str, str] = Field({}, description="variants that are left out, each with the reason")


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant with everything that its cells have in common.

    Attributes:
        name: as the study file has it; of a grid, ``factor=level,factor=level``.
        description: what it is.
        changes: what it changes against the study: the parameters of the variant alone.
        parameters: of the command, those of the study included.
        command: the words of the template.
        args: that take the place of ``{args}``, or follow the command.
        env: environment variables.
        gpus: that a cell needs; None where nobody said: all there are.
        expected_minutes: how long a cell takes; None where nobody said.
        factors: level by factor, of a grid.
        parts: of a combination, the variants in it.
    """

    name: str
    description: str
    changes: Mapping[str, Any]
    parameters: Mapping[str, Any]
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    gpus: int | None
    expected_minutes: float | None
    factors: Mapping[str, str]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A study file with a profile applied.

    Attributes:
        file: with the profile's options in it.
        source: the file as it was read.
        profile: its name; ``smoke`` for the quick trial; "" for none.
        directory: of the study file: where the commands run.
        variants: in the order of the file.
        baseline: name of a variant.
        seeds: of each variant.
    """

    file: StudyFile
    source: StudyFile
    profile: str
    directory: Path
    variants: tuple[Variant, ...]
    baseline: str
    seeds: tuple[int, ...]

    def variant(self, name: str) -> Variant:
        """Return a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


def read(path: Path, profile: str = "") -> Plan:
    """Read a study file.

    Args:
        path: of the YAML file; JSON is YAML, too.
        profile: a name from its ``profiles``; ``smoke`` for its quick trial.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong; one line says what, and what would be right.
        RecordError: it cannot be read.
    """
    content = _load(path)
    try:
        file = StudyFile.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_trouble(error, content)}") from None
    try:
        plan = make(file, path.resolve().parent, profile)
        _check_quality(plan.file.quality)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    return plan


def _check_quality(quality: Quality | None) -> None:
    if quality is not None and quality.direction is None and metric_direction(quality.metric) is None:
        raise SettingsError(
            f"quality: the name {quality.metric!r} does not tell which values are better; give 'direction: higher' or "
            "'direction: lower'"
        )


def make(file: StudyFile, directory: Path, profile: str = "") -> Plan:
    """Apply a profile and expand the variants.

    Raises:
        SettingsError: a variant, a placeholder, a seed or the baseline is wrong.
    """
    source, chosen = file, _profile(file, profile)
    left_out = {**file.without, **(chosen.without if chosen is not None else {})}
    overrides = dict(chosen.variants) if chosen is not None else {}
    if chosen is not None:
        file = _with_profile(file, chosen)
    file = file.model_copy(update={"without": left_out})
    if not file.command and not any(change.command for change in file.variants.values()):
        raise SettingsError("command is missing; give one, such as 'python train.py --seed {seed}'")
    seeds = tuple(file.seeds if file.seeds is not None else (1,))
    if not seeds:
        raise SettingsError("seeds is empty; give at least one, such as [1, 2, 3]")
    if twice := next((seed for seed in seeds if seeds.count(seed) > 1), None):
        raise SettingsError(f"seeds has {twice} twice; a seed is one cell of each variant")
    variants = list(_expanded(file, overrides))
    _check_names(variants, left_out)
    variants = [variant for variant in variants if variant.name not in left_out]
    if not variants:
        raise SettingsError("no variant; give variants, such as {fp32: {}, fp16: {args: --fp16}}, or factors")
    if len(variants) * len(seeds) > MOST_CELLS:
        raise SettingsError(f"{len(variants)} variants x {len(seeds)} seeds: at most {MOST_CELLS:,} cells")
    names = [variant.name for variant in variants]
    baseline = file.baseline if file.baseline is not None else names[0]
    if baseline not in names:
        reason = f"; it is left out ({left_out[baseline]})" if baseline in left_out else _hint(baseline, names)
        raise SettingsError(f"baseline {baseline!r} is none of the variants{reason}")
    plan = Plan(file, source, profile, directory, tuple(variants), baseline, seeds)
    for variant in variants:  # before anything runs
        _check_variant(plan, variant)
    return plan


def _check_variant(plan: Plan, variant: Variant) -> None:
    """Check that a variant's placeholders have values, that its parameters are used, and that no key is written out.

    Raises:
        SettingsError: one of these is not so.
    """
    made = words(plan, variant, plan.seeds[0], Path("folder"))
    variables = environment(plan, variant, plan.seeds[0], Path("folder"))
    templates = [*variant.command, *variant.args, *variant.env.values()]
    used = {field for word in templates for field in _fields(word, variant.name)}
    if unused := next((name for name in variant.changes if name not in used), None):
        raise SettingsError(
            f"variant {variant.name} sets parameter {unused}, which its command does not use; write {{{unused}}} where "
            "it belongs"
        )
    if secret := next((name for name, text in variables.items() if redaction.redact(text, name) != text), None):
        raise SettingsError(f"the value of {secret} does not belong in a study file; export it: cells inherit it")
    if redaction.redact_command(made) != made:
        raise SettingsError(f"variant {variant.name}: a key does not belong in a command; give it by the environment")


def words(plan: Plan, variant: Variant, seed: int, folder: Path) -> list[str]:
    """Return the command of a cell.

    A word that is one placeholder of a list becomes the words of the list.

    Args:
        plan: of the study.
        variant: of the cell.
        seed: of the cell.
        folder: of the cell, for ``{folder}``.

    Raises:
        SettingsError: a placeholder has no value.
    """
    values = _values(plan, variant, seed, folder)
    args = list(_filled(variant.args, values, variant.name))
    template = list(variant.command)
    if not any(field == "args" for word in template for field in _fields(word, variant.name)):
        template.append("{args}")
    return list(_filled(template, values | {"args": args}, variant.name))


def environment(plan: Plan, variant: Variant, seed: int, folder: Path) -> dict[str, str]:
    """Return the environment variables of a cell that the study gives.

    Raises:
        SettingsError: a placeholder has no value.
    """
    values = _values(plan, variant, seed, folder)
    return {name: " ".join(_filled([text], values, variant.name)) for name, text in variant.env.items()}


def check_command(words: Sequence[str], directory: Path) -> None:
    """Check that a cell's command is there.

    Raises:
        SettingsError: there is no such program, or no such script for Python.
    """
    program = words[0]
    found = (directory / program).is_file() if "/" in program else shutil.which(program) is not None
    if not found:
        raise SettingsError(f"command not found: {program}; the commands run in {directory}")
    script = words[1] if len(words) > 1 and re.search(r"python[\d.]*$", program) else ""
    if script.endswith(".py") and not (directory / script).is_file():
        raise SettingsError(f"command not found: {script}; the commands run in {directory}")


def _values(plan: Plan, variant: Variant, seed: int, folder: Path) -> dict[str, Any]:
    return {
        **variant.parameters,
        "seed": seed,
        "variant": variant.name,
        "folder": str(folder),
        "study": str(plan.directory),
        "python": sys.executable,
        **({"gpus": variant.gpus} if variant.gpus is not None else {}),
    }


def _fields(word: str, variant: str) -> list[str]:
    """Return the names of the placeholders in a word."""
    try:
        parts = [part for part in string.Formatter().parse(word) if part[1] is not None]
    except ValueError as error:
        raise SettingsError(f"variant {variant}: {word!r}: {error}; write {{{{ or }}}} for a brace itself") from None
    if form := next((part for part in parts if part[2] or part[3]), None):
        raise SettingsError(
            f"variant {variant}: {word!r}: a placeholder is a name alone: {{{form[1]}}}; write {{{{ or }}}} for a brace"
        )
    return [str(field) for _, field, _, _ in parts]


def _filled(template: Iterable[str], values: Mapping[str, Any], variant: str) -> Iterator[str]:
    for word in template:
        fields = _fields(word, variant)
        for field in fields:
            if field not in values:
                reason = "; say how many: 'gpus: 8'" if field == "gpus" else _guess(field, [*values, "args"])
                known = f"; there are {', '.join(sorted({*values, 'args'}))}"
                raise SettingsError(f"variant {variant}: unknown placeholder {{{field}}}{reason or known}")
        if len(fields) == 1 and word == f"{{{fields[0]}}}" and isinstance(values[fields[0]], list):
            yield from (_text(part) for part in values[fields[0]])
        else:
            parts = string.Formatter().parse(word)
            yield "".join(text + ("" if field is None else _text(values[field])) for text, field, _, _ in parts)


def _text(value: object) -> str:
    """Write a value as a command line has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    return "" if value is None else str(value)


def _profile(file: StudyFile, name: str) -> Profile | None:
    if not name:
        return None
    profiles = {**file.profiles, **({"smoke": file.smoke} if file.smoke is not None else {})}
    if name not in profiles:
        if name == "smoke":
            raise SettingsError("it has no 'smoke' section")
        raise SettingsError(f"no profile {name!r}{_hint(name, profiles)}")
    return profiles[name]


def _with_profile(file: StudyFile, profile: Profile) -> StudyFile:
    """Return the file with what a profile says in place of what it says."""
    given = {name: getattr(profile, name) for name in profile.model_fields_set if name in Options.model_fields}
    for name in ("parameters", "env"):
        if name in given:
            given[name] = {**getattr(file, name), **given[name]}
    if "args" in given:
        given["args"] = [*file.args, *given["args"]]
    return file.model_copy(update=given)


def _expanded(file: StudyFile, overrides: Mapping[str, Change]) -> Iterator[Variant]:
    """Yield the variants: those by name, their combinations, and the grid."""
    changes = {name: _changed(change, overrides.get(name)) for name, change in file.variants.items()}
    in_grid = {name for name, _, _ in _grid(file)} if file.factors else set()
    new = [name for name in overrides if name not in changes and name not in file.combinations and name not in in_grid]
    changes |= {name: overrides[name] for name in new if overrides[name].model_fields_set}
    if unknown := next((name for name in new if name not in changes), None):
        raise SettingsError(f"the profile changes variant {unknown!r}, which is not there{_hint(unknown, changes)}")
    for name, change in changes.items():
        yield _variant(file, name, change)
    for name, parts in file.combinations.items():
        for part in parts:
            if part not in changes:
                raise SettingsError(f"combination {name}: no variant {part!r}{_hint(part, changes)}")
        if not parts:
            raise SettingsError(f"combination {name} is empty; name the variants to apply together")
        combined = _combined(f"combination {name}", {part: changes[part] for part in parts})
        yield _variant(file, name, _changed(combined, overrides.get(name)), parts=tuple(parts))
    for name, change, at in _grid(file) if file.factors else ():
        yield _variant(file, name, _changed(change, overrides.get(name)), factors=at)


def _grid(file: StudyFile) -> Iterator[tuple[str, Change, dict[str, str]]]:
    """Yield the variants of the grid: name, change, and level by factor."""
    levels: dict[str, dict[str, Change]] = {}
    for factor, given in file.factors.items():
        if not given:
            raise SettingsError(f"factor {factor} has no level; give some, such as [8, 16]")
        if isinstance(given, dict):
            levels[factor] = given
        else:
            levels[factor] = {_text(level): Change(parameters={factor: level}) for level in given}
            if len(levels[factor]) < len(given):
                raise SettingsError(f"factor {factor} has a level twice: {', '.join(map(_text, given))}")
    for chosen in itertools.product(*(names.items() for names in levels.values())):
        at = {factor: level for factor, (level, _) in zip(levels, chosen, strict=True)}
        name = ",".join(f"{factor}={level}" for factor, level in at.items())
        change = _combined(name, {f"{factor}={at[factor]}": levels[factor][at[factor]] for factor in at})
        yield name, change, at


def _combined(title: str, changes: Mapping[str, Change]) -> Change:
    """Apply several changes together.

    Raises:
        SettingsError: two of them set one thing to different values.
    """
    made: dict[str, dict[str, Any]] = {"parameter ": {}, "variable ": {}, "": {}}
    origin: dict[str, str] = {}
    for name, change in changes.items():
        single = {key: value for key in ("command", "gpus") if (value := getattr(change, key)) is not None}
        for kind, values in (("parameter ", change.parameters), ("variable ", change.env), ("", single)):
            for key, value in values.items():
                if made[kind].setdefault(key, value) != value:
                    raise SettingsError(f"{title}: {origin[kind + key]} and {name} both set {kind}{key}")
                origin.setdefault(kind + key, name)
    expected = [change.expected_minutes for change in changes.values() if change.expected_minutes is not None]
    return Change(
        description=", ".join(change.description for change in changes.values() if change.description),
        parameters=made["parameter "],
        env=made["variable "],
        args=[word for change in changes.values() for word in change.args],
        expected_minutes=max(expected, default=None),
        **made[""],
    )


def _changed(change: Change, override: Change | None) -> Change:
    if override is None:
        return change
    given = {name: getattr(override, name) for name in override.model_fields_set}
    for name in ("parameters", "env"):
        if name in given:
            given[name] = {**getattr(change, name), **given[name]}
    return change.model_copy(update=given)


def _variant(
    file: StudyFile,
    name: str,
    change: Change,
    *,
    factors: Mapping[str, str] | None = None,
    parts: tuple[str, ...] = (),
) -> Variant:
    command = change.command or file.command
    if not command:
        raise SettingsError(f"variant {name}: command is missing; give one, such as 'python train.py --seed {{seed}}'")
    if taken := next((key for key in (*file.parameters, *change.parameters) if key in BUILT_IN), None):
        raise SettingsError(f"parameter {taken}: the name is taken; {', '.join(BUILT_IN)} have values of their own")
    return Variant(
        name=name,
        description=change.description,
        changes=change.parameters,
        parameters={**file.parameters, **change.parameters},
        command=tuple(command),
        args=(*file.args, *change.args),
        env={**file.env, **change.env},
        gpus=change.gpus if change.gpus is not None else file.gpus,
        expected_minutes=change.expected_minutes or file.expected_minutes,
        factors=factors or {},
        parts=parts,
    )


def _check_names(variants: Sequence[Variant], left_out: Mapping[str, str]) -> None:
    folders: dict[str, str] = {}
    for variant in variants:
        if not variant.factors and not _VARIANT_NAME.fullmatch(variant.name):
            raise SettingsError(
                f"variant {variant.name!r}: a name has letters, digits and . _ + = , @ - only, at most 100, and begins "
                "with a letter or digit: it names a folder"
            )
        folder = folder_name(variant.name).lower()
        if folder in folders:
            other = folders[folder]
            if other == variant.name:
                raise SettingsError(f"duplicate variant {variant.name!r}: a combination or the grid has that name, too")
            raise SettingsError(f"duplicate variant: {other!r} and {variant.name!r} name the same folder")
        folders[folder] = variant.name
    for name in left_out:
        if name not in folders.values():
            raise SettingsError(f"without: no variant {name!r}{_hint(name, folders.values())}")


def folder_name(name: str) -> str:
    """Return the folder of a variant: its name, with the signs that a folder cannot have replaced."""
    return re.sub(r"[^A-Za-z0-9._+=,@-]+", "-", name)[:120].strip(".- ") or "variant"


def _guess(wrong: str, names: Iterable[str]) -> str:
    return did_you_mean(nearest(wrong, names, 1))


def _hint(wrong: str, names: Iterable[str]) -> str:
    names = list(names)
    return _guess(wrong, names) or f"; there are {', '.join(names)}"


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once, and is text: ``on`` and ``1`` are names, too."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
        if key in made:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate {key!r}", key_node.start_mark)
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _load(path: Path) -> dict[str, Any]:
    text = files.read(path)
    try:
        content = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}: {getattr(error, 'problem', None) or 'not YAML'}{where}") from None
    except (RecursionError, ValueError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: not a study file; it begins with 'name:' and 'command:'")
    # A variant without changes may be written as 'fp32:' alone.
    for mapping in (content, *_sections(content)):
        for name in ("variants", "parameters", "env", "combinations", "factors", "profiles", "without"):
            if name in mapping and mapping[name] is None:
                mapping[name] = {}
        variants = mapping.get("variants")
        if isinstance(variants, dict):
            mapping["variants"] = {name: {} if change is None else change for name, change in variants.items()}
    return content


def _sections(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    profiles = content.get("profiles")
    for section in (content.get("smoke"), *(profiles.values() if isinstance(profiles, dict) else ())):
        if isinstance(section, dict):
            yield section


def _first_trouble(error: ValidationError, content: Mapping[str, Any]) -> str:
    """Say what is wrong first: where, what, and what would be right."""
    trouble = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = [str(part) for part in trouble["loc"] if not re.search(r"[\[\]()]|^(str|float|int|bool|none)$", str(part))]
    where = ".".join(path)
    if trouble["type"] == "extra_forbidden":
        *above, key = path
        inside = f" in {'.'.join(above)}" if above else ""
        return f"unknown key {key!r}{inside}{_hint(key, _keys(above))}"
    if trouble["type"] == "missing":
        return f"{where} is missing"
    given = trouble.get("input")
    what = repr(given) if isinstance(given, str | int | float | None) else f"a {type(given).__name__}"
    message = str(trouble["msg"]).replace("Input should be", "it must be").replace("Value error, ", "")
    return f"{where} is {what}; {message[0].lower()}{message[1:]}"


def _keys(above: Sequence[str]) -> list[str]:
    """Return the keys that a part of the file may have."""
    if not above:
        return list(StudyFile.model_fields)
    if above[-1] == "quality":
        return list(Quality.model_fields)
    if (len(above) >= 2 and above[-2] == "variants") or above[0] == "factors":
        return list(Change.model_fields)
    return list(Profile.model_fields)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the study file."""
    schema = StudyFile.model_json_schema()
    for part in (schema, schema["$defs"]["Profile"]):  # a variant that changes nothing may be left empty
        variants = part["properties"]["variants"]
        variants["additionalProperties"] = {"anyOf": [variants["additionalProperties"], {"type": "null"}]}
    return schema


def blocks(variants: int, seeds: Sequence[int], order_seed: int) -> list[tuple[int, list[int]]]:
    """Return the blocks in order: the seed of each, and its variants, as numbers from 0.

    Args:
        variants: how many there are.
        seeds: one for each block.
        order_seed: of the random order: the same seed gives the same order.
    """
    chance = random.Random(order_seed)  # noqa: S311  an order, not a key
    groups = []
    left = len(seeds)
    while left:
        size = 3 if left % 2 and left >= 3 else min(left, 2)
        base = (_triple(variants), _pair(variants), [list(range(variants))])[3 - size]
        names = chance.sample(range(variants), variants)
        groups.append(chance.sample([[names[place] for place in block] for block in base], size))
        left -= size
    chance.shuffle(groups)
    order = [block for group in groups for block in group]
    return list(zip(chance.sample(list(seeds), len(seeds)), order, strict=True))


def imbalance(order: Sequence[Sequence[int]]) -> float:
    """Return the largest difference between the mean places of two variants, as a part of all cells.

    A drift of 20 % over the study, even in time, moves no difference between variants by more than 20 % of it.
    """
    variants = len(order[0])
    sums = [sum(block.index(variant) for block in order) for variant in range(variants)]
    return (max(sums) - min(sums)) / len(order) / (variants * len(order))


def _pair(variants: int) -> list[list[int]]:
    return [list(range(variants)), list(reversed(range(variants)))]


def _triple(variants: int) -> list[list[int]]:
    """Return three blocks in which the places of each variant have the same sum, or sums that differ by 1.

    The places in the first block are 0, 1, 2 ...; in the second those of the even variants fall from the middle to 0,
    those of the odd ones from the end to the middle. The sums of these two are all different, and the third block has
    the variants in the falling order of them.
    """
    middle, last = (variants - 1) // 2, variants - 1
    first = list(range(variants))
    second = [middle - variant // 2 if variant % 2 == 0 else last - variant // 2 for variant in first]
    sums = [a + b for a, b in zip(first, second, strict=True)]
    return [
        first,
        sorted(first, key=second.__getitem__),
        sorted(first, key=sums.__getitem__, reverse=True),
    ]
