"""Two directories hold test files of their own, which are data here."""

collect_ignore = ["package_like", "quixbugs_like"]
