"""The command `gifdex`: runs a subcommand and turns errors into exit codes."""

from __future__ import annotations

import importlib
import sys

import click

from gifdex.schemas.errors import GifdexError

# command -> (module, one line of help), so that `gifdex --help` imports no command
_JOBS = {
    "build": ("gifdex.jobs.build", "Bring a workspace's index up to date with a corpus and publish it."),
    "encode": ("gifdex.jobs.encode", "Bring a workspace's features up to date with a corpus, without an index."),
    "encoders": ("gifdex.jobs.encoders", "List the encoders, and what is missing to use them."),
    "search": ("gifdex.jobs.search", "Search an index with a sentence."),
    "duplicates": ("gifdex.jobs.duplicates", "List groups of near duplicates in an index."),
    "tags": ("gifdex.jobs.tags", "Print the tags of a GIF, a picture or an item."),
    "words": ("gifdex.jobs.words", "Print the words near a word, and build words indexes."),
    "similar": ("gifdex.jobs.similar", "Search an index by GIFs, pictures and items."),
    "evaluate": ("gifdex.jobs.evaluate", "Measure how well an index finds GIFs by their captions."),
    "inspect": ("gifdex.jobs.inspect", "Show what an index is made of."),
    "export": ("gifdex.jobs.export", "Write an index as plain files for other libraries."),
    "verify": ("gifdex.jobs.verify", "Check every byte of an index against its manifest."),
    "nightly": ("gifdex.jobs.nightly", "Build, check, publish and prune: the unattended job."),
    "versions": ("gifdex.jobs.versions", "List the versions of a store, and what was published when."),
    "publish": ("gifdex.jobs.publish", "Publish a version of a store."),
    "rollback": ("gifdex.jobs.rollback", "Publish the previous version again."),
    "prune": ("gifdex.jobs.prune", "Delete old versions, and what only they need."),
    "push": ("gifdex.jobs.push", "Copy a version to another store, such as s3://bucket/index."),
    "demo": ("gifdex.jobs.demo", "Make a small corpus, build its index and search it with six sentences."),
}


class _Jobs(click.Group):
    """Imports a command's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_JOBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _JOBS:
            return None
        command: click.Command = importlib.import_module(_JOBS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _JOBS.items()])


@click.command(
    cls=_Jobs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: gifdex build gifs/ --workspace ws && gifdex search ws/index 'a cat playing the piano'",
)
@click.version_option(package_name="gifdex", prog_name="gifdex")
def gifdex() -> None:
    """Turn a corpus of GIFs into an index that anyone can query by meaning.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 usage,
    3 refused by the quality gate, 75 another run holds the workspace.
    """


def main() -> None:
    """Run the command line and exit."""
    try:
        code = gifdex(standalone_mode=False)
    except click.ClickException as err:
        err.show()
        code = err.exit_code
    except click.exceptions.Abort:
        click.echo("gifdex: interrupted", err=True)
        code = 130
    except GifdexError as err:
        click.echo(f"gifdex: {err}", err=True)
        code = err.exit_code
    except OSError as err:
        where = f" ({err.filename})" if err.filename else ""
        click.echo(f"gifdex: system error: {err.strerror or err}{where}; fix it and run again", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
