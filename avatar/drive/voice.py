"""A person's own way of speaking: a small temporal convolution from sound to ARKit coefficients.

The file ``me.voice`` holds two networks of one make: one for files, which sees 200 ms of what comes
next, and one for live sound, which sees 80 ms of it. Each is an ensemble whose members run side by
side as groups of one convolution; their mean errs less than each of them.

Predictions that lie off what the person's face was seen to do are pulled back to it by locally linear
embedding, as GeneFace++ (Ye et al. 2023, section 3.3) does with landmarks: the prediction's nearest
recorded faces are mixed with the weights that reconstruct it best (Roweis and Saul 2000, equation 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avatar.checks import InputError
from avatar.drive.audio_features import FEATURES, LEVEL, SpeechLevel, with_level
from avatar.drive.idle import IdleStatistics
from avatar.drive.motion import ARKIT_COUNT
from avatar.rig.arkit import ARKIT_NAMES
from avatar.tensorfile import read_tensors, write_tensors

VOICE_FORMAT, VOICE_VERSION = "headsplat.voice", 1
VOICE_SUFFIX = ".voice"
REMEDY = "Run: avatar train-voice me.capture -o me.voice"

SPOKEN = tuple(
    i for i, n in enumerate(ARKIT_NAMES) if n.startswith(("jaw", "mouth", "cheek", "nose", "brow"))
)
"""The coefficients that sound says something about; eyes are not among them."""
BROWS = tuple(i for i, n in enumerate(ARKIT_NAMES) if n.startswith("brow"))
LOUDEST_GAIN = 6.0
"""Sound is brought to the level of the person's clip, by at most e to this power (26 dB)."""


@dataclass(frozen=True)
class NetConfig:
    """Size of the network."""

    inputs: int = FEATURES
    """Features a frame."""
    channels: int = 48
    """Of each member."""
    members: int = 4
    """Networks whose mean is taken."""
    dilations: tuple[int, ...] = (1, 2, 2)
    """Of the residual blocks, each of kernel 3."""
    first_kernel: int = 5
    """Frames that the first layer sees."""
    look_ahead: int = 8
    """Frames after the moment that is predicted; 20 ms each."""
    dropout: float = 0.2
    """Share of channels dropped in training."""

    @property
    def reach(self) -> int:
        """How many frames before its newest one an output depends on."""
        return self.first_kernel - 1 + 2 * sum(self.dilations)


class VoiceNet(nn.Module):
    """Features [B, inputs, T + reach] to coefficients [B, members, 41, T], standardised.

    Output k comes from inputs k to k + reach: no padding inside, so that a stream fed frame by frame
    gives what a whole file gives.
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        m, c = config.members, config.channels
        self.first = nn.Conv1d(config.inputs, m * c, config.first_kernel)
        self.blocks = nn.ModuleList(
            nn.Conv1d(m * c, m * c, 3, dilation=d, groups=m) for d in config.dilations
        )
        self.mixes = nn.ModuleList(nn.Conv1d(m * c, m * c, 1, groups=m) for _ in config.dilations)
        self.drop = nn.Dropout1d(config.dropout)
        self.last = nn.Conv1d(m * c, m * len(SPOKEN), 1, groups=m)

    def forward(self, x: Tensor) -> Tensor:
        """Return the members' outputs."""
        x = self.drop(nn.functional.gelu(self.first(x)))
        for block, mix, d in zip(self.blocks, self.mixes, self.config.dilations, strict=True):
            inner = mix(nn.functional.gelu(block(x)))
            x = self.drop(nn.functional.gelu(x[..., 2 * d :] + inner))
        out = self.last(x)
        return out.reshape(len(out), self.config.members, len(SPOKEN), -1)


