"""``avatar create``: from clips to an avatar in one command.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from pathlib import Path

import tyro
from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.cli_clips import ClipOptions, Clips
from avatar.cli_common import (
    Deformer,
    Device,
    OptionalOutput,
    Preset,
    UsageError,
    copy_file,
    need_device,
    train_config,
)
from avatar.cli_eval import evaluate_run
from avatar.cli_fit import claim_run, fit_run
from avatar.console import ProgressDisplay, console


def create(
    videos: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    output: OptionalOutput = None,
    preset: Preset = "draft",
    device: Device = "auto",
    deformer: Deformer = "branches",
    steps: int | None = None,
    seed: int = 0,
    hold_cameras: str = "",
    overwrite: bool = False,
    who: str | None = None,
    consent: str | None = None,
    watermark: bool = True,
    view: bool = False,
    port: int = 8080,
    json_file: JsonFile = None,
    options: Clips = ClipOptions(),
) -> None:
    """Make an avatar: capture, track, fit, evaluate, preview. A rerun goes on where it stopped.

    Several clips of one take, one of each fixed camera, make one avatar; see avatar capture --help.
    A rerun with another preset, seed or number of steps takes the capture as it is and fits anew; the run
    that was there is kept, with its avatar and evaluation, as me.PRESET.run beside me.run.

    Args:
        videos: the clip, any format that FFmpeg reads, 10 to 90 seconds of one person, well lit; or those of
            all cameras.
        output: folder for all results; out/CLIPNAME, of the first clip, where not given.
        preset: what the fit may cost: smoke (seconds, for tests), draft (a coffee), standard, overnight.
        device: where to fit; auto takes an NVIDIA GPU where its kernels run, else the CPU. A run may go on on
            another device.
        deformer: what makes of expression and pose the motion of the Gaussians beyond the face's own.
        steps: optimisation steps, instead of the preset's.
        seed: seed of all randomness.
        hold_cameras: cameras that the fit must not see, as 2,5; the evaluation says how it looks there.
        overwrite: replace what another clip, or a fit with other settings, left in the output folder.
        who: name of the person shown; kept in the avatar and told by everything exported from it.
        consent: what the person agreed to, in a sentence; kept and told like the name.
        watermark: mark the avatar's pictures in the preview invisibly (docs/sharing.md).
        view: watch the fit in the browser: any side, pause, stop early and keep.
        port: port on this machine for --view (127.0.0.1; nothing is served beyond it).
        json_file: also write the evaluation to this file.
        options: of the clips.
    """
    from avatar.export.report import warnings_of
    from avatar.model.avatar import Avatar
    from avatar.train.evaluate import STAGES
    from capture.pipeline import capture_video

    clips, options = options.with_clips(videos)
    if not clips:
        raise UsageError("avatar create needs a VIDEO: avatar create VIDEO -o out/me.")
    for folder in clips:
        if folder.is_dir():
            raise InputError(
                f"{folder} is a folder, and avatar create takes clips. For a data set, first: avatar capture "
                f"{folder} -o ME.capture, then: avatar train ME.capture -o ME.run"
            )
    need_device(device)
    if view:
        from viewer.app import need_port

        need_port("127.0.0.1", port)  # said now, not after minutes of tracking
    output = output or Path("out") / clips[0].stem
    config = train_config(preset, steps, seed, deformer, hold_cameras)
    with ProgressDisplay() as report:
        output.mkdir(parents=True, exist_ok=True)
        captured = capture_video(
            clips, output / "me.capture", options.config(overwrite=overwrite), report
        )
        resume, kept = claim_run(output, captured, config, overwrite=overwrite)
        if kept:
            console.print(kept)
        fit_run(
            captured,
            output / "me.run",
            config,
            report,
            resume=resume,
            overwrite=not resume,
            port=port if view else None,
            who=who,
            consent=consent,
            device=device,
        )
        copy_file(output / "me.run" / "avatar.avatar", output / "me.avatar")
        avatar = Avatar.load(output / "me.avatar")  # measured as it is stored
        result = evaluate_run(
            avatar, captured, output / "me.run", report, watermark=watermark, device=device
        )
    for name in ("eval.json", "preview.mp4", "report.html"):
        copy_file(output / "me.run" / "eval" / name, output / name)
    write_json_file(json_file, result)
    seconds = result["seconds"]
    parts = ", ".join(f"{name} {seconds[name]:.0f}" for name in STAGES)
    psnr = "not measured" if result["psnr"] is None else f"{result['psnr']:.2f} dB"
    console.print(
        f"\n[bold]Done.[/bold] Held-out PSNR {psnr} over {result['frames']} frames; "
        f"{seconds['total']:.0f} s in all ({parts}).\n"
        + "".join(f"{escape(sentence)}\n" for sentence in warnings_of(result))
        + f"  {output}/preview.mp4   left the held-out video, right the avatar\n"
        f"  {output}/report.html   numbers and pictures; me.capture/report.html on the footage\n"
        f"Look at it from any side:   avatar view {output}/me.avatar\n"
        f"Let it move:                avatar render {output}/me.avatar --drive self --camera orbit "
        f"-o {output}/orbit.mp4",
        markup=True,
    )
