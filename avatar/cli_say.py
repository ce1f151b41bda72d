"""``avatar say`` and ``avatar listen``: an avatar that talks from text, and one that listens.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from avatar.checks import InputError
from avatar.cli_common import CameraName, Output, find_voice
from avatar.cli_film import write_film
from avatar.console import console
from avatar.types import HeadState

if TYPE_CHECKING:
    from avatar.drive.source import Source
    from avatar.model.avatar import Avatar
    from viewer.sources import SpokenClip


def say(
    avatar: tyro.conf.Positional[Path],
    text: tyro.conf.Positional[str] = "",
    /,
    *,
    output: Output,
    voice: str | None = None,
    rate: int = 160,
    pitch: int = 50,
    emotion: str = "neutral",
    wav: Path | None = None,
    phonemes: Path | None = None,
    camera: CameraName = "capture",
    size: tuple[int, int] | None = None,
    background: tuple[float, float, float] | None = None,
    seed: int = 0,
    watermark: bool = True,
) -> None:
    """Let an avatar say a text, or what a recorded voice says, and write the film with its sound.

    Args:
        avatar: a .avatar file, a run folder, or a folder that `avatar create` made.
        text: what to say, with stage directions: "[smile 0.6] Hello [look left] there [pause 0.5] [nod]".
        output: the film to write: .mp4, or .webm or .mov for one with transparency.
        voice: of espeak-ng: en-us, en-gb, de, fr, en+f3 ...; by the script of the letters where not given.
        rate: words a minute, 80 to 450.
        pitch: of the voice, 0 to 99.
        emotion: how it is said, NAME or NAME:INTENSITY: neutral, happy, sad, angry, surprised, afraid,
            disgusted, contempt.
        wav: a recorded or synthetic voice instead of the built-in one, and no text.
        phonemes: the timing of that voice's phonemes (JSON); its sound alone drives the lips where not
            given.
        camera: the capture's own view, a view square before the face, an orbit, or all the way round.
        size: width and height in pixels; the capture's where not given.
        background: red, green and blue from 0 to 1; white where not given.
        seed: of head motion, blinks and glances.
        watermark: mark the pictures invisibly as those of this avatar (docs/sharing.md).
    """
    from avatar.drive.emotion import emotion_named
    from avatar.train.restore import find_avatar

    felt = emotion_named(emotion)
    if (wav is None) == (not text.strip()):
        raise InputError(
            'Give a text to say or a voice with --wav, one of the two: avatar say me.avatar "Hello" '
            "-o out.mp4"
        )
    if phonemes is not None and wav is None:
        raise InputError("--phonemes is the timing of a voice; give its sound too, with --wav.")
    model, home = find_avatar(avatar)
    captured = _own_motion(home, model)
    if wav is not None:
        source = _recorded(wav, phonemes, model, felt, seed, captured, find_voice(home))
        write_film(output, model, source, camera, size, background, watermark)
        return
    from avatar.drive.motion import BatchDriver
    from avatar.drive.performance import speak
    from avatar.drive.source import Source

    performance = speak(
        text,
        model,
        voice=voice,
        rate_wpm=rate,
        pitch=pitch,
        emotion=felt,
        seed=seed,
        captured=captured,
    )
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        performance.speech.write(sound)
        driver = BatchDriver(performance.states, performance.fps)
        source = Source(driver, len(performance.states), sound)
        write_film(output, model, source, camera, size, background, watermark)


def listen(
    avatar: tyro.conf.Positional[Path],
    other: tyro.conf.Positional[Path],
    /,
    output: Output,
    mirror: Path | None = None,
    camera: CameraName = "capture",
    size: tuple[int, int] | None = None,
    background: tuple[float, float, float] | None = None,
    seed: int = 0,
    watermark: bool = True,
) -> None:
    """Let an avatar listen to somebody: nods and small expressions at their pauses, eyes on them.

    Args:
        avatar: a .avatar file, a run folder, or a folder that `avatar create` made.
        other: the other speaker's sound; it becomes the film's.
        output: the film to write: .mp4, or .webm or .mov for one with transparency.
        mirror: the other speaker's capture folder: what their face shows is mirrored, softly.
        camera: the capture's own view, a view square before the face, an orbit, or all the way round.
        size: width and height in pixels; the capture's where not given.
        background: red, green and blue from 0 to 1; white where not given.
        seed: of nods, blinks and glances.
        watermark: mark the pictures invisibly as those of this avatar (docs/sharing.md).
    """
    from avatar.capture_data import Capture
    from avatar.drive.listening import listening_states
    from avatar.drive.motion import BatchDriver
    from avatar.drive.source import Source
    from avatar.drive.speech import HEARD_RATE, read_samples
    from avatar.train.restore import find_avatar

    model, home = find_avatar(avatar)
    samples = read_samples(other)
    track = None if mirror is None else Capture(mirror).track
    states, cues = listening_states(
        samples, HEARD_RATE, model, mirror=track, seed=seed, captured=_own_motion(home, model)
    )
    source = Source(BatchDriver(states, model.fps), len(states), other)
    write_film(output, model, source, camera, size, background, watermark)
    console.print(f"{len(cues)} backchannels to {len(samples) / HEARD_RATE:.1f} s of speech.")


def speaker(avatar: Avatar) -> Callable[[str], SpokenClip] | None:
    """Return what makes speech of a text for the viewer; None where the extra ``[speech]`` is missing."""
    from avatar.drive.espeak import speech_available
    from avatar.drive.performance import speak
    from viewer.sources import SpokenClip

    if not speech_available():
        return None
    # Browsers may still fetch the sound of the clip before; the folder goes with the function.
    folder = tempfile.TemporaryDirectory(prefix="speech.")
    numbers = itertools.count()

    def spoken(text: str) -> SpokenClip:
        number = next(numbers)
        performance = speak(text, avatar, seed=number)
        sound = Path(folder.name) / f"{number}.wav"
        performance.speech.write(sound)
        (Path(folder.name) / f"{number - 8}.wav").unlink(missing_ok=True)
        return SpokenClip(performance.states, performance.fps, sound)

    return spoken


def _own_motion(home: Path, model: Avatar) -> HeadState | None:
    """Return the person's captured motion where it is at hand: their own blinks and glances."""
    from avatar.drive.source import track_states
    from avatar.train.restore import find_capture

    try:
        capture, _ = find_capture(home, model)
        return None if capture is None else track_states(capture.track)
    except InputError:
        return None  # speech does without; the usual figures are taken instead


