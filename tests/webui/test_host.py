"""What the tests do with a WebUI between them."""

from host import copy_of
from trainings import submit


def test_what_a_failed_test_left_behind_is_put_away(host, photos):
    residuals = host.data / "models" / "persres"
    for concept in ("first", "second"):
        submit(host, photos, concept, steps=100_000)
    copy_of(residuals / "rex.safetensors", residuals / "deep" / "left.safetensors")
    host.restore()
    assert host.get("/persres/v1/train") == []
    assert [entry["name"] for entry in host.get("/persres/v1/residuals")] == ["mia", "rex"]
    assert host.image("a <persres:rex> V* dog").shape == (64, 64, 3)
