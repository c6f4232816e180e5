"""Residuals as their users meet them: headless Chromium on the real WebUI."""

import base64
import json

import pytest
import standalone_models as models
from browser import Browser, missing
from card_files import ODD, change, png
from checkout import A1111
from host import copy_of, make_residual
from pictures import near

from lib_persres.training.recipes import RECIPES

ACCORDION = "script_txt2img_personalized_residuals"
PROMPT = "<persres:rex:1.0> a photo of a V* dog"
ENABLED = (
    "return gradioApp().querySelector('#script_TAB_personalized_residuals_enabled-checkbox input').checked && "
    "gradioApp().querySelector('#script_TAB_personalized_residuals_enabled .label-wrap').classList.contains('open')"
)
CLOSED = f"return !(() => {{ {ENABLED} }})()"

if reason := missing():
    pytestmark = pytest.mark.skip(reason=f"No browser: {reason}")


@pytest.fixture(scope="module")
def open_page(host, tmp_path_factory):
    browser = Browser(f"http://127.0.0.1:{host.port}", tmp_path_factory.mktemp("profile"))
    try:
        yield browser.open()
    finally:
        browser.close()


@pytest.fixture
def page(host, open_page, folder):
    """The page with empty prompts and the tab of residuals open; it may not complain about anything."""
    host.end_trainings()  # of a test that failed; they would come before this one's pictures
    open_page.recover()
    open_page.errors()
    open_page.run("closePopup(); switch_to_txt2img(); for (const tab in persresClicks) persresClicks[tab] = []")
    for tab in ("txt2img", "img2img"):
        open_page.set(f"{tab}_prompt", "")
        open_page.run("persresAccordion(arguments[0], false)", tab)
    open_page.run(
        f"const masks = gradioApp().querySelector('#{ACCORDION}_show_masks input'); if (masks.checked) masks.click()"
    )
    open_page.tab("txt2img_extra_tabs", "Residuals")
    open_page.wait("return gradioApp().querySelectorAll('#txt2img_residuals_cards > .card').length")
    open_page.run("persresShowVersion('txt2img', 'fits')")
    yield open_page
    assert open_page.errors() == []


def test_cards_have_pictures_and_those_for_other_models_are_hidden_with_the_reason(host, page, folder):
    path = make_residual(host.data, "seen", models.tiny_unet(), 5, "olis", "dog")
    change(path, preview=base64.b64encode(png("red")).decode())
    change(copy_of(path, folder / "large.safetensors"), base_family="SDXL")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    page.refresh_cards()
    # pictures come when they are seen
    page.wait("return gradioApp().querySelector('#txt2img_residuals_cards [data-name=seen] img').naturalWidth == 8")
    cards = page.cards()
    assert {"rex", "mia", "seen", "broken"} <= set(cards) and "large" not in cards
    assert "V* cat" in cards["mia"]["text"] and "is not a safetensors file" in cards["broken"]["text"]
    note = page.run("return gradioApp().querySelector('#txt2img_residuals .persres-hidden-note').innerText")
    assert "large: It was made for SDXL, and the loaded model is SD1." in note
    for version, shown in (("all", {"rex", "large", "broken"}), ("SDXL", {"large", "broken"}), ("SD2", {"broken"})):
        page.run(
            "const choice = gradioApp().querySelector('#txt2img_extra_tabs .tab-nav .persres-version');"
            "choice.value = arguments[0]; choice.dispatchEvent(new Event('change'))",
            version,
        )
        assert {name for name in page.cards() if name not in ("mia", "seen")} - {"rex"} == shown - {"rex"}
        assert ("rex" in page.cards()) == ("rex" in shown)
    page.click_card("broken")
    assert page.value("txt2img_prompt") == ""
    assert "not a safetensors file" in page.run("return gradioApp().querySelector('.persres-say').innerText")
    page.run("closePopup()")


