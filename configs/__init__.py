"""Named presets as typed Python values."""

from configs.presets import PRESETS, PresetName

__all__ = ["PRESETS", "PresetName"]
