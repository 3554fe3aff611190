"""``hwnas fit`` of files that cannot be learned from, and what it says of those that can."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.spaces.registry import load_space

pd: Any = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")


@pytest.fixture(scope="module")
def frame() -> Any:
    space = load_space("proxyless-small", {"resolution": 8})
    codes = space.encoding.sample(130, np.random.default_rng(0))
    ms = (1.0 + codes.sum(axis=1)) * np.random.default_rng(1).lognormal(0, 0.02, len(codes))
    return pd.DataFrame(codes, columns=[f"c{i}" for i in range(codes.shape[1])]).assign(ms=ms)


def fit(hwnas: Run, frame: Any, *options: object, columns: Any = None) -> Any:
    frame.to_parquet("d.parquet")
    named = columns or [name for name in frame.columns if name != "ms"]
    given = ("--data", "d.parquet", "--target", "ms", "--features", ",".join(named))
    return hwnas("fit", *SMALL, "--kind", "lut", *given, *options)


def set_at(row: int, column: str, value: object) -> Callable[[Any], Any]:
    def changed(frame: Any) -> Any:
        frame = frame.astype({column: type(value)})
        frame.loc[row, column] = value
        return frame

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.head(5), "needs at least 10 measured networks, not 5"),
        (lambda f: f.drop(columns="ms"), "no column 'ms'"),
        (lambda f: f.assign(c0=0), "'c0' of d.parquet is constant (0)"),
        (lambda f: f.assign(ms=2.0), "same latency 2"),
        (set_at(3, "c1", float("nan")), "'c1' of d.parquet: 1 of 130 rows have no value"),
        (set_at(3, "c1", 99), "has no candidate '99'"),
        (set_at(3, "ms", 0.0), "1 of 130 latencies are not positive numbers, such as 0"),
        (set_at(3, "ms", -1.0), "1 of 130 latencies are not positive numbers, such as -1"),
        (set_at(3, "ms", float("inf")), "ms"),
    ],
)
def test_files_that_cannot_be_learned_from(
    hwnas: Run, frame: Any, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    columns = [name for name in frame.columns if name != "ms"]
    result = fit(hwnas, change(frame), columns=columns)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.rglob("*.npz")) == []


def test_a_column_that_is_missing(hwnas: Run, frame: Any) -> None:
    result = fit(hwnas, frame, columns=[*[f"c{i}" for i in range(5)], "other"])
    assert result.code == 2
    assert "other" in result.err


def test_repeated_architectures_are_said(hwnas: Run, frame: Any) -> None:
    again = frame.head(20).assign(ms=frame["ms"].head(20) * 1.1)
    result = fit(hwnas, pd.concat([frame, again]), "--json", "-", "-q")
    assert result.code == 0
    assert result.json["networks"] == 130
    assert any("20 architectures had different latencies" in note for note in result.json["notes"])


def test_measuring_as_a_replay(hwnas: Run, frame: Any) -> None:
    result = fit(hwnas, frame, "--until-mape", 20, "--json", "-", "-q")
    assert result.code == 0
    found = result.json
    assert found["reached"] is True
    assert found["networks"] == found["rounds"][-1]["networks"] == 64
    assert found["n"] == found["rounds"][-1]["judges"] == 32
    assert found["mape"] == pytest.approx(found["rounds"][-1]["mape"])
    assert "standard error" in found["rule"]
    again = fit(hwnas, frame, "--until-mape", 20, "--json", "-", "-q", "--force").json
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_a_replay_whose_budget_is_spent(hwnas: Run, frame: Any) -> None:
    result = fit(hwnas, frame, "--until-mape", 0.001, "--networks", 100)
    assert result.code == 1
    assert "MAPE 0.001 % is not reached" in result.err
    assert "Measured until the budget was spent" in result.out
    assert "judged by the random ones" in result.out


def test_a_file_too_small_for_judges(hwnas: Run, frame: Any) -> None:
    result = fit(hwnas, frame.head(50), "--until-mape", 1)
    assert result.code == 2
    assert "takes from 64 to 5000 networks, not 50" in result.err


def test_what_it_cannot_predict(hwnas: Run, frame: Any, tmp_path: Path) -> None:
    """An unknown candidate, and a predictor's file of a newer version."""
    assert fit(hwnas, frame, "--out", "p.npz", "-q").code == 0
    architecture = load_space("proxyless-small", {"resolution": 8}).sample(1, np.random.default_rng(5))[0].as_dict()
    label = next(iter(architecture["choices"]))
    odd = {**architecture, "choices": {**architecture["choices"], label: "k9e9"}}
    (tmp_path / "a.json").write_text(json.dumps(odd))
    unknown = hwnas("predict", "--predictor", "p.npz", *SMALL, "--arch", "a.json")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "has no candidate 'k9e9'" in unknown.err
    with zipfile.ZipFile("p.npz") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile("p.npz", "w") as file:
        for name, data in parts.items():
            file.writestr(name, data.replace(b'"version": 1', b'"version": 9'))
    newer = hwnas("predict", "--predictor", "p.npz", *SMALL, "--arch", "a.json")
    assert (newer.code, newer.err.count("\n")) == (2, 1)
    assert "version 9" in newer.err
