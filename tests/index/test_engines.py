"""What every engine must do: each registered one is built, opened, queried and damaged in the same way."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import registry
from gifdex.index.engines.base import Engine, Shape
from gifdex.index.engines.names import ANNOY, HNSW, SCAN
from gifdex.index.vectors import write_npy
from gifdex.schemas.errors import CorruptIndexError, QueryError
from gifdex.schemas.manifest import EngineRecord, RecallRecord

ROWS, DIMENSIONS = 500, 16
STEM = "image-00000"
# For small builds; the other engines have no parameters.
PARAMETERS = {ANNOY: {"trees": 3}, HNSW: {"connectivity": 4, "expansion_add": 32}}


@dataclass(frozen=True)
class Built:
    """One engine over ROWS vectors, its file and the other files that it reads."""

    name: str
    folder: Path
    record: EngineRecord
    shape: Shape

    @property
    def path(self) -> Path:
        return self.folder / registry.kind(self.name).file(STEM, self.shape.reduced)

    def open(self, rows: int = ROWS) -> Engine:
        return registry.kind(self.name).open(self.path, rows, self.record)


@pytest.fixture(scope="module")
def leading(spectral: Callable[..., FloatArray]) -> FloatArray:
    """The first 16 of 64 dimensions of unit vectors, so their lengths differ and are below 1."""
    return np.ascontiguousarray(spectral(ROWS, 64)[:, :DIMENSIONS])


@pytest.fixture(scope="module")
def whole(clustered: Callable[..., FloatArray]) -> FloatArray:
    """Unit vectors that are not reduced."""
    return clustered(ROWS)


def build(name: str, folder: Path, vectors: FloatArray, reduced: bool) -> Built:
    """Build an engine and, as a real build does, an engine whose file it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    dimensions = 64 if reduced else DIMENSIONS
    shape = Shape(dimensions, reduced, scanned=DIMENSIONS, kept=DIMENSIONS)
    if not reduced:
        write_npy(folder / f"{STEM}.vectors.npy", vectors, "a test")
    record = registry.kind(name).describe(shape, PARAMETERS.get(name, {}))
    registry.kind(name).build(folder, STEM, vectors, record)
    if not (folder / registry.kind(name).file(STEM, reduced)).exists():  # it reads another engine's file
        build(ANNOY, folder, vectors, reduced)
    return Built(name, folder, record, shape)


@pytest.fixture(params=registry.names())
def name(request: pytest.FixtureRequest) -> str:
    """The name of each engine in turn."""
    found: str = request.param
    return found


@pytest.fixture(params=["reduced", "whole"])
def reduced(request: pytest.FixtureRequest) -> bool:
    """Whether the vectors are the leading dimensions of unit vectors."""
    return bool(request.param == "reduced")


@pytest.fixture
def seen(reduced: bool, leading: FloatArray, whole: FloatArray) -> FloatArray:
    """The vectors that the engine sees."""
    return leading if reduced else whole


@pytest.fixture
def built(name: str, reduced: bool, tmp_path: Path, seen: FloatArray) -> Built:
    """Each engine, over reduced and over full vectors."""
    return build(name, tmp_path / "built", seen, reduced)


@pytest.fixture
def engine(built: Built) -> Engine:
    """Each engine, opened."""
    return built.open()


def near(seen: FloatArray, count: int, seed: int = 3) -> FloatArray:
    """Draw queries from the distribution of the vectors."""
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)) * seen.std(axis=0)
    queries: FloatArray = drawn.astype(np.float32)
    return queries


def test_candidates_are_distinct_rows_for_each_query(engine: Engine, seen: FloatArray) -> None:
    found = engine.candidates(seen[::50], 30)
    assert len(found) == 10
    for rows in found:
        assert rows.dtype == np.int64
        assert len(rows) == len(set(rows.tolist()))
        assert 30 <= len(rows) <= 60
        assert rows.min() >= 0
        assert rows.max() < ROWS


def test_candidates_have_the_highest_products(engine: Engine, seen: FloatArray) -> None:
    queries = near(seen, 50)
    best = np.argsort(-(queries @ seen.T), axis=1)[:, :10]
    found = engine.candidates(queries, 60)
    shares = [len(set(rows.tolist()) & set(b.tolist())) / 10 for rows, b in zip(found, best, strict=True)]
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("count", [ROWS, ROWS + 1, 10**9])
def test_asking_for_more_candidates_than_rows_gives_all_rows(built: Built, seen: FloatArray, count: int) -> None:
    found = sorted(built.open().candidates(seen[:1], count)[0].tolist())
    # A graph may have unreachable nodes; an index scans when it needs this many candidates.
    assert found == list(range(ROWS)) or (built.name == HNSW and len(found) > 0.9 * ROWS)


