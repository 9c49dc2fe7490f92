"""What comes from others may point to the roots of this machine and nowhere else, however it is written."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from coral_core.config import RunConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.job_content import job_for_patch
from coral_core.jobs.jobs import EvaluationJob, IdentityJob, TestJob, TrainingJob
from coral_core.lanes.allowed_paths import ALL, LAYERS, WORDS, Kind, Roots, variable
from coral_core.queue.queue import Ticket

KINDS: tuple[Kind, ...] = tuple(WORDS)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `in` that is a root, `out` beside it, links between them; this process is in `in`."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "deep" / "er").mkdir(parents=True)
    outside.mkdir()
    (outside / "bugs.jsonl").write_text("")
    (inside / "leads-out").symlink_to(outside)
    (inside / "dangling").symlink_to(tmp_path / "not-there")
    (inside / "relative").symlink_to("../out")
    (inside / "to-root").symlink_to("/")
    (inside / "loop").symlink_to("loop")
    (inside / "leads-in").symlink_to(inside / "deep")
    (outside / "leads-in").symlink_to(inside / "deep")
    (tmp_path / "in-not").mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HOME", str(outside))
    return tmp_path


def all_of(folder: Path) -> Roots:
    return Roots.of_environment({ALL: str(folder), variable("code"): str(folder)})


INSIDE = [
    "",
    "/",
    "/deep",
    "/deep/../deep/er",
    "/new/deeper/still",
    "/leads-in/x",
    "/./deep//er/",
    "/..x/y",
    "/...",
    "/ü",
    "/a b",
]
OUTSIDE = [
    "/..",
    "/../out",
    "/../in-not",
    "/leads-out",
    "/leads-out/new",
    "/deep/../../out",
    "/relative/x",
    "/dangling",
    "/dangling/x",
    "/to-root/etc",
    "/leads-in/../../out",  # `..` of a link is the parent of where it leads
    "/deep/er/../../../out",
]


ODD_WAYS = [
    "", "~", "~/x", "~root", "~nosuchuser/x", "../out", "leads-out/x", "a\0b", "\0", "s3://bucket/x", "http://127.0.0.1/", "file://",
    "file:///etc", "file://../out", "file://a://b", "/etc/passwd", "/proc/self/root/etc", "/proc/self/cwd/../out", "/dev/zero", "/",
    "x" * 5000, "/" + "a/" * 3000, "\ud800", "a\ud800/b", "/\udcff",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_below_a_root_is_a_place_without_links(ground: Path, kind: Kind) -> None:
    for tail in INSIDE:
        place = all_of(ground / "in").place(kind, "key", f"{ground}/in{tail}")
        assert place.is_relative_to(os.path.realpath(ground / "in")) and str(place) == os.path.realpath(place), tail


@pytest.mark.parametrize("kind", KINDS)
def test_what_leads_out_is_refused(ground: Path, kind: Kind) -> None:
    for tail in OUTSIDE:
        with pytest.raises(ConfigError, match=f"^key: .*{variable(kind)}"):
            all_of(ground / "in").place(kind, "key", f"{ground}/in{tail}")


@pytest.mark.parametrize("kind", KINDS)
def test_odd_ways_out_are_refused(ground: Path, kind: Kind) -> None:
    for value in ODD_WAYS:
        with pytest.raises(ConfigError) as refused:
            all_of(ground / "in").place(kind, "key", value)
        first = str(refused.value).splitlines()
        assert len(first) == 1 and first[0].startswith("key: ") and len(first[0]) < 800, value[:80]
        str(refused.value).encode()  # can be printed


def test_relative_paths_mean_the_folder_of_this_process(ground: Path) -> None:
    assert all_of(ground / "in").place("runs", "runs", "runs") == Path(os.path.realpath(ground / "in" / "runs"))
    assert all_of(ground / "in").place("store", "store", "file://deep") == Path(
        os.path.realpath(ground / "in" / "deep")
    )


def test_a_root_that_is_a_link_is_the_folder_it_leads_to(ground: Path) -> None:
    (ground / "link").symlink_to(ground / "out")
    roots = all_of(ground / "link")
    assert roots.place("runs", "runs", f"{ground}/link/x") == roots.place("runs", "runs", f"{ground}/out/x")
    with pytest.raises(ConfigError):
        roots.place("runs", "runs", f"{ground}/in")


PARTS = st.sampled_from(
    [
        "..",
        ".",
        "deep",
        "er",
        "leads-out",
        "leads-in",
        "relative",
        "dangling",
        "to-root",
        "loop",
        "new",
        "out",
        "in",
        "~",
    ]
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(PARTS, max_size=7), absolute=st.booleans())
def test_no_path_that_is_let_through_lies_outside(ground: Path, parts: list[str], absolute: bool) -> None:
    """Held against what the kernel says: the folder is made and asked where it is."""
    value = (f"{ground}/in/" if absolute else "") + "/".join(parts)
    try:
        place = all_of(ground / "in").place("store", "store.path", value)
    except ConfigError:
        return
    inside = Path(os.path.realpath(ground / "in"))
    assert place.is_relative_to(inside)
    if "loop" not in parts:
        real = Path(value or ".").expanduser()
        assert Path(os.path.realpath(real)) == place


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.text(max_size=60))
def test_any_text_is_a_place_below_or_refused_in_one_line(ground: Path, value: str) -> None:
    for kind in KINDS:
        try:
            assert all_of(ground / "in").place(kind, "key", value).is_relative_to(os.path.realpath(ground / "in"))
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1


# -- what is a root ------------------------------------------------------------------------


def test_without_settings_it_is_the_folder_where_flow_runs_start_and_nothing_is_run(ground: Path) -> None:
    roots = Roots.of_environment({})
    here = str(Path.cwd())
    assert (roots.runs, roots.store, roots.problems, roots.models) == ((here,),) * 4
    assert roots.code == () and roots.missing_layers == ()


def test_the_top_of_the_file_system_is_no_root_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert Roots.of_environment({}).runs == ()
    assert Roots.of_environment({ALL: "/"}).runs == ("/",), "who says so means it"


def test_a_kinds_own_variable_goes_before_the_common_one_and_code_has_only_its_own() -> None:
    roots = Roots.of_environment({ALL: "/a:/b", variable("store"): "/s", variable("models"): ""})
    assert (roots.runs, roots.store, roots.problems, roots.models, roots.code) == (
        ("/a", "/b"),
        ("/s",),
        ("/a", "/b"),
        (),
        (),
    )
    assert Roots.of_environment({ALL: ""}).runs == (), "an empty variable names none"


@pytest.mark.parametrize("value", ["relative", "/a:../b", "~/x", "."])
def test_a_root_is_a_whole_path(value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{ALL}: .*is not absolute"):
        Roots.of_environment({ALL: value})


# -- configurations and jobs ---------------------------------------------------------------


def config(ground: Path, **sections: Any) -> RunConfig:
    places: dict[str, Any] = {"runs": f"{ground}/in/runs", "store": {"path": f"{ground}/in/store"}}
    return RunConfig.model_validate(places | {"base_model": {"name": "rehearsal"}} | sections)


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"runs": "{out}/runs"}, "runs"),
    ({"runs": "leads-out"}, "runs"),
    ({"runs": "~/runs"}, "runs"),
    ({"store": {"path": "{out}"}}, "store.path"),
    ({"problems": {"source": "jsonl", "path": "{out}/bugs.jsonl"}}, "problems.path"),
    ({"problems": {"source": "builtin", "path": "/etc"}}, "problems.path"),
    ({"problems": {"source": "package", "path": "{out}"}}, "problems.path"),
    ({"problems": {"source": "package", "path": "."}}, "problems.path"),
    ({"problems": {"source": "git", "path": "{out}"}}, "problems.path"),
    ({"problems": {"source": "quixbugs", "path": "."}}, "problems.path"),
    ({"problems": {"source": "somebodys-plug-in", "path": "."}}, "problems.path"),
    ({"problems": {"training": {"source": "package", "path": "."}}}, "problems.training.path"),
    ({"problems": {"training": {"source": "jsonl", "path": "{out}/bugs.jsonl"}}}, "problems.training.path"),
    ({"base_model": {"name": "{out}"}}, "base_model.name"),
    ({"base_model": {"name": "./leads-out"}}, "base_model.name"),
    ({"base_model": {"name": "leads-out"}}, "base_model.name"),
    ({"base_model": {"name": "deep/../../out"}}, "base_model.name"),
    ({"base_model": {"name": "~"}}, "base_model.name"),
    ({"base_model": {"name": "org/model/../../../out"}}, "base_model.name"),
    ({"base_model": {"name": "to-root/etc"}}, "base_model.name"),
    ({"scoring": {"judge": {"allow_missing_layers": ["landlock"]}}}, "scoring.judge.allow_missing_layers"),
]
NOT_IN_JOBS = [
    ({"base_model": {"name": "rehearsal", "prompt": prompt}}, "base_model.prompt")
    for prompt in ("{out}/p.yaml", "leads-out/p.yaml", "~/p.yaml")
]
"""The evolution reads this file; jobs carry its text."""


def put_in(node: Any, ground: Path) -> Any:
    if isinstance(node, dict):
        return {key: put_in(value, ground) for key, value in node.items()}
    return node.replace("{out}", str(ground / "out")) if isinstance(node, str) else node


@pytest.mark.parametrize(("sections", "key"), HOSTILE + NOT_IN_JOBS, ids=lambda value: str(value)[:60])
def test_a_configuration_from_the_server_is_held_to_them(ground: Path, sections: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        Roots.of_environment({}).check_config(config(ground, **put_in(sections, ground)))


def test_one_that_stays_below_is_let_through_and_each_root_opens_its_own_kind(ground: Path) -> None:
    Roots.of_environment({}).check_config(config(ground))
    Roots.of_environment({}).check_config(config(ground, base_model={"name": "Qwen/Qwen2.5-Coder-0.5B"}))
    own = {
        variable("code"): f"{ground}/out",
        variable("models"): f"{ground}/out",
        variable("problems"): f"{ground}/out",
    }
    for sections in (
        {"problems": {"source": "package", "path": f"{ground}/out"}},
        {"problems": {"source": "quixbugs", "path": f"{ground}/out"}},
        {"problems": {"source": "jsonl", "path": f"{ground}/out/bugs.jsonl"}},
        {"base_model": {"name": f"{ground}/out"}},
    ):
        Roots.of_environment(own).check_config(config(ground, **sections))
    with pytest.raises(ConfigError, match="CORAL_ROOTS_CODE"):  # where data may be read, code may not be run
        Roots.of_environment({ALL: f"{ground}/out:{ground}/in"}).check_config(
            config(ground, problems={"source": "package", "path": f"{ground}/out"})
        )
    Roots.of_environment({LAYERS: "landlock, seccomp"}).check_config(
        config(ground, scoring={"judge": {"allow_missing_layers": ["landlock"]}})
    )


def jobs_of(found: RunConfig) -> list[IdentityJob | TrainingJob | EvaluationJob | TestJob]:
    """Every kind of job that names what `found` names; made without reading any of it."""
    harmless = found.model_copy(update={"problems": RunConfig().problems, "base_model": config(Path("/")).base_model})
    planner = Planner.of_config(harmless)
    from coral_core.genome import default_lora

    problem = planner.problems("fitness")[0]
    named: dict[str, Any] = {"problems": found.problems, "base_model": found.base_model}
    training = planner.training(default_lora("rehearsal")).model_copy(update=named)
    evaluation = planner.evaluation(None).model_copy(update={**named, "judge": found.scoring.judge})
    nested = planner.evaluation(default_lora("rehearsal")).model_copy(update={"training": training})
    test = job_for_patch(harmless, problem.problem_id, "").model_copy(
        update={"problems": found.problems, "judge": found.scoring.judge}
    )
    identity = IdentityJob(queue="training", base_model=found.base_model)
    return [identity, training, evaluation, nested, test]


@pytest.mark.parametrize(
    ("sections", "key"),
    [item for item in HOSTILE if item[1].startswith(("problems", "base_model", "scoring"))],
    ids=lambda value: str(value)[:60],
)
def test_jobs_of_a_queue_are_held_to_them(ground: Path, sections: dict[str, Any], key: str) -> None:
    concerned = {"problems": (1, 2, 3, 4), "base_model": (0, 1, 2, 3), "scoring": (2, 4)}[key.split(".")[0]]
    for number, job in enumerate(jobs_of(config(ground, **put_in(sections, ground)))):
        if number in concerned:
            with pytest.raises(ConfigError, match=f"^{key}: "):
                Roots.of_environment({}).check_job(job)
    for job in jobs_of(config(ground)):
        Roots.of_environment({}).check_job(job)


@pytest.mark.parametrize("seconds", [0, -1, 1e300, 600_001, float("inf"), float("nan")])
def test_no_ticket_holds_a_lane_for_ever(seconds: float) -> None:
    with pytest.raises(ValidationError):
        Ticket(kind="test", digest="0" * 64, run_id="run", job={}, seconds=seconds)


def test_an_error_of_roots_is_one_of_ours() -> None:
    assert issubclass(ConfigError, CoralError)
