"""Reads a configuration; every error names the file, the line, the value and a remedy.

`coral_core.config.yaml_document` limits the YAML that is read, `coral_core.config.tree` defines its keys, and
`coral_core.evolution.preflight.check` finds out whether it can run on this machine.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coral_core.config.text_fields import expanded, is_hub_name
from coral_core.config.tree import RunConfig
from coral_core.config.yaml_document import (
    MOST_DEPTH,
    KeyPath,
    Lines,
    is_name,
    read_document,
    read_file,
    read_value,
    shown,
)
from coral_core.errors import ConfigError, CoralError

MOST_COMPLAINTS = 20
MOST_OVERRIDES = 256
LONGEST_MESSAGE = 300
TINY, REHEARSAL = "coral-tiny", "rehearsal"
"""Base models that come with CORAL-X; a colon and what to rehearse may follow the second."""
BUILT_IN = ("quickstart", "production")
"""Configurations that are part of the package; in a checkout the files of ``configs/``."""

Origins = Mapping[KeyPath, str]


@dataclass
class Places:
    """Where each key of a configuration was written."""

    source: str
    lines: Lines = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def of(self, key: KeyPath, mentioned: KeyPath = (), text: str = "") -> str:
        """``file:line`` or ``--set ...`` of `key`, or of the nearest section around it that was written.

        Args:
            key: What a complaint is about; a section when its keys do not fit each other.
            mentioned: The key that the complaint begins with.
            text: The complaint; of the whole configuration it is about those keys that it names.
        """
        for path, origin in self.origins.items():
            below = mentioned != () and path[: len(mentioned)] == mentioned
            if below or mentioned[: len(path)] == path or key[: len(path)] == path:
                return origin
        if mentioned and mentioned in self.lines:
            return f"{self.source}:{self.lines[mentioned]}"
        named = {path: origin for path, origin in self.origins.items() if key or ".".join(map(str, path)) in text}
        inside = [origin for path, origin in named.items() if path[: len(key)] == key]
        if inside:
            return inside[0]
        known = key
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.source}:{self.lines.get(known, 1)}"

    def place(self, error: CoralError, key: KeyPath) -> None:
        """Put the place where `key` was written in front of the problem of `error`."""
        error.problem = f"{self.of(key)}: {error.problem}"


def built_in(name: str) -> Path:
    """File of a configuration that is part of the package: ``quickstart`` or ``production``.

    Example:
        >>> built_in("quickstart").read_text().startswith("# CORAL-X quickstart")
        True
    """
    return Path(__file__).parent / f"{name}.yaml"


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the YAML file at `path`, apply ``a.b=c`` overrides, return the checked configuration.

    Args:
        path: A file; or ``quickstart`` or ``production``, where no file has that name.
        overrides: ``section.key=value``, each in place of what the file says.

    Raises:
        ConfigError: the file is missing, is not YAML, or says something that cannot run.
    """
    return read_config(path, overrides)[0]


