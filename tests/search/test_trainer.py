"""The trainer of the seed document: its arguments, its example, and models of one's own."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.errors import HwnasError
from hwnas.predictors.base import MissingMeasurements
from hwnas.search import ProxylessNasTrainer
from hwnas.search.checkpoint import load_checkpoint
from hwnas.search.data.data import DataError
from hwnas.search.goals import TargetUnreachable
from hwnas.search.settings import ObjectiveSettings
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import made_up_table
from hwnas.tests.search.tiny import CLASSES, SIDE, Hook, Lines, Nested, Net, bent, digest, tiny_images
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SEED_ARGUMENTS = {
    "model": inspect.Parameter.empty,
    "model_optim": inspect.Parameter.empty,
    "device": inspect.Parameter.empty,
    "train_loader": inspect.Parameter.empty,
    "valid_loader": inspect.Parameter.empty,
    "label_smoothing": 0.1,
    "n_epochs": 120,
    "init_lr": 0.025,
    "binary_mode": "full_v2",
    "arch_init_type": "normal",
    "arch_init_ratio": 1e-3,
    "arch_optim_lr": 1e-3,
    "arch_weight_decay": 0,
    "grad_update_arch_param_every": 5,
    "grad_update_steps": 1,
    "warmup": True,
    "warmup_epochs": 25,
    "arch_valid_frequency": 1,
    "load_ckpt": False,
    "ckpt_path": None,
    "arch_path": None,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loaders(batch: int = 12, n: int = 60) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """For weights and for the architecture, of different images."""
    images, labels = tiny_images(n)
    train = TensorDataset(images[: n // 2], torch.from_numpy(labels[: n // 2]))
    valid = TensorDataset(images[n // 2 :], torch.from_numpy(labels[n // 2 :]))
    return DataLoader(train, batch, shuffle=True, drop_last=True), DataLoader(valid, batch, shuffle=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=4e-5)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def trainer_of(model: nn.Module | None = None, **more: Any) -> ProxylessNasTrainer:
    """With 2 batches in an epoch, a warm-up of one epoch and 3 of search."""
    model = seeded(Net) if model is None else model
    train, valid = more.pop("loaders", None) or loaders()
    given = {"n_epochs": 3, "warmup_epochs": 1, "grad_update_arch_param_every": 1, "arch_optim_lr": 0.1, **more}
    given = {"model_optim": sgd(model), "device": "cpu", **given}
    return ProxylessNasTrainer(model, train_loader=train, valid_loader=valid, **given)


# -- the seed's


def test_every_argument_of_the_seed_has_its_name_place_and_default() -> None:
    parameters = list(inspect.signature(ProxylessNasTrainer).parameters.values())
    own = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in own] == list(SEED_ARGUMENTS.items())
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[len(own) :])
    more = {p.name for p in parameters[len(own) :]}
    assert {"predictor", "objective", "target", "algorithm", "target_hardware"} <= more


class Least(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pick = LayerChoice([nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 5, padding=1)])
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pick(x).mean((2, 3)))


def test_the_usage_example_runs_as_written(tmp_path: Path) -> None:
    """With every default: 25 epochs of warm-up and 120 of search."""
    model = Least()
    optimizer = sgd(model)
    train, valid = loaders(batch=30)
    data_provider = Namespace(train=train, valid=valid)
    device = torch.device("cpu")
    args = Namespace(checkpoint_path=str(tmp_path / "search"), arch_path=str(tmp_path / "arch_path.json"))

    trainer = ProxylessNasTrainer(
        model,
        model_optim=optimizer,
        train_loader=data_provider.train,
        valid_loader=data_provider.valid,
        device=device,
        warmup=True,
        ckpt_path=args.checkpoint_path,
        arch_path=args.arch_path,
    )
    trainer.train()
    trainer.export(args.arch_path)

    assert trainer.engine.position.step == 145
    assert trainer.engine.position.update == 24
    found = Architecture.from_json(Path(args.arch_path).read_text())
    assert found in list(SearchSpace(Least, (1, SIDE, SIDE), name="Least").enumerate())
    kept = load_checkpoint(tmp_path / "search")
    assert kept is not None
    assert kept["position"]["finished"]


def test_arguments_mean_what_they_say() -> None:
    lines = Lines()
    trainer = trainer_of(
        label_smoothing=0.2,
        n_epochs=4,
        init_lr=0.3,
        binary_mode="two",
        arch_init_type="uniform",
        arch_init_ratio=0.5,
        arch_optim_lr=0.03,
        arch_weight_decay=0.01,
        grad_update_arch_param_every=2,
        grad_update_steps=3,
        warmup=True,
        warmup_epochs=2,
        arch_valid_frequency=2,
        log=lines,
    )
    engine: Any = trainer.engine
    alphas = np.concatenate([a.detach().numpy() for a in engine.algorithm.alpha.tensors])
    assert 0.1 < np.abs(alphas).max() <= 0.5
    (group,) = engine.algorithm.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.03, 0.01, (0.0, 0.999))
    assert engine.algorithm.settings.mode == "two"
    assert engine.weight_step.label_smoothing == 0.2
    trainer.train()
    assert next(r["lr"] for r in lines.records if r["phase"] == "warmup") < 0.05  # a cosine of its own from 0.05
    search = [r for r in lines.records if r["phase"] == "search"]
    assert 0.2 < search[0]["lr"] < 0.3
    assert [r["updates"] for r in search] == [0, 0, 0, 3, 3, 6, 6, 9]  # none in the first epoch
    assert [r["step"] for r in search if "valid" in r] == [4 + 4, 4 + 8]


def test_without_warm_up() -> None:
    lines = Lines()
    trainer_of(warmup=False, log=lines).train()
    assert {r["phase"] for r in lines.records} == {"search"}
    assert len(lines.records) == 6


def test_the_optimiser_is_the_users(tmp_path: Path) -> None:
    """Whatever it is; what was left in the gradients before plays no part."""
    found = []
    for leftover in (False, True):
        model = seeded(Net)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        if leftover:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
        train, valid = loaders()
        trainer = ProxylessNasTrainer(model, optimizer, "cpu", train, valid, n_epochs=1, warmup_epochs=1)
        trainer.train()
        assert trainer.engine.optimizer is optimizer
        assert all("exp_avg" in state for state in optimizer.state.values())
        assert len(optimizer.state) > 4
        found.append(digest(model.state_dict()))
    assert found[0] == found[1]


def test_the_model_itself_is_trained() -> None:
    model = seeded(Net)
    before = digest(model.state_dict())
    trainer_of(model).train()
    assert digest(model.state_dict()) != before
    assert model.training


def test_export_is_always_the_same(tmp_path: Path) -> None:
    trainer = trainer_of(seeded(Nested))
    trainer.train()
    found = []
    for i in range(10):
        architecture = trainer.export(tmp_path / "deep" / f"{i}.json")
        found.append((tmp_path / "deep" / f"{i}.json").read_text())
        assert architecture == trainer.architecture() == Architecture.from_json(found[-1])
    assert len(set(found)) == 1
    assert set(json.loads(found[0])) == {"space", "choices"}
    with pytest.raises(HwnasError, match="export needs a path"):
        trainer.export()


def test_the_exported_network_can_be_built(tmp_path: Path) -> None:
    trainer = trainer_of(arch_path=tmp_path / "arch.json")
    trainer.train()
    found = Architecture.from_json((tmp_path / "arch.json").read_text())
    network = trainer.space.build(found)
    assert not [m for m in network.modules() if isinstance(m, LayerChoice | InputChoice)]
    assert network(tiny_images(5)[0]).shape == (5, CLASSES)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("at", [("warm-up", 1), ("search", 3)])
def test_load_ckpt_goes_on(tmp_path: Path, at: tuple[str, int]) -> None:
    """A DataLoader that shuffles, too, whatever the state of the process's own generators."""

    def stop(name: str, step: int) -> None:
        if (name, step) == at:
            raise Stopped

    first = trainer_of(seeded(lambda: Net(dropout=0.3)), ckpt_path=tmp_path, progress=Hook(stop))
    first.engine.checkpoint_s = 0
    with pytest.raises(Stopped):
        first.train()
    torch.rand(7)
    second = trainer_of(seeded(lambda: Net(dropout=0.3), 5), ckpt_path=tmp_path, load_ckpt=True)
    second.train()
    torch.rand(3)
    whole = trainer_of(seeded(lambda: Net(dropout=0.3)))
    whole.train()
    assert digest(second.engine.supernet.module.state_dict()) == digest(whole.engine.supernet.module.state_dict())
    assert digest(second.algorithm.state()) == digest(whole.algorithm.state())


