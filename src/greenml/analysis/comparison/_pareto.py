"""The Pareto front: the runs that no other beats in both of two things."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> set[int]:
    """Return the places of the points that no other point dominates.

    Args:
        points: (what it takes, what it is worth); less of the first is better.
        higher: whether more of the second is better.

    Returns:
        Those for which no other takes no more and is worth no less, and is better in one of the two. Equal points are
        both on it.
    """
    sign = 1.0 if higher else -1.0
    order = sorted(range(len(points)), key=lambda at: (points[at][0], -sign * points[at][1]))
    found: set[int] = set()
    best: tuple[float, float] | None = None
    for at in order:
        takes, worth = points[at][0], sign * points[at][1]
        if best is None or worth > best[1] or (takes, worth) == best:
            best = (takes, worth)
            found.add(at)
    return found
