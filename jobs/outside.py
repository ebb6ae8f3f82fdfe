"""The options of a search that asks an outside source, and the file that describes one."""

from __future__ import annotations

import difflib
import os
import re
import string
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from gifdex.jobs.console import PathOption
from gifdex.schemas.errors import ConfigError

if TYPE_CHECKING:
    from gifdex.index.queries.hybrid import Outside
    from gifdex.index.sources.base import CandidateSource
    from gifdex.schemas.progress import Progress

GIPHY = "giphy"
_Type = type | tuple[type, ...]
_NUMBER = (int, float)
_TYPES: Mapping[_Type, str] = {str: "a text", int: "a whole number", _NUMBER: "a number", list: "a list of texts"}
# The keys of a source's file, by table.
_KEYS: Mapping[str, Mapping[str, _Type]] = {
    "": {"name": str, "url": str, "page_size": int, "count": int, "seconds": _NUMBER, "private_hosts": list},
    "keys": {"items": str, "url": str, "id": str, "page_url": str, "title": str},
    "rate_limit": {"calls": int, "seconds": _NUMBER},
    "budget": {"max_files": int, "max_file_bytes": int, "max_bytes": int, "seconds": _NUMBER, "connections": int},
}
_NEEDED = {"": ("name", "url", "keys"), "keys": ("items", "url"), "rate_limit": ("calls", "seconds")}
_ANY_KEYS = "headers"
_AUTHORITY = re.compile("(?:[^/?#]*//)?[^/?#]*")  # the scheme and the host of a URL

_OPTIONS = (
    click.option(
        "--outside",
        metavar="giphy|FILE",
        help="Also rank GIFs of an outside source: giphy, or a TOML file that describes one.",
    ),
    click.option(
        "--outside-when",
        type=click.Choice(("below", "always")),
        default="below",
        show_default=True,
        help="When to ask it: where the index's best hit is below a score, or always.",
    ),
    click.option(
        "--outside-below",
        type=float,
        metavar="SCORE",
        help="The score below which the index's best hit is not good enough.  [default: --min-score]",
    ),
    click.option(
        "--inbox",
        type=PathOption(file_okay=False),
        help="Folder that keeps what was fetched, for `gifdex build --inbox`.",
    ),
    click.option("--image-encoder", help="The index's image encoder, if it has moved since the build."),
    click.option("--weights", type=PathOption(), help="Its weights file, if it takes one."),
)


def outside_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an outside source."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def outside_of(given: str, when: str, below: float | None, inbox: Path | None, progress: Progress) -> Outside:
    """Return the source that --outside names; raises ConfigError. Its answers are kept in the user's cache."""
    from gifdex.index.queries.hybrid import Outside
    from gifdex.index.sources.giphy import GiphySource
    from gifdex.index.sources.results_cache import CachedSource, ResultsCache
    from gifdex.index.store.fetch import default_cache

    def cached(source: CandidateSource) -> CandidateSource:
        return CachedSource(source, ResultsCache(default_cache() / "outside"))

    if given == GIPHY:
        return Outside(cached(GiphySource()), when, below, inbox=inbox, progress=progress)
    source, limits = _described(Path(given))
    return Outside(cached(source), when, below, inbox=inbox, progress=progress, **limits)


