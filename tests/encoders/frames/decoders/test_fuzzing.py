from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.encoders.frames.conftest import RawGif
    from tests.encoders.frames.decoders.conftest import Animate, Pictures

pytestmark = pytest.mark.heavy
GifMaker = Callable[..., Path]
FUZZ = Path(__file__).with_name("fuzz_decoding.py")


def fuzz(count: int, paths: list[Path]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, FUZZ, str(count), *paths], capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-5000:]
    result: dict[str, Any] = json.loads(done.stdout)
    print(result)  # noqa: T201  # shown with -s
    assert result["files"] >= (count or len(paths))
    assert not result["dead"]
    assert not result["slow"]
    assert result["peak_mib"] < 1000
    assert result["slowest_s"] < 8
    return result


def test_mutants_of_gifs_become_items_or_rejects(make_gif: GifMaker, raw_gif: RawGif, tmp_path: Path) -> None:
    interlaced = tmp_path / "interlaced.gif"
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    images = [
        raw_gif.picture(pixels, disposal=3, interlaced=True),
        raw_gif.picture(pixels[:5, :5], 3, 2, disposal=2, transparent=7, palette=raw_gif.palette[:64]),
        raw_gif.picture(pixels[:7], transparent=3),
    ]
    interlaced.write_bytes(raw_gif((8, 8), images))
    outcomes = fuzz(600, [make_gif("a.gif"), interlaced])["outcomes"]
    assert all(outcomes[kind] > 20 for kind in ("item", "partial", "DecodeError"))


def test_mutants_of_other_formats_become_items_or_rejects(animate: Animate, greys: Pictures, tmp_path: Path) -> None:
    moving = [np.roll(picture, number, axis=0) // 2 + greys[3] for number, picture in enumerate(greys[:12])]
    whole = {
        "a.webp": animate.image("WEBP", moving),
        "a.png": animate.image("PNG", moving),
        "a.mp4": animate.video(moving),
        "a.webm": animate.video(moving, "webm"),
    }
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    outcomes = fuzz(400, [tmp_path / name for name in whole])["outcomes"]
    assert all(outcomes[kind] > 20 for kind in ("item", "DecodeError"))


def test_the_malformed_suite_becomes_items_or_rejects(data: Path) -> None:
    paths = sorted(path for path in (data / "gif-suite" / "malformed").rglob("*") if path.is_file())
    assert len(paths) > 490
    outcomes = fuzz(0, paths)["outcomes"]
    assert all(outcomes[kind] > 3 for kind in ("item", "partial", "DecodeError", "LimitError"))


def test_the_largest_allowed_canvas_stays_within_memory(raw_gif: RawGif, tmp_path: Path) -> None:
    """Everything that needs a copy at once: interlaced, transparent, restored, and pixels missing at the end."""
    pixels = np.random.default_rng(1).integers(0, 100, (4096, 4096)).astype(np.uint8)
    pixels[-1, -5:] = 0x81  # the end code of the tests' encoder
    large = raw_gif.picture(pixels, disposal=3, transparent=7, interlaced=True)
    path = tmp_path / "large.gif"
    path.write_bytes(raw_gif((4096, 4096), [large, large, large]))
    assert fuzz(0, [path])["outcomes"] == {"item": 1}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutants_of_real_gifs_become_items_or_rejects(data: Path) -> None:
    real = sorted((data / "real-gifs").glob("*.gif"), key=lambda path: path.stat().st_size)[:9]
    clips = sorted((data / "clips").glob("**/*.gif"))[:20]
    exercises = sorted((data / "exercises").glob("**/*.gif"))[:20]
    conformance = sorted((data / "gif-suite" / "conformance").glob("*.gif"))
    assert len(real + clips + exercises + conformance) > 130
    outcomes = fuzz(10_000, real + clips + exercises + conformance)["outcomes"]
    assert all(outcomes[kind] > 200 for kind in ("item", "partial", "DecodeError"))
