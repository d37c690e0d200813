"""Faults injected into real runs, one after the other, and what became of each."""
