"""Spaces by name, module and file, and what is said when that fails."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hwnas.errors import HwnasError
from hwnas.spaces.description import SpaceError
from hwnas.spaces.registry import load_space, space_names, space_parameters

GOOD = """
from torch import nn
from hwnas import LayerChoice, SearchSpace

def net(width):
    return nn.Sequential(LayerChoice([nn.Linear(4, width), nn.Linear(4, width, bias=False)]))

def make(width: int = 3, name: str = "mine", shape=(4,)):
    return SearchSpace(lambda: net(width), shape, name=name)

def required(width):
    return make(width)

def open_ended(**arguments):
    return SearchSpace(lambda: net(3), (4,), name=repr(sorted(arguments.items())))

def nothing():
    return None

def fails():
    raise ValueError("no such\\nluck")

def exits():
    raise SystemExit(3)

ready = 3
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_module(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_module


def test_builtin_names() -> None:
    assert space_names() == ("proxyless", "proxyless-small", "nasbench201")
    assert load_space().name == "proxyless"
    for name in space_names():
        assert load_space(name).name == name


def test_builtin_parameters_with_defaults() -> None:
    parameters = space_parameters("proxyless-small")
    assert parameters == {"resolution": 28, "channels": 1, "classes": 10, "width": 1.0}


def test_builtin_arguments_are_parsed() -> None:
    space = load_space("proxyless", {"width": "0.5", "classes": "10", "kernels": "3,5", "resolution": "96"})
    assert space.arguments == {"classes": 10, "resolution": 96, "width": 0.5, "kernels": (3, 5)}
    assert [len(d.candidates) for d in space.decisions][:2] == [4, 5]


def test_arguments_may_be_values() -> None:
    assert load_space("proxyless", {"width": 0.5}).cache_id == load_space("proxyless", {"width": "0.5"}).cache_id


def test_file_and_module(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("mine/spaces.py", GOOD)
    assert load_space(f"{path}:make").name == "mine"
    monkeypatch.chdir(path.parent.parent)
    assert load_space("mine/spaces.py:make", {"width": "5", "name": "10"}).name == "10"
    before = list(sys.path)
    assert load_space("mine.spaces:make").size == 2
    assert sys.path == before


def test_file_imports_its_neighbours(write: Write) -> None:
    write("neighbour_of_space.py", GOOD)
    path = write("space.py", "from neighbour_of_space import make\n")
    assert load_space(f"{path}:make").name == "mine"


def test_two_files_of_one_name_do_not_meet(write: Write) -> None:
    first = write("a/space.py", GOOD)
    second = write("b/space.py", GOOD.replace('"mine"', '"yours"'))
    assert [load_space(f"{path}:make").name for path in (first, second, first)] == ["mine", "yours", "mine"]


def test_open_ended_function_gets_everything(write: Write) -> None:
    path = write("space.py", GOOD)
    space = load_space(f"{path}:open_ended", {"a": "1", "b": "x y", "c": "(1, 2)"})
    assert space.name == "[('a', 1), ('b', 'x y'), ('c', (1, 2))]"


def refused(spec: str, arguments: dict[str, str] | None = None) -> str:
    with pytest.raises(SpaceError) as caught:
        load_space(spec, arguments)
    assert isinstance(caught.value, HwnasError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_builtin_lists_what_exists() -> None:
    message = refused("proxylessnas")
    assert all(name in message for name in ("proxylessnas", *space_names()))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("proxyless", {"widht": "0.5"}, "no parameter 'widht'.*width"),
        ("proxyless", {"width": "wide"}, "width must be a float, not 'wide'"),
        ("proxyless", {"classes": "10.5"}, "classes must be an int, not '10.5'"),
        ("proxyless", {"classes": "True"}, "classes must be an int"),
        ("proxyless", {"kernels": "three"}, "kernels must be .*'three'"),
        ("proxyless-small", {"resolution": "128"}, "resolution must be .* 8 to 64, not 128"),
    ],
)
def test_bad_argument_of_a_builtin_is_named(name: str, arguments: dict[str, str], expected: str) -> None:
    with pytest.raises(SpaceError, match=expected):
        load_space(name, arguments)


def test_missing_file_module_and_function(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("space.py", GOOD)
    monkeypatch.chdir(path.parent)
    assert "no file" in refused("absent.py:make")
    assert "no module 'absent_package'" in refused("absent_package.module:make")
    message = refused(f"{path}:mak")
    assert "'mak'" in message
    assert "make" in message
    assert "no function 'ready'" in refused(f"{path}:ready")
    assert "form" in refused(f"{path}:")


def test_failing_import_quotes_the_users_line(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("broken_space.py", "import os\n\nos.nowhere\n")
    monkeypatch.chdir(path.parent)
    for spec in (f"{path}:make", "broken_space:make"):
        message = refused(spec)
        assert "AttributeError" in message
        assert f"{path}:3" in message
    missing = write("wants_more.py", "import absent_dependency\n")
    assert "No module named 'absent_dependency'" in refused(f"{missing}:make")
    assert f"{missing}:1" in refused("wants_more:make")


def test_syntax_error_quotes_the_users_line(write: Write) -> None:
    path = write("space.py", "x = 1\ndef make(:\n")
    message = refused(f"{path}:make")
    assert "SyntaxError" in message
    assert f"{path}:2" in message


def test_failing_function_quotes_the_users_line(write: Write) -> None:
    path = write("space.py", GOOD)
    line = GOOD.splitlines().index('    raise ValueError("no such\\nluck")') + 1
    assert f"ValueError: no such luck ({path}:{line})" in refused(f"{path}:fails")
    assert "SystemExit: 3" in refused(f"{path}:exits")


def test_function_must_return_a_space_and_get_its_arguments(write: Write) -> None:
    path = write("space.py", GOOD)
    assert "NoneType, not a SearchSpace" in refused(f"{path}:nothing")
    assert "--space-arg width=VALUE" in refused(f"{path}:required")
    assert "it has none" in refused(f"{path}:nothing", {"width": "3"})
    assert "width must be an int" in refused(f"{path}:make", {"width": "wide"})
