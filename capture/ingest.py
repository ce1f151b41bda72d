"""Decode a clip into upright 8-bit sRGB pictures at a constant rate, and find its sound.

Everything that a phone, a webcam or an editor does to a clip is undone here, so that later stages
see plain pictures: rotation and mirroring in the display matrix, non-square pixels, variable frame
rates, studio range, 10-bit HDR, sizes past what training uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from avatar.checks import InputError
from capture.colour import HDR, to_srgb
from capture.sound import AUDIO_RATE as AUDIO_RATE  # handed on to whoever reads audio.wav
from capture.sound import write_sound

FrameT = TypeVar("FrameT", av.VideoFrame, av.AudioFrame)

MIN_FRAMES = 40
"""Fewer usable frames than this are no clip: nothing can be held out or smoothed."""

MIN_SIDE = 240
"""Pixels of the shorter side below which a face cannot be large enough to be worth fitting."""

MIN_FPS = 5.0
"""Below this rate blinks and speech are not seen at all."""

STANDARD_RATES = tuple(
    Fraction(rate)
    for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)

# Demuxers that may be tried. Playlists and scripts (HLS, concat, image sequences, text art) are
# left out: they are text that makes the library open other files.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg,mxf,nut,wtv,dv,rm,ivf,obu,"
    "h264,hevc,m4v,mpegvideo,yuv4mpegpipe,gif,wav,mp3,aac,flac"
)


@dataclass(frozen=True)
class IngestConfig:
    """How a clip becomes frames."""

    max_side: int = 4096
    """Longer side of the stored frames in pixels; larger pictures are scaled down, never up."""
    max_fps: float = 45.0
    """Clips of a higher rate are thinned by the smallest whole number that brings them under it:
    50 and 60 frames/s become 25 and 30. Set it above the clip's rate to keep every frame."""
    max_frames: int | None = None
    """Keep only so many frames from the start of the clip; None keeps all."""
    mirrored: bool = False
    """The clip shows its scene mirrored, as some selfie apps save it (writing reads backwards): flip
    it back. Nothing in the pixels of a face tells, so it cannot be found out."""


@dataclass(frozen=True)
class ClipInfo:
    """A clip as it was found, and the frames that ``read_frames`` will make of it."""

    path: Path
    """The file."""
    codec: str
    """Name of the video codec, for example ``"h264"``."""
    pixel_format: str
    """FFmpeg's name of the coded pixel format, for example ``"yuv420p10le"``."""
    source_width: int
    """Coded width in pixels, before rotation."""
    source_height: int
    """Coded height in pixels, before rotation."""
    source_fps: float
    """Frames a second found in the clip."""
    source_frames: int
    """Pictures found in the clip."""
    duration_s: float
    """Seconds from the first picture to the end of the last one."""
    start_s: float
    """Time stamp of the first picture, seconds."""
    rotation: int
    """Degrees (0, 90, 180, 270) by which coded pictures are turned counterclockwise."""
    mirrored: bool
    """Pictures are flipped left to right after the rotation: by the display matrix, or by
    ``IngestConfig.mirrored``, or, where both say so, not at all."""
    hdr: bool
    """The clip is coded in HLG or PQ and is tone-mapped to sRGB."""
    variable_rate: bool
    """Pictures came at uneven times and were put on a constant grid."""
    interlaced: bool
    """Pictures are interlaced; they are used as they are."""
    has_audio: bool
    """The clip has a sound track."""
    width: int
    """Width of the frames handed out, even."""
    height: int
    """Height of the frames handed out, even."""
    fps: float
    """Frames a second of the frames handed out."""
    frames: int
    """How many frames ``read_frames`` hands out of an undamaged clip."""

    @property
    def summary(self) -> str:
        """One line for people: size, rate, length, codec, and what was done about its kind."""
        step = round(self.source_fps / self.fps)
        parts = [
            f"{self.source_width}x{self.source_height}",
            f"{self.source_fps:.4g} frames/s" + (f" (every {_nth(step)} kept)" if step > 1 else ""),
            f"{self.duration_s:.1f} s",
            self.codec,
            "HDR, tone-mapped" if self.hdr else "",
            "variable frame rate, evened out" if self.variable_rate else "",
            f"turned by {self.rotation} degrees" if self.rotation else "",
            "flipped left to right" if self.mirrored else "",
            "with sound" if self.has_audio else "without sound",
        ]
        return ", ".join(filter(None, parts))


