"""The search itself: warm-up of the weights on random paths, then weights and architecture parameters in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..profiler.progress import Progress, Silent
from .algorithm import Algorithm
from .checkpoint import About, check_checkpoint, load_checkpoint, save_checkpoint
from .data.batches import Batches
from .data.data import Data
from .data.prefetch import prefetch
from .distributed import Ranks, synchronise_batch_norm
from .records import Log, Recorder
from .schedule import Phase, phases, updates_after
from .scoring import Scorer
from .settings import SearchSettings
from .steps import HeldOut, WeightStep, make_scorer
from .supernet import Supernet
from .training import Accuracy, TrainingDiverged, check_finite, evaluate, make_optimizer

RECORDS = 200
"""Lines in the metrics of each phase, about."""
CHECKPOINT_S = 15.0


@dataclass
class Position:
    """How far a search is: weight steps in all, architecture updates, and whether it is over."""

    step: int = 0
    update: int = 0
    finished: bool = False


class Engine:
    """Runs a search from where its last checkpoint left it to the end.

    Args:
        data: what to train on.
        optimizer: of the weights; by default SGD as `settings.weights` says.
        folder: for checkpoints; None keeps none. log: for records.
        checkpoint_s: seconds between two checkpoints, at least.
        resumes: go on from a checkpoint that is there.

    Attributes:
        position: how far it is.
        records: with the warnings.
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
        resumes: bool = True,
    ) -> None:
        self.supernet, self.data, self.algorithm, self.settings = supernet, data, algorithm, settings
        self.seed, self.folder, self.checkpoint_s, self.resumes = seed, folder, checkpoint_s, resumes
        self.ranks = ranks or Ranks.single(supernet.device)
        self.progress = progress or Silent()
        self.records = Recorder(log if self.ranks.rank == 0 else None, supernet.device)
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
        for part in (data.train, data.held_out):
            part.epoch(0, shard=self.ranks.shard)  # refuses now what cannot be shared out evenly
        self.phases = phases(settings, len(data.train), type(algorithm))
        self.position = Position()
        self._about = About("search", supernet.space.fingerprint, algorithm.name)
        self._saved = time.monotonic()

    # -- the whole

    def run(self) -> None:
        """To the end.

        Raises:
            TrainingDiverged: the loss is not finite; a checkpoint from before is kept.
            CheckpointError: the folder's checkpoint is of another search, or one cannot be written.
        """
        if not (self.resumes and self.resume()):
            self.save()  # where the log begins: what is logged before the next checkpoint may have to be forgotten
        self.ranks.agree("what the search begins with", asdict(self.position), *self.supernet.parameters)
        self.optimizer.zero_grad(set_to_none=True)  # of whoever had the model before
        device = self.supernet.device
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                self._go_on()
        finally:
            if "task" in self.__dict__:
                self.__dict__.pop("task").close()
        if not self.position.finished:
            self.position.finished = True
            self.save()

    def _go_on(self) -> None:
        done = 0
        for phase in self.phases:
            if self.position.step < done + phase.steps:
                self._train(phase, self.position.step - done)
            done += phase.steps
        if self.algorithm.after_training:
            self._remaining_updates()

    def _train(self, phase: Phase, step: int) -> None:
        while step < phase.steps:
            epoch, start = divmod(step, phase.batches)
            for images, labels in self._batches(phase.first_epoch + epoch, start):
                self._one(phase, step, images, labels)
                step += 1
                self._keep(phase, step)

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        batches = self.data.train.epoch(epoch, start=start, shard=self.ranks.shard)
        stream: Any = prefetch(batches, device=self.supernet.device, channels_last=self.supernet.channels_last)
        try:
            yield from stream
        finally:
            stream.close()

    def _one(self, phase: Phase, step: int, images: Any, labels: torch.Tensor) -> None:
        """One weight step, and the architecture updates that are due after it."""
        self._seed_modules()
        row = self._path(phase)
        self.ranks.agree("the sampled path", row)
        lr = phase.rate(step)
        loss = self.weight_step.loss(row, images, labels)
        self._check(loss, lr)
        self.weight_step.apply(loss, lr)
        self.records.add(loss)
        self.position.step += 1
        for _ in range(updates_after(self.settings, phase, step)):
            self._update()

    def _path(self, phase: Phase) -> np.ndarray:
        """A candidate for every decision; one that the others do not reach plays no part."""
        rng = np.random.default_rng([self.seed, 0x9A7, self.position.step])
        if phase.name == "warmup":
            return np.array([rng.integers(len(d)) for d in self.supernet.space.decisions])
        return np.array([rng.choice(len(p), p=p) for p in self.algorithm.probabilities()])

    def _seed_modules(self) -> None:
        """What modules draw depends on the position alone, so that a checkpoint needs no generator's state."""
        numbers = [self.seed, self.ranks.rank, self.position.step, self.position.update]
        word = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
        if self.supernet.device.type == "cuda":
            torch.cuda.manual_seed(word)
        torch.default_generator.manual_seed(word)

    def _check(self, loss: torch.Tensor, lr: float) -> None:
        try:
            check_finite(loss, self.position.step, lr, checkpoint=self.folder)
        except TrainingDiverged:
            if loss.device.type == "cpu":  # seen before the step was made: what there is is still sound
                self.save()
            raise

    # -- architecture updates

    def _update(self) -> None:
        self._seed_modules()
        self.task.advance()
        try:
            self.records.updated = dict(self.algorithm.update(self.task, self.position.update))
        except TrainingDiverged as error:
            raise self._diverged(str(error)) from error
        if not all(math.isfinite(value) for value in self.records.updated.values()):
            raise self._diverged(str(self.records.updated))
        self.position.update += 1
        self.ranks.agree("the architecture's probabilities", *self.algorithm.probabilities())

    def _diverged(self, what: str) -> TrainingDiverged:
        kept = f"; the last checkpoint before it is in {self.folder}" if self.folder is not None else ""
        return TrainingDiverged(
            f"training diverged: architecture update {self.position.update} gave {what}, at step {self.position.step}, "
            f"with learning rate {self.optimizer.param_groups[0]['lr']:.4g}{kept}; try a smaller learning rate"
        )

    def _remaining_updates(self) -> None:
        """Those of an algorithm whose updates come when the weights are trained."""
        total = self.algorithm.budget.updates
        while self.position.update < total:
            self._update()
            self.progress.step("search", self.position.update, total)
            self._record("search", float(sum(phase.epochs for phase in self.phases)), 0.0)
            self._save_in_time()

    @cached_property
    def scorer(self) -> Scorer:
        """Of paths of this supernet."""
        return make_scorer(self.supernet, self.data.train, self.settings.bn_batches, self.settings.precision)

    @cached_property
    def task(self) -> HeldOut:
        """What the algorithm asks; its batches go on with the next update's."""
        return HeldOut(
            self.supernet,
            self.scorer,
            self.data.held_out,
            precision=self.settings.precision,
            ranks=self.ranks,
            start=self.position.update,
            fixed=self.algorithm.after_training,
        )

    # -- records, validation, checkpoints

    def _keep(self, phase: Phase, step: int) -> None:
        """After a weight step and its updates."""
        name = "warm-up" if phase.name == "warmup" else "training" if self.algorithm.after_training else "search"
        self.progress.step(name, step, phase.steps)
        valid = {}
        if phase.updates and step % (phase.batches * self.settings.valid_every) == 0:
            valid = {"valid": asdict(self.validate(self.data.held_out))}
        if step % max(1, phase.steps // RECORDS) == 0 or step == phase.steps or valid:
            self._record(phase.name, step / phase.batches, phase.rate(step), **valid)
            if phase.updates:
                self.records.warn_of_settling(self.algorithm, self.position.update)
        self._save_in_time()

    def _record(self, phase: str, epoch: float, lr: float, **more: Any) -> None:
        position = {"phase": phase, "step": self.position.step, "updates": self.position.update}
        self.records.record(self.algorithm, {**position, "epoch": round(epoch, 4), "lr": lr}, more)

    def accuracy(self, row: np.ndarray, batches: Batches) -> Accuracy:
        """Accuracy of a network with the supernet's weights."""
        with self.scorer.path(row) as run:
            return evaluate(run, batches, self.supernet.device, self.ranks)

    def validate(self, batches: Batches) -> Accuracy:
        """Accuracy of the network that would be chosen now, with the supernet's weights."""
        return self.accuracy(self.algorithm.ranked(1)[0].codes, batches)

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_s:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, on one process for all."""
        self._saved = time.monotonic()
        if self.folder is None or self.ranks.rank != 0:
            return
        state = {
            "position": asdict(self.position),
            "supernet": self.supernet.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.weight_step.scaler.state_dict(),
            "algorithm": self.algorithm.state(),
            "objective": self.algorithm.objective.state(),
            "records": self.records.state(),
        }
        save_checkpoint(self.folder, self.position.step + self.position.update, state, about=self._about)

    def resume(self) -> bool:
        """Go to where the newest checkpoint is, if there is one; tells whether there was."""
        state = None if self.folder is None else load_checkpoint(self.folder)
        if state is None:
            return False
        doubts = check_checkpoint(state, self._about)
        self.position = Position(**state["position"])
        self.supernet.module.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.weight_step.scaler.load_state_dict(state["scaler"])
        self.algorithm.load_state(state["algorithm"])
        self.algorithm.objective.load_state(state["objective"])
        self.records.load_state(state["records"], truncate=not self.position.finished)
        self.records.warnings += doubts
        return True
