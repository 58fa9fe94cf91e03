"""Real networks on real photographs:  python benchmarks/photographs.py proxyless-w0.3.pkl --picture photographs.jpg

Classifies twelve photographs that come with scikit-learn, scikit-image and matplotlib with EfficientNet-Lite0 and with
a trained int8 network of tiny-training, in float32 and in codes. Prints the first class of each in Markdown, and how
well the float and the quantised network agree: the share of photographs with the same first class, and the mean and the
largest difference of the logits. --more takes folders of further photographs, for the agreement alone. All numbers are
the same in each run on one machine.
"""

import argparse
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from engine.data.preprocessing import Preprocessing
from engine.errors import UserError, run_command
from proxyless_nas.sources import trained_network


@dataclass(frozen=True)
class Photograph:
    """A photograph that comes with a Python package."""

    title: str
    package: str
    path: str
    """Inside the package's folder."""
    licence: str

    @property
    def file(self) -> Path:
        """The image file. Raises UserError if the package is not installed."""
        found = find_spec(self.package)
        if found is None or found.origin is None:
            raise UserError(self.title, f"{self.package} is not installed", remedy='pip install -e ".[dev]"')
        return Path(found.origin).parent / self.path


PHOTOGRAPHS = (
    Photograph("a cat", "skimage", "data/chelsea.png", "CC0, Stefan van der Walt"),
    Photograph("a cup of coffee", "skimage", "data/coffee.png", "CC0, Rachel Michetti, Pikolo Espresso Bar"),
    Photograph("a rocket's launch", "skimage", "data/rocket.jpg", "public domain, SpaceX"),
    Photograph("a man with a camera", "skimage", "data/camera.png", "CC0, Lav Varshney"),
    Photograph("an astronaut", "skimage", "data/astronaut.png", "public domain, NASA"),
    Photograph("a clock, blurred", "skimage", "data/clock_motion.png", "public domain, Stefan van der Walt"),
    Photograph("Greek coins", "skimage", "data/coins.png", "no known restrictions, Brooklyn Museum"),
    Photograph("the moon", "skimage", "data/moon.png", "public domain, NASA"),
    Photograph("a retina", "skimage", "data/retina.jpg", "CC0, Mikael Häggström"),
    Photograph("a palace", "sklearn", "datasets/images/china.jpg", "CC BY 2.0, danielbuechele"),
    Photograph("a dahlia", "sklearn", "datasets/images/flower.jpg", "CC BY 2.0, vultilion"),
    Photograph("an admiral", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "public domain, US Navy"),
)
"""Photographs that may be copied; what is on them, in words."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Classifier:
    """A network that comes with its weights."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @torch.no_grad()
    def logits(self, photo: Path) -> Tensor:
        """Returns the logits (classes,) of an image file."""
        logits: Tensor = self.network(self.preprocessing.input_of(photo))[0]
        return logits

    def first(self, photo: Path) -> str:
        """Returns the likeliest class of an image file and its probability."""
        chance, best = self.logits(photo).double().softmax(dim=0).max(dim=0)
        return f"{self.classes[int(best)]} {100 * float(chance):.0f} %"


def classifiers(file: Path) -> list[Classifier]:
    """Returns EfficientNet-Lite0, and the int8 network in float32 and in codes."""
    lite, small = trained_network("efficientnet_lite0"), trained_network(file)
    return [
        Classifier("EfficientNet-Lite0", lite.network.eval(), lite.preprocessing, lite.classes),
        Classifier(f"{file.stem}, float32", small.network.eval(), small.preprocessing, small.classes),
        Classifier(f"{file.stem}, codes", small.as_stored.eval(), small.preprocessing, small.classes),
    ]


def agreement(float32: Classifier, codes: Classifier, photos: list[Path]) -> str:
    """Returns how well two forms of one network agree on photographs, as a sentence."""
    pairs = [(float32.logits(photo), codes.logits(photo)) for photo in photos]
    equal = sum(int(one.argmax() == other.argmax()) for one, other in pairs)
    differences = torch.stack([(one - other).abs() for one, other in pairs])
    spread = float(torch.stack([one for one, _ in pairs]).std(dim=1).mean())
    return (
        f"{len(photos)} photographs: {equal} with the same first class ({100 * equal / len(photos):.1f} %); "
        f"difference of the logits {float(differences.mean()):.3f} on average, {float(differences.max()):.2f} at most; "
        f"their standard deviation is {spread:.2f}"
    )


def draw(networks: list[Classifier], target: Path) -> None:
    """Draws the photographs as the first network sees them, with the first class of each network."""
    columns = 4
    rows = -(-len(PHOTOGRAPHS) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.05 * rows), dpi=100, layout="constrained")
    for axes, photo in zip(figure.subplots(rows, columns).flat, PHOTOGRAPHS, strict=False):
        how = networks[0].preprocessing
        pixels = how.input_of(photo.file)[0].permute(1, 2, 0) * torch.tensor(how.std) + torch.tensor(how.mean)
        axes.imshow(pixels.clamp(0, 1).numpy())
        axes.set_axis_off()
        lines = [f"{network.name.partition(',')[0]}: {network.first(photo.file)}" for network in networks]
        axes.set_title("\n".join(lines), fontsize=7.5, loc="left")
    figure.savefig(target, pil_kwargs={"quality": 82})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("int8", type=Path, help="proxyless-w0.3.pkl, of github.com/mit-han-lab/tiny-training")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="folders of photographs, for the agreement")
    parser.add_argument("--picture", type=Path, help="the picture to draw, a .jpg")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run_command(lambda: run(args.int8, args.more, args.picture))


def run(int8: Path, more: list[Path], picture: Path | None) -> None:
    """Prints the classes and the agreement, and draws the picture."""
    networks = classifiers(int8)
    print(f"| photograph | {' | '.join(network.name for network in networks)} |\n|---|{'---|' * len(networks)}")
    for photo in PHOTOGRAPHS:
        print(f"| {photo.title} | {' | '.join(network.first(photo.file) for network in networks)} |")
    own = [photo.file for photo in PHOTOGRAPHS]
    print(f"\n{agreement(networks[1], networks[2], own)}")
    found = [file for folder in more for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
    if found:
        print(f"--more: {agreement(networks[1], networks[2], found)}")
    if picture is not None:
        draw([networks[0], networks[2]], picture)


if __name__ == "__main__":
    main()
