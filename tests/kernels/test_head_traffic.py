"""What the head moves through memory beside its three products, counted where it happens."""

import pytest
import torch
from ds_bert_kernels import masked_lm_head as head
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

N, V, H = 128, 1000, 8  # V is not a multiple of 128; logits are far larger than all else
COLUMNS = 1024


class Operators(TorchDispatchMode):
    """Notes torch's operators and the bytes that they read and write; views move nothing."""

    def __init__(self):
        super().__init__()
        self.products: list[list[int]] = []
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "mm":
            self.products.append(list(result.shape))
        elif "empty" not in name and not function.is_view and name != "_reshape_alias":
            tensors = [t for t in (*args, result) if isinstance(t, torch.Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result


class Launches:
    """In a kernel's place: notes the bytes of its tensors, and runs it unseen by `Operators`."""

    def __init__(self, kernel):
        self.kernel, self.tensors = kernel, []

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.tensors += [arg for arg in args if isinstance(arg, torch.Tensor)]
            with _disable_current_modes():
                self.kernel[grid](*args, **options)

        return launch


@pytest.fixture(scope="module")
def traffic():
    """Forward and backward with weights that lie in a flat buffer, as DeepSpeed's do."""
    flat = torch.randn((V + 100) * H + 8)
    weight, bias = flat[8 : 8 + V * H].view(V, H).detach().requires_grad_(), torch.zeros(V)
    hidden = torch.randn(N, H, requires_grad=True)
    kernels = Launches(head._rows_forward), Launches(head._rows_backward)
    with pytest.MonkeyPatch.context() as patch, Operators() as operators:
        patch.setattr(head, "_rows_forward", kernels[0])
        patch.setattr(head, "_rows_backward", kernels[1])
        loss, _ = head.masked_lm_loss(hidden, weight, bias, torch.arange(N))
        torch.autograd.grad(loss, (hidden, weight))
    return operators, kernels


def test_nothing_but_products_and_row_kernels_touches_large_tensors(traffic):
    operators, kernels = traffic
    assert operators.products == [[N, COLUMNS], [N, H], [COLUMNS, H]]
    assert operators.bytes < 0.1 * N * COLUMNS * 4
    logits = [tensor for kernel in kernels for tensor in kernel.tensors if tensor.ndim == 2]
    forward, backward, column_sums = logits
    assert forward.data_ptr() == backward.data_ptr()
    assert forward.shape == backward.shape == (N, COLUMNS)
    assert column_sums.shape == (-(-N // 128), COLUMNS)


@pytest.mark.parametrize(("hidden", "flops", "most"), [(768, 641e12, 1.2), (1024, 683e12, 1.16)])
def test_bytes_are_a_fifth_of_the_products(traffic, hidden, flops, most):
    """Of BERT-base and BERT-large in bf16, N = 9,830 and V = 30,522, for an H200.

    The forward kernel reads the logits, the backward one reads and writes them; the column sums are
    written and read. Bytes move at the bandwidth of a copy, products run at their mean rate in a
    whole step by benchmarks/time_model. Both are assumed, not measured.
    """
    _, kernels = traffic
    passes = sum(tensor.shape == (N, COLUMNS) for kernel in kernels for tensor in kernel.tensors)
    column_sums = kernels[1].tensors[-1]
    positions, columns = 9830, 30592
    groups = positions * len(column_sums) / N
    moved = columns * ((passes + 1) * 2 * positions + 2 * column_sums.itemsize * groups)
    products = 6 * positions * columns * hidden / flops
    assert 1.1 < (products + moved / 4.3e12) / products <= most


def test_rows_behind_the_weight_do_not_matter():
    flat = torch.randn(3 * 128, 16, generator=torch.Generator().manual_seed(0))
    labels, hidden = torch.arange(20), flat[:20].clone()
    found = []
    for weight in (flat[:140], flat[:140].clone()):
        leaves = [hidden.clone().requires_grad_(), weight.detach().requires_grad_()]
        loss, correct = head.masked_lm_loss(*leaves, torch.zeros(140), labels)
        found.append([loss.detach(), correct, *torch.autograd.grad(loss, leaves)])
    assert all(map(torch.equal, *found))
    assert found[0][3].shape == (140, 16)
    assert head._aligned(flat[:140]).data_ptr() == flat.data_ptr(), "copied for nothing"
    assert head._aligned(flat[200:340]).data_ptr() != flat[200:].data_ptr(), "beyond its storage"
