"""Choices as modules: what they accept, how the context decides, what is left of them in a built network."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from typing import Any

import pytest
import torch
from hwnas.spaces.choices import ChoiceError, InputChoice, LayerChoice, Selection, active
from torch import Tensor, nn


class Plus(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


def pluses(**amounts: float) -> dict[str, nn.Module]:
    return {name: Plus(amount) for name, amount in amounts.items()}


ZERO = torch.zeros(1)


def test_outside_any_context_the_first_candidate_runs() -> None:
    assert LayerChoice(pluses(a=1, b=2))(ZERO).item() == 1
    assert InputChoice(3, 2)([ZERO + 1, ZERO + 2, ZERO + 4]).item() == 3


@pytest.mark.parametrize("candidates", [[Plus(1), Plus(2)], nn.ModuleList([Plus(1), Plus(2)]), (Plus(1), Plus(2))])
def test_candidates_in_order(candidates: Any) -> None:
    choice = LayerChoice(candidates)
    assert choice.names == ("0", "1")
    assert len(choice) == 2
    assert choice[1] is choice["1"] is candidates[1]


def test_candidates_by_name() -> None:
    choice = LayerChoice(nn.ModuleDict(pluses(a=1, b=2)), label="l")
    assert choice.names == ("a", "b")
    assert dict(choice.named_children()) == {"a": choice["a"], "b": choice["b"]}


@pytest.mark.parametrize("name", ["double", "half", "forward", "names", "label", "conv1.5", "training", "child_names"])
def test_any_text_names_a_candidate(name: str) -> None:
    choice = LayerChoice({"a": Plus(1), name: Plus(2)})
    with active(Selection({choice: 1})):
        assert choice(ZERO).item() == 2
    assert choice[name] is choice.get_submodule(choice.child_names[1])
    assert choice.names == ("a", name)
    assert set(copy.deepcopy(choice).state_dict()) == set(choice.state_dict())


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([], "no candidates"), ({"a": 3}, "'a' is a int"), ({"": Plus(1)}, "''"), ({1: Plus(1)}, "1 is not a text")],
)
def test_bad_candidates(candidates: Any, message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        LayerChoice(candidates)


@pytest.mark.parametrize("label", ["", 3])
def test_bad_labels(label: Any) -> None:
    for make in (lambda: LayerChoice([Plus(1)], label=label), lambda: InputChoice(2, label=label)):
        with pytest.raises(ChoiceError, match="label"):
            make()


def test_unknown_candidate_names_those_there_are() -> None:
    with pytest.raises(ChoiceError, match=r"no candidate 'c'; it has a, b"):
        LayerChoice(pluses(a=1, b=2))["c"]


def test_subsets() -> None:
    assert InputChoice(3).names == ("0", "1", "2")
    assert InputChoice(3, 2).subsets == ((0, 1), (0, 2), (1, 2))
    assert InputChoice(3, None).names == ("0", "1", "2", "0,1", "0,2", "1,2", "0,1,2")


@pytest.mark.parametrize(
    ("reduction", "result"),
    [("sum", [[5.0]]), ("mean", [[2.5]]), ("concat", [[1.0, 4.0]]), ("none", [[[1.0]], [[4.0]]])],
)
def test_reductions(reduction: Any, result: list[Any]) -> None:
    choice = InputChoice(3, 2, reduction)
    with active(Selection({choice: 1})):
        found = choice([torch.tensor([[v]]) for v in (1.0, 2.0, 4.0)])
    assert (found.tolist() if isinstance(found, Tensor) else [t.tolist() for t in found]) == result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "of 0"),
        ((2, 3), "3 of 2"),
        ((2, 0), "0 of 2"),
        ((2, 1, "max"), "'max' is unknown"),
        ((20, None), "subsets; at most"),
    ],
)
def test_bad_input_choices(arguments: Any, message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        InputChoice(*arguments)


def test_number_of_inputs_is_checked() -> None:
    with pytest.raises(ChoiceError, match="of 3 inputs was called with 2"):
        InputChoice(3)([ZERO, ZERO])


def test_exactly_one_candidate_runs() -> None:
    """Also where choices are nested; and no hook, flag or attribute is left behind."""
    ran: Counter[str] = Counter()

    class Counted(Plus):
        def forward(self, x: Tensor) -> Tensor:
            ran[str(self.amount)] += 1
            return super().forward(x)

    inner = LayerChoice([Counted(1), Counted(2)])
    outer = LayerChoice({"deep": nn.Sequential(Counted(10), inner), "flat": Counted(20)})
    before = {name: dict(module.__dict__) for name, module in outer.named_modules()}
    for chosen, expected in [((0, 0), {"10", "1"}), ((0, 1), {"10", "2"}), ((1, 1), {"20"})]:
        ran.clear()
        with active(Selection({outer: chosen[0], inner: chosen[1]})):
            outer(ZERO)
        assert ran == dict.fromkeys(expected, 1)
    assert {name: dict(module.__dict__) for name, module in outer.named_modules()} == before


def test_contexts_end_and_nest() -> None:
    choice = LayerChoice(pluses(a=1, b=2, c=3))
    with active(Selection({choice: 1})):
        with active(Selection({choice: 2})):
            assert choice(ZERO).item() == 3
        assert choice(ZERO).item() == 2
        with pytest.raises(RuntimeError, match="stop"), active(Selection({choice: 2})):
            raise RuntimeError("stop")
        assert choice(ZERO).item() == 2
    assert choice(ZERO).item() == 1


def test_two_threads_do_not_disturb_each_other() -> None:
    """One module, two selections, forwards that take turns inside each other."""
    turn = threading.Barrier(2, timeout=20)

    class Waits(Plus):
        def forward(self, x: Tensor) -> Tensor:
            turn.wait()
            return super().forward(x)

    first, second = (LayerChoice([Waits(a), Waits(2 * a)]) for a in (1.0, 10.0))
    results: dict[int, list[float]] = {0: [], 1: []}

    def search(own: int) -> None:
        with active(Selection({first: own, second: 1 - own})):
            for _ in range(20):
                results[own].append(second(first(ZERO)).item())

    threads = [threading.Thread(target=search, args=(own,)) for own in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {0: [21.0] * 20, 1: [12.0] * 20}
