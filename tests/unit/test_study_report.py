"""The report of a study whose records are scripted: effects that are known, runs that failed, what it all took."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_study import VARIANTS, Scripted, record, study

from greenml import SettingsError
from greenml.accounting import assumptions
from greenml.analysis.statistics import Effect
from greenml.analysis.study import expectation, report, report_page, results
from greenml.analysis.study import tables as study_tables
from greenml.analysis.study.folder import Cell, load
from greenml.analysis.study.tables import Table, blocks
from greenml.cli import main
from greenml.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("made") / "study")


@pytest.fixture(scope="module")
def made(folder: Path) -> report.StudyReport:
    return report.build(load(folder))


def table(made: report.StudyReport, key: str) -> dict[str, dict[str, object]]:
    """Return a table's rows by their first column, each by the column's key."""
    rows = list(
        csv.DictReader(io.StringIO(study_tables.csv_table(next(entry for entry in made.tables if entry.key == key))))
    )
    return {next(iter(row.values())): row for row in rows}


def test_benchmark_has_the_mean_and_the_spread_of_the_records(made: report.StudyReport) -> None:
    rows = table(made, "benchmark")
    seconds = [run.duration_seconds for run in made.result("fp16").records.values()]
    mean = sum(seconds) / 5
    assert float(rows["fp16"]["duration_seconds"]) == pytest.approx(mean)
    spread = (sum((value - mean) ** 2 for value in seconds) / 4) ** 0.5
    assert float(rows["fp16"]["duration_seconds_spread"]) == pytest.approx(spread)
    assert float(rows["fp16"]["energy_joules"]) == pytest.approx(280.0 * mean)
    assert float(rows["fp16"]["power_mean_watts"]) == pytest.approx(280.0)
    grams = 280.0 * mean / 3.6e6 * 1.2 * 300.0
    assert float(rows["fp16"]["emissions_grams"]) == pytest.approx(grams)
    assert float(rows["fp16"]["emissions_pounds"]) == pytest.approx(grams / 453.59237)
    assert float(rows["fp16"]["cost_dedicated_usd"]) == pytest.approx(mean / 100)
    assert (rows["fp16"]["flops"], rows["fp16"]["disk_written_bytes"]) == ("2000000000000000.0", "3000000000.0")


def test_what_failed_has_no_figures_and_is_not_left_out(made: report.StudyReport) -> None:
    rows = table(made, "benchmark")
    assert (rows["big"]["seeds"], rows["big"]["seeds_planned"], rows["big"]["duration_seconds"]) == ("0", "5", "")
    assert made.result("big").outcome() == "0 of 5: out of memory"
    assert "big" not in {name for names in made.fronts.values() for name in names}


def test_known_effects_are_told_apart_and_none_is_not(made: report.StudyReport) -> None:
    energy = {name: of_variant["energy_joules"] for name, of_variant in made.differences.items() if of_variant}
    assert {name: entry.verdict for name, entry in energy.items()} == {
        "fp16": "apart", "bf16": "apart", "same": "seeds", "early": "apart", "flaky": "seeds",
    }  # fmt: skip
    fp16 = energy["fp16"]
    truth = 0.6 * 280 / 300 - 1
    assert fp16.effect.low < truth < fp16.effect.high
    assert (fp16.effect.method, fp16.effect.count) == ("paired", 5)
    assert fp16.instrument is None  # on the same GPU calibration cancels, and leaves nothing open
    rouge = made.differences["bf16"]["metrics.predict_rouge1"].effect
    assert not rouge.relative  # in points
    assert rouge.change == pytest.approx(1.0, abs=0.4)


def test_other_gpus_share_no_calibration(tmp_path: Path) -> None:
    """The same 5 % on another GPU may come of its sensor: it is not told apart, whatever the seeds say."""
    path = study(tmp_path / "study", {"fp32": Scripted(), "other": Scripted(watts=285.0)}, spread=1e-4)
    loaded = load(path)
    assert report.build(loaded).differences["other"]["energy_joules"].verdict == "apart"
    for cell in loaded.of_variant("other"):
        text = (cell.folder / "run.json").read_text()
        (cell.folder / "run.json").write_text(text.replace("GPU-00000001", "GPU-00000002"))
    difference = report.build(load(path)).differences["other"]["energy_joules"]
    assert difference.verdict == "instrument"
    assert difference.effect.high < 0  # the seeds alone would tell them apart
    assert difference.instrument[0] < -0.05 < 0 < difference.instrument[1]


def test_one_seed_is_not_judged(tmp_path: Path) -> None:
    made = report.build(load(study(tmp_path / "study", {"a": Scripted(), "b": Scripted(seconds=500.0)}, seeds=1)))
    difference = made.differences["b"]["duration_seconds"]
    assert (difference.verdict, difference.effect.low) == ("single", None)
    assert "one seed: not judged" in study_tables.markdown(made.title, made.lead, made.tables)


def test_to_a_target_counts_until_the_first_evaluation_that_meets_it(folder: Path) -> None:
    made = report.build(load(folder), target=39.0)
    took = made.target.by_variant["fp32"]
    run = made.result("fp32").records[1]
    assert made.target.metric == "eval_rouge1"  # that of the test split came at the end
    assert took[1].seconds == pytest.approx(run.duration_seconds / 2)
    assert took[1].energy_joules == pytest.approx(run.duration_seconds / 2 * 300.0)
    assert took[1].cost_usd["dedicated"] == pytest.approx(run.duration_seconds / 200)
    assert made.target.by_variant["early"] == {}
    rows = table(made, "target")
    assert (rows["early"]["reached"], rows["early"]["seconds"]) == ("0", "")
    assert rows["fp32"]["reached"] == "5"


def test_energy_to_a_time_follows_the_timeline() -> None:
    run = record(Scripted(seconds=100.0))
    steep = run.timeline.model_copy(
        update={"series": [run.timeline.series[0].model_copy(update={"power_watts": [100.0] * 50 + [300.0] * 50})]}
    )
    assert results.energy_ratio(run.model_copy(update={"timeline": steep}), 50.5) == pytest.approx(5150 / 20000)
    assert results.energy_ratio(run.model_copy(update={"timeline": None}), 25.0) == 0.25
    # The last bin of a short run is wider than what is left of the run.
    short = record(Scripted(seconds=2.1))
    series = [short.timeline.series[0].model_copy(update={"power_watts": [100.0, 100.0, 300.0]})]
    timeline = short.timeline.model_copy(update={"step_seconds": 1.0, "bins": 3, "series": series})
    short = short.model_copy(update={"timeline": timeline})
    assert results.energy_ratio(short, 2.1) == pytest.approx(1.0)
    assert results.energy_ratio(short, 1.0) == pytest.approx(100 / 230)


def test_every_run_is_counted_with_what_it_took(folder: Path, made: report.StudyReport) -> None:
    loaded = load(folder)
    rows = table(made, "counted")
    assert {name: int(row["runs"]) for name, row in rows.items()} == {
        "Completed": 25, "Completed, stopped early": 5, "Out of memory": 5, "Earlier attempts, run again": 5,
        "All runs of the study": 40,
    }  # fmt: skip
    joules = sum(attempt.record.total().it_energy_joules.value for attempt in loaded.attempts)
    assert float(rows["All runs of the study"]["energy_joules"]) == pytest.approx(joules)
    parts = [float(row["energy_joules"]) for name, row in rows.items() if name != "All runs of the study"]
    assert sum(parts) == pytest.approx(joules)
    assert made.winner.cell.variant.name == "bf16"
    own = made.winner.cell.record.total().it_energy_joules.value
    assert made.winner.times == pytest.approx(joules / own)
    assert f"{joules / own:.3g} times" in made.winner.text


def test_cells_beside_each_other_share_what_is_the_machines() -> None:
    run = record(Scripted())
    half = results.with_share(run, 0.5)
    assert half.total().it_energy_joules.value == run.total().it_energy_joules.value  # a GPU is a cell's own
    assert half.total().cost_usd["dedicated"].value == run.total().cost_usd["dedicated"].value / 2
    assert results.with_share(run, 1.0) is run
    of_host = run.devices[0].model_copy(update={"kind": "cpu"})
    host = run.model_copy(update={"devices": [of_host], "trainer": {"counts": {"tokens": 50_000}}})
    whole = assumptions.account(host, assumptions.check(Settings()))
    shared = results.with_share(whole, 0.25)
    assert shared.derived["joules_per_token"] == pytest.approx(whole.derived["joules_per_token"] / 4)
    assert shared.timeline.series[0].power_watts[0] == whole.timeline.series[0].power_watts[0] / 4


def test_pareto_front_holds_what_nothing_beats(made: report.StudyReport) -> None:
    assert set(made.fronts["energy_joules"]) == {"early", "fp16", "bf16"}


def test_data_set_and_model_are_those_of_the_records(made: report.StudyReport) -> None:
    assert table(made, "dataset")["train"]["samples"] == "14732.0"
    assert table(made, "model")["facebook/bart-large"]["parameters"] == "406000000"
    assert table(made, "model")["facebook/bart-large"]["variants"] == "all"
    assert table(made, "environment")["torch"]["value"] == "2.13.0"


def test_the_command_writes_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["study", "report", str(folder)])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Trade-off against fp32" in shown
    assert "not told apart" in shown
    there = {path.name for path in (folder / "report").iterdir()}
    assert {"report.md", "report.html", "report.tex", "report.json", "benchmark.csv", "tradeoff.csv"} <= there
    content = json.loads((folder / "report" / "report.json").read_text())
    assert [row["variant"] for row in content["benchmark"]["rows"]] == list(VARIANTS)
    html = (folder / "report" / "report.html").read_text()
    assert html.count('class="plot"') >= 6
    assert "ROUGE-1 (test) against energy" in html


def test_latex_has_no_wide_table(made: report.StudyReport) -> None:
    text = study_tables.latex(made.tables)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > len(made.tables)
    for row in text.splitlines():
        assert row.count(" & ") < study_tables.LATEX_COLUMNS


def test_wide_tables_are_cut_without_loss(made: report.StudyReport) -> None:
    benchmark = next(entry for entry in made.tables if entry.key == "benchmark")
    parts = blocks(benchmark, 7)
    assert all(len(part.headings) <= 7 for part in parts)
    assert [heading for part in parts for heading in part.headings[1:]] == list(benchmark.headings[1:])
    assert all(part.rows[0][0] == benchmark.rows[0][0] for part in parts)


def test_the_winners_card_says_what_the_search_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(tmp_path / "study", {"a": Scripted(), "b": Scripted(rouge=45.0)}, seeds=2)
    for _ in range(2):  # twice equals once
        with pytest.raises(SystemExit):
            main(["study", "report", str(path), "--json", "--winner-card", str(tmp_path / "README.md")])
    card = (tmp_path / "README.md").read_text()
    assert card.count("The search cost") == 1
    assert "4 runs of 4 cells, failed ones included" in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--baseline", "fp61"], "did you mean 'fp16'?"),
        (["--metric", "rouge"], "no run has the metric 'rouge'"),
        (["--target", "nan"], "give a finite number"),
        (["--only", "bench"], "no such table; there are benchmark, tradeoff"),
        (["--higher-is-better", "--lower-is-better"], "give one"),
        (["--only", "benchmark", "--only", "tradeoff"], "--csv is of one table"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["study", "report", str(folder), "--csv", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_why_a_figure_is_not_known_is_that_of_a_run(tmp_path: Path) -> None:
    path = study(tmp_path / "study", {"a": Scripted(reason="out of memory"), "b": Scripted()}, seeds=1)
    remarks = tables(report.build(load(path)), "benchmark").remarks
    unknown = [line for line in remarks if line.startswith("Not known of any run")]
    assert unknown
    assert not any("out of memory" in line for line in unknown)


def test_a_study_in_which_nothing_completed_says_so(tmp_path: Path) -> None:
    path = study(
        tmp_path / "study", {"a": Scripted(reason="out of memory"), "b": Scripted(reason="exit code 1")}, seeds=2
    )
    made = report.build(load(path))
    assert made.quality is None
    assert made.winner is None
    text = study_tables.markdown(made.title, made.lead, made.tables)
    assert "0 of 2: out of memory" in text
    assert "0 of 2: exit code 1" in text
    assert report_page.render(made)


def test_the_study_files_own_quality_counts(tmp_path: Path) -> None:
    quality = {"metric": "eval_rouge1", "direction": "higher", "target": 39.5}
    made = report.build(load(study(tmp_path / "study", {"a": Scripted(), "b": Scripted()}, quality=quality)))
    assert made.quality.key == "metrics.eval_rouge1"
    assert (made.target.value, made.target.source) == (39.5, "the study file's")
    missing = {"metric": "predict_bleu"}
    made = report.build(load(study(tmp_path / "other", {"a": Scripted(), "b": Scripted()}, quality=missing)))
    assert any("predict_bleu" in line for line in made.lead)
    with pytest.raises(SettingsError):
        report.build(load(tmp_path / "other"), metric="predict_bleu")


def test_names_from_outside_do_no_harm(made: report.StudyReport) -> None:
    evil = "<script>alert(1)</script>|a_b"
    named = replace(made, title=evil, lead=(evil,))
    assert "<script>alert" not in report_page.render(named)
    assert "<script>" not in study_tables.markdown(evil, [evil], [])


def change(cell: Cell, **changes: object) -> None:
    """Change the last attempt in a cell's file."""
    path = cell.folder / "cell.json"
    content = json.loads(path.read_text())
    content["attempts"][-1] |= changes
    path.write_text(json.dumps(content))


