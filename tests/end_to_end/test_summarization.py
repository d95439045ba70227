"""The summarization example as its users start it: real ``torchrun`` and ``deepspeed``, two ranks on the CPU.

Runs are judged by the files that they leave: rarely, a rank of PyTorch is aborted when all of its work is done. As
rarely, ranks wait for each other for ever before their first step. Then every rank says where its threads are, and a
launch whose main threads are all outside of greenml is started once more, with a warning.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from launches import environment

from greenml.analysis.study import plan
from greenml.record import file as records

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "summarization"
GOLDEN = ROOT / "tests" / "golden" / "t5-3b-samsum"
NEEDED = ("torch", "transformers", "accelerate", "datasets", "deepspeed", "rouge_score")
OURS = re.compile(r"/greenml/(?!integrations/_trainer_wraps)")  # those only stand around the Trainer's own methods
LIMIT_SECONDS = 600  # half a minute where the cores are idle
COMPILING_SECONDS = 900  # more, once: two minutes of a compiler where they are idle

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed on a CPU wants Linux"),
]


@dataclass(frozen=True)
class Launch:
    """One way to start the smoke."""

    model: str
    zero: int
    offload: bool = False
    launcher: str = "torchrun"
    more: tuple[str, ...] = ()
    compiles: bool = False  # DeepSpeed's C++ parts: a minute or two of a compiler, so one of them does

    def __str__(self) -> str:
        offload = "-offload" if self.offload else ""
        return f"{self.model}-zero{self.zero}{offload}-{self.launcher}{'-options' if self.more else ''}"

    @property
    def config(self) -> dict:
        name = f"zero{self.zero}{'-offload' if self.offload else ''}.json"
        config = json.loads((EXAMPLE / "configs" / name).read_text())
        if not self.compiles:  # as smoke.py says
            config["optimizer"]["params"]["torch_adam"] = True
            config["zero_force_ds_cpu_optimizer"] = False
        return config


OPTIONS = (
    "--bf16", "--freeze_embeddings", "--freeze_encoder", "--sortish", "--gradient_checkpointing",
    "--gradient_accumulation_steps", "2", "--patience", "1", "--eval_strategy", "steps", "--eval_steps", "12",
)  # fmt: skip
T5, T5_OFFLOADED = Launch("t5", 2), Launch("t5", 3, offload=True)
BART_OFFLOADED = Launch("bart", 2, offload=True, launcher="deepspeed", compiles=True)
OPTED = Launch("t5", 2, launcher="deepspeed", more=OPTIONS)
LAUNCHES = (T5, T5_OFFLOADED, BART_OFFLOADED, OPTED)


def command(folder: Path, launch: Launch, *more: str) -> list[str]:
    line = [sys.executable, str(EXAMPLE / "smoke.py"), "--output", str(folder), "--ranks", "2"]
    line += ["--model", launch.model, "--zero", str(launch.zero), "--launcher", launch.launcher]
    line += [*(["--offload"] if launch.offload else []), *([] if launch.compiles else ["--no-compile"])]
    return [*line, *more]


def send(number: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def end(process: psutil.Process) -> None:
    """Kill a process and all that it started, at once."""
    family = [process, *process.children(recursive=True)]
    send(signal.SIGKILL, family)
    psutil.wait_procs(family, timeout=10)


def end_telling(process: psutil.Process) -> None:
    """Have each rank write where its threads are, one after the other, then end it and all around it."""
    family = [process, *process.children(recursive=True)]
    ranks = [one for one in family if "RANK" in environment_of(one)]
    send(signal.SIGSTOP, family)  # so that nobody hears that a rank is gone, and moves from where it waits
    for rank in ranks:
        send(signal.SIGABRT, [rank])
        send(signal.SIGCONT, [rank])
        time.sleep(1)
    end(process)


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def main_threads(log: str) -> list[str]:
    """The stacks of the ranks' main threads, of a log that SIGABRT wrote into."""
    stacks = re.findall(r"(?:Current thread|Thread) 0x\w+.*\n((?:  File .*\n)+)", log)
    return [stack for stack in stacks if re.search(r'finetune\.py", line \d+ in main', stack)]


def start(folder: Path, line: list[str]) -> subprocess.Popen:
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(line, env=environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)


def finish(process: subprocess.Popen, *, seconds: float = LIMIT_SECONDS) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        end_telling(psutil.Process(process.pid))
        process.wait()
        raise


