"""Put a report together: what is in it, in which order, and the files it is written to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import PersresError
from . import as_csv, pairs, plots, remarks, sheets, tables
from .as_html import as_html
from .as_markdown import as_markdown
from .columns import COLUMNS, counted
from .document import Block, Code, Figure, Heading, Table, Text
from .folder import Run, read
from .orderings import RULE, Tested, orderings

NO_PLOTS = (
    "The plots were left out, since matplotlib is not installed: install it with "
    "`pip install matplotlib` and make the report again."
)


def make(folder: Path) -> Path:
    """Make the report of a run folder from its scores and pictures; the report's folder. Raises PersresError."""
    folder = Path(folder)
    run = read(folder)
    out = folder / "report"
    try:
        out.mkdir(exist_ok=True)
        blocks = _blocks(run, out)
        title = f"Evaluation: {run.suite.get('name', 'a suite')} on {_dataset(run)}"
        _replace(out / "scores.csv", lambda path: as_csv.write_scores(path, run.rows))
        if run.pair_rows:
            _replace(out / "pairs.csv", lambda path: as_csv.write_scores(path, run.pair_rows))
        summary = as_csv.summarise(run.rows, [m["name"] for m in run.methods])
        _replace(out / "summary.csv", lambda path: as_csv.write_summary(path, summary))
        for name, text in (("report.md", as_markdown(title, blocks)), ("report.html", as_html(title, blocks))):
            _replace(out / name, lambda path, text=text: path.write_text(text, encoding="utf-8", newline="\n"))
    except OSError as error:
        raise PersresError(f"The report cannot be written into {out}: {error.strerror or error}.") from error
    return out


def _blocks(run: Run, out: Path) -> list[Block]:
    tested = orderings(run.rows, run.suite)
    return [
        *_opening(run, tested),
        *_orderings(tested),
        *_papers(run),
        *_all_methods(run),
        *_pairs(run, out),
        *_plots(run, out),
        *_sheets(run, out),
        *_closing(run),
    ]


def _opening(run: Run, tested: list[Tested]) -> list[Block]:
    rows, used = run.rows, counted(run.rows)
    blocks: list[Block] = [Text(str(run.suite["about"]))] if run.suite.get("about") else []
    concepts = {row["concept"] for row in used}
    blocks.append(
        Text(
            f"{len(rows)} pictures of {len(run.concepts)} concept{'s' * (len(run.concepts) != 1)} by "
            f"{len({row['method'] for row in rows})} methods. "
            f"{sum(t.reproduced for t in tested)} of {len(tested)} orderings are reproduced clear of their intervals."
        )
    )
    notes = list(run.said)
    if len(used) < len(rows):
        left = sorted({row["concept"] for row in rows} - concepts)
        notes.append(f"Not counted, because settings were tuned on them: {', '.join(left)}.")
    elif any(row.get("tuned") for row in rows):
        notes.append("Settings were tuned on every one of these concepts, so they prove little about others.")
    if len(concepts) == 1:
        notes.append("There is one concept only, so there are no intervals and no ordering can be clear.")
    silent = [m["name"] for m in run.methods if m["name"] not in {row["method"] for row in rows}]
    if silent:
        notes.append(f"Without scores so far: {', '.join(silent)}.")
    return [*blocks, *map(Text, [*notes, *remarks.problems(run)])]


def _orderings(tested: list[Tested]) -> list[Block]:
    heading = Heading("The papers' orderings")
    if not tested:
        return [heading, Text("The suite states no orderings.")]
    return [heading, Text(RULE), tables.ordering_table(tested)]


def _papers(run: Run) -> list[Block]:
    blocks: list[Block] = []
    for name, title in tables.TITLES.items():
        table = tables.published_table(name, run)
        blocks += [Heading(title), table] if table else []
    nouns = tables.nouns_table(run)
    return [*blocks, *([Heading("The nearest nouns of Table 4"), nouns] if nouns else [])]


def _pairs(run: Run, out: Path) -> list[Block]:
    table = pairs.table(run)
    if table is None:
        return []
    blocks: list[Block] = [Heading("Two concepts in one picture"), table]
    caption = _picture(out / "sheet-pair.jpg", lambda path: pairs.sheet(run, path))
    return [*blocks, *([Figure("sheet-pair.jpg", caption)] if caption else [])]


