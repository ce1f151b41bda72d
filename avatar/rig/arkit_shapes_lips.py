"""ARKit shapes of the lips alone: rolled in, pushed up, pressed, drawn from the teeth.

Formulas of (u, v) as in ``arkit_shapes_mouth``.
"""

from __future__ import annotations

from torch import Tensor

from avatar.rig.arkit_drawing import (
    LIP_CORNERS,
    LOWER_LIP,
    UPPER_FACE,
    UPPER_LIP,
    Drawing,
    Move,
    at,
    bell,
    full,
    left_half,
    lips,
)
from avatar.rig.arkit_places import Place as P

_NOSTRILS = ("nostril_left", "nostril_right")
_AROUND = (
    *UPPER_FACE,
    "nose_bridge",
    "nose_tip",
    P.CHEEKBONE,
    P.CHEEKBONE_RIGHT,
    P.JAW_JOINT,
    P.JAW_JOINT_RIGHT,
)


def lip_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the lips' left and symmetric shapes: name to [478, 3] metres."""
    return {**_rolled_and_pressed(draw), **_bared_teeth(draw)}


def _rolled_and_pressed(draw: Drawing) -> dict[str, Tensor]:
    """Lips that roll in, push up, press."""
    around = [*_AROUND, *_NOSTRILS]
    # Rolled over the teeth: the outer contour comes to the seam, the inner one goes in behind it.
    roll_lower = lips(
        None,
        lambda u, v: (0, bell(u, 0, 0.5) * (8.5 - 8.1 * v), -bell(u, 0, 0.6) * (3.5 + 7.0 * v)),
    )
    roll_lower |= at(
        (*LIP_CORNERS, P.CORNER_ABOVE_RIGHT, P.CORNER_UNDER_RIGHT, P.CORNER_UNDER, P.CORNER_ABOVE),
        0,
        0,
        -1.0,
    )
    roll_lower |= {P.LIP_BELOW: (0, 7.0, 1.0), P.CHIN_BOSS: (0, 4.0, 2.5)}
    roll_lower |= draw.both_sides(
        {P.CHIN_BOSS_LEFT: (0, 4.0, 2.5), P.CHIN_SIDE: (0, 2.5, 2.5), P.CORNER_BELOW: (0, 1.2, 1.2)}
    )
    roll_upper = lips(
        lambda u, v: (0, full(u) * (0.5 - 5.0 * (1 - v)), -(full(u) ** 0.5) * (6.5 + 3.0 * v)), None
    )
    roll_upper |= draw.both_sides(
        at(LIP_CORNERS[:4], 0.6, 0.3, -1.2) | {P.LIP_ABOVE: (0.5, -2.5, -1.5)}
    )
    roll_upper |= {P.PHILTRUM: (0, -4.0, -2.5)}
    # The chin's muscle lifts chin and lower lip, which slides out before the upper one.
    shrug_lower = lips(None, lambda u, v: (0.8 * u, 5.0 - 3.5 * u * u, 6.0 - 3.5 * u * u))
    shrug_lower |= lips(lambda u, v: (0, 1.5 - 1.5 * (1 - v) * full(u), 2.3 * u * u), None)
    shrug_lower |= {
        point: (0.7 * (1 if point in LIP_CORNERS[:4] else -1), 1.5, 2.3) for point in LIP_CORNERS
    }
    shrug_lower |= {
        P.LIP_BELOW: (0, 7.0, 5.5),
        P.CHIN_BOSS: (0, 8.5, 4.5),
        P.CHIN: (0, 8.5, 4.5),
        P.CHIN_TIP: (0, 6.0, 5.0),
    }
    shrug_lower |= draw.both_sides(
        {
            P.LIP_BELOW_LEFT: (0.2, 6.8, 5.3),
            P.CHIN_BOSS_LEFT: (0, 7.5, 4.0),
            P.CHIN_SIDE: (-0.5, 6.5, 3.0),
            P.CORNER_BELOW: (0.2, 3.0, 3.0),
            P.JAW: (-0.8, 2.0, 2.0),
            P.CORNER_ABOVE: (0.4, 1.0, 1.6),
            P.CORNER_UNDER: (0.6, 1.6, 2.3),
            P.JAW_ANGLE_FRONT: (0, 0, 0),
        }
    )
    shrug_upper = lips(
        lambda u, v: (0.3 * u, 5.0 * full(u) ** 1.4, 1.7 * full(u)), lambda u, v: (0, 0, 0)
    )
    shrug_upper |= draw.both_sides({P.LIP_ABOVE: (0, 0.8, 0.1), P.NOSTRIL_INNER: (0, 0.6, 0.1)}) | {
        P.PHILTRUM: (0, 3.2, 0.4)
    }
    shrug_upper |= at(LIP_CORNERS, 0, 0, 0)

    # The lower lip is pushed up against the upper one from the chin: red disappears, nothing parts.
    def press_upper(u: float, v: float) -> Move:
        w = left_half(u, 0.6) * (1 - 0.5 * abs(u) ** 3)
        return (-0.6 * w, w * (-0.8 + 1.9 * v), -0.3 * w)

    def press_lower(u: float, v: float) -> Move:
        w = left_half(u, 0.6) * (1 - 0.5 * abs(u) ** 3)
        return (-0.1 * w, w * (2.8 - 1.6 * v), 1.2 * w)

    press = lips(press_upper, press_lower) | {
        P.LIP_BELOW: (0.0, 1.4, 1.6),
        P.CHIN: (0.0, 2.2, 1.4),
        P.CHIN_TIP: (0.0, 1.8, 1.5),
        P.CHIN_BOSS_LEFT: (0.1, 2.8, 2.0),
        P.CHIN_SIDE: (0.1, 3.2, 2.2),
        P.CORNER_BELOW: (0.3, 2.0, 1.5),
        **at((P.CORNER_UNDER, P.CORNER_ABOVE), 0.0, 0.8, 0.6),
        P.FOLD_LOWER: (0.7, 0.8, 0.6),
        P.JAW: (-0.6, 1.4, 1.5),
        P.JAW_ANGLE_FRONT: (-0.5, 0.2, 0.4),
        P.CHEEK_LOW: (0.7, 0.6, 0.8),
        P.CHEEK_APPLE: (0.5, 0.6, 0.2),
        P.LIP_ABOVE: (0.3, 0.0, 1.0),
    }
    return {
        "mouthRollLower": draw.field(
            roll_lower,
            [
                *around,
                *UPPER_LIP,
                P.CHIN_TIP,
                P.CHIN_LOW,
                P.JAW_ANGLE_FRONT,
                P.JAW_ANGLE_FRONT_RIGHT,
            ],
        ),
        "mouthRollUpper": draw.field(roll_upper, [*around, *LOWER_LIP, P.CHIN_TIP]),
        "mouthShrugLower": draw.field(shrug_lower, around),
        "mouthShrugUpper": draw.field(
            shrug_upper, [*_AROUND, *LOWER_LIP, P.NOSE_WING, P.NOSE_WING_RIGHT, P.CHIN_TIP]
        ),
        "mouthPressLeft": draw.field(
            press,
            [
                *around,
                P.CHEEK_MIDDLE_RIGHT,
                P.CHEEK_APPLE_RIGHT,
                P.CHEEK_HOLLOW_RIGHT,
                P.JAW_BACK_RIGHT,
                P.JAW_ANGLE_FRONT_RIGHT,
            ],
        ),
    }


