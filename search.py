"""How good is a candidate, and which one to keep (Secs 3.4.1, 3.4.3).

1. Scores: the OKS of Sec. 4.1, and COCO's average precision, counted as the official tool does.
2. A candidate is a tuple of architectures, one for each frame it is asked about: one for S, T of them for T-ViPNAS. It is
   cut out of the super-network, its batch norm is re-calibrated, and it is run over clips it was not trained on.
3. The search samples candidates at random under a budget and keeps the best; no evolution, no predictor. In a race (ours) most
   of them are dropped before they have seen all clips.

    python search.py --checkpoint runs/t/supernet.pt --gflops 0.014 --frames 4     # search again, no training (Table 4)
"""
import argparse, dataclasses, gc, json, math, os, pathlib, random, signal, sys, tempfile, time
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import kendalltau
from torch.utils.data import DataLoader

import data, vipnas
from data import COCO, DataError, SyntheticClips, flip_heatmaps, invert, normalise, open_clips, save_image, transform, window
from vipnas import Arch, Stage, Branch, CheckpointError, PoseNet, cost, decode, write_json

def refuse(wrong, sentence):
    """Stop if something is `wrong` that the user can mend."""
    if wrong:
        raise ValueError(sentence)

# ---------------------------------------------------------------------------------------------- average precision
OKS_THRESHOLDS = np.linspace(0.50, 0.95, 10)                                      # (T,)
AREAS = np.array([[0, 1e5], [32, 96], [96, 1e5]]) ** 2                            # (A, 2) all, medium, large; pixels^2

def oks(predictions, joints, areas, sigmas=COCO.sigmas):
    """Object keypoint similarity, 0 to 1: the mean over labelled joints of exp(-d^2 / (2 s^2 k^2)) (Sec. 4.1).
    predictions (..., K, 2 or more), joints (..., K, 3) with visibility last, in pixels; areas (...) is s^2, in pixels^2;
    k = 2 sigmas. Leading dimensions broadcast: (D, 1, ...) with (G, ...) compares everyone with everyone. A person without
    labelled joints gets 0."""
    distance2 = ((predictions[..., :2] - joints[..., :2]) ** 2).sum(-1)           # (..., K)
    exponent = distance2 / (2 * np.asarray(sigmas)) ** 2 / (areas[..., None] + np.spacing(1)) / 2
    labelled = joints[..., 2] > 0                                                 # (..., K)
    return (np.exp(-exponent) * labelled).sum(-1) / np.maximum(labelled.sum(-1), 1)

def by_image(annotations, results):
    """[(image, its annotations, its results)] by rising image id, where there are any, after an empty one that gives nothing a
    shape too. Results for images that are not listed raise ValueError."""
    images = {image["id"]: (image, [], []) for image in sorted(annotations["images"], key=lambda image: image["id"])}
    for person in annotations["annotations"]:
        images.get(person["image_id"], (None, [], []))[1].append(person)
    for result in results:
        refuse(result["image_id"] not in images, f"a result is for image {result['image_id']}, which the annotations do not list")
        images[result["image_id"]][2].append(result)
    return [({}, [], []), *(group for group in images.values() if any(group[1:]))]

def column(entries, key, *shape):
    """What N annotations or results hold under `key`: (N, *shape)."""
    return np.array([entry[key] for entry in entries], float).reshape(-1, *shape)

def interpolated_precision(right, judged):
    """Best precision from each rank on: right, judged (N, ...) bool, highest score first -> (N, ...)."""
    return np.maximum.accumulate((right.cumsum(0) / np.maximum(judged.cumsum(0), 1))[::-1])[::-1]

def coco_image(people, found, sigmas):
    """Judge one image: its annotations (G of them) and its results, in any order, of which the best 20 (D) count.
    Each result, best score first, takes the most similar person still free: one who counts in the area range before ignored
    ones, the later one where two are equal; a crowd can be taken many times. Returns scores (D,), right and judged (D, A, T)
    bool, and who counts where (G, A) bool. Not judged: results on ignored people, and unmatched ones whose own area, of the
    box around the joints, is out of range."""
    found = sorted(found, key=lambda result: -result["score"])[:20]
    poses = column(found, "keypoints", 1, len(sigmas), 3)[..., :2]                # (D, 1, K, 2)
    joints, boxes = column(people, "keypoints", len(sigmas), 3), column(people, "bbox", 1, 4)  # (G, K, 3), (G, 1, 4)
    areas, crowd = column(people, "area"), column(people, "iscrowd").astype(bool)  # (G,)
    bare = ~(joints[..., 2] > 0).any(1)                                           # (G,)
    if bare.any():  # they are compared with the points nearest to the pose of a box three times as wide and high
        nearest = np.clip(poses, (boxes[..., :2] - boxes[..., 2:])[bare], (boxes[..., :2] + 2 * boxes[..., 2:])[bare])
        joints = np.repeat(joints[None], len(poses), 0)                           # (D, G, K, 3)
        joints[:, bare, :, :2], joints[:, bare, :, 2:] = nearest, 1
    similarity = oks(poses, joints, areas, sigmas)                                # (D, G)
    in_range = lambda size: (size >= AREAS[:, :1]) & (size <= AREAS[:, 1:])       # (N,) pixels^2 -> (A, N)
    counted = ~crowd & (column(people, "num_keypoints") != 0) & in_range(areas)   # (A, G)
    rank = 1 + similarity.argsort(1, kind="stable").argsort(1)                    # (D, G) 1 = least similar person
    preference = rank[:, None] + len(people) * counted                            # (D, A, G) distinct over G
    near = similarity[:, None] >= OKS_THRESHOLDS[:, None]                         # (D, T, G)
    chosen = np.zeros((*preference.shape[:2], *near.shape[1:]), bool)             # (D, A, T, G) at most one over G
    taken = np.zeros(chosen.shape[1:], bool)                                      # (A, T, G)
    for d in np.flatnonzero(near[:, 0].any(1)):                                   # the others match nobody
        worth = (near[d] & ~taken) * preference[d, :, None]                       # (A, T, G) 0 = not to be had
        chosen[d] = worth == worth.max(-1, keepdims=True, initial=1)
        taken |= chosen[d] & ~crowd
    right = (chosen & counted[:, None]).any(-1)                                   # (D, A, T)
    judged = right | ~chosen.any(-1) & in_range(np.ptp(poses[:, 0], axis=1).prod(-1)).T[..., None]
    return column(found, "score"), right, judged, counted.T

