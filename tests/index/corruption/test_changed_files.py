"""Files that change under an open index; cases that may crash run in a subprocess."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gifdex
from gifdex.index.engines import registry
from gifdex.index.engines.names import HNSW
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import MANIFEST_NAME

pytestmark = pytest.mark.heavy  # these tests start subprocesses


def test_a_file_replaced_before_an_engine_first_reads_it_is_refused(
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["fields"]["image"]["engine"] = "scan"
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    opened = gifdex.open(copy)
    graph = registry.kind(HNSW).file("image-00001", True)
    shutil.copy(version / graph, tmp_path / "new")
    (tmp_path / "new").replace(copy / graph)
    for _ in range(2):
        with pytest.raises(CorruptIndexError, match=f"{graph} was replaced while the index was being opened"):
            opened.search(np.ones(128), engine="hnsw")
    assert len(opened.search(np.ones(128))) == 10


REPLACER = """
import json, os, shutil, sys
import numpy as np
import gifdex
from gifdex.index.evaluation import engine_recall
for line in sys.stdin:
    copy, name, other, how = json.loads(line)
    path = os.path.join(copy, name)
    index = gifdex.open(copy)
    for engine in index.engines:
        index.prepare(engine)
    queries = np.random.default_rng(1).standard_normal((30, index.dimensions))
    def ask():
        ways = ({}, {"exact": True}, {"engine": "annoy"}, {"fields": {"image": 1, "caption": 1}})
        found = [index.search(query, 5, **way) for query in queries for way in ways]
        return found + [index.search(query[:8], 5, fields={"features": 1}) for query in queries]
    before = ask()
    if how == "rename":
        shutil.copy(other, path + ".new"); os.replace(path + ".new", path)
    elif how == "unlink":
        os.unlink(path)
    elif how == "truncate":
        os.truncate(path, os.path.getsize(path) // 2)
    elif how == "empty":
        open(path, "wb").close()
    elif how == "copy":
        shutil.copyfile(other, path)
    others = [
        lambda: index.ids,
        lambda: index.columns,
        lambda: index.fusion().ranks(queries[:1].astype(np.float32), np.array([3])),
        lambda: engine_recall(index.fusion(), queries[:2].astype(np.float32)),
    ]
    try:
        outcome = "same" if ask() == before else "other answers"
        [other() for other in others]
    except gifdex.GifdexError as err:
        outcome = f"{type(err).__name__}: {err}"
        for other in others:
            try:
                other()
                outcome = "answered after all"
            except gifdex.GifdexError:
                pass
    print(outcome.replace("\\n", " "), flush=True)
"""


def test_files_replaced_under_an_open_index_are_harmless_or_raise_one_error(
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    in_memory = (".json", ".safetensors", ".rows.arrow")
    mapped = sorted(path.name for path in version.iterdir() if not path.name.endswith(in_memory))
    assert len(mapped) == 1 + 2 * (3 + 3 + 1)  # items, and each shard's files of image, caption and features
    cases = [(name, how) for name in mapped for how in ("rename", "unlink", "truncate", "empty", "copy")]
    requests = []
    for number, (name, how) in enumerate(cases):
        copy = shutil.copytree(version, tmp_path / str(number) / version.name)
        requests.append(json.dumps([str(copy), name, str(other_version / name), how]))
    done = subprocess.run(
        [sys.executable, "-c", REPLACER], input="\n".join(requests), capture_output=True, text=True, check=False
    )
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == len(cases), f"{cases[len(outcomes)]} ended the process: {done.returncode} {done.stderr}"
    for (name, how), outcome in zip(cases, outcomes, strict=True):
        if how in ("rename", "unlink"):
            assert outcome == "same", (name, how)
        else:
            assert outcome.startswith("CorruptIndexError: "), (name, how, outcome)
            assert f"{name} was changed in place while the index was open" in outcome


@pytest.mark.parametrize("name", ["image.reduction.safetensors", "projection.safetensors", "image-00000.rows.arrow"])
@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))], ids=["gone", "rewritten"]
)
def test_files_read_into_memory_may_change_or_vanish_under_an_open_index(
    tmp_path: Path, version: Path, name: str, change: Callable[[Path], object]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    opened, queries = gifdex.open(copy), np.random.default_rng(1).standard_normal((30, 128))

    def ask() -> list[object]:
        ways: list[dict[str, Any]] = [{"exact": True}, *({"engine": engine} for engine in opened.engines)]
        by_vector = [opened.search(query, 5, **how) for query in queries for how in ways]
        return [*by_vector, opened.search("a cat playing the piano", 5)]

    before = ask()
    change(copy / name)
    assert ask() == before
