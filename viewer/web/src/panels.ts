// The panel, the bar of playback, the statistics and the help of the page.
import type { AvatarHead, FrameEvent } from "./element";
import { KEYS, takeFile } from "./input";
import { ARKIT } from "./pose";

/** Reach of the sliders, degrees, as the desk's viewer has them. */
const REACH: Record<string, number> = {
  "Gaze yaw": 30, "Gaze pitch": 25, "Head yaw": 40, "Head pitch": 25, "Head roll": 25,
};

const VIEWS: [string, number, number][] = [
  ["Front", 0, 0], ["Left", 40, 0], ["Right", -40, 0], ["Three-quarter", 25, 12],
];

type Child = Node | string;

/** An element with attributes and children; texts become text nodes, never markup. */
function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Record<string, string> = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(text: string, action: () => void, title = ""): HTMLButtonElement {
  const made = make("button", { type: "button", ...(title && { title }) }, text);
  made.addEventListener("click", action);
  return made;
}

function range(label: string, low: number, high: number, step: number): HTMLInputElement {
  return make("input", {
    type: "range", min: `${low}`, max: `${high}`, step: `${step}`, value: "0", "aria-label": label,
  });
}

export class Panels {
  private readonly panel = make("aside", { id: "panel" });
  private readonly bar = make("footer", { id: "bar" });
  private readonly statistics = make("pre", { id: "stats", hidden: "" });
  private readonly helpBox = make("dialog", { id: "help" });
  private readonly notice = make("p", { id: "notice", role: "alert", hidden: "" });
  private readonly sliders: [string, HTMLInputElement, HTMLOutputElement][] = [];
  private readonly angles = new Map<string, [HTMLInputElement, HTMLOutputElement]>();
  private readonly find = make("input", { type: "search", placeholder: "Search sliders", "aria-label": "Search sliders" });
  private readonly playButton = button("▶", () => this.togglePlay(), "Play or pause (space)");
  private readonly seekBar = range("Time", 0, 1, 0.01);
  private readonly clock = make("output", { class: "clock" });
  private readonly clipList = make("select", { "aria-label": "Motion" });
  private readonly idleBox = make("input", { type: "checkbox", id: "idle" });
  private readonly microphoneBox = make("input", { type: "checkbox", id: "microphone" });
  private readonly muteButton = button("Mute", () => this.toggleSound(), "Sound on or off");

  constructor(private readonly app: HTMLElement, private readonly avatar: AvatarHead) {
    const data = avatar.data!;
    const tabs: [string, Node][] = [
      ["Expression", this.expression()],
      ["Gaze and head", this.gazeAndHead()],
      ["Motion", this.motion()],
      ["Look", this.looks()],
      ["About", this.about()],
    ];
    const heads = make("nav", { role: "tablist" });
    tabs.forEach(([name, body], index) => {
      const page = make("section", { role: "tabpanel", "aria-label": name }, body);
      const head = make("button", { type: "button", role: "tab" }, name);
      const show = () => {
        heads.childNodes.forEach((h) => (h as HTMLElement).setAttribute("aria-selected", String(h === head)));
        this.panel.querySelectorAll("section").forEach((s) => (s.hidden = s !== page));
      };
      head.addEventListener("click", show);
      heads.append(head);
      this.panel.append(page);
      if (index === 0) queueMicrotask(show);
    });
    this.panel.prepend(make("h1", {}, data.title || "Avatar"), heads);
    this.fillBar();
    this.fillHelp();
    const corner = make("div", { id: "corner" },
      button("☰", () => this.toggle(), "Show or hide the panel (P)"),
      button("?", () => this.help(), "Keyboard shortcuts (?)"));
    this.notice.addEventListener("click", () => this.say(""));
    app.append(this.panel, this.bar, corner, this.statistics, this.notice, this.helpBox);
    // On a phone the face comes first.
    if (!matchMedia("(max-width: 700px)").matches) this.toggle();
  }

  // --- building

  private expression(): Node {
    const { groups, names, high } = this.avatar.data!;
    const box = make("div", {},
      make("div", { class: "row" }, this.find,
        button("Reset", () => this.avatar.resetExpression(), "R"), button("Random", () => this.random(), "X")));
    for (const [group, members] of groups) {
      const folder = make("details", {}, make("summary", {}, group[0]!.toUpperCase() + group.slice(1)));
      folder.open = group === "jaw" || group === "mouth";
      for (const name of members) {
        const seen = Math.min(1, Math.max(0, high[names.indexOf(name)]!)).toFixed(2);
        const slider = range(name, 0, 1, 0.01);
        const value = make("output", {}, "0.00");
        slider.addEventListener("input", () => this.avatar.setExpression({ [name]: Number(slider.value) }));
        const title = `The clip showed up to ${seen}; beyond is a guess.`;
        folder.append(make("label", { "data-name": name, title }, make("span", {}, name), slider, value));
        this.sliders.push([name, slider, value]);
      }
      box.append(folder);
    }
    this.find.addEventListener("input", () => this.filter());
    return box;
  }

