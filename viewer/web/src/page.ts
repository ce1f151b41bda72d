// The one-file page: the element with panels around it.
import { AvatarHead, type FrameEvent } from "./element";
import { fromBase64 } from "./format";
import { Panels } from "./panels";
import { listenForDrops, listenForKeys } from "./input";

declare global {
  interface Window {
    /** The page's avatar, for the console and for scripts. */
    avatar: AvatarHead;
  }
}

customElements.define("avatar-head", AvatarHead);

async function main(): Promise<void> {
  const app = document.getElementById("app")!;
  const avatar = document.createElement("avatar-head") as AvatarHead;
  window.avatar = avatar;
  app.append(avatar);
  const holder = document.getElementById("avatar-data")!;
  const packed = fromBase64(holder.textContent ?? "");
  holder.remove(); // a third more than its bytes, no longer needed
  await avatar.load(packed);
  if (!avatar.data || avatar.hasAttribute("data-failed")) return;
  const panels = new Panels(app, avatar);
  avatar.on("frame", (event: FrameEvent) => panels.frame(event));
  avatar.on("change", () => panels.refresh());
  listenForKeys(avatar, panels);
  listenForDrops(app, avatar, panels);
  panels.refresh();
}

void main();
