"""Data of other programs: finished instances in their files, read into data sets and written."""
