"""Bringing the last frame in: what makes a network of a non-key frame temporal (Sec. 3.3, Fig. 2).

    H^0 = S(I^0),    H^t = T(I^t, H^(t-1))    for t = 1 ... T                             eq. (2)

The heatmaps of a frame are an input of the next frame's network. They get there in two steps:

1. `warp_heatmaps`: every frame is seen through its own window, so the heatmaps are moved from the
   window of frame t - 1 into that of frame t.
2. `TemporalFusion`: inside the network of frame t they are fused with the features of one stage.

    heatmaps of frame t - 1 --> 1x1 conv --> bilinear resize --.
                                                               Add | Mul | Cat --> 1x1 conv -->
    features of frame t, after some stage  --------------------'

Which stage, and which operation, is searched. The super-network has a `TemporalFusion` after every
stage, and each of them holds every operation.

`step` does both for one frame. It is the only place where eq. (2) is written: training, the search
and the video estimator all call it, once a frame.

    python fusion.py        # all operations, fresh and disturbed, at two widths
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from elastic import ElasticConv2d

OPERATIONS = ("add", "mul", "cat")


class Fusion(NamedTuple):
    """After which stage (from 1: the paper's F_1, F_2, ...) and how the last heatmaps come in."""

    stage: int
    operation: str


def all_fusions(stages):
    """The temporal-level space of a frame: N_S stages times N_O operations (Sec. 3.3)."""
    places = itertools.product(range(1, stages + 1), OPERATIONS)
    return tuple([Fusion(stage, operation) for stage, operation in places])


class TemporalFusion(nn.Module):
    """Fuses the last frame's heatmaps into this frame's features; elastic in the features' width.

    Each operation has its own pair of 1x1 convolutions: `encode` brings the heatmaps to the shape
    of the features, `project` brings the fused features back to it. After Cat, `project` has 2C
    inputs. Its two halves are stored apart (`project` for the features, `project_heatmaps` for the
    heatmaps), so that the first C of *each* half are the slice of a narrower network.

    ours (the paper gives no initialisation): every operation starts as the identity. The encoded
    heatmaps are the operation's neutral element (0 to add, 1 to multiply, 0 to concatenate) and
    `project` is the unit matrix. So a T network starts with the accuracy of the S weights that it
    inherits, and `encode` has a gradient from the first step on.
    """

    def __init__(self, joints, channels, operations=OPERATIONS):
        super().__init__()
        self.encode = nn.ModuleDict()
        self.project = nn.ModuleDict()
        for operation in operations:
            encode = ElasticConv2d(joints, channels, bias=True)
            nn.init.zeros_(encode.weight)
            nn.init.constant_(encode.bias, 1.0 if operation == "mul" else 0.0)
            project = ElasticConv2d(channels, channels, bias=True)
            nn.init.eye_(project.weight[:, :, 0, 0])
            self.encode[operation] = encode
            self.project[operation] = project
        if "cat" in operations:
            self.project_heatmaps = ElasticConv2d(channels, channels)
            nn.init.eye_(self.project_heatmaps.weight[:, :, 0, 0])

    def forward(self, features, heatmaps, operation):
        """features (B, C, H, W) of this frame, heatmaps (B, K, h, w) of the last -> as features.

        ValueError for an operation that is not written below.
        """
        channels = features.shape[1]
        size = features.shape[2:]

        # bring the heatmaps to the channels and the resolution of the features
        encoded = self.encode[operation](heatmaps, channels)  # (B, C, h, w)
        encoded = F.interpolate(encoded, size, mode="bilinear", align_corners=False)  # (B, C, H, W)

        # fuse, then bring the result back to the features' own shape
        project = self.project[operation]
        if operation == "add":
            return project(features + encoded, channels)
        if operation == "mul":
            return project(features * encoded, channels)
        if operation == "cat":
            # a 1x1 convolution over 2C channels is the sum of one over each half
            return project(features, channels) + self.project_heatmaps(encoded, channels)
        raise ValueError(f"TemporalFusion.forward does not say how to compute '{operation}'")

    @staticmethod
    def cost(area, heatmap_area, joints, channels, operation):
        """Cost at `area` positions of the features and `heatmap_area` positions of the heatmaps."""
        encode = ElasticConv2d.cost(heatmap_area, joints, channels, bias=True)
        project = ElasticConv2d.cost(area, channels, channels, bias=True)
        if operation == "cat":
            project += ElasticConv2d.cost(area, channels, channels)
        return encode + project


# --------------------------------------------------------------------------- from window to window


def warp_heatmaps(heatmaps, old, new, cell):
    """Heatmaps (B, K, h, w) in the windows `old` -> the same heatmaps in the windows `new`.

    old, new: (B, 2, 3), image -> crop pixels. A heatmap has a quarter of the crop's size, and the
    centre of its cell i is the crop's pixel 4i + `cell`. Bilinear, 0 outside; gradients flow. Equal
    windows give back the very same heatmaps.
    ours: the paper says nothing of windows that move.
    """
    old = torch.as_tensor(old).double()
    new = torch.as_tensor(new).double()
    if torch.equal(old, new):
        return heatmaps

    # grid_sample measures a heatmap from -1 to 1, the outer borders of its first and last cell.
    # There -1 is half a cell before cell 0, and one unit is half of the heatmap: 2h or 2w pixels
    height, width = heatmaps.shape[2:]
    to_x = [2 * width, 0, 2 * width - 2 + cell]
    to_y = [0, 2 * height, 2 * height - 2 + cell]
    grid_to_pixels = old.new_tensor([to_x, to_y, [0, 0, 1]])

    # grid of new -> crop pixels of new -> image -> crop pixels of old -> grid of old
    last_row = old.new_tensor([0, 0, 1]).expand(len(old), 1, 3)
    old = torch.cat([old, last_row], dim=1)  # (B, 3, 3), so that they can be multiplied
    new = torch.cat([new, last_row], dim=1)
    matrix = grid_to_pixels.inverse() @ old @ new.inverse() @ grid_to_pixels
    grid = F.affine_grid(matrix[:, :2], list(heatmaps.shape), align_corners=False)  # (B, h, w, 2)

    # under autocast heatmaps come in bfloat16, too coarse for places
    heatmaps = heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32))
    return F.grid_sample(heatmaps, grid.to(heatmaps), "bilinear", "zeros", align_corners=False)


