"""`lower`: one module at its example inputs -> one artifact, by an emitter of ours or by an exporter, verified."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...devices.data import Artifact, TensorSpec
from ...errors import HwnasError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...spaces.tracer import Graph

EXPORTERS = {"onnx": "torch.onnx", "tflite": "litert-torch", "aten": "", "ops": ""}
FORMATS = tuple(EXPORTERS)
ROUTES = ("auto", "emitter", "torch.onnx", "litert-torch")


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
        format: "onnx", "tflite" (tensors of four dimensions have their channels last there, at the model's inputs and
            outputs too), "aten" (what PyTorch runs on a GPU: its own operators), or "ops" (JSON: operators with shapes
            and MACs, no weights).
        watch: path -> submodule; ``Artifact.owners`` maps the model's tensors to these paths' calls ("path#index").
        route: "emitter" (this package's own, a few ms per operator), the format's exporter (seconds): "torch.onnx"
            (dynamo) or "litert-torch" (if installed), or "auto": the first, and the second for what the first does
            not cover or gets wrong.
        verify: compare with torch, run by onnxruntime, LiteRT or operator by operator on random inputs, to 1e-4 (ONNX,
            aten) or 1e-5 (TFLite) of the largest element.

    Raises:
        LoweringError: neither route can express the module, or the result differs from torch.
        ValueError: unknown format or route, or the exporter of another format.
        Exception: whatever the module's own ``forward`` raises on these inputs, unchanged.
    """
    if format not in FORMATS or route not in ROUTES:
        raise ValueError(f"format must be one of {FORMATS} and route one of {ROUTES}, not {format!r} and {route!r}")
    if route not in ("auto", "emitter", EXPORTERS[format]) and EXPORTERS[format]:
        raise ValueError(f"the route to {format} is emitter or {EXPORTERS[format]}, not {route}")
    job = _job(module, inputs, watch or {}, verify, format)
    if format == "ops":
        return _lower_to_ops(job)
    if format == "aten":
        return _lower_to_aten(job)
    if route == EXPORTERS[format]:
        return _export(job, "")
    result = _emit(job)
    if isinstance(result, Artifact):
        return result
    if route == "emitter":
        raise LoweringError(f"{job.name} cannot be lowered by the emitter: {result}{_hint(format)}")
    return _export(job, result)


def _hint(format: str) -> str:
    """What else would lower to a format, where it is not installed."""
    if format != "tflite":
        return ""
    from .tflite.export import HINT, is_installed

    return "" if is_installed() else f"; litert-torch covers more ({HINT})"


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


def _specs(inputs: Sequence[Tensor], format: str) -> tuple[TensorSpec, ...]:
    specs = []
    for i, tensor in enumerate(inputs):
        integral = not tensor.is_floating_point() and not tensor.is_meta and tensor.numel() > 0
        high = int(tensor.max()) + 1 if integral else 1
        shape = tuple(tensor.shape)
        if format == "tflite":
            from .tflite.layout import at_the_border, stored

            shape = stored(shape, at_the_border(len(shape)))
        specs.append(TensorSpec(f"input_{i}", shape, str(tensor.dtype)[6:], high))
    return tuple(specs)


@dataclass(frozen=True)
class _Job:
    """One request, and the simplified graph of its module; None with the reason where it cannot be traced."""

    module: nn.Module
    inputs: Sequence[Tensor]
    watch: Mapping[str, nn.Module]
    verify: bool
    format: str
    graph: Graph | None
    untraceable: str

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def exporter(self) -> str:
        return EXPORTERS[self.format]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return _specs(self.inputs, self.format)

    def artifact(self, data: bytes, route: str, owners: Mapping[str, str]) -> Artifact:
        digest = hashlib.sha256(data).hexdigest() if self.graph is None else self.graph.digest()
        return Artifact(self.format, data, self.specs, digest, route, owners)

    def wrong(self, model: bytes) -> str | None:
        """What is wrong with a model; None if it agrees with torch or was not to be compared."""
        from .verify import difference

        return difference(self.module, self.inputs, model, self.format) if self.verify else None


def _job(
    module: nn.Module, inputs: Sequence[Tensor], watch: Mapping[str, nn.Module], verify: bool, format: str
) -> _Job:
    from ...spaces.tracer import Untraceable, trace

    try:
        graph = trace(module, inputs, watch=watch).simplified()
    except Untraceable as error:
        return _Job(module, inputs, watch, verify, format, None, str(error))
    return _Job(module, inputs, watch, verify, format, graph, "")


def _lower_to_ops(job: _Job) -> Artifact:
    from ...devices.data import DeviceError
    from .ops import describe

    try:
        return job.artifact(describe(job.module, job.inputs, job.graph), "ops", {})
    except DeviceError as error:
        raise LoweringError(f"{error}; {job.untraceable}" if job.untraceable else str(error)) from error


def _lower_to_aten(job: _Job) -> Artifact:
    from .aten import emit

    if job.graph is None:
        raise LoweringError(f"{job.name} cannot be lowered: {job.untraceable}")
    data = emit(job.graph)
    wrong = job.wrong(data)
    if wrong is not None:
        raise LoweringError(f"{job.name} comes out wrong: {wrong}")
    return job.artifact(data, "aten", {})


def _emit(job: _Job) -> Artifact | str:
    """The emitter's artifact, or why there is none."""
    from .operators import Unsupported

    if job.graph is None:
        return job.untraceable
    try:
        data, owners = _emitted(job.graph, job.format)
    except Unsupported as error:
        return f"it has no {'ONNX' if job.format == 'onnx' else 'TFLite'} form for {error}"
    return job.wrong(data) or job.artifact(data, "emitter", owners)


def _emitted(graph: Graph, format: str) -> tuple[bytes, Mapping[str, str]]:
    if format == "tflite":
        from .tflite.emitter import emit as emit_tflite

        return emit_tflite(graph)
    from .emitter import emit

    model, owners = emit(graph)
    return model.SerializeToString(), owners


def _export(job: _Job, refused: str) -> Artifact:
    """The artifact of the format's exporter; ``refused`` is why the emitter gave none, if it was asked."""
    from .exporting import ExportFailed

    try:
        data, owners = _exported(job)
    except ExportFailed as error:
        by_emitter = f"by the emitter: {refused}; nor " if refused else ""
        raise LoweringError(f"{job.name} cannot be lowered {by_emitter}by {job.exporter}: {error}") from error
    wrong = job.wrong(data)
    if wrong is not None:
        by_emitter = f" (by the emitter not at all: {refused})" if refused else ""
        raise LoweringError(f"{job.name} comes out wrong from {job.exporter}{by_emitter}: {wrong}")
    return job.artifact(data, job.exporter, owners)


def _exported(job: _Job) -> tuple[bytes, Mapping[str, str]]:
    if job.format == "tflite":
        from .tflite.export import export as export_tflite

        return export_tflite(job.module, job.inputs), {}
    from .export import export

    return export(job.module, job.inputs, [spec.name for spec in job.specs], job.watch)
