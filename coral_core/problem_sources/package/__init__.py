"""Problem source `package`: a user's own functions, with the calls that their own tests make.

``problems.path`` is a directory of Python code with pytest or doctest tests. In order:

    discovery         finds the functions, and the text each needs to stand alone (syntax tree only)
    recording         runs the tests once, in a process of their own, and keeps the calls they make
    cases             calls each function again, alone: refuses what differs, makes more calls where there are few
    bugs              breaks each function and keeps the bugs that the judge finds by a recorded case
    cache             the four steps above, cached by the content of the directory
    splits            four splits by function; functions that share code or look alike stay together
    package_problems  the problem set

Not covered: methods, asynchronous functions, functions that need more than the standard library.
"""

from coral_core.problem_sources.package.cache import missing
from coral_core.problem_sources.package.package_problems import load_package

__all__ = ["load_package", "missing"]
