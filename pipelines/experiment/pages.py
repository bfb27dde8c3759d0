"""A test's read-out as Markdown tables, for the terminal and for the walkthrough."""

from collections.abc import Sequence
from typing import Any

from pipelines.markdown import table

NAMES = {"ctr": "CTR", "engagement": "pages a user and day", "next-day return": "next-day return"}


def read_out(result: dict[str, Any]) -> str:
    """Everything, in the order in which it should be read: trust first."""
    return "\n\n".join([what(result), ratio(result), by_day(result), verdicts(result), false(result), planning(result)])


def what(result: dict[str, Any]) -> str:
    """Arms, days, users."""
    arms = [f"{arm}: {found['name']}{_hashes(found['models'])}" for arm, found in result["arms"].items()]
    users = sum(column[-1] for column in result["ratio"]["users"])
    left_out = [
        f"{result[name]:,} {words} left out"
        for name, words in (("moved", "users seen in several arms"), ("nobody", "requests of no known user"))
        if result.get(name)
    ]
    return "; ".join([*arms, f"{len(result['days'])} days from {result['days'][0]}, {users:,} users", *left_out]) + "."


def _hashes(models: Sequence[str]) -> str:
    return f" ({', '.join(models)})" if models else ""


def ratio(result: dict[str, Any]) -> str:
    """The sample ratio in a sentence."""
    found = result["ratio"]
    a, b = (column[-1] for column in found["users"])
    odds = 10 ** found["log10_evidence"][-1]
    planned = ":".join(f"{100 * share / sum(found['planned']):g}" for share in found["planned"])
    verdict = (
        "as planned" if found["wrong_since"] is None else f"**wrong since day {found['wrong_since']}: do not read this test**"
    )
    return (
        f"Sample ratio by users: {a:,} to {b:,}, planned {planned}; odds against the plan {odds:.2g} to 1 "
        f"(alarm at {1 / found['alpha']:,.0f}): {verdict}."
    )


def by_day(result: dict[str, Any]) -> str:
    """Users by arm, and the lift of each metric so far, with the interval that may be looked at every day."""
    a, b = result["ratio"]["users"]
    rows = [
        [day[5:], f"{a[look]:,} / {b[look]:,}", *(_lift(found, look) for found in result["metrics"].values())]
        for look, day in enumerate(result["days"])
    ]
    return table(["evening of", "users a / b", *(f"lift in {NAMES[name]}" for name in result["metrics"])], rows)


def _rates(name: str, found: dict[str, Any]) -> str:
    """Of both arms at the end, as they were."""
    found = found["unadjusted"] or found
    a, b = found["a"][-1], found["b"][-1]
    return "" if a is None or b is None else f"{a:.2f} / {b:.2f}" if name == "engagement" else f"{a:.2%} / {b:.2%}"


def _lift(found: dict[str, Any], look: int, low: str = "low", high: str = "high") -> str:
    value, bounds = found["lift"][look], (found[low][look], found[high][look])
    if value is None or found["width"][look] is None:
        return "too few"
    if bounds[1] is None:
        return f"{value:+.1%} (above {bounds[0]:+.1%})"
    return f"{value:+.1%} ({bounds[0]:+.1%} to {bounds[1]:+.1%})"


def verdicts(result: dict[str, Any]) -> str:
    """Each metric at the end: by arm, lift, truth, and when it could have been stopped."""
    rows = []
    for name, found in result["metrics"].items():
        called = "no" if found["called"] is None else f"day {found['called']}: {found['better']} is better"
        row = [NAMES[name], _rates(name, found), _lift(found, -1), _lift(found, -1, "once_low", "once_high")]
        row += [_lift(found["unadjusted"], -1)] if found["unadjusted"] else []
        rows.append([*row, *([f"{found['truth'][-1]:+.1%}"] if "truth" in found else []), called])
    head = ["metric", "a / b", "lift, sequential 95%", "95% if looked at once"]
    head += ["sequential, without the days before"] if result["metrics"]["ctr"]["unadjusted"] else []
    return table([*head, *(["true lift"] if "truth" in result["metrics"]["ctr"] else []), "could be stopped"], rows)


def false(result: dict[str, Any]) -> str:
    """How often a winner is called where there is none."""
    found = result["false"]
    rows = [
        [NAMES[name], *(f"{share:.1%}" for share in (called["sequential"][-1], called["daily"][-1], called["once"]))]
        for name, called in found["metrics"].items()
    ]
    head = ["A/A: a winner is called", "sequential, every day", "p < 0.05, every day", "p < 0.05, once at the end"]
    return (
        table(head, rows)
        + f"\n\n{found['splits']:,} splits of one log by other salts, nobody treated differently; "
        + f"the sample ratio is called wrong in {found['ratio']:.1%}."
    )


def planning(result: dict[str, Any]) -> str:
    """Power, from the days before the test."""
    plan = result["plan"]
    if plan is None:
        return "Nothing is known of the days before: no plan."
    rows = []
    for name, found in plan["metrics"].items():
        smallest = [f"{found[how][-1]:.1%}" if found[how][-1] is not None else "" for how in ("daily", "once")]
        never = f"over {plan['days']}"
        rows.append([NAMES[name], *smallest, *(one["daily"] or never for one in found["days"])])
    first = plan["metrics"]["ctr"]["days"]
    head = [
        "planned",
        f"smallest lift seen in {plan['days']} days",
        "looked at once",
        *(f"days for {one['lift']:.0%}" for one in first),
    ]
    adjusted = f", adjusted by the {plan['before']} days before those" if plan["before"] else ""
    return (
        table(head, rows)
        + f"\n\nFrom {plan['users']:,} users on the {plan['days']} days before the test{adjusted}; a lift that is there from "
        + f"the first day is seen with {plan['power']:.0%} power, looking every day but for the second column."
    )
