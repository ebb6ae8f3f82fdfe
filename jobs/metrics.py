"""Write a nightly run's metrics for Prometheus: a file for node_exporter's textfile collector."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gifdex.schemas.files import commit_bytes

if TYPE_CHECKING:
    from gifdex.pipeline.nightly import NightlySummary, Status


def write_metrics(path: Path, status: Status, exit_code: int, summary: NightlySummary | None) -> None:
    """Replace the file of metrics atomically; `summary` is None if the run failed."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    from gifdex.pipeline.gate import RULES

    registry = CollectorRegistry()

    def gauge(name: str, help_: str, value: float, **labels: str) -> None:
        if name not in gauges:
            gauges[name] = Gauge(f"gifdex_{name}", help_, list(labels), registry=registry)
        (gauges[name].labels(**labels) if labels else gauges[name]).set(value)

    gauges: dict[str, Gauge] = {}
    gauge("last_run_timestamp_seconds", "When the last run ended.", _seconds(status.finished))
    gauge("last_run_exit_code", "0 done, 1 failed, 3 refused by the quality gate.", exit_code)
    if status.last_success is not None:
        help_ = "When a run last ended with its version published."
        gauge("last_success_timestamp_seconds", help_, _seconds(status.last_success))
    if summary is not None:
        run = summary.build.run
        gauge("items", "Items of the version that the last run built.", run.items)
        gauge("partial_items", "Items that could only be decoded in part.", run.partial)
        gauge("encoded_gifs", "GIFs that the last run encoded.", run.encoded)
        gauge("index_bytes", "Bytes of the version that the last run built.", summary.build.bytes)
        gauge("recall", "Recall@10 of the default engine, as the build measured it.", summary.build.engine_recall)
        is_published = summary.outcome != "refused" or summary.previous == summary.build_id
        gauge("published", "1 if the version of the last run is the published one.", is_published)
        for error, count in run.rejects_by_error.items() or [("none", 0)]:
            gauge("rejects", "Files that could not be indexed, by class of error.", count, error=error)
        for stage, seconds in {**run.seconds, **summary.seconds}.items():
            gauge("stage_seconds", "Seconds of each stage of the last run.", seconds, stage=stage)
        for rule in RULES:
            gauge("gate_refused", "1 if the version breaks a rule of the gate.", rule in summary.refused, rule=rule)
    commit_bytes(path, generate_latest(registry), same_temporary_name=True)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
