"""`toybox install` and `toybox uninstall`: the Toybox's model in a WebUI."""

from __future__ import annotations

from .common import file_name

NOTE = "The WebUI then offers it as toybox.safetensors and loads it without a network; it draws 128x128 pictures."


def add_actions(action) -> None:
    """action(name, run, help, description): makes one of `toybox`'s parsers."""
    for name, run, help, note in (
        ("install", install, "put the Toybox model into a WebUI", " " + NOTE),
        ("uninstall", uninstall, "take out of a WebUI what toybox install put there, and nothing else", ""),
    ):
        parser = action(name, run, help, f"{help[0].upper()}{help[1:]}.{note}")
        parser.add_argument(
            "--webui", type=file_name, metavar="DIR", required=True, help="the WebUI's folder, the one with webui.py"
        )
        parser.add_argument(
            "--data-dir", type=file_name, metavar="DIR", help="its --data-dir, where it is started with one"
        )


def install(args) -> int:
    from ..toybox import install as toybox

    folder = toybox.checkpoints_of(args.webui, args.data_dir)
    if toybox.install(folder):
        print(f"The Toybox is in {folder}: choose toybox.safetensors in the WebUI, after a refresh if it is running.")
    else:
        print(f"The Toybox is in {folder} already; nothing was changed.")
    return 0


def uninstall(args) -> int:
    from ..toybox import install as toybox

    folder = toybox.checkpoints_of(args.webui, args.data_dir)
    changed = toybox.uninstall(folder)
    print(f"The Toybox is out of {folder}.")
    for path in changed:
        print(f"{path} was changed since it was installed, so it stays.")
    return 0
