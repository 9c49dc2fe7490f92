"""Problem source `package`: a user's own functions, with the calls that their own tests make.

``problems.path`` is a directory of Python code with pytest or doctest tests. In order:

    discovery         finds the functions, and the text each needs to stand alone (syntax tree only)
    recording         runs the tests once, in a process of their own, and keeps the calls they make
    cases             calls each function again, alone; refuses deviations, generates calls where there are few
    bugs              mutates each function and keeps the mutants that a recorded case detects
    cache             caches the results of these four steps by the content of the directory
    splits            four splits by function; functions that share code or are similar stay together
    package_problems  the problem set

Not covered: methods, asynchronous functions, functions that need more than the standard library.
"""

from coral_core.problem_sources.package.cache import missing
from coral_core.problem_sources.package.package_problems import load_package

__all__ = ["load_package", "missing"]
