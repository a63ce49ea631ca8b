"""Training, and the whole way from nothing to a searched video pose estimator (Sec. 3.4).

    python train.py --stage s    # super-network, search, S-ViPNAS: the key frame's network
    python train.py --stage t    # T super-network inside it, search, T-ViPNAS: the frames between

In stage s a *subnet* is one architecture on one frame. In stage t it is a chain of T of them, one
for each frame after the key frame: the fixed S network's heatmaps start it, each frame's own
prediction goes on to the next, every frame has its loss. `train_step` serves both, and networks
that are trained alone: those have nothing smaller inside.

    python train.py --stage s --space resnet50 --data coco --root DIR       # the paper's recipe
    python train.py --stage s --arch FILE --data posetrack --root DIR --init CKPT    # fine-tune one
    python train.py --stage t --s CKPT --data posetrack --root DIR --frames 3
    python train.py --stage t --s CKPT --arch FILE [--no-fusion]     # train one allocation alone
    python train.py --stage s --clips 16 --steps 2 --candidates 4    # everything can be small
    torchrun --nproc_per_node=8 -- train.py --stage s ...            # several GPUs, or machines
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
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


class Examples(NamedTuple):
    """What a step learns from: B clips of T frames that are to be predicted.

    images     (B, T, 3, H, W) normalised
    matrices   (B, T, 2, 3) image -> crop pixels
    key_frame  the `fusion.Frame` before them, t = 0 of eq. (2); None in stage s
    targets    (B, T, K, H/4, W/4)
    weights    (B, T, K) 1, or 0 where a joint is not annotated
    cell       of the heatmaps, see data.py
    """

    images: torch.Tensor
    matrices: torch.Tensor
    key_frame: fusion.Frame | None
    targets: torch.Tensor
    weights: torch.Tensor
    cell: float


def heatmap_loss(predicted, targets, weights=None):
    """L of eq. (1): mean squared error of heatmaps (B, T, K, H/4, W/4), over joints that count.

    weights: (B, T, K), 0 or 1; without them all joints count. The sum over t of eq. (1) is a mean
    here: for a given T that is a constant factor, which Adam takes out again.
    """
    error = (predicted - targets) ** 2
    error = error.mean((-2, -1))  # (B, T, K)
    if weights is not None:
        error = error * weights
    # ours, x 1000: heatmaps are nearly 0 nearly everywhere. Gradients of the plain mean come near
    # the epsilon (1e-8) that Adam adds to their size, and then training crawls
    return 1000 * error.mean()


def train_step(nets, examples, optimizer, rng):
    """One step: the sandwich rule and in-place distillation [60, 61] (Secs 3.4.1, 3.4.2).

    nets: one for each frame to predict, which is T times the same super-network; or finished
    networks, to train alone. Returns the losses of the subnets, biggest first.
    """
    # 1. the biggest subnet learns from the ground truth alone. All its frames have the biggest
    #    CNN; only their fusions are random
    biggest = [random_fusion(net.space.largest(), net.space, rng) for net in nets]
    predicted = predict_chain(nets, biggest, examples)  # (B, T, K, H/4, W/4)
    losses = [heatmap_loss(predicted, examples.targets, examples.weights)]
    losses[0].backward()
    soft_targets = predicted.detach()  # what it says at this very step teaches the others

    chains = []
    if nets[0].arch is None:  # a super-network
        # 2. the smallest subnet, with random fusions too
        chains.append([random_fusion(net.space.smallest(), net.space, rng) for net in nets])
        # 3. N = 2 random subnets: every frame of a chain draws its own CNN and fusion
        for _ in range(RANDOM_SUBNETS):
            chains.append([net.space.sample(rng) for net in nets])
    for archs in chains:
        # in-place distillation: they learn from the ground truth and from the biggest, equally
        predicted = predict_chain(nets, archs, examples)
        hard = heatmap_loss(predicted, examples.targets, examples.weights)
        soft = heatmap_loss(predicted, soft_targets)  # of unannotated joints too
        losses.append((hard + soft) / 2)
        losses[-1].backward()  # gradients add up: the sum over arch^t in eq. (1)

    # 4. one step with the sum of all their gradients
    losses = torch.stack(losses).detach()
    average_gradients(optimizer, losses)
    optimizer.step()
    optimizer.zero_grad()
    return losses.tolist()


def random_fusion(arch, space, rng):
    """`arch` with a fusion drawn from the temporal-level space; in stage s that has only None."""
    return replace(arch, fusion=rng.choice(space.fusions))


def predict_chain(nets, archs, examples):
    """Heatmaps (B, T, K, H/4, W/4) of a subnet: the chain of eq. (2)."""
    inputs = (examples.images, examples.matrices, examples.key_frame, examples.cell)
    with mixed_precision(examples.images.device):
        # ours: cut between frames. On drawn people that is 0.8 +- 0.5 AP better than let through
        predicted = fusion.propagate(nets, *inputs, archs, cut=True)
    return predicted.to(examples.targets.dtype)


def mixed_precision(device):
    """ours: GPUs compute in bfloat16 where that is safe; on CPUs it is slower than float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def average_gradients(optimizer, losses):
    """Means over all processes, in place; UserError if something is not a finite number.

    All processes draw the same subnets, so the same parameters have gradients everywhere, and one
    reduction of one flat tensor does. Then the check has the same result everywhere, too.
    """
    parameters = optimizer.param_groups[0]["params"]
    gradients = [p.grad for p in parameters if p.grad is not None]
    _, world = search.rank_and_world()
    if world > 1:
        tensors = [*gradients, losses]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / world).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
    if not (losses.isfinite().all() and nn.utils.get_total_norm(gradients).isfinite()):
        # one step more would spoil the weights, and the last good checkpoint with them
        raise UserError("the loss is not a finite number any more: begin again with a lower --lr")


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
        # asked here: what makes batches ahead is a process that belongs to no group
        self.rank, self.world = search.rank_and_world()

    def __getitem__(self, step):
        options = self.options
        count = len(self.clips)
        start = (step * self.world + self.rank) * options.batch
        indices = []
        augmentations = []
        for position in range(start, start + options.batch):
            epoch, place = divmod(position, count)
            indices.append(shuffled(options.seed, epoch, count)[place])
            # one augmentation for all frames of a clip (Sec. 4.2)
            rng = random.Random(f"{options.seed} augment {position}")
            augmentations.append(data.draw_augmentation(rng, options.rotation, options.scale))
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
        images[:, first:],
        matrices[:, first:],
        key_frame,
        targets[:, first:],
        weights[:, first:],
        clips.cell,
    )


