"""The search itself: warm-up of the weights on random paths, then weights and architecture parameters in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..profiler.progress import Progress, Silent
from .algorithm import Algorithm
from .alpha import normalised_entropy
from .checkpoint import About, check_checkpoint, load_checkpoint, save_checkpoint
from .data.batches import Batches
from .data.data import Data
from .data.prefetch import prefetch
from .distributed import Ranks, synchronise_batch_norm
from .scoring import Scorer
from .settings import SearchSettings
from .steps import HeldOut, WeightStep, make_scorer
from .supernet import Supernet
from .training import Accuracy, TrainingDiverged, check_finite, cosine, evaluate, make_optimizer

RECORDS = 200
"""Lines in the metrics of each phase, about."""
CHECKPOINT_S = 15.0
COLLAPSED = 0.1
"""Mean normalised entropy below which choices count as settled."""


class Log(Protocol):
    """Where records go (see `run.RunFolder`)."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep one more."""

    def position(self) -> int:
        """How much is kept."""

    def truncate(self, position: int) -> None:
        """Forget what came after."""


@dataclass(frozen=True)
class Phase:
    """A part of the search with a cosine of its own.

    Attributes:
        name: "warmup" or "search". first_epoch: number of its first pass over the data. updates: whether there are any.
    """

    name: str
    epochs: int
    lr: float
    first_epoch: int
    updates: bool


@dataclass
class Position:
    """How far the search is: weight steps in all, architecture updates, and whether it is over."""

    step: int = 0
    update: int = 0
    finished: bool = False


