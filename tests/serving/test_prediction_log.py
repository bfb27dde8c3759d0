"""What is answered is in the log, whatever happens next."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infra.home import Home, ReadOnlyHome
from serving import segment_log
from serving.prediction_log import PredictionLog, Record, TornWrite, features_of, matrix, pack, read, segments, unpack


def record(request_id: int, n: int = 4) -> Record:
    rows = np.arange(n)
    return Record(
        request_id=request_id,
        time_us=1_000_000 + request_id,
        user_id=7,
        policy="greedy",
        randomised=False,
        arm="control",
        artefact="m",
        encoder="e",
        took_us=900,
        ad_id=pack(rows + 100),
        s=pack(np.linspace(-1, 1, n, dtype=np.float32)),
        bid=None,
        fallback_mask=pack(np.zeros(n, np.int32)),
        shown=pack(rows[:2]),
        p=pack(np.array([0.1, 0.2], np.float32)),
        propensity=pack(np.ones(2, np.float32)),
        logged=pack(rows[:2]),
        sampled=2,
        numbers=matrix(("user_ctr",), np.array([[np.nan], [0.5]], np.float32)),
        whole=matrix(("hour",), np.array([[3], [3]])),
        others={"device": pack(np.array(["tv", "mobile"]))},
        snapshots=matrix(("user_daily",), np.array([[0], [20260104]])),
        ages=matrix(("user_daily",), np.array([[np.nan], [60]], np.float32)),
    )


def test_records_come_back_as_they_were_written_with_offsets_to_go_on_from(home):
    log = PredictionLog(home)
    sizes = [log.append(record(number)) for number in range(5)]
    found = list(read(log.path))
    assert [r for r, _ in found] == [record(number) for number in range(5)]
    assert [offset for _, offset in found] == np.cumsum(sizes).tolist()
    assert [r.request_id for r, _ in read(log.path, found[2][1])] == [3, 4]
    features = features_of(found[0][0])
    assert features["device"].tolist() == ["tv", "mobile"]
    assert features["hour"].tolist() == [3, 3]
    np.testing.assert_array_equal(features["user_ctr"], np.array([np.nan, 0.5], np.float32))
    log.close()


@given(
    hnp.arrays(
        st.sampled_from([np.dtype("f4"), np.dtype("i8"), np.dtype("i4"), np.dtype("U5")]),
        hnp.array_shapes(min_dims=1, max_dims=2),
    )
)
def test_an_array_survives_packing(values):
    back = unpack(pack(values))
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_reader_stops_cleanly_wherever_the_tail_is_torn_or_damaged(tmp_path_factory, data):
    home = Home(tmp_path_factory.mktemp("torn"))
    log = PredictionLog(home)
    ends = [0, *np.cumsum([log.append(record(number)) for number in range(3)]).tolist()]
    log.close()
    whole = log.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):
        log.path.write_bytes(whole[:cut])
        intact = sum(end <= cut for end in ends) - 1
    else:
        cut = min(cut, len(whole) - 1)
        flipped = bytearray(whole)
        flipped[cut] ^= 1 << data.draw(st.integers(0, 7))
        log.path.write_bytes(flipped)
        intact = sum(end <= cut for end in ends) - 1
    found = list(read(log.path))
    assert [r.request_id for r, _ in found] == list(range(intact))
    assert (found[-1][1] if found else 0) == ends[intact]


def test_a_full_segment_is_followed_by_another_and_an_empty_one_leaves_nothing(home):
    log = PredictionLog(home, segment_bytes=1)
    for number in range(3):
        log.append(record(number))
    log.close()
    log.close()
    assert [r.request_id for path in segments(home) for r, _ in read(path)] == [0, 1, 2]
    assert len(segments(home)) == 3
    PredictionLog(home).close()
    assert len(segments(home)) == 3
    with pytest.raises(ValueError, match="closed"):
        log.append(record(9))


def test_the_name_of_a_segment_does_not_come_back_after_deletion(home):
    log = PredictionLog(home)
    log.append(record(0))
    log.close()
    log.path.unlink()
    again = PredictionLog(home)
    assert again.path.name != log.path.name
    again.close()


def test_a_short_write_is_an_error_and_later_records_are_not_behind_it(home, monkeypatch):
    log = PredictionLog(home)
    log.append(record(0))
    whole_write = os.write
    monkeypatch.setattr(segment_log.os, "write", lambda fd, data: whole_write(fd, data[:10]))
    with pytest.raises(TornWrite, match="disk full"):
        log.append(record(1))
    monkeypatch.undo()
    log.append(record(2))
    log.close()
    assert [r.request_id for path in segments(home) for r, _ in read(path)] == [0, 2]


def test_threads_may_share_a_log(home):
    log = PredictionLog(home, segment_bytes=20_000)
    threads = [threading.Thread(target=lambda k=k: [log.append(record(k * 100 + i)) for i in range(50)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = sorted(r.request_id for path in segments(home) for r, _ in read(path))
    assert found == sorted(k * 100 + i for k in range(4) for i in range(50))


def test_a_read_only_home_is_not_written(tmp_path):
    with pytest.raises(ReadOnlyHome):
        PredictionLog(Home(tmp_path / "base", writable=False))
    assert not (tmp_path / "base").exists()


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from infra.home import Home
from serving.prediction_log import PredictionLog
from test_prediction_log import record
log = PredictionLog(Home(Path(sys.argv[1])), segment_bytes=200_000)
number = 0
while True:
    log.append(record(number, n=200))
    sys.stdout.buffer.write(number.to_bytes(4, "big"))  # the answer
    sys.stdout.buffer.flush()
    number += 1
"""


@pytest.mark.parametrize("answers", [1, 157, 400])
def test_killing_the_writer_loses_no_answered_record(home, answers, request):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home.root), str(request.config.rootpath), str(request.path.parent)],
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    answered = [int.from_bytes(writer.stdout.read(4), "big") for _ in range(answers)]
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read()  # answers that had left but were not yet seen
    answered += [int.from_bytes(rest[i : i + 4], "big") for i in range(0, len(rest) - len(rest) % 4, 4)]
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    logged = [r.request_id for path in segments(home) for r, _ in read(path)]
    assert logged[: len(answered)] == answered
    assert len(logged) <= len(answered) + 1  # at most the one record whose answer had not left
