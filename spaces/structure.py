"""The choices in a module tree: finding them, and tying them by label."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from .choices import Choice, InputChoice, LayerChoice
from .description import Decision, SpaceError


@dataclass(frozen=True)
class Structure:
    """What can be read off a supernet without running it.

    Attributes:
        decisions: in module order, tied choices as one.
        decision_of: choice module -> number of its decision.
        choices: path -> choice module.
        fixed: path -> largest modules that hold no choice and sit in no leaf candidate.
    """

    decisions: tuple[Decision, ...]
    decision_of: Mapping[nn.Module, int]
    choices: Mapping[str, Choice]
    fixed: Mapping[str, nn.Module]

    @cached_property
    def watched(self) -> Mapping[str, nn.Module]:
        """Path -> module of the choices and the fixed modules."""
        return {**self.choices, **self.fixed}

    def selection(self, codes: Mapping[int, int]) -> dict[nn.Module, int]:
        """choice module -> candidate number; decisions left out use their first candidate."""
        return {choice: codes.get(d, 0) for choice, d in self.decision_of.items()}


def holds_choice(module: nn.Module) -> bool:
    """Whether a choice is anywhere inside (or is the module itself)."""
    return any(isinstance(m, LayerChoice | InputChoice) for m in module.modules())


def read_structure(supernet: nn.Module, called: Collection[nn.Module] = ()) -> Structure:
    """Find the choices of a supernet.

    Args:
        supernet: any module.
        called: modules that a run has called; where the parts of a module are called without it, `fixed` has the parts.

    Raises:
        SpaceError: there is none, choices of the same label have different candidates, or one is inside the other.
    """
    found = list(_occurrences(supernet, "", ()))
    choices: dict[str, Choice] = {}
    paths: dict[nn.Module, str] = {}
    for path, choice, _ in found:
        if choice not in paths:
            paths[choice] = path
            choices[path] = choice
    if not choices:
        raise SpaceError("the network holds no LayerChoice and no InputChoice, so there is nothing to search")
    labels = {choice: choice.label or path for path, choice in choices.items()}
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels.values()))}
    reach: dict[str, dict[tuple[tuple[int, int], ...], None]] = {label: {} for label in numbers}
    for path, choice, inside in found:
        condition = tuple((numbers[labels[outer]], candidate) for outer, candidate in inside)
        if any(labels[outer] == labels[choice] for outer, _ in inside):
            raise SpaceError(
                f"choice {labels[choice]!r} is nested in itself at {path!r}: give the inner one another label"
            )
        reach[labels[choice]][condition] = None
    decisions = tuple(_decision(label, [c for c in labels if labels[c] == label], reach[label]) for label in numbers)
    fixed = {module: path for path, module in reversed(list(_fixed(supernet, "", frozenset(called))))}
    fixed_paths = {path: module for module, path in reversed(fixed.items())}
    return Structure(decisions, {c: numbers[labels[c]] for c in labels}, choices, fixed_paths)


def _decision(label: str, tied: list[nn.Module], reach: Mapping[tuple[tuple[int, int], ...], None]) -> Decision:
    first = tied[0]
    assert isinstance(first, LayerChoice | InputChoice)
    for other in tied[1:]:
        assert isinstance(other, LayerChoice | InputChoice)
        if type(other) is not type(first) or other.names != first.names:
            raise SpaceError(
                f"choices of label {label!r} share one decision but differ: "
                f"{' | '.join(first.names)} and {' | '.join(other.names)}"
            )
    kind = "layer" if isinstance(first, LayerChoice) else "input"
    conditions: tuple[tuple[tuple[int, int], ...], ...] = ((),) if () in reach else tuple(reach)
    return Decision(label, kind, first.names, conditions)


Inside = tuple[tuple[LayerChoice, int], ...]


def _occurrences(module: nn.Module, path: str, inside: Inside) -> Iterator[tuple[str, Choice, Inside]]:
    """Every place a choice is registered at, with the enclosing choices and their candidates."""
    if isinstance(module, InputChoice | LayerChoice):
        yield path, module, inside
    for name, child in module._modules.items():
        if child is None:
            continue
        below = f"{path}.{name}" if path else name
        deeper = (*inside, (module, module.child_names.index(name))) if isinstance(module, LayerChoice) else inside
        yield from _occurrences(child, below, deeper)


def _fixed(module: nn.Module, path: str, called: Collection[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, InputChoice):
        return
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        only_parts = child not in called and any(part in called for part in child.modules())
        if holds_choice(child) or isinstance(child, nn.ModuleList | nn.ModuleDict) or only_parts:
            yield from _fixed(child, below, called)
        elif not isinstance(module, LayerChoice):
            yield below, child
