"""The project's own 52 ARKit shapes on the face lattice, from named regions and directions.

Each shape prescribes how a few named places move (millimetres at coefficient 1 on a face with an
iris of 11.7 mm) and which places hold still; ``smooth_field`` spreads that over the skin. Lips are
addressed by their columns (across the mouth) and rows (outer contour to inner), so that rolling,
pressing and funnelling are formulas in those two. What each name must do is Apple's documentation of
``ARFaceAnchor.BlendShapeLocation``; sizes are those of ordinary adult motion. The shapes are a prior:
the tracker personalises them on the clip. ``tongueOut`` is zero: no point of the lattice lies on the
tongue.

Left shapes are drawn; right shapes are their mirror images, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    UPPER_LIP_COLUMNS,
    eyeball_centres,
    lattice_table,
)
from avatar.rig.smooth_field import smooth_field

JAW_OPEN_RAD = math.radians(15.0)
"""Turn of the jaw at jawOpen 1: lips part by about 3 cm, as a wide-open mouth does in conversation."""
HINGE_MM = (0.0, -8.0, -18.0)
"""Jaw joint from the lattice's ear points, which lie on the cheek's edge before the ear."""
CONDYLE_MM = 4.0
"""How far the joint itself slides forward in opening wide."""
GAZE_SIDE_RAD = math.radians(30.0)
"""Turn of an eye at eyeLookIn or eyeLookOut 1."""
GAZE_UP_RAD = math.radians(25.0)
"""Turn of an eye at eyeLookUp or eyeLookDown 1."""

Handles = dict[int, tuple[float, float, float]]
"""Point to displacement in millimetres."""

# The skin just above the upper lid, outer corner to inner: it folds as the lid comes down.
_ABOVE_LID_LEFT = (467, 260, 259, 257, 258, 286, 414)
_STILL_EYES = ("lid_left_upper", "lid_left_lower", "lid_right_upper", "lid_right_lower",
               "eye_corners_left", "eye_corners_right")  # fmt: skip
_STILL_UPPER = (*_STILL_EYES, "brow_left", "brow_right", "forehead", "nose_bridge", "nose_tip")


def _across(column: int) -> float:
    """Place of a lip column: -1 at the right corner, 0 in the middle, 1 at the left corner."""
    return column / 5 - 1


def _lip(
    upper: Callable[[float, float], tuple[float, float, float]] | None,
    lower: Callable[[float, float], tuple[float, float, float]] | None,
) -> Handles:
    """Move the lips by formulas of (across in [-1, 1], row in [0, 1]: outer contour to inner)."""
    handles: Handles = {}
    for columns, formula in ((UPPER_LIP_COLUMNS, upper), (LOWER_LIP_COLUMNS, lower)):
        if formula is not None:
            for k, column in enumerate(columns):
                for row, point in enumerate(column):
                    value = formula(_across(k), row / 3)
                    before = handles.get(point)
                    if before is not None:  # a corner, shared by both lips
                        a, b, c = (0.5 * (x + y) for x, y in zip(before, value, strict=True))
                        value = (a, b, c)
                    handles[point] = value
    return handles


def _at(points: Iterable[int], x: float, y: float, z: float) -> Handles:
    return {point: (x, y, z) for point in points}


def _side(u: float, left: bool = True, soft: float = 0.35) -> float:
    """Smooth step over the mouth's middle: 1 on the named side, 0 on the other."""
    s = (u if left else -u) / soft
    s = min(max(0.5 * (s + 1), 0.0), 1.0)
    return s * s * (3 - 2 * s)


def _bell(u: float, centre: float, width: float) -> float:
    return math.exp(-(((u - centre) / width) ** 2))


