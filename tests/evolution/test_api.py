"""The Python API: an evolution without Prefect and without a server; its public names, and their examples."""

import asyncio
import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import coral_core
from coral_core import Progress, RunConfig, evolve, open_run
from coral_core.api import run_evolution
from coral_core.errors import ConfigError
from coral_core.evolution.listener import Listener
from coral_core.evolution.loop import Evolution
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.runs.run_lock import hold
from tests.waiting import until_in_loop


def settings(folder: Path, model: str = "rehearsal", executor: str = "inline", **more: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "runs": str(folder / "runs"),
        "store": {"path": str(folder / "store")},
        "base_model": {"name": model},
        "infra": {"executor": executor},
        "search": {"generations": 2, "population": 4, "elites": 1, "champion_repeats": 1},
        "problems": {"fitness": 8, "retention": 4, "monitor": 4, "held_out": 8, "pairs": 16},
        **more,
    }


def config(folder: Path, model: str = "rehearsal", executor: str = "inline", **more: Any) -> RunConfig:
    return RunConfig.model_validate(settings(folder, model, executor, **more))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, evolve(config(folder))


def test_a_result_names_everything(small: tuple[Path, Any]) -> None:
    _, result = small
    assert result.status == "finished" and result.held_out[0].name == "champion"
    assert result.champion.genome.genome_id == result.history[-1].champion
    assert {each.genome.genome_id for each in result.front} == set(result.history[-2].front)
    assert result.report.is_file() and (result.adapter / "adapter_config.json").is_file()
    assert open_run(result.folder) == result == open_run(result.folder.parent / "latest")


def test_the_local_executor_writes_the_same_history(small: tuple[Path, Any], tmp_path: Path) -> None:
    """And so does Prefect: tests/flows/test_evolve.py."""
    folder = evolve(config(tmp_path, executor="local")).folder
    assert (folder / "history.jsonl").read_bytes() == (small[1].folder / "history.jsonl").read_bytes()


CODE = """
import json, sys
import coral_core
def show(progress): print(progress.jobs_done, flush=True)
result = coral_core.evolve(coral_core.RunConfig.model_validate(json.loads(sys.argv[1])), progress=show)
print(result.status, "prefect" in sys.modules, flush=True)
"""


def started(folder: Path, **more: Any) -> "subprocess.Popen[str]":
    slow = settings(folder, "rehearsal:train=0.3,evaluate=0.1", "local", **more)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, json.dumps(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 4:
        continue
    return process


@pytest.mark.parametrize(
    "sign",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow(reason="two runs; make test has the kill"))],
)
def test_after_a_kill_or_ctrl_c_it_goes_on(tmp_path: Path, sign: signal.Signals) -> None:
    process = started(tmp_path)
    process.send_signal(sign)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0 and (sign == signal.SIGKILL or said.rstrip().endswith("KeyboardInterrupt")), said
    slow = config(tmp_path, "rehearsal:train=0.3,evaluate=0.1", "local")
    begun = open_run(RunFolder.of(slow, identify_run(slow)).path)
    assert begun.status == "stopped" and begun.held_out == () and begun.adapter is None
    result = evolve(slow)
    timings = [json.loads(line) for line in (result.folder / "timings.jsonl").read_text().splitlines()]
    done = [row["digest"] for row in timings if row["type"] == "job" and not row["cached"]]
    assert len(done) == len(set(done)), "finished work is not done again"
    whole = evolve(config(tmp_path / "whole", "rehearsal:train=0.3,evaluate=0.1", "local"))
    assert result.history == whole.history


def test_a_run_under_way_can_be_opened_and_not_started_twice(tmp_path: Path) -> None:
    run = config(tmp_path, "rehearsal:evaluate=0.1")
    folder = RunFolder.of(run, identify_run(run)).path
    seen: list[str] = []

    def look(progress: Progress) -> None:
        if progress.phase == "searching" and not seen:
            seen.append(open_run(folder).status)
            with pytest.raises(ConfigError, match="is running already"), hold(folder):
                pass

    evolve(run, progress=look)
    assert seen == ["running"]


def test_it_waits_while_the_budget_is_spent(tmp_path: Path) -> None:
    class Paused(Listener):
        why = ""

        def paused(self, why: str) -> None:
            self.why = why

    heard = Paused()

    async def conduct(evolution: Evolution) -> bool:
        evolution.listeners.append(heard)
        work = asyncio.create_task(evolution.run())
        await until_in_loop(lambda: heard.why or work.done(), 60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return False

    spent = config(tmp_path, "rehearsal:train=0.3", budget={"evolution": {"gpu_hours": 1e-6}})
    assert asyncio.run(run_evolution(spent, 1, conduct)) is None
    assert "the limit of the evolution" in heard.why


async def test_it_works_where_an_event_loop_runs(small: tuple[Path, Any]) -> None:
    """As in a notebook."""
    folder, result = small
    assert evolve(config(folder)) == result


def test_what_a_callback_raises_ends_the_evolution(tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        raise LookupError(progress.phase)

    with pytest.raises(LookupError, match="starting"):
        evolve(config(tmp_path), progress=fail)


@pytest.mark.parametrize(
    ("executor", "edition", "words"),
    [("work-pools", 1, "infra.executor: work-pools"), ("inline", 0, "edition: 0: is no edition")],
)
def test_what_cannot_run_here_is_refused_before_anything_is_made(
    tmp_path: Path, executor: str, edition: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        evolve(config(tmp_path, executor=executor), edition=edition)
    assert refused.value.remedy and list(tmp_path.iterdir()) == []


# -- the package ---------------------------------------------------------------------------


def test_importing_the_package_is_quick_and_light() -> None:
    code = (
        "import sys, time\nstarted = time.process_time()\nimport coral_core\n"
        "print(time.process_time() - started, sorted({'torch', 'prefect', 'transformers', 'pydantic'} & set(sys.modules)))\n"
        "for name in coral_core.__all__: getattr(coral_core, name)\n"
        "print(sorted({'torch', 'prefect', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    seconds, heavy = first.split(" ", 1)
    assert float(seconds) < 0.3 and heavy == "[]" and second == "[]", done.stdout


def test_an_unknown_name_is_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        coral_core.no_such_name  # noqa: B018
    assert set(coral_core.__all__) <= set(dir(coral_core))


@pytest.mark.parametrize("name", coral_core.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(coral_core, name))
