"""Parameters that come from a server are hostile: nothing is made outside the roots, nothing runs, every number is bounded."""

import asyncio
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.exceptions import ParameterTypeError

from coral_core.errors import ConfigError, CoralError
from coral_core.lanes.allowed_paths import ALL, LAYERS, WORDS, variable
from flows import evolve as evolve_module
from flows import lane as lane_module
from flows.lane import evaluate_genomes, train_adapters
from flows.lane import test_patches as judged_patches
from flows.prefect_api.flow_run_process import STARTED_BY_WORKER, roots, served

evolve = evolve_module.evolve


class Started(Exception):  # noqa: N818
    """A flow got past its checks, with these places and numbers."""

    def __init__(self, **seen: Any) -> None:
        super().__init__(seen)
        self.seen = seen


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A worker's process: it is in `in`, its root; `out` beside it must stay as it is."""
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in" / "leads-out").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "test_it.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\ndef test_it(): pass\n")
    monkeypatch.chdir(tmp_path / "in")
    monkeypatch.setenv("HOME", str(tmp_path / "out"))
    monkeypatch.setenv(STARTED_BY_WORKER, str(uuid4()))
    for name in (ALL, LAYERS, *map(variable, WORDS)):
        monkeypatch.delenv(name, raising=False)

    class Worker:
        name = ""

        def __init__(self, store: Any, queue: Any, linger: float, *_: Any, **more: Any) -> None:
            raise Started(store=store.root, linger=linger, roots=more["roots"])

    def begun(config: Any, *_: Any) -> None:
        raise Started(store=Path(config.store.path), runs=Path(config.runs))

    monkeypatch.setattr(lane_module, "LaneWorker", Worker)
    monkeypatch.setattr(lane_module, "LaneCommands", lambda *_: lambda: "go on")
    monkeypatch.setattr(lane_module, "job_for_patch", begun)
    monkeypatch.setattr(evolve_module, "preflight", begun)
    before = everything(tmp_path / "out")
    yield tmp_path
    assert everything(tmp_path / "out") == before and not (tmp_path / "ran").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def run(flow: Any, **parameters: Any) -> Any:
    """As Prefect's engine would: parameters are checked by the flow's signature, then the function is called."""
    checked = flow.validate_parameters(parameters)
    done = flow.fn(**checked)
    return asyncio.run(done) if asyncio.iscoroutine(done) else done


LANES = [train_adapters, evaluate_genomes]
NUMBERS: list[Any] = [
    1e300,
    -1,
    -1e-9,
    3600.1,
    math.inf,
    -math.inf,
    math.nan,
    10**400,
    "1e300",
    None,
    [],
    {},
    "NaN",
    2**63,
]


@pytest.mark.parametrize("flow", LANES, ids=lambda flow: flow.name)
@pytest.mark.parametrize("name", ["linger", "slot"])
@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_a_lanes_numbers_are_finite_and_bounded(ground: Path, flow: Any, name: str, value: Any) -> None:
    with pytest.raises((ParameterTypeError, OverflowError)):
        run(flow, store=str(ground / "in"), **{name: value})


@pytest.mark.parametrize("flow", LANES, ids=lambda flow: flow.name)
def test_the_server_knows_the_bounds_and_refuses_such_a_flow_run_itself(flow: Any) -> None:
    linger = flow.parameters.properties["linger"]
    assert (linger["minimum"], linger["maximum"]) == (0, 3600)
    assert flow.parameters.properties["slot"]["maximum"] == 1_000_000


@pytest.mark.parametrize("flow", LANES, ids=lambda flow: flow.name)
@pytest.mark.parametrize(
    "store", ["{out}", "leads-out", "leads-out/x", "../out/x", "~/x", "/", "a\0b", "s3://x", "file://{out}/x", ""]
)
def test_a_lanes_store_lies_below_a_root(ground: Path, flow: Any, store: str) -> None:
    with pytest.raises(ConfigError, match=r"^store: .*CORAL_ROOTS_STORE"):
        run(flow, store=store.replace("{out}", str(ground / "out")))


@pytest.mark.parametrize("flow", LANES, ids=lambda flow: flow.name)
def test_a_lane_below_one_starts_and_holds_its_jobs_to_them(ground: Path, flow: Any) -> None:
    with pytest.raises(Started) as started:
        run(flow, store=str(ground / "in" / "store"), linger=3600)
    seen = started.value.seen
    assert seen["store"] == ground / "in" / "store" and seen["roots"] == roots()


PLACES: list[dict[str, Any]] = [
    {"runs": "{out}/runs"},
    {"runs": "leads-out/runs"},
    {"store": {"path": "{out}/store"}},
    {"store": {"path": "../out/store"}},
    {"problems": {"source": "package", "path": "{out}"}},
    {"problems": {"source": "package", "path": "."}},
    {"problems": {"training": {"source": "package", "path": "{out}"}}},
    {"problems": {"source": "quixbugs", "path": "{out}"}},
    {"problems": {"source": "jsonl", "path": "/etc/passwd"}},
    {"base_model": {"name": "{out}"}},
    {"base_model": {"name": "leads-out"}},
    {"scoring": {"judge": {"allow_missing_layers": ["seccomp"]}}},
]


def named(sections: Any, ground: Path) -> Any:
    if isinstance(sections, dict):
        return {key: named(value, ground) for key, value in sections.items()}
    return sections.replace("{out}", str(ground / "out")) if isinstance(sections, str) else sections


