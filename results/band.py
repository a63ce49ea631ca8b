"""What is the search worth? Networks of one cost, all trained to the end.

    python results/band.py 0          # the runs of seed 0: some five hours on one core
    python results/band.py tables     # the tables, from what is measured: results/band_*.json

Three questions. How much do networks of equal cost differ, compared with two seeds of one network?
Do their slices in a super-network tell which is better? And how much better than their mean is the
one that the search finds?

Each seed has its own training people, initial weights, batches and candidates. Its runs are
commands of train.py in runs/band/SEED. All networks start as slices of the super-network of stage s
and are fine-tuned as the one that it finds. They are evaluated on 4,000 people of the split
"final", on which no decision depends. What is in results/band_SEED.json is not run again, and an
interrupted run goes on. Each process has one thread, so that seeds can run side by side.
"""

import json
import os
import random
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import search
import train
import vipnas

CPU = torch.device("cpu")
TINY = vipnas.SPACES["tiny"]
BUDGET = 0.02  # GFLOPs of S
BAND = 0.97  # networks cost at least this fraction of it
NETWORKS = 16  # of seed 0, twice; of other seeds the first six

# "--clips 16 --steps 2 --batch 4" tries this script
TRIAL = os.environ.get("BAND_OPTIONS", "").split()
RUNS = Path("runs/band_trial" if TRIAL else "runs/band")
RESULTS = RUNS if TRIAL else Path("results")


# ---------------------------------------------------------------------------------------- the runs
def commands(folder, seed):
    """The command of each run in the folder of a seed, in their order: pairs (run, command)."""
    yield "s", "train.py --stage s"
    tune = f"train.py --stage s --steps 1600 --init {folder}/largest.pt --arch {folder}"
    for k in range(NETWORKS if seed == 0 else 6):
        yield f"{k}", f"{tune}/archs/{k}.json"
        if seed == 0:
            yield f"{k}_again", f"{tune}/archs/{k}.json --seed 1"
    if seed == 0:
        # longer super-networks, and more random subnets a step
        for steps, subnets in ((2000, 2), (500, 4), (2000, 4)):
            words = f"--steps {steps} --finish 0 --candidates 1"
            yield f"supernet_{steps}_n{subnets}", f"train.py --stage s {words}"


def run_all(seed):
    """All runs of a seed that are not measured yet."""
    folder = RUNS / str(seed)
    for run, command in commands(folder, seed):
        # the others need what s leaves
        if run in measurements(seed) and run != "s":
            continue
        words = ["--seed", str(seed), *command.split()[1:], "--resume", "--out", str(folder / run)]
        words += TRIAL
        if not (folder / run / "report.json").exists():
            program = [sys.executable, __file__, "--train", run, *words]
            subprocess.run(program, check=True)
        if run == "s":
            draw_networks(folder, seed)
        measure(folder, seed, run)


def draw_networks(folder, seed):
    """Random networks of one cost, and the network that all are slices of."""
    supernet, _, contents = vipnas.load_supernet(folder / "s/supernet.pt")
    largest = supernet.extract(TINY.largest())
    vipnas.save_finished(folder / "largest.pt", [largest], contents["about"])
    # ours, to be safe: those that follow one another are still a little alike, so every twentieth
    rng = random.Random(f"{seed} band")
    found = search.sample(TINY, BUDGET, 20 * NETWORKS, rng, band=BAND)[::20]
    for k, arch in enumerate(found):
        vipnas.write_archs([arch], folder / f"archs/{k}.json")


# -------------------------------------------------------------------------------- the measurements
def measurements(seed):
    """{run: {"arch", "gflops", "ap"}} of what is measured of a seed."""
    path = RESULTS / f"band_{seed}.json"
    return json.loads(path.read_text()) if path.exists() else {}


@lru_cache
def people():
    """The people that networks are evaluated on."""
    return search.EvaluationSet(data.SyntheticClips("final", 4000, 1, TINY.image_size), CPU)