def test_which_way_is_better_is_told_by_the_name(tmp_path: Path) -> None:
    variants = {"a": Scripted(), "b": Scripted(rouge=50.0)}
    path = study(tmp_path / "study", variants, quality={"metric": "predict_loss", "target": 1.9})
    made = report.build(load(path))
    assert (made.quality.column.better, made.winner.cell.variant.name) == ("lower", "b")
    assert {name: len(seeds) for name, seeds in made.target.by_variant.items()} == {"a": 0, "b": 5}
    # The study file's target is of its own metric.
    other = report.build(load(path), metric="eval_rouge1")
    assert other.target.source == "99 % of the baseline's mean"
    assert other.target.value == pytest.approx(40, rel=0.03)


def test_a_mean_says_of_how_many_runs_it_is(tmp_path: Path) -> None:
    path = study(tmp_path / "study", {"a": Scripted(), "b": Scripted()}, seeds=3)
    (cell,) = [cell for cell in load(path).of_variant("b") if cell.seed == 2]
    content = json.loads((cell.folder / "run.json").read_text())
    content["metrics"]["predict_rouge1"] = "nan"  # as a record has it
    (cell.folder / "run.json").write_text(json.dumps(content))
    made = report.build(load(path), metric="predict_rouge1")
    row = {entry.text: entry for entry in tables(made, "benchmark").rows[1]}
    assert sum("(2 of 3 runs)" in text for text in row) == 1
    assert table(made, "benchmark")["b"]["metrics.predict_rouge1_runs"] == "2"
    figure = made.measure("metrics.predict_rouge1").column.figure(load(path).of_variant("b")[1].record)
    assert figure.why == "predict_rouge1 is 'nan', no finite number"


