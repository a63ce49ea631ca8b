"""Which architecture is best under a budget? Draw candidates, evaluate them, keep one (Sec. 3.4).

    1. Candidates: random architectures, or allocations of T of them, just below a budget (eq. 3).
    2. Running networks over clips: crops, the chain of eq. (2), recalibrated batch norm.
    3. How good a candidate is: its accuracy on the validation clips (Sec. 4.1).
    4. The search: all candidates on a few clips, the better half on more, and so on.

A candidate is a tuple of architectures, one for each frame to predict: one for S, T of them for
T-ViPNAS. Its weights are slices of a trained super-network's; nothing is trained here.

    python search.py --checkpoint runs/t/supernet.pt --gflops 0.014 --frames 4    # Table 4
    python search.py --checkpoint runs/t/supernet.pt --gflops 0.014 --shared      # Fig. 6b
    python search.py --checkpoint FINISHED --data coco --root DIR      # official numbers
    python search.py --checkpoint FINISHED --data coco --root DIR --split test-dev2017 --boxes FILE
    torchrun --nproc_per_node=8 -- search.py --checkpoint ...          # candidates are shared out
"""

import argparse
import contextlib
import copy
import itertools
import json
import math
import random
import sys
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont

import data
import fusion
import vipnas
from data import CocoPeople, UserError
from vipnas import Cost

# ------------------------------------------------------------------ candidates just below a budget
BAND = 0.9  # ours: a candidate costs at least this fraction of the budget


def price_in_gflops(space, joints=17):
    """The price that the paper's budgets are in: a function of an Arch."""

    def gflops(arch):
        return vipnas.cost(arch, space.image_size, joints).gflops

    return gflops


def cheapest(space, price):
    """The smallest architecture, with its cheapest fusion."""
    return min([replace(space.smallest(), fusion=each) for each in space.fusions], key=price)


def random_walk(space, archs, high, rng, price, band=BAND):
    """An endless random walk over candidates whose total price is from band * high to high.

    It starts from `archs`, which cost at most `high`, and yields nothing before it is in the band.
    Decisions are drawn as `Space.sample` draws them, whatever they were before. A step that would
    leave the band is refused, and then the old candidate counts once more. Just that makes each
    candidate in the band as frequent as `Space.sample` would (Metropolis). The price of a candidate
    is the sum of its frames' prices.
    """
    low = band * high
    total = sum([price(arch) for arch in archs])
    patience = 1000 * space.decisions() * len(archs)
    for steps in itertools.count():
        # redraw one to three decisions: in the band, one can only cost more if others cost less
        moved = list(archs)
        for _ in range(rng.randint(1, 3)):
            t = rng.randrange(len(archs))
            moved[t] = space.redraw(moved[t], rng)
        # take the step if it ends in the band (eq. 3: at most C), or no further below it than here
        moved_total = sum([price(arch) for arch in moved])
        if min(low, total) <= moved_total <= high:
            archs = moved
            total = moved_total
        # a small space may have nothing in the band: then the place below it, where it got, must do
        if total >= low or steps > patience:
            yield tuple(archs)


def allocate(space, frames, budget, count, rng, price=None, band=BAND):
    """`count` random tuples of `frames` architectures that together cost just below the budget.

    All are different and cost from band * budget to the budget (eq. 3); in that band they have the
    distribution of `Space.sample`. The walk that finds them looks at no accuracy, so this is the
    random search of Secs 3.4.1 and 3.4.3 and no evolution. The band is ours: hardly any of the
    architectures drawn from all below a budget lies near it, and the best one will.

    price: Arch -> number, by default GFLOPs. A candidate's price is the *sum* over its frames: a
    frame must cost the same whatever is chosen for the others. Returns fewer than `count` only
    where hardly more exist. UserError if even the smallest architectures are too expensive.
    """
    # the walk asks for the same prices many times
    price = lru_cache(maxsize=2**16)(price or price_in_gflops(space))
    smallest = cheapest(space, price)
    least = price(smallest)
    if budget < frames * least:
        total = f"{frames} x the smallest architecture, {least:.4g}"
        raise UserError(f"a budget of {budget:.4g} is below {total}: give more")
    # where the budget is above the largest candidate, the band ends there
    largest = max([replace(space.largest(), fusion=each) for each in space.fusions], key=price)
    most = price(largest)
    if budget > frames * most:
        total = f"{frames} x the largest architecture, {most:.4g}"
        data.say_once(f"a budget of {budget:.4g} is above {total}: it cannot be used up")
    high = min(budget, frames * most)
    walk = random_walk(space, [smallest] * frames, high, rng, price, band)

    # first the walk forgets where it entered the band; then candidates far apart are independent
    apart = 5 * space.decisions() * frames
    found = {}
    for visits, archs in enumerate(itertools.islice(walk, 20 * apart, None, apart)):
        found[archs] = True  # a dict, because a set has no order
        if len(found) == count or visits > 20 * len(found) + 100:
            return list(found)


