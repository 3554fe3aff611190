"""What becomes of a command's results and exceptions."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from hwnas.cli import app as app_module
from hwnas.cli import main
from hwnas.cli.common import Output, keeping, new_app, pairs, to_json
from hwnas.cli.progress import Steps
from hwnas.errors import HwnasError

Run = Callable[..., Any]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, hwnas: Run) -> Callable[[Callable[[], object]], Any]:
    """Runs a function as if it were a command."""

    def call(body: Callable[[], object]) -> Any:
        made = new_app()

        @made.command()
        def probe(fails: Annotated[bool, typer.Option()] = False) -> None:
            body()

        module = type(sys)("probe")
        module.app = made  # type: ignore[attr-defined]
        monkeypatch.setitem(app_module.COMMANDS, "probe", "")
        monkeypatch.setitem(sys.modules, "hwnas.cli.probe", module)
        return hwnas("probe")

    return call


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (HwnasError("no such\nthing \x1b[31m"), 2, "no such thing ?[31m"),
        (OSError(errno.ENOSPC, "No space left", "t.db"), 2, "t.db: the disk is full; what was stored before is kept"),
        (PermissionError(errno.EACCES, "Permission denied", "t.db"), 2, "t.db: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file", "t.db"), 2, "t.db: No such file"),
        (KeyboardInterrupt(), 130, "interrupted; what was stored before is kept"),
        (MemoryError(), 2, "out of memory"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            2,
            "this needs torch, which is not installed; pip install 'hwnas[all]'",
        ),
        (ZeroDivisionError("by zero"), 2, "internal error: ZeroDivisionError: by zero (HWNAS_TRACEBACK=1 shows where)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exceptions(command: Run, error: BaseException, code: int, message: str) -> None:
    result = command(raising(error))
    assert (result.code, result.out, result.err) == (code, "", f"hwnas: {message}\n")


def test_a_traceback_when_asked_for(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_TRACEBACK", "1")
    result = command(raising(ZeroDivisionError()))
    assert result.code == 2
    assert "Traceback" in result.err


def test_an_interrupt_says_what_is_kept(command: Run) -> None:
    def body() -> None:
        with keeping("12 of 70 workloads are in t.db"):
            raise KeyboardInterrupt

    result = command(body)
    assert (result.code, result.err) == (130, "hwnas: interrupted; 12 of 70 workloads are in t.db\n")


def test_what_fails_while_an_interrupt_is_handled_is_still_an_interrupt(command: Run) -> None:
    def body() -> None:
        with keeping("12 of 70 workloads are in t.db"):
            try:
                raise KeyboardInterrupt
            finally:
                os.close(10_000)

    result = command(body)
    assert (result.code, result.err) == (130, "hwnas: interrupted; 12 of 70 workloads are in t.db\n")


def test_doubts_are_exit_code_1_with_json(command: Run) -> None:
    def body() -> None:
        output = Output(json_file="-")
        output.table(("a", "b"), [(1, "x")])
        output.line("a line")
        output.finish({"n": np.int64(1), "x": float("nan")}, ["one workload failed", "so\nso"])

    result = command(body)
    assert result.code == 1
    assert result.json == {"n": 1, "x": None}
    assert "a line" in result.err
    assert result.err.endswith("hwnas: one workload failed\nhwnas: so so\n")


def test_quiet_shows_no_tables(command: Run) -> None:
    def body() -> None:
        output = Output(quiet=True)
        output.table(("a",), [("x",)])
        output.line("written to t.db")
        output.finish({})

    assert command(body).out == "written to t.db\n"


def test_json_into_a_file(command: Run, tmp_path: Path) -> None:
    target = tmp_path / "result.json"

    def body() -> None:
        Output(json_file=str(target)).finish({"ü": tmp_path}, ["doubt"])

    for _ in range(2):
        assert command(body).code == 1
        assert json.loads(target.read_text()) == {"ü": str(tmp_path)}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    target.write_bytes(b"SQLite format 3\0")
    result = command(body)
    assert result.code == 2
    assert "it is not overwritten" in result.err
    assert target.read_bytes() == b"SQLite format 3\0"


def test_markup_and_control_characters_in_data_are_shown_as_they_are(command: Run) -> None:
    def body() -> None:
        Output().table(("[bold]a",), [("[red]x[/red] \x1b[31m",), ("[/nothing]",)], title="[link=x]")

    result = command(body)
    assert result.code == 0
    for part in ("[bold]a", "[red]x[/red] ?[31m", "[/nothing]", "[link=x]"):
        assert part in result.out


def test_a_reader_that_goes_away(table: Path) -> None:
    command = [sys.executable, "-m", "hwnas.cli", "table", "show", str(table), "--json", "-", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_ctrl_c_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('begun', flush=True)\ndef space():\n    time.sleep(60)\n")
    command = [sys.executable, "-m", "hwnas.cli", "spaces", "slow.py:space"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr.read() == "hwnas: interrupted; what was stored before is kept\n"
        assert process.wait() == 130


# -- pieces


def test_pairs() -> None:
    assert pairs(["a=1", "b = x=y ", "c="], "--x") == {"a": "1", "b": " x=y ", "c": ""}
    assert pairs(None, "--x") == {}
    for bad in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(HwnasError, match="--x"):
            pairs(bad, "--x")


def test_json_of_everything() -> None:
    value = {1: (np.float64(0.5), np.array([1, 2]), float("inf")), "p": Path("x"), "t": True, "n": None}
    assert to_json(value) == {"1": [0.5, [1, 2], None], "p": "x", "t": True, "n": None}


def test_progress_only_on_a_terminal() -> None:
    from rich.console import Console

    shown = {}
    for terminal, quiet in ((True, False), (True, True), (False, False)):
        text = io.StringIO()
        with Steps(quiet=quiet, console=Console(file=text, force_terminal=terminal, width=80)) as steps:
            for done in range(3):
                steps.step("lowering", done, 2)
            steps.step("measuring [x]", 1, 10)
        shown[terminal, quiet] = text.getvalue()
    assert "lowering" in shown[True, False]
    assert "measuring [x]" in shown[True, False]
    assert shown[True, True] == ""
    assert shown[False, False].strip() == ""


def test_main_returns_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["nothing"]) == 2
