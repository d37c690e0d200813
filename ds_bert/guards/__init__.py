"""What keeps a run honest: lock, agreement of ranks, watchdog."""
