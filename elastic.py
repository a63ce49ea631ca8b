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


# ------------------------------------------------------- what a network is made of


class Branch(NamedTuple):
    """The blocks of one stage (of one branch of it, in HRNet); `width` is what comes out.

    All of its blocks are equal (Sec. A.2), so that five numbers say everything about them.
    """

    width: int
    kernel: int = 3
    groups: int = 1
    attention: bool = False
    expansion: int = 1

    def hidden(self, block):
        """Channels of the middle convolution, whose kernel and groups are searched."""
        # a mobile block is wide in the middle, a bottleneck narrow; a basic block has expansion 1
        if block == "mobile":
            return self.width * self.expansion
        return self.width // self.expansion


class Stage(NamedTuple):
    """`depth` equal blocks in each branch. A stage of ResNet or MobileNet-V3 has one branch."""

    depth: int
    branches: tuple


class Head(NamedTuple):
    """The deconvolutions; a 1x1 convolution to the heatmaps always follows."""

    width: int
    kernel: int = 4
    groups: int = 1


@dataclass(frozen=True)
class Backbone:
    """What stays fixed. Tuples have one entry a stage.

    The search chooses for every stage how many blocks it has (depth), how many channels (width),
    kernel and group number of the middle convolutions, and whether there is attention: the five
    dimensions of Sec. 3.2. For mobile blocks it chooses the expansion ratio too (Sec. A.2).
    """

    block: tuple  # "bottleneck", "basic" (ResNet) or "mobile" (MobileNet-V3), see `block_parts`
    strides: tuple
    activations: tuple
    attention: type = SqueezeExcite
    stem_kernel: int = 3
    stem_activation: object = F.relu
    stem_second: str = ""  # what follows the stride-2 stem convolution: "", "pool" or "conv"
    image_size: tuple = (256, 192)  # height, width it is meant for
    # HRNet: stage n has n branches, each at half the resolution of the one before, which exchange
    # features after every module of so many blocks. None: an ordinary stage, blocks in a row
    modules: tuple = (None,) * 6

    def reduction(self, stages=None):
        """Image pixels to a cell of branch 1 after so many stages (default: all)."""
        # 32 after all stages of ResNet and MobileNet-V3, 16 in our small one, 4 in HRNet
        stem = 4 if self.stem_second else 2
        return stem * math.prod(self.strides[:stages])


# ------------------------------------------------------------------------------ parts of a network


class Conv(NamedTuple):
    """A convolution as it is chosen: the arguments of `ElasticConv2d`, in their order.

    Each part of a network lists its convolutions once, and is built, run and priced from the list:
    built from that of its largest choice, run and priced from that of any other.
    """

    in_channels: int
    width: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    def changes_shape(self):
        """Whether something else comes out than goes in: else a skip needs no convolution."""
        return self.stride > 1 or self.in_channels != self.width


class ConvNorm(nn.Module):
    """A convolution, or a deconvolution, and its batch norm."""

    def __init__(self, choice, layer=ElasticConv2d):
        super().__init__()
        self.conv = layer(*choice)
        self.norm = ElasticBatchNorm2d(self.conv.out_channels)

    def forward(self, x, choice):
        """(B, I, H, W) -> (B, width, H / stride, W / stride). choice: a Conv, or a Head."""
        return self.norm(self.conv(x, choice.width, choice.kernel, choice.groups))


def convs_cost(convs, area):
    """Cost of Convs one after another, each with a batch norm; the first reads `area` positions."""
    # a convolution is priced at its output positions: a stride of 2 leaves a quarter of them
    cost = Cost()
    for conv in convs:
        area = area // conv.stride**2
        cost += ElasticConv2d.cost(area, conv.in_channels, conv.width, conv.kernel, conv.groups)
        cost += ElasticBatchNorm2d.cost(conv.width)
    return cost


