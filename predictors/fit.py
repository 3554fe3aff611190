"""`fit`: from measured networks to a predictor in a file, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..profiler.additive import AdditiveModel
from ..profiler.metrics import Errors
from ..profiler.progress import Progress
from ..spaces.space import SearchSpace
from .base import MissingMeasurements, PredictorError, check_new
from .files import PredictorFile
from .kinds import learned_type
from .learned import LearnedPredictor
from .learning_curve import LearningCurve, learning_curve
from .lut import LutPredictor
from .registry import predictor_type
from .regressors.registry import DEFAULT_KIND, regressor_kinds
from .sources import Source

COVERAGE = 0.9


@dataclass(frozen=True)
class FitResult:
    """A predictor that was fitted, and what is known of it.

    Attributes:
        predictor: in the file `path`.
        error: in cross-validation. width: median width of its 90 % intervals on the training networks, percent.
        curve: how the error depends on the number of networks.
        notes, doubts: sentences for the user.
    """

    predictor: LearnedPredictor
    path: Path
    error: Errors
    width: float
    curve: LearningCurve
    notes: Sequence[str]
    doubts: Sequence[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the statistics of cross-validation stand at the top."""
        training, n = self.predictor.training, len(self.predictor.training.latency)
        return {
            "predictor": str(self.path),
            "kind": self.predictor.kind,
            "unit": self.predictor.unit,
            **self.error.as_dict(),
            "width": self.width,
            "networks": n,
            "source": training.source,
            "fingerprint": training.fingerprint,
            "curve": self.curve.as_dict(),
            "mape_with": {str(m): self.curve.at(m) for m in (2 * n, 4 * n)},
            "notes": list(self.notes),
            "doubts": list(self.doubts),
            "seconds": self.seconds,
        }


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


def fit(
    space: SearchSpace,
    source: Source,
    out: Path,
    *,
    kind: str | None = None,
    table: Path | None = None,
    seed: int = 0,
    replace: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Fit a predictor, judge it by cross-validation, and write it.

    Args:
        table: a latency table whose predictions become a feature, if it covers the space.
        seed: of folds and fits.
        replace: an earlier predictor in the file.

    Raises:
        HwnasError: too few networks, or data that cannot be fitted on.
    """
    start = time.monotonic()
    rng = np.random.default_rng(seed)
    sums, note = _table_sums(table, space)
    predictor = fitted_kind(kind).fit_codes(
        space,
        source.codes,
        source.latency,
        rng=rng,
        unit=source.unit,
        table=sums,
        source=source.text,
        provenance=source.provenance,
        progress=progress,
    )
    training = predictor.training
    rows = predictor.features.rows(training.codes)
    error = predictor.fitted.error
    curve = learning_curve(predictor.fitted.kind, rows, training.latency, error.mape, rng, progress)
    if replace:
        check_free(out, replace)
        out.unlink(missing_ok=True)
    predictor.save(out)
    return FitResult(
        predictor=predictor,
        path=out,
        error=error,
        width=float(200 * np.median(predictor.fitted.half_width(rows, COVERAGE))),
        curve=curve,
        notes=[*source.notes, *note, *_repeated(training.repeated)],
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
    """What a table predicts, where it covers the space."""
    if path is None:
        return None, []
    try:
        return LutPredictor.load(path, space).model, []
    except MissingMeasurements as error:
        return None, [f"{path} is no feature of the predictor: it lacks {len(error.keys)} operators of the space"]


def _repeated(n: int) -> list[str]:
    return [f"{n} networks were measured more than once: the median counts"] if n else []
