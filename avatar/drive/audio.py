"""Speech moves an avatar: from a sound file, or live from chunks of samples.

Both ways are one way: chunks go through the same streams of features and of coefficients, and the time
of every state is a number of samples divided by their rate, so that mouth and sound cannot drift apart.
Mouth, jaw, cheeks and (softly) brows come from the sound; blinks, gaze, breath and posture from the
person's idling (``idle``), the head's emphasis from the loudness. Silence is a person at rest, who
breathes and blinks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.drive.audio_fallback import FALLBACK_NOTE, FallbackStream, rules_reach
from avatar.drive.audio_features import (
    FEATURE_FPS,
    LEVEL,
    RATE,
    FeatureStream,
    SoundBlock,
    SpeechLevel,
    feature_blocks,
    read_sound,
    speech_level,
)
from avatar.drive.idle import IdleDriver
from avatar.drive.motion import ARKIT_COUNT, head_rotation, turned_about_neck
from avatar.drive.retarget import RetargetConfig, retargeted_weights
from avatar.drive.voice import SPOKEN, VoiceModel, VoiceStream
from avatar.model.avatar import Avatar
from avatar.types import HeadState

NOD_RAD = 0.045
"""How far the head goes down on stressed syllables, radians at most."""
SWAY = 1.4
"""Speaking adds so many times the idle motion to the head."""
FULLY_PRESENT = 0.1
"""Presence of speech from which on the mouth is the sound's alone; below, it comes to rest."""
LONGEST_S = 4 * 3600.0


class FaceStream(Protocol):
    """Feature frames in, ARKit coefficients out a fixed number of frames later."""

    look_ahead: int

    def push(self, features: np.ndarray) -> Tensor:
        """Take frames [N, inputs]; return the coefficients [M, 52] that can be known now."""
        ...

    def flush(self) -> Tensor:
        """Return the last coefficients [M, 52]."""
        ...


class Emphasis:
    """How much a speaker stresses what is said: three slow followers of the loudness."""

    def __init__(self, level: float | None) -> None:
        self._level = SpeechLevel(-4.0 if level is None else level, known=level is not None)
        self._quick = self._slow = self._present = 0.0

    def push(self, features: np.ndarray) -> np.ndarray:
        """Take frames [N, 43]; return stress and presence of speech [N, 2], about -1 to 1 and 0 to 1."""
        out = np.empty((len(features), 2))
        for i, level in enumerate(features[:, LEVEL]):
            loud = min(max((level - self._level.follow(float(level)) + 5) / 5, 0.0), 1.2)
            self._quick += 0.10 * (loud - self._quick)  # 0.2 s: syllables
            self._slow += 0.02 * (loud - self._slow)  # 1 s: phrases
            self._present += 0.05 * (min(1.0, 2 * self._quick) - self._present)
            out[i] = self._quick - self._slow, self._present
        return out


class SpokenFace:
    """Samples in; coefficients and emphasis out, 50 a second."""

    def __init__(self, rate: int, face: FaceStream, level: float | None = None) -> None:
        """Start at time 0 of a sound of ``rate`` samples a second; raises as ``FeatureStream``."""
        self._features, self._face = FeatureStream(rate), face
        self._emphasis = Emphasis(level)
        self._waiting = np.zeros((0, 2))
        self.delay_s = self._features.delay_s + face.look_ahead / FEATURE_FPS
        """How much later than its moment a frame is known, seconds."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [S] and return frames [N, 54]: 52 coefficients, stress, presence."""
        return self.push_features(self._features.push(samples))

    def push_features(self, features: np.ndarray) -> np.ndarray:
        """The same, of feature frames [N, 43]."""
        self._waiting = np.concatenate([self._waiting, self._emphasis.push(features)])
        return self._joined(self._face.push(features))

    def flush(self) -> np.ndarray:
        """Return the last frames [N, 54]."""
        last = self.push_features(self._features.flush())
        return np.concatenate([last, self.flush_face()])

    def flush_face(self) -> np.ndarray:
        """Return the last frames [N, 54] where features were pushed."""
        return self._joined(self._face.flush())

    def _joined(self, weights: Tensor) -> np.ndarray:
        emphasis, self._waiting = self._waiting[: len(weights)], self._waiting[len(weights) :]
        return np.concatenate([weights.numpy(), emphasis], axis=1)


