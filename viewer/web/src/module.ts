// The element as a module: <script type="module" src="avatar-head.js"></script>
import { AvatarHead } from "./element";

if (!customElements.get("avatar-head")) customElements.define("avatar-head", AvatarHead);

export { AvatarHead };
