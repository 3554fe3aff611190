"""What visits say of a workload: common steps of the core's speed drop out, bursts do not count, doubt is admitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hwnas.devices.base import Samples
from hwnas.errors import HwnasError
from hwnas.profiler.protocol import (
    MeasuringProtocol,
    estimate_network,
    estimate_operator,
    full_speed,
    network_values,
    operator_values,
    reference_times,
    repeatability,
    wall_percentiles,
)
from hypothesis import given
from hypothesis import strategies as st

PROTOCOL = MeasuringProtocol()
REFERENCE_NS = 10_000.0


def visit(ms: Sequence[float] | float, started: float = 0.0, reference: float | None = None, **more: Any) -> Samples:
    """Runs of so many ms each."""
    wall = np.rint(np.atleast_1d(np.asarray(ms, float)) * 1e6).astype(np.int64)
    cpu = np.rint(np.atleast_1d(np.asarray(more["cpu"], float)) * 1e6).astype(np.int64) if "cpu" in more else wall
    around = np.empty(0, np.int64) if reference is None else np.rint([reference, reference]).astype(np.int64)
    return Samples(wall, cpu, started, around)


def visits(ms: Sequence[float] | np.ndarray, reference: np.ndarray | None = None, apart: float = 0.5) -> list[Samples]:
    """One run each."""
    around = [None] * len(ms) if reference is None else reference.tolist()
    return [visit(float(value), i * apart, r) for i, (value, r) in enumerate(zip(ms, around, strict=True))]


def stepping(
    rng: np.random.Generator, ms: float, n: int = 32, *, step: float = 0.08, noise: float = 0.002
) -> list[Samples]:
    """On a core that changes its clock between visits; the reference feels it as much as the workload."""
    slow = 1 + step * rng.integers(0, 2, n)
    return visits(ms * slow * (1 + noise * rng.random(n)), REFERENCE_NS * slow * (1 + noise * rng.random(n)))


# -- one visit


def test_an_operator_counts_with_its_best_run_by_the_wall_clock() -> None:
    own = [visit([3, 2, 5], cpu=[1, 1, 1]), visit([4, 4.5, 4])]
    assert operator_values(own).tolist() == [2, 4]


def test_an_operator_that_was_preempted_in_every_run_counts_by_the_threads_clock() -> None:
    preempted, undisturbed = visit([9, 7, 8], cpu=[3.1, 3, 0.2]), visit([4.6, 4, 5], cpu=[4.5, 4.2, 5])
    assert operator_values([preempted, undisturbed], "cpu").tolist() == [3, 4]
    assert operator_values([preempted, undisturbed], "wall").tolist() == [7, 4]
    assert operator_values([Samples(preempted.wall, np.empty(0, np.int64), 0.0)], "cpu").tolist() == [7]


def test_the_interval_of_visits_that_scatter_widely_stays_above_nothing() -> None:
    own = visits([1, 2, 9, 30, 80, 81, 82, 83])
    for found in (estimate_operator(own, PROTOCOL, None), estimate_network(own, "wall", None)):
        assert 0 == found.low < found.value < found.high


def test_a_network_counts_with_its_median_run_by_the_devices_clock() -> None:
    own = [visit([30, 20, 50], cpu=[18, 17, 25])]
    assert network_values(own, "cpu").tolist() == [18]
    assert network_values(own, "wall").tolist() == [30]
    without = [Samples(own[0].wall, np.empty(0, np.int64), 0.0)]
    assert network_values(without, "cpu").tolist() == [30]


def test_wall_percentiles_are_of_all_runs() -> None:
    p50, p90 = wall_percentiles([visit([1, 2, 3, 4, 5]), visit([6, 7, 8, 9, 10, 11])])
    assert (p50, p90) == (6, 10)


# -- the reference


def test_steps_of_the_cores_speed_drop_out() -> None:
    rng = np.random.default_rng(0)
    true = {f"op{i}": ms for i, ms in enumerate(rng.uniform(0.02, 2, 30))}
    own = {key: stepping(rng, ms) for key, ms in true.items()}
    speed = full_speed(own, operator_values)
    assert speed == pytest.approx(REFERENCE_NS, rel=0.01)
    for key, ms in true.items():
        steady = estimate_operator(own[key], PROTOCOL, speed)
        assert steady.converged
        assert steady.value == pytest.approx(ms, rel=0.004)
        assert steady.high - steady.low < 0.01 * ms
        assert operator_values(own[key]).std() > 0.03 * ms


def test_a_workload_met_only_at_low_speed_is_not_taken_for_slower() -> None:
    """Which the low end of plain times cannot know."""
    rng = np.random.default_rng(1)
    own = {f"op{i}": stepping(rng, 1.0) for i in range(9)}
    slow = 1.08 * (1 + 0.002 * rng.random(32))
    own["unlucky"] = visits(slow, REFERENCE_NS * slow)
    speed = full_speed(own, operator_values)
    assert estimate_operator(own["unlucky"], PROTOCOL, None).value > 1.075
    assert estimate_operator(own["unlucky"], PROTOCOL, speed).value == pytest.approx(1.0, rel=0.005)


def test_a_reference_that_is_noise_is_not_used() -> None:
    rng = np.random.default_rng(2)
    own = {
        f"op{i}": visits(1 + 0.01 * rng.exponential(size=30), REFERENCE_NS * (1 + 0.05 * rng.random(30)))
        for i in range(10)
    }
    assert full_speed(own, operator_values) is None


def test_a_reference_that_helps_little_is_not_used() -> None:
    """Where nothing is common, dividing leaves the scatter as it is."""
    rng = np.random.default_rng(3)
    own = {f"op{i}": visits(1 + 0.01 * rng.random(30), np.full(30, REFERENCE_NS)) for i in range(10)}
    assert full_speed(own, operator_values) is None


def test_one_visit_without_reference_leaves_a_workload_out() -> None:
    rng = np.random.default_rng(4)
    own = stepping(rng, 1.0)
    assert reference_times(own) is not None
    mixed = [*own, visit(1.0)]
    assert reference_times(mixed) is None
    assert full_speed({"op": own}, operator_values) is not None
    assert full_speed({"op": mixed}, operator_values) is None
    assert full_speed({"op": own[:4]}, operator_values) is None  # too few to tell
    assert full_speed({}, operator_values) is None
    plain = estimate_operator([Samples(v.wall, v.cpu, v.started) for v in mixed], PROTOCOL, None)
    assert estimate_operator(mixed, PROTOCOL, REFERENCE_NS) == plain


def test_the_level_stays_that_of_the_plain_low_end() -> None:
    """Divided or not, "uncontended" means the same."""
    rng = np.random.default_rng(5)
    own = {f"op{i}": stepping(rng, 1.0, 40) for i in range(20)}
    speed = full_speed(own, operator_values)
    assert speed is not None
    plain, steady = (np.mean([estimate_operator(v, PROTOCOL, s).value for v in own.values()]) for s in (None, speed))
    assert steady == pytest.approx(plain, rel=0.003)


def test_networks_too() -> None:
    rng = np.random.default_rng(6)
    own = {f"net{i}": stepping(rng, 10.0, 12) for i in range(20)}
    speed = full_speed(own, partial(network_values, clock="cpu"))
    assert speed is not None
    plain, steady = (np.std([estimate_network(v, "cpu", s).value for v in own.values()]) / 10 for s in (None, speed))
    assert steady < 0.001
    assert steady < plain


# -- bursts


@pytest.mark.parametrize("referenced", [True, False])
def test_bursts_do_not_count(referenced: bool) -> None:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(50):
        burst = np.where(rng.permutation(32) < 11, rng.uniform(1.1, 3, 32), 1.0)  # a third of the visits
        own = visits(burst * (1 + 0.003 * rng.exponential(size=32)), np.full(32, REFERENCE_NS) if referenced else None)
        found.append(estimate_operator(own, PROTOCOL, REFERENCE_NS if referenced else None).value)
    assert max(found) < 1.02
    assert np.median(found) == pytest.approx(1.002, abs=0.003)
    assert min(found) >= 1


def test_one_network_run_in_a_burst_does_not_count() -> None:
    own = [visit([10, 10.01, 25]) for _ in range(12)]
    assert estimate_network(own, "cpu", None).value == pytest.approx(10.01)


# -- doubt


@pytest.mark.parametrize(
    ("n", "apart", "scatter", "converged"),
    [
        (16, 0.2, 0.005, True),
        (11, 0.25, 0.005, False),  # too few visits
        (40, 0.04, 0.005, False),  # all within one burst
        (16, 0.2, 0.3, False),  # visits disagree
    ],
)
def test_convergence_needs_visits_time_and_agreement(n: int, apart: float, scatter: float, converged: bool) -> None:
    values = 1 + scatter * np.random.default_rng(8).random(n)
    assert estimate_operator(visits(values, apart=apart), PROTOCOL, None).converged is converged


def test_few_visits_are_enough_where_no_more_are_allowed() -> None:
    protocol = MeasuringProtocol(max_visits=3)
    assert estimate_operator(visits([1, 1.001, 1.0005], apart=1.5), protocol, None).converged
    assert not estimate_operator(visits([1, 1.2, 1.4], apart=1.5), protocol, None).converged


@pytest.mark.parametrize("speed", [None, REFERENCE_NS])
def test_the_interval_says_how_far_the_value_may_be_off(speed: float | None) -> None:
    """Two standard errors: values of separate measurements lie as far apart as it says, within a factor of 2."""
    rng = np.random.default_rng(9)
    found = [
        estimate_operator(visits(1 + 0.02 * rng.normal(size=32), np.full(32, REFERENCE_NS)), PROTOCOL, speed)
        for _ in range(200)
    ]
    said = np.mean([e.high - e.low for e in found]) / 4
    assert 0.5 < said / np.std([e.value for e in found]) < 2


def test_repeatability_is_the_error_of_the_value() -> None:
    rng = np.random.default_rng(10)
    values, said = [], []
    for _ in range(300):
        slow = 1 + 0.01 * rng.normal(size=12)
        own = visits(10 * slow, np.full(12, REFERENCE_NS))
        values.append(estimate_network(own, "cpu", REFERENCE_NS).value / 10)
        said.append(repeatability(own, "cpu", REFERENCE_NS))
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(np.std(values), rel=0.35)


def test_repeatability_of_interleaved_halves() -> None:
    assert repeatability(visits([10.0] * 12), "cpu", None) == 0
    assert repeatability(visits([10.0, 10.2] * 6), "cpu", None) == pytest.approx(0.2 / 20.2)
    assert math.isnan(repeatability(visits([10.0]), "cpu", None))


@given(
    values=st.lists(st.floats(0.01, 100), min_size=2, max_size=20),
    factor=st.floats(0.5, 20),
    seed=st.integers(0, 100),
    referenced=st.booleans(),
)
def test_units_and_order_do_not_matter(values: list[float], factor: float, seed: int, referenced: bool) -> None:
    rng = np.random.default_rng(seed)
    reference = REFERENCE_NS * (1 + rng.random(len(values))) if referenced else None
    speed = REFERENCE_NS if referenced else None
    own = visits(values, reference)
    first = estimate_operator(own, PROTOCOL, speed)
    assert first.low <= first.value <= first.high
    shuffled = [own[i] for i in rng.permutation(len(own))]
    assert estimate_operator(shuffled, PROTOCOL, speed).value == pytest.approx(first.value, rel=1e-9)
    scaled = estimate_operator(visits(np.array(values) * factor, reference), PROTOCOL, speed)
    assert scaled.value == pytest.approx(factor * first.value, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "above 0 and at most 50 %, not 0 %"),
        ({"tolerance": 0.6}, "not 60 %"),
        ({"tolerance": math.nan}, "tolerance must be"),
        ({"max_visits": 2}, "from 3 to 10000, not 2"),
        ({"max_visits": 10_001}, "from 3 to 10000"),
    ],
)
def test_rules_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HwnasError, match=message):
        MeasuringProtocol(**options)


def test_runs_of_a_network_are_counted() -> None:
    protocol = MeasuringProtocol(network_visits=5, network_warmup=2, network_runs=4, trace_runs=7)
    assert protocol.network_run_count == 37
    assert MeasuringProtocol(**protocol.as_dict()) == protocol
