"""What was found is measured, the choice corrected by it, and judged by visits of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hwnas.devices import session
from hwnas.devices.base import DeviceError
from hwnas.devices.registry import create
from hwnas.predictors.base import Predictor, PredictorError
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.network_timer import NetworkTimer
from hwnas.profiler.designs import network_key
from hwnas.profiler.table import LatencyTable, Provenance, Row
from hwnas.search import landing
from hwnas.search.derive import Derived, most_probable
from hwnas.search.goals import Goal, Latency
from hwnas.search.landing import Derive, Landing, LandingRequest, from_ranked, land
from hwnas.search.settings import LandingSettings
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

SETTINGS = LandingSettings(candidates=5, visits=5, final_visits=6)
NOISE = 0.004


class Net(nn.Module):
    """Five choices, 3,125 networks."""

    def __init__(self) -> None:
        super().__init__()
        kernels = (1, 3, 5, 7)
        self.layers = nn.ModuleList(
            LayerChoice({**{f"k{k}": nn.Conv2d(3, 3, k, padding=k // 2) for k in kernels}, "skip": nn.Identity()})
            for _ in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated device has a clock of its own: nothing is waited for."""
    monkeypatch.setattr(landing, "PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace(Net, (3, 8, 8), name="five")


class Machine:
    """A simulated device on which every network takes as long as a table says, times what a test says.

    Attributes:
        predictor: of that table; it was calibrated on ten networks.
    """

    def __init__(self, space: SearchSpace, path: Path) -> None:
        self.path = path
        self.codes = np.concatenate(list(space.encoding.enumerate()))
        self.architectures = space.decode(self.codes)
        self.names = {a: network_key(a, 1, "fp32") for a in self.architectures}
        rng = np.random.default_rng(11)
        rows = [
            Row(w.key(), w.op, "fixed" if w.fixed else "candidate", v, "ms", v, v, 3, 9, "ok", "")
            for w in space.workloads()
            for v in [float(rng.uniform(0.1, 1))]
        ]
        provenance = Provenance(
            "simulated",
            "ms",
            create("simulated", **self.settings).settings.as_dict(),
            space.name,
            fingerprint=space.fingerprint,
            lowering="ops",
        )
        plain = LutPredictor(space, provenance, rows)
        known = self.architectures[::312]
        rows += [
            Row(self.names[a], "network", "network", v, "ms", v, v, 3, 9, "ok", "", {"architecture": a.as_dict()})
            for a, v in zip(known, plain.predict(known).tolist(), strict=True)
        ]
        self.predictor = LutPredictor(space, provenance, rows, {"networks": [a.as_dict() for a in known]})
        self.is_slower({})

    @property
    def settings(self) -> dict[str, Any]:
        return {"noise": NOISE, "table": str(self.path)}

    def is_slower(self, factors: Mapping[Architecture, float], others: float = 1.0) -> None:
        """From now on networks take so many times what the table says."""
        predicted = self.predictor.predict_codes(self.codes).tolist()
        each = zip(self.architectures, predicted, strict=True)
        self.path.write_text(json.dumps({self.names[a]: v * factors.get(a, others) for a, v in each}))

    def device(self, **settings: Any) -> Any:
        return create("simulated", **{**self.settings, **settings})


@pytest.fixture(scope="module")
def machines(space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(space, tmp_path_factory.mktemp("machine") / "durations.json")


@pytest.fixture
def machine(machines: Machine) -> Machine:
    """As it was when the table was made."""
    machines.is_slower({})
    return machines


def goal(predictor: Predictor, place: float = 0.5) -> Latency:
    """On target at a place in the range of the space, 0 to 1."""
    low, high = predictor.predict_codes(predictor.extremes())
    return Latency(predictor.space, [Goal(predictor, float(low + place * (high - low)))])


def deriving(latency: Latency, rule: Any = "band") -> Derive:
    """Of a search that found some probabilities."""
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(len(d))) for d in latency.space.decisions]
    return lambda n, scale: most_probable(latency.space, p, latency, rule=rule, n=n, scale=scale)


def run(latency: Latency, device: Any, folder: Path, rule: Any = "band", **options: Any) -> Landing:
    options = {"derive": deriving(latency, rule), "settings": SETTINGS, **options}
    return land(LandingRequest(latency.space, latency, device=device, folder=folder, rule=rule, **options))


