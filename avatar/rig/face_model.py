"""What a head rig tells the tracker: a face at rest, its shapes by name, and which faces are likely.

The tracker knows no other face than the lattice's 478 points (``avatar.rig.lattice``). A face model
gives those points and their expression shapes, whichever rig they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD, arkit_basis
from avatar.rig.arkit_drawing import Drawing
from avatar.rig.lattice import REGIONS, SKIN_POINTS, lattice_table
from avatar.rig.similarity import similarity


@runtime_checkable
class FaceModel(Protocol):
    """A family of faces on the lattice, in the head frame, metres."""

    @property
    def name(self) -> str:
        """Of the rig, as tracks carry it: ``"lattice"``, ``"ict"``, ``"flame"``."""
        ...

    @property
    def neutral(self) -> Tensor:
        """[478, 3] the mean face at rest."""
        ...

    @property
    def expression_names(self) -> tuple[str, ...]:
        """E names, ARKit's 52 first, in Apple's order."""
        ...

    def shapes(self, lattice: Tensor) -> Tensor:
        """Carry the shapes over to a person's lattice [478, 3]: [E, 478, 3] metres at coefficient 1."""
        ...

    def likely(self, lattice: Tensor) -> Tensor:
        """Return the face of the family [478, 3] that is nearest to a lattice estimated so far."""
        ...


@dataclass(frozen=True)
class DrawnFace:
    """The project's own: the generic lattice with the drawn ARKit shapes; any size, one face."""

    @property
    def name(self) -> str:
        """``"lattice"``."""
        return "lattice"

    @property
    def neutral(self) -> Tensor:
        """[478, 3]."""
        return lattice_table().neutral

    @property
    def expression_names(self) -> tuple[str, ...]:
        """ARKit's 52."""
        return ARKIT_NAMES

    def shapes(self, lattice: Tensor) -> Tensor:
        """Draw them afresh: [52, 478, 3]."""
        return arkit_basis(lattice)

    def likely(self, lattice: Tensor) -> Tensor:
        """Return the generic face, whoever it is."""
        del lattice
        return self.neutral


IDENTITY_SIGMA_M = 0.0015
"""Sigma of how a lattice differs from the nearest face of a family, metres a point and axis."""
MOST_IDENTITY = 2.5
"""Identity coefficients (unit variance in both families known) stay within so many sigmas."""
ROUNDS = 8
"""Alternations of similarity and identity; they settle in four or five."""


@dataclass(frozen=True)
class SculptedFace:
    """A face model out of an external rig: sculpted shapes and identities on the lattice."""

    name: str
    """Of the rig."""
    neutral: Tensor
    """[478, 3]."""
    expression_names: tuple[str, ...]
    """E names."""
    basis: Tensor
    """[E, 478, 3] metres at coefficient 1 on ``neutral``; irises lie still (their turn is added)."""
    identity: Tensor
    """[I, 478, 3] metres at coefficient 1; coefficients have unit variance."""

    def shapes(self, lattice: Tensor) -> Tensor:
        """Turn and scale the shapes as the face is; lids meet on it and irises turn about its eyes.

        Identity moves the lids apart or together, and a sculpted blink goes as far as its own face's
        lids are apart: what it lacks or has too much on this person is spread over the skin around.
        """
        dtype = lattice.dtype
        lattice, neutral = lattice.double(), self.neutral.double()
        skin = slice(0, SKIN_POINTS)
        turn, scale, shift = similarity(self.likely(lattice).double()[skin], lattice[skin])
        basis = self.basis.double() @ turn.T * scale
        neutral = neutral @ turn.T * scale + shift
        draw = Drawing(lattice)
        for side in ("left", "right"):
            k = ARKIT_INDEX[f"eyeBlink{side.title()}"]
            basis[k] += _meeting(draw, side, neutral, lattice)
        for look, (yaw, pitch) in LOOKS.items():
            left = draw.look(yaw, pitch)
            basis[ARKIT_INDEX[f"{look}Left"]] += left
            basis[ARKIT_INDEX[f"{look}Right"]] += draw.mirrored(left)
        return basis.to(dtype)

    def likely(self, lattice: Tensor) -> Tensor:
        """Fit the identities to a lattice, bounded: [478, 3] in the gauge of ``neutral``.

        Minimises the distance to the turned and scaled family plus the coefficients' squares, by
        turns (both are linear least squares); the irises do not count.
        """
        dtype = lattice.dtype
        skin = slice(0, SKIN_POINTS)
        modes = self.identity[:, skin].double().flatten(1)
        target, face = lattice[skin].double(), self.neutral.double()
        if not len(modes):
            return self.neutral
        normal = modes @ modes.T / IDENTITY_SIGMA_M**2 + torch.eye(len(modes)).double()
        coefficients = modes.new_zeros(len(modes))
        for _ in range(ROUNDS):
            turn, scale, shift = similarity(face[skin], target)
            # The lattice, brought into the family's own gauge.
            local = (target - shift) @ turn / scale
            difference = (local - self.neutral[skin].double()).flatten()
            coefficients = torch.linalg.solve(normal, modes @ difference / IDENTITY_SIGMA_M**2)
            coefficients = coefficients.clamp(-MOST_IDENTITY, MOST_IDENTITY)
            moved = torch.einsum("i,ilc->lc", coefficients, self.identity.double())
            face = self.neutral.double() + moved
        return face.to(dtype)


LOOKS = {
    "eyeLookUp": (0.0, GAZE_UP_RAD),
    "eyeLookDown": (0.0, -GAZE_UP_RAD),
    "eyeLookOut": (GAZE_SIDE_RAD, 0.0),
    "eyeLookIn": (-GAZE_SIDE_RAD, 0.0),
}
"""Gaze shapes to the left eye's turn: to the left and up, rad; the right eye's are mirrored."""


def _meeting(draw: Drawing, side: str, neutral: Tensor, lattice: Tensor) -> Tensor:
    """What a blink must add so that the lids end as far apart as on the face it was sculpted for.

    Args:
        draw: on the person's lattice.
        side: "left" or "right".
        neutral: [478, 3] the rig's face, turned and scaled as ``lattice`` is.
        lattice: [478, 3] the person's.

    Returns:
        [478, 3].
    """
    upper, lower = list(REGIONS[f"lid_{side}_upper"]), list(REGIONS[f"lid_{side}_lower"])

    def gap(points: Tensor) -> Tensor:
        return points[lower] - points[upper]

    # The blink itself is the same on both and drops out.
    lacking = (gap(lattice) - gap(neutral)) / draw.unit
    handles = {p: tuple(move) for p, move in zip(upper, lacking.tolist(), strict=True)}
    handles |= dict.fromkeys(lower, (0.0, 0.0, 0.0))
    return draw.field(handles, [f"brow_{side}", f"eye_corners_{side}", "nose_bridge"])
