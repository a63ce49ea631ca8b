"""People: from files to crops and heatmaps, and from heatmaps back to joints (Sec. 4.1).

A *clip* is F consecutive frames of one person; a COCO person is a clip of one frame. Every frame is
cropped by its own window, the person's box in that frame made larger. A network sees the crop only:

    image file --> window around the box --> crop (3, H, W) --> network --> heatmaps (K, H/4, W/4)
                      crop_matrix             crop                              |        |
    joints in the image <-- inverse of the matrix <-- joints in the crop <-- decode   warp_heatmaps
                                                                                         |
                                                              the next frame's window <--'

All sources of clips have the same methods:

    clips = SyntheticClips("train", 1000)      # or CocoPeople(root, ...), PoseTrackClips(root, ...)
    batch = clips.batch([0, 1, 2])             # images, matrices, joints

Coordinates: the centre of a pixel has whole numbers, x to the right, y down. A heatmap has a
quarter of the crop's size: its cell i lies over the pixels 4i .. 4i + 3, centred at 4i + 1.5.

The drawn people are ours, not the paper's: with them no stage needs a download.

    python data.py                                    # a few drawn clips in people.png, and speeds
    python data.py --export coco --out DIR            # drawn people in the layout of COCO
"""

import argparse
import contextlib
import copy
import functools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader


# ------------------------------------------------------------------ errors, whole files, processes
class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do."""


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write what shall be found under `path`: whole, or not at all.

    The contents go to a temporary file beside it, which takes its name when it is complete and on
    the disk. Whatever goes wrong before, an older file of that name stays and no temporary is left.
    Raises UserError where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the contents are on the disk before the name is
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            message = (
                f"{path} cannot be written ({reason}); an older file of that name is untouched"
            )
            raise UserError(message) from None
        raise


def write_json(contents, path):
    """Write JSON, whole or not at all. NaN and infinity are no JSON: ValueError."""
    text = json.dumps(contents, indent=1, allow_nan=False)
    with whole_file(path) as file:
        file.write(text.encode())


def cores():
    """How many processor cores this process may use: on a shared machine not all that are there."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -------------------------------------------------------------------------------------- skeletons
@dataclass(frozen=True)
class Skeleton:
    """K joints, in the order of the annotation files. Nothing else in the project names them.

    limbs are pairs of joint numbers, to draw. sigmas are the constants of the object keypoint
    similarity (OKS): how far apart people who annotate a joint place it, relative to the person.
    """

    name: str
    joints: tuple
    limbs: tuple
    sigmas: tuple

    @property
    def flip(self):
        """Joint k of a mirrored person is joint flip[k] of the person: left and right change."""
        partners = []
        for joint in self.joints:
            if "left" in joint:
                partner = joint.replace("left", "right")
            else:
                partner = joint.replace("right", "left")
            partners.append(self.joints.index(partner if partner in self.joints else joint))
        return tuple(partners)

    @property
    def category(self):
        """What a COCO or PoseTrack file says about these joints; limbs count from 1 there."""
        limbs = [[a + 1, b + 1] for a, b in self.limbs]
        return {"id": 1, "name": "person", "keypoints": list(self.joints), "skeleton": limbs}


# Joints 3 to 16 and their limbs are the same in both data sets.
BODY = (
    ("left_ear", 0.035),
    ("right_ear", 0.035),
    ("left_shoulder", 0.079),
    ("right_shoulder", 0.079),
    ("left_elbow", 0.072),
    ("right_elbow", 0.072),
    ("left_wrist", 0.062),
    ("right_wrist", 0.062),
    ("left_hip", 0.107),
    ("right_hip", 0.107),
    ("left_knee", 0.087),
    ("right_knee", 0.087),
    ("left_ankle", 0.089),
    ("right_ankle", 0.089),
)
ARMS = ((5, 6), (5, 7), (7, 9), (6, 8), (8, 10))
TRUNK = ((5, 11), (6, 12), (11, 12))
LEGS = ((11, 13), (13, 15), (12, 14), (14, 16))


def _skeleton(name, head, head_limbs):
    """The skeleton of a data set, given the (joint, sigma) pairs and limbs of its head."""
    joints = [joint for joint, _ in head + BODY]
    sigmas = [sigma for _, sigma in head + BODY]
    return Skeleton(name, tuple(joints), head_limbs + ARMS + TRUNK + LEGS, tuple(sigmas))


COCO = _skeleton(
    "COCO",
    (("nose", 0.026), ("left_eye", 0.025), ("right_eye", 0.025)),
    ((0, 1), (0, 2), (1, 3), (2, 4)),
)
# PoseTrack18 has the neck and the top of the head for the eyes, and annotates no ears. ours: it has
# no sigmas, so head_bottom (the neck) gets a shoulder's and head_top an ear's.
POSETRACK = _skeleton(
    "PoseTrack18",
    (("nose", 0.026), ("head_bottom", 0.079), ("head_top", 0.035)),
    ((0, 1), (0, 2), (1, 5), (1, 6)),
)

# ---------------------------------------------------------------------------------- windows, crops
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0 .. 1
STD = (0.229, 0.224, 0.225)
PADDING = 1.25  # how much larger than a person's box the window is, as in SBL and HRNet
BOX_TO_AREA = (
    0.53  # a person's share of the box where no outline was drawn, as tools for COCO have it
)

# The crop pixel under the centre of a heatmap's cell 0. Ours is the true centre of pixels 0 .. 3;
# SBL, HRNet and the released networks put cell i at pixel 4i.
CELL = 1.5
SBL_CELL = 0.0


