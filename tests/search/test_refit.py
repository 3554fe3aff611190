"""One factor for the networks near a target, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hwnas.predictors.network_timer import Measured
from hwnas.search.refit import refit


def pairs(values: Sequence[float], error: float = 0.001) -> list[tuple[float, Measured]]:
    """Networks predicted at 2 ms, measured at so many times that."""
    return [(2.0, Measured(2 * v, 2 * v * (1 - 2 * error), 2 * v * (1 + 2 * error))) for v in values]


def test_the_calibration_networks_count_as_one_candidate() -> None:
    found = refit(pairs([1.1] * 4), pairs([1.0] * 8))
    assert found.factor == pytest.approx(1.1**0.8)
    assert found.calibration_factor == pytest.approx(1.0)
    assert refit(pairs([1.1, 1.2]), []).factor == pytest.approx(math.sqrt(1.1 * 1.2))
    assert refit([], pairs([1.3] * 3)).factor == pytest.approx(1.3)


def test_a_good_measurement_is_believed_and_a_bad_one_is_not() -> None:
    values = [0.97, 1.03, 1.0, 0.98, 1.02]
    sure, unsure = refit(pairs(values, 0.0), []), refit(pairs(values, 0.1), [])
    for value, (predicted, measured) in zip(values, pairs(values, 0.0), strict=True):
        assert sure.expected(predicted, measured)[0] == pytest.approx(2 * value, rel=1e-3)
    for predicted, measured in pairs(values, 0.1):
        value, error = unsure.expected(predicted, measured)
        assert value == pytest.approx(2, rel=0.01)
        assert 0 < error < 0.05


def test_one_network_says_nothing_of_the_spread() -> None:
    found = refit(pairs([1.2]), [])
    assert math.isinf(found.spread)
    assert found.expected(2.0, Measured(2.5, 2.4, 2.6)) == (2.5, pytest.approx(0.02))


@pytest.mark.parametrize(("differ", "error"), [(0.01, 0.02), (0.02, 0.01), (0.02, 0.004)])
def test_what_is_expected_is_nearer_to_what_follows(differ: float, error: float) -> None:
    """Weighing both is nearly as good as the better of measurement and prediction, or better, whichever that is."""
    rng = np.random.default_rng(0)
    off: dict[str, list[float]] = {"measured": [], "refitted": [], "expected": []}
    for _ in range(300):
        truth = 1.07 * np.exp(rng.normal(0, differ, 9))
        measured = truth * np.exp(rng.normal(0, error, 9))
        near = pairs(measured[:6].tolist(), error)
        found = refit(near, pairs(measured[6:].tolist(), error))
        for t, (predicted, m) in zip(truth.tolist(), near, strict=False):
            off["measured"].append(m.value / (2 * t) - 1)
            off["refitted"].append(found.factor / t - 1)
            off["expected"].append(found.expected(predicted, m)[0] / (2 * t) - 1)
    spread = {name: float(np.std(values)) for name, values in off.items()}
    assert spread["expected"] < 1.1 * min(spread["measured"], spread["refitted"])
    assert spread["expected"] < 0.7 * max(spread["measured"], spread["refitted"])