def logged(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-5000:]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, request):
    """Run a launch once; returns its folder."""
    done: dict[Launch, Path] = {}
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")

    def run(launch: Launch) -> Path:
        if launch not in done:
            done[launch] = tmp_path_factory.mktemp(str(launch))
            seconds = LIMIT_SECONDS + (COMPILING_SECONDS if launch.compiles else 0)
            try:
                finish(start(done[launch], command(done[launch], launch, "--", *launch.more)), seconds=seconds)
            except subprocess.TimeoutExpired:
                stacks = main_threads((done[launch] / "log.txt").read_text())
                told = "\n".join((f"\n{launch} hung, its ranks' main threads at", *stacks))
                if len(stacks) < 2 or any(OURS.search(stack) for stack in stacks):
                    pytest.fail(told)
                terminal.write_line(f"{told}\nIt is started once more.")
                shutil.rmtree(done[launch])
                done[launch].mkdir()
                finish(start(done[launch], command(done[launch], launch, "--", *launch.more)), seconds=seconds)
        assert (done[launch] / "README.md").exists(), logged(done[launch])
        return done[launch]

    yield run
    for folder in done.values():
        shutil.rmtree(folder, ignore_errors=True)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def sizes(model: Path) -> dict[str, int]:
    """Parameters by name, from the file's own header."""
    with model.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    not_parameters = ("__metadata__", "final_logits_bias")  # the latter is a buffer of BART's
    return {name: math.prod(value["shape"]) for name, value in header.items() if name not in not_parameters}


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_one_record_whose_phases_add_up(smoke, launch):
    folder = smoke(launch)
    assert [path.name for path in folder.glob("run*.json")] == ["run.json"]
    record = records.read(folder / "run.json")
    assert record.status == "completed"
    assert [(attempt.processes, attempt.launcher) for attempt in record.attempts] == [(2, launch.launcher)]
    assert {phase.path for phase in record.phases} == {"setup", "train", "eval", "save", "predict"}
    seconds = sum(phase.seconds for phase in record.phases)
    # What lies between the phases is short work, which takes longer on busy cores.
    assert 0.6 * record.duration_seconds <= seconds <= record.duration_seconds + 0.01
    totals = {total.scope: total.it_energy_joules.value for total in record.totals}
    whole = totals.pop("run")
    assert 0.6 * whole <= sum(totals.values()) <= 1.001 * whole
    results = read(folder / "all_results.json")
    train = next(phase for phase in record.phases if phase.path == "train")
    # The phase is the Trainer's own time without what the Trainer evaluates and saves in between.
    others = sum(phase.seconds for phase in record.phases if phase.path in ("eval", "save"))
    assert results["train_runtime"] - others - 0.1 <= train.seconds <= 1.5 * results["train_runtime"] + 1.0


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_what_went_in_and_came_out_is_in_the_record(smoke, launch):
    folder = smoke(launch)
    record, results = records.read(folder / "run.json"), read(folder / "all_results.json")
    for split in ("eval", "predict"):
        for score in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
            assert record.metrics[f"{split}_{score}"] == results[f"{split}_{score}"]
    assert record.metrics["predict_rougeLsum"] > 0
    accumulated = 2 if launch is OPTED else 1
    wanted = {"learning_rate": 5e-3, "max_steps": 24, "max_source_length": 96, "world_size": 2, "seed": 42}
    wanted |= {"per_device_train_batch_size": 4, "effective_batch_size": 8 * accumulated}
    assert {name: record.params[name] for name in wanted} == wanted
    assert record.trainer["ds_config"] == launch.config
    ran = record.trainer["ran"]
    assert (ran["deepspeed_zero_stage"], ran["world_size"], ran["distributed_type"]) == (launch.zero, 2, "DEEPSPEED")
    # ZeRO-3 leaves each rank with parameters of size 0: the record has the true number.
    parameters = sizes(folder / "tiny-model" / "model.safetensors")
    assert record.trainer["model"]["parameters"] == sum(parameters.values())


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_the_model_card_has_both_tables(smoke, launch):
    card = (smoke(launch) / "README.md").read_text()
    for title, row in (("Resource Usage", "| Run Duration |"), ("Carbon Emissions", "| energy_consumed |")):
        assert card.count(f"## {title}\n") == 1
        assert row in card.partition(f"## {title}\n")[2]
    assert "Rougelsum" in card
    assert str(smoke(launch)) not in card


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_rouge_is_that_of_the_predictions_in_the_order_of_the_file(smoke, launch):
    folder = smoke(launch)
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    expected = [row["summary"] for row in dialogues() if row["split"] == "test"]
    assert len(predictions) == len(expected)
    for row, summary in zip(predictions, expected, strict=True):
        assert summary.startswith(row["summary"][:-1])  # cut to the target length
    # ROUGE-1 once more, from its definition: words of more than three letters count by their stem.
    stem = pytest.importorskip("nltk.stem.porter").PorterStemmer().stem
    scores = []
    for row in predictions:
        words = (re.findall("[a-z0-9]+", row[key].lower()) for key in ("summary", "predicted"))
        wanted, got = ([stem(word) if len(word) > 3 else word for word in one] for one in words)
        common = sum(min(wanted.count(word), got.count(word)) for word in set(wanted))
        scores.append(2 * common / (len(wanted) + len(got)) if common else 0.0)
    mean = 100 * sum(scores) / len(scores)
    assert read(folder / "all_results.json")["predict_rouge1"] == pytest.approx(mean, abs=1e-3)


