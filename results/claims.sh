#!/bin/bash
# What the paper claims, measured on drawn people over three seeds.
#
#     results/claims.sh            # everything, then the tables: some 15 hours on one core
#     results/claims.sh 0          # the trainings of seed 0 alone: seeds can run side by side
#     results/claims.sh tables     # only the tables, of what is there
#
# A run that is there is skipped and one that was cut off goes on, so this can be stopped at any
# time. Everything lies in runs/claims, a folder for each seed; the tables also in results/*.json.
# One thread each, so that runs side by side do not slow each other down. PYTHON: which interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 PYTHONPATH=.
python=${PYTHON:-python}
what=${*:-0 1 2 tables}

# A training, kept in the folder $1; the rest are options of train.py.
train() {
    local out=$runs/$1
    shift
    [ -e "$out/report.json" ] || $python "${code:-.}/train.py" --seed "$seed" --out "$out" --resume "$@"
}

# A search in the super-network $2, kept in the folder $1; the rest are options of search.py.
find() {
    local out=$runs/$1 supernet=$runs/$2/supernet.pt
    shift 2
    [ -e "$out/arch.json" ] || $python "${code:-.}/search.py" --checkpoint "$supernet" --seed "$seed" --out "$out" "$@"
}

# An allocation, each network alone from the weights of S: 1,400 steps of 16 images for each frame,
# as many as in the default run, unless options say otherwise: of two that are alike the last counts.
train_chain() {
    local name=$1 arch=$2
    shift 2
    train "$name" --stage t --s "$runs/s/vipnas_s.pt" --arch "$runs/$arch/arch.json" --steps 1400 "$@"
}

# What is found in stage s, alone from the super-network's weights, as in the default run.
train_found() {
    train "$1"_alone --stage s --arch "$runs/$1/arch.json" --init "$runs/$1/vipnas_s.pt" --steps 1600
}

