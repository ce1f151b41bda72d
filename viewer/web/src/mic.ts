// "Follow my microphone": mouth shapes from loudness and the spectrum's two lowest formants. It is
// a guess without training: it opens with the voice and tells a from o, e and hissing, no more.
import { ARKIT } from "./pose";

const BANDS: [number, number][] = [[150, 450], [450, 1000], [1000, 1800], [1800, 3200], [4000, 8000]];

export class Microphone {
  readonly weights = new Float32Array(ARKIT);
  private floor = -70;
  private peak = -40;
  private spectrum: Float32Array<ArrayBuffer>;

  private constructor(
    private readonly context: AudioContext,
    private readonly stream: MediaStream,
    private readonly analyser: AnalyserNode,
    private readonly names: string[],
  ) {
    this.spectrum = new Float32Array(analyser.frequencyBinCount);
  }

  static async open(names: string[]): Promise<Microphone> {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives pages opened this way no microphone. Try another browser.");
    }
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (cause) {
      throw new Error("The microphone was refused or is missing. Allow it for this page.", { cause });
    }
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 1024;
    analyser.smoothingTimeConstant = 0.5;
    context.createMediaStreamSource(stream).connect(analyser);
    return new Microphone(context, stream, analyser, names);
  }

  /** Bring `weights` up to what is heard now. */
  listen(): void {
    this.analyser.getFloatFrequencyData(this.spectrum);
    const width = this.context.sampleRate / this.analyser.fftSize;
    const power = BANDS.map(([low, high]) => {
      let sum = 0;
      for (let bin = Math.ceil(low / width); bin < high / width; bin++) {
        sum += 10 ** ((this.spectrum[bin] ?? -100) / 10);
      }
      return Math.max(sum, 1e-10);
    }) as [number, number, number, number, number];
    const voiced = power[0] + power[1] + power[2] + power[3];
    const level = 10 * Math.log10(voiced + power[4]);
    // The room's noise and the speaker's loudest are followed, so that no gain must be set.
    this.floor += (level < this.floor ? 0.2 : 0.002) * (level - this.floor);
    this.peak += (level > this.peak ? 0.3 : 0.003) * (Math.max(level, this.floor + 25) - this.peak);
    const loud = Math.min(1, Math.max(0, (level - this.floor - 8) / (this.peak - this.floor - 8)));
    const share = power.map((p) => p / (voiced + power[4]));
    const hiss = Math.min(1, share[4]! * 2);
    const open = Math.min(1, (share[1]! + share[2]! * 0.5) * 1.3);
    const front = Math.min(1, (share[3]! + share[2]! * 0.4) * 2.5);
    const round = Math.min(1, Math.max(0, share[0]! + share[1]! * 0.4 - front * 0.8));
    const voice = loud * (1 - hiss);
    this.towards({
      jawOpen: voice * (0.15 + 0.55 * open),
      mouthFunnel: voice * round * 0.4,
      mouthPucker: voice * round * 0.25,
      mouthStretchLeft: loud * (front * 0.3 + hiss * 0.2),
      mouthStretchRight: loud * (front * 0.3 + hiss * 0.2),
      mouthLowerDownLeft: voice * (0.2 + 0.2 * front),
      mouthLowerDownRight: voice * (0.2 + 0.2 * front),
      mouthUpperUpLeft: voice * 0.12 + loud * hiss * 0.1,
      mouthUpperUpRight: voice * 0.12 + loud * hiss * 0.1,
    });
  }

  close(): void {
    this.stream.getTracks().forEach((track) => track.stop());
    void this.context.close();
  }

  private towards(goal: Record<string, number>): void {
    for (const [name, value] of Object.entries(goal)) {
      const i = this.names.indexOf(name);
      const now = this.weights[i]!;
      this.weights[i] = now + (value > now ? 0.5 : 0.3) * (value - now);
    }
  }
}
