"""Head models from outside: one normalised file each, and what the program makes of it.

    NAME.safetensors   header: format, version, kind, name, expression_names, source
        neutral [V,3] · triangles [T,3] · part [V] · eyeballs [2,3]          the mesh, head frame, metres
        lattice.neutral [478,3] · lattice.basis [E,478,3] · lattice.identity [I,478,3] ·
        embedding.triangle [468] · embedding.barycentric [468,3]            our points on it
        and by kind ict.* or flame.*                                         what deforms the mesh

The importers (``ict``, ``flame``) write it once, into the user's own data folder (``rig_store``); no
head model is part of this program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatar.checks import InputError, bind_shape
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rig.embed import Embedding, Mesh, lay_lattice
from avatar.rig.face_model import SculptedFace
from avatar.rig.lattice import (
    IRIS_DIAMETER_M,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    lattice_table,
)
from avatar.rig.similarity import similarity
from avatar.tensorfile import read_tensors, write_tensors

RIG_FORMAT = "headsplat.rig"
RIG_VERSION = 1
KINDS = ("ict", "flame")
"""Head models that this program can import."""
SKIN, LEFT_EYE, RIGHT_EYE, INSIDE = range(4)
"""Values of ``part``: skin; the eyeballs; teeth, gums, tongue and whatever else is not skin."""
REMEDY = "Import the head model again: avatar rig import FILE"
TENSORS = {
    "neutral": "V 3",
    "triangles": "T 3",
    "part": "V",
    "eyeballs": "2 3",
    "lattice.neutral": "478 3",
    "lattice.basis": "E 478 3",
    "lattice.identity": "I 478 3",
    "embedding.triangle": "468",
    "embedding.barycentric": "468 3",
}


@dataclass(frozen=True)
class ExternalRig:
    """What every imported head model has; ``ict`` and ``flame`` add how the mesh deforms."""

    kind: str
    """One of ``KINDS``."""
    name: str
    """What the user calls it."""
    neutral: Tensor
    """[V, 3] metres, head frame."""
    triangles: Tensor
    """[T, 3] long."""
    part: Tensor
    """[V] int8: ``SKIN`` and the others."""
    eyeballs: Tensor
    """[2, 3] centres of rotation of the subject's left and right eye."""
    expression_names: tuple[str, ...]
    """E names, ARKit's 52 first."""
    face: SculptedFace
    """What the tracker gets."""
    embedding: Embedding
    """Where the lattice's skin points lie on ``triangles``."""
    source: dict[str, Any] = field(default_factory=dict)
    """File name and SHA-256 of what was imported."""

    def vertices(self, expression: Tensor) -> Tensor:
        """Deform by expressions [..., E]: [..., V, 3]."""
        raise NotImplementedError

    def own_tensors(self) -> dict[str, Tensor]:
        """Return what deforms the mesh, by the names in the file."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write the normalised file atomically."""
        common = {
            "neutral": self.neutral.float(),
            "triangles": self.triangles.int(),
            "part": self.part.to(torch.int8),
            "eyeballs": self.eyeballs.float(),
            "lattice.neutral": self.face.neutral.float(),
            "lattice.basis": self.face.basis.float(),
            "lattice.identity": self.face.identity.float(),
            "embedding.triangle": self.embedding.triangle.int(),
            "embedding.barycentric": self.embedding.barycentric.float(),
        }
        own = {f"{self.kind}.{name}": tensor for name, tensor in self.own_tensors().items()}
        header = {
            "kind": self.kind,
            "name": self.name,
            "expression_names": list(self.expression_names),
            "source": self.source,
        }
        write_tensors(path, common | own, format=RIG_FORMAT, version=RIG_VERSION, header=header)