def probe(video: Path, config: IngestConfig = IngestConfig()) -> ClipInfo:
    """Open a clip, walk through its packets (no decoding but of one picture) and plan the frames.

    Raises:
        InputError: missing, a folder, empty, no video, damaged beyond opening, a single picture,
            too short, too slow or too small.
    """
    video = Path(video)
    with open_video(video) as container:
        stream = video_stream(container, video)
        times = _packet_times(container, stream)
        has_audio = any(_usable_audio(s) for s in container.streams.audio)
    first = None
    with open_video(video) as container:
        stream = video_stream(container, video)
        for _, frame in _decode(container, stream, av.VideoFrame):
            first = frame
            break
        aspect = stream.sample_aspect_ratio or Fraction(1)
        codec, rate = stream.codec_context.name, stream.average_rate or stream.guessed_rate
    if first is None:
        raise InputError(
            f"{video} has a video track, but not one picture of it can be decoded: the file is cut "
            f"off, damaged or empty. Copy it from the camera again, or convert it to H.264 mp4."
        )
    source_frames = len(times)
    if source_frames < MIN_FRAMES:
        raise InputError(
            f"{video} has {source_frames} frame{'s' * (source_frames != 1)}; a capture needs at "
            f"least {MIN_FRAMES} and wants ten seconds or more. Film a longer clip."
        )
    if times[-1] - times[0] <= 0:
        # No usable stamps (raw streams): trust the nominal rate.
        nominal = float(rate) if rate else 25.0
        times = np.arange(source_frames) / nominal
    source_fps, variable = frame_rate(times)
    if source_fps < MIN_FPS:
        raise InputError(
            f"{video} has {source_fps:.3g} frames a second; a capture needs at least "
            f"{MIN_FPS:.0f} and wants 24 or more. Film it as a video, not as a time lapse."
        )
    rotation, mirrored = orientation(first)
    wide = first.width * float(aspect) if 0.1 < aspect < 10 else float(first.width)
    sides = (first.height, wide) if rotation % 180 else (wide, first.height)
    if min(sides) < MIN_SIDE:
        raise InputError(
            f"{video} is {round(sides[0])}x{round(sides[1])} pixels, which is too small: the face "
            f"should be at least 150 pixels wide, so the shorter side must have {MIN_SIDE} or more. "
            f"Film at 1280x720 or better."
        )
    scale = min(1.0, config.max_side / max(sides))
    step = max(1, math.ceil(source_fps / config.max_fps - 1e-6))
    fps = source_fps / step
    span = float(times[-1] - times[0])
    frames = math.floor(span * fps + 0.5 / step + 1e-6) + 1
    if config.max_frames is not None:
        frames = min(frames, config.max_frames)
    return ClipInfo(
        path=video,
        codec=codec,
        pixel_format=first.format.name,
        source_width=first.width,
        source_height=first.height,
        source_fps=source_fps,
        source_frames=source_frames,
        duration_s=span + 1 / source_fps,
        start_s=float(times[0]),
        rotation=rotation,
        mirrored=mirrored != config.mirrored,
        hdr=first.color_trc in HDR,
        variable_rate=variable,
        interlaced=bool(first.interlaced_frame),
        has_audio=has_audio,
        width=_even(sides[0] * scale),
        height=_even(sides[1] * scale),
        fps=fps,
        frames=frames,
    )


