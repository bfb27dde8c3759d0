"""Append-only segments: how records survive the death of a process, and all but the last moment a loss of power.

`serving.prediction_log` and `serving.event_log` write through it before an answer leaves; ingestion in `pipelines` reads what
they wrote.  A segment is a file of frames:

    length of the payload (uint32, little endian) | CRC-32 of the payload (uint32) | payload

A frame goes out through one write(2) to a file opened for appending, so it survives SIGKILL at any point after `append`
returns.  A thread brings what was written to the disk within `FSYNC_S`, so that a loss of power costs no more than that.  A
process that dies inside the write leaves a torn tail, which a reader recognises by length or checksum and leaves alone.  No
segment is ever reopened for writing: a torn tail stays the last thing in its file.
"""

import errno
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, monotonic_ns, perf_counter

import msgspec

from infra.home import Home
from serving.histogram import Times

_HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 64 << 20  # a longer length in a header is damage, not a record
SEGMENT_BYTES = 64 << 20  # a segment is closed once it is longer than this
_UNSYNCED = "what was answered just before is lost if the power fails; check the disk"
FSYNC_S = 0.1  # what a loss of power may cost: answers of so many seconds; see `pause_s` for the disk that this asks for


class TornWrite(OSError):
    """The system took only a part of a record (a full disk, mostly); the answer must not be given."""


class Unsynced(OSError):
    """Records that were answered for earlier may not be on the disk: fsync failed, and a loss of power now would lose them."""


class LogCounts(msgspec.Struct, array_like=True):
    """What a log did since it was opened, for who watches it."""

    records: int = 0
    bytes: int = 0  # with heads
    segments: int = 0  # opened
    write_failures: int = 0
    fsync_failures: int = 0
    fsync: Times = msgspec.field(default_factory=Times.none)

    def plus(self, other: "LogCounts", sign: int = 1) -> "LogCounts":
        """Both together; with sign -1, what came after the other."""
        return LogCounts(
            self.records + sign * other.records,
            self.bytes + sign * other.bytes,
            self.segments + sign * other.segments,
            self.write_failures + sign * other.write_failures,
            self.fsync_failures + sign * other.fsync_failures,
            self.fsync.plus(other.fsync, sign),
        )


class _Segment:
    """A file that is written, or was and is not on the disk yet."""

    def __init__(self, home: Home, folder: Path, suffix: str) -> None:
        """A new, empty one: a number for order, and a token because a name must never come back, even after old segments were
        deleted (the ingestion remembers offsets by name)."""
        number = max((int(path.name.partition("-")[0]) for path in segments(folder, suffix)), default=0) + 1
        self.path = home.writing(folder / f"{number:08d}-{secrets.token_hex(6)}{suffix}")
        self.fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.written = 0
        self.dirty = False  # something was written since the last fsync began
        self.since = self.syncing_since = 0.0  # monotonic: oldest write that no fsync has seen, that the one under way has
        self._named = False  # the folder's entry for it is on the disk

    def sync(self) -> None:
        """Bring content and name to the disk.  Raises OSError."""
        self.syncing_since, self.dirty = self.since, False  # before: what is written meanwhile is for the next time
        try:
            self._sync()
        finally:
            self.syncing_since = 0.0

    def _sync(self) -> None:
        if os.fstat(self.fd).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the file was deleted while it was written", str(self.path))
        os.fsync(self.fd)
        if not self._named:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._named = True


