"""Kept answers of sources."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from gifdex.index.sources.base import Candidate, CandidateSource
from gifdex.index.sources.giphy import GiphySource
from gifdex.index.sources.http import HttpOptions
from gifdex.index.sources.results_cache import CachedSource, ResultsCache
from gifdex.schemas.errors import SourceError
from tests.index.sources.http_service import KEY, Service

FOUND = [Candidate("a", "https://example.com/a.gif", "giphy", None, "Ä cat"), Candidate("../b", "u", "giphy")]


def test_an_answer_is_kept_by_source_query_and_count(tmp_path: Path) -> None:
    cache = ResultsCache(tmp_path / "cache")
    assert cache.get("giphy", "cat", 5) is None
    cache.put("giphy", "cat", 5, FOUND)
    cache.put("giphy", "nothing", 5, [])
    assert cache.get("giphy", "cat", 5) == FOUND
    assert cache.get("giphy", "nothing", 5) == []
    assert cache.get("giphy", "cat", 6) is cache.get("giphy", "Cat", 5) is cache.get("other", "cat", 5) is None


def test_a_service_is_asked_once(service: Service, local: HttpOptions, tmp_path: Path) -> None:
    source = CachedSource(GiphySource(KEY, service.url(), options=local), ResultsCache(tmp_path / "cache"))
    assert isinstance(source, CandidateSource)
    first = source.candidates("cat", 3)
    assert source.candidates("cat", 3) == first != []
    assert service.asked["/v1/gifs/search"] == 1
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "cache").iterdir())


def test_errors_are_not_kept(service: Service, local: HttpOptions, tmp_path: Path) -> None:
    source = CachedSource(GiphySource("wrong", service.url(), options=local), ResultsCache(tmp_path / "cache"))
    with pytest.raises(SourceError):
        source.candidates("cat", 3)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("seconds", [-10, 10_000_000_000])
def test_an_answer_that_is_too_old_or_from_the_future_is_absent(tmp_path: Path, seconds: float) -> None:
    cache = ResultsCache(tmp_path, max_age_seconds=5)
    cache.put("giphy", "cat", 5, FOUND)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "time": time.time() + seconds}))
    assert cache.get("giphy", "cat", 5) is None
    cache.put("giphy", "cat", 5, FOUND)
    assert cache.get("giphy", "cat", 5) == FOUND


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", '{"time": "x"}', "[" * 100_000, '"key"', "NaN"],
)
def test_a_damaged_file_is_absent(tmp_path: Path, text: str) -> None:
    cache = ResultsCache(tmp_path)
    cache.put("giphy", "cat", 5, FOUND)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert cache.get("giphy", "cat", 5) is None


@pytest.mark.parametrize("candidates", [None, [None], [{}], [{"id": 1, "uri": "u", "source": "s"}], [{"x": 1}], "xyz"])
def test_a_file_with_other_candidates_is_absent(tmp_path: Path, candidates: object) -> None:
    cache = ResultsCache(tmp_path)
    cache.put("giphy", "cat", 5, FOUND)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "candidates": candidates}))
    assert cache.get("giphy", "cat", 5) is None


def test_the_oldest_files_go(tmp_path: Path) -> None:
    cache = ResultsCache(tmp_path, max_files=3)
    for number in range(6):
        cache.put("giphy", str(number), 5, FOUND)
        newest = max(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    kept = [number for number in range(6) if cache.get("giphy", str(number), 5)]
    assert kept == [3, 4, 5]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    left, active = tmp_path / ".tmp-1-x.json", tmp_path / ".tmp-2-y.json"
    left.write_text("{")
    active.write_text("{")
    os.utime(left, (1, 1))
    ResultsCache(tmp_path).put("giphy", "cat", 5, FOUND)
    assert not left.exists()
    assert active.exists()


def test_a_folder_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = ResultsCache(tmp_path / "file" / "cache")
    cache.put("giphy", "cat", 5, FOUND)
    assert cache.get("giphy", "cat", 5) is None
    assert "an answer of giphy is not kept in" in caplog.text
