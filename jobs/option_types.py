"""Types of options that click does not have: counts of shards, names, weighted fields."""

from __future__ import annotations

import math
from typing import Any

import click

_MAX_SHARDS = 4096


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


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME,..."

    def convert(  # noqa: D102
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value is None or isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty name; expected names and commas, such as title,subtitles", param, ctx)
        return names


class FieldWeights(click.ParamType[dict[str, float]]):
    """Names of fields with weights, separated by commas; the default weight is 1."""

    name = "NAME[=WEIGHT],..."

    def convert(  # noqa: D102
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value is None or isinstance(value, dict):
            return value
        weights: dict[str, float] = {}
        for part in str(value).split(","):
            name, equals, text = (piece.strip() for piece in part.partition("="))
            if not name or name in weights:
                self.fail(
                    f"{value!r} names {'no field' if not name else f'{name} twice'}; such as image,caption=0.5",
                    param,
                    ctx,
                )
            weights[name] = self._weight(text, value, param, ctx) if equals else 1.0
        return weights

    def _weight(self, text: str, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            self.fail(f"{value!r} has the weight {text!r}; expected a number, at least 0", param, ctx)
        return weight
