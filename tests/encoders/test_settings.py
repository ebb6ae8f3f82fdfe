from __future__ import annotations

from typing import Any

import pytest

from gifdex.encoders.base import available_cpus
from gifdex.encoders.frames.limits import Sampling
from gifdex.encoders.settings import EncodeSettings


def test_settings_that_would_never_end_or_give_nothing_are_refused() -> None:
    for name in ("batch_frames", "threads", "task_items"):
        zero: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=f"{name} is 0; expected at least 1"):
            EncodeSettings(**zero)
    with pytest.raises(ValueError, match="frames is 0"):
        Sampling(frames=0)
    with pytest.raises(ValueError, match="the sampling is 'last'; expected one of uniform, scene, all, first"):
        Sampling(strategy="last")


def test_there_is_at_least_one_processor() -> None:
    assert available_cpus() >= 1
