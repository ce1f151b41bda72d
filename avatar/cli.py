"""The command line, and the composition root: the only module of this package that knows all others.

Every command is a function; tyro makes its options and ``--help`` from the signature. Heavy packages
are imported inside the commands that need them, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import tyro
from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_analyse import analyse
from avatar.cli_bench import JsonFile, bench, write_json_file
from avatar.cli_capture import capture
from avatar.cli_common import (
    CameraName,
    Deformer,
    Device,
    Output,
    Preset,
    UsageError,
    driving_source,
    need_device,
    train_config,
)
from avatar.cli_create import create
from avatar.cli_eval import camera_line, evaluate_run
from avatar.cli_export import export
from avatar.cli_film import need_no_background, write_film
from avatar.cli_fit import fit_run
from avatar.cli_inspect import inspect_file
from avatar.cli_live import send
from avatar.cli_rig import rig as rig_command
from avatar.cli_say import listen, say
from avatar.cli_tools import doctor, sample
from avatar.cli_view import view
from avatar.cli_voice import train_voice
from avatar.console import ProgressDisplay, console

app = tyro.extras.SubcommandApp()
app.command(name="create")(create)  # the first in the list of --help


@app.command
def train(
    capture: tyro.conf.Positional[Path],
    /,
    output: Output,
    preset: Preset = "draft",
    device: Device = "auto",
    resume: bool = False,
    overwrite: bool = False,
    deformer: Deformer = "branches",
    steps: int | None = None,
    seed: int = 0,
    hold_cameras: str = "",
    who: str | None = None,
    consent: str | None = None,
    view: bool = False,
    port: int = 8080,
) -> None:
    """Fit an avatar to a capture; Ctrl-C or a crash loses seconds, --resume goes on exactly there.

    Args:
        capture: a folder that `avatar capture` made.
        output: the run folder; the avatar becomes OUTPUT/avatar.avatar.
        preset: what the fit may cost: smoke (seconds, for tests), draft (a coffee), standard, overnight.
        device: where to fit; auto takes an NVIDIA GPU where its kernels run, else the CPU. A run may go on on
            another device.
        resume: go on with the run in OUTPUT.
        overwrite: throw the run in OUTPUT away and start over.
        deformer: what makes of expression and pose the motion of the Gaussians beyond the face's own.
        steps: optimisation steps, instead of the preset's.
        seed: seed of all randomness.
        hold_cameras: cameras that the fit must not see, as 2,5; the evaluation says how it looks there.
        who: name of the person shown; kept in the avatar and told by everything exported from it.
        consent: what the person agreed to, in a sentence; kept and told like the name.
        view: watch it in the browser: any side, pause, stop early and keep.
        port: port on this machine for --view (127.0.0.1; nothing is served beyond it).
    """
    from avatar.capture_data import Capture

    need_device(device)
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other; give one of them.")
    with ProgressDisplay() as report:
        fit_run(
            Capture(capture),
            output,
            train_config(preset, steps, seed, deformer, hold_cameras),
            report,
            resume=resume,
            overwrite=overwrite,
            port=port if view else None,
            who=who,
            consent=consent,
            device=device,
        )
    console.print(f"The avatar is {output}/avatar.avatar. Next: avatar eval {output}")


@app.command(name="eval")
def evaluate_command(
    run: tyro.conf.Positional[Path],
    /,
    max_side: int | None = None,
    device: Device = "auto",
    watermark: bool = True,
    json_file: JsonFile = None,
) -> None:
    """Measure a run's avatar on the held-out frames; write eval.json, preview.mp4, report and pictures.

    Args:
        run: a folder that `avatar train` made.
        max_side: longer side at which pictures are compared, pixels; where not given, the one at which
            the avatar was trained. Numbers taken at different sizes do not compare.
        device: where frames a second are timed; auto takes an NVIDIA GPU where its kernels run, else the CPU.
        watermark: mark the avatar's pictures in the preview invisibly; what is measured is never marked.
        json_file: also write the numbers to this file; - prints them.
    """
    from avatar.export.report import warnings_of
    from avatar.model.avatar import Avatar
    from avatar.train.run_folder import capture_of

    if max_side is not None and max_side < 64:
        raise InputError(f"--max-side must be at least 64 pixels; got {max_side}.")
    need_device(device)
    avatar = Avatar.load(run / "avatar.avatar")
    with ProgressDisplay() as report:
        result = evaluate_run(
            avatar, capture_of(run), run, report, max_side, watermark=watermark, device=device
        )
    warnings = warnings_of(result)
    write_json_file(json_file, result)
    if json_file is None:
        for key in (
            *(
                "frames",
                "frames_left_out",
                "resolution",
                "psnr",
                "psnr_all_tracked",
                "ssim",
                "flip",
            ),
            *("lpips", "lmd_px", "alpha_iou", "gaussians", "render_fps", "animate_render_fps"),
        ):
            print(f"{key:<20}{result[key]}")
        for row in result["cameras"]:
            print(camera_line(row))
    for sentence in warnings:
        console.print(escape(sentence))
    console.print(
        f"In {run}/eval: eval.json, preview.mp4, report.html, and as pictures "
        "contact_sheet.jpg, sliders.jpg, turntable.jpg"
    )


@app.command
def render(
    avatar: tyro.conf.Positional[Path],
    /,
    output: Output,
    drive: str = "self",
    camera: CameraName = "capture",
    size: tuple[int, int] | None = None,
    background: tuple[float, float, float] | None = None,
    frames: int | None = None,
    watermark: bool = True,
    voice: Path | None = None,
) -> None:
    """Let an avatar move and write the video.

    Args:
        avatar: a .avatar file, a run folder, or a folder that `avatar create` made.
        output: the video to write: .mp4, or .webm or .mov for one with transparency.
        drive: what moves it: self (the captured motion), another capture folder or clip (another person's
            motion, carried over), a .csv / .json file of ARKit weights, a .jsonl recording of a live
            stream, or speech (.wav, .mp3, .m4a, .ogg, .flac).
        camera: the capture's own view, a view square before the face, an orbit from side to side, or all
            the way round.
        size: width and height in pixels; the capture's where not given.
        background: red, green and blue from 0 to 1; white where not given.
        frames: frames at most; all where not given.
        watermark: mark the pictures invisibly as those of this avatar (docs/sharing.md).
        voice: how the person speaks, a .voice file of `avatar train-voice`; the me.voice beside the
            avatar where not given, and a fallback without training where there is none.
    """
    from avatar.train.restore import find_avatar

    if frames is not None and frames < 1:
        raise InputError(f"--frames must be at least 1; got {frames}.")
    need_no_background(output, background)
    model, home = find_avatar(avatar)
    with ProgressDisplay() as report:
        source = driving_source(drive, model, home, output, frames, report, voice)
    write_film(output, model, source, camera, size, background, watermark)


app.command(name="capture")(capture)
app.command(name="view")(view)
app.command(name="export")(export)
app.command(name="bench")(bench)
app.command(name="inspect")(inspect_file)
app.command(name="sample")(sample)
app.command(name="doctor")(doctor)
app.command(name="send")(send)
app.command(name="analyse")(analyse)
app.command(name="say")(say)
app.command(name="listen")(listen)
app.command(name="train-voice")(train_voice)
app.command(name="rig")(rig_command)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 input or environment, 2 usage, 130 interrupted."""
    import torch

    # The work is in the kernels, which have threads of their own; see one_torch_thread.
    torch.set_num_threads(1)
    try:
        app.cli(prog="avatar", description="Personal head avatars made of 3D Gaussians.")
    except UsageError as error:
        console.print(f"[bold red]avatar:[/bold red] {escape(str(error))}")
        sys.exit(2)
    except InputError as error:
        console.print(f"[bold red]avatar:[/bold red] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print(
            "\nInterrupted. Run the same command again to go on (avatar train: --resume)."
        )
        sys.exit(130)
    except Exception as error:
        sentence = _unforeseen(error)
        if sentence is None:
            raise
        console.print(f"[bold red]avatar:[/bold red] {escape(sentence)}")
        sys.exit(1)


def _unforeseen(error: Exception) -> str | None:
    """Say what stages did not foresee (a full disk, a folder that cannot be written, no memory left).

    None where it is a mistake of the program, whose traceback somebody will want.
    """
    from avatar.train.memory import ran_out

    if ran_out(error):
        return (
            "Memory ran out. End other programs, or give a smaller --preset or --max-side, then run the "
            "same command again."
        )
    known = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR)
    if isinstance(error, OSError) and error.errno in known:
        where = f" ({error.filename})" if error.filename else ""
        return (
            f"{error.strerror or error}{where}. Free some space or give another folder with -o, then run "
            "the same command again."
        )
    return None


if __name__ == "__main__":
    main()
