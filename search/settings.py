"""The settings of searching and training, as plain data; `config` reads them from YAML and checks them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ObjectiveKind = Literal["hold", "limit", "mul#log", "add#linear", "none"]
GateMode = Literal["full_v2", "full", "two"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class ObjectiveSettings:
    """How latency enters the search; formulas in `objective`.

    Attributes:
        kind: "hold" keeps the expected latency at the target, "limit" below it, "mul#log" and "add#linear" are the
            losses of the ProxylessNAS code, "none" leaves latency out.
        task: weight of cross-entropy (or accuracy); 0 searches for latency alone.
        a, b: of "mul#log"; l: of "add#linear"; power: of the reward accuracy * (T / latency) ** power.
        combine: with several devices: the weighted mean of latency / target, or the worst of them.
        derive: the final architecture is the most probable one in the "band" from 0.98 of the target to the target,
            below the "limit", or simply the "argmax" of each choice; "auto": what fits the kind.
        coverage: of "limit": the upper end of the predictor's interval of this coverage is held below the target; a
            measurement exceeds it with probability (1 - coverage) / 2. None: the prediction itself.
    """

    kind: ObjectiveKind = "hold"
    task: float = 1.0
    a: float = 0.2
    b: float = 0.3
    l: float = 0.1  # noqa: E741  the original's name
    power: float = 0.1
    combine: Literal["weighted", "worst"] = "weighted"
    derive: Literal["auto", "band", "limit", "argmax"] = "auto"
    coverage: float | None = None


@dataclass(frozen=True)
class WeightSettings:
    """Training of weights: of the supernet, or of one network.

    Attributes:
        epochs: passes over the training data.
        batch_size: of the whole group of processes together.
        lr: at the start of a cosine that ends at 0, stepped per batch.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class GradientSettings:
    """ProxylessNAS by gradient.

    Attributes:
        mode: "full_v2" (memory of one path), "full" (all candidates alive), "two" (two sampled candidates).
        lr: of Adam over the architecture parameters; None: 15 / number of updates, at most 0.3: learning rate times
            updates is what decides how far choices settle.
        init, init_scale: of the parameters: normal, or uniform in (-scale, scale).
    """

    mode: GateMode = "full_v2"
    lr: float | None = None
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.0
    init: Literal["normal", "uniform"] = "normal"
    init_scale: float = 1e-3


@dataclass(frozen=True)
class ReinforceSettings:
    """REINFORCE over the same architecture parameters.

    Attributes:
        samples: networks in an update.
        lr: of Adam over the architecture parameters; None: 5 / number of updates, at most 0.3.
        baseline_decay: of the running mean of rewards.
        entropy: weight of the entropy bonus.
    """

    samples: int = 10
    lr: float | None = None
    betas: tuple[float, float] = (0.0, 0.999)
    baseline_decay: float = 0.99
    entropy: float = 1e-4
    init: Literal["normal", "uniform"] = "normal"
    init_scale: float = 1e-3


@dataclass(frozen=True)
class EvolutionSettings:
    """Regularised evolution (Real et al., arXiv:1802.01548): mutate the best of a sample, drop the oldest.

    Attributes:
        batch: networks scored in an update. updates: of the whole search.
    """

    population: int = 30
    tournament: int = 8
    mutations: int = 1
    batch: int = 5
    updates: int = 40


@dataclass(frozen=True)
class RandomSettings:
    """Random search: networks on target, drawn uniformly; `batch` in each of so many `updates`."""

    batch: int = 5
    updates: int = 40


@dataclass(frozen=True)
class SearchSettings:
    """The search phase, in which weights and architecture parameters take turns.

    Attributes:
        algorithm: "gradient", "reinforce", "evolution" or "random".
        warmup_epochs, warmup_lr: training of uniformly drawn paths before, with a cosine of its own.
        every, steps: after so many weight steps come so many architecture updates.
        skip_first_epoch: no architecture updates in the first epoch after the warm-up.
        arch_batch_size: held-out images in an architecture update.
        bn_batches: training batches from which a path's batch-norm statistics are estimated before it is scored.
        valid_every: epochs between two validations of the most probable network.
        precision: of the matrix products; "auto": bf16 (else fp16) on CUDA, fp32 on the CPU.
        sync_batch_norm: share batch-norm statistics between processes.
    """

    algorithm: str = "gradient"
    warmup_epochs: int = 15
    warmup_lr: float = 0.05
    every: int = 2
    steps: int = 1
    skip_first_epoch: bool = False
    arch_batch_size: int = 64
    bn_batches: int = 4
    valid_every: int = 5
    precision: Precision = "auto"
    sync_batch_norm: bool = False
    weights: WeightSettings = field(default_factory=WeightSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    reinforce: ReinforceSettings = field(default_factory=ReinforceSettings)
    evolution: EvolutionSettings = field(default_factory=EvolutionSettings)
    random: RandomSettings = field(default_factory=RandomSettings)


@dataclass(frozen=True)
class FinalSettings:
    """The training of the found network, on all training data.

    Attributes:
        init: begin with fresh weights, or with the supernet's.
    """

    init: Literal["scratch", "supernet"] = "scratch"
    weights: WeightSettings = field(default_factory=lambda: WeightSettings(epochs=40))

    @property
    def epochs(self) -> int:
        """Of `weights`; 0 trains nothing."""
        return self.weights.epochs


@dataclass(frozen=True)
class LandingSettings:
    """Measuring what was found, on the device (see `landing`).

    Attributes:
        candidates: networks that are built and measured, interleaved; the one nearest to the target is chosen.
        visits: to each of them, spread over the measurement.
        final_visits: to the chosen one, in the independent measurement that judges it.
        tolerance: relative deviation of that measurement from the target above which the target counts as missed.
    """

    candidates: int = 5
    visits: int = 40
    final_visits: int = 80
    tolerance: float = 0.03
