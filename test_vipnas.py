"""The tests, chapter by chapter; about two minutes on two CPU cores: VIPNAS_SAMPLES=DIR python -m pytest test_vipnas.py

DIR holds a few real files (`coco`, `posetrack18`, `video`); without it the tests that need them are skipped.
"""
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import data
import search
import train
import vipnas
from elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d, GlobalContext, SqueezeExcite
from fusion import OPERATIONS, TemporalFusion
from vipnas import ARCHS, SPACES, Arch, Fusion, PoseNet, Space, Stage, cost, serial

SAMPLES = pathlib.Path(os.environ.get("VIPNAS_SAMPLES", "/nonexistent"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIPNAS_SAMPLES names no folder")
HERE, CPU, TINY = pathlib.Path(__file__).parent, torch.device("cpu"), SPACES["tiny"]
SMALL = "--clips 16 --candidates 2 --batch 4 --gflops .025"
ONE = "--stage s --clips 8 --steps 1 --batch 2"
POSE = np.array([[10 + 4 * i, 20 + 7 * (i % 5), 2] for i in range(17)], float)

@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)

RESNET, MOBILE, HRNET = (ARCHS[name] for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32"))

def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * max(1, b.abs().max())

def disturb(module, std=.3):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module

def same_as(elastic, arguments, plain, slices, x):
    """`elastic` equals the ordinary layer `plain` that holds its slices {parameter: index}, in values and gradients."""
    with torch.no_grad():
        for name, index in slices.items():
            getattr(plain, name).copy_(getattr(elastic, name)[index])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = elastic(a, *arguments), plain(b)
    (out * out.detach()).sum().backward(), (expected * out.detach()).sum().backward()
    close(out, expected), close(a.grad, b.grad)
    for name, index in slices.items():
        gradient = getattr(elastic, name).grad
        close(gradient[index], getattr(plain, name).grad)
        gradient[index] = 0
        assert (gradient == 0).all()  # nothing leaks outside the slice

# ---------------------------------------------------------------------------------------------- elastic
@pytest.mark.parametrize("inputs, width, kernel, groups", [
    (32, 32, 7, 2), (32, 16, 5, 4), (24, 16, 3, 8), (16, 16, 5, 16), (24, 24, 3, 24),
    (32, 32, 4, 4), (32, 16, 2, 4), (24, 8, 4, 8), (16, 16, 2, 16)])  # even kernels: deconvolutions
def test_a_convolution_is_its_slice(inputs, width, kernel, groups):
    if kernel % 2:
        layer, m = disturb(ElasticConv2d(32, 32, 7, stride=2, groups=2, bias=True)), (7 - kernel) // 2
        plain = nn.Conv2d(inputs, width, kernel, 2, kernel // 2, groups=groups)
        slices = {"weight": (slice(width), slice(inputs // groups), slice(m, 7 - m), slice(m, 7 - m)), "bias": slice(width)}
    else:
        layer, m = ElasticConvTranspose2d(32, 32, 4, groups=4), (4 - kernel) // 2
        plain = nn.ConvTranspose2d(inputs, width, kernel, 2, (kernel - 2) // 2, groups=groups, bias=False)
        slices = {"weight": (slice(inputs), slice(width // groups), slice(m, 4 - m), slice(m, 4 - m))}
    same_as(layer, (width, kernel, groups), plain, slices, torch.randn(2, inputs, 9, 8))

@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_the_first_channels(training):
    layer, plain = disturb(ElasticBatchNorm2d(12)).train(training), nn.BatchNorm2d(8).train(training)
    layer.running_mean.normal_(), layer.running_var.uniform_(1, 2)
    plain.running_mean.copy_(layer.running_mean[:8]), plain.running_var.copy_(layer.running_var[:8])
    rest = layer.running_mean[8:].clone()
    same_as(layer, (), plain, {"weight": slice(8), "bias": slice(8)}, torch.randn(6, 8, 5, 4) * 3 + 1)
    close(layer.running_mean, torch.cat([plain.running_mean, rest])), close(layer.running_var[:8], plain.running_var)

@pytest.mark.parametrize("kind, widths", [(GlobalContext, {320: 20, 304: 19, 80: 16}), (SqueezeExcite, {96: 24, 72: 18, 48: 12})])
def test_attention_at_any_width(kind, widths):
    layer, context = disturb(kind(max(widths))), kind is GlobalContext
    for c, hidden in widths.items():
        x = torch.randn(2, c, 6, 5)
        where = F.conv2d(x, layer.mask.weight[:, :c], layer.mask.bias).flatten(2).softmax(-1) if context else torch.ones(30) / 30
        y = (x.flatten(2) * where).sum(-1) @ layer.reduce.weight[:hidden, :c, 0, 0].T + layer.reduce.bias[:hidden]
        y = F.layer_norm(y, (hidden,), layer.norm.weight[:hidden], layer.norm.bias[:hidden]) if context else y
        y = (F.relu(y) @ layer.expand.weight[:c, :hidden, 0, 0].T + layer.expand.bias[:c])[:, :, None, None]
        close(layer(x), x + y if context else x * ((y + 1) / 2).clamp(0, 1))

def test_what_does_not_fit_is_said():
    layer, net, images = ElasticConvTranspose2d(160, 256, 4, groups=32), PoseNet(TINY), torch.zeros(1, 3, 32, 32)
    deep = replace(TINY.largest(), stages=tuple(s._replace(depth=s.depth + 1) for s in TINY.largest().stages))
    for message, call in {
            "cannot give": lambda: layer.slice(160, 256, 4, 2), "cannot be cut": lambda: layer.slice(160, 256, 6, 32),
            "name one": lambda: net(images), "blocks": lambda: net(images, deep),
            "last frame": lambda: net(images, replace(deep, fusion=Fusion(1, "add")))}.items():
        with pytest.raises(ValueError, match=message):
            call()

# ---------------------------------------------------------------------------------------------- fusion
@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_is_the_papers_figure_at_any_width(operation):
    module, heatmaps = disturb(TemporalFusion(17, 48)), torch.rand(2, 17, 16, 12)
    for c in (48, 32):
        x = torch.randn(2, c, 8, 6)
        h = F.conv2d(heatmaps, module.encode[operation].weight[:c], module.encode[operation].bias[:c])
        h = F.interpolate(h, (8, 6), mode="bilinear", align_corners=False)
        fused = {"add": x + h, "mul": x * h, "cat": torch.cat([x, h], 1)}[operation]
        weight = module.project[operation].weight[:c, :c]
        if operation == "cat":  # the halves of one convolution over 2C channels
            weight = torch.cat([weight, module.project_heatmaps.weight[:c, :c]], 1)
        close(module(x, heatmaps, operation), F.conv2d(fused, weight, module.project[operation].bias[:c]))

@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_fused_network_starts_as_the_unfused_one_and_learns_from_the_heatmaps(stage, operation):
    arch = TINY.sample(random.Random(stage))
    net, fused = PoseNet(arch).eval(), replace(arch, fusion=Fusion(stage, operation))
    temporal = PoseNet(TINY.within(arch)).inherit(net).eval()
    x, heatmaps = torch.randn(2, 3, 64, 32), torch.rand(2, 17, 16, 8)
    close(temporal(x, fused, heatmaps), net(x))
    temporal(x, fused, heatmaps).square().sum().backward()
    assert fused in temporal.space and temporal.fusions[str(stage)].encode[operation].weight.grad.abs().max() > 0

# ---------------------------------------------------------------------------------------------- architectures and spaces
@pytest.mark.parametrize("old, new, message", [
    ('"stem": 48, ', "", "not an architecture"), ("resnet50", "vgg", "no backbone"), ("resnet50", "mobilenetv3", "stages"),
    ("null", '{"stage": 9, "operation": "add"}', "fusion"), ('"kernel": 3', '"kernel": 2', "kernels"),
    ('"stem": 48', '"stem": -1', "whole numbers"), ('"depth": 4', '"depth": "4"', "whole numbers"),
    ('"head": {"width": 144, "kernel": 4, "groups": 16}', '"head": null', "deconvolutions"), ('"expansion": 1', '"expansion": 3', "expansion")])
def test_a_wrong_architecture_is_one_sentence(old, new, message):
    with pytest.raises(ValueError, match=message):
        Arch.from_json(RESNET.to_json().replace(old, new))

def test_the_ends_and_sizes_of_the_spaces():
    ends = lambda name: (SPACES[name].smallest(), SPACES[name].largest())
    least = [(d, w, 3, 64, False, 1) for d, w in ((3, 64), (4, 128), (6, 256), (3, 512))]
    most = [(d, w, 5, 16, True, 1) for d, w in ((4, 80), (6, 160), (8, 320), (4, 640))]
    assert ends("resnet50") == (serial("resnet50", 32, least, (64, 4, 64)), serial("resnet50", 64, most, (256, 4, 16)))
    least = [(1, 16, 3, 16, False, 1)] + [(2, w, 3, 3 * w, False, 3) for w in (24, 40, 80, 112, 160)]
    most = [(1, 16, 3, 2, True, 1)] + [(4, w, 7, 3 * w // 8, True, 6) for w in (24, 40, 80, 112, 160)]
    assert ends("mobilenetv3") == (serial("mobilenetv3", 16, least, (256, 4, 256)), serial("mobilenetv3", 16, most, (256, 4, 32)))
    few, rng = replace(TINY.within(TINY.smallest()), depth=((1, 2),) * 4), random.Random(0)
    assert few.size() == len({few.sample(rng) for _ in range(20 * few.size())}) == 384 and Space.of(RESNET).size() == 1

@pytest.mark.parametrize("name", SPACES)
def test_samples_are_members_between_the_ends_and_go_through_json(name):
    space, rng = SPACES[name], random.Random(0)
    inner = space.within(space.sample(rng))
    for s in (space, inner):
        archs, (least, most) = [s.sample(rng) for _ in range(100)], (cost(a, s.image_size) for a in (s.smallest(), s.largest()))
        assert all(a in s and cost(a, s.image_size).gflops <= 1.05 * most.gflops for a in archs) and len(set(archs)) > 50
        assert all(least.macs <= cost(a, s.image_size).macs for a in archs if a.fusion == s.smallest().fusion)
        assert {Arch.from_json(a.to_json()) for a in archs} == set(archs) and not any("\n" in str(a) + a.to_json() for a in archs)
    assert replace(space.largest(), stem=space.largest().stem + 16) not in space
    assert space.largest() not in inner and all(a.fusion for a in archs)

@pytest.mark.parametrize("name, params, macs, gflops", [
    ("s_vipnas_resnet50", 7286772, 1.4644, 1.4298), ("s_vipnas_mobilenetv3", 5895725, .7342, .6909),
    ("sbl_resnet18", 15376721, 2.8972, 5.792), ("sbl_resnet50", 33999697, 5.4264, 8.991), ("hrnet_w32", 28536113, 7.6450, 7.120)])
def test_cost_of_the_papers_networks(name, params, macs, gflops):
    c, digits = cost(ARCHS[name]), 4 if gflops < 2 else 3
    assert (c.params, round(c.macs / 1e9, 4), round(c.gflops, digits)) == (params, macs, gflops)
    assert c.params == sum(p.numel() for p in PoseNet(ARCHS[name]).parameters())

def test_which_of_them_the_tables_hold():
    largest = SPACES["hrnet_w32"].largest()
    plain = tuple(Stage(s.depth, tuple(b._replace(attention=False) for b in s.branches)) for s in largest.stages)
    assert replace(largest, stages=plain) == HRNET and HRNET in SPACES["hrnet_w32"]
    assert RESNET in SPACES["resnet50"] and MOBILE not in SPACES["mobilenetv3"]  # its head is not in Table A1

@pytest.mark.parametrize("arch, key, average", [(RESNET, 1.43, .82), (MOBILE, .69, .37), (HRNET, 7.12, 3.2)])
def test_the_space_within_an_architecture(arch, key, average):
    space = SPACES[arch.backbone].within(arch)
    costs = sorted(cost(space.sample(random.Random(i))).gflops for i in range(300))
    assert replace(space.largest(), fusion=None) == arch
    assert costs[15] < search.rest(average, key, 3) / 3 < costs[-3]  # the averages (Table 1; HRNet's is ours), not at the edge

@pytest.mark.parametrize("name", SPACES)
def test_extract_gives_the_same_outputs_at_the_counted_cost(name):
    net = PoseNet(SPACES[name].within(SPACES[name].largest()))
    for module in [m for m in net.modules() if isinstance(m, (TemporalFusion, GlobalContext, SqueezeExcite))]:
        disturb(module, .1)
    x, heatmaps = torch.randn(4, 3, 64, 64), torch.rand(4, 17, 16, 16)
    net(x, net.space.largest(), heatmaps)  # running statistics that are not the initial ones
    for seed in range(6):
        arch = net.space.sample(random.Random(seed))
        finished, c = net.eval().extract(arch), cost(arch, (64, 64))
        with FlopCounterMode(display=False) as counter:
            out = finished(x, heatmaps=heatmaps)
        close(out, net(x, arch, heatmaps))
        assert 2 * len(x) * c.macs == counter.get_total_flops() and c.params == sum(p.numel() for p in finished.parameters())
        close(finished.train()(x, heatmaps=heatmaps), net.train()(x, arch, heatmaps), 1e-4)

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

def test_joints_come_back_from_their_heatmaps():
    for size in ((128, 96), (256, 192)):
        joints = torch.rand(40, 17, 3) * torch.tensor([size[1] - 13, size[0] - 13, 0]) + torch.tensor([6, 6, 2])
        heatmaps, weights = data.targets(joints, size)
        error = (vipnas.decode(heatmaps) - joints)[..., :2].norm(dim=-1) / 4
        assert heatmaps.shape == (40, 17, size[0] // 4, size[1] // 4) and (weights == 1).all()
        assert error.mean() < .05  # of a cell; the nearest cell alone would give .38
    some = torch.tensor([[40., 40, 2], [40, 40, 1], [40, 40, 0], [-60, 40, 2]])
    assert data.targets(some, (128, 96))[1].tolist() == [1, 1, 0, 0]  # not annotated, or outside: no weight
    assert vipnas.decode(torch.zeros(1, 1, 8, 6)).isfinite().all()

@pytest.mark.parametrize("skeleton", [data.COCO, data.POSETRACK])
def test_augmentation_swaps_left_and_right_and_is_the_same_on_all_frames(people, skeleton):
    swap = lambda name: name.replace("left", "?").replace("right", "left").replace("?", "right")
    other = [skeleton.joints.index(swap(joint)) for joint in skeleton.joints]
    heatmaps, clips = torch.rand(3, 17, 8, 6), people.head(24)
    assert torch.equal(data.flip_heatmaps(heatmaps, skeleton)[:, other], heatmaps.flip(-1))
    clips.skeleton = skeleton
    batch = clips.batch([*range(24)] * 4, random.Random(0), 40)
    linear = batch.matrices[:, :, :2]
    mirrored, turns = torch.det(linear) < 0, torch.atan2(linear[:, 1, 0], linear[:, 1, 1]).rad2deg()
    assert 30 < mirrored.sum() < 66 and 35 < turns.max() <= 40 and -40 <= turns.min() < -35
    for i, joints in enumerate(batch.joints.numpy()):
        expected = data.transform(clips.joints[i % 24], batch.matrices[i].numpy())
        assert np.allclose(joints, expected[:, other] if mirrored[i] else expected, atol=1e-3)
    clips.images, clips.joints = clips.images[:, :1].repeat(4, 1), clips.joints[:, :1].repeat(4, 1)  # nobody moves
    batch = clips.batch([0, 0], random.Random(3), 40)
    assert all(torch.equal(x[:, :1].expand_as(x), x) and not torch.equal(x[0], x[1]) for x in batch[::2])  # two draws

def test_the_picture_turns_with_the_joints(people):
    frame, clips = np.zeros((128, 96, 3), np.uint8), people.head(1)
    frame[57:64, 37:44] = 255  # a bright square around x, y = 40, 60
    clips.images, matrix = frame[None, None], data.affine(clips.boxes[0], (128, 96), 30, 1.1, True)
    for picture in (clips.pixels([0], matrix[None])[0][0, 0], data.crop(Image.fromarray(frame), matrix, (128, 96))):
        centre = (picture[0] > 127).nonzero().double().mean(0).flip(0)
        assert np.allclose(centre, data.transform([(40, 60)], matrix)[0], atol=.2)

def test_clips_are_a_function_of_split_and_index_and_show_people_who_move(people):
    images, joints = data.render_clip("val", 3, 6)
    assert np.array_equal(images[:4], people.images[3]) and np.array_equal(joints[:4], people.joints[3])
    assert not np.array_equal(data.render_clip("test", 3)[0], people.images[3])
    a, b = (data.SyntheticClips("val", 150, 4, workers=w) for w in (1, 3))
    assert np.array_equal(a.images, b.images) and np.array_equal(a.joints, b.joints)
    copied = 100 * np.nanmean(search.score(np.repeat(a.joints[:, :1], 4, 1), a, 0), 0)
    assert copied[0] == 100 and copied[1] > 75 and copied[1] > copied[2] > copied[3]
    left, flags = a.joints[:, :, 5, 0] > a.joints[:, :, 6, 0], a.joints[..., 2]
    assert (left.any(1) & ~left.all(1)).any()  # left and right swap sides within a clip
    assert set(np.unique(flags)) <= {0, 1, 2} and .05 < (flags == 1).mean() < .4
    drawn = (np.asarray(data.draw_pose(people.frame(3, 0), joints[0])) != images[0]).any(-1)
    assert all(drawn[int(y + .5), int(x + .5)] for x, y, seen in joints[0] if seen) and .005 < drawn.mean() < .2

@needs_samples
def test_real_people_are_read_and_learnt_by_heart(tmp_path, capsys):
    clips = data.CocoPeople(SAMPLES / "coco", "val", (128, 96))
    batch = clips.batch(range(3))
    perfect = data.transform(vipnas.decode(data.targets(batch.joints, clips.size)[0]).numpy(), data.invert(batch.matrices)[:, None])
    table = search.coco_ap(clips.annotations, search.coco_results(perfect, clips))
    assert len(clips) == 3 and sum(clips.skipped.values()) == 1 and table["AP50"] == 1 and table["AP"] > .95
    found = data.CocoPeople(SAMPLES / "coco", "val", boxes=SAMPLES / "coco/annotations/person_detections_val2017.json")
    assert len(found) == 48 and found.scores.max() > .99 and not found.joints.any()
    assert data.PoseTrackClips(SAMPLES / "posetrack18", "val", 1, (128, 96)).batch([0]).joints[..., 2].sum() > 5
    with pytest.raises(data.DataError, match="--frames"):
        data.PoseTrackClips(SAMPLES / "posetrack18", "val", 4)
    arch = replace(TINY.largest(), stages=tuple(s._replace(depth=1) for s in TINY.largest().stages))
    (tmp_path / "a.json").write_text(arch.to_json())
    train.main(f"--stage s --data coco --root {SAMPLES}/coco --arch {tmp_path}/a.json --out {tmp_path}/s "
               "--steps 300 --batch 6 --lr .01 --rotation 10".split())
    assert float(capsys.readouterr().out.split("ARL\n")[1].split()[0]) >= 90

@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Drawn people in the layouts of the real data sets."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("coco", "posetrack"):
        data.export(kind, folder / kind, 8, 6, (128, 96))
    return folder

def test_an_export_reads_back(exports):
    drawn, people = data.SyntheticClips("train", 8, 1, (128, 96), workers=1), data.CocoPeople(exports / "coco", "train", (128, 96))
    labelled = drawn.joints * (drawn.joints[..., 2:] > 0)
    for ours, theirs in ((people.boxes, drawn.boxes), (people.joints, labelled), (people.areas, drawn.areas)):
        assert np.array_equal(ours, theirs)
    difference = people.batch(range(8)).images.float() - drawn.batch(range(8)).images
    assert difference.abs().mean() < 8 and not people.skipped  # JPEG
    guess = drawn.joints + np.random.default_rng(0).normal(0, 4, drawn.joints.shape)
    guess[..., 2], results = .5, []
    for i, pose in enumerate(guess[:, 0]):
        results.append({"image_id": i + 1, "category_id": 1, "keypoints": pose.ravel().tolist(), "score": .5})
    assert 100 * search.coco_ap(people.annotations, results)["AR"] == pytest.approx(100 * search.score(guess, drawn, 0).mean())
    tracks = data.PoseTrackClips(exports / "posetrack", "train", 6, (128, 96))
    drawn = data.SyntheticClips("train", 8, 6, (128, 96), workers=1)
    body = tracks.joints[:, :, 5:]
    assert np.array_equal(tracks.boxes, drawn.boxes) and np.array_equal(body[..., :2], (drawn.joints * (drawn.joints[..., 2:] > 0))[:, :, 5:, :2])
    neck, top = tracks.joints[:, :, 1], tracks.joints[:, :, 2]
    assert ((neck[..., 2] > 0).mean() > .8) and (neck - top)[(neck[..., 2] > 0)][:, 1].mean() > 10

@pytest.mark.parametrize("frames", [1, 2, 4, 6, 7])
def test_every_labelled_frame_of_posetrack_is_scored_once(exports, frames):
    clips = data.PoseTrackClips(exports / "posetrack", "val", frames, (128, 96), whole=False)
    results = search.posetrack_results(clips.joints, clips)
    assert sorted(r["image_id"] for r in results) == sorted(image["id"] for image in clips.annotations["images"])
    table = search.posetrack_ap(clips.annotations, results)
    assert table["Total"] == 100 and set(table) == {"Head", "Sho", "Elb", "Wri", "Hip", "Knee", "Ank", "Total"}

def test_posetrack_clips_are_consecutive_labelled_frames(exports, tmp_path):
    shutil.copytree(exports / "posetrack", tmp_path, dirs_exist_ok=True)
    path = sorted((tmp_path / "annotations/val").iterdir())[0]
    page, numbers = json.loads(path.read_text()), [0, 4, 8, 9, 10, 13]  # every fourth, then each, then a gap
    for image, number in zip(page["images"], numbers):
        image["frame_id"] = number
    path.write_text(json.dumps(page))
    name = page["images"][0]["id"] // 10 * 10
    ids = lambda frames, whole: (data.PoseTrackClips(tmp_path, "val", frames, whole=whole).ids[..., 0] - name).tolist()
    assert [c for c in ids(3, True) if c[0] < 10] == [[0, 1, 2]] and [c for c in ids(2, True) if c[0] < 10] == [[0, 1], [2, 3]]
    filled = [[i if i >= 0 else None for i in clip] for clip in ids(3, False) if clip[0] < 10]
    assert filled == [[0, 1, 2], [3, 4, None], [5, None, None]]

def damaged(exports, tmp_path, damage):
    """A copy of the exported COCO whose validation file `damage` was done to."""
    shutil.copytree(exports / "coco", tmp_path / "coco")
    path = tmp_path / "coco/annotations/person_keypoints_val2017.json"
    page = json.loads(path.read_text())
    damage(page)
    path.write_text(json.dumps(page))
    return tmp_path / "coco"

@pytest.mark.parametrize("reason, damage", [
    ("incomplete", lambda page: page["annotations"][0].pop("bbox")), ("incomplete", lambda page: page["annotations"][0].update(keypoints=[1])),
    ("incomplete", lambda page: page["annotations"].__setitem__(0, 7)), ("not a number", lambda page: page["annotations"][0].update(area=math.nan)),
    ("not a number", lambda page: page["annotations"][0]["keypoints"].__setitem__(0, math.nan)),
    ("without area", lambda page: page["annotations"][0].update(bbox=[5, 5, -9, 9])),
    ("without area", lambda page: page["annotations"][0].update(bbox=[5, 5, 0, 9])), ("crowd", lambda page: page["annotations"][0].update(iscrowd=1)),
    ("not listed", lambda page: page["annotations"][0].update(image_id=99)), ("not listed", lambda page: page["images"][0].pop("file_name")),
    ("no joints", lambda page: page["annotations"][0].update(keypoints=[0] * 51)),
    ("missing", lambda page: page["images"][0].update(file_name="gone.jpg"))])
def test_a_bad_entry_is_left_out_and_counted(exports, tmp_path, capsys, reason, damage):
    clips = data.open_clips("coco", damaged(exports, tmp_path, damage), "val", 1, (128, 96))
    assert len(clips) == 1 and f"left out 1 x {next(iter(clips.skipped))}" in capsys.readouterr().out and reason in next(iter(clips.skipped))
    assert search.coco_ap(clips.annotations, search.coco_results(clips.joints, clips))["AP"] > 0  # the rest can be judged

@pytest.mark.parametrize("contents", [b"", b'{"images": [', b"[]", b'{"images": 3, "annotations": []}', b'{"images": [], "annotations": []}', None])
def test_a_bad_file_is_one_sentence(exports, tmp_path, contents):
    for kind, page in (("coco", "coco/annotations/person_keypoints_val2017.json"), ("posetrack", "posetrack/annotations/val/x.json")):
        path = tmp_path / page
        path.parent.mkdir(parents=True)
        if contents is not None:
            path.write_bytes(contents)
        with pytest.raises(data.DataError, match="--root|fetch it again") as error:
            data.open_clips(kind, tmp_path / kind, "val", 1, (128, 96))
        assert "\n" not in str(error.value)
    with pytest.raises(data.DataError, match="boxes|fetch it again|nobody"):
        data.CocoPeople(exports / "coco", "val", boxes=tmp_path / "coco/annotations/person_keypoints_val2017.json")

def test_pictures_of_every_kind(exports, tmp_path, capsys):
    root = tmp_path / "coco"
    shutil.copytree(exports / "coco", root)
    files = sorted((root / "train2017").iterdir())
    images = [Image.open(file).convert("RGB") for file in files]
    images[0].convert("L").save(files[0])
    images[1].convert("CMYK").save(files[1])
    Image.fromarray(np.asarray(images[2].convert("L")).astype(np.uint16) * 257).save(files[2], "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me": but annotations are for the pixels as stored
    images[3].save(files[3], exif=exif, quality=95)
    images[4].save(files[4], "GIF", save_all=True, append_images=[images[5]])
    files[5].write_bytes(files[5].read_bytes()[:1500])
    files[6].write_bytes(b"")
    clips = data.CocoPeople(root, "train", (128, 96))
    batch = clips.batch(range(len(clips)))
    for i, image in enumerate(images[:5]):
        grey = lambda picture: np.asarray(picture.convert("L"), float)
        assert np.abs(grey(Image.fromarray(batch.images[i, 0].permute(1, 2, 0).numpy())) - grey(image)).mean() < 8
    assert batch.joints[..., 2].any(-1)[:, 0].tolist() == [True] * 5 + [False, True] and not batch.images[5].any()
    assert clips.skipped == {"picture missing or empty": 1} and files[5].name in capsys.readouterr().err
    for file in files:
        file.write_bytes(b"no picture")
    with pytest.raises(data.DataError, match="none of the first 8 pictures"):
        data.CocoPeople(root, "train", (128, 96))

def test_a_large_jpeg_is_decoded_small(tmp_path):
    image = Image.fromarray(data.render_clip("val", 0, 1, (768, 1024))[0][0])
    image.save(tmp_path / "a.jpg", quality=95)
    matrix = data.affine((300, 100, 400, 600), (128, 96), 20, 1., True)
    opened = Image.open(tmp_path / "a.jpg")
    small, full = data.crop(opened, matrix, (128, 96)).float(), data.crop(Image.open(tmp_path / "a.jpg").copy(), matrix, (128, 96)).float()
    assert opened.size[0] < 1024 and (small - full).abs().mean() < 3

# ---------------------------------------------------------------------------------------------- scores and the search
def coco_case(truths, found):
    """`coco_ap` of one image with people at `truths` and detections [(position, score)]; a position shifts the pose."""
    at = lambda x: {"image_id": 1, "category_id": 1, "keypoints": (POSE + [x, 0, 0]).ravel().tolist()}
    people = [{**at(x), "id": x, "bbox": [x, 0, 80, 80], "area": 6400., "iscrowd": 0, "num_keypoints": 17} for x in truths]
    return search.coco_ap({"images": [{"id": 1}], "annotations": people}, [{**at(x), "score": score} for x, score in found])

def test_oks_and_coco_ap_on_cases_counted_by_hand():
    rng = np.random.default_rng(0)
    found, joints, area = rng.normal(size=(17, 3)) * 5, rng.normal(size=(17, 3)) * 5, 400.
    joints[:, 2] = rng.integers(0, 3, 17)
    k, d2, seen = 2 * np.array(data.COCO.sigmas), ((found - joints)[:, :2] ** 2).sum(-1), joints[:, 2] > 0
    assert search.oks(found, joints, np.array(area)) == pytest.approx(np.exp(-d2 / (2 * area * k ** 2))[seen].mean())  # Sec. 4.1
    perfect = coco_case([0, 500], [(0, .9), (500, .8)])
    assert perfect["AP"] == perfect["AR"] == perfect["APM"] == 1 and perfect["APL"] == -1
    # one of two people found, below a false alarm: precision 1/2 up to recall 1/2 (51 of 101 recall points)
    half = coco_case([0, 500], [(0, .5), (-900, .9)])
    assert half["AP50"] == pytest.approx(.5 * 51 / 101) and half["AR"] == .5
    assert coco_case([0], [])["AP"] == 0 and coco_case([0], [(0, .9), (0, .8)])["AP"] == 1  # found twice: ranked last
    with pytest.raises(ValueError, match="do not list"):
        search.coco_ap({"images": [], "annotations": []}, [{"image_id": 77, "keypoints": [0] * 51, "score": 1}])
def test_posetrack_ap_on_cases_counted_by_hand():
    person = {"image_id": 1, "keypoints": POSE.ravel().tolist(), "bbox_head": [0, 0, 30, 40]}  # head size .6 * 50 = 30
    truth = {"images": [{"id": 1}], "annotations": [person], "categories": [{"keypoints": list(data.POSETRACK.joints)}]}
    result = lambda pose, score=1.: {"image_id": 1, "track_id": 0, "keypoints": np.ravel(pose).tolist(), "scores": [score] * 17}
    shift = np.zeros((17, 3))
    shift[data.POSETRACK.joints.index("left_knee")] = [14.9, 0, 0]
    assert search.posetrack_ap(truth, [result(POSE + shift)])["Knee"] == 100
    wrong = search.posetrack_ap(truth, [result(POSE + shift * 1.02)])
    assert wrong["Knee"] == 50 and wrong["Total"] == pytest.approx(100 * 14 / 15)
    alarm = result(np.full((17, 3), 900.), .9)
    assert search.posetrack_ap(truth, [result(POSE, .5), alarm])["Total"] == 50  # ranked first, it halves every precision
    region = {"id": 1, "ignore_regions_x": [[800, 1000, 1000, 800]], "ignore_regions_y": [[800, 800, 1000, 1000]]}
    assert search.posetrack_ap({**truth, "images": [region]}, [result(POSE, .5), alarm])["Total"] == 100

def test_the_protocol_of_coco():
    poses = np.stack([POSE, POSE + [1, 0, 0], POSE + [40, 0, 0]])
    assert search.oks_nms(poses, [.5, .9, .1], np.full(3, 6400.)) == [1, 2] and search.pose_score(np.array([[0, 0, .1], [0, 0, .4], [0, 0, .6]]), .5) == .25
    flat = torch.zeros(1, 8, 6)
    flat[0, 4, 2], flat[0, 4, 3], flat[0, 3, 2] = 1, .5, .2
    assert vipnas.decode(flat, quarter=True)[0].tolist() == [4 * 2.25 + 1.5, 4 * 3.75 + 1.5, 1]
    joints, mirror = torch.tensor([[[30.3, 50, 2]] * 17]), torch.tensor([[[95 - 30.3, 50, 2]] * 17])
    for cell, apart in ((data.CELL, 1e-5), (data.SBL_CELL, .15)):  # the mirrored person's heatmaps lie on the person's
        seen, flipped = (data.targets(j, (128, 96), cell=cell)[0] for j in (joints, mirror))
        assert (seen - data.flip_heatmaps(flipped, data.COCO, cell)).abs().max() < apart
        assert vipnas.decode(seen, cell=cell)[0, 0, :2].tolist() == pytest.approx([30.3, 50], abs=.05)


def test_samples_and_allocations_keep_to_the_budget():
    gflops = lambda *archs: sum(cost(a, TINY.image_size).gflops for a in archs)
    draw = lambda budget, count, seed=0: search.sample(TINY, budget, count, random.Random(seed))
    archs, least = draw(.014, 40), gflops(TINY.smallest())
    assert len(set(archs)) == 40 and all(a in TINY and gflops(a) <= .014 for a in archs)
    assert archs == draw(.014, 40) != draw(.014, 40, 1)
    tight = draw(least * 1.001, 5)  # hardly anything fits: still an answer
    assert tight and all(gflops(a) <= least * 1.001 for a in tight)
    space = TINY.within(TINY.largest())
    for budget in (.05, .036):
        found = search.allocate(space, 3, budget, 20, random.Random(0))
        assert len(found) == 20 and all(len(f) == 3 and gflops(*f) <= budget and all(a in space for a in f) for f in found)
        assert any(len({(a.fusion, a.stages) for a in f}) == 3 for f in found)
    for call in (lambda: draw(least * .99, 5), lambda: search.allocate(space, 3, .01, 2, random.Random(0))):
        with pytest.raises(ValueError, match="give more"):
            call()

def test_recalibration_measures_the_mean_statistics(people):
    net, sight = PoseNet(TINY.smallest()), search.Sight(people, 0, CPU, batch=8)
    net.stem.norm.running_mean.fill_(99)
    search.recalibrate([net], sight)
    features = [net.stem.conv(images[:, 0]) for images, _, _ in sight]
    close(net.stem.norm.running_mean, torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0), 1e-4)
    close(net.stem.norm.running_var, torch.stack([f.transpose(0, 1).flatten(1).var(1) for f in features]).mean(0), 1e-3)
    assert not net.training and net.stem.norm.momentum == .1

def test_the_search_keeps_the_best_and_continues_its_table(people, tmp_path):
    net, rng, path = PoseNet(TINY), random.Random(0), tmp_path / "s.json"
    candidates, sight = [(TINY.sample(rng),) for _ in range(4)], search.Sight(people.head(4), 0, CPU)
    go = lambda seed: search.search(net, candidates, sight, sight, path, {"seed": seed}, say=lambda _: None)
    best, table = go(0)
    assert len(table) == 4 and table[candidates.index(best)]["ap"] == max(row["ap"] for row in table)
    saved = json.loads(path.read_text())
    saved["candidates"] = [table[0], {**table[1], "ap": 1e3}]
    path.write_text(json.dumps(saved))
    assert go(0)[0] == candidates[1] and go(1)[1] == table

# ---------------------------------------------------------------------------------------------- training
def gradients(net, step):
    net.zero_grad()
    step()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}

def test_a_sandwich_is_biggest_smallest_and_random():
    space = TINY.within(TINY.largest())
    draw = lambda seed: train.sandwich(space, 3, random.Random(seed))
    biggest, smallest, *others = draw(0)
    for chain, end in ((biggest, space.largest()), (smallest, space.smallest())):
        assert [replace(a, fusion=end.fusion) for a in chain] == [end] * 3
    assert len(others) == 2 and all(len(set(chain)) == 3 for chain in others)  # every frame draws its own
    assert len({draw(seed)[0][0].fusion for seed in range(20)}) > 5 and draw(0) == draw(0)

@pytest.mark.parametrize("space, frames", [(TINY, 1), (TINY.within(TINY.largest()), 3)])  # stage s; stage t
def test_a_step_is_distillation_in_place_and_a_chain_hands_on_its_own_predictions(space, frames):
    first, net = int(frames > 1), PoseNet(space)
    disturb(net.fusions, .1)
    clips = data.SyntheticClips("val", 4, first + frames, workers=1)
    batch = train.unpack(clips.batch(range(4)), clips, CPU)
    batch[2][..., :5] = 0  # joints without truth are still learnt from the biggest
    images, targets, weights = (x[:, first:] for x in batch)
    heatmaps, chains = batch[1][:, 0] if first else None, train.sandwich(space, frames, random.Random(0))
    error = lambda a, b, w=1: 1000 * ((a - b) ** 2).mean((3, 4)).mul(w).mean()

    def by_hand():
        chain = [[heatmaps] for _ in chains]
        for found, archs in zip(chain, chains):
            for t, arch in enumerate(archs):
                found.append(net(images[:, t], arch, found[-1]))
        big, *others = (torch.stack(found[1:], 1) for found in chain)
        error(big, targets, weights).backward()
        sum(error(small, targets, weights) / 2 + error(small, big.detach()) / 2 for small in others).backward()
    found = gradients(net, lambda: train.train_step([net] * frames, chains, images, targets, weights, heatmaps))
    for name, expected in gradients(net, by_hand).items():
        close(found.pop(name), expected, 1e-4)
    assert not found

def test_a_team_computes_the_mean_of_its_parts(monkeypatch):
    net, chains = PoseNet(TINY).double(), train.sandwich(TINY, 1, random.Random(0))  # rounding depends on the threads
    clips = data.SyntheticClips("val", 16, 1, workers=1)
    batch = [x.double() for x in train.unpack(clips.batch(range(16)), clips, CPU)]
    parts = [gradients(net, lambda: train.train_step([net], chains, *(x[i::2] for x in batch), None)) for i in (0, 1)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    team = train.Team([net], 16, CPU)
    assert len(team.copies) == 2
    for name, gradient in gradients(net, lambda: team.step(chains, *batch, None)).items():
        close(gradient, (parts[0][name] + parts[1][name]) / 2, 1e-8)

def test_learning_rates():
    s, t = (train.read_options(words.split()) for words in ("--stage s --data coco --root x", "--stage t"))
    assert [train.learning_rate(e, 250, s, "resnet50") for e in (0, 199, 200, 229, 230)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    assert [train.learning_rate(e, 1000, t, "tiny") * 100 for e in (0, 500, 999)] == pytest.approx([.01, .5, 0], abs=1e-5)

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both stages, run once, as small as can be."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(f"--stage s --steps 4 --out {folder}/s {SMALL}".split())
    train.main(f"--stage t --steps 3 --finish 2 --s {folder}/s/vipnas_s.pt --out {folder}/t {SMALL}".split())
    return folder

def test_both_stages_leave_a_whole_run(runs):
    files = {"supernet.pt", "search.json", "search.png", "log.jsonl"}
    assert files | {"vipnas_s.pt", "poses.png"} <= set(os.listdir(runs / "s"))
    assert files | {"vipnas_t.pt", "poses.gif"} <= set(os.listdir(runs / "t")) and not list(runs.glob("*/*.tmp"))
    (s,), _ = vipnas.load_finished(runs / "s" / "vipnas_s.pt")
    (key, *others), about = vipnas.load_finished(runs / "t" / "vipnas_t.pt")
    assert key.arch == s.arch and about["size"] == [128, 96] and len(others) == 3
    assert all(map(torch.equal, key.state_dict().values(), s.state_dict().values()))  # stage t leaves S alone
    assert all(p.std() > 0 for net in others for p in net.fusions.parameters())       # and trains its own
    tests = [e for e in map(json.loads, open(runs / "t" / "log.jsonl")) if e.get("event") == "test"]
    assert len(tests) == 3 and all(len(e["ap_by_frame"]) == 3 for e in tests)  # T, its single-frame rival, the copied pose

def same_run(one, other, *names):
    """Two run folders hold the same weights, bit for bit, and the same tables; each step is in the log once."""
    for name in names:
        ours, theirs = (vipnas.read(folder / name) for folder in (one, other))
        ours, theirs = (c["nets"] if "nets" in c else [n["state"] for n in c["networks"]] for c in (ours, theirs))
        assert all(torch.equal(v, b[k]) for a, b in zip(ours, theirs) for k, v in a.items()) and len(ours) == len(theirs)
    texts = lambda folder: {path.name: path.read_text() for path in folder.glob("*.json*")}
    assert texts(one) == texts(other) and not list(one.glob("*.tmp"))

def test_ctrl_c_saves_the_step_and_resume_is_exact(runs, tmp_path, monkeypatch):
    report = train.report

    def interrupt(path, step, *rest):
        report(path, step, *rest)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(train, "report", interrupt)
    arguments = f"--stage s --steps 4 --out {tmp_path}/s {SMALL}".split()
    with pytest.raises(SystemExit, match="--resume"):
        train.main(arguments)
    monkeypatch.undo()
    assert vipnas.load(tmp_path / "s" / "supernet.pt", "supernet")["step"] == 3  # the next one was complete
    train.main(arguments + ["--resume"])
    same_run(tmp_path / "s", runs / "s", "supernet.pt", "vipnas_s.pt")
    with pytest.raises(SystemExit, match="--lr was"):
        train.main(arguments + ["--resume", "--lr", "1"])

def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(runs, tmp_path):
    # by this clock each step takes long enough to be saved
    code = "import itertools, sys, train; train.time.time = itertools.count(0, 100).__next__; train.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--stage", "t", "--steps", "3", "--finish", "2", "--s", f"{runs}/s/vipnas_s.pt"]
    command += ["--out", f"{tmp_path}/t", *SMALL.split()]
    for name in ("search.json", "rival.pt", "nothing"):
        process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "t" / name).exists():
            time.sleep(.01)
        process.kill()
        command += ["--resume"] * (name == "search.json")
    assert process.wait() == 0
    same_run(tmp_path / "t", runs / "t", "supernet.pt", "finish.pt", "rival.pt", "vipnas_t.pt")

@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("name", ["supernet.pt", "search.json", "log.jsonl"])
def test_a_full_disk_is_one_sentence_and_leaves_the_last_good_file(name, tmp_path):
    arguments, path = f"{ONE} --candidates 1 --gflops .025 --out {tmp_path}".split() + ["--resume"], tmp_path / name
    before = name == "search.json" and path.write_text("{}") and "{}"
    (tmp_path / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(SystemExit, match=f"{name} cannot be written .No space left on device.; an older file"):
        train.main(arguments)
    assert not list(tmp_path.glob("*.tmp")) and (path.read_text() == before if before else not path.exists())

def gradients_of_a_share():
    """Of this process's share of a batch, averaged over all. With fixed statistics, or each would normalise its own share."""
    torch.manual_seed(0)
    net, options = PoseNet(TINY).double().eval(), train.read_options("--stage s --batch 4".split())
    clips = data.SyntheticClips("train", 4, 1, workers=1)
    batch = [x.double() for x in train.unpack(train.Feed(clips, options)[0], clips, CPU)]
    losses = train.train_step([net], train.sandwich(TINY, 1, random.Random(0)), *batch, None)
    losses, stop = train.average([*net.parameters()], losses, [True] * search.ranks()[0])  # Ctrl-C in all but the first
    return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}, torch.tensor(losses), stop

def test_two_processes_are_one(tmp_path):
    (tmp_path / "work.py").write_text("""
import sys, torch, search, test_vipnas, train
with train.processes() as device:
    torch.save(test_vipnas.gradients_of_a_share(), f"{sys.argv[1]}/{search.ranks()[0]}.pt")
    train.stage_s(train.read_options(sys.argv[2:]), device)""")
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node=2 --".split()]
    small = f"--steps 2 {SMALL} --candidates 3 --finish 1 --clips 4"

    def start(script, words):
        return subprocess.run([*torchrun, script, *words.split()], env=environment, capture_output=True, text=True)
    start(tmp_path / "work.py", f"{tmp_path} --stage s {small} --out {tmp_path}/s").check_returncode()
    whole, losses, _ = gradients_of_a_share()
    for rank in (0, 1):
        shared, mean, stop = torch.load(tmp_path / f"{rank}.pt")
        assert stop and shared.keys() == whole.keys() and torch.allclose(mean, losses, rtol=1e-6)
        for name in whole:
            close(shared[name], whole[name], 1e-9)

    run = start(HERE / "train.py", f"--stage t --s {tmp_path}/s/vipnas_s.pt {small} --out {tmp_path}/t")
    assert run.returncode == 0 and run.stdout.count("run:") == run.stdout.count("search: 3 of 3 candidates, best") / 2 == 1
    assert {"supernet.pt", "finish.pt", "rival.pt", "vipnas_t.pt", "search.png", "poses.gif"} <= set(os.listdir(tmp_path / "t"))
    s, t = (json.loads((tmp_path / stage / "search.json").read_text()) for stage in "st")
    expected = [[json.loads(a.to_json())] for a in search.sample(TINY, .025, 3, random.Random("0 search"))]
    assert [row["archs"] for row in s["candidates"]] == expected and len(t["candidates"]) == 3
    wrong = start(HERE / "train.py", "--stage s --batch 5")
    assert wrong.returncode and wrong.stderr.count("train: --batch 5 cannot be shared") == 1 and not wrong.stdout

@pytest.mark.parametrize("space", ["mobilenetv3", "resnet50"])
def test_the_papers_spaces_go_all_the_way(space, tmp_path):
    train.main(f"{ONE} --clips 2 --space {space} --candidates 2 --out {tmp_path}/s".split())
    (net,), about = vipnas.load_finished(tmp_path / "s" / "vipnas_s.pt")
    assert net.arch in SPACES[space] and about["size"] == [256, 192]

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

def test_one_architecture_alone_and_a_second_run_moves_the_first_aside(tmp_path, capsys):
    arguments = f"{ONE} --arch {tmp_path}/a.json --out {tmp_path}/s".split()
    (tmp_path / "a.json").write_text(TINY.smallest().to_json())
    train.main(arguments), train.main(arguments)
    assert (tmp_path / "s.1" / "vipnas_s.pt").is_file() and "moved" in capsys.readouterr().out
    assert vipnas.load_finished(tmp_path / "s" / "vipnas_s.pt")[0][0].arch == TINY.smallest()
    (tmp_path / "a.json").write_text(TINY.largest().to_json())
    with pytest.raises(SystemExit, match="smaller than"):
        train.main(arguments + ["--init", f"{tmp_path}/s.1/vipnas_s.pt"])

# ---------------------------------------------------------------------------------------------- video and errors
@pytest.mark.parametrize("box", [(35.5, 55, 40, 80), (10.6, 39.8, 76.8, 102.4)])  # their windows have whole pixels
def test_a_stream_finds_what_the_training_path_finds(box):
    nets = [PoseNet(TINY.smallest())] + [PoseNet(TINY.within(TINY.smallest()).sample(random.Random(t))) for t in (1, 2)]
    for net in nets:
        disturb(net.eval().fusions), disturb(net.head.final)
    frames = [Image.fromarray(frame) for frame in data.render_clip("test", 0, 4, (200, 150))[0]]
    pose, matrix = vipnas.VideoPose(nets, data.about(data.COCO, (128, 96))), data.affine(box, (128, 96))
    stream = pose.stream(box)
    found = np.stack([stream.step(np.asarray(frame)) for frame in frames[:3]])
    images = data.normalise(torch.stack([data.crop(frame, matrix, (128, 96)) for frame in frames[:3]]))
    expected = data.transform(vipnas.decode(search.propagate(nets, images[None])[0].detach()).numpy(), data.invert(matrix))
    difference = np.abs(found - expected)[..., :2].max(-1)  # (F, K) pixels
    assert np.median(difference) < .02 and (difference < .5).mean() > .9  # the networks are random: a few peaks are ties
    assert np.array_equal(stream.step(frames[3]), pose.stream(stream.box).step(frames[3]))  # a key frame again

@needs_samples
def test_the_real_video(runs, tmp_path):
    options = f"--video {SAMPLES}/video --checkpoint {runs}/t/vipnas_t.pt --box 356,270,208,314 --out {tmp_path}"
    subprocess.run([sys.executable, HERE / "vipnas.py", *options.split()], check=True, capture_output=True)
    poses = json.loads((tmp_path / "poses.json").read_text())["poses"]
    assert [p["kind"] for p in poses] == ["key", "propagated", "propagated", "propagated", "key"]
    assert len(list(tmp_path.glob("*.png"))) == 5 and np.array(poses[0]["keypoints"]).shape == (17, 3)

@pytest.mark.parametrize("arguments, message", [
    ("", "--stage s first"), ("--stage s --space vgg", "no space"), ("--stage s --data coco", "--root"),
    ("--stage s --root x", "--root"), ("--stage s --data coco --root /nowhere --candidates 2", "nowhere"),
    ("--stage t --data coco --root x", "no videos"), ("--stage t --s /no.pt", "no.pt"), ("--stage t --init x", "to stage s"),
    ("--stage s --gflops .001", "smallest"), ("--stage s --steps 0", "above zero"), ("--stage s --arch /no.json", "no.json"),
    ("--stage s --arch x --gflops 1", "nothing to search")])
def test_what_the_user_can_mend_is_one_sentence(arguments, message, tmp_path):
    with pytest.raises(SystemExit) as stop:
        train.main(arguments.split() + ["--out", f"{tmp_path}/run"])
    assert message in stop.value.code and "\n" not in stop.value.code and not (tmp_path / "run" / "supernet.pt").exists()

def test_bad_checkpoints_are_one_sentence(runs, tmp_path, monkeypatch):
    path = runs / "s" / "vipnas_s.pt"
    lacks = torch.load(path, weights_only=True)
    lacks["networks"][0]["state"].pop("head.final.weight")
    for name, contents in (("foreign.pt", {"state_dict": {}}), ("code.pt", nn.Linear(2, 2)), ("lacks.pt", lacks)):
        torch.save(contents, tmp_path / name)
    (tmp_path / "short.pt").write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    for name, message in (("short.pt", "truncated"), ("foreign.pt", "something else"), ("code.pt", "something else"),
                          ("lacks.pt", "head.final.weight"), ("nowhere.pt", "no file")):
        monkeypatch.setattr(sys, "argv", f"vipnas.py --video {tmp_path} --checkpoint {tmp_path / name} --out {tmp_path}".split())
        with pytest.raises(SystemExit, match=message) as stop:
            vipnas.main()
        assert "\n" not in stop.value.code
