"""plain_reader.py STORE QUERIES.npy: the ten best ids and cosines for each query, by docs/index-format.md only."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from annoy import AnnoyIndex
from safetensors.numpy import load_file


class PlainReader:
    def __init__(self, store: str, field: str = "image") -> None:
        version = Path(store) / (Path(store) / "CURRENT").read_text(encoding="ascii").strip()
        manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
        if (manifest["format"], manifest["format_version"]) != ("gifdex-index", 4):
            raise ValueError(f"{version} has format version {manifest['format_version']}, expected 4")
        for name, file in manifest["files"].items():
            if Path(name).name != name or (version / name).stat().st_size != file["bytes"]:
                raise ValueError(f"{version / name} is not of {file['bytes']} bytes")
        record = manifest["fields"][field]
        self.rows, self.candidates = record["rows"], record["engines"]["annoy"]["num_candidates"]
        seen, reduced = record["engines"]["annoy"]["dimensions"], record["reduction"] is not None
        tensors = load_file(version / record["reduction"]["file"]) if reduced else {"directions": np.eye(seen)}
        self.directions = tensors["directions"][:, :seen].astype(np.float32)
        self.tail, metric, words = ([0.0], "euclidean", 5 + seen) if reduced else ([], "angular", 3 + seen)
        self.ids = pa.ipc.open_file(pa.memory_map(str(version / manifest["items_file"]))).read_all()["id"]
        self.shards = []
        for shard in record["shards"]:
            vectors = np.load(version / shard["vectors"], mmap_mode="r", allow_pickle=False)
            nodes, rest = divmod((version / shard["engines"]["annoy"]).stat().st_size, 4 * words)
            if vectors.shape != (shard["rows"], record["dimensions"]) or rest or nodes <= shard["rows"]:
                raise ValueError(f"{version} has a shard whose files do not fit {shard['rows']} rows")
            trees = AnnoyIndex(seen + len(self.tail), metric)
            trees.load(str(version / shard["engines"]["annoy"]))
            items = [[row] for row in range(shard["rows"])]
            if shard["row_items"]:
                items = pa.ipc.open_file(str(version / shard["row_items"])).read_all()["items"].to_pylist()
            self.shards.append((vectors, trees, items, shard["first_item"]))

    def search(self, query: np.ndarray, k: int = 10) -> list[tuple[str, float]]:
        unit = (query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))).astype(np.float32)
        count = max(k + k // 2, math.ceil(self.candidates * math.sqrt(max(k, 10) / 10)))
        reduced, answers = [*(unit @ self.directions).tolist(), *self.tail], []
        for vectors, trees, items, first in self.shards:
            asked, found = min(count, len(vectors)), range(len(vectors))
            if self.rows > 512 and 2 * count * len(self.shards) < self.rows:
                found = trees.get_nns_by_vector(reduced, asked, min(128 * asked, 2**31 - 1))
            cosines = np.clip(np.einsum("ij,j->i", vectors[found].astype(np.float64), unit.astype(np.float64)), -1, 1)
            pairs = zip(found, cosines.tolist(), strict=True)
            answers += [(-cosine, first + item) for row, cosine in pairs for item in items[row]]
        return [(self.ids[item].as_py(), -negative) for negative, item in sorted(answers)[:k]]


if __name__ == "__main__":
    reader = PlainReader(sys.argv[1])
    sys.stdout.write(json.dumps([reader.search(query) for query in np.load(sys.argv[2])]) + "\n")
