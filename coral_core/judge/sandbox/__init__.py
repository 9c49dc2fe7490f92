"""The sandbox in which patches run: an empty zygote forks one locked-down child per patch."""
