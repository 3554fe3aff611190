"""``hwnas profile``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hwnas.cli.common import UsageProblem
from hwnas.cli.measuring import seconds, share
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
NETS = Path(__file__).parent.parent / "predictors" / "nets.py"
SMALL = ("--space", f"{NETS}:tricky")
WORKLOADS = len(load_space(f"{NETS}:tricky").workloads())


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.02", 0.02), (" 2.5 % ", 0.025), ("100%", 1.0)])
def test_shares(text: str, value: float) -> None:
    assert share(text, "--x") == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("10m", 600), ("1h", 3600), ("2.5m", 150), ("7", 7)])
def test_times(text: str, value: float) -> None:
    assert seconds(text, "--x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "a", "nan", "1%%", "inf"])
def test_no_shares(text: str) -> None:
    with pytest.raises(UsageProblem, match="--x"):
        share(text, "--x")


@pytest.mark.parametrize("text", ["", "0", "-1s", "1d", "10 minutes", "nan", "31h 2m", "9999h"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageProblem, match="--x"):
        seconds(text, "--x")


def test_a_table_by_default_where_one_looks_for_it(hwnas: Run, tmp_path: Path) -> None:
    result = hwnas("profile", "--device", "simulated", *SMALL, "--json", "p.json")
    assert result.code == 0, result.err
    path = tmp_path / "tables" / "simulated-tricky.db"
    assert str(path.relative_to(tmp_path)) in result.out.replace("\n", "")
    import json

    data = json.loads((tmp_path / "p.json").read_text())
    assert {"table", "n", "failed", "unconverged", "calibration", "seconds"} <= set(data)
    assert {"method", "factor", "residual", "error"} <= set(data["calibration"])
    assert (data["table"], data["failed"], data["unconverged"]) == (str(path.relative_to(tmp_path)), [], [])
    with LatencyTable.open(path) as table:
        assert data["n"] == len(table.rows("candidate")) + len(table.rows("fixed")) == WORKLOADS
        sessions = len(table.sessions())
        visits = sum(map(len, table.all_visits().values()))
    assert "isolated" in result.out
    assert "held-out" in result.out
    again = hwnas("profile", "--device", "simulated", *SMALL, "--quiet", "--json", "-")
    assert again.code == 0
    assert again.json["n"] == WORKLOADS
    with LatencyTable.open(path) as table:
        assert len(table.sessions()) == sessions + 1
        assert sum(map(len, table.all_visits().values())) == visits


def test_on_this_machine(hwnas: Run, tmp_path: Path) -> None:
    result = hwnas(
        "profile",
        "--device",
        "cpu",
        *SMALL,
        *("--tolerance", "50%", "--max-visits", 3, "--out", "t.db", "--quiet", "--json", "-"),
    )
    assert result.code in (0, 1), result.err
    data = result.json
    assert data["n"] == WORKLOADS
    assert data["failed"] == []
    assert data["calibration"]["method"] in ("isolated", "in-context")
    assert 0.1 < data["calibration"]["factor"] < 5
    with LatencyTable.open(tmp_path / "t.db") as table:
        assert table.provenance.device == "cpu"
        latency = {row.key: row.latency for row in table.rows()}
    assert all(value is not None and value < 100 for value in latency.values())
    assert all(value for key, value in latency.items() if "conv" in key)  # others may be fused into these


def test_what_does_not_converge_is_named_with_exit_code_1(hwnas: Run) -> None:
    result = hwnas("profile", "--device", "simulated", *SMALL, "--max-visits", 3, "--tolerance", "0.0001%", "--quiet")
    assert result.code == 1
    assert "did not converge" in result.err


def test_a_budget_that_runs_out(hwnas: Run, tmp_path: Path) -> None:
    result = hwnas("profile", "--device", "simulated", *SMALL, "--budget", "0.001s", "--json", "p.json", "-q")
    assert result.code == 1
    assert "budget" in result.err
    assert (tmp_path / "p.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "abacus"), "no device 'abacus'"),
        (("--device", "gpu", "--threads", "2"), "takes no threads"),
        (("--device", "simulated", "--space", "nothing"), "unknown space 'nothing'"),
        (("--device", "simulated", "--method", "guess"), "--method 'guess'"),
        (("--device", "simulated", "--tolerance", "x"), "--tolerance 'x'"),
        (("--device", "simulated", "--tolerance", "0"), "tolerance must be above 0"),
        (("--device", "simulated", "--tolerance", "60%"), "at most 50 %"),
        (("--device", "simulated", "--budget", "soon"), "--budget 'soon'"),
        (("--device", "simulated", "--budget", "0s"), "--budget '0s'"),
        (("--device", "simulated", "--max-visits", "2"), "max visits must be from 3"),
        (("--device", "simulated", "--batch", "0"), "batch must be"),
        (("--device", "simulated", "--threads", "-1"), "threads must be"),
        (("--device", "simulated", "--dtype", "fp7"), "dtype must be"),
        (("--device", "simulated", "--seed", "-1"), "--seed"),
        ((), "--device"),
    ],
)
def test_requests_that_cannot_be_carried_out(hwnas: Run, tmp_path: Path, options: Any, message: str) -> None:
    result = hwnas("profile", *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_another_setting_never_goes_into_the_same_table(hwnas: Run, tmp_path: Path) -> None:
    assert hwnas("profile", "--device", "flops", *SMALL, "--out", "t.db", "-q").code == 0
    content = (tmp_path / "t.db").read_bytes()
    result = hwnas("profile", "--device", "flops", *SMALL, "--out", "t.db", "-q", "--batch", 2)
    assert result.code == 2
    assert "batch" in result.err
    assert (tmp_path / "t.db").read_bytes() == content


def test_the_default_name_tells_settings_and_parameters(hwnas: Run, tmp_path: Path) -> None:
    space = ("--space", "nasbench201", "--space-arg", "resolution=8", "--space-arg", "channels=4")
    assert hwnas("profile", "--device", "flops", *space, "--batch", 2, "-q").code == 0
    assert [p.name for p in (tmp_path / "tables").iterdir()] == ["flops-nasbench201-b2-resolution=8-channels=4.db"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwnas.cli", "profile", "--device", "cpu", *SMALL, "--out", "t.db"]
    command += ["--tolerance", "0.0001%", "--max-visits", "10000"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not _visited(tmp_path / "t.db"):
            time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert "interrupted; what was measured is kept in t.db" in said
    assert "Traceback" not in said
    assert _visited(tmp_path / "t.db")


def _visited(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        with LatencyTable.open(path) as table:
            return bool(table.all_visits())
    except Exception:  # being made at this moment
        return False
