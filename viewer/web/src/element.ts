// <avatar-head src="me.html or me.bin">: the avatar as an element, and its programming interface
// (docs/web.md).
import { type AvatarData, type Clip, fromBase64, unpack } from "./format";
import { readCsv } from "./csv";
import { Microphone } from "./mic";
import { measured } from "./measure";
import { Orbit } from "./orbit";
import { Player } from "./player";
import { ARKIT, type HeadState } from "./pose";
import { type Camera, NoWebGL, Renderer } from "./renderer";
import { type Angles, type Controls, Idle, Look, clipState, neutral, posed } from "./state";

export interface Stats {
  fps: number;
  pose: number;
  sort: number;
  upload: number;
  draw: number;
  width: number;
  height: number;
  gaussians: number;
  sorter: string;
}

export interface FrameEvent {
  time: number;
  duration: number;
  clip: string | null;
  playing: boolean;
  stats: Stats;
}

interface Events {
  frame: FrameEvent;
  ready: AvatarData;
  error: Error;
  change: null;
}

const SLOW_MS = 50;
const FAST_MS = 20;

export class AvatarHead extends HTMLElement {
  static observedAttributes = ["src", "background", "idle"];
  /** Resolves once the avatar is shown; rejects with a sentence where it cannot be. */
  ready!: Promise<AvatarHead>;
  data: AvatarData | null = null;
  camera!: Orbit;
  clips: Clip[] = [];
  /** Red, green, blue, alpha in [0, 1] behind the avatar. */
  background = [1, 1, 1, 1];
  private renderer: Renderer | null = null;
  private readonly canvas = document.createElement("canvas");
  private readonly message = document.createElement("p");
  private readonly player = new Player(() => this.changed());
  private readonly listeners = new Map<string, Set<(value: never) => void>>();
  private look!: Look;
  private idling!: Idle;
  private controls = still();
  private exact: HeadState | null = null;
  private idle = false;
  private microphone: Microphone | null = null;
  /** Grows with every wish about the microphone: one that was overtaken while it opened is closed. */
  private wish = 0;
  private listening = new AbortController();
  private readonly watcher = new ResizeObserver(() => this.touch());
  private dirty = true;
  private reordered = false;
  private scale = 1;
  private frames: number[] = [];
  private last = 0;
  private request = 0;
  private settle!: { resolve: (head: AvatarHead) => void; reject: (error: Error) => void };

