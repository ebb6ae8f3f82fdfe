"""`gifdex encoders`: what can turn frames and sentences into vectors, and what is missing here."""

from __future__ import annotations

from dataclasses import asdict

import click

from gifdex.jobs.console import print_json, print_table, table

_EPILOG = """\b
Examples:
  gifdex encoders
  gifdex encoders --json
"""


@click.command("encoders", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(as_json: bool) -> None:
    """List the encoders: name, size of a vector, where the weights come from, and whether it can be used here.

    The names are what --image-encoder and --text-encoder take; what stands in <...> is yours to fill in. Nothing is
    loaded or downloaded.
    """
    from gifdex.encoders.registry import DEFAULT_IMAGE_ENCODER, DEFAULT_TEXT_ENCODER, offers

    defaults = ("image", DEFAULT_IMAGE_ENCODER), ("text", DEFAULT_TEXT_ENCODER)
    shown = table("kind", "name", "dimensions", "weights", "here", numbers=("dimensions",))
    for offer in offers():
        default = (offer.kind, offer.name) in defaults
        if as_json:
            print_json({**asdict(offer), "default": default, "available": offer.missing is None})
            continue
        here = "yes" if offer.missing is None else f"no; {offer.missing}"
        if offer.note and offer.missing is None:
            here = f"{here}; {offer.note}"
        dimensions = "its own" if offer.dimensions is None else str(offer.dimensions)
        name = f"{offer.name} (default)" if default else offer.name
        shown.add_row(offer.kind, name, dimensions, offer.weights, here)
    if not as_json:
        print_table(shown)
