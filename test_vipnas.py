"""The tests, chapter by chapter; about three minutes on two CPU cores: VIPNAS_SAMPLES=DIR python -m pytest test_vipnas.py
DIR holds a few real files (`coco`, `posetrack18`, `video`); without it the tests that need them are skipped."""
import json, os, pathlib, random, re, shutil, subprocess, sys, time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import chisquare
from torch.utils.flop_counter import FlopCounterMode

import data, search, train, vipnas
from elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d, GlobalContext, SqueezeExcite
from fusion import OPERATIONS, TemporalFusion
from vipnas import ARCHS, SPACES, Arch, Fusion, PoseNet, Space, cost, serial

SAMPLES = pathlib.Path(os.environ.get("VIPNAS_SAMPLES", "/nonexistent"))
HERE, CPU, TINY = pathlib.Path(__file__).parent, torch.device("cpu"), SPACES["tiny"]
INNER = TINY.within(TINY.largest())  # what a stage t searches in
RESNET, MOBILE, HRNET = (ARCHS[name] for name in ("s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32"))
SMALL, ONE = "--clips 16 --candidates 2 --batch 4 --gflops .025", "--stage s --clips 8 --steps 1 --batch 2"
POSE = np.array([[10 + 4 * i, 20 + 7 * (i % 5), 2] for i in range(17)], float)

@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)

def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * max(1, b.abs().max())

def disturb(module, std=.3):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module

def same_as(expected, found, x, layer):  # and so are the gradients to the input `x` and to the weights of `layer`
    results = [(y, *torch.autograd.grad((y * found.detach()).sum(), [x, *layer.parameters()])) for y in (found, expected)]
    torch.testing.assert_close(*results)

def refused(message, call, *arguments, error=SystemExit):  # `call` raises it, in one line that says `message`
    stop = pytest.raises(error, call, *arguments)
    stop.match(message)
    assert "\n" not in str(stop.value)

@pytest.mark.parametrize("inputs, width, kernel, groups", [(32, 32, 7, 2), (32, 16, 5, 4), (24, 16, 3, 8), (24, 24, 3, 24),
    (32, 32, 4, 4), (32, 16, 2, 4), (24, 8, 4, 8), (16, 16, 2, 16)])  # even kernels: deconvolutions
