"""Data from a function of the user's own, and whether data fit a space."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hwnas.search.data.data import Data, DataError, check_data
from hwnas.search.data.registry import load_data
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset, random_split

def batches(n=6, size=4, shape=(1, 8, 8), labels=10):
    return [(torch.full((size, *shape), float(i)), (torch.arange(size) + i) % labels) for i in range(n)]

def lists():
    return batches(), batches(3), batches(2)

def split(batch_size):
    whole = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 10)
    train, held_out, test = random_split(whole, [40, 12, 8])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(held_out, 4), DataLoader(test, 4)

def declared():
    whole = TensorDataset(torch.rand(60, 1, 8, 8), torch.arange(60) % 5)
    whole.classes = list("abcdefg")
    train, held_out, test = random_split(whole, [40, 12, 8])
    return DataLoader(train, 4), DataLoader(held_out, 4), DataLoader(test, 4)

def named():
    from hwnas.search.data.registry import load_data
    return load_data("digits", batch_size=8, arch_batch_size=8, seed=0)

def parts():
    data = named()
    return data.train, data.held_out, data.test

def wants_more(where):
    return lists()

def fails():
    raise ValueError("no such\\nluck")

def nothing():
    return None

def two():
    return batches(), batches()

def numbers():
    return batches(), 3, batches()

def empty():
    return batches(), [], batches()

def same():
    test = batches()
    return batches(), test, test

def uneven():
    return batches(), batches(), batches(shape=(3, 8, 8))

def late_label():
    late = batches()
    late[5][1][2] = 17
    return late, batches(), batches()

def negative():
    wrong = batches()
    wrong[5][1][2] = -1
    return batches(), batches(), wrong
"""

Load = Callable[..., Data]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "loaders.py"
    path.write_text(textwrap.dedent(LOADERS))

    def load_function(name: str, seed: int = 0, held_out: float | None = None, batch_size: int = 8) -> Data:
        return load_data(f"{path}:{name}", batch_size=batch_size, arch_batch_size=4, seed=seed, held_out=held_out)

    return load_function


def images(data: Data, part: str = "train") -> Tensor:
    return torch.cat([x for x, _ in getattr(data, part).epoch(0)])


def test_lists(load: Load) -> None:
    data = load("lists")
    assert (data.input_shape, data.classes, data.exact) == ((1, 8, 8), 9, False)
    assert (len(data.train), len(data.held_out), len(data.test)) == (6, 3, 2)


