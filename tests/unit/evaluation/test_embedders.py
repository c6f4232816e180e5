"""CLIP and DINO from local files: every form of file gives one model's embeddings, and what is wrong is named."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rounding import NETWORK, PRODUCT, assert_near
from safetensors.torch import save_file

transformers = pytest.importorskip("transformers")

from lib_persres.errors import PersresError  # noqa: E402
from lib_persres.evaluation.scores.clip import ClipEmbedder  # noqa: E402
from lib_persres.evaluation.scores.dino import MEAN, STD, DinoEmbedder  # noqa: E402
from lib_persres.standalone.tokenizer import Tokenizer  # noqa: E402
from lib_persres.toybox.vocabulary import part_of  # noqa: E402


def shaken(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.15, generator)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    sizes = [(50, 40), (40, 61), (32, 32)]
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8))
        for i, (w, h) in enumerate(sizes)
    ]


# -- how they see a picture -------------------------------------------------------------------------------------------


def test_the_published_settings_are_each_models_own(clip, tokenizer, vit, tmp_path):
    embedder = ClipEmbedder.load(saved(clip, tokenizer, tmp_path))
    assert embedder.processor.image_mean == (0.48145466, 0.4578275, 0.40821073)
    assert embedder.processor.image_std == (0.26862954, 0.26130258, 0.27577711)
    seen = DinoEmbedder(vit).processor
    assert (seen.image_mean, seen.image_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert seen.size["shortest_edge"] == round(32 * 256 / 224) and seen.crop_size["height"] == 32


def test_a_plain_picture_is_the_normalised_colour_and_the_centre_is_kept(vit):
    dino = DinoEmbedder(vit)
    (pixels,) = dino.pixels([Image.new("RGB", (300, 400), (255, 0, 51))])
    assert pixels.shape == (3, 32, 32)
    for channel, value in enumerate((1.0, 0.0, 0.2)):
        expected = torch.tensor((value - MEAN[channel]) / STD[channel])
        assert_near(pixels[channel], expected.expand(32, 32), PRODUCT)
    # 32 of 37 rows and columns are kept: two or three are cut off on each side
    stripes = np.repeat(np.arange(37, dtype=np.uint8)[None, :, None] * 6, 37, 0).repeat(3, 2)
    (seen,) = dino.pixels([Image.fromarray(stripes)])
    grey = (seen[0, 0] * STD[0] + MEAN[0]) * 255
    assert grey.round().tolist() == [6 * column for column in range(2, 34)]


# -- DINO ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit():
    config = transformers.ViTConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=16, layer_norm_eps=1e-6,
    )  # fmt: skip
    return shaken(transformers.ViTModel(config, add_pooling_layer=False))


def original_dino(published: dict) -> dict:
    """transformers' published names -> DINO's own: the reverse of what is tested, written on its own."""
    out = {
        "cls_token": published["embeddings.cls_token"],
        "pos_embed": published["embeddings.position_embeddings"],
        "patch_embed.proj.weight": published["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": published["embeddings.patch_embeddings.projection.bias"],
    }
    for kind in ("weight", "bias"):
        out[f"norm.{kind}"] = published[f"layernorm.{kind}"]
        for layer in range(2):
            theirs, ours = f"encoder.layer.{layer}.", f"blocks.{layer}."
            out[f"{ours}attn.qkv.{kind}"] = torch.cat(
                [published[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            )
            out[f"{ours}attn.proj.{kind}"] = published[f"{theirs}attention.output.dense.{kind}"]
            out[f"{ours}norm1.{kind}"] = published[f"{theirs}layernorm_before.{kind}"]
            out[f"{ours}norm2.{kind}"] = published[f"{theirs}layernorm_after.{kind}"]
            out[f"{ours}mlp.fc1.{kind}"] = published[f"{theirs}intermediate.dense.{kind}"]
            out[f"{ours}mlp.fc2.{kind}"] = published[f"{theirs}output.dense.{kind}"]
    return out


def longhand_dino(state: dict, x: torch.Tensor, heads: int) -> torch.Tensor:
    """DINO's vision transformer (Caron et al. 2021) written out, on its own names: (b,3,H,W) -> (b,d)."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
    for layer in range(2):
        block = f"blocks.{layer}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear(f"{block}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return norm("norm", x)[:, 0]


def test_dino_from_a_folder_a_file_and_its_own_pth_is_one_model(vit, images, tmp_path):
    from safetensors.torch import load_file

    vit.save_pretrained(tmp_path / "folder")
    published = load_file(tmp_path / "folder" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in published  # as transformers' files are named
    own = original_dino(published)
    torch.save({"state_dict": {f"module.backbone.{name}": t for name, t in own.items()}}, tmp_path / "training.pth")
    torch.save(own, tmp_path / "dino.pth")
    expected = longhand_dino(own, DinoEmbedder(vit).pixels(images), heads=2)
    assert expected.std() > 0.1
    for path in ("folder", "folder/model.safetensors", "dino.pth", "training.pth"):
        found = DinoEmbedder.load(tmp_path / path).images(images)
        assert found.shape == (3, 128), path
        assert_near(found, expected, NETWORK)


# -- CLIP ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return part_of(Tokenizer.find(), ["a", "photo", "of", "dog"])


@pytest.fixture(scope="module")
def clip(tokenizer):
    size = len(tokenizer.vocabulary)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.eos}
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, **ids, "vocab_size": size},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=48,
        **ids,
    )
    return shaken(transformers.CLIPModel(config))


