"""`gifdex demo`: make a small corpus of GIFs from photographs, index it and search it with six sentences."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import PathOption, print_json, print_table, table
from gifdex.jobs.running import build_table, require_pipeline, run_build

SENTENCES = (
    "a cat looking at the camera",
    "a cup of coffee on a table",
    "a rocket launching into the sky",
    "a motorcycle in a workshop",
    "an old temple in China",
    "a flower in bloom",
)

_EPILOG = """\b
Examples:
  gifdex demo
  gifdex demo --folder /tmp/demo --json
"""


@click.command("demo", epilog=_EPILOG)
@click.option(
    "--folder",
    default=Path("demo"),
    show_default=True,
    type=PathOption(file_okay=False),
    help="Folder for the GIFs and the workspace.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per sentence.")
def command(folder: Path, as_json: bool) -> None:
    """Make GIFs that pan and zoom over photographs from installed packages, index them and search for six sentences.

    A second run encodes nothing and searches for the same sentences.
    """
    require_pipeline()
    from gifdex.index.opening import open_index
    from gifdex.jobs.demo_corpus import make_corpus
    from gifdex.pipeline.settings import BuildSettings

    gifs = make_corpus(folder / "gifs")
    click.echo(f"corpus: {len(gifs)} GIFs in {folder / 'gifs'}", err=True)
    workspace = folder / "workspace"
    summary = run_build(BuildSettings(str(folder / "gifs"), workspace), verbose=False)
    index = open_index(workspace / "index")
    answers = [(sentence, index.search(sentence, k=3)) for sentence in SENTENCES]
    if as_json:
        for sentence, hits in answers:
            print_json({"sentence": sentence, "hits": [{"id": hit.id, "score": round(hit.score, 6)} for hit in hits]})
        return
    print_table(build_table(summary))
    click.echo()
    shown = table("sentence", "first", "score", "then", numbers=("score",))
    for sentence, (first, *rest) in answers:
        shown.add_row(sentence, first.id, f"{first.score:.3f}", ", ".join(f"{hit.id} {hit.score:.3f}" for hit in rest))
    print_table(shown)
    click.echo(f'\nSearch for something else: gifdex search {workspace / "index"} "something to eat"')