def coco_ap(annotations, results, sigmas=COCO.sigmas):
    """COCO's keypoint evaluation, the ten numbers of the official tool, 0 to 1, or -1 where no person counts.
    annotations: a COCO keypoint dict with one category; results: a list of dicts with image_id, keypoints (3K numbers) and
    score; sigmas (K,). AP and AR are means over the OKS thresholds; AP is the mean interpolated precision at 101 recalls, AR
    the recall; M and L count people of 32^2 to 96^2 pixels and above. Raises ValueError as `by_image` does."""
    images = [coco_image(people, found, sigmas) for _, people, found in by_image(annotations, results)]
    scores, right, judged, people = map(np.concatenate, zip(*images))             # (N,), 2 of (N, A, T), (G, A)
    order = (-scores).argsort(kind="stable")
    right, judged, total = right[order], judged[order], people.sum(0)             # total (A,)
    ap, ar = np.full((2, *right.shape[1:]), -1.0)                                 # (A, T)
    for a, t in np.ndindex(ap.shape):
        if total[a]:
            recall = right[:, a, t].cumsum() / total[a]                           # (N,)
            curve = np.append(interpolated_precision(right[:, a, t], judged[:, a, t]), 0)  # (N + 1,) 0: never that far
            ap[a, t] = curve[recall.searchsorted(np.linspace(0, 1, 101))].mean()
            ar[a, t] = right[:, a, t].sum() / total[a]
    return {name + part: float(value) for name, table in (("AP", ap), ("AR", ar)) for part, value in
            (("", table[0].mean()), ("50", table[0, 0]), ("75", table[0, 5]), ("M", table[1].mean()), ("L", table[2].mean()))}

def inside(points, polygon):
    """Which points (..., 2) lie inside a polygon (V, 2), its border excluded, by the even-odd rule -> (...) bool."""
    start, stop = (corners - points[..., None, :] for corners in (polygon, np.roll(polygon, -1, 0)))  # (..., V, 2)
    side = start[..., 0] * stop[..., 1] - start[..., 1] * stop[..., 0]            # (..., V) 0: in line with the edge
    border = (side == 0) & ((start * stop).sum(-1) <= 0)
    upward, downward = start[..., 1] <= 0, stop[..., 1] <= 0
    crossed = (upward != downward) & ((side > 0) == upward)                       # edges that a ray to the right meets
    return (crossed.sum(-1) % 2 == 1) & ~border.any(-1)

def posetrack_frame(image, people, found, names):
    """Judge one frame: its annotations (G of them) and its results (P), of whose joints `names` all but the ears (J) count.
    Returns scores (P, J), right and judged (P, J) bool, and labelled (G, J) bool. A joint is there, labelled or judged, unless
    its three numbers are 0 or it lies in an ignore region; it is right within half a head size, which is 0.6 times the diagonal
    of bbox_head. A pose belongs to the person of whose labelled joints it has most right (PCKh), a person keeps the best of
    its poses; the earlier one where two are equal. All joints of the other poses are wrong."""
    columns = [names.index(joint) for joint in data.POSETRACK.joints if not joint.endswith("_ear")]  # (J,)
    joints, poses = (column(group, "keypoints", len(names), 3)[:, columns] for group in (people, found))  # (G or P, J, 3)
    regions = [np.array(polygon, float).T for polygon in zip(*(image.get(f"ignore_regions_{axis}", ()) for axis in "xy"))]
    labelled, judged = ((points != 0).any(-1) & ~np.any([inside(points[..., :2], region) for region in regions], 0)
                        for points in (joints, poses))                            # (G, J), (P, J)
    heads = 0.6 * np.linalg.norm(column(people, "bbox_head", 4)[:, 2:], axis=1)[:, None]  # (G, 1)
    distance = np.linalg.norm(poses[:, None, :, :2] - joints[..., :2], axis=-1)   # (P, G, J)
    close = (distance <= 0.5 * heads) & (heads > 0) & labelled & judged[:, None]  # (P, G, J) never of an empty head box
    pckh = close.sum(-1) / np.maximum(labelled.sum(-1), 1)                        # (P, G)
    right = np.zeros_like(judged)
    if len(poses):
        pckh *= pckh.argmax(1)[:, None] == np.arange(len(joints))                 # only each pose's best person is left
        owned = np.flatnonzero(pckh.max(0))                                       # the people with a pose
        owners = pckh.argmax(0)[owned]
        right[owners] = close[owners, owned]
    return column(found, "scores", len(names))[:, columns], right, judged, labelled

def posetrack_ap(annotations, results):
    """PoseTrack's multi-person pose evaluation (poseval), in percent: Head, Sho, Elb, Wri, Hip, Knee, Ank and Total.
    annotations: a PoseTrack18 dict of one sequence, or of several with their lists joined; results: a list of dicts with
    image_id, keypoints (3K numbers) and scores (K), K = 17 joints of which 15 count. Frames without people are left out. Means
    leave out joints that nobody has, Total is that of all; a mean of none is nan. Raises ValueError as `by_image` does."""
    names = annotations["categories"][0]["keypoints"]
    frames = [posetrack_frame(*group, names) for group in by_image(annotations, results) if group[1] or not group[2]]
    scores, right, judged, labelled = map(np.concatenate, zip(*frames))           # (N, J), labelled (G, J)
    order = scores.argsort(0, kind="stable")[::-1]                                # (N, J) of equals, the last first
    right, judged = (np.take_along_axis(part, order, 0) for part in (right, judged))
    # Recall steps up by one labelled joint at each right one, so the area under the curve is a sum over those.
    area = (interpolated_precision(right, judged) * right).sum(0)                 # (J,)
    ap = 100 * np.divide(area, labelled.sum(0), out=np.full(len(area), np.nan), where=labelled.any(0))
    groups = {"Head": ap[:3], **dict(zip("Sho Elb Wri Hip Knee Ank".split(), ap[3:].reshape(-1, 2))), "Total": ap}
    return {name: float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")
            for name, values in groups.items()}

