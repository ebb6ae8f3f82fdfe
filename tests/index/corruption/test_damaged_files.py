"""Damaged indexes are opened in a subprocess, so that a crash there fails one test and does not end the run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.index import artifact
from gifdex.index.engines import registry
from gifdex.index.engines.names import HNSW
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import FORMAT_VERSION, MANIFEST_NAME

pytestmark = pytest.mark.heavy  # these tests damage every file

GRAPHS = tuple(registry.kind(HNSW).file(f"image-0000{shard}", True) for shard in (0, 1))
FILES = (
    "items.arrow",
    "projection.safetensors",
    "image.reduction.safetensors",
    "image-00000.ann",
    "image-00000.rows.arrow",
    "image-00000.vectors.npy",
    "image-00001.ann",
    "image-00001.rows.arrow",
    "image-00001.vectors.npy",
    *GRAPHS,
    "caption-00000.rows.arrow",
    "features-00000.vectors.npy",
)
# Prints one line per index: the error's class, or the answers; "raw" marks any error but a GifdexError.
OPENER = """
import json, sys
import numpy as np
import gifdex
verify = json.loads(sys.argv[1])
for line in sys.stdin:
    try:
        index = gifdex.open(line.rstrip("\\n"), verify=verify)
        query = np.linspace(-1, 1, index.dimensions)
        hits = index.search(query, 5, exact=True)
        for engine in index.engines:
            hits += index.search(query, 5, engine=engine, num_candidates=100)
        hits += index.search(query, 5, fields={"image": 1.0, "caption": 0.5})
        hits += index.search(query, 50, fields={"caption": 1.0})
        hits += index.search(query[:8], 5, fields={"features": 1.0})
        hits += index.search(np.stack([query, -query]), 5)[0]
        hits += index.search(query, 5, where={"tags": "a"})
        outcome = "opened " + repr([(hit.id, hit.uri, round(hit.score, 5)) for hit in hits])
    except gifdex.GifdexError as err:
        outcome = type(err).__name__
        if "\\n" in str(err):
            outcome = "raw message of several lines: " + repr(str(err))
    except Exception as err:
        outcome = f"raw {type(err).__name__}: {err!r}"
    print(outcome.replace("\\n", " "), flush=True)
"""


Damage = Callable[[Path], object]


def open_all(folders: Mapping[str, Path], verify: bool = True) -> dict[str, str]:
    """Open and query each index in one subprocess; return each outcome."""
    done = subprocess.run(
        [sys.executable, "-c", OPENER, json.dumps(verify)],
        input="".join(f"{folder}\n" for folder in folders.values()),
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == len(folders), (
        f"{list(folders)[len(outcomes)]} ended the process: {done.returncode} {done.stderr}"
    )
    return dict(zip(folders, outcomes, strict=True))


def damaged_copies(version: Path, below: Path, damages: Mapping[str, tuple[str, Damage]]) -> dict[str, Path]:
    """Copy the version once for each (file, damage); only the damaged file takes space."""
    copies = {}
    for number, (case, (name, damage)) in enumerate(damages.items()):
        copy = below / str(number) / version.name
        copy.mkdir(parents=True)
        for path in version.iterdir():
            if path.name == name:
                shutil.copy(path, copy)
            else:
                os.link(path, copy / path.name)
        damage(copy / name)
        copies[case] = copy
    return copies


def truncate(length: float) -> Damage:
    """Keep this share of the bytes, or all but the last one where `length` is negative."""
    return lambda path: os.truncate(path, path.stat().st_size - 1 if length < 0 else int(length * path.stat().st_size))


def extend(data: bytes) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes() + data)


def flip(place: float) -> Damage:
    """Invert one byte: at this share of the file's length where `place` is below 1, else at this offset."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * len(data)) if place < 1 else int(place)] ^= 0xFF
        path.write_bytes(data)

    return damage


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by(other: Path) -> Damage:
    return lambda path: shutil.copy(other / path.name, path)


@pytest.fixture(scope="module")
def intact(version: Path) -> str:
    """The outcome of the undamaged version."""
    return open_all({"intact": version})["intact"]


