"""A LoRA file of any program is the change of weights that its program makes of it."""

import json
import random

import pytest
import torch
from safetensors.torch import save_file

from lib_persres.errors import PersresError
from lib_persres.lora.read import is_lora, read_lora

ATTENTION = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
CONV, KOHYA_CONV = "input_blocks.4.0.in_layers.2", "lora_unet_down_blocks_1_resnets_0_conv1"
M, N, R = 12, 768, 3


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(factors, delta):
    delta = delta.double().flatten(1)
    return (factors.delta().double() - delta).norm() <= 1e-5 * delta.norm()


@pytest.fixture
def file(tmp_path):
    def write(tensors, metadata=None, name="mine"):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata)
        return path

    return write


DOWN, UP = rand(R, N), rand(M, R, seed=1)
PEFT = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2"
NAMES = {
    "kohya": (f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight"),
    "kohya, ldm's blocks": (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight",
    ),
    "peft": (f"{PEFT}.to_k.lora_A.weight", f"{PEFT}.to_k.lora_B.weight"),
    "diffusers, old": (f"{PEFT}.processor.to_k_lora.down.weight", f"{PEFT}.processor.to_k_lora.up.weight"),
    "diffusers": (f"{PEFT}.to_k.lora.down.weight", f"{PEFT}.to_k.lora.up.weight"),
}


@pytest.mark.parametrize("naming", NAMES)
def test_every_naming_gives_the_same_factors(file, naming):
    down, up = NAMES[naming]
    found = read_lora(file({down: DOWN, up: UP}))
    assert list(found.unet) == [ATTENTION] and found.family == "SD1" and not found.notes
    assert torch.equal(found.unet[ATTENTION].down, DOWN) and torch.equal(found.unet[ATTENTION].up, UP)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_alpha_over_rank_is_in_the_factors_whatever_the_precision(file, dtype):
    down, up = NAMES["kohya"]
    tensors = {down: DOWN.to(dtype), up: UP.to(dtype), f"{KOHYA}.alpha": torch.tensor(1.5)}
    found = read_lora(file(tensors)).unet[ATTENTION]
    assert close(found, 0.5 * UP.to(dtype).float() @ DOWN.to(dtype).float())


@pytest.mark.parametrize("width, family", [(768, "SD1"), (1024, "SD2"), (2048, "SDXL"), (500, "")])
def test_the_family_is_told_by_the_width_of_the_text(file, width, family):
    down, up = NAMES["kohya"]
    assert read_lora(file({down: rand(R, width), up: UP})).family == family


@pytest.mark.parametrize("alpha", [torch.tensor(6), torch.tensor([6], dtype=torch.int32), torch.tensor([6.0])])
def test_an_alpha_may_be_a_whole_number(file, alpha):
    down, up = NAMES["kohya"]
    found = read_lora(file({down: DOWN, up: UP, f"{KOHYA}.alpha": alpha}))
    assert torch.equal(found.unet[ATTENTION].up, UP * 2)


@pytest.mark.parametrize(
    "alpha, said", [(-1.0, "alpha"), ([1.0, 2.0], "alpha"), (6e4, "would change weights"), (7e4, "larger than any")]
)
def test_other_alphas_are_refused(file, alpha, said):
    down, up = NAMES["kohya"]
    with pytest.raises(PersresError, match=said):
        read_lora(file({down: DOWN, up: UP, f"{KOHYA}.alpha": torch.tensor(alpha)}))


def test_the_family_is_told_by_a_lokrs_width_too(file):
    parts = {"lokr_w1": rand(2, 16), "lokr_w2_a": rand(4, 2), "lokr_w2_b": rand(2, 128)}
    assert read_lora(file({f"{KOHYA}.{name}": tensor for name, tensor in parts.items()})).family == "SDXL"


@pytest.mark.parametrize(
    "encoder, width, family", [("te", 768, "SD1"), ("te", 1024, "SD2"), ("te1", 768, "SDXL"), ("te2", 1280, "SDXL")]
)
def test_the_family_is_told_by_the_text_encoders_where_nothing_else_says_it(file, encoder, width, family):
    name = f"lora_{encoder}_text_model_encoder_layers_0_self_attn_q_proj.lora"
    found = read_lora(file({f"{name}_down.weight": rand(R, width), f"{name}_up.weight": UP}))
    assert found.family == family
    assert list(found.text) == [{"te": "", "te1": "clip_l", "te2": "clip_g"}[encoder]]


def test_ranks_that_are_zero_on_both_sides_are_left_out(file):
    down, up = NAMES["peft"]
    filled = {down: torch.cat([DOWN, torch.zeros(5, N)]), up: torch.cat([UP, torch.zeros(M, 5)], 1)}
    found = read_lora(file(filled)).unet[ATTENTION]
    assert torch.equal(found.down, DOWN) and torch.equal(found.up, UP)
    untrained = read_lora(file({down: DOWN, up: torch.zeros(M, R)})).unet[ATTENTION]
    assert torch.equal(untrained.down, DOWN)
    nothing = read_lora(file({down: torch.zeros(R, N), up: torch.zeros(M, R)})).unet[ATTENTION]
    assert nothing.rank == 1 and not nothing.delta().any()


def test_a_module_that_stands_twice_is_refused(file):
    end = "text_model.encoder.layers.0.mlp.fc1"
    names = [f"lora_te1_{end.replace('.', '_')}.lora_{{}}.weight", f"text_encoder.{end}.lora_linear_layer.{{}}.weight"]
    tensors = {name.format(side): rand(3, 3) for name in names for side in ("down", "up")}
    with pytest.raises(PersresError, match="stands in it twice"):
        read_lora(file(tensors))
    pairs = (NAMES["kohya"], NAMES["kohya, ldm's blocks"])
    with pytest.raises(PersresError, match="stands in it twice"):
        read_lora(file({name: tensor for pair in pairs for name, tensor in zip(pair, (DOWN, UP))}))


def test_convolutions_and_middle_layers(file):
    down, up, mid = rand(R, 8, 3, 3), rand(M, R, 1, 1, seed=2), rand(R, R, 3, 3)
    names = [f"{KOHYA_CONV}.lora_{part}.weight" for part in ("down", "up", "mid")]
    found = read_lora(file({names[0]: down, names[1]: up})).unet[CONV]
    assert close(found, torch.einsum("or,rihw->oihw", up[..., 0, 0], down))
    small = rand(R, 8, 1, 1)
    found = read_lora(file({names[0]: small, names[1]: up, names[2]: mid}, name="cp")).unet[CONV]
    assert close(found, torch.einsum("os,srhw,ri->oihw", up[..., 0, 0], mid, small[..., 0, 0]))


@pytest.mark.parametrize("rank", [2, 8])  # by their product; and where that is above the smaller side, by an SVD
def test_loha_is_the_product_of_its_two_changes(file, rank):
    a1, b1, a2, b2 = rand(M, rank), rand(rank, 20, seed=1), rand(M, rank, seed=2), rand(rank, 20, seed=3)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(4.0)}
    found = read_lora(file({f"{KOHYA}.{name}": tensor for name, tensor in parts.items()})).unet[ATTENTION]
    assert close(found, 4.0 / rank * (a1 @ b1) * (a2 @ b2))
    assert found.rank <= min(M, rank * rank)