class SegmentLog:
    """Appends payloads to a segment of its own in a folder.  Threads may share one; processes each have their own."""

    def __init__(self, home: Home, folder: Path, suffix: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Raises ReadOnlyHome, and OSError where no segment can be made."""
        self._place = home, folder, suffix
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()  # of all below
        self._segment: _Segment | None = _Segment(*self._place)  # None: the next append opens one
        self._done: list[_Segment] = []  # full or torn: to be synced and closed
        self._todo: list[_Segment] = []  # of the sync under way
        self._failure: OSError | None = None  # of an fsync, not yet told
        self._closed = False
        self.path = self._segment.path  # of the segment last opened
        self.counts = LogCounts(segments=1)
        self._syncing = threading.Lock()  # held by who syncs: only they close files
        self._syncer = _join(self)

    def append(self, payload: bytes) -> int:
        """Write one payload; bytes written.  When this returns it survives SIGKILL.

        Raises OSError where it can't be written: the answer must not be given, and trying again may go well (after a torn
        write or a failed fsync, in a new segment).  ValueError for a payload that no reader would take, and after `close`.
        """
        if not 0 < len(payload) <= MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(payload)} bytes; there must be some, and {MAX_RECORD_BYTES} at most")
        frame = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        with self._lock:
            if self._closed:
                raise ValueError(f"the log of {self.path} is closed; open a new one to write more")
            if self._failure is not None:
                self._tell_failure()
            try:
                segment = self._segment
                if segment is None or segment.written >= self._segment_bytes:
                    segment = self._next()
                taken = os.write(segment.fd, frame)
            except OSError:
                self.counts.write_failures += 1
                raise
            segment.written += taken
            self.counts.bytes += taken
            if not segment.dirty:
                segment.since, segment.dirty = monotonic(), True
                self._syncer.dirty.set()
            if taken != len(frame):
                self.counts.write_failures += 1
                self._retire()
                raise TornWrite(
                    f"{segment.path}: only {taken} of {len(frame)} bytes of a record were written; is the disk full?"
                )
            self.counts.records += 1
        return taken

    def sync(self) -> None:
        """Bring to the disk what was written since the last time, and close segments that are done.  The syncer calls it; an
        error is kept for the next `append`, or for `close`."""
        with self._syncing:
            with self._lock:
                done, self._done = self._done, []
                todo = self._todo = done if self._segment is None else [*done, self._segment]
            for segment in todo:
                try:
                    if segment.dirty:
                        started = monotonic_ns()
                        segment.sync()
                        self.counts.fsync.add(monotonic_ns() - started)
                except OSError as error:
                    with self._lock:
                        self.counts.fsync_failures += 1
                        self._failure = Unsynced(error.errno, f"{error.strerror} at fsync: {_UNSYNCED}", str(segment.path))
                finally:
                    if segment in done:
                        os.close(segment.fd)
            self._todo = []

    def unsynced_s(self) -> float:
        """How long ago the oldest record was written that may not be on the disk; 0 where all are.  One whose fsync failed no
        longer counts here, but in `counts`."""
        with self._lock:
            held = [*self._done, *self._todo, *([] if self._segment is None else [self._segment])]
        since = [segment.syncing_since or segment.since for segment in held if segment.dirty or segment.syncing_since]
        return max(0.0, monotonic() - min(since)) if since else 0.0

    def close(self) -> None:
        """Bring everything to the disk and close; an empty segment is removed.  Closing again does nothing.

        Raises Unsynced where an fsync failed that no `append` has told of."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last = self._segment
            self._retire()
        self._syncer.leave(self)
        self.sync()
        if last is not None and last.written == 0:
            last.path.unlink(missing_ok=True)
        if self._failure is not None:
            self._tell_failure()

    def _next(self) -> _Segment:
        self._retire()
        self._segment = _Segment(*self._place)
        self.counts.segments += 1
        self.path = self._segment.path
        return self._segment

    def _retire(self) -> None:
        if self._segment is not None:
            self._done.append(self._segment)
            self._segment = None
            self._syncer.dirty.set()

    def _tell_failure(self) -> None:
        """Raise what went wrong, once.  After a failed fsync Linux takes the pages for clean, so that another fsync of the same
        file would say nothing (Rebello et al. 2020, "Can applications recover from fsync failures?"): what comes next goes to a
        new segment."""
        failure, self._failure = self._failure, None
        self._retire()
        assert failure is not None
        raise failure


