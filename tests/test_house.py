"""The house's own rules: who imports whom, what an import loads, what is shipped."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import hwnas
import pytest
from hwnas.spaces.registry import load_space, space_names
from typer.main import get_command

ROOT = Path(__file__).resolve().parent.parent
NOT_SHIPPED = {"tests", "benchmarks", "build", "dist"}

ABOVE = {
    "spaces": set(),
    "devices": set(),
    "profiler": {"spaces", "devices"},
    "predictors": {"spaces", "devices", "profiler"},
    "search": {"spaces", "devices", "profiler", "predictors"},
    "cli": {"spaces", "devices", "profiler", "predictors", "search"},
    "testing": {"spaces", "devices", "profiler", "predictors", "search"},
}
EVERYONES = {"errors", "cache", "__version__"}
HEAVY = ("torch", "onnx", "pandas", "sklearn")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> set[str]:
    """Dotted names of all folders that hold Python files of the package."""
    files = [p.relative_to(ROOT) for p in ROOT.glob("*/**/*.py")] + [p.relative_to(ROOT) for p in ROOT.glob("*.py")]
    shipped = [f for f in files if f.parts[0] not in NOT_SHIPPED and not f.parts[0].startswith(".")]
    return {".".join(("hwnas", *f.parent.parts)) for f in shipped}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything of hwnas that the file imports, at whatever level."""
    package = ("hwnas", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_room_is_known() -> None:
    rooms = {name.split(".")[1] for name in package_folders() if "." in name}
    assert rooms == set(ABOVE)


@pytest.mark.parametrize("room", ABOVE)
def test_import_directions(room: str) -> None:
    allowed = ABOVE[room] | {room} | EVERYONES
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, name in imported(path)
        if name.split(".")[0] == "hwnas" and name.split(".")[1] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source", ["from ..cli import main", "def f():\n    from hwnas.search import x", "import hwnas.cli"]
)
def test_import_directions_would_be_noticed(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "profiler").mkdir()
    (tmp_path / "profiler" / "wrong.py").write_text(source)
    with pytest.raises(AssertionError, match=r"profiler/wrong.py:\d imports hwnas.(cli|search)"):
        test_import_directions("profiler")


def test_no_star_imports() -> None:
    starred = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ABOVE
        for path in (ROOT / room).rglob("*.py")
        for line, name in imported(path)
        if name.endswith("*")
    ]
    assert starred == []


def python(code: str) -> str:
    # -P: as a user's process finds the package, not through the current folder
    process = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    return process.stdout


LOADED = f"import sys; print([m for m in {HEAVY} if m in sys.modules])"


@pytest.mark.parametrize(
    "statement",
    [
        "import hwnas",
        "import hwnas.devices",
        "import hwnas.devices.registry",
        "import hwnas.predictors",
        "import hwnas.predictors.kinds, hwnas.predictors.regressors",
        "import hwnas.cli.fit, hwnas.cli.evaluate",
    ],
)
def test_imports_stay_light(statement: str) -> None:
    assert python(f"{statement}; {LOADED}") == "[]\n"


def test_every_module_of_devices_stays_light() -> None:
    modules = sorted(p.stem for p in (ROOT / "devices").glob("*.py") if p.stem not in ("__init__", "__main__"))
    imports = "; ".join(f"import hwnas.devices.{m}" for m in modules)
    assert python(f"{imports}; {LOADED}") == "[]\n"


def test_help_stays_light() -> None:
    code = f"from hwnas.cli import main; code = main(['--help']); {LOADED}; assert code == 0"
    lines = python(code).splitlines()
    assert lines[-1] == "[]"
    assert any("devices" in line for line in lines)


def test_builtin_spaces_are_made_without_torch() -> None:
    code = "from hwnas.spaces.registry import load_space, space_names; [load_space(n) for n in space_names()]"
    assert python(f"{code}; {LOADED}") == "[]\n"


