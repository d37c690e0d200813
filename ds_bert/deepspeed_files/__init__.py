"""DeepSpeed files of others as recipes: what they say is obeyed, or answered."""
