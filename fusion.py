"""Bringing the last frame in: the temporal feature fusion of a non-key frame (Sec. 3.3, Fig. 2).

    heatmaps of frame t  --> 1x1 conv --> bilinear resize --.
                                                            Add | Mul | Cat --> 1x1 conv --> fused
    features of frame t + 1, after some stage  -------------'                               features

Where to fuse (the stage) and how (the operation) are searched. The super-network has a module of
this class for every stage, and each module has every operation.

    python fusion.py        # all operations, fresh and disturbed, at two widths
"""

import torch
import torch.nn.functional as F
from torch import nn

from elastic import ElasticConv2d

OPERATIONS = ("add", "mul", "cat")


class TemporalFusion(nn.Module):
    """Fuses heatmaps of the last frame into features of this one; elastic in the features' width.

    Each operation has its own pair of 1x1 convolutions: `encode` brings the heatmaps to the shape
    of the features, `project` the fused features back to it. After Cat, `project` has 2C inputs.
    Its two halves are stored apart (`project` for the features, `project_heatmaps` for the
    heatmaps), so that the first C of *each* half are the slice of a narrower network.

    ours (the paper gives no initialisation): every operation starts as the identity. The encoded
    heatmaps are the operation's neutral element (0 to add, 1 to multiply, 0 to concatenate) and
    `project` is the unit matrix. So a T network starts with the accuracy of the S weights that it
    inherits, and gradients reach both convolutions from the first step on.
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
        """features (B, C, H, W) of this frame, heatmaps (B, K, h, w) of the last -> as features."""
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
        # cat: a 1x1 convolution over 2C channels is the sum of one over each half
        return project(features, channels) + self.project_heatmaps(encoded, channels)

    @staticmethod
    def cost(area, heatmap_area, joints, channels, operation):
        """Cost at `area` positions of the features and `heatmap_area` positions of the heatmaps."""
        encode = ElasticConv2d.cost(heatmap_area, joints, channels, bias=True)
        project = ElasticConv2d.cost(area, channels, channels, bias=True)
        if operation == "cat":
            project += ElasticConv2d.cost(area, channels, channels)
        return encode + project


def main():
    """Fresh fusion is the identity at every width; once weights move, the last frame matters."""
    fresh = TemporalFusion(17, 48)
    disturbed = TemporalFusion(17, 48)
    for parameter in disturbed.parameters():
        nn.init.normal_(parameter, std=0.1)
    heatmaps = torch.rand(1, 17, 32, 24)
    print(
        "operation  width   fresh: change of the features   disturbed: change without the heatmaps"
    )
    for operation in OPERATIONS:
        for channels in (48, 32):
            features = torch.randn(1, channels, 8, 6)
            change = fresh(features, heatmaps, operation) - features
            blind = disturbed(features, torch.zeros_like(heatmaps), operation)
            wiped = disturbed(features, heatmaps, operation) - blind
            row = f"{change.abs().max().item():27.1e}   {wiped.abs().mean().item():.2f}"
            print(f"{operation:9}  {channels:5}   {row}")


if __name__ == "__main__":
    main()
