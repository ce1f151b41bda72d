// WebGL2: one pass poses and projects every Gaussian into a texture, one draws them sorted as quads.
import { CHANNELS, type AvatarData } from "./format";
import { rotationOf, transpose3 } from "./maths";
import { type Drive, Poser } from "./pose";
import { FULL, RESOLVE, SPLAT_FRAGMENT, SPLAT_VERTEX, WIDTH, poseShader } from "./shaders";
import { type SortData, type SortJob, Sorter, sortData, sortJob } from "./sort";
import SortWorker from "./sort.worker?worker&inline";

/** A pinhole camera as avatar.types.Camera; pixels, metres, OpenCV axes. */
export interface Camera {
  K: number[]; // fx, fy, cx, cy
  T: number[]; // T_cam_world [4, 4]
  width: number;
  height: number;
}

/** Milliseconds of the last picture. */
export interface Times {
  pose: number; // networks and lattice, on the page's thread
  upload: number; // what changes, to the GPU
  draw: number; // calls alone, unless the picture was waited for
  sort: number; // in the worker, or on the page's thread where workers are refused
}

interface Target {
  frame: WebGLFramebuffer;
  texture: WebGLTexture;
  width: number;
  height: number;
  format: number;
}

export class NoWebGL extends Error {}

export class Renderer {
  readonly times: Times = { pose: 0, upload: 0, draw: 0, sort: 0 };
  /** Called when a new order has come and the picture should be drawn again. */
  onOrder: () => void = () => {};
  readonly sorterKind: "worker" | "page";
  private readonly gl: WebGL2RenderingContext;
  private readonly poser: Poser;
  private readonly sorting: SortData;
  private sorter: Sorter | null = null;
  private worker: Worker | null = null;
  private busy = false;
  private waiting: SortJob | null = null;
  private readonly programs: { pose: Program; splat: Program; resolve: Program };
  private readonly posed: { frame: WebGLFramebuffer; first: WebGLTexture; second: WebGLTexture };
  private readonly textures: Record<"rest" | "bind" | "offsets" | "lattice" | "growth", WebGLTexture>;
  private readonly order: WebGLTexture;
  private readonly weights: WebGLBuffer;
  private readonly empty: WebGLVertexArrayObject;
  private readonly quads: WebGLVertexArrayObject;
  private sum: Target | null = null;
  /** Blend in half precision where the browser can; 8 bits are half the work of software WebGL. */
  fine = true;
  private readonly canHalf: boolean;
  private drive: Drive | null = null;
  private ordered = false;
  private readonly rows: number;

