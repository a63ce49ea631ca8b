"""How good is a candidate, and which one to keep (Secs 3.4.1, 3.4.3).

1. Scores: the OKS of Sec. 4.1, and COCO's average precision, counted as the official tool does.
2. A candidate is a tuple of architectures, one for each frame it is asked about: one for S, T of them for T-ViPNAS. It is
   cut out of the super-network, its batch norm is re-calibrated, and it is run over clips it was not trained on.
3. The search samples candidates at random under a budget and keeps the best; no evolution, no predictor.

    python search.py --checkpoint runs/t/supernet.pt --gflops 0.01 --frames 4     # search again, no training (Table 4)
"""
import argparse
import dataclasses
import json
import pathlib
import random
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont

from data import COCO, DataError, invert, open_clips, save_image, transform
import vipnas
from vipnas import Arch, CheckpointError, PoseNet, cost, decode

# ---------------------------------------------------------------------------------------------- average precision
OKS_THRESHOLDS = np.linspace(0.50, 0.95, 10)                                      # (T,)
AREAS = np.array([[0, 1e5], [32, 96], [96, 1e5]]) ** 2                            # (A, 2) all, medium, large; pixels^2
RECALLS = np.linspace(0, 1, 101)                                                  # where COCO reads the curve
DETECTIONS_PER_IMAGE = 20

def oks(predictions, joints, areas, sigmas=COCO.sigmas):
    """Object keypoint similarity, 0 to 1: the mean over labelled joints of exp(-d^2 / (2 s^2 k^2)) (Sec. 4.1).

    predictions (..., K, 2 or more), joints (..., K, 3) with visibility last, both in pixels; areas (...) is s^2, the
    person's area in pixels^2; k = 2 sigmas. Leading dimensions broadcast: (N, ...) with (N, ...) compares pairs,
    (D, 1, ...) with (G, ...) everyone with everyone. A person without labelled joints gets 0.
    """
    distance2 = ((predictions[..., :2] - joints[..., :2]) ** 2).sum(-1)           # (..., K)
    exponent = distance2 / (2 * np.asarray(sigmas)) ** 2 / (areas[..., None] + np.spacing(1)) / 2
    labelled = joints[..., 2] > 0                                                 # (..., K)
    return (np.exp(-exponent) * labelled).sum(-1) / np.maximum(labelled.sum(-1), 1)

def by_image(annotations, results):
    """List (image, its annotations, its results) for every listed image, by rising image id.

    Annotations of images that are not listed are left out; results for them raise ValueError.
    """
    images = {image["id"]: (image, [], []) for image in sorted(annotations["images"], key=lambda image: image["id"])}
    for person in annotations["annotations"]:
        if person["image_id"] in images:
            images[person["image_id"]][1].append(person)
    for result in results:
        if result["image_id"] not in images:
            raise ValueError(f"a result is for image {result['image_id']}, which the annotations do not list")
        images[result["image_id"]][2].append(result)
    return list(images.values())

def interpolated_precision(right, wrong):
    """Best precision from each rank on: right, wrong (N, ...) bool, highest score first -> (N, ...)."""
    right, wrong = right.cumsum(0), wrong.cumsum(0)
    precision = right / np.maximum(right + wrong, 1)
    return np.maximum.accumulate(precision[::-1])[::-1]

def match_people(similarity, counted, crowd):
    """Give each detection, best score first, the most similar person still free, for all areas and thresholds at once.

    similarity (D, G) is the OKS, counted (A, G) False for people that an area range ignores, crowd (G,) True for people
    that can be taken many times. A counted person goes before an ignored one, the later one where two are equal.
    Returns right, unmatched, both (D, A, T) bool; a detection on an ignored person is neither.
    """
    (D, G), A, T = similarity.shape, len(AREAS), len(OKS_THRESHOLDS)
    rank = 1 + similarity.argsort(1, kind="stable").argsort(1)                    # (D, G) 1 = least similar person
    preference = rank[:, None] + G * counted                                      # (D, A, G) distinct over G
    taken = np.zeros((A, T, G), bool)
    right, unmatched = np.zeros((D, A, T), bool), np.ones((D, A, T), bool)
    for d in np.flatnonzero(similarity.max(1, initial=0) >= OKS_THRESHOLDS[0]):   # the others match nobody
        free = (similarity[d] >= OKS_THRESHOLDS[:, None]) & ~taken                # (A, T, G)
        worth = free * preference[d, :, None]                                     # (A, T, G) 0 = not to be had
        chosen = worth == worth.max(-1, keepdims=True).clip(1)                    # (A, T, G) at most one over G
        taken |= chosen & ~crowd
        right[d] = (chosen & counted[:, None]).any(-1)
        unmatched[d] = ~chosen.any(-1)
    return right, unmatched

