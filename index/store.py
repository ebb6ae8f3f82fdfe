"""A store: a folder of immutable versions, and the pointer CURRENT to the published one."""

from __future__ import annotations

import re
from pathlib import Path

from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError
from gifdex.schemas.files import commit_bytes
from gifdex.schemas.manifest import MANIFEST_NAME

POINTER_NAME = "CURRENT"
_BUILD_ID = re.compile(r"[0-9a-f]{16}")


def publish(store: Path, build_id: str) -> None:
    """Make a version the store's current one, by one rename.

    Raises IndexNotFoundError where the version is not finished.
    """
    if not _BUILD_ID.fullmatch(build_id) or not (store / build_id / MANIFEST_NAME).is_file():
        raise IndexNotFoundError(f"{store} has no finished version {build_id}: build it before publishing")
    commit_bytes(store / POINTER_NAME, f"{build_id}\n".encode())


def current(store: Path) -> str | None:
    """Return the published build id, or None where nothing is published.

    Raises CorruptIndexError where the pointer is damaged.
    """
    try:
        text = (store / POINTER_NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {store / POINTER_NAME}: {err}; publish a version again") from err
    if not _BUILD_ID.fullmatch(text):
        raise CorruptIndexError(f"{store / POINTER_NAME} holds {text[:40]!r}, not a build id: publish a version again")
    return text


def resolve(path: Path) -> Path:
    """Return the version's folder that `path` stands for: itself, or the published one of a store.

    Raises IndexNotFoundError that says what is there instead.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as err:  # a folder above it may not be entered, or the name is too long
        raise IndexNotFoundError(f"cannot look at {path}: {err.strerror}; expected an index store") from err
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        raise IndexNotFoundError(f"{path} {what}; expected an index store or one of its versions: build one first")
    if (path / MANIFEST_NAME).is_file():
        return path
    build_id = current(path)
    if build_id is not None:
        if not (path / build_id / MANIFEST_NAME).is_file():
            raise CorruptIndexError(
                f"{path / POINTER_NAME} names the version {build_id}, which is not there or not finished: publish "
                "another version or rebuild"
            )
        return path / build_id
    if (path / "index" / POINTER_NAME).is_file():
        raise IndexNotFoundError(f"{path} is a workspace, not an index store: use {path / 'index'}")
    raise IndexNotFoundError(
        f"{path} holds neither {POINTER_NAME} nor {MANIFEST_NAME}, so no index was published there: build one first"
    )
