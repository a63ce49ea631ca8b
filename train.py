"""Training, and the whole way from nothing to a searched video pose estimator (Sec. 3.4).

    python train.py --stage s        # super-network, search, S-ViPNAS: the key frame's network          -> runs/s
    python train.py --stage t        # T super-network inside it, search, T-ViPNAS: the frames between   -> runs/t

Both stages train the same way. For every batch (sandwich rule and in-place distillation, [60, 61]):

    1. biggest network     learns from the ground truth
    2. smallest network    learns from the ground truth and from the biggest one's prediction, equally
    3. N = 2 random ones   likewise
    4. one step with the sum of all their gradients

In stage s a "network" is one architecture on one frame. In stage t it is a chain of T architectures (eqs 1-2): the
fixed S network's heatmaps start it, each frame's own prediction goes to the next, every frame has its loss.

    python train.py --stage s --space resnet50 --data coco --root DIR                      # the paper's recipe
    python train.py --stage s --arch FILE --data posetrack --root DIR --init CKPT          # one architecture alone
    python train.py --stage t --s CKPT --data posetrack --root DIR --frames 3
    python train.py --stage s --clips 16 --steps 2 --candidates 4                          # everything can be small
    python train.py --benchmark resnet50                                                   # what weight sharing costs
    torchrun --nproc_per_node=8 -- train.py --stage t --s CKPT ...          # several GPUs, or machines that share runs/
"""
import argparse, contextlib, copy, dataclasses, importlib, json, math, os, pathlib, random, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

import data, search, vipnas
from search import refuse
from vipnas import Arch, PoseNet, Space, cost

# ---------------------------------------------------------------------------------------------- options and recipes
# name: type, default (what is None comes from the recipe of the data and stage), help
OPTIONS = {
    "stage": (str, None, "s: super-network and key-frame network; t: temporal networks for the frames between"),
    "space": (str, "tiny", f"search space of stage s: {', '.join(vipnas.SPACES)}"),
    "data": (str, "synthetic", "synthetic, coco or posetrack"),
    "root": (str, None, "folder of the real data set, as it is unpacked"),
    "boxes": (str, None, "coco: JSON file of detected people for the official numbers at the end (default: the annotated boxes)"),
    "out": (str, None, "run folder (default runs/s or runs/t)"),
    "s": (str, "runs/s/vipnas_s.pt", "stage t: the finished key-frame network, ours or a published S-ViPNAS checkpoint"),
    "arch": (str, None, f"stage s: train one architecture alone, without search: a JSON file or {', '.join(vipnas.ARCHS)}"),
    "init": (str, None, "stage s: start from the weights of this finished network, ours or a published S-ViPNAS checkpoint"),
    "frames": (int, 3, "T, non-key frames after a key frame"),
    "clips": (int, None, "use so many training clips"),
    "steps": (int, None, "training steps (default: the recipe's)"),
    "finish": (int, None, "stage t: steps that the super-network then trains on with the found allocation alone"),
    "batch": (int, None, "clips a step"),
    "lr": (float, None, "highest learning rate"),
    "rotation": (float, None, "augmentation: largest rotation in degrees"),
    "candidates": (int, None, "architectures (or allocations) the search looks at"),
    "gflops": (float, None, "budget, the paper's GFLOPs: of the S network, or the average over key and non-key frames"),
    "budget_ms": (float, None, "the same budget in milliseconds, measured on this machine (deployed, one CPU thread)"),
    "plain": (bool, False, "judge every candidate on all of val, as the paper does, instead of in a race"),
    "shared": (bool, False, "stage t: one architecture for all non-key frames (ablation)"),
    "no_fusion": (bool, False, "stage t: non-key frames without the last frame's heatmaps (ablation)"),
    "compare": (int, None, "stage t: 1 trains a single-frame rival of the same GFLOPs too (default: 1 for drawn people, else 0)"),
    "seed": (int, 0, "all randomness follows from it"),
    "resume": (bool, False, "go on with the run in the run folder, exactly (with as many processes and threads)"),
    "benchmark": (str, None, "a space's name: only time a sandwich step beside the same networks alone; ap: time COCO's AP"),
}

