"""wav2vec 2.0 and HuBERT features, where the user has the weights on disk.

Nothing is fetched: ``transformers`` reads the folder that the user names, with ``local_files_only``.
The networks see the whole sound, 20 s at a time, so what they give is for files, not for live sound.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.drive.audio_features import RATE, Resampler, read_sound
from avatar.drive.voice import VoiceModel

KINDS = ("wav2vec2", "hubert")
PIECE_S, MARGIN_S = 20.0, 1.0
"""Sound is handed over in pieces, each with a margin to either side that is thrown away."""


def open_network(folder: Path) -> tuple[Any, str]:
    """Load a network; return it and what to call its features.

    Args:
        folder: with config.json and the weights as safetensors, as transformers saves them.

    Raises:
        InputError: transformers is missing, or the folder holds no network of the two kinds.
    """
    folder = Path(folder)
    file = folder / "config.json"
    try:
        kind = json.loads(file.read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} holds no network: its config.json cannot be used ({error}). Name a folder with "
            "wav2vec 2.0 or HuBERT weights, as transformers saves them."
        ) from error
    if kind not in KINDS:
        raise InputError(f"{folder} holds a network of kind {kind!r}; expected one of {KINDS}.")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            "Features of wav2vec 2.0 and HuBERT need the package transformers. Run: "
            "pip install headsplat[audio]"
        ) from error
    loader = transformers.Wav2Vec2Model if kind == "wav2vec2" else transformers.HubertModel
    try:
        network = loader.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The weights in {folder} cannot be read ({str(error).splitlines()[0]}). They must be there as "
            "model.safetensors."
        ) from error
    mark = hashlib.sha256(
        json.dumps(network.config.to_dict(), sort_keys=True, default=str).encode()
    )
    total = sum(float(p.detach().double().sum()) for p in network.parameters())
    mark.update(f"{total:.6e}".encode())
    return network.eval(), f"{kind}:{mark.hexdigest()[:16]}:{folder.resolve()}"


@torch.no_grad()
def network_features(network: Any, path: Path) -> np.ndarray:
    """Return the last hidden layer [N, D] for a sound file, brought to 50 frames a second."""
    blocks = list(read_sound(path))
    resampler = Resampler(blocks[0].rate)
    sound = np.concatenate([*(resampler.push(b.samples) for b in blocks), resampler.flush()])
    frames = -(-len(sound) // 320)
    # Both kinds were trained on sound of mean 0 and variance 1.
    sound = (sound - sound.mean()) / max(float(sound.std()), 1e-5)
    piece, margin = int(PIECE_S * RATE), int(MARGIN_S * RATE)
    parts = []
    for first in range(0, len(sound), piece):
        begin, end = max(0, first - margin), min(len(sound), first + piece + margin)
        part = np.pad(sound[begin:end], (0, max(0, 800 - (end - begin))))
        hidden = network(torch.from_numpy(part).float()[None]).last_hidden_state[0].numpy()
        # Hidden frame j lies about the middle of its 25 ms: (320 j + 200) / 16000 s of the part.
        at = (320 * np.arange(len(hidden)) + 200 + begin) / 320
        wanted = np.arange(first // 320, min(frames, (first + piece) // 320))
        parts.append(np.stack([np.interp(wanted, at, column) for column in hidden.T], 1))
    return np.concatenate(parts)


def network_weights(path: Path, voice: VoiceModel, frames: int) -> Tensor:
    """Return coefficients [frames, 52] of a sound file by a model that listens with a network.

    Raises:
        InputError: the network is no longer where it was, or is another one.
    """
    folder = Path(voice.extractor.split(":", 2)[2])
    network, name = open_network(folder)
    if name.split(":")[:2] != voice.extractor.split(":")[:2]:
        raise InputError(
            f"The network in {folder} is another one than the voice model was trained with. Train it again."
        )
    weights = voice.predict(network_features(network, path))
    if len(weights) < frames:
        weights = torch.cat([weights, weights[-1:].expand(frames - len(weights), -1)])
    return weights[:frames]
