"""One weight, many layers (Sec. 3.2, Figs A2-A5).

A super-network holds every network of its search space at once: a layer stores the weights of its largest choice,
and a smaller choice uses a slice of them.

    width   W   the first W filters                                   (Fig. A2)
    groups  g   the first I/g input channels of each filter           (Fig. A3)
    kernel  K   the K x K centre of each filter                       (Fig. A4)
    input   I   the first I input channels; never asked for, it is read from the tensor that comes in

Every layer has one function, `slice`, that cuts the weights of a choice. `forward` computes with the slice, `inherit`
copies it into a smaller layer of the same class. Nothing is written twice, so a finished network gives exactly what
its slice of the super-network gave. The choice is an argument of `forward`; no layer remembers one.

    python elastic.py        # slices of one convolution beside ordinary layers that hold the same numbers
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

def common_groups(groups, in_channels, out_channels):
    """The group number a layer really uses: the largest divisor of `groups` that also divides both sides.
    This is the one rule for group numbers that do not fit (the paper gives none; ours). The spaces offer a block only
    numbers that divide it, so there the rule changes nothing; it acts where a head's first deconvolution is narrower
    than its group number (Table A1: 160 channels in, up to 256 groups)."""
    return math.gcd(groups, in_channels, out_channels)

def centre(weight, kernel):
    """The kernel x kernel centre of filters (..., K, K). Both sizes odd or both even, so nothing shifts (Fig. A4)."""
    margin = (weight.shape[-1] - kernel) // 2
    if margin < 0 or (weight.shape[-1] - kernel) % 2:
        raise ValueError(f"kernel {kernel} cannot be cut from the centre of a {weight.shape[-1]} x {weight.shape[-1]} filter")
    return weight if margin == 0 else weight[..., margin:-margin, margin:-margin]

class Elastic(nn.Module):
    """A layer with a `slice`; `choice` holds the arguments that give the whole of it."""
    def inherit(self, larger):
        """Copy into this layer its slice of a `larger` one."""
        with torch.no_grad():
            for mine, theirs in zip(self.slice(*self.choice), larger.slice(*self.choice)):
                if isinstance(mine, torch.Tensor):  # not a missing bias or a group number
                    mine.copy_(theirs)

class ElasticConv2d(Elastic):
    """A convolution that runs at any width, kernel and group number up to its own. The arguments are the largest choice; so
    `groups` is the smallest group number: the weights are (out_channels, in_channels / groups, kernel, kernel), as in nn.Conv2d.
    """
    def __init__(self, in_channels, out_channels, kernel=1, stride=1, groups=1, bias=False):
        super().__init__()
        groups = common_groups(groups, in_channels, out_channels)
        self.choice = in_channels, self.width, self.kernel, self.groups = in_channels, out_channels, kernel, groups
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        # He initialisation over the fan-out, so that a layer keeps the scale whatever its group number (ours: the
        # paper's sigma = .001 trains too, but starts slowly, and half an hour is all we ask of a laptop)
        nn.init.normal_(self.weight, std=math.sqrt(2 * groups / (out_channels * kernel * kernel)))
    def slice(self, in_channels, width, kernel, groups):
        """Weights (width, in_channels / groups, kernel, kernel), bias (width) or None, and the real group number."""
        groups = common_groups(groups, in_channels, width)
        if in_channels // groups > self.weight.shape[1] or width > self.weight.shape[0]:
            raise ValueError(f"a layer of {self.width} filters over {self.weight.shape[1]} channels a group cannot give "
                             f"{width} filters over {in_channels // groups}")
        weight = centre(self.weight[:width, :in_channels // groups], kernel)
        return weight, None if self.bias is None else self.bias[:width], groups
    def forward(self, x, width=None, kernel=None, groups=None):
        """(B, I, H, W) -> (B, width, H/stride, W/stride), the same size whatever the kernel."""
        kernel = kernel or self.kernel
        weight, bias, groups = self.slice(x.shape[1], width or self.width, kernel, groups or self.groups)
        return F.conv2d(x, weight, bias, self.stride, kernel // 2, groups=groups)

class ElasticConvTranspose2d(Elastic):
    """A stride-2 deconvolution, elastic like `ElasticConv2d`, that doubles the size with kernel 2 or 4.
    PyTorch stores a deconvolution's filters from the input's side, (in_channels, out_channels / groups, kernel, kernel);
    so here it is the first W/g output channels of each input's filter that are kept. Kernel 2 is the centre of 4, and
    the padding (kernel - 2) / 2 puts both on the same output cells."""
    def __init__(self, in_channels, out_channels, kernel=4, groups=1):
        super().__init__()
        groups = common_groups(groups, in_channels, out_channels)
        self.choice = in_channels, self.width, self.kernel, self.groups = in_channels, out_channels, kernel, groups
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, kernel, kernel))
        # each output cell sees kernel^2 / 4 cells of in_channels / groups channels
        nn.init.normal_(self.weight, std=math.sqrt(2 * groups / (in_channels * kernel * kernel / 4)))
    def slice(self, in_channels, width, kernel, groups):
        """Weights (in_channels, width / groups, kernel, kernel) and the real group number."""
        groups = common_groups(groups, in_channels, width)
        if in_channels > self.weight.shape[0] or width // groups > self.weight.shape[1]:
            raise ValueError(f"a deconvolution of {self.weight.shape[0]} channels with {self.weight.shape[1]} filters a group "
                             f"cannot give {in_channels} channels with {width // groups}")
        return centre(self.weight[:in_channels, :width // groups], kernel), groups
    def forward(self, x, width=None, kernel=None, groups=None):
        """(B, I, H, W) -> (B, width, 2H, 2W)."""
        kernel = kernel or self.kernel
        weight, groups = self.slice(x.shape[1], width or self.width, kernel, groups or self.groups)
        return F.conv_transpose2d(x, weight, stride=2, padding=(kernel - 2) // 2, groups=groups)

class ElasticBatchNorm2d(Elastic):
    """Batch norm over the first channels. In training it keeps running statistics of those channels.
    Networks of all sizes share these statistics, and no two agree on them: a candidate's own are measured anew before
    it is judged (`search.recalibrate`)."""
    def __init__(self, channels, momentum=0.1, eps=1e-5):
        super().__init__()
        self.choice, self.momentum, self.eps = (channels,), momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
    def slice(self, channels):
        """Mean, variance, scale and shift of the first channels: views, so that running statistics update in place."""
        return self.running_mean[:channels], self.running_var[:channels], self.weight[:channels], self.bias[:channels]
    def forward(self, x):  # (B, C, H, W) -> the same
        mean, var, weight, bias = self.slice(x.shape[1])
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)

class ElasticLayerNorm(Elastic):
    """Layer norm over the first channels of (B, C, 1, 1)."""
    def __init__(self, channels):
        super().__init__()
        self.choice = (channels,)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
    def slice(self, channels):
        """Scale and shift of the first channels."""
        return self.weight[:channels], self.bias[:channels]
    def forward(self, x):  # (B, C, 1, 1) -> the same
        weight, bias = self.slice(x.shape[1])
        return F.layer_norm(x.flatten(1), (x.shape[1],), weight, bias)[:, :, None, None]

class GlobalContext(nn.Module):
    """The GC block [4] of the ResNet space: one context vector, pooled by attention, added to every position.
    The bottleneck has max(C / 16, 16) channels, so it shrinks with the features it is given."""
    def __init__(self, channels):
        super().__init__()
        hidden = self.hidden(channels)
        self.mask = ElasticConv2d(channels, 1, bias=True)
        self.reduce = ElasticConv2d(channels, hidden, bias=True)
        self.norm = ElasticLayerNorm(hidden)
        self.expand = ElasticConv2d(hidden, channels, bias=True)
        nn.init.zeros_(self.expand.weight)  # starts as the identity: choosing attention changes nothing at first (ours)
    @staticmethod
    def hidden(channels):
        return max(channels // 16, 16)
    def forward(self, x):  # (B, C, H, W) -> the same
        channels = x.shape[1]
        where = self.mask(x).flatten(2).softmax(-1)  # (B, 1, HW)
        context = torch.einsum("bcp,bop->bc", x.flatten(2), where)[:, :, None, None]  # (B, C, 1, 1)
        context = F.relu(self.norm(self.reduce(context, self.hidden(channels))))
        return x + self.expand(context, channels)

class SqueezeExcite(nn.Module):
    """The SE block [16] of the MobileNet-V3 space: a gate for every channel, from the mean of all of them.
    Reduction 4, ReLU, then the hard sigmoid (x + 1) / 2 clipped to [0, 1]."""
    def __init__(self, channels):
        super().__init__()
        self.reduce = ElasticConv2d(channels, channels // 4, bias=True)
        self.expand = ElasticConv2d(channels // 4, channels, bias=True)
    def forward(self, x):  # (B, C, H, W) -> the same
        channels = x.shape[1]
        gate = F.relu(self.reduce(x.mean((2, 3), keepdim=True), channels // 4))
        return x * ((self.expand(gate, channels) + 1) / 2).clamp(0, 1)

def demonstrate():
    """One convolution of 32 filters; every choice of it against `torch.nn.Conv2d` holding the slice."""
    layer, x = ElasticConv2d(32, 32, kernel=7, groups=2), torch.randn(1, 24, 16, 12)
    print(f"one elastic convolution, weights {tuple(layer.weight.shape)}, on {tuple(x.shape)} features\n\n"
          "width  kernel  groups   slice              output               largest difference to nn.Conv2d")
    for width, kernel, groups in [(32, 7, 2), (32, 3, 2), (16, 5, 2), (16, 5, 8), (24, 3, 24)]:
        weight, _, g = layer.slice(24, width, kernel, groups)
        plain = nn.Conv2d(24, width, kernel, padding=kernel // 2, groups=g, bias=False)
        plain.weight.data.copy_(weight)
        out = layer(x, width, kernel, groups)
        difference = (out - plain(x)).abs().max().item()
        print(f"{width:5}  {kernel:6}  {groups:6}   {str(tuple(weight.shape)):18} {str(tuple(out.shape)):20} {difference:.1e}")

if __name__ == "__main__":
    demonstrate()
