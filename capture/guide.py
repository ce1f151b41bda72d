"""What to do before the camera: one page for the person to follow, as text and as docs/capture.md.

``SCRIPT`` is the only place where the take is written down; the times, the sums and both pages are
made from it. Poses are chosen so that together they light up every ARKit coefficient but
``tongueOut``, which no landmark lies on.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import cache

from avatar.rig.arkit import ARKIT_NAMES

PAGE_WIDTH = 96
"""Characters of a line of the printed page."""

SETUP: tuple[tuple[str, str], ...] = (
    (
        "Light",
        "Face a window or a large soft lamp; none behind you. The light must stay the same throughout.",
    ),
    (
        "Camera",
        "At eye height on something that stands still, an arm's length away or a little more. The head "
        "fills about half of the picture's height, with hair and shoulders in view.",
    ),
    (
        "Exposure",
        "Lock focus and exposure: hold a finger on the face on the screen until the lock shows. "
        "30 frames a second, 1080p or 4K, no HDR where it can be turned off, no digital zoom.",
    ),
    (
        "No tricks",
        "No beauty filter, no portrait blur, no background effect. Film without mirroring; an app that "
        "saves the mirrored picture needs the option --mirrored afterwards.",
    ),
    (
        "Lens",
        "If you know the camera's focal length in 35 mm equivalents (a phone's main camera has about 26, "
        "video often 28), give it afterwards with --focal-mm: depth comes out truer, above all of a short "
        "clip.",
    ),
    (
        "You",
        "Alone in the picture. Hair off the eyes and brows, no glasses, no hand at the face. "
        "A plain background helps.",
    ),
)
"""Set-up: what, and how."""


SEVERAL_WHY = (
    "Two or three phones at once show the head from more sides than it can turn to. The same take; on "
    "every camera what stands above, and:"
)
"""Why, on the page."""

SEVERAL: tuple[tuple[str, str], ...] = (
    (
        "Stands",
        "Every camera on something that stands still from the first to the last second; nobody touches "
        "them in between.",
    ),
    (
        "Overlap",
        "Neighbours 20 to 40 degrees apart, so that each sees the face together with the next one most of "
        "the time. The cameras are found by the face they share; one behind the head needs --calibration.",
    ),
    (
        "One setting",
        "The same size and frame rate (30) on all, the same lens, no zoom during the take. Lock focus, "
        "exposure and white balance on each: colours are matched afterwards, a change within the take is "
        "not.",
    ),
    (
        "Clap once",
        "Start all cameras with sound, then clap once where all hear it. The clips are laid over each other "
        "by their sound to a few milliseconds, by the face's motion where there is none, or with --offsets.",
    ),
    (
        "Then",
        "`avatar capture left.mp4 middle.mp4 right.mp4 -o me.capture`; look at the pictures of all cameras in "
        "`me.capture/report.html`: they must show one moment.",
    ),
)
"""What to mind with several cameras: what, and how."""


@dataclass(frozen=True)
class Step:
    """One thing to do before the camera."""

    text: str
    """What to do, as said to the person."""
    seconds: float
    """How long it takes."""
    shapes: tuple[str, ...] = ()
    """ARKit coefficients that it lights up."""


@dataclass(frozen=True)
class Part:
    """A part of the take."""

    title: str
    """Its name."""
    why: str
    """What the avatar takes from it."""
    steps: tuple[Step, ...]
    """In order."""

    @property
    def seconds(self) -> float:
        """How long the part takes."""
        return sum(step.seconds for step in self.steps)


def both(*names: str) -> tuple[str, ...]:
    """Return Left and Right of each name."""
    return tuple(f"{name}{side}" for name in names for side in ("Left", "Right"))


READING = (
    "Five young wolves chewed a huge orange fish by the old bridge. Joy thought of the measure: show "
    "them both how to pour a cup of pure water. Vera, push the boat out now, before the rough weather "
    "catches us! We saw a little bird hop away, zigzag among yellow jars, and choose a thick wool "
    "scarf. My mother gave Paul some good food, while a boy sang: oh, why are you here, up there, so far?"
)
"""Our own text: every phoneme of English, and so every mouth shape of speech, at least once."""

WORDS_A_SECOND = 2.6
"""Speed of reading aloud without haste."""

READING_S = 30.0
"""How long READING takes at that speed, rounded up."""

SCRIPT: tuple[Part, ...] = (
    Part(
        "Turns",
        "The shape of the head, the focal length of the camera, and both cheeks come from these. Keep a "
        "calm face, turn the head and not the camera, look where the nose points.",
        (
            Step("Look into the camera, at rest, mouth shut.", 2),
            Step("Turn slowly to the left, to about 45 degrees, back, to the right, back.", 8),
            Step("Look slowly up to about 25 degrees, then down, and back.", 5),
            Step("Draw one slow circle with the nose.", 5),
        ),
    ),
    Part(
        "Faces",
        "Each coefficient is learnt from its own pose. Start each from rest, go as far as is "
        "comfortable, hold it for half a second, let go. Head straight to the camera.",
        (
            Step("Brows up, high, eyes wide.", 2,
                 ("browInnerUp", *both("browOuterUp", "eyeWide"))),
            Step("Frown: brows down, eyes narrow.", 2, both("browDown", "eyeSquint")),
            Step("Close the eyes once, softly.", 1.5, both("eyeBlink")),
            Step("Broad smile with teeth, cheeks up.", 2,
                 both("mouthSmile", "cheekSquint", "mouthDimple")),
            Step("Wrinkle the nose and bare the upper teeth.", 2, both("noseSneer", "mouthUpperUp")),
            Step("Corners of the mouth down, lower lip pushed up.", 2,
                 (*both("mouthFrown"), "mouthShrugLower", "mouthShrugUpper")),
            Step("Show the lower teeth, mouth pulled wide.", 2,
                 both("mouthLowerDown", "mouthStretch")),
            Step("Mouth wide open: \"ah\". Then shut the lips over the open jaw.", 3,
                 ("jawOpen", "mouthClose")),
            Step("Kiss, then a round \"oh\" with the lips forward.", 2.5,
                 ("mouthPucker", "mouthFunnel")),
            Step("Press the lips together, then roll both in over the teeth.", 2.5,
                 (*both("mouthPress"), "mouthRollLower", "mouthRollUpper")),
            Step("Puff up the cheeks.", 1.5, ("cheekPuff",)),
            Step("Jaw forward, then left, then right.", 2.5,
                 ("jawForward", "jawLeft", "jawRight")),
            Step("Mouth to the left, then to the right.", 2, ("mouthLeft", "mouthRight")),
        ),
    ),
    Part(
        "Gaze",
        "The eyeballs and lids come from this. The head stays still, only the eyes move.",
        (
            Step("Look far left, far right, up, down, and back into the camera.", 5,
                 both("eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeLookDown")),
        ),
    ),
    Part(
        "Reading",
        "Every mouth shape of speech. Read it aloud in your usual voice, looking at the camera where "
        "you can; nod and look about as people do.",
        (Step(READING, READING_S),),
    ),
)  # fmt: skip
"""The take, in order. The reading comes last: the last fifth of a clip is held out to measure on."""


def total_seconds() -> float:
    """Return how long the whole take lasts."""
    return sum(part.seconds for part in SCRIPT)


@cache
def pose_for(shape: str) -> str | None:
    """Return what to do to show an ARKit coefficient, or None where the script has no pose for it."""
    if shape not in ARKIT_NAMES:
        raise ValueError(f"shape must be one of the 52 ARKit names; got {shape!r}.")
    for part in SCRIPT:
        for step in part.steps:
            if shape in step.shapes:
                return step.text
    return None


def as_markdown() -> str:
    """Return the page docs/capture.md."""
    lines = [
        "<!-- Made by `python -m capture.guide`; change capture/guide.py instead. -->",
        "# How to film yourself",
        "",
        f"One take of about {total_seconds():.0f} seconds gives the avatar all it needs. Print this page "
        "with `avatar capture --guide`, put it beside the camera, and follow it from top to bottom "
        "without stopping the camera. Nothing has to be exact; slowly is better than far.",
        "",
        "## Before",
        "",
        *(f"- **{name}.** {text}" for name, text in SETUP),
    ]
    for number, part in enumerate(SCRIPT, 1):
        lines += ["", f"## {number}. {part.title} ({part.seconds:g} s)", "", part.why, ""]
        for step in part.steps:
            if step.text == READING:
                lines += [f"> {READING}"]
                continue
            shapes = f" *({', '.join(step.shapes)})*" if step.shapes else ""
            lines.append(f"- {step.text} {step.seconds:g} s.{shapes}")
    lines += ["", "## With several cameras", "", SEVERAL_WHY, ""]
    lines += [f"- **{name}.** {text}" for name, text in SEVERAL]
    lines += [
        "",
        "## After",
        "",
        "`avatar capture CLIP.mp4 -o me.capture` reads the clip; `me.capture/report.html` says how good it "
        "is, which turns, faces and gazes it has, and what to film again. Add `--mirrored` if the app saved "
        "the picture mirrored (writing in the room reads backwards): nothing in the pixels tells it, and "
        "left and right would be swapped.",
        "",
    ]
    return "\n".join(lines)


def as_text(width: int = PAGE_WIDTH) -> str:
    """Return the page for a terminal: the same words, wrapped, without markup and names of coefficients."""
    out: list[str] = []
    for line in as_markdown().splitlines()[1:]:
        line = re.sub(r" \*\([^)]*\)\*$", "", line)
        line = line.replace("**", "").replace("`", "")
        if line.startswith("#"):
            title = line.lstrip("# ")
            out.append(title.upper() if line.startswith("# ") else title)
            continue
        indent = "  " if line.startswith(("- ", "> ")) else ""
        line = line.removeprefix("> ")
        first = "  " if indent and not line.startswith("- ") else ""
        out.append(
            textwrap.fill(line, width, initial_indent=first, subsequent_indent=indent)
            if line
            else ""
        )
    return "\n".join(out) + "\n"


def main() -> None:
    """Print the Markdown page."""
    print(as_markdown(), end="")


if __name__ == "__main__":
    main()
