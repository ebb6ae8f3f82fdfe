"""`gifdex search`: search an index with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PlaceOption, print_json, print_table, table
from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.option_types import FieldWeights

_EPILOG = """\b
Examples:
  gifdex search ws/index "a cat playing the piano"
  gifdex search ws/index "un chat qui joue du piano" -k 3 --json
  gifdex search ws/index "a cat" --where tag=cat --where year=2015
  gifdex search ws/index "a cat" --fields image,caption=0.5
  gifdex search ws/index "a cat" --text-encoder glove:/models/glove.txt
"""


def _parsed(given: tuple[str, ...]) -> dict[str, str]:
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


@click.command("search", epilog=_EPILOG)
@click.argument("store", type=PlaceOption(file_okay=True))
@click.argument("sentence", nargs=-1, required=True)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items to return.")
@click.option("--exact", is_flag=True, help="Score every item instead of an engine's candidates.")
@click.option("--engine", help="Engine that proposes candidates: annoy, scan or hnsw.  [default: the index's own]")
@click.option(
    "--num-candidates",
    type=click.IntRange(1),
    help="Candidates per shard to rescore for ten hits.  [default: the index's own]",
)
@click.option(
    "--fields",
    type=FieldWeights(),
    help="Fields to search, with weights: image,caption=0.5.  [default: image]",
)
@click.option(
    "--where", multiple=True, metavar="KEY=VALUE", help="Only items with this metadata; all of several must match."
)
@click.option("--text-encoder", help="The index's text encoder, if it has moved since the build.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line: rank, id, score, uri, metadata.")
def command(
    store: Path | str,
    sentence: tuple[str, ...],
    k: int,
    exact: bool,
    engine: str | None,
    num_candidates: int | None,
    fields: dict[str, float] | None,
    where: tuple[str, ...],
    text_encoder: str | None,
    as_json: bool,
) -> None:
    """Print the items of STORE that are nearest to SENTENCE, best first.

    STORE is an index store (its published version answers) or the folder of one version. Scores are exact cosines, or
    their weighted sums if several fields are searched. VALUE is JSON (3, true, null, or ["cat", "dog"] for either of
    them); for text metadata it is the text itself.
    """
    from gifdex.index.opening import open_index

    pairs = _parsed(where)
    with filtered_stderr():  # for text encoders on TensorFlow
        index = open_index(store, text_encoder=text_encoder)
        chosen = {key: _value(value, index.columns.get(key, "")) for key, value in pairs.items()} or None
        hits = index.search(
            " ".join(sentence),
            k,
            fields=fields,
            where=chosen,
            engine=engine,
            num_candidates=num_candidates,
            exact=exact,
        )
    if as_json:
        for rank, hit in enumerate(hits, start=1):
            print_json(
                {
                    "rank": rank,
                    "id": hit.id,
                    "score": round(hit.score, 6),
                    "uri": hit.uri,
                    "metadata": dict(hit.metadata),
                }
            )
        return
    shown = table("rank", "score", "id", "uri", numbers=("rank", "score"))
    for rank, hit in enumerate(hits, start=1):
        shown.add_row(str(rank), f"{hit.score:.3f}", hit.id, hit.uri)
    print_table(shown)
