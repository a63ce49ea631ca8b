"""One weight, many networks (Sec. 3.2, Figs A1-A5): what a super-network is made of.

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

Every convolution and every norm has one function, `slice`, that cuts out the weights of a choice.
`forward` computes with the slice, and `copy_slice` copies it into a smaller layer of the same
class. Nothing is written twice, so a finished network gives exactly what its slice of the
super-network gave. The choice is an argument of `forward`; no layer remembers one. Beside each
`forward` stands `cost`: what that call has to store and to compute.

    python elastic.py        # slices of one convolution beside ordinary layers of the same numbers
"""

import itertools
import math
from dataclasses import dataclass
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
        return Cost(*[mine + theirs for mine, theirs in zip(self, other, strict=True)])

    def times(self, count):
        """The cost of `count` equal layers."""
        return Cost(self.params * count, self.macs * count, self.gflops * count)


# ----------------------------------------------------------------------------------- group numbers
# A convolution in g groups cuts its channels into g equal parts, and each part of the output reads
# one part of the input. For example 48 channels, 3x3:
#
#     groups g   channels that a filter reads, 48 / g   weights
#         1                     48                      48 x 48 x 9   an ordinary convolution
#        12                      4                      48 x  4 x 9
#        24                      2                      48 x  2 x 9
#        48                      1                      48 x  1 x 9   a depthwise convolution
#
# Three things follow, here and wherever group numbers are chosen:
# 1. A group number has to divide the channels on both sides: 36 groups do not go with 48 channels.
# 2. The *fewer* groups, the larger the filters. So shared weights are stored for the fewest groups,
#    and a choice of more groups uses the first inputs of each filter (Fig. A3).
# 3. Whether a choice is a slice depends on its channels per group, not on its group number. Where
#    48 channels in 12 groups are stored (4 per group), 32 channels fit in 8 groups, but not in 4.


def fits(groups, channels, most_per_group):
    """Whether `groups` divides the channels into groups of at most `most_per_group` channels."""
    return channels % groups == 0 and channels // groups <= most_per_group


