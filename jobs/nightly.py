"""`gifdex nightly`: the unattended job."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gifdex.jobs import config
from gifdex.jobs.console import (
    JsonLog,
    PathOption,
    pairs_table,
    print_json,
    print_table,
    stage_progress,
)
from gifdex.jobs.options import example, nightly_options, records
from gifdex.jobs.running import build_settings, build_table
from gifdex.jobs.settings import SETTINGS
from gifdex.schemas.errors import (
    ConfigError,
    GateError,
    GifdexError,
    PipelineError,
    RemoteError,
    WorkspaceBusyError,
    WorkspaceError,
)
from gifdex.schemas.files import absolute

if TYPE_CHECKING:
    from gifdex.jobs.console import Reporter
    from gifdex.pipeline.nightly import NightlySummary
    from gifdex.pipeline.plan import RunPlan
    from gifdex.pipeline.settings import NightlySettings

_EPILOG = """\b
Examples:
  gifdex nightly --init gifdex.toml
  gifdex nightly gifdex.toml --dry-run
  gifdex nightly gifdex.toml --log-json --metrics /var/lib/node_exporter/textfile/gifdex.prom
  gifdex nightly gifdex.toml --force          # publish even if the gate refuses
  gifdex nightly --corpus gifs/ --workspace ws --min-recall 0.98 --keep 7
"""


@click.command("nightly", epilog=_EPILOG)
@click.argument("config", required=False, type=PathOption())
@click.option("--init", is_flag=True, help="Write an example to CONFIG (gifdex.toml) and do nothing else.")
@click.option("--dry-run", is_flag=True, help="Hash new files and show what a run would do; encode nothing.")
@click.option("--force", is_flag=True, help="Publish even if the gate refuses, and record that.")
@nightly_options
@click.pass_context
def command(ctx: click.Context, /, init: bool, as_json: bool, verbose: bool, dry_run: bool, **options: Any) -> None:
    """Bring an index up to date, check it, publish it, and delete old versions: the job to schedule.

    CONFIG is a TOML file. Every key is also an option, which overrides it (beam_options follow --). If the quality gate
    refuses a version, the version is kept for inspection and the published one stays (exit code 3). A second run at the
    same time exits at once (75). A run can be killed at any moment: the published version still answers, and the next
    run continues.
    """
    log_json = bool(options["log_json"])
    try:
        _command(ctx, init, as_json, verbose, dry_run, options)
    except GifdexError as err:
        if not (log_json or options["log_json"]):
            raise
        event = "refused" if isinstance(err, GateError) else "failed"
        JsonLog(sys.stderr).event(
            event, level="error", error=type(err).__name__, message=str(err), exit_code=err.exit_code
        )
        ctx.exit(err.exit_code)


def _command(
    ctx: click.Context, init: bool, as_json: bool, verbose: bool, dry_run: bool, options: dict[str, Any]
) -> None:
    """Run the command; `options` receives the file's values, even if an error is raised later."""
    path = options.pop("config")
    if path is not None and str(path).startswith("-"):  # a Beam option after --, without a CONFIG before it
        options["beam_options"] = (str(path), *options["beam_options"])
        path = None
    if init:
        _init(path or Path("gifdex.toml"))
        return
    if path is not None:
        for name, value in config.load(path, ctx.command, ctx).items():
            if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                options[name] = value
    for name in ("corpus", "workspace"):
        if not options[name]:
            raise click.UsageError(
                f"no {name} is given; expected --{name}, or a CONFIG such as gifdex.toml with {name} = ... in it"
            )
    metrics, log_json = options.pop("metrics"), bool(options["log_json"])
    if metrics is not None and not absolute(metrics).parent.is_dir():  # fail before the run rather than after it
        raise ConfigError(f"there is no folder {absolute(metrics).parent} for the metrics: create it, or name another")
    if metrics is not None and not os.access(absolute(metrics).parent, os.W_OK):
        raise ConfigError(
            f"the folder {absolute(metrics).parent} of the metrics cannot be written: fix its permissions"
        )
    settings = _settings({name: value for name, value in options.items() if name != "log_json"})
    with stage_progress(verbose, log_json=log_json) as reporter:
        if dry_run:
            from gifdex.pipeline.nightly import check, make_plan

            check(settings)
            found = make_plan(settings.build, reporter)
            reporter.event("planned", **asdict(found))
        else:
            summary, error = _run(settings, metrics, reporter)
    if dry_run:
        print_json(asdict(found)) if as_json else print_table(_plan_table(found))
        return
    if summary is not None:
        print_json(summary.to_json()) if as_json else print_table(_table(summary))
    if error is not None:
        raise error


