"""Problems, their recorded cases and the value language; normal forms and mutation of functions."""
