"""What a model is worth for a task of the user: fine-tuned on it, and scored."""