# what left-out options are, by data and stage; `epochs` stand for steps. Sec. 4.2; ours for drawn people, minutes on two cores
RECIPES = {
    ("coco", "s"): dict(batch=64, lr=1e-3, rotation=40, candidates=500, finish=0, epochs=250, milestones=(200, 230)),
    ("posetrack", "s"): dict(batch=64, lr=1e-4, rotation=40, candidates=500, finish=0, epochs=20, milestones=(10, 15)),
    ("posetrack", "t"): dict(batch=16, lr=1e-3, rotation=40, candidates=500, finish=0, epochs=60),
    ("synthetic", "s"): dict(batch=32, lr=2e-2, rotation=10, candidates=48, finish=0, steps=1200, clips=16000),
    ("synthetic", "t"): dict(batch=16, lr=1e-2, rotation=10, candidates=48, finish=500, steps=500, clips=5000),
}

def describe(batch, lr, rotation, candidates, finish, steps=None, clips=None, epochs=None, milestones=()):
    """A recipe in words."""
    falls = "/10 at epochs {} and {} of {}".format(*milestones, epochs) if milestones else "falling by cosine"
    return ((f"{steps} steps" if steps else f"{epochs} epochs") + f" + {finish} of the found chain" * bool(finish) +
            f", Adam {lr:g} {falls}, batch {batch}, rotation {rotation} degrees, flip, {candidates} candidates" +
            f", {clips} clips" * bool(clips))

# GFLOPs of S and average of T: Table 1; HRNet's S from Table 2, its T ours, the same share as ResNet's
BUDGETS = {"tiny": (.0180, .0150), "resnet50": (1.44, .82), "mobilenetv3": (.69, .37), "hrnet_w32": (5.64, 3.2)}
FROM_RECIPE = "batch", "rotation", "clips", "candidates", "steps", "finish"

def read_options(argv):
    """Options from the command line, checked against each other, what is missing filled in from the recipe."""
    table = "\n".join(f"  --data {data:9} --stage {stage}: {describe(**recipe)}" for (data, stage), recipe in RECIPES.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog=f"recipes (every number can be given as an option; real data: Sec. 4.2):\n{table}")
    for name, (kind, default, text) in OPTIONS.items():
        how = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
        text += f" (default {default})" * (default not in (None, False))
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **how)
    options = parser.parse_args(argv)
    if options.benchmark:
        options.stage, options.space = "s", options.space if options.benchmark == "ap" else options.benchmark
    stage, space, source = options.stage, options.space, options.data
    refuse(stage not in ("s", "t"), "say which stage to run: --stage s first, then --stage t")
    refuse(space not in vipnas.SPACES, f"there is no space '{space}'; --space is one of {', '.join(vipnas.SPACES)}")
    refuse((source, stage) == ("coco", "t"), "COCO has no videos: stage t needs --data posetrack or synthetic")
    refuse((source, stage) not in RECIPES, f"there is no data set '{source}'; --data is one of synthetic, coco, posetrack")
    refuse(options.boxes and source != "coco", "--boxes, a file of detected people, belongs to --data coco")
    refuse((source == "synthetic") == (options.root is not None),
           "--root names the folder of real data: give it with --data coco or posetrack, and only then")
    refuse(stage == "t" and (options.arch or options.init),
           "--arch and --init belong to stage s; stage t starts from the network that --s names")
    refuse(options.arch and (options.gflops or options.budget_ms or options.candidates),
           "--arch trains one architecture, so there is nothing to search: leave out --gflops, --budget-ms and --candidates")
    refuse(options.gflops and options.budget_ms, "--gflops and --budget-ms are two units of one budget: give one of them")
    refuse(stage == "s" and (options.shared or options.no_fusion), "--shared and --no-fusion belong to stage t")
    for name in ("frames", "lr", "gflops", "budget_ms", *FROM_RECIPE):
        value = getattr(options, name)
        refuse(value is not None and (value < 0 or value == 0 and name not in ("rotation", "finish")),
               f"--{name.replace('_', '-')} must be above zero")
        if value is None and name in FROM_RECIPE:
            setattr(options, name, RECIPES[source, stage].get(name))
    world = search.ranks()[1]
    refuse(options.batch % world, f"--batch {options.batch} cannot be shared equally by {world} processes: choose a multiple")
    options.compare = int(source == "synthetic") if options.compare is None else options.compare
    options.out = options.out or f"runs/{stage}"
    return options

def open_clips(options, frames, size):
    """The clips of train, val (for the search) and test (for the report); of drawn people, the last two have at most 400."""
    judged = min(400, 4 * options.clips) if options.data == "synthetic" else None
    return [data.open_clips(options.data, options.root, split, frames, size, count)
            for split, count in (("train", options.clips), ("val", judged), ("test", judged))]