def test_a_margin_to_a_metric_below_zero_is_below_it(tmp_path: Path) -> None:
    path = study(tmp_path / "study", {"a": Scripted(), "b": Scripted()}, seeds=2)
    for cell in load(path).cells:
        content = json.loads((cell.folder / "run.json").read_text())
        content["metrics"] = {"score_x": -200.0}
        (cell.folder / "run.json").write_text(json.dumps(content))
    unsure = report.build(load(path))
    assert (unsure.target, unsure.winner) == (None, None)
    assert any("which values of score_x are better" in line for line in unsure.lead)
    with pytest.raises(SettingsError, match="--target: say which way score_x is better"):
        report.build(load(path), target=3.0)
    made = report.build(load(path), metric="score_x", better="higher")
    assert made.target.value == pytest.approx(-202.0)
    assert len(made.target.by_variant["a"]) == 2


def test_what_is_not_known_is_no_zero_in_the_sums(tmp_path: Path) -> None:
    path = study(tmp_path / "study", {"a": Scripted(), "b": Scripted()}, seeds=2)
    first, second, third, fourth = load(path).cells
    change(first, state="running", ended=None, host="elsewhere", started=time.time() + 3600)
    (second.folder / "run.json").write_text("{")
    content = json.loads((third.folder / "run.json").read_text())
    for total in content["totals"]:
        total["cost_usd"]["spot"] = total["cost_usd"]["dedicated"]
    (third.folder / "run.json").write_text(json.dumps(content))
    change(second, state="failed", reason="exit code 1")
    made = report.build(load(path))
    rows = table(made, "counted")
    known = [cell.record.total().it_energy_joules.value for cell in (third, fourth)]
    for name in ("Running", "Failed"):
        assert [rows[name][key] for key in ("seconds", "energy_joules", "cost_dedicated_usd")] == ["", "", ""]
    assert float(rows["All runs of the study"]["energy_joules"]) == pytest.approx(sum(known))
    text = {row[0].text: [entry.text for entry in row] for row in tables(made, "counted").rows}
    assert text["All runs of the study"][3].startswith("at least ")
    assert text["Completed"][-1].startswith("at least $")  # one of the two has no price as spot
    assert not text["Completed"][3].startswith("at least")
    assert table(made, "cells")["b"]["energy_joules"] != "0"
    spent = load(path).spent
    assert (spent.recorded, spent.running, spent.unreadable) == (2, 1, 1)
    assert "at least" in made.winner.text


