"""Where patches run: a zygote that holds nothing forks one locked-down child per patch."""
