"""What the model is shown: sentence pairs, masks, batches as arrays."""
