"""A run on disk: its folder, history, identity and lock, the number of jobs that it needs, and its progress."""
