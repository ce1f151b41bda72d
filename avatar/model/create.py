"""Make the first, unfitted avatar of a capture: where Gaussians stand before training moves them.

Face: sampled on the tracked lattice. Skull and hair: surface of the visual hull, that is of all
voxels of the head that stay inside the person mask in every frame (Laurentini 1994). Neck and torso:
mask pixels of a few frames set on a shallow curved surface below the chin. Eyes: on the eyeball
behind the lids' opening. Mouth: two rows of teeth and a dark cavity behind the lips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.model.avatar import FEATURES, Avatar, Person
from avatar.model.binding import HEAD, MOUTH, TORSO, Binding
from avatar.model.deformers import DEFORMERS, DeformerKind
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.lattice import REGIONS, lattice_table
from avatar.rotations import invert_rigid, matrix_to_rotvec, transform_points
from avatar.types import HeadState

CHIN = 152
"""Lattice point at the bottom of the chin."""
FOREHEAD = 10
"""Lattice point at the middle of the forehead's upper edge."""
EYE_CONTOURS = tuple(
    REGIONS[f"eye_corners_{side}"][:1]
    + REGIONS[f"lid_{side}_upper"]
    + REGIONS[f"eye_corners_{side}"][1:]
    + REGIONS[f"lid_{side}_lower"][::-1]
    for side in ("left", "right")
)
"""Closed chains of lattice points around the lids' openings: subject's left, right."""
INNER_LIPS = REGIONS["lip_upper_inner"] + REGIONS["lip_lower_inner"]

MIN_FRAMES = 10
"""Training frames with a face, at least."""
VOXEL_M = 0.006
VIEW_SIDE = 512
"""Longer side, pixels, at which frames are looked at: a voxel is several pixels wide even so, and the
many frames of a 4K clip take 60 MB, not 1.6 GB."""
HIDDEN_DENSITY = 0.2
"""Density of Gaussians where no view looks at the hull, as a share of where one does."""
SHOULDER_Z_M = -0.045
"""Depth of the shoulders' upper edge behind the middle between the ears."""
CHEST_ROUND_M = 0.16
"""How far below the shoulders' edge the chest has come all the way forward."""
BELOW_PICTURE_M = 0.08
"""How far the chest goes on below the picture's lower edge."""
BELOW_COARSER = 1.5
"""There Gaussians stand so much further apart, and are so much larger."""
BEHIND_COARSER = 2.5
"""The same for those that the capture's views do not see."""
BACKING_M = 0.025
"""Distance of the surface that backs neck and chest."""
BEHIND_M = 0.09
"""How far neck and shoulders go on behind their outline, where no view of theirs is filmed."""
TORSO_BELOW_CHIN_M = 0.02
"""How far below the chin the torso begins for its own branch of the deformer."""
FOLLOW_RANGE_M = 0.022
"""Distance over which hair and neck stop following the nearest skin."""

# The hull is only trusted inside a generous head: without side views it is a cone without end.
HEAD_CENTRE_M = (0.0, 0.035, 0.01)
HEAD_SEMI_AXES_M = (0.15, 0.20, 0.13)


@dataclass(frozen=True)
class CreateConfig:
    """Where the first Gaussians go."""

    face: int = 9000
    """Gaussians on the face lattice."""
    hair: int = 5000
    """Gaussians on the visual hull of skull and hair."""
    torso: int = 6000
    """Gaussians on neck and torso."""
    eye: int = 160
    """Gaussians on each eyeball."""
    mouth: int = 480
    """Gaussians on teeth and in the mouth's cavity."""
    deformer: DeformerKind = "branches"
    """What makes of expression and pose the offsets of all Gaussians."""
    shapes: int = 20
    """Number K of learned offset shapes, where the deformer has such."""
    torso_shapes: int = 10
    """The same for the torso, where it has shapes of its own."""
    mouth_shapes: int = 10
    """The same for the inside of the mouth."""
    hidden: int = 64
    """Width of the deformer's network."""
    hull_frames: int = 48
    """Frames that carve the visual hull."""


