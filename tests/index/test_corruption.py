"""Damaged indexes are opened in a process of their own: one that crashes there is a failed test, not the end of all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import artifact
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import MANIFEST_NAME

FILES = (
    "items.arrow",
    "projection.safetensors",
    "reduction.safetensors",
    "shard-00000.ann",
    "shard-00000.usearch",
    "shard-00000.vectors.npy",
    "shard-00001.ann",
    "shard-00001.usearch",
    "shard-00001.vectors.npy",
)
# One line an index: the error's class, or the answers; anything but a GifdexError is "raw".
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
            hits += index.search(query, 5, engine=engine, effort=100)
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

Damage = Callable[[Path], None]


def open_all(folders: Mapping[str, Path], verify: bool = True) -> dict[str, str]:
    """Open and ask each index in one subprocess; return what came of each."""
    done = subprocess.run(
        [sys.executable, "-c", OPENER, json.dumps(verify)],
        input="".join(f"{folder}\n" for folder in folders.values()),
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == len(folders), f"{list(folders)[len(outcomes)]} ended it: {done.returncode} {done.stderr}"
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
    """Keep that share of the bytes, or all but one where it is negative."""
    return lambda path: os.truncate(path, path.stat().st_size - 1 if length < 0 else int(length * path.stat().st_size))


def extend(data: bytes) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes() + data) and None


def flip(place: float) -> Damage:
    """Invert one byte: that far into the file where `place` is a float below 1, else at that offset."""

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
    return lambda path: shutil.copy(other / path.name, path) and None


@pytest.fixture(scope="module")
def version(reduced_version: Path) -> Path:
    """One that has every kind of file."""
    return reduced_version


@pytest.fixture(scope="module")
def other_version(
    tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> Path:
    """A version of the same counts as `version`, of other vectors and another projection."""
    folder = tmp_path_factory.mktemp("other") / "00000000000000cc"
    return make_version(folder, spectral(4000, seed=77), (2500, 1500), seed=77, hnsw=True)


@pytest.fixture(scope="module")
def intact(version: Path) -> str:
    """What comes of the undamaged version."""
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


def test_without_hashing_a_file_of_another_size_is_still_never_mapped(
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


@pytest.mark.parametrize("name", FILES)
def test_without_hashing_altered_bytes_never_end_the_process_and_verify_finds_them(
    tmp_path: Path, version: Path, name: str
) -> None:
    size = (version / name).stat().st_size
    # Headers, ends, and everywhere between.
    places = {*range(0, min(size, 160), 3), *range(max(0, size - 160), size, 3)}
    places |= set(np.linspace(0, size - 1, 150, dtype=int).tolist())
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
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    manifest = artifact.read_manifest(version)
    opened = gifdex.open(version)
    queries = np.random.default_rng(0).standard_normal((20, opened.dimensions))
    exact = [{hit.id: hit.score for hit in hits} for hits in opened.search(queries, len(opened), exact=True)]
    for name in (name for shard in manifest.shards for name in shard.engines.values()):
        copy = shutil.copytree(version, tmp_path / name / version.name)
        shutil.copy(other_version / name, copy)
        vouch_for(copy, name)  # as if it had been told its size and hash
        swapped = gifdex.open(copy)
        for engine in swapped.engines:
            for scores, hits in zip(exact, swapped.search(queries, 5, engine=engine), strict=True):
                assert all(scores[hit.id] == hit.score for hit in hits)


@pytest.mark.parametrize("fill", [0xFF, 0x7F])
@pytest.mark.parametrize("name", ["shard-00000.vectors.npy", "shard-00000.ann", "shard-00000.usearch"])
def test_blocks_of_no_numbers_are_an_error_or_no_harm(tmp_path: Path, version: Path, name: str, fill: int) -> None:
    size = (version / name).stat().st_size

    def fill_block(path: Path, at: int, length: int) -> None:
        data = bytearray(path.read_bytes())
        data[at : at + length] = bytes([fill]) * length
        path.write_bytes(data[:size])

    cases: dict[str, tuple[str, Damage]] = {
        f"{length} at {at}": (name, lambda path, at=at, length=length: fill_block(path, at, length))
        for at in (4096, size // 3, size // 2)
        for length in (4, 512, 4096, 65536)
    }
    found = open_all(damaged_copies(version, tmp_path, cases), verify=False)
    allowed = ("opened", "CorruptIndexError")
    assert {case: came for case, came in found.items() if not came.startswith(allowed)} == {}
    if name.endswith(".npy") and fill == 0xFF:  # which is NaN
        assert set(found.values()) == {"CorruptIndexError"}


def test_trees_that_share_branches_are_refused(tmp_path: Path, version: Path) -> None:
    # Each split leads twice to the one before: as many paths as two to the power of their number.
    manifest = artifact.read_manifest(version)
    width = manifest.engines["annoy"].dimensions + 1
    items, words = manifest.shards[0].items, 4 + width
    path = version / "shard-00000.ann"
    nodes = np.frombuffer(path.read_bytes(), np.int32).reshape(-1, words).copy()
    splits = nodes[items:]
    splits[:, 0], splits[:, 1], splits[:, 4:] = width + 3, 0, 0
    splits[:, 2] = splits[:, 3] = np.arange(items - 1, len(nodes) - 1)
    splits[-1, 0] = items
    copy = shutil.copytree(version, tmp_path / version.name)
    (copy / path.name).write_bytes(nodes.tobytes())
    with pytest.raises(CorruptIndexError, match="lead out of the file"):
        gifdex.open(copy).prepare("annoy")


def test_another_file_between_opening_and_the_first_use_of_an_engine_is_refused(
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["engine"] = "scan"
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    opened = gifdex.open(copy)
    shutil.copy(version / "shard-00001.usearch", tmp_path / "new")
    (tmp_path / "new").replace(copy / "shard-00001.usearch")
    for _ in range(2):
        with pytest.raises(
            CorruptIndexError, match=r"shard-00001\.usearch was replaced while the index was being opened"
        ):
            opened.search(np.ones(128), engine="hnsw")
    assert len(opened.search(np.ones(128))) == 10


REPLACER = """
import json, os, shutil, sys
import numpy as np
import gifdex
for line in sys.stdin:
    copy, name, other, how = json.loads(line)
    path = os.path.join(copy, name)
    index = gifdex.open(copy)
    for engine in index.engines:
        index.prepare(engine)
    queries = np.random.default_rng(1).standard_normal((30, index.dimensions))
    def ask():
        ways = ({}, {"exact": True}, {"engine": "annoy"})
        return [index.search(query, 5, **way) for query in queries for way in ways]
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
        lambda: index.ranks(queries[:1], np.array([3])),
        lambda: index.engine_recall(queries[:2]),
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