def _recorded(
    wav: Path,
    phonemes: Path | None,
    model: Avatar,
    felt: tuple[str, float],
    seed: int,
    captured: HeadState | None,
    person: Path | None,
) -> Source:
    """Open a recorded voice as a source of motion."""
    from avatar.drive.emotion import EmotionKey, emotion_curve, emotional_states
    from avatar.drive.motion import BatchDriver
    from avatar.drive.performance import perform
    from avatar.drive.source import Source, open_source
    from avatar.drive.speech import read_samples, read_spoken

    if phonemes is not None:
        speech = read_spoken(wav, phonemes)
        states = perform(speech, model, emotion=felt, seed=seed, captured=captured)
        return Source(BatchDriver(states, model.fps), len(states), wav)
    read_samples(wav)  # says what is wrong with the file before anything else does
    try:
        heard = open_source(str(wav), model, voice=person)
    except InputError as error:
        raise InputError(
            f"{wav} has no timing of its phonemes, and its sound alone cannot be used: {error} Give the "
            "timing with --phonemes (docs/speech.md has the format)."
        ) from error
    states = HeadState.stacked(list(heard.states()))
    curve = emotion_curve([EmotionKey(0.0, *felt)], heard.fps, len(states))
    states = emotional_states(states, curve, model)
    return Source(BatchDriver(states, heard.fps), len(states), wav, note=heard.note)
