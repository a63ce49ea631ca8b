"""What the paper claims, measured on synthetic people over several seeds.

    python results/claims.py 0          # what is missing of seed 0: some hours on one core
    python results/claims.py 0 1 2 3 4 tables
    python results/claims.py tables     # the tables and pictures, from results/seeds

A seed has training people, initial weights, batches, candidates and final clips of its own; only
the validation people of the searches are the same. Its runs are commands of train.py and search.py,
in runs/claims/SEED. Each of their networks is measured on 4,000 clips of the split "final", on
which no decision depends, and what was measured is kept in results/seeds/SEED.json. A run that is
measured is left out, but for those that others start from. An interrupted run goes on. Each process
has one thread, so that seeds can run side by side.

The tables have the mean over the seeds and its 95 % interval (Student's t), of each row by itself:
one in twenty misses the true value by chance. They are also in results/claims.json, the pictures
in results/budgets.png (Fig. 4) and results/memory.png.
"""

import contextlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import search
import vipnas

# "--clips 16 --steps 2 --batch 4" tries this script
TRIAL = os.environ.get("CLAIMS_OPTIONS", "").split()
RUNS = Path("runs/claims_trial" if TRIAL else "runs/claims")
SEEDS = RUNS if TRIAL else Path("results/seeds")
FINAL_CLIPS = 16 if TRIAL else 4000
CPU = torch.device("cpu")
TINY = vipnas.SPACES["tiny"]
SIZE = TINY.image_size
BUDGET = 0.02  # GFLOPs of S
BAND = 0.97  # networks of one cost: at least this fraction of it
# {GFLOPs: the run of what is found for them}; they are those of S, and 0.43 to 0.75 of it
BUDGETS = {0.0085: "s_0.0085", 0.0111: "baseline_s", 0.015: "s_0.015", BUDGET: "s_more"}
MOTION = data.MOTION  # how fast people move
SPEEDS = (0.1, 0.4, 0.8)  # other values of it
NETS = ("t", "s", "baseline")  # that see them
KINDS = ("clear", *data.CONDITIONS)  # of non-key frames


# ---------------------------------------------------------------------------------------- the runs
def commands(r, seed):
    """The command of each run in the folder `r` of a seed, in their order: pairs (run, command).

    S is fine-tuned with 51,200 images, and each of T's networks, which start from it, with 22,400
    more. To be compared with T, single networks get these, too: 1,600 + 700 steps of 32.
    """
    # Tables 1 and 3: the two commands of the README
    yield "s", "train.py --stage s"
    yield "t", f"train.py --stage t --s {r}/s/vipnas_s.pt"
    yield "s_more", more(r)
    yield "baseline_s", single(r, f"{r}/archs/baseline.json", 2300)
    # what the search is worth: networks of one cost, trained as the one that it finds
    for k in range(band_size(seed)):
        yield f"band_{k}", single(r, f"{r}/archs/band_{k}.json", 1600)
    if seed == 0:
        for k in range(band_size(seed)):
            yield f"band_{k}_again", single(r, f"{r}/archs/band_{k}.json", 1600) + " --seed 1"
        yield "super_2000", f"{SUPERNET_ALONE} --steps 2000"
        yield "super_2000_n_4", f"{SUPERNET_ALONE} --steps 2000"
    yield from commands_of_budgets(r)
    if seed < 3:
        yield from commands_of_speeds(r)
        yield from commands_of_figures(r)


def band_size(seed):
    """How many networks of one cost are trained."""
    return 16 if seed == 0 else 6


SUPERNET_ALONE = "train.py --stage s --candidates 1 --finish 0"


def single(r, arch, steps):
    """The command that trains one network of S, from its slice of the super-network."""
    return f"train.py --stage s --arch {arch} --init {r}/archs/largest.pt --steps {steps}"


def more(r):
    """The command that trains S on, with as many images as T gets."""
    return f"train.py --stage s --arch {r}/s/arch.json --init {r}/s/vipnas_s.pt --steps 700"


