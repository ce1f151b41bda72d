"""``avatar capture FOLDER``: other people's data sets become captures.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avatar.checks import InputError
from avatar.cli_clips import ClipOptions

if TYPE_CHECKING:
    from avatar.capture_data import Capture

Layout = Literal["nerfstudio", "vhap", "insta", "imavatar", "flashavatar"]


def is_data_set(paths: Sequence[Path]) -> bool:
    """Whether what is to be captured is a folder of pictures and no clip."""
    return len(paths) == 1 and paths[0].is_dir()


def captured_data_set(
    folder: Path,
    output: Path,
    report: Any,
    *,
    layout: Layout | None = None,
    only: str | None = None,
    fps: float | None = None,
    options: ClipOptions = ClipOptions(),
    overwrite: bool = False,
) -> Capture:
    """Capture a data set; raises InputError for what cannot be.

    Args:
        folder: of the data set.
        output: the capture folder.
        report: progress listener.
        layout: how it is laid out; told by its files where None.
        only: name of the one camera to take; all where None.
        fps: frames a second; what it states where None.
        options: as for clips, of which the rig and the longer side are for data sets too.
        overwrite: replace another capture.
    """
    from capture.datasets.capturing import DataSetConfig, capture_data_set, need_data_set

    if given := options.of_clips_alone():
        raise InputError(
            f"{given[0]} is for clips, and {folder} is a data set, which states that itself. Leave it "
            f"out."
        )
    need_data_set(folder)
    config = DataSetConfig(
        layout, only, fps, options.checked_side(), rig=options.rig, overwrite=overwrite
    )
    return capture_data_set(folder, output, config, report)