def load_rig(path: Path) -> ExternalRig:
    """Read a normalised rig file; raises InputError that says what is wrong and what to do."""
    from avatar.rig.flame import FLAME_TENSORS, FlameRig
    from avatar.rig.ict import ICT_TENSORS, IctRig

    tensors, header = read_tensors(
        path, format=RIG_FORMAT, version=RIG_VERSION, required=TENSORS, remedy=REMEDY
    )
    kind = header.get("kind")
    if kind not in KINDS:
        raise InputError(
            f"{path} holds a head model of the kind {kind!r}, and this program knows "
            f"{' and '.join(KINDS)}. {REMEDY}"
        )
    names = header.get("expression_names")
    count = len(tensors["lattice.basis"])
    if (
        not isinstance(names, list)
        or len(names) != count
        or tuple(names[: len(ARKIT_NAMES)]) != ARKIT_NAMES
    ):
        raise InputError(
            f"{path}: expression_names must be ARKit's 52 and the rig's own, {count} in all. {REMEDY}"
        )
    for name, limit in (
        ("triangles", len(tensors["neutral"])), ("embedding.triangle", len(tensors["triangles"]))
    ):  # fmt: skip
        index = tensors[name]
        if index.is_floating_point() or bool(((index < 0) | (index >= limit)).any()):
            raise InputError(f"{path}: '{name}' names places that it does not have. {REMEDY}")
    names = tuple(str(name) for name in names)
    required = ICT_TENSORS if kind == "ict" else FLAME_TENSORS
    own = _own(path, tensors, kind, required, len(names))
    source = header.get("source")
    rig = IctRig if kind == "ict" else FlameRig
    return rig(
        kind=kind,
        name=str(header.get("name", kind)),
        neutral=tensors["neutral"].float(),
        triangles=tensors["triangles"].long(),
        part=tensors["part"],
        eyeballs=tensors["eyeballs"].float(),
        expression_names=names,
        face=SculptedFace(
            kind,
            tensors["lattice.neutral"].float(),
            names,
            tensors["lattice.basis"].float(),
            tensors["lattice.identity"].float(),
        ),
        embedding=Embedding(
            tensors["embedding.triangle"].long(), tensors["embedding.barycentric"].float()
        ),
        source=source if isinstance(source, dict) else {},
        **own,
    )


def _own(
    path: Path, tensors: dict[str, Tensor], kind: str, required: dict[str, str], count: int
) -> dict[str, Tensor]:
    """Take a kind's own tensors out of the file, their shapes checked."""
    from avatar.rig.flame import PARENTS

    sizes: dict[str, int] = {"V": len(tensors["neutral"]), "E": count}
    own = {}
    for name, spec in required.items():
        tensor = tensors.get(f"{kind}.{name}")
        bound = None if tensor is None else bind_shape(tuple(tensor.shape), spec, sizes)
        if tensor is None or bound is None:
            raise InputError(
                f"{path}: '{kind}.{name}' must be [{', '.join(spec.split())}]. {REMEDY}"
            )
        sizes, own[name] = bound, tensor
    if "parents" in own and tuple(own["parents"].tolist()) != PARENTS:
        raise InputError(
            f"{path}: '{kind}.parents' hangs the joints otherwise than FLAME. {REMEDY}"
        )
    return own


