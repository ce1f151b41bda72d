"""Make the ``flame`` rig of a FLAME model: the lattice on its mesh, and ARKit's names for what it does.

FLAME's expressions are principal components without names. The jaw's shapes come from its jaw joint,
the eyes' turn from its eye joints. What the other names mean is taken from the project's drawn shapes
(``arkit_basis``), drawn on FLAME's mean face and projected onto its first 100 components; a shape of
which the components say less than half stays as drawn, on the lattice alone, and so do the lids, which
FLAME cannot shut. Its own leading components follow the 52 as coefficients of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis
from avatar.rig.embed import Mesh
from avatar.rig.embed_seen import seen_places
from avatar.rig.external import INSIDE, LEFT_EYE, RIGHT_EYE, SKIN, Placed, place
from avatar.rig.face_model import SculptedFace
from avatar.rig.flame import (
    JAW,
    JOINTS,
    LEFT_EYE_JOINT,
    RIGHT_EYE_JOINT,
    FlameModel,
    FlameRig,
)
from avatar.rig.lattice import POINTS, REGIONS, SKIN_POINTS
from avatar.rig.mesh_views import Detect
from avatar.rotations import rotvec_to_matrix

COMPONENTS = 100
"""Expression components onto which drawn shapes are projected."""
OWN = 10
"""Leading components that get names of their own, flame00 and so on."""
IDENTITIES = 100
"""Identity components that the tracker uses."""
NOISE_M = 0.001
"""Sigma of a drawn shape's points against the components': what the projection's ridge hangs on."""
EXPLAINED = 0.5
"""Share of a drawn shape's squares that the components must explain to replace it."""
JAW_AXES = {
    "jawOpen": (1.0, 0.0, 0.0), "jawLeft": (0.0, 1.0, 0.0), "jawRight": (0.0, -1.0, 0.0)
}  # fmt: skip
"""Axes of the jaw's turns in the head frame: chin down, chin to the subject's left and right."""
MOST_JAW_RAD = 0.6


@dataclass(frozen=True)
class Meaning:
    """What our coefficients mean to FLAME."""

    basis: Tensor
    """[E, 478, 3] head frame, metres."""
    to_expression: Tensor
    """[E, 100]."""
    to_jaw: Tensor
    """[E, 3] rotation vectors in FLAME's frame."""
    drawn: tuple[str, ...]
    """Names whose shape is the drawn one."""


def make_flame(
    model: FlameModel, triangles: Tensor, detect: Detect, name: str, source: dict[str, Any]
) -> FlameRig:
    """Lay the lattice on the model by what the detector sees on pictures of it, and name its shapes.

    Raises:
        InputError: it is no face.
    """
    vertices, joints = model.template.double(), model.joints().double()
    balls = model.weights[:, [LEFT_EYE_JOINT, RIGHT_EYE_JOINT]] > 0.5
    eyes = (torch.nonzero(balls[:, 0])[:, 0], torch.nonzero(balls[:, 1])[:, 0])
    centres = joints[[LEFT_EYE_JOINT, RIGHT_EYE_JOINT]]
    known, places, trust = seen_places(detect, vertices, triangles, eyes, centres)
    opened = _posed(model, torch.tensor([0.3, 0.0, 0.0])) - model.template
    placed = place(
        Mesh(vertices, triangles, opened, None),
        ~balls.any(1)[triangles].any(1),
        eyes,
        centres,
        known,
        places,
        trust,
    )
    meaning = arkit_of_flame(model, triangles, placed)
    part = torch.full((len(vertices),), SKIN, dtype=torch.int8)
    used = torch.zeros(len(vertices), dtype=torch.bool)
    used[triangles.flatten()] = True
    part[~used] = INSIDE
    for label, rows in zip((LEFT_EYE, RIGHT_EYE), eyes, strict=True):
        part[rows] = label
    names = (*ARKIT_NAMES, *(f"flame{k:02d}" for k in range(OWN)))
    identity = placed.on_lattice(model.shapes[:IDENTITIES], triangles, eyes)
    return FlameRig(
        kind="flame",
        name=name,
        neutral=placed.points(vertices).float(),
        triangles=triangles,
        part=part,
        eyeballs=placed.points(centres).float(),
        expression_names=names,
        face=SculptedFace("flame", placed.lattice.float(), names, meaning.basis, identity),
        embedding=placed.embedding,
        source=source | {"drawn": list(meaning.drawn)},
        template=model.template,
        shapes=model.shapes,
        pose=model.pose,
        regressor=model.regressor,
        parents=torch.tensor(model.parents),
        weights=model.weights,
        T_head_rig=placed.T_head_rig.float(),
        to_expression=meaning.to_expression,
        to_jaw=meaning.to_jaw,
    )


