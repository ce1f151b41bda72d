"""Read a whole clip's face: a capture, a file of ARKit coefficients, a recorded stream; in and out."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.drive.arkit_csv import read_arkit
from avatar.drive.live import FaceSample, checked
from avatar.drive.motion import ARKIT_COUNT, gaze_from_weights, head_angles
from avatar.drive.readout import COEFFICIENT_SIGMA, Calibration, Reading, Readout, calibrated
from avatar.drive.readout_units import ACTION_UNITS, EMOTIONS, UNIT_LABELS, uncertainty
from avatar.drive.replay import RECORDING_SUFFIX, read_recording
from avatar.rig.arkit import ARKIT_NAMES
from avatar.tensorfile import write_bytes

FORMAT, VERSION = "headsplat.analysis", 1
FILE_FPS = 60.0
"""Samples a second of a file that states neither times nor its rate: the Live Link Face app's."""
KINDS = (
    "Give a .capture folder, a .csv or .json file of ARKit coefficients, or a .jsonl recording of a "
    "live stream."
)
LIMITS = (
    "This reads faces, not feelings: a smile may be polite, a frown thought. Emotions are how much a face "
    "looks like published prototypes, no probabilities and no diagnosis.",
    "Intensities are relative to this person's own rest, taken as the lowest tenth of the clip: who smiles "
    "throughout reads as neutral. Trackers shrink small motion, so that intensities are low rather than high.",
    "Speech opens jaw and lips as surprise and fear do; read emotions with speaking_like at hand.",
    "Lid, lip-suck and jaw-thrust units are weak from one camera; see docs/analyse.md for how weak.",
)
"""What a reader of the numbers must know; part of the JSON."""


@dataclass(frozen=True)
class FaceClip:
    """One person's face over time, with flags."""

    time_s: np.ndarray
    """[F] increasing, starting at 0."""
    samples: tuple[FaceSample | None, ...]
    """F samples; None where no face was found."""
    source: str
    """What it was read from."""

    def __len__(self) -> int:
        return len(self.samples)

    def calibration(self) -> Calibration:
        """Find this person's neutral on the whole clip."""
        seen = [s for s in self.samples if s is not None and checked(s)[0] is not None]
        if not seen:
            return Calibration()
        weights = np.clip(np.stack([s.weights for s in seen]), 0.0, 1.0)
        gaze = gaze_from_weights(torch.from_numpy(weights)).numpy()
        for i, sample in enumerate(seen):
            if sample.gaze is not None:
                gaze[i] = sample.gaze
        head = np.stack([np.full(3, np.nan) if s.head is None else s.head for s in seen])
        return calibrated(weights, head, gaze)


@dataclass(frozen=True)
class Analysis:
    """A clip, read."""

    clip: FaceClip
    """What was read."""
    calibration: Calibration
    """The neutral that it was read against."""
    readings: tuple[Reading, ...]
    """One a sample."""
    readout: Readout
    """After the last sample; ``summary()`` has the statistics."""

    def series(self, name: str) -> np.ndarray:
        """Return a field of ``Reading`` over all samples [F, ...]."""
        return np.stack([np.asarray(getattr(reading, name)) for reading in self.readings])


def read_clip(path: Path) -> FaceClip:
    """Open a capture folder (or one that holds a me.capture), .csv, .json or .jsonl.

    Raises:
        InputError: missing, of another kind, or damaged; says what to do.
    """
    path = Path(path)
    if path.is_dir():
        nested = path / "me.capture"
        return _of_track(Capture(nested if nested.is_dir() else path).track, str(path))
    if not path.exists():
        raise InputError(f"There is no {path}. {KINDS}")
    suffix = path.suffix.lower()
    if suffix == RECORDING_SUFFIX:
        return _of_recording(path)
    if suffix in (".csv", ".json"):
        motion = read_arkit(path, fps=FILE_FPS)
        samples = tuple(
            FaceSample(
                motion.weights[i].numpy(),
                None if motion.head is None else motion.head[i].numpy(),
                None if motion.gaze is None else motion.gaze[i].numpy(),
            )
            for i in range(len(motion))
        )
        return FaceClip(motion.time_s.numpy(), samples, str(path))
    raise InputError(
        f"{path} cannot be analysed as it is. {KINDS} A video is tracked first: avatar capture {path} "
        f"-o {path.with_suffix('.capture')}"
    )


def _of_track(track: Track, source: str) -> FaceClip:
    if track.expression_names[:ARKIT_COUNT] != ARKIT_NAMES:
        raise InputError(
            f"The track of {source} does not begin with the 52 ARKit coefficients. Capture its clip again."
        )
    valid = track.valid.bool()
    head = torch.zeros(len(track), 3)
    if bool(valid.any()):
        R = track.T_world_head[:, :3, :3]
        usual = roma.special_procrustes(R[valid].mean(0))
        assert isinstance(usual, torch.Tensor)
        head = head_angles(usual.T @ R)
    weights = track.expression[:, :ARKIT_COUNT].double().numpy()
    angles, gaze = head.double().numpy(), track.gaze.double().numpy()
    samples = tuple(
        FaceSample(np.clip(weights[i], 0.0, 1.0), angles[i], gaze[i]) if valid[i] else None
        for i in range(len(track))
    )
    return FaceClip(np.arange(len(track)) / track.fps, samples, source)


