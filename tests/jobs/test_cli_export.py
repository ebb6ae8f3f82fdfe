"""`gifdex export` as users see it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gifdex.index import export as exports
from gifdex.jobs import export as job
from gifdex.jobs.cli import gifdex
from tests import commands

GOLDEN = Path(__file__).resolve().parents[1] / "index" / "golden" / "format-1" / "0000000000000001"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one published version of 60 items."""
    shutil.copytree(GOLDEN, tmp_path / "store" / GOLDEN.name)
    (tmp_path / "store" / "CURRENT").write_text(f"{GOLDEN.name}\n")
    return tmp_path / "store"


def run(*arguments: str | Path, cwd: Path | None = None) -> commands.Finished:
    return commands.run("export", *arguments, cwd=cwd)


def test_a_store_is_exported_to_plain_files_and_one_line_says_so(store: Path, tmp_path: Path) -> None:
    done = run(store, "out", "--format", "npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'out'} has 60 items as npy: items.jsonl, vectors.npy, ")
    assert "vectors: 60 of 60" in done.stderr
    assert "vectors: 60 of 60" in done.stderr
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (60, 8)


def test_json_is_one_object_on_stdout(store: Path, tmp_path: Path) -> None:
    done = run(store, tmp_path / "out", "--format", "annoy", "--trees", "3", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    files = {name: (tmp_path / "out" / name).stat().st_size for name in ("items.jsonl", "vectors.ann")}
    assert result == {
        "path": str(tmp_path / "out"),
        "format": "annoy",
        "build_id": GOLDEN.name,
        "items": 60,
        "files": sorted(files),
        "bytes": sum(files.values()),
    }
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["parameters"]["trees"] == 3


def test_a_second_export_needs_force(store: Path, tmp_path: Path) -> None:
    assert run(store, tmp_path / "out", "--format", "npy").returncode == 0
    refused = run(store, tmp_path / "out", "--format", "parquet")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == (
        f"gifdex: {tmp_path / 'out'} is not empty; expected a folder that is new or empty: choose another, or "
        "replace an earlier export with --force\n"
    )
    assert run(store, tmp_path / "out", "--format", "parquet", "--force").returncode == 0
    assert (tmp_path / "out" / "vectors.parquet").is_file()


def test_altered_bytes_are_refused_before_writing_anything(store: Path, tmp_path: Path) -> None:
    path = store / GOLDEN.name / "shard-00001.vectors.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    refused = run(store, tmp_path / "out", "--format", "faiss")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"gifdex: {path} has SHA-256 ")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "npy", "--trees", "5"], "--trees is for the format annoy; the format is npy: leave it out"),
        (["--format", "hdf5"], "'hdf5' is not one of 'annoy', 'npy', 'parquet', 'usearch', 'faiss'"),
        (["--format", "annoy", "--trees", "0"], "0 is not in the range x>=1"),
        ([], "Missing option '--format'"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], message: str, store: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(gifdex, ["export", str(store), str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_an_empty_path_is_a_usage_error(store: Path) -> None:
    done = CliRunner().invoke(gifdex, ["export", str(store), "", "--format", "npy"])
    assert done.exit_code == 2
    assert "the path is empty" in done.output


def test_help_has_examples_and_names_every_format_and_file() -> None:
    done = CliRunner().invoke(gifdex, ["export", "--help"])
    assert done.exit_code == 0
    assert "gifdex export ws/index vectors --format npy" in done.output
    for name in exports.FORMATS:
        assert f"\n    {name} " in done.output
    for name in ("vectors.ann", "vectors.npy", "vectors.parquet", "vectors.usearch", "vectors.faiss"):
        assert name in done.output


def test_the_command_and_the_module_agree_on_formats_and_trees() -> None:
    assert (job.FORMATS, job.TREES) == (exports.FORMATS, exports.TREES)
