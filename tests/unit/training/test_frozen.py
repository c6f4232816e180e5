"""The lean layers of training: the numbers of the model's own, less kept, everything put back."""

import longhand
import pytest
import torch
import torch.nn.functional as F
from branch_calls import plain_plan
from rounding import NETWORK, assert_near
from torch import nn

from lib_persres.branch import Branches
from lib_persres.errors import PersresError
from lib_persres.residual import Factors, Residual
from lib_persres.training import functions
from lib_persres.training.frozen import checkpointed, forward_as, frozen, lean, not_in_place, weights_in
from lib_persres.training.functions import FrozenConv2d, Geglu, NormSilu

CONVOLUTIONS = [(5, 7, 3, 1, 1), (5, 7, 3, 2, 1), (6, 4, 1, 1, 0), (3, 8, 3, 1, 0)]


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


@pytest.fixture
def products(monkeypatch):
    """Every 3×3 convolution on CPU as a matrix product."""
    monkeypatch.setattr(functions, "WIDE", 1)
    monkeypatch.setattr(functions, "FEW_ROWS", 10**6)


def gradients(unet, residual):
    """The prediction with the residual, and the factors' gradients of a loss of it, in one vector each."""
    x, t, context = longhand.inputs(2, seed=3)
    factors = {n: Factors(*(nn.Parameter(p.clone()) for p in (f.down, f.up))) for n, f in residual.factors.items()}
    with Branches(unet, [Residual(factors)]) as branches:
        branches.plan = plain_plan(2)
        eps = unet(x, t, context)
        eps.square().sum().backward()
    return eps.detach(), torch.cat([p.grad.flatten() for f in factors.values() for p in (f.down, f.up)])


@pytest.fixture
def learning(sd):
    residual = Residual.initialise(sd.unet, "4", torch.Generator().manual_seed(1))
    for factors in residual.factors.values():
        factors.up.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return residual


def kept(run):
    """Bytes that autograd keeps for the backward pass of run(), the model's weights and all else included."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values())


# -- the functions


@pytest.mark.parametrize("channels, out, side, stride, padding", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_convolution_is_a_convolution(channels, out, side, stride, padding, bias):
    x, weight = double(2, channels, 6, 8).requires_grad_(), double(out, channels, side, side)
    b = double(out) if bias else None
    arguments = (weight, b, (stride, stride), (padding, padding))
    torch.testing.assert_close(FrozenConv2d.apply(x, *arguments), F.conv2d(x, weight, b, stride, padding))
    assert torch.autograd.gradcheck(lambda x: FrozenConv2d.apply(x, *arguments), x)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_as_a_product_is_a_convolution(products, batch, bias):
    x, weight = double(batch, 5, 4, 6).requires_grad_(), double(7, 5, 3, 3)
    b = double(7) if bias else None
    assert functions._as_product(x, weight, (1, 1), (1, 1))
    torch.testing.assert_close(FrozenConv2d.apply(x, weight, b, (1, 1), (1, 1)), F.conv2d(x, weight, b, 1, 1))
    assert torch.autograd.gradcheck(lambda x: FrozenConv2d.apply(x, weight, b, (1, 1), (1, 1)), x)


@pytest.mark.parametrize("stride, padding", [((2, 2), (1, 1)), ((1, 1), (0, 0))])
def test_other_convolutions_are_no_product(products, stride, padding):
    assert not functions._as_product(double(1, 5, 4, 6), double(7, 5, 3, 3), stride, padding)
    assert not functions._as_product(double(1, 5, 4, 6), double(7, 5, 1, 1), (1, 1), (0, 0))


def test_norm_and_silu_in_one_are_norm_and_silu():
    x, weight, bias = double(2, 6, 3, 4).requires_grad_(), double(6), double(6) + 1
    expected = F.silu(F.group_norm(x, 3, weight, bias, 1e-5))
    torch.testing.assert_close(NormSilu.apply(x, weight, bias, 3, 1e-5), expected)
    assert torch.autograd.gradcheck(lambda x: NormSilu.apply(x, weight, bias, 3, 1e-5), x)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_norm_and_silu_take_any_layout(layout):
    x = double(2, 6, 3, 4)
    other = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x.transpose(2, 3)
    weight, bias = double(6), double(6)
    grad = double(*other.shape)
    results = []
    for tensor in (other.clone().contiguous(), other):
        tensor = tensor.detach().requires_grad_()
        y = NormSilu.apply(tensor, weight, bias, 3, 1e-5)
        results.append((y, torch.autograd.grad(y, tensor, grad)[0]))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_geglu_is_its_first_half_times_the_gelu_of_its_second():
    x = double(2, 3, 8).requires_grad_()
    torch.testing.assert_close(Geglu.apply(x), x[..., :4] * F.gelu(x[..., 4:]))
    assert torch.autograd.gradcheck(Geglu.apply, x)


# -- a block that adds in place


class Part(nn.Linear):
    def forward(self, x, context=None, **ignored):
        return super().forward(x if context is None else x * context.mean(1, keepdim=True))


class AddingInPlace(nn.Module):
    """As the transformer blocks of some of the WebUI's descendants."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2, self.ff = (Part(width, width) for _ in range(3))
        self.disable_self_attn = self.ff_in = False

    def forward(self, x, context=None, transformer_options={}):  # noqa: B006 theirs
        x += self.attn1(self.norm1(x))
        x += self.attn2(self.norm2(x), context=context)
        x_skip = x
        x = self.ff(self.norm3(x))
        x += x_skip
        return x