def chain(r, name, steps=1400):
    """The command that trains the T networks of a search, from S."""
    arch = f"{r}/{name}/arch.json"
    return f"train.py --stage t --s {r}/s/vipnas_s.pt --arch {arch} --steps {steps}"


def search_t(r, fraction):
    """The command that searches T networks with a fraction of S's GFLOPs."""
    gflops = round(fraction * gflops_of(f"{r}/s/arch.json"), 5)
    return f"search.py --checkpoint {r}/t/supernet.pt --gflops {gflops}"


def gflops_of(path):
    """The GFLOPs of one architecture."""
    (arch,) = vipnas.read_archs(path)
    return vipnas.cost(arch, SIZE).gflops


def commands_of_budgets(r):
    """Fig. 4: networks made by hand, what is found for as many GFLOPs, and T."""
    for budget, run in BUDGETS.items():
        hand = f"{r}/archs/hand_{budget}.json"
        yield f"hand_{budget}", single(r, hand, 2300)
        if run == f"s_{budget}":  # the others are networks of Tables 1 and 3
            name = f"search_{budget}"
            yield name, f"search.py --checkpoint {r}/s/supernet.pt --gflops {gflops_of(hand)}"
            yield run, single(r, f"{r}/{name}/arch.json", 2300)
    for fraction in (0.5, 0.75):
        yield f"search_t_{fraction}", search_t(r, fraction)
        yield f"t_{fraction}", chain(r, f"search_t_{fraction}")


def commands_of_speeds(r):
    """Slower and faster people: `VARIED` says how fast. All see them as long as at our MOTION."""
    yield "t_alone", chain(r, "t")
    for motion in SPEEDS:
        yield f"t_motion_{motion}", chain(r, "t")
        yield f"s_motion_{motion}", more(r)
        yield f"baseline_motion_{motion}", single(r, f"{r}/archs/baseline.json", 2300)


def commands_of_figures(r):
    """Figs 6a and 6b, Table 4."""
    # Fig. 6a: without fusion; these learn slowly, so also four times as long
    yield "t_0.5_without", f"{chain(r, 'search_t_0.5')} --no-fusion"
    yield "t_0.5_without_long", f"{chain(r, 'search_t_0.5', 5600)} --no-fusion"
    # Fig. 6b: one architecture for all non-key frames
    for fraction in (0.5, 0.75):
        name = f"search_t_{fraction}_shared"
        yield name, f"{search_t(r, fraction)} --shared"
        yield f"t_{fraction}_shared", chain(r, name)
    # Table 4: T = 2, 4 of the super-network that was trained with 3, at the average of T = 3. Ours:
    # what is found is trained alone, as above
    for frames in (2, 4):
        name = f"search_{frames}_frames"
        yield name, f"{search_t(r, 0.57)} --frames {frames}"
        yield f"t_{frames}_frames", f"{chain(r, name)} --frames {frames}"


# these runs have another value of a constant: module, its name, value
VARIED = {
    "super_2000_n_4": ("train", "RANDOM_SUBNETS", 4),
    **{f"{net}_motion_{motion}": ("data", "MOTION", motion) for net in NETS for motion in SPEEDS},
}


def run_all(seed):
    """All runs of a seed that are not measured yet, and the measurements."""
    folder = RUNS / str(seed)
    for run, command in commands(folder, seed):
        # later runs start from what these two leave
        if run in measurements(seed) and run not in ("s", "t"):
            continue
        script, *words = command.split()
        words = ["--seed", str(seed), *words, "--out", str(folder / run)]
        last = "arch.json"
        if script == "train.py":
            last = "report.json"
            words += ["--resume", *TRIAL]
        if not (folder / run / last).exists():
            program = [__file__, "--varied", run, script] if run in VARIED else [script]
            subprocess.run([sys.executable, *program, *words], check=True)
        if run == "s":
            write_archs(folder, seed)
        if run == "t":
            page = json.loads((folder / "t/rival.json").read_text())
            archs = page["candidates"][page["best"]]["archs"]
            data.write_json(archs, folder / "archs/baseline.json")
            measure(folder, seed, "baseline")
        if script == "train.py":
            measure(folder, seed, run)


