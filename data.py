"""People: from files to crops and heatmaps, and from heatmaps back to joints (Sec. 4.1).

A *clip* is F consecutive frames of one person; a COCO person is a clip of one frame. In every frame
the person is seen through a window of its own, the box around him made larger:

    picture ---- crop_matrix, crop ---> crop (3, H, W) --- network ---> heatmaps (K, H/4, W/4)
       ^                                   |                 ^             |            |
       |                                targets: what        |          decode    warp_heatmaps
       |                                it should draw       |             |            |
       '------ joints in the picture <--- the matrix's inverse <-----------'   next frame's window

Coordinates: the centre of a pixel has whole numbers, x to the right, y down. A heatmap has a
quarter of the crop's size: its cell i lies over the pixels 4i .. 4i + 3, centred at 4i + 1.5.

    clips = SyntheticClips("train", 1000)      # or CocoPeople(root, ...), PoseTrackClips(root, ...)
    batch = clips.batch([0, 1, 2])             # images, matrices, joints

The drawn people are ours, not the paper's: with them no stage needs a download.

    python data.py                             # a few drawn clips in people.png
    python data.py --export coco --out DIR     # drawn people in the layout of COCO
"""

import argparse
import contextlib
import copy
import functools
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
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
from torch.utils.data import DataLoader, default_collate


# ------------------------------------------------------------------ errors, whole files, processors
class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do."""


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write what shall be found under `path`: whole, or not at all.

    What is written goes to a temporary file beside it, which takes its name when it is complete and
    on the disk. Whatever goes wrong before, an older file of that name stays as it was, and no
    temporary one. Raises UserError if it cannot be written.
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
        # when the disk is full, torch.save fails once more while it handles that
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path} cannot be written ({cause.strerror or cause}); "
            "an older file of that name is untouched"
        ) from None


def write_json(contents, path):
    """Write JSON, whole or not at all. NaN and infinity are no JSON: ValueError."""
    text = json.dumps(contents, indent=1, allow_nan=False)
    with whole_file(path) as file:
        file.write(text.encode())


def cores():
    """How many processors this process may use: on a shared machine not all that are there."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -------------------------------------------------------------------------------------- skeletons
@dataclass(frozen=True)
class Skeleton:
    """K joints, in the order of the annotation files. Nothing else in the project names them."""

    name: str
    joints: tuple
    limbs: tuple  # pairs of joint numbers, to draw
    sigmas: tuple  # of the similarity OKS: how far apart people place a joint, for their size

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
        """What the files of a data set say about the joints; there limbs count from 1."""
        limbs = [[a + 1, b + 1] for a, b in self.limbs]
        return {"id": 1, "name": "person", "keypoints": list(self.joints), "skeleton": limbs}


