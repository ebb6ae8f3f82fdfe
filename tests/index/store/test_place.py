"""URLs of places; no server is needed."""

from __future__ import annotations

import pytest
from pyarrow import fs

from gifdex.index.store.place import Place
from gifdex.schemas.errors import RemoteError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("gs://bucket/index", "gs://bucket/index?retry_limit_seconds=30"),
        ("gs://bucket/i?scheme=http", "gs://bucket/i?scheme=http&retry_limit_seconds=30"),
        ("gs://bucket/i?retry_limit_seconds=5", "gs://bucket/i?retry_limit_seconds=5"),
        ("s3://bucket/i?region=x", "s3://bucket/i?region=x"),
    ],
)
def test_google_cloud_storage_gets_a_short_retry_limit(
    monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    seen: list[str] = []

    def refuse(uri: str) -> None:
        seen.append(uri)
        raise OSError("no network in this test")

    monkeypatch.setattr(fs, "FileSystem", type("Refusing", (), {"from_uri": staticmethod(refuse)}))
    with pytest.raises(RemoteError, match="no network"):
        Place.of(url)
    assert seen == [expected]


def test_an_error_about_a_url_hides_its_secret() -> None:
    with pytest.raises(RemoteError) as caught:
        Place.of("s3://KEY:SECRET@bucket/index?nothing=known")
    assert "SECRET" not in str(caught.value)
