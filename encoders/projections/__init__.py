"""Features and sentence vectors become embeddings in one joint space: one class a kind of projection."""

from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.registry import KINDS, load, make

__all__ = ["KINDS", "Projection", "load", "make"]
