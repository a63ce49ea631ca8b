"""The search spaces, what an architecture is, the pose networks over them, what they cost, and the video estimator.

    Arch       one network, written down: a value that is passed, never a state that is set
    Space      the networks that may be chosen (Tables A1-A3), and `within`: those inside a found one (Sec. 3.4.2)
    PoseNet    the network itself. Over a space with many architectures it is a super-network, over one a finished network
    cost       parameters, multiply-adds and the paper's GFLOPs, counted from the network's own parts
    deploy     a finished network made fast; Clock: how long any architecture will take on this machine, without making it
    VideoPose  a key-frame network and its T non-key networks, run on a video (Fig. 2)

    python vipnas.py                                 # all architectures beside the paper's numbers, and the spaces
    python vipnas.py --arch NAME_OR_FILE --picture a.png         # one architecture: its parts, their cost, a diagram (Fig. 5)
    python vipnas.py --checkpoint runs/t/vipnas_t.pt --picture t.png      # the same for all frames of a finished estimator
    python vipnas.py --benchmark --checkpoint runs/t/vipnas_t.pt          # how fast deployed networks are
    python vipnas.py --video DIR --checkpoint runs/t/vipnas_t.pt --box x,y,w,h --out DIR
"""
import argparse, contextlib, copy, importlib, json, math, os, pathlib, pickle, re, sys, tempfile, time, warnings
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import Callable, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn
from torch.overrides import TorchFunctionMode

from elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d, GlobalContext, SqueezeExcite, common_groups
from fusion import OPERATIONS, TemporalFusion

# ---------------------------------------------------------------------------------------------- what stays fixed
@dataclass(frozen=True)
class Backbone:
    """What the search leaves alone: blocks, strides, activations (one entry a stage), kind of stem and of attention."""
    blocks: tuple         # "bottleneck", "basic" (ResNet) or "mobile" (MobileNet-V3)
    strides: tuple
    activations: tuple
    stem_kernel: int
    stem_activation: Callable
    stem_second: str      # after the stride-2 stem convolution: a 3x3 stride-2 "pool" (maximum) or "conv", or nothing
    attention: type
    image_size: tuple = (256, 192)   # height, width it is meant for
    modules: tuple = (1,) * 6   # blocks a stage can grow by. Where several (HRNet), stage n has n branches, each at
                                # half the resolution of the one before, and they exchange features after every module
    def reduction(self, count=None):
        """Image pixels to a cell of branch 1 after so many stages, or all; from there the head doubles until it is back at 4."""
        return (4 if self.stem_second else 2) * math.prod(self.strides[:count])

RELU, HSWISH = F.relu, F.hardswish
BACKBONES = {
    # stage 1 of ResNet works at 1/4 (stride 1), though Table A2 prints 1/8: so do the released weights
    "resnet50": Backbone(("bottleneck",) * 4, (1, 2, 2, 2), (RELU,) * 4, 7, RELU, "pool", GlobalContext),
    "resnet18": Backbone(("basic",) * 4, (1, 2, 2, 2), (RELU,) * 4, 7, RELU, "pool", GlobalContext),
    "mobilenetv3": Backbone(("mobile",) * 6, (1, 2, 2, 2, 1, 2), (RELU,) * 3 + (HSWISH,) * 3, 3, HSWISH, "", SqueezeExcite),
    "hrnet_w32": Backbone(("bottleneck",) + ("basic",) * 3, (1,) * 4, (RELU,) * 4, 3, RELU, "conv", SqueezeExcite,
                          modules=(1, 4, 4, 4)),
    # ours, for two CPU cores: MobileNet-V3's blocks; h-swish only where the features are small
    "tiny": Backbone(("mobile",) * 4, (2, 2, 2, 1), (RELU,) * 2 + (HSWISH,) * 2, 3, RELU, "", SqueezeExcite, (128, 96)),
}

# ---------------------------------------------------------------------------------------------- an architecture
class Branch(NamedTuple):
    """What the blocks of one stage look like (of one branch of it, where stages have several); width is what comes out."""
    width: int
    kernel: int = 3
    groups: int = 1
    attention: bool = False
    expansion: int = 1
    def hidden(self, kind):
        """Channels of the middle convolution, the one whose kernel and groups are searched (a basic block's expansion is 1)."""
        return self.width * self.expansion if kind == "mobile" else self.width // self.expansion

class Stage(NamedTuple):
    """`depth` equal blocks in each branch."""
    depth: int
    branches: tuple

class Head(NamedTuple):
    """The deconvolutions; a 1x1 convolution to the heatmaps always follows."""
    width: int
    kernel: int = 4
    groups: int = 1

class Fusion(NamedTuple):
    """Where (stage, from 1: the paper's F_1, F_2, ...) and how the last frame's heatmaps come in."""
    stage: int
    operation: str

@dataclass(frozen=True)
class Arch:
    """One architecture; hashable, can be written by hand. Raises ValueError, in a sentence, for anything that is no network."""
    backbone: str
    stem: int
    stages: tuple
    head: Optional[Head]    # None where the last stage works at 1/4 already (HRNet)
    fusion: Optional[Fusion] = None    # a key frame has none
    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"there is no backbone '{self.backbone}'; choose one of {', '.join(BACKBONES)}")
        name, plan = self.backbone, BACKBONES[self.backbone]
        count, branches = len(plan.strides), [b for s in self.stages for b in s.branches]
        if len(self.stages) != count:
            raise ValueError(f"{name} has {count} stages, this architecture {len(self.stages)}")
        parallel, headless = [i if m > 1 else 1 for i, m in enumerate(plan.modules[:count], 1)], plan.reduction() == 4
        if [len(s.branches) for s in self.stages] != parallel or (self.head is None) != headless:
            raise ValueError(f"{name} has {str(parallel)[1:-1]} branches in its stages, and {'no ' * headless}deconvolutions")
        numbers = [self.stem, *(self.head or ()), *(s.depth for s in self.stages)]
        numbers += [n for b in branches for n in (*b[:3], b.expansion)]
        if {*map(type, numbers)} != {int} or min(numbers) < 1:
            raise ValueError("depth, width, kernel, groups and expansion of an architecture are whole numbers above zero")
        if any(b.kernel % 2 == 0 for b in branches) or self.head and self.head.kernel not in (2, 4):
            raise ValueError("kernels are odd in the stages, and 2 or 4 in the head")
        for i, (kind, step, s) in enumerate(zip(plan.blocks, plan.modules, self.stages), 1):
            if s.depth % step:
                raise ValueError(f"stage {i} of {name} consists of modules of {step} blocks, so {s.depth} is no depth of it")
            if any(kind == "basic" and b.expansion > 1 or kind == "bottleneck" and b.width % b.expansion for b in s.branches):
                raise ValueError("the expansion of a basic block is 1, that of a bottleneck divides its width")
        if self.fusion and not (self.fusion.stage in range(1, count + 1) and self.fusion.operation in OPERATIONS):
            raise ValueError(f"a fusion names a stage from 1 to {count} and one of {', '.join(OPERATIONS)}, not {self.fusion}")
    def __str__(self):
        name = lambda b: f"{b.width} k{b.kernel} g{b.groups} e{b.expansion}{' att' * b.attention}"
        parts = [f"{self.backbone}: {self.stem}"] + [f"{s.depth} x " + " / ".join(map(name, s.branches)) for s in self.stages]
        parts += [f"head {self.head.width} k{self.head.kernel} g{self.head.groups}"] if self.head else []
        return " | ".join(parts + ([f"{self.fusion.operation} after stage {self.fusion.stage}"] if self.fusion else []))
    def to_json(self):
        """One line of JSON that `from_json` reads back to an equal Arch."""
        stages = [{"depth": s.depth, "branches": [b._asdict() for b in s.branches]} for s in self.stages]
        head, fusion = (x and x._asdict() for x in (self.head, self.fusion))
        return json.dumps({"backbone": self.backbone, "stem": self.stem, "stages": stages, "head": head, "fusion": fusion})
    @staticmethod
    def from_json(text):
        """The Arch in `text`. Raises ValueError, in a sentence, if it holds none."""
        try:
            d = json.loads(text)
            stages = tuple(Stage(s["depth"], tuple(Branch(**b) for b in s["branches"])) for s in d["stages"])
            head, fusion = (kind(**d[key]) if d.get(key) else None for kind, key in ((Head, "head"), (Fusion, "fusion")))
            return Arch(d["backbone"], d["stem"], stages, head, fusion)
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not an architecture's JSON ({type(error).__name__}: {error})") from None

