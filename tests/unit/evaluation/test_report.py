"""The report of a made-up run folder: closed-form numbers, the papers' rows marked as theirs, what is missing said."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from evaluation_run import METHODS, row, suite, training, write_run
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.evaluation.published import TABLES
from lib_persres.evaluation.report import make, plots

# two concepts: every resample's mean is one of the two values or their middle, so the interval is [low, high]
TEXT = {"base": (0.8, 0.9), "residual": (0.6, 0.7), "residual+lag": (0.65, 0.75)}
IMAGE = {"base": (0.3, 0.4), "residual": (0.7, 0.8), "residual+lag": (0.6, 0.7)}


def rows_of(concepts=("rex", "pip")) -> list[dict]:
    return [
        row(method, concept, prompt, category=category, clip_text=TEXT[method][i], clip_image=IMAGE[method][i])
        for method in TEXT
        for i, concept in enumerate(concepts)
        for prompt, category in enumerate(("identity", "artistic style"))
    ]


@pytest.fixture
def no_plots(monkeypatch):
    """Drawing is slow."""
    for name in ("categories", "trade_off", "losses"):
        monkeypatch.setattr(plots, name, lambda *_: None)


def texts(folder) -> tuple[str, str]:
    out = make(folder)
    return tuple((out / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))


def cells(markdown: str, first: str, heading: str) -> list[str]:
    """The cells of the table row that starts with `first`, under the heading."""
    part = markdown.split(f"## {heading}", 1)[1].split("\n## ", 1)[0].replace("\\", "")
    line = next(line for line in part.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


class Page(HTMLParser):
    """The images and the tags left open of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.images, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# -- numbers ------------------------------------------------------------------------------------------------


def test_means_and_intervals_are_the_closed_forms(tmp_path, no_plots):
    markdown, _ = texts(write_run(tmp_path, rows_of()))
    found = cells(markdown, "residual", "Table 1")
    assert found[1:3] == ["0.650 [0.600, 0.700]", "0.750 [0.700, 0.800]"]


def test_the_papers_rows_stand_beside_ours_and_are_marked(tmp_path, no_plots):
    markdown, html = texts(write_run(tmp_path, rows_of()))
    header = cells(markdown, "method", "Table 1")
    assert header == [
        "method", "CLIP text", "CLIP image", "CLIP text (theirs)", "CLIP image (theirs)", "DINO image (theirs)",
    ]  # fmt: skip
    # published as "residual + LAG", ours is "residual+lag"
    assert cells(markdown, "residual+lag", "Table 1")[3:] == ["*0.7220*", "*0.7424*", "*0.5411*"]
    assert cells(markdown, "*Custom Diffusion (theirs)*", "Table 1")[1:4] == ["–", "–", "*0.7664*"]
    for published in TABLES["Table 1"]:
        assert f'<td class="theirs">{published.clip_text:.4f}</td>' in html
    assert "other weights and other data" in html


def test_a_table_compares_over_the_concepts_that_all_its_methods_have(tmp_path, no_plots):
    rank = {"name": "rank-8", "training": training("rank-8")}
    rows = [*rows_of(), row("rank-8", "rex", clip_text=0.5, clip_image=0.6)]
    markdown, _ = texts(write_run(tmp_path, rows, suite=suite([*METHODS, rank])))
    assert cells(markdown, "residual", "Table 1")[1] == "0.650 [0.600, 0.700]"
    assert cells(markdown, "residual", "Table 5")[1] == "0.600"
    assert cells(markdown, "rank-8", "Table 5")[1] == "0.500"
    assert "over the one concept that all of them have" in markdown.split("## Table 5", 1)[1]
    assert cells(markdown, "rank-8", "All methods: alignment")[1:3] == ["1", "0.500"]


def test_other_ranks_and_other_orders_of_targets_find_their_tables(tmp_path, no_plots):
    names = ("rank-2", "proj_out+kv")
    more = [{"name": name, "training": training(name)} for name in names]
    rows = rows_of() + [row(name, concept, clip_text=0.5) for name in names for concept in ("rex", "pip")]
    markdown, _ = texts(write_run(tmp_path, rows, suite=suite([*METHODS, *more]), pictures=False))
    assert cells(markdown, "rank-2", "Table 5")[1:] == ["0.500 [0.500, 0.500]", "–", "–", "–", "–"]
    assert cells(markdown, "proj_out+kv", "Table 3")[3:] == ["*0.7049*", "*0.7733*", "*0.5868*"]


