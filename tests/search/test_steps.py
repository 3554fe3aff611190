"""A weight step leaves no trace beside its path, and what algorithms ask none at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data.batches import Batches
from hwnas.search.data.loaders import wrap_loader
from hwnas.search.gates import GateRequest
from hwnas.search.settings import WeightSettings
from hwnas.search.steps import HeldOut, WeightStep, make_scorer
from hwnas.search.supernet import Supernet
from hwnas.search.training import make_optimizer
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.tests.search.tiny import digest, tiny_data, tiny_space, tiny_supernet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd of the paper, strong decay": lambda p: make_optimizer(p, WeightSettings(weight_decay=0.1)),
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "sgd one by one": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=False),
}


def rows(supernet: Supernet, n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.array([rng.integers(len(d)) for d in supernet.space.decisions]) for _ in range(n)]


def stepped(net: str, optimizer: str = "sgd of the paper, strong decay") -> WeightStep:
    """A step in whose past every candidate was trained, so that all have momentum."""
    supernet = tiny_supernet(tiny_space(net))
    step = WeightStep(supernet, OPTIMIZERS[optimizer](supernet.module.parameters()), label_smoothing=0.1)
    images, labels = next(tiny_data().train.epoch(0))
    for i in range(max(len(d) for d in supernet.space.decisions)):
        step(np.array([min(i, len(d) - 1) for d in supernet.space.decisions]), images, labels, 0.05)
    return step


def trained_by(supernet: Supernet, row: np.ndarray) -> set[str]:
    """Names of the parameters on a path: neither in candidates that are left out, nor before an unchosen input."""
    module = supernet.module
    found = {f"{name}." for name, m in module.named_modules() if m in set(supernet.on_path(row)) and name}
    names = {n for n, _ in module.named_parameters() if n.rpartition(".")[0] + "." in found}
    for choice, d in supernet.decision_of.items():
        if isinstance(choice, InputChoice):
            unchosen = {0, 1, 2} - set(choice.subsets[row[d]])
            names = {n for n in names if not (1 in unchosen and "left." in n) and not (2 in unchosen and "right." in n)}
    return names


def traces(step: WeightStep) -> dict[str, str]:
    """Digest of what is kept of every parameter: itself and the optimiser's state."""
    state = step.optimizer.state
    named = step.supernet.module.named_parameters()
    return {name: digest([p, {k: v for k, v in state.get(p, {}).items()}]) for name, p in named}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", ["plain", "nested"])
def test_a_weight_step_moves_the_path_and_nothing_else(net: str, optimizer: str) -> None:
    step = stepped(net, optimizer)
    module = step.supernet.module
    images, labels = next(tiny_data().train.epoch(1))
    reached: dict[str, bool] = {}
    for name, p in module.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: reached.update({name: bool(p.grad.abs().max() > 0)}))
    for row in rows(step.supernet, 6):
        reached.clear()
        before, buffers = traces(step), {n: b.clone() for n, b in module.named_buffers()}
        weights = {n: p.detach().clone() for n, p in module.named_parameters()}
        step(row, images, labels, 0.05)
        path = trained_by(step.supernet, row)
        assert set(reached) == path
        assert sum(reached.values()) > 0.8 * len(path)  # but what lies before a dead ReLU
        assert all(p.grad is None for p in module.parameters())
        assert {n for n, seen in traces(step).items() if seen != before[n]} == path
        assert all(not torch.equal(p, weights[n]) for n, p in module.named_parameters() if n in path)
        run = {name for name, m in module.named_modules() if m in set(step.supernet.on_path(row))}
        changed = {n for n, b in module.named_buffers() if not torch.equal(b, buffers[n])}
        assert {n.rpartition(".")[0] for n in changed} <= run
        assert changed == {n for n in buffers if n.rpartition(".")[0] in run}


@pytest.mark.parametrize("net", ["plain", "nested"])
def test_a_weight_step_runs_each_choice_once(net: str) -> None:
    step = stepped(net)
    ran: list[nn.Module] = []
    for module in step.supernet.module.modules():
        if isinstance(module, LayerChoice):
            for i in range(len(module)):
                module[i].register_forward_pre_hook(lambda m, _: ran.append(m))
    images, labels = next(tiny_data().train.epoch(1))
    for row in rows(step.supernet, 5):
        ran.clear()
        step(row, images, labels, 0.05)
        on_path = [m for m in step.supernet.on_path(row) if isinstance(m, LayerChoice)]
        assert sorted(map(id, ran)) == sorted(id(c[int(row[step.supernet.decision_of[c]])]) for c in on_path)


def test_the_loss_is_smoothed_cross_entropy_of_the_plain_network() -> None:
    step = stepped("plain")
    supernet, (images, labels) = step.supernet, next(tiny_data().train.epoch(1))
    row = np.array([1, 0, 1])
    network = supernet.space.build(supernet.space.decode(row[None])[0], supernet.module).train()
    wanted = F.cross_entropy(network(images), labels, label_smoothing=0.1)
    assert step.loss(row, images, labels).item() == pytest.approx(wanted.item(), rel=1e-5)


# -- held-out images


