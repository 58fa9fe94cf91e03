"""The report of a run in a browser:  python benchmarks/report_page.py runs/quickstart --picture docs/images/report.png

Writes the report of a run (a search, a retraining, a quick start), opens it in headless Chromium, and prints one line
of JSON: bytes of the page; write_s, the seconds that writing it took; requests beside the page itself; messages on the
console; first_paint_ms, the median of several fresh loads, since the navigation began; overflow, for each width whether
the page scrolls sideways. --picture keeps a screenshot of its upper part.
"""

import argparse
import base64
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from latency.device import made_on
from report.page import report

WIDTHS = (360, 800, 1600)
LOADS = 9
PICTURE = (1100, 1500)
"""Width and height of the screenshot, in pixels."""
FIRST_PAINT = """new Promise(done => new PerformanceObserver(list => {
  const first = list.getEntriesByName("first-contentful-paint")[0];
  if (first) done(first.startTime);
}).observe({type: "paint", buffered: true}))"""


class Browser:
    """Headless Chromium, driven by its debugging protocol over a pair of pipes."""

    def __init__(self, program: str, profile: Path):
        (theirs, own_write), (own_read, their_write) = os.pipe(), os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        shell = f'exec "$0" "$@" 3<&{theirs} 4>&{their_write}'  # the protocol's pipes have these numbers
        self.process = subprocess.Popen(
            ["sh", "-c", shell, program, *options, f"--user-data-dir={profile}"],
            pass_fds=(theirs, their_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(their_write)
        self.write, self.read = os.fdopen(own_write, "wb", 0), os.fdopen(own_read, "rb")
        self.count, self.waiting = 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable", session=self.session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        self.process.wait(30)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to one command; events that come before it are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        self.write.write(json.dumps(message).encode() + b"\0")
        while (answer := self.next()).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def next(self) -> dict[str, Any]:
        """Returns the next message."""
        while b"\0" not in self.waiting:
            more = self.read.read1(1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self.waiting += more
        text, _, self.waiting = self.waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def value(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression in the page, of a promise what it gives."""
        options = {"awaitPromise": True, "returnByValue": True}
        return self.call("Runtime.evaluate", self.session, expression=expression, **options)["result"]["value"]

    def size(self, width: int, height: int) -> None:
        options = {"deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", self.session, width=width, height=height, **options)

    def open(self, page: Path) -> float:
        """Loads a page anew. Returns the milliseconds to its first paint."""
        self.call("Page.navigate", self.session, url="about:blank")
        self.call("Page.navigate", self.session, url=page.resolve().as_uri())
        return float(self.value(FIRST_PAINT))

    def screenshot(self, width: int, height: int) -> bytes:
        self.size(width, height)
        return base64.b64decode(self.call("Page.captureScreenshot", self.session, format="png")["data"])


def measured(page: Path, program: str, picture: Path | None) -> dict[str, Any]:
    """Returns what a browser says of the page, and keeps a screenshot if `picture` is given."""
    with tempfile.TemporaryDirectory() as profile, Browser(program, Path(profile)) as browser:
        paints = [browser.open(page) for _ in range(LOADS)]
        overflow = {}
        for width in WIDTHS:
            browser.size(width, 900)
            overflow[width] = browser.value("document.documentElement.scrollWidth > window.innerWidth")
        if picture is not None:
            picture.write_bytes(browser.screenshot(*PICTURE))
        methods = [event.get("method") for event in browser.events]
        urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    own = page.resolve().as_uri()
    return {
        "requests": sum(url != own and not url.startswith("data:") for url in urls),
        "messages": methods.count("Runtime.consoleAPICalled") + methods.count("Log.entryAdded"),
        "first_paint_ms": statistics.median(paints),
        "first_paint_ms_all": paints,
        "overflow": overflow,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a search, a retraining or a quick start")
    parser.add_argument("--out", type=Path, help="keep the page here")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    args = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        parser.error("no Chromium is installed (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary) / "report.html"
        began = time.perf_counter()
        page = report(args.run, out=out)
        seconds = time.perf_counter() - began
        figures = {"bytes": page.stat().st_size, "write_s": seconds, **measured(page, program, args.picture)}
    print(json.dumps({**made_on(), "browser": Path(program).name, **figures}))


if __name__ == "__main__":
    main()