# A copy of the code, the folder $code, with other lines in file $2: old, new, old, new ...
change() {
    code=$runs/code/$1
    local path=$code/$2
    rm -rf "$code"
    mkdir -p "$code"
    cp ./*.py "$code"
    shift 2
    $python - "$path" "$@" <<'END'
import sys
from pathlib import Path

path, *lines = sys.argv[1:]
text = Path(path).read_text()
for old, new in zip(lines[::2], lines[1::2], strict=True):
    if old not in text:
        sys.exit(f"claims: {path} has no line with {old}")
    text = text.replace(old, new)
Path(path).write_text(text)
END
}

# Architectures for the runs below, JSON files in $runs/archs.
draw_archs() {
    $python - "$seed" "$runs/archs" <<'END'
import json, random, sys
from pathlib import Path
import numpy as np
import data, search, vipnas

seed, out = sys.argv[1], Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
space = vipnas.SPACES["tiny"]
rng = random.Random(f"{seed} claims")
# by hand: the largest network, and one scaled down to T's cost: 5/8 of its width, 2/3 of its depth
vipnas.write_archs(space.largest(), out / "largest.json")
scaled = json.loads(space.largest().to_json())
for stage in scaled["stages"]:
    stage["depth"] = stage["depth"] * 2 // 3
    (branch,) = stage["branches"]
    in_group = branch["width"] * branch["expansion"] // branch["groups"]
    branch["width"] = round(branch["width"] * 5 / 8 / 8) * 8
    branch["groups"] = branch["width"] * branch["expansion"] // in_group
data.write_json(scaled, out / "scaled.json")
# 12 over the range of budgets
for k, budget in enumerate(np.geomspace(0.0065, 0.0285, 12)):
    vipnas.write_archs(search.sample(space, budget, 1, rng), out / f"any_{k}.json")
# 5 others of what the search for S had to choose from
page = json.loads((out.parent / "s/search.json").read_text())
others = [row["archs"] for i, row in enumerate(page["candidates"]) if i != page["best"]]
for k, archs in enumerate(rng.sample(others, 5)):
    data.write_json(archs, out / f"random_{k}.json")
END
}

# What the average frame may cost: the share $1 of the found S.
share_of_s() {
    $python -c "
import json
row = json.load(open('$runs/s/report.json'))['rows']['S-ViPNAS']
print(round($1 * row['gflops'], 5))"
}

trainings() {
    # Tables 1 and 3: the two commands of the README
    train s --stage s
    train t --stage t --s "$runs/s/vipnas_s.pt"
    draw_archs

    # S, trained on as T's networks are: as many images as each of them has seen, with a new cosine
    train s_longer --stage s --arch "$runs/s/arch.json" --init "$runs/s/vipnas_s.pt" --steps 700

    # Fig. 6a: T at three budgets, each trained alone; the same without its fusions
    for share in 0.50 0.57 0.75; do
        find t_$share t --gflops "$(share_of_s $share)"
        train_chain t_${share}_alone t_$share
    done
    for share in 0.50 0.75; do
        train_chain t_${share}_no_fusion t_$share --no-fusion
    done

    # Table 1 once more: T from the S that was trained on, as long as above and twice as long
    for steps in 1400 2800; do
        train_chain t_of_longer_$steps t_0.57 --s "$runs/s_longer/vipnas_s.pt" --steps $steps
    done

    # Fig. 6b: one architecture for all non-key frames
    for share in 0.50 0.75; do
        find shared_$share t --gflops "$(share_of_s $share)" --shared
        train_chain shared_${share}_alone shared_$share
    done

    # Table 1, Fig. 4: S at two more budgets; two networks made by hand, which start from nothing
    # and train 500 steps more, as many as the super-network
    for budget in 0.0111 0.0150; do
        find s_$budget s --gflops $budget
        train_found s_$budget
    done
    for name in scaled largest; do
        train $name --stage s --arch "$runs/archs/$name.json" --steps 2100
    done

    # Table 4: T = 2, 4 of the super-network that was trained with 3, at the average of T = 3
    for frames in 2 4; do
        find frames_$frames t --gflops "$(share_of_s 0.57)" --frames $frames
        train_chain frames_${frames}_alone frames_$frames --frames $frames
    done

    # The search's winner and others of its cost; twelve of any cost: all from nothing
    train winner --stage s --arch "$runs/s/arch.json" --steps 500
    for k in 0 1 2 3 4; do
        train random_$k --stage s --arch "$runs/archs/random_$k.json" --steps 500
    done
    for k in 0 1 2 3 4 5 6 7 8 9 10 11; do
        train any_$k --stage s --arch "$runs/archs/any_$k.json" --steps 500
    done

    # Choices of ours: the search
    find plain s --gflops 0.02 --plain
    train_found plain
    change all_below search.py "BAND = 0.9 " "BAND = 0.0 "
    find all_below s --gflops 0.02
    code=
    train_found all_below
    # the training of S
    for n in 1 4; do
        change n_$n train.py "RANDOM_SUBNETS = 2 " "RANDOM_SUBNETS = $n "
        train n_$n --stage s
    done
    change no_distillation train.py "losses.append((hard + soft) / 2)" "losses.append(hard)"
    train no_distillation --stage s
    # the training of T, of the same architectures
    change random_fusion fusion.py "nn.init.zeros_(encode.weight)" pass \
        "nn.init.eye_(project.weight[:, :, 0, 0])" pass \
        "nn.init.eye_(self.project_heatmaps.weight[:, :, 0, 0])" pass
    train_chain random_fusion t_0.57
    change let_through train.py "cut=True" "cut=False"
    train_chain let_through t_0.57
    code=
}

# The tables of what is there, results/claim_*.json, and results/budgets.png.
tables() {
    $python - <<'END'
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import kendalltau

import data
import search
import vipnas

RUNS = Path("runs/claims")
CPU = torch.device("cpu")
SIZE = vipnas.SPACES["tiny"].image_size


@lru_cache
def clips(split, frames):
    return search.EvaluationSet(data.SyntheticClips(split, 400, frames, SIZE), CPU)


def points(nets, split="test"):
    """How well each person is found in each frame (N, F), 0 to 100; one network sees all frames."""
    evaluation = clips(split, max(len(nets), 4 if split == "test" else 1))
    keypoints = search.predict(nets if len(nets) > 1 else nets * evaluation.frames, evaluation)
    return 100 * search.passed(keypoints, evaluation.clips, evaluation.indices, 0)


@lru_cache
def milliseconds(arch):
    return vipnas.frame_times([vipnas.PoseNet(arch).eval()])[0]


def judged(folder, stage):
    """The row of a finished network: what its average frame costs, and its AP on test."""
    nets, _ = vipnas.load_networks(folder / f"vipnas_{stage}.pt")
    kept = folder / "judged.json"
    if not kept.exists():
        found = points(nets)
        ap = {"AP": found.mean(), "non-key": found[:, 1:].mean()}
        kept.write_text(json.dumps(ap))
    gflops = [vipnas.cost(net.arch, SIZE, net.joints).gflops for net in nets]
    times = [milliseconds(net.arch) for net in nets]
    return {"GFLOPs": np.mean(gflops), "ms": np.mean(times), **json.loads(kept.read_text())}


def less(ours, other):
    """By how much one row is better than another."""
    return {"AP": ours["AP"] - other["AP"], "non-key": ours["non-key"] - other["non-key"]}


# Each claim: {row: {column: number}} of one seed. An error says which run is missing.


def table_3(runs):
    """Tables 1 and 3: the default run"""
    report = json.loads((runs / "t/report.json").read_text())
    chain, _ = vipnas.load_networks(runs / "t/vipnas_t.pt")
    page = json.loads((runs / "t/rival.json").read_text())
    rival = vipnas.Arch.from_json(json.dumps(page["candidates"][page["best"]]["archs"][0]))
    archs = {
        "T-ViPNAS": [net.arch for net in chain],
        "S on every frame": [chain[0].arch],
        "rival on every frame": [rival],
    }
    rows = {}
    for name, row in report["rows"].items():
        times = [milliseconds(arch) for arch in archs.get(name, [])]
        costs = {"GFLOPs": row["gflops"], "ms": np.mean(times)} if times else {}
        rows[name] = costs | row["ap"]
    for pair in report["pairs"]:
        rows[f"T - {pair['other']}"] = {"non-key": pair["better"]}
    t, s = rows["T-ViPNAS"], rows["S on every frame"]
    rows["T as a share of S"] = {key: t[key] / s[key] for key in ("GFLOPs", "ms")}
    return rows


def conditions(runs):
    """Where memory helps: non-key frames, by what the renderer did to them"""
    report = json.loads((runs / "t/report.json").read_text())
    rows = {}
    for condition, group in report["conditions"].items():
        for name, ap in group["ap"].items():
            rows.setdefault(name, {})[condition] = ap
        for name, (better, _) in group["better"].items():
            rows.setdefault(f"T - {name}", {})[condition] = better
        rows.setdefault("frames", {})[condition] = group["frames"]
    return rows


def budgets(runs):
    """Table 1, Fig. 4: networks made by hand, S on every frame, and T, at several budgets"""
    names = {
        "by hand, scaled": "scaled",
        "by hand, largest": "largest",
        "S, 0.0111 GFLOPs": "s_0.0111_alone",
        "S, 0.0150 GFLOPs": "s_0.0150_alone",
        "S, 0.0200 GFLOPs": "s",
        "the same, trained longer": "s_longer",
    }
    rows = {name: judged(runs / folder, "s") for name, folder in names.items()}
    for share in ("0.50", "0.57", "0.75"):
        rows[f"T, {share} of S"] = judged(runs / f"t_{share}_alone", "t")
    longer = rows["the same, trained longer"]
    for steps in (1400, 2800):
        chain = rows[f"0.57 of it: T, {steps} steps"] = judged(runs / f"t_of_longer_{steps}", "t")
        rows[f"{steps} steps: T - S trained longer"] = less(chain, longer)
    t = rows["T, 0.57 of S"]
    rows["0.57: T - S"] = less(t, rows["S, 0.0200 GFLOPs"])
    rows["0.57: T - S trained longer"] = less(t, longer)
    rows["0.57: T - S of its cost"] = less(t, rows["S, 0.0111 GFLOPs"])
    rows["0.75: T - S of its cost"] = less(rows["T, 0.75 of S"], rows["S, 0.0150 GFLOPs"])
    rows["S, 0.0111 - by hand, scaled"] = less(rows["S, 0.0111 GFLOPs"], rows["by hand, scaled"])
    return rows


def at_budgets(runs, folder, what):
    """T beside something else of its budget, which is a share of S."""
    rows = {}
    for share in ("0.50", "0.75"):
        ours = rows[f"{share} of S: T"] = judged(runs / f"t_{share}_alone", "t")
        other = rows[f"{share}: {what}"] = judged(runs / folder.format(share), "t")
        rows[f"{share}: T - {what}"] = less(ours, other)
    return rows


def figure_6a(runs):
    """Fig. 6a: the same architectures with and without fusion"""
    return at_budgets(runs, "t_{}_no_fusion", "without fusion")


def figure_6b(runs):
    """Fig. 6b: an architecture for each frame, or one for all non-key frames"""
    return at_budgets(runs, "shared_{}_alone", "one for all")


def table_4(runs):
    """Table 4: T = 2, 3, 4 from one super-network that was trained with 3"""
    names = {"T = 2": "frames_2_alone", "T = 3": "t_0.57_alone", "T = 4": "frames_4_alone"}
    return {name: judged(runs / folder, "t") for name, folder in names.items()}


def honest_judge(runs):
    """12 architectures: Kendall's tau of their AP when trained alone, with ..."""
    trained = []
    for k in range(12):
        (net,), _ = vipnas.load_networks(runs / f"any_{k}/vipnas_s.pt")
        trained.append(net)
    supernet, _, _ = vipnas.load_supernet(runs / "s/supernet.pt")
    people = data.SyntheticClips("train", 256, 1, SIZE)
    calibration = search.calibration_set(people, CPU, 0)
    alone, inherited, prices = [], [], []
    for net in trained:
        alone.append(points([net], "val").mean())
        inherited.append(points(search.finish(supernet, [net.arch], calibration), "val").mean())
        prices.append(vipnas.cost(net.arch, SIZE, net.joints).gflops)
    rows = {}
    rng = np.random.default_rng(0)
    for name, values in {"AP as slices": inherited, "GFLOPs": prices}.items():
        values, target = np.array(values), np.array(alone)
        drawn = rng.integers(12, size=(2000, 12))  # the bootstrap: other twelve, out of these
        taus = [kendalltau(values[some], target[some]).statistic for some in drawn]
        low, high = np.nanpercentile(taus, [2.5, 97.5])
        tau = kendalltau(values, target).statistic
        rows[name] = {"tau": tau, "2.5 %": low, "97.5 %": high}
    return rows


def winner(runs):
    """The search's winner, and the median of five random others of its cost, all from nothing"""
    won = judged(runs / "winner", "s")
    others = [judged(runs / f"random_{k}", "s") for k in range(5)]
    median = {key: np.median([row[key] for row in others]) for key in won}
    return {"winner": won, "median of others": median, "winner - median": less(won, median)}


def choices(runs):
    """Choices of ours: what another choice would change"""
    others = {
        "judged on all of val, not by halves": ("plain_alone", "s", "s"),
        "candidates from all below the budget": ("all_below_alone", "s", "s"),
        "N = 1 random subnet a step, not 2": ("n_1", "s", "s"),
        "N = 4": ("n_4", "s", "s"),
        "no distillation": ("no_distillation", "s", "s"),
        "fusion starts at random": ("random_fusion", "t_0.57_alone", "t"),
        "gradients let through between frames": ("let_through", "t_0.57_alone", "t"),
    }
    rows = {}
    for name, (folder, ours, stage) in others.items():
        rows[name] = less(judged(runs / folder, stage), judged(runs / ours, stage))
    return rows


def summary(values):
    """Mean and standard deviation over the seeds; of one seed it is 0."""
    spread = np.std(values, ddof=min(1, len(values) - 1))
    return {"mean": float(np.mean(values)), "std": float(spread), "seeds": values}


COSTS = {"GFLOPs": ".4f", "ms": ".2f"}


def show(claim, table, seeds):
    """Print a claim: mean and spread over the seeds, of costs only the mean."""
    columns = list(dict.fromkeys([column for row in table.values() for column in row]))
    print(f"\n{claim.__doc__} ({len(seeds)} seeds)")
    print(" " * 37 + "".join([f"{column:>13}" for column in columns]))
    for name, row in table.items():
        sign = "+" if " - " in name or claim is choices else ""
        digits = 2 if claim is honest_judge else 0 if name == "frames" else 1
        line = f"{name:37}"
        for column in columns:
            cell = ""
            if column in row:
                mean, std = row[column]["mean"], row[column]["std"]
                cell = f"{mean:{COSTS.get(column, f'{sign}.{digits}f')}}"
                if std and column not in COSTS:
                    cell += f" +- {std:.{digits}f}"
            line += f"{cell:>13}"
        print(line.rstrip())


def plot(table):
    """Fig. 4: AP on all frames over GFLOPs and over milliseconds, mean and spread of the seeds."""
    image = Image.new("RGB", (1000, 400), "white")
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(14)
    colours = {"by hand": "grey", "S": "royalblue", "T": "crimson"}
    table = {name: row for name, row in table.items() if "ms" in row}  # without differences
    low = 5 * (min(row["AP"]["mean"] for row in table.values()) // 5)
    high = 5 * (max(row["AP"]["mean"] for row in table.values()) // 5 + 1)
    for left, price, tick in ((60, "GFLOPs", 0.005), (550, "ms", 0.5)):
        most = max(row[price]["mean"] for row in table.values()) // tick * tick + tick

        def place(x, y, left=left, most=most):
            return left + 420 * x / most, 350 - 310 * (y - low) / (high - low)

        for y in np.arange(low, high + 1, 5):
            pen.line([place(0, y), place(most, y)], "lightgrey")
            pen.text(place(-0.015 * most, y), f"{y:.0f}", "black", anchor="rm")
        for x in np.arange(0, most + tick / 2, tick):
            pen.text(place(x, low - 0.02 * (high - low)), f"{x:.3g}", "black", anchor="ma")
        pen.text((left + 210, 378), f"{price} a frame", "black", anchor="ma")
        pen.text((left, 18), "AP on all frames of test clips", "black")
        for i, (kind, colour) in enumerate(colours.items()):
            rows = [row for name, row in table.items() if name.startswith(kind)]
            rows.sort(key=lambda row: row[price]["mean"])
            pen.line([place(row[price]["mean"], row["AP"]["mean"]) for row in rows], colour)
            for row in rows:
                x, y, spread = row[price]["mean"], row["AP"]["mean"], row["AP"]["std"]
                pen.line([place(x, y - spread), place(x, y + spread)], colour)
                pen.circle(place(x, y), 4, colour)
            pen.text((left + 410, 340 - 20 * i), kind, colour, anchor="rm")
    data.save_image(image, Path("results/budgets.png"))


claims = (table_3, conditions, budgets, figure_6a, figure_6b, table_4)
claims += (honest_judge, winner, choices)
for claim in claims:
    rows = {}  # of each seed
    for runs in sorted(path for path in RUNS.glob("[0-9]*") if path.is_dir()):
        try:
            rows[runs.name] = claim(runs)
        except (FileNotFoundError, data.UserError) as error:
            print(f"{claim.__name__}, seed {runs.name}: not yet, {error}")
    if not rows:
        continue
    table = {}
    for name, row in next(iter(rows.values())).items():
        table[name] = {key: summary([rows[seed][name][key] for seed in rows]) for key in row}
    data.write_json({"seeds": list(rows), "rows": table}, Path(f"results/claim_{claim.__name__}.json"))
    show(claim, table, rows)
    if claim is budgets:
        plot(table)
END
}

for seed in $what; do
    runs=runs/claims/$seed
    if [ "$seed" = tables ]; then
        tables
    else
        trainings
    fi
done