def test_without_load_ckpt_it_begins_anew(tmp_path: Path) -> None:
    trainer_of(ckpt_path=tmp_path).train()
    again = trainer_of(ckpt_path=tmp_path)
    again.train()
    assert again.engine.position.step == 8
    with pytest.raises(HwnasError, match="load_ckpt=True needs ckpt_path"):
        trainer_of(load_ckpt=True)


# -- latency


@pytest.mark.parametrize("predictor", [made_up_table, bent])
@pytest.mark.parametrize("mode", ["full_v2", "two"])
def test_with_a_predictor_it_lands_on_target(predictor: Any, mode: str) -> None:
    space = SearchSpace(seeded(Net), (1, SIDE, SIDE))
    made = predictor(space)
    values = np.sort(made.predict_codes(np.concatenate(list(space.encoding.enumerate()))))
    target = float(values[6]) * 1.001
    trainer = trainer_of(predictor=made, target=target, binary_mode=mode, grad_update_steps=2)
    trainer.train()
    found = made.predict([trainer.architecture()])[0]
    assert 0.98 * target <= found <= target


def test_a_limit_and_several_devices() -> None:
    space = SearchSpace(seeded(Net), (1, SIDE, SIDE))
    table, other = made_up_table(space), made_up_table(space, 4)
    middle = [
        float(np.median(p.predict_codes(np.concatenate(list(space.encoding.enumerate()))))) for p in (table, other)
    ]
    trainer = trainer_of(
        predictor=[table, other], target=middle, objective=ObjectiveSettings(kind="limit", combine="worst")
    )
    trainer.train()
    found = [p.predict([trainer.architecture()])[0] for p in (table, other)]
    assert found[0] <= middle[0]
    assert found[1] <= middle[1]