def write_archs(folder, seed):
    """Write the architectures that no search finds, and the network that they are slices of."""
    supernet, _, contents = vipnas.load_supernet(folder / "s/supernet.pt")
    largest = supernet.extract(TINY.largest())
    vipnas.save_finished(folder / "archs/largest.pt", [largest], contents["about"])
    # in so narrow a band one candidate is a little like the next, so every twentieth
    rng = random.Random(f"{seed} band")
    for k, arch in enumerate(search.sample(TINY, BUDGET, 320, rng, band=BAND)[::20]):
        vipnas.write_archs([arch], folder / f"archs/band_{k}.json")
    # of those made by hand the largest below each budget
    made = made_by_hand()
    for budget in BUDGETS:
        gflops = max(each for each in made if each <= budget)
        vipnas.write_archs([made[gflops]], folder / f"archs/hand_{budget}.json")


def made_by_hand():
    """{GFLOPs: Arch} of what one would try without a search: in every stage the least or the most
    of width, kernel and expansion, and depths that are least, middle or most; with attention."""
    found = {}
    for depth, *ends in itertools.product((0, 0.5, 1), (0, -1), (0, -1), (0, -1)):
        stages = []
        for choices in TINY.stages:
            (line,) = choices.branches
            fitting = line.options
            for what, end in zip(("width", "kernel", "expansion"), ends, strict=True):
                wanted = sorted({getattr(branch, what) for branch in fitting})[end]
                fitting = [branch for branch in fitting if getattr(branch, what) == wanted]
            place = math.ceil(depth * (len(choices.depth) - 1))
            # they are sorted, so this has attention, where there is a choice
            stages.append(vipnas.Stage(choices.depth[place], (fitting[-1],)))
        arch = vipnas.Arch("tiny", TINY.stem[0], tuple(stages), TINY.largest().head)
        found[vipnas.cost(arch, SIZE).gflops] = arch
    return found


# -------------------------------------------------------------------------------- the measurements
def measurements(seed):
    """{run: {"archs": [...], "gflops": average, "ap": {column: AP}}} of what is measured; of a
    super-network {"slices": [AP of each network of one cost]}, of S both."""
    path = SEEDS / f"{seed}.json"
    return json.loads(path.read_text()) if path.exists() else {}


@lru_cache(maxsize=2)
def final(seed, frames, motion=MOTION):
    """The clips that a seed's networks are measured on."""
    data.MOTION = motion
    clips = data.SyntheticClips("final", FINAL_CLIPS, frames, SIZE, first=10**6 * seed)
    data.MOTION = MOTION
    return search.EvaluationSet(clips, CPU)


def networks(folder, run):
    """The finished networks of a run; of "baseline" the single-frame network of stage t."""
    if run == "baseline":
        path = folder / "t/rival.pt"
        (arch,) = vipnas.read_archs(str(folder / "archs/baseline.json"))
        net = vipnas.PoseNet(arch)
        vipnas.restore(net, vipnas.load_checkpoint(path, "alone", "supernet")["nets"][0], path)
        return [net.eval()]
    path = folder / run / "vipnas_t.pt"
    return vipnas.load_networks(path if path.exists() else folder / run / "vipnas_s.pt")[0]


def accuracy(nets, evaluation):
    """The OKS accuracy (N, F) of networks on clips; a single network predicts all frames."""
    nets = nets if len(nets) > 1 else nets * evaluation.frames
    keypoints = search.predict(nets, evaluation)
    return search.oks_accuracy(keypoints, evaluation.clips, evaluation.indices, 0)


def evaluate(nets, evaluation):
    """{column: AP} of networks, on all frames and on non-key frames of each kind; of T also by how
    much it is above S, the network of its key frames, on the same frames."""
    found = accuracy(nets, evaluation)
    conditions = evaluation.clips.conditions[:, 1 : found.shape[1]]  # (N, T, 4)
    ap = {"all": found, "non-key": found[:, 1:]}
    ap["clear"] = found[:, 1:][~conditions.any(-1)]
    for i, condition in enumerate(data.CONDITIONS):
        ap[condition] = found[:, 1:][conditions[..., i]]
    ap = {column: search.percent(each) for column, each in ap.items()}
    if len(nets) > 1:
        of_s = accuracy(nets[:1], evaluation)[:, : found.shape[1]]
        ap["above S"] = ap["all"] - search.percent(of_s)
    return {column: round(each, 3) for column, each in ap.items()}


