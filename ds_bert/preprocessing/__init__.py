"""The job that makes a data set of text."""
