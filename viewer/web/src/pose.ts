// The part of posing that is per avatar and not per Gaussian: networks, lattice, growth, rigid motions.
// avatar/model/avatar.py is the same in Python; the rest of its `pose` is in shaders.ts and sort.ts.
import { CHANNELS, type AvatarData, type Branch } from "./format";
import {
  type Quat, matrixToQuat, matrixToRotvec, multiply3, rotationOf, rotvecToMatrix, transpose3,
} from "./maths";

/** Everything that drives the avatar at one instant; avatar.types.HeadState. */
export interface HeadState {
  expression: Float32Array; // [E]
  gaze: number[]; // left yaw, left pitch, right yaw, right pitch, radians
  head: number[]; // T_world_head [4, 4]
  torso: number[]; // T_world_torso [4, 4]
}

/** What shaders and the sort need of a state. */
export interface Drive {
  weights: Float32Array; // [all shapes, 16]: weight x scale / 127^2 of 13 channels
  displacement: Float32Array; // [V, 4] metres
  growth: Float32Array; // [T] log
  head: number[];
  torso: number[];
  headQuat: Quat;
  torsoQuat: Quat;
  eyes: number[][]; // two 3x3
  eyeQuats: Quat[];
}

export const ARKIT = 52;

export class Poser {
  readonly shapes: number;
  private readonly rest: Float32Array;
  private readonly jawOpen: number;
  private readonly mouthClose: number;

  constructor(private readonly data: AvatarData) {
    this.shapes = data.branches.reduce((sum, branch) => sum + branch.shapes, 0);
    this.jawOpen = data.names.indexOf("jawOpen");
    this.mouthClose = data.names.indexOf("mouthClose");
    const still = new Float32Array(data.lattice.length);
    // A sliver without area at rest says nothing: let it count as a square millimetre's hundredth.
    this.rest = this.areas(still).map((area) => Math.max(area, 1e-8));
  }

  drive(state: HeadState): Drive {
    const expression = this.feasible(state.expression);
    const displacement = this.displacement(expression);
    const headQuat = matrixToQuat(rotationOf(state.head));
    let torsoQuat = matrixToQuat(rotationOf(state.torso));
    if (headQuat.reduce((sum, value, i) => sum + value * torsoQuat[i]!, 0) < 0) {
      torsoQuat = torsoQuat.map((value) => -value) as Quat;
    }
    const eyes = [0, 1].map((side) => {
      const yaw = state.gaze[2 * side]! - this.data.rest.gaze[2 * side]!;
      const pitch = state.gaze[2 * side + 1]! - this.data.rest.gaze[2 * side + 1]!;
      return rotvecToMatrix([-pitch, yaw, 0]);
    });
    const wide = new Float32Array((displacement.length / 3) * 4);
    for (let v = 0; v < displacement.length / 3; v++) {
      for (let c = 0; c < 3; c++) wide[4 * v + c] = displacement[3 * v + c]!;
    }
    return {
      weights: this.weights(expression, state),
      displacement: wide,
      growth: this.growth(displacement),
      head: state.head,
      torso: state.torso,
      headQuat,
      torsoQuat,
      eyes,
      eyeQuats: eyes.map(matrixToQuat),
    };
  }

  /** Coefficients as a face can have them: mouthClose takes back what jawOpen does and no more. */
  private feasible(given: Float32Array): Float32Array {
    const out = given.slice();
    const most =
      Math.max(0, out[this.jawOpen]!) + Math.max(0, this.data.high[this.mouthClose]!);
    out[this.mouthClose] = Math.min(out[this.mouthClose]!, most);
    return out;
  }

  private displacement(expression: Float32Array): Float32Array {
    const { basis, lattice } = this.data;
    const size = lattice.length;
    const out = new Float32Array(size);
    for (let e = 0; e < expression.length; e++) {
      const weight = expression[e]!;
      if (weight === 0) continue;
      const row = e * size;
      for (let i = 0; i < size; i++) out[i]! += weight * basis[row + i]!;
    }
    return out;
  }

  private areas(displacement: Float32Array): Float32Array {
    const { lattice, triangles } = this.data;
    const out = new Float32Array(triangles.length / 3);
    const at = (t: number, k: number, c: number) => {
      const i = 3 * triangles[3 * t + k]! + c;
      return lattice[i]! + displacement[i]!;
    };
    for (let t = 0; t < out.length; t++) {
      const ax = at(t, 0, 0), ay = at(t, 0, 1), az = at(t, 0, 2);
      const bx = at(t, 1, 0) - ax, by = at(t, 1, 1) - ay, bz = at(t, 1, 2) - az;
      const cx = at(t, 2, 0) - ax, cy = at(t, 2, 1) - ay, cz = at(t, 2, 2) - az;
      out[t] = Math.hypot(by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx);
    }
    return out;
  }

  private growth(displacement: Float32Array): Float32Array {
    const most = this.data.mostGrowth ** 2;
    const out = this.areas(displacement);
    for (let t = 0; t < out.length; t++) {
      out[t] = Math.log(Math.min(most, Math.max(1, out[t]! / this.rest[t]!))) / 2;
    }
    return out;
  }

  private features(expression: Float32Array, state: HeadState): Float32Array {
    const { rest, featureMean, featureScale, inputLimit } = this.data;
    const out = new Float32Array(featureMean.length);
    out.set(expression.subarray(0, ARKIT));
    out.set(moved(rest.head, state.head), ARKIT);
    out.set(state.gaze, ARKIT + 6);
    out.set(moved(rest.torso, state.torso), ARKIT + 10);
    for (let i = 0; i < out.length; i++) {
      const x = (out[i]! - featureMean[i]!) / featureScale[i]!;
      out[i] = Math.min(inputLimit, Math.max(-inputLimit, x));
    }
    return out;
  }

  private weights(expression: Float32Array, state: HeadState): Float32Array {
    const features = this.features(expression, state);
    const out = new Float32Array(this.shapes * 16);
    let first = 0;
    for (const branch of this.data.branches) {
      const chosen = network(branch, features);
      for (let k = 0; k < branch.shapes; k++) {
        for (let c = 0; c < CHANNELS; c++) {
          const scale = branch.scale[CHANNELS * k + c]! / (127 * 127);
          out[16 * (first + k) + c] = chosen[k]! * scale;
        }
      }
      first += branch.shapes;
    }
    return out;
  }
}

function network(branch: Branch, features: Float32Array): Float32Array {
  let x = branch.sees ? Float32Array.from(branch.sees, (i) => features[i]!) : features;
  branch.layers.forEach(({ weight, bias }, index) => {
    const y = new Float32Array(bias.length);
    for (let o = 0; o < y.length; o++) {
      let sum = bias[o]!;
      for (let i = 0; i < x.length; i++) sum += weight[o * x.length + i]! * x[i]!;
      y[o] = index < branch.layers.length - 1 ? Math.max(0, sum) : sum;
    }
    x = y;
  });
  return x;
}

/** Rotation vector and translation from a pose to another. */
function moved(rest: number[], now: number[]): number[] {
  const turn = matrixToRotvec(multiply3(transpose3(rotationOf(rest)), rotationOf(now)));
  return [...turn, now[3]! - rest[3]!, now[7]! - rest[7]!, now[11]! - rest[11]!];
}