def coco_image(people, found, sigmas):
    """Judge one image: its annotations (G of them) and its results, in any order, of which the best 20 (D) count.

    Returns scores (D,), right and wrong (D, A, T) bool, and which people count in which area range (G, A) bool.
    Neither right nor wrong: results on crowds, on people without joints or on people outside the area range, and
    unmatched results whose own area, that of the box around their joints, is outside it.
    """
    found = sorted(found, key=lambda result: -result["score"])[:DETECTIONS_PER_IMAGE]
    poses = np.array([r["keypoints"] for r in found], float).reshape(-1, 1, len(sigmas), 3)[..., :2]  # (D, 1, K, 2)
    joints = np.array([p["keypoints"] for p in people], float).reshape(-1, len(sigmas), 3)            # (G, K, 3)
    boxes = np.array([p["bbox"] for p in people], float).reshape(-1, 1, 4)                            # (G, 1, 4)
    areas = np.array([p["area"] for p in people], float)                                              # (G,)
    crowd = np.array([p["iscrowd"] for p in people], bool)                                            # (G,)
    ignored = crowd | np.array([p["num_keypoints"] == 0 for p in people], bool)                       # (G,)

    bare = ~(joints[..., 2] > 0).any(1)                                           # (G,)
    if bare.any():  # they are compared with the points nearest to the pose of a box three times as wide and high
        nearest = np.clip(poses, (boxes[..., :2] - boxes[..., 2:])[bare], (boxes[..., :2] + 2 * boxes[..., 2:])[bare])
        joints = np.repeat(joints[None], len(poses), 0)                           # (D, G, K, 3)
        joints[:, bare, :, :2], joints[:, bare, :, 2:] = nearest, 1
    similarity = oks(poses, joints, areas, sigmas)                                # (D, G)

    low, high = AREAS.T[..., None]                                                # (A, 1)
    counted = ~ignored & (areas >= low) & (areas <= high)                         # (A, G)
    right, unmatched = match_people(similarity, counted, crowd)                   # (D, A, T)
    size = np.ptp(poses[:, 0], axis=1).prod(-1)                                   # (D,) pixels^2
    in_range = (size >= low) & (size <= high)                                     # (A, D)
    return np.array([r["score"] for r in found], float), right, unmatched & in_range.T[..., None], counted.T

def coco_ap(annotations, results, sigmas=COCO.sigmas):
    """COCO's keypoint evaluation, the ten numbers of the official tool, 0 to 1, or -1 where no person counts.

    annotations: a COCO keypoint dict (images, annotations) with one category; results: a list of dicts with image_id,
    keypoints (3K numbers) and score; sigmas (K,). AP and AR are means over the OKS thresholds .50, .55 ... .95; AP is
    the mean interpolated precision at 101 recalls, AR the recall; M and L count people of 32^2 to 96^2 pixels and
    above. Results for images that are not listed raise ValueError.
    """
    judged = [coco_image([], [], sigmas)]                                         # so that nothing has a shape too
    judged += [coco_image(people, found, sigmas)
               for _, people, found in by_image(annotations, results) if people or found]
    scores, right, wrong, people = (np.concatenate(part) for part in zip(*judged))  # (N,), 2 of (N, A, T), (G, A)
    order = (-scores).argsort(kind="stable")
    right, wrong, total = right[order], wrong[order], people.sum(0)               # total (A,)

    ap, ar = np.full((2, len(AREAS), len(OKS_THRESHOLDS)), -1.0)
    for a, t in np.ndindex(ap.shape):
        if total[a]:
            recall = right[:, a, t].cumsum() / total[a]                           # (N,)
            curve = np.append(interpolated_precision(right[:, a, t], wrong[:, a, t]), 0)  # (N + 1,) 0: never that far
            ap[a, t] = curve[recall.searchsorted(RECALLS)].mean()
            ar[a, t] = right[:, a, t].sum() / total[a]
    table = {}
    for name, value in (("AP", ap), ("AR", ar)):
        table |= {name: value[0].mean(), f"{name}50": value[0, 0], f"{name}75": value[0, 5],
                  f"{name}M": value[1].mean(), f"{name}L": value[2].mean()}
    return {name: float(value) for name, value in table.items()}

