"""What is written is on the disk soon, nobody waits for it, and what fails is told."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.home import Home
from serving import segment_log
from serving.segment_log import FSYNC_S, SegmentLog, Tail, TornWrite, Unsynced, pause_s, payloads, segments

WAIT_S = 60.0  # for what should happen within FSYNC_S, on the busiest of machines


class Disk:
    """The real fsync, with a gate before it, a way to fail, and a record of what it was asked for."""

    def __init__(self) -> None:
        self.gate, self.at_the_gate, self.fails = threading.Event(), threading.Event(), 0
        self.gate.set()
        self.synced: list[tuple[int, int, int]] = []  # inode, size when it began, thread
        self.news = threading.Condition()
        self._fsync = os.fsync

    def __call__(self, fd: int) -> None:
        found = os.fstat(fd)
        self.at_the_gate.set()
        assert self.gate.wait(WAIT_S)
        if self.fails:
            self.fails -= 1
            raise OSError(5, "Input/output error")
        self._fsync(fd)
        with self.news:
            self.synced.append((found.st_ino, found.st_size, threading.get_ident()))
            self.news.notify_all()

    def of(self, path: Path) -> list[int]:
        """Sizes at which a path was synced."""
        return [size for inode, size, _ in self.synced if inode == path.stat().st_ino]

    def has(self, path: Path, size: int) -> bool:
        """Whether so many bytes of it are synced within a while."""
        with self.news:
            return self.news.wait_for(lambda: any(synced >= size for synced in self.of(path)), WAIT_S)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(segment_log.os, "fsync", made)
    return made


@pytest.fixture
def log(home: Home, disk: Disk) -> Iterator[SegmentLog]:
    made = SegmentLog(home, home.events, ".x")
    yield made
    disk.gate.set()
    made.close()


def content(home: Home) -> list[bytes]:
    return [payload for path in segments(home.events, ".x") for payload, _ in payloads(path)]


def syncers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fsync"]


def test_what_was_written_is_synced_without_being_asked_and_so_is_its_name(home: Home, log: SegmentLog, disk: Disk) -> None:
    size = log.append(b"one")
    assert disk.has(log.path, size)
    assert disk.has(home.events, 0)
    size += log.append(b"two")
    assert disk.has(log.path, size)
    log.sync()  # not before the other thread is through
    assert len(disk.of(home.events)) == 1  # a name does not change


def test_nobody_waits_for_the_disk_and_writes_share_an_fsync(log: SegmentLog, disk: Disk) -> None:
    disk.gate.clear()
    first = log.append(b"record")
    assert disk.at_the_gate.wait(WAIT_S)  # who syncs stands still now
    size = first + sum(log.append(b"record") for _ in range(500))
    disk.gate.set()
    assert disk.has(log.path, size)
    assert disk.of(log.path) == [first, size]
    assert threading.get_ident() not in {thread for *_, thread in disk.synced}


def test_full_segments_are_synced_too(home: Home, disk: Disk) -> None:
    log = SegmentLog(home, home.events, ".x", segment_bytes=1)
    size = min(log.append(b"record") for _ in range(3))
    paths = segments(home.events, ".x")
    assert len(paths) == 3
    assert all(disk.has(path, size) for path in paths)
    log.close()
    assert content(home) == [b"record"] * 3


def test_closing_syncs_what_is_left_without_the_thread(home: Home, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_log, "FSYNC_S", 1e6)  # the thread would come too late
    log = SegmentLog(home, home.events, ".x")
    size = log.append(b"one")
    assert disk.synced == []
    log.close()
    assert disk.of(log.path) == [size]


def test_logs_of_a_process_share_a_thread_that_ends_with_the_last_of_them(home: Home) -> None:
    before = syncers()
    one, other = SegmentLog(home, home.events, ".x"), SegmentLog(home, home.log, ".x")
    (thread,) = set(syncers()) - set(before)
    one.append(b"one")
    one.close()
    other.append(b"two")
    assert thread.is_alive()
    other.close()
    assert not thread.is_alive()
    again = SegmentLog(home, home.events, ".x")
    assert len(set(syncers()) - set(before)) == 1
    again.close()


def test_a_log_that_is_closed_just_before_an_fsync_is_closed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread once cleared what should have woken it, and who closed the log waited for ever."""
    log, joined, closed = SegmentLog(home, home.events, ".x"), threading.Event(), threading.Event()
    closing = threading.Thread(target=lambda: (log.close(), closed.set()), daemon=True)
    syncer = log._syncer
    clear, join = syncer.dirty.clear, syncer.join

    def after_the_pause() -> None:
        closing.start()
        assert joined.wait(WAIT_S)
        clear()

    monkeypatch.setattr(syncer, "join", lambda: (joined.set(), join()))
    monkeypatch.setattr(syncer.dirty, "clear", after_the_pause)
    log.append(b"one")
    assert closed.wait(WAIT_S)
    assert content(home) == [b"one"]


