"""The tables of a report: ours with intervals, the papers' rows beside them, marked as theirs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..datasets.dataset import WITHOUT
from ..published import PAPER, TABLES, Row
from ..run_folder import PieceFolder
from ..statistics import Interval, bootstrap, difference, of_methods
from .columns import COLUMNS, OF_PAIRS, STAND_FOR, Column, by_concept, meanings
from .orderings import Tested
from .page import Cell, Table, interval, number, theirs, verdict
from .results import Results

TITLES = {
    "Table 1": "Table 1: text and image alignment",
    "Table 3": "Table 3: other targets and settings",
    "Table 4": "Table 4: the macro class chosen otherwise",
    "Table 5": "Table 5: the rank",
}
SCORES = STAND_FOR["text"] + STAND_FOR["image"]
"""Ours in the papers' tables."""
PUBLISHED = ("clip_text", "clip_image", "dino_image")
EXTRA = ("object_clip", "object_dino", "background_copied", "background_distance", "drift", "mask_iou", "mask_auc")
TRUTH = tuple(name for name in COLUMNS if name not in (*SCORES, *EXTRA))
COST = ("train_seconds", "sample_seconds", "peak_bytes", "steps")
"""Of a piece's facts."""
INTERVALS = "Ours: the mean over concepts with its 95% bootstrap interval."

Means = dict[str, dict[str, Interval]]
"""column -> method -> mean over concepts."""


def means_of(rows: pd.DataFrame, columns: Sequence[Column]) -> Means:
    return {c.name: of_methods(by_concept(rows, c.name)) for c in columns}


def cells(means: Means, columns: Sequence[Column], method: str | None) -> list[Cell | None]:
    return [interval(means[c.name].get(method) if method else None, c.digits) for c in columns]


def same(key: str, method: str) -> bool:
    """Whether a published row's key names a method of ours: "residual + LAG" is "residual+lag", "kv+a" is "a+kv"."""
    plain = [sorted("".join(name.split()).lower().split("+")) for name in (key, method)]
    return plain[0] == plain[1]


def published_rows(name: str, methods: Sequence[str]) -> list[tuple[str | None, Row | None]]:
    """The rows of a published table with the method of ours that is the same, None where we have none.

    Table 5 has our other ranks, too, without a published row.
    """
    pairs: list[tuple[str | None, Row | None]] = [
        (next((m for m in methods if same(row.key, m)), None), row) for row in TABLES[name]
    ]
    if name == "Table 5":
        taken = {method for method, _ in pairs}
        pairs += [(m, None) for m in methods if m.startswith("rank-") and "+" not in m and m not in taken]
    return pairs


def published_table(name: str, results: Results) -> Table | None:
    """A table of the paper, ours and theirs in the same rows; None where the run has no method of it but Table 1's.

    Ours are means over the concepts that all of the table's methods have, so that the rows can be compared.
    """
    pairs = published_rows(name, results.methods())
    ours = [method for method, _ in pairs if method]
    if not ours or (name != "Table 1" and len(ours) < 2):
        return None
    rows = results.counted[results.counted["method"].isin(ours)]
    shared = set.intersection(*(set(rows["concept"][rows["method"] == method]) for method in ours))
    rows = rows[rows["concept"].isin(shared)] if shared else rows
    columns = results.columns(SCORES, rows[rows["category"] != WITHOUT])
    means, lines = means_of(rows, columns), []
    for method, row in pairs:
        published = [theirs(f"{getattr(row, score):.4f}") if row else None for score in PUBLISHED]
        named = theirs(f"{row.method} (theirs)") if row and not method else method
        lines.append([named, *cells(means, columns, method), *published])
    over = f"over the {len(shared)} concepts that all of them have" if shared else "each over its own concepts"
    if len(shared) == 1:
        over = "over the one concept that all of them have, so without intervals"
    return Table(
        ["method", *(c.label for c in columns), *(f"{COLUMNS[score].label} (theirs)" for score in PUBLISHED)],
        lines,
        f"{INTERVALS} Means {over}. {meanings(columns)} Theirs: {name} of {PAPER}, on Stable Diffusion 1.4 and "
        "CustomConcept101; other weights and other data than a Toybox run, so compare the order, not the values.",
    )


def nouns_table(results: Results) -> Table | None:
    """Which nouns stood for the concepts in Table 4; None where none were chosen."""
    other = results.suite.nouns and results.suite.nouns.other
    lines = [[name, f["given"], f["nearest"], number(f["similarity"])] for name, f in results.classes.items()]
    about = (
        "The noun whose CLIP text embedding is nearest to the mean CLIP image embedding of the concept's photos"
        f"{', of those that are not the given class' if other else ''}. CLIP text compares with the given class, "
        "whatever noun a method was trained with or drew."
    )
    return Table(["concept", "given class", "nearest noun", "cosine"], lines, about) if lines else None