def test_cards_are_searched_and_sorted(page):
    search = (
        "const search = gradioApp().querySelector('#txt2img_residuals_extra_search');"
        "search.value = arguments[0]; updateInput(search);"
    )
    for text, found in (("mia.safetensors", ["mia"]), ("rex's own", ["rex"]), ("cat", ["mia"]), ("nothing so", [])):
        page.run(search, text)
        assert list(page.cards()) == found
    page.run(search, "")
    order = (
        "return [...gradioApp().querySelectorAll('#txt2img_residuals_cards > .card')].map((card) => card.dataset.name)"
        ".filter((name) => ['mia', 'rex'].includes(name)).join() == arguments[0]"
    )
    page.click("#txt2img_residuals_extra_sort_name")
    page.wait(order, "mia,rex")
    page.click("#txt2img_residuals_extra_sort_dir")
    page.wait(order, "rex,mia")
    page.click("#txt2img_residuals_extra_sort_dir")
    page.wait(order, "mia,rex")


def test_a_click_puts_tag_and_phrase_into_the_prompt_and_the_next_takes_them_out(page):
    page.click_card("rex")
    assert page.value("txt2img_prompt") == PROMPT
    page.click_card("mia")
    both = "<persres:rex:1.0> <persres:mia:1.0> a photo of a V* dog, V2* cat"
    assert page.value("txt2img_prompt") == both
    page.click_card("mia")
    assert page.value("txt2img_prompt") == PROMPT
    page.click_card("rex")
    assert page.value("txt2img_prompt") == ""
    page.set("txt2img_prompt", both + " on grass")
    page.click_card("rex")  # the second concept becomes the first
    assert page.value("txt2img_prompt") == "<persres:mia:1.0> a photo of a dog, V* cat on grass"
    page.click_card("rex", tab="img2img")
    assert page.value("img2img_prompt") == PROMPT


REX = {"names": ["rex", "Rex of Rome"], "noun": "dog", "phrase": ""}
OTHER = {"names": ["o[1].*"], "noun": "cat", "phrase": "big V* cat, purring"}
ADDED = {
    "a house": "<persres:rex:0.8> a house, V* dog",
    "a house,": "<persres:rex:0.8> a house, V* dog",
    "a house AND": "<persres:rex:0.8> a house AND V* dog",
    "a V* dog": "<persres:rex:0.8> a V* dog",
    "a V1* dog": "<persres:rex:0.8> a V1* dog",
    "a Dog on grass": "<persres:rex:0.8> a V* Dog on grass",
    "hotdogs": "<persres:rex:0.8> hotdogs, V* dog",
    "a house <lora:dog:1>": "<persres:rex:0.8> a house, V* dog <lora:dog:1>",
    "<lora:x:1>": "<persres:rex:0.8> <lora:x:1> a photo of a V* dog",
    "a V* dog <persres:lag=on:mia:1>": "a V* dog, V2* dog <persres:lag=on:mia:1> <persres:rex:0.8>",
    "a V* dog and V2* dog <persres:mia>": "a V* dog and V2* dog <persres:mia> <persres:rex:0.8>",
}
REMOVED = {
    "<persres:rex:0.8> a house, V* dog": "a house",
    "a V* dog by V1* <persres:rex:0.5:lag=on>": "a dog by ",
    "<persres:Rex of Rome> <persres:mia> <persres:rex> V* dog, V2* cat and V3*": "<persres:mia> dog, V* cat and V2*",
    "<persres:mia> <persres: rex :1> V* cat, V2* dog <lora:x:1>": "<persres:mia> V* cat <lora:x:1>",
}


def test_what_a_click_makes_of_a_prompt(page):
    add = "return persresAdd(arguments[0], arguments[1], '0.8')"
    assert {text: page.run(add, text, REX) for text in ADDED} == ADDED
    assert {text: page.run("return persresRemove(...arguments)", text, REX) for text in REMOVED} == REMOVED
    for text in ("", "a house", "a cat", "<persres:rex> V* dog", "$& \\1"):
        added = page.run(add, text, OTHER)
        assert "<persres:o[1].*:0.8>" in added and "* cat, purring" in added
        left = page.run("return persresRemove(...arguments)", added, OTHER)
        assert left == text or text == "" and left == "big cat, purring"


