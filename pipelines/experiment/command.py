"""What `clickproof experiment` does: run, print, record."""

from infra.errors import ExplainedError
from infra.settings import Settings
from pipelines import figures
from pipelines.console import finish, say
from pipelines.experiment.arms import challenger
from pipelines.experiment.market import Market
from pipelines.experiment.pages import read_out
from pipelines.experiment.run import DAYS, logged, simulated


def experiment_command(
    chosen: Settings, days: int | None, arm_a: str | None, arm_b: str | None, log: bool, as_json: bool, record: bool
) -> None:
    """A test in the simulated market, or with `log` the one that was served."""
    home = chosen.base()
    if days is not None and days < 1:
        raise ExplainedError(f"a test of {days} days can't be read; ask for one day or more (--days)")
    if log:
        result = logged(home, chosen, days, (arm_a, arm_b))
    else:
        names = arm_a or "champion", arm_b or challenger(home)
        say(f"{names[0]} against {names[1]}: the market goes on, split, and once for everybody in each arm")
        result = simulated(home, chosen, Market(home, chosen, days or DAYS), names)
    if record:
        say(f"kept {figures.record('experiment', 'clickproof experiment', figures.ROOMS, result).name}")
    finish(result, as_json, read_out(result))
