"""Makes plants: a world from nothing with its champion, or the continuation of a home that somebody trained.

The reference are the first `REFERENCE_DAYS` days that no model was trained on; bugs may start behind it.
"""

from pathlib import Path

from features.spec import feature_spec
from infra.clock import DAY_US
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import watermark_us
from infra.settings import Settings
from models.artefact import Artefact, load
from models.contract import FeatureSpec
from models.train import train_family
from pipelines.ingest import ingest_all
from pipelines.materialize import materialize_all
from pipelines.plant.plant import Plant
from pipelines.plant.recording import go_on, recorded_days
from pipelines.sources.registry import source
from pipelines.sources.world.source import WorldSource
from pipelines.training_set import Window, build, select, split_windows
from serving.champion import champion

SERVICE = "ctr_full"
ATTRIBUTION_HOURS = 24.0
REFERENCE_DAYS = 14  # two of each weekday
FAMILY = "xgboost"  # the family that wins on these markets
PREVIOUS_DAYS = 2  # how much older the data of the previous champion are


def make(folder: Path, tuning: str, seed: int, days: int) -> Plant:
    """See `Plant.make`."""
    home, world = Home(folder / f"{tuning}-{seed}"), _world(tuning, seed)
    name = _champion_of(home)
    if not name.exists():
        world.deliver(home, progress=False)
        _bring_in(home, world)
        trained = _train(home, world, split_windows(world.spec)).save(home.artefacts)
        home.writing(name).write_text(trained)
    _go_on(home, world, world.config.end_us + days * DAY_US)
    return _made(home, world)


def reopen(folder: Path) -> Plant:
    """See `Plant.open`."""
    home = Home(folder)
    if not _champion_of(home).exists() or not recorded_days(home):
        raise ExplainedError(f"{folder} holds no plant, or one that was not finished; make it with Plant.make")
    tuning, _, seed = folder.name.rpartition("-")
    return _made(home, _world(tuning, int(seed)))


def _made(home: Home, world: WorldSource) -> Plant:
    """The plant of a home that `make` filled."""
    first_us = world.config.end_us - DAY_US  # the history's last day: its labels were not ripe for training
    serving = load(home.artefacts, _champion_of(home).read_text())
    return Plant(home, world, serving, {FAMILY: serving.hash}, (first_us, first_us + REFERENCE_DAYS * DAY_US))


def _champion_of(home: Home) -> Path:
    return home.root / "plant" / "champion.txt"


def of(home: Home, chosen: Settings, days: int) -> Plant:
    """See `Plant.of`."""
    world, serving = _world_of(chosen), champion(home)
    start_us = _start_us(home, world)
    end_us = start_us + days * DAY_US
    _go_on(home, world, end_us)
    first_us = _untrained_us(world)
    reference = first_us, min(max(first_us + REFERENCE_DAYS * DAY_US, start_us), end_us - DAY_US)
    others = {load(home.artefacts, path.name).family: path.name for path in sorted(home.artefacts.iterdir()) if path.is_dir()}
    return Plant(home, world, serving, others, reference)


def days_of_reference(home: Home, chosen: Settings) -> int:
    """How many days a home's world must go on before its plant has a whole reference; bugs take their days on top."""
    world = _world_of(chosen)
    return max(0, (_untrained_us(world) + REFERENCE_DAYS * DAY_US - _start_us(home, world)) // DAY_US)


def _world_of(chosen: Settings) -> WorldSource:
    if chosen.source != "world":
        raise ExplainedError(f"this needs a world that goes on; {chosen.source} is a finished log (use --source world)")
    return _world(chosen.size, chosen.seed)


def _start_us(home: Home, world: WorldSource) -> int:
    """Where the plant of a home begins: where its world stood when recording began, or stands now."""
    done = recorded_days(home)
    start_us = done[0] if done else world.resume(home).now_us
    if start_us % DAY_US:
        raise ExplainedError(f"the events of {home.root} end within a day; a plant goes on from a midnight")
    return start_us


def _untrained_us(world: WorldSource) -> int:
    """The first instant that no model was trained, stopped or calibrated on."""
    return max(window.last_us for name, window in split_windows(world.spec).items() if name != "test")


def _world(size: str, seed: int) -> WorldSource:
    found = source("world", size, seed, None)
    if not isinstance(found, WorldSource):
        raise TypeError(f"{found.spec.name} is no world")
    return found


def _go_on(home: Home, world: WorldSource, until_us: int) -> None:
    if until_us > world.config.horizon_us:
        raise ExplainedError(f"this world is planned for {world.config.horizon_days} days; ask for fewer")
    done = recorded_days(home)
    if not done or done[-1] + DAY_US < until_us:
        go_on(home, world, until_us)
    _bring_in(home, world)


def _bring_in(home: Home, world: WorldSource) -> None:
    ingest_all(home, world.spec, progress=False)
    materialize_all(home, world.spec, progress=False)


def previous(home: Home, world: WorldSource) -> Artefact:
    """A champion of earlier days: what served before the one that serves."""
    back = PREVIOUS_DAYS * DAY_US
    windows = split_windows(world.spec)
    earlier = {name: Window(window.first_us - back, window.last_us - back) for name, window in windows.items()}
    first, last = earlier["train"].first_us, earlier["train"].last_us
    earlier["train"] = Window(last - (last - first) // 2 // DAY_US * DAY_US, last)
    return _train(home, world, earlier)


def _train(home: Home, world: WorldSource, windows: dict[str, Window]) -> Artefact:
    whole = Window(min(window.first_us for window in windows.values()), max(window.last_us for window in windows.values()))
    made = build(home, world.spec, whole, watermark_us(home), ATTRIBUTION_HOURS, SERVICE)
    train, valid, calibrate = (select(made.data, windows[name]) for name in ("train", "valid", "calibrate"))
    names = feature_spec(world.spec.entities, world.spec.context, SERVICE)
    spec = FeatureSpec(names.categorical, names.numeric, names.sequence)
    seed, entities = world.config.seed, world.spec.entities
    return train_family(FAMILY, train, valid, calibrate, spec, seed, service=SERVICE, entities=entities).artefact
