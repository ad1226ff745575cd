"""Draws docs/mini-world.png: scenes as the foundation model saw them, and as the downstream task shows them.

    python docs/mini_world_picture.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from sagekit.data import world

SCALE, COLUMNS, GAP, TITLE = 3, 8, 10, 26
CLASSES = torch.tensor([0, 15, 28, 41, 19, 30, 35, 44])  # two of each texture, eight shapes


def row(domain: world.Domain, labels: torch.Tensor) -> torch.Tensor:
    g = world.generator(11)
    return world.render(world.sample(labels, domain, g), domain, g)[0]


def main() -> None:
    side = world.IMAGE_SIZE * SCALE
    font = ImageFont.load_default(size=15)
    titles = ("Pretraining: where the mini CLIP learned", "Downstream: the long-tailed task, one shift for all classes")
    height = 2 * (TITLE + side + TITLE) + GAP
    sheet = Image.new("RGB", (COLUMNS * (side + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (title, domain) in enumerate(zip(titles, (world.PRETRAIN, world.DOWNSTREAM), strict=True)):
        top = r * (2 * TITLE + side + GAP)
        draw.text((0, top + 2), title, fill="black", font=font)
        for c, (image, label) in enumerate(zip(row(domain, CLASSES), CLASSES, strict=True)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (c * (side + GAP), top + TITLE))
            draw.text((c * (side + GAP), top + TITLE + side + 3), world.CLASS_NAMES[label], fill="black", font=font)
    sheet.save(Path(__file__).parent / "mini-world.png", optimize=True)


if __name__ == "__main__":
    main()