def test_files_replaced_under_an_open_index_are_no_harm_or_one_error(
    tmp_path: Path, version: Path, other_version: Path
) -> None:
    mapped = [name for name in FILES if name not in ("projection.safetensors", "reduction.safetensors")]
    cases = [(name, how) for name in mapped for how in ("rename", "unlink", "truncate", "empty", "copy")]
    orders = []
    for number, (name, how) in enumerate(cases):
        copy = shutil.copytree(version, tmp_path / str(number) / version.name)
        orders.append(json.dumps([str(copy), name, str(other_version / name), how]))
    done = subprocess.run(
        [sys.executable, "-c", REPLACER], input="\n".join(orders), capture_output=True, text=True, check=False
    )
    outcomes = done.stdout.splitlines()
    assert len(outcomes) == len(cases), f"{cases[len(outcomes)]} ended it: {done.returncode} {done.stderr}"
    for (name, how), outcome in zip(cases, outcomes, strict=True):
        if how in ("rename", "unlink"):
            assert outcome == "same", (name, how)
        else:
            assert outcome.startswith("CorruptIndexError: "), (name, how, outcome)
            assert f"{name} was changed in place while the index was open" in outcome


def rewrite(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    change(manifest)
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))


def add_file(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"].update({name: {"bytes": 6, "sha256": "0" * 64}})


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda manifest, value=value: manifest.update(dimensions=value)
            for value in (64, 256, 127, 1, 0, -3, -128, 2**70)
        ),
        *(
            lambda manifest, value=value: manifest.update(items=value)
            for value in (0, -4000, 3999, 4001, 2**70, 4000.0, "4000")
        ),
        lambda manifest: manifest["shards"].pop(),
        lambda manifest: manifest["shards"].clear(),
        lambda manifest: (manifest["shards"].clear(), manifest.update(items=0)),
        lambda manifest: manifest["shards"][0].update(items=2501) or manifest["shards"][1].update(items=1499),
        lambda manifest: manifest["shards"][0].update(items=4300) or manifest["shards"][1].update(items=-300),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="shard-00001.ann"),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="shard-00000.vectors.npy"),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="shard-00000.usearch"),
        lambda manifest: manifest["shards"][0]["engines"].pop("annoy"),
        lambda manifest: manifest["shards"][1]["engines"].pop("hnsw"),
        lambda manifest: manifest["shards"][0].update(vectors="shard-00000.ann"),
        lambda manifest: manifest["shards"][0].update(vectors="items.arrow"),
        lambda manifest: manifest.update(items_file="projection.safetensors"),
        lambda manifest: manifest["projection"].update(file="items.arrow"),
        lambda manifest: manifest.update(metric="euclidean"),
        lambda manifest: manifest.update(engine="faiss"),
        lambda manifest: manifest["engines"].update(faiss=manifest["engines"]["annoy"]),
        lambda manifest: manifest["engines"].pop("annoy"),
        lambda manifest: manifest["engines"].pop("scan"),
        lambda manifest: manifest["engines"]["annoy"].update(library="faiss"),
        lambda manifest: manifest["engines"]["annoy"].update(metric="angular"),
        lambda manifest: manifest["engines"]["annoy"].update(metric="dot"),
        lambda manifest: manifest["engines"]["annoy"].update(effort=0),
        lambda manifest: manifest["engines"]["annoy"].update(effort=10**400),
        lambda manifest: manifest["engines"]["scan"].update(effort=-1),
        *(
            lambda manifest, name=name, value=value: manifest["engines"][name].update(dimensions=value)
            for name in ("annoy", "scan")
            for value in (0, -1, 1, 15, 17, 128, 2**70)
        ),
        lambda manifest: manifest.update(reduction=None),
        lambda manifest: manifest["reduction"].update(dimensions=127),
        lambda manifest: manifest["reduction"].update(file="projection.safetensors"),
        lambda manifest: manifest["files"].pop("items.arrow"),
        lambda manifest: manifest["files"].pop("shard-00001.ann"),
        lambda manifest: manifest["files"]["items.arrow"].update(bytes=2**80),
        lambda manifest: manifest["files"]["items.arrow"].update(bytes=-1),
        lambda manifest: manifest.update(items_file="../secret"),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(format="another"),
        lambda manifest: manifest.update(format_version=0),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_manifest_that_does_not_fit_its_files_is_refused(
    tmp_path: Path, version: Path, change: Callable[[dict[str, Any]], object], verify: bool
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    rewrite(copy, change)
    with pytest.raises(CorruptIndexError):
        gifdex.open(copy, verify=verify)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "../secret",
        "/etc/hostname",
        "sub/file",
        "sub\\..\\file",
        "a\0b",
        "\ud800",
        "~root",
        "C:secret",
        "line\nbreak",
        "n" * 256,
    ],
)
def test_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path, version: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    copy = shutil.copytree(version, tmp_path / version.name)
    rewrite(copy, add_file(name))
    for check in (gifdex.open, artifact.verify):
        with pytest.raises(CorruptIndexError, match="expected a plain name") as raised:
            check(copy)
        assert "\n" not in str(raised.value)