def spread_frames(track: Track, frames: Tensor, count: int) -> Tensor:
    """Choose up to ``count`` of the frames [n] that differ most in head pose (farthest-point sampling)."""
    T = track.T_world_head[frames]
    mean = T[:, :3, 3].mean(0)
    # 10 cm of translation count as much as one radian.
    points = torch.cat(
        [matrix_to_rotvec(T[0, :3, :3].T @ T[:, :3, :3]), (T[:, :3, 3] - mean) * 10], 1
    )
    chosen = [int(torch.linalg.norm(points - points.median(0).values, dim=1).argmin())]
    distance = torch.linalg.norm(points - points[chosen[0]], dim=1)
    while len(chosen) < min(count, len(frames)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.linalg.norm(points - points[chosen[-1]], dim=1))
    return frames[torch.tensor(sorted(chosen))]


def describe_person(capture: Capture, frames: Tensor) -> Person:
    """Collect the rig and what the training frames [n] say of ranges and the usual pose."""
    track = capture.track
    states = track.states()[frames]
    reference = int(frames[_usual(states.T_world_head)])
    quantiles = torch.tensor([0.02, 0.98])
    low, high = torch.quantile(states.expression, quantiles, dim=0)
    rest = HeadState(
        expression=torch.zeros_like(states.expression[0]),
        gaze=states.gaze.median(0).values,
        T_world_head=track.T_world_head[reference],
        T_world_torso=track.T_world_torso[reference],
    )
    return Person(
        lattice=track.lattice,
        basis=track.basis,
        triangles=lattice_table().triangles,
        eyeballs=track.eyeballs,
        expression_names=track.expression_names,
        expression_low=low,
        expression_high=high,
        rest=rest,
        camera=capture.camera(),
        fps=capture.fps,
    )


def _usual(T: Tensor) -> int:
    """Index of the transform [n, 4, 4] nearest to the middle of all."""
    turns = matrix_to_rotvec(T[0, :3, :3].T @ T[:, :3, :3])
    points = torch.cat([turns, T[:, :3, 3] * 10], 1)
    return int(torch.linalg.norm(points - points.median(0).values, dim=1).argmin())


