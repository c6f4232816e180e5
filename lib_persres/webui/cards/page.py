"""The tab "Residuals" among the WebUI's extra networks: a card for each file of the folder."""

from __future__ import annotations

import contextlib
import html
import json
import os
import urllib.parse
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from modules import shared, ui_extra_networks

from ...errors import PersresError, readable
from ...lora.adapter import Adapter
from ...prompt import NETWORK, read_tag
from ...regular_files import read_whole
from ...residual import Metadata, Residual
from ...residual_folder import Entry
from ...residual_listing import Stamp, shown
from ...unet import target_widths
from ..files import Files
from ..fit import FAMILIES, learned_elsewhere, misfit
from ..host import HOST
from .editor import ResidualEditor
from .notes import DESCRIPTION, MAX_FILE, PHRASE, STRENGTH, check_phrase, read_notes

VERSIONS = {"fits": "For this model", "all": "All", **{family: family for family in FAMILIES}}
_CONTROLS = ("<small>Sort: </small>", '<div id="{tabname}_{extra_networks_tabname}_extra_sort"')
"""What the WebUIs' bars of controls have, the first of which is there: our choice stands before it."""
_CLICK = "{card_clicked}"
_CARD, _DESCRIPTION = '<div class="card"', '<span class="description">'


class ResidualsPage(ui_extra_networks.ExtraNetworksPage):
    """An item has, beside the WebUI's own fields:

    tag_names: what a tag may call it, the best one first. problem: why it cannot be used at all. unfit: why it
    cannot be used with the loaded model. warning: what is wrong with the user's notes. plain: whether it is a LoRA
    file, whose words stand in prompts as they are. words: those that its header has.
    """

    btn_copy_path_tpl: str
    btn_tree_tpl: str
    pane_tpl: str

    def __init__(self, residuals: Files):
        super().__init__("Residuals")
        self.residuals = residuals
        self._outlines: dict[Path, tuple[Stamp, Residual]] = {}
        # the WebUI writes names and paths into these as they are
        self.btn_copy_path_tpl = _Escaping(self.btn_copy_path_tpl)
        self.btn_tree_tpl = _Escaping(self.btn_tree_tpl)
        options = "".join(f"<option value='{value}'>{label}</option>" for value, label in VERSIONS.items())
        choice = (
            "<select class='persres-version' title='Which residuals to show' "
            f"onchange='persresShowVersion(\"{{tabname}}\", this.value)'>{options}</select> "
        )
        for place in filter(self.pane_tpl.__contains__, _CONTROLS):
            self.pane_tpl = self.pane_tpl.replace(place, choice + place, 1)
            break

    def refresh(self):
        self.residuals.refresh()

    def list_items(self):
        widths = lru_cache(target_widths)
        for index, entry in enumerate(self.residuals.listed()):
            yield self._item(entry, index, widths)

    def create_item(self, name, index=None, enable_filter=True):
        entry = next((entry for entry in self.residuals.listed() if entry.name == name), None)
        if entry is None:
            raise PersresError(f'There is no residual "{name}" in {self.residuals.folder()} any more.')
        return self._item(entry, index, target_widths)

    def allowed_directories_for_previews(self):
        return list(map(os.path.abspath, self.residuals.folders()))

    def create_user_metadata_editor(self, ui, tabname):
        return ResidualEditor(ui, tabname, self)

    # -- what a card knows

    def _item(self, entry: Entry, index: int | None, widths: Callable) -> dict:
        path = Path(os.path.abspath(entry.path))
        base = str(path.with_suffix(""))
        item: dict[str, Any] = {
            "name": entry.name,
            "filename": shown(str(path)),
            "shorthash": "",
            "preview": None,
            "description": None,
            "local_preview": shown(f"{base}.{shared.opts.samples_format}"),
            "metadata": None,
            "tag_names": [],
            "problem": None,
            "unfit": None,
            "plain": False,
            "words": (),
            "sort_keys": {"default": index},
        }
        terms = [self.search_terms_from_path(item["filename"])]
        try:
            item["sort_keys"] |= self.get_sort_keys(str(path))
            item["preview"] = self.find_preview(base) if shown(base) == base else None
            item["description"] = self.find_description(base)
            # many files are not all read for this: who uses one or lists them computes it, and it is kept
            digest = self.residuals.known_hash(entry) or ""
            item["shorthash"] = digest[:10]
            outline = self._outline(entry)
            metadata = outline.metadata
            if isinstance(outline, Adapter):
                item["plain"], item["words"] = True, outline.words
                item["metadata"] = _facts(outline)
            else:
                item["metadata"] = _shown(metadata)
            item["sort_keys"]["date_created"] = _seconds(metadata.created, item["sort_keys"]["date_created"])
            item["preview"] = item["preview"] or self._embedded_preview(entry, metadata)
            item["tag_names"] = self._tag_names(entry)
            terms += [digest, metadata.concept, metadata.macro_class, metadata.base_family]
            item["unfit"] = misfit(outline, entry.name, HOST.model(), widths)
        except (PersresError, OSError) as error:
            item["problem"] = readable(str(error).replace(readable(str(path)), path.name))
        except Exception as error:  # one file must not take the cards of all the others away
            item["problem"] = readable(f"{path.name} cannot be shown: {error!r}")
        if not item["problem"] and not item["tag_names"]:
            item["problem"] = (
                f"No tag can name {shown(path.name)}: "
                "rename the file without # : = < > \\ and without blanks at its ends."
            )
        item["search_terms"] = [html.escape(term) for term in terms]
        self.read_user_metadata(item)
        phrase = _phrase(item)
        tag = json.dumps(f"<{NETWORK}:{next(iter(item['tag_names']), entry.name)}:")
        item["prompt"] = f"{tag} + {_strength(item)} + {json.dumps(f'> {phrase}')}"
        return item

    def _outline(self, entry: Entry) -> Residual:
        """That of a LoRA file is read once for each version of it: headers may be large, and files thousands."""
        stamp, known = self._outlines.get(entry.path, (None, None))
        if known is None or stamp != entry.stamp:
            known = self.residuals.reader.outline(entry.path)
            if isinstance(known, Adapter):  # a residual's has its picture
                self._outlines[entry.path] = entry.stamp, known
        return known

    def read_user_metadata(self, item, use_cache=True):
        path = Path(item["filename"]).with_suffix(".json")
        item["user_metadata"], item["warning"] = read_notes(path, item["plain"])
        if DESCRIPTION in item["user_metadata"]:
            item["description"] = item["user_metadata"][DESCRIPTION]

    def find_description(self, path):
        for name in (f"{path}.txt", f"{path}.description.txt"):
            if self.lister.exists(name):
                with contextlib.suppress(OSError):  # too large for a card, or a pipe
                    return read_whole(name, MAX_FILE).decode("utf-8", "replace")
        return None

    def _embedded_preview(self, entry: Entry, metadata: Metadata) -> str | None:
        """The WebUI shows pictures that are in a file's metadata, under the key that `_shown` gives it."""
        if not metadata.preview:
            return None
        if not _has_covers():
            return f"data:image/png;base64,{metadata.preview}"
        name = urllib.parse.quote(entry.name, safe="")
        page = self.extra_networks_tabname
        return f"./sd_extra_networks/cover-images?page={page}&item={name}&mtime={entry.stamp[0]}"

    def _tag_names(self, entry: Entry) -> list[str]:
        names = dict.fromkeys((entry.name, entry.inside, entry.inside.rpartition("/")[2], entry.concept))
        return [name for name in names if name and self._says(name, entry)]

    def _says(self, name: str, entry: Entry) -> bool:
        """Whether a tag with this name means this file, when the WebUI reads it."""
        if "#" in name and HOST.takes_comments():
            return False
        rest, found = HOST.parse_tags(f"<{NETWORK}:{name}:1.0>")
        tags = found.get(NETWORK, ())
        if rest or len(tags) != 1:
            return False
        try:
            tag = read_tag(tags[0].items)
        except PersresError:
            return False
        found = self.residuals.meant(tag.name)
        return len(found) == 1 and found[0].path == entry.path

    # -- the page

    def create_html(self, tabname, *, empty=False):
        page = super().create_html(tabname, empty=empty)
        unfit = [item for item in self.items.values() if item["unfit"]]
        reasons = "".join(
            f"<li><b>{html.escape(item['name'])}</b>: {html.escape(item['unfit'])}</li>" for item in unfit
        )
        page = page.encode("utf-8", "backslashreplace").decode()  # a path may hold what is no UTF-8
        if not reasons:
            return page
        return f"{page}<div class='persres-hidden-note'>Hidden here, for another model:<ul>{reasons}</ul></div>"

    def create_dirs_view_html(self, tabname):
        """The WebUI's own follows links that lead back, and so for ever."""
        show, slash = shared.opts.extra_networks_show_hidden_directories, shared.opts.extra_networks_dir_button_function
        folders = {entry.inside.rpartition("/")[0] for entry in self.residuals.entries}
        folders |= {"/".join(parts[:end]) for parts in (f.split("/") for f in folders) for end in range(1, len(parts))}
        labels = [
            f"{os.path.sep if slash else ''}{folder.replace('/', os.path.sep)}{os.path.sep}"
            for folder in sorted(filter(None, folders), key=shared.natural_sort_key)
            if show or not any(part.startswith(".") for part in folder.split("/"))
        ]
        click = f'extraNetworksSearchButton("{tabname}", "{self.extra_networks_tabname}", event)'
        return "".join(
            f"<button class='lg secondary gradio-button custom-button{'' if label else ' search-all'}' "
            f"onclick='{click}'>{html.escape(label or 'all')}</button>"
            for label in (["", *labels] if labels else [])
        )

    def create_tree_view_html(self, tabname):
        """As the WebUI's own, of the files alone that are listed: links that lead back are not followed."""
        items = []
        for root in map(os.path.abspath, self.residuals.folders()):
            inside = (item for item in self.items.values() if item["filename"].startswith(root + os.sep))
            items += [(os.path.relpath(item["filename"], os.path.dirname(root)).split(os.sep), item) for item in inside]
        return f"<ul class='tree-list tree-list--tree'>{self._branches(tabname, items, '')}</ul>" if items else ""

    def _branches(self, tabname: str, items: list[tuple[list[str], dict]], above: str) -> str:
        """items: with the parts of their paths below the folder `above`."""
        folders, files = defaultdict(list), {}
        for (first, *rest), item in items:
            if rest:
                folders[first].append((rest, item))
            else:
                files[first] = item
        found = []
        for folder in sorted(folders, key=shared.natural_sort_key):
            path = os.path.join(above, folder)
            inside = self._branches(tabname, folders[folder], path)
            found.append(self.create_tree_dir_item_html(tabname, path, inside))
        for file in sorted(files, key=shared.natural_sort_key):
            found.append(self.create_tree_file_item_html(tabname, os.path.join(above, file), files[file]))
        return "".join(found)

    def create_item_html(self, tabname, item, template=None):
        reason = item["problem"] or item["unfit"] or item["warning"]
        classes = "card" + (" persres-broken" if item["problem"] else " persres-unfit" if item["unfit"] else "")
        family = (item["metadata"] or {}).get("base_family", "")
        attributes = f' data-persres-family="{_literal(family)}"' if family in FAMILIES else ""
        if reason:
            attributes += f' title="{_literal(reason)}"'
            extra = f'<span class="persres-reason">{_literal(reason)}</span>'
        else:
            extra = f'<span class="persres-phrase">{_literal(_phrase(item))}</span>'
            if elsewhere := learned_elsewhere((item["metadata"] or {}).get("base_hash", "")):
                extra += f'<span class="persres-elsewhere">{_literal(elsewhere)}</span>'
        if template:
            template = template.replace(_CARD, f'<div class="{classes}"{attributes}', 1)
            template = template.replace(_DESCRIPTION, extra + _DESCRIPTION, 1)
        card = {
            "names": item["tag_names"],
            "noun": (item["metadata"] or {}).get("macro_class", ""),
            "phrase": _said(item),
            "plain": item["plain"],
            "strength": item["user_metadata"].get(STRENGTH) or None,
            "problem": item["problem"],
        }
        click = f"persresCardClicked({json.dumps(tabname)}, {json.dumps(card)});"
        # not the item's "onclick", before which some WebUIs choose the checkpoint's VAE
        if template:
            return super().create_item_html(tabname, item, template.replace(_CLICK, _literal(click), 1))
        made = super().create_item_html(tabname, item)
        return {**made, "card_clicked": html.escape(click)} if isinstance(made, dict) else made