def found_by(latency: Latency, n: int, rule: Any = "band") -> list[Architecture]:
    return latency.space.decode(np.stack([d.codes for d in deriving(latency, rule)(n, 1.0)]))


def test_it_lands(machine: Machine, tmp_path: Path) -> None:
    latency = goal(machine.predictor)
    found = run(latency, machine.device(), tmp_path)
    assert found.target == latency.goals[0].target
    assert found.measured is not None
    assert found.deviation == pytest.approx(100 * (found.measured.value / found.target - 1))
    assert abs(found.deviation or 0) < 2.3
    assert [c.architecture for c in found.candidates][:5] == found_by(latency, 5)
    assert found.chosen in [c.architecture for c in found.candidates]
    assert found.factor is not None
    assert found.factor == pytest.approx(1, abs=0.01)
    assert found.calibration_factor == pytest.approx(1, abs=0.01)
    assert found.calibration_networks == landing.CALIBRATION
    assert found.drift == pytest.approx(0, abs=1)
    assert (found.failed, found.doubts) == ((), ())
    for candidate in found.candidates:
        predicted = float(machine.predictor.predict([candidate.architecture])[0])
        assert candidate.predicted == pytest.approx(predicted)
        assert candidate.predicted_refitted == pytest.approx(found.factor * predicted)
        assert candidate.measured.low <= candidate.measured.value <= candidate.measured.high


def test_what_it_finds_is_json(machine: Machine, tmp_path: Path) -> None:
    found = run(goal(machine.predictor), machine.device(), tmp_path)
    data = json.loads(json.dumps(found.as_dict()))
    assert Landing.from_dict(data) == found
    for candidate in data["candidates"]:
        assert {"architecture", "predicted", "predicted_refitted", "measured", "round"} <= set(candidate)
    assert found.measured is not None
    assert data["measured"] == found.measured.value


def test_the_last_measurement_has_visits_of_its_own(machine: Machine, tmp_path: Path) -> None:
    found = run(goal(machine.predictor), machine.device(), tmp_path)
    started = []
    for name in (f"landing-{max(c.round for c in found.candidates)}", "landing-final"):
        with LatencyTable.open(tmp_path / f"{name}.db") as table:
            visits = table.all_visits()
            started.append([v.started for v in visits[machine.names[found.chosen]]])
    assert [len(own) for own in started] == [SETTINGS.visits, SETTINGS.final_visits]
    assert max(started[0]) < min(started[1])
    assert len(visits) == 1 + landing.REFERENCES


@pytest.mark.parametrize("factor", [1.05, 0.9, 1.25])
def test_a_machine_that_has_changed(machine: Machine, tmp_path: Path, factor: float) -> None:
    latency = goal(machine.predictor)
    machine.is_slower({}, factor)
    found = run(latency, machine.device(), tmp_path)
    first = found.candidates[0].measured.value / latency.goals[0].target
    assert 0.97 * factor < first < 1.01 * factor
    assert abs(found.deviation or 0) < 2.3
    assert found.factor == pytest.approx(factor, rel=0.01)
    assert found.calibration_factor == pytest.approx(factor, rel=0.01)
    assert 2 in {c.round for c in found.candidates}
    assert len(found.candidates) <= SETTINGS.candidates + (landing.ROUNDS - 1) * landing.MORE


def test_networks_near_the_target_that_are_off_alike(machine: Machine, tmp_path: Path) -> None:
    """The calibration networks do not show it; the candidates do, and others are derived by them."""
    latency = goal(machine.predictor)
    ratio = latency.ratio(machine.codes)
    near = [a for a, r in zip(machine.architectures, ratio, strict=True) if 0.9 < r < 1.05]
    known = machine.predictor.origin.networks if machine.predictor.origin else {}
    machine.is_slower({a: 1.06 for a in near if a not in known})
    found = run(latency, machine.device(), tmp_path)
    assert found.calibration_factor == pytest.approx(1, abs=0.01)
    assert found.factor is not None
    assert 1.04 < found.factor < 1.06
    assert abs(found.deviation or 0) < 2.3
    assert max(c.round for c in found.candidates) > 1


