"""Calibration finds again what made up the networks it is shown, and is not led astray by odd ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hwnas.errors import HwnasError
from hwnas.profiler.additive import AdditiveModel, MissingKeys
from hwnas.profiler.calibration import Calibration, Observed, calibrate, fit, refit_factor
from hwnas.profiler.designs import designed, held_out
from hwnas.spaces.encoding import Codes
from hwnas.spaces.glue import GLUE
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.zoo import ZOO


@pytest.fixture(scope="module")
def chain() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


@pytest.fixture(scope="module")
def cell() -> SearchSpace:
    """With "none" among the operators, so that others may be dead."""
    return ZOO["darts"]()


def invented(space: SearchSpace, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {w.key(): float(rng.uniform(0.1, 1)) for w in space.workloads()}


def real(space: SearchSpace, truth: Calibration, values: Mapping[str, float]) -> AdditiveModel:
    costs = truth.corrected(values)
    model = AdditiveModel.from_values(space.encoding, space.description, costs, live=truth.live)
    return model.scaled(truth.factor, truth.extra)


def drawn(space: SearchSpace, n: int, seed: int = 5) -> Codes:
    return space.encoding.sample(n, np.random.default_rng(seed))


def observe(space: SearchSpace, model: AdditiveModel, noise: float = 0.0) -> tuple[Observed, Observed]:
    rng = np.random.default_rng(3)
    training = designed(space.encoding, 16)
    unseen = held_out(space.encoding, 8, 1, training)
    first, second = (model.predict(codes) * (1 + noise * rng.normal(size=len(codes))) for codes in (training, unseen))
    return Observed(training, first), Observed(unseen, second)


def run(space: SearchSpace, model: AdditiveModel, values: Mapping[str, Any], **more: Any) -> Any:
    noise = more.pop("noise", 0.0)
    return calibrate(space.encoding, space.description, values, *observe(space, model, noise), **more)


def error(space: SearchSpace, found: AdditiveModel, model: AdditiveModel) -> float:
    codes = drawn(space, 300)
    true = model.predict(codes)
    scale = np.maximum(true, true.mean() / 4)  # disconnected networks take no time
    return float(np.sqrt(np.mean(((found.predict(codes) - true) / scale) ** 2)))


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.4])
def test_a_factor_is_found(chain: SearchSpace, factor: float) -> None:
    values = invented(chain)
    model = real(chain, Calibration("isolated", factor, 0.0, True), values)
    calibration, found, _ = run(chain, model, {"isolated": values}, noise=0.003)
    assert calibration.factor == pytest.approx(factor, rel=0.05)
    assert error(chain, found, model) < 0.005
    assert calibration.error is not None
    assert calibration.error.n == 8
    assert calibration.error.rmse < 1


def test_an_extra_is_found(chain: SearchSpace) -> None:
    values = invented(chain)
    plain = real(chain, Calibration("isolated", 1.1, 0.0, True), values)
    extra = 0.15 * plain.range.mean
    model = plain.scaled(1.0, extra)
    calibration, found, _ = run(chain, model, {"isolated": values})
    assert calibration.factor == pytest.approx(1.1, rel=0.03)
    assert calibration.extra == pytest.approx(extra, rel=0.25)
    assert calibration.residual == pytest.approx(found.constant)
    assert error(chain, found, model) < 0.005


def test_cold_weights_are_found(chain: SearchSpace) -> None:
    """Alone, an operator finds its weights in the caches; 100,000 of them cost more inside a network."""
    values = invented(chain)
    weights = {w.key(): sum(op["params"] for op in w.info["operators"]) for w in chain.workloads()}
    inside = {key: value + 1e-5 * weights[key] for key, value in values.items()}
    model = real(chain, Calibration("isolated", 1.0, 0.0, True), inside)
    calibration, found, _ = run(chain, model, {"isolated": values}, noise=0.002)
    assert error(chain, found, model) < 0.01
    heavy = max(weights, key=lambda key: weights[key] / values[key])
    expected = inside[heavy] / values[heavy]
    assert calibration.factor * calibration.corrections[heavy] == pytest.approx(expected, rel=0.05)


def test_networks_that_have_nothing_to_do_with_their_operators_leave_the_factor_positive(chain: SearchSpace) -> None:
    values = invented(chain)
    training, unseen = observe(chain, real(chain, Calibration("isolated", 1.0, 0.0, True), values))
    most = 1.2 * training.latency.max()
    backwards = [Observed(own.codes, most - own.latency) for own in (training, unseen)]
    calibration, _, _ = calibrate(chain.encoding, chain.description, {"isolated": values}, *backwards)
    assert calibration.factor > 0


def test_an_operator_that_costs_more_inside_networks_is_corrected(cell: SearchSpace) -> None:
    values = invented(cell)
    odd = next(w.key() for w in cell.workloads() if "conv" in w.op and not w.fixed)
    model = real(cell, Calibration("isolated", 1.0, 0.02, True, corrections={odd: 1.4}), values)
    calibration, found, _ = run(cell, model, {"isolated": values})
    corrections = {key: calibration.factor * c for key, c in calibration.corrections.items()}
    assert corrections[odd] == pytest.approx(1.4, rel=0.05)
    assert max(abs(corrections[w.key()] - 1) for w in cell.workloads() if not w.fixed and w.key() != odd) < 0.1
    assert error(cell, found, model) < 0.01


def test_glue_is_found(cell: SearchSpace) -> None:
    values = invented(cell)
    truth = Calibration("isolated", 1.2, 0.02, True, glue={GLUE[0]: 0.1, GLUE[1]: 0.0})
    model = real(cell, truth, values)
    calibration, found, _ = run(cell, model, {"isolated": values})
    assert calibration.glue[GLUE[0]] == pytest.approx(0.1, rel=0.3)
    assert error(cell, found, model) < 0.01


@pytest.mark.parametrize("live", [True, False])
def test_the_networks_tell_whether_dead_operators_cost(cell: SearchSpace, live: bool) -> None:
    values = invented(cell)
    model = real(cell, Calibration("isolated", 1.0, 0.02, live), values)
    calibration, found, tried = run(cell, model, {"isolated": values}, noise=0.002)
    assert calibration.live is live
    assert {c.live for c in tried} == {True, False}
    assert error(cell, found, model) < 0.01


def test_where_nothing_is_ever_dead_only_one_way_is_tried(chain: SearchSpace) -> None:
    values = invented(chain)
    _, _, tried = run(chain, real(chain, Calibration("", 1.0, 0.0, True), values), {"isolated": values})
    assert {c.live for c in tried} == {True}


@pytest.mark.parametrize("truth", ["isolated", "in-context"])
def test_the_networks_tell_which_operator_times_are_right(chain: SearchSpace, truth: str) -> None:
    values = {"isolated": invented(chain, 0), "in-context": invented(chain, 1)}
    model = real(chain, Calibration(truth, 1.0, 0.0, True), values[truth])
    calibration, found, tried = run(chain, model, values, noise=0.002)
    assert calibration.method == truth
    assert {c.method for c in tried} == {"isolated", "in-context"}
    assert calibration in tried
    assert error(chain, found, model) < 0.005


def test_a_method_that_lacks_operators_is_left_out(chain: SearchSpace) -> None:
    values = invented(chain)
    part = dict(list(values.items())[3:])
    model = real(chain, Calibration("isolated", 1.0, 0.0, True), values)
    calibration, _, _ = run(chain, model, {"in-context": part, "isolated": values})
    assert calibration.method == "isolated"
    with pytest.raises(MissingKeys) as caught:
        run(chain, model, {"in-context": part})
    assert sorted(caught.value.keys) == sorted(values.keys() - part.keys())


def test_counts_take_a_constant_and_nothing_else(chain: SearchSpace) -> None:
    values = {key: round(100 * value) for key, value in invented(chain).items()}
    model = real(chain, Calibration("isolated", 1.0, 37.0, True), values)
    calibration, found, _ = run(chain, model, {"isolated": values}, exact=True)
    assert (calibration.factor, calibration.corrections) == (1.0, {})
    assert set(calibration.glue.values()) <= {0.0}
    assert calibration.extra == pytest.approx(37)
    codes = drawn(chain, 50)
    np.testing.assert_allclose(found.predict(codes), model.predict(codes), rtol=1e-10)


def test_the_calibration_stored_gives_the_model_back(cell: SearchSpace) -> None:
    values = invented(cell)
    truth = Calibration("isolated", 1.2, 0.1, True, glue={GLUE[0]: 0.05})
    calibration, found, _ = run(cell, real(cell, truth, values), {"isolated": values})
    read = Calibration.from_dict(json.loads(json.dumps(calibration.as_dict())))
    codes = drawn(cell, 50)
    np.testing.assert_allclose(real(cell, read, values).predict(codes), found.predict(codes))
    assert (read.method, read.live, read.residual) == ("isolated", calibration.live, calibration.residual)


# -- the fit itself


def test_networks_that_take_almost_no_time_do_not_decide() -> None:
    rng = np.random.default_rng(0)
    sums = rng.uniform(1, 2, 12)
    measured = 1.2 * sums * (1 + 0.005 * rng.normal(size=12))
    columns = np.stack([sums, np.ones(12)], 1)
    widths = np.array([0.3, 0.0])
    without = fit(columns, measured, widths)[0]
    # A disconnected network: off by a factor of 100, but by a thousandth of what the others take.
    more, columns = np.append(measured, 1.5e-5), np.vstack([columns, [1.5e-3, 1]])
    assert fit(columns, more, widths)[0] == pytest.approx(without, rel=0.01)
    assert without == pytest.approx(1.2, rel=0.01)
    assert refit_factor(columns[:, 0], more) == pytest.approx(refit_factor(sums, measured), rel=0.01)


def test_what_networks_do_not_tell_stays_as_it_was() -> None:
    columns = np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
    factor, given, unseen = fit(columns, 1.1 * columns[:, 0], np.array([0.3, 0.0, 0.1]))
    assert factor == pytest.approx(1.1, rel=1e-3)
    assert (given, unseen) == (0, 0)
    few = fit(columns[:1], np.array([1e6]), np.array([0.0, 0.0, 0.0]))
    assert few.tolist() == [1, 0, 0]


def test_refitting_finds_the_common_factor() -> None:
    predicted = np.array([1.0, 2.0, 5.0])
    assert refit_factor(predicted, 1.3 * predicted) == pytest.approx(1.3)
    assert refit_factor(predicted, predicted * np.array([1.1, 0.9, 1.0])) == pytest.approx(0.99, abs=0.011)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0}, "factor is 0, it must be positive"),
        ({"factor": -1.0}, "must be positive"),
        ({"factor": "1"}, "numbers are not all finite"),
        ({"factor": True}, "numbers are not all finite"),
        ({"extra": float("nan")}, "numbers are not all finite"),
        ({"residual": None}, "numbers are not all finite"),
        ({"glue": [1.0]}, "glue are not all finite"),
        ({"glue": {GLUE[0]: float("inf")}}, "glue are not all finite"),
        ({"corrections": {"key": "x"}}, "corrections are not all finite"),
        ({"corrections": None}, "corrections are not all finite"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], message: str) -> None:
    good = Calibration("isolated", 1.1, 0.2, True, {GLUE[0]: 0.1}, {"key": 1.1}, 0.3).as_dict()
    assert Calibration.from_dict(good).as_dict() == good
    with pytest.raises(HwnasError, match=message):
        Calibration.from_dict({**good, **change})
