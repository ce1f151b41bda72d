"""The head of ``avatar sample``: the portrait's own face mesh, given depth, hair and expressions.

Geometry is in portrait pixels: pixels of the photograph relative to the crop's corner, x right,
y down, z away from the camera.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay, KDTree

CROP_X, CROP_Y, CROP = 92, 0, 264
"""The square of the photograph that becomes the frame: the face fills 41 % of its height."""

IRIS_M = 0.0117
"""Diameter of the human iris; it makes the scale of the portrait metric."""

VIEW_DISTANCE = 700.0
"""Portrait pixels from the camera to the portrait's plane: about one metre."""

DEPTH_GAIN = 1.1
"""MediaPipe's depth is flatter than a head is (nose to ear against the width of the face)."""

DEPTH_KNEE, DEPTH_ROOM = 8.0, 18.0
"""Depth beyond the knee (portrait pixels) is squeezed into the room behind it. The photograph shows
the sides of the face at a grazing angle: at their full slope they would fold over or smear when the
head turns."""

DEPTH_SMOOTHING = 0.5
"""Strength of the depth's smoothing, which takes the folds out of the wings of the nose."""

JAW_OPEN_RAD = np.radians(14.0)
"""Rotation of the jaw about the line between its joints at ``jawOpen`` = 1."""

# The outline of hair, ears and jaw, drawn by hand on the photograph (its own pixels). A person
# matte cannot give it: it does not part the head from the collar.
HEAD_OUTLINE = (
    (232, 15.5), (240, 16.5), (250, 19), (258, 22.5), (267, 26.5), (275, 30), (282, 35), (287, 39.5),
    (291, 46), (295, 53), (297.5, 61), (299.5, 70), (301, 79), (302, 86), (300.5, 95), (298, 104),
    (294, 112), (288, 119), (281, 125.5), (279, 130), (275.5, 134.5), (271, 136.8), (267.8, 137),
    (266.6, 143), (264, 150), (261, 155), (257.8, 160), (251, 167), (245, 172), (238, 175.8),
    (230, 178), (221, 178.6), (213, 177), (206, 173.5), (199, 168.8), (192.5, 163), (188.5, 157.5),
    (185.5, 153), (183.8, 147), (182.8, 139), (182.3, 132), (179, 131.6), (175, 129), (172.3, 124.5),
    (170.5, 119.5), (165, 115.5), (159.5, 109.5), (155.5, 102), (154, 92), (153.2, 82), (152.7, 71),
    (155, 60), (160, 52.5), (168, 45), (178, 39.5), (188, 36), (190.5, 30.5), (196, 25.5),
    (203, 22), (212, 20), (221, 18),
)  # fmt: skip

