"""What the tests of a phone stand on: that adb and adbd here are the real ones, and out of everyone else's reach."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def shell(phone: Any, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["adb", "-s", phone.serial, "shell", command], capture_output=True, text=True, check=False)


def test_files_and_exit_codes_come_through(phone: Any, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "model").write_bytes(data)
    phone.adb("-s", phone.serial, "push", tmp_path / "model", "/data/local/tmp/model")
    assert (phone.root / "data/local/tmp/model").read_bytes() == data
    done = shell(phone, "cd /data/local/tmp && ls && echo no >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "model\n", "no\n")


def test_programs_can_be_put_on_the_phone(phone: Any) -> None:
    program = phone.root / "system/bin/getprop"
    program.write_text('#!/bin/sh\necho "the $1"\n')
    program.chmod(0o755)
    assert shell(phone, "getprop ro.product.model").stdout == "the ro.product.model\n"


def test_a_phone_can_go_and_come_back(phone: Any) -> None:
    other = phone.plug(6556)
    assert phone.adb("devices").count("\tdevice") == 2
    phone.unplug()
    assert shell(phone, "true").returncode == 1
    assert subprocess.run(["adb", "-s", other, "shell", "true"], check=False).returncode == 0
    assert phone.plug() == phone.serial
    assert shell(phone, "true").returncode == 0


def test_nobody_outside_reaches_it(phone: Any) -> None:
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", 6555), timeout=1):
        pass
    daemon = phone.adb("-s", phone.serial, "shell", "cat /proc/$PPID/status")
    assert "Seccomp:\t2" in daemon
    code = "import socket; socket.socket(socket.AF_VSOCK)"
    command = [sys.executable, str(Path(__file__).with_name("phone.py")), "run", sys.executable, "-c", code]
    assert "Address family not supported" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
