"""Pictures and videos of a moving avatar: what ``avatar render`` and ``avatar export`` share.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_common import CameraName
from avatar.console import ProgressDisplay, console
from avatar.types import HeadState

if TYPE_CHECKING:
    from avatar.drive.source import Source
    from avatar.export.signature import Signature
    from avatar.model.avatar import Avatar


def pictures_of(
    model: Avatar,
    states: Iterable[HeadState],
    *,
    camera: CameraName,
    size: tuple[int, int] | None,
    background: tuple[float, float, float] | None,
    total: int,
    report: Any,
) -> Iterator[Any]:
    """Yield pictures uint8 [H, W, 3]; [H, W, 4] with straight alpha where there is no background."""
    from avatar.export.render import camera_path, render_cutouts, render_states

    path = camera_path(camera, model, size)
    if background is None:
        return render_cutouts(model, states, path, total=total, report=report)
    return render_states(model, states, path, background=background, total=total, report=report)


def film(
    output: Path,
    pictures: Iterable[Any],
    fps: float,
    source: Source,
    signature: Signature,
    *,
    transparent: bool,
) -> int:
    """Write pictures as a signed video with the source's sound; return how many there were.

    A transparent video is VP9 or ProRes by the output's suffix, any other H.264.
    """
    from avatar.export.alpha_video import AlphaVideoWriter
    from avatar.export.video import VideoWriter

    kind = AlphaVideoWriter if transparent else VideoWriter
    made = signature.manifest(f"video/{output.suffix.lower().lstrip('.')}", output.name)
    with kind(
        output, fps, audio=source.audio, audio_start_s=source.audio_start_s, manifest=made
    ) as video:
        for picture in pictures:
            video.write(signature.marked(picture))
    return video.frames


def write_film(
    output: Path,
    model: Avatar,
    source: Source,
    camera: CameraName,
    size: tuple[int, int] | None,
    background: tuple[float, float, float] | None,
    watermark: bool = True,
) -> None:
    """Render what a source moves and write the film; say what was written.

    Raises:
        InputError: a background for a video with transparency, or a file that cannot be written.
    """
    from avatar.export.alpha_video import ALPHA_CODECS
    from avatar.export.signature import Signature

    need_no_background(output, background)
    transparent = output.suffix.lower() in ALPHA_CODECS
    with ProgressDisplay() as report:
        pictures = pictures_of(
            model,
            source.states(),
            camera=camera,
            size=size,
            background=None if transparent else background or (1.0, 1.0, 1.0),
            total=len(source),
            report=report,
        )
        signature = Signature(model, watermark=watermark)
        written = film(output, pictures, source.fps, source, signature, transparent=transparent)
    if source.note:
        console.print(escape(source.note))
    sound = "" if source.audio is None else " with sound"
    console.print(
        f"{output}: {written} frames at {source.fps:g} frames/s, {written / source.fps:.1f} s{sound}"
    )


def need_no_background(output: Path, background: tuple[float, float, float] | None) -> None:
    """Refuse a background for a video with transparency, before anything costs time."""
    from avatar.export.alpha_video import ALPHA_CODECS

    if background is not None and output.suffix.lower() in ALPHA_CODECS:
        raise InputError(
            f"{output} is a video with transparency, which has no --background. Leave it out, or name "
            "an .mp4."
        )
