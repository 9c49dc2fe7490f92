"""Checks of a machine (`coral doctor`) and of an installation (`coral health`); each reports its finding and a remedy."""
