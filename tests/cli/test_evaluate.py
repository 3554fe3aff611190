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
        (("--train", "40", "--kind", "transfer"), "--kind transfer needs --sources"),
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


class TestSources:
    @pytest.fixture
    def others(self, data: Path) -> Path:
        """Another file with all but ten of the networks, some of them twice, on three other devices."""
        frame = pd.read_parquet(data).iloc[10:].drop(columns=["ms", "family"])
        codes = frame.to_numpy()
        cpu, gpu = 5 + 3.0 * (codes == 3).sum(axis=1) + (codes == 2).sum(axis=1), 1.0 + (codes > 1).sum(axis=1)
        frame = frame.assign(cpu=cpu, gpu=gpu, same=1.0, none=np.nan, text="slow", few=np.nan)
        frame.loc[frame.index[:3], "gpu"] = [np.nan, 0.0, -1.0]
        frame.loc[frame.index[:5], "few"] = [1.0, 2.0, 3.0, 4.0, 5.0]
        pd.concat([frame, frame.iloc[:4]]).to_parquet(data.parent / "others.parquet")
        return data.parent / "others.parquet"

    def given(self, data: Path, *sources: object) -> tuple[object, ...]:
        named = ("--sources", ",".join(map(str, sources))) if sources else ()
        return ("evaluate", "--data", data, "--features", OPS, "--target", "ms", *named)

    @pytest.mark.parametrize("space", [(), ("--space", "nasbench201")])
    @pytest.mark.parametrize(("train", "worst"), [(15, 6), (2, 25), (0, 200)])
    def test_few_networks_and_other_devices(
        self, hwnas: Run, data: Path, others: Path, space: Any, train: int, worst: float
    ) -> None:
        given = self.given(data, f"{others}:cpu", f"{others}:gpu")
        result = hwnas(*given, *space, "--train", train, "--seeds", 2, "--json", "-", "-q")
        assert (result.code, result.err) == (0, "")
        found = result.json
        assert (found["kind"], found["n"], found["train"]) == ("transfer", 88 - train, train)
        assert found["sources"] == [f"{others}:cpu", f"{others}:gpu"]
        assert f"source {others}:gpu: 6 rows without a positive latency are left out" in found["notes"]
        assert found["mape"] < worst
        assert found["spearman"] > 0.7
        assert (found["width"] is None) == (train == 0)

    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            (("data.parquet",), "not of the form FILE:COLUMN"),
            (("none.parquet:cpu",), "there is no file none.parquet"),
            (("others.parquet:tpu",), "no column 'tpu'"),
            (("data.parquet:ms",), "is the target itself"),
            (("others.parquet:cpu", "others.parquet:cpu"), "is given twice"),
            (("others.parquet:same",), "is constant (1)"),
            (("others.parquet:none",), "no row has a latency"),
            (("others.parquet:few",), "5 rows can be used, at least 10"),
            (("others.parquet:text",), "not numbers"),
            (("others.parquet:cpu", "readme.md:cpu"), "no Parquet file"),
        ],
    )
    def test_sources_that_cannot_be_used(
        self,
        hwnas: Run,
        data: Path,
        others: Path,
        sources: tuple[str, ...],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(data.parent)
        (data.parent / "readme.md").write_text("no table")
        result = hwnas(*self.given(Path(data.name), *sources), "--train", 20)
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1

    def test_a_source_that_lacks_a_value(self, hwnas: Run, data: Path, others: Path) -> None:
        frame = pd.read_parquet(others)
        frame[frame["op3"] != 2].to_parquet(others)
        result = hwnas(*self.given(data, f"{others}:cpu"), "--train", 20)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "has no row with 1 of the values of column 'op3'" in result.err

    def test_a_column_of_the_same_file_may_have_colons(self, hwnas: Run, data: Path) -> None:
        frame = pd.read_parquet(data)
        frame.assign(**{"a:b": frame["ms"] * 2}).to_parquet(data)
        result = hwnas(*self.given(data, f"{data}:a:b"), "--train", 20, "--seeds", 1, "--json", "-", "-q")
        assert result.code == 0
        assert result.json["sources"] == [f"{data}:a:b"]
        assert any("2 rows without a positive latency" in note for note in result.json["notes"])

    def test_kinds_that_cannot_use_them(self, hwnas: Run, data: Path, others: Path) -> None:
        result = hwnas(*self.given(data, f"{others}:cpu"), "--train", 20, "--kind", "gbdt")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "'gbdt' does not learn from other devices" in result.err
