"""Reads a configuration file; every complaint names the file, the line, the value and the way out."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coral_core.config.tree import RunConfig
from coral_core.errors import ConfigError

Lines = dict[tuple[str | int, ...], int]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read the YAML file at `path`, apply ``a.b=c`` overrides, return the checked configuration.

    Raises:
        ConfigError: the file is missing, is not YAML, or says something that cannot run.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file. Write one with: coral init {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from None
    lines: Lines = {}
    overrides = list(overrides)
    config = parse_config(text, str(path), overrides, lines)
    origins: dict[tuple[str | int, ...], str] = {
        tuple(item.partition("=")[0].strip().split(".")): f"--set {item}" for item in overrides
    }
    for key, complaint in _path_problems(config):
        raise ConfigError(f"{_where(key, str(path), lines, origins)}: {complaint}")
    return config


def parse_config(text: str, source: str, overrides: Iterable[str] = (), lines: Lines | None = None) -> RunConfig:
    """Check configuration `text`; `source` is what errors call it; `lines` receives the line of each key."""
    lines = {} if lines is None else lines
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data: Any = {} if node is None else _plain(node, (), lines, source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(
            f"{where}: not YAML: {getattr(error, 'problem', error)}. Check indentation and quotes."
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}:1: a configuration is a mapping of sections, not {str(data)[:40]!r}. See: coral init"
        )
    origins = apply_overrides(data, overrides)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, lines, origins)) from None


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[tuple[str | int, ...], str]:
    """Put ``a.b=c`` pairs into `data`; the value is read as YAML. Returns where each came from."""
    origins: dict[tuple[str | int, ...], str] = {}
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {item}: write it as section.key=value, for example --set search.population=12")
        path = tuple(key.strip().split("."))
        place: Any = data
        for part in path[:-1]:
            place = place.setdefault(part, {}) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise ConfigError(f"--set {item}: {part!r} is a value, not a section. See: coral config schema")
        try:
            place[path[-1]] = yaml.safe_load(value) if value else None
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: the value is not YAML: {error}") from None
        origins[path] = f"--set {item}"
    return origins


def dump_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included: what a run freezes."""
    return yaml.safe_dump(
        config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


def check_paths(config: RunConfig) -> None:
    """Refuse paths that cannot work, before any work. Raises `ConfigError`; `load_config` adds file and line."""
    for _, complaint in _path_problems(config):
        raise ConfigError(complaint)


def _path_problems(config: RunConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where in the configuration, and what is wrong with the path there."""
    name = config.base_model.name
    if name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        yield (
            ("base_model", "name"),
            f"base_model.name: {name}: no such directory. Give a directory with config.json and weights, "
            "a Hugging Face name, or coral-tiny.",
        )
    for key, value in ((("runs",), config.runs), (("store", "path"), config.store.path)):
        if "://" in value:
            continue
        path = Path(value).expanduser().absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        if not path.is_dir():
            yield key, f"{'.'.join(key)}: {value}: {path} is a file, not a directory. Choose another directory."
    from coral_core.repair.sources import path_problems  # it knows the configuration tree, so it is imported late

    yield from path_problems(config.problems)


def _plain(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, source: str) -> Any:
    """Plain data of a YAML node, with the line of each key; a repeated key is refused."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(
                    f"{source}:{line}: {'.'.join(map(str, (*path, key)))} is given twice. Keep one; the first is on line {lines[(*path, key)]}."
                )
            lines[(*path, key)] = line
            result[key] = _plain(value_node, (*path, key), lines, source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, source) for index, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _explain(error: ValidationError, source: str, lines: Lines, origins: Mapping[tuple[str | int, ...], str]) -> str:
    messages = []
    # an unknown key is often the misspelling of one that is then missing: what is missing comes last
    for item in sorted(error.errors(), key=lambda item: item["type"] == "missing"):
        loc = tuple(part for part in item["loc"] if isinstance(part, int) or "[" not in part)
        culprit = (*loc, item["msg"].removeprefix("Value error, ").split(" ")[0])
        if item["type"] == "value_error" and culprit in lines:  # a section's check names its key first
            messages.append(f"{_where(culprit, source, lines, origins)}: {_complaint(item, loc)}")
            continue
        messages.append(f"{_where(loc, source, lines, origins)}: {_complaint(item, loc)}")
    return "\n".join(messages)


def _where(loc: tuple[str | int, ...], source: str, lines: Lines, origins: Mapping[tuple[str | int, ...], str]) -> str:
    for path, origin in origins.items():
        if loc[: len(path)] == path or path[: len(loc)] == loc:
            return origin
    known = loc
    while known and known not in lines:
        known = known[:-1]
    return f"{source}:{lines.get(known, 1)}"


def _complaint(item: Any, loc: tuple[str | int, ...]) -> str:
    name = ".".join(map(str, loc)) or "the configuration"
    if item["type"] == "extra_forbidden":
        known = _keys_at(loc[:-1])
        near = difflib.get_close_matches(str(loc[-1]), known, 1, 0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}." if known else "Remove it."
        return f"{name}: unknown key (value {_short(item['input'])}). {hint}"
    message = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    shown = "" if isinstance(value, (dict, BaseModel)) else f" (value {_short(value)})"
    return f"{name}{shown}: {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(loc: tuple[str | int, ...]) -> list[str]:
    model: Any = RunConfig
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))
