"""In which order a tensor's axes lie in memory.

An order lists torch's axes as they are stored, outermost first: (0, 2, 3, 1) is a torch tensor (N, C, H, W) that lies
in memory as (N, H, W, C). Permuting a tensor in torch only changes its order; nothing moves until an operator needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Order = tuple[int, ...]
Shape = tuple[int, ...]

NHWC: Order = (0, 2, 3, 1)


def natural(rank: int) -> Order:
    """As in torch."""
    return tuple(range(rank))


def at_the_border(rank: int) -> Order:
    """The order of a model's inputs and outputs: images with their channels last, anything else as in torch."""
    return NHWC if rank == 4 else natural(rank)


def stored(shape: Sequence[T], order: Order) -> tuple[T, ...]:
    """What is given for each of torch's axes (sizes, paddings, repetitions) as the axes lie in memory."""
    return tuple(shape[axis] for axis in order)


def same_memory(shape: Sequence[int], first: Order, second: Order) -> bool:
    """Whether both orders put the elements at the same places: axes of size 1 may lie anywhere."""
    return [axis for axis in first if shape[axis] != 1] == [axis for axis in second if shape[axis] != 1]


def last(order: Order, axis: int) -> Order:
    """The order with one axis moved to the innermost place."""
    return (*(other for other in order if other != axis), axis)


def viewed(before: Shape, order: Order, after: Shape) -> tuple[Order, Order]:
    """How a tensor of shape ``before`` is seen as ``after`` (torch's view, same elements) with the least movement.

    Axes that are split or merged belong to one group on each side; groups may lie in memory in any order, but the axes
    inside a group must lie together and in torch's order.

    Returns:
        the order that the tensor must have first (the one it has wherever possible), and that of the result.
    """
    if not before:
        return order, natural(len(after))
    place = {axis: i for i, axis in enumerate(order)}
    groups = _groups(before, after)

    def position(group: tuple[list[int], list[int]]) -> int:
        wide = [place[axis] for axis in group[0] if before[axis] != 1]
        return min(wide or [place[axis] for axis in group[0]])

    groups.sort(key=position)
    needed = tuple(axis for group in groups for axis in group[0])
    result = tuple(axis for group in groups for axis in group[1])
    return (order if same_memory(before, order, needed) else needed), result


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of both shapes that hold the same number of elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        i, j = i + 1, j + 1
        a, b = before[left[0]], after[right[0]]
        while a != b:
            if (a < b and i < len(before)) or j >= len(after):
                a *= before[i]
                left.append(i)
                i += 1
            else:
                b *= after[j]
                right.append(j)
                j += 1
        groups.append((left, right))
    if not groups:  # the result has no axes at all
        return [(list(range(len(before))), [])]
    groups[-1][0].extend(range(i, len(before)))
    groups[-1][1].extend(range(j, len(after)))
    return groups


def coalesced(shape: Shape, permutation: Sequence[int]) -> tuple[Shape, tuple[int, ...]]:
    """The same movement of elements with fewer axes: those of size 1 dropped, those that stay together merged.

    Args:
        shape: what is transposed, as stored.
        permutation: place in ``shape`` of each axis of the result.
    """
    runs: list[list[int]] = []
    for place in permutation:
        if shape[place] == 1:
            continue
        if runs and all(shape[p] == 1 for p in range(runs[-1][-1] + 1, place)) and place > runs[-1][-1]:
            runs[-1].append(place)
        else:
            runs.append([place])
    by_place = sorted(range(len(runs)), key=lambda run: runs[run][0])
    merged = tuple(math.prod(shape[p] for p in runs[run]) for run in by_place)
    return merged, tuple(by_place.index(run) for run in range(len(runs)))
