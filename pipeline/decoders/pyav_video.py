"""PyAV, which is FFmpeg (extra `video`): MP4, MOV and WebM, and GIFs where it is asked for."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import av
from PIL import Image

from gifdex.pipeline.decoders.base import Clock, FrameError, Structure, check_frames, format_of, on_white
from gifdex.pipeline.decoders.gif import read_structure
from gifdex.pipeline.settings import Limits
from gifdex.schemas.errors import DecodeError

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class _Video(Structure):
    """A video's frames by presentation time (in the stream's units), and which of them begin anew."""

    times: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()


def _open(data: bytes) -> tuple[Any, Any]:
    container = av.open(io.BytesIO(data), metadata_errors="replace")
    if not container.streams.video:
        container.close()
        raise DecodeError("the file is a video without pictures: it has no video stream")
    stream: Any = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise DecodeError("the file is a video of an unknown codec")
    stream.codec_context.thread_count = 1  # files are decoded side by side already
    return container, stream


def read_video(data: bytes, limits: Limits, clock: Clock) -> Structure:
    """Return the structure of a video from its packets, none of them decoded; raises as `Decoder.structure` does."""
    times: list[int] = []
    keys: list[int] = []
    try:
        container, stream = _open(data)
        with container:
            for packet in container.demux(stream):
                clock.check()
                if packet.pts is None or packet.is_discard:
                    continue
                times.append(packet.pts)
                check_frames(len(times), limits)
                if packet.is_keyframe:
                    keys.append(packet.pts)
            size, unit = (stream.codec_context.width, stream.codec_context.height), float(stream.time_base or 0) * 1000
            rate, promised = float(stream.average_rate or 10), stream.frames
    except av.FFmpegError as err:
        raise DecodeError(f"PyAV cannot read the video: {' '.join(str(err).split())[:200]}") from err
    times.sort()
    delays = [max(1, round((after - before) * unit)) for before, after in itertools.pairwise(times)]
    # The last frame shows as long as frames do.
    delays.append(max(1, round(1000 / rate)))
    damage = f"ends after frame {len(times):,} of {promised:,}" if len(times) < promised else None
    return _Video(
        format_of(data), *size, tuple(delays) if times else (), damage, None, tuple(times), tuple(sorted(keys))
    )


def _ranges(video: _Video, wanted: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """For each frame wanted, yield it, the first frame decoded on the way to it, and whether that one is jumped to."""
    following = 0
    for frame in wanted:
        place = bisect.bisect_right(video.keys, video.times[frame]) - 1
        key = bisect.bisect_left(video.times, video.keys[place]) if place >= 0 else 0
        yield frame, max(key, following), key > following
        following = frame + 1


def _video_frames(container: Any, stream: Any, video: _Video, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """Yield the frames wanted jumping over what no later frame builds on."""
    decoded, shown = container.decode(stream), None
    for index, first, jump in _ranges(video, wanted):
        if jump:
            container.seek(video.times[first], stream=stream)
            decoded, shown = container.decode(stream), None
        while shown is None or shown.pts is None or shown.pts < video.times[index]:
            shown = next(decoded, None)
            if shown is None:
                raise FrameError(index, "the video ends before it")
        picture = shown.to_image()
        yield picture.transpose(_TURNS[shown.rotation % 360]) if shown.rotation % 360 in _TURNS else picture


def _gif_frames(container: Any, stream: Any, gif: Structure, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """Yield the frames wanted; each builds on the one before."""
    decoded = enumerate(container.decode(stream))
    for frame, picture in zip(wanted, gif.pictures(wanted), strict=True):
        shown = next((shown for index, shown in decoded if index == picture), None)
        if shown is None:
            raise FrameError(frame, "there are fewer frames than the file says")
        yield on_white(Image.fromarray(shown.to_ndarray(format="rgba")))


class PyavDecoder:
    """Reads with FFmpeg, in the watchdog's processes."""

    name = "pyav"
    watched = True

    @cached_property
    def version(self) -> str:
        """The package that decodes, with its version."""
        return f"av {version('av')}"

    def structure(self, data: bytes, limits: Limits, clock: Clock) -> Structure:
        """Return the structure of a video or a GIF."""
        return (read_structure if format_of(data) == "GIF" else read_video)(data, limits, clock)

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return the pixels of the frames that are decoded: of a video, from the key frame before each one wanted."""
        decoded = structure.pictures(wanted)[-1] + 1
        if isinstance(structure, _Video):
            decoded = sum(frame + 1 - first for frame, first, _ in _ranges(structure, wanted))
        return structure.width * structure.height * decoded

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], clock: Clock) -> Iterator[Image.Image]:
        """Yield the frames `wanted`; see `Decoder.draw`."""
        frame = wanted[0]
        try:
            container, stream = _open(data)
            with container:
                pictures = (
                    _video_frames(container, stream, structure, wanted)
                    if isinstance(structure, _Video)
                    else _gif_frames(container, stream, structure, wanted)
                )
                for place, picture in enumerate(pictures, start=1):
                    clock.check()
                    yield picture
                    frame = wanted[min(place, len(wanted) - 1)]
        except (av.FFmpegError, ValueError) as err:
            reason = f"{self.version} cannot decode it: {' '.join(str(err).split())[:200]}"
            raise FrameError(frame, reason) from err


def decoder() -> PyavDecoder:
    """Return the decoder."""
    return PyavDecoder()
