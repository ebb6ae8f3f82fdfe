"""The opened parts of a version, which all queries use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gifdex.encoders import classifiers
from gifdex.encoders.base import Classifier, FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import FEATURES
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.file_watch import FileWatch
from gifdex.index.hits import Hit
from gifdex.index.items import Items, Where
from gifdex.index.queries.fuse import Fusion, fusion
from gifdex.index.queries.moments import with_moments
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError
from gifdex.schemas.manifest import Manifest


class Opened:
    """A version's manifest, fields and items. Several threads may use it at once."""

    def __init__(
        self, path: Path, manifest: Manifest, fields: Mapping[str, Field], items: Items, watch: FileWatch
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.fields = dict(fields)
        self._items = items
        self._watch = watch
        self._prepared: set[tuple[str, str]] = set()
        self._default = fusion(path, fields, None)

    @property
    def items(self) -> Items:
        """The items; raises CorruptIndexError if a file was changed in place."""
        self._watch.check()
        return self._items

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The image encoder's classifier; raises QueryError if the version has none."""
        if self.manifest.classifier is None:
            encoder = self.manifest.image_encoder.name
            raise QueryError(
                f"the index {self.path} has no classifier of its image encoder {encoder}: build it again, with an "
                "encoder that has one"
            )
        return classifiers.load(self.path / self.manifest.classifier)

    def class_weights(self, wanted: str | int) -> FloatArray:
        """Return the classifier's weights float32 (d_image,) of a class, by name or number; raises EncoderError."""
        weights: FloatArray = self.classifier.weight[classifiers.find_class(self.classifier.labels, wanted)]
        return weights

    def feature_field(self) -> Field:
        """Return the field of features; raises QueryError if the version does not keep them."""
        if FEATURES not in self.fields:
            raise QueryError(
                f"the index {self.path} does not keep features, which this query needs: build it with --keep-features"
            )
        return self.fields[FEATURES]

    def fusion(self, fields: Mapping[str, float] | None) -> Fusion:
        """Return the fields to search, with their weights; raises QueryError for unknown ones."""
        return self._default if fields is None else fusion(self.path, self.fields, fields)

    def prepare(self, fused: Fusion, method: SearchMethod, queries: int) -> None:
        """Open the engines that `queries` queries will use, and check that the files are still this version's."""
        for field, _ in fused.parts:
            engine = field.engine_for(method, queries)
            if engine is not None and (field.name, engine) not in self._prepared:
                field.searcher.prepare(engine)
                self._watch.check(replaced=True)
                self._prepared.add((field.name, engine))
        self._watch.check()

    def search(
        self,
        fused: Fusion,
        queries: FloatArray,
        k: int,
        method: SearchMethod,
        where: Where | None = None,
        min_score: float | None = None,
    ) -> list[list[Hit]]:
        """Return the k best items for each of the unit queries (n, d), best first, without those under `min_score`."""
        self.prepare(fused, method, len(queries))
        among = None if where is None else self._items.matching(where)
        found = fused.search(queries, k, method, among)
        return [
            with_moments(fused, query, items, self.hits(items, scores, min_score))
            for query, (items, scores) in zip(queries, found, strict=True)
        ]

    def hits(self, items: Rows, scores: Scores, min_score: float | None = None) -> list[Hit]:
        """Return hits for items (n,) with falling scores (n,)."""
        if min_score is not None:
            kept = int(np.count_nonzero(scores >= min_score))
            items, scores = items[:kept], scores[:kept]
        keys, uris, metadata = self._items.rows(items)
        return list(map(Hit, keys, scores.tolist(), uris, metadata))
