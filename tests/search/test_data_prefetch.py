"""Batches made ahead: the same ones, errors in their place, threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hwnas.search.data.prefetch import prefetch, to_channels_last
from hwnas.search.data.registry import load_data
from torch import Tensor

CPU = torch.device("cpu")


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "hwnas prefetch"]


class Counter:
    """A source that knows how far it was drawn, by whom, and whether it was closed."""

    def __init__(self, n: int = 100, fails_at: int | None = None) -> None:
        self.drawn = 0
        self.closed = False
        self.threads: set[int] = set()
        self.n, self.fails_at = n, fails_at

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            for i in range(self.n):
                self.threads.add(threading.get_ident())
                if i == self.fails_at:
                    raise ValueError(f"batch {i}")
                self.drawn += 1
                yield torch.full((2, 3, 4, 4), float(i)), torch.tensor([i, i])
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [1, 2, 200])
def test_the_same_batches_in_order(depth: int) -> None:
    source = Counter()
    found = [int(y[0]) for _, y in prefetch(source(), device=CPU, channels_last=False, depth=depth)]
    assert found == list(range(100))
    assert threading.get_ident() not in source.threads
    assert not ours()


def test_memory_format() -> None:
    for channels_last in (True, False):
        (x, y), *_ = prefetch(Counter(3)(), device=CPU, channels_last=channels_last)
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert x.is_contiguous() != channels_last
        assert y.is_contiguous()


def test_it_runs_ahead_but_not_far() -> None:
    source = Counter()
    batches = prefetch(source(), device=CPU, channels_last=False, depth=3)
    next(batches)
    deadline = time.monotonic() + 10
    while source.drawn < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert source.drawn == 5  # one taken, three that wait, one in the thread's hand
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("taken", [1, 3])
def test_closing_ends_thread_and_source(taken: int) -> None:
    source = Counter()
    batches = prefetch(source(), device=CPU, channels_last=False)
    for _ in range(taken):
        next(batches)
    assert len(ours()) == 1
    batches.close()  # type: ignore[attr-defined]
    assert not ours()
    assert source.closed


def test_leaving_a_loop_ends_the_thread() -> None:
    for _ in prefetch(Counter()(), device=CPU, channels_last=False):
        break
    assert not ours()


def test_errors_come_in_their_place() -> None:
    source = Counter(fails_at=4)
    found = []
    with pytest.raises(ValueError, match="batch 4") as caught:  # noqa: PT012  the batches before are part of it
        for _, y in prefetch(source(), device=CPU, channels_last=False):
            found.append(int(y[0]))
    assert found == [0, 1, 2, 3]
    assert "__call__" in {frame.name for frame in caught.traceback}
    assert not ours()


def test_in_memory_and_global_state_need_no_thread() -> None:
    data = load_data("digits", batch_size=64, arch_batch_size=32, seed=0)
    batches = prefetch(data.train.epoch(0), device=CPU, channels_last=True)
    first: Any = next(batches)
    assert not ours()
    x, y = next(data.train.epoch(0))
    assert torch.equal(first[0], x)
    assert torch.equal(first[1], y)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("channels_last", [False, True])
def test_on_cuda(channels_last: bool) -> None:
    found = list(prefetch(Counter()(), device=torch.device("cuda"), channels_last=channels_last))
    assert all(x.is_cuda and y.is_cuda for x, y in found)
    assert [int(y[0]) for _, y in found] == list(range(100))
    assert all(float(x.mean()) == i for i, (x, _) in enumerate(found))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_is_what_a_convolution_sees(channels: int) -> None:
    images = torch.arange(2.0 * channels * 5 * 7).reshape(2, channels, 5, 7)
    laid_out = to_channels_last(images)
    assert torch.equal(laid_out, images)
    output = torch.nn.Conv2d(channels, 8, 3)(laid_out)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert not output.is_contiguous()
