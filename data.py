"""People to learn from: drawn ones, COCO 2017 and PoseTrack 2018; crops, heatmaps in and out, drawing (Sec. 4.1).

A *clip* is `frames` consecutive pictures of one person seen through one window, so that the heatmaps of one frame can
be handed to the next (Sec. 3.3); a COCO person is a clip of one frame. Every source of clips below has the same face:

    clips = SyntheticClips("train", 1000)              # or CocoPeople(root, "train"), PoseTrackClips(root, "train")
    batch = clips.batch([0, 1, 2], rng=random.Random(0))          # images, matrices, joints

Coordinates: a pixel's centre has whole numbers, x to the right, y down. A heatmap has a quarter of the crop's size;
its cell i lies over the pixels 4i .. 4i+3, so its centre is at pixel 4i + 1.5.

The drawn people are ours, not the paper's: no stage needs a download. `python data.py` writes people.png and prints speeds."""
import argparse, cmath, collections, colorsys, concurrent.futures, contextlib, copy, functools, itertools, json, math
import multiprocessing, os, random, sys, tempfile, time, timeit, typing
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

class DataError(Exception):
    """Something the user can put right; the message names the file or option and says what to do."""

# ---------------------------------------------------------------------------------------------------- skeletons
class Skeleton:
    """K joints, named in the order of the annotation files; nothing else in the project knows them. category: what such files say
    about them; flip: joint k of a mirrored person is joint flip[k] of the person; limbs: pairs of indices, to draw; sigmas:
    constants of the object keypoint similarity (OKS), the variance is (2 sigma)^2. Data sets differ in the joints 1 and 2."""
    def __init__(self, names, sigmas, limbs):
        body = (f"{side}_{part}" for part in "ear shoulder elbow wrist hip knee ankle".split() for side in ("left", "right"))
        self.joints = "nose", *names, *body         # of what comes in pairs, the right one follows the left one
        self.flip = tuple(k + name.startswith("left") - name.startswith("right") for k, name in enumerate(self.joints))
        self.sigmas = .026, *sigmas, *(s for s in (.035, .079, .072, .062, .107, .087, .089) for _ in range(2))
        self.limbs = ((0, 1), (0, 2), *limbs, (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
                      (13, 15), (12, 14), (14, 16))
        self.category = {"id": 1, "name": "person", "keypoints": [*self.joints], "skeleton": (np.array(self.limbs) + 1).tolist()}

COCO = Skeleton(("left_eye", "right_eye"), (.025, .025), ((1, 3), (2, 4)))
# PoseTrack18 renames two of COCO's, annotates no ears and has no sigmas: head_bottom (neck) gets a shoulder's, head_top an ear's.
POSETRACK = Skeleton(("head_bottom", "head_top"), (.079, .035), ((1, 5), (1, 6)))

# ------------------------------------------------------------------------------ windows, crops, matrices, heatmaps
BOX_TO_AREA = 0.53      # a person's share of the box, where no outline was drawn (the usual figure of tools for COCO)
PADDING = 1.25          # of a person's box, as SBL and HRNet take it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)      # of ImageNet, RGB in 0 .. 1

def normalise(images):
    """uint8 images (..., 3, H, W) -> float32 of the same shape, ImageNet mean 0 and deviation 1."""
    mean, std = (torch.tensor(channels, device=images.device).view(3, 1, 1) * 255 for channels in (MEAN, STD))
    return (images.float() - mean) / std

def window(box, size=(256, 192), padding=PADDING):
    """A box (x, y, w, h) enlarged about its centre to the shape of `size` (H, W), then by `padding`. DataError: no area."""
    x, y, w, h = (float(v) for v in box)
    if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
        raise DataError(f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g} has no area: give a width and height above 0")
    wide = max(w, h * size[1] / size[0]) * padding
    high = wide * size[0] / size[1]
    return np.array([x + (w - wide) / 2, y + (h - high) / 2, wide, high])

def affine(box, size=(256, 192), rotation=0.0, scale=1.0, flip=False):
    """Image pixels -> pixels of the crop that shows the window of `box`: a (2, 3) float64 matrix. rotation: degrees, clockwise on
    the screen; scale: above 1 the person gets larger; flip: mirror the crop. A mirrored person's left is his right: whoever
    passes flip=True also permutes the joints by `Skeleton.flip`."""
    x, y, wide, high = window(box, size)
    turn = cmath.rect(scale * size[1] / wide, math.radians(rotation))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]]) * [[-1 if flip else 1], [1]]
    # the middle of the window goes to the middle of the crop; -.5 because pixel 0 reaches from -.5 to .5
    source, target = np.array([x + wide / 2, y + high / 2]) - .5, np.array([size[1] / 2, size[0] / 2]) - .5
    return np.column_stack([linear, target - linear @ source])

