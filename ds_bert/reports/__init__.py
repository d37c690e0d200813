"""Records as pages for people."""
