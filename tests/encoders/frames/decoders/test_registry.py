from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest

from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import Decoder, format_of
from gifdex.schemas.errors import MissingDecoderError, MissingExtraError, PipelineError, UnsupportedFormatError

if TYPE_CHECKING:
    from tests.encoders.frames.decoders.conftest import Animate, Pictures

GIF = b"GIF89a"
MP4 = b"\0\0\0\x18ftypmp42"


@pytest.mark.parametrize("name", registry.decoder_names()[1:])
def test_every_decoder_implements_the_protocol(name: str) -> None:
    decoder = registry.decoder(name)
    assert isinstance(decoder, Decoder)
    assert decoder.name == name
    assert registry.decoder(name) is decoder
    assert decoder.version in registry.installed() or name == "imageio"


def test_the_format_follows_from_the_bytes(animate: Animate, greys: Pictures) -> None:
    assert format_of(b"GIF87a") == format_of(GIF) == "GIF"
    assert format_of(animate.image("WEBP", greys[:2])) == "WebP"
    assert format_of(animate.image("PNG", greys[:2])) == "PNG"
    assert format_of(animate.video(greys[:2])) == "MP4"
    assert format_of(animate.video(greys[:2], "webm")) == "WebM"


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff\xe0" + bytes(50), b"GIF88a" + bytes(50), b"<html>", b"gif89a;", b"RIFF"]
)
def test_any_other_format_is_refused_and_its_first_bytes_shown(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="expected a GIF") as caught:
        format_of(data)
    assert repr(data[:8]) in str(caught.value)


def test_an_empty_file_is_refused_as_empty() -> None:
    with pytest.raises(UnsupportedFormatError, match="the file is empty"):
        format_of(b"")


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name in missing else found(name))


def test_the_fastest_installed_decoder_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.decoder_for(GIF).name == "numba"
    without(monkeypatch, "numba")
    assert registry.decoder_for(GIF).name == "pillow"
    assert registry.decoder_for(GIF, "imageio").name == "imageio"
    assert registry.decoder_for(MP4, "imageio").name == "pyav"


def test_a_broken_decoder_is_skipped_unless_requested_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gifdex.encoders.frames.decoders.numba_gif", None)  # makes its import fail
    for cache in (registry._load, registry._is_usable):
        cache.cache_clear()
    assert registry.decoder_for(GIF).name == "pillow"
    with pytest.raises(PipelineError, match=r"the decoder numba cannot be loaded: .*fix the installation of numba"):
        registry.decoder_for(GIF, "numba")
    registry._is_usable.cache_clear()


def test_a_missing_decoder_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "numba", "av")
    registry._load.cache_clear()
    with pytest.raises(MissingExtraError, match=r"the decoder numba needs .* pip install 'gifdex\[fast\]'"):
        registry.decoder("numba")
    with pytest.raises(
        MissingDecoderError, match=r"the file is MP4 video, which needs an extra: run pip install 'gifdex\[video"
    ):
        registry.decoder_for(MP4)


def test_only_decoders_with_other_pixels_change_the_features_recipe() -> None:
    assert [registry.pixels_of(name) for name in registry.decoder_names()] == [None, None, None, "imageio", "pyav"]
