"""Training, and the whole way from nothing to a searched video pose estimator (Sec. 3.4).

    python train.py --stage s    # super-network, search, S-ViPNAS: the key frame's network
    python train.py --stage t    # T super-network inside it, search, T-ViPNAS: the frames between

In stage s a *subnet* is one architecture on one frame (T = 1). In stage t a subnet is a chain of T
architectures, one for each frame after the key frame: it starts from the heatmaps of the fixed S
network, each frame's own heatmaps are propagated to the next, and every frame has its loss.
`train_step` serves both stages, and networks that are trained alone: those have no smaller subnets.

    python train.py --stage s --space resnet50 --data coco --root DIR       # the paper's recipe
    python train.py --stage s --arch FILE --data posetrack --root DIR --init CKPT    # fine-tune one
    python train.py --stage t --s CKPT --data posetrack --root DIR --frames 3
    python train.py --stage t --s CKPT --arch FILE [--no-fusion]     # train one allocation alone
    python train.py --stage s --clips 16 --steps 2 --candidates 4    # as small as you like
    torchrun --nproc_per_node=8 -- train.py --stage s ...            # several GPUs, or machines
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

import data
import fusion
import search
import vipnas
from data import UserError
from elastic import ElasticConv2d, ElasticConvTranspose2d
from vipnas import PoseNet, Space

# ------------------------------------------------------------------------------ one training step

RANDOM_SUBNETS = 2  # N of Sec. 3.4.2
DISTILL = True  # in-place distillation; False: all subnets learn from the ground truth alone


class Examples(NamedTuple):
    """What a step learns from: B clips of T frames that are to be predicted."""

    images: torch.Tensor  # (B, T, 3, H, W) normalised
    matrices: torch.Tensor  # (B, T, 2, 3) image -> crop pixels
    key_frame: fusion.Frame | None  # before them, t = 0 of eq. (2); None in stage s
    targets: torch.Tensor  # (B, T, K, H/4, W/4)
    weights: torch.Tensor  # (B, T, K) 1, or 0 where a joint is not annotated
    cell: float  # of the heatmaps, see data.py


def train_step(nets, examples, optimizer, rng, through=False):
    """One step: the sandwich rule and in-place distillation [60, 61] (Secs 3.4.1, 3.4.2).

    nets: one for each of the T frames to predict. They are either T times the same super-network,
    or finished networks, which are trained alone. through: let gradients flow from frame to frame.
    Returns the losses of the subnets: largest, smallest, random ones. UserError if one is not
    finite.
    """
    # 1. the largest subnet learns from the ground truth alone. All frames have the largest CNN;
    #    only their fusions are random
    archs = [random_fusion(net.space.largest(), net.space, rng) for net in nets]
    predicted = predict_chain(nets, archs, examples, through)  # (B, T, K, H/4, W/4)
    loss = heatmap_loss(predicted, examples.targets, examples.weights)
    loss.backward()
    losses = [loss.detach()]
    soft_targets = predicted.detach()  # its heatmaps of this very step teach the others

    chains = []
    if nets[0].is_supernet:
        # 2. the smallest subnet, with random fusions too
        chains.append([random_fusion(net.space.smallest(), net.space, rng) for net in nets])
        # 3. N = 2 random subnets: every frame of a chain draws its own CNN and fusion
        for _ in range(RANDOM_SUBNETS):
            chains.append([net.space.sample(rng) for net in nets])
    for archs in chains:
        predicted = predict_chain(nets, archs, examples, through)
        loss = heatmap_loss(predicted, examples.targets, examples.weights)
        if DISTILL:
            # they learn from the ground truth and from the largest subnet, with equal weight
            soft = heatmap_loss(predicted, soft_targets)  # of unannotated joints too
            loss = (loss + soft) / 2
        loss.backward()  # gradients add up: the sum over arch^t in eq. (1)
        losses.append(loss.detach())

    # 4. one step with the sum of all their gradients
    losses = torch.stack(losses)
    average_gradients(optimizer, losses)
    optimizer.step()
    optimizer.zero_grad()
    return losses.tolist()


def random_fusion(arch, space, rng):
    """`arch` with a fusion drawn from the temporal-level space; in stage s that has only None."""
    return replace(arch, fusion=rng.choice(space.fusions))


def predict_chain(nets, archs, examples, through):
    """Heatmaps (B, T, K, H/4, W/4) of a subnet: the chain of eq. (2)."""
    with mixed_precision(examples.images.device):
        predicted = fusion.propagate(
            nets,
            examples.images,
            examples.matrices,
            examples.key_frame,
            examples.cell,
            archs,
            through=through,
        )
    return predicted.to(examples.targets.dtype)


def mixed_precision(device):
    """ours: bfloat16 where that is safe, on GPUs that have it (a V100 has not; on CPUs it is slower
    than float32). float16, whose gradients could vanish, is never used."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def heatmap_loss(predicted, targets, weights=None):
    """L of eq. (1): mean squared error of heatmaps (B, T, K, H/4, W/4).

    weights: (B, T, K), 0 or 1; a joint of weight 0 adds nothing, but it is counted in the mean. The
    sum over t of eq. (1) is a mean here: a constant factor, which Adam takes out again.
    """
    error = (predicted - targets) ** 2
    error = error.mean((-2, -1))  # (B, T, K)
    if weights is not None:
        error = error * weights
    # ours, x 1000: heatmaps are nearly 0 nearly everywhere. Gradients of the plain mean come near
    # the epsilon (1e-8) that Adam adds to their size, and then training crawls
    return 1000 * error.mean()


