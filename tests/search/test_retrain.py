"""Training of one network: right, repeatable, resumable to the bit, and shared among processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas.search.checkpoint import About, CheckpointError
from hwnas.search.data.data import Data
from hwnas.search.launch import launch
from hwnas.search.retrain import TrainResult, train_network
from hwnas.search.run import RunFolder
from hwnas.search.settings import FinalSettings
from hwnas.search.training import TrainingDiverged
from hwnas.tests.search.small_training import SETTINGS, make_data, make_network
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Interrupting:
    """Presses Ctrl-C after a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def step(self, name: str, done: float, total: float) -> None:
        if done == self.after:
            raise KeyboardInterrupt


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


def trained(folder: Path | None = None, **changes: Any) -> TrainResult:
    if folder is None:
        return train_network(make_network(), make_data(), SETTINGS, seed=3, **changes)
    with RunFolder.open(folder, {"a": 1}) as run:
        return train_network(make_network(), make_data(), SETTINGS, run, seed=3, **changes)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, list[dict[str, Any]]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(folder), RunFolder(folder).records()


def test_it_learns() -> None:
    result = train_network(make_network(), make_data(), replace(SETTINGS, epochs=10))
    assert result.accuracy.top1 > 80
    assert result.accuracy.n == 30
    assert result.steps == 40
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_every_step_is_that_of_the_paper() -> None:
    """Against the few lines of torch that it stands for."""
    network = make_network(dropout=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5)
    data, step = make_data(), 0
    for epoch in range(3):
        for images, labels in data.train.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / STEPS))
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels, label_smoothing=0.1).backward()
            optimizer.step()
            step += 1
    found = train_network(make_network(dropout=0.0), data, FinalSettings(weights=SETTINGS))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    right = sum((network.eval()(x).argmax(1) == y).sum().item() for x, y in data.test.epoch(0))
    assert found.accuracy.top1 == pytest.approx(100 * right / 30)


def test_the_seed_decides_everything(unbroken: tuple[TrainResult, Any]) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    again = trained()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(again.network, unbroken[0].network)
    assert again.accuracy == unbroken[0].accuracy
    other = train_network(make_network(), make_data(), SETTINGS, seed=4)
    assert not same(other.network, again.network)  # dropout


@pytest.mark.parametrize("after", range(1, STEPS + 1))
def test_interrupted_at_any_step_it_ends_the_same(
    unbroken: tuple[TrainResult, list[dict[str, Any]]], tmp_path: Path, after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, progress=Interrupting(after), checkpoint_s=0)
    result = trained(tmp_path)
    assert result.resumed_at == (after - 1 or None)  # the step that was interrupted is made again
    assert same(result.network, unbroken[0].network)
    assert (result.history, result.accuracy) == (unbroken[0].history, unbroken[0].accuracy)
    assert RunFolder(tmp_path).records() == unbroken[1]


def test_a_finished_training_is_only_tested_again(unbroken: tuple[TrainResult, Any], tmp_path: Path) -> None:
    first, again = trained(tmp_path), trained(tmp_path)
    assert again.resumed_at == STEPS
    assert again.accuracy == first.accuracy
    assert again.history == first.history
    assert same(again.network, unbroken[0].network)


def test_records(unbroken: tuple[TrainResult, list[dict[str, Any]]]) -> None:
    result, records = unbroken
    assert [r["step"] for r in records] == [4, 8, 12]
    assert {r["phase"] for r in records} == {"train"}
    assert [{k: v for k, v in r.items() if k != "phase"} for r in records] == result.history
    assert all(r["valid"]["n"] == 20 for r in records)
    assert result.held_out == records[-1]["valid"]


class Watched:
    """A split that tells when it is drawn from."""

    def __init__(self, batches: Any, seen: list[str], name: str) -> None:
        self.batches, self.seen, self.name, self.batch_size = batches, seen, name, batches.batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.name)
        return self.batches.epoch(*args, **kwargs)


