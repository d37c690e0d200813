"""A run as a page: what its folder tells, what is wrong with it, and the cure."""