def average_gradients(optimizer, losses):
    """Means over all processes, in place; UserError if something is not a finite number.

    All processes draw the same subnets, so the same parameters have gradients everywhere. The check
    has the same result everywhere, too.
    """
    parameters = optimizer.param_groups[0]["params"]
    gradients = [p.grad for p in parameters if p.grad is not None]
    _, world = search.rank_and_world()
    if world > 1:
        for tensor in (*gradients, losses):
            dist.all_reduce(tensor)
            tensor /= world
    if not (losses.isfinite().all() and nn.utils.get_total_norm(gradients).isfinite()):
        # one more step would ruin the weights, and the last good checkpoint with them
        raise UserError("the loss is not a finite number any more: begin again with a lower --lr")


# ------------------------------------------------------------------------------------- the recipes

# How a stage trains on a kind of data, unless options say otherwise:
#
# batch, lr        clips a step and process, and Adam's highest rate
# rotation, scale  augmentation: largest rotation in degrees, largest change of size (.1: a tenth)
# candidates       architectures, or allocations, that the search draws
# epochs or steps  how long it trains
# milestones       epochs after which the rate is divided by ten; without: it falls by half a cosine
# through          gradients flow from frame to frame, as eqs (1) and (2) say; without, ours: each
#                  frame learns for itself alone (synthetic people: +0.8 +- 0.5 AP)
# finish           ours: steps that fine-tune the networks that were found
# clips            synthetic people to train with; of real data, all

# Sec. 4.2; 64 people a process, as the released networks were trained
PAPER = {"batch": 64, "rotation": 40, "scale": 0.0, "candidates": 500, "finish": 0}
# ours: minutes on two cores
MINUTES = {"lr": 2e-2, "rotation": 10, "scale": 0.1, "candidates": 48}
RECIPES = {
    ("coco", "s"): PAPER | {"lr": 1e-3, "epochs": 250, "milestones": (200, 230)},
    ("posetrack", "s"): PAPER | {"lr": 1e-4, "epochs": 20, "milestones": (10, 15)},
    ("posetrack", "t"): PAPER | {"lr": 1e-3, "epochs": 60, "batch": 16, "through": True},
    ("synthetic", "s"): MINUTES | {"batch": 32, "steps": 500, "finish": 1600, "clips": 16000},
    ("synthetic", "t"): MINUTES | {"batch": 16, "steps": 250, "finish": 1150, "clips": 5000},
}

# GFLOPs of S (Table 2), and of T (Table 1), averaged over key and non-key frames
BUDGETS = {
    "tiny": {"s": 0.0200},
    "resnet50": {"s": 1.44, "t": 0.82},
    "mobilenetv3": {"s": 0.69, "t": 0.37},
    "hrnet_w32": {"s": 5.64},
}
FRACTION = 0.57  # ours: of S's GFLOPs, where Table 1 has no T; it is ResNet-50's there


def budget_of(stage, backbone, key_gflops):
    """GFLOPs that a search may spend, unless --gflops says it; None: nothing is known."""
    known = BUDGETS.get(backbone, {})
    if stage == "s":
        return known.get("s")
    # Table 1's T goes with Table 2's S: a search finds it in the tenth below that cost, and the
    # number of joints changes it a little
    if "t" in known and 0.89 < key_gflops / known["s"] < 1.11:
        return known["t"]
    return FRACTION * key_gflops