@pytest.mark.parametrize("sections", PLACES, ids=str)
def test_an_evolution_and_a_judging_of_patches_are_held_to_the_roots(ground: Path, sections: dict[str, Any]) -> None:
    config = named(sections, ground)
    with pytest.raises(ConfigError, match=r"(environment|not below|Leave it out)"):
        run(evolve, config=config)
    with pytest.raises(ConfigError, match=r"(environment|not below|Leave it out)"):
        run(judged_patches, patches=[{"problem": "x", "patch": "y"}], config=config)
    assert everything(ground / "in") == [str(ground / "in" / "leads-out")], "refused before anything is made"


@pytest.mark.parametrize("edition", [0, -1, 10**12, 10**400])
def test_an_edition_is_a_number_that_fits_a_name(ground: Path, edition: int) -> None:
    with pytest.raises((ConfigError, ParameterTypeError)):
        run(evolve, config={}, edition=edition)


def test_patches_are_bounded_and_need_no_place_without_a_configuration(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = {"problem": "x", "patch": "y"}
    with pytest.raises(ParameterTypeError, match="at most 10000 items"):
        run(judged_patches, patches=[patch] * 10_001)
    monkeypatch.setenv(ALL, str(ground / "elsewhere"))
    with pytest.raises(Started):
        run(judged_patches, patches=[patch])


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(NUMBERS),
    st.sampled_from(["/", "/etc", "..", "../out", "leads-out", "leads-out/x", "store", "./a/../b", "~", "a\0b", "file:///etc", "/tmp/x"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip
LANE_PARAMETERS = st.fixed_dictionaries(
    {"store": VALUES},
    optional={name: VALUES for name in ("installation", "code", "linger", "slot", "unknown")},
)
SECTIONS: dict[str, Any] = {
    "runs": VALUES,
    "store": st.fixed_dictionaries({}, optional={"path": VALUES, "reuse": VALUES}),
    "base_model": st.fixed_dictionaries({}, optional={"name": VALUES, "device": VALUES}),
    "problems": st.fixed_dictionaries(
        {}, optional={"source": st.sampled_from(["jsonl", "package", "builtin", "x"]), "path": VALUES}
    ),
    "infra": st.fixed_dictionaries(
        {},
        optional={
            name: VALUES for name in ("linger", "lease", "start", "attempts", "local_lanes", "weight", "training")
        },
    ),
}
CONFIGURATIONS = st.one_of(VALUES, st.fixed_dictionaries({}, optional=SECTIONS))
PARAMETERS = st.one_of(
    st.tuples(st.sampled_from(LANES), LANE_PARAMETERS),
    st.tuples(
        st.just(evolve),
        st.fixed_dictionaries({"config": CONFIGURATIONS}, optional={"edition": VALUES, "overrides": VALUES}),
    ),
    st.tuples(
        st.just(judged_patches),
        st.fixed_dictionaries(
            {"patches": st.one_of(VALUES, st.just([{"problem": "x", "patch": "y"}])), "config": CONFIGURATIONS}
        ),
    ),
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(drawn=PARAMETERS)
def test_whatever_they_are_a_flow_refuses_them_or_stays_below_with_bounded_numbers(
    ground: Path, drawn: tuple[Any, dict[str, Any]]
) -> None:
    flow, parameters = drawn
    inside = Path(os.path.realpath(ground / "in"))
    try:
        run(flow, **parameters)
    except Started as started:
        for name in ("store", "runs"):
            if name in started.seen:
                assert Path(os.path.realpath(started.seen[name])).is_relative_to(inside)
        assert 0 <= started.seen.get("linger", 0) <= 3600
    except (CoralError, ParameterTypeError, OverflowError, TypeError) as refused:
        assert str(refused)
    else:  # there was nothing to do, as with no patches; its books are below the root
        for path in (ground / "in").iterdir():
            if not path.is_symlink():
                shutil.rmtree(path)
    assert [path.name for path in (ground / "in").iterdir()] == ["leads-out"]


# -- who is held to them -------------------------------------------------------------------


def test_a_person_at_the_terminal_is_not(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STARTED_BY_WORKER)
    monkeypatch.setattr("prefect.runtime.deployment", type("Runtime", (), {"id": None}))
    assert not served() and roots() is None
    with pytest.raises(Started) as started:
        run(evolve, config={"runs": str(ground / "out" / "runs"), "store": {"path": str(ground / "out" / "s")}})
    assert started.value.seen["store"] == ground / "out" / "s"


@pytest.mark.parametrize("sign", ["worker", "deployment"])
def test_one_sign_is_enough(ground: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    if sign == "deployment":
        monkeypatch.delenv(STARTED_BY_WORKER)
        monkeypatch.setattr("prefect.runtime.deployment", type("Runtime", (), {"id": str(uuid4())}))
    assert served() and roots() is not None


def test_no_parameter_can_say_so(ground: Path) -> None:
    """Whatever a configuration or a lane's parameters hold, the sign is the process's own."""
    calls: list[Callable[[], Any]] = [
        lambda: run(evolve, config={"runs": str(ground / "out")}, overrides=[f"{STARTED_BY_WORKER}="]),
        lambda: run(train_adapters, store=str(ground / "out"), installation=STARTED_BY_WORKER),
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
