"""One weight, many layers (Sec. 3.2, Figs A1-A5).

A super-network holds every network of its search space at once. Each of its layers stores the
weights of its largest choice, and a smaller choice computes with a slice of them. Five things are
elastic; three of them are cut from the weights of a convolution, here drawn as a square of
filters (rows: output channels, columns: the input channels that each filter reads):

    width W: the        groups g: the first     kernel K: the       depth D: the      attention:
    first W filters     I/g inputs of each      K x K centre of     first D blocks    used or
    (Fig. A2)           filter (Fig. A3)        a filter (A4)       of a stage (A1)   skipped (A5)

      I ->                I/g                     . . . . .
    O # # # # #         O # # . . .               . # # # .         [1] [2] [3]  4    x -> att -> y
    | # # # # #         | # # . . .               . # # # .          |   |   |        x --------> y
    v . . . . .         v # # . . .               . # # # .          x ->.->.->y
      . . . . .           # # . . .               . . . . .

A sixth, the number of input channels, is never asked for: it is that of the tensor that comes in.
Depth and attention are decided where blocks are put together, in `vipnas.py`.

Every layer below has one function, `slice`, that cuts out the weights of a choice. `forward`
computes with the slice, `copy_slice` copies it into a smaller layer of the same class: nothing is
written twice, so a finished network gives exactly what its slice of the super-network gave. The
choice is an argument of `forward`; no layer remembers one. Beside each `forward` stands `cost`:
what that call has to store and to compute.

    python elastic.py        # slices of one convolution beside ordinary layers of the same numbers
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Cost(NamedTuple):
    """What a layer or a network costs for one image.

    params: how many numbers are learnt. macs: true multiply-adds. gflops: what the paper's tables
    count, the sum of (weights x output positions) over all convolutions, / 2^30. The last two
    differ by more than the unit: the tables count a stride-2 deconvolution at its *output*
    resolution, although each weight meets each *input* position once, which is a quarter of that.
    """

    params: int = 0
    macs: int = 0
    gflops: float = 0.0

    def __add__(self, other):
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.gflops + other.gflops,
        )

    def times(self, count):
        """The cost of `count` equal layers."""
        return Cost(self.params * count, self.macs * count, self.gflops * count)


def common_groups(groups, in_channels, out_channels):
    """The group number a layer really uses: one that divides both of its sides.

    ours: where `groups` does not divide them, the largest divisor of it that does (the paper gives
    no rule). The spaces offer the blocks only numbers that divide; the rule acts in a head's first
    deconvolution, whose input may be narrower than its group number (Table A1).
    """
    return math.gcd(groups, in_channels, out_channels)


def centre(weight, kernel):
    """The kernel x kernel centre of filters (..., K, K) (Fig. A4); ValueError if they have none.

    Kernels of a layer are all odd or all even, as the paper's steps of 2 have it, so the centres
    lie on each other and nothing shifts.
    """
    whole = weight.shape[-1]
    margin = (whole - kernel) // 2
    if margin < 0 or (whole - kernel) % 2:
        raise ValueError(f"no kernel {kernel} in the centre of a {whole}x{whole} filter")
    end = margin + kernel
    return weight[..., margin:end, margin:end]


class Elastic(nn.Module):
    """A layer with a `slice`. `largest` holds the arguments of `slice` that give all of it."""

    def copy_slice(self, larger):
        """Copy into this layer the slice of a `larger` one that is as large as this layer."""
        mine = self.slice(*self.largest)
        theirs = larger.slice(*self.largest)
        with torch.no_grad():
            for tensor, source in zip(mine, theirs, strict=True):
                if tensor is not None:  # a bias can be missing
                    tensor.copy_(source)


class ElasticConv2d(Elastic):
    """A convolution that runs at any width, kernel and group number up to its own.

    The arguments are the largest choice, so `groups` is the *smallest* group number: the weights
    are (out_channels, in_channels / groups, kernel, kernel), as in `nn.Conv2d`.
    """

    def __init__(self, in_channels, out_channels, kernel=1, stride=1, groups=1, bias=False):
        super().__init__()
        groups = common_groups(groups, in_channels, out_channels)
        self.largest = (in_channels, out_channels, kernel, groups)
        self.out_channels = out_channels
        self.kernel = kernel
        self.groups = groups
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

        # ours: He initialisation over the fan-out, so that a layer keeps the scale of its input
        # whatever its group number. The paper's sigma = .001: train.py --init-std .001.
        fan_out = out_channels // groups * kernel * kernel
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))

    def slice(self, in_channels, out_channels, kernel, groups):
        """The weights of a choice, as views of the stored ones: filters and bias (or None).

        Filters are (out_channels, in_channels / groups, kernel, kernel), bias is (out_channels).
        Raises ValueError where the stored weights are too small.
        """
        groups = common_groups(groups, in_channels, out_channels)
        per_group = in_channels // groups
        if out_channels > self.weight.shape[0] or per_group > self.weight.shape[1]:
            raise ValueError(
                f"a layer of {self.weight.shape[0]} filters over {self.weight.shape[1]} channels "
                f"cannot give {out_channels} filters over {per_group}"
            )
        weight = self.weight[:out_channels]  # elastic width: the first filters
        weight = weight[:, :per_group]  # elastic groups: the first inputs of each filter
        weight = centre(weight, kernel)  # elastic kernel: the centre of each filter
        bias = None if self.bias is None else self.bias[:out_channels]
        return weight, bias

    def forward(self, x, out_channels=None, kernel=None, groups=None):
        """(B, I, H, W) -> (B, out_channels, H / stride, W / stride), whatever the kernel."""
        in_channels = x.shape[1]
        out_channels = out_channels or self.out_channels
        kernel = kernel or self.kernel
        groups = common_groups(groups or self.groups, in_channels, out_channels)
        weight, bias = self.slice(in_channels, out_channels, kernel, groups)
        return F.conv2d(x, weight, bias, self.stride, padding=kernel // 2, groups=groups)

    @staticmethod
    def cost(area, in_channels, out_channels, kernel=1, groups=1, bias=False):
        """Cost of a call whose output has `area` positions (height x width)."""
        groups = common_groups(groups, in_channels, out_channels)
        weights = out_channels * (in_channels // groups) * kernel * kernel
        params = weights + out_channels if bias else weights
        return Cost(params, weights * area, weights * area / 2**30)


class ElasticConvTranspose2d(Elastic):
    """A stride-2 deconvolution, elastic like `ElasticConv2d`, that doubles height and width.

    PyTorch stores the filters of a deconvolution from the input's side, (in_channels,
    out_channels / groups, kernel, kernel). So input and output change places: the first in_channels
    filters are kept, and of each the first out_channels / groups outputs. The kernel is 2 or 4.
    """

    def __init__(self, in_channels, out_channels, kernel=4, groups=1):
        super().__init__()
        groups = common_groups(groups, in_channels, out_channels)
        self.largest = (in_channels, out_channels, kernel, groups)
        self.out_channels = out_channels
        self.kernel = kernel
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, kernel, kernel))

        # at stride 2 an output position meets kernel^2 / 4 input positions
        fan_in = in_channels // groups * kernel * kernel / 4
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))

    def slice(self, in_channels, out_channels, kernel, groups):
        """The weights of a choice, one view: (in_channels, out_channels / groups, K, K)."""
        groups = common_groups(groups, in_channels, out_channels)
        per_group = out_channels // groups
        if in_channels > self.weight.shape[0] or per_group > self.weight.shape[1]:
            raise ValueError(
                f"a deconvolution of {self.weight.shape[0]} channels with {self.weight.shape[1]} "
                f"outputs each cannot give {in_channels} channels with {per_group}"
            )
        weight = self.weight[:in_channels, :per_group]
        return (centre(weight, kernel),)

    def forward(self, x, out_channels=None, kernel=None, groups=None):
        """(B, I, H, W) -> (B, out_channels, 2H, 2W)."""
        in_channels = x.shape[1]
        out_channels = out_channels or self.out_channels
        kernel = kernel or self.kernel
        groups = common_groups(groups or self.groups, in_channels, out_channels)
        (weight,) = self.slice(in_channels, out_channels, kernel, groups)
        # with this padding kernels 2 and 4 write to the same output positions
        padding = (kernel - 2) // 2
        return F.conv_transpose2d(x, weight, stride=2, padding=padding, groups=groups)

    @staticmethod
    def cost(area, in_channels, out_channels, kernel=4, groups=1):
        """Cost of a call whose *input* has `area` positions; the output has four times as many."""
        groups = common_groups(groups, in_channels, out_channels)
        weights = in_channels * (out_channels // groups) * kernel * kernel
        return Cost(weights, weights * area, weights * 4 * area / 2**30)


class ElasticBatchNorm2d(Elastic):
    """Batch norm over the first channels.

    In training it keeps running statistics of the channels it sees. But all networks share them,
    and no two agree: the same channel has another mean and variance when it is computed from fewer
    inputs, a smaller kernel or a shallower stage. What is stored is a mixture that fits none. So a
    candidate's own statistics are measured anew before it is judged (`search.recalibrate`).
    """

    def __init__(self, channels, momentum=0.1, eps=1e-5):
        super().__init__()
        self.largest = (channels,)
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def slice(self, channels):
        """Mean, variance, scale and shift (channels) each: views, so statistics update in place."""
        mean = self.running_mean[:channels]
        var = self.running_var[:channels]
        return mean, var, self.weight[:channels], self.bias[:channels]

    def forward(self, x):
        """(B, C, H, W) -> the same shape."""
        mean, var, weight, bias = self.slice(x.shape[1])
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)

    @staticmethod
    def cost(channels):
        """Scale and shift. The arithmetic is not counted: a convolution can take it over."""
        return Cost(params=2 * channels)


class ElasticLayerNorm(Elastic):
    """Layer norm over the first channels of a vector, (B, C, 1, 1)."""

    def __init__(self, channels):
        super().__init__()
        self.largest = (channels,)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def slice(self, channels):
        """Scale and shift of the first channels."""
        return self.weight[:channels], self.bias[:channels]

    def forward(self, x):
        """(B, C, 1, 1) -> the same shape."""
        channels = x.shape[1]
        weight, bias = self.slice(channels)
        x = F.layer_norm(x.flatten(1), (channels,), weight, bias)  # (B, C)
        return x[:, :, None, None]

    @staticmethod
    def cost(channels):
        """Scale and shift."""
        return Cost(params=2 * channels)


class GlobalContext(nn.Module):
    """The GC block [4], attention in the ResNet space: one context vector is added everywhere.

        x ---> 1x1 conv to one channel, softmax over positions ---> where to look
        x ---> mean over positions, weighted by that           ---> context (one number a channel)
        x + ( context -> 1x1 conv -> layer norm -> ReLU -> 1x1 conv )

    The bottleneck has max(C / 16, 16) channels, so it shrinks with the features that come in.
    """

    def __init__(self, channels):
        super().__init__()
        hidden = self.hidden(channels)
        self.mask = ElasticConv2d(channels, 1, bias=True)
        self.reduce = ElasticConv2d(channels, hidden, bias=True)
        self.norm = ElasticLayerNorm(hidden)
        self.expand = ElasticConv2d(hidden, channels, bias=True)
        # ours: it starts as the identity, so choosing attention changes nothing at first
        nn.init.zeros_(self.expand.weight)

    @staticmethod
    def hidden(channels):
        """Width of the bottleneck."""
        return max(channels // 16, 16)

    def forward(self, x):
        """(B, C, H, W) -> the same shape."""
        channels = x.shape[1]
        attention = self.mask(x).flatten(2)  # (B, 1, HW)
        attention = attention.softmax(dim=-1)
        context = torch.einsum("bcp,bop->bc", x.flatten(2), attention)  # (B, C)
        context = context[:, :, None, None]  # (B, C, 1, 1)
        context = self.reduce(context, self.hidden(channels))  # (B, hidden, 1, 1)
        context = F.relu(self.norm(context))
        return x + self.expand(context, channels)

    @classmethod
    def cost(cls, area, channels):
        """Cost at `area` positions. The pooling multiplies every feature once, without weights."""
        hidden = cls.hidden(channels)
        pooling = Cost(macs=channels * area)
        mask = ElasticConv2d.cost(area, channels, 1, bias=True)
        reduce = ElasticConv2d.cost(1, channels, hidden, bias=True)
        expand = ElasticConv2d.cost(1, hidden, channels, bias=True)
        return mask + pooling + reduce + ElasticLayerNorm.cost(hidden) + expand


class SqueezeExcite(nn.Module):
    """The SE block [16], attention in the other spaces: a gate for every channel.

        x * gate( mean over positions -> 1x1 conv to C / 4 -> ReLU -> 1x1 conv to C )

    where gate is the hard sigmoid (x + 1) / 2, clipped to [0, 1], as in the released network.
    """

    def __init__(self, channels):
        super().__init__()
        self.reduce = ElasticConv2d(channels, channels // 4, bias=True)
        self.expand = ElasticConv2d(channels // 4, channels, bias=True)

    def forward(self, x):
        """(B, C, H, W) -> the same shape."""
        channels = x.shape[1]
        mean = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        hidden = F.relu(self.reduce(mean, channels // 4))  # (B, C / 4, 1, 1)
        gate = (self.expand(hidden, channels) + 1) / 2  # (B, C, 1, 1)
        return x * gate.clamp(0, 1)

    @staticmethod
    def cost(area, channels):
        """Cost of both convolutions; they see one position, whatever the `area` of the features."""
        reduce = ElasticConv2d.cost(1, channels, channels // 4, bias=True)
        expand = ElasticConv2d.cost(1, channels // 4, channels, bias=True)
        return reduce + expand


def main():
    """Show choices of one convolution of 32 filters, beside `nn.Conv2d` holding the same slice."""
    layer = ElasticConv2d(32, 32, kernel=7, groups=2)
    x = torch.randn(1, 24, 16, 12)
    print(f"one elastic convolution, weights {tuple(layer.weight.shape)}, on {tuple(x.shape)}")
    print("\nwidth  kernel  groups   slice              params   largest difference to nn.Conv2d")
    for width, kernel, groups in [(32, 7, 2), (32, 3, 2), (16, 5, 2), (16, 5, 8), (24, 3, 24)]:
        weight, _ = layer.slice(24, width, kernel, groups)
        plain = nn.Conv2d(24, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        plain.weight.data.copy_(weight)
        difference = (layer(x, width, kernel, groups) - plain(x)).abs().max().item()
        shape = str(tuple(weight.shape))
        params = ElasticConv2d.cost(16 * 12, 24, width, kernel, groups).params
        print(f"{width:5}  {kernel:6}  {groups:6}   {shape:18} {params:6}   {difference:.1e}")


if __name__ == "__main__":
    main()