def test_loha_of_a_rank_above_that_of_other_kinds_is_exact(file):
    a1, b1, a2, b2 = rand(520, 24), rand(24, 530, seed=1), rand(520, 24, seed=2), rand(24, 530, seed=3)
    parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": 0.01 * b2}
    found = read_lora(file({f"{KOHYA}.{name}": tensor for name, tensor in parts.items()})).unet[ATTENTION]
    assert close(found, 0.01 * (a1 @ b1) * (a2 @ b2)) and 512 < found.rank <= 520


def test_loha_of_a_convolution_with_cores(file):
    t1, t2 = rand(2, 2, 3, 3), rand(2, 2, 3, 3, seed=9)
    a1, b1, a2, b2 = rand(2, M), rand(2, 8, seed=1), rand(2, M, seed=2), rand(2, 8, seed=3)
    names = ("hada_t1", "hada_w1_a", "hada_w1_b", "hada_t2", "hada_w2_a", "hada_w2_b")
    parts = dict(zip(names, (t1, a1, b1, t2, a2, b2)))
    found = read_lora(file({f"{KOHYA_CONV}.{name}": tensor for name, tensor in parts.items()})).unet[CONV]
    one, two = (torch.einsum("ijhw,im,jn->mnhw", *each) for each in ((t1, a1, b1), (t2, a2, b2)))
    assert close(found, one * two)


