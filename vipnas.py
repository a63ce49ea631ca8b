"""Architectures, the search spaces, the networks over them, and the video estimator.

Arch       one network, written down: a value that is passed, never a state that is set
Space      the networks that may be chosen (Tables A1-A3); `within`: those inside a found one
PoseNet    the network (Fig. 2). Over a space it is the super-network, over an Arch a finished one
cost       parameters, multiply-adds and the paper's GFLOPs of an architecture
deploy     a finished network made fast
VideoPose  a key-frame network and its T non-key networks, run on a video

    python vipnas.py                                # what all architectures cost
    python vipnas.py --arch runs/t/vipnas_t.pt --picture t.png     # what they are, and Fig. 5
    python vipnas.py --benchmark                    # how fast deployed networks are
    python vipnas.py --checkpoint runs/t/vipnas_t.pt --onnx net.onnx         # for other programs
    python vipnas.py --video DIR --checkpoint runs/t/vipnas_t.pt --box x,y,w,h --out DIR
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import itertools
import json
import math
import re
import shutil
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn

import data
import elastic
from data import UserError
from elastic import Backbone, Basic, Bottleneck, Branch, Cost, Head, Mobile, Stage, common_groups
from fusion import OPERATIONS, Fusion, TemporalFusion, all_fusions, step

# fmt: off
BACKBONES = {}
# stage 1 of ResNet works at 1/4 (stride 1), as in the released network, though Table A2 prints 1/8
BACKBONES["resnet50"] = Backbone(
    (Bottleneck,) * 4, strides=(1, 2, 2, 2), activations=(F.relu,) * 4,
    attention=elastic.GlobalContext, stem_kernel=7, stem_second="pool",
)
# Table A1; where activations change, as in the released network
BACKBONES["mobilenetv3"] = Backbone(
    (Mobile,) * 6, strides=(1, 2, 2, 2, 1, 2), activations=(F.relu,) * 3 + (F.hardswish,) * 3,
    attention=elastic.SqueezeExcite, stem_activation=F.hardswish,
)
# Table A3: two stride-2 convolutions, a stage in a row, then 2, 3 and 4 parallel branches
BACKBONES["hrnet_w32"] = Backbone(
    (Bottleneck,) + (Basic,) * 3, strides=(1, 1, 1, 1), activations=(F.relu,) * 4,
    attention=elastic.SqueezeExcite, stem_second="conv", first_parallel=1,
)
# ours, for two CPU cores: blocks of MobileNet-V3, h-swish only where the features are small
BACKBONES["tiny"] = Backbone(
    (Mobile,) * 4, strides=(2, 2, 2, 1), activations=(F.relu,) * 2 + (F.hardswish,) * 2,
    attention=elastic.SqueezeExcite, image_size=(128, 96),
)
# only compared with (Table 1: SBL-ResNet-18)
BACKBONES["resnet18"] = replace(BACKBONES["resnet50"], blocks=(Basic,) * 4)
# fmt: on

# --------------------------------------------------------------------------------- an architecture


def check(condition, message):
    """ValueError with this message, unless the condition holds."""
    if not condition:
        raise ValueError(message)


def as_plain(value):
    """Named tuples as dicts, all the way down: so JSON keeps the names."""
    if hasattr(value, "_asdict"):
        return {name: as_plain(field) for name, field in value._asdict().items()}
    return [as_plain(entry) for entry in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Arch:
    """One architecture: hashable, can be written by hand. ValueError for what no backbone has.

    stages = (Stage(1, (Branch(24, 3, 24),)), Stage(2, (Branch(32, 5, 64, True, 2),)), ...)
    arch = Arch("tiny", 16, stages, Head(48, 4, 48), Fusion(2, "add"))
    """

    backbone: str
    stem: int
    stages: tuple
    head: Head | None  # None where the last stage works at 1/4 already (HRNet)
    fusion: Fusion | None = None  # a key frame has none

    def __post_init__(self):
        # the backbone says how many stages there are, each with how many branches
        check(self.backbone in BACKBONES, f"there is no backbone '{self.backbone!s:.20}'")
        plan = BACKBONES[self.backbone]
        count = len(plan.blocks)
        check(len(self.stages) == count, f"{self.backbone} has {count} stages")
        for index, stage in enumerate(self.stages):
            branches = index + 1 if plan.is_parallel(index) else 1
            check(len(stage.branches) == branches, f"stage {index + 1} has {branches} branches")
        exists = self.fusion in (None, *all_fusions(count))
        check(exists, f"a fusion names a stage from 1 to {count} and one of {OPERATIONS}")

    def __str__(self):
        """One line, such as: tiny: 16 | 1 x 24 k3 g24 e1 | 2 x 32 k5 g64 e2 att | head 48 k4 g8."""
        parts = [f"{self.backbone}: {self.stem}"]
        # depth x width of a stage, and what else is chosen in it; in HRNet branch / branch / ...
        for stage in self.stages:
            branches = []
            for branch in stage.branches:
                text = f"{branch.width} k{branch.kernel} g{branch.groups} e{branch.expansion}"
                branches.append(text + " att" if branch.attention else text)
            parts.append(f"{stage.depth} x " + " / ".join(branches))
        # what not every network has
        if self.head:
            parts.append(f"head {self.head.width} k{self.head.kernel} g{self.head.groups}")
        if self.fusion:
            parts.append(f"{self.fusion.operation} after stage {self.fusion.stage}")
        return " | ".join(parts)

    def to_json(self):
        """One line of JSON, which `from_json` reads back to an equal Arch."""
        return json.dumps({name: as_plain(value) for name, value in vars(self).items()})

    @staticmethod
    def from_json(text):
        """The Arch in `text`. ValueError, in one sentence, if it holds none."""
        # JSON has lists and dicts where an Arch has tuples with names
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
# Whatever is drawn is drawn dimension by dimension (ours; the paper only says "random"). If it were
# drawn from a list of all combinations, widths that many group numbers divide would be frequent.

BOTH = (False, True)  # attention: skipped or used


def steps(low, high, step=16):
    """low, low + step, ..., high."""
    return tuple(range(low, high + 1, step))


@dataclass(frozen=True)
class BranchChoices:
    """A line of Tables A1-A3: what the blocks of a stage, or of one branch of it, may be."""

    block: type  # Bottleneck, Basic or Mobile
    width: tuple
    kernel: tuple
    groups: tuple
    attention: tuple = (False,)
    expansion: tuple = (1,)
    most_per_group: float = math.inf  # channels that the shared filters hold for a group

    def fitting(self, width, expansion):
        """The group numbers that go with these; see "group numbers" in elastic.py."""
        hidden = self.hidden(expansion, width)
        return [n for n in self.groups if elastic.fits(n, hidden, self.most_per_group)]

    def hidden(self, expansion, width=None):
        """Channels in the middle of a block of this width, or of the largest."""
        return self.block.hidden(Branch(width or self.width[-1], expansion=expansion))

    def sample(self, rng):
        """A random Branch."""
        width = rng.choice(self.width)
        kernel = rng.choice(self.kernel)
        expansion = rng.choice(self.expansion)
        attention = rng.choice(self.attention)
        fitting = self.fitting(width, expansion)
        if not fitting:
            return self.sample(rng)  # width and expansion do not go together: draw again
        return Branch(width, kernel, rng.choice(fitting), attention, expansion)

    @cached_property
    def options(self):
        """Every Branch of this line, from small to large: wide and with few groups last.

        So the last one holds the weights of all others; the first is the cheapest.
        """
        # the wider the middle, the larger: in a Bottleneck that is the smaller expansion
        by_size = sorted(self.expansion, key=self.hidden)
        found = []
        for width, expansion, kernel in itertools.product(self.width, by_size, self.kernel):
            for groups in sorted(self.fitting(width, expansion), reverse=True):
                found += [Branch(width, kernel, groups, a, expansion) for a in self.attention]
        return found


@dataclass(frozen=True)
class HeadChoices:
    """The line of Tables A1-A2 for the deconvolutions.

    The first deconvolution reads the `in_channels` of the last stage, and these may not be divided
    by all group numbers (`elastic.common_groups`). Fewer groups have more outputs each, and outputs
    per group are what a deconvolution stores. So there are two limits, of the first and the others.
    """

    width: tuple
    kernel: tuple
    groups: tuple
    most_per_group: float = math.inf
    most_per_group_first: float = math.inf

    def fitting(self, width, in_channels):
        """The group numbers for this width, over so many channels."""
        found = []
        for groups in self.groups:
            first = self.outputs_per_group(Head(width, groups=groups), in_channels)
            first_fits = first <= self.most_per_group_first
            if first_fits and elastic.fits(groups, width, self.most_per_group):
                found.append(groups)
        return found

    @staticmethod
    def outputs_per_group(head, in_channels):
        """Of the first deconvolution."""
        return head.width // common_groups(head.groups, in_channels, head.width)

    def sample(self, in_channels, rng):
        """A random Head."""
        width = rng.choice(self.width)
        fitting = self.fitting(width, in_channels)
        if not fitting:
            return self.sample(in_channels, rng)
        return Head(width, rng.choice(self.kernel), rng.choice(fitting))

    def options(self, in_channels):
        """Every Head over `in_channels`, from small to large."""
        found = []
        for width, kernel in itertools.product(self.width, self.kernel):
            fitting = sorted(self.fitting(width, in_channels), reverse=True)
            found += [Head(width, kernel, groups) for groups in fitting]
        return found


def single(choice):
    """Choices of one: {dimension: (its value,)} of a Branch or a Head."""
    return {name: (value,) for name, value in choice._asdict().items()}


class StageChoices(NamedTuple):
    """What a stage may be: its depths, and a BranchChoices for each branch."""

    depth: tuple
    branches: tuple


@dataclass(frozen=True)
class Space:
    """The architectures a search may choose from: 5 billion for ResNet-50, 10^19 for HRNet.

    Decisions do not depend on each other, except that group numbers must fit. ValueError if a table
    offers a width that no group number fits.
    """

    backbone: str
    stem: tuple
    stages: tuple  # of StageChoices
    head: HeadChoices | None
    image_size: tuple = (256, 192)  # height, width the budgets are counted at
    fusions: tuple = (None,)  # of a T space: those of `all_fusions`

    def __post_init__(self):
        if self.fusions != (None,):
            return  # of a T space: `within` may halve widths until nothing fits on them
        for number, choices in enumerate(self.stages, start=1):
            for line in choices.branches:
                fitting = {branch.width for branch in line.options}
                for width in line.width:
                    pair = f"no group number of {line.groups} fits width {width}"
                    check(width in fitting, f"stage {number} of {self.backbone}: {pair}")
        # a head has to be a slice of the largest, over all widths of the last stage
        if self.head:
            widths = self.stages[-1].branches[0].width
            most = self.head.outputs_per_group(self.head.options(widths[-1])[-1], widths[-1])
            for width in widths:
                for head in self.head.options(width):
                    fits = self.head.outputs_per_group(head, width) <= most
                    check(fits, f"the head of {self.backbone} does not fit on width {width}")

    @staticmethod
    def of(arch, image_size=None):
        """The space that holds one architecture: over it, a PoseNet is a finished network."""
        # a choice of one, wherever a space has several
        plan = BACKBONES[arch.backbone]
        stages = []
        for block, stage in zip(plan.blocks, arch.stages, strict=True):
            lines = [BranchChoices(block, **single(branch)) for branch in stage.branches]
            stages.append(StageChoices((stage.depth,), tuple(lines)))
        head = HeadChoices(**single(arch.head)) if arch.head else None
        return Space(
            backbone=arch.backbone,
            stem=(arch.stem,),
            stages=tuple(stages),
            head=head,
            image_size=image_size or plan.image_size,
            fusions=(arch.fusion,),
        )

    def smallest(self):
        """The least of everything: depth, width, kernel, most groups, no attention."""
        return self._end(0)

    def largest(self):
        """The most of everything; every other network of the space is a slice of this one."""
        return self._end(-1)

    def _end(self, index):
        """The Arch of all first (0) or all last (-1) choices, with the first fusion.

        The sandwich rule (Sec. 3.4.2) draws fusions at random, as none is a slice of another.
        """
        stages = []
        for choices in self.stages:
            # options are sorted by size
            branches = [line.options[index] for line in choices.branches]
            stages.append(Stage(choices.depth[index], tuple(branches)))
        head = self._heads(stages)[index]
        return Arch(self.backbone, self.stem[index], tuple(stages), head, self.fusions[0])

    def _heads(self, stages):
        """The heads over these stages: they read branch 1 of the last."""
        if not self.head:
            return [None]
        return self.head.options(stages[-1].branches[0].width)

    def _sample_head(self, stages, rng):
        """A random one of them."""
        if not self.head:
            return None
        return self.head.sample(stages[-1].branches[0].width, rng)

    def sample(self, rng):
        """A random Arch, from a `random.Random`."""
        # stage by stage; in HRNet every branch of it decides for itself (Sec. A.2)
        stages = []
        for choices in self.stages:
            branches = [line.sample(rng) for line in choices.branches]
            stages.append(Stage(rng.choice(choices.depth), tuple(branches)))
        # the head last: its group numbers depend on the width below
        head = self._sample_head(stages, rng)
        stem = rng.choice(self.stem)
        return Arch(self.backbone, stem, tuple(stages), head, rng.choice(self.fusions))

    @cached_property
    def _decisions(self):
        """(what, stage, branch) of every decision that has more than one option."""
        # once a network: the stem, the fusion of a non-key frame, the head
        heads = self._heads(self.largest().stages)
        once = {"stem": self.stem, "fusion": self.fusions, "head": heads}
        found = []
        for what, options in once.items():
            if len(options) > 1:
                found.append((what, None, None))
        # in every stage: its depth; and all that makes up a branch is one decision
        for index, choices in enumerate(self.stages):
            if len(choices.depth) > 1:
                found.append(("depth", index, None))
            for branch, line in enumerate(choices.branches):
                if len(line.options) > 1:
                    found.append(("branch", index, branch))
        return found

    def decisions(self):
        """How many decisions `redraw` chooses from."""
        return len(self._decisions)

    def redraw(self, arch, rng):
        """A neighbour of `arch`: one decision, chosen at random, is drawn again as in `sample`.

        This is the step of the random walk that finds candidates near a budget
        (`search.random_walk`).
        """
        what, index, branch = rng.choice(self._decisions)
        if what == "stem":
            return replace(arch, stem=rng.choice(self.stem))
        if what == "fusion":
            return replace(arch, fusion=rng.choice(self.fusions))
        if what == "head":
            return replace(arch, head=self._sample_head(arch.stages, rng))

        # of a stage either its depth, or everything else about one branch
        stages = list(arch.stages)
        choices = self.stages[index]
        if what == "depth":
            stages[index] = stages[index]._replace(depth=rng.choice(choices.depth))
        else:
            branches = list(stages[index].branches)
            branches[branch] = choices.branches[branch].sample(rng)
            stages[index] = stages[index]._replace(branches=tuple(branches))

        # if the last stage has another width now, the head may no longer fit on it
        head = arch.head
        if head not in self._heads(stages):
            head = self._sample_head(stages, rng)
        return replace(arch, stages=tuple(stages), head=head)

    def __contains__(self, arch):
        if arch.backbone != self.backbone:
            return False
        # decision by decision; the head last, as it depends on the last stage
        found = [arch.stem in self.stem, arch.fusion in self.fusions]
        for stage, choices in zip(arch.stages, self.stages, strict=True):
            found.append(stage.depth in choices.depth)
            for branch, line in zip(stage.branches, choices.branches, strict=True):
                found.append(branch in line.options)
        found.append(arch.head in self._heads(arch.stages))
        return all(found)

    def size(self):
        """How many architectures there are (a Python int: it does not fit a float)."""
        count = len(self.stem) * len(self.fusions)
        for depth, branches in self.stages:
            count *= len(depth) * math.prod([len(line.options) for line in branches])
        # how many heads fit depends on the branch below: take their mean over its options
        last = self.stages[-1].branches[0].options
        heads = [len(self._heads([Stage(1, (branch,))])) for branch in last]
        return count * sum(heads) // len(last)

    def within(self, arch):
        """The T space inside a found S-ViPNAS `arch`: all that is not larger, with a fusion.

        T "shares the same CNN architecture" with S (Sec. 3.4.2): it is a slice of S's weights (only
        a projection that S does not need starts afresh). ours, as the paper does not say how small:

        stem, width   in the table's steps from half of S's up to S's; one not searched stays
        depth         from 1 block (in HRNet: module), as the first block changes the shape
        kernel        from the table's least up to S's
        groups        the table's and S's, with at most as many channels a group as S has
        attention     skipped or used where S has it, else skipped
        expansion     S's, and the table's that make the middle narrower
        fusion        one, of any operation, after any one stage

        Say S has blocks "32 k5 g64 e2" in stage 2 of `tiny`: 32 x 2 / 64 = 1 channel a group. Width
        16 would need 32 groups, which the table does not list: it drops out, and 32 is left.
        """
        # stage by stage: its depths, and what is inside each of its branches
        stages = []
        for index, (choices, stage) in enumerate(zip(self.stages, arch.stages, strict=True)):
            least = BACKBONES[self.backbone].depth_step(index)
            lines = zip(choices.branches, stage.branches, strict=True)
            branches = [branch_within(line, branch) for line, branch in lines]
            stages.append(StageChoices(steps(least, stage.depth, least), tuple(branches)))
        # the head; a width of the last stage goes if no head fits on it
        head = self.head
        if head:
            head = head_within(head, arch.head, arch.stages[-1].branches[0].width)
            (last,) = stages[-1].branches
            fitting = [width for width in last.width if head.options(width)]
            last = replace(last, width=tuple(fitting))
            stages[-1] = stages[-1]._replace(branches=(last,))
        stem = widths_within(self.stem, arch.stem)
        fusions = all_fusions(len(stages))
        return replace(self, stem=stem, stages=tuple(stages), head=head, fusions=fusions)


def branch_within(line, branch):
    """The part of the line `line` of a table that is not larger than the Branch `branch` of S."""
    hidden = line.block.hidden(branch)
    smaller = [e for e in line.expansion if line.hidden(e, branch.width) < hidden]
    attention = BOTH if branch.attention else (False,)
    inside = sizes_within(line, branch, hidden)
    return replace(inside, attention=attention, expansion=(*smaller, branch.expansion))


def head_within(line, head, in_channels):
    """The part of HeadChoices `line` that is not larger than the Head `head` of S."""
    first = line.outputs_per_group(head, in_channels)
    return replace(sizes_within(line, head, head.width), most_per_group_first=first)


def sizes_within(line, found, channels):
    """`line` up to the width, the kernel and the channels per group of `found`."""
    return replace(
        line,
        width=widths_within(line.width, found.width),
        kernel=steps(min(line.kernel[0], found.kernel), found.kernel, 2),
        groups=tuple(sorted({*line.groups, found.groups})),
        most_per_group=channels // found.groups,
    )


def widths_within(table, width):
    """From half of `width` up to it, in the table's steps: of 304 in steps of 16, 160 ... 304."""
    if len(table) == 1:
        return (width,)  # a width that is not searched stays
    step = table[1] - table[0]
    return steps(width - width // 2 // step * step, width, step)


def serial(block, depths, *choices, **named):
    """The StageChoices of one branch; the choices are those of BranchChoices."""
    line = BranchChoices(block, *choices, **named)
    return StageChoices(depths, (line,))


def table_a1(width):
    """A line of Table A1. Groups: all numbers of the printed range, 3/8 to 6 times the width.

    At expansion 6 that is from 16 channels a group to 1: a depthwise convolution.
    """
    groups = steps(3 * width // 8, 6 * width, 1)
    return serial(Mobile, (2, 3, 4), (width,), (3, 5, 7), groups, BOTH, (3, 4, 5, 6))


def hrnet(depths, *widths):
    """A line of Table A3, one width a branch. ours: widths in steps of a quarter of the maximum."""
    branches = []
    for width in widths:
        table = steps(width // 4, width, width // 4)
        branches.append(BranchChoices(Basic, table, (3,), steps(1, width, 1), BOTH))
    return StageChoices(depths, tuple(branches))


# The tables print [min, max]; the steps are those of Sec. A.2 for ResNet-50, of the others ours.
# fmt: off
SPACES = {}
# Table A2; its steps (Sec. A.2): width 16, kernel 2, groups 16
SAME = {"kernel": (3, 5), "groups": steps(16, 64), "attention": BOTH}
SPACES["resnet50"] = Space("resnet50", steps(32, 64), (
    serial(Bottleneck, (3, 4), steps(64, 80), **SAME),
    serial(Bottleneck, (4, 5, 6), steps(128, 160), **SAME),
    serial(Bottleneck, (6, 7, 8), steps(256, 320), **SAME),
    serial(Bottleneck, (3, 4), steps(512, 640), **SAME),
), HeadChoices(steps(64, 256), (4,), steps(16, 64)))

# Table A1
SPACES["mobilenetv3"] = Space("mobilenetv3", (16,), (
    serial(Mobile, (1,), (16,), (3,), steps(2, 16, 1), BOTH, (1,)),
    *[table_a1(width) for width in (24, 40, 80, 112, 160)],
), HeadChoices((256,), (4,), steps(32, 256, 1)))

# Table A3. Of the bottlenecks it prints the middle width, 16 to 64; four times that comes out
SPACES["hrnet_w32"] = Space("hrnet_w32", steps(16, 64), (
    serial(Bottleneck, (2, 3, 4), steps(64, 256, 64), (3,), steps(1, 16, 1), BOTH, (4,)),
    hrnet((4,), 32, 64),
    hrnet((8, 12, 16), 32, 64, 128),
    hrnet((8, 12), 32, 64, 128, 256),
), None)

# ours: shaped like MobileNet-V3, small enough to be trained on two CPU cores in minutes
SPACES["tiny"] = Space("tiny", (16,), (
    # depths, widths, kernels, group numbers, attention, expansions, most channels a group
    serial(Mobile, (1, 2), (16, 24), (3,), (16, 24, 48), (False,), (1, 2), 1),
    serial(Mobile, (1, 2), (32, 48), (3, 5), (64, 96, 144), BOTH, (2, 3), 1),
    serial(Mobile, (1, 2, 3), (48, 64), (3, 5), (48, 64, 72, 96, 128, 144, 192), BOTH, (2, 3), 2),
    serial(Mobile, (1, 2, 3), (48, 96), (3, 5), (96, 144, 192, 288), BOTH, (2, 3), 1),
), HeadChoices((48,), (4,), (48,)), image_size=(128, 96))
# fmt: on


def hand_made(backbone, stem, rows, head=None):
    """An Arch from rows (depth, a Branch for each branch)."""
    stages = [Stage(depth, tuple(branches)) for depth, *branches in rows]
    return Arch(backbone, stem, tuple(stages), head)


# Each line: the depth of a stage, then its blocks. Tables 1 and 2 print the numbers in comments
# fmt: off
ARCHS = {}
# the two networks that the authors released are not quite those of the tables
ARCHS["s_vipnas_resnet50"] = hand_made("resnet50", 48, [  # 7.3M parameters, 1.44 GFLOPs
    # depth  width kernel groups attention
    (4, Branch(80, 3, 16, True)),
    (6, Branch(160, 5, 16, False)),
    (7, Branch(304, 5, 16, True)),
    (3, Branch(608, 5, 16, True)),
], Head(144, 4, 16))
ARCHS["s_vipnas_mobilenetv3"] = hand_made("mobilenetv3", 16, [  # 5.4M, 0.69
    # depth  width kernel groups attention expansion
    (1, Branch(16, 3, 8, True, 1)),
    (4, Branch(24, 7, 120, True, 5)),
    (4, Branch(40, 7, 20, False, 4)),
    (4, Branch(80, 5, 100, True, 5)),
    (4, Branch(112, 7, 280, True, 5)),
    (4, Branch(160, 5, 240, True, 6)),
], Head(160, 4, 160))
# Simple Baselines [56], ResNets as they are; and HRNet-W32 [49]: 1, 4 and 3 modules of 4 blocks
ARCHS["sbl_resnet18"] = hand_made("resnet18", 64, [  # 15.3M, 5.79
    (2, Branch(64)), (2, Branch(128)), (2, Branch(256)), (2, Branch(512)),
], Head(256))
ARCHS["sbl_resnet50"] = hand_made("resnet50", 64, [  # 34.0M, 8.99
    (3, Branch(256, expansion=4)), (4, Branch(512, expansion=4)),
    (6, Branch(1024, expansion=4)), (3, Branch(2048, expansion=4)),
], Head(256))
ARCHS["hrnet_w32"] = hand_made("hrnet_w32", 64, [  # 28.5M, 7.10
    (4, Branch(256, expansion=4)),
    (4, Branch(32), Branch(64)),
    (16, Branch(32), Branch(64), Branch(128)),
    (12, Branch(32), Branch(64), Branch(128), Branch(256)),
])
# fmt: on

# ------------------------------------------------------------------------------------- the network


class PoseNet(nn.Module):
    """A pose network: images (B, 3, H, W) -> heatmaps (B, joints, H/4, W/4).

        images --> stem --> stage 1 --> ... --> stage s --> fusion --> ... --> head --> heatmaps
                                                              |
        heatmaps of the last frame (non-key frames only) -----'

    Over a Space it is a super-network and each call names the architecture; over an Arch it is a
    finished network, which needs none. H and W are multiples of the total stride (32; tiny: 16).
    """

    def __init__(self, space_or_arch, joints=17):
        super().__init__()
        self.space = Space.of(space_or_arch) if isinstance(space_or_arch, Arch) else space_or_arch
        self.joints = joints
        smallest = self.space.smallest()
        largest = self.space.largest()
        # a space of one architecture makes a finished network. Its layers still are elastic ones:
        # they just have nothing smaller to give
        self.is_supernet = self.space.size() > 1
        self.arch = None if self.is_supernet else largest

        # every part holds the weights of its largest choice; all other choices are slices of them
        plan = BACKBONES[self.space.backbone]
        self.stem = elastic.Stem(plan, largest.stem)
        self.stages = nn.ModuleList()
        self.fusions = nn.ModuleDict()
        widths = [largest.stem]  # of the branches that a stage starts from
        least = [smallest.stem]
        for index, stage in enumerate(largest.stages):
            widths_out = [branch.width for branch in stage.branches]
            least_out = [branch.width for branch in smallest.stages[index].branches]
            # whether other widths than the largest may come in or go out
            narrower = [least, least_out] != [widths, widths_out]
            kind = elastic.ParallelStage if plan.is_parallel(index) else elastic.SerialStage
            self.stages.append(kind(plan, index, widths, stage, self.is_supernet, narrower))
            widths, least = widths_out, least_out
            # the operations that may follow this stage (Sec. 3.3); none in a key frame's network
            operations = [o for o in OPERATIONS if Fusion(index + 1, o) in self.space.fusions]
            if operations:
                self.fusions[str(index + 1)] = TemporalFusion(joints, widths[0], operations)
        self.head = elastic.PoseHead(widths[0], largest.head, plan.reduction(), joints)

    def forward(self, images, arch=None, heatmaps=None):
        """heatmaps (B, joints, H/4, W/4) of the last frame: an arch with a fusion needs them."""
        arch = arch or self.arch
        check(arch, "a super-network holds many networks: name one, net(images, arch)")
        has_inputs = arch.fusion is None or heatmaps is not None
        check(has_inputs, "this architecture fuses heatmaps: call net(images, arch, heatmaps)")
        # Fig. 2: convolutions, a fusion after one of the stages, convolutions, the head
        features = [self.stem(images, arch.stem)]  # one tensor a branch
        for number, stage in enumerate(arch.stages, start=1):
            features = self.stages[number - 1](features, stage)  # F_1, F_2, ...
            if arch.fusion and arch.fusion.stage == number:
                fuse = self.fusions[str(number)]
                features[0] = fuse(features[0], heatmaps, arch.fusion.operation)
        return self.head(features[0], arch.head)

    def extract(self, arch):
        """The finished network of `arch`: its slices copied, the outputs of net(images, arch).

        It holds no weights but its own, so it can be fine-tuned, saved and deployed by itself.
        """
        net = PoseNet(Space.of(arch, self.space.image_size), self.joints)
        net.to(next(self.parameters()).device)
        return net.inherit(self).train(self.training)

    def inherit(self, larger):
        """Take over every slice that `larger` holds; what it lacks (a fusion) stays. -> self.

        `larger` may be of any size that holds this network: its super-network, or the same one.
        So T-ViPNAS starts from the weights of the found S-ViPNAS (Sec. 3.4.2).
        """
        theirs = dict(larger.named_modules())
        for name, layer in self.named_modules():
            is_elastic = hasattr(layer, "copy_slice")
            has_weights = any(True for _ in layer.parameters(recurse=False))
            check(
                is_elastic or not has_weights, f"{name} has weights, but no `slice`: see elastic.py"
            )
            if name in theirs and is_elastic:
                layer.copy_slice(theirs[name])
        return self


# ----------------------------------------------------------------------------------- what it costs


@lru_cache(maxsize=2**17)
def _stage_cost(backbone, index, in_widths, stage, area):
    """Cost of one stage. Given the widths at its borders it does not depend on the others.

    So a random walk, which changes a few stages a step, prices thousands of networks a second: only
    these stages, and perhaps the next ones, are new.
    """
    plan = BACKBONES[backbone]
    kind = elastic.ParallelStage if plan.is_parallel(index) else elastic.SerialStage
    return kind.cost(plan, index, in_widths, stage, area)


def stage_costs(arch, image_size=(256, 192), joints=17):
    """{"stem": Cost, "stage 1": Cost, ..., "head": Cost, perhaps "fusion": Cost}."""
    plan = BACKBONES[arch.backbone]
    image_area = image_size[0] * image_size[1]
    widths = (arch.stem,)
    costs = {"stem": elastic.Stem.cost(plan, image_area, arch.stem)}
    for index, stage in enumerate(arch.stages):
        # positions at the stage's output (in HRNet: of its finest branch)
        area = image_area // plan.reduction(index + 1) ** 2
        costs[f"stage {index + 1}"] = _stage_cost(arch.backbone, index, widths, stage, area)
        widths = tuple([branch.width for branch in stage.branches])
        if arch.fusion and arch.fusion.stage == index + 1:
            # the last heatmaps are encoded at their own resolution, a quarter of the image's
            encoded_at = image_area // 16
            operation = arch.fusion.operation
            costs["fusion"] = TemporalFusion.cost(area, encoded_at, joints, widths[0], operation)
    costs["head"] = elastic.PoseHead.cost(area, widths[0], arch.head, plan.reduction(), joints)
    return costs


def cost(arch, image_size=(256, 192), joints=17):
    """Cost of an architecture at an image size (height, width)."""
    return sum(stage_costs(arch, image_size, joints).values(), start=Cost())


# --------------------------------------------------------------------------------------- made fast


class Folded(nn.Module):
    """A convolution of a finished network that has taken over the batch norm behind it.

        gain (conv(x) - mean) / sigma + shift  =  conv'(x) + bias'
        conv' = conv gain / sigma,   bias' = shift - mean gain / sigma

    Called like the layers it stands for; it ignores the choice in the call.
    """

    def __init__(self, conv, norm=None):
        super().__init__()
        in_channels, _, self.kernel, self.groups = conv.largest
        self.stride = getattr(conv, "stride", None)  # a deconvolution has none
        weight = conv.weight
        bias = getattr(conv, "bias", None)
        # batch norm is a scale and a shift for each output channel
        if norm is not None:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (O)
            bias = norm.bias - norm.running_mean * scale
            scale = scale[:, None]  # (O, 1): the filters are (O, I / groups, K, K)
            if self.stride is None:  # stored from the input's side, (I, O / groups, K, K)
                scale = scale.view(self.groups, -1)
                scale = scale.repeat_interleave(in_channels // self.groups, dim=0)
            weight = weight * scale[:, :, None, None]
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x, *choice):
        """(B, I, H, W) -> (B, O, H', W')."""
        margin = self.kernel // 2
        if self.stride is None:
            return F.conv_transpose2d(x, self.weight, self.bias, 2, margin - 1, 0, self.groups)
        return F.conv2d(x, self.weight, self.bias, self.stride, margin, groups=self.groups)


def fold(net):
    """A copy of a finished network, without batch norm, for inference alone."""
    check(net.arch, "only a finished network can be deployed: extract one first")
    # every layer, wherever it is, is replaced in the module that holds it
    folded = copy.deepcopy(net).eval()
    for parent in list(folded.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, elastic.ConvNorm):
                setattr(parent, name, Folded(layer.conv, layer.norm))
            elif isinstance(layer, elastic.ElasticConv2d):  # in attention, fusion and last of all
                setattr(parent, name, Folded(layer))
            elif isinstance(layer, elastic.ElasticLayerNorm):
                # a layer that every exporter knows: at one position, the norm over one group
                norm = nn.GroupNorm(1, *layer.largest, device=layer.weight.device)
                norm.load_state_dict(layer.state_dict())
                setattr(parent, name, norm)
    return folded.requires_grad_(False).to(memory_format=torch.channels_last)


def example_inputs(net):
    """Inputs of a finished network, black: one image, and heatmaps for a non-key frame."""
    height, width = net.space.image_size
    inputs = {"images": torch.zeros(1, 3, height, width)}
    if net.arch.fusion:
        inputs["heatmaps"] = torch.zeros(1, net.joints, height // 4, width // 4)
    return {name: x.to(memory_format=torch.channels_last) for name, x in inputs.items()}


def torchscript(folded):
    """Frozen TorchScript of a folded network, called with its inputs by name."""
    inputs = example_inputs(folded)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        script = torch.jit.trace(folded, example_kwarg_inputs=inputs, check_trace=False)
        script = torch.jit.freeze(script)
        # it optimises itself during its first calls: let that be over before the first frame
        for _ in range(3):
            script(**inputs)
    return script


def openvino_request(folded, threads):
    """A folded network in OpenVINO, called with its inputs by name."""
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it traces, and shapes that are fixed are constants to it
        model = openvino.convert_model(folded, example_input=example_inputs(folded))
    # f32, as some processors would round off to bfloat16
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(**inputs):
        arrays = {name: x.contiguous().numpy() for name, x in inputs.items()}
        return torch.from_numpy(request.infer(arrays)[0].copy())

    return run


class Deployed(nn.Module):
    """A finished network made fast (`--benchmark` says how fast): the same outputs to 1e-4.

    Batch norm is folded into the convolutions. On a CPU OpenVINO does the rest where it is
    installed (pip install openvino), on so many threads; else frozen TorchScript. `.runtime` says
    what runs it. It takes any number of images, of any size that the network takes.
    """

    def __init__(self, net, threads):
        super().__init__()
        self.folded = fold(net)
        self.runtime = "batch norm folded"  # in words, what runs it
        if next(net.parameters()).is_cuda:
            self.run = self.folded
        elif importlib.util.find_spec("openvino"):
            self.runtime += ", OpenVINO"
            self.run = openvino_request(self.folded, threads)
        else:
            self.runtime += ", TorchScript"
            self.run = torchscript(self.folded)

    def forward(self, images, arch=None, heatmaps=None):
        """images (B, 3, H, W) -> heatmaps (B, joints, H/4, W/4), without gradients."""
        # in the order in memory that convolutions on CPUs like best
        inputs = {"images": images.contiguous(memory_format=torch.channels_last)}
        if self.folded.arch.fusion:
            inputs["heatmaps"] = heatmaps.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return self.run(**inputs)


def deploy(net, threads=1):
    """`Deployed`: a finished network for inference, called like the PoseNet it was."""
    return Deployed(net, threads)


@contextlib.contextmanager
def use_threads(count):
    """What PyTorch computes in here runs on so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(run, inputs, threads=1):
    """The shortest of 40 calls. It is this process's own time: other programs hardly count."""
    times = []
    with torch.no_grad(), use_threads(threads):
        for _ in range(40):
            start = time.process_time()
            run(**inputs)
            times.append(1000 * (time.process_time() - start))
    return min(times)


def frame_times(nets, threads=1):
    """Milliseconds of each of several finished networks: deployed, one image, on the CPU.

    What Fig. 4 shows as frames a second is 1000 over the mean of a key frame's and its T others'.
    """
    times = []
    for net in nets:
        deployed = deploy(copy.deepcopy(net).cpu(), threads)
        times.append(milliseconds(deployed, example_inputs(net), threads))
    return times


# ----------------------------------------------------------------------------- the video estimator

SURE = 0.2  # a joint with a higher score counts as seen


class VideoPose:
    """The finished estimator (Fig. 2): the S network on key frames, T networks in between.

    Online: a frame is answered before the next one is seen.

        stream = VideoPose.load("runs/t/vipnas_t.pt").stream(box=(x, y, w, h))
        for frame in frames:
            keypoints = stream.step(frame)  # (K, 3): x, y in pixels of the frame, and score

        frame       0         1          2          3         4
        network     S         T^1        T^2        T^3       S       here T = 3
        heatmaps    H^0 ----> H^1 -----> H^2 -----> H^3       H^4     each warped into the next
                                                                      frame's window
    nets: the key frame's network, then one for each of the T frames after it. about: `data.about`.
    threads: CPU threads of a step.
    """

    def __init__(self, nets, about, threads=1):
        self.nets = list(nets)
        self.about = about
        self.threads = threads
        self.device = next(self.nets[0].parameters()).device

    @classmethod
    def load(cls, path, threads=1):
        """From a T-ViPNAS; or an S-ViPNAS, a published one too: then every frame is a key frame.

        It runs on a GPU if there is one. UserError if the file cannot be used.
        """
        nets, about = load_networks(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls([deploy(net.to(device), threads) for net in nets], about, threads)

    def stream(self, box=None):
        """A `Stream` that follows the person in `box`, or N people in a list of boxes.

        A box is x, y, w, h in pixels of the first frame; None: the person fills the frame. An
        empty list is nobody, until `step` is handed other boxes.
        """
        return Stream(self, box)


class Stream:
    """People followed through a video, all of them as one batch.

    ours: every frame is cropped by a window around the person's last pose, so they may walk away
    from where the key frame saw them.

    After a step `boxes` has everybody's box, and `t` is 0 on a key frame. `lost` (N,) says who
    shows fewer than a quarter of the joints, or than two. A lost person keeps their window; at the
    next key frame they are left out, and get nan, until `step` is handed a box for them. Without a
    detector, step(frame, search_boxes(stream, size)) searches around where they were last seen.
    """

    def __init__(self, pose, box):
        self.pose = pose
        self._follow(box)

    def _follow(self, box):
        """Start with these people, none of whom has been seen yet."""
        self.boxes = as_boxes(box)
        self.sizes = [None] * len(self.boxes)  # of the boxes in which they were not lost
        self.is_single = len(self.boxes) == 1 and self.boxes[0] is box
        self.lost = np.zeros(len(self.boxes), dtype=bool)
        self.size = None  # width, height of the last frame
        self.t = -1
        self.running = []  # numbers of the people in the batch
        self.last = None  # their `fusion.Frame` before this one; None on a key frame

    def step(self, frame, box=None):
        """The next frame -> keypoints (K, 3), or (N, K, 3) for N people: x, y in it, and score.

        frame: whatever `data.as_picture` takes; arrays are RGB, and OpenCV's frames are BGR, so
        hand over `frame[:, :, ::-1]`. box: as for `VideoPose.stream`; it makes this a key frame for
        all. In a list, a person with None is followed from their last pose. Boxes for another
        number of people, or [] for nobody, start anew for all, as `VideoPose.stream` does.
        UserError, and nothing has happened, if frames change their size and somebody has no box.
        """
        image = data.as_picture(frame)
        image.load()  # decoded once, at full size, for all windows
        given = [None] * len(self.boxes) if box is None else as_boxes(box)
        if len(given) != len(self.boxes):
            self._follow(box)
        if self.size not in (None, image.size) and any(one is None for one in given):
            remedy = "make them all alike, or hand `step` a box for everybody"
            raise UserError(f"the frames have another size now: {remedy}")
        self.size = image.size
        # 1. is it a key frame? A box that is handed in makes it one
        self.t = (self.t + 1) % len(self.pose.nets)
        if self.t == 0 or box is not None:
            self.t = 0
            self._start_period(given)
        # 2. the network of this frame; a person who is left out has nan
        joints = len(self.pose.about["joints"])
        keypoints = np.full((len(self.boxes), joints, 3), np.nan)
        if self.running:
            with use_threads(self.pose.threads):
                keypoints[self.running] = self._run(image)
        # 3. the next frame is cropped around what was found in this one
        for person, pose in enumerate(keypoints):
            found = box_around(pose, image.size, self.sizes[person])
            self.lost[person] = found is None
            self.boxes[person] = found or self.boxes[person]
        return keypoints[0] if self.is_single else keypoints

    def _start_period(self, given):
        """At a key frame: who is run from now on, and where they are searched for."""
        self.last = None
        self.running = []
        for person, box in enumerate(given):
            if box is not None or not self.lost[person]:
                self.running.append(person)
            if box is not None:
                self.boxes[person] = tuple(box)
            elif self.boxes[person] is None:
                self.boxes[person] = (0, 0, *self.size)
            if not self.lost[person]:
                self.sizes[person] = self.boxes[person][2:]

    @torch.inference_mode()
    def _run(self, image):
        """This frame's network on everybody's window -> keypoints (M, K, 3) in the frame."""
        # the windows of those in the batch, cropped as in training
        size = self.pose.about["size"]
        cell = self.pose.about["cell"]
        boxes = [self.boxes[i] for i in self.running]
        matrices = np.stack([data.crop_matrix(box, size, cell=cell) for box in boxes])
        crops = torch.stack([data.crop(image, matrix, size) for matrix in matrices])
        images = data.normalise(crops.to(self.pose.device))  # (M, 3, H, W)

        # eq. (2): H^0 = S(I^0) on a key frame, H^t = T(I^t, H^(t-1)) on the others
        self.last = step(self.pose.nets[self.t], images, matrices, self.last, cell)
        keypoints = data.decode(self.last.heatmaps, cell=cell).cpu()
        return data.transform(keypoints, data.invert(matrices))


def as_boxes(box):
    """A box (x, y, w, h) or None, or a list of them, maybe empty -> a list, or UserError."""
    # a box is four numbers, maybe an array; a list holds boxes and None
    is_one = box is None or len(box) > 0 and all(np.ndim(n) == 0 and n is not None for n in box)
    boxes = [box] if is_one else list(box)
    for one in boxes:
        if one is not None and len(one) != 4:
            raise UserError(f"{one} is no box: it has four numbers x, y, w, h")
        if one is not None:
            data.window(one, (1, 1))  # raises UserError if it has no area
    return boxes


def is_seen(pose, size):
    """Which joints of a pose (K, 3) are seen in an image of `size` (width, height): (K) bool."""
    x, y, score = pose.T
    inside = (x > -0.5) & (x < size[0] - 0.5)
    inside &= (y > -0.5) & (y < size[1] - 0.5)
    return inside & (score > SURE)  # False where they are nan


def box_around(pose, size, single):
    """The box (x, y, w, h) around a pose (K, 3) in an image of `size` (width, height).

    It holds the joints that are seen: score above .2, inside the image. On each side it is larger
    by a pixel and a tenth of its longer side. One joint has no size (K = 1): its box is as large as
    `single` (width, height). None, lost, if fewer than a quarter of the joints or two are seen.
    """
    seen = pose[is_seen(pose, size), :2]  # (n, 2)
    if len(seen) < max(len(pose) / 4, min(2, len(pose))):
        return None
    if len(pose) == 1:
        return (*(seen[0] - np.divide(single, 2)), *single)
    # its corners, and what is added on each side
    low = seen.min(axis=0)
    high = seen.max(axis=0)
    margin = 0.1 * (high - low).max() + 1
    return (*(low - margin), *(high - low + 2 * margin))


def grow(box, size):
    """A box a quarter wider and higher, moved into a frame of `size` (width, height).

    In it a lost person is searched for. A box without area in the frame becomes the whole frame.
    """
    corner = np.array(box[:2])
    extent = np.array(box[2:])
    if (corner >= size).any() or (corner + extent <= 0).any():
        return (0, 0, *size)
    grown = np.minimum(1.25 * extent, size)
    moved = (corner + (extent - grown) / 2).clip(0, size - grown)
    return (*moved, *grown)


def search_boxes(stream, size):
    """Boxes for `Stream.step`: larger ones for lost people, None for others; None without any."""
    if not stream.lost.any():
        return None
    people = zip(stream.boxes, stream.lost, strict=True)
    return [grow(box, size) if is_lost else None for box, is_lost in people]


# ------------------------------------------------------------------------------------- checkpoints
# Three kinds of files, each a dict of tensors and plain values with its "kind". All have "about":
# how the networks are to be used, their image size, joints and normalisation (`data.about`).
#
# finished   "networks": [{"arch": JSON, "state": tensors}, ...], the key frame's first
# supernet   a run that can be resumed: "stage" ("s", "t"), "space" (its name), "nets" (tensors),
#            "arch" and "key" (JSON and tensors of stage t's key frame), "optimizer", "step",
#            "config", "log"
# alone      the same of networks that are trained alone; "arch" names that of stage s. Until the
#            second edition such a file was called "supernet", too


def save_checkpoint(contents, path):
    """`torch.save`, whole or not at all: a run that is killed keeps its last checkpoint."""
    with data.whole_file(path) as file:
        torch.save(contents, file)


def read_checkpoint(path):
    """The dict in a checkpoint. Nothing in the file is executed; UserError if it cannot be read."""
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; train first, or name another checkpoint")
    try:
        contents = torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        reason = "is truncated, not a checkpoint, or holds more than tensors and plain values"
        how = "make it again, or save its tensors alone: torch.save(model.state_dict(), FILE)"
        raise UserError(f"{path} {reason} ({type(error).__name__}); {how}") from None
    return contents if isinstance(contents, dict) else {}


@contextlib.contextmanager
def complete(path):
    """Inside, whatever is missing or invalid in the file `path` is one sentence, a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # PyTorch's take several lines
        what = f"lacks a part of what it needs, or holds an invalid one ({reason})"
        raise UserError(f"{path} {what}; make it again") from None


def load_checkpoint(path, *kinds):
    """The dict saved under `path`, of one of these kinds; else UserError."""
    contents = read_checkpoint(path)
    check_checkpoint(contents, path, kinds)
    return contents


def check_checkpoint(contents, path, kinds):
    """UserError unless `contents`, read from `path`, are of one of these kinds and can be used."""
    if contents.get("kind") not in kinds:
        raise UserError(f"{path} holds something else: a {kinds[0]} checkpoint is needed here")
    with complete(path):
        # how crops are made is written in data.py: it must be as it was in training
        about = contents["about"]
        known = data.about(data.COCO, about["size"], about["cell"])
        same = all(about[name] == known[name] for name in ("padding", "mean", "std"))
        check(same, "its crops are not those of data.py")


def restore(net, state, path):
    """Load `state` into `net` and return it; UserError if it does not fit or is not finite."""
    with complete(path):
        net.load_state_dict(state)
        for name, tensor in net.state_dict().items():
            check(tensor.isfinite().all(), f"not all numbers in {name} are finite")
    return net


def save_finished(path, nets, about):
    """Write finished networks, the key frame's first. about: from `data.about`, how to use them."""
    networks = []
    for net in nets:
        networks.append({"arch": net.arch.to_json(), "state": net.state_dict()})
    save_checkpoint({"kind": "finished", "networks": networks, "about": about}, path)


def restore_finished(arch, state, about, path):
    """A finished network in eval mode, of its Arch in JSON and its tensors."""
    # the architecture is in the file, so any file can be opened without a config
    space = Space.of(Arch.from_json(arch), tuple(about["size"]))
    return restore(PoseNet(space, len(about["joints"])).eval(), state, path)


def load_networks(path):
    """([PoseNets in eval mode], about) of a finished checkpoint, or of a published one.

    The published networks see COCO's joints at 256x192, in the heatmap cells of SBL.
    """
    # only our own files say what they are
    contents = read_checkpoint(path)
    if "kind" not in contents:
        about = data.about(data.COCO, (256, 192), data.SBL_CELL)
        return [load_mmpose(path)], about
    check_checkpoint(contents, path, ["finished"])
    about = contents["about"]
    nets = []
    with complete(path):
        for saved in contents["networks"]:
            nets.append(restore_finished(saved["arch"], saved["state"], about, path))
        check(nets and nets[0].arch.fusion is None, "its first network is not for key frames")
    return nets, about


def load_supernet(path):
    """(super-network, its key-frame network or None, everything saved) of a run's supernet.pt."""
    contents = load_checkpoint(path, "supernet", "alone")
    about = contents["about"]
    with complete(path):
        # files of the second edition do not say so by their kind
        alone = contents["kind"] == "alone" or len(contents["nets"]) > 1
        if alone or (contents["stage"] == "s" and contents["arch"]):
            raise UserError(f"{path} was trained as one architecture alone: nothing to search")
        step = contents["step"]
        steps = contents.get("steps", step)  # older files do not say it
        if step < steps:
            remedy = "let train.py --resume end its training first"
            raise UserError(f"{path} is at step {step} of {steps}: {remedy}")
        space = replace(SPACES[contents["space"]], image_size=tuple(about["size"]))
        key_net = None
        # that of stage t lies within the network of the key frame (Sec. 3.4.2)
        if contents["stage"] == "t":
            key_net = restore_finished(contents["arch"], contents["key"], about, path)
            space = space.within(key_net.arch)
        supernet = PoseNet(space, len(about["joints"]))
        restore(supernet, contents["nets"][0], path)
    return supernet, key_net, contents


def read_archs(text):
    """A list of Archs: of a name in ARCHS, a JSON file (an Arch or a list), or a checkpoint."""
    if text in ARCHS:
        return [ARCHS[text]]
    try:
        # by hand or by `write_archs`
        entries = json.loads(Path(text).read_text(encoding="utf-8-sig"))
        entries = entries if isinstance(entries, list) else [entries]
        check(entries, "it is an empty list")
        archs = [Arch.from_json(json.dumps(entry)) for entry in entries]
        with torch.device("meta"):  # takes no memory: can their layers be made?
            for arch in archs:
                PoseNet(arch)
        return archs
    except UnicodeDecodeError:  # no text, so it is a checkpoint
        return [net.arch for net in load_networks(text)[0]]
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        choices = f"an architecture's JSON file, a finished checkpoint, or {', '.join(ARCHS)}"
        reason = " ".join(str(error).split())[:200]
        message = f"no architecture can be read from {text} ({reason}); choose {choices}"
        raise UserError(message) from None


def write_archs(archs, path):
    """Write one Arch, or a list of them (an allocation), as `read_archs` reads it."""
    if isinstance(archs, Arch):
        contents = json.loads(archs.to_json())
    else:
        contents = [json.loads(arch.to_json()) for arch in archs]
    data.write_json(contents, path)


# mmpose is the toolbox with which the authors published their two S-ViPNAS networks. Both are built
# here by the same classes, so only names differ: what is ours in a name -> what is mmpose's
# fmt: off
MMPOSE_NAMES = {
    "s_vipnas_resnet50": {
        "project.conv": "downsample.0", "project.norm": "downsample.1",
        "attention.mask": "attention.conv_mask", "attention.reduce": "attention.channel_add_conv.0",
        "attention.norm": "attention.channel_add_conv.1",
        "attention.expand": "attention.channel_add_conv.3",
        "conv([123]).conv": r"conv\1", "conv([123]).norm": r"bn\1",
    },
    "s_vipnas_mobilenetv3": {
        "attention.reduce": "se.conv1.conv", "attention.expand": "se.conv2.conv", "norm": "bn",
        r"(layer\d+).conv1": r"\1.expand_conv", r"(layer\d+).conv2": r"\1.depthwise_conv",
        r"(layer\d+).conv3": r"\1.linear_conv",
    },
}
# fmt: on


def _mmpose_name(name, ours):
    """mmpose's name of our tensor `ours` in network `name` of ARCHS (in its newer generation).

    "stages.1.blocks.3.conv2.norm.bias" is "backbone.layer2.3.bn2.bias" in the ResNet and
    "backbone.layer5.depthwise_conv.bn.bias" in the MobileNet.
    """
    part, *path = ours.split(".")
    if part == "head" and path[0] == "deconvs":
        # theirs count the ReLUs too: deconvolution 0, norm 1, ReLU 2, deconvolution 3, ...
        index = 3 * int(path[1]) + (path[2] == "norm")
        return f"head.deconv_layers.{index}.{path[3]}"
    if part == "head":
        return f"head.final_layer.{path[1]}"
    if part == "stages":
        # theirs number the blocks of ResNet stage by stage, those of MobileNet-V3 throughout
        stage, block = int(path[0]), int(path[2])
        before = sum(earlier.depth for earlier in ARCHS[name].stages[:stage])
        number = f"{stage + 1}.{block}" if "resnet" in name else before + block + 1
        path = [f"layer{number}", *path[3:]]
    theirs = ".".join(["backbone", *path])
    for old, new in MMPOSE_NAMES[name].items():
        theirs = re.sub(old, new, theirs)
    return theirs


def load_mmpose(path):
    """A published S-ViPNAS checkpoint, of either network, as a finished PoseNet in eval mode.

    UserError if it is another network.
    """
    # the tensors lie under `state_dict`, or where others put them: under `model`, or bare
    found = read_checkpoint(path)
    for place in ("state_dict", "model"):
        if isinstance(found.get(place), dict):
            found = found[place]
    # DataParallel and torch.compile put a word before the names; older files have `keypoint_head`
    wrappers = "((module|_orig_mod)[.])*(keypoint_(?=head[.]))?"
    found = {re.sub(f"^{wrappers}", "", str(name)): tensor for name, tensor in found.items()}

    # which of the two is it? Only ResNet's blocks have two numbers in their names
    is_resnet = any(name.startswith("backbone.layer1.0.") for name in found)
    arch = "s_vipnas_resnet50" if is_resnet else "s_vipnas_mobilenetv3"
    net = PoseNet(ARCHS[arch]).eval()
    state = {}
    with complete(path):
        for ours in net.state_dict():
            theirs = _mmpose_name(arch, ours)
            check(theirs in found, f"a published S-ViPNAS network has {theirs}")
            # their layer norms have two more dimensions, of size 1
            is_layer_norm = "attention.norm" in ours
            state[ours] = found[theirs].flatten() if is_layer_norm else found[theirs]
    return restore(net, state, path)


# -------------------------------------------------------------------------- ONNX, and the benchmark


def export_onnx(nets, path, about):
    """Write finished networks as ONNX files, for any number of images each.

    Of several networks FILE.onnx becomes FILE_0.onnx, FILE_1.onnx, ... Inputs are called images
    and, of a non-key frame, heatmaps; the output is called output. UserError without the package.

    The metadata of a file say how to use it: about (`data.about`), each value as JSON. The window
    is the box in the aspect of size (H, W), times padding; images are (RGB / 255 - mean) / std; the
    centre of heatmap cell i is crop pixel 4 i + cell; joints, their names, flip and limbs.
    """
    # said before anything is written
    if not importlib.util.find_spec("onnx"):
        raise UserError("an ONNX file needs the package onnx: pip install onnx")
    import onnx

    for t, net in enumerate(nets):
        inputs = {name: x.contiguous() for name, x in example_inputs(net).items()}
        options = {"input_names": list(inputs), "output_names": ["output"]}
        options["dynamic_axes"] = {name: {0: "batch"} for name in [*inputs, "output"]}
        written = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that is not deprecated needs a package
            folded = fold(net).cpu()
            torch.onnx.export(folded, (), written, kwargs=inputs, dynamo=False, **options)
        model = onnx.load_from_string(written.getvalue())
        texts = {name: json.dumps(value) for name, value in about.items()}
        onnx.helper.set_model_props(model, texts)
        # whole or not at all
        file = path
        if len(nets) > 1:
            file = path.with_stem(f"{path.stem}_{t}")
        with data.whole_file(file) as opened:
            opened.write(model.SerializeToString())
        print(f"wrote {file}: {', '.join(inputs)} -> output")


def benchmark():
    """Print how fast networks are: eager, and as `deploy` makes them, with and without OpenVINO."""
    tiny = SPACES["tiny"]
    archs = {name: ARCHS[name] for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3")}
    archs["tiny, its largest network"] = tiny.largest()
    archs["tiny, its smallest for non-key frames"] = tiny.within(tiny.largest()).smallest()
    # random weights are as fast as trained ones
    for name, arch in archs.items():
        net = PoseNet(arch).eval()
        runs = {"eager": net, "batch norm folded, TorchScript": torchscript(fold(net))}
        if importlib.util.find_spec("openvino"):
            runs["batch norm folded, OpenVINO"] = openvino_request(fold(net), threads=1)
        height, width = net.space.image_size
        print(f"{name}, {height}x{width}, one image, one CPU thread")
        for runtime, run in runs.items():
            print(f"{milliseconds(run, example_inputs(net)):9.2f} ms   {runtime}")


# --------------------------------------------------------------------------- the command for videos

NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")  # Pillow only opens them
PEOPLE_COLOURS = ("lime", "deepskyblue", "gold", "violet")  # where there are several
GIF_SIZE = (480, 480)  # of overlay.gif at most
GIF_FRAMES = 200  # in it at most: Pillow keeps all of them in memory


def is_picture(path):
    """Whether a file is named like a picture, in any format that Pillow decodes."""
    form = Image.registered_extensions().get(path.suffix.lower())
    return form in (*Image.OPEN, "MPO") and form not in NO_PICTURES and not path.is_dir()


def frame_files(folder):
    """The pictures in a folder, in the order of their numbers. What else is in it is told."""
    files = sorted(folder.glob("[!.]*"), key=data.by_number)
    frames = [file for file in files if is_picture(file)]
    others = [file.name for file in files if not is_picture(file)]
    if others:
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        print(f"{folder}: left out {len(others)} that are no pictures: {names}")
    if not frames:
        raise UserError(f"there are no frames in {folder}: name a folder of images, or a GIF file")
    return frames


def frame_pages(image):
    """Turn an opened file to each of its pages that is a frame; yields their numbers."""
    # an APNG may begin with a picture for programs that cannot play it
    first = int(image.info.get("default_image", False))
    levels = 0
    whole = 0
    for page in range(first, getattr(image, "n_frames", 1)):
        image.seek(page)
        area = math.prod(image.size)
        whole = whole or area  # of the first page
        # tag 254 of a TIFF: the page is another one reduced
        if area < whole or getattr(image, "tag_v2", {}).get(254, 0) & 1:
            levels += 1
        else:
            yield page
    if levels:
        print(f"{image.filename}: pages left out, as they are smaller copies or previews: {levels}")


def read_video(path):
    """(name, Pillow image) of every frame: of a folder's pictures, or of the pages of one file."""
    path = Path(path).resolve()
    if path.is_file() and not is_picture(path):
        make = f"mkdir frames; ffmpeg -i {path.name} frames/%06d.png"
        raise UserError(f"{path} is no GIF, WebP or TIFF: make images of a film first ({make})")
    for file in frame_files(path) if path.is_dir() else [path]:
        with data.open_picture(file) as image:
            pages = frame_pages(image)
            if file != path:
                # in a folder further pages are something else, such as a preview
                pages = [file.name]
                if getattr(image, "n_frames", 1) > 1:
                    data.say_once(f"{path}: of a file with several pages the first is the frame")
            for page in pages:
                yield f"{path.name}/{page}", data.as_picture(ImageOps.exif_transpose(image))


def draw_people(overlay, poses, skeleton):
    """A copy of a frame with `poses` (N, K, 3) on it; several people have a colour each."""
    for person, pose in enumerate(poses):
        colour = None
        if len(poses) > 1:
            colour = PEOPLE_COLOURS[person % len(PEOPLE_COLOURS)]
        overlay = data.draw_pose(overlay, pose, skeleton, SURE, colour)
    return overlay


def add_frame(page, name, size, poses, stream):
    """Add what was found in a frame to `page`, which has PoseTrack18's format of results."""
    number = len(page["images"])
    image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
    page["images"].append(image | {"width": size[0], "height": size[1]})
    for person, pose in enumerate(poses):
        # track_id: the people are numbered as their boxes were handed in
        entry = {"image_id": number, "track_id": person}
        entry["keypoints"] = pose.round(3).ravel().tolist()
        entry["scores"] = pose[:, 2].round(4).tolist()
        if not stream.lost[person]:
            entry["bbox"] = np.round(stream.boxes[person], 2).tolist()
        page["annotations"].append(entry)


def keep_frame(file, frame, path):
    """Put a frame under `path`, without its ending: a copy of its own file; else, where it has none
    or is turned in it, a new picture. Returns the path."""
    is_own = file.is_file()
    if is_own:
        with data.open_picture(file) as stored:
            is_own = stored.getexif().get(data.EXIF_TURN, 1) == 1
    path = path.with_name(path.name + (file.suffix if is_own else ".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_own:
        shutil.copyfile(file, path)
    else:
        data.save_image(frame, path)
    return path


def write_labels(page, pictures, out, checkpoint):
    """Write what was found as labels in PoseTrack18's layout: OUT/annotations/train/NAME.json and,
    for the last fifth of the labelled frames or at least four, OUT/annotations/val/NAME.json.

    With them `train.py --stage t --data posetrack --root OUT` trains on videos that nobody has
    labelled. Lost people, and joints that are not seen, have no label. pictures: of the frames;
    NAME is that of their folder.
    """
    labelled = sorted({entry["image_id"] for entry in page["annotations"] if "bbox" in entry})
    count = max(1, len(labelled) // 5, min(4, len(labelled) // 2))
    first = labelled[-count] if labelled else len(pictures)
    for split, frames in {"train": range(first), "val": range(first, len(pictures))}.items():
        labels = {"labelled_by": str(checkpoint), "categories": page["categories"]}
        labels |= {"images": [], "annotations": []}
        for t in frames:
            picture = pictures[t].relative_to(out).as_posix()
            labels["images"].append({**page["images"][t], "file_name": picture})
        for entry in page["annotations"]:
            if entry["image_id"] in frames and "bbox" in entry:
                image = page["images"][entry["image_id"]]
                pose = np.reshape(entry["keypoints"], (-1, 3))
                seen = is_seen(pose, (image["width"], image["height"]))
                pose = np.column_stack([pose[:, :2], np.ones(len(pose))]) * seen[:, None]
                label = {key: entry[key] for key in ("image_id", "track_id", "bbox")}
                labels["annotations"].append(label | {"keypoints": pose.ravel().tolist()})
        data.write_json(labels, out / "annotations" / split / f"{pictures[0].parent.name}.json")
        people = len(labels["annotations"])
        print(f"{out}: {people} labels of people in {len(frames)} frames for {split}")


def follow(stream, video):
    """Yields (name, frame, poses, milliseconds) for every frame of a video."""
    for number, (name, frame) in enumerate(read_video(video)):
        # nobody can give a new box: at key frames lost people are searched for in larger ones
        is_key = number % len(stream.pose.nets) == 0
        boxes = search_boxes(stream, frame.size) if is_key else None
        start = time.perf_counter()
        poses = stream.step(frame, boxes)
        yield name, frame, poses, 1000 * (time.perf_counter() - start)


def check_out(video, out):
    """UserError, before any work, unless the results of `run_video` can be written to `out`."""
    folder = video if video.is_dir() else video.parent
    if out.resolve() == folder or (out / "images").resolve() in (folder, *folder.parents):
        raise UserError(f"the video lies in --out {out}; name another folder to be written to")
    data.try_folder(out)


def run_video(video, checkpoint, boxes, out):
    """Poses through a video; into the folder `out`: 000000.png ..., overlay.gif, poses.json, and
    labels, see `write_labels`.

    After an error in mid-video what was found so far is written, then the error is raised.
    """
    out = Path(out)
    video = Path(video).resolve()
    check_out(video, out)
    # everybody is followed from the first frame on
    pose = VideoPose.load(checkpoint)
    skeleton = data.skeleton_of(pose.about)
    stream = pose.stream(boxes)
    category = skeleton.category | {"sigmas": list(skeleton.sigmas)}
    page = {"categories": [category], "images": [], "annotations": []}
    pictures = []  # copies of the frames, in a folder of another name for each film
    folder = out / "images" / "_".join(video.parts[1:])[-100:]
    small = []  # the first overlays, of 256 colours, for the GIF
    times = {"key": [], "non-key": []}  # milliseconds of every frame
    try:
        for number, (name, frame, poses, milliseconds) in enumerate(follow(stream, video)):
            kind = "non-key" if stream.t else "key"
            times[kind].append(milliseconds)
            print(f"frame {number}: {kind:7} mean score {poses[..., 2].mean():.2f}")
            add_frame(page, name, frame.size, poses, stream)
            pictures.append(keep_frame(video.parent / name, frame, folder / f"{number:06d}"))
            # the overlay: at once as a file of its own, in the end as a part of the GIF
            overlay = draw_people(frame, poses, skeleton)
            data.save_image(overlay, out / f"{number:06d}.png")
            if number < GIF_FRAMES:
                overlay.thumbnail(GIF_SIZE)
                small.append(overlay.quantize())
    finally:
        if small:
            data.write_json(page, out / "poses.json")
            write_labels(page, pictures, out, checkpoint)
            data.save_image(small, out / "overlay.gif")
    print(f"{out}: overlays, overlay.gif of the first {len(small)} frames, poses.json")
    parts = [f"{kind} {np.mean(values):.1f} ms" for kind, values in times.items() if values]
    print(f"a frame of {len(boxes)} on {pose.device}: {', '.join(parts)}")


# -------------------------------------------------------------------------------- showing networks


def show_costs(title, costs):
    """Print {name: Cost}, a row each."""
    print(f"\n{title:22}   parameters   multiply-adds    GFLOPs (as the paper counts)")
    for name, price in costs.items():
        print(f"{name:22} {price.params:12,} {price.macs:15,} {price.gflops:9.4f}")


def show(arch):
    """Print what an architecture is made of, and what each part costs."""
    image_size = BACKBONES[arch.backbone].image_size
    parts = stage_costs(arch, image_size)
    parts["all"] = cost(arch, image_size)
    print(f"\n{arch}")
    show_costs("part", parts)


def show_all():
    """Print what every architecture costs (Tables 1 and 2), and the ends of every space."""
    show_costs("architecture", {name: cost(arch) for name, arch in ARCHS.items()})
    # how many architectures a space has, and between which two they lie
    for name, space in SPACES.items():
        ends = {"smallest": cost(space.smallest(), space.image_size)}
        ends["largest"] = cost(space.largest(), space.image_size)
        show_costs(f"{name} ({space.size():.1e})", ends)


FUSION_RED = (220, 20, 60)


def picture(archs, path):
    """Draw the networks of successive frames as Fig. 5 does, into a PNG: a row a frame, a box a
    stage {depth, width, kernel, groups}, in red where the heatmaps of the row above come in."""
    data.try_folder(Path(path).parent)  # fonts too
    high = 30 + 17 * max(len(stage.branches) for stage in archs[0].stages)  # a box
    wide = 220  # a box and the gap behind it
    right = 100 + wide * len(archs[0].stages)
    image = Image.new("RGB", (right, (high + 50) * len(archs) + 20), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(13)
    for row, arch in enumerate(archs):
        top = 50 + row * (high + 50)
        middle = top + high / 2
        name = f"frame {row}" if arch.fusion else "key frame"
        pen.text((8, middle), name, "black", anchor="lm")
        pen.line([(90, middle), (right, middle)], "black", 2)
        for column, stage in enumerate(arch.stages):
            x = 90 + wide * column
            text = f"stage {column + 1}"
            for b in stage.branches:
                text += f"\n{{{stage.depth}, {b.width}, {b.kernel}, {b.groups}}} e{b.expansion}"
                text += " att" if b.attention else ""
            pen.rectangle([x, top, x + 180, top + high], "aliceblue", "black")
            pen.text((x + 90, middle), text, "black", anchor="mm", align="center")
        if arch.fusion:
            # from the end of the row above, along the gap, down to behind the stage
            x = 90 + wide * arch.fusion.stage - 20
            lane = top - 25
            way = [(right - 20, lane - 25 - high / 2), (right - 20, lane), (x, lane), (x, middle)]
            pen.line(way, FUSION_RED, 2)
            pen.text((x + 4, lane + 12), arch.fusion.operation, FUSION_RED, anchor="lm")
    data.save_image(image, path)


# ------------------------------------------------------------------------------------------- main


def read_box(text):
    """x, y, w, h from "x,y,w,h", for argparse."""
    try:
        (box,) = as_boxes([float(number) for number in text.split(",")])
    except (ValueError, UserError):
        message = f"it is x,y,w,h with w and h above zero, not {text.strip()}"
        raise argparse.ArgumentTypeError(message) from None
    return box


def main():
    """Show architectures and spaces; time or export networks; or find poses in a video."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    path = data.path_option
    add("--arch", type=path, help=f"what to show: {', '.join(ARCHS)}, a JSON file, a checkpoint")
    add("--picture", type=path, help="PNG file to draw --arch into, as Fig. 5 does")
    add("--video", type=path, help="folder of frames, or a GIF, WebP, TIFF or APNG file")
    add("--checkpoint", type=path, help="finished networks for --video or --onnx (vipnas_t.pt)")
    add("--onnx", type=path, help="file for each network of --checkpoint, to run it elsewhere")
    add("--box", action="append", type=read_box, help="x,y,w,h of a person in the first frame")
    add("--out", type=path, help="folder for what --video writes")
    add("--benchmark", action="store_true", help="how fast deployed networks are")
    # argparse takes -20,30,80,120 for an option, but not where a space is before it
    words = [f" {word}" if re.match("-[0-9.]", word) else word for word in sys.argv[1:]]
    options = parser.parse_args(words)
    uses = bool(options.video) + bool(options.onnx)
    if uses != bool(options.checkpoint) or options.video and not options.out:
        message = "--checkpoint FILE goes with --video V and --out DIR, or with --onnx FILE alone"
        raise UserError(f"{message}; --arch FILE shows what is in one")
    if options.picture and not options.arch:
        raise UserError("--picture needs --arch: what shall it show?")

    if options.benchmark:
        benchmark()
    elif options.onnx:
        nets, about = load_networks(options.checkpoint)
        export_onnx(nets, Path(options.onnx), about)
    elif options.video:
        run_video(options.video, options.checkpoint, options.box or [None], options.out)
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
    with data.command("vipnas"):
        main()
