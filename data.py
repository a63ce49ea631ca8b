"""People to learn from: drawn ones, COCO 2017 and PoseTrack 2018; crops, heatmaps in and out, drawing (Sec. 4.1).

A *clip* is `frames` consecutive pictures of one person seen through one window, so that the heatmaps of one frame can
be handed to the next (Sec. 3.3); a COCO person is a clip of one frame. Every source of clips below has the same face:

    clips = SyntheticClips("train", 1000)              # or CocoPeople(root, "train"), PoseTrackClips(root, "train")
    batch = clips.batch([0, 1, 2], rng=random.Random(0))          # images, heatmaps, weights, matrices, joints

Coordinates: a pixel's centre has whole numbers, x to the right, y down. A heatmap has a quarter of the crop's size;
its cell i lies over the pixels 4i .. 4i+3, so its centre is at pixel 4i + 1.5.

The drawn people are ours, not the paper's: they let every stage run on a laptop without a download. See them with

    python data.py                                     # writes people.png, prints how many frames a second were drawn
"""
import argparse
import colorsys
import contextlib
import copy
import functools
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

class DataError(Exception):
    """Something the user can put right; the message names the file or option and says what to do."""

# ---------------------------------------------------------------------------------------------------- skeletons
@dataclass(frozen=True)
class Skeleton:
    """Names and constants of one set of joints; nothing else in the project knows them."""
    name: str
    joints: tuple       # K names, in the order of the annotation files
    flip: tuple         # K indices: joint k of a mirrored person is joint flip[k] of the person
    sigmas: tuple       # K constants of the object keypoint similarity (OKS); the variance is (2 sigma)^2
    limbs: tuple        # pairs of joint indices, to draw