def test_attempts_that_add_up_in_one_record_are_no_zeros(tmp_path: Path) -> None:
    path = study(tmp_path / "study", {"a": Scripted(attempts=2)}, seeds=1)
    content = json.loads((path / "study.json").read_text())
    content["study"]["resume"] = True
    (path / "study.json").write_text(json.dumps(content))
    rows = table(report.build(load(path)), "counted")
    assert rows["Earlier attempts, run again"]["energy_joules"] == ""
    assert rows["All runs of the study"]["energy_joules"] == rows["Completed"]["energy_joules"] != ""


def tables(made: report.StudyReport, key: str) -> Table:
    return next(entry for entry in made.tables if entry.key == key)


def test_a_budget_whose_figure_no_run_tells_cannot_be_held(folder: Path) -> None:
    loaded = load(folder)
    plan = replace(loaded.plan, file=loaded.plan.file.model_copy(update={"max_usd": 1e6, "tier": "spot"}))
    spot = replace(loaded, plan=plan)
    says = "max_usd 1e+06 cannot be held: the cost of no run is known; give sku, region"
    assert expectation.not_held(spot, {}, 0).startswith(says)
    assert list(expectation.lower_bounds(spot)) == [
        "max_usd counts too little: the cost of 40 runs is not wholly known"
    ]
    assert expectation.not_held(spot, {}, spot.spent.recorded) == ""  # they may have had other settings
    assert expectation.not_held(spot, {"cost_usd": None}, spot.spent.recorded).startswith(says)
    held = replace(loaded, plan=replace(plan, file=plan.file.model_copy(update={"tier": None})))
    assert expectation.not_held(held, {}, 0) == ""
    assert list(expectation.lower_bounds(held)) == []
    # A record that is given goes before the file's guess, and after the variant's own cells.
    probe = load(folder).cells[0].record
    assert expectation.of_variants(held, probe)["big"].how == "as the record that was given"
    assert expectation.of_variants(held, probe)["fp32"].how == "mean of its 5 cells that completed"