def normalise(images):
    """uint8 images (..., 3, H, W) -> float32 of the same shape, ImageNet's mean 0, deviation 1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def window(box, size, padding=PADDING):
    """A box (x, y, w, h) made larger about its centre: to the shape of `size` (H, W), then padded.

    Returns (4,): x, y, w, h. Raises UserError if the box has no area or is not finite.
    """
    x, y, w, h = (float(value) for value in box)
    if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
        raise UserError(
            f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g} has no area: "
            "give a finite one with a width and height above 0"
        )
    aspect = size[1] / size[0]
    width = max(w, h * aspect) * padding
    height = width / aspect
    return np.array([x + (w - width) / 2, y + (h - height) / 2, width, height])


class Augmentation(NamedTuple):
    """How a crop differs from the plain one: the same on all frames of a clip (Sec. 4.1).

    rotation: degrees, clockwise on the screen. scale: above 1 the person gets larger. flip: the
    crop is mirrored; a mirrored person's left is his right, so the joints change places too.
    """

    rotation: float = 0.0
    scale: float = 1.0
    flip: bool = False


PLAIN = Augmentation()


def draw_augmentation(rng, rotation, scale):
    """A random Augmentation: +-rotation degrees, 1 +- scale, every second clip mirrored."""
    return Augmentation(
        rotation=rng.uniform(-rotation, rotation),
        scale=rng.uniform(1 - scale, 1 + scale),
        flip=rng.random() < 0.5,
    )


def crop_matrix(box, size, augmentation=PLAIN):
    """Image pixels -> pixels of the crop that shows the window of `box`: (2, 3) float64."""
    x, y, width, height = window(box, size)

    # turn and enlarge, then mirror
    zoom = augmentation.scale * size[1] / width
    angle = math.radians(augmentation.rotation)
    cos = zoom * math.cos(angle)
    sin = zoom * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if augmentation.flip:
        linear[0] = -linear[0]

    # the middle of the window goes to the middle of the crop; -.5: pixel 0 reaches from -.5 to .5
    source = np.array([x + width / 2, y + height / 2]) - 0.5
    target = np.array([size[1] / 2, size[0] / 2]) - 0.5
    return np.column_stack([linear, target - linear @ source])


def invert(matrix):
    """Inverse of affine matrices (..., 2, 3): crop pixels -> image pixels, float64 arrays."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def transform(points, matrix):
    """Points through affine matrices: x and y are moved, a third column stays as it is.

    points (..., K, 2 or 3) with matrix (..., 2, 3), or with one matrix (2, 3) -> float64 array.
    """
    moved = np.array(points, dtype=np.float64)
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = matrix[..., :2]
    shift = matrix[..., None, :, 2]  # (..., 1, 2)
    moved[..., :2] = moved[..., :2] @ linear.swapaxes(-1, -2) + shift
    return moved


def as_picture(frame):
    """Whatever is handed over as a picture -> an RGB PIL image.

    frame: a PIL image of any mode, or an array (H, W, 3), (H, W, 1) or (H, W), uint8 or uint16.
    Of 16-bit pixels the upper 8 bits are taken. Raises UserError for anything else.
    """
    if isinstance(frame, Image.Image):
        if not frame.mode.startswith("I"):
            return frame if frame.mode == "RGB" else frame.convert("RGB")
        frame = np.asarray(frame).clip(0, 65535).astype(np.uint16)  # Pillow cuts these off at 255

    if not isinstance(frame, np.ndarray):
        raise UserError(
            f"a frame is a Pillow image or an array of pixels, but this is a {type(frame).__name__}"
        )
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[:, :, 0]
    if frame.dtype == np.uint16:
        frame = (frame >> 8).astype(np.uint8)
    is_picture = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)
    if not is_picture or frame.dtype != np.uint8 or frame.size == 0:
        raise UserError(
            f"an array {frame.shape} of {frame.dtype} is no picture: "
            "hand over one of shape (H, W, 3) or (H, W) and type uint8"
        )
    return Image.fromarray(frame).convert("RGB")