def damages(other: Path, names: Iterable[str]) -> dict[str, tuple[str, Damage]]:
    kinds: dict[str, Damage] = {
        "truncated to nothing": truncate(0),
        "truncated to a tenth": truncate(0.1),
        "truncated to a half": truncate(0.5),
        **{f"truncated to {share:.0%}": truncate(share) for share in np.linspace(0.02, 0.98, 13)},
        "short of one byte": truncate(-1),
        "one byte longer": extend(b"\0"),
        "some nodes longer": extend(b"\0" * 76 * 3),
        "deleted": Path.unlink,
        "a folder": become_folder,
        "a pipe": become_pipe,
        "another version's": replace_by(other),
        "first byte altered": flip(0),
        "header altered": flip(20),
        "middle altered": flip(0.5),
        "last byte altered": flip(1 - 1e-9),
    }
    return {f"{name} {kind}": (name, damage) for name in names for kind, damage in kinds.items()}


def test_every_damage_to_a_file_is_found_on_opening(
    tmp_path: Path, version: Path, other_version: Path, intact: str
) -> None:
    copies = damaged_copies(version, tmp_path, damages(other_version, FILES))
    assert intact.startswith("opened [('gif-")
    assert {case: came for case, came in open_all(copies).items() if came != "CorruptIndexError"} == {}


def test_verify_names_the_file_with_an_altered_byte(tmp_path: Path, version: Path) -> None:
    names = sorted(path.name for path in version.iterdir() if path.name != MANIFEST_NAME)
    assert set(names) >= set(FILES)
    cases = {f"{name} {place}": (name, flip(place)) for name in names for place in (0, 0.3, 1 - 1e-9)}
    for case, copy in damaged_copies(version, tmp_path, cases).items():
        with pytest.raises(CorruptIndexError, match=f"{cases[case][0]} has SHA-256 .* its bytes were altered"):
            artifact.verify(copy)
    assert artifact.verify(version).items == 4000