def test_public_names() -> None:
    assert {name: getattr(hwnas, name).__name__ for name in hwnas.__all__ if name != "__version__"} == {
        name: name for name in hwnas.__all__ if name != "__version__"
    }
    assert set(hwnas.__all__) <= set(dir(hwnas))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hwnas.Nothing  # noqa: B018


def test_version_is_the_distributions() -> None:
    assert hwnas.__version__ == project()["project"]["version"]


def test_every_package_is_listed() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == package_folders()


def shipped_modules(root: Path) -> set[str]:
    folders = [root.joinpath(*name.split(".")[1:]) for name in project()["tool"]["setuptools"]["packages"]]
    files = {f"hwnas/{p.relative_to(root)}" for folder in folders for p in folder.glob("*.py")}
    return files | {"hwnas/py.typed"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would hand out, so that building leaves nothing in the checkout."""
    pytest.importorskip("setuptools", "77")
    copy = tmp_path_factory.mktemp("sources") / "checkout"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "results", "tables")
    shutil.copytree(ROOT, copy, ignore=skipped)
    return copy


def build(sources: Path, kind: str, folder: Path) -> Path:
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    process = subprocess.run([sys.executable, "-c", code], cwd=sources, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    return folder / process.stdout.splitlines()[-1]


def test_wheel_holds_the_packages_and_nothing_else(sources: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(sources, "wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
    assert {n for n in names if not n.split("/")[0].endswith(".dist-info")} == shipped_modules(sources)
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_sdist_holds_the_packages(sources: Path, tmp_path: Path) -> None:
    with tarfile.open(build(sources, "sdist", tmp_path)) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {n.removeprefix("hwnas/") for n in shipped_modules(sources)} <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def shell_lines(document: str) -> list[str]:
    """Command lines in the document's shell blocks, continued ones joined."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_exist(document: str) -> None:
    from hwnas.cli.app import app

    group = get_command(app)
    for line in shell_lines(document):
        words = shlex.split(line, comments=True)
        if words[:1] == ["hwnas"]:
            command: Any = group
            given = words[1:]
            while hasattr(command, "list_commands") and given and not given[0].startswith("-"):
                assert given[0] in command.list_commands(None), f"no such command: {line}"
                command = command.get_command(None, given.pop(0))
            options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
            assert {w.partition("=")[0] for w in given if w.startswith("--")} <= options, f"no such option: {line}"
            spaces = [value for flag, value in pairwise(given) if flag == "--space"]
            assert {s for s in spaces if ":" not in s} <= set(space_names()), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_targets_and_files_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / document).read_text()
    assert set(re.findall(r"`?make ([a-z]+)", text)) <= targets
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", text)
    beside = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert (beside, [name for name in named if not (ROOT / name).exists()]) == ([], [])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_settings_exist(document: str) -> None:
    from hwnas.search.config import SearchConfig
    from hwnas.search.validation import known_keys

    known = known_keys(SearchConfig)
    named = re.findall(r"(?<![\w/.-])((?:search|final|landing|goals)(?:\.\w+)+)", (ROOT / document).read_text())
    files = {name for name in named if re.search(r"\.(py|md|json)$", name)}
    assert [name for name in set(named) - files if not any(f"{key}.".startswith(f"{name}.") for key in known)] == []


def test_make_targets_create_their_environment() -> None:
    """A dry run in a checkout without `.venv` begins by making one."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for target in ("demo", "test", "check", "bench"):
        plan = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", "VENV=/nonexistent/venv", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "MAKEFLAGS": ""},
            timeout=60,
        )
        assert plan.returncode == 0, plan.stderr
        assert "-m venv /nonexistent/venv" in plan.stdout, target


def test_documented_space_can_be_loaded(tmp_path: Path) -> None:
    """The README's Python block with a function `space` is a complete file, as its readers will take it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    files = [block for block in blocks if "def space(" in block]
    assert files
    for text in files:
        path = tmp_path / "space.py"
        path.write_text(text)
        space = load_space(f"{path}:space")
        assert space.size > 1
        for architecture in space.enumerate():
            space.build(architecture)(*space.inputs())
