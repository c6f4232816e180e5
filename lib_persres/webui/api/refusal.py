"""What a request to the WebUI's own API says of this extension, refused before the WebUI drops or cuts it."""

from __future__ import annotations

import re

from ...errors import PersresError
from ...prompt import NETWORK
from ..options import check_all
from ..settings import TITLE, Settings
from ..values import kind, shown

PROMPTS = ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt")
SPELLINGS = ("persres", "personalizedresidual", "personalizedresiduals", "sdwebuipersres")


class Refused(PersresError):
    """What the WebUI's API answers with this status and text, and the UI shows as its text."""

    def __init__(self, detail: str):
        super().__init__(detail)
        self.status_code = 422
        self.detail = detail


def check_generation(body) -> None:
    """The body of txt2img or img2img; PersresError for anything of ours that would not be understood."""
    if not isinstance(body, dict):
        return
    options = body.get("override_settings")
    if isinstance(options, dict):
        check_all(options)
    _check_texts(body)
    scripts = body.get("alwayson_scripts")
    if not isinstance(scripts, dict):
        return
    ours = [name for name in scripts if re.sub(r"[\W_]", "", str(name)).lower() in SPELLINGS]
    for name in ours:
        if str(name).lower() != TITLE.lower():  # the WebUI takes any case
            raise PersresError(f'alwayson_scripts names {shown(name)}; the script is called "{TITLE}".')
    if len(ours) > 1:
        raise PersresError(f"alwayson_scripts names {TITLE} {len(ours)} times, as {', '.join(ours)}; name it once.")
    for name in ours:
        _check_entry(scripts[name])


def _check_texts(body: dict) -> None:
    """A prompt with our tag can be written back: half a character cannot, and the WebUI would fail at its answer."""
    texts = {name: body[name] for name in PROMPTS if isinstance(body.get(name), str)}
    if any(f"<{NETWORK}" in text for text in texts.values()):
        for name, text in texts.items():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise PersresError(
                    f"{name} has half a character (a lone surrogate) at place {error.start + 1}; write it again."
                ) from error


def _check_entry(entry) -> None:
    example = '{"args": [{"lag": true}]}'
    if not isinstance(entry, dict):
        raise PersresError(f"{TITLE} in alwayson_scripts is {kind(entry)}; write {example}.")
    unknown = sorted(str(key) for key in entry if key != "args")
    if unknown:
        raise PersresError(
            f'{TITLE} in alwayson_scripts has {", ".join(unknown)[:100]}; only "args" may be there: {example}.'
        )
    if "args" not in entry:
        raise PersresError(f'{TITLE} in alwayson_scripts has no "args"; write {example}, or leave the script out.')
    if not isinstance(entry["args"], list):
        raise PersresError(f'"args" of {TITLE} is {kind(entry["args"])}; it must be a list: {example}.')
    Settings.from_args(entry["args"])


def check_options(body) -> None:
    """The body of POST /sdapi/v1/options."""
    if isinstance(body, dict):
        check_all(body)
