"""Make the first, unfitted avatar of a capture: where Gaussians stand before training moves them.

Face: sampled on the tracked lattice. Skull and hair: surface of the visual hull, that is of all
voxels of the head that stay inside the person mask in every frame (Laurentini 1994). Neck and torso:
mask pixels of a few frames set on a shallow curved surface below the chin. Eyes and the
inside of the mouth: see ``create_features`` and ``mouth``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.model.avatar import FEATURES, Avatar, Person
from avatar.model.binding import HEAD, TORSO
from avatar.model.create_around import best_views, seen_from_around, torso_around
from avatar.model.create_features import (
    CHIN,
    Part,
    bind,
    clear_openings,
    eyeball,
    largest_areas,
    mouth,
    near_openings,
    nearest_vertex,
    with_inner_rig,
)
from avatar.model.create_torso import torso
from avatar.model.create_views import Views, frontal_camera
from avatar.model.deformers import DEFORMERS, DeformerKind
from avatar.model.mouth import inner_rig
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rig.lattice import SKIN_POINTS, lattice_table
from avatar.rotations import matrix_to_rotvec
from avatar.types import HeadState

FOREHEAD = 10
"""Lattice point at the middle of the forehead's upper edge."""

MIN_FRAMES = 10
"""Training frames with a face, at least."""
EDGE_DENSITY = 2.5
"""Gaussians on lips and lids, by those on as much skin elsewhere."""
VOXEL_M = 0.006
TORSO_BELOW_CHIN_M = 0.02
"""How far below the chin the torso begins for its own branch of the deformer."""
HIDDEN_DENSITY = 0.2
"""Density of Gaussians where no view looks at the hull, as a share of where one does."""
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
    eye: int = 220
    """Gaussians on each eyeball."""
    mouth: int = 720
    """Gaussians on teeth and tongue and on the wall behind them."""
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
    return frames[_spread(track.T_world_head[frames], count)]


def spread_views(track: Track, frames: Tensor, cameras: Tensor, count: int) -> Tensor:
    """Choose up to ``count`` of the pictures, frames [n] of cameras [n], that see the head most differently.

    Returns:
        Their places among the n, ascending.
    """
    return _spread(track.T_cam_world[cameras] @ track.T_world_head[frames], count)


def _spread(T: Tensor, count: int) -> Tensor:
    """Return the places, ascending, of up to ``count`` of transforms [n, 4, 4] that differ most."""
    mean = T[:, :3, 3].mean(0)
    # 10 cm of translation count as much as one radian.
    points = torch.cat(
        [matrix_to_rotvec(T[0, :3, :3].T @ T[:, :3, :3]), (T[:, :3, 3] - mean) * 10], 1
    )
    chosen = [int(torch.linalg.norm(points - points.median(0).values, dim=1).argmin())]
    distance = torch.linalg.norm(points - points[chosen[0]], dim=1)
    while len(chosen) < min(count, len(T)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.linalg.norm(points - points[chosen[-1]], dim=1))
    return torch.tensor(sorted(chosen))


def choose_views(capture: Capture, frames: Tensor, cameras: Sequence[int], count: int) -> Views:
    """Open the pictures from which the first Gaussians are laid out.

    Args:
        capture: where from.
        frames: [n] valid training frames.
        cameras: indices of the cameras whose pictures may be looked at.
        count: pictures of all cameras together, about.

    Returns:
        First the frame where torso and head frames coincide, in which the torso can be laid out, as the
        camera before the face sees it; with several cameras, that frame from each of the others; then
        those that see the head most differently.
    """
    track = capture.track
    front = frontal_camera(capture, frames, cameras)
    seen = with_pictures(capture, frames, front)
    apart = (track.T_world_head[seen] - track.T_world_torso[seen]).abs().amax((1, 2))
    reference = seen[int(apart.argmin())]
    if len(cameras) == 1:
        chosen = spread_frames(track, seen, count)
        chosen = torch.cat([reference[None], chosen[chosen != reference]])
        return Views(capture, chosen, torch.full_like(chosen, front))
    by_camera = {k: with_pictures(capture, frames, k) for k in cameras}
    f = torch.cat(list(by_camera.values()))
    k = torch.cat([torch.full_like(their, camera) for camera, their in by_camera.items()])
    spread = spread_views(track, f, k, count)
    spread = spread[f[spread] != reference]
    others = [c for c in cameras if c != front and bool((by_camera[c] == reference).any())]
    first = torch.tensor([front, *others])
    return Views(
        capture, torch.cat([reference.expand(len(first)), f[spread]]), torch.cat([first, k[spread]])
    )


