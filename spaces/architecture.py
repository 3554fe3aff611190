"""`Architecture`: one decision for every choice that is reached; plain data, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import HwnasError

Chosen = str | tuple[int, ...]
"""A candidate's name (LayerChoice) or the indices of the inputs used (InputChoice)."""


class ArchitectureError(HwnasError):
    """An architecture that cannot be read, or does not fit its space."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """One network of a search space.

    Attributes:
        space: the name of its space.
        choices: label of each choice that is reached -> what was chosen (read-only). Two architectures with the same
            choices are equal, whatever the order.

    Raises:
        ArchitectureError: something else than a name or indices was chosen.
    """

    space: str
    choices: Mapping[str, Chosen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, value in self.choices.items():
            if not isinstance(value, str) and not _is_indices(value):
                raise ArchitectureError(
                    f"choice {label!r}: {value!r} is neither a candidate's name nor a list of inputs"
                )
        frozen = {label: v if isinstance(v, str) else tuple(sorted(v)) for label, v in self.choices.items()}
        in_order = dict(sorted(frozen.items(), key=lambda item: _natural(item[0])))
        object.__setattr__(self, "choices", MappingProxyType(in_order))

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture, (self.space, dict(self.choices))  # copy and pickle know no read-only mappings

    def _identity(self) -> tuple[str, tuple[tuple[str, Chosen], ...]]:
        return self.space, tuple(self.choices.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def as_dict(self) -> dict[str, Any]:
        """`{"space": ..., "choices": {...}}`, ready for JSON."""
        choices = {label: v if isinstance(v, str) else list(v) for label, v in self.choices.items()}
        return {"space": self.space, "choices": choices}

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1) + "\n"

    @classmethod
    def from_dict(cls, data: object) -> Architecture:
        """The inverse of `as_dict`.

        Raises:
            ArchitectureError: `data` has another form.
        """
        if not isinstance(data, dict) or not isinstance(data.get("choices"), dict):
            raise ArchitectureError('an architecture is a JSON object {"space": "...", "choices": {...}}')
        space = data.get("space")
        if not isinstance(space, str):
            raise ArchitectureError(f"the architecture's space must be a name, not {space!r}")
        return cls(space, data["choices"])

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` wrote; raises ArchitectureError for anything else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArchitectureError(f"not an architecture: invalid JSON ({error})") from None
        return cls.from_dict(data)

    def short(self) -> str:
        """One line for tables: the chosen candidates in order, runs of the same one counted."""
        parts: list[tuple[str, int]] = []
        for value in self.choices.values():
            name = value if isinstance(value, str) else "+".join(map(str, value))
            if parts and parts[-1][0] == name:
                parts[-1] = (name, parts[-1][1] + 1)
            else:
                parts.append((name, 1))
        return " ".join(name if n == 1 else f"{n}x{name}" for name, n in parts)

    def __repr__(self) -> str:
        return f"Architecture({self.space!r}: {self.short()})"


def _is_indices(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)


def _natural(label: str) -> tuple[Any, ...]:
    """Sort key in which `stages.0.10` follows `stages.0.9`."""
    pieces = re.split(r"([0-9]+)", label)
    numbers = [(1, len(p.lstrip("0")), p.lstrip("0")) for p in pieces[1::2]]
    texts = [(0, 0, p) for p in pieces[::2]]
    return (*(part for pair in zip(texts, [*numbers, ()], strict=True) for part in pair), label)
