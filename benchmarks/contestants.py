"""What benchmarks/lookup.py compares: our engines and other libraries.

Every library runs in one thread.
"""

from __future__ import annotations

import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vectors import Vectors

K = 10
EF = (10, 15, 20, 30, 40, 45, 50, 55, 60, 70, 80, 90, 100, 110, 120, 130, 140, 160, 200, 250, 320, 400, 500)
TREES = (10, 50, 100)
SEARCH_K = (1000, 2000, 3500, 5000, 10000, 20000, 30000, 40000, 50000, 60000, 70000, 80000, 100000)
# Values of num_candidates; engines use at least 15.
COUNTS = (15, 18, 20, 22, 25, 28, 30, 35, 40, 45, 50, 55, 60, 65, 70, 80, 100, 125, 150, 200, 250, 325, 400, 600, 800)
Search = Callable[[Vectors], Any]


class Contestant(ABC):
    """A library, or one of our engines, in one configuration. Libraries are imported at first use."""

    name = ""
    modules: Sequence[str] = ()
    ours = False
    batches = True  # whether a call accepts several vectors
    configuration = ""
    settings: Sequence[int | None] = EF

    @property
    def title(self) -> str:
        return f"{self.name} {self.configuration}".strip()

    @property
    def store(self) -> str:
        """The folder of its index; contestants with the same folder share the index."""
        return re.sub(r"\W+", "-", self.title)

    @abstractmethod
    def build(self, items: Vectors, folder: Path) -> None:
        """Write an index of the items into an empty folder."""

    @abstractmethod
    def open(self, folder: Path, dimensions: int) -> None:
        """Open what `build` wrote."""

    @abstractmethod
    def at(self, setting: int | None) -> Search:
        """Return the function to time, from one or several vectors to the library's own answer."""

    @abstractmethod
    def rows(self, answer: Any) -> list[list[int]]:
        """Return the rows of an answer, one list per query."""

    def bytes_on_disk(self, folder: Path) -> int:
        return size(folder)


class Annoy(Contestant):
    name, modules = "annoy", ("annoy",)
    settings = SEARCH_K
    batches = False

    def __init__(self, trees: int) -> None:
        self.trees = trees
        self.configuration = f"{trees} trees"

    def build(self, items: Vectors, folder: Path) -> None:
        from annoy import AnnoyIndex

        index = AnnoyIndex(items.shape[1], "angular")
        index.set_seed(1)
        for row, vector in enumerate(items):
            index.add_item(row, vector.tolist())
        index.build(self.trees, n_jobs=1)
        index.save(str(folder / "index.ann"))

    def open(self, folder: Path, dimensions: int) -> None:
        from annoy import AnnoyIndex

        self.index = AnnoyIndex(dimensions, "angular")
        self.index.load(str(folder / "index.ann"))

    def at(self, setting: int | None) -> Search:
        return lambda query: self.index.get_nns_by_vector(query.tolist(), K, setting, True)

    def rows(self, answer: Any) -> list[list[int]]:
        return [answer[0]]


class Graph(Contestant):
    """A graph of another library; all are built with the same parameters."""

    def __init__(self, links: int) -> None:
        self.links = links
        self.configuration = f"M={links}"


class Hnswlib(Graph):
    name, modules = "hnswlib", ("hnswlib",)

    def build(self, items: Vectors, folder: Path) -> None:
        import hnswlib

        index = hnswlib.Index("ip", items.shape[1])
        index.init_index(len(items), M=self.links, ef_construction=200)
        index.add_items(items, num_threads=1)
        index.save_index(str(folder / "index.hnswlib"))

    def open(self, folder: Path, dimensions: int) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", dimensions)
        self.index.load_index(str(folder / "index.hnswlib"))

    def at(self, setting: int | None) -> Search:
        def search(query: Vectors) -> Any:
            return self.index.knn_query(query, K, num_threads=1)

        self.index.set_ef(setting)
        return search

    def rows(self, answer: Any) -> list[list[int]]:
        return answer[0].tolist()


