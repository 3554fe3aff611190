"""What a workload may do to the agent, and what it may not cost the others."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hwnas.devices import Artifact, DeviceError, DeviceLost, WorkloadFailed, create

Make = Callable[..., Artifact]

REASONS = {
    "crash": "exited with code 3.*simulated crash",
    "segv": "SIGSEGV",
    "hang": "no answer within",
    "memory": "out of memory",
    "error": "simulated error",
}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    """Whether the process ends within ten seconds."""
    for _ in range(200):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def patience(fault: str) -> float:
    """Seconds to wait for an answer: short only where none will ever come."""
    return 0.5 if fault == "hang" else 30


@pytest.mark.parametrize("fault", list(REASONS))
def test_a_fault_in_a_round_costs_its_own_workload(fault: str, ops_artifact: Make) -> None:
    device = create("simulated", faults={"bad": fault}, fault_after=2)
    with device.open(timeout_s=patience(fault), memory_mb=400) as session:
        for id in ("a", "bad", "b"):
            session.load(id, ops_artifact())
        result = session.round(["b", "bad", "a"])
        assert list(result.samples) == ["b", "a"]
        assert list(result.failures) == ["bad"]
        again = session.round(["a", "bad", "b"])
        assert list(again.samples) == ["a", "b"]
        assert again.failures == result.failures
        assert session.loaded == ("a", "b")
    assert re.search(REASONS[fault], result.failures["bad"])


@pytest.mark.parametrize("fault", list(REASONS))
def test_a_fault_while_loading_costs_its_own_workload(fault: str, ops_artifact: Make) -> None:
    device = create("simulated", faults={"bad": fault})
    with device.open(timeout_s=patience(fault), memory_mb=400) as session:
        session.load("a", ops_artifact())
        with pytest.raises(WorkloadFailed, match=REASONS[fault]) as caught:
            session.load("bad", ops_artifact())
        assert caught.value.id == "bad"
        session.load("b", ops_artifact())
        assert list(session.round(["a", "b"]).samples) == ["a", "b"]


@pytest.mark.parametrize("after", [0, 2])
def test_a_fault_that_does_not_come_back_costs_nothing(after: int, ops_artifact: Make, tmp_path: Path) -> None:
    once = str(tmp_path / "once")
    device = create("simulated", faults={"b": "segv"}, fault_after=after, fault_once=once)
    with device.open() as session:
        for id in ("a", "b", "c"):
            session.load(id, ops_artifact())
        result = session.round(["a", "b", "c"])
    assert Path(once).exists()
    assert list(result.samples) == ["a", "b", "c"]
    assert result.failures == {}


def test_a_marker_in_the_artifact_is_obeyed(ops_artifact: Make) -> None:
    with create("simulated").open() as session, pytest.raises(WorkloadFailed, match="simulated error"):
        session.load("x", ops_artifact(simulate={"fault": "error"}))


def test_prints_of_the_runtime_do_not_reach_the_stream(ops_artifact: Make) -> None:
    with create("simulated", faults={"noisy": "print"}).open() as session:
        session.load("noisy", ops_artifact())
        assert session.round(["noisy"], runs=5).samples["noisy"].wall.shape == (5,)


def test_a_real_model_that_exhausts_memory_costs_only_itself(
    conv: Artifact, onnx_model: Callable[..., bytes], onnx_artifact: Make
) -> None:
    from onnx import TensorProto, helper

    size = helper.make_tensor("s", TensorProto.INT64, [1], [500_000_000])
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0),
    ]
    glutton = onnx_artifact(onnx_model(nodes, ("x", [1]), ("y", []), [size]), shape=(1,))
    with create("cpu", optimization="disable").open(memory_mb=500) as session:
        assert session.describe()["memory_limit_mb"] == 500
        session.load("conv", conv)
        with pytest.raises(WorkloadFailed, match="out of memory"):
            session.load("glutton", glutton)
        assert list(session.round(["conv"]).samples) == ["conv"]


def test_an_agent_that_is_replaced_measures_the_same_values(ops_artifact: Make) -> None:
    with create("simulated", noise=0).open() as session:
        session.load("a", ops_artifact())
        before = session.round(["a"])
        os.kill(session.agent_pid, signal.SIGKILL)
        after = session.round(["a"])
    np.testing.assert_array_equal(before.samples["a"].cpu, after.samples["a"].cpu)


def test_the_agent_ends_when_its_host_is_killed() -> None:
    code = """
        import time
        from hwnas.devices import create
        from hwnas.devices.base import Artifact
        session = create("simulated", faults={"*": "hang"}).open()
        print(session.agent_pid, flush=True)
        session.load("x", Artifact("ops", b"{}", (), "", "ops"))
    """
    host = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert host.stdout is not None
        agent = int(host.stdout.readline())
        assert is_alive(agent)
        host.kill()
        assert wait_until_gone(agent)
    finally:
        host.kill()
        host.wait()


def test_an_interrupted_request_leaves_no_orphan_and_a_usable_session(ops_artifact: Make) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with create("simulated", faults={"bad": "hang"}).open() as session:
            session.load("a", ops_artifact())
            agent = session.agent_pid
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                session.load("bad", ops_artifact())
            assert wait_until_gone(agent)
            assert list(session.round(["a"]).samples) == ["a"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_closing_after_an_interrupt_touches_no_file_that_took_the_pipes_numbers(
    ops_artifact: Make, tmp_path: Path
) -> None:
    session = create("simulated").open()
    session.load("a", ops_artifact())
    before = set(Path("/proc/self/fd").iterdir())
    session._agent.kill()  # as an interrupted request does
    freed = before - set(Path("/proc/self/fd").iterdir())
    files = [(tmp_path / str(i)).open("wb", buffering=0) for i in range(2 * len(freed))]
    session.close()
    for file in files:
        file.close()
    assert freed
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0] * len(files)


def test_closing_twice_is_no_error(ops_artifact: Make) -> None:
    session = create("simulated").open()
    session._agent.kill()
    session.close()
    session.close()


def test_a_forgotten_session_leaves_no_orphan(ops_artifact: Make) -> None:
    session = create("simulated").open()
    agent = session.agent_pid
    assert is_alive(agent)
    del session
    assert wait_until_gone(agent)


@pytest.mark.parametrize("prefix", ["env HWNAS_TEST=1 {python}", "sh -c 'exec {python} \"$@\"' sh"])
def test_a_command_prefix_starts_the_agent(prefix: str, ops_artifact: Make) -> None:
    command = prefix.format(python=shlex.quote(sys.executable))
    with create("simulated", table={"a": 2.0}, noise=0).open(agent=command) as session:
        assert session.describe()["agent"] == command
        session.load("a", ops_artifact())
        assert session.round(["a"]).samples["a"].cpu.tolist() == [2_000_000] * 3


def test_settings_survive_a_shell_that_splits_again(ops_artifact: Make, tmp_path: Path) -> None:
    """As ssh does: the arguments are joined by blanks and read by a shell on the other side."""
    fake_ssh = tmp_path / "fake ssh"
    fake_ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    fake_ssh.chmod(0o755)
    command = f"{shlex.quote(str(fake_ssh))} board {sys.executable}"
    with create("simulated", table={'it\'s; $odd "x"': 2.0}, noise=0).open(agent=command) as session:
        session.load('it\'s; $odd "x"', ops_artifact())
        assert session.round(session.loaded).samples[session.loaded[0]].cpu.tolist() == [2_000_000] * 3


def test_another_python_can_be_the_agent(conv: Artifact) -> None:
    with create("cpu").open(agent_python=sys.executable) as session:
        session.load("conv", conv)
        assert session.round(["conv"]).samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "/no/such/python"}, "No such file"),
        ({"agent": "  "}, "empty"),
        ({"agent": "python 'unclosed"}, "No closing quotation"),
        ({"agent": "echo Welcome to board"}, "foreign output on the stream.*Welcome"),
        ({"agent": "sh -c 'echo no route >&2; exit 255'"}, "exited with code 255.*no route.*installed"),
        ({"agent": "x", "agent_python": "y"}, "not both"),
        ({"timeout_s": 0}, "timeout_s must be positive"),
        ({"memory_mb": 0}, "memory_mb must be positive"),
    ],
)
def test_an_agent_that_cannot_be_used_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        create("simulated").open(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        ("channel.send({'hello': 'hwnas', 'protocol': 1, 'hwnas': '0.0.7'})", "it is hwnas 0.0.7.*install the same"),
        ("os.write(1, b'hwna' + struct.pack('>HI', 99, 2) + b'{}')", "protocol 99.*install the same"),
        ("os.write(1, b'hwna' + struct.pack('>HI', 2, 2) + b'[]')", "no JSON object"),
        ("os.write(1, b'hwna' + struct.pack('>HI', 2, 2**31))", "header of .* announced"),
        ("os.write(1, b'hi\\n')", "closed|exited"),
    ],
)
def test_an_agent_of_another_kind_is_told_apart(greeting: str, message: str, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        "import os, struct\nfrom hwnas.devices.protocol import Channel\nchannel = Channel(0, 1)\n" + greeting + "\n"
    )
    with pytest.raises(DeviceError, match=message):
        create("simulated").open(agent=f"{sys.executable} {script}")


def test_more_threads_than_cpus_are_refused_on_both_sides() -> None:
    device = create("cpu", threads=4096)
    with pytest.raises(DeviceError, match=f"from 1 to {len(os.sched_getaffinity(0))}.*not 4096"):
        device.open()
    with pytest.raises(DeviceError, match=r"CPUs usable here.*not 4096"):
        device.open(agent_python=sys.executable)


def test_a_device_that_goes_away_costs_no_workload_and_nothing_that_was_measured(
    ops_artifact: Make, tmp_path: Path
) -> None:
    device = create("simulated", faults={"b": "lost"}, fault_after=2)
    with device.open() as session:
        for id in ("a", "b", "c"):
            session.load(id, ops_artifact())
        result = session.round(["a", "b", "c"])
        assert list(result.samples) == ["a"]
        assert result.failures == {}
        assert result.lost == "the simulated device has gone"
        with pytest.raises(DeviceLost, match="has gone"):
            session.round(["a"])
    with create("simulated", faults={"b": "lost"}).open() as session, pytest.raises(DeviceLost):
        session.load("b", ops_artifact())


def test_output_that_cannot_be_understood_reaches_the_host(ops_artifact: Make) -> None:
    with create("simulated", faults={"b": "unreadable"}, fault_after=2).open() as session:
        for id in ("a", "b"):
            session.load(id, ops_artifact())
        result = session.round(["a", "b"])
    assert list(result.samples) == ["a"]
    assert "cannot be understood" in result.failures["b"]
    assert result.outputs == {"b": "count=many"}
    with create("simulated", faults={"b": "unreadable"}).open() as session:
        with pytest.raises(WorkloadFailed) as caught:
            session.load("b", ops_artifact())
        assert caught.value.output == "count=many"


SLOW_TO_END = """
import time
from pathlib import Path
from hwnas.testing.simulated import Simulated, SimulatedRuntime
class Runtime(SimulatedRuntime):
    def __init__(self, settings, connection):
        super().__init__(settings)
        self.where = Path(connection["witness"])
    def close(self):
        time.sleep(0.2)
        self.where.write_text("cleaned up")
class Tidy(Simulated):
    name, connections, closing_s = "tidy", ("witness",), 5.0
    def runtime(self):
        return Runtime(self.settings, self.connection)
"""


@pytest.mark.parametrize("how", ["close", "interrupted", "host killed"])
def test_an_agent_cleans_up_however_it_ends(how: str, tmp_path: Path) -> None:
    (tmp_path / "tidy.py").write_text(SLOW_TO_END)
    info = tmp_path / "tidy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tidy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hwnas.devices]\ntidy = tidy:Tidy\n")
    witness = tmp_path / "witness"
    code = f"""
        import os, signal, sys, time
        from hwnas.devices import create
        from hwnas.devices.base import Artifact
        with create("tidy", connection={{"witness": {str(witness)!r}}}, faults={{"*": "hang"}}).open() as session:
            assert "witness" not in str(session.describe())
            if {how!r} == "close":
                sys.exit()
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            if {how!r} == "host killed":
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            session.load("x", Artifact("ops", b"{{}}", (), "", "ops"))
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    for _ in range(200):
        if witness.exists() and witness.read_text():
            break
        time.sleep(0.05)
    assert witness.read_text() == "cleaned up"
