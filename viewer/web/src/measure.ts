// How long pictures take: for `bench_web` of avatar/export/web_bench.py.
import { ARKIT, type HeadState } from "./pose";
import type { Camera, Renderer } from "./renderer";

/** Draw pictures of random expressions, each waited for, and return medians in milliseconds. */
export async function measured(
  renderer: Renderer, rest: () => HeadState, camera: Camera, count: number,
): Promise<Record<string, number>> {
  const rows: number[][] = [];
  const sorts: number[] = [];
  renderer.fine = true;
  for (let i = 0; i < count; i++) {
    const state = rest();
    for (let k = 0; k < ARKIT; k++) state.expression[k] = Math.random() * 0.5;
    const began = performance.now();
    renderer.pose(renderer.driveOf(state));
    renderer.picture(camera, [1, 1, 1, 1]);
    const told = performance.now();
    renderer.finish();
    const drawn = performance.now();
    const { pose, upload } = renderer.times;
    rows.push([pose, upload, told - began, drawn - told, drawn - began]);
    // The worker's answer comes in between.
    await new Promise((resolve) => setTimeout(resolve, 20));
    sorts.push(renderer.times.sort);
  }
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
  const at = (column: number) => median(rows.map((row) => row[column]!));
  return {
    pose_ms: at(0), upload_ms: at(1), page_ms: at(2), draw_ms: at(3), picture_ms: at(4),
    sort_ms: median(sorts.slice(count >> 2)), frames_per_s: 1000 / at(4),
  };
}
