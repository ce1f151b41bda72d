"""A synthetic speaker for the tests of sound: syllables of a known mouth, and a capture of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from avatar.capture_data import Capture, Splits, Track
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.lattice import eyeball_centres, lattice_table


def mouth(seconds: float, seed: int = 0, fps: float = 200.0) -> np.ndarray:
    """How open a mouth is, [F] in [0, 1]: syllables with closures, and pauses."""
    generator = np.random.default_rng(seed)
    open_ = np.zeros(int(seconds * fps))
    at = 0.3
    while at < seconds - 0.5:
        lasts = generator.uniform(0.14, 0.3)
        a, b = int(at * fps), int((at + lasts) * fps)
        open_[a:b] = generator.uniform(0.4, 1.0) * np.sin(np.linspace(0, np.pi, b - a)) ** 0.7
        at += lasts + (0.6 if generator.random() < 0.12 else generator.uniform(0.03, 0.08))
    return open_


def voice_of(open_: np.ndarray, rate: int = 16000, fps: float = 200.0) -> np.ndarray:
    """The sound of a mouth: harmonics under two formants, the first of which follows the jaw."""
    count = int(len(open_) / fps * rate)
    time = np.arange(count) / rate
    jaw = np.interp(time, np.arange(len(open_)) / fps, open_)
    hertz = 120 + 25 * np.sin(2 * np.pi * 0.37 * time) + 20 * jaw
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    sound = np.zeros(count)
    for k in range(1, 25):
        f = k * hertz
        first = 1 / (1 + ((f - 300 - 500 * jaw) / 120) ** 2)
        second = 0.3 / (1 + ((f - 1500) / 200) ** 2)
        sound += (first + second) * np.sin(k * phase) * (f < 0.45 * rate)
    sound *= jaw**0.6 / 6
    return sound + 0.0005 * np.random.default_rng(1).standard_normal(count)


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str = "pcm_s16le") -> Path:
    """Write sound [S] or [S, 2] in [-1, 1] to a file of the kind that its name says."""
    stereo = sound.ndim == 2
    wanted = {"libmp3lame": "s16p", "aac": "fltp", "flac": "s16", "libopus": "flt"}
    whole = np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo" if stereo else "mono"
        frame = av.AudioFrame.from_ndarray(
            whole.reshape(1, -1), format="s16", layout="stereo" if stereo else "mono"
        )
        frame.sample_rate = rate
        frame.pts, frame.time_base = 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            wanted.get(codec, "s16"), frame.layout.name, rate, frame_size=stream.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def spoken_capture(
    folder: Path, seconds: float = 24.0, fps: float = 25.0, seed: int = 0
) -> Capture:
    """A finished capture, without pictures, of somebody who speaks."""
    folder.mkdir(parents=True)
    frames = int(seconds * fps)
    fine = mouth(seconds, seed)
    open_ = np.interp(np.arange(frames) / fps, np.arange(len(fine)) / 200, fine)
    expression = np.zeros((frames, 52), np.float32)
    noise = np.random.default_rng(seed + 1).standard_normal((frames, 4)).astype(np.float32)
    expression[:, ARKIT_INDEX["jawOpen"]] = 0.03 + 0.45 * open_ + 0.01 * noise[:, 0]
    expression[:, ARKIT_INDEX["mouthClose"]] = 0.1 * (open_ < 0.1)
    expression[:, ARKIT_INDEX["mouthPucker"]] = np.abs(0.05 * noise[:, 1])
    expression[:, ARKIT_INDEX["eyeBlinkLeft"]] = 0.02
    table = lattice_table()
    basis = torch.zeros(52, 478, 3)
    basis[:, :, :] = 0.0005 * torch.randn(52, 478, 3, generator=torch.Generator().manual_seed(3))
    # The jaw opens the lower lip; closing lifts it again.
    lower = [14, 87, 317, 17, 84, 314, 152]
    basis[ARKIT_INDEX["jawOpen"]] = 0
    basis[ARKIT_INDEX["jawOpen"], lower, 1] = -0.03
    basis[ARKIT_INDEX["mouthClose"]] = 0
    basis[ARKIT_INDEX["mouthClose"], lower, 1] = 0.01
    pose = torch.eye(4).expand(frames, 4, 4).clone()
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = 0.6
    K = torch.tensor([[700.0, 0, 128], [0, 700.0, 128], [0, 0, 1]])
    points = table.neutral + torch.einsum("fe,epd->fpd", torch.from_numpy(expression), basis)
    seen = (points @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]) @ K.T
    track = Track(
        K[None],
        T_cam_world[None],
        table.neutral,
        basis,
        eyeball_centres(table.neutral),
        torch.from_numpy(expression),
        torch.zeros(frames, 2, 2),
        pose,
        pose.clone(),
        seen[..., :2] / seen[..., 2:],
        torch.zeros(frames),
        torch.ones(frames, dtype=torch.bool),
        ARKIT_NAMES,
        "lattice",
        fps,
    )
    track.save(folder / "track.safetensors")
    splits = Splits.default(frames)
    (folder / "splits.json").write_text(json.dumps({k: getattr(splits, k) for k in vars(splits)}))
    write_sound(folder / "audio.wav", voice_of(fine), 16000)
    header = {
        "format": "headsplat.capture",
        "version": 1,
        "frames": frames,
        "fps": fps,
        "cameras": [{"width": 256, "height": 256}],
        "source_sha256": "5" * 64,
    }
    (folder / "capture.json").write_text(json.dumps(header))
    return Capture(folder)
