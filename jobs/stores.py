"""What the commands that look after a store share: it may lie on this machine or at a URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gifdex.schemas.files import is_url


@contextmanager
def store_at(where: Path | str) -> Iterator[Path]:
    """Yield a store's folder or, of one at a URL, its outline: what is published in it is published there."""
    if not is_url(where):
        yield Path(where)
        return
    from gifdex.index.remote import Place
    from gifdex.index.shipping import outlined

    with outlined(Place.of(str(where))) as outline:
        yield outline.folder


def shown(where: Path | str) -> str:
    """Return what output calls a store: of a URL, no key and no options."""
    if not is_url(where):
        return str(where)
    from gifdex.index.remote import Place

    return Place.of(str(where)).shown()
