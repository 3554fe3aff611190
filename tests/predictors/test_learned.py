"""Predictors that were fitted on measured networks: what they learn from, know and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices.registry import create
from hwnas.predictors.agreement import check_device
from hwnas.predictors.base import PredictorError
from hwnas.predictors.files import PredictorFile
from hwnas.predictors.kinds import learned_type
from hwnas.predictors.learned import LearnedPredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.registry import load_predictor, predictor_type
from hwnas.predictors.regressors.registry import regressor_kinds
from hwnas.profiler.table import Provenance
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("nasbench201")


@pytest.fixture(scope="module")
def sums() -> SearchSpace:
    """A space in which nothing can be dead, so that a table is an exact sum over the choices."""
    return load_space("proxyless-small", {"resolution": 8})


def provenance(space: SearchSpace) -> Provenance:
    settings = create("simulated").settings.as_dict()
    return Provenance("simulated", "ms", settings, space.name, fingerprint=space.fingerprint, lowering="emitter")


@pytest.fixture(scope="module")
def predictor(space: SearchSpace, make_lut: Callable[..., LutPredictor]) -> LearnedPredictor:
    rng = np.random.default_rng(0)
    codes = space.encoding.sample(60, rng)
    y = make_lut(space).predict_codes(codes) * rng.normal(1, 0.01, 60)
    return learned_type("linear").fit_codes(space, codes, y, rng=rng, source="a test", provenance=provenance(space))


def test_every_regressor_has_a_predictor() -> None:
    for kind in regressor_kinds():
        made = learned_type(kind) if kind == "lut" else predictor_type(kind)
        assert issubclass(made, LearnedPredictor)
        assert made.kind == kind


def test_it_is_fitted_on_architectures(sums: SearchSpace, make_lut: Callable[..., LutPredictor]) -> None:
    table = make_lut(sums)
    networks = sums.sample(80, np.random.default_rng(1))
    new = sums.sample(100, np.random.default_rng(2))
    fitted = learned_type("linear").fit(sums, networks, table.predict(networks).tolist(), rng=np.random.default_rng(0))
    np.testing.assert_allclose(fitted.predict(new), table.predict(new), rtol=0.03)
    assert fitted.origin is None
    with pytest.raises(PredictorError, match="80 architectures do not have 79 latencies"):
        learned_type("linear").fit(sums, networks, [1.0] * 79, rng=np.random.default_rng(0))
    with pytest.raises(PredictorError, match="at least 10 measured networks, not 9"):
        learned_type("linear").fit(sums, networks[:9], np.arange(1.0, 10).tolist(), rng=np.random.default_rng(0))


def test_what_was_measured_twice_counts_once(space: SearchSpace) -> None:
    codes = space.encoding.sample(30, np.random.default_rng(0))
    y = np.arange(1.0, 31)
    twice = learned_type("linear").fit_codes(
        space, np.concatenate([codes, codes[:5]]), np.append(y, y[:5] + 1), rng=np.random.default_rng(0)
    )
    assert twice.training.repeated == 5
    np.testing.assert_array_equal(twice.training.latency, np.append(y[:5] + 0.5, y[5:]))


def test_a_table_is_a_feature(sums: SearchSpace, make_lut: Callable[..., LutPredictor], tmp_path: Path) -> None:
    """With the table's prediction among the columns, few networks are enough for what the choices leave open."""
    table = make_lut(sums)
    rng = np.random.default_rng(0)
    codes, new = sums.encoding.sample(20, rng), sums.encoding.sample(300, rng)
    y = 1.3 * table.predict_codes(codes) + 0.2
    fitted = learned_type("stacked").fit_codes(sums, codes, y, rng=rng, table=table.model)
    np.testing.assert_allclose(fitted.predict_codes(new), 1.3 * table.predict_codes(new) + 0.2, rtol=0.02)
    fitted.save(tmp_path / "p.npz")
    again = load_predictor(tmp_path / "p.npz", sums)
    np.testing.assert_array_equal(again.predict_codes(new), fitted.predict_codes(new))


