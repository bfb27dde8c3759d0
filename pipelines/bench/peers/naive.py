"""The endpoint as it is often written first: FastAPI, pydantic rows, the Feast SDK, a pandas frame, `predict_proba`.

A peer of `clickproof bench serve`, kept readable and fair: the same trees, the same store, the same features and the same
scores (a test holds that); the model, the vocabularies and the `FeatureStore` are made once.  It writes no log, has no policy
and checks no ages, which our endpoint does.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel
from xgboost import XGBClassifier

from features.catalogue import view
from features.feast_repo import store as feast_store
from features.recent import COUNTERS
from infra.clock import LakeClock
from infra.home import Home
from infra.lake import watermark_us
from models.artefact import Artefact
from pipelines.materialize import newest_rows
from serving.champion import champion

if TYPE_CHECKING:
    from feast import FeatureStore

PROGRAM = """
import sys
from pathlib import Path
from pipelines.bench.peers.naive import serve
serve(Path(sys.argv[1]), int(sys.argv[2]))
"""
CAMPAIGN = "campaign_of_ad"  # the key under which the service asks for the campaign


class Context(BaseModel):
    """Where the ads will be shown."""

    device: str = ""
    placement: str = ""
    page_topic: int = -1


class RankBody(BaseModel):
    """Body of POST /v1/rank."""

    user_id: int = -1
    candidates: list[int]
    slots: int
    context: Context = Context()


class RankedAd(BaseModel):
    """One ad of the slate."""

    ad_id: int
    slot: int
    p: float


class RankAnswer(BaseModel):
    """The slate, top slot first."""

    ads: list[RankedAd]


class NaiveRanker:
    """Features by Feast's SDK, scores by scikit-learn's interface of XGBoost."""

    def __init__(self, home: Home) -> None:
        artefact = champion(home)
        self.store: FeatureStore = feast_store(home, "")
        self.service = self.store.get_feature_service(artefact.service)
        self.clock = LakeClock(watermark_us(home))
        self.model = classifier(home, artefact)
        self.numeric = list(artefact.spec.numeric)
        self.codes = {
            name: dict(zip(artefact.encoder.vocabularies[name].values.tolist(), codes.tolist(), strict=True))
            for name in artefact.spec.categorical
            for codes in [artefact.encoder.vocabularies[name].codes]
        }
        self.campaigns = campaigns(home)

    def frame(self, body: RankBody, time_us: int) -> pd.DataFrame:
        """A row a candidate, a column a feature of the model."""
        rows = [
            {
                "user_id": body.user_id,
                "ad_id": ad,
                CAMPAIGN: self.campaigns.get(ad, -1),
                "placement": body.context.placement,
                "request_time": time_us,
                "page_topic": body.context.page_topic,
            }
            for ad in body.candidates
        ]
        frame = self.store.get_online_features(features=self.service, entity_rows=rows).to_df()
        frame = frame.assign(**body.context.model_dump())  # the SDK gives back keys and features only
        for name, (_, half_life_us) in COUNTERS.items():
            if name in self.numeric:  # stored as of the last event; the model wants them as of now
                frame[name] = frame[name] * 0.5 ** ((time_us - frame["user_recent_until"]) / half_life_us)
        for name, codes in self.codes.items():
            frame[name] = frame[name].map(codes).fillna(0)
        return frame[self.numeric + list(self.codes)].astype("float32")

    def rank(self, body: RankBody) -> RankAnswer:
        """The most probable ads."""
        frame = self.frame(body, self.clock.now_us())
        scored = pd.DataFrame({"ad_id": body.candidates, "p": self.model.predict_proba(frame)[:, 1]})
        best = scored.sort_values("p", ascending=False).head(body.slots)
        return RankAnswer(
            ads=[RankedAd(ad_id=row.ad_id, slot=slot, p=row.p) for slot, row in enumerate(best.itertuples(index=False))]
        )


def classifier(home: Home, artefact: Artefact) -> XGBClassifier:
    """The artefact's trees behind scikit-learn's interface, on one thread."""
    model = XGBClassifier(n_jobs=1)
    model.load_model(home.artefacts / artefact.hash / "trees.ubj")
    return model


def campaigns(home: Home) -> dict[int, int]:
    """Each ad's campaign: few enough to be kept, and needed before the store can be asked for the campaign's features."""
    ads = newest_rows(home, view("ad_profile"), watermark_us(home))
    return dict(zip(ads["ad_id"].to_pylist(), ads["campaign_id"].to_pylist(), strict=True))


def create_app(home: Home) -> FastAPI:
    """The endpoint.  Everything is computed in the event loop, as ours is: a thread a request would only add to it."""
    ranker = NaiveRanker(home)
    app = FastAPI()

    @app.post("/v1/rank")
    async def rank(body: RankBody) -> RankAnswer:
        return ranker.rank(body)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    return app


def serve(root: Path, port: int) -> None:
    """Serve a home's champion until told to stop."""
    import uvicorn

    warnings.simplefilter("ignore")  # Feast 0.67 calls deprecated pandas functions at every request
    uvicorn.run(create_app(Home(root)), host="127.0.0.1", port=port, access_log=False, log_level="warning")
