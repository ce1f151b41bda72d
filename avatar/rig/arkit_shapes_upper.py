"""ARKit shapes of brows, cheeks, nose, lids and eyes."""

from __future__ import annotations

import math

from torch import Tensor

from avatar.rig.arkit_drawing import (
    EYES,
    SKULL,
    UPPER_FACE,
    Drawing,
    Handles,
    Move,
    at,
    left_half,
    lips,
)
from avatar.rig.arkit_places import Place as P

GAZE_SIDE_RAD = math.radians(30.0)
"""Turn of an eye at eyeLookIn or eyeLookOut 1."""
GAZE_UP_RAD = math.radians(25.0)
"""Turn of an eye at eyeLookUp or eyeLookDown 1."""

_BELOW = (
    P.CHEEK_APPLE,
    P.CHEEK_APPLE_RIGHT,
    P.CHEEK_TOP_INNER,
    P.CHEEK_TOP_INNER_RIGHT,
    P.NOSE_TIP,
    P.NOSE_BALL,
    P.NOSE_RIDGE_LOW,
    P.NOSE_RIDGE_MIDDLE,
    P.CORNER_RIGHT,
    P.CORNER,
)


def brow_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the brows' left and symmetric shapes: name to [478, 3] metres."""
    # Pairs are lower and upper edge of the brow, from the nose outwards.
    down: Handles = {
        **at((P.BROW_INNER, P.BROW_INNER_TOP), -2.2, -3.0, 1.0),
        **at((P.BROW_SECOND, P.BROW_SECOND_TOP), -3.5, -4.2, 1.4),
        **at((P.BROW_ARCH, P.BROW_ARCH_TOP), -4.0, -4.2, 1.8),
        **at((P.BROW_OUTER, P.BROW_OUTER_TOP), -3.3, -3.0, 2.2),
        **at((P.BROW_TAIL, P.BROW_TAIL_TOP), -2.2, -1.6, 2.2),
        P.NOSE_ROOT: (-0.1, -1.2, 0.8),
        P.GLABELLA: (-0.1, -1.2, 0.5),
        **at((P.BROW_INNER_RIGHT, P.BROW_INNER_TOP_RIGHT), -0.2, -0.5, 0.2),
        **at((P.FOREHEAD_INNER, P.FOREHEAD_MIDDLE, P.FOREHEAD_OUTER), -1.2, -2.0, 0.9),
        **at((P.LID_FOLD, P.LID_FOLD_INNER, P.LID_FOLD_OUTER), -0.6, -0.8, 0.4),
        P.FOREHEAD: (0.0, -0.6, 0.2),
    }
    inner_up = draw.both_sides(
        {
            **at((P.BROW_INNER, P.BROW_INNER_TOP), 0.4, 6.0, 0.9),
            **at((P.BROW_SECOND, P.BROW_SECOND_TOP), 0.5, 5.2, 0.6),
            **at((P.BROW_ARCH, P.BROW_ARCH_TOP), 0.2, 3.0, 0.2),
            **at((P.BROW_OUTER, P.BROW_OUTER_TOP), 0.0, 1.6, 0.1),
            **at((P.BROW_TAIL, P.BROW_TAIL_TOP), 0.0, 0.9, 0.1),
            P.FOREHEAD_INNER: (0.4, 3.5, 0.9),
            P.FOREHEAD_MIDDLE: (0.6, 2.5, 0.7),
            P.LID_FOLD: (0.0, 0.4, 0.0),
            P.NOSE_SIDE: (0.0, 1.4, 0.0),
        }
    )
    inner_up |= {
        P.GLABELLA: (0.0, 5.2, 0.7),
        P.FOREHEAD: (0.0, 2.2, 0.8),
        P.NOSE_ROOT: (0.0, 3.8, 0.5),
        P.NOSE_BRIDGE: (0.0, 1.5, 0.0),
    }
    outer_up: Handles = {
        **at((P.BROW_TAIL, P.BROW_TAIL_TOP), 1.0, 6.2, -1.2),
        **at((P.BROW_OUTER, P.BROW_OUTER_TOP), 1.5, 7.8, -1.2),
        **at((P.BROW_ARCH, P.BROW_ARCH_TOP), 1.6, 7.0, -0.5),
        **at((P.BROW_SECOND, P.BROW_SECOND_TOP), 1.1, 4.6, 0.1),
        **at((P.BROW_INNER, P.BROW_INNER_TOP), 0.3, 1.4, 0.2),
        **at((P.FOREHEAD_OUTER, P.FOREHEAD_SIDE), 1.2, 4.0, -0.5),
        P.TEMPLE: (0.8, 3.0, -0.8),
        **at((P.LID_FOLD, P.LID_FOLD_INNER, P.LID_FOLD_OUTER), 0.0, 1.5, -0.3),
        P.LID_FOLD_SIDE: (0.0, 1.4, -0.3),
    }
    top = [*EYES, *_BELOW, *SKULL]
    return {
        "browDownLeft": draw.field(down, top),
        "browInnerUp": draw.field(
            inner_up,
            [
                *EYES,
                *SKULL,
                *(p for p in _BELOW if p not in (P.NOSE_RIDGE_LOW, P.NOSE_RIDGE_MIDDLE)),
            ],
        ),
        "browOuterUpLeft": draw.field(
            outer_up, [*top, 9, 8, P.BROW_INNER_RIGHT, P.BROW_INNER_TOP_RIGHT]
        ),
    }


