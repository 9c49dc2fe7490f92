"""One run from configuration to report: preflight, planner, baselines, generations, held-out."""
