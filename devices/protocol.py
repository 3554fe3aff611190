"""Messages between host and agent: a fixed prefix, a JSON header, raw binary blobs. No pickle.

Frame: magic ``hwna``, protocol version (uint16), header length (uint32), header (UTF-8 JSON object whose "blobs" lists
the blobs' lengths), the blobs. Big endian. The prefix is the same in every version, so that a mismatch is recognised.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Sequence
from typing import Any

from ..errors import HwnasError

PROTOCOL_VERSION = 2
MAGIC = b"hwna"
MAX_HEADER = 64 << 20
MAX_BLOBS = 2 << 30
_PREFIX = struct.Struct(">4sHI")


class ProtocolError(HwnasError):
    """What arrived is not a message of this protocol version."""


class StreamClosed(ProtocolError):
    """The other side has gone."""


class StreamTimeout(ProtocolError):
    """The other side did not answer in time."""


class Channel:
    """One end of a pair of pipes. With a timeout a call gives up after that many seconds; without, it blocks."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd

    def send(self, header: dict[str, Any], blobs: Sequence[bytes] = (), timeout_s: float | None = None) -> None:
        """Send one message.

        Raises:
            StreamClosed, StreamTimeout: the other side has gone or does not read.
            ProtocolError: the message is over the size limits.
        """
        text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
        size = sum(map(len, blobs))
        if len(text) > MAX_HEADER or size > MAX_BLOBS:
            raise ProtocolError(f"message too large: {size >> 20} MB of data, the limit is {MAX_BLOBS >> 20} MB")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._write(_PREFIX.pack(MAGIC, PROTOCOL_VERSION, len(text)) + text, deadline)
        for blob in blobs:
            self._write(blob, deadline)

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
        """Wait for one message: its header and its blobs.

        Raises:
            StreamClosed, StreamTimeout: the other side has gone or says nothing.
            ProtocolError: foreign bytes, another protocol version, or a message over the size limits.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        magic = self._read(len(MAGIC), deadline)
        if magic != MAGIC:
            raise ProtocolError(f"foreign output on the stream: {magic + self._read_leftovers()!r}")
        _, version, length = _PREFIX.unpack(magic + self._read(_PREFIX.size - len(MAGIC), deadline))
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"the other side speaks protocol {version}, this side {PROTOCOL_VERSION}")
        if length > MAX_HEADER:
            raise ProtocolError(f"a header of {length} bytes was announced, the limit is {MAX_HEADER}")
        header, lengths = _parse_header(self._read(length, deadline))
        return header, [self._read(n, deadline) for n in lengths]

    def _write(self, data: bytes, deadline: float | None) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._write_fd, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._write_fd, view) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                raise StreamClosed("the other side closed the stream") from None

    def _read(self, count: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._wait(self._read_fd, select.POLLIN, deadline)
            chunk = os.read(self._read_fd, min(count - len(data), 1 << 20))
            if not chunk:
                said = f" after {bytes(data[:200])!r}" if data else ""
                raise StreamClosed(f"the other side closed the stream{said}")
            data += chunk
        return bytes(data)

    def _read_leftovers(self) -> bytes:
        try:
            self._wait(self._read_fd, select.POLLIN, time.monotonic() + 0.2)
        except StreamTimeout:
            return b""
        return os.read(self._read_fd, 200)

    @staticmethod
    def _wait(fd: int, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(fd, event)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise StreamTimeout("no answer in time")


def _parse_header(text: bytes) -> tuple[dict[str, Any], list[int]]:
    try:
        header = json.loads(text)
        lengths = header.pop("blobs")
        valid = isinstance(lengths, list) and all(isinstance(n, int) and n >= 0 for n in lengths)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ProtocolError(f"a header that is no JSON object with blobs: {text[:80]!r}") from None
    if not valid or sum(lengths) > MAX_BLOBS:
        raise ProtocolError(f"blobs of {lengths!r:.80} bytes were announced, the limit is {MAX_BLOBS} in all")
    return header, lengths
