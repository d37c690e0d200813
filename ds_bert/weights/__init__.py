"""Weights of other programs: reading them as a Hugging Face BERT, and writing them back."""
