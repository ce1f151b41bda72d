"""What each preset buys with its time; ``avatar create --preset`` and ``avatar train --preset``."""

from __future__ import annotations

from typing import Literal

from avatar.model.create import CreateConfig
from avatar.train.config import DensifyConfig, TrainConfig

PresetName = Literal["smoke", "draft", "standard", "overnight"]

PRESETS: dict[str, TrainConfig] = {
    # Seconds, for tests of the whole path; the picture is a blur that moves rightly.
    "smoke": TrainConfig(
        steps=120,
        max_side=192,
        max_frames=60,
        checkpoint_seconds=2.0,
        create=CreateConfig(
            face=1500, hair=900, torso=900, eye=40, mouth=60, shapes=8, hull_frames=12
        ),
        densify=DensifyConfig(rounds=1, maximum=4000),
    ),
    # A first look over a coffee.
    "draft": TrainConfig(),
    # Twice the steps and more Gaussians.
    "standard": TrainConfig(
        steps=4800,
        max_side=1024,
        max_frames=1000,
        create=CreateConfig(face=12_000, hair=8000, torso=9000),
        densify=DensifyConfig(maximum=40_000),
    ),
    "overnight": TrainConfig(
        steps=40_000,
        max_side=1280,
        max_frames=4000,
        create=CreateConfig(face=40_000, hair=30_000, torso=30_000, eye=600, mouth=1500),
        densify=DensifyConfig(rounds=10, maximum=150_000),
    ),
}