@pytest.mark.parametrize("algorithm", ["reinforce", "evolution", "random"])
def test_other_algorithms(algorithm: str) -> None:
    space = SearchSpace(seeded(Net), (1, SIDE, SIDE))
    table = made_up_table(space)
    target = float(np.median(table.predict_codes(np.concatenate(list(space.encoding.enumerate())))))
    trainer = trainer_of(
        n_epochs=1, predictor=table, target=target, objective="limit", algorithm=algorithm, grad_update_steps=2
    )
    trainer.train()
    assert table.predict([trainer.architecture()])[0] <= target


def test_multiply_adds_need_no_predictor() -> None:
    trainer = trainer_of(target_hardware="flops", target=0.005)
    (goal,) = trainer.algorithm.objective.latency.goals  # type: ignore[union-attr]
    assert goal.predictor.unit == "MMACs"
    trainer.train()
    assert goal.predictor.predict([trainer.architecture()])[0] <= 0.005


@pytest.mark.parametrize("hardware", ["mobile", "cpu", "gpu8"])
def test_hardware_without_its_predictor_names_the_command_that_makes_one(hardware: Any) -> None:
    with pytest.raises(
        HwnasError, match=f"target_hardware='{hardware}' needs its predictor: .*profile --device {hardware}"
    ):
        trainer_of(target_hardware=hardware, target=80.0)