# ---------------------------------------------------------------------------------------------- running a candidate
def propagate(nets, images, heatmaps=None, archs=None):
    """The chain of eq. (2): each frame's own prediction goes on to the next.

    nets: a network for each of the F frames of images (B, F, 3, H, W), finished, or super-networks with one of `archs`
    each; heatmaps: (B, K, H/4, W/4) of the frame before the first. Returns (B, F, K, H/4, W/4).
    """
    predicted = []
    for t, net in enumerate(nets):
        heatmaps = net(images[:, t], archs and archs[t], heatmaps)
        predicted.append(heatmaps)
    return torch.stack(predicted, 1)

def to_device(batch, device):
    """A batch's tensors on the device, images in the memory format that convolutions like best."""
    batch = type(batch)(*(x.to(device, non_blocking=True) for x in batch))
    b, f = batch.images.shape[:2]
    images = batch.images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (b, f))
    return batch._replace(images=images)

class Sight:
    """Clips that candidates are judged on, or re-calibrated with: some frames of each, the key frame's heatmaps beside.

    The key-frame network runs once over all of them, here, and never again. `first` is the first frame that counts: 0
    for S, 1 for T. Without a key-frame network there are no heatmaps.
    """

    def __init__(self, clips, first, device, key_net=None, batch=64):
        self.clips, self.first, self.device, self.heatmaps = clips, first, device, []
        self.parts = [range(i, min(i + batch, len(clips))) for i in range(0, len(clips), batch)]
        if key_net:
            with torch.inference_mode():
                self.heatmaps = [key_net.eval()(to_device(self.clips.batch(p), device).images[:, 0]) for p in self.parts]

    def __iter__(self):
        """(images (B, F - first, 3, H, W), heatmaps or None, matrices (B, 2, 3)) for each part."""
        for i, part in enumerate(self.parts):
            batch = to_device(self.clips.batch(part), self.device)
            yield batch.images[:, self.first:], self.heatmaps[i] if self.heatmaps else None, batch.matrices.cpu().numpy()

def recalibrate(nets, sight):
    """Measure the batch-norm statistics of finished networks anew, in place, over all clips of a `Sight`.

    In the super-network one set of statistics served networks of all sizes and fits none of them.
    """
    norms = [m for net in nets for m in net.train().modules() if hasattr(m, "running_mean")]
    with torch.no_grad():
        for i, (images, heatmaps, _) in enumerate(sight):
            for norm in norms:
                norm.momentum = 1 / (i + 1)  # a plain mean over the parts
            propagate(nets, images, heatmaps)
    for norm in norms:
        norm.momentum = 0.1
    for net in nets:
        net.eval()

def predict(nets, sight):
    """Keypoints (N, F, K, 3) in image pixels, with scores, from finished networks in eval mode."""
    found = []
    with torch.inference_mode():
        for images, heatmaps, matrices in sight:
            crops = decode(propagate(nets, images, heatmaps).float()).cpu().numpy()  # (B, F, K, 3) pixels of the crop
            found.append(transform(crops, invert(matrices)[:, None]))
    return np.concatenate(found)

def score(keypoints, clips, first):
    """How well each person was found in each frame, (N, F) from 0 to 1; nan where nothing is labelled.

    It is the share of COCO's thresholds .50, .55 ... .95 that the OKS passes. Its mean, times 100, is what we call AP
    where every person has one given window: without detections to rank, average precision is the share found.
    """
    joints, areas = clips.joints[:, first:first + keypoints.shape[1]], clips.areas[:, first:first + keypoints.shape[1]]
    similarity = oks(keypoints, joints, areas, clips.skeleton.sigmas)  # (N, F)
    passed = (similarity[..., None] >= OKS_THRESHOLDS).mean(-1)
    return np.where((joints[..., 2] > 0).any(-1), passed, np.nan)

