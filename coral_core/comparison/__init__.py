"""Compares search strategies over seeds at equal budget: runs or plays them, tests the differences, writes the page."""
