"""Trainers of a few parameters, and a program of one: it prints a line of JSON a step, and a last one at its end.

python toy_trainer.py '{"folder": "out", "callback": {"max_kwh": 1}, "arguments": {"max_steps": 8}}'
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

transformers.logging.set_verbosity_error()
LENGTH, TRAIN, EVAL, BATCH = 16, 32, 16, 4
DIES = {
    "ValueError": lambda: (_ for _ in ()).throw(ValueError("a step went wrong")),
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "exit": lambda: sys.exit(3),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


class Tokens(torch.utils.data.Dataset):
    """So many rows of tokens, the same every time."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, at):
        tokens = torch.randint(3, 50, (LENGTH,), generator=torch.Generator().manual_seed(at))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens.clone()}


def gpt2():
    """About 5,000 parameters, of which the positions' 256 are frozen."""
    transformers.set_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=LENGTH, bos_token_id=1, eos_token_id=2)
    )
    model.transformer.wpe.weight.requires_grad_(False)
    return model


def t5():
    transformers.set_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
            pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def slow(kind, step_seconds, dies):
    """Return a Trainer class whose steps, of training and of prediction, take so long; one of them may be its last."""

    class Slow(kind):
        losses = ()

        def training_step(self, model, inputs, *more, **named):
            if dies and self.state.global_step == dies["at"]:
                DIES[dies["how"]]()
            time.sleep(step_seconds)
            loss = super().training_step(model, inputs, *more, **named)
            self.losses = (*self.losses, float(loss).hex())
            return loss

        def prediction_step(self, *arguments, **named):
            time.sleep(step_seconds)
            return super().prediction_step(*arguments, **named)

    return Slow


def trainer(folder, *callbacks, step_seconds=0.0, dies=None, seq2seq=False, eval_rows=EVAL, **arguments):
    """Return a Trainer on the CPU, 8 steps an epoch by default."""
    one = transformers.Seq2SeqTrainer if seq2seq else transformers.Trainer
    settings = transformers.Seq2SeqTrainingArguments if seq2seq else transformers.TrainingArguments
    defaults = {
        "output_dir": str(folder), "use_cpu": True, "report_to": "none", "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH, "num_train_epochs": 1, "logging_steps": 4, "save_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip
    made = settings(**(defaults | arguments))
    model = t5() if seq2seq else gpt2()
    return slow(one, step_seconds, dies)(
        model=model, args=made, train_dataset=Tokens(TRAIN), eval_dataset=Tokens(eval_rows), callbacks=list(callbacks)
    )


def weights(model):
    """Return a digest of a model's weights: of every bit."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class Says(transformers.TrainerCallback):
    """Prints a line when training begins, and one a step."""

    def on_train_begin(self, args, state, control, **more):
        self._say(train=time.monotonic())

    def on_step_end(self, args, state, control, **more):
        self._say(step=state.global_step, at=time.monotonic())

    def on_save(self, args, state, control, **more):
        self._say(saved=state.global_step, at=time.monotonic())

    @staticmethod
    def _say(**told):
        os.write(1, json.dumps(told).encode() + b"\n")  # at once: ranks share a pipe


def each(many):
    """Do many things at once, each in a fork with its own environment: what is imported is imported once."""
    import greenml.integrations.transformers
    import greenml.run.finish  # noqa: F401

    trainer(many[0]["folder"])
    children = []
    for told in many:
        pid = os.fork()
        if not pid:
            os.environ |= told.get("environment", {})
            os.dup2(os.open(told["prints"], os.O_WRONLY | os.O_CREAT), 1)
            try:
                main(told)
                sys.exit(0)  # with all that is to be done at an exit
            except Exception as error:
                Says._say(error=repr(error))
                raise
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def main(told):
    """Make a Trainer, do with it what is asked for, and print when it did so and what it learned."""
    if "each" in told:
        each(told["each"])
        return
    script = os.environ.get("SIMNVML_SCRIPT")
    if script and told.get("origin_now"):  # the simulated GPUs' time begins here
        lines = Path(script).read_text().splitlines()
        lines[0] = f"origin {time.monotonic_ns()} {time.time_ns()}"
        Path(script).write_text("\n".join(lines) + "\n")
    from greenml.integrations.transformers import GreenCallback

    begun = time.monotonic()
    callbacks = [Says()] if told.get("callback") is None else [Says(), GreenCallback(**told["callback"])]
    one = trainer(
        told["folder"], *callbacks, step_seconds=told.get("step_seconds", 0.0), dies=told.get("dies"),
        eval_rows=told.get("eval_rows", EVAL), **told.get("arguments", {}),
    )  # fmt: skip
    spans = {}
    calls = {
        "train": lambda: one.train(resume_from_checkpoint=told.get("resume")),
        "evaluate": one.evaluate,
        "predict": lambda: one.predict(Tokens(2 * len(one.eval_dataset))),
    }
    for name in told.get("calls", ["train"]):
        start = time.monotonic()
        calls[name]()
        spans[name] = (start, time.monotonic())
    if one.is_world_process_zero():
        Says._say(
            begun=begun, spans=spans, losses=one.losses, weights=weights(one.model), step=one.state.global_step,
            ended=time.monotonic(),
        )  # fmt: skip


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
