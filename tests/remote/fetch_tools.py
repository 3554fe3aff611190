"""Fetches what the tests in this folder need: Debian packages, unpacked beside the system, and the Pythons of boards.

    python tests/remote/fetch_tools.py [ssh] [adb] [arm] [base] [tflite-runtime]

All of it goes into $HWNAS_TEST_TOOLS, by default .venv/test-tools; nothing is installed. The packages are those of one
Debian release, whatever this machine runs, and are started with that release's own loader. What cannot be had is
named, and the tests that need it are skipped.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("HWNAS_TEST_TOOLS") or ROOT / ".venv/test-tools").absolute()
RELEASE = "trixie"
OLD_NUMPY = "numpy<2"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
COMMON = "libc6 libgcc-s1 libzstd1 zlib1g"
SSH = """openssh-client openssh-server libssl3t64 libselinux1 libpcre2-8-0 libgssapi-krb5-2 libkrb5-3 libkrb5support0
    libk5crypto3 libkeyutils1 libcom-err2 libwtmpdb0 libsqlite3-0 libpam0g libcrypt1 libcap-ng0 libaudit1 libwrap0"""
ADB = """adb adbd libstdc++6 libcap2 libxxhash0 liblz4-1 libbrotli1 libprotobuf32t64 libusb-1.0-0 libudev1 libsystemd0
    android-libbase android-liblog android-libcutils android-libboringssl android-libziparchive"""
ARM = """libstdc++6 libexpat1 libffi8 liblzma5 libbz2-1.0 libssl3t64 libsqlite3-0 libuuid1 python3.13-minimal
    libpython3.13-minimal libpython3.13-stdlib"""
ARM_WHEELS = ("--python-version=3.13", *(f"--platform=manylinux_2_{n}_aarch64" for n in (17, 27, 28, 34)))


class Missing(Exception):
    """What lacks, for a person."""


def main(names: Iterable[str]) -> None:
    for name in names or GROUPS:
        make, *recipe = GROUPS[name]
        mark = FOLDER / f"{name}.complete"
        digest = hashlib.sha256(repr((RELEASE, recipe)).encode()).hexdigest()
        if mark.is_file() and mark.read_text() == digest:
            continue
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        (FOLDER / name).mkdir(parents=True)
        try:
            make(FOLDER / name, *recipe)
        except (Missing, OSError) as error:
            sys.stdout.write(f"test tools: no {name}: {error}\n")
            continue
        mark.write_text(digest)
        sys.stdout.write(f"test tools: {name} is in {FOLDER / name}\n")


def programs(folder: Path, packages: str, paths: str) -> None:
    """Unpack amd64 packages and start their programs, in ``bin``, with the libraries that came along."""
    if platform.machine() != "x86_64":
        raise Missing(f"made for x86-64, this is {platform.machine()}")
    unpack(folder / "root", packages.split(), "amd64")
    libraries = folder / "root/usr/lib/x86_64-linux-gnu"
    loader = f"{libraries}/ld-linux-x86-64.so.2 --library-path {libraries}:{libraries}/android"
    (folder / "bin").mkdir()
    for path in paths.split():
        program = folder / "root" / path
        start = folder / "bin" / program.name
        start.write_text(f'#!/bin/sh\nexec {loader} --argv0 {program} {program} "$@"\n')
        start.chmod(0o755)


def arm(folder: Path, packages: str, requirements: tuple[str, ...]) -> None:
    """An aarch64 Python with the base install and LiteRT's runtime, and the emulator that runs it: ``bin/python``."""
    if platform.machine() != "x86_64":
        raise Missing(f"made for x86-64, this is {platform.machine()}")
    unpack(folder / "root", packages.split(), "arm64")
    (folder / "root/lib").symlink_to("usr/lib")
    unpack(folder / "emulator", ["qemu-user"], "amd64", "./usr/bin/qemu-aarch64")
    target = (f"--target={folder}/packages", "--only-binary=:all:", *ARM_WHEELS, f"--constraint={ROOT}/constraints.txt")
    install([sys.executable], *target, *requirements)
    (folder / "packages/hwnas").symlink_to(ROOT)
    (folder / "bin").mkdir()
    start = folder / "bin/python"
    start.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={folder}/packages PYTHONDONTWRITEBYTECODE=1\n"
        f'exec {folder}/emulator/usr/bin/qemu-aarch64 -L {folder}/root {folder}/root/usr/bin/python3.13 "$@"\n'
    )
    start.chmod(0o755)


