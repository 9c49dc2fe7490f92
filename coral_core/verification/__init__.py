"""Is a run what it says? Its files, identity, versions, digests, search and scores, checked against each other.

Nothing here trusts the history: the configuration gives the run's identity, the identity and
the configuration give the jobs, the jobs give the digests, the store gives what was found
under them, and the search, played again with the scores, gives the genomes, the generations
and the champion. `replay` judges stored patches again; doing whole evaluations again is up
to an executor (flows/cli/verify.py).
"""

import logging
from collections.abc import Callable

from coral_core.untrusted import in_a_line
from coral_core.verification.completeness import check_champion, check_completeness
from coral_core.verification.findings import Expected, Finding, Verified, first_line, open_run
from coral_core.verification.origins import check_digests, check_identity, check_problems, check_versions
from coral_core.verification.outcomes import check_scores, check_search, check_store
from coral_core.verification.replay import differences_between, judge_again, sample_of
from coral_core.verification.unchecked import note_unchecked

__all__ = [
    "Expected",
    "Finding",
    "Verified",
    "check_all",
    "differences_between",
    "first_line",
    "judge_again",
    "note_unchecked",
    "open_run",
    "sample_of",
]


log = logging.getLogger("coral.verify")


def check_all(run: Verified) -> list[Expected]:
    """All checks that need no judge and no model; returns what a sample can be drawn from."""
    expected: list[Expected] = []

    def digests(of: Verified) -> None:
        expected.extend(check_digests(of))

    checks: tuple[tuple[str, Callable[[Verified], None]], ...] = (
        ("versions", check_versions),
        ("identity", check_identity),
        ("problems", check_problems),
        ("completeness", check_completeness),
        ("digests", digests),
        ("store", lambda of: check_store(of, expected)),
        ("champion", check_champion),
        ("scores", check_scores),
        ("search", check_search),
    )
    for name, check in checks:
        try:
            check(run)
        except Exception as error:  # what breaks a check has not passed it, whatever it is
            log.debug("the check of %s failed", name, exc_info=True)
            run.say(name, [f"cannot be checked: {in_a_line(error)}"], "")
    return expected
