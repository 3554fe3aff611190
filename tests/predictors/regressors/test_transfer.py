"""From other devices to a new one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.regressors.base import Rows
from hwnas.predictors.regressors.linear import Linear
from hwnas.predictors.regressors.transfer import PRUNED, SOURCE, Transfer


def devices(n: int, seed: int = 0) -> tuple[Rows, np.ndarray]:
    """Six choices; three devices that weigh them differently, and a fourth that is much like two of them."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 4, size=(n, 6)).astype(np.int16)
    costs = np.random.default_rng(99).uniform(0.2, 2, size=(3, 6, 4))
    sources = np.stack([1 + sum(cost[i][choices[:, i]] for i in range(6)) for cost in costs], axis=1)
    new = (0.7 * sources[:, 0] + 0.3 * sources[:, 1] ** 1.2) * 30
    names = tuple(f"{SOURCE}{name}" for name in "abc")
    return Rows(choices, (4,) * 6, sources, names), new


def test_few_rows_of_a_device_like_others_are_enough() -> None:
    (rows, y), (new, known) = devices(15), devices(300, 1)
    found = Transfer().fit(rows, y, np.random.default_rng(0)).predict(new)
    bare = Linear().fit(Rows(rows.choices, rows.sizes, np.empty((15, 0))), y, np.random.default_rng(0))
    alone = bare.predict(Rows(new.choices, new.sizes, np.empty((300, 0))))
    assert np.mean(np.abs(found / known - 1)) < 0.02
    assert np.mean(np.abs(found / known - 1)) < 0.3 * np.mean(np.abs(alone / known - 1))


def test_units_of_sources_do_not_matter() -> None:
    (rows, y), (new, _) = devices(20), devices(50, 1)
    scaled = [Rows(r.choices, r.sizes, r.numeric * [1e3, 1, 1e-3], r.names) for r in (rows, new)]
    one = Transfer().fit(rows, y, np.random.default_rng(0)).predict(new)
    other = Transfer().fit(scaled[0], y, np.random.default_rng(0)).predict(scaled[1])
    np.testing.assert_allclose(other, one, rtol=1e-2)


def test_held_out_predictions_are_as_good_as_new_ones() -> None:
    (rows, y), (new, known) = devices(60), devices(500, 1)
    rng = np.random.default_rng(5)
    fitted = Transfer().fit(rows, y * np.exp(rng.normal(0, 0.05, 60)), np.random.default_rng(0))
    assert fitted.held_out is not None
    fresh = np.abs(np.log(fitted.predict(new) / known) + rng.normal(0, 0.05, 500)).mean()
    held = np.abs(np.log(fitted.held_out / y)).mean()
    assert 0.2 * fresh < held < 1.5 * fresh


def test_its_state_is_plain_data_and_all_of_it() -> None:
    (rows, y), (new, _) = devices(12), devices(30, 1)
    fitted = Transfer().fit(rows, y, np.random.default_rng(0))
    meta, arrays = fitted.state()
    again = Transfer.from_state(json.loads(json.dumps(meta, allow_nan=False)), arrays)
    np.testing.assert_array_equal(again.predict(new), fitted.predict(new))
    for name in arrays:
        with pytest.raises((KeyError, TypeError, ValueError)):
            Transfer.from_state(meta, {key: a for key, a in arrays.items() if key != name})


@pytest.mark.parametrize("n", [5, 6])
def test_few_rows_and_few_sources(n: int) -> None:
    rows, y = devices(n)
    one = Rows(rows.choices, rows.sizes, rows.numeric[:, :1], rows.names[:1])
    assert np.isfinite(Transfer().fit(one, y, np.random.default_rng(0)).predict(one)).all()


def test_without_a_row_it_is_the_mean_of_the_sources() -> None:
    (rows, y), (new, known) = devices(4), devices(300, 1)
    consensus = np.exp(np.log(new.numeric).mean(axis=1))
    nothing = Transfer().fit(rows.take(slice(0)), y[:0], np.random.default_rng(0))
    np.testing.assert_allclose(nothing.predict(new), consensus)
    scaled = Transfer().fit(rows, y, np.random.default_rng(0)).predict(new)
    factor = np.median(y / np.exp(np.log(rows.numeric).mean(axis=1)))
    np.testing.assert_allclose(scaled, factor * consensus, rtol=0.05)
    assert np.mean(np.abs(scaled / known - 1)) < 0.2
    meta, arrays = nothing.state()
    np.testing.assert_array_equal(Transfer.from_state(meta, arrays).predict(new), nothing.predict(new))


@pytest.mark.parametrize("prunes", [True, False])
def test_the_data_say_whether_the_device_prunes(prunes: bool) -> None:
    (rows, y), (other, _) = devices(40), devices(40, 7)
    mine = np.random.default_rng(0).random(40) < 0.3  # of these architectures pruning leaves another one
    pruned = np.where(mine[:, None], other.numeric, rows.numeric)
    names = tuple(name.replace(SOURCE, PRUNED) for name in rows.names)
    both = Rows(rows.choices, rows.sizes, np.concatenate([rows.numeric, pruned], axis=1), (*rows.names, *names))
    taken = both.numeric[:, 3:] if prunes else rows.numeric
    y = (0.7 * taken[:, 0] + 0.3 * taken[:, 1] ** 1.2) * 30
    fitted = Transfer().fit(both, y, np.random.default_rng(0))
    assert fitted.columns == ((3, 4, 5) if prunes else (0, 1, 2))
    np.testing.assert_allclose(fitted.predict(both), y, rtol=0.1)


def test_rows_without_sources_or_with_others_are_refused() -> None:
    rows, y = devices(12)
    with pytest.raises(PredictorError, match="name some with --sources"):
        Transfer().fit(Rows(rows.choices, rows.sizes, np.empty((12, 0))), y, np.random.default_rng(0))
    fitted = Transfer().fit(rows, y, np.random.default_rng(0))
    with pytest.raises(ValueError, match="other sources"):
        fitted.predict(Rows(rows.choices, rows.sizes, rows.numeric[:, :2], rows.names[:2]))