# Joints 3 to 16 are the same in both data sets: of each part the left one, then the right one.
BODY_PARTS = ("ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY_SIGMAS = (0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089)
ARMS = ((5, 6), (5, 7), (7, 9), (6, 8), (8, 10))
TRUNK = ((5, 11), (6, 12), (11, 12))
LEGS = ((11, 13), (13, 15), (12, 14), (14, 16))


def _skeleton(name, head, head_limbs):
    """The skeleton of a data set: its own head ((joint, sigma) pairs, limbs) and the body."""
    joints = [joint for joint, _ in head]
    sigmas = [sigma for _, sigma in head]
    for part, sigma in zip(BODY_PARTS, BODY_SIGMAS, strict=True):
        joints += [f"left_{part}", f"right_{part}"]
        sigmas += [sigma, sigma]
    return Skeleton(name, tuple(joints), head_limbs + ARMS + TRUNK + LEGS, tuple(sigmas))


# the sigmas are those of the official COCO evaluation
COCO = _skeleton(
    "COCO",
    (("nose", 0.026), ("left_eye", 0.025), ("right_eye", 0.025)),
    ((0, 1), (0, 2), (1, 3), (2, 4)),
)

# PoseTrack18 has the neck (head_bottom) and the top of the head in place of the eyes, and the ears
# are never annotated. ours: it comes without sigmas; the neck has a shoulder's, head_top an ear's.
POSETRACK = _skeleton(
    "PoseTrack18",
    (("nose", 0.026), ("head_bottom", 0.079), ("head_top", 0.035)),
    ((0, 1), (0, 2), (1, 5), (1, 6)),
)

# ---------------------------------------------------------------------------------- windows, crops
# What is written here in numbers is saved with every finished network (`about`): it must be used
# with the crops that it was trained with.
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0 .. 1
STD = (0.229, 0.224, 0.225)
PADDING = 1.25  # a window is so much larger than the box, as in SBL and HRNet
BOX_TO_AREA = 0.53  # a person's share of the box where no outline was drawn, as usual for COCO

# The crop pixel at the centre of a heatmap's cell 0. Ours is the true one, the middle of the pixels
# 0 .. 3. SBL, HRNet and the released networks were trained with cell i at pixel 4i.
CELL = 1.5
SBL_CELL = 0.0


def normalise(images):
    """uint8 images (..., 3, H, W) -> float32 of the same shape, ImageNet's mean 0, deviation 1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std


def window(box, size, padding=PADDING):
    """A box (x, y, w, h) made larger about its centre: to the shape of `size` (H, W), then padded.

    So a person is neither stretched nor cut off, and the network sees some of what is around him.
    Returns (4,): x, y, w, h. Raises UserError if the box has no area or is not finite.
    """
    x, y, w, h = (float(value) for value in box)
    if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
        raise UserError(
            f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g} has no area: "
            "give a width and a height above 0"
        )
    aspect = size[1] / size[0]
    width = max(w, h * aspect) * padding
    height = width / aspect
    return np.array([x + (w - width) / 2, y + (h - height) / 2, width, height])


class Augmentation(NamedTuple):
    """How a crop differs from the plain one; the same on all frames of a clip (Sec. 4.1)."""

    rotation: float = 0.0  # degrees, clockwise on the screen
    scale: float = 1.0  # above 1 the person gets larger
    flip: bool = False  # mirrored; a mirrored person's left is his right, so joints change places


PLAIN = Augmentation()


def draw_augmentation(rng, rotation, scale):
    """A random one: +-rotation degrees, 1 +- scale, every second mirrored. rng: random.Random."""
    turn = rng.uniform(-rotation, rotation)
    zoom = rng.uniform(1 - scale, 1 + scale)
    return Augmentation(turn, zoom, flip=rng.random() < 0.5)


def crop_matrix(box, size, augmentation=PLAIN):
    """Image pixels -> pixels of the crop that shows the window of `box`: (2, 3) float64.

    A point p goes to matrix[:, :2] @ p + matrix[:, 2]. With it a crop is made (`crop`), joints go
    into the crop (`transform`) and predicted ones back into the image (`invert`).
    """
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
    """Inverse of affine matrices (..., 2, 3): crop pixels -> image pixels, a float64 array."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def transform(points, matrix):
    """Points through affine matrices: x and y are moved, a third column stays as it is.

    points (..., K, 2 or 3) with matrix (..., 2, 3), or with one matrix (2, 3) -> float64 array.
    """
    moved = np.asarray(points, dtype=np.float64).copy()
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
        frame = np.asarray(frame).clip(0, 65535).astype(np.uint16)  # Pillow cuts it off at 255

    # now it should be an array of grey or colour pixels
    if not isinstance(frame, np.ndarray):
        kind = type(frame).__name__
        raise UserError(f"a {kind} is no frame: hand over a Pillow image or a uint8 array")
    pixels = frame[:, :, 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    has_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not has_shape or pixels.size == 0 or pixels.dtype != np.uint8:
        raise UserError(
            f"an array {frame.shape} of {frame.dtype} is no frame: "
            "hand over one of shape (H, W, 3) or (H, W), uint8"
        )
    return Image.fromarray(pixels).convert("RGB")


def crop(image, matrix, size):
    """Warp a PIL image by `matrix` (image -> crop pixels): RGB uint8 (3, H, W), black outside it.

    Bilinear, after averaging whole blocks of pixels where the crop is less than half as large as
    the person. A JPEG file that is opened but not loaded averages while it decodes, by 2, 4 or 8,
    which is much faster: so this takes files as `Image.open` leaves them.
    """
    back = invert(matrix)  # crop pixels -> image pixels

    # how many image pixels a crop pixel covers along each side: blocks of so many are averaged
    shrink = int(math.sqrt(abs(np.linalg.det(back[:, :2]))))
    shrink = max(1, min(shrink, *image.size))
    decoded = 1
    if shrink > 1:
        width = image.width
        draft = image.draft(None, (width // shrink, image.height // shrink))
        if draft is not None:  # it is such a file
            _, (_, _, draft_width, _) = draft
            decoded = round(width / draft_width)
    image = as_picture(image)
    block = shrink // decoded
    if block > 1:
        image = image.reduce(block)

    # Pillow counts from the corner of a pixel, we from its centre
    back[:, 2] += 0.5 - back[:, :2].sum(axis=1) / 2
    back = back / (decoded * block)
    back = back.round(9)  # so that nothing changes where nothing is to change
    wide_and_high = (size[1], size[0])
    affine = Image.Transform.AFFINE
    pixels = image.transform(wide_and_high, affine, tuple(back.flat), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


# ----------------------------------------------------------------- heatmaps: targets, decode, warps
# A network gives a heatmap for each joint: in every cell, how likely the joint is there. A finished
# one is a hill one or two cells wide; where its top lies between the cells is found by `decode`.


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
    height, width = size[0] // 4, size[1] // 4
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
    """How far beside the cell `peak` (...) a line (..., n) has its top: -.5 .. .5 cells."""
    last = line.shape[-1] - 1
    before = line.take_along_dim((peak - 1).clamp_min(0)[..., None], -1)[..., 0]
    top = line.take_along_dim(peak[..., None], -1)[..., 0]
    after = line.take_along_dim((peak + 1).clamp_max(last)[..., None], -1)[..., 0]
    if quarter:
        offset = (after - before).sign() / 4
    else:
        # the top of the parabola through the three values; a flat one has none
        curvature = 2 * top - before - after
        offset = (after - before) / (2 * curvature.clamp_min(1e-6))
        offset = torch.where(curvature > 1e-6, offset, 0).clamp(-0.5, 0.5)
    at_border = (peak == 0) | (peak == last)
    return offset.masked_fill(at_border, 0)


def decode(heatmaps, quarter=False, cell=CELL):
    """Heatmaps (..., K, h, w) -> keypoints (..., K, 3): x, y in crop pixels, and score.

    The score is the value of the highest cell. The joint lies up to half a cell beside it, at the
    top of the parabola through the *logarithms* of that cell and its neighbours: for a Gaussian
    this is its exact centre. quarter: instead a quarter of a cell towards the higher neighbour, the
    habit of the field (about 2 AP less on drawn people).
    """
    width = heatmaps.shape[-1]
    score, peak = heatmaps.flatten(-2).max(-1)  # (..., K)
    row = peak // width
    column = peak % width

    # the row and the column of cells through the peak
    heights = heatmaps if quarter else heatmaps.clamp_min(1e-6).log()
    along_x = heights.take_along_dim(row[..., None, None], -2)[..., 0, :]  # (..., K, w)
    along_y = heights.take_along_dim(column[..., None, None], -1)[..., 0]  # (..., K, h)

    # heatmap cells -> crop pixels
    x = 4 * (column + _offset(along_x, column, quarter)) + cell
    y = 4 * (row + _offset(along_y, row, quarter)) + cell
    return torch.stack([x, y, score], dim=-1)


def flip_heatmaps(heatmaps, flip, cell=CELL):
    """Heatmaps (..., K, h, w) of a mirrored crop -> those of the crop; flip: `Skeleton.flip`."""
    heatmaps = heatmaps.flip(-1)[..., list(flip), :, :]
    if cell == CELL:
        return heatmaps
    # SBL's cell i is at the first of its four pixels, after the mirror at the last: the heatmaps
    # come out 3/4 of a cell too far left. SBL, and so the released networks, move them by one.
    return torch.cat([heatmaps[..., :1], heatmaps[..., :-1]], dim=-1)


def warp_heatmaps(heatmaps, old, new, cell=CELL):
    """Heatmaps (B, K, h, w) in the windows `old` -> the same in the windows `new`.

    old, new: (B, 2, 3), image -> crop pixels. Before the heatmaps of frame t enter frame t + 1
    (eq. 2), they are moved to where the person is in its window. Bilinear, 0 outside; gradients
    flow. Equal windows give back the very heatmaps. ours: the paper has no moving windows.
    """
    old = torch.as_tensor(old, dtype=torch.float64)
    new = torch.as_tensor(new, dtype=torch.float64)
    if torch.equal(old, new):
        return heatmaps
    height, width = heatmaps.shape[2:]

    # grid_sample measures a heatmap from -1 to 1, the outer borders of its first and last cell.
    # There -1 is half a cell before cell 0, and one unit is half of the heatmap: 2h or 2w pixels
    grid_to_pixels = old.new_tensor(
        [
            [2 * width, 0, 2 * width - 2 + cell],
            [0, 2 * height, 2 * height - 2 + cell],
            [0, 0, 1],
        ]
    )

    # grid of new -> crop pixels of new -> image -> crop pixels of old -> grid of old
    last_row = old.new_tensor([0, 0, 1]).expand(len(old), 1, 3)
    old = torch.cat([old, last_row], dim=1)  # (B, 3, 3), so that they can be multiplied
    new = torch.cat([new, last_row], dim=1)
    matrix = grid_to_pixels.inverse() @ old @ new.inverse() @ grid_to_pixels
    grid = F.affine_grid(matrix[:, :2], list(heatmaps.shape), align_corners=False)  # (B, h, w, 2)

    # under autocast heatmaps come in bfloat16, too coarse for places
    heatmaps = heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32))
    return F.grid_sample(heatmaps, grid.to(heatmaps), "bilinear", "zeros", align_corners=False)


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
    limbs = tuple([tuple(limb) for limb in about["limbs"]])
    coco_sigmas = dict(zip(COCO.joints, COCO.sigmas, strict=True))
    sigmas = tuple([coco_sigmas.get(joint, 0.05) for joint in joints])  # ours: .05
    return Skeleton("own joints", joints, limbs, sigmas)


# --------------------------------------------------------------------------------- clips, batches
class Batch(NamedTuple):
    """B clips of F frames. `normalise` and `targets` are left to the device they are used on."""

    images: torch.Tensor  # (B, F, 3, H, W) uint8 RGB
    matrices: torch.Tensor  # (B, F, 2, 3) float64, image pixels -> crop pixels of each frame
    joints: torch.Tensor  # (B, F, K, 3) float32: x, y in crop pixels, visibility


class Clips:
    """N clips of F frames of one person each. Subclasses add `open_image`.

    Every frame has its own box, and so its own window: the estimator is online, and none of its
    windows may depend on a later frame. (Drawn people are drawn in a window that stands still.)

    name      for people to read
    skeleton  the K joints
    size      (H, W) of the crops, multiples of 4
    cell      of the heatmaps, as for `targets`: CELL, or what a network was trained with
    frames    F
    boxes     array (N, F, 4): x, y, w, h of the person in each frame, image pixels
    joints    array (N, F, K, 3): x, y in image pixels; 0 not annotated, 1 hidden, 2 visible
    areas     array (N, F): of the person, in square image pixels, for OKS
    """

    per_clip = ("boxes", "joints", "areas")  # the fields that have an entry for each clip

    def __init__(self, name, skeleton, size, boxes, joints, areas):
        if min(size) < 4 or size[0] % 4 or size[1] % 4:
            raise UserError(f"crops of {size[0]}x{size[1]} pixels do not work: use multiples of 4")
        self.name = name
        self.skeleton = skeleton
        self.size = tuple(size)
        self.cell = CELL
        self.frames = joints.shape[1]
        self.boxes = boxes
        self.joints = joints
        self.areas = areas
        self.damaged = set()  # what was found wrong with pictures

    def __len__(self):
        return len(self.boxes)

    def head(self, count):
        """The first `count` clips; they share the memory of these."""
        clips = copy.copy(self)
        for field in self.per_clip:
            setattr(clips, field, getattr(self, field)[:count])
        return clips

    def open_image(self, index, t):
        """A context manager: frame t of a clip as a PIL image, not yet decoded if it is a file.

        UserError if it cannot be opened, or, inside the `with`, decoded.
        """
        raise NotImplementedError

    def _crop(self, index, t, matrix):
        """Frame t through its matrix, uint8 (3, H, W); None if it cannot be read, which is told."""
        try:
            with self.open_image(index, t) as image:
                return crop(image, matrix, self.size)
        except UserError as error:
            message = str(error)
        if message not in self.damaged:
            self.damaged.add(message)
            count = len(self.damaged)
            if count.bit_count() == 1:  # ever more rarely: 1, 2, 4, 8 ...
                print(f"{self.name}: {count} unreadable so far; {message}", file=sys.stderr)
        return None

    def _clip(self, index, augmentation):
        """One clip as a Batch without its first dimension."""
        images, matrices, joints = [], [], []
        for t in range(self.frames):
            # each frame's own window, turned, enlarged and mirrored alike
            matrix = crop_matrix(self.boxes[index, t], self.size, augmentation)
            image = self._crop(index, t, matrix)
            moved = transform(self.joints[index, t], matrix)  # (K, 3)
            if augmentation.flip:
                moved = moved[list(self.skeleton.flip)]
            if image is None:  # nothing is learnt from a picture that is not there
                image = torch.zeros(3, *self.size, dtype=torch.uint8)
                moved[:, 2] = 0
            images.append(image)
            matrices.append(torch.from_numpy(matrix))
            joints.append(torch.from_numpy(moved).float())
        return Batch(torch.stack(images), torch.stack(matrices), torch.stack(joints))

    def batch(self, indices, augmentations=None):
        """The clips `indices` as a Batch. augmentations: one for each clip; None: plain crops.

        A picture that cannot be read is black and has no joints.
        """
        augmentations = augmentations or [PLAIN] * len(indices)
        clips = []
        for index, augmentation in zip(indices, augmentations, strict=True):
            clips.append(self._clip(int(index), augmentation))
        return default_collate(clips)  # stacks images, matrices and joints


def _ignore_interrupts(worker):
    """Ctrl-C is for the main process: the step that it completes may need one more batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batch_loader(dataset, items, clips, device):
    """A DataLoader of dataset[i] for each i of `items`, each a whole batch.

    Where the clips are read from files, worker processes make the batches ahead.
    """
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes of torchrun on this machine
    workers = 0 if isinstance(clips, SyntheticClips) else max(1, cores() // sharing)
    return DataLoader(
        dataset,
        sampler=items,
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",  # copied to the GPU while it computes
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

    workers: processes to render with (no picture depends on it); None: one for each processor. A
    few clips are rendered without.
    """

    per_clip = (*Clips.per_clip, "images")

    def __init__(self, split, count, frames=4, size=(128, 96), workers=None):
        if count < 1 or frames < 1:
            raise UserError(f"{count} clips of {frames} frames: both numbers must be at least 1")
        height, width = size
        self.images = np.empty((count, frames, height, width, 3), np.uint8)
        joints = np.empty((count, frames, 17, 3))

        # a process for less than 16 clips would cost more time than it saves
        workers = min(workers or cores(), count // 16)
        for i, clip in enumerate(self._render(split, count, frames, size, workers)):
            self.images[i], joints[i] = clip

        # the window of this box is the whole frame: a plain crop changes nothing
        box = [0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height]
        boxes = np.tile(box, (count, frames, 1))
        extent = np.ptp(joints[..., :2], axis=2)  # (N, F, 2)
        areas = BOX_TO_AREA * (1.1 * extent).prod(axis=-1)  # a body reaches beyond its joints
        super().__init__(f"drawn people ({split})", COCO, size, boxes, joints, areas)

    @staticmethod
    def _render(split, count, frames, size, workers):
        """The clips 0 .. count - 1 one after another, from so many processes."""
        render = functools.partial(render_clip, split, frames=frames, size=tuple(size))
        if workers < 2 or multiprocessing.parent_process():
            yield from map(render, range(count))
            return
        # a forked worker starts at once; it may be forked, for drawing uses no torch and no threads
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
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {hint}") from None
    except ValueError:
        message = "is not complete JSON: it was probably cut off on the way, fetch it again"
        raise UserError(f"{path} {message}") from None


# Files that people hand over are never quite what they should be: an annotation lacks a number, a
# picture was not copied. Every entry is checked once, where it is read into a `Person`. What fails
# is left out and counted by reason; only what makes the whole file useless is a UserError.
class Unusable(Exception):
    """An entry of an annotation file that nothing can be done with; the message says why."""


def _numbers(entry, key, shape=(), default=None):
    """The finite numbers under `key`: float64 of that shape. If there are none, the default.

    Without a default Unusable is raised: nothing is taken for a number that is none, as a text, a
    list where one number is wanted, null, NaN, or an integer that no float can hold.
    """
    values = np.array(None)
    with contextlib.suppress(KeyError, ValueError):  # it is missing; lists of several lengths
        values = np.array(entry[key])
    if values.dtype.kind in "biuf" and values.shape == shape:  # kinds of numbers
        if np.isfinite(values).all():
            return values.astype(np.float64)
        reason = "not a number"
    else:
        reason = "incomplete or senseless entry"
    if default is None:
        raise Unusable(reason)
    return default


@dataclass
class Person:
    """A person in one picture, as a file describes him, checked: what is used is what is here."""

    path: Path  # of the picture
    image_id: int  # -1: this only fills up a clip
    entry_id: int  # of the annotation or track, -1 if there is none
    time: int  # number of the frame in its video
    box: np.ndarray  # (4,) x, y, w, h
    joints: np.ndarray  # (K, 3), zeros where they were not asked for
    area: float
    score: float  # of a detected box, 1 where people drew it
    fault: str  # why he is not looked at, "" for most


def _has_types(entry, types):
    """Whether an entry is a dict with these keys: {key: type}."""
    return isinstance(entry, dict) and all(isinstance(entry.get(k), types[k]) for k in types)


class FileClips(Clips):
    """Clips whose frames are read from files.

    files        array (N, F): paths of the pictures
    ids          array (N, F, 2): image id and annotation or track id; -1 for frames that fill up
    scores       array (N,): of detected boxes, 1 where people drew them
    annotations  what was read, without entries that no evaluation could use
    skipped      Counter {reason: how many people were left out}; left_out says it in words

    Subclasses say what they need of a file: `image_keys` {key: type} of an image, `person_keys`
    {key: shape of the numbers} of a person, and `id_key`, what tells people apart.
    """

    per_clip = (*Clips.per_clip, "files", "ids", "scores")

    def __init__(self, name, size, clips, where):
        """clips: lists of F `Person`s; where: the file or folder they were read from."""
        if not clips:
            reason = self.left_out or "it lists no person"
            raise UserError(
                f"{where} has nobody to look at ({reason}): check --root, the split and --frames"
            )

        # all people in one list, then arrays of (clips, frames, ...)
        people = list(itertools.chain.from_iterable(clips))
        shape = (len(clips), len(clips[0]))
        ids = np.array([(person.image_id, person.entry_id) for person in people])
        boxes = np.array([person.box for person in people])
        joints = np.array([person.joints for person in people])
        areas = np.array([person.area for person in people])
        self.ids = ids.reshape(*shape, 2)
        self.files = np.array([person.path for person in people]).reshape(shape)
        self.scores = np.array([clip[0].score for clip in clips])
        boxes = boxes.reshape(*shape, 4)
        joints = joints.reshape(*shape, -1, 3)
        super().__init__(name, self.skeleton, size, boxes, joints, areas.reshape(shape))

        # a whole folder of damaged pictures should be found out now, not after a day of training
        for index in range(min(20, len(self))):
            matrix = crop_matrix(self.boxes[index, 0], self.size)
            if self._crop(index, 0, matrix) is not None:
                return
        raise UserError(f"no picture of {name} can be read (20 were tried): fetch them again")

    @property
    def left_out(self):
        """How many people were left out and why, to read."""
        return ", ".join(f"{count} x {reason}" for reason, count in self.skipped.items())

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip, an opened file. UserError if it is damaged or no picture.

        A turn that is noted in EXIF is not applied: annotations are for the pixels as stored.
        """
        path = self.files[index, t]
        try:
            with Image.open(path) as image:
                yield image
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            reason = "is missing, damaged or no picture: fetch it again, or correct --root"
            raise UserError(f"{path} {reason}") from None

    def _read_page(self, path, hint):
        """An annotation file: a dict with the lists `images` and `annotations`, usable images."""
        # the lists must be there; of what is in them, some may be unusable
        page = _read_json(path, hint)
        for key in ("images", "annotations"):
            if not isinstance(page, dict) or not isinstance(page.get(key), list):
                raise UserError(f"{path} has no list {key!r}: {hint}")
        page["images"] = [image for image in page["images"] if _has_types(image, self.image_keys)]
        return page

    def _people(self, entries, images, folder):
        """Everyone among `entries` (annotations or detections) who is looked at, as a Person.

        The others are counted in `skipped`. What is unusable is also taken out of `entries`, so
        that the evaluation need not fear it; who is only not looked at stays, for the official
        evaluations ask for crowds and people without joints.
        """
        image_of = {image["id"]: image for image in images}
        usable = []  # for the evaluation
        people = []  # for us
        for entry in entries:
            try:
                person = self._read_person(entry, image_of, folder)
            except Unusable as reason:
                self.skipped[str(reason)] += 1
                continue
            usable.append(entry)
            if person.fault:
                self.skipped[person.fault] += 1
            else:
                people.append(person)
        entries[:] = usable
        return people

    def _read_person(self, entry, image_of, folder):
        """One entry of a file -> Person. Raises Unusable."""
        if not _has_types(entry, {"image_id": int}):
            raise Unusable("incomplete or senseless entry")
        image = image_of.get(entry["image_id"])
        if image is None:
            raise Unusable("picture not listed")

        # what must be there, for us or for the official evaluation
        for key, shape in self.person_keys.items():
            _numbers(entry, key, shape)

        # what is used; some of it is missing in some kinds of files
        count = len(self.skeleton.joints)
        box = _numbers(entry, "bbox", (4,), default=np.zeros(4))
        joints = np.zeros(3 * count)
        if "keypoints" in self.person_keys:
            joints = _numbers(entry, "keypoints", (3 * count,))
        person = Person(
            path=Path(folder, image["file_name"]),
            image_id=image["id"],
            entry_id=int(_numbers(entry, self.id_key, default=-1)),
            time=image.get("frame_id", 0),
            box=box,
            joints=joints.reshape(count, 3),
            area=float(_numbers(entry, "area", default=BOX_TO_AREA * box[2] * box[3])),
            score=float(_numbers(entry, "score", default=1.0)),
            fault="",
        )
        person.fault = self._fault(person, entry, image)
        return person

    def _fault(self, person, entry, image):
        """Why a person is not looked at, "" if he is. The last check is the slow one."""
        if entry.get("iscrowd"):
            return "crowd"
        if entry.get("category_id", 1) != 1:
            return "not a person"
        if not image.get("is_labeled", True):
            return "unlabelled frame"
        if not (person.box[2:] > 0).all():
            return "box without area"
        if "keypoints" in self.person_keys and not (person.joints[:, 2] > 0).any():
            return "no joints"
        if not os.path.isfile(person.path) or os.path.getsize(person.path) == 0:
            return "picture missing or empty"
        return ""


class CocoPeople(FileClips):
    """Everyone with joints in COCO 2017, as clips of one frame.

        root/annotations/person_keypoints_val2017.json      or train2017
            images:      {id, file_name} and more, one for each picture
            annotations: {id, image_id, bbox [x, y, w, h], keypoints [x, y, v, x, y, v, ...], area,
                          iscrowd, num_keypoints, category_id}, one for each person
        root/val2017/000000000785.jpg

    boxes: look at everyone whom a detector found instead: a JSON list of {image_id, category_id,
    bbox, score}. They have no joints.
    """

    skeleton = COCO
    image_keys = {"id": int, "file_name": str}
    person_keys = {"bbox": (4,), "keypoints": (51,), "area": (), "iscrowd": (), "num_keypoints": ()}
    id_key = "id"

    def __init__(self, root, split, size=(256, 192), boxes=None):
        self.skipped = Counter()
        folder = Path(root, f"{split}2017")
        path = Path(root, "annotations", f"person_keypoints_{split}2017.json")
        hint = "--root must be COCO 2017's folder, with annotations/, train2017/ and val2017/"
        self.annotations = self._read_page(path, hint)
        images = self.annotations["images"]

        # with detections too: it takes out what an evaluation could not use
        people = self._people(self.annotations["annotations"], images, folder)
        name = f"COCO {split}2017"
        if boxes:
            hint = "--boxes wants a JSON list of {image_id, category_id, bbox, score}"
            detections = _read_json(boxes, hint)
            if not isinstance(detections, list):
                raise UserError(f"{boxes} is no list: {hint}")
            self.person_keys = {"bbox": (4,), "score": (), "category_id": ()}
            people = self._people(detections, images, folder)
            name += ", detected boxes"
        super().__init__(name, size, [[person] for person in people], boxes or path)


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

        root/annotations/val/003418_mpii_test.json          or train: one file for each video
            images:      {id, frame_id, file_name, is_labeled}
            annotations: {image_id, track_id, bbox, bbox_head, keypoints}, a track is one person
        root/images/val/003418_mpii_test/000000.jpg         a file_name starts with "images"

    whole: parts of a track that are too short for a clip are left out. Otherwise they are filled up
    with their last frame, unlabelled and with the ids -1, so that an evaluation finds each labelled
    frame in exactly one clip. `sequences`: {name of the file: its images}.
    """

    skeleton = POSETRACK
    image_keys = {"id": int, "file_name": str, "frame_id": int}
    person_keys = {"track_id": (), "bbox_head": (4,), "keypoints": (51,)}
    id_key = "track_id"

    def __init__(self, root, split, frames=4, size=(256, 192), whole=True):
        self.skipped = Counter()
        self.sequences = {}
        self.annotations = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
        folder = Path(root, "annotations", split)
        hint = "--root must be a folder with PoseTrack18's annotations/ and images/"
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise UserError(f"there is no annotation file in {folder}: {hint}")

        # track ids are only different within one file
        clips = []
        for path in paths:
            page = self._read_page(path, hint)
            for track in self._tracks(page, root):
                clips += self._cut(track, frames, whole)
            self.sequences[path.name] = page["images"]
            self.annotations["images"] += page["images"]
            self.annotations["annotations"] += page["annotations"]
        super().__init__(f"PoseTrack18 {split}", size, clips, folder)

    def _tracks(self, page, root):
        """The people of one file, each through all frames: dicts {frame number: Person}."""
        tracks = {}
        for person in self._people(page["annotations"], page["images"], root):
            track = tracks.setdefault(person.entry_id, {})
            if person.time in track:
                self.skipped["track that is twice in a frame"] += 1
            else:
                track[person.time] = person
        return tracks.values()

    def _cut(self, track, frames, whole):
        """One track -> its clips of `frames` people, from the first frame on."""
        clips = []
        times = sorted(track)
        while times:
            # too short for a clip: the next may start one frame later
            count = _consecutive(times, frames)
            if count < frames and whole:
                self.skipped[f"frame without {frames - 1} labelled ones after it"] += 1
                times = times[1:]
                continue

            # a whole one, or filled up; no other clip has these frames
            clip = [track[number] for number in times[:count]]
            unlabelled = clip[-1].joints * [1, 1, 0]
            filler = replace(clip[-1], image_id=-1, entry_id=-1, joints=unlabelled)
            clips.append(clip + [filler] * (frames - count))
            times = times[count:]
        return clips


def open_clips(kind, root, split, frames, size, count=None, boxes=None):
    """At most `count` clips of `kind` "synthetic", "coco" or "posetrack"; prints who is left out.

    split: train; val, which a search looks at; test, which only a report looks at. The real data
    sets keep their test annotations to themselves: there it is val too, with every labelled frame
    of PoseTrack18. boxes: see CocoPeople.
    """
    if kind == "synthetic":
        return SyntheticClips(split, count, frames, size)

    # the annotated parts of the real data sets are train and val
    part = "val" if split == "test" else split
    if kind == "coco":
        clips = CocoPeople(root, part, size, boxes)
    else:
        clips = PoseTrackClips(root, part, frames, size, whole=split != "test")
    if clips.left_out:
        print(f"{clips.name}: left out {clips.left_out}")
    return clips.head(count) if count else clips


# ----------------------------------------------------------------------------------------- export
# With these files every command for real data can be tried without the data.


def export(kind, out, count, frames=8, size=(256, 192)):
    """Write drawn people in the layout of `kind`, "coco" or "posetrack", to try what reads those.

    `count` people (or sequences of `frames` frames) to train with, a quarter as many to validate.
    """
    for split, number in (("train", count), ("val", max(1, count // 4))):
        clips = SyntheticClips(split, number, 1 if kind == "coco" else frames, size)
        if kind == "coco":
            _export_coco(clips, Path(out), split)
        else:
            for index in range(number):
                _export_sequence(clips, index, Path(out), split)


def _export_coco(clips, out, split):
    """Pictures and annotations; to validate also detections: the boxes, moved a little, twice."""
    page = {"images": [], "annotations": [], "categories": [COCO.category]}
    detections = []
    rng = random.Random(0)
    for index in range(len(clips)):
        number = index + 1
        name = f"{number:012d}.jpg"
        save_image(Image.fromarray(clips.images[index, 0]), out / f"{split}2017" / name)
        height, width = clips.size
        image = {"id": number, "file_name": name, "height": height, "width": width}
        person = _annotation(number, clips.boxes[index, 0], clips.joints[index, 0])
        person["area"] = float(clips.areas[index, 0])
        page["images"].append(image)
        page["annotations"].append(person)
        for _ in range(2):
            box = [value + rng.gauss(0, width / 50) for value in clips.boxes[index, 0]]
            found = {"image_id": number, "category_id": 1, "bbox": box, "score": rng.random()}
            detections.append(found)
    write_json(page, out / "annotations" / f"person_keypoints_{split}2017.json")
    if split == "val":
        write_json(detections, out / "annotations" / "person_detections_val2017.json")


def _export_sequence(clips, index, out, split):
    """One clip as a sequence of PoseTrack18 with one track."""
    video = f"{split}/{index:06d}_drawn"
    page = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
    for t in range(clips.frames):
        number = (10**6 + index) * 10**4 + t
        name = f"images/{video}/{t:06d}.jpg"
        save_image(Image.fromarray(clips.images[index, t]), out / name)
        image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
        image["vid_id"] = f"{index:06d}"
        joints, head = _as_posetrack(clips.joints[index, t])
        person = _annotation(number, clips.boxes[index, t], joints)
        person["track_id"] = 0
        person["bbox_head"] = head
        page["images"].append(image)
        page["annotations"].append(person)
    write_json(page, out / "annotations" / f"{video}.json")


def _annotation(number, box, joints):
    """What both layouts say of the person in picture `number`; (0, 0, 0) for a missing joint."""
    annotated = joints[:, 2:] > 0  # (K, 1)
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box.tolist(),
        "num_keypoints": int(annotated.sum()),
        "keypoints": (joints * annotated).ravel().tolist(),
    }


def _as_posetrack(joints):
    """COCO joints (17, 3) -> PoseTrack's, and the box [x, y, w, h] of the head."""
    # PoseTrack wants the neck and the top of the head, which the drawn person has not
    ears = joints[3:5, :2].mean(axis=0)
    neck = joints[5:7, :2].mean(axis=0)
    top = neck + 1.55 * (ears - neck)
    radius = np.linalg.norm(top - ears)
    visibility = joints[3:7, 2].min()

    # joints 3 and 4, the ears, are never annotated, and it is not told which ones are hidden
    joints = joints.copy()
    joints[1] = [*neck, visibility]
    joints[2] = [*top, visibility]
    joints[3:5] = 0
    joints[:, 2] = joints[:, 2] > 0
    return joints, [*(ears - radius), 2 * radius, 2 * radius]


# ---------------------------------------------------------------------------------- drawing, main
# colours of joints and limbs; those between left and right are yellow
LEFT = (60, 230, 90)
RIGHT = (255, 70, 60)
MIDDLE = (255, 220, 60)


def _side_colour(*joints):
    """The colour of a joint, or of the limb between two, by their names."""
    sides = set()
    for joint in joints:
        if "left" in joint:
            sides.add(LEFT)
        elif "right" in joint:
            sides.add(RIGHT)
    return sides.pop() if len(sides) == 1 else MIDDLE


def draw_pose(image, keypoints, skeleton, threshold=0.2, colour=None):
    """A copy of a PIL image with a pose on it: joints and limbs, the left green, the right red.

    keypoints (K, 3): x, y in its pixels, and visibility or score; what is not above `threshold` is
    not drawn, nor what is not finite. colour: of all limbs, to tell several people apart.
    """
    # lines are as thick as can be seen in a picture of this size
    image = as_picture(image).copy()
    draw = ImageDraw.Draw(image)
    line = 1 + max(image.size) // 250
    keypoints = np.asarray(keypoints, dtype=float)
    shown = np.isfinite(keypoints).all(axis=1) & (keypoints[:, 2] > threshold)
    points = keypoints[:, :2] + 0.5  # Pillow counts from the corner of a pixel

    # limbs first, the joints lie over them
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
    """Lists of PIL images -> one image with a row for each list, all cells as large as needed."""
    images = list(itertools.chain.from_iterable(rows))
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    page = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            page.paste(image, (c * width, r * height))
    return page


def save_image(image, path):
    """Write a PIL image, or a list of them as a GIF that repeats, whole or not at all.

    Raises UserError: the name does not end like a picture's, or it cannot be written.
    """
    path = Path(path)
    frames = image if isinstance(image, list) else [image]
    # the temporary file of `whole_file` has another ending, so the format is told
    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None or (len(frames) > 1 and form != "GIF"):
        endings = ".gif" if len(frames) > 1 else ".png, .jpg or .gif"
        raise UserError(f"{path} cannot be written: its name must end in {endings}")
    options = {"quality": 95}
    if len(frames) > 1:
        options = {"save_all": True, "append_images": frames[1:], "duration": 200, "loop": 0}
    with whole_file(path) as file:
        frames[0].save(file, format=form, **options)


def main():
    """Draw a few clips of synthetic people; or export a data set of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", help="picture to write (people.png), or folder to export to")
    parser.add_argument("--export", choices=("coco", "posetrack"), help="layout of the data set")
    parser.add_argument("--clips", type=int, default=200, help="people or sequences to export")
    options = parser.parse_args()
    # python data.py --export
    if options.export:
        if not options.out:
            raise UserError("--export needs --out DIR, the folder to write the data set to")
        export(options.export, options.out, options.clips)
        print(f"{options.out}: drawn people in the layout of {options.export}")
        return

    # python data.py: how fast they are drawn, and what they look like
    start = time.perf_counter()
    clips = SyntheticClips("train", 12, workers=1)
    speed = len(clips) * clips.frames / (time.perf_counter() - start)
    twice = np.array([[2, 0, 0.5], [0, 2, 0.5]])  # pixel 0 becomes the pixels 0 and 1
    rows = []
    for index in range(len(clips)):
        row = []
        for pixels in clips.images[index]:
            image = Image.fromarray(pixels)
            row.append(image.resize((2 * image.width, 2 * image.height)))
        for t in (0, -1):
            row.append(draw_pose(row[t], transform(clips.joints[index, t], twice), COCO))
        rows.append(row)
    rows = [left + right for left, right in zip(rows[::2], rows[1::2], strict=True)]
    out = options.out or "people.png"
    save_image(sheet(rows), out)
    print(f"{out}: {len(clips)} clips of {clips.frames} frames; then the first and the last pose")
    print(f"drawn on one core: {speed:.0f} frames/s of {clips.size[0]}x{clips.size[1]} pixels")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"data: {error}")
