from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas.errors import HwnasError
from hwnas.search.distributed import Ranks, RanksError, synchronise_batch_norm
from hwnas.search.launch import PATIENCE_S, launch
from torch import nn

WORKER = Path(__file__).with_name("ranks_worker.py")
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
OWN = "HWNAS_LAUNCHED"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two gloo processes found (see `ranks_worker.py`)."""
    file = tmp_path_factory.mktemp("ranks") / "found.json"
    assert launch([str(WORKER), str(file)], 2, program=()) == 0
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def both(together: dict[str, Any]) -> Callable[[str], list[Any]]:
    """What each rank found of one thing."""
    return lambda name: [found[name] for found in together["ranks"]]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, OWN):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


Both = Callable[[str], list[Any]]


class TestTogether:
    def test_places(self, both: Both) -> None:
        assert both("place") == [[0, 2, 0, 2], [1, 2, 1, 2]]

    def test_average(self, both: Both) -> None:
        first, second = both("averages")
        assert first == second
        assert first[0] == [1.5 * i for i in range(6)]
        assert first[1] == pytest.approx([1 / 3 + 0.5] * 72, rel=1e-15)  # not rounded to float32
        assert first[2:] == [[4], [0.5, 0.5], []]
        assert both("averaged_parameters") == [[0.5, 0.5]] * 2

    def test_gather(self, both: Both) -> None:
        assert both("gathers") == [[[[], [0, 1, 2]], [0, 1 / 3]]] * 2

    def test_agreement(self, both: Both) -> None:
        assert both("agrees") == [True, True]

    @pytest.mark.parametrize("kind", ["path", "bits", "shape", "type", "nesting", "what"])
    def test_disagreement_is_known_to_all(self, both: Both, kind: str) -> None:
        assert [found[kind][0] for found in both("disagrees")] == ["RanksDisagree"] * 2

    def test_disagreement_names_what_and_who(self, both: Both) -> None:
        for found in both("disagrees"):
            message = found["path"][1]
            assert "ranks disagree on the path of step 7: rank 0 has [3 1 4]" in message
            assert "rank 1 has [3 1 5]" in message
            assert "\n" not in message

    def test_a_group_of_the_callers_own(self, both: Both) -> None:
        assert both("adopted") == [True, True]

    def test_a_rank_that_ends_is_missed_at_once(self, together: dict[str, Any]) -> None:
        kind, message = together["lost"]
        assert kind == "RanksError"
        assert message.startswith("rank 0 of 2 lost the others while ")
        assert "\n" not in message


class TestSynchronisedBatchNorm:
    @pytest.mark.parametrize("split", ["halves", "uneven"])
    def test_two_ranks_train_as_one_on_the_joined_batch(self, both: Both, split: str) -> None:
        for found in both(f"training_{split}"):
            assert len(found) > 25
            assert {name: d for name, d in found.items() if not d < 1e-11} == {}

    def test_in_single_precision_too(self, both: Both) -> None:
        for found in both("training_single_precision"):
            assert {name: d for name, d in found.items() if not d < 1e-3} == {}
            assert found["outputs"] < 1e-4

    def test_variance_where_the_mean_is_large(self, both: Both) -> None:
        assert max(both("far_from_zero")) < 1e-3

    def test_variance_between_ranks_counts(self, both: Both) -> None:
        mean, variance = both("unequal_means")[0]
        assert mean == [5, 5]
        assert variance == pytest.approx([104 / 3] * 2)  # of -1, 1, 9, 11
        assert both("unequal_means")[0] == both("unequal_means")[1]

    def test_running_statistics_stay_when_they_are_not_tracked(self, both: Both) -> None:
        for same, distance in both("batch_statistics_without_a_trace"):
            assert same
            assert distance < 1e-5

    def test_without_gradients(self, both: Both) -> None:
        for requires_grad, outputs, variance in both("without_gradients"):
            assert not requires_grad
            assert max(outputs, variance) < 1e-5

    def test_frozen_weights(self, both: Both) -> None:
        assert both("frozen_weights") == [[True, True, False]] * 2

    def test_half_precision_and_layout(self, both: Both) -> None:
        for *kinds, kept, distance in both("half_precision"):
            assert kinds == ["torch.bfloat16", "torch.bfloat16", "torch.float32"]
            assert kept
            assert distance < 0.02

    def test_evaluation_exchanges_nothing(self, both: Both) -> None:
        assert both("evaluation_is_each_ranks_own") == [True, True]

    def test_one_value_in_all_is_refused_on_every_rank(self, both: Both) -> None:
        for kind, message in both("one_value"):
            assert kind == "ValueError"
            assert "more than one value per channel" in message

    def test_swapping(self, both: Both) -> None:
        assert both("what_is_swapped") == [[True] * 5] * 2


class TestAlone:
    def test_nothing_is_exchanged(self, alone: pytest.MonkeyPatch) -> None:
        with Ranks.start("cpu") as ranks:
            assert ranks.shard == (0, 1)
            gradient = torch.ones(3)
            ranks.average([gradient])
            ranks.agree("anything", object())
            assert gradient.tolist() == [1, 1, 1]
            assert [a.tolist() for a in ranks.gather(torch.arange(2).numpy())] == [[0, 1]]
        assert not torch.distributed.is_initialized()

    def test_batch_norm_stays(self) -> None:
        norm = nn.BatchNorm2d(3)
        net = nn.Sequential(norm)
        assert synchronise_batch_norm(net, Ranks.single()) is net
        assert net[0] is norm

    def test_a_world_of_one(self, alone: pytest.MonkeyPatch) -> None:
        for name, value in zip(VARIABLES, ("0", "1", "127.0.0.1", "1", "0"), strict=True):
            alone.setenv(name, value)
        assert Ranks.start("cpu").shard == (0, 1)
        assert not torch.distributed.is_initialized()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"RANK": "0"}, "RANK is set, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not"),
            ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "0 <= RANK < WORLD_SIZE"),
            ({"RANK": "a", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK=a and WORLD_SIZE=2"),
        ],
    )
    def test_senseless_environments(self, alone: pytest.MonkeyPatch, given: dict[str, str], message: str) -> None:
        for name, value in given.items():
            alone.setenv(name, value)
        with pytest.raises(RanksError, match=message):
            Ranks.start("cpu")

    def test_the_others_never_come(self, alone: pytest.MonkeyPatch) -> None:
        for name, value in zip(VARIABLES, ("0", "2", "127.0.0.1", "0", "0"), strict=True):
            alone.setenv(name, value)
        with pytest.raises(RanksError, match=r"rank 0 of 2 found no group at 127.0.0.1:0"):
            Ranks.start("cpu", timeout_s=0.5)
        assert not torch.distributed.is_initialized()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
    def test_no_cuda(self, alone: pytest.MonkeyPatch) -> None:
        for name, value in zip(VARIABLES, ("0", "2", "127.0.0.1", "0", "0"), strict=True):
            alone.setenv(name, value)
        with pytest.raises(RanksError, match="no CUDA device"):
            Ranks.start("cuda")


@pytest.mark.parametrize("launched", [False, True])
def test_who_lost_the_others_waits_for_the_launcher_to_say_why(alone: pytest.MonkeyPatch, launched: bool) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("Connection closed by peer\nand a trace")

    waited: list[float] = []
    alone.setattr(torch.distributed, "all_reduce", broken)
    alone.setattr(time, "sleep", waited.append)
    if launched:
        alone.setenv(OWN, "1")
    with pytest.raises(RanksError, match=r"^rank 1 of 2 lost the others while averaging: Connection closed by peer; "):
        Ranks(1, 2, torch.device("cpu")).average([torch.ones(1)])
    assert waited == ([PATIENCE_S] if launched else [])


def launched(code: str, nproc: int) -> subprocess.Popen[str]:
    """A process that launches ranks which run some code, in which `rank` is defined."""
    ranks = f"import os, sys, time; rank = int(os.environ['RANK'])\n{code}"
    launcher = (
        f"from hwnas.search.launch import PATIENCE_S, launch; code = launch(['-c', {ranks!r}], {nproc}, program=())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", f"{launcher}\nraise SystemExit(code)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def outcome(code: str, nproc: int = 2) -> tuple[int, str, str]:
    process = launched(code, nproc)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def gone(pid: int) -> bool:
    """Whether a process has ended, waiting for it for a while; one that only waits to be collected has."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        time.sleep(0.05)
    return False


