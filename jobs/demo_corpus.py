"""Make GIFs with real motion from photographs in the packages scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Container
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gifdex.schemas.errors import MissingExtraError
from gifdex.schemas.files import committing

if TYPE_CHECKING:
    from PIL.Image import Image

_FRAMES = 24
_DELAY_MS = 80
_SIDE = 200

# id -> (package, file in it). Only files in the wheels: skimage.data downloads the rest.
_PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cameraman": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "clock": ("skimage", "data/clock_motion.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}

# A crop's center (x, y) and side, each from 0 to 1, at time t from 0 to 1.
_Motion = Callable[[float], tuple[float, float, float]]
_MOTIONS: dict[str, _Motion] = {
    "pan": lambda t: (0.42 + 0.16 * t, 0.5, 0.8),
    "zoom": lambda t: (0.5, 0.5, 1.0 - 0.35 * t),
}


def make_corpus(folder: Path, only: Container[str] | None = None) -> list[Path]:
    """Write one panning and one zooming GIF per photograph to `folder`; existing ones are kept.

    With `only`, write just the GIFs with these ids, such as "cat-pan". Raises MissingExtraError if a package with
    photographs is missing.
    """
    written = []
    for name, (package, file) in _PHOTOGRAPHS.items():
        for motion, path_of in _MOTIONS.items():
            target = folder / f"{name}-{motion}.gif"
            if only is not None and target.stem not in only:
                continue
            if not target.exists():
                _write(target, _photograph(package, file), path_of)
            written.append(target)
    return written


def _photograph(package: str, file: str) -> Image:
    from PIL import Image

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("the demo", package, "demo")
    with Image.open(Path(spec.origin).parent / file) as opened:
        return opened.convert("RGB")


def _write(path: Path, photograph: Image, motion: _Motion) -> None:
    shortest = min(photograph.size)
    frames = []
    for number in range(_FRAMES):
        x, y, side = motion(number / (_FRAMES - 1))
        length = side * shortest
        left = min(max(x * photograph.width - length / 2, 0), photograph.width - length)
        top = min(max(y * photograph.height - length / 2, 0), photograph.height - length)
        box = (left, top, left + length, top + length)
        frames.append(photograph.resize((_SIDE, _SIDE), box=box).quantize(128))
    with committing(path) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=_DELAY_MS, loop=0)
