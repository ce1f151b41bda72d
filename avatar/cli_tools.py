"""``avatar sample`` and ``avatar doctor``: a clip to begin with, and whether all works here.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.cli_common import Output
from avatar.console import ProgressDisplay, console


def sample(
    output: Output = Path("sample.mp4"),
    seconds: float = 10.0,
    size: int = 512,
    silent: bool = False,
) -> None:
    """Make the bundled sample: a public-domain portrait (scikit-image's astronaut), animated.

    Args:
        output: the clip to write; its true controls go beside it.
        seconds: length of the clip.
        size: side of the square picture in pixels.
        silent: no voice, even where espeak-ng is installed.
    """
    from capture.sample import make_sample

    with ProgressDisplay() as report:
        make_sample(output, seconds=seconds, size=size, voice=not silent, report=report)
    console.print(f"Next: avatar create {output}")


def doctor(json_file: JsonFile = None) -> None:
    """Say what works on this machine, and what to do about what does not.

    Args:
        json_file: write the findings to this file instead; - prints them as JSON.
    """
    from avatar.doctor import as_json, examine
    from capture.landmarks import describe_models

    findings = examine(describe_models)
    result = as_json(findings)
    if json_file is None:
        for f in findings:
            mark = (
                "[green]ok[/green]  "
                if f.ok
                else ("[red]no[/red]  " if f.needed else "[yellow]--[/yellow]  ")
            )
            console.print(f"{mark}{f.name:<22}{escape(f.detail)}")
    write_json_file(json_file, result)
    if not result["ok"]:
        raise InputError("Something that the main job needs is missing; see the lines marked 'no'.")
