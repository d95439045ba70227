"""A model's file: the records of all runs that made it, each with its stage, their sums, and the sentences on them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from greenml.energy.usage import union
from greenml.errors import SettingsError, did_you_mean, nearest
from greenml.record.schema import Quantity, RunRecord, Totals
from greenml.reports import _format, markdown
from greenml.reports.card import sections as card_facts
from greenml.units import JOULES_PER_KWH

STAGES = ("pre-training", "training", "fine-tuning", "evaluation", "inference", "discarded")
TRAINING_STAGES = ("pre-training", "training", "fine-tuning", "evaluation", "discarded")  # all that made the model
LEAST_DIGITS, MOST_DIGITS = 2, 6  # the Model Documentation Form asks for two significant figures at least
SECONDS_PER_DAY = 86400.0

# What may be asked for by name: an example, and what it is.
QUESTIONS: dict[str, tuple[str, str]] = {
    "model": ("my-model", "the model's name"),
    "version": ("1.0", "the model's version"),
    "parameters": ("406e6", "how many parameters the model has"),
    "training_tokens": ("1e9", "tokens that the training passed through the model"),
    "flops": ("1.2e18", "floating point operations of the training"),
    "publisher": ("Example-Labs", "who publishes the file"),
    "confidentiality": ("public", "public, internal, confidential or secret"),
    "infrastructure": ("publicCloud", "publicCloud, privateCloud, onPremise or other"),
    "energy_provider": ("Example-Power", "who sold the electricity"),
    "task": ("summarization", "the family of the task"),
    "data_type": ("text", "the nature of the data: text, token, image, audio, tabular ..."),
    "country": ("SWE", "where it ran, ISO 3166-1 alpha-3"),
    "download_location": ("https://example.org/my-model", "where the model can be had"),
}
MOST = 1e100  # of any count: above, it is damage
NUMBERS = ("parameters", "training_tokens", "flops")
CHOICES = {
    "confidentiality": ("public", "internal", "confidential", "secret"),
    "infrastructure": ("publicCloud", "privateCloud", "onPremise", "other"),
    "data_type": ("tabular", "audio", "boolean", "image", "video", "object", "text", "token", "word", "other"),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One record and its stage in the making of the model."""

    record: RunRecord
    stage: str

    @property
    def total(self) -> Totals | None:
        """The totals of the whole run."""
        return self.record.total()

    @property
    def energy_joules(self) -> Quantity:
        """The energy of the facility where the PUE is known, else of the devices."""
        total = self.total
        if total is None:
            return Quantity(value=None, basis="derived", why="the record has no totals")
        return total.facility_energy_joules if self.has_pue else total.it_energy_joules

    @property
    def has_pue(self) -> bool:
        """Whether the energy is that of the facility."""
        return self.total is not None and self.total.facility_energy_joules.value is not None

    @property
    def emissions_grams(self) -> Quantity:
        """Location-based."""
        return self.total.emissions_grams if self.total else Quantity(value=None, basis="derived", why="no totals")

    @property
    def gpu_seconds(self) -> float | None:
        """GPUs x seconds; None where the number of GPUs is not known."""
        count, _ = card_facts.gpu_count(self.record)
        return count * self.record.duration_seconds if count or markdown.has_no_gpu(self.record) else None

    @property
    def node_seconds(self) -> float:
        """Machines x seconds."""
        return max(self.record.place.nodes, len(self.record.hosts), 1) * self.record.duration_seconds


