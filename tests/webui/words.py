"""Residuals with learned words, and users' embeddings of the same vectors."""

import os
import time

import standalone_models as models
import torch
from host import make_residual
from pictures import near, same
from safetensors.torch import save_file

from lib_persres.residual import Metadata, Residual

WIDTH = models.TEXT["hidden_size"]


def user_embedding(host, name, vectors):
    """An embedding in the user's own folder; the WebUI reads it with the next generation."""
    folder = host.data / "embeddings"
    save_file({"emb_params": vectors.contiguous()}, folder / f"{name}.safetensors")
    later = time.time() + 10
    os.utime(folder, (later, later))  # it looks at the folder's time, in its file system's steps
    host.post("/probe/embeddings/read")


def learned(host, name, seed, shape=(1, WIDTH), identifier="phol", targets="embedding"):
    """A residual with an embedding, and the same vectors as the user's embedding `my<name>`."""
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().float()
    path = host.data / "models" / "persres" / f"{name}.safetensors"
    factors = {}
    if targets != "embedding":
        rule = targets.removeprefix("embedding+")
        made = make_residual(host.data, name, models.tiny_unet(), seed, identifier, "dog", rule)
        factors = Residual.load(made).factors
    metadata = Metadata(concept=f"{name}'s own", identifier=identifier, macro_class="dog", targets=targets)
    Residual(factors, metadata, {identifier: vectors}).save(path)
    user_embedding(host, f"my{name}", vectors.reshape(-1, shape[-1]))
    return vectors


def private(database) -> list[str]:
    return [name for _, found in database["lookup"] for _, name, _ in found if name.startswith("persres")]


def agree(host, prompt, tag="<persres:ana>", name="myana", **options):
    """The images with the tag are those with the user's embedding in the place of V*, to the bit, and not others."""
    negative = options.pop("negative_prompt", "")
    words = [("V*", "V*", tag), (name, name, ""), ("phol", "phol", "")]
    ours, theirs, base = (
        host.generate(prompt.replace("V*", a) + tag, negative_prompt=negative.replace("V*", b), **options).images
        for a, b, tag in words
    )
    assert all(map(same, ours, theirs)) and len(ours) == len(theirs)
    assert not near(ours[0], base[0])
    return ours
