"""Binary gates: the derivative of the loss with respect to which candidate of each choice is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .settings import GateMode

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GateRequest:
    """What to differentiate.

    Attributes:
        path: (decisions,) candidate numbers of the sampled path; unreached decisions may hold any.
        partner: mode "two": the other sampled candidate of each decision, whose gate is looked at, too.
    """

    path: np.ndarray
    mode: GateMode
    partner: np.ndarray | None = None


@dataclass(frozen=True)
class GateResult:
    """The outcome.

    Attributes:
        loss: mean cross-entropy of the path on the batch.
        gradients: one vector a decision, float64 on the CPU: dL/dg, 0 for candidates that were not looked at.
    """

    loss: float
    gradients: list[Tensor]
