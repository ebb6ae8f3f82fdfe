"""Import TensorFlow the way every encoder needs it: less talkative, and with one sentence where it is missing."""

from __future__ import annotations

import os
from typing import Any

from gifdex.schemas.errors import MissingExtraError


def import_tensorflow(needed_for: str) -> Any:
    """Return the tensorflow module; raises MissingExtraError that names `needed_for`."""
    # Read once, at import: 3 leaves only fatal messages of its C++ part, but for some that come before it is read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as err:
        raise MissingExtraError(needed_for, "tensorflow", "pipeline") from err
    return tensorflow