def test_requests_that_make_no_sense() -> None:
    table = made_up_table(SearchSpace(seeded(Net), (1, SIDE, SIDE)))
    with pytest.raises(HwnasError, match="target_hardware is 'mobile', but the predictor was made for 'cpu'"):
        trainer_of(target_hardware="mobile", predictor=table, target=3.0)
    with pytest.raises(HwnasError, match="1 predictors and 0 targets"):
        trainer_of(predictor=table)
    with pytest.raises(HwnasError, match="0 predictors and 1 targets"):
        trainer_of(target=3.0)
    with pytest.raises(HwnasError, match="1 predictors and 0 targets"):
        trainer_of(target_hardware="flops")
    with pytest.raises(TargetUnreachable, match=r"target 50 ms is above what the space reaches"):
        trainer_of(predictor=table, target=50.0)
    with pytest.raises(HwnasError, match="another space"):
        trainer_of(seeded(Nested), predictor=table, target=3.0)
    with pytest.raises(HwnasError, match='binary_mode is "one", not one of full_v2, full, two'):
        trainer_of(binary_mode="one")
    with pytest.raises(HwnasError, match='arch_init_type is "zero", not one of normal, uniform'):
        trainer_of(arch_init_type="zero")
    with pytest.raises(HwnasError, match="there is no algorithm 'annealing'"):
        trainer_of(algorithm="annealing")
    trainer_of(target_hardware="cpu", predictor=table, target=2.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grad_update_arch_param_every": 0}, "grad_update_arch_param_every is 0; it should be greater than or equal"),
        ({"grad_update_steps": 0}, "grad_update_steps is 0; it should be greater than or equal to 1"),
        ({"arch_valid_frequency": 0}, "arch_valid_frequency is 0; it should be greater than or equal to 1"),
        ({"n_epochs": -1}, "^n_epochs is -1; it should be greater than or equal to 0"),
        ({"init_lr": 0}, "^init_lr is 0; it should be greater than 0"),
        ({"arch_optim_lr": -1.0}, "^arch_optim_lr is -1.0; it should be greater than 0$"),
        ({"label_smoothing": 2}, "^label_smoothing is 2; it should be less than 1"),
        ({"objective": "mul_log"}, '^objective is "mul_log", not one of hold, limit, mul#log'),
        ({"target_hardware": "tpu", "target": 3.0}, "target_hardware is 'tpu', not one of gpu8, cpu, flops, mobile"),
        ({"predictor": "table.db", "target": 3.0}, "predictor must be what load_predictor.* not 'table.db'"),
        ({"model_optim": "adam"}, "model_optim must be a torch optimizer"),
        ({"model_optim": sgd(nn.Linear(1, 1))}, "model_optim has none of the model's weights"),
        ({"device": ["cuda:0", "cuda:1"]}, "device is one device: to train on several, start the script by torchrun"),
        ({"device": "gpu"}, "device is 'cpu' or 'cuda', or a torch.device, not 'gpu'"),
    ],
)
def test_arguments_that_make_no_sense_are_named_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(HwnasError, match=message):
        trainer_of(**wrong)


def test_numbers_may_be_numpys() -> None:
    assert trainer_of(n_epochs=np.int64(1), init_lr=np.float32(0.5)).settings.weights.lr == 0.5


def test_a_path_that_cannot_be_written_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = trainer_of(arch_path=tmp_path / "file" / "arch.json")
    with pytest.raises(HwnasError, match=r"arch.json cannot be written: "):
        trainer.train()
    assert trainer.engine.position.step == 0