def arkit_of_flame(model: FlameModel, triangles: Tensor, placed: Placed) -> Meaning:
    """Say what ARKit's 52 and FLAME's own leading components are on the lattice and to the model."""
    skin = slice(0, SKIN_POINTS)
    count = len(ARKIT_NAMES) + OWN
    own = model.shapes[model.identities :][:COMPONENTS]
    modes = placed.on_lattice(own, triangles, None).double()
    drawn = arkit_basis(placed.lattice).double()
    basis = torch.zeros(count, POINTS, 3, dtype=torch.float64)
    basis[: len(ARKIT_NAMES)] = drawn
    # The irises' turn is added where the shapes are carried over to a person.
    basis[:, SKIN_POINTS:] = 0
    to_expression = torch.zeros(count, COMPONENTS, dtype=torch.float64)
    to_jaw = torch.zeros(count, 3, dtype=torch.float64)
    kept = []
    A = modes[:, skin].flatten(1)
    inverse = torch.linalg.inv(A @ A.T + NOISE_M**2 * torch.eye(len(A)).double())
    for name, k in ARKIT_INDEX.items():
        shape = drawn[k, skin].flatten()
        size = float(shape.square().sum())
        if name in JAW_AXES:
            turn = _jaw_turn(model, triangles, placed, name, drawn[k])
            to_jaw[k] = turn
            moved = (_posed(model, turn.float()) - model.template).double()
            basis[k, skin] = placed.embedding.of(placed.directions(moved), triangles)
            continue
        coefficients = inverse @ (A @ shape)
        projected = coefficients @ A
        left = float((shape - projected).square().sum())
        if size == 0 or name.startswith("eye") or left > (1 - EXPLAINED) * size:
            if size > 0:
                kept.append(name)
            continue
        to_expression[k] = coefficients
        basis[k, skin] = projected.reshape(-1, 3)
    for k in range(min(OWN, len(modes))):
        to_expression[len(ARKIT_NAMES) + k, k] = 1
        basis[len(ARKIT_NAMES) + k] = modes[k]
        basis[len(ARKIT_NAMES) + k, SKIN_POINTS:] = 0
    return Meaning(basis.float(), to_expression.float(), to_jaw.float(), tuple(kept))


def _jaw_turn(
    model: FlameModel, triangles: Tensor, placed: Placed, name: str, drawn: Tensor
) -> Tensor:
    """Turn the jaw so far that the chin goes as far as the drawn shape says: rotation vector [3]."""
    axis = placed.T_head_rig[:3, :3].T @ torch.tensor(JAW_AXES[name], dtype=torch.float64)
    small = 0.05
    moved = (_posed(model, (small * axis).float()) - model.template).double() / small
    rate = placed.embedding.of(placed.directions(moved), triangles)
    chin = list(REGIONS["chin"])
    ways = rate[chin]
    angle = float((ways * drawn[chin]).sum() / ways.square().sum().clamp_min(1e-12))
    return axis * min(max(angle, 0.02), MOST_JAW_RAD)


def _posed(model: FlameModel, jaw: Tensor) -> Tensor:
    """The mean head with its jaw turned by a rotation vector [3]: [V, 3]."""
    turns = torch.eye(3).repeat(JOINTS, 1, 1)
    turns[JAW] = rotvec_to_matrix(jaw)
    return model.vertices(turns, torch.zeros(0))