def _of_recording(path: Path) -> FaceClip:
    """Read what a stream's first sender sent, by its own clock where that advances."""
    lines = list(read_recording(path))
    if not lines:
        raise InputError(f"{path} holds no sample. Record the stream again.")
    lines = [(s, at) for s, at in lines if s.sender == lines[0][0].sender]
    own = [s.time_s for s, _ in lines if s.time_s is not None]
    clocked = len(own) == len(lines) and bool((np.diff(own) > 0).all())
    time_s = np.array(own if clocked else [at for _, at in lines], np.float64)
    advances = np.diff(np.maximum.accumulate(time_s), prepend=-np.inf) > 0
    samples = tuple(s for (s, _), ahead in zip(lines, advances, strict=True) if ahead)
    time_s = time_s[advances]
    return FaceClip(time_s - time_s[0], samples, str(path))


def analyse(clip: FaceClip, calibration: Calibration | None = None) -> Analysis:
    """Read a clip, against its own neutral where no other is given."""
    calibration = calibration or clip.calibration()
    readout, readings = Readout(calibration), []
    for sample, time_s in zip(clip.samples, clip.time_s.tolist(), strict=True):
        readout, reading = readout.update(sample, time_s)
        readings.append(reading)
    return Analysis(clip, calibration, tuple(readings), readout)


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Return the analysis as JSON-able values; what is not known is None."""
    sigma = uncertainty(COEFFICIENT_SIGMA)

    def column(name: str, digits: int = 4) -> list[Any]:
        return _plain(np.round(analysis.series(name).astype(float), digits))

    units, scores = analysis.series("units"), analysis.series("emotions")
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": analysis.clip.source,
        "limits": list(LIMITS),
        "units_read": [
            {
                "label": unit.label,
                "name": unit.name,
                "terms": dict(unit.terms),
                "offset": unit.offset,
                "sigma": float(sigma.units[i]),
            }
            for i, unit in enumerate(ACTION_UNITS)
        ],
        "sigma": {
            "coefficient": COEFFICIENT_SIGMA,
            "emotions": dict(zip(EMOTIONS, sigma.emotions.tolist(), strict=True)),
            "valence": float(sigma.affect[0]),
            "arousal": float(sigma.affect[1]),
        },
        "calibration": {
            "weights": dict(zip(ARKIT_NAMES, analysis.calibration.weights.tolist(), strict=True)),
            "head": analysis.calibration.head.tolist(),
            "gaze": analysis.calibration.gaze.tolist(),
        },
        "summary": analysis.readout.summary(),
        "frames": {
            "time_s": np.round(analysis.clip.time_s, 6).tolist(),
            "valid": [reading.valid for reading in analysis.readings],
            "action_units": {
                label: _plain(np.round(units[:, i], 3)) for i, label in enumerate(UNIT_LABELS)
            },
            "emotions": {
                name: _plain(np.round(scores[:, i], 4)) for i, name in enumerate(EMOTIONS)
            },
            "emotion": [reading.emotion or None for reading in analysis.readings],
            "valence": _plain(np.round(analysis.series("affect")[:, 0], 4)),
            "arousal": _plain(np.round(analysis.series("affect")[:, 1], 4)),
            "head_rad": column("head"),
            "gaze_rad": column("gaze"),
            "eyes_shut": column("shut"),
            "blinked": [reading.blinked for reading in analysis.readings],
            "speaking_like": [reading.speaking for reading in analysis.readings],
        },
    }


def _plain(values: np.ndarray) -> list[Any]:
    """Return nested lists with None for NaN."""
    plain = values.astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()


def write_csv(path: Path, analysis: Analysis) -> None:
    """Write one line a sample, atomically; cells of what is not known are empty."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "time_s", "valid", *UNIT_LABELS, *EMOTIONS, "emotion", "valence", "arousal",
            "head_yaw", "head_pitch", "head_roll", "gaze_yaw", "gaze_pitch",
            "eyes_shut", "blinked", "speaking_like",
        ]
    )  # fmt: skip
    for reading in analysis.readings:
        numbers = [*reading.units, *reading.emotions]
        angles = [*reading.affect, *reading.head, *reading.gaze, reading.shut]
        writer.writerow(
            [
                f"{reading.time_s:.6f}",
                int(reading.valid),
                *(_cell(value) for value in numbers),
                reading.emotion,
                *(_cell(value) for value in angles),
                int(reading.blinked),
                int(reading.speaking),
            ]
        )
    try:
        write_bytes(Path(path), out.getvalue().encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). "
            "Choose a folder that exists, is writable and has space."
        ) from error


def _cell(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""
