"""Choose a decoder for a file. Nothing is imported before it is needed."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import cast

from gifdex.encoders.frames.decoders.base import Decoder, format_of
from gifdex.schemas.errors import MissingDecoderError, MissingExtraError, PipelineError

AUTO = "auto"


@dataclass(frozen=True)
class _Known:
    """A decoder's module, what it needs, the extra that installs that, and the formats it reads.

    All `exact` decoders give the same pixels, so features do not depend on which is installed.
    """

    module: str
    needs: str
    extra: str
    formats: tuple[str, ...]
    exact: bool = False


# In order of preference: the first installed one that reads a format is used.
_KNOWN = {
    "numba": _Known("numba_gif", "numba", "fast", ("GIF",), exact=True),
    "pillow": _Known("pillow_gif", "PIL", "pipeline", ("GIF",), exact=True),
    "imageio": _Known("imageio_images", "imageio", "pipeline", ("GIF", "WebP", "PNG")),
    "pyav": _Known("pyav_video", "av", "video", ("GIF", "MP4", "WebM")),
}
_loading = threading.Lock()
_PACKAGES = ("numba", "pillow", "imageio", "av")


def decoder_names() -> list[str]:
    """Return the names of the decoders for GIFs; `auto` is the fastest installed one."""
    return [AUTO, *_KNOWN]


def decoder(name: str) -> Decoder:
    """Return the decoder of that name.

    Raises MissingExtraError if its library is not installed, PipelineError if that cannot be loaded.
    """
    with _loading:  # so that threads do not each load it
        return _load(name)


@cache
def _load(name: str) -> Decoder:
    known = _KNOWN[name]
    if find_spec(known.needs) is None:
        raise MissingExtraError(f"the decoder {name}", known.needs, known.extra)
    try:
        module = importlib.import_module(f"gifdex.encoders.frames.decoders.{known.module}")
    except ImportError as err:
        raise PipelineError(
            f"the decoder {name} cannot be loaded: {err}; fix the installation of {known.needs}, or choose another "
            "decoder"
        ) from err
    return cast(Decoder, module.decoder())


@cache
def _is_usable(name: str) -> bool:
    """Tell whether an installed decoder can be loaded; a broken one must not stop the others."""
    try:
        decoder(name)
    except PipelineError:
        return False
    return True


def decoder_for(data: bytes, asked: str = AUTO) -> Decoder:
    """Return the decoder for the bytes: `asked` if it reads their format, otherwise the fastest usable one.

    Raises UnsupportedFormatError for other formats, MissingDecoderError if the format needs an extra.
    """
    form = format_of(data)
    if asked != AUTO and form in _KNOWN[asked].formats:
        return decoder(asked)
    able = [name for name, known in _KNOWN.items() if form in known.formats]
    for name in able:
        if find_spec(_KNOWN[name].needs) is not None and _is_usable(name):
            return decoder(name)
    extra = _KNOWN[able[-1]].extra
    raise MissingDecoderError(f"the file is {form} video, which needs an extra: run pip install 'gifdex[{extra}]'")


def pixels_of(asked: str) -> str | None:
    """Return the decoder's name if its pixels differ from those of the exact decoders, otherwise None."""
    return None if asked == AUTO or _KNOWN[asked].exact else asked


@cache
def installed() -> str:
    """Return the installed packages that decode, with their versions; others may read what these cannot."""
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