def measure(folder, seed, run):
    """Add a run's networks to the measurements of a seed. If they are there, SystemExit unless
    these are the same: another processor finds others."""
    row = {}
    if not run.startswith("super"):  # there a network is found, but not fine-tuned
        nets = networks(folder, run)
        row["archs"] = [str(net.arch) for net in nets]
    if run in measurements(seed):
        if row["archs"] != measurements(seed)[run]["archs"]:
            what = f"{SEEDS / str(seed)}.json is of other networks than {folder / run}"
            raise SystemExit(f"{what}: move it away, and this seed is measured anew")
        return
    if row:
        row["gflops"] = np.mean([vipnas.cost(net.arch, SIZE).gflops for net in nets])
        motion = VARIED[run][2] if "motion" in run else MOTION
        row["ap"] = evaluate(nets, final(seed, max(4, len(nets)), motion))
    if run == "s" or run.startswith("super"):
        row["slices"] = slices(folder, seed, run)
    # other processes measure, too
    data.write_json(measurements(seed) | {run: row}, SEEDS / f"{seed}.json")


def slices(folder, seed, run):
    """The AP on single frames that networks of one cost have as slices of a super-network."""
    supernet, _, _ = vipnas.load_supernet(folder / run / "supernet.pt")
    people = data.SyntheticClips("train", 256, 1, SIZE, first=10**6 * seed)
    calibration = search.calibration_set(people, CPU, 0)
    found = []
    for k in range(band_size(seed)):
        archs = vipnas.read_archs(str(folder / f"archs/band_{k}.json"))
        nets = search.extract_calibrated(supernet, archs, calibration)
        found.append(round(search.percent(accuracy(nets, final(seed, 1))), 3))
    return found


# -------------------------------------------------------------------------------------- the tables
# what a claim says of a difference of AP
HIGHER = (0, math.inf)
AS_GOOD = (-1.6, math.inf)  # Table 1: T-ViPNAS-Res50 has 81.6, S 83.2 (MobileNetV3: 78.2, 81.1)
EQUAL = (-0.3, 0.3)  # Table 4: 81.7, 81.7, 81.4
NO_CLAIM = None

TABLE_1 = {
    "T": "t",
    "S": "s",
    "baseline": "baseline",
    "T - S": "t - s",
    "T - S that has seen as many images": "t - s_more",
}
TABLE_3 = {
    "T - baseline, trained on T's clips": "t - baseline",
    "T - baseline, trained on S's people": "t - baseline_s",
}

BY_HAND = {f"S, {b} GFLOPs": f"{run} - hand_{b}" for b, run in BUDGETS.items()}