def _draft(image, shrink):
    """Let an opened JPEG file decode at 1/2, 1/4 or 1/8 of its size, but not below 1/shrink.

    Returns the factor. Only JPEG can do it, and only before the pixels are loaded: else 1.
    """
    if shrink == 1:
        return 1
    width = image.width
    drafted = image.draft(None, (width // shrink, image.height // shrink))
    if drafted is None:
        return 1
    _, (_, _, drafted_width, _) = drafted  # exact, so with a fraction
    return round(width / drafted_width)


def crop(image, matrix, size):
    """Warp a picture by `matrix` (image -> crop pixels): RGB uint8 (3, H, W), black outside it.

    Bilinear; where the crop is less than half as large as the person, blocks of pixels are
    averaged before. A JPEG file that is opened but not loaded averages while it decodes, which is
    much faster: so data sets hand over opened files.
    """
    back = invert(matrix)  # crop pixels -> image pixels

    # how many image pixels a crop pixel covers, along each side: as many are averaged
    shrink = int(math.sqrt(abs(np.linalg.det(back[:, :2]))))
    if isinstance(image, Image.Image):
        shrink = max(1, min(shrink, *image.size))
        decoded = _draft(image, shrink)
    else:
        decoded = 1
    image = as_picture(image)
    shrink = max(1, min(shrink, *image.size)) if decoded == 1 else shrink
    block = shrink // decoded
    if block > 1:
        image = image.reduce(block)

    # Pillow counts from the corner of a pixel, we from its centre
    back[:, 2] += 0.5 - back[:, :2].sum(axis=1) / 2
    back = back / (decoded * block)
    back = back.round(9)  # so that nothing changes where nothing is to change
    pixels = image.transform(
        (size[1], size[0]),
        Image.Transform.AFFINE,
        tuple(back.flat),
        Image.Resampling.BILINEAR,
    )
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


# --------------------------------------------------------------------- heatmaps: warped, in and out
def _square(matrices):
    """Affine matrices (B, 2, 3) -> (B, 3, 3), so that one after the other is a product."""
    matrices = torch.as_tensor(matrices, dtype=torch.float64)
    last_row = matrices.new_tensor([0, 0, 1]).expand(len(matrices), 1, 3)
    return torch.cat([matrices, last_row], dim=1)


def warp_heatmaps(heatmaps, old, new, cell=CELL):
    """Heatmaps (B, K, h, w) seen through the windows `old` -> the same seen through `new`.

    old, new: (B, 2, 3), image -> crop pixels. The person of frame t + 1 is looked at through
    another window than in frame t; before his heatmaps are handed on (eq. 2), they are moved to
    where he will be seen. Bilinear, zero outside, differentiable. Returned as they are where all
    windows are equal. ours: the paper does not say how windows follow a person.
    """
    if torch.equal(torch.as_tensor(old), torch.as_tensor(new)):
        return heatmaps
    height, width = heatmaps.shape[2:]

    # cells of new -> crop pixels of new -> image -> crop pixels of old -> cells of old
    pixels = torch.tensor([[4, 0, cell], [0, 4, cell], [0, 0, 1]], dtype=torch.float64)
    old = _square(old).cpu()
    new = _square(new).cpu()
    cells = pixels.inverse() @ old @ new.inverse() @ pixels  # (B, 3, 3)

    # where each cell of the new heatmap is read in the old one
    columns = torch.arange(width, dtype=torch.float64)
    rows = torch.arange(height, dtype=torch.float64)
    y, x = torch.meshgrid(rows, columns, indexing="ij")  # (h, w)
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (h, w, 3)
    places = torch.einsum("bij,hwj->bhwi", cells[:, :2], places)  # (B, h, w, 2)

    # grid_sample wants -1 and 1 at the outer borders of the first and last cell
    grid = (2 * places + 1) / torch.tensor([width, height]) - 1
    grid = grid.to(heatmaps)
    return F.grid_sample(heatmaps, grid, "bilinear", "zeros", align_corners=False)


def _gaussian(centre, length, sigma):
    """A Gaussian of height 1 around `centre` (..., K), at the cells 0 .. length - 1."""
    cells = torch.arange(length, device=centre.device)
    distance = (cells - centre[..., None]) / sigma  # (..., K, length)
    return torch.exp(-(distance**2) / 2)


def targets(joints, size, cell=CELL):
    """Joints in crop pixels -> the heatmaps that a network should draw, as SBL encodes them.

    joints (..., K, 3): x, y and visibility, above 0 where annotated; size: (H, W) of the crop.
    Returns heatmaps (..., K, H/4, W/4), 1 at a joint's exact place, and weights (..., K): 0 for
    what is not annotated or lies outside the crop, 1 for all others.
    """
    height = size[0] // 4
    width = size[1] // 4
    sigma = 1 + height / 64  # in cells: 2 for 64x48 as in SBL, 1.5 for 32x24

    # crop pixels -> heatmap cells
    x = (joints[..., 0] - cell) / 4  # (..., K)
    y = (joints[..., 1] - cell) / 4
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    weights = (inside & (joints[..., 2] > 0)).to(joints.dtype)

    # a Gaussian in two dimensions is the product of one along each axis
    along_x = _gaussian(x, width, sigma)  # (..., K, W/4)
    along_y = _gaussian(y, height, sigma)  # (..., K, H/4)
    heatmaps = along_y[..., :, None] * along_x[..., None, :]  # (..., K, H/4, W/4)
    return heatmaps * weights[..., None, None], weights


def _offset(line, peak, quarter):
    """Where between the cells of a line (..., n) its top lies, seen from the cell `peak` (...)."""
    last = line.shape[-1] - 1
    before = line.gather(-1, (peak - 1).clamp_min(0)[..., None]).squeeze(-1)
    top = line.gather(-1, peak[..., None]).squeeze(-1)
    after = line.gather(-1, (peak + 1).clamp_max(last)[..., None]).squeeze(-1)
    if quarter:
        offset = (after - before).sign() / 4
    else:
        # the top of the parabola through the three values; a flat one has no top
        curvature = 2 * top - before - after
        offset = (after - before) / (2 * curvature.clamp_min(1e-6))
        offset = torch.where(curvature > 1e-6, offset, 0).clamp(-0.5, 0.5)
    at_border = (peak == 0) | (peak == last)
    return offset.masked_fill(at_border, 0)


def decode(heatmaps, quarter=False, cell=CELL):
    """Heatmaps (..., K, h, w) -> keypoints (..., K, 3): x, y in crop pixels, and score.

    The score is the highest cell's value. The joint lies up to half a cell beside it, at the top
    of the parabola through the *logarithms* of that cell and its neighbours: for a Gaussian that
    is its exact centre. quarter: instead a quarter of a cell towards the higher neighbour, the
    habit of the field (about 2 AP less on drawn people).
    """
    width = heatmaps.shape[-1]
    score, peak = heatmaps.flatten(-2).max(-1)  # (..., K)
    row = peak // width
    column = peak % width

    # the row and the column through the peak
    heights = heatmaps if quarter else heatmaps.clamp_min(1e-6).log()
    along_x = heights.take_along_dim(row[..., None, None], -2).squeeze(-2)  # (..., K, w)
    along_y = heights.take_along_dim(column[..., None, None], -1).squeeze(-1)  # (..., K, h)

    # heatmap cells -> crop pixels
    x = 4 * (column + _offset(along_x, column, quarter)) + cell
    y = 4 * (row + _offset(along_y, row, quarter)) + cell
    return torch.stack([x, y, score], dim=-1)


def flip_heatmaps(heatmaps, flip, cell=CELL):
    """Heatmaps (..., K, h, w) of a mirrored crop -> those of the crop; `flip`: `Skeleton.flip`."""
    heatmaps = heatmaps.flip(-1)[..., list(flip), :, :]
    if cell == CELL:
        return heatmaps
    # SBL's cells lie left of the pixels they cover, in the mirror right of them: 3/4 of a cell too
    # far left after the flip. SBL moves them by one.
    return torch.cat([heatmaps[..., :1], heatmaps[..., :-1]], dim=-1)


def about(skeleton, size, cell=CELL):
    """What must be known to use a finished network: plain values, saved beside its weights."""
    return {
        "size": list(size),
        "padding": PADDING,
        "mean": list(MEAN),
        "std": list(STD),
        "cell": cell,
        "joints": list(skeleton.joints),
        "flip": list(skeleton.flip),
        "limbs": [list(limb) for limb in skeleton.limbs],
    }


def skeleton_of(about):
    """The skeleton that a network was trained for, from what `about` saved with it."""
    joints = tuple(about["joints"])
    for skeleton in (COCO, POSETRACK):
        if joints == skeleton.joints:
            return skeleton
    coco_sigmas = dict(zip(COCO.joints, COCO.sigmas, strict=True))
    sigmas = [coco_sigmas.get(joint, 0.05) for joint in joints]  # ours: .05 for others
    limbs = [tuple(limb) for limb in about["limbs"]]
    return Skeleton("own joints", joints, tuple(limbs), tuple(sigmas))


# --------------------------------------------------------------------------------- clips, batches
class Batch(NamedTuple):
    """B clips of F frames. `normalise` and `targets` are left to the device they are used on."""

    images: torch.Tensor  # (B, F, 3, H, W) uint8 RGB
    matrices: torch.Tensor  # (B, F, 2, 3) float64, image pixels -> crop pixels of each frame
    joints: torch.Tensor  # (B, F, K, 3) float32: x, y in crop pixels, visibility


class Clips:
    """N clips of F frames of one person each.

    name      for people to read
    skeleton  of the joints
    size      (H, W) of the crops, multiples of 4
    cell      of the heatmaps, as for `targets`
    frames    F
    boxes     (N, F, 4) x, y, w, h of the person in each frame, image pixels
    joints    (N, F, K, 3) x, y in image pixels; visibility 0 not annotated, 1 hidden, 2 visible
    areas     (N, F) of the person, square image pixels, for OKS

    Subclasses add `open_image`. The last three are arrays.
    """

    per_clip = ("boxes", "joints", "areas")  # the fields with an entry for each clip

    def __init__(self, name, skeleton, size, boxes, joints, areas):
        if min(size) < 4 or size[0] % 4 or size[1] % 4:
            raise UserError(
                f"crops of {size[0]}x{size[1]} pixels have no heatmap of a quarter: "
                "use multiples of 4"
            )
        self.name = name
        self.skeleton = skeleton
        self.size = tuple(size)
        self.cell = CELL
        self.boxes = boxes
        self.joints = joints
        self.areas = areas
        self.frames = joints.shape[1]
        self.unreadable = set()  # what was said of pictures that turned out damaged

    def __len__(self):
        return len(self.boxes)

    def head(self, count):
        """The first `count` clips; they share the memory of these."""
        clips = copy.copy(self)
        for field in self.per_clip:
            setattr(clips, field, getattr(self, field)[:count])
        return clips

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip: a PIL image, not yet decoded where it is a file.

        Raises UserError if it cannot be opened, or decoded inside the `with`.
        """
        raise NotImplementedError

    def _crop(self, index, t, matrix):
        """Frame t through its matrix, uint8 (3, H, W); None if it cannot be read, which is told."""
        try:
            with self.open_image(index, t) as image:
                return crop(image, matrix, self.size)
        except UserError as error:
            self._tell(str(error))
            return None

    def _tell(self, message):
        """Say that a picture is damaged, once, and ever more rarely: the 1st, 2nd, 4th, 8th ..."""
        if message in self.unreadable:
            return
        self.unreadable.add(message)
        count = len(self.unreadable)
        if count.bit_count() == 1:
            print(f"{self.name}: {count} pictures left out so far; {message}", file=sys.stderr)

    def _clip(self, index, augmentation):
        """A Batch without its first dimension: one clip."""
        images, matrices, joints = [], [], []
        for t in range(self.frames):
            matrix = crop_matrix(self.boxes[index, t], self.size, augmentation)
            moved = transform(self.joints[index, t], matrix)  # (K, 3)
            if augmentation.flip:
                moved = moved[list(self.skeleton.flip)]
            image = self._crop(index, t, matrix)
            if image is None:  # nothing is learnt from a picture that is not there
                image = torch.zeros(3, *self.size, dtype=torch.uint8)
                moved[:, 2] = 0
            images.append(image)
            matrices.append(matrix)
            joints.append(moved)
        return Batch(
            images=torch.stack(images),
            matrices=torch.from_numpy(np.stack(matrices)),
            joints=torch.from_numpy(np.stack(joints)).float(),
        )

    def batch(self, indices, augmentations=None):
        """A Batch of the clips `indices`. augmentations: one for each clip; None: plain crops.

        A picture that cannot be read is black, without joints, and told on stderr.
        """
        indices = [int(index) for index in indices]
        if augmentations is None:
            augmentations = [PLAIN] * len(indices)
        pairs = zip(indices, augmentations, strict=True)
        clips = [self._clip(index, augmentation) for index, augmentation in pairs]
        return Batch(
            images=torch.stack([clip.images for clip in clips]),
            matrices=torch.stack([clip.matrices for clip in clips]),
            joints=torch.stack([clip.joints for clip in clips]),
        )


def _ignore_interrupts(worker):
    """Ctrl-C is for the main process: the step that it completes may need one more batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batch_loader(dataset, items, clips, device):
    """A DataLoader of dataset[i] for each i of `items`, which are whole batches.

    Where the clips are read from files, worker processes make the batches ahead.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun, which share the cores
    workers = 0 if isinstance(clips, SyntheticClips) else max(1, cores() // processes)
    return DataLoader(
        dataset,
        sampler=items,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_interrupts,
    )


# ------ drawn people: PASTED HERE
import importlib.util  # noqa: E402  (temporary, as all of this section)

_spec = importlib.util.spec_from_file_location("old_data", "/work/old/data.py")
_old = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_old)


def render_clip(split, index, frames=4, size=(128, 96)):
    """Temporary: the first edition's. images uint8 (F, H, W, 3), joints float32 (F, 17, 3)."""
    try:
        return _old.render_clip(split, index, frames, size)
    except _old.DataError as error:
        raise UserError(str(error)) from None


# ------ end of the pasted section


class SyntheticClips(Clips):
    """The first `count` drawn clips of a split, rendered here, as one uint8 array.

    workers: processes to render with (no picture depends on it); None: one for each core. Few
    clips are rendered in this process.
    """

    per_clip = (*Clips.per_clip, "images")

    def __init__(self, split, count, frames=4, size=(128, 96), workers=None):
        if count < 1 or frames < 1:
            raise UserError(
                f"{count} drawn clips of {frames} frames: both numbers must be at least 1"
            )
        height, width = size
        self.images = np.empty((count, frames, height, width, 3), np.uint8)
        joints = np.empty((count, frames, 17, 3))
        workers = min(workers or cores(), count // 16)
        for i, clip in enumerate(self._render(split, count, frames, size, workers)):
            self.images[i], joints[i] = clip

        # the window of this box, padded by 1.25, is the whole frame: a plain crop changes nothing
        box = [0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height]
        boxes = np.tile(box, (count, frames, 1))
        extent = np.ptp(joints[..., :2], axis=2)  # (N, F, 2)
        areas = BOX_TO_AREA * (1.1 * extent).prod(axis=-1)  # a body reaches beyond its joints
        super().__init__(f"drawn people ({split})", COCO, size, boxes, joints, areas)

    @staticmethod
    def _render(split, count, frames, size, workers):
        """The clips 0 .. count - 1, one after another, from `workers` processes."""
        render = functools.partial(render_clip, split, frames=frames, size=tuple(size))
        if workers < 2 or multiprocessing.parent_process():
            yield from map(render, range(count))
            return
        # a forked worker starts at once and needs no `if __name__ == "__main__"`; drawing uses
        # neither torch nor threads, so it may be forked
        start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(workers, mp_context=start) as pool:
            yield from pool.map(render, range(count), chunksize=16)

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip, a PIL image."""
        yield Image.fromarray(self.images[index, t])


# ------------------------------------------------------------------------------- COCO, PoseTrack18
def _read_json(path, hint):
    """What a JSON file says; UserError if it cannot be read. hint: what the user should name."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {hint}") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{path} is not complete JSON: it was probably cut off on the way, fetch it again"
        ) from None


def _read_annotations(path, hint, picture_keys):
    """An annotation file: a dict with the lists `images` and `annotations`.

    Of the images those stay that are usable: dicts with `picture_keys`, a dict {key: type}.
    """
    page = _read_json(path, hint)
    for key in ("images", "annotations"):
        if not isinstance(page, dict) or not isinstance(page.get(key), list):
            raise UserError(f"{path} has no list {key!r}: {hint}")
    usable = []
    for image in page["images"]:
        if isinstance(image, dict) and _has_types(image, picture_keys):
            usable.append(image)
    page["images"] = usable
    return page


def _has_types(entry, types):
    return all(isinstance(entry.get(key), kind) for key, kind in types.items())


class Unusable(Exception):
    """An entry of an annotation file that nothing can be done with; the message says why."""


def _numbers(entry, key, count=None):
    """The `count` finite numbers under `key`, or the single one: a float64 array, or Unusable."""
    try:
        values = np.array(entry[key])
    except (KeyError, ValueError):  # it is missing, or lists of several lengths
        raise Unusable("incomplete or senseless entry") from None
    shape = () if count is None else (count,)
    if values.dtype.kind not in "biuf" or values.shape != shape:  # "biuf": kinds of numbers
        raise Unusable("incomplete or senseless entry")
    if not np.isfinite(values).all():
        raise Unusable("not a number")
    return values.astype(np.float64)


@dataclass
class Person:
    """One annotated or detected person in one picture, checked where the file is read.

    A filler, which only makes a clip full, has the ids -1.
    """

    path: Path  # of the picture
    image_id: int
    entry_id: int  # of the annotation, track or detection
    box: np.ndarray  # (4,) x, y, w, h
    joints: np.ndarray  # (K, 3), zeros for a detection
    area: float
    score: float = 1.0
    crowd: bool = False
    detected: bool = False  # by a detector, so without joints
    is_person: bool = True
    labelled: bool = True  # the frame (PoseTrack)
    time: int = 0  # number of the frame in its video (PoseTrack)


def _picture_exists(path):
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):  # a name that no file can have
        return False