def test_a_batch_gives_the_same_candidates_as_single_queries(engine: Engine, seen: FloatArray) -> None:
    queries = seen[:40] + np.random.default_rng(4).normal(0, 0.1, (40, DIMENSIONS)).astype(np.float32)
    batch = engine.candidates(queries, 20)
    single = [engine.candidates(query[None], 20)[0] for query in queries]
    assert [sorted(rows.tolist()) for rows in batch] == [sorted(rows.tolist()) for rows in single]
    assert list(engine.candidates(queries[:0], 20)) == []


def test_four_threads_get_the_candidates_that_one_gets(engine: Engine, seen: FloatArray) -> None:
    def ask(_: int) -> list[list[int]]:
        return [rows.tolist() for _ in range(20) for rows in engine.candidates(seen[:50], 25)]

    expected = ask(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(ask, range(8)))


def test_an_excluded_row_takes_no_candidates_place(engine: Engine, seen: FloatArray) -> None:
    own = np.arange(0, ROWS, 25)
    with_it = engine.candidates(seen[own], 30)
    assert all(row in rows for row, rows in zip(own, with_it, strict=True))
    without = engine.candidates(seen[own], 30, own)
    for row, rows in zip(own, without, strict=True):
        assert row not in rows
        assert len(rows) == len(set(rows.tolist()))
        assert 30 <= len(rows) <= 62
        assert rows.min() >= 0
        assert rows.max() < ROWS
    best = np.argsort(-(seen[own] @ seen.T), axis=1)[:, :11]
    others = [set(row.tolist()) - {one} for row, one in zip(best, own.tolist(), strict=True)]
    shares = [len(them & set(rows.tolist())) / len(them) for them, rows in zip(others, without, strict=True)]
    assert np.mean(shares) >= 0.95


def test_each_query_excludes_its_own_row_or_none(engine: Engine, seen: FloatArray) -> None:
    queries, rows = seen[[7, 8, 9]], np.array([7, -1, 9])
    found = engine.candidates(queries, 20, rows)
    assert [row in mine for row, mine in zip((7, 8, 9), found, strict=True)] == [False, True, False]
    none = engine.candidates(queries, 20, np.full(3, -1))
    assert all(row in mine for row, mine in zip((7, 8, 9), none, strict=True))


def test_all_candidates_without_a_row_are_all_other_rows(built: Built, seen: FloatArray) -> None:
    found = built.open().candidates(seen[:1], ROWS, np.array([0]))[0].tolist()
    assert 0 not in found
    assert sorted(found) == list(range(1, ROWS)) or (built.name == HNSW and len(found) > 0.9 * ROWS)


def test_one_row_is_enough(name: str, reduced: bool, tmp_path: Path, seen: FloatArray) -> None:
    one = build(name, tmp_path / "one", seen[:1], reduced).open(1)
    assert [rows.tolist() for rows in one.candidates(seen[:2], 5)] == [[0], [0]]
    assert [rows.tolist() for rows in one.candidates(seen[:1], 5, np.array([0]))] == [[]]


def test_same_vectors_give_the_same_bytes(
    built: Built, name: str, reduced: bool, tmp_path: Path, seen: FloatArray
) -> None:
    again = build(name, tmp_path / "again", seen.copy(order="F"), reduced)
    assert built.path.read_bytes() == again.path.read_bytes()
    assert (built.record, built.path.name) == (again.record, again.path.name)


def test_build_leaves_no_unfinished_file(built: Built) -> None:
    found = {path.name for path in built.folder.iterdir()}
    assert found <= {built.path.name, f"{STEM}.vectors.npy", f"{STEM}.ann"}


def test_check_and_open_refuse_other_counts(built: Built) -> None:
    kind = registry.kind(built.name)
    kind.check(built.path, ROWS, built.record)
    for rows in (1, ROWS - 1, ROWS + 1, 2**40):
        for refuse in (kind.check, kind.open):
            with pytest.raises(CorruptIndexError, match=str(built.path)):
                refuse(built.path, rows, built.record)
    for dimensions in (1, DIMENSIONS - 1, DIMENSIONS + 1, 2**20):
        with pytest.raises(CorruptIndexError, match=str(built.path)):
            kind.open(built.path, ROWS, replace(built.record, dimensions=dimensions))