def test_module_from_the_current_folder(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_loaders_of_data.py").write_text(LOADERS)
    data = load_data("my_loaders_of_data:lists", batch_size=8, arch_batch_size=8, seed=0)
    assert len(data.train) == 6


def test_a_function_gets_the_parameters_it_has(load: Load) -> None:
    assert load("split", batch_size=10).train.batch_size == 10
    assert len(load("split", batch_size=10).train) == 4


def test_a_split_drawn_in_the_function_is_the_same_in_each_run(load: Load) -> None:
    torch.manual_seed(1)
    first = load("split")
    torch.manual_seed(2)
    after = torch.get_rng_state()
    second = load("split")
    assert torch.equal(images(first), images(second))
    assert torch.equal(images(first, "test"), images(second, "test"))
    assert torch.equal(after, torch.get_rng_state())
    assert not torch.equal(images(first), images(load("split", seed=1)))


def test_the_data_set_may_say_how_many_classes_there_are(load: Load) -> None:
    data = load("declared")
    assert (data.classes, data.exact) == (7, True)


def test_batches_and_data_pass_as_they_are(load: Load) -> None:
    assert load("named").name == "digits"
    parts = load("parts")
    assert (parts.input_shape, len(parts.train)) == ((1, 8, 8), len(load("named").train))


def test_without_a_held_out_part(load: Load) -> None:
    data = load("lists", held_out=0.0)
    assert (len(data.train), len(data.held_out)) == (6, 0)
    assert list(data.held_out.epoch(0)) == []
    assert len(load("empty", held_out=0.0).train) == 6


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fails", r"failed: ValueError: no such luck \(.*loaders.py:\d+\)"),
        ("nothing", r"three loaders \(training, held out, test\), not a NoneType"),
        ("two", "not a tuple of 2"),
        ("numbers", "held out loader is a int"),
        ("empty", "held out: the loader is empty"),
        ("same", "the test loader is also given for training"),
        ("uneven", "test images are 3x8x8, but those to train on 1x8x8"),
        ("negative", "test, batch 5: labels must be at least 0, found -1"),
        ("wants_more", "wants 'where', but is given batch_size, arch_batch_size, seed, held_out"),
        ("absent", "no function 'absent'; the module has batches, lists"),
    ],
)
def test_functions_that_do_not_give_data(load: Load, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_missing_file_and_module() -> None:
    for spec, reason in [("absent.py:f", "there is no file absent.py"), ("absent_module_x:f", "there is no module")]:
        with pytest.raises(DataError, match=f"data '{spec}': {reason}"):
            load_data(spec, batch_size=8, arch_batch_size=8, seed=0)


# -- data and space


def space(shape: tuple[int, ...] = (1, 8, 8), outputs: int = 10, head: nn.Module | None = None) -> SearchSpace:
    def net() -> nn.Module:
        choice = LayerChoice([nn.Conv2d(shape[0], 4, k, padding=k // 2) for k in (1, 3)])
        last = head or nn.Linear(4, outputs)
        return nn.Sequential(choice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)

    return SearchSpace(net, shape, name="mine")


def digits() -> Data:
    return load_data("digits", batch_size=8, arch_batch_size=8, seed=0)


def test_data_that_fit() -> None:
    check_data(space(), digits())
    check_data(load_space("proxyless-small", {"resolution": 8}), digits())


def test_inexact_classes_may_be_fewer_than_outputs(load: Load) -> None:
    data = load("lists")
    assert data.classes == 9
    check_data(space(outputs=12), data)
    with pytest.raises(DataError, match="have 9 classes, but space 'mine' has 8 outputs"):
        check_data(space(outputs=8), data)


@pytest.mark.parametrize(
    ("fitted", "reason"),
    [
        (space((1, 28, 28)), "data 'digits' have images of 1x8x8, but space 'mine' takes 1x28x28"),
        (space((3, 8, 8)), "1x8x8, but space 'mine' takes 3x8x8"),
        (space(outputs=7), "data 'digits' have 10 classes, but space 'mine' has 7 outputs"),
        (space(outputs=11), "data 'digits' have 10 classes, but space 'mine' has 11 outputs"),
        (space(head=nn.Unflatten(1, (2, 2))), "space 'mine' gives 1x2x2; to classify"),
    ],
)
def test_data_that_do_not_fit(fitted: SearchSpace, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        check_data(fitted, digits())


def test_a_space_of_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = LayerChoice([nn.Linear(4, 4), nn.Identity()])

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.choice(a) + b

    with pytest.raises(DataError, match="'mine' takes 2 inputs, data 'digits' give one"):
        check_data(SearchSpace(Two, ((4,), (4,)), name="mine"), digits())


def test_a_space_of_tokens() -> None:
    def net() -> nn.Module:
        choice = LayerChoice([nn.Linear(4, 10), nn.Linear(4, 10, bias=False)])
        return nn.Sequential(nn.Flatten(), nn.Embedding(20, 4), choice, nn.AvgPool2d((64, 1)), nn.Flatten())

    tokens = SearchSpace(net, example_inputs=torch.zeros(1, 1, 8, 8, dtype=torch.int64), name="mine")
    with pytest.raises(DataError, match="takes int64 numbers, the images are float32"):
        check_data(tokens, digits())


def test_a_late_label_out_of_range(load: Load) -> None:
    data = load("late_label")
    with pytest.raises(DataError, match="have 18 classes, but space 'mine' has 10 outputs"):
        check_data(space(), data)


def test_checked_loaders_refuse_labels_that_have_no_output(load: Load) -> None:
    data = load("lists")
    check_data(space(outputs=10), data)
    data.train.loader[3][1][0] = 10  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="train, batch 3: labels must be from 0 to 9, found 10"):
        list(data.train.epoch(0))


def test_checking_leaves_the_global_generators_alone(load: Load) -> None:
    data = load("split")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_data(space(), data)
    assert torch.equal(before, torch.get_rng_state())
