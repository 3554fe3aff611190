"""Training of one network, as the paper does it: SGD with Nesterov momentum, label smoothing, a cosine per batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..profiler.progress import Progress, Silent
from .checkpoint import About, check_checkpoint, load_checkpoint, save_checkpoint
from .data.batches import Batches
from .data.data import Data
from .data.prefetch import prefetch
from .depthwise import with_quick_depthwise
from .distributed import Ranks, synchronise_batch_norm
from .run import RunFolder
from .settings import FinalSettings, Precision, WeightSettings
from .training import (
    Accuracy,
    TrainingDiverged,
    autocast,
    check_finite,
    cosine,
    evaluate,
    make_optimizer,
    make_scaler,
    resolve_precision,
    set_lr,
    smoothed_cross_entropy,
    takes_channels_last,
)
from .weights import WEIGHTS_FILE, weights_bytes

CHECKPOINT_S = 15.0


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        network: with its weights, on the device it was trained on.
        accuracy: on the test set, which was used for nothing else.
        history: of each epoch: number, mean training loss (smoothed), learning rate at its end, and, where images are
            held out, the accuracy on them.
        steps: batches in all; seconds: of training, those before an interruption included.
        resumed_at: the step at which this process took over, or None.
        notes: what the user should know.
    """

    network: nn.Module
    accuracy: Accuracy
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    resumed_at: int | None
    notes: tuple[str, ...]

    @property
    def held_out(self) -> Mapping[str, float] | None:
        """Accuracy on the held-out images at the end."""
        return self.history[-1].get("valid") if self.history else None


def train_network(
    network: nn.Module,
    data: Data,
    settings: WeightSettings | FinalSettings,
    run: RunFolder | None = None,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    *,
    about: About | None = None,
    precision: Precision = "auto",
    sync_batch_norm: bool = False,
    checkpoint_s: float = CHECKPOINT_S,
) -> TrainResult:
    """Train a network on `data.train`, look at `data.held_out` after each epoch, and test it once at the end.

    Args:
        network: with the weights to begin with; trained in place.
        run: where checkpoints, records and, at the end, the weights go; a run that was interrupted goes on from its
            last checkpoint, on the CPU with the same number of threads to the same bits. None keeps nothing.
        device: where to; by default that of `ranks`.
        seed: of what modules draw (dropout); order and augmentation are the data's.
        about: what checkpoints are of; one of something else is refused.
        sync_batch_norm: batch statistics are those of all processes' images.
        checkpoint_s: seconds between two checkpoints, at least.

    Raises:
        TrainingDiverged: the loss is not finite; a checkpoint from before is kept.
        CheckpointError: the checkpoint is of another training, or cannot be written.
    """
    weights = settings.weights if isinstance(settings, FinalSettings) else settings
    ranks = ranks or Ranks.single(device or "cpu")
    device = device or ranks.device
    network = network.to(device)
    if sync_batch_norm:
        network = synchronise_batch_norm(network, ranks)
    training = _Training(network, data, weights, ranks, device, precision, seed)
    training.progress = progress or Silent()
    training.run, training.about, training.checkpoint_s = run, about or About("train", ""), checkpoint_s
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        return training.result()


