"""The tracer: one graph for a structure, whatever the device; writes followed; what cannot be traced is named."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hwnas.spaces.tracer import Untraceable, trace
from hwnas.testing.graphs import Function, randomise, replay
from torch import Tensor, nn


def mbconv(norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(inplace=True),
        nn.Conv2d(24, 24, 3, 2, 1, groups=24), nn.BatchNorm2d(24), nn.ReLU6(inplace=True),
        nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8) if norm else nn.Identity(),
    )  # fmt: skip


def encoder(heads: int = 4) -> nn.Module:
    return nn.TransformerEncoderLayer(16, heads, 32, batch_first=True)


def roll_written(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, 1:] = x[:, :-1]
    y[:, 0] = x[:, -1]
    return y


def halves_in_place(x: Tensor) -> Tensor:
    y = x * 2
    a, b = y.chunk(2, 1)
    a.add_(1)
    y.mul_(3)
    return b + y[:, :4]


def circular(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="circular")


IMAGE = (2, 8, 6, 6)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mbconv": (mbconv, IMAGE),
    "encoder": (encoder, (2, 5, 16)),
    "linear 3d in place": (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True)), IMAGE),
    "batch norm first": (lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGE),
    "batch norm twice": (lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)), IMAGE),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(8, 4, 3, 2, bias=False), nn.BatchNorm2d(4)), IMAGE),
    "transposed groups": (lambda: nn.Sequential(nn.ConvTranspose2d(8, 8, 3, groups=4), nn.BatchNorm2d(8)), IMAGE),
    "linear batch norm": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(288, 7, False), nn.BatchNorm1d(7)), IMAGE),
    "instance norm": (lambda: nn.InstanceNorm2d(8, affine=True), IMAGE),
    "views that collapse": (lambda: Function(lambda x: x.unsqueeze(1).view(2, 8, -1).view(x.shape) + 1), IMAGE),
    "positions": (lambda: Function(lambda x: x + torch.arange(6.0, device=x.device).sin()), IMAGE),
    "writes into views": (lambda: Function(roll_written), IMAGE),
    "writes into a chunk": (lambda: Function(halves_in_place), IMAGE),
    "circular padding": (lambda: Function(circular), IMAGE),
    "in place": (lambda: Function(lambda x: x.abs().pow_(2).transpose_(2, 3).floor_divide_(x + 9).sub_(1)), IMAGE),
    "zero filled": (lambda: Function(lambda x: x.clone().zero_() + x), IMAGE),
    "lstm": (lambda: Function(nn.LSTM(6, 4)), (3, 2, 6)),
}


@pytest.mark.parametrize("name", MODULES)
def test_graph_computes_what_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module, x = randomise(make()).eval(), torch.randn(shape)
    with torch.no_grad():
        expected = module(x.clone())
    expected = expected if isinstance(expected, Tensor) else expected[0]
    graph = trace(module, [x])
    for candidate in (graph, graph.simplified()):
        torch.testing.assert_close(replay(candidate, [x])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"lstm"}))  # torch itself takes another path on meta
def test_meta_and_cpu_give_one_digest(name: str) -> None:
    make, shape = MODULES[name]
    module = make()
    real = trace(module, [torch.randn(shape)]).simplified().digest()
    meta = trace(module.to("meta"), [torch.empty(shape, device="meta")]).simplified().digest()
    assert real == meta


def digest(module: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> str:
    return trace(module, [torch.zeros(shape, dtype=dtype) for shape in shapes]).simplified().digest()


def test_digest_tells_structures_apart_and_instances_not() -> None:
    assert digest(mbconv(), IMAGE) == digest(mbconv(), IMAGE)
    assert digest(encoder(4), (1, 5, 16)) == digest(encoder(4), (1, 5, 16))
    different = [
        digest(encoder(4), (1, 5, 16)),
        digest(encoder(8), (1, 5, 16)),
        digest(mbconv(), IMAGE),
        digest(mbconv(), (2, 8, 8, 8)),
        digest(mbconv(norm=False), IMAGE),
        digest(nn.MaxPool2d(2), IMAGE),
        digest(nn.AvgPool2d(2), IMAGE),
        digest(nn.ReLU(), IMAGE),
        digest(nn.ReLU(), IMAGE, dtype=torch.float64),
        digest(Function(lambda x, y: x - y), IMAGE, IMAGE),
        digest(Function(lambda x, y: y - x), IMAGE, IMAGE),
        digest(Function(lambda x: x * 2), IMAGE),
        digest(Function(lambda x: x * 2.5), IMAGE),
    ]
    assert len(set(different)) == len(different)


def test_digest_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from torch import nn; from hwnas.spaces.tracer import trace;"
        "print(trace(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), [torch.zeros(1, 5, 16)]).digest())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == trace(encoder(), [torch.zeros(1, 5, 16)]).digest()


def test_dependence_on_the_input_is_by_elements_not_by_shape() -> None:
    graph = trace(Function(lambda x: (torch.zeros_like(x), x * 0, torch.full_like(x, 2) + 1)), [torch.randn(IMAGE)])
    assert [graph.depends_on_input(value.id) for value in graph.outputs] == [False, True, False]


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Identity()
        self.block = mbconv()
        self.gone = nn.Dropout()
        self.join = Function(lambda pair: (pair[0] + pair[1], pair[0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.skip(x))
        y = self.block(F.interpolate(self.gone(y), scale_factor=2.0))
        return self.join([y, y])[0]


def test_watched_calls_know_path_order_nesting_and_values() -> None:
    net = TwoBranches()
    watch = {name: net.get_submodule(name) for name in ("skip", "block", "block.3", "gone", "join")}
    graph = trace(net, [torch.randn(IMAGE)], watch=watch)
    for candidate in (graph, graph.simplified()):
        calls = candidate.calls
        assert [(call.path, call.index, call.parent) for call in calls] == [
            ("skip", 0, None), ("block", 0, None), ("block.3", 0, 1), ("gone", 0, None),
            ("block", 1, None), ("block.3", 1, 4), ("join", 0, None),
        ]  # fmt: skip
        assert calls[0].inputs == calls[0].outputs == (candidate.inputs[0].id,)
        assert calls[1].inputs == calls[0].outputs
        assert len(calls[6].inputs) == 2
        assert calls[6].outputs[0] == candidate.outputs[0].id
        assert {node.call for node in candidate.nodes if node.op == "convolution"} == {1, 2, 4, 5}
        assert all(i in candidate.values for call in calls for i in (*call.inputs, *call.outputs))
    assert calls[3].inputs == calls[3].outputs == calls[1].outputs
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in net.modules())


def test_module_and_input_are_left_as_they_were() -> None:
    norm = nn.BatchNorm2d(8)
    module = nn.Sequential(nn.ReLU(inplace=True), norm, nn.Dropout().eval())
    x = torch.randn(IMAGE)
    before, flags = x.clone(), [child.training for child in module.modules()]
    trace(module, [x])
    assert torch.equal(x, before)
    assert torch.equal(norm.state_dict()["running_mean"], torch.zeros(8))
    assert [child.training for child in module.modules()] == flags == [True, True, True, False]


def test_exceptions_pass_unchanged_and_leave_nothing_behind() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            raise ZeroDivisionError("mine")

    module = Broken()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ZeroDivisionError, match="mine"):
        trace(module, [torch.randn(IMAGE)], watch={"inner": module.inner})
    assert module.training
    assert not module.inner._forward_hooks
    assert not module.inner._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    with pytest.raises(RuntimeError, match="channel"):
        trace(nn.Conv2d(3, 3, 1).to("meta"), [torch.empty(IMAGE, device="meta")])


UNTRACEABLE: dict[str, Callable[[Tensor], object]] = {
    "nonzero": lambda x: x.nonzero(),
    "_local_scalar_dense": lambda x: x * x.sum().item(),
    "index.Tensor": lambda x: x[x > 0],
    "bernoulli": lambda x: F.dropout(x, 0.5, training=True),
    "randn": lambda x: x + torch.randn(x.shape),
}


@pytest.mark.parametrize("operator", UNTRACEABLE)
def test_untraceable_operators_are_named(operator: str) -> None:
    with pytest.raises(Untraceable, match=operator):
        trace(Function(UNTRACEABLE[operator]), [torch.randn(IMAGE)])


def test_writing_into_a_buffer_is_refused_before_it_happens() -> None:
    class Counter(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            self.seen[1:3].add_(1)
            return x

    module = Counter()
    with pytest.raises(Untraceable, match=r"add_.* parameter or buffer"):
        trace(module, [torch.randn(IMAGE)])
    assert module.seen.sum() == 0


def test_values_of_constants_may_be_read_where_there_are_any() -> None:
    scale = torch.tensor(3.0)
    module = Function(lambda x: x * float(scale))
    graph = trace(module, [torch.ones(2)])
    assert torch.equal(replay(graph, [torch.ones(2)])[0], torch.full((2,), 3.0))


def test_several_inputs_and_integers() -> None:
    module = Function(lambda x, tokens: {"a": x + 1, "b": (F.embedding(tokens, torch.ones(5, 3)),)})
    graph = trace(module, [torch.zeros(2), torch.zeros(4, dtype=torch.int64)])
    assert [(value.shape, value.dtype) for value in graph.inputs] == [((2,), "float32"), ((4,), "int64")]
    assert [value.shape for value in graph.outputs] == [(2,), (4, 3)]
