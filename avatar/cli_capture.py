"""``avatar capture``: one clip, or one of each camera, to a capture folder.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.markup import escape

from avatar.cli_clips import ClipOptions, Clips
from avatar.cli_common import OptionalOutput, UsageError
from avatar.cli_dataset import Layout, captured_data_set, is_data_set
from avatar.console import ProgressDisplay, console


def capture(
    videos: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    output: OptionalOutput = None,
    overwrite: bool = False,
    guide: bool = False,
    dataset: Layout | None = None,
    only: str | None = None,
    fps: float | None = None,
    options: Clips = ClipOptions(),
) -> None:
    """Read clips, check them, find face and person in every frame, and track the head.

    Several clips of one take, one of each fixed camera, become one capture on one time line: they are
    synchronised by sound (clap once), else by motion; the cameras are found by the moving face, or read
    from --calibration. A rerun goes on where it stopped, with the camera that it had come to.

    Args:
        videos: the clip, or the clips of all cameras, or the folder of a data set (docs/datasets.md).
        output: the capture folder to make, by custom NAME.capture; needed with a clip.
        overwrite: replace what another clip left in the output folder.
        guide: print the page to follow when filming (what to do, for how long) and do nothing else.
        dataset: how a data set's folder is laid out; told by its files where not given.
        only: name of the one camera of a data set to take; all where not given.
        fps: frames a second of a data set that does not state them (25 are assumed).
        options: of the clips.
    """
    if guide:
        from capture.guide import as_text

        print(as_text(), end="")
        return
    clips, options = options.with_clips(videos)
    if not clips or output is None:
        missing = "a VIDEO" if not clips else "-o OUTPUT"
        raise UsageError(
            f"avatar capture needs {missing}: avatar capture VIDEO -o ME.capture. "
            "How to film: avatar capture --guide"
        )
    folder = is_data_set(clips)
    if not folder and (dataset, only, fps) != (None, None, None):
        raise UsageError(
            "--dataset, --only and --fps are for folders of data sets, and this is a clip."
        )
    from capture.pipeline import capture_video

    with ProgressDisplay() as report:
        if folder:
            captured = captured_data_set(
                clips[0],
                output,
                report,
                layout=dataset,
                only=only,
                fps=fps,
                options=options,
                overwrite=overwrite,
            )
        else:
            captured = capture_video(clips, output, options.config(overwrite=overwrite), report)
    cameras = f", {len(captured.cameras)} cameras" if len(captured.cameras) > 1 else ""
    console.print(
        f"{captured.frames} frames{cameras} at {captured.fps:g} frames/s in {escape(str(output))}."
    )
    console.print(
        f"Look at {escape(str(output))}/report.html, then: avatar train {escape(str(output))} -o ME.run"
    )
