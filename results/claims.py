"""What the paper claims, measured on synthetic people over three seeds.

    python results/claims.py            # everything, then the tables: some 15 hours on one core
    python results/claims.py 0          # only the runs of seed 0: seeds can run side by side
    python results/claims.py tables     # only the tables, from the runs that are complete

A complete run is skipped and an interrupted one goes on, so this can be stopped at any time. Each
seed has a folder in runs/claims. The tables are also in results/claim_*.json, Fig. 4 in
results/budgets.png. Each process has one thread, so that seeds do not slow each other down.
"""

import json
import os
import subprocess
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import fusion
import search
import vipnas

RUNS = Path("runs/claims")
CPU = torch.device("cpu")
TINY = vipnas.SPACES["tiny"]
SIZE = TINY.image_size


# ---------------------------------------------------------------------------------------- the runs
def commands(r):
    """The command of each run in the folder `r` of a seed, in their order: pairs (run, command).

    Networks that are compared start alike and see as many images as in the default run: S 1,600
    steps of 32, T 1,400 steps of 16 for each frame.
    """
    # Tables 1 and 3: the two commands of the README
    yield "s", "train.py --stage s"
    yield "t", f"train.py --stage t --s {r}/s/vipnas_s.pt"
    yield from commands_of_t(r)
    yield from commands_of_s(r)


def commands_of_t(r):
    """The runs of T, and of the S that it is compared with."""
    t_alone = f"train.py --stage t --s {r}/s/vipnas_s.pt --steps 1400 --arch {r}"
    t_search = f"search.py --checkpoint {r}/t/supernet.pt --gflops"
    row = json.loads((r / "s/report.json").read_text())["rows"]["S-ViPNAS"]
    budgets = {share: round(float(share) * row["gflops"], 5) for share in ("0.50", "0.57", "0.75")}
    # S trained longer: as many images as each of T's networks has seen, with a new cosine
    longer = f"--init {r}/s/vipnas_s.pt --steps 700"
    yield "s_longer", f"train.py --stage s --arch {r}/s/arch.json {longer}"
    # Fig. 6a: T at three budgets, each trained alone; the same without its fusions
    for share, budget in budgets.items():
        yield f"t_{share}", f"{t_search} {budget}"
        yield f"t_{share}_alone", f"{t_alone}/t_{share}/arch.json"
    for share in ("0.50", "0.75"):
        yield f"t_{share}_no_fusion", f"{t_alone}/t_{share}/arch.json --no-fusion"
    # Table 1 again: T from the S that was trained longer, as long as above and twice as long
    for steps in (1400, 2800):
        better = f"--s {r}/s_longer/vipnas_s.pt --steps {steps}"
        yield f"t_of_longer_{steps}", f"{t_alone}/t_0.57/arch.json {better}"
    # Fig. 6b: one architecture for all non-key frames
    for share in ("0.50", "0.75"):
        yield f"shared_{share}", f"{t_search} {budgets[share]} --shared"
        yield f"shared_{share}_alone", f"{t_alone}/shared_{share}/arch.json"
    # Table 4: T = 2, 4 of the super-network that was trained with 3, at the average of T = 3
    for frames in (2, 4):
        yield f"frames_{frames}", f"{t_search} {budgets['0.57']} --frames {frames}"
        yield f"frames_{frames}_alone", f"{t_alone}/frames_{frames}/arch.json --frames {frames}"
    # choices of ours in the training of T
    yield "random_fusion", f"{t_alone}/t_0.57/arch.json"
    yield "let_through", f"{t_alone}/t_0.57/arch.json --through"


def commands_of_s(r):
    """The runs of S, and of single networks."""
    s_alone = f"train.py --stage s --arch {r}"
    s_search = f"search.py --checkpoint {r}/s/supernet.pt --gflops"
    # Table 1, Fig. 4: S at two more budgets. Choices of ours: two other searches for S
    searches = {"s_0.0111": "0.0111", "s_0.0150": "0.0150", "plain": "0.02 --plain"}
    for name, words in (searches | {"all_below": "0.02"}).items():
        yield name, f"{s_search} {words}"
        start = f"--init {r}/{name}/vipnas_s.pt --steps 1600"
        yield f"{name}_alone", f"{s_alone}/{name}/arch.json {start}"
    # Fig. 4: two networks made by hand start from nothing, so they train 500 steps more
    for name in ("scaled", "largest"):
        yield name, f"{s_alone}/archs/{name}.json --steps 2100"
    # choices of ours in the training of S
    for name in ("n_1", "n_4", "no_distillation"):
        yield name, "train.py --stage s"


