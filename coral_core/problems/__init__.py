r"""Problems: buggy functions with a reference and recorded cases; the value language; normal forms; mutation operators.

>>> from coral_core.problems import Case, Problem
>>> problem = Problem(
...     problem_id="demo/first",
...     entry_point="first",
...     buggy="def first(items):\n    return items[1]",
...     reference="def first(items):\n    return items[0]",
...     cases=[Case.of([7, 8], value=7)],
... )
>>> problem.retention, len(problem.digest())
(False, 64)
"""

from coral_core.problems.problem import Case, Problem, ProblemSet, RepairPair

__all__ = ["Case", "Problem", "ProblemSet", "RepairPair"]
