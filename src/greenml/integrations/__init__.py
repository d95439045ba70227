"""Callbacks and trackers for trainers: one file a framework, which imports it; nothing else of greenml imports them.

What callbacks share stands here: faults kept out of the training, phases side by side, sizes of batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import greenml
from greenml.errors import is_of_handler

log = logging.getLogger("greenml")
MOST_NESTED = 8  # a batch that is nested deeper is not searched


class Troubled(Protocol):
    """What takes note of a fault."""

    def trouble(self, text: str) -> None:
        """Take a line of what went wrong."""


Method = TypeVar("Method", bound=Callable[..., Any])


def quiet(method: Method) -> Method:
    """Keep an exception of a callback's method out of the training: it becomes a note, and a line in the log."""

    @functools.wraps(method)
    def guarded(self: Troubled, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as the method has it
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # no fault of ours may end a training
            if is_of_handler(error):
                raise
            with contextlib.suppress(Exception):  # the callback itself may be what is broken
                self.trouble(f"{method.__name__}: {type(error).__name__}: {error}")
            return None

    return guarded  # type: ignore[return-value]


# The runs of callbacks whose framework is not at work: the thread that it worked in, and when it ended.
_resting: dict[greenml.Run, tuple[int, float]] = {}
_paused: weakref.WeakSet[greenml.Run] = weakref.WeakSet()  # those that ended since another callback's run began


class MeasuringCallback:
    """A framework's callback that has one run, with phases beside each other.

    A thread works for one callback at a time. When the run of the next begins, the runs that rest in this thread end,
    as of their last work, so that no second is billed to two of them. A callback that works again after that adds an
    attempt to its run.

    Args:
        settings: arguments of ``greenml.track()``, but where the record goes.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__()
        self._settings = settings
        self._run: greenml.Run | None = None
        self._phase: int | None = None
        self._fitting = False
        self._troubles: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run to this object: tuners copy callbacks, and strategies that spawn pickle them."""
        return {**self.__dict__, "_run": None, "_phase": None, "_fitting": False}

    @property
    def run(self) -> greenml.Run | None:
        """The run, once it has begun: for phases, parameters and results of your own."""
        return self._run

    def trouble(self, text: str) -> None:
        """Say once what went wrong in the callback, in the log and in the record."""
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("greenml: %s; training goes on", text)
            if self._run is not None:
                self._run.note(text, "callback")

    def _goes_on(self) -> bool:
        """Tell whether there is a run that measures, which is at work from now on; else ``_start`` begins one."""
        if self._run is not None:
            _resting.pop(self._run, None)
        return self._run is not None and self._run not in _paused

    def _start(self, output: str | os.PathLike[str] | None) -> greenml.Run:
        """Begin a run, or another attempt of the one that was paused."""
        for run, (thread, worked_seconds) in list(_resting.items()):
            if thread == threading.get_ident():
                del _resting[run]
                _paused.add(run)
                run.stop("completed", None, worked_seconds)
        settings = self._settings
        if self._run is not None:
            output, settings = self._run.output, {**settings, "resume": True}
        self._run = greenml.track(output, **settings).start()
        return self._run

    def _rest(self) -> None:
        """Write the record so far: the framework has done what it was asked for."""
        if self._run is not None:
            self._run.save("completed")
            _resting[self._run] = threading.get_ident(), time.monotonic()

    def _enter(self, name: str | None) -> None:
        """Close the phase that is open and begin another: phases lie beside each other."""
        if self._run is not None:
            if self._phase is not None:
                self._run.end_phase(self._phase)
            self._phase = self._run.begin_phase(name) if name is not None else None

    def _end(self, error: BaseException | None) -> greenml.RunRecord | None:
        """End the run and return its record; a later hook begins another run."""
        run, self._run, self._phase, self._fitting = self._run, None, None, False
        if run is None:
            return None
        _resting.pop(run, None)
        run.__exit__(type(error) if error is not None else None, error, None)
        return run.record


def figures(run: greenml.Run) -> dict[str, float]:
    """Return the running totals under the names that loggers show; what is not known has no name."""
    return run.totals().figures(run.settings.tier or "dedicated")


@contextlib.contextmanager
def environment(**variables: int | str) -> Iterator[None]:
    """Set environment variables as torchrun would, where the framework's launcher leaves ``RANK`` out."""
    missing = {} if "RANK" in os.environ else {name: str(value) for name, value in variables.items()}
    before = {name: os.environ.get(name) for name in missing}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def batch_size(batch: Any, main_input: str = "input_ids") -> tuple[int, int]:  # noqa: ANN401  a batch may be anything
    """Return a batch's samples and tokens, padding included, from the shapes of its tensors alone; 0 is not known.

    Samples are the first dimension of the main input, else of the first tensor. Tokens are the elements of the tensors
    of token ids: those named ``input_ids`` or, where there is none, ``attention_mask``, however deep the batch is
    nested. Names may have a prefix or an end: a batch of sentence-transformers has ``anchor_input_ids`` and
    ``positive_input_ids``, one of TRL ``chosen_input_ids`` or ``input_ids_chosen``. Samples that were joined into
    one row are counted by ``cu_seq_lens_q``, where each begins, and not known without it.

    Args:
        batch: a tensor, or mappings and sequences of them; a list of rows, each a mapping, is a batch too.
        main_input: the model's main input, where that is not ``input_ids``.
    """
    tensors = list(_tensors(batch, "", 0))
    is_list = isinstance(batch, list | tuple) and all(isinstance(row, Mapping) for row in batch)
    if is_list and not any(len(tensor.shape) > 1 for tensor in tensors):  # rows that are not collated
        rows = [_tokens(list(_tensors(row, "", 0)), main_input, rank=1) for row in batch]
        return len(batch), sum(_elements(shapes) for shapes in rows)
    ids = _tokens(tensors, main_input, rank=2)
    if _is_images_and_targets(batch):
        return len(batch[0]), _elements(ids)
    main = [tensor.shape for tensor in tensors if tensor.name.endswith(main_input) and tensor.shape]
    joined = [tensor.shape for tensor in tensors if tensor.name.endswith("cu_seq_lens_q") and len(tensor.shape) == 1]
    if joined:
        return joined[0][0] - 1, _elements(ids)
    first = next((shape for shape in (*main, *ids, *(tensor.shape for tensor in tensors)) if shape), ())
    return (first[0] if first else 0), _elements(ids)


def _is_images_and_targets(batch: Any) -> bool:  # noqa: ANN401
    """Tell whether a batch is one of detection: images of any size and a mapping for each, side by side."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        return False
    images, targets = batch
    columns = all(isinstance(column, list | tuple) for column in batch) and len(images) == len(targets) > 0
    return (
        columns
        and all(len(_shape(image) or ()) == 3 for image in images)
        and all(isinstance(target, Mapping) for target in targets)
    )


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    whole: bool  # holds whole numbers, as token ids are


def _tokens(tensors: Sequence[_Tensor], main_input: str, *, rank: int) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors of token ids, of this many dimensions or more.

    A decoder's are the labels, moved by one: some collators add them. The mask of a sound has no tokens.
    """
    sounds = {tensor.shape for tensor in tensors if not tensor.whole}
    for name in (main_input, "input_ids", "attention_mask"):
        shapes = [
            tensor.shape
            for tensor in tensors
            if name in tensor.name and "decoder_" not in tensor.name and tensor.whole and len(tensor.shape) >= rank
            and not (name == "attention_mask" and tensor.shape in sounds)
        ]  # fmt: skip
        if shapes:
            return shapes
    return []


def _elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _tensors(value: Any, name: str, depth: int) -> Iterator[_Tensor]:  # noqa: ANN401
    """Yield every tensor in a batch; a list of numbers, or of such lists, is one."""
    shape = _shape(value)
    if shape is not None:
        yield _Tensor(name, shape, "float" not in str(getattr(value, "dtype", "")))
    elif depth > MOST_NESTED:
        return
    elif (columns := _columns(value)) is not None:
        for key, inner in columns.items():
            yield from _tensors(inner, str(key), depth + 1)
    elif isinstance(value, list | tuple) and value:
        first = value[0]
        if isinstance(first, int | float | str):
            yield _Tensor(name, (len(value),), isinstance(first, int))
        elif isinstance(first, list | tuple) and first and isinstance(first[0], int):
            yield _Tensor(name, (len(value), max(len(row) for row in value)), whole=True)
        else:
            for inner in value:
                yield from _tensors(inner, name, depth + 1)


def _columns(value: Any) -> Mapping[Any, Any] | None:  # noqa: ANN401
    """Return what a mapping or a dataclass holds, by name; None for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, Mapping):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return value if isinstance(value, Mapping) else None


def _shape(value: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    """Return a tensor's shape; of one whose rows differ in length (a nested tensor) the number of rows alone."""
    try:
        shape = getattr(value, "shape", None)
        return None if shape is None else tuple(map(int, shape))
    except Exception:  # noqa: BLE001  torch's nested tensors have no shape, or one with a size that is no number
        with contextlib.suppress(Exception):
            return (int(value.size(0)),)
        return None
