"""The editor behind a card's button: what the file says of itself, and what the user keeps about it."""

from __future__ import annotations

import html
import json
import os
from datetime import datetime
from pathlib import Path

import gradio as gr
from modules import sysinfo, ui_extra_networks_user_metadata

from ...errors import PersresError
from ...training.recipe import Recipe
from ...writing import write_whole
from ..exporting import save_as_lora
from ..fit import learned_elsewhere, name_of
from ..gradios import script
from ..json_file import encodable
from ..recipes import recipe_in_words, targets_in_words
from .notes import DESCRIPTION, NOTES, PHRASE, STRENGTH, check_phrase, read_json

ROWS = {
    "concept": "Concept",
    "identifier": "V* stands for",
    "macro_class": "Class",
    "base_family": "Made for",
    "rank": "Rank",
    "steps": "Steps",
    "recipe": "Recipe",
    "targets": "Changes",
    "seed": "Seed",
    "created": "Made",
    "base_hash": "Base model",
    "library_version": "Version",
}
LONGEST = 300


class ResidualEditor(ui_extra_networks_user_metadata.UserMetadataEditor):
    def create_editor(self):
        self.create_default_editor_elems()
        self.edit_phrase = gr.Textbox(
            label="Phrase with V*",
            info='What a click on the card adds to the prompt beside the tag; empty: "V*" and the class. Of a LoRA '
            "file: its words, separated by commas; LAG looks for the first of them that the prompt has",
        )
        self.edit_strength = gr.Slider(
            0.0, 2.0, step=0.05, label="Strength", info="Of the tag that a click adds; 0: the WebUI's default"
        )
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        self.create_default_buttons()
        export = gr.Button("Save as LoRA", elem_classes=["persres-do-export"])
        export.click(self.export, inputs=[self.edit_name_input], outputs=[self.html_status])
        shown = [self.edit_name, self.edit_description, self.html_filedata, self.html_preview, self.edit_notes]
        shown += [self.edit_phrase, self.edit_strength]
        self.button_edit.click(self.put_values_into_components, inputs=[self.edit_name_input], outputs=shown).then(
            lambda: gr.update(visible=True), inputs=[], outputs=[self.box]
        )
        edited = [self.edit_description, self.edit_notes, self.edit_phrase, self.edit_strength]
        self.setup_save_handler(self.button_save, self.save, edited)

    def setup_save_handler(self, button, func, components):
        # unlike the WebUI's own, it closes only what was saved, and finds cards of any name
        event = button.click(func, inputs=[self.edit_name_input, *components], outputs=[])
        event.success(None, **script(self._refresh_card("closePopup();")), inputs=[self.edit_name_input], outputs=[])

    def setup_ui(self, gallery):
        picked = f"(x, y, z) => [selected_gallery_index_id({json.dumps(f'{self.tabname}_gallery_container')}), y, z]"
        event = self.button_replace_preview.click(
            self.save_preview,
            **script(picked),
            inputs=[self.edit_name_input, gallery, self.edit_name_input],
            outputs=[self.html_preview, self.html_status],
        )
        event.success(None, **script(self._refresh_card()), inputs=[self.edit_name_input], outputs=[])

    def _refresh_card(self, first: str = "") -> str:
        return f"(name) => {{ {first} persresRefreshCard({json.dumps(self.tabname)}, name); }}"

    # -- values

    def get_metadata_table(self, name):
        item = self.page.items[name]
        rows = [("File", self.relative_path(item["filename"])), ("Hash", item["shorthash"])]
        try:
            stats = os.stat(item["filename"])
            rows.append(("Size", sysinfo.pretty_bytes(stats.st_size)))
            rows.append(("Modified", f"{datetime.fromtimestamp(stats.st_mtime):%Y-%m-%d %H:%M}"))
        except OSError as error:
            rows.append(("Size", str(error)))
        metadata = item["metadata"] or {}
        rows += [(label, _short(WORDS.get(key, str)(metadata.get(key, "")))) for key, label in ROWS.items()]
        rows += [("Not usable", item["problem"]), ("Not usable now", item["unfit"]), ("Notes", item["warning"])]
        rows.append(("Checkpoint", learned_elsewhere(metadata.get("base_hash", ""))))
        return [(f"{label}: ", html.escape(value)) for label, value in rows if value]

    def get_user_metadata(self, name):
        return dict(self.page.items[name]["user_metadata"])

    def put_values_into_components(self, name):
        item, known = self.page.items[name], self.get_user_metadata(name)
        shown, _, *rest = super().put_values_into_components(name)
        strength = known.get(STRENGTH, 0.0)
        return [shown, item["description"] or "", *rest, known.get(PHRASE, ""), strength]

    def save(self, name, description, notes, phrase, strength):
        item = self.page.items.get(name)
        if item is None:
            raise gr.Error(f'There is no residual "{name}" any more.')
        path = Path(item["filename"]).with_suffix(".json")
        try:
            known = read_json(path)
            known |= {DESCRIPTION: description, NOTES: notes, PHRASE: check_phrase(phrase, item["plain"])}
            known |= {STRENGTH: strength or 0.0}
            self.write_user_metadata(name, known)
        except PersresError as error:
            raise gr.Error(str(error)) from error
        except OSError as error:
            raise gr.Error(f"{path} is not written: {error.strerror or error}.") from error
        self.page.read_user_metadata(item)

    def export(self, name):
        item = self.page.items.get(name)
        if item is None:
            raise gr.Error(f'There is no residual "{name}" any more.')
        path = Path(item["filename"])
        if item["plain"]:
            raise gr.Error(f"{path.name} is a LoRA file already.")
        try:
            return html.escape(save_as_lora(path))
        except PersresError as error:
            raise gr.Error(str(error)) from error

    def write_user_metadata(self, name, metadata):
        # in one step: where the disk is full, the WebUI's own leaves a part of the notes
        path = Path(self.page.items[name]["filename"]).with_suffix(".json")
        write_whole(path, json.dumps(encodable(metadata), indent=4, ensure_ascii=False).encode())
        self.page.lister.update_file_entry(str(path))


def _recipe(text: str) -> str:
    """JSON of a recipe, in words; one that is not known here by its name."""
    try:
        values = json.loads(text or "{}")
        return recipe_in_words(Recipe.from_dict(values)) if values else ""
    except (ValueError, TypeError, AttributeError, RecursionError):  # a PersresError is one
        return "not known here"


def _targets(rule: str) -> str:
    try:
        return targets_in_words(rule) if rule else ""
    except PersresError:
        return rule


def _rank(rule: str) -> str:
    return f"{rule[:-1].strip()} of each layer's width" if rule.endswith("m") else rule


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return text


WORDS = {"recipe": _recipe, "targets": _targets, "rank": _rank, "created": _moment, "base_hash": name_of}
"""How values of the file are said; others as they are."""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
