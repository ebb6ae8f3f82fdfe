"""What all commands that query an index share: their options, and how they print hits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gifdex.jobs.console import PlaceOption, print_json, print_table, table
from gifdex.jobs.option_types import FieldWeights

if TYPE_CHECKING:
    from gifdex.index.hits import Hit, Moment, Word
    from gifdex.index.lookup import Index

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

store_argument = click.argument("store", type=PlaceOption(file_okay=True))
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object per line: rank, id, score, uri, metadata, and what else the query gives.",
)
fields_option = click.option(
    "--fields", type=FieldWeights(), help="Fields to search, with weights: image,text=0.5.  [default: image]"
)
text_encoder_option = click.option("--text-encoder", help="The index's text encoder, if it has moved since the build.")
# The names are those of `Index.search`'s options, but for `where`, which `chosen_items` reads.
_SEARCH = (
    click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items to return."),
    click.option("--exact", is_flag=True, help="Score every item instead of an engine's candidates."),
    click.option("--engine", help="Engine that proposes candidates: annoy, scan or hnsw.  [default: the index's own]"),
    click.option(
        "--num-candidates",
        type=click.IntRange(1),
        help="Candidates per shard to rescore for ten hits.  [default: the index's own]",
    ),
    fields_option,
    click.option("--min-score", type=float, help="Leave out hits that score less."),
    click.option(
        "--group",
        metavar="SCORE",
        type=click.FloatRange(0, 1, min_open=True),
        help="Show one of each group of near duplicates: of items whose vectors have this score, such as 0.98.",
    ),
    click.option(
        "--where", multiple=True, metavar="KEY=VALUE", help="Only items with this metadata; all of several must match."
    ),
)


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every search has."""
    for option in reversed(_SEARCH):
        command = option(command)
    return command


def chosen_items(index: Index, where: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the filter that --where means for this index; raises a usage error."""
    return {key: _value(value, index.columns.get(key, "")) for key, value in _parsed(where).items()} or None


def _parsed(given: Sequence[str]) -> dict[str, str]:
    """Return KEY=VALUE arguments as a dict; raises a usage error for any other."""
    pairs = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--where {argument!r} is not KEY=VALUE; expected an argument such as tag=cat")
        if key in pairs:
            raise click.UsageError(f'--where names {key} twice; to match any of several values, use {key}=["a", "b"]')
        pairs[key] = value
    return pairs


def _value(text: str, kind: str) -> Any:
    """Parse VALUE for a column of an Arrow type: as JSON if possible, but as text for a column of text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if "string" not in kind:
        return value
    if isinstance(value, list):  # a CSV catalog has even 2015 as text
        return [one if isinstance(one, str) else json.dumps(one) for one in value]
    return value if isinstance(value, str) or value is None else text


def print_words(words: Sequence[Word], as_json: bool) -> None:
    """Print words or tags on stdout: a table, or one JSON object a line."""
    if as_json:
        for rank, (word, score) in enumerate(words, start=1):
            print_json({"rank": rank, "word": word, "score": round(score, 6)})
        return
    shown = table("rank", "score", "word", numbers=("rank", "score"))
    for rank, (word, score) in enumerate(words, start=1):
        shown.add_row(str(rank), f"{score:.3f}", word)
    print_table(shown)


def print_hits(hits: Sequence[Hit], as_json: bool, *, percentiles: bool = False) -> None:
    """Print hits on stdout: a table, or one JSON object a line. A table has `percentiles` only on request."""
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            print_json(_hit_json(rank, hit))
        return
    shown = {
        name: column
        for name, column in _COLUMNS.items()
        if (percentiles or name != "percentile") and any(column[0](hit) for hit in hits)
    }
    names = ["rank", "score", "id", "uri", *shown]
    digits = 3 if not hits or abs(hits[0].score) >= _MIN_SHOWN else 5  # sums of reciprocal ranks are small
    made = table(*sorted(names, key=_ORDER.index), numbers=("rank", "score", "percentile", "at"))
    for rank, hit in enumerate(hits, start=1):
        cells = {"rank": str(rank), "score": f"{hit.score:.{digits}f}", "id": hit.id, "uri": hit.uri}
        cells |= {name: of_hit(hit) or other for name, (of_hit, other) in shown.items()}
        made.add_row(*(cells[name] for name in _ORDER if name in cells))
    print_table(made)


_MIN_SHOWN = 0.1
_ORDER = ("rank", "score", "percentile", "at", "id", "source", "uri", "duplicates")
# Columns that are left out where no hit has them: what they show of a hit, and of one without it.
_COLUMNS: Mapping[str, tuple[Callable[[Hit], str | None], str]] = {
    "percentile": (lambda hit: None if hit.percentile is None else f"{hit.percentile:.3f}", ""),
    "at": (lambda hit: f"{hit.moments[0].milliseconds / 1000:.1f} s" if hit.moments else None, ""),
    "source": (lambda hit: hit.source, "index"),
    "duplicates": (lambda hit: ", ".join(hit.duplicates), ""),
}


def _hit_json(rank: int, hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON; what a query does not give is left out."""
    further = {
        "percentile": None if hit.percentile is None else round(hit.percentile, 4),
        "moments": [_moment_json(moment) for moment in hit.moments],
        "duplicates": list(hit.duplicates),
        "source": hit.source,
    }
    return {
        "rank": rank,
        "id": hit.id,
        "score": round(hit.score, 6),
        "uri": hit.uri,
        "metadata": dict(hit.metadata),
        **{name: value for name, value in further.items() if value not in (None, [])},
    }


def _moment_json(moment: Moment) -> dict[str, Any]:
    return {"milliseconds": moment.milliseconds, "frame": moment.frame, "score": round(moment.score, 6)}
