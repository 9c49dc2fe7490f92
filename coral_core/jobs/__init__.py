"""Jobs and their results, and the contents that their digests name."""
