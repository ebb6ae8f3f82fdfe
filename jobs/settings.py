"""All settings of a run, declared once: options, TOML keys and the example file are generated from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from gifdex.encoders.base import PRECISIONS
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES
from gifdex.jobs.console import PathOption, PlaceOption
from gifdex.jobs.option_types import Names, ShardCount

# Copied from the registry of decoders, which cannot be imported without their extra.
DECODERS = ("auto", "numba", "pillow", "imageio", "pyav")

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True)
class Setting:
    """One setting of a run.

    `name` is the name of the option and of the TOML key, `table` the TOML table ("" is the top level). The value
    becomes `field` of `record`; without a record, the command itself uses it. `type` is a click type, None for a flag.
    A name that begins with its table's, such as inbox_folder, has a shorter key there: folder. `flag` is the option's
    name, where it is another.
    `help` and `default` are texts for the option. `toml` and `note` are the value and the comment in the example file;
    the value is the default unless `is_example`.
    """

    table: str
    name: str
    record: str
    type: click.ParamType[Any] | None
    help: str
    toml: str
    note: str = ""
    default: str = ""
    field: str = ""
    is_example: bool = False
    flag: str = ""

    @property
    def file_key(self) -> str:
        """The key in its table of the file."""
        return self.name.removeprefix(f"{self.table}_") if self.table else self.name

    @property
    def key(self) -> tuple[str, str]:
        """The record and the name of its field."""
        return self.record, self.field or self.name

    def option(self, **changes: Any) -> Decorator:
        """Return the command line's option."""
        flag = self.flag or self.name.replace("_", "-")
        help_ = self.help + (f"  [default: {self.default}]" if self.default else "")
        if self.type is None:
            return click.option(f"--{flag}/--no-{flag}", default=None, help=help_, **changes)
        return click.option(f"--{flag}", self.name, type=self.type, help=help_, **changes)


