"""Style, security and syntax findings for a batch of patches.

Both linters are pinned, because their rules are part of the objectives. The findings of a patch depend on its own text
alone, not on the rest of the batch: each patch is linted by itself in the text process (`text_process`, `linters`). It
fails closed: a patch that a linter skipped, refused or could not read is `unread`, with the reason, and scores 0.
"""

import math
import time
from collections.abc import Mapping, Sequence

from coral_core.frozen import Frozen
from coral_core.judge.answers import printable
from coral_core.scoring.text_process import TextProcess, Unread, shared

LONGEST_LINTED = 200_000
"""Characters, as many as the judge takes."""


class Findings(Frozen):
    """Findings of the interpreter and the linters on one patch."""

    style: int = 0
    security_low: int = 0
    security_medium: int = 0
    security_high: int = 0
    compiles: bool = False
    statements: int = 0
    """Statements that do something: `pass`, docstrings and bare constants do not count."""
    functions: frozenset[str] = frozenset()
    """Names that `def` gives at the top level."""
    style_unread: str = ""
    """Reason why ruff did not read it; "" when it did."""
    security_unread: str = ""
    """Reason why bandit did not read it; "" when it did."""

    @property
    def unread(self) -> str:
        """Why a linter has not read it; "" when both have."""
        return self.style_unread or self.security_unread


def findings(
    patches: Sequence[str], process: TextProcess | None = None, seconds: float = math.inf
) -> dict[str, Findings]:
    """Findings of each distinct patch.

    Args:
        patches: Texts, in any order, possibly repeated.
        process: Lints them; None: a process shared by all callers.
        seconds: Wall-clock limit for all of them together.

    Returns:
        Patch -> findings.

    Raises:
        JudgeError: a linter cannot read an ordinary text here.
        TimeoutError: the time is over; no findings are returned then.
    """
    process = process or shared()
    until = time.monotonic() + seconds
    facts = {patch: findings_without_style(patch, process, until) for patch in dict.fromkeys(patches)}
    return with_style(facts, process, until)


def findings_without_style(patch: str, process: TextProcess, until: float) -> Findings:
    """Findings of the interpreter and bandit on one patch, which `with_style` completes.

    Args:
        patch: The text.
        process: Reads it.
        until: Deadline, in `time.monotonic` seconds.

    Raises:
        JudgeError: as `findings`.
        TimeoutError: as `findings`.
    """
    if reason := _refused(patch):
        return _unread(reason)
    return _facts(process.ask({"op": "facts", "text": as_compiled(patch)}, until))


def with_style(facts: Mapping[str, Findings], process: TextProcess, until: float) -> dict[str, Findings]:
    """Add ruff's findings. All patches are given to one process of ruff: its start costs more than a patch does.

    Args:
        facts: Patch -> its findings of `findings_without_style`.
        process: Runs ruff.
        until: Deadline, in `time.monotonic` seconds.

    Raises:
        JudgeError: as `findings`.
        TimeoutError: as `findings`.
    """
    counts = _ruff([patch for patch, found in facts.items() if not found.unread], process, until)
    return {
        patch: found.model_copy(update=counts[patch]) if patch in counts else found for patch, found in facts.items()
    }


def as_compiled(patch: str) -> str:
    """The text that the judge compiles: without a leading byte order mark."""
    return patch.removeprefix("\ufeff")


def _refused(patch: str) -> str:
    """Why a text is not given to a linter; "" when it is."""
    if len(patch) > LONGEST_LINTED:
        return f"{len(patch)} characters, more than {LONGEST_LINTED}"
    try:
        patch.encode()
    except UnicodeEncodeError:
        return "no valid UTF-8"
    return "" if patch.strip() else "empty"


def _unread(reason: str) -> Findings:
    reason = printable(reason, 200)
    return Findings(style_unread=reason, security_unread=reason)


def _facts(answer: object) -> Findings:
    """Findings of the interpreter and bandit, from the answer of the text process."""
    if isinstance(answer, Unread) or not isinstance(answer, Mapping):
        return _unread(answer.reason if isinstance(answer, Unread) else "no answer")
    if "problem" in answer:
        return _unread(f"does not compile: {answer['problem']}")
    security = answer.get("bandit", "")
    reason = answer.get("refused", "") or ("" if answer["statements"] else "no statement that does something")
    counts = security if isinstance(security, Mapping) else {}
    return Findings(
        security_low=counts.get("LOW", 0),
        security_medium=counts.get("MEDIUM", 0),
        security_high=counts.get("HIGH", 0),
        compiles=True,
        statements=answer["statements"],
        functions=frozenset(answer["functions"]),
        style_unread=printable(reason, 200),
        security_unread=printable(reason or ("" if counts else security), 200),
    )


def _ruff(patches: Sequence[str], process: TextProcess, until: float) -> dict[str, dict[str, object]]:
    """Per patch, the fields of its findings that ruff gives."""
    if not patches:
        return {}
    counts = process.ask({"op": "ruff", "texts": [as_compiled(patch) for patch in patches]}, until)
    if isinstance(counts, (Unread, str)):
        if len(patches) > 1:  # a patch breaks ruff: lint each alone, so that only this one is affected
            return {patch: found for one in patches for patch, found in _ruff([one], process, until).items()}
        counts = [counts.reason if isinstance(counts, Unread) else counts]
    return {
        patch: {"style": count} if isinstance(count, int) else {"style_unread": printable(count, 200)}
        for patch, count in zip(patches, counts, strict=True)
    }
