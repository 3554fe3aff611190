"""How much more measuring would help."""

from __future__ import annotations

import numpy as np
import pytest
from hwnas.predictors.learning_curve import LearningCurve, learning_curve
from hwnas.predictors.regressors.base import Rows


def test_a_power_law_is_found_and_followed() -> None:
    curve = LearningCurve.through([(90, 4.0), (25, 4.0 * (25 / 90) ** -0.5), (50, 4.0 * (50 / 90) ** -0.5)])
    assert [n for n, _ in curve.points] == [25, 50, 90]
    assert curve.exponent == pytest.approx(0.5)
    assert curve.at(360) == pytest.approx(2.0)
    assert curve.needed(2.0) == 360
    assert curve.as_dict()["points"][0] == {"n": 25, "mape": pytest.approx(7.59, abs=0.01)}


@pytest.mark.parametrize("points", [[(90, 4.0)], [(50, 3.0), (90, 4.0)], [(50, 1.0), (90, 0.0)]])
def test_where_no_more_can_be_said(points: list[tuple[int, float]]) -> None:
    curve = LearningCurve.through(points)
    assert curve.needed(1.0) is None
    assert curve.at(200) in (None, pytest.approx(points[-1][1]))


def test_a_curve_that_is_too_flat_needs_no_number() -> None:
    assert LearningCurve.through([(50, 3.0001), (90, 3.0)]).needed(0.1) is None


def test_more_rows_help() -> None:
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 4, (200, 6)).astype(np.int16)
    rows = Rows(choices, (4,) * 6, np.empty((200, 0)))
    weights = rng.random((6, 4))
    y = (3 + sum(weights[i][choices[:, i]] for i in range(6))) * rng.normal(1, 0.05, 200)
    curve = learning_curve("linear", rows, y, 4.3, rng)
    assert [n for n, _ in curve.points] == [50, 100, 180]
    assert curve.points[0][1] > curve.points[1][1] > 3.9
    few = learning_curve("linear", rows.take(np.arange(12)), y[:12], 20.0, rng)
    assert few.points == ((11, 20.0),)