TOP = ""
# The tables of the file, in order, each with its comment.
TABLES: Mapping[str, str] = {
    TOP: "",
    "inbox": "GIFs that searches fetched from outside sources",
    "encode": "",
    "index": "",
    "gate": "the rules for publishing a version",
    "retention": "",
    "ship": "",
    "runner": "",
    "report": "",
}
_COUNT = click.IntRange(1)
_SHARE = click.FloatRange(0, 1)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        TOP,
        "corpus",
        "",
        click.STRING,
        "Folder, glob or catalog file.",
        '"gifs/"',
        "a folder, a glob, or a catalog file (.parquet, .csv, .jsonl); also s3:// and gs://",
        is_example=True,
    ),
    Setting(
        TOP,
        "workspace",
        "",
        PlaceOption(),
        "Folder or URL for all results.",
        '"ws"',
        "features, builds, and the index store ws/index",
        is_example=True,
    ),
    Setting(
        TOP,
        "strict",
        "build",
        None,
        "Reject a GIF that is cut short or broken after some good frames.",
        "false",
        "reject GIFs that are broken after some good frames",
    ),
    Setting(
        TOP,
        "checksum",
        "build",
        None,
        "Hash every file again instead of trusting size and time.",
        "false",
        "hash every file again instead of trusting size and time",
    ),
    Setting(
        "inbox",
        "inbox_folder",
        "inbox",
        PathOption(file_okay=False),
        "Folder of GIFs that searches fetched from outside sources; they join the corpus.",
        '"inbox/"',
        "they join the corpus, see docs/outside-sources.md",
        field="folder",
        is_example=True,
        flag="inbox",
    ),
    Setting(
        "inbox",
        "inbox_max_days",
        "inbox",
        click.FloatRange(0, min_open=True),
        "Delete what was fetched into the inbox longer ago.",
        "30.0",
        "default: no limit; what was fetched longer ago is deleted",
        field="max_days",
        is_example=True,
    ),
    Setting(
        "inbox",
        "inbox_max_bytes",
        "inbox",
        _COUNT,
        "Delete the oldest in the inbox while it has more bytes.",
        "10000000000",
        "default: no limit; the oldest beyond it are deleted",
        field="max_bytes",
        is_example=True,
    ),
    Setting(
        "encode",
        "image_encoder",
        "encode",
        click.STRING,
        "See `gifdex encoders`.",
        '"efficientnet-lite0"',
        "see gifdex encoders",
        default="efficientnet-lite0",
    ),
    Setting(
        "encode",
        "weights",
        "encode",
        PathOption(),
        "Weights file for the image encoder vgg16.",
        '"vgg16.h5"',
        'for image_encoder = "vgg16"',
        is_example=True,
    ),
    Setting(
        "encode",
        "precision",
        "encode",
        click.Choice(PRECISIONS),
        "Precision of the image encoder.",
        '"auto"',
        ", ".join(PRECISIONS[1:]),
        default="auto: below float32 if the device is built for it and features stay the same",
    ),
    Setting(
        "encode",
        "batch_frames",
        "encode",
        click.IntRange(1, 4096),
        "Batch size of the image encoder, in frames.",
        "32",
        "default: 32; on a GPU 128",
        default="32; on a GPU 128",
        is_example=True,
    ),
    Setting(
        "encode",
        "sampling",
        "sampling",
        click.Choice(tuple(SAMPLING_STRATEGIES)),
        "Which frames represent a GIF: evenly spaced in time, those that differ most, all up to --frames, or the "
        "first.",
        '"uniform"',
        ", ".join(tuple(SAMPLING_STRATEGIES)[1:]),
        default="uniform",
        field="strategy",
    ),
    Setting(
        "encode",
        "frames",
        "sampling",
        click.IntRange(1, 1024),
        "Maximum number of frames to encode per GIF.",
        "8",
        'default: 8; with sampling = "all" 256, with "first" 1',
        default="8; with --sampling all 256, with first 1",
        is_example=True,
    ),
    Setting(
        "encode",
        "decoder",
        "encode",
        click.Choice(DECODERS),
        "Decoder for GIFs.",
        '"auto"',
        ", ".join(DECODERS[1:]),
        default="the fastest installed",
    ),
    Setting(
        "encode",
        "threads",
        "encode",
        _COUNT,
        "Decoding threads.",
        "2",
        "default: one per processor, up to 8",
        default="one per processor, up to 8",
        is_example=True,
    ),
    Setting(
        "encode",
        "max_bytes",
        "limits",
        _COUNT,
        "Largest GIF in bytes.",
        "67108864",
        "per GIF, like all limits",
        default="64 MiB",
        field="bytes",
    ),
    Setting(
        "encode",
        "max_pixels",
        "limits",
        _COUNT,
        "Largest canvas in pixels.",
        "16777216",
        default="16 Mi",
        field="pixels",
    ),
    Setting(
        "encode",
        "max_frames",
        "limits",
        _COUNT,
        "Maximum number of frames in a GIF.",
        "10000",
        default="10,000",
        field="frames",
    ),
    Setting(
        "encode",
        "max_total_pixels",
        "limits",
        _COUNT,
        "Maximum number of pixels to decode.",
        "800000000",
        default="800,000,000",
        field="total_pixels",
    ),
    Setting(
        "encode",
        "max_seconds",
        "limits",
        click.FloatRange(0, min_open=True),
        "Maximum decoding time in seconds.",
        "8.0",
        default="8",
        field="seconds",
    ),
    Setting(
        "index",
        "text_encoder",
        "index",
        click.STRING,
        "See `gifdex encoders`.",
        '"use-multilingual"',
        "see gifdex encoders",
        default="use-multilingual",
    ),
    Setting(
        "index",
        "projection",
        "index",
        PathOption(),
        "A trained projection instead of the zero-shot one.",
        '"projection.safetensors"',
        "default: the zero-shot one",
        is_example=True,
    ),
    Setting(
        "index",
        "trees",
        "annoy",
        _COUNT,
        "Trees of the Annoy index.",
        "5",
        "default: 50 without a reduction",
        default="5; 50 without a reduction",
        is_example=True,
    ),
    Setting(
        "index",
        "hnsw",
        "engines",
        None,
        "Also build a graph, the fastest engine (extra hnsw).",
        "false",
        "a graph, the fastest engine (pip install 'gifdex[hnsw]')",
    ),
    Setting(
        "index",
        "keep_features",
        "index",
        None,
        "Keep the image encoder's own vectors in the index, as the field features.",
        "false",
        "also keep the image encoder's own vectors, as the field features",
    ),
    Setting(
        "index",
        "dedupe",
        "index",
        click.FloatRange(0, 1, min_open=True),
        "Index one of each group of near duplicates: of GIFs whose vectors have this score, such as 0.99.",
        "0.99",
        "index one of each group of near duplicates with this score",
        is_example=True,
    ),
    Setting(
        "index",
        "text_columns",
        "index",
        Names(),
        "Columns of the catalog whose words the field text has, besides id, caption and tags: title,subtitles.",
        '"title,subtitles"',
        "words for the field text, besides those of id, caption and tags",
        is_example=True,
    ),
    Setting(
        "index",
        "tags",
        "index",
        click.IntRange(0),
        "Write up to so many tags into each item's metadata: classes that the image encoder's classifier sees.",
        "0",
        "up to so many tags for each item's metadata, which the image encoder's classifier gives",
        default="0",
    ),
    Setting(
        "index",
        "min_tag_probability",
        "index",
        _SHARE,
        "Minimum probability of a tag.",
        "0.1",
        default="0.1",
    ),
    Setting(
        "index",
        "moments",
        "index",
        None,
        "Keep the embeddings of single frames in the index, as the field frames, so that hits say when.",
        "false",
        "also keep the embeddings of single frames, so that hits say when",
    ),
    Setting(
        "index",
        "shards",
        "index",
        ShardCount(),
        "Number of parts that are built separately, or auto for as few as keep each within 2 GiB of memory.",
        '"auto"',
        default="auto",
    ),
    Setting(
        "gate",
        "min_recall",
        "gate",
        _SHARE,
        "Gate: minimum recall@10 of each field's default engine, on vectors and sentences.",
        "0.95",
        "recall@10 of default engines, on vectors and sentences",
        default="0.95",
    ),
    Setting(
        "gate",
        "max_shrink",
        "gate",
        _SHARE,
        "Gate: maximum share of items that may be missing.",
        "0.2",
        "share of the published version's items that may be missing",
        default="0.2",
    ),
    Setting(
        "gate",
        "max_rejects",
        "gate",
        click.FloatRange(0),
        "Gate: maximum share (below 1) or count of rejects.",
        "0.2",
        "share of the files if below 1, otherwise a count",
        default="0.2",
    ),
    Setting(
        "gate",
        "canaries",
        "gate",
        PathOption(),
        "Gate: JSON Lines of sentence, id and k.",
        '"canaries.jsonl"',
        '{"sentence": "a cat playing", "id": "cat_01", "k": 10} a line',
        is_example=True,
    ),
    Setting(
        "retention",
        "keep",
        "nightly",
        _COUNT,
        "Published versions to keep.",
        "3",
        "published versions to keep, and as many refused ones",
        default="3",
    ),
    Setting(
        "ship",
        "push",
        "nightly",
        PlaceOption(),
        "Copy the published version to a URL or a folder, as `gifdex push` does.",
        '"s3://bucket/index"',
        "copy the published version there, see gifdex push --help",
        is_example=True,
    ),
    Setting(
        "runner",
        "beam_options",
        "",
        click.UNPROCESSED,
        "",
        '["--direct_num_workers=1"]',
        "on the command line they follow --",
        is_example=True,
    ),
    Setting(
        "report",
        "metrics",
        "",
        PathOption(),
        "Write a file for Prometheus' textfile collector.",
        '"/var/lib/node_exporter/textfile/gifdex.prom"',
        is_example=True,
    ),
    Setting("report", "log_json", "", None, "Log on stderr as JSON, one object per line.", "false"),
)
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}
