// Loads a .glb file with three.js and its KHR_gaussian_splatting plugin; prints what it became.
import { readFileSync } from "node:fs";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { GLTFGaussianSplatLoaderExtension } from "three/addons/loaders/GLTFGaussianSplatLoaderExtension.js";

globalThis.self ??= globalThis;
const loader = new GLTFLoader();
loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
const bytes = readFileSync(process.argv[2]);
const gltf = await loader.parseAsync(
  bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  "",
);
const splats = [];
gltf.scene.traverse((object) => {
  const geometry = object.splatGeometry;
  if (geometry === undefined) return;
  const values = (name) => Array.from(geometry.getAttribute(name).array);
  splats.push({
    type: object.type,
    centers: values("position"),
    covariances: values("covariance"),
    colors: values("color"),
  });
});
console.log(JSON.stringify(splats));