# ---------------------------------------------------------------------------------------------- a search space
class Row(NamedTuple):
    """One line of Tables A1-A3: the choices of a stage's (or branch's) blocks, or of the head."""
    width: tuple
    kernel: tuple
    groups: tuple            # candidates; a block can take those that divide its hidden width
    attention: tuple = (False,)
    expansion: tuple = (1,)
    per_group: int = 10 ** 9        # most channels a group may have: what the shared filters can give
    per_group_first: int = 10 ** 9  # the same for a head's first deconvolution, whose input has another width
    @lru_cache(maxsize=None)
    def choices(self, backbone, kind, in_channels=0):
        """Every valid `kind` of this line: Branch, or Head over `in_channels`; its first deconvolution may use fewer groups. A
        line with a single choice stands as it is, whatever it divides."""
        found = [Branch(*values) for values in product(*self[:5])]  # of a head, attention and expansion are the defaults
        if len(found) > 1:
            hidden = [b.hidden(BACKBONES[backbone].blocks[0]) for b in found]
            found = [b for b, h in zip(found, hidden) if h % b.groups == 0 and h // b.groups <= self.per_group
                     and h // math.gcd(b.groups, in_channels) <= self.per_group_first]
        return tuple(kind(*b[:len(kind._fields)]) for b in found)

def _size_of(choice):
    """Order of choices from small to large: width, expansion, kernel, then fewer groups, then attention. Fusions are alike."""
    b = Branch(*choice) if isinstance(choice, (Branch, Head)) else Branch(choice if isinstance(choice, int) else 0)
    return b.width, b.expansion, b.kernel, -b.groups, b.attention

@dataclass(frozen=True)
class Space:
    """The architectures a search may choose from: all blocks of a stage share their choice (Sec. A.2)."""
    backbone: str
    stem: tuple
    depth: tuple                # for each stage: its depths
    rows: tuple                 # for each stage: a Row for each branch
    head: Optional[Row]
    image_size: tuple = (256, 192)   # height, width the budgets are counted at
    fusions: tuple = (None,)
    @staticmethod
    def of(arch, image_size=None):
        """The space that holds one architecture: over it, a PoseNet is a finished network."""
        row = lambda choice: Row(*((value,) for value in choice))
        rows = tuple(tuple(map(row, s.branches)) for s in arch.stages)
        return Space(arch.backbone, (arch.stem,), tuple((s.depth,) for s in arch.stages), rows, arch.head and row(arch.head),
                     image_size or BACKBONES[arch.backbone].image_size, (arch.fusion,))
    def _heads(self, branch):
        """The heads over the last stage, of which they see branch 1."""
        return self.head.choices(self.backbone, Head, branch.width) if self.head else (None,)
    def _build(self, choose):
        """An Arch from `choose(list of choices) -> choice`, asked once for every decision."""
        stages = tuple(Stage(choose(depth), tuple(choose(row.choices(self.backbone, Branch)) for row in rows))
                       for depth, rows in zip(self.depth, self.rows))
        head = choose(self._heads(stages[-1].branches[0]))
        return Arch(self.backbone, choose(self.stem), stages, head, choose(self.fusions))
    def smallest(self):
        """The least of everything: depth, width, expansion, kernel, most groups, no attention; the first fusion."""
        return self._build(lambda choices: min(choices, key=_size_of))
    def largest(self):
        """The most of everything; every other network of the space is a slice of this one."""
        return self._build(lambda choices: max(choices, key=_size_of))
    def sample(self, rng):
        """A random Arch, from a `random.Random`."""
        return self._build(rng.choice)
    def __contains__(self, arch):
        return (arch.backbone == self.backbone and arch.stem in self.stem and arch.fusion in self.fusions
                and all(s.depth in depth and all(b in row.choices(self.backbone, Branch) for b, row in zip(s.branches, rows))
                        for s, depth, rows in zip(arch.stages, self.depth, self.rows))
                and arch.head in self._heads(arch.stages[-1].branches[0]))
    def size(self):
        """How many architectures there are (a Python int: it does not fit a float)."""
        branches = [[row.choices(self.backbone, Branch) for row in rows] for rows in self.rows]
        ends = sum(len(self._heads(branch)) for branch in branches[-1].pop(0))  # the one that the head sees, with the head
        return ends * math.prod(map(len, [self.stem, self.fusions, *self.depth, *sum(branches, [])]))
    def within(self, arch, fusions=None):
        """The space of everything not larger than `arch`: how a found S-ViPNAS becomes the T super-network (Sec. 3.4.2), with a
        fusion after any stage by any operation, or the `fusions` given. The paper does not say how small T networks get; ours:
        depth down to 1 (block, or module of HRNet), searched widths down to half in the table's steps, kernels down to the
        table's least, no fewer groups than keep a group's channels, attention only where `arch` has it."""
        if arch.backbone != self.backbone:
            raise ValueError(f"a {arch.backbone} architecture does not lie in the space {self.backbone}")
        rows = tuple(tuple(map(self._inside, rows, s.branches)) for rows, s in zip(self.rows, arch.stages))
        head, every = None, tuple(Fusion(s, o) for s in range(1, len(rows) + 1) for o in OPERATIONS)
        if arch.head:
            first = common_groups(arch.head.groups, arch.stages[-1].branches[0].width, arch.head.width)
            head = self._inside(self.head, Branch(*arch.head))._replace(per_group_first=arch.head.width // first)
        depth = tuple(steps(step, s.depth, step) for step, s in zip(BACKBONES[self.backbone].modules, arch.stages))
        return replace(self, stem=_down(self.stem, arch.stem), depth=depth, rows=rows, head=head, fusions=fusions or every)
    def _inside(self, row, branch):
        return Row(_down(row.width, branch.width), tuple(range(min(row.kernel[0], branch.kernel), branch.kernel + 1, 2)),
                   tuple(sorted({*row.groups, branch.groups})), BOTH if branch.attention else (False,),
                   tuple(e for e in row.expansion[:-1] if e < branch.expansion) + (branch.expansion,),
                   branch.hidden(BACKBONES[self.backbone].blocks[0]) // branch.groups)

def _down(table, width):
    """Widths from half of `width` up to it, in the steps of the table; a width the table does not search stays."""
    step = table[1] - table[0] if len(table) > 1 else width
    return steps(width - width // 2 // step * step, width, step)

def steps(low, high, step=16):
    """low, low + step, ..., high."""
    return tuple(range(low, high + 1, step))

BOTH = (False, True)
SPACES = {
    # Table A2. Steps (Sec. A.2): depth 1, width 16, kernel 2, groups 16
    "resnet50": Space(
        "resnet50", stem=steps(32, 64), depth=((3, 4), (4, 5, 6), (6, 7, 8), (3, 4)),
        rows=tuple((Row(steps(*ends), (3, 5), steps(16, 64), BOTH),) for ends in ((64, 80), (128, 160), (256, 320), (512, 640))),
        head=Row(steps(64, 256), (4,), steps(16, 64))),
    # Table A1. Groups: every number of the printed range, 3/8 to 6 times the width, that divides the block's hidden width
    "mobilenetv3": Space(
        "mobilenetv3", stem=(16,), depth=((1,),) + ((2, 3, 4),) * 5, head=Row((256,), (4,), steps(32, 256, 1)),
        rows=((Row((16,), (3,), steps(2, 16, 1), BOTH),),) + tuple(
            (Row((w,), (3, 5, 7), steps(3 * w // 8, 6 * w, 1), BOTH, (3, 4, 5, 6)),) for w in (24, 40, 80, 112, 160))),
    # Table A3. Width steps: a quarter of each printed maximum (8, 16, 32, 64; ours). The Bottlenecks of stage 1 print their
    # middle width, 16 to 64; four times that comes out
    "hrnet_w32": Space(
        "hrnet_w32", stem=steps(16, 64), depth=((2, 3, 4), (4,), (8, 12, 16), (8, 12)), head=None,
        rows=((Row(steps(64, 256, 64), (3,), steps(1, 16, 1), BOTH, (4,)),),) + tuple(
            tuple(Row(steps(w // 4, w, w // 4), (3,), steps(1, w, 1), BOTH) for w in widths)
            for widths in ((32, 64), (32, 64, 128), (32, 64, 128, 256)))),
    # ours: MobileNet-V3 shaped, small enough to train on two CPU cores in minutes
    "tiny": Space(
        "tiny", stem=(16,), depth=((1, 2), (1, 2), (1, 2, 3), (1, 2)), head=Row((48,), (4,), (8,)), image_size=(128, 96),
        rows=((Row((24,), (3,), (24, 48), (False,), (1, 2), per_group=1),),
              (Row(steps(32, 48), (3, 5), (64, 96, 144), BOTH, (2, 3), per_group=1),),
              (Row(steps(48, 64), (3, 5), (48, 64, 72, 96, 128, 144, 192), BOTH, (2, 3), per_group=2),),
              (Row((64,), (3, 5), (128, 192), BOTH, (2, 3), per_group=1),))),
}

def serial(backbone, stem, rows, head, fusion=None):
    """An Arch with one branch a stage, from rows (depth, width, kernel, groups, attention, expansion); two are enough."""
    return Arch(backbone, stem, tuple(Stage(depth, (Branch(*row),)) for depth, *row in rows), Head(*head), fusion)

ARCHS = {
    # the two networks the authors released
    "s_vipnas_resnet50": serial(
        "resnet50", 48, [(4, 80, 3, 16, True), (6, 160, 5, 16), (7, 304, 5, 16, True), (3, 608, 5, 16, True)], (144, 4, 16)),
    "s_vipnas_mobilenetv3": serial(
        "mobilenetv3", 16, [(1, 16, 3, 8, True, 1), (4, 24, 7, 120, True, 5), (4, 40, 7, 20, False, 4), (4, 80, 5, 100, True, 5),
                            (4, 112, 7, 280, True, 5), (4, 160, 5, 240, True, 6)], (160, 4, 160)),
    # made by hand: Simple Baselines [56] and HRNet [49]
    "sbl_resnet18": serial("resnet18", 64, [(2, 64), (2, 128), (2, 256), (2, 512)], (256,)),
    "sbl_resnet50": serial("resnet50", 64, [(d, 256 * 2 ** i, 3, 1, False, 4) for i, d in enumerate((3, 4, 6, 3))], (256,)),
    "hrnet_w32": Arch("hrnet_w32", 64, (Stage(4, (Branch(256, expansion=4),)),) + tuple(
        Stage(depth, tuple(Branch(32 * 2 ** b) for b in range(count))) for count, depth in ((2, 4), (3, 16), (4, 12))), None),
}

# ---------------------------------------------------------------------------------------------- the network's parts
class Stem(nn.Module):
    """A stride-2 convolution, batch norm, activation; then a stride-2 max pool (ResNet) or all of it again (HRNet)."""
    def __init__(self, backbone, width):
        super().__init__()
        self.plan = BACKBONES[backbone]
        self.conv, self.norm = ElasticConv2d(3, width, self.plan.stem_kernel, stride=2), ElasticBatchNorm2d(width)
        if self.plan.stem_second == "conv":
            self.conv2, self.norm2 = ElasticConv2d(width, width, 3, stride=2), ElasticBatchNorm2d(width)
    def forward(self, x, width=None):  # (B, 3, H, W) -> (B, width, H/2, W/2), or H/4, W/4 with pool or second convolution
        x = self.plan.stem_activation(self.norm(self.conv(x, width)))
        if self.plan.stem_second == "conv":
            x = self.plan.stem_activation(self.norm2(self.conv2(x, width)))
        return F.max_pool2d(x, 3, 2, 1) if self.plan.stem_second == "pool" else x

class Block(nn.Module):
    """One block of a stage. Every convolution has batch norm; between them is the activation. K x K is the grouped one.

        bottleneck   1x1, K x K (stride), 1x1, attention; skip added; activation                                  (ResNet)
        basic        K x K (stride), K x K, attention; skip added; activation                                     (ResNet)
        mobile       1x1 (absent at ratio 1), K x K (stride), attention, 1x1; a skip where the shape stays   (MobileNet-V3)

    ResNet's skip is a strided 1x1 convolution where the shape changes. In a super-network that depends on the widths
    chosen, so a first block owns one (`projects`) and the shapes decide whether it is used."""
    def __init__(self, kind, in_channels, branch, stride, activation, attention, projects):
        super().__init__()
        self.kind, self.branch, self.stride, self.activation = kind, branch, stride, activation
        self.attended = 3 if kind == "bottleneck" else 2  # number of the convolution after which attention comes
        strided, channels = 1 if kind == "basic" else 2, in_channels
        for i, (width, kernel, groups) in self.convolutions(in_channels, branch).items():
            self.add_module(f"conv{i}", ElasticConv2d(channels, width, kernel, stride if i == strided else 1, groups))
            self.add_module(f"norm{i}", ElasticBatchNorm2d(width))
            if i == self.attended and branch.attention:
                self.attention = attention(width)
            channels = width
        if kind != "mobile" and (projects or stride > 1 or in_channels != branch.width):
            self.project, self.project_norm = ElasticConv2d(in_channels, channels, 1, stride), ElasticBatchNorm2d(channels)
    def convolutions(self, in_channels, branch):
        """{number: (width, kernel, groups)} of the convolutions that `branch` asks for: what is made, and what is run."""
        if self.kind == "basic":
            return {1: branch[:3], 2: branch[:3]}
        hidden = branch.hidden(self.kind)
        found = {1: (hidden, 1, 1), 2: (hidden, branch.kernel, branch.groups), 3: (branch.width, 1, 1)}
        if self.kind == "mobile" and branch.expansion == 1 and hidden == in_channels:
            del found[1]
        return found
    def forward(self, x, branch=None):  # (B, I, H, W) -> (B, width, H/stride, W/stride)
        branch, y = branch or self.branch, x
        convolutions = self.convolutions(x.shape[1], branch)
        for i, choice in convolutions.items():
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y, *choice))
            if i < max(convolutions):
                y = self.activation(y)
            if i == self.attended and branch.attention:
                y = self.attention(y)
        same = self.stride == 1 and x.shape[1] == branch.width
        if self.kind == "mobile":
            return x + y if same else y
        return self.activation(y + (x if same else self.project_norm(self.project(x, branch.width))))

class Rescale(nn.Module):
    """Convolution and batch norm between branches of HRNet: 3x3 at stride 1 or 2, or 1x1."""
    def __init__(self, in_channels, width, kernel, stride=1):
        super().__init__()
        self.stride, self.conv, self.norm = stride, ElasticConv2d(in_channels, width, kernel, stride), ElasticBatchNorm2d(width)
    def forward(self, x, width=None):  # (B, I, H, W) -> (B, width, H/stride, W/stride)
        return self.norm(self.conv(x, width))

class Exchange(nn.Module):
    """HRNet's exchange unit [49]: each branch becomes the sum of all branches, brought to its width and size; then ReLU.
    From a coarser branch that is a 1x1 convolution and nearest-neighbour enlargement; from a finer one a stride-2 3x3
    convolution for every halving, ReLU between them, of which the last changes the width. paths[i][j] leads from j to i."""
    def __init__(self, widths, outputs):
        super().__init__()
        path = lambda i, j: ([Rescale(widths[j], widths[i], 1)] if j > i else
                             [Rescale(widths[j], widths[i if k == i - 1 else j], 3, 2) for k in range(j, i)])
        self.paths = nn.ModuleList(nn.ModuleList(nn.ModuleList(path(i, j)) for j in range(len(widths))) for i in range(outputs))
    def forward(self, *xs, outputs=None):
        """Features of all branches -> those of the first `outputs` of them (default: of as many as it was made for)."""
        fused = []
        for target, row in zip(xs[:outputs], self.paths):
            total = target
            for x, path in zip(xs, row):
                for k, layer in enumerate(path, 1):
                    x = layer(F.relu(x) if k > 1 else x, target.shape[1] if k == len(path) else x.shape[1])
                if len(path):  # else x is the target itself
                    total = total + (x if x.shape == target.shape else F.interpolate(x, target.shape[2:]))
            fused.append(F.relu(total))
        return fused

class PoseHead(nn.Module):
    """Deconvolutions (batch norm, ReLU) up to 1/4 of the image, if it is not there yet, then a 1x1 convolution to K heatmaps."""
    def __init__(self, in_channels, head, reduction, joints):
        super().__init__()
        self.head = head
        *ins, last = [in_channels] + [head.width for _ in range(int(math.log2(reduction // 4)))]
        self.deconvs = nn.ModuleList(ElasticConvTranspose2d(i, head.width, head.kernel, head.groups) for i in ins)
        self.norms = nn.ModuleList(ElasticBatchNorm2d(head.width) for _ in ins)
        self.final = ElasticConv2d(last, joints, bias=True)
        nn.init.normal_(self.final.weight, std=0.001)  # the paper's sigma: heatmaps start near zero, where they mostly are
    def forward(self, x, head=None):  # (B, I, h, w) -> (B, K, H/4, W/4)
        head = head or self.head
        for deconv, norm in zip(self.deconvs, self.norms):
            x = F.relu(norm(deconv(x, head.width, head.kernel, head.groups)))
        return self.final(x)

class Part(NamedTuple):
    """A module that is still to be made. PoseNet makes it, `cost` counts it: no second description of a network is needed."""
    kind: type
    arguments: tuple
    inputs: tuple    # (channels, reduction) of each input
    def make(self):
        return self.kind(*self.arguments)

def branch_parts(backbone, index, b, in_channels, branch, depth, elastic=False):
    """Branch `b` of stage `index` (both from 0): its `depth` blocks, then the transition before them, where it has one.
    in_channels: width of the same branch in the stage before, or of the coarsest one there for a new branch."""
    plan, transition = BACKBONES[backbone], []
    stride, reduction = plan.strides[index], plan.reduction(index) * 2 ** b
    if plan.modules[index] > 1:  # parallel branches change width and size in the transition, others in their first block
        shrink = 2 if b == index else 1
        if elastic or shrink > 1 or in_channels != branch.width:
            transition = [Part(Rescale, (in_channels, branch.width, 3, shrink), ((in_channels, reduction // shrink),))]
        in_channels = branch.width
    kind, rest = plan.blocks[index], (plan.activations[index], plan.attention)
    first = Part(Block, (kind, in_channels, branch, stride, *rest, elastic), ((in_channels, reduction),))
    other = Part(Block, (kind, branch.width, branch, 1, *rest, False), ((branch.width, reduction * stride),))
    return [first] + [other] * (depth - 1) + transition

def exchange_parts(backbone, index, widths, depth):
    """The exchange units of a stage with parallel branches, one after each module. The very last keeps branch 1, for the head."""
    plan, count = BACKBONES[backbone], len(widths)
    outputs = [count] * (depth // plan.modules[index] - 1) + [1 if index == len(plan.strides) - 1 else count]
    inputs = tuple((width, plan.reduction(index) * 2 ** b) for b, width in enumerate(widths))
    return [Part(Exchange, (widths, n), inputs) for n in outputs if count > 1]

@lru_cache(maxsize=2 ** 17)
def _stage_lists(backbone, index, ins, stage, *elastic):
    """Calls (function, *arguments) for the parts of each branch and the exchanges; ins: widths of the stage before's branches."""
    branches = [(branch_parts, backbone, index, b, in_channels, branch, stage.depth, *elastic)
                for b, (branch, in_channels) in enumerate(zip(stage.branches, ins + ins[-1:]))]
    return branches + [(exchange_parts, backbone, index, tuple(b.width for b in stage.branches), stage.depth)]

class PoseNet(nn.Module):
    """A pose network: images (B, 3, H, W), H and W multiples of its total stride (32; tiny 16) -> heatmaps (B, joints, H/4, W/4).
    Over a Space it is a super-network and each call names the architecture; over an Arch a finished network, which needs none."""
    def __init__(self, space_or_arch, joints=17):
        super().__init__()
        space = Space.of(space_or_arch) if isinstance(space_or_arch, Arch) else space_or_arch
        largest, elastic = space.largest(), space.size() > 1
        self.space, self.joints, self.arch = space, joints, None if elastic else largest
        self.stem = Stem(space.backbone, largest.stem)
        self.stages, self.transitions, self.exchanges, ins = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict(), (largest.stem,)
        for i, stage in enumerate(largest.stages):
            lists = _stage_lists(space.backbone, i, ins, stage, elastic)
            *branches, exchanges = ([part.make() for part in parts(*arguments)] for parts, *arguments in lists)
            self.stages.append(nn.ModuleList(nn.ModuleList(modules[:stage.depth]) for modules in branches))
            self.transitions.update({f"{i}_{b}": m for b, modules in enumerate(branches) for m in modules[stage.depth:]})
            self.exchanges.update({f"{i}_{k}": m for k, m in enumerate(exchanges)})
            ins = tuple(branch.width for branch in stage.branches)
        fusions = {i: tuple(o for o in OPERATIONS if Fusion(i, o) in space.fusions) for i in range(1, len(largest.stages) + 1)}
        self.fusions = nn.ModuleDict({str(i): TemporalFusion(joints, largest.stages[i - 1].branches[0].width, operations)
                                      for i, operations in fusions.items() if operations})
        self.head = PoseHead(ins[0], largest.head, BACKBONES[space.backbone].reduction(), joints)
    def forward(self, images, arch=None, heatmaps=None):
        """heatmaps: (B, joints, H/4, W/4) of the last frame; an architecture with a fusion needs them."""
        arch = arch or self.arch
        if arch is None:
            raise ValueError("a super-network holds many networks: name one, net(images, arch)")
        if arch.fusion and heatmaps is None:
            raise ValueError("this architecture fuses the last frame's heatmaps: call net(images, arch, heatmaps)")
        xs = [self.stem(images, arch.stem)]  # features of every branch
        for i, (stage, module) in enumerate(zip(arch.stages, BACKBONES[self.space.backbone].modules)):
            if stage.depth > len(self.stages[i][0]):
                raise ValueError(f"stage {i + 1} has {len(self.stages[i][0])} blocks, not {stage.depth}")
            xs = xs + xs[-1:] * (len(stage.branches) - len(xs))  # a new branch starts from the coarsest one
            for b, (x, branch) in enumerate(zip(xs, stage.branches)):
                transition = getattr(self.transitions, f"{i}_{b}", None)
                if transition and (transition.stride > 1 or x.shape[1] != branch.width):
                    xs[b] = F.relu(transition(x, branch.width))
            for start in range(0, stage.depth, module):
                for b, branch in enumerate(stage.branches):
                    for block in self.stages[i][b][start:start + module]:
                        xs[b] = block(xs[b], branch)
                if len(xs) > 1:
                    last = i == len(self.stages) - 1 and start + module == stage.depth
                    xs = self.exchanges[f"{i}_{start // module}"](*xs, outputs=1 if last else None)
            if arch.fusion and arch.fusion.stage == i + 1:  # into branch 1, at 1/4
                xs[0] = self.fusions[str(i + 1)](xs[0], heatmaps, arch.fusion.operation)
        return self.head(xs[0], arch.head)
    def extract(self, arch):
        """The finished network of `arch`, with copies of its slices: the same outputs as `self(images, arch)`."""
        net = PoseNet(Space.of(arch, self.space.image_size), self.joints).to(next(self.parameters()).device)
        return net.inherit(self).train(self.training)
    def inherit(self, larger):
        """Take over every slice that `larger` holds; parts it lacks (fresh fusions) stay as they are. Returns self."""
        theirs = dict(larger.named_modules())
        for name, layer in self.named_modules():
            if name in theirs and hasattr(layer, "slice"):
                layer.inherit(theirs[name])
        return self

# ---------------------------------------------------------------------------------------------- what it costs
class Cost(NamedTuple):
    """params; macs = true multiply-adds; gflops = the paper's: sum of weights x output positions, over 2^30. They differ by
    more than the unit: the paper counts a stride-2 deconvolution at its *output* resolution, truly it costs a quarter of that."""
    params: int
    macs: int
    gflops: float

class Unfilled(TorchFunctionMode):
    """In it, weights are made without drawing their first values: most of the time that a new module takes."""
    def __torch_function__(self, function, types, arguments=(), named=None):
        return None if function is nn.init.normal_ else function(*arguments, **(named or {}))

@lru_cache(maxsize=None)
def _part_cost(part, image_size):
    """Cost of one part: build it uninitialised, send an empty batch through, count what every convolution would do."""
    height, width = image_size
    macs = outputs = 0
    def count(layer, inputs, output):
        nonlocal macs, outputs
        area_in, area_out = math.prod(inputs[0].shape[2:]), math.prod(output.shape[2:])
        if isinstance(layer, GlobalContext):  # its pooling is a matrix product: a multiply-add for every feature
            macs += output.shape[1] * area_out
        else:
            macs += layer.weight.numel() * (area_in if isinstance(layer, ElasticConvTranspose2d) else area_out)
            outputs += layer.weight.numel() * area_out
    with Unfilled():
        module = part.make().eval()
    for layer in module.modules():
        if isinstance(layer, (ElasticConv2d, ElasticConvTranspose2d, GlobalContext)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(*(torch.empty(0, channels, height // r, width // r) for channels, r in part.inputs))
    return Cost(sum(p.numel() for p in module.parameters()), macs, outputs / 2 ** 30)

def _sum(costs):
    return Cost(*map(sum, zip((0, 0, 0.), *costs)))

@lru_cache(maxsize=2 ** 17)
def _parts_cost(image_size, parts, *arguments):
    """Cost of all that `parts` (`branch_parts`, `exchange_parts` or `_end_parts`) lists."""
    return _sum(_part_cost(part, image_size) for part in parts(*arguments))

def _end_parts(backbone, stem, last, head, fusion, fused, joints):
    """Stem, head and fusion; last, fused: channels that the head and the fusion see."""
    plan, end = BACKBONES[backbone], BACKBONES[backbone].reduction()
    parts = [Part(Stem, (backbone, stem), ((3, 1),)), Part(PoseHead, (last, head, end, joints), ((last, end),))]
    if fusion:
        inputs = (fused, plan.reduction(fusion.stage)), (joints, 4)
        parts.append(Part(TemporalFusion, (joints, fused, (fusion.operation,)), inputs))
    return parts

@lru_cache(maxsize=2 ** 17)
def _stage_cost(image_size, *stage):
    return _sum(_parts_cost(image_size, *call) for call in _stage_lists(*stage))

def _pieces(arch, joints):
    """The call that lists the parts of stem, head and fusion, and the arguments of `_stage_lists` for each stage.
    Given the widths at their borders they are independent: what is known of each, or of each part, is kept and added up."""
    widths = [(arch.stem,)] + [tuple([b.width for b in s.branches]) for s in arch.stages]
    fused = arch.fusion and widths[arch.fusion.stage][0]
    ends = (_end_parts, arch.backbone, arch.stem, widths[-1][0], arch.head, arch.fusion, fused, joints)
    return ends, [(arch.backbone, i, widths[i], s) for i, s in enumerate(arch.stages)]

def _costs(arch, image_size, joints):
    """Cost of stem, head and fusion together, then of each stage."""
    ends, stages = _pieces(arch, joints)
    return [_parts_cost(image_size, *ends)] + [_stage_cost(image_size, *stage) for stage in stages]

def cost(arch, image_size=(256, 192), joints=17):
    """Cost of an architecture at an image size (height, width), counted from the network's own parts."""
    return _sum(_costs(arch, tuple(image_size), joints))

# ---------------------------------------------------------------------------------------------- files
class CheckpointError(Exception):
    """A file that cannot be used, in one sentence for the person who named it."""

@contextlib.contextmanager
def replacing(path):
    """A binary file to write what shall be found under `path`: it gets that name when it is complete, never before. Whatever goes
    wrong leaves an older file of that name as it was, and no other; a full disk is a CheckpointError."""
    temporary = pathlib.Path(f"{path}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the contents are on the disk before the name is
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise CheckpointError(f"{path} cannot be written ({reason}); an older file of that name is untouched") from None
        raise

def save(contents, path):
    """torch.save, whole or not at all."""
    with replacing(path) as file:
        torch.save(contents, file)

def write_json(contents, path):
    """JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(contents, indent=1).encode())

class _Inert:
    """Stands in for whatever a file names besides tensors: can be made, called, filled and given a state; does nothing."""
    __new__ = lambda cls, *args, **kwargs: object.__new__(cls)
    __call__ = __setstate__ = __setitem__ = append = extend = add = update = lambda self, *args, **kwargs: self
    dump_patches = False  # asked by torch of the classes of whole modules in old files

class _TensorsOnly:
    """What `torch.load` asks of a pickle module. No name in a file leads to code, but for these; torch finds storages itself."""
    known = {"collections.OrderedDict": OrderedDict, "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
             "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter}

    class Unpickler(pickle.Unpickler):
        find_class = lambda self, module, name: _TensorsOnly.known.get(f"{module}.{name}", _Inert)

    load = lambda file, **options: _TensorsOnly.Unpickler(file, **options).load()

def read(path):
    """The dict in a checkpoint, ours or another program's: its tensors and plain values. Nothing in the file is executed; other
    objects, as published files hold them (logs, numpy's numbers, settings) and torch's `weights_only` refuses, become inert."""
    if not pathlib.Path(path).is_file():
        raise CheckpointError(f"there is no file {path}; train first, or name another checkpoint")
    try:
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            contents = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TensorsOnly)
    except Exception as error:  # torch raises many kinds for a file that is cut short or is something else
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({type(error).__name__}); make it anew") from None
    return contents if isinstance(contents, dict) else {}

def load(path, kind):
    """The dict saved under `path`, of `kind` "supernet" or "finished"."""
    contents = read(path)
    if contents.get("kind") != kind:
        found = f"a {contents['kind']}" if contents.get("kind") else "something else"
        raise CheckpointError(f"{path} holds {found}, but a {kind} checkpoint is needed here")
    return contents

def save_finished(path, nets, about):
    """Write finished networks, the key frame's first. `about` (a dict from `data.about`) says how to feed them."""
    networks = [{"arch": net.arch.to_json(), "state": net.state_dict()} for net in nets]
    save({"kind": "finished", "networks": networks, "about": about}, path)

def restore(net, state, path):
    """Load `state` into `net`, or say which tensors do not fit."""
    own = net.state_dict()
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape] + [k for k in state if k not in own]
    if wrong:
        raise CheckpointError(f"{path} is of another network: {', '.join(wrong[:3])} do not fit")
    net.load_state_dict(state)
    return net

def load_finished(path):
    """([PoseNet, ...], about) as `save_finished` wrote them, in eval mode."""
    contents = load(path, "finished")
    try:
        about = contents["about"]
        nets = [PoseNet(Arch.from_json(n["arch"]), len(about["joints"])).eval() for n in contents["networks"]]
        return [restore(net, n["state"], path) for net, n in zip(nets, contents["networks"])], about
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lacks a part of a finished network ({error}); make it anew") from None

MMPOSE = {  # mmpose's words for ours, put in one after the other
    "resnet50": {"stem.conv": "backbone.conv1", "stem.norm": "backbone.bn1", "attention.norm": "attention.channel_add_conv.1",
                 "attention.mask": "attention.conv_mask", "attention.reduce": "attention.channel_add_conv.0", ".norm": ".bn",
                 "attention.expand": "attention.channel_add_conv.3", "project_norm": "downsample.1", "project": "downsample.0"},
    "mobilenetv3": {"conv1": "expand_conv.conv", "conv2": "depthwise_conv.conv", "conv3": "linear_conv.conv",
                    "norm1": "expand_conv.bn", "norm2": "depthwise_conv.bn", "norm3": "linear_conv.bn",
                    "stem.conv": "backbone.conv1.conv", "stem.norm": "backbone.conv1.bn",
                    "attention.reduce": "se.conv1.conv", "attention.expand": "se.conv2.conv"}}

def _mmpose_name(arch, name):
    """mmpose's name of our tensor `name` (of its newer generation: the older one says keypoint_head for head)."""
    if block := re.match(r"stages\.(\d)\.0\.(\d)", name):  # ResNet's blocks are numbered stage by stage, MobileNet's throughout
        stage, k = map(int, block.groups())
        number = f"{stage + 1}.{k}" if arch.backbone == "resnet50" else 1 + sum(s.depth for s in arch.stages[:stage]) + k
        name = f"backbone.layer{number}{name[block.end():]}"
    # the head counts its ReLUs: deconvolution 0, norm 1, ReLU 2, deconvolution 3, ...
    name = re.sub(r"^head\.(deconvs|norms)\.(\d)", lambda m: f"head.deconv_layers.{3 * int(m[2]) + (m[1] == 'norms')}", name)
    for ours, theirs in MMPOSE[arch.backbone].items():
        name = name.replace(ours, theirs)
    return name.replace("head.final", "head.final_layer")

def load_mmpose(path):
    """A published S-ViPNAS checkpoint, of either network, as a finished PoseNet in eval mode, with the same outputs."""
    found = read(path)
    found = found["state_dict"] if isinstance(found.get("state_dict"), dict) else found
    found = {re.sub("^keypoint_head[.]", "head.", str(k)): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    arch = ARCHS["s_vipnas_resnet50" if any(k.startswith("backbone.layer1.0.") for k in found) else "s_vipnas_mobilenetv3"]
    net = PoseNet(arch).eval()
    state = {_mmpose_name(arch, name): (name, tensor) for name, tensor in net.state_dict().items()}
    wrong = [name for name, (_, tensor) in state.items()  # a layer norm's has two more dimensions of size 1 there
             if name not in found or found[name].squeeze().shape != tensor.squeeze().shape]
    if wrong:
        raise CheckpointError(
            f"{path} is neither of the two published S-ViPNAS networks: {', '.join(wrong[:3])} are missing in it or do not fit")
    net.load_state_dict({ours: found[name].view_as(tensor) for name, (ours, tensor) in state.items()})
    return net

# ---------------------------------------------------------------------------------------------- made fast
class Folded(nn.Module):
    """A convolution of a finished network with its batch norm inside: w' = w gain / sigma, b' = offset + (b - mean) gain / sigma.
    Called like the layer it stands for, whose choice it ignores. Its sums are arranged as oneDNN runs them fastest (measured):
    two groups of 2 or 3 channels as one, with zeros between them; a deconvolution of wide groups as a 3x3 convolution to four
    times the channels, one for each parity of the output cells; the bias of any other deconvolution added after it."""
    def __init__(self, conv, norm=None):
        super().__init__()
        (weight, *bias, groups), up, kernel = conv.slice(*conv.choice), isinstance(conv, ElasticConvTranspose2d), conv.kernel
        offset, each = weight.new_zeros(conv.width) if bias in ([], [None]) else bias[0], conv.width // groups
        weight = weight.unflatten(0, (groups, -1))  # (g, W / g, I / g, K, K), of a deconvolution (g, I / g, W / g, K, K)
        if norm:
            mean, var, gain, shift = norm.slice(conv.width)
            scale = gain / (var + norm.eps).sqrt()
            weight = weight * scale.view((groups, 1, -1, 1, 1) if up else (groups, -1, 1, 1, 1))
            offset = shift + (offset - mean) * scale
        self.parities = up and groups > 1 and each > 8
        if self.parities:  # out[2 y + a] is the sum over d = -1, 0, 1 of in[y + d] w[a + 1 - 2 d]
            taps = F.pad(weight, [3 - kernel // 2] * 4).flip(-1, -2)  # (g, I / g, W / g, 6, 6)
            taps = torch.stack([taps[..., 1 - a::2, 1 - b::2] for a in (0, 1) for b in (0, 1)], 3)  # (g, I / g, W / g, 4, 3, 3)
            weight, offset, kernel, up = taps.movedim(1, 3).flatten(1, 2), offset.repeat_interleave(4), 3, False
        elif not up and each in (2, 3) and groups % 2 == 0:
            pairs = weight.unflatten(0, (-1, 2))[:, :, :, None] * torch.eye(2).view(1, 2, 1, 2, 1, 1, 1)
            weight, groups = pairs.flatten(3, 4).flatten(1, 2), groups // 2  # (g / 2, 2 W / g, 2 I / g, K, K)
        stride = 2 if up else 1 if self.parities else conv.stride
        self.run = partial(F.conv_transpose2d if up else F.conv2d, stride=stride, padding=(kernel - up) // 2, groups=groups)
        self.up, self.weight, self.bias = up, *(nn.Parameter(x.detach().clone(), False) for x in (weight.flatten(0, 1), offset))
    def forward(self, x, *choice):
        if self.up:
            return self.run(x, self.weight) + self.bias[:, None, None]
        y = self.run(x, self.weight, self.bias)
        return F.pixel_shuffle(y, 2) if self.parities else y

def fold(module):
    """A copy of a finished network, or of a part of one, in eval mode and channels last, each convolution `Folded`."""
    module = copy.deepcopy(module).eval()
    layers = dict(module.named_modules())
    for name, layer in layers.items():
        if isinstance(layer, (ElasticConv2d, ElasticConvTranspose2d)):  # conv3 and norm3, deconvs.0 and norms.0, project and ...
            norm = re.sub("project$", "project_norm", re.sub(r"(de)?conv(?=\d*$|s\.\d$)", "norm", name))
            module.set_submodule(name, Folded(layer, layers[norm] if norm != name else None))
            if norm != name:
                module.set_submodule(norm, nn.Identity())
    return module.requires_grad_(False).to(memory_format=torch.channels_last)

class Deployed(nn.Module):
    """A finished network for inference; called like the PoseNet it was. `runtime`: what runs it, in words."""
    def __init__(self, net, script=None, compiled=None, runtime="batch norm folded, channels last"):
        super().__init__()
        self.net, self.script, self.compiled, self.runtime = net, script, compiled, runtime
        self.space, self.joints, self.arch = net.space, net.joints, net.arch
    def forward(self, images, arch=None, heatmaps=None):
        """As PoseNet's; at another image size than it was deployed for, or on a GPU, the folded network itself runs."""
        inputs = {"images": images, "heatmaps": heatmaps} if self.arch.fusion else {"images": images}
        inputs = {name: x.contiguous(memory_format=torch.channels_last) for name, x in inputs.items()}
        same = images.shape[2:] == self.space.image_size and not images.is_cuda
        run = self.net if not same else self.compiled if self.compiled and len(images) == 1 else self.script
        with torch.no_grad():
            return run(**inputs)

def deploy(net, compiled=True):
    """A finished network made fast for inference: the same outputs to 1e-4, about twice as fast on a CPU.
    Batch norm is folded, features are kept channels last, and what runs them is chosen for the machine: frozen TorchScript (a
    second), or, if that proves faster, code compiled for single images of the network's own size (TorchInductor: half a minute,
    not tried with compiled=False, and where there is no C++ compiler, which a warning says). On a GPU: the folded network."""
    if net.arch is None:
        raise ValueError("only a finished network can be deployed: extract one from the super-network first")
    folded = fold(net)
    if folded.head.final.weight.is_cuda:
        return Deployed(folded)
    inputs, runtime = _example(net), "batch norm folded, channels last, "
    script = freeze(folded, inputs)
    if compiled:
        try:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                package = torch._inductor.aoti_compile_and_package(torch.export.export(folded, (), inputs), inductor_configs={
                    "freezing": True}, package_path=f"{folder}/net.pt2")
                fast = torch._inductor.aoti_load_package(package)
            if milliseconds([partial(script, **inputs), partial(fast, **inputs)]).argmin():  # not so for small networks
                return Deployed(folded, script, fast, runtime + "compiled by TorchInductor")
        except Exception as error:  # many kinds, from a missing compiler to a full disk
            warnings.warn(f"deployed without a compiler: {str(error).splitlines()[0]}")
    return Deployed(folded, script, None, runtime + "TorchScript")

def _example(net):
    """Black inputs of a finished network, of its own size."""
    h, w = net.space.image_size
    inputs = {"images": torch.zeros(1, 3, h, w), "heatmaps": torch.zeros(1, net.joints, h // 4, w // 4)}
    return {name: x.to(memory_format=torch.channels_last) for name, x in inputs.items() if name == "images" or net.arch.fusion}

def _call(run, inputs):
    return run(**inputs) if isinstance(inputs, dict) else run(*inputs)

def freeze(module, inputs):
    """TorchScript of a folded module, from example inputs (a list, or a dict of named ones)."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing turns sizes into constants
        example = {"example_kwarg_inputs": inputs} if isinstance(inputs, dict) else {"example_inputs": tuple(inputs)}
        script = torch.jit.freeze(torch.jit.trace(module, **example, check_trace=False))
        for _ in range(3):  # it optimises itself during its first calls
            _call(script, inputs)
    return script

@contextlib.contextmanager
def one_thread():
    """What is measured in here runs on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

def milliseconds(runs, rounds=60):
    """The shortest time of each of `runs`, called in turns: the calling thread's, so what else the machine does hardly counts."""
    times = np.zeros((rounds, len(runs)))
    with torch.no_grad():
        for row, i in np.ndindex(times.shape):
            begun = time.thread_time()
            runs[i]()
            times[row, i] = 1000 * (time.thread_time() - begun)
    return times.min(0)

def frame_times(nets, compiled=False):
    """Measured milliseconds of each of several finished networks: deployed, one image, one CPU thread."""
    with one_thread():
        return milliseconds([partial(deploy(copy.deepcopy(net).cpu(), compiled), **_example(net)) for net in nets]).tolist()

class Clock:
    """Milliseconds of architectures on this machine: one image, one CPU thread, deployed without a compiler. Each part is
    measured once and its time added up as its cost is. What `save` wrote to `path` is known from then on, but not if `fresh`."""
    def __init__(self, path, image_size, joints=17, fresh=False):
        self.path, self.image_size, self.joints, self.lists, self.times = path, tuple(image_size), joints, {}, {}
        with contextlib.suppress(OSError, ValueError):
            self.times = {} if fresh else json.loads(pathlib.Path(path).read_text())
    def save(self):
        write_json(self.times, self.path)
    def __call__(self, arch):
        """The predicted time; about 50 ms for each part that has not been measured yet."""
        ends, stages = _pieces(arch, self.joints)
        for calls, key in [([ends], ends), *((_stage_lists(*stage), stage) for stage in stages if stage not in self.lists)]:
            if key not in self.lists:
                self.lists[key] = sum(self._part(part) for parts, *arguments in calls for part in parts(*arguments))
        return self.lists[ends] + sum(self.lists[stage] for stage in stages)
    def _part(self, part):
        key, (h, w) = f"{part} {self.image_size} {torch.__version__}", self.image_size
        if key not in self.times:
            inputs = [torch.zeros(1, c, h // r, w // r).to(memory_format=torch.channels_last) for c, r in part.inputs]
            with one_thread():
                self.times[key] = float(milliseconds([partial(freeze(fold(part.make()), inputs), *inputs)])[0])
        return self.times[key]

# ---------------------------------------------------------------------------------------------- the video estimator
def decode(heatmaps, quarter=False, cell=1.5):
    """Heatmaps (..., K, h, w) -> keypoints (..., K, 3): x, y in image pixels (of the network's input) and score.
    The peak cell, moved by up to half a cell to the top of the parabola through the *logarithms* of the peak and its
    neighbours; for a Gaussian that is its exact centre. quarter: instead by a quarter of a cell to the higher neighbour, the
    field's habit (about 2 AP less on drawn people). A heatmap is 1/4 of the image; the centre of cell i lies at pixel 4i + cell.
    """
    h, w = heatmaps.shape[-2:]
    flat = heatmaps.flatten(-2)
    score, peak = flat.max(-1)
    row, column = peak // w, peak % w
    height = flat if quarter else flat.clamp_min(1e-6).log()
    def value(r, c):
        return height.gather(-1, (r.clamp(0, h - 1) * w + c.clamp(0, w - 1))[..., None])[..., 0]
    def offset(before, after):
        if quarter:
            return (after - before).sign() / 4
        curve = 2 * value(row, column) - before - after
        return torch.where(curve > 1e-6, (after - before) / (2 * curve.clamp_min(1e-6)), torch.zeros_like(curve)).clamp(-.5, .5)
    dx = offset(value(row, column - 1), value(row, column + 1)) * ((column > 0) & (column < w - 1))
    dy = offset(value(row - 1, column), value(row + 1, column)) * ((row > 0) & (row < h - 1))
    return torch.stack([4 * (column + dx) + cell, 4 * (row + dy) + cell, score], -1)

class VideoPose:
    """The finished estimator (Fig. 2): the S network on key frames, its T networks on the frames between.

        stream = VideoPose.load("runs/t/vipnas_t.pt").stream(box=(x, y, w, h))
        for frame in frames:
            keypoints = stream.step(frame)     # (K, 3): x, y in pixels of the frame, and score"""
    def __init__(self, nets, about):
        self.nets, self.about, self.device = nets, about, next(nets[0].parameters()).device
        self.mean, self.std = torch.tensor([about["mean"], about["std"]], device=self.device)  # (3,) each
    @classmethod
    def load(cls, path, device=None, compiled=False):
        """From a finished checkpoint: an S-ViPNAS (then every frame is a key frame) or a T-ViPNAS, deployed.
        device: cuda if there; compiled: see `deploy`, for a service that runs long enough to wait for it."""
        nets, about = load_finished(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls([deploy(net.to(device), compiled) for net in nets], about)
    def stream(self, box=None):
        """Follow the person in `box`: x, y, w, h in the first frame, None if he fills it; or N people, in a list of boxes."""
        return Stream(self, box)

def as_list(box, count=None):
    """One box, or a list of `count` boxes and Nones, as a list."""
    boxes = [box] if box is None or any(v is not None and np.ndim(v) == 0 for v in box) else list(box)
    good = [b is None or len(b) == 4 and all(map(math.isfinite, b)) and min(b[2:]) > 0 for b in boxes]
    if not all(good) or len(boxes) != (count or len(boxes)):
        raise ValueError(f"{box} is no box x, y, w, h with w and h above zero, nor a list with a box or None for each person")
    return boxes

class Stream:
    """People followed through a video, as one batch. Key frames are every T + 1; all frames of a period share their windows.
    After a step `lost` (N,) says who showed fewer than 4 joints above .2 inside the frame. Who is lost when a key frame comes is
    not run and gives nan, until `step` is handed a box for him. `boxes`: where each was last seen; `t`: 0 on a key frame."""
    def __init__(self, pose, box):
        self.pose, self.boxes, self.t, self.heatmaps = pose, as_list(box), -1, None
        self.lost, self.single = np.zeros(len(self.boxes), bool), self.boxes and self.boxes[0] is box
        self.size = np.array(pose.about["size"][::-1])  # width and height of the crops
    def step(self, frame, box=None):
        """frame: Pillow image or uint8 array (H, W, 3) -> keypoints (K, 3), or (N, K, 3): x, y in its pixels, score.
        box: as in `stream`; makes this a key frame for all. In a list, who has None is followed from his last pose."""
        image = frame if isinstance(frame, Image.Image) else Image.fromarray(np.asarray(frame))
        image = image if image.mode == "RGB" else image.convert("RGB")
        new = [None] * len(self.boxes) if box is None else as_list(box, len(self.boxes))
        self.t = (self.t + 1) % len(self.pose.nets) if box is None else 0
        if self.t == 0:  # whom to run in this period, and the windows: the boxes in the network's aspect, padded as in training
            self.boxes = [next(b for b in (b, old, (0, 0, *image.size)) if b is not None) for b, old in zip(new, self.boxes)]
            self.running = [i for i, b in enumerate(new) if b is not None or not self.lost[i]]
            corner, sides = np.split(np.array([self.boxes[i] for i in self.running], float).reshape(-1, 4), 2, 1)
            self.zoom = self.pose.about["padding"] * (sides / self.size).max(1, keepdims=True)  # (M, 1) image to crop pixels
            self.corner = corner + (sides - self.zoom * self.size) / 2                          # (M, 2) in the image
        poses = np.full((len(self.boxes), len(self.pose.about["joints"]), 3), np.nan)
        if self.running:
            poses[self.running] = self._run(image)
        x, y, score = poses.transpose(2, 0, 1)                                              # (N, K) each
        seen = (score > .2) & (x > -.5) & (y > -.5) & (x < image.width - .5) & (y < image.height - .5)
        self.lost = seen.sum(1) < 4
        for i in np.flatnonzero(~self.lost):  # around the joints seen, a tenth and a pixel larger on each side (ours)
            low, high = poses[i, seen[i], :2].min(0), poses[i, seen[i], :2].max(0)
            margin = .1 * (high - low).max() + 1
            self.boxes[i] = (*(low - margin), *(high - low + 2 * margin))
        return poses[0] if self.single else poses
    @torch.inference_mode()
    def _run(self, image):
        """The windows, cropped as in training, through this frame's network, as one batch -> keypoints (M, K, 3) in the image."""
        pose, crops = self.pose, []
        for start, end, zoom in zip(self.corner, self.corner + self.zoom * self.size, self.zoom):
            shrink = int(np.clip(zoom[0], 1, max(image.size)))  # black outside, whole blocks averaged (those needed), bilinear
            low = np.clip((start // shrink - 1) * shrink, 0, np.array(image.size) - 1).astype(int)
            small = image.reduce(shrink, (*low, *np.clip(end + 2 * shrink, low + 1, image.size).astype(int)))
            place = tuple(np.concatenate([start - low, end - low]) / shrink)
            crops.append(np.array(small.transform(tuple(self.size), Image.Transform.EXTENT, place, Image.Resampling.BILINEAR)))
        x = (torch.from_numpy(np.stack(crops)).to(pose.device) / 255 - pose.mean) / pose.std    # (M, H, W, 3)
        self.heatmaps = pose.nets[self.t](x.permute(0, 3, 1, 2), heatmaps=self.heatmaps if self.t else None)
        poses = decode(self.heatmaps, cell=pose.about.get("cell", 1.5)).double().cpu().numpy()
        poses[..., :2] = self.corner[:, None] + (poses[..., :2] + .5) * self.zoom[:, None] - .5  # between pixel centres
        return poses

def read_video(path):
    """(name, RGB Pillow image) of every frame: a folder's images, 9.jpg before 10.jpg, or the frames of an animated one."""
    path, kinds = pathlib.Path(path).resolve(), (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
    files = [path] * path.is_file() or sorted((f for f in path.glob("[!.]*") if f.suffix.lower() in kinds),
                                              key=lambda f: re.sub("[0-9]+", lambda number: number[0].zfill(20), f.name))
    if not files:
        raise CheckpointError(f"there are no frames in {path}: name a folder of JPEG or PNG images, or a GIF, WebP or TIFF file")
    for file in files:
        try:
            with Image.open(file) as image:
                for i in range(getattr(image, "n_frames", 1)):
                    image.seek(i)
                    yield f"{path.name}/{i if file == path else file.name}", ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
            raise CheckpointError(f"{file} is not an image that can be read ({error}); replace it or take it out") from None

def overlay(frame, keypoints, limbs, colour, threshold=.2):
    """A copy of the frame with the pose drawn on it, the limbs in `colour`."""
    frame, width = frame.copy(), max(2, max(frame.size) // 300)
    pen, points = ImageDraw.Draw(frame), [tuple(map(float, p[:2] + .5)) for p in keypoints]  # Pillow counts from corners
    for a, b in limbs:
        if min(keypoints[a][2], keypoints[b][2]) > threshold:
            pen.line([points[a], points[b]], fill=colour, width=width)
    for (x, y), (_, _, score) in zip(points, keypoints):
        pen.ellipse([x - width, y - width, x + width, y + width], fill=(255, 60, 60) if score > threshold else (130, 130, 130))
    return frame

def run_video(video, checkpoint, boxes, out):
    """Poses through a video; into the folder `out`: 000000.png ..., overlay.gif, and poses.json in PoseTrack18's format."""
    pose, video, out, small, seconds = VideoPose.load(checkpoint), pathlib.Path(video), pathlib.Path(out), [], ([], [])
    if out.resolve() == (video if video.is_dir() else video.parent).resolve():
        raise CheckpointError(f"--out {out} is the folder of the video; name another, or it might be overwritten")
    stream, person = pose.stream(boxes), {"id": 1, "name": "person", "keypoints": pose.about["joints"]}
    page, colours = {"images": [], "annotations": [], "categories": [person]}, ("lime", "deepskyblue", "gold", "violet")
    out.mkdir(parents=True, exist_ok=True)
    for warm in [pose.stream(boxes) for _ in range(4)]:  # the first times are slow, as TorchScript optimises: not measured
        list(map(warm.step, [Image.new("RGB", (9, 9))] * len(pose.nets)))
    for i, (name, frame) in enumerate(read_video(video)):
        again = [box if lost and stream.t == len(pose.nets) - 1 else None for box, lost in zip(stream.boxes, stream.lost)]
        start = time.perf_counter()
        poses = stream.step(frame, again if any(again) else None)
        seconds[stream.t > 0].append(time.perf_counter() - start)
        page["images"].append({"id": i, "frame_id": i, "file_name": name, "is_labeled": True})
        for n, keypoints in enumerate(poses):
            page["annotations"].append({"image_id": i, "track_id": n, "keypoints": keypoints.ravel().round(3).tolist(),
                                        "scores": keypoints[:, 2].round(4).tolist()})
            frame = overlay(frame, keypoints, pose.about["limbs"], colours[n % 4])
        frame.save(out / f"{i:06d}.png")
        small.append(ImageOps.contain(frame, tuple(min(480, n) for n in frame.size)).quantize())
        print(f"frame {i}: {'propagated' if stream.t else 'key':10} mean score {poses[..., 2].mean():.2f}"
              + ", lost before: looking again where last seen" * any(again))
    write_json(page, out / "poses.json")
    with replacing(out / "overlay.gif") as file:
        small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=100, loop=0)
    print(f"wrote {len(small)} overlays, overlay.gif and poses.json to {out}")
    key, other, mean = (f"{1000 * np.mean(s):.1f} ms" if s else "-" for s in (*seconds, sum(seconds, [])))
    print(f"a frame of {len(boxes)} on {pose.device}: key {key}, non-key {other}, mean {mean}")

def benchmark(checkpoint):
    """Milliseconds for one image on one CPU thread, side by side: S-ViPNAS-ResNet-50 as it is and deployed (and by onnxruntime,
    where onnx and onnxruntime are installed), its kinds of layers, and the estimator in `checkpoint` against its rivals."""
    with one_thread():
        net = PoseNet(ARCHS["s_vipnas_resnet50"]).eval()
        last, inputs = copy.deepcopy(net).to(memory_format=torch.channels_last), _example(net)
        runs = {"eager": partial(net, inputs["images"].contiguous()), "eager, channels last": partial(last, **inputs)}
        runs.update({(d := deploy(net, compiled)).runtime: partial(d, **inputs) for compiled in (False, True)})
        with contextlib.suppress(ImportError), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runtime = importlib.import_module("onnxruntime")
            torch.onnx.export(net, tuple(inputs.values()), f"{folder}/net.onnx", input_names=["images"], dynamo=False)
            settings = runtime.SessionOptions()
            settings.intra_op_num_threads = 1
            session = runtime.InferenceSession(f"{folder}/net.onnx", settings, ["CPUExecutionProvider"])
            runs["onnxruntime"] = partial(session.run, None, {"images": inputs["images"].numpy()})
        times = milliseconds([*runs.values()])
        print("s_vipnas_resnet50, 256x192, one image, one CPU thread\n" + "\n".join(
            f"  {ms:7.2f} ms   {times[0] / ms:.2f} times as fast as eager   {name}" for name, ms in zip(runs, times)))
        show_layers(fold(net), inputs)
        if checkpoint:
            nets = load_finished(checkpoint)[0]
            sbl = PoseNet(Space.of(ARCHS["sbl_resnet50"], nets[0].space.image_size)).eval()
            times = frame_times(nets, True) + frame_times([sbl], True)
            costs = [cost(n.arch, n.space.image_size).gflops for n in (*nets, sbl)]
            print("\nmean of a frame, deployed (times as much as the first): milliseconds, GFLOPs")
            for name, a, b in ((checkpoint, 0, -1), ("its key-frame network alone", 0, 1), ("SBL-ResNet-50", -1, None)):
                mean = np.mean([times[a:b], costs[a:b]], 1)
                first = mean if name == checkpoint else first
                print(f"  {mean[0]:8.3f} ({mean[0] / first[0]:.2f}) {mean[1]:8.4f} ({mean[1] / first[1]:.2f})   {name}")

def show_layers(folded, inputs, rounds=10):
    """Where a folded network spends its time: convolutions of equal shape together, and how many multiply-adds they do in it."""
    rows, before = {}, lambda layer, x: setattr(layer, "begun", time.thread_time())
    def after(layer, x, y):
        ms, groups = 1000 * (time.thread_time() - layer.begun), layer.run.keywords["groups"]
        macs, k = layer.weight.numel() * math.prod((x[0] if layer.up or layer.parities else y).shape[2:]), layer.weight.shape[-1]
        shape = f"{k}x{k}, {x[0].shape[1]} to {y.shape[1]} channels, {groups} groups, {tuple(y.shape[2:])}"
        rows.setdefault(shape, {}).setdefault(layer, []).append((ms, macs))
    for layer in [m for m in folded.modules() if isinstance(m, Folded)]:
        layer.register_forward_pre_hook(before), layer.register_forward_hook(after)
    with torch.no_grad():
        for _ in range(rounds):
            _call(folded, inputs)
    table = {shape: (len(layers), *np.sum([np.min(calls, 0) for calls in layers.values()], 0)) for shape, layers in rows.items()}
    print("  its slowest convolutions: number, ms, billion multiply-adds a second")
    for shape, (count, ms, macs) in sorted(table.items(), key=lambda row: -row[1][1])[:10]:
        print(f"  {count:4} x {ms:7.2f} {macs / ms / 1e6:7.1f}   {shape}")

# ---------------------------------------------------------------------------------------------- the command line
def read_arch(text):
    """An Arch by its name in ARCHS, or from a JSON file."""
    if text in ARCHS:
        return ARCHS[text]
    try:
        return Arch.from_json(pathlib.Path(text).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"no architecture can be read from {text} ({error}); give a JSON file as Arch.to_json writes it, "
                              f"or one of {', '.join(ARCHS)}") from None

def show(arch, image_size):
    """What an architecture is made of, and what each part costs."""
    print(f"{arch}\n\nat {image_size[0]}x{image_size[1]}      parameters   multiply-adds    GFLOPs (as the paper counts)")
    names = ["stem, head" + ", fusion" * bool(arch.fusion)] + [f"stage {i + 1}" for i in range(len(arch.stages))] + ["all"]
    for name, c in zip(names, _costs(arch, image_size, 17) + [cost(arch, image_size)]):
        print(f"{name:18} {c.params:11,} {c.macs:15,}    {c.gflops:.4f}")

PRINTED = {  # what Tables 1 and 2 print, and why ours is not quite that
    "s_vipnas_resnet50": "  7.3M  1.44   the released weights are a network close to the tables' (Table 2 prints 13.5M)",
    "s_vipnas_mobilenetv3": "  5.4M  0.69   the released head is not in Table A1: a network close to the tables' (Table 2: 2.8M)",
    "sbl_resnet18": " 15.3M  5.79   cut off, not rounded",
    "sbl_resnet50": " 34.0M  8.99   equal (Table 2 repeats the 8.90 of [56])",
    "hrnet_w32": " 28.5M  7.10   the table repeats the figure of [49]"}

def show_all():
    """Every architecture beside the paper's numbers, and every space from its smallest to its largest network."""
    print("architecture           parameters   multiply-adds    GFLOPs   the paper: parameters, GFLOPs")
    for name, arch in ARCHS.items():
        c = cost(arch)
        print(f"{name:20} {c.params:12,} {c.macs:15,} {c.gflops:9.4f}   {PRINTED[name]}")
    print("\nspace          architectures    smallest: parameters, GFLOPs      largest: parameters, GFLOPs")
    for name, space in SPACES.items():
        ends = [cost(a, space.image_size) for a in (space.smallest(), space.largest())]
        print(f"{name:12} {space.size():15.1e}    " + "   ".join(f"{c.params:16,} {c.gflops:10.4f}" for c in ends))

def _boxes(arch):
    """Text of the boxes of a frame's row: {depth, width, kernel, groups}, a line for each branch."""
    name = lambda *numbers: f"{{{', '.join(map(str, numbers))}}}"
    attention = {GlobalContext: " +GC", SqueezeExcite: " +SE"}[BACKBONES[arch.backbone].attention]
    block = lambda s, b: f"\n{name(s.depth, *b[:3])}{f' e{b.expansion}' * (b.expansion > 1)}{attention * b.attention}"
    stages = [f"stage {i}" + "".join(block(s, b) for b in s.branches) for i, s in enumerate(arch.stages, 1)]
    return [f"stem\n{arch.stem}", *stages, f"deconvolutions\n{name(*arch.head)}" if arch.head else "1x1 convolution", "heatmaps"]

def picture(archs, path):
    """Draw the architectures of successive frames (of one backbone) as Fig. 5 does, one row a frame, into a PNG file. Orange
    boxes have attention. In red: the last frame's heatmaps, where they come in, and how (+ Add, x Mul, C Cat)."""
    rows, font = [_boxes(arch) for arch in archs], ImageFont.load_default(13)
    lines = [box.split("\n") for row in rows for box in row]
    wide, high = 16 + max(map(font.getlength, sum(lines, []))), 14 + 17 * max(map(len, lines))
    left, right, down = 100, wide + 36, high + 50  # of the first box; from box to box; from row to row
    image = Image.new("RGB", (int(left + right * len(rows[0])), int(down * len(rows) + 20)), "white")
    pen = ImageDraw.Draw(image)
    for r, (arch, row) in enumerate(zip(archs, rows)):
        top = 50 + r * down
        middle, frame = top + high / 2, f"frame t + {r}" if r else "a later frame"
        pen.text((10, middle), frame if arch.fusion else "key frame", "black", font, anchor="lm")
        pen.line([(left, middle), (left + (len(row) - 1) * right, middle)], "black", 2)
        for c, box in enumerate(row):
            x = left + c * right
            pen.rectangle([x, top, x + wide, top + high], (255, 214, 160) if "+" in box else (222, 232, 246), "black")
            pen.multiline_text((x + wide / 2, middle), box, "black", font, anchor="mm", align="center")
        if arch.fusion:  # drawn from the heatmaps to behind its stage
            x, source = left + (arch.fusion.stage + 1) * right - 18, left + (len(row) - .5) * right - 18
            pen.line([(source, top - 50), (source, top - 25), (x, top - 25), (x, middle)], (200, 30, 30), 2)
            pen.ellipse([x - 11, middle - 11, x + 11, middle + 11], "white", (200, 30, 30), 2)
            pen.text((x, middle), {"add": "+", "mul": "x", "cat": "C"}[arch.fusion.operation], (200, 30, 30), font, anchor="mm")
    with replacing(path) as file:
        image.save(file, "PNG")

def read_box(text):
    """x, y, w, h from "x,y,w,h"."""
    try:
        return as_list([tuple(map(float, text.split(",")))])[0]
    except ValueError:
        raise CheckpointError(f"--box is x,y,w,h with w and h above zero, not {text}") from None

def main():
    """Show architectures, or run an estimator on a video; whatever the user can mend is one sentence and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", help=f"an architecture to show: a JSON file, or {', '.join(ARCHS)}")
    parser.add_argument("--picture", help="PNG file to draw --arch or the networks of --checkpoint into, as Fig. 5 does")
    parser.add_argument("--video", help="folder of frames, animated GIF or WebP, TIFF of many pages")
    parser.add_argument("--checkpoint", help="finished networks: vipnas_s.pt or vipnas_t.pt")
    parser.add_argument("--box", action="append", help="x,y,w,h of a person in the first frame; one for each (default: all)")
    parser.add_argument("--out", help="folder for the overlays and poses.json")
    parser.add_argument("--benchmark", action="store_true", help="times of deployed networks, also of a T-ViPNAS in --checkpoint")
    options = parser.parse_args()
    try:
        if options.video and not (options.checkpoint and options.out):
            raise CheckpointError("--video needs --checkpoint FILE and --out DIR too")
        if options.picture and not (options.arch or options.checkpoint):
            raise CheckpointError("--picture needs --arch or --checkpoint: what shall it show?")
        if options.benchmark:
            benchmark(options.checkpoint)
        elif options.video:
            run_video(options.video, options.checkpoint, list(map(read_box, options.box or [])) or [None], options.out)
        elif options.arch or options.checkpoint:
            archs = [read_arch(options.arch)] if options.arch else [net.arch for net in load_finished(options.checkpoint)[0]]
            for arch in archs:
                show(arch, BACKBONES[arch.backbone].image_size)
            if options.picture:
                picture(archs, options.picture)
                print(f"wrote {options.picture}")
        else:
            show_all()
    except (CheckpointError, ValueError, OSError) as error:
        sys.exit(f"vipnas: {error}")

if __name__ == "__main__":
    main()
