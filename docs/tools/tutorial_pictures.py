"""Puts the pictures of the tutorial into docs/images/:  python docs/tools/tutorial_pictures.py FOLDER

FOLDER is the one in which docs/tools/transcripts.py has run the tutorial's commands. The picture of the family is of a
longer run, which the page describes.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image, ImageOps

IMAGES = Path(__file__).resolve().parents[1] / "images"
MADE = {
    "clothes_table.png": "clothes_table.png",
    "probabilities.png": "clothes_probabilities.png",
}
"""Pictures that the commands write, and their names here."""
PER_CLASS, SIDE, GAP = 12, 56, 4


def grid(root: Path) -> Image.Image:
    """Returns a row of training images for each class, in alphabetical order, dark on white."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    step = SIDE + GAP
    sheet = Image.new("L", (PER_CLASS * step - GAP, len(folders) * step - GAP), 255)
    for row, folder in enumerate(folders):
        for column, file in enumerate(sorted(folder.iterdir())[:PER_CLASS]):
            picture = ImageOps.invert(Image.open(file).convert("L")).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(picture, (column * step, row * step))
    return sheet


def main() -> None:
    folder = Path(sys.argv[1])
    grid(folder / "clothes" / "train").save(IMAGES / "clothes.png", optimize=True)
    for made, name in MADE.items():
        shutil.copyfile(folder / made, IMAGES / name)


if __name__ == "__main__":
    main()
