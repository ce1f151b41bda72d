"""How right speech-driven faces are, measured on frames that nothing was learnt from.

A face driven by the sound of the held-out frames is compared with the tracked one: correlation of
coefficients and of the gap between the lips, distance of the lips' points in the picture with the true head
pose. Beside the person's model stand the fallback without training, and a control: the same predictions
moved to other moments, which must agree with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture, Track
from avatar.drive.audio_fallback import FALLBACK_NOTE, fallback_weights, rules_reach
from avatar.drive.audio_features import FEATURE_FPS, sound_features, speech_level
from avatar.drive.motion import ARKIT_COUNT
from avatar.drive.voice import SPOKEN, VoiceModel
from avatar.drive.voice_lessons import lip_gap
from avatar.rig.arkit import ARKIT_INDEX

SHUT = 0.15
"""Lips are shut where their gap is under this share of the person's range."""
SIDE = 512
"""Distances are given for pictures of this size."""


def measure_voice(
    capture: Capture,
    voice: VoiceModel,
    part: tuple[int, int],
    mouth_points: Sequence[int],
    *,
    extractor: Callable[[Path], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Drive a part of a capture by its own sound and compare with its track.

    Args:
        capture: with sound.
        voice: learnt from other frames.
        part: video frames [first, last).
        mouth_points: lattice points of the lips, for distances.
        extractor: makes the features of a sound file that the model was trained on; None for the usual.

    Returns:
        One group of numbers for each way: ``file`` and ``live`` (the model's networks), ``fallback``,
        ``shifted`` (the control, mean over eight shifts), ``rest`` (a face that does not move),
        ``tracked`` (what the track itself reaches in distances).
    """
    assert capture.audio is not None
    track, (first, last) = capture.track, part
    begin = int(first / capture.fps * FEATURE_FPS)
    end = int(np.ceil(last / capture.fps * FEATURE_FPS))
    mel = sound_features(capture.audio)
    heard = mel if extractor is None else extractor(capture.audio)
    time = np.arange(first, last) / capture.fps - begin / FEATURE_FPS
    true = track.expression[first:last, :ARKIT_COUNT].float()

    def at_frames(weights: Tensor) -> Tensor:
        """Coefficients at 50 a second to those of the part's frames."""
        known = np.arange(len(weights)) / FEATURE_FPS
        columns = [np.interp(time, known, column) for column in weights.numpy().T]
        return torch.from_numpy(np.stack(columns, -1)).float()

    driven = {
        name: at_frames(voice.predict(heard[begin:end], name))
        for name in (("file", "live") if extractor is None else ("file",))
    }
    rules = fallback_weights(mel[begin:end], level=speech_level(mel[begin:end]))
    driven["fallback"] = at_frames(_on_person(rules, voice))
    result: dict[str, Any] = {
        name: _compared(track, weights, true, part, mouth_points, capture)
        for name, weights in driven.items()
    }
    frames = last - first
    shifts = [frames * k // 9 for k in range(1, 9)]
    rows = [
        _compared(track, driven["file"].roll(s, 0), true, part, mouth_points, capture)
        for s in shifts
    ]
    result["shifted"] = {
        key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]
    }
    still = voice.rest.clone()
    still[list(SPOKEN)] = voice.face_mean
    for name, weights in (("rest", still.expand(frames, -1)), ("tracked", true)):
        row = _compared(track, weights, true, part, mouth_points, capture)
        result[name] = {key: row[key] for key in ("lmd_px", "placed_px", "frames")}
    result["part"] = [first, last]
    result["notes"] = {"fallback": FALLBACK_NOTE}
    return result


def _on_person(weights: Tensor, voice: VoiceModel) -> Tensor:
    """Put the fallback's coefficients on the person, as an avatar of theirs would have them."""
    gain = ((voice.high - voice.rest).clamp(min=1e-3) / rules_reach()).clamp(0.5, 2.0)
    return torch.minimum(voice.rest + gain * weights, voice.high + 0.25)


def _compared(
    track: Track,
    weights: Tensor,
    true: Tensor,
    part: tuple[int, int],
    mouth_points: Sequence[int],
    capture: Capture,
) -> dict[str, float]:
    """Return the numbers of one way to drive the part, frames without a face left out."""
    known = track.valid[part[0] : part[1]].bool()
    weights, true = weights[known], true[known]
    jaw = ARKIT_INDEX["jawOpen"]
    gap, wanted = lip_gap(track, weights), lip_gap(track, true)
    low, high = (float(wanted.quantile(q)) for q in (0.02, 0.98))
    shut = (wanted - low) / max(high - low, 1e-6) < SHUT
    share = (gap - low) / max(high - low, 1e-6)
    lmd, placed = _distances(track, weights, part, known, mouth_points, capture)
    return {
        "frames": int(known.sum()),
        "jaw_open_r": _correlation(weights[:, jaw], true[:, jaw]),
        "gap_r": _correlation(gap, wanted),
        "gap_spread": round(float(gap.std() / wanted.std().clamp(min=1e-9)), 3),
        "shut_gap_share": round(float(share[shut].mean()), 3) if bool(shut.any()) else float("nan"),
        "open_gap_share": round(float(share[~shut].mean()), 3),
        "lmd_px": lmd,
        "placed_px": placed,
    }


def _distances(
    track: Track,
    weights: Tensor,
    part: tuple[int, int],
    known: Tensor,
    mouth_points: Sequence[int],
    capture: Capture,
) -> tuple[float, float]:
    """Return the lips' distance to the detected ones in pixels at 512, each set's mean taken off, and as it is.

    Head pose and eyes are the tracked ones; the person's residual shapes, which nothing drives, are 0.
    """
    points = list(mouth_points)
    expression = track.expression[part[0] : part[1]].clone()[known]
    expression[:, ARKIT_COUNT:] = 0
    expression[:, list(SPOKEN)] = weights[:, list(SPOKEN)]
    lips = track.lattice[points] + torch.einsum("fe,epd->fpd", expression, track.basis[:, points])
    T = track.T_cam_world[track.main] @ track.T_world_head[part[0] : part[1]][known]
    seen = lips @ T[:, :3, :3].transpose(1, 2) + T[:, None, :3, 3]
    pixels = seen @ track.K[track.main].T
    a = pixels[..., :2] / pixels[..., 2:]
    b = track.landmarks_px[part[0] : part[1]][known][:, points]
    scale = SIDE / max(capture.width, capture.height)
    placed = (a - b).norm(dim=-1).mean() * scale
    shape = ((a - a.mean(1, keepdim=True)) - (b - b.mean(1, keepdim=True))).norm(dim=-1).mean()
    return round(float(shape * scale), 3), round(float(placed), 3)


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r; 0 where one of them does not move."""
    if float(a.std()) < 1e-6 or float(b.std()) < 1e-6:
        return 0.0
    return round(float(torch.corrcoef(torch.stack([a, b]))[0, 1]), 4)


def print_rows(result: dict[str, Any]) -> None:
    """Print what ``measure_voice`` found, as a table."""
    print(
        f"{'':<10}{'jawOpen r':>11}{'gap r':>8}{'gap spread':>12}{'shut gap':>10}{'open gap':>10}"
        f"{'LMD px':>8}{'placed px':>11}"
    )
    for name in ("file", "live", "fallback", "shifted", "rest", "tracked"):
        row = result.get(name)
        if row is None:
            continue
        keys = ("jaw_open_r", "gap_r", "gap_spread", "shut_gap_share", "open_gap_share")
        cells = [f"{row[key]:.2f}" if key in row else "" for key in keys]
        print(
            f"{name:<10}{cells[0]:>11}{cells[1]:>8}{cells[2]:>12}{cells[3]:>10}{cells[4]:>10}"
            f"{row['lmd_px']:>8.2f}{row['placed_px']:>11.2f}"
        )
    print(
        "Gaps are shares of the person's range, where the filmed lips are shut and where they are open. "
        "shifted: the control, which must score near zero. fallback: without training. rest: no motion."
    )
    if "training_s" in result:
        print(f"Training took {result['training_s']:.0f} s.")
