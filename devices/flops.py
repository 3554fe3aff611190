"""Exact counts that stand where milliseconds stand: multiply-accumulates, parameters, activation bytes."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .base import Artifact, Device, DeviceError, Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Count:
    """Cost of one call of a module.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products (1 MAC = 2 FLOPs); batch as in the inputs.
        params: number of parameters, shared ones once.
        activation_bytes: bytes of all outputs of modules without children, each call counted.
    """

    macs: int
    params: int
    activation_bytes: int


class Flops(Device):
    """Device "flops": the MMACs in an "ops" artifact, as written there by whoever lowered it with :func:`count`."""

    name = "flops"
    unit = "MMACs"
    format = "ops"
    exact = True

    @property
    def clock(self) -> str:
        return "none"

    def runtime(self) -> Runtime:
        self._refuse("is exact and times nothing", "use value(artifact)")

    def value(self, artifact: Artifact) -> float:
        """MMACs of the artifact, whose data is a JSON object with an integer "macs".

        Raises:
            DeviceError: the artifact is of another format or states no MACs.
        """
        if artifact.format != self.format:
            raise DeviceError(f"device 'flops' reads {self.format}, not {artifact.format}")
        try:
            macs = json.loads(artifact.data)["macs"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DeviceError("the artifact states no MACs; lower the workload anew") from None
        if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
            raise DeviceError(f"the artifact states {macs!r} MACs, which is no count; lower the workload anew")
        return macs / 1e6


def count(module: nn.Module, inputs: Sequence[Tensor]) -> Count:
    """Count one call ``module(*inputs)`` in eval mode with ``torch.utils.flop_counter``; the module is not touched.

    A copy without data runs on the meta device. Where that fails (a forward that reads values), a real copy runs.

    Raises:
        DeviceError: the module cannot be copied or run on these inputs.
    """
    try:
        return _count(_meta_copy(module), [tensor.detach().to("meta") for tensor in inputs])
    except Exception:  # foreign module: whatever it cannot do without values, the second attempt decides
        pass
    try:
        return _count(copy.deepcopy(module), [_real(tensor) for tensor in inputs])
    except Exception as error:  # foreign module
        raise DeviceError(f"the FLOPs of {type(module).__name__} cannot be counted: {error}") from error


def _count(module: nn.Module, inputs: Sequence[Tensor]) -> Count:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module.eval()
    sizes: list[int] = []
    for child in module.modules():
        if not list(child.children()):
            child.register_forward_hook(_record_bytes(sizes))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _plain_operators(module), counter:
        module(*inputs)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Count(counter.get_total_flops() // 2, params, sum(sizes))


@contextlib.contextmanager
def _plain_operators(module: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers in operators that the counter knows, in place of fused ones that it does not."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    recurrent = any(isinstance(child, torch.nn.RNNBase) for child in module.modules())
    mkldnn = torch.backends.mkldnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), mkldnn:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _record_bytes(sizes: list[int]) -> Callable[..., None]:
    from torch.utils._pytree import tree_leaves

    def hook(module: Any, arguments: Any, result: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(result) if hasattr(leaf, "element_size")]
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    return hook


def _meta_copy(module: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes but no data, so that a large network costs no memory."""
    import torch

    memo: dict[int, Any] = {}
    for child in module.modules():
        held = [*child._parameters.values(), *child._buffers.values(), *vars(child).values()]
        for tensor in held:
            if isinstance(tensor, torch.Tensor) and id(tensor) not in memo:
                empty = torch.empty_like(tensor.detach(), device="meta")
                parameter = isinstance(tensor, torch.nn.Parameter)
                memo[id(tensor)] = torch.nn.Parameter(empty, requires_grad=False) if parameter else empty
    return copy.deepcopy(module, memo)


def _real(tensor: Tensor) -> Tensor:
    import torch

    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.detach().clone()
