"""What a run can be told, each setting declared once: options, the keys of a TOML file and its example follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from gifdex.encoders.base import PRECISIONS
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES
from gifdex.jobs.console import PathOption, PlaceOption

# As the registry of decoders has them, which cannot be imported without the extra that brings them.
DECODERS = ("auto", "numba", "pillow", "imageio", "pyav")
_MAX_SHARDS = 4096

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class ShardCount(click.ParamType[int]):
    """A whole number of shards, or auto, which is None."""

    name = "auto|N"

    def convert(  # noqa: D102
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value in (None, "auto"):
            return None
        if not str(value).isdecimal() or not 1 <= int(value) <= _MAX_SHARDS:
            self.fail(f"{value!r} is neither auto nor a whole number from 1 to {_MAX_SHARDS:,}.", param, ctx)
        return int(value)


@dataclass(frozen=True)
class Setting:
    """One thing that a run can be told.

    `name` is the option's and the TOML key's, `table` the TOML table ("" is the top). `record` and `field` say which
    setting of which record it becomes; without a record, the command itself uses it. Its values are of the click
    `type`, or true or false without one. `help` and `default`, in words, are for the option. `toml` and `note` are for
    the example file: the value, and what is said of it. It is the default, unless `is_example` says otherwise.
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

    @property
    def key(self) -> tuple[str, str]:
        """The record, and the name of the field in it."""
        return self.record, self.field or self.name

    def option(self, **changes: Any) -> Decorator:
        """Return the command line's option."""
        flag = self.name.replace("_", "-")
        help_ = self.help + (f"  [default: {self.default}]" if self.default else "")
        if self.type is None:
            return click.option(f"--{flag}/--no-{flag}", default=None, help=help_, **changes)
        return click.option(f"--{flag}", type=self.type, help=help_, **changes)


TOP = ""
# The tables of the file, in order, each with what is said of it.
TABLES: Mapping[str, str] = {
    TOP: "",
    "encode": "",
    "index": "",
    "gate": "what a version must be before it is published",
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
        "Where everything is written: a folder or a URL.",
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
        "Weights file, for the image encoder vgg16.",
        '"vgg16.h5"',
        'for image_encoder = "vgg16"',
        is_example=True,
    ),
    Setting(
        "encode",
        "precision",
        "encode",
        click.Choice(PRECISIONS),
        "What the image encoder computes in.",
        '"auto"',
        ", ".join(PRECISIONS[1:]),
        default="auto, less than float32 where the device is built for it and features stay the same",
    ),
    Setting(
        "encode",
        "batch_frames",
        "encode",
        click.IntRange(1, 4096),
        "Frames the image encoder takes at a time.",
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
        "Which frames stand for a GIF: evenly spaced in time, those that differ most, all up to --frames, or the "
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
        "Most frames of each GIF.",
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
        "What decodes GIFs.",
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
        "default: one a processor, up to 8",
        default="one a processor, up to 8",
        is_example=True,
    ),
    Setting(
        "encode",
        "max_bytes",
        "limits",
        _COUNT,
        "Largest GIF in bytes.",
        "67108864",
        "of one GIF, as all limits",
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
        "encode", "max_frames", "limits", _COUNT, "Most frames in a GIF.", "10000", default="10,000", field="frames"
    ),
    Setting(
        "encode",
        "max_total_pixels",
        "limits",
        _COUNT,
        "Most pixels to decode.",
        "800000000",
        default="800,000,000",
        field="total_pixels",
    ),
    Setting(
        "encode",
        "max_seconds",
        "limits",
        click.FloatRange(0, min_open=True),
        "Most seconds of decoding.",
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
        "default: 50 where nothing is reduced",
        default="5; 50 without a reduction",
        is_example=True,
    ),
    Setting(
        "index",
        "hnsw",
        "engines",
        None,
        "Build a graph too, the fastest engine (extra hnsw).",
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
        "the image encoder's own vectors too, as the field features",
    ),
    Setting(
        "index",
        "shards",
        "index",
        ShardCount(),
        "Parts that are built apart: a number, or auto for as few as keep each within 2 GiB of memory.",
        '"auto"',
        default="auto",
    ),
    Setting(
        "gate",
        "min_recall",
        "gate",
        _SHARE,
        "Gate: least recall@10 of the engine.",
        "0.95",
        "recall@10 of the engine that answers",
        default="0.95",
    ),
    Setting(
        "gate",
        "max_shrink",
        "gate",
        _SHARE,
        "Gate: largest share of the items that may be missing.",
        "0.2",
        "share of the published version's items that may be missing",
        default="0.2",
    ),
    Setting(
        "gate",
        "max_rejects",
        "gate",
        click.FloatRange(0),
        "Gate: share (under 1) or count.",
        "0.2",
        "share of the files if under 1, else a count",
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
        "Published versions that stay.",
        "3",
        "published versions, and as many that were refused",
        default="3",
    ),
    Setting(
        "ship",
        "push",
        "nightly",
        PlaceOption(),
        "Copy what is published to a URL or a folder, as `gifdex push` does.",
        '"s3://bucket/index"',
        "copy what is published there, see gifdex push --help",
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
    Setting("report", "log_json", "", None, "Log on stderr as JSON, one object a line.", "false"),
)
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}