def coco_results(keypoints, clips):
    """Predictions (N, 1, K, 3) for a CocoPeople in the official result format."""
    return [{"image_id": int(image), "category_id": 1, "keypoints": pose.ravel().round(3).tolist(), "score": float(pose[:, 2].mean())}
            for (image, _), pose in zip(clips.ids[:, 0], keypoints[:, 0])]

# ---------------------------------------------------------------------------------------------- sampling under a budget
def sample(space, budget, count, rng):
    """`count` different architectures of `space` of at most `budget` GFLOPs (the paper's, at the space's image size).

    Uniform over those that fit, by rejection. Where almost none fits, a draw that was refused 100 times is shrunk part by
    part until it does, so sampling always ends (then no longer uniform). Fewer than `count` only if there are hardly more.
    Raises ValueError, naming the smallest cost, if nothing fits.
    """
    fits = lambda arch: cost(arch, space.image_size).gflops <= budget
    smallest, least = cheapest(space)
    if least > budget:
        raise ValueError(f"a budget of {budget:g} GFLOPs is below the smallest architecture of this space, {least:.4g}; give more")
    found = {}
    for _ in range(20 * count):
        arch = next((a for a in (space.sample(rng) for _ in range(100)) if fits(a)), None) or _shrink(space, smallest, fits, rng)
        found[arch] = None  # a dict is a set that keeps its order
        if len(found) == count:
            break
    return list(found)

def cheapest(space):
    """(the smallest architecture with the cheapest fusion, its GFLOPs)."""
    archs = [dataclasses.replace(space.smallest(), fusion=f) for f in space.fusions]
    return min(((a, cost(a, space.image_size).gflops) for a in archs), key=lambda pair: pair[1])

def _shrink(space, smallest, fits, rng):
    """A random architecture, its stages made the smallest one after the other, in random order, until it fits."""
    arch = space.sample(rng)
    for i in rng.sample(range(len(arch.stages)), len(arch.stages)):
        if fits(arch):
            return arch
        stages = arch.stages[:i] + smallest.stages[i:i + 1] + arch.stages[i + 1:]
        smaller = dataclasses.replace(arch, stages=stages, head=smallest.head)
        arch = smaller if smaller in space else arch
    return arch if fits(arch) else smallest

def allocate(space, frames, budget, count, rng):
    """`count` allocations: tuples of `frames` architectures whose GFLOPs sum to at most `budget` (eq. 3).

    Each frame draws its own spatial architecture, fusion stage and operation. Raises ValueError if nothing fits.
    """
    gflops = lambda archs: sum(cost(a, space.image_size).gflops for a in archs)
    least = cheapest(space)[1]
    if frames * least > budget:
        raise ValueError(f"{frames} non-key frames cost at least {frames * least:.4g} GFLOPs together, more than the "
                         f"{budget:.4g} that the budget leaves them; give more")
    found = []
    while len(found) < count:
        archs = next((a for a in (tuple(space.sample(rng) for _ in range(frames)) for _ in range(100)) if gflops(a) <= budget), None)
        if not archs:  # a tight budget: one frame after the other, in random order, from what the others can spare
            archs = []
            for left in reversed(range(frames)):
                archs += sample(space, max(least, budget - gflops(archs) - left * least), 1, rng)
            archs = tuple(rng.sample(archs, frames))
        found.append(archs)
    return found

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

def finish(net, archs, calibration):
    """Cut a candidate out of the super-network and re-calibrate it: a list of finished networks."""
    nets = [net.extract(arch).to(memory_format=torch.channels_last) for arch in archs]
    recalibrate(nets, calibration)
    return nets

def search(net, candidates, calibration, sight, path, about, say=print):
    """Judge every candidate (a tuple of architectures) on `sight`; return (best, all) and keep a table in `path`.

    path: search.json; `about`: what identifies this search. A table of the same search found there is continued, not
    repeated. Each process judges another candidate, all get the whole table, the first one writes it after each round.
    """
    (rank, world), start = ranks(), time.time()
    about = {**about, "weights": sum(p.double().sum().item() for p in net.parameters())}
    table = gather(_read_table(path, about))[0]
    while len(table) < len(candidates):
        done = len(table)
        own = candidates[done:done + world][rank:rank + 1]  # none for some in the last round
        table += sum(gather([_judge(net, archs, calibration, sight) for archs in own]), [])
        if rank == 0:
            with vipnas.replacing(path) as file:
                file.write(json.dumps({**about, "best": _best(table), "candidates": table}, indent=1).encode())
        if len(table) // 10 > done // 10 or len(table) == len(candidates):
            say(f"search: {len(table)} of {len(candidates)} candidates, best {table[_best(table)]['ap']:.1f} AP, "
                f"{time.time() - start:.0f} s")
    return candidates[_best(table)], table

