"""`gifdex search`: ask an index with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PathOption, print_json, print_table, table
from gifdex.jobs.native_logs import filtered_stderr

_EPILOG = """\b
Examples:
  gifdex search ws/index "a cat playing the piano"
  gifdex search ws/index "un chat qui joue du piano" -k 3 --json
  gifdex search ws/index "a cat" --where tag=cat --where year=2015
  gifdex search ws/index "a cat" --text-encoder glove:/models/glove.txt
"""

# As gifdex.index.engines.settings has them, which imports too much for --help.
ENGINES = ("annoy", "scan", "hnsw")


def _filter(given: tuple[str, ...]) -> dict[str, Any] | None:
    """Return KEY=VALUE arguments as a filter, None where there are none."""
    result: dict[str, Any] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--where {argument!r} is no KEY=VALUE; expected such as tag=cat")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result or None


@click.command("search", epilog=_EPILOG)
@click.argument("store", type=PathOption())
@click.argument("sentence", nargs=-1, required=True)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many items to return.")
@click.option("--exact", is_flag=True, help="Score every item instead of an engine's candidates.")
@click.option("--engine", type=click.Choice(ENGINES), help="What proposes candidates.  [default: the index's fastest]")
@click.option("--effort", type=click.IntRange(1), help="Candidates to rescore for ten hits.  [default: as measured]")
@click.option(
    "--where", multiple=True, metavar="KEY=VALUE", help="Only items with that metadata; several must all fit."
)
@click.option("--text-encoder", help="What encodes the sentence, where it lies elsewhere than at build.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: rank, id, score, uri, metadata.")
def command(
    store: Path,
    sentence: tuple[str, ...],
    k: int,
    exact: bool,
    engine: str | None,
    effort: int | None,
    where: tuple[str, ...],
    text_encoder: str | None,
    as_json: bool,
) -> None:
    """Print the items of STORE that are nearest to SENTENCE, best first.

    STORE is an index store (its published version answers) or the folder of one version. Scores are exact cosines.
    VALUE is JSON where it can be read as JSON (3, true, "3", ["cat", "dog"] for any of them) and else a string.
    """
    from gifdex.index.lookup import open_index

    with filtered_stderr():  # some text encoders run in TensorFlow
        index = open_index(store, text_encoder=text_encoder)
        hits = index.search(" ".join(sentence), k, where=_filter(where), engine=engine, effort=effort, exact=exact)
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
