"""The benchmark of the expected latency, in short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hwnas.benchmarks import expectation
from hwnas.spaces.registry import load_space
from hwnas.testing.search import Formula, made_up_table

SHORT = ["--quick", "--resolution", "8", "--updates", "12", "--paths", "1", "--moments", "3", "--batch", "4"]


@pytest.fixture(autouse=True)
def threads_as_they_were() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_tells_cost_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    expectation.main([*SHORT, "--kinds", "lut", "linear", "--networks", "40", "--json", str(file)])
    found = json.loads(file.read_text())
    values = {finding["what"]: finding["value"] for finding in found["findings"]}
    assert values["lut: error of the value"] == pytest.approx(0, abs=1e-9)
    assert 0 < values["linear: error of the value"] < 0.5
    assert 0 < values["linear: error of a derivative"] < 0.5
    assert 0.5 < values["linear: R2 of the fit"] <= 1
    assert values["linear: share of the step"] > 0
    assert 1 <= found["linear"]["estimates"] <= 12
    assert "linear: share of the step" in capsys.readouterr().out


def test_the_truth_of_a_large_space_is_a_large_sample() -> None:
    space = load_space("proxyless", {"resolution": 32, "width": 0.25})
    table = made_up_table(space)
    predictor = Formula(space, lambda codes: table.predict_codes(codes) ** 1.3)
    truth = expectation.Truth(predictor)
    assert truth.every is None
    p = [torch.full((len(d),), 1 / len(d), dtype=torch.float64) for d in space.decisions]
    codes = space.encoding.sample(20_000, np.random.default_rng(1))
    assert float(truth(p)) == pytest.approx(predictor.predict_codes(codes).mean(), rel=5e-3)
