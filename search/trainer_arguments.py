"""What `ProxylessNasTrainer` was given, checked before anything is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..devices.registry import device_names
from ..errors import HwnasError
from ..predictors.base import Predictor
from ..predictors.flops import FlopsPredictor
from ..spaces.space import SearchSpace
from .goals import Goal, Latency
from .settings import ObjectiveSettings, SearchSettings
from .training import compute_device
from .validation import Problems, read

Hardware = Literal["mobile", "cpu", "gpu8", "flops"]

_NAMES = {
    "weights.epochs": "n_epochs",
    "weights.lr": "init_lr",
    "weights.label_smoothing": "label_smoothing",
    "gradient.mode": "binary_mode",
    "gradient.init": "arch_init_type",
    "gradient.init_scale": "arch_init_ratio",
    "gradient.lr": "arch_optim_lr",
    "gradient.weight_decay": "arch_weight_decay",
    "reinforce.init": "arch_init_type",
    "reinforce.init_scale": "arch_init_ratio",
    "reinforce.lr": "arch_optim_lr",
    "every": "grad_update_arch_param_every",
    "steps": "grad_update_steps",
    "valid_every": "arch_valid_frequency",
    "objective.kind": "objective",
}
"""Arguments by the keys that they set."""


def checked(settings: SearchSettings) -> SearchSettings:
    """The settings, where each is of its type and in its range; raises HwnasError that names the arguments."""
    try:
        return read(SearchSettings, _plain(asdict(settings)))
    except Problems as error:
        texts = [_NAMES.get(p.key, p.key) + p.text.removeprefix(p.key) for p in error.problems]
        raise HwnasError("; ".join(dict.fromkeys(texts))) from None


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Raise HwnasError for what would leave the model as it is."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise HwnasError(f"model_optim must be a torch optimizer of the model's weights, not {optimizer!r}")
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise HwnasError("model_optim has none of the model's weights: make it of model.parameters()")


def training_device(device: Any) -> torch.device:
    """The device to train on; raises HwnasError where there is none."""
    if isinstance(device, list | tuple):
        raise HwnasError("device is one device: to train on several, start the script by torchrun, a process for each")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise HwnasError(f"device is 'cpu' or 'cuda', or a torch.device, not {device!r}") from None
    if found.type == "cuda":
        compute_device("cuda")
    return found


def make_folder_of(path: Path | None) -> None:
    """Make the folder that a file will be written to; raises HwnasError."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HwnasError(f"{path} cannot be written: {error.strerror}: {error.filename}") from error


def latency_of(
    space: SearchSpace,
    predictor: Predictor | list[Predictor] | None,
    target: float | list[float] | None,
    hardware: Hardware | None,
    objective: ObjectiveSettings,
) -> Latency | None:
    """The goals; raises HwnasError where predictors, targets and hardware do not fit together."""
    known = ("gpu8", *device_names(testing=True))
    if hardware is not None and hardware not in known:
        raise HwnasError(f"target_hardware is {hardware!r}, not one of {', '.join(dict.fromkeys(known))}")
    if predictor is None and hardware == "flops":
        predictor = FlopsPredictor.of(space)
    if predictor is None and hardware is not None:
        raise HwnasError(
            f"target_hardware={hardware!r} needs its predictor: measure a table (`hwnas profile --device {hardware} "
            "--space your_module:function`) and give predictor=load_predictor(table, space)"
        )
    predictors = list(predictor) if isinstance(predictor, list | tuple) else [] if predictor is None else [predictor]
    for each in predictors:
        if not isinstance(each, Predictor):
            raise HwnasError(f"predictor must be what load_predictor(file, space) gives, not {each!r}")
    targets = list(target) if isinstance(target, list | tuple) else [] if target is None else [target]
    if len(predictors) != len(targets):
        raise HwnasError(f"{len(predictors)} predictors and {len(targets)} targets: each predictor needs one")
    for each in predictors:
        _check_hardware(each, hardware)
    if not predictors:
        return None
    latency = Latency(space, [Goal(p, t) for p, t in zip(predictors, targets, strict=True)], objective.combine)
    latency.check_reachable(limit=objective.kind == "limit")
    return latency


def _check_hardware(predictor: Predictor, hardware: Hardware | None) -> None:
    origin = predictor.origin
    made_for = origin.device if origin is not None else None
    wanted = "gpu" if hardware == "gpu8" else hardware
    if wanted is not None and made_for not in (wanted, None):
        raise HwnasError(f"target_hardware is {hardware!r}, but the predictor was made for {made_for!r}")
    batch = origin.settings.get("batch", 1) if origin is not None else 8
    if hardware == "gpu8" and batch != 8:
        raise HwnasError(f"gpu8 means batch 8, but the predictor was made for batch {batch}")


def _plain(value: Any) -> Any:
    """Without numpy's numbers, which scripts compute with."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.item() if hasattr(value, "item") else value
