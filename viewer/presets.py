"""Named expressions for the viewer's buttons, as ARKit coefficients."""

from __future__ import annotations


def _both(**weights: float) -> dict[str, float]:
    """Give each weight to the coefficient's left and right half."""
    return {f"{name}{side}": value for name, value in weights.items() for side in ("Left", "Right")}


PRESETS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": _both(mouthSmile=0.75, cheekSquint=0.35, eyeSquint=0.2, mouthDimple=0.15),
    "surprise": {
        "browInnerUp": 0.8,
        "jawOpen": 0.4,
        "mouthFunnel": 0.15,
        **_both(browOuterUp=0.8, eyeWide=0.7),
    },
    "angry": {
        "mouthRollLower": 0.2,
        "mouthRollUpper": 0.15,
        **_both(browDown=0.9, noseSneer=0.5, eyeSquint=0.4, mouthPress=0.5, mouthFrown=0.3),
    },
    "sad": {
        "browInnerUp": 0.8,
        "mouthShrugLower": 0.4,
        **_both(mouthFrown=0.7, eyeSquint=0.15),
    },
    "kiss": {"mouthPucker": 0.9, "mouthFunnel": 0.2},
    "mouth open": {"jawOpen": 0.7},
    "blink": _both(eyeBlink=1.0),
    "wink left": {"eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.4, "mouthSmileLeft": 0.25},
    "wink right": {"eyeBlinkRight": 1.0, "cheekSquintRight": 0.4, "mouthSmileRight": 0.25},
    "brows up": {"browInnerUp": 0.7, **_both(browOuterUp=0.8)},
    "look left": {"eyeLookOutLeft": 0.8, "eyeLookInRight": 0.8},
    "look right": {"eyeLookInLeft": 0.8, "eyeLookOutRight": 0.8},
    "look up": _both(eyeLookUp=0.8),
    "look down": _both(eyeLookDown=0.8),
}
"""Name to {ARKit name: weight in (0, 1]}; coefficients that are not named are 0. Left and right are the
subject's."""