  private filter(): void {
    const wanted = this.find.value.trim().toLowerCase();
    this.panel.querySelectorAll("details").forEach((folder) => {
      const labels = [...folder.querySelectorAll("label")];
      const inGroup = folder.querySelector("summary")!.textContent!.toLowerCase().includes(wanted);
      labels.forEach((l) => (l.hidden = !inGroup && !l.dataset.name!.toLowerCase().includes(wanted)));
      folder.hidden = labels.every((l) => l.hidden);
      if (wanted) folder.open = !folder.hidden;
    });
  }

  private gazeAndHead(): Node {
    const box = make("div", {}, make("p", { class: "note" }, "Degrees from the pose at rest, or on top of a motion."));
    for (const [name, reach] of Object.entries(REACH)) {
      const slider = range(name, -reach, reach, 0.5);
      const value = make("output", {}, "0");
      slider.addEventListener("input", () => this.turn());
      box.append(make("label", {}, make("span", {}, name), slider, value));
      this.angles.set(name, [slider, value]);
    }
    box.append(button("Straight ahead", () => {
      this.avatar.setHead({ yaw: 0, pitch: 0, roll: 0 });
      this.avatar.setGaze({ yaw: 0, pitch: 0 });
    }));
    return box;
  }

  private turn(): void {
    const at = (name: string) => Number(this.angles.get(name)![0].value);
    this.avatar.setGaze({ yaw: at("Gaze yaw"), pitch: at("Gaze pitch") });
    this.avatar.setHead({ yaw: at("Head yaw"), pitch: at("Head pitch"), roll: at("Head roll") });
  }

  private motion(): Node {
    this.idleBox.addEventListener("change", () => this.avatar.setIdle(this.idleBox.checked));
    this.microphoneBox.addEventListener("change", () => void this.toggleMicrophone());
    this.clipList.addEventListener("change", () => {
      if (this.clipList.value) this.avatar.play(this.clipList.value);
      else this.avatar.stop();
    });
    const file = make("input", { type: "file", accept: ".csv,text/csv", "aria-label": "ARKit CSV file" });
    file.addEventListener("change", () => {
      if (file.files?.[0]) void takeFile(file.files[0], this.avatar, this);
    });
    return make("div", {},
      make("label", {}, make("span", {}, "Motion"), this.clipList),
      make("label", { class: "check" }, this.idleBox, "Idle: blink and breathe"),
      make("label", { class: "check" }, this.microphoneBox, "Follow my microphone (approximate)"),
      make("p", { class: "note" },
        "The mouth follows loudness and the rough colour of the sound; it does not know words. Nothing is sent anywhere."),
      make("p", {}, "Drop a CSV of ARKit coefficients on the page, as the Live Link Face app records it, or choose one:"),
      file);
  }

  private looks(): Node {
    const colour = make("input", { type: "color", value: "#ffffff", "aria-label": "Background" });
    colour.addEventListener("input", () => this.avatar.setBackground(colour.value));
    const views = make("div", { class: "row" });
    for (const [name, yaw, pitch] of VIEWS) {
      views.append(button(name, () => {
        this.avatar.camera.reset();
        this.avatar.camera.set({ yaw, pitch });
      }));
    }
    views.append(button("As filmed", () => {
      this.avatar.camera.reset();
      this.avatar.camera.fixed = this.avatar.data!.camera;
      this.avatar.camera.onChange();
    }));
    return make("div", {},
      make("label", {}, make("span", {}, "Background"), colour),
      make("div", { class: "row" },
        button("White", () => this.avatar.setBackground((colour.value = "#ffffff"))),
        button("Black", () => this.avatar.setBackground((colour.value = "#000000"))),
        button("None", () => this.avatar.setBackground("transparent"), "Transparent, also in screenshots")),
      make("p", { class: "note" }, "Drag to go round, wheel or pinch to zoom, right button or two fingers to shift, double click to reset."),
      views,
      make("div", { class: "row" },
        button("Screenshot", () => void this.screenshot(), "S"),
        button("Statistics", () => this.toggleStats(), "T")));
  }

  private about(): Node {
    const list = make("dl");
    for (const [label, text] of this.avatar.data!.facts) list.append(make("dt", {}, label), make("dd", {}, text));
    return make("div", {}, list,
      make("p", { class: "note" }, "A computer-made likeness. This page is one file: it works offline and sends nothing."));
  }

  private fillBar(): void {
    this.seekBar.addEventListener("input", () => this.avatar.seek(Number(this.seekBar.value)));
    this.bar.append(this.playButton, this.seekBar, this.clock, this.muteButton);
  }