# {title: (column of AP, claim, {row: "run", or "run - other" for their difference, or a list of
# such, for their mean})}
CLAIMS = {
    "Table 1": ("all", AS_GOOD, TABLE_1),
    "Table 3": ("all", HIGHER, TABLE_3),
    "Tables 1 and 3": ("non-key", NO_CLAIM, TABLE_1 | TABLE_3),
    "What the search is worth": ("all", HIGHER, {"S - mean of others of its cost": "s - band"}),
    "Fig. 4: against networks made by hand": (
        "all",
        HIGHER,
        {
            **BY_HAND,
            "S, mean of the four": list(BY_HAND.values()),
            "T, 0.0111 GFLOPs": "t - hand_0.0111",
        },
    ),
    "Fig. 4": (
        "all",
        NO_CLAIM,
        {
            **{f"by hand, {b} GFLOPs": f"hand_{b}" for b in BUDGETS},
            **{f"S, {b} GFLOPs": run for b, run in BUDGETS.items()},
            "T, 0.5 of S": "t_0.5",
            "T, 0.57 of S": "t",
            "T, 0.75 of S": "t_0.75",
        },
    ),
    "Fig. 6a: T - the same without fusion": (
        "all",
        HIGHER,
        {
            "0.5 of S": "t_0.5 - t_0.5_without",
            "0.5 of S, without four times as long": "t_0.5 - t_0.5_without_long",
        },
    ),
    "Fig. 6b: T - one architecture for all its frames": (
        "all",
        HIGHER,
        {
            "0.5 of S": "t_0.5 - t_0.5_shared",
            "0.75 of S": "t_0.75 - t_0.75_shared",
        },
    ),
    # T = 2 and 4 have other frames, which are not as hard
    "Table 4: against T = 3, each above S on its frames": (
        "above S",
        EQUAL,
        {
            "T = 2": "t_2_frames - t_alone",
            "T = 4": "t_4_frames - t_alone",
        },
    ),
    "How fast people move": (
        "non-key",
        NO_CLAIM,
        {
            "T - S, MOTION 0.1": "t_motion_0.1 - s_motion_0.1",
            "T - S, MOTION 0.2": "t_alone - s_more",
            "T - S, MOTION 0.4": "t_motion_0.4 - s_motion_0.4",
            "T - S, MOTION 0.8": "t_motion_0.8 - s_motion_0.8",
            "T - baseline, MOTION 0.1": "t_motion_0.1 - baseline_motion_0.1",
            "T - baseline, MOTION 0.2": "t_alone - baseline_s",
            "T - baseline, MOTION 0.4": "t_motion_0.4 - baseline_motion_0.4",
            "T - baseline, MOTION 0.8": "t_motion_0.8 - baseline_motion_0.8",
        },
    ),
}
for kind in KINDS:
    rows = {"T - S": "t - s_more", "T - baseline": "t - baseline_s"}
    CLAIMS[f"Where memory helps, {kind}"] = kind, NO_CLAIM, rows


def band(page):
    """The networks of one cost that are measured, as {number: run}. KeyError for fewer than 6."""
    found = {k: f"band_{k}" for k in range(band_size(0)) if f"band_{k}" in page}
    if len(found) < 6:
        raise KeyError("band")
    return found


def tau_of_slices(page, run, final_ap):
    """Kendall's tau of a super-network's slices with final AP, {number in the band: AP}."""
    slices_ap = [page[run]["slices"][k] for k in final_ap]
    return stats.kendalltau(slices_ap, list(final_ap.values()))


def ap_of(page, run, column):
    """The AP of a run; of "band" the mean of the networks that cost as much as S."""
    if run != "band":
        return page[run]["ap"][column]
    return np.mean([page[name]["ap"][column] for name in band(page).values()])


def over_seeds(pages, row, column):
    """{"mean", "interval", "values": {seed: value}} of a row of CLAIMS; None if no seed has it."""
    rows = row if isinstance(row, list) else [row]
    values = {}
    for seed, page in pages.items():
        with contextlib.suppress(KeyError):  # what is not measured yet
            ap = [[ap_of(page, run, column) for run in each.split(" - ")] for each in rows]
            values[seed] = round(float(np.mean([first - sum(rest) for first, *rest in ap])), 3)
    return summary(values)


def summary(values):
    """{"mean", "interval", "values"} of {seed: value}; None if there is no value."""
    if not values:
        return None
    found = list(values.values())
    half = None
    if len(found) > 1:
        half = round(stats.t.ppf(0.975, len(found) - 1) * stats.sem(found), 3)
    return {"mean": round(float(np.mean(found)), 3), "interval": half, "values": values}


def low_and_high(cell):
    """Where the 95 % interval of a `summary` begins and ends; of one seed both are its value."""
    half = cell["interval"] or 0
    return cell["mean"] - half, cell["mean"] + half


