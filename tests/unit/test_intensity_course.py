"""Emissions are the sum over time of energy x intensity: exact at the slots' edges, whatever the run's clock does."""

from __future__ import annotations

import json
import math
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.accounting import assumptions, hourly, totals
from greenml.analysis import record_search
from greenml.analysis.what_if import what_if
from greenml.errors import FactorError, SettingsError
from greenml.factors.types import IntensitySeries, IntensitySlot, Source
from greenml.record.schema import (
    DeviceRecord,
    Factors,
    IntensitySlotRecord,
    PhaseRecord,
    PlaceRecord,
    RunRecord,
    Series,
    Timeline,
    Usage,
)
from greenml.reports import _parts, csv, latex, markdown, terminal
from greenml.run import assembly, compaction, finish
from greenml.settings import Settings
from greenml.trace import file as trace_file
from greenml.trace import lines as trace_lines
from greenml.trace import trace_paths
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup
from greenml.units import JOULES_PER_KWH

MIDNIGHT = datetime(2026, 3, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
SOURCE = Source("a grid", "https://example.org", "2026-03-02")
CPU = Device("cpu", "package-0", "CPU", "counter", "rapl", calibration_ratio=0.05)
GPU = Device("gpu", "GPU-1", "GPU", "counter", "nvml", calibration_ratio=0.05, power_limit_watts=5000.0)


def swing(hour: int) -> float:
    """50 g/kWh at two in the afternoon, 500 at two at night."""
    return 275.0 + 225.0 * math.cos(2 * math.pi * (hour - 2) / 24)


def power(hour: int) -> float:
    """Ten times as much in the clean hours."""
    return 3000.0 if 10 <= hour < 18 else 300.0


def course(*grams: float, start: datetime = MIDNIGHT, step: timedelta = HOUR, **more: object) -> IntensitySeries:
    slots = tuple(IntensitySlot(start + at * step, start + (at + 1) * step, g) for at, g in enumerate(grams))
    fields = {"provider": "scripted", "signal": "average", "area": "ZZ", "source": SOURCE, **more}
    return IntensitySeries(slots=slots, **fields)  # type: ignore[arg-type]


def run_dir(folder: Path, watts, seconds: int, *, begun: datetime = MIDNIGHT, attempt: int = 1, step: int = 60,
            phases=(), answers=(), **settings: object) -> Path:  # fmt: skip
    """Write a trace as a run would, with a clock of its own: ``watts`` of seconds since its start, on two devices."""
    made = folder / "run.trace"
    made.mkdir(exist_ok=True, parents=True)
    zero = 5000.0 * attempt  # every host boots at another time
    header = {
        "run_id": "r", "host": "h", "boot_id": str(attempt), "pid": attempt, "attempt": attempt, "start_seconds": zero,
        "unix_seconds": begun.timestamp(),
        "settings": {"region": "SWE", "pue": 1.2, **settings,
                     "known_from": dict.fromkeys(["region", "pue", *settings], "argument")},
    }  # fmt: skip
    writer = TraceWriter(made / f"{attempt}-h-{attempt}-a.jsonl", header)
    for key, device in enumerate((CPU, GPU)):
        writer.write(trace_lines.device_line(str(key), device))
    for answer in answers:
        writer.write({"t": zero, **trace_lines.intensity_line(answer)})
    edges = sorted(edge for span in phases for edge in span[1:])
    joules = [0.0, 0.0]
    times = sorted({*range(0, seconds + 1, step), *edges})
    before = 0
    for now in times:
        for at, share in enumerate((0.25, 0.75)):
            joules[at] += watts(before) * (now - before) * share
        for number, (name, start, end) in enumerate(phases):
            if now == start:
                writer.write({"phase": name, "begin": number, "t": zero + now})
            if now == end:
                writer.write({"end": number, "t": zero + now})
        samples = {str(at): Rollup(zero + before, zero + now, joules[at]) for at in range(2)}
        writer.write(trace_lines.sample_line(zero + now, samples, edge=now in edges))
        before = now
    writer.write({"status": "completed", "error": None, "t": zero + seconds})
    writer.close()
    return made


def total(record: RunRecord, scope: str = "run") -> float:
    found = record.total(scope)
    assert found is not None
    assert found.emissions_grams.value is not None
    return found.emissions_grams.value


def recomputed(record: RunRecord, scope: str) -> float:
    """The emissions of a scope from the record's other fields alone: energy x PUE x intensity, slot by slot."""
    found, pue = record.factors.intensity_series, record.factors.pue
    assert found is not None
    assert pue is not None
    grams = sum(slot.it_energy_joules.get(scope, 0.0) * slot.grams_per_kwh for slot in found.slots)
    grams += found.scopes[scope].uncovered_joules * (found.filled_grams_per_kwh or 0.0)
    return grams * pue.value / JOULES_PER_KWH


def test_a_day_of_swinging_intensity(tmp_path: Path):
    """Show 3: what the energy met, hour by hour, and not its mean; and the reports say what the difference is."""
    grams = [swing(hour) for hour in range(24)]
    assert (min(grams), max(grams)) == (pytest.approx(50), pytest.approx(500))
    made = run_dir(
        tmp_path, lambda t: power(t // 3600), 86_400, phases=[("train", 36_000, 64_800), ("eval", 64_800, 70_000)],
        answers=[course(*grams)], intensity="electricity_maps",
    )  # fmt: skip
    record = finish.make(made)
    exact = 1.2 * sum(power(hour) * 3600 / JOULES_PER_KWH * swing(hour) for hour in range(24))
    assert total(record) == pytest.approx(exact, rel=1e-9)
    train = 1.2 * sum(3.0 * swing(hour) for hour in range(10, 18))
    assert total(record, "train") == pytest.approx(train, rel=1e-9)
    evaluated = 1.2 * 0.3 * (swing(18) + swing(19) * 1600 / 3600)
    assert total(record, "eval") == pytest.approx(evaluated, rel=1e-9)
    for scope in ("run", "train", "eval"):
        assert total(record, scope) == pytest.approx(recomputed(record, scope), rel=1e-12)

    found, factor = record.factors.intensity_series, record.factors.carbon_intensity
    assert found is not None
    assert factor is not None
    kwh = 8 * 3.0 + 16 * 0.3
    assert (found.low_grams_per_kwh, found.high_grams_per_kwh) == (pytest.approx(50), pytest.approx(500))
    assert found.time_mean_grams_per_kwh == pytest.approx(275, rel=1e-9), "of a whole turn of a cosine"
    assert factor.value == pytest.approx(exact / 1.2 / kwh, rel=1e-9)
    assert found.energy_from == "curves"
    assert [note.code for note in record.notes if "intensity" in note.code] == [], "every hour is covered"

    even = _parts.even_grams(record)
    assert even == pytest.approx(1.2 * kwh * 275, rel=1e-9)
    shown = terminal.render(record, width=1000)
    line = next(line for line in shown.splitlines() if "plain mean 275 g CO2e/kWh" in line)
    told = re.search(r"would have emitted ([\d.]+) kg CO2e, ([\d.]+) kg CO2e more", line)
    assert told is not None
    assert float(told[1]) == pytest.approx(even / 1000, rel=1e-3)
    assert float(told[2]) == pytest.approx((even - exact) / 1000, rel=1e-3), "the difference is what is shown"
    assert even / exact > 2, "and it is not small"
    card = markdown.render(record)
    assert line.split("- ", 1)[1].strip() in card
    assert f"Carbon intensity: {train / 1.2 / 24:.2f} g CO2e/kWh" in card, "the card's table is of the phase train"


def test_slots_cut_the_energy_between_two_readings(tmp_path: Path):
    """Half hours that begin in the middle of a reading's minute; the run's first 7.5 minutes are in none."""
    start = MIDNIGHT + timedelta(minutes=7, seconds=30)
    answer = course(100, 300, 200, start=start, step=timedelta(minutes=30))
    record = finish.make(run_dir(tmp_path, lambda _: 3600.0, 5400, answers=[answer], intensity="uk_grid"))
    found = record.factors.intensity_series
    assert found is not None
    in_slots = [slot.it_energy_joules["run"] for slot in found.slots]
    assert in_slots == pytest.approx([1800 * 3600.0, 1800 * 3600.0, 1350 * 3600.0], rel=1e-9)
    assert found.scopes["run"].uncovered_joules == pytest.approx(450 * 3600.0, rel=1e-9)
    fill = found.filled_grams_per_kwh
    assert fill == yearly(record), "the hours outside take the yearly figure of the place"
    assert total(record) == pytest.approx(1.2 * (1.8 * 100 + 1.8 * 300 + 1.35 * 200 + 0.45 * fill), rel=1e-9)
    assert total(record) == pytest.approx(recomputed(record, "run"), rel=1e-12)
    note = next(note.text for note in record.notes if note.code == "intensity-uncovered")
    assert note == (
        f"scripted has no carbon intensity for 8.3% of the energy (0.45 kWh); those hours take the yearly figure of "
        f"the tables (direct), {fill:.4g} g/kWh"
    )


def yearly(record: RunRecord) -> float:
    factor = assumptions.current_factors(Settings(region=record.place.country_iso3)).carbon_intensity
    assert factor is not None
    assert factor.scope == "country"
    return factor.value


def test_attempts_lie_where_they_were(tmp_path: Path):
    """The second attempt ran two days later: its energy meets the intensity of then, not that of the run's clock."""
    later = MIDNIGHT + 49 * HOUR
    run_dir(tmp_path, lambda _: 1000.0, 3600, answers=[course(100)], intensity="uk_grid")
    made = run_dir(
        tmp_path, lambda _: 2000.0, 1800, begun=later, attempt=2, phases=[("train", 600, 1200)], intensity="uk_grid",
        answers=[course(400, start=MIDNIGHT + 49 * HOUR)],
    )  # fmt: skip
    record = finish.make(made)
    assert record.duration_seconds == 5400
    assert total(record) == pytest.approx(1.2 * (1.0 * 100 + 1.0 * 400), rel=1e-9)
    assert total(record, "train") == pytest.approx(1.2 * 400 / 3, rel=1e-9)
    found = record.factors.intensity_series
    assert found is not None
    assert [slot.start for slot in found.slots] == [MIDNIGHT, later], "slots that the run was not in are left out"
    assert found.time_mean_grams_per_kwh == pytest.approx((3600 * 100 + 1800 * 400) / 5400)


@given(
    grams=st.lists(st.floats(0, 1500), min_size=1, max_size=8),
    step=st.integers(97, 5000),
    shift=st.integers(-9000, 9000),
    watts=st.lists(st.integers(1, 5000), min_size=3, max_size=3),
)
def test_nothing_is_lost_and_nothing_is_counted_twice(tmp_path_factory, grams, step, shift, watts):
    answer = course(*grams, start=MIDNIGHT + timedelta(seconds=shift), step=timedelta(seconds=step))
    made = run_dir(
        tmp_path_factory.mktemp("run"), lambda t: watts[int(t // 600) % 3], 3000, answers=[answer], step=100,
        phases=[("a", 500, 1700), ("b", 1700, 1900), ("a", 2000, 2050)],
    )  # fmt: skip
    record = finish.make(made)
    found = record.factors.intensity_series
    inside = shift < 3000 and shift + step * len(grams) > 0
    assert (found is not None) == inside
    if found is None:
        return
    fill = found.filled_grams_per_kwh or 0.0

    def exact(*spans: tuple[int, int]) -> float:
        made = 0.0
        for start, end in spans:
            for second in range(start, end):
                at = (second - shift) // step
                made += watts[second // 600 % 3] * (grams[at] if 0 <= at < len(grams) else fill)
        return 1.2 * made / JOULES_PER_KWH

    for scope, spans in (("run", [(0, 3000)]), ("a", [(500, 1700), (2000, 2050)]), ("b", [(1700, 1900)])):
        assert total(record, scope) == pytest.approx(exact(*spans), rel=1e-9, abs=1e-9)
        own = found.scopes[scope]
        used = record.total(scope)
        assert used is not None
        assert own.covered_joules + own.uncovered_joules == pytest.approx(used.it_energy_joules.value, rel=1e-9)
        assert sum(slot.it_energy_joules.get(scope, 0.0) for slot in found.slots) == pytest.approx(own.covered_joules)
    seconds = found.covered_seconds + found.uncovered_seconds
    assert seconds == pytest.approx(3000)


def test_a_later_answer_replaces_an_earlier_one_and_others_are_not_mixed_in(tmp_path: Path):
    forecast = course(100, 200, 300, uncertainty_ratio=0.2, note="forecast")
    actual = course(150, uncertainty_ratio=0.1)
    stranger = course(999, 999, 999, provider="other")
    marginal = course(999, 999, 999, signal="marginal")
    made = hourly.joined_series([stranger, forecast, marginal, actual])
    assert made is not None
    assert [slot.grams_per_kwh for slot in made.slots] == [150, 200, 300]
    assert (made.provider, made.signal, made.note) == ("scripted", "average", "forecast")
    assert made.uncertainty_ratio == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert hourly.joined_series([]) is None
    shifted = course(700, start=MIDNIGHT + timedelta(minutes=30))
    cut = hourly.joined_series([forecast, shifted])
    assert cut is not None
    assert [(slot.end - slot.start).seconds for slot in cut.slots] == [1800, 1800, 3600, 3600], "no overlap is left"


def test_marginal_and_average_are_never_mixed(tmp_path: Path):
    answer = course(800, 600, signal="marginal", provider="watttime", uncertainty_ratio=0.3)
    made = run_dir(tmp_path, lambda _: 1000.0, 10_800, answers=[answer], intensity="watttime")
    record = finish.make(made)
    found, factor = record.factors.intensity_series, record.factors.carbon_intensity
    assert found is not None
    assert factor is not None
    assert found.filled_grams_per_kwh == pytest.approx(700), "the third hour takes the series' own mean"
    assert total(record) == pytest.approx(1.2 * (800 + 600 + 700), rel=1e-9)
    assert (factor.basis, factor.scope, factor.code) == ("marginal", "series", "watttime ZZ")
    assert factor.low == pytest.approx((1400 + 600) * 0.7 / 3), "what was not told is no surer than what was"
    assert factor.high == pytest.approx((1400 + 800) * 1.3 / 3)
    codes = {note.code: note.text for note in record.notes}
    assert codes["intensity-marginal"].startswith("emissions are marginal")
    assert "the series' own mean, 700 g/kWh" in codes["intensity-uncovered"]
    for text in (terminal.render(record, width=400), markdown.render(record)):
        assert "emissions are marginal" in text
        assert "over time: marginal" in text
    assert "Emissions, marginal" in terminal.render(record)
    assert "Emissions, marginal" in latex.render(record)
    assert next(row for row in csv.render(record).splitlines() if ",run,10800.0,total,,facility," in row).count(
        "emissions are marginal"
    ) == 1  # fmt: skip
    average = finish.make(run_dir(tmp_path / "other", lambda _: 1000.0, 3600, answers=[course(100)]))
    for text in (terminal.render(average), latex.render(average), csv.render(average), markdown.render(average)):
        assert "marginal" not in text


def test_a_what_if_ranks_a_marginal_run_by_averages_alone(tmp_path: Path):
    answer = course(800, 600, signal="marginal", provider="watttime")
    record = finish.make(
        run_dir(tmp_path, lambda _: 500.0, 7200, answers=[answer], intensity="watttime", region="azure/westus2")
    )
    assert record.factors.marginal
    found = what_if(record, ("regions",))
    assert not any(region.factors.marginal for region in (found.run, *found.regions))
    assert found.run.factors.carbon_intensity.scope != "series"
    assert any("marginal" in text for text in found.left_out)


def test_an_intensity_that_never_came_is_said(tmp_path: Path):
    record = finish.make(run_dir(tmp_path, lambda _: 1000.0, 3600, intensity="uk_grid"))
    assert record.factors.intensity_series is None
    assert total(record) == pytest.approx(1.2 * yearly(record))
    note = next(note for note in record.notes if note.code == "intensity-missing")
    assert "uk_grid" in note.text
    assert "yearly figure" in note.text


def test_a_killed_run_keeps_its_answers_and_so_does_a_compacted_one(tmp_path: Path):
    answers = [course(100, 200, note="forecast"), course(150), course(250, start=MIDNIGHT + HOUR), course(101, 200)]
    made = run_dir(tmp_path, lambda _: 1000.0, 7200, answers=answers, step=1)
    path = next(iter(trace_paths(made)))
    before = finish.make(made)
    found = before.factors.intensity_series
    assert found is not None
    assert [slot.grams_per_kwh for slot in found.slots] == [101, 200]

    lines = trace_file.read_lines(path)
    path.unlink()
    writer = TraceWriter(path, {name: value for name, value in lines[0].items() if name != "greenml_trace"})
    for line in lines[1:-1]:  # without the last: killed
        writer.write(line)
    compaction.compact(writer, limit_bytes=writer.size_bytes // 4)
    writer.close()
    left = [line for line in trace_file.read_lines(path) if "intensity" in line]
    assert sum(len(line["slots"]) for line in left) == 2, "each slot's last answer is kept, and no other"
    os.utime(path, (1e9, 1e9))  # what is fresh may still live
    after = finish.make(made)
    assert after.status == "killed"
    assert total(after) == pytest.approx(total(before), rel=1e-6)


def test_an_older_reader_passes_over_the_line(tmp_path: Path):
    """What a reader does with a line that it does not know: its time counts, the rest is left."""
    made = run_dir(tmp_path, lambda _: 1000.0, 60, answers=[course(100)])
    path = next(iter(trace_paths(made)))
    renamed = path.read_text().replace('"intensity":', '"unheard_of":')
    path.write_text(renamed)
    read = trace_file.read(path)
    assert (read.intensities, read.status, len(read.rollups)) == ([], "completed", 2)


def test_accounted_again_the_course_stays_or_goes_with_its_place(tmp_path: Path):
    made = run_dir(tmp_path, lambda _: 1000.0, 7200, answers=[course(100, 300)])
    record = finish.make(made)
    assert total(record) == pytest.approx(1.2 * 400)
    hotter = assumptions.reaccount(record, pue=1.5)
    assert total(hotter) == pytest.approx(1.5 * 400)
    assert hotter.factors.intensity_series == record.factors.intensity_series
    for changes in ({"region": "POL"}, {"carbon_intensity": 42.0}):
        moved = assumptions.reaccount(record, **changes)
        assert moved.factors.intensity_series is None
        assert moved.factors.carbon_intensity is not None
        assert moved.factors.carbon_intensity.scope in ("country", "given")
    assert total(assumptions.reaccount(record, carbon_intensity=42.0)) == pytest.approx(1.2 * 2 * 42)


def csv_of(folder: Path, *grams: float) -> Path:
    path = folder / "grid.csv"
    rows = [f"{(MIDNIGHT + at * HOUR).isoformat()},{g}" for at, g in enumerate(grams)]
    path.write_text("time,g_per_kwh\n" + "\n".join(rows) + "\n")
    return path


def test_a_phase_of_which_the_record_keeps_but_the_first_stretches_is_not_put_into_their_hours():
    """600 stretches over 20 hours, of which 200 are kept: they lie in the clean hours, the phase does not."""
    usage = Usage(energy_joules=3.6e6)
    device = DeviceRecord(id="GPU-0", kind="gpu", name="V100", host="n", method="counter", sensor="nvml", usage=usage)
    spans = [(120.0 * n, 120.0 * n + 60) for n in range(200)]
    train = PhaseRecord(path="train", count=600, seconds=36_000.0, spans=spans, usage={"GPU-0": usage})
    start = datetime(2026, 3, 1, tzinfo=timezone.utc)
    record = RunRecord(
        greenml_version="0", run_id="r", status="completed", started=start, ended=start + timedelta(hours=20),
        duration_seconds=72_000.0, place=PlaceRecord(), devices=[device], phases=[train], factors=Factors(),
        timeline=Timeline(step_seconds=3600, bins=20, series=[Series(device="GPU-0", power_watts=[50.0] * 20)]),
    )  # fmt: skip
    slots = tuple(
        IntensitySlot(start + timedelta(hours=n), start + timedelta(hours=n + 1), 100.0 if n < 10 else 500.0)
        for n in range(20)
    )
    made = hourly.from_record(record, IntensitySeries("own", "average", "here", slots, Source("mine")))
    assert made is not None
    joules = [slot.it_energy_joules["train"] for slot in made.slots]
    mean = sum(joule * slot.grams_per_kwh for joule, slot in zip(joules, made.slots, strict=True)) / sum(joules)
    assert mean == pytest.approx(300.0)


def test_afterwards_the_traces_tell_the_hours_and_without_them_the_timeline(tmp_path: Path):
    made = run_dir(tmp_path, lambda t: 3000.0 if t < 3610 else 500.0, 7200, step=10, phases=[("train", 0, 3610)])
    output = tmp_path / "run.json"
    record = finish.finish(made, output)
    given = csv_of(tmp_path, 100, 400)
    exact = 1.2 * (3.0 * 100 + (3000 * 10 + 500 * 3590) / JOULES_PER_KWH * 400)
    by_trace = finish.with_intensity(record, output, str(given))
    assert total(by_trace) == pytest.approx(exact, rel=1e-9)
    assert total(by_trace, "train") == pytest.approx(1.2 * (3.0 * 100 + 3000 * 10 / JOULES_PER_KWH * 400), rel=1e-9)
    factor = by_trace.factors.carbon_intensity
    assert factor is not None
    assert (factor.code, factor.low, factor.high) == ("grid.csv", factor.value, factor.value), "of the user: no doubt"
    assert finish.with_intensity(record, made, str(given)).totals == by_trace.totals
    again = finish.with_intensity(by_trace, output, str(given))
    assert again.totals == by_trace.totals, "once more is the same"

    for path in trace_paths(made):
        path.unlink()
    assert record.timeline is not None
    assert record.timeline.step_seconds == 15
    by_timeline = finish.with_intensity(record, output, str(given))
    assert total(by_timeline) != pytest.approx(exact, rel=1e-9), "10 s of the train phase fell into a bin of 15 s"
    assert total(by_timeline) == pytest.approx(exact, rel=0.005)
    note = next(note.text for note in by_timeline.notes if note.code == "intensity-resolution")
    assert "timeline" in note
    bare = record.model_copy(update={"timeline": None})
    evenly = finish.with_intensity(bare, output, str(given))
    kwh = 3.0 + (3000 * 10 + 500 * 3590) / JOULES_PER_KWH
    assert total(evenly) == pytest.approx(1.2 * kwh * 250, rel=1e-9)
    assert "evenly" in next(note.text for note in evenly.notes if note.code == "intensity-resolution")


def test_a_course_of_another_time_is_one_line(tmp_path: Path):
    made = run_dir(tmp_path, lambda _: 1000.0, 7200, begun=MIDNIGHT + 1000 * HOUR)
    output = tmp_path / "run.json"
    record = finish.finish(made, output)
    with pytest.raises(FactorError) as error:
        finish.with_intensity(record, output, str(csv_of(tmp_path, 100, 400)))
    assert "covers 2026-03-01 00:00 to 2026-03-01 02:00 UTC" in str(error.value)
    assert "\n" not in str(error.value)


def test_many_slots_are_joined_and_the_sums_stay(tmp_path: Path):
    """A week and more of five minutes is more than a record holds; the run's sum and each phase's mean stay exact."""
    count = 2 * hourly.MOST_SLOTS + 3
    slots = [
        IntensitySlotRecord(
            start=MIDNIGHT + at * timedelta(minutes=5), end=MIDNIGHT + (at + 1) * timedelta(minutes=5),
            grams_per_kwh=100 + at * 7919 % 389, it_energy_joules={"run": 1000.0 + at * 31 % 97} if at % 11 else {},
        )
        for at in range(count)
    ]  # fmt: skip
    kept = hourly.merged(slots, hourly.MOST_SLOTS)
    assert len(kept) <= hourly.MOST_SLOTS
    assert (kept[0].start, kept[-1].end) == (slots[0].start, slots[-1].end)

    def product(those: list[IntensitySlotRecord]) -> float:
        return sum(one.grams_per_kwh * one.it_energy_joules.get("run", 0.0) for one in those)

    assert product(kept) == pytest.approx(product(slots), rel=1e-12)
    same = hourly.merged([slots[0], slots[0].model_copy(update={"start": slots[0].end, "end": slots[1].end})], 9)
    assert len(same) == 1, "neighbours that are equal are one, whatever the bound"
    apart = hourly.merged([slots[0], slots[0].model_copy(update={"start": slots[5].start})], 9)
    assert len(apart) == 2, "but not across a gap"


def test_the_band_is_the_sources_doubt_and_not_the_range_over_time(tmp_path: Path):
    made = run_dir(tmp_path, lambda _: 1000.0, 7200, answers=[course(50, 500, uncertainty_ratio=0.1)])
    factor = finish.make(made).factors.carbon_intensity
    assert factor is not None
    assert (factor.value, factor.low, factor.high) == pytest.approx((275, 247.5, 302.5))


def test_a_figure_and_a_provider_are_not_both_given():
    with pytest.raises(SettingsError, match="both given"):
        assumptions.check(Settings(carbon_intensity=100.0, intensity="uk_grid"))
    with pytest.raises(SettingsError, match="did you mean 'uk_grid'"):
        assumptions.check(Settings(intensity="uk-gird"))
    with pytest.raises(SettingsError, match="no such file"):
        assumptions.check(Settings(intensity="nowhere/grid.csv"))


def test_a_factor_of_its_own_hides_the_course(tmp_path: Path):
    """Whoever accounts a record with another intensity must not get the course's."""
    made = run_dir(tmp_path, lambda _: 1000.0, 3600, answers=[course(100)])
    factors = finish.make(made).factors
    assert factors.carbon_intensity is not None
    other = factors.carbon_intensity.model_copy(update={"value": 7.0, "scope": "given"})
    changed = factors.model_copy(update={"carbon_intensity": other})
    assert totals.intensity("run", changed) == other
    assert totals.intensity("run", factors) == factors.carbon_intensity


def test_a_record_with_a_course_comes_back(tmp_path: Path):
    made = run_dir(tmp_path, lambda _: 1000.0, 7200, answers=[course(100, 300)])
    record = finish.finish(made, tmp_path / "run.json")
    assert record_search.open_record(tmp_path / "run.json") == record
    content = json.loads((tmp_path / "run.json").read_text())
    first = content["factors"]["intensity_series"]["slots"][0]
    assert first["start"] == "2026-03-01T00:00:00Z"
    assert first["it_energy_joules"]["run"] == pytest.approx(3.6e6)
    measured, _ = assembly.assemble(made)
    kept = measured.factors.intensity_series
    assert kept is not None
    assert kept.scopes["run"].grams_per_kwh is None, "what is assumed of the other hours is not measured"


def test_each_scope_has_the_band_of_its_own_hours(tmp_path: Path):
    """The first hour is known to 40 %, the second takes the yearly figure; a phase in one has nothing of the other."""
    made = run_dir(
        tmp_path, lambda _: 1000.0, 7200, answers=[course(500, uncertainty_ratio=0.4)],
        phases=[("train", 0, 3600), ("eval", 3600, 7200)],
    )  # fmt: skip
    record = finish.make(made)
    table = assumptions.current_factors(Settings(region="SWE")).carbon_intensity
    run, train, evaluated = (record.factors.intensity(scope) for scope in ("run", "train", "eval"))
    assert None not in (table, run, train, evaluated)
    assert (train.value, train.low, train.high) == pytest.approx((500, 300, 700))
    assert (evaluated.value, evaluated.low, evaluated.high) == pytest.approx((table.value, table.low, table.high))
    assert (run.low, run.high) == pytest.approx(((300 + table.low) / 2, (700 + table.high) / 2))
    of_eval = record.total("eval").emissions_grams
    assert of_eval.high / of_eval.value >= table.high / table.value * (1 - 1e-9), "and so have its emissions"


def test_an_imported_run_is_spread_over_its_window_and_not_over_the_end_of_it(tmp_path: Path):
    """It took half of its window; when in it is not known, so both hours count alike."""
    record = finish.make(run_dir(tmp_path, lambda _: 1000.0, 3600))
    bare = record.model_copy(
        update={"attempts": [], "timeline": None, "phases": [], "started": MIDNIGHT, "ended": MIDNIGHT + 2 * HOUR}
    )
    elsewhere = tmp_path / "else"
    elsewhere.mkdir()
    made = finish.with_intensity(bare, elsewhere / "run.json", str(csv_of(tmp_path, 100, 400)))
    assert made.duration_seconds == 3600
    assert total(made) == pytest.approx(1.2 * 250, rel=1e-9)
    found = made.factors.intensity_series
    assert found is not None
    assert (found.energy_from, found.uncovered_seconds) == ("even", 0)
    assert found.scopes["run"].covered_joules == pytest.approx(3.6e6, rel=1e-9)
