"""The kind that cross-validation finds best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hwnas.predictors.base import PredictorError
from hwnas.predictors.fitting import fit_regressor
from hwnas.predictors.regressors import auto
from hwnas.predictors.regressors.auto import Auto
from hwnas.predictors.regressors.base import Regressor, Rows, State
from hwnas.predictors.regressors.choice import Choice, Tried, best_of, chosen
from hwnas.predictors.regressors.registry import regressor_type

SIZES = (4, 4, 4)


def some_rows(n: int, seed: int = 0) -> Rows:
    choices = np.random.default_rng(seed).integers(0, 4, (n, 3)).astype(np.int16)
    return Rows(choices, SIZES, np.empty((n, 0)))


def additive(rows: Rows, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    costs = np.array([[0, 1, 2.5, 4], [0, 0.3, 0.2, 3], [1, 0, 0, 2]])
    total = 4 + sum(costs[i][rows.choices[:, i]] for i in range(3))
    return np.asarray(total * np.random.default_rng(seed).normal(1, noise, len(rows)))


def interacting(rows: Rows) -> np.ndarray:
    a, b, c = rows.choices.T
    return np.asarray(additive(rows, 0.005) * np.where((a + b) % 2 == 0, 1.0, 1.6) * np.where(b == c, 1.0, 0.8))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [30, 120])
def test_a_table_wins_where_the_truth_is_one(n: int) -> None:
    candidates = ("lut", "linear", "gaussian-process")
    fitted = Auto(candidates=candidates).fit(some_rows(n), additive(some_rows(n)), rng())
    assert fitted.choice.kind == "lut"
    assert isinstance(fitted.chosen, regressor_type("lut"))
    assert "lut is chosen: its MAPE on held-out networks, 1." in fitted.choice.reason


def test_another_kind_wins_where_choices_interact() -> None:
    rows = some_rows(64)
    fitted = Auto(candidates=("lut", "linear", "gbdt")).fit(rows, interacting(rows), rng())
    assert fitted.choice.kind == "linear"  # its pairs
    tried = {t.kind: t for t in fitted.choice.tried}
    assert list(tried) == ["lut", "linear", "gbdt"]
    assert tried["lut"].mape is not None
    assert tried["linear"].mape is not None
    assert tried["lut"].mape > 1.5 * tried["linear"].mape
    assert "lut" in fitted.choice.text()


def test_the_same_seed_makes_the_same_choice() -> None:
    rows, y = some_rows(70), additive(some_rows(70), 0.1)
    one, other = (Auto(candidates=("lut", "linear", "gaussian-process")).fit(rows, y, rng()) for _ in range(2))
    assert one.choice == other.choice
    np.testing.assert_array_equal(one.held_out, other.held_out)


def test_its_smallest_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", ("lut", "linear", "gaussian-process", "stacked"))
    rows = some_rows(Auto.min_rows)
    fitted = fit_regressor("auto", rows, additive(rows), rng())
    assert fitted.chosen in auto.CANDIDATES
    assert fitted.choice is not None
    assert all(t.mape is not None and t.rows == 10 for t in fitted.choice.tried)
    assert np.isfinite(fitted.half_width(some_rows(5, 1), 0.9)).all()


class Lucky(Regressor):
    """Predicts at random, so that the best of many is the luckiest."""

    kind: ClassVar[str] = "lucky"

    def fit(self, rows: Rows, y: np.ndarray, rng: np.random.Generator) -> Self:
        self.seed = int(rng.integers(2**31))
        return self

    def predict(self, rows: Rows) -> np.ndarray:
        draws = np.random.default_rng(self.seed).random(len(rows))
        return np.asarray(np.where(draws < 0.5, 0.8, 1.2))

    def state(self) -> State:
        return {}, {}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls()


class Never(Lucky):
    def fit(self, rows: Rows, y: np.ndarray, rng: np.random.Generator) -> Self:
        raise PredictorError("the rows have no graphs")


def known(monkeypatch: pytest.MonkeyPatch, kinds: Mapping[str, type[Regressor]]) -> None:
    monkeypatch.setattr(auto, "regressor_type", kinds.__getitem__)


def test_the_error_counts_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixty that are equally bad the best seems better than it is; the error that is stated does not."""
    names = tuple(f"kind {i}" for i in range(60))
    known(monkeypatch, dict.fromkeys(names, Lucky))
    rows = some_rows(40)
    y = np.random.default_rng(3).choice([0.8, 1.2], 40)
    seeming, stated = [], []
    for seed in range(8):
        fitted = Auto(candidates=names).fit(rows, y, np.random.default_rng(seed))
        seeming.append(next(t.mape for t in fitted.choice.tried if t.kind == fitted.choice.kind))
        assert fitted.held_out is not None
        stated.append(100 * np.abs(fitted.held_out / y - 1).mean())
    truth = 100 * np.mean([0, 0.5 * (1.2 / 0.8 - 1) + 0.5 * (1 - 0.8 / 1.2)])
    assert np.mean(seeming) < 0.75 * truth  # type: ignore[arg-type]
    assert np.mean(stated) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("n", [20, 80])
