"""What leaves a run: a model folder that was checked, its card, averages, the hub."""