# MediaPipe Face Mesh points. "Right" is the subject's right, at the left of the picture.
_LIP_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
_LIP_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIP_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIP_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
_LIPS = tuple(sorted({*_LIP_OUTER_UPPER, *_LIP_OUTER_LOWER, *LIP_INNER_UPPER, *LIP_INNER_LOWER}))
EYE_UPPER = {
    "Right": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "Left": (263, 466, 388, 387, 386, 385, 384, 398, 362),
}
EYE_LOWER = {
    "Right": (33, 7, 163, 144, 145, 153, 154, 155, 133),
    "Left": (263, 249, 390, 373, 374, 380, 381, 382, 362),
}
IRIS = {"Right": (468, 469, 470, 471, 472), "Left": (473, 474, 475, 476, 477)}
_BROW_INNER = {"Right": (107, 55), "Left": (336, 285)}
_BROW_MIDDLE = {"Right": (66, 65, 105, 52), "Left": (296, 295, 334, 282)}
_BROW_OUTER = {"Right": (63, 53, 70, 46), "Left": (293, 283, 300, 276)}
_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
_NOSE = (1, 2, 4, 5, 6, 19, 94, 98, 327, 168, 195, 197, 48, 278, 64, 294, 129, 358, 49, 279)
_UNDER_EYE = (117, 118, 119, 100, 346, 347, 348, 329, 50, 280)
_EYE_RINGS = tuple(i for side in ("Right", "Left") for i in (*EYE_UPPER[side], *EYE_LOWER[side]))
_BROWS = tuple(
    i
    for part in (_BROW_INNER, _BROW_MIDDLE, _BROW_OUTER)
    for side in ("Right", "Left")
    for i in part[side]
)
_JAW_WEIGHTS = {
    # chin and jaw line
    152: 1.0, 148: 1.0, 176: 1.0, 149: 0.95, 150: 0.85, 136: 0.65, 172: 0.4, 58: 0.18, 132: 0.04,
    93: 0.0, 377: 1.0, 400: 1.0, 378: 0.95, 379: 0.85, 365: 0.65, 397: 0.4, 288: 0.18, 361: 0.04,
    323: 0.0, 199: 1.0, 200: 1.0, 175: 1.0, 18: 1.0,
    # lower lip, outer and inner
    146: 0.50, 91: 0.80, 181: 0.95, 84: 1.0, 17: 1.0, 314: 1.0, 405: 0.95, 321: 0.80, 375: 0.50,
    95: 0.62, 88: 0.87, 178: 0.97, 87: 1.0, 14: 1.0, 317: 1.0, 402: 0.97, 318: 0.87, 324: 0.62,
    # corners
    61: 0.28, 291: 0.28, 78: 0.30, 308: 0.30,
}  # fmt: skip
"""How far points go with the jaw; the upper lip and everything above stay with the skull."""


