const _t = "HSPLATWB";
const $ = "The avatar's data is damaged. Export it again.";
async function vt(o) {
  const t = o[0] === 31 && o[1] === 139 ? await Et(o) : o;
  if (new TextDecoder().decode(t.subarray(0, 8)) !== _t) throw new Error("This is no avatar for web pages. Make one with avatar export.");
  const e = new DataView(t.buffer, t.byteOffset);
  if (e.getUint32(8, !0) > 1)
    throw new Error("The avatar's data is newer than this script. Export both with one version.");
  const r = e.getUint32(12, !0);
  if (16 + r > t.length) throw new Error($);
  const n = JSON.parse(new TextDecoder().decode(t.subarray(16, 16 + r))), i = 16 + r, h = (F) => {
    const _ = n.arrays[F];
    if (!_ || i + _.at + _.size > t.length) throw new Error($);
    return [t.slice(i + _.at, i + _.at + _.size), _.type];
  }, a = (F) => {
    const [_, k] = h(F);
    if (k === "f4") return new Float32Array(_.buffer);
    if (k === "f2") return Mt(new Uint16Array(_.buffer));
    if (k === "i2") return Float32Array.from(new Int16Array(_.buffer), (bt) => bt / 32767);
    throw new Error($);
  }, c = (F) => new Int8Array(h(F)[0].buffer), l = (F) => new Uint16Array(h(F)[0].buffer), u = n.branches.map((F, _) => ({
    first: F.first,
    count: F.count,
    shapes: F.shapes,
    sees: F.sees,
    offsets: c(`branch${_}.offsets`),
    scale: a(`branch${_}.scale`),
    layers: [...Array(F.layers).keys()].map((k) => ({
      weight: a(`branch${_}.weight${k}`),
      bias: a(`branch${_}.bias${k}`)
    }))
  })), p = n.clips.map((F, _) => ({
    name: F.name,
    fps: F.fps,
    frames: F.frames,
    expression: a(`clip${_}.expression`),
    gaze: a(`clip${_}.gaze`),
    head: a(`clip${_}.head`),
    torso: a(`clip${_}.torso`),
    audio: F.mime ? new Blob([h(`clip${_}.audio`)[0]], { type: F.mime }) : null
  })), { title: d, facts: w, count: m, names: y, groups: f, fps: g, view: R, camera: x, rest: E } = n, { largest: A, input_limit: v, most_growth: b, look: U, look_in_files: D } = n;
  return {
    title: d,
    facts: w,
    count: m,
    names: y,
    groups: f,
    fps: g,
    largest: A,
    look: U,
    camera: x,
    branches: u,
    clips: p,
    inputLimit: v,
    mostGrowth: b,
    lookInFiles: D,
    view: R,
    rest: { ...E, expression: a("rest.expression") },
    low: a("low"),
    high: a("high"),
    eyeballs: a("eyeballs"),
    lattice: a("lattice"),
    basis: a("basis"),
    triangles: l("triangles"),
    means: a("means"),
    quats: a("quats"),
    logScales: a("log_scales"),
    opacities: a("logit_opacities"),
    colours: a("colours"),
    torso: a("torso_logits"),
    triangle: l("triangle"),
    barycentric: a("barycentric"),
    follow: a("follow"),
    eye: c("eye"),
    featureMean: a("feature_mean"),
    featureScale: a("feature_scale")
  };
}
async function Et(o) {
  if (typeof DecompressionStream > "u")
    throw new Error("This browser is too old to unpack the avatar. Use one from 2023 or later.");
  const t = new Blob([o]).stream().pipeThrough(new DecompressionStream("gzip"));
  try {
    return new Uint8Array(await new Response(t).arrayBuffer());
  } catch (s) {
    throw new Error($, { cause: s });
  }
}
function At(o) {
  const t = atob(o.trim()), s = new Uint8Array(t.length);
  for (let e = 0; e < t.length; e++) s[e] = t.charCodeAt(e);
  return s;
}
function Mt(o) {
  const t = new Float32Array(o.length);
  for (let s = 0; s < o.length; s++) {
    const e = o[s], r = e >> 10 & 31, n = e & 1023, i = r ? (1 + n / 1024) * 2 ** (r - 15) : n / 1024 * 2 ** -14;
    t[s] = e & 32768 ? -i : i;
  }
  return t;
}
function Tt(o, t) {
  const s = new Array(16).fill(0);
  for (let e = 0; e < 4; e++)
    for (let r = 0; r < 4; r++)
      for (let n = 0; n < 4; n++) s[4 * e + r] += o[4 * e + n] * t[4 * n + r];
  return s;
}
function S(o) {
  return [o[0], o[1], o[2], o[4], o[5], o[6], o[8], o[9], o[10]];
}
function N(o, t) {
  const s = new Array(9).fill(0);
  for (let e = 0; e < 3; e++)
    for (let r = 0; r < 3; r++)
      for (let n = 0; n < 3; n++) s[3 * e + r] += o[3 * e + n] * t[3 * n + r];
  return s;
}
function H(o) {
  return [o[0], o[3], o[6], o[1], o[4], o[7], o[2], o[5], o[8]];
}
function X(o, t) {
  const s = (e) => o[3 * e] * t[0] + o[3 * e + 1] * t[1] + o[3 * e + 2] * t[2];
  return [s(0), s(1), s(2)];
}
function ut(o, t) {
  return [
    o[0],
    o[1],
    o[2],
    t[0],
    o[3],
    o[4],
    o[5],
    t[1],
    o[6],
    o[7],
    o[8],
    t[2],
    0,
    0,
    0,
    1
  ];
}
function B(o) {
  const [t, s, e, r, n, i, h, a, c] = Array.from(o), l = t + n + c;
  let u;
  return l >= Math.max(t, n, c) ? u = [1 + l, a - i, e - h, r - s] : t >= Math.max(n, c) ? u = [a - i, 1 + t - n - c, s + r, e + h] : n >= c ? u = [e - h, s + r, 1 - t + n - c, i + a] : u = [r - s, e + h, i + a, 1 - t - n + c], j(u);
}
function j(o) {
  const t = Math.hypot(...o) || 1;
  return [o[0] / t, o[1] / t, o[2] / t, o[3] / t];
}
function ft(o) {
  const [t, s, e, r] = j(o);
  return [
    1 - 2 * (e * e + r * r),
    2 * (s * e - t * r),
    2 * (s * r + t * e),
    2 * (s * e + t * r),
    1 - 2 * (s * s + r * r),
    2 * (e * r - t * s),
    2 * (s * r - t * e),
    2 * (e * r + t * s),
    1 - 2 * (s * s + e * e)
  ];
}
function Rt(o, t, s) {
  const e = o[0] * t[0] + o[1] * t[1] + o[2] * t[2] + o[3] * t[3] < 0 ? -1 : 1, r = (n) => o[n] * (1 - s) + e * t[n] * s;
  return j([r(0), r(1), r(2), r(3)]);
}
function O(o) {
  const t = Math.hypot(...o), s = t / 2, e = t < 1e-9 ? 0.5 : Math.sin(s) / t;
  return ft([Math.cos(s), o[0] * e, o[1] * e, o[2] * e]);
}
function Ft(o) {
  let [t, s, e, r] = B(o);
  t < 0 && ([t, s, e, r] = [-t, -s, -e, -r]);
  const n = Math.hypot(s, e, r), i = n < 1e-9 ? 2 : 2 * Math.atan2(n, t) / n;
  return [s * i, e * i, r * i];
}
function dt(o, t, s) {
  const e = N(O([0, o, 0]), O([-t, 0, 0]));
  return N(e, O([0, 0, s]));
}
const V = [0, -0.07, -0.02];
function mt(o, t) {
  const s = X(t, V), e = V.map((r, n) => r - s[n]);
  return Tt(o, ut(t, e));
}
const T = 52;
class zt {
  constructor(t) {
    this.data = t, this.shapes = t.branches.reduce((e, r) => e + r.shapes, 0), this.jawOpen = t.names.indexOf("jawOpen"), this.mouthClose = t.names.indexOf("mouthClose");
    const s = new Float32Array(t.lattice.length);
    this.rest = this.areas(s).map((e) => Math.max(e, 1e-8));
  }
  data;
  shapes;
  rest;
  jawOpen;
  mouthClose;
  drive(t) {
    const s = this.feasible(t.expression), e = this.displacement(s), r = B(S(t.head));
    let n = B(S(t.torso));
    r.reduce((a, c, l) => a + c * n[l], 0) < 0 && (n = n.map((a) => -a));
    const i = [0, 1].map((a) => {
      const c = t.gaze[2 * a] - this.data.rest.gaze[2 * a], l = t.gaze[2 * a + 1] - this.data.rest.gaze[2 * a + 1];
      return O([-l, c, 0]);
    }), h = new Float32Array(e.length / 3 * 4);
    for (let a = 0; a < e.length / 3; a++)
      for (let c = 0; c < 3; c++) h[4 * a + c] = e[3 * a + c];
    return {
      weights: this.weights(s, t),
      displacement: h,
      growth: this.growth(e),
      head: t.head,
      torso: t.torso,
      headQuat: r,
      torsoQuat: n,
      eyes: i,
      eyeQuats: i.map(B)
    };
  }
  /** Coefficients as a face can have them: mouthClose takes back what jawOpen does and no more. */
  feasible(t) {
    const s = t.slice(), e = Math.max(0, s[this.jawOpen]) + Math.max(0, this.data.high[this.mouthClose]);
    return s[this.mouthClose] = Math.min(s[this.mouthClose], e), s;
  }
  displacement(t) {
    const { basis: s, lattice: e } = this.data, r = e.length, n = new Float32Array(r);
    for (let i = 0; i < t.length; i++) {
      const h = t[i];
      if (h === 0) continue;
      const a = i * r;
      for (let c = 0; c < r; c++) n[c] += h * s[a + c];
    }
    return n;
  }
  areas(t) {
    const { lattice: s, triangles: e } = this.data, r = new Float32Array(e.length / 3), n = (i, h, a) => {
      const c = 3 * e[3 * i + h] + a;
      return s[c] + t[c];
    };
    for (let i = 0; i < r.length; i++) {
      const h = n(i, 0, 0), a = n(i, 0, 1), c = n(i, 0, 2), l = n(i, 1, 0) - h, u = n(i, 1, 1) - a, p = n(i, 1, 2) - c, d = n(i, 2, 0) - h, w = n(i, 2, 1) - a, m = n(i, 2, 2) - c;
      r[i] = Math.hypot(u * m - p * w, p * d - l * m, l * w - u * d);
    }
    return r;
  }
  growth(t) {
    const s = this.data.mostGrowth ** 2, e = this.areas(t);
    for (let r = 0; r < e.length; r++)
      e[r] = Math.log(Math.min(s, Math.max(1, e[r] / this.rest[r]))) / 2;
    return e;
  }
  features(t, s) {
    const { rest: e, featureMean: r, featureScale: n, inputLimit: i } = this.data, h = new Float32Array(r.length);
    h.set(t.subarray(0, T)), h.set(Y(e.head, s.head), T), h.set(s.gaze, T + 6), h.set(Y(e.torso, s.torso), T + 10);
    for (let a = 0; a < h.length; a++) {
      const c = (h[a] - r[a]) / n[a];
      h[a] = Math.min(i, Math.max(-i, c));
    }
    return h;
  }
  weights(t, s) {
    const e = this.features(t, s), r = new Float32Array(this.shapes * 16);
    let n = 0;
    for (const i of this.data.branches) {
      const h = kt(i, e);
      for (let a = 0; a < i.shapes; a++)
        for (let c = 0; c < 13; c++) {
          const l = i.scale[13 * a + c] / 16129;
          r[16 * (n + a) + c] = h[a] * l;
        }
      n += i.shapes;
    }
    return r;
  }
}
function kt(o, t) {
  let s = o.sees ? Float32Array.from(o.sees, (e) => t[e]) : t;
  return o.layers.forEach(({ weight: e, bias: r }, n) => {
    const i = new Float32Array(r.length);
    for (let h = 0; h < i.length; h++) {
      let a = r[h];
      for (let c = 0; c < s.length; c++) a += e[h * s.length + c] * s[c];
      i[h] = n < o.layers.length - 1 ? Math.max(0, a) : a;
    }
    s = i;
  }), s;
}
function Y(o, t) {
  return [...Ft(N(H(S(o)), S(t))), t[3] - o[3], t[7] - o[7], t[11] - o[11]];
}
const I = Math.PI / 180;
class pt {
  // per eye: out or in to the left, in or out to the right, up, down
  constructor(t, s) {
    this.full = s;
    const e = (r) => t.indexOf(r);
    this.at = [
      ["eyeLookOutLeft", "eyeLookInLeft", "eyeLookUpLeft", "eyeLookDownLeft"].map(e),
      ["eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight", "eyeLookDownRight"].map(e)
    ];
  }
  full;
  at;
  get indices() {
    return this.at.flat();
  }
  /** The turn of the eyes, radians, that eyeLook coefficients mean. */
  gazeOf(t) {
    return this.at.flatMap(([s, e, r, n]) => [
      (t[s] - t[e]) * this.full[0],
      (t[r] - t[n]) * this.full[1]
    ]);
  }
  /** Coefficients, zero but for eyeLook, that a gaze in radians means. */
  weightsOf(t) {
    const s = new Float32Array(T);
    return this.at.forEach(([e, r, n, i], h) => {
      const a = t[2 * h] / this.full[0], c = t[2 * h + 1] / this.full[1];
      s[e] = Math.max(0, a), s[r] = Math.max(0, -a), s[n] = Math.max(0, c), s[i] = Math.max(0, -c);
    }), s;
  }
}
function Ut(o, t) {
  const s = new Float32Array(o.names.length);
  s.set(t.weightsOf(o.rest.gaze));
  const { gaze: e, head: r, torso: n } = o.rest;
  return { expression: s, gaze: e.slice(), head: r.slice(), torso: n.slice() };
}
function P(o, t, s, e) {
  const r = o.expression.slice(), n = s.gazeOf(t.weights), i = [t.gaze.yaw * I, t.gaze.pitch * I], h = o.gaze.map((y, f) => {
    const g = e[f % 2];
    return y + Math.min(g, Math.max(-g, n[f] + i[f % 2]));
  }), a = s.weightsOf(h), c = s.weightsOf(o.gaze), l = t.weights.slice();
  for (const y of s.indices) l[y] = a[y] - c[y];
  for (let y = 0; y < T; y++) {
    const f = r[y];
    r[y] = Math.max(Math.min(f + l[y], Math.max(f, 1)), Math.min(f, 0));
  }
  const { yaw: u, pitch: p, roll: d } = t.head, w = dt(u * I, p * I, d * I), m = u || p || d ? mt(o.head, w) : o.head;
  return { expression: r, gaze: h, head: m, torso: o.torso };
}
function Lt(o, t) {
  const s = Math.min(Math.max(0, t * o.fps), o.frames - 1), e = Math.floor(s), r = Math.min(e + 1, o.frames - 1), n = s - e, i = (a, c) => Float32Array.from(
    { length: c },
    (l, u) => a[e * c + u] * (1 - n) + a[r * c + u] * n
  ), h = (a) => {
    const c = (l) => Array.from(a.subarray(7 * l, 7 * l + 4));
    return ut(ft(Rt(c(e), c(r), n)), i(a, 7).subarray(4));
  };
  return {
    expression: i(o.expression, o.expression.length / o.frames),
    gaze: Array.from(i(o.gaze, 4)),
    head: h(o.head),
    torso: h(o.torso)
  };
}
class St {
  blinkAt = 1.5;
  glanceAt = 2;
  glance = { yaw: 0, pitch: 0 };
  eyes;
  constructor(t) {
    this.eyes = [t.indexOf("eyeBlinkLeft"), t.indexOf("eyeBlinkRight")];
  }
  at(t) {
    const s = new Float32Array(T);
    t > this.blinkAt + 0.3 && (this.blinkAt = t + 2 + 4 * Math.random());
    const e = t - this.blinkAt, r = e < 0 ? 0 : e < 0.08 ? e / 0.08 : Math.max(0, 1 - (e - 0.08) / 0.16);
    for (const h of this.eyes) s[h] = r;
    t > this.glanceAt && (this.glanceAt = t + 1 + 2.5 * Math.random(), this.glance = { yaw: 5 * (Math.random() - 0.5), pitch: 3 * (Math.random() - 0.5) });
    const n = Math.sin(2 * Math.PI * t / 4.2), i = {
      yaw: 1.6 * Math.sin(0.41 * t) + 0.7 * Math.sin(1.07 * t + 1),
      pitch: 0.8 * Math.sin(0.53 * t + 2) + 0.35 * n,
      roll: 0.6 * Math.sin(0.37 * t + 4)
    };
    return { controls: { weights: s, gaze: this.glance, head: i }, rise: 9e-4 * n };
  }
}
const K = 64 * 2 ** 20, Z = 2e5, J = 4 * 3600, wt = [
  "HeadYaw",
  "HeadPitch",
  "HeadRoll",
  "LeftEyeYaw",
  "LeftEyePitch",
  "LeftEyeRoll",
  "RightEyeYaw",
  "RightEyePitch",
  "RightEyeRoll"
], Dt = ["blendshapecount", "frame", "_neutral"], It = [24, 25, 30, 50, 60, 120], C = "Expected a CSV of ARKit coefficients (0 to 1) under Apple's names, such as jawOpen, as the Live Link Face app records it.";
class z extends Error {
}
async function Ot(o, t) {
  if (o.size > K)
    throw new Error(`${o.name} is larger than ${K / 2 ** 20} MB. Cut the recording.`);
  let s;
  try {
    s = new TextDecoder("utf-8", { fatal: !0 }).decode(await o.arrayBuffer());
  } catch (e) {
    throw new Error(`${o.name} is no UTF-8 text. ${C}`, { cause: e });
  }
  return Bt(o.name, s, t);
}
function Bt(o, t, s) {
  const e = t.replace(/^\ufeff/, "").split(/\r\n|\n|\r/), r = (e[0] ?? "").split(",").map((m) => tt(m)), n = Nt(o, r, s.names), i = r.findIndex((m) => m.toLowerCase() === "blendshapecount"), h = n.findIndex((m) => m === "time" || m === "timecode"), a = T + wt.length, c = [], l = [];
  for (let m = 1; m < e.length; m++) {
    const y = e[m];
    if (!y.replaceAll(",", "").trim()) continue;
    const f = y.split(",").map(tt);
    if (i >= 0 && f[i] === "0") continue;
    const g = `${o}, line ${m + 1}`;
    if (f.length !== r.length)
      throw new z(
        `${g}: has ${f.length} values where the header names ${r.length} columns. Is the file complete? Record or export it again.`
      );
    if (c.length >= Z)
      throw new z(`${o} has more than ${Z} rows. Cut the recording.`);
    const R = new Float32Array(a);
    n.forEach((x, E) => {
      typeof x == "number" && (R[x] = $t(g, r[E], x, f[E]));
    }), c.push(R), h < 0 ? l.push([0, c.length - 1]) : n[h] === "timecode" ? l.push(Ct(g, f[h])) : l.push([0, gt(g, r[h], f[h])]);
  }
  if (c.length === 0) throw new z(`${o} holds no sample of a face. ${C}`);
  const u = qt(l, h < 0 ? 1 / s.fps : n[h] === "timecode" ? 0 : 1), [p, d] = Pt(o, u, n[h] === "timecode" ? 0.1 : 0), w = new Set(n.filter((m) => typeof m == "number"));
  return Gt(o, p.map((m) => c[m]), d, w, s);
}
function tt(o) {
  return o.trim().replace(/^"(.*)"$/, "$1").trim();
}
function Nt(o, t, s) {
  const e = new Map([...s.slice(0, T), ...wt].map((i, h) => [i.toLowerCase(), h])), r = /* @__PURE__ */ new Set(), n = t.map((i) => {
    const h = i.toLowerCase();
    if (r.has(h)) throw new z(`${o} has the column '${q(i)}' twice. Remove one of them.`);
    if (r.add(h), h === "time" || h === "timecode") return h;
    if (Dt.includes(h)) return "";
    const a = e.get(h);
    if (a === void 0)
      throw new z(`${o} has an unknown column '${q(i)}'. ${C}`);
    return a;
  });
  if (!n.some((i) => typeof i == "number" && i < T))
    throw new z(`${o} names no ARKit coefficient. ${C}`);
  if (r.has("time") && r.has("timecode"))
    throw new z(`${o} has both a 'time' and a 'Timecode' column. Remove one of them.`);
  return n;
}
const q = (o) => o.length > 40 ? `${o.slice(0, 37)}...` : o;
function gt(o, t, s) {
  const e = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(s) ? Number(s) : NaN;
  if (!Number.isFinite(e))
    throw new z(`${o}, column '${t}': expected a finite number, found '${q(s)}'.`);
  return e;
}
function $t(o, t, s, e) {
  const r = gt(o, t, e);
  if (s < T && (r < -1 || r > 2))
    throw new z(
      `${o}, column '${t}': a coefficient runs from 0 to 1, found ${r}. If the file holds percents, divide them by 100.`
    );
  if (s >= T && Math.abs(r) > 3.2)
    throw new z(
      `${o}, column '${t}': an angle is in radians, from -3.15 to 3.15; found ${r}. If the file holds degrees, convert them.`
    );
  return r;
}
function Ct(o, t) {
  const s = /^(\d{1,2}):(\d{1,2}):(\d{1,2})[:;](\d{1,3}(?:\.\d{1,9})?)$/.exec(t), [e, r, n, i] = (s ?? []).slice(1).map(Number);
  if (!s || e > 23 || r > 59 || n > 59)
    throw new z(`${o}, column 'Timecode': expected HH:MM:SS:FF.sss, found '${q(t)}'.`);
  return [(e * 60 + r) * 60 + n, i];
}
function qt(o, t) {
  if (t) return o.map(([, i]) => i * t);
  const s = o.reduce((i, [, h]) => Math.max(i, h), 0);
  let e = It.find((i) => i > s) ?? Math.ceil(s) + 1;
  o[0][0] === o[o.length - 1][0] && (e = Math.max(e, 60));
  let r = 0, n = -1 / 0;
  return o.map(([i, h]) => {
    const a = i + h / e;
    return a - n < -12 * 3600 && r++, n = a, a + 24 * 3600 * r;
  });
}
function Pt(o, t, s) {
  const e = [], r = [];
  let n = -1 / 0;
  if (t.forEach((i, h) => {
    if (i < n - s)
      throw new z(`${o}: the time of sample ${h + 1} lies before that of an earlier one. Sort them.`);
    i > n + 1e-9 && (e.push(h), r.push(i - t[0]), n = i);
  }), n - t[0] > J)
    throw new z(`${o} spans more than ${J / 3600} hours. Are its times seconds?`);
  return [e, r];
}
function Gt(o, t, s, e, r) {
  const { fps: n, rest: i, names: h } = r, a = Math.floor(s[s.length - 1] * n + 1e-4) + 1, c = new Float32Array(a * h.length), l = new Float32Array(4 * a), u = new Float32Array(7 * a), p = new Float32Array(7 * a), d = new pt(h, r.lookInFiles), w = [0, 1, 2].some((g) => e.has(T + g)), m = [3, 4, 5, 6, 7, 8].some((g) => e.has(T + g)), y = (g, R, x) => {
    g.set([...B(S(x)), x[3], x[7], x[11]], 7 * R);
  };
  let f = 1;
  for (let g = 0; g < a; g++) {
    const R = g / n;
    for (; f < s.length - 1 && s[f] < R; ) f++;
    const x = Math.min(f, t.length - 1), E = Math.max(0, x - 1), A = s[x] - s[E], v = A > 0 ? Math.min(1, Math.max(0, (R - s[E]) / A)) : 0, b = t[E].map((_, k) => _ * (1 - v) + t[x][k] * v);
    c.set(b.subarray(0, T), g * h.length);
    const U = [3, 4, 6, 7].map((_) => -b[T + _]), D = m ? U : d.gazeOf(b);
    l.set(i.gaze.map((_, k) => _ + D[k]), 4 * g);
    const F = dt(b[T], b[T + 1], b[T + 2]);
    y(u, g, w ? mt(i.head, F) : i.head), y(p, g, i.torso);
  }
  return { name: o.replace(/\.csv$/i, ""), fps: n, frames: a, expression: c, gaze: l, head: u, torso: p, audio: null };
}
const Ht = [[150, 450], [450, 1e3], [1e3, 1800], [1800, 3200], [4e3, 8e3]];
class Q {
  constructor(t, s, e, r) {
    this.context = t, this.stream = s, this.analyser = e, this.names = r, this.spectrum = new Float32Array(e.frequencyBinCount);
  }
  context;
  stream;
  analyser;
  names;
  weights = new Float32Array(T);
  floor = -70;
  peak = -40;
  spectrum;
  static async open(t) {
    if (!navigator.mediaDevices?.getUserMedia)
      throw new Error("This browser gives pages opened this way no microphone. Try another browser.");
    let s;
    try {
      s = await navigator.mediaDevices.getUserMedia({ audio: !0 });
    } catch (n) {
      throw new Error("The microphone was refused or is missing. Allow it for this page.", { cause: n });
    }
    const e = new AudioContext(), r = e.createAnalyser();
    return r.fftSize = 1024, r.smoothingTimeConstant = 0.5, e.createMediaStreamSource(s).connect(r), new Q(e, s, r, t);
  }
  /** Bring `weights` up to what is heard now. */
  listen() {
    this.analyser.getFloatFrequencyData(this.spectrum);
    const t = this.context.sampleRate / this.analyser.fftSize, s = Ht.map(([p, d]) => {
      let w = 0;
      for (let m = Math.ceil(p / t); m < d / t; m++)
        w += 10 ** ((this.spectrum[m] ?? -100) / 10);
      return Math.max(w, 1e-10);
    }), e = s[0] + s[1] + s[2] + s[3], r = 10 * Math.log10(e + s[4]);
    this.floor += (r < this.floor ? 0.2 : 2e-3) * (r - this.floor), this.peak += (r > this.peak ? 0.3 : 3e-3) * (Math.max(r, this.floor + 25) - this.peak);
    const n = Math.min(1, Math.max(0, (r - this.floor - 8) / (this.peak - this.floor - 8))), i = s.map((p) => p / (e + s[4])), h = Math.min(1, i[4] * 2), a = Math.min(1, (i[1] + i[2] * 0.5) * 1.3), c = Math.min(1, (i[3] + i[2] * 0.4) * 2.5), l = Math.min(1, Math.max(0, i[0] + i[1] * 0.4 - c * 0.8)), u = n * (1 - h);
    this.towards({
      jawOpen: u * (0.15 + 0.55 * a),
      mouthFunnel: u * l * 0.4,
      mouthPucker: u * l * 0.25,
      mouthStretchLeft: n * (c * 0.3 + h * 0.2),
      mouthStretchRight: n * (c * 0.3 + h * 0.2),
      mouthLowerDownLeft: u * (0.2 + 0.2 * c),
      mouthLowerDownRight: u * (0.2 + 0.2 * c),
      mouthUpperUpLeft: u * 0.12 + n * h * 0.1,
      mouthUpperUpRight: u * 0.12 + n * h * 0.1
    });
  }
  close() {
    this.stream.getTracks().forEach((t) => t.stop()), this.context.close();
  }
  towards(t) {
    for (const [s, e] of Object.entries(t)) {
      const r = this.names.indexOf(s), n = this.weights[r];
      this.weights[r] = n + (e > n ? 0.5 : 0.3) * (e - n);
    }
  }
}
async function Xt(o, t, s, e) {
  const r = [], n = [];
  o.fine = !0;
  for (let a = 0; a < e; a++) {
    const c = t();
    for (let m = 0; m < T; m++) c.expression[m] = Math.random() * 0.5;
    const l = performance.now();
    o.pose(o.driveOf(c)), o.picture(s, [1, 1, 1, 1]);
    const u = performance.now();
    o.finish();
    const p = performance.now(), { pose: d, upload: w } = o.times;
    r.push([d, w, u - l, p - u, p - l]), await new Promise((m) => setTimeout(m, 20)), n.push(o.times.sort);
  }
  const i = (a) => a.sort((c, l) => c - l)[a.length >> 1], h = (a) => i(r.map((c) => c[a]));
  return {
    pose_ms: h(0),
    upload_ms: h(1),
    page_ms: h(2),
    draw_ms: h(3),
    picture_ms: h(4),
    sort_ms: i(n.slice(e >> 2)),
    frames_per_s: 1e3 / h(4)
  };
}
const et = [0.4, 12];
class Wt {
  constructor(t) {
    this.data = t;
  }
  data;
  /** Degrees round the head to the subject's left, and up. */
  yaw = 0;
  pitch = 0;
  /** 1 shows head and shoulders. */
  zoom = 1;
  /** Shift of the picture, in heights of it. */
  pan = [0, 0];
  /** A camera to use as it is, instead of all of these. */
  fixed = null;
  onChange = () => {
  };
  /** Set some of yaw, pitch, zoom. */
  set(t) {
    this.yaw = (((t.yaw ?? this.yaw) + 180) % 360 + 360) % 360 - 180, this.pitch = Math.max(-85, Math.min(85, t.pitch ?? this.pitch)), this.zoom = Math.max(et[0], Math.min(et[1], t.zoom ?? this.zoom)), this.onChange();
  }
  reset() {
    this.pan = [0, 0], this.fixed = null, this.set({ yaw: 0, pitch: 0, zoom: 1 });
  }
  /** Zoom so that what lies under a point of the picture stays there; in heights, from its middle. */
  zoomAt(t, s, e) {
    const r = this.zoom;
    this.set({ zoom: r * e });
    const n = this.zoom / r;
    this.pan = [t - (t - this.pan[0]) * n, s - (s - this.pan[1]) * n];
  }
  /** avatar.model.views.front_camera, zoomed and shifted. */
  camera(t, s) {
    if (this.fixed) return { ...this.fixed, ...jt(this.fixed, t, s), width: t, height: s };
    const { distance: e, shown: r, bottom: n, narrowest: i, up: h } = this.data.view, a = this.data.rest.head, c = N(
      O([0, this.yaw * I, 0]),
      O([-this.pitch * I, 0, 0])
    ), l = X(N(S(a), c), [0, 0, 1]), u = [3, 7, 11].map((v, b) => a[v] + e * l[b]), p = l.map((v) => -v), d = Qt(rt(p, h)), w = rt(p, d), m = [...d, ...w, ...p], y = X(m, u).map((v) => -v), f = [0, 1, 2].flatMap((v) => [m[3 * v], m[3 * v + 1], m[3 * v + 2], y[v]]), g = Math.min(s * e / r, t * e / i), R = s + g * n / e, x = t / 2 + this.pan[0] * s, E = s / 2 + (R - s / 2) * this.zoom + this.pan[1] * s, A = g * this.zoom;
    return { K: [A, A, x, E], T: [...f, 0, 0, 0, 1], width: t, height: s };
  }
  /** Let mouse, pen and fingers on an element move the camera. */
  listen(t, s) {
    const e = /* @__PURE__ */ new Map();
    t.addEventListener("pointerdown", (r) => {
      t.setPointerCapture(r.pointerId), e.set(r.pointerId, { x: r.clientX, y: r.clientY });
    }, { signal: s });
    for (const r of ["pointerup", "pointercancel"])
      t.addEventListener(r, (n) => e.delete(n.pointerId), { signal: s });
    t.addEventListener("pointermove", (r) => {
      const n = e.get(r.pointerId);
      if (!n) return;
      const i = { x: r.clientX, y: r.clientY }, h = t.getBoundingClientRect(), a = [(i.x - n.x) / h.height, (i.y - n.y) / h.height], c = [...e].find(([l]) => l !== r.pointerId)?.[1];
      if (c) {
        const l = (p) => Math.hypot(p.x - c.x, p.y - c.y), u = [(i.x + c.x) / 2, (i.y + c.y) / 2];
        this.pan = [this.pan[0] + a[0] / 2, this.pan[1] + a[1] / 2], this.zoomAt(...st(u[0], u[1], h), l(i) / Math.max(1, l(n)));
      } else r.buttons & 2 || r.shiftKey ? this.pan = [this.pan[0] + a[0], this.pan[1] + a[1]] : this.set({ yaw: this.yaw - 180 * a[0], pitch: this.pitch + 120 * a[1] });
      e.set(r.pointerId, i), this.onChange();
    }, { signal: s }), t.addEventListener("wheel", (r) => {
      r.preventDefault();
      const n = r.deltaMode === 1 ? 16 : 1, i = st(r.clientX, r.clientY, t.getBoundingClientRect());
      this.zoomAt(...i, Math.exp(-15e-4 * n * r.deltaY)), this.onChange();
    }, { passive: !1, signal: s }), t.addEventListener("dblclick", () => this.reset(), { signal: s }), t.addEventListener("contextmenu", (r) => r.preventDefault(), { signal: s });
  }
}
function st(o, t, s) {
  return [(o - s.left - s.width / 2) / s.height, (t - s.top - s.height / 2) / s.height];
}
function jt(o, t, s) {
  const e = Math.min(t / o.width, s / o.height), [r, n, i, h] = o.K.map((l) => l * e), [a, c] = [(t - e * o.width) / 2, (s - e * o.height) / 2];
  return { K: [r, n, i + a, h + c] };
}
function rt(o, t) {
  return [o[1] * t[2] - o[2] * t[1], o[2] * t[0] - o[0] * t[2], o[0] * t[1] - o[1] * t[0]];
}
function Qt(o) {
  const t = Math.hypot(...o) || 1;
  return [o[0] / t, o[1] / t, o[2] / t];
}
class Vt {
  constructor(t) {
    this.changed = t, this.audio.preload = "auto", this.audio.addEventListener("ended", () => {
      this.playing && this.finish();
    });
  }
  changed;
  clip = null;
  playing = !1;
  time = 0;
  audio = new Audio();
  urls = /* @__PURE__ */ new Map();
  get duration() {
    return this.clip ? this.clip.frames / this.clip.fps : 0;
  }
  play(t) {
    t !== this.clip && this.choose(t), this.time >= this.duration - 1e-3 && this.seek(0), this.playing = !0, t.audio && (this.audio.currentTime = this.time, this.audio.play().catch(() => {
    })), this.changed();
  }
  pause() {
    this.playing = !1, this.audio.pause(), this.changed();
  }
  stop() {
    this.pause(), this.clip = null, this.time = 0, this.changed();
  }
  seek(t) {
    this.time = Math.min(Math.max(0, t), this.duration), this.clip?.audio && (this.audio.currentTime = this.time), this.changed();
  }
  /** Go on by some seconds, or to where the sound is: eyes forgive a late frame, ears no gap. */
  advance(t) {
    if (!this.playing || !this.clip) return;
    const s = this.clip.audio && !this.audio.paused;
    this.time = s ? this.audio.currentTime : this.time + t, this.time >= this.duration && this.finish();
  }
  choose(t) {
    this.clip = t, this.time = 0, this.audio.pause(), t.audio ? (this.urls.has(t) || this.urls.set(t, URL.createObjectURL(t.audio)), this.audio.src = this.urls.get(t)) : this.audio.removeAttribute("src");
  }
  finish() {
    this.playing = !1, this.time = this.duration, this.audio.pause(), this.changed();
  }
}
const M = 1024, nt = `#version 300 es
void main() {
  vec2 p = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(p * 2.0 - 1.0, 0.0, 1.0);
}`;
function Yt(o, t) {
  return `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
precision highp usampler2D;
precision highp usampler2DArray;
uniform sampler2DArray u_rest;     // 0 mean, opacity; 1 quat; 2 log scale, torso share; 3 colour, follow; 4 corner weights
uniform usampler2D u_bind;         // corners 0 | 1 << 16, corner 2 | triangle << 16, eye + 1
uniform usampler2DArray u_offsets; // a layer a shape: 13 signed bytes
uniform sampler2D u_lattice;       // displacement
uniform sampler2D u_growth;
layout(std140) uniform Weights { vec4 u_weights[${4 * o}]; };
uniform ivec4 u_branches[${t}]; // first, end, first shape, shapes
uniform int u_count;
uniform float u_largest;
uniform mat3 u_head, u_torso, u_eyes[2], u_camera;
uniform vec3 u_headAt, u_torsoAt, u_eyeAt[2], u_cameraAt;
uniform vec4 u_headQuat, u_torsoQuat, u_eyeQuat[2];
uniform vec4 u_lens;   // fx, fy, cx, cy
uniform vec4 u_bounds; // of x/z and y/z in the Jacobian: low, high, low, high
layout(location = 0) out uvec4 o_first;  // centre, long half axis: one standard deviation, pixels
layout(location = 1) out uvec4 o_second; // short half axis, opacity, colour in half precision

vec4 turned(vec4 p, vec4 q) { // Hamilton product of (w, x, y, z)
  return vec4(p.x * q.x - p.y * q.y - p.z * q.z - p.w * q.w,
              p.x * q.y + p.y * q.x + p.z * q.w - p.w * q.z,
              p.x * q.z - p.y * q.w + p.z * q.x + p.w * q.y,
              p.x * q.w + p.y * q.z - p.z * q.y + p.w * q.x);
}
vec4 four(uint word) {
  ivec4 q = (ivec4(uvec4(word)) << ivec4(24, 16, 8, 0)) >> 24;
  return vec4(q * abs(q));
}
ivec2 place(uint i) { return ivec2(int(i) % ${M}, int(i) / ${M}); }

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  int index = at.y * ${M} + at.x;
  o_first = uvec4(0u);
  o_second = uvec4(0u);
  if (index >= u_count) return;
  vec4 r0 = texelFetch(u_rest, ivec3(at, 0), 0);
  vec4 r2 = texelFetch(u_rest, ivec3(at, 2), 0);
  vec4 r3 = texelFetch(u_rest, ivec3(at, 3), 0);
  vec3 corner = texelFetch(u_rest, ivec3(at, 4), 0).xyz;
  uvec4 bind = texelFetch(u_bind, at, 0);

  vec4 a = vec4(0.0), b = vec4(0.0), c = vec4(0.0);
  float d = 0.0;
  for (int branch = 0; branch < ${t}; ++branch) {
    ivec4 run = u_branches[branch];
    if (index < run.x || index >= run.y) continue;
    for (int k = 0; k < run.w; ++k) {
      uvec4 word = texelFetch(u_offsets, ivec3(at, k), 0);
      int w = 4 * (run.z + k);
      a += u_weights[w] * four(word.x);
      b += u_weights[w + 1] * four(word.y);
      c += u_weights[w + 2] * four(word.z);
      d += u_weights[w + 3].x * four(word.w).x;
    }
  }
  vec3 mean = r0.xyz + a.xyz;
  mean += corner.x * texelFetch(u_lattice, place(bind.x & 0xffffu), 0).xyz;
  mean += corner.y * texelFetch(u_lattice, place(bind.x >> 16), 0).xyz;
  mean += corner.z * texelFetch(u_lattice, place(bind.y & 0xffffu), 0).xyz;
  vec4 quat = texelFetch(u_rest, ivec3(at, 1), 0) + vec4(a.w, b.xyz);
  quat /= max(length(quat), 1e-12);
  int eye = int(bind.z) - 1;
  if (eye >= 0) {
    mean = u_eyes[eye] * (mean - u_eyeAt[eye]) + u_eyeAt[eye];
    quat = turned(u_eyeQuat[eye], quat);
  }
  float growth = texelFetch(u_growth, place(bind.y >> 16), 0).x * r3.w;
  vec3 scale = min(exp(r2.xyz + growth + vec3(b.w, c.xy)), vec3(u_largest));
  vec3 colour = r3.xyz + vec3(c.zw, d);
  mean = mix(u_head * mean + u_headAt, u_torso * mean + u_torsoAt, r2.w);
  quat = turned(mix(u_headQuat, u_torsoQuat, r2.w), quat);

  vec3 cam = u_camera * mean + u_cameraAt;
  if (cam.z < 0.01 || r0.w < 1.0 / 255.0) return;
  float rz = 1.0 / cam.z;
  vec2 ratio = cam.xy * rz;
  vec2 centre = u_lens.xy * ratio + u_lens.zw;
  ratio = clamp(ratio, u_bounds.xz, u_bounds.yw);
  quat = normalize(quat);
  float w = quat.x, x = quat.y, y = quat.z, z = quat.w;
  mat3 Q = mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
                2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
                2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
  mat3 W = u_camera * Q;
  W[0] *= scale.x; W[1] *= scale.y; W[2] *= scale.z;
  vec3 rowZ = vec3(W[0].z, W[1].z, W[2].z);
  vec3 u = u_lens.x * rz * (vec3(W[0].x, W[1].x, W[2].x) - ratio.x * rowZ);
  vec3 v = u_lens.y * rz * (vec3(W[0].y, W[1].y, W[2].y) - ratio.y * rowZ);
  // The ellipse's axes, of the covariance with the blur of 0.3 pixels squared on its diagonal.
  float c00 = dot(u, u) + 0.3, c01 = dot(u, v), c11 = dot(v, v) + 0.3;
  vec3 area = cross(u, v);
  float determinant = dot(area, area) + 0.3 * (c00 + c11) - 0.09;
  float lean = 0.5 * (c00 - c11), radius = length(vec2(lean, c01));
  float large = 0.5 * (c00 + c11) + radius;
  vec2 along = radius < 1e-9 ? vec2(1.0, 0.0)
    : normalize(lean >= 0.0 ? vec2(lean + radius, c01) : vec2(c01, radius - lean));
  o_first = floatBitsToUint(vec4(centre, sqrt(large) * along));
  o_second = uvec4(floatBitsToUint(sqrt(determinant / large)), floatBitsToUint(r0.w),
                   packHalf2x16(colour.xy), packHalf2x16(vec2(colour.z, 0.0)));
}`;
}
const Kt = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D u_first, u_second, u_order;
uniform vec2 u_size;
out vec2 v_at;
flat out vec4 v_colour;
ivec2 place(int i) { return ivec2(i % ${M}, i / ${M}); }
void main() {
  int rank = gl_VertexID >> 2, corner = gl_VertexID & 3;
  ivec2 at = place(int(texelFetch(u_order, place(rank), 0).x));
  uvec4 second = texelFetch(u_second, at, 0);
  float opacity = uintBitsToFloat(second.y);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  v_at = vec2(0.0);
  v_colour = vec4(0.0);
  if (!(opacity >= 1.0 / 255.0)) return;
  vec4 first = uintBitsToFloat(texelFetch(u_first, at, 0));
  // Alpha is 1/255 at this many standard deviations.
  float extent = sqrt(max(0.0, 2.0 * log(255.0 * opacity))) + 1e-3;
  v_at = extent * (vec2(float(corner & 1), float(corner >> 1)) * 2.0 - 1.0);
  float short_ = uintBitsToFloat(second.x);
  vec2 across = vec2(-first.w, first.z) * (short_ / length(first.zw));
  vec2 pixel = first.xy + v_at.x * first.zw + v_at.y * across;
  gl_Position = vec4(pixel.x / u_size.x * 2.0 - 1.0, 1.0 - pixel.y / u_size.y * 2.0, 0.0, 1.0);
  v_colour = vec4(unpackHalf2x16(second.z), unpackHalf2x16(second.w).x, opacity);
}`, Zt = `#version 300 es
precision highp float;
in vec2 v_at;
flat in vec4 v_colour;
out vec4 o_colour;
void main() {
  float alpha = min(0.999, v_colour.w * exp(-0.5 * dot(v_at, v_at)));
  if (alpha < 1.0 / 255.0) discard;
  o_colour = vec4(v_colour.xyz * alpha, alpha);
}`, Jt = `#version 300 es
precision highp float;
uniform sampler2D u_sum;
uniform vec4 u_background;
out vec4 o_colour;
void main() {
  vec4 sum = texelFetch(u_sum, ivec2(gl_FragCoord.xy), 0);
  o_colour = clamp(sum + (1.0 - sum.w) * u_background, 0.0, 1.0);
}`, W = 11, L = 1 << W;
function te(o, t, s) {
  return {
    means: o.means,
    corners: t,
    weights: s,
    torso: o.torso.map((e) => 1 / (1 + Math.exp(-e))),
    eye: o.eye,
    eyeballs: o.eyeballs,
    branches: o.branches.map(({ first: e, count: r, shapes: n, offsets: i }) => {
      const h = new Int8Array(n * 3 * r);
      for (let a = 0; a < n; a++) {
        const c = a * 13 * r;
        h.set(i.subarray(c, c + 3 * r), a * 3 * r);
      }
      return { first: e, count: r, shapes: n, offsets: h };
    })
  };
}
function ee(o, t) {
  const { weights: s, displacement: e, head: r, torso: n, eyes: i } = o;
  return { weights: s, displacement: e, head: r, torso: n, eyes: i, row: t };
}
class se {
  constructor(t) {
    this.data = t;
    const s = t.means.length / 3;
    this.x = new Float32Array(s), this.y = new Float32Array(s), this.z = new Float32Array(s), this.keys = new Uint32Array(s), this.half = new Uint32Array(s);
  }
  data;
  x;
  y;
  z;
  keys;
  half;
  counts = new Uint32Array(2 * L);
  signedSquare = Float32Array.from({ length: 256 }, (t, s) => {
    const e = s > 127 ? s - 256 : s;
    return e * Math.abs(e);
  });
  /** Indices of all Gaussians, farthest first. */
  order(t) {
    return this.offsets(t.weights), this.sorted(this.depths(t));
  }
  offsets(t) {
    const { x: s, y: e, z: r, signedSquare: n } = this;
    s.fill(0), e.fill(0), r.fill(0);
    let i = 0;
    for (const { first: h, count: a, shapes: c, offsets: l } of this.data.branches)
      for (let u = 0; u < c; u++, i++)
        [s, e, r].forEach((p, d) => {
          const w = t[16 * i + d], m = (3 * u + d) * a;
          for (let y = 0; y < a; y++)
            p[h + y] += w * n[l[m + y] & 255];
        });
  }
  depths(t) {
    const { means: s, corners: e, weights: r, torso: n, eye: i, eyeballs: h } = this.data, { displacement: a, eyes: c } = t, l = ot(t.row, t.head), u = ot(t.row, t.torso), p = new Float32Array(this.x.length);
    for (let d = 0; d < p.length; d++) {
      let w = s[3 * d] + this.x[d], m = s[3 * d + 1] + this.y[d], y = s[3 * d + 2] + this.z[d];
      for (let x = 0; x < 3; x++) {
        const E = r[3 * d + x], A = 4 * e[3 * d + x];
        w += E * a[A], m += E * a[A + 1], y += E * a[A + 2];
      }
      const f = i[d];
      if (f >= 0) {
        const x = c[f], E = h[3 * f], A = h[3 * f + 1], v = h[3 * f + 2], b = w - E, U = m - A, D = y - v;
        w = x[0] * b + x[1] * U + x[2] * D + E, m = x[3] * b + x[4] * U + x[5] * D + A, y = x[6] * b + x[7] * U + x[8] * D + v;
      }
      const g = l[0] * w + l[1] * m + l[2] * y + l[3], R = u[0] * w + u[1] * m + u[2] * y + u[3];
      p[d] = g + (R - g) * n[d];
    }
    return p;
  }
  /** A stable radix sort of two passes over depths in 22 bits, which float32 hardly exceeds here. */
  sorted(t) {
    const { keys: s, half: e, counts: r } = this, n = t.length;
    let i = 1 / 0, h = -1 / 0;
    for (let l = 0; l < n; l++) {
      const u = t[l];
      u < i && (i = u), u > h && (h = u);
    }
    const a = (L * L - 1) / Math.max(1e-9, h - i);
    r.fill(0);
    for (let l = 0; l < n; l++) {
      const u = (h - t[l]) * a >>> 0;
      s[l] = u, r[u & L - 1]++, r[L + (u >>> W)]++;
    }
    for (let l = 0; l < 2; l++) {
      let u = 0;
      for (let p = l * L; p < (l + 1) * L; p++) {
        const d = r[p];
        r[p] = u, u += d;
      }
    }
    const c = new Uint32Array(n);
    for (let l = n - 1; l >= 0; l--) e[r[s[l] & L - 1]++] = l;
    for (let l = 0; l < n; l++) {
      const u = e[l];
      c[r[L + (s[u] >>> W)]++] = u;
    }
    return c;
  }
}
function ot(o, t) {
  const s = (e) => o[0] * t[e] + o[1] * t[4 + e] + o[2] * t[8 + e];
  return [s(0), s(1), s(2), s(3) + o[3]];
}
const yt = `(function(){"use strict";class z{constructor(e){this.data=e;const s=e.means.length/3;this.x=new Float32Array(s),this.y=new Float32Array(s),this.z=new Float32Array(s),this.keys=new Uint32Array(s),this.half=new Uint32Array(s)}data;x;y;z;keys;half;counts=new Uint32Array(2*2048);signedSquare=Float32Array.from({length:256},(e,s)=>{const r=s>127?s-256:s;return r*Math.abs(r)});order(e){return this.offsets(e.weights),this.sorted(this.depths(e))}offsets(e){const{x:s,y:r,z:i,signedSquare:d}=this;s.fill(0),r.fill(0),i.fill(0);let y=0;for(const{first:l,count:u,shapes:w,offsets:t}of this.data.branches)for(let n=0;n<w;n++,y++)[s,r,i].forEach((f,o)=>{const S=e[16*y+o],g=(3*n+o)*u;for(let h=0;h<u;h++)f[l+h]+=S*d[t[g+h]&255]})}depths(e){const{means:s,corners:r,weights:i,torso:d,eye:y,eyeballs:l}=this.data,{displacement:u,eyes:w}=e,t=C(e.row,e.head),n=C(e.row,e.torso),f=new Float32Array(this.x.length);for(let o=0;o<f.length;o++){let S=s[3*o]+this.x[o],g=s[3*o+1]+this.y[o],h=s[3*o+2]+this.z[o];for(let a=0;a<3;a++){const B=i[3*o+a],U=4*r[3*o+a];S+=B*u[U],g+=B*u[U+1],h+=B*u[U+2]}const T=y[o];if(T>=0){const a=w[T],B=l[3*T],U=l[3*T+1],A=l[3*T+2],E=S-B,m=g-U,x=h-A;S=a[0]*E+a[1]*m+a[2]*x+B,g=a[3]*E+a[4]*m+a[5]*x+U,h=a[6]*E+a[7]*m+a[8]*x+A}const K=t[0]*S+t[1]*g+t[2]*h+t[3],k=n[0]*S+n[1]*g+n[2]*h+n[3];f[o]=K+(k-K)*d[o]}return f}sorted(e){const{keys:s,half:r,counts:i}=this,d=e.length;let y=1/0,l=-1/0;for(let t=0;t<d;t++){const n=e[t];n<y&&(y=n),n>l&&(l=n)}const u=(2048*2048-1)/Math.max(1e-9,l-y);i.fill(0);for(let t=0;t<d;t++){const n=(l-e[t])*u>>>0;s[t]=n,i[n&2047]++,i[2048+(n>>>11)]++}for(let t=0;t<2;t++){let n=0;for(let f=t*2048;f<(t+1)*2048;f++){const o=i[f];i[f]=n,n+=o}}const w=new Uint32Array(d);for(let t=d-1;t>=0;t--)r[i[s[t]&2047]++]=t;for(let t=0;t<d;t++){const n=r[t];w[i[2048+(s[n]>>>11)]++]=n}return w}}function C(c,e){const s=r=>c[0]*e[r]+c[1]*e[4+r]+c[2]*e[8+r];return[s(0),s(1),s(2),s(3)+c[3]]}let p=null;self.onmessage=c=>{if(c.data.data&&(p=new z(c.data.data)),c.data.job&&p){const e=performance.now(),s=p.order(c.data.job);self.postMessage({order:s,ms:performance.now()-e},{transfer:[s.buffer]})}}})();
`, it = typeof self < "u" && self.Blob && new Blob(["(self.URL || self.webkitURL).revokeObjectURL(self.location.href);", yt], { type: "text/javascript;charset=utf-8" });
function re(o) {
  let t;
  try {
    if (t = it && (self.URL || self.webkitURL).createObjectURL(it), !t) throw "";
    const s = new Worker(t, {
      name: o?.name
    });
    return s.addEventListener("error", () => {
      (self.URL || self.webkitURL).revokeObjectURL(t);
    }), s;
  } catch {
    return new Worker(
      "data:text/javascript;charset=utf-8," + encodeURIComponent(yt),
      {
        name: o?.name
      }
    );
  }
}
class xt extends Error {
}
class ne {
  constructor(t, s) {
    this.canvas = t, this.data = s;
    const e = t.getContext("webgl2", {
      antialias: !1,
      depth: !1,
      stencil: !1,
      powerPreference: "high-performance"
    });
    if (!e)
      throw new xt(
        "This browser does not offer WebGL2, which draws the avatar. Use a current browser, or switch on graphics acceleration in its settings."
      );
    this.gl = e;
    const r = ["EXT_color_buffer_float", "EXT_color_buffer_half_float"];
    this.canHalf = r.some((d) => e.getExtension(d) !== null), this.poser = new zt(s), this.rows = Math.ceil(s.count / M);
    const n = new Uint16Array(3 * s.count), i = new Float32Array(3 * s.count);
    for (let d = 0; d < s.count; d++)
      for (let w = 0; w < 3; w++)
        n[3 * d + w] = s.triangles[3 * s.triangle[d] + w], i[3 * d + w] = s.barycentric[3 * d + w] * s.follow[d];
    this.sorting = te(s, n, i), this.programs = {
      pose: G(e, nt, Yt(this.poser.shapes, s.branches.length)),
      splat: G(e, Kt, Zt),
      resolve: G(e, nt, Jt)
    }, this.textures = this.fill(n, i);
    const h = () => this.texture(e.RGBA32UI, M, this.rows), [a, c] = [h(), h()];
    this.posed = { frame: at(e, [a, c]), first: a, second: c }, this.weights = e.createBuffer(), e.bindBuffer(e.UNIFORM_BUFFER, this.weights), e.bufferData(e.UNIFORM_BUFFER, this.poser.shapes * 64, e.DYNAMIC_DRAW);
    const { pose: l } = this.programs;
    e.uniformBlockBinding(l.handle, e.getUniformBlockIndex(l.handle, "Weights"), 0), this.order = this.texture(e.R32UI, M, this.rows), this.empty = e.createVertexArray(), this.quads = e.createVertexArray(), e.bindVertexArray(this.quads);
    const u = [0, 1, 2, 2, 1, 3], p = Uint32Array.from({ length: 6 * s.count }, (d, w) => 4 * (w / 6 | 0) + u[w % 6]);
    e.bindBuffer(e.ELEMENT_ARRAY_BUFFER, e.createBuffer()), e.bufferData(e.ELEMENT_ARRAY_BUFFER, p, e.STATIC_DRAW), e.bindVertexArray(null), this.worker = this.startWorker(), this.sorterKind = this.worker ? "worker" : "page";
  }
  canvas;
  data;
  times = { pose: 0, upload: 0, draw: 0, sort: 0 };
  /** Called when a new order has come and the picture should be drawn again. */
  onOrder = () => {
  };
  sorterKind;
  gl;
  poser;
  sorting;
  sorter = null;
  worker = null;
  busy = !1;
  waiting = null;
  programs;
  posed;
  textures;
  order;
  weights;
  empty;
  quads;
  sum = null;
  /** Blend in half precision where the browser can; 8 bits are half the work of software WebGL. */
  fine = !0;
  canHalf;
  drive = null;
  ordered = !1;
  rows;
  /** Set what is shown; `picture` draws it. */
  pose(t) {
    this.drive = t;
  }
  /** Compute what a state means for shaders and sort. */
  driveOf(t) {
    const s = performance.now(), e = this.poser.drive(t);
    return this.times.pose = performance.now() - s, e;
  }
  /**
   * Draw into the canvas, which takes the camera's size.
   *
   * @param background red, green, blue, alpha in [0, 1].
   * @param sort "now" sorts before drawing, on this thread; "soon" draws in the newest order that the
   *   worker gave and asks it for a newer one, after which `onOrder` is called; "not" asks for none.
   */
  picture(t, s, e = "soon") {
    const { gl: r, drive: n } = this;
    if (!n || r.isContextLost()) return;
    (this.canvas.width !== t.width || this.canvas.height !== t.height) && (this.canvas.width = t.width, this.canvas.height = t.height);
    const i = ee(n, [t.T[8], t.T[9], t.T[10], t.T[11]]);
    e === "now" || !this.ordered || !this.worker && e === "soon" ? this.sortHere(i) : e === "soon" && this.sortThere(i);
    const h = performance.now();
    this.upload(n);
    const a = performance.now();
    this.posePass(n, t), this.splatPass(t, s), this.times.upload = a - h, this.times.draw = performance.now() - a;
  }
  /** Return the canvas's pixels, RGBA from the top row; only in the task that drew it. */
  pixels() {
    const { gl: t, canvas: s } = this, { width: e, height: r } = s, n = new Uint8Array(4 * e * r);
    t.bindFramebuffer(t.FRAMEBUFFER, null), t.readPixels(0, 0, e, r, t.RGBA, t.UNSIGNED_BYTE, n);
    const i = new Uint8Array(n.length);
    for (let h = 0; h < r; h++) {
      const a = n.subarray(4 * e * h, 4 * e * (h + 1));
      i.set(a, 4 * e * (r - 1 - h));
    }
    return i;
  }
  /** Wait until the GPU has drawn all that it was told to. */
  finish() {
    const { gl: t } = this;
    t.bindFramebuffer(t.FRAMEBUFFER, null), t.readPixels(0, 0, 1, 1, t.RGBA, t.UNSIGNED_BYTE, new Uint8Array(4));
  }
  /** End the worker and free the GPU's memory. */
  close() {
    this.worker?.terminate(), this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
  /** End the worker of a context that is lost already. */
  abandon() {
    this.worker?.terminate();
  }
  startWorker() {
    try {
      const t = new re();
      return t.onmessage = (s) => {
        this.busy = !1, this.times.sort = s.data.ms, this.takeOrder(s.data.order), this.onOrder();
        const e = this.waiting;
        this.waiting = null, e && this.sortThere(e);
      }, t.onerror = () => {
        t.terminate(), this.worker = null, this.onOrder();
      }, t.postMessage({ data: this.sorting }), t;
    } catch {
      return null;
    }
  }
  sortThere(t) {
    if (this.busy) {
      this.waiting = t;
      return;
    }
    this.busy = !0, this.worker?.postMessage({ job: t });
  }
  sortHere(t) {
    this.sorter ??= new se(this.sorting);
    const s = performance.now();
    this.takeOrder(this.sorter.order(t)), this.times.sort = performance.now() - s;
  }
  takeOrder(t) {
    const { gl: s } = this, e = new Uint32Array(M * this.rows);
    e.set(t), s.activeTexture(s.TEXTURE0), s.bindTexture(s.TEXTURE_2D, this.order), s.texSubImage2D(
      s.TEXTURE_2D,
      0,
      0,
      0,
      M,
      this.rows,
      s.RED_INTEGER,
      s.UNSIGNED_INT,
      e
    ), this.ordered = !0;
  }
  upload(t) {
    const { gl: s } = this;
    s.bindBuffer(s.UNIFORM_BUFFER, this.weights), s.bufferSubData(s.UNIFORM_BUFFER, 0, t.weights), this.refill(this.textures.lattice, s.RGBA, t.displacement, 4), this.refill(this.textures.growth, s.RED, t.growth, 1);
  }
  /** Overwrite a float texture of WIDTH columns with as many numbers as there are. */
  refill(t, s, e, r) {
    const { gl: n } = this, i = Math.ceil(e.length / r / M), h = new Float32Array(i * M * r);
    h.set(e), n.activeTexture(n.TEXTURE0), n.bindTexture(n.TEXTURE_2D, t), n.texSubImage2D(n.TEXTURE_2D, 0, 0, 0, M, i, s, n.FLOAT, h);
  }
  posePass(t, s) {
    const { gl: e, data: r } = this, { pose: n } = this.programs;
    e.useProgram(n.handle), e.bindFramebuffer(e.FRAMEBUFFER, this.posed.frame), e.drawBuffers([e.COLOR_ATTACHMENT0, e.COLOR_ATTACHMENT1]), e.viewport(0, 0, M, this.rows), e.disable(e.BLEND);
    const { rest: i, bind: h, offsets: a, lattice: c, growth: l } = this.textures;
    this.bind(n, "u_rest", e.TEXTURE_2D_ARRAY, i, 0), this.bind(n, "u_bind", e.TEXTURE_2D, h, 1), this.bind(n, "u_offsets", e.TEXTURE_2D_ARRAY, a, 2), this.bind(n, "u_lattice", e.TEXTURE_2D, c, 3), this.bind(n, "u_growth", e.TEXTURE_2D, l, 4), e.bindBufferBase(e.UNIFORM_BUFFER, 0, this.weights);
    const u = [];
    let p = 0;
    for (const b of r.branches)
      u.push(b.first, b.first + b.count, p, b.shapes), p += b.shapes;
    e.uniform4iv(n.at("u_branches"), u), e.uniform1i(n.at("u_count"), r.count), e.uniform1f(n.at("u_largest"), r.largest);
    const d = (b, U) => e.uniformMatrix3fv(n.at(b), !1, H(U));
    d("u_head", S(t.head)), d("u_torso", S(t.torso)), d("u_camera", S(s.T)), e.uniformMatrix3fv(n.at("u_eyes"), !1, t.eyes.flatMap(H)), e.uniform3f(n.at("u_headAt"), t.head[3], t.head[7], t.head[11]), e.uniform3f(n.at("u_torsoAt"), t.torso[3], t.torso[7], t.torso[11]), e.uniform3f(n.at("u_cameraAt"), s.T[3], s.T[7], s.T[11]), e.uniform3fv(n.at("u_eyeAt"), r.eyeballs), e.uniform4fv(n.at("u_headQuat"), t.headQuat), e.uniform4fv(n.at("u_torsoQuat"), t.torsoQuat), e.uniform4fv(n.at("u_eyeQuat"), t.eyeQuats.flat());
    const [w, m, y, f] = s.K, { width: g, height: R } = s;
    e.uniform4f(n.at("u_lens"), w, m, y, f);
    const x = 0.15 * g / w, E = 0.15 * R / m, A = [-(y / w + x), -(f / m + E)], v = [(g - y) / w + x, (R - f) / m + E];
    e.uniform4f(n.at("u_bounds"), A[0], v[0], A[1], v[1]), e.bindVertexArray(this.empty), e.drawArrays(e.TRIANGLES, 0, 3);
  }
  splatPass(t, s) {
    const { gl: e } = this, { splat: r, resolve: n } = this.programs, { width: i, height: h } = t, a = this.target(i, h);
    e.bindFramebuffer(e.FRAMEBUFFER, a.frame), e.viewport(0, 0, i, h), e.clearColor(0, 0, 0, 0), e.clear(e.COLOR_BUFFER_BIT), e.enable(e.BLEND), e.blendFunc(e.ONE, e.ONE_MINUS_SRC_ALPHA), e.useProgram(r.handle), this.bind(r, "u_first", e.TEXTURE_2D, this.posed.first, 0), this.bind(r, "u_second", e.TEXTURE_2D, this.posed.second, 1), e.uniform2f(r.at("u_size"), i, h), this.bind(r, "u_order", e.TEXTURE_2D, this.order, 2), e.bindVertexArray(this.quads), e.drawElements(e.TRIANGLES, 6 * this.data.count, e.UNSIGNED_INT, 0), e.disable(e.BLEND), e.bindFramebuffer(e.FRAMEBUFFER, null), e.viewport(0, 0, i, h), e.useProgram(n.handle), this.bind(n, "u_sum", e.TEXTURE_2D, a.texture, 0);
    const [c, l, u, p] = s;
    e.uniform4f(n.at("u_background"), c * p, l * p, u * p, p), e.bindVertexArray(this.empty), e.drawArrays(e.TRIANGLES, 0, 3);
  }
  target(t, s) {
    const { gl: e } = this, r = this.fine && this.canHalf ? e.RGBA16F : e.RGBA8, n = this.sum;
    if (n && n.width === t && n.height === s && n.format === r) return n;
    this.sum && (e.deleteFramebuffer(this.sum.frame), e.deleteTexture(this.sum.texture));
    const i = this.texture(r, t, s);
    return this.sum = { frame: at(e, [i]), texture: i, width: t, height: s, format: r }, this.sum;
  }
  bind(t, s, e, r, n) {
    const { gl: i } = this;
    i.activeTexture(i.TEXTURE0 + n), i.bindTexture(e, r), i.uniform1i(t.at(s), n);
  }
  texture(t, s, e, r = 0) {
    const { gl: n } = this, i = r ? n.TEXTURE_2D_ARRAY : n.TEXTURE_2D, h = n.createTexture();
    n.bindTexture(i, h), r ? n.texStorage3D(i, 1, t, s, e, r) : n.texStorage2D(i, 1, t, s, e);
    for (const a of [n.TEXTURE_MIN_FILTER, n.TEXTURE_MAG_FILTER])
      n.texParameteri(i, a, n.NEAREST);
    return h;
  }
  /** Put into textures what does not change. */
  fill(t, s) {
    const { gl: e, data: r, rows: n } = this, i = M * n, h = new Float32Array(20 * i), a = new Uint32Array(4 * i), c = (f) => 1 / (1 + Math.exp(-f));
    for (let f = 0; f < r.count; f++) {
      const g = (R, x, E, A) => {
        const v = 4 * (R * i + f);
        for (let b = 0; b < E; b++) h[v + b] = x[E * f + b];
        A !== void 0 && (h[v + 3] = A);
      };
      g(0, r.means, 3, c(r.opacities[f])), g(1, r.quats, 4), g(2, r.logScales, 3, c(r.torso[f])), g(3, r.colours, 3, r.follow[f]), g(4, s, 3), a[4 * f] = t[3 * f] | t[3 * f + 1] << 16, a[4 * f + 1] = t[3 * f + 2] | r.triangle[f] << 16, a[4 * f + 2] = r.eye[f] + 1;
    }
    const l = this.texture(e.RGBA32F, M, n, 5);
    e.texSubImage3D(
      e.TEXTURE_2D_ARRAY,
      0,
      0,
      0,
      0,
      M,
      n,
      5,
      e.RGBA,
      e.FLOAT,
      h
    );
    const u = this.texture(e.RGBA32UI, M, n);
    e.texSubImage2D(
      e.TEXTURE_2D,
      0,
      0,
      0,
      M,
      n,
      e.RGBA_INTEGER,
      e.UNSIGNED_INT,
      a
    );
    const p = Math.max(...r.branches.map((f) => f.shapes)), d = this.texture(e.RGBA32UI, M, n, p), w = new Int8Array(16 * i), m = new Uint32Array(w.buffer);
    for (let f = 0; f < p; f++) {
      w.fill(0);
      for (const { first: g, count: R, shapes: x, offsets: E } of r.branches)
        if (!(f >= x))
          for (let A = 0; A < 13; A++) {
            const v = (f * 13 + A) * R;
            for (let b = 0; b < R; b++) w[16 * (g + b) + A] = E[v + b];
          }
      e.texSubImage3D(
        e.TEXTURE_2D_ARRAY,
        0,
        0,
        0,
        f,
        M,
        n,
        1,
        e.RGBA_INTEGER,
        e.UNSIGNED_INT,
        m
      );
    }
    const y = (f) => Math.ceil(f / M);
    return {
      rest: l,
      bind: u,
      offsets: d,
      lattice: this.texture(e.RGBA32F, M, y(r.lattice.length / 3)),
      growth: this.texture(e.R32F, M, y(r.triangles.length / 3))
    };
  }
}
class oe {
  constructor(t, s) {
    this.gl = t, this.handle = s;
  }
  gl;
  handle;
  places = /* @__PURE__ */ new Map();
  at(t) {
    let s = this.places.get(t);
    return s === void 0 && (s = this.gl.getUniformLocation(this.handle, t), this.places.set(t, s)), s;
  }
}
function G(o, t, s) {
  const e = o.createProgram();
  for (const [r, n] of [[o.VERTEX_SHADER, t], [o.FRAGMENT_SHADER, s]]) {
    const i = o.createShader(r);
    if (o.shaderSource(i, n), o.compileShader(i), o.attachShader(e, i), !o.getShaderParameter(i, o.COMPILE_STATUS) && !o.isContextLost())
      throw new Error(`The graphics driver refuses a shader: ${o.getShaderInfoLog(i)}`);
  }
  if (o.linkProgram(e), !o.getProgramParameter(e, o.LINK_STATUS) && !o.isContextLost())
    throw new Error(`The graphics driver refuses the shaders: ${o.getProgramInfoLog(e)}`);
  return new oe(o, e);
}
function at(o, t) {
  const s = o.createFramebuffer();
  return o.bindFramebuffer(o.FRAMEBUFFER, s), t.forEach((e, r) => {
    o.framebufferTexture2D(
      o.FRAMEBUFFER,
      o.COLOR_ATTACHMENT0 + r,
      o.TEXTURE_2D,
      e,
      0
    );
  }), s;
}
const ht = 50, ie = 20;
class ae extends HTMLElement {
  static observedAttributes = ["src", "background", "idle"];
  /** Resolves once the avatar is shown; rejects with a sentence where it cannot be. */
  ready;
  data = null;
  camera;
  clips = [];
  /** Red, green, blue, alpha in [0, 1] behind the avatar. */
  background = [1, 1, 1, 1];
  renderer = null;
  canvas = document.createElement("canvas");
  message = document.createElement("p");
  player = new Vt(() => this.changed());
  listeners = /* @__PURE__ */ new Map();
  look;
  idling;
  controls = ct();
  exact = null;
  idle = !1;
  microphone = null;
  /** Grows with every wish about the microphone: one that was overtaken while it opened is closed. */
  wish = 0;
  listening = new AbortController();
  watcher = new ResizeObserver(() => this.touch());
  dirty = !0;
  reordered = !1;
  scale = 1;
  frames = [];
  last = 0;
  request = 0;
  settle;
  constructor() {
    super(), this.ready = new Promise((r, n) => this.settle = { resolve: r, reject: n }), this.ready.catch(() => {
    });
    const t = this.attachShadow({ mode: "open" }), s = { display: "block", position: "relative", overflow: "hidden" };
    Object.assign(this.canvas.style, {
      position: "absolute",
      inset: "0",
      width: "100%",
      height: "100%",
      touchAction: "none"
    }), Object.assign(this.message.style, {
      position: "absolute",
      inset: "auto 10%",
      top: "40%",
      textAlign: "center",
      margin: "0",
      font: "16px/1.5 system-ui, sans-serif"
    });
    const e = document.createElement("div");
    Object.assign(e.style, { ...s, width: "100%", height: "100%", minHeight: "inherit" }), e.append(this.canvas, this.message), t.append(e), this.message.setAttribute("role", "status"), this.canvas.addEventListener("webglcontextlost", (r) => {
      r.preventDefault(), this.renderer?.abandon(), this.renderer = null, this.say("The graphics driver was reset; the avatar comes back as soon as it does.");
    }), this.canvas.addEventListener("webglcontextrestored", () => this.start());
  }
  connectedCallback() {
    this.style.display || (this.style.display = "block"), this.watcher.observe(this), cancelAnimationFrame(this.request), this.request = requestAnimationFrame(this.tick);
  }
  disconnectedCallback() {
    cancelAnimationFrame(this.request), this.watcher.disconnect(), this.pause(), this.stopMicrophone();
  }
  attributeChangedCallback(t, s, e) {
    t === "src" && e && this.fetchFrom(e), t === "background" && e && this.setBackground(e), t === "idle" && this.setIdle(e !== null);
  }
  // --- loading
  /** Show an avatar from its bytes, as they are in a .bin file. */
  async load(t) {
    try {
      const s = await vt(t);
      if (this.data = s, this.clips = s.clips, this.look = new pt(s.names, s.look), this.idling = new St(s.names), this.camera = new Wt(s), this.camera.onChange = () => this.touch(), this.listening.abort(), this.listening = new AbortController(), this.camera.listen(this.canvas, this.listening.signal), this.renderer?.abandon(), this.start(), !this.renderer) return;
      this.settle.resolve(this), this.emit("ready", s);
    } catch (s) {
      this.fail(s);
    }
  }
  async fetchFrom(t) {
    this.say("Loading the avatar…");
    try {
      const s = await fetch(t);
      if (!s.ok) throw new Error(`${t} cannot be loaded (status ${s.status}).`);
      const e = new Uint8Array(await s.arrayBuffer());
      if (e[0] !== 60) return await this.load(e);
      const r = new TextDecoder().decode(e), i = new DOMParser().parseFromString(r, "text/html").getElementById("avatar-data")?.textContent;
      if (!i) throw new Error(`${t} is a web page without an avatar.`);
      return await this.load(At(i));
    } catch (s) {
      this.fail(s);
    }
  }
  start() {
    if (this.data)
      try {
        this.renderer = new ne(this.canvas, this.data), this.renderer.onOrder = () => this.reordered = !0, this.say(""), this.touch();
      } catch (t) {
        this.fail(t);
      }
  }
  fail(t) {
    this.say(t.message), this.setAttribute("data-failed", t instanceof xt ? "webgl" : "data"), this.settle.reject(t), this.emit("error", t);
  }
  say(t) {
    this.message.textContent = t;
  }
  // --- what it shows
  /** Set coefficients by their ARKit names, 0 to 1; those not named stay as they are. */
  setExpression(t) {
    const s = this.need().names;
    for (const [e, r] of Object.entries(t)) {
      const n = s.indexOf(e);
      if (n < 0 || n >= T) throw new Error(`'${e}' is none of the 52 ARKit coefficients.`);
      if (!Number.isFinite(r)) throw new Error(`'${e}' must be a number; got ${r}.`);
      this.controls.weights[n] = Math.min(1, Math.max(0, r));
    }
    this.changed();
  }
  /** What `setExpression` set, by name; zeros left out. */
  getExpression() {
    const t = {};
    return this.need().names.slice(0, T).forEach((s, e) => {
      this.controls.weights[e] && (t[s] = Number(this.controls.weights[e].toPrecision(7)));
    }), t;
  }
  /** Put all coefficients to 0, then set those given. */
  resetExpression(t = {}) {
    this.controls.weights.fill(0), this.setExpression(t);
  }
  /** Turn the head from rest (or on top of the clip), degrees: yaw to the subject's left, pitch up. */
  setHead(t) {
    Object.assign(this.controls.head, lt(t)), this.changed();
  }
  /** Turn the eyes, degrees: yaw to the subject's left, pitch up. */
  setGaze(t) {
    Object.assign(this.controls.gaze, lt(t)), this.changed();
  }
  get pose() {
    return { head: { ...this.controls.head }, gaze: { ...this.controls.gaze } };
  }
  /** Show exactly this state, whatever else is set; null ends it. */
  setState(t) {
    this.exact = t, this.touch();
  }
  /** Blink, breathe and sway a little while no clip plays. */
  setIdle(t) {
    this.idle = t, this.changed();
  }
  get idles() {
    return this.idle;
  }
  /** Any CSS colour, or "transparent". */
  setBackground(t) {
    const s = document.createElement("canvas").getContext("2d");
    s.fillStyle = t, s.fillRect(0, 0, 1, 1), this.background = Array.from(s.getImageData(0, 0, 1, 1).data, (e) => e / 255), this.changed();
  }
  // --- clips
  /** Play a clip (its name or place), or go on with the one that was paused. */
  play(t) {
    const s = typeof t == "string" ? this.clips.findIndex((r) => r.name === t) : t, e = s === void 0 ? this.player.clip ?? this.clips[0] : this.clips[s];
    if (!e) throw new Error(`There is no clip '${t ?? ""}'. It has: ${this.clips.map((r) => r.name)}.`);
    this.player.play(e);
  }
  pause() {
    this.player.pause();
  }
  /** Leave the clip, back to rest. */
  stop() {
    this.player.stop();
  }
  /** Go to a time of the clip, seconds. */
  seek(t) {
    this.player.seek(t);
  }
  get currentTime() {
    return this.player.time;
  }
  get duration() {
    return this.player.duration;
  }
  get currentClip() {
    return this.player.clip?.name ?? null;
  }
  get isPlaying() {
    return this.player.playing;
  }
  set muted(t) {
    this.player.audio.muted = t;
  }
  get muted() {
    return this.player.audio.muted;
  }
  /** Add the motion of an ARKit CSV file and return its name; throws a sentence on a bad file. */
  async addCsv(t) {
    const s = await Ot(t, this.need()), e = new Set(this.clips.map((n) => n.name)), r = s.name;
    for (let n = 2; e.has(s.name); n++) s.name = `${r} (${n})`;
    return this.clips.push(s), this.changed(), s.name;
  }
  /** Move the mouth by what the microphone hears: a rough guess without training. */
  async followMicrophone() {
    this.stopMicrophone();
    const t = this.wish, s = await Q.open(this.need().names);
    if (t !== this.wish) return s.close();
    this.microphone = s, this.changed();
  }
  stopMicrophone() {
    this.wish += 1, this.microphone?.close(), this.microphone = null, this.changed();
  }
  get followsMicrophone() {
    return this.microphone !== null;
  }
  // --- pictures
  /** The picture as it is now, PNG. */
  screenshot() {
    const { width: t, height: s } = this.canvas;
    return this.capture({ width: t, height: s }), new Promise((e, r) => {
      this.canvas.toBlob((n) => n ? e(n) : r(new Error("No picture.")), "image/png");
    });
  }
  /** Draw a state from a camera, sorted anew, and return its pixels RGBA from the top row. */
  capture(t = {}) {
    const s = this.renderer;
    if (!s) throw new Error("There is no avatar to draw.");
    const e = t.width ?? this.canvas.width, r = t.height ?? this.canvas.height, n = t.camera ?? this.camera.camera(e, r);
    return s.fine = !0, s.pose(s.driveOf(t.state ?? this.state(0))), s.picture(n, this.background, "now"), this.dirty = !0, { width: n.width, height: n.height, pixels: s.pixels() };
  }
  /** Draw many pictures of random expressions, each waited for; medians in milliseconds. */
  async measure(t, s, e) {
    cancelAnimationFrame(this.request);
    const r = this.camera.camera(s, e), n = await Xt(this.renderer, () => this.state(0), r, t);
    return this.request = requestAnimationFrame(this.tick), this.dirty = !0, n;
  }
  // --- events
  on(t, s) {
    const e = this.listeners.get(t) ?? /* @__PURE__ */ new Set();
    return this.listeners.set(t, e), e.add(s), () => e.delete(s);
  }
  emit(t, s) {
    this.listeners.get(t)?.forEach((e) => e(s));
  }
  // --- inside
  need() {
    if (!this.data) throw new Error("The avatar is not loaded yet; wait for `ready`.");
    return this.data;
  }
  touch() {
    this.dirty = !0;
  }
  changed() {
    this.touch(), this.emit("change", null);
  }
  state(t) {
    if (this.exact) return this.exact;
    const s = this.need(), e = s.look, { clip: r, time: n } = this.player;
    let i = r ? Lt(r, n) : Ut(s, this.look);
    if (this.idle && !r) {
      const { controls: h, rise: a } = this.idling.at(t / 1e3);
      i = P(i, h, this.look, e);
      for (const c of [i.head = i.head.slice(), i.torso = i.torso.slice()])
        s.view.up.forEach((l, u) => c[4 * u + 3] += a * l);
    }
    return this.microphone && (this.microphone.listen(), i = P(i, { ...ct(), weights: this.microphone.weights }, this.look, e)), P(i, this.controls, this.look, e);
  }
  tick = (t) => {
    this.request = requestAnimationFrame(this.tick);
    const s = t - this.last;
    if (this.last = t, !this.renderer || !this.data) return;
    this.player.advance(Math.min(s, 250) / 1e3);
    const { clip: e, playing: r, time: n, duration: i } = this.player, h = r || this.idle && !e || this.microphone !== null;
    if (h && (this.dirty = !0), this.adapt(h || this.dirty, s), !this.dirty && !this.reordered) return;
    const [a, c] = this.size();
    if (a === 0 || c === 0) return;
    const { renderer: l, dirty: u } = this;
    if (this.dirty = this.reordered = !1, l.fine = this.scale === 1, u && l.pose(l.driveOf(this.state(t))), l.picture(this.camera.camera(a, c), this.background, u ? "soon" : "not"), !!u) {
      for (this.frames.push(t); this.frames[0] < t - 1e3; ) this.frames.shift();
      this.emit("frame", {
        time: n,
        duration: i,
        clip: this.currentClip,
        playing: r,
        stats: this.stats()
      });
    }
  };
  /** Fewer pixels while it moves too slowly, all of them when it is still. */
  adapt(t, s) {
    if (!t) {
      this.scale < 1 && performance.now() - (this.frames.at(-1) ?? 0) > 250 && (this.scale = 1, this.dirty = !0);
      return;
    }
    const e = Math.max(0.75, Math.sqrt(ht / s));
    s > ht && s < 3e3 ? this.scale = Math.max(0.4, this.scale * e) : s < ie && (this.scale = Math.min(1, this.scale * 1.01));
  }
  size() {
    const t = this.getBoundingClientRect(), s = Math.min(2, window.devicePixelRatio || 1) * (Math.round(this.scale * 10) / 10);
    return [Math.round(t.width * s), Math.round(t.height * s)];
  }
  stats() {
    const { times: t, sorterKind: s } = this.renderer, e = this.frames.length > 1 ? this.frames.at(-1) - this.frames[0] : 0;
    return {
      ...t,
      fps: e > 0 ? (this.frames.length - 1) * 1e3 / e : 0,
      width: this.canvas.width,
      height: this.canvas.height,
      gaussians: this.data.count,
      sorter: s
    };
  }
}
function ct() {
  return {
    weights: new Float32Array(T),
    gaze: { yaw: 0, pitch: 0 },
    head: { yaw: 0, pitch: 0, roll: 0 }
  };
}
function lt(o) {
  for (const [t, s] of Object.entries(o))
    if (!["yaw", "pitch", "roll"].includes(t) || !Number.isFinite(s))
      throw new Error(`An angle is yaw, pitch or roll in degrees; got ${t} ${s}.`);
  return o;
}
customElements.get("avatar-head") || customElements.define("avatar-head", ae);
export {
  ae as AvatarHead
};
