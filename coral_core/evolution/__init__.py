"""One run from its configuration to its final record: preflight, planner, baselines, generations, held-out."""
