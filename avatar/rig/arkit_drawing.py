"""Tools that draw ARKit shapes on a neutral lattice: handles, lips by formula, jaw, lids, gaze.

All sizes here are millimetres at coefficient 1 on the generic face; ``Drawing`` scales them to the
face at hand. x is to the subject's left, y up, z out of the face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from avatar.rig.arkit_places import Place as P
from avatar.rig.lattice import (
    LOWER_LIP_COLUMNS,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    UPPER_LIP_COLUMNS,
    eyeball_centres,
    lattice_table,
)
from avatar.rig.smooth_field import graph_laplacian

HINGE_MM = (0.0, -8.0, -18.0)
"""Axis of the opening jaw from the lattice's ear points, which lie on the cheek's edge before the ear.
It is the axis about which the chin turns in effect, the sliding of the joint included."""

DECAY = 0.05
"""How fast a field fades far from its handles, per edge of the lattice."""

LID_RADIUS_MM = 13.0
"""Lids slide on a sphere of this radius: an eyeball of 12 mm and the lid's own thickness."""

Move = tuple[float, float, float]
"""Displacement in millimetres."""
Handles = dict[int, Move]
"""Point to displacement."""
LipFormula = Callable[[float, float], Move]
"""(across in [-1, 1]: right corner to left; row in [0, 1]: outer contour to inner) to displacement."""

LOWER_LIP = tuple(point for column in LOWER_LIP_COLUMNS[1:-1] for point in column)
UPPER_LIP = tuple(point for column in UPPER_LIP_COLUMNS[1:-1] for point in column)
LIP_CORNERS = (*REGIONS["lip_corner_left"], *REGIONS["lip_corner_right"])

EYES = ("lid_left_upper", "lid_left_lower", "lid_right_upper", "lid_right_lower",
        "eye_corners_left", "eye_corners_right")  # fmt: skip
SKULL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 109, 67, 103, 54, 21, 162, 127, 234)
"""Upper half of the face's contour: skin that lies tight on the skull."""
UPPER_FACE = (*EYES, "brow_left", "brow_right", "forehead", *SKULL)

# The skin just above the upper lid, outer corner to inner: it folds as the lid comes down.
_ABOVE_LID_LEFT = (467, 260, 259, 257, 258, 286, 414)


def at(points: Iterable[int], x: float, y: float, z: float) -> Handles:
    """Move some points alike."""
    return {point: (x, y, z) for point in points}


def lips(upper: LipFormula | None, lower: LipFormula | None) -> Handles:
    """Move the lips by formulas; a corner, which both share, takes their mean."""
    handles: Handles = {}
    for columns, formula in ((UPPER_LIP_COLUMNS, upper), (LOWER_LIP_COLUMNS, lower)):
        if formula is None:
            continue
        for k, column in enumerate(columns):
            for row, point in enumerate(column):
                value = formula(k / 5 - 1, row / 3)
                before = handles.get(point)
                if before is not None:
                    a, b, c = (0.5 * (x + y) for x, y in zip(before, value, strict=True))
                    value = (a, b, c)
                handles[point] = value
    return handles


def full(u: float) -> float:
    """Most in the middle of the mouth, nothing at its corners."""
    return 1 - u * u


def bell(u: float, centre: float, width: float) -> float:
    """Gaussian bump of height 1."""
    return math.exp(-(((u - centre) / width) ** 2))


def left_half(u: float, soft: float = 0.35) -> float:
    """Smooth step over the mouth's middle: 1 on the left, 0 on the right, 0.5 in the middle."""
    s = min(max(0.5 * (u / soft + 1), 0.0), 1.0)
    return s * s * (3 - 2 * s)


