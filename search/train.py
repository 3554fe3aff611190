"""One architecture trained from a request to a folder with its weights and a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import HwnasError
from ..profiler.progress import Progress
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .checkpoint import About
from .data.data import Data, check_data
from .data.registry import load_data
from .distributed import Ranks
from .drawing import network_png
from .plots import training_png
from .retrain import TrainResult, train_network
from .run import ARCHITECTURE, REPORT, RunFolder
from .settings import Precision, WeightSettings
from .training import Accuracy, compute_device
from .weights import WEIGHTS_FILE, network_with_weights


class TrainError(HwnasError):
    """A training that cannot begin."""


@dataclass(frozen=True)
class TrainRequest:
    """What to train.

    Attributes:
        data: as `load_data` takes it.
        out: the folder; a training that was interrupted there goes on.
        weights: to begin with, as `network_with_weights` takes them; None: drawn from `seed`.
        seed: of fresh weights, of the order of the images and their augmentation, and of what modules draw.
        held_out: share of the training images that are not trained on but looked at after each epoch.
        compute: "auto", "cpu" or "cuda". threads: of torch on the CPU; None: as it is set.
        sync_batch_norm: with several processes, batch statistics over all their images.
        force: begin anew whatever is in `out`.
    """

    space: SearchSpace
    architecture: Architecture
    data: str
    out: Path
    weights: Path | None = None
    settings: WeightSettings = field(default_factory=lambda: WeightSettings(epochs=40))
    seed: int = 0
    held_out: float = 0.0
    compute: str = "auto"
    threads: int | None = None
    precision: Precision = "auto"
    sync_batch_norm: bool = False
    force: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What decides the result, as plain data; and where it is computed."""
        return {
            "space": self.space.name,
            "space_args": dict(self.space.arguments),
            "fingerprint": self.space.fingerprint,
            "architecture": self.architecture.as_dict()["choices"],
            "data": self.data,
            "weights": None if self.weights is None else str(self.weights),
            "settings": asdict(self.settings),
            "seed": self.seed,
            "held_out": self.held_out,
            "precision": self.precision,
            "sync_batch_norm": self.sync_batch_norm,
            "compute": self.compute,
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Trained:
    """A trained network and its record.

    Attributes:
        accuracy: on the test set, which was used for nothing else.
        notes: what the user should know.
    """

    request: TrainRequest
    result: TrainResult
    data: Data
    notes: tuple[str, ...]

    @property
    def accuracy(self) -> Accuracy:
        return self.result.accuracy

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        request, result = self.request, self.result
        return {
            "accuracy": asdict(result.accuracy),
            "held_out": result.held_out,
            "space": request.space.name,
            "space_args": dict(request.space.arguments),
            "architecture": request.architecture.as_dict(),
            "data": request.data,
            "epochs": request.settings.epochs,
            "steps": result.steps,
            "settings": asdict(request.settings),
            "parameters": sum(p.numel() for p in result.network.parameters()),
            "from": None if request.weights is None else str(request.weights),
            "seed": request.seed,
            "seconds": result.seconds,
            "resumed_at": result.resumed_at,
            "weights": str(request.out / WEIGHTS_FILE),
            "out": str(request.out),
            "notes": list(self.notes),
        }


def train(request: TrainRequest, progress: Progress | None = None) -> Trained:
    """Train, test, and write weights, architecture, plots and report into `request.out`.

    Under torchrun, or as one of several processes of `launch`, all of them train together; the first one writes.

    Raises:
        TrainError, DataError, WeightsError: the request does not fit together; nothing was written.
        RunError: the folder holds another run.
        TrainingDiverged: the loss is not finite.
    """
    device = compute_device(request.compute)
    _check(request)
    with _threads(request.threads), Ranks.start(device) as ranks:
        settings = request.settings
        data = load_data(
            request.data,
            batch_size=settings.batch_size,
            arch_batch_size=settings.batch_size,
            seed=request.seed,
            held_out=request.held_out,
        )
        check_data(request.space, data)
        weighted = network_with_weights(request.space, request.architecture, request.weights, seed=request.seed)
        with _folder(request, ranks) as run:
            about = About("train", request.space.fingerprint, network=request.architecture.to_json())
            result = train_network(
                weighted.network,
                data,
                settings,
                run,
                ranks,
                progress=progress,
                seed=request.seed,
                about=about,
                precision=request.precision,
                sync_batch_norm=request.sync_batch_norm,
            )
            trained = Trained(request, result, data, (*run.notes, *result.notes))
            _write(run, trained)
    return trained


def _check(request: TrainRequest) -> None:
    request.space.encode([request.architecture])
    settings = request.settings
    for name, value, least in (("epochs", settings.epochs, 0), ("batch size", settings.batch_size, 1)):
        if value < least:
            raise TrainError(f"{name} {value}: at least {least} is needed")
    if not 0 < settings.lr < float("inf"):
        raise TrainError(f"learning rate {settings.lr}: it must be above 0")
    if request.threads is not None and request.threads < 1:
        raise TrainError(f"{request.threads} threads: at least 1 is needed")


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _folder(request: TrainRequest, ranks: Ranks) -> Iterator[RunFolder]:
    """The run's folder: opened by the first process, before the others look into it."""
    run = RunFolder(request.out)
    if ranks.rank == 0:
        run = RunFolder.open(
            request.out,
            request.as_dict(),
            force=request.force,
            may_differ=("compute", "threads"),
            head="what `hwnas train` was asked; the same command goes on with it.",
        )
    with run:
        ranks.agree("that the folder is open")
        yield run


def _write(run: RunFolder, trained: Trained) -> None:
    """The results, the report last."""
    if not run.writes:
        return
    request = trained.request
    run.write_json(ARCHITECTURE, request.architecture.as_dict())
    for name, picture in _plots(trained).items():
        run.write_bytes(f"plots/{name}.png", picture)
    run.write_json(REPORT, trained.as_dict())


def _plots(trained: Trained) -> Mapping[str, bytes]:
    request, top1 = trained.request, trained.accuracy.top1
    title = f"{request.space.name}, {top1:.2f} % on the test set of {request.data}"
    plots = {"network": network_png(request.space, request.architecture, title=title)}
    if trained.result.history:
        plots["training"] = training_png(trained.result.history)
    return plots
