"""Parsing, calling and exit code of every command."""
