import { type SortData, type SortJob, Sorter } from "./sort";

let sorter: Sorter | null = null;

self.onmessage = (event: MessageEvent<{ data?: SortData; job?: SortJob }>) => {
  if (event.data.data) sorter = new Sorter(event.data.data);
  if (event.data.job && sorter) {
    const began = performance.now();
    const order = sorter.order(event.data.job);
    self.postMessage({ order, ms: performance.now() - began }, { transfer: [order.buffer] });
  }
};
