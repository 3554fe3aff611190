"""A whole search, from prepared parts to its report: search, landing, training, export, pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..errors import HwnasError
from ..profiler.progress import Progress
from ..spaces.architecture import Architecture
from .algorithm import Algorithm, Budget, SearchError
from .algorithms import algorithm_settings, algorithm_type, create_algorithm
from .config import SearchConfig
from .deployed import write_models
from .depthwise import with_quick_depthwise
from .derive import Derived, most_probable
from .distributed import Ranks
from .drawing import network_png
from .engine import Engine
from .goals import Goal, Latency
from .landed import Landing
from .landing import LandingRequest, land
from .measured import DeviceLatency
from .objective import LOW, Objective
from .plots import Aim, search_plots
from .preparation import Prepared
from .run import ARCHITECTURE, REPORT, RunFolder
from .schedule import planned_updates
from .supernet import Supernet
from .told_goals import told_goals
from .train import Trained, TrainRequest, train
from .weights import WEIGHTS_FILE

LANDING = "landing.json"
KEPT = 50
"""Networks that an algorithm which ranks what it scored hands to landing."""


@dataclass(frozen=True)
class Found:
    """What the search phase gave.

    Attributes:
        codes: (decisions,) the network.
        supernet_accuracy: percent, on the test set, with the supernet's weights.
        landing: None where nothing could be measured.
    """

    codes: np.ndarray
    supernet_accuracy: float
    landing: Landing | None


class SearchJob:
    """Carries out a search in its folder; one that was interrupted goes on where it stopped.

    Args:
        config: what was asked. prepared: what it needs, checked.
        folder: of the run. ranks: the processes that train together; the first one measures and writes.
    """

    def __init__(self, config: SearchConfig, prepared: Prepared, folder: RunFolder, ranks: Ranks) -> None:
        self.config, self.prepared, self.folder, self.ranks = config, prepared, folder, ranks
        self.space = prepared.space
        self.settings = config.search
        self.warnings: list[str] = []
        self.doubts: list[str] = []

    def run(self, progress: Progress) -> Mapping[str, Any]:
        """To the end; gives the report, which is also in the folder.

        Raises:
            HwnasError: what `Engine.run` and `train` raise.
        """
        start = time.monotonic()
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.config.seed)
            found = self._search(progress)
        architecture = self.space.decode(found.codes[None])[0]
        self.folder.write_json(ARCHITECTURE, architecture.as_dict())
        trained = self._train(architecture, progress)
        self._export(architecture, trained)
        self._draw(architecture)
        report = self._report(architecture, found, trained, time.monotonic() - start)
        self.folder.write_json(REPORT, report)
        return report

    # -- search

    def _search(self, progress: Progress) -> Found:
        with self._latency(progress) as latency:
            objective = Objective(latency, self.settings.objective)
            engine = self._engine(objective, progress)
            engine.run()
            self.warnings += engine.records.warnings
            self._note_far(engine.algorithm, objective)
            landing = self._land(engine.algorithm, objective, progress)
            codes = engine.algorithm.ranked(1)[0].codes if landing is None else self._codes(landing)
        codes = self.ranks.gather(codes)[0]
        accuracy = engine.accuracy(codes, self.prepared.data.test).top1
        return Found(codes, accuracy, landing)

    @contextmanager
    def _latency(self, progress: Progress) -> Iterator[Latency | None]:
        """What the objective asks: the predictors, or the device itself."""
        if self.config.latency == "predicted":
            yield self.prepared.held
            return
        if self.ranks.world > 1:
            raise SearchError("latency is measured by one process alone: leave out --nproc, or search with a table")
        final, goal = self.prepared.final, self.config.goals[0]
        assert final.device is not None
        assert goal.target is not None
        origin = self.prepared.predictors[0].origin if self.prepared.predictors else None
        measuring = DeviceLatency(
            self.space,
            final.device,
            self.folder.path,
            origin=origin,
            agent=self.config.agent,
            agent_python=self.config.agent_python,
            seed=self.config.seed,
            progress=progress,
            calibration=self.prepared.calibration,
        )
        with measuring:
            yield Latency(self.space, [Goal(measuring, goal.target, goal.weight)])

    def _engine(self, objective: Objective, progress: Progress) -> Engine:
        settings, data, name = self.settings, self.prepared.data, self.settings.algorithm
        own = algorithm_settings(name, settings)
        updates = planned_updates(settings, len(data.train), algorithm_type(name), own)
        algorithm = create_algorithm(name, self.space, objective, settings, Budget(updates), self.config.seed)
        supernet = Supernet(self.space, with_quick_depthwise(self.space.supernet()), self.ranks.device)
        self.ranks.agree("the initial weights", *supernet.parameters)
        return Engine(
            supernet,
            data,
            algorithm,
            settings,
            seed=self.config.seed,
            ranks=self.ranks,
            folder=self.folder.checkpoint / "search",
            log=self.folder,
            progress=progress,
        )

    def _note_far(self, algorithm: Algorithm, objective: Objective) -> None:
        if self.prepared.latency is not None and self.config.latency == "predicted":
            self.warnings += objective.far(algorithm.ranked(1)[0].ratio)

    # -- landing

    def _land(self, algorithm: Algorithm, objective: Objective, progress: Progress) -> Landing | None:
        """Measure what was found and choose; once, and on one process for all."""
        final = self.prepared.final
        if final.device is None:
            self.doubts.append(f"the result was not measured: {final.reason}")
            return None
        if self.ranks.rank != 0:
            return None
        stored = self.folder.read_json(LANDING)
        if stored is not None:
            return Landing.from_dict(stored)
        request = LandingRequest(
            space=self.space,
            latency=self.prepared.latency or objective.latency,
            derive=self._derive(algorithm, objective),
            device=final.device,
            folder=self.folder.path,
            rule=objective.rule,
            settings=self.config.landing,
            goal=final.goal,
            predictor=self.prepared.predictors[final.goal] if self.prepared.predictors else None,
            seed=self.config.seed,
            agent=self.config.agent,
            agent_python=self.config.agent_python,
            calibration=self.prepared.calibration,
        )
        try:
            landing = land(request, progress)
        except HwnasError as error:
            self.doubts.append(f"the result was not measured: {error}")
            return None
        self.folder.write_json(LANDING, landing.as_dict())
        return landing

    def _derive(self, algorithm: Algorithm, objective: Objective) -> Any:
        """Where landing gets candidates from: the probabilities, or what the algorithm has scored."""
        latency = self.prepared.held
        if algorithm.after_training or latency is None:
            return list(algorithm.ranked(KEPT))

        def derive(n: int, scale: float) -> Sequence[Derived]:
            probabilities = algorithm.probabilities()
            return most_probable(self.space, probabilities, latency, rule=objective.rule, n=n, scale=scale)

        return derive

    def _codes(self, landing: Landing) -> np.ndarray:
        codes: np.ndarray = self.space.encode([landing.chosen])[0]
        return codes

    # -- what becomes of the network

    def _train(self, architecture: Architecture, progress: Progress) -> Trained | None:
        final = self.config.final
        if not final.weights.epochs:
            return None
        request = TrainRequest(
            space=self.space,
            architecture=architecture,
            data=self.config.data or "",
            out=self.folder.path / "final",
            weights=self.folder.checkpoint / "search" if final.init == "supernet" else None,
            settings=final.weights,
            seed=self.config.seed,
            compute=self.config.compute,
            precision=self.settings.precision,
            sync_batch_norm=self.settings.sync_batch_norm,
            force=not self.folder.resumed,
        )
        trained = train(request, progress)
        self.warnings += trained.notes
        return trained

    def _export(self, architecture: Architecture, trained: Trained | None) -> None:
        """The deployable models."""
        if trained is None or self.ranks.rank != 0:
            return
        folder = self.folder.path
        self.warnings += write_models(self.prepared, architecture, folder, folder / "final" / WEIGHTS_FILE)

    def _draw(self, architecture: Architecture) -> None:
        if self.ranks.rank != 0:
            return
        latency = self.prepared.latency
        names = latency.names if latency is not None else ()
        aims = [
            Aim(name if len(names) > 1 else "", goal.predictor.unit, goal.target, LOW)
            for name, goal in zip(names, latency.goals if latency is not None else (), strict=True)
        ]
        pictures = search_plots(self.folder.records(), self.space, aims)
        pictures["network"] = network_png(self.space, architecture, title=f"{self.space.name}: what was found")
        for name, picture in pictures.items():
            self.folder.write_bytes(f"plots/{name}.png", picture)

    # -- the report

    def _report(
        self, architecture: Architecture, found: Found, trained: Trained | None, seconds: float
    ) -> dict[str, Any]:
        landing, goals = found.landing, told_goals(self.config, self.prepared, found.codes)
        first: dict[str, Any] = {"unit": None, "target": None, "predicted": None}
        if goals:
            first |= {key: goals[self.prepared.final.goal][key] for key in first}
        elif landing is not None:
            first |= {"unit": landing.unit, "target": landing.target}
        if landing is not None:
            self.doubts += landing.doubts
        measured = landing.measured if landing is not None else None
        return {
            **first,
            "measured": None if measured is None else measured.value,
            "wall_p50": None if measured is None else measured.wall_p50,
            "wall_p90": None if measured is None else measured.wall_p90,
            "deviation": None if landing is None else landing.deviation,
            "accuracy": found.supernet_accuracy if trained is None else trained.accuracy.top1,
            "top5": None if trained is None else trained.accuracy.top5,
            "supernet_accuracy": found.supernet_accuracy,
            "algorithm": self.settings.algorithm,
            "space": self.space.name,
            "data": self.config.data,
            "seed": self.config.seed,
            "seconds": seconds,
            "architecture": architecture.as_dict(),
            "goals": goals,
            "landing": [] if landing is None else [candidate.as_dict() for candidate in landing.candidates],
            "factor": None if landing is None else landing.factor,
            "drift": None if landing is None else landing.drift,
            "final": None if trained is None else asdict(trained.accuracy),
            "warnings": list(dict.fromkeys(self.warnings)),
            "doubts": list(dict.fromkeys(self.doubts)),
        }