def invert(matrix):
    """Inverse of affine matrices (..., 2, 3): crop pixels -> image pixels. Takes arrays or CPU tensors, gives arrays."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)

def transform(points, matrix):
    """Points (..., 2 or 3) through a matrix (2, 3), or (..., K, 2 or 3) through (..., 2, 3): float64; a third column stays."""
    result, matrix = np.array(points, dtype=np.float64), np.asarray(matrix, dtype=np.float64)
    result[..., :2] = result[..., :2] @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]
    return result

def crop(image, matrix, size):
    """Warp any PIL image by `matrix` (image -> crop pixels) to an RGB uint8 tensor (3, H, W); black outside the image. Bilinear,
    after averaging whole blocks of pixels where the crop is less than half as large as the person. A JPEG file that is opened
    but not loaded yet averages as it decodes, by 2, 4 or 8, which is much faster."""
    back, wide = invert(matrix), image.width
    shrink = max(1, int(math.sqrt(abs(np.linalg.det(back[:, :2])))))
    draft = image.draft(None, (image.width // shrink, image.height // shrink)) if shrink > 1 else None
    decoded = round(wide / draft[1][2]) if draft else 1
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    image = image if image.mode == "RGB" else image.convert("RGB")
    image = image.reduce(shrink // decoded) if shrink // decoded > 1 else image
    back[:, 2] += .5 - back[:, :2].sum(1) / 2                 # Pillow counts from the corner of a pixel, we from its centre
    back = (back / (decoded * (shrink // decoded))).round(9)  # so that nothing changes where nothing is to change
    pixels = image.transform((size[1], size[0]), Image.Transform.AFFINE, tuple(back.flat), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)

CELL, SBL_CELL = 1.5, 0.0    # the crop pixel under the centre of a heatmap's cell 0: ours; SBL's, HRNet's and mmpose's

def targets(joints, size, cell=CELL):
    """Joints (..., K, 3) in crop pixels, the third number > 0 where annotated -> the heatmaps (..., K, H/4, W/4) a network should
    draw, 1 at a joint's exact place (SBL's encoding, with the exact centre kept), and weights (..., K), 0 if not annotated or
    outside the crop of `size` (H, W)."""
    h, w = size[0] // 4, size[1] // 4
    sigma = 1 + h / 64  # in cells: 2 for a 64x48 heatmap (SBL), 1.5 for 32x24, and so on in a line
    x, y = ((joints[..., i] + 2 - cell) / 4 - .5 for i in (0, 1))                               # (..., K), in cells
    inside = (joints[..., 2] > 0) & (x >= -.5) & (x < w - .5) & (y >= -.5) & (y < h - .5)
    column, row = (torch.exp(-((torch.arange(n, device=at.device) - torch.where(inside, at, 0)[..., None]) / sigma) ** 2 / 2)
                   for at, n in ((x, w), (y, h)))                                       # (..., K, W/4), (..., K, H/4)
    weights = inside.to(joints.dtype)
    return (weights[..., None] * row)[..., :, None] * column[..., None, :], weights

def about(skeleton, size, cell=CELL):
    """What a finished network must know to be fed and read: plain values that are saved beside its weights."""
    return {"size": list(size), "padding": PADDING, "mean": list(MEAN), "std": list(STD), "cell": cell,
            "joints": list(skeleton.joints), "flip": list(skeleton.flip), "limbs": [list(limb) for limb in skeleton.limbs]}

def flip_heatmaps(heatmaps, skeleton, cell=CELL):
    """Heatmaps (..., K, h, w) of a mirrored image -> those of the image: mirrored, left and right swapped."""
    heatmaps = heatmaps.flip(-1)[..., list(skeleton.flip), :, :]    # ours lie exactly on the image's, SBL's 3/4 of a cell off
    return heatmaps if cell == CELL else torch.cat([heatmaps[..., :1], heatmaps[..., :-1]], -1)

# --------------------------------------------------------------------------------------------------- clips, batches
class Batch(typing.NamedTuple):
    images: torch.Tensor        # (B, F, 3, H, W) uint8 RGB; `normalise` and `targets` are left to the device they are used on
    matrices: torch.Tensor      # (B, 2, 3) float64, image pixels -> crop pixels, one window for all frames of a clip
    joints: torch.Tensor        # (B, F, K, 3) x, y in crop pixels (left and right swapped where mirrored), visibility

class Clips:
    """N clips of F frames of one person each, seen through one window. size: (H, W) of the crops; boxes: (N, 4) x, y, w, h of the
    person over all frames, image pixels; joints: (N, F, K, 3) x, y in image pixels, visibility 0 not annotated, 1 hidden,
    2 visible; areas: (N, F) of the person in square image pixels, for OKS; cell: of the heatmaps, as for `targets`.
    Subclasses add `frame(index, t, use)`, what `use` makes of a whole frame (a PIL image): by default that frame."""
    def __init__(self, name, skeleton, size, boxes, joints, areas):
        if min(size) < 4 or size[0] % 4 or size[1] % 4:
            raise DataError(f"crops of {size[0]}x{size[1]} pixels have no heatmap of a quarter: use multiples of 4")
        self.name, self.skeleton, self.size, self.unread = name, skeleton, tuple(size), set()
        self.boxes, self.joints, self.areas, self.frames, self.cell = boxes, joints, areas, joints.shape[1], CELL
    def __len__(self):
        return len(self.boxes)
    def head(self, count):
        """The first `count` clips, sharing their memory."""
        clips = copy.copy(self)
        vars(clips).update({k: v[:count] for k, v in vars(self).items() if k == "files" or isinstance(v, np.ndarray)})
        return clips
    def _crop(self, index, t, matrix):
        """Frame t warped by its matrix (2, 3), and True; black and False if it cannot be read, which is told ever more rarely."""
        try:
            return self.frame(index, t, lambda image: crop(image, matrix, self.size)), True
        except DataError as error:
            known = len(self.unread)
            self.unread.add(self.files[index][t])
            if len(self.unread) > known and len(self.unread).bit_count() == 1:                  # 1, 2, 4, 8 ...
                print(f"{self.name}: {len(self.unread)} pictures left out so far; {error}", file=sys.stderr)
            return torch.zeros(3, *self.size, dtype=torch.uint8), False
    def batch(self, indices, rng=None, rotation=40.0, share=slice(None)):
        """Crops, matrices and joints of the clips `indices`. rng: a random.Random draws one augmentation for each clip, the same
        on all its frames (Sec. 4.1): a rotation within +-`rotation` degrees, a mirror for every second clip, a scale within 10 %
        (ours); None: no augmentation. share: which clips to return; all are drawn for, so a part is augmented as in the whole."""
        indices, matrices, joints = [int(index) for index in indices], [], []
        for index in indices:
            turn, zoom, flip = (rng.uniform(-rotation, rotation), rng.uniform(.9, 1.1), rng.random() < .5) if rng else (0, 1, 0)
            matrices.append(affine(self.boxes[index], self.size, turn, zoom, flip))
            moved = transform(self.joints[index], matrices[-1])                                 # (F, K, 3)
            joints.append(moved[:, list(self.skeleton.flip)] if flip else moved)
        indices, matrices, joints = indices[share], matrices[share], torch.from_numpy(np.stack(joints[share])).float()
        images, read = zip(*(self._crop(i, t, matrix) for i, matrix in zip(indices, matrices) for t in range(self.frames)))
        joints[..., 2] *= torch.tensor(read).view(-1, self.frames, 1)   # nothing is learnt from a picture that is not there
        return Batch(torch.stack(images).unflatten(0, joints.shape[:2]), torch.from_numpy(np.stack(matrices)), joints)

# ------------------------------------------------------------------------------------------------ drawn people: body
# A figure of 29 points moves in three dimensions: x to the right, y up, z towards the viewer; its height is about 1.
# A person who faces the viewer has the left arm at positive x. The first 17 points are the joints of COCO.
NOSE, EYE, EAR = 0, 1, 3        # of what comes in pairs, here and in the next line, the left one; the right one follows it
SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE, HAND, TOE = range(5, 21, 2)
NECK, PELVIS, SKULL, CROWN, FACE, MOUTH, COLLAR, STERNUM = range(21, 29)
X, Y, Z = range(3)
MOTION = 0.2      # how fast people move; 1 leaves so little of the last frame that memory does not help

# What each part of the body turns against, and its angles one after another: axis, sign, and in degrees mean, spread among
# people, swing in time, lowest, highest. The arm's three turn it aside, to the front and about itself.
PARTS = {
    "hips": ("world", (Z, 1, 0, 5, 2, -30, 30), (Y, 1, 0, 30, 10, -400, 400)),      # tilt of the camera, yaw of the person
    "chest": ("hips", (X, 1, 5, 8, 5, -12, 35), (Y, 1, 0, 10, 8, -35, 35), (Z, 1, 0, 7, 5, -20, 20)),   # lean, twist, bend
    "head": ("chest", (Y, 1, 0, 20, 12, -65, 65), (X, 1, 5, 10, 7, -25, 35)),       # look aside, nod
    "left arm": ("chest", (Z, 1, 18, 17, 14, 3, 130), (X, -1, 15, 22, 21, -40, 140), (Y, -1, 20, 18, 14, -50, 80)),
    "left forearm": ("left arm", (X, -1, 35, 22, 25, 3, 140)),
    "left thigh": ("hips", (Z, 1, 6, 5, 4, -4, 35), (X, -1, 8, 13, 17, -25, 85)),   # aside, to the front
    "left shin": ("left thigh", (X, 1, 16, 13, 20, 3, 110)), "left foot": ("left shin", (X, 1, 0, 6, 6, -20, 30))}
_right = lambda part: part.replace("left", "right")             # about Y and Z it turns the other way
PARTS |= {_right(part): (_right(other), *((axis, sign if axis == X else -sign, *rest) for axis, sign, *rest in angles))
          for part, (other, *angles) in PARTS.items() if "left" in part}
ANGLES = np.array([angle for _, *angles in PARTS.values() for angle in angles])                 # (n, 7)
AXES, (SIGNS, MEANS, SPREADS, SWINGS, LOWEST, HIGHEST) = ANGLES[:, 0], ANGLES.T[1:, :, None]    # (n,), (n, 1) each
# A turn by an angle is ALONG + cos(angle) ACROSS + sin(angle) QUARTER (Rodrigues' formula); (n, 1, 3, 3) each.
QUARTER = np.cross(np.eye(3), np.eye(3)[AXES, None])[:, None]
ACROSS = QUARTER @ QUARTER.swapaxes(2, 3)
ALONG = np.eye(3) - ACROSS

SIZES = {"torso": .29, "neck": .045, "head": .066, "shoulder": .112, "hip": .058, "build": 1.05, "arm": .165,
         "forearm": .145, "thigh": .24, "shin": .235, "foot": .09}      # means among people; the build is how stout one is
# Where a point is: seen from which one, turning with which part, in units of which size, (x, y, z). If a limb leads here, its
# radius there and here, colour, how much nearer than its middle it is painted, and the radius within which it hides joints.
POINTS = [
    (NECK, PELVIS, "chest", "torso", (0, 1, 0)), (COLLAR, NECK, "chest", "height", (0, -.01, .06)),
    (STERNUM, NECK, "chest", "height", (0, -.16, .065)), (SKULL, NECK, "chest", "neck", (0, 1, 0)),
    (SKULL, SKULL, "head", "head", (0, 1.15, .1)), (CROWN, SKULL, "head", "head", (0, 1, 0)),
    (FACE, SKULL, "head", "head", (0, 0, 1)), (MOUTH, SKULL, "head", "head", (0, -.55, .85)),
    (NOSE, SKULL, "head", "head", (0, -.15, 1.1)), (EYE, SKULL, "head", "head", (.4, .12, .9)),
    (EAR, SKULL, "head", "head", (.98, -.05, 0)), (HIP, PELVIS, "hips", "hip", (1, 0, 0)),
    (SHOULDER, NECK, "chest", "shoulder", (1, -.02, 0)),
    (ELBOW, SHOULDER, "left arm", "arm", (0, -1, 0), .03, .025, "sleeve", .03, .028),
    (WRIST, ELBOW, "left forearm", "forearm", (0, -1, 0), .025, .018, "cuff", .03, .024),
    (HAND, WRIST, "left forearm", "height", (0, -.045, 0), .018, .021, "skin", .031, 0),
    (KNEE, HIP, "left thigh", "thigh", (0, -1, 0), .05, .036, "trousers", -.01, .04),
    (ANKLE, KNEE, "left shin", "shin", (0, -1, 0), .035, .022, "leg", -.011, .03),
    (TOE, ANKLE, "left foot", "foot", (.25, -.35, 1), .024, .016, "shoes", -.009, 0)]
POINTS += [(point + 1, start + (start < NECK), _right(part), size, (-x, y, z), *limb)
           for point, start, part, size, (x, y, z), *limb in POINTS if NOSE < point < NECK]
LIMBS = [(start, point, *limb) for point, start, _, _, _, *limb in POINTS if limb]
SKINS = ((255, 219, 188), (241, 194, 150), (224, 172, 120), (190, 130, 80), (141, 85, 48), (92, 55, 34), (62, 38, 26))
HAIRS = ((35, 25, 20), (80, 50, 25), (150, 100, 50), (215, 180, 100), (120, 120, 120), (140, 50, 25))

def _shade(colour, factor):
    return tuple([int(part * factor) for part in colour])

def _colour(rng, dull=.15):
    return _shade(colorsys.hsv_to_rgb(rng.random(), rng.uniform(dull, .9), rng.uniform(.25, 1)), 255)

def _xy(*points):
    """Points as Pillow wants them; ours on the canvas are complex numbers x + iy, for 1j * v is v after a quarter turn."""
    return [(point.real, point.imag) for point in points]

def _disc(draw, colour, centre, radius):
    x, y = centre.real, centre.imag
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

def _limb(draw, colour, start, end, r0, r1):
    """A limb that gets thinner: two discs and what lies between them."""
    _disc(draw, colour, start, r0)
    _disc(draw, colour, end, r1)
    side = 1j * (end - start) / (abs(end - start) or 1)
    draw.polygon(_xy(start + side * r0, end + side * r1, end - side * r1, start - side * r0), fill=colour)

class _Person:
    """One person: proportions, clothes and a way of moving, all drawn from `rng` at once."""
    def __init__(self, rng):
        self.size = {name: mean * rng.gauss(1, {"head": .08, "build": .12}.get(name, .06)) for name, mean in SIZES.items()}
        # of the shoulders only the width varies, not how far they are below the neck
        self.size.update(height=1, build=max(.75, self.size["build"]), shoulder=(self.size["shoulder"], 1, 1))
        each = lambda draw, *limits: np.array([[draw(*limits)] for _ in ANGLES])                # (n, 1)
        self.middle, self.swing = MEANS + SPREADS * each(rng.gauss, 0, 1), SWINGS * each(rng.gauss, 0, 1)
        self.phase, self.speed = each(rng.uniform, 0, 6.3), MOTION * each(rng.uniform, .4, 1.1)  # radians, radians a frame
        self.middle[1] += 180 * (rng.random() < .2)                     # the yaw: every fifth is seen from behind
        self.turning = MOTION * rng.gauss(0, 50 if rng.random() < .2 else 8)                    # degrees a frame
        self.walk = MOTION * np.array([rng.gauss(0, .02), rng.gauss(0, .008), 0])               # heights a frame
        self.skin = _shade(rng.choice(SKINS), rng.uniform(.8, 1))
        self.shirt, self.trousers, self.shoes = _colour(rng), _colour(rng), _colour(rng, .05)
        wears = lambda cloth, share: cloth if rng.random() < share else self.skin
        self.sleeve = wears(self.shirt, .85)
        self.cuff, self.leg = wears(self.sleeve, .55), wears(self.trousers, .65)
        self.chest = rng.choice([self.skin, _colour(rng), (235, 235, 235), (30, 30, 35)])
        self.hair = rng.choice([*HAIRS, _shade(self.skin, .8)])
    def points(self, times):
        """The figure at `times` (T,), in frames: (T, 29, 3)."""
        degrees = np.clip(self.middle + self.swing * np.sin(self.speed * times + self.phase), LOWEST, HIGHEST)  # (n, T)
        degrees[1] += self.turning * times                                                      # the yaw
        angles = np.radians(SIGNS * degrees)[..., None, None]
        turns = iter(ALONG + np.cos(angles) * ACROSS + np.sin(angles) * QUARTER)                # n times (T, 3, 3)
        axes, out = {"world": np.eye(3)}, np.empty((29, len(times), 3))
        for part, (other, *own) in PARTS.items():
            axes[part] = functools.reduce(np.matmul, [next(turns) for _ in own], axes[other])
        out[PELVIS] = times[:, None] * self.walk
        for point, start, part, size, place, *_ in POINTS:
            out[point] = out[start] + axes[part] @ np.multiply(place, self.size[size])
        return out.swapaxes(0, 1)
    def paint(self, draw, p, z, s):
        """Paint the figure, far parts first. p, z: 29 points on the canvas and their depths; s: canvas pixels to one height."""
        stout = s * self.size["build"]
        parts = [((z[NECK] + z[PELVIS]) / 2, self._trunk, (draw, p, z, s)),
                 (z[SKULL] + .02 * s, self._head, (draw, p, z, s * self.size["head"]))]
        for start, end, r0, r1, cloth, nearer, _ in LIMBS:
            depth = (z[start] + z[end]) / 2
            # what is further away is darker: that tells an arm from the chest behind it
            colour = _shade(getattr(self, cloth), min(1, max(.65, .87 + 1.1 * depth / s)))
            parts.append((depth + nearer * s, _limb, (draw, colour, p[start], p[end], r0 * stout, r1 * stout)))
        for _, paint, arguments in sorted(parts, key=lambda part: part[0]):
            paint(*arguments)
    def _trunk(self, draw, p, z, s):
        """Neck, shirt and seat; in front an open collar, on the back a yoke."""
        neck, spine, sternum, seat = p[NECK], p[PELVIS] - p[NECK], p[STERNUM], .05 * s * self.size["build"]
        across = 1j * spine / (abs(spine) or 1)
        at = lambda along, aside: neck + along * spine + aside * across
        spans = p[SHOULDER] - p[SHOULDER + 1], p[COLLAR] - neck, p[HIP] - p[HIP + 1]
        wide, deep, hips = (abs((span * across.conjugate()).real) for span in spans)
        top = math.hypot(wide / 2, deep) + .015 * s                     # half the width of the chest
        low = math.hypot(hips / 2, .8 * deep) + .9 * seat               # and of the seat
        rows = ((-.06, .035 * s), (.03, .93 * top), (.2, top), (.65, .45 * (top + low)), (.97, low))
        _limb(draw, _shade(self.skin, .85), neck, p[SKULL], .03 * s, .03 * s)
        _limb(draw, _shade(self.trousers, .9), p[HIP], p[HIP + 1], seat, seat)
        draw.polygon(_xy(*[at(a, w) for a, w in rows], *[at(a, -w) for a, w in rows[::-1]]), fill=_shade(self.shirt, .88))
        front, line = (z[COLLAR] - z[NECK]) / s, max(1, int(.012 * s))
        if front > .008:
            side = .045 * s * min(1, front / .05) * across
            draw.polygon(_xy(p[COLLAR] + side, p[COLLAR] - side, sternum), fill=self.chest)
            draw.line(_xy(sternum, p[PELVIS] + .6 * (sternum - neck).real), fill=_shade(self.shirt, .5), width=line)
        elif front < -.008:
            draw.line(_xy(at(.18, -.9 * top), at(.18, .9 * top)), fill=_shade(self.shirt, .6), width=line)
    def _head(self, draw, p, z, r):
        """Skull, hair, ears and face; from behind there is only hair."""
        centre, front, up, nose, mouth = p[SKULL], p[FACE] - p[SKULL], p[CROWN] - p[SKULL], p[NOSE], p[MOUTH]
        facing, dark = (z[FACE] - z[SKULL]) / r, _shade(self.skin, .78)
        far, near = ((dark, p[ear], .24) for ear in sorted((EAR, EAR + 1), key=z.__getitem__))
        hair = (self.hair, centre + .1 * up - .1 * front, 1.05)
        face = (self.skin, centre + .3 * front - .1 * up, .86), (self.skin, centre + .38 * front - .5 * up, .62)
        discs = [far, hair, *face, near] if facing > -.25 else [far, *face, hair, near]
        for eye in (EYE, EYE + 1):
            if z[eye] > z[SKULL] + .12 * r:
                discs += ((250, 250, 250), p[eye], .24), ((15, 15, 20), p[eye] + .05 * front.real, .13)
        for colour, place, radius in discs:
            _disc(draw, colour, place, radius * r)
        if facing > -.05:
            draw.polygon(_xy(nose, nose - .2 * front + .3 * up - .1 * up.imag, nose - .3 * front - .1j * up), fill=dark)
            _disc(draw, dark, nose, .14 * r)
            draw.line(_xy(mouth + .2j * up, mouth - .2j * up), fill=(150, 40, 40), width=max(1, int(.12 * r)))

def _hidden(p, z):
    """Joints behind the person's own body. p, z: (T, 29) points x + iy and their depths, in heights -> (T, 17) bool."""
    solids = [(NECK, PELVIS, .09), (SKULL, SKULL, .065)] + [(start, end, *look[-1:]) for start, end, *look in LIMBS]
    start, end, radius = (np.array(column) for column in zip(*solids))                          # (S,)
    apart, along = p[:, :17, None] - p[:, None, start], (p[:, end] - p[:, start])[:, None]      # (T, 17, S), (T, 1, S)
    share = ((apart * along.conj()).real / (abs(along) ** 2 + 1e-9)).clip(0, 1)                 # of the way to the nearest place
    nearer = z[:, None, start] + share * (z[:, end] - z[:, start])[:, None] - z[:, :17, None]
    return ((abs(share * along - apart) < radius) & (nearer > .02 + radius / 2)).any(-1)

