"""Data brought near, once for all processes of a host: on its own disk, in its memory."""
