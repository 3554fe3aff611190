"""`lower`: one module at its example inputs -> one artifact, by the emitter or by torch's exporter, verified."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...devices.data import Artifact, TensorSpec
from ...errors import HwnasError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...spaces.tracer import Graph

FORMATS = ("onnx", "ops")
ROUTES = ("auto", "emitter", "torch.onnx")


class LoweringError(HwnasError):
    """A module that cannot be lowered; the message names the operator or the reason."""


def lower(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *,
    format: str = "onnx",
    watch: Mapping[str, nn.Module] | None = None,
    route: str = "auto",
    verify: bool = True,
) -> Artifact:
    """Lower ``module`` as called with ``inputs``.

    Args:
        module: a plain module with real weights; run in eval mode, left as it was.
        inputs: example inputs, batch included, on the CPU. Integers are later drawn from [0, max of the example].
        format: "onnx", or "ops" (JSON: operators with shapes and MACs, no weights).
        watch: path -> submodule; ``Artifact.owners`` maps the model's tensors to these paths' calls ("path#index").
        route: "emitter" (this package's own, a few ms per operator), "torch.onnx" (dynamo, seconds), or "auto": the
            first, and the second for what the first does not cover or gets wrong.
        verify: compare with torch, run by onnxruntime on random inputs, to 1e-4 of the largest element.

    Raises:
        LoweringError: neither route can express the module, or the result differs from torch.
        ValueError: unknown format or route.
        Exception: whatever the module's own ``forward`` raises on these inputs, unchanged.
    """
    if format not in FORMATS or route not in ROUTES:
        raise ValueError(f"format must be one of {FORMATS} and route one of {ROUTES}, not {format!r} and {route!r}")
    specs = _specs(inputs)
    graph, reason = _traced(module, inputs, watch or {})
    if format == "ops":
        return _lower_to_ops(module, inputs, specs, graph, reason)
    if route != "torch.onnx":
        result = _try_emitter(module, inputs, specs, graph, reason, verify)
        if isinstance(result, Artifact):
            return result
        reason = result
        if route == "emitter":
            raise LoweringError(f"{type(module).__name__} cannot be lowered by the emitter: {reason}")
    return _export(module, inputs, specs, watch or {}, graph, reason, verify)


def randomise_batch_norms(module: nn.Module, seed: int = 0) -> None:
    """Give every batch norm statistics and parameters as after training, in place.

    On fresh ones (mean 0, variance 1, bias 0) runtimes drop the zero bias, and the times are not a trained net's.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    ranges = {"running_mean": (-0.1, 0.1), "running_var": (0.8, 1.2), "weight": (0.8, 1.2), "bias": (-0.1, 0.1)}
    with torch.no_grad():
        for child in module.modules():
            if not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            for name, (low, high) in ranges.items():
                tensor = getattr(child, name)
                if tensor is not None and not tensor.is_meta:
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)


def _specs(inputs: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    specs = []
    for i, tensor in enumerate(inputs):
        integral = not tensor.is_floating_point() and not tensor.is_meta and tensor.numel() > 0
        high = int(tensor.max()) + 1 if integral else 1
        specs.append(TensorSpec(f"input_{i}", tuple(tensor.shape), str(tensor.dtype)[6:], high))
    return tuple(specs)


def _traced(module: nn.Module, inputs: Sequence[Tensor], watch: Mapping[str, nn.Module]) -> tuple[Graph | None, str]:
    """The simplified graph, or None and why there is none."""
    from ...spaces.tracer import Untraceable, trace

    try:
        return trace(module, inputs, watch=watch).simplified(), ""
    except Untraceable as error:
        return None, str(error)


def _lower_to_ops(
    module: nn.Module, inputs: Sequence[Tensor], specs: tuple[TensorSpec, ...], graph: Graph | None, reason: str
) -> Artifact:
    from ...devices.data import DeviceError
    from .ops import describe

    try:
        data = describe(module, inputs, graph)
    except DeviceError as error:
        raise LoweringError(f"{error}; {reason}" if reason else str(error)) from error
    return Artifact("ops", data, specs, _digest(graph, data), "ops")


def _try_emitter(
    module: nn.Module,
    inputs: Sequence[Tensor],
    specs: tuple[TensorSpec, ...],
    graph: Graph | None,
    reason: str,
    verify: bool,
) -> Artifact | str:
    """The emitter's artifact, or why there is none."""
    if graph is None:
        return reason
    from .emitter import Unsupported, emit
    from .verify import difference

    try:
        model, owners = emit(graph)
    except Unsupported as error:
        return f"{error} has no ONNX form in the emitter"
    data = model.SerializeToString()
    wrong = difference(module, inputs, data) if verify else None
    if wrong is not None:
        return wrong
    return Artifact("onnx", data, specs, graph.digest(), "emitter", owners)


def _export(
    module: nn.Module, inputs: Sequence[Tensor], specs: tuple[TensorSpec, ...], watch: Mapping[str, nn.Module],
    graph: Graph | None, reason: str, verify: bool,
) -> Artifact:  # fmt: skip
    from .export import ExportFailed, export
    from .verify import difference

    name = type(module).__name__
    because = f" (and the emitter not: {reason})" if reason else ""
    try:
        data, owners = export(module, inputs, [spec.name for spec in specs], watch)
    except ExportFailed as error:
        raise LoweringError(
            f"{name} cannot be lowered: {reason or 'asked for torch.onnx'}; torch.onnx: {error}"
        ) from error
    wrong = difference(module, inputs, data) if verify else None
    if wrong is not None:
        raise LoweringError(f"{name}, lowered by torch.onnx{because}: {wrong}")
    return Artifact("onnx", data, specs, _digest(graph, data), "torch.onnx", owners)


def _digest(graph: Graph | None, data: bytes) -> str:
    return graph.digest() if graph is not None else hashlib.sha256(data).hexdigest()
