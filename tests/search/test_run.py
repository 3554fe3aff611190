"""The folder of a run: begun, gone on with, refused, repeated; one process at a time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.search.run import MADE, RunError, RunFolder, flatten, to_plain
from hwnas.search.yaml_text import load_yaml

CONFIG: dict[str, Any] = {
    "space": "proxyless-small",
    "space_args": {},
    "goals": [{"predictor": "t.db", "target": 0.1 + 0.2}],
    "search": {"weights": {"lr": 1e-5, "epochs": 3}, "gradient": {"betas": (0.0, 0.999), "lr": None}},
    "threads": 1,
}


def changed(**changes: Any) -> dict[str, Any]:
    return CONFIG | changes


def test_begin_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "results" / "a"
    with RunFolder.open(path, CONFIG) as run:
        assert (run.resumed, run.finished, run.notes) == (False, False, [])
        assert run.checkpoint == path / "checkpoint"
    text = (path / "config.yaml").read_text()
    assert text.startswith("# ")
    assert load_yaml(text, "") == to_plain(CONFIG)
    with RunFolder.open(path, CONFIG) as run:
        assert run.resumed
        run.write_json("report.json", {"accuracy": 0.9})
    with RunFolder.open(path, CONFIG) as run:
        assert (run.resumed, run.finished) == (True, True)
        assert run.read_json("report.json") == {"accuracy": 0.9}
    assert (path / "config.yaml").read_text() == text


def test_another_configuration_is_named_key_by_key(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG).close()
    other = changed(
        space_args={"width": "2"}, goals=[CONFIG["goals"][0] | {"target": 0.5}, {"predictor": "u.db"}], threads=2
    )
    with pytest.raises(RunError) as caught:
        RunFolder.open(tmp_path, other, may_differ=("threads",))
    message = str(caught.value)
    for part in (
        'space_args.width is nothing there, "2" is asked',
        "goals.0.target is 0.30000000000000004 there, 0.5 is asked",
        'goals.1.predictor is nothing there, "u.db" is asked',
        "--force to begin anew",
    ):
        assert part in message
    assert "threads" not in message
    RunFolder.open(tmp_path, CONFIG).close()


def test_what_may_differ_is_noted(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG).close()
    with RunFolder.open(tmp_path, changed(threads=2), may_differ=("threads",)) as run:
        assert run.resumed
        assert [note.endswith("threads is 1 there, 2 is asked") for note in run.notes] == [True]


def test_many_differences_are_counted(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {str(i): 0 for i in range(9)}).close()
    with pytest.raises(RunError, match="4 is 0 there, 1 is asked; and 4 more"):
        RunFolder.open(tmp_path, {str(i): 1 for i in range(9)})


def test_force_removes_what_a_run_makes_and_nothing_else(tmp_path: Path) -> None:
    mine = ["notes.txt", "checkpoint/best.pt", "plots/mine.pdf", "t.db", "config.yml"]
    runs = [
        *("metrics.jsonl", "architecture.json", "report.json", "weights.safetensors", "plots/a.png", "measurements.db"),
        *("checkpoint/step-000000000003.pt", "checkpoint/search/step-000000000002.pt", "checkpoint/.unfinished"),
    ]
    RunFolder.open(tmp_path, CONFIG).close()
    for name in mine + runs:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with RunFolder.open(tmp_path, changed(threads=3), force=True) as run:
        assert not run.resumed
        assert not run.finished
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*mine, "config.yaml", ".lock"}
    assert load_yaml((tmp_path / "config.yaml").read_text(), "")["threads"] == 3


def test_results_without_a_configuration_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("mine")
    for force in (False, True):
        with pytest.raises(RunError, match=r"report\.json is there, but no config\.yaml of a run"):
            RunFolder.open(tmp_path, CONFIG, force=force)
    assert (tmp_path / "report.json").read_text() == "mine"
    assert MADE[-1] == "config.yaml"


def test_a_damaged_configuration(tmp_path: Path) -> None:
    for content in (b"a: [", b"\xff", b""):
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(RunError, match=r"--force to begin anew"):
            RunFolder.open(tmp_path, CONFIG)
    RunFolder.open(tmp_path, CONFIG, force=True).close()
    RunFolder.open(tmp_path, CONFIG).close()


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    for path in (tmp_path / "f", tmp_path / "f" / "g"):
        with pytest.raises(RunError, match="cannot be a run's folder"):
            RunFolder.open(path, CONFIG)


# -- one writer


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG):
        for force in (False, True):
            with pytest.raises(RunError, match=rf"being written by another process \({os.getpid()}\)"):
                RunFolder.open(tmp_path, CONFIG, force=force)
    RunFolder.open(tmp_path, CONFIG).close()


def test_a_refused_run_lets_go_of_the_folder(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG).close()
    with pytest.raises(RunError, match="another configuration"):
        RunFolder.open(tmp_path, changed(threads=2))
    RunFolder.open(tmp_path, CONFIG).close()


def test_readers_beside_the_writer(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.log({"step": 1})
        beside = RunFolder(tmp_path)
        beside.log({"step": 2})
        beside.write_json("report.json", {})
        beside.truncate(0)
        assert beside.records() == [{"step": 1}]
        assert not beside.finished


# -- the log


def test_log_and_truncate(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        assert (run.position(), run.records()) == (0, [])
        run.log({"step": 0, "loss": np.float32(0.5), "p": np.array([1, 2]), "nan": math.nan, "name": "ä\n"})
        position = run.position()
        run.log({"step": 1})
        assert run.position() == (tmp_path / "metrics.jsonl").stat().st_size
        run.truncate(position)
        run.truncate(position + 1000)
        run.log({"step": 10})
        expected = [{"step": 0, "loss": 0.5, "p": [1, 2], "nan": None, "name": "ä\n"}, {"step": 10}]
        assert run.records() == expected
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == expected


def test_a_torn_last_line_is_left_out_and_replaced(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.log({"step": 0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "lo')
    assert RunFolder(tmp_path).records() == [{"step": 0}]
    with RunFolder.open(tmp_path, CONFIG) as run:
        assert run.position() == len(b'{"step": 0}\n')
        run.log({"step": 1})
        assert run.records() == [{"step": 0}, {"step": 1}]


def test_a_damaged_log(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        (tmp_path / "metrics.jsonl").write_text("what\n{}\n")
        with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
            run.records()


def test_killed_while_logging(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from hwnas.search.run import RunFolder
        run = RunFolder.open(Path(sys.argv[1]), {"a": 1})
        for step in range(10**9):
            run.log({"step": step, "text": "x" * 3000})
            if step == 5:
                print("begun", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    with RunFolder.open(tmp_path, {"a": 1}) as run:
        steps = [record["step"] for record in run.records()]
    first = steps[: len(steps) - steps[::-1].index(0) - 1]
    assert first == list(range(len(first)))
    assert len(first) > 5


# -- results


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.write_json("report.json", {"a": 1})

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.write_json("report.json", {"a": 2})
        assert run.read_json("report.json") == {"a": 1}
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "config.yaml", "report.json"}


def test_files_in_a_folder_of_the_run(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        for content in (b"a", b"b"):
            run.write_bytes("plots/entropy.png", content)
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["entropy.png"]
    assert (tmp_path / "plots" / "entropy.png").read_bytes() == b"b"


def test_damaged_and_missing_results(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_json("report.json") is None
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(RunError, match=r"report\.json is damaged"):
        run.read_json("report.json")


def test_flatten() -> None:
    assert dict(flatten({"a": {"b": [1, {"c": None}], "d": {}}, "e": []})) == {
        "a.b.0": 1,
        "a.b.1.c": None,
        "a.d": {},
        "e": [],
    }
