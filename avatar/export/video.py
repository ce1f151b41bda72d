"""Videos (H.264 in MP4, with sound) and contact sheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

from avatar.checks import InputError
from avatar.export.provenance import to_text
from avatar.tensorfile import atomic_path

CRF = 18
"""x264's constant quality; 18 is taken for visually lossless."""

SOUND_RATE = 48_000
"""Hz. Every player takes it, and an AAC frame of 1024 samples ends within 21 ms of the video."""
SOUND_BIT_RATE = 128_000

BT709 = 1
"""Colour primaries, transfer and matrix of HD video in ITU-T H.273's numbers. Without the tags
players guess from the picture's size, and colours shift."""


class VideoWriter:
    """Writes an MP4 file frame by frame; the file appears when the ``with`` block ends well.

    H.264, yuv420p, BT.709, the index in front so that a browser plays it while it loads. Sound is
    encoded along with the frames, cut or padded with silence to the video's length.

    ::

        with VideoWriter(path, fps=25, audio=Path("clip.wav"), audio_start_s=3.2) as video:
            for picture in pictures:  # uint8 [H, W, 3] sRGB
                video.write(picture)

    An odd width or height is padded by one pixel, as 4:2:0 video has none. Errors in the block
    leave no file behind and an existing one untouched.
    """

    def __init__(
        self,
        path: Path,
        fps: float,
        *,
        audio: Path | None = None,
        audio_start_s: float = 0.0,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare to write; nothing is touched before the block is entered.

        Args:
            path: the .mp4 file.
            fps: frames a second, up to 1000.
            audio: a sound file or a clip with sound; None for a silent video.
            audio_start_s: where in ``audio`` the first frame lies, seconds.
            manifest: where the pictures come from (``avatar.export.provenance``); the file's comment.
        """
        if not 0 < fps <= 1000:
            raise ValueError(f"fps must lie in (0, 1000]; got {fps}.")
        self.path = Path(path)
        self.frames = 0
        """Frames written so far."""
        # 30000/1001 and its kin stay exact.
        self._rate = Fraction(fps).limit_denominator(1001)
        self._audio = audio
        self._audio_start_s = audio_start_s
        self._comment = None if manifest is None else to_text(manifest)
        self._size: tuple[int, int] | None = None
        self._samples_written = 0

    def __enter__(self) -> VideoWriter:
        """Open the temporary file and read the sound; raises InputError naming what cannot be."""
        sound = None if self._audio is None else read_sound(self._audio, self._audio_start_s)
        with self._naming_path(), ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            # FFmpeg tells the format by the name's suffix otherwise.
            self._container = stack.enter_context(
                av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
            )
            if self._comment is not None:
                self._container.metadata["comment"] = self._comment
            self._video = self._container.add_stream(
                "libx264", rate=self._rate, options={"crf": str(CRF)}
            )
            self._sound = sound
            if sound is not None:
                self._sound_stream = self._container.add_stream("aac", rate=SOUND_RATE)
                self._sound_stream.layout = "mono" if len(sound) == 1 else "stereo"
                self._sound_stream.bit_rate = SOUND_BIT_RATE
            self._stack = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 3] sRGB; all frames must have the first one's size.

        Raises:
            ValueError: another size or type.
            InputError: the file cannot be written, for example because the disk is full.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a frame must be uint8 [H, W, 3]; got {picture.dtype} {list(picture.shape)}."
            )
        if self._size is None:
            self._start(picture.shape[1], picture.shape[0])
        if (picture.shape[1], picture.shape[0]) != self._size:
            raise ValueError(
                f"all frames of a video must have one size; the first was {self._size}, frame "
                f"{self.frames} is {(picture.shape[1], picture.shape[0])}."
            )
        odd = ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
        padded = np.pad(picture, odd, mode="edge") if any(end for _, end in odd) else picture
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = self.frames
        frame.time_base = 1 / self._rate
        with self._naming_path():
            self._container.mux(self._video.encode(frame))
            self.frames += 1
            self._write_sound(round(self.frames * SOUND_RATE / self._rate))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file and give it its name; after an error remove what was written."""
        if error is not None:
            # The block's own error is the one to tell, not what closing a half-written file says.
            with suppress(OSError, av.FFmpegError):
                self._container.close()
            self._stack.__exit__(kind, error, trace)
            return
        with self._naming_path(), self._stack:
            if self.frames == 0:
                raise InputError(
                    f"{self.path} would have no frame: there was nothing to render. "
                    "Choose a source with at least one frame."
                )
            self._container.mux(self._video.encode(None))
            if self._sound is not None:
                self._container.mux(self._sound_stream.encode(None))

    def _start(self, width: int, height: int) -> None:
        """Fix the picture's size and the colour tags, with the first frame."""
        self._size = (width, height)
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        codec = self._video.codec_context
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = ColorRange.MPEG

    def _write_sound(self, end: int) -> None:
        """Encode the sound up to sample ``end``, silence where the source has none."""
        if self._sound is None or end <= self._samples_written:
            return
        part = self._sound[:, self._samples_written : end]
        missing = end - self._samples_written - part.shape[1]
        part = np.ascontiguousarray(np.pad(part, ((0, 0), (0, missing))))
        frame = av.AudioFrame.from_ndarray(
            part, format="fltp", layout="mono" if len(part) == 1 else "stereo"
        )
        frame.sample_rate = SOUND_RATE
        frame.time_base = Fraction(1, SOUND_RATE)
        frame.pts = self._samples_written
        self._container.mux(self._sound_stream.encode(frame))
        self._samples_written = end

    @contextmanager
    def _naming_path(self) -> Iterator[None]:
        """Turn what the system says about the file into a sentence that names it."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror or error}). "
                "Choose a folder that exists, is writable and has space."
            ) from error


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float,
    *,
    audio: Path | None = None,
    audio_start_s: float = 0.0,
) -> None:
    """Write pictures uint8 [H, W, 3] sRGB as an MP4 file; see ``VideoWriter``."""
    with VideoWriter(path, fps, audio=audio, audio_start_s=audio_start_s) as video:
        for picture in frames:
            video.write(picture)


def read_sound(path: Path, start_s: float) -> np.ndarray:
    """Return the sound of a file from ``start_s`` on, float32 [1 or 2, samples] at SOUND_RATE.

    Time 0 is the file's; where ``start_s`` lies before it (or the sound begins late) there is
    silence.
    """
    remedy = "Give a sound file or a clip with sound, or render without sound."
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None:
                raise InputError(f"{path} has no sound. {remedy}")
            layout = "mono" if stream.channels == 1 else "stereo"
            resampler = AudioResampler(format="fltp", layout=layout, rate=SOUND_RATE)
            parts: list[np.ndarray] = []
            first_s = 0.0
            for frame in container.decode(stream):
                if not parts:
                    first_s = float(frame.time or 0.0)
                parts += [part.to_ndarray() for part in resampler.resample(frame)]
            parts += [part.to_ndarray() for part in resampler.resample(None)]
    except (OSError, av.FFmpegError) as error:
        raise InputError(
            f"The sound of {path} cannot be read ({error.strerror or error}). {remedy}"
        ) from error
    if not parts:
        raise InputError(f"{path} has no sound in its sound track. {remedy}")
    sound = np.concatenate(parts, 1)
    shift = round((first_s - start_s) * SOUND_RATE)
    return np.pad(sound, ((0, 0), (shift, 0))) if shift > 0 else sound[:, -shift:]


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    columns: Sequence[str] = (),
    *,
    cell_width: int = 240,
) -> np.ndarray:
    """Lay pictures out in labelled rows on white.

    Args:
        rows: pictures uint8 [H, W, 3] sRGB; rows may differ in length and pictures in size.
        labels: one text a row, at its left.
        columns: one text a column, above it; none for no such line.
        cell_width: width in pixels that every picture is scaled to.

    Returns:
        uint8 [H, W, 3].
    """
    if len(rows) != len(labels) or not any(len(row) for row in rows):
        raise ValueError(
            f"a contact sheet needs one label a row and a picture; got {len(rows)} rows, "
            f"{len(labels)} labels."
        )
    font = ImageFont.load_default(size=max(13, cell_width // 14))
    gap = max(4, cell_width // 40)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def text_size(text: str) -> tuple[int, int]:
        left, top, right, bottom = ruler.multiline_textbbox((0, 0), text, font=font)
        return round(right - min(0, left)), round(bottom - min(0, top))

    def cell(picture: np.ndarray) -> Image.Image:
        height = max(1, round(picture.shape[0] * cell_width / picture.shape[1]))
        return Image.fromarray(picture).resize((cell_width, height), Image.Resampling.LANCZOS)

    cells = [[cell(picture) for picture in row] for row in rows]
    text_width = max(text_size(label)[0] for label in labels)
    left = text_width + 2 * gap if text_width else gap
    top = max((text_size(text)[1] for text in columns), default=0) + (2 if columns else 1) * gap
    heights = [
        max([text_size(label)[1], *(picture.height for picture in row)])
        for row, label in zip(cells, labels, strict=True)
    ]
    width = left + max(len(row) for row in rows) * (cell_width + gap)
    sheet = Image.new("RGB", (width, top + sum(heights) + gap * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(columns):
        x = left + i * (cell_width + gap) + cell_width / 2
        draw.multiline_text((x, gap), text, fill="black", font=font, anchor="ma")
    y = top
    for row, label, height in zip(cells, labels, heights, strict=True):
        draw.multiline_text((gap, y), label, fill="black", font=font)
        for i, picture in enumerate(row):
            sheet.paste(picture, (left + i * (cell_width + gap), y))
        y += height + gap
    return np.array(sheet)