def test_the_csv_files_hold_all_rows_and_all_means(tmp_path, no_plots):
    rows = rows_of()
    rows[0]["drift"] = None
    out = make(write_run(tmp_path, rows))
    with open(out / "scores.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(rows)
    (first,) = (r for r in found if (r["concept"], r["method"], r["prompt"]) == ("rex", "base", "0"))
    assert (first["clip_text"], first["drift"], first["text"]) == ("0.8", "", "a photo of a ball 0")
    with open(out / "summary.csv", encoding="utf-8", newline="") as file:
        summary = {(r["method"], r["column"]): r for r in csv.DictReader(file)}
    assert len(summary) == 6
    want = {"mean": "0.75", "low": "0.7", "high": "0.8", "concepts": "2"}
    assert want.items() <= summary["residual", "clip_image"].items()


def test_what_the_papers_lack_is_shown_and_prompts_without_v_count_for_drift_only(tmp_path, no_plots):
    extra = [
        row("residual", concept, 7, category="without V*", drift=drift, clip_text=0.0)
        for concept, drift in (("rex", 2.0), ("pip", 4.0))
    ]
    rows = rows_of() + extra
    for r in rows:
        if r["method"] == "residual+lag":
            r.update(mask_iou=0.25, background_distance=7.0)
    markdown, _ = texts(write_run(tmp_path, rows))
    assert cells(markdown, "method", "All methods: what the papers lack")[2:] == [
        "background distance", "drift", "mask IoU",
    ]  # fmt: skip
    assert cells(markdown, "residual", "All methods: what the papers lack")[2:] == ["–", "3.0 [2.0, 4.0]", "–"]
    assert cells(markdown, "residual+lag", "All methods: what the papers lack")[2:] == [
        "7.0 [7.0, 7.0]", "–", "0.250 [0.250, 0.250]",
    ]  # fmt: skip
    assert cells(markdown, "residual", "Table 1")[1] == "0.650 [0.600, 0.700]"


def test_seconds_and_memory_of_each_training(tmp_path, no_plots):
    markdown, _ = texts(write_run(tmp_path, rows_of()))
    found = cells(markdown, "residual, residual+lag", "Seconds and memory")
    assert found[1:] == ["2", "3.0 [3.0, 3.0]", "2.0 [2.0, 2.0]", "256", "150"]


def test_lag_less_plain_by_category(tmp_path, no_plots):
    markdown, _ = texts(write_run(tmp_path, rows_of()))
    found = cells(markdown, "artistic style", "LAG by category")
    assert found[1:] == ["+0.050 [+0.050, +0.050]", "-0.100 [-0.100, -0.100]"]


def test_lag_is_compared_with_what_is_drawn_alike_but_for_it(tmp_path, no_plots):
    half = {**next(m for m in METHODS if m["name"] == "residual"), "name": "half", "strength": 0.5}
    rows = [*rows_of(), *(row("half", concept, clip_text=0.5) for concept in ("rex", "pip"))]
    markdown, _ = texts(write_run(tmp_path, rows, suite=suite([*METHODS, half]), pictures=False))
    assert "residual+lag less residual" in markdown and "less half" not in markdown


def test_tuned_concepts_do_not_count_and_the_report_says_so(tmp_path, no_plots):
    rows = rows_of()
    tuned = [row(m, "nell", tuned=True, clip_text=0.0, clip_image=0.0) for m in TEXT]
    markdown, _ = texts(write_run(tmp_path, rows + tuned))
    assert cells(markdown, "residual", "Table 1")[1] == "0.650 [0.600, 0.700]"
    assert "settings were tuned on them: nell." in markdown


# -- what is missing is said ---------------------------------------------------------------------------------


def test_one_concept_has_no_intervals_and_the_report_says_so(tmp_path, no_plots):
    markdown, html = texts(write_run(tmp_path, rows_of(("rex",))))
    assert cells(markdown, "residual", "Table 1")[1] == "0.600"
    assert "one concept only, so there are no intervals" in markdown
    assert "0 of 2 orderings are reproduced" in markdown
    assert "nan" not in re.sub(r"<style>.*</style>", "", html, flags=re.S).lower()


def test_without_pictures_there_are_no_sheets_and_the_report_says_so(tmp_path, no_plots):
    markdown, _ = texts(write_run(tmp_path, rows_of(), pictures=False))
    assert "holds no pictures, so there are no contact sheets" in markdown
    assert "no finished piece, so seconds and memory are not known" in markdown
    assert not list((tmp_path / "report").glob("sheet*"))


def test_methods_without_scores_and_problems_are_named(tmp_path, no_plots):
    late = {"name": "rank-1", "training": training("rank-1")}
    folder = write_run(tmp_path, rows_of(), suite=suite([*METHODS, late]))
    file = folder / "pieces" / "rex" / "residual" / "piece.json"
    file.write_text('{"train_seconds": null, "problems": ["the loss is not finite"]}', encoding="utf-8")
    markdown, _ = texts(folder)
    assert "Without scores so far: rank-1." in markdown
    assert "rex, residual: the loss is not finite" in markdown


def test_equal_problems_of_several_concepts_are_told_once(tmp_path, no_plots):
    concepts = ("rex", "pip", "luna", "otto", "stella")
    folder = write_run(tmp_path, [r | {"concept": name} for name in concepts for r in rows_of(("rex",))])
    for name in concepts:
        told = [f'"V*" (token "olis") of concept "{name}" is not followed by "ball".', "the memory is full"]
        file = folder / "pieces" / name / "residual" / "piece.json"
        file.write_text(json.dumps({"problems": told if name != "pip" else told[:1]}), encoding="utf-8")
    markdown, _ = texts(folder)
    lines = [line.replace("\\", "") for line in markdown.splitlines() if "problem met" in line]
    # as the first of them told it, and in the folder's order, which is by name
    assert lines == [
        "A problem met by luna, residual; otto, residual; pip, residual; and 2 more: "
        '"V*" (token "olis") of concept "luna" is not followed by "ball".',
        "A problem met by luna, residual; otto, residual; rex, residual; and 1 more: the memory is full",
    ]


def test_a_picture_scored_twice_counts_once(tmp_path, no_plots):
    folder = write_run(tmp_path, rows_of())
    file = folder / "scores" / "rex.jsonl"
    file.write_text(file.read_text(encoding="utf-8") * 2, encoding="utf-8")
    out = make(folder)
    assert "more than one row of scores" in (out / "report.md").read_text(encoding="utf-8")
    assert len((out / "scores.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(rows_of())


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(PersresError, match="is no run of an evaluation"):
        make(tmp_path / "gone")
    folder = write_run(tmp_path / "run", rows_of())
    with open(folder / "scores" / "rex.jsonl", "a", encoding="utf-8") as file:
        file.write('{"method": "ba')
    with pytest.raises(PersresError, match=r"rex\.jsonl, line 7 is no row of scores.*evaluate score"):
        make(folder)
    for file in (folder / "scores").iterdir():
        file.unlink()
    with pytest.raises(PersresError, match="has no scores yet"):
        make(folder)


# -- the files -----------------------------------------------------------------------------------------------


def test_names_are_escaped(tmp_path, no_plots):
    evil = {"name": "evil", "training": None, "about": "<script>alert(1)</script> & *more*"}
    rows = [*rows_of(), row("<b>a|b</b>", "rex", clip_text=0.1), row("<b>a|b</b>", "pip", clip_text=0.1)]
    markdown, html = texts(write_run(tmp_path, rows, suite=suite([*METHODS, evil]), pictures=False))
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; *more*" in html
    assert r"| \<b\>a\|b\</b\> |" in markdown
    assert not Page(html).open


def test_the_footer_names_the_commands(tmp_path, no_plots):
    for text in texts(write_run(tmp_path / "mine", rows_of())):
        assert "python -m lib_persres evaluate run --suite tiny --out here" in text
        assert "python -m lib_persres evaluate report mine" in text
        assert str(tmp_path) not in text


def test_plots_and_sheets_are_drawn_and_all_links_lead_to_files(tmp_path):
    folder = write_run(tmp_path, rows_of())
    (folder / "references" / "rex").mkdir(parents=True)
    Image.new("RGB", (40, 30), (250, 0, 0)).save(folder / "references" / "rex" / "a.png")
    (folder / "pieces" / "rex" / "base" / "base" / "000-000.png").write_bytes(b"half a pic")
    markdown, html = texts(folder)
    images = Page(html).images
    assert images == ["categories.png", "trade-off.png", "sheet-1.jpg", "sheet-2.jpg"]
    assert re.findall(r"\]\(([^)]+)\)", markdown) == images
    for name in images:
        with Image.open(folder / "report" / name) as picture:
            picture.load()
            assert min(picture.size) > 150
    assert "rex: its photos above" in html and "pip: (its photos were not found)" in html
    assert "in a panel of their own" in html
    with Image.open(folder / "report" / "sheet-2.jpg") as sheet:
        assert sheet.convert("RGB").getpixel((200, 40))[0] > 230  # the red photo
        assert sheet.convert("RGB").getpixel((200, 240)) == pytest.approx((236, 238, 241), abs=3)  # the broken picture
    # made again without pictures, the old ones are gone with them
    for file in folder.glob("pieces/*/*/*/*.png"):
        file.unlink()
    make(folder)
    assert not list((folder / "report").glob("sheet*"))
    assert {file.suffix for file in (folder / "report").iterdir()} == {".md", ".html", ".csv", ".png"}


def test_on_the_papers_data_their_points_are_in_the_same_panel(tmp_path):
    _, html = texts(write_run(tmp_path, rows_of(), kind="customconcept101", pictures=False))
    assert "in grey in the same panel" in html


def test_the_judges_answers_have_a_panel_of_the_trade_off(tmp_path):
    rows = [{**r, "obeyed": r["clip_text"], "identity": r["clip_image"]} for r in rows_of()]
    heights = {}
    for name, some in (("without", rows_of()), ("with", rows)):
        markdown, _ = texts(write_run(tmp_path / name, some, kind="toybox", pictures=False))
        with Image.open(tmp_path / name / "report" / "trade-off.png") as picture:
            heights[name] = picture.height
        assert ("obeyed to the right, identity upwards" in markdown) == (name == "with")
    assert heights["with"] == pytest.approx(2 * heights["without"], rel=0.05)
