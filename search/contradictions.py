"""What no single key shows: settings that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .algorithms import algorithm_names
from .layers import Layers
from .validation import ConfigError, Problem, nearest

if TYPE_CHECKING:
    from .config import SearchConfig


def check_together(config: SearchConfig, layers: Layers) -> None:
    """Raise ConfigError for the first contradiction, naming where its value came from."""
    for check in (_algorithm, _goals, _measured, _training):
        for problem in check(config):
            raise ConfigError(layers.located(problem))
    mode = layers.source("search.gradient.mode")
    if mode == "--mode" and config.search.algorithm != "gradient":
        raise ConfigError(f"--mode is of the algorithm gradient, {config.search.algorithm} is asked for")


def _algorithm(config: SearchConfig) -> Iterator[Problem]:
    key, name = "search.algorithm", config.search.algorithm
    known = algorithm_names()
    if name not in known:
        near = nearest(name, known)
        hint = f"; nearest is {near}" if near else ""
        yield Problem(key, f"there is no algorithm {name!r}, there are {', '.join(known)}{hint}")


def _goals(config: SearchConfig) -> Iterator[Problem]:
    objective = config.search.objective
    if objective.coverage is not None and objective.kind != "limit":
        yield Problem(
            "search.objective.coverage", f"a coverage is of the limit (--limit), the objective is {objective.kind}"
        )
    if objective.kind == "none":
        if any(goal.target is not None for goal in config.goals):
            yield Problem("goals", "a target is given, but the objective none leaves latency out")
        if objective.derive in ("band", "limit"):
            yield Problem("search.objective.derive", f"{objective.derive!r} needs a target, the objective is none")
        return
    if not config.goals:
        yield Problem(
            "goals", "--predictor and --target are missing; a search that leaves latency out has --objective none"
        )
    for i, goal in enumerate(config.goals):
        if goal.target is None:
            yield Problem(f"goals.{i}", f"the predictor {goal.predictor} has no target: give --target")
        if goal.predictor is None and config.latency == "predicted":
            yield Problem(f"goals.{i}", f"the target {goal.target} has no predictor: give --predictor")
    files = [goal.predictor for goal in config.goals if goal.predictor is not None]
    for name in {name for name in files if files.count(name) > 1}:
        yield Problem("goals", f"the predictor {name} has several targets")
    if objective.kind == "limit" and objective.derive == "band":
        yield Problem("search.objective.derive", "'band' has a lower end, which the objective limit leaves open")


def _measured(config: SearchConfig) -> Iterator[Problem]:
    if config.latency != "measured":
        return
    key, predicted = "latency", [goal.predictor for goal in config.goals if goal.predictor is not None]
    if config.search.algorithm == "gradient":
        yield Problem(key, "latency cannot be measured for gradient, which differentiates it: take reinforce")
    if config.search.algorithm in ("evolution", "random"):
        name = config.search.algorithm
        yield Problem(
            key, f"{name} looks for networks on target by prediction: give --predictor alone, or take reinforce"
        )
    if config.search.objective.coverage is not None:
        yield Problem(key, "latency that is measured has no interval: leave out search.objective.coverage")
    if config.search.objective.kind == "none":
        yield Problem(key, "latency is to be measured, but the objective none leaves it out")
    if len(config.goals) > 1:
        yield Problem(key, f"latency is measured on one device, {len(config.goals)} targets are given")
    if not predicted and config.device is None:
        yield Problem(key, "latency is to be measured: say where, by --device or by a --predictor that was made there")


def _training(config: SearchConfig) -> Iterator[Problem]:
    for key, weights in (("search.weights", config.search.weights), ("final.weights", config.final.weights)):
        if weights.nesterov and weights.momentum == 0:
            yield Problem(f"{key}.nesterov", f"{key}.nesterov needs a {key}.momentum above 0")
    evolution, gradient = config.search.evolution, config.search.gradient
    if evolution.tournament > evolution.population:
        yield Problem(
            "search.evolution.tournament",
            f"search.evolution.tournament is {evolution.tournament}, larger than the population {evolution.population}",
        )
    if gradient.mode == "two" and gradient.betas[0] != 0 and config.search.algorithm == "gradient":
        yield Problem("search.gradient.betas", "mode two needs a first beta of 0 (search.gradient.betas)")
    if config.agent is not None and config.agent_python is not None:
        yield Problem("agent", "--agent and --agent-python exclude each other")
