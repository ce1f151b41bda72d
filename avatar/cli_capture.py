"""``avatar capture``: one clip, or one of each camera, to a capture folder.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.markup import escape

from avatar.cli_common import (
    CalibrationUnit,
    OptionalOutput,
    UsageError,
    captured_clip,
    clip_settings,
    clips_and_masks,
)
from avatar.cli_dataset import Layout, captured_data_set, is_data_set
from avatar.console import ProgressDisplay, console


def capture(
    videos: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    output: OptionalOutput = None,
    mask: tuple[Path, ...] = (),
    mirrored: bool = False,
    mirrored_clips: tuple[str, ...] = (),
    max_side: int = 4096,
    focal_mm: tyro.conf.UseAppendAction[tuple[float, ...]] = (),
    offsets: tuple[float, ...] = (),
    calibration: Path | None = None,
    calibration_unit: CalibrationUnit | None = None,
    rig: str = "lattice",
    overwrite: bool = False,
    guide: bool = False,
    dataset: Layout | None = None,
    only: str | None = None,
    fps: float | None = None,
) -> None:
    """Read clips, check them, find face and person in every frame, and track the head.

    Several clips of one take, one of each fixed camera, become one capture on one time line: they are
    synchronised by sound (clap once), else by motion; the cameras are found by the moving face, or read
    from --calibration. A rerun goes on where it stopped, with the camera that it had come to.

    Args:
        videos: the clip, or the clips of all cameras, or the folder of a data set (docs/datasets.md).
        output: the capture folder to make, by custom NAME.capture; needed with a clip.
        mask: a matte clip of the same length (white is the person), instead of the built-in matting; of
            several cameras one for each clip, in their order.
        mirrored: all clips are mirrored, as some selfie apps save them: flip them back.
        mirrored_clips: file names of the clips that are mirrored, where not all are.
        max_side: longer side of the stored frames, pixels; larger ones are scaled down.
        focal_mm: the camera's focal length in 35 mm equivalents (about 26 for a phone's main camera, 24 for
            its front one); once for all cameras or once for each clip; found in the clips where not given.
        offsets: seconds from the first clip's first picture to that of each clip (0 0.12 -0.3: the third
            began first), instead of finding them by sound or motion.
        calibration: the cameras, where they are known: transforms.json (nerfstudio, Blender), a COLMAP folder
            (text or binary), or an OpenCV yml or xml file; matched to the clips by name, else by order.
        calibration_unit: its unit of length; metres where not given, for COLMAP arbitrary.
        rig: the head model to fit: lattice, or the name of an imported one (avatar rig list).
        overwrite: replace what another clip left in the output folder.
        guide: print the page to follow when filming (what to do, for how long) and do nothing else.
        dataset: how a data set's folder is laid out; told by its files where not given.
        only: name of the one camera of a data set to take; all where not given.
        fps: frames a second of a data set that does not state them (25 are assumed).
    """
    if guide:
        from capture.guide import as_text

        print(as_text(), end="")
        return
    clips, mask = clips_and_masks(videos, mask)
    if not clips or output is None:
        missing = "a VIDEO" if not clips else "-o OUTPUT"
        raise UsageError(
            f"avatar capture needs {missing}: avatar capture VIDEO -o ME.capture. "
            "How to film: avatar capture --guide"
        )
    settings = clip_settings(
        mask,
        mirrored=mirrored,
        mirrored_clips=mirrored_clips,
        focal_mm=focal_mm,
        offsets=offsets,
        calibration=calibration,
        calibration_unit=calibration_unit,
    )
    folder = is_data_set(clips)
    if not folder and (dataset, only, fps) != (None, None, None):
        raise UsageError(
            "--dataset, --only and --fps are for folders of data sets, and this is a clip."
        )
    with ProgressDisplay() as report:
        if folder:
            captured = captured_data_set(
                clips[0],
                output,
                report,
                layout=dataset,
                only=only,
                fps=fps,
                rig=rig,
                max_side=max_side,
                overwrite=overwrite,
                clip_options=[
                    f"--{name.replace('_', '-')}" for name, value in settings.items() if value
                ],
            )
        else:
            captured = captured_clip(
                clips,
                output,
                report,
                max_side=max_side,
                rig=rig,
                overwrite=overwrite,
                **settings,
            )
    cameras = f", {len(captured.cameras)} cameras" if len(captured.cameras) > 1 else ""
    console.print(
        f"{captured.frames} frames{cameras} at {captured.fps:g} frames/s in {escape(str(output))}."
    )
    console.print(
        f"Look at {escape(str(output))}/report.html, then: avatar train {escape(str(output))} -o ME.run"
    )