@dataclass(slots=True)
class Model:
    """All records of a model.

    Attributes:
        runs: in the order in which they were given.
        answers: what the user said by name, as text.
        now: when the file is made.
        asked: the names that neither a record nor the user answered.
    """

    runs: Sequence[Run]
    answers: Mapping[str, str] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    asked: list[str] = field(default_factory=list)

    def of(self, stages: Iterable[str]) -> list[Run]:
        """Return the runs of some stages."""
        wanted = set(stages)
        return [run for run in self.runs if run.stage in wanted]

    def answer(self, name: str) -> str | None:
        """Return what the user or the records say of a text; None, and the name is noted, where nobody knows it."""
        known = self.answers.get(name) or self._recorded(name)
        if known is None and name not in self.asked:
            self.asked.append(name)
        return known

    def number(self, name: str) -> float | None:
        """Return a number of ``NUMBERS``, as ``answer`` does."""
        text = self.answer(name)
        return None if text is None else float(text)

    def _recorded(self, name: str) -> str | None:
        trainers = [run.record.trainer for run in self.of(("pre-training", "training", "fine-tuning"))]
        made: str | None = None
        if name == "model":
            made = next((str(value) for value in self._model_facts("name") if value), None)
        elif name == "parameters":
            facts = [{"parameters": value} for value in self._model_facts("parameters")]
            counts = {count for fact in facts if (count := _number(fact, "parameters")) is not None}
            made = repr(max(counts)) if counts else None
        elif name == "training_tokens":
            made = _all_of([_number(trainer, "counts", "tokens") for trainer in trainers])
        elif name == "flops":
            ways = ("flops", "total"), ("trainer_state", "total_flos")
            made = _all_of([_number(trainer, *ways[0]) or _number(trainer, *ways[1]) for trainer in trainers])
        elif name == "country":
            countries = {run.record.place.country_iso3 for run in self.runs} - {""}
            made = countries.pop() if len(countries) == 1 else None
        elif name == "infrastructure":
            made = "publicCloud" if self.runs and all(run.record.place.cloud for run in self.runs) else None
        return made

    def _model_facts(self, name: str) -> Iterator[Any]:
        for run in self.runs:
            facts = run.record.trainer.get("model")
            if isinstance(facts, Mapping):
                yield facts.get(name)

    @property
    def name(self) -> str:
        """The model's name, else that of its first run."""
        return self.answer("model") or next((run.record.name for run in self.runs if run.record.name), "unknown")


def _number(trainer: Mapping[str, Any], *path: str) -> float | None:
    value: Any = trainer
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MOST
    return float(value) if known else None


def _all_of(values: Sequence[float | None]) -> str | None:
    """Return the sum as text; None where one is not known: a part would look like the whole."""
    known = [value for value in values if value is not None]
    return repr(math.fsum(known)) if known and len(known) == len(values) else None


def answers(given: Sequence[str]) -> dict[str, str]:
    """Read ``name=value`` of the command line.

    Raises:
        SettingsError: there is no such name, or the value is of another kind.
    """
    made: dict[str, str] = {}
    for word in given:
        name, sign, value = (part.strip() for part in word.partition("="))
        if name not in QUESTIONS:
            hint = did_you_mean(nearest(name, QUESTIONS, 1)) or f"; there are {', '.join(QUESTIONS)}"
            raise SettingsError(f"--param {word}: nothing is asked for under {name!r}{hint}")
        if not sign or not value:
            raise SettingsError(f"--param {word}: write {name}={QUESTIONS[name][0]}")
        if name in CHOICES and value not in CHOICES[name]:
            raise SettingsError(f"--param {word}: {name} is one of {', '.join(CHOICES[name])}")
        if name == "country" and not (len(value) == 3 and value.isalpha() and value.isupper()):
            raise SettingsError(f"--param {word}: country is an ISO 3166-1 alpha-3 code, such as SWE")
        if name in NUMBERS:
            value = repr(_positive(word, name, value))
        made[name] = value
    return made


