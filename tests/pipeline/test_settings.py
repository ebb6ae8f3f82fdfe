from __future__ import annotations

import pytest

from gifdex.pipeline.settings import IndexSettings


def test_fewer_than_one_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="shards is -1"):
        IndexSettings(shards=-1)