def test_the_nearest_is_chosen(machine: Machine, tmp_path: Path) -> None:
    latency = goal(machine.predictor)
    candidates = found_by(latency, 5)
    ratio = latency.ratio(latency.space.encode(candidates))
    machine.is_slower(dict(zip(candidates, [1.06, 0.94, 1.05, 1, 0.95] / ratio, strict=True)))
    found = run(latency, machine.device(), tmp_path)
    assert found.chosen == candidates[3]
    assert abs(found.deviation or 0) < 2.3


@pytest.mark.parametrize("factor", [1.05, 0.9])
def test_below_a_limit_is_the_most_probable(machine: Machine, tmp_path: Path, factor: float) -> None:
    latency = goal(machine.predictor)
    machine.is_slower({}, factor)
    found = run(latency, machine.device(), tmp_path, "limit")
    assert found.deviation is not None
    assert found.deviation <= 0
    assert found.target is not None
    chosen = next(c for c in found.candidates if c.architecture == found.chosen)
    below = [c for c in found.candidates if c.expected < 0.99 * found.target]
    assert chosen.log_probability >= max(c.log_probability for c in below)
    best = deriving(latency, "limit")(1, 1.01 * factor)[0].log_probability
    assert chosen.log_probability >= best - 1e-9
    assert found.doubts == ()


def test_plain_argmax_is_measured_alone(machine: Machine, tmp_path: Path) -> None:
    latency = goal(machine.predictor, 0.1)
    found = run(latency, machine.device(), tmp_path, "argmax")
    assert [c.architecture for c in found.candidates] == [found.chosen] == found_by(latency, 1, "argmax")
    assert found.calibration_networks == 0
    assert found.measured is not None
    assert found.doubts == ()


def test_without_a_target(machine: Machine, space: SearchSpace, tmp_path: Path) -> None:
    ranked = [Derived(row, 0.0, None) for row in machine.codes[100:103]]
    request = LandingRequest(space, None, ranked, machine.device(), tmp_path, settings=SETTINGS)
    found = land(request)
    assert (found.target, found.ratio, found.deviation, found.factor, found.candidates[0].predicted) == (None,) * 5
    assert found.rule == "argmax"
    assert found.measured is not None
    predicted = land(replace(request, predictor=machine.predictor)).candidates[0].predicted
    assert predicted == pytest.approx(found.measured.value, rel=0.02)


def test_counting_is_exact(space: SearchSpace, tmp_path: Path) -> None:
    found = run(goal(FlopsPredictor.of(space)), create("flops"), tmp_path)
    chosen = next(c for c in found.candidates if c.architecture == found.chosen)
    assert found.unit == "MMACs"
    assert found.measured is not None
    assert chosen.predicted == pytest.approx(found.measured.value)
    assert found.factor == pytest.approx(1)
    assert max(c.round for c in found.candidates) == 1
    assert found.deviation is not None
    assert abs(found.deviation) <= 2


def test_several_goals(machine: Machine, space: SearchSpace, tmp_path: Path) -> None:
    """The device is 10 % slow, which is half of that together."""
    flops, row = FlopsPredictor.of(space), machine.architectures[1500:1501]
    goals = [Goal(p, float(p.predict(row)[0])) for p in (flops, machine.predictor)]
    machine.is_slower({}, 1.1)
    found = run(Latency(space, goals), machine.device(), tmp_path, goal=1)
    assert found.target == goals[1].target
    assert found.factor == pytest.approx(1.1, rel=0.01)
    assert found.measured is not None
    counted = float(flops.predict([found.chosen])[0]) / goals[0].target
    assert found.ratio == pytest.approx((counted + found.measured.value / goals[1].target) / 2)
    assert abs(found.deviation or 0) < 2.3


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_given_networks_in_their_order(machine: Machine, scale: float) -> None:
    latency = goal(machine.predictor)
    codes = machine.codes[::3]
    ranked = [Derived(row, -float(i), None) for i, row in enumerate(codes)]
    ratio = scale * latency.ratio(codes)
    accepted = np.flatnonzero((ratio >= 0.98) & (ratio <= 1)).tolist()
    found = from_ranked(latency, ranked, "band")(len(accepted) + 3, scale)
    assert [int(-d.log_probability) for d in found[:-3]] == accepted
    assert [d.ratio for d in found] == pytest.approx([ratio[int(-d.log_probability)] for d in found])
    below = from_ranked(latency, ranked, "limit")(5, scale)
    assert [int(-d.log_probability) for d in below] == np.flatnonzero(ratio <= 1)[:5].tolist()


