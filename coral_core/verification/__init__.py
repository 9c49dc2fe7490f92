"""Is a run what it says? Its files, identity, versions, digests, search and scores, checked against each other.

Nothing here trusts the history: the configuration gives the run's identity, the identity and
the configuration give the jobs, the jobs give the digests, the store gives what was found
under them, and the search, played again with the scores, gives the genomes, the generations
and the champion. `replay` judges stored patches again; doing whole evaluations again is up
to an executor (flows/cli/verify.py).
"""

from coral_core.verification.completeness import check_champion, check_completeness
from coral_core.verification.findings import Expected, Finding, Verified, open_run
from coral_core.verification.origins import check_digests, check_identity, check_problems, check_versions
from coral_core.verification.outcomes import check_scores, check_search, check_store
from coral_core.verification.replay import differences_between, judge_again, sample_of

__all__ = [
    "Expected",
    "Finding",
    "Verified",
    "check_all",
    "differences_between",
    "judge_again",
    "open_run",
    "sample_of",
]


def check_all(run: Verified) -> list[Expected]:
    """All checks that need no judge and no model; returns what a sample can be drawn from."""
    check_versions(run)
    check_identity(run)
    check_problems(run)
    check_completeness(run)
    expected = check_digests(run)
    check_store(run, expected)
    check_champion(run)
    check_scores(run)
    check_search(run)
    return expected
