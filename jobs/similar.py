"""`gifdex similar`: search an index by example."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifdex.jobs.console import PathOption, notice_after
from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.queries import chosen_items, json_option, print_hits, search_options, store_argument

if TYPE_CHECKING:
    from gifdex.index.queries.examples import Example

_NOTICE_SECONDS = 2.0  # loading an image encoder takes longer where TensorFlow is imported
_STDIN = Path("-")
_MAX_DIGITS = 10  # of a class's number; a longer one is a name that no class has
_EPILOG = """\b
Examples:
  gifdex similar ws/index --id cat_piano
  gifdex similar ws/index --gif cat.gif --minus-id sad_cat -k 5
  gifdex similar ws/index --image dog.jpg --fields features
  gifdex similar ws/index --gif street.gif --towards "sports car"
  curl -s https://example.org/cat.gif | gifdex similar ws/index --gif - --json
"""


@click.command("similar", epilog=_EPILOG)
@store_argument
@click.option("--gif", "gifs", multiple=True, type=PathOption(), help="A GIF as an example; - reads it from stdin.")
@click.option("--image", "images", multiple=True, type=PathOption(), help="A picture as an example; - is stdin.")
@click.option("--id", "ids", multiple=True, help="An item of the index as an example.")
@click.option("--minus-gif", "minus_gifs", multiple=True, type=PathOption(), help="A GIF to subtract.")
@click.option("--minus-image", "minus_images", multiple=True, type=PathOption(), help="A picture to subtract.")
@click.option("--minus-id", "minus_ids", multiple=True, help="An item to subtract.")
@click.option(
    "--towards", metavar="CLASS", help="Name or number of a class of the index's image encoder that counts more."
)
@search_options
@click.option("--image-encoder", help="The index's image encoder, if it has moved since the build.")
@click.option("--weights", type=PathOption(), help="The image encoder's weights file, if it takes one.")
@json_option
def command(
    store: Path | str,
    gifs: tuple[Path, ...],
    images: tuple[Path, ...],
    ids: tuple[str, ...],
    minus_gifs: tuple[Path, ...],
    minus_images: tuple[Path, ...],
    minus_ids: tuple[str, ...],
    towards: str | None,
    k: int,
    where: tuple[str, ...],
    image_encoder: str | None,
    weights: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print the items of STORE that are most similar to examples, best first.

    Give GIFs, pictures and items of the index as examples. Several are added up, and one that is named twice counts
    twice.
    Items that are named, and their copies, are left out of the answer. GIFs and pictures need the index's image
    encoder; items do not. --towards and --fields features need an index that was built with --keep-features.
    """
    from gifdex.index.opening import open_index

    if not (gifs or images or ids):
        raise click.UsageError("there is no example; expected --gif, --image or --id")
    files = (*gifs, *images, *minus_gifs, *minus_images)
    if files.count(_STDIN) > 1:
        raise click.UsageError("several examples are -, but stdin holds one file; give the others by path")
    with filtered_stderr():  # for image encoders on TensorFlow
        index = open_index(store, image_encoder=image_encoder, weights=weights)
        encoder = index.manifest.image_encoder
        notice = None if encoder is None else f"loading the image encoder {encoder.name}, which takes some seconds"
        with notice_after(_NOTICE_SECONDS, notice if files else None):
            hits = index.similar(
                k,
                examples=_examples(gifs, images, ids),
                minus=_examples(minus_gifs, minus_images, minus_ids),
                towards=_class(towards),
                where=chosen_items(index, where),
                **options,
            )
    print_hits(hits, as_json)


def _examples(gifs: Sequence[Path], images: Sequence[Path], ids: Sequence[str]) -> list[Example]:
    from gifdex.index.queries.examples import Example

    return [
        *(Example(gif=_source(path)) for path in gifs),
        *(Example(image=_source(path)) for path in images),
        *(Example(id=key) for key in ids),
    ]


def _source(path: Path) -> Path | bytes:
    return sys.stdin.buffer.read() if path == _STDIN else path


def _class(towards: str | None) -> str | int | None:
    """Return a class as `Index.similar` takes it: digits are its number."""
    is_number = towards is not None and towards.isascii() and towards.isdecimal() and len(towards) < _MAX_DIGITS
    return int(towards) if towards is not None and is_number else towards
