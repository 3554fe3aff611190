"""The architecture parameters: one logit for every candidate of every decision, beside the supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import HwnasError
from ..spaces.description import Decision


class ArchitectureParameters:
    """Logits alpha of the choices; a candidate's probability is their softmax.

    They are float64 and on the CPU, wherever the supernet is: there are few of them, and rounding would move latency.

    Args:
        decisions: of the space.
        init, scale: "normal": with standard deviation `scale`; "uniform": in (-scale, scale).
        seed: of the start.

    Attributes:
        tensors: one vector a decision.
    """

    def __init__(self, decisions: Sequence[Decision], init: str = "normal", scale: float = 1e-3, seed: int = 0) -> None:
        if init not in ("normal", "uniform"):
            raise HwnasError(f"architecture parameters start normal or uniform, not {init!r}")
        rng = np.random.default_rng([seed, 0xA1FA])
        draw = rng.standard_normal if init == "normal" else lambda n: rng.uniform(-1, 1, n)
        self.tensors: list[Tensor] = [torch.tensor(scale * draw(len(d))).requires_grad_() for d in decisions]

    def state(self) -> dict[str, Any]:
        return {"tensors": [t.detach().clone() for t in self.tensors]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for own, stored in zip(self.tensors, state["tensors"], strict=True):
                own.copy_(stored)


def softmax(logits: Sequence[Tensor]) -> list[Tensor]:
    """Probabilities of each decision's candidates."""
    return [torch.softmax(vector, 0) for vector in logits]


def arrays(vectors: Sequence[Tensor]) -> list[np.ndarray]:
    """The same as numpy, without their graph."""
    return [vector.detach().numpy() for vector in vectors]


def normalised_entropy(probabilities: Sequence[np.ndarray]) -> list[float]:
    """Of each decision: 1 where all candidates are equally likely, 0 where one is certain."""
    found = []
    for p in probabilities:
        kept = p[p > 0]
        found.append(float(-(kept * np.log(kept)).sum() / np.log(len(p))) if len(p) > 1 else 0.0)
    return found
