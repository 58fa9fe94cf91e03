"""Packaging. The packages are listed one by one, so that a new top-level folder is never shipped by accident."""

from pathlib import Path

from setuptools import setup

ONNX = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"]

setup(
    name="proxylessnas",
    version="0.1.0",
    description="Differentiable, hardware-aware neural architecture search with measured latencies",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "."},  # editable installs are a line in a .pth file then; the other way prints a warning
    packages=[
        "supernet",
        "latency",
        "latency.importers",
        "latency.runtimes",
        "engine",
        "engine.data",
        "search",
        "retrain",
    ],
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=1.26",
        "pillow>=10.1",
        "scipy>=1.11",
        "pyyaml>=6.0",
        "tensorboard>=2.16",
        "pydantic>=2.9",
        "rich>=13.7",
        "matplotlib>=3.8",
        "scikit-learn>=1.4",
    ],
    extras_require={
        "onnx": ONNX,
        "litert": ["litert-torch>=0.8", "ai-edge-litert>=2.0"],
        "dev": [
            *ONNX,
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "mypy>=1.15",
            "types-PyYAML",
            "scipy-stubs",
        ],
    },
)
