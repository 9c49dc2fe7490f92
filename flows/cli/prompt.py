"""`coral problems prompt`: what the model is asked and what an adapter is trained to write, as text and in tokens."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from coral_core.config import RunConfig, load_config
from coral_core.errors import BaseModelError
from coral_core.evolution.preflight import token_counts
from coral_core.jobs.job_content import find_problem, problem_set
from coral_core.lm.base_model import identify, is_on_hub
from coral_core.lm.model_check import check_base_model, prompt_seen
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from flows.cli.markup import echo, print_json, words
from flows.cli.places import AsJson, Overrides


def prompt(
    config: Path,
    /,
    *,
    problem: Annotated[str | None, Parameter(help="Id of a problem; the first fitness problem by default.")] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the prompt for a problem, and the answer that adapters are trained to give, letter by letter and in tokens.

    Args:
        config: The configuration.
    """
    settings = load_config(config, set_ or [])
    check_base_model(settings)
    template = _template(settings)
    problems = settings.problems
    shown = find_problem(problems, problem) if problem else problem_set(problems).fitness[0]
    asked, answer = template.prompt(shown.buggy), template.answer(shown.reference)
    counts = token_counts(settings, [asked, asked + answer], template.add_bos)
    facts: dict[str, Any] = {
        "problem": shown.problem_id,
        "base_model": settings.base_model.name,
        "template": template.name,
        "version": template.version,
        "ends_with": template.end,
        "stop": list(template.stop),
        "prompt_tokens": counts[0] if counts else None,
        "answer_tokens": counts[1] - counts[0] if counts else None,
    }
    if as_json:
        print_json({"schema_version": 1} | facts | {"prompt": asked, "answer": answer})
        return
    rows = facts | {"ends_with": repr(template.end) if template.end else "the model's end token", "stop": ", ".join(map(repr, template.stop))}  # fmt: skip
    echo(*(words(f"{name.replace('_', ' '):<14} {value}") for name, value in rows.items() if value not in (None, "")))
    echo(words("\nprompt", "bold"), words(asked), words("\nanswer", "bold"), words(answer))


def _template(settings: RunConfig) -> PromptTemplate:
    """The prompt template, by files on this machine or by the hub."""
    template = prompt_seen(settings)
    if template is not None:
        return template
    base = settings.base_model
    if not is_on_hub(base):
        raise BaseModelError(
            f"base_model.name: {base.name}: not on this machine, so its chat template is not known here",
            remedy="Run this where the model is, or name a prompt: base_model.prompt=instruct.",
        )
    return resolve_prompt(base, identify(base).chat)
