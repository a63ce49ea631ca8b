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

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

import torch.nn.functional as F
from torch import nn

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


BACKBONES = {
    # stage 1 of ResNet works at 1/4 (stride 1), though Table A2 prints 1/8: the released weights do
    "resnet50": Backbone(
        block=("bottleneck",) * 4,
        strides=(1, 2, 2, 2),
        activations=(F.relu,) * 4,
        attention=GlobalContext,
        stem_kernel=7,
        stem_activation=F.relu,
        stem_second="pool",
    ),
    "mobilenetv3": Backbone(
        block=("mobile",) * 6,
        strides=(1, 2, 2, 2, 1, 2),
        activations=(F.relu,) * 3 + (F.hardswish,) * 3,
        attention=SqueezeExcite,
        stem_kernel=3,
        stem_activation=F.hardswish,
    ),
    "hrnet_w32": Backbone(
        block=("bottleneck",) + ("basic",) * 3,
        strides=(1, 1, 1, 1),
        activations=(F.relu,) * 4,
        attention=SqueezeExcite,
        stem_kernel=3,
        stem_activation=F.relu,
        stem_second="conv",
        modules=(None, 4, 4, 4),
    ),
    # ours, for two CPU cores: blocks of MobileNet-V3, h-swish only where the features are small
    "tiny": Backbone(
        block=("mobile",) * 4,
        strides=(2, 2, 2, 1),
        activations=(F.relu,) * 2 + (F.hardswish,) * 2,
        attention=SqueezeExcite,
        stem_kernel=3,
        stem_activation=F.relu,
        image_size=(128, 96),
    ),
}
BACKBONES["resnet18"] = replace(BACKBONES["resnet50"], block=("basic",) * 4)

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
            known = ", ".join(BACKBONES)
            raise ValueError(f"there is no backbone '{self.backbone}'; choose one of {known}")
        self._check_numbers()
        self._check_shape()
        for stage, block in zip(self.stages, BACKBONES[self.backbone].block, strict=True):
            for branch in stage.branches:
                if block == "basic" and branch.expansion != 1:
                    raise ValueError("the expansion of a basic block is 1")
                if block == "bottleneck" and branch.width % branch.expansion:
                    raise ValueError("the expansion of a bottleneck divides its width")

    def _check_numbers(self):
        """Depths, widths, kernels, ... are whole numbers that a network can have."""
        numbers = [self.stem]
        for stage in self.stages:
            numbers.append(stage.depth)
            for branch in stage.branches:
                numbers += [branch.width, branch.kernel, branch.groups, branch.expansion]
        if self.head:
            numbers += self.head
        for number in numbers:
            if type(number) is not int or not 1 <= number <= 10_000:
                raise ValueError(
                    "depth, width, kernel, groups and expansion of an architecture are whole "
                    f"numbers from 1 to 10000, not {number!r:.20}"
                )
        if self.head and self.head.kernel not in (2, 4):
            raise ValueError("the kernels of the head are 2 or 4")
        for stage in self.stages:
            for branch in stage.branches:
                if branch.kernel % 2 == 0:
                    raise ValueError("the kernels of the stages are odd")

    def _check_shape(self):
        """As many stages and branches as the backbone has, and a fusion that exists."""
        plan = BACKBONES[self.backbone]
        count = len(plan.block)
        if len(self.stages) != count:
            raise ValueError(f"{self.backbone} has {count} stages, not {len(self.stages)}")
        for number, stage in enumerate(self.stages, start=1):
            module = plan.modules[number - 1]
            branches = number if module else 1
            if len(stage.branches) != branches:
                raise ValueError(f"stage {number} of {self.backbone} has {branches} branches")
            if module and stage.depth % module:
                raise ValueError(
                    f"stage {number} of {self.backbone} consists of modules of {module} blocks, "
                    f"so {stage.depth} is no depth of it"
                )
        if (self.head is None) != (plan.reduction() == 4):
            wanted = "no deconvolutions" if self.head else "deconvolutions"
            raise ValueError(f"{self.backbone} has {wanted} in its head")
        if self.fusion and (
            self.fusion.stage not in range(1, count + 1) or self.fusion.operation not in OPERATIONS
        ):
            raise ValueError(
                f"a fusion names a stage from 1 to {count} and one of {', '.join(OPERATIONS)}, "
                f"not {self.fusion.stage!r:.20} and {self.fusion.operation!r:.20}"
            )

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
        blocks = []
        for stage in arch.stages:
            line = []
            for branch in stage.branches:
                values = [(value,) for value in branch]
                line.append(BlockChoices(*values))
            blocks.append(tuple(line))
        head = HeadChoices(*[(value,) for value in arch.head]) if arch.head else None
        depth = tuple((stage.depth,) for stage in arch.stages)
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
            branches = []
            for branch in range(len(line)):
                branches.append(self._sample_branch(index, branch, rng))
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
        fusions = []
        for stage in range(1, len(arch.stages) + 1):
            for operation in OPERATIONS:
                fusions.append(Fusion(stage, operation))
        return Space(
            self.backbone,
            stem=widths_within(self.stem, arch.stem),
            depth=tuple(depth),
            blocks=tuple(blocks),
            head=head,
            image_size=self.image_size,
            fusions=tuple(fusions),
        )


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


