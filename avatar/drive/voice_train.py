"""Learns a person's voice model from the sound and the track of their own clip.

Targets are the tracked coefficients at 50 a second. What counts is where the lips are, so errors are
taken on the lattice: of all mouth points, of the gap between the lips, of their speed. A gap that is
shut in the clip (bilabials: m, b, p) must be shut: there, being too open costs more.

How long to train is chosen on the validation part (the last eighth of the training part); the final
networks are trained for so long on all of it. Everything random comes from one seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture, Track
from avatar.checks import InputError
from avatar.drive.audio_features import (
    FEATURE_FPS,
    FEATURES,
    QUIETEST,
    FeatureStream,
    read_sound,
    speech_level,
)
from avatar.drive.idle import IdleStatistics
from avatar.drive.motion import ARKIT_COUNT
from avatar.drive.voice import (
    BROWS,
    SPOKEN,
    Manifold,
    NetConfig,
    VoiceMemory,
    VoiceModel,
    VoiceNet,
    mixed_output,
    similarity,
    windows_of,
)
from avatar.drive.voice_lessons import (
    Lesson,
    MouthGeometry,
    at_feature_times,
    augmented,
    filled,
)
from avatar.rig.arkit import ARKIT_NAMES
from avatar.types import Progress, Reporter, ignore_progress

SHORTEST_S = 8.0
"""Of sound with a face, seconds: less teaches nothing."""


@dataclass(frozen=True)
class VoiceTrainConfig:
    """How a voice model is trained."""

    net: NetConfig = field(default_factory=NetConfig)
    live_look_ahead: int = 4
    """Frames (20 ms each) that the live network may look ahead."""
    steps: int = 500
    """Most steps; the best number up to it is chosen on the validation part."""
    every: int = 100
    """Steps between two looks at the validation part."""
    batch: int = 16
    crop: int = 100
    """Frames of each example."""
    rate: float = 2e-3
    """Learning rate of AdamW, falling to a tenth by a cosine."""
    decay: float = 0.05
    velocity: float = 0.5
    """Weight of the error of speeds."""
    gap: float = 1.0
    """Weight of the error of the lips' gap."""
    closure: float = 1.0
    """Weight of gaps that should be shut and are not."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """The sound is played at these speeds too."""
    before: int = 6
    """Frames before its moment that the memory compares."""
    after: int = 8
    """The same after it, at most."""
    taper: float = 3.5
    """They count by a bell of so many frames about a quarter of the look-ahead after the moment."""
    moments: int = 2000
    """That are remembered, at most."""
    kernel: float = 1.0
    """Width of the kernel, in median squared distances between moments."""
    ridge: float = 1.0
    """Regularisation of the memory."""
    liveliness: float = 0.8
    """Predictions of what sound leaves open are damped; they are raised until the lips' gap has this share
    of its true spread on the validation part."""
    largest_gain: float = 1.6
    """But by no more than this."""
    faces: int = 800
    """Recorded faces kept for the manifold, at most."""
    seed: int = 0


def train_voice(
    capture: Capture,
    config: VoiceTrainConfig | None = None,
    *,
    frames: tuple[int, int] | None = None,
    extractor: Callable[[Path], np.ndarray] | None = None,
    extractor_name: str = "mel",
    report: Reporter = ignore_progress,
) -> VoiceModel:
    """Learn speech to expression from a capture's own sound.

    Args:
        capture: with sound.
        config: settings.
        frames: video frames [first, last) to learn from, the last eighth of them for choices; the
            capture's training part where None. Other frames are not looked at.
        extractor: makes features [N, inputs], 50 a second, of a sound file; None for log-mel, pitch and
            level.
        extractor_name: what to call it in the file.
        report: takes progress.

    Raises:
        InputError: no sound, no speech, too short, or no face.
    """
    began = perf_counter()
    config = config or VoiceTrainConfig()
    first, last = frames or capture.splits.train
    track = capture.track
    if track.expression_names[:ARKIT_COUNT] != ARKIT_NAMES:
        raise InputError(
            f"{capture.path} was tracked without ARKit coefficients. Capture it again."
        )
    seconds = (last - first) / capture.fps
    if capture.audio is None:
        raise InputError(
            f"{capture.path} has no sound, so there is no speech to learn from. Capture a clip in which "
            "the person speaks."
        )
    if seconds < SHORTEST_S or float(track.valid[first:last].float().mean()) < 0.5:
        raise InputError(
            f"{capture.path} has {seconds:.1f} s to learn from, with a face in "
            f"{100 * float(track.valid[first:last].float().mean()):.0f} % of them; at least "
            f"{SHORTEST_S:.0f} s, and a face in half of them, are needed. A minute of speech is good."
        )
    report(Progress("features", 0, len(config.speeds)))
    weights = track.states().expression[:, :ARKIT_COUNT].float()
    weights = filled(weights, track.valid.bool())
    lessons = _lessons(capture, weights, config, (first, last), extractor, report)
    plain = lessons[config.speeds.index(1.0)] if extractor is None else lessons[0]
    level = speech_level(plain.features.numpy()) if extractor is None else 0.0
    if extractor is None and level <= QUIETEST:
        raise InputError(
            f"The sound of {capture.path} is silent, so there is no speech to learn from. Capture a clip "
            "in which the person speaks."
        )
    net = replace(config.net, inputs=plain.features.shape[1])
    geometry = MouthGeometry.of(track)
    split = int(len(plain.features) * 7 / 8)
    steps, curve, gain = _chosen_steps(lessons, plain, split, net, geometry, config, report)
    nets: dict[str, VoiceNet] = {}
    for name, look_ahead in (("file", net.look_ahead), ("live", config.live_look_ahead)):
        nets[name] = _fit(
            lessons,
            replace(net, look_ahead=look_ahead),
            geometry,
            config,
            steps,
            stage=f"train {name}",
            report=report,
        )[0]
    memories = {name: _remembered(plain, one.config, config) for name, one in nets.items()}
    mean, spread, face_mean, face_spread = _statistics(plain)
    seen = weights[first:last]
    return VoiceModel(
        nets,
        memories,
        mean,
        spread,
        face_mean,
        face_spread,
        _manifold(plain.faces, face_spread, config),
        low=seen.quantile(0.01, dim=0),
        high=seen.quantile(0.99, dim=0),
        rest=seen.quantile(0.1, dim=0),
        level=level,
        gain=round(gain, 3),
        idle=_idle_of(track, (first, last)),
        extractor=extractor_name,
        source_sha256=capture.source_sha256,
        facts={
            "frames": [first, last],
            "steps": steps,
            "validation_gap_correlation": curve,
            "seed": config.seed,
            "seconds": round(perf_counter() - began, 1),
        },
    )


def _lessons(
    capture: Capture,
    weights: Tensor,
    config: VoiceTrainConfig,
    frames: tuple[int, int],
    extractor: Callable[[Path], np.ndarray] | None,
    report: Reporter,
) -> list[Lesson]:
    """Return the training part's lessons, one for each speed; nothing else of the clip is in them."""
    assert capture.audio is not None
    start, end = frames[0] / capture.fps, frames[1] / capture.fps
    spoken = weights[frames[0] : frames[1], list(SPOKEN)]
    if extractor is not None:
        features = extractor(capture.audio)
        part = features[round(start * FEATURE_FPS) : int(end * FEATURE_FPS)]
        faces = at_feature_times(spoken, capture.fps, len(part))
        return [Lesson(torch.from_numpy(part).float(), faces)]
    blocks = list(read_sound(capture.audio))
    rate = blocks[0].rate
    sound = np.concatenate([b.samples for b in blocks])[int(start * rate) : int(end * rate)]
    lessons = []
    for k, speed in enumerate(config.speeds):
        # Played faster is read as if it had been recorded with more samples a second.
        stream = FeatureStream(round(rate * speed))
        features = np.concatenate([stream.push(sound), stream.flush()])
        faces = at_feature_times(spoken, capture.fps, len(features), speed)
        lessons.append(Lesson(torch.from_numpy(features).float(), faces))
        report(Progress("features", k + 1, len(config.speeds)))
    return lessons


