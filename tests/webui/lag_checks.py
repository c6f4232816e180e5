"""What must hold of LAG in any setup."""

import contextlib

from pictures import LAG, REX, near

BASE = "a photo of a olis dog"
OPTIMIZATIONS = {
    "sdp-no-mem - scaled dot product without memory efficient attention": "sdp-no-mem",
    "sdp - scaled dot product": "sdp",
    "sub-quadratic": "sub-quadratic",
    "V1 - original v1": "V1",
    "InvokeAI": "InvokeAI",
    "Doggettx": "Doggettx",
    "None": "",
}


@contextlib.contextmanager
def masks_of_ones(host):
    host.post("/probe/ones/1")
    try:
        yield
    finally:
        host.post("/probe/ones/0")


def check_lag(host, draw):
    """draw(prompt, args): the images of one setup. Leaves no hook."""
    base, plain, lag = draw(BASE, None), draw(REX, None), draw(REX, LAG)
    with masks_of_ones(host):
        ones = draw(REX, LAG)
    for index in range(len(base)):
        assert near(ones[index], plain[index])
        assert not near(base[index], plain[index])
        assert not near(lag[index], plain[index]) and not near(lag[index], base[index])
    assert host.get("/probe/hooks") == []