class FaissHnsw(Graph):
    name, modules = "faiss-hnsw", ("faiss",)

    def build(self, items: Vectors, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexHNSWFlat(items.shape[1], self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        index.add(items)
        faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path, dimensions: int) -> None:
        self.index = open_faiss(folder)

    def at(self, setting: int | None) -> Search:
        self.index.hnsw.efSearch = setting
        width = self.index.d
        return lambda query: self.index.search(query.reshape(-1, width), K)

    def rows(self, answer: Any) -> list[list[int]]:
        return answer[1].tolist()


class FaissFlat(Contestant):
    name, modules = "faiss-flat", ("faiss",)
    settings = (None,)

    def build(self, items: Vectors, folder: Path) -> None:
        import faiss

        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
        faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path, dimensions: int) -> None:
        self.index = open_faiss(folder)

    def at(self, setting: int | None) -> Search:
        width = self.index.d
        return lambda query: self.index.search(query.reshape(-1, width), K)

    def rows(self, answer: Any) -> list[list[int]]:
        return answer[1].tolist()


def open_faiss(folder: Path) -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    # Of faiss' two flags, only this one memory-maps flat vectors.
    return faiss.read_index(str(folder / "index.faiss"), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))


class Usearch(Graph):
    name, modules = "usearch", ("usearch.index",)

    def __init__(self, links: int) -> None:
        super().__init__(links)
        self.configuration += " f16"

    def empty(self, dimensions: int) -> Any:
        from usearch.index import Index

        return Index(ndim=dimensions, metric="ip", dtype="f16", connectivity=self.links, expansion_add=200)

    def build(self, items: Vectors, folder: Path) -> None:
        index = self.empty(items.shape[1])
        index.add(np.arange(len(items)), items, threads=1)
        index.save(str(folder / "index.usearch"))

    def open(self, folder: Path, dimensions: int) -> None:
        self.index = self.empty(dimensions)
        self.index.view(str(folder / "index.usearch"))

    def at(self, setting: int | None) -> Search:
        def search(query: Vectors) -> Any:
            return self.index.search(query, K, threads=1)

        self.index.expansion_search = setting
        return search

    def rows(self, answer: Any) -> list[list[int]]:
        return np.atleast_2d(answer.keys).tolist()


class Voyager(Graph):
    name, modules = "voyager", ("voyager",)

    def build(self, items: Vectors, folder: Path) -> None:
        from voyager import Index, Space, StorageDataType

        index = Index(
            Space.InnerProduct,
            items.shape[1],
            M=self.links,
            ef_construction=200,
            max_elements=len(items),
            storage_data_type=StorageDataType.Float32,
        )
        index.add_items(items, num_threads=1)
        index.save(str(folder / "index.voyager"))

    def open(self, folder: Path, dimensions: int) -> None:
        from voyager import Index

        self.index = Index.load(str(folder / "index.voyager"))

    def at(self, setting: int | None) -> Search:
        return lambda query: self.index.query(query, K, num_threads=1, query_ef=setting)

    def rows(self, answer: Any) -> list[list[int]]:
        return np.atleast_2d(answer[0]).tolist()


