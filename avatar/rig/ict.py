"""The ``ict`` rig: ICT-FaceKit light (MIT), out of a .npz file or a clone of its repository.

Sculpted expressions with ARKit's names and principal components of identity, added to a neutral head
with teeth, tongue and eyeballs: Li et al., Learning Formation of Physically-Based Face Attributes,
2020. The eyeballs turn rigidly with the eyeLook coefficients, 30 degrees aside and 25 up or down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.embed import Mesh
from avatar.rig.external import (
    INSIDE,
    LEFT_EYE,
    RIGHT_EYE,
    ExternalRig,
    eye_turns,
    place,
    turn_eyes,
)
from avatar.rig.face_model import SculptedFace
from avatar.rig.ict_layout import (
    EYEBALLS,
    FACE,
    HALVED,
    LANDMARKS,
    LATTICE_POINTS,
    NAMES,
    SKIN,
    VERTICES,
)
from avatar.rig.npz_file import read_npz

ICT_TENSORS = {"expression": "E V 3", "identity": "I V 3"}
"""What the rig file holds beyond ``external.TENSORS``: float16 metres at coefficient 1, head frame."""
CENTIMETRE = 0.01
LARGEST_CM = 100.0
"""No coordinate of a head in centimetres is larger."""
ADVICE = "Give ict_facekit_light.npz or a clone of the ICT-FaceKit repository."


@dataclass(frozen=True)
class IctArrays:
    """The model as published: centimetres, its own frame (y up, z out of the face)."""

    neutral: np.ndarray
    """[V, 3] float32."""
    triangles: np.ndarray
    """[T, 3] int64."""
    expression: np.ndarray
    """[53, V, 3] displacements in the order of ``ict_layout.NAMES``."""
    identity: np.ndarray
    """[I, V, 3] displacements."""


@dataclass(frozen=True)
class IctRig(ExternalRig):
    """Linear shapes and turning eyeballs."""

    expression: Tensor = None  # type: ignore[assignment]
    """[E, V, 3] in ARKit's order; tongueOut is zero."""
    identity: Tensor = None  # type: ignore[assignment]
    """[I, V, 3] at coefficient 1, one standard deviation."""

    def vertices(self, expression: Tensor, identity: Tensor | None = None) -> Tensor:
        """Deform by expressions [..., E] and, where given, identities [..., I]: [..., V, 3]."""
        dtype = expression.dtype
        neutral = self.neutral.to(dtype)
        posed = neutral + torch.einsum("...e,evc->...vc", expression, self.expression.to(dtype))
        if identity is not None:
            posed = posed + torch.einsum("...i,ivc->...vc", identity, self.identity.to(dtype))
        return turn_eyes(posed, self.part, self.eyeballs.to(dtype), eye_turns(expression))

    def own_tensors(self) -> dict[str, Tensor]:
        """Return expression and identity."""
        return {"expression": self.expression.half(), "identity": self.identity.half()}


def make_ict(arrays: IctArrays, name: str, source: dict[str, Any]) -> IctRig:
    """Lay the lattice on the model and name its shapes as ARKit does.

    Raises:
        InputError: its vertices are no face.
    """
    vertices = torch.from_numpy(arrays.neutral).double() * CENTIMETRE
    triangles = torch.from_numpy(arrays.triangles).long()
    part = torch.full((VERTICES,), INSIDE, dtype=torch.int8)
    part[slice(*SKIN)] = 0
    for label, span in zip((LEFT_EYE, RIGHT_EYE), EYEBALLS, strict=True):
        part[slice(*span)] = label
    expression = torch.zeros(len(ARKIT_NAMES), VERTICES, 3)
    for k, shape in enumerate(torch.from_numpy(arrays.expression)):
        expression[ARKIT_INDEX[apple_name(NAMES[k])]] += shape.float() * CENTIMETRE
    eyes = (torch.arange(*EYEBALLS[0]), torch.arange(*EYEBALLS[1]))
    centres = torch.stack([sphere_centre(vertices[rows]) for rows in eyes])
    blink = expression[ARKIT_INDEX["eyeBlinkLeft"]] + expression[ARKIT_INDEX["eyeBlinkRight"]]
    placed = place(
        Mesh(vertices, triangles, expression[ARKIT_INDEX["jawOpen"]], blink),
        ((triangles >= FACE[0]) & (triangles < FACE[1])).all(1),
        eyes,
        centres,
        torch.tensor(LATTICE_POINTS),
        vertices[list(LANDMARKS)],
    )
    identity = torch.from_numpy(arrays.identity).float() * CENTIMETRE
    basis, identities = (
        placed.on_lattice(fields, triangles, eyes) for fields in (expression, identity)
    )
    return IctRig(
        kind="ict",
        name=name,
        neutral=placed.points(vertices).float(),
        triangles=triangles,
        part=part,
        eyeballs=placed.points(centres).float(),
        expression_names=ARKIT_NAMES,
        face=SculptedFace("ict", placed.lattice.float(), ARKIT_NAMES, basis, identities),
        embedding=placed.embedding,
        source=source,
        expression=placed.directions(expression.double()).half(),
        identity=placed.directions(identity.double()).half(),
    )


def apple_name(name: str) -> str:
    """Return Apple's name of one of ICT's; both halves of a halved shape have the same."""
    if name[:-2] in HALVED:
        return name[:-2]
    return re.sub(r"_([LR])$", lambda side: "Left" if side[1] == "L" else "Right", name)


def sphere_centre(points: Tensor) -> Tensor:
    """Fit a sphere to points [N, 3]: its centre [3] (linear least squares)."""
    A = torch.cat([2 * points, torch.ones_like(points[:, :1])], 1)
    return torch.linalg.lstsq(A, points.square().sum(1, keepdim=True)).solution[:3, 0]


