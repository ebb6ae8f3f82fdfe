"""Process queries: check them, turn them into vectors, and fuse fields."""
