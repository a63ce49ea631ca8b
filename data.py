"""People: from files to crops and heatmaps, and from heatmaps back to joints (Sec. 4.1).

This is the last chapter. To understand the method, it is enough to know that data are *clips of
people with joints*. A clip is F consecutive frames of one person; a COCO person is a clip of one
frame. In every frame the person is seen through a window of its own, their box made larger:

    picture ---- crop_matrix, crop ---> crop (3, H, W) --- network ---> heatmaps (K, H/4, W/4)
       ^                                    |                                   |
       |                       targets: heatmaps to learn from                decode
       |                                                                        |
       '------- joints in the picture <--- transform(..., invert(matrix)) <-----'

Coordinates: the centre of a pixel has whole numbers, x to the right, y down.

    clips = SyntheticClips("train", 1000)      # or CocoPeople(root, ...), PoseTrackClips(root, ...)
    batch = clips.batch([0, 1, 2])             # images, matrices, joints

The synthetic people are ours, not the paper's: with them no stage needs a download.

    python data.py                             # a few synthetic clips in people.png
    python data.py --export coco --out DIR     # synthetic people in the layout of COCO
"""

import argparse
import collections
import colorsys
import contextlib
import copy
import functools
import itertools
import json
import math
import multiprocessing.util
import operator
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from torch.utils.data import DataLoader, default_collate

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


class UserError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to do."""


# ------------------------------------------------------------------- people in pictures: skeletons
# Left (group 1) and right in the names of joints: words, or l and r where a word begins or ends, as
# in L_Eye, rsho, elbowL, leg_fl. They count only where another joint has the opposite instead.
SIDE = re.compile(
    r"""(left|lft|links|linke|izquierd|izq|gauche|sinistr|sinister|sin|sx|esquerd|esq|lew|lev|лев
        |near|左|왼|(?<![^\W\d_])l|l(?![^\W\d_]))
    |right|rgt|rechts|rechte|derech|der|droite?|destr|dextr|dexter|dex|dx|direit|dir|praw|prav|прав
        |off|右|오른|(?<![^\W\d_])r|r(?![^\W\d_])""",
    re.VERBOSE,
)
SURE_SIDE = re.compile("left|right|links|rechts|izquierd|derech|gauche|droit|左|右")
# ours: these stay where they are when a person is mirrored; near and far are as the camera sees it
MIDDLE_NAME = re.compile(
    "nose|snout|face|mouth|chin|jaw|beak|head|neck|nape|throat|thor|thrx|chest|breast|spin|back"
    "|waist|belly|abdom|pelv|rump|tail|root|trunk|torso|body|cent|mid|top|bottom|near|far"
)
CHAIN_NAME = re.compile("neck|spin|back|trunk|tail")
SERIAL = re.compile(r"\d+|(?<![^\W\d_])[^\W\d_](?![^\W\d_])")  # 12, or a letter that stands alone


@functools.cache
def named_sides(joints):
    """The pairs (left, right) of joint numbers that the names tell."""
    # < and > for left and right: rsho -> >sho, frontLPaw -> front_<_paw, rear_left -> >ear_<
    marked = {}
    for k, joint in enumerate(joints):
        name = re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", joint).lower()
        marked[SIDE.sub(lambda side: "<" if side[1] else ">", name)] = k

    # a partner has the opposite of all marks, or of one
    pairs = {}
    for name, left in marked.items():
        candidates = [name.translate({60: ">", 62: "<"})]
        for place in [i for i, letter in enumerate(name) if letter == "<"]:
            candidates.append(name[:place] + ">" + name[place + 1 :])
        right = [marked[other] for other in candidates if other in marked]
        if "<" in name and right and not {left, right[0]} & {*pairs, *pairs.values()}:
            pairs[left] = right[0]
    return tuple(pairs.items())


@dataclass(frozen=True)
class Skeleton:
    """K joints. Those of the two data sets are below; other files bring their own."""

    name: str
    joints: tuple
    limbs: tuple  # pairs of joint numbers, to draw
    sigmas: tuple  # for OKS: how far apart people place a joint, relative to the person's size
    pairs: tuple | None = None  # (left, right) joint numbers; None: the names tell them

    @property
    def sides(self):
        """The pairs (left, right) of joint numbers."""
        return named_sides(self.joints) if self.pairs is None else self.pairs

    @property
    def flip(self):
        """Joint k of a mirrored person is joint flip[k] of the person: left and right change."""
        partners = list(range(len(self.joints)))
        for left, right in self.sides:
            partners[left] = right
            partners[right] = left
        return tuple(partners)

    @property
    def mirrors(self):
        """May people be mirrored? Not where it is unknown which joints would change places."""
        if self.pairs:
            return True
        paired = {*itertools.chain.from_iterable(self.sides)}
        alone = [joint.lower() for k, joint in enumerate(self.joints) if k not in paired]
        if any(SURE_SIDE.search(joint) for joint in alone):
            return False
        # joints that differ in a number or a letter alone may well be sides, but not tail1, tail2
        kinds = [SERIAL.sub("", joint) for joint in alone if not CHAIN_NAME.search(joint)]
        if len(kinds) > len({*kinds}):
            return False
        # ours: beside pairs, all others are in the middle, too
        in_the_middle = all(MIDDLE_NAME.search(joint) for joint in alone)
        return bool(paired) or in_the_middle or len(self.joints) == 1

    @property
    def category(self):
        """The entry under "categories" in the files of a data set, where limbs count from 1."""
        limbs = [[a + 1, b + 1] for a, b in self.limbs]
        entry = {"id": 1, "name": "person", "keypoints": list(self.joints), "skeleton": limbs}
        named = replace(self, pairs=None)
        if self.pairs and (named.flip, named.mirrors) != (self.flip, True):
            entry["flip_pairs"] = [[self.joints[a], self.joints[b]] for a, b in self.pairs]
        return entry


# Joints 3 to 16 are the same in both data sets: of each part the left one, then the right one.
PARTS = ("ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
BODY_JOINTS = [f"{side}_{part}" for part, side in itertools.product(PARTS, ("left", "right"))]
BODY_SIGMAS = np.repeat([0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist()
ARMS = ((5, 6), (5, 7), (7, 9), (6, 8), (8, 10))
TRUNK = ((5, 11), (6, 12), (11, 12))
LEGS = ((11, 13), (13, 15), (12, 14), (14, 16))

# the sigmas are those of the official COCO evaluation
COCO = Skeleton(
    name="COCO",
    joints=("nose", "left_eye", "right_eye", *BODY_JOINTS),
    limbs=((0, 1), (0, 2), (1, 3), (2, 4), *ARMS, *TRUNK, *LEGS),
    sigmas=(0.026, 0.025, 0.025, *BODY_SIGMAS),
)

# PoseTrack18 has the neck (head_bottom) and the top of the head in place of the eyes, and the ears
# are never annotated. ours: it comes without sigmas; the neck has a shoulder's, head_top an ear's.
POSETRACK = Skeleton(
    name="PoseTrack18",
    joints=("nose", "head_bottom", "head_top", *BODY_JOINTS),
    limbs=((0, 1), (0, 2), (1, 5), (1, 6), *ARMS, *TRUNK, *LEGS),
    sigmas=(0.026, 0.079, 0.035, *BODY_SIGMAS),
)

UNKNOWN_SIGMA = 0.05  # ours: of a joint that COCO does not have


def skeleton_from(category):
    """A file's `category` with K named joints -> (skeleton, order).

    The file's joint order[k] is joint k of the skeleton. COCO's and PoseTrack18's joints are those
    skeletons, in whatever order a file has them. Others are a skeleton of their own; limbs, sigmas
    and pairs of left and right joints that are invalid are left out.
    """
    names = list(category["keypoints"])
    for skeleton in (COCO, POSETRACK):
        if sorted(names) == sorted(skeleton.joints):
            return skeleton, [names.index(joint) for joint in skeleton.joints]

    limbs = []
    pairs = category.get("skeleton")
    for pair in pairs if isinstance(pairs, list) else []:
        ends = as_numbers(pair, (2,))  # joint numbers, from 1
        if ends is not None and len({*ends} & {*range(1, len(names) + 1)}) == 2:
            limbs.append((int(ends[0]) - 1, int(ends[1]) - 1))

    sigmas = as_numbers(category.get("sigmas"), (len(names),))
    if sigmas is None or sigmas.min() <= 0:
        known = dict(zip(COCO.joints, COCO.sigmas, strict=True))
        sigmas = np.array([known.get(joint, UNKNOWN_SIGMA) for joint in names])
        unknown = ", ".join([joint for joint in names if joint not in known])
        if unknown:
            text = f'without "sigmas", OKS takes {UNKNOWN_SIGMA} for {unknown:.300}'
            say_once(f"{category['name']}: {text}")
    sides = given_sides(category)
    skeleton = Skeleton(category["name"], tuple(names), tuple(limbs), tuple(sigmas.tolist()), sides)
    if not skeleton.mirrors:
        text = f"nothing tells which of {', '.join(names):.300} change places in a mirror"
        remedy = 'give "flip_pairs": [["paw_a", "paw_b"], ...] in the category'
        say_once(f"{category['name']}: {text}, so no crop is mirrored; {remedy}")
    return skeleton, list(range(len(names)))


def given_sides(category):
    """The pairs (left, right) of joint numbers that a file's category gives; None: it gives none.

    "flip_pairs" lists pairs. The others have the partner of each joint: "flip_idx" (YOLO) as a
    number, [0, 2, 1]; "swap" (mmpose) as a name, ["", "b", "a"] or {"a": "b"}.
    """
    for key in ("flip_pairs", "flip_idx", "swap"):
        try:
            pairs = category.get(key) and _as_sides(category[key], tuple(category["keypoints"]))
        except (TypeError, ValueError):
            say_once(f'{category["name"]}: "{key}" is left out, it does not tell pairs of joints')
            continue
        # ours: a list without any pair says nothing, as tools write [] and [0, 1, 2, ...] unasked
        if pairs:
            return pairs
    return None


def _as_sides(value, names):
    """One of the lists of `given_sides` -> its pairs; ValueError or TypeError if it is invalid."""
    if isinstance(value, dict):
        value = [[*pair] for pair in value.items()]
    # joints as names, as numbers from 0 or from 1: where the names tell more of the pairs
    readings = []
    for joints in (names, range(len(names)), range(1, len(names) + 1)):
        number = {str(joint): k for k, joint in enumerate(joints)}
        pairs = value if isinstance(value[0], list) else zip(joints, value, strict=True)
        pairs = [(str(a), str(b)) for a, b in pairs if b not in ("", None)]
        if {*itertools.chain.from_iterable(pairs)} <= {*number}:
            readings.append([(number[a], number[b]) for a, b in pairs])
    named = {frozenset(pair): pair for pair in named_sides(names)}
    pairs = max(readings, key=lambda pairs: len(named.keys() & map(frozenset, pairs)))

    # the left one first, if the names tell; a pair may be listed both ways
    sides = {}
    for pair in pairs:
        sides.setdefault(frozenset(pair), named.get(frozenset(pair), pair))
    everyone = list(itertools.chain.from_iterable(sides))
    if len(everyone) > len({*everyone}):
        raise ValueError
    return tuple(pair for ends, pair in sides.items() if len(ends) == 2)


# ------------------------------------------------------------ people in pictures: windows and crops
# These numbers are saved with every finished network (`about`): it must be used with the crops that
# it was trained with.
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0 .. 1
STD = (0.229, 0.224, 0.225)
PADDING = 1.25  # a window is so much larger than the box, as in SBL and HRNet
BOX_TO_AREA = 0.53  # usual for COCO: the person's fraction of the box, where no outline was drawn

# `cell`, here and in the other modules, is the crop pixel at the centre of a heatmap's cell 0. With
# CELL, cell i lies over the pixels 4i .. 4i + 3, and its centre is the true one, 4i + 1.5. SBL,
# HRNet and the two released networks were trained in SBL_CELL: cell i is at pixel 4i, and their
# windows lie up to half a pixel beside ours (`crop_matrix`).
CELL = 1.5
SBL_CELL = 0.0


def normalise(images):
    """uint8 images (..., 3, H, W) -> float32 of the same shape, ImageNet's mean 0, deviation 1."""
    both = 255 * torch.tensor([MEAN, STD], device=images.device)
    mean, std = both.view(2, 3, 1, 1)
    return (images.float() - mean) / std


def window(box, size, padding=PADDING):
    """A box (x, y, w, h) made larger about its centre: to the shape of `size` (H, W), then padded.

    So the person is neither stretched nor cut off, and some of their surroundings is seen. Returns
    (4,): x, y, w, h. Raises UserError if the box has no area or is not finite.
    """
    x, y, w, h = (float(value) for value in box)
    if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
        raise UserError(f"the box {x:g},{y:g},{w:g},{h:g} has no area: give sides above 0")
    aspect = size[1] / size[0]
    width = max(w, h * aspect) * padding
    height = width / aspect
    left = x + (w - width) / 2
    top = y + (h - height) / 2
    return np.array([left, top, width, height])


class Augmentation(NamedTuple):
    """How a clip differs from the plain one; the same on all its frames (Sec. 4.1)."""

    rotation: float = 0.0  # degrees, clockwise on the screen
    scale: float = 1.0  # above 1 the person gets larger
    flip: bool = False  # mirrored; left and right joints change places
    later: int = 0  # ours: frames; the clip begins so much later


PLAIN = Augmentation()


def draw_augmentation(rng, rotation, scale, mirrors=True, spare=0):
    """A random one: +-rotation degrees, 1 +- scale, half of them mirrored (if `mirrors`), and up to
    `spare` frames later. rng: random.Random.
    """
    turn = rng.uniform(-rotation, rotation)
    zoom = rng.uniform(1 - scale, 1 + scale)
    flip = rng.random() < 0.5 and mirrors
    return Augmentation(turn, zoom, flip, later=rng.randint(0, spare))


