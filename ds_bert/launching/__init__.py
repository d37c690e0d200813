"""DeepSpeed's launcher with a door before it: signals in, exit codes out, starting again."""
