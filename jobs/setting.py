"""What a setting of a run is: one option of the command line, one key of a nightly file, one value of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
COUNT = click.IntRange(1)
SHARE = click.FloatRange(0, 1)


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