def test_without_hashing_a_file_of_the_wrong_size_is_still_never_mapped(
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    told_by_size = ("truncated", "short", "longer", "deleted", "folder", "pipe")
    cases = {
        case: damage
        for case, damage in damages(other_version, FILES).items()
        if any(word in case for word in told_by_size)
    }
    found = open_all(damaged_copies(version, tmp_path, cases), verify=False)
    assert {case: came for case, came in found.items() if came != "CorruptIndexError"} == {}


@pytest.mark.heavy
@pytest.mark.parametrize("name", FILES)
def test_without_hashing_altered_bytes_never_crash_and_verify_finds_them(
    tmp_path: Path, version: Path, name: str
) -> None:
    size = (version / name).stat().st_size
    # Headers, ends and places between; fewer in the second shard's files, which are read like the first one's.
    step, count = (12, 40) if "-00001" in name else (3, 150)
    places = {*range(0, min(size, 160), step), *range(max(0, size - 160), size, step)}
    places |= set(np.linspace(0, size - 1, count, dtype=int).tolist())
    cases: dict[str, tuple[str, Damage]] = {f"at {at}": (name, flip(at)) for at in sorted(places) if at >= 1}
    copies = damaged_copies(version, tmp_path, cases)
    found = open_all(copies, verify=False)
    allowed = ("opened", "CorruptIndexError")
    assert {case: came for case, came in found.items() if not came.startswith(allowed)} == {}
    for case, copy in copies.items():
        with pytest.raises(CorruptIndexError, match=f"{name} has SHA-256"):
            artifact.check_hashes(copy, artifact.read_manifest(version))
        assert case in found


def test_without_hashing_another_versions_engine_files_change_no_score(
    tmp_path: Path, version: Path, other_version: Path, vouch_for: Callable[..., None]
) -> None:
    manifest = artifact.read_manifest(version)
    opened = gifdex.open(version)
    queries = np.random.default_rng(0).standard_normal((20, opened.dimensions))
    exact = [{hit.id: hit.score for hit in hits} for hits in opened.search(queries, len(opened), exact=True)]
    image = manifest.fields["image"]
    for name in {name for shard in image.shards for name in shard.engines.values()}:
        copy = shutil.copytree(version, tmp_path / name / version.name)
        shutil.copy(other_version / name, copy)
        vouch_for(copy, name)  # the manifest then has its size and hash
        swapped = gifdex.open(copy)
        for engine in swapped.engines:
            for scores, hits in zip(exact, swapped.search(queries, 5, engine=engine), strict=True):
                assert all(scores[hit.id] == hit.score for hit in hits)


@pytest.mark.parametrize("fill", [0xFF, 0x7F])
@pytest.mark.parametrize("name", ["image-00000.vectors.npy", "image-00000.ann", GRAPHS[0]])
def test_blocks_of_nan_or_huge_numbers_are_harmless_or_an_error(
    tmp_path: Path, version: Path, name: str, fill: int
) -> None:
    size = (version / name).stat().st_size

    def fill_block(path: Path, at: int, length: int) -> None:
        data = bytearray(path.read_bytes())
        data[at : at + length] = bytes([fill]) * length
        path.write_bytes(data[:size])

    cases: dict[str, tuple[str, Damage]] = {
        f"{length} at {at}": (name, partial(fill_block, at=at, length=length))
        for at in (4096, size // 3, size // 2)
        for length in (4, 512, 4096, 65536)
    }
    found = open_all(damaged_copies(version, tmp_path, cases), verify=False)
    allowed = ("opened", "CorruptIndexError")
    assert {case: came for case, came in found.items() if not came.startswith(allowed)} == {}
    if name.endswith(".npy") and fill == 0xFF:  # NaN
        assert set(found.values()) == {"CorruptIndexError"}


def test_trees_that_share_branches_are_refused(tmp_path: Path, version: Path) -> None:
    # Both children of each split are the split before it, so n splits have 2**n paths.
    manifest = artifact.read_manifest(version)
    image = manifest.fields["image"]
    width = image.engines["annoy"].dimensions + 1
    rows, words = image.shards[0].rows, 4 + width
    path = version / "image-00000.ann"
    nodes = np.frombuffer(path.read_bytes(), np.int32).reshape(-1, words).copy()
    splits = nodes[rows:]
    splits[:, 0], splits[:, 1], splits[:, 4:] = width + 3, 0, 0
    splits[:, 2] = splits[:, 3] = np.arange(rows - 1, len(nodes) - 1)
    splits[-1, 0] = rows
    copy = shutil.copytree(version, tmp_path / version.name)
    (copy / path.name).write_bytes(nodes.tobytes())
    with pytest.raises(CorruptIndexError, match="point outside the file"):
        gifdex.open(copy).prepare("annoy")


def test_altered_byte_in_the_manifest_is_an_error_or_changes_no_answer(
    tmp_path: Path, version: Path, intact: str
) -> None:
    text = (version / MANIFEST_NAME).read_text()
    # Another count of candidates is as valid; the hash of the whole manifest is not known to the version itself.
    valid = {at for found in re.finditer(r'"num_candidates": (\d+)', text) for at in range(*found.span(1))}
    places = [at for at in np.linspace(0, len(text) - 1, 150, dtype=int).tolist() if at not in valid]
    cases: dict[str, tuple[str, Damage]] = {
        f"at {at} bit {bit}": (MANIFEST_NAME, partial(_flip_bit, at=at, bit=bit))
        for at in places
        for bit in (0x01, 0x80)
    }
    found = open_all(damaged_copies(version, tmp_path, cases))
    errors = {"CorruptIndexError", "FormatVersionError", "QueryError", intact}  # a field of another name is not found
    assert {case: came for case, came in found.items() if came not in errors} == {}


def _flip_bit(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_a_manifest_that_is_missing_truncated_or_garbage_raises_one_error(
    tmp_path: Path, version: Path, rewrite: Callable[..., None]
) -> None:
    def become(data: bytes) -> tuple[str, Damage]:
        return MANIFEST_NAME, lambda path: path.write_bytes(data)

    cut = {f"cut to {share}": (MANIFEST_NAME, truncate(share)) for share in (0, 0.01, 0.5, 0.99)}
    cases: dict[str, tuple[str, Damage]] = {
        "gone": (MANIFEST_NAME, Path.unlink),
        "folder": (MANIFEST_NAME, become_folder),
        "newer": (
            MANIFEST_NAME,
            lambda path: rewrite(path.parent, lambda manifest: manifest.update(format_version=FORMAT_VERSION + 1)),
        ),
        "text": become(b"not JSON"),
        "list": become(b"[]"),
        "deep": become(b"[" * 100_000),
        "number": become(b"1" * 10_000),
        "latin": become(b'{"format": "\xe4"}'),
        **cut,
    }
    found = open_all(damaged_copies(version, tmp_path, cases))
    assert (found.pop("gone"), found.pop("folder")) == ("IndexNotFoundError", "IndexNotFoundError")
    assert found.pop("newer") == "FormatVersionError"
    assert set(found.values()) == {"CorruptIndexError"}
