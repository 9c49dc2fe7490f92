"""Repairs one function of a file with a model: source_file finds and replaces functions, proposals writes and judges patches."""
