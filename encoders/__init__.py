"""Pixels and sentences become vectors; projections bring both into one joint space."""
