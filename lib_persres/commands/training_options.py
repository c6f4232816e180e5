"""The options of a training as arguments of the command line, see `training.options`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..training.options import RUN, SET, Option, Running
from ..training.recipe import Recipe
from .common import at_least, finite, words


def add_options(of_recipe, of_run) -> None:
    """To two groups of arguments: those that replace the recipe's values, and the others."""
    for option in SET:
        (of_run if option.scope == RUN else of_recipe).add_argument(flag(option), dest=option.name, **_kind(option))


def flag(option: Option) -> str:
    return option.flag or f"--{option.name.replace('_', '-')}"


def changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what was given."""
    given = {o.name: getattr(args, o.name) for o in SET if o.scope != RUN and getattr(args, o.name) is not None}
    recipe.refuse_in_stages({option.name: flag(option) for option in SET if option.name in given})
    return recipe.changed(**given)


def running(args: argparse.Namespace) -> Running:
    return Running(**{option.name: getattr(args, option.name) for option in SET if option.scope == RUN})


def _kind(option: Option) -> dict:
    text = f"{option.label[0].lower()}{option.label[1:]}: {'; '.join(filter(None, (option.help, option.more)))}"
    values = {"default": None, "help": text}
    if option.scope == RUN:
        values = {"default": option.default, "help": f"{text} (default: {shown_default(option)})"}
    if option.kind is bool:
        return {**values, "action": argparse.BooleanOptionalAction}
    if option.choices:
        return {**values, "choices": option.choices}
    kind: Callable[[str], object] = finite if option.kind is float else words
    if option.kind is int:
        kind = at_least(option.low, option.high)
    return {**values, "type": kind, "metavar": option.metavar}


def shown_default(option: Option) -> str:
    if option.kind is bool:
        return "yes" if option.default else "no"
    return option.empty or str(option.default) or "automatic"
