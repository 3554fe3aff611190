"""Where in a network a run failed, for the error's reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .choices import Selection, active
from .tracer import evaluating


def first_line(error: BaseException) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def locate_failure(network: nn.Module, inputs: Sequence[Tensor], chosen: Mapping[nn.Module, int]) -> str:
    """Run the network again and name the innermost module that fails, with what it was given."""
    inside: list[tuple[str, nn.Module, str]] = []

    def enter(path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes = ", ".join("x".join(map(str, a.shape)) for a in args if isinstance(a, Tensor))
        inside.append((path, module, shapes))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inside.pop()

    with ExitStack() as stack:
        for path, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(enter, path)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        for context in (active(Selection(chosen)), evaluating(network), torch.no_grad()):
            stack.enter_context(context)
        try:
            network(*(tensor.clone() for tensor in inputs))
        except Exception:  # the user's forward may raise anything; `inside` says where
            path, module, shapes = inside[-1]
            return f"module {path or 'the network itself'!r} ({type(module).__name__}) fails on {shapes or 'its input'}"
    return "the network fails while it is traced"
