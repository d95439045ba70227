"""transformers for inference: every call of a pipeline, or of a model's ``generate``, is a request.

``measure_pipeline(pipeline, meter)`` and ``measure_generate(model, meter)`` change the object that they are given, and
return it. Tokens are counted at ``generate``: those of the prompt that are no padding, and those that it made.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

from greenml.redaction import redact_text
from greenml.run.serving.meter import Request, ServingMeter

_request: contextvars.ContextVar[Request | None] = contextvars.ContextVar("greenml_request", default=None)


def measure_generate(model: Any, meter: ServingMeter, *, name: str = "", kind: str = "generate") -> Any:  # noqa: ANN401
    """Make every call of a model's ``generate`` a request; within a measured pipeline's call, a part of that.

    Args:
        model: of transformers.
        meter: from ``greenml.serve()``.
        name: of the model in the figures; by default that of its configuration.
        kind: of the requests.
    """
    inner = model.generate
    if hasattr(inner, "greenml_inner"):
        return model
    label = name or _name(model)

    @functools.wraps(inner)
    def generate(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401  as the model has it
        around = _request.get()
        if around is not None:
            outputs = inner(*arguments, **keywords)
            _count(around, meter, model, (arguments, keywords), outputs)
            return outputs
        with meter.request(label, kind) as request:
            outputs = inner(*arguments, **keywords)
            _count(request, meter, model, (arguments, keywords), outputs)
            return outputs

    generate.greenml_inner = inner  # type: ignore[attr-defined]
    model.generate = generate
    return model


def measure_pipeline(pipeline: Any, meter: ServingMeter, *, name: str = "", kind: str = "") -> Any:  # noqa: ANN401
    """Return a pipeline every call of which is a request, with the tokens that its model reads and makes.

    A call that returns a generator, as for a data set, is one request until the generator ends.

    Args:
        pipeline: of transformers.
        meter: from ``greenml.serve()``.
        name: of the model in the figures; by default that of its configuration.
        kind: of the requests; by default the pipeline's task.
    """
    model = getattr(pipeline, "model", None)
    if model is not None and hasattr(model, "generate"):
        measure_generate(model, meter, name=name)
    return _MeasuredPipeline(pipeline, meter, name or _name(model), kind or str(getattr(pipeline, "task", "")))


class _MeasuredPipeline:
    """A pipeline whose calls are requests; all else is the pipeline's own."""

    def __init__(self, pipeline: Callable[..., Any], meter: ServingMeter, name: str, kind: str) -> None:
        self._pipeline, self._meter, self._name, self._kind = pipeline, meter, name, kind
        self.last: Request | None = None  # of several threads the last that began

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the pipeline has
        return getattr(self._pipeline, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        request = self.last = self._meter.request(self._name, self._kind)
        with _end_at_error(request), _within(request):
            outputs = self._pipeline(*arguments, **keywords)
        if isinstance(outputs, Iterator) or hasattr(outputs, "loader"):
            return _Items(request, outputs)
        request.end()
        return outputs


class _Items:
    """What a call yields item by item; its request ends with the last item, or when nobody can take one any more."""

    def __init__(self, request: Request, outputs: Any) -> None:  # noqa: ANN401  an iterator or an iterable
        self._request, self._outputs = request, outputs
        self._items: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the outputs have
        return getattr(self._outputs, name)

    def __len__(self) -> int:
        return len(self._outputs)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:  # noqa: ANN401
        with _end_at_error(self._request), _within(self._request):
            if self._items is None:
                self._items = iter(self._outputs)
            try:
                return next(self._items)
            except StopIteration:
                self._request.end()
                raise

    def close(self) -> None:
        """Take no further item."""
        self._request.end("cancelled")
        if hasattr(self._outputs, "close"):
            self._outputs.close()

    def __del__(self) -> None:
        self._request.end("cancelled")


class _end_at_error:  # noqa: N801  a context manager
    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:  # noqa: ANN401
        if error is not None:
            self._request.__exit__(kind, error, traceback)


class _within:  # noqa: N801  a context manager
    """Count what ``generate`` does to a request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        self._token = _request.set(self._request)

    def __exit__(self, *_: object) -> None:
        _request.reset(self._token)


def _name(model: Any) -> str:  # noqa: ANN401
    config = getattr(model, "config", None)
    path = str(getattr(config, "name_or_path", "") or getattr(config, "_name_or_path", "") or "")
    return path.rstrip("/").rpartition("/")[2] or type(model).__name__


def _count(
    request: Request,
    meter: ServingMeter,
    model: Any,  # noqa: ANN401
    given: tuple[tuple[Any, ...], dict[str, Any]],
    outputs: Any,  # noqa: ANN401
) -> None:
    """Count the tokens of a call of ``generate``; what cannot be counted is left out, with a note."""
    arguments, keywords = given
    try:
        ids = keywords.get("input_ids", keywords.get("inputs", arguments[0] if arguments else None))
        if ids is not None and (ids.ndim != 2 or getattr(ids.dtype, "is_floating_point", False)):
            ids = None  # sound or pictures
        embedded, mask = keywords.get("inputs_embeds"), keywords.get("attention_mask")
        prompt, read = ids if embedded is None else embedded, None
        if prompt is not None:
            rows, width = (int(size) for size in prompt.shape[:2])
            read = int(mask.sum()) if mask is not None and mask.ndim == 2 else rows * width
        if getattr(model.config, "is_encoder_decoder", False):
            begun = keywords.get("decoder_input_ids")
            start = 1 if begun is None else int(begun.shape[1])
        else:
            start = 0 if ids is None else int(ids.shape[1])
        made = getattr(outputs, "sequences", outputs)
        request.tokens(read, _made(made[:, start:], model))
    except Exception as error:  # noqa: BLE001  a model with another signature
        text = redact_text(f"{type(error).__name__}: {error}")[:150]
        meter.note(f"tokens of {type(model).__name__}.generate were not counted: {text}")


def _made(tokens: Any, model: Any) -> int:  # noqa: ANN401
    """Return how many tokens were made: of each row those up to its end; what follows the end is padding."""
    config = getattr(model, "generation_config", None) or model.config
    ends = getattr(config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    total = 0
    for row in tokens.tolist():
        stops = [row.index(end) + 1 for end in ends if end is not None and end in row]
        total += min(stops, default=len(row))
    return total
