"""Is a run what it says? Its files, identity, versions, digests, search and scores, checked against each other.

Nothing here trusts the history: the configuration gives the run's identity, the identity and
the configuration give the jobs, the jobs give the digests, the store gives what was found
under them, and the search, played again with the scores, gives the genomes, the generations
and the champion. `replay` judges stored patches again; doing whole evaluations again is up
to an executor (flows/cli/verify.py).
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