def read_config(path: str | Path, overrides: Iterable[str] = ()) -> tuple[RunConfig, Places]:
    """As `load_config`; also returns where each key was written, for later errors."""
    path = Path(path)
    places = Places(shown(path, 200))
    found = built_in(path.name) if str(path) in BUILT_IN and not path.exists() else path
    config = _parsed(read_file(found), places, overrides)
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
    """The configuration that a run froze in its folder. Raises `ConfigError`."""
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
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, places)) from None
    for key in _truths_for_numbers(data, config, ()):
        value = str(_at(data, key)).lower()
        raise ConfigError(
            f"{places.of(key)}: {_name(key)} (value {value}): a number is needed", remedy="Write 1 or 0 if it is one."
        )
    return config


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[KeyPath, str]:
    """Put ``a.b=c`` pairs into `data`; the value is read as YAML. Returns where each came from. Raises `ConfigError`."""
    origins: dict[KeyPath, str] = {}
    for number, item in enumerate(overrides):
        source = f"--set {shown(item, 100)}"
        if number == MOST_OVERRIDES:
            raise ConfigError(f"{source}: more than {MOST_OVERRIDES} of them", remedy="Write a configuration file.")
        key, sign, value = item.partition("=")
        path = tuple(key.strip().split("."))
        if not sign or not key.strip():
            raise ConfigError(f"{source}: write it as section.key=value, for example --set search.population=12")
        if len(path) > MOST_DEPTH or not all(map(is_name, path)):
            raise ConfigError(f"{source}: {shown(repr(key.strip()))} is no key", remedy="See: coral config schema")
        place: Any = data
        for part in path[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise ConfigError(
                    f"{source}: {shown(repr(part))} is a value, not a section", remedy="See: coral config schema"
                )
        place[path[-1]] = read_value(value, source)
        origins[path] = source
    return origins


def dump_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included, as a run freezes it."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


def path_problems(config: RunConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys of the configuration whose path cannot be used, with a message each."""
    given: dict[tuple[str, ...], str | None] = {
        ("base_model", "name"): config.base_model.name,
        ("runs",): config.runs,
        ("store", "path"): config.store.path,
        ("problems", "path"): config.problems.path,
        ("problems", "training", "path"): config.problems.training.path,
    }
    for key, value in given.items():
        if value is not None and (problem := _unreachable(value)):
            yield key, f"{'.'.join(key)}: {shown(value)}: {problem}. Give another path."
            return
    name = config.base_model.name
    if name.startswith(("/", "./", "../", "~")) and not expanded(name).is_dir():
        yield (
            ("base_model", "name"),
            f"base_model.name: {shown(name)}: no such directory. Give a directory with config.json and weights, "
            "a Hugging Face name, or coral-tiny.",
        )
    elif not (name == TINY or name.split(":")[0] == REHEARSAL or is_hub_name(name) or expanded(name).is_dir()):
        yield (
            ("base_model", "name"),
            f"base_model.name: {shown(name)}: no directory here, and no name that a model of the Hugging Face hub can have. Give a "
            "directory with config.json and weights, a name like owner/model, or coral-tiny.",
        )
    for key, text in ((("runs",), config.runs), (("store", "path"), config.store.path)):
        path = expanded(text)
        while not path.exists() and path != path.parent:
            path = path.parent
        if not path.is_dir():
            yield (
                key,
                f"{'.'.join(key)}: {shown(text)}: {shown(path, 200)} is a file, not a directory. Choose another directory.",
            )


def _unreachable(text: str) -> str:
    """Why the system cannot even look at the path `text`; empty when it can, whether something is there or not."""
    try:
        expanded(text).stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""  # the reader of the file has a better message
    except PermissionError as error:
        return f"may not be looked at ({error.strerror})"
    except (OSError, ValueError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    except ConfigError as error:
        return str(error).partition(": ")[2].rstrip(".")
    return ""


def _truths_for_numbers(given: Any, read: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Keys with true or false for a number, which pydantic accepts as 1 and 0."""
    if isinstance(given, bool):
        if isinstance(read, int | float) and not isinstance(read, bool):
            yield path
    elif isinstance(given, dict):
        for key, value in given.items():
            inner = getattr(read, key, None) if isinstance(read, BaseModel) else read.get(key) if isinstance(read, dict) else None  # fmt: skip
            yield from _truths_for_numbers(value, inner, (*path, key))
    elif isinstance(given, list) and isinstance(read, tuple | list):
        for place, (value, inner) in enumerate(zip(given, read, strict=False)):
            yield from _truths_for_numbers(value, inner, (*path, place))


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _explain(error: ValidationError, places: Places) -> str:
    messages: dict[str, None] = {}
    # an unknown key is often the misspelling of one that is then missing: what is missing comes last
    errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] == "missing")
    for item in errors[:MOST_COMPLAINTS]:
        loc = tuple(part for part in item["loc"] if isinstance(part, int) or "[" not in part)
        mentioned: KeyPath = ()
        if item["type"] == "value_error":  # a section's check names its key first
            first = item["msg"].removeprefix("Value error, ").split(" ")[0]
            mentioned = (*loc, *first.split("."))
        messages[f"{places.of(loc, mentioned, item['msg'])}: {_complaint(item, loc)}"] = None
    if len(errors) > MOST_COMPLAINTS:
        messages[f"and {len(errors) - MOST_COMPLAINTS} more"] = None
    return "\n".join(messages)


def _name(loc: KeyPath) -> str:
    return shown(".".join(map(str, loc)), 120) or "the configuration"


def _complaint(item: Any, loc: KeyPath) -> str:
    name = _name(loc)
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
    """What may have been meant by the unknown key `loc`."""
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