def _bared_teeth(draw: Drawing) -> dict[str, Tensor]:
    """Muscles that pull one lip away from its middle left, baring teeth."""

    def lower_down(u: float, v: float) -> Move:
        w = left_half(u, 0.55) * full(u) ** 0.3
        return (0.9 * w * max(u, 0.0), -4.3 * w, -1.5 * w)

    def upper_up(u: float, v: float) -> Move:
        w = left_half(u, 0.6)
        return (2.0 * w * max(u, 0.0), w * (7.5 - 0.8 * v), 0.9 * w)

    down = (
        lips(None, lower_down) | at(LIP_CORNERS[:4], 0.0, -1.2, -0.5) | at(LIP_CORNERS[4:], 0, 0, 0)
    )
    down |= {
        P.LIP_BELOW: (0.3, -2.4, -1.4),
        P.CHIN: (0.1, -2.0, -1.4),
        P.CHIN_TIP: (0.0, -1.4, -1.3),
        P.CHIN_BOSS_LEFT: (1.2, -2.8, -1.7),
        P.CHIN_SIDE: (1.6, -2.4, -1.8),
        P.CORNER_BELOW: (1.0, -1.8, -0.8),
        P.JAW: (0.6, -0.6, -1.0),
        P.CORNER_ABOVE: (0.1, -0.8, -0.3),
    }
    up = lips(upper_up, None) | {
        **at(LIP_CORNERS[:4], 0.2, 3.8, 0.5),
        **at(LIP_CORNERS[4:], 0, 0, 0),
        P.CORNER_ABOVE: (0.0, 4.0, 0.8),
        P.FOLD_LOWER: (0.0, 4.2, 1.0),
        P.CORNER_BELOW: (-0.2, 2.2, 0.9),
        P.CHEEK_HOLLOW: (0.2, 2.2, 1.8),
        P.FOLD: (1.2, 6.0, -0.2),
        P.LIP_ABOVE: (1.6, 7.0, -0.3),
        P.LIP_ABOVE_INNER: (1.4, 7.0, -0.3),
        P.CHEEK_MIDDLE: (0.8, 4.0, 1.2),
        P.CHEEK_APPLE: (0.7, 2.5, 1.2),
        P.CHEEK_TOP_INNER: (0.7, 2.5, 1.2),
        P.UNDER_LID: (0.1, 0.8, 0.5),
        P.JAW: (-0.1, 0.5, 0.8),
        P.NOSE_WING: (1.3, 2.5, 0.0),
        P.NOSE_WING_LOW: (1.3, 3.0, 0.0),
        P.NOSTRIL: (0.6, 2.5, 0.2),
        P.PHILTRUM: (0.3, 2.8, -0.5),
        P.FOLD_UPPER: (1.5, 4.0, 0.4),
        P.FOLD_TOP: (1.0, 3.5, 0.8),
    }
    return {
        "mouthLowerDownLeft": draw.field(
            down, [*_AROUND, *_NOSTRILS, *UPPER_LIP, P.JAW_BACK_RIGHT, P.JAW_ANGLE_FRONT]
        ),
        "mouthUpperUpLeft": draw.field(
            up,
            [
                *UPPER_FACE,
                P.NOSE_BRIDGE,
                P.NOSE_RIDGE,
                P.NOSE_TIP,
                P.CHEEKBONE,
                P.CHEEKBONE_RIGHT,
                P.NOSE_WING_RIGHT,
                P.NOSTRIL_RIGHT,
                P.CHEEK_MIDDLE_RIGHT,
                P.LOWER_LIP,
                P.LOWER_LIP_RIGHT,
                P.LOWER_LIP_LEFT,
            ],
        ),
    }
