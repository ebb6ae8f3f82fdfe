"""plain_reader.py STORE QUERIES.npy: ten best ids and cosines a query, after docs/index-format.md alone."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from annoy import AnnoyIndex
from safetensors.numpy import load_file


class PlainReader:
    def __init__(self, store: str) -> None:
        version = Path(store) / (Path(store) / "CURRENT").read_text(encoding="ascii").strip()
        manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
        if (manifest["format"], manifest["format_version"]) != ("gifdex-index", 2):
            raise ValueError(f"{version} has format version {manifest['format_version']}, expected 2")
        for name, facts in manifest["files"].items():
            if Path(name).name != name or (version / name).stat().st_size != facts["bytes"]:
                raise ValueError(f"{version / name} is not of {facts['bytes']} bytes")
        self.shape = manifest["items"], manifest["dimensions"]
        self.effort, seen = manifest["engines"]["annoy"]["effort"], manifest["engines"]["annoy"]["dimensions"]
        reduced = manifest["reduction"] is not None
        tensors = load_file(version / manifest["reduction"]["file"]) if reduced else {"directions": np.eye(seen)}
        self.directions = tensors["directions"][:, :seen].astype(np.float32)
        self.tail, metric, words = ([0.0], "euclidean", 5 + seen) if reduced else ([], "angular", 3 + seen)
        self.ids = pa.ipc.open_file(pa.memory_map(str(version / manifest["items_file"]))).read_all()["id"]
        self.shards = []
        for shard in manifest["shards"]:
            vectors = np.load(version / shard["vectors"], mmap_mode="r", allow_pickle=False)
            nodes, rest = divmod((version / shard["engines"]["annoy"]).stat().st_size, 4 * words)
            if vectors.shape != (shard["items"], self.shape[1]) or rest or nodes <= shard["items"]:
                raise ValueError(f"{version} has a shard whose files do not fit {shard['items']} items")
            trees = AnnoyIndex(seen + len(self.tail), metric)
            trees.load(str(version / shard["engines"]["annoy"]))
            self.shards.append((vectors, trees))

    def search(self, query: np.ndarray, k: int = 10) -> list[tuple[str, float]]:
        unit = (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
        count = max(k + k // 2, math.ceil(self.effort * math.sqrt(max(k, 10) / 10)))
        reduced, rows, scores, first = [*(unit @ self.directions).tolist(), *self.tail], [], [], 0
        for vectors, trees in self.shards:
            asked, found = min(count, len(vectors)), range(len(vectors))
            if 2 * count * len(self.shards) < self.shape[0]:
                found = trees.get_nns_by_vector(reduced, asked, min(128 * asked, 2**31 - 1))
            rows.append(first + np.asarray(found, np.int64))
            scores.append(np.einsum("ij,j->i", vectors[found].astype(np.float64), unit.astype(np.float64)))
            first += len(vectors)
        places, cosines = np.concatenate(rows), np.clip(np.concatenate(scores), -1, 1)
        best = np.lexsort((places, -cosines))[:k]
        return [(self.ids[int(places[at])].as_py(), float(cosines[at])) for at in best]


if __name__ == "__main__":
    reader = PlainReader(sys.argv[1])
    sys.stdout.write(json.dumps([reader.search(query) for query in np.load(sys.argv[2])]) + "\n")
