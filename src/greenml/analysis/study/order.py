"""The order of a study's cells: random, and balanced so that a drift of the machine does not become an effect.

Every seed is a block, and every block holds each variant once, so that a difference between blocks reaches all variants
alike (a randomised complete block design). Within a block the place matters: what runs late runs on a warmer, fuller
or slower machine. So the blocks are balanced: over all of them, the places of each variant have the same sum. A trend
that is linear in time then adds the same to every variant's mean. Pairs of blocks mirror each other (ABC, CBA); of an
odd number of blocks, three are a set with equal sums.

Source: R. A. Bradley, C.-M. Yeh: Trend-free block designs: theory. The Annals of Statistics 8 (1980), 883-893. With b
blocks of k variants, a design without a linear trend within the blocks is possible if and only if b (k + 1) is even;
where it is odd, the sums here differ by 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def blocks(variants: int, seeds: Sequence[int], order_seed: int) -> list[tuple[int, list[int]]]:
    """Return the blocks in order: the seed of each, and its variants, as numbers from 0.

    Args:
        variants: how many there are.
        seeds: one for each block.
        order_seed: of the random order: the same seed gives the same order.
    """
    chance = random.Random(order_seed)  # noqa: S311  an order, not a key
    groups = []
    left = len(seeds)
    while left:
        size = 3 if left % 2 and left >= 3 else min(left, 2)
        base = (_triple(variants), _pair(variants), [list(range(variants))])[3 - size]
        names = chance.sample(range(variants), variants)
        groups.append(chance.sample([[names[place] for place in block] for block in base], size))
        left -= size
    chance.shuffle(groups)
    order = [block for group in groups for block in group]
    return list(zip(chance.sample(list(seeds), len(seeds)), order, strict=True))


def imbalance(order: Sequence[Sequence[int]]) -> float:
    """Return the largest difference between the mean places of two variants, as a part of all cells.

    A drift of 20 % over the study, even in time, moves no difference between variants by more than 20 % of it.
    """
    variants = len(order[0])
    sums = [sum(block.index(variant) for block in order) for variant in range(variants)]
    return (max(sums) - min(sums)) / len(order) / (variants * len(order))


def _pair(variants: int) -> list[list[int]]:
    return [list(range(variants)), list(reversed(range(variants)))]


def _triple(variants: int) -> list[list[int]]:
    """Return three blocks in which the places of each variant have the same sum, or sums that differ by 1.

    The places in the first block are 0, 1, 2 ...; in the second those of the even variants fall from the middle to 0,
    those of the odd ones from the end to the middle. The sums of these two are all different, and the third block has
    the variants in the falling order of them.
    """
    middle, last = (variants - 1) // 2, variants - 1
    first = list(range(variants))
    second = [middle - variant // 2 if variant % 2 == 0 else last - variant // 2 for variant in first]
    sums = [a + b for a, b in zip(first, second, strict=True)]
    return [
        first,
        sorted(first, key=second.__getitem__),
        sorted(first, key=sums.__getitem__, reverse=True),
    ]
