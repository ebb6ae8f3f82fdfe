"""How often tags say what people wrote: the share of GIFs that have a word of their caption in their first tags.

    python benchmarks/tags.py STORE [--words WORDS] [--json]

STORE is an index whose items have captions and GIFs on this machine, WORDS a words index that `gifdex words build
--index STORE` made. Tags are compared word by word with captions, without stop words and a plural's s:

- `pooled`: the classifier's classes over pooled features (what `gifdex tags` gives);
- `by frame`: the same classes, their probabilities averaged frame by frame;
- `words`: the nearest words of WORDS.

`other` is the same share for another item's caption (the next one), so what chance gives.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COUNTS = (1, 3, 10)


def tokens(text: str, stop_words: frozenset[str]) -> set[str]:
    """Return the words of a text without stop words, in lower case, plurals without their s."""
    found = set(re.findall(r"[^\W\d_]+", text.lower())) - stop_words
    return {word[:-1] if word.endswith("s") and len(word) > 3 else word for word in found}


def by_frame(index: Any, encoder: Any, settings: Any, gif: Path, labels: Any) -> list[str]:
    """Return the ten best classes of a GIF by probabilities averaged over its frames."""
    import numpy as np

    from gifdex.encoders.classifiers import probabilities
    from gifdex.encoders.frames.decode import FrameDecoder

    with FrameDecoder() as decode:
        frames = decode(gif.read_bytes(), settings.sampling, encoder.frame_size, settings.limits, settings.decoder)
    shares = probabilities(labels, encoder(frames.frames))
    mean = np.asarray(frames.weights, np.float64) @ shares
    return [labels.labels[number] for number in np.argsort(-mean, kind="stable")[: COUNTS[-1]]]


def tags_of(store: Path, words: Path | None) -> tuple[list[str], Mapping[str, list[list[str]]]]:
    """Return the captions of the items that have one, and by method each item's tags."""
    import gifdex
    from gifdex.encoders.classifiers import load
    from gifdex.encoders.registry import image_encoder
    from gifdex.encoders.settings import EncodeSettings

    index = gifdex.open(store)
    near = None if words is None else gifdex.open(words)
    assert index.manifest.image_encoder is not None
    assert index.manifest.classifier is not None
    settings = EncodeSettings(image_encoder=index.manifest.image_encoder.name)
    encoder = image_encoder(settings.image_encoder, settings.encoder_options)
    classifier = load(index.path / index.manifest.classifier)
    captions: list[str] = []
    found: dict[str, list[list[str]]] = {
        name: [] for name in ("pooled", "by frame", *([] if near is None else ["words"]))
    }
    for key in index.ids:
        (item,) = index.search("a thing", 1, where={"id": key})
        if not item.metadata.get("caption"):
            continue
        captions.append(item.metadata["caption"])
        gif = Path(item.uri)
        found["pooled"].append([tag.word for tag in index.tags(COUNTS[-1], gif=gif)])
        found["by frame"].append(by_frame(index, encoder, settings, gif, classifier))
        if near is not None:
            found["words"].append([tag.word for tag in index.tags(COUNTS[-1], gif=gif, words=near)])
    return captions, found


def share(captions: Sequence[set[str]], tags: Sequence[Sequence[str]], count: int, none: frozenset[str]) -> float:
    """Return the share of items of which a word of the first `count` tags is in the caption."""
    hits = [bool(own & tokens(" ".join(found[:count]), none)) for own, found in zip(captions, tags, strict=True)]
    return round(sum(hits) / len(hits), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from gifdex.index.queries.tags import stop_words

    captions, found = tags_of(arguments.store, arguments.words)
    own = [tokens(caption, stop_words()) for caption in captions]
    other = own[1:] + own[:1]
    result = {
        method: {
            f"first {count}": {
                "own": share(own, tags, count, stop_words()),
                "other": share(other, tags, count, stop_words()),
            }
            for count in COUNTS
        }
        for method, tags in found.items()
    }
    if arguments.json:
        print(json.dumps({"items": len(captions), **result}))
        return
    print(f"{len(captions)} items")
    for method, shares in result.items():
        shown = ", ".join(f"{name}: {one['own']:.2f} (other {one['other']:.2f})" for name, one in shares.items())
        print(f"{method:<10} {shown}")


if __name__ == "__main__":
    main()
