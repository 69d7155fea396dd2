"""What a recipe says of augmentation; what is done by it is in `augment`, which takes torchvision to import."""

from __future__ import annotations

from typing import Literal

from insideout.recipes.base import Recipe

Preset = Literal["none", "flip", "auto", "rand", "trivial", "augmix", "face"]


class FaceAugmentation(Recipe):
    """Strengths of the preset `face`; ranges are symmetric and uniform.

    `trivial` takes `mirror`, `zoom`, `shift`, `hue` and `grey` from here.
    """

    mirror: float = 0.5
    degrees: float = 12.0
    zoom: float = 0.7
    """Smallest part of the crop's area that is shown; 1 is no zoom."""
    shift: float = 0.06
    """Largest shift, in sides of the crop."""
    stretch: float = 0.1
    light: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.5
    hue: float = 0.08
    """Largest turn of the hue, in full turns; 0.5 is any hue."""
    grey: float = 0.15
    erase: float = 0.2
    """Probability of one erased patch of at most a tenth of the area."""

    def scaled(self, magnitude: float) -> FaceAugmentation:
        """All strengths but the mirror's multiplied, probabilities and shares kept within 0..1."""
        if magnitude == 1:
            return self
        plain = {name: getattr(self, name) * magnitude for name in type(self).model_fields}
        kept = {"mirror": self.mirror, "zoom": max(0.1, 1 - (1 - self.zoom) * magnitude)}
        return FaceAugmentation(**plain | kept | {name: min(1.0, plain[name]) for name in ("grey", "erase")})