class VoiceMemory(nn.Module):
    """Recorded moments: kernel ridge regression from a window of features to coefficients.

    A Gaussian kernel between the window and each remembered one (Saunders et al. 1998; of long clips a
    subset, Williams and Seeger 2001). With a minute of sound it is about as right as the network, and errs
    elsewhere: the mean of both is better than either.
    """

    def __init__(
        self, windows: Tensor, answers: Tensor, width: float, before: int, taper: Tensor
    ) -> None:
        """Take what ``remembered`` made.

        Args:
            windows: [M, W * inputs] standardised features, oldest frame first.
            answers: [M, 41] their weights in the standardised coefficients.
            width: mean squared distance at which the kernel falls to 1 / e.
            before: frames of a window before its moment.
            taper: [W] how much each frame of a window counts.
        """
        super().__init__()
        self.taper: Tensor
        self.register_buffer("taper", taper)
        self.windows: Tensor
        self.answers: Tensor
        self.register_buffer("windows", windows)
        self.register_buffer("answers", answers)
        self.width, self.before = float(width), int(before)

    @property
    def after(self) -> int:
        """Frames of a window after its moment."""
        return len(self.taper) - 1 - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised coefficients [T, 41] of windows [T, W * inputs]."""
        return similarity(x, self.windows, self.width) @ self.answers


def similarity(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Return the Gaussian kernel [A, B] between rows."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return torch.exp(-squares.clamp(min=0) / width)


def windows_of(x: Tensor, taper: Tensor) -> Tensor:
    """Return the windows [T - W + 1, W * I] of frames [T, I], oldest frame first, times ``taper`` [W]."""
    return (x.unfold(0, len(taper), 1) * taper).transpose(1, 2).flatten(1)


@dataclass(frozen=True)
class Manifold:
    """The faces that a person made while speaking, and how far apart they lie."""

    faces: Tensor
    """[M, 41] spoken coefficients of recorded frames."""
    scale: Tensor
    """[41] what counts as one unit of each."""
    near: float
    """Distance to the mix of its neighbours that one in ten recorded faces exceeds, units."""
    neighbours: int = 10

    def pulled(self, weights: Tensor) -> Tensor:
        """Return coefficients [F, 41]: those that lie off the manifold pulled towards it.

        A face as near as recorded ones are stays as it is; at three times the distance it lies two thirds
        of the way back.
        """
        if not len(weights):
            return weights
        x, faces = weights / self.scale, self.faces / self.scale
        count = min(self.neighbours, len(faces))
        nearest = faces[torch.cdist(x, faces).topk(count, largest=False).indices]  # [F, k, 41]
        way = nearest - x[:, None]
        gram = way @ way.transpose(1, 2)
        ridge = 1e-2 * gram.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None] + 1e-6
        share = torch.linalg.solve(
            gram + ridge * torch.eye(count, dtype=x.dtype),
            torch.ones(len(x), count, 1, dtype=x.dtype),
        )
        share = share / share.sum(1, keepdim=True)
        mixed = (share * nearest).sum(1)
        distance = (x - mixed).norm(dim=-1, keepdim=True)
        keep = (self.near / distance.clamp(min=1e-9)).clamp(max=1)
        return (mixed + keep * (x - mixed)) * self.scale


@dataclass(frozen=True)
class VoiceModel:
    """What ``avatar train-voice`` learnt."""

    nets: dict[str, VoiceNet]
    """``file`` and ``live``."""
    memories: dict[str, VoiceMemory]
    """The same."""
    mean: Tensor
    """[inputs] of the features."""
    spread: Tensor
    """[inputs] standard deviation of the features."""
    face_mean: Tensor
    """[41]."""
    face_spread: Tensor
    """[41]."""
    manifold: Manifold
    low: Tensor
    """[52] the lowest that the person's coefficients go (1st percentile)."""
    high: Tensor
    """[52] the highest (99th percentile)."""
    rest: Tensor
    """[52] the coefficients of the person at rest: the 10th percentile."""
    level: float
    """How loud the speech was (``speech_level``)."""
    gain: float = 1.0
    """By how much predictions are raised about their mean; brows are not."""
    idle: IdleStatistics = field(default_factory=IdleStatistics)
    """How the person blinked, glanced and held the head in the clip."""
    extractor: str = "mel"
    """``mel``, or the kind of network that made the features."""
    source_sha256: str = ""
    """Hash of the clip."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How it was trained and measured."""

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        tensors = {
            f"{name}.{key}": value
            for name, net in self.nets.items()
            for key, value in net.state_dict().items()
        }
        for name, memory in self.memories.items():
            tensors[f"{name}_memory.windows"] = memory.windows.half()
            tensors[f"{name}_memory.answers"] = memory.answers
            tensors[f"{name}_memory.taper"] = memory.taper
        for name in ("mean", "spread", "face_mean", "face_spread", "low", "high", "rest"):
            tensors[name] = getattr(self, name).float()
        tensors["faces"] = self.manifold.faces.float()
        tensors["face_scale"] = self.manifold.scale.float().clone()
        if self.idle.gaze is not None:
            tensors["glances"] = self.idle.gaze.float()
        header = {
            "nets": {name: vars(net.config) for name, net in self.nets.items()},
            "memories": {
                name: {"width": memory.width, "before": memory.before}
                for name, memory in self.memories.items()
            },
            "near": self.manifold.near,
            "level": self.level,
            "gain": self.gain,
            "idle": {
                "blinks_per_s": self.idle.blinks_per_s,
                "blink_depth": self.idle.blink_depth,
                "head_rad": list(self.idle.head_rad),
            },
            "extractor": self.extractor,
            "source_sha256": self.source_sha256,
            "expression_names": list(ARKIT_NAMES),
            "facts": self.facts,
        }
        write_tensors(path, tensors, format=VOICE_FORMAT, version=VOICE_VERSION, header=header)

    @staticmethod
    def load(path: Path) -> VoiceModel:
        """Read a .voice file; raises InputError naming what is wrong and what to do."""
        spoken = len(SPOKEN)
        tensors, header = read_tensors(
            path,
            format=VOICE_FORMAT,
            version=VOICE_VERSION,
            required={
                **dict.fromkeys(("mean", "spread"), "I"),
                **dict.fromkeys(("face_mean", "face_spread", "face_scale"), str(spoken)),
                **dict.fromkeys(("low", "high", "rest"), str(ARKIT_COUNT)),
                "faces": f"M {spoken}",
            },
            remedy=REMEDY,
        )
        try:
            if header["expression_names"] != list(ARKIT_NAMES):
                raise ValueError("its coefficients are not the 52 of ARKit")
            nets = {name: _net(tensors, name, header["nets"][name]) for name in ("file", "live")}
            if any(net.config.inputs != len(tensors["mean"]) for net in nets.values()):
                raise ValueError("its networks take another number of features")
            memories = {
                name: _memory(tensors, name, header["memories"][name], net)
                for name, net in nets.items()
            }
            manifold = Manifold(tensors["faces"], tensors["face_scale"], float(header["near"]))
            return VoiceModel(
                nets,
                memories,
                tensors["mean"],
                tensors["spread"],
                tensors["face_mean"],
                tensors["face_spread"],
                manifold,
                tensors["low"],
                tensors["high"],
                tensors["rest"],
                level=float(header["level"]),
                gain=float(header["gain"]),
                idle=_idle(header["idle"], tensors.get("glances")),
                extractor=str(header["extractor"]),
                source_sha256=str(header["source_sha256"]),
                facts=dict(header["facts"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path} is damaged ({error}). {REMEDY}") from error

    @torch.no_grad()
    def predict(self, features: np.ndarray, net: str = "file") -> Tensor:
        """Return coefficients [N, 52] for the frames [N, inputs] of a whole sound.

        Args:
            features: as the extractor gives them, at the level of the person's clip.
            net: ``file`` or ``live``.
        """
        stream = VoiceStream(self, net, level=self.level)
        parts = [stream.push(features[i : i + 500]) for i in range(0, len(features), 500)]
        return torch.cat([*parts, stream.flush()]) if parts else stream.flush()


class VoiceStream:
    """Feature frames in, coefficients out ``look_ahead`` frames later."""

    def __init__(self, model: VoiceModel, net: str = "live", *, level: float | None = None) -> None:
        """Start at time 0.

        Args:
            model: the person's.
            net: ``file`` or ``live``.
            level: how loud the speech that comes is (``speech_level``); None finds out while it comes.
        """
        self._model, self._net, self._name = model, model.nets[net].eval(), net
        config = self._net.config
        self.look_ahead = config.look_ahead
        """Frames by which results are later than what they describe."""
        self._level = LevelFollower(model.level, known=level)
        self._mel = model.extractor == "mel"
        self._before = config.reach - config.look_ahead
        self._held: Tensor | None = None

    @torch.no_grad()
    def push(self, features: np.ndarray) -> Tensor:
        """Take frames [N, inputs]; return the coefficients [M, 52] that can be known now."""
        model = self._model
        if self._mel:
            features = self._level.levelled(features)
        x = (torch.from_numpy(np.asarray(features)).float() - model.mean) / model.spread
        return self._run(x)

    def flush(self) -> Tensor:
        """Return the last coefficients [M, 52]; after the end the sound stays as it was."""
        if self._held is None:
            return torch.zeros(0, ARKIT_COUNT)
        return self._run(self._held[-1:].expand(self.look_ahead, -1))

    @torch.no_grad()
    def _run(self, x: Tensor) -> Tensor:
        model, reach = self._model, self._net.config.reach
        if len(x) == 0:
            return torch.zeros(0, ARKIT_COUNT)
        if self._held is None:  # before the beginning the sound was as it begins
            self._held = x[:1].expand(self._before, -1)
        self._held = torch.cat([self._held, x])
        count = len(self._held) - reach
        if count <= 0:
            return torch.zeros(0, ARKIT_COUNT)
        out = mixed_output(self._net, model.memories[self._name], self._held)
        self._held = self._held[count:]
        out[:, [i for i, k in enumerate(SPOKEN) if k not in BROWS]] *= model.gain
        spoken = model.manifold.pulled(out * model.face_spread + model.face_mean)
        weights = model.rest.expand(len(spoken), ARKIT_COUNT).clone()
        weights[:, list(SPOKEN)] = spoken
        return weights


def mixed_output(net: VoiceNet, memory: VoiceMemory, x: Tensor) -> Tensor:
    """Return the mean of network and memory [T, 41], standardised, for frames [T + reach, inputs]."""
    config = net.config
    first = config.reach - config.look_ahead - memory.before
    windows = windows_of(x, memory.taper)
    count = len(x) - config.reach
    return 0.5 * (net(x.T[None])[0].mean(0).T + memory(windows[first : first + count]))


class LevelFollower:
    """Brings sound to the level of the person's clip, whatever the microphone."""

    def __init__(self, wanted: float, *, known: float | None = None) -> None:
        """Begin.

        Args:
            wanted: the level at which the model was trained.
            known: the level of what comes; None follows it, from ``wanted`` on.
        """
        self._wanted = wanted
        self._level = SpeechLevel(wanted if known is None else known, known=known is not None)

    def levelled(self, features: np.ndarray) -> np.ndarray:
        """Return frames [N, 43] as they were at the wanted level."""
        out = np.empty_like(features)
        for i, frame in enumerate(features):
            level = self._level.follow(float(frame[LEVEL]))
            gain = float(np.clip(self._wanted - level, -LOUDEST_GAIN, LOUDEST_GAIN))
            out[i] = frame if gain == 0 else with_level(frame[None], gain)[0]
        return out


def _net(tensors: dict[str, Tensor], name: str, config: dict[str, Any]) -> VoiceNet:
    """Build a network from a file's tensors; raises ValueError, TypeError or RuntimeError."""
    settings = NetConfig(**{**config, "dilations": tuple(int(d) for d in config["dilations"])})
    sizes = (settings.inputs, settings.channels, settings.members, settings.first_kernel)
    if not all(isinstance(n, int) and 1 <= n <= 4096 for n in (*sizes, *settings.dilations)):
        raise ValueError("its networks have impossible sizes")
    if not 0 <= settings.look_ahead <= min(100, settings.reach) or len(settings.dilations) > 16:
        raise ValueError("its networks have impossible sizes")
    net = VoiceNet(settings)
    prefix = f"{name}."
    net.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    return net.eval()


def _idle(header: dict[str, Any], glances: Tensor | None) -> IdleStatistics:
    """Build the idle statistics of a file; raises KeyError, TypeError or ValueError."""
    yaw, pitch, roll = (min(max(float(v), 0.0), 0.2) for v in header["head_rad"])
    rate, depth = float(header["blinks_per_s"]), float(header["blink_depth"])
    if not (0.01 <= rate <= 5 and 0 <= depth <= 2):
        raise ValueError("its blinks are impossible")
    if glances is not None and (glances.ndim != 2 or glances.shape[1] != 2):
        raise ValueError("its glances are no angles")
    return IdleStatistics(
        blinks_per_s=rate, blink_depth=depth, head_rad=(yaw, pitch, roll), gaze=glances
    )


def _memory(
    tensors: dict[str, Tensor], name: str, config: dict[str, Any], net: VoiceNet
) -> VoiceMemory:
    """Build a memory from a file's tensors; raises KeyError, TypeError or ValueError."""
    windows = tensors[f"{name}_memory.windows"].float()
    answers = tensors[f"{name}_memory.answers"].float()
    width, before = float(config["width"]), int(config["before"])
    taper = tensors[f"{name}_memory.taper"].float()
    if windows.ndim != 2 or windows.shape[1] != net.config.inputs * taper.numel() or not width > 0:
        raise ValueError(f"its {name} memory is not one")
    memory = VoiceMemory(windows, answers, width, before, taper)
    after, look_ahead = memory.after, net.config.look_ahead
    fits = 0 <= after <= look_ahead and 0 <= before <= net.config.reach - look_ahead
    if not fits or answers.shape != (len(windows), len(SPOKEN)):
        raise ValueError(f"its {name} memory does not fit the network")
    return memory
