"""Configurations: what covers what, what is refused and how it is said, and that nothing runs code."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hwnas.errors import HwnasError
from hwnas.search import settings as settings_module
from hwnas.search.config import ConfigError, GoalConfig, Option, SearchConfig, read_config
from hwnas.search.run import RunFolder
from hwnas.search.validation import RANGES, is_number, known_keys, nearest, read
from hwnas.search.yaml_text import YamlError, dump_yaml, load_yaml
from hypothesis import given
from hypothesis import strategies as st

GOAL: dict[str, Any] = {"predictors": ["t.db"], "targets": [2.0]}


def config(*sets: str, file: Path | None = None, options: Mapping[str, Any] | None = None, **more: Any) -> SearchConfig:
    """A configuration with a goal; options by `name=key`."""
    named = [(*name.split("=", 1), value) for name, value in (options or {}).items()]
    given = [Option(name, key, value) for name, key, value in named]
    return read_config(file, sets, given, **(GOAL | more))


def refused(*sets: str, **arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*sets, **arguments)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# -- what covers what


def test_defaults() -> None:
    assert config() == SearchConfig(goals=(GoalConfig("t.db", 2.0),))


def test_later_ones_cover_earlier_ones(file: Any) -> None:
    path = file("seed: 1\nsearch:\n  every: 3\n  weights: {lr: 1e-3, epochs: 5}\n")
    found = config(file=path)
    assert (found.seed, found.search.every) == (1, 3)
    assert (found.search.weights.lr, found.search.weights.epochs, found.search.weights.batch_size) == (0.001, 5, 64)
    found = config("seed=2", "search.weights.epochs=6", file=path)
    assert (found.seed, found.search.weights.lr, found.search.weights.epochs) == (2, 0.001, 6)
    options = {"--seed=seed": 3, "--epochs=search.weights.epochs": None}
    found = config("seed=2", "search.weights.epochs=6", file=path, options=options)
    assert (found.seed, found.search.weights.epochs) == (3, 6)


def test_a_mapping_is_laid_over_another_key_by_key(file: Any) -> None:
    path = file("search:\n  weights: {lr: 1, epochs: 5}\n")
    found = config("search={weights: {epochs: 6}, gradient: {mode: two, betas: [0, 0.5]}}", file=path)
    assert (found.search.weights.lr, found.search.weights.epochs) == (1.0, 6)
    assert found.search.gradient.betas == (0.0, 0.5)
    assert isinstance(found.search.weights.lr, float)


def test_goals(file: Any) -> None:
    two = file("goals:\n- {predictor: a.db, target: 1}\n- {predictor: b.db, target: 2.5, weight: 3}\n")
    none: dict[str, Any] = {"predictors": [], "targets": []}
    expected = (GoalConfig("a.db", 1.0), GoalConfig("b.db", 2.5, 3.0))
    assert config(file=two, **none).goals == expected
    assert config("goals.0.weight=2", file=two, **none).goals[0] == GoalConfig("a.db", 1.0, 2.0)
    assert config(file=two, predictors=[], targets=[4, 5]).goals[1] == GoalConfig("b.db", 5.0, 3.0)
    assert config(file=two).goals == (GoalConfig("t.db", 2.0),)
    pairs: dict[str, Any] = {"predictors": ["x", "y"], "targets": [1, 2]}
    assert config("goals.1.weight=2", **pairs).goals == (GoalConfig("x", 1.0), GoalConfig("y", 2.0, 2.0))
    assert "1 times --target for 2 goals of the configuration" in refused(file=two, predictors=[], targets=[4])
    assert "1 times --predictor and 2 times --target" in refused(targets=[1, 2])
    assert "positions 0, 2" in refused("goals.2.weight=1")
    assert config(file=file("goals: []")).goals == (GoalConfig("t.db", 2.0),)


def test_arguments_of_the_space_are_text_and_belong_to_it(file: Any) -> None:
    path = file("space: proxyless\nspace_args: {width: 0.5, resolution: 96, deep: true, widths: [1, 2], name: x}\n")
    found = config(file=path, options={"--space-arg=space_args": {"width": "0.75"}})
    expected = {"width": "0.75", "resolution": "96", "deep": "True", "widths": "[1, 2]", "name": "x"}
    assert found.space_args == expected
    assert config(file=path, options={"--space=space": "proxyless"}).space_args["width"] == "0.5"
    assert config(file=path, options={"--space=space": "nasbench201"}).space_args == {}


def test_limit(file: Any) -> None:
    assert config(limit=True).search.objective.kind == "limit"
    assert config("search.objective.kind=hold", limit=True).search.objective.kind == "limit"
    for kind in ("mul#log", "add#linear"):
        assert "--limit contradicts the objective" in refused(f"search.objective.kind={kind}", limit=True)
    assert "--limit contradicts" in refused(limit=True, options={"--objective=search.objective.kind": "hold"})
    assert config(limit=True, options={"--objective=search.objective.kind": "limit"}).search.objective.kind == "limit"


# -- a configuration is written and read again


def test_what_a_run_writes_gives_the_same_configuration(tmp_path: Path) -> None:
    made = config(
        *("search.weights.lr=1e-5", "search.gradient.betas=[0, 0.99]", "space_args={width: 1e-3, on: true, v: 010}"),
        *("goals.0.weight=0.1", "data=imagefolder:no", "final.init=supernet", "landing.tolerance=0.02"),
        *("search.algorithm=reinforce", "device=null", "torch_threads=2", "seed=9223372036854775807"),
        options={"--agent=agent": "ssh board python3"},
    )
    with RunFolder.open(tmp_path, made.as_dict()):
        pass
    text = (tmp_path / "config.yaml").read_text()
    assert "ssh" not in text
    again = read_config(tmp_path / "config.yaml")
    assert again == dataclasses.replace(made, agent=None)
    with RunFolder.open(tmp_path, again.as_dict()) as run:
        assert run.resumed


def test_every_setting_can_be_set() -> None:
    """The key of each number takes a value in its range, which arrives where it belongs."""
    number = {**dict.fromkeys(RANGES, 3), "momentum": 0.3, "label_smoothing": 0.3, "baseline_decay": 0.3}
    number["coverage"] = 0.3
    beside = {"population": ["search.evolution.tournament=1"], "coverage": ["search.objective.kind=limit"]}
    for key in known_keys(SearchConfig):
        name = key.split(".")[-1]
        if name in number:
            value: Any = config(f"{key}={number[name]}", *beside.get(name, []))
            for part in key.split("."):
                value = value[int(part)] if part.isdigit() else getattr(value, part)
            if key != "goals.0.target":
                assert value == number[name], key


def test_every_number_has_a_range() -> None:
    classes = [c for c in vars(settings_module).values() if dataclasses.is_dataclass(c)]
    numbers = {f.name for c in (*classes, SearchConfig, GoalConfig) for f in dataclasses.fields(c)}
    hints = {name for c in classes for name, kind in _hints(c).items() if is_number(kind)}
    assert hints <= set(RANGES)
    assert set(RANGES) <= numbers


def _hints(cls: Any) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(cls)


def test_defaults_are_in_their_ranges() -> None:
    defaults = SearchConfig().as_dict() | {"goals": []}
    assert read(SearchConfig, load_yaml(dump_yaml(_lists(defaults)), "")) == SearchConfig()


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


# -- what is refused


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("serch.every=1", "--set: there is no key serch; nearest is search"),
        ("search.evry=1", "there is no key search.evry; nearest is search.every"),
        ("search.weights.learning_rate=1", "there is no key search.weights.learning_rate; "),
        ("warmup_epochs=1", "there is no key warmup_epochs; nearest is search.warmup_epochs"),
        ("gradient.lr=1", "there is no key gradient; nearest is search.gradient"),
        ("epoch=1", "nearest is search.weights.epochs or final.weights.epochs"),
        ("goals.0.tarket=1", "nearest is goals.0.target"),
        ("qqqq=1", "there is no key qqqq; there are space, space_args, data"),
        ("seed.x=1", '--set: seed is {"x": 1}; it should be a valid integer'),
        ("search=3", "--set: search is 3, where keys with values are needed"),
        ("search.weights.epochs=-1", "--set: search.weights.epochs is -1; it should be greater than or equal to 0"),
        ("search.weights.epochs=1.5", "search.weights.epochs is 1.5; it should be a valid integer"),
        ("search.weights.epochs=true", "search.weights.epochs is true; it should be a valid integer"),
        ("search.weights.epochs='3'", 'search.weights.epochs is "3"; it should be a valid integer'),
        ("search.weights.epochs=", "search.weights.epochs is null; it should be a valid integer"),
        ("search.weights.epochs=99999999999", "it should be less than or equal to 2147483647"),
        ("search.weights.batch_size=0", "greater than or equal to 1"),
        ("search.weights.lr=0", "search.weights.lr is 0; it should be greater than 0"),
        ("search.weights.lr=.inf", "search.weights.lr is Infinity; it should be a finite number"),
        ("search.weights.lr=.nan", "it should be a finite number"),
        ("search.weights.lr=1e999", "it should be a finite number"),
        ("search.weights.momentum=1", "it should be less than 1"),
        ("search.gradient.betas=[0.9]", "search.gradient.betas.1 is missing"),
        ("search.gradient.betas=[0, 1]", "search.gradient.betas.1 is 1; it should be less than 1"),
        ("search.gradient.betas=[0, 0, 0]", "search.gradient.betas is"),
        ("search.gradient.mode=full_v3", "not one of full_v2, full, two; nearest is full_v2"),
        ("search.objective.kind=mul_log", "nearest is mul#log"),
        ("search.algorithm=reinforced", "there is no algorithm 'reinforced', there are gradient,"),
        ("search.algorithm=reinforced", "nearest is reinforce"),
        ("compute=gpu", 'compute is "gpu", not one of auto, cpu, cuda; nearest is cpu'),
        ("latency=guessed", "not one of predicted, measured"),
        ("final.init=pretrained", "not one of scratch, supernet"),
        ("landing.visits=1", "greater than or equal to 2"),
        ("seed=-1", "greater than or equal to 0"),
        ("space=3", "space is 3; it should be a valid string"),
        ("space_args={a: {b: 1}}", "space_args.a is"),
        ("threads=0", "greater than or equal to 1"),
        ("search.weights.lr", "is not of the form KEY=VALUE"),
        ("=3", "is not of the form KEY=VALUE"),
        ("a..b=3", "is not of the form KEY=VALUE"),
        ("search=[", "--set search, line 1: "),
        ("search={a: 1, a: 2}", "duplicate key 'a'"),
        ("search.weights.nesterov=no", 'search.weights.nesterov is "no"; it should be a valid boolean'),
    ],
)
def test_one_key(setting: str, message: str) -> None:
    assert message in refused(setting)


@pytest.mark.parametrize(
    ("settings", "goals", "message"),
    [
        ([], {"predictors": [], "targets": []}, "--predictor and --target are missing; "),
        ([], {"predictors": [], "targets": [1]}, "the target 1.0 has no predictor"),
        ([], {"predictors": ["a"], "targets": []}, "the predictor a has no target: give --target"),
        ([], {"targets": [0]}, "--target: goals.0.target is 0; it should be greater than 0"),
        ([], {"targets": [float("nan")]}, "it should be a finite number"),
        ([], {"predictors": ["a", "a"], "targets": [1, 2]}, "the predictor a has several targets"),
        (["search.objective.kind=none"], {}, "a target is given, but the objective none leaves latency out"),
        (
            ["search.objective.kind=none", "search.objective.derive=band"],
            {"targets": []},
            "--set: 'band' needs a target, the objective is none",
        ),
        (["search.objective.kind=limit", "search.objective.derive=band"], {}, "'band' has a lower end"),
        (["search.objective.coverage=0.9"], {}, "--set: a coverage is of the limit (--limit), the objective is hold"),
        (
            [
                "latency=measured",
                "search.algorithm=reinforce",
                "search.objective.kind=limit",
                "search.objective.coverage=0.9",
            ],
            {},
            "latency that is measured has no interval",
        ),
        (["latency=measured"], {}, "--set: latency cannot be measured for gradient"),
        (
            ["latency=measured", "search.algorithm=reinforce"],
            {"predictors": ["a", "b"], "targets": [1, 2]},
            "latency is measured on one device, 2 targets are given",
        ),
        (["latency=measured", "search.algorithm=reinforce"], {"predictors": []}, "say where, by --device"),
        (["latency=measured", "search.algorithm=random"], {}, "random looks for networks on target by prediction"),
        (
            ["latency=measured", "search.algorithm=reinforce", "search.objective.kind=none"],
            {"targets": []},
            "the objective none leaves it out",
        ),
        (["search.weights.momentum=0"], {}, "search.weights.nesterov needs a search.weights.momentum above 0"),
        (["search.evolution.tournament=31"], {}, "tournament is 31, larger than the population 30"),
        (["search.gradient.mode=two", "search.gradient.betas=[0.5, 0.9]"], {}, "mode two needs a first beta of 0"),
    ],
)
def test_contradictions(settings: list[str], goals: dict[str, Any], message: str) -> None:
    assert message in refused(*settings, **goals)


def test_what_is_no_contradiction() -> None:
    assert config("search.objective.kind=none", targets=[]).goals == (GoalConfig("t.db"),)
    assert config("search.objective.kind=none", targets=[], predictors=[]).goals == ()
    measured = config("latency=measured", "search.algorithm=reinforce", "device=cpu", predictors=[])
    assert measured.goals == (GoalConfig(None, 2.0),)


def test_an_algorithm_of_another_package_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("abacus", "abacus:Abacus", "hwnas.algorithms")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    assert config("search.algorithm=abacus").search.algorithm == "abacus"
    assert "random, abacus; nearest is abacus" in refused("search.algorithm=abacu")


def test_options_are_named() -> None:
    assert refused(options={"--epochs=search.weights.epochs": -2}).startswith("--epochs: search.weights.epochs is -2")
    both = {"--mode=search.gradient.mode": "two", "--algorithm=search.algorithm": "reinforce"}
    assert refused(options=both) == "--mode is of the algorithm gradient, reinforce is asked for"
    agents = {"--agent=agent": "ssh x python", "--agent-python=agent_python": "python"}
    assert "exclude each other" in refused(options=agents)


def test_a_setting_given_twice() -> None:
    assert refused("seed=1", "seed=2") == "--set seed is given twice"


# -- files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 2: duplicate key 'seed', first on line 1"),
        ("search:\n  weights:\n    lr: 1\n    epochs: 1\n    lr: 2\n", "line 5: duplicate key 'lr'"),
        ("seed: [1\n", "c.yaml, line 2: "),
        ("a: &a [1]\nb: *a\n", "line 2: aliases are not allowed"),
        ("seed: !!python/object/apply:os.system [echo]\n", "could not determine a constructor"),
        ("? [1]\n: 2\n", "a key is a word"),
        ("- 1\n", "is not a configuration"),
        ("hello", "is not a configuration"),
        ("search.weights.lr: 1\n", "write the key search.weights.lr as nested ones"),
        (b"\xff\xfe\x00", "is no text"),
        ("a: \x01", "is no YAML"),
        ("[" * 3000, "c.yaml"),
        ("#" * 2**20 + "#", "is too large"),
        ("search:\n", "search is null, where keys with values are needed"),
        ("serach: {}\n", "c.yaml: there is no key serach; nearest is search"),
        ("agent: rm -rf /\n", "holds agent, which no file may: give --agent on the command line"),
        ("agent_python: /tmp/evil\n", "holds agent_python, which no file may"),
        ("benchmark_binary: /tmp/evil\n", "holds benchmark_binary, which no file may: give --benchmark-binary on"),
        ("serial: ABC\n", "holds serial, which no file may"),
        ("space: evil.py:space\n", "names code as its space (evil.py:space), which is run only if you say so"),
        ("data: os:abort\n", "names code as its data (os:abort), which is run only if you say so, too: add --data os:"),
    ],
)
def test_files_that_are_refused(file: Any, text: str | bytes, message: str) -> None:
    found = refused(file=file(text))
    assert message in found
    assert "c.yaml" in found


def test_an_empty_file_and_a_missing_one(file: Any, tmp_path: Path) -> None:
    assert config(file=file("# nothing\n")) == config()
    assert "there is no such file" in refused(file=tmp_path / "none.yaml")
    assert "there is no such file" in refused(file=tmp_path)


def test_code_that_the_user_names_too(file: Any) -> None:
    path = file("space: mine.py:space\ndata: mine.py:data\nspace_args: {width: 2}\n")
    options = {"--space=space": "mine.py:space", "--data=data": "mine.py:data"}
    found = config(file=path, options=options)
    assert (found.space, found.data, found.space_args) == ("mine.py:space", "mine.py:data", {"width": "2"})
    assert config("space=mine.py:space", "data=digits:28", file=path).data == "digits:28"
    assert config(file=file("data: imagefolder:/data/x\n")).data == "imagefolder:/data/x"


# -- YAML as it looks


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("", None),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ("mul#log", "mul#log"),
        ("-1e5", -1e5),
        ("e5", "e5"),
        ("0x10", "0x10"),
        ("<<", "<<"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = load_yaml(text, "x")
    assert found == value
    assert type(found) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), plain, max_size=4))
def test_what_is_dumped_is_loaded(data: dict[str, Any]) -> None:
    try:
        text = dump_yaml(data)
    except UnicodeEncodeError:
        return
    found = load_yaml(text, "x")
    assert found == data
    assert repr(found) == repr(data)


@given(st.text(max_size=60))
def test_any_text_is_loaded_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        load_yaml(text, "x")


@given(plain)
def test_any_value_makes_a_configuration_or_one_clear_error(value: Any) -> None:
    for key in ("search", "goals", "space_args", "final", "seed", "dtype"):
        message = ""
        try:
            assert isinstance(read(SearchConfig, {key: value}), SearchConfig)
        except HwnasError as error:
            message = str(error)
        assert re.match(rf"$|{key}|there is no key {key}", message)


def test_nearest() -> None:
    assert nearest("Gradint", ["gradient", "random"]) == "gradient"
    assert nearest("xyz", ["gradient"]) == ""
