"""A local service with ten GIFs, and options that allow it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gifdex.index.sources.addresses import AddressRules
from gifdex.index.sources.http import HttpOptions
from tests.conftest import GifMaker
from tests.index.sources.http_service import Service, serving


@pytest.fixture
def service(make_gif: GifMaker) -> Iterator[Service]:
    with serving() as service:
        service.gifs = [make_gif(f"served/{seed}.gif", seed=seed).read_bytes() for seed in range(10)]
        yield service


@pytest.fixture
def local() -> HttpOptions:
    """Options that allow the local service, and wait little between attempts."""
    return HttpOptions(attempts=3, backoff_seconds=0.01, addresses=AddressRules(allow_private=True))