@pytest.mark.parametrize("conv", [False, True])
def test_lokr_is_the_kronecker_product(file, conv):
    first = rand(3, 4)
    a, b = rand(4, 2), rand(2, 5, seed=1)
    parts = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    expected, module, path = 0.5 * torch.kron(first, a @ b), KOHYA, ATTENTION
    if conv:
        second = rand(4, 5, 3, 3)
        parts = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(7.0)}
        expected, module, path = torch.kron(first[..., None, None], second), KOHYA_CONV, CONV
    found = read_lora(file({f"{module}.{name}": tensor for name, tensor in parts.items()})).unet[path]
    assert close(found, expected)


def test_lokr_of_products_and_of_a_core(file):
    one = {"lokr_w1_a": rand(3, 2), "lokr_w1_b": rand(2, 4, seed=1)}
    two = {"lokr_t2": rand(2, 2, 3, 3), "lokr_w2_a": rand(2, 6, seed=2), "lokr_w2_b": rand(2, 5, seed=3)}
    found = read_lora(file({f"{KOHYA_CONV}.{name}": tensor for name, tensor in (one | two).items()})).unet[CONV]
    second = torch.einsum("ijhw,im,jn->mnhw", *two.values()).contiguous()
    assert close(found, torch.kron((one["lokr_w1_a"] @ one["lokr_w1_b"])[..., None, None], second))
    assert found.rank == 4  # two of the first's, two of the second's


def test_a_lokr_as_large_as_the_model_is_refused(file):
    parts = {"lokr_w1": torch.eye(8), "lokr_w2": rand(80, 96)}
    with pytest.raises(PersresError, match="a LoKr of rank 640.*<lora"):
        read_lora(file({f"{KOHYA}.{name}": tensor for name, tensor in parts.items()}))
    ranks = torch.diag(torch.tensor([1.0, *[1e-8] * 7]))  # of which one is needed
    found = read_lora(file({f"{KOHYA}.lokr_w1": ranks, f"{KOHYA}.lokr_w2": parts["lokr_w2"]})).unet[ATTENTION]
    assert found.rank == 80 and close(found, torch.kron(ranks, parts["lokr_w2"]))


def test_of_a_lokrs_ranks_those_are_kept_that_are_needed_together(file):
    # each part needs both of its ranks, and their product three of four: the last is 1e-8 of the first
    part = torch.diag(torch.tensor([1.0, 1e-4]))
    found = read_lora(file({f"{KOHYA}.lokr_w1": part, f"{KOHYA}.lokr_w2": part})).unet[ATTENTION]
    assert found.rank == 3 and close(found, torch.kron(part, part))


def long(*shape):
    return torch.full(shape, 0.01, dtype=torch.float16)


