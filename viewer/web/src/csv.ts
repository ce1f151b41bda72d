// ARKit coefficients out of a CSV file, as avatar/drive/arkit_csv.py reads it.
import type { AvatarData, Clip } from "./format";
import { headRotation, matrixToQuat, rotationOf, turnedAboutNeck } from "./maths";
import { ARKIT } from "./pose";
import { Look } from "./state";

export const LARGEST_FILE = 64 * 2 ** 20;
const MOST_ROWS = 200_000;
const LONGEST_S = 4 * 3600;
const ANGLES = [
  "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll",
  "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
];
const IGNORED = ["blendshapecount", "frame", "_neutral"];
const RATES = [24, 25, 30, 50, 60, 120];
const REMEDY =
  "Expected a CSV of ARKit coefficients (0 to 1) under Apple's names, such as jawOpen, as the Live Link " +
  "Face app records it.";

class Refusal extends Error {}

/** Read a dropped file; throws an Error with a sentence for the user. */
export async function readCsv(file: File, data: AvatarData): Promise<Clip> {
  if (file.size > LARGEST_FILE) {
    throw new Error(`${file.name} is larger than ${LARGEST_FILE / 2 ** 20} MB. Cut the recording.`);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch (cause) {
    throw new Error(`${file.name} is no UTF-8 text. ${REMEDY}`, { cause });
  }
  return parseCsv(file.name, text, data);
}

export function parseCsv(name: string, text: string, data: AvatarData): Clip {
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\n|\r/);
  const header = (lines[0] ?? "").split(",").map((cell) => unquoted(cell));
  const targets = targetsOf(name, header, data.names);
  const count = header.findIndex((cell) => cell.toLowerCase() === "blendshapecount");
  const clock = targets.findIndex((target) => target === "time" || target === "timecode");
  const width = ARKIT + ANGLES.length;
  const rows: Float32Array[] = [];
  const clocks: [number, number][] = [];
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i]!;
    if (!line.replaceAll(",", "").trim()) continue;
    const cells = line.split(",").map(unquoted);
    // The app writes 0 where it lost the face.
    if (count >= 0 && cells[count] === "0") continue;
    const place = `${name}, line ${i + 1}`;
    if (cells.length !== header.length) {
      throw new Refusal(
        `${place}: has ${cells.length} values where the header names ${header.length} columns. ` +
          "Is the file complete? Record or export it again.",
      );
    }
    if (rows.length >= MOST_ROWS) {
      throw new Refusal(`${name} has more than ${MOST_ROWS} rows. Cut the recording.`);
    }
    const row = new Float32Array(width);
    targets.forEach((target, column) => {
      if (typeof target !== "number") return;
      row[target] = valueOf(place, header[column]!, target, cells[column]!);
    });
    rows.push(row);
    if (clock < 0) clocks.push([0, rows.length - 1]);
    else if (targets[clock] === "timecode") clocks.push(timecode(place, cells[clock]!));
    else clocks.push([0, numberOf(place, header[clock]!, cells[clock]!)]);
  }
  if (rows.length === 0) throw new Refusal(`${name} holds no sample of a face. ${REMEDY}`);
  const times = secondsOf(clocks, clock < 0 ? 1 / data.fps : targets[clock] === "timecode" ? 0 : 1);
  const [kept, seconds] = advancing(name, times, targets[clock] === "timecode" ? 0.1 : 0);
  const given = new Set(targets.filter((target) => typeof target === "number"));
  return clipOf(name, kept.map((i) => rows[i]!), seconds, given, data);
}

function unquoted(cell: string): string {
  return cell.trim().replace(/^"(.*)"$/, "$1").trim();
}

function targetsOf(name: string, header: string[], names: string[]): (number | string)[] {
  const known = new Map([...names.slice(0, ARKIT), ...ANGLES].map((n, i) => [n.toLowerCase(), i]));
  const seen = new Set<string>();
  const targets = header.map((cell) => {
    const key = cell.toLowerCase();
    if (seen.has(key)) throw new Refusal(`${name} has the column '${cut(cell)}' twice. Remove one of them.`);
    seen.add(key);
    if (key === "time" || key === "timecode") return key;
    if (IGNORED.includes(key)) return "";
    const index = known.get(key);
    if (index === undefined) {
      throw new Refusal(`${name} has an unknown column '${cut(cell)}'. ${REMEDY}`);
    }
    return index;
  });
  if (!targets.some((target) => typeof target === "number" && target < ARKIT)) {
    throw new Refusal(`${name} names no ARKit coefficient. ${REMEDY}`);
  }
  if (seen.has("time") && seen.has("timecode")) {
    throw new Refusal(`${name} has both a 'time' and a 'Timecode' column. Remove one of them.`);
  }
  return targets;
}

const cut = (text: string) => (text.length > 40 ? `${text.slice(0, 37)}...` : text);

