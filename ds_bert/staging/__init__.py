"""Data brought near: copied to a host's own disk, read into its memory."""
