// Prints the Khronos glTF validator's report on a .glb file as JSON.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const validator = createRequire(import.meta.url)("gltf-validator");
const report = await validator.validateBytes(new Uint8Array(readFileSync(process.argv[2])));
console.log(JSON.stringify(report));
