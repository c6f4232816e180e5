"""What several files of tests begin with: a small real model, photos, a residual and its path, trainings."""

import functools

import longhand
import pytest
import torch
from branch_calls import KINDS
from numerics import compares_numbers
from PIL import Image
from residual_samples import sample_residual
from standalone_models import tiny_text, tiny_vae
from training_bench import Bench

from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.standalone.tokenizer import Tokenizer
from lib_persres.training import preview, step
from lib_persres.training.images import Photo
from lib_persres.training.objective import objective


def pytest_collection_modifyitems(items):
    for item in items:
        if compares_numbers(item.function):
            item.add_marker("numerics")


@pytest.fixture(scope="session", autouse=True)
def tokenizer():
    """CLIP's, which is read once for all tests, by the code under test, too: nothing changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "from_bpe_file", staticmethod(functools.cache(Tokenizer.from_bpe_file)))
        yield Tokenizer.find()


@pytest.fixture(scope="session", autouse=True)
def short_previews():
    """A preview of a few steps is one: the model draws nothing anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "STEPS", 4)
        yield


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    path.write_bytes(b"a stand-in, read only for its hash")
    return StableDiffusion(
        unet=longhand.make_unet(),
        vae=tiny_vae(),
        texts={"": tiny_text()},
        scale_factor=0.5,
        alphas_cumprod=alphas_cumprod(0.00085, 0.012, 1000),
        device=torch.device("cpu"),
        dtype=torch.float32,
        path=path,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("photos")
    out = []
    for index in range(2):
        pixels = torch.randint(256, (20, 24, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(pixels.numpy())
        out.append(Photo(image, folder / f"{index}.png", sha256=f"{index:064x}"))
    return out


@pytest.fixture(scope="module")
def one_thread():
    """So small a model is slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def objectives(monkeypatch):
    """What the objective was computed of, pass by pass: (z_t, t, context, target, weight)."""
    seen = []

    def spy(unet, z_t, t, conditioning, *compared):
        seen.append((z_t, t, conditioning.context, *compared))
        return objective(unet, z_t, t, conditioning, *compared)

    monkeypatch.setattr(step, "objective", spy)
    return seen


@pytest.fixture
def residual():
    return sample_residual()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rex.safetensors"


@pytest.fixture(scope="module")
def unets():
    """The small UNet of each kind, made once."""
    made = {}

    def get(kind="conv"):
        if kind not in made:
            made[kind] = longhand.make_unet(**KINDS[kind])
        return made[kind]

    return get


@pytest.fixture
def bench(sd, tmp_path):
    made = []

    def make(**options):
        made.append(Bench(sd, tmp_path, **options))
        made[-1].jobs.start()
        return made[-1]

    yield make
    for bench in made:
        for _ in range(1000):
            if bench.gate:
                bench.gate.release()
        bench.jobs.close()