def pids(folder: Path, n: int) -> list[int]:
    """What ranks that ran `NOTE` wrote, once all have."""
    for _ in range(600):
        found = [int(f.read_text()) for f in folder.iterdir() if f.suffix == ".pid"]
        if len(found) == n:
            return found
        time.sleep(0.05)
    raise AssertionError(f"only {len(found)} ranks began")


def note(folder: Path) -> str:
    return (
        f"p = {str(folder)!r} + f'/{{rank}}'; open(p, 'w').write(str(os.getpid())); os.rename(p, p + '.pid')\n"
        "def wait():\n    while True: time.sleep(0.1)\n"
    )


class TestLaunch:
    def test_only_the_first_rank_speaks(self) -> None:
        names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR'"
        code = f"print([os.environ[n] for n in ({names})]); print('warning', rank, file=sys.stderr)"
        assert outcome(code, 3) == (0, "['0', '0', '3', '127.0.0.1']\n", "warning 0\n")

    def test_doubts_of_one_rank_end_nobody(self) -> None:
        assert outcome("time.sleep(0.5 * (1 - rank)); print('whole'); sys.exit(rank)") == (1, "whole\n", "")

    def test_a_failure_ends_the_others_and_is_shown_once(self, tmp_path: Path) -> None:
        code, out, err = outcome(
            note(tmp_path) + "if rank != 1: wait()\n"
            f"while len([n for n in os.listdir({str(tmp_path)!r}) if n.endswith('pid')]) < 3: time.sleep(0.02)\n"
            "print('too bad', file=sys.stderr); sys.exit(5)",
            3,
        )
        assert (code, out) == (5, "")
        assert err == "hwnas: rank 1 of 3 failed with exit code 5:\ntoo bad\n"
        assert all(gone(pid) for pid in pids(tmp_path, 3))

    def test_what_fails_all_alike_is_shown_once(self) -> None:
        assert outcome("print('no such file', file=sys.stderr); sys.exit(2)") == (2, "", "no such file\n")

    def test_a_killed_rank(self) -> None:
        code, _, err = outcome("os.kill(os.getpid(), 9) if rank else time.sleep(60)")
        assert code == 128 + 9
        assert err == "hwnas: rank 1 of 2 was ended by SIGKILL\n"

    def test_ctrl_c_reaches_all_once(self, tmp_path: Path) -> None:
        code = note(tmp_path) + (
            "try: wait()\n"
            "except KeyboardInterrupt:\n"
            f"    time.sleep(0.2); open({str(tmp_path)!r} + f'/{{rank}}.kept', 'w').close(); sys.exit(130)"
        )
        process = launched(code, 2)
        found = pids(tmp_path, 2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 130
        assert sorted(p.name for p in tmp_path.glob("*.kept")) == ["0.kept", "1.kept"]
        assert all(gone(pid) for pid in found)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
    def test_nobody_is_left_behind_by_a_killed_launcher(self, tmp_path: Path) -> None:
        process = launched(note(tmp_path) + "wait()", 2)
        found = pids(tmp_path, 2)
        process.kill()
        process.communicate()
        assert all(gone(pid) for pid in found)

    def test_bad_requests(self) -> None:
        with pytest.raises(HwnasError, match="at least 1"):
            launch([], 0)
