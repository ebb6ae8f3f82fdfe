from __future__ import annotations

import pytest

from gifdex.pipeline.settings import IndexSettings


def test_a_count_of_shards_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="shards is -1"):
        IndexSettings(shards=-1)