def test_the_test_set_is_used_once_and_last() -> None:
    data, seen = make_data(), []  # type: ignore[var-annotated]
    parts = [Watched(getattr(data, name), seen, name) for name in ("train", "held_out", "test")]
    train_network(make_network(), Data(data.name, data.input_shape, data.classes, *parts), SETTINGS)  # type: ignore[arg-type]
    assert seen == ["train", "held_out"] * 3 + ["test"]


def test_nothing_held_out() -> None:
    result = train_network(make_network(), make_data(held_out=0), SETTINGS)
    assert result.held_out is None
    assert ["valid" in record for record in result.history] == [False] * 3


def test_no_epochs_only_test() -> None:
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = train_network(network, make_data(), replace(SETTINGS, epochs=0))
    assert (result.steps, result.history, result.held_out) == (0, [], None)
    assert all(torch.equal(before[name], tensor) for name, tensor in result.network.state_dict().items())


def test_a_loss_that_diverges_stops_with_a_checkpoint(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, {}) as run,
        pytest.raises(TrainingDiverged, match=r"at step \d+, with learning rate .* in .*checkpoint.train;"),
    ):
        train_network(make_network(), make_data(), replace(SETTINGS, lr=1e30), run)
    *_, checkpoint = sorted((tmp_path / "checkpoint" / "train").glob("step-*.pt"))
    state = torch.load(checkpoint, weights_only=True)
    assert state["about"]["step"] >= 1
    assert not (tmp_path / "weights.safetensors").exists()


class Viewing(nn.Module):
    """Cannot take channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.conv(x).view(len(x), -1)))


def test_a_network_that_needs_its_layout() -> None:
    assert train_network(Viewing(), make_data(), SETTINGS).steps == STEPS


def test_bfloat16() -> None:
    result = train_network(make_network(), make_data(), SETTINGS, precision="bf16")
    assert result.accuracy.top1 > 60
    assert {p.dtype for p in result.network.parameters()} == {torch.float32}


def test_fp16_goes_on_with_its_scale(tmp_path: Path) -> None:
    whole = trained(precision="fp16")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, precision="fp16", progress=Interrupting(5), checkpoint_s=0)
    assert same(trained(tmp_path, precision="fp16").network, whole.network)


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, about=About("train", "x", network="one"))
    with pytest.raises(CheckpointError, match="of network 'one', not of 'two'"):
        trained(tmp_path, about=About("train", "x", network="two"))


def test_another_number_of_threads_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, progress=Interrupting(5), checkpoint_s=0)
    torch.set_num_threads(2)
    (note,) = trained(tmp_path).notes
    assert "1 torch threads, this process has 2" in note


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What two processes trained: kind -> each rank's."""
    folder = tmp_path_factory.mktemp("together")
    worker = Path(__file__).with_name("retrain_worker.py")
    assert launch([str(worker), str(folder)], 2, program=()) == 0
    kinds = ("plain", "shared", "own")
    return {k: [torch.load(folder / f"{k}-{rank}.pt", weights_only=True) for rank in (0, 1)] for k in kinds}


@pytest.mark.parametrize("kind", ["plain", "shared", "own"])
def test_two_processes_end_with_the_same_network(together: dict[str, list[Any]], kind: str) -> None:
    first, second = together[kind]
    assert first.keys() == second.keys()
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
    assert (first["top1"], first["history"]) == (second["top1"], second["history"])


@pytest.mark.parametrize("kind", ["plain", "shared"])
def test_two_processes_train_as_one(together: dict[str, list[Any]], kind: str) -> None:
    one = train_network(make_network(norm=kind == "shared", dropout=0.0), make_data(), SETTINGS)
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(together[kind][0]["state"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert together[kind][0]["history"][0]["loss"] == pytest.approx(one.history[0]["loss"], rel=1e-4)
