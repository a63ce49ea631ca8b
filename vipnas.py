"""What an architecture is, the search spaces, the pose networks over them, and the video estimator.

Arch       one network, written down: a value that is passed, never a state that is set
Space      the networks that may be chosen (Tables A1-A3); `within`: those inside a found one
PoseNet    the network (Fig. 2). Over a space it is the super-network, over an Arch a finished one
cost       parameters, multiply-adds and the paper's GFLOPs of an architecture
deploy     a finished network made fast
VideoPose  a key-frame network and its T non-key networks, run on a video

python vipnas.py                                # all architectures beside the paper's numbers
python vipnas.py --arch runs/t/vipnas_t.pt --picture t.png     # what they are, a diagram (Fig. 5)
python vipnas.py --benchmark                    # how fast deployed networks are
python vipnas.py --video DIR --checkpoint runs/t/vipnas_t.pt --box x,y,w,h --out DIR
"""

import argparse
import contextlib
import copy
import importlib
import json
import math
import pickle
import re
import sys
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn

import data
from data import UserError
from elastic import (
    Cost,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticConvTranspose2d,
    GlobalContext,
    SqueezeExcite,
    common_groups,
)
from fusion import OPERATIONS, TemporalFusion

# ----------------------------------------------------------------------- what a search leaves alone


@dataclass(frozen=True)
class Backbone:
    """What stays fixed. Tuples have one entry a stage."""

    block: tuple  # "bottleneck", "basic" (ResNet) or "mobile" (MobileNet-V3)
    strides: tuple
    activations: tuple
    attention: type
    stem_kernel: int
    stem_activation: Callable
    stem_second: str = ""  # what follows the stride-2 stem convolution: "", "pool" or "conv"
    image_size: tuple = (256, 192)  # height, width it is meant for
    # HRNet: stage n has n branches, each at half the resolution of the one before, which exchange
    # features after every module of so many blocks. None: an ordinary stage, blocks in a row
    modules: tuple = (None,) * 6

    def reduction(self, stages=None):
        """Image pixels to a cell of branch 1 after so many stages (default: all)."""
        stem = 4 if self.stem_second else 2
        return stem * math.prod(self.strides[:stages])


# fmt: off
BACKBONES = {
    # stage 1 of ResNet works at 1/4 (stride 1), though Table A2 prints 1/8: the released weights do
    "resnet50": Backbone(
        block=("bottleneck",) * 4, strides=(1, 2, 2, 2), activations=(F.relu,) * 4,
        attention=GlobalContext, stem_kernel=7, stem_activation=F.relu, stem_second="pool",
    ),
    "resnet18": Backbone(
        block=("basic",) * 4, strides=(1, 2, 2, 2), activations=(F.relu,) * 4,
        attention=GlobalContext, stem_kernel=7, stem_activation=F.relu, stem_second="pool",
    ),
    "mobilenetv3": Backbone(
        block=("mobile",) * 6, strides=(1, 2, 2, 2, 1, 2),
        activations=(F.relu,) * 3 + (F.hardswish,) * 3,
        attention=SqueezeExcite, stem_kernel=3, stem_activation=F.hardswish,
    ),
    "hrnet_w32": Backbone(
        block=("bottleneck",) + ("basic",) * 3, strides=(1, 1, 1, 1), activations=(F.relu,) * 4,
        attention=SqueezeExcite, stem_kernel=3, stem_activation=F.relu, stem_second="conv",
        modules=(None, 4, 4, 4),
    ),
    # ours, for two CPU cores: blocks of MobileNet-V3, h-swish only where the features are small
    "tiny": Backbone(
        block=("mobile",) * 4, strides=(2, 2, 2, 1),
        activations=(F.relu,) * 2 + (F.hardswish,) * 2,
        attention=SqueezeExcite, stem_kernel=3, stem_activation=F.relu, image_size=(128, 96),
    ),
}
# fmt: on

# --------------------------------------------------------------------------------- an architecture


class Branch(NamedTuple):
    """The blocks of one stage (of one branch of it, in HRNet); `width` is what comes out."""

    width: int
    kernel: int = 3
    groups: int = 1
    attention: bool = False
    expansion: int = 1

    def hidden(self, block):
        """Channels of the middle convolution, whose kernel and groups are searched."""
        if block == "mobile":
            return self.width * self.expansion
        return self.width // self.expansion  # the expansion of a basic block is 1


class Stage(NamedTuple):
    """`depth` equal blocks in each branch (Sec. A.2: one choice for all blocks of a stage)."""

    depth: int
    branches: tuple


class Head(NamedTuple):
    """The deconvolutions; a 1x1 convolution to the heatmaps always follows."""

    width: int
    kernel: int = 4
    groups: int = 1


class Fusion(NamedTuple):
    """After which stage (from 1: the paper's F_1, F_2, ...) and how the last heatmaps come in."""

    stage: int
    operation: str


def check_numbers(numbers):
    """ValueError unless all are sizes that a layer can have."""
    for number in numbers:
        if type(number) is not int or not 1 <= number <= 10_000:
            raise ValueError(
                f"sizes in an architecture are whole numbers from 1 to 10000: {number}"
            )


@dataclass(frozen=True)
class Arch:
    """One architecture: hashable, can be written by hand. ValueError for what is no network."""

    backbone: str
    stem: int
    stages: tuple
    head: Head | None  # None where the last stage works at 1/4 already (HRNet)
    fusion: Fusion | None = None  # a key frame has none

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            names = ", ".join(BACKBONES)
            raise ValueError(f"there is no backbone '{self.backbone}'; choose one of {names}")
        plan = BACKBONES[self.backbone]
        count = len(plan.block)
        if len(self.stages) != count:
            raise ValueError(f"{self.backbone} has {count} stages, not {len(self.stages)}")
        if (self.head is None) != (plan.reduction() == 4):
            wanted = "no deconvolutions" if self.head else "deconvolutions"
            raise ValueError(f"{self.backbone} has {wanted} in its head")
        check_numbers([self.stem, *(self.head or ())])
        if self.head and self.head.kernel not in (2, 4):
            raise ValueError("the kernels of the head are 2 or 4")
        for index, stage in enumerate(self.stages):
            self._check_stage(plan, index, stage)
        stages = range(1, count + 1)
        fusion = self.fusion
        if fusion and (fusion.stage not in stages or fusion.operation not in OPERATIONS):
            raise ValueError(f"a fusion names a stage from 1 to {count} and one of {OPERATIONS}")

    def _check_stage(self, plan, index, stage):
        """ValueError unless this can be stage `index` of the backbone."""
        name = f"stage {index + 1} of {self.backbone}"
        module = plan.modules[index]
        branches = index + 1 if module else 1
        if len(stage.branches) != branches:
            raise ValueError(f"{name} has {branches} branches, not {len(stage.branches)}")
        check_numbers([stage.depth])
        if module and stage.depth % module:
            raise ValueError(f"{name} consists of modules of {module} blocks, not {stage.depth}")
        for branch in stage.branches:
            check_numbers([branch.width, branch.kernel, branch.groups, branch.expansion])
            if branch.kernel % 2 == 0:
                raise ValueError("the kernels of the stages are odd")
            if plan.block[index] == "basic" and branch.expansion != 1:
                raise ValueError("the expansion of a basic block is 1")
            if plan.block[index] == "bottleneck" and branch.width % branch.expansion:
                raise ValueError("the expansion of a bottleneck divides its width")

    def __str__(self):
        """One line, such as: tiny: 16 | 1 x 24 k3 g24 e1 | ... | head 48 k4 g8."""
        parts = [f"{self.backbone}: {self.stem}"]
        for stage in self.stages:
            branches = []
            for branch in stage.branches:
                text = f"{branch.width} k{branch.kernel} g{branch.groups} e{branch.expansion}"
                branches.append(text + " att" if branch.attention else text)
            parts.append(f"{stage.depth} x " + " / ".join(branches))
        if self.head:
            parts.append(f"head {self.head.width} k{self.head.kernel} g{self.head.groups}")
        if self.fusion:
            parts.append(f"{self.fusion.operation} after stage {self.fusion.stage}")
        return " | ".join(parts)

    def to_json(self):
        """One line of JSON, which `from_json` reads back to an equal Arch."""
        stages = []
        for stage in self.stages:
            branches = [branch._asdict() for branch in stage.branches]
            stages.append({"depth": stage.depth, "branches": branches})
        fields = {
            "backbone": self.backbone,
            "stem": self.stem,
            "stages": stages,
            "head": self.head._asdict() if self.head else None,
            "fusion": self.fusion._asdict() if self.fusion else None,
        }
        return json.dumps(fields)

    @staticmethod
    def from_json(text):
        """The Arch in `text`. ValueError, in one sentence, if it holds none."""
        try:
            fields = json.loads(text)
            stages = []
            for stage in fields["stages"]:
                branches = [Branch(**branch) for branch in stage["branches"]]
                stages.append(Stage(stage["depth"], tuple(branches)))
            head = Head(**fields["head"]) if fields.get("head") else None
            fusion = Fusion(**fields["fusion"]) if fields.get("fusion") else None
            return Arch(fields["backbone"], fields["stem"], tuple(stages), head, fusion)
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"this is not the JSON of an architecture ({reason:.80})") from None


# ---------------------------------------------------------------------------------- a search space

NO_LIMIT = 10**9


@dataclass(frozen=True)
class BlockChoices:
    """A line of Tables A1-A3: what the blocks of a stage, or of one branch of it, may be."""

    width: tuple
    kernel: tuple
    groups: tuple
    attention: tuple = (False,)
    expansion: tuple = (1,)
    most_per_group: int = NO_LIMIT  # channels of a group: what the shared filters can give

    def groups_of(self, hidden):
        """The group numbers for `hidden` channels. ours: only those that divide, see `elastic`."""
        fitting = []
        for groups in self.groups:
            if hidden % groups == 0 and hidden // groups <= self.most_per_group:
                fitting.append(groups)
        if not fitting and len(self.width) == len(self.expansion) == len(self.groups) == 1:
            return self.groups  # an architecture made by hand keeps its own
        return fitting

    def sample(self, block, rng):
        """A random Branch, drawn dimension by dimension.

        Drawn from the list of all combinations instead, widths and expansions that many group
        numbers divide would be more frequent than others.
        """
        width = rng.choice(self.width)
        kernel = rng.choice(self.kernel)
        expansion = rng.choice(self.expansion)
        attention = rng.choice(self.attention)
        hidden = Branch(width, expansion=expansion).hidden(block)
        fitting = self.groups_of(hidden)
        if not fitting:
            return self.sample(block, rng)  # these two do not go together: draw again
        return Branch(width, kernel, rng.choice(fitting), attention, expansion)

    @cache  # noqa: B019 - the tables have few lines, and they are kept
    def options(self, block):
        """Every Branch of this line, from small to large: wide and with few groups last."""
        found = []
        for width in self.width:
            for expansion in self.expansion:
                hidden = Branch(width, expansion=expansion).hidden(block)
                for kernel in self.kernel:
                    for groups in sorted(self.groups_of(hidden), reverse=True):
                        for attention in self.attention:
                            found.append(Branch(width, kernel, groups, attention, expansion))
        return tuple(found)


