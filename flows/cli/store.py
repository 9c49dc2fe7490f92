"""`coral store ls|show|verify|clear`: lists, shows, checks and removes entries of the store."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from coral_core.errors import ConfigError, StoreError
from coral_core.lm.versions import ENGINE_VERSION, RECIPE_VERSION
from coral_core.store.store import Entry, ForeignItem, Store
from coral_core.untrusted import visible
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, size

StoreFolder = Annotated[str, Parameter(name="--path", help="Directory of the store.")]
LONGEST = 200
"""Largest number of characters of a value that `coral store show` prints."""


def ls(*, path: StoreFolder = "runs/store", as_json: AsJson = False) -> None:
    """List adapters and evaluations with their size and the version that made them; contents are not checked (see verify)."""
    store = _open(path)
    entries, foreign = list(store.entries()), store.foreign_items()
    if as_json:
        print_json({"schema_version": 1, "path": visible(path), "entries": entries, "foreign": foreign})
        return
    if entries:
        echo(table(("<kind", "<digest", "size", "<when", "<made by", "<<"), map(_cells, entries)))
    _print_summary(entries, foreign)


def _cells(entry: Entry) -> list[object]:
    state = Text() if entry.sound else words(f"broken: {entry.problem}", "red")
    return [entry.kind, entry.digest[:16], size(entry.bytes), _when(entry.modified), _maker(entry), state]


def _print_summary(entries: Sequence[Entry], foreign: Sequence[ForeignItem], more: str = "") -> None:
    """Print foreign items, totals, and the number of entries that no run of this version uses."""
    for found in foreign:
        echo(words(f"foreign {found.folder}/{found.name}: {found.what}, no entry", "yellow"))
    echo(f"{_count(entries)}{more}")
    if others := sum(not entry.current for entry in entries):
        echo(
            f"[yellow]{others} made by another version[/] than this one (recipe {RECIPE_VERSION}, engine {ENGINE_VERSION}), which "
            "does not use them: coral store clear --other-versions lists them, with --yes it removes them"
        )


def show_entry(digest: str, /, *, path: StoreFolder = "runs/store", as_json: AsJson = False) -> None:
    """Show one entry.

    Args:
        digest: Digest of an adapter or an evaluation, or the beginning of one.
    """
    store = _open(path)
    found = store.find(digest)
    if len(found) != 1:
        names = ", ".join(name[:16] for _, name in found[:6])
        raise StoreError(
            f"{digest}: {len(found) or 'no'} entries of {path} begin like that",
            remedy=f"Give more digits: {names}." if found else "See: coral store ls",
        )
    kind, full = found[0]
    with collected_warnings() as warnings:
        record = store.read_adapter(full) if kind == "adapter" else store.read_evaluation(full)
    if record is None:
        raise StoreError("\n".join([*warnings, "Check the whole store with: coral store verify"]))
    where = str(store.adapter_path(full) if kind == "adapter" else store.evaluation_path(full))
    data = record.model_dump(mode="json")
    if as_json:
        print_json({"schema_version": 1, "kind": kind, "digest": full, "path": where, "record": data})
        return
    echo(f"[bold]{kind}[/] {full}", words(where))
    for key, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        echo(words(f"  {key}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ... (--json for the whole)'}"))


def verify(*, path: StoreFolder = "runs/store", as_json: AsJson = False) -> None:
    """Check every entry by itself and report broken ones; exits with 1 if there are any.

    Of an adapter: size and checksum of each file, nothing beside them, its record. Of an evaluation: its checksum, its record,
    scores between 0 and 1, and that pass@1 and repaired problems are those of its verdicts. Patches are not judged again and
    nothing is generated: that is `coral verify RUN`.
    """
    store = _open(path)
    entries, foreign = list(store.entries(check=True)), store.foreign_items()
    broken = [entry for entry in entries if not entry.sound]
    if as_json:
        others = sum(not entry.current for entry in entries)
        print_json({"schema_version": 1, "path": visible(path), "checked": len(entries), "broken": broken,
                    "other_versions": others, "foreign": foreign})  # fmt: skip
    else:
        for entry in broken:
            text = f"{entry.kind} {entry.digest[:16]}: {entry.problem}. It counts as absent and will be made again."
            echo(Text("broken ", "red") + words(text))
        _print_summary(entries, foreign, f"; {len(broken)} broken")
    if broken:
        raise SystemExit(1)


def clear(
    *,
    path: StoreFolder = "runs/store",
    other_versions: Annotated[
        bool, Parameter(help="Entries made by another version of recipe or engine than this one.", negative=())
    ] = False,
    broken: Annotated[bool, Parameter(help="Broken entries, and those that were set aside.", negative=())] = False,
    yes: Annotated[bool, Parameter(help="Remove them; without it they are only listed.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Remove entries that this version does not use: of other versions, or broken. Without --yes it only lists them.

    Runs that used a removed entry keep their history, but `coral verify` and `coral show` report it as missing.
    """
    if not (other_versions or broken):
        raise ConfigError("coral store clear: says not what", remedy="Give --other-versions, --broken or both.")
    store = _open(path)
    chosen = [
        entry
        for entry in store.entries(check=broken)
        if (not entry.sound and broken) or (entry.sound and other_versions and not entry.current)
    ]
    aside = store.set_aside_before() if broken else []
    if yes:
        for entry in chosen:
            store.remove(entry.kind, entry.digest)
        store.forget_set_aside(aside)
    if as_json:
        print_json({"schema_version": 1, "path": visible(path), "removed": yes, "entries": chosen,
                    "set_aside": len(aside)})  # fmt: skip
        return
    for entry in chosen:
        why = f"made by {_maker(entry)}" if entry.sound else f"broken: {entry.problem}"
        echo(words(f"{entry.kind} {entry.digest[:16]} {why}"))
    done = "removed" if yes else "would be removed; nothing was. Add --yes to remove them"
    echo(f"{_count(chosen)} and {len(aside)} that were set aside {done}")


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the store's warnings about broken entries, for commands that report these as errors themselves."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("coral.store")
    log.addHandler(handler)
    before, log.propagate = log.propagate, False
    try:
        yield found
    finally:
        log.propagate = before
        log.removeHandler(handler)


def _open(path: str) -> Store:
    store = Store(path)
    if not store.root.is_dir():
        raise StoreError(f"{path}: no store there", remedy="Give its directory with --path DIR.")
    return store


def _maker(entry: Entry) -> str:
    if not entry.version:
        return "?"
    return f"{'recipe' if entry.kind == 'adapter' else 'engine'} {entry.version}{'' if entry.current else ' (other)'}"


def _when(modified: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(modified))
    except (OverflowError, ValueError, OSError):  # a file system may hold times outside the calendar
        return "?"


def _count(entries: Sequence[Entry]) -> str:
    adapters = sum(entry.kind == "adapter" for entry in entries)
    return f"{adapters} adapters, {len(entries) - adapters} evaluations, {size(sum(entry.bytes for entry in entries))}"