def _judge(net, archs, calibration, sight):
    """The table's row for one candidate."""
    points = score(predict(finish(net, archs, calibration), sight), sight.clips, sight.first)
    costs = [cost(a, net.space.image_size, net.joints) for a in archs]
    return {"archs": [json.loads(a.to_json()) for a in archs], "gflops": sum(c.gflops for c in costs),
            "params": sum(c.params for c in costs), "ap": 100 * float(np.nanmean(points)),
            "ap_by_frame": (100 * np.nanmean(points, 0)).round(2).tolist()}

def _best(table):
    return max(range(len(table)), key=lambda i: table[i]["ap"])

def _read_table(path, about):
    try:
        old = json.loads(pathlib.Path(path).read_text())
        return old["candidates"] if {k: old.get(k) for k in about} == json.loads(json.dumps(about)) else []
    except (OSError, ValueError, KeyError):
        return []

class Found(NamedTuple):
    """What a search leaves: finished networks of the best candidate, and what it was chosen from."""
    nets: list
    archs: tuple
    candidates: list
    table: list
    calibration: Sight

def search_s(net, budget, count, seed, train, val, out, first=0, name="search"):
    """The S search (Sec. 3.4.1): `count` architectures under `budget` GFLOPs, judged on the frames of `val` from `first` on.

    Leaves the table `name`.json and, for the search proper, search.png in the folder `out`.
    """
    device = next(net.parameters()).device
    candidates = [(a,) * (val.frames - first) for a in sample(net.space, budget, count, random.Random(f"{seed} {name}"))]
    calibration, sight = Sight(train.head(256), first, device), Sight(val, first, device)
    about = {"stage": "s", "budget": budget, "seed": seed, "candidates_wanted": count}
    archs, table = search(net, candidates, calibration, sight, out / f"{name}.json", about)
    if ranks()[0] == 0:
        plot([(row["gflops"] / len(archs), row["ap"]) for row in table], _best(table),
             f"S candidates under {budget:g} GFLOPs, AP on val", out / f"{name}.png")
    return Found(finish(net, archs, calibration), archs, candidates, table, calibration)

def search_t(net, key_net, average, count, seed, train, val, out):
    """The T search (Sec. 3.4.3): allocations over the non-key frames of `val`, of `average` GFLOPs with the key frame.

    Key-frame heatmaps are computed once for all candidates. Leaves search.json and search.png in the folder `out`.
    """
    device, frames, key = next(net.parameters()).device, val.frames - 1, cost(key_net.arch, net.space.image_size).gflops
    candidates = allocate(net.space, frames, rest(average, key, frames), count, random.Random(f"{seed} allocate"))
    calibration, sight = Sight(train.head(128), 1, device, key_net), Sight(val, 1, device, key_net)
    about = {"stage": "t", "average": average, "frames": frames, "seed": seed, "candidates_wanted": count, "key": key_net.arch.to_json()}
    archs, table = search(net, candidates, calibration, sight, out / "search.json", about)
    if ranks()[0] == 0:
        plot([((row["gflops"] + key) / (frames + 1), row["ap"]) for row in table], _best(table),
             f"allocations over {frames} non-key frames, AP on val", out / "search.png")
    return Found(finish(net, archs, calibration), archs, candidates, table, calibration)

def rest(average, key, frames):
    """What eq. (3) leaves for all non-key frames, from the average over them and the key frame (Table 1's figure)."""
    return (frames + 1) * average - key

