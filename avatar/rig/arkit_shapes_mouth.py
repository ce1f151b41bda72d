"""ARKit shapes of the mouth as a whole: round, drawn sideways, pulled at its corners.

Lips are formulas of (u, v): u from -1 at the right corner over 0 in the middle to 1 at the left, v from
0 on the outer contour to 1 on the inner.
"""

from __future__ import annotations

from torch import Tensor

from avatar.rig.arkit_drawing import (
    UPPER_FACE,
    Drawing,
    Handles,
    Move,
    at,
    bell,
    full,
    left_half,
    lips,
)
from avatar.rig.arkit_places import Place as P

_NOSE = ("nose_bridge", "nose_tip")
_NOSTRILS = ("nostril_left", "nostril_right")
_SIDE = (P.CHEEKBONE, P.CHEEKBONE_RIGHT, P.JAW_JOINT, P.JAW_JOINT_RIGHT)
_AROUND = (*UPPER_FACE, *_NOSE, *_SIDE)


def mouth_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Draw the left and symmetric shapes of the whole mouth: name to [478, 3] metres."""
    return {
        **_round_shapes(draw),
        **_sideways(draw),
        **_corner_shapes(draw),
    }


def _round_shapes(draw: Drawing) -> dict[str, Tensor]:
    # A kiss: the ring muscle draws the corners in and forwards, and the shut lips swell.
    pucker = lips(
        lambda u, v: (-5.5 * u, 1.5 * full(u) * (1 - v), 8.0 + 1.5 * abs(u)),
        lambda u, v: (-5.5 * u, -2.0 * full(u) * (1 - v), 8.0 + 1.5 * abs(u)),
    )
    around_pucker = draw.both_sides(
        {
            P.CORNER_ABOVE: (-4.0, 1.0, 7.0),
            P.FOLD_LOWER: (-3.0, 1.0, 4.0),
            P.CORNER_BELOW: (-4.0, 1.0, 7.0),
            P.FOLD: (-2.3, 0.5, 4.5),
            P.LIP_ABOVE: (-2.5, 0.5, 6.0),
            P.CHIN_SIDE: (-1.5, 1.0, 3.0),
            P.JAW: (-1.5, 1.2, 2.5),
            P.CHEEK_HOLLOW: (-2.0, 0.3, 1.5),
            P.JAW_ANGLE_FRONT: (-1.0, 0.0, 1.5),
        }
    )
    around_pucker |= {P.PHILTRUM: (0, 0.8, 4.5), P.CHIN: (0, 0.3, 1.2)}
    around_pucker |= at((P.LIP_BELOW,), 0, -1.0, 4.5) | draw.both_sides(
        {P.LIP_BELOW_LEFT: (-1.0, -0.8, 5.0)}
    )
    # An "o": lips part and stand out like a funnel, the lower one curling down over the chin.
    funnel = lips(
        lambda u, v: (-3.2 * u, 4.5 * bell(u, 0, 0.4) - 1.5 * abs(u), 7.5 + 0.5 * abs(u)),
        lambda u, v: (-3.2 * u, -2.2 - 7.0 * bell(u, 0, 0.45), 3.5 + 2 * v + (4 - 2 * v) * abs(u)),
    )
    around_funnel = draw.both_sides(
        {
            P.CORNER_ABOVE: (-3.0, 0.5, 5.5),
            P.FOLD_LOWER: (-2.5, 1.0, 3.0),
            P.CORNER_BELOW: (-2.5, -1.0, 5.0),
            P.FOLD: (-1.8, 0.5, 3.5),
            P.LIP_ABOVE: (-1.7, 1.0, 4.5),
            P.CHEEK_HOLLOW: (-1.8, 0.5, 1.2),
            P.JAW: (-0.5, -0.5, 1.5),
            P.CHIN_SIDE: (-0.3, -2.2, 0.8),
        }
    )
    around_funnel |= {
        P.PHILTRUM: (0, 2.0, 3.2),
        P.LIP_BELOW: (0, -6.0, 1.0),
        P.CHIN: (0, -3.5, -1.0),
    }
    around_funnel |= draw.both_sides({P.LIP_BELOW_LEFT: (-0.2, -5.5, 1.8)})
    around = [*_AROUND, *_NOSTRILS]
    return {
        "mouthPucker": draw.field(pucker | around_pucker, around),
        "mouthFunnel": draw.field(funnel | around_funnel, around),
    }


def _sideways(draw: Drawing) -> dict[str, Tensor]:
    # The corner that leads runs into the cheek, rises and goes least; the other is drawn far, around
    # the curve of the teeth. Chin and nose are dragged along.
    def slide(u: float, v: float) -> Move:
        lead, trail = max(u, 0.0), max(-u, 0.0)
        return (15.0 - 8.5 * lead, 1.0 + 4.5 * lead - 1.5 * trail, -2.5 + 10.0 * trail**1.5)

    beside = {
        P.LIP_BELOW: (12.0, 1.0, -3.0),
        P.CHIN_BOSS: (8.5, 1.0, -2.0),
        P.CHIN: (6.5, 0.8, -1.0),
        P.CHIN_TIP: (2.5, 0.0, 0.5),
        P.PHILTRUM: (10.0, 1.0, -1.0),
        P.NOSE_TIP: (3.0, 0.5, 0.0),
        P.NOSE_WING: (3.0, 2.5, -1.0),
        P.NOSE_WING_RIGHT: (3.5, 0.0, 1.0),
        P.CORNER_ABOVE: (4.5, 5.5, -2.0),
        P.FOLD_LOWER: (3.0, 4.5, -0.5),
        P.CORNER_BELOW: (5.5, 4.5, -3.0),
        P.FOLD: (4.0, 4.0, -1.5),
        P.CHEEK_HOLLOW: (2.5, 2.5, 2.0),
        P.CHEEK_MIDDLE: (2.0, 2.5, 1.5),
        P.CORNER_ABOVE_RIGHT: (12.0, -1.0, 7.0),
        P.FOLD_LOWER_RIGHT: (7.5, -1.0, 5.0),
        P.CORNER_BELOW_RIGHT: (12.0, -1.0, 5.5),
        P.FOLD_RIGHT: (8.0, -1.0, 3.5),
        P.CHEEK_HOLLOW_RIGHT: (3.5, -0.8, 2.0),
        P.CHEEK_MIDDLE_RIGHT: (3.5, -0.8, 1.5),
        P.JAW: (1.5, 1.5, -0.5),
        P.JAW_RIGHT: (3.0, -0.5, 2.0),
        P.JAW_BACK: (1.0, 1.2, 0.0),
        P.JAW_BACK_RIGHT: (2.0, -0.5, 1.2),
    }
    return {
        "mouthLeft": draw.field(
            lips(slide, slide) | beside, [*UPPER_FACE, *_SIDE, P.NOSE_BRIDGE, P.NOSE_RIDGE]
        )
    }


def _corner_shapes(draw: Drawing) -> dict[str, Tensor]:
    """Muscles that pull one corner: the lip between it and the middle goes along."""

    def pulled(corner: Move, middle_up: float = 0.0) -> Handles:
        x, y, z = corner

        def lip(u: float, v: float) -> Move:
            w = max(u, 0.0)
            # Sideways the lip stretches evenly; up and down it bends near the corner.
            return (x * w**0.6, y * w**1.2 + middle_up * left_half(u) * 2 * (1 - w), z * w**0.75)

        # The knot of muscles beside the corner moves with it as one.
        return lips(lip, lip) | at((P.CORNER_UNDER, P.CORNER_ABOVE), *corner)

    smile = pulled((7.0, 10.0, -7.0), middle_up=1.5)
    smile |= {
        P.CORNER_BESIDE: (6.3, 9.2, -4.5),
        P.FOLD_LOWER: (5.8, 8.2, -3.0),
        P.CORNER_BELOW: (5.0, 9.0, -4.5),
        P.FOLD: (5.0, 6.5, -2.5),
        P.LIP_ABOVE: (4.5, 5.5, -3.5),
        P.CHEEK_MIDDLE: (4.5, 5.5, 0.5),
        P.CHEEK_LOW: (5.5, 5.0, 1.0),
        P.CHEEK_LOW_SIDE: (5.0, 4.5, 1.5),
        P.CHEEK_HOLLOW: (4.5, 4.5, 1.5),
        P.CHEEK_APPLE: (2.5, 3.5, 2.0),
        P.CHEEK_TOP: (1.0, 2.0, 1.2),
        P.CHEEK_TOP_INNER: (1.5, 3.0, 1.5),
        P.CHEEKBONE: (1.5, 2.0, 1.2),
        P.UNDER_LID: (0.4, 1.0, 0.5),
        P.CHIN_SIDE: (2.0, 5.0, -1.0),
        P.CHIN_BOSS_LEFT: (1.5, 4.0, -1.0),
        P.JAW: (1.0, 4.0, 0.8),
        P.JAW_ANGLE_FRONT: (1.5, 2.5, 1.0),
        P.NOSE_WING: (0.8, 0.8, -0.3),
        P.PHILTRUM: (0.0, 0.8, -0.8),
        P.LIP_BELOW: (0.0, 1.5, 0.0),
        P.CHIN: (0.0, 1.3, 0.5),
    }
    frown = pulled((1.8, -5.0, -2.0))
    frown |= {
        P.FOLD_LOWER: (0.6, -3.2, -1.5),
        P.CORNER_BELOW: (1.5, -4.0, -0.8),
        P.FOLD: (0.3, -2.5, -1.8),
        P.LIP_ABOVE: (0.3, -2.0, -1.6),
        P.CHEEK_HOLLOW: (0.0, -1.0, 0.0),
        P.CHIN_SIDE: (0.4, -1.2, 1.0),
        P.CHIN_BOSS_LEFT: (0.5, -1.2, 1.0),
        P.JAW: (0.0, -0.8, 0.5),
    }
    # The cheek muscle sucks the corner against the teeth; the skin beside it bulges.
    dimple = pulled((2.5, 2.5, -5.5))
    dimple |= {
        P.CORNER_BELOW: (1.3, 4.5, -3.5),
        P.CORNER_BESIDE: (0.5, 3.0, -0.8),
        P.FOLD_LOWER: (0.8, 1.0, -0.3),
        P.CHEEK_HOLLOW: (2.0, 0.0, 2.5),
        P.CHEEK_LOW: (2.2, 0.0, 2.5),
        P.CHEEK_MIDDLE: (1.5, 0.3, 1.8),
        P.CHEEK_APPLE: (0.5, 0.5, 1.0),
        P.FOLD: (1.8, 0.3, 0.5),
        P.LIP_ABOVE: (1.5, 0.1, 0.0),
        P.CHIN_SIDE: (1.8, 3.2, -0.8),
        P.CHIN_BOSS_LEFT: (1.5, 2.5, -0.8),
        P.JAW: (0.0, 1.5, 0.5),
        P.JAW_ANGLE_FRONT: (0.0, 0.5, 0.6),
    }
    stretch = pulled((6.5, -1.9, -6.0))
    stretch |= {
        P.CORNER_BESIDE: (4.5, -0.8, -2.5),
        P.FOLD_LOWER: (3.8, -0.8, -2.0),
        P.CORNER_BELOW: (5.0, -1.0, -5.0),
        P.FOLD: (2.8, -0.8, -2.0),
        P.LIP_ABOVE: (2.8, -0.8, -2.0),
        P.CHEEK_HOLLOW: (2.0, 0.0, 0.5),
        P.CHIN_SIDE: (2.5, 0.5, -1.5),
        P.CHIN_BOSS_LEFT: (2.0, 0.3, -1.0),
        P.JAW: (2.2, 0.2, -0.5),
        P.JAW_ANGLE_FRONT: (1.6, 0.2, 0.0),
    }
    around = [
        *UPPER_FACE,
        *_NOSE,
        "nostril_right",
        P.CHEEK_MIDDLE_RIGHT,
        P.CHEEK_APPLE_RIGHT,
        P.CHEEK_HOLLOW_RIGHT,
        P.CHIN_TIP,
        P.JAW_JOINT_RIGHT,
    ]
    return {
        "mouthSmileLeft": draw.field(smile, [*around, P.JAW_JOINT]),
        "mouthFrownLeft": draw.field(frown, [*around, *_NOSTRILS, P.CHIN, *_SIDE]),
        "mouthDimpleLeft": draw.field(dimple, [*around, *_NOSTRILS, P.CHIN, *_SIDE]),
        "mouthStretchLeft": draw.field(stretch, [*around, *_NOSTRILS, P.JAW_JOINT]),
    }
