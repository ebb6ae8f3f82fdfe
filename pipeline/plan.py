"""Plan a run: how the corpus differs from the last catalog, and how much there is to encode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gifdex.encoders.feature_cache import FeatureCache
from gifdex.pipeline.scan import Scan
from gifdex.pipeline.workspace import Workspace, catalog_fingerprint
from gifdex.schemas.files import read_table

_COMPARED = ["uri", "sha256", "caption", "metadata"]


@dataclass(frozen=True)
class RunPlan:
    """Counts of files by their change since the last catalog, and of distinct GIFs to encode.

    A file is `moved` if its bytes were known by a URI that is gone, `duplicated` if that URI still exists, and `edited`
    if only its caption or metadata changed. `unreadable` files become rejects. `seconds` is an estimate: the time per
    GIF of the run that encoded most, times `to_encode`; None without earlier runs.
    """

    items: int
    new: int
    changed: int
    moved: int
    duplicated: int
    deleted: int
    edited: int
    unreadable: int
    to_encode: int
    encoder: str
    encoder_changed: bool
    seconds: float | None

    @property
    def notice(self) -> str | None:
        """A warning before the run starts, if another encoder was chosen: what that costs."""
        if not self.encoder_changed or not self.to_encode:
            return None
        return (
            "the image encoder, its weights or the sampling differ from the last run: "
            f"{self.encoder} encodes {self.to_encode:,} GIFs again{_about(self.seconds)}; the old features are kept "
            "until the last version that was built from them is pruned"
        )


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f", in about {seconds:,.0f} seconds at the speed of earlier runs"
    return f", in about {seconds / 60:,.0f} minutes at the speed of earlier runs"


def plan_run(scanned: Scan, missing: int, workspace: Workspace, cache: FeatureCache, encoder: str) -> RunPlan:
    """Compare a scan with the newest catalog; `missing` of its distinct GIFs have to be encoded."""
    before, known = _last(workspace)
    speed = _last_speed(workspace)
    return RunPlan(
        items=len(scanned.catalog),
        **_differences(before, scanned.catalog.select(_COMPARED).to_pylist()),
        unreadable=len(scanned.rejects),
        to_encode=missing,
        encoder=encoder,
        encoder_changed=known is not None and known != cache.fingerprint,
        seconds=None if speed is None else round(missing / speed, 1),
    )


def _last(workspace: Workspace) -> tuple[list[dict[str, Any]], str | None]:
    """Return the newest catalog's rows and its features' fingerprint; nothing if it cannot be read."""
    catalog = workspace.newest_catalog()
    if catalog is None:
        return [], None
    try:
        return read_table(catalog, _COMPARED).to_pylist(), catalog_fingerprint(catalog)
    except (OSError, pa.ArrowException):
        return [], None


def _differences(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, int]:
    old = {row["uri"]: row for row in before}
    uris = {row["uri"] for row in after}
    places: dict[str, set[str]] = {}
    for row in before:
        places.setdefault(row["sha256"], set()).add(row["uri"])
    counts = dict.fromkeys(("new", "changed", "moved", "duplicated", "deleted", "edited"), 0)
    left = {row["uri"] for row in before if row["uri"] not in uris}
    counts["deleted"] = len(left)
    for row in after:
        known = old.get(row["uri"])
        if known is not None:
            counts["changed"] += row["sha256"] != known["sha256"]
            same = (row["caption"], row["metadata"]) == (known["caption"], known["metadata"])
            counts["edited"] += row["sha256"] == known["sha256"] and not same
        elif gone := places.get(row["sha256"], set()) & left:
            left.discard(min(gone))
            counts["moved"] += 1
            counts["deleted"] -= 1
        else:
            counts["duplicated" if row["sha256"] in places else "new"] += 1
    return counts


def _last_speed(workspace: Workspace) -> float | None:
    """Return the GIFs per second of the run that encoded most, because start-up dominates small runs."""
    most, speed = 0, None
    for path in workspace.builds.glob("*/stats.json"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            tried, per_second = int(found["tried"]), float(found["gifs_per_second"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if tried > most and per_second > 0:
            most, speed = tried, per_second
    return speed
