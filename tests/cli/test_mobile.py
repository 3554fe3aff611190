"""``--device mobile``, from the table to the searched network: by LiteRT here, by tflite-runtime in its own Python."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
NETS = Path(__file__).parent.parent / "predictors" / "nets.py"
SPACE = f"{NETS}:digits"
SMALL = ("--space", SPACE)
HASTY = MeasuringProtocol(max_visits=3, tolerance=0.5, network_visits=3)
IN_A_HURRY = ("--tolerance", "50%", "--max-visits", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "mobile.db"
    profile(ProfileRequest(create("mobile"), load_space(SPACE), path, protocol=HASTY))
    return path


@pytest.fixture
def table(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path))


def test_a_table_says_by_what_it_was_measured(hwnas: Run, table: Path) -> None:
    result = hwnas("table", "show", table, "--json", "-")
    assert result.code == 0, result.err
    data = result.json
    assert data["provenance"]["device"] == "mobile"
    runtime = data["provenance"]["environment"]["runtime"]
    assert (runtime["name"], runtime["delegate"]) == ("ai-edge-litert", "XNNPACK")
    told = data["delegation"]
    assert told["delegate"] == "XNNPACK"
    assert told["left"] == {}
    assert told["operators"] == told["delegated"] > told["workloads"] > len(data["rows"])  # networks count, too
    shown = hwnas("table", "show", table).out
    assert (
        f"XNNPACK runs {told['delegated']} of {told['operators']} operators in {told['workloads']} workloads" in shown
    )
    assert "ai-edge-litert" in shown


def test_a_table_is_checked_exported_and_predicts(hwnas: Run, table: Path, tmp_path: Path) -> None:
    assert hwnas("table", "check", table, *SMALL).code == 0
    assert hwnas("table", "export", table, "--out", "t.csv").code == 0
    with (tmp_path / "t.csv").open() as file:
        assert all(float(row["latency"]) > 0 and row["unit"] == "ms" for row in csv.DictReader(file))
    some = load_space(SPACE).sample(2, np.random.default_rng(0))
    (tmp_path / "some.json").write_text(json.dumps([a.as_dict() for a in some]))
    result = hwnas("predict", "--predictor", table, *SMALL, "--arch", "some.json", "--json", "-")
    assert result.code == 0, result.err
    assert "mobile.db" in result.out


def test_networks_are_compared_on_the_device_of_the_table(hwnas: Run, table: Path) -> None:
    result = hwnas("compare", "--predictor", table, *SMALL, "--networks", 3, "--visits", 2, "-q", "--json", "-")
    assert result.code in (0, 1), result.err
    assert (result.json["unit"], result.json["n"]) == ("ms", 3)
    assert all(network["measured"] > 0 for network in result.json["networks"])
    assert result.json["drift"] is not None


def test_a_search_measures_its_result_on_the_device_of_the_table(hwnas: Run, table: Path, tmp_path: Path) -> None:
    ends = hwnas("table", "range", table, *SMALL, "--json", "-").json
    target = (ends["min"] + ends["max"]) / 2
    short = ("--warmup-epochs", 1, "--epochs", 1, "--final-epochs", 0, "--torch-threads", 1)
    more = ("--data", "digits", "--predictor", table, "--target", target, "--out", tmp_path / "run", "-q")
    result = hwnas("search", *SMALL, *short, *more)
    assert result.code in (0, 1), result.err  # 1: on a busy machine it may miss the target
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["unit"] == "ms"
    assert report["measured"] == pytest.approx(target, rel=0.9)
    assert report["wall_p50"] > 0


def test_int8_has_a_table_of_its_own(hwnas: Run, tmp_path: Path) -> None:
    pytest.importorskip("litert_quantizer")
    result = hwnas("profile", "--device", "mobile", "--dtype", "int8", *SMALL, *IN_A_HURRY, "-q", "--json", "-")
    assert result.code in (0, 1), result.err
    assert result.json["failed"] == []
    with LatencyTable.open(tmp_path / "tables" / "mobile-digits-int8.db") as table:
        assert all("int8" in row.key for row in table.rows() if row.kind != "network")
    assert not any("does not run" in doubt for doubt in result.json["doubts"])


def test_through_tflite_runtime_in_an_environment_of_its_own(hwnas: Run, tflite_runtime: Path, tmp_path: Path) -> None:
    more = ("--agent-python", tflite_runtime, "--out", "t.db", "-q", "--json", "-")
    result = hwnas("profile", "--device", "mobile", *SMALL, *IN_A_HURRY, *more)
    assert result.code in (0, 1), result.err
    assert result.json["failed"] == []
    shown = hwnas("table", "show", "t.db", "--json", "-").json
    runtime = shown["provenance"]["environment"]["runtime"]
    assert (runtime["name"], runtime["version"], runtime["delegate"]) == ("tflite-runtime", "2.14.0", "XNNPACK")
    assert shown["delegation"]["operators"] >= shown["delegation"]["delegated"] > 0
    other = hwnas("compare", "--predictor", "t.db", *SMALL, "--networks", 2, "--visits", 2, "-q")
    assert other.code == 1
    assert "the predictor was made where runtime.name is 'tflite-runtime', here it is 'ai-edge-litert'" in other.err


def test_what_xnnpack_leaves_is_doubted(hwnas: Run, tflite_runtime: Path) -> None:
    """That version has no XNNPACK for int8, and says nothing of it."""
    pytest.importorskip("litert_quantizer")
    more = ("--agent-python", tflite_runtime, "--dtype", "int8", "--out", "t.db", "-q", "--json", "-")
    result = hwnas("profile", "--device", "mobile", *SMALL, *IN_A_HURRY, *more)
    assert result.code == 1
    assert "XNNPACK does not run CONV_2D" in result.err
    assert any("XNNPACK does not run CONV_2D" in doubt for doubt in result.json["doubts"])
    shown = hwnas("table", "show", "t.db").out
    assert "XNNPACK runs 0 of" in shown
    assert "left to slower kernels" in shown


def test_lowering_needs_the_package_here_whatever_the_agent_has(hwnas: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    for name in [name for name in sys.modules if name.startswith("hwnas.profiler.lowering.tflite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HWNAS_CACHE", "empty")
    result = hwnas("profile", "--device", "mobile", *SMALL, "--agent-python", sys.executable)
    assert result.code == 2
    assert "needs ai_edge_litert, which is not installed; pip install" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "bf16"), "'mobile' has no bf16, only fp32, fp16, int8"),
        (("--method", "in-context"), "cannot time single nodes"),
        (("--agent-python", "/nonexistent/python"), "cannot start the agent /nonexistent/python"),
    ],
)
def test_requests_that_cannot_be_carried_out(hwnas: Run, tmp_path: Path, options: Any, message: str) -> None:
    result = hwnas("profile", "--device", "mobile", *SMALL, "--out", "t.db", *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
