"""Writes a folder of small pictures of clothes to follow the tutorial with:  python make_images.py

The pictures are 600 training and 200 test images of each of five classes of Fashion-MNIST, which torchvision downloads
into data/ if it is not there.
"""

from pathlib import Path

from torchvision.datasets import FashionMNIST

CLASSES = {2: "pullover", 3: "dress", 4: "coat", 6: "shirt", 8: "bag"}  # the first four are hard to tell apart

for part, each in (("train", 600), ("test", 200)):
    images = FashionMNIST("data", train=part == "train", download=True)
    for label, name in CLASSES.items():
        folder = Path("clothes", part, name)
        folder.mkdir(parents=True)
        for i in (images.targets == label).nonzero().flatten().tolist()[:each]:
            images[i][0].save(folder / f"{i:05d}.png")
    print(f"clothes/{part}: {each} images in each of {', '.join(CLASSES.values())}")
