"""The stream between host and agent."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from hwnas.devices.protocol import PROTOCOL_VERSION, Channel, ProtocolError, StreamClosed, StreamTimeout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Connect = Callable[[], tuple[Channel, Channel, int]]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda x: st.lists(x) | st.dictionaries(TEXT, x))


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Two connected channels, and the descriptor through which the second one is fed."""
    fds: list[int] = []

    def make() -> tuple[Channel, Channel, int]:
        there, back = os.pipe(), os.pipe()
        fds.extend((*there, *back))
        return Channel(back[0], there[1]), Channel(there[0], back[1]), there[1]

    yield make
    for fd in set(fds):
        try:
            os.close(fd)
        except OSError:
            continue


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(TEXT.filter(lambda key: key != "blobs"), JSON, max_size=4),
    blobs=st.lists(st.binary(max_size=200), max_size=4),
)
def test_what_is_sent_arrives(connect: Connect, header: dict, blobs: list[bytes]) -> None:
    host, agent, _ = connect()
    host.send(header, blobs, timeout_s=5)
    assert agent.receive(timeout_s=5) == (header, blobs)


def test_large_blobs_pass_a_small_pipe(connect: Connect) -> None:
    host, agent, _ = connect()
    blob = os.urandom(3 << 20)
    sender = threading.Thread(target=host.send, args=({}, [blob]))
    sender.start()
    assert agent.receive(timeout_s=20)[1] == [blob]
    sender.join()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_an_error_and_never_a_message(connect: Connect, garbage: bytes) -> None:
    _, agent, fd = connect()
    os.write(fd, garbage)
    os.close(fd)
    with pytest.raises(ProtocolError):
        agent.receive(timeout_s=5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Last login: Monday", "foreign output.*Last login: Monday"),
        (b"hwna" + struct.pack(">HI", 7, 0), "protocol 7, this side 2"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 1 << 31), "header of 2147483648 bytes"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 4) + b"null", "no JSON object"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 2) + b"{}", "no JSON object"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 14) + b'{"blobs":[-1]}', "blobs of"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 25) + b'{"blobs":[9000000000000]}', "blobs of"),
        (b"hwna" + struct.pack(">HI", PROTOCOL_VERSION, 13) + b'{"blobs":[5]}abc', "closed the stream after b'abc'"),
    ],
)
def test_what_is_wrong_is_said(connect: Connect, data: bytes, message: str) -> None:
    _, agent, fd = connect()
    os.write(fd, data)
    os.close(fd)
    with pytest.raises(ProtocolError, match=message):
        agent.receive(timeout_s=5)


def test_silence_and_absence_are_told_apart(connect: Connect) -> None:
    host, agent, fd = connect()
    with pytest.raises(StreamTimeout):
        agent.receive(timeout_s=0.05)
    os.set_blocking(fd, False)
    with pytest.raises(StreamTimeout):
        host.send({}, [bytes(1 << 20)], timeout_s=0.05)
    os.close(fd)
    _, agent, fd = connect()
    os.close(fd)
    with pytest.raises(StreamClosed):
        agent.receive(timeout_s=5)
