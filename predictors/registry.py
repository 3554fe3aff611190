"""Predictors by kind and by file. Other packages add kinds through the entry-point group ``hwnas.predictors``."""

from __future__ import annotations

import importlib
from pathlib import Path

from ..spaces.space import SearchSpace
from .base import Predictor, PredictorError
from .files import PredictorFile
from .kinds import learned_type
from .regressors.registry import regressor_kinds

GROUP = "hwnas.predictors"
_BUILT_IN = {
    "lut": ".lut:LutPredictor",
    "flops": ".flops:FlopsPredictor",
    "kernel-table": ".kernel_table:KernelTablePredictor",
}
_SQLITE = b"SQLite format 3\x00"


def predictor_kinds() -> tuple[str, ...]:
    """All known kinds."""
    from importlib.metadata import entry_points

    return tuple(dict.fromkeys([*_BUILT_IN, *regressor_kinds(), *(point.name for point in entry_points(group=GROUP))]))


def predictor_type(kind: str) -> type[Predictor]:
    """The class of a kind; raises PredictorError where there is none, or its package fails to import.

    ``lut`` is the measured table here; `kinds.learned_type` has the one that is fitted on networks.
    """
    from importlib.metadata import entry_points

    if kind in _BUILT_IN:
        module, _, name = _BUILT_IN[kind].partition(":")
        built_in: type[Predictor] = getattr(importlib.import_module(module, __package__), name)
        return built_in
    if kind in regressor_kinds():
        return learned_type(kind)
    points = [point for point in entry_points(group=GROUP) if point.name == kind]
    if not points:
        raise PredictorError(f"there is no predictor of kind {kind!r}; there are: {', '.join(predictor_kinds())}")
    try:
        found = points[0].load()
    except Exception as error:  # foreign code: whatever its import raises must not take the command down
        raise PredictorError(f"predictor {kind!r} ({points[0].value}) fails to import: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Predictor)):
        raise PredictorError(f"predictor {kind!r} ({points[0].value}) is no subclass of Predictor")
    return found


def load_predictor(source: str | Path, space: SearchSpace, *, space_option: str | None = None) -> Predictor:
    """The predictor in a file (a latency table, or what `Predictor.save` wrote), or ``flops``, which needs none.

    Args:
        source: path or name; a file of that name comes first.
        space: whose architectures to predict; the file's fingerprint is compared.
        space_option: how the user named the space, for messages.

    Raises:
        HwnasError: no such file; one that cannot be read; one of another space; or one that lacks workloads.
    """
    from .flops import FlopsPredictor
    from .lut import LutPredictor

    path = Path(source)
    if not path.exists():
        if str(source) == FlopsPredictor.kind:
            return FlopsPredictor.of(space)
        raise PredictorError(
            f"there is no file {path}; a predictor is a latency table (`hwnas profile` makes one), another "
            f"predictor's file, or {FlopsPredictor.kind!r}"
        )
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
    except OSError as error:
        raise PredictorError(f"{path} cannot be read: {error.strerror}") from error
    if head == _SQLITE or not head:
        return LutPredictor.load(path, space, space_option=space_option)
    if not head.startswith(b"PK"):
        raise PredictorError(f"{path} is neither a latency table nor a predictor of hwnas")
    kind = PredictorFile.read(path).kind
    return (learned_type(kind) if kind in regressor_kinds() else predictor_type(kind)).load(path, space)