@dataclass(frozen=True)
class HeadChoices:
    """The line of Tables A1-A2 for the deconvolutions."""

    width: tuple
    kernel: tuple
    groups: tuple
    most_per_group: int = NO_LIMIT
    most_per_group_first: int = NO_LIMIT  # the first deconvolution has inputs of another width

    @cache  # noqa: B019 - as above
    def options(self, in_channels):
        """Every Head over `in_channels`, from small to large."""
        found = []
        for width in self.width:
            for kernel in self.kernel:
                for groups in sorted(self.groups_of(width, in_channels), reverse=True):
                    found.append(Head(width, kernel, groups))
        return tuple(found)

    def groups_of(self, width, in_channels):
        """The group numbers for this width, as `BlockChoices.groups_of`."""
        fitting = []
        for groups in self.groups:
            if width % groups or width // groups > self.most_per_group:
                continue
            if width // common_groups(groups, in_channels, width) <= self.most_per_group_first:
                fitting.append(groups)
        if not fitting and len(self.width) == len(self.groups) == 1:
            return self.groups
        return fitting

    def sample(self, in_channels, rng):
        """A random Head, drawn dimension by dimension."""
        width = rng.choice(self.width)
        fitting = self.groups_of(width, in_channels)
        if not fitting:
            return self.sample(in_channels, rng)
        return Head(width, rng.choice(self.kernel), rng.choice(fitting))


@dataclass(frozen=True)
class Space:
    """The architectures a search may choose from."""

    backbone: str
    stem: tuple
    depth: tuple  # for each stage: its depths
    blocks: tuple  # for each stage: a BlockChoices for each branch
    head: HeadChoices | None
    image_size: tuple = (256, 192)  # height, width the budgets are counted at
    fusions: tuple = (None,)

    @staticmethod
    def of(arch, image_size=None):
        """The space that holds one architecture: over it, a PoseNet is a finished network."""
        depth = tuple([(stage.depth,) for stage in arch.stages])
        blocks = []
        for stage in arch.stages:
            line = [BlockChoices(*[(v,) for v in branch]) for branch in stage.branches]
            blocks.append(tuple(line))
        head = HeadChoices(*[(value,) for value in arch.head]) if arch.head else None
        image_size = image_size or BACKBONES[arch.backbone].image_size
        fusions = (arch.fusion,)
        return Space(arch.backbone, (arch.stem,), depth, tuple(blocks), head, image_size, fusions)

    def smallest(self):
        """The least of everything: depth, width, kernel, most groups, no attention."""
        return self._end(0)

    def largest(self):
        """The most of everything; every other network of the space is a slice of this one."""
        return self._end(-1)

    def _end(self, index):
        """The Arch of all first (0) or all last (-1) choices, with the first fusion."""
        plan = BACKBONES[self.backbone]
        stages = []
        for depth, line, block in zip(self.depth, self.blocks, plan.block, strict=True):
            branches = [choices.options(block)[index] for choices in line]
            stages.append(Stage(depth[index], tuple(branches)))
        head = self._heads(stages)[index]
        return Arch(self.backbone, self.stem[index], tuple(stages), head, self.fusions[0])

    def _heads(self, stages):
        """The heads over these stages: they see branch 1 of the last."""
        if self.head is None:
            return (None,)
        return self.head.options(stages[-1].branches[0].width)

    def sample(self, rng):
        """A random Arch, from a `random.Random`."""
        stages = []
        for index, line in enumerate(self.blocks):
            branches = [self._sample_branch(index, branch, rng) for branch in range(len(line))]
            stages.append(Stage(rng.choice(self.depth[index]), tuple(branches)))
        head = self._sample_head(stages, rng)
        stem = rng.choice(self.stem)
        return Arch(self.backbone, stem, tuple(stages), head, rng.choice(self.fusions))

    def _sample_branch(self, stage, branch, rng):
        return self.blocks[stage][branch].sample(BACKBONES[self.backbone].block[stage], rng)

    def _sample_head(self, stages, rng):
        if self.head is None:
            return None
        return self.head.sample(stages[-1].branches[0].width, rng)

    def redraw(self, arch, rng):
        """A neighbour of `arch`: one decision, chosen at random, is drawn anew as `sample` does."""
        what, number, branch = rng.choice(_decisions(self))
        if what == "stem":
            return replace(arch, stem=rng.choice(self.stem))
        if what == "fusion":
            return replace(arch, fusion=rng.choice(self.fusions))
        if what == "head":
            return replace(arch, head=self._sample_head(arch.stages, rng))
        stage = arch.stages[number]
        if what == "depth":
            stage = stage._replace(depth=rng.choice(self.depth[number]))
        else:
            branches = list(stage.branches)
            branches[branch] = self._sample_branch(number, branch, rng)
            stage = stage._replace(branches=tuple(branches))
        stages = arch.stages[:number] + (stage,) + arch.stages[number + 1 :]
        head = arch.head
        if head not in self._heads(stages):  # the last stage has another width now
            head = self._sample_head(stages, rng)
        return replace(arch, stages=stages, head=head)

    def decisions(self):
        """How many decisions `redraw` chooses from."""
        return len(_decisions(self))

    def __contains__(self, arch):
        if arch.backbone != self.backbone:
            return False
        if arch.stem not in self.stem or arch.fusion not in self.fusions:
            return False
        block = BACKBONES[self.backbone].block
        for index, stage in enumerate(arch.stages):
            if stage.depth not in self.depth[index]:
                return False
            for branch, choices in zip(stage.branches, self.blocks[index], strict=True):
                if branch not in choices.options(block[index]):
                    return False
        return arch.head in self._heads(arch.stages)

    def size(self):
        """How many architectures there are (a Python int: it does not fit a float)."""
        block = BACKBONES[self.backbone].block
        count = len(self.stem) * len(self.fusions)
        for depths in self.depth:
            count *= len(depths)
        for index, line in enumerate(self.blocks):
            for branch, choices in enumerate(line):
                options = choices.options(block[index])
                if index == len(self.blocks) - 1 and branch == 0 and self.head:
                    # the head sees this branch, so the two are counted together
                    count *= sum(len(self.head.options(option.width)) for option in options)
                else:
                    count *= len(options)
        return count

    def within(self, arch):
        """The space of everything not larger than `arch`, with a fusion after any stage.

        So a found S-ViPNAS becomes the T super-network (Sec. 3.4.2). ours, as the paper does not
        say how small T networks get: depth down to 1 (block, or module of HRNet), searched widths
        down to half in the table's steps, kernels down to the table's least, any group number of
        the table that keeps a group as small as in `arch`, attention only where `arch` has it.
        ValueError if `arch` has another backbone.
        """
        if arch.backbone != self.backbone:
            raise ValueError(f"a {arch.backbone} does not lie in the space {self.backbone}")
        plan = BACKBONES[self.backbone]
        depth = []
        blocks = []
        for index, stage in enumerate(arch.stages):
            module = plan.modules[index] or 1
            depth.append(steps(module, stage.depth, module))
            line = []
            for choices, branch in zip(self.blocks[index], stage.branches, strict=True):
                line.append(choices_within(choices, branch, plan.block[index]))
            blocks.append(tuple(line))
        head = None
        if arch.head:
            head = head_choices_within(self.head, arch.head, arch.stages[-1].branches[0].width)
        fusions = []  # the temporal-level space: N_S stages times N_O operations (Sec. 3.3)
        for stage in range(1, len(arch.stages) + 1):
            fusions += [Fusion(stage, operation) for operation in OPERATIONS]
        stem = widths_within(self.stem, arch.stem)
        shape = (stem, tuple(depth), tuple(blocks), head)
        return Space(self.backbone, *shape, self.image_size, tuple(fusions))


@lru_cache(maxsize=64)
def _decisions(space):
    """(what, stage, branch) of every decision of `space` that has more than one option."""
    found = []
    if len(space.stem) > 1:
        found.append(("stem", None, None))
    if len(space.fusions) > 1:
        found.append(("fusion", None, None))
    if len(space._heads(space.largest().stages)) > 1:
        found.append(("head", None, None))
    block = BACKBONES[space.backbone].block
    for index, line in enumerate(space.blocks):
        if len(space.depth[index]) > 1:
            found.append(("depth", index, None))
        for branch, choices in enumerate(line):
            if len(choices.options(block[index])) > 1:
                found.append(("branch", index, branch))
    return found or [("stem", None, None)]


def steps(low, high, step=16):
    """low, low + step, ..., high."""
    return tuple(range(low, high + 1, step))


def widths_within(table, width):
    """Widths from half of `width` up to it, in the table's steps; one it does not search stays."""
    if len(table) == 1:
        return (width,)
    step = table[1] - table[0]
    least = width - width // 2 // step * step
    return steps(least, width, step)


def choices_within(choices, branch, block):
    """The BlockChoices of everything not larger than `branch`, see `Space.within`."""
    kernel = steps(min(choices.kernel[0], branch.kernel), branch.kernel, 2)
    expansion = [e for e in choices.expansion if e < branch.expansion] + [branch.expansion]
    return BlockChoices(
        width=widths_within(choices.width, branch.width),
        kernel=kernel,
        groups=tuple(sorted({*choices.groups, branch.groups})),
        attention=BOTH if branch.attention else (False,),
        expansion=tuple(expansion),
        most_per_group=branch.hidden(block) // branch.groups,
    )


def head_choices_within(choices, head, in_channels):
    """The HeadChoices of everything not larger than `head` over `in_channels`."""
    return HeadChoices(
        width=widths_within(choices.width, head.width),
        kernel=steps(min(choices.kernel[0], head.kernel), head.kernel, 2),
        groups=tuple(sorted({*choices.groups, head.groups})),
        most_per_group=head.width // head.groups,
        most_per_group_first=head.width // common_groups(head.groups, in_channels, head.width),
    )