class SpeechMotion:
    """Puts frames of a spoken face on one avatar, with everything else that a speaker does."""

    def __init__(self, avatar: Avatar, voice: VoiceModel | None, *, seed: int = 0) -> None:
        """Prepare.

        Args:
            avatar: who speaks.
            voice: the model that the frames come from; None for the fallback.
            seed: of blinks, glances and the head's sway.
        """
        self._avatar, self._voice = avatar, voice
        self._rest = avatar.rest
        statistics = None if voice is None else voice.idle
        self._idle = IdleDriver(avatar.rest, avatar.fps, seed=seed, statistics=statistics)
        generator = np.random.default_rng([seed, 7])
        self._hertz = generator.uniform(0.15, 0.9, (3, 4))
        self._phase = generator.uniform(0, 2 * math.pi, (3, 4))
        own = avatar.header.get("source_sha256")
        self._own = voice is not None and bool(own) and own == voice.source_sha256

    def state(self, time_s: float, frame: np.ndarray) -> HeadState:
        """Return the single state at a time (not negative) of a frame [54]."""
        base, rest = self._idle.state_at(time_s), self._rest
        spoken = list(SPOKEN)
        weights = self.on_avatar(torch.from_numpy(frame[:ARKIT_COUNT]).float())
        presence = float(np.clip(frame[ARKIT_COUNT + 1], 0, 1))
        # What a model makes of silence is anybody's guess: the mouth rests in it.
        at_rest = rest.expression[:ARKIT_COUNT].to(weights)
        weights = at_rest + min(1.0, presence / FULLY_PRESENT) * (weights - at_rest)
        expression = base.expression.clone()
        # While speech is heard the mouth is its alone; the idle face's slow play comes back in pauses.
        sway = (base.expression - rest.expression)[spoken] * (1 - presence)
        expression[spoken] = weights[spoken].to(expression.dtype) + sway.clamp(-0.05, 0.05)
        angles = self._emphasised(time_s, float(frame[ARKIT_COUNT]), presence)
        turn = head_rotation(base.T_world_head.new_tensor(angles))
        return replace(
            base, expression=expression, T_world_head=turned_about_neck(base.T_world_head, turn)
        )

    def on_avatar(self, weights: Tensor) -> Tensor:
        """Return coefficients [..., 52] put on the avatar's person."""
        if self._own or self._voice is None:
            if self._own:
                return weights
            neutral, reach = torch.zeros(ARKIT_COUNT), rules_reach()
        else:
            neutral, reach = self._voice.rest, self._voice.high - self._voice.rest
        return retargeted_weights(weights, neutral, reach, self._avatar, RetargetConfig())

    def _emphasised(self, time_s: float, stress: float, presence: float) -> list[float]:
        """Yaw, pitch and roll that speaking adds, radians."""
        waves = np.sin(2 * math.pi * self._hertz * time_s + self._phase).mean(1)
        spread = np.array(self._idle.statistics.head_rad)
        angles = SWAY * presence * spread * waves
        angles[1] -= NOD_RAD * float(np.clip(stress, -0.5, 1.0)) * presence
        return angles.tolist()


class AudioDriver:
    """Plays a sound file on an avatar, at the avatar's frame rate."""

    def __init__(
        self,
        path: Path,
        avatar: Avatar,
        voice: VoiceModel | None = None,
        frames: tuple[int, int] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Listen to the whole file; states are made when they are asked for.

        Args:
            path: the sound.
            avatar: who speaks.
            voice: the person's model; None takes the fallback without training.
            frames: the part [first, last) to play, frames of the avatar's rate; None for all.
            seed: of everything that the sound does not say.

        Raises:
            InputError: the file is no sound, or the part does not lie in it.
        """
        self.fps = avatar.fps
        self.note = FALLBACK_NOTE if voice is None else "the person's own voice model"
        self._motion = SpeechMotion(avatar, voice, seed=seed)
        seconds = 0.0

        def counted() -> Iterator[SoundBlock]:
            nonlocal seconds
            for block in read_sound(path):
                seconds += len(block.samples) / block.rate
                if seconds > LONGEST_S:
                    raise InputError(f"{path} is longer than {LONGEST_S / 3600:.0f} hours. Cut it.")
                yield block

        # Sound of 43 numbers a frame: ten minutes are 10 MB, and the level is known beforehand.
        parts = list(feature_blocks(counted()))
        features = np.concatenate(parts)
        level = speech_level(features)
        if voice is not None and voice.extractor != "mel":
            from avatar.drive.audio_networks import network_weights

            weights = network_weights(path, voice, len(features))
            emphasis = Emphasis(level).push(features)
            self._frames = np.concatenate([weights.numpy(), emphasis], axis=1)
        else:
            face = open_face(voice, "file", level)
            spoken = SpokenFace(RATE, face, level)
            done = [spoken.push_features(part) for part in np.array_split(features, len(parts))]
            self._frames = np.concatenate([*done, spoken.flush_face()])
        self._total = max(1, int(seconds * self.fps + 1e-4))
        self._first, self._last = frames or (0, self._total)
        if not 0 <= self._first < self._last <= self._total:
            raise InputError(
                f"{path} has {self._total} frames; the part from frame {self._first} up to {self._last} "
                f"does not lie in it. Choose a part within 0 and {self._total}."
            )

    def __len__(self) -> int:
        return self._last - self._first

    def states(self) -> Iterator[HeadState]:
        """Yield one state a frame."""
        for frame in range(self._first, self._last):
            time_s = frame / self.fps
            yield self._motion.state(time_s, frame_at(self._frames, time_s))

    @property
    def batch(self) -> HeadState:
        """All states as one batch."""
        return HeadState.stacked(list(self.states()))


def open_face(voice: VoiceModel | None, net: str, level: float | None) -> FaceStream:
    """Return what makes coefficients of features: the person's model, or the fallback.

    Raises:
        InputError: the model needs features that cannot be made while the sound comes in.
    """
    if voice is None:
        return FallbackStream(level=level)
    if voice.extractor != "mel":
        raise InputError(
            f"This voice model listens with {voice.extractor}, which needs the whole sound. For live sound "
            "train one without --features."
        )
    return VoiceStream(voice, net, level=level)


def frame_at(frames: np.ndarray, time_s: float, first_frame: int = 0) -> np.ndarray:
    """Return the frame [D] at a time: linear between frames [N, D], held before and behind them.

    Args:
        frames: consecutive frames, 50 a second.
        time_s: from the start of the sound.
        first_frame: number of the first of ``frames``.
    """
    if not len(frames):
        raise ValueError("no frames to choose from.")
    place = min(max(time_s * FEATURE_FPS - first_frame, 0.0), len(frames) - 1.0)
    before = min(int(place), max(len(frames) - 2, 0))
    if len(frames) == 1:
        return frames[0]
    return frames[before] + (place - before) * (frames[before + 1] - frames[before])
