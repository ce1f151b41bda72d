"""Head models of the published layouts, made of the project's own face: nothing licensed is needed."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.spatial import ConvexHull

from avatar.rig import ict_layout
from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.arkit_drawing import Drawing
from avatar.rig.ict import apple_name
from avatar.rig.lattice import SKIN_POINTS, eyeball_centres, lattice_table

EYE_RADIUS_M = 0.0115


def subdivided(fields: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Read fields [..., 468, C] at the lattice's points and at the middles of its sides."""
    return np.concatenate([fields, fields[..., sides, :].mean(-2)], -2)


def skin() -> tuple[np.ndarray, np.ndarray]:
    """Return the sides [M, 2] that get a point in the middle, and the triangles of the finer skin."""
    triangles = lattice_table().triangles.numpy()
    sides = lattice_table().edges.numpy()
    number = {tuple(side): SKIN_POINTS + k for k, side in enumerate(sides.tolist())}
    fine = []
    for a, b, c in triangles.tolist():
        ab, bc, ca = (number[min(p, q), max(p, q)] for p, q in ((a, b), (b, c), (c, a)))
        fine += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return sides, np.array(fine)


def ball(centre: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [count, 3] and triangles of a sphere, wound outwards."""
    k = np.arange(count) + 0.5
    polar, around = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    unit = np.stack(
        [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], 1
    )
    hull = ConvexHull(unit)
    triangles = hull.simplices.astype(np.int64)
    a, b, c = (unit[triangles[:, j]] for j in range(3))
    inwards = (np.cross(b - a, c - a) * (a + b + c)).sum(1) < 0
    triangles[inwards] = triangles[inwards][:, ::-1]
    return centre + EYE_RADIUS_M * unit, triangles


def centres() -> np.ndarray:
    """Eyeballs [2, 3] that just fill the lids."""
    return eyeball_centres(lattice_table().neutral).double().numpy()


def ict_arrays() -> dict[str, np.ndarray]:
    """ICT-FaceKit's arrays with the drawn shapes in place of the sculpted ones; centimetres."""
    sides, fine = skin()
    neutral = lattice_table().neutral.double().numpy()
    points = subdivided(neutral[:SKIN_POINTS], sides)
    where = np.full(len(points), -1)
    where[list(ict_layout.LATTICE_POINTS)] = ict_layout.LANDMARKS
    free = np.setdiff1d(np.arange(ict_layout.FACE[1]), ict_layout.LANDMARKS)
    rest = where < 0
    where[rest] = free[: rest.sum()]
    count = ict_layout.VERTICES
    whole, triangles = np.zeros((count, 3)), [where[fine]]
    whole[where] = points
    for centre, (first, last) in zip(centres(), ict_layout.EYEBALLS, strict=True):
        whole[first:last], own = ball(centre, last - first)
        triangles.append(own + first)
    drawn = generic_arkit_basis().double().numpy()
    shapes = np.zeros((len(ict_layout.NAMES), count, 3))
    for k, name in enumerate(ict_layout.NAMES):
        move = subdivided(drawn[ARKIT_INDEX[apple_name(name)], :SKIN_POINTS], sides)
        if name[:-2] in ict_layout.HALVED:
            left = np.clip(0.5 + points[:, :1] / 0.02, 0, 1)
            move = move * (left if name.endswith("_L") else 1 - left)
        shapes[k, where] = move
    identity = np.zeros((3, count, 3))
    identity[0, where] = 0.04 * points * [1, 0, 0]
    identity[1, where] = 0.04 * points * [0, 1, 0]
    identity[2, where] = 0.05 * points * [0, 0, 1]
    return {
        "neutral": (100 * whole).astype(np.float32),
        "tri": np.concatenate(triangles).astype(np.int32),
        "expr": (100 * shapes).astype(np.float16),
        "ident": (100 * identity).astype(np.float16),
        "names": np.array(ict_layout.NAMES),
    }


def ict_clone(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write the arrays as a clone of the repository has them: OBJ files in FaceXModel."""
    home = folder / "FaceXModel"
    home.mkdir(parents=True)
    rows = arrays["neutral"].astype(np.float64)
    faces = "".join(f"f {a}/1/1 {b}/1/1 {c}/1/1\n" for a, b, c in (arrays["tri"] + 1).tolist())

    def line(x: float, y: float, z: float) -> str:
        return f"v {x:.6g} {y:.6g} {z:.6g}\n"

    still = [line(*row) for row in rows.tolist()]

    def write(name: str, vertices: np.ndarray, more: str) -> None:
        lines = still.copy()  # most vertices lie still in most shapes
        for k in np.nonzero((vertices != rows).any(1))[0]:
            lines[k] = line(*vertices[k])
        text = "".join(lines)
        (home / f"{name}.obj").write_text("# miniature\nvt 0 0\nvn 0 0 1\n" + text + more)

    write("generic_neutral_mesh", rows, faces)
    for k, name in enumerate(arrays["names"].tolist()):
        write(name, rows + arrays["expr"][k], "")
    for k, shape in enumerate(arrays["ident"]):
        write(f"identity{k:03d}", rows + shape, "")
    return folder


def flame_arrays() -> dict[str, np.ndarray]:
    """FLAME's arrays: our face on its own joints, expressions that mix the drawn shapes; metres."""
    sides, fine = skin()
    neutral = lattice_table().neutral.double()
    points = subdivided(neutral[:SKIN_POINTS].numpy(), sides)
    count, n = 5023, len(points)
    whole = np.zeros((count, 3))
    whole[:n] = points
    weights = np.zeros((count, 5))
    weights[:, 1] = 1
    follow = Drawing(neutral).jaw_weight().numpy()[:SKIN_POINTS, None]
    weights[:n, 2] = subdivided(follow, sides)[:, 0]
    weights[:n, 1] = 1 - weights[:n, 2]
    triangles, at = [fine], n
    for eye, centre in enumerate(centres()):
        whole[at : at + 300], own = ball(centre, 300)
        weights[at : at + 300] = np.eye(5)[3 + eye]
        triangles.append(own + at)
        at += 300
    ears = neutral[[454, 234]].mean(0).numpy()
    joints = np.stack([
        [0, -0.1, -0.03], [0, -0.06, -0.02], ears + np.array([0.0, -0.008, -0.018]), *centres()
    ])  # fmt: skip
    whole[-5:] = joints
    regressor = np.zeros((5, count))
    regressor[np.arange(5), np.arange(count - 5, count)] = 1
    random = np.random.default_rng(5)
    mix = np.linalg.qr(random.normal(size=(52, 52)))[0]
    drawn = generic_arkit_basis().double().numpy()[:, :SKIN_POINTS]
    shapes = np.zeros((count, 3, 400))
    mixed = subdivided(np.einsum("ke,elc->klc", mix, drawn), sides)
    shapes[:n, :, 300:352] = mixed.transpose(1, 2, 0)
    for axis in range(3):
        shapes[:n, axis, axis] = 0.04 * points[:, axis]
    return {
        "v_template": whole,
        "f": np.concatenate(triangles).astype(np.uint32),
        "shapedirs": shapes,
        "posedirs": 1e-4
        * random.normal(size=(count, 3, 36))
        * (np.arange(count) < n)[:, None, None],
        "J_regressor": regressor,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
        "weights": weights,
    }


def flame_pickle(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2) -> Path:
    """Write the arrays as FLAME's site has them: a pickle with chumpy's and scipy's classes in it."""
    module = types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

        def __getstate__(self) -> dict[str, np.ndarray]:
            return {"x": self.x}

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch  # type: ignore[attr-defined]
    packages = {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": module}
    wrapped = {
        **arrays,
        "shapedirs": Ch(arrays["shapedirs"]),
        "v_template": Ch(arrays["v_template"]),
        "J_regressor": csc_matrix(arrays["J_regressor"]),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    sys.modules.update(packages)
    try:
        path.write_bytes(pickle.dumps(wrapped, protocol))
    finally:
        for name in packages:
            del sys.modules[name]
    return path


def head_of(rig, expression: dict[str, float]) -> torch.Tensor:
    """Pose a rig by named coefficients: [V, 3]."""
    values = torch.zeros(len(rig.expression_names))
    for name, value in expression.items():
        values[rig.expression_names.index(name)] = value
    return rig.vertices(values)
