"""Open Bandit as a source, on small files made in the data's own shape: nothing is fetched."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.schemas import ADS, CATEGORIES, CLICKS, IMPRESSIONS, REQUESTS
from infra.clock import DAY_US, day_name
from infra.errors import ExplainedError
from infra.home import Home
from pipelines.sources.open_bandit import CAMPAIGNS, FIRST_DAY_US, POLICIES, USER_FEATURES, ad_id
from pipelines.sources.registry import source

ITEMS = {"all": 5, "men": 3, "women": 4}
HEADER = ",timestamp,item_id,position,click,propensity_score," + ",".join(USER_FEATURES) + ",user-item_affinity_0"


def log_line(row: int, when: str, item: int, position: int, click: int, propensity: float, user: str = "aa") -> str:
    return f"{row},{when}+00:00,{item},{position},{click},{propensity},{user},b{row % 2},c,d,0.0"


def make(root: Path, edit: Callable[[str, list[str]], list[str]] = lambda name, lines: lines) -> Path:
    """The data's twelve files with a week of rows each; `edit` may change the lines of a file by its name."""
    for policy in POLICIES:
        for campaign, items in ITEMS.items():
            folder = root / policy / campaign
            folder.mkdir(parents=True)
            lines = [HEADER]
            for row in range(28):
                when = f"2019-11-{24 + row // 4} 0{row % 4 * 2}:15:0{row % 7}.00400{row % 10}"
                lines.append(log_line(row, when, row % items, 1 + row % 3, int(row % 9 == 0), 1 / items))
            # One page view of two positions: same instant, same user, different positions.
            same = "2019-11-30 23:50:00.000001"
            lines += [log_line(28, same, 0, 1, 1, 1 / items), log_line(30, same, 1, 2, 0, 1 / items)]
            # The same position again at the same instant: another view.  And another user at the same instant: another view.
            lines += [log_line(32, same, 2, 2, 0, 1 / items), log_line(34, same, 2, 3, 0, 1 / items, user="zz")]
            name = f"{policy}/{campaign}/{campaign}.csv"
            (root / name).write_text("\n".join(edit(name, lines)) + "\n")
            context = [",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"]
            context += [f"{item},{item},-0.5,x,y,{campaign}{policy}{item % 2}" for item in range(items)]
            name = f"{policy}/{campaign}/item_context.csv"
            (root / name).write_text("\n".join(edit(name, context)) + "\n")
    return root


def landed(home: Home, stream: str) -> pa.Table:
    parts = sorted((home.landing / stream).glob("day=*/part-0.parquet"))
    return pa.concat_tables([pq.ParquetFile(part).read() for part in parts])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("obd"))


