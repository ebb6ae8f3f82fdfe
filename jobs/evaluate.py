"""`gifdex evaluate`: measure how well an index finds GIFs by their captions."""

from __future__ import annotations

from pathlib import Path

import click

from gifdex.jobs.console import pairs_table, print_json, print_table
from gifdex.jobs.native_logs import filtered_stderr
from gifdex.jobs.queries import fields_option, store_argument, text_encoder_option
from gifdex.schemas.errors import CaptionsError
from gifdex.schemas.files import json_lines

_NAMED = 5
_EPILOG = """\b
Examples:
  gifdex evaluate ws/index --captions captions.jsonl --json
  gifdex evaluate ws/index --captions captions.jsonl --fields image,caption=0.5
"""


@click.command("evaluate", epilog=_EPILOG)
@store_argument
@click.option(
    "--captions",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON Lines with `id` and `caption`.",
)
@fields_option
@text_encoder_option
@click.option("--json", "as_json", is_flag=True, help="Print the measures as one JSON object.")
def command(
    store: Path | str, captions: Path, fields: dict[str, float] | None, text_encoder: str | None, as_json: bool
) -> None:
    """Search STORE for every caption of a file and measure the ranks of the captions' items.

    recall@k is the share of captions whose item is among the first k, median_rank the median rank of the items
    (1 is best). engine_recall@10 is the share of the exact first ten that are among the engine's candidates. Captions
    whose id is not in the index are counted, named, and excluded from the measures. Captions without a word that the
    text encoder knows are counted as unknown, and as not found.
    """
    from gifdex.index.evaluation import evaluate
    from gifdex.index.opening import open_index

    with filtered_stderr():  # for text encoders on TensorFlow
        result = evaluate(open_index(store, text_encoder=text_encoder), read_captions(captions), fields)
    measures = result.measures()
    absent = list(result.absent)
    if as_json:
        print_json({**measures, "absent": len(absent), "absent_ids": absent})
        return
    named = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED:,} more" if len(absent) > _NAMED else "")
    print_table(pairs_table({**measures, "absent": f"{len(absent):,}" + (f" ({named})" if absent else "")}))


def read_captions(path: Path) -> list[tuple[str, str]]:
    """Return (id, caption) of every line with both; raises CaptionsError for an invalid line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise CaptionsError(f"cannot read the captions {path}: {err}; expected JSON Lines in UTF-8") from err
    pairs: list[tuple[str, str]] = []
    for row in json_lines(text, str(path), CaptionsError):
        if "id" not in row:
            raise CaptionsError(f'{path} has a line without an id: {row!r:.80}; expected {{"id": ..., "caption": ...}}')
        if row.get("caption"):
            pairs.append((str(row["id"]), str(row["caption"])))
    if not pairs:
        raise CaptionsError(f"{path} has no line with an id and a caption: give another file")
    return pairs