def learning_rate(step, steps, options):
    """The rate of a step (Sec. 4.2)."""
    # as S in the paper: a tenth after each milestone
    if options.milestones:
        passed = sum(step * options.epochs >= steps * epoch for epoch in options.milestones)
        return options.lr * 0.1**passed
    # all others, as T in the paper: down to zero by half a cosine
    rate = options.lr * (1 + math.cos(math.pi * step / steps)) / 2
    if options.data == "synthetic":  # ours: it rises at first
        rise = max(1, min(100, steps // 10))
        rate *= min(1, (step + 1) / rise)
    return rate


# ---------------------------------------------------------------------------- many training steps

SAVE_EVERY = 30  # seconds


class TrainingBatches:
    """A dataset of batches; number `step` is this process's part of a training step.

    The clips stand in an endless row, one shuffled epoch after the other, and a step takes the next
    `batch` of them for each process. Which clip stands at a position, and how it is augmented,
    follows from the seed and the position alone. So a resumed run sees what it would have seen, and
    two processes see what one of twice the batch would.
    """

    def __init__(self, clips, options):
        self.clips = clips
        self.options = options
        # asked here, because the processes that load batches ahead belong to no group
        self.rank, self.world = search.rank_and_world()

    def __getitem__(self, step):
        options = self.options
        count = len(self.clips)
        mirrors = self.clips.skeleton.mirrors
        draw = data.draw_augmentation
        start = (step * self.world + self.rank) * options.batch
        indices = []
        augmentations = []
        for position in range(start, start + options.batch):
            epoch, place = divmod(position, count)
            index = shuffled(options.seed, epoch, count)[place]
            indices.append(index)
            # one augmentation for all frames of a clip (Sec. 4.2)
            rng = random.Random(f"{options.seed} augment {position}")
            spare = self.clips.spare[index]
            augmentations.append(draw(rng, options.rotation, options.scale, mirrors, spare))
        return self.clips.batch(indices, augmentations)


@lru_cache(maxsize=2)
def shuffled(seed, epoch, count):
    """The order of `count` clips in an epoch."""
    return random.Random(f"{seed} epoch {epoch}").sample(range(count), count)


def make_examples(batch, clips, frames, key_net, device):
    """A `data.Batch` on the device, as Examples whose last `frames` frames are to be predicted."""
    images = search.to_device(batch.images, device)  # (B, F, 3, H, W)
    matrices = batch.matrices.to(device)
    targets, weights = data.targets(batch.joints.to(device), clips.size, clips.cell)
    first = clips.frames - frames  # 1 where the clips have a key frame, else 0
    key_frame = None
    if key_net:
        # eq. (2), t = 0: S was trained before and stays as it is (Sec. 3.4.2)
        with torch.no_grad(), mixed_precision(device):
            key_heatmaps = key_net(images[:, 0])  # (B, K, H/4, W/4)
        key_frame = fusion.Frame(key_heatmaps, matrices[:, 0])
    return Examples(
        images=images[:, first:],
        matrices=matrices[:, first:],
        key_frame=key_frame,
        targets=targets[:, first:],
        weights=weights[:, first:],
        cell=clips.cell,
    )


def readable(batches):
    """Each of `batches` as a `data.Batch`; UserError after three without a readable picture."""
    black = 0
    for batch in batches:
        batch = data.Batch(*batch)
        # a picture that cannot be read has no labels; where none can, the disk may be gone
        black = 0 if batch.joints[..., 2].any() else black + 1
        if black == 3:
            remedy = "bring them back, then --resume goes on from the last save"
            raise UserError(f"no picture of the last three steps can be read: {remedy}")
        yield batch


def fit(run, nets, steps, name, key_net=None):
    """Train `nets` for so many steps, and keep them in the run folder as `name`.

    nets: one for each frame to predict, as for `train_step`; key_net: of the frame before them, in
    stage t. The first process reports ten times, and saves about twice a minute and at the end.
    Wherever a run is cut off, even by kill -9, it resumes from the last save. On a CPU, with as
    many threads, it ends with the same weights bit for bit; no GPU promises that.
    """
    options = run.options
    # each network once: all frames share a super-network. A dict, because a set has no order
    modules = nn.ModuleList(dict.fromkeys(nets)).train()
    optimizer = torch.optim.Adam(modules.parameters(), options.lr)
    start = continue_training(run, name, modules, optimizer)
    dataset = TrainingBatches(run.train, options)
    batches = readable(data.batch_loader(dataset, range(start, steps), run.train, run.device))
    begun = saved = time.time()
    progress = data.Progress()
    for step, batch in enumerate(batches, start):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, options)
        examples = make_examples(batch, run.train, len(nets), key_net, run.device)
        # the same architectures in all processes, and after --resume
        rng = random.Random(f"{options.seed} arch {step}")
        losses = train_step(nets, examples, optimizer, rng, options.through)

        # the rest is the work of the first process
        done = step + 1
        minutes = (time.time() - begun) / 60 * (steps - done) / (done - start)
        left = f"{minutes:.1f} minutes left"
        progress.show(f"step {done} of {steps}  {left}")
        if run.is_first and (done == steps or done % max(1, steps // 10) == 0):
            report_losses(run, nets, name, done, losses, left)
        if run.is_first and (done == steps or time.time() - saved > SAVE_EVERY):
            save_training(run, name, modules, optimizer, done, steps)
            saved = time.time()
    # from here on batch norm uses the statistics that it has collected
    modules.eval()


def save_training(run, name, modules, optimizer, step, steps):
    """All that `continue_training` and a later search need, whole or not at all."""
    arch = run.key_net.arch if run.key_net else modules[0].arch
    contents = {
        "kind": "supernet" if modules[0].is_supernet else "alone",
        "stage": run.options.stage,
        "space": modules[0].space.backbone,
        "arch": arch.to_json() if arch else None,
        "nets": [net.state_dict() for net in modules],
        "optimizer": optimizer.state_dict(),
        "step": step,
        "steps": steps,
        "config": run.config,
        "about": run.about,
        "log": (run.out / "log.jsonl").read_text(),
    }
    if run.key_net:
        contents["key"] = run.key_net.state_dict()
    vipnas.save_checkpoint(contents, run.out / name)


def continue_training(run, name, modules, optimizer):
    """Put networks, optimizer and log back to where the file `name` has them -> steps done."""
    path = run.out / name
    if not (run.resumed and path.is_file()):
        return 0
    saved = vipnas.load_checkpoint(path, "supernet", "alone")
    for net, state in zip(modules, saved["nets"], strict=True):
        vipnas.restore(net, state, path)
    optimizer.load_state_dict(saved["optimizer"])
    # lines written after the checkpoint will be written again
    if run.is_first:
        with data.whole_file(run.out / "log.jsonl") as file:
            file.write(saved["log"].encode())
    return saved["step"]


def report_losses(run, nets, name, step, losses, left):
    """Print and log the losses of the largest subnet, the smallest and the random ones; and AP on
    val, of a super-network that of its largest subnet."""
    evaluated = [net.eval() for net in nets]
    if nets[0].is_supernet:
        largest_archs = [net.space.largest() for net in nets]
        evaluated = search.extract_calibrated(nets[0], largest_archs, run.calibration)
    # 16 batches are all of the synthetic people, and enough of the others
    keypoints = search.predict(evaluated, run.validation, stop=16)
    indices = run.validation.indices[: len(keypoints)]
    accuracy = search.oks_accuracy(keypoints, run.val, indices, run.validation.first)
    ap = search.percent(accuracy)
    for net in nets:
        net.train()
    phase = Path(name).stem
    numbers = " ".join([f"{loss:.2f}" for loss in losses])
    print(f"{phase} step {step}  loss {numbers}  val AP {ap:.1f}  {left}", flush=True)
    with open(run.out / "log.jsonl", "a") as file:
        line = {"phase": phase, "step": step, "losses": losses, "ap": ap}
        file.write(json.dumps(without_nan(line)) + "\n")


def without_nan(value):
    """`value` with None for each number that JSON does not know, such as the AP of nobody."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


# -------------------------------------------------------------------------------------- the stages


def run_stage(options, device):
    """Super-network, search under a budget, finished networks (Secs 3.4.1 to 3.4.3); with --arch,
    the networks that it names are trained alone."""
    if search.rank_and_world()[0] == 0:
        data.try_folder(options.out)
    run = prepare_s(options, device) if options.stage == "s" else prepare_t(options, device)
    with run_folder(run.out, run.resumed):
        given = [f"{name} {value}" for name, value in vars(options).items() if value]
        length = f"{run.steps} steps, {run.processes} processes"
        print("run: " + "  ".join(given) + f"  ({length})", flush=True)
        chain = train_and_search(run)
        baseline = train_baseline(run, chain) if run.baseline else None
        if run.is_first:
            report(run, chain, baseline)


def train_and_search(run):
    """The finished networks that a stage ends with, the key frame's first; they are saved."""
    options = run.options
    nets = run.nets
    fit(run, nets, run.steps, "supernet.pt", run.key_net)
    # networks trained alone keep the batch-norm statistics that they were trained with
    if not options.arch:
        archs, _ = search.find(
            nets[0],
            budget=options.gflops,
            count=options.candidates,
            validation=run.validation,
            calibration=run.calibration,
            out=run.out,
            seed=options.seed,
            key_arch=run.key_net.arch if run.key_net else None,
            shared=options.shared,
            plain=options.plain,
        )
        # slices of a super-network need statistics of their own, see `search.recalibrate`
        nets = search.extract_calibrated(nets[0], archs, run.calibration)
        # ours: the found networks are fine-tuned, each of T's now with weights of its own. (The
        # paper trains S again from the start, Sec. 4.4: for that, --arch)
        if options.finish:
            fit(run, nets, options.finish, "finish.pt", run.key_net)
    chain = [run.key_net, *nets] if run.key_net else nets
    if run.is_first:
        vipnas.save_finished(run.out / f"vipnas_{options.stage}.pt", chain, run.about)
        # what was found, for --arch: of T, only the non-key frames
        vipnas.write_archs([net.arch for net in nets], run.out / "arch.json")
    return chain


def train_baseline(run, chain):
    """The best single-frame network of T's average cost, for every frame (Table 3).

    The same search finds it in the S super-network. Then it is fine-tuned as T was: on the same
    frames of the same clips, at the same rate, for as many steps. T started from S, which had been
    fine-tuned on so many `images` before, so the baseline gets these as well.
    """
    options = run.options
    supernet, images = run.baseline
    supernet.to(run.device, memory_format=torch.channels_last)
    # it is searched on single frames, as S was, and synthetic people are alike everywhere
    size = run.val.size
    cell = run.val.cell
    workers = options.workers
    first = run.train.first
    people = data.SyntheticClips("train", min(256, options.clips), 1, size, workers, cell, first)
    calibration = search.calibration_set(people, run.device, options.seed)
    people = data.SyntheticClips("val", len(run.val), 1, size, workers, cell)
    validation = search.validation_set(people, run.device, options.seed)
    archs, _ = search.find(
        supernet,
        # T's frames cost this much on average, the key frame among them
        budget=average_gflops([net.arch for net in chain], run.about),
        count=options.candidates,
        validation=validation,
        calibration=calibration,
        out=run.out,
        seed=options.seed,
        plain=options.plain,
        band=0.98,  # ours: so narrow that it costs as much as T and not up to a tenth less
        name="rival",
    )
    (net,) = search.extract_calibrated(supernet, archs, calibration)
    as_s = math.ceil(images / (options.frames * options.batch * run.processes))
    fit(run, [net] * options.frames, as_s + run.steps + options.finish, "rival.pt")
    return net


def average_gflops(archs, about):
    """What a frame costs on average."""
    size = tuple(about["size"])
    joints = len(about["joints"])
    return float(np.mean([vipnas.cost(arch, size, joints).gflops for arch in archs]))


# -------------------------------------------------------------------------- what a stage works with


@dataclass
class Run:
    """What the functions of a stage share. Its run folder holds, each whole or not at all:

    supernet.pt                   weights, optimizer, step, options, log: what --resume needs
    vipnas_s.pt, vipnas_t.pt      the finished networks, which VideoPose.load takes
    arch.json                     their architectures, which --arch takes
    search.json, search.png       every candidate with its cost and AP
    log.jsonl                     a line for each report
    poses.png, poses.gif          predictions on clips of the test split
    finish.pt, rival.*            fine-tuning; stage t: the single-frame baseline
    report.json                   what is printed at the end: costs, AP, paired differences
    """

    options: argparse.Namespace
    device: torch.device
    nets: list  # to train, one for each frame to predict, see `train_step`
    about: dict  # how to use them, see `data.about`
    val: data.Clips  # for the search, as test is for the report
    identity: dict  # what it starts from, which --resume compares
    key_net: PoseNet | None = None  # stage t: of the key frame, fixed
    baseline: tuple | None = None  # stage t, maybe: see `open_baseline`

    def __post_init__(self):
        options = self.options
        rank, self.processes = search.rank_and_world()
        self.is_first = rank == 0  # of the processes: the one that prints and writes
        self.out = Path(options.out)
        self.train = self.open_clips("train")
        self.test = self.open_clips("test")
        # with --boxes the official numbers are of these
        self.official = self.open_clips("test", options.boxes) if options.boxes else self.test

        # as many steps as the option says, or epochs over the clips
        clips_a_step = options.batch * self.processes
        self.steps = options.steps or math.ceil(options.epochs * len(self.train) / clips_a_step)

        # what --resume compares, see `check_resume`; search.py finds the data with it
        self.config = {**vars(options), "processes": self.processes, **self.identity}
        for clips, split in ((self.train, "train"), (self.val, "val")):
            self.config[f"boxes of {split}"] = [len(clips), round(float(clips.boxes.sum()), 3)]
        self.resumed = check_resume(self.out, self.config)

    def open_clips(self, split, boxes=None):
        """Clips as the networks need them; UserError if these predict other joints."""
        path = self.options.s or f"a network for {self.val.name}"
        return open_clips(self.options, split, self.val.frames, self.about, path, boxes)

    @cached_property
    def calibration(self):
        """Training clips to recalibrate batch norm on, cropped when they are first needed."""
        return search.calibration_set(self.train, self.device, self.options.seed, self.key_net)

    @cached_property
    def validation(self):
        """All of val in a random order, cropped when it is first needed."""
        return search.validation_set(self.val, self.device, self.options.seed, self.key_net)


def open_clips(options, split, frames, about, path, boxes=None):
    """`search.open_clips` of a run's data."""
    return search.open_clips(
        options.data,
        options.root,
        split,
        frames,
        about,
        path,
        count=options.clips,
        boxes=boxes,
        workers=options.workers,
        seed=options.seed,
    )


def prepare_s(options, device):
    """The Run of stage s. Whatever cannot succeed is refused here, and in `prepare_t`."""
    archs = vipnas.read_archs(options.arch) if options.arch else []
    if len(archs) > 1 or (archs and archs[0].fusion):
        raise UserError(f"--arch {options.arch} holds non-key frames: that is for --stage t")
    space = Space.of(archs[0]) if archs else vipnas.SPACES[options.space]
    fill_in(options, space.backbone)
    size = space.image_size
    cell = data.CELL
    identity = {"architecture": archs[0].to_json() if archs else None, "weights of --init": None}
    if options.init:
        (larger, *_), about = vipnas.load_networks(options.init)
        cell = about["cell"]  # the published networks have their own
        identity["weights of --init"] = weights_of(larger)
    root = options.root
    workers = options.workers
    val = data.open_clips(
        options.data, root, "val", 1, size, options.clips, cell=cell, workers=workers
    )
    about = data.about(val.skeleton, size, cell)
    joints = len(about["joints"])  # one heatmap for each that the data name
    if not archs:
        # an impossible budget raises here, not after the training
        search.draw_candidates(space, options.gflops, 1, options.seed, joints)

    torch.manual_seed(options.seed)
    net = PoseNet(space, joints)
    if options.init_std:
        # the paper's initialisation (Sec. 4.2): a Gaussian of mean 0, std .001. Without it: He's
        for layer in net.modules():
            if isinstance(layer, ElasticConv2d | ElasticConvTranspose2d):
                nn.init.normal_(layer.weight, std=options.init_std)
    if options.init:
        # all weights of a network of the same architecture, or slices of a larger one
        try:
            net.inherit(larger)
        except ValueError as error:
            raise UserError(f"--init {options.init} is smaller than needed: {error}") from None
    net.to(device, memory_format=torch.channels_last)
    return Run(options, device, [net], about, val, identity)


def prepare_t(options, device):
    """The Run of stage t, whose networks lie inside the one that --s names."""
    # the key frame's network, pre-trained and fixed (Sec. 3.4.2)
    (key_net, *_), about = vipnas.load_networks(options.s)
    key_arch = key_net.arch
    if key_arch.backbone not in vipnas.SPACES:
        raise UserError(f"--s {options.s} is a {key_arch.backbone}, which lies in no search space")
    fill_in(options, key_arch.backbone, average_gflops([key_arch], about))
    frames = options.frames

    # the super-network is everything not larger, with a fusion after any stage, and starts from
    # its weights
    space = replace(vipnas.SPACES[key_arch.backbone], image_size=tuple(about["size"]))
    space = space.within(key_arch)
    torch.manual_seed(options.seed)
    supernet = PoseNet(space, key_net.joints).inherit(key_net)
    identity = {"weights of --s": weights_of(key_net), "architectures": None}
    if options.arch:
        # each frame trains weights of its own
        archs = read_allocation(options, key_arch, space)
        identity["architectures"] = [arch.to_json() for arch in archs]
        nets = [supernet.extract(arch) for arch in archs]
    else:
        # all frames share the weights. An impossible budget raises here, not after the training
        (archs,) = search.draw_candidates(
            space, options.gflops, 1, options.seed, key_net.joints, frames, key_arch, options.shared
        )
        nets = [supernet] * frames
    # what is found will cost about as much as these
    baseline = open_baseline(options, about, average_gflops([key_arch, *archs], about))
    for net in (key_net, *nets):
        net.to(device, memory_format=torch.channels_last)
    val = open_clips(options, "val", frames + 1, about, options.s)
    return Run(options, device, nets, about, val, identity, key_net, baseline)


def weights_of(net):
    """A number that tells the weights of two networks apart."""
    return round(sum(p.double().sum().item() for p in net.parameters()), 6)


def read_allocation(options, key_arch, space):
    """The architectures that --arch names for the non-key frames."""
    archs = vipnas.read_archs(options.arch)
    if len(archs) == options.frames + 1 and archs[0] == key_arch:
        archs = archs[1:]  # a finished T-ViPNAS begins with its key frame
    if len(archs) != options.frames:
        raise UserError(f"--arch {options.arch} is for {len(archs)} non-key frames, give --frames")
    for arch in archs:
        # without a fusion, as --no-fusion leaves a network, it lies in no T space: lend it one
        if replace(arch, fusion=space.fusions[0]) not in space:
            raise UserError(f"--arch {options.arch} is not inside the network of --s {options.s}")
    return [replace(arch, fusion=None) for arch in archs] if options.no_fusion else archs


def open_baseline(options, about, budget):
    """What the single-frame baseline is trained from: the S super-network beside --s, and how many
    images fine-tuned --s after it was found there. None if there is to be no comparison.

    Synthetic people are compared wherever that is possible; with --compare 1 it has to be.
    """
    by_default = options.data == "synthetic" and not options.arch
    if options.compare == 0 or not (options.compare or by_default):
        return None
    path = Path(options.s).with_name("supernet.pt")
    try:
        supernet, key_net, contents = vipnas.load_supernet(path)
        if key_net or supernet.space.image_size != tuple(about["size"]):
            raise UserError(f"{path} is not the super-network that {options.s} was found in")
        search.draw_candidates(supernet.space, budget, 1, options.seed, supernet.joints)
    except UserError as error:
        if options.compare:
            raise
        print(f"no comparison with a single-frame baseline: {error}")
        return None
    config = contents["config"]
    return supernet, config["finish"] * config["batch"] * config["processes"]


# ------------------------------------------------------------------------------------- the reports


def report(run, chain, baseline=None):
    """Print and keep what was found: its cost, and its AP on the test split, which no decision
    depended on. In stage t with the rows of Tables 1 and 3 that it is compared with."""
    options = run.options
    name = f"{options.stage.upper()}-ViPNAS"
    if options.arch:
        name = str(Path(*Path(options.arch).parts[-2:]))  # all of it would not fit into the table
    print(f"\n{name}")
    costs = {name: search.show_frames(chain, run.about, run.test)}
    test = search.EvaluationSet(run.test, run.device)
    keypoints = {name: search.predict(chain, test)}  # (N, F, K, 3), the key frame first
    if run.key_net:
        # the key frame's network on every frame, whose cost is known
        costs["S on every frame"] = {title: each[:1] for title, each in costs[name].items()}
        keypoints["S on every frame"] = search.predict(chain[:1] * len(chain), test)
    if baseline:
        costs["baseline on every frame"] = search.frame_costs([baseline], run.about)
        keypoints["baseline on every frame"] = search.predict([baseline] * len(chain), test)
    if run.key_net:
        # the pose of the key frame for all frames, which any network has to beat
        copied = np.repeat(keypoints[name][:, :1], len(chain), axis=1)
        keypoints["key frame's pose, copied"] = copied
    page = compare(run, test, keypoints, costs)
    if run.test.labelled_by:
        page["labelled_by"] = run.test.labelled_by
        print(f"\nthe labels are those of {run.test.labelled_by}: AP is agreement with it")
    if run.official.has_official_numbers:
        page["official"] = search.official(chain, run.official, run.device, run.out)
    data.write_json(without_nan(page), run.out / "report.json")
    picture = "poses.gif" if run.key_net else "poses.png"
    draw_predictions(run.test, keypoints[name], run.out / picture)
    print(f"wrote vipnas_{options.stage}.pt, arch.json and {picture} to {run.out}")


def compare(run, test, keypoints, costs):
    """Print {name: keypoints (N, F, K, 3)} on the test split: AP of all frames, of some, and of
    each part of the body; and by how much the first is better. costs: {name: frame_costs}.

    Returns all that, for report.json.
    """
    columns = {"AP": slice(None)}
    if run.test.frames > 1:
        columns["non-key"] = slice(1, None)
        columns |= {f"t = {t}": slice(t, t + 1) for t in range(1, run.test.frames)}
    print()
    show_row(f"{f'{len(run.test)} test clips':25}{search.COST_TITLES}", columns, ">9")
    rows = {}
    accuracy = {}
    for name, poses in keypoints.items():
        # (N, F), nan for people who are not labelled
        accuracy[name] = search.oks_accuracy(poses, run.test, test.indices, test.first)
        row = {key: values[-1] for key, values in costs.get(name, {}).items()}
        row["ap"] = {title: search.percent(accuracy[name][:, t]) for title, t in columns.items()}
        row["standard_error"] = standard_error(accuracy[name])
        row["ap_by_part"] = search.ap_by_part(poses, run.test, test.indices, test.first)
        rows[name] = row
        numbers = search.format_costs(costs[name]) if name in costs else " " * 35
        show_row(f"{name:25}{numbers}", row["ap"].values(), "9.1f")

    print()
    show_row("AP of single joints", row["ap_by_part"], ">10")
    for name, row in rows.items():
        show_row(name, row["ap_by_part"].values(), "10.1f")
    ours, *others = rows
    print(f"\nstandard error of {ours}'s AP: {rows[ours]['standard_error']:.1f}")
    page = {"rows": rows, "pairs": []}
    for other in others:
        better, error = paired(accuracy[ours][:, 1:], accuracy[other][:, 1:])
        print(f"{ours} against {other}: {better:+.1f} +- {error:.1f} AP (non-key frames)")
        pair = {"ours": ours, "other": other, "better": better, "standard_error": error}
        page["pairs"].append(pair)
    if others and run.options.data == "synthetic":
        page["conditions"] = compare_conditions(run.test.conditions, accuracy)
    return page


def show_row(name, cells, form):
    """Print a row of a table. form: how its cells are printed, such as 9.1f."""
    print(f"{name:25}" + "".join([f"{cell:{form}}" for cell in cells]))


def paired(ours, other):
    """(difference of two AP, its standard error) of `search.oks_accuracy` (N, T), paired clip by
    clip: so it makes no difference which clips are hard for both."""
    difference = ours - other
    return search.percent(difference), standard_error(difference)


def standard_error(accuracy):
    """Of the AP of a `search.oks_accuracy` (N, T), in percent."""
    # clips are independent of each other; the frames of one are not, so each clip counts once
    labelled = np.isfinite(accuracy).any(axis=1)
    per_clip = np.nanmean(accuracy[labelled], axis=1)
    return float(100 * per_clip.std() / math.sqrt(max(1, len(per_clip))))


def compare_conditions(conditions, accuracy):
    """Print where memory helps: AP on the non-key frames of each condition, of which a frame can be
    in several, and by how much the first network is better there. Returns that, for report.json.

    conditions: (N, F, 4) bool, see `data.CONDITIONS`; accuracy: {name: `search.oks_accuracy`}.
    """
    groups = {"clear": ~conditions.any(-1)}
    for i, condition in enumerate(data.CONDITIONS):
        groups[condition] = conditions[..., i]
    ours, *others = accuracy
    table = {}
    for condition, inside in groups.items():
        inside = inside[:, 1:]  # (N, T)
        if not inside.any():
            continue
        own = {name: np.where(inside, each[:, 1:], np.nan) for name, each in accuracy.items()}
        table[condition] = {
            "frames": int(inside.sum()),
            "ap": {name: search.percent(own[name]) for name in own},
            "better": {name: paired(own[ours], own[name]) for name in others},
        }

    print()
    show_row("AP of non-key frames", table, ">13")
    for name in accuracy:
        show_row(name, [group["ap"][name] for group in table.values()], "13.1f")
    print(f"{ours} against")
    for name in others:
        better = [group["better"][name] for group in table.values()]
        show_row(name, [f"{ap:+.1f} +- {error:.1f}" for ap, error in better], ">13")
    show_row("frames", [group["frames"] for group in table.values()], "13,")
    return table


def draw_predictions(clips, keypoints, path):
    """A picture of the first clips with predictions (N, F, K, 3); of several frames it moves."""
    # two rows of six people
    batch = clips.batch(range(min(12, len(keypoints))))
    to_large = [[2, 0, 0.5], [0, 2, 0.5]]  # twice as large, between the centres of pixels
    frames = []
    for t in range(keypoints.shape[1]):
        people = []
        for i, crop in enumerate(batch.images[:, t]):
            image = Image.fromarray(crop.permute(1, 2, 0).numpy())
            image = image.resize((2 * image.width, 2 * image.height))
            pose = data.transform(keypoints[i, t], batch.matrices[i, t])  # crop pixels
            people.append(data.draw_pose(image, data.transform(pose, to_large), clips.skeleton))
        frames.append(data.sheet([row for row in (people[:6], people[6:]) if row]))
    data.save_image(frames if len(frames) > 1 else frames[0], path)


# --------------------------------------------------------------------------------- the run folder

# it does not matter to a resumed run where things lie, but what they are; nor who reads them
MAY_CHANGE = ("resume", "workers", "out", "root", "boxes", "s", "init", "arch")


def check_resume(out, config):
    """Whether the run in the folder `out` is to be continued. UserError if it was another one."""
    path = out / "supernet.pt"
    if not config["resume"]:
        return False
    if not path.is_file():
        if (out / "arch.json").is_file():
            remedy = "to train it again, leave --resume out"
            raise UserError(f"the run in {out} has ended, and its supernet.pt is gone: {remedy}")
        return False
    saved = vipnas.load_checkpoint(path, "supernet", "alone")["config"]
    for name, value in config.items():
        if saved.get(name, value) != value and name not in MAY_CHANGE:
            was = f"{name} was {saved.get(name)}"
            if name.startswith("boxes of"):
                was = f"the people or their labels were others ({was}, is {value})"
            raise UserError(f"--resume goes on with the same options, but in {out} {was}")
    return True


@contextlib.contextmanager
def run_folder(out, resumed):
    """Inside, the run folder is there, and is this run's alone: UserError if another run works in
    it. An older run that is not continued is moved aside, to OUT.1, OUT.2, ..."""
    is_first = search.rank_and_world()[0] == 0
    if is_first and not resumed and out.is_dir() and any(out.iterdir()):
        number = 1
        while Path(f"{out}.{number}").exists():
            number += 1
        with data.locked(out):
            out.rename(f"{out}.{number}")
        print(f"moved the run that was in {out} to {out}.{number}")
    out.mkdir(parents=True, exist_ok=True)
    with data.locked(out) if is_first else contextlib.nullcontext():
        if is_first:
            (out / "log.jsonl").touch()
            for unfinished in out.glob("*.tmp"):  # what a killed run was about to write
                unfinished.unlink()
        search.gather(None)  # the other processes wait for it
        yield


# ------------------------------------------------------------------------------- the command line


def option_parser():
    """The command line. What is not given and has no default here comes from the recipe."""
    recipes = "\n".join([f"{which}: {recipe}" for which, recipe in RECIPES.items()])
    epilog = "what is left out comes from these recipes (real data: Sec. 4.2):\n" + recipes
    form = argparse.RawDescriptionHelpFormatter
    parser = search.Parser(description=__doc__, epilog=epilog, formatter_class=form)
    add = parser.add_argument
    count = search.positive_int
    path = data.path_option
    add("--stage", choices=("s", "t"), required=True, help="s first, then t")
    add("--space", choices=vipnas.SPACES, help="stage s: the search space (default tiny)")
    add("--data", choices=("synthetic", "coco", "posetrack"), default="synthetic")
    add("--root", type=path, help="folder of the real data set, as it is unpacked")
    add("--boxes", type=path, help="coco: JSON file of detections, for the official numbers")
    add("--out", type=path, help="run folder (default runs/s or runs/t)")
    add("--s", type=path, help="stage t: key frame's or published network (runs/s/vipnas_s.pt)")
    add("--arch", type=path, help="train this alone: JSON file, network, name in vipnas.ARCHS")
    add("--no-fusion", action="store_true", help="stage t, --arch: without its fusions (Fig. 6a)")
    add("--init", type=path, help="stage s: start from this finished network, or a published one")
    add("--init-std", type=search.positive_number, help="stage s: .001 is the paper's (ours: He's)")
    add("--frames", type=count, help="stage t: T, non-key frames after a key frame (default 3)")
    add("--clips", type=count, help="train with so many clips")
    add("--steps", type=count, help="training steps")
    add("--epochs", type=count, help="real data: training steps, as epochs over the clips")
    add("--milestones", type=count, nargs="+", help="real data: rate / 10 after these epochs")
    add("--finish", type=search.non_negative_int, help="steps that fine-tune what is found")
    add("--batch", type=count, help="clips a step and process")
    add("--lr", type=search.positive_number, help="highest learning rate")
    add("--rotation", type=search.non_negative, help="augmentation: largest rotation in degrees")
    add("--scale", type=search.non_negative, help="augmentation: largest change of size, below 1")
    add("--candidates", type=count, help="architectures, or allocations, that the search draws")
    add("--gflops", type=search.positive_number, help="budget: of S, or average over frames of T")
    add("--plain", action="store_true", help="evaluate each candidate on all of val (the paper)")
    add("--shared", action="store_true", help="stage t: one architecture for all frames (Fig. 6b)")
    add("--compare", type=int, choices=(0, 1), help="stage t: 1 trains a single-frame baseline")
    add("--through", action=argparse.BooleanOptionalAction, help="stage t: gradients along chains")
    add("--seed", type=int, default=0, help="all randomness follows from it")
    add("--workers", type=search.non_negative_int, help="processes that read or render pictures")
    add("--resume", action="store_true", help="go on with the run in the run folder, exactly")
    return parser


def check_options(options):
    """UserError where an option is given that does not belong to the others, or one is missing."""
    synthetic = options.data == "synthetic"
    # {where it belongs: (whether that is here, the options)}
    belongs_to = {
        "--stage s": (options.stage == "s", "space init init_std"),
        "--stage t": (options.stage == "t", "s frames shared no_fusion compare through"),
        "a search (no --arch)": (not options.arch, "space candidates gflops plain shared finish"),
        "--arch": (options.arch, "no_fusion"),
        "new weights, and --init takes those of a file": (not options.init, "init_std"),
        "--data coco": (options.data == "coco", "boxes"),
        "--data coco or posetrack": (not synthetic, "root epochs milestones"),
        "--data synthetic (else search S at T's cost, then give --arch)": (synthetic, "compare"),
    }
    for place, (is_here, names) in belongs_to.items():
        for name in names.split():
            if getattr(options, name) and not is_here:
                raise UserError(f"--{name.replace('_', '-')} belongs to {place}")
    if options.stage == "t" and options.data == "coco":
        raise UserError("COCO has no videos: --stage t needs --data posetrack or synthetic")
    if not synthetic and not options.root:
        raise UserError(f"--data {options.data} needs --root, the folder of that data set")
    if options.steps and options.epochs:
        raise UserError("--steps and --epochs both say how long to train: give one of them")
    if options.scale and options.scale >= 1:
        raise UserError(f"--scale {options.scale:g} is no change of size: give less than 1")


def read_options(argv=None):
    """Options of the command line, checked. What depends on the network is left to `fill_in`."""
    options = option_parser().parse_args(argv)
    check_options(options)
    if options.stage == "t":
        options.s = options.s or "runs/s/vipnas_s.pt"
        options.frames = options.frames or 3
    elif not options.arch:
        options.space = options.space or "tiny"
    options.out = options.out or f"runs/{options.stage}"
    # search.py may be run from elsewhere
    options.root = options.root and os.path.abspath(options.root)
    return options


def fill_in(options, backbone, key_gflops=None):
    """What the command line leaves out, from the recipe and the budgets."""
    recipe = dict(RECIPES[options.data, options.stage])
    if options.arch:
        recipe["finish"] = 0
    else:
        recipe["gflops"] = budget_of(options.stage, backbone, key_gflops)
        if not (options.gflops or recipe["gflops"]):
            raise UserError(f"train.BUDGETS has no budget for {backbone}: give --gflops")
    if options.data == "synthetic":
        longer = (options.steps or recipe["steps"]) / recipe["steps"]
        recipe["finish"] = round(recipe["finish"] * longer)
        # ours: MINUTES is made for tiny, which bears much higher rates than the paper's networks
        if backbone != "tiny":
            recipe["lr"] = 1e-3
    for name, value in vars(options).items():
        if value is None:
            setattr(options, name, recipe.get(name))
    if options.milestones:
        rising = [*options.milestones, options.epochs]
        if rising != sorted({*rising}):
            numbers = " ".join([str(number) for number in rising])
            raise UserError(f"--milestones have to rise, and stay below the epochs: not {numbers}")


def main(argv=None):
    """Run a stage. Whatever the user can mend is one sentence and exit code 1."""
    if threading.current_thread() is threading.main_thread():  # others get no signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops a run as Ctrl-C does
    begun = time.time()
    stopped = "stopped; what was saved is kept, and --resume goes on from there"
    with data.command("train", stopped), search.processes() as device:
        run_stage(read_options(argv), device)
        print(f"all done in {(time.time() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