ABSURD = {
    "a middle layer": {"lora_down.weight": long(9, 60000, 1, 1), "lora_mid.weight": long(9, 9, 99, 99)}
    | {"lora_up.weight": long(2, 9, 1, 1)},
    "a middle layer of another rank": {"lora_down.weight": long(1, 60000, 1, 1)}
    | {"lora_mid.weight": long(999, 1, 99, 99), "lora_up.weight": long(2, 999, 1, 1)},
    "a LoHa": {
        f"hada_w{i}_{side}": long(*((60000, 3) if side == "a" else (3, 60000))) for i in (1, 2) for side in "ab"
    },
    "a LoHa's core": {f"hada_w{i}_{side}": long(9, 60000) for i in (1, 2) for side in "ab"}
    | {"hada_t1": long(9, 9, 99, 99), "hada_t2": long(9, 9, 99, 99)},
    "a LoKr's half": {"lokr_w1_a": long(60000, 1), "lokr_w1_b": long(1, 60000), "lokr_w2": long(2, 2)},
    "a LoKr": {"lokr_w1": long(300, 300), "lokr_w2": long(300, 300)},
}


@pytest.mark.parametrize("case", ABSURD)
def test_small_files_make_no_huge_weights(file, case):
    with pytest.raises(PersresError, match="absurd size|do not fit"):
        read_lora(file({f"{KOHYA_CONV}.{name}": tensor for name, tensor in ABSURD[case].items()}))


def test_text_encoders_are_kept_apart(file):
    end = "text_model_encoder_layers_0_mlp_fc1"
    down, up = NAMES["kohya, ldm's blocks"]
    tensors = {down: rand(R, 2048), up: UP}
    for number in (1, 2):
        tensors |= {f"lora_te{number}_{end}.lora_down.weight": rand(R, 8, seed=number)}
        tensors |= {f"lora_te{number}_{end}.lora_up.weight": rand(9, R)}
    found = read_lora(file(tensors))
    assert found.text.keys() == {"clip_l", "clip_g"}
    assert torch.equal(found.text["clip_g"]["text_model.encoder.layers.0.mlp.fc1"].down, rand(R, 8, seed=2))


def test_what_nobody_knows_is_left_out_and_told(file):
    down, up = NAMES["kohya"]
    more = {
        "lora_unet_nothing.alpha": torch.tensor(1.0),
        "strange": rand(2),
        "bundle_emb.x.string_to_param.*": rand(2, 8),
    }
    found = read_lora(file({down: DOWN, up: UP, **more}, {"ss_network_dim": "3"}))
    assert list(found.unet) == [ATTENTION] and found.strings == {"ss_network_dim": "3"}
    strange, bundled = found.notes
    assert "left out" in strange and "and 1 more" in strange
    assert "embedding" in bundled and ": x." in bundled


