"""Heads: the ARKit names, the face lattice, its expression shapes."""

from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis, generic_arkit_basis
from avatar.rig.lattice import deform, eyeball_centres, lattice_table, point_normals
from avatar.rig.rig import LatticeRig, Rig

__all__ = [
    "ARKIT_GROUPS",
    "ARKIT_INDEX",
    "ARKIT_NAMES",
    "LatticeRig",
    "Rig",
    "arkit_basis",
    "deform",
    "eyeball_centres",
    "generic_arkit_basis",
    "lattice_table",
    "point_normals",
]