def verdict(cell, claim):
    """What the 95 % interval of a difference says of a claim; with no claim, which is better."""
    low, high = low_and_high(cell)
    if claim is NO_CLAIM:
        return "better" if low > 0 else "worse" if high < 0 else "open"
    if claim[0] <= low and high <= claim[1]:
        return "holds"
    return "fails" if high < claim[0] or low > claim[1] else "open"


def show(name, cell, claim, is_difference):
    """Print a row."""
    text = f"{name:40}{cell['mean']:+7.1f}" if is_difference else f"{name:40}{cell['mean']:7.1f}"
    if cell["interval"] is None:
        print(f"{text}          1 seed")
        return
    last = verdict(cell, claim) if is_difference else ""
    print(f"{text} +- {cell['interval']:4.1f}   {len(cell['values'])} values   {last}")


def show_band(page):
    """Networks of one cost: do they differ, and do their slices tell which is better?"""
    twice = [k for k in range(band_size(0)) if f"band_{k}_again" in page]
    if len(twice) < 3:
        return {}
    pairs = [[page[f"band_{k}{run}"]["ap"]["all"] for run in ("", "_again")] for k in twice]
    means = np.mean(pairs, axis=1)
    seeds = np.sqrt((np.diff(pairs) ** 2).mean() / 2)
    found = {"lowest AP": means.min(), "highest AP": means.max()}
    found["standard deviation, each the mean of two runs"] = means.std(ddof=1)
    found["standard deviation between two runs of one"] = seeds
    for run in page:
        if "slices" in page[run]:
            tau = tau_of_slices(page, run, dict(zip(twice, means, strict=True)))
            found[f"Kendall's tau with slices of {run}"] = tau.statistic
            found[f"its p, {run}"] = tau.pvalue
    print(f"\n{len(twice)} networks of {BAND * BUDGET:.4g} to {BUDGET} GFLOPs")
    for name, value in found.items():
        print(f"{name:48}{value:7.2f}")
    return {name: round(float(value), 3) for name, value in found.items()}


def show_rank(pages):
    """Kendall's tau between the slices of S's super-network and the final AP of networks of one
    cost, over the seeds."""
    taus = {}
    for seed, page in pages.items():
        with contextlib.suppress(KeyError):  # what is not measured yet
            final_ap = {k: page[name]["ap"]["all"] for k, name in band(page).items()}
            taus[seed] = round(float(tau_of_slices(page, "s", final_ap).statistic), 3)
    cell = summary(taus)
    if cell:
        print("\nDo slices tell which network of one cost will be better? Kendall's tau x 100")
        hundred = {key: cell[key] and 100 * cell[key] for key in ("mean", "interval")}
        show("slices against final AP", cell | hundred, HIGHER, True)
    return cell


# ------------------------------------------------------------------------------------ the pictures
COLOURS = {"by hand": "grey", "S": "royalblue", "T": "crimson"}  # Fig. 4
COLOURS |= {"T - S": "royalblue", "T - baseline": "crimson"}  # where memory helps


