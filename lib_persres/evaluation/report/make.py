"""Put a report together: what is in it, in which order, and the files it is written to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ...errors import PersresError
from ..run_folder import RunFolder
from . import plots, sheets, tables
from .columns import COLUMNS
from .orderings import RULE, orderings
from .page import Code, Figure, Section, Table, render
from .results import Results

Draw = Callable[[Path], str | None]
"""Draws into a file; the caption, None where there is nothing to draw."""


def make(folder: Path) -> Path:
    """Make the report of a run folder from its scores and pictures; the report's folder. Raises PersresError."""
    results = Results.read(RunFolder(folder))
    report = _Report(results, results.run.root / "report")
    try:
        report.write()
    except OSError as error:
        raise PersresError(f"The report cannot be written into {report.out}: {error.strerror or error}.") from error
    return report.out


class _Report:
    def __init__(self, results: Results, out: Path):
        self.results, self.out = results, out
        self.means = tables.means_of(results.counted, results.columns(COLUMNS))
        self.tested = orderings(results.counted, results.suite.orderings)

    def write(self) -> None:
        self.out.mkdir(exist_ok=True)
        data = self.results.dataset
        title = f"Evaluation: {self.results.suite.name} on {data.get('name') or data.get('kind') or 'a dataset'}"
        sections = [
            self.opening(),
            self.orderings(),
            *self.tables(),
            *self.pairs(),
            *self.plots(),
            self.sheets(),
            *self.closing(),
        ]
        self.csv("scores.csv", self.results.rows)
        if len(self.results.pairs):
            self.csv("pairs.csv", self.results.pairs)
        self.csv("summary.csv", self.summary(), float_format="%.6g")
        for name in ("report.md", "report.html"):
            text = render(name, title=title, sections=sections)
            _replace(self.out / name, lambda path, text=text: path.write_text(text, encoding="utf-8", newline="\n"))

    def csv(self, name: str, table: pd.DataFrame, **options) -> None:
        _replace(self.out / name, lambda path: table.to_csv(path, index=False, lineterminator="\n", **options))

    def summary(self) -> pd.DataFrame:
        found = [
            (method, column, means[method].mean, means[method].low, means[method].high, means[method].count)
            for method in self.results.methods()
            for column, means in self.means.items()
            if method in means
        ]
        return pd.DataFrame(found, columns=["method", "column", "mean", "low", "high", "concepts"])

    def figure(self, name: str, draw: Draw) -> list[Figure]:
        """Where nothing is drawn, an older picture is not left to be taken for a new one."""
        caption = _replace(self.out / name, draw)
        if not caption:
            (self.out / name).unlink(missing_ok=True)
        return [Figure(name, caption)] if caption else []

    # -- the parts

    def opening(self) -> Section:
        results, counted = self.results, self.results.counted
        reproduced = sum(one.reproduced for one in self.tested)
        count = len(results.concepts)
        notes = [results.suite.about] if results.suite.about else []
        notes.append(
            f"{len(results.rows)} pictures of {count} concept{'s' * (count != 1)} by {len(results.methods())} methods. "
            f"{reproduced} of {len(self.tested)} orderings are reproduced clear of their intervals."
        )
        notes += results.said
        if left := sorted(set(results.concepts) - set(counted["concept"])):
            notes.append(f"Not counted, because settings were tuned on them: {', '.join(left)}.")
        elif results.rows["tuned"].any():
            notes.append("Settings were tuned on every one of these concepts, so they prove little about others.")
        if counted["concept"].nunique() == 1:
            notes.append("There is one concept only, so there are no intervals and no ordering can be clear.")
        scored = results.methods()
        if silent := [method.name for method in results.suite.methods if method.name not in scored]:
            notes.append(f"Without scores so far: {', '.join(silent)}.")
        return Section("", notes + results.problems)

    def orderings(self) -> Section:
        blocks = [RULE, tables.ordering_table(self.tested)] if self.tested else ["The suite states no orderings."]
        return Section("The papers' orderings", blocks)

    def tables(self) -> list[Section]:
        results, means = self.results, self.means
        made = {title: tables.published_table(name, results) for name, title in tables.TITLES.items()}
        made["The nearest nouns of Table 4"] = tables.nouns_table(results)
        made["All methods: alignment"] = tables.summary_table(results, means, tables.SCORES)
        made["All methods: what the papers lack"] = tables.summary_table(results, means, tables.EXTRA)
        made["All methods: against the Toybox's truth"] = tables.summary_table(results, means, tables.TRUTH)
        made["Seconds and memory"] = tables.cost_table(results)
        return [Section(title, [table]) for title, table in made.items() if table]

    def pairs(self) -> list[Section]:
        table = tables.pairs_table(self.results)
        if table is None:
            return []
        first = self.results.pairs["concept"].iloc[0]
        drawn = self.figure("sheet-pair.jpg", lambda path: sheets.sheet(self.results, first, path))
        return [Section("Two concepts in one picture", [table, *drawn])]

    def plots(self) -> list[Section]:
        results, blocks = self.results, []
        for number, (plain, lag) in enumerate(results.lag_pairs, 1):
            name = "categories.png" if number == 1 else f"categories-{number}.png"
            pair = plain, lag
            blocks += self.figure(name, lambda path, pair=pair: plots.categories(results, *pair, path))
            table = tables.category_table(results, plain, lag)
            blocks.append(table or f"{plain} and {lag} have no scores by category.")
        trade_off = self.figure("trade-off.png", lambda path: plots.trade_off(results, path))
        concept = sheets.chosen_concepts(results, 1)[0]
        losses = self.figure("losses.png", lambda path: plots.losses(results, concept, path))
        return [
            Section(
                "LAG by category of prompts (Figure 5)", blocks or ["No method is there both with LAG and without."]
            ),
            Section(
                "Image against text (Figure 14)", trade_off or ["No method has both an image score and a text score."]
            ),
            *([Section("The loss", losses)] if losses else []),
        ]

    def sheets(self) -> Section:
        blocks = []
        for number, concept in enumerate(sheets.chosen_concepts(self.results), 1):
            draw = lambda path, concept=concept: sheets.sheet(self.results, concept, path)  # noqa: E731
            blocks += self.figure(f"sheet-{number}.jpg", draw)
        return Section(
            "Contact sheets", blocks or ["The run folder holds no pictures, so there are no contact sheets."]
        )

    def closing(self) -> list[Section]:
        suite, settings = self.results.suite, self.results.settings
        lines = [[method.name, "with LAG" if method.lag else None, method.about or None] for method in suite.methods]
        how = ", ".join(f"{name} {value:g}" for name, value in suite.sampling if value is not None)
        named = {"version": "library", "created": "run begun", "base": "checkpoint"}
        made = "; ".join(f"{what} {settings[name]}" for name, what in named.items() if settings.get(name))
        command = settings.get("command") or "(run.json does not say)"
        return [
            Section("The methods", [Table(["method", "LAG", "what it is"], lines, f"Sampling: {how}.")]),
            Section(
                "How these numbers were made",
                [
                    "The pictures and scores, and then this report, by",
                    Code(f"{command}\npython -m lib_persres evaluate report {self.results.run.root.resolve().name}"),
                    f"{made}{'. ' * bool(made)}Every row of scores is in scores.csv, every mean in summary.csv. All "
                    "rows and numbers marked as theirs are the paper's own and are not measured here.",
                ],
            ),
        ]


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