class _Drawing:
    """Draws shapes on one neutral lattice."""

    def __init__(self, neutral: Tensor) -> None:
        self.table = lattice_table()
        self.neutral = neutral.double()
        # Sizes are for the generic face: on another lattice they scale with its own size.
        generic = self.table.neutral.double()
        self.unit = 1e-3 * float(
            (self.neutral[33] - self.neutral[263]).norm() / (generic[33] - generic[263]).norm()
        )
        self.eyeballs = eyeball_centres(self.neutral)

    def field(
        self, handles: Handles, still: Iterable[str | int] = (), decay: float = 0.05
    ) -> Tensor:
        """Spread handles over the skin; regions and points of ``still`` do not move: [478, 3] metres."""
        every: Handles = {}
        for item in still:
            for point in REGIONS[item] if isinstance(item, str) else (item,):
                every[point] = (0.0, 0.0, 0.0)
        every.update(handles)
        points = sorted(p for p in every if p < SKIN_POINTS)
        values = torch.tensor([every[p] for p in points], dtype=torch.float64) * self.unit
        return smooth_field(
            self.neutral, self.table.triangles, torch.tensor(points), values, decay=decay
        )

    def mirrored(self, shape: Tensor) -> Tensor:
        """Mirror a field in the plane x = 0."""
        return shape[self.table.partner] * shape.new_tensor([-1.0, 1.0, 1.0])

    def jaw_weight(self) -> Tensor:
        """How far each point follows the jaw bone [478]: 1 on chin and lower lip, 0 on the skull."""
        ones = _at(REGIONS["chin"], 1, 0, 0)
        for k, column in enumerate(LOWER_LIP_COLUMNS[1:-1], start=1):
            follow = 1 - 0.30 * abs(_across(k)) ** 3
            ones.update(_at(column, follow, 0, 0))
        ones.update(_at((*REGIONS["lip_corner_left"], *REGIONS["lip_corner_right"]), 0.45, 0, 0))
        for left, weight in (
            (379, 1.0),
            (378, 1.0),
            (400, 1.0),
            (365, 0.9),
            (397, 0.7),
            (288, 0.35),
        ):
            right = int(self.table.partner[left])
            ones.update(_at((left, right), weight, 0, 0))
        still = [*_STILL_UPPER, "nostril_left", "nostril_right", 454, 234, 323, 93, 127, 356]
        for column in UPPER_LIP_COLUMNS[2:-2]:
            still.extend(column)
        still.extend((280, 50, 352, 123, 330, 101, 266, 36, 425, 205, 423, 203, 426, 206))
        return (self.field(ones, still)[:, 0] / self.unit).clamp(0, 1)

    def jaw(self, turn: float, forward_mm: float = 0.0, left_rad: float = 0.0) -> Tensor:
        """Move the jaw bone: turn it open about the hinge at the ears, slide it, swing it sideways."""
        ears = self.neutral[[454, 234]].mean(0)
        hinge = ears + self.neutral.new_tensor(HINGE_MM) * self.unit
        arm = self.neutral - hinge
        c, s = math.cos(turn), math.sin(turn)
        opening = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
        c, s = math.cos(left_rad), math.sin(left_rad)
        swing = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
        moved = arm @ (swing @ opening).T
        moved[:, 2] += forward_mm * self.unit
        return (moved - arm) * self.jaw_weight()[:, None]

    def blink(self) -> Tensor:
        """Shut the left lids: the upper one comes down 90 % of the gap around the eyeball."""
        upper, lower = REGIONS["lid_left_upper"], REGIONS["lid_left_lower"]
        handles: Handles = {}
        for top, bottom in zip(upper, lower, strict=True):
            gap = (self.neutral[bottom] - self.neutral[top]) / self.unit
            down = gap * 0.9
            up = -gap * 0.1
            handles[top] = tuple(down.tolist())  # type: ignore[assignment]
            handles[bottom] = tuple(up.tolist())  # type: ignore[assignment]
        for point, top in zip(_ABOVE_LID_LEFT, upper, strict=True):
            x, y, z = handles[top]
            handles[point] = (0.35 * x, 0.35 * y, 0.35 * z)
        still = ["brow_left", "eye_corners_left", "nose_bridge", 280, 347, 330, 346, 450, 449, 451]
        return self.field(handles, still)

    def lids(self, upper_mm: float, lower_mm: float, turn_rad: float = 0.0) -> Tensor:
        """Raise the left upper and lower lid (most in the middle), and turn the tissue with the eye."""
        handles: Handles = {}
        for chain, lift in (
            (REGIONS["lid_left_upper"], upper_mm),
            (REGIONS["lid_left_lower"], lower_mm),
        ):
            for k, point in enumerate(chain):
                bell = math.sin(math.pi * (k + 1) / 8) ** 0.7
                handles[point] = (4.0 * turn_rad * bell, lift * bell, 0.0)
        for k, point in enumerate(_ABOVE_LID_LEFT):
            handles[point] = (0.0, 0.4 * upper_mm * math.sin(math.pi * (k + 1) / 8), 0.0)
        still = ["brow_left", "eye_corners_left", "nose_bridge", 280, 347, 330, 346]
        return self.field(handles, still)

    def look(self, yaw: float, pitch: float) -> Tensor:
        """Turn the left iris about its eyeball (rad, to the left and up), by the chord of the arc."""
        shape = torch.zeros(POINTS, 3, dtype=torch.float64)
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
        about_x = torch.tensor([[1, 0, 0], [0, cp, sp], [0, -sp, cp]], dtype=torch.float64)
        iris = list(REGIONS["iris_left"])
        arm = self.neutral[iris] - self.eyeballs[0]
        shape[iris] = arm @ (about_y @ about_x).T - arm
        return shape


