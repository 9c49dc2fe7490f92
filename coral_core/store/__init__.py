"""The store: adapters and evaluations by digest, published atomically, checked on every read."""
