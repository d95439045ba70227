"""Many stretches of a phase made fewer: the shortest pauses between them are closed, and counted nowhere."""

from __future__ import annotations

from dataclasses import replace

from greenml.model import Span


def join(spans: list[Span], most: int) -> tuple[list[Span], float]:
    """Join a phase's stretches across its shortest pauses until there are no more than ``most``.

    What the stretches held (count, seconds, joules) adds up; the pauses are not in it.

    Returns:
        The spans, and how many seconds of pauses lie within them now.
    """
    pause, blurred = 0.05, 0.0
    most = max(most, len({span.path for span in spans}))  # of each name one stays
    while len(spans) > most:
        joined: list[Span] = []
        latest: dict[str, int] = {}
        for span in sorted(spans, key=lambda one: one.start_seconds):
            at = latest.get(span.path)
            end = joined[at].end_seconds if at is not None else None
            if at is not None and end is not None and span.start_seconds - end <= pause:
                blurred += max(0.0, span.start_seconds - end)
                joined[at] = _add(joined[at], span)
            else:
                latest[span.path] = len(joined)
                joined.append(span)
        spans, pause = joined, pause * 2
    return spans, blurred


def length_seconds(span: Span) -> float:
    """Return how long a stretch is, without the pauses that were closed in it."""
    return span.seconds if span.seconds is not None else (span.end_seconds or span.start_seconds) - span.start_seconds


def _add(first: Span, second: Span) -> Span:
    ends = (first.end_seconds or first.start_seconds, second.end_seconds or second.start_seconds)
    overlap = max(0.0, min(ends) - second.start_seconds)
    new = (
        max(0.0, 1.0 - overlap / length_seconds(second)) if length_seconds(second) else 1.0
    )  # of the second, beside the first
    held = [one.joules or {} for one in (first, second)]
    keys = held[0].keys() | held[1].keys()
    return replace(
        first,
        end_seconds=max(ends),
        count=first.count + second.count,
        seconds=length_seconds(first) + length_seconds(second) * new,
        joules={key: held[0].get(key, 0.0) + held[1].get(key, 0.0) * new for key in keys} or None,
    )
