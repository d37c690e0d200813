"""The data set on disk: format, reading, writing, checking."""
