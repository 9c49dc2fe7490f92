"""Problem source `git`: fixes from the history of a repository become problems, with their tests as cases.

``problems.path`` is a git repository with a Python package and pytest tests. In order:

    repository        reads commits and files without git's configuration, hooks or checkouts
    changed_functions finds the functions that a commit changes (syntax trees only)
    scratch_copy      writes a commit's files with the code after, and with the code before
    fix               runs the commit's tests on both, records cases, verifies under the judge
    walk              does that for the newest commits on several cores, and caches it by commit
    time_splits       splits by function so that held-out fixes are newest
    history_problems  the problem set: fixes, then mutants of the functions at the revision

Recording is that of the source `package`. Not covered: fixes that only examples in docstrings show, fixes outside functions,
test suites that need services or other versions of packages than those that are installed.
"""

from coral_core.problem_sources.history.history_problems import load_git
from coral_core.problem_sources.history.walk import missing

__all__ = ["load_git", "missing"]
