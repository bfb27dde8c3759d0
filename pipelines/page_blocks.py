"""The generated parts of the docs, by name: each a function without arguments that gives Markdown."""

from collections.abc import Callable, Sequence

from features import catalogue
from infra.settings import Settings


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def settings_table() -> str:
    """Every setting: variable, default, meaning."""
    rows = [
        (f"`CLICKPROOF_{name.upper()}`", f"`{field.default}`" if field.default not in ("", None) else "", field.description)
        for name, field in Settings.model_fields.items()
    ]
    return table(["variable", "default", "meaning"], rows)


def features_table() -> str:
    """Every feature a model may use, with the view that holds it."""
    rows: list[tuple[str, str, str, str]] = []
    for view in catalogue.VIEWS:
        rows += [(f"`{f.name}`", view.name, f.use, f.help) for f in view.features if f.use != "stored"]
    rows += [(f"`{f.name}`", "computed at the request", f.use, f.help) for f in catalogue.DERIVED]
    rows += [(f"`{f.name}`", "part of the request", f.use, f.help) for f in catalogue.CONTEXT]
    return table(["feature", "where", "use", "meaning"], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "features": features_table,
}
