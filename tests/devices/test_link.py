"""The way to an agent elsewhere, by a stand-in for ssh; with the real one in ``tests/remote``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hwnas.devices.link
import pytest
from hwnas.devices import Artifact, DeviceError, DeviceLost, create

Make = Callable[..., Artifact]
SSH = """#!/bin/sh
echo start >> {folder}/starts
[ -e {folder}/away ] && {{ echo "ssh: connect to host board: Connection refused" >&2; exit 255; }}
exec "$@"
"""


@pytest.fixture
def ssh(tmp_path: Path) -> str:
    """Cannot connect while there is a file `away`; notes each start in `starts`."""
    command = tmp_path / "ssh"
    command.write_text(SSH.format(folder=tmp_path))
    command.chmod(0o755)
    return f"{command} {sys.executable}"


@pytest.fixture
def starts(tmp_path: Path) -> Callable[[], int]:
    return lambda: len((tmp_path / "starts").read_text().splitlines())


@pytest.fixture
def kill_in_round(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Kill the agent in the first rounds of a session, as often as said, with nothing said on its side."""

    def prepare(session: hwnas.devices.Session, times: int) -> None:
        real, left = session._round, iter(range(times))

        def visit(ids: list[str], warmup: int, runs: int) -> object:
            if next(left, None) is not None:
                os.kill(session.agent_pid, signal.SIGKILL)
            return real(ids, warmup, runs)

        monkeypatch.setattr(session, "_round", visit)

    return prepare


def test_a_lost_agent_is_waited_for(
    ssh: str, ops_artifact: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with create("simulated").open(agent=ssh) as session:
        session.load("a", ops_artifact())
        away = tmp_path / "away"
        away.touch()
        os.kill(session.agent_pid, signal.SIGKILL)
        timer = threading.Timer(1, away.unlink)
        timer.start()
        assert list(session.round(["a"]).samples) == ["a"]
        timer.join()
    (told,) = [record.getMessage() for record in caplog.records if "out of reach" in record.getMessage()]
    assert "Connection refused" in told


def test_what_stays_away_is_given_up_once(
    ssh: str, ops_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hwnas.devices.link, "PATIENCE_S", 0.7)
    with create("simulated").open(agent=ssh) as session:
        session.load("a", ops_artifact())
        (tmp_path / "away").touch()
        os.kill(session.agent_pid, signal.SIGKILL)
        with pytest.raises(DeviceLost, match=r"out of reach for 0\.7 s.*Connection refused"):
            session.round(["a"])
        assert session.loaded == ("a",)
        monkeypatch.setattr(hwnas.devices.link, "PATIENCE_S", 3600)
        before = time.monotonic()
        with pytest.raises(DeviceLost, match="out of reach"):
            session.load("b", ops_artifact())
        assert time.monotonic() - before < 60


def test_what_was_never_there_is_not_waited_for(ssh: str, tmp_path: Path, starts: Callable[[], int]) -> None:
    (tmp_path / "away").touch()
    with pytest.raises(DeviceError, match=r"Connection refused.*without asking anything"):
        create("simulated").open(agent=ssh)
    assert starts() == 1


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_loss_without_a_word_is_blamed_on_no_workload_at_once(
    times: int, ssh: str, ops_artifact: Make, kill_in_round: Callable[..., None]
) -> None:
    with create("simulated").open(agent=ssh) as session:
        session.load("a", ops_artifact())
        kill_in_round(session, times)
        assert list(session.round(["a"]).samples) == ["a"]


def test_a_workload_with_which_the_agent_goes_again_and_again_is_blamed(
    ssh: str, ops_artifact: Make, kill_in_round: Callable[..., None], starts: Callable[[], int]
) -> None:
    with create("simulated").open(agent=ssh) as session:
        session.load("a", ops_artifact())
        kill_in_round(session, 4)
        assert list(session.round(["a"]).failures) == ["a"]
        assert starts() == 5


def test_an_exit_code_is_the_agents_own(ssh: str, ops_artifact: Make, starts: Callable[[], int]) -> None:
    with create("simulated", faults={"bad": "crash"}, fault_after=2).open(agent=ssh) as session:
        for id in ("a", "bad"):
            session.load(id, ops_artifact())
        result = session.round(["a", "bad"])
        assert (list(result.samples), list(result.failures)) == (["a"], ["bad"])
        assert starts() == 3  # at first, for each alone, and for what is left


@pytest.mark.parametrize("action", ["load", "describe", "trace"])
def test_whatever_is_asked_for_is_asked_for_again(
    action: str, ssh: str, conv: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create("cpu").open(agent=ssh) as session:
        session.load("a", conv)
        real, left = hwnas.devices.process.AgentProcess.request, iter(range(1))

        def request(agent: Any, header: dict[str, Any], *blobs: Any, timeout_s: float) -> object:
            if header["op"] == action and next(left, None) is not None:
                os.kill(session.agent_pid, signal.SIGKILL)
            return real(agent, header, *blobs, timeout_s=timeout_s)

        monkeypatch.setattr(hwnas.devices.process.AgentProcess, "request", request)
        arguments = {"load": ("b", conv), "describe": (), "trace": ("a",)}[action]
        assert getattr(session, action)(*arguments)
        assert next(left, None) is None
        assert set(session.round(session.loaded).samples) == set(session.loaded)
