"""The quality gate: the rules that a version must pass before it is published."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gifdex.index import artifact, store
from gifdex.index.lookup import Index
from gifdex.index.opening import open_index
from gifdex.pipeline.settings import GateSettings
from gifdex.schemas.errors import ArtifactError, ConfigError, GifdexError
from gifdex.schemas.files import json_lines

if TYPE_CHECKING:
    from gifdex.pipeline.run import RunSummary

# Damaged files are never published, not even with --force.
NEVER_OVERRULED = "files"
RULES = ("files", "min_recall", "max_shrink", "max_rejects", "canaries", "rolled_back")
_CANARY_HITS = 10


@dataclass(frozen=True)
class Refusal:
    """A rule that a version breaks, and the reason with its numbers."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Canary:
    """A sentence, and the id that must be among its first k hits."""

    sentence: str
    id: str
    k: int = _CANARY_HITS


def read_canaries(path: Path) -> list[Canary]:
    """Read a file of canaries; raises ConfigError with the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read the canaries {path}: {err}; expected JSON Lines in UTF-8") from err
    canaries = [_canary(row, path) for row in json_lines(text, str(path), ConfigError)]
    if not canaries:
        raise ConfigError(
            f'the canaries {path} are empty; expected lines such as {{"sentence": "a cat", "id": "cat_01"}}'
        )
    return canaries


def _canary(row: dict[str, Any], path: Path) -> Canary:
    sentence, key, k = row.get("sentence"), row.get("id"), row.get("k", _CANARY_HITS)
    texts = all(isinstance(text, str) and text.strip() for text in (sentence, key))
    if not texts or isinstance(k, bool) or not isinstance(k, int) or k < 1 or set(row) - {"sentence", "id", "k"}:
        raise ConfigError(
            f"a line of the canaries {path} is {str(row)[:200]}; expected one such as "
            '{"sentence": "a cat", "id": "cat_01", "k": 10}'
        )
    return Canary(str(sentence), str(key), k)


def _none(_: str) -> int:
    return 0


def check(
    folder: Path, build_id: str, run: RunSummary, settings: GateSettings, expired: Callable[[str], int] = _none
) -> list[Refusal]:
    """Return the rules that a version of a store breaks; `run` is the summary of its build.

    `expired` tells how many items of a published version are missing because the inbox's retention let them go.
    Raises ConfigError if the canaries cannot be read.
    """
    canaries = [] if settings.canaries is None else read_canaries(settings.canaries)
    try:
        artifact.verify(folder / build_id)
        index = open_index(folder / build_id)
    except ArtifactError as err:
        return [Refusal("files", str(err))]
    return [
        *_recall(index, settings),
        *_shrink(index, folder, settings, expired),
        *_rejects(run, settings),
        *_canaries(index, canaries),
        *_rolled_back(folder, build_id),
    ]


def _recall(index: Index, settings: GateSettings) -> Iterator[Refusal]:
    """Check the recall of each field's default engine, for the field's vectors and for sentences."""
    for name, field in index.manifest.fields.items():
        if field.engine is None:  # it is scanned
            continue
        engine = field.engines[field.engine]
        if engine.recall is None:
            yield Refusal("min_recall", f"all vectors of the field {name} are zero, so its recall was not measured")
        for kind, found in (("vectors", engine.vector_recall), ("sentences", engine.sentence_recall)):
            share = 1.0 if found is None or "10" not in found.at else found.at["10"]
            if not share >= settings.min_recall:
                yield Refusal(
                    "min_recall",
                    f"recall@10 of the engine {field.engine} over the field {name} is {share} for {kind}, below "
                    f"{settings.min_recall}",
                )


def _shrink(index: Index, folder: Path, settings: GateSettings, expired: Callable[[str], int]) -> Iterator[Refusal]:
    published = list(dict.fromkeys(entry.build_id for entry in reversed(store.history(folder))))
    if (current := store.known_current(folder)) is not None:
        published.insert(0, current)
    for build_id in published:
        try:
            found = artifact.read_manifest(folder / build_id)
        except ArtifactError:  # missing or damaged: compare with the one before it
            continue
        # Near duplicates that a build left out are not missing, unless they have become many more.
        now, before = (manifest.items + manifest.duplicates for manifest in (index.manifest, found))
        shares = index.manifest.duplicates / max(now, 1), found.duplicates / max(before, 1)
        if shares[0] - shares[1] > settings.max_shrink:
            yield Refusal(
                "max_shrink",
                f"{shares[0]:.1%} of its items are left out as near duplicates, and {shares[1]:.1%} of the published "
                f"version {build_id}; the limit for the difference is {settings.max_shrink:.1%}",
            )
        before -= expired(build_id)
        if not now >= (1 - settings.max_shrink) * before:
            yield Refusal(
                "max_shrink",
                f"it has {now:,} items and the published version {build_id} has {before:,}: "
                f"{1 - now / before:.1%} fewer; the limit is {settings.max_shrink:.1%}",
            )
        return
    if published:
        yield Refusal(
            "max_shrink", f"no published version can be read to compare it with; the last one was {published[0]}"
        )


def _rejects(run: RunSummary, settings: GateSettings) -> Iterator[Refusal]:
    rejects, limit = run.rejects - run.inbox_rejects, settings.max_rejects
    files = run.items + rejects
    share = rejects / max(files, 1)
    if not (share if limit < 1 else rejects) <= limit:
        allowed = f"{limit:.1%}" if limit < 1 else f"{limit:,.0f}"
        examples = "".join(f"; such as {error}: {reason}" for error, reason in run.example_rejects.items())
        yield Refusal(
            "max_rejects",
            f"{rejects:,} of {files:,} files are rejects ({share:.1%}), more than {allowed}{examples}",
        )


def _canaries(index: Index, canaries: list[Canary]) -> Iterator[Refusal]:
    failed, ids = [], set(index.ids) if canaries else set()
    for canary in canaries:
        try:
            found = [hit.id for hit in index.search(canary.sentence, canary.k)]
        except GifdexError as err:
            failed.append(f"the query {canary.sentence!r} failed ({err})")
            continue
        if canary.id not in ids:
            near = difflib.get_close_matches(canary.id, ids, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            failed.append(f"{canary.sentence!r} should find {canary.id}, but no item has that id{hint}")
        elif canary.id not in found:
            first = f"the first is {found[0]}" if found else "there are none"
            failed.append(f"{canary.sentence!r} does not find {canary.id} among its {canary.k} hits; {first}")
    if failed:
        yield Refusal("canaries", f"{len(failed)} of {len(canaries)} canaries failed: {'; '.join(failed[:3])}")


def _rolled_back(folder: Path, build_id: str) -> Iterator[Refusal]:
    since = store.rolled_back(folder, build_id)
    if since is not None:
        yield Refusal("rolled_back", f"it was rolled back at {since.isoformat('T', 'seconds')}")