class Stem(nn.Module):
    """A stride-2 convolution; then a stride-2 max pool (ResNet) or a second one (HRNet).

    Only its width is searched: 32 to 64 channels in Table A2, 16 to 64 in Table A3.
    """

    def __init__(self, plan, width):
        super().__init__()
        self.plan = plan
        for name, conv in self.convolutions(plan, width).items():
            self.add_module(name, ConvNorm(conv))

    @staticmethod
    def convolutions(plan, width):
        """{name: Conv}, in order."""
        first = Conv(3, width, plan.stem_kernel, stride=2)
        second = Conv(width, width, kernel=3, stride=2)
        return {"conv1": first, "conv2": second} if plan.stem_second == "conv" else {"conv1": first}

    def forward(self, images, width):
        """(B, 3, H, W) -> (B, width, H/2, W/2), or H/4, W/4 with a pool or a second convolution."""
        x = images
        for name, conv in self.convolutions(self.plan, width).items():
            x = self.plan.stem_activation(getattr(self, name)(x, conv))
        if self.plan.stem_second == "pool":
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        return x

    @staticmethod
    def cost(plan, image_area, width):
        """Cost for an image of so many pixels. A pool has no weights, so it counts nothing."""
        return convs_cost(Stem.convolutions(plan, width).values(), image_area)


def block_parts(kind, in_channels, branch, stride):
    """({name: Conv} in order, name of the one that attention follows, Conv of the skip or None).

        bottleneck   1x1 I -> h     K x K h -> h    1x1 h -> W   attention    + skip    activation
        basic        K x K I -> W   K x K W -> W                 attention    + skip    activation
        mobile       1x1 I -> h     K x K h -> h    attention    1x1 h -> W   + skip

    where h is `Branch.hidden`, and the first K x K convolution carries the stride.
    """
    width, kernel, groups = branch.width, branch.kernel, branch.groups
    skip = Conv(in_channels, width, 1, stride)  # needed where it changes the shape
    # HRNet's and ResNet-18's: both convolutions take the same choices (Sec. A.2)
    if kind == "basic":
        first = Conv(in_channels, width, kernel, stride, groups)
        return {"conv1": first, "conv2": Conv(width, width, kernel, 1, groups)}, "conv2", skip
    # in the others kernel and groups are searched of the middle convolution alone (Sec. A.2)
    hidden = branch.hidden(kind)
    middle = Conv(hidden, hidden, kernel, stride, groups)
    convs = {"conv1": Conv(in_channels, hidden), "conv2": middle, "conv3": Conv(hidden, width)}
    # ResNet-50's [13] is narrow in the middle
    if kind == "bottleneck":
        return convs, "conv3", skip
    # MobileNet-V3's [14] is wide there, and has its attention there, as in the released network.
    # No first convolution where there is nothing to expand; no skip where the shape changes
    if branch.expansion == 1 and hidden == in_channels:
        del convs["conv1"]
    return convs, "conv2", None


class Block(nn.Module):
    """Convolutions, attention and a skip, as `block_parts` lists them.

        x --> convolutions, and attention (used or not) --> + --> activation -->
        '---> skip (projected where the shape changes) -----'

    The first block of a stage may change width and resolution, the others keep them. `branch` is
    the largest choice in `__init__`, and in `forward` whichever is to be run: slices do the rest.
    """

    def __init__(self, in_channels, branch, plan, stage, stride, elastic_input):
        super().__init__()
        self.kind = plan.block[stage]
        self.stride = stride
        self.activation = plan.activations[stage]
        convs, attended, skip = block_parts(self.kind, in_channels, branch, stride)
        for name, conv in convs.items():
            self.add_module(name, ConvNorm(conv))
        if branch.attention:
            self.attention = plan.attention(convs[attended].width)
        # elastic_input: fewer channels than these may come in, so that the shape changes though the
        # largest choices agree. All but the first block of a stage see their own width
        if skip and (elastic_input or skip.changes_shape()):
            self.project = ConvNorm(skip)

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        convs, attended, skip = block_parts(self.kind, x.shape[1], branch, self.stride)
        *_, last = convs
        y = x
        for name, conv in convs.items():
            y = getattr(self, name)(y, conv)
            if name != last:  # behind that one the skip is added first
                y = self.activation(y)
            if name == attended:
                y = self.attend(y, branch)
        if skip is None:  # a mobile block, whose output has no activation
            return x + y if x.shape == y.shape else y
        if skip.changes_shape():
            x = self.project(x, skip)
        return self.activation(x + y)

    def attend(self, y, branch):
        """Elastic attention (Fig. A5): used, or skipped by the identity. The shape stays.

        chosen      y --> attention --> y'
        not chosen  y ----------------> y'     its weights wait for those who choose it
        """
        return self.attention(y) if branch.attention else y

    @staticmethod
    def cost(plan, stage, in_channels, branch, area, stride=1):
        """Cost of a block whose output has `area` positions."""
        # the same list that `forward` runs
        convs, attended, skip = block_parts(plan.block[stage], in_channels, branch, stride)
        cost = convs_cost(convs.values(), area * stride**2)
        if branch.attention:
            cost += plan.attention.cost(area, convs[attended].width)
        if skip and skip.changes_shape():
            cost += convs_cost([skip], area * stride**2)
        return cost


