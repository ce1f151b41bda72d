"""How one person's motion is put on another: what files, tracks and live streams share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatar.drive.motion import ARKIT_COUNT
from avatar.model.avatar import Avatar
from avatar.model.reach import Reach, reach_in, reach_of
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rotations import head_angles, head_rotation

__all__ = [
    "Reach",
    "RetargetConfig",
    "for_avatar",
    "limited_gaze",
    "limited_head",
    "limited_turns",
    "reach_of",
    "retargeted_weights",
    "softly_limited",
]

BLINKS = (ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"])


@dataclass(frozen=True)
class RetargetConfig:
    """How another person's motion is put on an avatar."""

    head: float = 1.0
    """Share of the source's head turns that the avatar makes, 0 to 1. Lower it where the source
    turns further than the avatar's person was ever filmed."""
    translation: float = 1.0
    """Share of the source's head and torso movement in space, 0 to 1 (both are metric)."""
    torso: float = 0.5
    """Share of the source's torso turns, 0 to 1. A torso is tracked less surely than a head, and a
    turned one shows sides that one camera has rarely seen."""
    largest_gain: float = 2.0
    """A coefficient is scaled by the ratio of the two people's ranges, but by no more than this and
    no less than its inverse: a range that was never used must neither blow up noise nor mute a
    person."""
    headroom: float = 0.25
    """How far, in coefficient units, a coefficient may go past the highest that the avatar was
    fitted on (a blink may always go to 1)."""
    reach: Reach | None = None
    """How far the avatar's person was filmed to turn (``reach_of`` measures it on a track); None
    takes what the avatar carries (``for_avatar``), or a usual clip's."""
    head_margin: float = 0.15
    """How far past that reach a head may turn, radians: turns within the reach are kept, those
    beyond approach reach and margin ever more slowly. Infinity for no limit."""
    gaze_margin: float = 0.10
    """The same for eyes, radians."""


def for_avatar(config: RetargetConfig, avatar: Avatar) -> RetargetConfig:
    """Return settings whose limits are the avatar's own, where it carries them and none are given."""
    if config.reach is not None:
        return config
    return replace(config, reach=reach_in(avatar.header))


def softly_limited(values: Tensor, low: Tensor, high: Tensor, margin: float) -> Tensor:
    """Keep values within [low, high]; bend those beyond towards ``margin`` past it.

    Continuous with its slope: past the edge e a value x becomes e + m tanh((x - e) / m).
    """
    inside = values.clamp(low, high)
    if margin == float("inf"):
        return values
    if margin <= 0:
        return inside
    return inside + margin * torch.tanh((values - inside) / margin)


def limited_head(angles: Tensor, config: RetargetConfig) -> Tensor:
    """Return yaw, pitch, roll [..., 3] damped by ``config.head`` and softly limited to the reach."""
    reach = config.reach or Reach()
    low, high = angles.new_tensor(reach.head_low), angles.new_tensor(reach.head_high)
    return softly_limited(config.head * angles, low, high, config.head_margin)


def limited_gaze(gaze: Tensor, config: RetargetConfig) -> Tensor:
    """Return eye angles [..., 2, 2] relative to those at rest, softly limited to the reach."""
    reach = config.reach or Reach()
    low, high = gaze.new_tensor(reach.gaze_low), gaze.new_tensor(reach.gaze_high)
    return softly_limited(gaze, low, high, config.gaze_margin)


def limited_turns(R: Tensor, config: RetargetConfig) -> Tensor:
    """Return head rotations [F, 3, 3], relative to the rest, softly limited to the reach.

    ``config.head`` is not applied; rotations within the reach come back bit by bit as they were.
    """
    angles = head_angles(R)
    reach = config.reach or Reach()
    low, high = angles.new_tensor(reach.head_low), angles.new_tensor(reach.head_high)
    within = ((angles >= low) & (angles <= high)).all(-1)
    limited = head_rotation(softly_limited(angles, low, high, config.head_margin))
    return torch.where(within[..., None, None], R, limited)


def retargeted_weights(
    weights: Tensor, neutral: Tensor, source_reach: Tensor, avatar: Avatar, config: RetargetConfig
) -> Tensor:
    """Return coefficients [..., 52] for an avatar: the way out of neutral, scaled to its range.

    Args:
        weights: [..., 52] the source's coefficients.
        neutral: [52] where they are when the source's face rests.
        source_reach: [52] how far from there they go.
        avatar: whose measured range to fill.
        config: limits.
    """
    at_rest = avatar.rest.expression[:ARKIT_COUNT].to(weights)
    low = avatar.expression_low[:ARKIT_COUNT].to(weights)
    high = avatar.expression_high[:ARKIT_COUNT].to(weights)
    gain = (high - at_rest).clamp(min=1e-3) / source_reach.clamp(min=1e-3)
    gain = gain.clamp(1 / config.largest_gain, config.largest_gain)
    lowest, highest = torch.minimum(low, at_rest), high + config.headroom
    # Blinks fill so few frames that their percentiles miss them; a closed lid is 1 for everybody.
    gain[list(BLINKS)], highest[list(BLINKS)] = 1.0, 1.0
    return (at_rest + gain * (weights - neutral)).clamp(lowest, highest)