def _described(path: Path) -> tuple[CandidateSource, dict[str, Any]]:
    """Return the source that a file describes, and what `Outside` needs to know of it besides."""
    from gifdex.index.sources.addresses import AddressRules
    from gifdex.index.sources.downloads import DownloadBudget
    from gifdex.index.sources.http import HttpOptions
    from gifdex.index.sources.json_http import JsonKeys, JsonSource
    from gifdex.index.sources.rate_limit import RateLimit

    found = _read(path)
    for host in found.get("private_hosts", ()):
        if not host or re.search("[/@?#]", host):
            raise ConfigError(f"private_hosts of {path} has {host!r:.80}; expected the name of a host, without http://")
    http = HttpOptions(addresses=AddressRules(private_hosts=frozenset(found.pop("private_hosts", ()))))
    limits: dict[str, Any] = {name: found.pop(name) for name in ("count", "seconds") if name in found}
    try:
        if "budget" in found:
            limits["budget"] = DownloadBudget(**found.pop("budget"))
        rate = RateLimit(**found.pop("rate_limit")) if "rate_limit" in found else None
    except ValueError as err:
        raise ConfigError(f"{path} has a limit that cannot be used: {err}") from err
    for name, least in (("count", 1), ("seconds", 0)):
        if name in limits and not (limits[name] >= least and limits[name] > 0):  # also refuses NaN
            raise ConfigError(
                f"{name} of {path} is {limits[name]}; expected {'at least 1' if least else 'more than 0'}"
            )
    keys = JsonKeys(**found.pop("keys"))
    own = {"seconds": limits["seconds"]} if "seconds" in limits else {}
    source = JsonSource(keys=keys, options=http, rate_limit=rate, **own, **found)
    return source, {**limits, "http": http}


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            found = tomllib.load(stream)
    except FileNotFoundError as err:
        raise ConfigError(
            f"there is no outside source {path}; expected {GIPHY}, or a TOML file that describes a source"
        ) from err
    except RecursionError as err:
        raise ConfigError(f"{path} has tables or lists too deep in each other; expected those of a source") from err
    except (OSError, ValueError) as err:
        raise ConfigError(f"cannot read {path}: {err}; expected TOML: fix it") from err
    headers = found.pop(_ANY_KEYS, {})
    for name in set(_KEYS).intersection(found):
        if not isinstance(found[name], dict):
            raise ConfigError(f"{name} of {path} is a {type(found[name]).__name__}; expected the table [{name}]")
    tables = {name: table for name, table in found.items() if isinstance(table, dict)}
    for name, table in tables.items():
        _check(path, name, table)
    _check(path, "", {name: value for name, value in found.items() if name not in tables}, tuple(tables))
    for name, value in headers.items() if isinstance(headers, dict) else [(_ANY_KEYS, headers)]:
        if not isinstance(headers, dict) or not isinstance(value, str):  # which may be a secret
            expected = "a text" if isinstance(headers, dict) else "a table of texts"
            raise ConfigError(f"{name} of {path} is a {type(value).__name__}; expected {expected}")
    found["url"] = _filled_url(path, found["url"])
    return found | {"headers": {name: _filled(path, name, value) for name, value in headers.items()}}


def _check(path: Path, table: str, found: Mapping[str, Any], tables: tuple[str, ...] = ()) -> None:
    """Raise ConfigError unless a table has known keys of the right types, and those that are needed."""
    where = f"[{table}] of {path}" if table else str(path)
    if table not in _KEYS:
        known_tables = ", ".join([*filter(None, _KEYS), _ANY_KEYS])
        raise ConfigError(f"{path} has the table [{table}], which no outside source has; there are {known_tables}")
    known = _KEYS[table]
    for name, value in found.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{where} has {name}, which no outside source has: {hint}")
        texts = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if not isinstance(value, known[name]) or isinstance(value, bool) or not texts:
            raise ConfigError(f"{name} of {where} is {value!r:.80}; expected {_TYPES[known[name]]}")
    for name in _NEEDED.get(table, ()):
        if name not in found and name not in tables:
            raise ConfigError(f"{where} has no {name}, which an outside source needs; add it")


def _filled_url(path: Path, template: str) -> str:
    """Return a URL template with variables, percent-encoded behind the host so that each stays one value."""
    if not template:
        return template
    authority = _AUTHORITY.match(template)
    end = authority.end() if authority is not None else 0
    host = _filled(path, "url", template[:end], lambda value: value.replace("{", "{{").replace("}", "}}"))
    return host + _filled(path, "url", template[end:], lambda value: quote(value, safe=""))


def _filled(path: Path, name: str, text: str, encoded: Callable[[str], str] = str) -> str:
    """Return a text with $VARIABLES from the environment, which is where secrets belong; $$ is a dollar sign."""
    try:
        return string.Template(text).substitute({key: encoded(value) for key, value in os.environ.items()})
    except KeyError as err:
        raise ConfigError(
            f"{name} of {path} needs the environment variable {err.args[0]}, which is not set: set it"
        ) from err
    except ValueError as err:
        raise ConfigError(f"{name} of {path} has a $ that names no variable; write $$ for a dollar sign") from err
