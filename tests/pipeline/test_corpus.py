from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gifdex.pipeline.corpus import Entry, file_metadata, list_corpus, read_bytes
from gifdex.schemas.errors import CorpusError

GifMaker = Callable[..., Path]


def ids(corpus: Path | str) -> list[str]:
    return [entry.id for entry in list_corpus(str(corpus)).entries]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_two_stars_match_zero_folders_too(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    make_gif("corpus/deep/er/b.gif")
    assert ids(f"{tmp_path}/corpus/**/*.gif") == ids(f"{tmp_path}/corpus/**.gif") == ["a", "deep/er/b"]


def test_file_uris_are_local_paths(make_gif: GifMaker, tmp_path: Path) -> None:
    made = make_gif("corpus/a b.gif")
    rows = [{"uri": made.as_uri()}, {"uri": "a%20b.gif", "id": "literal"}]
    listing = list_corpus(str(write_jsonl(tmp_path / "corpus" / "catalog.jsonl", rows)))
    assert {entry.id: entry.uri for entry in listing.entries} == {
        "a b": str(made),
        "literal": str(tmp_path / "corpus" / "a%20b.gif"),
    }
    assert ids((tmp_path / "corpus").as_uri()) == ["a b"]


def test_uris_are_absolute_and_normalised(make_gif: GifMaker, tmp_path: Path) -> None:
    path = make_gif("corpus/a.gif")
    (tmp_path / "elsewhere").mkdir()
    assert list_corpus(f"{tmp_path}/elsewhere/../corpus").entries[0].uri == str(path)


def test_unfinished_files_are_not_items(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    make_gif("corpus/.tmp-0123456789ab-b.gif")
    assert ids(tmp_path / "corpus") == ["a"]


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    rows = {"uri": ["a.gif", "b.gif"], "rating": [1.5, float("nan")], "deep": [[1.0], [float("inf")]]}
    pq.write_table(pa.table(rows), tmp_path / "catalog.parquet")
    found = [json.loads(entry.metadata or "") for entry in list_corpus(str(tmp_path / "catalog.parquet")).entries]
    assert found[0] == {"rating": 1.5, "deep": [1.0]}
    assert found[1] == {"rating": None, "deep": [None]}


def test_a_folder_gives_its_gifs_at_any_depth_and_in_any_case(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/b.gif")
    make_gif("corpus/deep/er/LOUD.gif").rename(tmp_path / "corpus/deep/er/LOUD.GIF")
    (tmp_path / "corpus/notes.txt").write_text("no GIF")
    (tmp_path / "corpus/deep/archive.gif.zip").write_text("no GIF")
    listing = list_corpus(str(tmp_path / "corpus"))
    assert [entry.id for entry in listing.entries] == ["b", "deep/er/LOUD"]
    assert listing.ignored == 2
    path = tmp_path / "corpus/b.gif"
    assert listing.entries[0] == Entry("b", str(path), path.stat().st_size, path.stat().st_mtime)


def test_a_folder_gives_other_animations_whose_ids_keep_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in [
        "cat.gif",
        "cat.mp4",
        "cat.WEBP",
        "deep/cat.png",
        "a.apng",
        "b.webm",
        "c.mov",
        "d.m4v",
        "e.jpg",
        "gif",
    ]:
        (tmp_path / name).write_bytes(b"")
    listing = list_corpus(str(tmp_path))
    expected = ["a.apng", "b.webm", "c.mov", "cat", "cat.WEBP", "cat.mp4", "d.m4v", "deep/cat.png"]
    assert [entry.id for entry in listing.entries] == expected
    assert listing.ignored == 2


@pytest.mark.parametrize("name", ["with [brackets]", "star*", "what?", "two  spaces", "naïve ünïcode", "[!x]"])
def test_a_folder_name_is_taken_literally(make_gif: GifMaker, tmp_path: Path, name: str) -> None:
    gif = make_gif(f"{name}/a.gif")
    make_gif("other/b.gif")
    (entry,) = list_corpus(str(tmp_path / name)).entries
    assert (entry.id, entry.uri) == ("a", str(gif))
    assert read_bytes(entry.uri) == gif.read_bytes()


def test_a_relative_folder_gives_absolute_uris(
    make_gif: GifMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = make_gif("corpus/a.gif")
    monkeypatch.chdir(tmp_path)
    assert list_corpus("corpus").entries[0].uri == str(gif)


def test_links_to_folders_cause_no_endless_listing(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    (tmp_path / "corpus/loop").symlink_to(tmp_path / "corpus")
    assert ids(tmp_path / "corpus") == ["a"]


def test_a_dangling_link_is_listed_without_a_size_and_later_rejected(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    link = tmp_path / "corpus/gone.gif"
    link.symlink_to("nowhere.gif")
    assert Entry("gone", str(link)) in list_corpus(str(tmp_path / "corpus")).entries


def test_a_file_name_that_is_not_valid_text_is_listed_in_escaped_form(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    try:
        os.link(tmp_path / "corpus/a.gif", os.fsencode(tmp_path / "corpus") + b"/caf\xe9.gif")
    except OSError:
        pytest.skip("this filesystem takes no file names but UTF-8")
    assert ids(tmp_path / "corpus") == ["a", r"caf\udce9"]


def test_a_glob_gives_the_matching_files(make_gif: GifMaker, tmp_path: Path) -> None:
    for name in ("a1.gif", "a2.gif", "b.gif", "deep/a3.gif"):
        make_gif(f"corpus/{name}")
    assert ids(tmp_path / "corpus/a*.gif") == ["a1", "a2"]
    assert ids(tmp_path / "corpus/**.gif") == ["a1", "a2", "b", "deep/a3"]
    assert ids(tmp_path / "corpus/**/a?.gif") == ["a1", "a2", "deep/a3"]
    assert ids(tmp_path / "corpus/a[12].gif") == ["a1", "a2"]


ROWS: list[dict[str, Any]] = [
    {"uri": "gifs/one.gif", "id": "001", "caption": "a cat, asleep", "tag": "cat"},
    {"uri": "gifs/../gifs/two.gif", "id": None, "caption": None, "tag": "dog"},
]


def write_catalog(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"catalog{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    if suffix.lower() == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix.lower() == ".jsonl":
        write_jsonl(path, rows)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".CSV"])
def test_a_catalog_gives_its_rows_with_relative_uris_resolved_and_other_columns_as_metadata(
    tmp_path: Path, suffix: str
) -> None:
    rows = [*ROWS, {"uri": "/elsewhere/three.gif", "id": "x", "caption": "", "tag": ""}]
    listing = list_corpus(str(write_catalog(tmp_path, suffix, rows)))
    assert listing.entries == (
        Entry("001", f"{tmp_path}/gifs/one.gif", caption="a cat, asleep", metadata='{"tag": "cat"}'),
        Entry("gifs/two", f"{tmp_path}/gifs/two.gif", metadata='{"tag": "dog"}'),
        Entry("x", "/elsewhere/three.gif", metadata='{"tag": ""}'),
    )


def test_a_catalog_in_a_folder_with_brackets_is_a_catalog(tmp_path: Path) -> None:
    assert ids(write_catalog(tmp_path / "[2024] gifs", ".csv", ROWS)) == ["001", "gifs/two"]


def test_a_uri_with_a_scheme_is_kept_as_it_is(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"uri": "s3://bucket/a//b.gif"}])
    assert list_corpus(str(path)).entries == (Entry("s3://bucket/a//b", "s3://bucket/a//b.gif"),)


def test_numbers_as_ids_become_text_and_nested_metadata_stays_json(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"uri": "a.gif", "id": 0, "z": [1, {"b": None}], "a": "é"}])
    (entry,) = list_corpus(str(path)).entries
    assert entry.id == "0"
    assert entry.metadata == '{"a": "é", "z": [1, {"b": null}]}'


def test_a_catalog_without_other_columns_has_no_metadata(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"uri": "a.gif"}])
    assert list_corpus(str(path)).entries[0].metadata is None