class HeadMesh:
    """The portrait's head as a triangle mesh with a jaw and named shapes."""

    flat: np.ndarray
    """[V, 3] picture position and depth of the vertices at rest; the first 468 are MediaPipe's."""
    vertices: np.ndarray
    """[V, 3] the same points in space."""
    triangles: np.ndarray
    """[T, 3] vertex indices; eyes and mouth are holes."""
    iris_points: np.ndarray
    """[10, 3] MediaPipe's iris points, picture position and depth."""
    iris_radius: dict[str, float]
    """Side to iris radius."""
    pivot: np.ndarray
    """[3] the point between the ears, about which the head turns."""
    jaw_axis: np.ndarray
    """[3] a point of the line, along x, about which the jaw turns."""
    jaw_weights: np.ndarray
    """[V] how far vertices go with the jaw, [0, 1]."""
    shapes: dict[str, np.ndarray]
    """Name to displacement [V, 3]: ``calm``, ``seal``, ``pucker``, ``narrow``, and for ``Left`` and
    ``Right`` ``blink``, ``browInner``, ``browOuter``."""

    def __init__(self, points: np.ndarray) -> None:
        """Build the mesh from MediaPipe's 478 points [478, 3] in portrait pixels."""
        points = points.copy()
        points[:, 2] = _squeeze(points[:, 2] * DEPTH_GAIN)
        ears = points[[234, 454]].mean(0)
        self.pivot = ears + np.array([0.0, 0.0, 12.0])
        # The joints' true distance from the lips, which the squeezed depth does not have.
        self.jaw_axis = self.pivot + np.array([0.0, 6.0, 12.0])
        self.iris_points = points[468:]
        self.iris_radius = {side: _iris_radius(points, side) for side in IRIS}
        self._build_mesh(points)
        self.shapes = self._build_shapes()
        skull = (*self._still(), *LIP_INNER_UPPER[1:-1], *_LIP_OUTER_UPPER[1:-1])
        self.jaw_weights = self._spread({**dict.fromkeys(skull, 0.0), **_JAW_WEIGHTS})[:, 0].clip(
            0, 1
        )

    @property
    def iris_px(self) -> float:
        """Mean diameter of the irises, portrait pixels: the metric scale."""
        return 2 * float(np.mean(list(self.iris_radius.values())))

    def deform(self, shapes: dict[str, float], jaw: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the vertices [V, 3] of an expression, and the jaw's rotation [3, 3]."""
        vertices = self.vertices.copy()
        for name, weight in shapes.items():
            if weight != 0.0:
                vertices += weight * self.shapes[name]
        turn = _about_x(jaw * JAW_OPEN_RAD)
        swing = (vertices - self.jaw_axis) @ turn.T + self.jaw_axis - vertices
        return vertices + self.jaw_weights[:, None] * swing, turn

    def _build_mesh(self, points: np.ndarray) -> None:
        """Extend the face mesh over hair and ears: vertices, triangles, depth."""
        outline = np.array(HEAD_OUTLINE) - (CROP_X, CROP_Y)
        centre = points[list(_OVAL), :2].mean(0)
        away = outline - centre
        border = outline + 5.0 * away / np.linalg.norm(away, axis=1, keepdims=True)
        oval = points[list(_OVAL), :2].astype(np.float32)
        grid = np.stack(np.meshgrid(np.arange(0, CROP, 8.0), np.arange(0, CROP, 8.0)), -1).reshape(
            -1, 2
        )
        grid = np.array(
            [
                g
                for g in grid
                if cv2.pointPolygonTest(oval, (float(g[0]), float(g[1])), True) < -4
                and cv2.pointPolygonTest(
                    border.astype(np.float32), (float(g[0]), float(g[1])), True
                )
                > 3
            ]
        )
        extra = np.concatenate([border, grid])
        # Hair and ears end about where the ears are; the jaw line has the depth of the face's rim.
        upper = border[:, 1] < 140 - CROP_Y
        rim = KDTree(oval).query(border)[1]
        depth = np.where(
            upper, points[[234, 454], 2].mean() + 3.0, points[list(_OVAL), 2][rim] + 1.0
        )
        known = np.concatenate([points[:468, :2], border])
        known_depth = np.concatenate([points[:468, 2], depth])
        extend = RBFInterpolator(known, known_depth, kernel="thin_plate_spline", smoothing=1.0)
        extra3 = np.column_stack([extra, extend(extra)])
        self.flat = np.concatenate([points[:468], extra3])
        ring = np.concatenate([np.array(_OVAL), np.arange(468, len(self.flat))])
        outer = ring[Delaunay(self.flat[ring, :2]).simplices]
        middle = self.flat[outer, :2].mean(1)
        outside = [cv2.pointPolygonTest(oval, (float(x), float(y)), False) < 0 for x, y in middle]
        triangles = np.concatenate([_face_triangles(), outer[np.array(outside)]])
        a, b, c = (self.flat[triangles[:, k], :2] for k in range(3))
        area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        self.triangles = triangles[np.abs(area) > 1e-3]
        self._solver = _Biharmonic(self.flat, self.triangles)
        self.flat[:, 2] = self._solver.smooth(self.flat[:, 2], DEPTH_SMOOTHING)
        self.vertices = lift(self.flat)

    def _still(self) -> tuple[int, ...]:
        """Points that no expression of the lower face moves."""
        upper_oval = (*_OVAL[:9], *_OVAL[-9:])
        return (*_NOSE, *_UNDER_EYE, *_EYE_RINGS, *_BROWS, *upper_oval)

    def _spread(self, targets: dict[int, float | tuple[float, float, float]]) -> np.ndarray:
        """Spread values at some points smoothly over the mesh; hair stays."""
        values = {i: np.atleast_1d(np.asarray(v, np.float64)) for i, v in targets.items()}
        width = max(len(v) for v in values.values())
        for i in range(468, len(self.flat)):
            if self.flat[i, 1] < 132 - CROP_Y:
                values[i] = np.zeros(width)
        return self._solver.solve(values, width)

    def _build_shapes(self) -> dict[str, np.ndarray]:
        """Displacements [V, 3] of the shapes, each from a few moved points."""
        flat = self.flat
        still = {i: (0.0, 0.0, 0.0) for i in self._still()}
        chin = {i: (0.0, 0.0, 0.0) for i in (152, 148, 377, 176, 400, 149, 378, 150, 379, 136, 365)}
        middle_x = flat[[61, 291], 0].mean()
        shapes: dict[str, np.ndarray] = {}

        # The photograph smiles with teeth. One shape takes the smile away (the corners go in and
        # down), another closes the lips; each lip's outer rim follows its inner one in part.
        half = np.abs(flat[[61, 291], 0] - middle_x).mean()
        line = flat[[13, 14], 1].mean() - 1.6
        calm: dict[int, tuple[float, float, float]] = {}
        seal: dict[int, tuple[float, float, float]] = {}
        for inner, outer, follow in (
            (LIP_INNER_UPPER, _LIP_OUTER_UPPER, 0.35),
            (LIP_INNER_LOWER, _LIP_OUTER_LOWER, 0.8),
        ):
            for i, o in zip(inner, outer, strict=True):
                side = (flat[i, 0] - middle_x) / half
                corner_y = flat[61 if side < 0 else 291, 1]
                contact = line + (corner_y - line) * side**2
                near_corner = min(abs(side), 1.0) ** 3
                close = contact - flat[i, 1]
                seal[i] = (0.0, float(close), 0.0)
                seal[o] = (0.0, float(close * (follow + (1 - follow) * near_corner)), 0.0)
                for k in (i, o):
                    calm[k] = (-0.2 * (flat[k, 0] - middle_x), 3.4 * side**2, near_corner)
        shapes["calm"] = self._spread({**still, **chin, **calm})
        shapes["seal"] = self._spread({**still, **chin, **seal})

        pucker = {
            i: (
                -0.30 * (flat[i, 0] - middle_x),
                0.0,
                -3.5 + 2.0 * abs(flat[i, 0] - middle_x) / half,
            )
            for i in _LIPS
        }
        shapes["pucker"] = self._spread({**still, **chin, **pucker})
        narrow = {i: (-0.14 * (flat[i, 0] - middle_x), 0.0, 0.0) for i in _LIPS}
        shapes["narrow"] = self._spread({**still, **chin, **narrow})

        lids = {i: (0.0, 0.0, 0.0) for i in (*_UNDER_EYE, *_NOSE, *_OVAL)}
        for side in ("Right", "Left"):
            brows = {i: (0.0, 0.0, 0.0) for i in _BROWS}
            blink: dict[int, tuple[float, float, float]] = {}
            for u, lo in zip(EYE_UPPER[side], EYE_LOWER[side], strict=True):
                gap = flat[lo, :2] - flat[u, :2]
                blink[lo] = (0.0, -0.10 * gap[1], 0.0)
                blink[u] = (0.88 * gap[0], 0.88 * gap[1], 0.0)
            shapes[f"blink{side}"] = self._spread({**lids, **brows, **blink})

            eyes = {i: (0.0, 0.0, 0.0) for i in _EYE_RINGS}
            inner = {
                **{i: -3.6 for i in _BROW_INNER[side]},
                **{i: -1.8 for i in _BROW_MIDDLE[side]},
            }
            outer = {
                **{i: -3.2 for i in _BROW_OUTER[side]},
                **{i: -2.4 for i in _BROW_MIDDLE[side]},
            }
            for name, rise in (("browInner", inner), ("browOuter", outer)):
                moved = {i: (0.0, y, 0.0) for i, y in rise.items()}
                rest = {
                    i: (0.0, 0.0, 0.0) for i in _BROWS if i not in moved and name == "browOuter"
                }
                shapes[f"{name}{side}"] = self._spread({**lids, **eyes, **rest, **moved})
        return shapes


def lift(flat: np.ndarray) -> np.ndarray:
    """Undo the perspective: picture position and depth [..., 3] to points in space."""
    space = flat.copy()
    middle = np.array([CROP / 2, CROP / 2])
    space[..., :2] = (flat[..., :2] - middle) * (1 + flat[..., 2:] / VIEW_DISTANCE) + middle
    return space


def project(space: np.ndarray) -> np.ndarray:
    """Perspective: points in space [..., 3] to picture position and depth."""
    flat = space.copy()
    middle = np.array([CROP / 2, CROP / 2])
    flat[..., :2] = (space[..., :2] - middle) / (1 + space[..., 2:] / VIEW_DISTANCE) + middle
    return flat


class _Biharmonic:
    """Smooth interpolation on a triangle mesh: the field of least bending through given values.

    Minimises ||L u||^2 with the graph Laplacian of inverse edge lengths (Botsch and Kobbelt, "An
    intuitive framework for real-time freeform modeling", 2004), which respects the mesh's holes.
    """

    def __init__(self, points: np.ndarray, triangles: np.ndarray) -> None:
        count = len(points)
        weights = np.zeros((count, count))
        for a, b in ((0, 1), (1, 2), (2, 0)):
            i, j = triangles[:, a], triangles[:, b]
            length = np.linalg.norm(points[i] - points[j], axis=1) + 0.3
            weights[i, j] = weights[j, i] = 1 / length
        laplacian = np.diag(weights.sum(1)) - weights
        self.laplacian = laplacian
        self.bending = laplacian @ laplacian + 1e-9 * np.eye(count)

    def smooth(self, values: np.ndarray, strength: float) -> np.ndarray:
        """Smooth values [V]; steps between vertices that nearly coincide go first."""
        return np.linalg.solve(np.eye(len(values)) + strength * self.laplacian, values)

    def solve(self, values: dict[int, np.ndarray], width: int) -> np.ndarray:
        """Return the field [V, width] that has the given values at the given vertices."""
        known = np.array(sorted(values))
        given = np.stack([np.broadcast_to(values[i], (width,)) for i in known])
        free = np.setdiff1d(np.arange(len(self.bending)), known)
        field = np.zeros((len(self.bending), width))
        field[known] = given
        system = self.bending[np.ix_(free, free)]
        field[free] = np.linalg.solve(system, -self.bending[np.ix_(free, known)] @ given)
        return field


def _face_triangles() -> np.ndarray:
    """Triangles [T, 3] of MediaPipe's face mesh, from its list of edges; eyes and mouth are holes."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    edges = {(min(e), max(e)) for e in FACEMESH_TESSELATION}
    near: dict[int, set[int]] = {}
    for a, b in edges:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    cliques = sorted({tuple(sorted((a, b, c))) for a, b in edges for c in near[a] & near[b]})
    uses: dict[tuple[int, int], int] = {}
    for a, b, c in cliques:
        for edge in ((a, b), (b, c), (a, c)):
            uses[edge] = uses.get(edge, 0) + 1
    # Two cliques around the wings of the nose are no faces: each of their edges already has two.
    faces = [t for t in cliques if min(uses[t[0], t[1]], uses[t[1], t[2]], uses[t[0], t[2]]) < 3]
    return np.array(faces)


def _squeeze(depth: np.ndarray) -> np.ndarray:
    """Squeeze depth beyond the knee; smooth, and the identity before it."""
    beyond = np.maximum(depth - DEPTH_KNEE, 0.0)
    return np.minimum(depth, DEPTH_KNEE) + DEPTH_ROOM * (1 - np.exp(-beyond / DEPTH_ROOM))


def _iris_radius(points: np.ndarray, side: str) -> float:
    """Radius of an iris from its four rim points, in the points' unit."""
    _, right, _, left, _ = IRIS[side]
    return float(np.linalg.norm(points[right, :2] - points[left, :2]) / 2)


def _about_x(angle: float) -> np.ndarray:
    """Rotation [3, 3] about the picture's x axis; positive takes y (down) towards z (away)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