def test_manifest_cannot_name_what_is_no_file(tmp_path: Path, version: Path) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    os.mkfifo(copy / "pipe")  # reading it would wait for ever
    rewrite(copy, lambda manifest: manifest["files"].update({"pipe": {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(CorruptIndexError, match="pipe is no file"):
        gifdex.open(copy)


def test_altered_byte_in_the_manifest_is_an_error_or_changes_no_answer(
    tmp_path: Path, version: Path, intact: str
) -> None:
    size = (version / MANIFEST_NAME).stat().st_size
    places = np.linspace(0, size - 1, 150, dtype=int).tolist()
    cases: dict[str, tuple[str, Damage]] = {
        f"at {at} bit {bit}": (MANIFEST_NAME, lambda path, at=at, bit=bit: _flip_bit(path, at, bit))
        for at in places
        for bit in (0x01, 0x80)
    }
    found = open_all(damaged_copies(version, tmp_path, cases))
    errors = {"CorruptIndexError", "FormatVersionError", intact}
    assert {case: came for case, came in found.items() if came not in errors} == {}


def _flip_bit(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_manifest_that_is_gone_cut_off_or_garbage_is_one_error_each(tmp_path: Path, version: Path) -> None:
    def become(data: bytes) -> tuple[str, Damage]:
        return MANIFEST_NAME, lambda path: path.write_bytes(data) and None

    cut = {f"cut to {share}": (MANIFEST_NAME, truncate(share)) for share in (0, 0.01, 0.5, 0.99)}
    cases: dict[str, tuple[str, Damage]] = {
        "gone": (MANIFEST_NAME, Path.unlink),
        "folder": (MANIFEST_NAME, become_folder),
        "newer": (MANIFEST_NAME, lambda path: rewrite(path.parent, lambda manifest: manifest.update(format_version=3))),
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


def vouch_for(copy: Path, name: str) -> None:
    """Let the manifest say what a file of the version now is."""
    facts = artifact.file_facts(copy, [name])[name]
    rewrite(copy, lambda manifest: manifest["files"].update({name: vars(facts)}))


def commit_items(copy: Path, table: pa.Table) -> None:
    """Replace the items by a table that the manifest vouches for."""
    with pa.ipc.new_file(str(copy / "items.arrow"), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    vouch_for(copy, "items.arrow")


def read_items(version: Path) -> pa.Table:
    with pa.OSFile(str(version / "items.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def test_projection_into_a_space_of_other_dimensions_is_refused(
    tmp_path: Path, version: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    narrow = make_version(tmp_path / "00000000000000bb", clustered(20, dimensions=8))
    shutil.copy(narrow / "projection.safetensors", copy)
    vouch_for(copy, "projection.safetensors")
    with pytest.raises(CorruptIndexError, match="has 8 dimensions, but the manifest says 128"):
        gifdex.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.drop_columns(["caption"]), "not those of items"),
        (lambda items: items.set_column(0, "id", pa.array(range(4000))), "not those of items"),
        (lambda items: items.slice(1), "has 3,999 rows, but the manifest says 4,000"),
    ],
)
def test_items_of_other_columns_or_rows_are_refused(
    tmp_path: Path, version: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    commit_items(copy, change(read_items(version)))
    with pytest.raises(CorruptIndexError, match=message):
        gifdex.open(copy)


def test_metadata_that_is_no_json_is_an_error_of_its_row(tmp_path: Path, version: Path) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    items = read_items(version)
    metadata = pa.array(["{"] + [None] * 3999, pa.large_string())
    commit_items(copy, items.set_column(items.schema.get_field_index("metadata"), items.field("metadata"), metadata))
    opened = gifdex.open(copy)
    with pytest.raises(CorruptIndexError, match=r"one of the rows \[.*0.*\] of the items"):
        opened.search(np.ones(128), 4000)
