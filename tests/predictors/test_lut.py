"""The lookup table as a predictor: what it refuses, what it says, and where its intervals come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.errors import HwnasError
from hwnas.predictors.base import MissingMeasurements, PredictorError
from hwnas.predictors.lut import UNCALIBRATED, LutPredictor, _student
from hwnas.predictors.registry import load_predictor
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

Make = Callable[..., LutPredictor]


@pytest.fixture(scope="module")
def small() -> SearchSpace:
    return load_space("proxyless-small", {"resolution": 8})


def test_a_prediction_is_the_calibrated_sum_of_the_operators(make_lut: Make, small: SearchSpace) -> None:
    predictor = make_lut(small)
    values = {row.key: row.latency or 0.0 for row in predictor.rows}
    fixed = sum(values[w.key()] for w in small.workloads() if w.fixed)
    architecture = small.sample(1, np.random.default_rng(0))[0]
    row = small.encode([architecture])[0]
    keys = {(n.decision, i): w for n in small.description.nodes for i, w in enumerate(n.workloads)}
    chosen = [keys[d, int(c)][0] if keys[d, int(c)] else None for d, c in enumerate(row)]
    total = fixed + sum(values[small.workloads()[w].key()] for w in chosen if w is not None)
    assert predictor.predict([architecture])[0] == pytest.approx(1.07 * total + 0.2)


def test_without_calibration_it_is_the_plain_sum(make_lut: Make, small: SearchSpace) -> None:
    plain, calibrated = make_lut(small, None), make_lut(small)
    some = small.sample(4, np.random.default_rng(0))
    np.testing.assert_allclose(1.07 * plain.predict(some) + 0.2, calibrated.predict(some))


def test_missing_keys_are_listed_with_the_command_that_measures_them(make_lut: Make, small: SearchSpace) -> None:
    whole = make_lut(small)
    settings = {"batch": 1, "threads": 2, "dtype": "fp32"}
    provenance = replace(whole.provenance, settings=settings)
    with pytest.raises(MissingMeasurements) as caught:
        LutPredictor(small, provenance, whole.rows[3:])
    missing = [row.key for row in whole.rows[:3]]
    assert sorted(caught.value.keys) == sorted(missing)
    assert all(key in str(caught.value) for key in missing)
    command = "hwnas profile --device cpu --space proxyless-small --space-arg resolution=8 --threads 2"
    assert caught.value.command == command
    assert str(caught.value).endswith(command)


def test_the_command_names_the_space_as_the_user_did_and_the_table_to_go_on_with(
    make_lut: Make, small: SearchSpace, tmp_path: Path
) -> None:
    whole = make_lut(small)
    path = tmp_path / "a table.db"
    with LatencyTable.create(path, whole.provenance) as table:
        table.register(WorkloadRow(r.key, r.op, r.kind) for r in whole.rows)
        for row in whole.rows[1:]:
            table.finish(row.key, latency=row.latency, status="unconverged")
        table.finish(whole.rows[0].key, status="failed", reason="it exploded")
    with pytest.raises(MissingMeasurements, match=r"failed: it exploded") as caught:
        load_predictor(path, small, space_option="mine.py:net --space-arg w=2")
    assert caught.value.command == (f"hwnas profile --device cpu --space mine.py:net --space-arg w=2 --out '{path}'")


def test_values_that_did_not_converge_are_used(make_lut: Make, small: SearchSpace) -> None:
    whole = make_lut(small)
    doubtful = LutPredictor(small, whole.provenance, [replace(r, status="unconverged") for r in whole.rows])
    assert doubtful.predict(small.sample(1, np.random.default_rng(0)))[0] > 0


def test_a_table_of_another_space_is_refused(make_lut: Make, small: SearchSpace) -> None:
    provenance = replace(make_lut(small).provenance, fingerprint="0123", space_arguments={"width": 2})
    with pytest.raises(PredictorError, match=r"0123.*width=2"):
        LutPredictor(small, provenance, ())


@pytest.mark.parametrize(
    "wrong", [{"factor": "2"}, {"factor": 0.0}, {"factor": float("inf")}, {"extra": float("nan")}, {"glue": {"x": "y"}}]
)
def test_a_calibration_that_makes_no_sense_is_refused(
    make_lut: Make, small: SearchSpace, wrong: dict[str, Any]
) -> None:
    with pytest.raises(PredictorError, match="calibration"):
        make_lut(small, wrong)


@pytest.mark.parametrize("networks", [[1], [{"space": "x"}], [{"space": "proxyless-small", "choices": {"a": 1.5}}]])
def test_calibration_networks_that_cannot_be_read_are_named(
    make_lut: Make, small: SearchSpace, networks: list[Any]
) -> None:
    with pytest.raises(PredictorError, match="calibration network"):
        _ = make_lut(small, {"networks": networks}).origin


def test_settings_of_a_hostile_table_are_checked(make_lut: Make, small: SearchSpace) -> None:
    provenance = replace(make_lut(small).provenance, settings={"batch": 10**9})
    with pytest.raises(PredictorError, match="batch 1000000000"):
        LutPredictor(small, provenance, ())


@pytest.mark.parametrize(
    "codes",
    [np.zeros((2, 5), int), np.zeros(6, int), np.zeros((1, 6)), np.full((1, 6), 7), np.full((1, 6), -1)],
)
def test_codes_that_stand_for_nothing_are_refused(make_lut: Make, small: SearchSpace, codes: np.ndarray) -> None:
    with pytest.raises(PredictorError, match="encoded architectures"):
        make_lut(small).predict_codes(codes)


def test_intervals_come_from_the_held_out_error(make_lut: Make, small: SearchSpace) -> None:
    stats = pytest.importorskip("scipy.stats")
    some = small.sample(3, np.random.default_rng(1))
    predictor = make_lut(small)
    share = predictor.interval(some, 0.9)[:, 1] / predictor.predict(some) - 1
    np.testing.assert_allclose(share, 0.015 * stats.t.ppf(0.95, 6), rtol=5e-3)
    guessed = make_lut(small, None)
    share = guessed.interval(some, 0.9)[:, 1] / guessed.predict(some) - 1
    np.testing.assert_allclose(share, UNCALIBRATED * stats.norm.ppf(0.95), rtol=1e-6)


def test_students_quantiles() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (4, 6, 20):
        for level in (0.6, 0.9, 0.95, 0.975):
            assert _student(stats.norm.ppf(level), n) == pytest.approx(stats.t.ppf(level, n), rel=0.01)


def test_a_choice_that_changes_nothing_has_gradient_zero(make_lut: Make) -> None:
    torch = pytest.importorskip("torch")
    space = load_space(f"{Path(__file__).parent / 'nets.py'}:tricky")
    predictor = make_lut(space, None)
    logits = [torch.zeros(len(d), requires_grad=True) for d in space.decisions]
    gradients = torch.autograd.grad(predictor.expected([v.softmax(0) for v in logits]), logits)
    source = next(i for i, d in enumerate(space.decisions) if d.label == "source")
    assert gradients[source].abs().sum() == 0


def test_a_single_output_file_is_never_overwritten(make_lut: Make, small: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    path.write_bytes(b"precious")
    with pytest.raises(PredictorError, match="exists"):
        make_lut(small).save(path)
    assert path.read_bytes() == b"precious"


def test_published_tables_predict(shared: Path, tmp_path: Path) -> None:
    from hwnas.profiler.table_space import import_table

    source = shared / "luts" / "mobile_trim.yaml"
    if not source.is_file():
        pytest.skip(f"needs {source}")
    space = load_space("proxyless")
    import_table(source, tmp_path / "m.db", space)
    predictor = load_predictor(tmp_path / "m.db", space)
    smallest, largest = predictor.predict_codes(predictor.extremes())
    assert (smallest, largest) == (pytest.approx(29.61, abs=0.005), pytest.approx(191.03, abs=0.005))
    uniform = [np.full(len(d), 1 / len(d)) for d in space.decisions]
    assert predictor.expected(uniform) == pytest.approx(113.99, abs=0.005)


def test_provenance_without_a_fingerprint_fits_any_space_whose_keys_it_has(make_lut: Make, small: SearchSpace) -> None:
    whole = make_lut(small)
    bare = LutPredictor(small, Provenance("imported", "ms"), whole.rows)
    assert bare.predict([]).shape == (0,)
    with pytest.raises(MissingMeasurements, match="hwnas profile --device cpu"):
        LutPredictor(small, Provenance("imported", "ms"), whole.rows[1:])
    with pytest.raises(HwnasError):
        LutPredictor(load_space("nasbench201"), Provenance("imported", "ms"), whole.rows)
