"""A small package with tests: what `2_your_own_functions.py` repairs."""
