"""The kinds of projections by name, and loading one from its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gifdex.encoders.base import METADATA_KEY, FloatArray
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.projections.zero_shot import ZeroShotProjection
from gifdex.schemas.errors import ProjectionError

KINDS: Mapping[str, type[Projection]] = {known.kind: known for known in (LinearProjection, ZeroShotProjection)}


def make(kind: str, tensors: Mapping[str, FloatArray], metadata: Mapping[str, Any] | None = None) -> Projection:
    """Return a projection of a kind; raises ProjectionError for an unknown kind, or as its class does."""
    if kind not in KINDS:
        raise ProjectionError(f"a projection of kind {kind!r} was given; expected one of {sorted(KINDS)}")
    return KINDS[kind](tensors, metadata or {})


def load(path: Path) -> Projection:
    """Read a projection file; raises ProjectionError with the path and the reason."""
    try:
        with safe_open(path, framework="numpy") as opened:
            entries = opened.metadata() or {}
            if METADATA_KEY not in entries:
                raise ProjectionError(f"{path} is a safetensors file without a gifdex projection: choose another file")
            # safe_open is not iterable, but has keys()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError) as err:  # TypeError: an element type that numpy does not have
        raise ProjectionError(f"cannot read the projection {path}: {err}; expected a safetensors file") from err
    try:
        metadata = json.loads(entries[METADATA_KEY])
    except (ValueError, RecursionError) as err:
        raise ProjectionError(f"the projection {path} has damaged metadata ({err}): fit or copy it again") from err
    other = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != np.float32]
    if other:
        raise ProjectionError(f"the projection {path} has tensors that are not float32 ({other[0]}): fit it again")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("kind"), str):
        raise ProjectionError(f"the projection {path} has metadata without a kind: fit or copy it again")
    try:
        return make(metadata.pop("kind"), tensors, metadata)
    except ProjectionError as err:
        raise ProjectionError(f"{path}: {err}") from err
