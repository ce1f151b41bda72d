"""What every deformer is: a function from what drives the head to offsets of all Gaussians.

The kinds are in ``avatar.model.deformers``, one file each; ``avatar.train.deformer_step`` trains them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from avatar.checks import InputError
from avatar.model.binding import Binding
from avatar.rig.lattice import REGIONS, lattice_table

CHANNELS = 13
"""Channels of an offset: mean (3, head frame), quaternion (4), log scale (3), sRGB colour (3)."""

# One learning rate drives all channels: with these units an Adam step of 1e-3 on an offset moves a
# mean by 20 micrometres, a log scale by 1e-3 and a colour by 1e-3.
CHANNEL_UNITS = (0.02,) * 3 + (1.0,) * 4 + (1.0,) * 3 + (1.0,) * 3

# Inputs are standardised by their spread in training; beyond this many deviations the network has
# seen nothing and its answer would be an extrapolation, so the input is held there.
INPUT_LIMIT = 3.0

MOST = 512
"""No size among a deformer's settings is larger; a damaged file must not ask for all memory."""


@dataclass(frozen=True)
class Setup:
    """What a deformer may know of the person and the Gaussians when it is made."""

    features: int
    """Size D of the driving feature vector; its first 52 entries are the ARKit coefficients."""
    lattice: Tensor
    """[478, 3] neutral face, head frame, metres."""
    basis: Tensor
    """[52, 478, 3] displacement at coefficient 1 of the ARKit shapes, metres."""
    triangles: Tensor
    """[T, 3] int64 vertex indices of the lattice."""
    binding: Binding
    """How the N Gaussians hang on the lattice."""
    means: Tensor
    """[N, 3] canonical means (head frame, neutral face), metres."""


