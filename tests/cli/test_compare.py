"""``hwnas compare``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.lowering import LoweringError
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two devices, both made in a hurry."""
    folder = tmp_path_factory.mktemp("tables")
    space = load_space("proxyless-small", {"resolution": 8})
    hasty = MeasuringProtocol(max_visits=3, tolerance=0.5, network_visits=3, trace_runs=5)
    for device in ("simulated", "cpu"):
        profile(ProfileRequest(create(device), space, folder / f"{device}.db", protocol=hasty))
    return folder


@pytest.fixture
def tables(made: Path, tmp_path: Path) -> Path:
    for path in made.glob("*.db"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_predicted_against_measured(hwnas: Run, tables: Path) -> None:
    result = hwnas("compare", "--predictor", "simulated.db", "--device", "simulated", *SMALL, "--networks", 4)
    assert result.code == 0, result.err
    folder = tables / "results" / "compare-simulated-proxyless-small"
    assert {p.name for p in folder.iterdir()} == {"compare.csv", "compare.json", "compare.png", "measurements.db"}
    data = json.loads((folder / "compare.json").read_text())
    for network in data["networks"]:
        assert Architecture.from_dict(network["architecture"]).short() in result.out
    assert f"{data['mape']:.4g}" in result.out
    assert "results/compare-simulated-proxyless-small" in result.out
    assert "noise floor" in result.out


def test_on_this_machine_with_the_settings_of_the_table(hwnas: Run, tables: Path) -> None:
    result = hwnas(
        "compare", "--predictor", "cpu.db", *SMALL, "--networks", 3, "--visits", 2, "--out", "o", "-q", "--json", "-"
    )
    assert result.code in (0, 1), result.err
    data = result.json
    assert (data["unit"], data["n"], len(data["networks"])) == ("ms", 3, 3)
    assert set(data["extremes"]) == {"smallest", "largest", "all-skip"}
    for network in [*data["networks"], *data["extremes"].values()]:
        assert 0 < network["measured"] < 100
        assert 0 < network["wall_p50"] <= network["wall_p90"]
    for field in ("mape", "bias", "rmse", "max_error", "within_1", "within_5", "within_10", "spearman", "kendall"):
        assert isinstance(data[field], float)
    for field in ("drift", "mape_refitted", "max_error_refitted", "noise"):
        assert isinstance(data[field], float)


def test_given_architectures(hwnas: Run, tables: Path) -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    some = space.sample(2, np.random.default_rng(8))
    (tables / "some.json").write_text(json.dumps([a.as_dict() for a in some]))
    result = hwnas(
        *("compare", "--predictor", "simulated.db", *SMALL, "--arch", "some.json", "--visits", 2, "-q", "--json", "-")
    )
    assert result.code == 0, result.err
    assert [Architecture.from_dict(n["architecture"]) for n in result.json["networks"]] == some


def test_a_network_that_fails_gives_exit_code_1_and_json(
    hwnas: Run, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower, failing = Lowerer.network, []  # type: ignore[var-annotated]

    def network(self: Lowerer, architecture: Architecture) -> Any:
        if not failing or architecture in failing:
            failing.append(architecture)
            raise LoweringError("no such operator")
        return lower(self, architecture)

    monkeypatch.setattr(Lowerer, "network", network)
    result = hwnas("compare", "--predictor", "simulated.db", *SMALL, "--networks", 3, "--visits", 2, "--json", "-")
    assert result.code == 1
    assert "no such operator" in result.err
    assert [Architecture.from_dict(f["architecture"]) for f in result.json["failed"]] == failing[:1]


def test_ctrl_c_says_what_is_kept(hwnas: Run, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwnas.profiler import bench

    def interrupt(self: object, keys: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.Bench, "networks", interrupt)
    result = hwnas("compare", "--predictor", "simulated.db", *SMALL, "--out", "o", "-q")
    assert result.code == 130
    assert "kept in o; the same command goes on" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--predictor", "simulated.db", "--device", "cpu"), "made for device = 'simulated', not 'cpu'"),
        (("--predictor", "simulated.db", "--threads", "2"), "settings.threads = 1, not 2"),
        (("--predictor", "simulated.db", "--device", "flops"), "in ms, device 'flops' in MMACs"),
        (("--predictor", "flops", "--device", "cpu"), "in MMACs, device 'cpu' in ms"),
        (("--predictor", "simulated.db", "--device", "abacus"), "no device 'abacus'"),
        (("--predictor", "simulated.db", "--networks", "0"), "from 1 to 10000, not 0"),
        (("--predictor", "simulated.db", "--visits", "1"), "visits must be from 2"),
        (("--predictor", "simulated.db", "--arch", "x.json"), "x.json cannot be read"),
        (("--predictor", "simulated.db", "--out", "simulated.db"), "simulated.db cannot be made"),
        (("--predictor", "none.db"), "there is no file none.db"),
    ],
)
def test_requests_that_cannot_be_carried_out(hwnas: Run, tables: Path, options: Any, message: str) -> None:
    before = {p.name: p.read_bytes() for p in tables.iterdir()}
    result = hwnas("compare", *SMALL, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tables.iterdir()} == before