TEXTS = ["a photo of a dog", "dog", "a dog of zebra " * 40]


def saved(clip, tokenizer, folder):
    clip.save_pretrained(folder)
    tokenizer.write_vocabulary(folder)
    return folder


def test_clip_from_a_folder_gives_transformers_own_features(clip, tokenizer, images, tmp_path):
    embedder = ClipEmbedder.load(saved(clip, tokenizer, tmp_path))
    with torch.no_grad():
        pixels = embedder.pixels(images)
        ids = torch.tensor([tokenizer.pad(tokenizer.encode(text)) for text in TEXTS])
        out = clip(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
    seen, read = embedder.images(images), embedder.texts(TEXTS)
    assert_near(F.normalize(seen), out.image_embeds, NETWORK)
    assert_near(F.normalize(read), out.text_embeds, NETWORK)


def openai_clip(tokenizer):
    """The model class of OpenAI's own code, where the package is installed; its module alone needs only torch."""
    spec = importlib.util.find_spec("clip")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package clip-anytorch is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / "model.py"
    spec = importlib.util.spec_from_file_location("openai_clip_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CLIP(
        embed_dim=48, image_resolution=32, vision_layers=2, vision_width=128, vision_patch_size=16,
        context_length=77, vocab_size=len(tokenizer.vocabulary), transformer_width=128, transformer_heads=2,
        transformer_layers=2,
    )  # fmt: skip


@pytest.mark.parametrize("archive", [False, True])
def test_openais_own_file_gives_the_features_of_openais_own_code(tokenizer, images, tmp_path, archive):
    model = shaken(openai_clip(tokenizer), seed=3)
    tokenizer.write_vocabulary(tmp_path)
    path = tmp_path / "ViT-B-32.pt"
    if archive:  # theirs is a TorchScript archive, of which only the tensors are read
        holder = torch.nn.Module()
        for name, tensor in model.state_dict().items():
            owner = holder
            *parents, last = name.split(".")
            for part in parents:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
        torch.jit.save(torch.jit.script(holder), str(path))
    else:
        torch.save(model.state_dict(), path)
    embedder = ClipEmbedder.load(path)
    ids = torch.tensor([tokenizer.pad(tokenizer.encode(text)) for text in TEXTS])
    with torch.no_grad():
        pixels = embedder.pixels(images)
        assert_near(embedder.images(images), model.encode_image(pixels), NETWORK)
        assert_near(embedder.texts(TEXTS), model.encode_text(ids), NETWORK)


# -- what is wrong is named ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ClipEmbedder, DinoEmbedder])
def test_missing_weights_are_named_with_where_to_get_them(kind, tmp_path):
    source = "clip-vit-base-patch32" if kind is ClipEmbedder else "dino-vits16"
    with pytest.raises(PersresError, match=f"there is no .*nowhere. Put there .*{source}"):
        kind.load(tmp_path / "nowhere")
    with pytest.raises(PersresError, match=f"no .*config.json. Get .*{source}"):
        kind.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PersresError, match="no .*model.safetensors"):
        kind.load(tmp_path)


@pytest.mark.parametrize("kind", [ClipEmbedder, DinoEmbedder])
def test_unreadable_and_foreign_weights_are_refused(kind, tmp_path):
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(PersresError, match=f"{name} cannot be read as weights"):
            kind.load(tmp_path / name)
    save_file({"x": torch.zeros(2)}, tmp_path / "b.safetensors")
    with pytest.raises(PersresError, match="b.safetensors holds no"):
        kind.load(tmp_path / "b.safetensors")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trap",))

    torch.save({"x": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(PersresError, match="evil.pth cannot be read"):
        DinoEmbedder.load(tmp_path / "evil.pth")
    assert not (tmp_path / "trap").exists()


def test_weights_that_lack_tensors_are_refused_not_filled_with_noise(clip, vit, tokenizer, tmp_path):
    from safetensors.torch import load_file

    saved(clip, tokenizer, tmp_path / "clip")
    vit.save_pretrained(tmp_path / "dino")
    for kind, folder, lost in ((ClipEmbedder, "clip", "visual_projection"), (DinoEmbedder, "dino", "layernorm.bias")):
        file = tmp_path / folder / "model.safetensors"
        state = load_file(file)
        save_file({n: t for n, t in state.items() if not n.startswith(lost)}, file, metadata={"format": "pt"})
        for path in (file.parent, file):
            with pytest.raises(PersresError, match=f"lacks 1 of the model's tensors, such as {lost}"):
                kind.load(path)


def test_a_vocabulary_of_another_model_is_refused(clip, tokenizer, tmp_path):
    saved(clip, part_of(Tokenizer.find(), ["a", "photo"]), tmp_path)
    with pytest.raises(PersresError, match="put the model's own vocab.json"):
        ClipEmbedder.load(tmp_path)


def test_a_broken_preprocessor_file_is_named(clip, tokenizer, tmp_path):
    saved(clip, tokenizer, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0], "image_std": [1, 1, 1]}))
    with pytest.raises(PersresError, match="preprocessor_config.json does not give"):
        ClipEmbedder.load(tmp_path)