  constructor(readonly canvas: HTMLCanvasElement, readonly data: AvatarData) {
    const gl = canvas.getContext("webgl2", {
      antialias: false,
      depth: false,
      stencil: false,
      powerPreference: "high-performance",
    });
    if (!gl) {
      throw new NoWebGL(
        "This browser does not offer WebGL2, which draws the avatar. Use a current browser, or switch " +
          "on graphics acceleration in its settings.",
      );
    }
    this.gl = gl;
    // Blending hundreds of layers in 8 bits rounds as many times.
    const half = ["EXT_color_buffer_float", "EXT_color_buffer_half_float"];
    this.canHalf = half.some((name) => gl.getExtension(name) !== null);
    this.poser = new Poser(data);
    this.rows = Math.ceil(data.count / WIDTH);
    const corners = new Uint16Array(3 * data.count);
    const shares = new Float32Array(3 * data.count);
    for (let i = 0; i < data.count; i++) {
      for (let k = 0; k < 3; k++) {
        corners[3 * i + k] = data.triangles[3 * data.triangle[i]! + k]!;
        shares[3 * i + k] = data.barycentric[3 * i + k]! * data.follow[i]!;
      }
    }
    this.sorting = sortData(data, corners, shares);
    this.programs = {
      pose: program(gl, FULL, poseShader(this.poser.shapes, data.branches.length)),
      splat: program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT),
      resolve: program(gl, FULL, RESOLVE),
    };
    this.textures = this.fill(corners, shares);
    const target = () => this.texture(gl.RGBA32UI, WIDTH, this.rows);
    const [first, second] = [target(), target()];
    this.posed = { frame: framebuffer(gl, [first, second]), first, second };
    this.weights = gl.createBuffer()!;
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weights);
    gl.bufferData(gl.UNIFORM_BUFFER, this.poser.shapes * 64, gl.DYNAMIC_DRAW);
    const { pose } = this.programs;
    gl.uniformBlockBinding(pose.handle, gl.getUniformBlockIndex(pose.handle, "Weights"), 0);
    this.order = this.texture(gl.R32UI, WIDTH, this.rows);
    this.empty = gl.createVertexArray()!;
    this.quads = gl.createVertexArray()!;
    gl.bindVertexArray(this.quads);
    const around = [0, 1, 2, 2, 1, 3];
    const quads = Uint32Array.from({ length: 6 * data.count }, (_, i) => 4 * ((i / 6) | 0) + around[i % 6]!);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, quads, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    this.worker = this.startWorker();
    this.sorterKind = this.worker ? "worker" : "page";
  }

  /** Set what is shown; `picture` draws it. */
  pose(drive: Drive): void {
    this.drive = drive;
  }

  /** Compute what a state means for shaders and sort. */
  driveOf(state: Parameters<Poser["drive"]>[0]): Drive {
    const began = performance.now();
    const drive = this.poser.drive(state);
    this.times.pose = performance.now() - began;
    return drive;
  }

  /**
   * Draw into the canvas, which takes the camera's size.
   *
   * @param background red, green, blue, alpha in [0, 1].
   * @param sort "now" sorts before drawing, on this thread; "soon" draws in the newest order that the
   *   worker gave and asks it for a newer one, after which `onOrder` is called; "not" asks for none.
   */
  picture(camera: Camera, background: number[], sort: "now" | "soon" | "not" = "soon"): void {
    const { gl, drive } = this;
    if (!drive || gl.isContextLost()) return;
    if (this.canvas.width !== camera.width || this.canvas.height !== camera.height) {
      this.canvas.width = camera.width;
      this.canvas.height = camera.height;
    }
    const job = sortJob(drive, [camera.T[8]!, camera.T[9]!, camera.T[10]!, camera.T[11]!]);
    if (sort === "now" || !this.ordered || (!this.worker && sort === "soon")) this.sortHere(job);
    else if (sort === "soon") this.sortThere(job);
    const began = performance.now();
    this.upload(drive);
    const uploaded = performance.now();
    this.posePass(drive, camera);
    this.splatPass(camera, background);
    this.times.upload = uploaded - began;
    this.times.draw = performance.now() - uploaded;
  }

  /** Return the canvas's pixels, RGBA from the top row; only in the task that drew it. */
  pixels(): Uint8Array<ArrayBuffer> {
    const { gl, canvas } = this;
    const { width, height } = canvas;
    const raw = new Uint8Array(4 * width * height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, raw);
    const out = new Uint8Array(raw.length);
    for (let y = 0; y < height; y++) {
      const row = raw.subarray(4 * width * y, 4 * width * (y + 1));
      out.set(row, 4 * width * (height - 1 - y));
    }
    return out;
  }

  /** Wait until the GPU has drawn all that it was told to. */
  finish(): void {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  /** End the worker and free the GPU's memory. */
  close(): void {
    this.worker?.terminate();
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  /** End the worker of a context that is lost already. */
  abandon(): void {
    this.worker?.terminate();
  }

  private startWorker(): Worker | null {
    try {
      const worker = new SortWorker();
      worker.onmessage = (event: MessageEvent<{ order: Uint32Array; ms: number }>) => {
        this.busy = false;
        this.times.sort = event.data.ms;
        this.takeOrder(event.data.order);
        this.onOrder();
        const next = this.waiting;
        this.waiting = null;
        if (next) this.sortThere(next);
      };
      worker.onerror = () => {
        // Refused after all (a stricter policy than ours): the page's own thread sorts from now on.
        worker.terminate();
        this.worker = null;
        this.onOrder();
      };
      worker.postMessage({ data: this.sorting });
      return worker;
    } catch {
      return null;
    }
  }

  private sortThere(job: SortJob): void {
    if (this.busy) {
      this.waiting = job;
      return;
    }
    this.busy = true;
    this.worker?.postMessage({ job });
  }

  private sortHere(job: SortJob): void {
    this.sorter ??= new Sorter(this.sorting);
    const began = performance.now();
    this.takeOrder(this.sorter.order(job));
    this.times.sort = performance.now() - began;
  }

  private takeOrder(order: Uint32Array): void {
    const { gl } = this;
    const padded = new Uint32Array(WIDTH * this.rows);
    padded.set(order);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(
      gl.TEXTURE_2D, 0, 0, 0, WIDTH, this.rows, gl.RED_INTEGER, gl.UNSIGNED_INT, padded,
    );
    this.ordered = true;
  }

  private upload(drive: Drive): void {
    const { gl } = this;
    gl.bindBuffer(gl.UNIFORM_BUFFER, this.weights);
    gl.bufferSubData(gl.UNIFORM_BUFFER, 0, drive.weights);
    this.refill(this.textures.lattice, gl.RGBA, drive.displacement, 4);
    this.refill(this.textures.growth, gl.RED, drive.growth, 1);
  }

  /** Overwrite a float texture of WIDTH columns with as many numbers as there are. */
  private refill(texture: WebGLTexture, format: number, values: Float32Array, channels: number): void {
    const { gl } = this;
    const rows = Math.ceil(values.length / channels / WIDTH);
    const padded = new Float32Array(rows * WIDTH * channels);
    padded.set(values);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, WIDTH, rows, format, gl.FLOAT, padded);
  }

  private posePass(drive: Drive, camera: Camera): void {
    const { gl, data } = this;
    const { pose } = this.programs;
    gl.useProgram(pose.handle);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.posed.frame);
    gl.drawBuffers([gl.COLOR_ATTACHMENT0, gl.COLOR_ATTACHMENT1]);
    gl.viewport(0, 0, WIDTH, this.rows);
    gl.disable(gl.BLEND);
    const { rest, bind, offsets, lattice, growth } = this.textures;
    this.bind(pose, "u_rest", gl.TEXTURE_2D_ARRAY, rest, 0);
    this.bind(pose, "u_bind", gl.TEXTURE_2D, bind, 1);
    this.bind(pose, "u_offsets", gl.TEXTURE_2D_ARRAY, offsets, 2);
    this.bind(pose, "u_lattice", gl.TEXTURE_2D, lattice, 3);
    this.bind(pose, "u_growth", gl.TEXTURE_2D, growth, 4);
    gl.bindBufferBase(gl.UNIFORM_BUFFER, 0, this.weights);
    const runs: number[] = [];
    let first = 0;
    for (const branch of data.branches) {
      runs.push(branch.first, branch.first + branch.count, first, branch.shapes);
      first += branch.shapes;
    }
    gl.uniform4iv(pose.at("u_branches"), runs);
    gl.uniform1i(pose.at("u_count"), data.count);
    gl.uniform1f(pose.at("u_largest"), data.largest);
    const matrix = (name: string, R: number[]) =>
      gl.uniformMatrix3fv(pose.at(name), false, transpose3(R)); // columns first
    matrix("u_head", rotationOf(drive.head));
    matrix("u_torso", rotationOf(drive.torso));
    matrix("u_camera", rotationOf(camera.T));
    gl.uniformMatrix3fv(pose.at("u_eyes"), false, drive.eyes.flatMap(transpose3));
    gl.uniform3f(pose.at("u_headAt"), drive.head[3]!, drive.head[7]!, drive.head[11]!);
    gl.uniform3f(pose.at("u_torsoAt"), drive.torso[3]!, drive.torso[7]!, drive.torso[11]!);
    gl.uniform3f(pose.at("u_cameraAt"), camera.T[3]!, camera.T[7]!, camera.T[11]!);
    gl.uniform3fv(pose.at("u_eyeAt"), data.eyeballs);
    gl.uniform4fv(pose.at("u_headQuat"), drive.headQuat);
    gl.uniform4fv(pose.at("u_torsoQuat"), drive.torsoQuat);
    gl.uniform4fv(pose.at("u_eyeQuat"), drive.eyeQuats.flat());
    const [fx, fy, cx, cy] = camera.K as [number, number, number, number];
    const { width, height } = camera;
    gl.uniform4f(pose.at("u_lens"), fx, fy, cx, cy);
    const marginX = (0.15 * width) / fx, marginY = (0.15 * height) / fy;
    const low = [-(cx / fx + marginX), -(cy / fy + marginY)] as const;
    const high = [(width - cx) / fx + marginX, (height - cy) / fy + marginY] as const;
    gl.uniform4f(pose.at("u_bounds"), low[0], high[0], low[1], high[1]);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  private splatPass(camera: Camera, background: number[]): void {
    const { gl } = this;
    const { splat, resolve } = this.programs;
    const { width, height } = camera;
    const sum = this.target(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, sum.frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(splat.handle);
    this.bind(splat, "u_first", gl.TEXTURE_2D, this.posed.first, 0);
    this.bind(splat, "u_second", gl.TEXTURE_2D, this.posed.second, 1);
    gl.uniform2f(splat.at("u_size"), width, height);
    this.bind(splat, "u_order", gl.TEXTURE_2D, this.order, 2);
    gl.bindVertexArray(this.quads);
    gl.drawElements(gl.TRIANGLES, 6 * this.data.count, gl.UNSIGNED_INT, 0);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.useProgram(resolve.handle);
    this.bind(resolve, "u_sum", gl.TEXTURE_2D, sum.texture, 0);
    const [r, g, b, a] = background as [number, number, number, number];
    gl.uniform4f(resolve.at("u_background"), r * a, g * a, b * a, a);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  private target(width: number, height: number): Target {
    const { gl } = this;
    const format = this.fine && this.canHalf ? gl.RGBA16F : gl.RGBA8;
    const old = this.sum;
    if (old && old.width === width && old.height === height && old.format === format) return old;
    if (this.sum) {
      gl.deleteFramebuffer(this.sum.frame);
      gl.deleteTexture(this.sum.texture);
    }
    const texture = this.texture(format, width, height);
    this.sum = { frame: framebuffer(gl, [texture]), texture, width, height, format };
    return this.sum;
  }

  private bind(used: Program, name: string, kind: number, texture: WebGLTexture, unit: number): void {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(kind, texture);
    gl.uniform1i(used.at(name), unit);
  }

  private texture(format: number, width: number, height: number, layers = 0): WebGLTexture {
    const { gl } = this;
    const kind = layers ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D;
    const texture = gl.createTexture()!;
    gl.bindTexture(kind, texture);
    if (layers) gl.texStorage3D(kind, 1, format, width, height, layers);
    else gl.texStorage2D(kind, 1, format, width, height);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(kind, filter, gl.NEAREST);
    }
    return texture;
  }

  /** Put into textures what does not change. */
  private fill(corners: Uint16Array, shares: Float32Array) {
    const { gl, data, rows } = this;
    const texels = WIDTH * rows;
    const layers = new Float32Array(5 * 4 * texels);
    const bind = new Uint32Array(4 * texels);
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
    for (let i = 0; i < data.count; i++) {
      const put = (layer: number, from: ArrayLike<number>, width: number, last?: number) => {
        const at = 4 * (layer * texels + i);
        for (let c = 0; c < width; c++) layers[at + c] = from[width * i + c]!;
        if (last !== undefined) layers[at + 3] = last;
      };
      put(0, data.means, 3, sigmoid(data.opacities[i]!));
      put(1, data.quats, 4);
      put(2, data.logScales, 3, sigmoid(data.torso[i]!));
      put(3, data.colours, 3, data.follow[i]!);
      put(4, shares, 3);
      bind[4 * i] = corners[3 * i]! | (corners[3 * i + 1]! << 16);
      bind[4 * i + 1] = corners[3 * i + 2]! | (data.triangle[i]! << 16);
      bind[4 * i + 2] = data.eye[i]! + 1;
    }
    const rest = this.texture(gl.RGBA32F, WIDTH, rows, 5);
    gl.texSubImage3D(
      gl.TEXTURE_2D_ARRAY, 0, 0, 0, 0, WIDTH, rows, 5, gl.RGBA, gl.FLOAT, layers,
    );
    const bound = this.texture(gl.RGBA32UI, WIDTH, rows);
    gl.texSubImage2D(
      gl.TEXTURE_2D, 0, 0, 0, WIDTH, rows, gl.RGBA_INTEGER, gl.UNSIGNED_INT, bind,
    );
    const most = Math.max(...data.branches.map((branch) => branch.shapes));
    const offsets = this.texture(gl.RGBA32UI, WIDTH, rows, most);
    const layer = new Int8Array(16 * texels);
    const words = new Uint32Array(layer.buffer);
    for (let k = 0; k < most; k++) {
      layer.fill(0);
      for (const { first, count, shapes, offsets: values } of data.branches) {
        if (k >= shapes) continue;
        for (let c = 0; c < CHANNELS; c++) {
          const at = (k * CHANNELS + c) * count;
          for (let i = 0; i < count; i++) layer[16 * (first + i) + c] = values[at + i]!;
        }
      }
      gl.texSubImage3D(
        gl.TEXTURE_2D_ARRAY, 0, 0, 0, k, WIDTH, rows, 1, gl.RGBA_INTEGER, gl.UNSIGNED_INT, words,
      );
    }
    const lines = (count: number) => Math.ceil(count / WIDTH);
    return {
      rest,
      bind: bound,
      offsets,
      lattice: this.texture(gl.RGBA32F, WIDTH, lines(data.lattice.length / 3)),
      growth: this.texture(gl.R32F, WIDTH, lines(data.triangles.length / 3)),
    };
  }
}

class Program {
  private readonly places = new Map<string, WebGLUniformLocation | null>();
  constructor(private readonly gl: WebGL2RenderingContext, readonly handle: WebGLProgram) {}

  at(name: string): WebGLUniformLocation | null {
    let place = this.places.get(name);
    if (place === undefined) {
      place = this.gl.getUniformLocation(this.handle, name);
      this.places.set(name, place);
    }
    return place;
  }
}

function program(gl: WebGL2RenderingContext, vertex: string, fragment: string): Program {
  const handle = gl.createProgram()!;
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]] as const) {
    const shader = gl.createShader(kind)!;
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
      throw new Error(`The graphics driver refuses a shader: ${gl.getShaderInfoLog(shader)}`);
    }
  }
  gl.linkProgram(handle);
  if (!gl.getProgramParameter(handle, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`The graphics driver refuses the shaders: ${gl.getProgramInfoLog(handle)}`);
  }
  return new Program(gl, handle);
}

function framebuffer(gl: WebGL2RenderingContext, textures: WebGLTexture[]): WebGLFramebuffer {
  const frame = gl.createFramebuffer()!;
  gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
  textures.forEach((texture, i) => {
    gl.framebufferTexture2D(
      gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0,
    );
  });
  return frame;
}
