"""The published networks for torch.hub, each with `pretrained=True` by default:

torch.hub.load("PATH OF THIS FOLDER", "proxyless_cpu", source="local", pretrained=False)
"""

from published.networks import (  # noqa: F401
    efficientnet_lite0,
    mobilenet_v2,
    proxyless_cifar,
    proxyless_cpu,
    proxyless_gpu,
    proxyless_mobile,
    proxyless_mobile14,
    proxyless_mobile_14,
)

dependencies = ["torch", "numpy", "pydantic", "rich", "yaml"]
