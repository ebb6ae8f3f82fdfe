"""The options of the jobs that read a corpus and the example of their TOML file, made from the settings there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from gifdex.jobs.settings import BY_NAME, SETTINGS, TABLES, TOP, Decorator

# What an option alone can say: it is of one run, so a file cannot.
ONLY_OPTIONS = ("config", "init", "dry_run", "force", "as_json", "verbose")

_BEAM = click.argument("beam_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- BEAM OPTIONS]")
_OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
    click.option("-v", "--verbose", is_flag=True, help="Show what Beam and TensorFlow log."),
)


def _options(*tables: str, without: Iterable[str] = ()) -> list[Decorator]:
    """Return the options of the settings in some tables of the file."""
    left_out = {"beam_options", *without}
    return [setting.option() for setting in SETTINGS if setting.table in tables and setting.name not in left_out]


def _given(*options: Decorator) -> Decorator:
    """Return a decorator that gives a command arguments and options, in their order."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_CORPUS = (click.argument("corpus"), _BEAM, BY_NAME["workspace"].option(required=True))
_PLACES = ("corpus", "workspace")
encode_options = _given(*_CORPUS, *_options(TOP, "encode", without=_PLACES), *_OUTPUT)
build_options = _given(*_CORPUS, *_options(TOP, "encode", "index", without=_PLACES), *_OUTPUT)
nightly_options = _given(*_options(*TABLES), _BEAM, *_OUTPUT)


def example() -> str:
    """Return an example of the file, which has every key."""
    text = (
        "# gifdex nightly gifdex.toml\n"
        "# Every key but corpus and workspace may be left out; shown are the defaults, or examples. Every key is an\n"
        "# option too, such as --min-recall, which overrides it. Paths are relative to this file.\n"
    )
    for table, note in TABLES.items():
        mark = {True: "", False: "# "}
        lines = [
            (f"{mark[setting.name in _PLACES]}{setting.name} = {setting.toml}", setting.note)
            for setting in SETTINGS
            if setting.table == table
        ]
        if table:
            lines = [(f"[{table}]", note), *lines]
        width = max((len(line) for line, said in lines if said), default=0) + 2
        shown = [f"{line:<{width}}# {said}" if said else line for line, said in lines]
        text += "\n" + "\n".join(shown) + "\n"
    return text


def records(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was given of each record's fields, by record; what is None was not given."""
    found: dict[str, dict[str, Any]] = {setting.record: {} for setting in SETTINGS if setting.record}
    for name, value in values.items():
        if value is not None:
            record, field = BY_NAME[name].key
            found[record][field] = value
    return found
