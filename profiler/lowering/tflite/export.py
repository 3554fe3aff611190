"""Google's litert-torch, for what the emitter does not cover; quiet, and an optional install."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....spaces.tracer import evaluating, tensors_in
from ..exporting import ExportFailed, quiet, reason, without_native_output
from .writer import SIGNATURE, AlignedBuilder

HINT = "pip install litert-torch"


def is_installed() -> bool:
    """Whether litert-torch can be imported; it is not imported by asking."""
    return importlib.util.find_spec("litert_torch") is not None


def export(module: nn.Module, inputs: Sequence[Tensor]) -> bytes:
    """A TFLite model by litert-torch: four-dimensional in- and outputs channels last, named as the emitter names them.

    Raises:
        ExportFailed: it is not installed, or whatever went wrong in it.
    """
    if not is_installed():
        raise ExportFailed(f"it is not installed ({HINT})")
    example = tuple(tensor.detach().clone() for tensor in inputs)
    try:
        with quiet(), without_native_output(), torch.no_grad(), evaluating(module):
            return renamed(_converted(module, example))
    except Exception as error:  # the converter raises what torch.export, MLIR and user code below it raise
        raise ExportFailed(reason(error)) from error


def _converted(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    import litert_torch

    outputs = list(tensors_in(module(*(tensor.clone() for tensor in inputs))))
    args = [i for i, tensor in enumerate(inputs) if tensor.dim() == 4]
    results = [i for i, tensor in enumerate(outputs) if tensor.dim() == 4]
    given = tuple(tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor for tensor in inputs)
    if args or results:
        module = litert_torch.to_channel_last_io(module, args=args, outputs=results)
    model = litert_torch.convert(module.eval(), given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        model.export(str(path))
        return path.read_bytes()


def renamed(data: bytes) -> bytes:
    """The model with the signature that the emitter gives: ``serving_default``, ``input_i`` and ``output_i``."""
    import ai_edge_litert.schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    signature = model.signatureDefs[0]
    signature.signatureKey = SIGNATURE.encode()
    graph = model.subgraphs[signature.subgraphIndex]
    for kind, named, tensors in (
        ("input", signature.inputs, graph.inputs),
        ("output", signature.outputs, graph.outputs),
    ):
        places = {int(tensor): place for place, tensor in enumerate(tensors)}
        for each in named:
            each.name = f"{kind}_{places[each.tensorIndex]}".encode()
    builder = AlignedBuilder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
