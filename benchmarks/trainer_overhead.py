"""What a step of a Hugging Face Trainer costs: untracked, with GreenCallback, with transformers' CodeCarbonCallback.

    pip install -e ".[bench]" torch "transformers[torch]"
    python benchmarks/trainer_overhead.py

Each variant trains the same small GPT-2 in a process of its own. All of them live at the same time, and one of them
trains at a time: it does a block of steps while the others wait, then another does, in an order that changes, so that
whatever else the machine does hits all alike. A block's figure is its mean step, from one step's beginning to the next
one's, so that what happens once a second in another thread is in it. A ratio is that of two blocks that followed each
other; shown is the median, with its 95 % interval. Eight simulated GPUs are there to be read, given a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
VARIANTS = ("none", "greenml", "codecarbon")
AIM = 1.005
WARM_STEPS = 20


def train(variant: str, folder: str) -> None:
    """Train for ever, in a child: a line with a number of steps begins a block, and its figures are the answer."""
    import torch
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    said = os.fdopen(os.dup(1), "w", 1)
    os.dup2(2, 1)
    transformers.set_seed(0)
    torch.set_num_threads(1)

    class Tokens(torch.utils.data.Dataset):
        def __len__(self):
            return 1_000_000

        def __getitem__(self, at):
            tokens = torch.arange(at, at + 64) % 1000
            return {"input_ids": tokens, "labels": tokens}

    class Gate(TrainerCallback):
        left, begun, size = WARM_STEPS, None, WARM_STEPS

        def on_step_begin(self, args, state, control, **more):
            if self.left:
                self.left -= 1
                return
            now = time.perf_counter(), time.process_time()
            if self.begun:
                print(
                    json.dumps([(end - start) / self.size for start, end in zip(self.begun, now, strict=True)]),
                    file=said,
                )
            else:
                print("[]", file=said)
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.size = int(line)
            self.left = self.size - 1
            self.begun = time.perf_counter(), time.process_time()

    model = GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_embd=128, n_layer=2, n_head=4, n_positions=64))
    arguments = TrainingArguments(
        folder, use_cpu=True, report_to="none", per_device_train_batch_size=8, max_steps=10_000_000, save_strategy="no",
        logging_steps=50, disable_tqdm=True,
    )  # fmt: skip
    callbacks = []
    if variant == "greenml":
        from greenml.integrations.transformers import GreenCallback

        callbacks = [GreenCallback(sku="ND40rs_v2", region="westus2")]
    elif variant == "codecarbon":
        import codecarbon  # noqa: F401  the reason, if it cannot be imported
        from transformers.integrations import CodeCarbonCallback

        callbacks = [CodeCarbonCallback()]
    Trainer(model, arguments, train_dataset=Tokens(), callbacks=[*callbacks, Gate()]).train()


class Variant:
    """A child that trains when it is told to."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name, self.reason = name, ""
        folder.mkdir(parents=True)
        self._errors = folder / "errors"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--child", name, str(folder / "out")], env=environment, cwd=folder,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
            )  # fmt: skip

    def hear(self) -> list[float]:
        """Wait for what it says; [] where it has ended."""
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._errors.read_text(errors="replace").strip().splitlines()
            self.reason = said[-1] if said else f"ended with {self._process.returncode}"
        return json.loads(line or "[]")

    def block(self, steps: int) -> list[float]:
        """Let it do so many steps; return the seconds and CPU seconds of one of them."""
        print(steps, file=self._process.stdin)
        return self.hear()

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


def environment(folder: Path) -> dict[str, str]:
    """Return the children's: with simulated GPUs, where they can be built."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENML_", "CODECARBON_"))}
    kept |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CODECARBON_LOG_LEVEL": "critical"}
    sys.path.insert(0, str(TESTS))
    from simulated import simnvml

    if simnvml.compiler() is None:
        return kept
    kept.pop("CUDA_VISIBLE_DEVICES", None)
    script = simnvml.Script(gpus=(simnvml.Gpu(power=250.0),) * 8)
    commands = simnvml.fake_nvidia_smi(folder / "commands")
    path = simnvml.write(script, folder / "script")
    return kept | simnvml.environment(simnvml.build(folder), path, commands=commands)


def measure(folder: Path, names: list[str], blocks: int, block_seconds: float) -> dict[str, list[list[float]]]:
    """Return each variant's blocks, [step seconds, CPU seconds] each, from children that are started now."""
    variants = [Variant(name, folder / name, environment(folder)) for name in names]
    for variant in variants:
        variant.hear()
    for variant in variants:
        if variant.reason:
            print(f"{variant.name}: skipped: {variant.reason}")
    variants = [variant for variant in variants if not variant.reason]
    steps = max(1, round(block_seconds / variants[0].block(WARM_STEPS)[0]))
    found: dict[str, list[list[float]]] = {variant.name: [] for variant in variants}
    for _ in range(blocks):
        for one in random.sample(variants, len(variants)):
            found[one.name].append(one.block(steps))
    for variant in variants:
        variant.end()
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by resampling."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(1000))
    return medians[25], medians[974]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=20, help="of each variant in each round")
    parser.add_argument("--block-seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes: where memory lies matters too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        train(*given.child)
        return
    names, found = list(VARIANTS), {name: [] for name in VARIANTS}
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="greenml-trainer-") as folder:
            made = measure(Path(folder), names, given.blocks, given.block_seconds)
        names = list(made)
        for name, blocks in made.items():
            found[name] += blocks
        print(f"round {number + 1} of {given.rounds} done", file=sys.stderr)
    print(f"{'':<12}{'step ms':>9}{'CPU ms':>9}{'step, ratio':>14}{'95 %':>18}{'CPU, ratio':>13}{'95 %':>18}")
    for name in names:
        line = f"{name:<12}" + "".join(
            f"{statistics.median(one[at] for one in found[name]) * 1e3:9.3f}" for at in (0, 1)
        )
        for at, width in ((0, 14), (1, 13)):
            ratios = [one[at] / plain[at] for one, plain in zip(found[name], found["none"], strict=True)]
            low, high = interval(ratios)
            line += f"{statistics.median(ratios):{width}.4f}{f'{low:.4f} to {high:.4f}':>18}"
        print(line if name != "none" else line[:30])
    print(f"\nstep: a step's wall time; CPU: of all the process's threads. Aim: step, ratio of greenml under {AIM}.")


if __name__ == "__main__":
    main()