def test_given_networks_are_landed(machine: Machine, tmp_path: Path) -> None:
    machine.is_slower({}, 1.05)
    ranked = [Derived(row, -float(i), None) for i, row in enumerate(machine.codes[::3])]
    found = run(goal(machine.predictor), machine.device(), tmp_path, derive=ranked)
    assert abs(found.deviation or 0) < 2.3


# -- what goes wrong


@pytest.fixture
def _any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with faults counts as the one that the table was made on."""
    monkeypatch.setattr(landing, "check_device", lambda *_: [])


def faults(machine: Machine, architectures: Sequence[Architecture], kind: str) -> dict[str, str]:
    return {machine.names[a]: kind for a in architectures}


@pytest.mark.usefixtures("_any_device")
@pytest.mark.parametrize(("kind", "after"), [("crash", 0), ("error", 0), ("hang", 2)])
def test_a_candidate_that_fails_is_left_out(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    monkeypatch.setattr(session, "FLOOR_S", 0.5)
    latency = goal(machine.predictor)
    first = found_by(latency, 1)
    device = machine.device(faults=faults(machine, first, kind), fault_after=after)
    found = run(latency, device, tmp_path)
    assert [a for a, _ in found.failed] == first
    assert not set(first) & {c.architecture for c in found.candidates}
    assert any("left out, not measured" in doubt for doubt in found.doubts)
    assert abs(found.deviation or 0) < 2.3


def test_the_chosen_one_fails_at_last(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = NetworkTimer.measure

    def fails_at_last(self: NetworkTimer, architectures: Any, visits: int = 0, *, name: str = "") -> Any:
        found = measure(self, architectures, visits, name=name)
        if name == "landing-final":
            self.failed[architectures[0]] = "out of memory"
            del found[architectures[0]]
        return found

    monkeypatch.setattr(NetworkTimer, "measure", fails_at_last)
    found = run(goal(machine.predictor), machine.device(), tmp_path)
    assert (found.measured, found.ratio, found.deviation) == (None, None, None)
    assert found.chosen in [c.architecture for c in found.candidates]
    assert found.doubts == ("the chosen network could not be measured again: out of memory",)
    assert Landing.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.usefixtures("_any_device")
def test_no_candidate_can_be_measured(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"none of 13 candidates could be measured: .*simulated error"):
        run(goal(machine.predictor), machine.device(faults={"network *": "error"}), tmp_path)


def test_no_agent(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="/no/such/python"):
        run(goal(machine.predictor), machine.device(), tmp_path / "new", agent_python="/no/such/python")
    assert not (tmp_path / "new").exists()


def test_another_device(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match="the predictor was made for device = 'simulated', not 'cpu'"):
        run(goal(machine.predictor), create("cpu"), tmp_path)


def test_a_target_that_is_missed_is_told(machine: Machine, tmp_path: Path) -> None:
    latency = goal(machine.predictor)
    ranked = deriving(latency)(3, 1.0)
    machine.is_slower({}, 1.2)
    found = run(latency, machine.device(), tmp_path, derive=ranked)
    assert found.deviation == pytest.approx(19, abs=2)
    assert any("% off the target" in doubt for doubt in found.doubts)
    limited = run(latency, machine.device(), tmp_path, "limit", derive=ranked)
    assert any("% above the limit" in doubt for doubt in limited.doubts)


def test_on_the_cpu(space: SearchSpace, tmp_path: Path) -> None:
    ranked = deriving(goal(FlopsPredictor.of(space)))(3, 1.0)
    request = LandingRequest(space, None, ranked, create("cpu", threads=1), tmp_path, settings=SETTINGS)
    found = land(request)
    assert found.measured is not None
    assert 0 < found.measured.low <= found.measured.value <= found.measured.high < 100
    assert found.unit == "ms"
