"""Texts of a configuration with a syntax of their own: paths, revisions, sets of modules."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from coral_core.errors import ConfigError

_HUB_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _path(text: str) -> str:
    """Refuse an address, and a home directory other than the user's own. Existence is checked later."""
    if "://" in text:
        raise ValueError("is an address, and a path of a mounted file system is needed. Mount it and give its path")
    if text.startswith("~") and text != "~" and not text.startswith("~/"):
        raise ValueError(
            "only ~/ is read as a home directory, and it is that of the user who runs it. Give the whole path"
        )
    return text


def _revision(text: str) -> str:
    """A commit, tag or branch: it becomes part of a path in the hub's cache."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,254}", text) or ".." in text or text.endswith("/"):
        raise ValueError("is no name of a commit, tag or branch. Give one of those, or leave it out")
    return text


def _modules(text: str) -> str:
    names = [name.strip() for name in text.split("+")]
    if not any(names) or not all(_MODULE.fullmatch(name) for name in names if name):
        raise ValueError("is no set of modules. Give q, q+v, attention, mlp, all, or module names joined by '+'")
    return text


BUILT_IN_PROMPTS = ("auto", "chat", "instruct", "plain", "tiny")


def _prompt(text: str) -> str:
    """A known name, or the path of a YAML file."""
    if text in BUILT_IN_PROMPTS:
        return text
    if not text.endswith((".yaml", ".yml")):
        raise ValueError(f"is no prompt. Give {', '.join(BUILT_IN_PROMPTS)}, or the path of a .yaml file of your own")
    return _path(text)


def is_hub_name(text: str) -> bool:
    """Can `text` be a model's name on the Hugging Face hub: NAME or OWNER/NAME?

    >>> is_hub_name("codellama/CodeLlama-7b-hf"), is_hub_name("my model"), is_hub_name("a/b/c")
    (True, False, False)
    """
    parts = text.split("/")
    odd = "--" in text or ".." in text or text.endswith(".git")
    return len(text) <= 96 and len(parts) <= 2 and not odd and all(map(_HUB_PART.fullmatch, parts))


def _day(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("is no date. Write it as YYYY-MM-DD")
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"is no date ({error}). Write it as YYYY-MM-DD") from None
    return text


Day = Annotated[str, AfterValidator(_day)]
PathText = Annotated[str, AfterValidator(_path)]
Revision = Annotated[str, AfterValidator(_revision)]
Prompt = Annotated[str, AfterValidator(_prompt)]
ModuleSet = Annotated[str, AfterValidator(_modules)]


def expanded(text: str) -> Path:
    """The absolute path that `text` stands for.

    Raises:
        ConfigError: it begins with ``~``, and this user has no home directory.
    """
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # OSError: the working directory is gone
        raise ConfigError(f"{text}: cannot be made a whole path ({error})", remedy="Give the whole path.") from None