def common_groups(groups, in_channels, out_channels):
    """The group number that a layer uses: the largest divisor of `groups` that divides both sides.

    ours (the paper gives no rule). The spaces offer only numbers that divide a layer's own width,
    so it acts in one place: a head's first deconvolution reads the width of another stage.
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
    """A layer with a `slice`. With the arguments `largest`, `slice` returns all of its weights."""

    def copy_slice(self, larger):
        """Copy into this layer the slice of a `larger` one that is as large as this layer."""
        mine = self.slice(*self.largest)
        theirs = larger.slice(*self.largest)
        with torch.no_grad():
            for tensor, source in zip(mine, theirs, strict=True):
                if tensor is not None:  # a bias can be missing
                    tensor.copy_(source)

    def check_stored(self, filters, per_group):
        """ValueError if there are not so many filters over so many channels."""
        stored = self.weight.shape[:2]
        if filters > stored[0] or per_group > stored[1]:
            has = f"has {stored[0]} filters over {stored[1]} channels"
            raise ValueError(f"this layer {has}: it cannot give {filters} over {per_group}")


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

        # ours: He initialisation over the fan-out, so that gradients keep their scale on the way
        # back, whatever the group number. The paper's sigma = .001: train.py --init-std .001
        fan_out = out_channels // groups * kernel * kernel
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))

    def slice(self, in_channels, out_channels, kernel, groups):
        """The weights of a choice, as views of the stored ones: filters and bias (or None).

        Filters are (out_channels, in_channels / groups, kernel, kernel), bias is (out_channels).
        Raises ValueError where the stored weights are too small.
        """
        groups = common_groups(groups, in_channels, out_channels)
        per_group = in_channels // groups
        self.check_stored(out_channels, per_group)
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
        self.check_stored(in_channels, per_group)
        return (centre(self.weight[:in_channels, :per_group], kernel),)

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

    All subnets share its running statistics, which fit none of them. So an extracted network
    collects statistics of its own before it is evaluated: see `search.recalibrate`.
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
        stored = (self.running_mean, self.running_var, self.weight, self.bias)
        return tuple([tensor[:channels] for tensor in stored])

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


# --------------------------------------------------------------- what is chosen, and what is fixed


class Branch(NamedTuple):
    """The blocks of one stage (of one branch of it, in HRNet); `width` is what comes out.

    All of its blocks are equal (Sec. A.2), so these five numbers say everything about them. Kernel
    and groups are those of the middle convolution. It has width x expansion channels in a Mobile
    block, width / expansion in a Bottleneck.
    """

    width: int
    kernel: int = 3
    groups: int = 1
    attention: bool = False
    expansion: int = 1


class Stage(NamedTuple):
    """`depth` equal blocks in each branch. A stage of ResNet or MobileNet-V3 has one branch."""

    depth: int
    branches: tuple


class Head(NamedTuple):
    """The deconvolutions; a 1x1 convolution to the heatmaps always follows."""

    width: int
    kernel: int = 4
    groups: int = 1


MODULE = 4  # blocks of HRNet between two exchanges


@dataclass(frozen=True)
class Backbone:
    """What the search leaves alone; below it is called `plan`. Tuples have one entry a stage."""

    blocks: tuple  # Bottleneck, Basic or Mobile
    strides: tuple
    activations: tuple
    attention: type  # GlobalContext or SqueezeExcite
    stem_kernel: int = 3
    stem_activation: object = F.relu
    stem_second: str = ""  # what follows the stride-2 stem convolution: "", "pool" or "conv"
    image_size: tuple = (256, 192)  # height, width it is meant for
    first_parallel: int | None = None  # HRNet: from this stage on (counted from 0) it has branches

    def is_parallel(self, index):
        """Whether stage `index` has parallel branches (`ParallelStage`)."""
        return self.first_parallel is not None and index >= self.first_parallel

    def depth_step(self, index):
        """In which steps the depth of stage `index` can be chosen: blocks, or whole modules."""
        return MODULE if self.is_parallel(index) else 1

    def reduction(self, stages=None):
        """By what branch 1 is smaller than the image after the first `stages` stages (or all)."""
        # 32 after all stages of ResNet and MobileNet-V3, 16 in our small one, 4 in HRNet
        stem = 4 if self.stem_second else 2
        return stem * math.prod(self.strides[:stages])


class ConvNorm(nn.Module):
    """A convolution, or a deconvolution, and its batch norm."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.norm = ElasticBatchNorm2d(conv.out_channels)

    def forward(self, x, width, kernel=None, groups=None):
        """(B, I, H, W) -> (B, width, H / stride, W / stride), or 2H, 2W of a deconvolution."""
        return self.norm(self.conv(x, width, kernel, groups))

    @staticmethod
    def cost(area, in_channels, width, kernel=1, groups=1):
        """Cost of a convolution whose output has `area` positions."""
        conv = ElasticConv2d.cost(area, in_channels, width, kernel, groups)
        return conv + ElasticBatchNorm2d.cost(width)


def conv_norm(in_channels, width, kernel=1, stride=1, groups=1):
    """A convolution with batch norm; the arguments are the largest choice."""
    return ConvNorm(ElasticConv2d(in_channels, width, kernel, stride, groups))


