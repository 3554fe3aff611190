"""What the tests of every emitter lower: layers, activations and functions, each with its inputs."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


IMAGE, VOLUME = torch.randn(2, 8, 6, 10), torch.randn(1, 4, 4, 6, 6)
SIGNAL, TOKENS, ROWS = torch.randn(2, 8, 12), torch.randint(0, 11, (2, 7)), torch.randn(3, 16)
SEQUENCE = torch.randn(2, 6, 16)

LAYERS: dict[str, tuple[nn.Module | Callable[..., Any], tuple[Tensor, ...]]] = {
    "conv1d": (nn.Conv1d(8, 4, 5, 2, 1, 2, bias=False), (SIGNAL,)),
    "conv1d same": (nn.Conv1d(8, 4, 4, padding="same"), (SIGNAL,)),
    "conv1d causal": (nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(8, 8, 5, groups=8)), (SIGNAL,)),
    "conv2d no batch": (nn.Conv2d(8, 4, 3), (IMAGE[0],)),
    "conv2d rectangular": (nn.Conv2d(8, 4, (1, 3), (1, 2), (0, 1)), (IMAGE,)),
    "conv3d": (nn.Conv3d(4, 2, 3, padding=1), (VOLUME,)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6)), (IMAGE,)),
    "transposed output padding": (nn.ConvTranspose1d(8, 4, 3, 2, 1, output_padding=1, dilation=2), (SIGNAL,)),
    "conv norm relu6": (nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(True)), (IMAGE,)),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 4, 3)), (SIGNAL,)),
    "batch norm alone": (nn.BatchNorm2d(8), (IMAGE,)),
    "batch norm without parameters": (nn.BatchNorm1d(8, affine=False), (SIGNAL,)),
    "batch norm without statistics": (nn.BatchNorm2d(8, track_running_stats=False), (IMAGE,)),
    "instance norm": (nn.InstanceNorm2d(8, affine=True), (IMAGE,)),
    "instance norm 1d": (nn.InstanceNorm1d(8), (SIGNAL,)),
    "group norm": (nn.GroupNorm(4, 8), (IMAGE,)),
    "group norm plain": (nn.GroupNorm(1, 8, affine=False), (SIGNAL,)),
    "layer norm": (nn.LayerNorm(16), (SEQUENCE,)),
    "layer norm over two": (nn.LayerNorm((6, 16), bias=False), (SEQUENCE,)),
    "layer norm plain": (nn.LayerNorm(16, elementwise_affine=False), (SEQUENCE,)),
    "rms norm": (nn.RMSNorm(16), (SEQUENCE,)),
    "local response": (nn.LocalResponseNorm(3), (IMAGE,)),
    "linear": (nn.Linear(16, 4), (ROWS,)),
    "linear no bias": (nn.Linear(16, 4, bias=False), (ROWS,)),
    "linear norm": (nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4)), (ROWS,)),
    "linear 3d": (nn.Sequential(nn.Linear(16, 4), nn.ReLU(True)), (SEQUENCE,)),
    "linear 4d no bias": (nn.Linear(10, 4, bias=False), (IMAGE,)),
    "embedding": (nn.Embedding(11, 5), (TOKENS,)),
    "attention": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True), (SEQUENCE,)),
    "attention gelu": (nn.TransformerEncoderLayer(16, 2, 32, activation="gelu"), (SEQUENCE,)),
    "causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (IMAGE,)),
    "masked": (lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(6, 6).tril().bool()), (IMAGE,)),
    "cross attention": (nn.MultiheadAttention(16, 4, batch_first=True), (ROWS[None], SEQUENCE[:1], SEQUENCE[:1])),
    "lstm": (nn.LSTM(16, 4, bidirectional=True), (SEQUENCE[:2],)),
    "gru": (nn.GRU(16, 4, batch_first=True), (SEQUENCE[:, :2],)),
    "squeeze excite": (
        lambda x: x * F.hardsigmoid(F.conv2d(x.mean((2, 3), keepdim=True), torch.full((8, 8, 1, 1), 0.1))), (IMAGE,),
    ),
    "max pool 1d": (nn.MaxPool1d(3, 2, 1), (SIGNAL,)),
    "avg pool 1d": (nn.AvgPool1d(3, 2, 1), (SIGNAL,)),
    "max pool 3d": (nn.MaxPool3d(2), (VOLUME,)),
    "avg pool 3d": (nn.AvgPool3d(3, 2, 1), (VOLUME,)),
    "max pool no batch": (nn.MaxPool2d(2), (IMAGE[0],)),
    "avg pool divisor": (nn.AvgPool2d(2, divisor_override=3), (IMAGE,)),
    "adaptive avg to 1": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), (IMAGE,)),
    "adaptive avg even": (nn.AdaptiveAvgPool2d((3, 5)), (IMAGE,)),
    "adaptive avg uneven": (nn.AdaptiveAvgPool2d((4, 7)), (IMAGE,)),
    "adaptive avg 1d": (nn.AdaptiveAvgPool1d(5), (SIGNAL,)),
    "adaptive max": (nn.AdaptiveMaxPool2d((2, 5)), (IMAGE,)),
    "adaptive max 1d": (nn.AdaptiveMaxPool1d(1), (SIGNAL,)),
    "nearest": (nn.Upsample(scale_factor=2), (IMAGE,)),
    "nearest to size": (lambda x: F.interpolate(x, size=(9, 7)), (IMAGE,)),
    "nearest by 1.7": (lambda x: F.interpolate(x, scale_factor=1.7), (IMAGE,)),
    "nearest 1d": (lambda x: F.interpolate(x, scale_factor=2.0), (SIGNAL,)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (IMAGE,)),
    "bilinear by 1.3": (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), (IMAGE,)),
    "bilinear corners": (nn.UpsamplingBilinear2d(size=(11, 13)), (IMAGE,)),
    "bilinear down": (lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"), (IMAGE,)),
    "linear 1d resize": (lambda x: F.interpolate(x, scale_factor=2.0, mode="linear"), (SIGNAL,)),
    "bicubic": (lambda x: F.interpolate(x, size=(9, 15), mode="bicubic"), (IMAGE,)),
    "area": (lambda x: F.interpolate(x, size=(3, 5), mode="area"), (IMAGE,)),
    "pixel shuffle": (nn.PixelShuffle(2), (IMAGE,)),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (IMAGE,)),
    "channel shuffle": (nn.ChannelShuffle(4), (IMAGE,)),
    "softmax": (nn.Softmax(1), (IMAGE,)),
    "log softmax": (nn.LogSoftmax(-1), (ROWS,)),
    "conv without batch, norm": (nn.Sequential(nn.Conv1d(8, 4, 1), nn.ReLU()), (SIGNAL[0],)),
}  # fmt: skip

ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"),
    nn.Tanh(), nn.ELU(0.7), nn.SELU(), nn.CELU(0.5), nn.LeakyReLU(0.2), nn.PReLU(8), nn.PReLU(), nn.Softplus(),
    nn.Softplus(beta=2.0), nn.Mish(), nn.Softsign(), nn.Hardtanh(-0.5, 2.0), nn.GLU(1), nn.Tanhshrink(),
    nn.LogSigmoid(), nn.Softshrink(0.3),
    nn.Hardshrink(0.3), nn.Threshold(0.1, -2.0), nn.Softmin(1), nn.ReLU(inplace=True), nn.Hardswish(inplace=True),
]  # fmt: skip

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "scalars": lambda x: (1 - x * 2.5 + 3) / 4 - x // 0.5,
    "alpha": lambda x: x.add(x.abs(), alpha=2).sub(x, alpha=0.5),
    "rsub": lambda x: torch.rsub(x, x * 2, alpha=3),
    "broadcast": lambda x: x * x[:, :1] + x.mean((0, 2, 3), keepdim=True) - torch.arange(10.0),
    "powers": lambda x: (x**2, (x.abs() + 1) ** -0.5, x.abs() ** 0.5, 2**x, x.square(), (x.abs() + 1) ** x),
    "roots": lambda x: ((x.abs() + 0.1).sqrt(), (x.abs() + 0.1).rsqrt(), (x.abs() + 0.5).reciprocal()),
    "logs": lambda x: ((y := x.abs() + 0.5).log(), y.log1p(), y.log2(), x.exp(), x.expm1(), x.exp2(), y.log10()),
    "trigonometry": lambda x: (x.sin(), x.cos(), x.atan(), x.erf(), x.neg(), x.sign()),
    "rounding": lambda x: (x.floor(), x.ceil(), x.round(), torch.div(x, 0.3, rounding_mode="floor")),
    "extremes": lambda x: (torch.maximum(x, -x), torch.minimum(x, x * 2), x.clamp_min(0.1), x.clamp_max(0.1)),
    "clamp": lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=1.0), x.clamp(-x.abs(), x.abs() / 2)),
    "comparisons": lambda x: (x > 0, x <= 0.5, x == x, x != 0, x.ge(0.1) & (x < 1) | ~(x > 2), x.lt(x.mean())),
    "where": lambda x: (torch.where(x > 0, x, 0.0), torch.where(x > 0, x * 2, -x), x.masked_fill(x > 0, 1.0)),
    "casts": lambda x: (
        (x > 0).float() * x,
        x.to(torch.int64) + 1,
        x.double().float(),
        (x > 0).sum(1),
        x.half().float(),
    ),
    "lerp": lambda x: (torch.lerp(x, x * 2, 0.3), torch.addcmul(x, x, x, value=2), torch.addcdiv(x, x, x.abs() + 1)),
    "means": lambda x: (x.mean(), x.mean(1), x.mean((2, 3)), x.mean((-2, -1), keepdim=True), x.mean((1, 3))),
    "sums": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.prod(1), x.logsumexp(2)),
    "maxima": lambda x: (x.amax(1), x.amin((2, 3), True), x.max(), x.max(2)[0], x.min(1, keepdim=True), x.argmax(1)),
    "variances": lambda x: (x.var(1), x.std((2, 3), unbiased=False), x.var(), *torch.var_mean(x, 1, keepdim=True)),
    "norms": lambda x: (x.norm(dim=1), F.normalize(x, dim=1), x.norm(1, 2, keepdim=True), F.cosine_similarity(x, -x)),
    "cat": lambda x: (torch.cat([x, x * 2, x[:, :1]], 1), torch.stack([x, -x], 2), torch.cat([x, x], -1)),
    "split": lambda x: (*x.split(3, 1), *x.chunk(2, -1), *(x + 1).split([2, 6], 1), *x.unbind(0)),
    "unbind some": lambda x: x.unbind(2)[1] + x.unbind(2)[-1],
    "slices": lambda x: (x[:, 1:3], x[..., ::2], x[:, -2:], x[:, 3], x[..., -1], x[:, None, 1:, 2], x[:1]),
    "index": lambda x: (x[:, [0, 5, -1]], x.index_select(1, torch.tensor([2, 2])), x[torch.tensor([1])]),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "scatter": lambda x: torch.zeros(2, 8, 6, 10).scatter(1, x.argmax(1, keepdim=True), 1.0),
    "one hot": lambda x: torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), x[:, :1]),
    "shapes": lambda x: (x.flatten(1), x.view(2, 2, 4, -1), x.reshape(-1, 5), x.transpose(1, 3).reshape(2, -1)),
    "permutations": lambda x: (x.permute(0, 2, 3, 1), x.transpose(-1, 0), x[0, 0].t(), x.movedim(1, -1)),
    "squeezes": lambda x: (x.unsqueeze(1).squeeze(), x[:, :1].squeeze(1), x.unsqueeze(-1)),
    "expand": lambda x: (x[:, :1].expand(2, 8, 6, 10), x.repeat(1, 2, 1, 1), x[0].repeat(2, 1, 1, 1), x.expand_as(x)),
    "repeat interleave": lambda x: x.repeat_interleave(2, 1),
    "roll and flip": lambda x: (x.roll(1, 2), x.roll((-2, 13), (1, 3)), x.roll(5), x.flip(1, 3)),
    "pads": lambda x: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 2, 0, 3), value=-1.0),
        F.pad(x, (-1, 2)),
        F.pad(x, (0, 0, 1, 1, 2, 0)),
    ),
    "other pads": lambda x: tuple(F.pad(x, (2, 1, 1, 0), mode=mode) for mode in ("reflect", "replicate", "circular")),
    "products": lambda x: (x @ x.transpose(-1, -2), x @ x[0, 0, 0], x[0, 0] @ x[0, 1].t(), x[0, 0, 0].dot(x[0, 0, 1])),
    "batched products": lambda x: (x[0].bmm(x[1].mT), torch.baddbmm(x[0, :, :, :6], x[0], x[1].mT, beta=0.5, alpha=2)),
    "scaled addmm": lambda x: torch.addmm(x[0, 0, :, :6], x[0, 0], x[0, 1].t(), beta=0.5, alpha=2.0),
    "einsum": lambda x: (torch.einsum("bchw,bcwk->bchk", x, x.mT), torch.einsum("bchw,dc->bdhw", x, torch.ones(3, 8))),
    "triangles": lambda x: (x.tril(), x.triu(1)),
    "constants": lambda x: (x + torch.zeros_like(x), torch.full_like(x, 2.0), torch.linspace(0, 1, 10) * x),
    "outputs of inputs": lambda x: (x, x, x * 1.0, x),
    "zero": lambda x: x[:, :, ::2, ::2].mul(0.0),
    "write into slices": lambda x: slice_writes(x),
    "pairwise": lambda x: F.pairwise_distance(x, x * 2),
    "positions": lambda x: x + torch.arange(x.shape[-1]).float().sin() * torch.eye(6, 10),
}


def slice_writes(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2] = 0
    y[:, 3] = x[:, 2]
    y[:, -1:] += 1
    y[..., 4] *= 2
    return y.relu_() + y.view(-1).view_as(x)