# ---------------------------------------------------------------------------------------------- the training loop
class Feed:
    """This process's share of batch number `step`. What that holds, and how it is augmented, depends on (seed, step) alone."""
    def __init__(self, clips, options):
        rank, world = search.ranks()
        self.clips, self.options, self.share = clips, options, slice(rank, None, world)
    def __getitem__(self, step):
        count, size, seed = len(self.clips), self.options.batch, self.options.seed  # places in an endless row of epochs:
        indices = [_order(seed, p // count, count)[p % count] for p in range(step * size, (step + 1) * size)]
        return self.clips.batch(indices, random.Random(f"{seed} augment {step}"), self.options.rotation, self.share)

def unpack(batch, clips, device):
    """(images, targets, weights) of a data.Batch on the device, as `train_step` wants them."""
    return search.to_device(batch.images, device), *data.targets(batch.joints.to(device), clips.size, cell=clips.cell)

@lru_cache(maxsize=4)
def _order(seed, epoch, count):
    return random.Random(f"{seed} epoch {epoch}").sample(range(count), count)

def steps_of(options, clips):
    """Training steps: as told, or the recipe's epochs over the clips."""
    return options.steps or math.ceil(RECIPES[options.data, options.stage]["epochs"] * len(clips) / options.batch)

def recipe_of(options, backbone):
    """The recipe as this run follows it. Only `tiny` bears the high rates of drawn people."""
    recipe = RECIPES[options.data, options.stage]
    rate = options.lr or (recipe["lr"] if options.data != "synthetic" or backbone == "tiny" else 1e-3)
    return {**recipe, "lr": rate, **{name: getattr(options, name) for name in FROM_RECIPE}}

def learning_rate(step, steps, options, backbone):
    """Cosine to zero after a short rise, or the recipe's milestones."""
    recipe = recipe_of(options, backbone)
    if "milestones" in recipe:
        return recipe["lr"] * .1 ** sum(step >= steps * m / recipe["epochs"] for m in recipe["milestones"])
    rise = min(1, (step + 1) / max(1, min(100, steps // 10)))
    return recipe["lr"] * rise * .5 * (1 + math.cos(math.pi * step / steps))

def heatmap_loss(predicted, wanted, weights):
    """Mean squared error over joints that count: (B, F, K, h, w) against the same, weights (B, F, K)."""
    return 1000 * ((predicted - wanted) ** 2).mean((-1, -2)).mul(weights).mean()  # without 1000, too small for Adam's epsilon

def sandwich(space, frames, rng, count=2):
    """The chains of one step, tuples of `frames` architectures: biggest and smallest, of which only the fusions are random, and
    `count` random ones, of which every frame draws all its own."""
    ends = [tuple(dataclasses.replace(arch, fusion=rng.choice(space.fusions)) for _ in range(frames))
            for arch in (space.largest(), space.smallest())]
    return ends + [tuple(space.sample(rng) for _ in range(frames)) for _ in range(count)]

def train_step(nets, chains, images, targets, weights, heatmaps):
    """Gradients of one step, and the losses of its chains. images (B, F, 3, H, W), targets (B, F, K, H/4, W/4) and weights
    (B, F, K) are of the frames to predict; heatmaps (B, K, H/4, W/4) of the key frame before them, for T."""
    soft, losses = None, []
    for archs in chains:
        predicted = search.propagate(nets, images, heatmaps, archs).float()
        loss = heatmap_loss(predicted, targets, weights)
        if soft is None:                       # biggest: the ground truth alone
            soft = predicted.detach()
        else:                                  # the others: distilled from it, with equal weight
            loss = (loss + heatmap_loss(predicted, soft, torch.ones_like(weights))) / 2
        loss.backward()                        # gradients add up over the chains; the caller makes one step of them
        losses.append(loss.item())
    return losses

class Team:
    """The cores of a CPU, each with a part of every batch and a copy of the networks (the same weights, its own gradients), as
    small convolutions keep few threads busy; a GPU is a team of one. Batch norm sees the part, as it does on several GPUs."""
    def __init__(self, nets, batch, device):
        cores = 1 if device.type == "cuda" else torch.get_num_threads()
        count = max(n for n in range(1, cores + 1) if n == 1 or (batch % n == 0 and batch // n >= 8))
        nets = torch.nn.ModuleList(nets)
        own = lambda: {id(p): torch.nn.Parameter(p.data) for p in nets.parameters()}  # what deepcopy takes in their place
        self.copies = [nets] + [copy.deepcopy(nets, own()) for _ in range(count - 1)]
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(cores // count,))
    def step(self, chains, *batch):
        """`train_step` on all parts at once; the gradients end up in the networks themselves."""
        work = lambda i: train_step(self.copies[i], chains, *(None if x is None else x[i::count] for x in batch))
        count = len(self.copies)
        if count == 1:
            return work(0)
        losses = list(self.pool.map(work, range(count)))
        for parameter, *others in zip(*(nets.parameters() for nets in self.copies)):
            if parameter.grad is not None:  # of the mean loss over all parts
                parameter.grad = torch.stack([parameter.grad, *(p.grad for p in others)]).sum(0).div_(count)
            for p in others:
                p.grad = None
        return np.mean(losses, 0).tolist()

def average(parameters, losses, asked):
    """The means over all processes of gradients (in place) and losses, and whether any is asked to stop: one flat reduction."""
    if search.ranks()[1] == 1:
        return losses, bool(asked)
    gradients = [p.grad for p in parameters if p.grad is not None]  # the same ones everywhere, as the chains are
    everything = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([*losses, len(asked)])])
    dist.all_reduce(everything)
    everything /= search.ranks()[1]
    *means, rest = everything.split([g.numel() for g in gradients] + [len(losses) + 1])
    for gradient, mean in zip(gradients, means):
        gradient.copy_(mean.view_as(gradient))
    *losses, asked = rest.tolist()
    return losses, asked > 0

def fit(nets, chains_of, clips, options, steps, path, key_net=None, judge=None, about=None):
    """Train `nets` and keep them in `path`: one for each frame but the key frame; often the same super-network several times.
    chains_of(rng) -> the step's chains, biggest first; judge() -> AP for the progress line; about: what else to save. The first
    process reports, and saves about twice a minute and on Ctrl-C; --resume goes on from there to the same result."""
    (rank, world), device, first = search.ranks(), next(nets[0].parameters()).device, clips.frames - len(nets)
    own, parameters = list(dict.fromkeys(nets)), list(torch.nn.ModuleList(nets).train().parameters())  # each network once
    optimizer, start = torch.optim.Adam(parameters, fused=device.type == "cuda"), 0
    if options.resume and path.is_file():
        old = vipnas.load(path, "supernet")
        for net, state in zip(own, old["nets"]):
            vipnas.restore(net, state, path)
        optimizer.load_state_dict(old["optimizer"])
        start = old["step"]
    batches = search.loader(Feed(clips, options), range(start, steps), clips, device)
    team, begun, saved = Team(nets, options.batch // world, device), time.time(), time.time()
    asked = []  # Ctrl-C waits for the step to be complete; a second one does not
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(signal.signal(signal.SIGINT, signal.default_int_handler)))
    try:
        for step, batch in enumerate(batches, start):
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, options, nets[0].space.backbone)
            images, targets, weights = unpack(batch, clips, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                with torch.no_grad():
                    heatmaps = key_net(images[:, 0]) if key_net else None
                chains = chains_of(random.Random(f"{options.seed} arch {step}"))
                losses = team.step(chains, images[:, first:], targets[:, first:], weights[:, first:], heatmaps)
            losses, stop = average(parameters, losses, asked)
            optimizer.step()
            optimizer.zero_grad()
            if rank == 0 and ((step + 1) % max(1, steps // 10) == 0 or step + 1 == steps):
                report(path, step + 1, steps, losses, judge, (time.time() - begun) / (step + 1 - start), options)
            if rank == 0 and (stop or step + 1 == steps or time.time() - saved > 30):
                vipnas.save({"kind": "supernet", "step": step + 1, "nets": [net.state_dict() for net in own],
                             "optimizer": optimizer.state_dict(), "options": vars(options), **(about or {})}, path)
                saved = time.time()
            if stop:
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:  # during the last step
        raise KeyboardInterrupt

def report(path, step, steps, losses, judge, seconds, options):
    """The progress line, on screen and in log.jsonl."""
    ap, left = judge() if judge else None, seconds * (steps - step)
    print(f"{path.stem} step {step}/{steps}  loss {' '.join(f'{x:.2f}' for x in losses)}{f'  val AP {ap:.1f}' if judge else ''}"
          f"  {options.batch / seconds:.0f} clips/s  {left // 60:.0f}:{left % 60:02.0f} left", flush=True)
    log(options, step=step, losses=losses, ap=ap, phase=path.stem)

def log(options, **entry):
    """Add a line to log.jsonl. A step or event that comes again after --resume takes the place of its first line."""
    path = pathlib.Path(options.out, "log.jsonl")
    entries = [*map(json.loads, path.read_text().splitlines() if path.is_file() else []), entry]
    lines = {tuple(e.get(k) for k in ("phase", "step", "event", "name")): json.dumps(e) + "\n" for e in entries}
    with vipnas.replacing(path) as file:
        file.write("".join(lines.values()).encode())

# ---------------------------------------------------------------------------------------------- stage s
def stage_s(options, device):
    """Super-network, search under a budget, S-ViPNAS (Sec. 3.4.1); or one given architecture alone."""
    arch = vipnas.read_arch(options.arch) if options.arch else None
    space = Space.of(arch) if arch else vipnas.SPACES[options.space]
    clock = search.clock_of(options, pathlib.Path(options.out), space.image_size, fresh=not options.resume)
    if not arch:
        budget = options.budget_ms or options.gflops or BUDGETS[options.space][0]
        search.sample(space, budget, 1, random.Random(0), clock)  # an impossible budget is said before anything is trained
    torch.manual_seed(options.seed)
    net = PoseNet(space).to(device, memory_format=torch.channels_last)
    if options.init:
        (larger, *_), _ = search.load_networks(options.init)
        try:
            net.inherit(larger.to(device))
        except ValueError as error:
            raise ValueError(f"--init {options.init}: its network is smaller than the one to train ({error})") from None
    train, val, test = open_clips(options, 1, space.image_size)
    people = data.open_clips("coco", options.root, "test", 1, space.image_size, boxes=options.boxes) if options.boxes else test
    about = data.about(train.skeleton, space.image_size)
    out = start_folder(options, space.backbone)
    biggest = (space.largest(),)
    calibration, sight = search.sights(train, val, device)
    fit([net], lambda rng: [biggest] if arch else sandwich(space, 1, rng), train, options, steps_of(options, train),
        out / "supernet.pt", judge=lambda: search.percent(search.judge(net, biggest, calibration, sight)),
        about={"stage": "s", "space": space.backbone, "arch": arch and arch.to_json(), "about": about})
    archs, table = (biggest, []) if arch else search.find(net, budget, options, calibration, sight, out, clock=clock)
    nets = search.finish(net, archs, calibration)
    if search.ranks()[0]:
        return  # the rest is the first process's
    vipnas.save_finished(out / "vipnas_s.pt", nets, about)
    unseen = search.Sight(test, 0, device)
    keypoints = search.predict(nets, unseen)
    points, c = search.score(keypoints, test, 0), cost(archs[0], space.image_size)
    print(f"\nS-ViPNAS: {archs[0]}\n{c.params:,} parameters, {c.gflops:.4f} GFLOPs ({c.macs / 1e6:.1f} M multiply-adds), "
          f"{vipnas.frame_times(nets)[0]:.2f} ms deployed on one CPU thread")
    print(f"test AP {search.percent(points):.1f} +- {standard_error(points):.1f} ({len(points)} people)")
    log(options, event="found", arch=archs[0].to_json(), gflops=c.gflops, test_ap=search.percent(points))
    if len(table) > 1:  # did the search choose well, among those that cost about as much?
        found = table[search.best(table)]
        near = sorted((row for row in table if row is not found), key=lambda row: abs(row["gflops"] - found["gflops"]))[:9]
        costs, others = [row["gflops"] for row in near], [[Arch.from_json(json.dumps(a)) for a in row["archs"]] for row in near]
        ap = np.median([search.percent(search.judge(net, archs, calibration, unseen)) for archs in others])
        print(f"the {len(near)} candidates of nearest cost ({min(costs):.4f} to {max(costs):.4f} GFLOPs): "
              f"median test AP {ap:.1f}")
        log(options, event="rivals", median_test_ap=ap)
    conclude(options, nets, people, test, keypoints, device, out / "poses.png")

# ---------------------------------------------------------------------------------------------- stage t
def stage_t(options, device):
    """T super-network inside the S network, multi-frame propagation, allocation search, T-ViPNAS (Secs 3.4.2, 3.4.3)."""
    (key_net, *_), about = search.load_networks(options.s)
    key_net = key_net.to(device, memory_format=torch.channels_last)
    mother, frames, size = key_net.arch, options.frames, tuple(about["size"])
    refuse(mother.backbone not in vipnas.SPACES,
           f"{options.s} is a {mother.backbone}, which no search space has; stage t needs one of {', '.join(vipnas.SPACES)}")
    space = dataclasses.replace(vipnas.SPACES[mother.backbone], image_size=size).within(mother)
    clock = search.clock_of(options, pathlib.Path(options.out), size, fresh=not options.resume)
    budget, key_cost = options.budget_ms or options.gflops or BUDGETS[mother.backbone][1], cost(mother, size).gflops
    search.draw_candidates(space, budget, mother, frames, 1, options, random.Random(0), clock)  # impossible? say it now
    torch.manual_seed(options.seed)
    net = PoseNet(space).inherit(key_net).to(device, memory_format=torch.channels_last)
    train, val, test = open_clips(options, frames + 1, size)
    for clips in (train, val, test):
        search.check_joints(clips, about, options.s)
    out = start_folder(options, mother.backbone, key_net)
    biggest = (space.largest(),) * frames
    calibration, sight = search.sights(train, val, device, 1, key_net)
    fit([net] * frames, lambda rng: sandwich(space, frames, rng), train, options, steps_of(options, train),
        out / "supernet.pt", key_net, lambda: search.percent(search.judge(net, biggest, calibration, sight)),
        {"stage": "t", "space": mother.backbone, "arch": mother.to_json(), "key": key_net.state_dict(), "about": about})
    archs, _ = search.find(net, budget, options, calibration, sight, out, clock=clock)
    if options.finish:  # ours: a short training of the found chain alone, still with shared weights
        fit([net] * frames, lambda rng: [archs], train, options, options.finish, out / "finish.pt", key_net)
    nets = search.finish(net, archs, calibration)
    average = (key_cost + sum(cost(a, size).gflops for a in archs)) / (frames + 1)
    if search.ranks()[0] == 0:
        times = vipnas.frame_times([key_net, *nets])
        print(f"\nT-ViPNAS, on average {average:.4f} GFLOPs and {np.mean(times):.2f} ms a frame (deployed, one CPU thread)")
        for t, (a, ms) in enumerate(zip((mother, *archs), times)):
            print(f"  {f't = {t}' if t else 'key frame':9}  {a}  ({cost(a, size).gflops:.4f} GFLOPs, {ms:.2f} ms)")
        vipnas.save_finished(out / "vipnas_t.pt", [key_net, *nets], about)
        log(options, event="found", archs=[a.to_json() for a in archs], average_gflops=average)
    rival = single_frame_rival(options, average, train, val, test, out, device) if options.compare else {}
    if search.ranks()[0]:
        return  # the rest is the first process's
    unseen = search.Sight(test, 1, device, key_net)
    keypoints = search.predict(nets, unseen)
    key = np.concatenate([search.keypoints_of(maps[:, None], matrices, test) for _, maps, matrices in unseen])  # (N, 1, K, 3)
    ours, copied = search.score(keypoints, test, 1), search.score(np.repeat(key, frames, 1), test, 1)  # (N, T)
    print(f"\nnon-key frames of {len(test)} test clips{'':17}AP   " + "  ".join(f"t = {t + 1}" for t in range(frames)))
    for name, points in {"T-ViPNAS": ours, **rival, "the key frame's pose, copied": copied}.items():
        ap, row = search.percent(points), 100 * np.nanmean(points, 0)
        better, error = search.percent(ours - points), standard_error(np.nanmean(ours - points, 1))
        print(f"{name:45} {ap:5.1f}   " + "  ".join(f"{x:5.1f}" for x in row) +
              f"   T is {better:+.1f} +- {error:.1f} better" * (points is not ours))
        log(options, event="test", name=name, ap=ap, ap_by_frame=row.tolist(), t_better=better, standard_error=error)
    conclude(options, [key_net, *nets], test, test, np.concatenate([key, keypoints], 1), device, out / "poses.gif")

def single_frame_rival(options, average, train, val, test, out, device):
    """The best single-frame network of the same average GFLOPs, for every frame (Table 3): {name: scores (N, T)}. Found by the
    same search in the S super-network, then trained as T was: from its weights, with the same clips, rate and number of steps."""
    path = pathlib.Path(options.s).with_name("supernet.pt")
    if not path.is_file():
        print(f"no comparison with a single-frame network: there is no {path} to find it in")
        return {}
    net = search.load_supernet(path)[0].to(device, memory_format=torch.channels_last)
    archs, _ = search.find(net, average, options, *search.sights(train, val, device, 1), out, "rival")
    rival = net.extract(archs[0]).to(memory_format=torch.channels_last)
    steps = steps_of(options, train) + options.finish
    fit([rival] * options.frames, lambda rng: [archs], train, options, steps, out / "rival.pt")
    points = search.judge(rival, archs, search.Sight(train.head(128), 1, device), search.Sight(test, 1, device))
    return {f"single frame, {cost(archs[0], test.size).gflops:.4f} GFLOPs": points}

def standard_error(points):
    """Of the mean AP, from one score a person or clip."""
    points = points[~np.isnan(points)]
    return 100 * points.std() / math.sqrt(max(1, len(points)))

def start_folder(options, backbone, key_net=None):
    """Make the run folder. An older run in it is moved aside, or resumed if options and key-frame network are the same."""
    out, now = pathlib.Path(options.out), {**vars(options), "resume": False}
    if options.resume and (out / "supernet.pt").is_file():
        saved = vipnas.load(out / "supernet.pt", "supernet")
        was, key = {**saved["options"], "resume": False}, key_net.state_dict() if key_net else {}
        changed = [f"--{k} was {was.get(k)}" for k in now if now[k] != was.get(k)]
        refuse(changed, f"--resume goes on with the same options only; in {out}, {', '.join(changed)}")
        same = saved.get("key", {}).keys() == key.keys() and all(torch.equal(v.cpu(), saved["key"][k]) for k, v in key.items())
        refuse(not same, f"{options.s} is not the network any more that the run in {out} began with: leave out --resume")
    if search.ranks()[0] == 0:
        if not options.resume and out.is_dir() and any(out.iterdir()):
            aside = next(p for p in (pathlib.Path(f"{out}.{n}") for n in range(1, 10 ** 6)) if not p.exists())
            out.rename(aside)
            print(f"moved the run that was in {out} to {aside}")
        out.mkdir(parents=True, exist_ok=True)
    search.gather(None)  # the others wait for it
    print("run: " + "  ".join(f"{k} {v}" for k, v in now.items() if v not in (None, False)))
    print(f"recipe: {describe(**recipe_of(options, backbone))}")
    return out

def benchmark(options, device, batch=4, rounds=5):
    """What weight sharing costs: a sandwich step against steps of the same four finished networks, in turns, in one process."""
    space = vipnas.SPACES[options.space]
    (h, w), chains = space.image_size, sandwich(space, 1, random.Random(options.seed))
    net, times = PoseNet(space).to(device, memory_format=torch.channels_last).train(), np.zeros((rounds + 1, 1 + len(chains)))
    jobs = [(net, chains)] + [(net.extract(arch).to(memory_format=torch.channels_last), [(arch,)]) for (arch,) in chains]
    optimizers = [torch.optim.Adam(net.parameters(), 1e-5) for net, _ in jobs]
    images = search.to_device(torch.randint(256, (batch, 1, 3, h, w)).byte(), device)
    targets, weights = torch.rand(batch, 1, 17, h // 4, w // 4, device=device), torch.ones(batch, 1, 17, device=device)
    for i, j in np.ndindex(times.shape):
        begun = time.perf_counter()
        train_step([jobs[j][0]], jobs[j][1], images, targets, weights, None)  # it returns numbers, so a GPU has finished too
        optimizers[j].step(), optimizers[j].zero_grad()
        times[i, j] = time.perf_counter() - begun
    one, four = np.median(times[1:, 0]), np.median(times[1:, 1:].sum(1))  # the first round warms up
    print(f"{options.space}, {batch} images of {h}x{w}: one sandwich step {one:.2f} s, its four networks trained alone "
          f"{four:.2f} s, ratio {one / four:.3f}")

def benchmark_ap(people=6000):
    """`search.coco_ap` beside the official tool, if that is installed, on the same random people, five detections each."""
    rng, truths, found = np.random.default_rng(0), [], []
    for i in range(people):
        size, corner, entry = rng.uniform(30, 250), rng.uniform(0, 500, 2), {"image_id": 1 + i // 2, "category_id": 1}
        joints = np.column_stack([corner + rng.uniform(0, size, (17, 2)), rng.integers(0, 3, 17)])
        truths.append({**entry, "id": 1 + i, "bbox": [*corner, size, size], "area": size ** 2 / 2, "iscrowd": 0,
                       "num_keypoints": 17, "keypoints": joints.ravel().tolist()})
        found += [{**entry, "keypoints": (joints + rng.normal(0, size * spread, (17, 3))).ravel().tolist(), "score": rng.random()}
                  for spread in (.01, .03, .06, .1, .3)]
    annotations = {"images": [{"id": 1 + i} for i in range(people)], "annotations": truths, "categories": [{"id": 1}]}
    begun = time.perf_counter()
    ours, seconds = search.coco_ap(annotations, found), time.perf_counter() - begun
    print(f"coco_ap of {people} people and {len(found)} detections: {seconds:.2f} s")
    try:
        coco, cocoeval = (importlib.import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    except ImportError:
        return print("pip install pycocotools, and this shows the official tool's time beside it (nothing else here uses it)")
    with contextlib.redirect_stdout(None):
        begun, truth = time.perf_counter(), coco.COCO()
        truth.dataset = annotations
        truth.createIndex()
        judge = cocoeval.COCOeval(truth, truth.loadRes(found), "keypoints")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    official, error = time.perf_counter() - begun, np.abs([*ours.values()] - judge.stats).max()
    print(f"pycocotools: {official:.2f} s, ratio {official / seconds:.1f}; largest difference of the ten numbers {error:.0e}")

def conclude(options, nets, people, clips, keypoints, device, picture, count=12):
    """The end of a stage: on real data, the official numbers of `nets` on `people`; and a picture of the predictions
    (N, F, K, 3) on unseen clips, in their windows at twice the size, a moving one if they have several frames."""
    def pose(i, t):
        size = tuple(2 * n for n in clips.size)
        matrix = data.affine(clips.boxes[i], size)
        image = Image.fromarray(data.crop(clips.frame(i, t), matrix, size).permute(1, 2, 0).numpy())
        return data.draw_pose(image, data.transform(keypoints[i, t], matrix), clips.skeleton)
    if options.data != "synthetic":
        log(options, event="official", **search.official(nets, people, device, picture.parent))
    rows = [range(i, min(i + 6, count, len(clips))) for i in range(0, min(count, len(clips)), 6)]
    data.save_image([data.sheet([[pose(i, t) for i in row] for row in rows]) for t in range(keypoints.shape[1])], picture)
    print(f"wrote vipnas_{options.stage}.pt{'' if options.arch else ', search.png'} and {picture.name} to {picture.parent}")

@contextlib.contextmanager
def processes():
    """The device of this process. Those that torchrun starts become one group, of which the first one prints; the others wait
    while it reports, which can take hours. If one fails, so do the others: the first to fail speaks, and torchrun ends all."""
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(f"cuda:{local}" if gpus else "cpu")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    store, rank, world = next(dist.rendezvous("env://"))
    try:
        if gpus:
            refuse(local >= gpus, f"torchrun started more processes than the {gpus} GPUs that are here")
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if gpus else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(hours=12))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if rank else sys.stdout):
            yield device
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt):
        if store.add("failed", 1) > 1:
            time.sleep(2)  # torchrun ends all as soon as one has ended: let that be the one that speaks
            sys.exit(1)
        raise

def main(argv=None):
    """Run a stage; whatever the user can mend is one sentence and exit code 1."""
    try:
        with processes() as device:
            options, begun = read_options(argv), time.time()
            if options.benchmark:
                return benchmark_ap() if options.benchmark == "ap" else benchmark(options, device)
            {"s": stage_s, "t": stage_t}[options.stage](options, device)
            print(f"all done in {(time.time() - begun) / 60:.1f} minutes")
    except (vipnas.CheckpointError, data.DataError, ValueError, OSError) as error:
        # what a loader process raised carries its traceback before the sentence
        sys.exit("train: " + (str(error).splitlines() or [repr(error)])[-1].removeprefix("data.DataError: "))
    except KeyboardInterrupt:
        sys.exit("train: stopped; what was saved is kept, and the same command with --resume goes on from there")

if __name__ == "__main__":
    main()
