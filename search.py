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
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont

import data
import fusion
import vipnas
from data import CELL, CocoPeople, PoseTrackClips, UserError
from vipnas import Cost, cost


# --------------------------------------------------------------------- running networks over clips
def to_device(images, device):
    """uint8 images (B, F, 3, H, W) -> normalised floats on the device, of the same shape."""
    # bytes go to the device: a quarter of the traffic
    images = data.normalise(images.to(device, non_blocking=True))
    # in channels last, the memory format in which convolutions are fastest
    flat = images.flatten(0, 1)  # (BF, 3, H, W)
    flat = flat.contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, images.shape[:2])


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
        self.key_frames = {}  # batch number -> its `fusion.Frame`, filled in when it is needed
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
        """(images on the device, matrices, the key frame before them or None) of some batches.

        Images (B, T, 3, H, W) and matrices (B, T, 2, 3) are of the frames that networks are asked
        about, and the key frame is a `fusion.Frame`: the arguments of `fusion.propagate`.
        """
        numbers = range(self.number_of_batches)[start:stop]
        loader = data.batch_loader(self, numbers, self.clips, self.device)
        crops = self.crops[start:stop] if self.crops else loader
        progress = data.Progress()
        for number, (images, matrices) in zip(numbers, crops, strict=True):
            progress.show(f"{self.clips.name}: batch {number} of {self.number_of_batches}")
            images = to_device(images, self.device)
            # S is fixed while T is trained and searched: its heatmaps stay the same
            if self.key_net and number not in self.key_frames:
                with torch.no_grad():
                    heatmaps = self.key_net(images[:, 0])
                self.key_frames[number] = fusion.Frame(heatmaps, matrices[:, 0])
            key_frame = self.key_frames.get(number)
            yield images[:, self.first :], matrices[:, self.first :], key_frame


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
        for i, (images, matrices, key_frame) in enumerate(calibration.batches()):
            # batch norm does mean <- (1 - m) mean + m (mean of this batch). With m = 1, 1/2, 1/3,
            # ... that is the plain mean of all batches so far, and nothing of the old one is left
            for norm in norms:
                norm.momentum = 1 / (i + 1)
            fusion.propagate(nets, images, matrices, key_frame, calibration.clips.cell)
    for norm in norms:
        norm.momentum = momentum
    chain.eval()


def extract_calibrated(supernet, archs, calibration, measured=None):
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
    found = []
    with torch.inference_mode():
        for images, matrices, key_frame in evaluation.batches(start, stop):
            heatmaps = fusion.propagate(nets, images, matrices, key_frame, clips.cell)
            if flip:
                mirrored = fusion.propagate(nets, images.flip(-1), matrices, None, clips.cell)
                heatmaps += data.flip_heatmaps(mirrored, clips.skeleton.flip, clips.cell)
                heatmaps /= 2
            # heatmaps -> crop pixels -> image pixels, each frame through its own window
            keypoints = data.decode(heatmaps.float(), quarter, clips.cell)  # (B, frames, K, 3)
            back = data.invert(matrices)  # (B, frames, 2, 3)
            found.append(data.transform(keypoints.cpu().numpy(), back))
    return np.concatenate(found)


def oks_accuracy(keypoints, clips, indices, first):
    """How well each person was found in each frame: (n, frames), 0 to 1, nan without labels.

    keypoints (n, frames, K, 3) are of the clips `indices`, from frame `first` on. It is the share
    of COCO's ten thresholds that the OKS passes. Where each person has one given window, there are
    no detections to rank, and average precision is the share found: the mean of these numbers.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]  # (n, frames)
    similarity = data.oks(keypoints, joints, areas, clips.skeleton.sigmas)  # (n, frames)
    share = (similarity[..., None] >= data.OKS_THRESHOLDS).mean(-1)
    labelled = (joints[..., 2] > 0).any(-1)
    return np.where(labelled, share, np.nan)


def ap_by_part(keypoints, clips, indices, first):
    """{part: AP} of each part of the body, left and right together, 0 to 100.

    As `oks_accuracy`, but each joint is held to the thresholds by itself.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]
    similarity = data.joint_similarity(keypoints, joints, areas, clips.skeleton.sigmas)
    share = (similarity[..., None] >= data.OKS_THRESHOLDS).mean(-1)  # (n, frames, K)
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
    """The AP of what `oks_accuracy` returns, 0 to 100."""
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
        passed, people          for each frame: the sum of `oks_accuracy`, and over how many people
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
        nets = extract_calibrated(
            self.supernet, self.candidates[i], self.calibration, self.measured
        )

        # real data have an AP of their own: it has the last word, over all clips, as in `official`
        real = isinstance(val.clips, (CocoPeople, PoseTrackClips))
        final = real and stop == val.number_of_batches
        if final:
            start = 0
            row.update(passed=0, people=0)
        keypoints = predict(nets, val, quarter=final, start=start, stop=stop)
        points = oks_accuracy(keypoints, val.clips, val.indices_of(start, stop), val.first)
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
        return 100 * data.coco_ap(clips.annotations, data.coco_results(everything, clips))["AP"]

    # people in images, as an image can be the key frame of one and a non-key frame of another
    asked = set()
    for sequence, ids in zip(clips.sequence.tolist(), clips.ids.tolist(), strict=True):
        for image_id, track_id in ids[evaluation.first :]:
            asked.add((sequence, image_id, track_id))
    people = clips.annotations["annotations"]
    people = [person for person in people if data.person_key(person) in asked]
    results = data.posetrack_results(everything, clips)
    results = [pose for pose in results if data.person_key(pose) in asked]
    return data.posetrack_ap({**clips.annotations, "annotations": people}, results)["Total"]


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
        results = data.coco_results(keypoints, clips)
        table = data.coco_ap(clips.annotations, results)
        table = {name: max(100 * value, -1.0) for name, value in table.items()}  # -1: nobody
    else:
        results = data.posetrack_results(keypoints, clips)
        table = data.posetrack_ap(clips.annotations, results)
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
class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, a UserError as all others."""

    def error(self, message):
        raise UserError(f"{message}; --help lists the options")


def read_number(text, kind, zero=False):
    """The finite number above zero, or `zero`, that an option gives; kind: int or float."""
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if 0 < number < math.inf or (zero and number == 0):
        return number
    what = "whole number" if kind is int else "number"
    raise argparse.ArgumentTypeError(f"{text} is no {what} above zero")


# the `type` of options, here and in train.py
positive_int = partial(read_number, kind=int)
positive_number = partial(read_number, kind=float)
non_negative = partial(read_number, kind=float, zero=True)
non_negative_int = partial(read_number, kind=int, zero=True)


def open_clips(kind, root, split, frames, about, path, count=None, boxes=None):
    """Clips as the network in `path` sees them; UserError if it predicts other joints."""
    size = tuple(about["size"])
    cell = about.get("cell", data.CELL)
    clips = data.open_clips(kind, root, split, frames, size, count, boxes, cell)
    check_joints(clips, about, path)
    return clips


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
        nets += extract_calibrated(supernet, archs, calibration)
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
