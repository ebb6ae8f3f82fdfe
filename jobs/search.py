"""`gifdex search`: search an index with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.queries import (
    chosen_items,
    json_option,
    print_hits,
    search_options,
    store_argument,
    text_encoder_option,
)

_EPILOG = """\b
Examples:
  gifdex search ws/index "a cat playing the piano"
  gifdex search ws/index "un chat qui joue du piano" -k 3 --json
  gifdex search ws/index "a cat" --where tag=cat --where year=2015
  gifdex search ws/index "a cat" --fields image,caption=0.5
  gifdex search ws/index "a cat" --min-score 0.2
  gifdex search ws/index "a cat" --min-percentile 0.9
  gifdex search ws/index "a cat" --text-encoder glove:/models/glove.txt
"""


@click.command("search", epilog=_EPILOG)
@store_argument
@click.argument("sentence", nargs=-1, required=True)
@search_options
@click.option(
    "--min-percentile",
    type=click.FloatRange(0, 1),
    help="Leave out hits that score less than this share of unrelated sentences' best hits, such as 0.9.",
)
@text_encoder_option
@json_option
def command(
    store: Path | str,
    sentence: tuple[str, ...],
    k: int,
    where: tuple[str, ...],
    text_encoder: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the items of STORE that are nearest to SENTENCE, best first.

    STORE is an index store (its published version answers) or the folder of one version. Scores are exact cosines, or
    their weighted sums if several fields are searched. VALUE is JSON (3, true, null, or ["cat", "dog"] for either of
    them); for text metadata it is the text itself.
    """
    from gifdex.index.opening import open_index

    with filtered_stderr():  # for text encoders on TensorFlow
        index = open_index(store, text_encoder=text_encoder)
        hits = index.search(" ".join(sentence), k, where=chosen_items(index, where), **options)
    print_hits(hits, as_json)