def cheek_and_nose_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the cheeks' and the nose's left and symmetric shapes: name to [478, 3] metres."""
    # Air behind the lips as well as in the cheeks: the whole mouth bulges, most at its corners.
    puff = lips(
        lambda u, v: (-2.5 * u, 0.0, 7.5 + 3.5 * abs(u)),
        lambda u, v: (-2.5 * u, -1.0, 8.0 + 3.0 * abs(u)),
    )
    puff |= draw.both_sides(
        {
            P.CORNER_ABOVE: (0.5, 0.0, 11.0),
            P.FOLD_LOWER: (2.0, 1.0, 10.5),
            P.CORNER_BESIDE: (2.0, 0.3, 10.5),
            P.CORNER_BELOW: (-0.5, -1.0, 11.0),
            P.CHEEK_LOW: (4.0, 1.5, 8.5),
            P.CHEEK_HOLLOW: (3.5, 2.0, 7.0),
            P.CHEEK_LOW_SIDE: (4.0, 1.0, 7.0),
            P.JOWL_TOP: (2.0, 1.0, 6.5),
            P.CHEEK_MIDDLE: (2.0, 2.0, 7.5),
            P.FOLD: (0.0, 1.0, 10.0),
            P.LIP_ABOVE: (-1.0, 0.8, 9.5),
            P.CHEEK_APPLE: (0.0, 2.0, 2.5),
            P.CHEEKBONE: (0.5, 1.0, 1.5),
            P.JAW: (0.3, 1.2, 5.0),
            P.JAW_ANGLE_FRONT: (0.3, 1.0, 4.5),
            P.CHIN_SIDE: (-0.5, -0.5, 5.5),
            P.NOSE_WING: (0.3, 1.0, 1.8),
            P.CHEEK_TOP_INNER: (-0.2, 1.8, 1.0),
        }
    )
    puff |= {
        P.PHILTRUM: (0, 0.5, 7.0),
        P.LIP_BELOW: (0, -1.8, 7.0),
        P.CHIN: (0, 0.8, 3.5),
        P.NOSE_TIP: (0, 1.5, 1.0),
    }
    squint: Handles = {
        **at((P.CHEEK_APPLE, P.CHEEK_TOP, P.CHEEK_TOP_SIDE), -0.5, 4.2, 2.2),
        P.CHEEK_TOP_INNER: (-0.4, 4.0, 2.0),
        P.CHEEK_MIDDLE: (0.5, 4.0, 1.8),
        P.CHEEK_HOLLOW: (0.4, 4.0, 2.2),
        P.CHEEK_LOW: (0.6, 3.8, 2.0),
        P.CHEEKBONE: (-0.5, 4.0, 2.5),
        P.CHEEKBONE_SIDE: (-0.6, 2.8, 2.2),
        P.CHEEKBONE_TOP: (-0.6, 3.0, 2.0),
        **at((P.UNDER_LID, P.UNDER_LID_OUTER, P.UNDER_LID_SIDE), -0.6, 2.6, 1.4),
        P.LOWER_LID: (-0.3, 1.6, 0.8),
        P.LOWER_LID_OUTER: (-0.3, 1.5, 0.8),
        P.LOWER_LID_INNER: (-0.3, 1.2, 0.6),
        P.LOWER_LID_SIDE: (-0.2, 0.9, 0.5),
        P.FOLD_LOWER: (0.9, 3.0, 0.2),
        P.FOLD: (0.9, 2.0, -0.4),
        P.CORNER_ABOVE: (0.8, 1.6, -0.4),
        P.CORNER: (0.5, 0.6, -0.6),
        P.FOLD_TOP: (0.4, 2.5, 0.8),
        P.CHEEK_INNER: (0.3, 3.2, 1.2),
        P.JAW_ANGLE_FRONT: (0.5, 1.2, 1.6),
        P.JAW: (0.4, 0.6, 0.8),
    }

    # The lip's side hangs on the nose's wing, and the corner a little.
    def snarl(u: float, v: float) -> Move:
        w = left_half(u, 0.45)
        return (0.3 * w, w * (7.6 - 0.9 * v) - 2.4 * max(u, 0.0) ** 4, 1.3 * w)

    sneer = lips(
        snarl,
        lambda u, v: (-0.9 * max(u, 0.0) ** 2, 5.0 * max(u, 0.0) ** 2, 1.1 * max(u, 0.0) ** 2),
    )
    sneer |= {
        **at((P.NOSE_WING_LOW, P.NOSE_WING, P.NOSE_WING_OUTER), 0.7, 4.2, 1.5),
        P.NOSE_WING_CREASE: (0.2, 5.0, 1.8),
        P.NOSTRIL: (0.4, 3.2, 0.8),
        **at((P.NOSE_WING_BACK, P.NOSE_WING_TOP, P.NOSE_WING_SIDE), -0.2, 4.2, 1.6),
        **at((P.NOSE_SIDE, P.NOSE_SIDE_LOW, P.NOSE_SIDE_FRONT), -0.4, 3.0, 1.5),
        P.FOLD_UPPER: (0.2, 7.5, 1.2),
        P.LIP_ABOVE_INNER: (0.0, 8.0, 0.8),
        P.LIP_ABOVE: (-0.5, 8.5, 1.2),
        P.FOLD: (-1.2, 8.5, 1.4),
        P.FOLD_TOP: (-0.5, 6.5, 1.8),
        P.CHEEK_MIDDLE: (-1.2, 6.5, 2.5),
        P.CHEEK_APPLE: (-0.8, 5.0, 2.4),
        P.CHEEK_TOP_INNER: (-0.6, 5.5, 2.3),
        P.CHEEK_TOP: (-0.4, 4.0, 1.8),
        P.UNDER_LID: (-0.3, 2.6, 1.2),
        P.CHEEKBONE: (-0.6, 2.0, 1.2),
        P.CHEEK_HOLLOW: (-1.6, 4.6, 3.0),
        P.FOLD_LOWER: (-2.0, 6.8, 2.4),
        P.CORNER_ABOVE: (-1.5, 5.8, 1.8),
        P.CORNER_BELOW: (-0.8, 3.8, 1.5),
        P.JAW: (-0.3, 1.5, 1.8),
        P.JAW_ANGLE_FRONT: (-0.4, 1.0, 1.8),
        P.LOWER_LID: (0.0, 0.9, 0.4),
        P.PHILTRUM: (0.0, 2.7, 0.2),
        P.NOSE_TIP: (0.0, 1.5, 0.5),
        # The nose wrinkles from above too: procerus draws the brow's head down.
        P.BROW_INNER: (-0.6, -2.8, -0.3),
        P.BROW_INNER_TOP: (-0.6, -2.6, -0.3),
        **at((P.BROW_SECOND, P.BROW_SECOND_TOP), -0.8, -2.8, -0.3),
        **at((P.BROW_ARCH, P.BROW_ARCH_TOP), -0.7, -2.0, 0.0),
        P.BROW_OUTER: (-0.5, -1.3, 0.2),
        P.NOSE_ROOT: (-0.1, -1.4, 0.2),
        P.GLABELLA: (0.0, -1.3, 0.2),
        P.FOREHEAD_INNER: (-0.3, -1.8, 0.2),
    }
    return {
        "cheekPuff": draw.field(puff, [*UPPER_FACE, P.NOSE_BRIDGE, P.NOSE_RIDGE]),
        "cheekSquintLeft": draw.field(
            squint,
            [
                *SKULL,
                "lid_left_upper",
                "eye_corners_left",
                "nose_bridge",
                "nose_tip",
                "nostril_left",
                "forehead",
                "brow_left",
                "brow_right",
                P.UPPER_LIP,
                P.LOWER_LIP,
                P.CORNER_RIGHT,
                P.CHIN_TIP,
            ],
        ),
        "noseSneerLeft": draw.field(
            sneer,
            [
                *SKULL,
                "lid_left_upper",
                "eye_corners_left",
                "nostril_right",
                P.NOSE_SADDLE,
                P.FOREHEAD_TOP,
                P.FOREHEAD,
                P.CHIN_TIP,
                P.CHEEK_MIDDLE_RIGHT,
                P.CHEEK_INNER_RIGHT,
            ],
        ),
    }


def eye_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the left eye's shapes: name to [478, 3] metres; the iris moves in the eyeLook ones."""
    yaw, pitch = GAZE_SIDE_RAD, GAZE_UP_RAD
    # The ring muscle draws the lower lid and the skin below it up and towards the nose.
    squint: Handles = {
        P.LOWER_LID: (-0.7, 2.0, 0.9),
        P.LOWER_LID_OUTER: (-0.8, 2.0, 1.0),
        P.LOWER_LID_INNER: (-0.6, 1.7, 0.8),
        P.LOWER_LID_SIDE: (-0.6, 1.4, 0.8),
        P.LOWER_LID_NOSE: (-0.3, 1.1, 0.5),
        P.LOWER_LID_OUTER_END: (-0.4, 0.8, 0.5),
        P.LOWER_LID_INNER_END: (-0.1, 0.5, 0.2),
        **at((P.UNDER_LID, P.UNDER_LID_OUTER, P.UNDER_LID_INNER), -1.8, 2.4, 1.2),
        P.UNDER_LID_SIDE: (-1.5, 1.8, 1.2),
        P.TEAR_TROUGH: (-1.2, 1.4, 0.8),
        P.CHEEK_TOP: (-1.5, 1.8, 0.9),
        P.CHEEK_TOP_SIDE: (-1.3, 1.4, 0.9),
        P.CHEEK_APPLE: (-1.2, 1.2, 0.6),
        P.CHEEK_TOP_INNER: (-1.5, 1.3, 0.6),
        P.CHEEKBONE_TOP: (-0.8, 0.8, 0.8),
        **at((P.UPPER_LID, P.UPPER_LID_INNER, P.UPPER_LID_OUTER), 0.0, -0.4, 0.0),
    }
    return {
        "eyeBlinkLeft": draw.blink(),
        "eyeSquintLeft": draw.field(
            squint,
            [
                *SKULL,
                "brow_left",
                "eye_corners_left",
                "nose_bridge",
                "nose_tip",
                "nostril_left",
                P.CORNER,
                P.FOLD_LOWER,
                P.CHEEK_LOW,
                P.JAW_ANGLE_FRONT,
            ],
        ),
        "eyeWideLeft": draw.lids(2.8, 0.0),
        # The lids follow the eye: the upper one as far as the iris, the lower one less.
        "eyeLookUpLeft": draw.look(0.0, pitch) + draw.lids(3.0, 1.1),
        "eyeLookDownLeft": draw.look(0.0, -pitch) + draw.lids(-5.5, -1.7),
        "eyeLookOutLeft": draw.look(yaw, 0.0) + draw.lids(0.0, 0.0, 1.7),
        "eyeLookInLeft": draw.look(-yaw, 0.0) + draw.lids(0.0, 0.0, -1.7),
    }