def test_any_name_can_be_clicked(host, page, folder):
    make_residual(host.data, "odd", models.tiny_unet(), 5, "olis", "d'og").rename(folder / f"{ODD}.safetensors")
    page.refresh_cards()
    page.click_card(ODD)
    prompt = page.value("txt2img_prompt")
    assert prompt == f"<persres:{ODD}:1.0> a photo of a V* d'og"
    assert "not applied" not in host.generate(prompt).infotexts[0]
    page.click_card(ODD)
    assert page.value("txt2img_prompt") == ""


@pytest.mark.parametrize("noun", ["t-shirt", "teddy-bear", "a'b-c", "two words", "собака-9", "犬"])
def test_a_card_of_any_class_can_be_clicked(host, page, folder, noun):
    make_residual(host.data, "odd", models.tiny_unet(), 5, "olis", noun)
    page.refresh_cards()
    page.set("txt2img_prompt", f"a red {noun} on grass")
    page.click_card("odd")
    assert page.value("txt2img_prompt") == f"<persres:odd:1.0> a red V* {noun} on grass"
    page.click_card("odd")
    assert page.value("txt2img_prompt") == f"a red {noun} on grass"
    page.set("txt2img_prompt", "")
    page.click_card("odd")
    assert page.value("txt2img_prompt") == f"<persres:odd:1.0> a photo of a V* {noun}"


def test_the_accordion_opens_with_the_first_tag_so_that_lag_acts(host, page):
    opened, closed = ENABLED.replace("TAB", "txt2img"), CLOSED.replace("TAB", "txt2img")
    page.wait(closed)
    page.click_card("rex")
    page.wait(opened)
    page.click_card("rex")  # the click is undone, and so is this
    page.wait(closed)
    page.click_card("rex")
    page.wait(opened)
    page.tab("txt2img_extra_tabs", "Generation")
    page.click(f"#{ACCORDION}_enabled .label-wrap")
    page.wait(closed)
    page.click_card("mia")  # who closed it wants it closed
    page.run("return new Promise((done) => setTimeout(done, 500))")
    assert page.run(closed)
    page.set("txt2img_prompt", "")
    page.run("window.persresBefore = opts.persres_lag; opts.persres_lag = 'never'")
    page.click_card("rex")
    assert page.run(closed)
    page.run("opts.persres_lag = window.persresBefore")


STATUS = f"gradioApp().querySelector('#{ACCORDION}_enabled > .persres-status').innerText"