# ------------------------------------------------------------------ reading


def read_ict(path: Path) -> IctArrays:
    """Read the model from a .npz or from a clone's folder; raises InputError."""
    return _from_clone(path) if path.is_dir() else _from_npz(path)


def _from_npz(path: Path) -> IctArrays:
    wanted = ("neutral", "tri", "expr", "ident", "names")
    arrays = read_npz(path, wanted, ADVICE)
    lacking = [key for key in wanted if key not in arrays]
    if lacking:
        raise InputError(f"{path} has no {', '.join(lacking)}. {ADVICE}")
    if arrays["names"].dtype.kind not in "US":
        raise InputError(f"{path}: 'names' must hold words. {ADVICE}")
    names = [
        n.decode("latin1") if isinstance(n, bytes) else str(n) for n in arrays["names"].ravel()
    ]
    expression = arrays["expr"]
    shapes = len(expression) if expression.ndim else 0
    if len(names) != shapes:
        raise InputError(f"{path} has {len(names)} names for {shapes} shapes. {ADVICE}")
    order = _order(path, names)
    return _checked(path, arrays["neutral"], arrays["tri"], expression[order], arrays["ident"])


def _order(path: Path, names: list[str]) -> list[int]:
    lacking = [name for name in NAMES if name not in names]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise InputError(
            f"{path} lacks the expressions {', '.join(lacking[:3])}{more}: it is no version of "
            f"ICT-FaceKit light that this program knows. {ADVICE}"
        )
    return [names.index(name) for name in NAMES]


def _checked(path: Path, neutral: Any, triangles: Any, expression: Any, identity: Any) -> IctArrays:
    """Check shapes, kinds and ranges."""
    for name, array, dims in (
        ("neutral", neutral, 2), ("tri", triangles, 2), ("expr", expression, 3), ("ident", identity, 3)
    ):  # fmt: skip
        kinds = "iu" if name == "tri" else "f"
        if array.dtype.kind not in kinds or array.ndim != dims or array.shape[-1] != 3:
            raise InputError(
                f"{path}: '{name}' is {array.dtype} {list(array.shape)}, not "
                f"{'whole numbers' if name == 'tri' else 'numbers'} of three columns. {ADVICE}"
            )
        if name != "tri" and array.shape[-2] != VERTICES:
            raise InputError(
                f"{path}: '{name}' has {array.shape[-2]} vertices, and ICT-FaceKit light has "
                f"{VERTICES}: it is another version or another model. {ADVICE}"
            )
        if name != "tri" and not (np.abs(array).max(initial=0) < LARGEST_CM):  # NaN is not smaller
            raise InputError(
                f"{path}: '{name}' holds values that are NaN or beyond {LARGEST_CM:g} cm. {ADVICE}"
            )
    if not len(triangles) or triangles.min() < 0 or triangles.max() >= VERTICES:
        raise InputError(f"{path}: 'tri' names vertices that the model does not have. {ADVICE}")
    return IctArrays(neutral.astype(np.float32), triangles.astype(np.int64), expression, identity)


NEUTRAL_OBJ = "generic_neutral_mesh.obj"


def _from_clone(path: Path) -> IctArrays:
    """Read the OBJ files of a clone: FaceXModel/generic_neutral_mesh.obj, NAME.obj, identityNNN.obj."""
    home = next((p for p in (path, path / "FaceXModel") if (p / NEUTRAL_OBJ).is_file()), None)
    if home is None:
        raise InputError(f"{path} has no {NEUTRAL_OBJ}, nor has its folder FaceXModel. {ADVICE}")
    neutral, triangles = read_obj(home / NEUTRAL_OBJ)
    _order(home, [p.stem for p in home.glob("*.obj")])
    identities = sorted(
        p for p in home.glob("identity*.obj") if re.fullmatch(r"identity\d{1,4}", p.stem)
    )
    if not identities:
        raise InputError(f"{home} has no identity000.obj and so on. {ADVICE}")

    def moved(file: Path) -> np.ndarray:
        vertices, _ = read_obj(file, faces=False)
        if len(vertices) != len(neutral):
            raise InputError(
                f"{file} has {len(vertices)} vertices, and {NEUTRAL_OBJ} has {len(neutral)}. {ADVICE}"
            )
        return (vertices - neutral).astype(np.float16)

    return _checked(
        home,
        neutral,
        triangles,
        np.stack([moved(home / f"{name}.obj") for name in NAMES]),
        np.stack([moved(file) for file in identities]),
    )


def read_obj(path: Path, *, faces: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Read vertices [V, 3] float32 and triangles [T, 3] int64 (polygons cut into fans) of an OBJ file.

    Raises:
        InputError: not an OBJ file, or it names vertices that it does not have.
    """
    try:
        lines = path.read_text("ascii").splitlines()
        rows = [line[2:] for line in lines if line.startswith("v ")]
        vertices = np.loadtxt(rows or ["0 0 0"], np.float32, usecols=(0, 1, 2), ndmin=2)[
            : len(rows)
        ]
        triangles: list[tuple[int, int, int]] = []
        for line in lines if faces else ():
            if line.startswith("f "):
                corners = [int(corner.partition("/")[0]) - 1 for corner in line.split()[1:]]
                triangles += [
                    (corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)
                ]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an OBJ file ({error}). {ADVICE}") from error
    found = np.array(triangles, np.int64).reshape(-1, 3)
    if not len(vertices) or (len(found) and not 0 <= found.min() <= found.max() < len(vertices)):
        raise InputError(f"{path} has no vertices, or faces that name others. {ADVICE}")
    return vertices, found
