"""Listening: nods and small expressions timed to another speaker's voice, eyes on the speaker.

When to react is the rule of Ward and Tsukahara, "Prosodic features which cue back-channel responses in
English and Japanese" (Journal of Pragmatics 32, 2000), for English: upon a region of pitch below the 26th
percentile (P1) that lasts at least 110 ms (P2), after at least 700 ms of speech (P3), if there was no
feedback within the last 800 ms (P4), feedback comes 700 ms later (P5). A pause after longer speech,
which nobody has answered yet, is a second cue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, median_filter, uniform_filter1d
from torch import Tensor

from avatar.capture_data import Track
from avatar.drive.emotion import EmotionKey, emotion_curve, emotional_states
from avatar.drive.gestures import Curves, idled, overlaid
from avatar.drive.idle import IdleDriver
from avatar.drive.motion import ARKIT_COUNT, interpolated
from avatar.model.avatar import Avatar
from avatar.rig.arkit import ARKIT_NAMES
from avatar.types import HeadState

HOP_S = 0.01
PITCH_HZ = (70.0, 400.0)
VOICED = 0.45
"""Normalised autocorrelation from which a frame counts as voiced."""
SPEECH_DB = 30.0
"""Sound within so many decibels of the voice's loud parts is speech ..."""
QUIETEST = 3e-4
"""... if its root mean square is above this at all: silence holds no voice."""

LOW_PITCH = 0.26
LOW_PITCH_S = 0.110
SPEECH_BEFORE_S = 0.700
FEEDBACK_GAP_S = 0.800
RESPONSE_S = 0.700

PAUSE_S = 0.40
PAUSE_AFTER_SPEECH_S = 1.5
"""Speech that may pass unanswered before a pause."""
PAUSE_RESPONSE_S = 0.15

MIRROR_SHARE = 0.5
MIRROR_DELAY_S = 0.7
"""Faces are mirrored within a second (Dimberg et al. 2000 measure 0.3 to 0.5 s to the first activity)."""
MIRROR_SMOOTH_S = 0.6
_MIRRORED = tuple(
    i
    for i, name in enumerate(ARKIT_NAMES)
    if name.startswith(
        ("mouthSmile", "mouthFrown", "brow", "cheekSquint", "eyeSquint", "noseSneer")
    )
)
"""Of the other face what shows feeling; jaw and lips are their speech."""

Cue = Literal["pitch", "pause"]


@dataclass(frozen=True)
class Backchannel:
    """A moment at which a listener reacts."""

    time_s: float
    cue: Cue


@dataclass(frozen=True)
class Voice:
    """What is heard of a speaker, every ``HOP_S`` seconds."""

    speaks: np.ndarray
    """[T] bool, gaps of stops closed."""
    pitch_hz: np.ndarray
    """[T]; 0 where unvoiced."""


