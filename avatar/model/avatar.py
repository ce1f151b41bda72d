"""The avatar: Gaussians bound to the head, posed by a state; and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avatar.capture_data import RIG, need_rig
from avatar.checks import InputError, check
from avatar.model.binding import Binding
from avatar.model.deform import Setup
from avatar.model.deformers import make_deformer
from avatar.model.reach import reach_in
from avatar.model.store import (
    AVATAR_FORMAT,
    AVATAR_TENSORS,
    AVATAR_VERSION,
    check_indices,
    compact,
    deformer_of,
    expand,
    from_version_1,
)
from avatar.model.stretch import Stretch
from avatar.raster.cuda_pose import pose_cuda
from avatar.raster.fused_reference import pose_reference
from avatar.raster.posing import pose_native
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rotations import matrix_to_rotvec, quat_multiply
from avatar.tensorfile import read_tensors, write_tensors
from avatar.types import Camera, Gaussians, HeadState

FEATURES = len(ARKIT_NAMES) + 6 + 4 + 6
"""What the deformer's network sees: the ARKit coefficients, head rotation and translation (3 + 3), gaze
(4), torso rotation and translation (3 + 3). The person's residual shapes move the lattice but are not
shown to the network: they are the least certain of what is tracked, and with them held-out frames came
out worse (docs/EXPLORATION.md)."""

LARGEST_M = 0.0115
"""No posed Gaussian is larger, one standard deviation: offsets and growth that add up where nothing was
filmed would make dabs of a quarter of the head."""

_JAW_OPEN, _MOUTH_CLOSE = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]


@dataclass(frozen=True)
class Person:
    """What the track knows about the person: fixed while the Gaussians are fitted."""

    lattice: Tensor
    """[V, 3] neutral face, head frame, metres: the 478 points, then any of ``avatar.model.mouth``."""
    basis: Tensor
    """[E, V, 3] displacement at coefficient 1, metres."""
    triangles: Tensor
    """[T, 3] int64 vertex indices of the lattice: those of the skin, then any inside the mouth."""
    eyeballs: Tensor
    """[2, 3] centres, head frame, metres."""
    expression_names: tuple[str, ...]
    """E names, the first 52 Apple's."""
    expression_low: Tensor
    """[E] 2nd percentile seen in training."""
    expression_high: Tensor
    """[E] 98th percentile seen in training."""
    rest: HeadState
    """A single neutral state at the person's usual pose and gaze."""
    camera: Camera
    """The capture's camera."""
    fps: float
    """Frames a second of the capture."""


GAUSSIAN_PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "colours", "torso_logits")
"""Parameters with one row a Gaussian, in canonical space (head frame, neutral face)."""


