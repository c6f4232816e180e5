import copy
import pickle

import pytest
import torch

pytest.importorskip("ldm")

from rounding import NETWORK, PRODUCT, assert_near, relative
from standalone_models import DDCONFIG, TEXT, UNET, tiny_text, tiny_unet, tiny_vae

from lib_persres.standalone.modules import AutoencoderKL, SDPACrossAttention, build_unet


def inputs(rows=2):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, 4, 8, 8, generator=generator)
    return x, torch.tensor([1, 500])[:rows], torch.randn(rows, 77, 32, generator=generator)


def test_unet_equals_ldms_own_forward():
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    ours = tiny_unet()
    ldms = UNetModel(**UNET, legacy=False, use_checkpoint=False).eval()
    ldms.load_state_dict(ours.state_dict())
    x, t, context = inputs()
    with torch.no_grad():
        expected = ldms(x, timesteps=t, context=context)
    assert expected.std() > 0.01
    assert_near(ours(x, timesteps=t, context=context), expected, NETWORK)


def test_sdpa_equals_ldms_attention_with_a_mask():
    from ldm.modules.attention import CrossAttention

    attention = CrossAttention(query_dim=24, context_dim=12, heads=3, dim_head=8).eval()
    x, context = torch.randn(2, 9, 24), torch.randn(2, 5, 12)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], dtype=torch.bool)
    expected = attention(x, context, mask)
    attention.__class__ = SDPACrossAttention
    assert_near(attention(x, context, mask), expected, PRODUCT)


def test_sdpa_calls_the_projections_so_that_hooks_fire():
    unet = tiny_unet()
    fired = []
    attentions = [m for m in unet.modules() if isinstance(m, SDPACrossAttention)]
    for attention in attentions:
        for name in ("to_q", "to_k", "to_v"):
            getattr(attention, name).register_forward_hook(lambda *_, name=name: fired.append(name))
    x, t, context = inputs()
    unet(x, timesteps=t, context=context)
    assert len(fired) == 3 * len(attentions) > 0


def test_sdpa_is_left_out_on_request_and_leaves_nothing_on_instances():
    from ldm.modules.attention import CrossAttention

    plain = build_unet(UNET, sdpa=False)
    assert any(type(m) is CrossAttention for m in plain.modules())
    assert not any("forward" in vars(m) for m in tiny_unet().modules())


def test_unet_survives_copy_and_pickle():
    unet = tiny_unet()
    x, t, context = inputs()
    expected = unet(x, timesteps=t, context=context)
    for clone in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        assert torch.equal(clone(x, timesteps=t, context=context), expected)


def test_half_weights_need_no_autocast():
    unet = tiny_unet()
    x, t, context = inputs()
    expected = unet(x, timesteps=t, context=context)
    out = unet.to(torch.bfloat16)(x, timesteps=t, context=context)
    assert out.dtype == x.dtype
    assert (out - expected).norm() < 0.05 * expected.norm()


def test_unet_and_text_encoder_train():
    unet, text = tiny_unet().train().requires_grad_(True), tiny_text().train().requires_grad_(True)
    x, t, _ = inputs()
    unet(x, timesteps=t, context=text(text.tokenize(["a dog", "a cat"]))).pow(2).mean().backward()
    gradients = {name: p.grad for name, p in [*unet.named_parameters(), *text.named_parameters()]}
    assert [name for name, gradient in gradients.items() if gradient is None] == []


def test_autoencoder_has_sd1s_names_and_equals_ldms_attention():
    from ldm.modules.diffusionmodules.model import AttnBlock

    vae, plain = tiny_vae(), AutoencoderKL(DDCONFIG, 4, sdpa=False).eval()
    assert type(plain.encoder.mid.attn_1) is AttnBlock
    plain.load_state_dict(vae.state_dict())
    assert {name.split(".")[0] for name in vae.state_dict()} == {
        "encoder",
        "decoder",
        "quant_conv",
        "post_quant_conv",
    }
    x = torch.rand(1, 3, 16, 24) * 2 - 1
    mean, std = vae.moments(x)
    assert mean.shape == std.shape == (1, 4, 8, 12) and vae.factor == 2 and (std > 0).all()
    assert vae.decode(mean).shape == x.shape
    assert_near(mean, plain.moments(x)[0], NETWORK)


def test_text_encoder_uses_sd1s_names_and_takes_the_old_ones():
    text, other = tiny_text(), tiny_text()
    state = text.sd_state_dict()
    assert all(name.startswith("transformer.text_model.") for name in state)
    assert "transformer.text_model.encoder.layers.0.self_attn.q_proj.weight" in state
    ids = text.tokenize(["a dog", "two dogs"])
    expected = text(ids)
    assert expected.shape == (2, 77, TEXT["hidden_size"])
    old = {name.replace("text_model.", ""): tensor for name, tensor in state.items()}
    old["transformer.embeddings.position_ids"] = torch.arange(77)[None]
    for parameter in other.parameters():
        parameter.zero_()
    other.load_sd_state_dict(old)
    assert torch.equal(other(ids), expected)


def test_text_encoder_is_causal_and_uses_quick_gelu():
    text = tiny_text()
    ids = text.tokenize(["a dog on a beach"])
    changed = ids.clone()
    changed[0, 5] = 0
    first, second = text(ids), text(changed)
    assert_near(first[:, :5], second[:, :5], NETWORK)
    assert relative(first[:, 5:], second[:, 5:]) > 0.1
    assert text.transformer.config.hidden_act == "quick_gelu"
