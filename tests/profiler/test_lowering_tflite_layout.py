"""Orders of axes in memory, against numpy."""

from __future__ import annotations

import math

import numpy as np
from hwnas.profiler.lowering.tflite.layout import NHWC, coalesced, natural, same_memory, stored, viewed
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.sampled_from([1, 1, 2, 3, 4, 6])


@st.composite
def factorised(draw: st.DrawFn, whole: int) -> tuple[int, ...]:
    """A shape of ``whole`` elements."""
    shape: list[int] = []
    while whole > 1 and len(shape) < 4:
        size = draw(st.sampled_from([n for n in range(1, whole + 1) if whole % n == 0]))
        shape.append(size)
        whole //= size
    return tuple([*shape, whole][: 5 if whole > 1 or not shape else len(shape)])


@given(data=st.data(), shape=st.lists(SIZES, max_size=4))
def test_views_follow_torch_s_order_of_elements(data: st.DataObject, shape: list[int]) -> None:
    before = tuple(shape)
    order = tuple(data.draw(st.permutations(range(len(before)))))
    after = data.draw(factorised(math.prod(before)))
    wanted = tuple(data.draw(st.permutations(range(len(after))))) if data.draw(st.booleans()) else None
    values = np.arange(math.prod(before)).reshape(before)
    memory = values.transpose(order).reshape(-1)
    way = viewed(before, order, after, wanted)
    moved = memory.reshape(stored(way.sizes, way.given)).transpose([way.given.index(part) for part in way.needed])
    result = moved.reshape(stored(after, way.order)).transpose([way.order.index(axis) for axis in range(len(after))])
    np.testing.assert_array_equal(result, values.reshape(after))
    if same_memory(before, order, natural(len(before))):
        assert way.needed == way.given


def test_views_that_need_no_movement() -> None:
    def is_free(before: tuple[int, ...], order: tuple[int, ...], after: tuple[int, ...]) -> bool:
        way = viewed(before, order, after)
        return way.needed == way.given

    assert is_free((2, 8, 4, 6), NHWC, (2, 8, 24))
    assert is_free((2, 8, 4, 6), NHWC, (2, 2, 4, 4, 6))
    assert is_free((2, 8, 1, 1), NHWC, (2, 8))
    assert is_free((2, 1, 4, 6), NHWC, (2, 24))
    assert is_free((1, 8, 4, 6), NHWC, (8, 4, 6))
    assert not is_free((2, 8, 4, 6), NHWC, (2, 192))
    assert not is_free((2, 8, 4, 6), NHWC, (2, 32, 6))


@given(data=st.data(), shape=st.lists(SIZES, min_size=1, max_size=6))
def test_movements_in_fewer_axes_are_the_same(data: st.DataObject, shape: list[int]) -> None:
    permutation = data.draw(st.permutations(range(len(shape))))
    values = np.arange(math.prod(shape))
    merged, order = coalesced(tuple(shape), permutation)
    expected = values.reshape(shape).transpose(permutation).reshape(-1)
    np.testing.assert_array_equal(values.reshape(merged).transpose(order).reshape(-1), expected)
    assert len(merged) <= len(shape)
    assert 1 not in merged
