// Keys and dropped files.
import type { AvatarHead } from "./element";
import type { Panels } from "./panels";

export const KEYS: [string, string][] = [
  ["Space", "play, pause"],
  ["← →", "a second back, forward"],
  ["1 … 9", "play that motion"],
  ["0", "back to rest"],
  ["R", "reset the expression"],
  ["X", "random expression"],
  ["I", "idle: blink and breathe"],
  ["M", "follow the microphone"],
  ["C", "reset the camera"],
  ["S", "screenshot"],
  ["P", "show, hide the panel"],
  ["T", "statistics"],
  ["/", "search the sliders"],
  ["?", "this list"],
];

export function listenForKeys(avatar: AvatarHead, panels: Panels): void {
  window.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return panels.closeHelp();
    const field = target.matches("input:not([type=range]):not([type=checkbox]):not([type=color]), select");
    if (field || (target.matches("input[type=range]") && event.key.startsWith("Arrow"))) return;
    if (target.matches("button") && (event.key === " " || event.key === "Enter")) return;
    const actions: Record<string, () => void> = {
      " ": () => panels.togglePlay(),
      ArrowLeft: () => avatar.seek(avatar.currentTime - 1),
      ArrowRight: () => avatar.seek(avatar.currentTime + 1),
      "0": () => avatar.stop(),
      r: () => avatar.resetExpression(),
      x: () => panels.random(),
      i: () => avatar.setIdle(!avatar.idles),
      m: () => void panels.toggleMicrophone(),
      c: () => avatar.camera.reset(),
      s: () => void panels.screenshot(),
      p: () => panels.toggle(),
      t: () => panels.toggleStats(),
      "/": () => panels.search(),
      "?": () => panels.help(),
    };
    const clip = Number(event.key) - 1;
    const action =
      actions[event.key.length === 1 ? event.key.toLowerCase() : event.key] ??
      (clip >= 0 && clip < avatar.clips.length ? () => avatar.play(clip) : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

export function listenForDrops(app: HTMLElement, avatar: AvatarHead, panels: Panels): void {
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    app.classList.add("dropping");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) app.classList.remove("dropping");
  });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    app.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file) void takeFile(file, avatar, panels);
  });
}

export async function takeFile(file: File, avatar: AvatarHead, panels: Panels): Promise<void> {
  try {
    avatar.play(await avatar.addCsv(file));
    panels.say("");
  } catch (error) {
    panels.say((error as Error).message);
  }
}
