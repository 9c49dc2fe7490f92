"""Three directories hold test files of their own, which are data here."""

collect_ignore = ["odd_package", "package_like", "quixbugs_like"]
