"""From a request to a folder with weights and a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas.search.data.data import DataError
from hwnas.search.run import RunError, RunFolder
from hwnas.search.settings import WeightSettings
from hwnas.search.train import TrainError, TrainRequest, train
from hwnas.search.training import ComputeError
from hwnas.search.weights import WeightsError, network_with_weights
from hwnas.spaces.architecture import Architecture, ArchitectureError
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from torch import nn


def make_net() -> nn.Module:
    """A choice of two convolutions for 1x8x8 images."""
    return nn.Sequential(
        LayerChoice({"k3": nn.Conv2d(1, 8, 3, 2, 1), "k5": nn.Conv2d(1, 8, 5, 2, 2)}),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.fixture
def request_(tmp_path: Path) -> TrainRequest:
    space = SearchSpace(make_net, (1, 8, 8), name="tiny")
    settings = WeightSettings(epochs=5, batch_size=50, lr=0.1)
    architecture = Architecture("tiny", {"0": "k5"})
    return TrainRequest(space, architecture, "digits", tmp_path / "run", settings=settings, threads=1)


def test_a_training_and_what_it_leaves(request_: TrainRequest) -> None:
    threads = torch.get_num_threads()
    done = train(replace(request_, held_out=0.1))
    assert torch.get_num_threads() == threads
    assert done.accuracy.top1 > 60
    folder = request_.out
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert left >= {"config.yaml", "metrics.jsonl", "architecture.json", "report.json", "weights.safetensors"}
    assert left >= {"plots/network.png", "plots/training.png"}
    report = json.loads((folder / "report.json").read_text())
    assert report["accuracy"]["top1"] == pytest.approx(done.accuracy.top1)
    assert report["held_out"]["n"] > 0
    assert (report["epochs"], report["seed"], report["resumed_at"]) == (5, 0, None)
    assert Architecture.from_json((folder / "architecture.json").read_text()) == request_.architecture
    again = network_with_weights(request_.space, request_.architecture, folder)
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, done.result.network.state_dict()[name])


def test_the_same_request_goes_on(request_: TrainRequest) -> None:
    first, again = train(request_), train(request_)
    assert again.result.resumed_at == first.result.steps
    assert again.accuracy == first.accuracy
    anew = train(replace(request_, force=True))
    assert anew.result.resumed_at is None
    assert anew.accuracy == first.accuracy


def test_another_request_is_refused(request_: TrainRequest) -> None:
    train(replace(request_, settings=replace(request_.settings, epochs=1)))
    with pytest.raises(RunError, match=r"settings\.epochs is 1 there, 5 is asked"):
        train(request_)
    with pytest.raises(RunError, match="architecture"):
        train(replace(request_, architecture=Architecture("tiny", {"0": "k3"})))


def test_from_given_weights(request_: TrainRequest, tmp_path: Path) -> None:
    first = train(request_)
    settings = replace(request_.settings, epochs=0)
    tested = train(replace(request_, weights=request_.out, out=tmp_path / "tested", settings=settings))
    assert tested.accuracy == first.accuracy
    assert tested.result.steps == 0


def test_the_seed_decides_the_weights(request_: TrainRequest, tmp_path: Path) -> None:
    losses = []
    for i, seed in enumerate((1, 1, 2)):
        one = replace(request_, seed=seed, out=tmp_path / str(i), settings=replace(request_.settings, epochs=1))
        losses.append(train(one).accuracy.loss)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": "digits:28"}, DataError, "1x28x28"),
        ({"data": "no-such"}, DataError, "no-such"),
        ({"architecture": Architecture("tiny", {"0": "k7"})}, ArchitectureError, "no candidate 'k7'"),
        ({"weights": Path("none.pt")}, WeightsError, "cannot be read"),
        ({"compute": "tpu"}, ComputeError, "not on 'tpu'"),
        ({"settings": WeightSettings(lr=0.0)}, TrainError, "learning rate"),
        ({"settings": WeightSettings(lr=float("nan"))}, TrainError, "learning rate"),
        ({"settings": WeightSettings(epochs=-1)}, TrainError, "epochs -1"),
        ({"threads": 0}, TrainError, "threads"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    request_: TrainRequest, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(replace(request_, **changes))
    assert not request_.out.exists()


def test_a_folder_that_another_process_writes(request_: TrainRequest) -> None:
    with RunFolder.open(request_.out, {}), pytest.raises(RunError, match="another process"):
        train(request_)
