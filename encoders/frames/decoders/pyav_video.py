"""PyAV, which is FFmpeg (extra `video`): MP4, MOV and WebM, and GIFs on request."""

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

from gifdex.encoders.frames.decoders.base import Budget, FrameError, Structure, check, check_frames, format_of, on_white
from gifdex.encoders.frames.decoders.gif import read_structure
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError

_SLACK = 4
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class _Video(Structure):
    """A video's frames by presentation time (in the stream's units), and which are key frames."""

    times: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()


def _open(data: bytes, limits: Limits) -> tuple[Any, Any]:
    # Frames may be larger than the file states. FFmpeg refuses them before it allocates them; slightly oversized frames
    # pass, so that our own error can state their size.
    largest = {"max_pixels": str(_SLACK * limits.pixels)}
    container = av.open(io.BytesIO(data), metadata_errors="replace", options=largest)
    if not container.streams.video:
        container.close()
        raise DecodeError("the file is a video without pictures: it has no video stream")
    stream: Any = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise DecodeError("the file is a video of an unknown codec")
    stream.codec_context.thread_count = 1  # files are decoded side by side already
    stream.codec_context.options = largest
    return container, stream


def _is_cut(data: bytes, budget: Budget) -> bool:
    """Tell whether the file is shorter than its headers state."""
    position = 0
    if format_of(data) == "WebM":  # the EBML header, then one segment (RFC 8794, RFC 9559)
        for _ in range(2):
            length = 9 - data[position + 4 : position + 5].ljust(1, b"\xff")[0].bit_length()
            size = int.from_bytes(data[position + 4 : position + 4 + length], "big") & ((1 << 7 * length) - 1)
            if size == (1 << 7 * length) - 1:  # unknown size: a live recording
                return False
            position += 4 + length + size
    else:  # boxes, one after the other (ISO/IEC 14496-12, 4.2)
        while position + 16 <= len(data):
            budget.check_time()
            size = int.from_bytes(data[position : position + 4], "big")
            if size == 1:
                size = int.from_bytes(data[position + 8 : position + 16], "big")
            if size < 8:  # 0: up to the end of the file
                return False
            position += size
    return position > len(data)


def read_video(data: bytes, limits: Limits, budget: Budget) -> Structure:
    """Return the structure of a video from its packets, without decoding; raises as `Decoder.structure` does."""
    times: list[int] = []
    keys: list[int] = []
    try:
        container, stream = _open(data, limits)
        with container:
            for packet in container.demux(stream):
                budget.check_time()
                if packet.pts is None or packet.is_discard:
                    continue
                times.append(packet.pts)
                check_frames(len(times), limits)
                if packet.is_keyframe:
                    keys.append(packet.pts)
            size, unit = (stream.codec_context.width, stream.codec_context.height), float(stream.time_base or 0) * 1000
            rate = float(stream.average_rate or 10)
    except av.FFmpegError as err:
        reason = err.strerror or type(err).__name__
        raise DecodeError(f"PyAV cannot read the video, which may be cut short: {reason}") from err
    if times and not size[0] * size[1]:
        raise DecodeError(f"the video states no size, or one far above the limit pixels of {limits.pixels:,}")
    times.sort()
    delays = [max(1, round((after - before) * unit)) for before, after in itertools.pairwise(times)]
    # The last frame gets the usual duration.
    delays.append(max(1, round(1000 / rate)))
    damage = f"ends after frame {len(times):,}" if _is_cut(data, budget) else None
    shown = tuple(delays) if times else ()
    return _Video(format_of(data), *size, shown, damage, None, tuple(times), tuple(sorted(keys)))


def _ranges(video: _Video, wanted: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """For each wanted frame, yield its index, the first frame to decode for it, and whether to seek to that one."""
    following = 0
    for frame in wanted:
        place = bisect.bisect_right(video.keys, video.times[frame]) - 1
        key = bisect.bisect_left(video.times, video.keys[place]) if place >= 0 else 0
        yield frame, max(key, following), key > following
        following = frame + 1


def _video_frames(
    container: Any, stream: Any, video: _Video, wanted: Sequence[int], budget: Budget
) -> Iterator[Image.Image]:
    """Yield the wanted frames; seek past frames that no wanted frame depends on."""
    decoded, shown = container.decode(stream), None
    for index, first, jump in _ranges(video, wanted):
        if jump:
            container.seek(video.times[first], stream=stream)
            decoded, shown = container.decode(stream), None
        while shown is None or shown.pts is None or shown.pts < video.times[index]:
            shown = next(decoded, None)
            if shown is None:
                raise FrameError(index, "the video ends before it")
        check("pixels", shown.width * shown.height, budget.limits.pixels, "pixels in a frame")
        picture = shown.to_image()
        yield picture.transpose(_TURNS[shown.rotation % 360]) if shown.rotation % 360 in _TURNS else picture


def _gif_frames(
    container: Any, stream: Any, gif: Structure, wanted: Sequence[int], budget: Budget
) -> Iterator[Image.Image]:
    """Yield the wanted frames; each depends on the one before."""
    decoded = enumerate(container.decode(stream))
    for frame, picture in zip(wanted, gif.pictures(wanted), strict=True):
        shown = next((shown for index, shown in decoded if index == picture), None)
        if shown is None:
            raise FrameError(frame, "there are fewer frames than the file states")
        check("pixels", shown.width * shown.height, budget.limits.pixels, "pixels in a frame")
        yield on_white(Image.fromarray(shown.to_ndarray(format="rgba")))


class PyavDecoder:
    """Reads with FFmpeg, in separate processes."""

    name = "pyav"
    watched = True

    @cached_property
    def version(self) -> str:
        """The package that decodes, with its version."""
        return f"av {version('av')}"

    def structure(self, data: bytes, limits: Limits, budget: Budget) -> Structure:
        """Return the structure of a video or a GIF."""
        return (read_structure if format_of(data) == "GIF" else read_video)(data, limits, budget)

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return the pixels of the frames to decode; in a video, from the key frame before each wanted one."""
        decoded = structure.pictures(wanted)[-1] + 1
        if isinstance(structure, _Video):
            decoded = sum(frame + 1 - first for frame, first, _ in _ranges(structure, wanted))
        return structure.width * structure.height * decoded

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], budget: Budget) -> Iterator[Image.Image]:
        """Yield the frames `wanted`; see `Decoder.draw`."""
        frame = wanted[0]
        try:
            container, stream = _open(data, budget.limits)
            with container:
                pictures = (
                    _video_frames(container, stream, structure, wanted, budget)
                    if isinstance(structure, _Video)
                    else _gif_frames(container, stream, structure, wanted, budget)
                )
                for place, picture in enumerate(pictures, start=1):
                    budget.check_time()
                    yield picture
                    frame = wanted[min(place, len(wanted) - 1)]
        except (av.FFmpegError, ValueError) as err:
            reason = f"{self.version} cannot decode it: {' '.join(str(err).split())[:200]}"
            raise FrameError(frame, reason) from err


def decoder() -> PyavDecoder:
    """Return the decoder."""
    return PyavDecoder()
