"""Sums that are near a predictor: what `expectation` calls a control."""

from __future__ import annotations

import numpy as np

from ..profiler.additive import AdditiveModel, CostTerm
from ..spaces.description import SpaceError
from ..spaces.evaluation import occurrences
from ..spaces.space import SearchSpace
from ..spaces.usage import Term, terms
from .base import Predictor

SAMPLES = 4096
RIDGE = 1e-6
"""Relative to the mean square of a column."""


def additive_control(predictor: Predictor, seed: int = 0) -> AdditiveModel:
    """The least-squares fit of a predictor by a sum over its choices and its live operators.

    Such a sum has an exact expectation (see `profiler.additive`), liveness with all its interactions included. It is
    fitted on predictions, which cost nothing, and says nothing that the predictor does not say.

    Args:
        predictor: what to fit.
        seed: of the architectures that it is fitted on.
    """
    space = predictor.space
    codes = space.encoding.sample(SAMPLES, np.random.default_rng(seed))
    value = predictor.predict_codes(codes)
    live = _live_terms(space)
    n = len(space.workloads())
    columns = [np.asarray(codes[:, d, None] == np.arange(len(own)), float) for d, own in enumerate(space.decisions)]
    used = [occurrences(term.workloads.T, n) for term in live]
    live_counts = sum((own[term.index(codes)] for term, own in zip(live, used, strict=True)), np.zeros((len(codes), n)))
    design = np.concatenate([*columns, live_counts], axis=1)
    centred = design - design.mean(axis=0)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += RIDGE * max(float(gram.diagonal().mean()), 1e-30)
    weights = np.linalg.solve(gram, centred.T @ (value - value.mean()))
    constant = float(value.mean() - design.mean(axis=0) @ weights)
    split = np.cumsum([len(d) for d in space.decisions])
    single = [CostTerm((i,), w) for i, w in enumerate(np.split(weights[: split[-1]], split[:-1]))]
    joint = [
        CostTerm(t.decisions, (own @ weights[split[-1] :]).reshape(t.sizes)) for t, own in zip(live, used, strict=True)
    ]
    return AdditiveModel(space.encoding, [*single, *joint], constant)


def _live_terms(space: SearchSpace) -> list[Term]:
    """Terms of live operators on which several decisions act; single ones say no more than the choice itself."""
    try:
        return [t for t in terms(space.description, live=True) if len(t.decisions) > 1]
    except SpaceError:
        return []  # what is dead depends on too much to be held
