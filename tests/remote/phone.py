"""Run as a script within namespaces of its own: what is a phone's, around Debian's adbd, which asks nobody for leave.

phone.py world FOLDER       bring the loopback up and make FOLDER the root: this system, and /data and /system
                            besides; then wait until standard input closes
phone.py adbd COMMAND...    run the daemon, so that it cannot be reached but through the loopback of these namespaces
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

DATA = "size=64m,mode=755"
OWN = ("data", "system", "proc")
_libc = ctypes.CDLL(None, use_errno=True)


def world(root: Path) -> None:
    """Everything of this system where it is, in a root of our own that has a phone's folders as well."""
    raise_loopback()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for path in Path("/").iterdir():
        here = root / path.name
        if path.is_symlink():
            here.symlink_to(path.readlink())
        elif path.is_dir() and path.name not in OWN:
            here.mkdir()
            mount("--rbind", path, here)
    for name in OWN:
        (root / name).mkdir()
    try:
        mount("-t", "proc", "proc", root / "proc")
    except subprocess.CalledProcessError:  # not everywhere may one have a /proc of one's own; the other does as well
        mount("--rbind", "/proc", root / "proc")
    mount("-t", "tmpfs", "-o", DATA, "tmpfs", root / "data")
    for folder in ("data/local/tmp", "system/bin"):
        (root / folder).mkdir(parents=True)
    (root / "system/bin/sh").symlink_to("/bin/sh")
    os.chroot(root)
    os.chdir("/")


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, stderr=subprocess.DEVNULL)


def raise_loopback() -> None:
    up, running = 0x1, 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH22x", b"lo", up | running))  # SIOCSIFFLAGS


def forbid_vsock() -> None:
    """adbd listens there as well, and that is the whole machine's: no namespace divides it."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    load, equal, leave = 0x20, 0x15, 0x06  # offsets of seccomp_data: 0 number, 4 architecture, 16 first argument
    code = (
        (load, 0, 0, 4),
        (equal, 0, 5, 0xC000003E),  # x86-64
        (load, 0, 0, 0),
        (equal, 0, 3, 41),  # socket
        (load, 0, 0, 16),
        (equal, 0, 1, 40),  # AF_VSOCK
        (leave, 0, 0, 0x00050000 | 97),  # EAFNOSUPPORT
        (leave, 0, 0, 0x7FFF0000),
    )
    program = Program(len(code), b"".join(struct.pack("HBBI", *line) for line in code))
    for option, *arguments in ((38, 1, 0), (22, 2, ctypes.byref(program))):  # no new privileges; the filter
        if _libc.prctl(option, *arguments, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "world":
        world(Path(arguments[0]))
        os.write(1, b"ready\n")
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
    else:
        os.chdir("/")
        forbid_vsock()
        os.execv(arguments[0], arguments)
