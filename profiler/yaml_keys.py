"""The text keys of the ProxylessNAS and Once-for-All lookup tables.

``expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0``: shapes are HxWxC; the tables of
MobileNetV3-like spaces append ``-se:0-hs:0``, and their ``expand`` is the middle width instead of the ratio.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .table_schema import TableError, one_line

BLOCK = "expanded_conv"
KINDS = ("AvgPool2D", "Conv", "Conv_1", "Conv_2", "Logits", BLOCK)

_SIZE = r"[1-9]\d{0,8}"
_SHAPE = rf"{_SIZE}x{_SIZE}x{_SIZE}"
_KEY = re.compile(
    rf"(AvgPool2D|Conv(?:_[12])?|Logits|expanded_conv)-input:({_SHAPE})-output:({_SHAPE}|{_SIZE})"
    rf"(?:-expand:({_SIZE})-kernel:({_SIZE})-stride:({_SIZE})-idskip:([01])"
    r"(?:-se:([01])-hs:([01]))?)?"
)
_PARTS = ("expand", "kernel", "stride", "idskip", "se", "hs")
_ROLES = {"first_conv": "Conv", "feature_mix": "Conv_1", "classifier": "Logits"}


@dataclass(frozen=True)
class TextKey:
    """One key in its parts; ``str(key)`` writes it back character for character.

    Attributes:
        kind: one of `KINDS`.
        input: height, width, channels.
        output: height, width, channels; for Logits the number of classes alone.
        expand, kernel, stride, idskip: of an ``expanded_conv``, else None; idskip is 1 with an identity shortcut.
        se, hs: squeeze-excitation and hard swish (0 or 1) where the table tells them, else None.
    """

    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    expand: int | None = None
    kernel: int | None = None
    stride: int | None = None
    idskip: int | None = None
    se: int | None = None
    hs: int | None = None

    def __str__(self) -> str:
        text = f"{self.kind}-input:{_text(self.input)}-output:{_text(self.output)}"
        for name in _PARTS:
            value = getattr(self, name)
            text += "" if value is None else f"-{name}:{value}"
        return text


def parse_key(text: str) -> TextKey:
    """Take a text key apart; raises TableError where it is none."""
    match = _KEY.fullmatch(text)
    if not match or not text.isascii():
        raise TableError(f"{one_line(text)[:200]!r} is not a key of a ProxylessNAS lookup table")
    kind, before, after, *numbers = match.groups()
    sizes = dict(zip(_PARTS, (None if number is None else int(number) for number in numbers), strict=True))
    key = TextKey(kind, _sizes(before), _sizes(after), **sizes)
    if (key.kernel is not None) != (kind == BLOCK) or (len(key.output) == 1) != (kind == "Logits"):
        raise TableError(f"{text!r} is not a key of a ProxylessNAS lookup table: its parts do not fit a {kind}")
    return key


def text_key(info: Mapping[str, Any]) -> str:
    """The text key of a workload.

    Args:
        info: ``op`` (mbconv, conv, linear), ``kernel``, ``expand``, ``stride``, ``skip``, ``role`` (first_conv,
            feature_mix, classifier or None) and the shapes ``in`` and ``out`` as (C, H, W), without batch; a
            classifier's may be (features,), which is written as 1x1xfeatures.

    Raises:
        TableError: such a workload has no text key.
    """
    try:
        op, role, before, after = info["op"], info.get("role"), _hwc(info["in"]), _hwc(info["out"])
        if op == "mbconv":
            sizes = {name: int(info[name]) for name in ("expand", "kernel", "stride")}
            optional = {name: int(info[name]) for name in ("se", "hs") if info.get(name) is not None}
            return str(TextKey(BLOCK, before, after, **sizes, idskip=int(bool(info["skip"])), **optional))
        if op in ("conv", "linear") and role in _ROLES and (op == "linear") == (role == "classifier"):
            return str(TextKey(_ROLES[role], before, after[-1:] if op == "linear" else after))
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(f"workload {one_line(dict(info))} lacks what a text key needs: {one_line(error)}") from error
    raise TableError(f"workload {one_line(dict(info))} has no ProxylessNAS text key")


def shapes_of(text: str) -> dict[str, list[int]]:
    """``in`` and ``out`` of a workload's shapes ``24x56x56->24x56x56``; empty where it has several tensors."""
    parts = text.split("->")
    if len(parts) != 2 or not all(re.fullmatch(r"\d{1,9}(x\d{1,9})*", part) for part in parts):
        return {}
    return {name: [int(size) for size in part.split("x")] for name, part in zip(("in", "out"), parts, strict=True)}


def _hwc(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = [int(size) for size in shape]
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise ValueError(f"{shape} is not (C, H, W)")
    return (sizes[1], sizes[2], sizes[0]) if len(sizes) == 3 else (1, 1, sizes[0])


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
