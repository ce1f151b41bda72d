"""The ``flame`` rig: the user's own licensed copy of the FLAME head model.

    T(b, p, e) = template + S b + P(R(p) - 1) + E e,    then linear blend skinning about the joints J(b)

of neck, jaw and eyes: Li, Bolkart, Black, Li, Romero, Learning a model of facial shape and expression
from 4D scans, 2017, equations 1 to 6. FLAME has no ARKit shapes; ``arkit_of_flame`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.external import ExternalRig, eye_turns

SHAPES, EXPRESSIONS, JOINTS = 300, 100, 5
"""Principal components of identity, of expression, and joints."""
ROOT, NECK, JAW, LEFT_EYE_JOINT, RIGHT_EYE_JOINT = range(JOINTS)
"""Joints, in the model's order."""
PARENTS = (-1, ROOT, NECK, NECK, NECK)
"""Of each joint; -1 for none."""
FLAME_TENSORS = {
    "template": "V 3",
    "shapes": "S V 3",
    "pose": "36 V 3",
    "regressor": "5 V",
    "parents": "5",
    "weights": "V 5",
    "T_head_rig": "4 4",
    "to_expression": "E X",
    "to_jaw": "E 3",
}
"""What the rig file holds beyond ``external.TENSORS``, in FLAME's own frame and metres."""


@dataclass(frozen=True)
class FlameModel:
    """The model as published, in metres and its own frame; of any size."""

    template: Tensor
    """[V, 3] the mean head."""
    shapes: Tensor
    """[S, V, 3] identity's components, then expression's; coefficients have unit variance."""
    pose: Tensor
    """[9 (J - 1), V, 3] correctives, one for each number of R - 1 of each joint but the first."""
    regressor: Tensor
    """[J, V] joints from the vertices of the identity at rest."""
    parents: tuple[int, ...]
    """J; -1 for the root. A joint's parent comes before it."""
    weights: Tensor
    """[V, J] skinning, each row sums to 1."""
    identities: int
    """How many of ``shapes`` are identity's."""

    def vertices(self, turns: Tensor, expression: Tensor, identity: Tensor | None = None) -> Tensor:
        """Pose the model; differentiable.

        Args:
            turns: [..., J, 3, 3] rotation of each joint against its parent.
            expression: [..., X] coefficients, the first X of expression's.
            identity: [I] or [..., I] coefficients, the first I of identity's; None for the mean.

        Returns:
            [..., V, 3].
        """
        own = self.shapes[self.identities :][: expression.shape[-1]]
        shaped = self.template
        if identity is not None:
            person = self.shapes[: self.identities][: identity.shape[-1]]
            shaped = shaped + torch.einsum("...i,ivc->...vc", identity, person)
        joints = self.regressor @ shaped
        bent = turns[..., 1:, :, :] - torch.eye(3, dtype=turns.dtype)
        rest = (
            shaped
            + torch.einsum("...x,xvc->...vc", expression, own)
            + torch.einsum("...p,pvc->...vc", bent.flatten(-3), self.pose)
        )
        moved = self._motions(turns, joints)
        blended = torch.einsum("vj,...jrc->...vrc", self.weights, moved)
        return (blended[..., :3] @ rest[..., None])[..., 0] + blended[..., 3]

    def _motions(self, turns: Tensor, joints: Tensor) -> Tensor:
        """Return what each joint does to points at rest: [..., J, 3, 4]."""
        rotations, places = [], []
        joints = joints.expand(*turns.shape[:-3], *joints.shape[-2:])
        for k, parent in enumerate(self.parents):
            if parent < 0:
                rotations.append(turns[..., k, :, :])
                places.append(joints[..., k, :])
                continue
            arm = joints[..., k, :] - joints[..., parent, :]
            rotations.append(rotations[parent] @ turns[..., k, :, :])
            places.append((rotations[parent] @ arm[..., None])[..., 0] + places[parent])
        R, at = torch.stack(rotations, -3), torch.stack(places, -2)
        return torch.cat([R, (at - (R @ joints[..., None])[..., 0])[..., None]], -1)

    def joints(self) -> Tensor:
        """Return the joints [J, 3] of the mean head."""
        return self.regressor @ self.template


@dataclass(frozen=True)
class FlameRig(ExternalRig):
    """FLAME, driven by ARKit's coefficients: through its expressions, its jaw and its eyes.

    ARKit's lids (blink, wide, squint) are on the lattice alone: FLAME's own lids do not shut.
    """

    template: Tensor = None  # type: ignore[assignment]
    shapes: Tensor = None  # type: ignore[assignment]
    pose: Tensor = None  # type: ignore[assignment]
    regressor: Tensor = None  # type: ignore[assignment]
    parents: Tensor = None  # type: ignore[assignment]
    weights: Tensor = None  # type: ignore[assignment]
    T_head_rig: Tensor = None  # type: ignore[assignment]
    """[4, 4] FLAME's frame to the head frame."""
    to_expression: Tensor = None  # type: ignore[assignment]
    """[E, X] FLAME's expression coefficients that each of ours stands for."""
    to_jaw: Tensor = None  # type: ignore[assignment]
    """[E, 3] turn of the jaw, rotation vector in FLAME's frame, radians."""

    def model(self, dtype: torch.dtype = torch.float32) -> FlameModel:
        """Return the model itself, to be posed by its own parameters."""
        return FlameModel(
            template=self.template.to(dtype),
            shapes=self.shapes.to(dtype),
            pose=self.pose.to(dtype),
            regressor=self.regressor.to(dtype),
            parents=tuple(self.parents.tolist()),
            weights=self.weights.to(dtype),
            identities=SHAPES,
        )

    def vertices(self, expression: Tensor, identity: Tensor | None = None) -> Tensor:
        """Deform by expressions [..., E] and, where given, identities [..., I]: [..., V, 3]."""
        dtype = expression.dtype
        T = self.T_head_rig.to(dtype)
        turns = flame_turns(expression, self.to_jaw.to(dtype), T[:3, :3])
        coefficients = expression @ self.to_expression.to(dtype)
        posed = self.model(dtype).vertices(turns, coefficients, identity)
        return posed @ T[:3, :3].T + T[:3, 3]

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the model and what ARKit's coefficients mean to it."""
        return {name: getattr(self, name) for name in FLAME_TENSORS}


def flame_turns(expression: Tensor, to_jaw: Tensor, R_head_rig: Tensor) -> Tensor:
    """Return FLAME's joint rotations [..., 5, 3, 3] for our coefficients [..., E]."""
    from avatar.rotations import rotvec_to_matrix

    still = torch.eye(3, dtype=expression.dtype).expand(*expression.shape[:-1], 3, 3)
    jaw = rotvec_to_matrix(expression @ to_jaw)
    # A turn in the head frame, said in the rig's.
    eyes = R_head_rig.T @ eye_turns(expression[..., : len(ARKIT_NAMES)]) @ R_head_rig
    return torch.stack([still, still, jaw, eyes[..., 0, :, :], eyes[..., 1, :, :]], -3)
