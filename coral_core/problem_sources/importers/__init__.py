"""Importers: public benchmarks and files of tests become a file of the layout `jsonl`.

    humaneval   HumanEval, and HumanEvalPack with bugs of its own          JSON lines, .gz
    mbpp        MBPP, also its sanitized version                           JSON lines or a list
    bugsinpy    folders of BugsInPy                                         with --repo: problems
    swe         rows of SWE-bench                                           with --repo: more of them
    asserts     a Python file with functions and assert-style tests

The file is hostile: its size is limited, nothing of it is unpickled, and its code runs only in the judge's sandbox,
which also gives the expected values. Rows that cannot become a problem are refused one by one, each with its reason.
Where a row has no bug of its own, bugs are mutants of its reference.
"""

from coral_core.problem_sources.importers.importing import LAYOUTS, Imported, ImportedRow, import_problems

__all__ = ["LAYOUTS", "Imported", "ImportedRow", "import_problems"]
