// The camera that goes round the head, and the fingers and mice that move it.
import type { AvatarData } from "./format";
import { type Vec3, apply3, multiply3, rotationOf, rotvecToMatrix } from "./maths";
import type { Camera } from "./renderer";
import { DEGREE } from "./state";

const ZOOM: [number, number] = [0.4, 12];

export class Orbit {
  /** Degrees round the head to the subject's left, and up. */
  yaw = 0;
  pitch = 0;
  /** 1 shows head and shoulders. */
  zoom = 1;
  /** Shift of the picture, in heights of it. */
  pan: [number, number] = [0, 0];
  /** A camera to use as it is, instead of all of these. */
  fixed: Camera | null = null;
  onChange: () => void = () => {};

  constructor(private readonly data: AvatarData) {}

  /** Set some of yaw, pitch, zoom. */
  set(wanted: { yaw?: number; pitch?: number; zoom?: number }): void {
    this.yaw = ((((wanted.yaw ?? this.yaw) + 180) % 360) + 360) % 360 - 180;
    this.pitch = Math.max(-85, Math.min(85, wanted.pitch ?? this.pitch));
    this.zoom = Math.max(ZOOM[0], Math.min(ZOOM[1], wanted.zoom ?? this.zoom));
    this.onChange();
  }

  reset(): void {
    this.pan = [0, 0];
    this.fixed = null;
    this.set({ yaw: 0, pitch: 0, zoom: 1 });
  }

  /** Zoom so that what lies under a point of the picture stays there; in heights, from its middle. */
  zoomAt(x: number, y: number, factor: number): void {
    const before = this.zoom;
    this.set({ zoom: before * factor });
    const ratio = this.zoom / before;
    this.pan = [x - (x - this.pan[0]) * ratio, y - (y - this.pan[1]) * ratio];
  }

  /** avatar.model.views.front_camera, zoomed and shifted. */
  camera(width: number, height: number): Camera {
    if (this.fixed) return { ...this.fixed, ...fittedLens(this.fixed, width, height), width, height };
    const { distance, shown, bottom, narrowest, up } = this.data.view;
    const head = this.data.rest.head;
    const turn = multiply3(
      rotvecToMatrix([0, this.yaw * DEGREE, 0]), rotvecToMatrix([-this.pitch * DEGREE, 0, 0]),
    );
    const outward = apply3(multiply3(rotationOf(head), turn), [0, 0, 1]);
    const eye = [3, 7, 11].map((i, k) => head[i]! + distance * outward[k]!);
    const z = outward.map((value) => -value) as Vec3;
    const x = unit(cross(z, up as Vec3));
    const y = cross(z, x);
    const R = [...x, ...y, ...z];
    const t = apply3(R, eye).map((value) => -value);
    const T = [0, 1, 2].flatMap((i) => [R[3 * i]!, R[3 * i + 1]!, R[3 * i + 2]!, t[i]!]);
    const focal = Math.min((height * distance) / shown, (width * distance) / narrowest);
    const row = height + (focal * bottom) / distance;
    const cx = width / 2 + this.pan[0] * height;
    const cy = height / 2 + (row - height / 2) * this.zoom + this.pan[1] * height;
    const f = focal * this.zoom;
    return { K: [f, f, cx, cy], T: [...T, 0, 0, 0, 1], width, height };
  }

  /** Let mouse, pen and fingers on an element move the camera. */
  listen(element: HTMLElement, signal: AbortSignal): void {
    const held = new Map<number, { x: number; y: number }>();
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    }, { signal });
    for (const kind of ["pointerup", "pointercancel"] as const) {
      element.addEventListener(kind, (event) => held.delete(event.pointerId), { signal });
    }
    element.addEventListener("pointermove", (event) => {
      const last = held.get(event.pointerId);
      if (!last) return;
      const now = { x: event.clientX, y: event.clientY };
      const box = element.getBoundingClientRect();
      const step = [(now.x - last.x) / box.height, (now.y - last.y) / box.height] as const;
      const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const spread = (p: { x: number; y: number }) => Math.hypot(p.x - other.x, p.y - other.y);
        const middle = [(now.x + other.x) / 2, (now.y + other.y) / 2] as const;
        this.pan = [this.pan[0] + step[0] / 2, this.pan[1] + step[1] / 2];
        this.zoomAt(...within(middle[0], middle[1], box), spread(now) / Math.max(1, spread(last)));
      } else if (event.buttons & 2 || event.shiftKey) {
        this.pan = [this.pan[0] + step[0], this.pan[1] + step[1]];
      } else {
        this.set({ yaw: this.yaw - 180 * step[0], pitch: this.pitch + 120 * step[1] });
      }
      held.set(event.pointerId, now);
      this.onChange();
    }, { signal });
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      const place = within(event.clientX, event.clientY, element.getBoundingClientRect());
      this.zoomAt(...place, Math.exp(-0.0015 * lines * event.deltaY));
      this.onChange();
    }, { passive: false, signal });
    element.addEventListener("dblclick", () => this.reset(), { signal });
    element.addEventListener("contextmenu", (event) => event.preventDefault(), { signal });
  }
}

/** A place in the window in heights of a box, from its middle. */
function within(x: number, y: number, box: DOMRect): [number, number] {
  return [(x - box.left - box.width / 2) / box.height, (y - box.top - box.height / 2) / box.height];
}

/** A camera's lens for a picture of another size: whole, centred, not stretched. */
export function fittedLens(camera: Camera, width: number, height: number): { K: number[] } {
  const scale = Math.min(width / camera.width, height / camera.height);
  const [fx, fy, cx, cy] = camera.K.map((value) => value * scale) as [number, number, number, number];
  const [left, top] = [(width - scale * camera.width) / 2, (height - scale * camera.height) / 2];
  return { K: [fx, fy, cx + left, cy + top] };
}

function cross(a: Vec3, b: Vec3): Vec3 {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

function unit(v: Vec3): Vec3 {
  const length = Math.hypot(...v) || 1;
  return [v[0] / length, v[1] / length, v[2] / length];
}