def summary_table(results: Results, means: Means, names: Sequence[str]) -> Table | None:
    """Every method with the columns `names` that exist, each over its own concepts."""
    columns = [COLUMNS[name] for name in names if name in means]
    about = f"{INTERVALS} Each method over its own concepts. {meanings(columns)}"
    return _of_methods(results.methods(), means, columns, "concepts", about)


def pairs_table(results: Results) -> Table | None:
    """Every method that drew pairs; None where none did."""
    columns = [OF_PAIRS[name] for name in OF_PAIRS if name in results.pairs and results.pairs[name].notna().any()]
    about = f"{INTERVALS.replace('over concepts', 'over pairs')} {meanings(columns)}"
    return _of_methods(results.methods(results.pairs), means_of(results.pairs, columns), columns, "pairs", about)


def _of_methods(methods: Sequence[str], means: Means, columns: Sequence[Column], what: str, about: str) -> Table | None:
    lines = []
    for method in methods:
        if counts := [means[c.name][method].count for c in columns if method in means[c.name]]:
            lines.append([method, str(max(counts)), *cells(means, columns, method)])
    return Table(["method", what, *(c.label for c in columns)], lines, about) if lines else None


def ordering_table(tested: Sequence[Tested]) -> Table:
    lines: list[list[Cell | str | None]] = []
    for one in tested:
        head: list[Cell | str | None] = [str(one.claim), one.claim.source or None, verdict(one.verdict)]
        for name, found in one.found.items():
            c = COLUMNS[name]
            shown = interval(found, c.digits, signed=True)
            lines.append([*head, c.label, shown, str(found.count), verdict(found.verdict)])
            head = ["", "", ""]
        if not one.found:
            lines.append([*head, None, None, None, None])
    return Table(
        ["ordering", "stated in", "verdict", "score", "difference", "concepts", "by this score"],
        lines,
        "Difference: the first method minus the second, paired by concept, with its 95% bootstrap interval; clear "
        "means that 0 lies outside. Unclear: 0 lies inside, or one concept only.",
    )


def category_table(results: Results, plain: str, lag: str) -> Table | None:
    """LAG less plain, by category of prompts (the paper's Figure 5)."""
    rows = results.counted[results.counted["method"].isin((plain, lag))]
    columns, lines = results.columns(SCORES, rows), []
    for category in results.categories:
        found = [difference(by_concept(rows, c.name, category=category), lag, plain) for c in columns]
        if any(found):
            lines.append([category, *(interval(one, c.digits, signed=True) for one, c in zip(found, columns))])
    about = (
        f"{lag} less {plain}, paired by concept, with 95% bootstrap intervals. The paper's Figure 5, published as "
        "bars only, has text alignment with LAG higher on identity, change background and add object, lower on the "
        f"others. {meanings(columns)}"
    )
    return Table(["category", *(c.label for c in columns)], lines, about) if lines else None


def cost_table(results: Results) -> Table | None:
    """Seconds and memory of each training and the methods that use it, from the finished pieces of concepts."""
    by_training: dict[str, list[PieceFolder]] = {method.piece: [] for method in results.suite.methods}
    for piece in results.pieces:
        if len(piece.facts.get("concepts", [piece.subject])) == 1:
            by_training.setdefault(piece.training, []).append(piece)
    lines = []
    for training, pieces in by_training.items():
        facts = pd.DataFrame([piece.facts for piece in pieces])
        if facts.empty:
            continue
        found = {name: facts[name].dropna() if name in facts else pd.Series() for name in COST}
        steps = [str(int(value)) for value in sorted(found["steps"].unique()) if value]
        lines.append(
            [
                ", ".join(m.name for m in results.suite.methods if m.piece == training) or training,
                str(len(pieces)),
                *(interval(bootstrap(found[name]), 1) if len(found[name]) else None for name in COST[:2]),
                f"{found['peak_bytes'].max() / 2**20:.0f}" if len(found["peak_bytes"]) else None,
                ", ".join(steps) or None,
            ]
        )
    about = (
        "Methods that share a training are in one row. Seconds: the mean over concepts of the time for one concept, "
        "sampling of all its pictures of all these methods; peak: the largest of all concepts. The paper: about 180 s "
        "of training on an A100."
    )
    header = ["methods", "concepts", "training s", "sampling s", "peak MiB", "steps"]
    return Table(header, lines, about) if lines else None
