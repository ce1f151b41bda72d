// The bytes that avatar/export/web_format.py writes, as arrays. docs/web.md has the layout.

export const CHANNELS = 13;
/** Channels of an offset: mean 3, quaternion 4, log scale 3, colour 3. */

export interface Layer {
  weight: Float32Array; // [outputs, inputs]
  bias: Float32Array; // [outputs]
}

export interface Branch {
  first: number;
  count: number;
  shapes: number;
  sees: number[] | null;
  layers: Layer[];
  offsets: Int8Array; // [shapes, 13, count], companded
  scale: Float32Array; // [shapes, 13], the channel's unit multiplied in
}

export interface Clip {
  name: string;
  fps: number;
  frames: number;
  expression: Float32Array; // [F, E]
  gaze: Float32Array; // [F, 4]
  head: Float32Array; // [F, 7] quaternion and translation, world
  torso: Float32Array; // [F, 7]
  audio: Blob | null;
}

export interface View {
  distance: number;
  shown: number;
  bottom: number;
  narrowest: number;
  up: number[];
}

export interface AvatarData {
  title: string;
  facts: [string, string][];
  count: number;
  names: string[];
  groups: [string, string[]][];
  fps: number;
  largest: number;
  inputLimit: number;
  mostGrowth: number;
  look: [number, number];
  lookInFiles: [number, number];
  view: View;
  camera: { K: number[]; T: number[]; width: number; height: number };
  rest: { expression: Float32Array; gaze: number[]; head: number[]; torso: number[] };
  low: Float32Array;
  high: Float32Array;
  eyeballs: Float32Array; // [2, 3]
  lattice: Float32Array; // [V, 3]
  basis: Float32Array; // [E, V, 3]
  triangles: Uint16Array; // [T, 3]
  means: Float32Array;
  quats: Float32Array;
  logScales: Float32Array;
  opacities: Float32Array; // logits
  colours: Float32Array;
  torso: Float32Array; // logits
  triangle: Uint16Array;
  barycentric: Float32Array;
  follow: Float32Array;
  eye: Int8Array;
  featureMean: Float32Array;
  featureScale: Float32Array;
  branches: Branch[];
  clips: Clip[];
}

const MAGIC = "HSPLATWB";
const VERSION = 1;
const DAMAGED = "The avatar's data is damaged. Export it again.";

interface Entry {
  at: number;
  type: string;
  size: number;
}

/** Undo base64, gzip and the layout; throws an Error with a sentence. */
export async function unpack(packed: Uint8Array<ArrayBuffer>): Promise<AvatarData> {
  const bytes = packed[0] === 0x1f && packed[1] === 0x8b ? await gunzip(packed) : packed;
  const magic = new TextDecoder().decode(bytes.subarray(0, 8));
  if (magic !== MAGIC) throw new Error("This is no avatar for web pages. Make one with avatar export.");
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (view.getUint32(8, true) > VERSION) {
    throw new Error("The avatar's data is newer than this script. Export both with one version.");
  }
  const length = view.getUint32(12, true);
  if (16 + length > bytes.length) throw new Error(DAMAGED);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(16, 16 + length)));
  const start = 16 + length;

  const raw = (name: string): [Uint8Array<ArrayBuffer>, string] => {
    const entry: Entry | undefined = header.arrays[name];
    if (!entry || start + entry.at + entry.size > bytes.length) throw new Error(DAMAGED);
    return [bytes.slice(start + entry.at, start + entry.at + entry.size), entry.type];
  };
  const floats = (name: string): Float32Array => {
    const [part, type] = raw(name);
    if (type === "f4") return new Float32Array(part.buffer);
    if (type === "f2") return fromHalf(new Uint16Array(part.buffer));
    // Shares in [0, 1] as 16-bit integers.
    if (type === "i2") return Float32Array.from(new Int16Array(part.buffer), (v) => v / 32767);
    throw new Error(DAMAGED);
  };
  const bytesOf = (name: string) => new Int8Array(raw(name)[0].buffer);
  const indices = (name: string) => new Uint16Array(raw(name)[0].buffer);

  const branches: Branch[] = header.branches.map((b: Record<string, unknown>, i: number) => ({
    first: b.first,
    count: b.count,
    shapes: b.shapes,
    sees: b.sees,
    offsets: bytesOf(`branch${i}.offsets`),
    scale: floats(`branch${i}.scale`),
    layers: [...Array(b.layers as number).keys()].map((j) => ({
      weight: floats(`branch${i}.weight${j}`),
      bias: floats(`branch${i}.bias${j}`),
    })),
  }));
  const clips: Clip[] = header.clips.map((c: Record<string, unknown>, i: number) => ({
    name: c.name,
    fps: c.fps,
    frames: c.frames,
    expression: floats(`clip${i}.expression`),
    gaze: floats(`clip${i}.gaze`),
    head: floats(`clip${i}.head`),
    torso: floats(`clip${i}.torso`),
    audio: c.mime ? new Blob([raw(`clip${i}.audio`)[0]], { type: c.mime as string }) : null,
  }));
  const { title, facts, count, names, groups, fps, view: shown, camera, rest } = header;
  const { largest, input_limit, most_growth, look, look_in_files } = header;
  return {
    title, facts, count, names, groups, fps, largest, look, camera, branches, clips,
    inputLimit: input_limit,
    mostGrowth: most_growth,
    lookInFiles: look_in_files,
    view: shown,
    rest: { ...rest, expression: floats("rest.expression") },
    low: floats("low"),
    high: floats("high"),
    eyeballs: floats("eyeballs"),
    lattice: floats("lattice"),
    basis: floats("basis"),
    triangles: indices("triangles"),
    means: floats("means"),
    quats: floats("quats"),
    logScales: floats("log_scales"),
    opacities: floats("logit_opacities"),
    colours: floats("colours"),
    torso: floats("torso_logits"),
    triangle: indices("triangle"),
    barycentric: floats("barycentric"),
    follow: floats("follow"),
    eye: bytesOf("eye"),
    featureMean: floats("feature_mean"),
    featureScale: floats("feature_scale"),
  };
}

async function gunzip(packed: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old to unpack the avatar. Use one from 2023 or later.");
  }
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch (cause) {
    throw new Error(DAMAGED, { cause });
  }
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const plain = atob(text.trim());
  const bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes;
}

function fromHalf(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const h = halves[i]!;
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
    out[i] = h & 0x8000 ? -size : size;
  }
  return out;
}
