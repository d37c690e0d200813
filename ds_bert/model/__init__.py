"""The batch as tensors, and BERT on it."""
