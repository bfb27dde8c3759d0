"""A news shop's prediction log as CSV, to try `clickproof monitor log` on: normal days, and one on which a release went wrong.

    python make_log.py FOLDER [DAYS] [ROWS_A_DAY]

Writes FOLDER/usual/YYYY-MM-DD.csv, FOLDER/normal-day.csv, FOLDER/broken-day.csv, on which a third of the prices came in cents,
and FOLDER/recomputed.csv, the broken day's features as they should have been.  Numpy and pandas are all it needs.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

VISITORS, ARTICLES = 900, 250
FIRST = np.datetime64("2026-03-02")  # a Monday
BY_HOUR = np.array([3, 2, 1, 1, 1, 2, 4, 7, 9, 9, 9, 10, 11, 10, 9, 9, 10, 11, 13, 15, 15, 13, 9, 5]) / 188


class Shop:
    """Who visits, what is sold, and how likely a click is; the same for all days of one seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.taste = rng.normal(0, 0.5, VISITORS)
        self.country = rng.choice(["AT", "CH", "DE", "NL"], VISITORS, p=[0.2, 0.2, 0.4, 0.2])
        self.often = rng.pareto(2.0, VISITORS) + 0.5
        self.appeal = rng.normal(0, 0.5, ARTICLES)
        self.price = np.exp(rng.normal(3, 0.7, ARTICLES)).round(2)
        self.section = rng.choice(["garden", "kitchen", "office", "sport", "toys"], ARTICLES)
        self.popular = rng.pareto(1.5, ARTICLES) + 0.3

    def day(self, number: int, rows: int) -> tuple[pd.DataFrame, np.ndarray]:
        """A day's log without predictions, and its true click probabilities."""
        rng = np.random.default_rng([7, number])
        weekend = number % 7 >= 5
        rows = int(rows * np.exp(0.05 * rng.normal()) * (1.2 if weekend else 1.0))
        hour = np.sort(rng.choice(24, rows, p=BY_HOUR))
        seconds = number * 86_400 + hour * 3600 + rng.integers(0, 3600, rows)
        visitor = rng.choice(VISITORS, rows, p=self.often / self.often.sum())
        article = rng.choice(ARTICLES, rows, p=self.popular / self.popular.sum())
        logit = -2.6 + 0.8 * self.taste[visitor] + 0.8 * self.appeal[article] - 0.2 * np.log(self.price[article] / 20)
        device = rng.choice(["phone", "laptop", "tablet"], rows, p=[0.6, 0.3, 0.1])
        logit += 0.2 * (device == "phone") + 0.03 * rng.normal()
        waited = rng.exponential(30, rows).round(1)
        waited[rng.random(rows) < 0.06] = np.nan  # first visits
        log = pd.DataFrame({
            "view_id": [f"v{number:03d}-{row:06d}" for row in range(rows)],
            "shown_at": (FIRST + seconds.astype("timedelta64[s]")).astype("datetime64[s]").astype(str),
            "clicked": rng.random(rows) < 1 / (1 + np.exp(-logit)),
            "model": "m7", "variant": np.where(visitor % 2 == 0, "a", "b"),
            "visitor": visitor, "article": article, "device": device, "country": self.country[visitor],
            "section": self.section[article], "price": self.price[article],
            "visitor_ctr": (0.08 * np.exp(0.7 * self.taste[visitor])).round(4),
            "article_ctr": (0.08 * np.exp(0.7 * self.appeal[article])).round(4),
            "depth": rng.beta(2, 3, rows).round(3), "hours_since_visit": waited, "hour": hour,
        })  # fmt: skip
        return log.sort_values("shown_at", ignore_index=True), 1 / (1 + np.exp(-logit))


def predict(log: pd.DataFrame) -> np.ndarray:
    """The shop's model: it knows rates, price and device, and sees what the log says."""
    logit = -2.6 + 1.14 * np.log(log["visitor_ctr"] / 0.08) + 1.14 * np.log(log["article_ctr"] / 0.08)
    logit += 0.2 * (log["device"] == "phone") - 0.2 * np.log(log["price"] / 20)
    return (1 / (1 + np.exp(-logit))).round(6).to_numpy()


def main(folder: Path, days: int = 10, rows: int = 4000) -> None:
    """Write the files."""
    shop = Shop(seed=3)
    (folder / "usual").mkdir(parents=True, exist_ok=True)
    for number in range(days + 2):
        log, _ = shop.day(number, rows)
        if number == days + 1:
            log.drop(columns="clicked").to_csv(folder / "recomputed.csv", index=False)
            cents = np.random.default_rng(9).random(len(log)) < 0.33
            log.loc[cents, "price"] *= 100
        log["p_click"] = predict(log)
        name = ("normal-day", "broken-day")[number - days] if number >= days else f"usual/{FIRST + number}"
        log.to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
