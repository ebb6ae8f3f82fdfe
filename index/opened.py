"""The opened parts of a version, which all queries use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from gifdex.encoders import classifiers
from gifdex.encoders.base import Classifier, FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import FEATURES, TEXT, WORD, main_field
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.file_watch import FileWatch
from gifdex.index.hits import Hit
from gifdex.index.items import Items, Where
from gifdex.index.kinds import only_gifs
from gifdex.index.queries.cutoff import ANY, Cutoff
from gifdex.index.queries.fuse import Fusion, fusion
from gifdex.index.queries.moments import MomentsOf, moments_of
from gifdex.index.text_file import TextFile
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import CorruptIndexError, QueryError, WeightsError
from gifdex.schemas.manifest import EncoderRecord, Manifest


class _Fields(dict[str, Field]):
    """Fields by name; the lack of those that every index of GIFs has is a QueryError."""

    def __init__(self, path: Path, fields: Mapping[str, Field]) -> None:
        super().__init__(fields)
        self._path = path

    def __missing__(self, name: str) -> Field:
        if WORD in self:
            raise only_gifs(self._path)
        raise KeyError(name)


class Opened:
    """A version's manifest, fields and items. Several threads may use it at once."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        fields: Mapping[str, Field],
        items: Items,
        watch: FileWatch,
        text: TextFile | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.fields = _Fields(path, fields)
        self._items = items
        self._watch = watch
        self._text = text
        self._prepared: set[tuple[str, str]] = set()
        self._default = fusion(path, fields, None)

    @property
    def items(self) -> Items:
        """The items; raises CorruptIndexError if a file was changed in place."""
        self._watch.check()
        return self._items

    @property
    def main(self) -> Field:
        """The field that answers unless a query names another."""
        return self.fields[main_field(self.fields)]

    def require_gifs(self) -> None:
        """Raise QueryError if this is a words index."""
        if WORD in self.fields:
            raise only_gifs(self.path)

    @property
    def image_encoder(self) -> EncoderRecord:
        """The record of the image encoder; raises QueryError for a words index."""
        if self.manifest.image_encoder is None:
            raise only_gifs(self.path)
        return self.manifest.image_encoder

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The image encoder's classifier; raises QueryError if the version has none."""
        if self.manifest.classifier is None:
            raise QueryError(
                f"the index {self.path} has no classifier of its image encoder {self.image_encoder.name}: build it "
                "again, with an encoder that has one"
            )
        path = self.path / self.manifest.classifier
        try:
            found = classifiers.load(path)
        except WeightsError as err:
            raise CorruptIndexError(f"{err} (the index {self.path})") from err
        field = self.fields.get(FEATURES)
        if field is not None and found.weight.shape[1] != field.dimensions:
            raise CorruptIndexError(
                f"{path} is for features of {found.weight.shape[1]:,} dimensions, but those of the index have "
                f"{field.dimensions:,}: restore the file or rebuild"
            )
        return found

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

    def text_file(self) -> TextFile:
        """Return the field of words; raises QueryError if the version has none."""
        if self._text is None:
            raise QueryError(
                f"the index {self.path} has no field {TEXT!r}, only {', '.join(self.fields)}: build it again with this "
                "gifdex, from items that have a word in their ids or captions"
            )
        return self._text

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return (*self.fields, *([] if self._text is None else [TEXT]))

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
        cutoff: Cutoff = ANY,
    ) -> list[list[Hit]]:
        """Return the k best items for each of the unit queries (n, d), best first, if they are good enough."""
        self.prepare(fused, method, len(queries))
        among = None if where is None else self._items.matching(where)
        found = fused.search(queries, k, method, among)
        return [
            self.hits(items, scores, cutoff, moments_of(fused, query))
            for query, (items, scores) in zip(queries, found, strict=True)
        ]

    def hits(self, items: Rows, scores: Scores, cutoff: Cutoff = ANY, moments: MomentsOf | None = None) -> list[Hit]:
        """Return hits for those of items (n,) with falling scores (n,) that are good enough."""
        if not cutoff.is_open:
            kept = cutoff.kept(scores)
            items, scores = items[:kept], scores[:kept]
        keys, uris, metadata = self._items.rows(items)
        shares = cutoff.of(scores)
        if shares is None and moments is None:
            return list(map(Hit, keys, scores.tolist(), uris, metadata))
        nothing = [None] * len(keys)
        percentiles = nothing if shares is None else shares.tolist()
        when = [()] * len(keys) if moments is None else moments(items)
        return list(map(Hit, keys, scores.tolist(), uris, metadata, percentiles, when))
