"""Which tests the processor's kernels could decide: those marked `numerics`, by what they compare with."""

import types

import rounding

BOUNDS = {name for name, value in vars(rounding).items() if name[0] != "_" and not isinstance(value, types.ModuleType)}
COMPARISONS = {"equal", "allclose", "assert_close", "approx"}
"""Of torch and pytest."""


def compares_numbers(test) -> bool:
    """Whether a test, or a function of its file that it calls, compares within a bound or to the bit; the file takes
    bounds from rounding.py."""
    if not any(vars(rounding)[name] is test.__globals__.get(name) for name in BOUNDS):
        return False
    return _names(test, {test}) & (BOUNDS | COMPARISONS) != set()


def _names(function, seen) -> set[str]:
    """What it calls and looks up, and what the functions of its file do that it names."""
    names = _names_in(function.__code__)
    for name in list(names):
        other = function.__globals__.get(name)
        if isinstance(other, types.FunctionType) and other.__module__ == function.__module__ and other not in seen:
            names |= _names(other, seen | {other})
    return names


def _names_in(code) -> set[str]:
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)
