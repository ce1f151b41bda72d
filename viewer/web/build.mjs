// Build what the Python package ships: page.html (one file, script and style inside) and avatar-head.js
// (the element as a module). `node build.mjs FOLDER` writes elsewhere, for the test that compares.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? resolve(here, "../../avatar/export/web_page"));

async function bundle(entry, format) {
  const result = await build({
    root: here,
    configFile: false,
    logLevel: "warn",
    build: {
      write: false,
      target: "es2022",
      minify: "esbuild",
      lib: { entry: resolve(here, "src", entry), formats: [format], name: "headsplat" },
    },
    worker: { format: "iife" },
  });
  const chunks = [result].flat().flatMap((one) => one.output);
  if (chunks.length !== 1 || chunks[0].type !== "chunk") {
    throw new Error(`expected one file of ${entry}, got ${chunks.map((one) => one.fileName)}`);
  }
  return chunks[0].code;
}

const script = (await bundle("page.ts", "iife")).replaceAll("</script", "<\\/script");
const style = readFileSync(resolve(here, "src/page.css"), "utf8");
let page = readFileSync(resolve(here, "page.html"), "utf8");
for (const [mark, text] of [["/*STYLE*/", style], ["/*SCRIPT*/", script]]) {
  if (page.split(mark).length !== 2) throw new Error(`page.html must have ${mark} once`);
  page = page.split(mark).join(text);
}
mkdirSync(out, { recursive: true });
writeFileSync(resolve(out, "page.html"), page);
writeFileSync(resolve(out, "avatar-head.js"), await bundle("module.ts", "es"));
