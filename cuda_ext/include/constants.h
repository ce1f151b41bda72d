// The numbers of the rendering semantics (gsplat 1.5.3, classic mode), once for every backend.
// avatar/raster/reference.py states the same values for the oracle; tests/test_raster.py compares them.
#pragma once

namespace headsplat {

constexpr double kEps2d = 0.3;                   // px^2 added to the diagonal of the 2D covariance
constexpr double kAlphaThreshold = 1.0 / 255.0;  // a Gaussian below it does not touch the pixel
constexpr double kMaxAlpha = 0.999;              // alpha is clamped here; no gradient above
constexpr double kStopTransmittance = 1e-4;      // a pixel ends before it would fall to this or below
constexpr double kNearPlane = 0.01;              // metres along the optical axis
constexpr double kTangentMargin = 0.3;           // of half the field of view, for the clamp in J

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLog2AlphaThreshold = -7.99435343685885793770;  // log2(1 / 255)

constexpr int kTile = 16;   // pixels along the side of a tile
constexpr int kBlock = 4;   // pixels along the side of a block; a block fills the 16 lanes of a vector
constexpr int kLanes = 16;  // lanes of a vector, blocks of a tile

}  // namespace headsplat
