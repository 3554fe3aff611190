"""In which order a tensor's axes lie in memory.

An order lists torch's axes as they are stored, outermost first: (0, 2, 3, 1) is a torch tensor (N, C, H, W) that lies
in memory as (N, H, W, C). Permuting a tensor in torch only changes its order; nothing moves until an operator needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def same_memory(shape: Sequence[int], first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether both orders put the elements at the same places: axes of size 1 may lie anywhere."""
    return [axis for axis in first if shape[axis] != 1] == [axis for axis in second if shape[axis] != 1]


def last(order: Order, axis: int) -> Order:
    """The order with one axis moved to the innermost place."""
    return (*(other for other in order if other != axis), axis)


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor is seen in another shape (torch's view) with the least movement.

    First it is split into ``sizes`` of which the axes of both shapes are products; nothing moves for that. They lie
    in the order ``given``; where that is not ``needed``, they are moved. Merged they are the result, in ``order``.
    """

    sizes: Shape
    given: Order
    needed: Order
    order: Order


def viewed(before: Shape, order: Order, after: Shape, wanted: Order | None = None) -> View:
    """The way from a tensor of shape ``before`` in ``order`` to the shape ``after``.

    Args:
        wanted: the order that the result had best, used where something must move anyway. Without it, what lies
            innermost stays innermost, and the rest keeps its succession.
    """
    parts: list[_Part] = []
    bundles: dict[int, list[int]] = {}  # axes of the result, by the first of those that cannot be told apart
    for left, right in _groups(before, after):
        split = _split(left, right, before, after)
        bundles.update({axis: [axis] for axis in right} if split else {right[0]: right})
        parts += split or [_Part(before[axis], axis, right[0]) for axis in left]
    given = tuple(sorted(range(len(parts)), key=lambda i: (order.index(parts[i].source), i)))
    starts = {parts[i].bundle: place for place, i in reversed(list(enumerate(given)))}
    innermost = parts[given[-1]].bundle if given else None
    succession = sorted(bundles, key=lambda bundle: (bundle == innermost, starts[bundle]))
    needed = _together(parts, succession)
    if wanted is not None and needed != given:
        succession = sorted(bundles, key=wanted.index)
        needed = _together(parts, succession)
    wide = [axis for bundle in succession for axis in bundles[bundle]]
    return View(tuple(part.size for part in parts), given, needed, _with_narrow(after, wide))


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of an axis ``source`` that becomes a piece of the axes called ``bundle``."""

    size: int
    source: int
    bundle: int


def _together(parts: Sequence[_Part], succession: Sequence[int]) -> Order:
    return tuple(i for bundle in succession for i, part in enumerate(parts) if part.bundle == bundle)


def _with_narrow(shape: Shape, wide: Sequence[int]) -> Order:
    """An order of all axes, those of size 1 included: a usual one if the others lie so."""
    order = list(wide)
    for axis, size in enumerate(shape):
        if size == 1:
            order.insert(order.index(axis - 1) + 1 if axis else 0, axis)
    usual = [natural(len(shape)), *([NHWC] if len(shape) == 4 else [])]
    return next((each for each in usual if same_memory(shape, each, order)), tuple(order))


def _groups(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of axes of both shapes with the same number of elements; axes of size 1 are in none."""
    first = iter([axis for axis, size in enumerate(before) if size != 1])
    second = iter([axis for axis, size in enumerate(after) if size != 1])
    for axis in first:
        left, right = [axis], [next(second)]
        a, b = before[left[0]], after[right[0]]
        while a != b:
            if a < b:
                left.append(next(first))
                a *= before[left[-1]]
            else:
                right.append(next(second))
                b *= after[right[-1]]
        yield left, right


def _split(left: Sequence[int], right: Sequence[int], before: Shape, after: Shape) -> list[_Part]:
    """The pieces of which the axes of both sides consist; none if their borders do not fit, as in (2, 3) -> (3, 2)."""
    parts: list[_Part] = []
    sources, targets = list(left), list(right)
    a, b = before[sources[0]], after[targets[0]]
    while sources:
        size = min(a, b)
        if a % size or b % size:
            return []
        parts.append(_Part(size, sources[0], targets[0]))
        a, b = a // size, b // size
        if a == 1:
            sources.pop(0)
            a = before[sources[0]] if sources else 1
        if b == 1:
            targets.pop(0)
            b = after[targets[0]] if targets else 1
    return parts


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
