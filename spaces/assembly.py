"""The plain network of an architecture: a supernet's modules with every choice replaced by what was chosen."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from .choices import ChosenInputs, InputChoice, LayerChoice
from .structure import holds_choice


def replace_choices(supernet: nn.Module, chosen: Mapping[nn.Module, int], *, copied: bool) -> nn.Module:
    """The plain network in which every choice is replaced by its chosen candidate.

    Args:
        chosen: choice module -> candidate number.
        copied: False: modules are shared with the supernet; True: everything is the caller's own.
    """
    plain = _Replacing(chosen).module(supernet)
    return copy.deepcopy(plain) if copied else plain


class _Replacing:
    """Modules that hold choices become new ones of the same class; all others stay themselves."""

    def __init__(self, chosen: Mapping[nn.Module, int]) -> None:
        self.chosen = chosen
        self.done: dict[nn.Module, nn.Module] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if module in self.done:
            return self.done[module]
        if isinstance(module, LayerChoice):
            self.done[module] = self.module(module[self.chosen[module]])
        elif isinstance(module, InputChoice):
            self.done[module] = ChosenInputs(module.subsets[self.chosen[module]], module.reduction)
        elif not holds_choice(module):
            self.done[module] = module
        else:
            self._shell(module)
        return self.done[module]

    def _shell(self, module: nn.Module) -> None:
        shell = self.done[module] = module.__new__(type(module))
        shell.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
        for name, child in module._modules.items():
            shell._modules[name] = None if child is None else self.module(child)
        for name, value in module.__dict__.items():
            if name != "_modules":
                shell.__dict__[name] = self._attribute(value, shell.__dict__[name])

    def _attribute(self, value: Any, otherwise: Any) -> Any:
        """A plain attribute may hold modules, too: a list of the blocks, a method kept as a function."""
        if isinstance(value, nn.Module):
            return self.module(value) if all(choice in self.chosen for choice in _choices(value)) else value
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self._attribute(value.__self__, value.__self__))
        if type(value) is partial:
            arguments, named = self._attribute(value.args, value.args), self._attribute(value.keywords, value.keywords)
            return partial(self._attribute(value.func, value.func), *arguments, **named)
        if type(value) in (list, tuple):
            return type(value)(self._attribute(item, item) for item in value)
        if type(value) is dict:
            return {name: self._attribute(item, item) for name, item in value.items()}
        return otherwise


def _choices(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, LayerChoice | InputChoice)]