# ------------------------------------------------------------------------------- the chain, eq. (2)


class Frame(NamedTuple):
    """What a frame propagates to the next one: its heatmaps, and the windows they were seen in."""

    heatmaps: torch.Tensor  # (B, K, h, w)
    matrices: torch.Tensor  # (B, 2, 3) image -> crop pixels


def step(net, images, matrices, last, cell, arch=None):
    """One frame of eq. (2) -> its `Frame`.

    last: the Frame before it; None says that this is a key frame. A network without fusion ignores
    it. images (B, 3, H, W) and matrices (B, 2, 3) are this frame's; arch is needed where `net` is a
    super-network.
    """
    if last is None:
        return Frame(net(images, arch), matrices)
    propagated = warp_heatmaps(last.heatmaps, last.matrices, matrices, cell)
    return Frame(net(images, arch, propagated), matrices)


def propagate(nets, images, matrices, last, cell, archs=None, through=True):
    """A chain of frames -> heatmaps (B, T, K, h, w): multi-frame propagation (Sec. 3.4.2).

        last -> warp -> T(I^1, .; arch^1) -> H^1 -> warp -> T(I^2, .; arch^2) -> H^2 -> ...

    nets: one for each of the T frames. images (B, T, 3, H, W), matrices (B, T, 2, 3). last: the
    key frame before them; None where the first of the T frames is itself the key frame. archs: one
    for each net, where the nets are super-networks. through: gradients flow back along the chain;
    otherwise each frame learns for itself alone.
    """
    predicted = []
    for t, net in enumerate(nets):
        if last is not None and not through:
            last = last._replace(heatmaps=last.heatmaps.detach())
        arch = archs[t] if archs else None
        last = step(net, images[:, t], matrices[:, t], last, cell, arch)
        predicted.append(last.heatmaps)
    return torch.stack(predicted, dim=1)


def main():
    """Fresh fusion is the identity at every width; once weights move, the last frame matters."""
    fresh = TemporalFusion(17, 48)
    disturbed = TemporalFusion(17, 48)
    for parameter in disturbed.parameters():
        nn.init.normal_(parameter, std=0.1)
    heatmaps = torch.rand(1, 17, 32, 24)
    print("operation  width   fresh: change of the features   disturbed: effect of the heatmaps")
    for operation in OPERATIONS:
        for channels in (48, 32):
            features = torch.randn(1, channels, 8, 6)
            change = fresh(features, heatmaps, operation) - features
            blind = disturbed(features, torch.zeros_like(heatmaps), operation)
            effect = disturbed(features, heatmaps, operation) - blind
            row = f"{change.abs().max().item():27.1e}   {effect.abs().mean().item():.2f}"
            print(f"{operation:9}  {channels:5}   {row}")


if __name__ == "__main__":
    main()
