"""`python dev.py demo`: learn a concept that the base model has never seen, draw it three ways, show and score it.

Everything is drawn from the same noise for the base model, plain sampling and LAG. Written into one folder: the
photos, the residual, a contact sheet, the mask overlays, the loss plot, the scores as JSON and a page of them all.
"""

from __future__ import annotations

import argparse
import html
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lib_persres.overlay import overlay
from lib_persres.progress import progress_bar
from lib_persres.standalone.checkpoint import load
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.judge import Judge

from .toybox_concepts import FIGURED as CONCEPTS
from .toybox_concepts import SCORES, Scores, draw_each, learn, prompts_for, score

TITLES = {"base": "base model", "plain": "residual, plain", "lag": "residual, LAG"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the results")
    parser.add_argument("--concept", choices=[c.name for c in CONCEPTS], default="rex", help="which concept to learn")
    parser.add_argument("--per-prompt", type=int, default=2, help="pictures of each prompt and method")
    options = parser.parse_args(argv)
    started = time.time()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    concept = next(c for c in CONCEPTS if c.name == options.concept)
    sd, judge = load(CHECKPOINT, "cpu"), Judge.load()

    print(f"Learning {concept.name}, a {concept.cls} that the base model has never seen, from 5 pictures.", flush=True)
    with progress_bar(None, "steps", "training") as bar:

        def progress(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()

        residual, photos = learn(sd, concept, out / "photos", progress=progress)
    residual.save(out / f"{concept.name}.safetensors")
    learned = time.time() - started
    loss_plot(residual.metadata.loss["curve"], residual.metadata.steps).save(out / "loss.png")

    scores, rows, masks = Scores(), [], []
    prompts = prompts_for(concept)
    with progress_bar(len(prompts), "prompts", "drawing") as bar:
        for index, prompt in enumerate(prompts):
            drawn = draw_each(sd, residual, prompt, index, options.per_prompt)
            images = {method: got.images for method, got in drawn.items()}
            scores.rows += score(judge, concept, prompt, images)
            rows.append((prompt, {method: [to_pil(image) for image in got] for method, got in images.items()}))
            mean = drawn["lag"].masks.mean("masks")
            masks += [overlay(picture, mean[i]) for i, picture in enumerate(rows[-1][1]["lag"])]
            bar.update()
    sheet = contact_sheet([photo.image for photo in photos], rows, masks)
    sheet.save(out / "contact-sheet.png")
    for index, picture in enumerate(masks):
        picture.resize((256, 256), Image.BICUBIC).save(out / f"mask-{index:02d}.png")
    table = scores.table()
    summary = {
        "concept": concept.__dict__,
        "scores": table,
        "seconds": {"learning": round(learned, 1), "all": round(time.time() - started, 1)},
        "rows": scores.rows,
    }
    (out / "scores.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    (out / "index.html").write_text(page(concept, residual, table, summary["seconds"], len(masks)), encoding="utf-8")
    print(text_table(table))
    print(f"Learned in {learned:.0f} s, all in {time.time() - started:.0f} s. Open {out / 'index.html'}")
    return 0


def to_pil(image: torch.Tensor) -> Image.Image:
    """(3,H,W) in [0,1] to a picture."""
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def contact_sheet(photos: list[Image.Image], rows, masks: list[Image.Image]) -> Image.Image:
    """The photos on top; a row a prompt: base, plain and LAG from the same noise, and LAG's masks."""
    cell, gap, label = 128, 6, 18
    per = len(rows[0][1]["base"])
    columns = [("base", per), ("plain", per), ("lag", per), ("masks", per)]
    width = max(sum(count * (cell + gap) for _, count in columns) + 8 * gap, len(photos) * (cell + gap) + gap)
    height = label + cell + gap + label + len(rows) * (cell + label + gap)
    sheet = Image.new("RGB", (width, height), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    pen.text((gap, 2), "the photos it was learned from", fill=(20, 20, 20), font=font)
    for index, photo in enumerate(photos):
        sheet.paste(photo.resize((cell, cell)), (gap + index * (cell + gap), label))
    top = label + cell + gap
    x = gap
    for name, count in columns:
        pen.text((x, top + 2), {**TITLES, "masks": "LAG's masks, mean"}[name], fill=(20, 20, 20), font=font)
        x += count * (cell + gap) + gap * 2
    top += label
    for index, (prompt, pictures) in enumerate(rows):
        y = top + index * (cell + label + gap)
        pen.text((gap, y + 2), prompt.text, fill=(90, 90, 90), font=font)
        x = gap
        for name, count in columns:
            for i in range(count):
                picture = masks[index * per + i] if name == "masks" else pictures[name][i]
                sheet.paste(picture.resize((cell, cell)), (x, y + label))
                x += cell + gap
            x += gap * 2
    return sheet


def loss_plot(curve: list[float], steps: int, size: tuple[int, int] = (640, 240)) -> Image.Image:
    """The loss over the steps, with its running mean."""
    width, height = size
    left, bottom, top = 56, 28, 12
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    values = np.array(curve)
    highest = float(values.max()) * 1.05
    smooth = np.array([values[max(0, i - 5) : i + 6].mean() for i in range(len(values))])

    def at(i: int, value: float) -> tuple[float, float]:
        x = left + (width - left - 12) * i / max(1, len(values) - 1)
        return x, height - bottom - (height - bottom - top) * value / highest

    for part in range(5):
        value = highest * part / 4
        y = at(0, value)[1]
        pen.line([(left, y), (width - 12, y)], fill=(228, 228, 228))
        pen.text((6, y - 7), f"{value:.3f}", fill=(90, 90, 90), font=font)
    pen.line([at(i, v) for i, v in enumerate(values)], fill=(170, 195, 225))
    pen.line([at(i, v) for i, v in enumerate(smooth)], fill=(25, 85, 165), width=2)
    pen.text((left, height - 20), "0", fill=(90, 90, 90), font=font)
    pen.text((width - 90, height - 20), f"{steps} steps", fill=(90, 90, 90), font=font)
    return picture


def text_table(table: dict[str, dict[str, float]]) -> str:
    lines = [f"{'':18}" + "".join(f"{name:>12}" for name in SCORES)]
    for method, row in table.items():
        lines.append(f"{TITLES[method]:18}" + "".join(f"{row[name]:12.3f}" for name in SCORES))
    lines.append("recognised: nearest of 24 appearances; class, background: seen by the judge;")
    lines.append("outside: difference to the base picture outside the object, in grey levels.")
    return "\n".join(lines)


def page(concept, residual, table, seconds, masks: int) -> str:
    """A page of its own: no script, nothing from elsewhere."""
    metadata = residual.metadata
    cells = "".join(
        f"<tr><th>{TITLES[method]}</th>" + "".join(f"<td>{row[name]:.3f}</td>" for name in SCORES) + "</tr>"
        for method, row in table.items()
    )
    overlays = "".join(f'<img src="mask-{i:02d}.png" alt="mask {i}" width="160">' for i in range(masks))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Personalized residuals: {concept.name}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}}
img{{max-width:100%}}table{{border-collapse:collapse}}
th,td{{padding:.3em .9em;border-bottom:1px solid #ddd;text-align:right}}th:first-child{{text-align:left}}</style>
<h1>A concept learned from five pictures</h1>
<p>“{html.escape(metadata.identifier)} {html.escape(metadata.macro_class)}” stands for <b>{concept.name}</b>, a
{concept.cls} with the appearance {concept.skin}, which is not in the base model's training set.
{residual.parameters_count():,} parameters, {metadata.steps} steps, learned in {seconds["learning"]:.0f} s.
Every row of the sheet is drawn from the same noise by the base model, by plain sampling and by LAG.</p>
<h2>Scores against ground truth</h2>
<table><tr><th></th>{"".join(f"<th>{name}</th>" for name in SCORES)}</tr>{cells}</table>
<p>recognised: the concept's appearance is the nearest of 24. class, background: what was asked is seen.
outside: mean difference to the base picture outside the object, in grey levels (less is better).</p>
<h2>Pictures</h2><img src="contact-sheet.png" alt="contact sheet">
<h2>Where LAG let the residual act</h2>
<p>The mean of the masks over the blocks and steps: colour where the residual acts, grey where the
base model is alone.</p>
{overlays}
<h2>Loss</h2><img src="loss.png" alt="loss curve"></html>
"""


if __name__ == "__main__":
    raise SystemExit(main())
