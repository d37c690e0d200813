"""Checkpoints: finding, verifying, saving, loading, and the Hugging Face folder."""
