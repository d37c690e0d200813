"""Vocabulary: learning it, and turning UTF-8 bytes into ids."""
