"""The Gaussian process: its likelihood, its noise, its held-out predictions, and how it looks at rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hwnas.predictors.regressors.base import TABLE, Block, Rows
from hwnas.predictors.regressors.gaussian_process import GaussianProcess
from hwnas.predictors.regressors.kernel import JITTER, Kernel, inverse_of
from hwnas.predictors.regressors.mixture import noise_of
from hwnas.predictors.regressors.ridge import PENALTIES, relative_ridge
from hwnas.predictors.regressors.simplex import simplex_weights
from hwnas.predictors.regressors.views import View, everything, views


def numbers(n: int, width: int = 3, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows(np.empty((n, 0), np.int16), (), rng.normal(size=(n, width)), tuple("abcdefgh"[:width]))


def bent(rows: Rows) -> np.ndarray:
    """Only the first column matters, and not by a line."""
    return np.exp(0.3 * np.sin(2 * rows.numeric[:, 0])) * 5


class TestKernel:
    def test_the_slope_is_that_of_the_likelihood(self) -> None:
        from scipy.optimize import approx_fprime

        rng = np.random.default_rng(0)
        points, noise = rng.normal(size=(30, 5)), rng.uniform(1, 3, 30)
        groups, target = np.array([0, 0, 1, 2, 2]), rng.normal(0, 0.1, 30)
        at = Kernel.start(groups).parameters + rng.normal(0, 0.3, 6)
        found = Kernel(groups, at)._likelihood(points, points @ points.T, target, noise)[1]
        wanted = approx_fprime(at, lambda p: Kernel(groups, p)._likelihood(points, points @ points.T, target, noise)[0])
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)

    def test_the_likelihood_is_that_of_the_normal_distribution(self) -> None:
        from scipy.stats import multivariate_normal

        rng = np.random.default_rng(0)
        points, target = rng.normal(size=(20, 3)), rng.normal(0, 0.1, 20)
        kernel = Kernel.start(np.arange(3))
        covariance = kernel.covariance(points) + (kernel.noise + JITTER) * np.eye(20)
        value, _ = kernel._likelihood(points, points @ points.T, target, np.ones(20))
        wanted = -multivariate_normal(np.zeros(20), covariance).logpdf(target)
        assert value + 10 * np.log(2 * np.pi) == pytest.approx(wanted)

    def test_columns_that_do_not_matter_get_long_lengths(self) -> None:
        points = np.random.default_rng(0).normal(size=(120, 3))
        tuned = Kernel.start(np.arange(3)).tuned(points, np.sin(2 * points[:, 0]) * 0.3, np.ones(120), 25)
        assert tuned.scales[0] > 5 * max(tuned.scales[1:])

    def test_an_inverse_and_its_determinant(self) -> None:
        root = np.random.default_rng(0).normal(size=(6, 6))
        matrix = root @ root.T + np.eye(6)
        inverse, logs = inverse_of(matrix)
        np.testing.assert_allclose(inverse, np.linalg.inv(matrix))
        assert logs == pytest.approx(np.linalg.slogdet(matrix)[1])
        with pytest.raises(np.linalg.LinAlgError):
            inverse_of(-matrix)


class TestGaussianProcess:
    def test_it_learns_what_is_bent(self) -> None:
        rows, new = numbers(200), numbers(100, seed=1)
        found = GaussianProcess().fit(rows, bent(rows), np.random.default_rng(0)).predict(new)
        assert np.median(np.abs(found / bent(new) - 1)) < 0.01

    def test_held_out_predictions_are_as_good_as_new_ones(self) -> None:
        rows, new = numbers(300), numbers(500, seed=1)
        noisy, noisy_new = (
            bent(r) * np.exp(np.random.default_rng(s).normal(0, 0.05, len(r))) for r, s in ((rows, 2), (new, 3))
        )
        fitted = GaussianProcess().fit(rows, noisy, np.random.default_rng(0))
        assert fitted.held_out is not None
        held, fresh = (
            np.mean(np.abs(np.log(a / b))) for a, b in ((fitted.held_out, noisy), (fitted.predict(new), noisy_new))
        )
        assert held == pytest.approx(fresh, rel=0.15)
        assert held > 0.03  # it has not seen them: 5 % noise cannot be foreseen

    def test_a_few_wild_rows_do_not_disturb(self) -> None:
        rows, new = numbers(200), numbers(200, seed=1)
        y = bent(rows) * np.exp(np.random.default_rng(1).normal(0, 0.005, 200))
        wild = y.copy()
        wild[::12] *= np.exp(np.random.default_rng(2).normal(0, 0.7, 17))
        clean, disturbed = (
            GaussianProcess().fit(rows, own, np.random.default_rng(0)).predict(new) for own in (y, wild)
        )
        assert np.mean(np.abs(disturbed / bent(new) - 1)) < 2 * np.mean(np.abs(clean / bent(new) - 1)) + 0.005

    def test_more_rows_than_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from hwnas.predictors.regressors import gaussian_process

        monkeypatch.setattr(gaussian_process, "MOST", 80)
        rows = numbers(120)
        fitted = GaussianProcess().fit(rows, bent(rows), np.random.default_rng(0))
        assert fitted.points.shape[0] == 80
        assert fitted.held_out is not None
        assert np.isfinite(fitted.held_out).all()
        assert np.mean(np.abs(fitted.held_out / bent(rows) - 1)) < 0.05

    def test_a_row_alone_is_predicted_as_among_others(self) -> None:
        rows, new = numbers(60), numbers(1500, seed=1)
        noisy = bent(rows) * np.exp(np.random.default_rng(2).normal(0, 0.01, len(rows)))
        fitted = GaussianProcess().fit(rows, noisy, np.random.default_rng(0))
        alone = [fitted.predict(new.take([i]))[0] for i in (0, 700, 1499)]
        np.testing.assert_allclose(fitted.predict(new)[[0, 700, 1499]], alone, rtol=1e-5)
        assert fitted.predict(new.take(slice(0))).shape == (0,)

    def test_numbers_far_from_zero_keep_their_digits(self) -> None:
        """Such as a number of bytes, or a date: single precision alone would not tell the rows apart."""
        rows, new = numbers(200), numbers(100, seed=1)
        far, far_new = (Rows(r.choices, r.sizes, 1e9 + 10 * r.numeric, r.names) for r in (rows, new))
        near = GaussianProcess().fit(rows, bent(rows), np.random.default_rng(0)).predict(new)
        found = GaussianProcess().fit(far, bent(rows), np.random.default_rng(0)).predict(far_new)
        np.testing.assert_allclose(found, near, rtol=0.02)

    def test_points_that_do_not_fit_are_refused(self) -> None:
        rows = numbers(40)
        meta, arrays = GaussianProcess().fit(rows, bent(rows), np.random.default_rng(0)).state()
        with pytest.raises(ValueError, match="fit"):
            GaussianProcess.from_state(meta, {**arrays, "dual": arrays["dual"][:-1]})
        damaged = json.loads(json.dumps(meta))
        damaged["view"]["by"] = "sight"
        with pytest.raises(ValueError, match="view"):
            GaussianProcess.from_state(damaged, arrays)


def test_noise_has_two_widths_only_where_it_has() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(0, 0.01, 400)
    np.testing.assert_array_equal(noise_of(one), np.ones(400))
    two = np.where(np.arange(400) % 8 == 0, rng.normal(0, 0.2, 400), one)
    noise = noise_of(two)
    assert np.median(noise[np.abs(two) > 0.1]) > 50
    assert np.median(noise[np.abs(two) < 0.01]) < 2


def test_the_penalty_is_that_of_the_smallest_leave_one_out_error() -> None:
    rng = np.random.default_rng(0)
    matrix = np.column_stack([rng.normal(size=(25, 8)), np.ones(25)])
    y = 10 + matrix[:, 0] + rng.normal(0, 0.5, 25)
    _, penalty = relative_ridge(matrix, y, np.ones(25))

    def left_out(own: float) -> float:
        errors = []
        for i in range(25):
            rest = np.delete(np.arange(25), i)
            weights, _ = relative_ridge(matrix[rest], y[rest], np.ones(24), own)
            errors.append(matrix[i] @ weights / y[i] - 1)
        return float(np.mean(np.square(errors)))

    assert left_out(penalty) <= 1.02 * min(left_out(own) for own in PENALTIES)


def test_weights_of_an_average() -> None:
    rng = np.random.default_rng(0)
    common, good = rng.normal(size=300), rng.normal(0, 0.1, 300)
    weights = simplex_weights(np.column_stack([common, good, good + rng.normal(0, 1, 300)]), ridge=1e-4)
    assert weights.sum() == pytest.approx(1, abs=1e-3)
    assert (weights >= 0).all()
    assert weights[1] > 0.9
    np.testing.assert_allclose(simplex_weights(np.column_stack([common, good]), ridge=1e4), 0.5, atol=0.01)


class TestViews:
    def rows(self, sizes: tuple[int, ...] = (3, 3), **more: object) -> Rows:
        choices = np.array([[0, 2], [1, 1], [-1, 0]], np.int16)
        return Rows(choices, sizes, np.array([[0.5, 7.0]] * 3), ("x", TABLE), **more)  # type: ignore[arg-type]

    def test_columns_and_their_groups(self) -> None:
        rows = self.rows()
        by_category = View("v", (1,), (0, 1), "category", counted=True)
        np.testing.assert_array_equal(by_category.matrix(rows)[0], [7, 1, 0, 0, 0, 0, 1, 1, 0, 1])
        np.testing.assert_array_equal(by_category.matrix(rows)[2], [7, 0, 0, 0, 1, 0, 0, 1, 0, 0])
        np.testing.assert_array_equal(by_category.groups(rows), [0, 1, 2, 3, 1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(View("v", (0, 1), (0, 1)).groups(rows), [0, 1, 2, 2, 2, 3, 3, 3])
        assert View.from_dict(json.loads(json.dumps(by_category.as_dict()))) == by_category

    def test_choices_between_different_numbers_of_candidates_have_no_counts(self) -> None:
        assert {v.by for v in views(self.rows((3, 4)))} == {"column"}
        assert any(v.by == "category" and v.counted for v in views(self.rows()))

    def test_blocks_are_looked_at_alone_and_together_always_with_the_table(self) -> None:
        blocks = (Block("p", (0,), choices=(0,)), Block("q", (0,), choices=(1,)))
        found = {v.name: v for v in views(self.rows(blocks=blocks))}
        assert found["p"] == View("p", (0, 1))
        assert found["p with choices"].choices == (0,)
        assert found["all hypotheses with choices"].choices == (0, 1)
        assert all(1 in v.numeric for v in found.values())

    def test_everything(self) -> None:
        assert everything(self.rows()).matrix(self.rows()).shape == (3, 8)
