"""Renders a card's facts and its sections besides its tables: hyperparameters, DeepSpeed, results, how it was measured.

Facts are of one line: emissions, hardware, place. The "Environmental Impact" fields of the Hugging Face model card
template are filled in where a card has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from greenml.errors import FactorError
from greenml.factors import tables
from greenml.record.schema import TRAINING_PATHS, Factor, RunRecord, SourceRef
from greenml.reports import _format, _parts, markdown
from greenml.units import SECONDS_PER_HOUR

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*\Z")
_NOT_TEXT = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "infinity"})
# What a reader of YAML or Markdown may take for a line's end, what turns a text's direction around, and halves of
# characters, which UTF-8 has not.
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def yaml(values: Mapping[str, Any]) -> str:
    """Return a fenced block of YAML, a line a value; numbers as they were given, what is not plain as JSON has it.

    JSON's scalars, lists and objects are YAML 1.2.
    """
    return fenced("\n".join(f"{_scalar(str(key))}: {_scalar(value)}" for key, value in values.items()), "yaml")


def document(values: Any) -> str:  # noqa: ANN401
    """Return a fenced block of JSON."""
    return fenced(_json(values, indent=2), "json")


def fenced(text: str, language: str) -> str:
    """Put a text between fences longer than any backtick run in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Write a word as code within a line."""
    flat = " ".join(text.split())
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", flat)), default=0) + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{space}{flat}{space}{ticks}"


def _scalar(value: Any) -> str:  # noqa: ANN401
    plain = isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _NOT_TEXT
    return str(value) if plain else _json(value)


def _json(value: Any, indent: int | None = None) -> str:  # noqa: ANN401
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def deepspeed_section(record: RunRecord) -> str:
    """Render what the configuration says; empty where the run had none."""
    config = configuration(record)
    if not config:
        return ""
    zero = _mapping(config.get("zero_optimization"))
    rows = [
        ("Optimizer", _type(config.get("optimizer"))),
        ("Scheduler", _type(config.get("scheduler"))),
        ("Offload", _offload(zero) if zero else ""),
    ]
    parts = ["## DeepSpeed", "\n".join(f"- {name}: {text}" for name, text in rows if text)]
    if zero:
        parts.append(document({"zero_optimization": zero}))
    return "\n\n".join(part for part in parts if part)


def configuration(record: RunRecord) -> Mapping[str, Any]:
    """Return the configuration as it ran, else as it was given; {} where there was none."""
    for name in ("ds_config_as_run", "ds_config"):
        config = _mapping(record.trainer.get(name))
        if config:
            return config
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401  of the record, as found
    return value if isinstance(value, Mapping) else {}


def _type(part: Any) -> str:  # noqa: ANN401
    name = _mapping(part).get("type")
    return code(str(name)) if name else ""


def _offload(zero: Mapping[str, Any]) -> str:
    """Return what is offloaded from the GPUs and to where; ``none`` where nothing is."""
    parts = []
    for name, old in (("optimizer", "cpu_offload"), ("param", "cpu_offload_params")):
        device = _mapping(zero.get(f"offload_{name}")).get("device")
        if device is None and zero.get(old) is True:
            device = "cpu"
        if device not in (None, "none"):
            parts.append(f"{'parameters' if name == 'param' else name} to {code(str(device))}")
    return ", ".join(parts) or "none"


# Arguments of a Trainer that say nothing of the model: files, reporters, the hub, how the machine is used.
_HOUSEKEEPING = ("logging_", "save_", "hub_", "push_to_hub", "trackio_", "ddp_", "dataloader_", "eval_")
_HOUSEKEEPING_NAMES = frozenset(
    (
        "_n_gpu", "accelerator_config", "batch_eval_metrics", "debug", "deepspeed", "disable_tqdm", "do_eval",
        "do_predict", "do_train", "enable_jit_checkpoint", "evaluation_strategy", "fp16_backend", "greater_is_better",
        "ignore_data_skip", "include_for_metrics", "include_inputs_for_metrics", "include_num_input_tokens_seen",
        "include_tokens_per_second", "jit_mode_eval", "label_names", "length_column_name", "local_rank", "log_level",
        "log_level_replica", "log_on_each_node", "mp_parameters", "n_gpu", "no_cuda", "output_dir",
        "overwrite_output_dir", "parallelism_config", "past_index", "prediction_loss_only", "project", "ray_scope",
        "remove_unused_columns", "report_to", "restore_callback_states_from_checkpoint", "resume_from_checkpoint",
        "run_name", "skip_memory_metrics", "use_cpu", "use_ipex", "use_mps_device",
    )
)  # fmt: skip
# What cards show first, and a seed or a weight decay of 0 too.
_USUAL = (
    "fp16", "bf16", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "effective_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "weight_decay",
    "seed",
)  # fmt: skip
# Defaults of transformers' TrainingArguments that are not empty (training_args.py, versions 4.57 and 5): of a
# training_args.json with every argument, these nobody chose.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "max_steps": (-1,), "lr_scheduler_type": ("linear",), "adam_beta1": (0.9,), "adam_beta2": (0.999,),
    "adam_epsilon": (1e-8,), "max_grad_norm": (1.0,), "average_tokens_across_devices": (True,),
    "train_sampling_strategy": ("random",), "half_precision_backend": ("auto",), "fp16_opt_level": ("O1",),
    "optim": ("adamw_torch", "adamw_torch_fused"),
}  # fmt: skip
_EVERY_ARGUMENT = 60  # a dump of TrainingArguments has over a hundred keys, what a person writes has not


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples a step of the optimizer, and how they come about."""

    size: int
    how: str


