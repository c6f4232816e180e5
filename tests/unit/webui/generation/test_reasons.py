"""Where residuals acted, and where not; no WebUI is needed for it."""

from lib_persres.webui.generation.reasons import Reasons

REX, MIA = object(), object()
FIRST, HIRES = "the first pass", "the hires pass"


def told(*notes, fails=()):
    passes = Reasons()
    for where, reasons in notes:
        passes.note(where, reasons)
    for fail in fails:
        passes.fail(*fail)
    return passes.told()


def test_nothing_is_told_of_what_acted_everywhere():
    assert told((FIRST, {REX: None, MIA: None}), (HIRES, {REX: None})) == []


def test_what_acted_nowhere_is_told_without_a_pass():
    assert told((FIRST, {REX: "wide", MIA: None})) == [(REX, "", "wide")]
    assert told((FIRST, {REX: "wide"}), (HIRES, {REX: "other"})) == [(REX, "", "wide")]


def test_what_acted_in_some_passes_is_told_with_the_others():
    assert told((FIRST, {REX: None, MIA: None}), (HIRES, {REX: "wide", MIA: None})) == [(REX, HIRES, "wide")]
    assert told((FIRST, {REX: "wide"}), (HIRES, {REX: None})) == [(REX, FIRST, "wide")]
    third = "the refiner's part of the first pass"
    notes = (FIRST, {REX: "wide"}), (third, {REX: None}), (HIRES, {REX: "wide"})
    assert told(*notes) == [(REX, f"{FIRST} and {HIRES}", "wide")]


def test_what_broke_off_in_the_middle_of_a_pass_acted_in_its_beginning():
    assert told((FIRST, {REX: None}), fails=[(FIRST, REX, "why")]) == [(REX, f"the rest of {FIRST}", "why")]
    assert told(fails=[(FIRST, REX, "why"), (FIRST, REX, "why")]) == [(REX, "", "why")]