def test_a_truncated_longer_or_missing_file_is_refused(built: Built) -> None:
    kind, intact = registry.kind(built.name), built.path.read_bytes()
    sizes = [0, 1, 7, 8, *range(100, len(intact), len(intact) // 30), len(intact) - 1]
    for data in (*(intact[:size] for size in sizes), *([] if built.path.suffix == ".npy" else [intact + b"\0"])):
        built.path.write_bytes(data)
        with pytest.raises(CorruptIndexError, match=str(built.path)):
            kind.check(built.path, ROWS, built.record)
        with pytest.raises(CorruptIndexError, match=str(built.path)):
            kind.open(built.path, ROWS, built.record)
    built.path.unlink()
    for refuse in (kind.check, kind.open):
        with pytest.raises(CorruptIndexError, match=str(built.path)):
            refuse(built.path, ROWS, built.record)


def test_altered_bytes_are_refused_or_give_rows(built: Built, seen: FloatArray) -> None:
    intact, random = built.path.read_bytes(), np.random.default_rng(1)
    places = [*range(0, 200, 7), *random.integers(0, len(intact), 60).tolist()]
    with built.path.open("r+b") as stream:
        for at in places:
            os.pwrite(stream.fileno(), bytes([intact[at] ^ 0xFF]), at)
            try:
                found = built.open().candidates(seen[:20], 50)
            except CorruptIndexError:
                continue
            finally:
                os.pwrite(stream.fileno(), intact[at : at + 1], at)
            # The scorer checks each row again, and refuses invalid and repeated rows.
            assert all(rows.dtype == np.int64 for rows in found)
            assert built.name != ANNOY or all(0 <= row < ROWS for rows in found for row in rows.tolist())


def test_a_manifest_record_of_another_engine_is_a_problem(built: Built) -> None:
    kind = registry.kind(built.name)
    assert kind.problem(built.record, built.shape) is None
    assert "metric" in (kind.problem(replace(built.record, metric="hamming"), built.shape) or "")


def test_a_description_has_the_parameters_and_no_measurements(name: str, built: Built) -> None:
    kind, record = registry.kind(name), built.record
    assert record == kind.describe(built.shape, PARAMETERS.get(name, {}))
    assert record.parameters.items() >= PARAMETERS.get(name, {}).items()
    assert (record.num_candidates, record.vector_recall, record.sentence_recall) == (0, RecallRecord(0, {}), None)
    assert record.dimensions == DIMENSIONS
    assert kind.package
    assert 0.9 <= kind.tuning.target <= 1.0
    kind.require()
    with pytest.raises(ValueError, match=f"the engine {name} has no parameter 'colour'"):
        kind.describe(built.shape, {"colour": 3})


def test_library_versions_are_those_installed(built: Built) -> None:
    assert built.record.library_version[:2] in ("1.", "2.")


def records(**num_candidates: int) -> dict[str, EngineRecord]:
    """Records of engines over 64 of 128 dimensions that need this many candidates."""
    shape = Shape(128, True, 64, 64)
    return {
        name: replace(registry.kind(name).describe(shape, {}), num_candidates=count)
        for name, count in num_candidates.items()
    }


@pytest.mark.parametrize(
    ("engines", "rows", "shards", "reduced", "batch", "expected"),
    [
        (records(annoy=100, scan=100, hnsw=50), 100_000, 1, True, False, HNSW),
        (records(annoy=100, scan=100, hnsw=50), 4_000, 1, True, True, SCAN),  # few rows: a product is faster
        (records(annoy=100, scan=100), 100_000, 1, True, False, SCAN),
        (records(annoy=100, scan=100), 10_000_000, 1, True, False, ANNOY),
        (records(annoy=100, scan=100), 5_000_000, 1, True, True, SCAN),
        (records(annoy=100, scan=100), 1_000_000, 1, False, False, ANNOY),
        (records(annoy=100), 100, 1, True, False, ANNOY),
        # The scan is the default where an engine would have to examine more than an eighth of the rows.
        (records(annoy=100, scan=100, hnsw=12_500), 100_000, 1, True, False, HNSW),
        (records(annoy=100, scan=100, hnsw=12_501), 100_000, 1, True, False, SCAN),
        (records(annoy=100, scan=100, hnsw=6_251), 100_000, 2, True, False, SCAN),
        (records(annoy=10**7, scan=100), 10**7, 1, True, False, SCAN),
        (records(annoy=10**7), 10**7, 1, True, False, ANNOY),
        ({}, 100, 1, False, False, None),
    ],
)
def test_the_default_engine_follows_from_counts(
    engines: dict[str, EngineRecord], rows: int, shards: int, reduced: bool, batch: bool, expected: str | None
) -> None:
    assert registry.default(engines, rows, shards, reduced=reduced, batch=batch) == expected
    backwards = dict(reversed(engines.items()))
    assert registry.default(backwards, rows, shards, reduced=reduced, batch=batch) == expected


def test_the_registry_has_names_and_kinds() -> None:
    assert registry.names() == (HNSW, SCAN, ANNOY)
    assert registry.DEFAULTS == (ANNOY, SCAN)
    assert [kind.name for kind in registry.kinds([ANNOY, HNSW])] == [HNSW, ANNOY]
    assert [registry.is_optional(name) for name in (HNSW, ANNOY, "faiss")] == [True, False, False]
    with pytest.raises(QueryError, match="there is no engine 'faiss'; expected one of hnsw, scan, annoy"):
        registry.kind("faiss")
