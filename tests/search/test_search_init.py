"""The public names of the room: all there, loaded only when they are used."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import hwnas.search
import pytest
from hwnas import search


def python(code: str) -> str:
    process = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_importing_the_room_loads_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "pandas", "sklearn", "matplotlib", "PIL")
    code = f"import sys, hwnas.search; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]\n"


def test_the_trainer_is_where_users_look_for_it() -> None:
    code = "import hwnas.search; print(hwnas.search.ProxylessNasTrainer.__module__)"
    assert python(code) == "hwnas.search.trainer\n"


def test_every_public_name_is_what_it_says() -> None:
    found = {name: getattr(search, name) for name in search.__all__}
    assert {name: value.__name__ for name, value in found.items()} == {name: name for name in found}
    assert {value.__module__.split(".")[:2] == ["hwnas", "search"] for value in found.values()} == {True}
    assert search.__all__ == sorted(search.__all__)
    assert set(search.__all__) <= set(dir(search))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(search.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(search.__all__)


def test_no_public_name_is_a_modules() -> None:
    """Importing the module would put it in the name's place."""
    modules = {module.name for module in pkgutil.iter_modules(search.__path__)}
    assert modules & set(search.__all__) == set()
    assert {"train", "export", "trainer"} <= modules


def test_modules_are_found_beside_the_names() -> None:
    assert python("from hwnas.search import objective, Objective; print(objective.Objective is Objective)") == "True\n"


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"'hwnas.search' has no attribute 'Nothing'"):
        hwnas.search.Nothing  # noqa: B018
