"""A board over ssh, with a real sshd: its facts, its faults, and what a connection that breaks may not cost."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hwnas.cli
import hwnas.devices.link
import pytest
from hwnas import __version__
from hwnas.devices import Artifact, DeviceError, DeviceLost, Session, create
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space

ROOT = Path(__file__).resolve().parents[2]
SPACE = f"{ROOT}/tests/predictors/nets.py:tricky"
QUICK = MeasuringProtocol(max_visits=5, tolerance=0.5, span_s=0, pause_s=0, network_visits=3)


def ops(macs: int = 10_000_000) -> Artifact:
    return Artifact("ops", f'{{"macs": {macs}, "params": 1, "activation_bytes": 1}}'.encode(), (), f"d{macs}", "ops")


@pytest.fixture
def agent(board: Any) -> str:
    return f"{board.ssh} {sys.executable}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """How long the session tries to reach the board again."""

    def wait(seconds: float) -> None:
        monkeypatch.setattr(hwnas.devices.link, "PATIENCE_S", seconds)

    return wait


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], object]]:
    """What is to happen before the nth round of a session."""
    before: dict[int, Callable[[], object]] = {}
    count = iter(range(1_000_000))
    real = Session.round

    def counted(self: Session, *ids: Any, **options: Any) -> Any:
        before.get(next(count), int)()
        return real(self, *ids, **options)

    monkeypatch.setattr(Session, "round", counted)
    return before


def gone(board: Any) -> bool:
    """Whether nothing runs on the board any more, ten seconds from now at the latest."""
    end = time.monotonic() + 10
    while board.running() and time.monotonic() < end:
        time.sleep(0.05)
    return not board.running()


def test_a_table_from_a_board_with_the_base_install(board: Any, tool: Any, tmp_path: Path) -> None:
    python = tool("base") / "python"
    table = tmp_path / "board.db"
    arguments = ("--space", SPACE, "--out", table, "--tolerance", "50%", "--max-visits", 3, "--quiet")
    agent = f"{board.ssh} {python}"
    code = hwnas.cli.main([str(a) for a in ("profile", "--device", "cpu", "--agent", agent, *arguments)])
    assert code in (0, 1)
    with LatencyTable.open(table) as made:
        assert {row.status for row in made.rows()} <= {"ok", "unconverged"}
        (about,) = made.sessions().values()
    assert about["host"] == board.host
    assert about["agent"] == agent
    assert gone(board)


def test_settings_and_names_survive_the_shell_over_there(board: Any, agent: str) -> None:
    odd = 'it\'s; $odd "x"'
    with create("simulated", table={odd: 2.0}, noise=0).open(agent=agent, memory_mb=500) as session:
        session.load(odd, ops())
        assert session.describe()["memory_limit_mb"] == 500
        assert session.round([odd]).samples[odd].cpu.tolist() == [2_000_000] * 3


def test_another_version_over_there_is_refused_with_the_mend(
    board: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other/hwnas"
    other.mkdir(parents=True)
    shutil.copytree(ROOT / "devices", other / "devices")
    shutil.copy(ROOT / "errors.py", other)
    (other / "__init__.py").write_text((ROOT / "__init__.py").read_text().replace(__version__, "0.0.7"))
    agent = f"{board.ssh} env PYTHONPATH={other.parent} {sys.executable}"
    code = hwnas.cli.main(
        ["profile", "--device", "simulated", "--space", SPACE, "--agent", agent, "--out", str(tmp_path / "t")]
    )
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert code == 2
    assert f"it is hwnas 0.0.7, this is hwnas {__version__}; install the same version" in line


def test_who_is_not_let_in_is_told(board: Any) -> None:
    agent = f"{board.ssh.replace('/key', '/host')} {sys.executable}"
    with pytest.raises(DeviceError, match=r"code 255.*Permission denied.*without asking anything"):
        create("simulated").open(agent=agent)


def test_cuts_while_profiling_cost_nothing(board: Any, agent: str, rounds: Any, tmp_path: Path) -> None:
    rounds[2] = rounds[6] = lambda: board.signal(signal.SIGKILL)
    request = ProfileRequest(create("cpu"), load_space(SPACE, {}), tmp_path / "t", protocol=QUICK, agent=agent)
    result = profile(request)
    assert result.failed == {}
    assert board.logins() == 3
    with LatencyTable.open(tmp_path / "t") as table:
        assert all(len(visits) >= 3 for visits in table.all_visits().values())


def test_a_board_that_stays_away_for_seconds_is_waited_for(board: Any, agent: str, caplog: Any) -> None:
    with create("simulated").open(agent=agent) as session:
        for id in ("a", "b"):
            session.load(id, ops())
        board.stop()
        assert board.signal(signal.SIGKILL)
        timer = threading.Timer(1.5, board.start)
        timer.start()
        result = session.round(["a", "b"])
        timer.join()
    assert list(result.samples) == ["a", "b"]
    assert result.failures == {}
    assert any("out of reach" in record.getMessage() for record in caplog.records)


def test_a_connection_that_stands_still_is_given_up_and_made_anew(board: Any, agent: str) -> None:
    with create("simulated").open(agent=agent) as session:
        session.load("a", ops())
        assert board.signal(signal.SIGSTOP)
        result = session.round(["a"])
    assert list(result.samples) == ["a"]
    assert result.failures == {}


def test_a_cut_in_the_middle_of_a_round(board: Any, agent: str, tmp_path: Path, caplog: Any) -> None:
    once = str(tmp_path / "once")
    device = create("simulated", faults={"b": "hang"}, fault_after=2, fault_once=once)
    with device.open(agent=agent) as session:
        for id in ("a", "b"):
            session.load(id, ops())
        timer = threading.Timer(0.5, board.signal, [signal.SIGKILL])
        timer.start()
        result = session.round(["a", "b"])
        timer.join()
    assert Path(once).exists()
    assert list(result.samples) == ["a", "b"]
    assert len(caplog.records) == 1


def test_a_board_that_stays_away_ends_the_command(
    board: Any, agent: str, rounds: Any, impatient: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def leave() -> None:
        board.stop()
        board.signal(signal.SIGKILL)

    rounds[4] = leave
    impatient(1)
    table = tmp_path / "t"
    command = ["profile", "--device", "simulated", "--space", SPACE, "--agent", agent, "--out", str(table), "--quiet"]
    assert hwnas.cli.main(command) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "out of reach for 1 s" in last
    assert f"kept in {table}; the same command goes on from there" in last
    with LatencyTable.open(table) as kept:
        before = {key: len(visits) for key, visits in kept.all_visits().items()}
        assert not [row for row in kept.rows() if row.status == "failed"]
    assert sum(before.values()) > 0
    board.start()
    assert hwnas.cli.main(command) == 0
    with LatencyTable.open(table) as whole:
        assert all(len(whole.all_visits()[key]) >= n for key, n in before.items())
        assert {row.status for row in whole.rows()} == {"ok"}
        assert len(whole.sessions()) == 2


@pytest.mark.parametrize("shell", ["", "exec"], ids=["exit code 139", "exit code 255"])
def test_a_workload_that_kills_its_agent_is_blamed(board: Any, shell: str, agent: str) -> None:
    agent = f"{board.ssh} {shell} {sys.executable}"
    device = create("simulated", faults={"bad": "segv"}, fault_after=2)
    with device.open(agent=agent) as session:
        for id in ("a", "bad", "b"):
            session.load(id, ops())
        result = session.round(["b", "bad", "a"])
        assert list(result.samples) == ["b", "a"]
        assert list(result.failures) == ["bad"]


def test_a_connection_that_breaks_again_and_again_is_no_workloads_fault(
    board: Any, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hwnas.devices.link, "DROPS", 2)
    with create("simulated").open(agent=agent) as session:
        session.load("a", ops())
        real = session._load
        monkeypatch.setattr(session, "_load", lambda *given: (board.signal(signal.SIGKILL), real(*given))[1])
        board.signal(signal.SIGKILL)
        with pytest.raises(DeviceLost, match="broke 3 times in a row"):
            session.round(["a"])
        assert session.loaded == ("a",)


def test_a_few_cuts_in_a_row_are_no_workloads_fault(board: Any, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with create("simulated").open(agent=agent) as session:
        session.load("a", ops())
        real, cuts = session._round, iter(range(3))

        def cut_first(*given: Any) -> Any:
            if next(cuts, None) is not None:
                assert board.signal(signal.SIGKILL)
            return real(*given)

        monkeypatch.setattr(session, "_round", cut_first)
        result = session.round(["a"])
    assert list(result.samples) == ["a"]
    assert next(cuts, None) is None


def test_the_agent_ends_with_its_connection_however_busy_it_is(board: Any, agent: str) -> None:
    session = create("simulated", faults={"bad": "hang"}).open(agent=agent)

    def load() -> None:
        with pytest.raises(DeviceError, match="closed"):
            session.load("bad", ops())

    asking = threading.Thread(target=load)
    asking.start()
    time.sleep(0.5)
    assert board.running()
    session._closed = True
    board.signal(signal.SIGKILL)
    assert gone(board)
    asking.join()
    session.close()
