"""Sums over operators: predictions against plain addition, expectations against plain averaging."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hwnas.profiler import additive
from hwnas.profiler.additive import CHUNK, AdditiveModel, MissingKeys
from hwnas.spaces import usage as usage_module
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.encoding import Codes
from hwnas.spaces.glue import GLUE
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.spaces.usage import terms, usage
from hwnas.testing.zoo import ZOO
from hwnas.testing.zoo_graphs import Head, Zero
from torch import Tensor, nn

SMALL = [name for name in ZOO if name != "darts"]


def invented(space: SearchSpace, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {w.key(): float(rng.uniform(0.1, 1)) for w in space.workloads()}


def every(space: SearchSpace) -> Codes:
    return np.concatenate(list(space.encoding.enumerate()))


def build(space: SearchSpace, *, live: bool = True, glue: bool = True) -> AdditiveModel:
    needed = terms(space.description, live=live, classes=True, glue=glue)
    values = invented(space) | ({GLUE[0]: 0.05, GLUE[1]: 0.07} if glue else {})
    return AdditiveModel.from_values(space.encoding, space.description, values, live=live, needed=needed)


def added_up(space: SearchSpace, codes: Codes, *, live: bool) -> np.ndarray:
    cost = np.array([*invented(space).values(), 0.0])
    return np.array([cost[used].sum() for used in usage(space.description, codes, live=live)])


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("name", ZOO)
def test_a_prediction_is_the_sum_of_what_is_used(name: str, live: bool) -> None:
    space = ZOO[name]()
    codes = every(space)
    np.testing.assert_allclose(build(space, live=live, glue=False).predict(codes), added_up(space, codes, live=live))


def test_many_rows_are_predicted_like_few() -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    codes = space.encoding.sample(2 * CHUNK + 3, np.random.default_rng(0))
    model = build(space)
    found = model.predict(codes)
    assert found.shape == (len(codes),)
    np.testing.assert_allclose(found[-5:], model.predict(codes[-5:]))
    np.testing.assert_allclose(found[CHUNK - 2 : CHUNK + 2], added_up(space, codes[CHUNK - 2 : CHUNK + 2], live=True))
    assert model.predict(codes[:0]).shape == (0,)


class Glued(nn.Module):
    """One edge beside two in a row; both may be the same pooling of the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a = LayerChoice({"none": Zero(), "pool": nn.AvgPool2d(3, 1, 1)}, label="a")
        self.b = LayerChoice({"none": Zero(), "pool": nn.AvgPool2d(3, 1, 1)}, label="b")
        self.c = LayerChoice({"skip": nn.Identity(), "conv": nn.Conv2d(4, 4, 3, padding=1)}, label="c")
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.as_tensor(self.head(self.b(x) + self.c(self.a(x))))


