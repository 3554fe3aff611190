"""`fit`: from measured networks to a predictor in a file, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..profiler.additive import AdditiveModel
from ..profiler.metrics import Errors
from ..profiler.progress import Progress, Silent
from ..spaces.space import SearchSpace
from .active import RULE, Round, check_until, curve_of, looks
from .base import MissingMeasurements, PredictorError, check_new
from .files import PredictorFile
from .kinds import learned_type
from .learned import LearnedPredictor
from .learning_curve import LearningCurve, learning_curve
from .lut import LutPredictor
from .registry import predictor_type
from .regressors.registry import DEFAULT_KIND, regressor_kinds
from .sources import Source, Supply
from .table_prices import complete
from .transfer_sources import SourceCodes

COVERAGE = 0.9


@dataclass(frozen=True)
class FitResult:
    """A predictor that was fitted, and what is known of it.

    Attributes:
        predictor: in the file `path`.
        error: in cross-validation. width: median width of its 90 % intervals on the training networks, percent.
        curve: how the error depends on the number of networks.
        notes, doubts: sentences for the user.
        rounds: of measuring until the error is small; `reached`: whether it is. None where it was not asked for.
    """

    predictor: LearnedPredictor
    path: Path
    error: Errors
    width: float
    curve: LearningCurve
    notes: Sequence[str]
    doubts: Sequence[str]
    seconds: float
    rounds: Sequence[Round] | None = None
    reached: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the statistics of cross-validation stand at the top."""
        training, n = self.predictor.training, len(self.predictor.training.latency)
        choice = self.predictor.fitted.choice
        return {
            "predictor": str(self.path),
            "kind": self.predictor.kind,
            "choice": choice and choice.as_dict(),
            "unit": self.predictor.unit,
            **self.error.as_dict(),
            "width": self.width,
            "networks": n,
            "source": training.source,
            "sources": list(self.predictor.source_names),
            "fingerprint": training.fingerprint,
            "curve": self.curve.as_dict(),
            "mape_with": {str(m): self.curve.at(m) for m in (2 * n, 4 * n)},
            "notes": list(self.notes),
            "doubts": list(self.doubts),
            "seconds": self.seconds,
            **self._active(),
        }

    def _active(self) -> dict[str, Any]:
        if self.rounds is None:
            return {}
        return {"rounds": [one.as_dict() for one in self.rounds], "reached": self.reached, "rule": RULE}


def fitted_kind(kind: str | None) -> type[LearnedPredictor]:
    """The predictor of a kind (None: the default) that is fitted on networks; raises PredictorError."""
    kind = kind or DEFAULT_KIND
    made = learned_type(kind) if kind in regressor_kinds() else predictor_type(kind)
    if not issubclass(made, LearnedPredictor):
        raise PredictorError(
            f"a predictor of kind {kind!r} is not fitted on networks (`hwnas profile` makes a table); "
            f"these are: {', '.join(regressor_kinds())}"
        )
    return made


@dataclass(frozen=True)
class FitRequest:
    """What to fit.

    Attributes:
        out: file for the predictor. replace: an earlier predictor in it.
        kind: None: the default.
        table: a latency table whose predictions become a feature; what it lacks of the space is priced.
        seed: of folds and fits.
        sources: what other devices take, for a kind that learns from them. notes: sentences on these for the user.
    """

    space: SearchSpace
    out: Path
    kind: str | None = None
    table: Path | None = None
    seed: int = 0
    replace: bool = False
    sources: Sequence[SourceCodes] = ()
    notes: Sequence[str] = ()


def fit(request: FitRequest, source: Source, progress: Progress | None = None) -> FitResult:
    """Fit a predictor, judge it by cross-validation, and write it.

    Raises:
        HwnasError: too few networks, or data that cannot be fitted on.
    """
    start = time.monotonic()
    sums, note = _table_sums(request.table, request.space)
    rng = np.random.default_rng(request.seed)
    predictor = _fitted(request, source, sums, rng, progress)
    training, fitted = predictor.training, predictor.fitted
    rows = predictor.features.rows(training.codes)
    curve = learning_curve(fitted.chosen, rows, training.latency, fitted.error.mape, rng, progress)
    return _written(request, source, predictor, curve, note, start)


