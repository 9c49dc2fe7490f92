"""Reads a configuration; every error names the file, the line, the value and a remedy.

`coral_core.config.yaml_document` limits the YAML that is read, `coral_core.config.tree` defines its keys, and
`coral_core.evolution.preflight.check` tests whether it can run on this machine.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coral_core.config.section import CONFLICT
from coral_core.config.text_fields import expanded, is_hub_name
from coral_core.config.tree import RunConfig
from coral_core.config.yaml_document import (
    KeyPath,
    Lines,
    dotted,
    find_problem,
    is_name,
    read_document,
    read_file,
    shown,
)
from coral_core.errors import ConfigError, CoralError

MOST_COMPLAINTS = 20
LONGEST_MESSAGE = 300
TINY, REHEARSAL = "coral-tiny", "rehearsal"
"""Base models that come with CORAL-X; a colon and what to rehearse may follow the second."""
BUILT_IN = ("quickstart", "compare-quick", "smollm2", "quixbugs-smollm2", "quixbugs", "production")
"""Configurations that are part of the package; in a checkout the files of ``configs/``."""


@dataclass
class Places:
    """Where each key of a configuration was written.

    Attributes:
        source: Name of the file, as errors show it.
        lines: Key path -> line in the file, from 1.
        origins: Key path -> ``--set ...``, for keys that an override gave.
    """

    source: str
    lines: Lines = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def of(self, key: KeyPath, *mentioned: KeyPath) -> str:
        """``file:line`` or ``--set ...``, for an error.

        Args:
            key: The key that the error is about; a section when its keys do not fit each other.
            mentioned: Those keys, the most important one first.
        """
        named = mentioned or (key,)
        for path in named:
            for overridden, origin in self.origins.items():
                if path and all(one == two for one, two in zip(path, overridden, strict=False)):
                    return origin
        known = next((path for path in named if path in self.lines), key)
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.source}:{self.lines.get(known, 1)}"

    def place(self, error: CoralError, key: KeyPath) -> None:
        """Prefix an error with the place of a key.

        Args:
            error: The error; its `problem` is changed.
            key: The key that it is about.
        """
        error.problem = f"{self.of(key)}: {error.problem}"


def built_in(name: str) -> Path:
    """File of a configuration that is part of the package, a name of `BUILT_IN`.

    Example:
        >>> built_in("quickstart").read_text().startswith("# CORAL-X quickstart")
        True
    """
    return Path(__file__).parent / f"{name}.yaml"


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a YAML file, apply overrides, and return the checked configuration.

    Args:
        path: A file; or a name of `BUILT_IN`, such as ``quickstart``, where no file has that name.
        overrides: ``section.key=value``, each in place of the value in the file.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a valid configuration.
    """
    return read_config(path, overrides)[0]


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> tuple[RunConfig, Places]:
    """As `load_config`; also returns where each key was written, for later errors.

    Args:
        path: As for `load_config`.
        overrides: As for `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    path = Path(path)
    places = Places(shown(path, 200))
    file = built_in(path.name) if str(path) in BUILT_IN and not path.exists() else path
    config = _parsed(read_file(file), places, overrides)
    for key, complaint in path_problems(config):
        raise ConfigError(f"{places.of(key)}: {complaint}")
    return config, places


def parse_config(text: str, source: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The checked configuration of a YAML text. See `coral_core.config` for an example.

    Args:
        text: YAML.
        source: Name of the text in errors.
        overrides: As for `load_config`.

    Raises:
        ConfigError: as `load_config`.
    """
    return _parsed(text, Places(source), overrides)


def read_frozen(path: Path) -> RunConfig:
    """The configuration that a run saved in its folder.

    Raises:
        ConfigError: the file is missing, or is not a valid configuration.
    """
    return parse_config(read_file(path, "Restore it, or run the evolution's own file again."), shown(path, 200))


def _parsed(text: str, places: Places, overrides: Iterable[str]) -> RunConfig:
    data, places.lines = read_document(text, places.source)
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(
            f"{places.source}:1: a configuration is a mapping of sections, not {shown(repr(data), 40)}",
            remedy="See: coral init",
        )
    places.origins = apply_overrides(data, overrides)
    if found := find_problem(data):
        path, problem = found
        raise ConfigError(f"{places.of(path)}: {dotted(path)}: {problem}")
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, places)) from None


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[KeyPath, str]:
    """Put overrides into the data of a configuration.

    Args:
        data: Nested mappings; changed in place.
        overrides: ``section.key=value``; the value is read as YAML.

    Returns:
        Key path -> its override as ``--set ...``, for errors.

    Raises:
        ConfigError: an override is malformed, or a part of its key is a value and not a section.

    Example:
        >>> data = {"search": {"population": 8}}
        >>> apply_overrides(data, ["search.population=12", "runs=/tmp/runs"])
        {('search', 'population'): '--set search.population=12', ('runs',): '--set runs=/tmp/runs'}
        >>> data
        {'search': {'population': 12}, 'runs': '/tmp/runs'}
    """
    origins: dict[KeyPath, str] = {}
    for item in overrides:
        source = f"--set {shown(item, 100)}"
        key, sign, value = item.partition("=")
        path = tuple(key.strip().split("."))
        if not sign or not key.strip():
            raise ConfigError(f"{source}: write it as section.key=value, for example --set search.population=12")
        if not all(map(is_name, path)):
            raise ConfigError(f"{source}: {shown(repr(key.strip()))} is no key", remedy="See: coral config schema")
        place: Any = data
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(
                    f"{source}: {shown(repr(part))} is a value, not a section", remedy="See: coral config schema"
                )
        place[path[-1]] = read_document(value, source, with_line=False)[0]
        origins[path] = source
    return origins