def resnet_choices(*width):
    """A line of Table A2. Steps (Sec. A.2): width 16, kernel 2, groups 16."""
    return (BlockChoices(steps(*width), (3, 5), steps(16, 64), BOTH),)


def mobile_choices(width):
    """A line of Table A1. Groups: all numbers of the printed range, 3/8 to 6 times the width."""
    groups = steps(3 * width // 8, 6 * width, 1)
    return (BlockChoices((width,), (3, 5, 7), groups, BOTH, (3, 4, 5, 6)),)


def hrnet_choices(*widths):
    """A stage of Table A3, one line a branch. ours: width steps of a quarter of the maximum."""
    line = []
    for width in widths:
        line.append(
            BlockChoices(steps(width // 4, width, width // 4), (3,), steps(1, width, 1), BOTH)
        )
    return tuple(line)


SPACES = {
    # Table A2
    "resnet50": Space(
        "resnet50",
        stem=steps(32, 64),
        depth=((3, 4), (4, 5, 6), (6, 7, 8), (3, 4)),
        blocks=(
            resnet_choices(64, 80),
            resnet_choices(128, 160),
            resnet_choices(256, 320),
            resnet_choices(512, 640),
        ),
        head=HeadChoices(steps(64, 256), (4,), steps(16, 64)),
    ),
    # Table A1
    "mobilenetv3": Space(
        "mobilenetv3",
        stem=(16,),
        depth=((1,), (2, 3, 4), (2, 3, 4), (2, 3, 4), (2, 3, 4), (2, 3, 4)),
        blocks=(
            (BlockChoices((16,), (3,), steps(2, 16, 1), BOTH),),
            mobile_choices(24),
            mobile_choices(40),
            mobile_choices(80),
            mobile_choices(112),
            mobile_choices(160),
        ),
        head=HeadChoices((256,), (4,), steps(32, 256, 1)),
    ),
    # Table A3. It prints the middle width of the bottlenecks, 16 to 64; four times that comes out
    "hrnet_w32": Space(
        "hrnet_w32",
        stem=steps(16, 64),
        depth=((2, 3, 4), (4,), (8, 12, 16), (8, 12)),
        blocks=(
            (BlockChoices(steps(64, 256, 64), (3,), steps(1, 16, 1), BOTH, (4,)),),
            hrnet_choices(32, 64),
            hrnet_choices(32, 64, 128),
            hrnet_choices(32, 64, 128, 256),
        ),
        head=None,
    ),
    # ours: shaped like MobileNet-V3, small enough to be trained on two CPU cores in minutes
    "tiny": Space(
        "tiny",
        stem=(16,),
        depth=((1, 2), (1, 2), (1, 2, 3), (1, 2)),
        blocks=(
            (BlockChoices((24,), (3,), (24, 48), (False,), (1, 2), 1),),
            (BlockChoices((32, 48), (3, 5), (64, 96, 144), BOTH, (2, 3), 1),),
            (BlockChoices((48, 64), (3, 5), (48, 64, 72, 96, 128, 144, 192), BOTH, (2, 3), 2),),
            (BlockChoices((64,), (3, 5), (128, 192), BOTH, (2, 3), 1),),
        ),
        head=HeadChoices((48,), (4,), (8,)),
        image_size=(128, 96),
    ),
}


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
