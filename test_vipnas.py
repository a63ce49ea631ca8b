"""The tests. They run in a few minutes on two CPU cores: python -m pytest test_vipnas.py

The chapters' order. Real files come from the folder named by the environment variable VIPNAS_SAMPLES; without it the
tests that need them are skipped.
"""
import dataclasses
import itertools
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import data
import search
import train
import vipnas
from elastic import (ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d, ElasticLayerNorm, GlobalContext, SqueezeExcite)
from fusion import OPERATIONS, TemporalFusion
from vipnas import ARCHS, SPACES, Arch, Fusion, PoseNet, Space, Stage, cost, serial

SAMPLES = pathlib.Path(os.environ.get("VIPNAS_SAMPLES", "/nonexistent"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIPNAS_SAMPLES names no folder")
HERE = pathlib.Path(__file__).parent
TINY = SPACES["tiny"]


RESNET, MOBILE, HRNET = (ARCHS[name] for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32"))


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max().item() <= tolerance * max(1, b.abs().max().item())


def same_as(elastic, arguments, plain, slices, x):
    """`elastic(x, *arguments)` equals the ordinary layer `plain`, values and gradients; nothing leaks outside the slice.

    slices: {name of the parameter in both: index of the slice in the elastic layer's}.
    """
    with torch.no_grad():
        for name, index in slices.items():
            getattr(plain, name).copy_(getattr(elastic, name)[index])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = elastic(a, *arguments), plain(b)
    close(out, expected)
    probe = torch.randn_like(expected)
    (out * probe).sum().backward(), (expected * probe).sum().backward()
    close(a.grad, b.grad)
    for name, index in slices.items():
        gradient = getattr(elastic, name).grad
        close(gradient[index], getattr(plain, name).grad)
        outside = torch.ones_like(gradient, dtype=torch.bool)
        outside[index] = False
        assert (gradient[outside] == 0).all()


# ---------------------------------------------------------------------------------------------- elastic
@pytest.mark.parametrize("inputs, width, kernel, groups", [(32, 32, 7, 2), (32, 16, 5, 4), (24, 16, 3, 8), (16, 16, 5, 16), (24, 24, 3, 24)])
def test_convolution_is_the_slice(inputs, width, kernel, groups):
    torch.manual_seed(0)
    layer = ElasticConv2d(32, 32, 7, stride=2, groups=2, bias=True)
    nn.init.normal_(layer.bias)
    m = (7 - kernel) // 2
    plain = nn.Conv2d(inputs, width, kernel, 2, kernel // 2, groups=groups)
    index = (slice(width), slice(inputs // groups), slice(m, 7 - m), slice(m, 7 - m))
    same_as(layer, (width, kernel, groups), plain, {"weight": index, "bias": slice(width)}, torch.randn(2, inputs, 9, 8))


@pytest.mark.parametrize("inputs, width, kernel, groups", [(32, 32, 4, 4), (32, 16, 2, 4), (24, 8, 4, 8), (16, 16, 2, 16)])
def test_deconvolution_is_the_slice_and_doubles(inputs, width, kernel, groups):
    torch.manual_seed(0)
    layer = ElasticConvTranspose2d(32, 32, 4, groups=4)
    m, x = (4 - kernel) // 2, torch.randn(2, inputs, 5, 4)
    plain = nn.ConvTranspose2d(inputs, width, kernel, 2, (kernel - 2) // 2, groups=groups, bias=False)
    same_as(layer, (width, kernel, groups), plain, {"weight": (slice(inputs), slice(width // groups), slice(m, 4 - m), slice(m, 4 - m))}, x)
    assert layer(x, width, kernel, groups).shape == (2, width, 10, 8)


def test_group_numbers_that_do_not_divide_give_way():
    layer = ElasticConvTranspose2d(160, 256, 4, groups=32)
    weight, groups = layer.slice(160, 256, 4, 256)
    assert groups == 32 and weight.shape == (160, 8, 4, 4)
    with pytest.raises(ValueError, match="cannot give"):
        layer.slice(160, 256, 4, 2)
    with pytest.raises(ValueError, match="cannot be cut"):
        ElasticConv2d(8, 8, 5)(torch.zeros(1, 8, 4, 4), kernel=7)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_the_first_channels(training):
    torch.manual_seed(0)
    layer, plain, x = ElasticBatchNorm2d(12), nn.BatchNorm2d(8).train(training), torch.randn(6, 8, 5, 4) * 3 + 1
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias), layer.running_mean.normal_(), layer.running_var.uniform_(1, 2)
    plain.running_mean.copy_(layer.running_mean[:8]), plain.running_var.copy_(layer.running_var[:8])
    rest = layer.running_mean[8:].clone()
    same_as(layer.train(training), (), plain, {"weight": slice(8), "bias": slice(8)}, x)
    close(layer.running_mean[:8], plain.running_mean), close(layer.running_var[:8], plain.running_var, 1e-2)
    assert torch.equal(layer.running_mean[8:], rest)


def test_layer_norm_over_the_first_channels():
    torch.manual_seed(0)
    layer, plain, x = ElasticLayerNorm(12), nn.LayerNorm([8, 1, 1]), torch.randn(6, 8, 1, 1)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[:8, None, None]), plain.bias.copy_(layer.bias[:8, None, None])
    close(layer(x), plain(x))


def test_global_context_at_any_width():
    torch.manual_seed(0)
    layer = GlobalContext(320)
    nn.init.normal_(layer.expand.weight, std=.1), nn.init.normal_(layer.mask.bias), nn.init.normal_(layer.norm.weight)
    for channels, hidden in ((320, 20), (304, 19), (80, 16)):
        x = torch.randn(2, channels, 6, 5)
        where = F.conv2d(x, layer.mask.weight[:, :channels], layer.mask.bias).view(2, 1, 30).softmax(-1)
        context = (x.view(2, channels, 30) * where).sum(-1)
        y = context @ layer.reduce.weight[:hidden, :channels, 0, 0].T + layer.reduce.bias[:hidden]
        y = F.relu(F.layer_norm(y, (hidden,), layer.norm.weight[:hidden], layer.norm.bias[:hidden]))
        y = y @ layer.expand.weight[:channels, :hidden, 0, 0].T + layer.expand.bias[:channels]
        close(layer(x), x + y[:, :, None, None])


def test_squeeze_excite_at_any_width():
    torch.manual_seed(0)
    layer = SqueezeExcite(96)
    for channels in (96, 72, 48):
        x = torch.randn(2, channels, 6, 5)
        y = F.relu(x.mean((2, 3)) @ layer.reduce.weight[:channels // 4, :channels, 0, 0].T)
        y = ((y @ layer.expand.weight[:channels, :channels // 4, 0, 0].T + 1) / 2).clamp(0, 1)
        close(layer(x), x * y[:, :, None, None])


@pytest.mark.parametrize("name", ["resnet50", "tiny"])
def test_attention_not_chosen_is_skipped(name):
    torch.manual_seed(0)
    net = PoseNet(SPACES[name]).eval()
    with_attention = SPACES[name].largest()
    without = dataclasses.replace(with_attention, stages=tuple(
        Stage(s.depth, tuple(b._replace(attention=False) for b in s.branches)) for s in with_attention.stages))
    x = torch.randn(1, 3, 64, 64)
    before = net(x, with_attention), net(x, without)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (GlobalContext, SqueezeExcite)):
                nn.init.normal_(module.expand.weight)
    assert not torch.equal(net(x, with_attention), before[0])
    assert torch.equal(net(x, without), before[1])
    assert not any(isinstance(m, (GlobalContext, SqueezeExcite)) for m in net.extract(without).modules())


# ---------------------------------------------------------------------------------------------- fusion
@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_is_the_papers_figure_at_any_width(operation):
    torch.manual_seed(0)
    module, heatmaps = TemporalFusion(17, 48), torch.rand(2, 17, 16, 12)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    for c in (48, 32):
        x = torch.randn(2, c, 8, 6)
        h = F.conv2d(heatmaps, module.encode[operation].weight[:c], module.encode[operation].bias[:c])
        h = F.interpolate(h, (8, 6), mode="bilinear", align_corners=False)
        fused = {"add": x + h, "mul": x * h, "cat": torch.cat([x, h], 1)}[operation]
        weight = module.project[operation].weight[:c, :c]
        if operation == "cat":  # the halves of one convolution over 2C channels
            weight = torch.cat([weight, module.project_heatmaps.weight[:c, :c]], 1)
        close(module(x, heatmaps, operation), F.conv2d(fused, weight, module.project[operation].bias[:c]))


@pytest.mark.parametrize("stage, operation", list(itertools.product((1, 2, 3, 4), OPERATIONS)))
def test_a_fused_network_starts_as_the_unfused_one_and_learns_from_the_heatmaps(stage, operation):
    torch.manual_seed(0)
    arch = TINY.sample(random.Random(stage))
    net = PoseNet(arch).eval()
    fused = dataclasses.replace(arch, fusion=Fusion(stage, operation))
    space = TINY.within(arch)
    temporal = PoseNet(space).inherit(net).eval()
    assert fused in space
    x, heatmaps = torch.randn(2, 3, 64, 32), torch.rand(2, 17, 16, 8)
    close(temporal(x, fused, heatmaps), net(x))
    temporal(x, fused, heatmaps).square().sum().backward()
    assert temporal.fusions[str(stage)].encode[operation].weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="last frame"):
        temporal(x, fused)


# ---------------------------------------------------------------------------------------------- architectures and spaces
@pytest.mark.parametrize("name", SPACES)
def test_arch_goes_through_json_and_prints_on_one_line(name):
    for seed in range(20):
        arch = SPACES[name].sample(random.Random(seed))
        arch = dataclasses.replace(arch, fusion=Fusion(2, "cat") if seed % 2 else None)
        assert Arch.from_json(arch.to_json()) == arch and hash(Arch.from_json(arch.to_json())) == hash(arch)
        assert "\n" not in str(arch) + arch.to_json()


@pytest.mark.parametrize("damage, message", [
    (lambda d: d.pop("stem"), "not an architecture"), (lambda d: d.update(backbone="vgg"), "no backbone"),
    (lambda d: d["stages"].pop(), "stages"), (lambda d: d.update(fusion={"stage": 9, "operation": "add"}), "fusion"),
    (lambda d: d["head"].update(kernel=3), "kernels"), (lambda d: d.update(stem=-1), "whole numbers"),
    (lambda d: d["stages"][0].update(depth="2"), "whole numbers"), (lambda d: d.update(head=None), "deconvolutions"),
    (lambda d: d["stages"][0]["branches"].append(d["stages"][0]["branches"][0]), "branches"),
    (lambda d: d["stages"][0]["branches"][0].update(expansion=3), "expansion")])
def test_a_wrong_architecture_is_one_sentence(damage, message):
    d = json.loads(RESNET.to_json())
    damage(d)
    with pytest.raises(ValueError, match=message):
        Arch.from_json(json.dumps(d))


def test_the_ends_of_the_tables():
    r, m = SPACES["resnet50"], SPACES["mobilenetv3"]
    assert r.smallest() == serial("resnet50", 32, [(3, 64, 3, 64, False, 1), (4, 128, 3, 64, False, 1), (6, 256, 3, 64, False, 1),
                                                   (3, 512, 3, 64, False, 1)], (64, 4, 64))
    assert r.largest() == serial("resnet50", 64, [(4, 80, 5, 16, True, 1), (6, 160, 5, 16, True, 1), (8, 320, 5, 16, True, 1),
                                                  (4, 640, 5, 16, True, 1)], (256, 4, 16))
    rows = [(2, 24, 3, 72, False, 3), (2, 40, 3, 120, False, 3), (2, 80, 3, 240, False, 3), (2, 112, 3, 336, False, 3), (2, 160, 3, 480, False, 3)]
    assert m.smallest() == serial("mobilenetv3", 16, [(1, 16, 3, 16, False, 1)] + rows, (256, 4, 256))
    rows = [(4, 24, 7, 9, True, 6), (4, 40, 7, 15, True, 6), (4, 80, 7, 30, True, 6), (4, 112, 7, 42, True, 6), (4, 160, 7, 60, True, 6)]
    assert m.largest() == serial("mobilenetv3", 16, [(1, 16, 3, 2, True, 1)] + rows, (256, 4, 32))


@pytest.mark.parametrize("name", SPACES)
def test_samples_are_members_and_cost_no_more_than_the_largest(name):
    space, rng = SPACES[name], random.Random(0)
    inner = space.within(space.sample(rng))
    for s in (space, inner):
        ends = [cost(a, s.image_size) for a in (s.smallest(), s.largest())]
        archs = [s.sample(rng) for _ in range(100)]
        assert all(a in s for a in archs) and len(set(archs)) > 50
        assert all(ends[0].macs <= cost(a, s.image_size).macs for a in archs if a.fusion == s.smallest().fusion)
        assert all(cost(a, s.image_size).gflops <= 1.05 * ends[1].gflops for a in archs)
    assert dataclasses.replace(space.largest(), stem=space.largest().stem + 16) not in space
    assert space.largest() not in inner and all(a.fusion for a in archs)


def test_size_counts_every_architecture():
    space = dataclasses.replace(TINY, depth=((1,), (1, 2), (1,), (1, 3)), rows=(TINY.rows[0],) + tuple(
        (dataclasses.replace(rows[0], groups=rows[0].groups[:2], kernel=(3,)),) for rows in TINY.rows[1:]))
    branches = [rows[0].branches("tiny") for rows in space.rows]
    every = {Arch("tiny", 16, tuple(Stage(d, (b,)) for d, b in zip(depths, choice)), head)
             for depths in itertools.product(*space.depth) for choice in itertools.product(*branches)
             for head in space.head.heads(choice[-1].width)}
    assert space.size() == len(every) and all(a in space for a in random.Random(0).sample(sorted(every, key=str), 200))
    assert Space.of(RESNET).size() == 1 and Space.of(RESNET).sample(random.Random(0)) == RESNET


@pytest.mark.parametrize("mother", [RESNET, MOBILE, HRNET, ARCHS["sbl_resnet50"]])
def test_the_space_within_an_architecture(mother):
    space = SPACES[mother.backbone].within(mother)
    assert dataclasses.replace(space.largest(), fusion=None) == mother
    if mother in (HRNET, ARCHS["sbl_resnet50"]):  # the paper searched no T inside these
        assert space.depth == (((1, 2, 3, 4), (4,), (4, 8, 12, 16), (4, 8, 12)) if mother == HRNET else
                               ((1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6), (1, 2, 3)))
        return
    costs = sorted(cost(space.sample(random.Random(i))).gflops for i in range(300))
    target = {"resnet50": (4 * .82 - 1.43) / 3, "mobilenetv3": (4 * .37 - .69) / 3}[mother.backbone]
    assert costs[15] < target < costs[-3]  # the paper's averages (Table 1) lie inside, not at the edge


# ---------------------------------------------------------------------------------------------- networks and costs
@pytest.mark.parametrize("name, params, macs, gflops", [
    ("s_vipnas_resnet50", 7286772, 1.4644, 1.4298), ("s_vipnas_mobilenetv3", 5895725, .7342, .6909),
    ("sbl_resnet18", 15376721, 2.8972, 5.792), ("sbl_resnet50", 33999697, 5.4264, 8.991), ("hrnet_w32", 28536113, 7.6450, 7.120)])
def test_cost_of_the_papers_networks(name, params, macs, gflops):
    c = cost(ARCHS[name])
    assert (c.params, round(c.macs / 1e9, 4), round(c.gflops, 4 - (gflops > 8) - (gflops == 7.12))) == (params, macs, gflops)
    assert c.params == sum(p.numel() for p in PoseNet(ARCHS[name]).parameters())


def test_which_of_them_the_tables_hold():
    largest = SPACES["hrnet_w32"].largest()
    plain = dataclasses.replace(largest, stages=tuple(Stage(s.depth, tuple(b._replace(attention=False) for b in s.branches)) for s in largest.stages))
    assert plain == HRNET and HRNET in SPACES["hrnet_w32"] and RESNET in SPACES["resnet50"] and MOBILE not in SPACES["mobilenetv3"]


@pytest.mark.parametrize("name", SPACES)
def test_cost_is_what_the_finished_network_is(name):
    from torch.utils.flop_counter import FlopCounterMode
    space = SPACES[name]
    for space, fused in ((space, False), (space.within(space.sample(random.Random(1))), True)):
        for seed in range(5):
            arch = space.sample(random.Random(seed))
            with torch.device("meta"), FlopCounterMode(display=False) as counter:  # shapes only
                net = PoseNet(arch).eval()
                net(torch.zeros(1, 3, 128, 96), heatmaps=torch.zeros(1, 17, 32, 24) if fused else None)
            c = cost(arch, (128, 96))
            assert 2 * c.macs == counter.get_total_flops() and c.params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", SPACES)
def test_cost_is_a_table_that_is_looked_up(name):
    archs = [SPACES[name].sample(random.Random(seed)) for seed in range(500)]
    seconds = []
    for _ in range(6):  # the first fills the table
        begun = time.process_time()
        for arch in archs:
            cost(arch)
        seconds.append(time.process_time() - begun)
    assert len(archs) / min(seconds) > 5e4


@pytest.mark.parametrize("name", SPACES)
def test_extract_gives_the_same_outputs(name):
    torch.manual_seed(0)
    net = PoseNet(SPACES[name].within(SPACES[name].largest()))
    x, heatmaps = torch.randn(4, 3, 64, 64), torch.rand(4, 17, 16, 16)
    for p in net.fusions.parameters():
        nn.init.normal_(p, std=.1)
    net.train()(x, net.space.largest(), heatmaps)  # running statistics that are not the initial ones
    for seed in range(4):
        arch = net.space.sample(random.Random(seed))
        finished = net.eval().extract(arch)
        close(finished(x, heatmaps=heatmaps), net(x, arch, heatmaps))
        assert finished.arch == arch and sum(p.numel() for p in finished.parameters()) == cost(arch).params
        close(net.train()(x, arch, heatmaps), finished.train()(x, heatmaps=heatmaps), 1e-4)


def test_a_super_network_needs_an_architecture():
    net = PoseNet(TINY)
    with pytest.raises(ValueError, match="name one"):
        net(torch.zeros(1, 3, 32, 32))
    deep = dataclasses.replace(TINY.largest(), stages=tuple(s._replace(depth=s.depth + 1) for s in TINY.largest().stages))
    with pytest.raises(ValueError, match="blocks"):
        net(torch.zeros(1, 3, 32, 32), deep)


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize("arch", [RESNET, MOBILE])
@pytest.mark.parametrize("head, zipped", [("head.", True), ("keypoint_head.", False)])
def test_published_weights(arch, head, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = PoseNet(arch)
    with torch.no_grad():  # random statistics too
        net(torch.randn(4, 3, 64, 64))
    names = {k: vipnas._mmpose_name(arch, k) for k in net.state_dict()}
    state = {names[k].replace("head.", head): v[:, None, None] if "add_conv.1" in names[k] else v for k, v in net.eval().state_dict().items()}
    if SAMPLES.is_dir():
        facts = json.loads((SAMPLES.parent / "facts" / f"mmpose_{arch.backbone}.json").read_text())
        shapes = {k.replace("head.", head): v for k, v in facts.items() if "num_batches" not in k}
        assert {k: list(v.shape) for k, v in state.items()} == shapes
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    meta = {"attack": Attack(), "loss": np.float64(3), "log": np.arange(3), "class": Attack, "path": pathlib.Path("x")}
    torch.save({"meta": meta, "state_dict": state}, "a.pth", _use_new_zipfile_serialization=zipped)
    found, x = vipnas.load_mmpose("a.pth"), torch.randn(1, 3, 64, 64)
    assert found.arch == arch and torch.equal(found(x), net(x)) and os.listdir() == ["a.pth"]
    state.pop(f"{head}final_layer.bias")
    torch.save({"state_dict": state}, "a.pth")
    with pytest.raises(vipnas.CheckpointError, match="published S-ViPNAS networks: head.final_layer.bias are missing"):
        vipnas.load_mmpose("a.pth")


def test_pictures_of_architectures(tmp_path):
    command = [sys.executable, HERE / "vipnas.py"]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in table for name in [*ARCHS, *SPACES]) and "28,536,113" in table
    vipnas.save_finished(tmp_path / "t.pt", [PoseNet(HRNET), PoseNet(SPACES["hrnet_w32"].within(HRNET).smallest())], {"joints": [0] * 17})
    for source in (["--arch", "s_vipnas_resnet50"], ["--checkpoint", tmp_path / "t.pt"]):
        subprocess.run(command + source + ["--picture", tmp_path / "a.png"], check=True, capture_output=True)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert (pixels == (200, 30, 30)).all(-1).any()  # the fusion, in red


# ---------------------------------------------------------------------------------------------- data
@pytest.fixture(scope="module")
def people():
    return data.SyntheticClips("val", 24, 4, workers=1)


def test_round_trip_from_joints_to_heatmaps_to_keypoints(people):
    for size in ((128, 96), (256, 192)):
        rng = np.random.default_rng(0)
        joints = np.concatenate([rng.uniform((6, 6), (size[1] - 7, size[0] - 7), (40, 17, 2)), np.full((40, 17, 1), 2)], -1)
        heatmaps, weights = data.targets(torch.tensor(joints, dtype=torch.float32), size)
        error = (vipnas.decode(heatmaps)[..., :2].numpy() - joints[..., :2]) / 4
        assert heatmaps.shape == (40, 17, size[0] // 4, size[1] // 4) and (weights == 1).all()
        assert np.linalg.norm(error, axis=-1).mean() < .05  # of a cell; the nearest cell alone would give .38
    batch = people.batch(range(24), random.Random(0), 40)  # the same through a rotated, scaled, mirrored crop
    error = (vipnas.decode(batch.targets)[..., :2] - batch.joints[..., :2]).norm(dim=-1) / 4
    assert error[batch.weights > 0].mean() < .5


def test_targets_weigh_by_visibility():
    joints = torch.tensor([[[40., 40, 2], [40, 40, 1], [40, 40, 0], [-60, 40, 2]]])
    heatmaps, weights = data.targets(joints, (128, 96))
    assert weights.tolist() == [[1, 1, 0, 0]] and heatmaps[0, :2].max() > .9
    nothing = vipnas.decode(torch.zeros(2, 17, 8, 6))
    assert torch.isfinite(nothing).all() and (nothing[..., 2] == 0).all()


def test_flipping_twice_changes_nothing(people):
    heatmaps = torch.rand(3, 17, 8, 6)
    for skeleton in (data.COCO, data.POSETRACK):
        assert torch.equal(data.flip_heatmaps(data.flip_heatmaps(heatmaps, skeleton), skeleton), heatmaps)
        assert [skeleton.joints[i].replace("left", "?").replace("right", "left").replace("?", "right") for i in skeleton.flip] == list(skeleton.joints)
    plain, mirrored = people.batch([0]), None
    for seed in range(20):  # find a draw that mirrors; turn it back by hand
        rng = random.Random(seed)
        if (rng.random(), rng.random(), rng.random())[2] < .5:
            mirrored = people.batch([0], random.Random(seed), 0)
            break
    again = data.flip_heatmaps(mirrored.targets, data.COCO)
    peaks, back = vipnas.decode(plain.targets)[0, 0], vipnas.decode(again)[0, 0]
    centre = torch.tensor([47.5, 63.5])
    scale = float(mirrored.matrices[0, 1, 1])
    inside = (mirrored.weights[0, 0][list(data.COCO.flip)] > 0) & (plain.weights[0, 0] > 0)
    close(((back[:, :2] - centre) / scale + centre)[inside], peaks[inside, :2], .02)


def test_augmentation_is_the_same_on_all_frames_of_a_clip(people):
    still = people.head(1)
    still.images, still.joints = still.images[:, :1].repeat(4, 1), still.joints[:, :1].repeat(4, 1)
    batch = still.batch([0, 0], random.Random(3), 40)
    assert torch.equal(batch.images[:, :1].expand_as(batch.images), batch.images)
    assert torch.equal(batch.targets[:, :1].expand_as(batch.targets), batch.targets)
    assert not torch.equal(batch.images[0], batch.images[1])  # two draws
    turns = [math.degrees(math.atan2(m[1, 0], m[1, 1])) for i in range(10) for m in people.batch(range(24), random.Random(i), 40).matrices]
    assert max(map(abs, turns)) <= 40 and max(turns) > 30 and min(turns) < -30


def test_clips_are_a_function_of_split_and_index(people):
    again = data.SyntheticClips("val", 4, 4, workers=1, first=3)
    assert np.array_equal(again.images, people.images[3:7]) and np.array_equal(again.joints, people.joints[3:7])
    longer = data.render_clip("val", 3, 6)[0]
    assert np.array_equal(longer[:4], people.images[3])
    assert not np.array_equal(data.render_clip("test", 3)[0], people.images[3])
    many = [data.SyntheticClips("train", 64, 1, workers=w) for w in (1, 3)]
    assert np.array_equal(many[0].images, many[1].images) and np.array_equal(many[0].joints, many[1].joints)


def test_people_move_slowly_turn_and_are_sometimes_hidden():
    clips = data.SyntheticClips("val", 150, 4)
    copied = 100 * np.nanmean(search.score(np.repeat(clips.joints[:, :1], 4, 1), clips, 0), 0)
    assert copied[0] == 100 and copied[1] > 75 and copied[1] > copied[2] > copied[3]
    shoulders = clips.joints[:, :, 5, 0] - clips.joints[:, :, 6, 0]
    assert ((shoulders > 0).any(1) & (shoulders < 0).any(1)).any()        # left and right swap sides within a clip
    flags = clips.joints[..., 2]
    assert set(np.unique(flags)) <= {0, 1, 2} and .05 < (flags == 1).mean() < .4


@needs_samples
def test_coco_is_read():
    clips = data.CocoPeople(SAMPLES / "coco", "val", (128, 96))
    assert len(clips) == 3 and sum(clips.skipped.values()) == 1
    batch = clips.batch(range(3))
    assert batch.images.shape == (3, 1, 3, 128, 96) and batch.weights.sum() == (clips.joints[..., 2] > 0).sum()
    perfect = data.transform(vipnas.decode(batch.targets).numpy(), data.invert(batch.matrices)[:, None])
    table = search.coco_ap(clips.annotations, search.coco_results(perfect, clips))
    assert table["AP50"] == 1 and table["AP"] > .95  # annotation -> crop -> heatmap -> keypoint -> the official measure


@needs_samples
def test_posetrack_is_read():
    clips = data.PoseTrackClips(SAMPLES / "posetrack18", "val", 1, (128, 96))
    assert len(clips) == 1 and clips.batch([0]).weights.sum() > 5
    with pytest.raises(data.DataError, match="--frames"):
        data.PoseTrackClips(SAMPLES / "posetrack18", "val", 4)


def write_posetrack(root, frames=10, labelled=range(10)):
    """A little PoseTrack18 folder with one drawn person's track."""
    images, joints = data.render_clip("test", 0, frames)
    (root / "annotations" / "val").mkdir(parents=True), (root / "images").mkdir()
    listed, people = [], []
    for t in range(frames):
        Image.fromarray(images[t]).save(root / "images" / f"{t}.png")
        listed.append({"id": 100 + t, "frame_id": 100 + t, "file_name": f"images/{t}.png", "is_labeled": t in labelled, "vid_id": "1"})
        people.append({"id": t, "image_id": 100 + t, "track_id": 0, "bbox": [10, 10, 70, 100], "bbox_head": [30, 10, 20, 20],
                       "keypoints": joints[t].ravel().tolist()})
    (root / "annotations" / "val" / "1.json").write_text(json.dumps({"images": listed, "annotations": people,
                                                                     "categories": [{"keypoints": list(data.POSETRACK.joints)}]}))


def test_posetrack_clips_are_consecutive_labelled_frames(tmp_path):
    write_posetrack(tmp_path, labelled=[0, 1, 2, 4, 5, 6, 7, 8, 9])
    clips = data.PoseTrackClips(tmp_path, "val", 3, (128, 96))
    assert [[i - 100 for i in clip] for clip in clips.ids[:, :, 0]] == [[0, 1, 2], [4, 5, 6], [7, 8, 9]]
    assert clips.batch([1]).images.shape == (1, 3, 3, 128, 96)


@pytest.mark.parametrize("damage, message", [
    (lambda root: (root / "annotations" / "val" / "1.json").write_text('{"images": ['), "1.json"),
    (lambda root: (root / "annotations" / "val" / "1.json").write_text("[]"), "1.json"),
    (lambda root: (root / "images" / "1.png").unlink(), "1.png"),
    (lambda root: (root / "images" / "1.png").write_bytes(b"no image"), "1.png")])
def test_broken_files_are_one_sentence(tmp_path, damage, message):
    write_posetrack(tmp_path)
    damage(tmp_path)
    with pytest.raises(data.DataError, match=message):
        data.PoseTrackClips(tmp_path, "val", 3, (128, 96)).batch([0])


def test_drawing_marks_the_joints(people, tmp_path):
    frame = people.frame(0, 0)
    drawn = np.asarray(data.draw_pose(frame, people.joints[0, 0])).astype(int)
    changed = np.abs(drawn - np.asarray(frame)).sum(-1) > 0
    seen = people.joints[0, 0][people.joints[0, 0, :, 2] > .2][:, :2].round().astype(int)
    assert all(changed[y, x] for x, y in seen) and .005 < changed.mean() < .2
    data.save_image([data.sheet([[people.frame(i, t) for i in range(3)]]) for t in range(4)], tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").n_frames == 4 and os.listdir(tmp_path) == ["a.gif"]


# ---------------------------------------------------------------------------------------------- scores
def test_oks_is_the_papers_formula():
    rng = np.random.default_rng(0)
    found, joints, area = rng.normal(size=(17, 3)) * 5, rng.normal(size=(17, 3)) * 5, 400.
    joints[:, 2] = rng.integers(0, 3, 17)
    k, d2 = 2 * np.array(data.COCO.sigmas), ((found[:, :2] - joints[:, :2]) ** 2).sum(-1)
    seen = joints[:, 2] > 0
    expected = np.exp(-d2 / (2 * area * k ** 2))[seen].sum() / seen.sum()
    assert abs(search.oks(found, joints, np.array(area), data.COCO.sigmas) - expected) < 1e-12


def coco_case(*images):
    """A COCO dict and results; each image is (ground-truth positions, [(position, score)]); a position shifts a pose."""
    pose = np.array([[10 + 4 * i, 20 + 7 * (i % 5), 2] for i in range(17)], float)
    annotations, results = {"images": [], "annotations": [], "categories": [{"id": 1}]}, []
    for i, (truths, found) in enumerate(images, 1):
        annotations["images"].append({"id": i})
        for x in truths:
            annotations["annotations"].append({"id": len(annotations["annotations"]) + 1, "image_id": i, "category_id": 1,
                                               "bbox": [x, 0, 80, 80], "area": 6400., "iscrowd": 0, "num_keypoints": 17,
                                               "keypoints": (pose + [x, 0, 0]).ravel().tolist()})
        results += [{"image_id": i, "category_id": 1, "keypoints": (pose + [x, 0, 0]).ravel().tolist(), "score": s} for x, s in found]
    return annotations, results


def test_coco_ap_on_cases_counted_by_hand():
    perfect = search.coco_ap(*coco_case(([0, 500], [(0, .9), (500, .8)])))
    assert perfect["AP"] == perfect["AR"] == perfect["APM"] == 1 and perfect["APL"] == -1
    # one of two people found, below a false alarm: precision 1/2 up to recall 1/2 (51 of 101 recall points)
    half = search.coco_ap(*coco_case(([0, 500], [(0, .5), (-900, .9)])))
    assert abs(half["AP50"] - .5 * 51 / 101) < 1e-12 and half["AR"] == .5
    double = search.coco_ap(*coco_case(([0], [(0, .9), (0, .8)])))  # the second detection of a person is a false alarm, ranked last
    assert double["AP"] == 1
    assert search.coco_ap(*coco_case(([0], [])))["AP"] == 0
    with pytest.raises(ValueError, match="do not list"):
        search.coco_ap(coco_case(([0], []))[0], [{"image_id": 77, "keypoints": [0] * 51, "score": 1}])


def test_posetrack_ap_on_cases_counted_by_hand():
    joints = np.array([[10 + 4 * i, 20 + 7 * (i % 5), 1] for i in range(17)], float)
    person = {"image_id": 1, "keypoints": joints.ravel().tolist(), "bbox_head": [0, 0, 30, 40]}  # head size .6 * 50 = 30
    truth = {"images": [{"id": 1}], "annotations": [person], "categories": [{"keypoints": list(data.POSETRACK.joints)}]}

    def result(shift, score=1.):
        moved = joints + np.array(shift)
        return {"image_id": 1, "track_id": 0, "keypoints": moved.ravel().tolist(), "scores": [score] * 17}
    shift = np.zeros((17, 3))
    assert search.posetrack_ap(truth, [result(shift)])["Total"] == 100
    shift[data.POSETRACK.joints.index("left_knee")] = [14.9, 0, 0]
    assert search.posetrack_ap(truth, [result(shift)])["Knee"] == 100
    shift[data.POSETRACK.joints.index("left_knee")] = [15.1, 0, 0]
    wrong = search.posetrack_ap(truth, [result(shift)])
    assert wrong["Knee"] == 50 and abs(wrong["Total"] - 100 * 14 / 15) < 1e-9
    spare = search.posetrack_ap(truth, [result(np.zeros((17, 3)), .5), result(np.full((17, 3), 900.) * [1, 1, 0], .9)])
    assert spare["Total"] == 50  # a false alarm ranked first halves every precision


# ---------------------------------------------------------------------------------------------- search
def test_samples_keep_to_the_budget():
    budget = .014
    archs = search.sample(TINY, budget, 40, random.Random(0))
    assert len(set(archs)) == 40 and all(a in TINY and cost(a, TINY.image_size).gflops <= budget for a in archs)
    assert archs == search.sample(TINY, budget, 40, random.Random(0)) != search.sample(TINY, budget, 40, random.Random(1))
    least = cost(TINY.smallest(), TINY.image_size).gflops
    tight = search.sample(TINY, least * 1.001, 5, random.Random(0))  # hardly anything fits: still an answer
    assert tight and all(cost(a, TINY.image_size).gflops <= least * 1.001 for a in tight)
    with pytest.raises(ValueError, match=f"{least:.4g}"):
        search.sample(TINY, least * .99, 5, random.Random(0))


def test_allocations_keep_to_the_total():
    space = TINY.within(TINY.largest())
    gflops = lambda archs: sum(cost(a, space.image_size).gflops for a in archs)
    for budget in (.05, .036):
        found = search.allocate(space, 3, budget, 20, random.Random(0))
        assert len(found) == 20 and all(len(f) == 3 and gflops(f) <= budget and all(a in space for a in f) for f in found)
        assert any(len({(a.fusion, a.stages) for a in f}) == 3 for f in found)
    with pytest.raises(ValueError, match="give more"):
        search.allocate(space, 3, .01, 2, random.Random(0))


def test_recalibration_measures_the_mean_statistics(people):
    torch.manual_seed(0)
    net = PoseNet(TINY.smallest())
    with torch.no_grad():
        net.stem.norm.running_mean.fill_(99)
    sight = search.Sight(people, 0, torch.device("cpu"), batch=8)
    search.recalibrate([net], sight)
    features = [net.stem.conv(images[:, 0]) for images, _, _ in sight]
    close(net.stem.norm.running_mean, torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0), 1e-4)
    close(net.stem.norm.running_var, torch.stack([f.transpose(0, 1).flatten(1).var(1) for f in features]).mean(0), 1e-3)
    assert not net.training and net.stem.norm.momentum == .1


def test_the_chain_hands_on_its_own_predictions():
    torch.manual_seed(0)
    space = TINY.within(TINY.smallest())
    net, images, key = PoseNet(space), torch.randn(2, 3, 3, 64, 32), torch.rand(2, 17, 16, 8)
    for p in net.fusions.parameters():
        nn.init.normal_(p, std=.3)
    archs, rng = [], random.Random(0)
    for _ in range(3):
        archs.append(space.sample(rng))
    chain = search.propagate([net.eval()] * 3, images, key, archs)
    h1 = net(images[:, 0], archs[0], key)
    h2 = net(images[:, 1], archs[1], h1)
    close(chain, torch.stack([h1, h2, net(images[:, 2], archs[2], h2)], 1))
    finished = [net.extract(a) for a in archs]
    close(search.propagate(finished, images, key), chain)
    assert (h2 - net(images[:, 1], archs[1], key)).abs().max() > 1e-4


def test_the_search_keeps_the_best_and_continues_its_table(people, tmp_path):
    torch.manual_seed(0)
    net, rng = PoseNet(TINY), random.Random(0)
    candidates = [(TINY.sample(rng),) for _ in range(4)]
    sight = search.Sight(people.head(4), 0, torch.device("cpu"))
    best, table = search.search(net, candidates, sight, sight, tmp_path / "s.json", {"seed": 0}, say=lambda _: None)
    assert len(table) == 4 and table[candidates.index(best)]["ap"] == max(row["ap"] for row in table)
    saved = json.loads((tmp_path / "s.json").read_text())
    assert Arch.from_json(json.dumps(saved["candidates"][2]["archs"][0])) == candidates[2][0]
    saved["candidates"] = saved["candidates"][:2]
    saved["candidates"][1]["ap"] = 1e3
    (tmp_path / "s.json").write_text(json.dumps(saved))
    assert search.search(net, candidates, sight, sight, tmp_path / "s.json", {"seed": 0}, say=lambda _: None)[0] == candidates[1]
    assert search.search(net, candidates, sight, sight, tmp_path / "s.json", {"seed": 1}, say=lambda _: None)[1] == table
    search.plot([(row["gflops"], row["ap"]) for row in table], 0, "title", tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size == (720, 480)


# ---------------------------------------------------------------------------------------------- training
def gradients(nets, chains, batch, first=0, heatmaps=None):
    for net in nets:
        net.zero_grad()
    train.train_step(nets, chains, batch, first, heatmaps)
    return {k: p.grad.clone() for k, p in nets[0].named_parameters() if p.grad is not None}


def test_a_sandwich_is_biggest_smallest_and_random():
    space = TINY.within(TINY.largest())
    chains = train.sandwich(space, 3, random.Random(0))
    plain = lambda archs: [dataclasses.replace(a, fusion=None) for a in archs]
    assert plain(chains[0]) == plain([space.largest()]) * 3 and plain(chains[1]) == plain([space.smallest()]) * 3
    assert len(chains) == 4 and all(len(set(c)) == 3 for c in chains[2:])  # every frame draws its own
    assert len({c[0].fusion for i in range(20) for c in [train.sandwich(space, 3, random.Random(i))[0]]}) > 5
    assert chains == train.sandwich(space, 3, random.Random(0))


def test_a_step_is_distillation_in_place(people):
    torch.manual_seed(0)
    net, batch = PoseNet(TINY).train(), people.batch(range(4))
    chains = train.sandwich(TINY, 1, random.Random(0))
    found = gradients([net], chains, batch)
    net.zero_grad()
    weights, images = batch.weights[:, 0], batch.images[:, 0]
    error = lambda a, b, w=1: 1000 * ((a - b) ** 2).mean((2, 3)).mul(w).mean()
    big = net(images, chains[0][0])
    loss = error(big, batch.targets[:, 0], weights)
    for (arch,) in chains[1:]:
        small = net(images, arch)
        loss = loss + error(small, batch.targets[:, 0], weights) / 2 + error(small, big.detach()) / 2
    loss.backward()
    for name, p in net.named_parameters():
        close(found[name], p.grad, 1e-4)


def test_stage_t_trains_the_chain_and_leaves_s_alone(people):
    torch.manual_seed(0)
    key = PoseNet(TINY.smallest()).eval()
    space = TINY.within(key.arch)
    net, batch = PoseNet(space).inherit(key).train(), people.batch(range(2))
    before = [p.clone() for p in key.parameters()]
    with torch.no_grad():
        heatmaps = key(batch.images[:, 0])
    grads = gradients([net] * 3, train.sandwich(space, 3, random.Random(1)), batch, 1, heatmaps)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, key.parameters()))
    assert any("fusions" in k and g.abs().max() > 0 for k, g in grads.items())


def test_a_team_computes_the_mean_of_its_parts(people):
    torch.manual_seed(0)
    net, batch, chains = PoseNet(TINY).train(), people.batch(range(16)), train.sandwich(TINY, 1, random.Random(0))
    parts = [gradients([net], chains, type(batch)(*(x[i::2] for x in batch))) for i in (0, 1)]
    net.zero_grad()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    team = train.Team([net], 16, torch.device("cpu"))
    torch.set_num_threads(threads)
    assert len(team.copies) == 2
    team.step(chains, batch, 0, None)
    for name, p in net.named_parameters():
        close(p.grad, (parts[0][name] + parts[1][name]) / 2, 1e-4)


def test_learning_rates():
    o = train.read_options(["--stage", "s", "--data", "coco", "--root", "x"])
    assert [train.learning_rate(s, 250, o) for s in (0, 199, 200, 229, 230)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    o = train.read_options(["--stage", "t"])
    rates = [train.learning_rate(s, 1000, o) for s in range(1000)]
    assert rates[0] < rates[99] <= o.lr and rates[-1] < o.lr / 100 and rates[500] == pytest.approx(o.lr / 2)


SMALL = ["--clips", "16", "--candidates", "2", "--batch", "4", "--gflops", ".025"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both stages, run once, as small as can be."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(["--stage", "s", "--steps", "4", "--out", f"{folder}/s", *SMALL])
    train.main(["--stage", "t", "--steps", "3", "--s", f"{folder}/s/vipnas_s.pt", "--out", f"{folder}/t", *SMALL])
    return folder


def test_both_stages_leave_a_whole_run(runs):
    assert {"supernet.pt", "vipnas_s.pt", "search.json", "search.png", "log.jsonl", "poses.png"} <= set(os.listdir(runs / "s"))
    assert {"supernet.pt", "vipnas_t.pt", "search.json", "search.png", "log.jsonl", "poses.gif"} <= set(os.listdir(runs / "t"))
    assert not [f for f in os.listdir(runs / "t") if f.endswith(".tmp")]
    nets, about = vipnas.load_finished(runs / "t" / "vipnas_t.pt")
    assert len(nets) == 4 and nets[0].arch.fusion is None and all(n.arch.fusion for n in nets[1:]) and about["size"] == [128, 96]
    entries = [json.loads(line) for line in open(runs / "t" / "log.jsonl")]
    names = {e["name"]: e for e in entries if e.get("event") == "test"}
    assert len(names) == 3 and all(len(e["ap_by_frame"]) == 3 for e in names.values())


def test_resume_is_exact(runs, tmp_path, monkeypatch):
    def stop(path, step, *rest):
        if step == 2:
            raise KeyboardInterrupt
    monkeypatch.setattr(train, "report", stop)
    monkeypatch.setattr(train.time, "time", iter(range(0, 10 ** 6, 100)).__next__)  # so that every step is saved
    arguments = ["--stage", "s", "--steps", "4", "--out", f"{tmp_path}/s", *SMALL]
    with pytest.raises(SystemExit, match="--resume"):
        train.main(arguments)
    monkeypatch.undo()
    assert vipnas.load(tmp_path / "s" / "supernet.pt", "supernet")["step"] < 4
    train.main(arguments + ["--resume"])
    ours, theirs = (vipnas.load(f / "s" / "supernet.pt", "supernet") for f in (tmp_path, runs))
    assert all(torch.equal(v, theirs["nets"][0][k]) for k, v in ours["nets"][0].items())
    assert (tmp_path / "s" / "search.json").read_text() == (runs / "s" / "search.json").read_text()
    with pytest.raises(SystemExit, match="--lr was"):
        train.main(arguments + ["--resume", "--lr", "1"])


def test_a_second_run_moves_the_first_aside(runs, tmp_path, capsys):
    for _ in range(2):
        train.main(["--stage", "s", "--steps", "1", "--out", f"{tmp_path}/s", *SMALL])
    assert (tmp_path / "s.1" / "vipnas_s.pt").is_file() and "moved" in capsys.readouterr().out


@pytest.mark.parametrize("space", ["mobilenetv3", "resnet50"])
def test_the_papers_spaces_go_all_the_way(space, tmp_path):
    train.main(["--stage", "s", "--space", space, "--clips", "2", "--steps", "1", "--batch", "2", "--candidates", "2", "--out", f"{tmp_path}/s"])
    nets, about = vipnas.load_finished(tmp_path / "s" / "vipnas_s.pt")
    assert nets[0].arch in SPACES[space] and about["size"] == [256, 192]


@pytest.mark.parametrize("name", ["s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32"])
def test_stage_t_within_the_papers_networks(name, tmp_path):
    net = PoseNet(ARCHS[name])
    if name == "hrnet_w32":
        vipnas.save_finished(tmp_path / "s.pth", [net], data.about(data.COCO, (256, 192)))
    else:
        torch.save({"state_dict": {vipnas._mmpose_name(net.arch, k): v for k, v in net.state_dict().items()}}, tmp_path / "s.pth")
    train.main(["--stage", "t", "--s", f"{tmp_path}/s.pth", "--frames", "1", "--clips", "1", "--steps", "1", "--batch", "1", "--finish", "1",
                "--candidates", "1", "--gflops", "9", "--compare", "0", "--out", f"{tmp_path}/t"])
    nets, _ = vipnas.load_finished(tmp_path / "t" / "vipnas_t.pt")
    assert nets[0].arch == ARCHS[name] and nets[1].arch in SPACES[net.arch.backbone].within(net.arch)


def test_one_architecture_alone(runs, tmp_path):
    (tmp_path / "a.json").write_text(TINY.smallest().to_json())
    train.main(["--stage", "s", "--arch", f"{tmp_path}/a.json", "--clips", "8", "--steps", "1", "--batch", "2", "--out", f"{tmp_path}/s"])
    assert vipnas.load_finished(tmp_path / "s" / "vipnas_s.pt")[0][0].arch == TINY.smallest()
    with pytest.raises(SystemExit, match="smaller than"):
        (tmp_path / "a.json").write_text(TINY.largest().to_json())
        train.main(["--stage", "s", "--arch", f"{tmp_path}/a.json", "--clips", "8", "--steps", "1", "--out", f"{tmp_path}/s",
                    "--init", f"{tmp_path}/s/vipnas_s.pt"])


@needs_samples
def test_real_people_are_learnt_by_heart(tmp_path, capsys):
    arch = dataclasses.replace(TINY.largest(), stages=tuple(s._replace(depth=1) for s in TINY.largest().stages))
    (tmp_path / "a.json").write_text(arch.to_json())
    train.main(["--stage", "s", "--data", "coco", "--root", str(SAMPLES / "coco"), "--arch", f"{tmp_path}/a.json", "--steps", "300",
                "--batch", "6", "--lr", ".01", "--rotation", "10", "--out", f"{tmp_path}/s"])
    official = dict(zip(*[iter(capsys.readouterr().out.split("given boxes: ")[1].split("\n")[0].split())] * 2))
    assert float(official["AP"]) >= .9


# ---------------------------------------------------------------------------------------------- video and errors
def test_a_stream_repeats_key_and_propagated_frames(runs, people):
    pose = vipnas.VideoPose.load(runs / "t" / "vipnas_t.pt")
    stream = pose.stream((10, 13, 77, 102))
    windows, found = [], []
    for t in (0, 1, 2, 3, 0):
        found.append(stream.step(people.frame(0, t)))
        windows.append(stream.window)
    assert len(set(windows[:4])) == 1 and all(f.shape == (17, 3) and np.isfinite(f).all() for f in found)
    # the same through the training's own crop and chain
    clip = data.Clips("one", data.COCO, (128, 96), np.array([[windows[0][0] + .1 * 96, windows[0][1] + .1 * 128, .8 * 96, .8 * 128]]),
                      people.joints[:1], people.areas[:1])
    assert windows[0][2] - windows[0][0] in (96, 97)
    array = vipnas.VideoPose.load(runs / "t" / "vipnas_t.pt").stream((10, 13, 77, 102)).step(np.asarray(people.frame(0, 0)))
    assert np.array_equal(array, found[0]) and clip.frames == 4


def test_a_window_is_the_same_in_training_and_in_the_stream(runs):
    stream = vipnas.VideoPose.load(runs / "t" / "vipnas_t.pt").stream((100, 60, 160, 200))
    left, top, right, bottom = stream._window(Image.new("RGB", (640, 480)))
    x, y, w, h = data.window((100, 60, 160, 200), (128, 96))
    assert max(abs(left - x), abs(top - y), abs(right - x - w), abs(bottom - y - h)) <= .5


@needs_samples
def test_the_real_video(runs, tmp_path):
    command = [sys.executable, HERE / "vipnas.py", "--video", SAMPLES / "video", "--checkpoint", runs / "t" / "vipnas_t.pt",
               "--box", "356,270,208,314", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    poses = json.loads((tmp_path / "poses.json").read_text())["poses"]
    assert [p["kind"] for p in poses] == ["key", "propagated", "propagated", "propagated", "key"]
    assert len([f for f in os.listdir(tmp_path) if f.endswith(".png")]) == 5 and np.array(poses[0]["keypoints"]).shape == (17, 3)


@pytest.mark.parametrize("arguments, message", [
    ([], "--stage s first"), (["--stage", "s", "--space", "vgg"], "no space"), (["--stage", "s", "--data", "coco"], "--root"),
    (["--stage", "s", "--root", "x"], "--root"), (["--stage", "s", "--data", "coco", "--root", "/nowhere", "--candidates", "2"], "nowhere"),
    (["--stage", "t", "--data", "coco", "--root", "x"], "no videos"), (["--stage", "t", "--s", "/nowhere.pt"], "nowhere.pt"),
    (["--stage", "s", "--gflops", ".001"], "smallest"), (["--stage", "s", "--steps", "0"], "above zero"),
    (["--stage", "s", "--arch", "/nowhere.json"], "nowhere.json"), (["--stage", "s", "--arch", "x", "--gflops", "1"], "nothing to search"),
    (["--stage", "t", "--init", "x"], "belong to stage s")])
def test_what_the_user_can_mend_is_one_sentence(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(arguments + ["--out", f"{tmp_path}/run"])
    assert message in stop.value.code and "\n" not in stop.value.code
    assert not (tmp_path / "run" / "supernet.pt").exists()


def test_bad_checkpoints_are_one_sentence(runs, tmp_path):
    whole = (runs / "s" / "vipnas_s.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[:len(whole) // 2])
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pt")
    contents = torch.load(runs / "s" / "vipnas_s.pt", weights_only=True)
    contents["networks"][0]["state"].pop("head.final.weight")
    torch.save(contents, tmp_path / "lacks.pt")
    for name, message in (("short.pt", "truncated"), ("foreign.pt", "something else"), ("code.pt", "something else"), ("lacks.pt", "head.final.weight")):
        with pytest.raises(vipnas.CheckpointError, match=message):
            vipnas.VideoPose.load(tmp_path / name)
    result = subprocess.run([sys.executable, HERE / "vipnas.py", "--video", tmp_path, "--checkpoint", tmp_path / "short.pt", "--out", tmp_path],
                            capture_output=True, text=True)
    assert result.returncode != 0 and "Traceback" not in result.stderr and result.stderr.count("\n") == 1
