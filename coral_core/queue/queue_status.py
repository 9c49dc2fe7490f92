"""Looks at a queue's files from outside: how long a ticket waited, which results nobody has taken."""

import time
from pathlib import Path

from coral_core.bounded_read import look_at
from coral_core.queue.queue import Claim, JobQueue
from coral_core.queue.tickets import Ticket, digest_of, is_answer
from coral_core.store.store import Kind

LEFT_SECONDS = 30.0


def waited(queue: JobQueue, claim: Claim, ticket: Ticket) -> float:
    """Seconds from putting the ticket down (for this try) to the claim, by the clock of the store alone."""
    try:
        claimed = (queue.root / "claims" / f"{claim.digest}.json").stat().st_mtime
        put = (queue.root / "tickets" / ticket.run_id / ticket.file).stat().st_mtime
    except OSError:
        return 0.0
    return max(0.0, claimed - put)


def uncollected(queue: JobQueue, seconds: float = LEFT_SECONDS) -> list[str]:
    """Digests whose result has been there for `seconds` while a ticket, a claim or an answer still lies there.

    Whoever waits for a result takes it within a tenth of a second, and its ticket goes with it; claims of lanes that died
    just after publishing are swept as fast. What stays longer has nobody who collects it.
    """
    found: dict[str, list[Path]] = {}
    for path in (queue.root / "tickets").glob("*/*.json"):
        digest = digest_of(path.name)
        result = _answer(queue, digest) if is_answer(path.name) else _result(queue, digest)
        found.setdefault(digest, []).append(result)
    for path in (queue.root / "claims").glob("*.json"):
        found.setdefault(path.stem, []).extend([_result(queue, path.stem), _answer(queue, path.stem)])
    for path in (queue.root / "answers").glob("*.json"):
        found.setdefault(path.stem, []).append(path)
    return sorted(digest for digest, results in found.items() if any(_age(path) > seconds for path in results))


def _result(queue: JobQueue, digest: str) -> Path:
    kind: Kind = "adapter" if queue.name == "training" else "evaluation"
    if not queue.store.is_published(kind, digest):  # also for the name of a file that is no digest
        return queue.root / "none"
    return (
        queue.store.adapter_path(digest) / "manifest.json" if kind == "adapter" else queue.store.evaluation_path(digest)
    )


def _answer(queue: JobQueue, digest: str) -> Path:
    return queue.root / "answers" / f"{digest}.json"


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 when there is none."""
    found = look_at(path)
    return time.time() - found.st_mtime if found is not None else 0.0
