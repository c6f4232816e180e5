"""The values of the WebUI's settings; no WebUI is needed for it."""

import pytest

from lib_persres.errors import PersresError
from lib_persres.webui.options import (
    CACHE,
    DEFAULTS,
    FOLDER,
    HASHES,
    LAG,
    STATE_EVERY,
    TRAIN_FOLDERS,
    check,
    check_all,
)


def test_defaults_and_other_good_values_are_understood(tmp_path):
    check_all(DEFAULTS)
    check_all({FOLDER: str(tmp_path), LAG: "never", CACHE: 3.0, HASHES: False, "another": object()})


@pytest.mark.parametrize(
    "key, value, words",
    [
        (FOLDER, "no such folder", "a folder that exists"),
        (FOLDER, 3, "persres_dir is '3'"),
        (LAG, "sometimes", "persres_lag is 'sometimes'; allowed is 'accordion' or 'always' or 'never'"),
        (LAG, True, "persres_lag is 'True'"),
        (CACHE, -1, "a whole number from 0 to 1000"),
        (CACHE, 1.5, "persres_cache is '1.5'"),
        (CACHE, True, "persres_cache"),
        (CACHE, "8", "persres_cache"),
        (CACHE, float("nan"), "persres_cache"),
        (CACHE, 10**400, "persres_cache is a number of more than 60 digits"),
        (STATE_EVERY, -(10**4000), "persres_state_every is a number of more than 60 digits"),
        (STATE_EVERY, float("inf"), "persres_state_every"),
        (FOLDER, "/\0", "a folder that exists"),
        (FOLDER, "/\ud800", "a folder that exists"),
        (FOLDER, "x" * 10_000, "a folder that exists"),
        (LAG, ["never"], "persres_lag is a list"),
        (HASHES, {"a": [[]]}, "persres_hashes is an object"),
        (STATE_EVERY, -1, "a whole number of steps from 0"),
        (STATE_EVERY, True, "persres_state_every is 'True'"),
        (STATE_EVERY, 2.5, "persres_state_every is '2.5'"),
        (TRAIN_FOLDERS, "photos", "full paths of folders, one a line"),
        (TRAIN_FOLDERS, 3, "persres_train_folders is '3'"),
        (HASHES, "no", "persres_hashes is 'no'; allowed is true or false"),
    ],
)
def test_others_are_refused(key, value, words):
    with pytest.raises(PersresError, match=words):
        check(key, value)
    with pytest.raises(PersresError, match=words):
        check_all({key: value})
