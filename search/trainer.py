"""`ProxylessNasTrainer`: the search for a model of one's own, in the signature that NNI gave it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import HwnasError
from ..predictors.base import Predictor
from ..profiler.progress import Progress
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .algorithm import Budget
from .algorithms import algorithm_settings, algorithm_type, create_algorithm
from .data.data import Data, check_data
from .data.loaders import LoaderBatches, wrap_loader
from .distributed import Ranks
from .engine import Engine
from .objective import Objective
from .records import Log
from .schedule import planned_updates
from .settings import (
    GateMode,
    GradientSettings,
    ObjectiveKind,
    ObjectiveSettings,
    ReinforceSettings,
    SearchSettings,
    WeightSettings,
)
from .supernet import Supernet
from .told import Told
from .trainer_arguments import (
    Hardware,
    check_optimizer,
    checked,
    latency_of,
    make_folder_of,
    training_device,
)


class ProxylessNasTrainer:
    """Searches a model that holds `LayerChoice` and `InputChoice`.

        trainer = ProxylessNasTrainer(model, model_optim=optimizer, train_loader=train, valid_loader=held_out,
                                      device=device, warmup=True, ckpt_path="checkpoints", arch_path="arch.json")
        trainer.train()
        trainer.export("arch.json")

    Under torchrun, or in a torch.distributed group that was joined before, all processes train as one.

    Args:
        model: trained in place.
        model_optim: of the model's weights; its learning rate follows `init_lr` and a cosine per batch.
        device: where to train.
        train_loader: batches of (images, labels) for the weights.
        valid_loader: batches for the architecture. They should be a part of the training set that `train_loader` does
            not have; with the test set, the architecture is fitted to it and its accuracy there means nothing.
        label_smoothing: of the weights' loss; the architecture's has none.
        n_epochs, init_lr: of the search, after the warm-up.
        binary_mode: see `gates`.
        arch_init_type, arch_init_ratio: "normal" with that standard deviation, or "uniform" within it.
        arch_optim_lr, arch_weight_decay: of Adam over the architecture parameters. Learning rate times updates decides
            how far choices settle; None takes one that suits the length of the search.
        grad_update_arch_param_every, grad_update_steps: after so many weight steps come so many updates; none in the
            first epoch.
        warmup, warmup_epochs: training of random paths before, with a cosine of its own from 0.05.
        arch_valid_frequency: epochs between two validations.
        load_ckpt: go on from the newest checkpoint in `ckpt_path`.
        ckpt_path: folder for checkpoints; None keeps none.
        arch_path: where the architecture is written at the end.
        predictor, target: latency predictor (or a list of them) and what it is to be (one each), in its unit.
        target_hardware: what the predictor must have been made for; "flops" needs none, and counts MMACs.
        objective: how latency enters; "hold" keeps the expected latency at the target, "limit" below it.
        algorithm: "gradient", "reinforce", "evolution" or "random".
        seed: of everything that is drawn here.
        log: where metrics go; by default a line an epoch goes to Python's logging, as INFO of "hwnas.search".
        progress: who hears how far it is.

    Raises:
        HwnasError: choices, loaders, predictor or target that do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        model_optim: torch.optim.Optimizer,
        device: torch.device | str,
        train_loader: Iterable[Any],
        valid_loader: Iterable[Any],
        label_smoothing: float = 0.1,
        n_epochs: int = 120,
        init_lr: float = 0.025,
        binary_mode: GateMode = "full_v2",
        arch_init_type: Literal["normal", "uniform"] = "normal",
        arch_init_ratio: float = 1e-3,
        arch_optim_lr: float | None = 1e-3,
        arch_weight_decay: float = 0,
        grad_update_arch_param_every: int = 5,
        grad_update_steps: int = 1,
        warmup: bool = True,
        warmup_epochs: int = 25,
        arch_valid_frequency: int = 1,
        load_ckpt: bool = False,
        ckpt_path: str | Path | None = None,
        arch_path: str | Path | None = None,
        *,
        predictor: Predictor | list[Predictor] | None = None,
        target: float | list[float] | None = None,
        target_hardware: Hardware | None = None,
        objective: ObjectiveKind | ObjectiveSettings = "hold",
        algorithm: str = "gradient",
        seed: int = 0,
        log: Log | None = None,
        progress: Progress | None = None,
    ) -> None:
        if load_ckpt and ckpt_path is None:
            raise HwnasError("load_ckpt=True needs ckpt_path, the folder of the checkpoints")
        device = training_device(device)
        gradient = GradientSettings(
            mode=binary_mode,
            lr=arch_optim_lr,
            weight_decay=arch_weight_decay,
            init=arch_init_type,
            init_scale=arch_init_ratio,
        )
        settings = SearchSettings(
            algorithm=algorithm,
            warmup_epochs=warmup_epochs if warmup else 0,
            every=grad_update_arch_param_every,
            steps=grad_update_steps,
            skip_first_epoch=True,
            valid_every=arch_valid_frequency,
            weights=WeightSettings(epochs=n_epochs, lr=init_lr, label_smoothing=label_smoothing),
            objective=objective if isinstance(objective, ObjectiveSettings) else ObjectiveSettings(kind=objective),
            gradient=gradient,
            reinforce=ReinforceSettings(lr=arch_optim_lr, init=arch_init_type, init_scale=arch_init_ratio),
        )
        self.settings = checked(settings)
        self.data = _data(train_loader, valid_loader, seed)
        images, _ = next(iter(self.data.train.epoch(0)))
        self.space = SearchSpace(model, example_inputs=images[:2], name=type(model).__name__)
        check_data(self.space, self.data)
        check_optimizer(model_optim, model)
        self.arch_path = None if arch_path is None else Path(arch_path)
        latency = latency_of(self.space, predictor, target, target_hardware, self.settings.objective)
        own = algorithm_type(algorithm)
        updates = planned_updates(
            self.settings, len(self.data.train), own, algorithm_settings(algorithm, self.settings)
        )
        self.algorithm = create_algorithm(
            algorithm,
            self.space,
            Objective(latency, self.settings.objective),
            self.settings,
            Budget(updates),
            seed,
        )
        self.ranks = Ranks.start(device)
        self._engine: dict[str, Any] = {
            "optimizer": model_optim,
            "seed": seed,
            "folder": None if ckpt_path is None else Path(ckpt_path),
            "log": Told() if log is None else log,
            "progress": progress,
            "resumes": load_ckpt,
        }
        self._model = model

    @cached_property
    def engine(self) -> Engine:
        """What trains."""
        supernet = Supernet(self.space, self._model, self.ranks.device)
        return Engine(supernet, self.data, self.algorithm, self.settings, ranks=self.ranks, **self._engine)

    def train(self) -> None:
        """Search to the end; with `arch_path`, the architecture is written there.

        Raises:
            HwnasError: what `Engine.run` raises, or `arch_path` cannot be written.
        """
        make_folder_of(self.arch_path)  # found now, not after days of training
        self.engine.run()
        objective, found = self.algorithm.objective, self.engine.records.warnings
        if objective.latency is not None and not objective.latency.measures:
            found = [*found, *objective.far(self.algorithm.ranked(1)[0].ratio)]
        for warning in found:
            warnings.warn(warning, stacklevel=2)
        if self.arch_path is not None:
            self.export(self.arch_path)

    def architecture(self) -> Architecture:
        """The one that is chosen as things stand: the same at every call."""
        return self.space.decode(self.algorithm.ranked(1)[0].codes[None])[0]

    def export(self, arch_path: str | Path | None = None) -> Architecture:
        """Write that architecture as JSON, by default to the `arch_path` that the trainer was given; returns it."""
        path = arch_path or self.arch_path
        if path is None:
            raise HwnasError("export needs a path: trainer.export('architecture.json')")
        found = self.architecture()
        if self.ranks.rank == 0:
            make_folder_of(Path(path))
            Path(path).write_text(found.to_json(), encoding="utf-8")
        return found


def _data(train_loader: Iterable[Any], valid_loader: Iterable[Any], seed: int) -> Data:
    train = wrap_loader(train_loader, seed=seed, name="train_loader")
    valid = wrap_loader(valid_loader, seed=seed, name="valid_loader")
    assert isinstance(train, LoaderBatches)
    return Data("the trainer's loaders", train.input_shape or (), 0, train, valid, valid, exact=False)
