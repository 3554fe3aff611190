"""Batch norm whose statistics are those of the joined batch of all ranks, on any device.

torch.nn.SyncBatchNorm has no CPU path. For channel c with count n, mean m and variance v over all ranks
(Ioffe & Szegedy, arXiv:1502.03167), y = w (x - m) / sqrt(v + eps) + b and

    dL/dx = w / sqrt(v + eps) * (dy - sum(dy) / n - xhat * sum(dy * xhat) / n),

where both sums, too, run over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from .distributed import Ranks


def synchronise_batch_norm(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Swap every BatchNorm1d, 2d and 3d inside for one that shares its statistics; the module, or its replacement.

    Parameters, buffers and names of the state dict stay the same objects; modules stay instances of what they were;
    hooks of the swapped ones are not kept. Subclasses, which may compute something else, are left alone. In training
    all ranks must run the same modules in the same order. With one rank nothing is changed.
    """
    if ranks.world == 1:
        return module
    swapped = {old: _swap(old, ranks) for old in module.modules() if type(old) in _KINDS}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children leaves out what comes twice
            if child in swapped:
                setattr(parent, name, swapped[child])
    return swapped.get(module, module)


@contextmanager
def unsynchronised(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, every process has statistics of its own, so that ranks may run different networks."""
    swapped = [module for module in modules if isinstance(module, _Synchronised)]
    for module in swapped:
        module.together = False
    try:
        yield
    finally:
        for module in swapped:
            module.together = True


def _swap(old: nn.Module, ranks: Ranks) -> nn.Module:
    assert isinstance(old, nn.modules.batchnorm._BatchNorm)
    new = _KINDS[type(old)](old.num_features, old.eps, old.momentum, affine=False, track_running_stats=False)
    new.affine, new.track_running_stats = old.affine, old.track_running_stats
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    new._non_persistent_buffers_set = set(old._non_persistent_buffers_set)
    new.training = old.training
    new.ranks = ranks
    return new


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """What the three kinds share."""

    ranks: Ranks
    together = True

    def forward(self, x: Tensor) -> Tensor:
        """Batch norm of (B, C, ...) over B and the rest; in training, over those of all ranks."""
        if not (self.training and self.together):
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, var, count = _BatchNormOfAll.apply(x, self.weight, self.bias, self.eps, self.ranks)
        if self.track_running_stats:
            self._track(mean, var, count)
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        part = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            part = 1.0 / float(self.num_batches_tracked) if part is None else part
        part = 0.0 if part is None else part
        unbiased = var * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_(torch.lerp(running.to(new.dtype), new, part))


class _Synchronised1d(_Synchronised, nn.BatchNorm1d):
    pass


class _Synchronised2d(_Synchronised, nn.BatchNorm2d):
    pass


class _Synchronised3d(_Synchronised, nn.BatchNorm3d):
    pass


_KINDS: dict[type[nn.Module], type[_Synchronised]] = {
    nn.BatchNorm1d: _Synchronised1d,
    nn.BatchNorm2d: _Synchronised2d,
    nn.BatchNorm3d: _Synchronised3d,
}


class _BatchNormOfAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _statistics(x, ranks)
        precise = torch.promote_types(x.dtype, torch.float32)
        own_mean, own_var = mean.to(precise), var.to(precise)
        y = F.batch_norm(x, own_mean, own_var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, own_mean, torch.rsqrt(own_var + eps), count)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, count = ctx.saved_tensors
        dims = [d for d in range(x.dim()) if d != 1]
        dy = dy.to(mean.dtype)
        xhat = (x - _wide(mean, x)) * _wide(invstd, x)
        sums = torch.stack([dy.sum(dims), (dy * xhat).sum(dims)])
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            means = (ctx.ranks.stack(sums.double()).sum(0) / count).to(mean.dtype)
            scale = invstd if weight is None else invstd * weight
            dx = (dy - _wide(means[0], x) - xhat * _wide(means[1], x)) * _wide(scale, x)
            dx = dx.to(x.dtype)
        if weight is not None and ctx.needs_input_grad[1]:
            dweight = sums[1].to(weight.dtype)
        if weight is not None and ctx.needs_input_grad[2]:
            dbias = sums[0].to(weight.dtype)
        return dx, dweight, dbias, None, None


def _statistics(x: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance (C,) and count over all ranks, float64: those of the ranks merged (Chan et al. 1979)."""
    dims = [d for d in range(x.dim()) if d != 1]
    count = x.numel() // x.shape[1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if count:
        var, mean = torch.var_mean(wide, dims, correction=0)
    else:
        var = mean = wide.new_zeros(x.shape[1])
    parts = torch.stack([torch.full_like(mean, 1.0).double() * count, mean.double(), var.double()])
    counts, means, variances = ranks.stack(parts).unbind(1)
    total = counts.sum(0)
    if count < 2 and float(total[0]) < 2:  # on all ranks or on none; to look at the total waits for the device
        raise ValueError(f"batch norm needs more than one value per channel in training, got {tuple(x.shape)}")
    joint = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - joint) ** 2)).sum(0) / total
    return joint, spread, total[0]


def _wide(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(1, -1, *[1] * (x.dim() - 2))