def planned_updates(settings: SearchSettings, batches: int, algorithm: type[Algorithm], own: Any) -> int:
    """Architecture updates of a whole search.

    Args:
        batches: in an epoch.
        own: the algorithm's own settings.
    """
    if algorithm.after_training:
        return int(own.updates)
    skipped = batches if settings.skip_first_epoch else 0
    steps = settings.weights.epochs * batches
    return max(0, steps // settings.every - skipped // settings.every) * settings.steps


class Engine:
    """Runs a search from where its last checkpoint left it to the end.

    Args:
        data: what to train on.
        optimizer: of the weights; by default SGD as `settings.weights` says.
        folder: for checkpoints; None keeps none. log: for records.
        checkpoint_s: seconds between two checkpoints, at least.

    Attributes:
        position: how far it is.
        warnings: what the user should know.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: Data,
        algorithm: Algorithm,
        settings: SearchSettings,
        *,
        seed: int = 0,
        optimizer: torch.optim.Optimizer | None = None,
        ranks: Ranks | None = None,
        folder: Path | None = None,
        log: Log | None = None,
        progress: Progress | None = None,
        checkpoint_s: float = CHECKPOINT_S,
    ) -> None:
        self.supernet, self.data, self.algorithm, self.settings = supernet, data, algorithm, settings
        self.seed, self.folder, self.log, self.checkpoint_s = seed, folder, log, checkpoint_s
        self.ranks = ranks or Ranks.single(supernet.device)
        self.progress = progress or Silent()
        if settings.sync_batch_norm:
            synchronise_batch_norm(supernet.module, self.ranks)
        self.optimizer = optimizer or make_optimizer(supernet.module.parameters(), settings.weights)
        self.weight_step = WeightStep(
            supernet,
            self.optimizer,
            label_smoothing=settings.weights.label_smoothing,
            precision=settings.precision,
            ranks=self.ranks,
        )
        self.position = Position()
        self.warnings: list[str] = []
        self._loss = torch.zeros((), dtype=torch.float64, device=supernet.device)
        self._losses = 0
        self._updated: dict[str, float] = {}
        self._saved = time.monotonic()
        self._task: HeldOut | None = None
        self._scorer: Scorer | None = None
        self._about = About("search", supernet.space.fingerprint, algorithm.name)
        warm = settings.warmup_epochs
        self.phases = (
            Phase("warmup", warm, settings.warmup_lr, 0, False),
            Phase("search", settings.weights.epochs, settings.weights.lr, warm, not algorithm.after_training),
        )

    # -- the whole

    def run(self) -> None:
        """To the end.

        Raises:
            TrainingDiverged: the loss is not finite; a checkpoint from before is kept.
            CheckpointError: the folder's checkpoint is of another search, or one cannot be written.
        """
        self.resume()
        try:
            done = 0
            for phase in self.phases:
                total = phase.epochs * len(self.data.train)
                if self.position.step < done + total:
                    self._train(phase, self.position.step - done, total)
                done += total
            self._remaining_updates()
        finally:
            if self._task is not None:
                self._task.close()
                self._task = None
        if not self.position.finished:
            self.position.finished = True
            self.save()

    def _train(self, phase: Phase, start: int, total: int) -> None:
        epoch, batch = divmod(start, len(self.data.train))
        step = start
        while epoch < phase.epochs:
            for images, labels in self._batches(phase.first_epoch + epoch, batch):
                self._one(phase, step, total, images, labels)
                step += 1
                self._keep(phase, step, total)
            epoch, batch = epoch + 1, 0

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        stream = prefetch(
            self.data.train.epoch(epoch, start=start, shard=self.ranks.shard),
            device=self.supernet.device,
            channels_last=True,
        )
        try:
            yield from stream
        finally:
            stream.close()

    def _one(self, phase: Phase, step: int, total: int, images: Any, labels: torch.Tensor) -> None:
        """One weight step and the architecture updates that are due after it."""
        row = self._path(phase)
        if self.ranks.world > 1:
            self.ranks.agree("the sampled path", row)
        lr = cosine(phase.lr, step, total)
        loss = self.weight_step.loss(row, images, labels)
        self._check(loss, lr)
        self.weight_step.apply(loss, lr)
        self._loss += loss.detach()
        self._losses += 1
        self.position.step += 1
        for _ in range(self._due(phase, step)):
            self._update()

    def _path(self, phase: Phase) -> np.ndarray:
        """A candidate for every decision; decisions that it does not reach have one, too, which plays no part."""
        rng = np.random.default_rng([self.seed, 0x9A7, self.position.step])
        decisions = self.supernet.space.decisions
        if phase.name == "warmup":
            return np.array([rng.integers(len(d)) for d in decisions])
        return np.array([rng.choice(len(p), p=p) for p in self.algorithm.probabilities()])

    def _due(self, phase: Phase, step: int) -> int:
        settings = self.settings
        early = settings.skip_first_epoch and step < len(self.data.train)
        return settings.steps if phase.updates and not early and (step + 1) % settings.every == 0 else 0

    def _check(self, loss: torch.Tensor, lr: float) -> None:
        try:
            check_finite(loss, self.position.step, lr, checkpoint=self.folder)
        except TrainingDiverged:
            if loss.device.type == "cpu":  # found before the step: what there is is still sound
                self.save()
            raise

    # -- architecture updates

    def _update(self) -> None:
        task = self.task
        task.advance()
        self._updated = dict(self.algorithm.update(task, self.position.update))
        self.position.update += 1
        if not all(math.isfinite(value) for value in self._updated.values()):
            raise TrainingDiverged(
                f"architecture update {self.position.update} gave {self._updated}; a smaller learning rate of the "
                "weights may help"
            )
        if self.ranks.world > 1:
            self.ranks.agree("the architecture's probabilities", *self.algorithm.probabilities())

    def _remaining_updates(self) -> None:
        """Those of an algorithm whose updates come when the weights are trained."""
        if not self.algorithm.after_training:
            return
        total = self.algorithm.budget.updates
        while self.position.update < total:
            self._update()
            self.progress.step("search", self.position.update, total)
            self._record("search", float(sum(phase.epochs for phase in self.phases)), 0.0)
            self._save_in_time()

    @property
    def scorer(self) -> Scorer:
        """Of paths of this supernet."""
        if self._scorer is None:
            settings = self.settings
            self._scorer = make_scorer(self.supernet, self.data.train, settings.bn_batches, settings.precision)
        return self._scorer

    @property
    def task(self) -> HeldOut:
        """What the algorithm asks."""
        if self._task is None:
            self._task = HeldOut(
                self.supernet,
                self.scorer,
                self.data.held_out,
                precision=self.settings.precision,
                ranks=self.ranks,
                start=self.position.update,
                fixed=self.algorithm.after_training,
            )
        return self._task

    # -- records, validation, checkpoints

    def _keep(self, phase: Phase, step: int, total: int) -> None:
        """After a weight step and its updates."""
        self.progress.step(phase.name, step, total)
        batches = len(self.data.train)
        valid = {}
        if phase.name == "search" and step % (batches * self.settings.valid_every) == 0:
            valid = {"valid": asdict(self.validate(self.data.held_out))}
        if step % max(1, total // RECORDS) == 0 or step == total or valid:
            self._record(phase.name, step / batches, cosine(phase.lr, step, total), valid)
            self._warn_of_settling(phase)
        self._save_in_time()

    def _record(self, phase: str, epoch: float, lr: float, more: Mapping[str, Any] | None = None) -> None:
        loss = float(self._loss) / self._losses if self._losses else None
        self._loss.zero_()
        self._losses = 0
        probabilities = self.algorithm.probabilities()
        record = {
            "phase": phase,
            "step": self.position.step,
            "epoch": round(epoch, 4),
            "loss": loss,
            "lr": lr,
            **({"updates": self.position.update, "update": self._updated} if self._updated else {}),
            "probabilities": [p.tolist() for p in probabilities],
            "entropy": normalised_entropy(probabilities),
            "expected": self.algorithm.objective.log(probabilities),
            **(more or {}),
        }
        if self.log is not None and self.ranks.rank == 0:
            self.log.log(record)

    def _warn_of_settling(self, phase: Phase) -> None:
        share = self.position.update / max(self.algorithm.budget.updates, 1)
        if not phase.updates or self.warnings or not 0 < share < 1 / 3:
            return
        if np.mean(normalised_entropy(self.algorithm.probabilities())) < COLLAPSED:
            self.warnings.append(
                f"choices settled after {100 * share:.0f} % of the updates (mean normalised entropy below {COLLAPSED}): "
                "a smaller architecture learning rate or a longer warm-up lets them compete longer"
            )

    def validate(self, batches: Batches) -> Accuracy:
        """Accuracy of the network that would be chosen now, with the supernet's weights."""
        with self.scorer.path(self.algorithm.ranked(1)[0].codes) as run:
            return evaluate(run, batches, self.supernet.device, self.ranks)

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_s:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, on one process for all."""
        self._saved = time.monotonic()
        if self.folder is None or self.ranks.rank != 0:
            return
        cuda = torch.cuda.get_rng_state_all() if self.supernet.device.type == "cuda" else []
        state = {
            "position": asdict(self.position),
            "supernet": self.supernet.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
            "algorithm": self.algorithm.state(),
            "objective": self.algorithm.objective.state(),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "metrics": self.log.position() if self.log is not None else 0,
            "loss": self._loss.cpu(),
            "losses": self._losses,
            "updated": self._updated,
            "warnings": self.warnings,
        }
        save_checkpoint(self.folder, self.position.step + self.position.update, state, about=self._about)

    def resume(self) -> bool:
        """Go to where the newest checkpoint is, if there is one; tells whether there was."""
        state = None if self.folder is None else load_checkpoint(self.folder)
        if state is None:
            return False
        self.warnings = [*state["warnings"], *check_checkpoint(state, self._about)]
        self.position = Position(**state["position"])
        self.supernet.module.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.weight_step.scaler.load_state_dict(state["scaler"])
        self.algorithm.load_state(state["algorithm"])
        self.algorithm.objective.load_state(state["objective"])
        self._loss.copy_(state["loss"])
        self._losses, self._updated = state["losses"], dict(state["updated"])
        torch.set_rng_state(state["random"]["cpu"])
        if state["random"]["cuda"] and self.supernet.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        if self.log is not None and self.ranks.rank == 0:
            self.log.truncate(state["metrics"])
        return True
