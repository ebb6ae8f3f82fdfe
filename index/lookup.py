"""An opened index: what everyone asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.hits import Hit, Word
from gifdex.index.opened import Opened
from gifdex.index.queries.duplicates import DuplicateOptions, duplicates
from gifdex.index.queries.examples import ExampleEncoder, Examples
from gifdex.index.queries.fuse import Fusion
from gifdex.index.queries.options import SearchOptions
from gifdex.index.queries.search import Query, search
from gifdex.index.queries.sentences import SentenceEmbedder
from gifdex.index.queries.similar import SimilarOptions, similar
from gifdex.index.queries.tags import TagsOptions, tags
from gifdex.index.queries.words import WordsOptions, near_words
from gifdex.index.warming import warm_up


class Index:
    """One opened version of an index; several threads may ask it at once."""

    def __init__(self, opened: Opened, embedder: SentenceEmbedder, examples: ExampleEncoder) -> None:
        self._opened = opened
        self._embedder = embedder
        self._examples = examples
        self.path = opened.path
        self.manifest = opened.manifest
        self.prepare()  # so that this version may be deleted while it answers

    def __len__(self) -> int:
        return self.manifest.items

    def __repr__(self) -> str:
        return f"<gifdex.Index {self.path} ({len(self):,} items)>"

    @property
    def dimensions(self) -> int:
        """Size of the joint space, or of a words index's space; query vectors must have it."""
        return self._opened.main.dimensions

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that can be asked here: "image" and others, or "word" in a words index."""
        return self._opened.names

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that can be asked here."""
        return tuple(dict.fromkeys(name for field in self._opened.fields.values() for name in field.record.engines))

    @property
    def engine(self) -> str | None:
        """The engine that answers from the field "image" (or "word") unless another is asked for."""
        return self._opened.main.record.engine

    @property
    def ids(self) -> list[str]:
        """The ids of all items, in their order."""
        return self._opened.items.ids

    @property
    def columns(self) -> dict[str, str]:
        """What `where` may name, and its Arrow type, such as {"id": "large_string", "year": "int64"}."""
        return self._opened.items.columns

    def field(self, name: str) -> Field:
        """Return an opened field; raises QueryError where the index does not have it."""
        return self._opened.fusion({name: 1.0}).parts[0][0]

    @overload  # a str is a Sequence[str] too, and the first that matches counts
    def search(  # type: ignore[overload-overlap]
        self, query: str, k: int = ..., **options: Unpack[SearchOptions]
    ) -> list[Hit]: ...
    @overload
    def search(self, query: Sequence[str], k: int = ..., **options: Unpack[SearchOptions]) -> list[list[Hit]]: ...
    @overload  # an array's type does not tell one vector from several
    def search(self, query: NDArray[Any], k: int = ..., **options: Unpack[SearchOptions]) -> list[Any]: ...
    def search(self, query: Query, k: int = 10, **options: Unpack[SearchOptions]) -> list[Hit] | list[list[Hit]]:
        """Return the k items nearest to a sentence or a vector, best first.

        A sentence or an array (d,) gives a list of hits; several sentences or an array (n, d) give a list
        of such lists. Scores are exact cosines; equal ones come in the items' order.

        The options are those of `SearchOptions` (gifdex.index.queries.options). Fewer than k hits mean that there are
        fewer items, or fewer that `where` lets through or that reach `min_score`.

        Several threads may search at once. Raises QueryError for a query of the wrong dimensions, with NaN or
        infinity, of length zero, or empty, and for a filter, a field or an engine that the index does not have;
        EncoderError where a sentence needs an encoder that is not the one the index was built with; CorruptIndexError
        where a file was changed in place.
        """
        return search(self._opened, self._embedder, self._examples, query, k, **options)

    def similar(
        self,
        k: int = 10,
        *,
        gif: Examples = None,
        image: Examples = None,
        id: Examples = None,  # as items call it
        **options: Unpack[SimilarOptions],
    ) -> list[Hit]:
        """Return the k items most similar to examples, best first.

        Examples are GIFs (`gif`: a path, bytes or an open binary file), pictures (`image`: the same, or pixels uint8
        RGB (height, width, 3)) and items (`id`); each may be a list. They are added up as unit vectors of the space
        that is searched; `examples` are more of them as `Example(..., weight=)`, and those of `minus` are subtracted.
        Items that examples name, and their copies, are left out of the answer. GIFs and pictures need the index's
        image encoder, which is loaded at the first one.

        `towards` is the name or number of a class of the image encoder's classifier. Features are then multiplied by
        that class's weights before they are compared (Ameisen, "Image search from scratch", 2018), so the part of the
        example that the class sees counts more. That needs an index with the field "features".

        The other options are those of `search`; fields={"features": 1} compares features. Raises as `search` does,
        DecodeError for a GIF or a picture that cannot be decoded, MissingExtraError where the encoder needs a package.
        """
        return similar(self._opened, self._examples, k, gif=gif, image=image, id=id, **options)

    def duplicates(self, min_score: float = 0.98, **options: Unpack[DuplicateOptions]) -> list[list[Hit]]:
        """Return groups of near duplicates: items connected by exact scores of at least `min_score`.

        The largest group comes first. In a group, the most central item comes first; scores are those with it. All
        items are compared with all, unless the default engine proposes candidates faster (it may then miss a pair).
        The options are those of `DuplicateOptions` (gifdex.index.queries.duplicates). Raises QueryError.
        """
        return duplicates(self._opened, min_score, **options)

    def tags(
        self,
        k: int = 10,
        *,
        gif: Examples = None,
        image: Examples = None,
        id: Examples = None,
        words: Index | None = None,
        **options: Unpack[TagsOptions],
    ) -> list[Word]:
        """Return the k best tags of a GIF, a picture or an item, as `similar` takes them, best first.

        Tags are classes of the image encoder's classifier with their probabilities; an item needs the field "features".
        With `words`, a words index in this index's space, they are the nearest words with their cosines.
        Raises as `similar` does, and QueryError where the spaces differ.
        """
        near = words._opened if isinstance(words, Index) else words
        return tags(self._opened, self._examples, k, gif=gif, image=image, id=id, words=near, **options)

    def words(self, word: str, k: int = 10, **options: Unpack[WordsOptions]) -> list[Word]:
        """Return the k words nearest to a word, without itself, with their cosines, best first.

        Only words indexes answer. Raises QueryError for a word that the index does not have, with words of a similar
        spelling, and for an index of GIFs.
        """
        return near_words(self._opened, word, k, **options)

    def embed(self, sentences: Sequence[str]) -> FloatArray:
        """Return n sentences as unit embeddings float32 (n, d); raises as `search` does."""
        return self._embedder.embed(sentences)

    def embed_known(self, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
        """Return the places (k,) of sentences that the text encoder knows a word of, and their embeddings (k, d)."""
        return self._embedder.embed_known(sentences)

    def prepare(self, engine: str | None = None) -> None:
        """Open and check an engine's files now, not at its first search; raises what that search would."""
        self._opened.prepare(self._opened.fusion(None), SearchMethod(engine), 1)

    def warm_up(self, sentences: Sequence[str] = ()) -> None:
        """Search for sentences and some of the index's vectors, so that the next queries find all files in memory."""
        warm_up(self, sentences)

    def fusion(self, fields: Mapping[str, float] | None = None) -> Fusion:
        """Return the fields to search, with their weights: for measuring."""
        _ = self._opened.items  # whose files must be unchanged
        return self._opened.fusion(fields)