# ----------------------------------------------------------------------------------------------- drawn people: clips
SUPERSAMPLE = 2
# Normal numbers drawn once; a frame takes `count` of them from a random place on, which is much faster.
_noise = functools.cache(lambda count: np.random.default_rng(0).standard_normal(count + (1 << 20), dtype=np.float32))

def _thing(rng, canvas, moving=False):
    """A coloured shape of the background or, if `moving`, one that passes before the person: paints it at a time and shift."""
    (w, h), kind = canvas, rng.choice(("disc", "box", "stick", "bent stick"))           # the last two look like limbs
    a, b = (h * rng.uniform(*limits) for limits in (((.1, .3), (.012, .035)) if "stick" in kind else [(.04, .1)] * 2))
    turn, colour, other = cmath.rect(1, rng.uniform(0, 2 * math.pi)), _colour(rng), _colour(rng)
    colour = rng.choice(SKINS) if "stick" in kind and rng.random() < .4 else colour
    velocity = cmath.rect(moving * rng.gauss(0, .08) * h, rng.uniform(0, 2 * math.pi))  # canvas pixels a frame
    when, edge = rng.uniform(0, 4), .2 * moving
    place = complex(w * rng.uniform(edge, 1 - edge), h * rng.uniform(edge, 1 - edge)) - when * velocity
    def paint(draw, t, shift):
        centre = place + velocity * t + shift
        if kind == "disc":
            draw.ellipse(_xy(centre - complex(a, b), centre + complex(a, b)), fill=colour)
        elif kind == "box":
            for share, fill in ((1, colour), (.5, other)):
                u, v = share * turn * complex(a, b), share * turn * complex(a, -b)      # to the corners
                draw.polygon(_xy(centre - u, centre + v, centre + u, centre - v), fill=fill)
        else:
            end = centre + a * turn
            _limb(draw, colour, centre - a * turn, end, b, .8 * b)
            if kind == "bent stick":
                _limb(draw, colour, end, end + .6j * a * turn, .8 * b, .6 * b)
    return paint