def crop_matrix(box, size, augmentation=PLAIN, cell=CELL):
    """Image pixels -> pixels of the crop that shows the window of `box`: (2, 3) float64.

    A point p goes to matrix[:, :2] @ p + matrix[:, 2]. The matrix makes a crop (`crop`), takes
    joints into it (`transform`), and predicted joints back into the image (`invert`).
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

    # the middle of the window goes to the middle of the crop; -.5: pixel 0 reaches from -.5 to .5.
    # SBL, and so mmpose, subtract nothing: for them the middle of 192 pixels is pixel 96
    half = 0.5 if cell == CELL else 0.0
    source = np.array([x + width / 2, y + height / 2]) - half
    target = np.array([size[1] / 2, size[0] / 2]) - half
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
    points = np.asarray(points, dtype=np.float64)
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = matrix[..., :2]  # (..., 2, 2)
    shift = matrix[..., None, :, 2]  # (..., 1, 2)
    moved = points[..., :2] @ linear.swapaxes(-1, -2) + shift
    return np.concatenate([moved, points[..., 2:]], axis=-1)


@contextlib.contextmanager
def open_picture(path):
    """An opened picture file, not yet decoded. UserError if it is none, or damaged (in the `with`).

    A turn noted in EXIF is not applied: annotations are for the pixels as stored.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        raise UserError(f"{path} is missing, damaged or no picture: fetch it again") from None


def as_picture(frame):
    """The path of a picture, a PIL image of any mode, or an array -> an RGB PIL image.

    An array is (H, W) or (H, W, 1, 3 or 4), uint8 or uint16; of 16 bits the upper 8 are taken. Its
    colours are RGB: OpenCV's are BGR, so hand over `frame[:, :, ::-1]`. The picture of a path is
    turned as its EXIF says, an image is not (`ImageOps.exif_transpose` does). Else UserError.
    """
    if isinstance(frame, (str, os.PathLike)):
        with open_picture(frame) as image:
            return as_picture(ImageOps.exif_transpose(image))  # turned as people see it
    array = frame
    if isinstance(frame, Image.Image):
        if not frame.mode.startswith("I"):
            return frame if frame.mode == "RGB" else frame.convert("RGB")
        # grey of 16 bits, which Pillow would cut off at 255
        array = np.asarray(frame).clip(0, 65535).astype(np.uint16)
    is_array = isinstance(array, np.ndarray) and array.ndim > 1 and array.size > 0
    has_shape = is_array and array.shape[2:] in ((), (1,), (3,), (4,))
    if not (has_shape and array.dtype.kind == "u" and array.dtype.itemsize <= 2):
        found = f"{type(frame).__name__} {getattr(frame, 'shape', '')}".strip()
        wanted = "a path, a Pillow image, or an array (H, W, 3) of uint8"
        raise UserError(f"{found} is no frame: hand over {wanted}")
    if array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    if array.shape[2:] == (1,):
        array = array[:, :, 0]
    return Image.fromarray(array).convert("RGB")


