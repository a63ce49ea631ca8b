"""Bringing the last frame in: the temporal feature fusion of a non-key frame (Sec. 3.3, Fig. 2).

    heatmaps of frame t  ->  1x1 conv  ->  bilinear resize  -.
                                                              Add | Mul | Cat  ->  1x1 conv  ->  fused features
    features of a chosen stage of frame t + 1  --------------'

Where to fuse (the stage) and how (the operation) are searched. The super-network keeps a module for every stage, and
each module every operation.

    python fusion.py        # all operations, fresh and disturbed, at two widths
"""
import torch
import torch.nn.functional as F
from torch import nn

from elastic import ElasticConv2d

OPERATIONS = ("add", "mul", "cat")

class TemporalFusion(nn.Module):
    """Fuses heatmaps of the last frame into features of this one; elastic in the features' width.
    Each operation has its own pair of 1x1 convolutions, `encode` (heatmaps to features) and `project` (fused features
    back to the features' shape). Cat's second convolution has 2C inputs; its two halves are stored apart (`project` for
    the features, `project_heatmaps` for the heatmaps) so that the first C of *each* half are a narrower network's slice.
    Initialisation (the paper gives none; ours): every operation starts as the identity, because the encoded heatmaps are
    the operation's neutral element (0 to add, 1 to multiply, 0 to concatenate) and `project` is the unit matrix. A fused
    network therefore starts with the accuracy of the S weights it inherits, and gradients reach both convolutions."""
    def __init__(self, joints, channels, operations=OPERATIONS):
        super().__init__()
        self.encode = nn.ModuleDict({o: ElasticConv2d(joints, channels, bias=True) for o in operations})
        self.project = nn.ModuleDict({o: ElasticConv2d(channels, channels, bias=True) for o in operations})
        if "cat" in operations:
            self.project_heatmaps = ElasticConv2d(channels, channels)
            nn.init.eye_(self.project_heatmaps.weight[:, :, 0, 0])
        for operation in operations:
            nn.init.zeros_(self.encode[operation].weight)
            nn.init.constant_(self.encode[operation].bias, float(operation == "mul"))
            nn.init.eye_(self.project[operation].weight[:, :, 0, 0])
    def forward(self, features, heatmaps, operation=None):
        """features (B, C, H, W) of this frame, heatmaps (B, K, h, w) of the last -> fused features (B, C, H, W).
        A module with a single operation (a finished network's) need not be told which."""
        channels, operation = features.shape[1], operation or next(iter(self.encode))
        encoded = self.encode[operation](heatmaps, channels)  # (B, C, h, w)
        encoded = F.interpolate(encoded, features.shape[2:], mode="bilinear", align_corners=False)  # (B, C, H, W)
        if operation == "add":
            return self.project["add"](features + encoded, channels)
        if operation == "mul":
            return self.project["mul"](features * encoded, channels)
        return self.project["cat"](features, channels) + self.project_heatmaps(encoded, channels)

def demonstrate():
    """Fresh fusion is the identity at every width; once its weights move, the last frame matters."""
    fusion, heatmaps = TemporalFusion(17, 48), torch.rand(1, 17, 32, 24)
    print("operation  width   fresh: change of the features   trained: change when the last frame is wiped out")
    for operation in OPERATIONS:
        for channels in (48, 32):
            features = torch.randn(1, channels, 8, 6)
            fresh = (fusion(features, heatmaps, operation) - features).abs().max().item()
            disturbed = TemporalFusion(17, 48)
            disturbed.load_state_dict({k: v + .1 * torch.randn_like(v) for k, v in fusion.state_dict().items()})
            wiped = disturbed(features, heatmaps, operation) - disturbed(features, 0 * heatmaps, operation)
            print(f"{operation:9}  {channels:5}   {fresh:27.1e}   {wiped.abs().mean().item():.2f}")

if __name__ == "__main__":
    demonstrate()
