"""Wraps one Trainer's own methods: some moments of its life have no hook."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from transformers import Trainer, TrainerCallback

PHASES = {"evaluate": "eval", "predict": "predict", "_save_checkpoint": "save", "save_model": "save"}
WITH_RESULTS = ("evaluate", "predict")


class Watcher(Protocol):
    """Who is told of those moments; none of it raises into the Trainer."""

    @property
    def training(self) -> bool:
        """True inside the training phase."""

    def within(self, name: str) -> AbstractContextManager[None]:
        """Be in a phase, beside the one that is open."""

    def count(self, inputs: Any) -> None:  # noqa: ANN401  a batch may be anything
        """Take note of a batch."""

    def keep_results(self, result: Any) -> None:  # noqa: ANN401  what the method returned
        """Keep the metrics of what ended."""

    def failed(self, error: BaseException) -> None:
        """Training ended by an exception."""

    def card(self, path: Path) -> None:
        """The Trainer wrote its model card."""


def wrap(trainer: Trainer, watcher: Watcher) -> None:
    """Wrap the methods of this Trainer, and of no other."""
    for method, name in PHASES.items():
        if hasattr(trainer, method):
            setattr(trainer, method, _phase(getattr(trainer, method), name, watcher, results=method in WITH_RESULTS))
    for method, around in (("train", _train), ("training_step", _step), ("create_model_card", _card)):
        setattr(trainer, method, around(getattr(trainer, method), trainer, watcher))


def _phase(original: Callable[..., Any], name: str, watcher: Watcher, *, results: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        inside = watcher.training
        with watcher.within(name):
            result = original(*args, **kwargs)
        if results and not inside:
            watcher.keep_results(result)
        return result

    return wrapped


def _train(original: Callable[..., Any], _: Trainer, watcher: Watcher) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            watcher.failed(error)
            raise
        watcher.keep_results(result)
        return result

    return train


def _step(original: Callable[..., Any], _: Trainer, watcher: Watcher) -> Callable[..., Any]:
    @functools.wraps(original)
    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        watcher.count(inputs)
        return original(model, inputs, *args, **kwargs)

    return training_step


def _card(original: Callable[..., Any], trainer: Trainer, watcher: Watcher) -> Callable[..., Any]:
    @functools.wraps(original)
    def create_model_card(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        original(*args, **kwargs)
        if trainer.is_world_process_zero():
            watcher.card(Path(trainer.args.output_dir or ".") / "README.md")

    return create_model_card


def trainer_calling(callback: TrainerCallback) -> Trainer | None:
    """Find the Trainer that is calling: no hook is given it."""
    frame = inspect.currentframe()
    while frame is not None:
        one = frame.f_locals.get("self")
        if isinstance(one, Trainer) and callback in getattr(one.callback_handler, "callbacks", ()):
            return one
        frame = frame.f_back
    return None