class Avatar(nn.Module):
    """A person as Gaussians that move with a ``HeadState``.

    ``pose`` is a pure function of the state, ``pose_batch`` its like for many. Raw parameters live in
    the head frame at the neutral expression; ``pose`` adds the lattice's displacement, the learned
    offsets and the rigid motion of head, torso and eyeballs.
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    logit_opacities: nn.Parameter
    colours: nn.Parameter
    torso_logits: nn.Parameter
    lattice: Tensor
    basis: Tensor
    triangles: Tensor
    eyeballs: Tensor
    expression_low: Tensor
    expression_high: Tensor
    triangle: Tensor
    barycentric: Tensor
    follow: Tensor
    eye: Tensor
    part: Tensor

    def __init__(
        self,
        person: Person,
        binding: Binding,
        parameters: dict[str, Tensor],
        *,
        deformer: str = "blendshapes",
        settings: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        header: dict[str, Any] | None = None,
    ) -> None:
        """Assemble an avatar.

        Args:
            person: rig, ranges, rest pose and camera.
            binding: how the N Gaussians hang on the rig.
            parameters: ``means`` [N, 3] metres, ``quats`` [N, 4], ``log_scales`` [N, 3],
                ``logit_opacities`` [N], ``colours`` [N, 3] sRGB, ``torso_logits`` [N].
            deformer: kind of the deformer, a name of ``avatar.model.deformers.DEFORMERS``.
            settings: the deformer's sizes where they are not its own defaults.
            generator: source of the deformer's weights; where not given its networks are zero.
            header: free JSON fields that travel with the file (metrics, source hash, consent ...).
        """
        super().__init__()
        specs = {
            "means": "N 3",
            "quats": "N 4",
            "log_scales": "N 3",
            "logit_opacities": "N",
            "colours": "N 3",
            "torso_logits": "N",
        }
        sizes: dict[str, int] = {}
        for name, spec in specs.items():
            sizes = check(name, parameters[name], spec, sizes)
            setattr(self, name, nn.Parameter(parameters[name].detach().clone().float()))
        for name in ("lattice", "basis", "eyeballs", "expression_low", "expression_high"):
            self.register_buffer(name, getattr(person, name).detach().clone().float())
        self.register_buffer("triangles", person.triangles.detach().clone().long())
        self.rest = person.rest.to(torch.float32)
        self.camera = person.camera.to(torch.float32)
        self.expression_names = tuple(person.expression_names)
        self.fps = float(person.fps)
        self.header = dict(header or {})
        self._stretch = Stretch(self.lattice, self.triangles)
        self.set_binding(binding)
        setup = Setup(
            features=FEATURES,
            lattice=self.lattice,
            basis=self.basis[: len(ARKIT_NAMES)],
            triangles=self.triangles,
            binding=self.binding(),
            means=self.means.detach(),
        )
        self.deformer = make_deformer(deformer, setup, settings, generator)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Avatar:
        """Move what is no parameter and no buffer too, so that ``to`` brings a whole avatar to a GPU and back."""
        super()._apply(fn, recurse)
        rest, camera = self.rest, self.camera
        self.rest = HeadState(
            fn(rest.expression), fn(rest.gaze), fn(rest.T_world_head), fn(rest.T_world_torso)
        )
        self.camera = replace(camera, K=fn(camera.K), T_cam_world=fn(camera.T_cam_world))
        self._stretch.move(fn)
        self._eye, self._corners = fn(self._eye), fn(self._corners)
        self._corner_weights = fn(self._corner_weights)
        return self

    def set_binding(self, binding: Binding) -> None:
        """Replace the binding (densification reorders and adds Gaussians)."""
        self.register_buffer("triangle", binding.triangle.long())
        self.register_buffer("barycentric", binding.barycentric.float())
        self.register_buffer("follow", binding.follow.float())
        self.register_buffer("eye", binding.eye.long())
        self.register_buffer("part", binding.part.long())
        # What posing reads is gathered once here rather than at each pose.
        self._eye = self.eye.to(torch.int8)
        self._corners = self.triangles[self.triangle].int()  # [N, 3]
        self._corner_weights = self.barycentric * self.follow[:, None]  # [N, 3]
        if hasattr(self, "deformer"):
            self.deformer.set_binding(self.binding())

    def binding(self) -> Binding:
        """Return how the Gaussians hang on the rig."""
        return Binding(self.triangle, self.barycentric, self.follow, self.eye, self.part)

    def __len__(self) -> int:
        """Return the number N of Gaussians."""
        return self.means.shape[0]

    def features(self, state: HeadState) -> Tensor:
        """Return the deformer's driving features [D] of a single state.

        Poses are part of them because light stays while the head turns, hair and chin move with the
        head's attitude, and a shirt is no rigid body; they are taken relative to the rest pose.
        """
        named = self.feasible(state.expression)[: len(ARKIT_NAMES)]
        head = _moved(self.rest.T_world_head, state.T_world_head)
        torso = _moved(self.rest.T_world_torso, state.T_world_torso)
        return torch.cat([named, head, state.gaze.reshape(4), torso])

    def feasible(self, expression: Tensor) -> Tensor:
        """Return coefficients [E] as a face can have them.

        ``mouthClose`` takes back what ``jawOpen`` does to the lips: beyond that it can shut lips that are
        parted at rest, as far as was filmed, but not draw them up over the nose.
        """
        most = expression[_JAW_OPEN].clamp(min=0) + self.expression_high[_MOUTH_CLOSE].clamp(min=0)
        shut = torch.minimum(expression[_MOUTH_CLOSE], most)
        return torch.cat([expression[:_MOUTH_CLOSE], shut[None], expression[_MOUTH_CLOSE + 1 :]])

    def pose(self, state: HeadState) -> Gaussians:
        """Return the Gaussians of a single (unbatched) state, in the world.

        A pure function of the state and the avatar's tensors: nothing is kept from one call to the next,
        so that threads may pose one avatar at the same time. ``pose_batch`` takes many states.

        Raises:
            ValueError: the state is batched or has another number of expressions.
        """
        check("expression", state.expression, str(len(self.expression_names)))
        return self.assemble(state, self.deformer(self.features(state)))

    def pose_batch(self, states: HeadState) -> list[Gaussians]:
        """Return the Gaussians of each of a batch of states, in the world.

        Each is what ``pose`` returns for it, bit for bit: states are posed one after another, as posing one
        already keeps all cores and their memory busy. Gaussians of a draft take 1.6 MB a state.

        Args:
            states: one leading dim, expression [B, E].

        Raises:
            ValueError: there is not one leading dim, its size differs between fields, or another number
                of expressions.
        """
        sizes: dict[str, int] = {}
        for name, spec in (
            ("expression", f"B {len(self.expression_names)}"),
            ("gaze", "B 2 2"),
            ("T_world_head", "B 4 4"),
            ("T_world_torso", "B 4 4"),
        ):
            sizes = check(name, getattr(states, name), spec, sizes)
        return [self.pose(states[index]) for index in range(len(states))]

    def assemble(self, state: HeadState, offsets: Tensor) -> Gaussians:
        """Return the posed Gaussians for a single state and the deformer's offsets [N, 13] for it."""
        if self.deformer.turns:
            turned = quat_multiply(offsets[:, 3:7], self.quats)
            offsets = torch.cat([offsets[:, :3], turned, offsets[:, 7:]], 1)
        displacement = torch.einsum("e,evc->vc", self.feasible(state.expression), self.basis)
        inputs = {name: getattr(self, name) for name in GAUSSIAN_PARAMETERS} | {
            "offsets": offsets,
            "units": self.deformer.unit,
            "corners": self._corners,
            "corner_weights": self._corner_weights,
            "eye": self._eye,
            "displacement": displacement,
            "T_world_head": state.T_world_head,
            "T_world_torso": state.T_world_torso,
            "eye_turns": state.gaze - self.rest.gaze,
            "eye_centres": self.eyeballs,
        }
        # A deformer that turns Gaussians with their triangle scales them too.
        if not self.deformer.turns:
            growth = self._stretch.log_growth(displacement)[self.triangle] * self.follow
            inputs["log_scales"] = self.log_scales + growth[:, None]
        # The kernel has no gradient to the state.
        of_state = torch.is_grad_enabled() and any(
            inputs[name].requires_grad
            for name in ("displacement", "T_world_head", "T_world_torso", "eye_turns")
        )
        kernel = pose_native if self.means.device.type == "cpu" else pose_cuda
        pose = pose_reference if of_state else kernel
        posed = Gaussians(*pose(**inputs))
        return replace(posed, scales=posed.scales.clamp(max=LARGEST_M))

    def save(self, path: Path, *, exact: bool = False) -> None:
        """Write the .avatar file atomically; equal avatars give equal bytes.

        Args:
            path: the file.
            exact: keep every number as it is, at twice to four times the size; else in the compact
                forms of ``avatar.model.store``, which pictures do not show.
        """
        tensors = {f"gaussians.{name}": getattr(self, name) for name in GAUSSIAN_PARAMETERS}
        tensors |= {
            name: getattr(self, name) for name in ("lattice", "basis", "triangles", "eyeballs")
        }
        tensors |= {
            "expression_range": torch.stack([self.expression_low, self.expression_high]),
            "binding.triangle": self.triangle,
            "binding.barycentric": self.barycentric,
            "binding.follow": self.follow,
            "binding.eye": self.eye.to(torch.int8),
            "binding.part": self.part.to(torch.int8),
            "rest.expression": self.rest.expression,
            "rest.gaze": self.rest.gaze,
            "rest.T_world_head": self.rest.T_world_head,
            "rest.T_world_torso": self.rest.T_world_torso,
            "camera.K": self.camera.K,
            "camera.T_cam_world": self.camera.T_cam_world,
        }
        if not exact:
            tensors = compact(tensors)
        tensors |= {f"deformer.{n}": t for n, t in self.deformer.stored(exact=exact).items()}
        header = self.header | {
            "rig": self.header.get("rig", RIG),
            "expression_names": list(self.expression_names),
            "fps": self.fps,
            "camera": {"width": self.camera.width, "height": self.camera.height},
            "counts": {"gaussians": len(self)},
            "deformer": {"kind": self.deformer.kind, "settings": self.deformer.settings()},
        }
        # In a fixed order, whichever way the fields came together.
        header = dict(sorted(header.items()))
        write_tensors(path, tensors, format=AVATAR_FORMAT, version=AVATAR_VERSION, header=header)

    @staticmethod
    def load(path: Path) -> Avatar:
        """Read an .avatar file.

        Raises:
            InputError: missing, truncated, another format or rig, a newer version, missing or misshapen
                tensors, NaN; the sentence names the file and the key.
        """
        remedy = "Make it again with: avatar train ME.capture -o ME.run"
        tensors, header = read_tensors(
            Path(path),
            format=AVATAR_FORMAT,
            version=AVATAR_VERSION,
            required=AVATAR_TENSORS,
            migrate=from_version_1,
            remedy=remedy,
        )
        need_rig(Path(path), header.get("rig", RIG), remedy)
        try:
            names = tuple(str(name) for name in header["expression_names"])
            width, height = (int(header["camera"][k]) for k in ("width", "height"))
            kind, settings = deformer_of(header)
            fps = float(header["fps"])
            reach_in(header)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: its header is damaged ({error!r}). {remedy}") from error
        if names[:52] != ARKIT_NAMES or len(names) != tensors["basis"].shape[0]:
            raise InputError(
                f"{path}: expression_names must be the 52 ARKit names and then the person's own, "
                f"{tensors['basis'].shape[0]} in all; found {len(names)}. {remedy}"
            )
        check_indices(Path(path), tensors, remedy)
        tensors = expand(tensors)
        rest = HeadState(
            *(tensors[f"rest.{k}"] for k in ("expression", "gaze", "T_world_head", "T_world_torso"))
        )
        low, high = tensors["expression_range"]
        person = Person(
            lattice=tensors["lattice"],
            basis=tensors["basis"],
            triangles=tensors["triangles"],
            eyeballs=tensors["eyeballs"],
            expression_names=names,
            expression_low=low,
            expression_high=high,
            rest=rest,
            camera=Camera(tensors["camera.K"], tensors["camera.T_cam_world"], width, height),
            fps=fps,
        )
        binding = Binding(
            *(tensors[f"binding.{k}"] for k in ("triangle", "barycentric", "follow", "eye", "part"))
        )
        parameters = {name: tensors[f"gaussians.{name}"] for name in GAUSSIAN_PARAMETERS}
        kept = {k: v for k, v in header.items() if k not in ("format", "version")}
        try:
            avatar = Avatar(
                person, binding, parameters, deformer=kind, settings=settings, header=kept
            )
            avatar.deformer.take(
                {n.removeprefix("deformer."): t for n, t in tensors.items() if "deformer." in n}
            )
        except InputError as error:
            raise InputError(f"{path}: {error} {remedy}") from error
        return avatar.requires_grad_(False)


def _moved(rest: Tensor, now: Tensor) -> Tensor:
    """Return rotation vector and translation [6] from a pose to another, both [4, 4]."""
    turn = matrix_to_rotvec(rest[:3, :3].T @ now[:3, :3])
    return torch.cat([turn, now[:3, 3] - rest[:3, 3]])
