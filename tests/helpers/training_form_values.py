"""What the training tab's form holds where nobody typed anything, and a file's metadata for it."""

from lib_persres.metadata import Metadata
from lib_persres.webui.tab import form

EMPTY = {field.name: "" for field in form.FIELDS} | {
    "concept": " rex ",
    "macro_class": "dog",
    "recipe": form.AUTOMATIC,
    "flips": form.AS_RECIPE,
    "targets": form.AS_RECIPE,
    "precision": form.AUTOMATIC,
    "checkpointing": False,
    "seed": "",
    "shrink": True,
    "preview_every": "",
    "preview_prompt": "",
    "overwrite": False,
}


def metadata(recipe, **values):
    return Metadata(concept="rex", identifier="olis", macro_class="dog", recipe=recipe.to_dict(), **values)