def _all_methods(run: Run) -> list[Block]:
    summary = as_csv.summarise(run.rows, [m["name"] for m in run.methods])
    truth = [c.name for c in COLUMNS if c.name not in (*tables.SCORES, *tables.EXTRA)]
    own = "Each method over its own concepts. "
    blocks: list[Block] = []
    for title, names in (
        ("All methods: alignment", tables.SCORES),
        ("All methods: what the papers lack", tables.EXTRA),
        ("All methods: against the Toybox's truth", truth),
    ):
        table = tables.summary_table(run, summary, names, own)
        blocks += [Heading(title), table] if table else []
    cost = tables.cost_table(run)
    return [*blocks, *([Heading("Seconds and memory"), cost] if cost else [])]


def _plots(run: Run, out: Path) -> list[Block]:
    blocks: list[Block] = [Heading("LAG by category of prompts (Figure 5)")]
    pairs = tables.lag_pairs(run)
    drawn = plots.available()
    if not drawn:
        blocks.append(Text(NO_PLOTS))
    if not pairs:
        blocks.append(Text("No method is there both with LAG and without."))
    for number, (plain, lag) in enumerate(pairs):
        name = "categories.png" if not number else f"categories-{number + 1}.png"
        if drawn and _picture(out / name, lambda path, pair=(plain, lag): plots.categories(run, *pair, path)):
            blocks.append(
                Figure(name, f"{plain} and {lag} by category, means over concepts with their 95% intervals.")
            )
        table = tables.category_table(run, plain, lag)
        blocks += [table] if table else [Text(f"{plain} and {lag} have no scores by category.")]
    blocks.append(Heading("Image against text (Figure 14)"))
    caption = _picture(out / "trade-off.png", lambda path: plots.trade_off(run, path)) if drawn else None
    if caption:
        blocks.append(Figure("trade-off.png", caption))
    else:
        blocks.append(Text("No method has both an image score and a text score." if drawn else NO_PLOTS))
    return blocks


def _sheets(run: Run, out: Path) -> list[Block]:
    blocks: list[Block] = [Heading("Contact sheets")]
    for number, concept in enumerate(sheets.chosen_concepts(run), 1):
        name = f"sheet-{number}.jpg"
        if caption := _picture(out / name, lambda path, concept=concept: sheets.sheet(run, concept, path)):
            blocks.append(Figure(name, caption))
    if len(blocks) == 1:
        blocks.append(Text("The run folder holds no pictures, so there are no contact sheets."))
    return blocks


def _closing(run: Run) -> list[Block]:
    lines: list[list] = [
        [method["name"], "with LAG" if method.get("lag") else None, str(method.get("about") or "") or None]
        for method in run.methods
    ]
    sampling = run.suite.get("sampling") or {}
    how = ", ".join(f"{name} {value}" for name, value in sampling.items())
    made = [f"library {run.settings['version']}"] if run.settings.get("version") else []
    made += [f"run begun {run.settings['created']}"] if run.settings.get("created") else []
    made += [f"checkpoint {run.settings['base']}"] if run.settings.get("base") else []
    command = run.settings.get("command") or "(run.json does not say)"
    command = command if isinstance(command, str) else " ".join(map(str, command))
    return [
        Heading("The methods"),
        Table(["method", "LAG", "what it is"], lines, f"Sampling: {how or 'not said'}."),
        Heading("How these numbers were made"),
        Text("The pictures and scores, and then this report, by"),
        Code(f"{command}\npython -m lib_persres evaluate report {run.folder.resolve().name}"),
        Text(
            f"{'; '.join(made)}{'. ' * bool(made)}Every row of scores is in scores.csv, every mean in summary.csv. "
            "All rows and numbers marked as theirs are the paper's own and are not measured here."
        ),
    ]


def _dataset(run: Run) -> str:
    dataset = run.settings.get("dataset") or {}
    return str(dataset.get("name") or dataset.get("kind") or "a dataset")


def _picture(path: Path, draw: Callable):
    """What draw(path) returns; where that is nothing, an older picture is not left to be taken for a new one."""
    result = _replace(path, draw)
    if not result:
        path.unlink(missing_ok=True)
    return result


def _replace(path: Path, write: Callable):
    """write(another path), which then takes the place of `path`, so that a stop leaves no half of a file."""
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        result = write(new)
        if new.exists():
            os.replace(new, path)
        return result
    finally:
        new.unlink(missing_ok=True)