class Gifdex(Contestant):
    """One of our engines; a setting is num_candidates, or None for the number chosen by the build."""

    ours = True

    def __init__(self, engine: str, items: int | None = None, tuning: Vectors | None = None) -> None:
        """Take the number of items; settings go up to a quarter of it."""
        self.tuning = tuning
        self.engine = engine
        self.name = f"gifdex-{engine}"
        self.modules = ("gifdex.index.lookup",)
        sensible = (setting for setting in COUNTS if items is None or setting <= items // 4)
        self.settings = (None,) if engine == "exact" else (None, *sensible)

    @property
    def store(self) -> str:
        return "gifdex-hnsw" if self.engine == "hnsw" else "gifdex"

    def build(self, items: Vectors, folder: Path) -> None:
        build_gifdex(folder, [items], graph=self.engine == "hnsw", tuning=self.tuning)

    def open(self, folder: Path, dimensions: int) -> None:
        import gifdex

        self.index = gifdex.open(folder)

    def at(self, setting: int | None) -> Search:
        if self.engine == "exact":
            return lambda query: self.index.search(query, K, exact=True)
        return lambda query: self.index.search(query, K, engine=self.engine, num_candidates=setting)

    def rows(self, answer: Any) -> list[list[int]]:
        answers = answer if isinstance(answer[0], list) else [answer]
        return [[int(hit.id) for hit in hits] for hits in answers]

    def bytes_on_disk(self, folder: Path) -> int:
        """Return the bytes of the files that the engine needs; the scan reads its vectors from Annoy's file."""
        shards = self.index.manifest.fields["image"].shards
        needed = {name for shard in shards for name in (shard.vectors, shard.engines.get(self.engine))}
        others = {file for shard in shards for file in shard.engines.values()} - needed
        return size(folder) - sum((folder / file).stat().st_size for file in others)


def build_gifdex(
    folder: Path, shards: Iterable[Vectors], graph: bool, tuning: Vectors | None = None
) -> tuple[float, Any]:
    """Build a version as the pipeline does; return the seconds, without generating `shards`, and the manifest.

    `tuning` are realistic queries to tune engines with, in addition to the items.
    """
    from gifdex.index.build import (
        DEFAULT_ENGINES,
        FieldPlan,
        Origin,
        build_engines,
        finish_version,
        fit_reduction,
        write_items,
        write_rows,
    )
    from gifdex.index.engines.names import HNSW
    from gifdex.index.fields import JOINT_SPACE
    from gifdex.schemas.manifest import EncoderRecord, SpaceRecord

    engines = {**DEFAULT_ENGINES, **({HNSW: {}} if graph else {})}
    encoder = EncoderRecord("none", "0" * 16, 4)
    plan = FieldPlan(SpaceRecord(JOINT_SPACE, "2" * 16), engines)
    elapsed, counts, dimensions = 0.0, [], 0
    for number, shard in enumerate(shards):
        each = list(np.arange(len(shard)).reshape(-1, 1))  # one row per item
        started = time.perf_counter()
        write_rows(folder, "image", number, shard, each, len(shard))
        elapsed += time.perf_counter() - started
        counts.append(len(shard))
        dimensions = shard.shape[1]
    items, projection = any_items(sum(counts)), any_projection(dimensions)
    started = time.perf_counter()
    fit_reduction(folder, "image", range(len(counts)))
    fitted = time.perf_counter()
    for number in range(len(counts)):
        build_engines(folder, "image", number, engines)
    built = time.perf_counter()
    write_items(folder, items)
    manifest = finish_version(
        folder, Origin("0" * 16, encoder, "1" * 16, encoder), counts, {"image": plan}, projection, sentences=tuning
    )
    ended = time.perf_counter()
    print(
        f"  vectors {elapsed:.1f} s, reduction {fitted - started:.1f} s, engines {built - fitted:.1f} s, items, tuning "
        f"and checksums {ended - built:.1f} s",
        file=sys.stderr,
    )
    return elapsed + ended - started, manifest


def any_projection(dimensions: int) -> Any:
    """Return a projection for indexes that are not queried with sentences."""
    from gifdex.encoders.projections.linear import LinearProjection

    shapes = {"image_center": (4,), "image_map": (4, dimensions)}
    shapes |= {"text_center": (512,), "text_map": (512, dimensions)}
    return LinearProjection({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def any_items(count: int) -> Any:
    """Return a table of items whose ids are their rows."""
    import pyarrow as pa

    from gifdex.schemas import tables

    ids = [str(row) for row in range(count)]
    columns = {
        "id": pa.array(ids),
        "uri": pa.array([f"corpus/{row}.gif" for row in ids]),
        "sha256": pa.array([f"{row:064x}" for row in range(count)]),
    }
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in tables.ITEMS], tables.ITEMS)


def contestants(
    links: Sequence[int] = (16, 32), items: int | None = None, tuning: Vectors | None = None
) -> list[Contestant]:
    graphs = [kind(m) for kind in (Hnswlib, FaissHnsw, Usearch, Voyager) for m in links]
    ours = [Gifdex(engine, items, tuning) for engine in ("annoy", "scan", "hnsw", "exact")]
    return [*ours, *(Annoy(trees) for trees in TREES), *graphs, FaissFlat()]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