def test_a_convolution_is_its_slice(inputs, width, kernel, groups):
    x, odd = torch.randn(2, inputs, 9, 8, dtype=torch.double, requires_grad=True), kernel % 2
    layer = disturb(ElasticConv2d(32, 32, 7, 2, 2, True) if odd else ElasticConvTranspose2d(32, 32, 4, groups=4)).double()
    m = slice(*((layer.weight.shape[-1] + n) // 2 for n in (-kernel, kernel)))
    if odd:
        expected = F.conv2d(x, layer.weight[:width, :inputs // groups, m, m], layer.bias[:width], 2, kernel // 2, groups=groups)
    else:
        expected = F.conv_transpose2d(x, layer.weight[:inputs, :width // groups, m, m], None, 2, kernel // 2 - 1, groups=groups)
    same_as(expected, layer(x, width, kernel, groups), x, layer)

@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_over_the_first_channels(training):
    layer, x = disturb(ElasticBatchNorm2d(12)).double().train(training), torch.randn(6, 8, 5, 4).double().mul(3).requires_grad_()
    mean, var = layer.running_mean.normal_().clone(), layer.running_var.uniform_(1, 2).clone()
    same_as(F.batch_norm(x, mean[:8], var[:8], layer.weight[:8], layer.bias[:8], training), layer(x), x, layer)
    close(layer.running_mean, mean), close(layer.running_var, var)

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

@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_starts_as_the_identity_that_can_learn_and_is_the_papers_figure_at_any_width(operation):
    fresh, module, heatmaps = TemporalFusion(17, 48), disturb(TemporalFusion(17, 48)), torch.rand(2, 17, 16, 12)
    encode, project = module.encode[operation], module.project[operation]
    for c in (48, 32):
        x, halves = torch.randn(2, c, 8, 6), [project.weight[:c, :c], module.project_heatmaps.weight[:c, :c]]
        h = F.interpolate(F.conv2d(heatmaps, encode.weight[:c], encode.bias[:c]), (8, 6), mode="bilinear", align_corners=False)
        fused = {"add": x + h, "mul": x * h, "cat": torch.cat([x, h], 1)}[operation]
        weight = torch.cat(halves[:1 + (operation == "cat")], 1)  # the halves of one convolution over 2C channels
        close(module(x, heatmaps, operation), F.conv2d(fused, weight, project.bias[:c]))
        close(fresh(x, heatmaps, operation), x)
    fresh(x, heatmaps, operation).square().sum().backward()
    assert fresh.encode[operation].weight.grad.abs().max() > 0

def test_what_is_no_network_or_does_not_fit_is_one_sentence():
    wrong = lambda old, new: Arch.from_json(RESNET.to_json().replace(old, new))
    layer, net, x = ElasticConvTranspose2d(160, 256, 4, groups=32), PoseNet(TINY), torch.zeros(1, 3, 32, 32)
    for message, call, *arguments in (
            ("not an arch", wrong, '"stem": 48, ', ""), ("no backbone", wrong, "resnet50", "vgg"), ("name one", net, x),
            ("stages", wrong, "resnet50", "mobilenetv3"), ("whole numbers", wrong, '"depth": 4', '"depth": "4"'),
            ("kernels", wrong, '"kernel": 3', '"kernel": 2'), ("2 or 4 in", wrong, '144, "kernel": 4', '144, "kernel": 3'),
            ("deconvolutions", wrong, '"head": {"width": 144, "kernel": 4, "groups": 16}', '"head": null'),
            ("expansion", wrong, '"expansion": 1', '"expansion": 3'), ("whole numbers", wrong, '"stem": 48', '"stem": -1'),
            ("fusion", wrong, "null", '{"stage": 9, "operation": "add"}'), ("cannot give", layer.slice, 160, 256, 4, 2),
            ("cannot be cut", layer.slice, 160, 256, 6, 32), ("blocks", PoseNet(TINY.smallest()), x, TINY.largest()),
            ("last frame", net, x, replace(TINY.largest(), fusion=Fusion(1, "add")))):
        refused(message, call, *arguments, error=ValueError)

def test_the_ends_and_sizes_of_the_spaces_and_which_of_the_papers_networks_they_hold():
    ends = lambda name: (SPACES[name].smallest(), SPACES[name].largest())
    least = [(d, w, 3, 64, False, 1) for d, w in ((3, 64), (4, 128), (6, 256), (3, 512))]
    most = [(d, w, 5, 16, True, 1) for d, w in ((4, 80), (6, 160), (8, 320), (4, 640))]
    assert ends("resnet50") == (serial("resnet50", 32, least, (64, 4, 64)), serial("resnet50", 64, most, (256, 4, 16)))
    least = [(1, 16, 3, 16, False, 1)] + [(2, w, 3, 3 * w, False, 3) for w in (24, 40, 80, 112, 160)]
    most = [(1, 16, 3, 2, True, 1)] + [(4, w, 7, 3 * w // 8, True, 6) for w in (24, 40, 80, 112, 160)]
    assert ends("mobilenetv3") == (serial("mobilenetv3", 16, least, (256, 4, 256)), serial("mobilenetv3", 16, most, (256, 4, 32)))
    few, rng = replace(TINY.within(TINY.smallest()), depth=((1, 2),) * 4), random.Random(0)
    assert few.size() == len({few.sample(rng) for _ in range(20 * few.size())}) == 384 and Space.of(RESNET).size() == 1
    assert str(ends("hrnet_w32")[1]).replace(" att", "") == str(HRNET) and HRNET in SPACES["hrnet_w32"]
    assert RESNET in SPACES["resnet50"] and MOBILE not in SPACES["mobilenetv3"]  # its head is not in Table A1

@pytest.mark.parametrize("name", SPACES)
def test_samples_lie_between_the_ends_go_through_json_and_extract_gives_their_outputs_at_the_counted_cost(name):
    space, largest, rng = SPACES[name], SPACES[name].largest(), random.Random(0)
    inner = space.within(space.sample(rng))
    for s in (space, inner):
        archs, (least, most) = [s.sample(rng) for _ in range(100)], (cost(a, s.image_size) for a in (s.smallest(), s.largest()))
        assert all(a in s and cost(a, s.image_size).gflops <= 1.05 * most.gflops for a in archs) and len(set(archs)) > 50
        assert all(least.macs <= cost(a, s.image_size).macs for a in archs if a.fusion == s.smallest().fusion)
        assert {Arch.from_json(a.to_json()) for a in archs} == set(archs) and not any("\n" in str(a) + a.to_json() for a in archs)
    assert replace(largest, stem=largest.stem + 16) not in space and largest not in inner and all(a.fusion for a in archs)
    net = PoseNet(space.within(largest))
    disturb(torch.nn.ModuleList(m for m in net.modules() if isinstance(m, (TemporalFusion, GlobalContext, SqueezeExcite))), .1)
    x, heatmaps = torch.randn(4, 3, 64, 64), torch.rand(4, 17, 16, 16)
    net(x, net.space.largest(), heatmaps)  # running statistics that are not the initial ones
    for arch in [net.space.sample(random.Random(seed)) for seed in range(6)]:
        finished, c = net.eval().extract(arch), cost(arch, (64, 64))
        with FlopCounterMode(display=False) as counter:
            out = finished(x, heatmaps=heatmaps)
        close(out, net(x, arch, heatmaps))
        assert 2 * len(x) * c.macs == counter.get_total_flops() and c.params == sum(p.numel() for p in finished.parameters())
        close(finished.train()(x, heatmaps=heatmaps), net.train()(x, arch, heatmaps), 1e-4)

@pytest.mark.parametrize("name, params, macs, gflops", [
    ("s_vipnas_resnet50", 7286772, 1.4644, 1.4298), ("s_vipnas_mobilenetv3", 5895725, .7342, .6909),
    ("sbl_resnet18", 15376721, 2.8972, 5.792), ("sbl_resnet50", 33999697, 5.4264, 8.991), ("hrnet_w32", 28536113, 7.6450, 7.120)])
def test_cost_of_the_papers_networks_and_within_them(name, params, macs, gflops):
    arch, c, digits = ARCHS[name], cost(ARCHS[name]), 4 if gflops < 2 else 3
    assert (c.params, round(c.macs / 1e9, 4), round(c.gflops, digits)) == (params, macs, gflops)
    assert c.params == sum(p.numel() for p in PoseNet(arch).parameters())
    assert "sbl" in name or replace(SPACES[arch.backbone].within(arch).largest(), fusion=None) == arch
    assert search.rest(2, 5, 3) == 3  # what three frames may cost together, if the average with the key frame's 5 is to be 2

@pytest.fixture(scope="module")
def people():
    return data.SyntheticClips("val", 24, 4, workers=1)

def test_joints_come_back_from_heatmaps_the_picture_turns_with_them_and_a_large_jpeg_is_decoded_small(people, tmp_path):
    for size, cell, apart in (((128, 96), data.CELL, 1e-5), ((256, 192), data.CELL, 1e-5), ((128, 96), data.SBL_CELL, .15)):
        joints = torch.rand(40, 17, 3) * torch.tensor([size[1] - 13, size[0] - 13, 0]) + torch.tensor([6, 6, 2])
        heatmaps, weights = data.targets(joints, size, cell=cell)
        miss = (vipnas.decode(heatmaps, cell=cell) - joints)[..., :2].norm(dim=-1) / 4  # of a cell; the nearest alone: .38
        assert [4 * n for n in heatmaps.shape[2:]] == [*size] and weights.min() == 1 and miss.mean() < .05 and miss.median() < .01
        mirror = (joints * torch.tensor([-1, 1, 1]) + torch.tensor([size[1] - 1, 0, 0]))[:, list(data.COCO.flip)]
        flipped = data.flip_heatmaps(data.targets(mirror, size, cell=cell)[0], data.COCO, cell)
        assert (heatmaps - flipped)[..., 1:].abs().max() < apart  # a mirrored person's heatmaps lie on the person's
    some = torch.tensor([[40., 40, 2], [40, 40, 1], [40, 40, 0], [-60, 40, 2]])  # the last: not annotated, outside
    assert data.targets(some, (128, 96))[1].tolist() == [1, 1, 0, 0] and vipnas.decode(torch.zeros(1, 1, 8, 6)).isfinite().all()
    flat = torch.tensor([[[0, 0, .2, 0], [0, 0, 1, .5], [0, 0, 0, 0]]])
    assert vipnas.decode(flat, quarter=True)[0].tolist() == [4 * 2.25 + 1.5, 4 * .75 + 1.5, 1]
    frame = np.pad(np.full((7, 7, 3), 255, np.uint8), ((57, 64), (37, 52), (0, 0)))  # a bright square around x, y = 40, 60
    matrix = data.affine(people.boxes[0], (128, 96), 30, 1.1, True)
    centre = (data.crop(Image.fromarray(frame), matrix, (128, 96))[0] > 127).nonzero().double().mean(0).flip(0)
    assert np.allclose(centre, data.transform([(40, 60)], matrix)[0], atol=.2)
    Image.fromarray(data.render_clip("val", 0, 1, (768, 1024))[0][0]).save(tmp_path / "a.jpg", quality=95)
    lazy, matrix = Image.open(tmp_path / "a.jpg"), data.affine((300, 100, 400, 600), (128, 96), 20, 1., True)
    full, small = (data.crop(image, matrix, (128, 96)).float() for image in (Image.open(tmp_path / "a.jpg").copy(), lazy))
    assert lazy.size[0] < 1024 and (small - full).abs().mean() < 3

@pytest.mark.parametrize("skeleton", [data.COCO, data.POSETRACK])
def test_augmentation_swaps_left_and_right_and_is_the_same_on_all_frames(people, skeleton):
    swap = lambda name: name.replace("left", "?").replace("right", "left").replace("?", "right")
    other = [skeleton.joints.index(swap(joint)) for joint in skeleton.joints]
    clips = people.head(24)
    clips.skeleton = skeleton
    batch = clips.batch([*range(24)] * 4, random.Random(0), 40)
    turns, mirrored = torch.atan2(*batch.matrices[:, 1, :2].T).rad2deg(), torch.det(batch.matrices[:, :, :2]) < 0
    assert 30 < mirrored.sum() < 66 and 35 < turns.max() <= 40 and -40 <= turns.min() < -35
    for i, (joints, matrix, frames) in enumerate(zip(batch.joints, batch.matrices, batch.images)):
        expected = data.transform(clips.joints[i % 24], matrix)
        assert np.allclose(joints, expected[:, other] if mirrored[i] else expected, atol=1e-3)
        assert all(torch.equal(image, data.crop(clips.frame(i % 24, t), matrix, clips.size)) for t, image in enumerate(frames))

def test_clips_are_a_function_of_split_and_index_and_show_people_who_move(people):
    images, joints = data.render_clip("val", 3, 6)
    assert np.array_equal(images[:4], people.images[3]) and np.array_equal(joints[:4], people.joints[3])
    assert not np.array_equal(data.render_clip("test", 3)[0], people.images[3])
    a, b = (data.SyntheticClips("val", 150, 4, workers=w) for w in (1, 3))
    assert np.array_equal(a.images, b.images) and np.array_equal(a.joints, b.joints)
    assert {*np.unique(a.joints[..., 2])} <= {0, 1, 2} and .05 < (a.joints[..., 2] == 1).mean() < .4
    drawn = (np.asarray(data.draw_pose(people.frame(3, 0), joints[0])) != images[0]).any(-1)
    assert all(drawn[int(y + .5), int(x + .5)] for x, y, seen in joints[0] if seen) and .005 < drawn.mean() < .2

@pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIPNAS_SAMPLES names no folder")
def test_real_people_are_read_and_learnt_by_heart_and_followed_in_a_real_video(runs, tmp_path, capsys):
    clips = data.CocoPeople(SAMPLES / "coco", "val", (128, 96))
    assert len(clips) == 3 and sum(clips.skipped.values()) == 1
    found = data.CocoPeople(SAMPLES / "coco", "val", boxes=SAMPLES / "coco/annotations/person_detections_val2017.json")
    assert len(found) == 48 and found.scores.max() > .99 and not found.joints.any()
    assert data.PoseTrackClips(SAMPLES / "posetrack18", "val", 1, (128, 96)).batch([0]).joints[..., 2].sum() > 5
    refused("--frames", data.PoseTrackClips, SAMPLES / "posetrack18", "val", 4, error=data.DataError)
    (tmp_path / "a.json").write_text(replace(TINY, depth=((1,),) * 4).largest().to_json())
    train.main(f"--stage s --data coco --root {SAMPLES}/coco --arch {tmp_path}/a.json --out {tmp_path}/s "
               "--steps 300 --batch 6 --lr .01 --rotation 10".split())
    assert float(capsys.readouterr().out.split("ARL\n")[1].split()[0]) >= 90
    net, out = runs / "t/vipnas_t.pt", tmp_path / "out"
    words = f"--video {SAMPLES}/video --checkpoint {net} --box 356,270,208,314 --box 9,9,99,99 --out {out}".split()
    printed = subprocess.run([sys.executable, HERE / "vipnas.py", *words], check=True, capture_output=True, text=True).stdout
    key, other, mean = map(float, re.findall("([0-9.]+) ms", printed.splitlines()[-1]))
    page, drawn = json.loads((out / "poses.json").read_text()), Image.open(out / "overlay.gif")
    assert mean == pytest.approx((2 * key + 3 * other) / 5, abs=.1) and page["categories"][0]["keypoints"][3] == "left_ear"
    assert len(list(out.glob("*.png"))) == len(page["images"]) == drawn.n_frames == 5 and max(drawn.size) == 480
    truth = [{**a, "keypoints": np.reshape(a["keypoints"], (17, 3)) * [1, 1, 0] + [0, 0, 1], "bbox_head": [0, 0, 9, 9]}
             for a in page["annotations"] if a["track_id"] in (0, 1)]
    truth = {**page, "annotations": truth, "categories": [data.POSETRACK.category]}
    assert len(truth["annotations"]) == 10 and search.posetrack_ap(truth, page["annotations"])["Total"] == 100
    frames = [frame.resize((64, 36)).quantize(64).convert("RGB") for _, frame in vipnas.read_video(SAMPLES / "video")]
    for name, how in (("8.gif", {}), ("9.tif", {}), ("10.webp", {"lossless": True})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **how)
        assert np.array_equal([np.asarray(frame) for _, frame in vipnas.read_video(tmp_path / name)], frames)
    (tmp_path / "11.png").touch()
    refused("11.png is not an image", vipnas.run_video, tmp_path, net, [None], out / "b", error=vipnas.CheckpointError)
    assert len(list(out.glob("b/*.png"))) == 10  # of the folder's 9.tif and 10.webp

@pytest.fixture
def exports(tmp_path):  # drawn people in the layouts of the real data sets
    for kind in ("coco", "posetrack"):
        data.export(kind, tmp_path / kind, 8, 6, (128, 96))
    return tmp_path

def test_an_export_reads_back_and_clips_are_consecutive_labelled_frames_of_which_each_is_scored_once(exports):
    drawn, people = data.SyntheticClips("train", 8, 6, workers=1), data.CocoPeople(exports / "coco", "train", (128, 96))
    labelled = lambda joints: joints * (joints[..., 2:] > 0)
    expected = drawn.boxes, labelled(drawn.joints[:, :1]), drawn.areas[:, :1]
    assert all(map(np.array_equal, (people.boxes, people.joints, people.areas), expected)) and not people.skipped
    assert (people.batch(range(8)).images.float() - drawn.batch(range(8)).images[:, :1]).abs().mean() < 8  # JPEG
    guess = drawn.joints[:, :1] + np.random.default_rng(0).normal(0, 4, (8, 1, 17, 3))
    table = search.coco_ap(people.annotations, search.coco_results(guess, people))
    assert table["AR"] == pytest.approx(search.score(guess, drawn, 0).mean())
    tracks, body = data.PoseTrackClips(exports / "posetrack", "train", 6, (128, 96)), np.s_[:, :, 5:, :2]
    assert np.array_equal(labelled(tracks.joints)[body], labelled(drawn.joints)[body]) and (tracks.boxes == drawn.boxes).all()
    path, other = sorted((exports / "posetrack/annotations/val").iterdir())
    page, _ = json.loads(path.read_text()), other.unlink()
    for image, number in zip(page["images"], (0, 4, 8, 9, 10, 13)):  # every fourth, then each, then a gap
        image["frame_id"] = number
    path.write_text(json.dumps(page))
    clips = lambda frames, whole: data.PoseTrackClips(exports / "posetrack", "val", frames, (128, 96), whole)
    ids = lambda *how: (clips(*how).ids[..., 0] - page["images"][0]["id"]).clip(-1).tolist()
    assert ids(3, True) == [[0, 1, 2]] and ids(2, True) == [[0, 1], [2, 3]]
    assert ids(3, False) == [[0, 1, 2], [3, 4, -1], [5, -1, -1]]
    for frames in (1, 2, 4, 6, 7):
        found = data.open_clips("posetrack", exports / "posetrack", "test", frames, (128, 96))  # what a report looks at
        results, columns = search.posetrack_results(found.joints, found), "Head Sho Elb Wri Hip Knee Ank Total"
        assert sorted(r["image_id"] for r in results) == sorted(image["id"] for image in found.annotations["images"])
        assert search.posetrack_ap(found.annotations, results) == dict.fromkeys(columns.split(), 100)

def test_pictures_of_every_kind_and_bad_entries_are_left_out_and_counted_and_a_bad_file_is_one_sentence(exports, capsys):
    files, path = sorted((exports / "coco/train2017").iterdir()), exports / "coco/annotations/person_keypoints_train2017.json"
    images, exif, page = [Image.open(file).convert("RGB") for file in files], Image.Exif(), json.loads(path.read_text())
    page["annotations"] += [7, {}] + [{**page["annotations"][0], key: value} for key, value in (
        ("bbox", None), ("keypoints", [1]), ("area", np.nan), ("keypoints", [np.nan] + [1] * 50), ("keypoints", [0] * 51),
        ("iscrowd", 1), ("bbox", [5, 5, -9, 9]), ("bbox", [5, 5, 0, 9]), ("image_id", 99), ("image_id", 98))]
    page["images"][7].update(file_name="gone.jpg"), page["images"].append({"id": 98})
    path.write_text(json.dumps(page))
    images[0].convert("L").save(files[0]), images[1].convert("CMYK").save(files[1])
    Image.fromarray(np.asarray(images[2].convert("L")).astype(np.uint16) * 257).save(files[2], "PNG")
    exif[0x0112] = 6  # "turn me": but annotations are for the pixels as stored
    images[3].save(files[3], exif=exif, quality=95)
    images[4].save(files[4], "GIF", save_all=True, append_images=[images[5]])
    files[5].write_bytes(files[5].read_bytes()[:1500]), files[6].write_bytes(b"")
    clips = data.open_clips("coco", exports / "coco", "train", 1, (128, 96))
    assert len(clips) == 6 and clips.skipped == {
        "incomplete or senseless entry": 4, "not a number": 2, "no joints": 1, "crowd": 1, "box without area": 2,
        "picture not listed": 2, "picture missing or empty": 2}
    batch, grey, printed = clips.batch(range(6)), lambda picture: np.asarray(picture.convert("L"), float), capsys.readouterr()
    assert ", ".join(f"{n} x {reason}" for reason, n in clips.skipped.items()) in printed.out and files[5].name in printed.err
    for found, image in zip(batch.images[:5, 0].permute(0, 2, 3, 1).numpy(), images):
        assert np.abs(grey(Image.fromarray(found)) - grey(image)).mean() < 8
    assert batch.joints[..., 2].any(-1)[:, 0].tolist() == [True] * 5 + [False] and not batch.images[5].any()
    boxes = exports / "coco/annotations/person_detections_val2017.json"
    for judged in (clips, data.CocoPeople(exports / "coco", "train", (128, 96), boxes)):  # the rest can be judged
        assert search.coco_ap(judged.annotations, search.coco_results(clips.joints, clips))["AP"] > 0
    for kind, files, *more in (("coco", "*detections_val*", None, boxes), ("coco", "*keypoints_val*"), ("posetrack", "val/*")):
        for contents in ("", '{"images": [', "[]", '{"images": 3, "annotations": []}', '{"images": [], "annotations": []}'):
            for file in (exports / kind / "annotations").glob(files):
                file.write_text(contents)
            arguments = kind, exports / kind, "val", 1, (128, 96), *more
            refused("--root|--boxes|fetch it again", data.open_clips, *arguments, error=data.DataError)

def test_oks_coco_ap_and_posetrack_ap_on_cases_counted_by_hand():
    def coco(truths, *found):  # one image, people at `truths`, detections (position, score); a position shifts the pose
        about = lambda x: {"iscrowd": 0, "num_keypoints": 17, "bbox": [x, 0, 80, 80], "area": 6400. if x < 1000 else 64000.}
        people = [{**at(POSE + [x, 0, 0]), **about(x)} for x in truths]
        results = [{**at(POSE + [x, 0, 0]), "score": score} for x, score in found]
        return search.coco_ap({"images": [{"id": 1}], "annotations": people}, results)
    def track(*found, **image):  # one image, a person with a head of size .6 * 50 = 30, detections (pose, score)
        truth = {"images": [{"id": 1, **image}], "annotations": [{**at(POSE), "bbox_head": [0, 0, 30, 40]}]}
        results = [{**at(pose), "scores": [score] * 17} for pose, score in found]
        return search.posetrack_ap({**truth, "categories": [data.POSETRACK.category]}, results)
    at = lambda pose: {"image_id": 1, "keypoints": pose.ravel().tolist()}
    (found, joints), area = np.random.default_rng(0).normal(size=(2, 17, 3)) * 5, 400.
    joints[:, 2] = np.arange(17) % 3
    k, d2, seen = 2 * np.array(data.COCO.sigmas), ((found - joints)[:, :2] ** 2).sum(-1), joints[:, 2] > 0
    assert search.oks(found, joints, np.array(area)) == pytest.approx(np.exp(-d2 / (2 * area * k ** 2))[seen].mean())  # Sec. 4.1
    large = coco([0, 2000], (2000, .9))  # a person out of the range is neither right nor wrong
    assert [large[name] for name in ("AR", "APM", "ARM", "APL")] == [.5, 0, 0, 1]
    half = coco([0, 500], (0, .5), (-900, .9))  # precision 1/2, below a false alarm, up to recall 1/2, 51 of 101 points
    assert [half[name] for name in ("AP50", "APM", "AR", "APL")] == pytest.approx([.5 * 51 / 101] * 2 + [.5, -1])
    assert coco([0])["AP"] == 0 and coco([0], (0, .9), (0, .8))["AP"] == 1  # found twice: ranked last
    refused("do not list", search.coco_ap, {"images": [], "annotations": []}, [{"image_id": 77}], error=ValueError)
    poses = np.stack([POSE + [40, 0, 0], POSE, POSE + [1, 0, 0]])
    assert search.oks_nms(poses, [.1, .5, .9], np.full(3, 6400.)) == [2, 0]
    assert search.pose_score(np.array([[0, 0, .1], [0, 0, .4], [0, 0, .6]]), .5) == .25
    shift = np.array([[14.9 * (joint == "left_knee"), 0, 0] for joint in data.POSETRACK.joints])
    wrong, alarm = track((POSE + shift * 1.02, 1)), (np.full((17, 3), 900.), .9)
    assert track((POSE + shift, 1))["Knee"] == 100 and [wrong["Knee"], wrong["Total"]] == pytest.approx([50, 100 * 14 / 15])
    assert track((POSE, .5), alarm)["Total"] == 50  # ranked first, it halves every precision
    x, y = [[800, 1000, 1000, 800]], [[800, 800, 1000, 1000]]
    assert track((POSE, .5), alarm, ignore_regions_x=x, ignore_regions_y=y)["Total"] == 100

def test_samples_and_allocations_keep_to_the_budget_and_all_that_fit_are_equally_likely():
    gflops = lambda archs: sum(cost(a, TINY.image_size).gflops for a in archs)
    draw = lambda budget, count, seed=0: search.sample(TINY, budget, count, random.Random(seed))
    allocate = lambda budget, count, **tree: search.allocate(INNER, 3, budget, count, random.Random(0), **tree)
    archs, least = draw(.014, 40), gflops([TINY.smallest()])
    assert len(set(archs)) == 40 and all(a in TINY and gflops([a]) <= .014 for a in archs)
    assert archs == draw(.014, 40) != draw(.014, 40, 1) and draw(least, 5) == [TINY.smallest()]  # hardly anything fits
    for tree in None, (3, 2, 2):
        found = allocate(.036, 12, branching=tree)
        assert len(found) == 12 and all(len(f) == 3 and gflops(f) <= .036 and all(a in INNER for a in f) for f in found)
    assert [len({f[:n] for f in found}) for n in (1, 2, 3)] == [3, 6, 12]
    refused("give more", draw, least * .99, 5, error=ValueError), refused("give more", allocate, .01, 2, error=ValueError)
    slow = lambda arch: gflops([arch]) + .001 * (arch.stages[0].depth == arch.stages[1].depth)  # no sum over decisions
    few = replace(TINY.within(TINY.smallest()), depth=((1, 2), (1, 2), (2,), (1,)), fusions=INNER.fusions[::2])
    for frames, price, tree in (1, None, None), (1, slow, None), (2, None, None), (2, None, (500, 1)):
        total = lambda f: sum(map(price or (lambda a: gflops([a])), f))
        row, fusions = TINY.rows[1][0]._replace(width=((32, 48), (32,))[frames - 1]), few.fusions[:(6, 1)[frames - 1]]
        space = replace(few, rows=(few.rows[0], (row,), *few.rows[2:]), fusions=fusions)
        every = sorted(product({space.sample(random.Random(i)) for i in range(20 * space.size())}, repeat=frames), key=total)
        budget = total(every[len(every) // 5])
        counts = dict.fromkeys((f for f in every if total(f) <= budget), 0)
        for f in search.allocate(space, frames, budget, 8000, random.Random(1), price, tree):
            counts[f] += 1  # a KeyError: does not fit
        assert len(counts) > 30 and chisquare(list(counts.values())).pvalue > .001
        assert frames > 1 or {(a,) for a in search.sample(space, budget, 999, random.Random(0), price)} == set(counts)

def test_a_search_recalibrates_keeps_the_best_and_continues_its_table(people, tmp_path):
    net, sight = PoseNet(TINY.smallest()), search.Sight(people, 0, CPU, batch=8)
    net.stem.norm.running_mean.fill_(99)
    search.recalibrate(net, sight)
    features = [net.stem.conv(images[:, 0]).transpose(0, 1).flatten(1) for images, _, _ in sight]
    close(net.stem.norm.running_mean, torch.stack([f.mean(1) for f in features]).mean(0), 1e-4)  # the mean over the batches
    close(net.stem.norm.running_var, torch.stack([f.var(1) for f in features]).mean(0), 1e-3)
    assert not net.training and net.stem.norm.momentum == .1
    net, path, sight = PoseNet(TINY), tmp_path / "s.json", search.Sight(people.head(4), 0, CPU)
    candidates = [(arch,) for arch in search.sample(TINY, 9, 4, random.Random(0))]
    go = lambda seed: search.search(net, candidates, sight, sight, path, {"seed": seed}, True, say=lambda _: None)
    best, table = go(0)
    assert len(table) == 4 and table[candidates.index(best)]["ap"] == max(row["ap"] for row in table)
    path.write_text(json.dumps({**json.loads(path.read_text()), "candidates": [table[0], {**table[1], "ap": 1e3}, *table[2:]]}))
    assert go(0)[0] == candidates[1] and go(1)[1] == table

def test_a_race_finds_what_the_plain_search_finds_in_fewer_passes(people, tmp_path, monkeypatch):
    def stop(line):
        raise KeyboardInterrupt
    monkeypatch.setattr(search, "OKS_THRESHOLDS", np.linspace(0, .02, 200))  # random networks find nobody else
    net, key = disturb(PoseNet(INNER), .05), PoseNet(TINY.smallest())
    drawn = search.allocate(INNER, 2, 9, 12, random.Random(0), branching=(3, 4))
    calibration, sight = search.Sight(people.head(8), 1, CPU, key), search.Sight(people, 1, CPU, key, batch=2)
    go = lambda name, plain, say: search.search(net, drawn, calibration, sight, tmp_path / name, {}, plain, say)
    found, plain = go("plain", True, lambda line: None)
    assert [row["ap"] for row in plain[:3]] == pytest.approx([search.percent(search.judge(net, archs, calibration, sight))
                                                             for archs in drawn[:3]], abs=.5)
    winner, raced = go("race", False, lambda line: None)
    assert len({row["ap"] for row in plain}) > 6 and sorted(len(row["rounds"]) for row in raced) == [1] * 6 + [2] * 3 + [3, 4, 5]
    for mine, row in zip(raced, plain):  # prefixes run once give what each candidate gives by itself
        assert len(mine["rounds"]) < 5 or mine["ap_by_frame"] == pytest.approx(row["ap_by_frame"], abs=.5)
    for k in range(4):  # the better half goes on
        out, on = ([row["rounds"][k] for row in raced if len(row["rounds"]) in counts] for counts in ([k + 1], range(k + 2, 6)))
        assert max(out) <= min(on)
    passes = [json.loads((tmp_path / name).read_text())["passes"] for name in ("plain", "race")]
    assert passes[0] == 12 * 2 * (8 + 24) and passes[1] < passes[0] / 2
    for _ in range(5):  # interrupted after every round, it ends the same
        with pytest.raises(KeyboardInterrupt):
            go("again", False, stop)
    assert go("again", False, lambda line: None) == (winner, raced)

@pytest.mark.parametrize("arch", [RESNET, MOBILE, *(SPACES[name].within(SPACES[name].largest()) for name in SPACES)])
def test_a_deployed_network_gives_the_same(arch, monkeypatch):
    arch = arch if isinstance(arch, Arch) else arch.sample(random.Random(2))
    net, (h, w) = PoseNet(arch), vipnas.BACKBONES[arch.backbone].image_size
    for module in [m for m in net.modules() if isinstance(m, (TemporalFusion, GlobalContext))]:
        disturb(module, .02)
    net(torch.randn(4, 3, 64, 64), heatmaps=torch.rand(4, 17, 16, 16))  # running statistics that are not the initial ones
    deployed = vipnas.deploy(net.eval(), compiled=False)
    def same(*size):
        images, heatmaps = torch.randn(size[0], 3, *size[1:]), torch.rand(size[0], 17, size[1] // 4, size[2] // 4)
        close(deployed(images, heatmaps=heatmaps), net(images, heatmaps=heatmaps).detach(), 1e-4)
    same(1, h, w), same(2, h, w), same(1, 64, 96)
    assert not any(isinstance(m, ElasticBatchNorm2d) for m in deployed.modules())
    if arch.backbone == "tiny":
        monkeypatch.setattr(vipnas, "milliseconds", lambda runs: np.array([1, 0]))  # the compiled one is faster
        deployed = vipnas.deploy(net)
        same(1, h, w), same(2, h, w)
        assert "compiled" in deployed.runtime and deployed.compiled
        monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nonexistent"))
        with pytest.warns(UserWarning, match="without a compiler"):
            deployed = vipnas.deploy(net)
        same(1, h, w)

def test_searching_again_for_other_budgets_frames_and_ablations(runs, tmp_path, monkeypatch, capsys):
    shutil.copy(runs / "t" / "supernet.pt", tmp_path)
    def go(words):
        words = f"search.py --checkpoint {tmp_path}/supernet.pt --candidates 3 --out {tmp_path}/x {words}"
        monkeypatch.setattr(sys, "argv", words.split())
        search.main()
        (key, *others), _ = vipnas.load_finished(tmp_path / "x" / "vipnas_t.pt")
        return [net.arch for net in others]
    archs = go("--gflops .025 --frames 2 --plain")
    assert len(archs) == 2 and all(arch.fusion for arch in archs) and "on average 0.0" in capsys.readouterr().out
    archs = go("--budget-ms 99 --frames 4 --shared")
    assert len(archs) == 4 and len(set(archs)) == 1
    monkeypatch.setattr(vipnas, "freeze", None)  # all times are in the run folder now
    key, clock = vipnas.load_finished(runs / "s" / "vipnas_s.pt")[0][0].arch, vipnas.Clock(tmp_path / "times.json", (128, 96))
    assert clock(key) > 0 and sum(clock.times.values()) < 99 * 5
    monkeypatch.undo()
    assert [arch.fusion for arch in go("--gflops .025 --frames 3 --no-fusion")] == [None] * 3
    for words, message in (("--gflops 1 --budget-ms 1", "two units"), ("--budget-ms .001", "give more"), ("", "say the budget")):
        refused(message, go, words)
    monkeypatch.setattr(vipnas, "milliseconds", lambda runs: np.ones(1))
    clock = vipnas.Clock(tmp_path / "none.json", (256, 192))
    for arch, parts in ((RESNET, 2 + 20), (HRNET, 2 + 4 + (2 + 8 + 1) + (1 + 48 + 4) + (1 + 48 + 3))):
        assert clock(arch) == parts  # stem and head, blocks; HRNet: transitions and exchanges too

def test_the_sandwich_is_biggest_smallest_and_random_and_the_learning_rate_falls():
    draw = lambda seed: train.sandwich(INNER, 3, random.Random(seed))
    biggest, smallest, *others = draw(0)
    for chain, end in ((biggest, INNER.largest()), (smallest, INNER.smallest())):
        assert [replace(a, fusion=end.fusion) for a in chain] == [end] * 3
    assert len(others) == 2 and all(len(set(chain)) == 3 for chain in others)  # every frame draws its own
    assert len({draw(seed)[0][0].fusion for seed in range(20)}) > 5 and draw(0) == draw(0)
    s, t = (train.read_options(words.split()) for words in ("--stage s --data coco --root x", "--stage t"))
    assert [train.learning_rate(e, 250, s, "tiny") * 1e3 for e in (0, 199, 200, 229, 230)] == pytest.approx([1, 1, .1, .1, .01])
    assert [train.learning_rate(e, 1000, t, "tiny") * 100 for e in (0, 500, 999)] == pytest.approx([.01, .5, 0], abs=1e-5)

@pytest.mark.parametrize("space, first, frames", [(TINY, 0, 1), (INNER, 1, 3)])  # stage s; stage t
def test_a_step_distills_in_place_along_chains_and_a_team_gives_the_mean_of_its_parts(people, monkeypatch, space, first, frames):
    def gradients(step, *arguments):
        net.zero_grad(), step(*arguments)
        return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    def by_hand():
        found = [[heatmaps] for _ in chains]
        for i, t in np.ndindex(len(chains), frames):
            found[i].append(net(images[:, t], chains[i][t], found[i][-1]))
        big, *others = (torch.stack(chain[1:], 1).float() for chain in found)
        error(big, targets, weights).backward()
        sum(error(small, targets, weights) / 2 + error(small, big.detach()) / 2 for small in others).backward()
    error = lambda a, b, w=1: 1000 * ((a - b) ** 2).mean((3, 4)).mul(w).mean()
    net, chains = PoseNet(space).double(), train.sandwich(space, frames, random.Random(0))  # rounding depends on the threads
    disturb(net.fusions, .1)
    batch = [x.double() for x in train.unpack(people.batch(range(16)), people, CPU)]
    batch[2][..., :5] = 0  # joints without truth are still learnt from the biggest
    batch, nets = [x[:, first:first + frames] for x in batch] + [batch[1][:, 0] if first else None], [net] * frames
    parts = [[x if x is None else x[i::2] for x in batch] for i in (0, 1)]
    images, targets, weights, heatmaps = parts[0]
    one, other = (gradients(train.train_step, nets, chains, *part) for part in parts)
    torch.testing.assert_close(one, gradients(by_hand), rtol=0, atol=1e-4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    torch.testing.assert_close(gradients(train.Team(nets, 16, CPU).step, chains, *batch), mean, rtol=0, atol=1e-8)

@pytest.fixture(scope="module")
def runs(tmp_path_factory):  # both stages, run once, as small as can be
    folder = tmp_path_factory.mktemp("runs")
    train.main(f"--stage s --steps 4 --out {folder}/s {SMALL}".split())
    train.main(f"--stage t --steps 3 --finish 2 --s {folder}/s/vipnas_s.pt --out {folder}/t {SMALL}".split())
    return folder

def test_both_stages_leave_a_whole_run_and_pictures_of_its_architectures(runs, tmp_path):
    for stage, picture, *rivals in (("s", "poses.png"), ("t", "poses.gif", "finish.pt", "rival.pt", "rival.json", "rival.png")):
        files = {"supernet.pt", "search.json", "search.png", "log.jsonl", f"vipnas_{stage}.pt", picture, *rivals}
        assert {*os.listdir(runs / stage)} == files
    ((s,), _), ((key, *others), about) = (vipnas.load_finished(runs / stage / f"vipnas_{stage}.pt") for stage in "st")
    assert key.arch == s.arch and about["size"] == [128, 96] and len(others) == 3
    assert all(map(torch.equal, key.state_dict().values(), s.state_dict().values()))  # stage t leaves S alone
    assert all(p.std() > 0 for net in others for p in net.fusions.parameters())       # and trains its own
    tests = [e for e in map(json.loads, open(runs / "t" / "log.jsonl")) if e.get("event") == "test"]
    assert len(tests) == 3 and all(len(e["ap_by_frame"]) == 3 for e in tests)  # T, its single-frame rival, the copied pose
    show = lambda *words: subprocess.run([sys.executable, HERE / "vipnas.py", *words], check=True, capture_output=True, text=True)
    assert {*ARCHS, *SPACES, "28,536,113"} <= {*show().stdout.split()}
    for source in (["--arch", "hrnet_w32"], ["--checkpoint", runs / "t" / "vipnas_t.pt"]):
        show(*source, "--picture", tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == (200, 30, 30)).all(-1).any()  # the fusion, in red

def test_a_run_stopped_and_killed_again_and_again_ends_as_if_it_had_not_been(runs, tmp_path, monkeypatch):
    def interrupt(path, step, *rest):
        report(path, step, *rest)
        if step == 1:
            os.kill(os.getpid(), 2)  # Ctrl-C
    report, s, t = train.report, runs / "s" / "vipnas_s.pt", tmp_path / "t"
    words = f"--stage t --steps 3 --finish 2 --s {s} --resume --out {t} {SMALL}".split()
    monkeypatch.setattr(train, "report", interrupt)
    refused("--resume", train.main, words)
    assert vipnas.load(t / "supernet.pt", "supernet")["step"] == 2  # the next one was complete
    refused("--lr was", train.main, [*words, "--lr", "1"])
    code = "import itertools, sys, train; train.time.time = itertools.count(0, 100).__next__; train.main(sys.argv[1:])"
    for name in ("search.json", "rival.pt", "nothing"):  # by its clock each step is saved
        process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=HERE, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (t / name).exists():
            time.sleep(.01)
        process.kill()
    assert process.wait() == 0
    for name in ("supernet.pt", "finish.pt", "rival.pt"):  # the same weights, bit for bit, and the same tables
        torch.testing.assert_close(*(vipnas.read(folder / name)["nets"] for folder in (t, runs / "t")), rtol=0, atol=0)
    texts = lambda folder: {path.name: re.sub('"passes": .*', "", path.read_text()) for path in folder.glob("*.json*")}
    assert texts(t) == texts(runs / "t") and not list(t.glob("*.tmp"))

@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_sentence_and_leaves_the_last_good_file(tmp_path):
    for name, older in (("log.jsonl", ["{}"]), ("supernet.pt", []), ("search.json", ["{}"])):  # as a run writes them
        for contents in older:
            (tmp_path / name).write_text(contents)
        (tmp_path / f"{name}.tmp").symlink_to("/dev/full")
        arguments = f"{ONE} --candidates 1 --gflops .025 --resume --out {tmp_path}".split()
        refused(f"{name} cannot be written .No space left on device.; an older file", train.main, arguments)
        assert not list(tmp_path.glob("*.tmp")) and [path.read_text() for path in tmp_path.glob(name)] == older

def gradients_of_a_share():  # averaged over all processes; with fixed statistics, or each would normalise its own share
    torch.manual_seed(0)
    net, options = PoseNet(TINY).double().eval(), train.read_options("--stage s --batch 4".split())
    clips = data.SyntheticClips("train", 4, 1, workers=1)
    batch = [x.double() for x in train.unpack(train.Feed(clips, options)[0], clips, CPU)]
    losses = train.train_step([net], train.sandwich(TINY, 1, random.Random(0)), *batch, None)
    losses, stop = train.average([*net.parameters()], losses, [True] * search.ranks()[0])  # Ctrl-C in all but the first
    return {k: p.grad for k, p in net.named_parameters() if p.grad is not None}, torch.tensor(losses), stop

def test_two_processes_are_one(tmp_path):
    torchrun = [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node=2 --".split()]
    start = lambda script, words: subprocess.run([*torchrun, HERE / script, *words.split()], capture_output=True, text=True)
    small = f"--steps 2 {SMALL} --candidates 3 --finish 1 --clips 4"
    start("test_vipnas.py", f"{tmp_path} --stage s {small} --out {tmp_path}/s").check_returncode()
    *whole, _ = gradients_of_a_share()
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), (*whole, True), rtol=1e-6, atol=1e-9)  # each is to stop
    run = start("train.py", f"--stage t --s {tmp_path}/s/vipnas_s.pt {small} --out {tmp_path}/t")
    assert run.returncode == 0 and run.stdout.count("run:") == run.stdout.count("search: 3 of 3 candidates on") / 2 == 1
    s, t = (json.loads((tmp_path / stage / "search.json").read_text()) for stage in "st")
    expected = [[json.loads(a.to_json())] for a in search.sample(TINY, .025, 3, random.Random("0 search"))]
    assert [row["archs"] for row in s["candidates"]] == expected and len(t["candidates"]) == 3

@pytest.mark.parametrize("arch, head, zipped", [(RESNET, "head.", True), (MOBILE, "keypoint_head.", False)])
def test_published_weights_the_papers_spaces_and_stage_t_within_its_networks(arch, head, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, x, state, space = PoseNet(arch), torch.randn(1, 3, 64, 64), {}, SPACES[arch.backbone]
    net(torch.randn(4, 3, 64, 64))  # random statistics too
    for name, tensor in net.eval().state_dict().items():
        tensor = tensor[:, None, None] if "attention.norm" in name else tensor
        state[vipnas._mmpose_name(arch, name).replace("head.", head)] = tensor
    if SAMPLES.is_dir():
        facts = json.loads((SAMPLES.parent / "facts" / f"mmpose_{arch.backbone}.json").read_text())
        shapes = {k.replace("head.", head): v for k, v in facts.items() if "num_batches" not in k}
        assert {k: list(v.shape) for k, v in state.items()} == shapes
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    attack = type("Attack", (), {"__reduce__": lambda self: (os.system, ("touch attacked",))})()
    meta = {"attack": attack, "loss": np.float64(3), "log": np.arange(3), "class": random.Random, "path": pathlib.Path("x")}
    torch.save({"meta": meta, "state_dict": state}, "a.pth", _use_new_zipfile_serialization=zipped)
    found = vipnas.load_mmpose("a.pth")
    assert found.arch == arch and torch.equal(found(x), net(x)) and os.listdir() == ["a.pth"]
    torch.save({"state_dict": {**state, f"{head}final_layer.bias": torch.zeros(3)}}, "b.pth")
    refused("networks: head.final_layer.bias are missing", vipnas.load_mmpose, "b.pth", error=vipnas.CheckpointError)
    train.main(f"{ONE} --clips 2 --space {arch.backbone} --candidates 2 --out s".split())
    (found,), about = vipnas.load_finished("s/vipnas_s.pt")
    assert found.arch in space and about["size"] == [256, 192]
    train.main(f"{ONE} --stage t --s a.pth --frames 1 --clips 1 --finish 1 --candidates 1 --gflops 9 --compare 0 --out t".split())
    (key, found), _ = vipnas.load_finished("t/vipnas_t.pt")
    assert key.arch == arch and found.arch in space.within(arch)

def test_the_commands_for_real_data_on_exports(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports)
    pathlib.Path("a.json").write_text(TINY.smallest().to_json())
    boxes = "coco/annotations/person_detections_val2017.json"
    for words in ("s --clips 8 --arch a.json --out p",
                  f"s --data coco --root coco --boxes {boxes} --candidates 2 --gflops .03 --out s",
                  "s --data posetrack --root posetrack --arch a.json --init s/vipnas_s.pt --out p",  # the first p moves aside
                  "t --data posetrack --root posetrack --s p/vipnas_s.pt --candidates 1 --gflops .03 --out t"):
        train.main(f"--stage {words} --steps 1 --batch 2".split())
    for words in (f"s/vipnas_s.pt --data coco --root coco --boxes {boxes}", "t/vipnas_t.pt --data posetrack --root posetrack"):
        monkeypatch.setattr(sys, "argv", f"search.py --checkpoint {words}".split())
        search.main()
    printed, read = capsys.readouterr().out, lambda path: json.loads(pathlib.Path(path).read_text())
    assert printed.count(" ARL\n") == 2 and printed.count(" Total\n") == 3 and printed.count("recipe: 1 steps, Adam") == 4
    assert vipnas.load_finished("p.1/vipnas_s.pt")[0][0].arch == TINY.smallest() and "moved" in printed
    assert read("s/results.json") == read("s/official_coco/results.json") and len(read("p/results.json")) == 12
    assert read("t/results.json") == read("t/official_posetrack/results.json") and len(read("t/posetrack/000001_drawn.json")) == 3

def test_a_stream_finds_what_the_training_path_finds_for_all_its_people_with_a_new_box_at_any_frame_and_says_who_is_lost():
    def same(frames, new=None):  # a key frame first
        windows = [old if box is None else box for box, old in zip(new or [None] * 3, people.boxes)]
        found = np.stack([people.step(frames[0], new), *map(people.step, frames[1:])], 1)
        for poses, window in zip(found, windows):
            matrix = data.affine(window, (128, 96))
            images = data.normalise(torch.stack([data.crop(frame, matrix, (128, 96)) for frame in frames]))
            expected = vipnas.decode(search.propagate(nets[:len(frames)], images[None])[0].detach()).numpy()
            distance = np.abs(poses - data.transform(expected, data.invert(matrix)))[..., :2].max(-1)  # (F, K) pixels
            assert np.median(distance) < .001 and (distance < .01).mean() > .9  # the networks are random: a few peaks are ties
        return found
    nets = [PoseNet(TINY.smallest())] + [PoseNet(TINY.within(TINY.smallest()).sample(random.Random(t))) for t in (1, 2)]
    for net in nets:
        disturb(net.eval().fusions), disturb(net.head.final)
    pose, frames = vipnas.VideoPose(nets, data.about(data.COCO, (128, 96))), data.render_clip("test", 0, 4, (200, 150))[0]
    frames, boxes = list(map(Image.fromarray, frames)), [(35.5, 55, 40, 80), (10.6, 39.8, 76.9, 102.4), (-20, -30, 180, 250)]
    people, one = pose.stream(boxes), pose.stream(boxes[2])
    assert (np.abs(same(frames[:3])[2] - [one.step(np.asarray(frame)) for frame in frames[:3]]) < .01).mean() > .9
    same(frames[3:]), same(frames[1:3], [boxes[1], None, None])
    assert np.isfinite([people.step(f, new) for f, new in zip(frames, ([None, (900, 900, 9, 9), None], None, None))]).all()
    lost = np.isnan(people.step(frames[3])).all((1, 2))
    assert lost.tolist() == people.lost.tolist() == [False, True, False] and len(people.heatmaps) == 2
    same(frames[1:2], [None, np.array(boxes[0]), None])
    disturb(nets[0].head.final, 0)
    stream = vipnas.VideoPose(nets[:1], pose.about).stream((60, 80, 30, 40))  # well inside, but all scores are 0
    assert np.isfinite(stream.step(frames[0])).all() and stream.lost.all() and np.isnan(stream.step(frames[0])).all()
    refused("no box", people.step, frames[0], boxes[:1], error=ValueError)

def test_what_the_user_can_mend_and_bad_checkpoints_are_one_sentence(runs, tmp_path, monkeypatch):
    for words, message in (
            ("x", "--stage s first"), ("s --space vgg", "no space"), ("s --data coco", "--root"), ("s --root x", "--root"),
            ("s --data coco --root /nowhere", "nowhere"), ("s --data posetrack --root /nowhere", "nowhere"), ("t --s /no", "/no"),
            ("t --data coco --root x", "no videos"), ("t --init x", "to stage s"), ("s --gflops .001", "smallest"),
            ("s --steps 0", "above zero"), ("s --arch /no.json", "no.json"), ("s --arch x --gflops 1", "nothing to search"),
            (f"s --arch s_vipnas_resnet50 --init {runs}/s/vipnas_s.pt", "smaller than")):
        refused(message, train.main, f"--stage {words} --out {tmp_path}/run".split())
    assert not (tmp_path / "run" / "supernet.pt").exists()
    file, lacks = tmp_path / "a.pt", vipnas.read(runs / "s" / "vipnas_s.pt")
    lacks["networks"][0]["state"].pop("head.final.weight")
    monkeypatch.setattr(sys, "argv", f"vipnas.py --video {tmp_path} --checkpoint {file} --out {tmp_path}".split())
    refused("no file", vipnas.main)
    for contents, message in (({}, "something else"), (torch.nn.Linear(2, 2), "something else"), (lacks, "final.weight")):
        torch.save(contents, file)
        refused(message, vipnas.main)
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    refused("truncated", vipnas.main)

if __name__ == "__main__":  # one of the two processes
    with train.processes() as its_device:
        torch.save(gradients_of_a_share(), f"{sys.argv[1]}/{search.ranks()[0]}.pt")
        train.stage_s(train.read_options(sys.argv[2:]), its_device)
