"""Chunked token log-probabilities against torch's own softmax, in value, gradient, dtype and memory."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules import logprobs
from lightning_modules.logprobs import OutputHead, chunk_tokens, token_kl, token_logps

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 2.0},
    "all": {"bias": True, "scale": 3.0, "softcap": 2.0},
}


def make(tokens=11, width=5, vocabulary=17, dtype=torch.float64, seed=0, bias=False, scale=1.0, softcap=None):
    """Leaf tensors for one call, with logits large enough that a softcap of 2 bends them."""
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    offset = torch.randn(vocabulary, generator=rng, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    targets = torch.randint(vocabulary, (tokens,), generator=rng)
    return hidden, OutputHead(weight, offset, scale, softcap), targets


def naive(hidden, head, targets):
    """The definition, all logits at once."""
    logits = hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


def gradients(function, hidden, head, targets, *arguments):
    """Gradients of a sum with unequal weights, so that every token has its own upstream gradient."""
    leaves = [leaf for leaf in (hidden, head.weight, head.bias) if leaf is not None]
    weights = torch.linspace(-1, 2, len(targets), dtype=hidden.dtype)
    return torch.autograd.grad((function(hidden, head, targets, *arguments) * weights).sum(), leaves)


@pytest.fixture(params=["kept", "made again"])
def both_ways(request, monkeypatch):
    """Logits that are kept from forward to backward, and logits that are not."""
    if request.param == "made again":
        monkeypatch.setattr(logprobs, "CPU_KEPT_LOGITS", 0)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("settings", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradients_are_those_of_the_full_softmax(settings, dtype, tolerance):
    inputs = make(dtype=dtype, **settings)
    torch.testing.assert_close(token_logps(*inputs, 4), naive(*inputs), rtol=tolerance, atol=tolerance)
    for got, expected in zip(gradients(token_logps, *inputs, 4), gradients(naive, *inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [1, 2, 7, 10, 11, 1000, None])
def test_neither_value_nor_gradient_depends_on_the_chunk(chunk):
    inputs = make(bias=True, scale=0.5, softcap=3.0)
    torch.testing.assert_close(token_logps(*inputs, chunk), token_logps(*inputs, 3), rtol=1e-14, atol=1e-14)
    for got, expected in zip(gradients(token_logps, *inputs, chunk), gradients(token_logps, *inputs, 3), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("settings", HEADS.values(), ids=HEADS)
def test_gradcheck(settings):
    hidden, head, targets = make(tokens=5, width=3, vocabulary=6, **settings)
    leaves = [leaf for leaf in (hidden, head.weight, head.bias) if leaf is not None]

    def function(hidden, weight, bias=None):
        return token_logps(hidden, head._replace(weight=weight, bias=bias), targets, 2)

    assert torch.autograd.gradcheck(function, leaves)


def test_only_the_gradients_asked_for_are_made():
    hidden, head, targets = make()
    frozen = head._replace(weight=head.weight.detach())
    (grad,) = torch.autograd.grad(token_logps(hidden, frozen, targets).sum(), [hidden])
    torch.testing.assert_close(grad, torch.autograd.grad(naive(hidden, head, targets).sum(), [hidden])[0])
    detached = hidden.detach()
    (grad,) = torch.autograd.grad(token_logps(detached, head, targets).sum(), [head.weight])
    torch.testing.assert_close(grad, torch.autograd.grad(naive(detached, head, targets).sum(), [head.weight])[0])


def test_second_derivatives_are_refused_rather_than_wrong():
    hidden, head, targets = make()
    (grad,) = torch.autograd.grad(token_logps(hidden, head, targets).square().sum(), [hidden], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_states_give_float32_margins(half):
    hidden, head, targets = make(tokens=40, width=64, vocabulary=300, dtype=half)
    logps = token_logps(hidden, head, targets, 7)
    assert logps.dtype == torch.float32
    wide = naive(hidden.double(), head._replace(weight=head.weight.double()), targets)
    torch.testing.assert_close(logps.double(), wide, rtol=1e-5, atol=1e-4)  # of numbers around 20
    rounded = (hidden @ head.weight.T).log_softmax(-1)[torch.arange(40), targets]
    assert (rounded.double() - wide).abs().max() > 1e-2  # what a softmax over half-precision logits would have lost
    grad_hidden, grad_weight = gradients(token_logps, hidden, head, targets, 7)
    assert (grad_hidden.dtype, grad_weight.dtype) == (half, half)
    exact = gradients(naive, hidden.double(), head._replace(weight=head.weight.double()), targets)
    torch.testing.assert_close(grad_weight.double(), exact[1], rtol=2e-2, atol=2e-2)


def test_mixed_dtypes_of_states_and_head_work():
    """Under mixed precision, states come in half precision and the head's weight in float32."""
    hidden, head, targets = make()
    mixed = token_logps(hidden.bfloat16(), head._replace(weight=head.weight.float()), targets)
    exact = naive(hidden.bfloat16().double(), head._replace(weight=head.weight.float().double()), targets)
    torch.testing.assert_close(mixed.double(), exact, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_states_are_half_precision_and_the_softmax_is_not():
    """The product with the head is half precision's to do; normalising and summing stay float32."""
    hidden, head, targets = make(dtype=torch.float32)[:3]
    with torch.autocast("cpu", torch.bfloat16):
        logps = token_logps(hidden, head, targets)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, token_logps(hidden.bfloat16().float(), head, targets), rtol=0, atol=0)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation's result has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_the_full_logits_never_exist():
    tokens, vocabulary, width, chunk = 64, 1000, 4, 5
    hidden, head, targets = make(tokens, width, vocabulary, torch.float32, bias=True, softcap=2.0)
    with LargestTensor() as seen:
        token_logps(hidden, head, targets, chunk).sum().backward()
    assert seen.elements == chunk * vocabulary  # the mode did see the chunks
    with LargestTensor() as seen:
        naive(hidden, head, targets).sum().backward()
    assert seen.elements == tokens * vocabulary  # and would have seen the whole
    with LargestTensor() as seen:
        token_kl(hidden, head, hidden, head, chunk)
    assert seen.elements == chunk * vocabulary


