"""The catalogue of bugs as a generated part of docs/bugs.md.  Registered in `pipelines.page_blocks`."""

from monitoring.bugs.catalogue import BUGS
from monitoring.bugs.entry import Bug
from monitoring.classes import CLASSES


def bug_catalogue() -> str:
    """Every entry: a table to look things up in, then each one's story."""
    head = "| code | name | class | enters at | guilty | strong, mild, trace | dose |\n|---|---|---|---|---|---|---|"
    rows = [
        f"| {entry.code} | [{entry.name}](#{entry.code.lower()}) | {entry.bug_class} | {_stage(entry)} | `{entry.subject}` "
        f"| {_doses(entry)} | {entry.dose_means} |"
        for entry in BUGS
    ]
    return "\n".join([f"{len(BUGS)} bugs.", "", head, *rows, "", *(_story(entry) for entry in BUGS)])


def _stage(entry: Bug) -> str:
    gate = any(known.slug == entry.bug_class and known.judged == "gate" for known in CLASSES)
    return f"{entry.stage} (gate)" if gate else entry.stage


def _doses(entry: Bug) -> str:
    return ", ".join(f"{entry.doses[intensity]:.3g}" for intensity in ("strong", "mild", "trace"))


def _story(entry: Bug) -> str:
    return f'<a id="{entry.code.lower()}"></a>**{entry.code} {entry.name}.** {entry.story} *How it looks:* {entry.looks_like}\n'