def test_a_failed_fsync_is_told_once_and_what_comes_next_goes_elsewhere(home: Home, log: SegmentLog, disk: Disk) -> None:
    disk.fails = 1
    log.append(b"one")
    first = log.path
    log.sync()  # by this thread or by the other one, it has failed now
    with pytest.raises(Unsynced, match=str(first)):
        log.append(b"refused")
    assert log.counts.fsync_failures == 1
    size = log.append(b"after")
    assert log.path != first
    assert disk.has(log.path, size)
    assert content(home) == [b"one", b"after"]  # what the process wrote is still there for readers


def test_a_segment_that_was_deleted_is_noticed_and_what_comes_next_is_kept(home: Home, log: SegmentLog) -> None:
    log.append(b"one")
    log.path.unlink()
    log.append(b"two")
    log.sync()
    with pytest.raises(Unsynced, match="deleted"):
        log.append(b"refused")
    log.append(b"three")
    assert content(home) == [b"three"]


def test_a_failed_fsync_that_nobody_was_told_of_is_told_at_the_end(home: Home, disk: Disk) -> None:
    log = SegmentLog(home, home.events, ".x")
    log.append(b"one")
    disk.fails = 1
    with pytest.raises(Unsynced, match="check the disk"):
        log.close()
    assert not [fd for fd in os.listdir("/proc/self/fd") if _leads_to(fd, log.path)]


def _leads_to(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except FileNotFoundError:  # the one that listed them
        return False


def test_a_log_recovers_when_there_is_room_again(home: Home, log: SegmentLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(b"one")
    whole_write = os.write
    monkeypatch.setattr(segment_log.os, "write", lambda fd, data: whole_write(fd, data[:5]))
    with pytest.raises(TornWrite):
        log.append(b"two")
    monkeypatch.undo()
    home.events.rename(home.root / "away")
    home.events.write_text("in the way")  # no new segment can be made
    for _ in range(2):
        with pytest.raises(OSError):
            log.append(b"three")
    home.events.unlink()
    (home.root / "away").rename(home.events)
    log.append(b"four")
    assert content(home) == [b"one", b"four"]


def test_what_no_reader_would_take_is_not_written(log: SegmentLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_log, "MAX_RECORD_BYTES", 10)
    for payload in (b"", b"x" * 11):
        with pytest.raises(ValueError, match="10 at most"):
            log.append(payload)
    assert log.path.stat().st_size == 0


@given(st.floats(0, FSYNC_S / 2), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_on_a_disk_fast_enough_every_write_is_synced_within_the_window(took_s: float, moments: list[float]) -> None:
    """The syncer's loop on a clock of its own: an fsync covers what was written before it began."""
    now_s, waiting, worst = 0.0, sorted(moments), 0.0
    last_took = 0.0
    while waiting:
        now_s = max(now_s, waiting[0]) + pause_s(last_took)
        covered, waiting = [w for w in waiting if w <= now_s], [w for w in waiting if w > now_s]
        now_s, last_took = now_s + took_s, took_s
        worst = max(worst, now_s - covered[0])
    assert worst <= FSYNC_S + 1e-9


# -- following a log -------------------------------------------------------------------------------------------------------


def test_a_tail_gives_what_came_since_from_every_writer_once(tmp_path: Path) -> None:
    home, folder = Home(tmp_path), tmp_path / "log"
    one, other = SegmentLog(home, folder, ".log", 100), SegmentLog(home, folder, ".log")
    one.append(b"before")
    tail, written, seen = Tail(folder, ".log"), set(), []

    def waiting_bytes() -> int:
        return sum(path.stat().st_size for path in segments(folder, ".log")) - sum(tail.offsets.values())

    assert list(tail.new()) == []
    for number in range(60):
        payload = b"%d" % number * 7
        (one if number % 3 else other).append(payload)
        written.add(payload)
        if number % 5 == 0:
            seen += [payload for payload, _, _ in tail.new()]
    assert waiting_bytes() > 0
    late = SegmentLog(home, folder, ".log")
    late.append(b"late")
    found = list(tail.new())
    seen += [payload for payload, _, _ in found]
    assert len(seen) == len(written) + 1
    assert set(seen) == written | {b"late"}
    assert waiting_bytes() == 0
    for log in (one, other, late):
        log.close()
    # Somebody else goes on from where this one stopped in each segment.
    offsets = {name: behind for _, name, behind in found}
    again = Tail(folder, ".log", offsets | {"gone.log": 12})
    assert list(again.new()) == []


def test_a_tail_waits_for_a_record_that_is_being_written(tmp_path: Path) -> None:
    home, folder = Home(tmp_path), tmp_path / "log"
    log = SegmentLog(home, folder, ".log")
    log.append(b"one")
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole[:6])
    tail = Tail(folder, ".log")  # begins behind the last whole record, not in the middle of one
    assert list(tail.new()) == []
    log.path.write_bytes(whole + whole)
    assert [payload for payload, _, _ in tail.new()] == [b"one"]
    log.close()