def dump_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included, as a run freezes it."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


PATHS = ("base_model.name", "runs", "store.path", "problems.path", "problems.python", "problems.training.path",
         "infra.evaluation.python")  # fmt: skip
"""Keys that hold a path."""


def path_problems(config: RunConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys whose path cannot be used on this machine, each with a message."""
    for name in PATHS:
        value = attrgetter(name)(config)
        if value is not None and (problem := _unreachable(value)):
            yield tuple(name.split(".")), f"{name}: {shown(value)}: {problem}. Give another path."
            return
    model = config.base_model.name
    is_path = model.startswith(("/", "./", "../", "~"))
    known = model == TINY or model.split(":")[0] == REHEARSAL or is_hub_name(model)
    if (is_path or not known) and not expanded(model).is_dir():
        yield (
            ("base_model", "name"),
            f"base_model.name: {shown(model)}: no such directory, and no name that a model of the Hugging Face hub can have. "
            "Give a directory with config.json and weights, a name like owner/model, or coral-tiny.",
        )
    for name in ("runs", "store.path"):
        text = attrgetter(name)(config)
        path = expanded(text)
        while not path.exists() and path != path.parent:
            path = path.parent
        if not path.is_dir():
            problem = f"{shown(path, 200)} is a file, not a directory. Choose another directory."
            yield tuple(name.split(".")), f"{name}: {shown(text)}: {problem}"


def _unreachable(text: str) -> str:
    """Why the system cannot look up the path `text`; empty when it can, whether anything is there or not."""
    try:
        expanded(text).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""  # reading the file gives a better message
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    except ConfigError as error:
        return error.problem
    return ""


def _explain(error: ValidationError, places: Places) -> str:
    messages: dict[str, None] = {}
    # an unknown key is often a misspelling of a missing one, so missing keys come last
    errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] == "missing")
    # pydantic leaves refused items out and then finds their list too short
    above = {item["loc"][:depth] for item in errors for depth in range(len(item["loc"]))}
    errors = [item for item in errors if item["type"] != "too_short" or item["loc"] not in above]
    for item in errors[:MOST_COMPLAINTS]:
        loc = tuple(part for part in item["loc"] if isinstance(part, int) or "[" not in part)
        mentioned = [(*loc, *key) for key in item["ctx"]["keys"]] if item["type"] == CONFLICT else ()
        messages[f"{places.of(loc, *mentioned)}: {_complaint(item, loc)}"] = None
    if len(errors) > MOST_COMPLAINTS:
        messages[f"and {len(errors) - MOST_COMPLAINTS} more"] = None
    return "\n".join(messages)


def _complaint(item: Any, loc: KeyPath) -> str:
    name = dotted(loc)
    if item["type"] == "extra_forbidden":
        return f"{name}: unknown key (value {_short(item['input'])}). {_near(loc)}"
    if item["type"] in ("model_type", "dict_type", "model_attributes_type"):
        known = _keys_at(loc)
        keys = f", with keys of {shown(', '.join(known), 200)}" if known else ""
        return f"{name} (value {_short(item['input'])}): a section is needed{keys}. See: coral config schema"
    message = shown(item["msg"].removeprefix("Value error, "), LONGEST_MESSAGE)
    value = item["input"]
    text = "" if isinstance(value, (dict, BaseModel)) else f" (value {_short(value)})"
    if item["type"] == "string_type" and isinstance(value, int | float):
        message += ". Put it in quotes if it is text"
    return f"{name}{text}: {message}"


def _near(loc: KeyPath) -> str:
    """A hint about the key that the unknown key `loc` may stand for."""
    known, key = _keys_at(loc[:-1]), str(loc[-1])
    near = difflib.get_close_matches(key, known, 1, 0.5)
    first = key.split(".")[0]
    if "." in key and first in known:
        return f"Write {first}: as a section with the rest below it."
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known here: {', '.join(known)}." if known else "Remove it."


def _short(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else shown(repr(value))


def _keys_at(loc: KeyPath) -> list[str]:
    model: Any = RunConfig
    for part in loc:
        field_ = getattr(model, "model_fields", {}).get(part)
        if field_ is None:
            return []
        model = field_.annotation
    return list(getattr(model, "model_fields", {}))
