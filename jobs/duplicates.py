"""`gifdex duplicates`: list groups of near duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifdex.jobs.console import print_json, print_table, stage_progress, table
from gifdex.jobs.queries import store_argument

if TYPE_CHECKING:
    from gifdex.index.hits import Hit

_EPILOG = """\b
Examples:
  gifdex duplicates ws/index
  gifdex duplicates ws/index --min-score 0.95 --json
  gifdex duplicates ws/index --field features --exact
"""


@click.command("duplicates", epilog=_EPILOG)
@store_argument
@click.option(
    "--min-score",
    default=0.98,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Score of items that are near duplicates.",
)
@click.option(
    "--field",
    default="image",
    show_default=True,
    type=click.Choice(("image", "features")),
    help="Field whose vectors are compared.",
)
@click.option("--exact", is_flag=True, help="Compare all items with all, so that no pair is missed.")
@click.option("--engine", help="Engine that proposes candidates: annoy, scan or hnsw.")
@click.option("--num-candidates", type=click.IntRange(1), help="Candidates per shard for each item.  [default: 64]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per group: group, size, items.")
def command(store: Path | str, min_score: float, as_json: bool, **options: Any) -> None:
    """Print groups of near duplicates in STORE, the largest first.

    Items whose exact score reaches --min-score belong to one group, and so do all that are connected by such pairs. The
    most central item of a group comes first; scores are those with it. All items are compared with all, unless
    there are so many that the index's engine finds candidates faster. It may then miss a pair: --exact does not.
    """
    from gifdex.index.opening import open_index

    with stage_progress(verbose=False) as progress:
        groups = open_index(store).duplicates(min_score, progress=progress, **options)
    if as_json:
        for number, group in enumerate(groups, start=1):
            print_json({"group": number, "size": len(group), "items": [_item(hit) for hit in group]})
        return
    shown = table("group", "score", "id", "uri", numbers=("group", "score"))
    for number, group in enumerate(groups, start=1):
        for hit in group:
            shown.add_row(str(number), f"{hit.score:.3f}", hit.id, hit.uri)
    print_table(shown)


def _item(hit: Hit) -> dict[str, Any]:
    return {"id": hit.id, "score": round(hit.score, 6), "uri": hit.uri}
