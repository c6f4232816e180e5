"""An unload that comes while a step of a training is at work; beside what else is moved, since it may end the host."""

import time

from moving import LONG, alike, learned, reload, trains, unload
from pictures import same
from trainings import submit, wait

from lib_persres.residual import Residual


@trains
def test_an_unload_in_the_middle_of_a_step_spoils_nothing(host, photos):
    whole = learned(host, photos, "whole", steps=LONG)
    image = host.image("a dog")
    identity = submit(host, photos, "in the middle", steps=LONG)
    wait(host, identity, done=20)
    for _ in range(3):
        unload(host)
        time.sleep(0.05)
    status = wait(host, identity)
    print(status["state"], status["message"], status["done"])
    if status["state"] == "finished":
        found = Residual.load(status["file"])
        print(f"cosine {alike(found, whole):.6f}")
        assert alike(found, whole) > 0.99
    assert status["state"] in ("finished", "failed")
    reload(host)
    assert same(host.image("a dog"), image)
    learned(host, photos, "afterwards", steps=3)
