"""Constants of the 40 QuixBugs programs: split, bug class, difficulty, slow and excluded cases.

The split is committed, so that results of different runs and people can be compared. It is stratified by bug class and by
kind (9 of the 40 are graph programs): 16 fitness, 8 monitor, 16 held-out. Programs that are nearly equal (the two binary
searches) share a split. The bug classes are this repository's own, taken from the change that repairs each program. The
difficulty follows the share of cases that the buggy program fails in the judge (above 0.75 easy, above 0.3 medium, else
hard), as for the built-in problems. Revision: `PINNED`.
"""

from typing import NamedTuple

from coral_core.problems.problem import BugClass, Difficulty, Split

PINNED = "4257f44b0ff1181dedaedee6a447e133219fcebf"
URL = "https://github.com/jkoppel/QuixBugs"


class Known(NamedTuple):
    """One of the 40."""

    split: Split
    bug_class: BugClass
    difficulty: Difficulty
    graph: bool = False


PROGRAMS: dict[str, Known] = {
    "bitcount": Known("fitness", "arithmetic", "easy"),
    "breadth_first_search": Known("fitness", "boolean", "hard", True),
    "bucketsort": Known("fitness", "variable", "easy"),
    "depth_first_search": Known("fitness", "missing-step", "hard", True),
    "detect_cycle": Known("monitor", "boolean", "hard", True),
    "find_first_in_sorted": Known("held_out", "comparison", "easy"),
    "find_in_sorted": Known("held_out", "index", "hard"),
    "flatten": Known("fitness", "called-name", "easy"),
    "gcd": Known("monitor", "variable", "easy"),
    "get_factors": Known("monitor", "constant", "easy"),
    "hanoi": Known("held_out", "variable", "easy"),
    "is_valid_parenthesization": Known("held_out", "boolean", "medium"),
    "kheapsort": Known("fitness", "index", "medium"),
    "knapsack": Known("fitness", "comparison", "medium"),
    "kth": Known("held_out", "arithmetic", "medium"),
    "lcs_length": Known("monitor", "index", "easy"),
    "levenshtein": Known("held_out", "arithmetic", "easy"),
    "lis": Known("held_out", "missing-step", "medium"),
    "longest_common_subsequence": Known("held_out", "index", "medium"),
    "max_sublist_sum": Known("fitness", "missing-step", "medium"),
    "mergesort": Known("held_out", "comparison", "easy"),
    "minimum_spanning_tree": Known("monitor", "called-name", "easy", True),
    "next_palindrome": Known("fitness", "arithmetic", "hard"),
    "next_permutation": Known("monitor", "comparison", "easy"),
    "pascal": Known("fitness", "index", "easy"),
    "possible_change": Known("fitness", "boolean", "easy"),
    "powerset": Known("monitor", "missing-step", "easy"),
    "quicksort": Known("fitness", "comparison", "hard"),
    "reverse_linked_list": Known("held_out", "missing-step", "medium", True),
    "rpn_eval": Known("fitness", "variable", "medium"),
    "shortest_path_length": Known("held_out", "variable", "medium", True),
    "shortest_path_lengths": Known("fitness", "index", "easy", True),
    "shortest_paths": Known("fitness", "variable", "easy", True),
    "shunting_yard": Known("fitness", "missing-step", "medium"),
    "sieve": Known("held_out", "called-name", "easy"),
    "sqrt": Known("held_out", "arithmetic", "easy"),
    "subsequences": Known("held_out", "constant", "easy"),
    "to_base": Known("monitor", "arithmetic", "medium"),
    "topological_ordering": Known("held_out", "variable", "easy", True),
    "wrap": Known("held_out", "missing-step", "easy"),
}
"""Name -> what is fixed about it."""

SLOW: dict[str, tuple[int, ...]] = {
    "knapsack": (3,),
    "levenshtein": (1, 5),
    "longest_common_subsequence": (1, 2, 4, 10),
    "possible_change": (3, 6, 7, 8, 9, 10),
}
"""Cases (from 1) whose reference executes more than 12,000 lines, a quarter of the ordinary limit; at most 3.4 million."""

EXCLUDED: dict[str, dict[int, str]] = {
    "knapsack": {10: "about 150 million steps of a table that does not fit into memory; upstream skips it as slow"},
    "levenshtein": {
        3: "exponential, more than 30 million lines of work",
        4: "exponential, never ends; upstream skips it always",
    },
}
"""Cases (from 1) that are left out, and why."""
