"""Units of work of `search_accuracy`: warm-ups, searches and trainings on few images, each done by one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hwnas.errors import HwnasError
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.registry import load_predictor
from hwnas.search.algorithm import Budget
from hwnas.search.algorithms import algorithm_settings, algorithm_type, create_algorithm
from hwnas.search.checkpoint import load_checkpoint
from hwnas.search.data.batches import TensorBatches
from hwnas.search.data.data import Data, check_data
from hwnas.search.data.registry import load_data
from hwnas.search.data.seeds import generator_of
from hwnas.search.data.splits import Request, split_training
from hwnas.search.depthwise import with_quick_depthwise
from hwnas.search.derive import draw_in_band
from hwnas.search.engine import Engine, Position
from hwnas.search.goals import Goal, Latency
from hwnas.search.objective import Objective
from hwnas.search.retrain import train_network
from hwnas.search.schedule import planned_updates
from hwnas.search.settings import EvolutionSettings, RandomSettings, SearchSettings, WeightSettings
from hwnas.search.supernet import Supernet
from hwnas.search.weights import network_with_weights
from hwnas.spaces.encoding import Codes
from hwnas.spaces.registry import load_space

SPACE = "proxyless-small"
SHARE = 0.25
HELD_OUT, HELD_OUT_BATCH = 0.2, 50
DRAWN = "random architectures"
WAYS = ("gradient", "reinforce", "random", "evolution", "flops")
SCORING = ("random", "evolution")


@dataclass(frozen=True)
class Setup:
    """What decides the result of a unit.

    Attributes:
        images: for training. seed: of their choice, and of the random architectures.
        epochs: of the warm-up, the search, and the training of a found network.
        scored: networks that random search and evolution score.
    """

    table: str
    data: str
    images: int
    seed: int
    epochs: tuple[int, int, int]
    scored: int


@dataclass(frozen=True)
class Unit:
    """A piece of work.

    Attributes:
        kind: "warm-up", "supernet" (what scoring ways score on), "search" or "retraining".
        way: of the last two. seed: of the search; number of a random architecture. number: of the retraining.
    """

    kind: str
    way: str
    seed: int
    number: int = 0

    @property
    def needs(self) -> Unit | None:
        """What must be done before."""
        if self.kind == "search" and self.way in SCORING:
            return Unit("supernet", "", self.seed)
        if self.kind in ("search", "supernet"):
            return Unit("warm-up", "", self.seed)
        return None if self.kind == "warm-up" or self.way == DRAWN else Unit("search", self.way, self.seed)

    def state(self, where: Path) -> Path:
        """Folder of the supernet that it leaves."""
        return where / f"{self.kind}-{self.seed}"


def units_of(ways: Sequence[str], seeds: int, retrainings: int, random: int) -> list[Unit]:
    """All that is to be done, seed by seed, the random architectures spread among them."""
    found: dict[Unit, None] = {}
    for seed in range(seeds):
        for way in ways:
            chain = [Unit("search", way, seed)]
            while (before := chain[0].needs) is not None:
                chain.insert(0, before)
            found |= dict.fromkeys(chain)
        found |= dict.fromkeys(Unit("retraining", way, seed, k) for way in ways for k in range(retrainings))
        found |= dict.fromkeys(Unit("retraining", DRAWN, i) for i in range(seed, random, seeds))
    return list(found)


class Bench:
    """What all units share: the space, the data, and the two targets."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.space = setup, load_space(SPACE)
        table = load_predictor(setup.table, self.space)
        low, high = table.predict_codes(table.extremes()).tolist()
        self.latency = Latency(self.space, [Goal(table, low + SHARE * (high - low))])
        counted = FlopsPredictor.of(self.space)
        rows = draw_in_band(self.space, self.latency, 1000, np.random.default_rng(0), rule="band")
        equal = counted.predict_codes(rows).mean() / self.latency.ratio(rows).mean()
        self.mmacs = Latency(self.space, [Goal(counted, float(equal))])
        self.source = load_data(setup.data, batch_size=64, arch_batch_size=64, seed=0, held_out=0.0)
        check_data(self.space, self.source)
        train = self.source.train
        if not isinstance(train, TensorBatches):
            raise HwnasError(f"data {setup.data}: they must lie in memory, such as mnist5k or digits:28")
        order = generator_of("images of the benchmark", setup.seed).permutation(len(train.labels))
        each = setup.images // self.source.classes
        by_class = [order[train.labels[order].numpy() == c][:each] for c in range(self.source.classes)]
        self.rows = np.concatenate(by_class)
        if len(self.rows) < self.source.classes * each:
            raise HwnasError(f"data {setup.data} have fewer than {setup.images} training images, as many of each class")
        self.train = train

    def data(self, settings: WeightSettings, seed: int, held_out: float) -> Data:
        """The training images in their parts, in an order of this seed."""
        labels = self.train.labels[self.rows].numpy()
        request = Request(settings.batch_size, HELD_OUT_BATCH, seed, held_out)
        parts = [self.rows[part] for part in split_training(labels, request, self.setup.data)]

        def batches(rows: np.ndarray, split: str, size: int, shift: int) -> TensorBatches:
            source = self.train
            images = source.shifted[rows, :, source.shift, source.shift]
            about: dict[str, Any] = {"mean": source.mean, "std": source.std, "name": self.setup.data, "split": split}
            return TensorBatches(images, source.labels[rows], size, seed=seed, shuffled=True, shift=shift, **about)

        kept = batches(parts[0], "train", settings.batch_size, self.train.shift)
        return replace(self.source, train=kept, held_out=batches(parts[1], "held out", HELD_OUT_BATCH, 0))

    def settings(self, unit: Unit) -> SearchSettings:
        """The library's own but for the epochs and the networks scored; a warm-up is a search that ends there."""
        warm_up, search, _ = self.setup.epochs
        updates = -(-self.setup.scored // RandomSettings().batch) if unit.kind == "search" else 0
        return SearchSettings(
            algorithm="gradient" if unit.way == "flops" else unit.way or "random",
            warmup_epochs=warm_up,
            weights=WeightSettings(epochs=0 if unit.kind == "warm-up" else search),
            arch_batch_size=HELD_OUT_BATCH,
            random=RandomSettings(updates=updates),
            evolution=EvolutionSettings(updates=updates),
        )

    def search(self, unit: Unit, where: Path) -> Codes:
        """(decisions,) the network that is found; it begins with the supernet that it needs, and leaves its own."""
        settings = self.settings(unit)
        name, data = settings.algorithm, self.data(settings.weights, unit.seed, HELD_OUT)
        own = algorithm_settings(name, settings)
        budget = Budget(planned_updates(settings, len(data.train), algorithm_type(name), own))
        objective = Objective(self.mmacs if unit.way == "flops" else self.latency, settings.objective)
        algorithm = create_algorithm(name, self.space, objective, settings, budget, unit.seed)
        torch.manual_seed(unit.seed)
        supernet = Supernet(self.space, with_quick_depthwise(self.space.supernet()))
        kept = None if unit.kind == "search" else unit.state(where)
        engine = Engine(supernet, data, algorithm, settings, seed=unit.seed, folder=kept)
        if unit.needs is not None:
            state = load_checkpoint(unit.needs.state(where))
            if state is None:
                raise HwnasError(f"{unit.needs.state(where)} is gone: give another --out")
            supernet.module.load_state_dict(state["supernet"])
            engine.optimizer.load_state_dict(state["optimizer"])
            engine.position = Position(state["position"]["step"])
        engine.run()
        return np.asarray(algorithm.ranked(1)[0].codes)

    def retrain(self, unit: Unit, row: Codes) -> float:
        """Test accuracy, percent; a seed's ways are trained alike."""
        words = [self.setup.seed, unit.way == DRAWN, unit.seed, unit.number]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        settings = WeightSettings(epochs=self.setup.epochs[2])
        network = network_with_weights(self.space, self.space.decode(row[None])[0], seed=seed).network
        return train_network(network, self.data(settings, seed, 0.0), settings, seed=seed).accuracy.top1

    def drawn(self, number: int) -> Codes:
        """A random architecture on target."""
        rng = np.random.default_rng([self.setup.seed, 0xD2A, number])
        return np.asarray(draw_in_band(self.space, self.latency, 1, rng, rule="band")[0])


prepared = cache(Bench)


def work(setup: Setup, unit: Unit, where: Path, codes: Sequence[int] | None) -> dict[str, Any]:
    """Do a unit, in a process of the pool; `codes` is the network that was found."""
    bench = prepared(setup)
    wall, cpu = time.monotonic(), time.process_time()
    found: dict[str, Any] = {}
    if unit.kind == "retraining":
        row = bench.drawn(unit.seed) if codes is None else np.array(codes, np.int16)
        found["accuracy"] = bench.retrain(unit, row)
    else:
        row = bench.search(unit, where)
    found |= {"codes": row.tolist(), "ratio": float(bench.latency.ratio(row[None])[0])}
    spent = {"seconds": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    return {"unit": asdict(unit), **found, **spent}
