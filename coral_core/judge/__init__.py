r"""The judge: runs a patch on the recorded cases of a problem in a sandbox and says which of them pass.

The package is usable by itself. A problem needs the buggy function, a reference and recorded cases:

    >>> from coral_core.judge import Judge
    >>> from coral_core.problems import Case, Problem
    >>> problem = Problem(
    ...     problem_id="demo/size",
    ...     entry_point="size",
    ...     buggy="def size(n):\n    return n",
    ...     reference="def size(n):\n    return -n if n < 0 else n",
    ...     cases=[Case(arguments=[n], value=abs(n)) for n in (-3, 0, 4)],
    ... )
    >>> with Judge() as judge:
    ...     verdict = judge.judge(problem, "def size(n):\n    return abs(n)")
    >>> verdict.outcome.value, verdict.cases
    ('fixed', ('pass', 'pass', 'pass'))

Modules: `judge` (verdicts, repeated runs), `answers` (reads what a child wrote), `oracle` (compares values), `sandbox/`
(zygote, child, layers of isolation).
"""

from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION, Judge, Outcome, PatchLimits, Verdict

__all__ = ["JUDGE_VERSION", "ORACLE_VERSION", "Judge", "Outcome", "PatchLimits", "Verdict"]