def test_a_file_holds_where_it_comes_from(predictor: LearnedPredictor, space: SearchSpace, tmp_path: Path) -> None:
    predictor.save(tmp_path / "p.npz")
    again = load_predictor(tmp_path / "p.npz", space)
    assert type(again) is learned_type("linear")
    assert again.fitted.error == predictor.fitted.error
    assert again.training.fingerprint == predictor.training.fingerprint
    assert again.training.source == "a test"
    assert again.origin == predictor.origin
    assert again.origin is not None
    assert len(again.origin.networks) == len(predictor.training.latency)
    some = space.decode(predictor.training.codes[:1])[0]
    assert again.origin.networks[some] == predictor.training.latency[0]
    header = PredictorFile.read(tmp_path / "p.npz").meta
    assert header["training"]["fingerprint"] == predictor.training.fingerprint
    assert header["fitted"]["error"]["mape"] == predictor.fitted.error.mape


def test_other_devices_and_units_are_refused(predictor: LearnedPredictor) -> None:
    assert check_device(predictor, create("simulated")) == []
    with pytest.raises(PredictorError, match="made for device = 'simulated'"):
        check_device(predictor, create("cpu"))
    with pytest.raises(PredictorError, match=r"settings.threads = 1, not 2"):
        check_device(predictor, create("simulated", threads=2))
    with pytest.raises(PredictorError, match="in ms, device 'flops' in MMACs"):
        check_device(predictor, create("flops"))


@pytest.mark.parametrize("codes", [np.zeros((2, 5), int), np.full((1, 6), 5), np.zeros((2, 6))])
def test_codes_that_are_none(predictor: LearnedPredictor, codes: np.ndarray) -> None:
    with pytest.raises(PredictorError, match=r"integers of shape|no candidate number 5"):
        predictor.predict_codes(codes)


def damaged_meta(file: PredictorFile, *path: str, value: Any) -> PredictorFile:
    meta: dict[str, Any] = json.loads(json.dumps(dict(file.meta)))
    at = meta
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return replace(file, meta=meta)


def test_damaged_files_are_refused(predictor: LearnedPredictor, space: SearchSpace, tmp_path: Path) -> None:
    predictor.save(tmp_path / "good.npz")
    good = PredictorFile.read(tmp_path / "good.npz")
    cases = [
        damaged_meta(good, "fitted", "kind", value="oracle"),
        damaged_meta(good, "fitted", "sizes", value=[5] * 11),
        damaged_meta(good, "fitted", "regressor", "sizes", value=[9]),
        damaged_meta(good, "training", "fingerprint", value="0" * 16),
        damaged_meta(good, "training", "provenance", value="{}"),
        damaged_meta(good, "features", "table", value={"constant": 1, "terms": [{"decisions": [9], "classes": None}]}),
        replace(good, meta={}),
        replace(good, unit="parsecs"),
    ]
    for name, array in good.arrays.items():
        cases.append(replace(good, arrays={key: a for key, a in good.arrays.items() if key != name}))
        if array.size and not name.endswith("scores"):  # one score fewer is none too few
            cases.append(replace(good, arrays={**good.arrays, name: array.reshape(-1)[:-1]}))
    for i, case in enumerate(cases):
        case.write(tmp_path / f"{i}.npz")
        with pytest.raises(PredictorError, match=rf"{i}\.npz is a damaged predictor, or one of another version"):
            load_predictor(tmp_path / f"{i}.npz", space)


def test_a_file_of_another_kind(predictor: LearnedPredictor, space: SearchSpace, tmp_path: Path) -> None:
    predictor.save(tmp_path / "p.npz")
    with pytest.raises(PredictorError, match="of kind 'linear', not 'stacked'"):
        learned_type("stacked").load(tmp_path / "p.npz", space)