class _Escaping(str):
    """A template that escapes the values which the WebUI does not."""

    def format(self, **values):
        for key in ("filename", "data_path", "action_list_item_label"):
            if key in values:
                values[key] = html.escape(values[key])
        return super().format(**values)


def _has_covers() -> bool:
    """Whether the WebUI shows the pictures in a file's metadata, and leaves them out of its view of these."""
    return hasattr(ui_extra_networks, "fetch_cover_images")


def _shown(metadata: Metadata) -> dict:
    """The metadata for the WebUI's own view of them."""
    strings = metadata.to_strings()
    preview = strings.pop("preview", None)
    return {**strings, "ssmd_cover_images": json.dumps([preview])} if preview and _has_covers() else strings


def _facts(lora: Adapter) -> dict:
    """What is known of a LoRA file, by the names that a residual's header has."""
    known = lora.metadata
    facts = {"base_family": known.base_family, "rank": known.rank, "targets": known.targets}
    return {key: value for key, value in {**facts, "trigger words": ", ".join(lora.words)}.items() if value}


def _said(item: dict) -> str:
    """What a click adds beside the tag, where that is not V* and the class: the user's, or a LoRA file's own words."""
    preferred = check_phrase(item["user_metadata"].get(PHRASE, ""), item["plain"])
    return preferred or next(iter(item["words"]), "")


def _phrase(item: dict) -> str:
    if item["plain"]:
        return _said(item)
    return _said(item) or f"V* {(item['metadata'] or {}).get('macro_class', '')}".strip()


def _strength(item: dict) -> str:
    """JavaScript for the strength of the tag."""
    return str(item["user_metadata"].get(STRENGTH) or "opts.extra_networks_default_multiplier")


def _seconds(moment: str, otherwise: int) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except (ValueError, OverflowError, OSError):
        return otherwise


def _literal(text: str) -> str:
    """Text for a template of the WebUI, which is HTML and goes through str.format."""
    return html.escape(text).replace("{", "{{").replace("}", "}}")