def test_what_the_prompt_uses_is_said_while_it_is_typed(host, page, folder):
    make_residual(host.data, "<b>odd", models.tiny_unet(), 5, "olis", "x").rename(folder / "a<b.safetensors")
    change(copy_of(folder / "rex.safetensors", folder / "large.safetensors"), base_family="SDXL")
    host.post("/persres/v1/refresh")
    page.tab("txt2img_extra_tabs", "Generation")
    asked = "return performance.getEntriesByType('resource').filter((each) => /persres_prompt/.test(each.name)).length"
    page.run("performance.clearResourceTimings()")  # a browser keeps the first 250 alone
    before = page.run(asked)
    page.set("txt2img_prompt", "a photo of a dog, V* and <lora:x:1>")
    page.run("return new Promise((done) => setTimeout(done, 1500))")
    assert page.run(asked) == before  # who uses none asks nothing
    # typed letter by letter, it is looked at once or a few times, not at every letter
    page.run(
        "const [field, text] = [gradioApp().querySelector('#txt2img_prompt textarea'), arguments[0]];"
        "return new Promise((done) => { let at = 0; const timer = setInterval(() => {"
        "field.value = text.slice(0, ++at); updateInput(field);"
        "if (at == text.length) { clearInterval(timer); done(); } }, 10) })",
        PROMPT + " and V2* cat <persres:mia> with many more words behind it",
    )
    page.wait(f"return {STATUS} == 'In the prompt: rex (V* dog), mia (V2* cat)'")
    assert 1 <= page.run(asked) - before <= 5
    for prompt, said in {
        "<persres:rex> a dog": 'V* is not in the prompt: write "V* dog"',
        "<persres:nobody> V* dog": 'nobody: There is no residual "nobody"',
        "<persres:rex> V* dog, V3*": "V3* stands for the third concept",
        "<persre:rex> a V* dog": "was read as a word: did you mean <persres:rex>?",
        "<persres:rex a V* dog": 'is no tag, since its ">" is missing, so V* was read as a word: write <persres:rex>.',
        "<persres:rex> a v* dog": '"v*" in the prompt was read as words: write V*',
        "<persres:rex> a (V* dog": "is never closed, so it acts to the end",
        "<persres:rex:lag=maybe> V* dog": 'has lag="maybe"',
        "<persres:large> V* dog": "large: It was made for SDXL, and the loaded model is SD1.",
        "<persres:a<b> V* x": "In the prompt: a<b (V* x)",
    }.items():
        page.set("txt2img_prompt", prompt)
        page.wait(f"return {STATUS}.includes(arguments[0])", said)
    assert not page.run(f"return gradioApp().querySelector('#{ACCORDION}_enabled > .persres-status i')")
    page.set("txt2img_prompt", "nothing of ours")
    page.wait(f"return {STATUS} == ''")


def test_send_to_img2img_and_inpaint_takes_the_accordion_along(host, page):
    page.click_card("rex")
    page.wait(ENABLED.replace("TAB", "txt2img"))
    page.tab("txt2img_extra_tabs", "Generation")
    for elem_id, value in (("steps", 3), ("width", 64), ("height", 64)):
        page.set(f"txt2img_{elem_id}", value)
    page.set(f"{ACCORDION}_strength", 0.7)
    page.click(f"#{ACCORDION}_unconditional input[value=base]")
    page.click(f"#{ACCORDION}_lag input[value=on]")
    page.click(f"#{ACCORDION}_show_masks input")
    page.click("#txt2img_generate")
    page.wait("return gradioApp().querySelector('#txt2img_gallery img').naturalWidth == 64")
    page.wait("return gradioApp().querySelector('#txt2img_interrupt').offsetParent === null")
    there = ACCORDION.replace("txt2img", "img2img")
    field = f"gradioApp().querySelector('#{there}_%s')"
    values = {
        "strength": f"Number({field % 'strength'}.querySelector('input').value)",
        "unconditional": f"{field % 'unconditional'}.querySelector('input:checked').value",
        "show_masks": f"{field % 'show_masks'}.querySelector('input').checked",
        "lag": f"{field % 'lag'}.querySelector('input:checked').value",
    }
    now = f"({{{', '.join(f'{name}: {script}' for name, script in values.items())}}})"
    wanted = {"strength": 0.7, "unconditional": "base", "show_masks": True, "lag": "on"}
    try:
        for place in ("img2img", "inpaint"):
            page.run("switch_to_txt2img(); persresAccordion('img2img', false)")
            page.set("img2img_prompt", "")
            page.set(f"{there}_strength", 1.0)
            page.click(f"#txt2img_send_to_{place}")
            page.wait("return gradioApp().querySelector('#img2img_prompt textarea').value == arguments[0]", PROMPT)
            page.wait(ENABLED.replace("TAB", "img2img"))
            same = f"const now = {now}; return Object.keys(now).every((key) => now[key] == arguments[0][key])"
            page.wait(same, wanted)
        page.run("switch_to_txt2img()")
        page.click("#txt2img_send_to_extras")
        page.wait("return gradioApp().querySelector('#tab_extras').offsetParent && true")
        # what was closed arrives closed
        page.run("switch_to_txt2img(); persresAccordion('txt2img', false)")
        page.click("#txt2img_send_to_img2img")
        page.wait(CLOSED.replace("TAB", "img2img"))
    finally:
        for tab in ("txt2img", "img2img"):
            name = ACCORDION.replace("txt2img", tab)
            page.set(f"{name}_strength", 1.0)
            page.click(f"#{name}_unconditional input[value=mirror]")
            page.run(f"const box = gradioApp().querySelector('#{name}_show_masks input'); if (box.checked) box.click()")