class Stem(nn.Module):
    """A stride-2 convolution; then a max pool (ResNet) or a second one (HRNet), again stride 2."""

    def __init__(self, plan, width):
        super().__init__()
        self.plan = plan
        self.conv1 = conv_norm(3, width, plan.stem_kernel, stride=2)
        if plan.stem_second == "conv":
            self.conv2 = conv_norm(width, width, kernel=3, stride=2)

    def forward(self, images, width):
        """(B, 3, H, W) -> (B, width, H/2, W/2), or H/4, W/4 with a pool or a second convolution."""
        x = self.plan.stem_activation(self.conv1(images, width))
        if self.plan.stem_second == "conv":
            x = self.plan.stem_activation(self.conv2(x, width))
        if self.plan.stem_second == "pool":
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return x

    @staticmethod
    def cost(plan, image_area, width):
        """Cost for an image of so many pixels. A pool has no weights, so it counts nothing."""
        total = ConvNorm.cost(image_area // 4, 3, width, plan.stem_kernel)
        if plan.stem_second == "conv":
            total += ConvNorm.cost(image_area // 16, width, width, kernel=3)
        return total


class Block(nn.Module):
    """What the three kinds of blocks share: attention that can be skipped, and what is added.

    The first block of a stage may change width and resolution, the others keep them. A block is
    built for its largest choice, `branch`; `forward` takes any smaller one, and slices do the rest.

    In a super-network's first block of a stage (is_super) some choice may need a convolution that
    the largest does not: the projection; and in a Mobile block, if widths differ (narrower), conv1.
    """

    def __init__(self, plan, stage, stride):
        super().__init__()
        self.stride = stride
        self.activation = plan.activations[stage]

    @staticmethod
    def hidden(branch):
        """Channels of the middle convolution; in a basic block the expansion is 1."""
        return branch.width // branch.expansion

    @staticmethod
    def changes_shape(in_channels, width, stride):
        """Whether something else comes out than goes in."""
        return stride > 1 or in_channels != width

    def attend(self, y, branch):
        """Elastic attention (Fig. A5): used, or skipped; its weights wait for those who use it."""
        return self.attention(y) if branch.attention else y

    def skip(self, x, width):
        """What the block adds to its convolutions: x itself, projected if the shape changes."""
        if self.changes_shape(x.shape[1], width, self.stride):
            x = self.project(x, width)
        return x


class Bottleneck(Block):
    """ResNet-50's block [13]. It is narrow in the middle, where kernel and groups are searched.

    x --> 1x1 I -> h --> K x K h -> h --> 1x1 h -> W --> attention --> + --> activation -->
    '---> skip -------------------------------------------------------'
    """

    def __init__(self, plan, stage, in_channels, branch, stride=1, is_super=False, narrower=False):
        super().__init__(plan, stage, stride)
        hidden = self.hidden(branch)
        self.conv1 = conv_norm(in_channels, hidden)
        self.conv2 = conv_norm(hidden, hidden, branch.kernel, stride, branch.groups)
        self.conv3 = conv_norm(hidden, branch.width)
        if branch.attention:
            self.attention = plan.attention(branch.width)
        if is_super or self.changes_shape(in_channels, branch.width, stride):
            self.project = conv_norm(in_channels, branch.width, stride=stride)

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        hidden = self.hidden(branch)
        y = self.activation(self.conv1(x, hidden))
        y = self.activation(self.conv2(y, hidden, branch.kernel, branch.groups))
        y = self.conv3(y, branch.width)
        y = self.attend(y, branch)
        return self.activation(self.skip(x, branch.width) + y)

    @staticmethod
    def cost(plan, in_channels, branch, area, stride=1):
        """Cost of a block whose output has `area` positions."""
        hidden = Bottleneck.hidden(branch)
        total = ConvNorm.cost(area * stride**2, in_channels, hidden)
        total += ConvNorm.cost(area, hidden, hidden, branch.kernel, branch.groups)
        total += ConvNorm.cost(area, hidden, branch.width)
        if branch.attention:
            total += plan.attention.cost(area, branch.width)
        if Block.changes_shape(in_channels, branch.width, stride):
            total += ConvNorm.cost(area, in_channels, branch.width)
        return total


class Basic(Block):
    """The block of HRNet and ResNet-18: both convolutions take the same choices (Sec. A.2).

    x --> K x K I -> W --> K x K W -> W --> attention --> + --> activation -->
    '---> skip ------------------------------------------'
    """

    def __init__(self, plan, stage, in_channels, branch, stride=1, is_super=False, narrower=False):
        super().__init__(plan, stage, stride)
        width = branch.width
        self.conv1 = conv_norm(in_channels, width, branch.kernel, stride, branch.groups)
        self.conv2 = conv_norm(width, width, branch.kernel, 1, branch.groups)
        if branch.attention:
            self.attention = plan.attention(width)
        if is_super or self.changes_shape(in_channels, width, stride):
            self.project = conv_norm(in_channels, width, stride=stride)

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.activation(self.conv1(x, branch.width, branch.kernel, branch.groups))
        y = self.conv2(y, branch.width, branch.kernel, branch.groups)
        y = self.attend(y, branch)
        return self.activation(self.skip(x, branch.width) + y)

    @staticmethod
    def cost(plan, in_channels, branch, area, stride=1):
        """Cost of a block whose output has `area` positions."""
        width = branch.width
        total = ConvNorm.cost(area, in_channels, width, branch.kernel, branch.groups)
        total += ConvNorm.cost(area, width, width, branch.kernel, branch.groups)
        if branch.attention:
            total += plan.attention.cost(area, width)
        if Block.changes_shape(in_channels, width, stride):
            total += ConvNorm.cost(area, in_channels, width)
        return total


class Mobile(Block):
    """MobileNet-V3's block [14]. It is wide in the middle, where kernel and groups are searched.

        x --> 1x1 I -> h --> K x K h -> h --> attention --> 1x1 h -> W --> + -->
        '---> x itself, where the shape stays ----------------------------'

    Attention stands in the middle, as in the released network. There is no first convolution where
    nothing is to be expanded, and no activation at the end.
    """

    def __init__(self, plan, stage, in_channels, branch, stride=1, is_super=False, narrower=False):
        super().__init__(plan, stage, stride)
        hidden = self.hidden(branch)
        # narrower: other widths than the largest may come in or go out, and then meet conv1
        if narrower or self.expands(in_channels, branch):
            self.conv1 = conv_norm(in_channels, hidden)
        self.conv2 = conv_norm(hidden, hidden, branch.kernel, stride, branch.groups)
        self.conv3 = conv_norm(hidden, branch.width)
        if branch.attention:
            self.attention = plan.attention(hidden)

    @staticmethod
    def hidden(branch):
        """Channels of the middle convolution."""
        return branch.width * branch.expansion

    @staticmethod
    def expands(in_channels, branch):
        """Whether the block has a first convolution."""
        return branch.expansion > 1 or branch.width != in_channels

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        hidden = self.hidden(branch)
        y = x
        if self.expands(x.shape[1], branch):
            y = self.activation(self.conv1(y, hidden))
        y = self.activation(self.conv2(y, hidden, branch.kernel, branch.groups))
        y = self.attend(y, branch)
        y = self.conv3(y, branch.width)
        return x + y if x.shape == y.shape else y

    @staticmethod
    def cost(plan, in_channels, branch, area, stride=1):
        """Cost of a block whose output has `area` positions."""
        hidden = Mobile.hidden(branch)
        total = ConvNorm.cost(area, hidden, hidden, branch.kernel, branch.groups)
        total += ConvNorm.cost(area, hidden, branch.width)
        if Mobile.expands(in_channels, branch):
            total += ConvNorm.cost(area * stride**2, in_channels, hidden)
        if branch.attention:
            total += plan.attention.cost(area, hidden)
        return total


def check_depth(depth, blocks):
    """ValueError if a stage of so many blocks is asked for more."""
    if depth > blocks:
        raise ValueError(f"this stage has {blocks} blocks, not {depth}")


class SerialStage(nn.Module):
    """Blocks one after another; the first one changes width and resolution.

    Elastic depth (Fig. A1): a choice of depth D runs the first D blocks, here 2 of 4.

        x --> [block 1] --> [block 2] --.   [block 3]     [block 4]
             shape changes:             |
             D >= 1                     '----------------------------> y

    What comes out has the same shape whatever D is. Features are lists with one tensor a branch:
    here there is one, in HRNet there are several.
    """

    def __init__(self, plan, index, in_widths, largest, is_super, narrower):
        super().__init__()
        block = plan.blocks[index]
        branch = largest.branches[0]
        stride = plan.strides[index]
        first = block(plan, index, in_widths[0], branch, stride, is_super, narrower)
        self.blocks = nn.ModuleList([first])
        for _ in range(largest.depth - 1):
            self.blocks.append(block(plan, index, branch.width, branch))

    def forward(self, features, choice):
        """[(B, I, H, W)] -> [(B, width, H / stride, W / stride)]; ValueError if it is too deep."""
        check_depth(choice.depth, len(self.blocks))
        x = features[0]
        # elastic depth: the first D; all blocks take the same choice
        for block in self.blocks[: choice.depth]:
            x = block(x, choice.branches[0])
        return [x]

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose output has `area` positions."""
        block = plan.blocks[index]
        branch = choice.branches[0]
        first = block.cost(plan, in_widths[0], branch, area, plan.strides[index])
        others = block.cost(plan, branch.width, branch, area)
        return first + others.times(choice.depth - 1)


class Conv(NamedTuple):
    """A convolution between two branches of HRNet: built, run and priced from the same list."""

    in_channels: int
    width: int
    kernel: int = 1
    stride: int = 1


class ParallelStage(nn.Module):
    """A stage of HRNet [49]: parallel branches, each at half the resolution of the one before.

        last stage's branches --> transition --> [blocks] --> exchange --> [blocks] --> exchange ...
                                                 \\________ one module _____/

    The transition brings the branches to their widths and starts a new one from the coarsest. After
    every module of 4 blocks all branches exchange features. Elastic depth counts in whole modules.
    """

    def __init__(self, plan, index, in_widths, largest, is_super, narrower):
        super().__init__()
        self.plan = plan
        self.index = index
        widths = [branch.width for branch in largest.branches]
        # a super-network needs every transition: the widths that come in are chosen at each call
        self.transitions = nn.ModuleDict()
        for b, conv in enumerate(self.transition(in_widths, widths)):
            if is_super or Block.changes_shape(conv.in_channels, conv.width, conv.stride):
                self.transitions[str(b)] = conv_norm(*conv)
        # the blocks of all modules, branch by branch
        self.branches = nn.ModuleList()
        for branch in largest.branches:
            block = plan.blocks[index]
            blocks = [block(plan, index, branch.width, branch) for _ in range(largest.depth)]
            self.branches.append(nn.ModuleList(blocks))

        outputs = self.outputs(plan, index, largest.depth)
        self.exchanges = nn.ModuleList([Exchange(widths, count) for count in outputs])

    @staticmethod
    def transition(in_widths, widths):
        """A Conv to every branch; the new branch's halves the size of the coarsest one."""
        # there is one width more than come in
        convs = [Conv(*pair, kernel=3) for pair in zip(in_widths, widths, strict=False)]
        return [*convs, Conv(in_widths[-1], widths[-1], kernel=3, stride=2)]

    @staticmethod
    def outputs(plan, index, depth):
        """How many branches leave each module: all. From the network's last only the first."""
        modules = depth // MODULE
        is_last = index == len(plan.strides) - 1
        return [index + 1] * (modules - 1) + [1 if is_last else index + 1]

    def forward(self, features, choice):
        """Features of the last stage's branches -> those of this one's; ValueError if too deep."""
        check_depth(choice.depth, len(self.branches[0]))
        in_widths = [x.shape[1] for x in features]
        widths = [branch.width for branch in choice.branches]
        # transition: the coarsest features enter two branches
        entering = [*features, features[-1]]
        for b, conv in enumerate(self.transition(in_widths, widths)):
            if Block.changes_shape(conv.in_channels, conv.width, conv.stride):
                entering[b] = F.relu(self.transitions[str(b)](entering[b], conv.width))
        features = entering  # branch b: (B, its width, H / 2^b, W / 2^b)
        # elastic depth: the first modules, each of so many blocks and an exchange
        for module, outputs in enumerate(self.outputs(self.plan, self.index, choice.depth)):
            start = module * MODULE
            for b, branch in enumerate(choice.branches):
                for block in self.branches[b][start : start + MODULE]:
                    features[b] = block(features[b], branch)
            features = self.exchanges[module](features, outputs)
        return features

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose branch 1 has `area` positions, each next one a quarter."""
        total = Cost()
        widths = [branch.width for branch in choice.branches]
        # the transition, the blocks, the exchanges
        for b, conv in enumerate(ParallelStage.transition(in_widths, widths)):
            if Block.changes_shape(conv.in_channels, conv.width, conv.stride):
                total += ConvNorm.cost(area // 4**b, conv.in_channels, conv.width, conv.kernel)
        for b, branch in enumerate(choice.branches):
            block = plan.blocks[index].cost(plan, branch.width, branch, area // 4**b)
            total += block.times(choice.depth)
        for outputs in ParallelStage.outputs(plan, index, choice.depth):
            total += Exchange.cost(area, widths, outputs)
        return total


class Exchange(nn.Module):
    """HRNet's exchange unit: every branch becomes the sum of all, in its own width and size.

        to branch 1:  x1  +  1x1, enlarged (x2)              +  1x1, enlarged (x3)
        to branch 2:  3x3, stride 2 (x1)  +  x2              +  1x1, enlarged (x3)
        to branch 3:  3x3, 3x3, stride 2 each (x1)  +  3x3, stride 2 (x2)  +  x3

    1x1 and the last 3x3 of each way change the width. Enlarged: nearest neighbour. Then ReLU.
    """

    def __init__(self, widths, outputs):
        super().__init__()
        self.paths = nn.ModuleDict()
        for i, j in itertools.product(range(outputs), range(len(widths))):
            if i != j:
                convs = [conv_norm(*conv) for conv in self.path(widths, j, i)]
                self.paths[f"{j} to {i}"] = nn.ModuleList(convs)

    @staticmethod
    def path(widths, j, i):
        """The Convs from branch j to branch i. The smaller the number, the finer the features."""
        if j > i:
            return [Conv(widths[j], widths[i])]
        halvings = [Conv(widths[j], widths[j], kernel=3, stride=2)] * (i - j - 1)
        return [*halvings, Conv(widths[j], widths[i], kernel=3, stride=2)]

    def forward(self, features, outputs):
        """Features of all branches -> those of the first `outputs` branches."""
        widths = [x.shape[1] for x in features]
        fused = []
        for i, total in enumerate(features[:outputs]):
            size = total.shape[2:]
            for j, x in enumerate(features):
                if j == i:
                    continue
                layers = zip(self.paths[f"{j} to {i}"], self.path(widths, j, i), strict=True)
                # on the way down a ReLU before each further halving; on the way up, enlarge
                for layer, conv in layers:
                    x = layer(x, conv.width)
                    if x.shape[2:] != size:
                        x = F.relu(x) if j < i else F.interpolate(x, size)
                total = total + x
            fused.append(F.relu(total))
        return fused

    @staticmethod
    def cost(area, widths, outputs):
        """Cost of a unit whose branch 1 has `area` positions."""
        total = Cost()
        for i, j in itertools.product(range(outputs), range(len(widths))):
            if i != j:
                positions = area // 4**j
                for conv in Exchange.path(widths, j, i):
                    positions = positions // conv.stride**2
                    total += ConvNorm.cost(positions, conv.in_channels, conv.width, conv.kernel)
        return total


class PoseHead(nn.Module):
    """Deconvolutions up to 1/4 of the image, then a 1x1 convolution to one heatmap a joint.

    This is the head of Simple Baselines (SBL [56]). HRNet has no deconvolutions: its branch 1 works
    at 1/4 from the stem on.
    """

    def __init__(self, in_channels, head, reduction, joints):
        super().__init__()
        self.deconvs = nn.ModuleList()
        while reduction > 4:
            self.deconvs.append(ConvNorm(ElasticConvTranspose2d(in_channels, *head)))
            in_channels = head.width
            reduction = reduction // 2
        self.final = ElasticConv2d(in_channels, joints, bias=True)
        # the paper's sigma (Sec. 4.2): heatmaps start near zero, where they mostly are
        nn.init.normal_(self.final.weight, std=0.001)

    def forward(self, x, head):
        """(B, I, h, w) -> heatmaps (B, K, H/4, W/4)."""
        for deconv in self.deconvs:
            x = F.relu(deconv(x, *head))  # twice the height and width
        return self.final(x)

    @staticmethod
    def cost(area, in_channels, head, reduction, joints):
        """Cost of a head whose input has `area` positions."""
        total = Cost()
        # each deconvolution quadruples the positions, which its own cost takes into account
        while reduction > 4:
            total += ElasticConvTranspose2d.cost(area, in_channels, *head)
            total += ElasticBatchNorm2d.cost(head.width)
            in_channels = head.width
            area = 4 * area
            reduction = reduction // 2
        return total + ElasticConv2d.cost(area, in_channels, joints, bias=True)


def main():
    """Show choices of one convolution of 32 filters, beside `nn.Conv2d` holding the same slice."""
    layer = ElasticConv2d(32, 32, kernel=7, groups=2)
    x = torch.randn(1, 24, 16, 12)
    print(f"one elastic convolution, weights {tuple(layer.weight.shape)}, on {tuple(x.shape)}\n")
    print("width  kernel  groups   slice              params   largest difference to nn.Conv2d")
    for width, kernel, groups in [(32, 7, 2), (32, 3, 2), (16, 5, 2), (16, 5, 8), (24, 3, 24)]:
        weight, _ = layer.slice(24, width, kernel, groups)
        plain = nn.Conv2d(24, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        plain.weight.data.copy_(weight)
        difference = (layer(x, width, kernel, groups) - plain(x)).abs().max().item()
        sizes = f"{tuple(weight.shape)!s:18} {weight.numel():6}"
        print(f"{width:5}  {kernel:6}  {groups:6}   {sizes}   {difference:.1e}")


if __name__ == "__main__":
    main()