def _skeleton(name, head, head_sigmas, head_limbs):
    """The five `head` joints differ between data sets, the twelve joints of the body do not."""
    body = [f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
            for side in ("left", "right")]
    joints = (*head, *body)
    mirror = {"left": "right", "right": "left"}
    flip = tuple(joints.index("_".join(mirror.get(word, word) for word in joint.split("_"))) for joint in joints)
    sigmas = head_sigmas + tuple(s for s in (.079, .072, .062, .107, .087, .089) for _ in range(2))
    limbs = head_limbs + ((5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
                          (11, 13), (13, 15), (12, 14), (14, 16))
    return Skeleton(name, joints, flip, sigmas, limbs)

COCO = _skeleton("coco", ("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
                 (.026, .025, .025, .035, .035), ((0, 1), (0, 2), (1, 3), (2, 4)))
# PoseTrack18 keeps COCO's 17 slots, two of them renamed; its ears are never annotated. It has no OKS constants: for
# head_bottom (the neck) we take the shoulder's, for head_top the ear's.
POSETRACK = _skeleton("posetrack", ("nose", "head_bottom", "head_top", "left_ear", "right_ear"),
                      (.026, .079, .035, .035, .035), ((0, 1), (0, 2), (1, 5), (1, 6)))

# -------------------------------------------------------------------------------------- windows, crops and matrices
BOX_TO_AREA = 0.53      # a person's share of the box, where no outline was drawn (the usual figure of tools for COCO)
PADDING = 1.25          # of a person's box, as SBL and HRNet take it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)      # of ImageNet, RGB in 0 .. 1

def normalise(images):
    """uint8 images (..., 3, H, W) -> float32 of the same shape, ImageNet mean 0 and deviation 1."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std

def window(box, size=(256, 192), padding=PADDING):
    """The person's box (x, y, w, h) enlarged about its centre to the shape of `size` (H, W), then by `padding`.

    Raises DataError for a box without area.
    """
    x, y, w, h = (float(v) for v in box)
    if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
        raise DataError(f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g} has no area: give a width and height above 0")
    wide = max(w, h * size[1] / size[0]) * padding
    high = wide * size[0] / size[1]
    return np.array([x + (w - wide) / 2, y + (h - high) / 2, wide, high])

def affine(box, size=(256, 192), rotation=0.0, scale=1.0, flip=False):
    """Image pixels -> pixels of the crop that shows the window of `box`: a (2, 3) float64 matrix.

    rotation: degrees, clockwise on the screen; scale: above 1 the person gets larger; flip: mirror the crop.
    A mirrored person's left is his right: whoever passes flip=True also permutes the joints by `Skeleton.flip`.
    """
    x, y, wide, high = window(box, size)
    zoom, angle = scale * size[1] / wide, math.radians(rotation)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if flip:
        linear[0] *= -1
    # the middle of the window goes to the middle of the crop; -.5 because pixel 0 reaches from -.5 to .5
    source, target = np.array([x + wide / 2, y + high / 2]) - .5, np.array([size[1] / 2, size[0] / 2]) - .5
    return np.column_stack([linear, target - linear @ source])

def invert(matrix):
    """Inverse of affine matrices (..., 2, 3): crop pixels -> image pixels. Takes arrays or CPU tensors, gives arrays."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)

def transform(points, matrix):
    """Points (..., 2 or 3) through an affine matrix (2, 3); a third column (visibility, score) stays as it is.

    Many matrices (..., 2, 3) are broadcast over points (..., K, 2 or 3). A tensor gives a tensor, anything else float64.
    """
    if torch.is_tensor(points):
        result, matrix = points.clone(), torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    else:
        result, matrix = np.array(points, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    shift = matrix[..., 2] if matrix.ndim == 2 else matrix[..., None, :, 2]
    result[..., :2] = result[..., :2] @ matrix[..., :2].swapaxes(-1, -2) + shift
    return result

def crop(image, matrix, size):
    """Warp a PIL image by `matrix` (image -> crop pixels) to a uint8 tensor (3, H, W); black outside the image.

    Bilinear, after averaging whole blocks of pixels where the crop is less than half as large as the person.
    """
    image, back = image.convert("RGB"), invert(matrix)
    shrink = max(1, int(math.sqrt(abs(np.linalg.det(back[:, :2])))))
    if shrink > 1:
        image = image.reduce(shrink)
    # Pillow counts from the corner of a pixel, we count from its centre
    back[:, 2] += .5 - back[:, :2].sum(1) / 2
    pixels = image.transform((size[1], size[0]), Image.Transform.AFFINE, tuple((back / shrink).flat),
                             Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)

# ------------------------------------------------------------------------------------------------------- heatmaps
def targets(joints, size, sigma=None):
    """Joints in crop pixels -> the heatmaps a network should draw (SBL's encoding, with the exact centre kept).

    joints: (..., K, 3) float tensor, the third number > 0 where the joint is annotated; size: (H, W) of the crop.
    sigma: of the Gaussian in cells; by default 2 for a 64x48 heatmap (SBL), 1.5 for 32x24, and so on in a line.
    Returns heatmaps (..., K, H/4, W/4), 1 at a joint's exact place, and weights (..., K), 0 for joints that are not
    annotated or outside the crop.
    """
    h, w = size[0] // 4, size[1] // 4
    sigma = sigma or 1 + h / 64
    x, y = ((joints[..., i] + .5) / 4 - .5 for i in (0, 1))                                     # (..., K), in cells
    inside = (joints[..., 2] > 0) & (x >= -.5) & (x < w - .5) & (y >= -.5) & (y < h - .5)
    x, y = torch.where(inside, x, 0), torch.where(inside, y, 0)
    column = torch.exp(-((torch.arange(w, device=x.device) - x[..., None]) / sigma) ** 2 / 2)   # (..., K, W/4)
    row = torch.exp(-((torch.arange(h, device=y.device) - y[..., None]) / sigma) ** 2 / 2)      # (..., K, H/4)
    weights = inside.to(joints.dtype)
    return (weights[..., None] * row)[..., :, None] * column[..., None, :], weights

def about(skeleton, size):
    """What a finished network must know to be fed and read: plain values that are saved beside its weights."""
    return {"size": list(size), "padding": PADDING, "mean": list(MEAN), "std": list(STD),
            "joints": list(skeleton.joints), "flip": list(skeleton.flip), "limbs": [list(limb) for limb in skeleton.limbs]}

def flip_heatmaps(heatmaps, skeleton):
    """Heatmaps (..., K, h, w) of a mirrored image -> those of the image: mirrored, left and right swapped."""
    return heatmaps.flip(-1)[..., list(skeleton.flip), :, :]

# --------------------------------------------------------------------------------------------------- clips, batches
class Batch(NamedTuple):
    images: torch.Tensor        # (B, F, 3, H, W) float32, normalised
    targets: torch.Tensor       # (B, F, K, H/4, W/4) heatmaps
    weights: torch.Tensor       # (B, F, K) 1 for a joint that counts, else 0
    matrices: torch.Tensor      # (B, 2, 3) float64, image pixels -> crop pixels, one window for all frames of a clip
    joints: torch.Tensor        # (B, F, K, 3) x, y in crop pixels (left and right swapped where mirrored), visibility

class Clips(Dataset):
    """N clips of F frames of one person each, seen through one window.

    name: for messages; skeleton; size: (H, W) of the crops
    boxes: (N, 4) x, y, w, h of the person over all frames, image pixels
    joints: (N, F, K, 3) x, y in image pixels, visibility 0 not annotated, 1 hidden, 2 visible
    areas: (N, F) of the person in square image pixels, for OKS
    Subclasses add `pixels(indices, matrices)`, the clips' frames warped by (B, 2, 3) matrices as uint8 (B, F, 3, H, W), and
    `frame(index, t)`, a whole frame as a PIL image; and name in `per_clip` what else they keep for each clip.
    """
    per_clip = ("boxes", "joints", "areas")

    def __init__(self, name, skeleton, size, boxes, joints, areas):
        if min(size) < 4 or size[0] % 4 or size[1] % 4:
            raise DataError(f"crops of {size[0]}x{size[1]} pixels have no heatmap of a quarter: use multiples of 4")
        self.name, self.skeleton, self.size = name, skeleton, tuple(size)
        self.boxes, self.joints, self.areas = boxes, joints, areas

    @property
    def frames(self):
        return self.joints.shape[1]

    def __len__(self):
        return len(self.boxes)

    def head(self, count):
        """The first `count` clips, sharing their memory."""
        clips = copy.copy(self)
        for field in self.per_clip:
            setattr(clips, field, getattr(self, field)[:count])
        return clips

    def batch(self, indices, rng=None, rotation=40.0, share=slice(None)):
        """Crops, targets and matrices of the clips `indices` as a `Batch`.

        rng: a random.Random draws one augmentation for each clip, the same on all its frames (Sec. 4.1): a rotation within
        +-`rotation` degrees, a mirror for every second clip, and a scale within 10 % (ours). None: no augmentation.
        share: which of the clips to return. All are drawn for, so a part has the augmentation that it has in the whole.
        """
        indices, matrices, joints = [int(index) for index in indices], [], []
        for index in indices:
            turn, scale, flip = 0.0, 1.0, False
            if rng is not None:
                turn, scale, flip = rng.uniform(-rotation, rotation), rng.uniform(.9, 1.1), rng.random() < .5
            matrices.append(affine(self.boxes[index], self.size, turn, scale, flip))
            moved = transform(self.joints[index], matrices[-1])                                 # (F, K, 3)
            joints.append(moved[:, list(self.skeleton.flip)] if flip else moved)
        matrices = np.stack(matrices[share])
        joints = torch.from_numpy(np.stack(joints[share])).float()                              # (B, F, K, 3)
        images = normalise(self.pixels(indices[share], matrices))                               # (B, F, 3, H, W)
        return Batch(images, *targets(joints, self.size), torch.from_numpy(matrices), joints)

# ------------------------------------------------------------------------------------------------ drawn people: body
# A figure of 29 points moves in three dimensions: x to the right, y up, z towards the viewer; its height is about 1.
# A person who faces the viewer has the left arm at positive x.

NECK, PELVIS, SKULL, LEFT_HAND, RIGHT_HAND, LEFT_TOE, RIGHT_TOE, CROWN, FACE, MOUTH, COLLAR, STERNUM = range(17, 29)
X, Y, Z = range(3)
MOTION = 0.2      # how fast people move; 1 leaves so little of the last frame that memory does not help

# Joint angles in degrees: axis, sign, mean, spread among people, swing in time, lowest, highest.
TRUNK = {
    "tilt": (Z, 1, 0, 5, 2, -30, 30)  ,         # the camera is held askew
    "yaw": (Y, 1, 0, 30, 10, -400, 400),        # which way the person faces
    "lean": (X, 1, 5, 8, 5, -12, 35),
    "twist": (Y, 1, 0, 10, 8, -35, 35),         # shoulders against hips
    "bend": (Z, 1, 0, 7, 5, -20, 20),
    "look": (Y, 1, 0, 20, 12, -65, 65),
    "nod": (X, 1, 5, 10, 7, -25, 35),
}
SIDE = {                                        # of the left side; about Y and Z the right side turns the other way
    "abduct": (Z, 1, 18, 17, 14, 3, 130),       # arm away from the body
    "raise": (X, -1, 15, 22, 21, -40, 140),     # arm to the front
    "roll": (Y, -1, 20, 18, 14, -50, 80),       # upper arm about itself
    "elbow": (X, -1, 35, 22, 25, 3, 140),
    "spread": (Z, 1, 6, 5, 4, -4, 35),          # leg away from the other
    "hip": (X, -1, 8, 13, 17, -25, 85),
    "knee": (X, 1, 16, 13, 20, 3, 110),
    "ankle": (X, 1, 0, 6, 6, -20, 30),
}
ANGLES = {**TRUNK, **{f"left {k}": v for k, v in SIDE.items()},
          **{f"right {k}": (v[0], v[1] if v[0] == X else -v[1], *v[2:]) for k, v in SIDE.items()}}
# What can hide a joint: from point, to point, radius (of a person of height 1).
SOLIDS = ((5, 7, .028), (7, 9, .024), (6, 8, .028), (8, 10, .024), (11, 13, .04), (13, 15, .03), (12, 14, .04),
          (14, 16, .03), (NECK, PELVIS, .09), (SKULL, SKULL, .065))
SKINS = ((255, 219, 188), (241, 194, 150), (224, 172, 120), (190, 130, 80), (141, 85, 48), (92, 55, 34), (62, 38, 26))

def _rotations(axes, degrees):
    """Rotation matrices (n, T, 3, 3) about the coordinate axes (n,) by angles (n, T)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows, after, last = np.arange(len(axes)), (axes + 1) % 3, (axes + 2) % 3
    turn = np.zeros((*degrees.shape, 3, 3))
    turn[rows, :, axes, axes] = 1
    turn[rows, :, after, after] = turn[rows, :, last, last] = cos
    turn[rows, :, after, last], turn[rows, :, last, after] = -sin, sin
    return turn

def _shade(colour, factor):
    r, g, b = colour
    return int(r * factor), int(g * factor), int(b * factor)

def _colour(rng, dull=.15):
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(dull, .9), rng.uniform(.25, 1)))

class _Person:
    """One person: proportions, clothes and a way of moving, all drawn from `rng` at once."""

    def __init__(self, rng):
        vary = lambda mean, spread=.06: mean * rng.gauss(1, spread)
        self.torso, self.neck, self.head = vary(.29), vary(.045), vary(.066, .08)
        self.shoulder, self.hip, self.build = vary(.112), vary(.058), max(.75, vary(1.05, .12))
        self.arm, self.forearm, self.thigh, self.shin, self.foot = vary(.165), vary(.145), vary(.24), vary(.235), vary(.09)

        _, signs, mean, spread, swing, self.low, self.high = np.array(list(ANGLES.values()), float).T[..., None]
        draw = lambda f: np.array([[f()] for _ in ANGLES])                                      # (n, 1)
        self.axes, self.signs = np.array([row[0] for row in ANGLES.values()]), signs
        self.middle = mean + spread * draw(lambda: rng.gauss(0, 1))
        self.swing, self.phase = swing * draw(lambda: rng.gauss(0, 1)), draw(lambda: rng.uniform(0, 6.3))
        self.speed = MOTION * draw(lambda: rng.uniform(.4, 1.1))                                # radians a frame
        self.middle[1] += 180 * (rng.random() < .2)                     # the yaw: every fifth is seen from behind
        self.turning = MOTION * rng.gauss(0, 50 if rng.random() < .2 else 8)                    # degrees a frame
        self.walk = MOTION * np.array([rng.gauss(0, .02), rng.gauss(0, .008), 0])               # heights a frame

        tone = _shade(rng.choice(SKINS), rng.uniform(.8, 1))
        shirt, trousers = _colour(rng), _colour(rng)
        self.skin, self.shirt, self.trousers, self.shoes = tone, shirt, trousers, _colour(rng, .05)
        self.sleeve = shirt if rng.random() < .85 else tone
        self.cuff = self.sleeve if rng.random() < .55 else tone
        self.leg = trousers if rng.random() < .65 else tone
        self.chest = rng.choice([tone, _colour(rng), (235, 235, 235), (30, 30, 35)])
        self.hair = rng.choice([(35, 25, 20), (80, 50, 25), (150, 100, 50), (215, 180, 100), (120, 120, 120), (140, 50, 25),
                                _shade(tone, .8)])

    def points(self, times):
        """The figure at `times` (T,), in frames: (T, 29, 3), the 17 joints of COCO first."""
        angles = np.clip(self.middle + self.swing * np.sin(self.speed * times + self.phase), self.low, self.high)
        angles[1] += self.turning * times
        turn = dict(zip(ANGLES, _rotations(self.axes, self.signs * angles)))                    # each (T, 3, 3)
        hips = turn["tilt"] @ turn["yaw"]
        chest = hips @ turn["lean"] @ turn["twist"] @ turn["bend"]
        head = chest @ turn["look"] @ turn["nod"]
        r = self.head
        out = np.empty((29, len(times), 3))
        out[PELVIS] = times[:, None] * self.walk
        out[NECK] = out[PELVIS] + chest @ (0, self.torso, 0)
        out[SKULL] = out[NECK] + chest @ (0, self.neck, 0) + head @ (0, 1.15 * r, .1 * r)
        for point, place in ((0, (0, -.15, 1.1)), (1, (.4, .12, .9)), (2, (-.4, .12, .9)), (3, (.98, -.05, 0)),
                             (4, (-.98, -.05, 0)), (CROWN, (0, 1, 0)), (FACE, (0, 0, 1)), (MOUTH, (0, -.55, .85))):
            out[point] = out[SKULL] + head @ np.multiply(place, r)
        out[COLLAR], out[STERNUM] = out[NECK] + chest @ (0, -.01, .06), out[NECK] + chest @ (0, -.16, .065)
        for side, s, k in (("left ", 1, 0), ("right ", -1, 1)):
            arm = chest @ turn[side + "abduct"] @ turn[side + "raise"] @ turn[side + "roll"]
            forearm = arm @ turn[side + "elbow"]
            thigh = hips @ turn[side + "spread"] @ turn[side + "hip"]
            shin = thigh @ turn[side + "knee"]
            out[5 + k] = out[NECK] + chest @ (s * self.shoulder, -.02, 0)
            out[7 + k] = out[5 + k] + arm @ (0, -self.arm, 0)
            out[9 + k] = out[7 + k] + forearm @ (0, -self.forearm, 0)
            out[LEFT_HAND + k] = out[9 + k] + forearm @ (0, -.045, 0)
            out[11 + k] = out[PELVIS] + hips @ (s * self.hip, 0, 0)
            out[13 + k] = out[11 + k] + thigh @ (0, -self.thigh, 0)
            out[15 + k] = out[13 + k] + shin @ (0, -self.shin, 0)
            out[LEFT_TOE + k] = out[15 + k] + self.foot * (shin @ turn[side + "ankle"] @ (s * .25, -.35, 1))
        return out.swapaxes(0, 1)

    def draw(self, draw, p, s):
        """Paint the figure, far parts first. p: 29 points (x, y, z) on the canvas; s: canvas pixels to one height."""
        b = self.build * s
        parts = [((p[NECK][2] + p[PELVIS][2]) / 2, self._trunk, (draw, p, s)),
                 (p[SKULL][2] + .02 * s, self._head, (draw, p, self.head * s))]
        for k in (0, 1):
            shoulder, elbow, wrist, hip, knee, ankle, hand, toe = (
                p[i + k] for i in (5, 7, 9, 11, 13, 15, LEFT_HAND, LEFT_TOE))
            for start, end, r0, r1, colour, nearer in (
                    (shoulder, elbow, .03, .025, self.sleeve, .03), (elbow, wrist, .025, .018, self.cuff, .03),
                    (wrist, hand, .018, .021, self.skin, .031), (hip, knee, .05, .036, self.trousers, -.01),
                    (knee, ankle, .035, .022, self.leg, -.011), (ankle, toe, .024, .016, self.shoes, -.009)):
                z = (start[2] + end[2]) / 2
                # what is further away is darker: that tells an arm from the chest behind it
                tint = _shade(colour, min(1, max(.65, .87 + 1.1 * z / s)))
                parts.append((z + nearer * s, _limb, (draw, start, end, r0 * b, r1 * b, tint)))
        for _, paint, arguments in sorted(parts, key=lambda part: part[0]):
            paint(*arguments)

    def _trunk(self, draw, p, s):
        """Neck, shirt and seat; in front an open collar, on the back a yoke."""
        (x0, y0, _), (x1, y1, _), (fx, fy, fz) = p[NECK], p[PELVIS], p[COLLAR]
        length = math.hypot(x1 - x0, y1 - y0) or 1
        ux, uy = (x1 - x0) / length, (y1 - y0) / length                  # down the spine; (uy, -ux) is across it
        across = lambda i, j: abs((p[i][0] - p[j][0]) * uy - (p[i][1] - p[j][1]) * ux)
        deep = across(COLLAR, NECK)
        top = math.hypot(across(5, 6) / 2, deep) + .015 * s              # half the width of the chest, and of the seat
        low = math.hypot(across(11, 12) / 2, .8 * deep) + .045 * s * self.build
        at = lambda along, wide: (x0 + ux * along * length - uy * wide, y0 + uy * along * length + ux * wide)
        _limb(draw, p[NECK], p[SKULL], .03 * s, .03 * s, _shade(self.skin, .85))
        _limb(draw, p[11], p[12], .05 * s * self.build, .05 * s * self.build, _shade(self.trousers, .9))
        rows = ((-.06, .035 * s), (.03, top * .93), (.2, top), (.65, (top + low) / 2 * .9), (.97, low))
        draw.polygon([at(a, w) for a, w in rows] + [at(a, -w) for a, w in rows[::-1]], fill=_shade(self.shirt, .88))
        if fz > p[NECK][2] + .008 * s:                                   # the chest faces us
            sx, sy, _ = p[STERNUM]
            wide = .045 * s * min(1, (fz - p[NECK][2]) / (.05 * s))
            draw.polygon([(fx - uy * wide, fy + ux * wide), (fx + uy * wide, fy - ux * wide), (sx, sy)], fill=self.chest)
            draw.line([(sx, sy), (x1 + (sx - x0) * .6, y1)], fill=_shade(self.shirt, .5), width=max(1, int(.012 * s)))
        elif fz < p[NECK][2] - .008 * s:
            draw.line([at(.18, -top * .9), at(.18, top * .9)], fill=_shade(self.shirt, .6), width=max(1, int(.012 * s)))

    def _head(self, draw, p, r):
        """Skull, hair, ears and face; from behind there is only hair."""
        (cx, cy, cz), (fx, fy, fz), (ux, uy, _) = p[SKULL], p[FACE], p[CROWN]
        fx, fy, facing, ux, uy = fx - cx, fy - cy, (fz - cz) / r, ux - cx, uy - cy
        disc = lambda x, y, radius, colour: draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        ears = sorted((p[3], p[4]), key=lambda ear: ear[2])
        dark = _shade(self.skin, .78)
        disc(*ears[0][:2], .24 * r, dark)
        face = ((cx + .3 * fx - .1 * ux, cy + .3 * fy - .1 * uy, .86 * r, self.skin),
                (cx + .38 * fx - .5 * ux, cy + .38 * fy - .5 * uy, .62 * r, self.skin))
        hair = (cx + .1 * ux - .1 * fx, cy + .1 * uy - .1 * fy, 1.05 * r, self.hair)
        for circle in ((hair, *face) if facing > -.25 else (*face, hair)):
            disc(*circle)
        disc(*ears[1][:2], .24 * r, dark)
        for x, y, z in p[1:3]:
            if z > cz + .12 * r:
                disc(x, y, .24 * r, (250, 250, 250))
                disc(x + .05 * fx, y, .13 * r, (15, 15, 20))
        if facing > -.05:
            (nx, ny, _), (mx, my, _) = p[0], p[MOUTH]
            draw.polygon([(nx, ny), (nx - .2 * fx + .3 * ux - .1 * uy, ny - .2 * fy + .3 * uy),
                          (nx - .3 * fx + .1 * uy, ny - .3 * fy - .1 * ux)], fill=dark)
            disc(nx, ny, .14 * r, dark)
            lips = (mx - .2 * uy, my + .2 * ux, mx + .2 * uy, my - .2 * ux)
            draw.line(lips, fill=(150, 40, 40), width=max(1, int(.12 * r)))

def _limb(draw, start, end, r0, r1, colour):
    """A limb that gets thinner: two discs and what lies between them."""
    (x0, y0), (x1, y1) = start[:2], end[:2]
    length = math.hypot(x1 - x0, y1 - y0)
    draw.ellipse((x0 - r0, y0 - r0, x0 + r0, y0 + r0), fill=colour)
    draw.ellipse((x1 - r1, y1 - r1, x1 + r1, y1 + r1), fill=colour)
    if length > 0:
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        draw.polygon([(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1),
                      (x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)], fill=colour)

def _hidden(points):
    """Joints behind the person's own body. points: (T, 29, 3) in heights -> (T, 17) bool."""
    start, end, radius = (np.array(column) for column in zip(*SOLIDS))
    a, joint = points[:, start], points[:, :17, None]                                           # (T, S, 3), (T, 17, 1, 3)
    along = points[:, end] - a
    share = ((joint - a[:, None])[..., :2] * along[:, None, :, :2]).sum(-1) / ((along[..., :2] ** 2).sum(-1) + 1e-9)[:, None]
    nearest = a[:, None] + share.clip(0, 1)[..., None] * along[:, None]                         # (T, 17, S, 3)
    apart = nearest - joint
    over = (apart[..., :2] ** 2).sum(-1) < radius ** 2
    return (over & (apart[..., 2] > .02 + radius / 2)).any(-1)

# ----------------------------------------------------------------------------------------------- drawn people: clips
SPLITS = ("train", "val", "test")
SUPERSAMPLE = 2

class _Thing:
    """A coloured shape of the background or, if `moving`, one that passes in front of the person."""

    def __init__(self, rng, canvas, moving=False):
        w, h = canvas
        self.kind = rng.choice(("disc", "box", "stick", "bent stick"))                  # the last two look like limbs
        solid = self.kind in ("disc", "box")
        self.size = (h * rng.uniform(.04, .1), h * rng.uniform(.04, .1)) if solid else (
            h * rng.uniform(.1, .3), h * rng.uniform(.012, .035))
        self.angle, self.colours = rng.uniform(0, 2 * math.pi), (_colour(rng), _colour(rng))
        if not solid and rng.random() < .4:
            self.colours = (rng.choice(SKINS), self.colours[1])
        speed, heading, when = moving * rng.gauss(0, .08) * h, rng.uniform(0, 2 * math.pi), rng.uniform(0, 4)
        self.velocity = speed * math.cos(heading), speed * math.sin(heading)            # canvas pixels a frame
        edge = .2 if moving else 0
        self.place = [side * rng.uniform(edge, 1 - edge) - when * v for side, v in zip(canvas, self.velocity)]

    def draw(self, draw, t, shift):
        x, y = (p + v * t + d for p, v, d in zip(self.place, self.velocity, shift))
        (a, b), cos, sin = self.size, math.cos(self.angle), math.sin(self.angle)
        if self.kind == "disc":
            draw.ellipse((x - a, y - b, x + a, y + b), fill=self.colours[0])
        elif self.kind == "box":
            for grow, colour in zip((1, .5), self.colours):
                corners = [(grow * u, grow * v) for u, v in ((-a, -b), (a, -b), (a, b), (-a, b))]
                draw.polygon([(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in corners], fill=colour)
        else:
            end = x + cos * a, y + sin * a
            _limb(draw, (x - cos * a, y - sin * a), end, b, .8 * b, self.colours[0])
            if self.kind == "bent stick":
                _limb(draw, end, (end[0] - .6 * a * sin, end[1] + .6 * a * cos), .8 * b, .6 * b, self.colours[0])

class _Scene:
    """Everything about a clip but its frames: people, background, what passes in front, light, blur and noise."""

    def __init__(self, rng, size):
        self.size, self.canvas = size, (size[1] * SUPERSAMPLE, size[0] * SUPERSAMPLE)
        w, h = self.canvas
        # person 0 is the one to find: alone, or with another behind or in front
        self.order = rng.choices(((0,), (1, 0), (0, 1)), (.6, .33, .07))[0]
        self.people = [_Person(rng) for _ in self.order]
        self.zoom, self.shift = math.exp(rng.gauss(0, .08)), (w * rng.gauss(0, .03), h * rng.gauss(0, .03))
        self.beside = rng.choice((-1, 1)) * w * rng.uniform(.35, .6), h * rng.uniform(-.1, .1), rng.uniform(.75, 1.25)
        self.passing = [_Thing(rng, self.canvas, moving=True) for _ in range(2) if rng.random() < .9]
        self.dark = (rng.randrange(4), rng.randrange(1, 4)) if rng.random() < .8 else (0, 0)    # first frame, how many
        self.gain, self.noise, self.blurred = rng.uniform(.03, .18), rng.uniform(3, 12), rng.random() < .5

        self.margin = round(.06 * h)
        wide, high = w + 2 * self.margin, h + 2 * self.margin
        blobs = Image.frombytes("RGB", (4, 5), rng.randbytes(60)).resize((wide, high), Image.Resampling.BICUBIC)
        self.background = Image.blend(blobs, Image.new("RGB", (wide, high), _colour(rng, .05)), rng.uniform(0, .75))
        draw = ImageDraw.Draw(self.background)
        for _ in range(rng.randrange(1, 5)):
            _Thing(rng, self.canvas).draw(draw, 0, (self.margin, self.margin))

    def figures(self, times):
        """The people's points on the canvas at `times` (T,), and canvas pixels to one height: (P, T, 29, 3), float.

        The window is put around the first four of the times, as a crop from a real video would be.
        """
        w, h = self.canvas
        moves = [person.points(times) * (1, -1, 1) for person in self.people]
        low, high = (bound(moves[0][:4, :, :2], axis=(0, 1)) for bound in (np.min, np.max))
        scale = .8 * self.zoom * (np.array([w, h]) / (high - low)).min()     # the box times 1.25 is the window
        centre = np.array([w / 2, h / 2]) + self.shift - scale * (low + high) / 2
        places = ((scale, centre), (scale * self.beside[2], centre + self.beside[:2]))
        return np.stack([s * move + (*place, 0) for move, (s, place) in zip(moves, places)]), scale

    def picture(self, figures, scale, t, shift):
        """One exposure of 29 points for each person: the picture in the clip's size, and which joints something covers."""
        corner = [round(self.margin - d) for d in shift]
        canvas = self.background.crop((*corner, corner[0] + self.canvas[0], corner[1] + self.canvas[1]))
        draw, pixel = ImageDraw.Draw(canvas), canvas.load()
        points = [[(x + shift[0], y + shift[1], z) for x, y, z in figure] for figure in figures]
        places = [(min(max(int(x), 0), self.canvas[0] - 1), min(max(int(y), 0), self.canvas[1] - 1))
                  for x, y, _ in points[0][:17]]
        for who in self.order:
            self.people[who].draw(draw, points[who], scale * (self.beside[2] if who else 1))
            if who == 0:
                before = [pixel[place] for place in places]
        for thing in self.passing:
            thing.draw(draw, t, shift)
        return canvas.reduce(SUPERSAMPLE), [pixel[place] != seen for place, seen in zip(places, before)]

@functools.cache
def _noise(count):
    """Normal numbers drawn once; a frame takes `count` of them from a random place on, which is much faster."""
    return np.random.default_rng(0).standard_normal(count + (1 << 20), dtype=np.float32)

def render_clip(split, index, frames=4, size=(128, 96)):
    """Draw clip `index` of a split ("train", "val" or "test"): uint8 (F, H, W, 3) and COCO joints (F, 17, 3) float32.

    A function of (split, index) alone, on every machine; more frames only append to the same first ones. Visibility is 2, 1
    (behind an obstacle, another person or the own body) or 0 (outside the picture). Raises DataError for an unknown split.
    """
    if split not in SPLITS:
        raise DataError(f"there are no drawn people called {split!r}: choose one of {', '.join(SPLITS)}")
    scene = _Scene(random.Random(f"{split}/{index}"), size)
    steps = np.arange(max(frames, 4), dtype=float)
    figures, scale = scene.figures(np.concatenate([steps, steps - .4, steps + .4]))
    hidden = _hidden(figures[0, :frames] / scale)                                               # (F, 17)
    figures = figures.reshape(len(figures), 3, len(steps), 29, 3)
    images, joints = np.empty((frames, *size, 3), np.uint8), np.empty((frames, 17, 3), np.float32)
    for t in range(frames):
        rng = random.Random(f"{split}/{index}/{t}")
        shake = [rng.gauss(0, .012) * scene.canvas[1] if jolt else 0 for jolt in [rng.random() < .25] * 2]
        smear = [rng.gauss(0, .008) * scene.canvas[1] for _ in range(2)]
        start = rng.randrange(1 << 20)
        shots = [0, -1, 1] if scene.blurred and rng.random() < .5 else [0]      # a blurred frame is the mean of three
        pictures = []
        for k in shots:
            shift = [a + k * b for a, b in zip(shake, smear)]
            picture, covered = scene.picture(figures[:, k, t].tolist(), scale, t + .4 * k, shift)
            pictures.append(np.asarray(picture))
            if k == 0:
                hidden[t] |= covered
        light = scene.gain if 0 <= t - scene.dark[0] < scene.dark[1] else 1
        picture = sum(pictures[1:], pictures[0].astype(np.float32)) * (light / len(pictures))
        picture += scene.noise * _noise(picture.size)[start:start + picture.size].reshape(picture.shape)
        images[t] = picture.clip(0, 255)
        xy = (figures[0, 0, t, :17, :2] + shake - .5) / SUPERSAMPLE
        outside = ((xy < -.5) | (xy > np.array(size[::-1]) - .5)).any(-1)
        joints[t] = np.column_stack([xy, np.where(outside, 0, 2 - hidden[t])])
    return images, joints

class SyntheticClips(Clips):
    """`count` drawn clips of `split` from clip number `first` on, all rendered here and kept as one uint8 array.

    workers: processes to render with; by default one for each core, and none for a few clips. The pictures do not depend on
    it. The frame itself is the window: without augmentation a crop is the frame.
    """
    per_clip = Clips.per_clip + ("images",)

    def __init__(self, split, count, frames=4, size=(128, 96), workers=None, first=0):
        if count < 1 or frames < 1:
            raise DataError(f"{count} drawn clips of {frames} frames: both numbers must be at least 1")
        h, w = size
        self.images, joints = np.empty((count, frames, h, w, 3), np.uint8), np.empty((count, frames, 17, 3))
        jobs = [(split, index, frames, tuple(size)) for index in range(first, first + count)]
        for i, clip in enumerate(self._render(jobs, min(workers or os.cpu_count() or 1, count // 16))):
            self.images[i], joints[i] = clip
        boxes = np.tile([.1 * w, .1 * h, .8 * w, .8 * h], (count, 1))          # `affine` of it is the identity
        low, high = joints[..., :2].min(2), joints[..., :2].max(2)                              # (N, F, 2)
        areas = BOX_TO_AREA * (1.1 * (high - low)).prod(-1)                    # a body reaches a little beyond its joints
        super().__init__(f"drawn people ({split})", COCO, size, boxes, joints, areas)

    @staticmethod
    def _render(jobs, workers):
        if workers < 2 or multiprocessing.parent_process():
            yield from (render_clip(*job) for job in jobs)
            return
        # a forked worker starts at once and needs no `if __name__ == "__main__"`; drawing uses neither torch nor threads
        start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(workers, mp_context=start) as pool:
            yield from pool.map(render_clip, *zip(*jobs), chunksize=16)

    def pixels(self, indices, matrices):
        images = torch.from_numpy(self.images[list(indices)]).permute(0, 1, 4, 2, 3)            # (B, F, 3, H, W)
        if np.allclose(matrices, np.eye(2, 3), atol=1e-6):
            return images
        (b, f, _, h, w), half = images.shape, np.array([images.shape[-1], images.shape[-2]]) / 2
        # grid_sample counts from -1 to 1 between the outer edges: theta = to_unit . invert . from_unit
        back = invert(matrices)
        linear = back[..., :2] * half / half[:, None]
        shift = (back[..., :2] @ (half - .5) + back[..., 2] + .5) / half - 1
        theta = torch.from_numpy(np.concatenate([linear, shift[..., None]], -1)).float()        # (B, 2, 3)
        grid = F.affine_grid(theta, (b, 3 * f, h, w), align_corners=False)
        warped = F.grid_sample(images.reshape(b, 3 * f, h, w).float(), grid, padding_mode="reflection", align_corners=False)
        return warped.round_().byte().view(b, f, 3, h, w)

    def frame(self, index, t):
        return Image.fromarray(self.images[index, t])

# ------------------------------------------------------------------------------------------ COCO 2017, PoseTrack 2018
def _read_annotations(path, hint):
    """A COCO-like JSON file as a dict with the lists `images` and `annotations`, or a DataError that says what is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {hint}") from None
    except ValueError:
        raise DataError(f"{path} is not complete JSON: it was probably cut off on the way, fetch it again") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path} has no lists 'images' and 'annotations': {hint}")
    return data

def _read_image(path):
    """The picture as RGB. A turn noted in EXIF is not applied: the annotations are for the pixels as stored."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else "the file is damaged or no picture"
        raise DataError(f"cannot read the picture {path}: {reason}; fetch it again or correct --root") from None

@contextlib.contextmanager
def _reading(path):
    """Turns whatever goes wrong with the entries of an annotation file into one sentence about the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"an entry of {path} is not as it should be ({wrong}): use the unchanged annotation file") from None

class _FileClips(Clips):
    """Clips whose frames are read from files: `files[n][t]`. `skipped` counts what was left out, by reason."""
    per_clip = Clips.per_clip + ("files", "ids")

    def pixels(self, indices, matrices):
        clips = [[crop(_read_image(path), matrix, self.size) for path in self.files[index]]
                 for index, matrix in zip(indices, matrices)]
        return torch.stack([torch.stack(clip) for clip in clips])                               # (B, F, 3, H, W)

    def frame(self, index, t):
        return _read_image(self.files[index][t])

    def _people(self, data):
        """The usable (image, annotation, box (4,), joints (17, 3)) of one file, in its order; counts the others."""
        images = {image["id"]: image for image in data["images"]}
        for annotation in data["annotations"]:
            image = images.get(annotation["image_id"])
            box = np.array(annotation.get("bbox") or [0] * 4, float).reshape(4)
            joints = np.array(annotation.get("keypoints") or [0] * 51, float).reshape(17, 3)
            reasons = {"picture not listed": image is None,
                       "unlabelled frame": image is not None and not image.get("is_labeled", True),
                       "crowd": annotation.get("iscrowd"),
                       "not a number": not np.isfinite([*box, *joints.flat, annotation.get("area", 0)]).all(),
                       "box without area": not (box[2:] > 0).all(),
                       "no joints": not (joints[:, 2] > 0).any()}
            reason = next((reason for reason, holds in reasons.items() if holds), None)
            if reason is None:
                yield image, annotation, box, joints
            else:
                self.skipped[reason] += 1

    def _finish(self, name, size, where, clips):
        """Fill the fields from clips: lists of (file, ids, box, joints, area), one for each frame."""
        if not clips:
            why = ", ".join(f"{count} x {reason}" for reason, count in self.skipped.items()) or "it lists no person"
            raise DataError(f"{where} has nobody to learn from ({why}): check --root, the split and --frames")
        boxes = np.array([[frame[2] for frame in clip] for clip in clips])                      # (N, F, 4)
        low, high = boxes[..., :2].min(1), (boxes[..., :2] + boxes[..., 2:]).max(1)
        self.files = [[frame[0] for frame in clip] for clip in clips]
        self.ids = np.array([[frame[1] for frame in clip] for clip in clips])                   # (N, F, 2)
        joints, areas = (np.array([[frame[i] for frame in clip] for clip in clips]) for i in (3, 4))
        super().__init__(name, self.skeleton, size, np.concatenate([low, high - low], 1), joints, areas)

class CocoPeople(_FileClips):
    """Everyone with joints in COCO 2017, from `root`/annotations/person_keypoints_{split}2017.json and `root`/{split}2017.

    ids: (N, 1, 2) image id and annotation id; annotations: the file as read; skipped: {reason: count}.
    """
    skeleton = COCO

    def __init__(self, root, split, size=(256, 192)):
        path = Path(root) / "annotations" / f"person_keypoints_{split}2017.json"
        self.skipped = Counter()
        hint = "--root must be a folder with COCO 2017's annotations/, train2017/ and val2017/"
        self.annotations = _read_annotations(path, hint)
        with _reading(path):
            clips = [[(Path(root) / f"{split}2017" / image["file_name"], (image["id"], person["id"]), box, joints,
                       float(person["area"]))] for image, person, box, joints in self._people(self.annotations)]
        self._finish(f"COCO {split}2017", size, path, clips)

class PoseTrackClips(_FileClips):
    """Clips of `frames` consecutive labelled frames of one track, from `root`/annotations/{split}/*.json.

    One window for the clip, around the union of the frames' boxes; no frame is in two clips. PoseTrack labels each frame
    in the middle of a video and every fourth elsewhere: both count as consecutive, a mixture or a gap does not.
    ids: (N, F, 2) image id and track id; annotations: all files as one dict; skipped: {reason: count}.
    """
    skeleton = POSETRACK

    def __init__(self, root, split, frames=4, size=(256, 192)):
        folder = Path(root) / "annotations" / split
        hint = "--root must be a folder with PoseTrack18's annotations/ and images/"
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise DataError(f"there is no annotation file in {folder}: {hint}")
        if frames < 1:
            raise DataError(f"a clip of {frames} frames: --frames must be at least 1")
        self.skipped, self.annotations, clips = Counter(), {"images": [], "annotations": []}, []
        for path in paths:
            data = _read_annotations(path, hint)
            for key in ("images", "annotations"):
                self.annotations[key] += data[key]
            self.annotations.setdefault("categories", data.get("categories", []))
            tracks = {}
            with _reading(path):
                for image, person, box, joints in self._people(data):
                    ids = int(image["id"]), int(person["track_id"])
                    frame = (Path(root) / image["file_name"], ids, box, joints, BOX_TO_AREA * box[2] * box[3])
                    tracks.setdefault(ids[1], {})[int(image["frame_id"])] = frame
            for track in tracks.values():
                clips += self._cut(track, frames)
        self._finish(f"PoseTrack18 {split}", size, folder, clips)

    def _cut(self, track, frames):
        """One track {frame id: frame} -> its clips, from the first frame on."""
        times, clips, start = sorted(track), [], 0
        while start < len(times):
            stretch = times[start:start + frames]
            steps = {b - a for a, b in zip(stretch, stretch[1:])}
            if len(stretch) == frames and (not steps or steps in ({1}, {4})):
                clips.append([track[t] for t in stretch])
                start += frames
            else:
                self.skipped[f"frame without {frames - 1} labelled ones after it"] += 1
                start += 1
        return clips

def open_clips(kind, root, split, frames, size, count=None):
    """Clips of `kind` "synthetic", "coco" or "posetrack": at most `count` clips of `frames` frames, cropped to `size`.

    split: train; val, which a search looks at; test, which only a report looks at. The real data sets' test annotations are
    not public, so there "test" is val too. Says what was left out.
    """
    if kind == "synthetic":
        return SyntheticClips(split, count, frames, size)
    split = "val" if split == "test" else split
    clips = CocoPeople(root, split, size) if kind == "coco" else PoseTrackClips(root, split, frames, size)
    if clips.skipped:
        print(f"{clips.name}: left out " + ", ".join(f"{n} x {reason}" for reason, n in clips.skipped.items()))
    return clips.head(count) if count else clips

# -------------------------------------------------------------------------------------------------------- pictures
LEFT, RIGHT, MIDDLE = (60, 230, 90), (255, 70, 60), (255, 220, 60)

def draw_pose(image, joints, skeleton=COCO, threshold=.2):
    """A copy of the PIL image with the person's left limbs in green and the right ones in red.

    joints: (K, 3) x, y in its pixels, and visibility or score, which must be above `threshold` to be drawn.
    """
    image = image.convert("RGB")
    draw, joints = ImageDraw.Draw(image), [[float(x) + .5, float(y) + .5, float(v)] for x, y, v in joints]  # Pillow counts from corners
    seen = [joint[2] > threshold and math.isfinite(joint[0] + joint[1]) for joint in joints]
    width = max(1, round(max(image.size) / 150))
    colours = [LEFT if "left" in name else RIGHT if "right" in name else MIDDLE for name in skeleton.joints]
    for a, b in skeleton.limbs:
        if seen[a] and seen[b]:
            colour = colours[b] if colours[a] == colours[b] or colours[a] == MIDDLE else MIDDLE
            draw.line([*joints[a][:2], *joints[b][:2]], fill=colour, width=width)
    for (x, y, _), shown, colour in zip(joints, seen, colours):
        if shown:
            draw.ellipse((x - width, y - width, x + width, y + width), fill=colour)
    return image

def sheet(rows):
    """Lists of PIL images -> one image with a row for each list; every cell is as large as the largest image."""
    wide, high = (max(image.size[i] for row in rows for image in row) for i in (0, 1))
    page = Image.new("RGB", (wide * max(map(len, rows)), high * len(rows)))
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            page.paste(image, (c * wide, r * high))
    return page

def save_image(image, path):
    """Write a PIL image, or a list of them as a GIF that repeats, under a temporary name, then rename it.

    Raises DataError for an unknown ending or a place that cannot be written.
    """
    path, frames = Path(path), image if isinstance(image, list) else [image]
    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None or (len(frames) > 1 and form != "GIF"):
        raise DataError(f"cannot write {path}: the name must end in {'.gif' if len(frames) > 1 else '.png, .jpg or .gif'}")
    options = dict(save_all=True, append_images=frames[1:], duration=200, loop=0) if len(frames) > 1 else {}
    try:
        frames[0].save(f"{path}.tmp", format=form, **options)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error}): choose another file") from None

def main():
    """Draw a few clips of synthetic people, their first and last poses beside them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", default="people.png", help="the picture to write (default: people.png)")
    out, cells = parser.parse_args().out, []
    render_clip("train", 0)  # the noise is drawn once
    start = time.perf_counter()
    clips = SyntheticClips("train", 12, 4, workers=1)
    seconds = time.perf_counter() - start
    for index, joints in enumerate(clips.joints):
        large = [clips.frame(index, t).resize((2 * clips.size[1], 2 * clips.size[0])) for t in range(clips.frames)]
        cells.append(large + [draw_pose(large[t], transform(joints[t], [[2, 0, .5], [0, 2, .5]])) for t in (0, -1)])
    save_image(sheet([cells[i] + cells[i + 1] for i in range(0, len(cells), 2)]), out)
    print(f"{out}: {len(clips)} clips of {clips.frames} frames, each with its first and last pose")
    print(f"drawn on one core: {len(clips) * clips.frames / seconds:.0f} frames/s of {clips.size[0]}x{clips.size[1]} pixels")

if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"data: {error}")