def test_kept_logits_serve_two_backward_passes_and_are_not_kept_without_gradient():
    hidden, head, targets = make(dtype=torch.float32, bias=True)
    loss = token_logps(hidden, head, targets, 4).square().sum()
    first = torch.autograd.grad(loss, [hidden, head.weight], retain_graph=True)
    for again, grad in zip(torch.autograd.grad(loss, [hidden, head.weight]), first, strict=True):
        assert torch.equal(again, grad)
    loss = token_logps(hidden, head, targets, 4)
    assert len(loss.grad_fn.saved_tensors) == 6 + 3
    with torch.no_grad():
        assert token_logps(hidden, head, targets, 4).grad_fn is None


def test_logits_too_many_to_keep_are_made_again(monkeypatch):
    hidden, head, targets = make(dtype=torch.float32)
    monkeypatch.setattr(logprobs, "CPU_KEPT_LOGITS", 11 * 17 - 1)
    assert len(token_logps(hidden, head, targets, 4).grad_fn.saved_tensors) == 6


def test_no_tokens():
    hidden, head, targets = make(tokens=0, bias=True)
    logps = token_logps(hidden, head, targets)
    assert logps.shape == (0,)
    for grad in torch.autograd.grad(logps.sum(), [hidden, head.weight, head.bias]):
        assert not grad.any()
    assert token_kl(hidden, head, hidden, head).shape == (0,)


def test_wrong_shapes_raise():
    hidden, head, targets = make()
    with pytest.raises(ValueError, match=r"\(11, 5\), \(10,\)"):
        token_logps(hidden, head, targets[:-1])
    with pytest.raises(ValueError, match="hidden must be"):
        token_logps(hidden[None], head, targets)
    with pytest.raises(ValueError, match="at least 1"):
        token_logps(hidden, head, targets, 0)
    with pytest.raises(ValueError, match="17 and 16 rows"):
        token_kl(hidden, head, hidden, head._replace(weight=head.weight[:16]))
    with pytest.raises(ValueError, match="11 and 1"):
        token_kl(hidden, head, hidden[:1], head)


def test_default_chunk_fits_the_device():
    for vocabulary in (7, 1024, 151936, 10**9):
        tokens = chunk_tokens(vocabulary, torch.device("cpu"))
        assert tokens >= 1
        assert tokens == 1 or tokens * vocabulary * 4 <= 16 * 2**20
    assert chunk_tokens(1024, torch.device("cuda")) > chunk_tokens(1024, torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [1, 4, None])
def test_kl_is_torchs(dtype, tolerance, chunk):
    hidden_p, head_p, _ = make(dtype=dtype, seed=1, bias=True)
    hidden_q, head_q, _ = make(dtype=dtype, seed=2, width=8, softcap=2.0)  # another width: a smaller student
    log_p = (hidden_p @ head_p.weight.T + head_p.bias).log_softmax(-1)
    log_q = (2 * torch.tanh(hidden_q @ head_q.weight.T / 2)).log_softmax(-1)
    expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).detach()
    kl = token_kl(hidden_p, head_p, hidden_q, head_q, chunk)
    torch.testing.assert_close(kl, expected, rtol=tolerance, atol=tolerance)
    assert kl.dtype == dtype
    assert not kl.requires_grad
    assert (kl > 0.01).all()
    assert not torch.allclose(kl, token_kl(hidden_q, head_q, hidden_p, head_p, chunk), rtol=0.1)  # it has a direction


def test_kl_to_itself_is_zero():
    hidden, head, _ = make(dtype=torch.float32, bias=True)
    assert token_kl(hidden, head, hidden, head, 4).abs().max() == 0


def test_uniform_distribution():
    hidden = torch.zeros(3, 4)
    logps = token_logps(hidden, OutputHead(torch.randn(50, 4)), torch.tensor([0, 7, 49]))
    torch.testing.assert_close(logps, torch.full((3,), -math.log(50)))
