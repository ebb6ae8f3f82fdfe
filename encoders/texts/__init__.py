"""Text encoders turn sentences into vectors: one module each, and readers of their files."""