class SerialStage(nn.Module):
    """Blocks one after another; the first one changes width and resolution.

    Elastic depth (Fig. A1): a choice of depth D runs the first D blocks, here 2 of 4.

        x --> [block 1] --> [block 2] --.   [block 3]     [block 4]
             shape changes:             |
             D >= 1                     '----------------------------> y

    What comes out has the same shape whatever D is. A deep network contains all shallower ones.
    """

    def __init__(self, plan, index, in_widths, largest, elastic):
        super().__init__()
        (branch,) = largest.branches
        (in_channels,) = in_widths
        first = Block(in_channels, branch, plan, index, plan.strides[index], elastic)
        self.blocks = nn.ModuleList([first])
        for _ in range(largest.depth - 1):
            self.blocks.append(Block(branch.width, branch, plan, index, 1, False))

    def forward(self, features, choice):
        """[(B, I, H, W)] -> [(B, width, H / stride, W / stride)]; ValueError if it is too deep."""
        count = len(self.blocks)
        if choice.depth > count:
            raise ValueError(f"this stage has {count} blocks, not {choice.depth}")
        (x,) = features
        (branch,) = choice.branches
        # elastic depth: the first D; all blocks take the same choice
        for block in self.blocks[: choice.depth]:
            x = block(x, branch)
        return [x]

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose output has `area` positions."""
        (branch,) = choice.branches
        (in_channels,) = in_widths
        first = Block.cost(plan, index, in_channels, branch, area, plan.strides[index])
        others = Block.cost(plan, index, branch.width, branch, area)
        return first + others.times(choice.depth - 1)


class ParallelStage(nn.Module):
    """A stage of HRNet [49]: parallel branches, each at half the resolution of the one before.

        last stage's branches --> transition --> [blocks] --> exchange --> [blocks] --> exchange ...
                                                 \\________ one module _____/

    The transition brings the branches to their widths and starts a new one from the coarsest. After
    every module of 4 blocks all branches exchange features. Elastic depth counts in whole modules.
    """

    def __init__(self, plan, index, in_widths, largest, elastic):
        super().__init__()
        self.plan = plan
        self.index = index
        widths = [branch.width for branch in largest.branches]
        # a super-network needs every transition: the widths that come in are chosen at each call
        self.transitions = nn.ModuleDict()
        for b, conv in enumerate(self.transition(in_widths, widths)):
            if elastic or conv.changes_shape():
                self.transitions[str(b)] = ConvNorm(conv)
        # the blocks of all modules, branch by branch
        self.branches = nn.ModuleList()
        for branch in largest.branches:
            sizes = (branch.width, branch, plan, index, 1, False)
            blocks = [Block(*sizes) for _ in range(largest.depth)]
            self.branches.append(nn.ModuleList(blocks))

        outputs = self.outputs(plan, index, largest.depth)
        self.exchanges = nn.ModuleList([Exchange(widths, count) for count in outputs])

    @staticmethod
    def transition(in_widths, widths):
        """A Conv to every branch; the new branch's halves the size of the coarsest one."""
        # there is one width more than come in
        convs = [Conv(*pair, 3) for pair in zip(in_widths, widths, strict=False)]
        return [*convs, Conv(in_widths[-1], widths[-1], 3, stride=2)]

    @staticmethod
    def outputs(plan, index, depth):
        """How many branches leave each module: all; of the network's last only the head's."""
        modules = depth // plan.modules[index]
        is_last = index == len(plan.strides) - 1
        return [index + 1] * (modules - 1) + [1 if is_last else index + 1]

    def forward(self, features, choice):
        """Features of the last stage's branches -> those of this one's; ValueError if too deep."""
        count = len(self.branches[0])
        if choice.depth > count:
            raise ValueError(f"this stage has {count} blocks, not {choice.depth}")
        in_widths = [x.shape[1] for x in features]
        widths = [branch.width for branch in choice.branches]
        # transition: the coarsest features enter two branches
        entering = [*features, features[-1]]
        for b, conv in enumerate(self.transition(in_widths, widths)):
            if conv.changes_shape():
                entering[b] = F.relu(self.transitions[str(b)](entering[b], conv))
        features = entering  # branch b: (B, its width, H / 2^b, W / 2^b)
        # elastic depth: the first modules, each of so many blocks and an exchange
        length = self.plan.modules[self.index]
        for module, outputs in enumerate(self.outputs(self.plan, self.index, choice.depth)):
            start = module * length
            for b, branch in enumerate(choice.branches):
                for block in self.branches[b][start : start + length]:
                    features[b] = block(features[b], branch)
            features = self.exchanges[module](features, outputs)
        return features

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose branch 1 has `area` positions, each next one a quarter."""
        cost = Cost()
        widths = [branch.width for branch in choice.branches]
        # the transition, the blocks, the exchanges
        for b, conv in enumerate(ParallelStage.transition(in_widths, widths)):
            if conv.changes_shape():
                area_in = area // 4**b * conv.stride**2
                cost += convs_cost([conv], area_in)
        for b, branch in enumerate(choice.branches):
            block = Block.cost(plan, index, branch.width, branch, area // 4**b)
            cost += block.times(choice.depth)
        for outputs in ParallelStage.outputs(plan, index, choice.depth):
            cost += Exchange.cost(area, widths, outputs)
        return cost


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
                convs = [ConvNorm(conv) for conv in self.path(widths, j, i)]
                self.paths[f"{j} to {i}"] = nn.ModuleList(convs)

    @staticmethod
    def path(widths, j, i):
        """The Convs from branch j to branch i. The smaller the number, the finer the features."""
        if j > i:
            return [Conv(widths[j], widths[i])]
        halvings = [Conv(widths[j], widths[j], 3, stride=2)] * (i - j - 1)
        return [*halvings, Conv(widths[j], widths[i], 3, stride=2)]

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
                    x = layer(x, conv)
                    if x.shape[2:] != size:
                        x = F.relu(x) if j < i else F.interpolate(x, size)
                total = total + x
            fused.append(F.relu(total))
        return fused

    @staticmethod
    def cost(area, widths, outputs):
        """Cost of a unit whose branch 1 has `area` positions."""
        cost = Cost()
        for i, j in itertools.product(range(outputs), range(len(widths))):
            if i != j:
                cost += convs_cost(Exchange.path(widths, j, i), area // 4**j)
        return cost


class PoseHead(nn.Module):
    """Deconvolutions up to 1/4 of the image, then a 1x1 convolution to one heatmap a joint.

    This is the head of Simple Baselines (SBL [56]). HRNet has no deconvolutions: its branch 1 works
    at 1/4 from the stem on.
    """

    def __init__(self, in_channels, head, reduction, joints):
        super().__init__()
        self.deconvs = nn.ModuleList()
        while reduction > 4:
            self.deconvs.append(ConvNorm((in_channels, *head), ElasticConvTranspose2d))
            in_channels = head.width
            reduction = reduction // 2
        self.final = ElasticConv2d(in_channels, joints, bias=True)
        # the paper's sigma (Sec. 4.2): heatmaps start near zero, where they mostly are
        nn.init.normal_(self.final.weight, std=0.001)

    def forward(self, x, head):
        """(B, I, h, w) -> heatmaps (B, K, H/4, W/4)."""
        for deconv in self.deconvs:
            x = F.relu(deconv(x, head))  # twice the height and width
        return self.final(x)

    @staticmethod
    def cost(area, in_channels, head, reduction, joints):
        """Cost of a head whose input has `area` positions."""
        cost = Cost()
        # each deconvolution quadruples the positions, for itself already in the paper's count
        while reduction > 4:
            cost += ElasticConvTranspose2d.cost(area, in_channels, *head)
            cost += ElasticBatchNorm2d.cost(head.width)
            in_channels = head.width
            area = 4 * area
            reduction = reduction // 2
        return cost + ElasticConv2d.cost(area, in_channels, joints, bias=True)


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