class Spied(Batches):
    """Another's batches; notes which epochs are begun."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.batch_size = batches, batches.batch_size
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Any:
        self.asked.append((number, start))
        return self.batches.epoch(number, start=start, shard=shard)


def held_out(supernet: Supernet, **more: Any) -> HeldOut:
    data = tiny_data()
    return HeldOut(supernet, make_scorer(supernet, data.train, 2, "fp32"), data.held_out, **more)


def batches_of(task: HeldOut, n: int) -> list[str]:
    found = []
    for _ in range(n):
        task.advance()
        found.append(digest(task._now()))
    task.close()
    return found


def test_updates_see_one_held_out_batch_after_the_other_and_can_begin_anywhere() -> None:
    supernet = tiny_supernet(tiny_space())
    every = batches_of(held_out(supernet), 7)
    assert len(set(every)) == 7  # epochs of 2 batches, each in an order of its own
    part = tiny_data().held_out
    assert every == [digest(batch) for epoch in range(4) for batch in part.epoch(epoch)][:7]
    for start in (1, 2, 5):
        assert batches_of(held_out(supernet, start=start), 7 - start) == every[start:]


class Threads(Dataset[tuple[Tensor, int]]):
    """Notes which threads draw from it."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen.add(threading.get_ident())
        return torch.randn(1, 6, 6), index % 3


def test_a_loader_of_the_users_is_never_drawn_from_beside_the_training() -> None:
    """While it works it has the process's random generators, which dropout draws from, too."""
    supernet, images = tiny_supernet(tiny_space()), Threads()
    loader = wrap_loader(DataLoader(images, 4, shuffle=True), seed=0, name="valid_loader")
    task = HeldOut(supernet, make_scorer(supernet, loader, 2, "fp32"), loader)
    for _ in range(7):
        task.advance()
    task.close()
    assert images.seen == {threading.get_ident()}


def test_scores_that_are_compared_across_updates_are_of_the_same_images() -> None:
    supernet = tiny_supernet(tiny_space())
    task = held_out(supernet, fixed=True)
    images, labels = task._now()
    assert len(labels) == 18
    assert len(set(batches_of(task, 3))) == 1
    wanted = [batch for batch in tiny_data().held_out.epoch(0)]
    assert torch.equal(images, torch.cat([i for i, _ in wanted]))


def test_the_architectures_loss_has_no_smoothing() -> None:
    supernet = tiny_supernet(tiny_space())
    task = held_out(supernet)
    task.advance()
    images, labels = task._now()
    with supernet.frozen(), torch.no_grad():
        wanted = F.cross_entropy(supernet.run(np.array([0, 1, 0]), images), labels)
    assert task.gates(GateRequest(np.array([0, 1, 0]))).loss == pytest.approx(wanted.item(), rel=1e-6)


def everything(module: nn.Module) -> tuple[str, list[bool], list[Any]]:
    """Weights, buffers, gradients, and how modules are set."""
    gradients = [p.grad is None for p in module.parameters()]
    flags = [(m.training, getattr(m, "momentum", 0), getattr(m, "track_running_stats", 0)) for m in module.modules()]
    return digest(module.state_dict()), gradients + [p.requires_grad for p in module.parameters()], flags


@pytest.mark.parametrize("net", ["plain", "nested"])
@pytest.mark.parametrize("mode", ["full_v2", "full", "two"])
def test_gates_leave_the_supernet_as_it_was(net: str, mode: Any) -> None:
    step = stepped(net)
    supernet = step.supernet
    task = held_out(supernet)
    before = everything(supernet.module)
    for row in rows(supernet, 3):
        task.advance()
        result = task.gates(GateRequest(row, mode, (row + 1) % [len(d) for d in supernet.space.decisions]))
        assert any(g.abs().max() > 0 for g in result.gradients)
        assert everything(supernet.module) == before


@pytest.mark.parametrize("net", ["plain", "nested"])
def test_scores_leave_the_supernet_as_it_was(net: str) -> None:
    step = stepped(net)
    supernet = step.supernet
    before = everything(supernet.module)
    task = held_out(supernet)
    found = task.accuracy(np.stack(rows(supernet, 4)))
    assert found.shape == (4,)
    assert ((found >= 0) & (found <= 1)).all()
    assert everything(supernet.module) == before


def test_statistics_come_from_the_first_training_batches() -> None:
    supernet, spied = tiny_supernet(tiny_space()), Spied(tiny_data().train)
    scorer = make_scorer(supernet, spied, 2, "fp32")
    assert spied.asked == [(0, 0)]
    wanted = [images for images, _ in tiny_data().train.epoch(0)][:2]
    assert digest(scorer.batches) == digest(wanted)
    assert len(make_scorer(supernet, spied, 100, "fp32").batches) == len(spied)  # as many as there are


def test_an_error_in_a_score_leaves_the_supernet_as_it_was() -> None:
    step = stepped("plain")
    before = everything(step.supernet.module)
    task = held_out(step.supernet)

    def fail(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        raise ZeroDivisionError

    handle = step.supernet.module.get_submodule("head").register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        task.accuracy(np.array([[0, 0, 0]]))
    handle.remove()
    task.close()
    assert everything(step.supernet.module) == before