def _idle_of(track: Track, frames: tuple[int, int]) -> IdleStatistics:
    """Measure how the person moves beside speaking, about the frame nearest to the usual head pose."""
    states, valid = track.states()[slice(*frames)], track.valid[slice(*frames)].bool()
    heads = states.T_world_head[:, :3, :3].flatten(1)
    away = (heads - heads[valid].median(0).values).norm(dim=1)
    usual = states[int(torch.where(valid, away, torch.inf).argmin())]
    found = IdleStatistics.of(states, valid, track.fps, usual)
    if found.gaze is None:
        return found
    some = found.gaze[:: max(1, len(found.gaze) // 200)]
    return replace(found, gaze=some.contiguous())


def _statistics(plain: Lesson) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean and spread of features and of faces."""
    faces = plain.faces.std(0).clamp(min=0.01)
    return plain.features.mean(0), plain.features.std(0).clamp(min=0.05), plain.faces.mean(0), faces


def _remembered(lesson: Lesson, net: NetConfig, config: VoiceTrainConfig) -> VoiceMemory:
    """Fit the memory to a lesson, standardised by itself."""
    mean, spread, face_mean, face_spread = _statistics(lesson)
    after = min(config.after, net.look_ahead)
    x = (lesson.features - mean) / spread
    way = torch.arange(-config.before, after + 1) - net.look_ahead / 4
    taper = torch.exp(-0.5 * (way / config.taper) ** 2)
    windows = windows_of(x, taper)
    # What is stored is what is solved with.
    windows = windows.half().float()
    faces = ((lesson.faces - face_mean) / face_spread)[config.before : len(x) - after].double()
    keep = torch.linspace(0, len(windows) - 1, min(config.moments, len(windows))).long()
    chosen = windows[keep]
    some = chosen[:: max(1, len(chosen) // 500)]
    width = config.kernel * float(torch.cdist(some, some).square().median())
    among = similarity(chosen, chosen, width).double()
    if len(chosen) == len(windows):
        answers = torch.linalg.solve(among + config.ridge * torch.eye(len(chosen)), faces)
    else:  # subset of regressors: (K_mn K_nm + lambda K_mm) alpha = K_mn y
        cross = similarity(windows, chosen, width).double()
        gram = cross.T @ cross + config.ridge * among
        gram = gram + 1e-6 * torch.eye(len(chosen))
        answers = torch.linalg.solve(gram, cross.T @ faces)
    return VoiceMemory(chosen, answers.float(), width, config.before, taper)


def _manifold(faces: Tensor, scale: Tensor, config: VoiceTrainConfig) -> Manifold:
    """Keep recorded faces evenly over time, and measure how near each lies to the others."""
    keep = torch.linspace(0, len(faces) - 1, min(config.faces, len(faces))).long()
    chosen = faces[keep]
    others = Manifold(chosen[::2], scale, 0.0)
    distance = ((others.pulled(chosen[1::2]) - chosen[1::2]) / scale).norm(dim=-1)
    # A tenth of what was seen is no outlier either, but as rare as a wrong prediction.
    return Manifold(chosen, scale, float(distance.quantile(0.9)))


def _chosen_steps(
    lessons: list[Lesson],
    plain: Lesson,
    split: int,
    net: NetConfig,
    geometry: MouthGeometry,
    config: VoiceTrainConfig,
    report: Reporter,
) -> tuple[int, list[float], float]:
    """Train on all but the validation part.

    Returns:
        The number of steps that was best on it, the correlation of the lips' gap along the way, and by how
        much predictions are to be raised.
    """
    shares = [split / len(plain.features) * len(lesson.features) for lesson in lessons]
    known = [
        Lesson(lesson.features[: int(n)], lesson.faces[: int(n)])
        for lesson, n in zip(lessons, shares, strict=True)
    ]
    target = plain.faces[split:] @ geometry.gap
    curve: list[float] = []
    spreads: list[float] = []

    def look(fitted: VoiceNet) -> None:
        x = (plain.features - mean) / spread
        shift = net.look_ahead
        before = x[:1].expand(net.reach - shift, -1)
        x = torch.cat([before, x, x[-1:].expand(shift, -1)])
        out = mixed_output(fitted, memory, x)
        gap = (out * face_spread + face_mean)[split:] @ geometry.gap
        pair = torch.stack([gap, target])
        curve.append(round(float(torch.corrcoef(pair).nan_to_num()[0, 1]), 4))
        spreads.append(float(gap.std() / target.std().clamp(min=1e-6)))

    # Standardised by what is known without the validation part.
    of = known[0] if len(known) == 1 else known[config.speeds.index(1.0)]
    mean, spread, face_mean, face_spread = _statistics(of)
    memory = _remembered(of, net, config)
    _fit(known, net, geometry, config, config.steps, "choose", report, look)
    # A mean of neighbours: one lucky look is no reason.
    smooth = np.convolve(np.pad(curve, 1, mode="edge"), np.ones(3) / 3, "valid")
    best = int(np.argmax(smooth))
    gain = config.liveliness / max(spreads[best], 1e-3)
    return (best + 1) * config.every, curve, float(np.clip(gain, 1.0, config.largest_gain))


def _fit(
    lessons: list[Lesson],
    net: NetConfig,
    geometry: MouthGeometry,
    config: VoiceTrainConfig,
    steps: int,
    stage: str,
    report: Reporter,
    look: Callable[[VoiceNet], None] | None = None,
) -> tuple[VoiceNet, float]:
    """Train one network; return it and its last loss. The learning rate follows ``config.steps``."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # what layers start from, and dropout
        model = VoiceNet(net)
        plain = lessons[0] if len(lessons) == 1 else lessons[config.speeds.index(1.0)]
        mean, spread, face_mean, face_spread = _statistics(plain)
        closed = float((plain.faces @ geometry.gap).quantile(0.15))
        unit = float((plain.faces @ geometry.gap).std().clamp(min=0.1))
        matter = torch.ones(len(SPOKEN))
        matter[[SPOKEN.index(i) for i in BROWS]] = 0.1
        points = geometry.points
        point_unit = ((plain.faces - face_mean) @ points).std()
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=config.decay)
        value = 0.0
        for step in range(steps):
            x, y = _batch(lessons, net, config, generator, mean.shape[0] == FEATURES)
            model.train()
            out = model(((x - mean) / spread).transpose(1, 2)).transpose(2, 3)  # [B, m, T, 41]
            y = y[:, None]
            faces = out * face_spread + face_mean
            error = faces - y
            gap, wanted = faces @ geometry.gap, y @ geometry.gap
            shut = (wanted < closed).float()
            loss = (matter * (error / face_spread) ** 2).mean() * 0.5
            loss = loss + ((error @ points) / point_unit).square().mean()
            loss = loss + config.gap * ((gap - wanted) / unit).square().mean()
            loss = loss + config.closure * (shut * ((gap - wanted).relu() / unit) ** 2).mean()
            speed = error.diff(dim=2) @ points / point_unit
            loss = loss + config.velocity * speed.square().mean() * 4
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = config.rate * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / steps)))
            optimizer.step()
            value = float(loss.detach())
            if (step + 1) % config.every == 0 and look is not None:
                model.eval()
                with torch.no_grad():
                    look(model)
            if (step + 1) % 10 == 0 or step + 1 == steps:
                report(Progress(stage, step + 1, steps, values={"loss": value}))
    return model.eval(), value


def _batch(
    lessons: list[Lesson],
    net: NetConfig,
    config: VoiceTrainConfig,
    generator: torch.Generator,
    mel: bool,
) -> tuple[Tensor, Tensor]:
    """Return features [B, crop + reach, inputs], augmented, and faces [B, crop, 41]."""
    xs, ys = [], []
    for _ in range(config.batch):
        lesson = lessons[int(torch.randint(len(lessons), (1,), generator=generator))]
        total = len(lesson.features)
        crop = min(config.crop, total - net.reach - net.look_ahead - 1)
        # The face at k is heard in features k + look_ahead - reach to k + look_ahead.
        low = max(0, net.reach - net.look_ahead)
        high = total - crop - net.look_ahead
        at = int(torch.randint(low, max(high, low + 1), (1,), generator=generator))
        start = at + net.look_ahead - net.reach
        xs.append(lesson.features[start : start + crop + net.reach])
        ys.append(lesson.faces[at : at + crop])
    x, y = torch.stack(xs), torch.stack(ys)
    return (augmented(x, generator) if mel else x), y
