"""OSC over UDP: VMC's blendshapes and bones, and ARKit coefficients under plain addresses.

VMC (protocol.vmc.info): ``/VMC/Ext/Blend/Val name value`` for each shape, then
``/VMC/Ext/Blend/Apply``; ``/VMC/Ext/Bone/Pos name x y z qx qy qz qw`` with Unity's axes (left-handed,
x to the model's right, y up, z forward), of which Neck, Head, LeftEye and RightEye are used. Shapes
carry ARKit names ("perfect sync"), or VRM's own few, which are put on the nearest ARKit ones.

Plain: any address that ends in an ARKit name with one number, such as ``/ARKit/jawOpen 0.4``; endings
like ``mouthSmile_L`` are understood, and angles as the app's CSV names them (``HeadYaw``, radians).

Times of OSC senders are rarely set: samples count as taken when
they arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from avatar.drive.arkit_csv import VALUE_NAMES
from avatar.drive.live import FaceSample, LiveConfig
from avatar.drive.live_udp import LOOPBACK, UdpDriver
from avatar.drive.motion import ARKIT_COUNT, head_angles, head_rotation
from avatar.drive.osc_message import OscError, Value, make_bundle, make_osc, parse_osc
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rotations import matrix_to_quat, quat_to_matrix

PORT = 39539
"""VMC's usual port."""
FRAME_S = 1 / 90
"""Plain messages that come one by one belong to one sample if they come within so many seconds."""
MOST_MESSAGES = 2048
"""Messages of one datagram that are looked at."""
SHAPE, APPLY, BONE = "/VMC/Ext/Blend/Val", "/VMC/Ext/Blend/Apply", "/VMC/Ext/Bone/Pos"
BONES = ("Neck", "Head", "LeftEye", "RightEye")

VRM_SHAPES: dict[str, dict[str, float]] = {
    "a": {"jawOpen": 0.6},
    "i": {"jawOpen": 0.1, "mouthStretchLeft": 0.5, "mouthStretchRight": 0.5},
    "u": {"jawOpen": 0.15, "mouthPucker": 0.6},
    "e": {"jawOpen": 0.3, "mouthStretchLeft": 0.3, "mouthStretchRight": 0.3},
    "o": {"jawOpen": 0.4, "mouthFunnel": 0.5},
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "blink_l": {"eyeBlinkLeft": 1.0},
    "blink_r": {"eyeBlinkRight": 1.0},
    "joy": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
    "sorrow": {"mouthFrownLeft": 0.7, "mouthFrownRight": 0.7, "browInnerUp": 0.6},
    "angry": {"browDownLeft": 0.8, "browDownRight": 0.8},
}
"""What VRM 0's standard shapes do, in ARKit's terms; sums are clipped to 1."""

_POSITION = {name.lower(): index for index, name in enumerate(VALUE_NAMES)}
_POSITION |= {
    f"{name[: -len(side)].lower()}_{side[0].lower()}": index
    for index, name in enumerate(ARKIT_NAMES)
    for side in ("Left", "Right")
    if name.endswith(side)
}


class OscParser:
    """Datagrams to samples; a ``Parser``. Each sender's shapes are kept apart."""

    def __init__(self) -> None:
        """Start without a sender."""
        self._refused: list[str] = []
        self._faces: dict[str, _Face] = {}

    def samples(self, packet: bytes, address: str, arrival_s: float) -> Iterator[FaceSample]:
        """Yield the samples that a datagram completes."""
        try:
            messages = parse_osc(packet)
        except OscError:
            self._refused.append("that are no OSC")
            return
        if len(messages) > MOST_MESSAGES:
            self._refused.append("too long")
            return
        face = self._faces.get(address)
        if face is None:
            if len(self._faces) >= 32:  # made-up senders must not fill the memory
                self._faces.clear()
            face = self._faces[address] = _Face(address)
        together = len(messages) > 1
        for target, values in messages:
            reason, ready = face.take(target, values, arrival_s, together)
            if reason:
                self._refused.append(reason)
            if ready is not None:
                yield ready
        if together and face.changed and not face.vmc:
            yield face.sample()

    def refused(self) -> Iterator[str]:
        """Yield the reasons since last asked."""
        refused, self._refused = self._refused, []
        yield from refused


