"""Traces a module to a short list of aten operators with shapes; on meta tensors as well as on real ones.

One front end for discovery (which candidate sees which shapes) and for lowering (what to emit): a dispatch mode records
every operator below autograd, where torch itself has already decomposed the composite ones. Writes into tensors are
turned into new values and their views followed, in the way of torch's functionalisation.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from .graph import Call, Graph, Node, Ref, Value
from .recorder import Recorder, Untraceable, tensors_in

__all__ = ["Call", "Graph", "Node", "Ref", "Untraceable", "Value", "evaluating", "tensors_in", "trace"]


def trace(module: nn.Module, inputs: Sequence[Tensor], *, watch: Mapping[str, nn.Module] | None = None) -> Graph:
    """Run ``module(*inputs)`` once in eval mode without gradients and record its operators.

    Args:
        module: any module; its training flags are restored afterwards and its statistics not touched.
        inputs: example inputs (copied before the run), all meta or all real.
        watch: path -> submodule whose calls are recorded in ``Graph.calls``.

    Raises:
        Untraceable: random or data-dependent operators, or writes into parameters or buffers.
        Exception: whatever the module's own ``forward`` raises, unchanged.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(module))
        stack.enter_context(_plain_attention(module))
        copies = [tensor.detach().clone() for tensor in inputs]
        recorder = Recorder(copies)
        watcher = _Watcher(recorder)
        for path, submodule in (watch or {}).items():
            watcher.attach(path, submodule, stack)
        with _Mode(recorder):
            result = module(*copies)
        return recorder.finish(list(tensors_in(result)))


class _Mode(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.recorder.run(func, args, kwargs or {})


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode; every part's own training flag is restored afterwards."""
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True


@contextlib.contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers in plain operators, the same on every device."""
    recurrent = any(isinstance(child, nn.RNNBase) for child in module.modules())
    fast_path = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.flags warns of Intel GPUs on every use
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if recurrent:
            torch._C._set_mkldnn_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(mkldnn)


class _Watcher:
    """Hooks on the watched modules; each call becomes an entry of ``Graph.calls``."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.counts: Counter[str] = Counter()

    def attach(self, path: str, module: nn.Module, stack: contextlib.ExitStack) -> None:
        before = module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True)
        stack.callback(before.remove)
        after = module.register_forward_hook(partial(self._leave, path), with_kwargs=True)
        stack.callback(after.remove)

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder = self.recorder
        ids = tuple(recorder.value_of(tensor) for tensor in tensors_in((args, kwargs)))
        parent = recorder.active[-1] if recorder.active else None
        recorder.active.append(len(recorder.graph.calls))
        recorder.graph.calls.append(Call(path, self.counts[path], parent, ids, ()))
        self.counts[path] += 1

    def _leave(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        recorder = self.recorder
        index = recorder.active.pop()
        while recorder.graph.calls[index].path != path:  # the user's code caught an exception of an inner module
            index = recorder.active.pop()
        call = recorder.graph.calls[index]
        ids = tuple(recorder.value_of(tensor) for tensor in tensors_in(result))
        recorder.graph.calls[index] = Call(call.path, call.index, call.parent, call.inputs, ids)
