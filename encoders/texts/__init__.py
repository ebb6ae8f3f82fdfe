"""Sentences become vectors: one text encoder a module, and readers of their files."""