def sample(space, budget, count, rng, price=None, band=BAND):
    """`count` random architectures for a single frame, which cost just below the budget."""
    return [archs[0] for archs in allocate(space, 1, budget, count, rng, price, band)]


def draw_candidates(
    space, budget, count, seed, joints, frames=1, key_arch=None, shared=False, band=BAND
):
    """The candidates of a search: a list of tuples of `frames` architectures.

    Without key_arch they are for S: one architecture, which serves all frames, and the budget is
    its GFLOPs. With the key frame's key_arch they are for T, and the budget is the *average* over
    key and non-key frames, as in Table 1. Then each non-key frame has an architecture of its own,
    unless they are `shared` (Fig. 6b). band: see `allocate`.
    """
    gflops = price_in_gflops(space, joints)
    rng = random.Random(f"{seed} candidates")
    total = frames * budget
    if key_arch:
        # C of eq. (3) is what the average leaves for the T non-key frames, shared or not
        key = gflops(key_arch)
        total = (frames + 1) * budget - key
        least = frames * gflops(cheapest(space, gflops))
        if total < least:
            average = (key + least) / (frames + 1)
            smallest = f"{average:.4g}, the key frame with {frames} of the smallest networks"
            raise UserError(f"an average of {budget:.4g} GFLOPs is below {smallest}: give more")
    if shared or not key_arch:
        archs = sample(space, total / frames, count, rng, gflops, band)
        return [(arch,) * frames for arch in archs]
    return allocate(space, frames, total, count, rng, gflops, band)


# --------------------------------------------------------------------- running networks over clips
def to_device(images, device):
    """uint8 images (B, F, 3, H, W) -> normalised floats on the device, of the same shape."""
    # bytes go to the device: a quarter of the traffic
    images = data.normalise(images.to(device, non_blocking=True))
    # convolutions are fastest in the memory format "channels last"
    flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (BF, 3, H, W)
    return flat.unflatten(0, images.shape[:2])


class EvaluationSet:
    """Clips that many networks are run over: cropped once, and their key frames predicted once.

    indices: which clips, in which order. With a key_net (in eval mode) networks predict the frames
    after the key frame, without one all frames. keep: hold the crops in memory, as uint8; otherwise
    every pass crops them again.

    first, frames: the first frame that networks predict, and how many.
    """

    def __init__(self, clips, device, indices=None, key_net=None, batch_size=64, keep=True):
        self.clips = clips
        self.device = device
        self.indices = list(range(len(clips)) if indices is None else indices)
        self.key_net = key_net
        self.key_frames = {}  # batch number -> its `fusion.Frame`, added when it is first needed
        self.first = 1 if key_net else 0
        self.frames = clips.frames - self.first
        self.batch_size = batch_size
        self.number_of_batches = math.ceil(len(self.indices) / batch_size)
        every_batch = range(self.number_of_batches)
        self.crops = list(data.batch_loader(self, every_batch, clips, device)) if keep else None

    def __getitem__(self, number):
        """Crop one batch: images (B, F, 3, H, W) uint8, matrices (B, F, 2, 3)."""
        batch = self.clips.batch(self.indices_of(number, number + 1))
        return batch.images, batch.matrices

    def indices_of(self, start, stop):
        """The clips in the batches start, start + 1, ..., stop - 1."""
        return self.indices[start * self.batch_size : stop * self.batch_size]

    def batches(self, start=0, stop=None):
        """Yield what `fusion.propagate` takes of some batches: images, matrices, key frame.

        Images (B, T, 3, H, W), on the device, and matrices (B, T, 2, 3) are of the frames to
        predict. The key frame is a `fusion.Frame`, or None without a key_net.
        """
        numbers = range(self.number_of_batches)[start:stop]
        loader = data.batch_loader(self, numbers, self.clips, self.device)
        crops = self.crops[start:stop] if self.crops else loader
        progress = data.Progress()
        for number, (images, matrices) in zip(numbers, crops, strict=True):
            progress.show(f"{self.clips.name}: batch {number} of {self.number_of_batches}")
            images = to_device(images, self.device)
            # S does not change while T is trained and searched, and so neither do its heatmaps
            if self.key_net and number not in self.key_frames:
                with torch.no_grad():
                    heatmaps = self.key_net(images[:, 0])
                self.key_frames[number] = fusion.Frame(heatmaps, matrices[:, 0])
            key_frame = self.key_frames.get(number)
            yield images[:, self.first :], matrices[:, self.first :], key_frame


def calibration_set(clips, device, seed, key_net=None):
    """Training clips for `recalibrate`: a random sample of the whole training set."""
    count = 64 if key_net else 256  # ours; of each clip T sees several frames
    rng = random.Random(f"{seed} calibration")
    indices = rng.sample(range(len(clips)), min(count, len(clips)))
    return EvaluationSet(clips, device, indices, key_net)