def with_pictures(capture: Capture, frames: Tensor, camera: int) -> Tensor:
    """Those of the frames [n] of which a camera has a picture."""
    missing = capture.cameras[camera].missing
    if not missing:
        return frames
    return frames[torch.tensor([int(f) not in missing for f in frames], dtype=torch.bool)]


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
    person = Person(
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
    inner = inner_rig(track.lattice, track.basis, track.expression_names)
    return with_inner_rig(person, inner)


def _usual(T: Tensor) -> int:
    """Index of the transform [n, 4, 4] nearest to the middle of all."""
    turns = matrix_to_rotvec(T[0, :3, :3].T @ T[:, :3, :3])
    points = torch.cat([turns, T[:, :3, 3] * 10], 1)
    return int(torch.linalg.norm(points - points.median(0).values, dim=1).argmin())


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
    cameras: Sequence[int] | None = None,
    generator: torch.Generator,
) -> Avatar:
    """Make the avatar from which training starts.

    Args:
        capture: an opened capture with its track.
        frames: [n] indices of the training frames; only valid ones are used.
        config: how many Gaussians go where.
        cameras: indices of the cameras whose pictures are looked at; the main one where None.
        generator: source of randomness.

    Raises:
        InputError: fewer than ten of the frames show the face.
    """
    track = capture.track
    frames = frames[track.valid[frames].bool()]
    need_frames(capture, frames)
    person = describe_person(capture, frames)
    views = choose_views(capture, frames, cameras or (capture.main,), config.hull_frames)

    body = torso_around if seen_from_around(views) else torso
    means, colours, scales, opacities, torso_logits, eye, rigid = [], [], [], [], [], [], []
    triangles, weights = [], []
    parts = [
        _face(person, views, config.face, generator),
        clear_openings(person, _hair(person, views, config.hair, generator)),
        clear_openings(person, body(person, views, config.torso, generator)),
        *(eyeball(person, side, config.eye, views.colours, generator) for side in (0, 1)),
        mouth(person, config.mouth, views.colours, generator),
    ]
    for part in parts:
        count = len(part.means)
        means.append(part.means)
        colours.append(part.colours)
        scales.append(torch.as_tensor(part.scale_m).expand(count))
        opacities.append(torch.as_tensor(part.opacity).expand(count))
        torso_logits.append(part.torso_logits)
        eye.append(torch.full((count,), part.eye, dtype=torch.long))
        rigid.append(part.follow)
        known = part.triangle is not None and part.weights is not None
        triangles.append(part.triangle if known else torch.full((count,), -1))
        weights.append(part.weights if known else torch.zeros(count, 3))
    points = torch.cat(means)
    kinds = torch.cat([torch.full((len(p.means),), p.kind) for p in parts])
    hung = (torch.cat(triangles), torch.cat(weights))
    binding = bind(person, points, torch.cat(rigid), torch.cat(eye), *hung)
    # Skin under the chin moves with the jaw; the torso's branch does not see that.
    below = points[:, 1] < person.lattice[CHIN, 1] - TORSO_BELOW_CHIN_M
    kinds[(kinds == TORSO) & ~(below & (binding.follow < 0.3))] = HEAD
    count = len(points)
    parameters = {
        "means": points,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "log_scales": torch.cat(scales).log()[:, None].repeat(1, 3),
        "logit_opacities": torch.logit(torch.cat(opacities)),
        "colours": torch.cat(colours),
        "torso_logits": torch.cat(torso_logits),
    }
    sizes = {n: getattr(config, n) for n in ("shapes", "torso_shapes", "mouth_shapes", "hidden")}
    by_part = torch.argsort(kinds, stable=True)
    avatar = Avatar(
        person,
        replace(binding, part=kinds)[by_part],
        {name: value[by_part] for name, value in parameters.items()},
        deformer=config.deformer,
        settings={k: v for k, v in sizes.items() if k in DEFORMERS[config.deformer].sizes},
        header={"rig": track.rig},
        generator=generator,
    )
    features = torch.stack([avatar.features(track.states()[int(f)]) for f in frames])
    avatar.deformer.feature_mean.copy_(features.mean(0))
    # A coefficient that never moves in training says nothing; its spread must not be blown up.
    floor = torch.full((FEATURES,), 0.02)
    floor[: len(ARKIT_NAMES)] = 0.05
    avatar.deformer.feature_scale.copy_(torch.maximum(features.std(0), floor))
    return avatar


