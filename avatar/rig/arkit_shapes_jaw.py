"""The jaw's ARKit shapes: a bone that turns about the ears, slides and swings, and skin that follows it."""

from __future__ import annotations

import math

from torch import Tensor

from avatar.rig.arkit_drawing import LIP_CORNERS, LOWER_LIP, UPPER_FACE, UPPER_LIP, Drawing, Move
from avatar.rig.arkit_places import Place as P

JAW_OPEN_RAD = math.radians(19.5)
"""Turn of the jaw at jawOpen 1: lips part by about 3 cm, a mouth opened wide. Adults can open 4 to
5 cm between the teeth."""


JAW_TURNS: dict[str, tuple[float, Move, float]] = {
    "jawOpen": (JAW_OPEN_RAD, (0.0, 0.0, 0.0), 0.0),
    # The joint slides down its slope as it slides forward.
    "jawForward": (0.0, (0.0, -2.5, 9.0), 0.0),
    "jawLeft": (0.0, (4.0, 0.0, 0.0), math.radians(3.0)),
    "jawRight": (0.0, (-4.0, 0.0, 0.0), -math.radians(3.0)),
}
"""How the bone moves: turn open in radians, slide in millimetres, swing to the left in radians."""


def jaw_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the jaw's left and symmetric shapes: name to [478, 3] metres."""
    jaw_open = draw.jaw(*JAW_TURNS["jawOpen"]) + draw.narrowed()
    # mouthClose holds the lips where they rest while the jaw below them stays open.
    stay = {point: 1.0 for point in (*LOWER_LIP, *UPPER_LIP, *LIP_CORNERS)}
    stay |= {P.LIP_BELOW: 0.75, P.CHIN_BOSS: 0.45, P.CHIN: 0.3, P.CHIN_LOW: 0.2, P.CHIN_TIP: 0.1}
    stay |= draw.both(
        {
            P.CORNER_BELOW: 0.85,
            P.CORNER_ABOVE: 0.9,
            P.CHIN_BOSS_LEFT: 0.55,
            P.CHIN_SIDE: 0.4,
            P.JAW: 0.12,
            P.JAW_BACK: 0.1,
            P.JAW_ANGLE_FRONT: 0.0,
        }
    )
    close = draw.weights(
        stay, (*UPPER_FACE, P.JAW_ANGLE, P.JAW_ANGLE_RIGHT, P.JAW_JOINT, P.JAW_JOINT_RIGHT)
    )
    return {
        "jawOpen": jaw_open,
        "jawForward": draw.jaw(*JAW_TURNS["jawForward"]),
        "jawLeft": draw.jaw(*JAW_TURNS["jawLeft"]),
        "mouthClose": -close[:, None] * jaw_open,
    }
