"""Files that people name are read in bounded work; files that a run writes are complete or not there at all."""

import contextlib
import fcntl
import os
import resource
import shutil
import threading

import pytest

from engine.errors import ConfigError, UserError, one_line
from engine.files import (
    WriteError,
    make_folder,
    parsed_json,
    read_bytes,
    read_json,
    read_text,
    remove_stale,
    replacing,
    replacing_folder,
    write_atomically,
)


def _refused(path):
    with pytest.raises(ConfigError) as caught:
        read_text(path, "a YAML file")
    return str(caught.value)


def test_what_is_no_regular_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert _refused(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: no such file, expected a YAML file"
    assert _refused(tmp_path / "folder") == f"{tmp_path}/folder: is a folder, expected a YAML file"
    assert "cannot be read (Too many levels of symbolic links)" in _refused(tmp_path / "loop")
    assert "is a device or a pipe" in _refused(tmp_path / "pipe")  # and nothing waits for a writer
    assert "is a device or a pipe" in _refused(type(tmp_path)("/dev/zero"))
    assert "NUL character" in _refused(tmp_path / "a\0b")
    assert "File name too long" in _refused(tmp_path / ("x" * 300))


def test_a_file_is_read_up_to_a_bound(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (2 << 20))
    assert len(read_bytes(path, "text", most=2 << 20)) == 2 << 20
    with pytest.raises(ConfigError, match="has more than 1 MB, expected text"):
        read_bytes(path, "text", most=1 << 20)


def test_text_is_utf_8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(path, "text") == "é"
    path.write_bytes(b"\xff\xfe")
    assert _refused(path) == f"{path}: is not UTF-8 text, expected a YAML file"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "too many brackets"),
        ('{"a": ' * 3000 + "1" + "}" * 3000, "too many brackets"),
        ('{"a": NaN}', "not a finite number"),
        ('{"a": 1e999}', "not a finite number"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"a": ', "not JSON"),
        ("1" * 5000, "not JSON"),
    ],
)
def test_invalid_json_is_one_line(text, problem):
    with pytest.raises(ConfigError) as caught:
        parsed_json(text, "f.json", remedy="copy it again")
    assert str(caught.value).startswith("f.json: ")
    assert problem in str(caught.value)
    assert str(caught.value).endswith("; copy it again")


def test_json_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{\n\t"a": [1,\n\t\t2.5]\n}')
    assert read_json(path, "a table") == {"a": [1, 2.5]}


def test_a_message_is_one_bounded_line_without_control_characters():
    assert str(UserError("a\n  b\x1b[31m\x00c\udc80")) == "a b\\x1b[31m\\x00c\\udc80"
    text = one_line("begin " + "x" * 10_000_000 + " end", 100)
    assert len(text) <= 100
    assert text.startswith("begin ")
    assert text.endswith(" end")


@pytest.mark.parametrize("content", ["text é\n", b"\x00\xffbytes", ""])
def test_write_atomically_replaces_and_leaves_no_other_file(tmp_path, content):
    path = tmp_path / "result.json"
    for text in ("old, and longer than what follows" * 10, content):
        write_atomically(path, text)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_file_has_the_permissions_of_the_umask_or_of_the_file_it_replaces(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o600)
    write_atomically(tmp_path / "new", "other")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_temporary_names_differ_and_do_not_follow_links(tmp_path):
    names = set()
    for _ in range(5):
        with replacing(tmp_path / "a") as temporary:
            names.add(temporary.name)
            temporary.write_text("x")
    assert len(names) == 5


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError) as caught:
        write_atomically(path, "new")
    assert str(caught.value) == f"{path}: cannot be written (No space left on device); make room"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with contextlib.suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_limits_of_the_system_are_one_line(tmp_path):
    """The limits on the size of a file and on open files are real ones, set for this process."""
    path = tmp_path / "file"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot be written \(File too large\); raise the limit"):
            write_atomically(path, b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.dup(0)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, before[1]))  # a descriptor has to be below it
    try:
        with pytest.raises(WriteError, match=r"Too many open files\); raise the limit of open files"):
            write_atomically(path, b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_made_below_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WriteError, match=r"--out .*: is a file, or lies below one, expected a folder"):
        make_folder(tmp_path / "file" / "deeper", "--out")
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / ".a.0123.tmp").write_text("half")
    (tmp_path / "a.tmp").write_text("somebody's")
    remove_stale(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tmp"]


def test_what_a_killed_process_left_of_a_file_is_removed_by_the_next_one_that_writes_it(tmp_path):
    left, other = (tmp_path / f".{name}.{'0' * 16}.tmp" for name in ("out", "out2"))
    pid = os.fork()
    if pid == 0:
        with replacing(tmp_path / "out") as new:
            new.write_text("half")
            os._exit(0)  # without any clean-up
    os.waitpid(pid, 0)
    (abandoned,) = tmp_path.iterdir()
    abandoned.rename(left)
    other.write_text("of another file")
    write_atomically(tmp_path / "out", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "out"]
    assert (tmp_path / "out").read_text() == "whole"


def test_what_a_running_process_writes_is_not_removed(tmp_path):
    with replacing(tmp_path / "out") as first:
        first.write_text("first")
        write_atomically(tmp_path / "out", "second")
        assert first.exists()
    assert (tmp_path / "out").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_temporary_file_that_is_deleted_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, deleted = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not deleted:
            (temporary,) = tmp_path.iterdir()
            temporary.unlink()
            deleted.append(temporary)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomically(tmp_path / "out", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_writers_at_once_leave_one_complete_file(tmp_path):
    path = tmp_path / "file"
    texts = [str(i) * 100_000 for i in range(4)]
    threads = [threading.Thread(target=write_atomically, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


class Killed(BaseException):
    """Stands for `kill -9`: no clean-up follows."""


def kill_after(renames: int, monkeypatch) -> None:
    """Lets a process end after so many renames, and keeps its clean-up from deleting anything."""
    real, done = os.rename, []

    def rename(source: object, target: object) -> None:
        if len(done) == renames:
            raise Killed
        real(source, target)
        done.append(source)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_survives_a_process_that_is_killed_while_it_replaces_it(renames, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        kill_after(renames, patch)
        with contextlib.suppress(Killed), replacing_folder(out) as new:
            (new / "a").write_text("new")
    found = []

    def fail() -> None:
        with replacing_folder(out):
            found.append((out / "a").read_text())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert found == ["new" if renames == 2 else "old"]  # it is there again before anything else happens
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_process_does_not_take_what_a_running_one_has_put_aside(tmp_path):
    aside = tmp_path / f".out.old{'0' * 16}.tmp"
    aside.mkdir()
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with replacing_folder(tmp_path / "out") as new:
            (new / "a").write_text("new")
        assert aside.is_dir()
    finally:
        os.close(descriptor)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
