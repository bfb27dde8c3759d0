"""A click as a user sends it: to the endpoint of a trained home, and with the next `clickproof ingest` into the lake."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from as_a_user import MainJob, clickproof
from fastapi.testclient import TestClient

from features.ids import click_id
from infra.home import Home
from infra.lake import Lake
from infra.settings import Settings
from serving.serve import home_app

BODY = {"user_id": 42, "candidates": [11, 12, 13, 14], "slots": 2, "context": {"device": "mobile", "placement": "home_top"}}


def unclicked(home: Home) -> int:
    """An impression of the lake's last day that nobody clicked."""
    lake = Lake.of(home)
    shown = lake.read("impressions", ["impression_id"], lake.days("impressions")[-1:])["impression_id"]
    clicked = lake.read("clicks", ["impression_id"])["impression_id"]
    return shown.filter(pc.invert(pc.is_in(shown, value_set=clicked.combine_chunks())))[-1].as_py()


def test_clicks_on_what_was_shown_are_ingested_and_others_wait(main_job: MainJob, tmp_path: Path) -> None:
    home = Home(tmp_path / main_job.home.root.name)
    shutil.copytree(main_job.home.root, home.root, ignore=shutil.ignore_patterns("branches"))
    shown, before = unclicked(home), Lake.of(home).read("clicks").num_rows
    with TestClient(home_app(home, Settings(home=tmp_path, size="tiny")), client=("127.0.0.1", 4000)) as client:
        while "being loaded" in client.get("/readyz").text:
            time.sleep(0.05)
        ranked = client.post("/v1/rank", json=BODY).json()["ads"][0]["impression_id"]
        for _ in range(2):
            sent = {"clicks": [{"impression_id": shown}, {"impression_id": str(ranked)}]}
            assert client.post("/v1/events", json=sent).status_code == 202
    for _ in range(2):
        clickproof("ingest", "--size", "tiny", home=tmp_path)
        clicks = Lake.of(home).read("clicks")
        assert clicks.num_rows == before + 1
        assert clicks.filter(pc.equal(clicks["impression_id"], shown))["click_id"].to_pylist() == [int(click_id(shown))]
    waiting = Lake.of(home).read("pending", days=Lake.of(home).days("ingests")[-1:])
    assert ranked in waiting["impression_id"].to_pylist()
    predictions = Lake.of(home).read("predictions")
    answered = predictions.filter(pc.equal(predictions["impression_id"], ranked))["event_timestamp"].cast(pa.int64())[0]
    clicked = waiting.filter(pc.equal(waiting["impression_id"], ranked))["event_timestamp"].cast(pa.int64())[0]
    assert clicked.as_py() >= answered.as_py()  # one clock
