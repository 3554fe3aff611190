"""Reading TFLite files in tests."""

from __future__ import annotations

from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from hwnas.profiler.lowering import lower, randomise_batch_norms
from torch import Tensor, nn

_KINDS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}


def parsed(data: bytes) -> Any:
    """The whole file as the schema's plain objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))


def kinds(data: bytes) -> list[str]:
    """The operators in the order in which they run."""
    model = parsed(data)
    return [_KINDS[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def versions(data: bytes) -> dict[str, int]:
    """The version of each kind of operator."""
    return {_KINDS[code.builtinCode]: code.version for code in parsed(data).operatorCodes}


def emitted(module: nn.Module, *inputs: Tensor) -> bytes:
    """The file from the emitter, which was compared with torch."""
    randomise_batch_norms(module)
    return lower(module, inputs, format="tflite", route="emitter").data


def run(data: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs, by the signature's names."""
    runner = Interpreter(model_content=data, num_threads=1).get_signature_runner("serving_default")
    found = runner(**{f"input_{i}": array for i, array in enumerate(inputs)})
    return [found[f"output_{i}"] for i in range(len(found))]
