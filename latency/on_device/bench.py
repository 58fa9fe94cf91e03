"""Times the networks and ops of a device kit. A kit has a copy of this file, with the folder on_device/ beside it:

    python bench.py            # in the kit's folder, on the device: times everything, writes results.json

It needs Python 3.8 or newer, numpy, and the kit's runtime: onnxruntime, or LiteRT (ai-edge-litert or tflite-runtime).
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    try:
        import numpy  # noqa: F401
    except ImportError:  # a fresh board often lacks it
        sys.exit("error: numpy is not installed; pip install numpy")
    sys.path.insert(0, FOLDER)  # also where PYTHONSAFEPATH is set
    from on_device.program import main  # type: ignore[import-not-found]

    sys.exit(main(__doc__, FOLDER))