def test_a_target_in_a_gap_of_the_space_is_warned_of() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = LayerChoice([nn.Conv2d(1, 4, kernel, padding=kernel // 2) for kernel in (1, 7)])
            self.fc = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pick(x).mean((2, 3)))

    trainer = trainer_of(seeded(Wide), n_epochs=1, warmup=False, target_hardware="flops", target=0.003)
    with pytest.warns(UserWarning, match=r"no network that is predicted at 98% to 100% of the target was found"):
        trainer.train()


def test_epochs_are_logged_and_warnings_given(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hwnas.search")
    trainer = trainer_of(n_epochs=2, warmup_epochs=1, target_hardware="flops", target=0.005, objective="limit")
    trainer.engine.records.warnings.append("choices settled early")
    with pytest.warns(UserWarning, match="choices settled early"):
        trainer.train()
    first, *_, last = [record.message for record in caplog.records]
    assert first.startswith("warmup, epoch 1, loss ")
    assert last.startswith("search, epoch 2, loss ")
    assert "held-out accuracy" in last
    assert "expected 0.00" in last


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_no_cuda_where_it_was_asked_for() -> None:
    model, (train, valid) = seeded(Net), loaders()
    with pytest.raises(HwnasError, match="CUDA was asked for"):
        ProxylessNasTrainer(model, sgd(model), torch.device("cuda"), train, valid)


def test_a_gpu_table_of_another_batch_is_not_gpu8() -> None:
    from dataclasses import replace

    from hwnas.predictors.lut import LutPredictor

    space = SearchSpace(seeded(Net), (1, SIDE, SIDE))
    table = made_up_table(space)
    for batch in (1, 8):
        provenance = replace(table.provenance, device="gpu", settings={"batch": 1})
        gpu = LutPredictor(space, provenance, table.rows, table.calibration)
        gpu.__dict__["origin"] = replace(gpu.origin, settings={"batch": batch})  # type: ignore[type-var]
        if batch == 8:
            trainer_of(target_hardware="gpu8", predictor=gpu, target=2.5)
        else:
            with pytest.raises(HwnasError, match="gpu8 means batch 8, but the predictor was made for batch 1"):
                trainer_of(target_hardware="gpu8", predictor=gpu, target=2.5)


def test_missing_measurements_are_named_before_any_training() -> None:
    from hwnas.predictors.lut import LutPredictor

    space = SearchSpace(seeded(Net), (1, SIDE, SIDE))
    table = made_up_table(space)
    with pytest.raises(MissingMeasurements) as caught:
        LutPredictor(space, table.provenance, table.rows[2:], table.calibration)
    assert len(caught.value.keys) == 2


# -- data


def bad(part: str, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Any:
    """Lists of batches, one of which is not as the others."""
    train, valid = ([(x, y) for x, y in loader] for loader in loaders())
    where = {"train": train, "valid": valid}[part]
    where[-1] = change(*where[-1])
    return train, valid


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y + 1), "labels must be from 0 to 2, found 3"),
        (lambda x, y: (x, y - 1), "labels must be .*, found -1"),
        (lambda x, y: (x[:, :, 1:], y), "images are 1x5x6"),
        (lambda x, y: (x[:0], y[:0]), "expected images"),
        (lambda x, y: (x, y.float()), "labels must be whole numbers"),
    ],
)
def test_batches_that_do_not_fit_are_refused(part: str, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"{part}_loader, batch \d.*{message}"):
        trainer_of(loaders=bad(part, change)).train()


