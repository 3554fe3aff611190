"""The kinds of predictors that are fitted on measured networks: a regressor (see `regressors`) on a space each."""

from __future__ import annotations

from typing import ClassVar

from .learned import LearnedPredictor


class LinearPredictor(LearnedPredictor):
    """Ridge regression on choices, their pairs, and counts."""

    kind: ClassVar[str] = "linear"


class BoostedPredictor(LearnedPredictor):
    """Boosted trees."""

    kind: ClassVar[str] = "gbdt"


class ForestPredictor(LearnedPredictor):
    """A random forest."""

    kind: ClassVar[str] = "random-forest"


class GaussianProcessPredictor(LearnedPredictor):
    """A Gaussian process."""

    kind: ClassVar[str] = "gaussian-process"


class MlpPredictor(LearnedPredictor):
    """Small neural networks."""

    kind: ClassVar[str] = "mlp"


class StackedPredictor(LearnedPredictor):
    """The average of what Gaussian processes on several views of the features, and others, say."""

    kind: ClassVar[str] = "stacked"