def test_kinds_that_cannot_be_fitted_are_no_candidates(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    known(monkeypatch, {"lucky": Lucky, "never": Never})
    fitted = Auto(candidates=("never", "lucky")).fit(some_rows(n), additive(some_rows(n)), rng())
    assert fitted.choice.kind == "lucky"
    assert "never cannot be fitted: the rows have no graphs" in fitted.choice.text()
    with pytest.raises(PredictorError, match="never cannot be fitted: the rows have no graphs"):
        Auto(candidates=("never",)).fit(some_rows(n), additive(some_rows(n)), rng())


def test_the_default_is_tried_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, {"linear": regressor_type("linear"), "stacked": Lucky, "other": Lucky})
    rows = some_rows(80)
    fitted = Auto(candidates=("linear", "stacked", "other")).fit(rows, additive(rows), rng())
    assert {t.kind: t.rows for t in fitted.choice.tried} == {"linear": 80, "stacked": 80, "other": 40}
    assert all(t.first is not None for t in fitted.choice.tried)
    assert "others, MAPE %: stacked 8" in fitted.choice.text()
    assert "; after a trial with 40 networks (linear 1." in fitted.choice.text()


class Costly(Lucky):
    """Is as good as the smallest number of rows that it is asked to be good with."""

    enough: ClassVar[int] = 0

    def fit(self, rows: Rows, y: np.ndarray, rng: np.random.Generator) -> Self:
        self.right = len(y) >= self.enough
        return super().fit(rows, y, rng)

    def predict(self, rows: Rows) -> np.ndarray:
        return additive(rows, 0) if self.right else super().predict(rows)


@pytest.mark.parametrize(("enough", "rows"), [(20, 80), (21, 20)])
def test_costly_kinds_must_be_the_best_with_half_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, enough: int, rows: int
) -> None:
    monkeypatch.setattr(auto, "COSTLY", ("costly",))
    monkeypatch.setattr(Costly, "enough", enough)
    known(monkeypatch, {"plain": Lucky, "costly": Costly})
    chooser = Auto(candidates=("plain", "costly"))
    fitted = chooser.fit(some_rows(80), additive(some_rows(80), 0.05), rng())
    assert {t.kind: t.rows for t in fitted.choice.tried}["costly"] == rows
    assert fitted.choice.kind == ("costly" if rows == 80 else "plain")
    few = chooser.fit(some_rows(30), additive(some_rows(30), 0.05), rng())
    assert [t.kind for t in few.choice.tried] == ["plain"]


def test_it_is_no_candidate_itself() -> None:
    rows = some_rows(20)
    meta, arrays = Auto(candidates=("lut",)).fit(rows, additive(rows), rng()).state()
    with pytest.raises(ValueError, match="chose itself"):
        Auto.from_state({**meta, "choice": {**meta["choice"], "kind": "auto"}}, arrays)


def differing(*means: float, spread: float = 0.1, n: int = 100) -> list[np.ndarray]:
    """Errors with these means, whose differences have a deviation of about `spread`."""
    waves = [spread * np.sin(np.arange(n) * (i + 1)) for i in range(len(means))]
    return [mean + wave - wave.mean() for mean, wave in zip(means, waves, strict=True)]


@pytest.mark.parametrize(
    ("means", "kind"),
    [
        ((1.00, 1.00, 1.00), "simple"),
        ((1.01, 1.00, 1.00), "simple"),  # within a standard error, 0.01
        ((1.08, 1.00, 1.00), "default"),
        ((2.00, 1.005, 1.00), "default"),  # as good as the costly one
        ((2.00, 1.10, 1.00), "costly"),
        ((1.00, 1.10, 1.10), "simple"),
    ],
)
def test_the_simplest_of_the_best(means: Sequence[float], kind: str) -> None:
    assert best_of(dict(zip(("simple", "default", "costly"), differing(*means), strict=True)), "default") == kind


def test_few_rows_are_no_reason_to_give_much_away() -> None:
    """With a standard error of a tenth of the mean, nothing shows that the simple one is as good as it seems."""
    for simple in (0.97, 1.04):
        errors = dict(zip(("simple", "default"), differing(simple, 1.0, spread=1), strict=True))
        assert best_of(errors, "default") == "default"
    assert chosen(errors, "default", [Tried("simple"), Tried("default")]).reason.endswith("%, is the smallest")
    errors = dict(zip(("simple", "default"), differing(0.97, 1.0, spread=1), strict=True))
    assert chosen(errors, "default", [Tried("simple"), Tried("default")]).reason.endswith(
        "default is chosen: its MAPE on held-out networks, 100 %, cannot be told from the smallest (simple, 97 %), and "
        "it is the default"
    )


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_that_a_kind_misses_do_not_decide(rows: int) -> None:
    """For all others it is the better one; by four of these rows the means differ by two standard errors."""
    simple, default = differing(1.0, 0.5)
    default[:rows] += 60.0
    errors = {"simple": simple, "default": default}
    assert best_of(errors, "default") == "default"
    assert chosen(errors, "default", [Tried("simple"), Tried("default")]).reason.endswith(
        "is not the smallest (simple, 100 %), but for most networks its error is the smaller one"
    )
    assert best_of(errors, "other") == "simple"


def test_a_choice_says_why() -> None:
    errors = dict(zip(("simple", "default"), differing(1.004, 1.0), strict=True))
    tried = [Tried.of(kind, own, 100) for kind, own in errors.items()]
    early = [Tried("third", 200.0, 1.0, 50, 200.0), Tried("fourth", 300.0, 1.0, 25, 300.0)]
    tried[0] = replace(tried[0], first=123.4)
    found = chosen(errors, "default", [*tried, *early, Tried("fifth", failed="no graphs")])
    assert found.kind == "simple"
    assert found.text() == (
        "simple is chosen: its MAPE on held-out networks, 100 %, cannot be told from the smallest (default, 100 %), "
        "and it is simpler; others, MAPE %: default 100; after a trial with 50 networks "
        "(simple 123): third 200, fourth 300 (with 25); fifth cannot be fitted: no graphs"
    )
    assert Choice.from_dict(found.as_dict()).text() == found.text()