def test_loaders_that_give_nothing_or_only_once() -> None:
    train, _ = loaders()
    for wrong, message in (([], "valid_loader: the loader is empty"), (iter(train), "only once")):
        with pytest.raises(DataError, match=message):
            trainer_of(loaders=(train, wrong))
    other = [(torch.zeros(4, 3, SIDE, SIDE), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(DataError, match="held_out: images are 3x6x6, not 1x6x6"):
        trainer_of(loaders=(train, other))


def test_the_loader_decides_what_is_drawn_but_not_how(tmp_path: Path) -> None:
    """The same seed draws the same batches, and the process's own generators are not disturbed."""
    found = []
    for foreign in (1, 2):
        torch.manual_seed(foreign)
        trainer = trainer_of()
        trainer.train()
        found.append(digest(trainer.engine.supernet.module.state_dict()))
        drawn = torch.rand(2)
        torch.manual_seed(foreign)
        assert torch.equal(drawn, torch.rand(2))
    assert found[0] == found[1]
    other = trainer_of(seed=1)
    other.train()
    assert digest(other.engine.supernet.module.state_dict()) != found[0]


# -- models of one's own


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x, x, x, need_weights=False)[0]


class TokenModel(nn.Module):
    """Token ids in, classes out; one attention's number of heads and two feed-forward widths are choices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = LayerChoice({"2": Attention(8, 2), "4": Attention(8, 4), "none": nn.Identity()})
        self.norm = nn.LayerNorm(8)
        wide = lambda n: nn.Sequential(nn.Linear(8, n), nn.GELU(), nn.Dropout(0.1), nn.Linear(n, 8))  # noqa: E731
        self.ff = nn.ModuleList(LayerChoice([wide(8), wide(16)], label="width") for _ in range(2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.attention(self.embed(tokens)))
        for layer in self.ff:
            x = x + layer(x)
        return self.head(x.mean(1))


class AudioModel(nn.Module):
    """Waveforms of one channel."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda k: nn.Sequential(nn.Conv1d(4, 4, k, padding=k // 2), nn.BatchNorm1d(4), nn.ReLU())  # noqa: E731
        self.stem = nn.Conv1d(1, 4, 9, stride=4)
        self.a = LayerChoice({"k3": block(3), "k9": block(9), "skip": nn.Identity()})
        self.b = LayerChoice({"k3": block(3), "gru": Recurrent()})
        self.pick = InputChoice(3, 2, "concat")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a(x)
        return self.head(self.pick([x, y, self.b(y)]).mean(2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2))[0].transpose(1, 2)


class DeepModel(nn.Module):
    """Choices in candidates of choices, one of them shared, one that views, one with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        inner = LayerChoice([nn.Conv2d(4, 4, 1), Viewing()], label="inner")
        middle = LayerChoice({"a": nn.Sequential(inner, nn.BatchNorm2d(4)), "b": nn.Conv2d(4, 4, 3, padding=1)})
        self.outer = LayerChoice({"deep": nn.Sequential(nn.ReLU(), middle, inner), "flat": nn.Conv2d(4, 4, 1)})
        self.join = LayerChoice([Sum(), Product()])
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.join(x, self.outer(x)).mean((2, 3)))


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(len(x), -1)[:, : 4 * SIDE * SIDE].view(x.shape))


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * torch.sigmoid(y)


def drawn_like(inputs: Tensor) -> tuple[DataLoader[Any], DataLoader[Any]]:
    labels = torch.arange(len(inputs)) % CLASSES
    half = len(inputs) // 2
    parts = [TensorDataset(inputs[:half], labels[:half]), TensorDataset(inputs[half:], labels[half:])]
    train, valid = (DataLoader(part, 6, shuffle=True) for part in parts)
    return train, valid


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "tokens": (TokenModel, torch.randint(20, (24, 7), generator=torch.Generator().manual_seed(0))),
    "audio": (AudioModel, torch.randn(24, 1, 64, generator=torch.Generator().manual_seed(0))),
    "nested": (DeepModel, torch.randn(24, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("mode", ["full_v2", "full", "two"])
@pytest.mark.parametrize("model", MODELS)
def test_models_of_ones_own(model: str, mode: str, tmp_path: Path) -> None:
    make, inputs = MODELS[model]
    made = seeded(make)
    predictor = made_up_table(SearchSpace(made, example_inputs=inputs[:1]))
    values = predictor.predict_codes(np.concatenate(list(predictor.space.encoding.enumerate())))
    target = float(np.median(values)) * 1.001
    trainer = trainer_of(
        made,
        loaders=drawn_like(inputs),
        predictor=predictor,
        target=target,
        objective="limit",
        binary_mode=mode,
        arch_path=tmp_path / "arch.json",
    )
    start = [p.copy() for p in trainer.algorithm.probabilities()]
    weights = digest(made.state_dict())
    trainer.train()
    assert digest(made.state_dict()) != weights
    assert max(float(np.abs(p - q).max()) for p, q in zip(start, trainer.algorithm.probabilities(), strict=True)) > 0.01
    found = Architecture.from_json((tmp_path / "arch.json").read_text())
    assert predictor.predict([found])[0] <= target
    network = trainer.space.build(found, made)
    assert network.eval()(inputs).shape == (24, CLASSES)
