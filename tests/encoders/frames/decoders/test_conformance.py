"""The conformance suite: size, frames, delays, loops and pixels of 84 GIFs, for every decoder."""

from __future__ import annotations

import configparser
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import Budget, FrameError
from gifdex.encoders.frames.decoders.gif import GifStructure
from gifdex.encoders.frames.limits import Limits

# For tests that are not about time limits.
PLENTY = Budget(Limits(seconds=math.inf))

# Each file where a decoder differs from the suite, and why. Inexact decoders share the quirks of Pillow and FFmpeg;
# listing them makes us notice a release that changes one.
DIFFERENT = {
    "no-data": "no image at all: the suite has one empty frame, gifdex a reject that says so",
    "images-overlap": "two whole pictures without timing or loop: the suite has a still, viewers and gifdex an "
    "animation, as the suite itself has it for gif87a-animation",
    "invalid-colors": "an index beyond the color table: the suite refuses the file, viewers leave the pixel out",
    "plain-text": "an image after a plain text extension: the suite has no frame, viewers show the image",
    "animation-multi-image-explicit-zero-delay": "frames that ask for 0 ms: the suite draws them with the next one, "
    "viewers show them for 100 ms",
}
EXPECTED = {
    "pillow": DIFFERENT,
    "numba": DIFFERENT,
    "imageio": {
        **DIFFERENT,
        "image-zero-width": "raises on an image of no area",
        "image-zero-height": "raises on an image of no area",
        "image-zero-size": "raises on an image of no area",
        "image-inside-bg": "fills what is not drawn with the background color, which viewers leave transparent",
        "image-overlap-bg": "grows the canvas",
        "image-outside-bg": "grows the canvas",
        "missing-pixels": "draws missing pixels as index 0",
        "dispose-restore-background": "fills what is cleared with the background color",
    },
    "pyav": {
        **DIFFERENT,
        "image-zero-width": "raises on an image of no area",
        "image-zero-height": "raises on an image of no area",
        "image-zero-size": "raises on an image of no area",
        "image-outside-bg": "raises on an image beyond the canvas",
        "images-combine": "gives one of several images that have no control extension",
        "high-color": "gives one of several images that have no control extension",
        "gif87a-animation": "gives one of several images that have no control extension",
        "missing-pixels": "draws missing pixels as index 0",
        "invalid-code": "gives a frame where the codes are broken",
        "dispose-restore-background": "fills what is cleared with the background color",
    },
}


def expected_frames(folder: Path, conf: configparser.ConfigParser) -> list[tuple[NDArray[np.uint8], int | None]]:
    """Return the frames on white, and their delays in milliseconds where the file gives one."""
    width, height = int(conf["config"]["width"]), int(conf["config"]["height"])
    frames = []
    for name in filter(None, map(str.strip, conf["config"]["frames"].split(","))):
        if "pixels" in conf[name]:
            rgba = np.fromfile(folder / conf[name]["pixels"], np.uint8).reshape(height, width, 4)
        else:
            rgba = np.asarray(Image.open(folder / conf[name]["image"]).convert("RGBA"))
        delay = 10 * int(conf[name]["delay"]) if "delay" in conf[name] else None
        frames.append((np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8), delay))
    return frames


def is_as_expected(folder: Path, name: str, decoder_name: str) -> bool:
    conf = configparser.ConfigParser()
    conf.read(folder / f"{name}.conf")
    facts = conf["config"]
    data = (folder / facts["input"]).read_bytes()
    decoder = registry.decoder(decoder_name)
    structure = decoder.structure(data, Limits(), PLENTY)
    assert isinstance(structure, GifStructure)
    if (structure.width, structure.height) != (int(facts["width"]), int(facts["height"])):
        return False
    loops = {"infinite": 0, "0": None}.get(facts["loop-count"], facts["loop-count"])
    if facts["force-animation"] == "no" and structure.loops != (loops if loops is None else int(loops)):
        return False
    frames = []
    try:
        if structure.delays_ms:
            wanted = tuple(range(len(structure.delays_ms)))
            frames = [np.asarray(picture)[..., :3] for picture in decoder.draw(data, structure, wanted, PLENTY)]
    except FrameError:
        pass
    expected = expected_frames(folder, conf)
    if len(frames) != len(expected):
        return False
    for frame, delay_ms, (pixels, asked_ms) in zip(frames, structure.delays_ms, expected, strict=False):
        if not np.array_equal(frame, pixels) or (asked_ms is not None and asked_ms != delay_ms):
            return False
    return True


@pytest.mark.parametrize("decoder", EXPECTED)
def test_each_decoder_matches_the_suite_except_for_listed_files(data: Path, decoder: str) -> None:
    folder = data / "gif-suite" / "conformance"
    names = (folder / "TESTS").read_text().split()
    assert len(names) == 84
    different = {name for name in names if not is_as_expected(folder, name, decoder)}
    print(f"{decoder}: {len(names) - len(different)} of {len(names)}")  # noqa: T201  # shown with -s
    assert different == set(EXPECTED[decoder])
