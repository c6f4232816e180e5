"""Hooks on a reader's calls; no WebUI is needed for it."""

import pytest

from lib_persres.webui.hosts.watched import Watched


class Reader:
    def __call__(self, texts):
        if "raise" in texts:
            raise ArithmeticError
        return [text.upper() for text in texts]


def test_they_see_a_call_change_what_it_is_given_and_hear_of_its_end_until_they_are_removed():
    reader, heard = Reader(), []
    watched = Watched(
        reader,
        lambda seen, args: ([text.strip("!") for text in args[0]],) if "a!" in args[0] else None,
        lambda seen, args, output: heard.append((seen is reader, args)),
    )
    assert reader(["a!"]) == ["A"] and reader(["b!"]) == ["B!"]
    with pytest.raises(ArithmeticError):
        reader(["raise"])
    assert heard == [(True, (["a!"],)), (True, (["b!"],)), (True, (["raise"],))]
    watched.remove()
    assert type(reader) is Reader and reader(["a!"]) == ["A!"] and len(heard) == 3
