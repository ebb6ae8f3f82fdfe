"""Projections map features and sentence vectors to embeddings in one joint space: one class per kind."""

from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.registry import KINDS, load, make

__all__ = ["KINDS", "Projection", "load", "make"]
