// Which clip plays and where in it; sound is the clock where there is any.
import type { Clip } from "./format";

export class Player {
  clip: Clip | null = null;
  playing = false;
  time = 0;
  readonly audio = new Audio();
  private readonly urls = new Map<Clip, string>();

  constructor(private readonly changed: () => void) {
    this.audio.preload = "auto";
    this.audio.addEventListener("ended", () => {
      if (this.playing) this.finish();
    });
  }

  get duration(): number {
    return this.clip ? this.clip.frames / this.clip.fps : 0;
  }

  play(clip: Clip): void {
    if (clip !== this.clip) this.choose(clip);
    if (this.time >= this.duration - 1e-3) this.seek(0);
    this.playing = true;
    if (clip.audio) {
      this.audio.currentTime = this.time;
      // A browser may refuse sound before the first click; the motion plays on without.
      this.audio.play().catch(() => {});
    }
    this.changed();
  }

  pause(): void {
    this.playing = false;
    this.audio.pause();
    this.changed();
  }

  stop(): void {
    this.pause();
    this.clip = null;
    this.time = 0;
    this.changed();
  }

  seek(time: number): void {
    this.time = Math.min(Math.max(0, time), this.duration);
    if (this.clip?.audio) this.audio.currentTime = this.time;
    this.changed();
  }

  /** Go on by some seconds, or to where the sound is: eyes forgive a late frame, ears no gap. */
  advance(seconds: number): void {
    if (!this.playing || !this.clip) return;
    const sounds = this.clip.audio && !this.audio.paused;
    this.time = sounds ? this.audio.currentTime : this.time + seconds;
    if (this.time >= this.duration) this.finish();
  }

  private choose(clip: Clip): void {
    this.clip = clip;
    this.time = 0;
    this.audio.pause();
    if (clip.audio) {
      if (!this.urls.has(clip)) this.urls.set(clip, URL.createObjectURL(clip.audio));
      this.audio.src = this.urls.get(clip)!;
    } else {
      this.audio.removeAttribute("src");
    }
  }

  private finish(): void {
    this.playing = false;
    this.time = this.duration;
    this.audio.pause();
    this.changed();
  }
}