def hyperparameters_section(record: RunRecord) -> str:
    """Render the block of hyperparameters; empty where the record has none."""
    chosen = hyperparameters(record)
    if not chosen:
        return ""
    parts = ["## Hyperparameters"]
    batch = effective_batch(record)
    if batch is None:
        return "\n\n".join([*parts, yaml(chosen)])
    chosen = _ordered({**chosen, "effective_batch_size": batch.size})
    return "\n\n".join([*parts, yaml(chosen), markdown.bullets([batch.how])])


def hyperparameters(record: RunRecord) -> dict[str, Any]:
    """Return what was chosen for a run; of a Trainer's arguments those that matter to the model, the usual ones first.

    Where a record holds every argument of a Trainer, those at their defaults are left out.
    """
    if not isinstance(record.trainer.get("training_args"), Mapping):
        return dict(record.params)
    everything = len(record.params) >= _EVERY_ARGUMENT
    return _ordered({key: value for key, value in record.params.items() if _was_chosen(key, value, everything)})


def _ordered(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: values[key] for key in _USUAL if key in values}, **values}


def _was_chosen(key: str, value: Any, everything: bool) -> bool:  # noqa: ANN401
    if key.startswith(_HOUSEKEEPING) or key in _HOUSEKEEPING_NAMES or value in (None, "", [], {}):
        return False
    if not everything:
        return True
    if key in _USUAL:
        return value is not False and value not in _DEFAULTS.get(key, ())
    return bool(value) and value not in _DEFAULTS.get(key, ())


def effective_batch(record: RunRecord) -> Batch | None:
    """Return the effective batch size; None where the record does not tell what it is made of."""
    params = record.params
    each, steps = params.get("per_device_train_batch_size"), params.get("gradient_accumulation_steps", 1)
    if not _is_count(each) or not _is_count(steps):
        return None
    count, known = _devices(record)
    size = each * steps * count
    if not count or params.get("effective_batch_size", size) != size:
        return None
    accumulated = f" x {steps} steps of accumulation" if steps > 1 else ""
    return Batch(size, f"effective_batch_size: {size} = {each} per device x {count} {known}{accumulated}.")