def read_frames(clip: ClipInfo) -> Iterator[np.ndarray]:
    """Yield the clip's frames, uint8 [height, width, 3] sRGB, ``clip.fps`` of them a second.

    Frame k is the picture whose time stamp lies nearest to ``start_s + k / fps``. Packets that
    cannot be decoded are skipped, so a clip that is cut off gives fewer than ``clip.frames``.
    Pictures equal in time share one array: do not write into it.
    """
    with open_video(clip.path) as container:
        stream = video_stream(container, clip.path)
        made = 0
        previous: tuple[float, np.ndarray] | None = None
        pending: tuple[float, av.VideoFrame] | None = None
        for time_s, frame in _decode(container, stream, av.VideoFrame, clip.source_fps):
            if pending is not None and time_s <= pending[0]:
                continue
            if pending is not None:
                halfway = (pending[0] + time_s) / 2
                while made < clip.frames and clip.start_s + made / clip.fps <= halfway:
                    if previous is None or previous[0] != pending[0]:
                        previous = (pending[0], _picture(pending[1], clip))
                    yield previous[1]
                    made += 1
            pending = (time_s, frame)
            if made >= clip.frames:
                return
        if pending is not None:
            end = pending[0] + 0.5 / clip.source_fps
            while made < clip.frames and clip.start_s + made / clip.fps <= end:
                if previous is None or previous[0] != pending[0]:
                    previous = (pending[0], _picture(pending[1], clip))
                yield previous[1]
                made += 1


def ends_whole(clip: ClipInfo) -> bool:
    """Whether the last picture that the clip's container tells of can be decoded; looks at its end alone.

    False, too, where that cannot be told: a clip without time stamps, or one that cannot be sought in.
    """
    last = clip.start_s + clip.duration_s - 1 / clip.source_fps
    try:
        with open_video(clip.path) as container:
            stream = video_stream(container, clip.path)
            container.seek(int(last / (stream.time_base or 1)), stream=stream)
            times = [time_s for time_s, _ in _decode(container, stream, av.VideoFrame)]
    except (av.FFmpegError, OSError):
        return False
    return bool(times) and max(times) >= last - 0.5 / clip.source_fps


def extract_audio(
    video: Path, wav: Path, *, start_s: float = 0.0, duration_s: float | None = None
) -> bool:
    """Write the clip's sound as 16-bit mono PCM at 16 kHz; sample 0 belongs to ``start_s``.

    Sound that begins later than the picture, or pauses, is filled with silence, so the wave file
    stays in step with the frames.

    Args:
        video: the clip.
        wav: target, written atomically; not written where the clip has no sound.
        start_s: time stamp of the first frame (``ClipInfo.start_s``).
        duration_s: seconds to write; cut or filled with silence to it. None: as long as the sound.

    Returns:
        Whether there was sound.
    """
    with open_video(Path(video)) as container:
        stream = next((s for s in container.streams.audio if _usable_audio(s)), None)
        if stream is None:
            return False
        frames = _decode(container, stream, av.AudioFrame)
        return write_sound(frames, Path(wav), start_s=start_s, duration_s=duration_s)


