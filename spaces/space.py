"""`SearchSpace`: what may be chosen in a supernet, built from any module with choices in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache import Cache
from ..errors import HwnasError
from .architecture import Architecture
from .description import Decision, SpaceDescription, SpaceError, Workload
from .encoding import Codes, Encoding

if TYPE_CHECKING:
    from torch import Tensor, nn

DESCRIPTION_FORMAT = 3


class SearchSpace:
    """A search space.

    Args:
        factory: a callable that returns a supernet, or a module; what they give is copied, never changed.
        input_shape: shape of the input without batch; a tuple of shapes for several inputs.
        example_inputs: instead of `input_shape`, tensors with batch first: for token ids and other types. Those whose
            first dimension is not the first tensor's (a mask, a table of positions) are the same at every batch.
        name: the name that its architectures carry; by default the supernet's class.
        arguments: the parameters it was built with, for the record.
        cache_id: identifies factory, arguments and code of a built-in space, so that its description may be read from
            the cache (without importing torch).

    Raises:
        SpaceError: the supernet holds no choice, cannot run, or its candidates do not fit what follows. Raised when
            the description is first needed.
    """

    def __init__(
        self,
        factory: Callable[[], nn.Module] | nn.Module,
        input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        example_inputs: Tensor | Sequence[Tensor] | None = None,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        cache_id: str | None = None,
    ) -> None:
        if (input_shape is None) == (example_inputs is None):
            raise SpaceError("a search space needs either input_shape or example_inputs")
        if not callable(factory):
            raise SpaceError(f"a search space is built from a module or a function that returns one, not {factory!r}")
        self.factory = factory
        self.arguments = dict(arguments or {})
        self.input_shapes = None if input_shape is None else _shapes(input_shape)
        self.example_inputs = example_inputs
        self.cache_id = cache_id
        self.name = name or _default_name(factory)
        self._descriptions: dict[int, SpaceDescription] = {}

    # -- what it consists of

    @property
    def description(self) -> SpaceDescription:
        """The space as plain data, at batch 1."""
        return self.describe(1)

    def describe(self, batch: int = 1) -> SpaceDescription:
        """The space as plain data; the workloads' input shapes are for `batch`."""
        if batch not in self._descriptions:
            self._descriptions[batch] = self._cached(batch) or self._discover(batch)
        return self._descriptions[batch]

    @cached_property
    def fingerprint(self) -> str:
        """By which tables and predictors know the space again."""
        return self.description.fingerprint

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.description.decisions

    @cached_property
    def encoding(self) -> Encoding:
        return Encoding(self.name, self.decisions)

    @property
    def size(self) -> int:
        """The number of different architectures."""
        return self.encoding.size

    def workloads(self, batch: int = 1) -> list[Workload]:
        """Distinct workloads of the candidates, then of the fixed modules."""
        return list(self.describe(batch).workloads)

    # -- architectures

    def sample(
        self, n: int, rng: np.random.Generator, probabilities: Sequence[np.ndarray] | None = None
    ) -> list[Architecture]:
        """n architectures, uniform or with each decision drawn from its `probabilities`."""
        return self.decode(self.encoding.sample(n, rng, probabilities))

    def encode(self, architectures: Sequence[Architecture]) -> Codes:
        """(N, decisions) int16: candidate numbers, -1 where a choice is not reached; checks each architecture."""
        return self.encoding.encode(architectures)

    def decode(self, codes: np.ndarray) -> list[Architecture]:
        """The inverse of `encode`."""
        return self.encoding.decode(codes)

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture once; SpaceError where there are more than a million."""
        for block in self.encoding.enumerate():
            yield from self.decode(block)

    # -- modules

    def inputs(self, batch: int = 1) -> list[Tensor]:
        """Example inputs of the network: the given ones, or normal random numbers from a fixed seed."""
        import torch

        if self.input_shapes is not None:
            generator = torch.Generator().manual_seed(0)
            return [torch.randn(batch, *shape, generator=generator) for shape in self.input_shapes]
        given = self.example_inputs
        tensors = [given] if isinstance(given, torch.Tensor) else list(given or ())
        given_batch = tensors[0].shape[:1] if tensors else ()
        has_batch = [t.ndim > 0 and t.shape[:1] == given_batch and t.shape[0] != batch for t in tensors]
        return [torch.cat([t[:1]] * batch) if own else t for t, own in zip(tensors, has_batch, strict=True)]

    def supernet(self) -> nn.Module:
        """A new supernet, which shares nothing with others."""
        from torch import nn

        from .failures import first_line

        try:
            supernet = self.factory if isinstance(self.factory, nn.Module) else self.factory()
        except HwnasError:
            raise
        except Exception as error:  # the user's constructor may raise anything
            raise SpaceError(f"space {self.name!r}: its supernet cannot be built: {first_line(error)}") from error
        if not isinstance(supernet, nn.Module):
            raise SpaceError(f"space {self.name!r}: the factory returned a {type(supernet).__name__}, not an nn.Module")
        return supernet if self.cache_id is not None else self._own(supernet)

    def _own(self, supernet: nn.Module) -> nn.Module:
        """A copy: a factory may give what it gave before, or put it together from parts that outlive it."""
        import copy

        try:
            return copy.deepcopy(supernet)
        except Exception as error:  # of what a user's module holds anything may refuse to be copied
            if supernet is not self.factory:
                return supernet
            raise SpaceError(
                f"space {self.name!r}: its module cannot be copied, give a function that makes one: {error}"
            ) from error

    def build(self, architecture: Architecture, supernet: nn.Module | None = None) -> nn.Module:
        """The plain network of an architecture; no choice is left in it.

        Args:
            architecture: checked against the space.
            supernet: take a copy of its weights; without it the network is initialised afresh.
        """
        if supernet is None:
            return self.assemble(architecture, self.supernet(), copied=False)
        return self.assemble(architecture, supernet, copied=True)

    def assemble(self, architecture: Architecture, supernet: nn.Module, *, copied: bool) -> nn.Module:
        """As `build`, from this supernet's own modules; `copied=False` shares them."""
        from .assembly import replace_choices
        from .structure import read_structure

        row = self.encode([architecture])[0].tolist()
        chosen = read_structure(supernet).selection({i: c for i, c in enumerate(row) if c >= 0})
        return replace_choices(supernet, chosen, copied=copied)

    # -- inside

    def _discover(self, batch: int) -> SpaceDescription:
        from .discovery import discover

        description = discover(self.supernet, self.inputs(batch))
        if self.cache_id is not None:
            Cache().put_json("space", self._cache_key(batch), description.to_dict())
        return description

    def _cached(self, batch: int) -> SpaceDescription | None:
        if self.cache_id is None:
            return None
        data = Cache().get_json("space", self._cache_key(batch))
        try:
            return None if data is None else SpaceDescription.from_dict(data)
        except (KeyError, TypeError, ValueError):
            return None

    def _cache_key(self, batch: int) -> str:
        return json.dumps([DESCRIPTION_FORMAT, self.cache_id, batch])

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r})"


def _default_name(factory: Any) -> str:
    kind = type(factory)
    named = factory if hasattr(factory, "__name__") else kind
    name = str(named.__name__)
    return str(named.__qualname__).split(".")[0] if name == "<lambda>" else name  # the function that it is written in


def _shapes(shape: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    several = bool(shape) and all(isinstance(s, Sequence) for s in shape)
    shapes = tuple(tuple(s) for s in shape) if several else (tuple(shape),)
    if not all(isinstance(n, int) and n > 0 for s in shapes for n in s):
        raise SpaceError(f"input_shape {tuple(shape)!r} must hold positive whole numbers, without batch")
    return shapes
