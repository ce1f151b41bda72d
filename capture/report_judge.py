"""Verdicts on a finished track, and what to film again, ordered by what it would gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from avatar.capture_data import Track
from avatar.rig.arkit import ARKIT_NAMES
from capture.guide import SCRIPT, Step
from capture.quality import QualityItem, Verdict
from capture.report_track import (
    SEEN,
    common_scale,
    expression_reach,
    jitter,
    track_angles,
)

EXPRESSIONS = tuple(n for n in ARKIT_NAMES if not n.startswith(("eyeLook", "tongue")))
"""Coefficients that a clip is asked for: gaze is judged apart, the tongue is not tracked."""

PRIOR_FOCAL_SIGMA = 0.35
"""Relative sigma of the focal length that a tracker believes in before it has seen the clip, where the
track does not say its own."""

SIDE_DEG = 20.0
"""A turn to a side counts from here: the far cheek begins to hide."""
NOD_DEG = 8.0
"""A look up or down counts from here."""

GAIN = (
    # Without usable frames there is nothing.
    "tracked", "face_found", "duration_s", "others",
    # Turns give the head's shape and the focal length: without them no other side can be looked at.
    "yaw_range", "pitch_range", "focal",
    # The pictures are what is learnt from.
    "sharpness", "blurred", "face_width_px", "brightness", "clipped_dark", "clipped_bright",
    "exposure_swing",
    # Whatever the face never did, the avatar must guess.
    "mouth_range", "expressions", "gaze_range", "blinks",
    # These follow from the others more than from what is filmed.
    "residual", "jitter",
)  # fmt: skip
"""Keys of measurements by how much the avatar gains from doing them better, most first."""


@dataclass(frozen=True)
class Advice:
    """One thing to do in the next take."""

    title: str
    """What is missing."""
    text: str
    """What it means and what to do."""
    verdict: Verdict
    """How bad it is: warn or bad."""
    poses: tuple[tuple[Step, tuple[str, ...]], ...] = ()
    """Poses of the guide that show what was missing, and what each would show; most first."""


def judge_track(
    track: Track, width: int, height: int, focal: Mapping[str, Any] | None = None
) -> dict[str, QualityItem]:
    """Judge a finished track; the items replace those of the same key made from raw landmarks.

    Args:
        track: the track.
        width: of the stored frames, pixels.
        height: of the stored frames, pixels.
        focal: ``px``, ``prior_px`` and ``relative_sigma`` where the tracker told them.
    """
    items: dict[str, QualityItem] = {}
    valid = track.valid.numpy()

    def add(key: str, label: str, value: float, unit: str, verdict: Verdict, advice: str) -> None:
        items[key] = QualityItem(label, round(float(value), 4), unit, verdict, advice)

    share = 100 * float(valid.mean())
    add(
        "tracked", "Frames that can be used", share, "%",
        "ok" if share >= 95 else "warn" if share >= 60 else "bad",
        "Nearly all of the clip is used." if share >= 95 else
        "Part of the clip is left out: the list of frames left out, below, says why.",
    )  # fmt: skip
    if not valid.any():
        return items

    # Of the face's own width (about 14 cm), as a near and a far camera must be judged alike. Three
    # percent is half of a lip's thickness: from there on the model misses what the mouth does.
    residual = track.residual_px[track.valid].numpy()
    faces = np.ptp(track.landmarks_px[track.valid][:, :468, 0].numpy(), axis=1).clip(1)
    miss = 100 * float(np.median(residual / faces))
    fits: Verdict = "ok" if miss <= 3 else "warn" if miss <= 6 else "bad"
    typical = float(np.median(residual)) * common_scale(width, height)
    add(
        "residual", "Residual of the model", miss, "% of the face's width", fits,
        f"The model fits the detected points ({typical:.1f} px at 512)." if fits == "ok" else
        f"The model misses the detected points by much ({typical:.1f} px at 512): look at the worst "
        "frames below for glasses, hair or hands before the face.",
    )  # fmt: skip
    # 0.3 degrees move the face, some 9 cm before the axis that it turns about, by half a millimetre:
    # a pixel of a face that is 300 pixels wide.
    shake = jitter(track).rotation_extra_deg
    steady: Verdict = "ok" if shake <= 0.3 else "warn" if shake <= 1.0 else "bad"
    add(
        "jitter", "Shake of the head's pose", shake, "°", steady,
        "Steady." if steady == "ok" else
        "The tracked head shakes: use more light and a camera on a stand, and keep hair off the face.",
    )  # fmt: skip

    angles = track_angles(track)[valid]
    yaw, pitch = (np.percentile(angles[:, k], [2, 98]) for k in (0, 1))
    sides = [
        side
        for side, far in (("left", yaw[1] >= SIDE_DEG), ("right", yaw[0] <= -SIDE_DEG))
        if not far
    ]
    add(
        "yaw_range", "Turn to the sides", float(np.ptp(yaw)), "°", "warn" if sides else "ok",
        f"Both cheeks are seen: {-yaw[0]:.0f}° to your right, {yaw[1]:.0f}° to your left." if not sides
        else f"The head hardly turns to your {' or '.join(sides)} (from {-yaw[0]:.0f}° right to "
        f"{yaw[1]:.0f}° left): turn it slowly by 30 to 45 degrees there, or the avatar holds from "
        f"{'the front' if len(sides) == 2 else 'the other side'} only.",
    )  # fmt: skip
    ways = [
        way
        for way, far in (
            ("up", pitch[1] - np.median(angles[:, 1]) >= NOD_DEG),
            ("down", np.median(angles[:, 1]) - pitch[0] >= NOD_DEG),
        )
        if not far
    ]
    add(
        "pitch_range", "Nod", float(np.ptp(pitch)), "°", "warn" if ways else "ok",
        "Seen from above and below." if not ways else
        f"The head hardly nods {' or '.join(ways)}: look slowly {' and '.join(ways)} by 20 degrees.",
    )  # fmt: skip

    reach = expression_reach(track)
    seen = [name for name in EXPRESSIONS if reach[name] >= SEEN]
    enough = len(seen) >= 0.6 * len(EXPRESSIONS)
    add(
        "expressions", f"Expressions seen, of {len(EXPRESSIONS)}", len(seen), "",
        "ok" if enough else "warn",
        "Most of the face's motions are seen." if enough else
        "Many of the face's motions are not in the clip, and the avatar will guess them.",
    )  # fmt: skip
    gaze = np.degrees(track.gaze[track.valid].numpy().mean(1))
    across, upright = (float(np.ptp(np.percentile(gaze[:, k], [2, 98]))) for k in (0, 1))
    looks = across >= 20 and upright >= 10
    add(
        "gaze_range", "Gaze, side to side", across, "°", "ok" if looks else "warn",
        f"The eyes look about ({across:.0f}° across, {upright:.0f}° up and down)." if looks else
        f"The eyes hardly look about ({across:.0f}° across, {upright:.0f}° up and down): look far left, "
        "right, up and down with the head still.",
    )  # fmt: skip
    if focal is not None:
        items["focal"] = _focal_item(focal)
    return items


def _focal_item(focal: Mapping[str, Any]) -> QualityItem:
    """Say whether the clip could tell its focal length."""
    px, sigma = float(focal["px"]), float(focal["relative_sigma"])
    prior = float(focal.get("prior_relative_sigma", PRIOR_FOCAL_SIGMA))
    # Information adds up: half of the prior's sigma means that the clip knows three times as much.
    told = sigma <= 0.5 * prior
    text = (
        f"The clip tells its focal length: {px:.0f} px, within {100 * sigma:.0f} %."
        if told
        else f"This clip cannot tell its focal length, a typical one was taken ({px:.0f} px): turn the "
        "head further to both sides, or the avatar's depth may be off."
    )
    return QualityItem(
        "Focal length, uncertainty",
        round(100 * sigma, 4),
        "%",
        "ok" if told else "warn",
        text,
    )


def advise(items: Mapping[str, Mapping[str, Any]], reach: Mapping[str, float]) -> list[Advice]:
    """Return what to film again: what is bad first, then by GAIN.

    Args:
        items: ``Quality.as_json()["items"]``.
        reach: of ``expression_reach``; empty where nothing was tracked.
    """
    order = {key: place for place, key in enumerate(GAIN)}
    poor = [(key, item) for key, item in items.items() if item["verdict"] != "ok"]
    poor.sort(key=lambda pair: (pair[1]["verdict"] != "bad", order.get(pair[0], len(order))))
    return [
        Advice(
            item["label"],
            item["advice"],
            item["verdict"],
            missing_poses(reach) if key == "expressions" else (),
        )
        for key, item in poor
    ]


def missing_poses(reach: Mapping[str, float]) -> tuple[tuple[Step, tuple[str, ...]], ...]:
    """Return the guide's poses that would show coefficients not seen yet, and which; most first."""
    found = []
    for part in SCRIPT:
        for step in part.steps:
            missing = tuple(n for n in step.shapes if n in EXPRESSIONS and reach.get(n, 0) < SEEN)
            if missing and reach:
                found.append((step, missing))
    return tuple(sorted(found, key=lambda pair: -len(pair[1])))
