"""The regressors against their contract, and each against what it claims to be."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.regressors.additive import AdditiveTable
from hwnas.predictors.regressors.auto import Auto
from hwnas.predictors.regressors.base import TABLE, Regressor, Rows
from hwnas.predictors.regressors.boosting import BoostedTrees
from hwnas.predictors.regressors.forest import RandomForest
from hwnas.predictors.regressors.gcn import Gcn
from hwnas.predictors.regressors.linear import Linear
from hwnas.predictors.regressors.matrix import dense, one_hot, tree_matrix
from hwnas.predictors.regressors.mlp import Mlp
from hwnas.predictors.regressors.registry import regressor_kinds, regressor_type
from hwnas.predictors.regressors.stacked import Stacked
from hwnas.predictors.regressors.transfer import SOURCE
from hwnas.predictors.regressors.trees import Trees

SIZES = (3, 4, 3, 2)


def some_rows(n: int, seed: int = 0) -> Rows:
    """Choices with some that are not reached, a number that matters, and one that never varies."""
    rng = np.random.default_rng(seed)
    choices = np.column_stack([rng.integers(-1 if s == 2 else 0, s, n) for s in SIZES]).astype(np.int16)
    numeric = np.column_stack([rng.uniform(0, 5, n), np.full(n, 7.0)])
    return Rows(choices, SIZES, numeric, ("size", "same"), ("a", "b", "c", "d"))


def rows_for(kind: str, n: int, seed: int = 0) -> Rows:
    """`some_rows`, for transfer with what other devices take."""
    rows = some_rows(n, seed)
    if kind != "transfer":
        return rows
    one, other = 2 * latency(rows, pairs=0) ** 1.1, 1 + rows.numeric[:, 0]
    return rows.with_numeric(f"{SOURCE}one", one).with_numeric(f"{SOURCE}other", other)


def latency(rows: Rows, *, pairs: float = 0.3) -> np.ndarray:
    """Sums, and one pair of choices that does not add up."""
    a, b, c, d = (rows.choices[:, i] for i in range(4))
    single = 4 + np.array([0.0, 0.5, 1.0])[a] + np.array([0.0, 0.2, 0.3, 1.2])[b] + 0.4 * (d == 1)
    return single + 0.3 * rows.numeric[:, 0] + pairs * ((a == 2) & (c == 1))


def small(kind: str) -> Regressor:
    """Of a kind, in little time."""
    made: dict[str, Any] = {
        "gbdt": lambda: BoostedTrees(trees=60, rate=0.2),
        "random-forest": lambda: RandomForest(trees=20),
        "mlp": lambda: Mlp(members=2, layers=(8,), steps=60),
        "gcn": lambda: Gcn(members=2, width=8),
        "stacked": lambda: Stacked(trees=20),
        "auto": lambda: Auto(candidates=("lut", "linear")),
    }
    return made.get(kind, regressor_type(kind))()


@pytest.mark.parametrize("kind", regressor_kinds())
class TestContract:
    def test_it_learns(self, kind: str) -> None:
        rows, new = rows_for(kind, 150), rows_for(kind, 100, 1)
        found = small(kind).fit(rows, latency(rows), np.random.default_rng(0)).predict(new)
        assert found.shape == (100,)
        assert found.dtype == np.float64
        share = 0.7 if kind == "lut" else 0.4  # which sees no numbers
        assert np.mean(np.abs(found / latency(new) - 1)) < share * np.mean(
            np.abs(latency(new).mean() / latency(new) - 1)
        )

    def test_its_state_is_plain_data_and_all_of_it(self, kind: str) -> None:
        rows, new = rows_for(kind, 60), rows_for(kind, 40, 1)
        fitted = small(kind).fit(rows, latency(rows), np.random.default_rng(0))
        meta, arrays = fitted.state()
        assert all(a.dtype.kind in "fiu" for a in arrays.values())
        again = regressor_type(kind).from_state(json.loads(json.dumps(meta, allow_nan=False)), arrays)
        np.testing.assert_array_equal(again.predict(new), fitted.predict(new))
        assert json.dumps(again.state()[0]) == json.dumps(meta)

    def test_the_same_seed_gives_the_same(self, kind: str) -> None:
        rows = rows_for(kind, 40)
        one, other = (small(kind).fit(rows, latency(rows), np.random.default_rng(3)).predict(rows) for _ in range(2))
        np.testing.assert_array_equal(one, other)

    def test_few_rows_are_enough(self, kind: str) -> None:
        rows = rows_for(kind, regressor_type(kind).min_rows)
        found = small(kind).fit(rows, latency(rows), np.random.default_rng(0)).predict(rows_for(kind, 500, 1))
        assert np.isfinite(found).all()
        assert (found > 0).all()

    def test_the_unit_does_not_matter(self, kind: str) -> None:
        rows, new = rows_for(kind, 60), rows_for(kind, 40, 1)
        ms, seconds = (
            small(kind).fit(rows, latency(rows) * unit, np.random.default_rng(0)).predict(new) for unit in (1, 1e-3)
        )
        np.testing.assert_allclose(
            1e3 * seconds, ms, rtol=1e-3 if kind in ("auto", "lut", "linear", "gaussian-process") else 0.05
        )

    def test_rows_without_numbers(self, kind: str) -> None:
        if kind == "transfer":
            pytest.skip("its sources are numbers")
        rows = rows_for(kind, 60)
        bare = Rows(rows.choices, rows.sizes, np.empty((60, 0)))
        found = small(kind).fit(bare, latency(rows), np.random.default_rng(0)).predict(bare)
        assert np.isfinite(found).all()

    def test_damaged_states_are_refused(self, kind: str) -> None:
        rows = rows_for(kind, 30)
        meta, arrays = small(kind).fit(rows, latency(rows), np.random.default_rng(0)).state()
        for name in arrays:
            with pytest.raises((KeyError, TypeError, ValueError)):
                regressor_type(kind).from_state(meta, {key: a for key, a in arrays.items() if key != name})
        with pytest.raises((KeyError, TypeError, ValueError)):
            regressor_type(kind).from_state({}, arrays)


def test_an_unknown_kind() -> None:
    with pytest.raises(PredictorError, match="no regressor of kind 'oracle'; there are: auto, lut, linear"):
        regressor_type("oracle")


def test_rows_of_other_widths() -> None:
    with pytest.raises(ValueError, match=r"\(5, 4\) choices"):
        Rows(some_rows(5).choices, (3, 4), np.empty((5, 0)))


def test_one_hot_leaves_what_is_not_reached_empty() -> None:
    rows = Rows(np.array([[0, -1], [2, 1]], np.int16), (3, 2), np.array([[0.5], [1.5]]), ("x",))
    np.testing.assert_array_equal(one_hot(rows), [[1, 0, 0, 0, 0], [0, 0, 1, 0, 1]])
    np.testing.assert_array_equal(dense(rows)[:, -1], [0.5, 1.5])
    np.testing.assert_array_equal(tree_matrix(rows)[1], [2, 1, 0, 0, 1, 0, 1, 1.5])


class TestLinear:
    def test_sums_and_pairs_are_found_exactly(self) -> None:
        rows, new = some_rows(150), some_rows(100, 1)
        found = Linear().fit(rows, latency(rows), np.random.default_rng(0)).predict(new)
        np.testing.assert_allclose(found, latency(new), rtol=2e-3)

    def test_leave_one_out_is_leaving_one_out(self) -> None:
        rows = some_rows(40)
        noise = np.random.default_rng(1).normal(1, 0.05, 40)
        y = latency(rows) * noise
        whole = Linear().fit(rows, y, np.random.default_rng(0))
        for i in (0, 7, 39):
            rest = np.delete(np.arange(40), i)
            without = Linear().fit(rows.take(rest), y[rest], np.random.default_rng(0)).predict(rows.take([i]))[0]
            assert whole.loo[i] == pytest.approx(without, rel=0.05)

    def test_errors_are_relative(self) -> None:
        """Two groups that no weight can serve both: the small values count as much as the large ones."""
        rows = some_rows(400)
        same = Rows(np.zeros((400, 1), np.int16), (1,), np.empty((400, 0)))
        y = np.where(rows.numeric[:, 0] > 2.5, 1.0, 3.0)
        found = Linear().fit(same, y, np.random.default_rng(0)).predict(same)[0]
        weights = 1 / y**2
        assert found == pytest.approx(np.sum(weights * y) / np.sum(weights), rel=1e-3)

    def test_extrapolation_stays_positive(self) -> None:
        rows = some_rows(60)
        fitted = Linear().fit(rows, latency(rows), np.random.default_rng(0))
        far = Rows(rows.choices, rows.sizes, rows.numeric - 1000, rows.names)
        np.testing.assert_allclose(fitted.predict(far), latency(rows).min() / 10)

    def test_rows_without_choices(self) -> None:
        rows = some_rows(60)
        bare = Rows(np.empty((60, 0), np.int16), (), rows.numeric, rows.names)
        y = 2 + rows.numeric[:, 0]
        np.testing.assert_allclose(Linear().fit(bare, y, np.random.default_rng(0)).predict(bare), y, rtol=1e-3)


class TestAdditiveTable:
    def test_it_is_the_sum_of_the_choices(self) -> None:
        rows, new = some_rows(60), some_rows(100, 1)
        bare, other = (Rows(r.choices, r.sizes, 0 * r.numeric, r.names) for r in (rows, new))
        fitted = AdditiveTable().fit(rows, latency(bare, pairs=0), np.random.default_rng(0))
        np.testing.assert_allclose(fitted.predict(new), latency(other, pairs=0), rtol=2e-3)

    def test_a_known_table_is_scaled_and_shifted(self) -> None:
        rows, new = some_rows(12), some_rows(100, 1)
        known, other = (r.with_numeric(TABLE, latency(r)) for r in (rows, new))
        fitted = AdditiveTable().fit(known, 1.3 * latency(rows) + 0.5, np.random.default_rng(0))
        np.testing.assert_allclose(fitted.predict(other), 1.3 * latency(new) + 0.5, rtol=1e-3)

    def test_numbers_alone_make_no_table(self) -> None:
        rows = some_rows(20)
        bare = Rows(np.empty((20, 0), np.int16), (), rows.numeric, rows.names)
        with pytest.raises(PredictorError, match="needs choices"):
            AdditiveTable().fit(bare, latency(rows), np.random.default_rng(0))


class TestTrees:
    @pytest.mark.parametrize("leaves", [2, 8, 9, 40])
    def test_boosted_trees_are_scikit_learns(self, leaves: int) -> None:
        from sklearn.ensemble import GradientBoostingRegressor

        rng = np.random.default_rng(0)
        x, new = (rng.normal(size=(n, 6)).astype(np.float32) for n in (200, 500))
        y = np.sin(x @ rng.normal(size=6)) + x[:, 0]
        model = GradientBoostingRegressor(n_estimators=30, max_leaf_nodes=leaves, max_depth=None, random_state=0)
        model.fit(x, y)
        start = float(model.init_.predict(x[:1])[0])
        trees = Trees.grown([t.tree_ for t in model.estimators_[:, 0]], scale=model.learning_rate, constant=start)
        np.testing.assert_allclose(trees.predict(new), model.predict(new), rtol=1e-12, atol=1e-12)

    def test_a_forest_is_scikit_learns(self) -> None:
        from sklearn.ensemble import RandomForestRegressor

        rng = np.random.default_rng(0)
        x, new = (rng.integers(0, 4, size=(n, 6)).astype(np.float32) for n in (200, 500))
        model = RandomForestRegressor(12, random_state=0).fit(x, x @ rng.normal(size=6))
        trees = Trees.grown([t.tree_ for t in model.estimators_], scale=1 / 12)
        np.testing.assert_allclose(trees.predict(new), model.predict(new), rtol=1e-12, atol=1e-12)

    def test_no_trees_are_the_constant(self) -> None:
        np.testing.assert_array_equal(Trees.grown([], constant=2.5).predict(np.zeros((3, 2), np.float32)), [2.5] * 3)

    @pytest.mark.parametrize(
        ("name", "value"), [("left", -1), ("left", 10**6), ("feature", 99), ("feature", -1), ("roots", 10**6)]
    )
    def test_links_that_lead_elsewhere_are_refused(self, name: str, value: int) -> None:
        rows = some_rows(40)
        meta, arrays = BoostedTrees(trees=5).fit(rows, latency(rows), np.random.default_rng(0)).state()
        damaged = {**arrays, name: arrays[name].copy()}
        damaged[name][0] = value
        with pytest.raises(ValueError, match="trees"):
            BoostedTrees.from_state(meta, damaged)

    def test_boosting_stops_where_there_is_nothing_to_learn(self) -> None:
        rows = some_rows(200)
        noise = np.random.default_rng(5).normal(0, 1, 200)
        stopped = BoostedTrees(trees=100, stop=True).fit_log(rows, noise, np.random.default_rng(0))
        assert len(stopped.trees.roots) < 30
        assert np.std(stopped.predict_log(rows)) < 0.5


def test_the_forest_is_scikit_learns_on_the_logarithm() -> None:
    from sklearn.ensemble import RandomForestRegressor

    rows, new = some_rows(80), some_rows(50, 1)
    found = RandomForest(trees=10).fit(rows, latency(rows), np.random.default_rng(4)).predict(new)
    seed = int(np.random.default_rng(4).integers(2**31))
    model = RandomForestRegressor(10, max_features=0.4, random_state=seed)
    model.fit(tree_matrix(rows), np.log(latency(rows)))
    np.testing.assert_allclose(found, np.exp(model.predict(tree_matrix(new))), rtol=1e-12)


def test_the_networks_are_scikit_learns() -> None:
    from sklearn.neural_network import MLPRegressor

    rows = some_rows(60)
    fitted = Mlp(members=1, layers=(8, 5), steps=50).fit(rows, latency(rows), np.random.default_rng(4))
    target = np.log(latency(rows))
    seed = int(np.random.default_rng(4).integers(2**31, size=1)[0])
    model = MLPRegressor(hidden_layer_sizes=(8, 5), solver="lbfgs", alpha=0.3, max_iter=50, random_state=seed)
    points = fitted.standard(dense(rows))
    with pytest.warns(UserWarning, match="converge"):
        model.fit(points, (target - target.mean()) / target.std())
    wanted = np.exp(target.mean() + target.std() * model.predict(points))
    np.testing.assert_allclose(fitted.predict(rows), wanted, rtol=1e-10)