def open_video(video: Path) -> InputContainer:
    """Open a media file; raises InputError with what is wrong with it."""
    if not video.exists():
        raise InputError(f"{video} does not exist. Give the path of a video file.")
    if video.is_dir():
        raise InputError(f"{video} is a folder; expected a video file such as me.mp4.")
    try:
        with open(video, "rb") as file:
            head = file.read(32)
    except OSError as error:
        raise InputError(
            f"{video} cannot be read ({error.strerror}). Check its permissions."
        ) from error
    if not head:
        raise InputError(f"{video} is empty (0 bytes). Copy it from the camera again.")
    try:
        return av.open(
            str(video.resolve()),
            options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        if cv2.haveImageReader(str(video)):
            reason = "is a single picture; expected a video"
        elif head[4:8] in (b"ftyp", b"wide", b"mdat", b"free"):
            reason = "was cut off before its index was written, so it cannot be opened"
        else:
            reason = "is not a video that can be opened"
        raise InputError(
            f"{video} {reason}. Copy it from the camera again, or convert it to H.264 mp4."
        ) from error


def video_stream(container: InputContainer, video: Path) -> VideoStream:
    """Return the clip's video stream; raises InputError where there is none."""
    for stream in container.streams.video:
        cover = stream.disposition & type(stream.disposition).attached_pic
        if not cover and stream.codec_context is not None and stream.codec_context.width > 0:
            stream.thread_type = "AUTO"
            return stream
    found = "only sound" if container.streams.audio else "no video track that can be decoded"
    raise InputError(f"{video} has {found}; expected a video of a head. Give another file.")


def frame_rate(times: np.ndarray) -> tuple[float, bool]:
    """Return frames a second and whether the rate varies.

    Args:
        times: [n] ascending seconds, n >= 2, of pictures.

    A clip whose steps are mostly alike keeps that step's rate even if pictures were dropped (they
    are repeated later); one with steps all over the place gets its average rate.
    """
    steps = np.diff(times)
    steps = steps[steps > 0]
    span = float(times[-1] - times[0])
    near = np.abs(steps - np.median(steps)) <= 0.2 * np.median(steps)
    if near.mean() >= 0.8:
        # Every step is a whole number of the usual one, whatever the stamps tremble.
        rate = float(np.round(steps / steps[near].mean()).clip(1).sum()) / span
    else:
        rate = len(steps) / span
    grid = np.round((times - times[0]) * rate)
    variable = bool(len(np.unique(grid)) != len(grid) or grid[-1] != len(times) - 1)
    for standard in STANDARD_RATES:
        if abs(rate - standard) < 3e-4 * standard:
            rate = float(standard)
    return rate, variable


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return (degrees counterclockwise in {0, 90, 180, 270}, mirrored) of the display matrix."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32)[:9].astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        # x' = a x + c y, y' = b x + d y (ffmpeg's libavutil/display.h): a rotation, then a flip of
        # x, which is taken out here.
        a = -a
    return round(math.degrees(math.atan2(-b, a)) / 90) % 4 * 90, mirrored


def _nth(step: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(step, f"{step}th")


def _even(side: float) -> int:
    return max(2, int(side + 1e-6) // 2 * 2)


def _usable_audio(stream: av.AudioStream) -> bool:
    context = stream.codec_context
    return context is not None and context.sample_rate > 0


def _packet_times(container: InputContainer, stream: VideoStream) -> np.ndarray:
    """Ascending presentation times in seconds of the stream's pictures."""
    stamps: list[float] = []
    try:
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and not packet.is_discard:
                if stamp is None or stream.time_base is None:
                    stamps.append(math.nan)
                else:
                    stamps.append(float(stamp * stream.time_base))
    except (av.FFmpegError, OSError):
        pass  # a clip that is cut off: what came before counts
    times = np.array(stamps, float)
    if np.isnan(times).any():
        return np.zeros(len(times))
    return np.sort(times)


def _decode(
    container: InputContainer,
    stream: VideoStream | av.AudioStream,
    kind: type[FrameT],
    nominal_rate: float = 25.0,
) -> Iterator[tuple[float, FrameT]]:
    """Yield (seconds, frame), skipping what cannot be decoded.

    Pictures without a time stamp are taken to follow each other at ``nominal_rate``.
    """
    index = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError, ValueError):
                continue
            for frame in frames:
                if not isinstance(frame, kind):
                    continue
                if frame.pts is not None and frame.time_base:
                    time_s = float(frame.pts * frame.time_base)
                else:
                    time_s = index / nominal_rate
                index += 1
                yield time_s, frame
    except (av.FFmpegError, OSError):
        return  # cut off: what came before counts


def _picture(frame: av.VideoFrame, clip: ClipInfo) -> np.ndarray:
    """Convert one coded picture to upright sRGB at the clip's frame size."""
    sideways = clip.rotation % 180 != 0
    width, height = (clip.height, clip.width) if sideways else (clip.width, clip.height)
    picture = to_srgb(frame, width, height)
    turns = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    if clip.rotation:
        picture = cv2.rotate(picture, turns[clip.rotation])
    if clip.mirrored:
        picture = cv2.flip(picture, 1)
    return picture
