"""YAML as configurations use it: plain values only, each key once, and numbers that are what they look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..errors import HwnasError

MAX_SIZE = 2**20


class YamlError(HwnasError):
    """Text that is not the YAML of a configuration."""


# YAML 1.1, which PyYAML speaks, takes 1e-3 for text, 1:30 for 90, 010 for 8 and no for false; 1.2 does not.
_RULES = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  filled below, as PyYAML wants it

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few of them unfold to gigabytes
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not allowed here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a word", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"duplicate key {key.value!r}, first on line {seen[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}

    def construct_yaml_int(self, node: Any) -> int:
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as above

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def load_yaml(text: str, name: str) -> Any:
    """The value that a YAML text holds: None, bool, int, float, str, and lists and dicts (by str) of them.

    Args:
        name: where the text comes from, for messages.

    Raises:
        YamlError: with the line; for what is no YAML, a key given twice, an alias, or a type of another kind.
    """
    if len(text) > MAX_SIZE:
        raise YamlError(f"{name} is too large for a configuration ({len(text)} characters)")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise YamlError(f"{name}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise YamlError(f"{name} is nested too deeply") from error


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain values as YAML in the order given; `load_yaml` is the inverse."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, width=100)
