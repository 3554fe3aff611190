"""What all training of weights shares: optimiser, learning rate, loss, precision, evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import HwnasError
from .data.prefetch import to_channels_last
from .settings import Precision, WeightSettings

if TYPE_CHECKING:
    from .data.batches import Batches
    from .distributed import Ranks

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ComputeError(HwnasError):
    """What training was asked to run on is not there."""


class TrainingDiverged(HwnasError):
    """The loss is no finite number any more."""


@dataclass(frozen=True)
class Accuracy:
    """Of a network on some images.

    Attributes:
        top1, top5: percent of images whose label is the likeliest class, or among the five likeliest.
        loss: mean cross-entropy, without smoothing.
        n: images.
    """

    top1: float
    top5: float
    loss: float
    n: int


def compute_device(compute: str) -> torch.device:
    """The device of "auto" (CUDA where there is one), "cpu" or "cuda"; `Ranks.start` picks one of several GPUs.

    Raises:
        ComputeError: there is no CUDA where it was asked for, or another name.
    """
    if compute not in ("auto", "cpu", "cuda"):
        raise ComputeError(f"training runs on auto, cpu or cuda, not on {compute!r}")
    if compute == "cpu" or (compute == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = "this torch was built without it" if torch.version.cuda is None else "no GPU can be used here"
        raise ComputeError(f"CUDA was asked for, but {why}; use the CPU, or install a torch and a driver with CUDA")
    return torch.device("cuda")


def takes_channels_last(network: nn.Module, images: Tensor) -> bool:
    """Whether a network runs on images (N, C, H, W) in channels_last, which is the faster layout.

    A module that calls `view` on its activations does not; it trains in the usual layout. Tried in eval mode, which
    leaves no trace.
    """
    if images.ndim != 4:
        return False
    with eval_mode(network), torch.no_grad():
        try:
            network(to_channels_last(images))
        except RuntimeError:
            return False
    return True


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: WeightSettings, *, no_decay: bool = False
) -> torch.optim.SGD:
    """SGD with momentum, as in the paper.

    Args:
        no_decay: leave biases and the parameters of norms (all that have one dimension) out of the weight decay.
    """
    every = list(parameters)
    groups: list[dict[str, Any]] = [{"params": every}]
    if no_decay:
        groups = [
            {"params": [p for p in every if p.ndim > 1]},
            {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def cosine(lr: float, step: int, total: int) -> float:
    """Learning rate of batch number `step` (from 0) of `total`: lr / 2 * (1 + cos(pi * step / total))."""
    return 0.5 * lr * (1 + math.cos(math.pi * min(step, total) / max(total, 1)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in float32 of (N, classes) logits, the targets mixed with `smoothing` of the uniform."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """What "auto" is on this device: fp32 on the CPU; on CUDA bf16, or fp16 where that is not native."""
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which matrix products are computed in `precision`."""
    resolved = resolve_precision(device, precision)
    if resolved == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[resolved])


def make_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """The loss scaler that fp16 needs; for other precisions one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=resolve_precision(device, precision) == "fp16")


def check_finite(loss: Tensor, step: int, lr: float, *, checkpoint: Path | None = None, every: int = 20) -> None:
    """Raise TrainingDiverged if the loss is not finite.

    Reading a loss waits for the device, so on CUDA only every `every`-th step looks: what was NaN once stays NaN.

    Args:
        checkpoint: the folder of the last good checkpoint, for the message.
        every: 1 looks at each step on every device.
    """
    if loss.device.type != "cpu" and step % every:
        return
    value = float(loss.detach())
    if math.isfinite(value):
        return
    kept = f"; the last checkpoint before it is in {checkpoint}" if checkpoint is not None else ""
    raise TrainingDiverged(
        f"training diverged: the loss is {value} at step {step}, with learning rate {lr:.4g}{kept}; "
        "try a smaller learning rate, or check the data for values that are not finite"
    )


def evaluate(
    network: nn.Module | Callable[[Tensor], Tensor],
    batches: Batches | Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    ranks: Ranks | None = None,
    *,
    precision: Precision = "fp32",
) -> Accuracy:
    """Accuracy on all images of the batches, by all processes together.

    Args:
        network: a module is put into eval mode for the while; a function is called as it is.
        batches: epoch 0 of a split, of which every process takes its part, or an iterable of this process's batches.

    Raises:
        HwnasError: there is no image.
    """
    shard = (0, 1) if ranks is None else (ranks.rank, ranks.world)
    pairs = batches.epoch(0, shard=shard) if hasattr(batches, "epoch") else batches
    with eval_mode(network), torch.no_grad(), autocast(device, precision):
        sums = _sums(network, pairs, device)
    if ranks is not None:
        sums = np.sum(ranks.gather(sums), axis=0)
    loss, top1, top5, n = sums.tolist()
    if n == 0:
        raise HwnasError("accuracy was asked for on no image at all: the split is empty")
    return Accuracy(100 * top1 / n, 100 * top5 / n, loss / n, int(n))


def _sums(
    network: nn.Module | Callable[[Tensor], Tensor], pairs: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> np.ndarray:
    """(loss, right, among five, images); stays on the device until the end."""
    total, n = torch.zeros(3, dtype=torch.float64, device=device), 0
    for images, labels in pairs:
        if not len(labels):
            continue
        n += len(labels)
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = network(images).float()
        right = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        total += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right[:, 0].sum(), right.sum()])
    return np.append(total.cpu().numpy(), n)


@contextlib.contextmanager
def eval_mode(network: object) -> Iterator[None]:
    """A module in eval mode, each part as it was afterwards; anything else is left alone."""
    if not isinstance(network, nn.Module):
        yield
        return
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
