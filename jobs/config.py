"""Read the nightly job's TOML file and check it against the known settings."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from gifdex.jobs.console import PathOption
from gifdex.jobs.options import ONLY_OPTIONS
from gifdex.jobs.settings import BY_NAME, SETTINGS, TABLES, TOP
from gifdex.schemas.errors import ConfigError
from gifdex.schemas.files import absolute, is_url


def load(path: Path, command: click.Command, ctx: click.Context) -> dict[str, Any]:
    """Return a file's values by option, converted as the option would.

    Raises ConfigError with the table, the key and the reason.
    """
    try:
        with path.open("rb") as stream:
            found = tomllib.load(stream)
    except FileNotFoundError as err:
        raise ConfigError(f"there is no file {path}: gifdex nightly --init {path} writes an example") from err
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}; expected TOML: fix it") from err
    options = {param.name: param for param in command.params if param.name is not None}
    return {
        (name := _name(table, key)): _converted(path, table, key, value, options[name], ctx)
        for table, key, value in _keys(path, found)
    }


def _known(table: str) -> list[str]:
    """Return the keys of a table."""
    return [setting.file_key for setting in SETTINGS if setting.table == table]


def _name(table: str, key: str) -> str:
    """Return the name of the setting with a key in a table."""
    return next(setting.name for setting in SETTINGS if (setting.table, setting.file_key) == (table, key))


def _keys(path: Path, found: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the table, key and value of every setting in a file."""
    for name, value in found.items():
        if name in TABLES and name and not isinstance(value, dict):
            raise ConfigError(f"{name} of {path} is {value!r:.80}; expected a table: [{name}], and its keys below")
        if isinstance(value, dict):
            if name not in TABLES or not name:
                raise _unknown(path, TOP, f"[{name}]", name, [table for table in TABLES if table])
            for key, inner in value.items():
                if key not in _known(name):
                    raise _unknown(path, name, key, key, _known(name))
                yield name, key, inner
        elif name not in _known(TOP):
            raise _unknown(path, TOP, name, name, _known(TOP))
        else:
            yield TOP, name, value


def _unknown(path: Path, table: str, shown: str, name: str, known: Collection[str]) -> ConfigError:
    """Return an error that suggests a similar name in the same table, or the same name in another."""
    where = f"the table [{table}] of {path}" if table else str(path)
    elsewhere = BY_NAME.get(name)
    if name in {*ONLY_OPTIONS, "json"}:
        hint = f"it applies to a single run, so use the option --{name.replace('_', '-')}"
    elif elsewhere is not None:
        key = elsewhere.file_key
        hint = f"it belongs{_place(elsewhere.table)}" + (f" as {key}" if key != name else "")
    elif near := difflib.get_close_matches(name, known, 1, 0.5):
        hint = f"did you mean {near[0]}?"
    else:
        near = difflib.get_close_matches(name, BY_NAME, 1)
        hint = f"did you mean {near[0]}{_place(BY_NAME[near[0]].table)}?" if near else f"there are {', '.join(known)}"
    return ConfigError(f"{where} has {shown}, which gifdex nightly does not know: {hint}")


def _place(table: str) -> str:
    return f" in [{table}]" if table else " above all tables"


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
    """Return a path relative to the file's folder; a URL is unchanged."""
    if not value or is_url(value):
        return value
    joined = path.absolute().parent / value if not value.startswith("~") else absolute(value)
    return str(joined) + ("/" if value.endswith("/") else "")


def _beside_encoder(path: Path, name: str) -> str:
    """Return an encoder's name such as glove:vectors.txt with its path relative to the file's folder."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{_beside(path, place)}" if colon and not is_url(name) else name
