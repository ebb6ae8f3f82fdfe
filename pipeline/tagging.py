"""Tags of a build: the most probable classes of each GIF, appended to the tags in its metadata."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from gifdex.encoders import classifiers
from gifdex.encoders.base import Classifier, ImageEncoder
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas import tables
from gifdex.schemas.errors import CorpusError, EncoderError

TAGS = "tags"  # the key of items' metadata
# GIFs per block: limits memory, and fixes the shapes of the products.
_BLOCK = 4096


def check(settings: IndexSettings, images: ImageEncoder, catalog: pa.Table) -> None:
    """Raise EncoderError or CorpusError now if `tagged` would do so after the long stage."""
    if not settings.tags:
        return
    if images.classifier() is None:
        raise EncoderError(
            f"the image encoder {images.name} has no classifier, which --tags needs: choose another, or build without "
            "--tags"
        )
    for id_, text in zip(catalog["id"].to_pylist(), catalog["metadata"].to_pylist(), strict=True):
        _own(id_, json.loads(text) if text else {})


def tagged(items: pa.Table, settings: IndexSettings, cache: FeatureCache, classifier: Classifier | None) -> pa.Table:
    """Return items (schema ITEMS) with up to `settings.tags` tags each: classes that are probable enough, best first.

    The items' own tags stay, in front. Items without any keep their metadata. Raises as `check` does.
    """
    if not settings.tags:
        return items
    assert classifier is not None  # as was checked
    keys = sorted(set(items["sha256"].to_pylist()))
    found: dict[str, list[str]] = {}
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        best = classifiers.best_classes(classifier, cache.features(block), settings.tags)
        for key, classes in zip(block, best, strict=True):
            found[key] = [name for name, share in classes if share >= settings.min_tag_probability]
    columns = (items[name].to_pylist() for name in ("id", "sha256", "metadata"))
    texts = [_with_tags(id_, text, found[key]) for id_, key, text in zip(*columns, strict=True)]
    place = tables.ITEMS.get_field_index("metadata")
    return items.set_column(place, tables.ITEMS.field(place), pa.array(texts, pa.string()))


def _with_tags(id_: str, text: str | None, tags: list[str]) -> str | None:
    """Return an item's metadata with more tags behind its own."""
    metadata = json.loads(text) if text else {}
    own = _own(id_, metadata)
    known = {tag.casefold() for tag in own}
    combined = [*own, *(tag for tag in tags if tag.casefold() not in known)]
    if not combined:
        return text
    return json.dumps({**metadata, TAGS: combined}, sort_keys=True)


def _own(id_: str, metadata: dict[str, Any]) -> list[str]:
    """Return the tags that an item has from the catalog; one string is one tag."""
    own = metadata.get(TAGS)
    listed = [own] if isinstance(own, str) else [] if own is None else own
    if not isinstance(listed, list) or not all(isinstance(tag, str) for tag in listed):
        raise CorpusError(
            f"the item {id_!r:.80} has the tags {own!r:.80} in the catalog, and --tags can only append to a list of "
            "strings or to one string: rename that column, or build without --tags"
        )
    return [tag for tag in listed if tag]