def test_the_winners_card_has_its_share_of_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(tmp_path / "study", {"a": Scripted(), "b": Scripted(rouge=45.0)}, seeds=1, spread=0.0)
    for cell in load(path).cells:
        change(cell, started=1e9, ended=1e9 + 1000)
    for _ in range(2):  # what it leaves in the run's folder is not shared twice
        with pytest.raises(SystemExit):
            main(["study", "report", str(path), "--json", "--winner-card", str(tmp_path / "README.md")])
        card = (tmp_path / "README.md").read_text()
        assert "$5.00" in card  # half of the machine's 1,000 s at 36 USD an hour
        assert "$10.00" not in card.partition("This run was chosen")[0]
        assert "Others ran beside it" in card
    # NVIDIA's tables of the study count the machine once, too: 500 s of training, 50,000 tokens, 10 USD for both.
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["study", "report", str(path), "--tables", "nvidia", "--json"])
    rows = json.loads(capsys.readouterr().out)["training-throughput"]["rows"]
    assert sum(row["usd_per_million_tokens"] for row in rows) == pytest.approx(500 / 100 / 50_000 * 1e6)
    # A cell whose command was told to stop, and ended well, is not among them: its record alone says "completed".
    change(load(path).of_variant("a")[0], state="failed", reason="timeout")
    with pytest.raises(SystemExit):
        main(["study", "report", str(path), "--tables", "nvidia", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [row["row"].split(",")[0] for row in content["training-throughput"]["rows"]] == ["b"]
    assert content["lead"][0].startswith("1 runs that completed (1 more did not, and are left out)")


def test_an_interval_that_ends_at_zero_is_drawn_to_it(made: report.StudyReport) -> None:
    effect = Effect(-0.05, -0.1, 0.0, relative=True, method="paired", count=5, baseline_count=5)
    only = {"fp16": {"energy_joules": results.Difference(effect, 0.05, None, "seeds")}}
    chart = report_page._forest(replace(made, differences=only), made.measure("energy_joules"))
    bars = chart.figure["data"][0]["error_x"]
    assert (bars["array"], bars["arrayminus"]) == ([pytest.approx(5.0)], [pytest.approx(5.0)])


def test_p_values_say_how_many_comparisons_they_are_adjusted_for(made: report.StudyReport) -> None:
    remarks = tables(made, "tradeoff").remarks
    assert any("the comparisons of a column (5) and two questions" in line for line in remarks)  # big has no figure


def test_a_text_is_made_safe_for_markdown_once() -> None:
    made = study_tables.markdown("a|b", ["lead x|y <z>"], [])
    assert made == "# a\\|b\n\n- lead x\\|y &lt;z>\n"
