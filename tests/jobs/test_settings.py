"""Each setting is declared once, and has the same name as an option and as a key in the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gifdex.encoders.frames.decoders import registry
from gifdex.jobs import build, config, encode, nightly
from gifdex.jobs.encode_settings import DECODERS
from gifdex.jobs.nightly import _settings
from gifdex.jobs.options import ONLY_OPTIONS, example, records
from gifdex.jobs.settings import BY_NAME, SETTINGS, TABLES
from gifdex.pipeline.settings import BuildSettings, InboxSettings, NightlySettings


def options_of(command: click.Command) -> set[str]:
    return {str(param.name) for param in command.params}


def test_every_key_of_the_file_is_an_option_and_vice_versa() -> None:
    assert options_of(nightly.command) == {setting.name for setting in SETTINGS} | set(ONLY_OPTIONS)
    assert len(BY_NAME) == len(SETTINGS)
    assert {setting.table for setting in SETTINGS} == set(TABLES)


def test_the_jobs_have_the_same_options() -> None:
    command_only = {"corpus", "workspace", "beam_options", "as_json", "verbose"}
    tables = {"encode": {"", "encode"}, "build": {"", "inbox", "encode", "index"}}
    for command in (encode.command, build.command):
        wanted = {setting.name for setting in SETTINGS if setting.table in tables[str(command.name)]}
        assert options_of(command) == wanted | command_only


def full_example() -> str:
    """The example with every commented key enabled."""
    return re.sub(r"(?m)^# (?=\w+ = )", "", example())


def test_the_example_is_toml_with_every_key_in_its_table() -> None:
    found = tomllib.loads(full_example())
    keys = {(table, key) for table, keys in found.items() if isinstance(keys, dict) for key in keys}
    keys |= {("", key) for key, value in found.items() if not isinstance(value, dict)}
    assert keys == {(setting.table, setting.file_key) for setting in SETTINGS}
    assert set(tomllib.loads(example())) == {"corpus", "workspace"} | set(TABLES) - {""}


def settings(path: Path, text: str) -> NightlySettings:
    path.write_text(text)
    command = nightly.command
    options: dict[str, Any] = {str(param.name): None for param in command.params if param.name not in ONLY_OPTIONS}
    options |= {"beam_options": (), "force": False} | config.load(path, command, click.Context(command))
    return _settings({name: value for name, value in options.items() if name not in ("metrics", "log_json")})


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "gifdex.toml"
    shown = settings(path, "\n".join(_without_examples(full_example())))
    assert shown == NightlySettings(BuildSettings(f"{tmp_path}/gifs/", tmp_path / "ws"))
    assert settings(path, example()) == shown


def _without_examples(text: str) -> Iterator[str]:
    examples = {(s.table, s.file_key) for s in SETTINGS if s.is_example} - {("", "corpus"), ("", "workspace")}
    table = ""
    for line in text.splitlines():
        table = line[1:].partition("]")[0] if line.startswith("[") else table
        if (table, line.partition(" = ")[0]) not in examples:
            yield line


def test_every_key_reaches_its_record(tmp_path: Path) -> None:
    found = settings(tmp_path / "gifdex.toml", full_example())
    assert found.build.encode.weights == tmp_path / "vgg16.h5"
    assert (found.build.encode.sampling.frames, found.build.encode.threads) == (8, 2)
    assert found.build.index.projection == tmp_path / "projection.safetensors"
    assert found.build.beam_options == ("--direct_num_workers=1",)
    assert found.gate.canaries == tmp_path / "canaries.jsonl"
    assert (found.keep, found.push) == (3, "s3://bucket/index")
    assert found.build.inbox == InboxSettings(tmp_path / "inbox", 30.0, 10**10)


def test_a_setting_that_is_not_given_keeps_its_default() -> None:
    assert records({"frames": None, "sampling": "all", "max_bytes": 5, "keep": None})["sampling"] == {"strategy": "all"}
    assert records({"max_bytes": 5})["limits"] == {"bytes": 5}


def test_the_decoder_choices_are_the_registered_decoders() -> None:
    assert list(DECODERS) == registry.decoder_names()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_help_ends_with_a_full_stop_and_notes_are_one_line(setting: Any) -> None:
    assert not setting.help or setting.help.endswith(".")
    assert "\n" not in setting.note + setting.toml
