"""``avatar sample``: a clip of a talking head that anybody may show, with the truth about its motion.

A public-domain portrait (scikit-image's astronaut) is animated by known controls and, where the
extra ``[speech]`` is installed, talks. The clip goes through capture, tracking and fitting as any
clip does; the controls that made it lie beside it and say how well the tracker did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from avatar.checks import InputError
from avatar.drive.espeak import speech_available, synthesise
from avatar.drive.speech import Speech, joined, silence
from avatar.rig.arkit import ARKIT_INDEX
from avatar.tensorfile import atomic_path, write_tensors
from avatar.types import Progress, Reporter, ignore_progress
from capture.sample_mesh import IRIS_M
from capture.sample_portrait import Portrait, Pose

CONTROLS_FORMAT = "headsplat.sample-controls"
CONTROLS_VERSION = 1

SENTENCES = (
    "Hello, I am a photograph.",
    "My face moves by warping, and my voice was made on your own computer.",
    "Now film yourself, and see your own avatar.",
)
"""What the sample says: as many of these as fit into the clip."""

_LEAD_S = 0.3
"""Seconds of silence before the first word: the clip starts with a calm face."""

_FLIP = np.diag([1.0, -1.0, -1.0])
"""Picture axes (x right, y down, z away) to head axes (x to the subject's left, y up, z forward)."""

_SMILE_OF_PHOTO = 0.8
"""``mouthSmileLeft`` and ``mouthSmileRight`` of the photograph itself, by eye."""

_OPENNESS = {
    "a": 1.0, "ɑ": 1.0, "æ": 0.95, "ɐ": 0.75, "ɒ": 0.85, "ʌ": 0.8, "ɔ": 0.7, "ɛ": 0.7, "e": 0.65,
    "ɜ": 0.55, "ə": 0.5, "o": 0.6, "ɪ": 0.45, "i": 0.4, "ʊ": 0.4, "u": 0.35, "m": 0.0, "b": 0.0,
    "p": 0.0, "f": 0.08, "v": 0.08, "h": 0.45, "w": 0.25,
}  # fmt: skip
"""Opening of the jaw by the first letter of a phoneme's IPA name."""

_OTHER_CONSONANT = 0.22
_SPEAKING_JAW = 0.75
"""Widest opening while speaking, so that a loud vowel of the held-out part is no new extreme."""

_ROUNDED = frozenset("ɔoʊuwɒɹ")
"""Sounds for which the lips are rounded."""


@dataclass(frozen=True)
class SampleInfo:
    """What ``make_sample`` made."""

    video: Path
    """The clip."""
    controls: Path
    """The controls that made it (``headsplat.sample-controls``)."""
    frames: int
    """Number of frames."""
    fps: int
    """Frames a second."""
    size: int
    """Width and height, pixels."""
    text: str
    """What is said; empty where the clip is silent."""

    @property
    def silent(self) -> bool:
        """Whether the clip has no sound."""
        return not self.text


@dataclass(frozen=True)
class Motion:
    """The controls of all frames; arrays are indexed by frame."""

    smile: np.ndarray
    """[F] 0 a calm mouth, 1 the photograph's smile."""
    jaw: np.ndarray
    """[F] opening of the jaw, [0, 1]."""
    pucker: np.ndarray
    """[F] rounding of the lips, [0, 1]."""
    blink: np.ndarray
    """[F] closing of both eyes, [0, 1]."""
    brow_inner: np.ndarray
    """[F] raising of the inner brows, [0, 1]."""
    brow_outer: np.ndarray
    """[F] raising of the outer brows, [0, 1]."""
    gaze: np.ndarray
    """[F, 2] radians: yaw to the subject's left, pitch up; both eyes alike."""
    rotation: np.ndarray
    """[F, 3] rotation vector of the head, head frame axes, radians, relative to the photograph."""
    translation_m: np.ndarray
    """[F, 3] metres, head frame axes, relative to the photograph."""
    breath: np.ndarray
    """[F] breathing, [-1, 1]."""

    def __len__(self) -> int:
        return len(self.jaw)


def make_sample(
    output: Path,
    *,
    seconds: float = 10.0,
    fps: int = 25,
    size: int = 512,
    voice: bool = True,
    report: Reporter = ignore_progress,
) -> SampleInfo:
    """Write the sample clip and, beside it, the controls that made it.

    The motion goes twice and a half through the same cycle, so the last fifth of the clip, which
    evaluation holds out, shows poses that the rest has shown.

    Args:
        output: the clip, ``.mp4`` (H.264, and AAC where it talks); ``STEM.controls.safetensors``
            is written beside it. Existing files are replaced.
        seconds: length, 1 to 120.
        fps: frames a second, 10 to 60.
        size: width and height in pixels, even, 128 to 1024.
        voice: talk, if the extra ``[speech]`` is installed; without it the clip is silent, which a
            report says, and the jaw follows a fixed pattern.
        report: listener; one report a frame of stage ``"sample"``.

    Raises:
        InputError: a value out of range, or a file that cannot be written.
    """
    output = Path(output)
    _check(output, seconds, fps, size)
    frames = round(seconds * fps)
    speech, text = _speak(frames / fps, report) if voice else (None, "")
    motion = plan_motion(frames, fps, speech)
    portrait = Portrait(size)
    controls = output.with_name(output.stem + ".controls.safetensors")
    try:
        with atomic_path(output) as temporary:
            _encode(temporary, _frames(portrait, motion, report), fps, size, speech)
        _write_controls(controls, motion, fps=fps, size=size, text=text)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror or error}). Name another file with -o."
        ) from error
    return SampleInfo(output, controls, frames, fps, size, text)


