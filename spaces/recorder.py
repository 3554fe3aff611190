"""Writes down the operators of one run: tensors become values, writes become new values, views are followed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ..errors import HwnasError
from .graph import Graph, Node, Ref, Value

_PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})
_RENAMED = {  # in-place operators whose functional twin has another overload name
    "transpose_": "transpose.int",
    "pow_.Scalar": "pow.Tensor_Scalar",
    "pow_.Tensor": "pow.Tensor_Tensor",
    "float_power_.Scalar": "float_power.Tensor_Scalar",
    "float_power_.Tensor": "float_power.Tensor_Tensor",
    "floor_divide_.Tensor": "floor_divide",
}
_POINTWISE = frozenset(
    {"relu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "elu", "leaky_relu", "tanh", "mish"}
)
_RESHAPES = frozenset({"view", "_reshape_alias", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze"})


class Untraceable(HwnasError):
    """The module does something that a static graph cannot express; the message names the operator."""


@dataclass(frozen=True, slots=True)
class _Operator:
    """What must be known of an aten operator."""

    name: str  # the functional one: add.Tensor for add_.Tensor
    writes: bool
    writes_first_only: bool
    only_reshapes: bool  # in place, but without touching the elements
    is_view: bool
    random: bool
    reads_data: bool


@lru_cache(maxsize=4096)
def _operator(func: torch._ops.OpOverload) -> _Operator:
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    written = [i for i, arg in enumerate(schema.arguments) if arg.alias_info is not None and arg.alias_info.is_write]
    aliased = any(arg.alias_info is not None and not arg.alias_info.is_write for arg in schema.arguments)
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    if written == [0] and name.endswith("_"):
        name = _RENAMED.get(name + overload, name[:-1] + overload)
    else:
        name += overload
    tags = func.tags
    return _Operator(
        name=name,
        writes=bool(written),
        writes_first_only=written == [0],
        only_reshapes=torch.Tag.inplace_view in tags,
        is_view=aliased and not written,
        random=torch.Tag.nondeterministic_seeded in tags,
        reads_data=torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags,
    )


@dataclass(slots=True)
class _Binding:
    """The value that a tensor holds; stale after a write through another tensor that shares its memory."""

    tensor: weakref.ref[Tensor]
    value: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class _View:
    """How a tensor was derived from ``base``, whose memory it shares; ``args`` without ``base``."""

    tensor: weakref.ref[Tensor]
    base: Tensor
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class Recorder:
    """Runs operators and builds ``graph``; ``active`` holds the indices of the watched calls that are open."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.graph = Graph()
        self.active: list[int] = []
        self._dependent: set[int] = set()
        self._protected: set[int] = set()  # constants that belong to the module
        self._bindings: dict[int, _Binding] = {}
        self._views: dict[int, _View] = {}
        self._groups: dict[int, list[weakref.ref[Tensor]]] = {}  # storage -> tensors that share it through views
        for tensor in inputs:
            value = self._bind(tensor)
            self.graph.inputs.append(value)
            self._dependent.add(value.id)

    def finish(self, outputs: Sequence[Tensor]) -> Graph:
        graph = self.graph
        graph.outputs = [graph.values[self.value_of(tensor)] for tensor in outputs]
        graph.constants = {key: tensor.detach() for key, tensor in graph.constants.items()}
        return graph

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator and write it down."""
        operator = _operator(func)
        if operator.random:
            raise Untraceable(f"operator {func} draws random numbers, which a fixed graph cannot repeat")
        if operator.name.startswith("lift_fresh"):  # torch.tensor(...): a constant that the module may still write to
            result = func(*args, **kwargs)
            self.graph.constants[self._bind(result).id] = result.clone()
            return result
        call = (
            tuple([self._freeze(arg) for arg in args]),
            {name: self._freeze(arg) for name, arg in kwargs.items() if name not in _PLACEMENT},
        )
        if operator.reads_data:
            self._check_readable(func, operator, args)
        if operator.writes:
            return self._run_writing(func, operator, args, kwargs, call)
        if operator.name == "native_batch_norm" and args[5] and isinstance(args[3], Tensor):
            raise Untraceable(f"operator {func} updates the running statistics of a batch norm even in eval mode")
        result = _execute(func, operator, args, kwargs)
        outputs = [result] if isinstance(result, Tensor) else list(tensors_in(result))
        if outputs:
            self._record(operator.name, *call, outputs)
        if operator.is_view and args and isinstance(args[0], Tensor):
            self._note_views(operator.name, call, args[0], outputs)
        return result

    # -- values

    def value_of(self, tensor: Tensor) -> int:
        """Id of the value that ``tensor`` holds now; a tensor never seen before is a constant."""
        binding = self._bindings.get(id(tensor))
        if binding is None or binding.tensor() is not tensor:
            value = self._bind(tensor)
            self.graph.constants[value.id] = tensor  # which also keeps it alive, so that its identity stays unique
            self._protected.add(value.id)
            return value.id
        return self._derive_again(tensor) if binding.stale else binding.value

    def _bind(self, tensor: Tensor) -> Value:
        value = Value(len(self.graph.values), tuple(tensor.shape), str(tensor.dtype)[6:])
        self.graph.values[value.id] = value
        self._bindings[id(tensor)] = _Binding(weakref.ref(tensor), value.id)
        return value

    def _freeze(self, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return Ref(self.value_of(arg))
        if isinstance(arg, list | tuple):
            return tuple([self._freeze(item) for item in arg])
        return None if isinstance(arg, torch.device | torch.layout | torch.memory_format) else arg

    def _record(self, op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]) -> None:
        values = tuple([self._bind(tensor) for tensor in outputs])
        node = Node(op, args, kwargs, values, self.active[-1] if self.active else None)
        self.graph.nodes.append(node)
        if not self._dependent.isdisjoint(node.data_ids):
            self._dependent.update(value.id for value in values)

    def _check_readable(self, func: Any, operator: _Operator, args: tuple[Any, ...]) -> None:
        read = list(tensors_in(args))
        if operator.name == "index.Tensor":
            read = [tensor for tensor in read[1:] if tensor.dtype in (torch.bool, torch.uint8)]
        for tensor in read:
            if self.value_of(tensor) in self._dependent:
                raise Untraceable(f"operator {func} depends on the values of the input, not on its shape alone")
            if tensor.is_meta:
                raise Untraceable(f"operator {func} needs values, but its tensor is on the meta device and has none")

    # -- writes

    def _run_writing(
        self, func: Any, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any], call: Any
    ) -> Any:
        target = args[0] if args else None
        if not operator.writes_first_only or not isinstance(target, Tensor):
            raise Untraceable(f"operator {func} writes into its arguments in a way that cannot be followed")
        self._prepare_write(func, target)
        result = _execute(func, operator, args, kwargs)
        self._record(operator.name, call[0], call[1], [target])
        if not operator.only_reshapes:
            self._spread(target)
        return result

    def _prepare_write(self, func: Any, target: Tensor) -> None:
        tensor: Tensor | None = target
        while tensor is not None:
            if self.value_of(tensor) in self._protected:
                raise Untraceable(f"operator {func} writes into a parameter or buffer of the module")
            view = self._view(tensor)
            tensor = view.base if view else None

    def _view(self, tensor: Tensor) -> _View | None:
        view = self._views.get(id(tensor))
        return view if view is not None and view.tensor() is tensor else None

    def _note_views(self, op: str, call: Any, base: Tensor, outputs: Sequence[Tensor]) -> None:
        group = self._groups.setdefault(base.untyped_storage()._cdata, [])
        group.append(weakref.ref(base))
        args, kwargs = call
        for position, tensor in enumerate(outputs):
            if tensor is not base:
                name, rest, options = op, args[1:], kwargs
                if op.startswith(("split", "unbind")):
                    name, rest, options = *_piece(op, args, kwargs, position, outputs), {}
                forget = partial(self._forget_view, id(tensor))
                self._views[id(tensor)] = _View(weakref.ref(tensor, forget), base, name, rest, options)
                group.append(weakref.ref(tensor))

    def _forget_view(self, key: int, _: weakref.ref[Tensor]) -> None:
        self._views.pop(key, None)

    def _spread(self, target: Tensor) -> None:
        """After a write into ``target``: the tensors it is a view of get new values, other sharers become stale."""
        for ref in self._groups.get(target.untyped_storage()._cdata, ()):
            tensor = ref()
            if tensor is not None and tensor is not target:
                self._bindings[id(tensor)].stale = True
        view = self._view(target)
        while view is not None:
            base = view.base
            undone = _undo(view, Ref(self._bindings[id(target)].value), Ref(self._bindings[id(base)].value))
            if undone is None:
                break
            self._record(undone[0], undone[1], {}, [base])
            target, view = base, self._view(base)

    def _derive_again(self, tensor: Tensor) -> int:
        view = self._view(tensor)
        if view is None:
            raise Untraceable("a tensor is read after a write into another one that shares its memory")
        self._record(view.op, (Ref(self.value_of(view.base)), *view.args), view.kwargs, [tensor])
        return self._bindings[id(tensor)].value


def _execute(func: Any, operator: _Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the operator; on meta, where torch's shape functions for these few take 0.2-0.7 ms each, by a shortcut."""
    x = args[0] if args else None
    if isinstance(x, Tensor) and x.is_meta and x.is_floating_point():
        if operator.name in _POINTWISE:
            return x if operator.writes else torch.empty_like(x)
        if operator.name == "native_batch_norm" and not args[5] and x.dim() > 1 and args[3].shape == x.shape[1:2]:
            return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    return func(*args, **kwargs)


