"""Published files are fetched from a server on the loopback interface; each of twelve failures is one clear line."""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import logging
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.errors import CheckpointError, UserError
from engine.files import WriteError
from published import download
from published.download import SOURCE, DownloadError, blob_id_of, fetch
from published.weights import load_official
from tests.processes import Python, python

NAME = "proxyless_cpu.pth"
CONTENT = bytes(range(256)) * 4000
CHECKOUT = Path(__file__).resolve().parents[2]


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


BLOB_ID = blob_id(CONTENT)


class Mirror(http.server.ThreadingHTTPServer):
    """A server of one file, which can misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.ranges: list[str | None] = []
        """The header Range of each request for the file."""
        self.cut: list[int] = []
        """How many bytes each of the next answers sends before it breaks off."""
        self.statuses: list[int] = []
        """The status of each of the next answers, without a content."""
        self.retry_after = ""
        """The header Retry-After of an answer without a content."""
        self.knows_ranges = True
        self.page = ""
        """The path of a web page to which requests are redirected."""
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        mirror = self.server
        if mirror.page and self.path == mirror.page:
            self._answer(200, b"<!DOCTYPE html><title>Please log in</title>", "text/html")
        elif mirror.page:
            self._answer(302, b"", location=mirror.page)
        elif self.path != f"/{NAME}":
            self._answer(404, b"nothing here")
        else:
            mirror.ranges.append(self.headers["Range"])
            if mirror.statuses:
                self._answer(mirror.statuses.pop(0), b"")
                return
            start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and mirror.knows_ranges else 0
            if start >= len(mirror.content) > 0:
                self._answer(416, b"")
                return
            self._answer(206 if start else 200, mirror.content[start:], start=start)

    def _answer(
        self, status: int, content: bytes, kind: str = "application/octet-stream", *, location: str = "", start: int = 0
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if location:
            self.send_header("Location", location)
        if status >= 400 and self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{start + len(content)}")
        self.end_headers()
        time.sleep(self.server.delay_s)
        whole = not (status in (200, 206) and self.server.cut)
        self.wfile.write(content if whole else content[: self.server.cut.pop(0)])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def mirror(monkeypatch) -> Iterator[Mirror]:
    with Mirror() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv(SOURCE, server.url)
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def refused(cache: Path, kind: type[UserError] = DownloadError, wanted: str = BLOB_ID) -> str:
    """Returns the line of a download that fails; it leaves no file."""
    with pytest.raises(kind) as raised:
        fetch(NAME, wanted)
    assert not cache.exists() or list(cache.iterdir()) == []
    line = str(raised.value)
    assert "\n" not in line
    return line


def part_of(cache: Path) -> Path:
    return cache / f".{NAME}.{BLOB_ID[:12]}.part"


def test_a_file_is_fetched_once_and_then_read_from_the_cache(mirror, cache):
    shown: list[tuple[str, int, int]] = []
    path = fetch(NAME, BLOB_ID, report=lambda *progress: shown.append(progress))
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    assert shown[-1] == (f"fetch {NAME}, in kB", 1000, 1000)
    assert fetch(NAME, BLOB_ID) == path
    assert len(mirror.ranges) == 1
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_git_and_this_module_agree_on_a_blob_id(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    ended = subprocess.run(["git", "hash-object", "a"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert blob_id_of(tmp_path / "a") == ended.stdout.strip() == BLOB_ID


def test_a_folder_in_place_of_a_url_is_used_as_it_is(tmp_path, cache, monkeypatch):
    for source in (str(tmp_path), tmp_path.as_uri()):
        monkeypatch.setenv(SOURCE, source)
        (tmp_path / NAME).write_bytes(CONTENT)
        assert fetch(NAME, BLOB_ID) == tmp_path / NAME
        (tmp_path / NAME).write_bytes(CONTENT[1:])
        assert refused(cache).startswith(f"{tmp_path / NAME}: is not the published file: its git blob id is ")
        (tmp_path / NAME).unlink()
        assert refused(cache) == f"{tmp_path / NAME}: no such file; put it there, or correct {SOURCE}"


def test_a_source_that_is_neither_a_url_of_http_nor_a_folder_is_refused(cache, monkeypatch):
    monkeypatch.setenv(SOURCE, "s3://bucket/files")
    assert refused(cache) == f"{SOURCE}: got 's3://bucket/files', expected an http or https URL, or a folder"
    monkeypatch.setenv(SOURCE, "http://[::1/files")
    assert refused(cache).startswith(f"{SOURCE}: got 'http://[::1/files', which is no URL, expected an http")
    monkeypatch.setenv(SOURCE, "https://me:secret@mirror/files")
    line = refused(cache)
    assert line.startswith(f"{SOURCE}: has a user or a password, which are not sent, expected an http")
    assert "secret" not in line


def test_a_connection_that_breaks_is_continued_where_it_ended(mirror, cache):
    mirror.cut = [300_000, 200_000]
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert mirror.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(mirror, cache):
    mirror.cut, mirror.knows_ranges = [300_000], False
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert mirror.ranges == [None, "bytes=300000-"]


def test_a_server_that_is_busy_is_asked_again(mirror, cache):
    mirror.statuses = [503, 500, 429]
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_asked_five_times(mirror, cache):
    mirror.statuses = [429] * 9
    assert refused(cache) == f"{mirror.url}/{NAME}: the server answered 429 Too Many Requests; {download._REMEDY}"
    assert len(mirror.ranges) == 5


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0.01, 0.01),
        ("soon", 0.01, 0.01),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.01, 0.01),
        ("in 55 s", 1, 55),
    ],
)
def test_a_busy_server_says_when_it_is_asked_again(asked, least, most, mirror, cache, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append, time=time.time))
    date = email.utils.formatdate(time.time() + 55, usegmt=True)
    mirror.statuses, mirror.retry_after = [429], date if asked == "in 55 s" else asked
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_a_longer_pause_is_not_waited_for(status, mirror, cache):
    mirror.statuses, mirror.retry_after = [status], "3600"
    line = refused(cache)
    assert f"the server answered {status} " in line
    assert f" and asks to wait 3600 s; try again then, or set {SOURCE} to the URL of a mirror" in line
    assert len(mirror.ranges) == 1


def test_ctrl_c_keeps_what_has_been_received_and_the_next_call_fetches_the_rest(mirror, cache):
    def stopped(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, BLOB_ID, report=stopped)
    received = part_of(cache).stat().st_size
    assert 0 < received < len(CONTENT)
    assert not (cache / NAME).exists()
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert mirror.ranges == [None, f"bytes={received}-"]
    assert list(cache.iterdir()) == [cache / NAME]


@pytest.mark.parametrize("left", [CONTENT[:1000] + b"x", CONTENT + b"x", b"x" * len(CONTENT)])
def test_a_wrong_part_of_an_earlier_download_is_fetched_anew(left, mirror, cache):
    cache.mkdir(parents=True)
    part_of(cache).write_bytes(left)
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert list(cache.iterdir()) == [cache / NAME]


def test_a_part_that_is_already_whole_needs_no_network(cache, monkeypatch):
    monkeypatch.setenv(SOURCE, "http://127.0.0.1:9")
    cache.mkdir(parents=True)
    part_of(cache).write_bytes(CONTENT)
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT


def test_another_file_of_the_name_in_the_cache_is_replaced(mirror, cache, caplog):
    caplog.set_level(logging.INFO)
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(b"torch.hub was interrupted here")
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert f"{cache / NAME}: is not the published file, so it is fetched again" in caplog.text


# The twelve failures; docs/published.md has a table of their lines.


def test_failure_1_no_network(cache, monkeypatch):
    monkeypatch.setenv(SOURCE, "http://127.0.0.1:9")
    assert refused(cache) == (
        f"http://127.0.0.1:9/{NAME}: cannot be reached (Connection refused); check the network and its proxy, or set "
        f"{SOURCE} to the URL of a mirror, or to a folder that holds the file"
    )
    monkeypatch.setenv(SOURCE, "http://no-such-host.invalid")
    assert f"http://no-such-host.invalid/{NAME}: cannot be reached (" in refused(cache)
    monkeypatch.setenv(SOURCE, "http://no such host:x/")
    assert "cannot be reached (" in refused(cache)


def test_failure_2_not_found(mirror, cache, monkeypatch):
    monkeypatch.setenv(SOURCE, f"{mirror.url}/elsewhere/")
    assert refused(cache).startswith(f"{mirror.url}/elsewhere/{NAME}: the server answered 404 Not Found; set {SOURCE}")


def test_failure_3_a_redirect_to_a_web_page(mirror, cache):
    mirror.page = "/login"
    line = refused(cache)
    assert line.startswith(f"{mirror.url}/{NAME}: is a web page, of {mirror.url}/login, expected the file itself; a ")
    mirror.page, mirror.content = "", b"\n<html>declared as bytes</html>"
    assert "is a web page" in refused(cache)


def test_failure_4_truncated(mirror, cache):
    mirror.cut = [1000] * download.CONNECTIONS
    says = "the connection broke 5 times, the last one after 5000 bytes (IncompleteRead(0 bytes read, "
    assert says in refused(cache)
    mirror.content = CONTENT[:-1]  # and the server believes that this is all
    assert f"its git blob id is {blob_id(CONTENT[:-1])}, expected {BLOB_ID}; it was not opened" in refused(cache)


def test_failure_5_another_file(mirror, cache):
    mirror.content = b"another file"
    assert refused(cache) == (
        f"{mirror.url}/{NAME}: is not the published file: its git blob id is {blob_id(b'another file')}, expected "
        f"{BLOB_ID}; it was not opened; set {SOURCE} to the URL of a mirror, or to a folder that holds the file"
    )


class _Bomb:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_failure_6_a_pickle_that_runs_code(mirror, cache, tmp_path):
    trace = tmp_path / "the code ran"
    mirror.content = pickle.dumps({"state_dict": _Bomb(trace)})
    assert "is not the published file" in refused(cache)
    assert not trace.exists()
    path = fetch(NAME, blob_id(mirror.content))  # even if somebody publishes its id
    torch.save({"state_dict": {"weight": _Bomb(trace)}}, tmp_path / "new.pth")
    torch.save({"state_dict": _Bomb(trace)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in (path, tmp_path / "new.pth", tmp_path / "old.pth"):
        with pytest.raises(CheckpointError) as raised:
            load_official(file, torch.nn.Linear(2, 2))
        says = "is damaged, or a pickle that holds more than weights; nothing in it was run"
        assert str(raised.value) == f"{file}: {says}, expected the weights of a network"
        assert not trace.exists()


# 7, 8 and 9, a missing weight, one more, and one of another shape, are in test_weights.py.


def full(path: str, flags: int) -> int:
    return os.open("/dev/full", os.O_RDWR)


def test_failure_10_a_full_disk(mirror, cache, monkeypatch):
    monkeypatch.setattr(download, "_opened_or_made", full)
    monkeypatch.setattr(download, "_is_at", lambda file, path: True)
    line = refused(cache, WriteError)
    assert line.endswith("cannot be written (No space left on device); make room (TORCH_HOME sets where the cache is)")


LIMITED = """
import resource, sys
from engine.errors import run_command
from published.download import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_command(lambda: fetch(sys.argv[1], sys.argv[2]) and None)
"""


def test_failure_10_a_file_that_may_not_grow(mirror, cache, shell):
    environment = shell | {name: os.environ[name] for name in (SOURCE, "TORCH_HOME")}
    ended = python("-c", LIMITED, NAME, BLOB_ID, env=environment)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot be written (File too large); raise the limit of a file's size (ulimit -f)" in ended.stderr
    assert list(cache.iterdir()) == []


def test_failure_11_a_cache_that_may_not_be_written(mirror, cache, monkeypatch):
    def forbidden(path: str, flags: int) -> int:  # permissions do not stop root
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_opened_or_made", forbidden)
        assert refused(cache, WriteError) == (
            f"{cache / NAME}: cannot be written (Permission denied); choose a place that you may write "
            "(TORCH_HOME sets where the cache is)"
        )
        (cache / NAME).write_bytes(CONTENT)
        assert fetch(NAME, BLOB_ID) == cache / NAME  # reading suffices
    (cache / NAME).unlink()
    cache.rmdir()
    cache.write_text("")
    with pytest.raises(WriteError, match="is a file, or lies below one, expected a folder"):
        fetch(NAME, BLOB_ID)


FETCHED = "import sys; from published.download import fetch; print(fetch(sys.argv[1], sys.argv[2]))"


def test_failure_12_two_processes_at_once_download_once(mirror, cache, shell):
    mirror.delay_s = 0.5
    environment = shell | {name: os.environ[name] for name in (SOURCE, "TORCH_HOME")}
    processes = [Python("-c", FETCHED, NAME, BLOB_ID, env=environment) for _ in range(2)]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers == [f"{cache / NAME}\n"] * 2
    assert mirror.ranges == [None]
    assert list(cache.iterdir()) == [cache / NAME]


def test_a_download_that_waits_for_a_failing_one_tries_itself(mirror, cache, caplog):
    caplog.set_level(logging.INFO)
    mirror.delay_s, mirror.statuses = 0.2, [404]
    results: list[object] = []

    def run() -> None:
        try:
            results.append(fetch(NAME, BLOB_ID))
        except DownloadError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, DownloadError) for result in results) == 1
    assert results.count(cache / NAME) == 3
    assert len(mirror.ranges) == 2
    assert f"{cache / NAME}: another process is fetching it; waiting" in caplog.text
    assert list(cache.iterdir()) == [cache / NAME]


def test_without_locks_each_process_downloads_into_a_file_of_its_own(mirror, cache, monkeypatch):
    def refuses(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(download.fcntl, "flock", refuses)
    assert fetch(NAME, BLOB_ID).read_bytes() == CONTENT
    assert list(cache.iterdir()) == [cache / NAME]


def test_the_page_has_the_line_of_each_failure():
    page = (CHECKOUT / "docs" / "published.md").read_text()
    for text in (
        f"cannot be reached (Connection refused); check the network and its proxy, or {download._REMEDY}",
        f"the server answered 404 Not Found; {download._REMEDY}",
        "expected the file itself; a network that asks for a login answers so: open any page in a browser, or set",
        f"the connection broke {download.CONNECTIONS} times, the last one after",
        "is not the published file: its git blob id is",
        "is damaged, or a pickle that holds more than weights; nothing in it was run, expected the weights",
        "expected a weight for each of the network",
        "which the network has not, expected its weights alone",
        "cannot be written (No space left on device); make room (TORCH_HOME sets where the cache is)",
        "another process is fetching it; waiting",
        download.PUBLISHED,
    ):
        assert text in page, text