BOTH = (False, True)  # attention: skipped or used


def table_space(backbone, stem, stages, head, image_size=(256, 192)):
    """A Space from the lines of its table: (depths, a BlockChoices for each branch) a stage."""
    depth = tuple([line[0] for line in stages])
    blocks = tuple([line[1:] for line in stages])
    return Space(backbone, stem, depth, blocks, head, image_size)


def resnet(*widths):
    """A line of Table A2. Steps (Sec. A.2): width 16, kernel 2, groups 16."""
    return BlockChoices(steps(*widths), (3, 5), steps(16, 64), BOTH)


def mobile(width):
    """A line of Table A1. Groups: all numbers of the printed range, 3/8 to 6 times the width."""
    groups = steps(3 * width // 8, 6 * width, 1)
    return BlockChoices((width,), (3, 5, 7), groups, BOTH, (3, 4, 5, 6))


def hrnet(width):
    """A line of Table A3. ours: widths in steps of a quarter of the maximum."""
    return BlockChoices(steps(width // 4, width, width // 4), (3,), steps(1, width, 1), BOTH)


# fmt: off
SPACES = {
    # Table A2
    "resnet50": table_space("resnet50", steps(32, 64), [
        ((3, 4),    resnet(64, 80)),
        ((4, 5, 6), resnet(128, 160)),
        ((6, 7, 8), resnet(256, 320)),
        ((3, 4),    resnet(512, 640)),
    ], HeadChoices(steps(64, 256), (4,), steps(16, 64))),

    # Table A1
    "mobilenetv3": table_space("mobilenetv3", (16,), [
        ((1,),      BlockChoices((16,), (3,), steps(2, 16, 1), BOTH)),
        ((2, 3, 4), mobile(24)),
        ((2, 3, 4), mobile(40)),
        ((2, 3, 4), mobile(80)),
        ((2, 3, 4), mobile(112)),
        ((2, 3, 4), mobile(160)),
    ], HeadChoices((256,), (4,), steps(32, 256, 1))),

    # Table A3. Of the bottlenecks it prints the middle width, 16 to 64; four times that comes out
    "hrnet_w32": table_space("hrnet_w32", steps(16, 64), [
        ((2, 3, 4),   BlockChoices(steps(64, 256, 64), (3,), steps(1, 16, 1), BOTH, (4,))),
        ((4,),        hrnet(32), hrnet(64)),
        ((8, 12, 16), hrnet(32), hrnet(64), hrnet(128)),
        ((8, 12),     hrnet(32), hrnet(64), hrnet(128), hrnet(256)),
    ], None),

    # ours: shaped like MobileNet-V3, small enough to be trained on two CPU cores in minutes.
    # After the expansions: how many channels a group may have at most
    "tiny": table_space("tiny", (16,), [
        ((1, 2),    BlockChoices((24,), (3,), (24, 48), (False,), (1, 2), 1)),
        ((1, 2),    BlockChoices((32, 48), (3, 5), (64, 96, 144), BOTH, (2, 3), 1)),
        ((1, 2, 3), BlockChoices(
            (48, 64), (3, 5), (48, 64, 72, 96, 128, 144, 192), BOTH, (2, 3), 2)),
        ((1, 2),    BlockChoices((64,), (3, 5), (128, 192), BOTH, (2, 3), 1)),
    ], HeadChoices((48,), (4,), (8,)), image_size=(128, 96)),
}
# fmt: on


def serial_arch(backbone, stem, stages, head):
    """An Arch with one branch a stage, from rows (depth, Branch)."""
    stages = tuple(Stage(depth, (branch,)) for depth, branch in stages)
    return Arch(backbone, stem, stages, head)


def hrnet_arch():
    """HRNet-W32 [49]: widths 32, 64, 128, 256 in the branches, 1, 4 and 3 modules of 4 blocks."""
    stages = [Stage(4, (Branch(256, expansion=4),))]
    for branches, depth in ((2, 4), (3, 16), (4, 12)):
        widths = [32 * 2**branch for branch in range(branches)]
        stages.append(Stage(depth, tuple(Branch(width) for width in widths)))
    return Arch("hrnet_w32", 64, tuple(stages), head=None)


# fmt: off
ARCHS = {
    # the two networks that the authors released
    "s_vipnas_resnet50": serial_arch(
        "resnet50", 48, [
            # depth  width kernel groups attention
            (4, Branch(80, 3, 16, True)),
            (6, Branch(160, 5, 16, False)),
            (7, Branch(304, 5, 16, True)),
            (3, Branch(608, 5, 16, True)),
        ], Head(144, 4, 16),
    ),
    "s_vipnas_mobilenetv3": serial_arch(
        "mobilenetv3", 16, [
            # depth  width kernel groups attention expansion
            (1, Branch(16, 3, 8, True, 1)),
            (4, Branch(24, 7, 120, True, 5)),
            (4, Branch(40, 7, 20, False, 4)),
            (4, Branch(80, 5, 100, True, 5)),
            (4, Branch(112, 7, 280, True, 5)),
            (4, Branch(160, 5, 240, True, 6)),
        ], Head(160, 4, 160),
    ),
    # made by hand: Simple Baselines [56] and HRNet [49]
    "sbl_resnet18": serial_arch(
        "resnet18", 64,
        [(2, Branch(64)), (2, Branch(128)), (2, Branch(256)), (2, Branch(512))], Head(256),
    ),
    "sbl_resnet50": serial_arch(
        "resnet50", 64, [
            (3, Branch(256, expansion=4)),
            (4, Branch(512, expansion=4)),
            (6, Branch(1024, expansion=4)),
            (3, Branch(2048, expansion=4)),
        ], Head(256),
    ),
    "hrnet_w32": hrnet_arch(),
}
# fmt: on

# ------------------------------------------------------------------------------ parts of a network


class ConvNorm(nn.Module):
    """A convolution (or deconvolution) and its batch norm, called with the convolution's choice."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.norm = ElasticBatchNorm2d(conv.out_channels)

    def forward(self, x, out_channels=None, kernel=None, groups=None):
        """As the convolution's forward."""
        return self.norm(self.conv(x, out_channels, kernel, groups))

    @staticmethod
    def cost(area, in_channels, out_channels, kernel=1, groups=1):
        """Cost of a convolution whose output has `area` positions, with its batch norm."""
        conv = ElasticConv2d.cost(area, in_channels, out_channels, kernel, groups)
        return conv + ElasticBatchNorm2d.cost(out_channels)


class Stem(nn.Module):
    """A stride-2 convolution; then a stride-2 max pool (ResNet) or a second one (HRNet)."""

    def __init__(self, plan, width):
        super().__init__()
        self.plan = plan
        self.conv1 = ConvNorm(ElasticConv2d(3, width, plan.stem_kernel, stride=2))
        if plan.stem_second == "conv":
            self.conv2 = ConvNorm(ElasticConv2d(width, width, 3, stride=2))

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
        """Cost for an image of so many pixels."""
        cost = ConvNorm.cost(image_area // 4, 3, width, plan.stem_kernel)
        if plan.stem_second == "conv":
            cost += ConvNorm.cost(image_area // 16, width, width, 3)
        return cost


class Block(nn.Module):
    """What the three kinds of blocks share: attention, and a skip over the block.

    Elastic attention (Fig. A5): where a choice has none, the features go on unchanged.

        x --> convolutions --> attention (used or not) --> + --> activation -->
        '---------------> skip (projected if the shape changes) --'
    """

    def __init__(self, in_channels, branch, plan, stage, stride, elastic_input):
        super().__init__()
        self.stride = stride
        self.activation = plan.activations[stage]
        self.make(in_channels, branch, plan.attention)
        if self.projects and (elastic_input or stride > 1 or in_channels != branch.width):
            # in a super-network the chosen widths decide whether it is used
            self.project = ConvNorm(ElasticConv2d(in_channels, branch.width, 1, stride))

    projects = True  # whether the skip is projected where the shape changes, or left out (mobile)

    def attend(self, x, branch):
        """Attention, or identity."""
        return self.attention(x) if branch.attention else x

    def skip(self, x, branch):
        """The block's input in the shape of its output."""
        if self.stride == 1 and x.shape[1] == branch.width:
            return x
        return self.project(x, branch.width)

    @staticmethod
    def skip_cost(area, in_channels, branch, stride):
        """Cost of the projection, if there is one."""
        if stride == 1 and in_channels == branch.width:
            return Cost()
        return ConvNorm.cost(area, in_channels, branch.width)


class Bottleneck(Block):
    """1x1, K x K (grouped, carries the stride), 1x1; attention; skip; activation (ResNet [13])."""

    def make(self, in_channels, branch, attention):
        hidden = branch.hidden("bottleneck")
        middle = ElasticConv2d(hidden, hidden, branch.kernel, self.stride, branch.groups)
        self.conv1 = ConvNorm(ElasticConv2d(in_channels, hidden))
        self.conv2 = ConvNorm(middle)
        self.conv3 = ConvNorm(ElasticConv2d(hidden, branch.width))
        if branch.attention:
            self.attention = attention(branch.width)

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        hidden = branch.hidden("bottleneck")
        y = self.activation(self.conv1(x, hidden))
        y = self.activation(self.conv2(y, hidden, branch.kernel, branch.groups))
        y = self.conv3(y, branch.width)
        y = self.attend(y, branch)
        return self.activation(y + self.skip(x, branch))

    @classmethod
    def cost(cls, area, in_channels, branch, attention, stride):
        """Cost of a block whose output has `area` positions."""
        hidden = branch.hidden("bottleneck")
        cost = ConvNorm.cost(area * stride**2, in_channels, hidden)
        cost += ConvNorm.cost(area, hidden, hidden, branch.kernel, branch.groups)
        cost += ConvNorm.cost(area, hidden, branch.width)
        if branch.attention:
            cost += attention.cost(area, branch.width)
        return cost + cls.skip_cost(area, in_channels, branch, stride)


class BasicBlock(Block):
    """K x K (carries the stride), K x K, both grouped; attention; skip; activation (ResNet)."""

    def make(self, in_channels, branch, attention):
        width, kernel, groups = branch.width, branch.kernel, branch.groups
        self.conv1 = ConvNorm(ElasticConv2d(in_channels, width, kernel, self.stride, groups))
        self.conv2 = ConvNorm(ElasticConv2d(width, width, kernel, groups=groups))
        if branch.attention:
            self.attention = attention(width)

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        y = self.activation(self.conv1(x, branch.width, branch.kernel, branch.groups))
        y = self.conv2(y, branch.width, branch.kernel, branch.groups)
        y = self.attend(y, branch)
        return self.activation(y + self.skip(x, branch))

    @classmethod
    def cost(cls, area, in_channels, branch, attention, stride):
        """Cost of a block whose output has `area` positions."""
        width = branch.width
        cost = ConvNorm.cost(area, in_channels, width, branch.kernel, branch.groups)
        cost += ConvNorm.cost(area, width, width, branch.kernel, branch.groups)
        if branch.attention:
            cost += attention.cost(area, width)
        return cost + cls.skip_cost(area, in_channels, branch, stride)


class MobileBlock(Block):
    """1x1 expansion (absent at ratio 1), K x K (grouped, stride), SE, 1x1 (MobileNet-V3 [14]).

    The last convolution has no activation. A skip only where the shape stays. The attention sits in
    the middle, on the expanded channels, as in the released network.
    """

    projects = False

    def make(self, in_channels, branch, attention):
        hidden = branch.hidden("mobile")
        if self.expands(in_channels, branch):
            self.conv1 = ConvNorm(ElasticConv2d(in_channels, hidden))
        middle = ElasticConv2d(hidden, hidden, branch.kernel, self.stride, branch.groups)
        self.conv2 = ConvNorm(middle)
        self.conv3 = ConvNorm(ElasticConv2d(hidden, branch.width))
        if branch.attention:
            self.attention = attention(hidden)

    @staticmethod
    def expands(in_channels, branch):
        """Whether there is an expansion convolution."""
        return branch.expansion > 1 or branch.hidden("mobile") != in_channels

    def forward(self, x, branch):
        """(B, I, H, W) -> (B, width, H / stride, W / stride)."""
        hidden = branch.hidden("mobile")
        y = x
        if self.expands(x.shape[1], branch):
            y = self.activation(self.conv1(x, hidden))
        y = self.activation(self.conv2(y, hidden, branch.kernel, branch.groups))
        y = self.attend(y, branch)
        y = self.conv3(y, branch.width)
        return x + y if y.shape == x.shape else y

    @classmethod
    def cost(cls, area, in_channels, branch, attention, stride):
        """Cost of a block whose output has `area` positions."""
        hidden = branch.hidden("mobile")
        cost = Cost()
        if cls.expands(in_channels, branch):
            cost += ConvNorm.cost(area * stride**2, in_channels, hidden)
        cost += ConvNorm.cost(area, hidden, hidden, branch.kernel, branch.groups)
        if branch.attention:
            cost += attention.cost(area, hidden)
        return cost + ConvNorm.cost(area, hidden, branch.width)


BLOCKS = {"bottleneck": Bottleneck, "basic": BasicBlock, "mobile": MobileBlock}


class SerialStage(nn.Module):
    """Blocks one after another; the first one changes width and resolution.

    Elastic depth (Fig. A1): a choice of depth D runs the first D blocks.
    """

    def __init__(self, plan, index, in_widths, largest, elastic):
        super().__init__()
        (branch,) = largest.branches
        (in_channels,) = in_widths
        block = BLOCKS[plan.block[index]]
        stride = plan.strides[index]
        self.blocks = nn.ModuleList()
        self.blocks.append(block(in_channels, branch, plan, index, stride, elastic))
        for _ in range(largest.depth - 1):
            self.blocks.append(block(branch.width, branch, plan, index, 1, False))

    def forward(self, features, choice):
        """[(B, I, H, W)] -> [(B, width, H / stride, W / stride)]; ValueError if it is too deep."""
        if choice.depth > len(self.blocks):
            raise ValueError(f"this stage has {len(self.blocks)} blocks, not {choice.depth}")
        (x,) = features
        (branch,) = choice.branches
        for block in self.blocks[: choice.depth]:  # elastic depth
            x = block(x, branch)
        return [x]

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose output has `area` positions."""
        (branch,) = choice.branches
        (in_channels,) = in_widths
        block = BLOCKS[plan.block[index]]
        first = block.cost(area, in_channels, branch, plan.attention, plan.strides[index])
        others = block.cost(area, branch.width, branch, plan.attention, 1)
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
        widths = [branch.width for branch in largest.branches]
        self.module_depth = plan.modules[index]
        self.is_last = index == len(plan.strides) - 1  # then only branch 1 leaves it, for the head

        self.transitions = nn.ModuleDict()
        for b, in_channels in enumerate(in_widths + in_widths[-1:]):
            is_new = b == len(in_widths)
            if elastic or is_new or in_channels != widths[b]:
                conv = ElasticConv2d(in_channels, widths[b], 3, stride=2 if is_new else 1)
                self.transitions[str(b)] = ConvNorm(conv)

        self.branches = nn.ModuleList()
        for branch in largest.branches:
            blocks = nn.ModuleList()
            for _ in range(largest.depth):
                blocks.append(BasicBlock(branch.width, branch, plan, index, 1, False))
            self.branches.append(blocks)

        modules = largest.depth // self.module_depth
        self.exchanges = nn.ModuleList()
        for module in range(modules):
            outputs = 1 if self.is_last and module == modules - 1 else len(widths)
            self.exchanges.append(Exchange(widths, outputs))

    def forward(self, features, choice):
        """Features of the last stage's branches -> those of this one's; ValueError if too deep."""
        if choice.depth > len(self.branches[0]):
            raise ValueError(f"this stage has {len(self.branches[0])} blocks, not {choice.depth}")
        features = self.transition(features, choice)
        modules = choice.depth // self.module_depth
        for module in range(modules):  # elastic depth: the first modules
            start = module * self.module_depth
            for b, branch in enumerate(choice.branches):
                for block in self.branches[b][start : start + self.module_depth]:
                    features[b] = block(features[b], branch)
            outputs = 1 if self.is_last and module == modules - 1 else len(features)
            features = self.exchanges[module](features, outputs)
        return features

    def transition(self, features, choice):
        """The branches in their widths, and one more from the coarsest."""
        changed = []
        for b, x in enumerate(features + features[-1:]):
            width = choice.branches[b].width
            if b == len(features) or x.shape[1] != width:
                x = F.relu(self.transitions[str(b)](x, width))
            changed.append(x)
        return changed

    @staticmethod
    def cost(plan, index, in_widths, choice, area):
        """Cost of a stage whose branch 1 has `area` positions, each next one a quarter."""
        cost = Cost()
        widths = [branch.width for branch in choice.branches]
        for b, in_channels in enumerate(in_widths + in_widths[-1:]):
            if b == len(in_widths) or in_channels != widths[b]:
                cost += ConvNorm.cost(area // 4**b, in_channels, widths[b], 3)
        for b, branch in enumerate(choice.branches):
            block = BasicBlock.cost(area // 4**b, branch.width, branch, plan.attention, 1)
            cost += block.times(choice.depth)
        modules = choice.depth // plan.modules[index]
        is_last = index == len(plan.strides) - 1
        cost += Exchange.cost(area, widths, len(widths)).times(modules - 1)
        return cost + Exchange.cost(area, widths, 1 if is_last else len(widths))


class Exchange(nn.Module):
    """HRNet's exchange unit: every branch becomes the sum of all, in its own width and size.

    From a coarser branch comes a 1x1 convolution, enlarged (nearest neighbour); from a finer one a
    stride-2 3x3 convolution for every halving, of which the last changes the width. Then ReLU.
    """

    def __init__(self, widths, outputs):
        super().__init__()
        self.paths = nn.ModuleDict()  # "j to i": convolutions from branch j to branch i
        for i in range(outputs):
            for j in range(len(widths)):
                if i != j:
                    self.paths[f"{j} to {i}"] = self.path(widths, j, i)

    @staticmethod
    def path(widths, j, i):
        """The convolutions from branch j to branch i."""
        if j > i:
            return nn.ModuleList([ConvNorm(ElasticConv2d(widths[j], widths[i]))])
        layers = nn.ModuleList()
        for halving in range(i - j):
            width = widths[i] if halving == i - j - 1 else widths[j]
            layers.append(ConvNorm(ElasticConv2d(widths[j], width, 3, stride=2)))
        return layers

    def forward(self, features, outputs):
        """Features of all branches -> those of the first `outputs` branches."""
        fused = []
        for i in range(outputs):
            total = features[i]
            for j, x in enumerate(features):
                if i != j:
                    total = total + self.bring(x, j, i, features[i])
            fused.append(F.relu(total))
        return fused

    def bring(self, x, j, i, target):
        """Features of branch j in the shape of branch i's, `target`."""
        path = self.paths[f"{j} to {i}"]
        for layer in path[:-1]:
            x = F.relu(layer(x, x.shape[1]))
        x = path[-1](x, target.shape[1])
        return x if j < i else F.interpolate(x, target.shape[2:])

    @staticmethod
    def cost(area, widths, outputs):
        """Cost of a unit whose branch 1 has `area` positions."""
        cost = Cost()
        for i in range(outputs):
            for j in range(len(widths)):
                if j > i:
                    cost += ConvNorm.cost(area // 4**j, widths[j], widths[i])
                for halving in range(1, i - j + 1):
                    width = widths[i] if halving == i - j else widths[j]
                    cost += ConvNorm.cost(area // 4 ** (j + halving), widths[j], width, 3)
        return cost


def stage_class(plan, index):
    """The kind of stage `index` (from 0)."""
    return ParallelStage if plan.modules[index] else SerialStage


class PoseHead(nn.Module):
    """Deconvolutions up to 1/4 of the image, then a 1x1 convolution to one heatmap a joint."""

    def __init__(self, in_channels, head, reduction, joints):
        super().__init__()
        self.deconvs = nn.ModuleList()
        for _ in range(self.doublings(reduction)):
            deconv = ElasticConvTranspose2d(in_channels, head.width, head.kernel, head.groups)
            self.deconvs.append(ConvNorm(deconv))
            in_channels = head.width
        self.final = ElasticConv2d(in_channels, joints, bias=True)
        # the paper's sigma: heatmaps start near zero, where they mostly are
        nn.init.normal_(self.final.weight, std=0.001)

    @staticmethod
    def doublings(reduction):
        """How many deconvolutions lead from 1/reduction to 1/4 of the image."""
        return int(math.log2(reduction // 4))

    def forward(self, x, head):
        """(B, I, h, w) -> heatmaps (B, K, H/4, W/4)."""
        for deconv in self.deconvs:
            x = F.relu(deconv(x, head.width, head.kernel, head.groups))
        return self.final(x)

    @classmethod
    def cost(cls, area, in_channels, head, reduction, joints):
        """Cost of a head whose input has `area` positions."""
        cost = Cost()
        for _ in range(cls.doublings(reduction)):
            choice = (head.width, head.kernel, head.groups)
            cost += ElasticConvTranspose2d.cost(area, in_channels, *choice)
            cost += ElasticBatchNorm2d.cost(head.width)
            in_channels = head.width
            area = 4 * area
        return cost + ElasticConv2d.cost(area, in_channels, joints, bias=True)


# ------------------------------------------------------------------------------------- the network


class PoseNet(nn.Module):
    """A pose network: images (B, 3, H, W) -> heatmaps (B, joints, H/4, W/4).

    Over a Space it is a super-network and each call names the architecture; over an Arch it is a
    finished network, which needs none. H and W are multiples of the total stride (32; tiny: 16).
    """

    def __init__(self, space_or_arch, joints=17):
        super().__init__()
        is_arch = isinstance(space_or_arch, Arch)
        space = Space.of(space_or_arch) if is_arch else space_or_arch
        largest = space.largest()
        elastic = space.size() > 1
        plan = BACKBONES[space.backbone]
        self.space = space
        self.joints = joints
        self.arch = None if elastic else largest

        self.stem = Stem(plan, largest.stem)
        self.stages = nn.ModuleList()
        self.fusions = nn.ModuleDict()
        widths = [largest.stem]  # of the branches that a stage starts from
        for index, stage in enumerate(largest.stages):
            kind = stage_class(plan, index)
            self.stages.append(kind(plan, index, widths, stage, elastic))
            widths = [branch.width for branch in stage.branches]
            operations = [o for o in OPERATIONS if Fusion(index + 1, o) in space.fusions]
            if operations:
                self.fusions[str(index + 1)] = TemporalFusion(joints, widths[0], operations)
        self.head = PoseHead(widths[0], largest.head, plan.reduction(), joints)

    def forward(self, images, arch=None, heatmaps=None):
        """heatmaps (B, joints, H/4, W/4) of the last frame: an arch with a fusion needs them."""
        arch = arch or self.arch
        if arch is None:
            raise ValueError("a super-network holds many networks: name one, net(images, arch)")
        if arch.fusion and heatmaps is None:
            raise ValueError("this architecture fuses heatmaps: call net(images, arch, heatmaps)")

        # Fig. 2: convolutions, a fusion after one of the stages, convolutions, the head
        features = [self.stem(images, arch.stem)]  # one tensor a branch
        for number, stage in enumerate(arch.stages, start=1):
            features = self.stages[number - 1](features, stage)
            if arch.fusion and arch.fusion.stage == number:
                fusion = self.fusions[str(number)]
                features[0] = fusion(features[0], heatmaps, arch.fusion.operation)
        return self.head(features[0], arch.head)

    def extract(self, arch):
        """The finished network of `arch`: its slices copied, the outputs of net(images, arch)."""
        net = PoseNet(Space.of(arch, self.space.image_size), self.joints)
        net.to(next(self.parameters()).device)
        return net.inherit(self).train(self.training)

    def inherit(self, larger):
        """Take over every slice that `larger` holds; what it lacks (a fusion) stays. -> self."""
        theirs = dict(larger.named_modules())
        for name, layer in self.named_modules():
            if name in theirs and hasattr(layer, "copy_slice"):
                layer.copy_slice(theirs[name])
        return self


# ----------------------------------------------------------------------------------- what it costs


@lru_cache(maxsize=2**17)
def _stage_cost(backbone, index, in_widths, stage, area):
    """Cost of one stage. Given the widths at its borders it does not depend on the others."""
    plan = BACKBONES[backbone]
    return stage_class(plan, index).cost(plan, index, list(in_widths), stage, area)


@lru_cache(maxsize=2**14)
def _end_costs(backbone, stem, in_channels, head, image_area, joints):
    """Costs of the stem, and of the head over `in_channels`."""
    plan = BACKBONES[backbone]
    reduction = plan.reduction()
    head_cost = PoseHead.cost(image_area // reduction**2, in_channels, head, reduction, joints)
    return Stem.cost(plan, image_area, stem), head_cost


def stage_costs(arch, image_size=(256, 192), joints=17):
    """{"stem": Cost, "stage 1": Cost, ..., "head": Cost, perhaps "fusion": Cost}."""
    plan = BACKBONES[arch.backbone]
    image_area = image_size[0] * image_size[1]
    widths = (arch.stem,)
    costs = {"stem": None}  # known at the end, but first in the table
    for index, stage in enumerate(arch.stages):
        area = image_area // plan.reduction(index + 1) ** 2
        costs[f"stage {index + 1}"] = _stage_cost(arch.backbone, index, widths, stage, area)
        widths = tuple([branch.width for branch in stage.branches])
        if arch.fusion and arch.fusion.stage == index + 1:
            heatmap_area = image_area // 16
            operation = arch.fusion.operation
            fusion = TemporalFusion.cost(area, heatmap_area, joints, widths[0], operation)
            costs["fusion"] = fusion
    ends = _end_costs(arch.backbone, arch.stem, widths[0], arch.head, image_area, joints)
    costs["stem"], costs["head"] = ends
    return costs


def cost(arch, image_size=(256, 192), joints=17):
    """Cost of an architecture at an image size (height, width)."""
    total = Cost()
    for part in stage_costs(arch, image_size, joints).values():
        total += part
    return total


# ------------------------------------------------------------------------------------- checkpoints


class Inert:
    """Stands in for whatever a file names besides tensors: it takes everything, does nothing."""

    def __init__(self, *arguments, **named):
        pass

    def __call__(self, *arguments, **named):
        return self

    # what a pickle does with an object after making it
    __setstate__ = __setitem__ = append = extend = add = __call__


class TensorsOnly:
    """What reads the pickles in a file, in the shape of a module, as `torch.load` wants it.

    The names below, and no others, lead to code.
    """

    names = {
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    }

    class Unpickler(pickle.Unpickler):
        """Asks `find_class` for every class and function that a file names."""

        def find_class(self, module, name):
            return TensorsOnly.names.get(f"{module}.{name}", Inert)

    @staticmethod
    def load(file, **options):
        """As `pickle.load`."""
        return TensorsOnly.Unpickler(file, **options).load()


def save_checkpoint(contents, path):
    """`torch.save`, whole or not at all. UserError if it cannot be written."""
    with data.whole_file(path) as file:
        torch.save(contents, file)


def read_checkpoint(path):
    """The dict in a checkpoint, ours or another program's: its tensors and plain values.

    Nothing in the file is executed. Published files hold more (logs, settings, numpy's numbers),
    which `weights_only` does not accept: it becomes `Inert`. What is no dict comes out empty.
    UserError: no such file, or it is cut short or something else.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; train first, or name another checkpoint")
    try:
        try:
            contents = torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError:
            contents = torch.load(path, "cpu", TensorsOnly, weights_only=False)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        reason = type(error).__name__
        message = f"{path} is truncated or not a checkpoint ({reason}); make it anew"
        raise UserError(message) from None
    return contents if isinstance(contents, dict) else {}


def load_checkpoint(path, kind):
    """The dict saved under `path`, of `kind` "supernet" or "finished"; else UserError."""
    contents = read_checkpoint(path)
    found = contents.get("kind")
    if found != kind:
        what = f"a {found} checkpoint" if found in ("supernet", "finished") else "something else"
        raise UserError(f"{path} holds {what}, but a {kind} checkpoint is needed here")
    return contents


@contextlib.contextmanager
def complete(path):
    """Inside, whatever is missing in the checkpoint `path` is a UserError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        message = f"{path} lacks a part of what it should hold ({error}); make it anew"
        raise UserError(message) from None


def restore(net, state, path):
    """Load `state` into `net` and return it; UserError that names the tensors that do not fit."""
    own = net.state_dict()
    wrong = [name for name in state if name not in own]
    for name, tensor in own.items():
        if name not in state or state[name].shape != tensor.shape:
            wrong.append(name)
    if wrong:
        raise UserError(f"{path} is of another network: {', '.join(wrong[:3])} do not fit")
    net.load_state_dict(state)
    return net


def save_finished(path, nets, about):
    """Write finished networks, the key frame's first. about: from `data.about`, how to use them."""
    networks = []
    for net in nets:
        networks.append({"arch": net.arch.to_json(), "state": net.state_dict()})
    save_checkpoint({"kind": "finished", "networks": networks, "about": about}, path)


def load_finished(path):
    """(list of PoseNets in eval mode, about) as `save_finished` wrote them."""
    contents = load_checkpoint(path, "finished")
    nets = []
    with complete(path):
        about = contents["about"]
        for network in contents["networks"]:
            space = Space.of(Arch.from_json(network["arch"]), tuple(about["size"]))
            net = PoseNet(space, len(about["joints"])).eval()
            nets.append(restore(net, network["state"], path))
    return nets, about


def load_networks(path):
    """(networks, about) of a finished checkpoint, or of a published one.

    The published networks see COCO's joints at 256x192, in the heatmap cells of SBL.
    """
    if "kind" in read_checkpoint(path):
        return load_finished(path)
    return [load_mmpose(path)], data.about(data.COCO, (256, 192), data.SBL_CELL)


def load_supernet(path):
    """(super-network, its key-frame network or None, everything saved) of a run's supernet.pt."""
    contents = load_checkpoint(path, "supernet")
    with complete(path):
        about = contents["about"]
        joints = len(about["joints"])
        space = replace(SPACES[contents["space"]], image_size=tuple(about["size"]))
        key_net = None
        if contents["stage"] == "t":  # it lies within the network of the key frame (Sec. 3.4.2)
            key_net = PoseNet(Arch.from_json(contents["arch"]), joints).eval()
            restore(key_net, contents["key"], path)
            space = space.within(key_net.arch)
        elif contents["arch"]:
            raise UserError(f"{path} was trained as one architecture alone: nothing to search")
        supernet = restore(PoseNet(space, joints), contents["nets"][0], path)
    return supernet, key_net, contents


def read_archs(text):
    """A list of Archs: of a name in ARCHS, a JSON file (an Arch or a list), or a checkpoint."""
    if text in ARCHS:
        return [ARCHS[text]]
    try:
        contents = json.loads(Path(text).read_text(encoding="utf-8"))
        entries = contents if isinstance(contents, list) else [contents]
        if not entries:
            raise ValueError("it is an empty list")
        return [Arch.from_json(json.dumps(entry)) for entry in entries]
    except UnicodeDecodeError:  # no text, so it is a checkpoint
        nets, _ = load_networks(text)
        return [net.arch for net in nets]
    except (OSError, ValueError, RecursionError) as error:
        choices = f"an architecture's JSON file, a finished checkpoint, or {', '.join(ARCHS)}"
        message = f"no architecture can be read from {text} ({error}); choose {choices}"
        raise UserError(message) from None


def write_archs(archs, path):
    """Write one Arch, or a list of them (an allocation), as `read_archs` reads it."""
    if isinstance(archs, Arch):
        contents = json.loads(archs.to_json())
    else:
        contents = [json.loads(arch.to_json()) for arch in archs]
    data.write_json(contents, path)


# ------------------------------------------------------------------------------- published weights

# our name of a layer -> mmpose's; those of a block are named from the block on
# fmt: off
MMPOSE_LAYERS = {
    "s_vipnas_resnet50": {
        "stem.conv1.conv": "backbone.conv1",         "stem.conv1.norm": "backbone.bn1",
        "conv1.conv": "conv1",                       "conv1.norm": "bn1",
        "conv2.conv": "conv2",                       "conv2.norm": "bn2",
        "conv3.conv": "conv3",                       "conv3.norm": "bn3",
        "project.conv": "downsample.0",              "project.norm": "downsample.1",
        "attention.mask": "attention.conv_mask",
        "attention.reduce": "attention.channel_add_conv.0",
        "attention.norm": "attention.channel_add_conv.1",
        "attention.expand": "attention.channel_add_conv.3",
        "head.final": "head.final_layer",
    },
    "s_vipnas_mobilenetv3": {
        "stem.conv1.conv": "backbone.conv1.conv",    "stem.conv1.norm": "backbone.conv1.bn",
        "conv1.conv": "expand_conv.conv",            "conv1.norm": "expand_conv.bn",
        "conv2.conv": "depthwise_conv.conv",         "conv2.norm": "depthwise_conv.bn",
        "conv3.conv": "linear_conv.conv",            "conv3.norm": "linear_conv.bn",
        "attention.reduce": "se.conv1.conv",         "attention.expand": "se.conv2.conv",
        "head.final": "head.final_layer",
    },
}
# fmt: on


def _mmpose_name(name, ours):
    """mmpose's name of our tensor `ours` in network `name` of ARCHS (in its newer generation)."""
    *path, tensor = ours.split(".")
    prefix = ""
    if path[:2] == ["head", "deconvs"]:
        # theirs count the ReLUs too: deconvolution 0, norm 1, ReLU 2, deconvolution 3, ...
        index = 3 * int(path[2]) + ["conv", "norm"].index(path[3])
        return f"head.deconv_layers.{index}.{tensor}"
    if path[0] == "stages":
        # theirs number the blocks of ResNet stage by stage, those of MobileNet-V3 throughout
        stage, block = int(path[1]), int(path[3])
        if name == "s_vipnas_resnet50":
            prefix = f"backbone.layer{stage + 1}.{block}."
        else:
            before = sum(earlier.depth for earlier in ARCHS[name].stages[:stage])
            prefix = f"backbone.layer{before + block + 1}."
        path = path[4:]
    return f"{prefix}{MMPOSE_LAYERS[name]['.'.join(path)]}.{tensor}"


def load_mmpose(path):
    """A published S-ViPNAS checkpoint, of either network, as a finished PoseNet in eval mode.

    The tensors lie under `state_dict`; newer files call the head `head`, older `keypoint_head`.
    UserError, which names tensors, if it is another network.
    """
    contents = read_checkpoint(path)
    found = {}
    with complete(path):
        for key, tensor in contents.get("state_dict", contents).items():
            if isinstance(tensor, torch.Tensor):
                found[re.sub("^keypoint_head[.]", "head.", key)] = tensor

    # only ResNet's blocks have two numbers
    is_resnet = any(key.startswith("backbone.layer1.0.") for key in found)
    name = "s_vipnas_resnet50" if is_resnet else "s_vipnas_mobilenetv3"
    net = PoseNet(ARCHS[name]).eval()
    state = {}
    wrong = []
    for ours, tensor in net.state_dict().items():
        key = _mmpose_name(name, ours)
        # theirs of a layer norm has two more dimensions, of size 1
        if key in found and found[key].squeeze().shape == tensor.squeeze().shape:
            state[ours] = found[key].view_as(tensor)
        else:
            wrong.append(key)
    if wrong:
        raise UserError(
            f"{path} is neither a finished network of ours nor one of the two published "
            f"S-ViPNAS networks: {', '.join(wrong[:3])} are missing in it or do not fit"
        )
    net.load_state_dict(state)
    return net


# --------------------------------------------------------------------------------------- made fast


class Folded(nn.Module):
    """A convolution of a finished network that has taken over the batch norm behind it.

        gain (conv(x) + bias - mean) / sigma + shift  =  conv'(x) + bias'
        conv' = conv gain / sigma,   bias' = shift + (bias - mean) gain / sigma

    Called like the layers it stands for; the choice in the call it ignores.
    """

    def __init__(self, conv, norm=None):
        super().__init__()
        in_channels, out_channels, kernel, groups = conv.largest
        transposed = isinstance(conv, ElasticConvTranspose2d)
        weight = conv.weight
        bias = getattr(conv, "bias", None)
        if bias is None:
            bias = weight.new_zeros(out_channels)

        if norm is not None:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (O)
            bias = norm.bias + (bias - norm.running_mean) * scale
            if transposed:  # its filters (I, O / groups, K, K) are stored from the input's side
                scale = scale.view(groups, -1).repeat_interleave(in_channels // groups, dim=0)
                weight = weight * scale[:, :, None, None]
            else:
                weight = weight * scale[:, None, None, None]

        if not transposed and weight.shape[1] in (2, 3) and groups % 2 == 0:
            weight = join_pairs(weight, groups)
            groups = groups // 2
        sizes = (in_channels, out_channels, kernel)
        if transposed:
            self.conv = nn.ConvTranspose2d(*sizes, 2, (kernel - 2) // 2, groups=groups)
        else:
            self.conv = nn.Conv2d(*sizes, conv.stride, kernel // 2, groups=groups)
        self.conv.weight = nn.Parameter(weight.detach())
        self.conv.bias = nn.Parameter(bias.detach())

    def forward(self, x, *choice):
        """(B, I, H, W) -> (B, O, H', W')."""
        return self.conv(x)


def join_pairs(weight, groups):
    """Filters (O, I / groups, K, K) -> the same convolution in half as many groups.

    Groups of 2 or 3 channels fill little of a vector register, so two of them are run as one: each
    filter then reads the channels of both, with zeros at those of the other.
    """
    per_group = weight.shape[1]
    weight = weight.unflatten(0, (groups // 2, 2, -1))  # (pairs, 2, O / groups, I / groups, K, K)
    joined = weight.new_zeros(*weight.shape[:3], 2 * per_group, *weight.shape[4:])
    joined[:, 0, :, :per_group] = weight[:, 0]
    joined[:, 1, :, per_group:] = weight[:, 1]
    return joined.flatten(0, 2)  # (O, 2 I / groups, K, K)


def fold(module):
    """Put a `Folded` in the place of every convolution inside `module`, with its batch norm."""
    for name, child in list(module.named_children()):
        if isinstance(child, ConvNorm):
            setattr(module, name, Folded(child.conv, child.norm))
        elif isinstance(child, ElasticConv2d | ElasticConvTranspose2d):
            setattr(module, name, Folded(child))
        else:
            fold(child)


def example_inputs(net):
    """Black inputs of a finished network: one image of its own size, channels last."""
    height, width = net.space.image_size
    inputs = {"images": torch.zeros(1, 3, height, width)}
    if net.arch.fusion:
        inputs["heatmaps"] = torch.zeros(1, net.joints, height // 4, width // 4)
    return {name: x.to(memory_format=torch.channels_last) for name, x in inputs.items()}


def trace(folded, inputs):
    """Frozen TorchScript of a folded network, for images of just this size."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        script = torch.jit.trace(folded, example_kwarg_inputs=inputs, check_trace=False)
        script = torch.jit.freeze(script)
        for _ in range(3):  # it optimises itself during its first calls
            script(**inputs)
    return script


def compile_ahead(folded, inputs):
    """Machine code of a folded network (TorchInductor), for just this size and number of images."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(folded, (), inputs)
        file = torch._inductor.aoti_compile_and_package(
            program,
            package_path=f"{folder}/net.pt2",
            inductor_configs={"freezing": True},  # so the weights are laid out in advance
        )
        return torch._inductor.aoti_load_package(file)


class Deployed(nn.Module):
    """A finished network for inference, called like the PoseNet it was.

    `script` and `compiled` run images of the network's own size on a CPU, `compiled` single ones
    only; all others go through the folded network. `runtime` says in words what is used.
    """

    def __init__(self, folded):
        super().__init__()
        self.space = folded.space
        self.joints = folded.joints
        self.arch = folded.arch
        self.folded = folded
        self.script = None
        self.compiled = None
        self.runtime = "batch norm folded"

    def forward(self, images, arch=None, heatmaps=None):
        """images (B, 3, H, W) -> heatmaps (B, joints, H/4, W/4), without gradients."""
        inputs = {"images": images.contiguous(memory_format=torch.channels_last)}
        if self.arch.fusion:
            inputs["heatmaps"] = heatmaps.contiguous(memory_format=torch.channels_last)
        run = self.folded
        if self.script and images.shape[2:] == self.space.image_size and not images.is_cuda:
            run = self.compiled if self.compiled and len(images) == 1 else self.script
        with torch.no_grad():
            return run(**inputs)


def deploy(net, compiled=True):
    """A finished network made fast: the same outputs to 1e-4, twice as fast on a CPU.

    Batch norm is folded into the convolutions, and features are kept channels last. On a CPU the
    rest is done by frozen TorchScript, which starts at once, or, where that proves faster, by code
    compiled ahead of time. That takes half a minute and a C++ compiler: compiled=False does not
    try, and a warning says if it fails. On a GPU the folded network itself runs.
    """
    if net.arch is None:
        raise ValueError("only a finished network can be deployed: extract one first")
    folded = copy.deepcopy(net).eval()
    fold(folded)
    folded = folded.requires_grad_(False).to(memory_format=torch.channels_last)
    deployed = Deployed(folded)
    if next(folded.parameters()).is_cuda:
        return deployed
    inputs = example_inputs(net)
    deployed.script = trace(folded, inputs)
    deployed.runtime = "batch norm folded, TorchScript"
    if compiled:
        try:
            code = compile_ahead(folded, inputs)
        except Exception as error:  # many kinds, from a missing compiler to a full disk
            reason = str(error).splitlines()[0]
            warnings.warn(f"deployed without a compiler: {reason}", stacklevel=2)
            return deployed
        script_time, code_time = milliseconds([deployed.script, code], inputs)
        if code_time < script_time:  # not so for small networks
            deployed.compiled = code
            deployed.runtime = "batch norm folded, compiled ahead of time"
    return deployed


@contextlib.contextmanager
def one_thread():
    """What is compiled and measured in here runs on one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def milliseconds(runs, inputs, rounds=40):
    """The shortest time of each of `runs`, called in turns with the same inputs.

    It is this process's own time, so what else the machine does hardly counts.
    """
    times = np.zeros((rounds, len(runs)))
    with torch.no_grad():
        for turn in range(rounds):
            for i, run in enumerate(runs):
                start = time.process_time()
                run(**inputs)
                times[turn, i] = 1000 * (time.process_time() - start)
    return times.min(axis=0).tolist()


def frame_times(nets, compiled=False):
    """Milliseconds of each of several finished networks: deployed, one image, one CPU thread."""
    times = []
    with one_thread():
        for net in nets:
            deployed = deploy(copy.deepcopy(net).cpu(), compiled)
            times += milliseconds([deployed], example_inputs(net))
    return times


def onnxruntime_of(file):
    """The network in an ONNX file as a function of images; ImportError if not installed."""
    onnxruntime = importlib.import_module("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, ["CPUExecutionProvider"])

    def run(images):
        return session.run(None, {"images": images.numpy()})

    return run


def openvino_of(file):
    """The same, run by OpenVINO."""
    openvino = importlib.import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()

    def run(images):
        return request.infer([images.numpy()])

    return run


def other_engines(net, images):
    """{name: function of images} of the engines that are installed."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated
        file = f"{folder}/net.onnx"
        with contextlib.suppress(ImportError, torch.onnx.errors.OnnxExporterError):
            torch.onnx.export(net, (images,), file, input_names=["images"], dynamo=False)
            found["onnxruntime"] = onnxruntime_of(file)
        with contextlib.suppress(ImportError):
            found["OpenVINO"] = openvino_of(file)
    return found


def benchmark(checkpoint=None):
    """Print how fast deployed networks are: one image, one CPU thread, all side by side.

    The two released networks as they are, deployed, and in the engines that are installed (pip
    install onnx onnxruntime openvino); then the estimator in `checkpoint`.
    """
    with one_thread():
        for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3"):
            net = PoseNet(ARCHS[name]).eval()
            images = example_inputs(net)["images"].contiguous()
            runs = {"eager": net}
            for deployed in (deploy(net, compiled=False), deploy(net)):
                runs[deployed.runtime] = deployed
            runs.update(other_engines(net, images))
            times = milliseconds(list(runs.values()), {"images": images})
            print(f"{name}, 256x192, one image, one CPU thread")
            for runtime, ms in zip(runs, times, strict=True):
                print(f"{ms:9.2f} ms, {times[0] / ms:.2f} times as fast as eager: {runtime}")
    if checkpoint:
        nets, _ = load_networks(checkpoint)
        times = frame_times(nets, compiled=True)
        print(f"{checkpoint}: {times[0]:.2f} ms a key frame, {np.mean(times):.2f} ms a mean frame")


# ----------------------------------------------------------------------------- the video estimator

SURE = 0.2  # a joint with a higher score counts as seen
FEWEST_JOINTS = 4  # who shows fewer is lost


class VideoPose:
    """The finished estimator (Fig. 2): the S network on key frames, T networks in between.

        stream = VideoPose.load("runs/t/vipnas_t.pt").stream(box=(x, y, w, h))
        for frame in frames:
            keypoints = stream.step(frame)  # (K, 3): x, y in pixels of the frame, and score

    nets: the key frame's network, then one for each of the T frames after it. about: `data.about`.
    """

    def __init__(self, nets, about):
        self.nets = list(nets)
        self.about = about
        self.device = next(self.nets[0].parameters()).device

    @classmethod
    def load(cls, path, device=None, compiled=False):
        """From a T-ViPNAS; or an S-ViPNAS, a published one too: then every frame is a key frame.

        device: a GPU if there is one. compiled: see `deploy`. UserError if the file does not do.
        """
        nets, about = load_networks(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        deployed = [deploy(net.to(device), compiled) for net in nets]
        return cls(deployed, about)

    def stream(self, box=None):
        """A `Stream` that follows the person in `box`, or N people in a list of boxes.

        A box is x, y, w, h in pixels of the first frame; None: the person fills the frame.
        """
        return Stream(self, box)


def as_boxes(box, count=None):
    """A box (x, y, w, h) or None, or a list of them -> a list, of length `count`; or UserError."""
    is_one = box is None or all(np.ndim(number) == 0 and number is not None for number in box)
    boxes = [box] if is_one else list(box)
    for one in boxes:
        if one is not None and len(one) != 4:
            raise UserError(f"{one} is no box: it has four numbers x, y, w, h")
        if one is not None:
            data.window(one, (1, 1))  # raises UserError if it has no area
    if count is not None and len(boxes) != count:
        raise UserError(f"{len(boxes)} boxes for {count} people: give a box or None for each")
    return boxes


class Stream:
    """People followed through a video, all of them as one batch.

    Every T + 1 frames is a key frame: the S network looks at it alone. On the frames between, the
    T networks are handed the heatmaps of the frame before (eq. 2). ours: every frame is cropped by
    a window around the person's last pose, so he may walk away from where the key frame saw him,
    and the heatmaps are warped from his last window into this one before they are handed on.

    The box around a pose (ours) holds the joints that are seen, those with a score above .2 inside
    the frame, and is on each side larger by a pixel and a tenth of its longer side.

    After a step `lost` (N,) says who shows fewer than 4 joints. He keeps his window; at the next
    key frame he is left out, and gives nan, until `step` is handed a box for him. `boxes` says
    where each was last seen, and `t` is 0 on a key frame.
    """

    def __init__(self, pose, box):
        self.pose = pose
        self.boxes = as_boxes(box)
        self.is_single = len(self.boxes) == 1 and self.boxes[0] is box
        self.lost = np.zeros(len(self.boxes), dtype=bool)
        self.t = -1
        self.running = []  # numbers of the people in the batch
        self.matrices = None  # (M, 2, 3) of their windows in the last frame
        self.heatmaps = None  # (M, K, h, w) of the last frame

    def step(self, frame, box=None):
        """The next frame -> keypoints (K, 3), or (N, K, 3) for N people: x, y in it, and score.

        frame: whatever `data.as_picture` takes. box: as for `VideoPose.stream`; it makes this a
        key frame for all. In a list, who has None is followed from his last pose.
        """
        image = data.as_picture(frame)
        image.load()  # decoded once, at full size, for all windows
        handed = [None] * len(self.boxes)
        if box is not None:
            handed = as_boxes(box, len(self.boxes))
        self.t = (self.t + 1) % len(self.pose.nets) if box is None else 0
        if self.t == 0:
            self._start_period(handed, image)

        joints = len(self.pose.about["joints"])
        keypoints = np.full((len(self.boxes), joints, 3), np.nan)
        if self.running:
            keypoints[self.running] = self._run(image)
        for person, pose in enumerate(keypoints):
            seen = joints_inside(pose, image.size)
            self.lost[person] = seen.sum() < FEWEST_JOINTS
            if not self.lost[person]:
                self.boxes[person] = box_around(pose[seen])
        return keypoints[0] if self.is_single else keypoints

    def _start_period(self, handed, image):
        """At a key frame: who is run from now on, and where he is looked for."""
        self.running = []
        for person, new in enumerate(handed):
            if new is not None or not self.lost[person]:
                self.running.append(person)
            if new is not None:
                self.boxes[person] = tuple(new)
            elif self.boxes[person] is None:
                self.boxes[person] = (0, 0, *image.size)

    @torch.inference_mode()
    def _run(self, image):
        """This frame's network on everybody's window -> keypoints (M, K, 3) in the frame."""
        size = self.pose.about["size"]
        cell = self.pose.about["cell"]
        matrices = np.stack([data.crop_matrix(self.boxes[i], size) for i in self.running])
        crops = torch.stack([data.crop(image, matrix, size) for matrix in matrices])
        images = data.normalise(crops.to(self.pose.device))  # (M, 3, H, W)

        # eq. (2): H^t = S(I^t) on a key frame, T(I^t, H^(t-1)) on the others
        heatmaps = None
        if self.t > 0:
            heatmaps = data.warp_heatmaps(self.heatmaps, self.matrices, matrices, cell)
        self.heatmaps = self.pose.nets[self.t](images, heatmaps=heatmaps)  # (M, K, H/4, W/4)
        self.matrices = matrices

        keypoints = data.decode(self.heatmaps, cell=cell).cpu()
        return data.transform(keypoints, data.invert(matrices))


def joints_inside(pose, size):
    """Which joints of a pose (K, 3) are seen inside an image of `size` (width, height): (K,)."""
    x, y, score = pose.T
    inside = (x > -0.5) & (y > -0.5) & (x < size[0] - 0.5) & (y < size[1] - 0.5)
    return inside & (score > SURE)


def box_around(joints):
    """The box (x, y, w, h) around joints (n, 3), as `Stream` describes it."""
    low = joints[:, :2].min(axis=0)
    high = joints[:, :2].max(axis=0)
    margin = 0.1 * (high - low).max() + 1
    return (*(low - margin), *(high - low + 2 * margin))


# --------------------------------------------------------------------------- the command for videos

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
COLOURS = ("lime", "deepskyblue", "gold", "violet")  # of several people
GIF_SIZE = (480, 480)  # of overlay.gif at most


def _by_number(file):
    """What files are sorted by, so that 9.jpg comes before 10.jpg."""
    parts = re.split("([0-9]+)", file.name)
    return [part.zfill(20) for part in parts]


def read_video(path):
    """(name, Pillow image) of every frame: of a folder's images, or of one GIF, WebP or TIFF."""
    path = Path(path).resolve()
    files = [path]
    if not path.is_file():
        files = [file for file in path.glob("[!.]*") if file.suffix.lower() in PICTURES]
        files.sort(key=_by_number)
    if not files:
        raise UserError(f"there are no frames in {path}: name a folder of images, or a GIF file")
    for file in files:
        try:
            with Image.open(file) as image:
                for i in range(getattr(image, "n_frames", 1)):
                    image.seek(i)
                    frame = data.as_picture(ImageOps.exif_transpose(image))
                    yield f"{path.name}/{i if file == path else file.name}", frame
        except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
            remedy = "replace it or take it out"
            if file == path:
                remedy = f"of a film, make images: ffmpeg -i {path.name} frames/%06d.png"
            message = f"{file} is not an image that can be read ({error}); {remedy}"
            raise UserError(message) from None


class VideoResults:
    """What a run over a video leaves in the folder `out`."""

    def __init__(self, out, skeleton):
        self.out = Path(out)
        self.skeleton = skeleton
        # PoseTrack18's format of results
        self.poses = {"images": [], "annotations": [], "categories": [skeleton.category]}
        self.small = []  # overlays of 256 colours

    def add(self, name, frame, poses):
        """Write the overlay of a frame with `poses` (N, K, 3); keep what the other files need."""
        number = len(self.small)
        image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
        self.poses["images"].append(image)
        for person, pose in enumerate(poses):
            colour = COLOURS[person % len(COLOURS)] if len(poses) > 1 else None
            frame = data.draw_pose(frame, pose, self.skeleton, SURE, colour)
            result = {"image_id": number, "track_id": person}
            result["keypoints"] = pose.ravel().round(3).tolist()
            result["scores"] = pose[:, 2].round(4).tolist()
            self.poses["annotations"].append(result)
        data.save_image(frame, self.out / f"{number:06d}.png")
        frame.thumbnail(GIF_SIZE)
        self.small.append(frame.quantize())

    def write(self):
        """Write poses.json and overlay.gif of the frames so far."""
        if self.small:
            data.write_json(self.poses, self.out / "poses.json")
            data.save_image(self.small, self.out / "overlay.gif")
            print(f"{self.out}: {len(self.small)} overlays, overlay.gif, poses.json")


def look_again(stream):
    """Boxes for the next step: before a key frame, where who is lost was last seen; else None."""
    if stream.t < len(stream.pose.nets) - 1 or not stream.lost.any():
        return None
    people = zip(stream.boxes, stream.lost, strict=True)
    return [box if lost else None for box, lost in people]


def run_video(video, checkpoint, boxes, out):
    """Poses through a video; into the folder `out`: 000000.png ..., overlay.gif, poses.json.

    After an error in mid-video what was found so far is written, then the error is raised.
    """
    video = Path(video)
    folder = video if video.is_dir() else video.parent
    if Path(out).resolve() == folder.resolve():
        raise UserError(f"--out {out} is the folder of the video; name another to be written to")
    pose = VideoPose.load(checkpoint)
    stream = pose.stream(boxes)
    results = VideoResults(out, data.skeleton_of(pose.about))
    times = {"key": [], "non-key": []}
    try:
        for number, (name, frame) in enumerate(read_video(video)):
            again = look_again(stream)
            start = time.perf_counter()
            poses = stream.step(frame, again)
            kind = "non-key" if stream.t else "key"
            times[kind].append(1000 * (time.perf_counter() - start))
            note = ", looked again for who was lost" if again else ""
            print(f"frame {number}: {kind:7} mean score {poses[..., 2].mean():.2f}{note}")
            results.add(name, frame, poses)
    finally:
        results.write()
    times["mean"] = times["key"] + times["non-key"]
    parts = [f"{kind} {np.mean(ms):.1f} ms" for kind, ms in times.items() if ms]
    print(f"a frame of {len(boxes)} on {pose.device}: {', '.join(parts)}")


# -------------------------------------------------------------------------------- showing networks

# what Tables 1 and 2 print, and why ours is not quite that
PRINTED = {
    "s_vipnas_resnet50": "  7.3M  1.44   the released weights are a network close to the tables'",
    "s_vipnas_mobilenetv3": "  5.4M  0.69   likewise: the released head is not in Table A1",
    "sbl_resnet18": " 15.3M  5.79   cut off, not rounded",
    "sbl_resnet50": " 34.0M  8.99   equal (Table 2 repeats the 8.90 of [56])",
    "hrnet_w32": " 28.5M  7.10   the table repeats the figure of [49]",
}


def show(arch):
    """Print what an architecture is made of, and what each part costs."""
    image_size = BACKBONES[arch.backbone].image_size
    print(f"\n{arch}\n")
    print("part         parameters   multiply-adds    GFLOPs (as the paper counts)")
    parts = stage_costs(arch, image_size)
    parts["all"] = cost(arch, image_size)
    for name, part in parts.items():
        print(f"{name:10} {part.params:12,} {part.macs:15,} {part.gflops:9.4f}")


def show_all():
    """Print every architecture beside the paper's numbers, and the ends of every space."""
    print("architecture           parameters   multiply-adds    GFLOPs   the paper: them, and why")
    for name, arch in ARCHS.items():
        c = cost(arch)
        print(f"{name:20} {c.params:12,} {c.macs:15,} {c.gflops:9.4f}   {PRINTED[name]}")
    print("\nspace          architectures    smallest: parameters, GFLOPs      largest: the same")
    for name, space in SPACES.items():
        least = cost(space.smallest(), space.image_size)
        most = cost(space.largest(), space.image_size)
        ends = f"{least.params:16,} {least.gflops:10.4f}   {most.params:16,} {most.gflops:10.4f}"
        print(f"{name:12} {space.size():15.1e}    {ends}")


ATTENTION_NAMES = {GlobalContext: "+GC", SqueezeExcite: "+SE"}
FUSION_SIGNS = {"add": "+", "mul": "x", "cat": "C"}
RED = (200, 30, 30)
BLUE = (222, 232, 246)
ORANGE = (255, 214, 160)
LEFT = 100  # of the first box; before it stands the frame's name
BOX = 180  # width of a box
STEP = 216  # from box to box


def box_texts(arch):
    """Text of the boxes in a frame's row, left to right: {depth, width, kernel, groups}."""
    texts = [f"stem\n{arch.stem}"]
    for number, stage in enumerate(arch.stages, start=1):
        text = f"stage {number}"
        for b in stage.branches:
            text += f"\n{{{stage.depth}, {b.width}, {b.kernel}, {b.groups}}}"
            if b.expansion > 1:
                text += f" e{b.expansion}"
            if b.attention:
                text += " " + ATTENTION_NAMES[BACKBONES[arch.backbone].attention]
        texts.append(text)
    if arch.head:
        width, kernel, groups = arch.head
        texts.append(f"deconvolutions\n{{{width}, {kernel}, {groups}}}")
    else:
        texts.append("1x1 convolution")
    return [*texts, "heatmaps"]


def draw_row(pen, font, top, height, name, texts):
    """The boxes of a frame, joined by a line. Orange ones have attention."""
    middle = top + height / 2
    pen.text((10, middle), name, "black", font, anchor="lm")
    pen.line([(LEFT, middle), (LEFT + (len(texts) - 1) * STEP, middle)], "black", 2)
    for column, text in enumerate(texts):
        x = LEFT + column * STEP
        fill = ORANGE if "+" in text else BLUE
        pen.rectangle([x, top, x + BOX, top + height], fill, "black")
        pen.text((x + BOX / 2, middle), text, "black", font, anchor="mm", align="center")


def draw_fusion(pen, font, top, height, fusion, columns):
    """The way of the last frame's heatmaps, in red, from the row above to behind a stage."""
    middle = top + height / 2
    x = LEFT + fusion.stage * STEP + (BOX + STEP) / 2  # between two boxes
    heatmaps = LEFT + (columns - 1) * STEP + BOX / 2
    pen.line([(heatmaps, top - 50), (heatmaps, top - 25), (x, top - 25), (x, middle)], RED, 2)
    pen.ellipse([x - 11, middle - 11, x + 11, middle + 11], "white", RED, 2)
    pen.text((x, middle), FUSION_SIGNS[fusion.operation], RED, font, anchor="mm")


def picture(archs, path):
    """Draw the architectures of successive frames as Fig. 5 does, one row a frame, into a PNG."""
    rows = [box_texts(arch) for arch in archs]
    most_lines = max(text.count("\n") + 1 for row in rows for text in row)
    height = 14 + 17 * most_lines  # of a box
    size = (LEFT + STEP * len(rows[0]), (height + 50) * len(rows) + 20)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    for number, (arch, row) in enumerate(zip(archs, rows, strict=True)):
        top = 50 + number * (height + 50)
        name = "key frame"
        if arch.fusion:
            name = f"frame t + {number}" if number else "a later frame"
            draw_fusion(pen, font, top, height, arch.fusion, len(row))
        draw_row(pen, font, top, height, name, row)
    data.save_image(image, path)


# ------------------------------------------------------------------------------------------- main


def read_box(text):
    """x, y, w, h from "x,y,w,h"; else UserError."""
    try:
        (box,) = as_boxes([float(number) for number in text.split(",")])
    except (ValueError, UserError):
        raise UserError(f"--box is x,y,w,h with w and h above zero, not {text}") from None
    return box


def read_options():
    """The command line; UserError for what does not go together."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--arch", help=f"what to show: {', '.join(ARCHS)}, a JSON file or a finished checkpoint")
    add("--picture", help="PNG file to draw --arch into, as Fig. 5 does")
    add("--video", help="folder of frames, or a GIF, WebP or TIFF file of many")
    add("--checkpoint", help="finished networks, such as vipnas_t.pt")
    add("--box", action="append", help="x,y,w,h of a person in the first frame; one for each")
    add("--out", help="folder for what --video writes")
    add("--benchmark", action="store_true", help="how fast deployed networks are")
    options = parser.parse_args()
    if options.video and not (options.checkpoint and options.out):
        raise UserError("--video needs --checkpoint FILE and --out DIR too")
    if options.picture and not options.arch:
        raise UserError("--picture needs --arch: what shall it show?")
    if options.checkpoint and not (options.video or options.benchmark):
        raise UserError("--checkpoint goes with --video or --benchmark; --arch FILE shows it")
    return options


def main():
    """Show architectures and spaces; time deployed networks; or find poses in a video."""
    options = read_options()
    if options.benchmark:
        benchmark(options.checkpoint)
    elif options.video:
        boxes = [read_box(text) for text in options.box or []] or [None]
        run_video(options.video, options.checkpoint, boxes, options.out)
    elif options.arch:
        archs = read_archs(options.arch)
        for arch in archs:
            show(arch)
        if options.picture:
            picture(archs, options.picture)
            print(f"wrote {options.picture}")
    else:
        show_all()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"vipnas: {error}")
