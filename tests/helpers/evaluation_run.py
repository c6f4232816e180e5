"""Small made-up run folders, as `evaluate run` leaves them."""

import json
from pathlib import Path

from PIL import Image


def training(name: str) -> dict:
    return {"name": name, "recipe": "paper"}


METHODS = [
    {"name": "base", "training": None, "lag": False, "about": "the model as it is"},
    {"name": "residual", "training": training("residual"), "lag": False, "about": "the paper's recipe"},
    {"name": "residual+lag", "training": "residual", "lag": True, "about": "the same with LAG"},
]
ORDERINGS = [
    {"higher": "residual", "lower": "base", "score": "image", "categories": None, "source": "Table 1"},
    {"higher": "base", "lower": "residual", "score": "text", "categories": None, "source": "Table 1"},
]


def suite(methods=None, orderings=None, **more) -> dict:
    return {
        "name": "tiny",
        "about": "made up",
        "methods": METHODS if methods is None else methods,
        "orderings": ORDERINGS if orderings is None else orderings,
        "sampling": {"steps": 5, "guidance": 6, "images": 1},
        **more,
    }


def row(method, concept, prompt=0, image=0, category="identity", **scores) -> dict:
    text = f"a photo of a ball {prompt}"
    own = {"method": method, "concept": concept, "group": "ball", "tuned": False, "category": category}
    return {**own, "prompt": prompt, "text": text, "image": image, **scores}


def write_run(folder: Path, rows: list[dict], pictures: bool = True, kind: str = "toybox", **settings) -> Path:
    """The folder with these rows, a grey picture of each and the pieces that would have made them."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "suite": suite(),
        "dataset": {"kind": kind, "root": "photos", "name": "Toybox"},
        "base": "abc123",
        "command": "python -m lib_persres evaluate run --suite tiny --out here",
        "created": "2030-01-01T00:00:00",
        "version": "0.0",
        **settings,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    trainings = {}
    for method in run["suite"]["methods"]:
        training = method.get("training") or "base"
        trainings[method["name"]] = training if isinstance(training, str) else training["name"]
    (folder / "scores").mkdir(exist_ok=True)
    for concept in dict.fromkeys(r["concept"] for r in rows):
        own = [r for r in rows if r["concept"] == concept]
        lines = "".join(json.dumps(r) + "\n" for r in own)
        (folder / "scores" / f"{concept}.jsonl").write_text(lines, encoding="utf-8")
        for r in own:
            piece = folder / "pieces" / concept / trainings.get(r["method"], r["method"])
            if pictures:
                file = piece / r["method"] / f"{r['prompt']:03d}-{r['image']:03d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (90, 120, 150)).save(file)
                cost = {"train_seconds": 3.0, "sample_seconds": 2.0, "peak_bytes": 2**28, "steps": 150, "problems": []}
                (piece / "piece.json").write_text(json.dumps(cost), encoding="utf-8")
    return folder
