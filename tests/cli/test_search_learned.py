"""``hwnas search`` with predictors that were fitted on measured networks: landing, hard limits, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.base import Predictor
from hwnas.predictors.learned import LearnedPredictor
from hwnas.predictors.registry import predictor_type
from hwnas.profiler.table import Provenance
from hwnas.search.run import RunFolder
from hwnas.spaces.registry import load_space
from hwnas.testing.search import made_up_table

Run = Callable[..., Any]

SPACE = ("--space", "proxyless-small", "--space-arg", "resolution=8", "--space-arg", "width=0.25")
SEARCH = ("search", *SPACE, "--data", "digits", "--torch-threads", 1, "--final-epochs", 0)
SHORT = ("--warmup-epochs", 0, "--epochs", 2, "--set", "search.weights.batch_size=128")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor whose choices interact, in ms of a device that is not here."""
    space = load_space("proxyless-small", {"resolution": "8", "width": "0.25"})
    rng = np.random.default_rng(0)
    codes = space.encoding.sample(80, rng)
    latency = made_up_table(space).predict_codes(codes) ** 1.5 * np.exp(0.03 * rng.standard_normal(80))
    settings = {"batch": 1, "threads": 1, "dtype": "fp32"}
    provenance = Provenance("elsewhere", "ms", settings, space.name, fingerprint=space.fingerprint)
    kind = predictor_type("linear")
    assert issubclass(kind, LearnedPredictor)
    path = tmp_path_factory.mktemp("learned") / "elsewhere.npz"
    kind.fit_codes(space, codes, latency, rng=rng, provenance=provenance).save(path)
    return path


@pytest.fixture(scope="module")
def predictor(made: Path) -> Predictor:
    return predictor_type("linear").load(made, load_space("proxyless-small", {"resolution": "8", "width": "0.25"}))


@pytest.fixture(scope="module")
def target(predictor: Predictor) -> float:
    low, high = predictor.predict_codes(predictor.extremes()).tolist()
    return float(low + 0.4 * (high - low))


def test_it_lands_and_tells_how_good_its_estimates_were(hwnas: Run, made: Path, target: float, tmp_path: Path) -> None:
    result = hwnas(*SEARCH, *SHORT, "--predictor", made, "--target", target, "--out", tmp_path / "run")
    assert result.code == 1, result.err  # there is no such device to measure on
    assert "the result was not measured" in result.err + result.out
    assert "expected latency: R2, standard error (ms)" in result.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert 0.98 * target <= report["predicted"] <= target * (1 + 1e-9)
    (goal,) = report["goals"]
    assert 0.5 < goal["r2"] <= 1
    assert 0 < goal["error"] < 0.01 * target
    for record in RunFolder(tmp_path / "run").records():
        assert {"expected", "ratio", "r2", "error", "mu"} <= set(record["expected"])
        assert record["expected"]["ratio"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("algorithm", ["gradient", "random"])
def test_a_hard_limit_is_held_by_the_upper_end(
    hwnas: Run, made: Path, predictor: Predictor, target: float, tmp_path: Path, algorithm: str
) -> None:
    limit = ("--limit", "--coverage", 0.9, "--algorithm", algorithm, "--set", "search.random.updates=2")
    result = hwnas(*SEARCH, *SHORT, *limit, "--predictor", made, "--target", target, "--out", tmp_path / "run")
    assert result.code == 1, result.err
    assert "upper end of the interval (ms)" in result.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    (goal,) = report["goals"]
    from hwnas.spaces.architecture import Architecture

    found = Architecture.from_dict(report["architecture"])
    assert goal["upper"] == pytest.approx(float(predictor.interval([found], 0.9)[0, 1]))
    assert goal["predicted"] < goal["upper"] <= target
    assert goal["predicted"] == pytest.approx(float(predictor.predict([found])[0]))


def test_what_does_not_fit_is_refused(hwnas: Run, made: Path, target: float, tmp_path: Path) -> None:
    asked = ("--predictor", made, "--target", target, "--out", tmp_path / "run")
    other = ("search", "--space", "proxyless-small", "--data", "digits:28", *asked)
    for arguments, message in (
        (other, "is of space 'proxyless-small'"),
        ((*SEARCH, *asked, "--device", "cpu"), "the predictor was made for device = 'elsewhere', not 'cpu'"),
        ((*SEARCH, *asked, "--device", "flops"), "the predictor is in ms, device 'flops' in MMACs"),
        ((*SEARCH, *asked, "--coverage", 0.9), "--coverage: a coverage is of the limit (--limit)"),
        ((*SEARCH, *asked, "--limit", "--coverage", 1.5), "search.objective.coverage is 1.5"),
        ((*SEARCH, *asked[:3], 1e-6, "--limit", "--coverage", 0.9), "below what the space reaches"),
    ):
        result = hwnas(*arguments)
        assert result.code == 2, result.out
        assert message in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
