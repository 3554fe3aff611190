"""What other devices take, as columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hwnas.predictors import source_predictors
from hwnas.predictors.base import PredictorError
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.regressors.base import Rows
from hwnas.predictors.regressors.transfer import PRUNED, SOURCE
from hwnas.predictors.source_predictors import predicted
from hwnas.predictors.transfer_sources import SourceCodes, SourceRows, Sources
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace


def rows(n: int, seed: int = 0) -> Rows:
    choices = np.random.default_rng(seed).integers(0, 4, (n, 4)).astype(np.int16)
    return Rows(choices, (4,) * 4, choices.sum(axis=1, keepdims=True).astype(float), ("sum",), tuple("abcd"))


def latency(own: Rows) -> np.ndarray:
    """Sums, and a pair."""
    a, b = own.choices[:, 0], own.choices[:, 1]
    return np.asarray(3 + own.choices @ [1.0, 0.5, 0.2, 0.7] + 2.0 * ((a == 1) & (b == 2)))


def test_sums_and_pairs_are_learned_and_outliers_are_not() -> None:
    own, new, rng = rows(400), rows(200, 1), np.random.default_rng(3)
    noisy = latency(own) * rng.normal(1, 0.005, 400) * np.where(rng.random(400) < 0.1, 3, 1)
    found = Sources.learned([SourceRows("a", own, noisy), SourceRows("b", own, 7 * latency(own))])
    np.testing.assert_allclose(found.predict(new)[:, 0], latency(new), rtol=0.03)
    np.testing.assert_allclose(found.predict(new)[:, 1], 7 * latency(new), rtol=1e-3)


def test_columns_are_added_and_more_columns_do_not_matter() -> None:
    own = rows(50)
    sources = Sources.learned([SourceRows("a", own, latency(own)), SourceRows("b", own, latency(own) ** 2)])
    found = sources.added(own.with_numeric("more", np.ones(50)), pruned=own.take(slice(None, None, -1)))
    assert found.names == ("sum", "more", f"{SOURCE}a", f"{SOURCE}b", f"{PRUNED}a", f"{PRUNED}b")
    np.testing.assert_allclose(found.numeric[:, 2:4], found.numeric[::-1, 4:6], rtol=1e-12)
    with pytest.raises(PredictorError, match="other columns"):
        sources.predict(Rows(own.choices, own.sizes, np.empty((50, 0))))


def test_its_state_is_plain_data_and_damage_is_refused() -> None:
    own = rows(50)
    sources = Sources.learned([SourceRows("a", own, latency(own))])
    meta, arrays = sources.state()
    again = Sources.from_state(json.loads(json.dumps(meta)), arrays)
    np.testing.assert_array_equal(again.predict(own), sources.predict(own))
    damages = (
        ({**meta, "paired": [0, 9]}, arrays),
        ({**meta, "names": ["a", "b"]}, arrays),
        (meta, {**arrays, "weights": arrays["weights"][1:]}),
        (meta, {**arrays, "weights": arrays["weights"] * np.nan}),
        (meta, {**arrays, "floors": -arrays["floors"]}),
    )
    for own_meta, own_arrays in damages:
        with pytest.raises(ValueError, match="sources"):
            Sources.from_state(own_meta, own_arrays)


def test_sources_that_say_nothing_are_refused() -> None:
    own = rows(50)
    with pytest.raises(PredictorError, match="source a is constant"):
        Sources.learned([SourceRows("a", own, np.full(50, 2.0))])
    with pytest.raises(PredictorError, match="source b: 9 rows can be used, at least 10"):
        Sources.learned([SourceRows("b", rows(9), latency(rows(9)))])


class TestOfASpace:
    @pytest.fixture(scope="class")
    def space(self) -> SearchSpace:
        return load_space("nasbench201")

    @pytest.fixture(scope="class")
    def features(self, space: SearchSpace) -> SpaceFeatures:
        return SpaceFeatures.of(space)

    def test_pruned_architectures_have_zeros_for_what_has_no_effect(
        self, space: SearchSpace, features: SpaceFeatures
    ) -> None:
        # The third edge leaves a node that nothing feeds; its convolution may as well not be there.
        codes = np.array([[0, 3, 3, 3, 0, 3], [0, 3, 0, 3, 0, 3]], np.int16)
        every = space.encoding.sample(300, np.random.default_rng(0))
        every = every[features.alive(every)]
        latency = 1.0 + (every == 3).sum(axis=1)
        features.learn([SourceCodes("a", every, latency)])
        found = features.rows(codes)
        whole, pruned = (found.numeric[:, found.names.index(f"{start}a")] for start in (SOURCE, PRUNED))
        np.testing.assert_allclose(whole, [5, 4], rtol=0.03)
        np.testing.assert_allclose(pruned, [4, 4], rtol=0.03)

    def test_a_predictor_is_a_source(
        self,
        space: SearchSpace,
        features: SpaceFeatures,
        make_lut: Callable[..., LutPredictor],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(source_predictors, "ROWS", 600)
        table = make_lut(space)
        table.save(tmp_path / "other.db")
        features.learn([predicted(str(tmp_path / "other.db"), space)])
        codes = space.encoding.sample(200, np.random.default_rng(5))
        codes = codes[features.alive(codes)]
        found = features.rows(codes)
        column = found.numeric[:, [name.startswith(SOURCE) for name in found.names]][:, 0]
        error = np.abs(column / table.predict_codes(codes) - 1)
        assert np.median(error) < 0.01
        assert np.mean(error) < 0.05
