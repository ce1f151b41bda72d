"""Videos with transparency: VP9 in WebM for web pages, ProRes 4444 in QuickTime for editors.

Alpha is straight, not multiplied into the colours, as browsers and editors take it to be.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from avatar.checks import InputError
from avatar.export.video import BT709, SOUND_BIT_RATE, SOUND_RATE, VideoWriter, read_sound
from avatar.tensorfile import atomic_path


@dataclass(frozen=True)
class AlphaCodec:
    """How a kind of video with transparency is encoded."""

    container: str
    """FFmpeg's name of the container."""
    encoder: str
    pixels: str
    """Pixel format with alpha."""
    options: dict[str, str]
    sound: str
    """Encoder of the sound."""


ALPHA_CODECS: dict[str, AlphaCodec] = {
    ".webm": AlphaCodec(
        "webm",
        "libvpx-vp9",
        "yuva420p",
        # Constant quality; alternate reference frames are not for streams with alpha. Row threads and
        # a fast preset: at the default one, 512 x 512 pixels take half a second a frame.
        {"crf": "24", "b": "0", "auto-alt-ref": "0", "row-mt": "1", "cpu-used": "4"},
        "libopus",
    ),
    ".mov": AlphaCodec(
        "mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16"}, "pcm_s16le"
    ),
}
"""The kinds, by the file's suffix."""

SPREAD_PX = 8
"""How far colours are carried on beyond the person's edge; more than a block's width of chroma."""


def alpha_codec(path: Path) -> AlphaCodec:
    """Return how a file of this name is encoded.

    Raises:
        InputError: another suffix, or an FFmpeg without the encoder.
    """
    codec = ALPHA_CODECS.get(Path(path).suffix.lower())
    if codec is None:
        raise InputError(
            f"{path}: a video with transparency is a .webm (VP9) or a .mov (ProRes 4444) file."
        )
    if codec.encoder not in av.codecs_available:
        others = [s for s, c in ALPHA_CODECS.items() if c.encoder in av.codecs_available]
        raise InputError(
            f"{path} needs the encoder {codec.encoder}, which the installed PyAV lacks. "
            f"Export as {' or '.join([*others, 'a folder of PNG files'])} instead."
        )
    return codec


class AlphaVideoWriter(VideoWriter):
    """Writes pictures with straight alpha, uint8 [H, W, 4], as ``VideoWriter`` does those without."""

    def __enter__(self) -> AlphaVideoWriter:
        """Open the temporary file and read the sound; raises InputError naming what cannot be."""
        codec = alpha_codec(self.path)
        sound = None if self._audio is None else read_sound(self._audio, self._audio_start_s)
        with self._naming_path(), ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._container = stack.enter_context(
                av.open(str(temporary), "w", format=codec.container)
            )
            self._video = self._container.add_stream(
                codec.encoder, rate=self._rate, options=codec.options
            )
            self._codec = codec
            self._sound = sound
            if sound is not None:
                self._sound_stream = self._container.add_stream(codec.sound, rate=SOUND_RATE)
                self._sound_stream.layout = "mono" if len(sound) == 1 else "stereo"
                if codec.sound == "libopus":
                    self._sound_stream.bit_rate = SOUND_BIT_RATE
            self._stack = stack.pop_all()
        return self

    def write(self, picture: np.ndarray) -> None:
        """Append a frame, uint8 [H, W, 4] sRGB with straight alpha; all must have one size.

        Raises:
            ValueError: another size or type.
            InputError: the file cannot be written, for example because the disk is full.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 4:
            raise ValueError(
                f"a frame must be uint8 [H, W, 4]; got {picture.dtype} {list(picture.shape)}."
            )
        height, width = picture.shape[:2]
        if self._size is None:
            self._size = (width, height)
            self._video.width, self._video.height = width + width % 2, height + height % 2
            self._video.pix_fmt = self._codec.pixels
            context = self._video.codec_context
            context.color_primaries = context.color_trc = context.colorspace = BT709
            context.color_range = ColorRange.MPEG
        if (width, height) != self._size:
            raise ValueError(
                f"all frames of a video must have one size; the first was {self._size}, frame "
                f"{self.frames} is {(width, height)}."
            )
        padded = np.pad(carried_on(picture), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgba")
        frame = frame.reformat(
            format=self._codec.pixels,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = self.frames
        frame.time_base = Fraction(1) / self._rate
        with self._naming_path():
            self._container.mux(self._video.encode(frame))
            self.frames += 1
            self._write_sound(round(self.frames * SOUND_RATE / self._rate))


def carried_on(picture: np.ndarray) -> np.ndarray:
    """Carry the colours of a picture uint8 [H, W, 4] on into where it is transparent.

    Encoders mix the colours of neighbours; black beyond the edge would darken hair and shoulders.
    """
    alpha = picture[..., 3:].astype(np.float32)
    size = (2 * SPREAD_PX + 1, 2 * SPREAD_PX + 1)
    weight = cv2.blur(alpha, size)[..., None]
    spread = cv2.blur(picture[..., :3] * alpha, size) / np.maximum(weight, 1e-3)
    share = alpha / 255
    mixed = np.where(share > 0.5, picture[..., :3], spread)
    return np.concatenate([np.round(mixed).clip(0, 255).astype(np.uint8), picture[..., 3:]], axis=2)
