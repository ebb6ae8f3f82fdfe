"""How well a picture finds its GIF: recall against raw pixels and colour histograms on the same frames.

    python benchmarks/by_example.py GIFS [--workspace FOLDER] [--image-encoder efficientnet-lite0] [--json]

GIFS is a folder of GIFs that show two moments of one thing, such as the start and the end of an exercise. An index is
built from the last frame of each, alone, and the first frame is the query; its answer is the GIF of its own last frame.
The query is asked as it is, and altered as copies are: mirrored, cropped to the middle 70 %, at 60 % of the brightness,
and all three.

- `image`, `features`: the index's fields;
- `pixels`: Euclidean distance of frames resized to 32 x 32, RGB;
- `histogram`: L1 distance of colour histograms of 8 x 8 x 8 bins.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

import gifdex
from gifdex.encoders import projections, registry
from gifdex.encoders.base import ImageEncoder, unit
from gifdex.encoders.frames.still import frame_of
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.build import build
from gifdex.pipeline.settings import BuildSettings, IndexSettings

SIDE, BINS, BATCH = 32, 8, 32
CROP, BRIGHTNESS = 0.7, 0.6
Ranks = Any  # int64 (queries,)
Alteration = Callable[[Image.Image], Image.Image]


def two_frames(path: Path) -> tuple[Image.Image, Image.Image]:
    """Return the first and the last frame of a GIF."""
    with Image.open(path) as animation:
        first = animation.convert("RGB")
        animation.seek(getattr(animation, "n_frames", 1) - 1)
        return first, animation.convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    width, height = (round(side * (1 - CROP) / 2) for side in image.size)
    return image.crop((width, height, image.width - width, image.height - height))


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(BRIGHTNESS)


ALTERATIONS: Mapping[str, Alteration] = {
    "as it is": lambda image: image,
    "mirrored": ImageOps.mirror,
    "cropped": cropped,
    "darker": darker,
    "all three": lambda image: darker(cropped(ImageOps.mirror(image))),
}


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64).ravel()


def histogram(image: Image.Image) -> Any:
    bins = np.asarray(image, np.int64).reshape(-1, 3) * BINS // 256
    counts = np.bincount(bins @ (BINS * BINS, BINS, 1), minlength=BINS**3)
    return counts / counts.sum()


def ranks_by_distance(queries: Any, stored: Any, order: int) -> Ranks:
    """Return the rank of row i for query i, by distance; equal distances share a rank."""
    found = []
    for number, query in enumerate(queries):
        distances = np.linalg.norm(stored - query, ord=order, axis=1)
        found.append(1 + np.count_nonzero(distances < distances[number]))
    return np.array(found)


def features_of(encoder: ImageEncoder, images: Sequence[Image.Image]) -> Any:
    """Return features float32 (n, d_image), as the index makes them of pictures that are queries."""
    frames = [frame_of(np.asarray(image), encoder.frame_size) for image in images]
    blocks = [np.concatenate(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    return np.concatenate([encoder(block) for block in blocks])


def measure(paths: Sequence[Path], folder: Path, name: str) -> dict[str, Any]:
    """Return recall by alteration and method."""
    frames = {path.stem: two_frames(path) for path in paths}
    gifs = folder / "gifs"
    gifs.mkdir(parents=True, exist_ok=True)
    for key, (_, last) in frames.items():
        last.save(gifs / f"{key}.gif")
    settings = EncodeSettings(image_encoder=name)
    summary = build(BuildSettings(str(gifs), folder / "ws", encode=settings, index=IndexSettings(keep_features=True)))
    index = gifdex.open(folder / "ws" / "index" / summary.build_id)
    encoder = registry.image_encoder(name)
    found: dict[str, Any] = {"queries": len(frames)}
    for alteration, alter in ALTERATIONS.items():
        queries = {key: alter(first) for key, (first, _) in frames.items()}
        ranks = ranks_of(index, encoder, queries, {key: last for key, (_, last) in frames.items()})
        found[alteration] = {
            label: {f"recall@{k}": round(float((values <= k).mean()), 4) for k in (1, 10)}
            for label, values in ranks.items()
        }
    return found


def ranks_of(
    index: gifdex.Index, encoder: ImageEncoder, queries: Mapping[str, Image.Image], answers: Mapping[str, Image.Image]
) -> dict[str, Ranks]:
    """Return the rank of each query's own answer, by each method."""
    places = {key: place for place, key in enumerate(index.ids)}
    items = np.array([places[key] for key in queries])
    features = features_of(encoder, list(queries.values()))
    assert index.manifest.projection is not None
    projection = projections.load(index.path / index.manifest.projection.file)
    check_as_similar(index, next(iter(queries.values())), features[0])
    ranks = {
        "image": index.fusion().ranks(projection.embed_images(features), items),
        "features": index.fusion({"features": 1}).ranks(unit(features), items),
    }
    for label, describe, order in (("pixels", pixels, 2), ("histogram", histogram, 1)):
        asked, stored = (np.array([describe(image) for image in side.values()]) for side in (queries, answers))
        ranks[label] = ranks_by_distance(asked, stored, order)
    return ranks


def check_as_similar(index: gifdex.Index, picture: Image.Image, features: Any) -> None:
    """End unless `similar` answers as these features do."""
    fields = {"features": 1.0}
    (hit,), (near,) = (
        index.similar(1, image=np.asarray(picture), fields=fields),
        index.search(unit(features[None])[0], 1, fields=fields),
    )
    if hit.id != near.id or abs(hit.score - near.score) > 1e-3:
        raise SystemExit(f"similar gives {hit.id} {hit.score}, but the benchmark {near.id} {near.score}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gifs", type=Path)
    parser.add_argument("--workspace", type=Path, help="Where the frames and the index go.  [default: removed again]")
    parser.add_argument("--image-encoder", default=registry.DEFAULT_IMAGE_ENCODER)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    paths = sorted(given.gifs.rglob("*.gif"))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(paths, given.workspace or Path(folder), given.image_encoder)
    if given.json:
        print(json.dumps(found))
        return
    labels = ("image", "features", "pixels", "histogram")
    print(f"{found['queries']:,} queries, recall@1 and @10\n\n| query | " + " | ".join(labels) + " |")
    print("|---" * (len(labels) + 1) + "|")
    for alteration in ALTERATIONS:
        row = (found[alteration][label] for label in labels)
        print(f"| {alteration} | " + " | ".join(f"{one['recall@1']:.2f} {one['recall@10']:.2f}" for one in row) + " |")


if __name__ == "__main__":
    main()