def crop(image, matrix, size, labelled=None):
    """Warp a PIL image by `matrix` (image -> crop pixels): RGB uint8 (3, H, W), black outside it.

    Bilinear, after averaging blocks of pixels where the crop is less than half as large as the
    person. A JPEG file that is opened but not loaded averages while it decodes, which is faster.
    labelled: (width, height) for which `matrix` is made; None: those of the image.
    """
    back = invert(matrix)  # crop pixels -> image pixels
    if labelled not in (None, image.size):
        ratio = np.divide(image.size, labelled)[:, None]
        back[:, 2] += 0.5  # a picture is resized from the corner of its first pixel
        back = back * ratio
        back[:, 2] -= 0.5

    # how many image pixels a crop pixel covers along each side: blocks of so many are averaged
    width, height = image.size
    shrink = int(math.sqrt(abs(np.linalg.det(back[:, :2]))))
    shrink = max(1, min(shrink, width, height))
    # a JPEG file says what it will decode to: (mode, (0, 0, width, height)); others say nothing
    draft = image.draft(None, (width // shrink, height // shrink))
    decoded = round(width / draft[1][2]) if draft else 1
    image = as_picture(image)
    block = shrink // decoded
    if block > 1:
        image = image.reduce(block)

    # Pillow counts from the corner of a pixel, we from its centre
    back[:, 2] += 0.5 - back[:, :2].sum(axis=1) / 2
    back = back / (decoded * block)
    back = tuple(back.round(9).flat)  # rounded, so that an identity changes nothing
    shape = (size[1], size[0])
    pixels = image.transform(shape, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


# --------------------------------------------------------------- heatmaps: targets, decoding, flips
# A network gives a heatmap for each joint: in every cell, how likely the joint is there. A good one
# is a Gaussian; `decode` finds where its peak lies between the cells.


def _gaussian(centre, length, sigma):
    """A Gaussian of height 1 around `centre` (..., K), at the cells 0 .. length - 1."""
    cells = torch.arange(length, device=centre.device)
    distance = (cells - centre[..., None]) / sigma  # (..., K, length)
    return torch.exp(-(distance**2) / 2)


def targets(joints, size, cell=CELL):
    """Joints in crop pixels -> the heatmaps that a network should predict, as SBL encodes them.

    joints (..., K, 3): x, y and visibility, above 0 where annotated; size: (H, W) of the crop.
    Returns heatmaps (..., K, H/4, W/4), 1 at a joint's exact place, and weights (..., K): 0 for
    joints that are not annotated or lie outside the crop, 1 for all others.
    """
    height, width = size[0] // 4, size[1] // 4
    sigma = 1 + height / 64  # in cells: 2 for 64x48 as in SBL, 1.5 for 32x24

    # crop pixels -> heatmap cells
    x = (joints[..., 0] - cell) / 4  # (..., K)
    y = (joints[..., 1] - cell) / 4
    inside_x = (x >= -0.5) & (x < width - 0.5)
    inside_y = (y >= -0.5) & (y < height - 0.5)
    labelled = joints[..., 2] > 0
    weights = (inside_x & inside_y & labelled).to(joints.dtype)

    # exp(-((i - x)^2 + (j - y)^2) / 2 sigma^2) in the cell at column i and row j: a Gaussian in two
    # dimensions is the product of one along each axis
    along_x = _gaussian(x, width, sigma)  # (..., K, W/4)
    along_y = _gaussian(y, height, sigma)  # (..., K, H/4)
    heatmaps = along_y[..., :, None] * along_x[..., None, :]  # (..., K, H/4, W/4)
    return heatmaps * weights[..., None, None], weights


def _offset(line, peak, quarter):
    """How far beside the cell `peak` (...) a line (..., n) has its peak: -.5 .. .5 cells."""
    last = line.shape[-1] - 1
    cells = torch.stack([peak - 1, peak, peak + 1], dim=-1).clamp(0, last)  # (..., 3)
    before, highest, after = line.take_along_dim(cells, -1).unbind(-1)
    if quarter:
        offset = (after - before).sign() / 4
        first = 1  # SBL moves nothing at the border, nor in cell 1
    else:
        # The parabola through the values at -1, 0 and 1 has its peak where the curvature has used
        # up the slope at 0, (after - before) / 2. A flat line has no peak, and a peak more than
        # half a cell away would be nearer to another cell
        curvature = 2 * highest - before - after
        offset = (after - before) / (2 * curvature.clamp_min(1e-6))
        offset = torch.where(curvature > 1e-6, offset, 0).clamp(-0.5, 0.5)
        first = 0
    return offset.masked_fill((peak <= first) | (peak == last), 0)


def decode(heatmaps, quarter=False, cell=CELL):
    """Heatmaps (..., K, h, w) -> keypoints (..., K, 3): x, y in crop pixels, and score.

    The score is the value of the highest cell. The joint lies up to half a cell beside it, at the
    peak of the parabola through the *logarithms* of that cell and its neighbours: for a Gaussian
    this is its exact centre. quarter: instead a quarter of a cell towards the higher neighbour, the
    habit of the field (about 2 AP less on synthetic people).
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
        "sigmas": list(skeleton.sigmas),
    }


def skeleton_of(about):
    """The skeleton that a network was trained for, from the `about` that was saved with it."""
    limbs = tuple(map(tuple, about["limbs"]))
    sigmas = about.get("sigmas", [])  # older files have none
    skeleton = Skeleton("of a network", tuple(about["joints"]), limbs, tuple(sigmas))
    if list(skeleton.flip) == about["flip"]:
        return skeleton
    pairs = [(k, partner) for k, partner in enumerate(about["flip"]) if k < partner]
    return replace(skeleton, pairs=tuple(pairs))


# ----------------------------------------------------------------------------------- clips, batches
class Batch(NamedTuple):
    """B clips of F frames. `normalise` and `targets` are left to the device they are used on."""

    images: torch.Tensor  # (B, F, 3, H, W) uint8 RGB
    matrices: torch.Tensor  # (B, F, 2, 3) float64, image pixels -> crop pixels of each frame
    joints: torch.Tensor  # (B, F, K, 3) float32: x, y in crop pixels, visibility


class Clips:
    """N clips of F frames of one person each.

    Every frame has its own box, and so its own window, as in the estimator, which is online.

    name      for people to read
    skeleton  the K joints
    size      (H, W) of the crops, multiples of 4
    cell      of the heatmaps that these clips are used with, see CELL
    frames    F
    boxes     array (N, F, 4): x, y, w, h of the person in each frame, image pixels
    joints    array (N, F, K, 3): x, y in image pixels; 0 not annotated, 1 hidden, 2 visible
    areas     array (N, F): of the person, in square image pixels, for OKS
    spare     array (N,): how many frames later a clip may begin. The arrays above have columns for
              these frames, too, behind the F of the clip
    workers   processes that read the pictures ahead; None: see `batch_loader`

    Subclasses add `open_image(index, t)`, a context manager: frame t of a clip as a PIL image. All
    their arrays have an entry for each clip.
    """

    has_official_numbers = False  # those of COCO or PoseTrack
    labelled_by = None  # people; or the network that made the labels
    labelled = None  # the sizes of the pictures when they were labelled; None: as they are

    def __init__(self, name, size, boxes, joints, areas, cell=CELL, workers=None, frames=None):
        if min(size) < 4 or size[0] % 4 or size[1] % 4:
            raise UserError(f"crops of {size[0]}x{size[1]} pixels do not work: use multiples of 4")
        self.name = name
        self.size = tuple(size)
        self.cell = cell
        self.frames = frames or joints.shape[1]
        self.boxes = boxes
        self.joints = joints
        self.areas = areas
        self.workers = workers
        # a frame that only fills up has no labels
        self.spare = np.maximum(0, self._is_labelled().sum(axis=1) - self.frames)

    def __len__(self):
        return len(self.boxes)

    def _is_labelled(self):
        """Which frames have labels, bool (N, F and more)."""
        return (self.joints[..., 2] > 0).any(axis=-1)

    def frame_counts(self):
        """How many clips have a first labelled frame, a second, ...: (F,)."""
        return self._is_labelled()[:, : self.frames].sum(axis=0)

    def head(self, count):
        """The first `count` clips; they share the memory of these."""
        clips = copy.copy(self)
        for field, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(clips, field, value[:count])
        return clips

    def _crop(self, index, t, matrix):
        """Frame t through its matrix, uint8 (3, H, W); None, and a message, if it is unreadable."""
        labelled = None if self.labelled is None else tuple(self.labelled[index, t])
        try:
            with self.open_image(index, t) as image:
                return crop(image, matrix, self.size, labelled)
        except UserError as error:
            say_once(f"{self.name}: {error}")
            return None

    def _frame(self, index, t, augmentation):
        """Frame t of a clip, in its own window: a Batch without its first two dimensions."""
        matrix = crop_matrix(self.boxes[index, t], self.size, augmentation, self.cell)
        joints = transform(self.joints[index, t], matrix)  # (K, 3)
        if augmentation.flip:
            joints = joints[list(self.skeleton.flip)]
        image = self._crop(index, t, matrix)
        if image is None:  # a black one, of which nothing is learnt
            image = torch.zeros(3, *self.size, dtype=torch.uint8)
            joints[:, 2] = 0
        return Batch(image, torch.from_numpy(matrix), torch.from_numpy(joints).float())

    def batch(self, indices, augmentations=None):
        """The clips `indices` as a Batch. augmentations: one for each clip; None: plain crops.

        A picture that cannot be read is black and has no joints.
        """
        frames = []  # of the first clip, then of the second ...
        augmentations = augmentations or [PLAIN] * len(indices)
        for index, augmentation in zip(indices, augmentations, strict=True):
            for t in range(self.frames):
                frames.append(self._frame(int(index), t + augmentation.later, augmentation))
        stacked = default_collate(frames)  # images, matrices and joints: (B * F, ...) each
        return Batch(*[tensor.unflatten(0, (-1, self.frames)) for tensor in stacked])


def _as_arrays(batch):
    """What loader processes hand over. Tensors would go through /dev/shm, which can be tiny."""
    return [tensor.numpy() for tensor in batch]


def batch_loader(dataset, items, clips, device):
    """Yields dataset[i], a batch, for each i of `items`: a tuple of tensors.

    Where the clips are read from files, worker processes make the batches ahead: as many as the
    clips say, else one for each processor, at most 8.
    """
    workers = clips.workers
    if workers is None:
        # the processes that torchrun starts on a machine share its processors
        workers = max(1, min(8, cores() // launcher_number("LOCAL_WORLD_SIZE", least=1)))
    if isinstance(clips, SyntheticClips):
        workers = 0
    loader = DataLoader(
        dataset,
        sampler=items,
        batch_size=None,  # an item is a batch
        num_workers=workers,
        collate_fn=_as_arrays,
        worker_init_fn=replace_unprintable,  # a worker prints which pictures are damaged
    )
    for arrays in loader:
        tensors = [torch.from_numpy(array) for array in arrays]
        if device.type == "cuda":  # so that they are copied to the GPU while it computes
            tensors = [tensor.pin_memory() for tensor in tensors]
        yield tensors


# ------------------------------------------------------------------------ synthetic people: figures
# A body is a tree of points, about 1 unit high: x to the right of the picture, y down, z away from
# the viewer. People who face the viewer have the left hand at positive x. The table has the left
# side alone; the right one is its mirror image.
#
# A point lies at x, y, z from its parent. Something is painted there, in the colour named `paint`:
# with two radii a limb from the parent to the point, with one a disc about the point. It is painted
# as if it were farther away by `behind`, so that an arm at rest comes before the trunk.
X, Y, Z = range(3)
POINTS = """
    name           parent             x       y       z  paint     radii        behind
    pelvis         ground             0       0       0  trousers  0.04          0.02
    waist          pelvis             0   -0.06       0  shirt     0.04,0.08     0.03
    chest          waist              0   -0.13       0  shirt     0.08,0.1      0.03
    neck           chest              0    -0.1       0  shirt     0.1,0.045     0.03
    sternum        neck               0    0.14   -0.09  collar    0.036,0.006   0
    spine          neck               0    0.16    0.09  black     0.005,0.005   0
    throat         neck               0   -0.09       0  shadow    0.032,0.03    0.03
    skull          neck               0  -0.121       0  hair      0.07          0
    face           skull              0   0.014  -0.027  skin      0.057         0
    chin           skull              0    0.04  -0.032  skin      0.05,0.042    0
    nose           skull              0   0.015   -0.08  shadow    0.01          0
    left_lip       skull          0.005   0.043   -0.07  lips      0.006         0
    left_eye       skull          0.025  -0.004  -0.064  white     0.015         0
    left_pupil     left_eye           0       0  -0.003  black     0.009         0
    left_ear       skull          0.067    0.01  -0.003  shadow    0.016        -0.01
    left_shoulder  neck           0.112    0.02       0  shirt     0.045,0.036   0.02
    left_elbow     left_shoulder      0   0.165       0  sleeve    0.033,0.026   0
    left_wrist     left_elbow         0   0.145       0  cuff      0.025,0.018   0
    left_hand      left_wrist         0   0.045       0  skin      0.018,0.021   0
    left_hip       pelvis         0.058       0       0  trousers  0.035,0.05    0.01
    left_knee      left_hip           0    0.24       0  trousers  0.05,0.036    0.01
    left_ankle     left_knee          0   0.235       0  leg       0.035,0.022   0.01
    left_toe       left_ankle     0.022   0.032  -0.085  shoes     0.026,0.018   0
"""
# An angle, in degrees, by which all that hangs on a point is turned about an axis: its mean and its
# spread among people, and how far the joint goes.
TURNS = """
    point          axis  mean  spread  lowest  highest
    pelvis         Z        0       5     -30       30  (as if the camera were tilted)
    pelvis         Y        0      30     -90       90  (yaw)
    waist          X        5       8     -12       35  (lean to the front)
    waist          Y        0      10     -35       35
    waist          Z        0       7     -20       20
    skull          Y        0      20     -65       65  (look aside)
    skull          X        5      10     -25       35  (nod)
    left_shoulder  Z      -18      17    -130       -3  (arm aside)
    left_shoulder  X      -15      24    -140       40  (arm to the front)
    left_shoulder  Y       20      18     -50       80  (arm about itself)
    left_elbow     X      -35      25    -140       -3
    left_hip       Z       -6       5     -35        4  (leg aside)
    left_hip       X       -8      16     -85       25  (leg to the front)
    left_knee      X       16      16       3      110
"""
MOTION = 0.2  # how fast people move; at 1 so little stays the same that memory does not help

Point = collections.namedtuple("Point", "parent place paint radii behind")
Turn = collections.namedtuple("Turn", "point axis mean spread lowest highest")


def read_body():
    """The tables above -> {name: Point} of both sides, and the list of Turns of the left one."""
    body = {}
    for side in ("left_", "right_"):
        for row in POINTS.replace("left_", side).strip().splitlines()[1:]:
            name, parent, *place, paint, radii, behind = row.split()
            place = np.array(place, float)
            radii = [float(radius) for radius in radii.split(",")]
            body[name] = Point(parent, place, paint, radii, float(behind))
    turns = []
    for row in TURNS.strip().splitlines()[1:]:
        point, axis, *angles = row.split()[:6]
        turns.append(Turn(point, "XYZ".index(axis), *map(float, angles)))
    return body, turns


BODY, BODY_TURNS = read_body()
# as arrays over all limbs, L of them; discs are limbs of length 0
RADII = np.array([(point.radii[0], point.radii[-1]) for point in BODY.values()])  # (L, 2)
BEHIND = np.array([[point.behind] for point in BODY.values()])  # (L, 1)
# for each of COCO's joints: which limb ends there, and which ones start there
ENDING = np.array(COCO.joints)[:, None] == list(BODY)  # (17, L)
STARTING = np.array(COCO.joints)[:, None] == [point.parent for point in BODY.values()]
CROSS = np.cross(np.eye(3), np.eye(3)[:, None])  # CROSS[axis] @ v: the axis's cross product with v


def draw_turn(rng, turn, times):
    """How somebody turns at a joint as time goes by: matrices (T, 3, 3)."""
    # the angle swings about a middle, but not farther than the joint goes
    middle = rng.gauss(turn.mean, turn.spread)
    swing = rng.gauss(0, turn.spread)
    speed = MOTION * rng.uniform(0.4, 1.1)  # radians a frame
    phase = rng.uniform(0, 2 * math.pi)
    degrees = middle + swing * np.sin(speed * times + phase)  # (T,)
    degrees = degrees.clip(turn.lowest, turn.highest)
    angle = np.radians(degrees)[:, None, None]
    # Rodrigues' formula
    cross = CROSS[turn.axis]
    squared = cross @ cross
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * squared


def draw_body(rng, times):
    """Somebody at times (T,), in frames: where all limbs start and end, (L, T, 2, 3)."""
    walk = (MOTION * rng.gauss(0, 0.02), MOTION * rng.gauss(0, 0.008), 0)  # heights a frame
    facing = -1 if rng.random() < 0.2 else 1  # every fifth person is seen from behind
    points = {"ground": times[:, None] * walk}  # (T, 3)
    axes = {"ground": np.diag([facing, 1, facing])}
    stretch = {}  # how long this person's bones are, as multiples of the mean
    # from the ground outwards, each point is put where the axes of its parent point
    for name, point in BODY.items():
        left = name.replace("right_", "left_")
        place = stretch.setdefault(left, rng.gauss(1, 0.06)) * point.place
        axis = axes[point.parent]
        if name != left and "right_" not in point.parent:
            axis = axis * (-1, 1, 1)  # mirrored, and so is all that hangs on it
        points[name] = points[point.parent] + axis @ place
        for turn in BODY_TURNS:
            if turn.point == left:
                axis = axis @ draw_turn(rng, turn, times)
        axes[name] = axis
    starts = [points[p.parent if len(p.radii) == 2 else name] for name, p in BODY.items()]
    ends = [points[name] for name in BODY]
    return np.stack([starts, ends], axis=2)


def draw_colour(rng):
    """Any colour, (3,)."""
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.25, 1))
    return 255 * np.array(colour)


def draw_outfit(rng):
    """The colours of somebody's limbs, (L, 3)."""
    skins = ["#ffdbbc", "#f1c296", "#e0ac78", "#be8250", "#8d5530", "#5c3722", "#3e261a"]
    hairs = ["#231914", "#503219", "#966432", "#d7b464", "#787878", "#8c3219"]
    skin = np.array(ImageColor.getrgb(rng.choice(skins))) * rng.uniform(0.8, 1)
    shirt = draw_colour(rng)
    sleeve = shirt if rng.random() < 0.85 else skin
    trousers = draw_colour(rng)
    colours = {"white": (250, 250, 250), "black": (15, 15, 20), "lips": (150, 40, 40)}
    colours |= {"skin": skin, "shadow": 0.8 * skin, "hair": ImageColor.getrgb(rng.choice(hairs))}
    colours |= {"shirt": shirt, "sleeve": sleeve, "trousers": trousers, "shoes": draw_colour(rng)}
    # sleeves and trousers are long or short
    colours["cuff"] = sleeve if rng.random() < 0.55 else skin
    colours["leg"] = trousers if rng.random() < 0.65 else skin
    colours["collar"] = rng.choice([skin, draw_colour(rng), (235, 235, 235), (30, 30, 35)])
    return np.array([colours[point.paint] for point in BODY.values()])


class Figure:
    """Somebody, or a thing, on a canvas at T times: L limbs, which are tapered capsules.

    limbs: where they start and end, (L, T, 2, 3); radii: there, (L, 2); both in canvas pixels.
    colours: (L, 3); behind: (L, 1), see POINTS.
    """

    def __init__(self, limbs, radii, colours, behind=0.0):
        self.limbs = limbs.round(2)  # so that the last bit of a machine's sine decides nothing
        # what is farther away is painted earlier, and darker: that tells an arm from the chest
        depth = self.limbs[..., Z].mean(2)  # (L, T)
        self.order = np.argsort(-depth - behind, axis=0, kind="stable")
        light = 0.87 - 0.1 * (depth - depth.mean(0)) / radii.max()
        lit = colours[:, None] * light.clip(0.65, 1)[..., None]
        self.colours = lit.astype(int)  # (L, T, 3)

        # the outline: half a circle about the start, then half a circle about the end
        along = self.limbs[:, :, 1] - self.limbs[:, :, 0]
        heading = np.arctan2(along[..., Y], along[..., X])  # (L, T)
        angles = heading[..., None] + np.pi * (np.arange(16) + 4.5) / 8  # (L, T, 16)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (L, T, 16, 2)
        circle *= radii.repeat(8, axis=1)[:, None, :, None]
        self.outlines = circle + self.limbs[..., :2].repeat(8, axis=2)

    def paint(self, image, t, shift):
        """Paint the limbs at the t-th time, far ones first, moved by `shift` (x, y, 0)."""
        outlines = self.outlines[:, t] + shift[:2] + 0.5  # Pillow cuts off fractions
        outlines = outlines.reshape(len(outlines), -1).tolist()  # x, y, x, y ... of each limb
        colours = self.colours[:, t].tolist()
        draw = ImageDraw.Draw(image)
        for limb in self.order[:, t].tolist():
            draw.polygon(outlines[limb], fill=tuple(colours[limb]))


# -------------------------------------------------------------------------- synthetic people: clips
SUPERSAMPLE = 2  # the canvas is so many times as large as the picture
EXPOSURES = (0, -0.4, 0.4)  # times, in frames, of which a blurred frame is the mean
# what makes a frame hard; a frame with none of it is clear
CONDITIONS = ("dark", "blurred", "shaken", "occluded")


def scatter(rng, spread):
    """A random vector in the plane of the picture, (3,)."""
    return np.array([rng.gauss(0, spread), rng.gauss(0, spread), 0])


def draw_person(rng, canvas, times, place=0.0, zoom=1.0):
    """Somebody in the middle of a canvas (W, H, 0), or at a `place` beside it: a Figure."""
    # the window is put around the first four frames, as a crop from a real video would be
    body = draw_body(rng, times)
    first = body[:, times < 3.5]
    low = first.min((0, 1, 2))
    high = first.max((0, 1, 2))
    # the ends of the limbs fill 0.76 of it, with the flesh about them that is 0.8
    largest = (canvas / (high - low))[:2].min()
    scale = 0.76 * zoom * largest * math.exp(rng.gauss(0, 0.08))
    middle = canvas / 2 + place + scatter(rng, 0.03 * canvas[Y])
    body = middle + scale * (body - (low + high) / 2)
    stout = scale * max(0.8, rng.gauss(1.05, 0.1))
    return Figure(body, stout * RADII, draw_outfit(rng), stout * BEHIND)


def draw_thing(rng, canvas, times, speed=0.0):
    """A ball, or a stick with a bend, that moves at about `speed` canvas heights a frame."""
    is_ball = rng.random() < 0.5
    radius = canvas[Y] * (rng.uniform(0.04, 0.09) if is_ball else rng.uniform(0.012, 0.035))
    reach = 0 if is_ball else 0.15 * canvas[Y]
    # it moves straight on, and in one of the first frames it is in the picture
    place = canvas * (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), 0)
    velocity = scatter(rng, speed * canvas[Y])
    when = times[:, None] - rng.uniform(0, 4)
    start = place + velocity * when  # (T, 3)
    bend = start + scatter(rng, reach)
    end = bend + scatter(rng, reach)
    limbs = np.stack([[start, bend], [bend, end]], axis=2)
    radii = np.full((2, 2), radius)
    colours = np.tile(draw_colour(rng), (2, 1))
    return Figure(limbs, radii, colours)


def draw_background(rng, canvas):
    """Blobs of colour, dull or gaudy, with some things on them: a PIL image."""
    blobs = np.frombuffer(rng.randbytes(60), np.uint8).reshape(5, 4, 3)
    plain = draw_colour(rng)
    blobs = plain + rng.uniform(0.25, 1) * (blobs - plain)
    image = Image.fromarray(blobs.astype(np.uint8))
    image = image.resize(tuple(canvas[:2].tolist()), Image.Resampling.BICUBIC)
    for _ in range(rng.randint(1, 4)):
        draw_thing(rng, canvas, np.zeros(1)).paint(image, 0, np.zeros(3))
    return image


class Scene:
    """A clip but for light and noise: a background, a person, perhaps another one behind or before
    them, and things that pass by. `figures` stand from far to near."""

    def __init__(self, rng, canvas, times):
        self.canvas = canvas
        self.person = draw_person(rng, canvas, times)
        self.figures = [self.person]
        if rng.random() < 0.4:
            side = rng.choice([-1, 1])
            place = canvas * (side * rng.uniform(0.35, 0.6), rng.uniform(-0.1, 0.1), 0)
            other = draw_person(rng, canvas, times, place, zoom=rng.uniform(0.75, 1.25))
            self.figures.insert(0 if rng.random() < 0.83 else 1, other)
        for _ in range(2):
            if rng.random() < 0.9:
                self.figures.append(draw_thing(rng, canvas, times, speed=0.06))
        self.background = draw_background(rng, canvas * 6 // 5)  # larger, for a camera that shakes
        self.blurred = rng.random() < 0.5

    def label_joints(self, image, t, shift):
        """The person's joints (17, 3) in pixels of the picture, painted as `image`; and how many
        of them are behind something that is not the own body."""
        joints = self.person.limbs[ENDING.argmax(1), t, 1] + shift  # (17, 3), canvas pixels
        colours = self.person.colours[:, t]
        covered = 0
        for joint, limbs in zip(joints, ENDING | STARTING, strict=True):
            column, row, _ = joint.round().astype(int).tolist()
            joint[2] = 0
            if 0 <= column < image.width and 0 <= row < image.height:
                # visible where the last thing painted is a limb that ends or starts there
                colour = list(image.getpixel((column, row)))
                joint[2] = 2 if colour in colours[limbs].tolist() else 1
                covered += colour not in colours.tolist()
        joints[:, :2] = (joints[:, :2] - 0.5) / SUPERSAMPLE  # a pixel's centre has whole numbers
        return joints, covered

    def render(self, rng, frame):
        """A frame before light and noise, float32 (H, W, 3), its joints (17, 3), and whether it is
        blurred, shaken, and occluded."""
        shaken = rng.random() < 0.25
        shake = scatter(rng, 0.012 * self.canvas[Y]) if shaken else np.zeros(3)
        drift = scatter(rng, 0.02 * self.canvas[Y])  # of the camera, in one frame
        shots = []
        for exposure in range(3 if self.blurred and rng.random() < 0.5 else 1):
            # people, things and camera: all are where they are at the same time
            t = len(EXPOSURES) * frame + exposure
            shift = shake + EXPOSURES[exposure] * drift
            corner = self.canvas // 10 - shift.round()
            opposite = corner + self.canvas
            image = self.background.crop((*corner[:2], *opposite[:2]))
            for figure in self.figures:
                figure.paint(image, t, shift)
            shots.append(image)
        joints, covered = self.label_joints(shots[0], len(EXPOSURES) * frame, shake)
        pictures = [image.reduce(SUPERSAMPLE) for image in shots]
        conditions = (len(shots) > 1, shaken, covered >= 2)
        return np.mean(pictures, axis=0, dtype=np.float32), joints, conditions


def render_clip(split, index, frames=4, size=(128, 96)):
    """Render clip `index` of a split: uint8 images (F, H, W, 3), joints (F, 17, 3), and conditions
    (F, 4), bool, which of CONDITIONS a frame is in. The splits are "train", "val", "test" and, for
    what no decision may depend on, "final": results/claims.py evaluates on it.

    A function of (split, index) alone, on every machine; more frames only append. Joints are
    COCO's, x and y in pixels of the picture, visibility 2, 1 (behind something, somebody or the own
    body) or 0 (outside). UserError for an unknown split.
    """
    if split not in ("train", "val", "test", "final"):
        raise UserError(f"no synthetic people are called {split!r}: choose train, val or test")
    # frames draw from it one after another, so that more of them only append
    rng = random.Random(f"{split}/{index}")
    canvas = SUPERSAMPLE * np.array([size[1], size[0], 0])
    times = np.add.outer(np.arange(max(frames, 4)), EXPOSURES).ravel()  # (T,)
    scene = Scene(rng, canvas, times)
    noise = rng.uniform(10, 42)  # from the darkest grain to the brightest
    # half of the clips get dark for one to three frames, but one can still see something
    gain = rng.uniform(0.12, 0.45)
    dark = []
    if rng.random() < 0.5:
        dark = rng.randrange(4) + np.arange(rng.randint(1, 3))
    images = np.empty((frames, *size, 3), np.uint8)
    joints = np.empty((frames, len(COCO.joints), 3), np.float32)
    conditions = np.empty((frames, len(CONDITIONS)), bool)
    for frame in range(frames):
        picture, joints[frame], others = scene.render(rng, frame)
        conditions[frame] = (frame in dark, *others)
        if frame in dark:
            picture *= gain
        grain = np.random.default_rng(rng.getrandbits(64)).random(picture.shape, np.float32)
        images[frame] = (picture + noise * (grain - 0.5)).clip(0, 255)
    return images, joints, conditions


class SyntheticClips(Clips):
    """`count` synthetic clips of a split, from number `first` on, rendered here, as one uint8 array
    `images`; and their frames' `conditions`, array (N, F, 4).

    workers: processes to render with (no picture depends on it), 0: none besides this one, None:
    one for each processor.
    """

    skeleton = COCO

    def __init__(self, split, count, frames=4, size=(128, 96), workers=None, cell=CELL, first=0):
        if count < 1 or frames < 1:
            raise UserError(f"{count} clips of {frames} frames: both numbers must be at least 1")
        self.first = first
        self.images = np.empty((count, frames, *size, 3), np.uint8)
        joints = np.empty((count, frames, len(COCO.joints), 3))
        self.conditions = np.empty((count, frames, len(CONDITIONS)), bool)
        name = f"synthetic people ({split})"
        progress = Progress()
        render = functools.partial(render_clip, split, frames=frames, size=tuple(size))
        processes = cores() if workers is None else workers
        numbers = range(first, first + count)
        for i, clip in enumerate(_map_in_processes(render, numbers, processes)):
            self.images[i], joints[i], self.conditions[i] = clip
            progress.show(f"{name}: {i + 1} of {count} clips")
        # the window of this box is the whole frame: a plain crop changes nothing
        height, width = size
        box = [0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height]
        boxes = np.tile(box, (count, frames, 1))
        extent = np.ptp(joints[..., :2], axis=2)  # (N, F, 2)
        areas = BOX_TO_AREA * (1.1 * extent).prod(axis=-1)  # a body reaches beyond its joints
        super().__init__(name, size, boxes, joints, areas, cell, workers)

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip, a PIL image."""
        yield Image.fromarray(self.images[index, t])


def _map_in_processes(function, numbers, workers):
    """function(n) for each of `numbers`, one after another, from so many processes."""
    workers = min(workers, len(numbers) // 16)  # with fewer each, starting them takes longer
    if workers < 2 or multiprocessing.parent_process():
        yield from map(function, numbers)
        return
    # a forked worker starts at once; it may be forked, for rendering uses no torch and no threads
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    # SIGTERM, which ends them, must not be train.py's handler: a wait for work could miss it
    end = {"initializer": signal.signal, "initargs": (signal.SIGTERM, signal.SIG_DFL)}
    with start.Pool(workers, **end) as pool:
        yield from pool.imap(function, numbers, chunksize=16)


# ----------------------------------------------------------------- official scores: OKS, COCO's AP
# COCO and PoseTrack evaluate poses in two steps. First each image by itself: a result takes at most
# one person, and is then right, wrong, or left out. Then all images together: what is right or
# wrong is ranked by its score, and at each rank
#
#     precision = right so far / ranked so far,      recall = right so far / all that is labelled.
#
# Average precision (AP) is the mean of the precision over the recall. COCO ranks poses, PoseTrack
# single joints, and they differ in which result takes which person.

OKS_THRESHOLDS = np.linspace(0.50, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision
# ranges of a person's area in square pixels: all, medium and large
SIZES = {"": (0, 1e5**2), "M": (32**2, 96**2), "L": (96**2, 1e5**2)}


def joint_similarity(predictions, joints, areas, sigmas=COCO.sigmas):
    """How near each joint is to its label: exp(-d^2 / (2 s^2 k^2)) of Sec. 4.1, 0 to 1.

    d is the distance between prediction and label, s^2 the person's area, k = 2 sigma a constant of
    the joint. predictions (..., K, 2 or more), joints (..., K, 3) with the visibility last, in
    pixels; areas (...) in square pixels; sigmas (K). Leading dimensions broadcast: (..., K).
    """
    offsets = predictions[..., :2] - joints[..., :2]  # (..., K, 2)
    d2 = (offsets**2).sum(-1)  # (..., K)
    k2 = (2 * np.asarray(sigmas)) ** 2  # (K)
    s2 = np.asarray(areas)[..., None]  # (..., 1)
    s2 = s2 + np.spacing(1)  # so that it is never 0, as in the official tool
    return np.exp(-d2 / k2 / s2 / 2)


def oks(predictions, joints, areas, sigmas=COCO.sigmas):
    """Object keypoint similarity (Sec. 4.1), 0 to 1: the mean of `joint_similarity` over the
    labelled joints, of shape (...); 0 for a person without any."""
    similarity = joint_similarity(predictions, joints, areas, sigmas)  # (..., K)
    labelled = joints[..., 2] > 0  # (..., K)
    count = np.maximum(labelled.sum(-1), 1)  # (...)
    return (similarity * labelled).sum(-1) / count


def by_image(annotations, results):
    """Triples (image, its people, its results), by rising image id: numbers, then texts.

    PoseTrack's files may number their images alike: where ids repeat, all entries say of which
    "sequence" they are. UserError if a result is for an image that is not listed.
    """
    images = annotations["images"]
    unique = len({image["id"] for image in images}) == len(images)

    def key(entry, name):
        sequence = "" if unique else entry.get("sequence", "")
        return sequence, isinstance(entry[name], str), entry[name]

    triples = {key(image, "id"): (image, [], []) for image in images}
    if len(triples) < len(images):
        raise UserError("images of the annotations have the same id: give each one of its own")
    for person in annotations["annotations"]:
        place = key(person, "image_id")
        if place in triples:
            triples[place][1].append(person)
    for result in results:
        place = key(result, "image_id")
        if place not in triples:
            name = repr(place[-1])
            raise UserError(f"a result is for image {name}, which the annotations do not list")
        triples[place][2].append(result)
    return [triples[place] for place in sorted(triples)]


def counted(annotations, results, needed, score):
    """What counts in an evaluation -> (category of people, their images and annotations, results).

    What people may lack is filled in, as for files. needed: keys that they must have; score: key of
    a result's score, or of its joints' scores. UserError for what cannot be evaluated.
    """
    if not (isinstance(annotations, dict) and isinstance(results, list)):
        raise UserError("an evaluation takes what json.load reads: a dict, and a list of results")
    if not isinstance(annotations.get("images"), list):
        raise UserError('the annotations have no list "images": they are not in COCO\'s layout')
    category = person_category(annotations, "the annotation file")
    category["keypoints"] = category.get("keypoints") or list(COCO.joints)
    count = len(category["keypoints"])
    own = (None, category["id"])
    page = {"images": [image for image in dicts_of(annotations, "images") if "id" in image]}
    try:
        everyone = dicts_of(annotations, "annotations")
        people = [person for person in everyone if person.get("category_id") in own]
        page["annotations"] = [complete_entry(person, needed, count) for person in people]
        found = [
            result
            for result in results
            if not isinstance(result, dict) or result.get("category_id") in own
        ]
        for result in found:
            check_result(result, score, count)
    except LeftOut as error:
        raise UserError(f"this cannot be evaluated: {error}") from None
    for what, listed, counts in (("annotation", everyone, people), ("result", results, found)):
        if listed and not counts:
            raise UserError(f"no {what} is of category {category['id']!r}, {category['name']}")
    return category, page, found


def check_result(result, score, count):
    """LeftOut if a result of an evaluation lacks something; K = count."""
    if not (isinstance(result, dict) and isinstance(result.get("image_id"), ID)):
        raise LeftOut("no image_id in a result", result)
    size = 0
    with contextlib.suppress(TypeError, ValueError):
        size = np.array(result.get("keypoints"), float).size  # null and NaN are nan
    if size != 3 * count:
        raise LeftOut(f"{size} keypoints in a result", result["image_id"], f"{3 * count} numbers")
    try:
        check_numbers(result, score, *([count] if score == "scores" else []))
    except (LookupError, LeftOut):
        reason = f"no {score} in a result, or none that is finite"
        raise LeftOut(reason, result.get(score)) from None


def rank(judged):
    """Pairs (score, right) of all images -> right (N) bool, by falling score, and precision (N).

    Precision rises and falls with every result, but one may always go on to a later rank, where the
    recall is at least the same: the precision of a rank is the best one there or later.
    """
    judged = sorted(judged, key=operator.itemgetter(0), reverse=True)  # of equal scores the first
    right = np.array([right for _, right in judged], bool)
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    return right, np.maximum.accumulate(precision[::-1])[::-1]


class CocoImage:
    """One image as COCO evaluates it: its people, and its 20 results of the highest scores."""

    def __init__(self, people, results, sigmas):
        results = sorted(results, key=lambda result: -result["score"])[:20]  # of equals the first
        poses = np.array([result["keypoints"] for result in results], float)
        poses = poses.reshape(-1, len(sigmas), 3)  # (D, K, 3)
        self.people = people
        self.scores = [result["score"] for result in results]
        self.areas = np.ptp(poses[..., :2], axis=1).prod(1).tolist()  # of boxes round the joints

        # the OKS of each result with each person
        similarity = np.zeros((len(results), len(people)))
        for i, person in enumerate(people):
            joints = np.reshape(person["keypoints"], (-1, 3))  # (K, 3)
            if not (joints[:, 2] > 0).any():
                # Nothing is labelled: the joints may be all over a box of three times the size, so
                # each predicted joint is compared with the nearest point of that box
                box = np.array(person["bbox"], float)  # x, y, width, height
                low = box[:2] - box[2:]
                high = box[:2] + 2 * box[2:]
                joints = np.ones_like(poses)  # (D, K, 3)
                joints[..., :2] = poses[..., :2].clip(low, high)
            similarity[:, i] = oks(poses, joints, person["area"], sigmas)
        self.similarity = similarity.tolist()

        # who is to be found, for each range of sizes
        counts = [person["num_keypoints"] > 0 and not person["iscrowd"] for person in people]
        self.wanted = {}
        for smallest, largest in SIZES.values():
            fits = [smallest <= person["area"] <= largest for person in people]
            self.wanted[smallest, largest] = [a and b for a, b in zip(counts, fits, strict=True)]

    def judge(self, size, threshold):
        """(pairs (score, right) of the results, how many people are to be found).

        People of that size who have joints and are no crowd are wanted; all others are ignored. The
        best score chooses first. Of the people who are still free and similar enough, a result
        takes a wanted one before an ignored one, then the most similar one, and of equals the last.
        A result is left out if it takes an ignored person, or if it takes nobody and has another
        size.
        """
        smallest, largest = size
        wanted = self.wanted[size]
        free = set(range(len(wanted)))
        judged = []
        for score, area, similarity in zip(self.scores, self.areas, self.similarity, strict=True):
            similar = [person for person in free if similarity[person] >= threshold]
            if similar:
                person = similar[0]
                if len(similar) > 1:
                    person = max(similar, key=lambda i: (wanted[i], similarity[i], i))
                if wanted[person]:
                    judged.append((score, True))
                if not self.people[person]["iscrowd"]:  # a crowd is always free
                    free.remove(person)
            elif smallest <= area <= largest:
                judged.append((score, False))
        return judged, sum(wanted)


def ap_and_recall(images, size):
    """AP and recall of the `CocoImage`s at each of the T thresholds -> (2, T), 0 to 1.

    AP is the mean precision at 101 recalls, 0 at those that are never reached; the recall is what
    all results reach together. Both are -1 where nobody is to be found.
    """
    table = np.full((2, len(OKS_THRESHOLDS)), -1.0)
    for t, threshold in enumerate(OKS_THRESHOLDS.tolist()):
        judged = []
        people = 0
        for image in images:
            pairs, wanted = image.judge(size, threshold)
            judged += pairs
            people += wanted
        if people > 0:
            right, precision = rank(judged)  # (N) each
            recall = right.cumsum() / people
            first_ranks = recall.searchsorted(RECALLS)  # (101) N: never reached
            table[0, t] = np.append(precision, 0)[first_ranks].mean()
            table[1, t] = right.sum() / people
    return table


def coco_ap(annotations, results, sigmas=None):
    """COCO's keypoint evaluation: the ten numbers of the official tool (pycocotools), 0 to 1.

    AP and AR (average recall) are means over the OKS thresholds, 50 and 75 are one threshold alone,
    M and L are for medium and for large people. A number is -1 where nobody is to be found.

    annotations: a COCO keypoint dict; results: a list of dicts with image_id, keypoints (3K
    numbers) and score; sigmas (K): None for those of the category's joints. UserError as for
    `counted` and `by_image`. On purpose we differ from pycocotools in two points: of several
    categories only people count, and a result with a joint that is nan is like nobody. What the
    annotations say counts as it is, also an area of 0; only what is missing is filled in.
    """
    category, page, found = counted(annotations, results, CocoPeople.needed, "score")
    if sigmas is None:
        skeleton, order = skeleton_from(category)
        sigmas = np.empty(len(order))
        sigmas[order] = skeleton.sigmas
    if len(sigmas) != len(category["keypoints"]):
        raise UserError(f"{len(sigmas)} sigmas for {len(category['keypoints'])} joints")
    grouped = by_image(page, found)
    images = [CocoImage(people, found, sigmas) for _, people, found in grouped]
    tables = {name: ap_and_recall(images, size) for name, size in SIZES.items()}  # (2, T) each

    numbers = {}
    for i, name in enumerate(("AP", "AR")):
        numbers[name] = tables[""][i].mean()
        numbers[f"{name}50"] = tables[""][i, 0]
        numbers[f"{name}75"] = tables[""][i, 5]
        numbers[f"{name}M"] = tables["M"][i].mean()
        numbers[f"{name}L"] = tables["L"][i].mean()
    return {name: float(value) for name, value in numbers.items()}


# ------------------------------------------------------------------ official scores: PoseTrack's AP
# the columns and the 15 joints that are evaluated; the two ears of the files are never annotated
POSETRACK_PARTS = {
    "Head": ("nose", "head_bottom", "head_top"),
    "Sho": ("left_shoulder", "right_shoulder"),
    "Elb": ("left_elbow", "right_elbow"),
    "Wri": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ank": ("left_ankle", "right_ankle"),
}
POSETRACK_JOINTS = sum(POSETRACK_PARTS.values(), ())


def inside(x, y, polygon):
    """Which points x, y (...) lie inside a polygon of corners (2, V), its border excluded: bool.

    The even-odd rule: from inside, a ray to the right meets an odd number of edges.
    """
    # most points lie outside of the box round the polygon
    left, top = polygon.min(axis=1)
    right, bottom = polygon.max(axis=1)
    found = ~((x < left) | (x > right) | (y < top) | (y > bottom))  # (...)
    if not found.any():
        return found

    # an edge ends in each corner and starts in the one before, as each point sees it from itself
    points = np.stack([x[found], y[found]])[..., None]  # (2, N, 1)
    x0, y0 = np.roll(polygon, 1, axis=1)[:, None] - points  # (N, V) each
    x1, y1 = polygon[:, None] - points

    # the cross product: its sign says on which side an edge passes, 0 is in line with it
    side = x0 * y1 - y0 * x1
    on_border = (side == 0) & (x0 * x1 + y0 * y1 <= 0)

    # the ray meets an edge with one end above and one below it that passes on the right
    starts_above = y0 <= 0
    stops_above = y1 <= 0
    meets = (starts_above != stops_above) & ((side > 0) == starts_above)
    odd = meets.sum(axis=1) % 2 == 1  # (N)
    found[found] = odd & ~on_border.any(axis=1)
    return found


def ignored_regions(image):
    """The polygons of an image that are to be ignored: arrays (2, V), x and y of the corners."""
    lists = [image.get("ignore_regions_x"), image.get("ignore_regions_y")]
    if not all(isinstance(regions, list) for regions in lists):
        return []
    polygons = []
    for x, y in zip(*lists, strict=False):
        if isinstance(x, list) and x:
            polygons.append(as_numbers([x, y], (2, len(x))))
    return [polygon for polygon in polygons if polygon is not None]


def judge_posetrack_frame(image, people, results, columns):
    """Evaluate one frame: J joints of G people and P results.

    columns: which of an entry's joints these are. Returns which joints of the results are right (P,
    J), which are evaluated at all (P, J), and how many of the people's are labelled (J).
    """
    keypoints = np.array([entry["keypoints"] for entry in people + results], float)
    joints = keypoints.reshape(len(keypoints), -1, 3)[:, columns]  # (G + P, J, 3)

    # not there is a joint of three zeros, or one in a region of the image that is to be ignored
    there = (joints != 0).any(-1)  # (G + P, J)
    for polygon in ignored_regions(image):
        there &= ~inside(joints[..., 0], joints[..., 1], polygon)
    labelled = there[: len(people)]  # (G, J)
    predicted = there[len(people) :]  # (P, J)

    # a joint may be off by half a head size, which is 0.6 of the head box's diagonal
    boxes = np.array([person["bbox_head"] for person in people], float)  # (G, 4)
    heads = 0.6 * np.linalg.norm(boxes[:, 2:], axis=1, keepdims=True)  # (G, 1)
    offsets = joints[len(people) :, None] - joints[: len(people)]  # (P, G, J, 3)
    distance = np.linalg.norm(offsets[..., :2], axis=-1)  # (P, G, J)
    close = (distance <= 0.5 * heads) & (heads > 0)
    close &= labelled & predicted[:, None]

    # A result takes the person of whose labelled joints it has the largest fraction right (PCKh),
    # if any, and a person keeps the best result that came. Of equals it is the first.
    fractions = close.sum(-1) / np.maximum(labelled.sum(-1), 1)  # (P, G)
    kept = {}
    for pose, person in enumerate(fractions.argmax(1)):
        best = fractions[kept[person], person] if person in kept else 0
        if fractions[pose, person] > best:
            kept[person] = pose

    # a result that nobody keeps is wrong in every joint
    right = np.zeros_like(predicted)
    for person, pose in kept.items():
        right[pose] = close[pose, person]
    return right, predicted, labelled.sum(0)


def with_heads(people):
    """Those who have a head box; UserError if nobody has."""
    with_box = [person for person in people if "bbox_head" in person]
    if people and not with_box:
        raise UserError("PoseTrack's AP needs head boxes, but there is no bbox_head")
    if len(with_box) < len(people):
        reason = f"{len(people) - len(with_box)} people have no head box (bbox_head)"
        say_once(f"{reason}, so PoseTrack's AP leaves them out")
    return with_box


def posetrack_ap(annotations, results):
    """PoseTrack's multi-person pose evaluation (poseval), in percent: see `posetrack_table`.

    annotations: a PoseTrack18 dict of one sequence, or of several with their lists joined; results:
    a list of dicts with image_id, keypoints (51 numbers) and scores (17, one a joint). UserError as
    for `counted` and `by_image`.
    """
    category, page, results = counted(annotations, results, ("image_id", "keypoints"), "scores")
    page["annotations"] = with_heads(page["annotations"])
    return posetrack_table(page, results, category["keypoints"])


def posetrack_table(page, results, names):
    """`posetrack_ap` without its checks, for what we read ourselves. names: of the joints.

    Head, Sho, Elb, Wri, Hip, Knee, Ank are means over a column's joints, Total is that of all 15
    (or of all that the file names, if it names others). Left out are frames without people and
    joints that nobody has; a mean of none is nan.
    """
    evaluated = POSETRACK_JOINTS if set(POSETRACK_JOINTS) <= set(names) else names
    columns = [names.index(joint) for joint in evaluated]  # (J)
    judged = [[] for _ in columns]
    labelled = np.zeros(len(columns), int)
    for image, people, found in by_image(page, results):
        if people:
            right, predicted, count = judge_posetrack_frame(image, people, found, columns)
            labelled += count
            for i, j in np.argwhere(predicted).tolist():
                score = found[i]["scores"][columns[j]]
                judged[j].append((score, right[i, j]))

    ap = {}
    for joint, pairs, count in zip(evaluated, judged, labelled, strict=True):
        if count > 0:
            right, precision = rank(pairs[::-1])  # of equal scores the last is the first here
            # the recall goes up by 1 / count at the right ones: the curve's area is a sum over them
            ap[joint] = 100 * (precision[right].sum() / count)

    table = {}
    for name, joints in (POSETRACK_PARTS | {"Total": evaluated}).items():
        values = [ap[joint] for joint in joints if joint in ap]
        table[name] = float(np.mean(values)) if values else float("nan")
    return table


# ------------------------------------------------------------------- official scores: result files
def oks_nms(poses, scores, areas, sigmas):
    """Which poses (N, K, 3) of one image to keep: their indices, best score first.

    A pose goes if one that is kept is nearly the same: OKS of the two, at their mean area, above
    0.9. scores (N); areas (N) in square pixels; sigmas (K).
    """
    kept = []
    for i in np.argsort(-scores, kind="stable").tolist():
        labelled = poses[i].copy()
        labelled[:, 2] = 1  # both are predictions, with all joints
        mean_areas = (areas[kept] + areas[i]) / 2
        similarity = oks(poses[kept], labelled, mean_areas, sigmas)
        if (similarity <= 0.9).all():
            kept.append(i)
    return kept


def coco_results(keypoints, clips):
    """Predictions (N, 1, K, 3) for a CocoPeople -> the official list of results, after OKS-NMS.

    Ids, and the order of joints, are those of the annotation file. The usual score of a person is
    that of the box times the mean joint score above 0.2.
    """
    poses = keypoints[:, 0]  # (N, K, 3)
    scores = np.zeros(len(poses))
    areas = np.zeros(len(poses))
    images = {}  # the numbers of the people in each image
    for i, image_id in enumerate(clips.ids[:, 0, 0].tolist()):
        images.setdefault(image_id, []).append(i)
        joint_scores = poses[i, :, 2]
        if (joint_scores > 0.2).any():
            scores[i] = clips.scores[i] * joint_scores[joint_scores > 0.2].mean()
        width, height = window(clips.boxes[i, 0], clips.size)[2:]
        areas[i] = width * height  # as in SBL's NMS

    results = []
    for image_id, own in images.items():
        own = np.array(own)
        kept = oks_nms(poses[own], scores[own], areas[own], clips.skeleton.sigmas)
        for i in own[kept]:
            pose = np.empty_like(poses[i])  # (K, 3)
            pose[clips.order] = poses[i]
            result = {"image_id": image_id, "category_id": clips.category_id}
            result["keypoints"] = pose.ravel().round(3).tolist()
            result["score"] = float(scores[i])
            results.append(result)
    return results


def posetrack_results(keypoints, clips):
    """Predictions (N, F, K, 3) for PoseTrackClips -> the official list of results, one for each
    labelled frame of a track. Files may number their images alike: "sequence" is a file's name."""
    joints = keypoints.round(3).reshape(*keypoints.shape[:2], -1)  # (N, F, 3K)
    results = []
    for i, sequence in enumerate(clips.sequence.tolist()):
        for t, (image_id, track_id) in enumerate(clips.ids[i].tolist()):
            if image_id is not None:
                result = {"sequence": sequence, "image_id": image_id, "track_id": track_id}
                result["keypoints"] = joints[i, t].tolist()
                result["scores"] = keypoints[i, t, :, 2].tolist()
                results.append(result)
    return results


def person_key(entry):
    """What tells a person of PoseTrack in a frame apart, in annotations and results."""
    return entry["sequence"], entry["image_id"], entry["track_id"]


# ------------------------------------------------------------------------ files: COCO, PoseTrack18
#     file ---> images, annotations ---> `Person`s ---> clips of F of them ---> arrays
#       _read                    _people           _cut                __init__
#
# Files that people hand over are never quite what they should be: an annotation lacks a number, a
# picture was not copied. Every entry is checked once, and what may be missing is filled in. An
# entry that fails is left out and counted by reason; only a useless file is a UserError.
LARGEST = 1e5  # pixels: nothing lies farther away, and COCO's evaluation knows no larger people
ID = (int, float, str, np.integer)  # what tells images, people or categories apart
EXIF_TURN = 0x0112  # the entry that says how a picture is turned: 1, not at all, to 8
MISSING = (None, "", "NaN", "nan")  # how exporters write a number that they do not have


class LeftOut(Exception):
    """An entry of a file is not used: for what reason, and the part of it that is wrong."""

    def __init__(self, reason, example, wanted=None):
        self.reason = reason
        self.example = f"{example!r:.300}" + (f"; wanted: {wanted}" if wanted else "")
        super().__init__(f"{reason} ({self.example})")


def read_json(path, hint):
    """What a JSON file says; UserError if it cannot be read. hint: what the user should name."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # with or without a byte order mark
        # NaN is no number: it stays a text, which can be written again
        return json.loads(text, parse_constant=str)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): {hint}") from None


def as_numbers(value, shape, limit=math.inf):
    """A value of a file as a float64 array of this shape, all between -limit and limit; else None,
    as for texts, null, NaN, or integers that no float can hold."""
    with contextlib.suppress(ValueError):  # lists of several lengths
        values = np.array(value)
        # kinds of numbers: bool, integers with and without a sign, floats
        is_numeric = values.dtype.kind in "biuf"
        if is_numeric and values.shape == shape and (np.abs(values) < limit).all():
            return values.astype(np.float64)
    return None


def check_numbers(entry, key, *shape):
    """LeftOut unless an entry has numbers of this shape under `key`."""
    if type(entry[key]) in (int, float) and not shape and abs(entry[key]) < LARGEST**2:
        return  # the usual case is quick
    if as_numbers(entry[key], shape, LARGEST if shape else math.inf) is None:
        raise LeftOut(f"invalid {key}", entry[key], f"{math.prod(shape)} finite numbers")


def complete_entry(entry, needed, count):
    """An entry with all that an evaluation asks for; LeftOut if it could not use it.

    needed: the keys that must be there; count: K, how many joints the category has.
    """
    entry = {key: value for key, value in entry.items() if value is not None}
    for key in needed:
        if key not in entry:
            raise LeftOut(f"no {key}", f"an entry with {', '.join(entry)}")
        if key.endswith("_id") and not isinstance(entry[key], ID):
            raise LeftOut(f"invalid {key}", entry[key], "a number or a text")

    # numbers that must be there, and numbers that may be there
    for key, *shape in (("bbox", 4), ("score",)):
        if key in needed:
            check_numbers(entry, key, *shape)
    if "bbox_head" in entry and as_numbers(entry["bbox_head"], (4,), LARGEST) is None:
        del entry["bbox_head"]
    for key in ("area", "iscrowd", "num_keypoints"):
        if key in entry:
            check_numbers(entry, key)
            if entry[key] < 0:
                raise LeftOut(f"invalid {key}", entry[key])

    # what follows from others
    filled = {"iscrowd": 0}
    if "area" not in entry:
        filled["area"] = box_area(entry)
    if "keypoints" in needed:
        joints = read_joints(entry["keypoints"], count)
        entry["keypoints"] = joints.ravel().tolist()
        filled["num_keypoints"] = int((joints[:, 2] > 0).sum())
    return filled | entry


def box_area(entry):
    """The area of a person, judged by their box; 0 without one."""
    box = as_numbers(entry.get("bbox"), (4,), LARGEST)
    if box is None:
        return 0.0
    width, height = box[2:].clip(0).tolist()
    return BOX_TO_AREA * width * height


def read_joints(value, count):
    """Joints as a file has them -> (K, 3); LeftOut if there are not K of them.

    They are x, y, v, x, y, v, ... or a list for each joint. Without v those joints are visible that
    are not 0, 0. A joint that lacks a number is not annotated: 0, 0, 0.
    """
    joints = as_numbers(value, (3 * count,), LARGEST)
    if joints is not None:
        return joints.reshape(count, 3)
    listed = value if isinstance(value, list) else []
    if len(listed) in (2 * count, 3 * count):
        size = len(listed) // count
        listed = [listed[start : start + size] for start in range(0, len(listed), size)]
    if len(listed) != count:
        reason = f"keypoints has {len(listed)} values, wanted are {3 * count} finite numbers"
        example = listed[:6] or value
        raise LeftOut(reason, example, "x, y, v of each joint that the category names")

    # one that is shorter than others is as good as missing
    size = max([2, *[len(joint) for joint in listed if isinstance(joint, list)]])
    joints = np.zeros((count, 3))
    for k, joint in enumerate(listed):
        numbers = as_numbers(joint, (size,), LARGEST) if size < 4 else None
        if numbers is not None:
            joints[k, :size] = numbers
        elif not is_missing(joint, size):
            raise LeftOut("invalid joint among the keypoints", joint, "x, y, v, finite numbers")
    if size == 2:
        joints[:, 2] = 2 * joints.any(axis=1)
    return joints


def is_missing(joint, size):
    """Whether this is how exporters write a joint, of `size` numbers, that they do not have."""
    if not isinstance(joint, list):
        return joint in MISSING
    return len(joint) < size or any(number in MISSING or number != number for number in joint)


def dicts_of(page, key):
    """The dicts in the list that `page` has under `key`; [] if there is none."""
    listed = page.get(key)
    listed = listed if isinstance(listed, list) else []
    return [entry for entry in listed if isinstance(entry, dict)]


def person_category(page, path):
    """The category of people in `page`: the one called person; else the only one with keypoints;
    else the only one. A file without any means COCO's. path: what to name in an error.

    One that is called person but has no keypoints, beside one that has, only groups others.
    """
    listed = dicts_of(page, "categories") or [{"name": "person"}]
    with_joints = [entry for entry in listed if entry.get("keypoints")]
    found = with_joints or listed
    named = [entry for entry in found if str(entry.get("name")).lower() == "person"]
    found = named[:1] or found
    if len(found) > 1:
        names = ", ".join([str(entry.get("name")) for entry in found])
        raise UserError(f'{path} has the categories {names:.200}: name the one to use "person"')
    return {"id": 1, "name": "unnamed", **found[0]}


def joint_names(category, entries, skeleton, path):
    """The names of a category's joints; if the file has none, those of `skeleton`, or numbers."""
    names = category.get("keypoints")
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if are_names and 0 < len(names) == len(set(names)):
        return names

    # how many numbers do most people have? Three a joint; if that cannot be, x and y
    lists = [entry["keypoints"] for entry in entries if isinstance(entry.get("keypoints"), list)]
    lengths = [len(numbers) for numbers in lists]
    length = statistics.mode(lengths or [0])
    count = length // 2 if length % 3 else length // 3
    names = list(skeleton.joints)
    if count not in (0, len(names)):
        names = [f"joint_{number}" for number in range(1, count + 1)]
    say_once(f"{path} does not name its joints: they are called {names[0]} to {names[-1]}")
    return names


def video_of(image):
    """What tells videos in one file apart: a name of theirs, else the folder."""
    video = image.get("vid_id", image.get("video_id"))
    return os.path.dirname(image["file_name"]) if video is None else video


def by_number(path):
    """What frames are sorted by: the numbers in their names, so that 9.jpg comes before 10.jpg.

    A decimal number is one where it is the whole name or, of nine digits or more, a time stamp:
    1700000000.10.jpg comes before 1700000000.9.jpg, but shot1.9.jpg before shot1.10.jpg.
    """
    number = "[0-9]{9,}[.][0-9]+|[0-9]+"
    if re.fullmatch("[0-9]+[.][0-9]+", path.stem):
        number = "[0-9.]+"
    parts = re.split(f"({number})", path.stem)  # text, number, text, ..., number, text
    parts[1::2] = [Decimal(part) for part in parts[1::2]]
    return parts, path.name


def number_frames(images):
    """The images of a file, each with a whole frame_id: that of the file, where every frame of a
    video has one of its own; else as their files are called, one by one."""
    videos = {}
    for image in images:
        videos.setdefault(video_of(image), []).append(image)
    numbered = []
    for frames in videos.values():
        numbers = as_numbers([image.get("frame_id") for image in frames], (len(frames),))
        if numbers is None:
            frames.sort(key=lambda image: by_number(Path(image["file_name"])))
            numbers = np.zeros(len(frames))
        if len({*numbers.astype(int)}) < len(frames):
            # where they begin again there is another video: no clip goes on over such a gap
            restarts = np.cumsum(np.diff(numbers, prepend=numbers[0]) < 0)
            numbers = np.arange(len(frames)) + 100 * restarts
        for image, number in zip(frames, numbers.astype(int).tolist(), strict=True):
            numbered.append({**image, "frame_id": number})
    return numbered


def tracks_of(people):
    """The tracks of a file's people: of each {frame number: Person}."""
    tracks = collections.defaultdict(dict)
    for person in people:
        twin = 0  # a second one of that id in a frame is somebody else
        while person.time in tracks[person.video, person.track_id, twin]:
            twin += 1
        tracks[person.video, person.track_id, twin][person.time] = person
    return tracks.values()


@dataclass
class Person:
    """A person in one picture, made of an entry of a file."""

    path: Path  # of the picture
    labelled: tuple  # width, height that it had when it was labelled; nan: not known
    turned: bool  # it was labelled as its EXIF entry turns it
    image_id: int | str | None  # None: no evaluation counts this
    track_id: int | str | None
    video: int | str  # see `video_of`
    time: int  # number of the frame in its video
    box: np.ndarray  # (4,) x, y, w, h
    joints: np.ndarray  # (K, 3), zeros where they were not asked for
    area: float
    score: float  # of a detected box, 1 of an annotated one


class FileClips(Clips):
    """Clips whose frames are read from files.

    skeleton     of the file's category of people, category_id
    order        the file's joint order[k] is joint k of the skeleton
    files        array (N, F): paths of the pictures
    labelled     array (N, F, 2): width and height that the picture had when it was labelled, or nan
    turned       array (N, F): whether it was labelled as its EXIF entry turns it
    ids          array (N, F, 2): image id and track id, as the file has them; None where a frame
                 only fills up its clip, or an evaluation could not use it
    scores       array (N,): of detected boxes, 1 of annotated ones
    annotations  what was read, completed, without entries that no evaluation could use
    skipped      {reason: [how many were left out, the first of them]}
    doubts       the same of labels that are used, but contradict the picture or themselves

    Subclasses say which keys an entry needs, and which ones more for the official numbers.
    """

    needed_to_score = ()

    def __init__(self, name, size, clips, where, cell, workers, frames=1):
        """clips: lists of F `Person`s or more; where: the file or folder they were read from."""
        if not clips:
            reason = f"left out {self.left_out}" if self.skipped else "it lists no person"
            remedy = "mend it, or give another --root, --boxes or fewer --frames"
            raise UserError(f"{where} has no usable person ({reason}): {remedy}")
        people = list(itertools.chain.from_iterable(clips))

        def array(field, dtype=None):
            """(N, F, ...): a field of all people."""
            values = np.array([getattr(person, field) for person in people], dtype)
            return values.reshape(len(clips), -1, *values.shape[1:])

        self.files = array("path")
        self.turned = array("turned")
        self.labelled = array("labelled")
        self.ids = np.stack([array("image_id", object), array("track_id", object)], axis=-1)
        self.scores = array("score")[:, 0]
        arrays = [array("box"), array("joints"), array("area")]
        super().__init__(name, size, *arrays, cell, workers, frames)
        self._check_labels()
        for reason, (count, first) in self.doubts.items():
            say_once(f"{name}: {count} x {reason} ({first})")

        # a whole folder of damaged pictures should be found out now, not after a day of training
        for index in range(min(20, len(self))):
            matrix = crop_matrix(self.boxes[index, 0], size)
            if self._crop(index, 0, matrix) is not None:
                return
        raise UserError(f"no picture of {name} can be read (20 were tried): fetch them again")

    def _leave_out(self, left_out):
        self.skipped.setdefault(left_out.reason, [0, left_out.example])[0] += 1

    def _doubt(self, reason, example):
        self.doubts.setdefault(reason, [0, example])[0] += 1

    @property
    def left_out(self):
        """How many people were left out and why, with the first of them, to read."""
        parts = [f"{n} x {reason} ({first})" for reason, (n, first) in self.skipped.items()]
        return ", ".join(parts)

    @property
    def has_official_numbers(self):
        """Whether an evaluation would count anybody."""
        return bool(self.annotations["annotations"])

    @contextlib.contextmanager
    def open_image(self, index, t):
        """Frame t of a clip, an opened file: see `open_picture`."""
        with open_picture(self.files[index, t]) as image:
            yield ImageOps.exif_transpose(image) if self.turned[index, t] else image

    def _read(self, path, hint):
        """What a file says: its usable images, its entries, and its category of people alone.

        The category also tells the skeleton. UserError if the file is useless.
        """
        page = read_json(path, hint)
        if not isinstance(page, dict):
            raise UserError(f"{path} has no list of images: {hint}")
        entries = dicts_of(page, "annotations")
        category = person_category(page, path)
        category["keypoints"] = joint_names(category, entries, type(self).skeleton, path)
        skeleton, order = skeleton_from(category)
        if "skeleton" in vars(self) and skeleton.joints != self.skeleton.joints:
            raise UserError(f"{path} has other joints than the file before it")
        self.skeleton = skeleton
        self.order = order
        self.category_id = category["id"]

        images = {}
        for image in dicts_of(page, "images"):
            if not (isinstance(image.get("id"), ID) and isinstance(image.get("file_name"), str)):
                continue
            if images.setdefault(image["id"], image)["file_name"] != image["file_name"]:
                remedy = "give each its own (were two files merged?)"
                raise UserError(f"{path} has two images of id {image['id']!r}: {remedy}")
        page |= {"images": list(images.values()), "annotations": entries}
        return page | {"categories": [category]}

    def _people(self, page, entries, folder):
        """(usable, people): the entries that an evaluation can use, and the `Person`s of those that
        we can use. All others are counted in `skipped`."""
        images = {image["id"]: image for image in page["images"]}
        usable = []
        people = []
        for entry in entries:
            try:
                if entry.get("category_id") not in (None, self.category_id):
                    raise LeftOut(f"category_id is not {self.category_id!r}", entry["category_id"])
                complete = complete_entry(entry, self.needed, len(self.skeleton.joints))
                if complete["image_id"] not in images:
                    raise LeftOut("no image with id, file_name", complete["image_id"])
                self._mend(complete)
                usable.append(complete)
                people.append(self._person(complete, images[entry["image_id"]], folder))
            except LeftOut as left_out:
                self._leave_out(left_out)
        return usable, people

    def _counts(self, entry):
        """Whether the official numbers can count a complete entry."""
        return all(key in entry for key in self.needed_to_score)

    def _mend(self, entry):
        """Compute again what contradicts the rest of a complete entry."""
        example = f"image {entry['image_id']!r}"
        computed = {"area": box_area(entry)}
        if "keypoints" in self.needed:
            joints = np.reshape(entry["keypoints"], (-1, 3))
            # exporters put what they do not have at a corner
            x, y, v = joints.T
            missing = (v > 0) & (x == y) & ((x == 0) | (x == -1))
            if missing.any():
                joints[missing] = 0
                entry["keypoints"] = joints.ravel().tolist()
                self._doubt("joint at 0, 0 or -1, -1, which counts as unlabelled", example)
            computed["num_keypoints"] = int((joints[:, 2] > 0).sum())
        for key, value in computed.items():
            if entry.get(key, value) < 0.001 * value:
                entry[key] = value
                self._doubt(f"{key} is too small for the rest, so it is computed again", example)

    def _person(self, entry, image, folder):
        """A complete entry -> Person; LeftOut if it has nothing for us, though an evaluation asks
        for crowds and people without joints."""
        if entry["iscrowd"]:
            raise LeftOut("crowd", f"image {image['id']!r}")
        box = as_numbers(entry.get("bbox"), (4,), LARGEST)
        if box is None or box[2:].min() < 0.01:
            raise LeftOut("box without area", entry.get("bbox"), "x, y, width, height in pixels")
        joints = np.zeros((len(self.skeleton.joints), 3))
        if "keypoints" in self.needed:
            joints = np.reshape(entry["keypoints"], joints.shape)[self.order]
            if joints[:, 2].max() <= 0:
                raise LeftOut("no joints", f"image {image['id']!r}")
        path = Path(folder, image["file_name"])
        if "\\" in image["file_name"] and not path.is_file():  # written on Windows
            path = Path(folder, image["file_name"].replace("\\", "/"))
        if not os.path.isfile(path) or os.path.getsize(path) == 0:
            raise LeftOut("picture missing or empty", str(path), f"file_name begins in {folder}")
        if path not in self.pictures:
            self.pictures[path] = self._look_at(path, image)
        labelled, turned = self.pictures[path]
        return Person(
            path=path,
            labelled=labelled,
            turned=turned,
            image_id=image["id"] if self._counts(entry) else None,
            track_id=entry.get("track_id"),
            video=video_of(image),
            time=image.get("frame_id", 0),
            box=box,
            joints=joints,
            area=float(entry["area"]),
            score=float(entry["score"]) if "score" in self.needed else 1.0,
        )

    def _look_at(self, path, image):
        """How a picture lies under its labels -> the (width, height) that it had when it was
        labelled, and whether it was labelled as its EXIF entry turns it."""
        try:
            with open_picture(path) as picture:
                stored = picture.size
                turn = picture.getexif().get(EXIF_TURN, 1)
        except UserError:  # told when it is cropped
            return (math.nan, math.nan), False
        stated = as_numbers([image.get("width"), image.get("height")], (2,), LARGEST)
        if stated is None or stated.min() < 1 or (stated == stored).all():
            if turn > 1 and (stated is None or turn < 5 or stored[0] == stored[1]):
                reason = "turn noted in EXIF that no width and height confirm, so it is not applied"
                self._doubt(reason, path)
            return stored, False

        # the same picture, turned or made smaller, has the same shape
        example = f"{path}: {stored[0]}x{stored[1]}, in the file {stated[0]:g}x{stated[1]:g}"
        for turned in (False, turn > 4):
            ratio = stated / (stored[::-1] if turned else stored)
            if ratio.max() < 1.02 * ratio.min():
                done = "the picture is turned as EXIF says" if turned else "the labels are scaled"
                self._doubt(f"another size than the file says, so {done}", example)
                return tuple(stated.tolist()), turned
        self._doubt("another size than the file says: the labels may not fit", example)
        return stored, False

    def _check_labels(self):
        """Tell what boxes and joints look like, where that is not what they should be."""
        clip = np.s_[:, : self.frames]  # most spare frames are those of the next clip
        boxes = self.boxes[clip].reshape(-1, 4)
        joints = self.joints[clip].reshape(len(boxes), -1, 3)
        labelled = joints[..., 2] > 0  # (P, K), of P people; none of those who were detected
        places = joints[..., :2]  # (P, K, 2)
        for key, values in (("bbox", boxes), ("keypoints", places[labelled])):
            if values.size and values.min() >= 0 and values.max() <= 1:
                remedy = "multiply by the width and height of the pictures"
                raise UserError(f"{self.name}: all {key} lie in 0 .. 1, not in pixels: {remedy}")

        # joints outside of the picture; where its size is nan, there are none
        sizes = self.labelled[clip].reshape(-1, 1, 2)
        outside = ((places < -1) | (places > sizes + 1)).any(axis=2) & labelled  # (P, K)
        # people with most of their joints outside of their box
        low, high = boxes[:, :2], boxes[:, 2:]
        distance = np.abs(places - (low + high / 2)[:, None])
        apart = (distance > 0.55 * high[:, None]).any(axis=2) & labelled  # (P, K)
        apart = apart.sum(axis=1) > 0.5 * labelled.sum(axis=1)
        # boxes to the end of the picture that, read as corners, are smaller and hold all joints
        last = np.where(labelled[..., None], places, 0).max(axis=1)  # (P, 2)
        corners = ((low < high) & (last <= high)).all(axis=1)
        corners &= (low + high > sizes[:, 0] - 1).any(axis=1)
        corners &= high.prod(axis=1) > 1.2 * (high - low).prod(axis=1)
        looks = {
            "bbox that looks like x1, y1, x2, y2, where x, y, width, height are read": corners,
            "joints outside a picture: was it made smaller after it was labelled?": outside.any(1),
            "joints outside their bbox: are both in pixels, x before y?": apart,
        }
        # of some people all may be true
        looks = {reason: found for reason, found in looks.items() if found.mean() > 0.5}
        small = (high.max(axis=1) < 8) & labelled.any(axis=1)
        looks["bbox below 8 pixels: is it in pixels of the picture?"] = small
        for reason, found in looks.items():
            if found.any():
                person = found.argmax()
                example = f"{self.files[clip].flat[person]}: {boxes[person].round(2).tolist()}"
                self.doubts[reason] = [int(found.sum()), example]


class CocoPeople(FileClips):
    """Everyone with joints in COCO 2017, or in files like it, as clips of one frame.

        root/annotations/person_keypoints_val2017.json      or train2017
            images:      {id, file_name} and more, one for each picture
            annotations: {image_id, bbox [x, y, w, h], keypoints [x, y, v, x, y, v, ...], area,
                          iscrowd, num_keypoints, category_id}, one for each person
            categories:  {id, name, keypoints [names], skeleton [[1, 2], ...], sigmas}
        root/val2017/000000000785.jpg

    boxes: use everyone whom a detector found instead: a JSON list of {image_id, category_id, bbox,
    score}. They have no joints. The split test-dev, whose annotations are secret, needs them:

        root/annotations/image_info_test-dev2017.json       images and categories
        root/test2017/000000000001.jpg
    """

    skeleton = COCO
    needed = ("image_id", "bbox", "keypoints")

    def __init__(self, root, split, size=(256, 192), boxes=None, cell=CELL, workers=None):
        self.skipped = {}
        self.doubts = {}
        self.pictures = {}
        if split == "test-dev" and not boxes:
            raise UserError("COCO test-dev has no annotated boxes: give --boxes, found people")
        kind = "image_info" if split == "test-dev" else "person_keypoints"
        where = Path(root, "annotations", f"{kind}_{split}2017.json")
        folder = Path(root, f"{split.removesuffix('-dev')}2017")
        hint = "--root must be COCO 2017's folder, with annotations/, train2017/ and val2017/"
        page = self._read(where, hint)

        # with detections too: it takes out what an evaluation could not use
        usable, people = self._people(page, page["annotations"], folder)
        self.annotations = {**page, "annotations": usable}
        name = f"COCO {split}2017"
        if boxes:
            hint = "--boxes wants a JSON list of {image_id, category_id, bbox, score}"
            detections = {"boxes": read_json(boxes, hint)}
            self.needed = ("image_id", "bbox", "score")
            _, people = self._people(page, dicts_of(detections, "boxes"), folder)
            name += ", detected boxes"
        clips = [[person] for person in people]
        super().__init__(name, size, clips, boxes or where, cell, workers)


class PoseTrackClips(FileClips):
    """Clips of consecutive labelled frames of one track of PoseTrack18; no two share a frame.

    A clip follows a person: whoever appears between two key frames of a video begins with a key
    frame of their own. A training clip may begin up to F - 1 frames later, into the next one, as
    far as the track goes: so every frame that has F - 1 others after it can be a key frame.

        root/annotations/val/003418_mpii_test.json          or train: one file for each video
            images:      {id, frame_id, file_name}
            annotations: {image_id, track_id, bbox, bbox_head, keypoints}, a track is one person
            categories:  as in COCO
        root/images/val/003418_mpii_test/000000.jpg         a file_name starts with "images"

    whole: parts of a track that are too short for a clip are left out. Otherwise they are filled up
    with their last frame, unlabelled and with the ids None, so that an evaluation finds each
    labelled frame in exactly one clip.

    People without a head box are used, but PoseTrack's official numbers cannot count them.

    sequences    {name of the file: its images}
    sequence     array (N,): the file that a clip is from
    annotations  the lists of all files joined, with joints in the skeleton's order. As files may
                 number their images alike, each entry says of which "sequence" it is
    labelled_by  None, or the network that made the labels, see `vipnas.write_labels`
    """

    skeleton = POSETRACK
    needed = ("image_id", "track_id", "keypoints")
    needed_to_score = ("bbox_head",)

    def __init__(self, root, split, frames=4, size=(256, 192), whole=True, cell=CELL, workers=None):
        self.skipped = {}
        self.doubts = {}
        self.pictures = {}
        self.sequences = {}
        self.annotations = {"images": [], "annotations": []}
        self.labelled_by = None
        folder = Path(root, "annotations", split)
        hint = "--root must be a folder with PoseTrack18's annotations/ and images/"
        paths = sorted(folder.glob("*.json")) if os.path.isdir(folder) else []
        if not paths:
            raise UserError(f"there is no annotation file in {folder}: {hint}")

        # the frames behind a clip that it may take in when it begins later
        spare = frames - 1 if split == "train" else 0
        clips = []
        sequence = []
        headless = 0
        for path in paths:
            try:
                page = self._read(path, hint)
            except UserError as error:
                self._leave_out(LeftOut("annotation file", str(error)))
                continue
            self.labelled_by = page.get("labelled_by", self.labelled_by)
            page["images"] = number_frames(page["images"])
            entries, people = self._people(page, page["annotations"], root)
            self._join(path.name, page["images"], entries)
            headless += sum(person.image_id is None for person in people)

            for track in tracks_of(people):
                clips += self._cut(track, frames, spare, whole)
            sequence += [path.name] * (len(clips) - len(sequence))
        self.sequence = np.array(sequence)
        name = f"PoseTrack18 {split}"
        super().__init__(name, size, clips, folder, cell, workers, frames)
        if headless and split != "train":
            reason = f"{headless} people have no head box (bbox_head)"
            say_once(f"{self.name}: {reason}, so PoseTrack's official numbers leave them out")

    def _join(self, name, images, entries):
        """Add a file to what an evaluation sees of all files."""
        self.sequences[name] = images
        joined = self.annotations
        joined["categories"] = [{**self.skeleton.category, "id": self.category_id}]
        joined["images"] += [{**image, "sequence": name} for image in images]
        for entry in entries:
            if self._counts(entry):
                joints = np.reshape(entry["keypoints"], (-1, 3))[self.order]
                keypoints = joints.ravel().tolist()
                joined["annotations"].append({**entry, "keypoints": keypoints, "sequence": name})

    def _cut(self, track, frames, spare, whole):
        """One track -> its clips of `frames` people and `spare` more, from the first frame on."""
        clips = []
        seen = set()
        times = sorted(track)
        while times:
            # How many frames follow one another? PoseTrack labels each frame in the middle of a
            # video and every fourth elsewhere: both will do, a mixture or a gap does not. Of frames
            # 0 4 8 9 10 13, clips of three are 0 4 8 and, with fillers, 9 10 10 and 13 13 13
            steps = np.diff(times[: frames + spare])
            good = (steps == steps[:1]) & np.isin(steps, (1, 4))
            count = 1 + int(np.cumprod(good).sum())

            # too short for a clip: the next may start one frame later
            if count < frames and whole:
                if times[0] not in seen:
                    reason = f"frame without {frames - 1} labelled ones after it"
                    wanted = "frame_ids in steps of 1 or 4"
                    self._leave_out(LeftOut(reason, str(track[times[0]].path), wanted))
                times = times[1:]
                continue

            # a whole one, or filled up; its spare frames are the first of the next clip
            clip = [track[number] for number in times[:count]]
            last = clip[-1]
            filler = replace(last, image_id=None, track_id=None, joints=last.joints * [1, 1, 0])
            clips.append(clip + [filler] * (frames + spare - count))
            seen.update(times[:count])
            times = times[min(count, frames) :]
        return clips


def open_clips(
    kind, root, split, frames, size, count=None, boxes=None, cell=CELL, workers=None, seed=0
):
    """Clips of `kind` "synthetic", "coco" or "posetrack"; prints how many people are left out.

    split: train; val, for the search; test, for the report. The test annotations of the real data
    sets are secret: there it is val too, with every labelled frame of PoseTrack18. boxes: see
    CocoPeople. count: how many clips to train with; of synthetic people the others are four times
    as many, at most 400, of real data all. workers: processes that read or render them. seed: each
    trains with other synthetic people, and evaluates on the same.
    """
    if kind == "synthetic":
        first = 10**6 * seed
        if split != "train":
            first = 0
            count = min(400, 4 * count)
        return SyntheticClips(split, count, frames, size, workers, cell, first)

    # the annotated parts of the real data sets are train and val
    part = "val" if split == "test" else split
    if kind == "coco":
        clips = CocoPeople(root, part.removesuffix("2017"), size, boxes, cell, workers)
    else:
        whole = split != "test"
        clips = PoseTrackClips(root, part, frames, size, whole, cell, workers)
    if clips.left_out:
        say_once(f"{clips.name}: left out {clips.left_out}")
    if split == "train":
        # only an evaluation needs them: of COCO they are 1.4 GB
        clips.annotations = None
        clips.ids = np.full_like(clips.ids, None)
        return clips.head(count) if count else clips
    return clips


# -------------------------------------------------------------- whole files, locks, messages, cores
@contextlib.contextmanager
def whole_file(path):
    """A binary file to write what shall be found under `path`, whole or not at all: it gets its
    name when it is on the disk, and until then an older file stays. UserError if that fails.
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
        reason = cause.strerror or cause
        raise UserError(f"{path} cannot be written ({reason}); an older one is untouched") from None


def write_json(contents, path):
    """Write JSON, whole or not at all. NaN and infinity are no JSON: ValueError."""
    text = json.dumps(contents, indent=1, allow_nan=False)
    with whole_file(path) as file:
        file.write(text.encode())


def try_folder(folder):
    """Try what comes last before hours of work: draw text, make a GIF, write it into the folder.

    Neither the file nor, if it is new, the folder stays. UserError if any of this fails.
    """
    is_new = not os.path.isdir(folder)
    try:
        frames = [Image.new("L", (16, 16), grey) for grey in (0, 99)]
        for frame in frames:
            font = ImageFont.load_default(13)
            ImageDraw.Draw(frame).text((8, 8), "AP", 255, font, anchor="mm")
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp") as file:
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
            file.flush()
    except OSError as error:
        problem = f"the results cannot be written to {folder} ({error.strerror or error})"
        raise UserError(f"{problem}: name another folder") from None
    except Exception as error:
        # a Pillow that is too old, or built without fonts, raises many kinds
        remedy = "pip install --upgrade --force-reinstall pillow"
        raise UserError(f"Pillow cannot draw the results ({error}): {remedy}") from None
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it could not be made, or another run is in it
                os.rmdir(folder)


@contextlib.contextmanager
def locked(folder):
    """Inside, no other process on this machine may be in `locked` with this folder: UserError.
    However a process ends, its lock ends with it. Where the file system has no locks, it is said.
    """
    if not fcntl:
        yield
        return
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        # a worker process that is forked off has no part in the lock; after the end this does
        # nothing, for the number may be another file's by then
        multiprocessing.util.register_after_fork(stack, contextlib.ExitStack.close)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remedy = "wait, or name another folder"
            raise UserError(f"another run writes to {folder}: {remedy}") from None
        except OSError as error:  # some file systems of networks and containers have no locks
            reason = error.strerror or error
            say_once(f"{folder} cannot be locked ({reason}): start no other run that writes there")
        yield


class Progress:
    """Says about once a minute how far something is that may take long."""

    def __init__(self):
        self.said = time.time()

    def show(self, text):
        """Print the text, if nothing was printed for a minute."""
        if time.time() - self.said >= 60:
            self.said = time.time()
            print(text, flush=True)


@functools.cache
def say_once(text):
    """Print something, if it was not said before."""
    print(text)


def cores():
    """How many processors this process may use: on a shared machine not all that are there."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def left_over(name, why=""):
    """The UserError for an environment variable of torchrun that was left over."""
    what = f"the environment variable {name} is {os.environ.get(name)!r}{why}"
    return UserError(f"{what}: unset it, or start with torchrun")


def launcher_number(name, least=0):
    """The number in an environment variable of torchrun, or `least` without it. UserError if it is
    no number, or below `least`."""
    with contextlib.suppress(ValueError):
        number = int(os.environ.get(name, least))
        if number >= least:
            return number
    raise left_over(name)


# the `type` of options that are paths: in --out=~/runs a shell leaves the home folder to us
path_option = os.path.expanduser


def replace_unprintable(*_):
    """From now on what the console cannot show, such as a name, is escaped and raises no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program may have put another object there
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def command(name, stopped="stopped"):
    """Around a command: whatever the user can mend ends it with one sentence and exit code 1."""
    replace_unprintable()
    try:
        yield
    except (UserError, OSError) as error:
        # what a loader process raised carries its traceback before the sentence
        lines = str(error).strip().splitlines() or [type(error).__name__]
        sentence = f"{name}: " + lines[-1].removeprefix("data.UserError: ")
        if threading.current_thread() is not threading.main_thread():
            print(sentence, file=sys.stderr)  # there the end of a thread says nothing
        sys.exit(sentence)
    except KeyboardInterrupt:
        sys.exit(f"{name}: {stopped}")


# ------------------------------------------------------------------------------------------- export
def export(kind, out, count, frames=8, size=(256, 192)):
    """Write synthetic people in the layout of `kind`, "coco" or "posetrack", to try every command
    for real data without the data.

    `count` people (or sequences of `frames` frames) to train with, a quarter as many to validate,
    and of COCO as many again without annotations, as in test-dev.
    """
    few = max(1, count // 4)
    for split, number in (("train", count), ("val", few), ("test", few)):
        if kind == "coco":
            _export_coco(SyntheticClips(split, number, 1, size), Path(out), split)
        elif split != "test":
            _export_posetrack(SyntheticClips(split, number, frames, size), Path(out), split)


def _export_coco(clips, out, split):
    """Pictures and annotations; of val and test also detections."""
    page = {"images": [], "annotations": [], "categories": [COCO.category]}
    detections = []
    rng = random.Random(0)
    for index in range(len(clips)):
        number = index + 1
        name = f"{number:012d}.jpg"
        picture = Image.fromarray(clips.images[index, 0])
        save_image(picture, out / f"{split}2017" / name)
        page["images"].append({"id": number, "file_name": name})
        person = _annotation(number, clips.boxes[index, 0], clips.joints[index, 0])
        page["annotations"].append({**person, "area": float(clips.areas[index, 0])})

        # what a detector might find: the box of everyone, moved a little, twice
        for _ in range(2):
            box = [value + rng.gauss(0, clips.size[1] / 50) for value in person["bbox"]]
            found = {"image_id": number, "category_id": 1, "bbox": box}
            detections.append({**found, "score": rng.random()})

    folder = out / "annotations"
    if split == "test":
        del page["annotations"]  # those of test-dev are secret
        write_json(detections, folder / "person_detections_test-dev2017.json")
        write_json(page, folder / "image_info_test-dev2017.json")
        return
    write_json(page, folder / f"person_keypoints_{split}2017.json")
    if split == "val":
        write_json(detections, folder / "person_detections_val2017.json")


def _export_posetrack(clips, out, split):
    """Each clip as a sequence with one track, named as poseval wants it."""
    kind = "train" if split == "train" else "test"
    for index in range(len(clips)):
        video = f"{split}/{index:06d}_mpii_{kind}"
        page = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
        for t in range(clips.frames):
            number = (10**6 + index) * 10**4 + t
            name = f"images/{video}/{t:06d}.jpg"
            save_image(Image.fromarray(clips.images[index, t]), out / name)
            image = {"id": number, "frame_id": number, "file_name": name, "is_labeled": True}
            page["images"].append({**image, "vid_id": f"{index:06d}"})
            joints, head = _as_posetrack(clips.joints[index, t])
            person = _annotation(number, clips.boxes[index, t], joints)
            page["annotations"].append({**person, "track_id": 0, "bbox_head": head})
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
    # PoseTrack wants the neck and the top of the head, which a synthetic person does not have
    ears = joints[3:5, :2].mean(axis=0)
    neck = joints[5:7, :2].mean(axis=0)
    top = neck + 1.55 * (ears - neck)
    radius = np.linalg.norm(top - ears)
    visibility = joints[3:7, 2].min()

    # joints 3 and 4, the ears, are never annotated, and all others count as visible
    joints = joints.copy()
    joints[1] = [*neck, visibility]
    joints[2] = [*top, visibility]
    joints[3:5] = 0
    joints[:, 2] = joints[:, 2] > 0
    return joints, [*(ears - radius), 2 * radius, 2 * radius]


# -------------------------------------------------------------------------------- pictures of poses
# colours of joints and limbs; those between left and right are yellow
LEFT = (60, 230, 90)
RIGHT = (255, 70, 60)
MIDDLE = (255, 220, 60)


def _side_colour(skeleton, *joints):
    """The colour of a joint, or of the limb between two."""
    has_left = any(left in joints for left, _ in skeleton.sides)
    has_right = any(right in joints for _, right in skeleton.sides)
    if has_left == has_right:
        return MIDDLE
    return LEFT if has_left else RIGHT


def draw_pose(image, keypoints, skeleton, threshold=0.2, colour=None):
    """A copy of a PIL image with a pose on it: joints and limbs, the left green, the right red.

    keypoints (K, 3): x, y in its pixels, and visibility or score; joints that are not above
    `threshold`, or not finite, are not drawn. colour: of all limbs, to tell several people apart.
    """
    image = as_picture(image).copy()
    draw = ImageDraw.Draw(image)
    line = 1 + max(image.size) // 250  # as thick as can be seen in a picture of this size
    keypoints = np.asarray(keypoints, dtype=float)
    shown = np.isfinite(keypoints).all(axis=1) & (keypoints[:, 2] > threshold)
    points = keypoints[:, :2] + 0.5  # Pillow counts from the corner of a pixel

    # limbs first, the joints lie over them
    for a, b in skeleton.limbs:
        if shown[a] and shown[b]:
            fill = colour or _side_colour(skeleton, a, b)
            draw.line([*points[a], *points[b]], fill=fill, width=line)
    for k in np.flatnonzero(shown):
        draw.circle(points[k].tolist(), line, fill=_side_colour(skeleton, k))
    return image


def sheet(rows):
    """Lists of PIL images -> one image with a row for each list, all cells as large as needed."""
    sizes = [image.size for image in itertools.chain.from_iterable(rows)]
    width, height = np.max(sizes, axis=0).tolist()
    columns = max(map(len, rows))
    page = Image.new("RGB", (width * columns, height * len(rows)))
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            page.paste(image, (c * width, r * height))
    return page


def save_image(image, path):
    """Write a PIL image, or a list of them as a GIF that repeats, whole or not at all.

    Raises UserError: the name does not end like a picture's, or it cannot be written.
    """
    frames = image if isinstance(image, list) else [image]
    endings = {".gif": "GIF"} if len(frames) > 1 else Image.registered_extensions()
    # the temporary file of `whole_file` has another ending, so the format is told
    form = endings.get(Path(path).suffix.lower())
    if form is None:
        raise UserError(f"{path} cannot be written: its name must end in .gif, or .png for one")
    options = {"quality": 95}
    if len(frames) > 1:
        options = {"save_all": True, "append_images": frames[1:], "duration": 200, "loop": 0}
    with whole_file(path) as file:
        frames[0].save(file, format=form, **options)


# -------------------------------------------------------------------------------------- the command
def main():
    """Draw a few clips of synthetic people; or export a data set of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--out", type=path_option, help="picture to write (people.png), or folder to export to")
    add("--export", choices=("coco", "posetrack"), help="layout of the data set")
    add("--clips", type=int, default=200, help="people or sequences to export")
    options = parser.parse_args()
    if options.export:
        if not options.out:
            raise UserError("--export needs --out DIR, the folder to write the data set to")
        try_folder(options.out)
        export(options.export, options.out, options.clips)
        print(f"{options.out}: synthetic people in the layout of {options.export}")
        return

    # a row for each clip: its frames, then its first and its last pose
    clips = SyntheticClips("train", 6, workers=1)
    rows = []
    for images, joints in zip(clips.images, clips.joints, strict=True):
        row = [Image.fromarray(pixels) for pixels in images]
        first = draw_pose(row[0], joints[0], COCO)
        last = draw_pose(row[-1], joints[-1], COCO)
        rows.append([*row, first, last])
    page = sheet(rows)
    out = options.out or "people.png"
    save_image(page.resize((2 * page.width, 2 * page.height)), out)
    print(f"{out}: {len(clips)} clips of {clips.frames} frames; then the first and the last pose")


if __name__ == "__main__":
    with command("data"):
        main()
