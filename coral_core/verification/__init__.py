"""Verifies a run: checks its files, identity, versions, digests, search and scores against each other.

The history is not trusted. The run's identity is derived from the configuration, the jobs from
both, and the digests from the jobs. Results are read from the store by these digests. The
search, replayed with their scores, must give the recorded genomes, generations and champion.
`replay` judges stored patches again. Not covered: whole evaluations again, which need an
executor (flows/cli/verify.py).
"""

from coral_core.verification.checks import check_all as check_all
from coral_core.verification.findings import Expected as Expected
from coral_core.verification.findings import Finding as Finding
from coral_core.verification.findings import Verified as Verified
from coral_core.verification.findings import open_run as open_run
from coral_core.verification.replay import differences_between as differences_between
from coral_core.verification.replay import judge_again as judge_again
from coral_core.verification.replay import note_unchecked as note_unchecked
from coral_core.verification.replay import sample_of as sample_of
