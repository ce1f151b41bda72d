// The order in which Gaussians are drawn: farthest first. Runs in a worker, or where workers are refused
// on the page's own thread; poses the means itself, as reading them back from the GPU would stall it.
import { CHANNELS, type AvatarData } from "./format";
import type { Drive } from "./pose";

/** What the sort needs of an avatar; plain arrays, so that it can be sent to a worker. */
export interface SortData {
  means: Float32Array;
  corners: Uint16Array; // [N, 3]
  weights: Float32Array; // [N, 3] corner weights
  torso: Float32Array; // [N] share of the torso's motion
  eye: Int8Array;
  eyeballs: Float32Array;
  branches: { first: number; count: number; shapes: number; offsets: Int8Array }[]; // [K, 3, n]
}

/** What changes from picture to picture. */
export interface SortJob {
  weights: Float32Array;
  displacement: Float32Array;
  head: number[];
  torso: number[];
  eyes: number[][];
  row: number[]; // third row of T_cam_world
}

const BITS = 11;
const BUCKETS = 1 << BITS;

export function sortData(data: AvatarData, corners: Uint16Array, weights: Float32Array): SortData {
  return {
    means: data.means,
    corners,
    weights,
    torso: data.torso.map((logit) => 1 / (1 + Math.exp(-logit))),
    eye: data.eye,
    eyeballs: data.eyeballs,
    branches: data.branches.map(({ first, count, shapes, offsets }) => {
      const means = new Int8Array(shapes * 3 * count);
      for (let k = 0; k < shapes; k++) {
        const at = k * CHANNELS * count;
        means.set(offsets.subarray(at, at + 3 * count), k * 3 * count);
      }
      return { first, count, shapes, offsets: means };
    }),
  };
}

export function sortJob(drive: Drive, row: number[]): SortJob {
  const { weights, displacement, head, torso, eyes } = drive;
  return { weights, displacement, head, torso, eyes, row };
}

export class Sorter {
  private readonly x: Float32Array;
  private readonly y: Float32Array;
  private readonly z: Float32Array;
  private readonly keys: Uint32Array;
  private readonly half: Uint32Array;
  private readonly counts = new Uint32Array(2 * BUCKETS);
  private readonly signedSquare = Float32Array.from({ length: 256 }, (_, i) => {
    const q = i > 127 ? i - 256 : i;
    return q * Math.abs(q);
  });

  constructor(private readonly data: SortData) {
    const count = data.means.length / 3;
    this.x = new Float32Array(count);
    this.y = new Float32Array(count);
    this.z = new Float32Array(count);
    this.keys = new Uint32Array(count);
    this.half = new Uint32Array(count);
  }

  /** Indices of all Gaussians, farthest first. */
  order(job: SortJob): Uint32Array<ArrayBuffer> {
    this.offsets(job.weights);
    return this.sorted(this.depths(job));
  }

  private offsets(weights: Float32Array): void {
    const { x, y, z, signedSquare } = this;
    x.fill(0);
    y.fill(0);
    z.fill(0);
    let shape = 0;
    for (const { first, count, shapes, offsets } of this.data.branches) {
      for (let k = 0; k < shapes; k++, shape++) {
        [x, y, z].forEach((axis, c) => {
          const weight = weights[16 * shape + c]!;
          const at = (3 * k + c) * count;
          for (let i = 0; i < count; i++) {
            axis[first + i]! += weight * signedSquare[offsets[at + i]! & 255]!;
          }
        });
      }
    }
  }

  private depths(job: SortJob): Float32Array {
    const { means, corners, weights, torso, eye, eyeballs } = this.data;
    const { displacement, eyes } = job;
    const head = direction(job.row, job.head);
    const body = direction(job.row, job.torso);
    const depth = new Float32Array(this.x.length);
    for (let i = 0; i < depth.length; i++) {
      let px = means[3 * i]! + this.x[i]!;
      let py = means[3 * i + 1]! + this.y[i]!;
      let pz = means[3 * i + 2]! + this.z[i]!;
      for (let k = 0; k < 3; k++) {
        const weight = weights[3 * i + k]!;
        const v = 4 * corners[3 * i + k]!;
        px += weight * displacement[v]!;
        py += weight * displacement[v + 1]!;
        pz += weight * displacement[v + 2]!;
      }
      const side = eye[i]!;
      if (side >= 0) {
        const R = eyes[side]!;
        const cx = eyeballs[3 * side]!, cy = eyeballs[3 * side + 1]!, cz = eyeballs[3 * side + 2]!;
        const dx = px - cx, dy = py - cy, dz = pz - cz;
        px = R[0]! * dx + R[1]! * dy + R[2]! * dz + cx;
        py = R[3]! * dx + R[4]! * dy + R[5]! * dz + cy;
        pz = R[6]! * dx + R[7]! * dy + R[8]! * dz + cz;
      }
      const a = head[0]! * px + head[1]! * py + head[2]! * pz + head[3]!;
      const b = body[0]! * px + body[1]! * py + body[2]! * pz + body[3]!;
      depth[i] = a + (b - a) * torso[i]!;
    }
    return depth;
  }

  /** A stable radix sort of two passes over depths in 22 bits, which float32 hardly exceeds here. */
  private sorted(depth: Float32Array): Uint32Array<ArrayBuffer> {
    const { keys, half, counts } = this;
    const n = depth.length;
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < n; i++) {
      const d = depth[i]!;
      if (d < low) low = d;
      if (d > high) high = d;
    }
    const factor = (BUCKETS * BUCKETS - 1) / Math.max(1e-9, high - low);
    counts.fill(0);
    for (let i = 0; i < n; i++) {
      const key = ((high - depth[i]!) * factor) >>> 0;
      keys[i] = key;
      counts[key & (BUCKETS - 1)]!++;
      counts[BUCKETS + (key >>> BITS)]!++;
    }
    for (let pass = 0; pass < 2; pass++) {
      let sum = 0;
      for (let b = pass * BUCKETS; b < (pass + 1) * BUCKETS; b++) {
        const here = counts[b]!;
        counts[b] = sum;
        sum += here;
      }
    }
    // Of equally far ones the later in the file lies behind, as in the rasterizer.
    const out = new Uint32Array(n);
    for (let i = n - 1; i >= 0; i--) half[counts[keys[i]! & (BUCKETS - 1)]!++] = i;
    for (let i = 0; i < n; i++) {
      const index = half[i]!;
      out[counts[BUCKETS + (keys[index]! >>> BITS)]!++] = index;
    }
    return out;
  }
}

/** Depth of a point p of a frame T is this dotted with (p, 1). */
function direction(row: number[], T: number[]): number[] {
  const at = (j: number) => row[0]! * T[j]! + row[1]! * T[4 + j]! + row[2]! * T[8 + j]!;
  return [at(0), at(1), at(2), at(3) + row[3]!];
}