class Deformer(nn.Module, ABC):
    """Map driving features to offsets of all Gaussians.

    ``forward`` is a pure function of the features and may run in many threads. A deformer is rebuilt
    from its kind, a ``Setup`` and its ``settings``, and then takes over the tensors of its state.
    """

    kind: ClassVar[str]
    """Name in files and on the command line."""
    sizes: ClassVar[Mapping[str, int]] = {}
    """Settings that decide about shapes, with their defaults."""
    gaussian_dims: ClassVar[Mapping[str, int]] = {}
    """Parameters and buffers with one entry a Gaussian, and along which of their dims."""
    half: ClassVar[frozenset[str]] = frozenset()
    """Tensors that files hold in half precision."""
    turns: ClassVar[bool] = False
    """Whether the quaternion offset o turns a Gaussian, q -> (1 + o) q, instead of being added to q."""
    neighbours: ClassVar[int] = 0
    """How many nearest neighbours of each Gaussian the terms of its training look at."""

    unit: Tensor
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create with networks of zero, until ``draw``.

        Args:
            setup: the person and the Gaussians.
            settings: values for some of ``sizes``, each an integer from 1 to 512.

        Raises:
            InputError: a setting that this kind does not have, or a value out of range.
        """
        super().__init__()
        given = dict(settings or {})
        if unknown := sorted(given.keys() - self.sizes.keys()):
            raise InputError(
                f"The deformer '{self.kind}' has no setting {', '.join(unknown)}; "
                f"it has: {', '.join(self.sizes) or 'none'}."
            )
        for name, value in given.items():
            if type(value) is not int or not 1 <= value <= MOST:
                raise InputError(
                    f"The deformer's setting {name} must be an integer from 1 to {MOST}; got {value!r}."
                )
        self.size = {**self.sizes, **given}
        self.register_buffer("unit", torch.tensor(CHANNEL_UNITS))
        self.register_buffer("feature_mean", torch.zeros(setup.features))
        self.register_buffer("feature_scale", torch.ones(setup.features))

    def settings(self) -> dict[str, int]:
        """Return what, beside a ``Setup``, rebuilds the deformer with the same shapes; JSON values."""
        return dict(self.size)

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""

    @torch.no_grad()
    def draw(self, generator: torch.Generator, setup: Setup) -> None:
        """Draw the networks' weights from ``generator``, uniform in +-1/sqrt(inputs) as torch's own.

        Offsets that are learned are zero afterwards. ``setup`` is the one of the creation.
        """
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                limit = layer.weight[0].numel() ** -0.5
                layer.weight.uniform_(-limit, limit, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-limit, limit, generator=generator)

    def standardise(self, features: Tensor) -> Tensor:
        """Return features [..., D] by their spread in training, held within ``INPUT_LIMIT``."""
        x = (features - self.feature_mean) / self.feature_scale
        return x.clamp(-INPUT_LIMIT, INPUT_LIMIT)

    def set_binding(self, binding: Binding) -> None:
        """Take note that the Gaussians hang on the rig in another way."""

    def penalty(self, laplacian: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what training adds to the loss of a frame for the deformer's own parameters.

        Asked of kinds with ``neighbours`` only, and of those that have parameters.

        Args:
            laplacian: maps [N, C] to [N, C], the value of each Gaussian minus the mean of its
                ``neighbours`` nearest in canonical space.
        """
        raise NotImplementedError(f"{type(self).__name__} has no term over neighbours")

    @torch.no_grad()
    def select(self, source: Tensor) -> None:
        """Let new row i be a copy of old row ``source[i]`` wherever there is a row a Gaussian."""
        for name, dim in self.gaussian_dims.items():
            self.replace(name, getattr(self, name).detach().index_select(dim, source))

    def replace(self, name: str, value: Tensor) -> None:
        """Put a parameter or buffer of another number of Gaussians in the place of ``name``."""
        old = getattr(self, name)
        if isinstance(old, nn.Parameter):
            setattr(self, name, nn.Parameter(value, requires_grad=old.requires_grad))
        else:
            setattr(self, name, value)

    def stored(self) -> dict[str, Tensor]:
        """Return the tensors for a file by name, those of ``half`` in half precision."""
        return {
            name: value.half() if name in self.half else value
            for name, value in self.state_dict().items()
            if name != "unit"
        }

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what ``stored`` gave.

        Raises:
            InputError: a tensor is missing or has another shape; the sentence names it.
        """
        state = self.state_dict()
        for name, value in state.items():
            if name == "unit":
                continue
            found = tensors.get(name)
            if found is None or found.shape != value.shape:
                shape = None if found is None else list(found.shape)
                raise InputError(f"'deformer.{name}' must be {list(value.shape)}, found {shape}.")
            state[name] = found.to(value.dtype)
        self.load_state_dict(state)


_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


def zeroed(layer: type[_Layer], *sizes: int, **options: Any) -> _Layer:
    """Return a layer of zeros. (By its constructor it would draw from torch's global generator.)"""
    made = cast(_Layer, nn.utils.skip_init(layer, *sizes, **options))
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


def network(*widths: int) -> nn.Sequential:
    """Return linear layers from each width to the next, ReLU between them, all zero."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [zeroed(nn.Linear, inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def inside_mouth(setup: Setup) -> Tensor:
    """Return which Gaussians [N] bool rest inside the mouth: behind the inner lips, on no eyeball.

    The lips' own Gaussians lie on the lattice and so no more than a few millimetres behind the arch
    through their middle.
    """
    lips = setup.lattice[torch.tensor(REGIONS["lip_upper_inner"] + REGIONS["lip_lower_inner"])]
    half = (lips[:, 0].amax() - lips[:, 0].amin()) / 2
    x, y, z = (setup.means - lips.mean(0)).unbind(1)
    behind = -z - 12.0 * x.square()  # the dental arch: 6 mm further back at 22 mm aside
    within = (x.abs() < half) & (y > -0.030) & (y < 0.015)
    within &= (behind > 0.005) & (behind < 0.035) & (setup.binding.eye < 0)
    # What hangs on jaw or tongue says so; older avatars have no such triangles.
    return within | (setup.binding.triangle >= len(lattice_table().triangles))
