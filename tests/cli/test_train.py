"""``hwnas train``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas.search import retrain

Run = Callable[..., Any]

SPACE = """
from torch import nn
from hwnas import LayerChoice, SearchSpace

def net():
    choice = LayerChoice({"k3": nn.Conv2d(1, 8, 3, 2, 1), "k5": nn.Conv2d(1, 8, 5, 2, 2)})
    return nn.Sequential(choice, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))

def space():
    return SearchSpace(net, (1, 8, 8), name="tiny")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_text(SPACE)
    (tmp_path / "a.json").write_text(json.dumps({"space": "tiny", "choices": {"0": "k5"}}))
    return tmp_path


TINY = ("train", "--arch", "a.json", "--space", "tiny.py:space", "--data", "digits", "--torch-threads", 1)
QUICK = (*TINY, "--epochs", 5, "--batch-size", 50, "--lr", 0.1)


def test_training(hwnas: Run, folder: Path) -> None:
    result = hwnas(*QUICK, "--held-out", "10%")
    assert result.code == 0, result.err
    assert "test top-1 (%)" in result.out
    assert "held-out top-1 (%)" in result.out
    assert "are in results/train-tiny" in result.out
    report = json.loads((folder / "results/train-tiny/report.json").read_text())
    assert 60 < report["accuracy"]["top1"] <= 100


def test_json(hwnas: Run, folder: Path) -> None:
    result = hwnas(*QUICK, "--json", "-", "--quiet", "--out", "o", "--seed", 3)
    assert result.code == 0, result.err
    assert {"accuracy", "architecture", "weights", "seconds", "epochs", "seed", "out", "notes"} <= set(result.json)
    assert set(result.json["accuracy"]) == {"top1", "top5", "loss", "n"}
    assert result.json["seed"] == 3
    assert Path(result.json["weights"]).is_file()


def test_the_same_command_goes_on_after_ctrl_c(hwnas: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hwnas(*QUICK, "--out", "whole", "--json", "-", "-q").json
    train_network = retrain.train_network
    make = retrain._Training._save

    def interrupt(self: Any) -> None:
        make(self)
        if self.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(retrain, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(retrain._Training, "_save", interrupt)
    monkeypatch.setattr(
        "hwnas.search.train.train_network", lambda *a, **k: train_network(*a, **{**k, "checkpoint_s": 0.0})
    )
    result = hwnas(*QUICK, "--out", "o", "-q")
    assert result.code == 130
    assert "kept in o; the same command goes on from there" in result.err
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    again = hwnas(*QUICK, "--out", "o", "--json", "-", "-q").json
    assert again["resumed_at"] == 5
    assert again["accuracy"] == whole["accuracy"]
    assert (folder / "o/weights.safetensors").read_bytes() == (folder / "whole/weights.safetensors").read_bytes()


def test_two_processes(process: Run, folder: Path) -> None:
    result = process(*QUICK, "--epochs", 1, "--nproc", 2, "--out", "o", "--json", "-", "-q", cwd=folder)
    assert result.code == 0, result.err
    assert json.loads(result.out)["steps"] == 26


def test_weights_of_another_training(hwnas: Run, folder: Path) -> None:
    first = hwnas(*QUICK, "--json", "-", "-q").json
    result = hwnas(*TINY, "--weights", "results/train-tiny", "--epochs", 0, "--out", "o", "--json", "-", "-q")
    assert result.json["accuracy"] == pytest.approx(first["accuracy"])


def test_a_built_in_space_need_not_be_named(hwnas: Run, folder: Path) -> None:
    choices = {f"stages.{i}.{j}": "k3e3" for i in range(3) for j in range(2)}
    (folder / "b.json").write_text(json.dumps({"space": "proxyless-small", "choices": choices}))
    result = hwnas(
        *("train", "--arch", "b.json", "--space-arg", "resolution=8", "--data", "digits", "--epochs", 0, "-q")
    )
    assert result.code == 0, result.err
    assert (folder / "results/train-proxyless-small/weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "digits:28"), "1x28x28, but space 'tiny' takes 1x8x8"),
        (("--arch", "none.json"), "--arch none.json cannot be read"),
        (("--weights", "none.pt"), "none.pt cannot be read"),
        (("--compute", "tpu"), "not on 'tpu'"),
        (("--precision", "int4"), "use auto, fp32, bf16 or fp16"),
        (("--held-out", "120%"), "held-out share"),
        (("--lr", "0"), "learning rate 0.0"),
        (("--epochs", "-1"), "--epochs"),
        (("--space", "proxyless"), "of space 'tiny', not 'proxyless'"),
        (("--lr", "1e30"), "training diverged: the loss is"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(
    hwnas: Run, folder: Path, options: tuple[str, ...], message: str
) -> None:
    result = hwnas(*QUICK, *options, "-q")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(hwnas: Run, folder: Path) -> None:
    result = hwnas(*QUICK, "--compute", "cuda")
    assert result.code == 2
    assert "CUDA was asked for" in result.err


def test_a_space_that_a_file_names_is_not_imported(hwnas: Run, folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps({"space": "tiny.py:space", "choices": {"0": "k5"}}))
    result = hwnas("train", "--arch", "a.json", "--data", "digits")
    assert result.code == 2
    assert "not built in: name its function with --space" in result.err


def test_several_architectures(hwnas: Run, folder: Path) -> None:
    one = json.loads((folder / "a.json").read_text())
    (folder / "a.json").write_text(json.dumps([one, one]))
    result = hwnas(*QUICK)
    assert result.code == 2
    assert "holds 2 architectures" in result.err
