"""The command line as such: help, version, bad requests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hwnas.cli.app import COMMANDS, app
from typer.main import get_command

Run = Callable[..., Any]


def commands() -> Iterator[tuple[str, ...]]:
    group: Any = get_command(app)
    for name in COMMANDS:
        command = group.get_command(None, name)
        yield (name,)
        yield from ((name, part) for part in getattr(command, "commands", ()))


def test_help_names_every_command(hwnas: Run) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        result = hwnas(*arguments)
        assert result.code == 0
        assert result.err == ""
        for name in COMMANDS:
            assert re.search(rf"^  {name} ", result.out, re.MULTILINE)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_and_the_common_options(hwnas: Run, words: tuple[str, ...]) -> None:
    result = hwnas(*words, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: hwnas {' '.join(words)}" in result.out
    if words != ("table",):
        for part in ("--quiet", "--json FILE", "Examples:", f"    hwnas {' '.join(words)}"):
            assert part in result.out


def test_help_is_fast_and_light(process: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hwnas.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hwnas.cli.app" in loaded
    heavy = {"torch", "onnx", "onnxruntime", "pandas", "sklearn", "numpy", "pydantic", "yaml", "sqlite3", "matplotlib"}
    assert loaded & heavy == set()


def test_version(hwnas: Run) -> None:
    from hwnas import __version__

    result = hwnas("--version")
    assert (result.code, result.out) == (0, f"hwnas {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tabel"],
            "there is no command 'tabel'; there are: devices, spaces, profile, table, predict, fit, evaluate, compare",
        ),
        (["--nothing"], "--nothing"),
        (["table"], "(?i)missing command"),
        (["table", "shwo"], "shwo"),
        (["table", "show"], "(?i)missing argument.*TABLE"),
        (["table", "show", "x.db", "y.db"], "y.db"),
        (["table", "show", "x.db", "--nothing"], "--nothing"),
        (["devices", "--json"], "(?i)--json.* requires an argument"),
        (["spaces", "nothing"], "unknown space 'nothing'"),
        (["spaces", "--space-arg", "a=1"], "needs the name of the space"),
        (["spaces", "proxyless", "--space-arg", "width"], "not of the form NAME=VALUE"),
        (["devices", "--json", "none/x.json"], "no folder none"),
        (["devices", "--json", "."], "that is a folder"),
    ],
)
def test_bad_requests_are_one_line_and_exit_code_2(hwnas: Run, arguments: list[str], message: str) -> None:
    result = hwnas(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert re.fullmatch(r"hwnas: [^\n]+\n", result.err)
    assert re.search(message, result.err)


def test_the_same_in_a_process(process: Run, tmp_path: Path) -> None:
    for arguments in (["nothing"], ["table", "show", "none.db"], ["table", "show"]):
        result = process(*arguments, cwd=tmp_path)
        assert (result.code, result.out) == (2, "")
        assert re.fullmatch(r"hwnas: [^\n]+\n", result.err)


def test_the_installed_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("hwnas")
    if not script.exists():
        pytest.skip("needs the installed command")
    done = subprocess.run([script, "table", "show", tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "is a folder" in done.stderr