class RandomFusion(fusion.TemporalFusion):
    """A fusion that does not start as the identity."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.kaiming_normal_(parameter, mode="fan_out")


# these runs have another value of a constant: module, its name, value
VARIED = {
    "all_below": ("search", "BAND", 0.0),
    "n_1": ("train", "RANDOM_SUBNETS", 1),
    "n_4": ("train", "RANDOM_SUBNETS", 4),
    "no_distillation": ("train", "DISTILL", False),
    "random_fusion": ("vipnas", "TemporalFusion", RandomFusion),
}


def run_all(seed):
    """All runs of a seed that are not complete."""
    folder = RUNS / seed
    for run, command in commands(folder):
        script, *words = command.split()
        words += ["--seed", seed, "--out", str(folder / run)]
        complete = "arch.json"
        if script == "train.py":
            complete = "report.json"
            # "--clips 16 --steps 2 --batch 4" tries this script
            words += ["--resume", *os.environ.get("CLAIMS_OPTIONS", "").split()]
        if not (folder / run / complete).exists():
            program = [__file__, "--varied", run, script] if run in VARIED else [script]
            subprocess.run([sys.executable, *program, *words], check=True)
        if run == "s":
            draw_archs(folder)


def draw_archs(folder):
    """Write the architectures that no search finds."""
    # by hand: the largest network, and it scaled to T's cost: 5/8 of its width, 2/3 of its depth
    vipnas.write_archs(TINY.largest(), folder / "archs/largest.json")
    scaled = json.loads(TINY.largest().to_json())
    for stage in scaled["stages"]:
        stage["depth"] = stage["depth"] * 2 // 3
        (branch,) = stage["branches"]
        in_group = branch["width"] * branch["expansion"] // branch["groups"]
        branch["width"] = round(branch["width"] * 5 / 8 / 8) * 8
        branch["groups"] = branch["width"] * branch["expansion"] // in_group
    data.write_json(scaled, folder / "archs/scaled.json")


# ------------------------------------------------------------------------------- finished networks
@lru_cache
def clips(frames):
    return search.EvaluationSet(data.SyntheticClips("test", 400, frames, SIZE), CPU)


def accuracy(nets):
    """The OKS accuracy (N, F), 0 to 100; a single network predicts all frames."""
    evaluation = clips(max(len(nets), 4))
    nets = nets if len(nets) > 1 else nets * evaluation.frames
    keypoints = search.predict(nets, evaluation)
    return 100 * search.oks_accuracy(keypoints, evaluation.clips, evaluation.indices, 0)


@lru_cache
def milliseconds(arch):
    return vipnas.frame_times([vipnas.PoseNet(arch).eval()])[0]


def evaluated(folder):
    """The row of a run's networks: what the average frame costs, and its AP on test clips."""
    path = folder / "vipnas_t.pt"
    nets, _ = vipnas.load_networks(path if path.exists() else folder / "vipnas_s.pt")
    kept = folder / "judged.json"
    if not kept.exists():
        found = accuracy(nets)
        data.write_json({"AP": found.mean(), "non-key": found[:, 1:].mean()}, kept)
    gflops = [vipnas.cost(net.arch, SIZE, net.joints).gflops for net in nets]
    times = [milliseconds(net.arch) for net in nets]
    return {"GFLOPs": np.mean(gflops), "ms": np.mean(times), **json.loads(kept.read_text())}


def difference(ours, other):
    """By how much the AP of one row is above that of another."""
    return {column: ours[column] - other[column] for column in ("AP", "non-key")}


