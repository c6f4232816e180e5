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
from .page import Block, Code, Figure, Section, Table, render
from .results import Results


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
        results, data = self.results, self.results.dataset
        title = f"Evaluation: {results.suite.name} on {data.get('name') or data.get('kind') or 'a dataset'}"
        sections = [*self.numbers(), *self.plots(), self.sheets(), *self.closing()]
        self.csv("scores.csv", results.rows)
        if len(results.pairs):
            self.csv("pairs.csv", results.pairs)
        self.csv("summary.csv", self.summary(), float_format="%.6g")
        for name in ("report.md", "report.html"):
            text = render(name, title=title, sections=[section for section in sections if section.blocks])
            _replace(self.out / name, lambda path, text=text: path.write_text(text, encoding="utf-8", newline="\n"))

    def csv(self, name: str, table: pd.DataFrame, **options) -> None:
        _replace(self.out / name, lambda path: table.to_csv(path, index=False, lineterminator="\n", **options))

    def summary(self) -> pd.DataFrame:
        order = self.results.methods()
        found = [
            (method, column, one.mean, one.low, one.high, one.count)
            for column, means in self.means.items()
            for method, one in means.items()
        ]
        found.sort(key=lambda row: order.index(row[0]))
        return pd.DataFrame(found, columns=["method", "column", "mean", "low", "high", "concepts"])

    def figure(self, name: str, draw: Callable[..., str | None], *given) -> list[Figure]:
        """draw(results, *given, path) -> caption. Where it draws nothing, an older picture is not left."""
        caption = _replace(self.out / name, lambda path: draw(self.results, *given, path))
        if not caption:
            (self.out / name).unlink(missing_ok=True)
        return [Figure(name, caption)] if caption else []

    # -- the parts

    def opening(self) -> list[str]:
        results, concepts, scored = self.results, self.results.concepts, self.results.methods()
        count, reproduced = len(concepts), sum(one.verdict == "reproduced" for one in self.tested)
        left = sorted(set(concepts) - set(results.counted["concept"]))
        silent = [method.name for method in results.suite.methods if method.name not in scored]
        tuned, alone = not left and results.rows["tuned"].any(), count - len(left) == 1
        drawn = (
            f"{len(results.rows)} pictures of {count} concept{'s' * (count != 1)} by {len(scored)} methods. "
            f"{reproduced} of {len(self.tested)} orderings are reproduced clear of their intervals."
        )
        notes = [
            (results.suite.about, results.suite.about),
            (True, drawn),
            *((True, said) for said in results.said),
            (left, f"Not counted, because settings were tuned on them: {', '.join(left)}."),
            (tuned, "Settings were tuned on every one of these concepts, so they prove little about others."),
            (alone, "There is one concept only, so there are no intervals and no ordering can be clear."),
            (silent, f"Without scores so far: {', '.join(silent)}."),
        ]
        return [note for holds, note in notes if holds] + results.problems

    def numbers(self) -> list[Section]:
        results, means = self.results, self.means
        tested: list[Block] = ["The suite states no orderings."]
        if self.tested:
            tested = [RULE, tables.ordering_table(self.tested)]
        made = {title: tables.published_table(name, results) for name, title in tables.TITLES.items()}
        made["The nearest nouns of Table 4"] = tables.nouns_table(results)
        made["All methods: alignment"] = tables.summary_table(results, means, tables.SCORES)
        made["All methods: what the papers lack"] = tables.summary_table(results, means, tables.EXTRA)
        made["All methods: against the Toybox's truth"] = tables.summary_table(results, means, tables.TRUTH)
        made["Seconds and memory"] = tables.cost_table(results)
        sections = [Section("", self.opening()), Section("The papers' orderings", tested)]
        sections += [Section(title, [table] if table else []) for title, table in made.items()]
        if pairs := tables.pairs_table(results):
            drawn = self.figure("sheet-pair.jpg", sheets.sheet, results.pairs["concept"].iloc[0])
            sections.append(Section("Two concepts in one picture", [pairs, *drawn]))
        return sections

    def plots(self) -> list[Section]:
        results = self.results
        blocks: list[Block] = []
        for number, pair in enumerate(results.lag_pairs, 1):
            blocks += self.figure(f"categories{f'-{number}' * (number > 1)}.png", plots.categories, *pair)
            blocks.append(tables.category_table(results, *pair) or f"{' and '.join(pair)} have no scores by category.")
        trade_off = self.figure("trade-off.png", plots.trade_off)
        return [
            Section("LAG by category of prompts (Figure 5)", blocks or ["No method is there with LAG and without."]),
            Section("Image against text (Figure 14)", trade_off or ["No method has both an image and a text score."]),
            Section("The loss", self.figure("losses.png", plots.losses, sheets.chosen_concepts(results)[0])),
        ]

    def sheets(self) -> Section:
        chosen = enumerate(sheets.chosen_concepts(self.results), 1)
        blocks = [one for i, name in chosen for one in self.figure(f"sheet-{i}.jpg", sheets.sheet, name)]
        none = "The run folder holds no pictures, so there are no contact sheets."
        return Section("Contact sheets", blocks or [none])

    def closing(self) -> list[Section]:
        suite, settings = self.results.suite, self.results.settings
        lines = [[method.name, "with LAG" if method.lag else None, method.about or None] for method in suite.methods]
        how = ", ".join(f"{name} {value:g}" for name, value in suite.sampling if value is not None)
        named = {"version": "library", "created": "run begun", "base": "checkpoint"}
        made = "".join(f"{what} {settings[name]}; " for name, what in named.items() if settings.get(name))
        command = settings.get("command") or "(run.json does not say)"
        words: list[Block] = [
            "The pictures and scores, and then this report, by",
            Code(f"{command}\npython -m lib_persres evaluate report {self.results.run.root.resolve().name}"),
            f"{made}every row of scores is in scores.csv, every mean in summary.csv. All rows and numbers marked as "
            "theirs are the paper's own and are not measured here.",
        ]
        methods = Table(["method", "LAG", "what it is"], lines, f"Sampling: {how}.")
        return [Section("The methods", [methods]), Section("How these numbers were made", words)]


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