class _Face:
    """What one sender has said so far."""

    def __init__(self, sender: str) -> None:
        self.changed: set[int] = set()
        self.vmc = False
        self._sender = sender
        self._values = np.zeros(len(VALUE_NAMES))
        self._vrm: dict[str, float] = {}
        self._bones: dict[str, np.ndarray] = {}
        self._since = 0.0
        self._angles = False

    def take(
        self, address: str, params: list[Value], arrival_s: float, together: bool
    ) -> tuple[str, FaceSample | None]:
        """Take a message; return why it is dropped, or empty, and the sample that it completes."""
        if address == APPLY:
            return "", self.sample() if self.changed or self._bones else None
        if address == BONE:
            return self._bone(params), None
        if address == SHAPE:
            self.vmc = True
            if len(params) != 2 or not isinstance(params[0], str):
                return "malformed", None
            return self._shape(params[0], params[1]), None
        if address.startswith("/VMC/"):
            return "", None  # the protocol has much that is no face
        name = address.rsplit("/", 1)[-1]
        if name.lower() not in _POSITION:
            return "of other addresses", None
        value = _number(params[0]) if len(params) == 1 else None
        if value is None:
            return "malformed", None
        index = _POSITION[name.lower()]
        ready = None
        if not together and self.changed:
            due = index in self.changed or arrival_s - self._since >= FRAME_S
            ready = self.sample() if due else None
        if not self.changed:
            self._since = arrival_s
        self._set(index, value)
        return "", ready

    def _set(self, index: int, value: float) -> None:
        self._values[index] = value
        self.changed.add(index)
        self._angles |= index >= ARKIT_COUNT

    def _shape(self, name: str, cell: Value) -> str:
        value = _number(cell)
        if value is None:
            return "malformed"
        key = name.lower()
        if key in _POSITION:
            self._set(_POSITION[key], value)
        elif key in VRM_SHAPES:
            self._vrm[key] = min(max(value, 0.0), 1.0)
            self.changed.add(-1)
        else:
            return "of unknown shapes"
        return ""

    def _bone(self, params: list[Value]) -> str:
        self.vmc = True
        if len(params) != 8 or not isinstance(params[0], str):
            return "malformed"
        turn = np.array(
            [np.nan if _number(cell) is None else cell for cell in params[4:]], np.float64
        )
        # A hand-made zero quaternion is no rotation; huge numbers overflow its norm.
        if not 0.5 < np.abs(turn).max() < 2:
            return "malformed"
        if params[0] in BONES:
            self._bones[params[0]] = turn
        return ""

    def sample(self) -> FaceSample:
        """Return all that is known of the face now."""
        self.changed = set()
        weights = self._values[:ARKIT_COUNT].copy()
        for shape, value in self._vrm.items():
            for name, share in VRM_SHAPES[shape].items():
                weights[_POSITION[name.lower()]] += share * value
        head: np.ndarray | None = None
        gaze: np.ndarray | None = None
        if self._angles:
            angles = self._values[ARKIT_COUNT:]
            head = angles[:3].copy()
            eyes = -np.stack([angles[3:5], angles[6:8]])
            gaze = eyes if eyes.any() else None
        if "Head" in self._bones:
            R = unity_rotation(self._bones["Head"])
            if "Neck" in self._bones:
                R = unity_rotation(self._bones["Neck"]) @ R
            head = head_angles(R).numpy()
        if "LeftEye" in self._bones and "RightEye" in self._bones:
            eyes = [head_angles(unity_rotation(self._bones[b])) for b in ("LeftEye", "RightEye")]
            gaze = torch.stack(eyes)[:, :2].numpy()
        return FaceSample(weights, head, gaze, None, self._sender)


def unity_rotation(quat_xyzw: np.ndarray) -> torch.Tensor:
    """Return the rotation [3, 3] in our head frame of a Unity quaternion (x, y, z, w).

    Unity's x points to the subject's right, ours to the left: mirroring in x keeps turns about x and
    reverses those about y and z.
    """
    x, y, z, w = (float(v) for v in quat_xyzw)
    return quat_to_matrix(torch.tensor([w, x, -y, -z], dtype=torch.float64))


def _number(cell: Value) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    try:
        return float(cell)
    except OverflowError:
        return None


def vmc_bundle(weights: np.ndarray, head: np.ndarray | None) -> bytes:
    """Return one sample as a VMC sender writes it: [52] coefficients, and [3] head angles or None."""
    messages = [
        make_osc(SHAPE, name, float(value))
        for name, value in zip(ARKIT_NAMES, weights, strict=True)
    ]
    messages.append(make_osc(APPLY))
    if head is not None:
        R = head_rotation(torch.as_tensor(np.asarray(head), dtype=torch.float64))
        w, x, y, z = matrix_to_quat(R).tolist()
        messages.insert(0, make_osc(BONE, "Head", 0.0, 0.0, 0.0, x, -y, -z, w))
    return make_bundle(messages)


def open_osc(
    avatar: Avatar,
    *,
    port: int = PORT,
    listen: str = LOOPBACK,
    config: LiveConfig | None = None,
    record: Path | None = None,
) -> UdpDriver:
    """Listen for OSC; arguments and errors as ``UdpDriver``."""
    return UdpDriver(
        avatar,
        OscParser(),
        label="OSC / VMC",
        port=port,
        listen=listen,
        config=config,
        record=record,
    )
