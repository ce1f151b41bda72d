"""Pictures and videos of a moving avatar: what ``avatar render`` and ``avatar export`` share.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar.cli_common import CameraName
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
