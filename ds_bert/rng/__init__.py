"""Random numbers in compiled code: counter-based streams, and Python's own generator."""