class _Scene:
    """A clip but for noise and shaking: people, background, what passes in front, light. Its points are on the canvas."""
    def __init__(self, rng, size, frames):
        w, h = self.canvas = size[1] * SUPERSAMPLE, size[0] * SUPERSAMPLE
        self.order = rng.choices(((0,), (1, 0), (0, 1)), (.6, .33, .07))[0]     # 0 is to be found: alone, or one behind or before
        self.people = [_Person(rng) for _ in self.order]
        zoom, shift = math.exp(rng.gauss(0, .08)), (w * rng.gauss(0, .03), h * rng.gauss(0, .03))
        beside, larger = (rng.choice((-1, 1)) * w * rng.uniform(.35, .6), h * rng.uniform(-.1, .1)), rng.uniform(.75, 1.25)
        self.passing = [_thing(rng, self.canvas, moving=True) for _ in range(2) if rng.random() < .9]
        self.dark = range(6)[rng.randrange(4):][:rng.randrange(1, 4)] if rng.random() < .8 else ()      # one to three frames
        self.gain, self.noise, self.blurred = rng.uniform(.03, .18), rng.uniform(3, 12), rng.random() < .5
        self.margin = m = round(.06 * h)
        blobs = Image.frombytes("RGB", (4, 5), rng.randbytes(60)).resize((w + 2 * m, h + 2 * m), Image.Resampling.BICUBIC)
        self.background = Image.blend(blobs, Image.new("RGB", blobs.size, _colour(rng, .05)), rng.uniform(0, .75))
        for _ in range(rng.randrange(1, 5)):
            _thing(rng, self.canvas)(ImageDraw.Draw(self.background), 0, complex(m, m))
        steps = np.arange(max(frames, 4), dtype=float)
        times = np.concatenate([steps, steps - .4, steps + .4] if self.blurred else [steps])    # of exposures 0, 1 and -1
        moves = [person.points(times) * (1, -1, 1) for person in self.people]                   # (T or 3T, 29, 3)
        # the window is put around the first four frames, as a crop from a real video would be; it is 1.25 times the box
        low, high = (bound(moves[0][:4, :, :2], axis=(0, 1)) for bound in (np.min, np.max))
        scale = .8 * zoom * (np.array(self.canvas) / (high - low)).min()                        # canvas pixels to one height
        place = np.array(self.canvas) / 2 + shift - scale * (low + high) / 2
        self.scales = scale, scale * larger
        figures = np.stack([s * move + (*xy, 0) for move, s, xy in zip(moves, self.scales, (place, place + beside))])
        x, y, self.depths = np.moveaxis(figures.reshape(len(moves), -1, len(steps), 29, 3), 4, 0)
        self.points = x + 1j * y                                                                # (P, 1 or 3, T, 29)
        self.hidden = _hidden(self.points[0, 0, :frames] / scale, self.depths[0, 0, :frames] / scale)
    def picture(self, t, k, shift):
        """Exposure k = -1, 0, 1 of frame t, moved by `shift`: the picture in the clip's size, and the joints something covers."""
        (w, h), left, top = self.canvas, round(self.margin - shift.real), round(self.margin - shift.imag)
        canvas = self.background.crop((left, top, left + w, top + h))
        draw, pixel = ImageDraw.Draw(canvas), canvas.load()
        points, depths = (self.points[:, k, t] + shift).tolist(), self.depths[:, k, t].tolist()
        places = [(int(p.real) % w, int(p.imag) % h) for p in points[0][:17]]                   # outside, any will do
        for who in self.order:
            self.people[who].paint(draw, points[who], depths[who], self.scales[who])
            if who == 0:
                before = [pixel[place] for place in places]
        for paint in self.passing:
            paint(draw, t + .4 * k, shift)
        return np.asarray(canvas.reduce(SUPERSAMPLE)), [pixel[place] != seen for place, seen in zip(places, before)]