def test_a_residual_of_another_checkpoint_says_so_in_words(host, page, folder):
    path = make_residual(host.data, "foreign", models.tiny_unet(), 5, "olis", "dog")
    change(path, base_hash="ab" * 32, recipe=RECIPES["word-first"].to_dict(), steps=210, rank="0.05m")
    host.post("/probe/checkpoint/" + "cd" * 32)
    try:
        page.refresh_cards()
        said = "Learned on another checkpoint, ababababab; tiny is loaded."
        card = page.cards()["foreign"]
        assert said in card["text"] and "persres-unfit" not in card["classes"]
        page.click_card("foreign", part=".edit-button")
        table = "gradioApp().querySelector('#txt2img_residuals_edit_user_metadata .file-metadata')"
        page.wait(f"return {table}.innerText.includes('foreign.safetensors')")
        text = page.run(f"return {table}.innerText")
        assert said in text and "ab" * 8 not in text and "{" not in text
        assert "word-first. 2 stages: the word V* itself (60 steps), then the blocks' output projections (150" in text
        assert "0.05 of each layer's width" in text
        # the labels stand in one line each, however long the values are
        widths = f"[...{table}.querySelectorAll('th')].map((each) => each.getBoundingClientRect())"
        assert page.run(f"return {widths}.every((each) => each.width > 100)")
        page.run("closePopup()")
        host.post("/probe/checkpoint/" + "ab" * 32)
        page.refresh_cards()
        assert "Learned on another" not in page.cards()["foreign"]["text"]
    finally:
        host.post("/probe/checkpoint/none")


@pytest.mark.skipif(not A1111, reason="this host reads such names by the depth of the model, which the tests' has not")
def test_a_card_is_saved_as_a_lora_that_draws_the_same(host, page):
    path = host.data / "models" / "Lora" / "rex.safetensors"
    editor = "#txt2img_residuals_edit_user_metadata"
    page.click_card("rex", part=".edit-button")
    page.wait(f"return gradioApp().querySelector('{editor} .persres-do-export').offsetParent && true")
    try:
        page.click(f"{editor} .persres-do-export")
        page.wait(f"return gradioApp().querySelector('{editor}').innerText.includes('Written: ')")
        said = page.run(f"return gradioApp().querySelector('{editor}').innerText")
        assert str(path) in said and '"olis dog" stands for V*' in said
        host.post("/sdapi/v1/refresh-loras")
        assert near(host.image("a olis dog <lora:rex:1>"), host.image("a olis dog <persres:rex>"))
        page.click(f"{editor} .persres-do-export")
        page.wait("return document.body.innerText.includes('is there already')")
    finally:
        path.unlink()
        host.post("/sdapi/v1/refresh-loras")


