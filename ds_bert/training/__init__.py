"""A run: its plan, its data, its loop, its log."""
