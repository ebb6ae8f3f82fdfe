"""How engines are built."""

from __future__ import annotations

from dataclasses import dataclass, field

ANNOY, SCAN, HNSW = "annoy", "scan", "hnsw"
ENGINES = (ANNOY, SCAN, HNSW)


@dataclass(frozen=True)
class AnnoySettings:
    """How Annoy's trees are built. One thread and a fixed seed give the same bytes each time.

    `trees` None is 5 over reduced vectors, where more make a larger file and, for the same nodes looked at, hardly
    better candidates (of 100,000 vectors 5, 20 and 100 trees have the same recall within .01), and 50 over whole
    ones, where they do (GloVe, 50 dimensions: 5 trees had a third of the speed of 50 or 100 at equal recall).
    """

    trees: int | None = None
    seed: int = 20150622

    def count(self, reduced: bool) -> int:
        """Return how many trees are built over reduced or whole vectors."""
        return self.trees or (5 if reduced else 50)


@dataclass(frozen=True)
class HnswSettings:
    """How the graph is built: links a node has on each level but the lowest, which has twice as many, and breadth."""

    connectivity: int = 24
    expansion_add: int = 96


@dataclass(frozen=True)
class EngineSettings:
    """What is built: Annoy always, a graph if `hnsw` says how; a scan needs nothing but Annoy's file."""

    annoy: AnnoySettings = field(default_factory=AnnoySettings)
    hnsw: HnswSettings | None = None