def test_a_json_string_may_hold_unicode_line_separators(tmp_path: Path) -> None:
    caption = "one\u2028two\u0085three\x1cfour"
    (tmp_path / "c.jsonl").write_bytes(
        f'{{"uri": "a.gif", "caption": "{caption[:-5]}"}}\r\n\r\n{{"uri": "b.gif"}}'.encode()
    )
    one, two = list_corpus(str(tmp_path / "c.jsonl")).entries
    assert (one.caption, two.id) == (caption[:-5], "b")


def test_half_a_surrogate_pair_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"uri": "a.gif", "caption": "\\ud83d", "note": "\\ud83d"}\n')
    (entry,) = list_corpus(str(tmp_path / "c.jsonl")).entries
    assert (entry.caption, entry.metadata) == (r"\ud83d", '{"note": "\\ud83d"}')


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbfuri,id\na.gif,7\n")
    assert ids(tmp_path / "c.csv") == ["7"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.csv", b"url,id\na.gif,1\n", r"row 1 of the catalog .*c\.csv has no uri; .*found: url, id"),
        ("c.csv", b"uri,id\na.gif,1\n,2\n", r"row 2 of the catalog .* has the uri ''"),
        ("c.csv", b"uri,id\na.gif,1,surplus\n", r"row 1 of the catalog .* more values than there are columns"),
        ("c.csv", b'uri,id\n"a.gif,1\n', r"cannot read the catalog .*c\.csv"),
        ("c.csv", b"uri\ncaf\xe9.gif\n", r"cannot read the catalog .*c\.csv: .*utf-8"),
        ("c.jsonl", b'{"uri": "a.gif"}\n\n{"uri": \n', r"line 3 of the catalog .*c\.jsonl is not JSON"),
        ("c.jsonl", b'{"uri": "a.gif"}\n["a.gif"]\n', r"line 2 of the catalog .* is not a JSON object"),
        ("c.jsonl", b'{"uri": 5}\n', r"row 1 of the catalog .* has the uri 5"),
        ("c.jsonl", b"[" * 100_000, r"line 1 of the catalog .* is not JSON"),
        ("c.jsonl", b"\xff\xfe{}", r"cannot read the catalog .*c\.jsonl: .*utf-8"),
        ("c.parquet", b"PAR1 not really", r"cannot read the catalog .*c\.parquet"),
        ("c.csv", b"", r"c\.csv is empty: no GIF was found"),
        ("c.csv", b"uri,id\n", r"c\.csv is empty: no GIF was found"),
        ("c.jsonl", b"\n", r"c\.jsonl is empty: no GIF was found"),
        ("c.gif", b"GIF89a", r"c\.gif is a file; expected a folder, a glob .* or a catalog"),
    ],
)
def test_an_invalid_catalog_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=expected):
        list_corpus(str(tmp_path / name))


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        ("absent", "absent does not exist; expected a folder"),
        ("absent.csv", r"cannot read the catalog .*absent\.csv"),
        ("absent/*.gif", r"absent/\*\.gif is empty"),
        ("empty", "empty is empty"),
    ],
)
def test_a_missing_or_empty_corpus_is_refused(tmp_path: Path, corpus: str, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=expected):
        list_corpus(str(tmp_path / corpus))


