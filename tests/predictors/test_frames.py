"""Tables of measured architectures from Parquet files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.frames import FrameRequest, Measured, read_measured
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

TRICKY = f"{Path(__file__).parent / 'nets.py'}:tricky"
OPS = ("op0", "op1", "op2", "op3", "op4", "op5")


@pytest.fixture(scope="module")
def nb201() -> SearchSpace:
    return load_space("nasbench201")


def frame(n: int = 30, seed: int = 0) -> Any:
    """Different connected networks of NAS-Bench-201."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(4**6)[:n, None] // 4 ** np.arange(6) % 4 + 1
    return pd.DataFrame(dict(zip(OPS, codes.T, strict=True))).assign(ms=rng.uniform(1, 2, n), side=rng.random(n))


def read(tmp_path: Path, data: Any, space: SearchSpace | None = None, **changes: Any) -> Measured:
    path = tmp_path / "data.parquet"
    data.to_parquet(path)
    return read_measured(FrameRequest(**{"data": path, "target": "ms", "features": OPS, **changes}), space)


def test_choices_and_counts_without_a_space(tmp_path: Path) -> None:
    data = frame()
    found = read(tmp_path, data, features=(*OPS, "side"))
    np.testing.assert_array_equal(found.latency, data["ms"])
    assert found.codes is None
    assert found.groups is None
    assert found.rows.labels == OPS
    assert found.rows.sizes == (4,) * 6
    np.testing.assert_array_equal(found.rows.choices, data[list(OPS)].to_numpy() - 1)
    numbers = dict(zip(found.rows.names, found.rows.numeric.T, strict=True))
    np.testing.assert_array_equal(numbers["op = 3"], (data[list(OPS)] == 3).sum(axis=1))
    np.testing.assert_array_equal(numbers["sum of op"], data[list(OPS)].sum(axis=1))
    np.testing.assert_array_equal(numbers["side"], data["side"])


@pytest.mark.parametrize("form", ["numbers", "floats", "names"])
def test_with_a_space_columns_are_its_choices(tmp_path: Path, nb201: SearchSpace, form: str) -> None:
    data = frame()
    codes = data[list(OPS)].to_numpy()
    if form == "floats":
        data = data.astype(dict.fromkeys(OPS, float))
    elif form == "names":
        names = dict(enumerate(nb201.decisions[0].candidates))
        data = data.assign(**{name: data[name].map(names) for name in OPS})
    found = read(tmp_path, data, nb201)
    assert found.codes is not None
    np.testing.assert_array_equal(found.codes, codes)
    assert any(name.startswith("live") for name in found.rows.names)


def test_choices_that_are_not_reached_may_be_empty(tmp_path: Path) -> None:
    space = load_space(TRICKY)
    codes = np.concatenate(list(space.encoding.enumerate()))
    codes = codes[np.random.default_rng(0).permutation(len(codes))]
    labels = tuple(d.label for d in space.decisions)
    data = pd.DataFrame(codes, columns=labels).astype("Int64").assign(ms=np.arange(1.0, len(codes) + 1))
    data[labels[2]] = data[labels[2]].mask(data[labels[2]] < 0)
    found = read(tmp_path, data, space, features=labels)
    there = (codes >= 0).all(axis=1)
    assert found.codes is not None
    assert {tuple(row) for row in found.codes.tolist()} <= {tuple(row) for row in codes.tolist()}
    assert (found.codes[:, 2] == -1).any()
    assert there.any()
    data[labels[0]] = data[labels[0]].mask(np.arange(len(codes)) == 1)
    with pytest.raises(PredictorError, match=r"column 'first' .* 1 of 90 rows have no value"):
        read(tmp_path, data, space, features=labels)


def test_rows_without_a_latency_are_counted(tmp_path: Path) -> None:
    data = frame()
    data.loc[[3, 7], "ms"] = np.nan
    data.loc[3, "op0"] = 99  # what has no latency need not make sense
    found = read(tmp_path, data)
    assert found.missing == 2
    np.testing.assert_array_equal(found.latency, data["ms"].dropna())
    assert found.notes() == ["2 rows without a latency are left out"]


def test_disconnected_networks_are_left_out(tmp_path: Path, nb201: SearchSpace) -> None:
    data = frame()
    data.loc[4, ["op3", "op4", "op5"]] = 0
    found = read(tmp_path, data, nb201)
    assert (found.disconnected, len(found.latency)) == (1, 29)
    assert read(tmp_path, data).disconnected == 0


