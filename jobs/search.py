"""`gifdex search`: search an index with a sentence."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import stage_progress
from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.outside import outside_of, outside_options
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
  GIPHY_API_KEY=... gifdex search ws/index "a cat" --outside giphy --outside-below 0.4 --inbox inbox/
  gifdex search ws/index "a cat" --outside source.toml --outside-when always
  gifdex search ws/index --syntax terms 'cat:2 sofa "ice cream" -dog'
  gifdex search ws/index --syntax terms -- '-dog sofa'
  gifdex search ws/index 'a sign "ice cream"' --fields image,text
"""


@click.command("search", epilog=_EPILOG)
@store_argument
@click.argument("sentence", nargs=-1, required=True)
@click.option(
    "--syntax",
    default="sentence",
    show_default=True,
    type=click.Choice(["sentence", "terms"]),
    help="What SENTENCE is; terms are weighted words.",
)
@click.option(
    "--fusion",
    type=click.Choice(["ranks", "scores"]),
    help="Fuse fields by their ranks or their scores.  [default: ranks with the field text, else scores]",
)
@search_options
@outside_options
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
    outside: str | None,
    outside_when: str,
    outside_below: float | None,
    inbox: Path | None,
    image_encoder: str | None,
    weights: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the items of STORE that are nearest to SENTENCE, best first.

    STORE is an index store (its published version answers) or the folder of one version. Scores are exact cosines, or
    their weighted sums if several fields are searched. The field text has words: it scores by BM25, and a phrase in
    quotation marks must occur. VALUE is JSON (3, true, null, or ["cat", "dog"] for either of them); for text metadata
    it is the text itself.

    An outside source answers where the index has nothing good enough: its candidates are downloaded, encoded as the
    index's own GIFs were, and ranked together with them; see docs/outside-sources.md. If it fails, the index's own
    items are printed, and one sentence on stderr says why.
    """
    from gifdex.index.opening import open_index

    if outside is None and inbox is not None:
        raise click.UsageError("--inbox keeps what an outside source gave, and there is none; name it with --outside")
    with ExitStack() as stack:
        if outside is None:
            stack.enter_context(filtered_stderr())  # for text encoders on TensorFlow
        else:
            progress = stack.enter_context(stage_progress(False))
            options["outside"] = outside_of(outside, outside_when, outside_below, inbox, progress)
        index = open_index(store, text_encoder=text_encoder, image_encoder=image_encoder, weights=weights)
        hits = index.search(" ".join(sentence), k, where=chosen_items(index, where), **options)
    print_hits(hits, as_json, percentiles=options["min_percentile"] is not None)