@pytest.mark.parametrize("corpus", ["nosuch://bucket/gifs", "nosuch://bucket/*.gif", "nosuch://bucket/c.csv"])
def test_an_unknown_filesystem_is_refused(corpus: str) -> None:
    with pytest.raises(CorpusError, match="nosuch"):
        list_corpus(corpus)


def test_two_items_with_the_same_id_are_both_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"uri": "a.gif", "id": "same"}, {"uri": "b.gif", "id": "same"}])
    with pytest.raises(CorpusError, match=r"two items have the id 'same': .*/a\.gif and .*/b\.gif"):
        list_corpus(str(path))


def test_entries_are_sorted_by_id(tmp_path: Path) -> None:
    names = ["b", "a/z", "a", "Z", "é", "a.b"]
    path = write_jsonl(tmp_path / "c.jsonl", [{"uri": f"{name}.gif"} for name in names])
    assert ids(path) == sorted(names)


def test_a_compressed_catalog_is_not_decompressed(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"plain")
    assert read_bytes(str(tmp_path / "a.gz")) == b"plain"
    assert file_metadata(str(tmp_path / "a.gz"))[0] == 5


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gif")
    with pytest.raises(OSError, match="is not a regular file"):
        read_bytes(str(tmp_path / "pipe.gif"))