def test_what_lies_between_operators_is_counted() -> None:
    space = SearchSpace(Glued, (3, 8, 8), name="glued")
    pool, conv, stem, head = (next(w.key() for w in space.workloads() if w.op.startswith(op))
                              for op in ("avgpool", "conv2dk3", "conv2dk1", "adaptive"))  # fmt: skip
    values = {pool: 1.0, conv: 10.0, stem: 100.0, head: 1000.0, GLUE[0]: 1e4, GLUE[1]: 1e5}
    model = AdditiveModel.from_values(space.encoding, space.description, values)
    codes = every(space)
    found = {
        (a.choices["a"], a.choices["b"], a.choices["c"]): float(value)
        for a, value in zip(space.decode(codes), model.predict(codes), strict=True)
    }
    assert found == {
        ("none", "none", "skip"): 0,  # nothing that depends on the input reaches the output
        ("none", "none", "conv"): 0,
        ("none", "pool", "skip"): 1101,
        ("none", "pool", "conv"): 101_101,  # the convolution of zeros is a constant that is added
        ("pool", "none", "skip"): 1101,
        ("pool", "none", "conv"): 1111,
        ("pool", "pool", "skip"): 11_101,  # one pooling for both edges, and a sum
        ("pool", "pool", "conv"): 11_111,
    }


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "candidates"])
@pytest.mark.parametrize("name", SMALL)
def test_an_expectation_is_the_mean_over_all(name: str, classes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if classes:
        monkeypatch.setattr(usage_module, "EXPAND_LIMIT", 0)
    space = ZOO[name]()
    model = build(space)
    rng = np.random.default_rng(1)
    probabilities = [rng.dirichlet(np.ones(len(d))) for d in space.decisions]
    codes = every(space)
    weights = [math.prod(p[c] for p, c in zip(probabilities, row, strict=True) if c >= 0) for row in codes]
    mean = float(np.array(weights) @ model.predict(codes))
    assert model.expected(probabilities) == pytest.approx(mean)
    assert float(model.expected([torch.tensor(p) for p in probabilities])) == pytest.approx(mean)


@pytest.mark.parametrize("name", ["residual", "nested", "shared"])
def test_an_expectation_has_gradients(name: str) -> None:
    model = build(ZOO[name]())
    rng = np.random.default_rng(2)
    logits = [torch.tensor(rng.normal(size=len(d)), requires_grad=True) for d in model.encoding.decisions]

    def expected(*parts: Tensor) -> Tensor:
        return torch.as_tensor(model.expected([part.softmax(0) for part in parts]))

    assert torch.autograd.gradcheck(expected, logits)
    expected(*logits).backward()
    assert any(part.grad is not None and part.grad.abs().max() > 0 for part in logits)


@pytest.mark.parametrize("name", ZOO)
def test_the_range_of_a_small_space_is_exact(name: str) -> None:
    space = ZOO[name]()
    model = build(space)
    values = model.predict(every(space))
    found = model.range
    assert (found.min, found.max) == pytest.approx((values.min(), values.max()))
    rows = np.stack([found.smallest, found.largest])
    assert model.predict(rows).tolist() == [found.min, found.max]
    np.testing.assert_array_equal(space.encoding.canonical(rows), rows)
    assert found.mean == pytest.approx(model.expected([np.full(len(d), 1 / len(d)) for d in space.decisions]))


def test_the_range_of_a_large_space_holds_whatever_is_drawn() -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    model = build(space)
    found = model.range
    values = model.predict(space.encoding.sample(5000, np.random.default_rng(0)))
    assert found.min < values.min()
    assert values.max() < found.max
    assert found.mean == pytest.approx(values.mean(), rel=0.01)
    cheapest = sum(t.costs.min() for t in model.cost_terms)
    assert found.min == pytest.approx(model.constant + cheapest)  # its choices do not interact


def test_local_search_comes_close(monkeypatch: pytest.MonkeyPatch) -> None:
    space = ZOO["darts"]()
    exact = build(space).range
    monkeypatch.setattr(additive, "LISTED", 0)
    found = build(space).range
    assert exact.min == pytest.approx(found.min, rel=0.02)
    assert exact.max == pytest.approx(found.max, rel=0.02)
    assert exact.min <= found.min < found.max <= exact.max


def test_scaled() -> None:
    space = ZOO["residual"]()
    model, codes = build(space), every(space)
    scaled = model.scaled(1.5, 0.25)
    np.testing.assert_allclose(scaled.predict(codes), 1.5 * model.predict(codes) + 0.25)
    assert scaled.range.min == pytest.approx(1.5 * model.range.min + 0.25)
    assert scaled.constant == pytest.approx(1.5 * model.constant + 0.25)


def test_missing_keys_are_named() -> None:
    space = ZOO["residual"]()
    values = invented(space)
    gone = [key for key in values if key.startswith("conv2d")]
    assert gone
    for key in gone:
        del values[key]
    with pytest.raises(MissingKeys, match=rf"^{len(gone)} workload\(s\) .*not in the table: conv2d") as caught:
        AdditiveModel.from_values(space.encoding, space.description, values)
    assert sorted(caught.value.keys) == sorted(gone)
    whole = MissingKeys([str(i) for i in range(8)])
    assert "and 3 more" in str(whole)
    assert len(whole.keys) == 8


def test_another_batch_or_dtype_has_other_keys() -> None:
    space = ZOO["residual"]()
    with pytest.raises(MissingKeys):
        AdditiveModel.from_values(space.encoding, space.describe(2), invented(space))
    with pytest.raises(MissingKeys):
        AdditiveModel.from_values(space.encoding, space.description, invented(space), dtype="int8")