def heard(samples: np.ndarray, rate: int) -> Voice:
    """Find where somebody speaks, and at which pitch (autocorrelation of 40 ms windows).

    Args:
        samples: [S] in [-1, 1].
        rate: Hz.
    """
    step = max(1, rate // 8000)
    # A running mean before the decimation is filter enough for a pitch below 400 Hz.
    x = uniform_filter1d(samples.astype(np.float64), step)[::step] if step > 1 else samples
    rate = rate // step
    hop, window = round(HOP_S * rate), round(0.040 * rate)
    count = max(0, (len(x) - window) // hop + 1)
    if count == 0:
        return Voice(np.zeros(0, bool), np.zeros(0))
    shortest, longest = int(rate / PITCH_HZ[1]), int(rate / PITCH_HZ[0])
    size = 1 << int(np.ceil(np.log2(window + longest)))
    taper = np.hanning(window)
    plain = np.fft.irfft(np.abs(np.fft.rfft(taper, size)) ** 2, size)[: longest + 1]
    rms, pitch = np.empty(count), np.zeros(count)
    for begin in range(0, count, 4096):  # an hour of sound is not to be held in memory at once
        index = np.arange(begin, min(begin + 4096, count))
        frames = x[(index * hop)[:, None] + np.arange(window)]
        rms[index] = np.sqrt((frames**2).mean(1))
        frames = (frames - frames.mean(1, keepdims=True)) * taper
        power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2
        auto = np.fft.irfft(power, size, axis=1)[:, : longest + 1]
        # Divided by the taper's own (Boersma 1993, eq. 9), so that long periods are not put behind.
        auto = auto / np.maximum(auto[:, :1], 1e-12) / (plain / plain[0])
        lags = auto[:, shortest : longest + 1]
        # Twice the period fits as well: of all peaks that are about as high, the first is the pitch.
        peak = (lags[:, 1:-1] >= lags[:, :-2]) & (lags[:, 1:-1] > lags[:, 2:])
        high = lags[:, 1:-1] > np.maximum(VOICED, 0.85 * lags.max(1, keepdims=True))
        best = 1 + (peak & high).argmax(1)
        voiced = (peak & high).any(1)
        pitch[index] = np.where(voiced, rate / (best + shortest), 0.0)
    loud = float(np.quantile(rms, 0.95))
    level = median_filter(rms, 5)
    speaks = level > max(QUIETEST, loud * 10 ** (-SPEECH_DB / 20))
    # The silence of a stop consonant belongs to the speech about it.
    filled = uniform_filter1d(speaks.astype(float), 21, mode="constant") > 0.35
    pitch = np.where(speaks, median_filter(pitch, 5), 0.0)
    return Voice(filled, pitch)


def backchannels(voice: Voice) -> list[Backchannel]:
    """Return when to react to a voice, in order, by the rule at the top of this file."""
    voiced = voice.pitch_hz > 0
    found: list[Backchannel] = []
    if not voiced.any():
        return found
    low = voiced & (voice.pitch_hz <= np.quantile(voice.pitch_hz[voiced], LOW_PITCH))
    low_run = speech_run = quiet_run = 0
    unanswered = 0.0
    last = -np.inf
    for k, speaks in enumerate(voice.speaks.tolist()):
        now = k * HOP_S
        low_run = low_run + 1 if low[k] else 0
        quiet_run = 0 if speaks else quiet_run + 1
        if speaks:
            speech_run += 1
            unanswered += HOP_S
        elif quiet_run * HOP_S > 0.2:  # less is no end of speech
            speech_run = 0
        if (
            low_run * HOP_S >= LOW_PITCH_S
            and speech_run * HOP_S >= SPEECH_BEFORE_S
            and now + RESPONSE_S - last >= FEEDBACK_GAP_S
        ):
            last = now + RESPONSE_S
            found.append(Backchannel(last, "pitch"))
            unanswered = 0.0
        elif (
            abs(quiet_run * HOP_S - PAUSE_S) < 0.5 * HOP_S
            and unanswered >= PAUSE_AFTER_SPEECH_S
            and now + PAUSE_RESPONSE_S - last >= FEEDBACK_GAP_S
        ):
            last = now + PAUSE_RESPONSE_S
            found.append(Backchannel(last, "pause"))
            unanswered = 0.0
    return found


def listening_states(
    samples: np.ndarray,
    rate: int,
    avatar: Avatar,
    *,
    mirror: Track | None = None,
    seed: int = 0,
    captured: HeadState | None = None,
) -> tuple[HeadState, list[Backchannel]]:
    """Return the states [F] of an avatar that listens, as long as the sound, and its reactions.

    Args:
        samples: [S] the other speaker's sound.
        rate: Hz.
        avatar: who listens.
        mirror: the other speaker's track, from the beginning of the sound on: what it shows of feeling is
            mirrored, later, softer and slower.
        seed: of which reaction comes, blinks and glances.
        captured: the person's own motion, a batch: blinks like theirs.
    """
    fps = avatar.fps
    frames = max(1, int(np.ceil(len(samples) / rate * fps - 1e-6)))
    cues = [cue for cue in backchannels(heard(samples, rate)) if cue.time_s < frames / fps]
    curves = Curves.still(frames, fps)
    keys = _react(curves, cues, np.random.default_rng([seed, 11]))
    idle = IdleDriver.of(avatar, seed=seed, motion=captured)
    # Listeners look at who speaks, three quarters of the time (Argyle and Cook 1976).
    looks = idle.statistics.gaze
    near = torch.zeros(1, 2) if looks is None else 0.4 * looks
    watching = replace(idle.statistics, glance_s=2.6, gaze=near)
    idle = IdleDriver(avatar.rest, fps, seed=seed, statistics=watching)
    states = overlaid(idled(idle, frames, fps), curves, avatar.rest)
    felt = emotion_curve(keys, fps, frames)
    if mirror is not None:
        felt = felt + mirrored(mirror, fps, frames)
    states = emotional_states(states, felt, avatar)
    expression = states.expression
    named = expression[:, :ARKIT_COUNT]
    named.copy_(named.clamp(max=1.0))
    return replace(states, expression=expression), cues


def _react(
    curves: Curves, cues: Sequence[Backchannel], generator: np.random.Generator
) -> list[EmotionKey]:
    """Add a reaction at each cue; return the expressions that go with them."""
    keys: list[EmotionKey] = []
    for cue in cues:
        kind, size, more = generator.random(3)
        amount = 0.45 + 0.5 * float(size)
        if kind < 0.80:  # most visible backchannels are nods, of one or several beats
            curves.add("nod", cue.time_s, amount)
            if more > 0.55:
                curves.add("nod", cue.time_s + 0.5, 0.6 * amount)
        if 0.55 < kind < 0.72 or kind > 0.92:
            keys.append(EmotionKey(cue.time_s, "smile", 0.25 + 0.3 * float(size)))
            keys.append(EmotionKey(cue.time_s + 1.4 + 1.2 * float(more), "neutral", 1.0))
        if kind >= 0.80:
            curves.add("brows", cue.time_s, 0.5 * amount)
        if more < 0.3:
            curves.add("blink", cue.time_s + 0.1)
    return keys


def mirrored(track: Track, fps: float, frames: int) -> Tensor:
    """Return what another face shows of feeling as coefficients [F, 52] to add: later, softer, slower."""
    states, valid = track.states(), track.valid.bool()
    felt = torch.zeros(frames, ARKIT_COUNT, dtype=torch.float64)
    if not bool(valid.any()):
        return felt
    shown = interpolated(states, valid).expression[:, :ARKIT_COUNT].double()
    # Against where each coefficient usually is on that face: people differ in their neutral.
    shown = (shown - torch.quantile(shown[valid], 0.3, dim=0)).numpy()
    slow = gaussian_filter1d(shown, MIRROR_SMOOTH_S * track.fps, axis=0, mode="nearest")
    time = np.arange(frames) / fps - MIRROR_DELAY_S
    known = np.arange(len(slow)) / track.fps
    for index in _MIRRORED:
        curve = np.interp(time, known, slow[:, index], left=0.0)
        felt[:, index] = torch.from_numpy(MIRROR_SHARE * np.clip(curve, 0.0, 1.0))
    # A reaction sets in softly also where the other begins in the middle of a smile.
    onset = torch.from_numpy(np.clip(time / 1.0, 0, 1))
    return felt * onset[:, None]