REFUSED = {
    "a half": ({"kohya": {"down": DOWN}}, "lacks its up"),
    "not fitting": ({"kohya": {"down": DOWN, "up": rand(M, 5)}}, "do not fit"),
    "a vector": ({"kohya": {"down": DOWN[0], "up": UP}}, "not a matrix"),
    "NaN": ({"kohya": {"down": DOWN * float("nan"), "up": UP}}, "not finite"),
    "infinite": ({"kohya": {"down": DOWN * float("inf"), "up": UP}}, "not finite"),
    "large": ({"kohya": {"down": 1e4 * DOWN, "up": UP}}, "would change weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(file, case):
    (given,), said = REFUSED[case][0].values(), REFUSED[case][1]
    tensors = {f"{KOHYA}.lora_{name}.weight": tensor for name, tensor in given.items()}
    with pytest.raises(PersresError, match=said) as error:
        read_lora(file(tensors))
    assert "mine.safetensors cannot be used as a LoRA: " in str(error.value) and str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    "part, kind",
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("oft_blocks", "OFT"),
        ("oft_diag", "OFT"),
        ("diff", "whole"),
        ("diff_b", "whole"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
    ],
)
def test_what_hangs_on_the_models_weights_is_refused_by_name(file, part, kind):
    down, up = NAMES["kohya"]
    with pytest.raises(PersresError, match=kind):
        read_lora(file({down: DOWN, up: UP, f"{KOHYA}.{part}": rand(2, 2)}))


def test_other_files_are_refused(file, tmp_path):
    for name, said in (
        ("model.diffusion_model.out.2.weight", "a whole checkpoint, not a LoRA"),
        ("emb_params", "a textual inversion embedding, not a LoRA"),
        ("bundle_emb.olis.clip_l", "an embedding alone"),
        ("body.0.weight", "no tensors that a LoRA of"),
    ):
        with pytest.raises(PersresError, match=said):
            read_lora(file({name: rand(2, 2)}))
    with pytest.raises(PersresError, match="a concept's residual, not a LoRA"):
        read_lora(file({"input_blocks.1.1.proj_out.down": rand(2, 2)}, {"format": "persres"}))
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(PersresError, match="not a safetensors file"):
        read_lora(tmp_path / "text.safetensors")
    (tmp_path / "long.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b'{"a": 1}')
    with pytest.raises(PersresError, match="its header would have"):
        read_lora(tmp_path / "long.safetensors")
    with pytest.raises(PersresError, match="no such file"):
        read_lora(tmp_path / "none.safetensors")
    with pytest.raises(PersresError, match="for no module|none of its tensors"):
        read_lora(file({"lora_unet_x.lora_down.weight": DOWN, "lora_unet_x.lora_up.weight": UP}, name="x"))
    assert is_lora([NAMES["peft"][0]]) and not is_lora(["emb_params", "input_blocks.1.1.proj_out.down"])


def test_a_thousand_damaged_files_are_refused_or_read(file, tmp_path):
    a, b = rand(M, 2), rand(2, 20, seed=1)
    hada = {f"{KOHYA}.hada_w{i}_{side}": tensor for i in (1, 2) for side, tensor in (("a", a), ("b", b))}
    samples = [
        file(
            {NAMES["kohya"][0]: rand(2, 8), NAMES["kohya"][1]: rand(4, 2), f"{KOHYA}.alpha": torch.tensor(1.0)},
            name="a",
        ),
        file(hada, {"ss_tag_frequency": json.dumps({"10_sks dog": {"dog": 3}})}, name="b"),
    ]
    chance, outcomes = random.Random(0), set()
    for number in range(1000):
        data = bytearray(samples[number % 2].read_bytes())
        for _ in range(chance.randint(1, 6)):
            kind, at = chance.random(), chance.randrange(len(data))
            if kind < 0.6:
                data[at] = chance.randrange(256)
            elif kind < 0.8:
                del data[at:]
            else:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 9)))
            data = data or bytearray(b"{")
        path = tmp_path / "mutated.safetensors"
        path.write_bytes(data)
        try:
            found = read_lora(path)
            assert all(torch.isfinite(f.up).all() and torch.isfinite(f.down).all() for f in found.unet.values())
            outcomes.add("read")
        except PersresError as error:
            assert len(str(error)) < 600
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_parts_of_any_shapes_are_refused_or_read(file):
    kinds = (
        ["lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"],
        [f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")] + ["alpha"],
        [f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")] + ["alpha"],
    )
    chance, outcomes = random.Random(1), set()
    for number in range(300):
        names = [name for name in kinds[number % 3] if chance.random() < 0.7]
        shapes = [
            [chance.choice((1, 2, 2, 2, 3)) for _ in range(chance.choice((0, 2, 2, 2, 3, 4, 4, 5)))] for _ in names
        ]
        path = file({f"{KOHYA_CONV}.{name}": rand(*shape) for name, shape in zip(names, shapes)})
        try:
            found = read_lora(path)
            for factors in found.unet.values():
                assert torch.isfinite(factors.delta()).all()
            outcomes.add("read")
        except PersresError as error:
            outcomes.add("refused")
            assert "mine.safetensors cannot be used as a LoRA: " in str(error)
    assert outcomes == {"read", "refused"}
