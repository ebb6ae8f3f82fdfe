"""Command line options and the example TOML file, both generated from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from gifdex.jobs.setting import Decorator
from gifdex.jobs.settings import BY_NAME, SETTINGS, TABLES, TOP

# Settings of a single run, which have an option but no key in the file.
ONLY_OPTIONS = ("config", "init", "dry_run", "force", "as_json", "verbose")

_BEAM = click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- BEAM OPTIONS]")
_OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
    click.option("-v", "--verbose", is_flag=True, help="Show what Beam and TensorFlow log."),
)


def _options(*tables: str, without: Iterable[str] = ()) -> list[Decorator]:
    """Return the options of the settings in these tables of the file."""
    left_out = {"beam_options", *without}
    return [setting.option() for setting in SETTINGS if setting.table in tables and setting.name not in left_out]


def _given(*options: Decorator) -> Decorator:
    """Return a decorator that adds arguments and options to a command, in order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_CORPUS = (click.argument("corpus"), _BEAM, BY_NAME["workspace"].option(required=True))
_PLACES = ("corpus", "workspace")
encode_options = _given(*_CORPUS, *_options(TOP, "encode", without=_PLACES), *_OUTPUT)
build_options = _given(*_CORPUS, *_options(TOP, "inbox", "encode", "index", without=_PLACES), *_OUTPUT)
nightly_options = _given(*_options(*TABLES), _BEAM, *_OUTPUT)


def example() -> str:
    """Return an example file with every key."""
    text = (
        "# gifdex nightly gifdex.toml\n"
        "# Every key except corpus and workspace is optional; the values are defaults, or examples. Every key is also\n"
        "# an option, such as --min-recall, which overrides it. Paths are relative to this file.\n"
    )
    for table, note in TABLES.items():
        mark = {True: "", False: "# "}
        lines = [
            (f"{mark[setting.name in _PLACES]}{setting.file_key} = {setting.toml}", setting.note)
            for setting in SETTINGS
            if setting.table == table
        ]
        if table:
            lines = [(f"[{table}]", note), *lines]
        width = max((len(line) for line, note in lines if note), default=0) + 2
        shown = [f"{line:<{width}}# {note}" if note else line for line, note in lines]
        text += "\n" + "\n".join(shown) + "\n"
    return text


def records(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the given fields of each record, by record; None means not given."""
    found: dict[str, dict[str, Any]] = {setting.record: {} for setting in SETTINGS if setting.record}
    for name, value in values.items():
        if value is not None:
            record, field = BY_NAME[name].key
            found[record][field] = value
    return found