def plot(points, best, title, path, mark="found"):
    """Picture of candidates: points (N, 2) of GFLOPs and AP, the index of the best one marked."""
    points = np.asarray(points, float)
    low, high = points.min(0), points.max(0)
    margin = np.maximum((high - low) * .08, (low[0] * .01 + 1e-4, .5))
    low, high = low - margin, high + margin
    image = Image.new("RGB", (720, 480), "white")
    pen, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(12)
    box = np.array([70, 430]), np.array([620, -380])  # the origin, and the way to the opposite corner
    where = lambda p: tuple(box[0] + (np.asarray(p) - low) / (high - low) * box[1])
    pen.rectangle([70, 50, 690, 430], outline="black")
    for k in range(6):
        x, y = low + (high - low) * k / 5
        pen.text((where((x, low[1]))[0], 438), f"{x:.4g}", "black", small, anchor="ma")
        pen.text((62, where((low[0], y))[1]), f"{y:.1f}", "black", small, anchor="rm")
        pen.line([where((low[0], y)), where((high[0], y))], fill=(225, 225, 225))
    for p in points:
        x, y = where(p)
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(120, 150, 210))
    x, y = where(points[best])
    pen.ellipse([x - 7, y - 7, x + 7, y + 7], fill=(220, 60, 50))
    pen.text((x - 12, y - 14) if x > 400 else (x + 12, y - 14), f"{mark}: {points[best][1]:.1f} AP at {points[best][0]:.4g}", "black", font,
             anchor="rm" if x > 400 else "lm")
    pen.text((70, 20), title, "black", font)
    pen.text((380, 458), "GFLOPs", "black", font, anchor="ma")
    pen.text((8, 28), "AP", "black", font)
    save_image(image, path)

# ---------------------------------------------------------------------------------------------- search again
def main():
    """Search a trained super-network again, for another budget or number of frames, without training (Table 4)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", required=True, help="supernet.pt of a stage s or t")
    parser.add_argument("--gflops", type=float, required=True, help="budget: of S, or the average over key and non-key frames")
    parser.add_argument("--frames", type=int, default=3, help="stage t: T, the number of non-key frames")
    parser.add_argument("--candidates", type=int, default=48, help="how many to look at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="folder for the result (default: search_GFLOPS_T beside the checkpoint)")
    options = parser.parse_args()
    try:
        if options.candidates < 1 or options.frames < 1:
            raise CheckpointError("--candidates and --frames must be at least 1")
        net, key_net, saved = load_supernet(options.checkpoint)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net.to(device, memory_format=torch.channels_last)
        run, frames = saved["options"], options.frames + 1 if key_net else 1
        out = pathlib.Path(options.out or pathlib.Path(options.checkpoint).with_name(f"search_{options.gflops:g}_{frames - 1}"))
        if key_net:
            key_net.to(device)
            allocate(net.space, options.frames, rest(options.gflops, cost(key_net.arch, net.space.image_size).gflops, options.frames),
                     1, random.Random(0))  # an impossible budget is said before anything is rendered
        train, val = (open_clips(run["data"], run["root"], split, frames, net.space.image_size, min(400, run["clips"] or 10 ** 9))
                      for split in ("train", "val"))
        out.mkdir(parents=True, exist_ok=True)
        if key_net:
            found = search_t(net, key_net, options.gflops, options.candidates, options.seed, train, val, out)
        else:
            found = search_s(net, options.gflops, options.candidates, options.seed, train, val, out)
        nets, name = ([key_net, *found.nets], "vipnas_t.pt") if key_net else (found.nets, "vipnas_s.pt")
        vipnas.save_finished(out / name, nets, saved["about"])
        print("\n".join(str(n.arch) for n in nets))
        print(f"val AP {max(row['ap'] for row in found.table):.1f}; wrote {name}, search.json and search.png to {out}")
    except (CheckpointError, DataError, ValueError, OSError) as error:
        sys.exit(f"search: {error}")

def load_supernet(path):
    """(super-network, its key-frame network or None, everything saved) from the supernet.pt of a run."""
    saved = vipnas.load(path, "supernet")
    try:
        space, joints = vipnas.SPACES[saved["space"]], len(saved["about"]["joints"])
        space, key_net = dataclasses.replace(space, image_size=tuple(saved["about"]["size"])), None
        if "key" in saved:
            mother = Arch.from_json(saved["arch"])
            key_net = vipnas.restore(PoseNet(mother, joints), saved["key"], path).eval()
            space = space.within(mother)
        elif saved["arch"]:
            raise CheckpointError(f"{path} was trained as one architecture alone; there is nothing to search in it")
        return vipnas.restore(PoseNet(space, joints), saved["nets"][0], path), key_net, saved
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} lacks a part of a super-network's checkpoint ({error}); make it anew") from None

if __name__ == "__main__":
    main()