def learning_rate(step, steps, options):
    """The rate of a step (Sec. 4.2)."""
    recipe = RECIPES[options.data, options.stage]
    # S: a tenth after each milestone of the recipe
    if recipe.milestones:
        passed = sum(step * recipe.epochs >= steps * epoch for epoch in recipe.milestones)
        return options.lr * 0.1**passed
    # T: down to zero by half a cosine
    rate = options.lr * (1 + math.cos(math.pi * step / steps)) / 2
    if recipe.warm_up:  # ours
        rise = max(1, min(100, steps // 10))
        rate *= min(1, (step + 1) / rise)
    return rate


@contextlib.contextmanager
def stop_requests():
    """Gives a list, to which Ctrl-C and SIGTERM only add: so the step is completed and saved."""
    asked = []

    def note(number, frame):
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one stops at once

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def fit(run, nets, steps, name, key_net=None):
    """Train `nets` for so many steps, and keep them in the run folder as `name`.

    nets: one for each frame to predict, as for `train_step`; key_net: of the frame before them, in
    stage t. The first process reports ten times, and saves about twice a minute, at the end, and
    when it is asked to stop: then KeyboardInterrupt. Wherever a run is cut off, even by kill -9, it
    goes on from what was saved and ends with the same weights.
    """
    options = run.options
    # a super-network serves all frames, but it is one network
    distinct = nn.ModuleList(dict.fromkeys(nets)).train()
    optimizer = torch.optim.Adam(distinct.parameters(), options.lr)
    start = continue_training(run, name, distinct, optimizer)
    dataset = TrainingBatches(run.train, options)
    batches = data.batch_loader(dataset, range(start, steps), run.train, run.device)
    begun = saved = time.time()
    progress = data.Progress()
    with stop_requests() as asked:
        for step, batch in enumerate(batches, start):
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, options)
            examples = make_examples(data.Batch(*batch), run.train, len(nets), key_net, run.device)
            # the same architectures in all processes, and after --resume
            rng = random.Random(f"{options.seed} arch {step}")
            losses = train_step(nets, examples, optimizer, rng)
            done = step + 1
            stopping = any(search.gather(bool(asked)))  # all processes stop at the same step
            minutes = (time.time() - begun) / 60 * (steps - done) / (done - start)
            progress.show(f"step {done} of {steps}  {minutes:.1f} minutes left")
            if run.is_first and (done == steps or done % max(1, steps // 10) == 0):
                report_losses(run, nets, name, done, losses, f"{minutes:.1f} minutes left")
            if run.is_first and (done == steps or stopping or time.time() - saved > SAVE_EVERY):
                save_training(run, name, distinct, optimizer, done)
                saved = time.time()
            if stopping:
                search.gather(None)  # the first process has saved
                raise KeyboardInterrupt
    if asked:  # in the meantime: all is saved
        raise KeyboardInterrupt
    # from here on its batch norm uses the statistics that it has collected
    distinct.eval()


def save_training(run, name, nets, optimizer, step):
    """All that `continue_training` and a later search need, whole or not at all."""
    arch = run.key_net.arch if run.key_net else nets[0].arch
    contents = {
        "kind": "supernet",
        "stage": run.options.stage,
        "space": run.space.backbone,
        "arch": arch.to_json() if arch else None,
        "nets": [net.state_dict() for net in nets],
        "optimizer": optimizer.state_dict(),
        "step": step,
        "config": run.config,
        "about": run.about,
        "log": (run.out / "log.jsonl").read_text(),
    }
    if run.key_net:
        contents["key"] = run.key_net.state_dict()
    vipnas.save_checkpoint(contents, run.out / name)


def continue_training(run, name, nets, optimizer):
    """Put networks, optimizer and log back to where the file `name` has them -> steps done."""
    path = run.out / name
    if not (run.resumed and path.is_file()):
        return 0
    saved = vipnas.load_checkpoint(path, "supernet")
    for net, state in zip(nets, saved["nets"], strict=True):
        vipnas.restore(net, state, path)
    optimizer.load_state_dict(saved["optimizer"])
    # lines written after the checkpoint will be written again
    if run.is_first:
        with data.whole_file(run.out / "log.jsonl") as file:
            file.write(saved["log"].encode())
    return saved["step"]


def report_losses(run, nets, name, step, losses, left):
    """On the screen and in log.jsonl: the losses of the biggest subnet, the smallest and the random
    ones, and AP on val."""
    judged = [net.eval() for net in nets]
    if nets[0].arch is None:
        # of the super-network its biggest subnet is judged
        biggest = [net.space.largest() for net in nets]
        judged = search.extract_calibrated(nets[0], biggest, run.calibration)
    # 16 batches are all of the drawn people, and enough of the others
    keypoints = search.predict(judged, run.validation, stop=16)
    indices = run.validation.indices[: len(keypoints)]
    ap = search.percent(search.oks_accuracy(keypoints, run.val, indices, run.validation.first))
    for net in nets:
        net.train()
    phase = Path(name).stem
    numbers = " ".join([f"{loss:.2f}" for loss in losses])
    print(f"{phase} step {step}  loss {numbers}  val AP {ap:.1f}  {left}", flush=True)
    log(run, phase=phase, step=step, losses=losses, ap=ap)


def as_json(entry, indent=None):
    """What is not a number, as the AP of nobody, becomes null."""
    return json.dumps(entry, indent=indent).replace("NaN", "null")


def log(run, **entry):
    """Add a line to log.jsonl."""
    with open(run.out / "log.jsonl", "a") as file:
        file.write(as_json(entry) + "\n")


# --------------------------------------------------------------------------- recipes and options


@dataclass(frozen=True)
class Recipe:
    """How a stage trains on a kind of data, unless options say otherwise.

    batch             clips a step and process
    lr                Adam's highest rate
    rotation, scale   augmentation: largest rotation in degrees, largest change of size as a share
    candidates        architectures, or allocations, that the search looks at
    epochs or steps   how long it trains
    milestones        epochs after which the rate is divided by ten; none: it falls by cosine
    warm_up           whether the rate rises over the first tenth of the steps, at most 100
    finish            ours: steps that what is found then trains on alone
    clips             drawn people to train with; of real data, all
    """

    batch: int
    lr: float
    rotation: float
    scale: float
    candidates: int
    epochs: int | None = None
    steps: int | None = None
    milestones: tuple = ()
    warm_up: bool = False
    finish: int = 0
    clips: int | None = None


RECIPES = {
    # Sec. 4.2; 64 people a process, as the released networks were trained
    ("coco", "s"): Recipe(64, 1e-3, 40, 0.0, 500, epochs=250, milestones=(200, 230)),
    ("posetrack", "s"): Recipe(64, 1e-4, 40, 0.0, 500, epochs=20, milestones=(10, 15)),
    ("posetrack", "t"): Recipe(16, 1e-3, 40, 0.0, 500, epochs=60),
    # ours: minutes on two cores
    ("synthetic", "s"): Recipe(32, 2e-2, 10, 0.1, 48, None, 500, (), True, 1600, 16000),
    ("synthetic", "t"): Recipe(16, 2e-2, 10, 0.1, 48, None, 250, (), True, 1150, 5000),
}
FROM_RECIPE = ("batch", "rotation", "scale", "candidates", "steps", "finish", "clips")

# GFLOPs of S, and of T the average over key and non-key frames as a share of the found S: Table 1.
# HRNet's S is Table 2's, its share ours, as ResNet's; tiny's S is ours
BUDGETS = {
    "tiny": {"s": 0.0200, "t": 0.57},
    "resnet50": {"s": 1.44, "t": 0.82 / 1.44},
    "mobilenetv3": {"s": 0.69, "t": 0.37 / 0.69},
    "hrnet_w32": {"s": 5.64, "t": 0.57},
}


class Parser(argparse.ArgumentParser):
    """One whose complaints are one sentence, like all others."""

    def error(self, message):
        raise UserError(f"{message}; --help lists the options")


def option_parser():
    """The command line. What is not given and has no default here comes from the recipe."""
    recipes = "\n".join([f"{which}: {recipe}" for which, recipe in RECIPES.items()])
    epilog = "what is left out comes from the recipe (real data: Sec. 4.2):\n" + recipes
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, epilog=epilog, formatter_class=form)
    add = parser.add_argument
    kinds = ("synthetic", "coco", "posetrack")
    add("--stage", choices=("s", "t"), required=True, help="s first, then t")
    add("--space", choices=vipnas.SPACES, help="stage s: the search space (default tiny)")
    add("--data", choices=kinds, default="synthetic", help="default: drawn people")
    add("--root", help="folder of the real data set, as it is unpacked")
    add("--boxes", help="coco: JSON file of detections, for the official numbers at the end")
    add("--out", help="run folder (default runs/s or runs/t)")
    add("--s", help="stage t: the key frame's network, or a published one (runs/s/vipnas_s.pt)")
    add("--arch", help="train this alone: JSON file, finished network, or a name in vipnas.ARCHS")
    add("--no-fusion", action="store_true", help="stage t, --arch: without its fusions (Fig. 6a)")
    add("--init", help="stage s: start from this finished network, or a published one")
    add("--init-std", type=float, help="stage s: .001 starts as the paper does (default: He's way)")
    add("--frames", type=int, help="stage t: T, non-key frames after a key frame (default 3)")
    add("--clips", type=int, help="train with so many clips")
    add("--steps", type=int, help="training steps")
    add("--finish", type=int, help="steps that what is found then trains on alone (as --steps)")
    add("--batch", type=int, help="clips a step and process")
    add("--lr", type=float, help="highest learning rate")
    add("--rotation", type=float, help="augmentation: largest rotation in degrees")
    add("--scale", type=float, help="augmentation: largest change of size, .1 is a tenth")
    add("--candidates", type=int, help="architectures, or allocations, that the search looks at")
    add("--gflops", type=float, help="budget: of S, or the average over key and non-key frames")
    add("--plain", action="store_true", help="judge each candidate on all of val, as in the paper")
    add("--shared", action="store_true", help="stage t: one architecture for all frames (Fig. 6b)")
    add("--compare", type=int, choices=(0, 1), help="stage t: 1 also trains a single-frame rival")
    add("--seed", type=int, default=0, help="all randomness follows from it")
    add("--resume", action="store_true", help="go on with the run in the run folder, exactly")
    return parser


def read_options(argv=None):
    """Options of the command line, checked, and what they leave out from the recipe."""
    options = option_parser().parse_args(argv)
    check_together(options)
    check_numbers(options)
    # what depends on the network is filled in later, see `fill_in_for`
    recipe = RECIPES[options.data, options.stage]
    if options.finish is None and options.steps and recipe.steps:
        options.finish = round(recipe.finish * options.steps / recipe.steps)
    for name in FROM_RECIPE:
        if getattr(options, name) is None:
            setattr(options, name, getattr(recipe, name))
    # and what depends on the stage
    options.out = options.out or f"runs/{options.stage}"
    if options.stage == "t":
        options.s = options.s or "runs/s/vipnas_s.pt"
        options.frames = options.frames or 3
    elif not options.arch:
        options.space = options.space or "tiny"
    # search.py may be run from elsewhere
    options.root = options.root and os.path.abspath(options.root)
    return options


def check_together(options):
    """UserError where options contradict each other."""
    # what belongs to the other stage
    if options.stage == "s":
        only_t = ("s", "frames", "shared", "no_fusion", "compare")
        forbid(options, only_t, "belongs to --stage t")
    else:
        of_s = ("space", "init", "init_std")
        forbid(options, of_s, "belongs to --stage s; T starts from the network of --s")
        if options.data == "coco":
            raise UserError("COCO has no videos: --stage t needs --data posetrack or synthetic")

    if options.init:
        forbid(options, ("init_std",), "draws new weights, and --init takes those of a file")

    # what belongs to a search, or to one architecture
    if options.arch:
        of_search = ("space", "candidates", "gflops", "plain", "shared", "finish")
        forbid(options, of_search, "means nothing with --arch, which leaves nothing to search")
        options.finish = 0
    else:
        forbid(options, ("no_fusion",), "changes the architectures that --arch names: give it too")

    # what belongs to other data
    if options.data != "coco":
        forbid(options, ("boxes",), "is a file of detected people for --data coco")
    if options.data == "synthetic":
        forbid(options, ("root",), "is a folder of real data: give --data coco or posetrack too")
        return
    forbid(options, ("compare",), "is for drawn people: search S at T's cost, then give --arch")
    if not options.root:
        raise UserError(f"--data {options.data} needs --root, the folder of that data set")


def forbid(options, names, reason):
    """UserError if one of these options is given."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} {reason}")


def check_numbers(options):
    """UserError for numbers that are not finite, or not above zero where they have to be."""
    for name in ("frames", "lr", "gflops", "init_std", *FROM_RECIPE):
        value = getattr(options, name)
        zero_is_fine = name in ("rotation", "scale", "finish")
        if value is None or (value == 0 and zero_is_fine):
            continue
        if not 0 < value < math.inf:
            raise UserError(f"--{name} {value:g} is no number above zero")
    if options.scale and options.scale >= 1:
        raise UserError(f"--scale {options.scale:g} is no share of the size: give less than 1")


def fill_in_for(options, backbone, key_gflops=1):
    """The options whose defaults depend on the network: its budget, and the rate it bears."""
    if options.gflops is None and not options.arch:
        options.gflops = key_gflops * BUDGETS[backbone][options.stage]
    if options.lr is None:
        options.lr = RECIPES[options.data, options.stage].lr
        # ours: the recipes for drawn people are made for tiny, which bears much higher rates
        if options.data == "synthetic" and backbone != "tiny":
            options.lr = 1e-3


# --------------------------------------------------------------------------------- a run's folder


class Run:
    """What the steps of a stage share: options, clips, the key frame's network, the run folder.

        supernet.pt                   weights, optimizer, step, options, log: what --resume needs
        vipnas_s.pt, vipnas_t.pt      the finished networks, which VideoPose.load takes
        arch.json                     their architectures, which --arch takes
        search.json, search.png       every candidate with its cost and AP
        log.jsonl                     a line for each report
        poses.png, poses.gif          predictions on clips of the test split
        finish.pt, rival.*            what is found as it trains on; stage t: its rival
        report.json                   what is printed at the end: costs, AP, paired differences

    Made in steps: `Run` reads who is in val, `open_data` the others, `begin` starts to work.
    """

    def __init__(self, options, device, space, content, key_net=None, about=None):
        rank, self.processes = search.rank_and_world()
        self.is_first = rank == 0  # of the processes: the one that prints and writes
        self.options = options
        self.device = device
        self.space = space
        self.key_net = key_net
        # what --resume compares, see `check_resume`; search.py finds the data with it
        self.config = {**vars(options), "processes": self.processes, **content}
        self.out = Path(options.out)
        self.val = self.open_split("val")
        self.about = about or data.about(self.val.skeleton, space.image_size)

    def open_split(self, split, boxes=None):
        """Clips of a split, cropped to the size of the space."""
        options = self.options
        where = (options.data, options.root, split)
        frames = options.frames + 1 if self.key_net else 1
        return data.open_clips(*where, frames, self.space.image_size, options.clips, boxes)

    def open_data(self):
        """Read or draw everyone; UserError if they, or --resume, do not fit."""
        # val is for the search, test only for the report
        options = self.options
        self.train = self.open_split("train")
        self.test = self.official = self.open_split("test")
        if options.boxes:  # then the official numbers are of these
            self.official = self.open_split("test", options.boxes)
        for clips in (self.train, self.val, self.test):
            search.check_joints(clips, self.about, options.s)

        # as told, or the recipe's epochs over the clips
        epochs = RECIPES[options.data, options.stage].epochs or 0
        by_epochs = math.ceil(epochs * len(self.train) / (options.batch * self.processes))
        self.steps = options.steps or by_epochs

        for name, clips in {"train": self.train, "val": self.val}.items():
            self.config[f"boxes of {name}"] = [len(clips), round(float(clips.boxes.sum()), 3)]
        self.resumed = check_resume(self.out, self.config)

    def begin(self):
        """Say what is run, and crop who is judged."""
        given = [f"{name} {value}" for name, value in vars(self.options).items() if value]
        length = f"{self.steps} steps, {self.processes} processes"
        print("run: " + "  ".join(given) + f"  ({length})", flush=True)
        where = (self.device, self.options.seed, self.key_net)
        self.calibration = search.calibration_set(self.train, *where)
        self.validation = search.validation_set(self.val, *where)


# where things lie does not matter to a run that goes on, but what they are
PATHS = ("out", "root", "boxes", "s", "init", "arch")


def check_resume(out, config):
    """Whether the run in the folder `out` is to be continued. UserError if it was another one."""
    path = out / "supernet.pt"
    if not (config["resume"] and path.is_file()):
        return False
    saved = vipnas.load_checkpoint(path, "supernet").get("config", {})
    for name, value in config.items():
        if saved.get(name) != value and name not in ("resume", *PATHS):
            was = f"{name} was {saved.get(name)}"
            raise UserError(f"--resume goes on with the same options, but in {out} {was}")
    return True


def weights_of(net):
    """What tells the weights of two networks apart."""
    return round(sum(p.double().sum().item() for p in net.parameters()), 6)


@contextlib.contextmanager
def run_folder(out, resumed):
    """Inside, the run folder is there, and is this run's alone (UserError if another one lives in
    it). An older run that is not continued is moved aside."""
    rank, _ = search.rank_and_world()
    with contextlib.ExitStack() as locks:
        if rank == 0:
            if not resumed and out.is_dir() and any(out.iterdir()):
                with data.locked(out):
                    move_aside(out)
            out.mkdir(parents=True, exist_ok=True)
            locks.enter_context(data.locked(out))
            (out / "log.jsonl").touch()
            for unfinished in out.glob("*.tmp"):  # what a killed run was about to write
                unfinished.unlink()
        search.gather(None)  # the other processes wait for it
        yield


def move_aside(out):
    """Rename a folder to the first of OUT.1, OUT.2, ... that is free."""
    number = 1
    while Path(f"{out}.{number}").exists():
        number += 1
    out.rename(f"{out}.{number}")
    print(f"moved the run that was in {out} to {out}.{number}")


# -------------------------------------------------------------------------------------- the stages


def run_stage(options, device):
    """Super-network, search under a budget, finished networks (Secs 3.4.1 to 3.4.3); or what --arch
    names alone."""
    prepare = prepare_s if options.stage == "s" else prepare_t
    run, nets, rivals = prepare(options, device)
    run.open_data()
    with run_folder(run.out, run.resumed):
        run.begin()
        chain = train_and_search(run, nets)
        # the same budget spent on single frames (Table 3)
        rival = train_rival(run, *rivals, chain) if rivals else None
        if run.is_first and run.key_net:
            report_t(run, chain, rival)
        elif run.is_first:
            report_s(run, chain)


def train_and_search(run, nets):
    """The finished networks that a stage ends with, the key frame's first; they are saved."""
    options = run.options
    key_net = run.key_net
    fit(run, nets, run.steps, "supernet.pt", key_net)
    # what trained alone keeps the batch-norm statistics that it was trained with
    if not options.arch:
        sets = (run.validation, run.calibration)
        how = {"key_arch": key_net and key_net.arch, "shared": options.shared}
        archs = find(run, nets[0], options.gflops, *sets, **how)
        # what is cut out of the super-network gets statistics of its own
        nets = search.extract_calibrated(nets[0], archs, run.calibration)
        # ours: what is found trains on, each network of T now with weights of its own. (In the
        # paper S is trained anew, Sec. 4.4: for that, --arch)
        if options.finish:
            fit(run, nets, options.finish, "finish.pt", key_net)
    chain = [key_net, *nets] if key_net else nets
    if run.is_first:
        vipnas.save_finished(run.out / f"vipnas_{options.stage}.pt", chain, run.about)
        # what was found, for --arch: of T, only the non-key frames
        vipnas.write_archs([net.arch for net in nets], run.out / "arch.json")
    return chain


def prepare_s(options, device):
    """The run, [the network to train] and None, as `prepare_t`."""
    if options.arch:
        archs = vipnas.read_archs(options.arch)
        if len(archs) > 1 or archs[0].fusion:
            raise UserError(f"--arch {options.arch} holds non-key frames: that is for --stage t")
        space = Space.of(archs[0])
    else:
        space = vipnas.SPACES[options.space]
    fill_in_for(options, space.backbone)
    content = {}
    if options.arch:
        content["architecture"] = archs[0].to_json()
    if options.init:
        (larger, *_), _ = vipnas.load_networks(options.init)
        content["weights of --init"] = weights_of(larger)
    run = Run(options, device, space, content)
    joints = len(run.about["joints"])  # one heatmap for each that the data name
    if not options.arch:
        # an impossible budget raises here, not after the training
        search.draw_candidates(space, options.gflops, 1, options.seed, joints)

    torch.manual_seed(options.seed)
    net = PoseNet(space, joints)
    if options.init_std:
        draw_weights(net, options.init_std)
    if options.init:
        # the whole of a network of the same architecture, or slices of a larger one
        try:
            net.inherit(larger)
        except ValueError as error:
            raise UserError(f"--init {options.init} is smaller than needed: {error}") from None
    net.to(device, memory_format=torch.channels_last)
    return run, [net], None


def draw_weights(net, std):
    """The paper's initialisation (Sec. 4.2): weights from a Gaussian of mean 0, with std = .001.

    Without it they are He's: of a size with which a layer keeps the scale of its input.
    """
    for layer in net.modules():
        if isinstance(layer, ElasticConv2d | ElasticConvTranspose2d):
            nn.init.normal_(layer.weight, std=std)


def prepare_t(options, device):
    """The run; the networks to train, one for each non-key frame; and, for `train_rival`, what
    `open_rivals` returns. What cannot succeed is refused here."""
    # the key frame's network, pre-trained and fixed (Sec. 3.4.2)
    (key_net, *_), about = vipnas.load_networks(options.s)
    backbone = key_net.arch.backbone
    if backbone not in vipnas.SPACES:
        raise UserError(f"--s {options.s} is a {backbone}, which lies in no search space")
    size = tuple(about["size"])
    fill_in_for(options, backbone, vipnas.cost(key_net.arch, size, key_net.joints).gflops)

    # the super-network is everything not larger, with a fusion after any stage, and starts from
    # its weights
    space = replace(vipnas.SPACES[backbone], image_size=size).within(key_net.arch)
    torch.manual_seed(options.seed)
    supernet = PoseNet(space, key_net.joints).inherit(key_net)
    content = {"weights of --s": weights_of(key_net)}
    if options.arch:
        # each frame trains weights of its own
        archs = read_allocation(options, key_net.arch, space)
        content["architectures"] = [arch.to_json() for arch in archs]
        nets = [supernet.extract(arch) for arch in archs]
    else:
        # all frames share the weights. An impossible budget raises here, not after the training
        how = (key_net.joints, options.frames, key_net.arch, options.shared)
        archs = search.draw_candidates(space, options.gflops, 1, options.seed, *how)[0]
        nets = [supernet] * options.frames
    # the rival's budget, if what is found costs as much as these
    budget = average_gflops([key_net.arch, *archs], space, key_net.joints)
    rivals = open_rivals(options, space.image_size, budget)
    for net in (key_net, *nets):
        net.to(device, memory_format=torch.channels_last)
    return Run(options, device, space, content, key_net, about), nets, rivals


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
    if options.no_fusion:
        return [replace(arch, fusion=None) for arch in archs]
    return archs


def open_rivals(options, size, budget):
    """The S super-network beside --s, for the comparison of Table 3, and how many images --s saw
    after it was cut out of that; or None.

    Drawn people are compared wherever that is possible; with --compare 1 it has to be.
    """
    by_default = options.data == "synthetic" and not options.arch
    if options.compare == 0 or not (options.compare or by_default):
        return None
    path = Path(options.s).with_name("supernet.pt")
    try:
        supernet, key_net, contents = vipnas.load_supernet(path)
        if key_net or supernet.space.image_size != size:
            raise UserError(f"{path} is not the super-network that {options.s} was found in")
        search.draw_candidates(supernet.space, budget, 1, options.seed, supernet.joints)
        config = contents["config"]
        return supernet, config["finish"] * config["batch"] * config["processes"]
    except UserError as error:
        if options.compare:
            raise
        print(f"no comparison with a single-frame network: {error}")
        return None


def average_gflops(archs, space, joints):
    """What a frame costs on average."""
    return float(np.mean([vipnas.cost(arch, space.image_size, joints).gflops for arch in archs]))


def find(run, supernet, budget, validation, calibration, **how):
    """The architectures that `search.find` finds (Secs 3.4.1, 3.4.3), with the run's options."""
    options = run.options
    where = (validation, calibration, run.out, options.seed)
    archs, _ = search.find(supernet, budget, options.candidates, *where, plain=options.plain, **how)
    return archs


def train_rival(run, supernet, images, chain):
    """The best single-frame network of T's average cost, for every frame (Table 3).

    It is found in the S super-network by the same search, and trained on as T was: on the same
    frames of the same clips, at the same rate, as many steps; and because T started from S, which
    had seen so many `images` by itself, these as well.
    """
    options = run.options
    # it is searched on single frames, as S was, and drawn people are alike everywhere
    size = run.train.size
    people = data.SyntheticClips("train", min(256, options.clips), 1, size)
    calibration = search.calibration_set(people, run.device, options.seed)
    people = data.SyntheticClips("val", len(run.val), 1, size)
    validation = search.validation_set(people, run.device, options.seed)

    supernet.to(run.device, memory_format=torch.channels_last)
    # T's frames cost this much on average, the key frame among them
    budget = average_gflops([net.arch for net in chain], run.space, supernet.joints)
    # ours: in a narrow band, so that it costs as much as T and not up to a tenth less
    archs = find(run, supernet, budget, validation, calibration, band=0.98, name="rival")
    (rival,) = search.extract_calibrated(supernet, archs, calibration)
    before = math.ceil(images / (options.frames * options.batch * run.processes))
    fit(run, [rival] * options.frames, before + run.steps + options.finish, "rival.pt")
    return rival


# ------------------------------------------------------------------------------------- the reports


def report_s(run, nets):
    """What was found: its cost, and its AP on the test split, which no decision has looked at."""
    name = f"--arch {run.options.arch}"[-24:] if run.options.arch else "S-ViPNAS"
    print(f"\n{name}")
    costs = search.show_frames(nets, run.about)
    log(run, event="found", archs=[json.loads(nets[0].arch.to_json())])
    test = search.EvaluationSet(run.test, run.device)
    keypoints = search.predict(nets, test)  # (N, 1, K, 3)
    report = compare(run, test, {name: keypoints}, {name: costs})
    conclude(run, nets, keypoints, report, "poses.png")


def report_t(run, chain, rival):
    """What was found, and the rows of Tables 1 and 3: T, S on every frame, the single-frame rival
    of T's average cost; and the key frame's pose copied, which any of them has to beat."""
    print("\nT-ViPNAS")
    costs = {"T-ViPNAS": search.show_frames(chain, run.about)}
    log(run, event="found", archs=[json.loads(net.arch.to_json()) for net in chain[1:]])
    test = search.EvaluationSet(run.test, run.device)
    keypoints = search.predict(chain, test)  # (N, T + 1, K, 3), the key frame first
    found = {"T-ViPNAS": keypoints}
    # what S costs is known: it is the key frame's network
    costs["S on every frame"] = {name: values[:1] for name, values in costs["T-ViPNAS"].items()}
    found["S on every frame"] = search.predict(chain[:1] * len(chain), test)
    if rival:
        costs["rival on every frame"] = search.frame_costs([rival], run.about)
        found["rival on every frame"] = search.predict([rival] * len(chain), test)
    # where the joints were in the key frame's image, there they are said to be in every frame
    found["key frame's pose, copied"] = np.repeat(keypoints[:, :1], len(chain), axis=1)
    report = compare(run, test, found, costs)
    conclude(run, chain, keypoints, report, "poses.gif")


def compare(run, test, found, costs):
    """Print {name: keypoints (N, F, K, 3)} on the test split: AP of all frames, of some, and of
    each part of the body; and by how much the first is better. costs: {name: frame_costs}.

    Returns all that, for report.json.
    """
    columns = {"AP": slice(None)}
    if run.test.frames > 1:
        columns["non-key"] = slice(1, None)
        for t in range(1, run.test.frames):
            columns[f"t = {t}"] = slice(t, t + 1)
    titles = "".join([f"{title:>9}" for title in columns])
    print(f"\n{f'{len(run.test)} test clips':25}{search.COST_TITLES}{titles}")

    rows = {}
    points = {}
    for name, keypoints in found.items():
        passed = search.oks_accuracy(keypoints, run.test, test.indices, test.first)
        passed = np.ma.masked_invalid(passed)  # (N, F), without people who are not labelled
        points[name] = passed
        ap = {title: float(100 * passed[:, frames].mean()) for title, frames in columns.items()}
        numbers = search.format_costs(costs[name]) if name in costs else " " * 35
        print(f"{name:25}{numbers}" + "".join([f"{value:9.1f}" for value in ap.values()]))
        rows[name] = {key: values[-1] for key, values in costs.get(name, {}).items()}
        rows[name]["ap"] = ap
        rows[name]["standard_error"] = standard_error(passed.mean(axis=1))
        rows[name]["ap_by_part"] = search.ap_by_part(keypoints, run.test, test.indices, test.first)

    ours, *others = rows
    show_parts(rows)
    print(f"\nstandard error of {ours}'s AP: {rows[ours]['standard_error']:.1f}")
    report = {"rows": rows, "pairs": [compare_pair(points, ours, other) for other in others]}
    if others and run.options.data == "synthetic":
        report["conditions"] = compare_conditions(run.test.conditions, points)
    return report


def show_parts(rows):
    """Print a column for each part of the body."""
    titles = [f"{part:>9}" for part in next(iter(rows.values()))["ap_by_part"]]
    print(f"\n{'AP of single joints':25}" + " ".join(titles))
    for name, row in rows.items():
        values = row["ap_by_part"].values()
        cells = [f"{ap:{len(title)}.1f}" for ap, title in zip(values, titles, strict=True)]
        print(f"{name:25}" + " ".join(cells))


def compare_pair(points, ours, other):
    """Print by how much `ours` is better than `other` on non-key frames, paired clip by clip:
    their difference does not feel which clips are hard for both. Returns it for report.json."""
    better, error = paired(points[ours][:, 1:], points[other][:, 1:])
    print(f"{ours} against {other}: {better:+.1f} +- {error:.1f} AP (non-key frames)")
    return {"ours": ours, "other": other, "better": better, "standard_error": error}


def paired(ours, other):
    """(difference of two AP, its standard error) from points (N, T), where clips are independent
    and the frames of one are not."""
    difference = ours - other
    return float(100 * difference.mean()), standard_error(difference.mean(axis=1))


def compare_conditions(conditions, points):
    """Print where memory helps: AP on the non-key frames of each condition, of which a frame can be
    in several, and by how much the first network is better there. Returns that, for report.json.

    conditions: (N, F, 4) bool, see `data.CONDITIONS`; points: {name: `search.oks_accuracy`}.
    """
    groups = {"clear": ~conditions.any(-1)}
    for i, condition in enumerate(data.CONDITIONS):
        groups[condition] = conditions[..., i]
    ours, *others = points
    table = {}
    for condition, inside in groups.items():
        inside = inside[:, 1:]  # (N, T)
        if not inside.any():
            continue
        own = {name: np.ma.masked_where(~inside, points[name][:, 1:]) for name in points}
        table[condition] = {
            "frames": int(inside.sum()),
            "ap": {name: float(100 * own[name].mean()) for name in points},
            "better": {name: paired(own[ours], own[name]) for name in others},
        }

    print(f"\n{'AP of non-key frames':25}" + "".join([f"{title:>13}" for title in table]))
    for name in points:
        print(f"{name:25}" + "".join([f"{group['ap'][name]:13.1f}" for group in table.values()]))
    print(f"{ours} against")
    for name in others:
        cells = ["{:+.1f} +- {:.1f}".format(*group["better"][name]) for group in table.values()]
        print(f"{name:25}" + "".join([f"{cell:>13}" for cell in cells]))
    print(f"{'frames':25}" + "".join([f"{group['frames']:13,}" for group in table.values()]))
    return table


def standard_error(points):
    """Of a mean AP, in percent, from one number for each person or clip."""
    return float(100 * points.std() / math.sqrt(max(1, points.count())))


def conclude(run, nets, keypoints, report, name):
    """The official numbers, on real data; report.json; and a picture `name` of predictions
    (N, F, K, 3) on test clips, a moving one of several frames."""
    if run.options.data != "synthetic":
        report["official"] = search.official(nets, run.official, run.device, run.out)
    with data.whole_file(run.out / "report.json") as file:
        file.write(as_json(report, indent=1).encode())
    # two rows of six people
    batch = run.test.batch(range(min(12, len(keypoints))))
    frames = []
    for t in range(keypoints.shape[1]):
        poses = []
        for i, crop in enumerate(batch.images[:, t]):
            pose = data.transform(keypoints[i, t], batch.matrices[i, t])
            poses.append(draw_prediction(crop, pose, run.test.skeleton))
        frames.append(data.sheet([row for row in (poses[:6], poses[6:]) if row]))
    data.save_image(frames if len(frames) > 1 else frames[0], run.out / name)
    print(f"wrote vipnas_{run.options.stage}.pt, arch.json and {name} to {run.out}")


def draw_prediction(crop, keypoints, skeleton):
    """A crop (3, H, W) at twice its size, with a pose (K, 3) that is in pixels of the crop."""
    image = Image.fromarray(crop.permute(1, 2, 0).numpy())
    image = image.resize((2 * image.width, 2 * image.height))
    to_large = [[2, 0, 0.5], [0, 2, 0.5]]  # between the centres of pixels
    return data.draw_pose(image, data.transform(keypoints, to_large), skeleton)


# ------------------------------------------------------------------------------- the command line


@contextlib.contextmanager
def processes():
    """Make one group of the processes that torchrun started; gives the device of this one.

    Only the first prints; the others wait while it reports, which can take hours. If one fails, so
    do all: the first to fail says why.
    """
    gpus = torch.cuda.device_count()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(f"cuda:{local}" if gpus else "cpu")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    end_with_launcher()
    store, rank, world = next(dist.rendezvous("env://"))
    try:
        if gpus:
            torch.cuda.set_device(device)
        backend = "nccl" if gpus else "gloo"
        dist.init_process_group(backend, None, timedelta(hours=12), world, rank, store)
        with contextlib.redirect_stdout(None if rank else sys.stdout):
            yield device
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt):
        # torchrun ends all processes as soon as one has ended: let that be the one that spoke
        if store.add("failed", 1) > 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(2)
            sys.exit(1)
        raise


def end_with_launcher():
    """Stop this process, as SIGTERM does, when the one that started it has ended: torchrun, if it
    is killed, has no time to stop them itself."""
    launcher = os.getppid()

    def watch():
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(120)  # for the step, and to save
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(argv=None):
    """Run a stage. Whatever the user can mend is one sentence and exit code 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops a run as Ctrl-C does
    begun = time.time()
    try:
        with processes() as device:
            options = read_options(argv)
            run_stage(options, device)
            print(f"all done in {(time.time() - begun) / 60:.1f} minutes")
    except (UserError, OSError) as error:
        # what a loader process raised carries its traceback before the sentence
        sentence = str(error).strip().splitlines()[-1]
        sys.exit("train: " + sentence.removeprefix("data.UserError: "))
    except KeyboardInterrupt:
        sys.exit("train: stopped; what was saved is kept, and --resume goes on from there")


if __name__ == "__main__":
    main()