class Drawing:
    """Draws shapes on one neutral lattice [478, 3], metres."""

    def __init__(self, neutral: Tensor) -> None:
        self.table = lattice_table()
        self.neutral = neutral.double()
        # Sizes are for the generic face: on another lattice they scale with its own size.
        generic = self.table.neutral.double()
        self.unit = 1e-3 * float(
            (self.neutral[33] - self.neutral[263]).norm() / (generic[33] - generic[263]).norm()
        )
        self.eyeballs = eyeball_centres(self.neutral)
        # The energy that smooth_field minimises; its inverse, once, serves all shapes.
        bend = graph_laplacian(self.neutral, self.table.triangles)[:SKIN_POINTS, :SKIN_POINTS]
        energy = bend.T @ bend + DECAY**2 * torch.eye(SKIN_POINTS, dtype=torch.float64)
        self.response = torch.linalg.inv(energy)

    def field(self, handles: Handles, still: Iterable[str | int] = ()) -> Tensor:
        """Spread handles over the skin as ``smooth_field`` does; ``still`` does not move.

        Args:
            handles: points that move.
            still: regions and points that hold still, unless a handle moves them.

        Returns:
            [478, 3] metres.
        """
        every: Handles = {}
        for item in still:
            for point in REGIONS[item] if isinstance(item, str) else (item,):
                every[int(point)] = (0.0, 0.0, 0.0)
        every.update({int(point): move for point, move in handles.items()})
        points = sorted(every)
        values = torch.tensor([every[p] for p in points], dtype=torch.float64) * self.unit
        response = self.response[:, points]
        field = values.new_zeros(POINTS, 3)
        field[:SKIN_POINTS] = response @ torch.linalg.solve(response[points], values)
        field[points] = values
        return field

    def weights(self, follow: dict[int, float], still: Iterable[str | int]) -> Tensor:
        """Spread weights in [0, 1] over the skin, as ``field`` does displacements: [478]."""
        handles = {point: (weight, 0.0, 0.0) for point, weight in follow.items()}
        return (self.field(handles, still)[:, 0] / self.unit).clamp(0, 1)

    def both(self, handles: dict[int, float]) -> dict[int, float]:
        """Repeat weights at the mirror images of their points."""
        return handles | {int(self.table.partner[p]): w for p, w in handles.items()}

    def both_sides(self, handles: Handles) -> Handles:
        """Repeat handles of the left side, mirrored, on the right."""
        return handles | {
            int(self.table.partner[p]): (-x, y, z) for p, (x, y, z) in handles.items()
        }

    def mirrored(self, shape: Tensor) -> Tensor:
        """Mirror a field [478, 3] in the plane x = 0."""
        return shape[self.table.partner] * shape.new_tensor([-1.0, 1.0, 1.0])

    def jaw_weight(self) -> Tensor:
        """How far each point follows the jaw bone [478]: 1 on chin and lower lip, 0 on the skull."""
        follow: dict[int, float] = {point: 1.0 for point in REGIONS["chin"]}
        for k, column in enumerate(LOWER_LIP_COLUMNS[1:-1], start=1):
            u = abs(k / 5 - 1)
            follow |= {point: 1 - 0.35 * u**2.5 for point in column}
        # Skin at the corners of the mouth is drawn halfway, and with it a little of the upper lip.
        follow |= {point: 0.55 for point in LIP_CORNERS}
        for k, column in enumerate(UPPER_LIP_COLUMNS[1:-1], start=1):
            u = abs(k / 5 - 1)
            # It is drawn thin over the teeth: its outer contour goes further than its inner one.
            follow |= {point: 0.10 - 0.02 * row + 0.27 * u**2.5 for row, point in enumerate(column)}
        # From the chin to the angle of the jaw, whose skin slides over the bone.
        edge: dict[int, float] = {
            P.JAW: 0.85,
            P.JAW_FRONT: 0.95,
            P.JAW_CHIN: 1.0,
            P.JAW_BACK: 0.65,
            P.JAW_ANGLE_FRONT: 0.4,
            P.JAW_ANGLE: 0.22,
            P.JAW_BRANCH: 0.1,
        }
        cheek: dict[int, float] = {
            P.CORNER_ABOVE: 0.42,
            P.FOLD_LOWER: 0.25,
            P.FOLD: 0.13,
            P.CHEEK_MIDDLE: 0.10,
            P.CHEEK_HOLLOW: 0.12,
            P.PHILTRUM: 0.04,
        }
        still = [
            *UPPER_FACE,
            "nose_bridge",
            "nose_tip",
            "nostril_left",
            "nostril_right",
            P.CHEEK_APPLE,
            P.CHEEK_APPLE_RIGHT,
            P.CHEEKBONE,
            P.CHEEKBONE_RIGHT,
            P.CHEEK_TOP_INNER,
            P.CHEEK_TOP_INNER_RIGHT,
            P.JAW_JOINT,
            P.JAW_JOINT_RIGHT,
        ]
        return self.weights(follow | self.both(edge | cheek), still)

    def jaw(self, turn: float, slide_mm: Move = (0.0, 0.0, 0.0), left_rad: float = 0.0) -> Tensor:
        """Move the jaw bone: turn it open about the hinge at the ears, slide it, swing it sideways."""
        return self.on_jaw(self.neutral, turn, slide_mm, left_rad) * self.jaw_weight()[:, None]

    def on_jaw(
        self,
        points: Tensor,
        turn: float,
        slide_mm: Move = (0.0, 0.0, 0.0),
        left_rad: float = 0.0,
    ) -> Tensor:
        """Return how points [n, 3] that sit on the jaw bone itself move with it: [n, 3] metres."""
        ears = self.neutral[[454, 234]].mean(0)
        hinge = ears + self.neutral.new_tensor(HINGE_MM) * self.unit
        arm = points - hinge
        c, s = math.cos(turn), math.sin(turn)
        opening = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
        c, s = math.cos(left_rad), math.sin(left_rad)
        swing = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
        moved = arm @ (swing @ opening).T + self.neutral.new_tensor(slide_mm) * self.unit
        return moved - arm

    def narrowed(self) -> Tensor:
        """Draw the corners of the mouth and the cheeks in, as an open jaw stretches them: [478, 3]."""
        corners: Handles = {
            **at(REGIONS["lip_corner_left"], -2.6, 0.0, 0.0),
            P.CORNER_ABOVE: (-3.0, 0.0, 0.0),
            P.CORNER_BELOW: (-2.0, 0.0, 0.0),
            P.FOLD_LOWER: (-2.8, 0.0, 0.0),
            P.CHEEK_HOLLOW: (-2.0, 0.0, 0.0),
            P.CHEEK_LOW: (-2.0, 0.0, 0.0),
            P.FOLD: (-1.2, 0.0, 0.0),
            P.JAW_ANGLE_FRONT: (-1.0, 0.0, 0.0),
            P.CHIN_SIDE: (0.0, 0.0, 0.0),
        }
        still = [*UPPER_FACE, "nose_bridge", "nose_tip", "nostril_left", "nostril_right", "chin"]
        for middle in (*UPPER_LIP_COLUMNS[4:7], *LOWER_LIP_COLUMNS[4:7]):
            still.extend(middle)
        return self.field(self.both_sides(corners), still)

    def blink(self) -> Tensor:
        """Shut the left lids: the upper one comes down 92 % of the gap around the eyeball.

        The lower lid rises the rest and slides towards the nose, as its muscle closes like a zip.
        """
        upper, lower = REGIONS["lid_left_upper"], REGIONS["lid_left_lower"]
        handles: Handles = {}
        above: Handles = {}
        for k, (top, bottom) in enumerate(zip(upper, lower, strict=True)):
            gap = (self.neutral[bottom] - self.neutral[top]) / self.unit
            x, y, z = gap.tolist()
            inwards = -1.3 * math.sin(math.pi * (k + 1) / 8)
            handles[top] = (0.92 * x + 0.5 * inwards, 0.92 * y, 0.92 * z)
            handles[bottom] = (-0.08 * x + inwards, -0.08 * y, -0.08 * z)
            above[_ABOVE_LID_LEFT[k]] = (0.0, 0.25 * y, 0.1 * z)
        still = [
            "brow_left",
            "eye_corners_left",
            "nose_bridge",
            P.CHEEK_APPLE,
            P.CHEEK_TOP,
            P.CHEEK_TOP_INNER,
            P.CHEEK_TOP_SIDE,
        ]
        return self.field(
            handles
            | above
            | at((P.UNDER_LID, P.UNDER_LID_OUTER, P.UNDER_LID_INNER), -0.6, 0.0, 0.0),
            still,
        )

    def lids(
        self, upper_mm: float, lower_mm: float, left_mm: float = 0.0, above: float = 0.8
    ) -> Tensor:
        """Move the left lids (most in the middle): up each by its own, and both to the left.

        Args:
            upper_mm: the upper lid, up.
            lower_mm: the lower lid, up.
            left_mm: both lids, to the subject's left.
            above: share of the upper lid's way that the skin above it goes too.
        """
        handles: Handles = {}
        for chain, lift, share in (
            (REGIONS["lid_left_upper"], upper_mm, 1.0),
            (REGIONS["lid_left_lower"], lower_mm, 0.9),
            (_ABOVE_LID_LEFT, above * upper_mm, 0.85),
        ):
            for k, point in enumerate(chain):
                most = math.sin(math.pi * (k + 1) / 8) ** 0.7
                handles[point] = self._round_the_eye(
                    point, share * left_mm * most**0.7, lift * most
                )
        outer, inner = REGIONS["eye_corners_left"]
        handles[outer] = self._round_the_eye(outer, 0.6 * left_mm, 0.0)
        handles[inner] = (0.2 * left_mm, 0.0, 0.0)
        below = at(
            (P.UNDER_LID, P.UNDER_LID_OUTER, P.UNDER_LID_INNER), 0.55 * left_mm, 0.3 * lower_mm, 0.0
        )
        still = [
            "brow_left",
            "nose_bridge",
            P.CHEEK_APPLE,
            P.CHEEK_TOP,
            P.CHEEK_TOP_INNER,
            P.CHEEK_TOP_SIDE,
        ]
        return self.field(handles | below, still)

    def _round_the_eye(self, point: int, left_mm: float, up_mm: float) -> Move:
        """Move sideways along the left eyeball: to its side, the way leads back."""
        x = float(self.neutral[point, 0] - self.eyeballs[0, 0]) / self.unit
        return (left_mm, up_mm, -left_mm * min(max(x / LID_RADIUS_MM, -1.0), 1.0))

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
