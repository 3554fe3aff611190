"""The table of operators: for each aten operator one small function that adds its ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...spaces.tracer import Node, Ref

if TYPE_CHECKING:
    from .builder import Builder

Handler = Callable[["Builder", Node], str | Sequence[str]]
H = TypeVar("H", bound=Callable[..., Any])


class Unsupported(Exception):
    """An emitter has no form for an operator, or for this use of it; the message names it."""


class Handlers(dict[str, H]):
    """aten name -> handler."""

    def add(self, *names: str) -> Callable[[H], H]:
        """Decorator: register a handler for these operators."""

        def register(handler: H) -> H:
            for name in names:
                self[name] = handler
            return handler

        return register


class Table(Handlers[Handler]):
    """Handlers of the ONNX emitter. A handler returns the name of its output, or the names of its outputs."""


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default)


def operand(b: Builder, arg: Ref | float | int | bool, dtype: str) -> str:
    """Name of a tensor, or of a scalar as a constant, in this dtype."""
    return b.cast(b.name(arg), b.dtype(arg), dtype) if isinstance(arg, Ref) else b.scalar(arg, dtype)


def pair(value: int | Sequence[int], n: int = 2) -> list[int]:
    """``n`` numbers from one, or from as many."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def axes_of(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Non-negative axes; all of them for None or none given."""
    if dims is None or dims == ():
        return list(range(rank))
    return sorted(dim % rank for dim in ([dims] if isinstance(dims, int) else dims)) if rank else []
