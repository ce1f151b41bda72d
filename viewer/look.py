"""How pictures look: background, size, light."""

from __future__ import annotations

from dataclasses import dataclass

GAMMA = 2.2
"""Between sRGB values and light, near enough for a light that is a matter of taste."""
WARMTH_STOPS = 0.5
"""How far red rises and blue falls at warmth 1, stops."""


@dataclass(frozen=True)
class Look:
    """How pictures look."""

    background: tuple[int, int, int] = (255, 255, 255)
    """sRGB, 0 to 255."""
    resolution: int = 720
    """Largest height of a picture, pixels."""
    quality: int = 90
    """JPEG quality of still pictures, 1 to 100."""
    exposure: float = 0.0
    """Brightness of the person, stops: 1 doubles the light. The background stays as it is."""
    warmth: float = 0.0
    """Colour of the light on the person, -1 (cold) to 1 (warm)."""
    in_browser: bool = False
    """Whether browsers draw the Gaussians themselves; the server then sends no pictures."""

    @property
    def gains(self) -> tuple[float, float, float] | None:
        """Factors on the sRGB values of red, green and blue; None where the light is as filmed.

        An avatar has the light of its clip baked into its colours. This makes that light stronger or
        warmer as a photo editor would: it casts no other shadows.
        """
        if self.exposure == 0 and self.warmth == 0:
            return None
        warm = WARMTH_STOPS * self.warmth
        red, green, blue = (
            2.0 ** ((self.exposure + stops) / GAMMA) for stops in (warm, 0.0, -warm)
        )
        return red, green, blue