def ap_of(net):
    """AP of a network on them."""
    evaluation = people()
    keypoints = search.predict([net], evaluation)
    accuracy = search.oks_accuracy(keypoints, evaluation.clips, evaluation.indices, 0)
    return round(search.percent(accuracy), 3)


def measure(folder, seed, run):
    """Add a run to the measurements, if it is not there."""
    if run in measurements(seed):
        return
    (net,), _ = vipnas.load_networks(folder / run / "vipnas_s.pt")
    gflops = vipnas.cost(net.arch, TINY.image_size).gflops
    row = {"arch": str(net.arch), "gflops": round(gflops, 5), "ap": ap_of(net)}
    # of a super-network the networks' slices, too
    if seed == 0 and run.startswith("s"):
        supernet, _, _ = vipnas.load_supernet(folder / run / "supernet.pt")
        calibration = search.calibration_set(data.SyntheticClips("train", 256, 1), CPU, seed)
        row["slices"] = []
        for k in range(NETWORKS):
            archs = vipnas.read_archs(str(folder / f"archs/{k}.json"))
            (found,) = search.extract_calibrated(supernet, archs, calibration)
            row["slices"].append(ap_of(found))
    # other processes measure, too
    page = measurements(seed) | {run: row}
    data.write_json(page, RESULTS / f"band_{seed}.json")


# -------------------------------------------------------------------------------------- the tables
def spread(page):
    """Print what is known of seed 0: how different networks are, and do slices tell it?"""
    ap = {}  # network -> its AP with one seed, or with two
    for k in range(NETWORKS):
        runs = [run for run in (f"{k}", f"{k}_again") if run in page]
        if runs:
            ap[k] = [page[run]["ap"] for run in runs]
    twice = np.array([each for each in ap.values() if len(each) == 2])  # (n, 2)
    if len(ap) < 3 or len(twice) < 2:
        return
    means = np.array([np.mean(each) for each in ap.values()])
    seeds = np.sqrt((np.diff(twice) ** 2).mean() / 2)
    print(
        f"{len(ap)} networks of {BAND * BUDGET:.4g} to {BUDGET} GFLOPs, {len(twice)} with two seeds"
    )
    print(f"AP {means.min():.1f} to {means.max():.1f}, standard deviation {means.std(ddof=1):.2f}")
    print(f"standard deviation between two seeds of one network {seeds:.2f}")
    for run, row in page.items():
        if "slices" in row:
            slices = np.array(row["slices"])[list(ap)]
            tau = stats.kendalltau(slices, means)
            text = f"slices of {run} (AP {slices.min():.1f} to {slices.max():.1f})"
            print(f"{text}: Kendall's tau {tau.statistic:.2f}, p = {tau.pvalue:.2g}")


def winners():
    """Print by how much the found network is better than the others of its seed, on average."""
    differences = []
    for seed in range(5):
        page = measurements(seed)
        others = [row["ap"] for run, row in page.items() if run.isdigit()]
        if len(others) >= 6:
            found = page["s"]["ap"]
            differences.append(found - np.mean(others))
            text = f"found {found:.1f} AP at {page['s']['gflops']} GFLOPs"
            print(f"seed {seed}: {text}, {len(others)} others {np.mean(others):.1f} on average")
    if len(differences) > 1:
        half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
        print(f"found - mean of others: {np.mean(differences):+.1f} +- {half:.1f} (95 %)")


def main():
    """Run what is missing of the seeds that are named, and print the tables."""
    os.chdir(Path(__file__).parent.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    words = sys.argv[1:] or ["0", "1", "2", "3", "4", "tables"]
    if words[0] == "--train":  # a command of `run_all`, in this process
        _, run, *words = words
        if run.endswith("n4"):
            train.RANDOM_SUBNETS = 4
        train.main(words)
        return
    for what in words:
        if what == "tables":
            spread(measurements(0))
            winners()
        else:
            run_all(int(what))


if __name__ == "__main__":
    main()