def tensors_in(item: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings, in order."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from tensors_in(part)
    elif isinstance(item, list | tuple):
        for part in item:
            yield from tensors_in(part)


def _piece(
    op: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, outputs: Sequence[Tensor]
) -> tuple[str, tuple[Any, ...]]:
    """One output of a split or unbind as the view of its own that it is: a slice or a selection."""
    if op.startswith("unbind"):
        return "select.int", (kwargs.get("dim", args[1] if len(args) > 1 else 0), position)
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    start = sum(tensor.shape[dim] for tensor in outputs[:position])
    return "slice.Tensor", (dim, start, start + outputs[position].shape[dim], 1)


def _undo(view: _View, new: Ref, base: Ref) -> tuple[str, tuple[Any, ...]] | None:
    """The operator that puts ``new`` back in the place in ``base`` that the view showed; None where there is none."""
    shape = tuple(view.base.shape)
    if view.op == "slice.Tensor":
        return "slice_scatter", (base, new, *view.args)
    if view.op == "select.int":
        return "select_scatter", (base, new, *view.args)
    if view.op in _RESHAPES:
        return "view", (new, shape)
    if view.op in ("transpose.int", "t"):
        return view.op, (new, *view.args)
    if view.op == "permute":
        order = [dim % len(shape) for dim in view.args[0]]
        return "permute", (new, tuple(order.index(dim) for dim in range(len(order))))
    return ("alias", (new,)) if view.op in ("alias", "detach") else None