def _is_count(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _devices(record: RunRecord) -> tuple[int, str]:
    ran = record.trainer.get("ran")
    world_size = ran.get("world_size") if isinstance(ran, Mapping) else None
    for world in (world_size, record.params.get("world_size"), record.environment.world_size):
        if isinstance(world, int) and world > 0:
            return world, f"process{'es' if world > 1 else ''}"
    count, known = gpu_count(record)
    return count, f"GPU{'s' if count > 1 else ''} ({known}; it is assumed that all of them trained)"


# By what stands before a metric's name: the Trainer's words for its data sets, and others' for the same.
SPLITS = {"eval": "validation", "val": "validation", "validation": "validation", "predict": "test", "test": "test"}
# The state of training at its last log: settings and speeds, which are no results.
_STATE = frozenset({"learning_rate", "lr", "grad_norm", "step", "global_step", "max_steps"})
# Of an evaluation: what it took, which says nothing of the model.
_EFFORT = ("runtime", "samples", "per_second", "time", "steps", "epoch", "tokens", "memory", "mem", "flos", "delta")
ROUGE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result that judges the model."""

    split: str
    name: str
    value: float


def results_section(record: RunRecord) -> str:
    """Render the tables of results; empty where the record has none."""
    rouge, others = _rows(record)
    parts = []
    if rouge:
        parts += ["### ROUGE", markdown.table(rouge)]
    if others:
        parts += ["### Metrics", markdown.table(others)]
    return "\n\n".join(["## Results", *parts]) if parts else ""


def evaluations(record: RunRecord) -> list[Evaluation]:
    """Return the results on validation and test data, in the order in which they were logged."""
    results = []
    for key, value in record.metrics.items():
        before, _, name = key.partition("_")
        judges = before in SPLITS and name and not any(word in _EFFORT for word in _words(name))
        if judges and isinstance(value, int | float) and not isinstance(value, bool):
            results.append(Evaluation(SPLITS[before], name, value))
    return results


def is_rouge(name: str) -> bool:
    """Tell whether a metric is one of the ROUGE family, by its name without the data set's."""
    return name.lower().replace("-", "").replace("_", "").startswith("rouge")


def _words(name: str) -> list[str]:
    return [*name.lower().split("_"), *(["per_second"] if name.endswith("per_second") else [])]


def _rows(record: RunRecord) -> tuple[list[markdown.Row], list[markdown.Row]]:
    rouge: list[markdown.Row] = []
    others: list[markdown.Row] = []
    state = _mapping(record.trainer.get("trainer_state"))
    state_values = {name: state[name] for name in ("global_step", "total_flos") if name in state}
    results = {name: value for name, value in record.metrics.items() if name not in _STATE}
    for key, value in {**results, **state_values}.items():
        after = key.partition("_")[2] if key.partition("_")[0] in SPLITS else key
        text = _text(value)
        if is_rouge(after) and isinstance(value, float):
            rouge.append((key, _at_most(value)))
        elif text:
            others.append((key, text))
    return rouge, others


def _at_most(value: float) -> str:
    """Write a score as it was logged, with four decimals at most."""
    logged = repr(value)
    return logged if len(logged.partition(".")[2]) <= ROUGE_DECIMALS else f"{value:.{ROUGE_DECIMALS}f}"


def _text(value: Any) -> str:  # noqa: ANN401
    """Write a metric as it was logged; empty for what is no figure or word."""
    if isinstance(value, bool | str):
        return str(value)
    return repr(value) if isinstance(value, int | float) else ""


_ADDRESS = re.compile(r"https?://[^\s<>()\[\]|\\\"'`]+\Z")


def method_section(record: RunRecord) -> str:
    """Render the section, with the record's notes at its end."""
    lines = [_run(record), *_sensors(record), _scopes(record), *_factors(record), _intervals(record)]
    parts = ["## How this was measured", "\n".join(f"- {line}" for line in lines if line), markdown.notes(record)]
    return "\n\n".join(part for part in parts if part)


def _run(record: RunRecord) -> str:
    span = _format.when(record) + ("" if record.ended else " (still running)")
    name = f"{record.name}, " if record.name else ""
    return markdown.escape(
        f"Run: {name}id {record.run_id}, {span}, {record.status}. Record made by greenml {record.greenml_version}."
    )


def _sensors(record: RunRecord) -> list[str]:
    """Say what each energy comes from; a reported row says so itself, and its tool's name stands for its sensors."""
    lines = [f"Sensors: {energy_sources(record, unknown=True)}."] if not record.reported else []
    for row in record.reported:
        tool = _format.SENSOR_NAMES.get(row.tool, row.tool)
        lines.append(
            f"Emissions and their energy: {tool}'s own row with its own factors, taken from {row.file} as it stands."
        )
    imported = dict.fromkeys(
        _format.SENSOR_NAMES.get(device.sensor, device.sensor)
        for device in record.devices
        if _format.is_imported(device) and device.sensor not in {row.tool for row in record.reported}
    )
    if imported:
        lines.append(f"Utilization, memory and energy in Resource Usage: as {', '.join(imported)} reports them.")
    hardware = hardware_words(record)
    return [markdown.escape(line) for line in [*lines, f"Hardware: {hardware}." if hardware else ""] if line]


def _scopes(record: RunRecord) -> str:
    scope = emissions(record).scope
    if not scope:
        return ""
    if scope == "the whole run":
        return "Scope: every figure covers the whole run."
    return markdown.escape(f"Scope: resource usage and cost cover the whole run, emissions cover {scope}.")


def _factors(record: RunRecord) -> list[str]:
    """List the factors; a figure that another tool computed has its own, which greenml's do not explain."""
    factors, lines = record.factors, []
    if not record.reported:
        lines += [
            _factor("Carbon intensity", factors.carbon_intensity),
            *([f"{markdown.escape(other)}."] if (other := _format.other_basis(record)) else []),
            _factor("PUE", factors.pue),
        ]
    by_source: dict[tuple[str, str, str], list[str]] = {}
    for tier in markdown.tiers(record, factors.prices):
        if (price := factors.prices.get(tier)) is None:
            continue
        source = (price.source.name, price.source.url, price.source.published)
        by_source.setdefault(source, []).append(_format.tier(tier))
    for (name, url, published), tiers in by_source.items():
        source_of = _source(SourceRef(name=name, url=url, published=published))
        lines.append(f"Price ({markdown.escape(', '.join(tiers))}): {source_of}.")
    return lines


def _factor(name: str, factor: Factor | None) -> str:
    if factor is None:
        return f"{name}: {_format.NOT_KNOWN}."
    unit = "" if factor.unit == "1" else f" {factor.unit}"
    figure = f"{_format.number(factor.value, 4)}{unit}"
    if factor.low != factor.high:
        figure += f" ({_format.number(factor.low, 4)} to {_format.number(factor.high, 4)})"
    where = " ".join(part for part in (factor.code, str(factor.year or ""), factor.basis) if part)
    details = markdown.escape(", ".join(part for part in (figure, where) if part))
    return f"{name}: {details}. Source: {_source(factor.source)}."


def _source(ref: SourceRef) -> str:
    """Name a source with its date, as a link where it has an address."""
    name = markdown.escape(ref.name)
    if _ADDRESS.match(ref.url):
        name = f"[{name.replace('[', '(').replace(']', ')')}]({ref.url})"
    return f"{name}, {markdown.escape(ref.published)}" if ref.published else name


def _intervals(record: RunRecord) -> str:
    known = [quantity for total in record.totals for quantity in (total.it_energy_joules, total.emissions_grams)]
    if record.reported or not any(quantity.low is not None and quantity.low != quantity.high for quantity in known):
        return "Intervals: the figures were taken over from other tools, which give none." if record.reported else ""
    return (
        "Intervals: from the lowest to the highest energy that sensors' errors and gaps between readings allow; "
        "those of the emissions hold the spread of the factors too."
    )


# The words of huggingface_hub/templates/modelcard_template.md.
HARDWARE, HOURS, PROVIDER = "Hardware Type", "Hours used", "Cloud Provider"
REGION, CARBON = "Compute Region", "Carbon Emitted"
_FIELDS = (HARDWARE, HOURS, PROVIDER, REGION, CARBON)
# The colon behind the emphasis, underscores or a small letter are people's, and their formatters'.
_LINE = re.compile(
    rf"^([ \t]*[-*+] +(?:\*\*|__)({'|'.join(_FIELDS)})(?::(?:\*\*|__)|(?:\*\*|__):))([^\r\n]*)", re.M | re.I
)
_UNFILLED = re.compile(r"\s*(?:|[*_]?\[More Information Needed\](?:\([^()]*\))?[*_]?|\{\{.*\}\})\s*", re.I)


@dataclass(frozen=True, slots=True)
class Filled:
    """A card with its fields filled; ``has_fields`` is False where it has none of them."""

    text: str
    has_fields: bool
    conflicts: list[tuple[str, str, str]]
    left_out: list[str]


def fields(record: RunRecord) -> dict[str, str]:
    """Return the template's fields in its order; empty where a field is not known."""
    emitted = emissions(record)
    grams = f"{emitted.grams:f} g CO2eq" if emitted.grams is not None else ""
    details = ", ".join(part for part in (emitted.interval, emitted.scope, f"source: {emitted.source}") if part)
    values = {
        HARDWARE: hardware_words(record),
        HOURS: _hours(record),
        PROVIDER: cloud(record),
        REGION: geography(record),
        CARBON: f"{grams} ({details})" if grams else "",
    }
    return {name: markdown.escape(text) for name, text in values.items()}


def section(record: RunRecord) -> str:
    """Render the fields under their heading; what is not known is said in words."""
    why = emissions(record).why
    known = fields(record)
    missing = {CARBON: markdown.escape(_format.missing(why, _format.NOT_KNOWN))}
    lines = [f"- **{name}:** {text or missing.get(name, _format.NOT_KNOWN)}" for name, text in known.items()]
    return "\n\n".join(["## Environmental Impact", "\n".join(lines)])


def fill(card: str, hidden: str, record: RunRecord, *, force: bool) -> Filled:
    """Fill the template's lines in a card; a line that somebody filled otherwise stays, unless forced.

    Args:
        card: the text.
        hidden: the same text with what is not to be looked at (code, other sections of greenml's) blanked out.
        record: of the run.
        force: replace what is in conflict.
    """
    known = fields(record)
    conflicts: list[tuple[str, str, str]] = []
    left_out: list[str] = []
    lines = list(_LINE.finditer(hidden))
    for line in reversed(lines):
        name, theirs = (
            next(field for field in _FIELDS if field.lower() == line[2].lower()),
            card[line.start(3) : line.end(3)],
        )
        ours = known[name]
        unfilled = _UNFILLED.fullmatch(theirs)
        if not ours and unfilled:
            left_out.append(f"{name}: {_format.NOT_KNOWN}")
        if not ours or theirs.strip() == ours:
            continue
        if not unfilled:
            conflicts.append((name, theirs.strip(), ours))
        if unfilled or force:
            card = f"{card[: line.start(3)]} {ours}{card[line.end(3) :]}"
    return Filled(card, bool(lines), conflicts[::-1], left_out[::-1])


def _hours(record: RunRecord) -> str:
    hours = _format.number(record.duration_seconds / SECONDS_PER_HOUR, 4)
    count = gpu_count(record)[0]
    return f"{hours} ({count} GPUs, the whole run)" if count > 1 else f"{hours} (the whole run)"


CLOUD_NAMES = {"azure": "Azure", "aws": "AWS", "gcp": "Google Cloud", "coreweave": "CoreWeave", "lambda": "Lambda"}
KILOGRAM_EXPONENT = 3


@dataclass(frozen=True, slots=True)
class Emissions:
    """The figure of the "Carbon Emissions" table, in grams as the hub wants it. ``grams`` None: ``why`` says why."""

    grams: Decimal | None
    scope: str = ""
    source: str = ""
    interval: str = ""
    why: str = ""


def emissions(record: RunRecord) -> Emissions:
    """Return the emissions that the card's table shows.

    A reported figure keeps every digit that its tool wrote: its kilograms are shifted by three places, not multiplied
    as a binary number. A computed one has six significant digits, as in the table.
    """
    if record.reported:
        return _reported(record)
    total = markdown.measured_scope(record)
    if total is None:
        return Emissions(None, why="the record has no totals")
    quantity = total.emissions_grams
    if quantity.value is None:
        return Emissions(None, why=quantity.why or "not known")
    return Emissions(
        Decimal(_format.number(quantity.value)),
        _scope(total.scope),
        f"greenml ({energy_sources(record)}{', marginal carbon intensity' if record.factors.marginal else ''})"
        + (f", a lower bound: {quantity.why}" if quantity.at_least else ""),
        _format.interval_of(quantity, lambda grams: f"{_format.number(grams, 4)} g"),
    )


def _reported(record: RunRecord) -> Emissions:
    row = record.reported[0]
    text, tool = row.row.get("emissions", ""), _format.SENSOR_NAMES.get(row.tool, row.tool)
    try:
        kilograms = Decimal(text)
    except InvalidOperation:
        kilograms = Decimal("NaN")
    if not kilograms.is_finite():
        return Emissions(None, why=f"{tool}'s row has no number of emissions")
    grams = kilograms.scaleb(KILOGRAM_EXPONENT)
    return Emissions(Decimal(f"{grams:f}"), _scope(row.scope), tool)


def _scope(scope: str) -> str:
    if scope in TRAINING_PATHS:
        return "training only"
    return "the whole run" if scope == "run" else f"the phase {scope} only"


def energy_sources(record: RunRecord, *, unknown: bool = False) -> str:
    """Say how each kind's energy is known: ``GPU measured (NVML counter), CPU modelled``.

    Args:
        record: of the run.
        unknown: name the kinds that are not known too, with the reason.
    """
    total = markdown.measured_scope(record)
    if total is None:
        return "nothing was measured"
    parts = []
    for kind, quantity in (
        ("gpu", total.gpu_energy_joules),
        ("cpu", total.cpu_energy_joules),
        ("dram", total.dram_energy_joules),
    ):
        if quantity.value is not None:
            by = _format.sensors(record, kind)
            parts.append(f"{kind.upper()} {quantity.basis}{f' ({by})' if by else ''}")
        elif unknown:
            parts.append(f"{kind.upper()} {_format.unknown(quantity)}")
    return ", ".join(parts) or "nothing was measured"


def hardware_words(record: RunRecord) -> str:
    """Name the hardware: ``8 X Tesla V100-SXM2-32GB (ND40rs_v2)``; empty where nothing tells."""
    place = record.place
    if place.sku and _parts.mismatch(record):
        return f"{_parts.seen(record)} (billed as {place.sku})"
    ran_on = _parts.hardware(record)
    if not ran_on and place.sku:
        each = place.sku_label or place.sku
        ran_on = f"{place.nodes} nodes of {each}" if place.nodes > 1 else each
    return f"{ran_on} ({place.sku})" if place.sku and place.sku not in ran_on else ran_on


def gpu_count(record: RunRecord) -> tuple[int, str]:
    """Return the number of GPUs, and its source; 0 where it is not known."""
    seen = sum(device.count for device in _parts.at_a_time(record, "gpu"))
    if seen or markdown.has_no_gpu(record):
        return seen, "seen by greenml"
    place = record.place
    try:
        rows = tables.lookup("skus", place.cloud, place.sku.rpartition("/")[2]) if place.sku else []
    except FactorError:
        rows = []
    each = float(rows[0]["gpu_count"] or 0) if rows else 0.0
    return round(each * place.nodes), f"of {place.sku}" if each else ""


def geography(record: RunRecord) -> str:
    """Name the place, the narrowest name first: ``Washington, United States (azure westus2)``."""
    place = record.place
    named = ", ".join(dict.fromkeys(part for part in (place.state, place.country_name) if part))
    code = f"{place.cloud} {place.region}".strip() if place.region else ""
    return f"{named} ({code})" if named and code else named or code


def cloud(record: RunRecord) -> str:
    """Name the cloud provider; empty where none is known."""
    return CLOUD_NAMES.get(record.place.cloud, record.place.cloud)
