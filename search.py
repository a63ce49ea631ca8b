"""How good is a candidate, and which one to keep (Secs 3.4.1, 3.4.3, 4.1).

    1. Scores: OKS, and the average precision of COCO and PoseTrack, as the official tools count.
    2. Running networks over clips: the chain of eq. (2), batch norm measured anew, keypoints.
    3. Sampling: random architectures, or allocations of T of them, just below a budget (eq. 3).
    4. The search: all candidates look at some clips, the better half at more, and so on.

A candidate is a tuple of architectures, one for each frame it is asked about: one for S, T of them
for T-ViPNAS. It is cut out of a trained super-network; nothing is trained here.

    python search.py --checkpoint runs/t/supernet.pt --gflops 0.014 --frames 4    # Table 4
    python search.py --checkpoint runs/t/supernet.pt --gflops 0.014 --shared      # Fig. 6b
    python search.py --checkpoint FINISHED --data coco --root DIR      # official numbers
    python search.py --checkpoint FINISHED --data coco --root DIR --split test-dev2017 --boxes FILE
"""

import argparse
import itertools
import json
import math
import random
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont

import data
import vipnas
from data import CELL, COCO, CocoPeople, PoseTrackClips, UserError, window
from vipnas import Cost, cost

# ------------------------------------------------------------------------------- average precision
# COCO and PoseTrack judge poses in two steps. First each image by itself: a result takes at most
# one person, and is then right, wrong, or left out. Then all images together: what is right or
# wrong is ranked by its score, and at each rank
#
#     precision = right so far / ranked so far,      recall = right so far / all that is labelled.
#
# Average precision (AP) is the mean of the precision over the recall. The two differ in what is
# ranked (COCO: poses, PoseTrack: single joints) and in who takes whom.