def plan_motion(frames: int, fps: int, speech: Speech | None = None) -> Motion:
    """Return the motion of all frames: a smooth function of time that starts calm and frontal.

    One cycle lasts two fifths of the clip. Each half cycle has a turn of the head from side to
    side, a nod, a smile, raised brows, a glance and blinks.
    """
    time_s = np.arange(frames) / fps
    length_s = frames / fps
    cycle_s = 0.4 * length_s
    cycles = time_s / cycle_s
    phase = 2 * np.pi * cycles
    start = _rise(cycles, 0.0, 0.25)

    yaw = -np.radians(20) * np.cos(phase) * start
    pitch = np.radians(1) * start * (6.0 * np.sin(2 * phase) + 2.0 * np.sin(phase))
    roll = np.radians(4) * np.sin(phase + 0.8) * start
    rotation = Rotation.from_euler("YXZ", np.stack([yaw, pitch, roll], -1)).as_rotvec()
    shift = np.stack([6 * np.sin(phase), 3 * np.sin(2 * phase + 1), 12 * np.sin(phase + 2)], -1)
    translation_m = shift / 1000 * start[:, None]

    smile = 0.12 + 0.78 * np.maximum(
        _bump(cycles, 0.12, 0.36, 0.07), _bump(cycles, 0.60, 0.84, 0.07)
    )
    brow_inner = np.maximum(_bump(cycles, 0.30, 0.46, 0.05), 0.5 * _bump(cycles, 0.84, 0.97, 0.05))
    brow_outer = np.maximum(0.8 * _bump(cycles, 0.30, 0.46, 0.05), _bump(cycles, 0.84, 0.97, 0.05))
    half_s = float(np.clip(0.05 * cycle_s, 0.10, 0.15))
    blink = np.zeros(frames)
    for at in (0.09, 0.27, 0.49, 0.73, 0.90):
        away_s = ((cycles - at + 0.5) % 1.0 - 0.5) * cycle_s
        blink = np.maximum(blink, np.cos(np.clip(away_s / half_s, -1, 1) * np.pi / 2) ** 2)
    # The eyes stay with the camera while the head turns, but for a glance to either side.
    glance = _bump(cycles, 0.40, 0.52, 0.03) - _bump(cycles, 0.92, 1.04, 0.03)
    gaze_yaw = -0.45 * yaw + np.radians(11) * glance * start
    gaze = np.stack([gaze_yaw, 0.5 * pitch], -1)
    blink = np.maximum(blink, np.clip(-1.2 * gaze[:, 1], 0, 0.3))  # the lids follow a look down

    if speech is not None:
        jaw, pucker = follow_speech(speech, frames, fps)
    else:
        syllables = 0.5 - 0.5 * np.cos(2 * np.pi * cycles * 7)
        phrase = 0.25 + 0.75 * np.sin(np.pi * cycles * 2) ** 2
        jaw = 0.75 * syllables * phrase
        pucker = 0.7 * _bump(cycles, 0.50, 0.60, 0.04)
    breath = np.sin(2 * np.pi * time_s / 3.6)
    return Motion(
        smile, jaw, pucker, blink, brow_inner, brow_outer, gaze, rotation, translation_m, breath
    )