def render_clip(split, index, frames=4, size=(128, 96)):
    """Draw clip `index` of a split ("train", "val" or "test"): uint8 (F, H, W, 3) and COCO joints (F, 17, 3) float32, a function
    of (split, index) alone, on every machine; more frames only append to the same first ones. Visibility is 2, 1 (behind an
    obstacle, another person or the own body) or 0 (outside the picture). Raises DataError for an unknown split."""
    if split not in ("train", "val", "test"):
        raise DataError(f"there are no drawn people called {split!r}: choose one of train, val, test")
    scene = _Scene(random.Random(f"{split}/{index}"), size, frames)
    images, joints = np.empty((frames, *size, 3), np.uint8), np.empty((frames, 17, 3), np.float32)
    for t in range(frames):
        rng = random.Random(f"{split}/{index}/{t}")
        jolt = lambda spread: complex(rng.gauss(0, spread), rng.gauss(0, spread)) * scene.canvas[1]
        shake, smear, start = jolt(.012) if rng.random() < .25 else 0j, jolt(.008), rng.randrange(1 << 20)
        shots = (0, -1, 1) if scene.blurred and rng.random() < .5 else (0,)     # a blurred frame is the mean of three
        pictures, covered = zip(*(scene.picture(t, k, shake + k * smear) for k in shots))
        picture = sum(pictures[1:], pictures[0].astype(np.float32)) * ((scene.gain if t in scene.dark else 1) / len(shots))
        picture += scene.noise * _noise(picture.size)[start:start + picture.size].reshape(picture.shape)
        images[t] = picture.clip(0, 255, out=picture)
        xy = ((scene.points[0, 0, t, :17] + shake - (.5 + .5j)) / SUPERSAMPLE).view(float).reshape(17, 2)
        outside = ((xy < -.5) | (xy > np.array(size[::-1]) - .5)).any(-1)
        joints[t, :, :2], joints[t, :, 2] = xy, np.where(outside, 0, 2 - (scene.hidden[t] | covered[0]))
    return images, joints

