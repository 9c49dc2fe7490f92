"""A run on disk: its folder, history, identity and lock, how many jobs it needs, and where it stands."""