OKS_THRESHOLDS = np.linspace(0.50, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision

# ranges of a person's area in square pixels
ANY_SIZE = (0, 1e5**2)
MEDIUM = (32**2, 96**2)
LARGE = (96**2, 1e5**2)

# PoseTrack's columns and the 15 joints that count; the two ears of its files are never annotated
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
    """Object keypoint similarity (Sec. 4.1), 0 to 1: the mean of `joint_similarity` over labelled
    joints, of shape (...); 0 for a person without any.
    """
    similarity = joint_similarity(predictions, joints, areas, sigmas)  # (..., K)
    labelled = joints[..., 2] > 0  # (..., K)
    count = np.maximum(labelled.sum(-1), 1)  # (...)
    return (similarity * labelled).sum(-1) / count


def by_image(annotations, results):
    """Triples (image, its people, its results), by rising image id.

    Ids are numbers or texts. PoseTrack's files may number their images alike: where ids repeat, all
    entries say of which "sequence" they are. Raises UserError if a result is for an image that the
    annotations do not list.
    """
    ids = [image["id"] for image in annotations["images"]]
    repeat = len(set(ids)) < len(ids)
    images = {place_of(image, "id", repeat): image for image in annotations["images"]}
    people = {place: [] for place in images}
    found = {place: [] for place in images}
    for person in annotations["annotations"]:
        place = place_of(person, "image_id", repeat)
        if place in images:
            people[place].append(person)
    for result in results:
        place = place_of(result, "image_id", repeat)
        if place not in images:
            image_id = result["image_id"]
            raise UserError(f"a result is for image {image_id}, which the annotations do not list")
        found[place].append(result)
    return [(images[place], people[place], found[place]) for place in sorted(images)]


def place_of(entry, key, repeat):
    """What tells the image of an entry apart, and sorts it: (sequence, is a text, id)."""
    sequence = entry.get("sequence", "") if repeat else ""
    return sequence, isinstance(entry[key], str), entry[key]


def keypoints_of(entries, count):
    """The keypoints of N annotations or results -> (N, count, 3)."""
    keypoints = [entry["keypoints"] for entry in entries]
    return np.array(keypoints, float).reshape(-1, count, 3)


def rank_results(judged):
    """Rank pairs (score, right) of all images -> right (N) bool, and the precision (N) so far.

    The best score comes first, of equals the first. Precision rises and falls with every result,
    but who wants a certain recall may as well go on to the best rank that has at least as much. So
    in both evaluations the precision of a rank is the best one there or later.
    """
    scores = np.array([score for score, _ in judged])
    right = np.array([right for _, right in judged], bool)
    right = right[np.argsort(-scores, kind="stable")]

    ranks = np.arange(1, len(right) + 1)
    precision = right.cumsum() / ranks  # (N)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return right, best


# ------------------------------------------------------------------------------- COCO's evaluation
class CocoImage:
    """One image as COCO judges it: its people, and its 20 results of the highest scores.

    Of the results, best first: scores; areas, of the boxes round their joints; and similarity, for
    each a list of its OKS with the people.
    """

    def __init__(self, people, results, sigmas):
        scores = np.array([result["score"] for result in results])
        best = np.argsort(-scores, kind="stable")[:20]  # of equals the first
        poses = keypoints_of(results, len(sigmas))[best]  # (D, K, 3)
        sizes = np.ptp(poses[..., :2], axis=1)  # (D, 2) width, height

        self.people = people
        self.scores = scores[best].tolist()
        self.areas = sizes.prod(1).tolist()
        self.similarity = similarity_table(poses, people, sigmas).tolist()

    def who_counts(self, area_range):
        """Who is to be found: people of that size, but no crowds and nobody without joints."""
        smallest, largest = area_range
        counts = []
        for person in self.people:
            ignored = person["iscrowd"] or person["num_keypoints"] == 0
            counts.append(not ignored and smallest <= person["area"] <= largest)
        return counts

    def judge(self, area_range, threshold):
        """Pairs (score, right) of the results, less those that are left out.

        The best score chooses first. Of the people who are still free and similar enough, a result
        takes somebody who counts before somebody who is ignored, then the most similar one, and of
        equals the last.
        """
        smallest, largest = area_range
        counts = self.who_counts(area_range)
        taken = set()
        judged = []
        for score, area, similarity in zip(self.scores, self.areas, self.similarity, strict=True):
            candidates = []
            for person, value in enumerate(similarity):
                if value >= threshold and person not in taken:
                    candidates.append((counts[person], value, person))
            if candidates:
                # somebody is there: right, or left out if that person is to be ignored
                person = max(candidates)[-1]
                if counts[person]:
                    judged.append((score, True))
                if not self.people[person]["iscrowd"]:  # a crowd is always free
                    taken.add(person)
            elif smallest <= area <= largest:
                # nobody is there: wrong, or left out if it is of another size
                judged.append((score, False))
        return judged


def similarity_table(poses, people, sigmas):
    """OKS of each of D poses (D, K, 3) with each of G people -> (D, G)."""
    table = np.zeros((len(poses), len(people)))
    keypoints = keypoints_of(people, len(sigmas))  # (G, K, 3)
    for i, person in enumerate(people):
        joints = keypoints[i]  # (K, 3)
        if not (joints[:, 2] > 0).any():
            # Somebody is here whose joints were not labelled: they may be all over a box of three
            # times the size, so each predicted joint is compared with the nearest point of it.
            box = np.array(person["bbox"], float)  # x, y, width, height
            low = box[:2] - box[2:]
            high = box[:2] + 2 * box[2:]
            joints = np.ones_like(poses)  # (D, K, 3) all labelled
            joints[..., :2] = poses[..., :2].clip(low, high)
        table[:, i] = oks(poses, joints, person["area"], sigmas)
    return table


def ap_and_recall(images, area_range):
    """AP and recall of the `CocoImage`s at each of the T thresholds -> (2, T), 0 to 1.

    AP is the mean precision at 101 recalls, 0 at those that are never reached; the recall is what
    all results reach together. Both are -1 where nobody is to be found.
    """
    table = np.full((2, len(OKS_THRESHOLDS)), -1.0)
    people = sum(sum(image.who_counts(area_range)) for image in images)
    if people == 0:
        return table

    for t, threshold in enumerate(OKS_THRESHOLDS.tolist()):
        judged = []
        for image in images:
            judged += image.judge(area_range, threshold)
        right, precision = rank_results(judged)  # (N) each
        recall = right.cumsum() / people  # (N)
        first_ranks = recall.searchsorted(RECALLS)  # (101) N: never reached
        precision = np.append(precision, 0)  # (N + 1)
        table[0, t] = precision[first_ranks].mean()
        table[1, t] = right.sum() / people
    return table


def coco_ap(annotations, results, sigmas=None):
    """COCO's keypoint evaluation: the ten numbers of the official tool (pycocotools), 0 to 1.

    AP and AR (average recall) are means over the OKS thresholds, 50 and 75 are one threshold alone,
    M and L are for medium and for large people. A number is -1 where nobody is to be found.

    annotations: a COCO keypoint dict with one category; results: a list of dicts with image_id,
    keypoints (3K numbers) and score; sigmas (K): None for those of the category's joints. Raises
    UserError as `by_image` does.
    """
    if sigmas is None:
        category = data.person_category(annotations, "the annotation file")
        names = category.get("keypoints") or COCO.joints
        skeleton, order = data.skeleton_from({**category, "keypoints": list(names)})
        sigmas = np.empty(len(order))
        sigmas[order] = skeleton.sigmas
    images = []
    for _, people, found in by_image(annotations, results):
        images.append(CocoImage(people, found, sigmas))

    everybody = ap_and_recall(images, ANY_SIZE)  # (2, T)
    medium = ap_and_recall(images, MEDIUM)
    large = ap_and_recall(images, LARGE)
    table = {}
    for i, name in enumerate(("AP", "AR")):
        table[name] = everybody[i].mean()
        table[f"{name}50"] = everybody[i, 0]
        table[f"{name}75"] = everybody[i, 5]
        table[f"{name}M"] = medium[i].mean()
        table[f"{name}L"] = large[i].mean()
    return {name: float(value) for name, value in table.items()}


# -------------------------------------------------------------------------- PoseTrack's evaluation
def inside(x, y, polygon_x, polygon_y):
    """Which points x, y (...) lie inside a polygon of V corners, its border excluded: (...) bool.

    The even-odd rule: from inside, a ray to the right meets an odd number of edges.
    """
    odd = np.zeros(x.shape, bool)
    on_border = np.zeros(x.shape, bool)
    for corner in range(len(polygon_x)):
        # the edge that ends in this corner, as each point sees it from itself
        x0 = polygon_x[corner - 1] - x  # (...)
        y0 = polygon_y[corner - 1] - y
        x1 = polygon_x[corner] - x
        y1 = polygon_y[corner] - y

        # the cross product: its sign says on which side the edge passes, 0 is in line with it
        side = x0 * y1 - y0 * x1
        on_border |= (side == 0) & (x0 * x1 + y0 * y1 <= 0)

        # the ray meets an edge with one end above and one below it that passes on the right
        starts_above = y0 <= 0
        stops_above = y1 <= 0
        odd ^= (starts_above != stops_above) & ((side > 0) == starts_above)
    return odd & ~on_border


def joints_that_count(names):
    """PoseTrack's 15 joints; all, in a file that names others."""
    return POSETRACK_JOINTS if set(POSETRACK_JOINTS) <= set(names) else tuple(names)


def posetrack_joints(entries, image, names):
    """Joints (N, J, 3) of annotations or results, and which of them are there (N, J).

    names: of an entry's joints, of which J count. Not there is a joint whose three numbers are all
    0, or that lies in a region of the image that is to be ignored.
    """
    columns = [names.index(joint) for joint in joints_that_count(names)]
    joints = keypoints_of(entries, len(names))[:, columns]  # (N, J, 3)
    there = (joints != 0).any(-1)  # (N, J)

    x = joints[..., 0]  # (N, J)
    y = joints[..., 1]
    regions_x = image.get("ignore_regions_x", [])
    regions_y = image.get("ignore_regions_y", [])
    for region_x, region_y in zip(regions_x, regions_y, strict=True):
        there &= ~inside(x, y, region_x, region_y)
    return joints, there


def judge_posetrack_frame(image, people, results, names):
    """Judge one frame: J joints of G people and P results.

    Returns which joints of the results are right (P, J), which are judged at all (P, J), and how
    many of the people's are labelled (J).
    """
    joints, labelled = posetrack_joints(people, image, names)  # (G, J, 3), (G, J)
    poses, predicted = posetrack_joints(results, image, names)  # (P, J, 3), (P, J)

    # a joint may be off by half a head size, which is 0.6 of the head box's diagonal
    boxes = np.array([person["bbox_head"] for person in people], float)  # (G, 4)
    heads = 0.6 * np.linalg.norm(boxes[:, 2:], axis=1)  # (G)
    heads = heads[:, None]  # (G, 1)
    offsets = poses[:, None] - joints  # (P, G, J, 3)
    distance = np.linalg.norm(offsets[..., :2], axis=-1)  # (P, G, J)
    close = (distance <= 0.5 * heads) & (heads > 0)
    close &= labelled & predicted[:, None]

    # A result takes the person of whose labelled joints it has the largest share right (PCKh), if
    # any, and a person keeps the best result that came. Of equals it is the first.
    count = np.maximum(labelled.sum(-1), 1)  # (G)
    shares = close.sum(-1) / count  # (P, G)
    kept = {}
    best_share = np.zeros(len(people))
    for pose, person in enumerate(shares.argmax(1)):
        if shares[pose, person] > best_share[person]:
            best_share[person] = shares[pose, person]
            kept[person] = pose

    # what nobody keeps is wrong in every joint
    right = np.zeros_like(predicted)
    for person, pose in kept.items():
        right[pose] = close[pose, person]
    return right, predicted, labelled.sum(0)


def posetrack_ap(annotations, results):
    """PoseTrack's multi-person pose evaluation (poseval), in percent.

    Head, Sho, Elb, Wri, Hip, Knee, Ank are means over a column's joints, Total is that of all 15.
    Left out are frames without people and joints that nobody has; a mean of none is nan.

    annotations: a PoseTrack18 dict of one sequence, or of several with their lists joined; results:
    a list of dicts with image_id, keypoints (51 numbers) and scores (17, one a joint). Raises
    UserError as `by_image` does.
    """
    names = annotations["categories"][0]["keypoints"]
    counted = joints_that_count(names)
    judged = {joint: [] for joint in counted}
    labelled = np.zeros(len(counted), int)
    for image, people, found in by_image(annotations, results):
        if people:
            right, predicted, count = judge_posetrack_frame(image, people, found, names)
            labelled += count
            for i, j in np.argwhere(predicted):
                joint = counted[j]
                score = found[i]["scores"][names.index(joint)]
                judged[joint].append((score, right[i, j]))

    ap = {}
    for joint, count in zip(counted, labelled, strict=True):
        if count > 0:
            last_first = judged[joint][::-1]  # the official order of equal scores
            right, precision = rank_results(last_first)  # (N) each
            # the recall goes up by 1 / count at the right ones: the curve's area is a sum over them
            area = precision[right].sum() / count
            ap[joint] = 100 * area

    table = {}
    columns = POSETRACK_PARTS | {"Total": counted}
    for name, joints in columns.items():
        values = [ap[joint] for joint in joints if joint in ap]
        table[name] = float(np.mean(values)) if values else float("nan")
    return table


# ----------------------------------------------------------------- results in the official formats
def pose_score(pose, box_score=1.0):
    """The usual score of a person (K, 3): that of the box times the mean joint score above 0.2."""
    scores = pose[:, 2]
    sure = scores[scores > 0.2]
    return float(box_score * sure.mean()) if len(sure) else 0.0


def oks_nms(poses, scores, areas, sigmas=COCO.sigmas):
    """Which poses (N, K, 3) of one image to keep: their indices, best score first.

    A pose goes if one that is kept is nearly the same: OKS of the two, at their mean area, above
    0.9. scores (N); areas (N) in square pixels; sigmas (K).
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    for i in order.tolist():
        labelled = poses[i].copy()
        labelled[:, 2] = 1  # both are predictions, with all joints
        mean_areas = (areas[kept] + areas[i]) / 2
        similarity = oks(poses[kept], labelled, mean_areas, sigmas)
        if (similarity <= 0.9).all():
            kept.append(i)
    return kept


def coco_results(keypoints, clips):
    """Predictions (N, 1, K, 3) for a CocoPeople -> the official list of results, after OKS-NMS.

    Ids, and the order of joints, are those of the annotation file.
    """
    poses = keypoints[:, 0]  # (N, K, 3)
    scores = np.zeros(len(poses))
    areas = np.zeros(len(poses))
    for i, pose in enumerate(poses):
        scores[i] = pose_score(pose, clips.scores[i])
        width, height = window(clips.boxes[i, 0], clips.size)[2:]
        areas[i] = width * height  # of the padded window, as in SBL's NMS

    people = {}  # of each image, in their order
    for i, image_id in enumerate(clips.ids[:, 0, 0].tolist()):
        people.setdefault(image_id, []).append(i)

    results = []
    for image_id, own in people.items():
        own = np.array(own)
        kept = oks_nms(poses[own], scores[own], areas[own], clips.skeleton.sigmas)
        for i in own[kept].tolist():
            pose = np.empty_like(poses[i])  # (K, 3)
            pose[clips.order] = poses[i]
            result = {
                "image_id": image_id,
                "category_id": clips.category_id,
                "keypoints": pose.ravel().round(3).tolist(),
                "score": float(scores[i]),
            }
            results.append(result)
    return results


def posetrack_results(keypoints, clips):
    """Predictions (N, F, K, 3) for PoseTrackClips -> the official list of results.

    One for each labelled frame of a track; a frame that only fills up its clip has no ids. As files
    may number their images alike, "sequence" is the name of the file.
    """
    results = []
    for i, t in np.ndindex(keypoints.shape[:2]):
        pose = keypoints[i, t]  # (K, 3)
        image_id, track_id = clips.ids[i, t].tolist()
        if image_id is not None:
            result = {
                "sequence": str(clips.sequence[i]),
                "image_id": image_id,
                "track_id": track_id,
                "keypoints": pose.ravel().round(3).tolist(),
                "scores": pose[:, 2].tolist(),
            }
            results.append(result)
    return results


# --------------------------------------------------------------------- running networks over clips
def to_device(images, device):
    """uint8 images (B, F, 3, H, W) -> normalised floats on the device, of the same shape."""
    # bytes go to the device: a quarter of the traffic
    images = data.normalise(images.to(device, non_blocking=True))
    # in channels last, the memory format in which convolutions are fastest
    flat = images.flatten(0, 1)  # (BF, 3, H, W)
    flat = flat.contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, images.shape[:2])


def propagate(nets, images, matrices, key_heatmaps=None, archs=None, cell=CELL, cut=False):
    """The chain of eq. (2): the heatmaps of every frame are an input of the next one's network.

        I^0 -> S -> H^0 -> warp -> T(I^1, .; arch^1) -> H^1 -> warp -> T(I^2, .; arch^2) -> H^2 ...

    images (B, F, 3, H, W) and matrices (B, F, 2, 3), image -> crop pixels, are of the whole clip,
    its key frame first. key_heatmaps: None, then nets[0] looks at frame 0; or the heatmaps
    (B, K, h, w) of frame 0, then nets[0] looks at frame 1. archs: one for each net, where the nets
    are super-networks. Returns (B, len(nets), K, h, w). Gradients flow back along the chain, unless
    they are cut: then each frame learns for itself alone, and takes what it is handed as it is.
    """
    heatmaps = key_heatmaps  # H^0, where it is there already
    first = 0 if key_heatmaps is None else 1
    predicted = []
    for t, net in enumerate(nets, first):
        # ours: H^{t-1} was seen through the window of frame t-1; move it into that of frame t
        if heatmaps is not None:
            heatmaps = heatmaps.detach() if cut else heatmaps
            heatmaps = data.warp_heatmaps(heatmaps, matrices[:, t - 1], matrices[:, t], cell)
        # eq. (2): H^0 = S(I^0), then H^t = T(I^t, H^{t-1}; arch^t)
        arch = archs[t - first] if archs else None
        heatmaps = net(images[:, t], arch, heatmaps)  # (B, K, h, w)
        predicted.append(heatmaps)
    return torch.stack(predicted, dim=1)


class EvaluationSet:
    """Clips that many networks are run over: cropped once, and their key frames predicted once.

    indices: which clips, in the order in which they are looked at. With a key_net (in eval mode)
    networks are asked about the frames after the key frame, without one about all frames. keep:
    hold the crops in memory, as uint8; otherwise every pass makes them anew.
    """

    def __init__(self, clips, device, indices=None, key_net=None, batch_size=64, keep=True):
        self.clips = clips
        self.device = device
        self.indices = list(range(len(clips)) if indices is None else indices)
        self.key_net = key_net
        self.key_heatmaps = {}  # batch number -> (B, K, h, w), filled in when they are needed
        self.first = 1 if key_net else 0  # the first frame that networks are asked about
        self.frames = clips.frames - self.first
        self.batch_size = batch_size
        self.number_of_batches = math.ceil(len(self.indices) / batch_size)
        self.crops = None
        if keep:
            loader = data.batch_loader(self, range(self.number_of_batches), clips, device)
            progress = data.Progress()
            self.crops = []
            for crops in loader:
                self.crops.append(crops)
                progress.show(
                    f"{clips.name}: {len(self.crops)} of {self.number_of_batches} cropped"
                )

    def indices_of(self, start, stop):
        """The clips in the batches start, start + 1, ..., stop - 1."""
        return self.indices[start * self.batch_size : stop * self.batch_size]

    def __getitem__(self, number):
        """Crop one batch: images (B, F, 3, H, W) uint8, matrices (B, F, 2, 3)."""
        batch = self.clips.batch(self.indices_of(number, number + 1))
        return batch.images, batch.matrices

    def batches(self, start=0, stop=None):
        """(images on the device, matrices, the key frame's heatmaps or None) of some batches."""
        numbers = range(self.number_of_batches)[start:stop]
        loader = data.batch_loader(self, numbers, self.clips, self.device)
        crops = self.crops[start:stop] if self.crops else loader
        progress = data.Progress()
        for number, (images, matrices) in zip(numbers, crops, strict=True):
            progress.show(f"{self.clips.name}: batch {number} of {self.number_of_batches}")
            images = to_device(images, self.device)
            # S is fixed while T is trained and searched: its heatmaps stay the same
            if self.key_net and number not in self.key_heatmaps:
                with torch.no_grad():
                    self.key_heatmaps[number] = self.key_net(images[:, 0])
            yield images, matrices, self.key_heatmaps.get(number)


def calibration_set(clips, device, seed, key_net=None):
    """Training clips to measure batch norm on: random ones, from the whole training set."""
    count = 64 if key_net else 256  # ours; T looks at several frames of each
    rng = random.Random(f"{seed} calibration")
    indices = rng.sample(range(len(clips)), min(count, len(clips)))
    return EvaluationSet(clips, device, indices, key_net)


def validation_set(clips, device, seed, key_net=None):
    """All of val, in a random order, so that any part of it is a fair one.

    In at least 16 batches where there are so many clips: a search first looks at a sixteenth.
    """
    indices = list(range(len(clips)))
    random.Random(f"{seed} validation").shuffle(indices)
    batch_size = max(1, min(64, len(clips) // 16))
    return EvaluationSet(clips, device, indices, key_net, batch_size)


def recalibrate(nets, calibration):
    """Measure the batch-norm statistics of finished networks anew, in place; then eval mode.

    In the super-network one set of statistics served networks of all sizes and fits none of them
    (see `elastic.ElasticBatchNorm2d`). So a candidate runs over training clips, frame by frame
    along the chain, each batch normalised by itself as in training; its statistics become the mean
    of theirs. No weight changes. Each frame needs a network of its own, for the same reason.
    """
    chain = torch.nn.ModuleList(nets).train()
    norms = [layer for layer in chain.modules() if hasattr(layer, "running_mean")]
    momentum = norms[0].momentum
    with torch.no_grad():
        for i, (images, matrices, key_heatmaps) in enumerate(calibration.batches()):
            # batch norm does mean <- (1 - m) mean + m (mean of this batch). With m = 1, 1/2, 1/3,
            # ... that is the plain mean of all batches so far, and nothing of the old one is left
            for norm in norms:
                norm.momentum = 1 / (i + 1)
            propagate(nets, images, matrices, key_heatmaps, cell=calibration.clips.cell)
    for norm in norms:
        norm.momentum = momentum
    chain.eval()


def finish(supernet, archs, calibration, measured=None):
    """Finished networks of a candidate: cut out of the super-network, batch norm measured.

    measured: {archs: statistics} of candidates that were met before; it is added to.
    """
    nets = [supernet.extract(arch).to(memory_format=torch.channels_last) for arch in archs]
    # the buffers of a network are the running means and variances of its batch norms
    chain = torch.nn.ModuleList(nets).eval()
    measured = {} if measured is None else measured
    archs = tuple(archs)
    if archs not in measured:
        recalibrate(nets, calibration)
        measured[archs] = list(chain.buffers())
    for tensor, found_before in zip(chain.buffers(), measured[archs], strict=True):
        tensor.copy_(found_before)
    return nets


def predict(nets, evaluation, flip=False, quarter=False, start=0, stop=None):
    """Keypoints (n, frames, K, 3) of the clips in some batches: x, y in image pixels and score.

    flip: average the heatmaps with those of the mirrored crops (SBL's flip test), for clips of one
    frame. quarter: how peaks are read, see `data.decode`.
    """
    clips = evaluation.clips
    frames = slice(evaluation.first, evaluation.first + len(nets))  # that are predicted
    found = []
    with torch.inference_mode():
        for images, matrices, key_heatmaps in evaluation.batches(start, stop):
            heatmaps = propagate(nets, images, matrices, key_heatmaps, cell=clips.cell)
            if flip:
                mirrored = propagate(nets, images.flip(-1), matrices, cell=clips.cell)
                heatmaps += data.flip_heatmaps(mirrored, clips.skeleton.flip, clips.cell)
                heatmaps /= 2
            # heatmaps -> crop pixels -> image pixels, each frame through its own window
            keypoints = data.decode(heatmaps.float(), quarter, clips.cell)  # (B, frames, K, 3)
            back = data.invert(matrices[:, frames])  # (B, frames, 2, 3)
            found.append(data.transform(keypoints.cpu().numpy(), back))
    return np.concatenate(found)


def passed(keypoints, clips, indices, first):
    """How well each person was found in each frame: (n, frames), 0 to 1, nan without labels.

    keypoints (n, frames, K, 3) are of the clips `indices`, from frame `first` on. It is the share
    of COCO's ten thresholds that the OKS passes. Where each person has one given window, there are
    no detections to rank, and average precision is the share found: the mean of these numbers.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]  # (n, frames)
    similarity = oks(keypoints, joints, areas, clips.skeleton.sigmas)  # (n, frames)
    share = (similarity[..., None] >= OKS_THRESHOLDS).mean(-1)
    labelled = (joints[..., 2] > 0).any(-1)
    return np.where(labelled, share, np.nan)


def ap_by_part(keypoints, clips, indices, first):
    """{part: AP} of each part of the body, left and right together, 0 to 100; arguments: `passed`.

    As there, but each joint is held to the thresholds by itself.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]
    similarity = joint_similarity(keypoints, joints, areas, clips.skeleton.sigmas)
    share = (similarity[..., None] >= OKS_THRESHOLDS).mean(-1)  # (n, frames, K)
    labelled = joints[..., 2] > 0

    # the sums of all joints of a part
    passed_sum = {}
    count = {}
    for k, partner in enumerate(clips.skeleton.flip):
        part = clips.skeleton.joints[min(k, partner)].removeprefix("left_")
        own = labelled[..., k]
        passed_sum[part] = passed_sum.get(part, 0) + share[..., k][own].sum()
        count[part] = count.get(part, 0) + own.sum()
    return {part: float(100 * passed_sum[part] / count[part]) for part in count if count[part]}


def percent(points):
    """The AP of what `passed` returns, 0 to 100."""
    return 100 * float(np.nanmean(points))


# ------------------------------------------------------------------------- sampling under a budget
BAND = 0.9  # candidates cost at least this share of the budget


def random_walk(space, archs, high, rng, price, band=BAND):
    """Allocations on an endless random walk among total prices from band * high to high.

    archs: where it sets out for the band, a list of architectures that cost at most `high`.

    A decision is drawn as `Space.sample` draws it, whatever it was before. So within the band each
    place is visited as often as `Space.sample` would give it (a Gibbs sampler that stays inside).
    """
    low = band * high
    total = sum([price(arch) for arch in archs])
    patience = 1000 * space.decisions() * len(archs)
    for steps in itertools.count():
        # draw a decision of a frame anew; or two or three, as then one can pay for another, and no
        # corner of the band is cut off by an expensive decision that alone would lead out of it
        moved = list(archs)
        for _ in range(rng.randint(1, 3)):
            t = rng.randrange(len(archs))
            moved[t] = space.redraw(moved[t], rng)
        # go there if it is in the band (eq. 3: at most C), or no further below that than here
        moved_total = sum([price(arch) for arch in moved])
        if min(low, total) <= moved_total <= high:
            archs = moved
            total = moved_total
        # in a space of few architectures the band can be empty: then what is next to it will do,
        # which is where the walk has arrived when it does not come any closer
        if total >= low or steps > patience:
            yield tuple(archs)


def price_in_gflops(space, joints=17):
    """The price that the paper's budgets are in: a function of an Arch."""

    def gflops(arch):
        return cost(arch, space.image_size, joints).gflops

    return gflops


def allocate(space, frames, budget, count, rng, price=None, band=BAND):
    """`count` random tuples of `frames` architectures that together cost just below the budget.

    They cost at least the share `band` of it (eq. 3). A random walk: some decisions are drawn anew;
    the step is taken if the total price comes closer to that band, or stays in it. What it visits
    there has the distribution of `Space.sample`, given the band. No accuracy is looked at on the
    way, so this is random search as in Secs 3.4.1 and 3.4.3, not evolution. The band is ours: of
    what is drawn blindly under a budget hardly anything lies near it, and the best one will.

    price: Arch -> number, default GFLOPs, the paper's. No two are the same; they are fewer only if
    there are hardly more. UserError if nothing is so cheap.
    """
    price = lru_cache(maxsize=2**16)(price or price_in_gflops(space))  # many are asked for again
    smallest = cheapest(space, price)
    least = price(smallest)
    if budget < frames * least:
        total = f"{frames} x the smallest architecture, {least:.4g}"
        raise UserError(f"a budget of {budget:.4g} is below {total}: give more")
    # where the budget is above everything, the band ends at the largest
    largest = max([replace(space.largest(), fusion=each) for each in space.fusions], key=price)
    high = min(budget, frames * price(largest))
    walk = random_walk(space, [smallest] * frames, high, rng, price, band)

    # burn-in: forget where the band was entered. Then places that are far apart are independent
    apart = 5 * space.decisions() * frames
    found = {}
    for places, archs in enumerate(itertools.islice(walk, 20 * apart, None, apart)):
        found[archs] = True  # a dict, because a set has no order
        if len(found) == count or places > 20 * len(found) + 100:
            return list(found)


def cheapest(space, price):
    """The smallest architecture, with its cheapest fusion."""
    return min([replace(space.smallest(), fusion=each) for each in space.fusions], key=price)


def sample(space, budget, count, rng, price=None, band=BAND):
    """`count` random architectures that cost just below the budget: for a single frame."""
    return [archs[0] for archs in allocate(space, 1, budget, count, rng, price, band)]


def draw_candidates(
    space, budget, count, seed, joints, frames=1, key_arch=None, shared=False, band=BAND
):
    """What a search looks at: a list of tuples of architectures, one for each of `frames` frames.

    budget, in GFLOPs: of S, which is one architecture for all frames. Or, with the key frame's
    key_arch, the *average* over key and non-key frames, as Table 1 gives it; then each non-key
    frame has an architecture of its own, unless they are `shared` (Fig. 6b). band: see `allocate`.
    """
    gflops = price_in_gflops(space, joints)
    rng = random.Random(f"{seed} candidates")
    total = frames * budget
    if key_arch:
        # eq. (3): C is what the average leaves for the T non-key frames, shared or not
        key = gflops(key_arch)
        total = (frames + 1) * budget - key
        least = frames * gflops(cheapest(space, gflops))
        if total < least:
            average = (key + least) / (frames + 1)
            raise UserError(
                f"a budget of {budget:.4g} GFLOPs on average is below {average:.4g}, what the key "
                f"frame and {frames} of the smallest networks make: give more"
            )
    if shared or not key_arch:
        archs = sample(space, total / frames, count, rng, gflops, band)
        return [(arch,) * frames for arch in archs]
    return allocate(space, frames, total, count, rng, gflops, band)


# -------------------------------------------------------------------------------------- the search
def rank_and_world():
    """(number of this process, how many there are): torchrun starts several, `train` joins them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value):
    """The values that all processes give here, in their order."""
    values = [value] * rank_and_world()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def schedule(count, batches, plain):
    """Rounds of a search: {batches that have been seen after it: candidates that go in}.

    plain: one round, every candidate is judged on everything, as in the paper (Secs 3.4.1, 3.4.3).
    Otherwise (ours) successive halving, at 3/16 of that: four times the better half goes on.

        candidates   all    1/2   1/4   1/8   1/16
        clips        1/16   1/8   1/4   1/2   all
    """
    if plain:
        return {batches: count}
    rounds = {}
    for k in range(5):
        # of fewer than 16 batches some rounds would show nothing new: the first of them stays
        seen = math.ceil(batches / 2 ** (4 - k))
        rounds.setdefault(seen, math.ceil(count / 2**k))
    return rounds


class Search:
    """A search under way.

    table has a row for each candidate, in the order in which they were drawn:
        archs, gflops, params   what it is, and what all its frames together cost
        passed, people          for each frame: the sum of `passed`, and over how many people
        ap_by_frame, ap         in percent, of the clips seen so far
        rounds                  `ap` after each round
    """

    def __init__(self, supernet, candidates, validation, calibration, about, path):
        self.supernet = supernet
        self.candidates = candidates
        self.validation = validation
        self.calibration = calibration
        self.about = about  # what makes it this search, see `find`
        self.path = path  # of the table
        self.measured = {}  # batch-norm statistics, for later rounds
        # go on from the table that an interrupted search left: all processes from the same one
        page = json.loads(path.read_text()) if path.is_file() else {}
        self.table = [new_row(supernet, archs) for archs in candidates]
        if about.items() <= page.items():
            self.table = page.get("candidates", self.table)
        self.table = gather(self.table)[0]

    def run(self, plain):
        """Round by round: who is left looks at the clips that it has not seen yet."""
        count = len(self.table)
        going = list(range(count))
        start = 0
        rounds = schedule(count, self.validation.number_of_batches, plain)
        for number, (stop, left) in enumerate(rounds.items()):
            # the better ones of the round before; of equals, who was drawn first
            if number > 0:
                scores = np.array([self.table[i]["rounds"][number - 1] for i in going])
                order = np.argsort(-scores, kind="stable")
                going = [going[k] for k in order[:left]]
            # an interrupted search has judged some of them already
            todo = [i for i in going if len(self.table[i]["rounds"]) == number]
            self.judge_all(todo, start, stop)
            start = stop
            clips = len(self.validation.indices_of(0, stop))
            ap = self.table[best(self.table)]["ap"]
            print(f"search: {left} of {count}, {clips} clips each, best {ap:.1f} AP", flush=True)

    def judge_all(self, todo, start, stop):
        """Judge candidates on the batches from start to stop."""
        rank, world = rank_and_world()
        progress = data.Progress()
        for turn in range(0, len(todo), world):
            progress.show(f"search: {turn} of {len(todo)} candidates are judged in this round")
            # each process takes one; in the last turn there may be none left for some
            mine = todo[turn + rank : turn + rank + 1]
            judged = [(i, self.judge(i, start, stop)) for i in mine]
            for i, row in itertools.chain(*gather(judged)):
                self.table[i] = row
            # the table after every candidate, for who interrupts the search, or watches it
            if rank == 0:
                page = self.about | {"best": best(self.table), "candidates": self.table}
                data.write_json(page, self.path)

    def judge(self, i, start, stop):
        """The row of candidate i, after it has looked at the batches from start to stop too."""
        val = self.validation
        row = dict(self.table[i])
        # its weights are slices of the super-network's, its batch-norm statistics its own
        nets = finish(self.supernet, self.candidates[i], self.calibration, self.measured)

        # real data have an AP of their own: it has the last word, over all clips, as in `official`
        real = isinstance(val.clips, (CocoPeople, PoseTrackClips))
        final = real and stop == val.number_of_batches
        if final:
            start = 0
            row.update(passed=0, people=0)
        keypoints = predict(nets, val, quarter=final, start=start, stop=stop)
        points = passed(keypoints, val.clips, val.indices_of(start, stop), val.first)
        total = row["passed"] + np.nansum(points, axis=0)  # (frames)
        people = row["people"] + np.isfinite(points).sum(axis=0)  # (frames)
        by_frame = 100 * total / np.maximum(people, 1)
        row["passed"] = total.tolist()
        row["people"] = people.tolist()
        row["ap_by_frame"] = by_frame.round(2).tolist()
        # the objective of eq. (3), a sum over the frames: here the mean over all people in them
        row["ap"] = 100 * sum(row["passed"]) / max(sum(row["people"]), 1)
        if final:
            row["ap"] = float(np.nan_to_num(own_ap(keypoints, val)))  # nan: nobody is labelled
        row["rounds"] = [*row["rounds"], row["ap"]]
        return row


def new_row(supernet, archs):
    """The row of a candidate that has not looked at anything yet."""
    # what all its frames cost together, which is what eq. (3) bounds
    size = supernet.space.image_size
    total = sum([cost(arch, size, supernet.joints) for arch in archs], Cost())
    row = {"archs": [json.loads(arch.to_json()) for arch in archs]}
    row.update(gflops=total.gflops, params=total.params)
    row.update(passed=0, people=0, rounds=[])
    return row


def own_ap(keypoints, evaluation):
    """The AP of the data set itself, in percent: COCO's, or PoseTrack's Total.

    keypoints (N, frames, K, 3) of all its clips. Where only non-key frames were predicted, only
    who is in a non-key frame of a clip counts, on both sides.
    """
    clips = evaluation.clips
    # back from the random order into that of the clips
    everything = np.zeros(clips.joints.shape)  # (N, F, K, 3)
    everything[evaluation.indices, evaluation.first :] = keypoints
    if isinstance(clips, CocoPeople):
        return 100 * coco_ap(clips.annotations, coco_results(everything, clips))["AP"]

    # people in images, as an image can be the key frame of one and a non-key frame of another
    asked = set()
    for sequence, ids in zip(clips.sequence.tolist(), clips.ids.tolist(), strict=True):
        for image_id, track_id in ids[evaluation.first :]:
            asked.add((sequence, image_id, track_id))
    people = [person for person in clips.annotations["annotations"] if who(person) in asked]
    results = [pose for pose in posetrack_results(everything, clips) if who(pose) in asked]
    return posetrack_ap({**clips.annotations, "annotations": people}, results)["Total"]


def who(entry):
    """What tells a person of PoseTrack in a frame apart, in annotations and results."""
    return entry["sequence"], entry["image_id"], entry["track_id"]


def best(table):
    """The index of the best one of the rows that have seen most."""
    # an AP on few clips may be higher by chance
    most = max(len(row["rounds"]) for row in table)
    scores = [row["ap"] if len(row["rounds"]) == most else -math.inf for row in table]
    return int(np.argmax(scores))


def find(
    supernet,
    budget,
    count,
    validation,
    calibration,
    out,
    seed,
    key_arch=None,
    shared=False,
    plain=False,
    band=BAND,
    name="search",
):
    """The search (Secs 3.4.1, 3.4.3): draw `count` candidates, judge them, keep the best one.

    budget, key_arch, shared, band: see `draw_candidates`; plain: see `schedule`. Returns
    (architectures of the best candidate, table). The table is also kept in OUT/NAME.json, written
    after every candidate; a search that was interrupted goes on from there. OUT/NAME.png is a
    picture of it.
    """
    frames = validation.frames
    how = (frames, key_arch, shared, band)
    candidates = draw_candidates(supernet.space, budget, count, seed, supernet.joints, *how)
    # what makes it this search: a table of another one is not continued
    about = {"budget": budget, "frames": frames, "candidates_wanted": count, "seed": seed}
    about["key"] = key_arch and json.loads(key_arch.to_json())
    about["shared"] = shared
    about["band"] = band
    about["plain"] = plain
    about["clips"] = [validation.clips.name, len(validation.indices)]
    weights = sum([p.double().sum().item() for p in supernet.parameters()])
    about["weights"] = round(weights, 6)
    path = Path(out, f"{name}.json")
    search = Search(supernet, candidates, validation, calibration, about, path)
    search.run(plain)
    if rank_and_world()[0] == 0:
        data.save_image(plot(search.table), path.with_suffix(".png"))
    return candidates[best(search.table)], search.table


def plot(table):
    """Picture of a search: a dot for each candidate, dark if it saw everything, red if it won."""
    prices = np.array([row["gflops"] for row in table])
    scores = np.array([row["ap"] for row in table])
    rounds = np.array([len(row["rounds"]) for row in table])
    image = Image.new("RGB", (720, 480), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(14)

    # six ticks along each axis, and the pixels where they are
    columns = np.linspace(70, 690, 6)
    lines = np.linspace(430, 50, 6)
    gflops = np.linspace(0.99 * prices.min(), 1.01 * prices.max(), 6)
    ap = np.linspace(scores.min() - 1, scores.max() + 1, 6)
    for i in range(6):
        pen.line([70, lines[i], 690, lines[i]], "lightgrey")
        pen.text((62, lines[i]), f"{ap[i]:.1f}", "black", anchor="rm")
        pen.text((columns[i], 438), f"{gflops[i]:.4g}", "black", anchor="ma")
    pen.text((8, 24), "AP on the clips that a candidate has seen", "black")
    pen.text((380, 458), "GFLOPs of all its frames", "black", anchor="ma")

    # finalists last, on top; then the best one
    x = np.interp(prices, gflops, columns)
    y = np.interp(scores, ap, lines)
    for i in np.argsort(rounds, kind="stable"):
        colour = "royalblue" if rounds[i] == rounds.max() else "lightsteelblue"
        pen.circle((x[i], y[i]), 4, colour)
    won = best(table)
    pen.circle((x[won], y[won]), 7, "crimson")
    text = f"found: {scores[won]:.1f} AP at {prices[won]:.4g}"
    pen.text((690, 24), text, "crimson", anchor="ra")
    return image


# -------------------------------------------------------------------------------- official numbers
def official(nets, clips, device, out):
    """The official numbers of finished networks on COCO or PoseTrack18 val, in percent.

    COCO with the flip test, PoseTrack18 in one pass a frame, as the video estimator works; both
    with SBL's quarter offset. Prints them and returns {column: number}. Writes the official list
    OUT/results.json, and for PoseTrack18 OUT/posetrack/SEQUENCE.json, which poseval reads.
    """
    # all clips in their order; not kept in memory, as they are looked at once
    coco = isinstance(clips, CocoPeople)
    evaluation = EvaluationSet(clips, device, keep=False)
    keypoints = predict(nets, evaluation, flip=coco, quarter=True)
    if coco:
        results = coco_results(keypoints, clips)
        table = coco_ap(clips.annotations, results)
        table = {name: max(100 * value, -1.0) for name, value in table.items()}  # -1: nobody
    else:
        results = posetrack_results(keypoints, clips)
        table = posetrack_ap(clips.annotations, results)
        for name, images in clips.sequences.items():
            poses = [result for result in results if result["sequence"] == name]
            page = {**clips.annotations, "images": images, "annotations": poses}
            data.write_json(page, Path(out, "posetrack", name))

    data.write_json(results, Path(out, "results.json"))
    print(f"{clips.name}, official evaluation of {len(results)} poses (results.json in {out})")
    if not clips.annotations["annotations"]:
        print("who is in it is not told: hand results.json in to COCO's evaluation server")
        return {}
    print("".join(f"{name:>7}" for name in table))
    print("".join(f"{value:7.1f}" for value in table.values()))
    return table


def check_joints(clips, about, path):
    """Give `clips` the heatmap cells of the network in `path`; UserError for other joints."""
    if list(clips.skeleton.joints) != list(about["joints"]):
        how = "fine-tune it there first (train.py --stage s --arch FILE --init CKPT)"
        raise UserError(f"{path} predicts other joints than {clips.name} has: {how}")
    clips.cell = about.get("cell", CELL)


def frame_costs(nets, about):
    """What the finished networks of successive frames cost: {"params", "gflops", "ms", "fps"}, each
    a list with the frames' numbers and, last, those of the average frame.

    The average counts key and non-key frames alike, as in Tables 1 to 4 and Figs 1 and 4. The speed
    is that of one deployed network on one CPU thread.
    """
    size = tuple(about["size"])
    prices = [cost(net.arch, size, net.joints) for net in nets]
    costs = {
        "params": [price.params for price in prices],
        "gflops": [price.gflops for price in prices],
        "ms": vipnas.frame_times(nets),
    }
    for values in costs.values():
        values.append(float(np.mean(values)))
    costs["fps"] = [1000 / ms for ms in costs["ms"]]
    return costs


COST_TITLES = f"{'params':>12}{'GFLOPs':>9}{'ms':>8}{'FPS':>6}"


def format_costs(costs, t=-1):
    """One frame of `frame_costs` in the columns of COST_TITLES; -1: the average."""
    params, gflops, ms, fps = (costs[name][t] for name in ("params", "gflops", "ms", "fps"))
    return f"{params:12,.0f}{gflops:9.4f}{ms:8.2f}{fps:6.0f}"


def show_frames(nets, about):
    """Print what the network of each frame costs, and the average; returns `frame_costs`."""
    costs = frame_costs(nets, about)
    print(f"{'':10}{COST_TITLES}   (ms and frames a second: deployed, one CPU thread)")
    for t, net in enumerate(nets):
        frame = f"t = {t}" if t else "key frame"
        print(f"{frame:10}{format_costs(costs, t)}   {net.arch}")
    if len(nets) > 1:
        print(f"{'average':10}{format_costs(costs)}")
    return costs


# -------------------------------------------------------------------------------- the command line
def check_options(options, contents):
    """UserError for options that do not go together, or not with what the checkpoint holds."""
    if contents.get("kind") == "supernet":
        what = f"{options.checkpoint} is a super-network of stage {contents['stage']}"
        needed = ["gflops"]
        useless = ["boxes", "split"]
        if options.data != contents["config"]["data"]:
            useless.append("data")
        if contents["stage"] == "s":
            useless += ["frames", "shared"]
        if contents["config"]["data"] == "synthetic":
            useless += ["root"]
    else:
        what = f"{options.checkpoint} is a finished network"
        needed = ["data", "root"]
        useless = ["gflops", "frames", "shared", "plain", "candidates", "seed"]
    for name in useless:
        if getattr(options, name):
            raise UserError(f"{what}: leave out --{name}")
    for name in needed:
        if getattr(options, name) is None:
            raise UserError(f"{what}: give --{name}")
    if options.boxes and options.data != "coco":
        raise UserError("--boxes, a file of detected people, belongs to --data coco")
    if options.split and not options.boxes:
        raise UserError(f"--split {options.split} has no annotated boxes: give --data coco --boxes")
    for name in ("gflops", "frames", "candidates"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be a number above zero")


def judge_finished(options, device):
    """Official numbers of a finished S- or T-ViPNAS, or of a published network."""
    path = Path(options.checkpoint)
    nets, about = vipnas.load_networks(path)
    if options.data == "coco" and len(nets) > 1:
        raise UserError("COCO has no videos: name the key frame's network, vipnas_s.pt")
    split = options.split or "test"
    where = (options.data, options.root, split, len(nets), tuple(about["size"]))
    clips = data.open_clips(*where, boxes=options.boxes)
    check_joints(clips, about, path)
    show_frames(nets, about)
    nets = [net.to(device, memory_format=torch.channels_last) for net in nets]
    official(nets, clips, device, options.out or path.with_name(f"official_{options.data}"))


def open_split(split, options, contents, frames):
    """The clips of a split that belong to a run's checkpoint."""
    config = contents["config"]
    about = contents["about"]
    where = (config["data"], options.root or config["root"], split)
    clips = data.open_clips(*where, frames, tuple(about["size"]), config["clips"])
    check_joints(clips, about, options.checkpoint)
    return clips


def search_again(options, device):
    """Another search in a trained super-network: another budget, T (Table 4), shared (Fig. 6b)."""
    supernet, key_net, contents = vipnas.load_supernet(options.checkpoint)
    config = contents["config"]
    nets = [key_net] if key_net else []
    key_arch = key_net.arch if key_net else None
    frames = (options.frames or config["frames"]) if key_net else 1
    for net in (supernet, *nets):
        net.to(device, memory_format=torch.channels_last)

    # an impossible budget is said before any picture is read
    how = (options.seed, supernet.joints, frames, key_arch, options.shared)
    draw_candidates(supernet.space, options.gflops, 1, *how)
    train = open_split("train", options, contents, len(nets) + frames)
    val = open_split("val", options, contents, len(nets) + frames)
    calibration = calibration_set(train, device, options.seed, key_net)
    validation = validation_set(val, device, options.seed, key_net)

    # the search, and what it found
    name = f"search_{options.gflops:g}_{frames}" + ("_shared" if options.shared else "")
    out = Path(options.out or Path(options.checkpoint).with_name(name))
    count = options.candidates or config["candidates"]
    where = (validation, calibration, out, options.seed)
    how = (key_arch, options.shared, options.plain)
    out.mkdir(parents=True, exist_ok=True)
    name = f"vipnas_{contents['stage']}.pt"
    with data.locked(out):
        archs, table = find(supernet, options.gflops, count, *where, *how)
        nets += finish(supernet, archs, calibration)
        vipnas.save_finished(out / name, nets, contents["about"])
        vipnas.write_archs(list(archs), out / "arch.json")
    show_frames(nets, contents["about"])
    ap = table[best(table)]["ap"]
    print(f"val AP {ap:.1f}; wrote {name}, arch.json, search.json and search.png to {out}")


def main(arguments=None):
    """Search a trained super-network again, without training; or judge finished networks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="supernet.pt to search in, or a finished network")
    add("--gflops", type=float, help="search: budget of S, or the average over all frames")
    add("--frames", type=int, help="search: T, non-key frames after a key frame (as in the run)")
    add("--shared", action="store_true", help="search: one architecture for all non-key frames")
    add("--plain", action="store_true", help="search: every candidate on all of val (the paper)")
    add("--candidates", type=int, help="search: how many (as in the run)")
    add("--seed", type=int, default=0, help="search: of candidates and clips (default: 0)")
    add("--data", choices=("coco", "posetrack"), help="finished network: what to judge it on")
    add("--root", help="folder of the real data (search: where the run had it)")
    add("--boxes", help="finished network, coco: JSON file of detected people")
    add("--split", choices=["test-dev2017"], help="coco: results for the evaluation server")
    add("--out", help="folder for the result (default: beside the checkpoint)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        contents = vipnas.read_checkpoint(options.checkpoint)
        check_options(options, contents)
        if contents.get("kind") == "supernet":
            search_again(options, device)
        else:
            judge_finished(options, device)
    except (UserError, OSError) as error:
        sys.exit(f"search: {error}")


if __name__ == "__main__":
    main()
