"""`coral store ls|show|verify|clear`: what the store holds, whether it is sound, and what of it may go."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coral_core.errors import ConfigError, StoreError
from coral_core.lm.versions import ENGINE_VERSION, RECIPE_VERSION
from coral_core.store.store import Entry, Store, Stranger
from coral_core.untrusted import visible
from flows.cli.markup import marked, words
from flows.cli.places import AsJson, size

Path_ = Annotated[str, Parameter(name="--path", help="Directory of the store.")]


def ls(*, path: Path_ = "runs/store", as_json: AsJson = False) -> None:
    """List adapters and evaluations with their size and the version that made them; contents are not checked (see verify)."""
    store = _open(path)
    entries, strangers = list(store.entries()), store.strangers()
    if as_json:
        body = {
            "schema_version": 1,
            "path": visible(path),
            "entries": [_entry(entry) for entry in entries],
            "foreign": [stranger.model_dump(mode="json") for stranger in strangers],
        }
        print(json.dumps(body, indent=1))
        return
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("kind", "digest", "size", "when", "made by", ""):
        table.add_column(name, justify="right" if name == "size" else "left")
    for entry in entries:
        table.add_row(
            entry.kind,
            entry.digest[:16],
            size(entry.bytes),
            _when(entry.modified),
            words(_maker(entry)),
            "" if entry.sound else f"[red]broken[/]: {marked(entry.problem)}",
        )
    if entries:
        out.print(table)
    _print_strangers(out, strangers)
    out.print(_count(entries))
    _print_versions(out, entries)


def show(digest: str, /, *, path: Path_ = "runs/store", as_json: AsJson = False) -> None:
    """Show one entry.

    Args:
        digest: Digest of an adapter or an evaluation, or the beginning of one.
    """
    store = _open(path)
    found = store.find(digest)
    if len(found) != 1:
        names = ", ".join(name[:16] for _, name in found[:6])
        raise StoreError(
            f"{visible(digest)}: "
            + (
                f"{len(found)} entries begin so: {names}. Give more digits."
                if found
                else f"no such entry in {path}. See: coral store ls"
            )
        )
    kind, full = found[0]
    with heard() as said:
        record = store.read_adapter(full) if kind == "adapter" else store.read_evaluation(full)
    if record is None:
        raise StoreError("\n".join([*said, "Check the whole store with: coral store verify"]))
    where = str(store.adapter_path(full) if kind == "adapter" else store.evaluation_path(full))
    data = record.model_dump(mode="json")
    if as_json:
        print(json.dumps({"schema_version": 1, "kind": kind, "digest": full, "path": where, "record": data}, indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"[bold]{kind}[/] {full}\n{marked(where)}")
    for key, value in data.items():
        if key not in ("records", "losses", "passed", "schema_version"):
            out.print(words(f"  {key}: {_short(value)}"))
    if kind == "adapter" and data["losses"]:
        first, last = data["losses"][0], data["losses"][-1]
        out.print(f"  loss: {first['loss']:.3f} at step {first['step']}, {last['loss']:.3f} at step {last['step']}")
    if kind == "evaluation":
        out.print(
            f"  problems: {len(data['records'])}, of which {len(data['passed'])} pass (--json for every patch and verdict)"
        )


def verify(*, path: Path_ = "runs/store", as_json: AsJson = False) -> None:
    """Check every entry by itself and report broken ones; returns 1 if there are any.

    Of an adapter: size and checksum of each file, nothing beside them, its record. Of an evaluation: its checksum, its record,
    scores between 0 and 1, and that pass@1 and repaired problems are those of its verdicts. Patches are not judged again and
    nothing is generated: that is `coral verify RUN`.
    """
    store = _open(path)
    entries, strangers = list(store.entries(check=True)), store.strangers()
    broken = [entry for entry in entries if not entry.sound]
    if as_json:
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "path": visible(path),
                    "checked": len(entries),
                    "broken": [_entry(entry) for entry in broken],
                    "other_versions": sum(not entry.current for entry in entries),
                    "foreign": [stranger.model_dump(mode="json") for stranger in strangers],
                },
                indent=1,
            )
        )
    else:
        out = Console(highlight=False, soft_wrap=True)
        for entry in broken:
            out.print(
                f"[red]broken[/] {entry.kind} {entry.digest[:16]}: {marked(entry.problem)}. It counts as absent and will be made again."
            )
        _print_strangers(out, strangers)
        out.print(f"{_count(entries)}; {len(broken)} broken")
        _print_versions(out, entries)
    if broken:
        raise SystemExit(1)


def clear(
    *,
    path: Path_ = "runs/store",
    other_versions: Annotated[
        bool, Parameter(help="Entries made by another version of recipe or engine than this one.", negative=())
    ] = False,
    broken: Annotated[bool, Parameter(help="Broken entries, and those that were set aside.", negative=())] = False,
    yes: Annotated[bool, Parameter(help="Remove them; without it they are only listed.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Remove entries that this version does not use: of other versions, or broken. Without --yes it only says which.

    Runs that used a removed entry keep their history, and `coral verify` and `coral show` then miss it.
    """
    if not (other_versions or broken):
        raise ConfigError("coral store clear: says not what. Give --other-versions, --broken or both.")
    store = _open(path)
    chosen = [
        entry
        for entry in store.entries(check=broken)
        if (other_versions and entry.sound and not entry.current) or (broken and not entry.sound)
    ]
    aside = store.set_aside_before() if broken else []
    if yes:
        for entry in chosen:
            store.remove(entry.kind, entry.digest)
        store.forget_set_aside(aside)
    if as_json:
        body = {
            "schema_version": 1,
            "path": visible(path),
            "removed": yes,
            "entries": [_entry(entry) for entry in chosen],
            "set_aside": len(aside),
        }
        print(json.dumps(body, indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    for entry in chosen:
        why = f"broken: {entry.problem}" if not entry.sound else f"made by {_maker(entry)}"
        out.print(words(f"{entry.kind} {entry.digest[:16]} {why}"))
    done = "removed" if yes else "would be removed; nothing was. Add --yes to remove them"
    more = f" and {len(aside)} that were set aside" if aside else ""
    out.print(f"{_count(chosen)}{more} {done}")


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What the store says of a broken entry: here it is the error itself, not a warning before it."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("coral.store")
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    try:
        yield said
    finally:
        log.propagate = before
        log.removeHandler(handler)


def _open(path: str) -> Store:
    store = Store(path)
    if not os.path.isdir(store.root):
        raise StoreError(f"{path}: no store there. Give its directory with --path DIR.")
    return store


def _entry(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _maker(entry: Entry) -> str:
    if not entry.version:
        return "?"
    return f"{'recipe' if entry.kind == 'adapter' else 'engine'} {visible(entry.version)}{'' if entry.current else ' (other)'}"


def _when(modified: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(modified))
    except (OverflowError, ValueError, OSError):  # file systems hold times that no calendar has
        return "?"


def _print_strangers(out: Console, strangers: list[Stranger]) -> None:
    for found in strangers:
        out.print(Text.assemble(("foreign", "yellow"), words(f" {found.folder}/{found.name}: {found.what}, no entry")), soft_wrap=True)  # fmt: skip


def _print_versions(out: Console, entries: list[Entry]) -> None:
    others = [entry for entry in entries if not entry.current]
    if others:
        out.print(
            f"[yellow]{len(others)} made by another version[/] than this one (recipe {RECIPE_VERSION}, engine {ENGINE_VERSION}), which "
            "does not use them: coral store clear --other-versions lists them, with --yes it removes them",
            soft_wrap=True,
        )


def _count(entries: list[Entry]) -> str:
    adapters = sum(entry.kind == "adapter" for entry in entries)
    return f"{adapters} adapters, {len(entries) - adapters} evaluations, {size(sum(entry.bytes for entry in entries))}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
