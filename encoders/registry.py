"""Encoders by name. Nothing is imported or loaded before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from gifdex.encoders.base import ImageEncoder, TextEncoder
from gifdex.schemas.errors import EncoderError

DEFAULT_IMAGE_ENCODER = "efficientnet-lite0"
DEFAULT_TEXT_ENCODER = "use-multilingual"

# name -> "module:class"; the class is called without arguments
_IMAGE = {"efficientnet-lite0": "gifdex.encoders.efficientnet:EfficientNetLite0"}
_TEXT = {"use-multilingual": "gifdex.encoders.use_multilingual:UseMultilingual"}


def _construct(kind: str, table: Mapping[str, str], name: str) -> object:
    if name not in table:
        raise EncoderError(f"there is no {kind} encoder {name!r}: choose one of {', '.join(sorted(table))}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)()


def image_encoder(name: str = DEFAULT_IMAGE_ENCODER) -> ImageEncoder:
    """Return the image encoder of that name.

    Raises EncoderError for an unknown name, WeightsError or MissingExtraError where its parts are absent.
    """
    return cast(ImageEncoder, _construct("image", _IMAGE, name))


def text_encoder(name: str = DEFAULT_TEXT_ENCODER) -> TextEncoder:
    """Return the text encoder of that name; raises as `image_encoder` does."""
    return cast(TextEncoder, _construct("text", _TEXT, name))


def image_encoder_names() -> list[str]:
    """Return the names `image_encoder` knows, sorted."""
    return sorted(_IMAGE)


def text_encoder_names() -> list[str]:
    """Return the names `text_encoder` knows, sorted."""
    return sorted(_TEXT)