def _jaw_shapes(draw: _Drawing) -> dict[str, Tensor]:
    jaw_open = draw.jaw(JAW_OPEN_RAD, forward_mm=CONDYLE_MM)
    # mouthClose brings the lips together again while the jaw stays open.
    closing: Handles = {}
    for k in range(1, len(UPPER_LIP_COLUMNS) - 1):
        upper, lower = UPPER_LIP_COLUMNS[k], LOWER_LIP_COLUMNS[k]
        gap = (jaw_open[lower[-1]] - jaw_open[upper[-1]]) / draw.unit
        share = 0.75  # the lower lip has the longer way
        for top, bottom in zip(upper, lower, strict=True):
            closing[top] = tuple(((1 - share) * gap).tolist())  # type: ignore[assignment]
            closing[bottom] = tuple((-share * gap).tolist())  # type: ignore[assignment]
    still = [*_STILL_UPPER, "face_oval", 280, 50, 352, 123, 152, 175, 199, 396, 171]
    return {
        "jawOpen": jaw_open,
        "jawForward": draw.jaw(0.0, forward_mm=7.0),
        "jawLeft": draw.jaw(0.0, left_rad=math.radians(5.0)),
        "mouthClose": draw.field(closing, still),
    }


def _mouth_shapes(draw: _Drawing) -> dict[str, Tensor]:
    around = [*_STILL_UPPER, "jaw_line", 454, 234, 352, 123]
    both_nostrils = ["nostril_left", "nostril_right"]

    def corners(u: float) -> float:
        return abs(u) ** 1.5

    def full(u: float) -> float:
        return 1 - u * u

    # A kiss: the corners come in, the lips swell forwards and away from their seam.
    pucker = _lip(
        lambda u, v: (-9.0 * u * abs(u) ** 0.2, 1.5 * full(u) * (1 - v), 3 + 5.0 * full(u)),
        lambda u, v: (-9.0 * u * abs(u) ** 0.2, -1.5 * full(u) * (1 - v), 3 + 5.0 * full(u)),
    )
    funnel = _lip(
        lambda u, v: (-6.5 * u, 3.0 * full(u) + 1.0 * full(u) * v, 2.0 + (5.0 - 1.5 * v) * full(u)),
        lambda u, v: (
            -6.5 * u,
            -4.0 * full(u) - 1.5 * full(u) * v,
            2.0 + (5.0 - 1.5 * v) * full(u),
        ),
    )
    # The corner that leads meets the cheek and goes least, the other one follows far.
    sideways = _lip(
        lambda u, v: (9.0 - 2.5 * u, 0.6 * u, 1.5 * full(u) - 1.5 * u),
        lambda u, v: (8.0 - 2.5 * u, 0.6 * u, 1.5 * full(u) - 1.5 * u),
    )

    def smile(u: float, v: float) -> tuple[float, float, float]:
        w = max(u, 0.0) ** 1.3
        return (8.0 * w, 8.0 * w - 0.8 * _bell(u, 0.35, 0.3), -5.0 * w - 0.8 * _bell(u, 0.4, 0.3))

    smile_left = {
        **_lip(smile, smile),
        **_at((287, 432, 436), 6.0, 6.5, -2.5),
        **_at((426, 427, 425), 3.0, 5.0, 1.5),
        **_at((280, 411), 2.0, 3.0, 1.5),
        347: (0.5, 1.2, 0.3),
        330: (0.5, 1.5, 0.6),
    }

    def frown(u: float, v: float) -> tuple[float, float, float]:
        w = max(u, 0.0) ** 1.5
        return (1.5 * w, -8.0 * w, -1.0 * w)

    def dimple(u: float, v: float) -> tuple[float, float, float]:
        w = max(u, 0.0) ** 1.5
        return (5.0 * w, 1.0 * w, -5.0 * w)

    def stretch(u: float, v: float) -> tuple[float, float, float]:
        w = max(u, 0.0) ** 1.2
        return (7.0 * w, -4.5 * w, -4.0 * w)

    roll_lower = _lip(None, lambda u, v: (0, full(u) * (4.5 - 2.0 * v), -full(u) * (1.0 + 4.5 * v)))
    roll_upper = _lip(
        lambda u, v: (0, -full(u) * (4.0 - 2.0 * v), -full(u) * (1.0 + 4.5 * v)), None
    )
    shrug_lower = {
        **_lip(None, lambda u, v: (0, 5.0 * full(u) ** 0.7, full(u) * (2.5 + 1.0 * v))),
        **_lip(lambda u, v: (0, full(u) * (1.5 + 1.5 * v), full(u) * 1.0 * v), None),
    }
    for column in LOWER_LIP_COLUMNS[1:-1]:  # _lip wrote the shared corners from the upper lip
        for point in column:
            shrug_lower.setdefault(point, (0, 0, 0))
    chin_up = {200: (0.0, 4.0, 1.5), 199: (0.0, 2.5, 1.0), 18: (0.0, 5.0, 1.0)}
    chin_up.update({p: (0.0, 4.0, 1.0) for p in (421, 201, 313, 83)})
    shrug_upper = _lip(
        lambda u, v: (0, 4.5 * full(u) ** 0.7, full(u) * (2.0 + 1.0 * v)),
        None,
    )

    def press_upper(u: float, v: float) -> tuple[float, float, float]:
        w = _side(u) * (1 - 0.6 * abs(u) ** 3)
        return (0.8 * w * u, -1.8 * w * (1 - v), -w * (0.8 + 1.0 * v))

    def press_lower(u: float, v: float) -> tuple[float, float, float]:
        w = _side(u) * (1 - 0.6 * abs(u) ** 3)
        return (0.8 * w * u, 2.2 * w * (1 - v) + 0.6 * w * v, -w * (0.8 + 1.0 * v))

    def lower_down(u: float, v: float) -> tuple[float, float, float]:
        w = _bell(u, 0.35, 0.45) * full(u) ** 0.4
        return (1.2 * w, -7.0 * w, w * (-0.5 + 1.0 * v))

    def upper_up(u: float, v: float) -> tuple[float, float, float]:
        w = _bell(u, 0.35, 0.45) * full(u) ** 0.4
        return (0.6 * w, 6.5 * w, w * (0.3 + 0.6 * v))

    lower_lip = [p for c in LOWER_LIP_COLUMNS[1:-1] for p in c]
    upper_lip = [p for c in UPPER_LIP_COLUMNS[1:-1] for p in c]
    corner_points = [*REGIONS["lip_corner_left"], *REGIONS["lip_corner_right"]]
    beside_nose = {
        327: (0.3, 1.2, 0.4),
        278: (0.6, 1.4, 0.0),
        294: (0.6, 1.5, 0.0),
        423: (0.8, 3.0, 1.0),
    }
    return {
        "mouthPucker": draw.field(pucker, around + both_nostrils),
        "mouthFunnel": draw.field(funnel, around + both_nostrils),
        "mouthLeft": draw.field(
            {**sideways, 18: (5.0, 0, 0), 200: (2.5, 0, 0), 164: (4.0, 0, 0)},
            around + both_nostrils,
        ),
        "mouthSmileLeft": draw.field(smile_left, [*around, "nostril_right", 4, 50, 205]),
        "mouthFrownLeft": draw.field(
            {**_lip(frown, frown), 422: (1.0, -5.0, 0), 273: (1.0, -6.5, 0), 287: (1.0, -6.5, 0)},
            around + both_nostrils,
        ),
        "mouthDimpleLeft": draw.field(
            {**_lip(dimple, dimple), 287: (3.5, 0.8, -2.5)}, around + both_nostrils
        ),
        "mouthStretchLeft": draw.field(
            {**_lip(stretch, stretch), 287: (6.0, -3.5, -2.5), 422: (5.0, -4.5, -2.0)},
            [*_STILL_UPPER, *both_nostrils, 454, 234, 152, 352, 123],
        ),
        "mouthRollLower": draw.field(
            {**roll_lower, 18: (0, 2.0, 0.0)}, [*around, *both_nostrils, *upper_lip, *corner_points]
        ),
        "mouthRollUpper": draw.field(
            {**roll_upper, 164: (0, -1.2, 0.0)},
            [*around, *both_nostrils, *lower_lip, *corner_points],
        ),
        "mouthShrugLower": draw.field({**shrug_lower, **chin_up}, around + both_nostrils),
        "mouthShrugUpper": draw.field(
            {**shrug_upper, 164: (0, 2.2, 0.5)},
            [*around, *both_nostrils, *lower_lip, *corner_points],
        ),
        "mouthPressLeft": draw.field(
            {**_lip(press_upper, press_lower), 287: (0.8, 0.2, -0.5)}, around + both_nostrils
        ),
        "mouthLowerDownLeft": draw.field(
            {**_lip(None, lower_down), 421: (0.5, -2.5, 0), 418: (0.6, -3.5, 0)},
            [*around, *both_nostrils, *upper_lip, *corner_points],
        ),
        "mouthUpperUpLeft": draw.field(
            {**_lip(upper_up, None), **beside_nose, 391: (0.4, 3.5, 0.5), 322: (0.6, 4.0, 0.8)},
            [*around, "nostril_right", *lower_lip, *corner_points],
        ),
    }


