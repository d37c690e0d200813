"""Command lines of other systems: read, answered and turned into ours."""
