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
python vipnas.py --checkpoint runs/t/vipnas_t.pt --onnx net.onnx         # for other programs
python vipnas.py --video DIR --checkpoint runs/t/vipnas_t.pt --box x,y,w,h --out DIR
"""

import argparse
import collections
import contextlib
import copy
import importlib.util
import io
import itertools
import json
import math
import pickle
import re
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
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
from elastic import (
    Backbone,
    Branch,
    ConvNorm,
    Cost,
    ElasticConv2d,
    ElasticConvTranspose2d,
    Head,
    ParallelStage,
    PoseHead,
    SerialStage,
    Stage,
    Stem,
    common_groups,
)
from fusion import OPERATIONS, TemporalFusion, step

# ----------------------------------------------------------------------- what a search leaves alone


# fmt: off
BACKBONES = {
    # stage 1 of ResNet works at 1/4 (stride 1), though Table A2 prints 1/8: the released weights do
    "resnet50": Backbone(
        ("bottleneck",) * 4, strides=(1, 2, 2, 2), activations=(F.relu,) * 4,
        attention=elastic.GlobalContext, stem_kernel=7, stem_second="pool",
    ),
    # Table A1; where activations change, as in the released network
    "mobilenetv3": Backbone(
        ("mobile",) * 6, strides=(1, 2, 2, 2, 1, 2), stem_activation=F.hardswish,
        activations=(F.relu,) * 3 + (F.hardswish,) * 3,
    ),
    # Table A3: two stride-2 convolutions, a stage in a row, then 2, 3 and 4 parallel branches
    "hrnet_w32": Backbone(
        ("bottleneck",) + ("basic",) * 3, strides=(1, 1, 1, 1), activations=(F.relu,) * 4,
        stem_second="conv", modules=(None, 4, 4, 4),
    ),
    # ours, for two CPU cores: blocks of MobileNet-V3, h-swish only where the features are small
    "tiny": Backbone(
        ("mobile",) * 4, strides=(2, 2, 2, 1), activations=(F.relu,) * 2 + (F.hardswish,) * 2,
        attention=elastic.SqueezeExcite, image_size=(128, 96),
    ),
}
# only compared with (Table 1: SBL-ResNet-18)
BACKBONES["resnet18"] = replace(BACKBONES["resnet50"], block=("basic",) * 4)
# fmt: on

# --------------------------------------------------------------------------------- an architecture


class Fusion(NamedTuple):
    """After which stage (from 1: the paper's F_1, F_2, ...) and how the last heatmaps come in."""

    stage: int
    operation: str


@cache
def all_fusions(stages):
    """The temporal-level space of a frame: N_S stages times N_O operations (Sec. 3.3)."""
    places = itertools.product(range(1, stages + 1), OPERATIONS)
    return tuple([Fusion(stage, operation) for stage, operation in places])


# ours: what a file may ask for; several times the largest network that the paper looks at
MOST_BLOCKS = 500
MOST_PARAMETERS = 200_000_000


def check(condition, message):
    """ValueError with this message, unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_sizes(*sizes):
    """ValueError unless all are sizes that a layer can have."""
    for size in sizes:
        fits = type(size) is int and 1 <= size <= 10_000
        check(fits, f"sizes in an architecture are whole numbers from 1 to 10000: {size!s:.20}")


def as_plain(value):
    """Named tuples as dicts, all the way down: so JSON keeps the names."""
    if hasattr(value, "_asdict"):
        return {name: as_plain(field) for name, field in value._asdict().items()}
    return [as_plain(entry) for entry in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Arch:
    """One architecture: hashable, can be written by hand. ValueError for what is no network.

    stages = (Stage(1, (Branch(24, 3, 24),)), Stage(2, (Branch(32, 5, 64, True, 2),)), ...)
    arch = Arch("tiny", 16, stages, Head(48, 4, 48), Fusion(2, "add"))
    """

    backbone: str
    stem: int
    stages: tuple
    head: Head | None  # None where the last stage works at 1/4 already (HRNet)
    fusion: Fusion | None = None  # a key frame has none

    def __post_init__(self):
        known = self.backbone in BACKBONES
        check(known, f"there is no backbone '{self.backbone!s:.20}' among {', '.join(BACKBONES)}")
        plan = BACKBONES[self.backbone]
        # as many stages as the backbone has, each with the branches that it has there
        count = len(plan.block)
        check(len(self.stages) == count, f"{self.backbone} has {count} stages")
        check_sizes(self.stem, *(self.head or ()))
        for index, stage in enumerate(self.stages):
            self._check_stage(plan, index, stage)
        # deconvolutions lead up to 1/4 of the image; HRNet never leaves it
        needed = plan.reduction() > 4
        wanted = "deconvolutions" if needed else "no deconvolutions"
        check((self.head is not None) == needed, f"{self.backbone} has {wanted} in its head")
        if self.head:
            check(self.head.kernel in (2, 4), "the kernels of the head are 2 or 4")
        fits = self.fusion in (None, *all_fusions(count))
        check(fits, f"a fusion names a stage from 1 to {count} and one of {OPERATIONS}")

    def _check_stage(self, plan, index, stage):
        """ValueError unless this can be stage `index` of the backbone."""
        name = f"stage {index + 1} of {self.backbone}"
        module = plan.modules[index] or 1
        count = index + 1 if plan.modules[index] else 1  # of branches
        check(len(stage.branches) == count, f"{name} has {count} branches")
        check_sizes(stage.depth)
        check(stage.depth % module == 0, f"{name} consists of modules of {module} blocks")
        for branch in stage.branches:
            check_sizes(branch.width, branch.kernel, branch.groups, branch.expansion)
            check(branch.kernel % 2 == 1, "the kernels of the stages are odd")
            kind = plan.block[index]
            if kind == "basic":
                check(branch.expansion == 1, "the expansion of a basic block is 1")
            fits = kind == "mobile" or branch.width % branch.expansion == 0
            check(fits, "the expansion of a bottleneck divides its width")
            check(type(branch.attention) is bool, "attention is true or false")
            # squeeze-and-excite leaves a quarter of them
            fits = not branch.attention or branch.hidden(kind) >= 4
            check(fits, "attention needs 4 channels")

    def __str__(self):
        """One line, such as: tiny: 16 | 1 x 24 k3 g24 e1 | ... | head 48 k4 g8.

        For each stage its depth, then width, kernel, groups, expansion and attention of its blocks.
        """
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
        return json.dumps({name: as_plain(value) for name, value in vars(self).items()})

    @staticmethod
    def from_json(text):
        """The Arch in `text`. ValueError, in one sentence, if it holds none that can be built.

        Every architecture of a file comes in here, before any memory is taken for its network.
        """
        try:
            fields = json.loads(text)
            stages = []
            for stage in fields["stages"]:
                branches = [Branch(**branch) for branch in stage["branches"]]
                stages.append(Stage(stage["depth"], tuple(branches)))
            head = Head(**fields["head"]) if fields.get("head") else None
            fusion = Fusion(**fields["fusion"]) if fields.get("fusion") else None
            arch = Arch(fields["backbone"], fields["stem"], tuple(stages), head, fusion)
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"this is not the JSON of an architecture ({reason:.80})") from None
        blocks = sum(stage.depth * len(stage.branches) for stage in arch.stages)
        fits = blocks <= MOST_BLOCKS and cost(arch).params <= MOST_PARAMETERS
        limits = f"{MOST_BLOCKS} blocks or {MOST_PARAMETERS:,} parameters"
        check(fits, f"this architecture has more than {limits}")
        return arch


# ---------------------------------------------------------------------------------- a search space

NO_LIMIT = 10**9  # channels of a group
AS_GIVEN = -1  # instead of such a limit: whatever the group numbers are, they are right
BOTH = (False, True)  # attention: skipped or used


def steps(low, high, step=16):
    """low, low + step, ..., high."""
    return tuple(range(low, high + 1, step))


def widths_within(table, width):
    """Widths from half of `width` up to it, in the table's steps; one it does not search stays."""
    if len(table) == 1:
        return (width,)
    # of 304, in steps of 16: 160, 176, ..., 304
    step = table[1] - table[0]
    least = width - width // 2 // step * step
    return steps(least, width, step)


@dataclass(frozen=True)
class BlockChoices:
    """A line of Tables A1-A3: what the blocks of a stage, or of one branch of it, may be."""

    width: tuple
    kernel: tuple
    groups: tuple
    attention: tuple = (False,)
    expansion: tuple = (1,)
    most_per_group: int = NO_LIMIT  # channels that the shared filters hold for a group
    block: str = ""  # the kind of block, which `Space.of_rows` fills in

    def groups_of(self, width, expansion=1):
        """The group numbers that go with them. ours: only those that divide, see `elastic`.

        48 channels in 24 groups have filters over 2 channels, in 12 groups over 4: the fewer
        groups, the larger the filters, and the shared ones have only so many channels (Fig. A3).
        """
        if self.most_per_group == AS_GIVEN:
            return self.groups  # an architecture made by hand keeps its own
        hidden = Branch(width, expansion=expansion).hidden(self.block)
        most = self.most_per_group
        return [n for n in self.groups if hidden % n == 0 and hidden // n <= most]

    def sample(self, rng):
        """A random Branch, drawn dimension by dimension (ours; the paper only says "random").

        Drawn from the list of all combinations instead, widths and expansions that many group
        numbers divide would be more frequent than others.
        """
        width = rng.choice(self.width)
        kernel = rng.choice(self.kernel)
        expansion = rng.choice(self.expansion)
        attention = rng.choice(self.attention)
        fitting = self.groups_of(width, expansion)
        if not fitting:
            return self.sample(rng)  # these two do not go together: draw again
        return Branch(width, kernel, rng.choice(fitting), attention, expansion)

    @cache  # noqa: B019 - the tables have few lines, and they are kept
    def options(self):
        """Every Branch of this line, from small to large: wide and with few groups last.

        So the last one holds the weights of all others; the first is the cheapest.
        """
        found = []
        for width, expansion, kernel in itertools.product(self.width, self.expansion, self.kernel):
            for groups in sorted(self.groups_of(width, expansion), reverse=True):
                for attention in self.attention:
                    found.append(Branch(width, kernel, groups, attention, expansion))
        return tuple(found)

    def within(self, branch):
        """The choices of everything not larger than `branch`, see `Space.within`."""
        # its own expansion is the largest; the table may not have it (a network made by hand)
        smaller = [expansion for expansion in self.expansion if expansion < branch.expansion]
        return replace(
            self,
            width=widths_within(self.width, branch.width),
            kernel=steps(min(self.kernel[0], branch.kernel), branch.kernel, 2),
            groups=tuple(sorted({*self.groups, branch.groups})),
            attention=BOTH if branch.attention else (False,),
            expansion=(*smaller, branch.expansion),
            most_per_group=branch.hidden(self.block) // branch.groups,
        )


@dataclass(frozen=True)
class HeadChoices(BlockChoices):
    """The line of Tables A1-A2 for the deconvolutions.

    The first of them reads the `in_channels` of the last stage, the others what it gives: so which
    group numbers fit depends on the last stage's width too.
    """

    most_per_group_first: int = NO_LIMIT

    def groups_over(self, width, in_channels):
        """The group numbers for this width, over so many channels."""
        fitting = self.groups_of(width)
        most = self.most_per_group_first
        return [n for n in fitting if width // common_groups(n, in_channels, width) <= most]

    def sample(self, rng, in_channels):
        """A random Head, drawn dimension by dimension."""
        width = rng.choice(self.width)
        fitting = self.groups_over(width, in_channels)
        if not fitting:
            return self.sample(rng, in_channels)
        return Head(width, rng.choice(self.kernel), rng.choice(fitting))

    @cache  # noqa: B019 - as above
    def options(self, in_channels):
        """Every Head over `in_channels`, from small to large."""
        found = []
        for width, kernel in itertools.product(self.width, self.kernel):
            fitting = sorted(self.groups_over(width, in_channels), reverse=True)
            found += [Head(width, kernel, groups) for groups in fitting]
        return tuple(found)

    def within(self, head, in_channels):
        """The choices of everything not larger than `head` over `in_channels`."""
        first = common_groups(head.groups, in_channels, head.width)
        inner = super().within(Branch(*head))
        return replace(inner, most_per_group_first=head.width // first)


@dataclass(frozen=True)
class Space:
    """The architectures a search may choose from.

    Every decision is free of the others, but that group numbers must fit, so there are as many as
    the product of its choices: 5 billion for ResNet-50, 10^19 for HRNet. None is ever listed.
    """

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
        # `zip` of one thing makes (width,), (kernel,), ...: each dimension has one choice
        rows = []
        for stage in arch.stages:
            lines = [zip(branch, strict=True) for branch in stage.branches]
            rows.append([(stage.depth,), *[BlockChoices(*line, AS_GIVEN) for line in lines]])
        head = None
        if arch.head:
            head = HeadChoices(*zip(Branch(*arch.head), strict=True), AS_GIVEN)
        sizes = (image_size or BACKBONES[arch.backbone].image_size, (arch.fusion,))
        return Space.of_rows(arch.backbone, (arch.stem,), rows, head, *sizes)

    @staticmethod
    def of_rows(backbone, stem, rows, head, image_size=(256, 192), fusions=(None,)):
        """The space of a table: in its rows, one a stage, depths, and BlockChoices a branch."""
        blocks = []
        for kind, (_, *line) in zip(BACKBONES[backbone].block, rows, strict=True):
            blocks.append(tuple([replace(choices, block=kind) for choices in line]))
        depth = tuple([row[0] for row in rows])
        return Space(backbone, stem, depth, tuple(blocks), head, image_size, fusions)

    def smallest(self):
        """The least of everything: depth, width, kernel, most groups, no attention."""
        return self._end(0)

    def largest(self):
        """The most of everything; every other network of the space is a slice of this one."""
        return self._end(-1)

    def _end(self, index):
        """The Arch of all first (0) or all last (-1) choices, with the first fusion.

        The sandwich rule (Sec. 3.4.2) draws fusions at random: a fusion has no size.
        """
        stages = []
        for depths, line in zip(self.depth, self.blocks, strict=True):
            branches = [choices.options()[index] for choices in line]
            stages.append(Stage(depths[index], tuple(branches)))
        head = self._heads(stages)[index]
        return Arch(self.backbone, self.stem[index], tuple(stages), head, self.fusions[0])

    def _heads(self, stages):
        """The heads over these stages: they see branch 1 of the last."""
        return self.head.options(stages[-1].branches[0].width) if self.head else (None,)

    def _sample_head(self, rng, stages):
        return self.head.sample(rng, stages[-1].branches[0].width) if self.head else None

    def sample(self, rng):
        """A random Arch, from a `random.Random`."""
        # stage by stage; in HRNet every branch of it decides for itself (Sec. A.2)
        stages = []
        for depths, line in zip(self.depth, self.blocks, strict=True):
            branches = [choices.sample(rng) for choices in line]
            stages.append(Stage(rng.choice(depths), tuple(branches)))
        # the head last: its group numbers depend on the width below
        head = self._sample_head(rng, stages)
        stem = rng.choice(self.stem)
        return Arch(self.backbone, stem, tuple(stages), head, rng.choice(self.fusions))

    def redraw(self, arch, rng):
        """A neighbour of `arch`: one decision, chosen at random, is drawn anew as `sample` does.

        This is the step of the random walk that finds candidates near a budget
        (`search.sample_near_budget`).
        """
        what, number, branch = rng.choice(_decisions(self))
        if what == "stem":
            return replace(arch, stem=rng.choice(self.stem))
        if what == "fusion":
            return replace(arch, fusion=rng.choice(self.fusions))
        if what == "head":
            return replace(arch, head=self._sample_head(rng, arch.stages))

        # of a stage either its depth, or everything else about one branch
        stages = list(arch.stages)
        stage = stages[number]
        if what == "depth":
            stages[number] = stage._replace(depth=rng.choice(self.depth[number]))
        else:
            branches = list(stage.branches)
            branches[branch] = self.blocks[number][branch].sample(rng)
            stages[number] = stage._replace(branches=tuple(branches))

        # if the last stage has another width now, the head may no longer fit on it
        head = arch.head
        if head not in self._heads(stages):
            head = self._sample_head(rng, stages)
        return replace(arch, stages=tuple(stages), head=head)

    def decisions(self):
        """How many decisions `redraw` chooses from."""
        return len(_decisions(self))

    def __contains__(self, arch):
        if arch.backbone != self.backbone:
            return False
        # decision by decision
        found = [arch.stem in self.stem, arch.fusion in self.fusions]
        for stage, depths, line in zip(arch.stages, self.depth, self.blocks, strict=True):
            found.append(stage.depth in depths)
            for branch, choices in zip(stage.branches, line, strict=True):
                found.append(branch in choices.options())
        found.append(arch.head in self._heads(arch.stages))
        return all(found)

    def size(self):
        """How many architectures there are (a Python int: it does not fit a float)."""
        count = len(self.stem) * len(self.fusions)
        for depths, line in zip(self.depth, self.blocks, strict=True):
            count *= len(depths) * math.prod([len(choices.options()) for choices in line])
        if not self.head:
            return count
        # how many heads fit depends on the branch below: take their mean over its options
        last = self.blocks[-1][0].options()
        heads = sum(len(self.head.options(branch.width)) for branch in last)
        return count * heads // len(last)

    def within(self, arch):
        """The space of everything not larger than `arch`, with a fusion after any stage.

        So a found S-ViPNAS becomes the T super-network (Sec. 3.4.2: "share the same CNN
        architecture"). ours, as the paper does not say how small T networks get: depth down to 1
        (block, or module of HRNet), searched widths down to half in the table's steps, kernels down
        to the table's least, any group number of the table that keeps a group as small as in
        `arch`, attention only where `arch` has it. ValueError if `arch` has another backbone.
        """
        here = self.backbone
        check(arch.backbone == here, f"a {arch.backbone} does not lie in the space {here}")
        rows = []
        for index, stage in enumerate(arch.stages):
            # the first block changes the shape, so one always stays (Sec. A.1)
            module = BACKBONES[here].modules[index] or 1
            lines = zip(self.blocks[index], stage.branches, strict=True)
            branches = [choices.within(branch) for choices, branch in lines]
            rows.append([steps(module, stage.depth, module), *branches])
        head = None
        if self.head:
            head = self.head.within(arch.head, arch.stages[-1].branches[0].width)
            # ours: a width of the last stage is not offered if no head fits on it
            last = rows[-1][1]
            fitting = [width for width in last.width if head.options(width)]
            rows[-1][1] = replace(last, width=tuple(fitting))
        stem = widths_within(self.stem, arch.stem)
        fusions = all_fusions(len(arch.stages))
        return Space.of_rows(here, stem, rows, head, self.image_size, fusions)


@lru_cache(maxsize=64)
def _decisions(space):
    """(what, stage, branch) of every decision of `space` that has more than one option."""
    # once a network: the stem, the fusion of a non-key frame, the head
    heads = space._heads(space.largest().stages)
    once = {"stem": space.stem, "fusion": space.fusions, "head": heads}
    found = [(what, None, None) for what, options in once.items() if len(options) > 1]
    # in every stage: its depth; and all that makes up a branch is one decision
    for index, line in enumerate(space.blocks):
        if len(space.depth[index]) > 1:
            found.append(("depth", index, None))
        for branch, choices in enumerate(line):
            if len(choices.options()) > 1:
                found.append(("branch", index, branch))
    return found or [("stem", None, None)]  # a space of one: there it stays


def resnet(depths, *widths):
    """A line of Table A2. Steps (Sec. A.2): width 16, kernel 2, groups 16."""
    return depths, BlockChoices(steps(*widths), (3, 5), steps(16, 64), BOTH)


def mobile(width):
    """A line of Table A1. Groups: all numbers of the printed range, 3/8 to 6 times the width.

    At expansion 6 that is from 16 channels a group to 1: a depthwise convolution.
    """
    groups = steps(3 * width // 8, 6 * width, 1)
    return (2, 3, 4), BlockChoices((width,), (3, 5, 7), groups, BOTH, (3, 4, 5, 6))


def hrnet(depths, *widths):
    """A line of Table A3, one width a branch. ours: widths in steps of a quarter of the maximum."""
    branches = []
    for width in widths:
        table = steps(width // 4, width, width // 4)
        branches.append(BlockChoices(table, (3,), steps(1, width, 1), BOTH))
    return depths, *branches


# Each line: the depths of a stage, then the choices for its blocks (for each of its branches). The
# tables print [min, max]; the steps are those of Sec. A.2 for ResNet-50, of the others ours.
# fmt: off
SPACES = {
    # Table A2
    "resnet50": Space.of_rows("resnet50", steps(32, 64), [
        resnet((3, 4), 64, 80),
        resnet((4, 5, 6), 128, 160),
        resnet((6, 7, 8), 256, 320),
        resnet((3, 4), 512, 640),
    ], HeadChoices(steps(64, 256), (4,), steps(16, 64))),

    # Table A1
    "mobilenetv3": Space.of_rows("mobilenetv3", (16,), [
        ((1,), BlockChoices((16,), (3,), steps(2, 16, 1), BOTH)),
        *[mobile(width) for width in (24, 40, 80, 112, 160)],
    ], HeadChoices((256,), (4,), steps(32, 256, 1))),

    # Table A3. Of the bottlenecks it prints the middle width, 16 to 64; four times that comes out
    "hrnet_w32": Space.of_rows("hrnet_w32", steps(16, 64), [
        ((2, 3, 4), BlockChoices(steps(64, 256, 64), (3,), steps(1, 16, 1), BOTH, (4,))),
        hrnet((4,), 32, 64),
        hrnet((8, 12, 16), 32, 64, 128),
        hrnet((8, 12), 32, 64, 128, 256),
    ], None),

    # ours: shaped like MobileNet-V3, small enough to be trained on two CPU cores in minutes.
    # After the expansions: how many channels a group may have at most
    "tiny": Space.of_rows("tiny", (16,), [
        ((1, 2), BlockChoices((16, 24), (3,), (16, 24, 48), (False,), (1, 2), 1)),
        ((1, 2), BlockChoices((32, 48), (3, 5), (64, 96, 144), BOTH, (2, 3), 1)),
        ((1, 2, 3), BlockChoices(
            (48, 64), (3, 5), (48, 64, 72, 96, 128, 144, 192), BOTH, (2, 3), 2)),
        ((1, 2, 3), BlockChoices((48, 96), (3, 5), (96, 144, 192, 288), BOTH, (2, 3), 1)),
    ], HeadChoices((48,), (4,), (48,)), image_size=(128, 96)),
}
# fmt: on


def hand_made(backbone, stem, rows, head=None):
    """An Arch from rows (depth, a Branch for each branch)."""
    return Arch(backbone, stem, tuple([Stage(row[0], row[1:]) for row in rows]), head)


# Each line: the depth of a stage, then its blocks
# fmt: off
ARCHS = {
    # the two networks that the authors released
    "s_vipnas_resnet50": hand_made("resnet50", 48, [
        # depth  width kernel groups attention
        (4, Branch(80, 3, 16, True)),
        (6, Branch(160, 5, 16, False)),
        (7, Branch(304, 5, 16, True)),
        (3, Branch(608, 5, 16, True)),
    ], Head(144, 4, 16)),
    "s_vipnas_mobilenetv3": hand_made("mobilenetv3", 16, [
        # depth  width kernel groups attention expansion
        (1, Branch(16, 3, 8, True, 1)),
        (4, Branch(24, 7, 120, True, 5)),
        (4, Branch(40, 7, 20, False, 4)),
        (4, Branch(80, 5, 100, True, 5)),
        (4, Branch(112, 7, 280, True, 5)),
        (4, Branch(160, 5, 240, True, 6)),
    ], Head(160, 4, 160)),
    # Simple Baselines [56], ResNets as they are; and HRNet-W32 [49]: 1, 4 and 3 modules of 4 blocks
    "sbl_resnet18": hand_made("resnet18", 64, [
        (2, Branch(64)), (2, Branch(128)), (2, Branch(256)), (2, Branch(512)),
    ], Head(256)),
    "sbl_resnet50": hand_made("resnet50", 64, [
        (3, Branch(256, expansion=4)), (4, Branch(512, expansion=4)),
        (6, Branch(1024, expansion=4)), (3, Branch(2048, expansion=4)),
    ], Head(256)),
    "hrnet_w32": hand_made("hrnet_w32", 64, [
        (4, Branch(256, expansion=4)),
        (4, Branch(32), Branch(64)),
        (16, Branch(32), Branch(64), Branch(128)),
        (12, Branch(32), Branch(64), Branch(128), Branch(256)),
    ]),
}
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
        largest = self.space.largest()
        # a space of one architecture makes a finished network, whose layers still are elastic ones:
        # they just have nothing smaller to give
        elastic = self.space.size() > 1
        self.arch = None if elastic else largest
        self.is_supernet = elastic
        # every part holds the weights of its largest choice; all other choices are slices of them
        plan = BACKBONES[self.space.backbone]
        self.stem = Stem(plan, largest.stem)
        self.stages = nn.ModuleList()
        self.fusions = nn.ModuleDict()
        widths = [largest.stem]  # of the branches that a stage starts from
        for index, stage in enumerate(largest.stages):
            kind = ParallelStage if plan.modules[index] else SerialStage
            self.stages.append(kind(plan, index, widths, stage, elastic))
            widths = [branch.width for branch in stage.branches]
            # the operations that may follow this stage (Sec. 3.3); none in a key frame's network
            operations = [o for o in OPERATIONS if Fusion(index + 1, o) in self.space.fusions]
            if operations:
                self.fusions[str(index + 1)] = TemporalFusion(joints, widths[0], operations)
        self.head = PoseHead(widths[0], largest.head, plan.reduction(), joints)

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
                fusion = self.fusions[str(number)]
                features[0] = fusion(features[0], heatmaps, arch.fusion.operation)
        return self.head(features[0], arch.head)

    def extract(self, arch):
        """The finished network of `arch`: its slices copied, the outputs of net(images, arch).

        It holds no weights but its own, so it can be trained on, saved and deployed by itself.
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
            if name in theirs and hasattr(layer, "copy_slice"):
                layer.copy_slice(theirs[name])
        return self


# ----------------------------------------------------------------------------------- what it costs


@lru_cache(maxsize=2**17)
def _stage_cost(backbone, index, in_widths, stage, area):
    """Cost of one stage. Given the widths at its borders it does not depend on the others.

    So a random walk, which changes one stage a step, prices thousands of networks a second: only
    that stage, and perhaps the next one, is new.
    """
    plan = BACKBONES[backbone]
    kind = ParallelStage if plan.modules[index] else SerialStage
    return kind.cost(plan, index, list(in_widths), stage, area)


def stage_costs(arch, image_size=(256, 192), joints=17):
    """{"stem": Cost, "stage 1": Cost, ..., "head": Cost, perhaps "fusion": Cost}."""
    plan = BACKBONES[arch.backbone]
    image_area = image_size[0] * image_size[1]
    widths = (arch.stem,)
    costs = {"stem": Stem.cost(plan, image_area, arch.stem)}
    for index, stage in enumerate(arch.stages):
        # positions at the stage's output (in HRNet: of its finest branch)
        area = image_area // plan.reduction(index + 1) ** 2
        costs[f"stage {index + 1}"] = _stage_cost(arch.backbone, index, widths, stage, area)
        widths = tuple([branch.width for branch in stage.branches])
        if arch.fusion and arch.fusion.stage == index + 1:
            # the last heatmaps are encoded at their own resolution, a quarter of the image's
            sizes = (area, image_area // 16, joints, widths[0])
            costs["fusion"] = TemporalFusion.cost(*sizes, arch.fusion.operation)
    costs["head"] = PoseHead.cost(area, widths[0], arch.head, plan.reduction(), joints)
    return costs


def cost(arch, image_size=(256, 192), joints=17):
    """Cost of an architecture at an image size (height, width)."""
    return sum(stage_costs(arch, image_size, joints).values(), start=Cost())


# ------------------------------------------------------------------------------------- checkpoints

# Three kinds of files, each a dict of tensors and plain values, with its "kind":
#
# finished   "networks": [{"arch": JSON, "state": tensors}, ...], the key frame's first
#            "about": how to use them: image size, joints, normalisation (`data.about`)
# supernet   a run that can be resumed: "stage" ("s", "t"), "space" (its name), "nets" (tensors),
#            "arch" (JSON: of stage t the key frame's, with its tensors under "key"; of stage s the
#            one that is trained alone), "optimizer", "step", "config", "log", "about"
# alone      the same of networks that are trained alone (older files call these "supernet", too)
PARTS = {
    "finished": {"networks": list, "about": dict},
    "supernet": {
        "stage": str,
        "space": str,
        "nets": list,
        "optimizer": dict,
        "step": int,
        "config": dict,
        "about": dict,
        "log": str,
    },
}
PARTS["alone"] = PARTS["supernet"]


class Inert:
    """Stands in for whatever a file names besides tensors.

    It takes everything and does nothing: made, called or filled, it stays an empty object.
    """

    def __init__(self, *arguments, **named):
        pass

    def __call__(self, *arguments, **named):
        return self

    # what a pickle does with an object after making it
    __setstate__ = __setitem__ = append = extend = add = __call__


class TensorsOnly:
    """What reads the pickles in a file, in the shape of a module, as `torch.load` wants it.

    A pickle is a program: it names functions and calls them. The names below, and no others, lead
    to code.
    """

    functions = ("_rebuild_tensor_v2", "_rebuild_parameter")
    allowed = ["collections.OrderedDict", *[f"torch._utils.{name}" for name in functions]]

    class Unpickler(pickle.Unpickler):
        """Asks `find_class` for every class and function that a file names."""

        def find_class(self, module, name):
            is_allowed = f"{module}.{name}" in TensorsOnly.allowed
            return super().find_class(module, name) if is_allowed else Inert

    @staticmethod
    def load(file, **options):
        """As `pickle.load`."""
        return TensorsOnly.Unpickler(file, **options).load()


def save_checkpoint(contents, path):
    """`torch.save`, whole or not at all. UserError if it cannot be written.

    A run that is killed while it saves keeps its last checkpoint.
    """
    with data.whole_file(path) as file:
        torch.save(contents, file)


def read_checkpoint(path):
    """The dict in a checkpoint, ours or another program's: its tensors and plain values.

    Nothing in the file is executed. Published files hold more (logs, settings, numpy's numbers),
    which `weights_only` does not accept: it becomes `Inert`. What is no dict comes out empty.
    UserError: no such file, it is cut short or something else, or it is ours and lacks a part.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; train first, or name another checkpoint")
    try:
        # ours need no more than torch's own check; of others' files the rest is skipped
        try:
            contents = torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError:
            contents = torch.load(path, "cpu", TensorsOnly, weights_only=False)
    except Exception as error:  # torch raises many kinds for a file that it cannot read
        reason = f"truncated or not a checkpoint ({type(error).__name__})"
        raise UserError(f"{path} is {reason}; make it anew") from None
    if not isinstance(contents, dict):
        return {}
    with complete(path):
        for kind in PARTS:
            if contents.get("kind") == kind:
                check_parts(contents, PARTS[kind])
    return contents


def check_parts(contents, parts):
    """ValueError or KeyError unless a checkpoint of ours has all its `parts`."""
    for name, kind in parts.items():
        check(isinstance(contents[name], kind), f"{name} is no {kind.__name__}")
    check_about(contents["about"])


def check_about(about):
    """What an `about` may be: ValueError or KeyError unless networks can be used with it."""
    size = about["size"]
    joints = about["joints"]
    known = data.about(data.COCO, size)
    for name in about:
        check(name in known, f"nothing is known of {name!s:.20} in `about`")
    sides = [type(side) is int and 16 <= side <= 2048 and side % 16 == 0 for side in size]
    check(sides == [True, True], "the sides of its images are no multiples of 16 up to 2048")

    # how crops are made is written in data.py
    for name in ("padding", "mean", "std"):
        check(about[name] == known[name], f"{name} in `about` is not {known[name]} as in data.py")
    check(about["cell"] in (data.CELL, data.SBL_CELL), "nothing is known of its heatmap cells")

    numbers = list(range(len(joints)))
    names = [type(joint) is str for joint in joints]
    check(all(names) and 1 <= len(names) <= 1000, "its joints are no list of 1 to 1000 names")
    check(sorted(about["flip"]) == numbers, "its `flip` does not name every joint once")
    for a, b in about["limbs"]:
        check(a in numbers and b in numbers, "its limbs are no pairs of joints")
    sigmas = about.get("sigmas", [1] * len(joints))
    sane = [0 < sigma < 10 for sigma in sigmas]
    check(sane == [True] * len(joints), "its sigmas are no number above 0 for each joint")


def load_checkpoint(path, kind):
    """The dict saved under `path`, of `kind` "supernet" or "finished"; else UserError."""
    contents = read_checkpoint(path)
    if contents.get("kind") != kind:
        raise UserError(f"{path} holds something else: a {kind} checkpoint is needed here")
    return contents


@contextlib.contextmanager
def complete(path):
    """Inside, whatever is missing or wrong in the checkpoint `path` is a UserError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # PyTorch's take several lines
        what = f"lacks a part of what it needs, or holds a wrong one ({reason})"
        raise UserError(f"{path} {what}; make it anew") from None


def is_plain(tensor):
    """Whether something in a file is a tensor of ordinary numbers, which lie in memory."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_nested:
        return False
    # not sparse, not on the device "meta", which has no numbers; not complex, quantised or whole
    in_memory = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return in_memory and tensor.is_floating_point()


def fitting(state, expected, path):
    """What a state dict may be: the tensors of `state` in the names and shapes of `expected`.

    Dimensions of size 1 are no difference: mmpose's layer norms have two of them more than ours.
    UserError if one is missing, does not fit, or is not finite.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path} has no dict of tensors where there should be one; make it anew")
    found = {}
    wrong = []
    for name, tensor in expected.items():
        theirs = state.get(name)
        if is_plain(theirs) and theirs.squeeze().shape == tensor.squeeze().shape:
            found[name] = theirs.reshape(tensor.shape)
        else:
            wrong.append(name)
    # PyTorch's own message for this has a line for each tensor
    if wrong:
        reason = f"{', '.join(wrong[:3])} are missing in it or do not fit"
        raise UserError(f"{path} is of another network: {reason}")
    spoilt = [name for name in found if not found[name].float().isfinite().all()]
    if spoilt:
        raise UserError(
            f"{path} is spoilt: not all numbers in {spoilt[0]} are finite; make it anew"
        )
    return found


def restore(net, state, path):
    """Load `state` into `net` and return it; UserError that names the tensors that do not fit."""
    own = net.state_dict()
    found = fitting(state, own, path)
    more = [str(name) for name in state if name not in own]
    if more:
        raise UserError(f"{path} is of another network: {', '.join(more[:3])} do not fit")
    net.load_state_dict(found)
    return net


def without_numpy(value):
    """The list or number in an array, a tensor, or a number of numpy's."""
    return value.tolist()


def save_finished(path, nets, about):
    """Write finished networks, the key frame's first. about: from `data.about`, how to use them."""
    networks = [{"arch": net.arch.to_json(), "state": net.state_dict()} for net in nets]
    # nothing but plain values can be read again, see `TensorsOnly`
    about = json.loads(json.dumps(about, default=without_numpy, allow_nan=False))
    save_checkpoint({"kind": "finished", "networks": networks, "about": about}, path)


def load_finished(path):
    """(list of PoseNets in eval mode, about) as `save_finished` wrote them."""
    contents = load_checkpoint(path, "finished")
    about = contents["about"]
    nets = []
    with complete(path):
        for network in contents["networks"]:
            # the architecture is in the file, so any file can be opened without a config
            space = Space.of(Arch.from_json(network["arch"]), tuple(about["size"]))
            net = PoseNet(space, len(about["joints"])).eval()
            nets.append(restore(net, network["state"], path))
        check(nets and nets[0].arch.fusion is None, "its first network is not for key frames")
    return nets, about


def load_networks(path):
    """(networks, about) of a finished checkpoint, or of a published one.

    The published networks see COCO's joints at 256x192, in the heatmap cells of SBL.
    """
    if "kind" in read_checkpoint(path):
        return load_finished(path)
    return [load_mmpose(path)], data.about(data.COCO, (256, 192), data.SBL_CELL)


def load_training(path):
    """The dict of a run that can be resumed: of kind "supernet" or "alone"; else UserError."""
    contents = read_checkpoint(path)
    if contents.get("kind") not in ("supernet", "alone"):
        raise UserError(f"{path} holds something else: the supernet.pt of a run is needed here")
    return contents


def load_supernet(path):
    """(super-network, its key-frame network or None, everything saved) of a run's supernet.pt."""
    contents = load_training(path)
    # in older files the kind is "supernet" there, too
    alone = contents["stage"] == "s" and contents["arch"]
    if alone or contents["kind"] == "alone":
        raise UserError(f"{path} was trained as one architecture alone: nothing to search")
    with complete(path):
        size = tuple(contents["about"]["size"])
        joints = len(contents["about"]["joints"])
        space = replace(SPACES[contents["space"]], image_size=size)
        key_net = None
        # that of stage t lies within the network of the key frame (Sec. 3.4.2)
        if contents["stage"] == "t":
            key_net = PoseNet(Arch.from_json(contents["arch"]), joints).eval()
            restore(key_net, contents["key"], path)
            space = space.within(key_net.arch)
        supernet = restore(PoseNet(space, joints), contents["nets"][0], path)
    return supernet, key_net, contents


def read_archs(text):
    """A list of Archs: of a name in ARCHS, a JSON file (an Arch or a list), or a checkpoint."""
    if text in ARCHS:
        return [ARCHS[text]]
    try:
        entries = json.loads(Path(text).read_text(encoding="utf-8-sig"))
        entries = entries if isinstance(entries, list) else [entries]
        check(entries, "it is an empty list")
        return [Arch.from_json(json.dumps(entry)) for entry in entries]
    except UnicodeDecodeError:  # no text, so it is a checkpoint
        return [net.arch for net in load_networks(text)[0]]
    except (OSError, ValueError, RecursionError) as error:
        choices = f"an architecture's JSON file, a finished checkpoint, or {', '.join(ARCHS)}"
        message = f"no architecture can be read from {text} ({error}); choose {choices}"
        raise UserError(message) from None


def write_archs(archs, path):
    """Write one Arch, or a list of them (an allocation), as `read_archs` reads it."""
    is_one = isinstance(archs, Arch)
    contents = [json.loads(arch.to_json()) for arch in ([archs] if is_one else archs)]
    data.write_json(contents[0] if is_one else contents, path)


# ------------------------------------------------------------------------------- published weights

# mmpose is the toolbox with which the authors published their two S-ViPNAS networks. Both are built
# here by the same classes, so only names differ: ours of a layer -> mmpose's. Those inside a stage
# are named from the block on
# fmt: off
MMPOSE_LAYERS = {
    "s_vipnas_resnet50": {
        "stem.conv1.conv": "backbone.conv1",       "stem.conv1.norm": "backbone.bn1",
        "conv1.conv": "conv1",                     "conv1.norm": "bn1",
        "conv2.conv": "conv2",                     "conv2.norm": "bn2",
        "conv3.conv": "conv3",                     "conv3.norm": "bn3",
        "project.conv": "downsample.0",            "project.norm": "downsample.1",
        "attention.mask": "attention.conv_mask",
        "attention.reduce": "attention.channel_add_conv.0",
        "attention.norm": "attention.channel_add_conv.1",
        "attention.expand": "attention.channel_add_conv.3",
        "head.final": "head.final_layer",
    },
    "s_vipnas_mobilenetv3": {
        "stem.conv1.conv": "backbone.conv1.conv",  "stem.conv1.norm": "backbone.conv1.bn",
        "conv1.conv": "expand_conv.conv",          "conv1.norm": "expand_conv.bn",
        "conv2.conv": "depthwise_conv.conv",       "conv2.norm": "depthwise_conv.bn",
        "conv3.conv": "linear_conv.conv",          "conv3.norm": "linear_conv.bn",
        "attention.reduce": "se.conv1.conv",       "attention.expand": "se.conv2.conv",
        "head.final": "head.final_layer",
    },
}
# fmt: on


def _mmpose_name(name, ours):
    """mmpose's name of our tensor `ours` in network `name` of ARCHS (in its newer generation).

    "stages.1.blocks.3.conv2.norm.bias" is "backbone.layer2.3.bn2.bias" in the ResNet and
    "backbone.layer5.depthwise_conv.bn.bias" in the MobileNet.
    """
    *path, tensor = ours.split(".")
    prefix = ""
    if path[:2] == ["head", "deconvs"]:
        # theirs count the ReLUs too: deconvolution 0, norm 1, ReLU 2, deconvolution 3, ...
        index = 3 * int(path[2]) + ["conv", "norm"].index(path[3])
        return f"head.deconv_layers.{index}.{tensor}"
    if path[0] == "stages":
        # theirs number the blocks of ResNet stage by stage, those of MobileNet-V3 throughout
        stage, block = int(path[1]), int(path[3])
        before = sum(earlier.depth for earlier in ARCHS[name].stages[:stage])
        is_resnet = name == "s_vipnas_resnet50"
        number = f"{stage + 1}.{block}" if is_resnet else str(before + block + 1)
        prefix = f"backbone.layer{number}."
        path = path[4:]
    return f"{prefix}{MMPOSE_LAYERS[name]['.'.join(path)]}.{tensor}"


def load_mmpose(path):
    """A published S-ViPNAS checkpoint, of either network, as a finished PoseNet in eval mode.

    Newer files call the head `head`, older ones `keypoint_head`. UserError, which names tensors, if
    it is another network.
    """
    # the tensors lie under `state_dict`, where others put them under `model`, or bare; DataParallel
    # and torch.compile put a word of their own before the names of what they wrap
    found = read_checkpoint(path)
    for name in ("state_dict", "model"):
        found = found[name] if isinstance(found.get(name), dict) else found
    found = {re.sub("(module|_orig_mod)[.]", "", str(key)): found[key] for key in found}
    found = {re.sub("^keypoint_head[.]", "head.", key): found[key] for key in found}

    # which of the two is it? Only ResNet's blocks have two numbers
    is_resnet = any(key.startswith("backbone.layer1.0.") for key in found)
    name = "s_vipnas_resnet50" if is_resnet else "s_vipnas_mobilenetv3"
    net = PoseNet(ARCHS[name]).eval()
    theirs = {ours: _mmpose_name(name, ours) for ours in net.state_dict()}
    expected = {theirs[ours]: tensor for ours, tensor in net.state_dict().items()}
    found = fitting(found, expected, path)
    net.load_state_dict({ours: found[theirs[ours]] for ours in theirs})
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

        # batch norm is a scale and a shift for each output channel
        if norm is not None:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (O)
            bias = norm.bias + (bias - norm.running_mean) * scale
            scale = scale[:, None]  # (O, 1): the filters are (O, I / groups, K, K)
            if transposed:  # stored from the input's side, (I, O / groups, K, K)
                scale = scale.view(groups, -1).repeat_interleave(in_channels // groups, dim=0)
            weight = weight * scale[:, :, None, None]

        # ours: groups of 2 or 3 channels are run as pairs
        if not transposed and weight.shape[1] in (2, 3) and groups % 2 == 0:
            weight = join_pairs(weight, groups)
            groups = groups // 2

        # ordinary layers, which every compiler and exporter knows
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
    # convolutions of attention, fusion and the last one have no batch norm
    for name, child in list(module.named_children()):
        if isinstance(child, ConvNorm):
            setattr(module, name, Folded(child.conv, child.norm))
        elif isinstance(child, ElasticConv2d | ElasticConvTranspose2d):
            setattr(module, name, Folded(child))
        elif isinstance(child, elastic.ElasticLayerNorm):
            # an ordinary layer that every exporter knows: at one position, the norm over one group
            norm = nn.GroupNorm(1, *child.largest)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm.to(child.weight.device))
        else:
            fold(child)


def folded_copy(net):
    """A copy of a finished network, without batch norm, for inference alone."""
    folded = copy.deepcopy(net).eval()
    fold(folded)
    return folded.requires_grad_(False)


def example_inputs(net):
    """Black inputs of a finished network: one image of its own size, channels last.

    With the heatmaps of the last frame, if it is a non-key frame's.
    """
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
        # it optimises itself during its first calls: let that be over before anybody measures
        for _ in range(3):
            script(**inputs)
    return script


def compile_ahead(folded, inputs):
    """Machine code of a folded network (TorchInductor), for just this size and number of images."""
    # a graph of the network, C++ made of it and compiled, and a function that runs it
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(folded, (), inputs)
        where = f"{folder}/net.pt2"
        settings = {"freezing": True}  # so the weights are laid out in advance
        compile_program = torch._inductor.aoti_compile_and_package
        file = compile_program(program, package_path=where, inductor_configs=settings)
        return torch._inductor.aoti_load_package(file)


class Deployed(nn.Module):
    """A finished network for inference, called like the PoseNet it was.

    `script` and `compiled` run images of the network's own size on a CPU, `compiled` single ones
    only; all others go through the folded network. `runtime` says in words what is used.
    """

    def __init__(self, folded):
        super().__init__()
        self.folded = folded
        self.script = None
        self.compiled = None
        self.runtime = "batch norm folded"

    def forward(self, images, arch=None, heatmaps=None):
        """images (B, 3, H, W) -> heatmaps (B, joints, H/4, W/4), without gradients."""
        inputs = {"images": images.contiguous(memory_format=torch.channels_last)}
        if self.folded.arch.fusion:
            inputs["heatmaps"] = heatmaps.contiguous(memory_format=torch.channels_last)
        # the fastest that was made for such inputs
        run = self.folded
        own_size = images.shape[2:] == self.folded.space.image_size
        if self.script and own_size and not images.is_cuda:
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
    check(net.arch, "only a finished network can be deployed: extract one first")
    # 1. a copy without batch norm, whose convolutions read and write channels last
    folded = folded_copy(net).to(memory_format=torch.channels_last)
    deployed = Deployed(folded)
    if next(folded.parameters()).is_cuda:
        return deployed

    # 2. TorchScript: the operations that one image went through, without Python between them
    inputs = example_inputs(net)
    deployed.script = trace(folded, inputs)
    deployed.runtime = "batch norm folded, TorchScript"
    if not compiled:
        return deployed

    # 3. machine code for this very network, if that is faster
    try:
        code = compile_ahead(folded, inputs)
    except Exception as error:  # many kinds, from a missing compiler to a full disk
        reason = str(error).splitlines()[0]
        warnings.warn(f"deployed without a compiler: {reason}", stacklevel=2)
        return deployed
    runs = [partial(run, **inputs) for run in (deployed.script, code)]
    script_time, code_time = milliseconds(runs)
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


def milliseconds(runs, rounds=40):
    """The shortest time of each of `runs`, functions without arguments, which are called in turns.

    It is this process's own time, so what else the machine does hardly counts.
    """
    times = np.zeros((rounds, len(runs)))
    with torch.no_grad():
        # in turns, so that a slow moment of the machine meets them all
        for turn, i in np.ndindex(*times.shape):
            start = time.process_time()
            runs[i]()
            times[turn, i] = 1000 * (time.process_time() - start)
    return times.min(axis=0).tolist()


def frame_times(nets, compiled=False):
    """Milliseconds of each of several finished networks: deployed, one image, one CPU thread.

    What Fig. 4 shows as frames a second is 1000 over the mean of a key frame's and its T others'.
    """
    times = []
    with one_thread():
        for net in nets:
            deployed = deploy(copy.deepcopy(net).cpu(), compiled)
            times += milliseconds([partial(deployed, **example_inputs(net))])
    return times


def write_onnx(net, path):
    """Write a finished network as an ONNX file, whole or not at all, for any number of images.

    Its inputs are called images and, of a non-key frame, heatmaps; its output is called output.
    UserError without the package onnx.
    """
    if not importlib.util.find_spec("onnx"):
        raise UserError("an ONNX file needs the package onnx: pip install onnx")
    inputs = {name: x.contiguous() for name, x in example_inputs(net).items()}
    free = {name: {0: "batch"} for name in [*inputs, "output"]}
    folded = folded_copy(net).cpu()
    with warnings.catch_warnings(), data.whole_file(path) as file:
        warnings.simplefilter("ignore")  # this exporter is deprecated, the new one needs a package
        names = {"input_names": list(inputs), "output_names": ["output"], "dynamic_axes": free}
        written = io.BytesIO()
        torch.onnx.export(folded, (), written, kwargs=inputs, dynamo=False, **names)
        file.write(written.getvalue())


def export_onnx(nets, path):
    """Write finished networks, one a file; of several, FILE.onnx becomes FILE_0.onnx, FILE_1..."""
    for t, net in enumerate(nets):
        file = path.with_stem(f"{path.stem}_{t}") if len(nets) > 1 else path
        write_onnx(net, file)
        inputs = []
        for name, x in example_inputs(net).items():
            inputs.append(f"{name} {tuple(x.shape)}")
        print(f"wrote {file}: {' and '.join(inputs)} -> output, for any number of images")


def other_engines(net, images):
    """{name: a run of the images} by onnxruntime and by OpenVINO, as far as they are installed."""
    runs = {}
    feed = {"images": images.numpy()}
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/net.onnx"
        with contextlib.suppress(ImportError, UserError):
            write_onnx(net, file)
            import onnxruntime

            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(file, settings, ["CPUExecutionProvider"])
            runs["onnxruntime"] = partial(session.run, None, feed)
        with contextlib.suppress(ImportError, RuntimeError):
            import openvino

            settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
            network = openvino.Core().compile_model(file, "CPU", settings)
            runs["OpenVINO"] = partial(network.create_infer_request().infer, feed)
    return runs


def benchmark():
    """Print how fast the two released networks are: one image, one CPU thread, all side by side.

    As they are, deployed, and in the engines that are installed (onnx onnxruntime openvino).
    """
    for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3"):
        net = PoseNet(ARCHS[name]).eval()
        images = example_inputs(net)["images"].contiguous()
        runs = {"eager": partial(net, images)}
        with one_thread():
            for deployed in (deploy(net, compiled=False), deploy(net)):
                runs[deployed.runtime] = partial(deployed, images)
            runs.update(other_engines(net, images))
            times = milliseconds(list(runs.values()))
        print(f"{name}, 256x192, one image, one CPU thread")
        for runtime, ms in zip(runs, times, strict=True):
            print(f"{ms:9.2f} ms {times[0] / ms:6.2f}x   {runtime}")


# ----------------------------------------------------------------------------- the video estimator

SURE = 0.2  # a joint with a higher score counts as seen
FEWEST_JOINTS = 4  # who shows fewer is lost


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
    """

    def __init__(self, nets, about):
        self.nets = list(nets)
        self.about = about
        self.device = next(self.nets[0].parameters()).device

    @classmethod
    def load(cls, path, compiled=False):
        """From a T-ViPNAS; or an S-ViPNAS, a published one too: then every frame is a key frame.

        It runs on a GPU if there is one. compiled: see `deploy`. UserError if the file does not do.
        """
        nets, about = load_networks(path)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls([deploy(net.to(device), compiled) for net in nets], about)

    def stream(self, box=None):
        """A `Stream` that follows the person in `box`, or N people in a list of boxes.

        A box is x, y, w, h in pixels of the first frame; None: the person fills the frame.
        """
        return Stream(self, box)


def as_boxes(box, count=None):
    """A box (x, y, w, h) or None, or a list of them -> a list, of length `count`; or UserError."""
    is_one = box is None or all(np.ndim(number) == 0 and number is not None for number in box)
    boxes = [box] if is_one else list(box)
    # None: wherever he is, the whole frame at first, and his last pose later
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
        self.size = None  # width, height of the last frame
        self.t = -1
        self.running = []  # numbers of the people in the batch
        self.last = None  # their last `fusion.Frame`

    def step(self, frame, box=None):
        """The next frame -> keypoints (K, 3), or (N, K, 3) for N people: x, y in it, and score.

        frame: whatever `data.as_picture` takes. box: as for `VideoPose.stream`; it makes this a
        key frame for all. In a list, who has None is followed from his last pose. UserError, and
        nothing has happened, if the frame's sides are in another ratio than the last one's and
        somebody has no box.
        """
        image = data.as_picture(frame)
        image.load()  # decoded once, at full size, for all windows
        count = len(self.boxes)
        handed = [None] * count if box is None else as_boxes(box, count)
        if self.size not in (None, image.size):
            self._scale(image.size, handed)
        self.size = image.size
        # 1. is it a key frame? A box that is handed in makes it one
        self.t = (self.t + 1) % len(self.pose.nets) if box is None else 0
        if self.t == 0:
            self._start_period(handed, image)
        # 2. the network of this frame; who is left out has nan
        keypoints = np.full((count, len(self.pose.about["joints"]), 3), np.nan)
        if self.running:
            keypoints[self.running] = self._run(image)
        # 3. the next frame is cropped around what was found in this one
        for person, pose in enumerate(keypoints):
            found = box_around(pose, image.size)
            self.lost[person] = found is None
            self.boxes[person] = found or self.boxes[person]
        return keypoints[0] if self.is_single else keypoints

    def _scale(self, size, handed):
        """Make the windows of the last frame those of this one, which has another size."""
        scale = np.divide(size, self.size)  # (2,), along x and y
        if any(box is None for box in handed) and not 0.99 < scale[0] / scale[1] < 1.01:
            shapes = "a frame of {}x{} pixels follows one of {}x{}".format(*size, *self.size)
            raise UserError(f"{shapes}: hand `step` a box for everybody, or cut all frames alike")
        self.boxes = [tuple(np.multiply(box, np.tile(scale, 2)).tolist()) for box in self.boxes]
        # a place in this frame -> the same in the last one -> its crop. Pixel 0 begins at -.5
        linear = self.last.matrices[..., :2]
        shift = self.last.matrices[..., 2] + linear @ (0.5 / scale - 0.5)
        matrices = np.concatenate([linear / scale, shift[..., None]], axis=-1)
        self.last = self.last._replace(matrices=matrices)

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
        # the windows of those in the batch, cropped as in training
        size = self.pose.about["size"]
        cell = self.pose.about["cell"]
        boxes = [self.boxes[i] for i in self.running]
        matrices = np.stack([data.crop_matrix(box, size, cell=cell) for box in boxes])
        crops = torch.stack([data.crop(image, matrix, size) for matrix in matrices])
        images = data.normalise(crops.to(self.pose.device))  # (M, 3, H, W)

        # eq. (2): H^t = S(I^t) on a key frame, T(I^t, H^(t-1)) on the others
        last = self.last if self.t > 0 else None
        self.last = step(self.pose.nets[self.t], images, matrices, last, cell)
        keypoints = data.decode(self.last.heatmaps, cell=cell).cpu()  # (M, K, 3)
        return data.transform(keypoints, data.invert(matrices))


def box_around(pose, size):
    """The box (x, y, w, h) around a pose (K, 3), as `Stream` describes it; None for who is lost.

    size: width and height of the image.
    """
    x, y, score = pose.T
    inside = (x > -0.5) & (y > -0.5) & (x < size[0] - 0.5) & (y < size[1] - 0.5)
    seen = pose[inside & (score > SURE), :2]  # (n, 2); none where they are nan
    if len(seen) < FEWEST_JOINTS:
        return None
    low = seen.min(axis=0)
    high = seen.max(axis=0)
    margin = 0.1 * (high - low).max() + 1
    return (*(low - margin), *(high - low + 2 * margin))


# --------------------------------------------------------------------------- the command for videos

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
PEOPLE_COLOURS = ("lime", "deepskyblue", "gold", "violet")  # where there are several
GIF_SIZE = (480, 480)  # of overlay.gif at most
GIF_FRAMES = 200  # in it at most: Pillow keeps all of them in memory


def by_number(name):
    """What files are sorted by, so that 9.jpg comes before 10.jpg."""
    return "".join([part.zfill(20) for part in re.split("([0-9]+)", name)])


def read_video(path):
    """(name, Pillow image) of every frame: of a folder's images, or of one GIF, WebP or TIFF."""
    path = Path(path).resolve()
    # one file with all frames, or a folder with one in each, in the order of their numbers
    is_one = path.is_file()
    folder = path.parent if is_one else path
    if is_one and path.suffix.lower() not in (*PICTURES, ".gif"):
        make = f"mkdir frames; ffmpeg -i {path.name} frames/%06d.png"
        raise UserError(f"{path} is no GIF, WebP or TIFF: make images of a film first ({make})")
    names = [path.name]
    if not is_one:
        names = [file.name for file in path.glob("[!.]*") if file.suffix.lower() in PICTURES]
        names.sort(key=by_number)
    if not names:
        raise UserError(f"there are no frames in {path}: name a folder of images, or a GIF file")
    for name in names:
        try:
            with Image.open(folder / name) as image:
                # in a folder further pages are something else, such as a preview
                pages = getattr(image, "n_frames", 1) if is_one else 1
                for i in range(pages):
                    image.seek(i)
                    frame = data.as_picture(ImageOps.exif_transpose(image))
                    yield f"{path.name}/{i if is_one else name}", frame
        except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
            message = f"{folder / name} is not an image that can be read ({error})"
            raise UserError(f"{message}; replace it or take it out") from None


class VideoResults:
    """What a run over a video leaves in the folder `out`.

    A video may be long, so what is found is on the disk at once, and little of it in memory.
    """

    def __init__(self, out, skeleton):
        self.out = Path(out)
        self.skeleton = skeleton
        self.count = 0
        self.small = []  # the first overlays, of 256 colours, for the GIF
        # the two lists of poses.json, an entry a line; files without a name, which vanish if we do
        self.lists = {}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for name in ("images", "annotations"):
                file = tempfile.TemporaryFile(dir=self.out)  # noqa: SIM115 - open until `write`
                self.lists[name] = file
        except OSError as error:
            raise UserError(f"--out {out} is no folder to write to ({error.strerror})") from None

    def append(self, name, entry):
        """One more entry of the list `name` of poses.json."""
        lines = self.lists[name]
        separator = ",\n" if lines.tell() else ""
        lines.write(f"{separator}{json.dumps(entry, allow_nan=False)}".encode())

    def add(self, name, frame, poses):
        """Write the overlay of a frame with `poses` (N, K, 3), and keep its part of poses.json."""
        number = self.count
        overlay = frame
        for person, pose in enumerate(poses):
            colour = PEOPLE_COLOURS[person % len(PEOPLE_COLOURS)] if len(poses) > 1 else None
            overlay = data.draw_pose(overlay, pose, self.skeleton, SURE, colour)
        # at full size as a file of its own, and small for the GIF
        data.save_image(overlay, self.out / f"{number:06d}.png")
        if number < GIF_FRAMES:
            overlay.thumbnail(GIF_SIZE)
            self.small.append(overlay.quantize())

        image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
        self.append("images", image)
        self.count += 1
        # track_id: the people are numbered as their boxes were handed in; nan is no JSON
        for person, pose in enumerate(poses):
            if np.isfinite(pose).all():
                numbers = {"keypoints": pose.round(3), "scores": pose[:, 2].round(4)}
                lists = {name: array.ravel().tolist() for name, array in numbers.items()}
                self.append("annotations", {"image_id": number, "track_id": person, **lists})

    def write(self):
        """Write poses.json, in PoseTrack18's format of results, and overlay.gif."""
        if not self.small:
            return
        with data.whole_file(self.out / "poses.json") as file:
            file.write(f'{{"categories": {json.dumps([self.skeleton.category])}'.encode())
            for name, lines in self.lists.items():
                file.write(f',\n"{name}": [\n'.encode())
                lines.seek(0)
                shutil.copyfileobj(lines, file)
                file.write(b"]")
            file.write(b"}\n")
        data.save_image(self.small, self.out / "overlay.gif")
        gif = "overlay.gif" if self.count <= GIF_FRAMES else f"overlay.gif (first {GIF_FRAMES})"
        print(f"{self.out}: {self.count} overlays, {gif}, poses.json")


def look_again(stream):
    """Before a key frame, let who is lost be looked for where he was last seen. -> Is anybody?

    A `Stream` leaves him out until a box is handed in; on the command line there is nobody to ask.
    """
    if stream.t < len(stream.pose.nets) - 1 or not stream.lost.any():
        return False
    stream.lost[:] = False
    return True


def run_video(video, checkpoint, boxes, out):
    """Poses through a video; into the folder `out`: 000000.png ..., overlay.gif, poses.json.

    After an error in mid-video what was found so far is written, then the error is raised.
    """
    folder = Path(video) if Path(video).is_dir() else Path(video).parent
    if Path(out).resolve() == folder.resolve():
        raise UserError(f"--out {out} is the folder of the video; name another to be written to")
    pose = VideoPose.load(checkpoint)
    stream = pose.stream(boxes)
    results = VideoResults(out, data.skeleton_of(pose.about))
    frames = collections.Counter()  # how many key and non-key frames there were
    times = collections.Counter()  # milliseconds that they took
    # whatever happens, the files tell what was found until then
    try:
        for number, (name, frame) in enumerate(read_video(video)):
            again = look_again(stream)
            start = time.perf_counter()
            poses = stream.step(frame)
            kind = "non-key" if stream.t else "key"
            times[kind] += 1000 * (time.perf_counter() - start)
            frames[kind] += 1
            note = ", looked again for who was lost" if again else ""
            print(f"frame {number}: {kind:7} mean score {poses[..., 2].mean():.2f}{note}")
            results.add(name, frame, poses)
    finally:
        results.write()
    frames["mean"] = frames.total()
    times["mean"] = times.total()
    parts = [f"{kind} {times[kind] / count:.1f} ms" for kind, count in frames.items()]
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
    # parameters and GFLOPs of Tables 1 and 2
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


# the picture of Fig. 5: a row a frame, a box a stage
ATTENTION_NAMES = {elastic.GlobalContext: "+GC", elastic.SqueezeExcite: "+SE"}
FUSION_SIGNS = {"add": "+", "mul": "x", "cat": "C"}
FUSION_RED = (200, 30, 30)
ORANGE = (255, 214, 160)  # boxes with attention
BLUE = (222, 232, 246)  # the others
FIRST_BOX = 100  # its left; before it stands the frame's name
BOX_WIDTH = 180
BOX_STEP = 216  # from box to box
ROW_GAP = 50  # above every row: there the last frame's heatmaps come along


def box_texts(arch):
    """Text of the boxes in a frame's row, left to right: {depth, width, kernel, groups}."""
    attention = ATTENTION_NAMES.get(BACKBONES[arch.backbone].attention, "+?")
    # a stage of HRNet has a line for each branch
    texts = [f"stem\n{arch.stem}"]
    for number, stage in enumerate(arch.stages, start=1):
        text = f"stage {number}"
        for b in stage.branches:
            text += f"\n{{{stage.depth}, {b.width}, {b.kernel}, {b.groups}}}"
            text += f" e{b.expansion}" if b.expansion > 1 else ""
            text += f" {attention}" if b.attention else ""
        texts.append(text)
    head = "1x1 convolution"
    if arch.head:
        head = f"deconvolutions\n{{{arch.head.width}, {arch.head.kernel}, {arch.head.groups}}}"
    return [*texts, head, "heatmaps"]


def draw_frame(pen, top, height, name, texts, fusion):
    """A row of boxes, and in red how the last frame's heatmaps come from the row above."""
    # one line through all boxes, the boxes, their texts
    middle = top + height / 2
    last = FIRST_BOX + (len(texts) - 1) * BOX_STEP
    pen.text((10, middle), name, "black", anchor="lm")
    pen.line([(FIRST_BOX, middle), (last, middle)], "black", 2)
    for column, text in enumerate(texts):
        x = FIRST_BOX + column * BOX_STEP
        box = [x, top, x + BOX_WIDTH, top + height]
        pen.rectangle(box, ORANGE if "+" in text else BLUE, "black")
        pen.text((x + BOX_WIDTH / 2, middle), text, "black", anchor="mm", align="center")
    # from the heatmaps of the row above along the gap, down to behind the stage
    if fusion:
        start = last + BOX_WIDTH / 2
        end = FIRST_BOX + fusion.stage * BOX_STEP + (BOX_WIDTH + BOX_STEP) / 2  # between two boxes
        lane = top - ROW_GAP / 2
        pen.line([(start, top - ROW_GAP), (start, lane), (end, lane), (end, middle)], FUSION_RED, 2)
        pen.ellipse([end - 11, middle - 11, end + 11, middle + 11], "white", FUSION_RED, 2)
        sign = FUSION_SIGNS.get(fusion.operation, "?")
        pen.text((end, middle), sign, FUSION_RED, anchor="mm")


def picture(archs, path):
    """Draw the architectures of successive frames as Fig. 5 does, one row a frame, into a PNG."""
    # all boxes are as high as the longest text needs
    rows = [box_texts(arch) for arch in archs]
    lines = max(text.count("\n") + 1 for text in itertools.chain(*rows))
    height = 14 + 17 * lines  # of a box
    size = (FIRST_BOX + BOX_STEP * len(rows[0]), (height + ROW_GAP) * len(rows) + 20)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(13)
    key_frames = 0 if archs[0].fusion else 1  # an allocation may stand without its key frame
    for row, (arch, texts) in enumerate(zip(archs, rows, strict=True)):
        name = f"frame t + {row + 1 - key_frames}" if arch.fusion else "key frame"
        top = ROW_GAP + row * (height + ROW_GAP)
        draw_frame(pen, top, height, name, texts, arch.fusion)
    data.save_image(image, path)


# ------------------------------------------------------------------------------------------- main


def read_box(text):
    """x, y, w, h from "x,y,w,h"; else UserError."""
    try:
        (box,) = as_boxes([float(number) for number in text.split(",")])
    except (ValueError, UserError):
        raise UserError(f"--box is x,y,w,h with w and h above zero, not {text.strip()}") from None
    return box


def main():
    """Show architectures and spaces; time or export networks; or find poses in a video."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--arch", help=f"what to show: {', '.join(ARCHS)}, a JSON file or a finished checkpoint")
    add("--picture", help="PNG file to draw --arch into, as Fig. 5 does")
    add("--video", help="folder of frames, or a GIF, WebP or TIFF file of many")
    add("--checkpoint", help="finished networks for --video or --onnx, such as vipnas_t.pt")
    add("--onnx", help="file for the networks of --checkpoint, one a file, to run them elsewhere")
    add("--box", action="append", help="x,y,w,h of a person in the first frame; one for each")
    add("--out", help="folder for what --video writes")
    add("--benchmark", action="store_true", help="how fast deployed networks are")
    # argparse takes -20,30,80,120 for an option, but not where a space is before it
    words = [f" {word}" if re.match("-[0-9.]", word) else word for word in sys.argv[1:]]
    options = parser.parse_args(words)
    uses = [bool(options.video), bool(options.onnx)]
    if sum(uses) != bool(options.checkpoint) or options.video and not options.out:
        message = "--checkpoint FILE goes with --video V and --out DIR, or with --onnx FILE alone"
        raise UserError(f"{message}; --arch FILE shows what is in one")
    if options.picture and not options.arch:
        raise UserError("--picture needs --arch: what shall it show?")

    if options.benchmark:
        benchmark()
    elif options.onnx:
        export_onnx(load_networks(options.checkpoint)[0], Path(options.onnx))
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
