"""torch's own ONNX exporter, for what the emitter does not cover; quiet."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping, Sequence

import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn

from ...spaces.tracer import evaluating
from .exporting import ExportFailed, quiet, reason

_SCOPES = "pkg.torch.onnx.name_scopes"


def export(
    module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], watch: Mapping[str, nn.Module]
) -> tuple[bytes, Mapping[str, str]]:
    """An ONNX model by ``torch.onnx.export(dynamo=True)``, and the owners of its tensors.

    The exporter knows in which module a node lies but not in which of its calls: all count as the first ("path#0").

    Raises:
        ExportFailed: whatever went wrong in the exporter.
    """
    example = tuple(tensor.detach().clone() for tensor in inputs)
    try:
        with quiet(), torch.no_grad(), evaluating(module):
            program = torch.onnx.export(module, example, dynamo=True, input_names=list(names))
            assert program is not None
            model = program.model_proto
    except Exception as error:  # the exporter raises what the torch.export, onnxscript and user code below it raise
        raise ExportFailed(reason(error)) from error
    owners = _owners(model, _paths(module, watch))
    for node in model.graph.node:  # stack traces, with the paths of the user's files
        del node.metadata_props[:]
    return model.SerializeToString(), owners


def _paths(module: nn.Module, watch: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name of a watched module inside ``module`` -> its path in ``watch``."""
    by_identity = {id(submodule): path for path, submodule in watch.items()}
    return {name: by_identity[id(child)] for name, child in module.named_modules() if id(child) in by_identity}


def _owners(model: ModelProto, paths: Mapping[str, str]) -> dict[str, str]:
    owners = {}
    for node in model.graph.node:
        inside = [paths[scope] for scope in _scopes(node) if scope in paths]
        owner = f"{inside[-1]}#0" if inside else ""
        owners.update(dict.fromkeys(node.output, owner))
    return owners


def _scopes(node: NodeProto) -> list[str]:
    """Names of the modules around a node, outermost first."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            with contextlib.suppress(ValueError, SyntaxError):
                return [str(scope) for scope in ast.literal_eval(entry.value)]
    return []
