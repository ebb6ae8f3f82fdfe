"""Frames become features: one image encoder a module, and readers of their weights."""
