// Rotations and rigid transforms in the project's conventions: quaternions wxyz, radians, matrices in
// rows (16 numbers for 4x4, 9 for 3x3).

export type Matrix4 = ArrayLike<number>;
export type Quat = [number, number, number, number];
export type Vec3 = [number, number, number];

export function multiply4(a: Matrix4, b: Matrix4): number[] {
  const out = new Array<number>(16).fill(0);
  for (let i = 0; i < 4; i++)
    for (let j = 0; j < 4; j++)
      for (let k = 0; k < 4; k++) out[4 * i + j]! += a[4 * i + k]! * b[4 * k + j]!;
  return out;
}

export function rotationOf(T: Matrix4): number[] {
  return [T[0]!, T[1]!, T[2]!, T[4]!, T[5]!, T[6]!, T[8]!, T[9]!, T[10]!];
}

export function multiply3(a: ArrayLike<number>, b: ArrayLike<number>): number[] {
  const out = new Array<number>(9).fill(0);
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++)
      for (let k = 0; k < 3; k++) out[3 * i + j]! += a[3 * i + k]! * b[3 * k + j]!;
  return out;
}

export function transpose3(a: ArrayLike<number>): number[] {
  return [a[0]!, a[3]!, a[6]!, a[1]!, a[4]!, a[7]!, a[2]!, a[5]!, a[8]!];
}

export function apply3(R: ArrayLike<number>, v: ArrayLike<number>): Vec3 {
  const at = (i: number) => R[3 * i]! * v[0]! + R[3 * i + 1]! * v[1]! + R[3 * i + 2]! * v[2]!;
  return [at(0), at(1), at(2)];
}

export function rigid(R: ArrayLike<number>, t: ArrayLike<number>): number[] {
  return [
    R[0]!, R[1]!, R[2]!, t[0]!, R[3]!, R[4]!, R[5]!, t[1]!, R[6]!, R[7]!, R[8]!, t[2]!, 0, 0, 0, 1,
  ];
}

export function matrixToQuat(R: ArrayLike<number>): Quat {
  const [a, b, c, d, e, f, g, h, i] = Array.from(R) as number[] & { length: 9 };
  const trace = a! + e! + i!;
  let q: Quat;
  // The largest of the four is found first: dividing by a small one loses digits.
  if (trace >= Math.max(a!, e!, i!)) q = [1 + trace, h! - f!, c! - g!, d! - b!];
  else if (a! >= Math.max(e!, i!)) q = [h! - f!, 1 + a! - e! - i!, b! + d!, c! + g!];
  else if (e! >= i!) q = [c! - g!, b! + d!, 1 - a! + e! - i!, f! + h!];
  else q = [d! - b!, c! + g!, f! + h!, 1 - a! - e! + i!];
  return normalised(q);
}

export function normalised(q: Quat): Quat {
  const length = Math.hypot(...q) || 1;
  return [q[0] / length, q[1] / length, q[2] / length, q[3] / length];
}

export function quatToMatrix(q: Quat): number[] {
  const [w, x, y, z] = normalised(q);
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
}

/** The shorter way from p to q at a share; linear and normalised, for neighbouring frames. */
export function mixQuats(p: Quat, q: Quat, share: number): Quat {
  const sign = p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3] < 0 ? -1 : 1;
  const at = (i: 0 | 1 | 2 | 3) => p[i] * (1 - share) + sign * q[i] * share;
  return normalised([at(0), at(1), at(2), at(3)]);
}

export function rotvecToMatrix(v: Vec3): number[] {
  const angle = Math.hypot(...v);
  const half = angle / 2;
  const factor = angle < 1e-9 ? 0.5 : Math.sin(half) / angle;
  return quatToMatrix([Math.cos(half), v[0] * factor, v[1] * factor, v[2] * factor]);
}

/** Rotation vector of a matrix, its angle in [0, pi]. */
export function matrixToRotvec(R: ArrayLike<number>): Vec3 {
  let [w, x, y, z] = matrixToQuat(R);
  if (w < 0) [w, x, y, z] = [-w, -x, -y, -z];
  const sine = Math.hypot(x, y, z);
  const factor = sine < 1e-9 ? 2 : (2 * Math.atan2(sine, w)) / sine;
  return [x * factor, y * factor, z * factor];
}

/** R = R_y(yaw) R_x(-pitch) R_z(roll), radians: yaw to the subject's left, pitch up. */
export function headRotation(yaw: number, pitch: number, roll: number): number[] {
  const turn = multiply3(rotvecToMatrix([0, yaw, 0]), rotvecToMatrix([-pitch, 0, 0]));
  return multiply3(turn, rotvecToMatrix([0, 0, roll]));
}

export const NECK_PIVOT: Vec3 = [0, -0.07, -0.02];

/** A head's pose turned by R about the neck. */
export function turnedAboutNeck(T: Matrix4, R: ArrayLike<number>): number[] {
  const moved = apply3(R, NECK_PIVOT);
  const t = NECK_PIVOT.map((value, i) => value - moved[i]!);
  return multiply4(T, rigid(R, t));
}
