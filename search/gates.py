"""Binary gates: the derivative of the loss with respect to which candidate of each choice is used.

With gates g the output of a choice is y = sum_i g_i o_i(x). On a path g is one-hot, so only the active candidate
counts, but dL/dg_i = <dL/dy, o_i(x)> is defined for all (ProxylessNAS, arXiv:1812.00332, section 3.1). Three ways:

- full: every candidate is run in the forward pass and kept;
- full_v2: only the active one is; the others are run, without graph and one at a time, when dL/dy is known;
- two: like full_v2, for one other candidate, the partner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import HwnasError
from ..spaces.choices import InputChoice, LayerChoice, active, reduce_inputs
from .gate_values import Derivative, Kept, is_gated, own_node, shapes_of
from .settings import GateMode
from .supernet import Supernet, call

Autocast = Callable[[], AbstractContextManager[Any]]


class GateError(HwnasError):
    """A choice whose gates have no derivative."""


@dataclass(frozen=True)
class GateRequest:
    """What to differentiate.

    Attributes:
        path: (decisions,) candidate numbers of the sampled path; those of unreached decisions count inside candidates
            that are only looked at.
        partner: mode "two": the other sampled candidate of each decision.
    """

    path: np.ndarray
    mode: GateMode = "full_v2"
    partner: np.ndarray | None = None


@dataclass(frozen=True)
class GateResult:
    """The outcome.

    Attributes:
        loss: of the path on the batch.
        gradients: one vector a decision, float64 on the CPU: dL/dg, 0 for candidates that were not looked at.
    """

    loss: float
    gradients: list[Tensor]


def gate_gradients(
    supernet: Supernet,
    request: GateRequest,
    inputs: Tensor | Sequence[Tensor],
    criterion: Callable[[Any], Tensor],
    *,
    autocast: Autocast = nullcontext,
) -> GateResult:
    """Loss of a path, and its derivative with respect to the gates of every choice on it.

    Weights are frozen and batch-norm statistics untouched.

    Args:
        criterion: network output -> loss (a scalar).

    Raises:
        GateError: candidates of one choice have outputs of different shapes.
    """
    with supernet.frozen():
        while True:
            context = _Gated(supernet, request, autocast)
            with active(context), torch.enable_grad():
                with autocast():
                    loss = criterion(call(supernet.module, inputs))
                if loss.requires_grad:  # else no choice has any influence
                    loss.backward()
                context.look_at_others()
            stale = context.stale
            if not stale:
                return context.gradients(loss)
            supernet.copying |= stale  # and once more, now with copies where values were overwritten


class _Gated:
    """The context of one forward and backward pass (a `ChoiceContext`)."""

    def __init__(self, supernet: Supernet, request: GateRequest, autocast: Autocast) -> None:
        self.supernet = supernet
        self.request = request
        self.autocast = autocast
        self.plain = supernet.selection(request.path)
        self._stale: set[nn.Module] = set()
        self._views: list[tuple[nn.Module, Kept]] = []
        self._products: list[tuple[int, int, Tensor]] = []
        self._leaves: dict[int, Tensor] = {}
        self._pending: deque[Callable[[], None]] = deque()

    @property
    def stale(self) -> set[nn.Module]:
        """Choices whose inputs or outputs were overwritten before they were needed: the pass is void."""
        # A hook on a view that is written into is never called, so these are looked at here.
        return self._stale | {choice for choice, kept in self._views if kept.overwritten}

    def look_at_others(self) -> None:
        """Run what has waited for the derivatives.

        Not when each arrives: then the memory of the path is not free yet, and on GPUs it is another thread.
        """
        while self._pending:
            self._pending.popleft()()

    def gradients(self, loss: Tensor) -> GateResult:
        """All that was found, fetched from the device at once, since every fetch would wait for it."""
        decisions = self.supernet.space.decisions
        gradients = [torch.zeros(len(d), dtype=torch.float64) for d in decisions]
        leaves = {d: leaf.grad for d, leaf in self._leaves.items() if leaf.grad is not None}
        products = [product for *_, product in self._products]
        scalars = [loss.detach()[None], *([torch.stack(products)] if products else []), *leaves.values()]
        fetched = torch.cat([tensor.double() for tensor in scalars]).cpu()
        first, summed, rest = fetched.split([1, len(products), len(fetched) - 1 - len(products)])
        for (d, i, _), value in zip(self._products, summed.tolist(), strict=True):
            gradients[d][i] += value
        for d, gradient in zip(leaves, rest.split([len(decisions[d]) for d in leaves]), strict=True):
            gradients[d] += gradient
        return GateResult(float(first), gradients)

    # -- the choices

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._choose(choice, lambda i, a, k: choice[i](*a, **k), args, kwargs)

    def inputs(self, choice: InputChoice, tensors: Sequence[Tensor]) -> Any:
        def reduced(i: int, a: tuple[Any, ...], k: Mapping[str, Any]) -> Any:
            return reduce_inputs([a[0][j] for j in choice.subsets[i]], choice.reduction)

        return self._choose(choice, reduced, (list(tensors),), {})

    def _choose(
        self,
        choice: LayerChoice | InputChoice,
        candidate: Callable[[int, tuple[Any, ...], Mapping[str, Any]], Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        d = self.supernet.decision_of[choice]
        chosen = int(self.plain.chosen[choice])
        others = self._others(d, chosen, len(choice.names))
        kept = Kept((args, kwargs), copied=choice in self.supernet.copying)

        def run_others() -> Iterator[tuple[int, Any]]:
            """The other candidates' outputs, one after the other, without graph."""
            with torch.no_grad(), active(self.plain), self.autocast():
                for i in others:
                    again_args, again_kwargs = kept.value()
                    yield i, candidate(i, again_args, again_kwargs)

        if self.request.mode == "full":
            looked_at = dict(run_others())
            if kept.overwritten:
                self._stale.add(choice)
            output = candidate(chosen, args, kwargs)
            return self._summed(choice, d, {chosen: output, **looked_at})
        output = candidate(chosen, args, kwargs)
        if kept.overwritten:
            self._stale.add(choice)
        return self._hooked(choice, d, chosen, output, run_others, kept)

    def _others(self, d: int, chosen: int, n: int) -> list[int]:
        if self.request.mode != "two":
            return [i for i in range(n) if i != chosen]
        partner = -1 if self.request.partner is None else int(self.request.partner[d])
        return [partner] if 0 <= partner < n and partner != chosen else []

    # -- full

    def _summed(self, choice: LayerChoice | InputChoice, d: int, outputs: Mapping[int, Any]) -> Any:
        """sum_i g_i o_i, by plain autograd."""
        if d not in self._leaves:
            one_hot = [float(i == next(iter(outputs))) for i in range(len(choice.names))]
            dtype = self.supernet.parameters[0].dtype
            self._leaves[d] = torch.tensor(one_hot, dtype=dtype, device=self.supernet.device, requires_grad=True)
        gates = self._leaves[d]
        flat = {i: tree_flatten(output) for i, output in outputs.items()}
        (chosen, (leaves, spec)), *rest = flat.items()
        shapes = shapes_of(leaves)
        summed = []
        for k, leaf in enumerate(leaves):
            if not is_gated(leaf):
                summed.append(leaf)
                continue
            total = leaf * gates[chosen].to(leaf.dtype)
            for i, (others, other_spec) in rest:
                self._check(choice, (chosen, shapes, spec), (i, shapes_of(others), other_spec))
                total = total + others[k] * gates[i].to(leaf.dtype)
            summed.append(total)
        return tree_unflatten(summed, spec)

    # -- full_v2 and two

    def _hooked(
        self,
        choice: LayerChoice | InputChoice,
        d: int,
        chosen: int,
        output: Any,
        run_others: Callable[[], Iterator[tuple[int, Any]]],
        kept: Kept,
    ) -> Any:
        """The active candidate's output; its derivative is awaited, to look at the others with it."""
        leaves, spec = tree_flatten(output)
        copied = choice in self.supernet.copying
        passed_on = [own_node(leaf, kept, copied=copied) if is_gated(leaf) else leaf for leaf in leaves]
        hooked = [leaf for leaf in passed_on if is_gated(leaf)]
        outcome = Kept(hooked, copied=copied)
        if any(leaf._is_view() for leaf in hooked):
            self._views.append((choice, outcome))
        shapes = shapes_of(leaves)  # and not the tensors: their hook would hold them, and they their hook

        def look(derivatives: Sequence[Tensor | None]) -> None:
            if outcome.overwritten or kept.overwritten:
                self._stale.add(choice)
                return
            ready = [None if dy is None else Derivative(dy) for dy in derivatives]
            self._add(d, chosen, outcome.value(), ready)
            for i, other in run_others():
                tensors, other_spec = tree_flatten(other)
                self._check(choice, (chosen, shapes, spec), (i, shapes_of(tensors), other_spec))
                self._add(d, i, [t for t in tensors if is_gated(t)], ready)
            if kept.overwritten:
                self._stale.add(choice)

        def wait(derivatives: Sequence[Tensor | None]) -> None:
            self._pending.append(partial(look, derivatives))

        if len(hooked) == 1:
            hooked[0].register_hook(lambda derivative: wait([derivative]))
        elif hooked:
            torch.autograd.graph.register_multi_grad_hook(hooked, wait)
        return tree_unflatten(passed_on, spec)

    def _add(self, d: int, i: int, outputs: Sequence[Tensor], derivatives: Sequence[Derivative | None]) -> None:
        """Of each output the sum of o * dL/dy over all elements."""
        self._products += [(d, i, dy.times(o)) for o, dy in zip(outputs, derivatives, strict=True) if dy is not None]

    def _check(
        self, choice: LayerChoice | InputChoice, one: tuple[int, list[Any], Any], other: tuple[int, list[Any], Any]
    ) -> None:
        """Compare (candidate, shapes, structure) of two outputs."""
        (i, shapes, spec), (j, others, other_spec) = one, other
        if spec == other_spec and shapes == others:
            return
        label = self.supernet.space.decisions[self.supernet.decision_of[choice]].label
        raise GateError(
            f"choice {label!r}: candidate {choice.names[i]!r} gives {shapes}, "
            f"{choice.names[j]!r} gives {others}: a search by gradient needs candidates with "
            "outputs of one shape; use --algorithm reinforce"
        )
