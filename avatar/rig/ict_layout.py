"""The public layout of ICT-FaceKit light (MIT): its parts, and its published landmark vertices.

Li et al., Learning Formation of Physically-Based Face Attributes, 2020;
github.com/ICT-VGL/ICT-FaceKit, whose README lists the ranges below.
"""

from __future__ import annotations

VERTICES = 26719
"""Vertices of the whole head."""
FACE = (0, 9409)
"""The face's skin, without the neck; first included, last excluded."""
SKIN = (0, 11248)
"""Face, head and neck."""
TEETH_AND_GUMS = (14062, 21451)
"""Gums, tongue and teeth."""
EYEBALLS = ((21451, 23021), (23021, 24591))
"""The subject's left and right eyeball."""

LATTICE_POINTS = (
    152, 70, 63, 105, 66, 107, 336, 296, 334, 293, 300, 168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""Lattice points that are among the usual 68 landmarks: the chin's tip, then brows, nose, eyes, lips."""
LANDMARKS = (
    966, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075,
    1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216,
    6207, 6470, 5517, 5966,
)  # fmt: skip
"""The vertices published for them (``idx_to_landmark_verts``)."""

NAMES = (
    "browDown_L", "browDown_R", "browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R",
    "cheekPuff_L", "cheekPuff_R", "cheekSquint_L", "cheekSquint_R", "eyeBlink_L", "eyeBlink_R",
    "eyeLookDown_L", "eyeLookDown_R", "eyeLookIn_L", "eyeLookIn_R", "eyeLookOut_L", "eyeLookOut_R",
    "eyeLookUp_L", "eyeLookUp_R", "eyeSquint_L", "eyeSquint_R", "eyeWide_L", "eyeWide_R",
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimple_L", "mouthDimple_R",
    "mouthFrown_L", "mouthFrown_R", "mouthFunnel", "mouthLeft", "mouthLowerDown_L",
    "mouthLowerDown_R", "mouthPress_L", "mouthPress_R", "mouthPucker", "mouthRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmile_L",
    "mouthSmile_R", "mouthStretch_L", "mouthStretch_R", "mouthUpperUp_L", "mouthUpperUp_R",
    "noseSneer_L", "noseSneer_R",
)  # fmt: skip
"""Its 53 expressions: ARKit's, two of them in halves, none for the tongue."""
HALVED = ("browInnerUp", "cheekPuff")
"""ARKit's shapes that it has in a left and a right half."""
