"""ONNX Runtime: every run of an ``InferenceSession`` is a request.

``session = measured(onnxruntime.InferenceSession(path), meter, model="bart-int8")`` is used as the session is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from greenml.run.serving.meter import Request, ServingMeter

RUNS = ("run", "run_with_iobinding", "run_with_ort_values")
Tokens = Callable[[Mapping[str, Any], Any], tuple[int | None, int | None]]


class MeasuredSession:
    """An ``InferenceSession`` whose runs are requests; all else is the session's own.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        meter: from ``greenml.serve()``.
        model: its name in the figures; by default that of the model's graph.
        kind: of the requests.
        tokens: takes the inputs and the outputs of a run, and returns how many tokens were read and made; by default
            the cells of ``attention_mask`` that are set, else those of ``input_ids``, were read.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401  onnxruntime's
        meter: ServingMeter,
        *,
        model: str = "",
        kind: str = "onnxruntime",
        tokens: Tokens | None = None,
    ) -> None:
        self._session, self._meter, self._kind = session, meter, kind
        self._model, self._tokens = model or _name(session), tokens or _tokens
        self.last: Request | None = None  # of this session; of several threads the last that began

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the session has
        return getattr(self._session, name)

    def run(self, output_names: Any, input_feed: Mapping[str, Any], run_options: Any = None) -> Any:  # noqa: ANN401
        """Run the model; as the session's ``run``."""
        return self._measured("run", output_names, input_feed, run_options, feed=input_feed)

    def run_with_ort_values(
        self,
        output_names: Any,  # noqa: ANN401
        input_dict_ort_values: Mapping[str, Any],
        run_options: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Run the model on values of onnxruntime; as the session's."""
        feed = input_dict_ort_values
        return self._measured("run_with_ort_values", output_names, feed, run_options, feed=feed)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> Any:  # noqa: ANN401
        """Run the model on bound buffers, whose tokens are not known; as the session's."""
        return self._measured("run_with_iobinding", iobinding, run_options, feed={})

    def _measured(self, method: str, *arguments: Any, feed: Mapping[str, Any]) -> Any:  # noqa: ANN401
        with self._meter.request(self._model, self._kind) as request:
            self.last = request
            outputs = getattr(self._session, method)(*arguments)
            try:
                read, made = self._tokens(feed, outputs)
            except Exception as error:  # noqa: BLE001  a wrong count costs the count
                self._meter.note(f"tokens of {self._model or 'a session'} were not counted: {type(error).__name__}")
            else:
                request.tokens(read, made)
        return outputs


measured = MeasuredSession


def _name(session: Any) -> str:  # noqa: ANN401
    try:
        return str(session.get_modelmeta().graph_name)
    except Exception:  # noqa: BLE001  another kind of session
        return ""


def _tokens(feed: Mapping[str, Any], _: Any) -> tuple[int | None, int | None]:  # noqa: ANN401
    mask, ids = feed.get("attention_mask"), feed.get("input_ids")
    if mask is not None and hasattr(mask, "sum"):
        return int(mask.sum()), None
    return (int(ids.size), None) if ids is not None and isinstance(getattr(ids, "size", None), int) else (None, None)