# ---------------------------------- the claims: {row: {column: number}}, from the folder of a seed
def default_run(r):
    """Tables 1 and 3."""
    report = json.loads((r / "t/report.json").read_text())
    page = json.loads((r / "t/rival.json").read_text())
    baseline = json.dumps(page["candidates"][page["best"]]["archs"][0])
    chain = [net.arch for net in vipnas.load_networks(r / "t/vipnas_t.pt")[0]]
    rows = {name: row["ap"] for name, row in report["rows"].items()}
    # a copied pose, the last row, costs nothing
    archs = [chain, chain[:1], [vipnas.Arch.from_json(baseline)]]
    for name, own in zip(list(rows)[:3], archs, strict=True):
        ms = np.mean([milliseconds(arch) for arch in own])
        rows[name] = {"GFLOPs": report["rows"][name]["gflops"], "ms": ms} | rows[name]
    for pair in report["pairs"]:
        rows[f"T - {pair['other']}"] = {"non-key": pair["better"]}
    t = rows["T-ViPNAS"]
    s = rows["S on every frame"]
    rows["T as a share of S"] = {key: t[key] / s[key] for key in ("GFLOPs", "ms")}
    return rows


def conditions(r):
    """AP of non-key frames, by what the renderer did to them."""
    report = json.loads((r / "t/report.json").read_text())
    rows = {}
    for condition, group in report["conditions"].items():
        for name, ap in group["ap"].items():
            rows.setdefault(name, {})[condition] = ap
        for name, (better, _) in group["better"].items():
            rows.setdefault(f"T - {name}", {})[condition] = better
        rows.setdefault("frames", {})[condition] = group["frames"]
    return rows


def rows_of(r, table):
    """{row: run, or "ours - other" for the difference of their AP} -> {row: {column: number}}."""
    rows = {}
    for name, runs in table.items():
        first, *other = [evaluated(r / run) for run in runs.split(" - ")]
        rows[name] = difference(first, *other) if other else first
    return rows


# {name: title}, and what makes its rows: a function, or what `rows_of` takes
CLAIMS = {
    "table_3: the default run (Tables 1 and 3)": default_run,
    "conditions: non-key frames, by what the renderer did to them": conditions,
    "budgets: made by hand, S on every frame, and T (Table 1, Fig. 4)": {
        "by hand, scaled": "scaled",
        "by hand, largest": "largest",
        "S, 0.0111 GFLOPs": "s_0.0111_alone",
        "S, 0.0150 GFLOPs": "s_0.0150_alone",
        "S, 0.0200 GFLOPs": "s",
        "the same, trained longer": "s_longer",
        "T, 0.50 of S": "t_0.50_alone",
        "T, 0.57 of S": "t_0.57_alone",
        "T, 0.75 of S": "t_0.75_alone",
        "0.57 of it: T, 1400 steps": "t_of_longer_1400",
        "1400 steps: T - S trained longer": "t_of_longer_1400 - s_longer",
        "0.57 of it: T, 2800 steps": "t_of_longer_2800",
        "2800 steps: T - S trained longer": "t_of_longer_2800 - s_longer",
        "0.57: T - S": "t_0.57_alone - s",
        "0.57: T - S trained longer": "t_0.57_alone - s_longer",
        "0.57: T - S of its cost": "t_0.57_alone - s_0.0111_alone",
        "0.75: T - S of its cost": "t_0.75_alone - s_0.0150_alone",
        "S, 0.0111 - by hand, scaled": "s_0.0111_alone - scaled",
    },
    "figure_6a: the same architectures with and without fusion": {
        "0.50 of S: T": "t_0.50_alone",
        "0.50: without fusion": "t_0.50_no_fusion",
        "0.50: T - without fusion": "t_0.50_alone - t_0.50_no_fusion",
        "0.75 of S: T": "t_0.75_alone",
        "0.75: without fusion": "t_0.75_no_fusion",
        "0.75: T - without fusion": "t_0.75_alone - t_0.75_no_fusion",
    },
    "figure_6b: an architecture for each frame, or one for all non-key frames": {
        "0.50 of S: T": "t_0.50_alone",
        "0.50: one for all": "shared_0.50_alone",
        "0.50: T - one for all": "t_0.50_alone - shared_0.50_alone",
        "0.75 of S: T": "t_0.75_alone",
        "0.75: one for all": "shared_0.75_alone",
        "0.75: T - one for all": "t_0.75_alone - shared_0.75_alone",
    },
    "table_4: T = 2, 3, 4 from one super-network that was trained with 3": {
        "T = 2": "frames_2_alone",
        "T = 3": "t_0.57_alone",
        "T = 4": "frames_4_alone",
    },
    "choices: what another choice than ours would change": {
        "judged on all of val, not by halves": "plain_alone - s",
        "candidates from all below the budget": "all_below_alone - s",
        "N = 1 random subnet a step, not 2": "n_1 - s",
        "N = 4": "n_4 - s",
        "no distillation": "no_distillation - s",
        "fusion starts at random": "random_fusion - t_0.57_alone",
        "gradients let through between frames": "let_through - t_0.57_alone",
    },
}


