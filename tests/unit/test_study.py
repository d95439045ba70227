"""Study files, the order of the cells, budgets and folders: everything of a study that starts no process."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from greenml import RecordError, SettingsError
from greenml.analysis.study import attempt, collection, execution, expectation, folder, plan
from greenml.cli import main, study
from greenml.files import ProcessLock
from greenml.record.schema import Factor, Factors, PlaceRecord, RunRecord, SourceRef
from greenml.run.live import LiveRun
from greenml.trace import lines
from greenml.trace.file import TraceWriter
from greenml.trace.types import Device, Rollup

STUDY = """
name: demo
command: python train.py --lr {lr} --seed {seed} --out {folder}
parameters: {lr: 5e-5, size: small}
seeds: [1, 2, 3]
variants:
  fp32:
  fp16: {args: --fp16 --scale "1 2"}
  slow: {parameters: {lr: 1.0e-6}, env: {THREADS: 1, NAME: "{variant}-{seed}"}}
  zero: {command: "{launcher} {python} train.py {args} --n {gpus}", parameters: {launcher: [mpirun, -n, 2]}, gpus: 2}
combinations: {both: [fp16, slow]}
baseline: fp32
smoke:
  seeds: [7]
  args: [--tiny]
  without: {zero: needs two GPUs}
  variants: {fp16: {args: --bf16}, extra: {env: {X: "1"}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "train.py").write_text("")
    return tmp_path / "study.yaml"


def commands(made: plan.Plan) -> dict[str, list[str]]:
    return {variant.name: plan.words(made, variant, made.seeds[0], Path("/f")) for variant in made.variants}


def test_a_variant_changes_the_command(path):
    made = plan.read(path)
    start = ["python", "train.py", "--lr"]
    assert commands(made) == {
        "fp32": [*start, "5e-5", "--seed", "1", "--out", "/f"],
        "fp16": [*start, "5e-5", "--seed", "1", "--out", "/f", "--fp16", "--scale", "1 2"],
        "slow": [*start, "1e-06", "--seed", "1", "--out", "/f"],
        "zero": ["mpirun", "-n", "2", plan.sys.executable, "train.py", "--n", "2"],
        "both": [*start, "1e-06", "--seed", "1", "--out", "/f", "--fp16", "--scale", "1 2"],
    }
    variables = plan.environment(made, made.variant("both"), 3, Path("/f"))
    assert variables == {"THREADS": "1", "NAME": "both-3"}
    assert made.variant("both").parts == ("fp16", "slow")
    assert made.baseline == "fp32"


def test_a_profile_takes_the_place_of_what_it_says(path):
    made = plan.read(path, "smoke")
    assert made.seeds == (7,)
    assert list(commands(made)) == ["fp32", "fp16", "slow", "extra", "both"]
    assert commands(made)["fp16"][-2:] == ["--tiny", "--bf16"]
    assert commands(made)["both"][-2:] == ["--tiny", "--bf16"]
    assert made.file.without == {"zero": "needs two GPUs"}


def test_factors_make_a_full_grid(tmp_path):
    text = "name: g\ncommand: run {batch} {seed}\nfactors: {batch: [8, 16], mode: {a: {}, b: {args: -b}}}\nseeds: [1]\n"
    (tmp_path / "g.yaml").write_text(text)
    made = plan.read(tmp_path / "g.yaml")
    assert commands(made) == {
        "batch=8,mode=a": ["run", "8", "1"],
        "batch=8,mode=b": ["run", "8", "1", "-b"],
        "batch=16,mode=a": ["run", "16", "1"],
        "batch=16,mode=b": ["run", "16", "1", "-b"],
    }
    assert made.variants[-1].factors == {"batch": "16", "mode": "b"}


MISTAKES = [
    ("varants: {a: {}}", "unknown key 'varants'; did you mean 'variants'?"),
    ("variants: {a: {arg: -x}}", "unknown key 'arg' in variants.a; did you mean 'args'?"),
    ("smoke: {seed: [1]}", "unknown key 'seed' in smoke; did you mean 'seeds'?"),
    ("quality: {metrc: x}", "unknown key 'metrc' in quality; did you mean 'metric'?"),
    ("command: train {lrr}\nparameters: {lr: 1}", "unknown placeholder {lrr}; did you mean 'lr'?"),
    ("command: train {", "for a brace itself"),
    ("command: 'train {seed:05d}'", "a placeholder is a name alone: {seed}"),
    ("args: ['{seed!r}']", "a placeholder is a name alone: {seed}"),
    ("command: train {gpus}", "unknown placeholder {gpus}; say how many: 'gpus: 8'"),
    ("variants:\n  a: {}\n  a: {}", "duplicate 'a', line 6"),
    ("variants: {a: {}, A: {}}", "duplicate variant: 'a' and 'A' name the same folder"),
    ("combinations: {b: [b]}", "duplicate variant 'b'"),
    ("variants: {'a/b': {}}", "variant 'a/b': a name has letters, digits"),
    ("variants: {a: {parameters: {x: 1}}}", "variant a sets parameter x, which its command does not use"),
    ("variants: {}\nfactors: {batch: [8]}", "variant batch=8 sets parameter batch, which its command does not use"),
    ("parameters: {seed: 3}", "parameter seed: the name is taken"),
    ("seeds: []", "seeds is empty; give at least one, such as [1, 2, 3]"),
    ("seeds: [1, 1]", "seeds has 1 twice"),
    ("seeds: [one]", "seeds.0 is 'one'; it must be a valid integer"),
    ("baseline: bse", "baseline 'bse' is none of the variants; did you mean 'base'?"),
    ("baseline: base\nwithout: {base: why}", "baseline 'base' is none of the variants; it is left out (why)"),
    ("without: {nobody: why}", "without: no variant 'nobody'"),
    ("combinations: {c: [base, nobody]}", "combination c: no variant 'nobody'"),
    ("combinations: {c: []}", "combination c is empty"),
    ("variants: {base: {env: {X: 1}}, b: {env: {X: 2}}}\ncombinations: {c: [base, b]}", "both set variable X"),
    ("max_usd: 0", "max_usd is 0; it must be greater than 0"),
    ("max_usd: 5", "max_usd needs a price: give sku and region, or price_per_hour"),
    ("sku: ND40rs_v3", "unknown SKU 'ND40rs_v3'"),
    ("quality: {metric: a, direction: up}", "quality.direction is 'up'; it must be 'higher' or 'lower'"),
    ("quality: {metric: a}", "the name 'a' does not tell which values are better"),
    ("max_usd: 5\nsku: ND40rs_v2\nregion: northeurope", "none is known; give price_per_hour"),
    ("env: {HF_TOKEN: abcdef}", "the value of HF_TOKEN does not belong in a study file"),
    ("args: --api-key abcdef", "a key does not belong in a command"),
    ("profiles: {p: {variants: {nobody: {}}}}", "the profile changes variant 'nobody', which is not there"),
    ("name:", "name is None"),
    ("variants: [a]", "variants is a list"),
    ("command: nosuchprogram {seed}", "command not found: nosuchprogram"),
    ("command: python nosuch.py {seed}", "command not found: nosuch.py"),
    ("\tx", "line 4"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_line(text, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given_keys = [line.partition(":")[0] for line in text.splitlines()]
    base = {"name": "name: m", "command": "command: python -c pass {seed}", "variants": "variants: {base: {}, b: {}}"}
    lines = [line for key, line in base.items() if key not in given_keys]
    Path("study.yaml").write_text("\n".join([*lines, text] if len(lines) == 3 else ["#", *lines, text]))
    with pytest.raises(SystemExit) as ended:
        main(["study", "plan", "study.yaml", *(["--profile", "p"] if text.startswith("profiles") else [])])
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    assert says in error


def test_what_is_no_study_file_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["plan", "none.yaml"], ["run", "none.yaml"], ["collect", "none"], ["collect", "none", "--by", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(["study", *words])
        assert (ended.value.code, capsys.readouterr().err.count("\n")) == (2, 1)
    Path("study.yaml").write_text("name: a\ncommand: python -V\nvariants: {a: {}}")
    for words, says in (
        (["--smoke"], "it has no 'smoke' section"),
        (["--profile", "big"], "no profile 'big'"),
        (["--output", "."], "is not empty, and is no study"),
    ):
        with pytest.raises(SystemExit):
            main(["study", "run", "study.yaml", *words])
        assert says in capsys.readouterr().err


def test_the_schema_takes_what_the_reader_takes(path):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load(STUDY), plan.json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(STUDY) | {"varants": {}}, plan.json_schema())


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32))
def test_the_places_of_the_variants_are_balanced(variants, seeds, order_seed):
    blocks = plan.blocks(variants, list(range(seeds)), order_seed)
    assert sorted(seed for seed, _ in blocks) == list(range(seeds))
    assert all(sorted(block) == list(range(variants)) for _, block in blocks)
    if seeds > 1:
        sums = [sum(block.index(variant) for _, block in blocks) for variant in range(variants)]
        assert max(sums) - min(sums) <= (seeds * (variants + 1)) % 2  # Bradley and Yeh: 0 where that is possible
        assert plan.imbalance([block for _, block in blocks]) == pytest.approx(
            (max(sums) - min(sums)) / (variants * seeds**2)
        )
    assert blocks == plan.blocks(variants, list(range(seeds)), order_seed)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
@pytest.mark.parametrize("variants", [3, 4, 14, 21])
def test_a_machine_that_slows_by_a_fifth_moves_no_difference_by_one_percent(variants, seeds):
    plain_order = _moved([list(range(variants))] * seeds)
    for order_seed in range(20):
        assert _moved([block for _, block in plan.blocks(variants, range(seeds), order_seed)]) < 0.01
    assert plain_order > 0.02  # what it would be without


def _moved(blocks: list[list[int]]) -> float:
    """Run blocks on a machine that slows evenly by 20 %; return the largest difference that alike variants get."""
    cells = [variant for block in blocks for variant in block]
    seconds: dict[int, list[float]] = {}
    for position, variant in enumerate(cells):
        seconds.setdefault(variant, []).append(1.0 + 0.2 * position / (len(cells) - 1))
    means = [statistics.fmean(values) for values in seconds.values()]
    return max(means) / min(means) - 1


def test_a_folder_holds_the_plan_and_refuses_another(path, tmp_path):
    into = tmp_path / "out"
    made = folder.create(into, plan.read(path))
    assert [cell.state for cell in made.cells] == ["pending"] * 15
    assert len({cell.folder for cell in made.cells}) == 15
    again = folder.create(into, plan.read(path))
    assert (again.id, [cell.name for cell in again.cells]) == (made.id, [cell.name for cell in made.cells])
    path.write_text(STUDY + "max_kwh: 3\nretries: 2\n")
    assert folder.create(into, plan.read(path)).plan.file.max_kwh == 3
    assert folder.load(into).plan.file.retries == 2
    for change, says in (("--fp16", "variant fp16 has another command"), ("[1, 2, 3]", "seeds 1, 2, 3")):
        path.write_text(STUDY.replace(change, {"--fp16": "--half", "[1, 2, 3]": "[1, 2]"}[change]))
        with pytest.raises(SettingsError, match=says):
            folder.create(into, plan.read(path))
    with pytest.raises(SettingsError, match="profile none, not smoke"):
        folder.create(into, plan.read(path, "smoke"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"greenml_study": 9}', '{"greenml_study": 1, "cells": 3}'])
def test_a_damaged_plan_is_one_line(text, tmp_path):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RecordError) as raised:
        folder.load(tmp_path)
    assert "\n" not in str(raised.value)


def cell_json(made: folder.Study, cell: folder.Cell, *attempts: dict) -> None:
    folder.write_cell(
        made, cell, [{"number": number, "host": "h", **entry} for number, entry in enumerate(attempts, 1)]
    )


def test_cells_side_by_side_share_their_machine(path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    spans = [(0, 10), (0, 10), (5, 15), (20, 30)]
    for cell, (start, end) in zip(made.cells, spans, strict=False):
        cell_json(made, cell, {"state": "completed", "started": start + 1e9, "ended": end + 1e9})
    for cell, host in zip(made.cells[4:], ("other", ""), strict=False):  # beside them in time, not on their machine
        cell_json(made, cell, {"state": "completed", "started": 1e9, "ended": 1e9 + 10, "host": host})
        cell_json(made, made.cells[6], {"state": "completed", "started": 1e9, "ended": 1e9 + 10, "host": ""})
    assert [cell.attempts[0].shared_ratio for cell in folder.load(made.folder).cells[4:7]] == [1, 1, 1]
    shares = [cell.attempts[0].shared_ratio for cell in folder.load(made.folder).cells[:4]]
    alone, two, three = 1.0, 1 / 2, 1 / 3
    assert shares == pytest.approx([(two + three) / 2, (two + three) / 2, (three + alone) / 2, alone])
    # The machine is counted once: shares times durations add up to the time in which it was used.
    assert sum(share * 10 for share in shares) == pytest.approx(15 + 10)


def test_one_machine_is_one_boot_and_a_cell_that_runs_shares_it(path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    boots = ["0b5b3c5e-1111-4222-8333-123456789abc", "0b5b3c5e-1111-4222-8333-123456789abd"]
    now = datetime.now(timezone.utc).timestamp()
    entries = [
        {"state": "completed", "started": now - 40, "ended": now - 10, "host": "a", "boot_id": boots[0]},
        {"state": "running", "started": now - 20, "host": "container", "boot_id": boots[0]},
        {"state": "completed", "started": now - 40, "ended": now - 10, "host": "a", "boot_id": boots[1]},
    ]
    for cell, entry in zip(made.cells, entries, strict=False):
        cell_json(made, cell, entry)
    first, second, third = (cell.attempts[0] for cell in folder.as_of_now(folder.load(made.folder)).cells[:3])
    assert second.state == "running"
    assert first.shared_ratio == pytest.approx((20 + 10 / 2) / 30)
    assert 0.7 < second.shared_ratio < 1  # (10 / 2 + 10) / 20, and what has passed since
    assert third.shared_ratio == 1


def test_a_running_cell_uses_its_gpus_and_its_share_of_the_machine(tmp_path):
    run_dir = tmp_path / "run.trace"
    run_dir.mkdir()
    header = {"start_seconds": 0.0, "unix_seconds": 1e9, "attempt": 1, "host": "h", "run_id": "r", "rank": None}
    writer = TraceWriter(run_dir / "a.jsonl", header)
    joules = {"gpu": 1000.0, "cpu": 400.0}
    for kind in joules:
        writer.write({"t": 0.0, **lines.device_line(kind, Device(kind, f"{kind}-0", kind, "counter", "nvml"))})
    for at, share in ((0.0, 0.0), (100.0, 1.0)):
        rollups = {kind: Rollup(at, at, used * share, None, 0, None, 0.0, None, None, None, None)
                   for kind, used in joules.items()}  # fmt: skip
        writer.write(lines.sample_line(at, rollups, edge=False))
    source = SourceRef(name="test")
    given = {name: Factor(value=value, low=value, high=value, unit="", scope="given", source=source)
             for name, value in (("carbon_intensity", 360.0), ("pue", 1.5), ("price", 36.0))}  # fmt: skip
    factors = Factors(carbon_intensity=given["carbon_intensity"], pue=given["pue"], prices={"spot": given["price"]})
    live = LiveRun(run_dir, factors)
    own = (1000 + 400 / 4) * 1.5
    assert execution.used(live, 0.25, "spot") == pytest.approx(
        {"facility_energy_joules": own, "emissions_grams": own / 3.6e6 * 360, "cost_usd": 36 / 3600 * 100 / 4}
    )
    assert execution.used(live, 1.0, "dedicated")["cost_usd"] is None  # after a minute it will not be told any more


@pytest.mark.parametrize(
    ("code", "stopped", "state", "reason"),
    [
        (0, "", "completed", ""),
        (0, folder.TIMEOUT, "failed", "timeout"),  # it saved its state, and ended
        (130, folder.TIMEOUT, "failed", "timeout"),
        (0, folder.STOPPED, "stopped", "stopped"),
        (0, "budget: max_usd 3", "stopped", "budget: max_usd 3"),
        (3, "stopped by SIGTERM", "stopped", "stopped by SIGTERM"),
        (143, "", "stopped", "stopped by SIGTERM"),
        (3, "", "failed", "exit code 3"),
    ],
)
def test_a_command_that_was_told_to_stop_has_not_completed(code, stopped, state, reason):
    assert attempt.outcome(code, "", stopped, "", 0) == {"state": state, "reason": reason}


def test_a_cell_without_a_word_was_killed(path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    cell_json(made, made.cells[0], {"state": "failed", "started": 1e9, "ended": 1e9 + 5, "reason": "out of memory"})
    cell_json(made, made.cells[1], {"state": "running", "started": 1e9})
    cell_json(made, made.cells[2], {"state": "failed", "started": 1e9}, {"state": "completed", "started": 1e9})
    read = folder.load(made.folder)
    assert [cell.state for cell in read.cells[:4]] == ["failed", "killed", "completed", "pending"]
    assert read.cells[0].out_of_memory
    assert [attempt.folder.name for attempt in read.cells[2].attempts] == ["attempt-1", read.cells[2].folder.name]
    assert read.spent.attempts == 4
    assert read.spent.unknown == {}  # nothing was started in these folders
    assert (read.spent.recorded, read.spent.missing("energy")) == (0, 0)


def test_what_is_not_known_is_not_said_as_zero():
    one = folder.Spent(attempts=1, seconds=0.5, recorded=1, known={"time": 1})
    unknown = "the energy of 1, the facility energy of 1, the emissions of 1"
    assert study.spent(one, "dedicated") == f"0.50s (at least: not wholly known is {unknown} attempts)"
    assert (
        study.spent(folder.Spent(attempts=1, running=1), "dedicated") == "what is not known (without 1 that still run)"
    )
    assert study.spent(folder.Spent(), "dedicated").startswith("0s, 0 J")


def test_a_plan_without_its_cells_is_one_line(path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    content = json.loads((made.folder / "study.json").read_text())
    other = {**content["cells"][0], "variant": "nobody"}
    for cells, says in ((content["cells"][1:], "not those of its variants"), ([other], "a variant is missing")):
        (made.folder / "study.json").write_text(json.dumps({**content, "cells": cells}))
        with pytest.raises(RecordError, match=says):
            folder.load(made.folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"attempts": 3}',
        '{"attempts": [3]}',
        '{"attempts": [{"number": "x"}]}',
        '{"attempts": [{"number": 1, "state": "odd", "started": 5}]}',
    ],
)
def test_a_damaged_cell_is_one_line(text, path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    cell_json(made, made.cells[0])
    (made.cells[0].folder / "cell.json").write_text(text)
    with pytest.raises(RecordError) as raised:
        folder.load(made.folder)
    assert "\n" not in str(raised.value)


def test_the_budget_says_how_many_cells_it_allows(path, tmp_path):
    path.write_text(STUDY.replace("smoke:", "expected_minutes: 10\nprice_per_hour: 6\nmax_usd: 3.5\nsmoke:"))
    made = folder.create(tmp_path / "out", plan.read(path))
    expected = expectation.of_variants(made)
    assert expected["fp32"].cost_usd == pytest.approx(1.0)
    assert expectation.allowed(made, expected) == 3
    assert expectation.would_not_fit(made, expected["fp32"], {"cost_usd": 2.6}).startswith("max_usd 3.5: 3.6 USD")


def test_the_plan_command_prints_and_writes_nothing(path, capsys, monkeypatch):
    monkeypatch.chdir(path.parent)
    Path("study.yaml").write_text(STUDY.replace("mpirun", "env"))
    with pytest.raises(SystemExit) as ended:
        main(["study", "plan", "study.yaml", "--json"])
    assert ended.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert (len(shown["cells"]), shown["folder"], shown["baseline"]) == (15, "demo", "fp32")
    with pytest.raises(SystemExit):
        main(["study", "plan", "study.yaml", "--smoke"])
    text = capsys.readouterr().out
    assert "Left out: zero: needs two GPUs." in text
    assert "With one seed nothing can be told apart" in text
    assert not Path("demo").exists()


def record(params: dict, status: str = "completed", error: str | None = None) -> RunRecord:
    started = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return RunRecord(
        greenml_version="0", run_id="r", status=status, error=error, started=started,
        ended=started + timedelta(seconds=60), duration_seconds=60, place=PlaceRecord(), factors=Factors(),
        params=params,
    )  # fmt: skip


def test_the_trials_of_a_sweep_become_a_study(tmp_path):
    trials = [
        record({"learning_rate": 1e-5, "model": "a/b", "seed": 1}),
        record({"learning_rate": 1e-5, "model": "a/b", "seed": 1}),  # the same again is a repeat, after all seeds
        record({"learning_rate": 1e-5, "model": "a/b", "seed": 2}),
        record({"learning_rate": 3e-5, "model": "a/b", "seed": 2}, "failed", "CUDA out of memory. Tried to"),
        record({"learning_rate": 3e-5, "model": "c", "seed": 1}, "killed"),
        record({"learning_rate": 3e-5, "model": "d", "seed": 1}, "running"),
    ]
    paths = [(tmp_path / f"trial-{number}" / "run.json", trial) for number, trial in enumerate(trials)]
    done = collection.from_records(tmp_path / "sweep", paths, ["learning_rate", "model"])
    cells = {cell.name: (cell.state, cell.reason) for cell in folder.load(tmp_path / "sweep").cells}
    assert cells == {
        "learning_rate=1e-05,model=a-b/seed-1": ("completed", ""),
        "learning_rate=1e-05,model=a-b/seed-2": ("completed", ""),
        "learning_rate=1e-05,model=a-b/seed-3": ("completed", ""),
        "learning_rate=3e-05,model=a-b/seed-1": ("pending", "no such run was collected"),
        "learning_rate=3e-05,model=a-b/seed-2": ("failed", "out of memory"),
        "learning_rate=3e-05,model=a-b/seed-3": ("pending", "no such run was collected"),
        "learning_rate=3e-05,model=c/seed-1": ("killed", "killed"),
        "learning_rate=3e-05,model=c/seed-2": ("pending", "no such run was collected"),
        "learning_rate=3e-05,model=c/seed-3": ("pending", "no such run was collected"),
    }
    assert done.study.spent.attempts == 5
    assert len(done.skipped) == 1
    for by, says in (
        (["learning_rat"], "did you mean 'learning_rate'"),
        ([], "the records differ in learning_rate, model"),
    ):
        with pytest.raises(SettingsError, match=says):
            collection.from_records(tmp_path / "other", paths, by)
    with pytest.raises(SettingsError, match="is a study"):
        collection.from_records(tmp_path / "sweep", paths, ["model"])


def test_values_that_would_name_one_folder_stay_apart(tmp_path):
    long = "x" * 150
    values = ["a/b", "a-b", "A-B", f"{long}1", f"{long}2", "a/b"]
    paths = [(tmp_path / f"{number}/run.json", record({"model": value})) for number, value in enumerate(values)]
    made = collection.from_records(tmp_path / "sweep", paths, ["model"]).study
    runs = {variant.args[0]: len([cell for cell in made.of_variant(variant.name) if cell.attempts])
            for variant in made.plan.variants}  # fmt: skip
    assert runs == {"model=a/b": 2, "model=a-b": 1, "model=A-B": 1, f"model={long}1": 1, f"model={long}2": 1}


def test_what_has_ended_is_collected_over_a_copy_of_when_it_ran(path, tmp_path):
    made = folder.create(tmp_path / "out", plan.read(path))
    elsewhere = replace(made.cells[0], folder=tmp_path / "elsewhere" / "cell")
    cell_json(made, elsewhere, {"state": "running", "started": 1e9})
    assert [cell.name for cell in collection.collect(made.folder, [tmp_path / "elsewhere"]).taken] == [elsewhere.name]
    cell_json(made, elsewhere, {"state": "completed", "started": 1e9, "ended": 1e9 + 5})
    with_lock = ProcessLock(made.cells[0].folder / folder.LOCK_FILE)
    assert with_lock.acquire()  # as the process does that runs the cell here
    done = collection.collect(made.folder, [tmp_path / "elsewhere"])
    assert (done.taken, len(done.skipped)) == ((), 1)
    assert "the cell runs here now" in done.skipped[0]
    with_lock.release()
    done = collection.collect(made.folder, [tmp_path / "elsewhere"])
    assert done.study.cells[0].state == "completed"
    assert collection.collect(made.folder, [tmp_path / "elsewhere"]).taken == ()
    assert [path.name for path in made.cells[0].folder.parent.iterdir()] == [made.cells[0].folder.name]
