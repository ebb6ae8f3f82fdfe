"""Image encoders turn frames into features: one module each, and readers of their weights."""
