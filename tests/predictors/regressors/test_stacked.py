"""The average of several learners."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.regressors import stacked
from hwnas.predictors.regressors.base import Block, Rows
from hwnas.predictors.regressors.gaussian_process import GaussianProcess
from hwnas.predictors.regressors.linear import Linear
from hwnas.predictors.regressors.stacked import Stacked


def hypotheses(n: int, seed: int = 0) -> Rows:
    """Two blocks of counts: what happens, and what does not."""
    rng = np.random.default_rng(seed)
    numeric = rng.integers(0, 5, size=(n, 4)).astype(float)
    choices = rng.integers(0, 3, size=(n, 4)).astype(np.int16)
    blocks = (Block("true", (0, 1), choices=(0, 1, 2, 3)), Block("false", (2, 3), choices=(0, 1, 2, 3)))
    return Rows(choices, (3,) * 4, numeric, tuple("abcd"), blocks=blocks)


def latency(rows: Rows) -> np.ndarray:
    return 2 + rows.numeric[:, 0] + 0.5 * rows.numeric[:, 0] * rows.numeric[:, 1]


def plain(n: int, seed: int = 0) -> Rows:
    choices = np.random.default_rng(seed).integers(0, 4, size=(n, 5)).astype(np.int16)
    return Rows(choices, (4,) * 5, np.empty((n, 0)))


@pytest.mark.parametrize("n", [12, 100])
def test_the_data_decide_between_hypotheses(n: int) -> None:
    rows, new = hypotheses(n), hypotheses(200, 1)
    fitted = Stacked().fit(rows, latency(rows), np.random.default_rng(0))
    weights = {own.view.name: w for own, w in fitted.members if isinstance(own, GaussianProcess) and own.view}
    assert sum(weights.values()) <= 1 + 1e-9
    assert np.isfinite(fitted.predict(new)).all()
    if n == 100:
        assert weights["true"] + weights.get("true with choices", 0) > 0.5
        assert not any(name.startswith("false") for name in weights)
        assert np.mean(np.abs(fitted.predict(new) / latency(new) - 1)) < 0.02


def test_views_that_do_badly_on_some_rows_are_not_fitted_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "FEW", 100)
    monkeypatch.setattr(stacked, "TRIED_ON", 60)
    monkeypatch.setattr(stacked, "BEST", 1)
    rows = hypotheses(150)
    found = stacked._promising(rows, latency(rows), np.random.default_rng(0))
    names = [view.name for view in found]
    assert names[0] in ("true", "true with choices", "all hypotheses")
    assert set(names[1:]) <= {"all hypotheses", "all hypotheses with choices"}
    assert not any(name.startswith("false") for name in names)


def test_it_finds_what_sums_and_pairs_cannot() -> None:
    def three(rows: Rows) -> np.ndarray:
        a, b, c = (rows.choices[:, i] for i in range(3))
        return 3 + 0.2 * a + 0.3 * b + 0.6 * ((a > 1) & (b > 1) & (c > 1))

    rows, new = plain(200), plain(300, 1)
    found, linear = (
        own.fit(rows, three(rows), np.random.default_rng(0)).predict(new) for own in (Stacked(trees=30), Linear())
    )
    assert np.mean(np.abs(found / three(new) - 1)) < 0.5 * np.mean(np.abs(linear / three(new) - 1))


def test_held_out_predictions_are_no_better_than_new_ones() -> None:
    rows, new = plain(120), plain(400, 1)
    rng = np.random.default_rng(3)

    def noisy(own: Rows) -> np.ndarray:
        sums = np.asarray((5 + own.choices.sum(axis=1)) * np.exp(rng.normal(0, 0.05, len(own))))
        return sums

    y, known = noisy(rows), noisy(new)
    fitted = Stacked(trees=20).fit(rows, y, np.random.default_rng(0))
    assert fitted.held_out is not None
    held, fresh = (np.abs(np.log(a / b)).mean() for a, b in ((fitted.held_out, y), (fitted.predict(new), known)))
    assert held == pytest.approx(fresh, rel=0.3)


def test_members_of_another_kind_are_refused() -> None:
    rows = plain(20)
    meta, arrays = (
        Stacked(trees=20).fit(rows, 1 + rows.choices.sum(axis=1).astype(float), np.random.default_rng(0)).state()
    )
    damaged = json.loads(json.dumps(meta))
    damaged["members"][0][0] = "os.system"
    with pytest.raises(KeyError):
        Stacked.from_state(damaged, arrays)
    with pytest.raises(ValueError, match="no learner"):
        Stacked.from_state({**meta, "members": []}, arrays)