def _positive(word: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SettingsError(f"--param {word}: {name} is a number above 0, such as {QUESTIONS[name][0]}")
    return value


def open_questions(model: Model) -> str:
    """Return one line that asks for all that was not known; empty where nothing was."""
    if not model.asked:
        return ""
    what = ", ".join(f"{name} ({QUESTIONS[name][1]})" for name in model.asked)
    how = " ".join(f"--param {name}={QUESTIONS[name][0]}" for name in model.asked)
    return f"not known, and left open: {what}; give {how}"


def render(name: str, model: Model) -> str:
    """Write a model's file in a format.

    Raises:
        SettingsError: the format needs a package that is not installed.
    """
    try:
        module = import_module(f"greenml.analysis.disclosure.{name}")
    except ImportError as error:
        raise SettingsError(f"--format {name} needs a package: pip install 'greenml[disclose]' ({error})") from None
    text: str = module.render(model)
    return text


def each_once(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that were given twice.

    Raises:
        SettingsError: a run was given with two stages.
    """
    by_id: dict[str, Run] = {}
    for run in runs:
        same = by_id.setdefault(run.record.run_id, run)
        if same.stage != run.stage:
            raise SettingsError(
                f"the run {run.record.run_id} is given as {same.stage} and as {run.stage}; it counts once"
            )
    return list(by_id.values())


def added(quantities: Sequence[Quantity]) -> Quantity:
    """Add figures of several runs.

    The ends of the intervals are added, too: runs share their sensors' calibration and their factors, so that their
    errors may all be of one sign. A sum in which one figure is missing is a lower bound.
    """
    known = [quantity for quantity in quantities if quantity.value is not None]
    missing = [quantity for quantity in quantities if quantity.value is None]
    if not known:
        why = missing[0].why if missing else "there is no run"
        return Quantity(value=None, basis="derived", why=why or "not known")
    why = ""
    if missing:
        why = f"{len(missing)} of {len(quantities)} runs without a figure"
        why += f": {missing[0].why}" if missing[0].why else ""
    bounds = [quantity.why for quantity in known if quantity.at_least]
    whole = not missing and not bounds
    lows = [quantity.low for quantity in known]
    highs = [quantity.high for quantity in known]
    return Quantity(
        value=math.fsum(quantity.value or 0.0 for quantity in known),
        low=_sum(lows) if any(low is not None for low in lows) else None,
        high=_sum(highs) if not missing else None,
        basis="derived",
        why=why or next(iter(bounds), ""),
        at_least=not whole,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def digits(quantity: Quantity) -> int:
    """Return how many significant digits of a figure its interval allows: down to the half width's first digit."""
    value, low, high = quantity.value, quantity.low, quantity.high
    if not value or low is None or high is None:
        return LEAST_DIGITS
    half = max(high - value, value - low)
    if half <= 0:
        return MOST_DIGITS
    allowed = math.floor(math.log10(abs(value))) - math.floor(math.log10(half)) + 1
    return min(MOST_DIGITS, max(LEAST_DIGITS, allowed))


def wall_clock_seconds(runs: Sequence[Run]) -> float:
    """Return how long at least one of the runs went on: what lay side by side counts once."""
    spans = [(start.timestamp(), end.timestamp()) for run in runs for start, end in run.record.windows]
    return math.fsum(end - start for start, end in union(spans))


def json_text(content: Mapping[str, Any]) -> str:
    """Write a file's content as JSON, as people read it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def kilowatt_hours(quantity: Quantity) -> float | None:
    """Return a figure in kWh, with the digits that its interval allows; None: not known."""
    return rounded(quantity, 1 / JOULES_PER_KWH)


def rounded(quantity: Quantity, factor: float) -> float | None:
    """Return a figure in another unit, with the digits that its interval allows and one more; None: not known."""
    if quantity.value is None:
        return None
    return float(f"{quantity.value * factor:.{digits(quantity) + 1}g}")


JOULES_PER_UNIT = {"kWh": JOULES_PER_KWH, "MWh": 1000.0 * JOULES_PER_KWH}
LEAST_FIXED = 1e-5  # what is less is written with its power of ten


def megawatt_hours(quantity: Quantity) -> str:
    """Write an energy in MWh with the digits that its interval allows; ``N/A`` and the reason: not known."""
    if quantity.value is None:
        return f"N/A ({quantity.why or 'not measured'})"
    return f"{'at least ' if quantity.at_least else ''}{_energy(quantity.value, digits(quantity), 'MWh')}"


def _energy(joules: float, count: int, unit: str) -> str:
    """Write an energy with so many significant digits, and none beyond: ``150000 MWh``, ``1.0e-9 MWh``."""
    value = float(f"{joules / JOULES_PER_UNIT[unit]:.{count - 1}e}")
    if 0 < abs(value) < LEAST_FIXED:
        return f"{value:.{count - 1}e} {unit}".replace("e-0", "e-")
    return f"{_format.significant(value, count)} {unit}"


def interval(quantity: Quantity, unit: str = "MWh") -> str:
    """Write the interval of an energy in MWh or kWh; empty where none is known."""

    def write(joules: float) -> str:
        return _energy(joules, digits(quantity) + 1, unit)

    if quantity.value is None or quantity.low is None:
        return ""
    if quantity.high is None:
        return f"from {write(quantity.low)} up"
    return f"{write(quantity.low)} to {write(quantity.high)}"


def boundary(runs: Sequence[Run]) -> str:
    """Say what the energy is of: devices, or the facility; runs whose energy is not known have no part in it."""
    known = [run for run in runs if run.energy_joules.value is not None]
    if not known:
        return "no energy is known"
    totals = [run.total for run in known if run.total]
    devices = _listed(
        [
            (name, sum(quantity.value is not None for quantity in quantities))
            for name, quantities in (
                ("GPUs", [total.gpu_energy_joules for total in totals]),
                ("CPUs", [total.cpu_energy_joules for total in totals]),
                ("memory", [total.dram_energy_joules for total in totals]),
            )
        ],
        len(known),
    )
    factors = [factor for run in known if run.has_pue and (factor := run.record.factors.pue)]
    if not factors:
        return f"the energy of {devices} as the devices drew it, without the facility's cooling and losses"
    values = sorted({factor.value for factor in factors})
    pue = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    sources = ", ".join(dict.fromkeys(_format.source(factor.source) for factor in factors))
    part = ""
    if len(factors) < len(known):
        part = f" in {len(factors)} of {len(known)} runs, without the facility's cooling and losses in the others"
    return f"the energy of {devices}, multiplied by a power usage effectiveness of {pue} ({sources}){part}"


def _listed(counts: Sequence[tuple[str, int]], runs: int) -> str:
    """Name what is in a sum of runs: ``GPUs, CPUs (2 of 3 runs) and memory``."""
    names = [f"{name}{f' ({count} of {runs} runs)' if count < runs else ''}" for name, count in counts if count]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "all devices"


def method(runs: Sequence[Run], energy: Quantity) -> str:
    """Say in about 100 words how the energy is known, from the records."""
    versions = ", ".join(sorted({run.record.greenml_version for run in runs}))
    hardware = Counter(card_facts.hardware_words(run.record) or "unnamed hardware" for run in runs)
    on = "; ".join(
        f"{name}{f' ({_runs(count)})' if len(hardware) > 1 else ''}" for name, count in hardware.most_common(3)
    )
    more = f" and {len(hardware) - 3} more kinds of machine" if len(hardware) > 3 else ""
    sources = list(dict.fromkeys(card_facts.energy_sources(run.record, unknown=True) for run in runs))
    how = "; ".join(sources[:2]) + (f"; and {len(sources) - 2} other ways" if len(sources) > 2 else "")
    of = "adds up" if len(runs) > 1 else "is that of"
    sentences = [
        f"The figure {of} {_runs(len(runs))} on {on}{more}, recorded with greenml {versions}.",
        f"How the energy is known: {how}.",
        f"Boundary: {boundary(runs)}.",
    ]
    stated = interval(energy)
    if stated:
        added_up = "; ends are added" if len(runs) > 1 else ""
        sentences.append(f"Its 95 % interval, {stated}, holds calibration, sampling and models{added_up}.")
    elif energy.value is not None:
        sentences.append("Its uncertainty is not known: the meter stated none.")
    if energy.at_least:
        sentences.append(f"It is a lower bound: {energy.why}.")
    if any(note.code == "conflict" for run in runs for note in run.record.notes):
        sentences.append("A second meter of the same run states another energy; the record holds both.")
    unfinished = sum(run.record.status != "completed" for run in runs)
    discarded = sum(run.stage == "discarded" for run in runs)
    if len(runs) == 1 and unfinished:
        sentences.append(f"The run did not complete: {runs[0].record.status}.")
    counted = [f"{discarded} discarded" if discarded else "", f"{unfinished} unfinished" if unfinished else ""]
    if len(runs) > 1 and any(counted):
        sentences.append(f"Among them are {' and '.join(filter(None, counted))}.")
    sentences.append("Networks, storage, the making of the hardware and work that was not recorded are left out.")
    return " ".join(sentences)


def _runs(count: int) -> str:
    return f"{count} runs" if count > 1 else "one run"


def by_stage(model: Model) -> list[tuple[str, int, Quantity, Quantity]]:
    """Return (stage, number of runs, joules, grams) of each stage that has runs."""
    made = []
    for stage in STAGES:
        runs = model.of([stage])
        if runs:
            energy = added([run.energy_joules for run in runs])
            made.append((stage, len(runs), energy, added([run.emissions_grams for run in runs])))
    return made