class SyntheticClips(Clips):
    """The first `count` drawn clips of `split`, rendered here as one uint8 array; unless augmented, a crop is the whole frame.
    workers: processes to render with (no picture depends on it); by default one for each core, and none for a few clips."""
    def __init__(self, split, count, frames=4, size=(128, 96), workers=None):
        if count < 1 or frames < 1:
            raise DataError(f"{count} drawn clips of {frames} frames: both numbers must be at least 1")
        (h, w), workers = size, min(workers or os.cpu_count() or 1, count // 16)
        self.images, joints = np.empty((count, frames, h, w, 3), np.uint8), np.empty((count, frames, 17, 3))
        render = functools.partial(render_clip, split, frames=frames, size=(h, w))
        alone = workers < 2 or multiprocessing.parent_process()
        # a forked worker starts at once and needs no `if __name__ == "__main__"`; drawing uses neither torch nor threads
        start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with contextlib.nullcontext() if alone else concurrent.futures.ProcessPoolExecutor(workers, mp_context=start) as pool:
            for i, clip in enumerate(map(render, range(count)) if alone else pool.map(render, range(count), chunksize=16)):
                self.images[i], joints[i] = clip
        boxes = np.tile([.1 * w, .1 * h, .8 * w, .8 * h], (count, 1))          # `affine` of it is the identity
        areas = BOX_TO_AREA * (1.1 * np.ptp(joints[..., :2], axis=2)).prod(-1)                  # a body reaches beyond its joints
        super().__init__(f"drawn people ({split})", COCO, size, boxes, joints, areas)
    def frame(self, index, t, use=lambda image: image):
        return use(Image.fromarray(self.images[index, t]))

# ------------------------------------------------------------------------------------------ COCO 2017, PoseTrack 2018
def _read(path, hint, lists=("images", "annotations")):
    """A JSON file: a dict with these lists, or a list if there are none; or a DataError that says what is wrong with it."""
    try:
        page = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {hint}") from None
    except ValueError:
        raise DataError(f"{path} is not complete JSON: it was probably cut off on the way, fetch it again") from None
    if not isinstance(page, dict if lists else list) or not all(isinstance(page.get(key), list) for key in lists):
        raise DataError(f"{path} {'has no lists ' + ' and '.join(map(repr, lists)) if lists else 'is no list'}: {hint}")
    return page

class _FileClips(Clips):
    """Clips whose frames are read from files: `files[n][t]`. skipped: how many were left out, by reason; ids: (N, F, 2) image id
    and annotation, track or detection id, -1 for a frame that only fills up a clip; scores: (N,) of the boxes, 1 where people
    drew them; of_image: {key: type} that an image must have; annotations: what was read, without what no evaluation could use."""
    def frame(self, index, t, use=Image.Image.copy):
        """What `use` makes of the opened picture. A turn noted in EXIF is not applied: annotations are for pixels as stored."""
        path = self.files[index][t]
        try:
            with Image.open(path) as image:
                return use(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else "the file is damaged or no picture"
            raise DataError(f"cannot read the picture {path}: {reason}; fetch it again or correct --root") from None
    def _people(self, page, folder, people, shapes):
        """The usable (picture's path, image, entry, box (4,), joints (17, 3)) of `people`, one file's annotations or detections;
        `shapes`: of the numbers each must have. Counts the others; takes what no evaluation can use out of `page`, `people`."""
        page["images"] = [image for image in page["images"] if isinstance(image, dict)
                          and all(isinstance(image.get(key), kind) for key, kind in self.of_image.items())]
        images, kept = {image["id"]: image for image in page["images"]}, []
        names = functools.cache(lambda path: {f.name for f in os.scandir(path) if f.stat().st_size} if path.is_dir() else ())
        for person in people:
            try:
                image = images.get(person["image_id"])
                numbers = {key: np.array(person[key], float).reshape(shape) for key, shape in shapes.items()}
                finite = all(np.isfinite(value).all() for value in numbers.values())
                reason = "picture not listed" if image is None else "" if finite else "not a number"
            except (KeyError, TypeError, ValueError, AttributeError):
                reason = "incomplete or senseless entry"
            if not reason:
                kept.append(person)
                box, joints = np.array(person.get("bbox", [0] * 4), float), numbers.get("keypoints", np.zeros((17, 3)))
                path, flat = Path(folder, image["file_name"]), box.shape != (4,) or not (box[2:] > 0).all()
                reasons = {"picture missing or empty": path.name not in names(path.parent), "crowd": person.get("iscrowd"),
                           "unlabelled frame": not image.get("is_labeled", True), "box without area": flat,
                           "no joints": "keypoints" in numbers and not (joints[:, 2] > 0).any(),
                           "not a person": numbers.get("category_id", 1) != 1}
                reason = next((reason for reason, holds in reasons.items() if holds), "")
            if reason:
                self.skipped[reason] += 1
            else:
                yield path, image, person, box, joints
        people[:] = kept
    def _finish(self, name, size, where, clips):
        """Fill the fields from clips: lists of (file, ids, box, joints, area, score), one for each frame."""
        self.left_out = ", ".join(f"{count} x {reason}" for reason, count in self.skipped.items())
        if not clips:
            why = self.left_out or "it lists no person"
            raise DataError(f"{where} has nobody to look at ({why}): check --root, the split and --frames")
        files, ids, boxes, joints, areas, scores = zip(*(zip(*clip) for clip in clips))         # each (N, F, ...)
        self.files, self.ids, self.scores = files, np.array(ids), np.array(scores)[:, 0]
        low, high = np.array(boxes)[..., :2].min(1), (np.array(boxes)[..., :2] + np.array(boxes)[..., 2:]).max(1)
        super().__init__(name, self.skeleton, size, np.concatenate([low, high - low], 1), np.array(joints), np.array(areas))
        if not any(self._crop(i, 0, affine(box, size))[1] for i, box in enumerate(self.boxes[:20])):
            raise DataError(f"none of the first {len(files[:20])} pictures of {name} can be read: fetch them again")

class CocoPeople(_FileClips):
    """Everyone with joints in COCO 2017, from `root`/annotations/person_keypoints_{split}2017.json and `root`/{split}2017.
    boxes: instead, everyone that a detector found: a JSON list of {image_id, category_id, bbox, score}. They have no joints."""
    skeleton, of_image = COCO, {"id": int, "file_name": str}
    def __init__(self, root, split, size=(256, 192), boxes=None):
        path, self.skipped = Path(root, "annotations", f"person_keypoints_{split}2017.json"), collections.Counter()
        self.annotations = _read(path, "--root must be COCO 2017's folder, with annotations/, train2017/ and val2017/")
        folder, of_person = Path(root) / f"{split}2017", dict(area=(), iscrowd=(), num_keypoints=(), keypoints=(17, 3), bbox=4)
        found = [*self._people(self.annotations, folder, self.annotations["annotations"], of_person)]
        if boxes:  # the annotations had to be looked through all the same: the evaluation needs them
            hint = "--boxes wants a JSON list of detections with image_id, category_id, bbox and score"
            found = self._people(self.annotations, folder, _read(boxes, hint, ()), dict(score=(), category_id=(), bbox=4))
        clips = [[(file, (image["id"], person.get("id", i)), box, joints, float(person.get("area", box[2] * box[3])),
                   float(person.get("score", 1)))] for i, (file, image, person, box, joints) in enumerate(found)]
        self._finish(f"COCO {split}2017" + ", detected boxes" * bool(boxes), size, boxes or path, clips)

class PoseTrackClips(_FileClips):
    """Clips of `frames` consecutive labelled frames of one track, from `root`/annotations/{split}/*.json; none shares a frame.
    PoseTrack labels each frame in the middle of a video and every fourth elsewhere: both count as consecutive, a mixture or a
    gap does not. whole: leave out shorter rests of a track. Otherwise they are filled up with their last frame, unlabelled
    and with the ids -1, so that an evaluation finds each labelled frame in exactly one clip. sequences: {file name: images}"""
    skeleton, of_image = POSETRACK, {"id": int, "file_name": str, "frame_id": int}
    def __init__(self, root, split, frames=4, size=(256, 192), whole=True):
        folder = Path(root) / "annotations" / split
        paths, hint = sorted(folder.glob("*.json")), "--root must be a folder with PoseTrack18's annotations/ and images/"
        if not paths:
            raise DataError(f"there is no annotation file in {folder}: {hint}")
        self.skipped, self.sequences, clips = collections.Counter(), {}, []
        self.annotations = {"images": [], "annotations": [], "categories": [POSETRACK.category]}
        for path in paths:
            page, tracks, of_person = _read(path, hint), {}, dict(track_id=(), bbox_head=4, keypoints=(17, 3))
            for file, image, person, box, joints in self._people(page, root, page["annotations"], of_person):
                ids = image["id"], int(person["track_id"])
                tracks.setdefault(ids[1], {})[image["frame_id"]] = (file, ids, box, joints, BOX_TO_AREA * box[2] * box[3], 1.)
            clips += [clip for track in tracks.values() for clip in self._cut(track, frames, whole)]
            self.sequences[path.name] = page["images"]
            for key in ("images", "annotations"):
                self.annotations[key] += page[key]
        self._finish(f"PoseTrack18 {split}", size, folder, clips)
    def _cut(self, track, frames, whole):
        """One track {frame id: frame} -> its clips, from the first frame on."""
        times = sorted(track)
        while times:
            steps = [b - a for a, b in zip(times, times[1:frames])]
            count = 1 + len([*itertools.takewhile(lambda step: step == steps[0] in (1, 4), steps)])
            clip = [track[t] for t in times[:count]]
            if count == frames or not whole:
                file, _, box, joints, *rest = clip[-1]
                yield clip + [(file, (-1, -1), box, joints * (1, 1, 0), *rest)] * (frames - count)
            else:
                self.skipped[f"frame without {frames - 1} labelled ones after it"] += 1
                count = 1
            times = times[count:]

def open_clips(kind, root, split, frames, size, count=None, boxes=None):
    """At most `count` clips of `kind` "synthetic", "coco" or "posetrack", of `frames` frames, cropped to `size`. split: train;
    val, which a search looks at; test, which only a report looks at: the real data sets' test annotations are not public, so
    there it is val too, with every labelled frame of PoseTrack18. boxes: see CocoPeople. Says what it left out."""
    if kind == "synthetic":
        return SyntheticClips(split, count, frames, size)
    real, test = "val" if split == "test" else split, split == "test"
    clips = CocoPeople(root, real, size, boxes) if kind == "coco" else PoseTrackClips(root, real, frames, size, whole=not test)
    if clips.left_out:
        print(f"{clips.name}: left out {clips.left_out}")
    return clips.head(count) if count else clips

# -------------------------------------------------------------------------------------------------- export, pictures
def export(kind, out, count, frames=8, size=(256, 192)):
    """Write drawn people in the layout of `kind`, "coco" or "posetrack", to try what reads the real ones: `count` people (or
    sequences of `frames` frames) to train with, a quarter to validate; for COCO detections too: their boxes, moved, twice."""
    out, coco, skeleton = Path(out), kind == "coco", COCO if kind == "coco" else POSETRACK
    for split, n in (("train", count), ("val", max(1, count // 4))):
        clips, pages = SyntheticClips(split, n, 1 if coco else frames, size), {}
        for i, t in np.ndindex(n, clips.frames):
            joints = clips.joints[i, t].copy()
            if coco:
                number, page, file = i + 1, f"annotations/person_keypoints_{split}2017.json", f"{split}2017/{i + 1:012d}.jpg"
                image = {"id": number, "file_name": Path(file).name, "height": size[0], "width": size[1]}
                ids, extent = {"id": number}, {"area": float(clips.areas[i, t])}
            else:  # the neck is put between the shoulders, the top of the head as far above the ears as it is drawn
                number, video = (10 ** 6 + i) * 10 ** 4 + t, f"{split}/{i:06d}_drawn"
                page, file = f"annotations/{video}.json", f"images/{video}/{t:06d}.jpg"
                ears, neck, seen = joints[3:5, :2].mean(0), joints[5:7, :2].mean(0), joints[3:7, 2].min()
                top = neck + 1.55 * (ears - neck)
                radius = np.linalg.norm(top - ears)
                joints[1:5] = [(*neck, seen), (*top, seen), (0, 0, 0), (0, 0, 0)]
                joints[:, 2] = joints[:, 2] > 0
                image = {"id": number, "frame_id": number, "file_name": file, "is_labeled": True, "vid_id": f"{i:06d}"}
                ids, extent = {"id": 100 * number, "track_id": 0}, {"bbox_head": [*(ears - radius), 2 * radius, 2 * radius]}
            joints *= joints[:, 2:] > 0
            page = pages.setdefault(page, {"images": [], "annotations": [], "categories": [skeleton.category]})
            page["images"].append(image)
            page["annotations"].append({"image_id": number, "category_id": 1, "bbox": clips.boxes[i].tolist(), "iscrowd": 0,
                "num_keypoints": int((joints[:, 2] > 0).sum()), **ids, "keypoints": joints.ravel().tolist(), **extent})
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            save_image(clips.frame(i, t), out / file)
        if coco and split == "val":
            rng = random.Random(0)
            pages["annotations/person_detections_val2017.json"] = [
                {"image_id": 1 + i, "category_id": 1, "bbox": [x + rng.gauss(0, size[1] / 50) for x in clips.boxes[i]],
                 "score": rng.random()} for i in [*range(n)] * 2]
        for file, page in pages.items():
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_text(json.dumps(page))

LEFT, RIGHT, MIDDLE = (60, 230, 90), (255, 70, 60), (255, 220, 60)

def draw_pose(image, joints, skeleton=COCO, threshold=.2):
    """A copy of the PIL image with the person's left limbs in green and the right ones in red; joints: (K, 3) x, y in its pixels,
    and visibility or score, which must be above `threshold` to be drawn."""
    image = image.convert("RGB")
    draw, width = ImageDraw.Draw(image), max(1, round(max(image.size) / 150))
    points = {k: (x + .5, y + .5) for k, (x, y, seen) in enumerate(np.asarray(joints, float).tolist())
              if seen > threshold and math.isfinite(x + y)}                 # Pillow counts from corners
    colours = [LEFT if "left" in name else RIGHT if "right" in name else MIDDLE for name in skeleton.joints]
    for a, b in skeleton.limbs:
        if a in points and b in points:
            colour = colours[b] if colours[a] == colours[b] or colours[a] == MIDDLE else MIDDLE
            draw.line([*points[a], *points[b]], fill=colour, width=width)
    for k, point in points.items():
        _disc(draw, colours[k], complex(*point), width)
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
    """Write a PIL image, or a list of them as a GIF that repeats. Raises DataError: unknown ending, or it cannot be written."""
    path, frames = Path(path), image if isinstance(image, list) else [image]
    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None or (len(frames) > 1 and form != "GIF"):
        raise DataError(f"cannot write {path}: the name must end in {'.gif' if len(frames) > 1 else '.png, .jpg or .gif'}")
    options = dict(save_all=True, append_images=frames[1:], duration=200, loop=0) if len(frames) > 1 else {"quality": 95}
    try:
        frames[0].save(f"{path}.tmp", format=form, **options)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        Path(f"{path}.tmp").unlink(missing_ok=True)
        raise DataError(f"cannot write {path} ({error.strerror or error}): choose another file") from None

def main():
    """Draw a few clips of synthetic people, their first and last poses beside them; or export a data set of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", help="the picture to write (default: people.png), or the folder to export to")
    parser.add_argument("--export", choices=("coco", "posetrack"), help="write drawn people in the layout of this data set")
    parser.add_argument("--clips", type=int, default=200, help="--export: people, or sequences, to train with (default: 200)")
    options, cells, rng = parser.parse_args(), [], random.Random(0)
    if options.export and not options.out:
        raise DataError("--export needs --out DIR, the folder to write the data set to")
    if options.export:
        return export(options.export, options.out, options.clips)
    out = options.out or "people.png"
    render_clip("train", 0)  # the noise is drawn once
    start = time.perf_counter()
    clips = SyntheticClips("train", 12, 4, workers=1)
    seconds = time.perf_counter() - start
    for index, joints in enumerate(clips.joints):
        large = [clips.frame(index, t).resize((2 * clips.size[1], 2 * clips.size[0])) for t in range(clips.frames)]
        cells.append(large + [draw_pose(large[t], transform(joints[t], [[2, 0, .5], [0, 2, .5]])) for t in (0, -1)])
    save_image(sheet([cells[i] + cells[i + 1] for i in range(0, len(cells), 2)]), out)
    print(f"{out}: {len(clips)} clips of {clips.frames} frames, each with its first and last pose")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        export("coco", folder, 24, size=(480, 640))
        people = CocoPeople(folder, "train")
        people.boxes[:, 0], people.boxes[:, 2] = 240, 160  # of the person, 400 pixels high, not of the picture
        works = lambda: people.batch(range(24), rng), lambda: [Image.open(file).load() for file, in people.files]
        samples, files = (24 / min(timeit.repeat(work, number=1, timer=time.process_time)) for work in works)
    print(f"read on one core from 640x480 JPEG: {samples:.0f} augmented 256x192 samples/s; decoding alone {files:.0f} files/s")
    print(f"drawn on one core: {len(clips) * clips.frames / seconds:.0f} frames/s of {clips.size[0]}x{clips.size[1]} pixels")

if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"data: {error}")