function numberOf(place: string, column: string, cell: string): number {
  const value = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(cell) ? Number(cell) : NaN;
  if (!Number.isFinite(value)) {
    throw new Refusal(`${place}, column '${column}': expected a finite number, found '${cut(cell)}'.`);
  }
  return value;
}

function valueOf(place: string, column: string, target: number, cell: string): number {
  const value = numberOf(place, column, cell);
  if (target < ARKIT && (value < -1 || value > 2)) {
    throw new Refusal(
      `${place}, column '${column}': a coefficient runs from 0 to 1, found ${value}. ` +
        "If the file holds percents, divide them by 100.",
    );
  }
  if (target >= ARKIT && Math.abs(value) > 3.2) {
    throw new Refusal(
      `${place}, column '${column}': an angle is in radians, from -3.15 to 3.15; found ${value}. ` +
        "If the file holds degrees, convert them.",
    );
  }
  return value;
}

function timecode(place: string, cell: string): [number, number] {
  const match = /^(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,3}(?:\.\d{1,9})?)$/.exec(cell);
  const [hours, minutes, seconds, frames] = (match ?? []).slice(1).map(Number);
  if (!match || hours! > 23 || minutes! > 59 || seconds! > 59) {
    throw new Refusal(`${place}, column 'Timecode': expected HH:MM:SS:FF.sss, found '${cut(cell)}'.`);
  }
  return [(hours! * 60 + minutes!) * 60 + seconds!, frames!];
}

/** Seconds and frames to seconds; the rate is the smallest usual one above all frame numbers. */
function secondsOf(clocks: [number, number][], unit: number): number[] {
  if (unit) return clocks.map(([, value]) => value * unit);
  const most = clocks.reduce((high, [, frame]) => Math.max(high, frame), 0);
  let rate = RATES.find((r) => r > most) ?? Math.ceil(most) + 1;
  if (clocks[0]![0] === clocks[clocks.length - 1]![0]) rate = Math.max(rate, 60);
  let days = 0, last = -Infinity;
  return clocks.map(([seconds, frame]) => {
    const time = seconds + frame / rate;
    if (time - last < -12 * 3600) days++;
    last = time;
    return time + 24 * 3600 * days;
  });
}

function advancing(name: string, times: number[], tolerance: number): [number[], number[]] {
  const kept: number[] = [], seconds: number[] = [];
  let newest = -Infinity;
  times.forEach((time, i) => {
    if (time < newest - tolerance) {
      throw new Refusal(`${name}: the time of sample ${i + 1} lies before that of an earlier one. Sort them.`);
    }
    if (time > newest + 1e-9) {
      kept.push(i);
      seconds.push(time - times[0]!);
      newest = time;
    }
  });
  if (newest - times[0]! > LONGEST_S) {
    throw new Refusal(`${name} spans more than ${LONGEST_S / 3600} hours. Are its times seconds?`);
  }
  return [kept, seconds];
}

function clipOf(
  name: string, rows: Float32Array[], seconds: number[], given: Set<number | string>, data: AvatarData,
): Clip {
  const { fps, rest, names } = data;
  const frames = Math.floor(seconds[seconds.length - 1]! * fps + 1e-4) + 1;
  const expression = new Float32Array(frames * names.length);
  const gaze = new Float32Array(4 * frames);
  const head = new Float32Array(7 * frames), torso = new Float32Array(7 * frames);
  const look = new Look(names, data.lookInFiles);
  const hasHead = [0, 1, 2].some((i) => given.has(ARKIT + i));
  const hasEyes = [3, 4, 5, 6, 7, 8].some((i) => given.has(ARKIT + i));
  const poseInto = (out: Float32Array, f: number, T: number[]) => {
    out.set([...matrixToQuat(rotationOf(T)), T[3]!, T[7]!, T[11]!], 7 * f);
  };
  let next = 1;
  for (let f = 0; f < frames; f++) {
    const time = f / fps;
    while (next < seconds.length - 1 && seconds[next]! < time) next++;
    const b = Math.min(next, rows.length - 1), a = Math.max(0, b - 1);
    const span = seconds[b]! - seconds[a]!;
    const share = span > 0 ? Math.min(1, Math.max(0, (time - seconds[a]!) / span)) : 0;
    const row = rows[a]!.map((value, i) => value * (1 - share) + rows[b]![i]! * share);
    expression.set(row.subarray(0, ARKIT), f * names.length);
    // The app counts an eye's yaw to the subject's right and its pitch down.
    const eyes = [3, 4, 6, 7].map((i) => -row[ARKIT + i]!);
    const turn = hasEyes ? eyes : look.gazeOf(row);
    gaze.set(rest.gaze.map((value, i) => value + turn[i]!), 4 * f);
    const R = headRotation(row[ARKIT]!, row[ARKIT + 1]!, row[ARKIT + 2]!);
    poseInto(head, f, hasHead ? turnedAboutNeck(rest.head, R) : rest.head);
    poseInto(torso, f, rest.torso);
  }
  return { name: name.replace(/\.csv$/i, ""), fps, frames, expression, gaze, head, torso, audio: null };
}