def follow_speech(speech: Speech, frames: int, fps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return jaw opening and lip rounding [F], both in [0, 1], that go with a spoken text.

    The phonemes say how far the jaw opens, the sound's loudness scales it; both are smoothed as lips
    and jaw are slow (about 40 ms).
    """
    step_s = 0.005
    count = int(np.ceil(frames / fps / step_s)) + 1
    grid_s = np.arange(count) * step_s
    target, rounded = np.zeros(count), np.zeros(count)
    for phoneme in speech.phonemes:
        letters = phoneme.name.strip("ˈˌː")
        if letters:
            part = (grid_s >= phoneme.start_s) & (grid_s < phoneme.end_s)
            target[part] = _OPENNESS.get(letters[0], _OTHER_CONSONANT)
            rounded[part] = float(letters[0] in _ROUNDED)
    samples = speech.samples.astype(np.float64)
    at = np.clip((grid_s * speech.sample_rate).astype(int), 0, max(len(samples) - 1, 0))
    power = (
        gaussian_filter1d(samples**2, 0.025 * speech.sample_rate)[at] if len(samples) else target
    )
    loudness = np.sqrt(power) * (grid_s < speech.seconds)
    loudness = np.clip(loudness / max(float(np.quantile(loudness, 0.9)), 1e-6), 0, 1)
    jaw = gaussian_filter1d(target * (0.4 + 0.6 * loudness), 0.032 / step_s)
    pucker = gaussian_filter1d(rounded, 0.045 / step_s)
    index = np.minimum(np.round(np.arange(frames) / fps / step_s).astype(int), count - 1)
    return np.clip(0.85 * jaw[index], 0, _SPEAKING_JAW), 0.55 * pucker[index]


def _check(output: Path, seconds: float, fps: int, size: int) -> None:
    """Refuse what cannot be made before any work is done."""
    if output.suffix.lower() != ".mp4":
        raise InputError(
            f"The sample is an .mp4 file; got '{output}'. Use for example: -o sample.mp4"
        )
    if not 1 <= seconds <= 120:
        raise InputError(f"seconds must lie in [1, 120]; got {seconds}. Use for example 10.")
    if not 10 <= fps <= 60:
        raise InputError(f"fps must lie in [10, 60]; got {fps}. Use for example 25.")
    if not 128 <= size <= 1024 or size % 2:
        raise InputError(
            f"size must be even and lie in [128, 1024]; got {size}. Use for example 512."
        )
    if not output.parent.is_dir():
        raise InputError(
            f"The folder {output.parent} does not exist. Make it, or name another file."
        )
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise InputError(f"{output} cannot be written. Name another file with -o.")


def _speak(seconds: float, report: Reporter) -> tuple[Speech | None, str]:
    """Speak as many sentences as fit; None and a report where the extra is missing."""
    if not speech_available():
        message = 'The sample is silent: for a voice, pip install "headsplat[speech]"'
        report(Progress("sample", 0, 0, message))
        return None, ""
    text = SENTENCES[0]
    speech = _spoken(text)
    for end in range(2, len(SENTENCES) + 1):
        longer_text = " ".join(SENTENCES[:end])
        longer = _spoken(longer_text)
        if longer.seconds > seconds:
            break
        speech, text = longer, longer_text
    return speech, text


def _spoken(text: str) -> Speech:
    """Speak a text after a moment of silence."""
    (speech,) = synthesise([text], voice="en")
    return joined([silence(_LEAD_S, speech.sample_rate), speech], [0, 0])


def _rise(x: np.ndarray, start: float, end: float) -> np.ndarray:
    """Rise smoothly from 0 at ``start`` to 1 at ``end``."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * t * (t * (6 * t - 15) + 10)


def _bump(cycles: np.ndarray, start: float, end: float, ramp: float) -> np.ndarray:
    """Be 1 between two phases of every cycle, with smooth ramps inside; the phases may pass 1."""
    x = (cycles - start) % 1.0
    return _rise(x, 0, ramp) * (1 - _rise(x, end - start - ramp, end - start))


def _frames(portrait: Portrait, motion: Motion, report: Reporter) -> Iterator[np.ndarray]:
    """Draw all frames, uint8 [size, size, 3]."""
    metres_per_px = IRIS_M / portrait.mesh.iris_px
    total = len(motion)
    for f in range(total):
        calm = 1 - motion.smile[f]
        jaw, pucker = motion.jaw[f], motion.pucker[f]
        shapes = {
            "calm": float(calm),
            # A smile parts the lips a little; the rest of their opening is the jaw's.
            "seal": float(1 - 0.25 * motion.smile[f] ** 2),
            "pucker": float(pucker),
            "narrow": float(jaw * (1 - 0.5 * pucker)),
            "blinkLeft": float(motion.blink[f]),
            "blinkRight": float(motion.blink[f]),
            "browInnerLeft": float(motion.brow_inner[f]),
            "browInnerRight": float(motion.brow_inner[f]),
            "browOuterLeft": float(motion.brow_outer[f]),
            "browOuterRight": float(motion.brow_outer[f]),
        }
        turn = _FLIP @ Rotation.from_rotvec(motion.rotation[f]).as_matrix() @ _FLIP
        shift = _FLIP @ motion.translation_m[f] / metres_per_px
        gaze = np.stack([motion.gaze[f], motion.gaze[f]])
        pose = Pose(shapes, float(jaw), turn, shift, gaze, float(motion.breath[f]))
        yield portrait.draw(pose)
        report(Progress("sample", f + 1, total))


def _encode(
    path: Path, pictures: Iterator[np.ndarray], fps: int, size: int, speech: Speech | None
) -> None:
    """Write H.264 and AAC; one thread, so that the bytes are the same every time."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.options = {"crf": "16", "preset": "medium", "threads": "1"}
        audio = None
        if speech is not None:
            audio = container.add_stream("aac", rate=44100, layout="mono")
            audio.bit_rate = 96_000
        frames = 0
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            frames += 1
        container.mux(video.encode())
        if audio is not None and speech is not None:
            sound = av.AudioFrame.from_ndarray(
                _fit_sound(speech, frames / fps)[None], format="flt", layout="mono"
            )
            sound.sample_rate = speech.sample_rate
            resampler = AudioResampler(
                "fltp", "mono", 44100, audio.codec_context.frame_size or 1024
            )
            for part in [*resampler.resample(sound), *resampler.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode())


def _fit_sound(speech: Speech, seconds: float) -> np.ndarray:
    """Cut or pad the sound to the clip's length, float32; a cut fades out within 50 ms."""
    count = round(seconds * speech.sample_rate)
    sound = np.zeros(count, np.float32)
    kept = speech.samples[:count]
    sound[: len(kept)] = kept
    if len(speech.samples) > count:
        fade = np.linspace(1, 0, min(round(0.05 * speech.sample_rate), count))
        sound[count - len(fade) :] *= fade.astype(np.float32)
    return sound


def _write_controls(path: Path, motion: Motion, *, fps: int, size: int, text: str) -> None:
    """Write the truth: ARKit coefficients, head pose and gaze of every frame."""
    expression = np.zeros((len(motion), len(ARKIT_INDEX)))

    def put(values: np.ndarray, *names: str) -> None:
        for name in names:
            expression[:, ARKIT_INDEX[name]] = values

    put(motion.jaw, "jawOpen")
    put(motion.pucker, "mouthPucker")
    put(_SMILE_OF_PHOTO * motion.smile, "mouthSmileLeft", "mouthSmileRight")
    put(motion.blink, "eyeBlinkLeft", "eyeBlinkRight")
    # A gaze of 30 degrees to the side, or 25 up or down, is coefficient 1.
    aside, up = motion.gaze[:, 0] / np.radians(30), motion.gaze[:, 1] / np.radians(25)
    put(np.maximum(aside, 0), "eyeLookOutLeft", "eyeLookInRight")
    put(np.maximum(-aside, 0), "eyeLookInLeft", "eyeLookOutRight")
    put(np.maximum(up, 0), "eyeLookUpLeft", "eyeLookUpRight")
    put(np.maximum(-up, 0), "eyeLookDownLeft", "eyeLookDownRight")
    put(motion.brow_inner, "browInnerUp")
    put(motion.brow_outer, "browOuterUpLeft", "browOuterUpRight")
    tensors = {
        "expression": expression,
        "head_rotation": motion.rotation,
        "head_translation": motion.translation_m,
        "gaze": np.stack([motion.gaze, motion.gaze], 1),
    }
    write_tensors(
        path,
        {name: torch.from_numpy(values).float() for name, values in tensors.items()},
        format=CONTROLS_FORMAT,
        version=CONTROLS_VERSION,
        header={"fps": fps, "size": size, "text": text},
    )