def _upper_face_shapes(draw: _Drawing) -> dict[str, Tensor]:
    eyes = list(_STILL_EYES)
    below = [280, 50, 330, 101, 4, 1, 5, 195, 61, 291]
    forehead_top = [10, 338, 297, 332, 284, 109, 67, 103, 54, 251, 21, 356, 127]
    brow_down: Handles = {
        **_at((285, 336), -2.5, -6.0, 1.0), **_at((295, 296), -2.0, -5.5, 0.8),
        **_at((282, 334), -1.5, -4.5, 0.4), **_at((283, 293), -0.8, -2.8, 0.0),
        **_at((276, 300), 0.0, -1.2, 0.0), 8: (-0.4, -2.5, 0.8), 9: (-0.4, -2.5, 0.5),
        413: (-0.3, -1.2, 0.4), **_at((55, 107), -0.2, -0.8, 0.2),
    }  # fmt: skip
    inner_up = {
        **_at((285, 336), 0.4, 8.0, 0.5), **_at((295, 296), 0.4, 6.0, 0.3),
        **_at((282, 334), 0.2, 3.0, 0.0), **_at((283, 293), 0.0, 1.0, 0.0),
        **_at((276, 300), 0.0, 0.0, 0.0), **_at((337,), 0.2, 4.0, 0.0), **_at((299,), 0.2, 2.5, 0.0),
    }  # fmt: skip
    inner_up.update(
        {int(draw.table.partner[p]): (-x, y, z) for p, (x, y, z) in list(inner_up.items())}
    )
    inner_up.update({9: (0.0, 6.5, 0.3), 151: (0.0, 3.0, 0.0), 8: (0.0, 3.0, 0.2)})
    outer_up = {
        **_at((276, 300), 0.5, 7.0, -0.5), **_at((283, 293), 0.4, 7.5, 0.0),
        **_at((282, 334), 0.2, 5.0, 0.0), **_at((295, 296), 0.0, 2.0, 0.0),
        **_at((285, 336), 0.0, 0.0, 0.0), **_at((333, 298), 0.2, 3.5, 0.0), 301: (0.2, 3.0, -0.5),
    }  # fmt: skip
    puff: Handles = {
        **_at((427, 411), 5.0, 0.0, 8.0), **_at((434, 416), 6.0, -0.5, 5.0), **_at((436, 432), 3.5, 0, 6.0),
        425: (3.5, 1.0, 6.0), 426: (2.0, 0.5, 4.0), 422: (3.0, -1.0, 4.5), 430: (4.0, -1.5, 4.0),
        376: (5.5, 0.5, 5.0), 352: (4.0, 0.5, 3.0), 280: (2.5, 0.8, 3.5),
    }  # fmt: skip
    puff.update({int(draw.table.partner[p]): (-x, y, z) for p, (x, y, z) in list(puff.items())})
    puff.update(_lip(lambda u, v: (-0.8 * u, 0.6, 1.8), lambda u, v: (-0.8 * u, -0.6, 1.8)))
    cheek_squint = {
        **_at((280, 330, 347, 346), 0.8, 4.5, 1.5), **_at((425, 266), 0.6, 3.5, 1.5),
        352: (0.8, 2.5, 0.8), 348: (0.2, 3.0, 0.5), 340: (0.6, 3.0, 0.3),
        **_at((450, 449, 448), 0.3, 2.5, 0.4), **_at((374, 380, 373), 0.0, 1.2, 0.0),
        **_at((390, 381), 0.0, 0.7, 0.0), **_at((411, 426), 0.5, 2.0, 1.0),
    }  # fmt: skip
    sneer = {
        **_at((294, 278, 279, 358), 0.8, 4.0, -0.8), **_at((327, 331), 0.5, 2.5, -0.3),
        **_at((360, 420, 429), 0.4, 4.0, 0.5), **_at((437, 399, 456, 363), 0.2, 2.5, 0.8),
        423: (0.5, 4.0, 0.8), 391: (0.3, 2.5, 0.3), 322: (0.3, 2.8, 0.3), 371: (0.4, 3.5, 0.8),
        **_at((267, 269), 0.1, 1.6, 0.2), **_at((302, 303, 268, 271, 312, 311), 0.1, 1.2, 0.1),
        # The nose wrinkles from above too: procerus draws the brow's head down.
        417: (-0.4, -1.2, 0.4), 285: (-0.8, -3.0, 0.5), 336: (-0.7, -2.5, 0.4),
        295: (-0.5, -1.6, 0.3), 8: (-0.3, -1.8, 0.5), 9: (-0.2, -1.2, 0.3),
    }  # fmt: skip
    lower_lip = [p for c in LOWER_LIP_COLUMNS for p in c]
    squint = draw.lids(-1.2, 2.6) + draw.field(
        {**_at((280, 347, 346, 330), 0.2, 1.2, 0.4), **_at((450, 449, 451), 0.0, 1.8, 0.3)},
        [*_STILL_EYES, "brow_left", 411, 425, 352, 4],
    )
    yaw, pitch = GAZE_SIDE_RAD, GAZE_UP_RAD
    return {
        "browDownLeft": draw.field(brow_down, [*eyes, *below, *forehead_top]),
        "browInnerUp": draw.field(inner_up, [*eyes, *below, *forehead_top]),
        "browOuterUpLeft": draw.field(outer_up, [*eyes, *below, *forehead_top, 9, 8, 55, 107]),
        "cheekPuff": draw.field(
            puff, [*_STILL_UPPER, 454, 234, 152, "nostril_left", "nostril_right"]
        ),
        "cheekSquintLeft": draw.field(
            cheek_squint, [*_STILL_UPPER[6:], "lid_left_upper", "eye_corners_left", 291, 454, 323]
        ),
        "noseSneerLeft": draw.field(
            sneer, [*eyes, *lower_lip, "nostril_right", 2, 6, 280, 61, 291, 10, 338, 109, 151]
        ),
        "eyeBlinkLeft": draw.blink(),
        "eyeSquintLeft": squint,
        "eyeWideLeft": draw.lids(2.8, -0.5),
        # The lids follow the eye: the upper one nearly as far as the iris, the lower one less.
        "eyeLookUpLeft": draw.look(0.0, pitch) + draw.lids(2.2, 0.6),
        "eyeLookDownLeft": draw.look(0.0, -pitch) + draw.lids(-3.6, -1.2),
        "eyeLookOutLeft": draw.look(yaw, 0.0) + draw.lids(0.0, 0.0, 0.12),
        "eyeLookInLeft": draw.look(-yaw, 0.0) + draw.lids(0.0, 0.0, -0.12),
    }


