"""The directory in the layout of QuixBugs holds test files of its own, which are data here."""

collect_ignore = ["quixbugs_like"]
