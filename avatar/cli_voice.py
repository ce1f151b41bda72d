"""``avatar train-voice`` and ``avatar bench voice``: how a person speaks, learnt from their own clip.

Part of the command line, in a file of its own for its length; heavy packages are imported inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.markup import escape

from avatar.checks import InputError
from avatar.cli_bench import JsonFile, write_json_file
from avatar.cli_common import OptionalOutput
from avatar.console import ProgressDisplay, console

if TYPE_CHECKING:
    import numpy as np

    from avatar.drive.voice import VoiceModel


def train_voice(
    capture: tyro.conf.Positional[Path],
    /,
    output: OptionalOutput = None,
    everything: bool = False,
    features: Path | None = None,
    steps: int | None = None,
    seed: int = 0,
    json_file: JsonFile = None,
) -> None:
    """Learn how a person speaks from the sound of their own capture: under three minutes for a minute of it.

    Writes me.voice beside the capture, where `avatar render me.avatar --drive speech.wav` finds it, and
    says how well it does on the part of the clip that it has not seen.

    Args:
        capture: a folder that `avatar capture` made, of a clip in which the person speaks.
        output: the file to write; me.voice beside the capture where not given.
        everything: learn from the whole clip. It gets a little better, and cannot be measured.
        features: a folder with weights of wav2vec 2.0 or HuBERT, as transformers saves them, to listen
            with instead of log-mel; nothing is fetched. Files only, not the microphone.
        steps: most steps of the training, instead of the usual number.
        seed: seed of all randomness.
        json_file: also write the measurement to this file; - prints it.
    """
    from avatar.capture_data import Capture
    from avatar.drive.voice import VOICE_SUFFIX

    opened = Capture(capture)
    output = output or opened.path.parent / "me.voice"
    if output.suffix != VOICE_SUFFIX:
        raise InputError(f"The voice model {output} must end in {VOICE_SUFFIX}.")
    if not output.parent.is_dir():
        raise InputError(f"The folder {output.parent} does not exist. Make it, or choose another.")
    model, extractor = _trained(capture, features, steps, seed, everything)
    model.save(output)
    result: dict[str, Any] = {"output": str(output), "training": model.facts, "measured": None}
    if not everything and len(range(*opened.splits.test)) > 2 * opened.fps:
        from avatar.drive.voice_bench import measure_voice
        from avatar.train.metrics import MOUTH_POINTS

        result["measured"] = measure_voice(
            opened, model, opened.splits.test, MOUTH_POINTS, extractor=extractor
        )
    write_json_file(json_file, result)
    console.print(f"{output}: trained in {model.facts['seconds']:.0f} s.")
    if result["measured"] is not None:
        m = result["measured"]["file"]
        console.print(
            f"On the {m['frames']} frames that it has not seen: correlation of jawOpen "
            f"{m['jaw_open_r']:.2f}, of the lips' gap {m['gap_r']:.2f}; lips {m['lmd_px']:.1f} px off at 512."
        )
    console.print(
        f"Next: avatar render ME.avatar --drive speech.wav --voice {escape(str(output))} -o out.mp4"
    )


def bench_voice(capture: Path, seed: int, steps: int | None, json_file: Path | None) -> None:
    """Train on the training part, drive by the sound of the rest, print how right it is."""
    from avatar.capture_data import Capture
    from avatar.drive.voice_bench import measure_voice, print_rows
    from avatar.train.metrics import MOUTH_POINTS

    opened = Capture(capture)
    model, _ = _trained(capture, None, steps, seed, everything=False)
    result = measure_voice(opened, model, opened.splits.test, MOUTH_POINTS)
    result["training_s"] = model.facts["seconds"]
    result["steps"] = model.facts["steps"]
    if json_file is None:
        print_rows(result)
    write_json_file(json_file, result)


def _trained(
    capture: Path, features: Path | None, steps: int | None, seed: int, everything: bool
) -> tuple[VoiceModel, Any]:
    """Train; return the model and what makes its features of a file, None for the usual ones."""
    from dataclasses import replace

    from avatar.capture_data import Capture
    from avatar.drive.voice_train import VoiceTrainConfig, train_voice

    opened = Capture(capture)
    config = replace(VoiceTrainConfig(), seed=seed)
    if steps is not None:
        if steps < config.every:
            raise InputError(f"--steps must be at least {config.every}; got {steps}.")
        config = replace(config, steps=steps)
    extractor: Callable[[Path], np.ndarray] | None = None
    name = "mel"
    if features is not None:
        from avatar.drive.audio_networks import network_features, open_network

        network, name = open_network(features)
        extractor = partial(network_features, network)
    with ProgressDisplay() as report:
        model = train_voice(
            opened,
            config,
            frames=(0, opened.frames) if everything else None,
            extractor=extractor,
            extractor_name=name,
            report=report,
        )
    return model, extractor