class _Training:
    """One training, from where its last checkpoint left it."""

    progress: Progress
    run: RunFolder | None
    about: About
    checkpoint_s: float

    def __init__(
        self,
        network: nn.Module,
        data: Data,
        settings: WeightSettings,
        ranks: Ranks,
        device: torch.device,
        precision: Precision,
        seed: int,
    ) -> None:
        self.data, self.settings, self.ranks, self.device, self.seed = data, settings, ranks, device, seed
        self.precision = resolve_precision(device, precision)
        self.channels_last = takes_channels_last(network, torch.zeros(2, *data.input_shape, device=device))
        self.network = network.train()
        if self.channels_last:
            with_quick_depthwise(self.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(network.parameters(), settings)
        self.scaler = make_scaler(device, self.precision)
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        self.statistics = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        self.total = settings.epochs * len(data.train)
        self.step, self.seconds = 0, 0.0
        self.resumed_at: int | None = None
        self.losses = torch.zeros((), dtype=torch.float64, device=device)  # summed over the epoch
        self.last = torch.zeros(())
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.began = self.saved = time.monotonic()

    def result(self) -> TrainResult:
        self._resume()
        batches = len(self.data.train)
        while self.step < self.total:
            for images, labels in self._placed(self.data.train, *divmod(self.step, batches)):
                self._one(images, labels)
                if self.step % batches == 0:
                    self._end_epoch()
                self.progress.step("train", self.step, self.total)
                if time.monotonic() - self.saved >= self.checkpoint_s or self.step == self.total:
                    self._save()
        seconds = self._seconds()
        accuracy = self._evaluate(self.data.test)
        if self.run is not None:
            self.run.write_bytes(WEIGHTS_FILE, weights_bytes(self.network))
        notes = tuple(self.notes)
        return TrainResult(self.network, accuracy, self.history, self.step, seconds, self.resumed_at, notes)

    def _one(self, images: Tensor, labels: Tensor) -> None:
        """One batch."""
        self._seed_modules()
        lr = cosine(self.settings.lr, self.step, self.total)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            logits = self.network(images)
        loss = smoothed_cross_entropy(logits, labels, self.settings.label_smoothing)
        self._check(loss, lr)
        self.scaler.scale(loss).backward()
        if self.ranks.world > 1:
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            self.ranks.average([*gradients, *self.statistics])
        set_lr(self.optimizer, lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.last = loss.detach()
        self.losses += self.last
        self.step += 1

    def _seed_modules(self) -> None:
        """What modules draw in a step depends on the step alone, so that a checkpoint needs no generator's state."""
        words = np.random.SeedSequence([self.seed, self.ranks.rank, self.step]).generate_state(1, np.uint64)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(int(words[0]))
        torch.default_generator.manual_seed(int(words[0]))

    def _check(self, loss: Tensor, lr: float) -> None:
        try:
            check_finite(loss, self.step, lr, checkpoint=self._folder)
        except TrainingDiverged:
            if self.device.type == "cpu":  # found before the step: what there is is still sound
                self._save()
            raise

    def _end_epoch(self) -> None:
        """Mean training loss over all processes, accuracy on what is held out; into history and log."""
        batches = len(self.data.train)
        mean = self.losses / batches
        self.ranks.average([mean])
        record: dict[str, Any] = {
            "epoch": self.step // batches,
            "step": self.step,
            "loss": float(mean),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        if len(self.data.held_out):
            record["valid"] = asdict(self._evaluate(self.data.held_out))
        self.history.append(record)
        self.losses.zero_()
        if self.run is not None:
            self.run.log({"phase": "train", **record})

    def _evaluate(self, batches: Batches) -> Accuracy:
        with autocast(self.device, self.precision):
            return evaluate(self.network, self._placed(batches), self.device, self.ranks)

    def _placed(self, batches: Batches, epoch: int = 0, start: int = 0) -> Iterator[Any]:
        """This process's part of an epoch, on the device."""
        drawn = batches.epoch(epoch, start=start, shard=self.ranks.shard)
        stream: Any = prefetch(drawn, device=self.device, channels_last=self.channels_last)
        try:
            yield from stream
        finally:
            stream.close()

    # -- checkpoints

    @property
    def _folder(self) -> Path | None:
        return None if self.run is None else self.run.checkpoint / "train"

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.run is None or self._folder is None or not self.run.writes:
            return
        check_finite(self.last, self.step, self.optimizer.param_groups[0]["lr"], checkpoint=self._folder, every=1)
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses.cpu(),
            "history": self.history,
            "seconds": self._seconds(),
            "metrics": self.run.position(),
        }
        save_checkpoint(self._folder, self.step, state, about=self.about)

    def _resume(self) -> None:
        state = None if self._folder is None else load_checkpoint(self._folder)
        if state is not None and self.run is not None:
            doubts = check_checkpoint(state, self.about)
            self.step = state["about"]["step"]
            self.resumed_at = self.step or None
            self.notes += doubts if self.step < self.total else []
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.losses.copy_(state["losses"])
            self.history, self.seconds = state["history"], state["seconds"]
            self.run.truncate(state["metrics"])
        else:
            self._save()  # where the log begins: what is logged before the next one may have to be forgotten
        self.ranks.agree("the step to go on from", self.step)
