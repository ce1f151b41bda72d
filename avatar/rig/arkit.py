"""The 52 ARKit blendshape names in Apple's order, and the groups under which people look for them."""

from __future__ import annotations

ARKIT_GROUPS: dict[str, tuple[str, ...]] = {
    "eyes": (
        "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
        "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight",
        "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight",
    ),
    "jaw": ("jawForward", "jawLeft", "jawRight", "jawOpen"),
    "mouth": (
        "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft",
        "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
        "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower",
        "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft",
        "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft",
        "mouthUpperUpRight",
    ),
    "brows": (
        "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    ),
    "cheeks and nose": (
        "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight",
    ),
    "tongue": ("tongueOut",),
}  # fmt: skip
"""Group to names; read in order they are Apple's order, as Live Link Face writes it."""

ARKIT_NAMES: tuple[str, ...] = tuple(name for names in ARKIT_GROUPS.values() for name in names)
"""The 52 names: index i is coefficient i of every ``HeadState.expression``."""

ARKIT_INDEX: dict[str, int] = {name: index for index, name in enumerate(ARKIT_NAMES)}
