"""The trials of a search, in words and as a section of the report."""

from html import escape

from millirec.frontier.search import Searched, Trial


def summary(found: Searched) -> str:
    """How many trials ended how."""
    counts = {state: sum(trial.state == state for trial in found.trials) for state in ("complete", "pruned", "refused")}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    best = ", ".join(f"trial-{number}" for number in found.finalists) or "none"
    return f"{len(found.trials)} trials: {told or 'none ended'}; finalists: {best}"


def section(found: Searched | None) -> str:
    """A table of all trials; nothing where nothing was searched."""
    if found is None or not found.trials:
        return ""
    settings = list(dict.fromkeys(name for trial in found.trials for name in trial.settings))
    figures = list(dict.fromkeys(name for trial in found.trials for name in trial.figures))
    heads = ("trial", "state", *settings, *figures, "note")
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heads)
    rows = "".join(_row(trial, settings, figures, best=trial.number in found.finalists) for trial in found.trials)
    return (
        f"<section><h2>The search</h2><p>{escape(summary(found))}. Figures of trials are of the validation part.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _row(trial: Trial, settings: list[str], figures: list[str], *, best: bool) -> str:
    cells = [str(trial.number), trial.state, *(str(trial.settings.get(name, "")) for name in settings)]
    cells += [f"{trial.figures[name]:.5g}" if name in trial.figures else "" for name in figures]
    cells.append(trial.note)
    marked = ' class="chosen"' if best else ""
    shown = "".join(f'<td data-v="{escape(cell)}">{escape(cell)}</td>' for cell in cells)
    return f"<tr{marked}>{shown}</tr>"