def test_repeated_architectures_count_once(tmp_path: Path) -> None:
    data = frame()
    more = data.iloc[[2, 2, 5]].assign(ms=[9.0, 8.0, data["ms"][5]])
    found = read(tmp_path, pd.concat([data, more]))
    assert (found.repeated, found.differing, len(found.latency)) == (3, 1, 30)
    assert found.latency[2] == 8.0
    assert found.latency[5] == data["ms"][5]
    assert "3 rows repeat an architecture" in found.notes()[0]
    assert "1 architectures had different latencies" in found.notes()[0]


def test_groups_that_share_an_architecture_are_one(tmp_path: Path) -> None:
    data = frame().assign(family=["a", "b", "c"] * 10)
    found = read(tmp_path, data, group="family")
    assert found.groups is not None
    assert len(set(found.groups.tolist())) == 3
    assert (found.groups[::3] == found.groups[0]).all()
    more = pd.concat([data, data.iloc[[0]].assign(family="b")])
    again = read(tmp_path, more, group="family")
    assert again.groups is not None
    assert len(set(again.groups.tolist())) == 2


def changed(column: str, value: Any, rows: Any = slice(4, 4)) -> Any:
    data = frame()
    data[column] = data[column].astype(object if isinstance(value, str) else float)
    data.loc[rows, column] = value
    return data


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (frame(), {"target": "us"}, "no column 'us'; it has op0, op1"),
        (frame(), {"features": (*OPS, "op6", "op7")}, "no column 'op6', 'op7'"),
        (frame(), {"features": ()}, "no feature column"),
        (frame(), {"features": ("op0", "op0")}, "given twice"),
        (frame(), {"features": ("ms",)}, "or is the target"),
        (frame(), {"group": "family"}, "no column 'family'"),
        (changed("ms", 0.0), {}, "1 of 30 latencies are not positive numbers, such as 0"),
        (changed("ms", -2.0), {}, "such as -2"),
        (changed("ms", np.inf), {}, "such as inf"),
        (changed("ms", np.nan, slice(None)), {}, "no row has a latency"),
        (frame().assign(ms="slow"), {}, r"target 'ms' .* not numbers"),
        (changed("op1", np.nan), {}, r"column 'op1' .* 1 of 30 rows have no value"),
        (changed("side", np.inf), {"features": (*OPS, "side")}, r"column 'side' .* have no value"),
        (frame().assign(op2=3), {}, r"column 'op2' .* is constant \(3\)"),
        (frame().assign(family=1), {"group": "family"}, r"column 'family' .* is constant"),
        (frame().assign(op2=[[1], [2]] * 15), {}, "column 'op2' .* neither numbers nor texts"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        read(tmp_path, data, **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (changed("op1", 5.0), {}, "column 'op1': choice .* has no candidate '5.0'; it has none | skip_connect"),
        (changed("op1", 1.5), {}, "has no candidate '1.5'"),
        (frame().assign(op1=["nor_conv_3x3", "nor_conv_5x5"] * 15), {}, "no candidate 'nor_conv_5x5'"),
        (frame(), {"features": OPS[:5]}, r"has 6 choices \(.*\), 5 feature columns"),
        (frame().assign(op1=[-1, 2] * 15), {}, "do not fit space 'nasbench201'"),
    ],
)
def test_what_is_not_of_the_space(
    tmp_path: Path, nb201: SearchSpace, data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PredictorError, match=message):
        read(tmp_path, data, nb201, **options)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    request = FrameRequest(tmp_path / "data.parquet", "ms", OPS)
    with pytest.raises(PredictorError, match="cannot be read"):
        read_measured(request)
    for content in (b"", b"a,b\n1,2\n", b"PAR1 and no more PAR1"):
        request.data.write_bytes(content)
        with pytest.raises(PredictorError, match="no Parquet file"):
            read_measured(request)
    with pytest.raises(PredictorError, match=r"cannot be read|no Parquet"):
        read_measured(FrameRequest(tmp_path, "ms", OPS))


def test_columns_of_numbers_texts_and_truths(tmp_path: Path) -> None:
    n = 200
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "channels": rng.permutation(n) + 8,
            "kernel": rng.choice([3, 5, 7], n),
            "act": rng.choice(["relu", "gelu"], n),
            "bias": rng.random(n) < 0.5,
            "width": rng.random(n),
            "ms": rng.random(n) + 1,
        }
    )
    found = read(tmp_path, data, features=("channels", "kernel", "act", "bias", "width"))
    assert found.rows.labels == ("kernel", "act", "bias")
    assert found.rows.sizes == (3, 2, 2)
    assert found.rows.names == ("channels", "width")
