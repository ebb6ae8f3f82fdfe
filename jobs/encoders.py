"""`gifdex encoders`: list the encoders, and what is missing to use them."""

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(as_json: bool) -> None:
    """List the encoders: name, size of a vector, source of the weights, and whether it can be used here.

    Use the names with --image-encoder and --text-encoder, and replace <...>. Nothing is loaded or downloaded.
    """
    from gifdex.encoders.registry import DEFAULT_IMAGE_ENCODER, DEFAULT_TEXT_ENCODER, list_encoders

    defaults = ("image", DEFAULT_IMAGE_ENCODER), ("text", DEFAULT_TEXT_ENCODER)
    shown = table("kind", "name", "dimensions", "weights", "here", numbers=("dimensions",))
    for encoder in list_encoders():
        default = (encoder.kind, encoder.name) in defaults
        if as_json:
            print_json({**asdict(encoder), "default": default, "available": encoder.missing is None})
            continue
        here = "yes" if encoder.missing is None else f"no; {encoder.missing}"
        if encoder.note and encoder.missing is None:
            here = f"{here}; {encoder.note}"
        dimensions = "its own" if encoder.dimensions is None else str(encoder.dimensions)
        name = f"{encoder.name} (default)" if default else encoder.name
        shown.add_row(encoder.kind, name, dimensions, encoder.weights, here)
    if not as_json:
        print_table(shown)