def test_every_stage_trains_to_the_same_loss(smoke):
    losses = [read(smoke(launch) / "all_results.json") for launch in (T5, T5_OFFLOADED)]
    for name in ("train_loss", "eval_loss", "predict_loss"):
        assert losses[0][name] == pytest.approx(losses[1][name], abs=0.05)
    # A model that knows nothing gives each of its 800 tokens the same chance. Were the loss multiplied by the
    # number of ranks, it would begin at twice that.
    for launch in (T5, T5_OFFLOADED, BART_OFFLOADED):
        first = read(smoke(launch) / "trainer_state.json")["log_history"][0]["loss"]
        assert 0.7 * math.log(800) < first < 1.2 * math.log(800)


def test_the_options_of_the_study(smoke):
    folder = smoke(OPTED)
    record = records.read(folder / "run.json")
    every = sizes(folder / "tiny-model" / "model.safetensors")
    decoder = sum(size for name, size in every.items() if name.startswith("decoder."))
    assert 0 < record.trainer["model"]["trainable_parameters"] == decoder < sum(every.values())
    assert record.trainer["ran"]["mixed_precision"] == "bf16"
    wanted = {"freeze_embeddings": True, "freeze_encoder": True, "sortish": True, "patience": 1, "bf16": True}
    assert {name: record.params[name] for name in wanted} == wanted
    evaluated = [row for row in read(folder / "trainer_state.json")["log_history"] if "eval_rougeLsum" in row]
    assert [row["step"] for row in evaluated][:2] == [12, 24]


