"""The project's own 52 ARKit shapes on the face lattice, from named regions and directions.

Each shape prescribes how a few named places move (millimetres at coefficient 1 on a face with an
iris of 11.7 mm) and which places hold still; ``smooth_field`` spreads that over the skin. Lips are
addressed by their columns (across the mouth) and rows (outer contour to inner), so that rolling,
pressing and funnelling are formulas in those two. ``arkit_drawing`` has the tools, ``arkit_places`` the
names of places, ``arkit_shapes_jaw``, ``_mouth``, ``_lips`` and ``_upper`` the shapes.

What each name must do is Apple's documentation of ``ARFaceAnchor.BlendShapeLocation``. A name says
nothing of size: how far 1.0 goes, which way exactly, and how much the neighbouring skin goes along, was
calibrated place by place, to about half a millimetre, against the public ICT-FaceKit head (MIT), whose
sculpted shapes carry the same names. None of its data is here. With the lattice laid on that head, the
two displacement fields point the same way (cosine at least 0.8 for every shape, 0.82 to 0.99 measured)
and ours is 0.75 to 1.3 times as large (0.84 to 1.07 measured): ``tests/test_arkit_basis.py``. Where a
surface would pass through itself we differ: the inner contour of a lip that rolls in stays at the seam.
The shapes are a prior: the tracker personalises them on the clip.
``tongueOut`` is zero: no point of the lattice lies on the tongue.

Left shapes are drawn; right shapes are their mirror images, exactly.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_drawing import HINGE_MM, Drawing
from avatar.rig.arkit_shapes_jaw import JAW_OPEN_RAD, jaw_shapes
from avatar.rig.arkit_shapes_lips import lip_shapes
from avatar.rig.arkit_shapes_mouth import mouth_shapes
from avatar.rig.arkit_shapes_upper import (
    GAZE_SIDE_RAD,
    GAZE_UP_RAD,
    brow_shapes,
    cheek_and_nose_shapes,
    eye_shapes,
)
from avatar.rig.lattice import POINTS, lattice_table

__all__ = [
    "GAZE_SIDE_RAD",
    "GAZE_UP_RAD",
    "HINGE_MM",
    "JAW_OPEN_RAD",
    "arkit_basis",
    "generic_arkit_basis",
]


def arkit_basis(neutral: Tensor) -> Tensor:
    """Draw the 52 shapes on a neutral lattice.

    Args:
        neutral: [478, 3] metres, head frame.

    Returns:
        [52, 478, 3] displacements in metres at coefficient 1, in ``ARKIT_NAMES`` order, in the dtype
        of ``neutral``. On a symmetric lattice Left and Right shapes are exact mirror images.
    """
    draw = Drawing(neutral)
    shapes = {
        **jaw_shapes(draw),
        **mouth_shapes(draw),
        **lip_shapes(draw),
        **brow_shapes(draw),
        **cheek_and_nose_shapes(draw),
        **eye_shapes(draw),
    }
    basis = torch.zeros(len(ARKIT_NAMES), POINTS, 3, dtype=torch.float64)
    for name, shape in shapes.items():
        basis[ARKIT_INDEX[name]] = shape
        if name.endswith("Left"):
            basis[ARKIT_INDEX[name[:-4] + "Right"]] = draw.mirrored(shape)
        else:  # shapes of the middle line must not prefer a side
            basis[ARKIT_INDEX[name]] = 0.5 * (shape + draw.mirrored(shape))
    return basis.to(neutral.dtype)


@cache
def generic_arkit_basis() -> Tensor:
    """Return the shapes [52, 478, 3] on the generic neutral lattice (drawn once; do not change it)."""
    return arkit_basis(lattice_table().neutral)