@dataclass(frozen=True)
class Placed:
    """A mesh with the lattice on it, brought into the head frame."""

    T_head_rig: Tensor
    """[4, 4] a rigid motion; the rig's own frame in metres to the head frame."""
    embedding: Embedding
    lattice: Tensor
    """[478, 3] head frame, metres."""

    def points(self, vertices: Tensor) -> Tensor:
        """Bring points [..., 3] of the rig's frame into the head frame."""
        return vertices @ self.T_head_rig[:3, :3].T + self.T_head_rig[:3, 3]

    def directions(self, moves: Tensor) -> Tensor:
        """Turn displacements [..., 3] of the rig's frame into the head frame."""
        return moves @ self.T_head_rig[:3, :3].T

    def on_lattice(
        self, fields: Tensor, triangles: Tensor, eyes: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Read displacements [N, V, 3] of the rig's frame at the lattice: [N, 478, 3] float32, head frame.

        Irises go as their eyeballs, vertices ``eyes``, do on average; they lie still where that is None.
        """
        R = self.T_head_rig[:3, :3].float()
        out = torch.zeros(len(fields), POINTS, 3)
        out[:, :SKIN_POINTS] = self.embedding.of(fields.float(), triangles) @ R.T
        for side, rows in zip(("left", "right"), eyes or (), strict=False):
            move = fields[:, rows].float().mean(1, keepdim=True) @ R.T
            out[:, list(REGIONS[f"iris_{side}"])] = move
        return out


def place(
    mesh: Mesh,
    skin: Tensor,
    eyes: tuple[Tensor, Tensor],
    centres: Tensor,
    known: Tensor,
    places: Tensor,
    trust: Tensor | None = None,
) -> Placed:
    """Lay the lattice on a head and bring both into the head frame.

    Args:
        mesh: metres, the rig's own frame; all triangles.
        skin: [T] bool: triangles of the face's skin.
        eyes: indices of the vertices of the subject's left and right eyeball.
        centres: [2, 3] of the eyeballs.
        known, places, trust: as in ``embed.lay_lattice``.

    Returns:
        The embedding, whose triangles count in all of ``mesh.triangles``, and the lattice.

    Raises:
        InputError: the lattice does not lie on it as on a face.
    """
    rows = torch.nonzero(skin)[:, 0]
    laid = lay_lattice(
        Mesh(mesh.vertices, mesh.triangles[rows], mesh.jaw, mesh.lids), known, places, trust
    )
    embedding = Embedding(rows[laid.triangle], laid.barycentric)
    vertices = mesh.vertices.double()
    points = embedding.of(vertices, mesh.triangles)
    generic = lattice_table().neutral.double()
    turn, scale, shift = similarity(points, generic[:SKIN_POINTS])
    away = scale * points @ turn.T + shift - generic[:SKIN_POINTS]
    if not 0.5 < scale < 2 or float(away.norm(dim=-1).median()) > 0.012:
        raise InputError(
            "The head model's vertices are not a face where its layout has one: it may be of another "
            "version or unit. Give the file as it was published."
        )
    # Metric size is the rig's own: only turned and moved.
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3], T[:3, 3] = turn, shift / scale
    lattice = torch.zeros(POINTS, 3, dtype=torch.float64)
    lattice[:SKIN_POINTS] = points @ turn.T + T[:3, 3]
    for eye, side in enumerate(("left", "right")):
        iris = list(REGIONS[f"iris_{side}"])
        ring = generic[iris] - generic[iris].mean(0)
        centre = centres[eye].double() @ turn.T + T[:3, 3]
        ball = vertices[eyes[eye]] @ turn.T + T[:3, 3] - centre
        # Where the eyeball is as wide as an iris: the ring that a camera sees.
        radius = float(ball.norm(dim=-1).median())
        depth = max(radius**2 - (IRIS_DIAMETER_M / 2) ** 2, 0.0) ** 0.5
        wide = float((generic[iris[1]] - generic[iris[3]]).norm())
        # At rest the model looks along its own z, not the head frame's.
        lattice[iris] = ring * (IRIS_DIAMETER_M / wide) + centre + depth * turn[:, 2]
    return Placed(T, embedding, lattice)


def eye_turns(expression: Tensor) -> Tensor:
    """Return the rotations [..., 2, 3, 3] of both eyes that coefficients [..., E] mean: up, then aside."""

    def w(name: str) -> Tensor:
        return expression[..., ARKIT_INDEX[name]]

    turns = []
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        yaw = sign * (w(f"eyeLookOut{side}") - w(f"eyeLookIn{side}")) * GAZE_SIDE_RAD
        pitch = (w(f"eyeLookUp{side}") - w(f"eyeLookDown{side}")) * GAZE_UP_RAD
        zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
        cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
        about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1)
        about_x = torch.stack([one, zero, zero, zero, cp, sp, zero, -sp, cp], -1)
        shape = (*yaw.shape, 3, 3)
        turns.append(about_y.reshape(shape) @ about_x.reshape(shape))
    return torch.stack(turns, -3)


def turn_eyes(vertices: Tensor, part: Tensor, eyeballs: Tensor, turns: Tensor) -> Tensor:
    """Turn the eyeballs of posed vertices [..., V, 3] about their centres [2, 3] by [..., 2, 3, 3]."""
    out = vertices.clone()
    for eye, label in enumerate((LEFT_EYE, RIGHT_EYE)):
        rows = torch.nonzero(part == label)[:, 0]
        arm = vertices[..., rows, :] - eyeballs[eye]
        turned = arm @ turns[..., eye, :, :].transpose(-1, -2) + eyeballs[eye]
        out = out.index_copy(-2, rows, turned)
    return out
