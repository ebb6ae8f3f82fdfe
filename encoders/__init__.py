"""Encoders turn pixels and sentences into vectors; projections map both into one joint space."""