def validation_set(clips, device, seed, key_net=None):
    """All validation clips, in a random order, so that any part of them is a fair sample.

    They are in at least 16 batches if there are so many clips, because a search begins with a
    sixteenth of them.
    """
    indices = list(range(len(clips)))
    random.Random(f"{seed} validation").shuffle(indices)
    batch_size = max(1, min(64, len(clips) // 16))
    return EvaluationSet(clips, device, indices, key_net, batch_size)


def recalibrate(nets, calibration):
    """Give finished networks batch-norm statistics of their own, in place; then eval mode.

    In the super-network one set of statistics serves subnets of all sizes, and fits none of them.
    So the candidate runs over training clips, frame by frame along the chain. Each batch is
    normalised by its own statistics, as in training, and the mean of these over all batches is what
    the network then keeps. No weight changes. Each frame needs a network of its own, because
    features differ from frame to frame.
    """
    chain = torch.nn.ModuleList(nets).train()
    norms = [layer for layer in chain.modules() if hasattr(layer, "running_mean")]
    momentum = norms[0].momentum
    with torch.no_grad():
        for i, (images, matrices, key_frame) in enumerate(calibration.batches()):
            # batch norm does mean <- (1 - m) mean + m (mean of this batch). With m = 1, 1/2, 1/3,
            # ... the result is the plain mean over all batches, without any of the old value
            for norm in norms:
                norm.momentum = 1 / (i + 1)
            fusion.propagate(nets, images, matrices, key_frame, calibration.clips.cell)
    for norm in norms:
        norm.momentum = momentum
    chain.eval()


def extract_calibrated(supernet, archs, calibration, measured=None):
    """A candidate as finished networks: extracted from the super-network and recalibrated.

    measured: {archs: statistics} of candidates that were recalibrated before; it is added to.
    """
    nets = [supernet.extract(arch).to(memory_format=torch.channels_last) for arch in archs]
    chain = torch.nn.ModuleList(nets).eval()
    # the buffers of a network are the running means and variances of its batch norms
    measured = {} if measured is None else measured
    archs = tuple(archs)
    if archs not in measured:
        recalibrate(nets, calibration)
        measured[archs] = list(chain.buffers())
    for own, known in zip(chain.buffers(), measured[archs], strict=True):
        own.copy_(known)
    return nets


def predict(nets, evaluation, flip=False, quarter=False, start=0, stop=None):
    """Keypoints (n, frames, K, 3) of the clips in some batches: x, y in image pixels and score.

    frames: as many as there are networks. flip: average the heatmaps with those of the mirrored
    crops (SBL's flip test); only for one frame. quarter: how peaks are read, see `data.decode`.
    """
    clips = evaluation.clips
    cell = clips.cell
    found = []
    with torch.inference_mode():
        for images, matrices, key_frame in evaluation.batches(start, stop):
            heatmaps = fusion.propagate(nets, images, matrices, last=key_frame, cell=cell)
            if flip:
                mirrored = fusion.propagate(nets, images.flip(-1), matrices, last=None, cell=cell)
                heatmaps += data.flip_heatmaps(mirrored, clips.skeleton.flip, cell)
                heatmaps /= 2
            # heatmaps -> crop pixels -> image pixels, each frame through its own window
            keypoints = data.decode(heatmaps.float(), quarter, cell)  # (B, frames, K, 3)
            back = data.invert(matrices[:, : len(nets)])  # (B, frames, 2, 3)
            found.append(data.transform(keypoints.cpu().numpy(), back))
    return np.concatenate(found)


# -------------------------------------------------------------------------- how good a candidate is
def oks_accuracy(keypoints, clips, indices, first):
    """The fraction of OKS thresholds that each person passes in each frame, (n, frames), 0 to 1.

    It is nan without labels. keypoints (n, frames, K, 3) are of the clips `indices`, from frame
    `first` on. Each person is evaluated in one given window, so there are no detections to rank,
    and average precision is simply the mean of these numbers.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]  # (n, frames)
    similarity = data.oks(keypoints, joints, areas, clips.skeleton.sigmas)  # (n, frames)
    passed = (similarity[..., None] >= data.OKS_THRESHOLDS).mean(-1)  # of ten thresholds
    labelled = (joints[..., 2] > 0).any(-1)
    return np.where(labelled, passed, np.nan)


def percent(accuracy):
    """The AP of what `oks_accuracy` returns, 0 to 100."""
    return 100 * float(np.nanmean(accuracy))


def ap_by_part(keypoints, clips, indices, first):
    """{part: AP} of each part of the body, left and right together, 0 to 100.

    As `oks_accuracy`, but each joint is compared with the thresholds by itself.
    """
    frames = slice(first, first + keypoints.shape[1])
    joints = clips.joints[indices, frames]  # (n, frames, K, 3)
    areas = clips.areas[indices, frames]  # (n, frames)
    similarity = data.joint_similarity(keypoints, joints, areas, clips.skeleton.sigmas)
    passed = (similarity[..., None] >= data.OKS_THRESHOLDS).mean(-1)  # (n, frames, K)
    labelled = joints[..., 2] > 0

    # sums over all joints of a part
    total = {}
    count = {}
    parts = list(clips.skeleton.joints)
    for left, right in clips.skeleton.sides:
        parts[right] = parts[left] = parts[left].removeprefix("left_")
    for k, part in enumerate(parts):
        own = labelled[..., k]
        total[part] = total.get(part, 0) + passed[..., k][own].sum()
        count[part] = count.get(part, 0) + own.sum()
    return {part: float(100 * total[part] / count[part]) for part in count if count[part]}


def own_ap(keypoints, evaluation):
    """The AP that a real data set defines for itself, in percent: COCO's, or PoseTrack's Total.

    keypoints (N, frames, K, 3) are of all its clips. After a key frame, only the people in the
    predicted frames of a clip count, in labels and in predictions.
    """
    clips = evaluation.clips
    # from the random order of the evaluation to the order of the clips
    everything = np.zeros(clips.joints.shape)  # (N, F, K, 3)
    everything[evaluation.indices, evaluation.first :] = keypoints
    if isinstance(clips, CocoPeople):
        return 100 * data.coco_ap(clips.annotations, data.coco_results(everything, clips))["AP"]

    # leave key frames out, as frames without labels are. One image can be the key frame of one
    # person's clip and a non-key frame of another's, so people are counted and not images
    clips = copy.copy(clips)
    clips.ids = clips.ids.copy()
    clips.ids[:, : evaluation.first] = None
    results = data.posetrack_results(everything, clips)
    counted = {data.person_key(pose) for pose in results}
    people = clips.annotations["annotations"]
    people = [person for person in people if data.person_key(person) in counted]
    page = {**clips.annotations, "annotations": people}
    return data.posetrack_table(page, results, clips.skeleton.joints)["Total"]


# -------------------------------------------------------------------------------------- the search
def rank_and_world():
    """(number of this process, number of processes), of which torchrun starts several."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value):
    """The values of all processes, in their order."""
    values = [value] * rank_and_world()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def schedule(count, batches, plain):
    """Rounds of a search: {batches that have been seen after it: candidates that take part}.

    plain: one round, in which every candidate sees everything, as in the paper (Secs 3.4.1, 3.4.3).
    Otherwise (ours) successive halving, for 3/16 of that work: four times the better half goes on.

        candidates   all    1/2   1/4   1/8   1/16
        clips        1/16   1/8   1/4   1/2   all
    """
    if plain:
        return {batches: count}
    rounds = {}
    for k in range(5):
        # with fewer than 16 batches some rounds would add no clips: the first of them stays
        seen = math.ceil(batches / 2 ** (4 - k))
        rounds.setdefault(seen, math.ceil(count / 2**k))
    return rounds


class Search:
    """A search under way.

    table has a row for each candidate, in the order in which they were drawn:
        archs, gflops, params   its architectures, and what they cost together
        passed, people          for each frame: the sum of `oks_accuracy`, and over how many people
        ap_by_frame, ap         in percent, on the clips seen so far
        rounds                  `ap` after each round
    """

    def __init__(self, supernet, candidates, validation, calibration, about, path):
        self.supernet = supernet
        self.candidates = candidates
        self.validation = validation
        self.calibration = calibration
        self.about = about  # tells this search from others, see `find`
        self.path = path  # of the table
        self.measured = {}  # batch-norm statistics, for later rounds
        # go on from the table that an interrupted search left: all processes from the same one
        page = json.loads(path.read_text()) if path.is_file() else {}
        self.table = [self.new_row(archs) for archs in candidates]
        if page and not about.items() <= page.items():
            remedy = "remove it, or give another --out"
            raise UserError(f"{path} is the table of another search: {remedy}")
        self.table = page.get("candidates", self.table)
        self.table = gather(self.table)[0]

    def new_row(self, archs):
        """The row of a candidate before its first round."""
        # eq. (3) bounds what all its frames cost together
        size = self.supernet.space.image_size
        costs = [vipnas.cost(arch, size, self.supernet.joints) for arch in archs]
        total = sum(costs, start=Cost())
        row = {"archs": [json.loads(arch.to_json()) for arch in archs]}
        row |= {"gflops": total.gflops, "params": total.params}
        return row | {"passed": 0, "people": 0, "rounds": []}

    def run(self, plain):
        """Round by round, the remaining candidates run over the clips that they have not seen."""
        count = len(self.table)
        remaining = list(range(count))
        start = 0
        rounds = schedule(count, self.validation.number_of_batches, plain)
        for number, (stop, places) in enumerate(rounds.items()):
            # the best of the round before go on; of equals, those that were drawn first
            if number > 0:
                remaining.sort(key=lambda i: self.table[i]["rounds"][number - 1], reverse=True)
                remaining = remaining[:places]
            # an interrupted search has evaluated some of them already
            todo = [i for i in remaining if len(self.table[i]["rounds"]) == number]
            self.evaluate_all(todo, start, stop)
            start = stop
            clips = len(self.validation.indices_of(0, stop))
            ap = self.table[best(self.table)]["ap"]
            print(f"search: {places} of {count}, {clips} clips each, best {ap:.1f} AP", flush=True)

    def evaluate_all(self, todo, start, stop):
        """Evaluate candidates on the batches from start to stop, one in each process."""
        rank, world = rank_and_world()
        progress = data.Progress()
        for turn in range(0, len(todo), world):
            progress.show(f"search: {turn} of {len(todo)} candidates evaluated in this round")
            # in the last turn some processes may have none
            mine = todo[turn + rank : turn + rank + 1]
            rows = [(i, self.evaluate(i, start, stop)) for i in mine]
            for i, row in itertools.chain(*gather(rows)):
                self.table[i] = row
            # the table is written after every turn, so that an interrupted search can go on
            if rank == 0:
                page = self.about | {"best": best(self.table), "candidates": self.table}
                data.write_json(page, self.path)

    def evaluate(self, i, start, stop):
        """The row of candidate i after a round: the batches from start to stop."""
        row = dict(self.table[i])
        archs = self.candidates[i]
        nets = extract_calibrated(self.supernet, archs, self.calibration, self.measured)
        val = self.validation
        if val.clips.has_official_numbers and stop == val.number_of_batches:
            # the last round on real data: their own AP decides, on all clips, and peaks are read as
            # in `official`. The accuracy by frame starts again, as these are other keypoints
            keypoints = predict(nets, val, quarter=True)
            row.update(passed=0, people=0)
            self.add_accuracy(row, keypoints, 0, stop)
            row["ap"] = float(np.nan_to_num(own_ap(keypoints, val)))  # nan if nobody is labelled
        else:
            keypoints = predict(nets, val, start=start, stop=stop)
            self.add_accuracy(row, keypoints, start, stop)
        row["rounds"] = [*row["rounds"], row["ap"]]
        return row

    def add_accuracy(self, row, keypoints, start, stop):
        """Add keypoints (n, frames, K, 3) of the batches from start to stop to a row's AP."""
        val = self.validation
        accuracy = oks_accuracy(keypoints, val.clips, val.indices_of(start, stop), val.first)
        passed = row["passed"] + np.nansum(accuracy, axis=0)  # (frames)
        people = row["people"] + np.isfinite(accuracy).sum(axis=0)  # (frames)
        by_frame = 100 * passed / np.maximum(people, 1)
        row["passed"] = passed.tolist()
        row["people"] = people.tolist()
        row["ap_by_frame"] = by_frame.round(2).tolist()
        # the objective of eq. (3) is a sum over the frames: here the mean over all people in them
        row["ap"] = 100 * sum(row["passed"]) / max(sum(row["people"]), 1)


def best(table):
    """The index of the best of the candidates that have seen most clips."""
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
    """The search (Secs 3.4.1, 3.4.3): draw `count` candidates, evaluate them, keep the best one.

    budget, key_arch, shared, band: see `draw_candidates`; plain: see `schedule`. Returns
    (architectures of the best candidate, table). The table is also in OUT/NAME.json; an interrupted
    search goes on from there, another one is a UserError. OUT/NAME.png is a picture of it.
    """
    space = supernet.space
    joints = supernet.joints
    frames = validation.frames
    candidates = draw_candidates(space, budget, count, seed, joints, frames, key_arch, shared, band)
    # a table is continued only by the search that began it: all of these are the same
    about = {"budget": budget, "frames": frames, "candidates_wanted": count, "seed": seed}
    about |= {"shared": shared, "band": band, "plain": plain}
    about["key"] = key_arch and json.loads(key_arch.to_json())
    about["clips"] = [validation.clips.name, len(validation.indices)]
    about["weights"] = round(sum([p.double().sum().item() for p in supernet.parameters()]), 6)
    path = Path(out, f"{name}.json")
    running = Search(supernet, candidates, validation, calibration, about, path)
    running.run(plain)
    if rank_and_world()[0] == 0:
        data.save_image(plot(running.table), path.with_suffix(".png"))
    return candidates[best(running.table)], running.table


def plot(table):
    """Picture of a search: a dot for each candidate, dark for finalists, a red one for the best."""
    prices = np.array([row["gflops"] for row in table])
    scores = np.array([row["ap"] for row in table])
    rounds = np.array([len(row["rounds"]) for row in table])
    won = best(table)
    image = Image.new("RGB", (720, 480), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(14)
    pen.text((8, 24), "AP on the clips that a candidate has seen", "black")
    pen.text((690, 24), f"found: {scores[won]:.1f} AP at {prices[won]:.4g}", "crimson", anchor="ra")
    pen.text((380, 458), "GFLOPs of all its frames", "black", anchor="ma")

    # six ticks along each axis: their values, and their places in the picture
    gflops = np.linspace(0.99 * prices.min(), 1.01 * prices.max(), 6)
    ap = np.linspace(scores.min() - 1, scores.max() + 1, 6)
    x = np.linspace(70, 690, 6)
    y = np.linspace(430, 50, 6)
    for i in range(6):
        pen.line([70, y[i], 690, y[i]], "lightgrey")
        pen.text((62, y[i]), f"{ap[i]:.1f}", "black", anchor="rm")
        pen.text((x[i], 438), f"{gflops[i]:.4g}", "black", anchor="ma")

    # the candidates, finalists on top
    places = np.stack([np.interp(prices, gflops, x), np.interp(scores, ap, y)], axis=1).tolist()
    for i in np.argsort(rounds, kind="stable"):
        pen.circle(places[i], 4, "royalblue" if rounds[i] == rounds.max() else "lightsteelblue")
    pen.circle(places[won], 7, "crimson")
    return image


# ------------------------------------------------------------------------- official numbers, costs
def official(nets, clips, device, out):
    """The official numbers of finished networks on COCO or PoseTrack18 val, in percent.

    COCO with the flip test; PoseTrack18 in one pass for each frame, as the video estimator works;
    both with SBL's quarter offset. Prints them and returns {column: number}. Then it writes the
    official list OUT/results.json, and for PoseTrack18 OUT/posetrack/SEQUENCE.json for poseval.
    """
    # all clips in their order; not kept in memory, as they are used once
    coco = isinstance(clips, CocoPeople)
    evaluation = EvaluationSet(clips, device, keep=False)
    flip = coco and clips.skeleton.mirrors
    keypoints = predict(nets, evaluation, flip=flip, quarter=True)
    if coco:
        results = data.coco_results(keypoints, clips)
        table = data.coco_ap(clips.annotations, results)
        table = {name: max(100 * value, -1.0) for name, value in table.items()}  # -1: nobody
    else:
        results = data.posetrack_results(keypoints, clips)
        table = data.posetrack_ap(clips.annotations, results)

    # first the numbers: should a file fail now, they are not lost
    print(f"{clips.name}, official evaluation of {len(results)} poses")
    if clips.annotations["annotations"]:
        print("".join(f"{name:>7}" for name in table))
        print("".join(f"{value:7.1f}" for value in table.values()))
    else:
        print("its annotations are not public: upload results.json to COCO's evaluation server")
        table = {}
    if not coco:
        for name, images in clips.sequences.items():
            poses = [result for result in results if result["sequence"] == name]
            page = {**clips.annotations, "images": images, "annotations": poses}
            data.write_json(page, Path(out, "posetrack", name))

    data.write_json(results, Path(out, "results.json"))
    print(f"results.json is in {out}")
    return table


def frame_costs(nets, about, counts=None):
    """What the finished networks of successive frames cost: {"params", "gflops", "ms", "fps"}.

    Each is a list: the number of every frame and, last, of the average frame, key and non-key
    frames together, as in Tables 1 to 4 and Figs 1 and 4. counts: how many frames each network runs
    on; None: all on as many. The speed is that of one deployed network on one CPU thread.
    """
    size = tuple(about["size"])
    prices = [vipnas.cost(net.arch, size, net.joints) for net in nets]
    costs = {"params": [price.params for price in prices]}
    costs["gflops"] = [price.gflops for price in prices]
    costs["ms"] = vipnas.frame_times(nets)
    for values in costs.values():
        values.append(float(np.average(values, weights=counts)))
    costs["fps"] = [1000 / ms for ms in costs["ms"]]
    return costs


COST_TITLES = f"{'params':>12}{'GFLOPs':>9}{'ms':>8}{'FPS':>6}"


def format_costs(costs, t=-1):
    """One frame of `frame_costs` in the columns of COST_TITLES; -1: the average."""
    params, gflops, ms, fps = (costs[name][t] for name in ("params", "gflops", "ms", "fps"))
    return f"{params:12,.0f}{gflops:9.4f}{ms:8.2f}{fps:6.0f}"


def show_frames(nets, about, clips=None):
    """Print what the network of each frame costs, and the average; returns `frame_costs`.

    clips: the people whom the networks run on. A track that ends or begins between two key frames
    of its clips gives S more than one frame in T + 1.
    """
    counts = np.ones(len(nets))
    if clips and len(nets) > 1:
        counts = clips.frame_counts()
    costs = frame_costs(nets, about, counts)
    print(f"{'':10}{COST_TITLES}   (ms and frames a second: deployed, one CPU thread)")
    for t, net in enumerate(nets):
        frame = f"t = {t}" if t else "key frame"
        print(f"{frame:10}{format_costs(costs, t)}   {net.arch}")
    if len(nets) > 1:
        percentage = 100 * counts[0] / counts.sum()
        print(
            f"{'average':10}{format_costs(costs)}   {percentage:.1f} % of the frames are key frames"
        )
    return costs


# -------------------------------------------------------------------------------- the command line
@contextlib.contextmanager
def processes():
    """Make one group of the processes that torchrun started; gives the device of this one.

    Only the first prints. The others wait while it reports, which can take hours. UserError where
    the variables of torchrun contradict each other, because something else left them over.
    """
    gpus = torch.cuda.device_count()
    rank = data.launcher_number("RANK")
    world = data.launcher_number("WORLD_SIZE", least=1)
    local = data.launcher_number("LOCAL_RANK")
    data.launcher_number("LOCAL_WORLD_SIZE", least=1)  # for `data.batch_loader`
    if rank >= world:
        raise data.left_over("RANK", f", but WORLD_SIZE is {world}")
    if 0 < gpus <= local:
        raise data.left_over("LOCAL_RANK", f", but the number of GPUs is {gpus}")
    device = torch.device(f"cuda:{local}" if gpus else "cpu")
    if world == 1:
        yield device
        return
    if gpus:
        torch.cuda.set_device(device)
    what = f"waiting for the {world} processes that WORLD_SIZE announces"
    if rank == 0:
        print(f"{what} (if it is left over: stop, and unset it)", flush=True)
    try:
        dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(hours=12))
    except (ValueError, RuntimeError) as error:  # such as: RANK or MASTER_ADDR is not set
        reason = " ".join(str(error).split())
        raise data.left_over("WORLD_SIZE", f", but its processes cannot meet ({reason})") from None
    with contextlib.redirect_stdout(None if dist.get_rank() else sys.stdout):
        yield device
        dist.barrier()
    dist.destroy_process_group()


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence, a UserError as all others."""

    def error(self, message):
        raise UserError(f"{message}; --help lists the options")


def read_number(text, kind, zero=False):
    """The finite number above zero, or `zero`, that an option gives; kind: int or float."""
    with contextlib.suppress(ValueError):
        number = kind(text)
        if 0 < number < math.inf or (zero and number == 0):
            return number
    what = "whole number" if kind is int else "number"
    least = "of zero or more" if zero else "above zero"
    raise argparse.ArgumentTypeError(f"{text} is no {what} {least}")


# the `type` of options, here and in train.py
positive_int = partial(read_number, kind=int)
positive_number = partial(read_number, kind=float)
non_negative = partial(read_number, kind=float, zero=True)
non_negative_int = partial(read_number, kind=int, zero=True)


def check_options(options, kind, stage=None):
    """UserError for useless options. kind: of the data; stage: of the super-network to search."""
    belongs_to = {
        "a search (--gflops)": (stage, "plain candidates seed no_official"),
        "a search for T-ViPNAS": (stage == "t", "frames shared"),
        "the official numbers of a finished network": (options.data == kind, "data"),
        "real data": (kind != "synthetic", "root"),
        "COCO's official numbers": (kind == "coco" and not options.no_official, "boxes"),
        "a finished network with --boxes": (options.boxes and not stage, "split"),
    }
    for place, (is_here, names) in belongs_to.items():
        for name in names.split():
            if getattr(options, name) and not is_here:
                raise UserError(f"--{name.replace('_', '-')} belongs to {place}")
    if options.out and Path(options.out, "supernet.pt").exists():
        raise UserError(f"{options.out} is the folder of a training run: give another --out")


def open_clips(kind, root, split, frames, about, path, **more):
    """`data.open_clips` for the network in `path`. UserError if it predicts other joints."""
    size = tuple(about["size"])
    clips = data.open_clips(kind, root, split, frames, size, cell=about["cell"], **more)
    if list(clips.skeleton.joints) != list(about["joints"]):
        remedy = "fine-tune it there first (train.py --stage s --arch FILE --init CKPT)"
        raise UserError(f"{path} predicts other joints than {clips.name} has: {remedy}")
    return clips


def evaluate_finished(options, device):
    """Official numbers of a finished S- or T-ViPNAS, or of a published network."""
    kind = options.data
    path = Path(options.checkpoint)
    check_options(options, kind)
    if not options.root:
        raise UserError(f"give --root, the folder of --data {kind}")
    nets, about = vipnas.load_networks(path)
    if kind == "coco" and len(nets) > 1:
        raise UserError("COCO has no videos: name the key frame's network, vipnas_s.pt")
    out = options.out or path.with_name(f"official_{kind}")
    data.try_folder(out)
    split = options.split or "test"
    clips = open_clips(
        kind,
        options.root,
        split,
        len(nets),
        about,
        path,
        boxes=options.boxes,
        workers=options.workers,
    )
    if kind == "posetrack" and not clips.has_official_numbers:
        raise UserError(f"nobody in {options.root} has a head box, which PoseTrack's numbers need")
    show_frames(nets, about, clips)
    nets = [net.to(device, memory_format=torch.channels_last) for net in nets]
    official(nets, clips, device, out)


def open_data(options, contents, frames):
    """(train, val, test): clips of the run that trained a super-network. test is for the official
    numbers, and None for synthetic people."""
    config = contents["config"]
    open_split = partial(
        open_clips,
        config["data"],
        options.root or config["root"],
        frames=frames,
        about=contents["about"],
        path=options.checkpoint,
        count=config["clips"],
        workers=options.workers,
        seed=config["seed"],
    )
    test = None if config["data"] == "synthetic" else open_split("test", boxes=options.boxes)
    return open_split("train"), open_split("val"), test


def search_again(options, device):
    """Another search in a trained super-network: another budget, T (Table 4), shared (Fig. 6b); and
    on real data the official numbers of what it finds."""
    supernet, key_net, contents = vipnas.load_supernet(options.checkpoint)
    config = contents["config"]
    check_options(options, config["data"], contents["stage"])
    frames = (options.frames or config["frames"]) if key_net else 1
    nets = [key_net] if key_net else []
    for net in (supernet, *nets):
        net.to(device, memory_format=torch.channels_last)
    choices = {"budget": options.gflops, "seed": options.seed, "shared": options.shared}
    choices["key_arch"] = key_net and key_net.arch
    name = f"search_{options.gflops:g}_{frames}" + ("_shared" if options.shared else "")
    out = Path(options.out or Path(options.checkpoint).with_name(name))
    # a budget that is too small is an error here, before any picture is read
    draw_candidates(supernet.space, count=1, joints=supernet.joints, frames=frames, **choices)
    is_first = rank_and_world()[0] == 0
    if is_first:
        data.try_folder(out)
    train, val, test = open_data(options, contents, len(nets) + frames)
    calibration = calibration_set(train, device, options.seed, key_net)
    validation = validation_set(val, device, options.seed, key_net)

    out.mkdir(parents=True, exist_ok=True)
    with data.locked(out) if is_first else contextlib.nullcontext():
        archs, table = find(
            supernet,
            count=options.candidates or config["candidates"],
            calibration=calibration,
            validation=validation,
            out=out,
            plain=options.plain,
            **choices,
        )
        if is_first:
            nets += extract_calibrated(supernet, archs, calibration)
            show_found(nets, archs, table, contents, val, test, out)
            if test and test.has_official_numbers and not options.no_official:
                official(nets, test, device, out)


def show_found(nets, archs, table, contents, val, test, out):
    """Print what a search found, and keep it."""
    show_frames(nets, contents["about"], test)
    agreement = f", agreement with {val.labelled_by}" if val.labelled_by else ""
    print(f"val AP {table[best(table)]['ap']:.1f}{agreement}")
    vipnas.save_finished(out / f"vipnas_{contents['stage']}.pt", nets, contents["about"])
    vipnas.write_archs(list(archs), out / "arch.json")
    print(f"networks, arch.json and search.* are in {out}")


def main(arguments=None):
    """Search a trained super-network again, without training; or evaluate finished networks."""
    parser = Parser(description=main.__doc__)
    add = parser.add_argument
    path = data.path_option
    add("--checkpoint", type=path, required=True, help="supernet.pt, or a finished network")
    add("--gflops", type=positive_number, help="search: budget of S, or average over all frames")
    add("--frames", type=positive_int, help="search: T, non-key frames (as in the run)")
    add("--shared", action="store_true", help="search: one architecture for all non-key frames")
    add("--plain", action="store_true", help="search: every candidate on all of val (the paper)")
    add("--candidates", type=positive_int, help="search: how many (as in the run)")
    add("--seed", type=int, default=0, help="search: of candidates and clips (default: 0)")
    add("--no-official", action="store_true", help="search, real data: no official numbers after")
    add("--data", choices=("coco", "posetrack"), help="finished network: what to evaluate it on")
    add("--root", type=path, help="folder of the real data (search: where the run had it)")
    add("--boxes", type=path, help="coco: JSON file of detected people, for the numbers")
    add("--split", choices=["test-dev2017"], help="coco: results for the evaluation server")
    add("--out", type=path, help="folder for the result (default: beside the checkpoint)")
    add("--workers", type=non_negative_int, help="processes that read or render pictures")
    with data.command("search"), processes() as device:
        options = parser.parse_args(arguments)
        if options.gflops:
            search_again(options, device)
        elif options.data:
            if rank_and_world()[0] == 0:
                evaluate_finished(options, device)
        else:
            raise UserError("give --gflops to search, or --data to evaluate a finished network")


if __name__ == "__main__":
    main()
