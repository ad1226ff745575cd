"""Prompts: the texts that stand for a class.

The paper averages T_n = 60 templates a class (Appendix 11, "Init" in Tables 5 and 6); without "Init" one
template, "a photo of a [cls].", stands for the class. Filling is a plain replacement of ``[cls]``.
"""

from __future__ import annotations

from collections.abc import Sequence

TEMPLATES: tuple[str, ...] = (
    "a photo of a [cls].",
    "a bad photo of a [cls].",
    "a photo of many [cls].",
    "a sculpture of a [cls].",
    "a photo of the hard to see [cls].",
    "a low resolution photo of the [cls].",
    "a rendering of a [cls].",
    "graffiti of a [cls].",
    "a bad photo of the [cls].",
    "a cropped photo of the [cls].",
    "a tattoo of a [cls].",
    "the embroidered [cls].",
    "a photo of a hard to see [cls].",
    "a bright photo of a [cls].",
    "a photo of a clean [cls].",
    "a photo of a dirty [cls].",
    "a dark photo of the [cls].",
    "a drawing of a [cls].",
    "a photo of my [cls].",
    "the plastic [cls].",
    "a photo of the cool [cls].",
    "a close-up photo of a [cls].",
    "a black and white photo of the [cls].",
    "a painting of the [cls].",
    "a painting of a [cls].",
    "a pixelated photo of the [cls].",
    "a sculpture of the [cls].",
    "a bright photo of the [cls].",
    "a cropped photo of a [cls].",
    "a plastic [cls].",
    "a photo of the dirty [cls].",
    "a jpeg corrupted photo of a [cls].",
    "a blurry photo of the [cls].",
    "a photo of the [cls].",
    "a good photo of the [cls].",
    "a rendering of the [cls].",
    "a [cls] in a video game.",
    "a photo of one [cls].",
    "a doodle of a [cls].",
    "a close-up photo of the [cls].",
    "the origami [cls].",
    "the [cls] in a video game.",
    "a sketch of a [cls].",
    "a doodle of the [cls].",
    "an origami [cls].",
    "a low resolution photo of a [cls].",
    "the toy [cls].",
    "a rendition of the [cls].",
    "a photo of the clean [cls].",
    "a photo of a large [cls].",
    "a rendition of a [cls].",
    "a photo of a nice [cls].",
    "a photo of a weird [cls].",
    "a blurry photo of a [cls].",
    "a cartoon [cls].",
    "art of a [cls].",
    "a sketch of the [cls].",
    "an embroidered [cls].",
    "a pixelated photo of a [cls].",
    "itap of the [cls].",
)
SINGLE = TEMPLATES[0]


def fill(templates: Sequence[str], class_name: str) -> list[str]:
    """The prompts of one class: every template with ``[cls]`` replaced by ``class_name``."""
    return [template.replace("[cls]", class_name) for template in templates]
