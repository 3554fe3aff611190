"""Plain data from a file into frozen dataclasses: types, ranges and unknown keys are checked by pydantic."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import HwnasError

T = TypeVar("T")
MANY = 2**31 - 1
_SHOWN = 60

_COUNT = Field(ge=0, le=MANY)
_FROM_1 = Field(ge=1, le=MANY)
_POSITIVE = Field(gt=0)
_NOT_NEGATIVE = Field(ge=0)
_SHARE = Field(ge=0, lt=1)

RANGES: Mapping[str, Any] = {
    **dict.fromkeys(("epochs", "warmup_epochs", "updates"), _COUNT),
    **dict.fromkeys(("batch_size", "arch_batch_size", "every", "steps", "bn_batches", "valid_every"), _FROM_1),
    **dict.fromkeys(("samples", "population", "tournament", "mutations", "batch", "candidates"), _FROM_1),
    **dict.fromkeys(("visits", "final_visits"), Field(ge=2, le=10_000)),
    **dict.fromkeys(("threads", "torch_threads"), Field(ge=1, le=4096)),
    **dict.fromkeys(("lr", "warmup_lr", "target", "weight", "tolerance", "a"), _POSITIVE),
    **dict.fromkeys(("weight_decay", "task", "b", "l", "power", "entropy", "init_scale"), _NOT_NEGATIVE),
    **dict.fromkeys(("momentum", "label_smoothing", "baseline_decay"), _SHARE),
    "coverage": Field(gt=0, lt=1),
    "seed": Field(ge=0, lt=2**63),
}
"""What a number may be, by the name of its field, whichever dataclass it is in."""


class ConfigError(HwnasError):
    """A configuration with unknown, senseless or contradictory keys."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one key: where it stands (dotted), and a sentence that begins with it."""

    key: str
    text: str


class Problems(ConfigError):
    """All that is wrong with some data."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = tuple(problems)


def read(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass, which may hold others, tuples of others, and mappings.

    Args:
        data: as a file gives it; a key that is missing has the dataclass's default.

    Raises:
        Problems: naming each key, what it is and what it may be; for an unknown key the nearest known one.
    """
    try:
        model = model_of(cls).model_validate(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise Problems([_problem(cls, detail) for detail in error.errors(include_url=False)]) from None
    except RecursionError:
        raise ConfigError("the configuration is nested too deeply") from None
    return _build(cls, model)  # type: ignore[no-any-return]


def known_keys(cls: type, prefix: str = "") -> list[str]:
    """Dotted keys of all leaves; items of a tuple have the key ``name.0``."""
    keys: list[str] = []
    for name, kind in _fields(cls).items():
        inner, many = _nested(kind)
        if inner is None:
            keys.append(f"{prefix}{name}")
        else:
            keys += known_keys(inner, f"{prefix}{name}.0." if many else f"{prefix}{name}.")
    return keys


@cache
def model_of(cls: type) -> type[BaseModel]:
    """The pydantic model of a dataclass: the same fields and defaults, strict types, the ranges of `RANGES`."""
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.default_factory is not dataclasses.MISSING:
            known = Field(default_factory=field.default_factory)
        else:
            known = Field(default=... if field.default is dataclasses.MISSING else field.default)
        parts[field.name] = (_annotation(field.name, _fields(cls)[field.name]), known)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(f"{cls.__name__}Model", __config__=config, **parts)


def nearest(word: str, known: Sequence[str]) -> str:
    """The known word that looks most like this one; "" where none does."""
    folded = {k.lower(): k for k in known}
    found = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else ""


@cache
def _fields(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _nested(kind: Any) -> tuple[type | None, bool]:
    """The dataclass in a field's type, and whether it stands in a tuple of any length."""
    if dataclasses.is_dataclass(kind):
        return kind, False  # type: ignore[return-value]
    arguments = get_args(kind)
    if get_origin(kind) is tuple and len(arguments) == 2 and dataclasses.is_dataclass(arguments[0]):
        return arguments[0], True  # type: ignore[return-value]
    return None, False


def _annotation(name: str, kind: Any) -> Any:
    inner, many = _nested(kind)
    if inner is not None:
        return list[model_of(inner)] if many else model_of(inner)  # type: ignore[misc]
    if name == "betas":
        share = Annotated[float, _SHARE]
        return Annotated[tuple[share, share], Field(strict=False)]  # a file has lists only
    return Annotated[kind, RANGES[name]] if is_number(kind) else kind


def is_number(kind: Any) -> bool:
    """Whether a field's type is int or float, or either or None."""
    parts = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    return any(part in (int, float) for part in parts)


def _build(cls: Any, model: BaseModel) -> Any:
    values: dict[str, Any] = {}
    for name, kind in _fields(cls).items():
        value = getattr(model, name)
        inner, many = _nested(kind)
        if inner is not None and many:
            value = tuple(_build(inner, item) if isinstance(item, BaseModel) else item for item in value)
        elif inner is not None and isinstance(value, BaseModel):
            value = _build(inner, value)
        values[name] = float(value) if kind is float else value
    return cls(**values)


def _problem(cls: type, detail: Any) -> Problem:
    key = ".".join(str(part) for part in detail["loc"] if part not in ("int", "float", "str"))
    value, kind = _show(detail["input"]), detail["type"]
    if kind == "extra_forbidden":
        return Problem(key, f"there is no key {key}; {_advice(cls, key)}")
    if kind == "missing":
        return Problem(key, f"{key} is missing")
    if kind == "literal_error":
        choices = _choices(cls, key)
        near = nearest(str(detail["input"]), choices)
        hint = f"; nearest is {near}" if near else ""
        return Problem(key, f"{key} is {value}, not one of {', '.join(choices)}{hint}")
    if kind in ("model_type", "dataclass_type"):
        return Problem(key, f"{key or 'the configuration'} is {value}, where keys with values are needed")
    wanted = str(detail["msg"]).replace("Input should be", "it should be")
    wanted = wanted if "allow_inf" in wanted or wanted.startswith("it should") else f"it should be otherwise: {wanted}"
    return Problem(key, f"{key} is {value}; {wanted}")


def _advice(cls: type, key: str) -> str:
    """What was probably meant: a neighbour that looks alike, the same name elsewhere, or what there is."""
    *before, name = ("0" if part.isdigit() else part for part in key.split("."))
    head = "".join(f"{part}." for part in before)
    known = known_keys(cls)
    beside = list(dict.fromkeys(k.removeprefix(head).split(".")[0] for k in known if k.startswith(head)))
    elsewhere = _by_last_part(known)
    meant = nearest(name, [*beside, *elsewhere])
    if meant in beside:
        return f"nearest is {head}{meant}"
    if meant:
        return f"nearest is {' or '.join(elsewhere[meant])}"
    return f"there are {', '.join(head + k for k in beside)}"


def _by_last_part(keys: Sequence[str]) -> dict[str, list[str]]:
    """The keys, and those that have keys below them, by their last part."""
    found: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        for n in range(1, len(parts) + 1):
            whole = ".".join(parts[:n])
            if whole not in found.setdefault(parts[n - 1], []):
                found[parts[n - 1]].append(whole)
    return found


def _choices(cls: type, key: str) -> list[str]:
    kind: Any = cls
    for part in key.split("."):
        if not part.isdigit():
            kind = _fields(kind)[part]
            kind = _nested(kind)[0] or kind
    literals = [a for a in (kind, *get_args(kind)) if get_origin(a) is Literal]
    return [str(choice) for literal in literals for choice in get_args(literal)]


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
