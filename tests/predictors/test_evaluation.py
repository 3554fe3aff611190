"""The protocol by which predictors are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.evaluation import evaluate, split
from hwnas.predictors.frames import FrameRequest, Measured, read_measured
from hwnas.predictors.regressors.base import Rows
from hwnas.spaces.registry import load_space
from hypothesis import given
from hypothesis import strategies as st


def measured(n: int = 120, groups: np.ndarray | None = None, noise: float = 0.02) -> Measured:
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 4, (n, 3)).astype(np.int16)
    rows = Rows(choices, (4, 4, 4), np.empty((n, 0)))
    return Measured(rows, (5 + choices.sum(axis=1)) * rng.normal(1, noise, n), None, groups, 3, 2, 0, 0)


def test_means_over_the_seeds() -> None:
    result = evaluate(measured(), train=60, seeds=3, kind="linear")
    data = result.as_dict()
    assert [one["seed"] for one in data["seeds"]] == [0, 1, 2]
    assert (data["n"], data["train"], data["dropped"], data["unit"], data["kind"]) == (60, 60, 5, "ms", "linear")
    for name in ("mape", "bias", "rmse", "max_error", "within_1", "within_5", "within_10", "spearman", "kendall"):
        assert data[name] == pytest.approx(np.mean([one[name] for one in data["seeds"]]))
    for name in ("coverage", "width", "fit_s", "predict_s"):
        assert data[name] == pytest.approx(np.mean([one[name] for one in data["seeds"]]))
        assert all(one[name] >= 0 for one in data["seeds"])
    assert 1 < data["mape"] < 3
    assert data["width"] == pytest.approx(2 * 1.645 * 2, rel=0.7)
    assert len({one["mape"] for one in data["seeds"]}) == 3
    again = evaluate(measured(), train=60, seeds=2, kind="linear")
    assert [one.errors for one in again.seeds] == [one.errors for one in result.seeds[:2]]


def test_an_undefined_statistic_is_none() -> None:
    result = evaluate(measured(61), train=60, seeds=2, kind="linear").as_dict()
    assert (result["n"], result["spearman"], result["seeds"][0]["kendall"]) == (1, None, None)


@given(st.integers(2, 60), st.data())
def test_splits_are_parts(n: int, data: st.DataObject) -> None:
    train = data.draw(st.integers(1, n - 1))
    fitted, held = split(n, train, np.random.default_rng(0))
    assert len(fitted) == train
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(n))


@given(st.lists(st.integers(0, 9), min_size=4, max_size=60), st.data())
def test_groups_stay_on_one_side(names: list[int], data: st.DataObject) -> None:
    groups = np.array(names)
    train = data.draw(st.integers(1, len(groups) - 1))
    try:
        fitted, held = split(len(groups), train, np.random.default_rng(data.draw(st.integers(0, 5))), groups)
    except PredictorError:
        assert len(set(names)) < 2 or train > len(groups) - np.bincount(groups)[np.unique(groups)].max()
        return
    assert len(fitted) == train
    assert len(held) > 0
    assert not set(groups[fitted]) & set(groups[held])


def test_evaluation_in_groups() -> None:
    groups = np.arange(120) // 10
    result = evaluate(measured(groups=groups), train=55, seeds=2, kind="linear")
    assert [one.errors.n for one in result.seeds] == [60, 60]


@pytest.mark.parametrize(
    ("train", "seeds", "message"),
    [
        (9, 1, "needs at least 10 rows to be fitted on, not 9"),
        (120, 1, "takes at least 121, there are 120"),
        (50, 0, "seeds must be from 1"),
    ],
)
def test_requests_that_cannot_be_carried_out(train: int, seeds: int, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        evaluate(measured(), train=train, seeds=seeds, kind="linear")


def test_on_real_devices(shared: Path) -> None:
    """On a Raspberry Pi with ONNX Runtime, better than a regressed table with boosted trees on top (MAPE 4.7)."""
    data = shared / "data" / "nb201_hw360.parquet"
    request = FrameRequest(data, "lat_pi5_onnx_ninapro", tuple(f"op{i}" for i in range(6)))
    found = read_measured(request, load_space("nasbench201"))
    assert (len(found.latency), found.missing, found.disconnected, found.repeated) == (6461, 0, 0, 0)
    result = evaluate(found, train=100, seeds=1, kind="linear").as_dict()
    assert result["mape"] < 3.0
    assert result["within_10"] > 95
