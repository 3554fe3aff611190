"""The algorithms of this package against their contract."""

from __future__ import annotations

from hwnas.testing.search import AlgorithmConformance


class TestGradient(AlgorithmConformance):
    name = "gradient"


class TestReinforce(AlgorithmConformance):
    name = "reinforce"


class TestEvolution(AlgorithmConformance):
    name = "evolution"


class TestRandom(AlgorithmConformance):
    name = "random"


class TestReinforceWithNestedChoices(AlgorithmConformance):
    name = "reinforce"
    zoo = "nested"


class TestEvolutionWithNestedChoices(AlgorithmConformance):
    name = "evolution"
    zoo = "nested"