  private fillHelp(): void {
    const table = make("table");
    for (const [key, what] of KEYS) {
      table.append(make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, what)));
    }
    this.helpBox.append(make("h2", {}, "Keyboard shortcuts"), table, button("Close", () => this.closeHelp()));
  }

  // --- what keys and buttons do

  togglePlay(): void {
    if (this.avatar.clips.length === 0) return this.say("There is no motion in this page. Drop a CSV file on it.");
    if (this.avatar.isPlaying) this.avatar.pause();
    else this.avatar.play();
  }

  private toggleSound(): void {
    this.avatar.muted = !this.avatar.muted;
    this.muteButton.textContent = this.avatar.muted ? "Unmute" : "Mute";
  }

  random(): void {
    const { names, high } = this.avatar.data!;
    const chosen: Record<string, number> = {};
    names.slice(0, ARKIT).forEach((name, i) => {
      // About a third of them, up to what the clip showed.
      if (Math.random() < 0.3) chosen[name] = Math.random() * Math.min(1, Math.max(0, high[i]!));
    });
    this.avatar.resetExpression(chosen);
  }

  async toggleMicrophone(): Promise<void> {
    try {
      if (this.avatar.followsMicrophone) this.avatar.stopMicrophone();
      else await this.avatar.followMicrophone();
      this.say("");
    } catch (error) {
      this.say((error as Error).message);
    }
    this.refresh();
  }

  async screenshot(): Promise<void> {
    const url = URL.createObjectURL(await this.avatar.screenshot());
    const link = make("a", { href: url, download: "avatar.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  toggle(): void {
    this.app.classList.toggle("open");
  }

  toggleStats(): void {
    this.statistics.hidden = !this.statistics.hidden;
  }

  search(): void {
    this.app.classList.add("open");
    this.panel.querySelector<HTMLElement>("[role=tab]")!.click();
    this.find.focus();
  }

  help(): void {
    if (!this.helpBox.open) this.helpBox.showModal();
  }

  closeHelp(): void {
    if (this.helpBox.open) this.helpBox.close();
  }

  /** Show a sentence, or none. */
  say(text: string): void {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  // --- what it shows

  /** Bring all controls up to what the avatar does. */
  refresh(): void {
    const { avatar } = this;
    const weights = avatar.getExpression();
    for (const [name, slider, value] of this.sliders) {
      const text = (weights[name] ?? 0).toFixed(2);
      if (value.textContent === text) continue;
      if (document.activeElement !== slider || Number(slider.value).toFixed(2) !== text) slider.value = text;
      value.textContent = text;
    }
    const { head, gaze } = avatar.pose;
    const angles: Record<string, number> = {
      "Gaze yaw": gaze.yaw, "Gaze pitch": gaze.pitch, "Head yaw": head.yaw, "Head pitch": head.pitch, "Head roll": head.roll,
    };
    for (const [name, [slider, value]] of this.angles) {
      slider.value = String(angles[name]);
      value.textContent = String(angles[name]);
    }
    this.idleBox.checked = avatar.idles;
    this.microphoneBox.checked = avatar.followsMicrophone;
    if (this.clipList.options.length !== avatar.clips.length + 1) {
      const options = avatar.clips.map((clip) => make("option", { value: clip.name }, clip.name));
      this.clipList.replaceChildren(make("option", { value: "" }, "at rest"), ...options);
    }
    this.clipList.value = avatar.currentClip ?? "";
    this.bar.hidden = avatar.clips.length === 0;
    this.playButton.textContent = avatar.isPlaying ? "⏸" : "▶";
    this.time();
  }

  private time(): void {
    const { currentTime, duration } = this.avatar;
    this.seekBar.max = String(duration || 1);
    this.seekBar.value = String(currentTime);
    const text = (s: number) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
    this.clock.textContent = `${text(currentTime)} / ${text(duration)}`;
  }

  /** A frame was drawn. */
  frame({ playing, stats }: FrameEvent): void {
    if (playing) this.time();
    if (this.statistics.hidden) return;
    const ms = (value: number) => `${value.toFixed(2).padStart(7)} ms`;
    const frame = stats.fps > 0 ? 1000 / stats.fps : 0;
    const share = (value: number) => (frame ? ` ${((100 * value) / frame).toFixed(0).padStart(3)} %` : "");
    this.statistics.textContent = [
      `${stats.fps.toFixed(1)} frames/s, ${stats.width}x${stats.height}, ${stats.gaussians} Gaussians`,
      `pose   ${ms(stats.pose)}${share(stats.pose)}`,
      `upload ${ms(stats.upload)}${share(stats.upload)}`,
      `draw   ${ms(stats.draw)}${share(stats.draw)} (calls)`,
      `sort   ${ms(stats.sort)}${share(stats.sort)} (${stats.sorter})`,
    ].join("\n");
  }
}
