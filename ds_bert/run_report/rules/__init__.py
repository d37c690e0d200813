"""What may be wrong with a run: one small function each, pure, over rows and baselines."""
