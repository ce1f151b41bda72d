"""``avatar export``: an avatar in other programs' formats.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_common import CameraName, OptionalOutput, UsageError
from avatar.cli_export_formats import FORMATS, Format
from avatar.cli_export_job import Axes, Export
from avatar.console import ProgressDisplay, console

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
ListFlag = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="list")]

LARGEST_FPS = 240.0
LARGEST_SIDE = 8192
"""Pixels; a larger picture is a slip of the hand, and H.264 has none."""


def export(
    path: tyro.conf.Positional[Path | None] = None,
    /,
    output: OptionalOutput = None,
    format: str | None = None,
    list_formats: ListFlag = False,
    drive: str | None = None,
    frame: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    expression: str = "",
    camera: CameraName = "front",
    size: tuple[int, int] | None = None,
    background: str | None = None,
    axes: Axes = "opengl",
    overwrite: bool = False,
    watermark: bool = True,
    head_fixed: Switch = False,
    cameras_fixed: Switch = False,
    link: Switch = False,
) -> None:
    """Write an avatar in another program's format: Gaussians, pictures, videos or its motion.

    Args:
        path: a .avatar file, a run folder, or a folder that `avatar create` made; for arkit-csv a
            capture folder too, and for nerfstudio and vhap-like nothing else.
        output: the file to write, or the folder for numbered files (png, and Gaussians with --drive).
        format: one of `avatar export --list`; told by the suffix of the output where not given.
        list_formats: print the formats and what opens them, and do nothing else.
        drive: what moves it, as in `avatar render`: self, a capture folder, a clip, or a .csv or .json
            file of ARKit weights. Videos and png folders take self where not given; a page (html) does
            where the capture is at hand.
        frame: export this one frame of the motion, counted from 0.
        frames: frames at most; all where not given.
        fps: frames a second of the result; the motion's own where not given.
        expression: ARKit coefficients such as jawOpen=0.4,mouthSmileLeft=0.8; held in every frame.
        camera: from where pictures are taken: square before the face, an orbit from side to side, all
            the way round, or the capture's own view.
        size: width and height of pictures in pixels; the capture's where not given.
        background: transparent, a name such as white, or #rrggbb; transparent where the format can.
        axes: of Gaussians: opengl is y up, z towards the viewer; opencv is y down, z away, which many
            viewers expect of .ply and .splat files (an avatar upside down is one that wants it).
        overwrite: replace a folder of frames that is not empty.
        watermark: mark pictures and videos invisibly as those of this avatar (docs/sharing.md).
        head_fixed: of a nerfstudio data set: the head is the world and cameras move around it, for methods
            that learn what stands still; done for captures of one camera where neither is given.
        cameras_fixed: of a nerfstudio data set: cameras stand still and the head moves, for methods that
            take time; done for captures of several cameras where neither is given.
        link: link a data set's pictures to the capture's instead of copying them.
    """
    if list_formats:
        print(formats_table())
        return
    if path is None or output is None:
        missing = "an avatar" if path is None else "-o OUTPUT"
        raise UsageError(
            f"avatar export needs {missing}: avatar export ME.avatar -o ME.ply. "
            "The formats: avatar export --list"
        )
    if head_fixed and cameras_fixed:
        raise UsageError(
            "--head-fixed and --cameras-fixed contradict each other; give one of them."
        )
    chosen = choose_format(format, output)
    _check_numbers(frame, frames, fps, size)
    colour = None if background in (None, "transparent") else parse_colour(background)
    with ProgressDisplay() as report:
        said = chosen.write(
            Export(
                path=path,
                output=output,
                drive=drive,
                frame=frame,
                frames=frames,
                fps=fps,
                expression=parse_expression(expression),
                camera=camera,
                size=size,
                background=colour,
                background_named=background is not None,
                axes=axes,
                overwrite=overwrite,
                watermark=watermark,
                report=report,
                head_fixed=head_fixed or (False if cameras_fixed else None),
                link=link,
            )
        )
    console.print(escape(f"{output}: {said}"))


def choose_format(name: str | None, output: Path) -> Format:
    """Return the format of that name, or where there is none the one that the output's name tells.

    Raises:
        InputError: no such format, or a name that tells none.
    """
    if name is not None:
        if name in FORMATS:
            return FORMATS[name]
        near = difflib.get_close_matches(name.lower(), FORMATS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"--format {name} is none of {', '.join(FORMATS)}.{hint}")
    lower = output.name.lower()
    fitting = [
        (len(suffix), kind.name)
        for kind in FORMATS.values()
        for suffix in kind.suffixes
        if lower.endswith(suffix)
    ]
    if fitting:
        return FORMATS[max(fitting)[1]]  # the longest: .compressed.ply before .ply
    known = ", ".join(suffix for kind in FORMATS.values() for suffix in kind.suffixes)
    ending = f"the suffix {output.suffix}" if output.suffix else "no suffix"
    raise InputError(
        f"{output} has {ending}, which tells no format. Name one with --format "
        f"({', '.join(FORMATS)}), or end the name in one of {known}."
    )


def parse_expression(text: str) -> dict[str, float]:
    """Read ``jawOpen=0.4,mouthSmileLeft=0.8``; raises InputError naming what is wrong and what is near."""
    from avatar.rig.arkit import ARKIT_NAMES

    names = {name.lower(): name for name in ARKIT_NAMES}
    values: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, number = (piece.strip() for piece in part.partition("="))
        name = names.get(key.lower())
        if name is None:
            near = difflib.get_close_matches(key.lower(), names, n=3, cutoff=0.4)
            nearest = ", ".join(names[n] for n in near)
            raise InputError(
                f"--expression: '{key}' is none of the 52 ARKit coefficients. "
                + (f"Nearest: {nearest}." if near else f"They are: {', '.join(ARKIT_NAMES)}.")
            )
        if name in values:
            raise InputError(f"--expression names {name} twice. Give it once.")
        try:
            value = float(number) if equals else math.nan
        except ValueError:
            value = math.nan
        if not -1 <= value <= 2:
            raise InputError(
                f"--expression: {name} needs a number, nominally from 0 to 1 (-1 to 2 are taken), as in "
                f"{name}=0.4; got '{number}'."
            )
        values[name] = value
    return values


def parse_colour(text: str) -> tuple[float, float, float]:
    """Read a colour's name or #rrggbb as red, green and blue in [0, 1]; raises InputError."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getcolor(text.strip(), "RGB")  # pyright: ignore
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--background {text} is no colour. Give transparent, a name such as white or green, or "
            "#rrggbb."
        ) from error
    return red / 255, green / 255, blue / 255


def formats_table() -> str:
    """Return the formats as lines of text: name, suffix, what it is, what opens it."""
    lines = []
    for kind in FORMATS.values():
        ends = " ".join(kind.suffixes) or "folder/"
        lines += [f"{kind.name:<16}{ends:<18}{kind.what}", f"{'':<34}opens in: {kind.opens}"]
    return "\n".join(lines)


def _check_numbers(
    frame: int | None, frames: int | None, fps: float | None, size: tuple[int, int] | None
) -> None:
    if frame is not None and frame < 0:
        raise InputError(f"--frame counts from 0; got {frame}.")
    if frames is not None and frames < 1:
        raise InputError(f"--frames must be at least 1; got {frames}.")
    if frame is not None and (frames is not None or fps is not None):
        raise InputError("--frame is one frame: leave --frames and --fps out, or leave it out.")
    if fps is not None and not 1 <= fps <= LARGEST_FPS:
        raise InputError(f"--fps must lie within 1 and {LARGEST_FPS:g}; got {fps:g}.")
    if size is not None and not all(16 <= side <= LARGEST_SIDE for side in size):
        raise InputError(
            f"--size is width and height from 16 to {LARGEST_SIDE} pixels; got {size[0]} {size[1]}."
        )
