"""Names the packages of this project, for tests that go through all of them."""

PACKAGES = (
    "engine",
    "supernet",
    "latency",
    "search",
    "retrain",
    "published",
    "proxyless_nas_tensorflow",
    "report",
    "export",
    "proxyless_nas",
)
