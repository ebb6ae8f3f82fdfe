"""The settings of the encode stage, see `settings`."""

from __future__ import annotations

import click

from gifdex.encoders.base import PRECISIONS
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES
from gifdex.jobs.console import PathOption
from gifdex.jobs.setting import COUNT, Setting

# Copied from the registry of decoders, which cannot be imported without their extra.
DECODERS = ("auto", "numba", "pillow", "imageio", "pyav")

ENCODE: tuple[Setting, ...] = (
    Setting(
        "encode",
        "image_encoder",
        "encode",
        click.STRING,
        "See `gifdex encoders`.",
        '"efficientnet-lite0"',
        "see gifdex encoders",
        default="efficientnet-lite0",
    ),
    Setting(
        "encode",
        "weights",
        "encode",
        PathOption(),
        "Weights file for the image encoder vgg16.",
        '"vgg16.h5"',
        'for image_encoder = "vgg16"',
        is_example=True,
    ),
    Setting(
        "encode",
        "precision",
        "encode",
        click.Choice(PRECISIONS),
        "Precision of the image encoder.",
        '"auto"',
        ", ".join(PRECISIONS[1:]),
        default="auto: below float32 if the device is built for it and features stay the same",
    ),
    Setting(
        "encode",
        "batch_frames",
        "encode",
        click.IntRange(1, 4096),
        "Batch size of the image encoder, in frames.",
        "32",
        "default: 32; on a GPU 128",
        default="32; on a GPU 128",
        is_example=True,
    ),
    Setting(
        "encode",
        "sampling",
        "sampling",
        click.Choice(tuple(SAMPLING_STRATEGIES)),
        "Which frames represent a GIF: evenly spaced in time, those that differ most, all up to --frames, or the "
        "first.",
        '"uniform"',
        ", ".join(tuple(SAMPLING_STRATEGIES)[1:]),
        default="uniform",
        field="strategy",
    ),
    Setting(
        "encode",
        "frames",
        "sampling",
        click.IntRange(1, 1024),
        "Maximum number of frames to encode per GIF.",
        "8",
        'default: 8; with sampling = "all" 256, with "first" 1',
        default="8; with --sampling all 256, with first 1",
        is_example=True,
    ),
    Setting(
        "encode",
        "decoder",
        "encode",
        click.Choice(DECODERS),
        "Decoder for GIFs.",
        '"auto"',
        ", ".join(DECODERS[1:]),
        default="the fastest installed",
    ),
    Setting(
        "encode",
        "threads",
        "encode",
        COUNT,
        "Decoding threads.",
        "2",
        "default: one per processor, up to 8",
        default="one per processor, up to 8",
        is_example=True,
    ),
    Setting(
        "encode",
        "max_bytes",
        "limits",
        COUNT,
        "Largest GIF in bytes.",
        "67108864",
        "per GIF, like all limits",
        default="64 MiB",
        field="bytes",
    ),
    Setting(
        "encode",
        "max_pixels",
        "limits",
        COUNT,
        "Largest canvas in pixels.",
        "16777216",
        default="16 Mi",
        field="pixels",
    ),
    Setting(
        "encode",
        "max_frames",
        "limits",
        COUNT,
        "Maximum number of frames in a GIF.",
        "10000",
        default="10,000",
        field="frames",
    ),
    Setting(
        "encode",
        "max_total_pixels",
        "limits",
        COUNT,
        "Maximum number of pixels to decode.",
        "800000000",
        default="800,000,000",
        field="total_pixels",
    ),
    Setting(
        "encode",
        "max_seconds",
        "limits",
        click.FloatRange(0, min_open=True),
        "Maximum decoding time in seconds.",
        "8.0",
        default="8",
        field="seconds",
    ),
)