def pause_s(took_s: float) -> float:
    """Seconds to wait between the first unsynced write and the next fsync, when the last round of them took `took_s`.

    Every write is then on the disk FSYNC_S / 2 + took_s later at most, which is FSYNC_S where fsync takes no more than half of
    it; on a slower disk one fsync follows the other, and it is twice what they take."""
    return max(0.0, FSYNC_S / 2 - took_s)


class _Syncer(threading.Thread):
    """Syncs the logs of a process while any of them is open, and ends with the last one."""

    def __init__(self) -> None:
        super().__init__(name="fsync", daemon=True)
        self.dirty = threading.Event()
        self.logs: tuple[SegmentLog, ...] = ()
        self._over = threading.Event()

    def run(self) -> None:
        """Until the last log is closed."""
        took_s = 0.0
        while True:
            self.dirty.wait()
            if self._over.wait(pause_s(took_s)):
                return
            self.dirty.clear()
            if self._over.is_set():  # `leave` woke this thread before it was cleared: nobody will again
                return
            started = perf_counter()
            for log in self.logs:
                log.sync()
            took_s = perf_counter() - started

    def leave(self, log: SegmentLog) -> None:
        """Sync it no more.  When this was the last one the thread has ended."""
        with _joining:
            self.logs = tuple(other for other in self.logs if other is not log)
            if self.logs:
                return
            if _syncers.get(os.getpid()) is self:
                del _syncers[os.getpid()]
        self._over.set()
        self.dirty.set()
        self.join()


_joining = threading.Lock()
_syncers: dict[int, _Syncer] = {}  # by process, since a thread does not outlive a fork


def _join(log: SegmentLog) -> _Syncer:
    with _joining:
        syncer = _syncers.get(os.getpid())
        if syncer is None:
            syncer = _syncers[os.getpid()] = _Syncer()
            syncer.start()
        syncer.logs = (*syncer.logs, log)
        return syncer


def segments(folder: Path, suffix: str) -> list[Path]:
    """Every segment of a folder, oldest first."""
    return sorted(folder.glob(f"*{suffix}"))


def payloads(segment: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Payloads of one segment from a byte offset on, each with the offset just behind its frame (where to go on later).

    Stops before a torn or damaged frame: it may still be in the middle of being written.
    """
    with segment.open("rb") as file:
        file.seek(offset)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if not 0 < length <= MAX_RECORD_BYTES:  # zeros: a file extended but not written, after a power loss
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload) != checksum:
                return
            offset += _HEAD.size + length
            yield payload, offset


def _end(segment: Path) -> int:
    """The offset behind the last whole frame, by the frames' lengths."""
    size, offset = segment.stat().st_size, 0
    with segment.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            behind = offset + _HEAD.size + int(_HEAD.unpack(head)[0])
            if behind > size:
                break
            offset = file.seek(behind)
    return offset


class Tail:
    """What is new in a folder's segments, whoever writes them: for processes that follow a log."""

    def __init__(self, folder: Path, suffix: str, offsets: Mapping[str, int] | None = None) -> None:
        """Begins at `offsets` (segment's name -> byte offset); in other segments that there are now, at their ends."""
        self._folder, self._suffix = folder, suffix
        known = dict(offsets or {})
        self._offsets = {path.name: known.get(path.name, -1) for path in segments(folder, suffix)}
        self._offsets |= {name: _end(folder / name) for name, at in self._offsets.items() if at < 0}

    @property
    def offsets(self) -> dict[str, int]:
        """Up to where each segment was read."""
        return dict(self._offsets)

    def new(self) -> Iterator[tuple[bytes, str, int]]:
        """Payloads that came since the last call, each with its segment's name and the offset behind it."""
        for path in segments(self._folder, self._suffix):
            offset = self._offsets.get(path.name, 0)
            if path.stat().st_size > offset:
                for payload, behind in payloads(path, offset):
                    self._offsets[path.name] = behind
                    yield payload, path.name, behind
