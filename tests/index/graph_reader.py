"""A reader of graph files in plain Python, written from docs/index-format.md only."""

from __future__ import annotations

import heapq
import struct
from pathlib import Path

import numpy as np

from gifdex.encoders.base import FloatArray

END = 2**32 - 1


class GraphReader:
    """The arrays of a shard-NNNNN.graph, and a search over them."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, reserved = struct.unpack_from("<8sII", data)
        assert (magic, version, reserved) == (b"gifgraph", 1, 0)
        self.rows, self.dimensions, low, up, blocks, self.highest, self.entry = struct.unpack_from("<7Q", data, 16)
        assert not any(data[72:128])
        self._data, self._end = data, 128
        self.vectors = self._array("i1", self.rows, self.dimensions)
        self.keys = self._array("<u4", self.rows, 1)[:, 0]
        self.offsets = self._array("<u4", self.rows + 1, 1)[:, 0].astype(int)
        self.lowest = self._array("<u4", self.rows, low)
        self.upper = self._array("<u4", blocks, up)
        assert self._end == len(data)

    def _array(self, dtype: str, rows: int, width: int) -> np.ndarray:
        start = -(-self._end // 64) * 64
        assert not any(self._data[self._end : start])
        self._end = start + rows * width * np.dtype(dtype).itemsize
        return np.frombuffer(self._data[start : self._end], dtype).reshape(rows, width)

    def level(self, slot: int) -> int:
        return int(self.offsets[slot + 1] - self.offsets[slot])

    def links(self, slot: int, level: int) -> list[int]:
        places = self.lowest[slot] if level == 0 else self.upper[self.offsets[slot] + level - 1]
        assert level <= self.level(slot)
        count = int((places != END).sum())
        assert (places[count:] == END).all()
        assert (places[:count] < self.rows).all()
        return [int(slot) for slot in places[:count]]

    def search(self, query: FloatArray, expansion: int, count: int, without: int = -1) -> list[int]:
        """Search with a beam of `expansion` nodes; return the rows of the best `count`, best first."""
        wide = query.astype(np.float64)
        whole = np.rint(wide / np.linalg.norm(wide) * 32767).astype(int)
        products = (self.vectors.astype(int) @ whole).tolist()
        absent = {slot for slot in range(self.rows) if self.keys[slot] == without}
        current = self.entry
        for level in range(self.highest, 0, -1):
            while True:
                here = -(2**63) if current in absent else products[current]
                others = [slot for slot in self.links(current, level) if slot not in absent]
                best = max(others, key=lambda slot: products[slot], default=current)
                if best == current or products[best] <= here:
                    break
                current = best
        kept = [] if current in absent else [(products[current], current)]
        frontier, visited = [(-products[current], -current)], {current} | absent
        while frontier:
            product, slot = heapq.heappop(frontier)
            if len(kept) == expansion and (-product, -slot) < kept[0]:
                break
            for link in self.links(-slot, 0):
                if link not in visited:
                    visited.add(link)
                    heapq.heappush(kept, (products[link], link))
                    heapq.heappush(frontier, (-products[link], -link))
                    if len(kept) > expansion:
                        heapq.heappop(kept)
        return [int(self.keys[slot]) for _, slot in sorted(kept, reverse=True)[:count]]