def fit_until(request: FitRequest, supply: Supply, mape: float, progress: Progress | None = None) -> FitResult:
    """Measure and fit until the error is small or all that can be had is measured; write the last predictor.

    Every fit follows from the seed and the measurements alone, so that a run that was interrupted takes the same
    course when it is begun again.

    Args:
        supply: of networks, every other of them a random one.
        mape: percent, to be reached by these (see `active.RULE`).

    Raises:
        HwnasError: too few networks, or data that cannot be fitted on.
    """
    start, progress = time.monotonic(), progress or Silent()
    check_until(mape, supply.n)
    sums, note = _table_sums(request.table, request.space)
    rounds: list[Round] = []
    for n in looks(supply.n):
        source = supply.take(n)
        predictor = _fitted(request, source, sums, np.random.default_rng(request.seed), progress)
        rounds.append(Round.of(n, predictor.fitted.error))
        text = f"MAPE {rounds[-1].mape:.3g} + {rounds[-1].mape_se:.2g} % (wanted {mape:g} %) after {n} networks"
        progress.step(text, n, supply.n)
        if rounds[-1].reaches(mape):
            break
    result = _written(request, source, predictor, curve_of(rounds), note, start)
    reached = rounds[-1].reaches(mape)
    doubts = [*result.doubts, *([] if reached else [_missed(rounds[-1], mape)])]
    return replace(result, rounds=rounds, reached=reached, doubts=doubts)


def _fitted(
    request: FitRequest,
    source: Source,
    sums: AdditiveModel | None,
    rng: np.random.Generator,
    progress: Progress | None,
) -> LearnedPredictor:
    return fitted_kind(request.kind).fit_codes(
        request.space,
        source.codes,
        source.latency,
        rng=rng,
        unit=source.unit,
        table=sums,
        source=source.text,
        provenance=source.provenance,
        judges=source.judges,
        others=request.sources,
        progress=progress,
    )


def _written(
    request: FitRequest,
    source: Source,
    predictor: LearnedPredictor,
    curve: LearningCurve,
    notes: Sequence[str],
    start: float,
) -> FitResult:
    if request.replace:
        check_free(request.out, request.replace)
        request.out.unlink(missing_ok=True)
    predictor.save(request.out)
    training, fitted = predictor.training, predictor.fitted
    half = fitted.half_width(predictor.features.rows(training.codes), COVERAGE)
    said = [
        *source.notes,
        *request.notes,
        *notes,
        *_repeated(training.repeated),
        *([fitted.choice.text()] if fitted.choice else []),
    ]
    return FitResult(
        predictor=predictor,
        path=request.out,
        error=fitted.error,
        width=float(200 * np.median(half)),
        curve=curve,
        notes=said,
        doubts=list(source.doubts),
        seconds=time.monotonic() - start,
    )


def check_free(path: Path, replace: bool) -> None:
    """Raise PredictorError unless a predictor may be written there; with `replace` over another one."""
    if replace and path.exists():
        PredictorFile.read(path)
    else:
        check_new(path)


def _table_sums(path: Path | None, space: SearchSpace) -> tuple[AdditiveModel | None, list[str]]:
    """What a table predicts, with prices for what it lacks; None where it has too little for that."""
    if path is None:
        return None, []
    try:
        return LutPredictor.load(path, space).model, []
    except MissingMeasurements as error:
        lacks = f"{path} lacks {len(error.keys)} operators of the space"
    try:
        return complete(path, space).predictor.model, [f"{lacks}: they are priced by the others"]
    except PredictorError as error:
        return None, [f"{lacks} and is no feature of the predictor: {error}"]


def _missed(last: Round, mape: float) -> str:
    return (
        f"MAPE {mape:g} % is not reached: after {last.networks} networks it is {last.mape:.3g} % with a standard error "
        f"of {last.mape_se:.2g} %, and both together must be at most {mape:g} %; a larger --networks goes on from there"
    )


def _repeated(n: int) -> list[str]:
    return [f"{n} networks were measured more than once: the median counts"] if n else []
