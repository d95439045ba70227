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

    def within(self, name: str) -> AbstractContextManager[bool]:
        """Be in a phase, beside the one that is open; gives whether that one is training."""

    def count(self, inputs: Any) -> None:  # noqa: ANN401  a batch may be anything
        """Take note of a batch."""

    def keep_results(self, result: Any) -> None:  # noqa: ANN401  what the method returned
        """Keep the metrics of what ended."""

    def failed(self, error: BaseException) -> None:
        """Training, or a search, ended by an exception."""

    def searched(self, best: Any) -> None:  # noqa: ANN401  as the search's backend has it
        """A hyperparameter search ended."""

    def card(self, path: Path) -> None:
        """The Trainer wrote its model card."""


# Looked for at every call: a Trainer that resumes may put another object in the callback's place.
Find = Callable[[], Watcher | None]
Method = Callable[..., Any]


def wrap(trainer: Trainer, kind: type[TrainerCallback]) -> None:
    """Wrap the methods of this Trainer, and of no other, once; they tell its callback of a kind, if it has one."""
    if getattr(trainer.train, "tells_greenml", False):
        return

    def find() -> Any:  # noqa: ANN401  a watcher that is a callback
        return next((one for one in trainer.callback_handler.callbacks if isinstance(one, kind)), None)

    wrapped = {
        method: _phase(getattr(trainer, method), name, find, results=method in WITH_RESULTS)
        for method, name in PHASES.items()
        if hasattr(trainer, method)
    }
    wrapped["training_step"] = _step(trainer.training_step, find)
    wrapped["train"] = _whole(trainer.train, find, lambda watcher, result: watcher.keep_results(result))
    search = trainer.hyperparameter_search
    wrapped["hyperparameter_search"] = _whole(search, find, lambda watcher, best: watcher.searched(best))
    wrapped["create_model_card"] = _card(trainer.create_model_card, trainer, find)
    for method, one in wrapped.items():
        setattr(trainer, method, one)


def _phase(original: Method, name: str, find: Find, *, results: bool) -> Method:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        watcher = find()
        if watcher is None:
            return original(*args, **kwargs)
        with watcher.within(name) as training:
            result = original(*args, **kwargs)
        if results and not training:
            watcher.keep_results(result)
        return result

    return wrapped


def _whole(original: Method, find: Find, ended: Callable[[Watcher, Any], None]) -> Method:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            if (watcher := find()) is not None:
                watcher.failed(error)
            raise
        if (watcher := find()) is not None:
            ended(watcher, result)
        return result

    wrapped.tells_greenml = True  # type: ignore[attr-defined]
    return wrapped


def _step(original: Method, find: Find) -> Method:
    @functools.wraps(original)
    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if (watcher := find()) is not None:
            watcher.count(inputs)
        return original(model, inputs, *args, **kwargs)

    return training_step


def _card(original: Method, trainer: Trainer, find: Find) -> Method:
    @functools.wraps(original)
    def create_model_card(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        original(*args, **kwargs)
        if trainer.is_world_process_zero() and (watcher := find()) is not None:
            watcher.card(Path(trainer.args.output_dir or ".") / "README.md")

    return create_model_card


def trainer_calling(callback: TrainerCallback | None = None) -> Trainer | None:
    """Find the Trainer that is calling: no hook is given it.

    Args:
        callback: one that it has; None for any Trainer.
    """
    frame = inspect.currentframe()
    while frame is not None:
        one = frame.f_locals.get("self")
        if isinstance(one, Trainer) and (
            callback is None or callback in getattr(one.callback_handler, "callbacks", ())
        ):
            return one
        frame = frame.f_back
    return None
