"""The tables of a report: ours with intervals, the papers' rows beside them, marked as theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..datasets.dataset import CATEGORIES
from ..published import PAPER, TABLES, Row
from ..statistics import Interval, bootstrap, by_concept, paired_difference
from .columns import Column, column, columns_for, counted, for_column, present
from .document import Cell, Number, Table, Theirs, Verdict
from .folder import Piece, Run
from .orderings import Tested

TITLES = {
    "Table 1": "Table 1: text and image alignment",
    "Table 3": "Table 3: other targets and settings",
    "Table 4": "Table 4: the macro class chosen otherwise",
    "Table 5": "Table 5: the rank",
}
SCORES = ("clip_text", "obeyed", "clip_image", "dino_image", "identity")
"""Ours in the papers' tables: those that stand for text, then for image."""
PUBLISHED = ("clip_text", "clip_image", "dino_image")
EXTRA = ("object_clip", "object_dino", "background_copied", "background_distance", "drift", "mask_iou", "mask_auc")
INTERVALS = "Ours: the mean over concepts with its 95% bootstrap interval."


def same(key: str | None, method: str) -> bool:
    """Whether a published row's key names a method of ours: "residual + LAG" is "residual+lag", "kv+a" is "a+kv"."""
    return key is not None and _plain(key) == _plain(method)


def published_rows(name: str, methods: Sequence[str]) -> list[tuple[str | None, Row | None]]:
    """The rows of a published table with the method of ours that is the same, None where we have none.

    Table 5 has our other ranks, too, without a published row.
    """
    pairs = [(next((m for m in methods if same(row.key, m)), None), row) for row in TABLES[name]]
    if name == "Table 5":
        taken = {method for method, _ in pairs}
        pairs += [(m, None) for m in methods if m.startswith("rank-") and "+" not in m and m not in taken]
    return pairs


def published_table(name: str, run: Run) -> Table | None:
    """A table of the paper, ours and theirs in the same rows; None where the run has no method of it but Table 1's.

    Ours are means over the concepts that all of the table's methods have, so that the rows can be compared.
    """
    scored = {row["method"] for row in run.rows}
    methods = [method["name"] for method in run.methods if method["name"] in scored]
    pairs = published_rows(name, methods)
    ours = [method for method, _ in pairs if method]
    if not ours or (name != "Table 1" and len(ours) < 2):
        return None
    rows = [row for row in counted(run.rows) if row["method"] in ours]
    shared = set.intersection(*({row["concept"] for row in rows if row["method"] == m} for m in ours))
    compared = [row for row in rows if row["concept"] in shared] or rows
    columns = present((row for row in compared if row.get("category") != "without V*"), SCORES)
    means = method_means(compared, columns)
    lines = [
        [
            method or Theirs(f"{row.method} (theirs)"),
            *(_number(means.get((method, c.name)), c) for c in columns),
            *(Theirs(f"{getattr(row, score):.4f}") if row else None for score in PUBLISHED),
        ]
        for method, row in pairs
    ]
    over = f"over the {len(shared)} concepts that all of them have" if shared else "each over its own concepts"
    if len(shared) == 1:
        over = "over the one concept that all of them have, so without intervals"
    return Table(
        ["method", *(c.label for c in columns), *(f"{column(score).label} (theirs)" for score in PUBLISHED)],
        lines,
        f"{INTERVALS} Means {over}. {meanings(columns)} Theirs: {name} of {PAPER}, on Stable Diffusion 1.4 and "
        "CustomConcept101; other weights and other data than a Toybox run, so compare the order, not the values.",
    )


def nouns_table(run: Run) -> Table | None:
    """Which nouns stood for the concepts in Table 4; None where none were chosen."""
    lines: list[list[Cell]] = [
        [name, facts["given"], facts["nearest"], Number(facts["similarity"])] for name, facts in run.classes.items()
    ]
    if not lines:
        return None
    other = (run.suite.get("nouns") or {}).get("other")
    return Table(
        ["concept", "given class", "nearest noun", "cosine"],
        lines,
        "The noun whose CLIP text embedding is nearest to the mean CLIP image embedding of the concept's photos"
        f"{', of those that are not the given class' if other else ''}. CLIP text compares with the given class, "
        "whatever noun a method was trained with or drew.",
    )


def method_means(rows: Sequence[Mapping], columns: Sequence[Column], **where) -> dict[tuple[str, str], Interval]:
    """(method, column) -> mean over concepts."""
    found = {}
    for c in columns:
        for method, scores in by_concept(for_column(rows, c.name), c.name, **where).items():
            found[method, c.name] = bootstrap(list(scores.values()))
    return found


def summary_table(
    run: Run, summary: Mapping[tuple[str, str], Interval], names: Sequence[str], about: str
) -> Table | None:
    """Every method with the columns `names` that exist, each over its own concepts."""
    columns = [column(name) for name in names if any(have == name for _, have in summary)]
    lines = []
    for method in (m["name"] for m in run.methods):
        found = [summary.get((method, c.name)) for c in columns]
        if any(found):
            count = max(f.count for f in found if f)
            lines.append([method, str(count), *(_number(f, c) for f, c in zip(found, columns))])
    if not columns or not lines:
        return None
    return Table(["method", "concepts", *(c.label for c in columns)], lines, f"{INTERVALS} {about}{meanings(columns)}")


