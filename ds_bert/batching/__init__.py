"""How many sequences an optimizer step has, and how they are shared out."""
