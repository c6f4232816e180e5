"""The cards of residuals as the WebUI hands them out, without a browser."""

import base64
import contextlib
import html.parser
import io
import json
import os
import sqlite3
import urllib.parse
import urllib.request

import pytest
import safetensors.torch
import standalone_models as models
import torch
from card_files import ODD, change, png
from host import make_residual
from PIL import Image


class Card(html.parser.HTMLParser):
    """attributes: of the card itself. tags: all that is in it. text: what one reads. click: what a click knows."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)
        self.attributes = self.tags[0][1]
        call = self.attributes["onclick"].removeprefix("persresCardClicked(").removesuffix(");")
        _, self.click = json.loads(f"[{call}]")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def card(host, name) -> Card:
    query = urllib.parse.urlencode({"page": "residuals", "tabname": "txt2img", "name": name})
    return Card(host.get(f"/sd_extra_networks/get-single-card?{query}")["html"])


def picture(host, card) -> tuple:
    """The colour of the picture on a card."""
    source = next(attributes["src"] for tag, attributes in card.tags if tag == "img")
    if not source.startswith("data:"):
        source = f"http://127.0.0.1:{host.port}/{source.removeprefix('./')}"
    with urllib.request.urlopen(source) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB").getpixel((4, 4))


def test_a_card_knows_its_tag_and_phrase(host):
    rex = card(host, "rex")
    assert rex.click == {
        "names": ["rex", "rex's own name"],
        "noun": "dog",
        "phrase": "",
        "plain": False,
        "strength": None,
        "problem": None,
    }
    assert "V* dog" in rex.text and "persres" not in rex.attributes["class"]


def test_search_terms_hold_concept_class_family_and_hash(host):
    listed = next(entry for entry in host.get("/persres/v1/residuals") if entry["name"] == "rex")
    text = card(host, "rex").text
    for term in ("rex's own name", "dog", "SD1", listed["hash"]):
        assert term in text


def test_the_picture_beside_the_file_comes_before_the_one_in_it(host, folder):
    path = make_residual(host.data, "seen", models.tiny_unet(), 5, "olis", "dog")
    change(path, preview=base64.b64encode(png("red")).decode())
    host.post("/probe/cards")
    assert picture(host, card(host, "seen")) == (255, 0, 0)
    (folder / "seen.preview.png").write_bytes(png("blue"))
    host.post("/probe/cards")
    assert picture(host, card(host, "seen")) == (0, 0, 255)


def test_a_broken_file_has_a_card_that_says_why(host, folder):
    (folder / "bro<ken.safetensors").write_bytes(b"nothing")
    broken = card(host, "bro<ken")
    assert "bro<ken.safetensors cannot be used as a residual: it is not a safetensors file." in broken.text
    assert "persres-broken" in broken.attributes["class"] and "not a safetensors" in broken.click["problem"]


def test_a_residual_of_another_family_says_why(host, folder):
    path = make_residual(host.data, "large", models.tiny_unet(), 5, "olis", "dog")
    change(path, base_family="SDXL")
    large = card(host, "large")
    assert "It was made for SDXL, and the loaded model is SD1." in large.text
    assert "persres-unfit" in large.attributes["class"] and large.attributes["data-persres-family"] == "SDXL"
    assert large.click["names"] == ["large", "large's own name"] and large.click["problem"] is None


def test_a_residual_of_another_width_says_why(host, folder):
    make_residual(host.data, "wide", models.tiny_unet(model_channels=64), 5, "olis", "dog")
    wide = card(host, "wide")
    assert "wide was trained for another model (width" in wide.text and "persres-unfit" in wide.attributes["class"]


@pytest.mark.parametrize("name", [ODD, "<script>alert(1)"])
def test_any_name_is_safe_in_the_page(host, folder, name):
    path = make_residual(host.data, "odd", models.tiny_unet(), 5, "olis", "dog's")
    change(path, concept="d<o>\"g'", base_hash="<b>\"'")
    path.rename(folder / f"{name}.safetensors")
    odd = card(host, name)
    assert odd.attributes["data-name"] == name and odd.click["noun"] == "dog's"
    assert not {"script", "o", "b"} & {tag for tag, _ in odd.tags}
    assert any(attributes.get("data-clipboard-text", "").endswith(f"{name}.safetensors") for _, attributes in odd.tags)
    if name == ODD:
        result = host.generate(f"a V* dog <persres:{odd.click['names'][0]}:1.0>")
        assert "Persres hashes" in result.infotexts[0] and "not applied" not in result.infotexts[0]


@pytest.mark.parametrize("name", ["a#b", "a:b", "a>b", "lag=on", " blank"])
def test_a_name_that_no_tag_can_say_is_told(host, folder, name):
    path = make_residual(host.data, "odd", models.tiny_unet(), 5, "olis", "dog")
    change(path, concept=name)
    path.rename(folder / f"{name}.safetensors")
    odd = card(host, name)
    assert "No tag can name" in odd.text and odd.click["names"] == []
    # but the concept's own name may
    change(folder / f"{name}.safetensors", concept="sayable")
    assert card(host, name).click["names"] == ["sayable"]


def test_the_users_notes_are_in_the_card(host, folder):
    make_residual(host.data, "noted", models.tiny_unet(), 5, "olis", "dog")
    notes = folder / "noted.json"
    notes.write_text(json.dumps({"preferred weight": 0.7, "activation text": "V* dog, red", "description": "<b>mine"}))
    noted = card(host, "noted")
    assert noted.click["strength"] == 0.7 and noted.click["phrase"] == "V* dog, red" and "<b>mine" in noted.text
    notes.write_text("[")
    broken = card(host, "noted")
    assert "noted.json cannot be read" in broken.text and broken.click["strength"] is None


def raw_residual(path, **fields):
    """A file whose header says this, whatever `save` would say to it."""
    header = {"format": "persres", "format_version": "1", "concept": "x", "identifier": "olis", "macro_class": "dog"}
    factors = {"a.proj_out.down": torch.ones(1, 4), "a.proj_out.up": torch.ones(4, 1)}
    safetensors.torch.save_file(factors, path, metadata={**header, **fields})


def test_one_bad_file_or_note_spoils_no_card_and_no_listing(host, folder):
    for number, notes in enumerate(
        ('{"preferred weight": ' + "1" * 401 + "}", '{"description": "\\ud800"}', "[" * 9999, '{"\\ud800": [NaN]}')
    ):
        make_residual(host.data, f"noted{number}", models.tiny_unet(), 5, "olis", "dog")
        (folder / f"noted{number}.json").write_text(notes)
    recipes = ('{"a":' * 500 + "1" + "}" * 500, '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": ' + "1" * 401 + "}")
    for number, recipe in enumerate(recipes):
        raw_residual(folder / f"recipe{number}.safetensors", recipe=recipe)
    raw_residual(folder / "brackets.safetensors", identifier="[" * 200)
    raw_residual(folder / "blank.safetensors", identifier=" ")
    with contextlib.suppress(OSError):  # the file system has UTF-8 alone
        raw_residual(folder / "raw.safetensors", concept="raw")
        os.rename(folder / "raw.safetensors", folder / os.fsdecode(b"r\xe9x.safetensors"))
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(folder / "rex.txt")
    (folder / "deep").mkdir()
    for name in ("again", "deep/up"):
        (folder / name).symlink_to(folder, target_is_directory=True)

    page = host.post("/probe/cards")
    listed = host.get("/persres/v1/residuals")
    names = {entry["name"]: entry for entry in listed}
    assert len(listed) == len(names) and {"rex", "mia", "noted0", "recipe3", "pipe", "brackets"} < set(names)
    assert page.count('class="card') == len(listed) and page.count(">again") == 0
    assert names["recipe0"]["metadata"] is names["recipe0"]["hash"] is None and names["rex"]["metadata"]
    for name in ("noted0", "noted1", "noted3"):
        assert f"{name}.json has an unusable" in card(host, name).text
    assert "noted2.json cannot be read" in card(host, "noted2").text
    assert "recipe is damaged" in card(host, "recipe1").text and "identifier is empty" in card(host, "blank").text
    assert "contains [, which has a meaning in prompts" in card(host, "brackets").text
    assert "a pipe or a device" in card(host, "pipe").text


def test_a_hash_is_kept_in_the_webuis_cache(host, folder):
    path = make_residual(host.data, "hashed", models.tiny_unet(), 5, "olis", "dog")
    listed = {entry["name"]: entry["hash"] for entry in host.get("/persres/v1/residuals")}
    kept = sqlite3.connect(host.data / "cache" / "persres-hashes" / "cache.db")
    rows = dict(kept.execute("SELECT key, value FROM Cache"))
    kept.close()
    assert rows[str(path)].split()[-1] == listed["hashed"] and listed["hashed"] in card(host, "hashed").text


def test_the_metadata_are_shown_without_the_picture(host, folder):
    path = make_residual(host.data, "seen", models.tiny_unet(), 5, "olis", "dog")
    change(path, preview=base64.b64encode(png("red")).decode())
    host.post("/probe/cards")
    shown = json.loads(host.get("/sd_extra_networks/metadata?page=residuals&item=seen")["metadata"])
    assert shown["identifier"] == "olis" and "preview" not in shown and "ssmd_cover_images" not in shown