# ---------------------------------------------------------------------------------------------- running a candidate
def propagate(nets, images, heatmaps=None, archs=None):
    """The chain of eq. (2): each frame's own prediction goes on to the next.
    nets: a network for each of the F frames of images (B, F, 3, H, W), finished, or super-networks with one of `archs`
    each; heatmaps: (B, K, H/4, W/4) of the frame before the first. Returns (B, F, K, H/4, W/4)."""
    predicted = [heatmaps]
    for t, net in enumerate(nets):
        predicted.append(net(images[:, t], archs and archs[t], predicted[-1]))
    return torch.stack(predicted[1:], 1)

def to_device(images, device):
    """uint8 images (B, F, 3, H, W) -> normalised ones on the device, in the memory format that convolutions like best."""
    flat = normalise(images.to(device, non_blocking=True)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, images.shape[:2])

def loader(dataset, order, clips, device):
    """`dataset[i]` for each i of `order`, made ahead by worker processes where the clips are read from files."""
    cores = os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return DataLoader(dataset, sampler=order, batch_size=None, pin_memory=device.type == "cuda", worker_init_fn=_leave_interrupts,
                      num_workers=0 if isinstance(clips, SyntheticClips) else max(1, cores))

def _leave_interrupts(worker):
    """A loader process goes on through Ctrl-C: the step that is to be completed may need its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

class Sight:
    """Clips that candidates are judged on, or re-calibrated with, from their frame `first` on: 0 for S; 1 for T, whose key-frame
    network runs over them once, here. keep: hold the crops in memory, for what is looked at many times."""
    def __init__(self, clips, first, device, key_net=None, batch=64, keep=True):
        self.clips, self.first, self.device, self.key = clips, first, device, key_net and key_net.arch
        self.parts = [range(i, min(i + batch, len(clips))) for i in range(0, len(clips), batch)]
        batches = loader(self, range(len(self.parts)), clips, device)
        self.batches = list(batches) if keep else batches
        with torch.inference_mode():
            self.heatmaps = [key_net.eval()(images) for images in self.look(-1)] if key_net else [None] * len(self.parts)
    def __getitem__(self, part):
        return self.clips.batch(self.parts[part])[:2]
    def __iter__(self):
        """(images (B, F - first, 3, H, W), the key frame's heatmaps or None, matrices (B, 2, 3)) for each part."""
        for (images, matrices), heatmaps in zip(self.batches, self.heatmaps):
            yield to_device(images[:, self.first:], self.device), heatmaps, matrices
    def look(self, t, parts=slice(None)):
        """Frame `first` + t alone, (B, 3, H, W), of some of the parts."""
        for images, _ in self.batches[parts]:
            yield to_device(images[:, self.first + t, None], self.device)[:, 0]

def sights(train, val, device, first=0, key_net=None):
    """What a search needs: the clips that it re-calibrates candidates with, and those that it judges them on."""
    small = min(64, -(-len(val) // 16))  # a race looks at a sixteenth first
    return Sight(train.head(64 if key_net else 256), first, device, key_net), Sight(val, first, device, key_net, small)

def recalibrate(net, sight, t=0, heatmaps=None):
    """Measure the batch-norm statistics of a finished network anew, in place, over frame t of all clips of a `Sight`: in the
    super-network one set of statistics served networks of all sizes and fits none of them.
    heatmaps: of the frame before, for each part (default: the key frame's). Returns its own ones, for the frame after."""
    norms, found = [m for m in net.train().modules() if hasattr(m, "running_mean")], []
    with torch.no_grad():
        for i, (images, last) in enumerate(zip(sight.look(t), heatmaps or sight.heatmaps)):
            for norm in norms:
                norm.momentum = 1 / (i + 1)  # a plain mean over the parts
            found.append(net(images, heatmaps=last))
    for norm in norms:
        norm.momentum = 0.1
    net.eval()
    return found

def predict(nets, sight, flip=False, quarter=False):
    """Keypoints (N, F, K, 3) in image pixels, with scores, from finished networks in eval mode. flip: average the heatmaps with
    those of the mirrored images, for key frames; quarter: see `decode`."""
    found, clips = [], sight.clips
    with torch.inference_mode():
        for images, heatmaps, matrices in sight:
            maps = propagate(nets, images, heatmaps)
            if flip:
                maps = (maps + flip_heatmaps(propagate(nets, images.flip(-1)), clips.skeleton, clips.cell)) / 2
            found.append(keypoints_of(maps, matrices, clips, quarter))
    return np.concatenate(found)

def keypoints_of(heatmaps, matrices, clips, quarter=False):
    """Heatmaps (B, F, K, H/4, W/4) of the crops that `matrices` (B, 2, 3) gave -> (B, F, K, 3) image pixels and score."""
    return transform(decode(heatmaps.float(), quarter, clips.cell).cpu().numpy(), invert(matrices)[:, None])

def score(keypoints, clips, first, rows=slice(None)):
    """How well each person was found in each frame, (N, F): the share of COCO's thresholds that the OKS passes, 0 to 1; nan where
    nothing is labelled. Its mean, `percent`, is what we call AP where every person has one given window: without detections to
    rank, average precision is the share found."""
    frames = slice(first, first + keypoints.shape[1])
    joints, areas = clips.joints[rows, frames], clips.areas[rows, frames]
    passed = (oks(keypoints, joints, areas, clips.skeleton.sigmas)[..., None] >= OKS_THRESHOLDS).mean(-1)  # (N, F)
    return np.where((joints[..., 2] > 0).any(-1), passed, np.nan)

def percent(points):
    """The AP of `score`'s results."""
    return 100 * float(np.nanmean(points))

def finish(net, archs, calibration):
    """Cut a candidate out of the super-network and re-calibrate it, frame by frame: a list of finished networks."""
    nets, heatmaps = [net.extract(arch).to(memory_format=torch.channels_last) for arch in archs], None
    for t, finished in enumerate(nets):
        heatmaps = recalibrate(finished, calibration, t, heatmaps)
    return nets

def judge(net, archs, calibration, sight):
    """`score` of a candidate on a `Sight`."""
    return score(predict(finish(net, archs, calibration), sight), sight.clips, sight.first)

# ---------------------------------------------------------------------------------------------- the official protocols
def pose_score(pose, box_score=1.):
    """The usual score of a person (K, 3): that of the box times the mean of the joints' above 0.2."""
    sure = pose[pose[:, 2] > .2, 2]
    return float(box_score * sure.mean()) if len(sure) else 0.

def oks_nms(poses, scores, areas, threshold=.9):
    """Indices of the poses (N, K, 3) of one image to keep: each takes out those of lower score that are nearly the same."""
    kept = []
    for i in (-np.asarray(scores)).argsort(kind="stable"):
        labelled = poses[i] * (1, 1, 0) + (0, 0, 1)  # two predictions are compared: all joints of one are the truth
        if (oks(poses[kept], labelled, (areas[kept] + areas[i]) / 2) <= threshold).all():
            kept.append(i)
    return kept

def coco_results(keypoints, clips):
    """Predictions (N, 1, K, 3) for a CocoPeople as the official list of results, after OKS-NMS in each image."""
    images, results = clips.ids[:, 0, 0], []
    areas = np.array([window(box, clips.size)[2:].prod() for box in clips.boxes])  # of windows, at which SBL's NMS compares
    for image in dict.fromkeys(images.tolist()):
        people = np.flatnonzero(images == image)
        poses, scores = keypoints[people, 0], [pose_score(keypoints[i, 0], clips.scores[i]) for i in people]
        results += [{"image_id": image, "category_id": 1, "keypoints": poses[k].ravel().round(3).tolist(), "score": scores[k]}
                    for k in oks_nms(poses, scores, areas[people])]
    return results

def posetrack_results(keypoints, clips):
    """Predictions (N, F, K, 3) for PoseTrackClips as the official list of results, one for each labelled frame of a track."""
    return [{"image_id": image, "track_id": track, "keypoints": pose.ravel().round(3).tolist(),
             "scores": pose[:, 2].round(4).tolist()}
            for (image, track), pose in zip(clips.ids.reshape(-1, 2).tolist(), keypoints.reshape(-1, 17, 3)) if image >= 0]

def official(nets, clips, device, out):
    """Run finished networks over COCO val (with flip test) or PoseTrack18 val (one pass a frame, as the video estimator works),
    quarter-cell offset; print the official numbers in the paper's columns, and return them, in percent. Writes the official
    list, `out`/results.json; for PoseTrack18 also `out`/posetrack/SEQUENCE.json, which poseval reads."""
    coco = clips.skeleton is COCO
    keypoints = predict(nets, Sight(clips, 0, device, keep=False), flip=coco, quarter=True)
    results = (coco_results if coco else posetrack_results)(keypoints, clips)
    write_json(results, pathlib.Path(out, "results.json"))
    if coco:
        table = {name: 100 * value if value >= 0 else -1 for name, value in coco_ap(clips.annotations, results).items()}
    else:
        table = posetrack_ap(clips.annotations, results)
        pathlib.Path(out, "posetrack").mkdir(exist_ok=True)
        for name, images in clips.sequences.items():
            own = {image["id"] for image in images}
            page = {**clips.annotations, "images": images, "annotations": [r for r in results if r["image_id"] in own]}
            write_json(page, pathlib.Path(out, "posetrack", name))
    print(f"{clips.name}, official evaluation of {len(results)} poses (results.json in {out})")
    print("".join(f"{name:>7}" for name in table) + "\n" + "".join(f"{value:7.1f}" for value in table.values()))
    return table

# ---------------------------------------------------------------------------------------------- sampling under a budget
# Drawn blindly, hardly anything fits a tight budget. So every decision is tilted towards the cheap (ours): an option that adds x
# to the price is drawn with probability ~ exp(-tilt x), and a draw is kept with one ~ exp(tilt (sum of x)), which takes the tilt
# out again. What is kept is priced exactly, so all that fit are equally likely.
@lru_cache(maxsize=16)
class _Decisions:
    """The options of every decision, as `Space._build` asks for them, and what each of them alone adds to the least price:
    adds[j] (rows, options). A branch has a row for each depth of its stage, its parent; the others are their own parents."""
    def __init__(self, space, price):
        self.space, self.price, self.least = space, price or gflops(space), math.inf
        self.options, self.parents = [], []
        for depths, rows in zip(space.depth, space.rows):
            self.parents += [len(self.options)] * (1 + len(rows))
            self.options += [depths, *(row.choices(space.backbone, Branch) for row in rows)]
        heads = dict.fromkeys(head for branch in self.options[-len(rows)] for head in space._heads(branch))
        self.parents += range(len(self.options), len(self.options) + 3)
        self.options += [tuple(heads), space.stem, space.fusions]
        picks = [0] * len(self.options)
        while (least := self.price(self.arch(picks))) < self.least:  # from any architecture down to the cheapest
            self.least, self.adds = least, [self._adds(dict(enumerate(picks)), j) for j in range(len(picks))]
            scale, self.most = (sum(map(size, self.adds)) or 1 for size in (np.ptp, np.max))
            self.tilts = np.geomspace(1e-4, 1e6, 100) / scale
            self.totals = np.array([self.logs(tilt)[1] for tilt in self.tilts])
            picks = self.draw(self.tilts[-1], 1, np.random.default_rng(0))[0][0].tolist()
    def arch(self, picks):
        chosen = map(tuple.__getitem__, self.options, picks)
        stages = [Stage(next(chosen), tuple([next(chosen) for _ in rows])) for rows in self.space.rows]
        arch, (head, stem, fusion) = object.__new__(Arch), chosen  # without Arch's checks: all options are valid
        vars(arch).update(backbone=self.space.backbone, stem=stem, stages=tuple(stages), head=head, fusion=fusion)
        return arch
    def _adds(self, base, j):
        price = lambda row, k: self.price(self.arch({**base, self.parents[j]: row, j: k}.values()))
        rows = len(self.options[self.parents[j]]) if self.parents[j] < j else 1
        prices = np.array([[price(row, k) for k in range(len(self.options[j]))] for row in range(rows)])
        return prices - prices[:, [base[j]]]
    def logs(self, tilt):
        """(logarithms of all probabilities, that of the sum over all architectures by which they were divided)."""
        logs, whole = [-tilt * adds for adds in self.adds], 0
        for j, parent in reversed(list(enumerate(self.parents))):
            sums = np.logaddexp.reduce(logs[j], 1)
            logs[j] = logs[j] - sums[:, None]
            logs[parent], whole = (logs[parent] + sums, whole) if parent < j else (logs[j], whole + sums.item())
        return logs, whole
    def draw(self, tilt, count, rng):
        """Picks (count, decisions), and for each the sum of x."""
        picks, sums = np.zeros((count, len(self.options)), int), 0
        for j, logs in enumerate(self.logs(tilt)[0]):
            row, ends = picks[:, self.parents[j]], np.exp(logs).cumsum(1) + np.arange(len(logs))[:, None]  # rows end to end
            found = np.searchsorted(ends.ravel(), row + rng.random(count)) - row * logs.shape[1]
            found = found.clip(0, logs.shape[1] - 1)  # rounding
            sums, picks[:, j] = sums + self.adds[j][row, found], found
        return picks, sums

def _fitting(space, frames, budget, count, rng, price, before=(), different=False):
    """`count` tuples, `before` and `frames` more architectures, uniform over all whose prices sum to at most `budget`.
    By how much the sum of x can exceed a price is taken from a pilot of 300, and half more; if that is ever wrong, all starts
    again. The tilt is the best one by Chernoff's bound on how many fit. `different`: none twice, or fewer if none are left."""
    plan, rng = _Decisions(space, price), np.random.default_rng(rng.getrandbits(64))
    spent, found, tries, size, bound = [plan.price(arch) for arch in before], {}, 0, 300, 0
    least, many = sum([plan.least] * frames), f"{frames} times " * (frames > 1)
    refuse(not before and least > budget, f"a budget of {budget:g}{' GFLOPs' * (price is None)} is below {many}the smallest "
           f"architecture of this space, {least:.4g}; give more")
    room = min(budget - sum(spent) - least, frames * plan.most)
    look = lru_cache(maxsize=None)(lambda picks: (arch := plan.arch(picks), plan.price(arch)))
    while len(found) < count and tries <= 20 * len(found) + 100:
        tilt = plan.tilts[np.argmin(plan.tilts * (room + bound) + frames * plan.totals)]
        picks, sums = plan.draw(tilt, frames * size, rng)
        over = sums.reshape(size, frames).sum(1) - room - bound
        kept = np.flatnonzero((over <= 0) & (np.log(rng.random(size)) < tilt * over) | (size == 300))
        gc.disable()  # or so many new objects would have all old ones searched for garbage, again and again: half of the time
        try:
            rows = [tuple(zip(*map(look, map(tuple, row)))) for row in picks.reshape(size, frames, -1)[kept].tolist()]
        finally:
            gc.enable()
        errors = over[kept] + room + bound + least - [sum(prices) for _, prices in rows]
        if size == 300 or errors.max(initial=bound) > bound:
            bound, found, tries = 1.5 * errors.max() - .5 * errors.mean() + 1e-9 * abs(least), {}, 0
        else:
            for archs, prices in rows:
                if sum([*spent, *prices]) <= budget and all(a.head in space._heads(a.stages[-1].branches[0]) for a in archs):
                    tries += 1
                    found.setdefault(archs if different else tries, (*before, *archs))
        size = min(max(2 * size, 512), 2 ** 14)
    return list(found.values())[:count]

def sample(space, budget, count, rng, price=None):
    """`count` different architectures of `space`, uniform over those whose price (an Arch -> number; default: the paper's GFLOPs
    at the space's image size) is at most `budget`. Fewer only if there are hardly more; ValueError if nothing fits."""
    return [arch for arch, in _fitting(space, 1, budget, count, rng, price, different=True)]

def allocate(space, frames, budget, count, rng, price=None, branching=None, before=()):
    """`count` allocations: `frames` architectures each, uniform over those whose prices sum to at most `budget` (eq. 3).
    branching (a, b, ...): the leaves of a tree instead. Of `a` allocations the first architectures are kept; each goes on in
    `b` ways, of which the second is kept, and so on (`before`: what is). Among all trees, a leaf is as likely as it is alone."""
    width, *more = branching or (count,)
    grown = _fitting(space, frames - len(before), budget, width, rng, price, before)
    deeper = lambda archs: allocate(space, frames, budget, count, rng, price, more, archs[:len(before) + 1])
    return sum(map(deeper, grown), []) if more else grown

# ---------------------------------------------------------------------------------------------- the search
def ranks():
    """(number of this process, how many there are): torchrun starts several, which `train.main` joins to one group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)

def gather(value):
    """The values that all processes give here, in their order."""
    values = [value] * ranks()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values

def judge_together(net, candidates, calibration, sight, parts, known):
    """`score` of candidates on some `parts` (a slice) of a `Sight`, and how many images were run: {candidate: (N, F)}, count.
    Prefix sharing: what several have in common at their first frames is re-calibrated and run once, and their next frames
    start from it. known: {first architectures: their batch-norm statistics}; what was measured is not measured again."""
    rows, found, passes = [i for part in sight.parts[parts] for i in part], {}, 0
    def follow(prefix, calibrated, predicted, keypoints):  # heatmaps of the frame before, of both sights, for each part
        nonlocal passes
        t = len(prefix)
        for arch in dict.fromkeys(archs[t] for archs in candidates if archs[:t] == prefix):
            longer, (finished,) = prefix + (arch,), [net.extract(arch).to(memory_format=torch.channels_last)]
            statistics, heatmaps = [b for name, b in finished.named_buffers() if "running" in name], None
            if longer in known:
                for mine, measured in zip(statistics, known[longer]):
                    mine.copy_(measured)
                finished.eval()
            else:
                heatmaps = recalibrate(finished, calibration, t, calibrated)
                known[longer], passes = [b.clone() for b in statistics], passes + len(calibration.clips)
            with torch.inference_mode():
                maps = [finished(images, heatmaps=last) for images, last in zip(sight.look(t, parts), predicted)]
            matrices = torch.cat([matrices for _, matrices in sight.batches[parts]])
            joints, passes = keypoints + [keypoints_of(torch.cat(maps)[:, None], matrices, sight.clips)], passes + len(rows)
            if t + 1 < len(candidates[0]):
                follow(longer, heatmaps, maps, joints)
            else:
                found[longer] = score(np.concatenate(joints, 1), sight.clips, sight.first, rows)
    if candidates:
        follow((), None, sight.heatmaps[parts], [])
    return found, passes

def rounds(count, parts, plain):
    """[(how many candidates, how many parts of the clips they have seen afterwards)] of a search.
    In a race (ours) all start with a sixteenth of the clips; then, four times, the better half sees as many again."""
    found = {}
    for k in range(4 * plain, 5):  # where there are fewer than 16 parts, some rounds have nothing new to see
        found.setdefault(-(-parts // 2 ** (4 - k)), count if plain else -(-count // 2 ** k))
    return [(number, seen) for seen, number in found.items()]

def search(net, candidates, calibration, sight, path, about, plain=False, say=print):
    """Judge candidates (tuples of architectures) on `sight`, in a race or (plain) each on all of it; return (best, table) and
    keep the table in `path`. `about` identifies a search: its table is continued, not repeated. Processes share the candidates
    by their first architecture, all get the table."""
    (rank, world), start, known, going, seen = ranks(), time.time(), {}, range(len(candidates)), 0
    about = {**about, "plain": plain, "weights": sum(p.double().sum().item() for p in net.parameters())}
    table, passes = gather(_read_table(path, about))[0] or ([_row(net, archs) for archs in candidates], 0)
    for k, (count, parts) in enumerate(rounds(len(candidates), len(sight.parts), plain)):
        going, groups = sorted(going, key=lambda i: -table[i]["rounds"][k - 1] if k else i)[:count], {}
        for i in going:
            if len(table[i]["rounds"]) == k:
                groups.setdefault(i if plain else candidates[i][0], []).append(i)
        groups = list(groups.values())
        for first in range(0, len(groups), world):
            own = sum(groups[first:first + world][rank:rank + 1], [])  # none for some in the last turn
            points, run = judge_together(net, [candidates[i] for i in own], calibration, sight, slice(seen, parts),
                                         {} if plain else known)
            for results, more in gather(([(i, points[candidates[i]]) for i in own], run)):
                passes += more
                for i, scores in results:
                    _add(table[i], scores)
            if rank == 0:
                write_json({**about, "best": best(table), "passes": passes, "candidates": table}, path)
        seen, leader = parts, table[best(table)]
        say(f"search: {len(going)} of {len(candidates)} candidates on {sight.parts[parts - 1].stop} clips, best "
            f"{leader['ap']:.1f} AP, {time.time() - start:.0f} s, {passes} images run")
    return candidates[best(table)], table

def _row(net, archs):
    costs = [cost(a, net.space.image_size, net.joints) for a in archs]
    return {"archs": [json.loads(a.to_json()) for a in archs], "gflops": sum(c.gflops for c in costs),
            "params": sum(c.params for c in costs), "rounds": [], "passed": [0] * len(archs), "people": [0] * len(archs)}

def _add(row, points):
    """Add the scores (N, F) of more clips: `passed` are their sums, `people` their numbers, `rounds` the AP after each round."""
    for key, more in (("passed", np.nansum(points, 0)), ("people", (~np.isnan(points)).sum(0))):
        row[key] = (row[key] + more).tolist()
    row["ap_by_frame"] = (100 * np.divide(row["passed"], np.maximum(row["people"], 1))).round(2).tolist()
    row["ap"] = 100 * sum(row["passed"]) / max(1, sum(row["people"]))
    row["rounds"].append(row["ap"])

def best(table):
    """The index of the best of the rows that have seen most."""
    return max(range(len(table)), key=lambda i: (len(table[i]["rounds"]), table[i].get("ap", -1)))

def _read_table(path, about):
    try:
        old = json.loads(pathlib.Path(path).read_text())
        return (old["candidates"], old["passes"]) if {k: old.get(k) for k in about} == json.loads(json.dumps(about)) else None
    except (OSError, ValueError, KeyError):
        return None

def find(net, budget, options, calibration, sight, out, name="search", clock=None):
    """The search of a stage, with the candidates and seed of `options`; returns as `search`, leaves NAME.json, .png in `out`.
    Stage s (Sec. 3.4.1): one architecture within the budget for all frames of `sight`. Stage t (Sec. 3.4.3), where that has a
    key frame: an architecture for each frame after it, the budget being the average over them and the key frame. It is in
    GFLOPs, or with a `clock` in its milliseconds. For a race, allocations are drawn as a tree whose branches share frames."""
    frames, count, key = sight.clips.frames - sight.first, options.candidates, sight.key
    rng = random.Random(f"{options.seed} {'allocate' if key else name}")
    drawn = gather(draw_candidates(net.space, budget, key, frames, count, options, rng, clock))[0]  # one's measured times
    about = {"stage": "t" if key else "s", "budget": budget, "unit": "ms" if clock else "GFLOPs", "frames": frames,
             "seed": options.seed, "candidates_wanted": count, "shared": options.shared, "no_fusion": options.no_fusion,
             "key": key and key.to_json()}
    archs, table = search(net, drawn, calibration, sight, out / f"{name}.json", about, options.plain)
    if ranks()[0] == 0:
        if clock:
            clock.save()
        price = clock or gflops(net.space)
        spent = [sum(map(price, archs + (key,) * bool(key))) / (frames + bool(key)) for archs in drawn]
        title = f"allocations over {frames} non-key frames" if key else f"S candidates under {budget:g} {about['unit']}"
        plot([(x, row["ap"]) for x, row in zip(spent, table)], best(table), title + ", AP on the clips seen", about["unit"],
             out / f"{name}.png")
    return archs, table

def draw_candidates(space, budget, key, frames, count, options, rng, clock=None):
    """What a search looks at: tuples of an architecture for each frame. `key`: the key frame's, in stage t."""
    left = rest(budget, (clock or gflops(space))(key), frames) if key else frames * budget
    space = dataclasses.replace(space, fusions=(None,)) if options.no_fusion else space
    if options.shared or not key:
        return [(arch,) * frames for arch in sample(space, left / frames, count, rng, clock)]
    side = round(count ** (1 / frames))  # of the tree that lets a race share what candidates have in common
    branching = None if options.plain else (*[side] * (frames - 1), -(-count // side ** (frames - 1)))
    return allocate(space, frames, left, count, rng, clock, branching)[:count]

def clock_of(options, folder, image_size, fresh=False):
    """The Clock that a budget in milliseconds needs, kept in a run folder, or None."""
    return vipnas.Clock(folder / "times.json", image_size, fresh=fresh) if options.budget_ms else None

def gflops(space):
    """The price of an architecture that the paper's budgets are in."""
    return lambda arch: cost(arch, space.image_size).gflops

def rest(average, key, frames):
    """What eq. (3) leaves for all non-key frames, from the average over them and the key frame (Table 1's figure)."""
    return (frames + 1) * average - key

def plot(points, best, title, unit, path):
    """Picture of candidates: points (N, 2) of price and AP, the index of the best one marked."""
    points = np.asarray(points, float)
    margin = np.maximum(np.ptp(points, 0) * .08, (points[:, 0].min() * .01 + 1e-4, .5))
    low, high = points.min(0) - margin, points.max(0) + margin
    image = Image.new("RGB", (720, 480), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(12)
    where = lambda p: (70, 430) + (p - low) / (high - low) * (620, -380)  # the origin, and the way to the opposite corner
    pen.rectangle([70, 50, 690, 430], outline="black")
    for value in low + (high - low) * np.arange(6)[:, None] / 5:
        x, y = where(value)
        pen.text((x, 438), f"{value[0]:.4g}", "black", small, anchor="ma")
        pen.text((62, y), f"{value[1]:.1f}", "black", small, anchor="rm")
        pen.line([70, y, 690, y], fill=(225, 225, 225))
    for p, radius, colour in (*((p, 4, (120, 150, 210)) for p in points), (points[best], 7, (220, 60, 50))):
        pen.ellipse([*(where(p) - radius), *(where(p) + radius)], fill=colour)
    (x, y), (price, ap) = where(points[best]), points[best]
    found = f"found: {ap:.1f} AP at {price:.4g}", *((x - 12, y - 14, "rm") if x > 400 else (x + 12, y - 14, "lm"))
    for text, x, y, anchor in (found, (title, 70, 20, "la"), (unit, 380, 458, "ma"), ("AP", 8, 28, "la")):
        pen.text((x, y), text, "black", font, anchor=anchor)
    save_image(image, path)

# ---------------------------------------------------------------------------------------------- the command line
def main():
    """Search a trained super-network again, for another budget or number of frames, without training (Table 4); or give the
    official numbers of finished networks on real data."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", required=True,
                        help="supernet.pt of a stage s or t; or, to judge, a finished or published network")
    parser.add_argument("--gflops", type=float, help="supernet.pt: budget of S, or the average over key and non-key frames")
    parser.add_argument("--budget-ms", type=float, help="instead, the budget in milliseconds of this machine (one thread)")
    parser.add_argument("--plain", action="store_true", help="judge every candidate on all of val, as the paper does")
    parser.add_argument("--shared", action="store_true", help="stage t: one architecture for all non-key frames")
    parser.add_argument("--no-fusion", action="store_true", help="stage t: non-key frames without the last frame's heatmaps")
    parser.add_argument("--benchmark", action="store_true", help="supernet.pt: what a race saves, how well times are predicted")
    parser.add_argument("--frames", type=int, default=3, help="stage t: T, the number of non-key frames")
    parser.add_argument("--candidates", type=int, default=48, help="how many to look at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", choices=("coco", "posetrack"), help="finished networks: what to judge them on")
    parser.add_argument("--root", help="finished networks: the folder of that data set")
    parser.add_argument("--boxes", help="coco: JSON file of detected people (default: the annotated boxes)")
    parser.add_argument("--out", help="folder for the result (default: beside the checkpoint)")
    options = parser.parse_args()
    try:
        again = vipnas.read(options.checkpoint).get("kind") == "supernet"
        refuse(again and not (options.gflops or options.budget_ms) or options.candidates < 1 or options.frames < 1,
               "say the budget, --gflops or --budget-ms; and --candidates and --frames must be at least 1")
        refuse(options.gflops and options.budget_ms, "--gflops and --budget-ms are two units of one budget: give one of them")
        refuse(not again and (options.gflops or options.budget_ms or not (options.data and options.root)),
               f"{options.checkpoint} is no super-network to search in; to judge it, give --data and --root alone")
        refuse(again and options.data or options.boxes and options.data != "coco",
               "--data and --root are for finished networks, and --boxes is for --data coco")
        (search_again if again else judge_finished)(options, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except (CheckpointError, DataError, ValueError, OSError) as error:
        sys.exit(f"search: {error}")

def judge_finished(options, device):
    """The official numbers of a finished S- or T-ViPNAS, or of a published network."""
    nets, facts = load_networks(options.checkpoint)
    refuse(options.data == "coco" and len(nets) > 1, "COCO has no videos: name the key-frame network, vipnas_s.pt")
    clips = open_clips(options.data, options.root, "test", len(nets), tuple(facts["size"]), boxes=options.boxes)
    check_joints(clips, facts, options.checkpoint)
    out = pathlib.Path(options.out or pathlib.Path(options.checkpoint).with_name(f"official_{options.data}"))
    out.mkdir(parents=True, exist_ok=True)
    official([net.to(device, memory_format=torch.channels_last) for net in nets], clips, device, out)

def search_again(options, device):
    """Another search in a trained super-network; or what a race saves there."""
    net, key_net, saved = load_supernet(options.checkpoint)
    net.to(device, memory_format=torch.channels_last)
    folder, size, budget = pathlib.Path(options.checkpoint).parent, net.space.image_size, options.budget_ms or options.gflops
    run, frames, key = saved["options"], options.frames if key_net else 1, key_net and key_net.to(device).arch
    name = f"search_{budget:g}{'ms' * bool(options.budget_ms)}_{frames * bool(key)}{'_shared' * options.shared}"
    out, clock = pathlib.Path(options.out or folder / (name + "_no_fusion" * options.no_fusion)), clock_of(options, folder, size)
    draw_candidates(net.space, budget, key, frames, 1, options, random.Random(0), clock)  # an impossible budget is said first
    train, val = (open_clips(run["data"], run["root"], split, frames + bool(key), size, min(400, run["clips"] or 10 ** 9))
                  for split in ("train", "val"))
    calibration, sight = sights(train, val, device, int(key_net is not None), key_net)
    if options.benchmark:
        return benchmark(net, budget, options, calibration, sight)
    out.mkdir(parents=True, exist_ok=True)
    archs, table = find(net, budget, options, calibration, sight, out, clock=clock)
    nets, name = [key_net] * bool(key_net) + finish(net, archs, calibration), "vipnas_t.pt" if key_net else "vipnas_s.pt"
    vipnas.save_finished(out / name, nets, saved["about"])
    costs, times = [gflops(net.space)(n.arch) for n in nets], vipnas.frame_times(nets)
    for n, c, ms in zip(nets, costs, times):
        print(f"{n.arch}  ({c:.4f} GFLOPs, {ms:.2f} ms)")
    print(f"on average {np.mean(costs):.4f} GFLOPs and {np.mean(times):.2f} ms a frame (deployed, one CPU thread); val AP "
          f"{table[best(table)]['ap']:.1f}; wrote {name}, search.json and search.png to {out}")

def benchmark(net, budget, options, calibration, sight, seeds=3, count=20):
    """What a race saves, and whether it finds the same: plain and raced search of the same candidates, for several seeds. And how
    well added-up times predict: `count` random networks of the space, predicted and measured."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            drawn = draw_candidates(net.space, budget, sight.key, sight.clips.frames - sight.first, options.candidates, options,
                                    random.Random(seed))
            tables = []
            for plain in (True, False):
                path = pathlib.Path(folder, f"{seed}{plain}.json")
                search(net, drawn, calibration, sight, path, {}, plain, say=lambda line: None)
                tables.append(json.loads(path.read_text()))
            (plain, raced), rows = tables, tables[0]["candidates"]
            same = "the same" if drawn[raced["best"]] == drawn[plain["best"]] else "another"
            print(f"seed {seed}, {len(drawn)} candidates: plain {rows[plain['best']]['ap']:.2f} AP, {plain['passes']} images run"
                  f"; race {rows[raced['best']]['ap']:.2f} AP ({same} winner), {raced['passes']}, that is "
                  f"{raced['passes'] / plain['passes']:.3f} of them", flush=True)
    rng, clock = random.Random(0), vipnas.Clock("", net.space.image_size)
    archs = [net.space.sample(rng) for _ in range(count)]
    predicted, measured = [clock(arch) for arch in archs], vipnas.frame_times([PoseNet(arch) for arch in archs])
    print(f"{count} networks of {min(measured):.2f} to {max(measured):.2f} ms, predicted from {len(clock.times)} parts: rank "
          f"correlation (Kendall's tau) {kendalltau(predicted, measured).statistic:.2f}; of GFLOPs with measured times "
          f"{kendalltau([gflops(net.space)(arch) for arch in archs], measured).statistic:.2f}")

def load_networks(path):
    """(networks, about) from a finished checkpoint of ours, or a published one: COCO's joints at 256x192, in SBL's cells."""
    if "state_dict" in vipnas.read(path):
        return [vipnas.load_mmpose(path)], data.about(COCO, (256, 192), data.SBL_CELL)
    return vipnas.load_finished(path)

def check_joints(clips, facts, path):
    """Let `clips` have the cells of the network in `path`, if it predicts their joints. facts: its `about`."""
    refuse(list(clips.skeleton.joints) != facts["joints"], f"{path} predicts other joints than {clips.name} has: fine-tune it on "
           "that data first (train.py --stage s --arch FILE --init CKPT)")
    clips.cell = facts.get("cell", clips.cell)

def load_supernet(path):
    """(super-network, its key-frame network or None, everything saved) from the supernet.pt of a run."""
    saved = vipnas.load(path, "supernet")
    try:
        about, key_net = saved["about"], None
        space, joints = dataclasses.replace(vipnas.SPACES[saved["space"]], image_size=tuple(about["size"])), len(about["joints"])
        if "key" in saved:
            key_net = vipnas.restore(PoseNet(Arch.from_json(saved["arch"]), joints), saved["key"], path).eval()
            space = space.within(key_net.arch)
        elif saved["arch"]:
            raise CheckpointError(f"{path} was trained as one architecture alone; there is nothing to search in it")
        return vipnas.restore(PoseNet(space, joints), saved["nets"][0], path), key_net, saved
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} lacks a part of a super-network's checkpoint ({error}); make it anew") from None

if __name__ == "__main__":
    main()