def _init(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(example())
    except FileExistsError as err:
        raise ConfigError(f"{path} already exists: delete it, or name another file") from err
    click.echo(f"wrote {path}: set corpus and workspace in it, then gifdex nightly {path} --dry-run", err=True)


def _settings(options: dict[str, Any]) -> NightlySettings:
    corpus, workspace, beam = options.pop("corpus"), options.pop("workspace"), options.pop("beam_options")
    force = options.pop("force")
    own = {s.name: options.pop(s.name) for s in SETTINGS if s.record in ("gate", "nightly")}
    build = build_settings(corpus, workspace, beam, options)
    from gifdex.pipeline.settings import GateSettings, NightlySettings

    found = records({**own, "push": None if own["push"] is None else str(own["push"])})
    return NightlySettings(build, GateSettings(**found["gate"]), force=force, **found["nightly"])


def _run(
    settings: NightlySettings, metrics: Path | None, reporter: Reporter
) -> tuple[NightlySummary | None, GifdexError | None]:
    """Run, and write status, metrics and log; return the summary, and the error of a failed or refused run."""
    from gifdex.pipeline.nightly import REFUSED, nightly

    summary: NightlySummary | None = None
    error: GifdexError | None = None
    try:
        summary = nightly(settings, reporter)
    except WorkspaceBusyError as err:  # status and metrics belong to the other run
        return None, err
    except GifdexError as err:
        error = err
    except Exception as err:
        _record_end(settings, metrics, None, PipelineError(f"{type(err).__name__}: {err}"))
        raise  # a defect of gifdex
    if summary is not None and summary.outcome == REFUSED:
        error = _refusal(summary)
    elif summary is not None and summary.not_pushed is not None:
        error = RemoteError(
            f"the version {summary.build_id} is published in {summary.build.store}, but was not pushed: "
            f"{summary.not_pushed}"
        )
    error = _record_end(settings, metrics, summary, error)
    if summary is not None:  # after a refusal, the error follows
        reporter.event(summary.outcome if error is None else "ended", **summary.to_json())
    return summary, error


def _record_end(
    settings: NightlySettings, metrics: Path | None, summary: NightlySummary | None, error: GifdexError | None
) -> GifdexError | None:
    """Write status and metrics; return the run's error, or the one from writing."""
    from gifdex.jobs.metrics import write_metrics
    from gifdex.pipeline.holding import workspace_of
    from gifdex.pipeline.nightly import record_status

    workspace = workspace_of(settings.build.workspace)
    if not workspace.root.is_dir():
        return error
    outcome = "failed" if summary is None else summary.outcome
    try:
        status = record_status(settings.build.workspace, outcome, None if error is None else str(error))
        if metrics is not None:
            write_metrics(metrics, status, 0 if error is None else error.exit_code, summary)
    except OSError as err:  # the run's own error is more important
        return error or WorkspaceError(
            f"the run succeeded ({outcome}), but {err.filename or workspace.status} cannot be written: "
            f"{err.strerror or err}; free some space or fix the permissions"
        )
    return error


def _refusal(summary: NightlySummary) -> GateError:
    version, store = summary.build_id, summary.build.store
    reasons = "; ".join(f"{reason} ({rule})" for rule, reason in summary.refused.items())
    if summary.previous == version:
        return GateError(
            f"the published version {version} would now be refused: {reasons}; fix the cause, or roll back with "
            f"gifdex rollback {store}"
        )
    stays = f", and {summary.previous} stays published" if summary.previous else ""
    return GateError(
        f"the version {version} was not published{stays}: {reasons}; inspect it with gifdex inspect {store}/{version}, "
        f"then fix the cause, or publish it with gifdex publish {store} {version}"
    )


def _table(summary: NightlySummary) -> Any:
    table = build_table(summary.build, {**summary.build.run.seconds, **summary.seconds})
    table.add_row("outcome", _outcome_text(summary))
    for rule, reason in summary.refused.items():
        table.add_row(f"gate: {rule}", reason)
    gone = summary.pruned
    if summary.pushed:
        table.add_row("pushed", f"{summary.pushed['version']} to {summary.pushed['destination']}")
    if gone.versions or gone.parts:
        table.add_row("pruned", f"{len(gone.versions)} versions, {gone.parts} parts of features")
    return table


def _outcome_text(summary: NightlySummary) -> str:
    if summary.outcome == "refused":
        return "refused" + (f"; {summary.previous} stays published" if summary.previous else "")
    overruled = f"; overruled: {', '.join(summary.refused)}" if summary.refused else ""
    before = f", before it {summary.previous}" if summary.previous not in (None, summary.build_id) else ""
    return f"{summary.outcome}{before}{overruled}"


def _plan_table(found: RunPlan) -> Any:
    rows: dict[str, Any] = {
        "items": f"{found.items:,}",
        "files": f"{found.new:,} new, {found.changed:,} changed, {found.moved:,} moved, {found.duplicated:,} "
        f"duplicated, {found.deleted:,} deleted, {found.edited:,} with other captions or metadata, "
        f"{found.unreadable:,} unreadable",
        "to encode": f"{found.to_encode:,} GIFs by {found.encoder}"
        + ("" if found.seconds is None else f", about {found.seconds:,.0f} s at the speed of earlier runs"),
    }
    if found.notice:
        rows["notice"] = found.notice
    return pairs_table(rows)