def test_a_block_that_adds_in_place_is_the_same_to_the_bit_and_can_be_learned_through():
    block = AddingInPlace()
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    expected = block(x.clone(), context, transformer_options={})
    factor = torch.ones(16, requires_grad=True)
    with pytest.raises(RuntimeError, match="inplace"):
        block(x * factor, context).sum().backward()
    with not_in_place(nn.Sequential(block)):
        assert torch.equal(block(x.clone(), context, transformer_options={}), expected)
        block(x * factor, context).sum().backward()
    assert factor.grad.all() and "forward" not in vars(block)


def test_only_such_blocks_are_changed(sd):
    block = AddingInPlace()
    block.disable_self_attn = True  # its attn1 reads the context
    for unet in (nn.Sequential(block), sd.unet):
        with not_in_place(unet):
            assert not any("forward" in vars(module) for module in unet.modules())


# -- the model


@pytest.mark.parametrize("as_products", [False, True])
def test_a_lean_model_predicts_and_learns_as_the_models_own_layers_do(sd, learning, as_products, monkeypatch):
    monkeypatch.setattr(functions, "WIDE", 1 if as_products else 1 << 40)
    eps, gradient = gradients(sd.unet, learning)
    with frozen(sd.unet), lean(sd.unet):
        lean_eps, lean_gradient = gradients(sd.unet, learning)
        kinds = {type(module).__name__ for module in sd.unet.modules() if "forward" in vars(module)}
    assert kinds >= {"Conv2d", "Linear", "LayerNorm", "NativeGroupNorm", "SiLU", "GEGLU", "SDPACrossAttention"}
    assert_near(lean_eps, eps, NETWORK)
    assert_near(lean_gradient, gradient, 2 * NETWORK)  # there and back


def test_a_lean_model_keeps_less_than_three_quarters_for_the_backward_pass(sd, learning):
    with frozen(sd.unet):
        weights = sum(weight.untyped_storage().nbytes() for weight in sd.unet.parameters())
        usual = kept(lambda: gradients(sd.unet, learning)) - weights
        with lean(sd.unet):
            less = kept(lambda: gradients(sd.unet, learning)) - weights
    assert 0 < less < 0.75 * usual, (less, usual)


@pytest.mark.parametrize("also_lean", [False, True])
def test_checkpointing_keeps_less_and_learns_the_same(sd, learning, also_lean):
    with frozen(sd.unet), lean(sd.unet) if also_lean else frozen(sd.unet):
        eps, gradient = gradients(sd.unet, learning)
        usual = kept(lambda: gradients(sd.unet, learning))
        with checkpointed(sd.unet):
            again_eps, again = gradients(sd.unet, learning)
            # what is computed again is kept again while its block is: so count before the backward pass
            less = kept(lambda: _forward_alone(sd.unet, learning))
    assert torch.equal(again_eps, eps)  # the same layers on the same rows
    assert_near(again, gradient, 2 * NETWORK)
    assert less < usual / 2


def _forward_alone(unet, residual):
    x, t, context = longhand.inputs(2, seed=3)
    factors = {n: Factors(*(nn.Parameter(p.clone()) for p in (f.down, f.up))) for n, f in residual.factors.items()}
    with Branches(unet, [Residual(factors)]) as branches:
        branches.plan = plain_plan(2)
        unet(x, t, context)


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16", "float16"])
def test_everything_is_back_to_the_bit_at_the_end(sd, precision):
    before = longhand.snapshot(sd.unet)
    with pytest.raises(RuntimeError, match="on purpose"), frozen(sd.unet), weights_in(sd.unet, precision):
        with lean(sd.unet), checkpointed(sd.unet):
            wanted = torch.float32 if precision is None else getattr(torch, precision)
            assert {weight.dtype for weight in sd.unet.parameters()} == {wanted}
            raise RuntimeError("on purpose")
    assert longhand.snapshot(sd.unet) == before


def test_an_unknown_precision_is_refused(sd):
    with pytest.raises(PersresError, match="float32, bfloat16, float16, not 'int8'"), weights_in(sd.unet, "int8"):
        pass


def test_a_forward_that_somebody_set_on_a_module_comes_back():
    module = nn.Linear(2, 2)

    def theirs(x):
        return x

    module.forward = theirs
    with forward_as(module, lambda x: x + 1):
        assert module(torch.zeros(1)) == 1
    assert vars(module)["forward"] is theirs
