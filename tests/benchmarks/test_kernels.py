"""The benchmark of prices runs on a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hwnas.benchmarks import kernels
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.spaces.registry import load_space


def test_a_table_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.db"
    profile(ProfileRequest(create("flops"), load_space("proxyless-small", {}), table))
    kernels.main(["--table", str(table), "--seeds", "1", "--json", str(tmp_path / "k.json")])
    assert "error of the other workloads, 50 % of 33 measured" in capsys.readouterr().out
    written = json.loads((tmp_path / "k.json").read_text())
    errors = {name: np.array(own) for name, own in written["errors"].items()}
    assert {own.shape for own in errors.values()} == {(1, 3, 2)}
    assert errors["random"][:, :, 1].max() < errors["random, forests"][:, :, 1].max()
    with pytest.raises(HwnasError, match="has 0 workloads of space 'nasbench201'"):
        kernels.main(["--table", str(table), "--space", "nasbench201"])


def test_what_was_measured_at_the_shares() -> None:
    space = load_space("proxyless-small", {})
    workloads = space.workloads()
    operators = kernels.Operators.of([w.key() for w in workloads], [w.info["operators"] for w in workloads])
    y = 1 + np.exp(operators.parameters[:, 0]) / 1e6
    for adaptive in (False, True):
        sets = kernels.chosen(operators, y, np.random.default_rng(0), adaptive=adaptive)
        assert [len(own) for own in sets] == [8, 16, 25]
        assert set(sets[0]) < set(sets[1]) < set(sets[2])
        assert len(set(sets[2])) == 25
