"""Proposes patches for one function of a file with a model, and judges them where there are cases.

A patch is judged as it would be written: the function from the changed file, with what it needs of it, runs in the judge's
sandbox. The file itself, its package and its tests are never run against a patch. Not covered: functions that need more than
the standard library, which the sandbox does not have.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from coral_core.bounded_read import read_file
from coral_core.config import RunConfig
from coral_core.config.tree import ProblemsConfig
from coral_core.digest import digest, seed_from
from coral_core.errors import AdapterError, ConfigError, Infeasible, JudgeError, ProblemError
from coral_core.frozen import Frozen
from coral_core.genome import LightGenes
from coral_core.json_object import json_object
from coral_core.judge.judge import Judge
from coral_core.lm.engine_client import Engine, EngineProcess, InlineEngine
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest
from coral_core.problem_sources.jsonl import CaseLine, load_jsonl
from coral_core.problems.problem import Case, Problem
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from coral_core.repair.source_file import NoPatch, SourceFile, plain, standalone
from coral_core.scoring.boundary import read_completion
from coral_core.scoring.text_process import TextProcess

MOST_TESTS = 64 * 2**20
"""Bytes of a file of cases."""
SPREAD = {"sampling": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
"""Decoding of all proposals but the first, where the adapter itself decodes greedily."""


class Cases(NamedTuple):
    """What a function must do."""

    cases: tuple[Case, ...]
    origin: str
    """Where they come from, in words."""
    reference: str = ""
    """A right version, where one is known."""
    are_recorded: bool = False
    """They are calls of tests that pass now: they say what must stay, not what is wrong."""


class Proposal(Frozen):
    """One patch."""

    passing: int | None = Field(description="Cases that pass; null when not judged.")
    verdict: str = Field(description="Outcome of the judge, or `not judged`.")
    reason: str = Field("", description="Why it was not judged, or what the judge says.")
    times: int = Field(description="Completions that gave this patch.")
    diff: str = Field(
        description="Unified diff of the file, for `git apply` or `patch -p1` in the working directory; in its own where it lies elsewhere."
    )
    text: str = Field(exclude=True, description="The whole file with the patch.")


class Repair(Frozen):
    """What `coral repair --json` prints."""

    schema_version: int = 1
    file: str
    function: str
    model: str = Field(description="Base model, and the adapter on it.")
    tests: str = Field(description="Where the cases come from; empty when there are none.")
    cases: int
    untested: str = Field(description="Why there are no cases; empty when there are some.")
    passing_now: int | None = Field(description="Cases that the function passes as it is; null when not judged.")
    completions: int
    proposals: tuple[Proposal, ...] = Field(description="Best first.")
    left_out: dict[str, int] = Field(description="Why completions gave no patch -> how many.")
    recorded: bool = Field(description="The cases are recorded calls, which say what must stay as it is.")
    written: bool = Field(False, description="The first proposal was written to the file.")

    @property
    def is_repaired(self) -> bool:
        """Whether the first proposal passes all cases; without cases, whether there is one."""
        return bool(self.proposals) and self.proposals[0].passing in (None, self.cases)


class Model(NamedTuple):
    """What proposes."""

    config: RunConfig
    adapter: AdapterFolder | None
    light: LightGenes
    prompt: PromptTemplate | None
    """That of the run; None: that of the configuration and the base model."""
    name: str


def cases_of_file(path: Path, function: str) -> Cases:
    """The cases for a function in a file of JSON lines: bare cases, or problems of the source `jsonl`.

    A bare case has the fields of a case of docs/problems.md, and `function` where the file is about several:
    ``{"function": "clamp", "arguments": [5, 0, 3], "value": 3}``.

    Args:
        path: The file.
        function: The function; cases of others are left out.

    Raises:
        ConfigError: the file cannot be read.
        ProblemError: a line cannot be used.
    """
    try:
        lines = read_file(path.expanduser().resolve(), MOST_TESTS).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"--tests {path}: cannot be read ({error.strerror})", remedy="Give a file of JSON lines, or a directory.") from None  # fmt: skip
    cases: list[Case] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json_object(line)
            if "type" in fields:
                return _of_problems(path, function)
            named = fields.pop("function", function)
            if not isinstance(named, str):
                raise ValueError(f"function {named!r:.80} is no name")
            if named == function:
                cases.append(CaseLine.model_validate(fields, strict=True).case())
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ProblemError(f"--tests {path}:{number}: {field} {first['msg']}".replace("  ", " "), remedy="See docs/problems.md.") from None  # fmt: skip
        except (ValueError, RecursionError) as error:
            raise ProblemError(
                f"--tests {path}:{number}: {str(error)[:200]}", remedy="Write one object per line."
            ) from None
    return Cases(tuple(cases), str(path))


def _of_problems(path: Path, function: str) -> Cases:
    found = load_jsonl(ProblemsConfig(source="jsonl", path=str(path)))
    problems = [each for each in (*found.fitness, *found.monitor, *found.held_out) if each.entry_point == function]
    cases = tuple(dict.fromkeys(case.model_dump_json() for each in problems for case in each.cases))
    reference = problems[0].reference if problems else ""
    return Cases(tuple(Case.model_validate_json(case) for case in cases), str(path), reference)


def recorded_cases(directory: Path, file: SourceFile, function: str) -> Cases:
    """The calls of a function that the passing tests of its project make, by the source `package`; runs those tests.

    Args:
        directory: The project.
        file: The file that defines the function; it lies in the project.
        function: The function.

    Returns:
        The cases; none, with the reason as their origin, where the function cannot be recorded.

    Raises:
        ConfigError: there is no such directory.
        ProblemError: its tests cannot be run.
    """
    from coral_core.problem_sources.package.cache import UNCALLED, recording_of

    root = directory.expanduser().resolve()
    recording = recording_of(str(root))
    for usable in (*recording.usable, *recording.without_bugs):
        definition = usable.definition
        if definition.name == function and (root / definition.file).resolve() == file.path:
            # without the calls that nobody made: their outcomes are those of the function as it is, which is to be repaired
            cases = usable.cases[: usable.recorded]
            return Cases(cases, f"{usable.recorded} calls of the tests of {directory}", definition.source, True)
    reasons = [each.reason for each in recording.refused if each.name == function and (root / each.file).resolve() == file.path]  # fmt: skip
    if not reasons:
        return Cases((), f"{file.path.name} is not part of {directory}")
    others = (
        f"; tests that failed or hung: {len(recording.failed)}, such as {recording.failed[0]}"
        if recording.failed
        else ""
    )
    return Cases((), reasons[0] + (others if reasons[0] == UNCALLED else ""))


def propose(file: SourceFile, function: str, model: Model, cases: Cases, count: int) -> Repair:
    """Ask a model for patches of a function and judge them.

    Args:
        file: The file.
        function: A function of it.
        model: The model.
        cases: What the function must do; without cases nothing is judged.
        count: Completions to ask for, at least 1. The first is decoded as the adapter was scored, the others vary.

    Raises:
        ConfigError: the function is too long for the model.
        Infeasible: the adapter cannot be used on the base model.
        EngineError: the engine failed.
        JudgeError: the sandbox failed.
    """
    buggy = file.standalone(function)
    completions = _completions(buggy, model, count)
    left_out: dict[str, int] = {}
    texts: dict[str, int] = {}
    problem = _problem(file, function, buggy, cases)
    process = TextProcess()
    process.start()
    try:
        for completion in completions:
            found, why = read_completion(completion, problem, process)
            try:
                if why or found.how == "none":
                    raise NoPatch(why or f"it does not define {function}")
                if found.how == "truncated" and not cases.cases:
                    raise NoPatch("it was cut off, and there are no cases to judge what is there")
                text = file.patched(function, found.patch)
                texts[text] = texts.get(text, 0) + 1
            except NoPatch as reason:
                left_out[str(reason)] = left_out.get(str(reason), 0) + 1
    finally:
        process.close()
    passing_now, proposals = _judged(file, function, model.config, problem, cases, texts)
    return Repair(
        file=str(file.path),
        function=function,
        model=model.name,
        tests=cases.origin if cases.cases else "",
        cases=len(cases.cases),
        untested="" if cases.cases else cases.origin,
        passing_now=passing_now,
        completions=len(completions),
        proposals=tuple(sorted(proposals, key=lambda each: (-(each.passing or 0), -each.times))),
        left_out=left_out,
        recorded=cases.are_recorded,
    )


def _problem(file: SourceFile, function: str, buggy: str, cases: Cases) -> Problem:
    return Problem(
        problem_id=f"repair/{file.path.name}/{function}",
        entry_point=function,
        buggy=buggy,
        reference=cases.reference or buggy,
        cases=cases.cases or (Case(arguments=()),),
    )


def _completions(buggy: str, model: Model, count: int) -> tuple[str, ...]:
    """Completions of the engine: one as scored, the others drawn."""
    config = model.config
    engine: Engine = InlineEngine() if config.infra.executor == "inline" else EngineProcess()
    # no cell of a batch is filled up to more than this; a byte is a token at most
    size = len(buggy.encode())
    shape = config.generation.model_copy(update={"batch_size": min(config.generation.batch_size, count), "prompt_length": max(config.generation.prompt_length, min(32_768, size + 512))})  # fmt: skip
    light = model.light.model_copy(update={"token_limit": min(8_192, max(model.light.token_limit, size // 2))})
    ways = [(light, count if light.sampling else 1)]
    if not light.sampling and count > 1:
        ways.append((light.model_copy(update=SPREAD), count - 1))
    entries = tuple(
        Entry(
            adapter=model.adapter,
            light=way,
            samples=samples,
            seed=seed_from("repair", config.seed, digest(buggy), way.digest()),
        )
        for way, samples in ways
    )
    try:
        identity = engine.load(config.base_model)
        prompt = model.prompt or resolve_prompt(config.base_model, identity.chat)
        request = GenerationRequest(
            entries=entries, prompts=(("repair", prompt.prompt(buggy)),), shape=shape, stop=prompt.stop, end=prompt.end,
            add_bos=prompt.add_bos, prefix=prompt.before,
        )  # fmt: skip
        generated = engine.generate(request, 60 * config.infra.evaluation.minutes)
    except Infeasible as error:
        raise ConfigError(
            f"{model.name}: {error}", remedy="Use another adapter, or a machine with more memory."
        ) from None
    except AdapterError as error:
        raise ConfigError(
            f"{model.name}: does not fit the base model, or is damaged: {error.problem}",
            remedy="Use the base model of the adapter, or copy the adapter anew.",
        ) from error
    finally:
        engine.close()
    return tuple(text for written in generated.entries for text in written.completions[0])


def _judged(
    file: SourceFile, function: str, config: RunConfig, problem: Problem, cases: Cases, texts: dict[str, int]
) -> tuple[int | None, list[Proposal]]:
    """Cases that the function passes now, and the proposals."""

    def proposal(text: str, passing: int | None, verdict: str, reason: str) -> Proposal:
        return Proposal(passing=passing, verdict=verdict, reason=reason, times=texts[text], diff=file.diff(text), text=text)  # fmt: skip

    if not cases.cases:
        return None, [proposal(text, None, "not judged", cases.origin) for text in texts]
    patches: Sequence[str] = [problem.buggy, *(standalone(plain(text), function) for text in texts)]
    with Judge.configured(config.scoring.judge) as judge:
        try:
            now, *verdicts = judge.judge_batch([(problem, patch) for patch in patches])
        except JudgeError as error:
            raise JudgeError(f"{problem.problem_id}: the patches could not be judged ({error.problem})", remedy=error.remedy) from error  # fmt: skip
    return now.cases.count("pass"), [
        proposal(text, verdict.cases.count("pass"), verdict.outcome.value, verdict.message)
        for text, verdict in zip(texts, verdicts, strict=True)
    ]