def test_a_killed_run_goes_on_and_adds_up(tmp_path):
    line = command(tmp_path, T5, "--", "--max_steps", "120", "--save_steps", "20")
    first = start(tmp_path, line)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (tmp_path / "checkpoint-20" / "trainer_state.json").exists():
        assert first.poll() is None, logged(tmp_path)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    end(psutil.Process(first.pid))
    first.wait()
    assert not (tmp_path / "README.md").exists()
    (tmp_path / "checkpoint-120").mkdir(exist_ok=True)  # as if killed while it was being written

    finish(start(tmp_path, line))
    record = records.read(tmp_path / "run.json")
    assert [attempt.status for attempt in record.attempts] == ["killed", "completed"], logged(tmp_path)
    assert record.duration_seconds == pytest.approx(sum(attempt.seconds for attempt in record.attempts), abs=0.01)
    state = read(tmp_path / "trainer_state.json")
    assert state["global_step"] == 120
    lost = record.trainer.get("lost_work")  # none where the kill came with the checkpoint
    assert lost is None or lost["resumed_step"] in range(20, 120, 20)
    train = next(phase for phase in record.phases if phase.path == "train")
    assert train.seconds > read(tmp_path / "all_results.json")["train_runtime"] - 2  # the first attempt's is in it

    before = (tmp_path / "run.json").read_bytes()
    again = [sys.executable, str(EXAMPLE / "finetune.py"), "--model", "tiny-model", "--output_dir", str(tmp_path)]
    finish(start(tmp_path, [*again, "--use_cpu", "true"]))
    assert "holds a finished run" in logged(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


# Files, without a launch.


def dialogues() -> list[dict]:
    return [json.loads(line) for line in (EXAMPLE / "data" / "dialogues.jsonl").read_text().splitlines()]


def test_the_dialogues():
    rows = dialogues()
    assert len(rows) >= 60
    assert [sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")] == [56, 8, 8]
    assert len({row["dialogue"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        turns = row["dialogue"].split("\n")
        assert len(turns) >= 3
        assert len({turn.partition(": ")[0] for turn in turns}) >= 2
        assert re.fullmatch(r"[A-Z][^.!?]+\.", row["summary"]), row["summary"]


@pytest.mark.parametrize("path", sorted((EXAMPLE / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_a_configuration_says_what_its_name_says(path):
    config = read(path)
    stage, _, offload = path.stem.removeprefix("zero").partition("-")
    zero = config["zero_optimization"]
    assert zero["stage"] == int(stage)
    assert ("offload_optimizer" in zero) == bool(offload)
    assert ("offload_param" in zero) == (bool(offload) and stage == "3")
    assert config["fp16"]["enabled"] == config["bf16"]["enabled"] == "auto"
    assert zero.get("stage3_gather_16bit_weights_on_model_save", True)


def readme_commands() -> list[list[str]]:
    """Every launch of finetune.py in the README, as words."""
    text = (EXAMPLE / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if "finetune.py --" in line]


def understood(told: list[list[str]]) -> list[tuple[list[str], str, str]]:
    """What finetune.py makes of each list of words: those that it does not know, the model and the folder."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import finetune\n"
        "parser = finetune.command_line()\n"
        "for words in json.load(sys.stdin):\n"
        "    known, unknown = parser.parse_known_args(words)\n"
        "    print('parsed', json.dumps([unknown, known.model, known.output_dir]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)], input=json.dumps(told),
        env=environment() | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    parsed = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("parsed ")]
    assert len(parsed) == len(told), done.stderr
    return parsed


def test_the_commands_of_the_readme_and_of_each_variant_of_the_study_are_understood():
    commands = readme_commands()
    assert len(commands) >= 4
    told = [words[words.index("finetune.py") + 1 :] for words in commands]
    for words in told:
        if "--deepspeed" in words:
            assert (EXAMPLE / words[words.index("--deepspeed") + 1]).is_file()
    for profile in ("", "8gpu-v100", "1gpu", "smoke"):
        study = plan.read(EXAMPLE.parent / "study" / "study.yaml", profile)
        for variant in study.variants:
            words = plan.words(study, variant, 1, Path("out"))
            if profile == "smoke":  # smoke.py makes the model
                told.append(["--model", "tiny", "--output_dir", "out/model", *words[words.index("--") + 1 :]])
            else:
                told.append(words[words.index("../summarization/finetune.py") + 1 :])
    parsed = understood(told)
    assert len(told) > len(commands) + 4 * 20
    assert all(not unknown and model for unknown, model, _ in parsed)
    assert len({folder for *_, folder in parsed[: len(commands)]}) == len(commands)


def test_the_options_of_a_stage_change_its_configuration():
    lines = (
        "--zero_stage 2", "--zero_stage 2 --bucket_size 50000", "--zero_stage 3 --bucket_size 50000",
        "--zero_stage 3 --offload_parameters true --optim adafactor",
    )  # fmt: skip
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import finetune\n"
        "for line in json.loads(sys.argv[2]):\n"
        "    args = finetune.command_line().parse_args_into_dataclasses(\n"
        "        ['--model', 'm', '--output_dir', sys.argv[3], '--use_cpu', 'true', *line.split()])[0]\n"
        "    print('parsed', json.dumps([args.optim, args.deepspeed['zero_optimization']]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), json.dumps(lines), "never-made"],
        env=environment() | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    parsed = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("parsed ")]
    assert len(parsed) == len(lines), done.stderr
    (_, plain), (_, two), (_, three), (optimizer, offloaded) = parsed
    changed = {name: value for name, value in two.items() if plain[name] != value}
    assert changed == {"reduce_bucket_size": 50_000, "allgather_bucket_size": 50_000}
    assert {three[name] for name in three if name.endswith("bucket_size")} == {50_000}
    assert offloaded["offload_param"]["device"] == "cpu"
    assert optimizer == "adafactor"


def test_t5_3b_has_the_hyperparameters_of_the_published_run():
    (words,) = [words for words in readme_commands() if words[2] == "8" and "google-t5/t5-3b" in words]
    published = read(GOLDEN / "training_args.json")
    for name, value in published.items():
        if value is True:
            assert f"--{name}" in words
        elif f"--{name}" in words:
            assert float(words[words.index(f"--{name}") + 1]) == value
        else:
            assert (name, value) == ("gradient_accumulation_steps", 1)  # the Trainer's own default
    config, theirs = read(EXAMPLE / "configs" / "zero2.json"), read(GOLDEN / "ds_config.json")
    assert config["zero_optimization"] == theirs["zero_optimization"]
    for part in ("optimizer", "scheduler"):
        assert config[part]["type"] == theirs[part]["type"]


def test_the_costs_are_those_of_the_published_run():
    text = (EXAMPLE / "README.md").read_text()
    seconds = read(GOLDEN / "run.facts.json")["run_duration_s"]
    epoch = read(GOLDEN / "all_results.json")["train_runtime"] / 3
    emissions = float((GOLDEN / "emissions.csv").read_text().splitlines()[1].split(",")[4])
    assert f"${seconds * 4.41 / 3600:.2f} / ${seconds * 22.03 / 3600:.2f} | {emissions:.3f} kg" in text
    assert f"${epoch * 4.41 / 3600:.2f} / ${epoch * 22.03 / 3600:.2f} | {emissions / 3:.3f} kg" in text
    assert f"{int(seconds // 60)}m {int(seconds % 60)}s" in text
    assert f"{int(epoch // 60)}m {round(epoch % 60)}s" in text
