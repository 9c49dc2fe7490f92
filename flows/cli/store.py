"""`coral store ls|show|verify`: what the store holds and whether it is sound."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from coral_core.errors import StoreError
from coral_core.store import Entry, Store
from flows.cli.foreign import marked, words
from flows.cli.places import AsJson, size

Path_ = Annotated[str, Parameter(name="--path", help="Directory of the store.")]


def ls(*, path: Path_ = "runs/store", as_json: AsJson = False) -> None:
    """List adapters and evaluations with their size; contents are not checked (see verify)."""
    entries = list(_open(path).entries())
    if as_json:
        print(
            json.dumps({"schema_version": 1, "path": path, "entries": [_entry(entry) for entry in entries]}, indent=1)
        )
        return
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("kind", "digest", "size", "when"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for entry in entries:
        table.add_row(
            entry.kind,
            entry.digest[:16],
            size(entry.bytes),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.modified)),
        )
    if entries:
        out.print(table)
    out.print(_count(entries))


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
            f"{digest}: "
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
    """Read every byte and report broken entries; returns 1 if there are any."""
    entries = list(_open(path).entries(check=True))
    broken = [entry for entry in entries if not entry.sound]
    if as_json:
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "path": path,
                    "checked": len(entries),
                    "broken": [_entry(entry) for entry in broken],
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
        out.print(f"{_count(entries)}; {len(broken)} broken")
    if broken:
        raise SystemExit(1)


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
    if "://" not in path and not Path(path).expanduser().is_dir():
        raise StoreError(f"{path}: no store there. Give its directory with --path DIR.")
    return Store(path)


def _entry(entry: Entry) -> dict[str, Any]:
    return entry.model_dump(mode="json")


def _count(entries: list[Entry]) -> str:
    adapters = sum(entry.kind == "adapter" for entry in entries)
    return f"{adapters} adapters, {len(entries) - adapters} evaluations, {size(sum(entry.bytes for entry in entries))}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
