"""``hwnas evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

Run = Callable[..., Any]
OPS = "op0,op1,op2,op3,op4,op5"
LINEAR = ("--features", OPS, "--target", "ms", "--kind", "linear")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Networks of NAS-Bench-201 whose latency is a sum, with 1 % of noise; two latencies are missing."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(4**6)[:90, None] // 4 ** np.arange(6) % 4 + 1
    ms = (2 + (codes == 3).sum(axis=1) + 0.3 * (codes == 2).sum(axis=1)) * rng.normal(1, 0.01, 90)
    frame = pd.DataFrame(dict(zip(OPS.split(","), codes.T, strict=True))).assign(ms=ms, family=np.arange(90) // 9)
    frame.loc[[3, 7], "ms"] = np.nan
    frame.to_parquet(tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def test_statistics_of_each_seed_and_their_mean(hwnas: Run, data: Path) -> None:
    result = hwnas("evaluate", "--data", data, *LINEAR, "--train", 40, "--seeds", 2, "--json", "-", "-q")
    assert result.code == 0
    found = result.json
    assert (found["unit"], found["n"], found["dropped"], found["kind"]) == ("ms", 48, 2, "linear")
    assert len(found["seeds"]) == 2
    names = {
        *("n", "mape", "bias", "rmse", "max_error", "within_1", "within_5", "within_10", "spearman", "kendall"),
        *("coverage", "width", "fit_s", "predict_s", "kind"),
    }
    assert all(names <= set(one) for one in found["seeds"])
    assert names <= set(found)
    assert found["mape"] < 2
    assert found["within_10"] == 100
    assert result.err == ""


def test_a_table_and_what_was_left_out_are_shown(hwnas: Run, data: Path) -> None:
    result = hwnas("evaluate", "--data", data, *LINEAR, "--train", 40, "--seeds", 1)
    assert result.code == 0
    assert "2 rows without a latency are left out" in result.out
    assert "MAPE %" in result.out
    assert "seed 0" in result.out


def test_with_a_space_and_groups(hwnas: Run, data: Path) -> None:
    space = ("--space", "nasbench201", "--group", "family")
    result = hwnas("evaluate", "--data", data, *LINEAR, *space, "--train", 40, "--seeds", 1, "--json", "-", "-q")
    assert result.code == 0
    assert result.json["space"] == "nasbench201"
    assert result.json["n"] <= 45
    assert result.json["mape"] < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--train", "5"), "at least 10 rows to be fitted on, not 5"),
        (("--train", "88"), "takes at least 89, there are 88"),
        (("--train", "40", "--seeds", "0"), "seeds must be from 1"),
        (("--train", "40", "--kind", "oracle"), "no regressor of kind 'oracle'"),
        (("--train", "40", "--target", "us"), "no column 'us'"),
        (("--train", "40", "--features", "op0,op1"), "has 6 choices"),
        (("--train", "40", "--group", "species"), "no column 'species'"),
        (("--train", "40", "--data", "none.parquet"), "none.parquet cannot be read"),
        (("--train", "40", "--space", "nowhere"), "nowhere"),
        (("--train", "40", "--sources", "data.parquet:ms"), "does not learn from other devices"),
        (("--train", "40", "--sources", "data.parquet"), "not of the form FILE:COLUMN"),
        (("--train", "40", "--sources", "none.parquet:ms"), "there is no file none.parquet"),
        ((), "--train"),
    ],
)
def test_requests_that_cannot_be_carried_out(hwnas: Run, data: Path, options: Any, message: str) -> None:
    given = ("--data", data, *LINEAR, "--space", "nasbench201")
    result = hwnas("evaluate", *given, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_arguments_without_a_space(hwnas: Run, data: Path) -> None:
    result = hwnas("evaluate", "--data", data, *LINEAR, "--train", 40, "--space-arg", "classes=5")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--space-arg is given without --space" in result.err
