"""Kinds that need no more than ``--kind``: one that chooses, and tables that are fitted; and files of theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.files import PredictorFile
from hwnas.predictors.regressors import auto
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture
def given(space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Networks whose latency is a sum over their choices, with 1 % of noise; `auto` has few kinds to try."""
    monkeypatch.setattr(auto, "CANDIDATES", ("lut", "linear"))
    rng = np.random.default_rng(0)
    codes = space.encoding.sample(90, rng)
    costs = rng.random((codes.shape[1], codes.max() + 1))
    ms = (1 + costs[np.arange(codes.shape[1]), codes].sum(axis=1)) * rng.normal(1, 0.01, 90)
    labels = [d.label for d in space.decisions]
    pd.DataFrame(codes, columns=labels).assign(ms=ms).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "a.json").write_text(space.decode(codes[:1])[0].to_json())
    return ("--data", "d.parquet", "--target", "ms", "--features", ",".join(labels))


def test_evaluate_says_for_each_seed_what_was_chosen(hwnas: Run, given: tuple[str, ...]) -> None:
    command = ("evaluate", *SMALL, *given, "--kind", "auto", "--train", 70, "--seeds", 2)
    found = hwnas(*command, "--json", "-", "-q").json
    assert found["kind"] == "auto"
    for one in found["seeds"]:
        assert one["kind"] == one["choice"]["kind"] in ("lut", "linear")
        assert [t["kind"] for t in one["choice"]["tried"]] == ["lut", "linear"]
        assert all(t["mape"] > 0 for t in one["choice"]["tried"])
        assert (one["unit"], one["dropped"]) == ("ms", 0)
    shown = hwnas(*command)
    assert shown.code == 0
    assert f"seed 1: {found['seeds'][1]['kind']} is chosen: its MAPE on held-out networks, " in " ".join(
        shown.out.split()
    )


def test_with_sources_transfer_is_a_candidate(
    hwnas: Run, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", ("lut", "transfer"))
    frame = pd.read_parquet("d.parquet")
    frame.assign(other=2 * frame["ms"] ** 1.1).to_parquet("d.parquet")
    command = ("evaluate", *given, "--kind", "auto", "--train", 30, "--seeds", 1, "--sources", "d.parquet:other")
    found = hwnas(*command, "--json", "-", "-q")
    assert found.code == 0, found.err
    assert [t["kind"] for t in found.json["seeds"][0]["choice"]["tried"]] == ["lut", "transfer"]
    assert found.json["seeds"][0]["kind"] == "transfer"


def test_fit_says_what_was_chosen_and_the_file_keeps_it(hwnas: Run, given: tuple[str, ...]) -> None:
    result = hwnas("fit", *SMALL, *given, "--kind", "auto", "--out", "p.npz", "--json", "fit.json")
    assert result.code == 0, result.err
    found = json.loads(Path("fit.json").read_text())
    chosen = found["choice"]["kind"]
    assert (found["kind"], chosen in ("lut", "linear")) == ("auto", True)
    assert f"{chosen} is chosen: its MAPE on held-out networks, " in " ".join(result.out.split())
    assert 0.5 < found["mape"] < 2
    assert PredictorFile.read("p.npz").meta["fitted"]["regressor"]["choice"] == found["choice"]
    predicted = hwnas("predict", "--predictor", "p.npz", *SMALL, "--arch", "a.json", "--json", "-", "-q").json
    assert (predicted["kind"], predicted["unit"]) == ("auto", "ms")


def test_a_table_can_be_fitted(hwnas: Run, given: tuple[str, ...]) -> None:
    judged = hwnas("evaluate", *SMALL, *given, "--kind", "lut", "--train", 70, "--seeds", 1, "--json", "-", "-q").json
    assert (judged["kind"], judged["seeds"][0]["kind"]) == ("lut", "lut")
    assert judged["mape"] < 2
    result = hwnas("fit", *SMALL, *given, "--kind", "lut", "--json", "-", "-q")
    assert result.code == 0, result.err
    assert result.json["predictor"] == "predictors/data-proxyless-small-resolution=8-lut.npz"
    file = result.json["predictor"]
    predicted = hwnas("predict", "--predictor", file, *SMALL, "--arch", "a.json", "--json", "-", "-q").json
    assert predicted["kind"] == "lut"


def test_files_for_something_else_are_refused_in_one_line(hwnas: Run, given: tuple[str, ...]) -> None:
    assert hwnas("fit", *SMALL, *given, "--kind", "lut", "--out", "p.npz", "-q").code == 0
    with np.load("p.npz") as parts:
        arrays = dict(parts)
    header = json.loads(arrays.pop("header").tobytes())
    header["version"] += 1
    np.savez("newer.npz", header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    other = ("--space", "proxyless-small", "--space-arg", "resolution=16")
    for options, message in (
        (("predict", "--predictor", "newer.npz", *SMALL, "--arch", "a.json"), "made by a newer hwnas; update this one"),
        (("predict", "--predictor", "p.npz", *other, "--arch", "a.json"), "p.npz is of space 'proxyless-small'"),
        (("compare", "--predictor", "p.npz", *SMALL, "--device", "flops"), "is in ms, device 'flops' in MMACs"),
    ):
        result = hwnas(*options)
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1
