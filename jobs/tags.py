"""`gifdex tags`: print the tags of a GIF, a picture or an item."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PathOption, PlaceOption
from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.queries import print_words, store_argument

_EPILOG = """\b
Examples:
  gifdex tags ws/index --gif cat.gif
  gifdex tags ws/index --image cat.jpg -k 3 --json
  gifdex tags ws/index --id cat_piano --min-score 0.1
  gifdex tags ws/index --id cat_piano --words words/
"""


@click.command("tags", epilog=_EPILOG)
@store_argument
@click.option("--gif", type=PathOption(), help="A GIF, or another animation that gifdex reads.")
@click.option("--image", type=PathOption(), help="A picture.")
@click.option("--id", "id_", help="The id of an item.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many tags to print.")
@click.option("--words", type=PlaceOption(), help="A words index of STORE's space: print its nearest words instead.")
@click.option("--max-rank", type=click.IntRange(1), help="Use only so many of its first words.  [default: 20000]")
@click.option("--min-score", type=float, help="Leave out tags that score less.")
@click.option("--image-encoder", help="STORE's image encoder, if it has moved since the build.")
@click.option("--weights", type=PathOption(), help="Weights file of the image encoder vgg16.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line: rank, word, score.")
def command(
    store: Path | str,
    gif: Path | None,
    image: Path | None,
    id_: str | None,
    k: int,
    words: Path | str | None,
    max_rank: int | None,
    min_score: float | None,
    image_encoder: str | None,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Print the tags of one GIF, picture or item of STORE, best first.

    Tags are the classes of the image encoder's classifier, and scores their probabilities. With --words they are the
    nearest words of a words index that `gifdex words build --index STORE` made, and scores are cosines. --id without
    --words needs an index that was built with --keep-features.
    """
    if sum(one is not None for one in (gif, image, id_)) != 1:
        raise click.UsageError("give one of --gif, --image and --id")
    from gifdex.index.opening import open_index

    with filtered_stderr():  # for image encoders on TensorFlow
        index = open_index(store, image_encoder=image_encoder, weights=weights)
        near = None if words is None else open_index(words)
        found = index.tags(k, gif=gif, image=image, id=id_, words=near, max_rank=max_rank, min_score=min_score)
    print_words(found, as_json)
