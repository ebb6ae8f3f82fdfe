from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import store
from gifdex.index.lookup import Index
from gifdex.schemas.errors import EncoderError, IndexNotFoundError
from gifdex.schemas.manifest import MANIFEST_NAME

DIMENSIONS = 16
SENTENCE = "a cat playing the piano"


def test_an_index_describes_itself(index: Index, version: Path) -> None:
    assert (len(index), index.dimensions, len(index.ids)) == (700, DIMENSIONS, 700)
    assert repr(index) == f"<gifdex.Index {version} (700 items)>"


def test_threads_share_one_text_encoder(version: Path) -> None:
    fresh = gifdex.open(version)
    ready = threading.Barrier(4)

    def load(_: int) -> int:
        ready.wait()
        return id(fresh._embedder._loaded())

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load, range(4)))) == 1


def test_an_open_index_outlives_its_version(
    tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> None:
    old = make_version(tmp_path / "00000000000000aa", clustered(500, seed=1))
    store.publish(tmp_path, old.name)
    opened = gifdex.open(tmp_path)
    queries = clustered(20, seed=3)
    assert opened.engine in ("annoy", "scan")
    before = [opened.search(queries, 5), opened.search(queries, 5, exact=True)]
    new = make_version(tmp_path / "00000000000000bb", clustered(400, seed=2))
    store.publish(tmp_path, new.name)
    shutil.rmtree(old)
    assert [opened.search(queries, 5), opened.search(queries, 5, exact=True)] == before
    assert opened.search(SENTENCE, 3)
    assert (len(opened), len(gifdex.open(tmp_path))) == (500, 400)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"fingerprint": "f" * 16},
            r"with the text encoder use-multilingual \(f{16}\), but the query would be encoded by use-multilingual \(",
        ),
        ({"name": "word-salad"}, "no text encoder 'word-salad'"),
    ],
)
def test_another_text_encoder_than_the_builds_is_refused(
    tmp_path: Path, version: Path, facts: dict[str, str], message: str
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["text_encoder"].update(facts)
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    opened = gifdex.open(copy)
    with pytest.raises(EncoderError, match=message):
        opened.search(SENTENCE)
    assert opened.search(np.ones(DIMENSIONS))


def test_the_path_may_be_a_string_or_a_versions_folder(version: Path) -> None:
    assert gifdex.open(str(version)).path == version


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent", "does not exist"),
        ("file", "is a file"),
        ("empty", "holds neither CURRENT nor manifest.json"),
        ("a" * 300, "cannot access"),
        ("file/below", "does not exist"),
        ("null\0byte", "does not exist"),
        ("empty/unfinished", "holds neither CURRENT nor manifest.json"),
    ],
)
def test_a_path_without_an_index_is_an_error_that_says_what_is_there(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_bytes(b"GIF89a")
    (tmp_path / "empty" / "unfinished").mkdir(parents=True)
    (tmp_path / "empty" / "unfinished" / "shard-00000.ann").write_bytes(b"\0" * 64)
    with pytest.raises(IndexNotFoundError, match=message):
        gifdex.open(tmp_path / place)


def test_opening_a_workspace_points_to_its_store(tmp_path: Path, version: Path) -> None:
    shutil.copytree(version, tmp_path / "index" / version.name)
    store.publish(tmp_path / "index", version.name)
    with pytest.raises(IndexNotFoundError, match=f"is a workspace, not an index store: use {tmp_path}/index"):
        gifdex.open(tmp_path)
    assert len(gifdex.open(tmp_path / "index")) == 700