@pytest.fixture(scope="module")
def home(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    rows = source("open-bandit", "small", 1, data).deliver(home, progress=False)
    assert rows == {"requests": 6 * 31, "impressions": 6 * 32, "clicks": 6 * 5, "ads": 12}
    return home


def test_tables_have_the_contract_schemas(home: Home, data: Path) -> None:
    assert landed(home, "requests").schema == REQUESTS
    assert landed(home, "clicks").schema == CLICKS
    assert landed(home, "ads").schema == ADS
    shown = landed(home, "impressions")
    assert list(shown.schema)[: len(IMPRESSIONS)] == list(IMPRESSIONS)
    assert tuple(shown.column_names[len(IMPRESSIONS) :]) == source("open-bandit", "small", 1, data).spec.context
    for stream in ("requests", "impressions", "clicks", "ads"):
        table = landed(home, stream)
        for field in table.schema:
            assert field.nullable or table[field.name].null_count == 0
    assert not home.truth.exists()


def test_the_week_lands_by_day(home: Home) -> None:
    for stream in ("requests", "impressions", "clicks", "ads"):
        for number, part in enumerate(sorted((home.landing / stream).glob("day=*/part-0.parquet"))):
            assert part.parent.name == f"day={day_name(FIRST_DAY_US + number * DAY_US)}"
            arrived = pq.ParquetFile(part).read()["arrived_at"].cast(pa.int64()).to_numpy()
            assert ((arrived - FIRST_DAY_US) // DAY_US == number).all()
        assert number == 6
    assert pc.all(pc.equal(landed(home, "impressions")["arrived_at"], landed(home, "impressions")["event_timestamp"])).as_py()


def test_rows_keep_what_the_log_says(home: Home) -> None:
    shown = landed(home, "impressions").to_pandas()
    first = shown[(shown.policy == "bts") & (shown.placement == "men")].sort_values("event_timestamp").iloc[1]
    assert str(first.event_timestamp) == "2019-11-24 02:15:01.004001+00:00"
    assert first.ad_id == ad_id("men", 1)
    assert first.slot == 1
    assert first.propensity == pytest.approx(1 / 3)
    assert first.n_candidates == 3
    assert (first.user_feature_0, first.user_feature_1) == ("aa", "b1")
    assert shown.user_id.isna().all()
    assert shown.bid.isna().all()
    assert (shown.randomised == (shown.policy == "random")).all()
    assert set(shown.placement) == set(CAMPAIGNS)


def test_ids_are_unique_and_clicks_have_the_time_of_their_impression(home: Home) -> None:
    requests, shown, clicks = (landed(home, name).to_pandas() for name in ("requests", "impressions", "clicks"))
    assert requests.request_id.is_unique
    assert shown.impression_id.is_unique
    assert clicks.click_id.is_unique
    assert set(shown.request_id) == set(requests.request_id)
    joined = clicks.merge(shown, on="impression_id", suffixes=("", "_shown"))
    assert len(joined) == len(clicks)
    assert (joined.event_timestamp == joined.event_timestamp_shown).all()


def test_a_page_view_is_one_request_only_where_the_log_shows_it(home: Home) -> None:
    shown = landed(home, "impressions").to_pandas()
    of_one = shown[(shown.policy == "random") & (shown.placement == "all") & (shown.event_timestamp.dt.hour == 23)]
    views = [sorted(slots) for slots in of_one.groupby("request_id").slot.apply(list)]
    assert sorted(views) == [[0, 1], [1], [2]]
    requests = landed(home, "requests").to_pandas().set_index("request_id")
    assert shown.groupby("request_id").size().to_dict() == requests.n_shown.to_dict()


def test_items_of_different_campaigns_are_different_ads_with_categories_in_range(home: Home) -> None:
    ads = landed(home, "ads").to_pandas()
    assert ads.ad_id.is_unique
    assert set(landed(home, "impressions")["ad_id"].to_pylist()) <= set(ads.ad_id)
    assert sorted(ads.ad_category.unique()) == list(range(6))
    assert ads.ad_category.max() < CATEGORIES
    assert ads[["campaign_id", "advertiser_id", "ad_format", "ad_price"]].isna().all().all()


def test_wheel_unpacked_package_and_folder_give_the_same_files(data: Path, home: Home, tmp_path: Path) -> None:
    wheel = tmp_path / "obp-0.4.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in data.rglob("*.csv"):
            archive.write(path, f"obp/dataset/obd/{path.relative_to(data)}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    for name, given in (("a", wheel), ("b", tmp_path / "unpacked")):
        other = Home(tmp_path / name)
        source("open-bandit", "small", 1, given).deliver(other, progress=False)
        for part in home.landing.rglob("*.parquet"):
            assert part.read_bytes() == (other.landing / part.relative_to(home.landing)).read_bytes()


def test_missing_data_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ExplainedError, match="pip download --no-deps obp"):
        source("open-bandit", "small", 1, None)
    with pytest.raises(ExplainedError, match="doesn't exist"):
        source("open-bandit", "small", 1, tmp_path / "nowhere")
    with pytest.raises(ExplainedError, match=r"has no random/all/item_context\.csv"):
        source("open-bandit", "small", 1, tmp_path).deliver(Home(tmp_path / "home"), progress=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    root = make(tmp_path / "obd")
    (root / "bts/men/men.csv").unlink()
    with pytest.raises(ExplainedError, match=r"has no bts/men/men\.csv"):
        source("open-bandit", "small", 1, root).deliver(Home(tmp_path / "home"), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [line.replace("position", "place") for line in lines], r"bts/men/men\.csv: .*position"),
        (lambda lines: [*lines[:3], log_line(2, "2019-11-24 09:00:00", 1, 4, 0, 0.3)], r"men\.csv, row 4: position is 4"),
        (lambda lines: [*lines[:3], log_line(2, "2019-11-24 09:00:00", 1, 2, 2, 0.3)], r"men\.csv, row 4: click is 2"),
        (lambda lines: [*lines[:3], log_line(2, "2019-11-24 09:00:00", 1, 2, 0, 0.0)], r"row 4: propensity_score is 0"),
        (lambda lines: [*lines[:3], log_line(2, "2019-11-24 09:00:00", 3, 2, 0, 0.3)], r"row 4: item_id is 3"),
        (lambda lines: [*lines[:3], log_line(2, "2019-12-24 09:00:00", 1, 2, 0, 0.3)], r"outside 2019-11-24 \.\. 2019-11-30"),
        (lambda lines: [*lines[:3], log_line(2, "yesterday", 1, 2, 0, 0.3)], r"bts/men/men\.csv: .*timestamp"),
    ],
)
def test_strange_values_are_named_with_file_row_and_field(
    change: Callable[[list[str]], list[str]], message: str, tmp_path: Path
) -> None:
    root = make(tmp_path / "obd", lambda name, lines: change(lines) if name == "bts/men/men.csv" else lines)
    with pytest.raises(ExplainedError, match=message):
        source("open-bandit", "small", 1, root).deliver(Home(tmp_path / "home"), progress=False)


def test_spec_declares_what_is_there(data: Path) -> None:
    spec = source("open-bandit", "small", 1, data).spec
    assert spec.entities == ("ad", "placement")
    assert "users" not in spec.streams
    assert not spec.truth
    split = spec.split
    assert split.features + split.train + split.valid + split.calibrate + split.test == spec.days - 1
    assert np.all([min(split.train, split.valid, split.calibrate, split.test) >= 1])