def _why_left_out(person):
    """The reason why a person is not looked at; "" for most."""
    if person.crowd:
        return "crowd"
    if not person.is_person:
        return "not a person"
    if not person.labelled:
        return "unlabelled frame"
    if not (person.box[2:] > 0).all():
        return "box without area"
    if not person.detected and not (person.joints[:, 2] > 0).any():
        return "no joints"
    if not _picture_exists(person.path):
        return "picture missing or empty"
    return ""


class FileClips(Clips):
    """Clips whose frames are read from files.

    files     files[n][t] is a path
    ids       (N, F, 2) image id and annotation, track or detection id; -1 for a filler
    scores    (N,) of detected boxes, 1 where people drew them
    skipped   Counter {reason: people left out}; left_out: the same as text

    annotations, of the subclasses, is what was read, without entries that no evaluation could use.
    """

    per_clip = (*Clips.per_clip, "files", "ids", "scores")

    def __init__(self, name, skeleton, size, clips, where):
        """clips: lists of F `Person`s; where: the file or folder that was read."""
        if not clips:
            reason = self.left_out or "it lists no person"
            raise UserError(
                f"{where} has nobody to look at ({reason}): check --root, the split and --frames"
            )
        self.files, self.ids, self.scores = [], [], []
        boxes, joints, areas = [], [], []
        for clip in clips:
            self.files.append([person.path for person in clip])
            self.ids.append([(person.image_id, person.entry_id) for person in clip])
            self.scores.append(clip[0].score)
            boxes.append([person.box for person in clip])
            joints.append([person.joints for person in clip])
            areas.append([person.area for person in clip])
        self.ids = np.array(self.ids)
        self.scores = np.array(self.scores)
        super().__init__(name, skeleton, size, np.array(boxes), np.array(joints), np.array(areas))
        self._check_pictures()

    @property
    def left_out(self):
        """How many people were left out, and why, for people to read."""
        return ", ".join(f"{count} x {reason}" for reason, count in self.skipped.items())

    def _check_pictures(self, count=20):
        """UserError if none of the first pictures can be read."""
        count = min(count, len(self))
        for index in range(count):
            matrix = crop_matrix(self.boxes[index, 0], self.size)
            if self._crop(index, 0, matrix) is not None:
                return
        raise UserError(
            f"none of the first {count} pictures of {self.name} can be read: fetch them again"
        )

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip, an opened file. UserError if it is no picture, or damaged.

        A turn that is noted in EXIF is not applied: annotations are for the pixels as stored.
        """
        path = self.files[index][t]
        try:
            with Image.open(path) as image:
                yield image
        except FileNotFoundError:
            raise UserError(f"the picture {path} is not there: correct --root") from None
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            raise UserError(
                f"the picture {path} is damaged or is none: fetch it again or correct --root"
            ) from None

    def _people(self, entries, images, read_person):
        """The people among `entries`, one file's annotations or detections, who are looked at.

        read_person(entry, image) makes a Person or raises Unusable. The others are counted in
        `skipped`. Takes out of `entries` what is unusable, so that an evaluation can go through it;
        people who are only not looked at (a crowd, say) stay, as the official ones need them.
        """
        image_of = {image["id"]: image for image in images}
        usable, people = [], []
        for entry in entries:
            try:
                image = self._image_of(entry, image_of)
                person = read_person(entry, image)
            except Unusable as reason:
                self.skipped[str(reason)] += 1
                continue
            usable.append(entry)
            reason = _why_left_out(person)
            if reason:
                self.skipped[reason] += 1
            else:
                people.append(person)
        entries[:] = usable
        return people

    @staticmethod
    def _image_of(entry, image_of):
        if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int):
            raise Unusable("incomplete or senseless entry")
        if entry["image_id"] not in image_of:
            raise Unusable("picture not listed")
        return image_of[entry["image_id"]]


class CocoPeople(FileClips):
    """Everyone with joints in COCO 2017: clips of one frame.

    Reads root/annotations/person_keypoints_{split}2017.json and the folder root/{split}2017.
    boxes: instead of the annotated people everyone that a detector found, from a JSON list of
    {image_id, category_id, bbox, score}; they have no joints.
    """

    def __init__(self, root, split, size=(256, 192), boxes=None):
        self.skipped = Counter()
        self.folder = Path(root, f"{split}2017")
        path = Path(root, "annotations", f"person_keypoints_{split}2017.json")
        hint = "--root must be COCO 2017's folder, with annotations/, train2017/ and val2017/"
        self.annotations = _read_annotations(path, hint, {"id": int, "file_name": str})
        images = self.annotations["images"]

        # with detections too: they take out what the evaluation could not use
        people = self._people(self.annotations["annotations"], images, self._annotated)
        name = f"COCO {split}2017"
        if boxes:
            self.skipped.clear()
            people = self._people(self._read_detections(boxes), images, self._detected)
            name += ", detected boxes"
        clips = [[person] for person in people]
        super().__init__(name, COCO, size, clips, boxes or path)

    @staticmethod
    def _read_detections(path):
        hint = "--boxes wants a JSON list of detections with image_id, category_id, bbox and score"
        detections = _read_json(path, hint)
        if not isinstance(detections, list):
            raise UserError(f"{path} is no list: {hint}")
        return detections

    def _annotated(self, entry, image):
        _numbers(entry, "num_keypoints")  # the evaluation needs it
        return Person(
            path=self.folder / image["file_name"],
            image_id=image["id"],
            entry_id=entry.get("id", -1),
            box=_numbers(entry, "bbox", 4),
            joints=_numbers(entry, "keypoints", 51).reshape(17, 3),
            area=float(_numbers(entry, "area")),
            crowd=bool(_numbers(entry, "iscrowd")),
            is_person=entry.get("category_id", 1) == 1,
        )

    def _detected(self, entry, image):
        box = _numbers(entry, "bbox", 4)
        return Person(
            path=self.folder / image["file_name"],
            image_id=image["id"],
            entry_id=entry.get("id", -1),
            box=box,
            joints=np.zeros((17, 3)),
            area=box[2] * box[3],
            score=float(_numbers(entry, "score")),
            detected=True,
            is_person=_numbers(entry, "category_id") == 1,
        )


def _consecutive(times, most):
    """How many of the first `most` sorted frame numbers follow one another.

    PoseTrack labels every frame in the middle of a video and every fourth elsewhere: both count as
    consecutive, a mixture or a gap does not.
    """
    count = 1
    while count < min(most, len(times)):
        step = times[count] - times[count - 1]
        if step not in (1, 4) or step != times[1] - times[0]:
            break
        count += 1
    return count


class PoseTrackClips(FileClips):
    """Clips of consecutive labelled frames of one track of PoseTrack18; no two share a frame.

    Reads root/annotations/{split}/*.json; the pictures' names in them start from root. sequences is
    {file name: its images}. whole: parts of a track that are too short for a clip are left out.
    Otherwise their last frame is repeated, without labels and with the ids -1, so that an
    evaluation finds each labelled frame in exactly one clip.
    """

    def __init__(self, root, split, frames=4, size=(256, 192), whole=True):
        self.skipped = Counter()
        self.sequences = {}
        self.root = Path(root)
        self.annotations = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
        folder = self.root / "annotations" / split
        hint = "--root must be a folder with PoseTrack18's annotations/ and images/"
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise UserError(f"there is no annotation file in {folder}: {hint}")

        clips = []
        for path in paths:
            page = _read_annotations(path, hint, {"id": int, "file_name": str, "frame_id": int})
            people = self._people(page["annotations"], page["images"], self._annotated)
            for track in self._tracks(people):
                clips += self._cut(track, frames, whole)
            self.sequences[path.name] = page["images"]
            self.annotations["images"] += page["images"]
            self.annotations["annotations"] += page["annotations"]
        super().__init__(f"PoseTrack18 {split}", POSETRACK, size, clips, folder)

    def _annotated(self, entry, image):
        _numbers(entry, "bbox_head", 4)  # the evaluation needs it
        try:
            box = _numbers(entry, "bbox", 4)
        except Unusable:  # but not this one
            box = np.zeros(4)
        return Person(
            path=self.root / image["file_name"],
            image_id=image["id"],
            entry_id=int(_numbers(entry, "track_id")),
            box=box,
            joints=_numbers(entry, "keypoints", 51).reshape(17, 3),
            area=BOX_TO_AREA * box[2] * box[3],
            crowd=bool(entry.get("iscrowd")),
            is_person=entry.get("category_id", 1) == 1,
            labelled=bool(image.get("is_labeled", True)),
            time=image["frame_id"],
        )

    def _tracks(self, people):
        """The people of one file, by track: dicts {frame number: Person}."""
        tracks = {}
        for person in people:
            track = tracks.setdefault(person.entry_id, {})
            if person.time in track:
                self.skipped["track that is twice in one frame"] += 1
            else:
                track[person.time] = person
        return tracks.values()

    def _cut(self, track, frames, whole):
        """One track -> its clips of `frames` people, from the first frame on."""
        clips = []
        times = sorted(track)
        while times:
            count = _consecutive(times, frames)
            if count < frames and whole:
                self.skipped[f"frame without {frames - 1} labelled ones after it"] += 1
                times = times[1:]
                continue
            clip = [track[time] for time in times[:count]]
            unlabelled = clip[-1].joints * [1, 1, 0]
            filler = replace(clip[-1], image_id=-1, entry_id=-1, joints=unlabelled)
            clips.append(clip + [filler] * (frames - count))
            times = times[count:]
        return clips


def open_clips(kind, root, split, frames, size, count=None, boxes=None):
    """At most `count` clips of `kind` "synthetic", "coco" or "posetrack"; says what was left out.

    split: train; val, which a search uses; test, which only a report uses. The real data sets' test
    annotations are not public: there test is val too, with every labelled frame of PoseTrack18.
    boxes: see CocoPeople.
    """
    if kind == "synthetic":
        return SyntheticClips(split, count, frames, size)
    part = "val" if split == "test" else split
    if kind == "coco":
        clips = CocoPeople(root, part, size, boxes)
    else:
        clips = PoseTrackClips(root, part, frames, size, whole=split != "test")
    if clips.left_out:
        print(f"{clips.name}: left out {clips.left_out}")
    return clips.head(count) if count else clips


# ----------------------------------------------------------------------------------------- export
def export(kind, out, count, frames=8, size=(256, 192)):
    """Write drawn people in the layout of `kind`, "coco" or "posetrack", to try what reads those.

    `count` people (or sequences of `frames` frames) to train with, a quarter as many to validate.
    """
    out = Path(out)
    for split, number in (("train", count), ("val", max(1, count // 4))):
        if kind == "coco":
            clips = SyntheticClips(split, number, 1, size)
            _export_coco(clips, out, split)
        else:
            clips = SyntheticClips(split, number, frames, size)
            for index in range(number):
                _export_sequence(clips, index, out / "annotations" / split, out, split)


def _save_frame(clips, index, t, path):
    with clips.open_image(index, t) as image:
        save_image(image, path)


def _annotation(image_id, entry_id, box, joints):
    """What both layouts say of a person. Joints (K, 3) that are not annotated become 0, 0, 0."""
    labelled = joints[:, 2:] > 0  # (K, 1)
    return {
        "id": entry_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box.tolist(),
        "num_keypoints": int(labelled.sum()),
        "keypoints": (joints * labelled).ravel().tolist(),
    }


def _export_coco(clips, out, split):
    """Pictures, annotations and, to validate, detections of clips of one frame."""
    height, width = clips.size
    page = {"images": [], "annotations": [], "categories": [COCO.category]}
    for index in range(len(clips)):
        number = index + 1
        name = f"{number:012d}.jpg"
        _save_frame(clips, index, 0, out / f"{split}2017" / name)
        image = {"id": number, "file_name": name, "height": height, "width": width}
        person = _annotation(number, number, clips.boxes[index, 0], clips.joints[index, 0])
        person["area"] = float(clips.areas[index, 0])
        page["images"].append(image)
        page["annotations"].append(person)
    write_json(page, out / "annotations" / f"person_keypoints_{split}2017.json")
    if split == "val":
        detections = _drawn_detections(clips, random.Random(0))
        write_json(detections, out / "annotations" / "person_detections_val2017.json")


def _drawn_detections(clips, rng):
    """Two detections of each person: the box, moved a little, with a random score."""
    detections = []
    for index in [*range(len(clips))] * 2:
        box = [value + rng.gauss(0, clips.size[1] / 50) for value in clips.boxes[index, 0]]
        detection = {"image_id": index + 1, "category_id": 1, "bbox": box, "score": rng.random()}
        detections.append(detection)
    return detections


def _export_sequence(clips, index, folder, out, split):
    """Pictures and annotations of one clip, as a PoseTrack18 sequence of one track."""
    video = f"{index:06d}_drawn"
    page = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
    for t in range(clips.frames):
        number = (10**6 + index) * 10**4 + t
        name = f"images/{split}/{video}/{t:06d}.jpg"
        _save_frame(clips, index, t, out / name)
        image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
        image["vid_id"] = f"{index:06d}"
        joints, head = _as_posetrack(clips.joints[index, t])
        person = _annotation(number, 100 * number, clips.boxes[index, t], joints)
        person["track_id"] = 0
        person["bbox_head"] = head
        page["images"].append(image)
        page["annotations"].append(person)
    write_json(page, folder / f"{video}.json")


def _as_posetrack(joints):
    """COCO joints (17, 3) -> PoseTrack's, and the box of the head [x, y, w, h].

    The neck is put between the shoulders, the top of the head as far above the ears as it is drawn.
    """
    ears = joints[3:5, :2].mean(axis=0)
    neck = joints[5:7, :2].mean(axis=0)
    top = neck + 1.55 * (ears - neck)
    radius = np.linalg.norm(top - ears)
    all_seen = joints[3:7, 2].min()

    joints = joints.copy()
    joints[1] = [*neck, all_seen]
    joints[2] = [*top, all_seen]
    joints[3:5] = 0  # PoseTrack annotates no ears
    joints[:, 2] = joints[:, 2] > 0  # and does not say what is hidden
    return joints, [*(ears - radius), 2 * radius, 2 * radius]


# ---------------------------------------------------------------------------------------- drawing
LEFT = (60, 230, 90)
RIGHT = (255, 70, 60)
MIDDLE = (255, 220, 60)


def _side_colour(*joints):
    """The colour of a joint or limb, by the names of its ends."""
    if any("left" in joint for joint in joints) and not any("right" in joint for joint in joints):
        return LEFT
    if any("right" in joint for joint in joints) and not any("left" in joint for joint in joints):
        return RIGHT
    return MIDDLE


def draw_pose(image, keypoints, skeleton, threshold=0.2, colour=None):
    """A copy of a PIL image with a pose drawn on it: left limbs green, right ones red.

    keypoints (K, 3): x, y in its pixels, and visibility or score; what is not above `threshold`
    or not finite is not drawn. colour: of all limbs instead, to tell several people apart.
    """
    image = image.convert("RGB") if image.mode != "RGB" else image.copy()
    draw = ImageDraw.Draw(image)
    line = 1 + max(image.size) // 250
    keypoints = np.asarray(keypoints, dtype=float)
    shown = (keypoints[:, 2] > threshold) & np.isfinite(keypoints).all(axis=1)
    points = keypoints[:, :2] + 0.5  # Pillow counts from the corner of a pixel

    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            fill = colour or _side_colour(skeleton.joints[a], skeleton.joints[b])
            draw.line([*points[a], *points[b]], fill=fill, width=line)
    for k in np.flatnonzero(shown):
        x, y = points[k]
        fill = _side_colour(skeleton.joints[k])
        draw.ellipse([x - line, y - line, x + line, y + line], fill=fill)
    return image


def sheet(rows):
    """Lists of PIL images -> one image with a row for each list, cells of the largest's size."""
    images = [image for row in rows for image in row]
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    columns = max(len(row) for row in rows)
    page = Image.new("RGB", (width * columns, height * len(rows)))
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            page.paste(image, (c * width, r * height))
    return page


def save_image(image, path):
    """Write a PIL image, or a list of them as a GIF that repeats, whole or not at all.

    Raises UserError: no ending of a picture, or the file cannot be written.
    """
    path = Path(path)
    frames = image if isinstance(image, list) else [image]
    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None or (len(frames) > 1 and form != "GIF"):
        endings = ".gif" if len(frames) > 1 else ".png, .jpg or .gif"
        raise UserError(f"a picture cannot be written to {path}: its name must end in {endings}")
    options = {"quality": 95}
    if len(frames) > 1:
        options = {"save_all": True, "append_images": frames[1:], "duration": 200, "loop": 0}
    with whole_file(path) as file:
        frames[0].save(file, format=form, **options)


# ------------------------------------------------------------------------------------------- main
def _draw_example(clips, index, scale=2):
    """A row of pictures: the frames of a clip, then the first and the last with their poses."""
    size = (clips.size[0] * scale, clips.size[1] * scale)
    frames, drawn = [], []
    for t in range(clips.frames):
        matrix = crop_matrix(clips.boxes[index, t], size)
        with clips.open_image(index, t) as image:
            pixels = crop(image, matrix, size)
        large = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        joints = transform(clips.joints[index, t], matrix)
        frames.append(large)
        drawn.append(draw_pose(large, joints, clips.skeleton))
    return frames + [drawn[0], drawn[-1]]


def _reading_speed(count=24):
    """Augmented 256x192 samples a second, read on this core from JPEG files of 640x480."""
    rng = random.Random(0)
    augmentations = [draw_augmentation(rng, 40, 0.1) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        export("coco", folder, count, size=(480, 640))
        clips = CocoPeople(folder, "train")
        clips.boxes[..., 0] = 240  # a person 384 pixels high, not the whole picture
        clips.boxes[..., 2] = 160
        start = time.process_time()
        clips.batch(range(count), augmentations)
        return count / (time.process_time() - start)


def main():
    """Draw a few clips of synthetic people; or export a data set of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", help="picture to write (people.png), or folder to export to")
    parser.add_argument("--export", choices=("coco", "posetrack"), help="layout to export")
    parser.add_argument("--clips", type=int, default=200, help="people or sequences to export")
    options = parser.parse_args()
    if options.export:
        if not options.out:
            raise UserError("--export needs --out DIR, the folder to write the data set to")
        export(options.export, options.out, options.clips)
        return

    out = options.out or "people.png"
    render_clip("train", 0)  # the first time is slower
    start = time.perf_counter()
    clips = SyntheticClips("train", 12, workers=1)
    frames_a_second = len(clips) * clips.frames / (time.perf_counter() - start)
    rows = []
    for index in range(0, len(clips), 2):
        rows.append(_draw_example(clips, index) + _draw_example(clips, index + 1))
    save_image(sheet(rows), out)
    print(f"{out}: {len(clips)} clips of {clips.frames} frames, then their first and last pose")
    torch.set_num_threads(1)
    print(f"drawn on one core: {frames_a_second:.0f} frames/s of 128x96 pixels")
    print(f"read on one core from 640x480 JPEG: {_reading_speed():.0f} augmented samples/s")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"data: {error}")
