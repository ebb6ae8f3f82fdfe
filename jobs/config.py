"""The nightly job's TOML file: read, checked against the command's options, and written as an example."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PathOption
from gifdex.schemas.errors import ConfigError
from gifdex.schemas.files import absolute, is_url

TOP = ""
# Which keys there are in which table; each is an option of `gifdex nightly`, under the same name unless it says.
TABLES: Mapping[str, tuple[str, ...]] = {
    TOP: ("corpus", "workspace", "strict", "checksum"),
    "encode": (
        "image_encoder",
        "weights",
        "precision",
        "batch_frames",
        "sampling",
        "frames",
        "decoder",
        "threads",
        "max_bytes",
        "max_pixels",
        "max_frames",
        "max_total_pixels",
        "max_seconds",
    ),
    "index": ("text_encoder", "projection", "trees", "hnsw", "keep_features", "shards"),
    "gate": ("min_recall", "max_shrink", "max_rejects", "canaries"),
    "retention": ("keep",),
    "ship": ("push",),
    "runner": ("beam_options",),
    "report": ("metrics", "log_json"),
}
# Options that a file cannot have: they are of one run.
ONLY_FLAGS = ("config", "init", "dry_run", "force", "as_json", "verbose")

EXAMPLE = """\
# gifdex nightly gifdex.toml
# Every key but corpus and workspace may be left out; shown are the defaults. Every key but beam_options is an option
# too, such as --min-recall, which overrides it. Paths are relative to this file.

corpus = "gifs/"        # a folder, a glob, or a catalog file (.parquet, .csv, .jsonl); also s3:// and gs://
workspace = "ws"        # features, builds, and the index store ws/index
# strict = false        # reject GIFs that are broken after some good frames
# checksum = false      # hash every file again instead of trusting size and time

[encode]
# image_encoder = "efficientnet-lite0"     # see gifdex encoders
# weights = "vgg16.h5"                     # for image_encoder = "vgg16"
# precision = "auto"                       # float32, bfloat16, float16
# batch_frames = 32
# sampling = "uniform"                     # scene, all, first
# frames = 8
# decoder = "auto"                         # numba, pillow, imageio, pyav
# threads = 2                              # default: one a processor, up to 8
# max_bytes = 67108864                     # of one GIF, as all limits
# max_pixels = 16777216
# max_frames = 10000
# max_total_pixels = 800000000
# max_seconds = 8.0

[index]
# text_encoder = "use-multilingual"        # see gifdex encoders
# projection = "projection.safetensors"    # default: the zero-shot one
# trees = 5                                # default: 50 where nothing is reduced
# hnsw = false                             # a graph, the fastest engine (pip install 'gifdex[hnsw]')
# keep_features = false                    # the image encoder's own vectors too, as the field features
# shards = "auto"

[gate]                  # what a version must be before it is published
# min_recall = 0.95                        # recall@10 of the engine that answers
# max_shrink = 0.2                         # share of the published version's items that may be missing
# max_rejects = 0.2                        # share of the files if under 1, else a count
# canaries = "canaries.jsonl"              # {"sentence": "a cat playing", "id": "cat_01", "k": 10} a line

[retention]
# keep = 3                                 # published versions, and as many that were refused

[ship]
# push = "s3://bucket/index"               # copy what is published there, see gifdex push --help

[runner]
# beam_options = ["--direct_num_workers=1"]

[report]
# metrics = "/var/lib/node_exporter/textfile/gifdex.prom"
# log_json = false
"""


def load(path: Path, command: click.Command, ctx: click.Context) -> dict[str, Any]:
    """Return what a file says, by option, each value as the option would take it.

    Raises ConfigError with the table, the key and what is wrong.
    """
    try:
        with path.open("rb") as stream:
            found = tomllib.load(stream)
    except FileNotFoundError as err:
        raise ConfigError(f"there is no file {path}: gifdex nightly --init {path} writes an example") from err
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}; expected TOML: mend it") from err
    options = {param.name: param for param in command.params if param.name is not None}
    return {key: _converted(path, table, key, value, options[key], ctx) for table, key, value in _keys(path, found)}


def _keys(path: Path, found: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield table, key and value of all that a file says."""
    for name, value in found.items():
        if name in TABLES and name and not isinstance(value, dict):
            raise ConfigError(f"{name} of {path} is {value!r:.80}; expected a table: [{name}], and its keys below")
        if isinstance(value, dict):
            if name not in TABLES or not name:
                raise _unknown(path, TOP, f"[{name}]", name, [table for table in TABLES if table])
            for key, inner in value.items():
                if key not in TABLES[name]:
                    raise _unknown(path, name, key, key, TABLES[name])
                yield name, key, inner
        elif name not in TABLES[TOP]:
            raise _unknown(path, TOP, name, name, TABLES[TOP])
        else:
            yield TOP, name, value


def _unknown(path: Path, table: str, shown: str, name: str, known: Any) -> ConfigError:
    """Return an error that suggests the nearest name in the same table, or the same name in another."""
    where = f"the table [{table}] of {path}" if table else str(path)
    elsewhere = [other for other, keys in TABLES.items() if name in keys]
    if name in {*ONLY_FLAGS, "json"}:
        hint = f"it is of one run, so it is an option alone, --{name.replace('_', '-')}"
    elif elsewhere:
        hint = f"it belongs in [{elsewhere[0]}]" if elsewhere[0] else "it belongs above all tables"
    elif near := difflib.get_close_matches(name, known, 1, 0.5):
        hint = f"did you mean {near[0]}?"
    else:
        tables = {key: other for other, keys in TABLES.items() for key in keys}
        near = difflib.get_close_matches(name, tables, 1)
        hint = f"did you mean {near[0]} in [{tables[near[0]]}]?" if near else f"there are {', '.join(known)}"
    return ConfigError(f"{where} has {shown}, which gifdex nightly does not know: {hint}")


def _converted(path: Path, table: str, key: str, value: Any, option: click.Parameter, ctx: click.Context) -> Any:
    where = f"{key} in [{table}] of {path}" if table else f"{key} of {path}"
    if key == "beam_options":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f'{where} is {value!r:.80}; expected a list of options such as ["--runner=FlinkRunner"]')
        return tuple(value)
    is_flag = isinstance(option, click.Option) and option.is_flag
    if is_flag != isinstance(value, bool) or not isinstance(value, (bool, str, int, float)):
        expected = "true or false" if is_flag else "a number or a string"
        raise ConfigError(f"{where} is {value!r:.80}; expected {expected}")
    if isinstance(option.type, click.types.IntParamType) and isinstance(value, float):
        raise ConfigError(f"{where} is {value!r:.80}; expected a whole number")
    if key == "corpus" or isinstance(option.type, PathOption):
        value = _beside(path, str(value))
    elif key in ("image_encoder", "text_encoder"):
        value = _beside_encoder(path, str(value))
    try:
        return option.type.convert(value, option, ctx)
    except click.BadParameter as err:
        raise ConfigError(f"{where} is {value!r:.80}: {err.message}") from err


def _beside(path: Path, value: str) -> str:
    """Return a path, relative to the file's folder, and a URL as it is."""
    if not value or is_url(value):
        return value
    joined = path.absolute().parent / value if not value.startswith("~") else absolute(value)
    return str(joined) + ("/" if value.endswith("/") else "")


def _beside_encoder(path: Path, name: str) -> str:
    """Return an encoder's name such as glove:vectors.txt with the path behind the colon relative to the file."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{_beside(path, place)}" if colon and not is_url(name) else name