def _face(person: Person, views: Views, count: int, generator: torch.Generator) -> Part:
    """Sample the skin's triangles by the largest area that a shape gives them."""
    skin = lattice_table().triangles
    area = largest_areas(person.lattice, person.basis, skin)
    # Lips and lids are small, and what is behind them must not shine through.
    dense = torch.where(near_openings(), EDGE_DENSITY, 1.0)
    triangle = torch.multinomial(area * dense, count, replacement=True, generator=generator)
    r = torch.rand(count, 2, generator=generator)
    root = r[:, 0].sqrt()
    weights = torch.stack([1 - root, root * (1 - r[:, 1]), root * r[:, 1]], 1)
    points = (person.lattice[skin][triangle] * weights[..., None]).sum(1)
    scale = 0.6 * (float((area * dense).sum()) / count / dense[triangle]).sqrt()
    colours = views.colours(points)
    reference = [k for k in range(len(views)) if int(views.frames[k]) == int(views.frames[0])]
    if len(reference) > 1:
        # Other cameras of that moment look at cheeks and temples more squarely.
        corners = person.lattice[skin][triangle]
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = torch.nn.functional.normalize(normals, dim=1)
        outward = (points - torch.tensor(HEAD_CENTRE_M)) * normals
        normals = normals * outward.sum(1, keepdim=True).sign()
        spacing = float((area.sum() / count).sqrt())
        view_of, best = best_views(views, views.T_cam_head, points, normals, spacing, reference)
        colours = torch.where(
            (best > 0)[:, None], views.sample_best(view_of, points, views.T_cam_head), colours
        )
    return Part(
        points,
        colours,
        scale,
        torch.full((count,), -5.0),
        torch.ones(count),
        triangle=triangle,
        weights=weights,
    )


def hull(person: Person, views: Views) -> tuple[Tensor, Tensor]:
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
    for view in range(len(views)):
        uv, z = views.project(view, points, views.T_cam_head[view])
        shown, person_there = views.covered(view, uv)
        shown &= z > 0.05
        seen += shown
        inside += person_there
    # Masks flicker by a pixel or two; a voxel may miss a twentieth of the views.
    # What hardly any view shows is not worth a guess: it would float above a head cut by the frame.
    solid = possible & (inside >= 0.95 * seen) & (seen >= 0.2 * len(views))
    solid = (solid & ~_before_face(person, points)).reshape(shape).float()
    smooth = torch.nn.functional.avg_pool3d(solid[None, None], 5, 1, 2)[0, 0]
    slope = torch.stack(torch.gradient(smooth), -1)
    neighbours = torch.nn.functional.avg_pool3d(solid[None, None], 3, 1, 1)[0, 0]
    surface = (solid > 0) & (neighbours < 0.999)
    normals = -torch.nn.functional.normalize(slope[surface], dim=-1)
    return grid[surface], normals


def _before_face(person: Person, points: Tensor) -> Tensor:
    """Whether points [n, 3] lie at or before the face's surface, where the lattice knows better."""
    nearest, distance = nearest_vertex(person.lattice[:SKIN_POINTS, :2], points[:, :2])
    before = (distance < 0.012) & (points[:, 2] > person.lattice[nearest, 2] - 0.012)
    # Above the lattice a hull seen from the front alone hangs over like the peak of a cap; hair
    # stands out from the forehead by a finger's breadth at most and falls back as the skull does.
    above = points[:, 1] - person.lattice[FOREHEAD, 1]
    brim = person.lattice[FOREHEAD, 2] + 0.012 - 0.25 * above
    return before | ((above > 0) & (points[:, 2] > brim))


def _hair(person: Person, views: Views, count: int, generator: torch.Generator) -> Part:
    """Sample the hull's surface, mostly where some view looks at it."""
    surface, normals = hull(person, views)
    if len(surface) == 0:
        return Part(torch.zeros(0, 3), torch.zeros(0, 3), VOXEL_M, torch.zeros(0), torch.zeros(0))
    facing = torch.full((len(surface), len(views)), -1.0)
    for view in range(len(views)):
        T = views.T_cam_head[view]
        eye = -T[:3, :3].T @ T[:3, 3]
        uv, _ = views.project(view, surface, T)
        _, there = views.covered(view, uv)
        cosine = (torch.nn.functional.normalize(eye - surface, dim=1) * normals).sum(1)
        facing[:, view] = torch.where(there, cosine, facing[:, view])
    best, view_of = facing.max(1)
    weight = torch.where(best > 0.05, 1.0, HIDDEN_DENSITY)
    index = torch.multinomial(weight, count, replacement=True, generator=generator)
    jitter = (torch.rand(count, 3, generator=generator) - 0.5) * VOXEL_M
    points = surface[index] + jitter
    colours = views.sample_best(view_of[index], points, views.T_cam_head)
    hidden = best[index] <= 0.05
    if (~hidden).any():  # what no view sees takes the colour of the hair that one does
        high = ~hidden & (points[:, 1] > points[:, 1].median())
        colours[hidden] = colours[high if high.any() else ~hidden].median(0).values
    # The fit leaves alone what no view sees, so that must close the back of the head as it stands.
    scale = 0.6 * VOXEL_M * (weight.sum() / weight[index] / count).sqrt()
    nan = torch.full((count,), float("nan"))
    return Part(points, colours, scale, torch.full((count,), -4.0), nan)