def base(folder: Path, requirements: tuple[str, ...]) -> None:
    """A Python as on a board: nothing but the base install, the runtimes, and this checkout: ``bin/python``."""
    call(sys.executable, "-m", "venv", folder)
    constraint = () if OLD_NUMPY in requirements else ("--constraint", str(ROOT / "constraints.txt"))
    install([folder / "bin/python"], *constraint, *requirements)
    (site,) = folder.glob("lib/python*/site-packages")
    (folder / "link").mkdir()
    (folder / "link/hwnas").symlink_to(ROOT)
    (site / "hwnas.pth").write_text(f"{folder}/link\n")


def unpack(folder: Path, packages: list[str], architecture: str, *only: str) -> None:
    """Download packages of the release, of its dependencies only what is named, and unpack them into the folder."""
    download = folder.with_name(folder.name + ".debs")
    download.mkdir(exist_ok=True)
    try:
        call(*apt_get(architecture), "download", *packages, cwd=download)
    except Missing:  # the lists may be older than the mirror
        shutil.rmtree(FOLDER / f"apt-{architecture}", ignore_errors=True)
        call(*apt_get(architecture), "download", *packages, cwd=download)
    folder.mkdir()
    for package in sorted(download.glob("*.deb")):
        with subprocess.Popen(["dpkg", "--fsys-tarfile", package], stdout=subprocess.PIPE) as tar:
            call("tar", "-x", "-C", folder, *only, stdin=tar.stdout)
    shutil.rmtree(download)


def apt_get(architecture: str) -> list[str]:
    """apt-get with lists and settings of its own; they are read from this machine's mirror of Debian once."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing("needs Debian's apt-get and dpkg")
    state = FOLDER / f"apt-{architecture}"
    options = {
        "APT::Architecture": architecture,
        "Acquire::http::Timeout": 20,
        "APT::Sandbox::User": "root",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": state / "release.sources",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": state,
        "Dir::State::status": state / "status",
    }
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items()), "-oAPT::Architectures="]
    if not (state / "updated").is_file():
        (state / "lists/partial").mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        (state / "release.sources").write_text(
            f"Types: deb\nURIs: {mirror()}\nSuites: {RELEASE}\nComponents: main\n"
            f"Architectures: {architecture}\nSigned-By: {KEYRING}\n"
        )
        call(*command, "update")
        (state / "updated").touch()
    return command


def mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    if not KEYRING.is_file():
        raise Missing(f"needs Debian's keys, {KEYRING}")
    folder = Path("/etc/apt")
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]:
        found = re.search(r"(?m)^[^#\n]*?(https?://\S+/debian/?)(\s|$)", path.read_text()) if path.is_file() else None
        if found:
            return found[1]
    raise Missing("apt has no source of Debian's packages")


def install(python: list[str | Path], *arguments: str) -> None:
    options = ("--quiet", "--no-input", "--disable-pip-version-check")
    call(*python, "-m", "pip", "install", *options, *arguments)


def call(*command: str | Path, **options: object) -> None:
    done = subprocess.run(command, capture_output="stdin" not in options, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        said = (done.stderr or "").strip().splitlines()
        raise Missing(f"{Path(command[0]).name}: {said[-1] if said else f'exit code {done.returncode}'}")


def requirements(*extras: str) -> tuple[str, ...]:
    """What pip installs on a board: the package's base requirements, and the extras'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return (*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra]))


SSH_PROGRAMS = "usr/bin/ssh usr/bin/ssh-keygen usr/sbin/sshd usr/lib/openssh/sshd-session usr/lib/openssh/sshd-auth"
GROUPS: dict[str, tuple[Callable[..., None], *tuple[object, ...]]] = {
    "ssh": (programs, f"{COMMON} {SSH}", SSH_PROGRAMS),
    "adb": (programs, f"{COMMON} {ADB}", "usr/bin/adb usr/sbin/adbd"),
    "arm": (arm, f"{COMMON} {ARM}", requirements("mobile")),
    "base": (base, requirements("cpu", "mobile")),
    "tflite-runtime": (base, (*requirements(), "tflite-runtime==2.14.0", OLD_NUMPY)),
}

if __name__ == "__main__":
    main(sys.argv[1:])