def ordering_table(tested: Sequence[Tested]) -> Table:
    lines: list[list[Cell]] = []
    for ordering in tested:
        head: list[Cell] = [ordering.statement, ordering.source or None, Verdict(ordering.verdict)]
        for found in ordering.found:
            c = column(found.score)
            number = Number.of(found.difference, c.digits, signed=True)
            lines.append([*head, c.label, number, str(found.difference.count), Verdict(found.verdict)])
            head = ["", "", ""]
        if not ordering.found:
            lines.append([*head, None, None, None, None])
    return Table(
        ["ordering", "stated in", "verdict", "score", "difference", "concepts", "by this score"],
        lines,
        "Difference: the first method minus the second, paired by concept, with its 95% bootstrap interval; clear "
        "means that 0 lies outside. Unclear: 0 lies inside, or one concept only.",
    )


def lag_pairs(run: Run) -> list[tuple[str, str]]:
    """(plain, LAG) of the methods that share a training and all else."""
    trained = [m for m in run.methods if _training(m)]
    return [
        (plain["name"], lag["name"])
        for lag in trained
        if lag.get("lag")
        for plain in trained
        if not plain.get("lag") and _drawn(plain) == _drawn(lag)
    ]


def _drawn(method: Mapping) -> tuple:
    """How a method draws, but for LAG."""
    return _training(method), *map(method.get, ("strength", "unconditional", "class"))


def categories_of(run: Run) -> list[str]:
    """The papers' categories that the run has, in their order, then its own."""
    found = list(dict.fromkeys(row.get("category") for row in run.rows))
    known = [name for name in CATEGORIES if name in found]
    return known + [name for name in found if name and name not in CATEGORIES and name != "without V*"]


def category_table(run: Run, plain: str, lag: str) -> Table | None:
    """LAG less plain, by category of prompts (the paper's Figure 5)."""
    rows = [row for row in counted(run.rows) if row["method"] in (plain, lag)]
    columns = present(rows, SCORES)
    lines = []
    for category in categories_of(run):
        cells: list[Cell] = []
        for c in columns:
            scores = by_concept(for_column(rows, c.name), c.name, category=category)
            shared = scores.get(plain, {}).keys() & scores.get(lag, {}).keys()
            found = paired_difference(scores[lag], scores[plain]) if shared else None
            cells.append(Number.of(found, c.digits, signed=True) if found else None)
        if any(cells):
            lines.append([category, *cells])
    if not lines:
        return None
    return Table(
        ["category", *(c.label for c in columns)],
        lines,
        f"{lag} less {plain}, paired by concept, with 95% bootstrap intervals. The paper's Figure 5, published as "
        "bars only, has text alignment with LAG higher on identity, change background and add object, lower on the "
        f"others. {meanings(columns)}",
    )


def cost_table(run: Run) -> Table | None:
    """Seconds and memory of each training and the methods that use it, from the finished pieces."""
    lines = []
    order = [method["name"] for method in run.methods]

    def place(piece: Piece) -> int:
        return min((order.index(name) for name in piece.methods if name in order), default=len(order))

    for training in dict.fromkeys(piece.training for piece in sorted(run.pieces, key=place)):
        pieces = [piece for piece in run.pieces if piece.training == training]
        methods = dict.fromkeys(method for piece in pieces for method in piece.methods)
        peak = max((found for piece in pieces if (found := piece.cost.get("peak_bytes"))), default=None)
        steps = sorted({piece.cost["steps"] for piece in pieces if piece.cost.get("steps")})
        lines.append(
            [
                ", ".join(methods) or training,
                str(len(pieces)),
                _seconds(pieces, "train_seconds"),
                _seconds(pieces, "sample_seconds"),
                None if peak is None else f"{peak / 2**20:.0f}",
                ", ".join(map(str, steps)) or None,
            ]
        )
    if not lines:
        return None
    return Table(
        ["methods", "concepts", "training s", "sampling s", "peak MiB", "steps"],
        lines,
        "Methods that share a training are in one row. Seconds: the mean over concepts of the time for one concept, "
        "sampling of all its pictures of all these methods; peak: the largest of all concepts. The paper: about 180 s "
        "of training on an A100.",
    )


def meanings(columns: Sequence[Column]) -> str:
    return " ".join(f"{c.label}: {c.meaning}." for c in columns)


def text_columns(run: Run) -> list[Column]:
    return present(run.rows, columns_for("text"))


def image_columns(run: Run) -> list[Column]:
    return present(run.rows, columns_for("image"))


def _number(found: Interval | None, c: Column) -> Number | None:
    return None if found is None else Number.of(found, c.digits)


def _seconds(pieces, name: str) -> Number | None:
    found = [value for piece in pieces if (value := piece.cost.get(name)) is not None]
    return Number.of(bootstrap(found), 1) if found else None


def _plain(name: str) -> list[str]:
    return sorted("".join(name.split()).lower().split("+"))


def _training(method: Mapping) -> str | None:
    """A training's name; of methods that share one, the later ones name it only."""
    training = method.get("training")
    return training["name"] if isinstance(training, Mapping) else training