class _Views:
    """A few frames in memory, ``VIEW_SIDE`` pixels at most, and where head or torso points fall in them."""

    def __init__(self, capture: Capture, frames: Tensor) -> None:
        track = capture.track
        self.frames = frames
        size = capture.size_within(VIEW_SIDE)
        self.camera = capture.camera().scaled(*size)
        self.T_cam_head = self.camera.T_cam_world @ track.T_world_head[frames]
        self.T_cam_torso = self.camera.T_cam_world @ track.T_world_torso[frames]
        self.pictures = np.stack([capture.frame(int(f), size=size) for f in frames])
        self.masks = np.stack([capture.mask(int(f), size=size) for f in frames])

    def project(self, points: Tensor, T_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels [n, 2] and depth [n] of points [n, 3] under one transform [4, 4]."""
        p = transform_points(T_cam, points)
        z = p[:, 2].clamp(min=1e-3)
        uv = p[:, :2] / z[:, None] * torch.stack([self.camera.K[0, 0], self.camera.K[1, 1]])
        return uv + self.camera.K[:2, 2], p[:, 2]

    def sample(self, view: int, uv: Tensor) -> Tensor:
        """Return the colours [n, 3] in [0, 1] of a view at pixels [n, 2] (bilinear)."""
        height, width = self.masks.shape[1:]
        picture = torch.from_numpy(self.pictures[view]).permute(2, 0, 1)[None].float() / 255
        grid = uv / torch.tensor([width, height]) * 2 - 1
        found = torch.nn.functional.grid_sample(
            picture, grid[None, None], padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T

    def covered(self, view: int, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether pixels [n, 2] lie in the picture, and whether on the person there."""
        height, width = self.masks.shape[1:]
        column, row = uv.floor().long().T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        mask = torch.from_numpy(self.masks[view])
        person = mask[row.clamp(0, height - 1), column.clamp(0, width - 1)] > 127
        return inside, inside & person


def need_frames(capture: Capture, frames: Tensor) -> None:
    """Raise InputError unless the training frames with a face [n] are enough for an avatar."""
    if len(frames) < MIN_FRAMES:
        raise InputError(
            f"{capture.path} has {len(frames)} training frames with a face; at least {MIN_FRAMES} are "
            "needed. Film again with the face in view, or give a longer clip."
        )


def create_avatar(
    capture: Capture,
    frames: Tensor,
    config: CreateConfig = CreateConfig(),
    *,
    generator: torch.Generator,
) -> Avatar:
    """Make the avatar from which training starts.

    Args:
        capture: an opened capture with its track.
        frames: [n] indices of the training frames; only valid ones are used.
        config: how many Gaussians go where.
        generator: source of randomness.

    Raises:
        InputError: fewer than ten of the frames show the face.
    """
    track = capture.track
    frames = frames[track.valid[frames].bool()]
    need_frames(capture, frames)
    person = describe_person(capture, frames)
    chosen = spread_frames(track, frames, config.hull_frames)
    # The frame where torso and head frames coincide is the one where the torso can be laid out.
    apart = (track.T_world_head[frames] - track.T_world_torso[frames]).abs().amax((1, 2))
    reference = frames[int(apart.argmin())]
    chosen = torch.cat([reference[None], chosen[chosen != reference]])
    views = _Views(capture, chosen)

    means, colours, scales, torso, eye, rigid = [], [], [], [], [], []
    parts = [
        _face(person, views, config.face, generator),
        _hair(person, views, config.hair, generator),
        _torso(person, views, config.torso, generator),
        *(_eyeball(person, views, side, config.eye, generator) for side in (0, 1)),
        _mouth(person, config.mouth, generator),
    ]
    for part in parts:
        count = len(part.means)
        means.append(part.means)
        colours.append(part.colours)
        scales.append(torch.as_tensor(part.scale_m).expand(count))
        torso.append(part.torso_logits)
        eye.append(torch.full((count,), part.eye, dtype=torch.long))
        rigid.append(part.follow)
    points = torch.cat(means)
    binding = bind(person, points, torch.cat(rigid), torch.cat(eye))
    below = points[:, 1] < person.lattice[CHIN, 1] - TORSO_BELOW_CHIN_M
    kinds = torch.cat([torch.full((len(p.means),), p.kind) for p in parts])
    # Skin under the chin moves with the jaw; the torso's branch does not see that.
    kinds[(kinds == TORSO) & ~(below & (binding.follow < 0.3))] = HEAD
    count = len(points)
    parameters = {
        "means": points,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "log_scales": torch.cat(scales).log()[:, None].repeat(1, 3),
        "logit_opacities": torch.full((count,), math.log(0.7 / 0.3)),
        "colours": torch.cat(colours),
        "torso_logits": torch.cat(torso),
    }
    sizes = {n: getattr(config, n) for n in ("shapes", "torso_shapes", "mouth_shapes", "hidden")}
    by_part = torch.argsort(kinds, stable=True)
    avatar = Avatar(
        person,
        replace(binding, part=kinds)[by_part],
        {name: value[by_part] for name, value in parameters.items()},
        deformer=config.deformer,
        settings={k: v for k, v in sizes.items() if k in DEFORMERS[config.deformer].sizes},
        generator=generator,
    )
    features = torch.stack([avatar.features(track.states()[int(f)]) for f in frames])
    avatar.deformer.feature_mean.copy_(features.mean(0))
    # A coefficient that never moves in training says nothing; its spread must not be blown up.
    floor = torch.cat(
        [torch.full((len(ARKIT_NAMES),), 0.05), torch.full((FEATURES - len(ARKIT_NAMES),), 0.02)]
    )
    avatar.deformer.feature_scale.copy_(torch.maximum(features.std(0), floor))
    return avatar


@dataclass(frozen=True)
class _Part:
    """Gaussians of one region."""

    means: Tensor
    colours: Tensor
    scale_m: float | Tensor
    """Standard deviation, or one for each [n], metres."""
    torso_logits: Tensor
    follow: Tensor
    """[n] share of the skin's motion to take; NaN asks for the usual fade with distance."""
    eye: int = -1
    kind: int = HEAD
    """``HEAD``, ``MOUTH`` or ``TORSO``."""


def _face(person: Person, views: _Views, count: int, generator: torch.Generator) -> _Part:
    """Sample the lattice's triangles by area."""
    corners = person.lattice[person.triangles]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = torch.linalg.norm(cross, dim=1) / 2
    triangle = torch.multinomial(area, count, replacement=True, generator=generator)
    r = torch.rand(count, 2, generator=generator)
    root = r[:, 0].sqrt()
    weights = torch.stack([1 - root, root * (1 - r[:, 1]), root * r[:, 1]], 1)
    points = (corners[triangle] * weights[..., None]).sum(1)
    uv, _ = views.project(points, views.T_cam_head[0])
    scale = 0.6 * math.sqrt(float(area.sum()) / count)
    nan = torch.full((count,), float("nan"))
    return _Part(points, views.sample(0, uv), scale, torch.full((count,), -5.0), nan)


def hull(person: Person, views: _Views) -> tuple[Tensor, Tensor]:
    """Carve the head's visual hull.

    Returns:
        Centres [n, 3] of its surface voxels (head frame) and their outward normals [n, 3].
    """
    low = torch.tensor(HEAD_CENTRE_M) - torch.tensor(HEAD_SEMI_AXES_M)
    high = torch.tensor(HEAD_CENTRE_M) + torch.tensor(HEAD_SEMI_AXES_M)
    axes = [torch.arange(float(a), float(b), VOXEL_M) for a, b in zip(low, high, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shape = grid.shape[:3]
    points = grid.reshape(-1, 3)
    distance = ((points - torch.tensor(HEAD_CENTRE_M)) / torch.tensor(HEAD_SEMI_AXES_M)).norm(dim=1)
    chin = person.lattice[CHIN]
    # A head that fills half an ellipsoid may still touch its shoulders: nothing below the chin.
    possible = (distance < 1) & (points[:, 1] > chin[1])
    seen = torch.zeros(len(points))
    inside = torch.zeros(len(points))
    for view in range(len(views.frames)):
        uv, z = views.project(points, views.T_cam_head[view])
        shown, person_there = views.covered(view, uv)
        shown &= z > 0.05
        seen += shown
        inside += person_there
    # Masks flicker by a pixel or two; a voxel may miss a twentieth of the views.
    # What hardly any view shows is not worth a guess: it would float above a head cut by the frame.
    solid = possible & (inside >= 0.95 * seen) & (seen >= 0.2 * len(views.frames))
    solid = (solid & ~_before_face(person, points)).reshape(shape).float()
    smooth = torch.nn.functional.avg_pool3d(solid[None, None], 5, 1, 2)[0, 0]
    slope = torch.stack(torch.gradient(smooth), -1)
    neighbours = torch.nn.functional.avg_pool3d(solid[None, None], 3, 1, 1)[0, 0]
    surface = (solid > 0) & (neighbours < 0.999)
    normals = -torch.nn.functional.normalize(slope[surface], dim=-1)
    return grid[surface], normals


def _before_face(person: Person, points: Tensor) -> Tensor:
    """Whether points [n, 3] lie at or before the face's surface, where the lattice knows better."""
    nearest, distance = nearest_vertex(person.lattice[:, :2], points[:, :2])
    before = (distance < 0.012) & (points[:, 2] > person.lattice[nearest, 2] - 0.012)
    # Above the lattice a hull seen from the front alone hangs over like the peak of a cap; hair
    # stands out from the forehead by a finger's breadth at most and falls back as the skull does.
    above = points[:, 1] - person.lattice[FOREHEAD, 1]
    brim = person.lattice[FOREHEAD, 2] + 0.012 - 0.25 * above
    return before | ((above > 0) & (points[:, 2] > brim))


def nearest_vertex(vertices: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index [n] of and the distance [n] to the nearest vertex [V, d] of points [n, d]."""
    found = [torch.cdist(chunk, vertices).min(1) for chunk in points.split(16384)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def _hair(person: Person, views: _Views, count: int, generator: torch.Generator) -> _Part:
    """Sample the hull's surface, mostly where some view looks at it."""
    surface, normals = hull(person, views)
    if len(surface) == 0:
        return _Part(torch.zeros(0, 3), torch.zeros(0, 3), VOXEL_M, torch.zeros(0), torch.zeros(0))
    facing = torch.full((len(surface), len(views.frames)), -1.0)
    for view in range(len(views.frames)):
        T = views.T_cam_head[view]
        eye = -T[:3, :3].T @ T[:3, 3]
        uv, _ = views.project(surface, T)
        _, there = views.covered(view, uv)
        cosine = (torch.nn.functional.normalize(eye - surface, dim=1) * normals).sum(1)
        facing[:, view] = torch.where(there, cosine, facing[:, view])
    best, view_of = facing.max(1)
    weight = torch.where(best > 0.05, 1.0, HIDDEN_DENSITY)
    index = torch.multinomial(weight, count, replacement=True, generator=generator)
    jitter = (torch.rand(count, 3, generator=generator) - 0.5) * VOXEL_M
    points = surface[index] + jitter
    colours = torch.zeros(count, 3)
    for view in range(len(views.frames)):
        rows = view_of[index] == view
        uv, _ = views.project(points[rows], views.T_cam_head[view])
        colours[rows] = views.sample(view, uv)
    hidden = best[index] <= 0.05
    if (~hidden).any():  # what no view sees takes the colour of the hair that one does
        high = ~hidden & (points[:, 1] > points[:, 1].median())
        colours[hidden] = colours[high if high.any() else ~hidden].median(0).values
    # The fit leaves alone what no view sees, so that must close the back of the head as it stands.
    scale = 0.6 * VOXEL_M * (weight.sum() / weight[index] / count).sqrt()
    nan = torch.full((count,), float("nan"))
    return _Part(points, colours, scale, torch.full((count,), -4.0), nan)


@dataclass(frozen=True)
class _Torso:
    """A generic neck and chest under a person's own shoulder line, torso frame, metres."""

    chin_y: float
    x: Tensor
    """[n] ascending."""
    shoulder_y: Tensor
    """[n] height of the shoulders' upper edge there."""

    def depth(self, x: Tensor, y: Tensor) -> Tensor:
        """Depth z of the surface at x, y [n]: a cylinder, the neck, that opens to a rounded chest.

        The shoulders' edge is where the trunk turns away from the camera, so it lies further back than
        the chest: in upright people acromion and trapezius are some 4 cm behind the ears, and the notch
        above the breastbone 2 cm before them.
        """
        below = self.chin_y - y
        neck = -0.03 + (0.065**2 - x.clamp(-0.06, 0.06) ** 2).sqrt()
        front = (0.035 - 1.2 * x**2).clamp(min=SHOULDER_Z_M)
        down = ((self.height_at(x) - y) / CHEST_ROUND_M).clamp(0, 1)
        chest = torch.lerp(torch.full_like(x, SHOULDER_Z_M), front, (down * (math.pi / 2)).sin())
        apart = torch.maximum((below - 0.03) / 0.07, (x.abs() - 0.055) / 0.03).clamp(0, 1)
        return torch.lerp(neck, chest, apart)

    def height_at(self, x: Tensor) -> Tensor:
        """Height of the shoulders' upper edge at x [n]; beyond the ends it stays."""
        at = torch.searchsorted(self.x, x.contiguous()).clamp(1, len(self.x) - 1)
        low, high = self.x[at - 1], self.x[at]
        share = ((x - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.shoulder_y[at - 1], self.shoulder_y[at], share)

    def meet(self, uv: Tensor, views: _Views, view: int) -> Tensor:
        """Return where [n, 3] the rays of a view's pixels [n, 2] meet the surface, torso frame."""
        K, T_torso_cam = views.camera.K, invert_rigid(views.T_cam_torso[view])
        rays = torch.cat([(uv - K[:2, 2]) / K.diag()[:2], torch.ones(len(uv), 1)], 1)
        direction = rays @ T_torso_cam[:3, :3].T
        origin = T_torso_cam[:3, 3]
        z = torch.zeros(len(uv))
        for _ in range(
            6
        ):  # fixed point, damped: the ray meets a surface that slopes little along it
            p = origin + direction * ((z - origin[2]) / direction[:, 2])[:, None]
            z = torch.lerp(z, self.depth(p[:, 0], p[:, 1]), 0.7)
        return origin + direction * ((z - origin[2]) / direction[:, 2])[:, None]


def _torso_surface(person: Person, views: _Views, free: np.ndarray) -> _Torso:
    """Take the shoulder line from the mask below the head, ``free`` [H, W] of the reference view."""
    chin_y = float(person.lattice[CHIN, 1])
    columns = np.nonzero(free.any(0))[0]
    level = _Torso(chin_y, torch.tensor([-1.0, 1.0]), torch.full((2,), chin_y - 0.08))
    if len(columns) < 8:
        return level
    top = free.argmax(0)[columns]
    uv = torch.from_numpy(np.stack([columns + 0.5, top + 0.5], 1)).float()
    K, T_torso_cam = views.camera.K, invert_rigid(views.T_cam_torso[0])
    rays = torch.cat([(uv - K[:2, 2]) / K.diag()[:2], torch.ones(len(uv), 1)], 1)
    direction, origin = rays @ T_torso_cam[:3, :3].T, T_torso_cam[:3, 3]
    p = origin + direction * ((SHOULDER_Z_M - origin[2]) / direction[:, 2])[:, None]
    # At the neck the mask's edge is neck, and above the chin it is hair; the line goes straight across.
    p = p[(p[:, 0].abs() > 0.085) & (p[:, 1] < chin_y - 0.01)]
    if len(p) < 8:
        return level
    p = p[p[:, 0].argsort()]
    return _Torso(chin_y, p[:, 0].contiguous(), p[:, 1].contiguous())


def _behind_surface(
    surface: _Torso, views: _Views, step: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Back the surface with a coarser one, points and colours [n, 3] as ``_behind_edge`` returns them.

    The fit closes gaps between Gaussians only as its own views see them; from aside there are others, and
    what stands behind them must not be the background.
    """
    free = (views.masks[0] > 127) & _without_head_rows(surface.chin_y, views)
    uv = _grid_pixels(
        cv2.erode(free.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0, step, generator
    )
    points = surface.meet(uv, views, 0)
    eye = invert_rigid(views.T_cam_torso[0])[:3, 3]
    points = points + torch.nn.functional.normalize(points - eye, dim=1) * BACKING_M
    return points, views.sample(0, uv)


def _behind_edge(
    surface: _Torso, views: _Views, step: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Let neck and shoulders go on behind their outline in the reference view, as a rounded body does.

    No pixel of that view sees it; a camera from aside or from above does.

    Args:
        surface: neck and chest.
        views: the views; the first is the reference.
        step: distance of the points, pixels.
        generator: source of randomness.

    Returns:
        Points [n, 3] in the torso frame and their colours [n, 3].
    """
    mask = (views.masks[0] > 127).astype(np.uint8)
    below = _without_head_rows(surface.chin_y, views)
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=1)
    rows, columns = np.nonzero((mask > inner) & below)
    if len(rows) == 0:
        return torch.zeros(0, 3), torch.zeros(0, 3)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 4.0, borderType=cv2.BORDER_REPLICATE)
    inward = np.stack([np.gradient(soft, axis=1), np.gradient(soft, axis=0)], -1)[rows, columns]
    inward = torch.nn.functional.normalize(torch.from_numpy(inward).float(), dim=1)
    uv = torch.from_numpy(np.stack([columns + 0.5, rows + 0.5], 1)).float()
    pixels_m = float(views.T_cam_torso[0, 2, 3]) / float(views.camera.K[0, 0])
    layers = max(2, round(BEHIND_M / (step * pixels_m)))
    count = max(1, round(len(uv) / step)) * layers
    which = torch.randint(0, len(uv), (count,), generator=generator)
    depth = torch.rand(count, generator=generator) * BEHIND_M * 0.98
    # A quarter of a circle: it leaves the outline straight backwards and ends going inwards.
    aside = BEHIND_M - (BEHIND_M**2 - depth**2).sqrt()
    start = surface.meet(uv[which] + inward[which], views, 0)
    R = views.T_cam_torso[0, :3, :3].T
    eye = invert_rigid(views.T_cam_torso[0])[:3, 3]
    away = torch.nn.functional.normalize(start - eye, dim=1)
    flat = torch.cat([inward[which], torch.zeros(count, 1)], 1) @ R.T
    points = start + away * depth[:, None] + flat * aside[:, None]
    keep = (points[:, 1] < surface.chin_y) & (start[:, 2].abs() < 0.2)
    keep &= (start[:, 0].abs() > 0.085) & (depth > 0.03)
    return points[keep], views.sample(0, uv[which] + 3 * inward[which])[keep]


def _without_head_rows(chin_y: float, views: _Views) -> np.ndarray:
    """Which pixels [H, W] of the reference view lie below the chin."""
    chin, _ = views.project(torch.tensor([[0.0, chin_y, 0.0]]), views.T_cam_torso[0])
    rows = np.arange(views.masks.shape[1]) > float(chin[0, 1])
    return np.repeat(rows[:, None], views.masks.shape[2], 1)


def _torso(person: Person, views: _Views, count: int, generator: torch.Generator) -> _Part:
    """Set the mask's pixels that are no head on a generic surface, first from the reference view.

    Where the picture's lower edge cuts the chest, it goes on for a hand's breadth, mirrored: a camera
    that looks from a little further up would see a hole there.
    """
    chin_y = float(person.lattice[CHIN, 1])
    height = views.masks.shape[1]
    points: list[Tensor] = []
    colours: list[Tensor] = []
    scales: list[Tensor] = []
    step = 1.0
    surface = _torso_surface(person, views, _without_head(person, views, 0))
    pixels_m = float(views.T_cam_torso[0, 2, 3]) / float(views.camera.K[0, 0])
    # The reference view, then the few that differ most, for what it does not show.
    for order, view in enumerate(range(0, len(views.frames), max(1, len(views.frames) // 6))):
        free = _without_head(person, views, view)
        if order == 0:
            step = max(1.0, math.sqrt((np.count_nonzero(free) or 1) / (0.9 * count)))
        uv = _grid_pixels(free, step, generator)
        coarse = torch.zeros(len(uv))
        if order == 0:
            beyond = round(BELOW_PICTURE_M / pixels_m)
            cut = np.repeat(free[-1:], beyond, 0)
            below = _grid_pixels(cut, BELOW_COARSER * step, generator) + torch.tensor([0, height])
            uv = torch.cat([uv, below])
            coarse = torch.cat([coarse, torch.ones(len(below))])
        p = surface.meet(uv, views, view)
        # Where a ray grazes the surface the fixed point runs away; a torso is not out there.
        keep = (p[:, 1] < chin_y + 0.03) & (p[:, 2].abs() < 0.2) & (p[:, 0].abs() < 0.5)
        if points and len(p):
            _, distance = nearest_vertex(torch.cat(points), p)
            keep &= distance > 1.5 * step * float(views.camera.K[0, 0]) ** -1 * 0.6
        if order > 0:
            keep[torch.randperm(len(p), generator=generator)[int(0.1 * count) :]] = False
        p, uv, coarse = p[keep], uv[keep], coarse[keep]
        points.append(p)
        scales.append(0.6 * step * pixels_m * torch.where(coarse > 0, BELOW_COARSER, 1.0))
        mirrored = torch.stack([uv[:, 0], torch.minimum(uv[:, 1], 2 * height - uv[:, 1])], 1)
        _, there = views.covered(view, mirrored)
        mirrored[~there, 1] = uv[~there, 1].clamp(max=height - 2)
        colours.append(views.sample(view, mirrored))
    wide = BEHIND_COARSER * step
    for more, their_colours in (
        _behind_surface(surface, views, wide, generator),
        _behind_edge(surface, views, wide, generator),
    ):
        points.append(more)
        colours.append(their_colours)
        scales.append(torch.full((len(more),), 0.75 * wide * pixels_m))
    p, c, scale = torch.cat(points), torch.cat(colours), torch.cat(scales)
    logits = ((chin_y - 0.03 - p[:, 1]) / 0.015).clamp(-4, 5)
    nan = torch.full((len(p),), float("nan"))
    return _Part(p, c, scale, logits, nan, kind=TORSO)


def _without_head(person: Person, views: _Views, view: int) -> np.ndarray:
    """The person mask of a view less the head: bool [H, W]."""
    T = views.T_cam_head[view]
    outline, _ = views.project(person.lattice, T)
    convex = cv2.convexHull(outline.numpy().astype(np.int32))
    free = views.masks[view] > 127
    head = np.zeros(free.shape, np.uint8)
    cv2.fillConvexPoly(head, convex, (1,))
    # Above the ears' height nothing is torso.
    ears, _ = views.project(torch.tensor([[-0.07, -0.03, 0.0], [0.07, -0.03, 0.0]]), T)
    top = int(np.clip(float(ears[:, 1].max()), 0, free.shape[0]))
    free[:top] = False
    return free & (head == 0)


def _grid_pixels(free: np.ndarray, step: float, generator: torch.Generator) -> Tensor:
    """Jittered grid of pixel positions [n, 2] (x, y) with spacing ``step`` where ``free`` holds."""
    height, width = free.shape
    y, x = torch.meshgrid(
        torch.arange(0, height, step), torch.arange(0, width, step), indexing="ij"
    )
    uv = torch.stack([x, y], -1).reshape(-1, 2)
    uv = uv + torch.rand(uv.shape, generator=generator) * step
    column = uv[:, 0].long().clamp(0, width - 1)
    row = uv[:, 1].long().clamp(0, height - 1)
    return uv[torch.from_numpy(free)[row, column]]


def _eyeball(
    person: Person, views: _Views, side: int, count: int, generator: torch.Generator
) -> _Part:
    """Sample the eyeball behind the lids' opening, a little beyond it so that turning shows no gap."""
    contour = person.lattice[torch.tensor(EYE_CONTOURS[side])]
    centre = person.eyeballs[side]
    middle = contour.mean(0)
    radius = float(torch.linalg.norm(contour - centre, dim=1).median()) * 0.98
    polygon = ((contour[:, :2] - middle[:2]) * 1.25).numpy().astype(np.float32)
    low, high = torch.from_numpy(polygon.min(0)), torch.from_numpy(polygon.max(0))
    drawn = torch.rand(count * 8, 2, generator=generator) * (high - low) + low
    inside = [cv2.pointPolygonTest(polygon, (float(x), float(y)), False) >= 0 for x, y in drawn]
    flat = drawn[torch.tensor(inside)][:count] + middle[:2]
    offset = flat - centre[:2]
    z = centre[2] + (radius**2 - (offset**2).sum(1)).clamp(min=(0.3 * radius) ** 2).sqrt()
    points = torch.cat([flat, z[:, None]], 1)
    uv, _ = views.project(points, views.T_cam_head[0])
    area = float(np.prod((high - low).numpy())) * 0.7
    scale = 0.6 * math.sqrt(area / max(1, len(points)))
    zero = torch.zeros(len(points))
    return _Part(points, views.sample(0, uv), scale, zero - 5, zero, eye=side)


def _mouth(person: Person, count: int, generator: torch.Generator) -> _Part:
    """Two rows of teeth and a dark cavity behind the lips."""
    lips = person.lattice[torch.tensor(INNER_LIPS)]
    middle = lips.mean(0)
    half = float(lips[:, 0].max() - lips[:, 0].min()) / 2
    rows = count // 3
    u = torch.rand(3, rows, 2, generator=generator) * 2 - 1

    def arch(u: Tensor, low_m: float, high_m: float, back_m: float) -> Tensor:
        x = u[:, 0] * half * 0.9
        y = low_m + (u[:, 1] + 1) / 2 * (high_m - low_m)
        z = -back_m - 12.0 * x**2  # a dental arch: 6 mm further back at 22 mm aside
        return torch.stack([x, y, z], 1) + middle

    upper = arch(u[0], -0.003, 0.007, 0.007)
    lower = arch(u[1], -0.010, -0.002, 0.009)
    cavity = arch(u[2], -0.022, 0.010, 0.025)
    colours = torch.tensor([[0.62, 0.54, 0.50], [0.55, 0.46, 0.43], [0.16, 0.07, 0.07]])
    follow = torch.cat([torch.zeros(rows), torch.ones(rows), torch.full((rows,), 0.5)])
    scale = 0.6 * math.sqrt(2 * half * 0.012 / rows)
    points = torch.cat([upper, lower, cavity])
    return _Part(
        points,
        colours.repeat_interleave(rows, 0),
        scale,
        torch.full((3 * rows,), -5.0),
        follow,
        kind=MOUTH,
    )


def bind(person: Person, points: Tensor, follow: Tensor, eye: Tensor) -> Binding:
    """Hang canonical points [N, 3] on the lattice.

    ``follow`` NaN fades with the distance to the skin; a number stands, and then the point takes
    the motion of the chin (that is how lower teeth know the jaw).
    """
    face = person.triangles
    corners = person.lattice[face]
    centroid = corners.mean(1)
    triangle, _ = nearest_vertex(centroid, points)
    fixed = ~torch.isnan(follow)
    chin = int((face == CHIN).any(1).nonzero()[0, 0])
    triangle[fixed] = chin
    weights = barycentric_weights(corners[triangle], points)
    at_chin = (face[chin] == CHIN).float()
    weights[fixed] = at_chin
    nearest = (corners[triangle] * weights[..., None]).sum(1)
    distance = torch.linalg.norm(points - nearest, dim=1)
    fade = torch.exp(-((distance / FOLLOW_RANGE_M) ** 2))
    part = torch.full_like(eye, HEAD)
    return Binding(triangle, weights, torch.where(fixed, follow.nan_to_num(), fade), eye, part)


def barycentric_weights(corners: Tensor, points: Tensor) -> Tensor:
    """Barycentric weights [n, 3] of the points [n, 3] nearest in triangles [n, 3, 3], held inside."""
    a, b, c = corners.unbind(1)
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(1), (ab * ac).sum(1), (ac * ac).sum(1)
    d20, d21 = (ap * ab).sum(1), (ap * ac).sum(1)
    determinant = (d00 * d11 - d01 * d01).clamp(min=1e-12)
    v = (d11 * d20 - d01 * d21) / determinant
    w = (d00 * d21 - d01 * d20) / determinant
    weights = torch.stack([1 - v - w, v, w], 1).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
