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
from vipnas import SPACES, Arch, Branch, Fusion, Head, PoseNet, Space, Stage, cost

SAMPLES = pathlib.Path(os.environ.get("VIPNAS_SAMPLES", "/nonexistent"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIPNAS_SAMPLES names no folder")
HERE = pathlib.Path(__file__).parent
TINY = SPACES["tiny"]


def serial(backbone, stem, rows, head, fusion=None):
    """An Arch from rows of (depth, width, kernel, groups, attention, expansion)."""
    return Arch(backbone, stem, tuple(Stage(d, (Branch(w, k, g, a, e),)) for d, w, k, g, a, e in rows), Head(*head), fusion)


# the two networks the authors released, with their published sizes
RESNET = serial("resnet50", 48, [(4, 80, 3, 16, True, 1), (6, 160, 5, 16, False, 1), (7, 304, 5, 16, True, 1),
                                 (3, 608, 5, 16, True, 1)], (144, 4, 16))
MOBILE = serial("mobilenetv3", 16, [(1, 16, 3, 8, True, 1), (4, 24, 7, 120, True, 5), (4, 40, 7, 20, False, 4),
                                    (4, 80, 5, 100, True, 5), (4, 112, 7, 280, True, 5), (4, 160, 5, 240, True, 6)], (160, 4, 160))


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
    (lambda d: d["stages"][0].update(depth="2"), "whole numbers")])
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


@pytest.mark.parametrize("mother", [RESNET, MOBILE])
def test_the_space_within_an_architecture(mother):
    space = SPACES[mother.backbone].within(mother)
    assert dataclasses.replace(space.largest(), fusion=None) == mother
    costs = sorted(cost(space.sample(random.Random(i))).gflops for i in range(300))
    target = {"resnet50": (4 * .82 - 1.43) / 3, "mobilenetv3": (4 * .37 - .69) / 3}[mother.backbone]
    assert costs[15] < target < costs[-3]  # the paper's averages (Table 1) lie inside, not at the edge


# ---------------------------------------------------------------------------------------------- networks and costs
def test_cost_of_the_released_networks():
    assert RESNET in SPACES["resnet50"] and MOBILE not in SPACES["mobilenetv3"]
    c = cost(RESNET)
    assert (c.params, round(c.macs / 1e9, 4), round(c.gflops, 4)) == (7286772, 1.4644, 1.4298)
    c = cost(MOBILE)
    assert (c.params, round(c.macs / 1e9, 4), round(c.gflops, 4)) == (5895725, 0.7342, 0.6909)


@pytest.mark.parametrize("name", SPACES)
def test_cost_is_what_the_finished_network_is(name):
    from torch.utils.flop_counter import FlopCounterMode
    space = SPACES[name]
    for space, fused in ((space, False), (space.within(space.sample(random.Random(1))), True)):
        for seed in range(3):
            arch = space.sample(random.Random(seed))
            net = PoseNet(arch).eval()
            heatmaps = torch.zeros(1, 17, 32, 24) if fused else None
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net(torch.zeros(1, 3, 128, 96), heatmaps=heatmaps)
            c = cost(arch, (128, 96))
            assert 2 * c.macs == counter.get_total_flops()
            assert c.params == sum(p.numel() for p in net.parameters())
            shapes = [(m, m.weight) for m in net.modules() if isinstance(m, ElasticConvTranspose2d)]
            assert len(shapes) == len(net.head.deconvs)


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