def arkit_basis(neutral: Tensor) -> Tensor:
    """Draw the 52 shapes on a neutral lattice.

    Args:
        neutral: [478, 3] metres, head frame.

    Returns:
        [52, 478, 3] displacements in metres at coefficient 1, in ``ARKIT_NAMES`` order, in the dtype
        of ``neutral``. On a symmetric lattice Left and Right shapes are exact mirror images.
    """
    draw = _Drawing(neutral)
    shapes = {**_jaw_shapes(draw), **_mouth_shapes(draw), **_upper_face_shapes(draw)}
    basis = torch.zeros(len(ARKIT_NAMES), POINTS, 3, dtype=torch.float64)
    for name, shape in shapes.items():
        basis[ARKIT_INDEX[name]] = shape
        if name.endswith("Left"):
            basis[ARKIT_INDEX[name[:-4] + "Right"]] = draw.mirrored(shape)
        else:  # shapes of the middle line must not prefer a side
            basis[ARKIT_INDEX[name]] = 0.5 * (shape + draw.mirrored(shape))
    return basis.to(neutral.dtype)


@cache
def generic_arkit_basis() -> Tensor:
    """Return the shapes [52, 478, 3] on the generic neutral lattice (drawn once; do not change it)."""
    return arkit_basis(lattice_table().neutral)
