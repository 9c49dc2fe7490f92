"""Jobs and their results, and the contents that the digests in a job stand for."""