def test_the_editor_keeps_strength_phrase_and_notes(host, page, folder):
    make_residual(host.data, 'a "noted" one', models.tiny_unet(), 5, "olis", "dog")
    page.refresh_cards()
    notes = folder / 'a "noted" one.json'
    notes.write_text(json.dumps({"made by": "another tool"}))

    def save(phrase):
        page.click_card('a "noted" one', part=".edit-button")
        editor = "#txt2img_residuals_edit_user_metadata"
        # what stood there until now may be another file's, or what was typed before
        page.wait(f"return gradioApp().querySelector('{editor} .file-metadata').innerText.includes('noted')")
        typed = f"[...gradioApp().querySelectorAll('{editor} label')].find((each) => /Phrase/.test(each.innerText))"
        page.wait(f"return {typed}.querySelector('textarea').value == ''")
        table = page.run(f"return gradioApp().querySelector('{editor} .file-metadata').innerText")
        page.run(
            """
            const [editor, values] = arguments;
            for (const label of gradioApp().querySelectorAll(`${editor} label, ${editor} .gradio-slider`)) {
                const name = label.querySelector("span")?.textContent.trim();
                const input = label.querySelector("textarea, input[type=number]");
                if (input && name in values) { input.value = values[name]; updateInput(input); }
            }
            """,
            editor,
            {"Phrase with V*": phrase, "Strength": 0.6, "Notes": "mine", "Description": "of <b>mine"},
        )
        buttons = f"[...gradioApp().querySelectorAll('{editor} button')]"
        page.run(f"{buttons}.find((button) => button.textContent.trim() == 'Save').click()")
        return table

    table = save("a dog")
    page.wait("return document.body.innerText.includes('has no V* in it')")
    assert json.loads(notes.read_text()) == {"made by": "another tool"}
    page.run("closePopup()")
    save("my V* dog")
    for text in ('"noted" one\'s own name', "SD1", 'a "noted" one.safetensors'):
        assert text in table
    page.wait(
        "return [...gradioApp().querySelectorAll('#txt2img_residuals_cards > .card')]"
        ".some((card) => card.querySelector('.description').textContent == 'of <b>mine')"
    )
    kept = json.loads(notes.read_text())
    assert kept["made by"] == "another tool" and kept["notes"] == "mine"
    assert kept["preferred weight"] == 0.6 and kept["activation text"] == "my V* dog"
    page.click_card('a "noted" one')
    assert page.value("txt2img_prompt") == '<persres:a "noted" one:0.6> my V* dog'


def test_generation_with_masks_and_back_from_its_png(host, page):
    page.click_card("rex")
    page.tab("txt2img_extra_tabs", "Generation")
    for elem_id, value in (("steps", 3), ("width", 64), ("height", 64)):
        page.set(f"txt2img_{elem_id}", value)
    enabled = ENABLED.replace("TAB", "txt2img")
    masks = f"return gradioApp().querySelector('#{ACCORDION}_show_masks input').checked"
    page.wait(enabled)  # the click on the card opened it
    page.wait(f"return gradioApp().querySelector('#{ACCORDION}_lag').offsetParent && true")
    page.click(f"#{ACCORDION}_show_masks input")
    page.click("#txt2img_generate")
    gallery = "return new Set([...gradioApp().querySelectorAll('#txt2img_gallery img')].map((image) => image.src))"
    page.wait(f"{gallery}.size == 2 && gradioApp().querySelector('#txt2img_gallery img').naturalWidth == 64")
    saved = sorted(host.data.glob("output*/txt2img-images/**/*.png"), key=lambda path: path.stat().st_mtime)
    overlay, image = saved[-1], saved[-2]
    assert overlay.stem.endswith("-persres-masks") and not image.stem.endswith("-persres-masks")

    page.click(f"#{ACCORDION}_show_masks input")
    page.click(f"#{ACCORDION}_enabled .label-wrap")
    page.wait(CLOSED.replace("TAB", "txt2img"))
    page.set("txt2img_prompt", "something else")
    page.tab("tabs", "PNG Info")
    page.driver.find_element("css selector", "#pnginfo_image input[type=file]").send_keys(str(image))
    page.wait("return gradioApp().querySelector('#tab_pnginfo').innerText.includes('Persres LAG: ')")
    page.click("#tab_pnginfo #txt2img_tab")
    page.wait("return gradioApp().querySelector('#txt2img_prompt textarea').value == arguments[0]", PROMPT)
    page.wait(enabled)
    page.wait(masks)
    page.wait(f"return gradioApp().querySelector('#{ACCORDION}_enabled .label-wrap').classList.contains('open')")
    page.tab("tabs", "txt2img")
