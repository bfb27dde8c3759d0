"""The market's requests and clicks over HTTP: each waits for its time, is sent to the endpoint, and what comes back is shown.

One connection, one request after the other: the endpoint answers in a millisecond or two, so that carries some hundred requests
a second.  Called by `pipelines.live.system` through `Ask`.
"""

import http.client
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import ExplainedError
from infra.home import Home
from pipelines.live.ask import SLOTS, slates
from pipelines.live.endpoint import TIME_HEADER
from pipelines.live.injection import Fault
from pipelines.live.logged import ClickTail, LogTail
from pipelines.live.pace import Pace
from pipelines.live.token import HEADER
from pipelines.sources.contract import Requests, Slates


class OverHttp:
    """Asks the endpoint on a port of this machine."""

    def __init__(self, home: Home, port: int, token: str, pace: Pace, write_token: str = "") -> None:
        """`home` is the branch that the endpoint writes its logs to; `write_token` its own, where it has one."""
        self._link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._token, self._pace = token, pace
        self._may_write = {"Authorization": f"Bearer {write_token}"} if write_token else {}
        self._tail, self._clicks = LogTail(home), ClickTail(home)
        self.failed = 0  # requests that got no slate

    def __call__(self, asked: Requests) -> Slates:
        answers = [self._one(asked, at) for at in range(len(asked))]
        policy = next((answer["policy"] for answer in answers if answer), "none")
        shown, propensity = [], []
        for answer, candidates in zip(answers, asked.candidates.tolist(), strict=True):
            ads = answer["ads"] if answer else []
            shown.append(np.array([candidates.index(ad["ad_id"]) for ad in ads], np.int64))
            propensity.append([ad["propensity"] for ad in ads])
        return slates(asked, shown, propensity, [bool(answer and answer["randomised"]) for answer in answers], policy)

    def _one(self, asked: Requests, at: int) -> dict[str, Any] | None:
        """The answer to one request; None where the endpoint has none to give, which a fault can bring about."""
        self._pace.wait(int(asked.time_us[at]))
        user = int(asked.user_id[at])
        body = {
            "request_id": int(asked.request_id[at]),
            "candidates": asked.candidates[at].tolist(),
            "slots": SLOTS,
            "context": {name: values[at].item() for name, values in asked.context.items()},
            **({"user_id": user} if user >= 0 else {}),
        }
        status, answer = self.post("/v1/rank", body, {TIME_HEADER: str(int(asked.time_us[at]))})
        if status == 200:
            return answer
        if status < 500:  # 4xx: what was asked is wrong, and will be again
            raise ExplainedError(f"the endpoint refused a request of the market: {answer}")
        self.failed += 1
        return None

    def clicked(self, clicks: pa.Table) -> pa.Table:
        """See `Ask`: each is sent by itself, with the time at which it arrives."""
        times = [pc.cast(clicks[name], pa.int64()).to_pylist() for name in ("event_timestamp", "arrived_at")]
        ids = [clicks[name].to_pylist() for name in ("click_id", "impression_id")]
        for click_id, impression_id, at_us, arrived_us in zip(*ids, *times, strict=True):
            body = {"click_id": click_id, "impression_id": impression_id, "time": at_us}
            status, answer = self.post("/v1/events", body, {TIME_HEADER: str(arrived_us), **self._may_write})
            if status != 202:
                raise ExplainedError(f"the endpoint did not take a click of the market: {answer}")
        return self._clicks.new()

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """(status, answer) of a POST with the drill token."""
        head = {"Content-Type": "application/json", HEADER: self._token, **(headers or {})}
        self._link.request("POST", path, json.dumps(body), head)
        with self._link.getresponse() as answer:
            return answer.status, json.loads(answer.read())

    def wait(self, until_us: int) -> None:
        """See `Ask`."""
        self._pace.wait(until_us)

    def logged(self, fault: Fault) -> list[pa.Table]:
        """See `Ask`."""
        return [fault.rows("log", "predictions", rows) for rows in self._tail.new()]

    def close(self) -> None:
        """Hang up."""
        self._link.close()
