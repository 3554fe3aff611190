"""Where a network may differ: `LayerChoice` (operators) and `InputChoice` (subsets of inputs).

The signatures are those of NNI, so that a model ports by changing an import. Which candidate runs travels in an
explicit context (`active`), never in module state, so that two searches can share a process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..errors import HwnasError

Reduction = Literal["sum", "mean", "concat", "none"]


MOST_CANDIDATES = 2**15 - 1
"""What the integer encoding of architectures can number."""


class ChoiceError(HwnasError):
    """A choice that is declared or called wrongly."""


class ChoiceContext(Protocol):
    """What decides, while it is active, how a choice that is reached computes its output."""

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Output of `choice` on these arguments."""

    def inputs(self, choice: InputChoice, tensors: Sequence[Tensor]) -> Any:
        """Output of `choice` on this list of tensors."""


Candidates = Sequence[nn.Module] | Mapping[str, nn.Module] | nn.ModuleList | nn.ModuleDict

_context: ContextVar[ChoiceContext | None] = ContextVar("hwnas_choices", default=None)


@contextmanager
def active(context: ChoiceContext) -> Iterator[None]:
    """Let `context` decide every choice that is reached inside the `with` block, in this thread only."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


class LayerChoice(nn.Module):
    """One of several operators.

    Args:
        candidates: the operators, by name or in order (then named "0", "1", ...). Any modules: several inputs, any
            outputs, choices of their own.
        label: choices with the same label share one decision; without one, a choice is its own.

    Called outside any context it runs its first candidate, so that a supernet can be tried like any module.

    Attributes:
        names: of the candidates.
        child_names: under which they are registered as submodules: the same, save for "conv1.5" or "double".
    """

    def __init__(self, candidates: Candidates, *, label: str | None = None) -> None:
        super().__init__()
        if isinstance(candidates, Mapping | nn.ModuleDict):
            named = dict(candidates.items())
        else:
            named = {str(i): module for i, module in enumerate(candidates)}
        if not named:
            raise ChoiceError("LayerChoice got no candidates; give it at least one module")
        self.label = _checked_label(label)
        self.names: tuple[str, ...] = tuple(named)
        self.child_names: tuple[str, ...] = ()  # set before children are added, whose names must not be this one
        for name, module in named.items():
            if not isinstance(module, nn.Module):
                raise ChoiceError(f"LayerChoice candidate {name!r} is a {type(module).__name__}, not an nn.Module")
            if not isinstance(name, str) or not name:
                raise ChoiceError(f"LayerChoice candidate name {name!r} is not a text; choose another one")
            self.add_module(self._free_child_name(name), module)
        self.child_names = tuple(self._modules)

    def __getitem__(self, name: str | int) -> nn.Module:
        return self._candidate(self.names[name] if isinstance(name, int) else name)

    def __len__(self) -> int:
        return len(self.names)

    def _candidate(self, name: str) -> nn.Module:
        if name not in self.names:
            raise ChoiceError(f"LayerChoice has no candidate {name!r}; it has {', '.join(self.names)}")
        return self.get_submodule(self.child_names[self.names.index(name)])

    def _free_child_name(self, name: str) -> str:
        """Under which the candidate is registered: its own name, or near it where a module cannot have such a child."""
        name = name.replace(".", "_")
        while hasattr(self, name):
            name += "_"
        return name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        context = _context.get()
        if context is None:
            return self[0](*args, **kwargs)
        return context.layer(self, args, kwargs)

    def extra_repr(self) -> str:
        return f"label={self.label!r}" if self.label else ""


class InputChoice(nn.Module):
    """A subset of several inputs, reduced to one.

    Args:
        n_candidates: how many tensors the list holds that the choice is called with.
        n_chosen: how many of them are used; None: any number from one to all.
        reduction: "sum", "mean", "concat" (along dimension 1) or "none" (the list of the chosen).
        label: choices with the same label share one decision.

    It is categorical over `subsets`, in lexicographic order (for None: by size first). Called outside any context it
    uses the first subset.
    """

    def __init__(
        self,
        n_candidates: int,
        n_chosen: int | None = 1,
        reduction: Reduction = "sum",
        *,
        label: str | None = None,
    ) -> None:
        super().__init__()
        if n_candidates < 1 or (n_chosen is not None and not 1 <= n_chosen <= n_candidates):
            raise ChoiceError(f"InputChoice cannot choose {n_chosen} of {n_candidates} inputs")
        sizes = range(1, n_candidates + 1) if n_chosen is None else (n_chosen,)
        count = sum(math.comb(n_candidates, size) for size in sizes)
        if count > MOST_CANDIDATES:
            raise ChoiceError(
                f"InputChoice of {n_candidates} inputs has {count:.3g} subsets; at most {MOST_CANDIDATES}"
            )
        if reduction not in ("sum", "mean", "concat", "none"):
            raise ChoiceError(f"InputChoice reduction {reduction!r} is unknown; use sum, mean, concat or none")
        self.n_candidates = n_candidates
        self.n_chosen = n_chosen
        self.reduction: Reduction = reduction
        self.label = _checked_label(label)
        self.subsets: tuple[tuple[int, ...], ...] = tuple(
            subset for size in sizes for subset in itertools.combinations(range(n_candidates), size)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The subsets as text: "0,2"."""
        return tuple(",".join(map(str, subset)) for subset in self.subsets)

    def forward(self, tensors: Sequence[Tensor]) -> Any:
        if len(tensors) != self.n_candidates:
            raise ChoiceError(f"InputChoice of {self.n_candidates} inputs was called with {len(tensors)}")
        context = _context.get()
        if context is None:
            return reduce_inputs([tensors[i] for i in self.subsets[0]], self.reduction)
        return context.inputs(self, tensors)

    def extra_repr(self) -> str:
        return f"{self.n_candidates}, n_chosen={self.n_chosen}, reduction={self.reduction!r}, label={self.label!r}"


Choice = LayerChoice | InputChoice


def _checked_label(label: object) -> str | None:
    if label is not None and (not isinstance(label, str) or not label):
        raise ChoiceError(f"the label of a choice must be a text, not {label!r}")
    return label


class ChosenInputs(nn.Module):
    """What an `InputChoice` becomes in a built network: the same call, the subset fixed."""

    def __init__(self, indices: Sequence[int], reduction: Reduction) -> None:
        super().__init__()
        self.indices = tuple(indices)
        self.reduction: Reduction = reduction

    def forward(self, tensors: Sequence[Tensor]) -> Any:
        return reduce_inputs([tensors[i] for i in self.indices], self.reduction)

    def extra_repr(self) -> str:
        return f"{list(self.indices)}, reduction={self.reduction!r}"


def reduce_inputs(tensors: Sequence[Tensor], reduction: Reduction) -> Any:
    """Sum, mean or concatenation of `tensors`; a single one is passed through, "none" gives the list."""
    if reduction == "none":
        return list(tensors)
    if len(tensors) == 1:
        return tensors[0]
    if reduction == "concat":
        return torch.cat(list(tensors), dim=1)
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total / len(tensors) if reduction == "mean" else total


class Selection:
    """The context in which every choice uses one given candidate.

    Args:
        chosen: for each choice the index of its candidate (of its subset, for an `InputChoice`).
    """

    def __init__(self, chosen: Mapping[nn.Module, int]) -> None:
        self.chosen = chosen

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return choice[self.chosen[choice]](*args, **kwargs)

    def inputs(self, choice: InputChoice, tensors: Sequence[Tensor]) -> Any:
        return reduce_inputs([tensors[i] for i in choice.subsets[self.chosen[choice]]], choice.reduction)
