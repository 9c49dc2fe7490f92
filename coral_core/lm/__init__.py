"""Base models, adapter training, generation, and the engine process that holds torch."""