  constructor() {
    super();
    this.ready = new Promise((resolve, reject) => (this.settle = { resolve, reject }));
    this.ready.catch(() => {}); // the element shows it; who waits still hears of it
    const root = this.attachShadow({ mode: "open" });
    const place = { display: "block", position: "relative", overflow: "hidden" };
    // Styles by script and not by a style element: a page's policy may forbid those.
    Object.assign(this.canvas.style, {
      position: "absolute", inset: "0", width: "100%", height: "100%", touchAction: "none",
    });
    Object.assign(this.message.style, {
      position: "absolute", inset: "auto 10%", top: "40%", textAlign: "center", margin: "0",
      font: "16px/1.5 system-ui, sans-serif",
    });
    const box = document.createElement("div");
    Object.assign(box.style, { ...place, width: "100%", height: "100%", minHeight: "inherit" });
    box.append(this.canvas, this.message);
    root.append(box);
    this.message.setAttribute("role", "status");
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.renderer?.abandon();
      this.renderer = null;
      this.say("The graphics driver was reset; the avatar comes back as soon as it does.");
    });
    this.canvas.addEventListener("webglcontextrestored", () => this.start());
  }

  connectedCallback(): void {
    if (!this.style.display) this.style.display = "block";
    this.watcher.observe(this);
    cancelAnimationFrame(this.request);
    this.request = requestAnimationFrame(this.tick);
  }

  disconnectedCallback(): void {
    cancelAnimationFrame(this.request);
    this.watcher.disconnect();
    this.pause();
    this.stopMicrophone();
  }

  attributeChangedCallback(name: string, _: string | null, value: string | null): void {
    if (name === "src" && value) void this.fetchFrom(value);
    if (name === "background" && value) this.setBackground(value);
    if (name === "idle") this.setIdle(value !== null);
  }

  // --- loading

  /** Show an avatar from its bytes, as they are in a .bin file. */
  async load(packed: Uint8Array<ArrayBuffer>): Promise<void> {
    try {
      const data = await unpack(packed);
      this.data = data;
      this.clips = data.clips;
      this.look = new Look(data.names, data.look);
      this.idling = new Idle(data.names);
      this.camera = new Orbit(data);
      this.camera.onChange = () => this.touch();
      // Another avatar in the same place: what served the one before ends.
      this.listening.abort();
      this.listening = new AbortController();
      this.camera.listen(this.canvas, this.listening.signal);
      this.renderer?.abandon();
      this.start();
      if (!this.renderer) return;
      this.settle.resolve(this);
      this.emit("ready", data);
    } catch (error) {
      this.fail(error as Error);
    }
  }

  private async fetchFrom(src: string): Promise<void> {
    this.say("Loading the avatar…");
    try {
      const answer = await fetch(src);
      if (!answer.ok) throw new Error(`${src} cannot be loaded (status ${answer.status}).`);
      const bytes = new Uint8Array(await answer.arrayBuffer());
      if (bytes[0] !== 0x3c) return await this.load(bytes);
      const text = new TextDecoder().decode(bytes);
      const page = new DOMParser().parseFromString(text, "text/html");
      const inside = page.getElementById("avatar-data")?.textContent;
      if (!inside) throw new Error(`${src} is a web page without an avatar.`);
      return await this.load(fromBase64(inside));
    } catch (error) {
      this.fail(error as Error);
    }
  }

  private start(): void {
    if (!this.data) return;
    try {
      this.renderer = new Renderer(this.canvas, this.data);
      this.renderer.onOrder = () => (this.reordered = true);
      this.say("");
      this.touch();
    } catch (error) {
      this.fail(error as Error);
    }
  }

  private fail(error: Error): void {
    this.say(error.message);
    this.setAttribute("data-failed", error instanceof NoWebGL ? "webgl" : "data");
    this.settle.reject(error);
    this.emit("error", error);
  }

  private say(text: string): void {
    this.message.textContent = text;
  }

  // --- what it shows

  /** Set coefficients by their ARKit names, 0 to 1; those not named stay as they are. */
  setExpression(values: Record<string, number>): void {
    const names = this.need().names;
    for (const [name, value] of Object.entries(values)) {
      const index = names.indexOf(name);
      if (index < 0 || index >= ARKIT) throw new Error(`'${name}' is none of the 52 ARKit coefficients.`);
      if (!Number.isFinite(value)) throw new Error(`'${name}' must be a number; got ${value}.`);
      this.controls.weights[index] = Math.min(1, Math.max(0, value));
    }
    this.changed();
  }

  /** What `setExpression` set, by name; zeros left out. */
  getExpression(): Record<string, number> {
    const found: Record<string, number> = {};
    this.need().names.slice(0, ARKIT).forEach((name, i) => {
      // Kept in single precision: 0.7 shall be read as 0.7.
      if (this.controls.weights[i]) found[name] = Number(this.controls.weights[i]!.toPrecision(7));
    });
    return found;
  }

  /** Put all coefficients to 0, then set those given. */
  resetExpression(values: Record<string, number> = {}): void {
    this.controls.weights.fill(0);
    this.setExpression(values);
  }

  /** Turn the head from rest (or on top of the clip), degrees: yaw to the subject's left, pitch up. */
  setHead(angles: Partial<Angles>): void {
    Object.assign(this.controls.head, checked(angles));
    this.changed();
  }

  /** Turn the eyes, degrees: yaw to the subject's left, pitch up. */
  setGaze(angles: Partial<{ yaw: number; pitch: number }>): void {
    Object.assign(this.controls.gaze, checked(angles));
    this.changed();
  }

  get pose(): { head: Angles; gaze: { yaw: number; pitch: number } } {
    return { head: { ...this.controls.head }, gaze: { ...this.controls.gaze } };
  }

  /** Show exactly this state, whatever else is set; null ends it. */
  setState(state: HeadState | null): void {
    this.exact = state;
    this.touch();
  }

  /** Blink, breathe and sway a little while no clip plays. */
  setIdle(on: boolean): void {
    this.idle = on;
    this.changed();
  }

  get idles(): boolean {
    return this.idle;
  }

  /** Any CSS colour, or "transparent". */
  setBackground(colour: string): void {
    const probe = document.createElement("canvas").getContext("2d")!;
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    this.background = Array.from(probe.getImageData(0, 0, 1, 1).data, (value) => value / 255);
    this.changed();
  }

  // --- clips

  /** Play a clip (its name or place), or go on with the one that was paused. */
  play(which?: string | number): void {
    const index = typeof which === "string" ? this.clips.findIndex((c) => c.name === which) : which;
    const clip = index === undefined ? (this.player.clip ?? this.clips[0]) : this.clips[index];
    if (!clip) throw new Error(`There is no clip '${which ?? ""}'. It has: ${this.clips.map((c) => c.name)}.`);
    this.player.play(clip);
  }

  pause(): void {
    this.player.pause();
  }

  /** Leave the clip, back to rest. */
  stop(): void {
    this.player.stop();
  }

  /** Go to a time of the clip, seconds. */
  seek(time: number): void {
    this.player.seek(time);
  }

  get currentTime(): number {
    return this.player.time;
  }

  get duration(): number {
    return this.player.duration;
  }

  get currentClip(): string | null {
    return this.player.clip?.name ?? null;
  }

  get isPlaying(): boolean {
    return this.player.playing;
  }

  set muted(on: boolean) {
    this.player.audio.muted = on;
  }

  get muted(): boolean {
    return this.player.audio.muted;
  }

  /** Add the motion of an ARKit CSV file and return its name; throws a sentence on a bad file. */
  async addCsv(file: File): Promise<string> {
    const clip = await readCsv(file, this.need());
    const taken = new Set(this.clips.map((c) => c.name));
    const base = clip.name;
    for (let n = 2; taken.has(clip.name); n++) clip.name = `${base} (${n})`;
    this.clips.push(clip);
    this.changed();
    return clip.name;
  }

  /** Move the mouth by what the microphone hears: a rough guess without training. */
  async followMicrophone(): Promise<void> {
    this.stopMicrophone();
    const wish = this.wish;
    const opened = await Microphone.open(this.need().names);
    if (wish !== this.wish) return opened.close();
    this.microphone = opened;
    this.changed();
  }

  stopMicrophone(): void {
    this.wish += 1;
    this.microphone?.close();
    this.microphone = null;
    this.changed();
  }

  get followsMicrophone(): boolean {
    return this.microphone !== null;
  }

  // --- pictures

  /** The picture as it is now, PNG. */
  screenshot(): Promise<Blob> {
    const { width, height } = this.canvas;
    this.capture({ width, height });
    return new Promise((resolve, reject) => {
      this.canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("No picture."))), "image/png");
    });
  }

  /** Draw a state from a camera, sorted anew, and return its pixels RGBA from the top row. */
  capture(wanted: { width?: number; height?: number; camera?: Camera; state?: HeadState } = {}): {
    width: number; height: number; pixels: Uint8Array<ArrayBuffer>;
  } {
    const renderer = this.renderer;
    if (!renderer) throw new Error("There is no avatar to draw.");
    const width = wanted.width ?? this.canvas.width, height = wanted.height ?? this.canvas.height;
    const camera = wanted.camera ?? this.camera.camera(width, height);
    renderer.fine = true;
    renderer.pose(renderer.driveOf(wanted.state ?? this.state(0)));
    renderer.picture(camera, this.background, "now");
    this.dirty = true;
    return { width: camera.width, height: camera.height, pixels: renderer.pixels() };
  }

  /** Draw many pictures of random expressions, each waited for; medians in milliseconds. */
  async measure(count: number, width: number, height: number): Promise<Record<string, number>> {
    // The page's own pictures would come in between and be waited for.
    cancelAnimationFrame(this.request);
    const camera = this.camera.camera(width, height);
    const found = await measured(this.renderer!, () => this.state(0), camera, count);
    this.request = requestAnimationFrame(this.tick);
    this.dirty = true;
    return found;
  }

  // --- events

  on<K extends keyof Events>(name: K, listener: (value: Events[K]) => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all);
    all.add(listener as (value: never) => void);
    return () => all.delete(listener as (value: never) => void);
  }

  private emit<K extends keyof Events>(name: K, value: Events[K]): void {
    this.listeners.get(name)?.forEach((listener) => (listener as (value: Events[K]) => void)(value));
  }

  // --- inside

  private need(): AvatarData {
    if (!this.data) throw new Error("The avatar is not loaded yet; wait for `ready`.");
    return this.data;
  }

  private touch(): void {
    this.dirty = true;
  }

  private changed(): void {
    this.touch();
    this.emit("change", null);
  }

  private state(now: number): HeadState {
    if (this.exact) return this.exact;
    const data = this.need();
    const limit = data.look;
    const { clip, time } = this.player;
    let base = clip ? clipState(clip, time) : neutral(data, this.look);
    if (this.idle && !clip) {
      const { controls, rise } = this.idling.at(now / 1000);
      base = posed(base, controls, this.look, limit);
      for (const T of [(base.head = base.head.slice()), (base.torso = base.torso.slice())]) {
        data.view.up.forEach((up, i) => (T[4 * i + 3]! += rise * up));
      }
    }
    if (this.microphone) {
      this.microphone.listen();
      base = posed(base, { ...still(), weights: this.microphone.weights }, this.look, limit);
    }
    return posed(base, this.controls, this.look, limit);
  }

  private readonly tick = (now: number): void => {
    this.request = requestAnimationFrame(this.tick);
    const passed = now - this.last;
    this.last = now;
    if (!this.renderer || !this.data) return;
    this.player.advance(Math.min(passed, 250) / 1000);
    const { clip, playing, time, duration } = this.player;
    const moving = playing || (this.idle && !clip) || this.microphone !== null;
    if (moving) this.dirty = true;
    this.adapt(moving || this.dirty, passed);
    if (!this.dirty && !this.reordered) return;
    const [width, height] = this.size();
    if (width === 0 || height === 0) return;
    const { renderer, dirty } = this;
    this.dirty = this.reordered = false;
    renderer.fine = this.scale === 1;
    if (dirty) renderer.pose(renderer.driveOf(this.state(now)));
    renderer.picture(this.camera.camera(width, height), this.background, dirty ? "soon" : "not");
    if (!dirty) return;
    this.frames.push(now);
    while (this.frames[0]! < now - 1000) this.frames.shift();
    this.emit("frame", {
      time,
      duration,
      clip: this.currentClip,
      playing,
      stats: this.stats(),
    });
  };

  /** Fewer pixels while it moves too slowly, all of them when it is still. */
  private adapt(moving: boolean, passed: number): void {
    if (!moving) {
      if (this.scale < 1 && performance.now() - (this.frames.at(-1) ?? 0) > 250) {
        this.scale = 1;
        this.dirty = true;
      }
      return;
    }
    const factor = Math.max(0.75, Math.sqrt(SLOW_MS / passed));
    if (passed > SLOW_MS && passed < 3000) this.scale = Math.max(0.4, this.scale * factor);
    else if (passed < FAST_MS) this.scale = Math.min(1, this.scale * 1.01);
  }

  private size(): [number, number] {
    const box = this.getBoundingClientRect();
    const ratio = Math.min(2, window.devicePixelRatio || 1) * (Math.round(this.scale * 10) / 10);
    return [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  }

  private stats(): Stats {
    const { times, sorterKind } = this.renderer!;
    const span = this.frames.length > 1 ? this.frames.at(-1)! - this.frames[0]! : 0;
    return {
      ...times,
      fps: span > 0 ? ((this.frames.length - 1) * 1000) / span : 0,
      width: this.canvas.width,
      height: this.canvas.height,
      gaussians: this.data!.count,
      sorter: sorterKind,
    };
  }
}

function still(): Controls {
  return {
    weights: new Float32Array(ARKIT),
    gaze: { yaw: 0, pitch: 0 },
    head: { yaw: 0, pitch: 0, roll: 0 },
  };
}

function checked<T extends object>(angles: T): T {
  for (const [name, value] of Object.entries(angles)) {
    if (!["yaw", "pitch", "roll"].includes(name) || !Number.isFinite(value)) {
      throw new Error(`An angle is yaw, pitch or roll in degrees; got ${name} ${value}.`);
    }
  }
  return angles;
}
