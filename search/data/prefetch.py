"""Batches made ahead of their use, and already on their device."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Sent(NamedTuple):
    tensors: tuple[Tensor, ...]
    copied: torch.cuda.Event | None


class _Failed(NamedTuple):
    error: BaseException


_End = object()


def prefetch(
    batches: Iterator[Any], *, device: torch.device, channels_last: bool, depth: int = 2
) -> Iterator[tuple[Tensor, ...]]:
    """The same batches on `device`, made by a thread while the caller computes.

    Args:
        batches: tuples of tensors; `Pass.drawn` says where a thread would be wrong or not worth it.
        channels_last: whether 4-D tensors take that memory format.
        depth: so many batches wait at most.

    Raises:
        Exception: whatever `batches` raises, in its place. The thread ends when the generator is closed.
    """
    route = _Route(device, channels_last)
    drawn = getattr(batches, "drawn", "by a thread")
    if drawn == "by the caller" or (drawn == "from memory" and device.type == "cpu"):
        return _inline(batches, route)
    return _threaded(batches, route, depth)


def _inline(batches: Iterator[Any], route: _Route) -> Iterator[tuple[Tensor, ...]]:
    try:
        for batch in batches:
            yield route.receive(route.send(batch))
    finally:
        _close(batches)


def _threaded(batches: Iterator[Any], route: _Route, depth: int) -> Iterator[tuple[Tensor, ...]]:
    queue: Queue[Any] = Queue(maxsize=depth)
    stop = Event()
    thread = Thread(target=_produce, args=(batches, route, queue, stop), name="hwnas prefetch", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _End:
            if isinstance(item, _Failed):
                raise item.error
            yield route.receive(item)
    finally:
        stop.set()
        _drain(queue)  # the thread may be waiting for room, for one last item
        thread.join()


def _produce(batches: Iterator[Any], route: _Route, queue: Queue[Any], stop: Event) -> None:
    last: Any = _End
    try:
        for batch in batches:
            if stop.is_set():
                break
            queue.put(route.send(batch))
            if stop.is_set():
                break
    except BaseException as error:  # the consumer is to see it, whatever it is
        last = _Failed(error)
    finally:
        _close(batches)  # in this thread, which is the only one that runs the generator
    if not stop.is_set():
        queue.put(last)


def _close(batches: Iterator[Any]) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def _drain(queue: Queue[Any]) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        pass


class _Route:
    """From the CPU to a device: `send` begins the copy, `receive` makes the caller's stream wait for it."""

    def __init__(self, device: torch.device, channels_last: bool) -> None:
        self.device = device
        self.channels_last = channels_last
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, batch: tuple[Tensor, ...]) -> _Sent:
        if self.stream is None:
            return _Sent(tuple(self._laid_out(t.to(self.device)) for t in batch), None)
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            sent = tuple(self._laid_out(t.pin_memory().to(self.device, non_blocking=True)) for t in batch)
            copied = torch.cuda.Event()
            copied.record(self.stream)
        return _Sent(sent, copied)

    def receive(self, sent: _Sent) -> tuple[Tensor, ...]:
        if sent.copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(sent.copied)
            for tensor in sent.tensors:
                tensor.record_stream(stream)
        return sent.tensors

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return to_channels_last(tensor) if self.channels_last and tensor.ndim == 4 else tensor


def to_channels_last(images: Tensor) -> Tensor:
    """(N, C, H, W) with channels last in memory, in such a way that convolutions see it.

    With one channel both layouts are the same memory, and torch leaves strides that tell convolutions the other one:
    the whole network behind would run in that.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    if images.shape[1] != 1:
        return images
    height, width = images.shape[2:]
    return images.as_strided(images.shape, (height * width, 1, width, 1))
