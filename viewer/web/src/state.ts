// From sliders, clips and idling to a head state; viewer/state.py does the same for the desk's viewer.
import type { AvatarData, Clip } from "./format";
import {
  type Quat, headRotation, mixQuats, quatToMatrix, rigid, turnedAboutNeck,
} from "./maths";
import { ARKIT, type HeadState } from "./pose";

export interface Angles {
  yaw: number;
  pitch: number;
  roll: number;
}

/** What the user sets: all zero is the person at rest, or the clip as it is. */
export interface Controls {
  weights: Float32Array; // [52]
  gaze: { yaw: number; pitch: number }; // degrees
  head: Angles; // degrees
}

export const DEGREE = Math.PI / 180;

export class Look {
  private readonly at: number[][]; // per eye: out or in to the left, in or out to the right, up, down

  constructor(names: string[], private readonly full: [number, number]) {
    const index = (name: string) => names.indexOf(name);
    this.at = [
      ["eyeLookOutLeft", "eyeLookInLeft", "eyeLookUpLeft", "eyeLookDownLeft"].map(index),
      ["eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeLookDownRight"].map(index),
    ];
  }

  get indices(): number[] {
    return this.at.flat();
  }

  /** The turn of the eyes, radians, that eyeLook coefficients mean. */
  gazeOf(weights: ArrayLike<number>): number[] {
    return this.at.flatMap(([left, right, up, down]) => [
      (weights[left!]! - weights[right!]!) * this.full[0],
      (weights[up!]! - weights[down!]!) * this.full[1],
    ]);
  }

  /** Coefficients, zero but for eyeLook, that a gaze in radians means. */
  weightsOf(gaze: ArrayLike<number>): Float32Array {
    const out = new Float32Array(ARKIT);
    this.at.forEach(([left, right, up, down], eye) => {
      const yaw = gaze[2 * eye]! / this.full[0], pitch = gaze[2 * eye + 1]! / this.full[1];
      out[left!] = Math.max(0, yaw);
      out[right!] = Math.max(0, -yaw);
      out[up!] = Math.max(0, pitch);
      out[down!] = Math.max(0, -pitch);
    });
    return out;
  }
}

export function neutral(data: AvatarData, look: Look): HeadState {
  const expression = new Float32Array(data.names.length);
  expression.set(look.weightsOf(data.rest.gaze));
  const { gaze, head, torso } = data.rest;
  return { expression, gaze: gaze.slice(), head: head.slice(), torso: torso.slice() };
}

/** A state with the controls on top; coefficients add up and stay in [0, 1]. */
export function posed(base: HeadState, controls: Controls, look: Look, limit: number[]): HeadState {
  const expression = base.expression.slice();
  const turn = look.gazeOf(controls.weights);
  const asked = [controls.gaze.yaw * DEGREE, controls.gaze.pitch * DEGREE];
  const gaze = base.gaze.map((value, i) => {
    const most = limit[i % 2]!;
    return value + Math.min(most, Math.max(-most, turn[i]! + asked[i % 2]!));
  });
  const now = look.weightsOf(gaze), before = look.weightsOf(base.gaze);
  const added = controls.weights.slice();
  for (const i of look.indices) added[i] = now[i]! - before[i]!;
  for (let i = 0; i < ARKIT; i++) {
    const was = expression[i]!;
    expression[i] = Math.max(Math.min(was + added[i]!, Math.max(was, 1)), Math.min(was, 0));
  }
  const { yaw, pitch, roll } = controls.head;
  const turned = headRotation(yaw * DEGREE, pitch * DEGREE, roll * DEGREE);
  const head = yaw || pitch || roll ? turnedAboutNeck(base.head, turned) : base.head;
  return { expression, gaze, head, torso: base.torso };
}

/** The state of a clip at a time; linear between its frames. */
export function clipState(clip: Clip, time: number): HeadState {
  const at = Math.min(Math.max(0, time * clip.fps), clip.frames - 1);
  const a = Math.floor(at), b = Math.min(a + 1, clip.frames - 1), share = at - a;
  const mix = (values: Float32Array, width: number) =>
    Float32Array.from(
      { length: width },
      (_, i) => values[a * width + i]! * (1 - share) + values[b * width + i]! * share,
    );
  const pose = (values: Float32Array) => {
    const quat = (f: number) => Array.from(values.subarray(7 * f, 7 * f + 4)) as Quat;
    return rigid(quatToMatrix(mixQuats(quat(a), quat(b), share)), mix(values, 7).subarray(4));
  };
  return {
    expression: mix(clip.expression, clip.expression.length / clip.frames),
    gaze: Array.from(mix(clip.gaze, 4)),
    head: pose(clip.head),
    torso: pose(clip.torso),
  };
}

/** Blinks, breath and a little sway, as controls and a rise of the whole body in metres. */
export class Idle {
  private blinkAt = 1.5;
  private glanceAt = 2;
  private glance = { yaw: 0, pitch: 0 };
  private readonly eyes: [number, number];

  constructor(names: string[]) {
    this.eyes = [names.indexOf("eyeBlinkLeft"), names.indexOf("eyeBlinkRight")];
  }

  at(time: number): { controls: Controls; rise: number } {
    const weights = new Float32Array(ARKIT);
    if (time > this.blinkAt + 0.3) this.blinkAt = time + 2 + 4 * Math.random();
    // A lid closes in about 80 ms and opens in twice that.
    const since = time - this.blinkAt;
    const closed = since < 0 ? 0 : since < 0.08 ? since / 0.08 : Math.max(0, 1 - (since - 0.08) / 0.16);
    for (const eye of this.eyes) weights[eye] = closed;
    if (time > this.glanceAt) {
      this.glanceAt = time + 1 + 2.5 * Math.random();
      this.glance = { yaw: 5 * (Math.random() - 0.5), pitch: 3 * (Math.random() - 0.5) };
    }
    const breath = Math.sin((2 * Math.PI * time) / 4.2);
    const head = {
      yaw: 1.6 * Math.sin(0.41 * time) + 0.7 * Math.sin(1.07 * time + 1),
      pitch: 0.8 * Math.sin(0.53 * time + 2) + 0.35 * breath,
      roll: 0.6 * Math.sin(0.37 * time + 4),
    };
    return { controls: { weights, gaze: this.glance, head }, rise: 0.0009 * breath };
  }
}
