"""From the viewer's controls to a head state: pure functions, no browser and no clock of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.drive.motion import head_rotation, turned_about_neck
from avatar.drive.source import track_states
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rig.gaze import gaze_of, look_weights
from avatar.types import HeadState

NO_MOTION = (
    "No captured motion: open the avatar from the folder that `avatar create` made, or beside its "
    "capture."
)


@dataclass(frozen=True)
class Controls:
    """What the sliders say; all zero is the person at rest, or the captured motion as it was."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """ARKit name to coefficient in [0, 1]; a name that is missing is 0."""
    gaze_deg: tuple[float, float] = (0.0, 0.0)
    """Yaw to the subject's left and pitch up of both eyes, degrees."""
    head_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Yaw to the subject's left, pitch up, roll towards the subject's right shoulder, degrees."""


def posed(base: HeadState, controls: Controls) -> HeadState:
    """Return a state with the controls put on top of it.

    Coefficients add up and stay in [0, 1], or where ``base`` already was beyond. The eyeLook
    coefficients and the gaze are one motion seen twice, by the lids and by the eyeballs: whichever of
    the two the user moves, the other follows. The head turns about the neck from where ``base`` has
    it; the torso stays. With all controls at zero ``base`` comes back unchanged.

    Args:
        base: a single state, of the rest pose (``neutral``) or of the captured motion.
        controls: the sliders.
    """
    if not any(controls.weights.values()) and not any((*controls.gaze_deg, *controls.head_deg)):
        return base
    expression = base.expression.clone()
    weights = expression.new_tensor([controls.weights.get(name, 0.0) for name in ARKIT_NAMES])
    turn = gaze_of(weights) + expression.new_tensor(controls.gaze_deg).deg2rad()
    limit = expression.new_tensor([GAZE_SIDE_RAD, GAZE_UP_RAD])
    gaze = base.gaze + turn.clamp(-limit, limit)
    look = look_weights(gaze) - look_weights(base.gaze)
    added = torch.where(_is_look(weights.device), look, weights)

    before = expression[: len(ARKIT_NAMES)]
    after = torch.minimum(before + added, before.clamp(min=1.0))
    expression[: len(ARKIT_NAMES)] = torch.maximum(after, before.clamp(max=0.0))
    angles = expression.new_tensor(controls.head_deg).deg2rad()
    T_world_head = base.T_world_head
    if any(controls.head_deg):
        T_world_head = turned_about_neck(T_world_head, head_rotation(angles))
    return HeadState(expression, gaze, T_world_head, base.T_world_torso)


def neutral(rest: HeadState) -> HeadState:
    """Return the state from which hands pose: no expression, no residuals, lids as the resting gaze has them."""
    expression = torch.zeros_like(rest.expression)
    expression[: len(ARKIT_NAMES)] = look_weights(rest.gaze)
    return replace(rest, expression=expression)


def _is_look(device: torch.device) -> Tensor:
    return torch.tensor([name.startswith("eyeLook") for name in ARKIT_NAMES], device=device)


def between(states: HeadState, position: float) -> HeadState:
    """Return the single state at a place between two frames of a batch: clips have fewer frames a second
    than browsers show.

    Args:
        states: a batch of F states.
        position: in [0, F); beyond the last frame it is held.
    """
    first = min(int(position), len(states) - 1)
    share = min(position - first, 1.0)
    if share < 1e-3 or first + 1 >= len(states):
        return states[first]
    pair = torch.tensor([first]), torch.tensor([first + 1])
    return states.between(*pair, states.expression.new_tensor([share]))[0]


def captured_motion(avatar: Avatar, track: Track | None) -> tuple[HeadState | None, str]:
    """Return the avatar's captured motion as a batch of states and a sentence that says what it is.

    The viewer still opens where there is none, or where it does not fit: then the states are None
    and the sentence says why.
    """
    if track is None:
        return None, NO_MOTION
    if track.expression_names != avatar.expression_names:
        return None, (
            "The capture was tracked again since this avatar was trained, and no longer fits it. "
            "Train the avatar again to play its motion."
        )
    try:
        states = track_states(track)
    except InputError as error:
        return None, str(error)
    seconds = len(states) / track.fps
    return states, f"The captured motion: {len(states)} frames, {seconds:.0f} s."


@dataclass(frozen=True)
class Playback:
    """Which frame shows at a time; every change returns a new playback that goes on from there."""

    frames: int
    """Number of frames; playing goes round."""
    fps: float
    """Frames a second at speed 1."""
    speed: float = 1.0
    """Factor on the captured speed."""
    playing: bool = False
    """Whether time moves the frame."""
    start_frame: float = 0.0
    """Position at ``start_s``."""
    start_s: float = 0.0
    """Clock time of ``start_frame``, seconds."""

    def frame(self, now_s: float) -> int:
        """Return the frame that shows at clock time ``now_s``."""
        return min(int(self.position(now_s)), self.frames - 1)

    def changed(
        self,
        now_s: float,
        *,
        playing: bool | None = None,
        speed: float | None = None,
        frame: int | None = None,
    ) -> Playback:
        """Return the playback from ``now_s`` on with other settings; what is None stays as it is."""
        return replace(
            self,
            playing=self.playing if playing is None else playing,
            speed=self.speed if speed is None else speed,
            start_frame=self.position(now_s) if frame is None else float(frame),
            start_s=now_s,
        )

    def position(self, now_s: float) -> float:
        """Return where between the frames it is at clock time ``now_s``, in [0, frames)."""
        passed = (now_s - self.start_s) * self.fps * self.speed if self.playing else 0.0
        return math.fmod(self.start_frame + max(passed, 0.0), self.frames)