# -------------------------------------------------------------------------------------- the tables
def show(title, table):
    """Print a claim: mean and deviation over the seeds."""
    print(f"\n{title}")
    for name, row in table.items():
        cells = [f"{column} {x['mean']:.4g} +- {x['std']:.2g}" for column, x in row.items()]
        print(f"{name:37}" + "   ".join(cells))


def summary(values):
    """Mean and standard deviation over the seeds; the deviation of one seed is 0."""
    spread = np.std(values, ddof=min(1, len(values) - 1))
    return {"mean": float(np.mean(values)), "std": float(spread), "seeds": values}


def plot(table):
    """Fig. 4: AP on all frames over GFLOPs and over milliseconds, mean and deviation."""
    image = Image.new("RGB", (1000, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(14)
    pen.text((60, 18), "AP on all frames of test clips", "black")
    table = {name: row for name, row in table.items() if "ms" in row}  # without differences
    scores = [row["AP"]["mean"] for row in table.values()]
    ap = np.linspace(min(scores) - 2, max(scores) + 2, 6)
    lines = np.linspace(350, 40, 6)
    for left, price in ((60, "GFLOPs"), (550, "ms")):
        prices = np.linspace(0, 1.1 * max(row[price]["mean"] for row in table.values()), 6)
        columns = np.linspace(left, left + 420, 6)
        pen.text((left + 210, 378), f"{price} a frame", "black", anchor="ma")
        for i in range(6):
            pen.line([left, lines[i], left + 420, lines[i]], "lightgrey")
            pen.text((left - 6, lines[i]), f"{ap[i]:.0f}", "black", anchor="rm")
            pen.text((columns[i], 356), f"{prices[i]:.2g}", "black", anchor="ma")
        for kind, colour in {"by hand": "grey", "S": "royalblue", "T": "crimson"}.items():
            rows = [row for name, row in table.items() if name.startswith(kind)]
            rows.sort(key=lambda row: row[price]["mean"])
            x = np.interp([row[price]["mean"] for row in rows], prices, columns)
            for i, row in enumerate(rows):
                ends = [row["AP"]["mean"] + k * row["AP"]["std"] for k in (-1, 0, 1)]
                low, y, high = np.interp(ends, ap, lines)
                pen.line([x[i], low, x[i], high], colour)
                pen.circle((x[i], y), 4, colour)
            pen.text((x[-1] + 8, y), kind, colour, anchor="lm")
    data.save_image(image, Path("results/budgets.png"))


def write_tables():
    """Print every claim, and write it to results/claim_*.json; Fig. 4 to results/budgets.png."""
    for title, claim in CLAIMS.items():
        name = title.split(":")[0]
        seeds = {}
        for folder in sorted(RUNS.glob("[0-9]*")):
            try:
                rows = claim(folder) if callable(claim) else rows_of(folder, claim)
                seeds[folder.name] = rows
            except (FileNotFoundError, data.UserError) as error:
                print(f"{name}, seed {folder.name}: not yet, {error}")
        if not seeds:
            continue
        table = {}
        for row, columns in rows.items():
            table[row] = {}
            for column in columns:
                table[row][column] = summary([each[row][column] for each in seeds.values()])
        data.write_json({"seeds": list(seeds), "rows": table}, Path(f"results/claim_{name}.json"))
        show(f"{title} ({len(seeds)} seeds)", table)
        if name == "budgets":
            plot(table)


def main():
    """Run what is missing of the seeds that are named, and write the tables."""
    os.chdir(Path(__file__).parent.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    words = sys.argv[1:] or ["0", "1", "2", "tables"]
    if words[0] == "--varied":  # a command of `run_all`, in this process
        _, run, script, *words = words
        module, constant, value = VARIED[run]
        assert hasattr(import_module(module), constant), f"{module}.{constant} has another name now"
        setattr(import_module(module), constant, value)
        import_module(Path(script).stem).main(words)
        return
    for what in words:
        if what == "tables":
            write_tables()
        else:
            run_all(what)


if __name__ == "__main__":
    main()
