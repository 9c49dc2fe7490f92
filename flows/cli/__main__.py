"""``python -m flows.cli`` is the `coral` command."""

from flows.cli import main

main()