def plot(path, title, panels):
    """Draw dots with their intervals. panels: [(x title, {x: label}, {series: [(x, cell)]})]."""
    # without what is not measured yet
    panels = [panel for panel in panels if any(panel[2].values())]
    if not panels:
        return
    dots = [dot for *_, series in panels for dots in series.values() for dot in dots]
    low = min([low_and_high(cell)[0] for _, cell in dots]) - 1
    high = max([low_and_high(cell)[1] for _, cell in dots]) + 1
    image = Image.new("RGB", (500 * len(panels), 400), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(14)
    pen.text((60, 16), title, "black")
    for i, (x_title, labels, series) in enumerate(panels):
        left = 60 + 500 * i
        for ap in range(5 * math.ceil(low / 5), int(high) + 1, 5):
            y = np.interp(ap, (low, high), (345, 65))
            pen.line([left, y, left + 420, y], "black" if ap == 0 else "lightgrey")
            pen.text((left - 6, y), f"{ap}", "black", anchor="rm")
        columns = (min(labels), max(labels)), (left + 40, left + 360)
        for x, label in labels.items():
            pen.text((np.interp(x, *columns), 356), label, "black", anchor="ma")
        pen.text((left + 210, 378), x_title, "black", anchor="ma")
        for k, (name, dots) in enumerate(series.items()):
            for x, cell in dots:
                x = 6 * k + np.interp(x, *columns)
                bottom, top = np.interp(low_and_high(cell), (low, high), (345, 65))
                y = np.interp(cell["mean"], (low, high), (345, 65))
                pen.line([x, bottom, x, top], COLOURS[name], 2)
                pen.circle((x, y), 4, COLOURS[name])
            pen.text((left + 10 + 110 * k, 38), name, COLOURS[name])
    data.save_image(image, path)


def plot_budgets(pages):
    """Fig. 4: AP over GFLOPs; the GFLOPs are the mean over the seeds, too."""
    series = {"by hand": [], "S": [], "T": []}
    column, _, rows = CLAIMS["Fig. 4"]
    # seeds differ, so all dots are of those that have S and what is made by hand at every budget
    last = f"hand_{BUDGET}"
    pages = {seed: page for seed, page in pages.items() if last in page}
    for name, row in rows.items():
        cell = over_seeds(pages, row, column)
        if cell:
            gflops = np.mean([page[row]["gflops"] for page in pages.values() if row in page])
            series[name.split(",")[0]].append((gflops, cell))
    labels = {x: f"{x:.3f}" for x in np.linspace(0.008, 0.020, 7)}
    panel = ("GFLOPs of the average frame", labels, series)
    plot(Path("results/budgets.png"), "AP on all frames, with 95 % intervals", [panel])


def plot_memory(tables):
    """Where memory helps: by what was done to a frame, and by how fast people move."""
    kinds = {}
    for i, kind in enumerate(KINDS):
        for name, cell in tables[f"Where memory helps, {kind}"].items():
            kinds.setdefault(name, []).append((i, cell))
    speeds = {}
    ticks = {}
    for name, cell in tables["How fast people move"].items():
        name, motion = name.split(", MOTION ")
        x = math.log2(float(motion))
        ticks[x] = motion
        speeds.setdefault(name, []).append((x, cell))
    panels = [
        ("what was done to a non-key frame", dict(enumerate(KINDS)), kinds),
        ("how fast people move (MOTION)", ticks, speeds),
    ]
    title = "by how many AP T is better, with 95 % intervals"
    plot(Path("results/memory.png"), title, panels)


def write_tables():
    """Print every claim, and write results/claims.json and the pictures."""
    pages = {path.stem: json.loads(path.read_text()) for path in sorted(SEEDS.glob("[0-9].json"))}
    page = {"networks of one cost": show_band(pages.get("0", {}))}
    page["Kendall's tau of slices with final AP"] = show_rank(pages)
    tables = {}
    for title, (column, claim, rows) in CLAIMS.items():
        cells = {name: over_seeds(pages, row, column) for name, row in rows.items()}
        tables[title] = {name: cell for name, cell in cells.items() if cell}
        page[f"{title}: AP ({column})"] = tables[title]
        if tables[title]:
            print(f"\n{title}: AP ({column}), mean and 95 % interval")
        for name, cell in tables[title].items():
            show(name, cell, claim, " - " in str(rows[name]))
    if not TRIAL:
        data.write_json(page, Path("results/claims.json"))
        plot_budgets(pages)
        plot_memory(tables)


def main():
    """Run what is missing of the seeds that are named, and write the tables."""
    os.chdir(Path(__file__).parent.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    words = sys.argv[1:] or ["0", "1", "2", "3", "4", "tables"]
    if words[0] == "--varied":  # a command of `run_all`, in this process
        _, run, script, *words = words
        module, constant, value = VARIED[run]
        # the processes that render see it only where they are forked
        assert sys.platform == "linux" or module != "data", f"{run} needs Linux"
        assert hasattr(import_module(module), constant), f"{module}.{constant} has another name now"
        setattr(import_module(module), constant, value)
        import_module(Path(script).stem).main(words)
        return
    for what in words:
        if what == "tables":
            write_tables()
        else:
            run_all(int(what))


if __name__ == "__main__":
    main()
