"""``hwnas fit``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors.flops import FlopsPredictor
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
SMALL = ("--space", "proxyless-small", "--space-arg", "resolution=8")
LINEAR = (*SMALL, "--kind", "linear")


def test_from_a_device_to_a_predictor_that_others_use(hwnas: Run, tmp_path: Path) -> None:
    result = hwnas("fit", "--device", "flops", *LINEAR, "--networks", 40, "--json", "-", "-q")
    assert result.code == 0
    found = result.json
    assert (found["kind"], found["unit"], found["n"], found["networks"]) == ("linear", "MMACs", 40, 40)
    assert found["mape"] < 1
    assert [point["n"] for point in found["curve"]["points"]] == [10, 20, 36]
    assert set(found["mape_with"]) == {"80", "160"}
    path = tmp_path / found["predictor"]
    assert path == tmp_path / "predictors" / "flops-proxyless-small-resolution=8-linear.npz"
    architecture = load_space("proxyless-small", {"resolution": 8}).sample(1, np.random.default_rng(9))[0]
    (tmp_path / "a.json").write_text(architecture.to_json())
    predicted = hwnas("predict", "--predictor", path, *SMALL, "--arch", "a.json", "--json", "-", "-q")
    assert predicted.code == 0
    exact = FlopsPredictor.of(load_space("proxyless-small", {"resolution": 8})).predict([architecture])[0]
    assert predicted.json["predictions"][0]["predicted"] == pytest.approx(exact, rel=0.02)
    foreign = hwnas("predict", "--predictor", path, "--space", "nasbench201", "--arch", "a.json")
    assert foreign.code == 2
    assert "is of space 'proxyless-small'" in foreign.err


def test_measurements_serve_for_another_kind_and_for_more(hwnas: Run, tmp_path: Path) -> None:
    shown = hwnas("fit", "--device", "simulated", *LINEAR, "--networks", 34, "--visits", 3)
    assert shown.code == 0
    assert "How much more measuring would help" in shown.out
    folder = tmp_path / "results" / "fit-simulated-proxyless-small-resolution=8"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == ["networks-000.db", "networks-001.db"]
    again = hwnas("fit", "--device", "simulated", *SMALL, "--kind", "gaussian-process", "--networks", 34, "--visits", 3)
    assert again.code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_from_a_table(hwnas: Run, tmp_path: Path) -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    hasty = MeasuringProtocol(max_visits=3, tolerance=0.5, network_visits=3, trace_runs=5)
    profile(ProfileRequest(create("simulated"), space, tmp_path / "t.db", protocol=hasty))
    result = hwnas("fit", *LINEAR, "--table", "t.db", "--out", "p.npz", "--json", "-", "-q")
    assert result.code == 0
    assert result.json["source"] == f"{result.json['networks']} networks of t.db"
    assert result.json["unit"] == "ms"
    wrong = hwnas("compare", "--predictor", "p.npz", *SMALL, "--device", "cpu")
    assert wrong.code == 2
    assert "made for device = 'simulated'" in wrong.err


def test_from_a_parquet_file(hwnas: Run, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    space = load_space("proxyless-small", {"resolution": 8})
    codes = space.encoding.sample(40, np.random.default_rng(0))
    labels = [d.label for d in space.decisions]
    pd.DataFrame(codes, columns=labels).assign(ms=1.0 + codes.sum(axis=1)).to_parquet(tmp_path / "d.parquet")
    given = ("--data", "d.parquet", "--target", "ms", "--features", ",".join(labels))
    result = hwnas("fit", *LINEAR, *given, "--json", "-", "-q")
    assert result.code == 0
    assert result.json["predictor"] == "predictors/data-proxyless-small-resolution=8-linear.npz"
    assert result.json["mape"] < 5
    refused = hwnas("fit", *LINEAR, *given)
    assert refused.code == 2
    assert "exists" in refused.err
    assert hwnas("fit", *LINEAR, *given, "--force", "-q").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--device is missing"),
        (("--device", "abacus"), "no device 'abacus'"),
        (("--device", "flops", "--networks", "0"), "from 1 to 100000, not 0"),
        (("--device", "flops", "--networks", "5"), "at least 10 measured networks, not 5"),
        (("--device", "flops", "--until-mape", "0"), "above 0 and below 100, not 0"),
        (("--device", "flops", "--until-mape", "-1"), "above 0 and below 100, not -1"),
        (("--device", "flops", "--until-mape", "nan"), "above 0 and below 100, not nan"),
        (("--device", "flops", "--until-mape", "1", "--networks", "63"), "takes from 64 to 5000 networks, not 63"),
        (("--device", "flops", "--visits", "1"), "visits must be from 2"),
        (("--device", "flops", "--kind", "flops"), "not fitted on networks"),
        (("--device", "flops", "--kind", "oracle"), "no predictor of kind 'oracle'"),
        (("--device", "flops", "--out", "a.txt"), "a.txt exists"),
        (("--device", "flops", "--out", "a.txt", "--force"), "a.txt is neither a latency table nor a predictor"),
        (("--data", "a.txt"), "--data needs --target and --features"),
        (("--target", "ms"), "are of --data, which is not given"),
        (("--data", "a.txt", "--target", "a", "--features", "b", "--networks", "9"), "exclude each other"),
        (("--data", "a.txt", "--target", "a", "--features", "b"), "a.txt is no Parquet file"),
        (("--table", "none.db"), "none.db"),
        (("--table", "a.txt"), "a.txt is not an hwnas table"),
    ],
)
def test_requests_that_cannot_be_carried_out(hwnas: Run, tmp_path: Path, options: Any, message: str) -> None:
    (tmp_path / "a.txt").write_text("a, b\n")
    result = hwnas("fit", *LINEAR, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert (tmp_path / "a.txt").read_text() == "a, b\n"


class TestSources:
    """From other devices to a new one, of which few networks were measured."""

    @pytest.fixture
    def given(self, tmp_path: Path) -> tuple[Any, ...]:
        """Six networks of the new device, and forty of another."""
        pd = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        space = load_space("proxyless-small", {"resolution": 8})
        codes = space.encoding.sample(46, np.random.default_rng(0))
        labels = [d.label for d in space.decisions]
        macs = FlopsPredictor.of(space).predict_codes(codes)
        frame = pd.DataFrame(codes, columns=labels).assign(new=3 * macs**1.1, other=0.3 * macs.mean() + macs)
        frame.iloc[:6].to_parquet(tmp_path / "new.parquet")
        frame.iloc[6:].assign(same=1.0).to_parquet(tmp_path / "other.parquet")
        return (*SMALL, "--data", "new.parquet", "--target", "new", "--features", ",".join(labels))

    def test_few_networks_are_enough_and_the_file_stands_alone(
        self, hwnas: Run, given: tuple[Any, ...], tmp_path: Path
    ) -> None:
        result = hwnas("fit", *given, "--sources", "flops,other.parquet:other", "--json", "-", "-q")
        assert result.code == 0
        assert (result.json["kind"], result.json["networks"]) == ("transfer", 6)
        assert result.json["sources"] == ["flops", "other.parquet:other"]
        for name in ("new.parquet", "other.parquet"):
            (tmp_path / name).unlink()
        space = load_space("proxyless-small", {"resolution": 8})
        architecture = space.sample(1, np.random.default_rng(9))[0]
        (tmp_path / "a.json").write_text(architecture.to_json())
        path = tmp_path / result.json["predictor"]
        predicted = hwnas("predict", "--predictor", path, *SMALL, "--arch", "a.json", "--json", "-", "-q")
        assert predicted.code == 0
        known = 3 * FlopsPredictor.of(space).predict([architecture])[0] ** 1.1
        assert predicted.json["predictions"][0]["predicted"] == pytest.approx(known, rel=0.1)
        again = hwnas("fit", *given[: len(SMALL)], "--sources", path, "--table", "none.db")
        assert again.code == 2

    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            ((), "--kind transfer needs --sources"),
            (("none.db",), "there is no file none.db"),
            (("new.parquet",), "neither a latency table nor a predictor"),
            (("other.parquet:cpu",), "no column 'cpu'"),
            (("other.parquet:same",), "is constant"),
            (("new.parquet:new",), "6 rows can be used, at least 10"),
            (("flops", "flops"), "given twice"),
            (("other.parquet:other", "other.parquet:other"), "given twice"),
        ],
    )
    def test_sources_that_cannot_be_used(
        self, hwnas: Run, given: tuple[Any, ...], sources: tuple[str, ...], message: str
    ) -> None:
        named = ("--sources", ",".join(sources)) if sources else ("--kind", "transfer")
        result = hwnas("fit", *given, *named)
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1

    def test_columns_need_features(self, hwnas: Run, given: tuple[Any, ...]) -> None:
        named = ("--networks", 6, "--device", "flops", "--sources", "other.parquet:other")
        result = hwnas("fit", *SMALL, *named)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert "needs --features" in result.err
        measured = hwnas("fit", *SMALL, *named, *given[-2:], "--json", "-", "-q")
        assert measured.code == 0
        assert measured.json["mape"] < 25
