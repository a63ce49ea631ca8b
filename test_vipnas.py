"""The tests, chapter by chapter: VIPNAS_SAMPLES=DIR python -m pytest test_vipnas.py

DIR holds a few real files (`coco`, `posetrack18`, `video`); without it the tests that need them are
skipped. All others render their people.
"""

import contextlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import string
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from scipy.stats import chi2_contingency
from torch.utils.flop_counter import FlopCounterMode

import data
import elastic
import fusion
import search
import train
import vipnas
from data import UserError
from elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticConvTranspose2d, GlobalContext
from fusion import OPERATIONS, TemporalFusion
from vipnas import ARCHS, SPACES, Arch, Fusion, PoseNet, Space, VideoPose, cost

# networks as small as these are faster on one thread, here and in processes that tests start
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).parent
SAMPLES = Path(os.environ.get("VIPNAS_SAMPLES", "/nonexistent"))
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIPNAS_SAMPLES names no folder")
CPU = torch.device("cpu")
TINY = SPACES["tiny"]
RESNET = ARCHS["s_vipnas_resnet50"]
MOBILE = ARCHS["s_vipnas_mobilenetv3"]
SMALL = "--clips 4 --batch 4 --candidates 2 --finish 1"  # a run that takes seconds


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)


def close(a, b, tolerance=1e-5):
    """Two tensors agree."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())


def disturb(module, std=0.3):
    """Give a module random parameters, so that nothing is zero or the identity any more."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module


def one_sentence(message, call, *arguments, error=UserError):
    """`call` raises the error, in one line that matches `message`."""
    with pytest.raises(error, match=message) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


def read_json(path):
    return json.loads(Path(path).read_text())


def run_train(words):
    """train.py with these options, in this process."""
    train.main(words.split())


@pytest.fixture(scope="module")
def people():
    """Drawn clips of four frames."""
    return data.SyntheticClips("val", 24, 4, workers=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Synthetic people in the layouts of the real data sets, not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in ("coco", "posetrack"):
        data.export(kind, folder / kind, 8, 6, (128, 96))
    return folder


@pytest.fixture
def exports(exported, tmp_path):
    """A copy of them."""
    data.say_once.cache_clear()  # every test hears what is said once
    return shutil.copytree(exported, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Both stages, run once, as small as can be: the folders s and t."""
    folder = tmp_path_factory.mktemp("runs")
    run_train(f"--stage s --steps 2 --out {folder}/s {SMALL}")
    s = f"--s {folder}/s/vipnas_s.pt"
    run_train(f"--stage t --steps 2 {s} --out {folder}/t {SMALL}")
    return folder


# ---------------------------------------------------------------------------- elastic.py, fusion.py


def same_with_gradients(found, expected, x, layer):
    """Outputs agree, and so do the gradients to the input `x` and to the weights of `layer`."""
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    inputs = [x, *layer.parameters()]
    mine = torch.autograd.grad((found * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("inputs, width, kernel, groups", [(32, 32, 7, 2), (24, 16, 3, 8)])
def test_a_convolution_is_its_slice(inputs, width, kernel, groups):
    layer = disturb(ElasticConv2d(32, 32, kernel=7, stride=2, groups=2, bias=True)).double()
    x = torch.randn(2, inputs, 9, 8, dtype=torch.double, requires_grad=True)
    centre = slice((7 - kernel) // 2, (7 + kernel) // 2)
    weight = layer.weight[:width, : inputs // groups, centre, centre]
    bias = layer.bias[:width]
    expected = F.conv2d(x, weight, bias, stride=2, padding=kernel // 2, groups=groups)
    same_with_gradients(layer(x, width, kernel, groups), expected, x, layer)


@pytest.mark.parametrize("inputs, width, kernel, groups", [(32, 32, 4, 4), (24, 8, 2, 8)])
def test_a_deconvolution_is_its_slice(inputs, width, kernel, groups):
    layer = disturb(ElasticConvTranspose2d(32, 32, kernel=4, groups=4)).double()
    x = torch.randn(2, inputs, 5, 4, dtype=torch.double, requires_grad=True)
    centre = slice((4 - kernel) // 2, (4 + kernel) // 2)
    weight = layer.weight[:inputs, : width // groups, centre, centre]
    padding = kernel // 2 - 1
    expected = F.conv_transpose2d(x, weight, None, stride=2, padding=padding, groups=groups)
    assert expected.shape == (2, width, 10, 8)
    same_with_gradients(layer(x, width, kernel, groups), expected, x, layer)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_works_on_the_first_channels(training):
    layer = disturb(ElasticBatchNorm2d(12)).double().train(training)
    x = (3 * torch.randn(6, 8, 5, 4, dtype=torch.double)).requires_grad_()
    mean = layer.running_mean.normal_()[:8].clone()
    var = layer.running_var.uniform_(1, 2)[:8].clone()
    expected = F.batch_norm(x, mean, var, layer.weight[:8], layer.bias[:8], training)
    same_with_gradients(layer(x), expected, x, layer)
    close(layer.running_mean[:8], mean)
    close(layer.running_var[:8], var)


@pytest.mark.parametrize("channels, hidden", [(320, 20), (304, 19), (80, 16)])
def test_global_context_at_any_width(channels, hidden):
    layer = disturb(GlobalContext(320))
    x = torch.randn(2, channels, 6, 5)
    attention = F.conv2d(x, layer.mask.weight[:, :channels], layer.mask.bias)
    context = (x * attention.flatten(2).softmax(-1).view_as(attention)).sum((2, 3))  # (B, C)
    y = context @ layer.reduce.weight[:hidden, :channels, 0, 0].T + layer.reduce.bias[:hidden]
    y = F.layer_norm(y, (hidden,), layer.norm.weight[:hidden], layer.norm.bias[:hidden])
    y = F.relu(y) @ layer.expand.weight[:channels, :hidden, 0, 0].T + layer.expand.bias[:channels]
    close(layer(x), x + y[:, :, None, None])


@pytest.mark.parametrize("channels, hidden", [(96, 24), (48, 12)])
def test_squeeze_excite_at_any_width(channels, hidden):
    layer = disturb(elastic.SqueezeExcite(96))
    x = torch.randn(2, channels, 6, 5)
    y = x.mean((2, 3)) @ layer.reduce.weight[:hidden, :channels, 0, 0].T
    y = F.relu(y + layer.reduce.bias[:hidden])
    y = y @ layer.expand.weight[:channels, :hidden, 0, 0].T + layer.expand.bias[:channels]
    close(layer(x), x * ((y + 1) / 2).clamp(0, 1)[:, :, None, None])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_starts_as_the_identity_that_can_learn(operation):
    fusion = TemporalFusion(17, 48)
    features = torch.randn(2, 32, 8, 6)
    fused = fusion(features, torch.rand(2, 17, 16, 12), operation)
    close(fused, features)
    fused.square().sum().backward()
    assert fusion.encode[operation].weight.grad.abs().max() > 0


@pytest.mark.parametrize("channels", [48, 32])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_fusion_is_the_papers_figure_at_any_width(operation, channels):
    fusion = disturb(TemporalFusion(17, 48))
    heatmaps = torch.rand(2, 17, 16, 12)
    features = torch.randn(2, channels, 8, 6)
    encode = fusion.encode[operation]
    encoded = F.conv2d(heatmaps, encode.weight[:channels], encode.bias[:channels])
    encoded = F.interpolate(encoded, (8, 6), mode="bilinear", align_corners=False)
    weight = fusion.project[operation].weight[:channels, :channels]
    fused = {"add": features + encoded, "mul": features * encoded}.get(operation)
    if operation == "cat":
        fused = torch.cat([features, encoded], 1)
        weight = torch.cat([weight, fusion.project_heatmaps.weight[:channels, :channels]], 1)
    expected = F.conv2d(fused, weight, fusion.project[operation].bias[:channels])
    close(fusion(features, heatmaps, operation), expected)


def test_what_a_layer_cannot_give_is_refused():
    deconv = ElasticConvTranspose2d(160, 256, 4, groups=32)
    one_sentence("cannot give", deconv.slice, 160, 256, 4, 2, error=ValueError)
    one_sentence("no kernel", deconv.slice, 160, 256, 6, 32, error=ValueError)
    conv = ElasticConv2d(16, 16, kernel=5)
    one_sentence("cannot give", conv.slice, 16, 32, 5, 1, error=ValueError)
    fuse = TemporalFusion(17, 8, operations=("gate",))
    inputs = (torch.zeros(1, 8, 4, 4), torch.zeros(1, 17, 4, 4), "gate")
    one_sentence("how to compute 'gate'", fuse, *inputs, error=ValueError)


def test_a_chain_is_equation_2():
    space = TINY.within(TINY.largest())
    s, supernet = PoseNet(TINY.smallest()).eval(), PoseNet(space).eval()
    for part in (s.head.final, supernet.head.final, supernet.fusions):
        disturb(part)
    archs = [space.smallest(), space.largest()]
    nets = [supernet.extract(arch) for arch in archs]
    images = torch.randn(1, 3, 3, 128, 96)
    windows = torch.eye(2, 3).double().repeat(1, 3, 1, 1)
    windows[0, :, 0, 2] = -torch.tensor([0.0, 5, 7])  # they move to the right

    heatmaps = [s(images[:, 0])]
    for t, net in enumerate(nets):
        warped = fusion.warp_heatmaps(heatmaps[t], windows[:, t], windows[:, t + 1], data.CELL)
        heatmaps.append(net(images[:, t + 1], heatmaps=warped))
    expected = torch.stack(heatmaps, dim=1)
    close(fusion.propagate([s, *nets], images, windows, None, data.CELL), expected)
    key = fusion.Frame(heatmaps[0], windows[:, 0])
    rest = images[:, 1:], windows[:, 1:]
    close(fusion.propagate([supernet] * 2, *rest, key, data.CELL, archs), expected[:, 1:])


@pytest.fixture
def windows():
    """Matrices (2, 2, 3) of windows around two people, and of others that overlap them."""
    turned = data.Augmentation(rotation=15, scale=1.1)
    old = [data.crop_matrix(box, (128, 96)) for box in [(90, 50, 80, 200), (30, 40, 90, 90)]]
    new = [data.crop_matrix(box, (128, 96), turned) for box in [(95, 45, 80, 180), (40, 30, 9, 80)]]
    return torch.from_numpy(np.stack(old)), torch.from_numpy(np.stack(new))


@pytest.mark.parametrize("cell", [data.CELL, data.SBL_CELL])
def test_a_warped_heatmap_shows_the_same_place_of_the_image(windows, cell):
    # a ramp that says where in the image each of its cells is; bilinear reading keeps it exact
    pixels = 4 * np.stack(np.mgrid[:24, :32], axis=-1).swapaxes(0, 1).reshape(-1, 2) + cell
    ramps = []
    for matrices in windows:
        places = data.transform(np.stack([pixels, pixels]), data.invert(matrices))
        ramps.append(torch.from_numpy(places).mT.reshape(2, 2, 32, 24))
    share = fusion.warp_heatmaps(torch.ones(2, 2, 32, 24).double(), *windows, cell)
    inside = share > 0.999
    assert inside.float().mean() > 0.5 and share.min() == 0  # what lay outside the old window
    warped = fusion.warp_heatmaps(ramps[0].requires_grad_(), *windows, cell)
    assert torch.allclose(warped[inside], ramps[1][inside], 1e-9)
    assert torch.autograd.grad(warped.sum(), ramps[0])[0].any()


def test_a_warp_is_the_identity_in_equal_windows_and_exact_under_autocast(windows):
    heatmaps = torch.rand(2, 17, 32, 24).bfloat16()
    assert fusion.warp_heatmaps(heatmaps, windows[0], windows[0].clone(), data.CELL) is heatmaps
    with torch.autocast("cpu", torch.bfloat16):
        warped = fusion.warp_heatmaps(heatmaps, *windows, data.CELL).float()
    expected = fusion.warp_heatmaps(heatmaps.float(), *windows, data.CELL)
    assert torch.allclose(warped, expected, atol=0.01)


# ------------------------------------------------------------------ data.py: whole files, skeletons
NO_SPACE = OSError(28, "No space left on device")
AGAIN = RuntimeError("torch.save fails once more while it handles a full disk")
AGAIN.__context__ = NO_SPACE


@pytest.mark.parametrize("cause", [NO_SPACE, AGAIN, KeyboardInterrupt("stop")])
def test_an_error_while_a_file_is_written_leaves_the_older_one(tmp_path, cause):
    path = f"{tmp_path}/folder/a.json"
    data.write_json({"a": 1}, path)
    data.write_json({"a": 2}, path)
    error = KeyboardInterrupt if isinstance(cause, KeyboardInterrupt) else UserError
    with pytest.raises(error, match="written .No space|stop"), data.whole_file(path) as file:
        file.write(b"newer")
        raise cause
    one_sentence("JSON", data.write_json, [np.nan], path, error=ValueError)
    assert read_json(path) == {"a": 2}
    assert os.listdir(f"{tmp_path}/folder") == ["a.json"]


def test_a_file_system_without_locks_is_told_once_and_worked_on(tmp_path, monkeypatch, capsys):
    def no_locks(descriptor, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(data.fcntl, "flock", no_locks)
    for name in ("a", "b"):
        with data.locked(tmp_path):
            (tmp_path / name).touch()
    message = f"{tmp_path} cannot be locked (Function not implemented)"
    assert capsys.readouterr().out.count(message) == 1
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_folder_is_tried_without_a_trace(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    for name in ("there", "new"):
        data.try_folder(tmp_path / name)
    for name in ("file/a", "/proc/a"):
        one_sentence(f"written to .*{name} .*another folder", data.try_folder, tmp_path / name)
    # a Pillow without fonts, or without GIFs
    for module, part in ((ImageFont, "load_default"), (Image, "SAVE_ALL")):
        monkeypatch.setattr(module, part, None)
        one_sentence("cannot draw .*: pip install", data.try_folder, tmp_path / "new")
        monkeypatch.undo()
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "there"}


OWN = data.Skeleton("own", ("tail", "left_knee", "right_knee"), ((0, 1),), (0.05, 0.087, 0.087))


@pytest.mark.parametrize("skeleton", [data.COCO, data.POSETRACK, OWN])
def test_a_skeleton_is_saved_with_a_network(skeleton):
    saved = json.dumps(data.about(skeleton, (64, 48)))
    found = data.skeleton_of(json.loads(saved))
    assert found == replace(skeleton, name=found.name)
    left, right = [skeleton.joints.index(f"{side}_knee") for side in ("left", "right")]
    assert found.flip[0] == 0 and found.flip[left] == right


NAMED = ["L_Eye R_Eye", "eye-l eye-r", "LElbow RElbow", "Left Wrist,Right Wrist", "toeL toeR"]
NAMED += ["lank rank", "leg_ml leg_mr", "finL2 finR2", "左眼 右眼", "Nearhoof Offhoof"]
NAMED += ["ala.sx ala.dx", "Linke Hand,Rechte Hand", "mão_esq mão_dir", "eye_left_r eye_right_l"]


@pytest.mark.parametrize("names", NAMED)
def test_sides_are_read_from_names_of_every_kind(names):
    left, right = names.split("," if "," in names else " ")
    joints = ("lip", left, "rear", right, "Tail", "l_only")
    skeleton = data.Skeleton("own", joints, (), (0.05,) * 6)
    assert skeleton.flip == (0, 3, 2, 1, 4, 5)
    dots = np.array([[10 * k + 5, 5, 1] for k in range(6)])
    picture = data.draw_pose(Image.new("RGB", (60, 10)), dots, skeleton)
    colours = [picture.getpixel((10 * k + 5, 5)) for k in range(4)]
    assert colours == [data.MIDDLE, data.LEFT, data.MIDDLE, data.RIGHT]


def test_other_joints_are_a_skeleton_without_what_is_invalid_about_it(capsys):
    limbs = [[1, 2], [3, 1], [0, 1], [3, 4], "12", [10**400, 1]]
    cat = {"name": "cat", "keypoints": ["tail", "nose", "left_ear"], "skeleton": limbs}
    for sigmas in (None, [1, -2, 3]):
        own, order = data.skeleton_from({**cat, "sigmas": sigmas})
        assert (own.name, own.limbs, order) == ("cat", ((0, 1), (2, 0)), [0, 1, 2])
        assert own.sigmas == (0.05, 0.026, 0.035)
    first, second = capsys.readouterr().out.splitlines()
    assert first == 'cat: without "sigmas", OKS takes 0.05 for tail'
    assert second.startswith("cat: nothing tells which of tail, nose, left_ear change places")
    assert data.skeleton_from({**cat, "sigmas": [1, 2, 3]})[0].sigmas == (1, 2, 3)


def own_skeleton(names, **given):
    return data.skeleton_from({"name": "cat", "keypoints": names.split(), **given})[0]


MIRRORED = {"nose ear1 ear2": False, "snout tailbase": True, "near_ear far_ear": True}
MIRRORED |= {"l_ear r_ear left_hip": False, "l_ear r_ear fin": True, "knob": True}
MIRRORED |= {"l_ear r_ear face-0 face-1": False, "l_ear r_ear tail1 tail2": True}


@pytest.mark.parametrize("names", MIRRORED)
def test_people_are_mirrored_where_the_sides_of_all_joints_are_known(names, capsys):
    assert own_skeleton(names).mirrors == MIRRORED[names]
    assert ('give "flip_pairs"' in capsys.readouterr().out) != MIRRORED[names]


GIVEN = [{"flip_pairs": [["c", "b"], ["b", "c"]]}, {"flip_pairs": {"b": "c"}}]
GIVEN += [{"flip_pairs": [], "flip_idx": [0, 2, 1, 3, 4]}, {"swap": ["", "c", "b", "", None]}]


@pytest.mark.parametrize("given", GIVEN)
def test_a_file_tells_the_sides_and_they_are_saved(given):
    skeleton = own_skeleton("a b c l_d r_d", **given)
    assert skeleton.flip == (0, 2, 1, 3, 4) and skeleton.mirrors
    assert data.skeleton_from(skeleton.category)[0].flip == skeleton.flip
    assert data.skeleton_of(data.about(skeleton, (64, 48))).flip == skeleton.flip
    assert "flip_pairs" not in {**data.COCO.category, **OWN.category}


@pytest.mark.parametrize("pairs", [[["a", "b"], ["a", "c"]], [[0, 5]], "ab"])
def test_invalid_sides_of_a_file_are_told_and_the_names_decide(pairs, capsys):
    data.say_once.cache_clear()
    assert own_skeleton("a b c l_d r_d", flip_pairs=pairs).flip == (0, 1, 2, 4, 3)
    assert '"flip_pairs" is left out' in capsys.readouterr().out


def test_given_pairs_count_from_1_where_names_say_so_and_the_left_joint_stands_first():
    skeleton = own_skeleton("nose r_a l_a l_b r_b tip", flip_pairs=[[2, 3], [4, 5]])
    assert skeleton.sides == ((2, 1), (3, 4))
    assert own_skeleton("a b c", flip_pairs=[["c", "a"]]).sides == ((2, 0),)


# ----------------------------------------------------------------------- data.py: windows and crops
def test_a_window_is_the_box_in_the_networks_aspect_and_padded():
    assert np.allclose(data.window((10, 20, 30, 80), (128, 96)), (-12.5, 10, 75, 100))
    for width in (0, -9, np.nan, np.inf):
        one_sentence("has no area", data.window, (0, 0, width, 9), (128, 96))


@pytest.mark.parametrize("flip, place", [(False, (59.5, 75.5)), (True, (35.5, 75.5))])
def test_a_crop_turns_clockwise_and_shows_a_square_where_its_matrix_says(flip, place):
    frame = np.zeros((128, 96, 3), np.uint8)
    frame[51:57, 55:61] = 255  # its centre is 10 to the right and 10 above the middle
    augmentation = data.Augmentation(rotation=90, scale=1.2, flip=flip)
    matrix = data.crop_matrix((9.6, 12.8, 76.8, 102.4), (128, 96), augmentation)
    seen = data.crop(Image.fromarray(frame), matrix, (128, 96))[0] > 127
    assert np.allclose(seen.nonzero().double().mean(0).flip(0), place, atol=0.2)
    assert np.allclose(data.transform([(57.5, 53.5)], matrix), place)
    assert np.allclose(data.transform([place], data.invert(matrix)), (57.5, 53.5))


def test_networks_in_sbls_cells_have_sbls_windows():
    # as mmpose (TopdownAffine, topdown.py) takes keypoints from the crop back to the image
    box = (31, 50, 40, 120)  # its window is 112.5 x 150 about (51, 110)
    crop = data.decode(torch.rand(17, 64, 48), cell=data.SBL_CELL)[:, :2].numpy()
    expected = crop * 112.5 / 192 + (51 - 112.5 / 2, 110 - 150 / 2)
    matrix = data.crop_matrix(box, (256, 192), cell=data.SBL_CELL)
    assert np.allclose(data.transform(crop, data.invert(matrix)), expected, atol=1e-4)
    turned = data.Augmentation(rotation=40, scale=1.2, flip=True)
    matrix = data.crop_matrix(box, (256, 192), turned, data.SBL_CELL)
    assert np.allclose(data.transform([(51, 110)], matrix), (96, 128))


def test_a_large_jpeg_is_decoded_small_and_pixels_are_averaged(tmp_path):
    pixels = data.render_clip("val", 0, 1, (768, 1024))[0][0]
    pixels[:, ::2] //= 2  # stripes, too fine for the crop
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    matrix = data.crop_matrix((300, 100, 400, 600), (128, 96), data.Augmentation(rotation=20))
    opened = Image.open(f"{tmp_path}/a.jpg")
    small = data.crop(opened, matrix, (128, 96)).float()
    full = data.crop(Image.open(f"{tmp_path}/a.jpg").copy(), matrix, (128, 96)).float()
    assert opened.size[0] < 1024
    assert (small - full).abs().mean() < 5


def test_frames_of_every_kind_become_the_same_picture(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(8, 6) * 5
    deep = grey.astype(np.uint16) * 256 + 99
    Image.fromarray(deep).save(tmp_path / "a.png")
    frames = [grey, grey[:, :, None], deep, deep.astype(">u2"), tmp_path / "a.png"]
    frames += [Image.fromarray(grey), Image.fromarray(deep), Image.fromarray(np.float32(grey))]
    frames += [Image.fromarray(deep.astype(np.int32))]
    for frame in frames:
        picture = np.asarray(data.as_picture(frame))
        assert np.array_equal(picture, np.dstack([grey, grey, grey]))
    red = np.dstack([grey, 0 * grey, 0 * grey])
    image = Image.fromarray(red)
    opencv = np.ascontiguousarray(red[:, :, ::-1])  # BGR
    frames = [red, np.dstack([red, grey]), image.convert("RGBA"), image.quantize(256)]
    for frame in [*frames, opencv[:, :, ::-1]]:
        assert np.array_equal(np.asarray(data.as_picture(frame)), red)


RED = np.full((8, 6, 3), 200, np.uint8)
NO_PICTURES = [None, [[1]], RED[None], RED / 255, RED.astype(int)]


@pytest.mark.parametrize("frame", [*NO_PICTURES, torch.from_numpy(RED)])
def test_anything_else_is_no_picture_which_is_one_sentence(frame, tmp_path):
    one_sentence("is no frame: hand over", data.as_picture, frame)
    one_sentence("a.jpg is missing", data.as_picture, tmp_path / "a.jpg")


# -------------------------------------------------------------------------------- data.py: heatmaps
@pytest.mark.parametrize("size, cell", [((256, 192), data.CELL), ((128, 96), data.SBL_CELL)])
def test_joints_come_back_from_their_targets_and_from_those_of_the_mirrored_person(size, cell):
    height, width = size
    joints = torch.rand(40, 17, 3) * torch.tensor([width - 13, height - 13, 0]) + 6
    heatmaps, weights = data.targets(joints, size, cell)
    miss = (data.decode(heatmaps, cell=cell) - joints)[..., :2].norm(dim=-1) / 4  # in cells
    assert heatmaps.shape == (40, 17, height // 4, width // 4) and weights.min() == 1
    assert miss.mean() < 0.05 and miss.median() < 0.01  # the nearest cell alone: 0.38
    mirrored = joints[:, list(data.COCO.flip)]
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    flipped = data.flip_heatmaps(data.targets(mirrored, size, cell)[0], data.COCO.flip, cell)
    tolerance = 1e-5 if cell == data.CELL else 0.15  # SBL moves them by 1 cell, right were 3/4
    assert (flipped - heatmaps)[..., 1:].abs().max() < tolerance


def test_joints_that_are_missing_or_outside_have_no_weight():
    joints = torch.tensor([[40.0, 40, 2], [40, 40, 1], [40, 40, 0], [-60, 40, 2]])
    heatmaps, weights = data.targets(joints, (128, 96))
    assert weights.tolist() == [1, 1, 0, 0]
    assert heatmaps[:2].any() and not heatmaps[2:].any()


def test_a_peak_at_the_border_is_not_moved():
    heatmap = torch.tensor([[[0, 0, 0, 0], [0, 0, 0.2, 0], [0, 0, 1, 0.5], [0, 0, 0, 0]]])
    assert data.decode(heatmap, quarter=True)[0].tolist() == [4 * 2.25 + 1.5, 4 * 1.75 + 1.5, 1]
    # in cell 1 not, as in mmpose
    assert data.decode(heatmap[:, 1:], quarter=True)[0].tolist() == [4 * 2.25 + 1.5, 4 + 1.5, 1]
    for by_quarter in (False, True):
        assert data.decode(heatmap[:, 2:, 2:], by_quarter)[0].tolist() == [1.5, 1.5, 1]
    assert data.decode(torch.zeros(1, 1, 8, 6)).isfinite().all()


# ----------------------------------------------------------------------------------- data.py: clips
def test_another_seed_trains_with_other_people_and_evaluates_on_the_same():
    shown = {}
    for split, seed in itertools.product(("train", "val"), (0, 1)):
        clips = data.open_clips("synthetic", None, split, 1, (128, 96), count=2, seed=seed)
        shown[split, seed] = clips.images[:2]
    assert np.array_equal(shown["val", 0], shown["val", 1])
    assert not np.array_equal(shown["train", 0], shown["train", 1])
    assert np.array_equal(shown["train", 0][0], data.render_clip("train", 0, 1)[0])
    assert np.array_equal(shown["train", 1][1], data.render_clip("train", 10**6 + 1, 1)[0])


def test_processes_render_what_one_renders(people):
    by_two = data.SyntheticClips("val", 48, 4, workers=2).head(24)
    for field in ("images", "boxes", "joints", "areas", "conditions"):
        assert np.array_equal(getattr(by_two, field), getattr(people, field))


@pytest.mark.parametrize("cell", [data.CELL, data.SBL_CELL])
def test_each_frame_has_its_own_window_and_a_clip_one_augmentation(cell):
    clips = data.SyntheticClips("val", 8, 4, workers=1, cell=cell)
    clips.boxes = clips.boxes + np.arange(4)[:, None] * [4, 8, 0, 0]  # the window moves
    rng = random.Random(0)
    augmentations = [data.draw_augmentation(rng, 40, 0.1) for _ in range(8)]
    batch = clips.batch(range(8), augmentations)
    for i, t in np.ndindex(8, 4):
        matrix = data.crop_matrix(clips.boxes[i, t], clips.size, augmentations[i], cell)
        order = list(data.COCO.flip) if augmentations[i].flip else range(17)
        joints = data.transform(clips.joints[i, t], matrix)[order]
        image = data.crop(Image.fromarray(clips.images[i, t]), matrix, clips.size)
        assert np.array_equal(batch.matrices[i, t], matrix)
        assert np.allclose(batch.joints[i, t], joints, atol=1e-3)
        assert torch.equal(batch.images[i, t], image)


# ----------------------------------------------------------------------- data.py: COCO, PoseTrack18
@contextlib.contextmanager
def edited(path):
    """What a JSON file says; it is written back with the changes."""
    page = read_json(path)
    yield page
    path.write_text(json.dumps(page))


@pytest.fixture
def coco_val(exports):
    """The annotation file of the exported COCO val: two people."""
    return exports / "coco/annotations/person_keypoints_val2017.json"


@pytest.fixture
def videos(exports):
    """The annotation files of the exported PoseTrack val: two videos of six frames."""
    folder = exports / "posetrack/annotations/val"
    return [folder / "000000_mpii_test.json", folder / "000001_mpii_test.json"]


def read_coco(exports, split="val", boxes=None):
    return data.open_clips("coco", exports / "coco", split, 1, (128, 96), boxes=boxes)


def read_posetrack(exports, split="val", frames=1):
    return data.open_clips("posetrack", exports / "posetrack", split, frames, (128, 96))


def test_exported_people_are_read_back(exports):
    clips = data.SyntheticClips("train", 8, 1, workers=1)
    clips.joints *= clips.joints[..., 2:] > 0  # 0, 0, 0 where not annotated
    people = read_coco(exports, "train")
    assert people.annotations is None and set(people.ids.flat) == {None}  # freed to train
    for field in ("joints", "areas", "boxes"):
        assert np.array_equal(getattr(people, field), getattr(clips, field))
    difference = people.batch(range(8)).images.float() - clips.batch(range(8)).images
    assert difference.abs().mean() < 8  # JPEG


def test_exported_tracks_are_read_back(exports):
    clips = data.SyntheticClips("train", 8, 6, workers=1)
    clips.joints *= clips.joints[..., 2:] > 0
    tracks = read_posetrack(exports, "train", 6)
    assert len(tracks.sequences) == 8 and np.array_equal(tracks.boxes[:, :6], clips.boxes)
    assert np.array_equal(tracks.joints[:, :6, 5:, :2], clips.joints[:, :, 5:, :2])
    assert not tracks.joints[:, :, 3:5].any()  # the ears
    assert np.allclose(tracks.areas[:, :6], 0.53 * clips.boxes[..., 2:].prod(axis=-1))


def test_detected_people_come_with_their_scores_also_those_of_test_dev(exports):
    folder = exports / "coco/annotations"
    boxes = folder / "person_detections_val2017.json"
    clips = read_coco(exports, boxes=boxes)
    assert clips.scores.tolist() == [entry["score"] for entry in read_json(boxes)]
    assert len(clips.annotations["annotations"]) == 2 and not clips.joints.any()
    one_sentence("give --boxes", read_coco, exports, "test-dev2017")
    clips = read_coco(exports, "test-dev2017", folder / "person_detections_test-dev2017.json")
    assert clips.files[0, 0] == exports / "coco/test2017/000000000001.jpg"
    assert len(clips) == 4 and clips.annotations["annotations"] == []


CUT = [("val", 3, [[1, 2, 3]]), ("val", 2, [[0, 1], [2, 3]])]
CUT += [("test", 3, [[0, 1, -1], [2, 3, -1], [4, -1, -1], [5, -1, -1]])]  # a report needs each


@pytest.mark.parametrize("split, frames, expected", CUT)
def test_clips_are_consecutive_frames_each_with_a_box(exports, videos, split, frames, expected):
    videos[1].unlink()
    with edited(videos[0]) as page:
        for t, number in enumerate((0, 4, 5, 6, 9, 12)):  # every fourth, then each, then gaps
            page["images"][t].update(id=t, frame_id=number)
            page["annotations"][t].update(image_id=t, bbox=[10 + t, 10, 50, 80])
    clips = read_posetrack(exports, split, frames)
    places = np.where(clips.ids[..., 0] == None, -1, clips.ids[..., 0])  # noqa: E711 elementwise
    assert places.tolist() == expected
    labelled = places >= 0  # frames that only fill up have no labels
    assert np.array_equal(clips.joints[..., 2].any(axis=-1), labelled)
    assert np.array_equal(clips.boxes[labelled][:, 0], 10 + places[labelled])


def test_a_training_clip_begins_at_every_frame_of_its_track_once_in_a_while(tmp_path, capsys):
    data.export("posetrack", tmp_path / "posetrack", 2, 7, (128, 96))
    clips = read_posetrack(tmp_path, "train", 3)  # two videos of seven frames
    assert clips.files.shape == (4, 5) and clips.spare.tolist() == [2, 1, 2, 1]
    assert "left out" not in capsys.readouterr().out
    shown = []
    clips._crop = lambda index, t, matrix: shown.append(clips.files[index, t].name)
    batches = train.TrainingBatches(clips, options_of("--stage t --batch 4"))
    for epoch in range(20):
        batch = batches[epoch]
    assert batch.images.shape[:2] == (4, 3)
    names = [f"{t:06d}.jpg" for t in range(7)]
    assert set(shown[0::3]) == set(names[:5]) and set(shown) == set(names)
    # the frames of a clip follow one another
    numbers = np.array(shown).reshape(-1, 3).astype("U6").astype(int)
    assert (np.diff(numbers, axis=1) == 1).all()


UNUSABLE = [{"bbox": None}, {"bbox": [0, 0, 2e5, 2e5]}, {"area": "3"}]
UNUSABLE += [{"area": -1}, {"area": 10**400}, {"category_id": 2}, {"image_id": 98}]
EVALUATED = [{"iscrowd": 1}, {"bbox": [5, 5, -9, 9]}, {"image_id": 96}, {"image_id": 97}]


def test_bad_entries_are_left_out_and_counted(exports, capsys, coco_val):
    (exports / "coco/val2017/empty.jpg").touch()
    with edited(coco_val) as page:
        for number, name in ((96, "empty.jpg"), (97, "long" * 999), (98, None)):
            page["images"].append({"id": number, "file_name": name})
        good = page["annotations"][0]
        page["annotations"] += [{**good, **entry} for entry in UNUSABLE + EVALUATED]
    clips = read_coco(exports)
    assert len(clips) == 2
    assert sum(count for count, _ in clips.skipped.values()) == len(UNUSABLE + EVALUATED)
    assert len(clips.annotations["annotations"]) == 2 + len(EVALUATED)
    printed = capsys.readouterr().out
    assert "1 x box without area ([5, 5, -9, 9]; wanted: x, y, width, height in pix" in printed
    assert re.search("2 x picture missing or empty .*coco/val2017/empty.jpg", printed)


def test_damaged_pictures_are_black_unlabelled_and_told_once(exports, capsys):
    clips = read_coco(exports, "train")
    files = sorted((exports / "coco/train2017").iterdir())
    for file in files[:4]:
        file.write_bytes(file.read_bytes()[:1500])
    for _ in range(2):
        batch = clips.batch(range(8))
    for shown in (batch.images, batch.joints[..., 2]):
        assert shown.flatten(1).any(1).tolist() == [False] * 4 + [True] * 4
    assert capsys.readouterr().out.count("is missing, damaged or no picture") == 4
    for file in files:
        file.write_text("no picture")
    one_sentence("no picture of COCO", read_coco, exports, "train")


@pytest.mark.parametrize("contents", ["", "[" * 10**5, "[" + "9" * 5000 + "]", "[{}]", "{}"])
def test_a_bad_file_is_one_sentence(exports, contents):
    boxes = exports / "boxes.json"
    boxes.write_text(contents)
    one_sentence("boxes.json .*--boxes", read_coco, exports, "val", boxes)
    for file in exports.glob("*/annotations/**/*.json"):
        file.write_text(contents)
    for kind in ("coco", "posetrack"):
        one_sentence("--root", data.open_clips, kind, exports / kind, "val", 1, (128, 96))
        one_sentence("none.*--root", data.open_clips, kind, "/none", "val", 1, (128, 96))


CATEGORIES = [
    ([{"id": 3, "name": "dog"}, {"id": "p", "name": "Person"}], "p"),
    ([{"id": 9, "name": "swimmer"}], 9),
    (None, 1),
    # what is called person but has no keypoints groups others
    ([{"id": 0, "name": "person"}, {"id": 2**70, "name": "pair", "keypoints": ["a", "b"]}], 2**70),
]


@pytest.mark.parametrize("categories, found", CATEGORIES)
def test_the_category_of_people_is_read_and_written(exports, coco_val, categories, found):
    with edited(coco_val) as page:
        page["categories"] = categories
        page["annotations"].append({**page["annotations"][0], "category_id": 3})
        for person in page["annotations"][:2]:
            person["category_id"] = found
            person["keypoints"] = person["keypoints"][: 6 if found == 2**70 else 51]
    people = read_coco(exports)
    assert people.left_out.startswith(f"1 x category_id is not {found!r} (3)")
    results = data.coco_results(people.joints + [0, 0, 0.5], people)
    assert [result["category_id"] for result in results] == [found] * 2
    assert data.coco_ap(people.annotations, results)["AR"] == 1


def reverse_joints(page):
    """List the joints of a file from the last to the first."""
    page["categories"][0]["keypoints"].reverse()
    for person in page["annotations"]:
        joints = np.reshape(person["keypoints"], (17, 3))
        person["keypoints"] = joints[::-1].ravel().tolist()


def test_joints_have_the_skeletons_order_inside_and_the_files_order_outside(exports, coco_val):
    before = read_coco(exports).joints
    with edited(coco_val) as page:
        reverse_joints(page)
    people = read_coco(exports)
    assert people.skeleton is data.COCO and np.array_equal(people.joints, before)
    found = people.joints + [0, 0, 0.5]
    found[:, :, :5, 0] += 4  # of a head the sigmas are smaller than of legs
    results = data.coco_results(found, people)
    expected = data.coco_ap(page, results, data.COCO.sigmas[::-1])
    assert 0 < expected["AP"] < 1
    assert data.coco_ap(people.annotations, results) == expected


def test_videos_may_list_their_joints_in_different_orders(exports, videos):
    with edited(videos[0]) as page:
        reverse_joints(page)
    clips = read_posetrack(exports)
    results = data.posetrack_results(clips.joints, clips)
    assert data.posetrack_ap(clips.annotations, results)["Total"] == 100


def test_people_without_named_joints_have_numbered_ones(exports, coco_val):
    with edited(coco_val) as page:
        del page["categories"][0]["keypoints"]
        for person in page["annotations"]:
            person["keypoints"] = person["keypoints"][:12]
        page["annotations"] += [page["annotations"][0], {**page["annotations"][1]}]
        page["annotations"][1]["keypoints"] = [1] * 24
    people = read_coco(exports)
    assert people.skeleton.joints == ("joint_1", "joint_2", "joint_3", "joint_4")
    assert "keypoints has 24 values, wanted are 12 finite numbers" in people.left_out


def test_what_may_be_missing_is_filled_in(exports, coco_val):
    with edited(coco_val) as page:
        first, second = page["annotations"]
        first["keypoints"] = [0, 0, 0, 7, 7, 0] + [9] * 28  # x, y of each joint
        for key in ("area", "iscrowd", "num_keypoints", "category_id", "id"):
            del first[key]
        second.update(area=None, category_id=None, score="good")
    people = read_coco(exports)
    assert np.allclose(people.areas, 0.53 * people.boxes[..., 2:].prod(-1))
    assert people.joints[0, 0, :3].tolist() == [[0, 0, 0], [0, 7, 2], [7, 0, 2]]
    person = people.annotations["annotations"][0]
    assert (person["iscrowd"], person["num_keypoints"]) == (0, 16)


LACKING = [[3, 4, 2, None, None, None], [3, 4, 2, "NaN", 6, 2], [[3, 4, 2], [5, 6]]]


@pytest.mark.parametrize("written", LACKING)
def test_a_joint_that_exporters_lack_is_unlabelled(written):
    assert data.read_joints(written, 2).tolist() == [[3, 4, 2], [0, 0, 0]]


@pytest.mark.parametrize("joint", [[1, "far", 2], {"x": 1}])
def test_a_joint_that_is_wrong_is_shown(joint):
    with pytest.raises(data.LeftOut) as caught:
        data.read_joints([[0, 0, 0], joint, [0, 0, 0]], 3)
    assert str(joint)[1:-1] in str(caught.value)


EIGHT = Image.Exif()
EIGHT[0x0112] = 8  # to be shown after a quarter turn to the left
CHANGED = {
    "the picture is": lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
    "the labels are scaled": lambda picture: picture.reduce(2),
}


@pytest.mark.parametrize("told", CHANGED)
def test_a_picture_changed_after_it_was_labelled_is_read(exports, coco_val, capsys, told):
    before = read_coco(exports).batch([0, 1]).images.float()
    with edited(coco_val) as page:
        for image in page["images"]:
            path = exports / "coco/val2017" / image["file_name"]
            picture = Image.open(path)
            image["width"], image["height"] = picture.size
            exif = EIGHT if told == "the picture is" else Image.Exif()
            CHANGED[told](picture).save(path, exif=exif, quality=95)
    people = read_coco(exports)
    assert (people.batch([0, 1]).images - before).abs().mean() < 9
    assert f"2 x another size than the file says, so {told}" in capsys.readouterr().out


def test_a_turn_that_nothing_confirms_is_told(exports, coco_val, capsys):
    path = exports / "coco/val2017/000000000001.jpg"
    Image.open(path).save(path, exif=EIGHT)
    read_coco(exports)
    assert "1 x turn noted in EXIF that no width and height confirm" in capsys.readouterr().out


@pytest.mark.parametrize("key, value", [("area", 0), ("area", 1), ("num_keypoints", 0)])
def test_what_box_and_joints_contradict_is_computed(exports, coco_val, capsys, key, value):
    with edited(coco_val) as page:
        page["annotations"][1][key] = value
    people = read_coco(exports)
    assert people.annotations["annotations"][1][key] > 1
    assert f"1 x {key} is too small for the rest" in capsys.readouterr().out


@pytest.mark.parametrize("corner", [[0, 0, 2], [-1, -1, 1]])
def test_joints_at_the_corner_are_unlabelled(exports, coco_val, capsys, corner):
    with edited(coco_val) as page:
        page["annotations"][1]["keypoints"][:3] = corner
    assert not read_coco(exports).joints[1, 0, 0].any()
    assert "1 x joint at 0, 0 or -1, -1" in capsys.readouterr().out


LOOKS = {"bbox that looks like x1": (0, 0, 1, 1), "bbox below 8": (0, 0, 0, 0)}
LOOKS["joints outside their bbox"] = (0.5, 0.5, 0, 0)  # x, y of its centre


@pytest.mark.parametrize("told", LOOKS)
def test_boxes_that_are_something_else_are_told(exports, coco_val, capsys, told):
    with edited(coco_val) as page:
        for person in page["annotations"]:
            x, y, w, h = person["bbox"]
            if told == "bbox below 8":
                w, h = w / 32, h / 32
            person["bbox"] = (
                np.array([x, y, w, h]) + np.array(LOOKS[told]) * [w, h, x, y]
            ).tolist()
    read_coco(exports)
    assert f"2 x {told}" in capsys.readouterr().out


def test_annotations_that_cannot_be_used_are_refused_with_the_reason(exports, coco_val):
    with edited(coco_val) as page:
        for person in page["annotations"]:
            person["keypoints"] = [value / 1000 for value in person["keypoints"]]
    one_sentence("keypoints lie in 0 .. 1", read_coco, exports)
    with edited(coco_val) as page:
        for person in page["annotations"]:
            person["bbox"] = None
    one_sentence("left out 2 x no bbox.*--root", read_coco, exports)
    with edited(coco_val) as page:
        page["images"].append({**page["images"][1], "file_name": "other.jpg"})
    one_sentence("two images of id 2.*merged", read_coco, exports)
    with edited(coco_val) as page:
        page["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "horse"}]
    one_sentence('dog, horse: .*"person"', read_coco, exports)


@pytest.mark.parametrize("number", [None, 0.0, "x", float("nan")])
def test_frames_without_numbers_are_in_order_and_videos_apart(exports, videos, number):
    videos[1].unlink()
    with edited(videos[0]) as page:
        for t, image in enumerate(page["images"]):
            image.update(frame_id=number, ignore_regions_x=None, vid_id="ab"[t // 4])
        if number is None:
            page["images"].reverse()
    clips = read_posetrack(exports, frames=3)
    assert [path.stem for path in clips.files[0]] == ["000000", "000001", "000002"]
    assert len(clips) == 1  # of four frames and of two


def test_frame_numbers_that_begin_again_are_another_video(exports, videos):
    videos[1].unlink()
    with edited(videos[0]) as page:
        for t, image in enumerate(page["images"]):
            image["frame_id"] = t % 4
    assert len(read_posetrack(exports, frames=3)) == 1  # of four frames and of two


def test_people_without_a_head_box_are_not_in_the_official_numbers(exports, videos, capsys):
    for video in videos:
        with edited(video) as page:
            page["annotations"][0]["bbox_head"] = [1, 2, 3]
            del page["annotations"][1]["bbox_head"]
    clips = read_posetrack(exports)
    assert len(clips) == 12 and len(clips.annotations["annotations"]) == 8
    results = data.posetrack_results(clips.joints * [1, 1, 0] + [0, 0, 0.5], clips)
    assert len(results) == 8
    assert data.posetrack_ap(clips.annotations, results)["Total"] == 100
    assert "4 people have no head box (bbox_head)" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["n{}".format, (2**64).__add__, {1: "a", 2: 7}.get])
def test_ids_come_out_as_they_went_in(exports, coco_val, number):
    with edited(coco_val) as page:
        for image, person in zip(page["images"], page["annotations"], strict=True):
            image["id"] = person["image_id"] = number(image["id"])
            person["id"] = [person["id"]]  # an annotation's own id does not matter
    people = read_coco(exports)
    results = data.coco_results(people.joints + [0, 0, 0.5], people)
    written = [result["image_id"] for result in json.loads(json.dumps(results))]
    assert {*map(repr, written)} == {repr(number(1)), repr(number(2))}
    assert data.coco_ap(page, results)["AP"] == 1


@pytest.mark.parametrize("joints", [data.COCO.joints, string.ascii_letters[:17]])
def test_the_official_flip_test_needs_known_sides(exports, tmp_path, monkeypatch, joints):
    def predict(*arguments, flip, **options):
        assert flip == (joints is data.COCO.joints)
        return clips.joints

    clips = read_coco(exports)
    clips.skeleton = replace(data.COCO, joints=tuple(joints))
    monkeypatch.setattr(search, "predict", predict)
    search.official([], clips, CPU, tmp_path)


def test_sequences_that_number_images_alike_are_kept_apart(exports, videos, monkeypatch):
    for video in videos:
        with edited(video) as page:
            for t in range(6):
                page["images"][t]["id"] = page["annotations"][t]["image_id"] = f"{t}"
                if video == videos[1]:  # all of it is to be ignored
                    page["images"][t]["ignore_regions_x"] = [[-9, 999, 999, -9]]
                    page["images"][t]["ignore_regions_y"] = [[-9, -9, 999, 999]]
    clips = read_posetrack(exports, "test", 4)
    perfect = clips.joints * [1, 1, 0] + [0, 0, 0.5]
    monkeypatch.setattr(search, "predict", lambda *arguments, **options: perfect)
    assert search.official([], clips, CPU, exports / "out")["Total"] == 100
    for file in (exports / "out").glob("posetrack/*.json"):
        poses = read_json(file)["annotations"]
        assert [pose["image_id"] for pose in poses] == ["0", "1", "2", "3", "4", "5"]


def test_two_people_of_one_track_in_a_frame_are_two_tracks(exports, videos):
    with edited(videos[0]) as page:
        page["annotations"] += [{**person, "bbox": [1, 1, 9, 9]} for person in page["annotations"]]
    clips = read_posetrack(exports, frames=6)
    assert len(clips) == 3  # one of them in the other file
    assert (clips.boxes[:, :, 2] == 9).all(axis=1).tolist() == [False, True, False]


def test_a_bad_file_beside_good_ones_is_left_out(exports, videos):
    videos[0].with_name("._a.json").write_bytes(b"\0\5\26\7")
    videos[0].with_name("b.json").symlink_to("/nowhere")
    # a byte order mark is no fault
    videos[0].write_text("\ufeff" + videos[0].read_text())
    clips = read_posetrack(exports)
    assert len(clips) == 12
    assert clips.left_out.startswith("2 x annotation file (")


def test_a_loader_makes_batches_of_files_ahead(exports):
    class Batches:
        def __getitem__(self, item):
            return [clips.batch(item).images, torch.tensor(os.getpid())]

    clips = read_coco(exports, "train")
    loader = data.batch_loader(Batches(), [[0, 1], [2]], clips, CPU)
    (first, process), (second, _) = list(loader)
    assert process != os.getpid()
    assert len(first) == 2 and torch.equal(second, clips.batch([2]).images)
    assert not first.is_shared()  # in a container /dev/shm is small


@pytest.mark.parametrize("workers, expected", [(None, [8, 6, 1]), (9, [9] * 3)])
def test_loader_processes_are_as_many_as_said(workers, expected, exports, monkeypatch):
    def loader(*arguments, num_workers, **options):
        found.append(num_workers)
        return []

    found = []
    clips = data.open_clips("coco", exports / "coco", "val", 1, (128, 96), workers=workers)
    monkeypatch.setattr(data, "DataLoader", loader)
    monkeypatch.setattr(data, "cores", lambda: 24)
    for sharing in ("1", "4", "32"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", sharing)
        assert list(data.batch_loader(None, [], clips, CPU)) == []
    assert found == expected


@needs_samples
def test_real_people_are_read():
    clips = data.CocoPeople(SAMPLES / "coco", "val", (128, 96))
    assert len(clips) == 3 and list(clips.skipped) == ["no joints"]
    boxes = SAMPLES / "coco/annotations/person_detections_val2017.json"
    found = data.CocoPeople(SAMPLES / "coco", "val", boxes=boxes)
    assert len(found) == 48 and not found.joints.any()
    clips = data.PoseTrackClips(SAMPLES / "posetrack18", "val", 1, (128, 96))
    assert clips.batch([0]).joints[..., 2].sum() > 5
    one_sentence("--frames", data.PoseTrackClips, SAMPLES / "posetrack18", "val", 4)


# -------------------------------------------------------------- data.py: pictures, the command line
def test_lists_of_images_are_gifs_and_other_names_are_one_sentence(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    data.save_image(frames, f"{tmp_path}/a.gif")
    assert Image.open(f"{tmp_path}/a.gif").n_frames == 3
    for image, name in [(frames, "b.png"), (frames[0], "b.txt")]:
        one_sentence("must end in .gif", data.save_image, image, tmp_path / name)


def test_data_py_draws_its_chapter(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data.py", "--out", f"{tmp_path}/a.png"])
    data.main()
    assert Image.open(f"{tmp_path}/a.png").size == (6 * 192, 6 * 256)


# ------------------------------------------------------------------------ data.py: synthetic people
@pytest.fixture(scope="module")
def rendered():
    """A hundred clips: pictures (100, 4, 128, 96, 3), joints (100, 4, 17, 3) and conditions."""
    clips = [data.render_clip("val", index) for index in range(100)]
    return [np.stack(arrays) for arrays in zip(*clips, strict=True)]


def test_a_clip_depends_on_split_and_index_alone_and_more_frames_append(rendered):
    longer = data.render_clip("val", 3, frames=6)
    for arrays, all_clips in zip(longer, rendered, strict=True):
        assert np.array_equal(arrays[:4], all_clips[3])
    pictures = longer[0]
    assert np.array_equal(data.render_clip("val", 3, frames=1)[0], pictures[:1])
    for split in ("train", "test"):
        assert not np.array_equal(pictures[:1], data.render_clip(split, 3, frames=1)[0])
    one_sentence("'trian'.*choose", data.render_clip, "trian", 0)


def test_joints_are_visible_hidden_or_outside_the_picture(rendered):
    x, y, visibility = np.moveaxis(rendered[1], -1, 0)
    inside = (x >= -0.5) & (x < 95.5) & (y >= -0.5) & (y < 127.5)
    assert np.array_equal(inside, visibility > 0) and inside.mean() > 0.95
    assert 0.1 < (visibility == 1).mean() < 0.35
    from_behind = x[:, :, 5] < x[:, :, 6]  # the left shoulder is on the left: every fifth person
    assert 0.1 < from_behind.mean() < 0.3
    assert (visibility[:, :, 1:3][from_behind] == 2).mean() < 0.2  # and hardly shows their eyes


def test_the_renderer_knows_what_makes_a_frame_hard(rendered):
    pictures, joints, conditions = rendered
    dark, blurred, shaken, occluded = np.moveaxis(conditions, -1, 0)  # (100, 4) each
    assert 0.3 < (~conditions.any(-1)).mean() < 0.5 and 0.1 < occluded.mean() < 0.3
    assert 0.15 < blurred.mean() < 0.35 and 0.3 < dark.any(1).mean() <= 0.6
    brightness = pictures.mean((2, 3, 4))
    assert 0.1 * brightness.max() < brightness[dark].mean() < 0.6 * brightness[~dark].mean()
    # a shaken camera moves all joints at once
    jump = np.abs(np.median(np.diff(joints[..., :2], axis=1), axis=2)).max(-1)  # (100, 3)
    calm = ~(shaken[:, 1:] | shaken[:, :-1])
    assert np.median(jump[~calm]) > 2 * np.median(jump[calm])
    assert 0.2 < np.median(jump[calm]) < 0.8  # pixels: people move slowly, so memory helps
    # where much of somebody is behind something, joints are not visible
    assert (joints[..., 2] == 1).sum(-1)[occluded].min() >= 2


def test_every_visible_joint_lies_on_the_painted_person(monkeypatch):
    def all_red(rng):
        return np.tile([255, 0, 0], (len(data.BODY), 1))

    monkeypatch.setattr(data, "draw_outfit", all_red)
    is_red = []
    for index in range(20):
        pictures, joints, _ = data.render_clip("val", index, frames=1)
        for x, y, _ in joints[0][joints[0, :, 2] == 2].round().astype(int):
            red, green, blue = pictures[0, y, x].astype(int)
            is_red.append(red > max(green, blue))
    assert len(is_red) > 200 and np.mean(is_red) > 0.97


# ------------------------------------------------------------------------- data.py: official scores
# All cases are counted by hand. A pose that is moved by 2, 5, 6 pixels has OKS .96, .81, .76.
POSE = np.array([[10 + 4 * i, 20 + 7 * (i % 5), 2] for i in range(17)], float)
ALARM = POSE + [900, 900, 0]


def entry(x, **more):
    joints = POSE + [x, 0, 0]
    return {"image_id": 1, "keypoints": joints.ravel().tolist(), **more}


def person(x, **more):
    about = {"bbox": [x, 0, 80, 80], "area": 6400.0, "iscrowd": 0, "num_keypoints": 17}
    return {**entry(x), **about, **more}


def coco(people, *found):  # found: (x, score)
    results = [entry(x, score=score) for x, score in found]
    return data.coco_ap({"images": [{"id": 1}], "annotations": people}, results)


def posetrack(*poses, joints=POSE, **image):  # (pose, score)s; a head of size 0.6 * 50 = 30
    annotations = {
        "images": [{"id": 1, **image}, {"id": 2}],
        "annotations": [entry(0, bbox_head=[0, 0, 30, 40], keypoints=joints.ravel().tolist())],
        "categories": [data.POSETRACK.category],
    }
    results = [entry(0, image_id=2, scores=[9] * 17)]  # of a frame without people: left out
    for pose, score in poses:
        results.append(entry(0, keypoints=pose.ravel().tolist(), scores=[score] * 17))
    return data.posetrack_ap(annotations, results)


def test_oks_is_the_papers_formula_over_the_labelled_joints():
    labels = POSE * [1, 1, 0]
    assert data.oks(POSE, labels, 400.0) == 0
    labels[:2, 2] = 1
    predicted = POSE + [3, 4, 0]
    predicted[1:] = POSE[1:]
    k = 2 * data.COCO.sigmas[0]
    expected = (np.exp(-(5**2) / (2 * 400 * k**2)) + 1) / 2  # Sec. 4.1
    assert data.oks(predicted, labels, 400.0) == pytest.approx(expected)


def test_coco_ap_is_the_mean_of_the_interpolated_precision_at_101_recalls():
    table = coco([person(0), person(500)], (0, 0.5), (-900, 0.9))  # below a false alarm
    assert table["AP"] == pytest.approx(1 / 2 * 51 / 101)
    assert coco([person(0)])["AP"] == 0


def test_coco_leaves_out_people_and_results_of_another_size():
    table = coco([person(0), person(500, area=64000.0)], (500, 0.9))
    assert list(table) == ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]
    assert [table[name] for name in ("AR", "ARM", "ARL")] == [0.5, 0, 1]
    small = entry(0, score=0.9, keypoints=(POSE * 0.1).ravel().tolist())
    annotations = {"images": [{"id": 1}], "annotations": [person(0)]}
    table = data.coco_ap(annotations, [small, entry(0, score=0.5)])
    assert [table["AP"], table["APM"], table["APL"]] == [0.5, 1, -1]


def test_each_coco_result_takes_the_most_similar_person_who_is_still_free():
    people = [person(0), person(6)]
    assert coco(people, (5, 0.9), (1, 0.8))["AR"] == 1
    assert coco(people, (6, 0.9), (6, 0.8))["AR"] == pytest.approx(0.8)  # 6 of 10 times both


def test_a_coco_crowd_or_a_person_without_joints_is_neither_right_nor_wrong():
    found = [(500, 0.9), (500, 0.8), (0, 0.7)]
    assert coco([person(0)], *found)["AP"] == pytest.approx(1 / 3)
    assert coco([person(0), person(500, iscrowd=1)], *found)["AP"] == 1
    unlabelled = person(440, keypoints=[0] * 51, num_keypoints=0)  # its box reaches from 360 to 600
    assert coco([person(0), unlabelled], *found)["AP"] == 0.5  # it is no crowd: one is wrong
    assert coco([person(2), person(0, iscrowd=1)], (0, 0.9))["AP"] == 1  # who counts comes first


def test_coco_judges_the_best_20_results_of_an_image_and_of_equal_scores_the_first():
    alarms = [(-900, 0.5)] * 20
    assert coco([person(0)], (0, 0.5), *alarms)["AP"] == 1
    assert coco([person(0)], *alarms[1:], (0, 0.5))["AP"] == pytest.approx(1 / 20)
    assert coco([person(0)], *alarms, (0, 0.5))["AP"] == 0


def test_only_people_count_and_what_they_lack_is_filled_in():
    dog = person(900, category_id=3)
    human = {key: person(0)[key] for key in ("image_id", "keypoints", "bbox")}
    categories = [{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}]
    page = {"images": [{"id": 1}], "annotations": [dog, human], "categories": categories}
    found = [entry(0, score=0.4, category_id=1), entry(500, score=0.9, category_id=3)]
    assert data.coco_ap(page, found)["AP"] == 1
    one_sentence("no result is of category 1", data.coco_ap, page, found[1:])
    page["annotations"] = [dog, person(0, category_id="1")]
    one_sentence("no annotation is of category 1", data.coco_ap, page, found)


USELESS = [{"score": None}, {"score": "high"}, {"keypoints": [1] * 34}, {"image_id": None}]


@pytest.mark.parametrize("change", [*USELESS, {"image_id": 7}])
def test_a_result_that_cannot_be_evaluated_is_one_sentence(change):
    page = {"images": [{"id": 1}], "annotations": [person(0)]}
    (word,) = ["image 7, which" if 7 in change.values() else key for key in change]
    one_sentence(word, data.coco_ap, page, [entry(0, score=0.5) | change])
    one_sentence("no scores", data.posetrack_ap, {"images": []}, [entry(0, score=0.5)])
    one_sentence("what json.load reads", data.coco_ap, page, "results.json")
    one_sentence("no bbox_head", data.posetrack_ap, page, [entry(0, scores=[1] * 17)])
    one_sentence("the same id", data.coco_ap, {"images": [{"id": 1}, {"id": 1.0}]}, [])


@pytest.mark.parametrize("pixels, knee", [(14.9, 100), (15.1, 50)])
def test_a_posetrack_joint_is_right_within_half_a_head_size(pixels, knee):
    moved = POSE.copy()
    moved[data.POSETRACK.joints.index("left_knee"), 0] += pixels
    table = posetrack((moved, 0.9))
    assert list(table) == ["Head", "Sho", "Elb", "Wri", "Hip", "Knee", "Ank", "Total"]
    assert [table["Knee"], table["Ank"]] == pytest.approx([knee, 100])
    assert table["Total"] == pytest.approx((13 * 100 + 2 * knee) / 15)


def test_a_posetrack_person_keeps_the_best_pose_and_all_joints_of_others_are_wrong():
    half = POSE.copy()
    half[:8] += 900
    assert posetrack((POSE, 0.9), (half, 0.5))["Total"] == 100
    assert posetrack((half, 0.9), (POSE, 0.5))["Total"] == 50
    assert posetrack((half, 0.5), (POSE, 0.5))["Total"] == 100  # of equal scores, the last first


POLYGON = [[800, 1200, 800], [800, 800, 1200]]  # x and y


@pytest.mark.parametrize("odd", [None, "xxx", [1, 2], [1, None, 3], [10**400] * 3])
def test_posetrack_drops_joints_in_ignore_regions_that_are_polygons(odd):
    regions = {"ignore_regions_x": [odd, POLYGON[0]], "ignore_regions_y": [[1, 2, 3], POLYGON[1]]}
    assert posetrack((POSE, 0.5), (ALARM, 0.9), **regions)["Total"] == 100
    assert np.isnan(list(posetrack((POSE, 0.5), joints=ALARM, **regions).values())).all()
    assert posetrack((POSE, 0.5), ignore_regions_x=odd, ignore_regions_y=odd)["Total"] == 100


def test_posetrack_drops_joints_that_nobody_has():
    missing = POSE.copy()
    missing[-2:] = 0
    table = posetrack((POSE, 0.9), joints=missing)
    assert np.isnan(table["Ank"]) and table["Total"] == 100


def test_a_polygon_contains_what_is_inside_but_not_its_border():
    polygon = np.array([[2, 0, 4, 0], [2, 4, 2, 0]])  # an arrow head that points to the right
    x, y = np.array([[3, 1, 1, 2, 2, 1], [2, 0.9, 2.1, 2, 1, 3]])
    assert data.inside(x, y, polygon).tolist() == [True, True, False, False, False, False]


def test_coco_results_are_scored_rounded_and_without_near_duplicates():
    poses = np.stack([POSE, POSE + [0.12345, 0, 0], POSE + [1, 0, 0], POSE + [40, 0, 0]])
    poses[..., 2] = 0.5
    poses[:, 0, 2] = 0.1  # too unsure to count
    clips = SimpleNamespace(scores=[0.5, 1, 0.6, 0.4], size=(256, 192), skeleton=data.COCO)
    clips.ids = np.array([[[7, 0]], [[3, 1]], [[7, 2]], [[7, 3]]])
    clips.boxes = np.tile([0, 0, 60, 80], (4, 1, 1))
    clips.category_id = 1
    clips.order = list(range(17))
    results = data.coco_results(poses[:, None], clips)
    assert [(r["image_id"], r["score"]) for r in results] == [(7, 0.3), (7, 0.2), (3, 0.5)]
    assert results[2]["keypoints"][:3] == [10.123, 20, 0.1]


# ----------------------------------------------------------------- vipnas.py: architectures, spaces

NO_ARCHS = [
    ('"stem": 48, ', "", "not the JSON"),
    ("resnet50", "vgg", "no backbone"),
    ("resnet50", "mobilenetv3", "6 stages"),
    ("resnet50", "hrnet_w32", "2 branches"),
    ('"fusion": null', '"fusion": {"stage": 9, "operation": "add"}', "fusion names"),
    # whose layers cannot be made
    ('"depth": 4', '"depth": "4"', ""),
    ('{"width": 144, "kernel": 4, "groups": 16}', "null", ""),
    ('"groups": 16', '"groups": 7', ""),
]


@pytest.mark.parametrize("old, new, message", NO_ARCHS)
def test_what_is_no_architecture_is_one_sentence(old, new, message, tmp_path):
    file = tmp_path / "arch.json"
    file.write_text(RESNET.to_json().replace(old, new))
    message = f"no architecture can be read from .*arch.json .*{message}"
    one_sentence(message, vipnas.read_archs, str(file))


def test_what_a_network_cannot_do_is_one_sentence(monkeypatch):
    def attention(channels):
        return torch.nn.Conv2d(channels, channels, 1)

    images = torch.zeros(1, 3, 32, 32)
    fused = replace(TINY.largest(), fusion=Fusion(1, "add"))
    one_sentence("name one", PoseNet(TINY), images, error=ValueError)
    one_sentence("fuses heatmaps", PoseNet(TINY), images, fused, error=ValueError)
    small = PoseNet(TINY.smallest())
    one_sentence("blocks, not", small, images, TINY.largest(), error=ValueError)
    one_sentence("extract one", vipnas.deploy, PoseNet(TINY), error=ValueError)
    plan = replace(vipnas.BACKBONES["tiny"], attention=attention)
    monkeypatch.setitem(vipnas.BACKBONES, "tiny", plan)
    one_sentence("no `slice`", PoseNet(TINY).extract, TINY.largest(), error=ValueError)


def ends_of(space):
    """(depth, width, kernel, groups, attention, expansion) of every stage at both ends."""
    stages = [*space.smallest().stages, *space.largest().stages]
    return [(stage.depth, *stage.branches[0]) for stage in stages]


def test_the_ends_of_the_spaces_are_the_papers_tables():
    space = SPACES["resnet50"]  # Table A2
    assert (space.smallest().stem, space.smallest().head) == (32, (64, 4, 64))
    assert (space.largest().stem, space.largest().head) == (64, (256, 4, 16))
    rows = [(3, 64, 4, 80), (4, 128, 6, 160), (6, 256, 8, 320), (3, 512, 4, 640)]
    least = [(depth, width, 3, 64, False, 1) for depth, width, _, _ in rows]
    assert ends_of(space) == least + [(depth, width, 5, 16, True, 1) for _, _, depth, width in rows]

    space = SPACES["mobilenetv3"]  # Table A1
    assert (space.smallest().head, space.largest().head) == ((256, 4, 256), (256, 4, 32))
    widths = (24, 40, 80, 112, 160)
    least = [(1, 16, 3, 16, False, 1), *[(2, w, 3, 3 * w, False, 3) for w in widths]]
    most = [(1, 16, 3, 2, True, 1), *[(4, w, 7, 3 * w // 8, True, 6) for w in widths]]
    assert ends_of(space) == least + most

    largest = str(SPACES["hrnet_w32"].largest())  # Table A3
    assert largest.replace(" att", "") == str(ARCHS["hrnet_w32"])


def test_the_size_of_a_space_is_the_number_of_its_architectures():
    space = TINY.within(TINY.smallest())
    stages = [choices._replace(depth=(1, 2)) for choices in space.stages]
    space = replace(space, stages=tuple(stages))
    rng = random.Random(0)
    assert len({space.sample(rng) for _ in range(20 * space.size())}) == space.size() == 384
    assert Space.of(RESNET).size() == 1


@pytest.mark.parametrize("name", SPACES)
def test_samples_lie_between_the_ends_of_their_space(name):
    rng = random.Random(0)
    for space in (SPACES[name], SPACES[name].within(SPACES[name].sample(rng))):
        least = cost(space.smallest(), space.image_size)
        most = cost(space.largest(), space.image_size)
        archs = {space.sample(rng) for _ in range(100)}
        assert len(archs) > 50
        for arch in archs:
            assert arch in space
            assert replace(arch, stem=arch.stem + 1) not in space
            found = cost(replace(arch, fusion=space.fusions[0]), space.image_size)
            assert least.macs <= found.macs and found.gflops <= 1.05 * most.gflops


def test_samples_are_drawn_dimension_by_dimension():
    # expansion 6 has most group numbers, but is not drawn more often: each 1000 times, +- 27
    rng = random.Random(0)
    drawn = [SPACES["mobilenetv3"].sample(rng).stages[3].branches[0] for _ in range(4000)]
    expansions = [branch.expansion for branch in drawn]
    assert [expansions.count(e) for e in (3, 4, 5, 6)] == pytest.approx([1000] * 4, abs=100)


@pytest.mark.parametrize("name", ["s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32"])
def test_the_space_within_a_network_ends_at_it(name):
    arch = ARCHS[name]
    space = SPACES[arch.backbone]
    assert (arch in space) == (arch != MOBILE)  # whose head is not in Table A1
    inner = space.within(arch)
    assert replace(inner.largest(), fusion=None) == arch
    assert arch not in inner and len(inner.fusions) == 3 * len(arch.stages)  # all have a fusion


def with_stage(arch, index, branch):
    """`arch` with one block `branch` in stage `index`."""
    stages = list(arch.stages)
    stages[index] = elastic.Stage(1, (branch,))
    return replace(arch, stages=tuple(stages))


def test_the_space_within_offers_the_widths_that_its_docstring_says():
    arch = with_stage(TINY.smallest(), 1, elastic.Branch(32, 5, 64, True, 2))
    line = TINY.within(arch).stages[1].branches[0]
    assert line.width == (16, 32) and line.kernel == (3, 5)
    assert {branch.width for branch in line.options} == {32}  # 16 is drawn in vain
    wide = with_stage(TINY.smallest(), 1, elastic.Branch(48, 5, 96, True, 2))
    options = TINY.within(wide).stages[1].branches[0].options
    assert {branch.width for branch in options} == {32, 48}


def test_the_head_follows_the_width_below_it_in_a_space_within():
    arch = with_stage(RESNET, 3, elastic.Branch(576, 5, 16))
    inner = SPACES["resnet50"].within(replace(arch, head=elastic.Head(192, 4, 48)))
    assert 304 not in inner.stages[3].branches[0].width  # no head fits on it: 304 = 16 x 19
    rng = random.Random(0)
    walk = [inner.largest()]
    for _ in range(300):
        walk.append(inner.redraw(walk[-1], rng))
    assert all(arch in inner for arch in walk)
    assert len({arch.head for arch in walk}) > 3
    for last, arch in itertools.pairwise(walk):  # one decision at a time
        changed = [a != b for a, b in zip(last.stages, arch.stages, strict=True)]
        assert sum(changed) + (last.stem != arch.stem) + (last.fusion != arch.fusion) <= 1


def tiny_with_groups(*numbers):
    """The space tiny with these group numbers in its first stage."""
    first, *others = TINY.stages
    line = replace(first.branches[0], groups=numbers)
    return replace(TINY, stages=(first._replace(branches=(line,)), *others))


def test_a_space_whose_widths_fit_no_group_number_or_no_head_is_refused():
    message = r"stage 1 of tiny: no group number of \(16,\) fits width 24"
    one_sentence(message, tiny_with_groups, 16, error=ValueError)
    *others, last = TINY.stages
    line = replace(last.branches[0], width=(64, 96), groups=(64, 96, 128, 192, 288))
    with pytest.raises(ValueError, match="the head of tiny does not fit on width 64"):
        replace(TINY, stages=(*others, last._replace(branches=(line,))))


@torch.no_grad()
def test_in_a_space_of_bottlenecks_the_smaller_expansion_is_the_larger_network():
    first, *others = SPACES["resnet50"].stages
    line = replace(first.branches[0], expansion=(1, 2), groups=(1, 2, 4, 8))
    stages = (first._replace(branches=(line,)), *others)
    space = replace(SPACES["resnet50"], stages=stages)
    inner = space.within(space.largest())
    net = PoseNet(inner)
    rng = random.Random(0)
    archs = [inner.sample(rng) for _ in range(20)]
    for arch in archs[:8]:
        net(torch.zeros(2, 3, 32, 32), arch, torch.zeros(2, 17, 8, 8))
    assert space.largest().stages[0].branches[0].expansion == 1
    assert {arch.stages[0].branches[0].expansion for arch in archs} == {1, 2}


def test_a_narrower_input_meets_a_block_that_expands_nothing_in_the_largest():
    space = tiny_with_groups(8, 16, 24, 48)
    found = with_stage(space.smallest(), 0, elastic.Branch(16, 3, 16))
    inner = space.within(found)
    net = PoseNet(inner).eval()
    rng = random.Random(0)
    archs = [inner.sample(rng) for _ in range(20)]
    assert len({arch.stages[0].branches[0].width for arch in archs}) == 2
    for arch in archs:
        net(torch.zeros(1, 3, 32, 32), arch, torch.zeros(1, 17, 8, 8))


# ------------------------------------------------------------------------ vipnas.py: networks, cost


def plain(layer, x):
    """A convolution and its batch norm, as they are."""
    return layer.norm(layer.conv(x))


def random_block(kind, branch, **options):
    """A block with h-swish and random weights, an input for it, and its output."""
    plan = replace(vipnas.BACKBONES["tiny"], activations=(F.hardswish,))
    block = disturb(kind(plan, 0, 24, branch, **options)).eval()
    x = torch.randn(2, 24, 8, 6)
    return block, x, block(x, branch)


def test_blocks_are_those_of_their_papers():
    block, x, found = random_block(elastic.Bottleneck, elastic.Branch(24, 3, 4, True, 2), stride=2)
    y = F.hardswish(plain(block.conv1, x))
    y = F.hardswish(plain(block.conv2, y))
    y = block.attention(plain(block.conv3, y))
    close(found, F.hardswish(y + plain(block.project, x)))

    block, x, found = random_block(elastic.Basic, elastic.Branch(24, 3, 4, True))
    y = F.hardswish(plain(block.conv1, x))
    y = block.attention(plain(block.conv2, y))
    close(found, F.hardswish(x + y))

    block, x, found = random_block(elastic.Mobile, elastic.Branch(24, 3, 4, True, 2))
    y = F.hardswish(plain(block.conv1, x))
    y = F.hardswish(plain(block.conv2, y))
    close(found, x + plain(block.conv3, block.attention(y)))


def test_branches_of_hrnet_exchange_features_as_in_its_paper():
    unit = disturb(elastic.Exchange([4, 8, 12], 3)).eval()
    fine = torch.randn(2, 4, 16, 8)
    middle = torch.randn(2, 8, 8, 4)
    coarse = torch.randn(2, 12, 4, 2)
    found = unit([fine, middle, coarse], 3)
    up = plain(unit.paths["1 to 0"][0], middle).repeat_interleave(2, 2).repeat_interleave(2, 3)
    further = plain(unit.paths["2 to 0"][0], coarse).repeat_interleave(4, 2).repeat_interleave(4, 3)
    close(found[0], F.relu(fine + up + further))
    first, second = unit.paths["0 to 2"]
    down = plain(second, F.relu(plain(first, fine))) + plain(unit.paths["1 to 2"][0], middle)
    close(found[2], F.relu(coarse + down))


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_an_extracted_network_gives_the_supernets_outputs_at_the_counted_cost(name):
    space = SPACES[name].within(SPACES[name].largest())
    net = PoseNet(space)
    for part in net.modules():
        if isinstance(part, TemporalFusion | GlobalContext | elastic.SqueezeExcite):
            disturb(part, 0.1)
    images, heatmaps = torch.randn(4, 3, 64, 64), torch.rand(4, 17, 16, 16)
    net(images, space.largest(), heatmaps)  # running statistics that are not the initial ones
    rng = random.Random(0)
    for arch in [space.sample(rng) for _ in range(4)]:
        finished = net.eval().extract(arch)
        with FlopCounterMode(display=False) as counter:
            found = finished(images, heatmaps=heatmaps)
        close(found, net(images, arch, heatmaps))
        assert counter.get_total_flops() == 2 * len(images) * cost(arch, (64, 64)).macs
        assert sum(p.numel() for p in finished.parameters()) == cost(arch).params
        found = finished.train()(images, heatmaps=heatmaps)
        close(found, net.train()(images, arch, heatmaps), 1e-4)


PAPERS = [
    ("s_vipnas_resnet50", 7_286_772, 1.4644, 1.4298),
    ("s_vipnas_mobilenetv3", 5_895_725, 0.7342, 0.6909),
    ("sbl_resnet18", 15_376_721, 2.8972, 5.7920),
    ("sbl_resnet50", 33_999_697, 5.4264, 8.9912),
    ("hrnet_w32", 28_536_113, 7.6450, 7.1200),
]


@pytest.mark.parametrize("name, params, macs, gflops", PAPERS)
def test_the_cost_of_the_papers_networks(name, params, macs, gflops):
    found = cost(ARCHS[name])
    assert found.params == params == sum(p.numel() for p in PoseNet(ARCHS[name]).parameters())
    assert (round(found.macs / 1e9, 4), round(found.gflops, 4)) == (macs, gflops)


def test_a_network_inherits_the_slices_of_a_larger_one():
    large = PoseNet(TINY).eval()
    inner = TINY.within(TINY.smallest())
    net = PoseNet(inner).inherit(large).eval()
    images, heatmaps = torch.randn(1, 3, 64, 64), torch.rand(1, 17, 16, 16)
    # fresh fusions are the identity
    close(net(images, inner.largest(), heatmaps), large(images, TINY.smallest()))


# ------------------------------------------------------------------ vipnas.py: files, fast networks


def settled(arch):
    """A random network in eval mode, with fusions that matter and fitting running statistics."""
    net = PoseNet(arch)
    for module in list(net.modules()):
        if isinstance(module, TemporalFusion | GlobalContext):
            disturb(module, 0.02)
        if isinstance(module, ElasticBatchNorm2d):
            module.momentum = 1.0
    disturb(net.head.final, 0.1)
    height, width = net.space.image_size
    heatmaps = torch.rand(2, net.joints, height // 4, width // 4)
    net(torch.randn(2, 3, height, width), heatmaps=heatmaps)
    return net.eval()


def inner_arch(name):
    return SPACES[name].within(SPACES[name].largest()).sample(random.Random(2))


def assert_same_outputs(deployed, net, tolerance):
    """One image and three of the network's own size, and two of another."""
    size = net.space.image_size
    for count, (height, width) in ((1, size), (3, size), (2, (64, 96))):
        images = torch.randn(count, 3, height, width)
        heatmaps = torch.rand(count, net.joints, height // 4, width // 4)
        expected = net(images, heatmaps=heatmaps).detach()
        close(deployed(images, net.arch, heatmaps), expected, tolerance)


@pytest.mark.parametrize("name", ["s_vipnas_resnet50", "s_vipnas_mobilenetv3", *SPACES])
def test_torchscript_gives_the_same_at_any_size(name, monkeypatch):
    monkeypatch.setattr(vipnas.importlib.util, "find_spec", {}.get)  # no openvino
    net = settled(ARCHS[name] if name.startswith("s_") else inner_arch(name))
    deployed = vipnas.deploy(net)
    assert not any(isinstance(module, ElasticBatchNorm2d) for module in deployed.modules())
    assert "TorchScript" in deployed.runtime
    # random networks round off more than trained ones
    assert_same_outputs(deployed, net, 1e-3)


@pytest.mark.parametrize("name", ["s_vipnas_resnet50", "s_vipnas_mobilenetv3", "hrnet_w32", "tiny"])
def test_openvino_gives_the_same_at_any_size(name):
    pytest.importorskip("openvino")
    net = settled(ARCHS[name] if name.startswith("s_") else inner_arch(name))
    deployed = vipnas.deploy(net)
    assert "OpenVINO" in deployed.runtime
    # of a random ResNet eager PyTorch itself is 2e-4 off the outputs in float64
    assert_same_outputs(deployed, net, 5e-4 if "resnet" in name else 1e-4)


@pytest.mark.parametrize("threads", [{}, {"threads": 2}])
def test_a_stream_runs_on_one_thread_or_on_as_many_as_are_asked_for(threads):
    used = []
    net = FindsColours()
    net.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    stream = VideoPose([net], data.about(FOUR, SIZE), **threads).stream()
    with vipnas.use_threads(3):
        stream.step(figure((100, 100))[0])
        assert torch.get_num_threads() == 3
    assert used == [threads.get("threads", 1)]


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def as_published(net, name, head="head."):
    """The tensors of a network under mmpose's names; `head` is what a generation calls the head."""
    state = {}
    for ours, tensor in net.state_dict().items():
        theirs = vipnas._mmpose_name(name, ours).replace("head.", head)
        state[theirs] = tensor[:, None, None] if "attention.norm" in ours else tensor
    return state


@needs_samples
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenetv3"])
def test_published_networks_have_these_names_and_shapes(backbone):
    facts = read_json(SAMPLES.parent / f"facts/mmpose_{backbone}.json")
    expected = {key: shape for key, shape in facts.items() if "num_batches" not in key}
    name = f"s_vipnas_{backbone}"
    state = as_published(PoseNet(ARCHS[name]), name)
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected


PUBLISHED = [  # network, its word for the head, what wrappers add to names, where the tensors lie
    ("s_vipnas_resnet50", "head.", "", "state_dict"),
    ("s_vipnas_mobilenetv3", "keypoint_head.", "module.", "model"),
    ("s_vipnas_mobilenetv3", "head.", "module._orig_mod.", None),
]


@pytest.mark.parametrize("name, head, prefix, place", PUBLISHED)
def test_published_weights_are_found_where_people_put_them(name, head, prefix, place, tmp_path):
    net = settled(ARCHS[name])
    state = as_published(net, name, head)
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(3)
    state = {prefix + key: tensor for key, tensor in state.items()}
    torch.save({place: state, "epoch": 3} if place else state, f"{tmp_path}/a.pth")
    (found,), about = vipnas.load_networks(f"{tmp_path}/a.pth")
    assert found.arch == net.arch and not found.training
    torch.testing.assert_close(found.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert about["size"] == [256, 192] and about["cell"] == data.SBL_CELL


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "x": Attack()}, "a.pth", _use_new_zipfile_serialization=zipped)
    one_sentence("or save its tensors alone", vipnas.load_networks, "a.pth")
    assert os.listdir() == ["a.pth"]


def test_other_weights_than_the_published_ones_are_named(tmp_path):
    name = "s_vipnas_mobilenetv3"
    state = as_published(PoseNet(ARCHS[name]), name)
    state["head.final_layer.bias"] = torch.zeros(3)
    torch.save(state, f"{tmp_path}/a.pth")
    one_sentence("head.final.bias", vipnas.load_mmpose, f"{tmp_path}/a.pth")
    del state["head.final_layer.bias"]
    torch.save(state, f"{tmp_path}/a.pth")
    one_sentence("network has head.final_layer.bias", vipnas.load_mmpose, f"{tmp_path}/a.pth")


@pytest.fixture
def estimator():
    """A key frame's network and two of non-key frames, all random."""
    nets = [settled(arch) for arch in (TINY.smallest(), inner_arch("tiny"), inner_arch("tiny"))]
    return VideoPose(nets, data.about(data.COCO, (128, 96)))


@pytest.fixture
def finished(estimator, tmp_path):
    """The path of these networks."""
    vipnas.save_finished(tmp_path / "a.pt", estimator.nets, estimator.about)
    return tmp_path / "a.pt"


def test_finished_networks_come_back_as_they_were(estimator, finished):
    found, about = vipnas.load_networks(finished)
    assert about == estimator.about
    assert vipnas.read_archs(str(finished)) == [net.arch for net in estimator.nets]
    for net, same in zip(estimator.nets, found, strict=True):
        same_tensors(same, net.state_dict())
        assert not same.training


def test_architectures_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "arch.json"
    archs = [inner_arch(name) for name in SPACES]
    vipnas.write_archs(archs, file)
    assert vipnas.read_archs(str(file)) == archs
    assert "\n" not in str(archs) + archs[0].to_json()
    vipnas.write_archs(archs[0], file)
    assert vipnas.read_archs(str(file)) == [Arch.from_json(file.read_text())] == archs[:1]
    assert vipnas.read_archs("hrnet_w32") == [ARCHS["hrnet_w32"]]
    one_sentence("not the JSON", Arch.from_json, "{", error=ValueError)
    for text in ("[1]", "{", "[" * 99999, "[]"):
        file.write_text(text)
        one_sentence("arch.json", vipnas.read_archs, str(file))


def test_files_that_are_no_checkpoint_are_one_sentence(finished, tmp_path):
    file = tmp_path / "b.pt"
    one_sentence("no file", vipnas.load_networks, file)
    file.write_text("a text")
    one_sentence("truncated, not a checkpoint", vipnas.load_networks, file)
    torch.save({"kind": ["list"]}, file)
    one_sentence("finished checkpoint is needed", vipnas.load_networks, file)
    file.write_bytes(finished.read_bytes()[:50_000])
    one_sentence("truncated", vipnas.load_networks, file)


def test_a_checkpoint_that_lacks_something_is_one_sentence(finished):
    contents = vipnas.read_checkpoint(finished)
    changes = [{"about": {**contents["about"], "size": 128}}]
    changes += [{"about": {**contents["about"], "std": [1, 1, 1]}}]
    not_first = contents["networks"][1:]
    for networks in ([], [None], [{"arch": 3}], [{"arch": "[" * 9999}], not_first):
        changes += [{"networks": networks}]
    for change in changes:
        torch.save({**contents, **change}, finished)
        one_sentence("a.pt lacks a part .*make it again", vipnas.load_networks, finished)


@pytest.mark.parametrize("change", [torch.Tensor.log, torch.Tensor.tolist, torch.Tensor.sum])
def test_weights_that_do_not_fit_or_are_not_finite_are_named(finished, change):
    contents = vipnas.read_checkpoint(finished)
    state = contents["networks"][0]["state"]
    state["head.final.weight"] = change(state["head.final.weight"])
    torch.save(contents, finished)
    one_sentence("head.final.weight", vipnas.load_networks, finished)


def test_an_onnx_file_gives_the_same_for_any_number_of_images(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    nets = [settled(RESNET), settled(inner_arch("tiny"))]
    vipnas.export_onnx(nets, tmp_path / "net.onnx", data.about(data.COCO, (256, 192)))
    for t, net in enumerate(nets):
        session = onnxruntime.InferenceSession(tmp_path / f"net_{t}.onnx")
        for count in (1, 3):
            examples = vipnas.example_inputs(net)
            inputs = {name: torch.rand(count, *x.shape[1:]) for name, x in examples.items()}
            feed = {name: x.numpy() for name, x in inputs.items()}
            (found,) = session.run(None, feed)
            close(torch.from_numpy(found), net(**inputs).detach(), 1e-3)


@pytest.mark.parametrize("cell", [data.CELL, data.SBL_CELL])
def test_an_onnx_file_says_what_is_needed_to_use_it_outside(cell, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    net = settled(TINY.smallest())
    known = data.about(data.COCO, TINY.image_size, cell)
    vipnas.export_onnx([net], Path("net.onnx"), known)
    frame = data.render_clip("test", 0, 1, (200, 150))[0][0]
    Image.fromarray(frame).save("a.jpg")
    box = {"x": 70, "y": 50, "w": 60, "h": 90}
    pose = VideoPose([net], known).stream(tuple(box.values())).step("a.jpg")
    text = (HERE / "README.md").read_text()
    code = text[text.index("import json, numpy as np, onnxruntime") :].split("```")[0]
    exec(code, box)
    assert box["about"] == known
    # where two cells are nearly equal, the way to scale the crop decides
    assert np.median(np.abs(box["joints"] - pose[:, :2])) < 0.3 * 4 * box["scale"]


def test_without_the_package_onnx_there_is_one_sentence_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(vipnas.importlib.util, "find_spec", {}.get)
    net = PoseNet(TINY.smallest())
    one_sentence("pip install onnx", vipnas.export_onnx, [net], tmp_path / "net.onnx", {})
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------- vipnas.py: the video

SIZE = (128, 96)
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
BODY = np.array([(-15, -30), (15, -30), (-15, 30), (15, 30)])  # where they are in a figure
FOUR = data.Skeleton("four", ("a", "b", "c", "d"), ((0, 1), (2, 3)), (0.1,) * 4)
BOXES = [(70, 50, 60, 90), (270, 50, 60, 90)]  # of figures at (100, 100) and (300, 100)


def figure(*centres, size=(400, 200)):
    """A picture of people who have a coloured square at each of four joints, and the joints."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    joints = [np.array(centre) + BODY for centre in centres]
    for person in joints:
        for (x, y), colour in zip(person, COLOURS, strict=True):
            pixels[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = colour
    return Image.fromarray(pixels), np.stack(joints)


class FindsColours(torch.nn.Module):
    """A network that knows where the colours are; it ignores propagated heatmaps."""

    def __init__(self, count=4):
        super().__init__()
        self.count = count
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, arch=None, heatmaps=None):
        mean, std = torch.tensor(data.MEAN), torch.tensor(data.STD)
        pixels = 255 * (images.movedim(1, -1) * std + mean)  # (B, H, W, 3)
        joints = torch.zeros(len(images), self.count, 3)
        for b, image in enumerate(pixels):
            for k, colour in enumerate(COLOURS[: self.count]):
                y, x = ((image - torch.tensor(colour)).abs() < 128).all(-1).nonzero(as_tuple=True)
                if len(x):
                    joints[b, k] = torch.tensor([x.float().mean(), y.float().mean(), 2])
        return data.targets(joints, images.shape[2:])[0]


class Repeats(FindsColours):
    """A network of a non-key frame whose heatmaps are those that came in."""

    def forward(self, images, arch=None, heatmaps=None):
        return heatmaps


def follow(box, *nets):
    return VideoPose(nets, data.about(FOUR, SIZE)).stream(box)


def assert_at(pose, joints):
    assert np.abs(pose[:, :2] - joints).max() < 0.75


def test_a_key_frame_starts_again_and_so_does_a_box():
    image, joints = figure((100, 100), (300, 100))
    moved, (there, _) = figure((105, 100), (300, 100))
    stream = follow(BOXES, FindsColours(), Repeats(), Repeats())
    stream.step(image)
    assert_at(stream.step(moved)[0], joints[0])  # this network does not look at the picture
    poses = stream.step(moved, [None, np.array(BOXES[0])])  # the second box is the first's now
    assert stream.t == 0
    assert_at(poses[0], there)
    assert_at(poses[1], there)


def test_a_lost_person_keeps_their_window_then_is_left_out_until_a_box_comes():
    stream = follow(BOXES, *[FindsColours()] * 3)
    both, joints = figure((100, 100), (300, 100))
    one, _ = figure((100, 100))
    stream.step(both)
    box = stream.boxes[1]
    stream.step(one)
    assert stream.lost.tolist() == [False, True] and stream.boxes[1] == box
    assert_at(stream.step(both)[1], joints[1])  # back before the next key frame
    for _ in range(3):
        stream.step(one)
    poses = stream.step(both)
    assert stream.t == 0 and stream.lost.tolist() == [False, True]
    assert np.isnan(poses[1]).all() and np.isfinite(poses[0]).all()
    poses = stream.step(both, [None, np.array(BOXES[1])])
    assert_at(poses[1], joints[1])


def test_frames_of_another_size_need_a_box_which_makes_them_key_frames():
    image, (joints,) = figure((100, 100))
    narrow = image.resize((300, 200))
    stream = follow(BOXES[0], FindsColours(), Repeats(), FindsColours())
    stream.step(image)
    one_sentence("hand `step` a box", stream.step, narrow)
    assert_at(stream.step(image), joints)  # as if nothing had happened
    assert stream.t == 1
    assert_at(stream.step(narrow, (52, 50, 45, 90)), joints * (0.75, 1))
    assert stream.t == 0


def test_a_published_network_sees_mmposes_window():
    about = data.about(FOUR, SIZE, data.SBL_CELL)
    stream = VideoPose([FindsColours()], about).stream(BOXES)
    stream.step(figure((100, 100))[0])
    expected = [data.crop_matrix(box, SIZE, cell=data.SBL_CELL) for box in BOXES]
    assert np.array_equal(stream.last.matrices, expected)


def test_what_is_no_box_is_one_sentence():
    for box in ((1, 2, 3), (1, 2, 0, 4), [BOXES[0], (1, 2, 3, -4)]):
        one_sentence("box", follow, box, FindsColours())


def test_boxes_for_another_number_of_people_start_anew_and_none_are_nobody():
    image, joints = figure((100, 100), (300, 100))
    stream = follow([], FindsColours(), Repeats())
    for box in (None, []):
        assert stream.step(image, box).shape == (0, 4, 3)
        assert len(stream.lost) == len(stream.boxes) == 0
    assert_at(stream.step(image, BOXES)[1], joints[1])
    stream.step(image, [None])
    assert stream.last.matrices.shape == (1, 2, 3) and not stream.is_single
    stream.step(image, BOXES)
    assert_at(stream.step(image, BOXES[1]), joints[1])  # (K, 3), as of a stream of one box
    assert stream.step(image, []).shape == (0, 4, 3)
    one_sentence("no area", stream.step, image, [BOXES[0], (1, 2, 0, 4)])
    assert stream.step(image.resize((90, 60))).shape == (0, 4, 3)


def test_a_stream_finds_what_the_training_path_finds_for_all_its_people(estimator):
    frames = data.render_clip("test", 0, 3, (200, 150))[0]
    stream = estimator.stream([(10.6, 39.8, 76.9, 102.4), (-20, -30, 180, 250)])
    found, matrices, images = [], [], []
    for frame in frames:
        found.append(stream.step(frame))
        matrices.append(torch.from_numpy(stream.last.matrices))
        image = Image.fromarray(frame)
        crops = [data.crop(image, matrix, SIZE) for matrix in stream.last.matrices]
        images.append(data.normalise(torch.stack(crops)))
    matrices = torch.stack(matrices, dim=1)  # (N, F, 2, 3)
    images = torch.stack(images, dim=1)
    heatmaps = fusion.propagate(estimator.nets, images, matrices, None, data.CELL)
    expected = data.transform(data.decode(heatmaps.detach()), data.invert(matrices))
    distance = np.abs(np.stack(found, axis=1) - expected)
    assert np.median(distance) < 1e-3 and (distance < 0.01).mean() > 0.9  # there are ties


def command(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["vipnas.py", *words.split()])
    vipnas.main()


@needs_samples
def test_a_real_video_is_run_by_command(finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = f"--video {SAMPLES}/video --checkpoint {finished} --out {out}"
    command(monkeypatch, f"{words} --box 356,270,208,314 --box=-9,9,99,99")
    printed = capsys.readouterr().out
    assert len(re.findall("frame [0-9]: key", printed)) == 2
    assert len(re.findall("key [0-9.]+ ms", printed.splitlines()[-1])) == 2
    poses = read_json(f"{out}/poses.json")
    assert len(poses["images"]) == 5 and len(poses["annotations"]) == 10
    assert poses["categories"][0]["keypoints"] == list(data.COCO.joints)
    gif = Image.open(f"{out}/overlay.gif")
    assert gif.n_frames == len(list(out.glob("*.png"))) == 5 and max(gif.size) == 480


@pytest.mark.parametrize("joints, fewest", [(1, 1), (2, 2), (8, 2), (9, 3)])
def test_who_shows_a_quarter_of_the_joints_and_two_is_not_lost(joints, fewest):
    pose = np.column_stack([5 + np.arange(joints), 3 * np.ones(joints), np.zeros(joints)])
    for seen in range(joints + 1):
        pose[:seen, 2] = 1
        is_lost = vipnas.box_around(pose, (99, 99), (8, 6)) is None
        assert is_lost == (seen < fewest)


def test_a_lost_persons_box_grows_to_the_frame():
    assert vipnas.grow((40, 40, 80, 40), (400, 300)) == (30, 35, 100, 50)
    assert vipnas.grow((-9, -9, 80, 40), (200, 30)) == (0, 0, 100, 30)
    assert vipnas.grow((500, 5, 80, 40), (400, 300)) == (0, 0, 400, 300)  # was outside


def test_a_single_joint_keeps_the_size_of_its_box_when_it_is_found_again():
    one = data.Skeleton("one", ("a",), (), (0.1,))
    stream = VideoPose([FindsColours(1)], data.about(one, SIZE)).stream((70, 50, 60, 90))
    stream.step(figure((100, 100))[0])
    assert np.allclose(stream.boxes[0], (55, 25, 60, 90), atol=1)  # red is at (85, 70)
    image = figure((300, 120))[0]
    stream.step(image)
    while stream.lost[0]:
        box = vipnas.grow(stream.boxes[0], image.size)
        stream.step(image, box)
    assert box[2] > 200 and np.allclose(stream.boxes[0], (255, 45, 60, 90), atol=3)


def test_the_command_searches_for_lost_people_in_growing_windows(tmp_path, monkeypatch, capsys):
    for t in range(25):
        person = (30, 100) if t < 3 else (180 + t, 110)
        figure(person, (700 + 2 * t, 100), size=(800, 200))[0].save(tmp_path / f"{t}.png")
    pose = VideoPose([FindsColours()] * 3, data.about(FOUR, SIZE))
    monkeypatch.setattr(VideoPose, "load", {"net.pt": pose}.get)
    monkeypatch.setattr(vipnas, "GIF_FRAMES", 3)
    words = f"--video {tmp_path} --checkpoint net.pt --out {tmp_path}/out --box=670,50,60,90 --box"
    command(monkeypatch, f"{words} -5,50,60,90")
    page = read_json(f"{tmp_path}/out/poses.json")
    assert [image["id"] for image in page["images"]] == list(range(25))
    last = [np.reshape(entry["keypoints"], (4, 3)) for entry in page["annotations"][-2:]]
    for pose, joints in zip(last, figure((748, 100), (204, 110))[1], strict=True):
        assert_at(pose, joints)
    # of a long video the GIF shows the first frames
    assert Image.open(f"{tmp_path}/out/overlay.gif").n_frames == 3
    with pytest.raises(SystemExit):
        command(monkeypatch, f"{words} 1,2,3")
    assert "--box: it is x,y,w,h" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_files_of_several_frames_are_videos(name, tmp_path):
    pictures = [figure((x, 40))[0] for x in (20, 25, 30)]
    frames = [picture.quantize(8).convert("RGB") for picture in pictures]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    found = [frame for _, frame in vipnas.read_video(tmp_path / name)]
    assert np.array_equal(found, frames)


ORDERS = ["cam1.9 cam1.10 cam2.1", "0.10 0.9 1 1.05 10.0", "1 a9_10 a9_11.5 a10_2 a10_b"]
ORDERS += ["cam0_1699999999.5 cam0_1700000000 cam0_1700000000.10 cam0_1700000000.9"]


@pytest.mark.parametrize("order", ORDERS)
def test_frames_are_in_the_order_of_their_numbers(order):
    paths = [Path(f"{name}.png") for name in order.split()]
    backwards = paths[::-1]
    assert sorted(backwards, key=data.by_number) == paths


def test_pictures_of_every_kind_are_frames_and_what_else_is_there_is_told(tmp_path, capsys):
    first, second = [figure((x, 40))[0] for x in (20, 60)]
    names = ["0.jfif", "1.PNM", "2.tga", "3.pcx", "4.gif", "5.tif"]
    for name in names[:5]:
        first.convert("L").convert("RGB").save(tmp_path / name)
    first.save(tmp_path / "5.tif", save_all=True, append_images=[second])
    for other in ("a.mp4", "b.h5", "c.txt", "d.eps", ".hidden.png"):
        (tmp_path / other).touch()
    (tmp_path / "e.png").mkdir()
    found = list(vipnas.read_video(tmp_path))
    assert [name for name, _ in found] == [f"{tmp_path.name}/{name}" for name in names]
    assert np.array_equal(found[-1][1], first)
    left_out, pages = capsys.readouterr().out.splitlines()
    assert left_out.endswith("left out 5 that are no pictures: a.mp4, b.h5, c.txt, ...")
    assert "several pages" in pages


def test_previews_among_the_pages_of_a_file_are_no_frames(tmp_path, capsys):
    pages = [figure((x, 40))[0] for x in (20, 40, 60)]
    pages[0].save(tmp_path / "a.png", save_all=True, append_images=pages[1:], default_image=True)
    assert np.array_equal([frame for _, frame in vipnas.read_video(tmp_path / "a.png")], pages[1:])
    small = [page.reduce(2) for page in pages[:2]]
    reduced = pages[2].copy()
    reduced.encoderinfo = {"tiffinfo": {254: 1}}
    more = [small[0], pages[1], small[1], reduced]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=more)
    assert np.array_equal([frame for _, frame in vipnas.read_video(tmp_path / "a.tif")], pages[:2])
    assert "or previews: 3" in capsys.readouterr().out


def test_a_film_is_not_decoded_but_told_how_to_make_images_of(tmp_path):
    figure((50, 50))[0].save(tmp_path / "a.MKV", "png")  # it could be read
    one_sentence("ffmpeg -i a.MKV frames", list, vipnas.read_video(tmp_path / "a.MKV"))


def test_the_frames_before_a_corrupt_one_are_written(finished, tmp_path):
    video, out = tmp_path / "video", tmp_path / "out"
    one_sentence("no picture", list, vipnas.read_video(video))
    video.mkdir()
    for t in (8, 9):
        figure((100, 100))[0].save(video / f"{t}.png")
    (video / "10.png").touch()
    run = (vipnas.run_video, video, finished, [None])
    one_sentence("10.png is missing, damaged or no picture", *run, out)
    assert len(read_json(f"{out}/poses.json")["images"]) == 2
    assert Image.open(f"{out}/overlay.gif").n_frames == 2
    one_sentence("the video lies in --out", *run, video)


def test_the_commands_show_architectures_and_spaces(monkeypatch, capsys, tmp_path):
    command(monkeypatch, "")
    assert {*ARCHS, *SPACES, "28,536,113"} <= {*capsys.readouterr().out.split()}
    command(monkeypatch, f"--arch hrnet_w32 --picture {tmp_path}/a.png")
    printed = capsys.readouterr().out
    assert "28,536,113" in printed and "stage 4" in printed
    for words in ("--video x", "--checkpoint x", "--video x --checkpoint x --onnx x"):
        one_sentence("--checkpoint FILE goes with", command, monkeypatch, words)


@pytest.mark.parametrize("frames", [1, 3])
def test_the_picture_shows_fusions_in_red(frames, tmp_path):
    archs = [TINY.smallest(), inner_arch("tiny"), inner_arch("tiny")]
    vipnas.picture(archs[:frames], f"{tmp_path}/a.png")
    red = (np.asarray(Image.open(f"{tmp_path}/a.png")) == vipnas.FUSION_RED).all(-1)
    assert red.any() == (frames > 1)


# ------------------------------------------------------------------------------ search.py: sampling
def total_gflops(archs, space):
    return sum(cost(arch, space.image_size).gflops for arch in archs)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("frames", [1, 3])
def test_candidates_lie_in_the_band_below_the_budget(name, frames):
    space = SPACES[name]
    budget = train.BUDGETS[name]["s"]  # the paper's
    if frames > 1:
        space = space.within(space.sample(random.Random(0)))
        budget = total_gflops([space.smallest()] * 2 + [space.largest()], space)
    for band in (0.9, 0.98):
        found = search.allocate(space, frames, budget, 6, random.Random(0), band=band)
        assert len(set(found)) == 6
        for archs in found:
            assert len(archs) == frames and all(arch in space for arch in archs)
            assert band * budget <= total_gflops(archs, space) <= budget


def small_space():
    """A few hundred architectures, not equally likely: most widths have two group numbers."""
    first, second, *_ = TINY.stages
    line = replace(second.branches[0], groups=(32, 48, 64, 96, 144), most_per_group=2)
    fixed = Space.of(TINY.smallest()).stages
    return replace(TINY, stages=(first, second._replace(branches=(line,)), *fixed[2:]))


@pytest.mark.parametrize("frames", [1, 2])
def test_candidates_are_distributed_as_samples_in_the_band(frames):
    space = small_space()
    budget = total_gflops([space.sample(random.Random(0))] * frames, space)
    rng = random.Random(0)
    # the first frame's architecture, in blind samples that lie in the band and in the walk
    blind = [[space.sample(rng) for _ in range(frames)] for _ in range(24_000 // frames)]
    inside = [a[0] for a in blind if 0.9 * budget <= total_gflops(a, space) <= budget]
    price = search.price_in_gflops(space)
    walk = search.random_walk(space, [space.smallest()] * frames, budget, rng, price)
    apart = 5 * space.decisions() * frames
    walked = [archs[0] for archs in itertools.islice(walk, 0, 2400 // frames * apart, apart)]
    counts = [(inside.count(arch), walked.count(arch)) for arch in set(inside + walked)]
    often = [pair for pair in counts if sum(pair) > 20]
    assert len(often) > 20
    assert chi2_contingency(often).pvalue > 0.001


def count_blocks(arch):
    return sum(stage.depth for stage in arch.stages)


def test_any_function_is_a_price_and_a_budget_above_everything_is_told(capsys):
    data.say_once.cache_clear()
    most = 2 * count_blocks(TINY.largest())
    search.allocate(TINY, 2, most, 5, random.Random(0), count_blocks)
    assert not capsys.readouterr().out
    for archs in search.allocate(TINY, 2, 99, 5, random.Random(0), count_blocks):
        assert 0.9 * most <= sum(map(count_blocks, archs)) <= most
    assert (
        f"a budget of 99 is above 2 x the largest architecture, {most / 2:g}"
        in capsys.readouterr().out
    )


def test_where_nothing_lies_in_the_band_the_closest_is_drawn():
    space = Space.of(TINY.smallest())
    first = space.stages[0]._replace(depth=(1, 2))  # in all 4 or 5 blocks
    space = replace(space, stages=(first, *space.stages[1:]))
    assert search.sample(space, 4.9, 3, random.Random(0), count_blocks) == [space.smallest()]


T_BUDGETS = [(0.8, 3), (1.2, 3), (1.0, 2), (1.0, 4)]  # Fig. 6, Table 4


@pytest.mark.parametrize("budget, frames", T_BUDGETS)
@pytest.mark.parametrize("shared", [False, True])
def test_the_papers_budgets_for_t_act_and_count_the_key_frame(budget, frames, shared):
    space = SPACES["resnet50"].within(RESNET)
    left = (frames + 1) * budget - total_gflops([RESNET], space)  # eq. (3)
    for archs in search.draw_candidates(space, budget, 6, 0, 17, frames, RESNET, shared):
        assert 0.9 * left <= total_gflops(archs, space) <= left
        assert (len(set(archs)) == 1) == shared


# ---------------------------------------------------------------------- search.py: running networks
def test_calibration_and_validation_clips_are_random_ones_from_everywhere(people):
    clips = data.SyntheticClips("train", 150, 2, workers=1)
    indices = search.calibration_set(clips, CPU, 0, PoseNet(TINY.smallest()).eval()).indices
    assert len(set(indices)) == 64 and min(indices) < 15 and max(indices) > 135
    assert len(search.calibration_set(clips, CPU, 0).indices) == 150  # of 256 for S
    val = search.validation_set(people, CPU, seed=0)
    assert sorted(val.indices) == list(range(24)) != val.indices and val.number_of_batches >= 16


def test_statistics_are_the_mean_over_the_batches_and_found_once(people):
    clips = search.EvaluationSet(people, CPU, batch_size=8)
    measured = {}
    for calibration in (clips, None):
        (net,) = search.extract_calibrated(PoseNet(TINY), [TINY.smallest()], calibration, measured)
        norm = net.stem.conv1.norm
        assert not net.training and norm.momentum == 0.1
        if calibration:
            features = [net.stem.conv1.conv(images[:, 0]) for images, _, _ in clips.batches()]
        close(norm.running_mean, torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0), 1e-4)
        close(norm.running_var, torch.stack([f.var((0, 2, 3)) for f in features]).mean(0), 1e-3)


def test_keypoints_are_found_through_the_window_of_each_frame_and_in_the_order_asked(people):
    clips = people.head(3)
    clips.boxes = clips.boxes + np.arange(4)[:, None] * [4, 3, 5, 2]
    order = [2, 0, 1]
    heatmaps, _ = data.targets(clips.batch(order).joints, clips.size)  # (3, 4, 17, 32, 24)
    frames = iter(range(4))

    def perfect(*inputs):
        return heatmaps[:, next(frames)]

    evaluation = search.EvaluationSet(clips, CPU, order, key_net=perfect)
    found = search.predict([perfect] * 3, evaluation)
    assert np.median(np.abs(found - clips.joints[order, 1:])[..., :2]) < 0.2
    accuracy = search.oks_accuracy(found, clips, order, evaluation.first)
    assert accuracy.shape == (3, 3) and search.percent(accuracy) > 60


def test_the_flip_test_averages_with_the_mirrored_image():
    clips = data.SyntheticClips("val", 2, 1)
    net = PoseNet(TINY.smallest()).eval()
    images = data.normalise(clips.batch([0, 1]).images)[:, 0]
    mirrored = data.flip_heatmaps(net(images.flip(-1)), data.COCO.flip)
    expected = data.decode((net(images) + mirrored).detach() / 2).numpy()
    found = search.predict([net], search.EvaluationSet(clips, CPU), flip=True)
    assert np.abs(found[:, 0] - expected).max() < 1e-3


# ---------------------------------------------------------------------------- search.py: the search
@pytest.fixture
def rigged(people, monkeypatch):
    """A function that runs a search in which candidate number i misses all joints by i pixels."""
    candidates = [(arch,) for arch in search.sample(TINY, 0.02, 12, random.Random(0))]
    clips = people.head(16)
    val = search.validation_set(clips, CPU, seed=0)

    def extract(supernet, archs, calibration, measured):
        return archs

    def predict(archs, evaluation, start, stop):
        indices = evaluation.indices_of(start, stop)
        return clips.joints[indices, :1] + [candidates.index(archs), 0, 0]

    def run(path, plain=False):
        running = search.Search(PoseNet(TINY), candidates, val, None, {}, path)
        running.run(plain)
        return running.table

    monkeypatch.setattr(search, "extract_calibrated", extract)
    monkeypatch.setattr(search, "predict", predict)
    return run


def test_the_better_half_goes_on_and_finds_what_the_plain_search_finds(rigged, tmp_path):
    table = rigged(tmp_path / "a.json")
    assert [len(row["rounds"]) for row in table] == [5, 4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert [row["people"] for row in table[:2]] == [[16], [8]]
    plain = rigged(tmp_path / "b.json", plain=True)
    assert [row["people"] for row in plain] == [[16]] * 12
    assert search.best(table) == search.best(plain) == 0
    assert table[0]["ap"] == pytest.approx(plain[0]["ap"])


def test_an_interrupted_search_goes_on_and_ends_the_same(rigged, tmp_path, monkeypatch):
    whole = rigged(tmp_path / "whole.json")
    write_json = data.write_json
    written = []

    def write_and_stop(contents, path):
        write_json(contents, path)
        written.append(path)
        if len(written) in (1, 12, 13, 20):
            raise KeyboardInterrupt

    monkeypatch.setattr(data, "write_json", write_and_stop)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            rigged(tmp_path / "a.json")
    assert rigged(tmp_path / "a.json") == whole
    assert len(written) == 24  # 12 + 6 + 3 + 2 + 1: no candidate is evaluated twice


def test_on_real_data_their_own_ap_on_all_clips_decides(exports, tmp_path, monkeypatch):
    def own_ap(keypoints, evaluation):
        asked.append(keypoints.shape)
        return 77.0

    asked = []
    monkeypatch.setattr(search, "own_ap", own_ap)
    val = search.validation_set(read_coco(exports), CPU, 0)
    supernet = PoseNet(TINY)
    for _ in range(2):  # the second time the table is complete
        _, table = search.find(supernet, 0.02, 3, val, val, tmp_path, 0)
        assert table[search.best(table)]["ap"] == 77
        assert asked == [(2, 1, 17, 3)]  # of one candidate, on all clips
    kept = Path(tmp_path, "search.json").read_bytes()
    disturb(supernet.head.final)  # another super-network is another search
    one_sentence("of another search", search.find, supernet, 0.02, 3, val, val, tmp_path, 0)
    assert Path(tmp_path, "search.json").read_bytes() == kept


def test_of_a_chain_only_the_people_in_non_key_frames_count(exports):
    clips = data.PoseTrackClips(exports / "posetrack", "val", 4, (128, 96))
    val = search.validation_set(clips, CPU, 0, PoseNet(TINY.smallest()).eval())
    truth = clips.joints[val.indices]  # (N, 4, K, 3)
    # somebody whose key frame is another person's non-key frame
    other = {**clips.annotations["annotations"][1], "track_id": 7, "keypoints": [9] * 51}
    clips.annotations["annotations"].append(other)
    assert search.own_ap(truth[:, 1:], val) == 100
    every_frame = search.EvaluationSet(clips, CPU, val.indices)
    assert search.own_ap(truth, every_frame) == 100
    truth[:, 1:, :, :2] = 0
    assert 0 < search.own_ap(truth, every_frame) < 60


# -------------------------------------------------------------------------- search.py: the commands
SEARCHES = {"s": 1, "t --frames 2": 3, "t --shared --plain": 4}  # and how many networks they save


@pytest.mark.parametrize("words, frames", SEARCHES.items())
def test_a_supernet_is_searched_again(runs, tmp_path, capsys, words, frames):
    stage = words[0]
    more = f"--gflops .016 --candidates 3 --out {tmp_path} {words[1:]}"
    search.main(f"--checkpoint {runs}/{stage}/supernet.pt {more}".split())
    nets, _ = vipnas.load_networks(tmp_path / f"vipnas_{stage}.pt")
    archs = vipnas.read_archs(f"{tmp_path}/arch.json")
    assert len(nets) == frames and [net.arch for net in nets[-len(archs) :]] == archs
    assert len(set(archs)) == (2 if frames == 3 else 1)
    average = sum(cost(net.arch, (128, 96)).gflops for net in nets) / frames
    assert 0.014 < average <= 0.016
    assert f"{average:9.4f}" in capsys.readouterr().out
    page = read_json(f"{tmp_path}/search.json")
    found = page["candidates"][page["best"]]
    assert found["archs"] == [json.loads(arch.to_json()) for arch in archs]
    assert page["clips"][1] == 16  # all of val, as the run had it
    assert Image.open(f"{tmp_path}/search.png").size == (720, 480)


def test_a_search_on_real_data_ends_with_official_numbers(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports)
    small = "--stage s --batch 2 --candidates 2 --steps 1 --out run"
    run_train(f"{small} --data coco --root coco")
    again = "--checkpoint run/supernet.pt --gflops .016 --candidates 2 --out again"
    boxes = "--boxes coco/annotations/person_detections_val2017.json"
    for words, people in {"": "", boxes: ", detected boxes"}.items():
        capsys.readouterr()
        search.main(f"{again} {words}".split())
        assert f"val2017{people}, official evaluation of " in capsys.readouterr().out
        os.remove("again/results.json")  # it was written
    search.main(f"{again} --no-official".split())
    assert "official" not in capsys.readouterr().out
    one_sentence("--boxes", search.main, f"{again} --boxes x.json".split(), error=SystemExit)


def test_the_average_frame_is_that_of_the_people_who_are_there(
    exports, videos, monkeypatch, capsys
):
    monkeypatch.setattr(vipnas, "frame_times", lambda nets: [8.0, 2.0, 2.0])
    with edited(videos[0]) as page:  # this person leaves after four of six frames
        page["annotations"] = page["annotations"][:4]
    clips = read_posetrack(exports, "test", 3)
    assert clips.frame_counts().tolist() == [4, 3, 3]
    nets = [PoseNet(arch) for arch in (TINY.largest(), TINY.smallest(), TINY.smallest())]
    costs = search.show_frames(nets, {"size": (128, 96)}, clips)
    assert costs["ms"] == [8, 2, 2, pytest.approx(4.4)]  # (4 x 8 + 6 x 2) / 10
    large, small, _, average = costs["gflops"]
    assert average == pytest.approx(0.4 * large + 0.6 * small)
    assert "40.0 % of the frames are key frames" in capsys.readouterr().out


REFUSED_BY_SEARCH = {
    "s/supernet.pt": "give --gflops",
    "s/supernet.pt --gflops nan": "--gflops: nan is no number above zero",
    "t/supernet.pt --gflops .001": "3 of the smallest",
    "s/supernet.pt --gflops 1 --frames 2": "--frames belongs to a search for T-ViPNAS",
    "s/vipnas_s.pt --gflops 1": "a supernet checkpoint is needed",
    "s/vipnas_s.pt --data coco --plain": "--plain belongs to a search",
    "s/vipnas_s.pt --data coco": "give --root",
    "s/vipnas_s.pt --data coco --no-official": "--no-official belongs to a search",
    "t/supernet.pt --gflops 1 --boxes x": "--boxes belongs to COCO's official numbers",
    "s/supernet.pt --gflops 1 --out RUNS/t": "is the folder of a training run",
    "s/supernet.pt --gflops 1 --split test-dev2017": "--split belongs to a finished network",
    "t/vipnas_t.pt --data coco --root x": "no videos",
    "s/vipnas_s.pt --data posetrack --root EXPORTS/posetrack": "other joints than PoseTrack18",
}


@pytest.mark.parametrize("words", REFUSED_BY_SEARCH)
def test_what_search_py_cannot_do_is_one_sentence(runs, exported, words):
    words_here = words.replace("EXPORTS", str(exported)).replace("RUNS", str(runs))
    arguments = f"--checkpoint {runs}/{words_here}".split()
    one_sentence(REFUSED_BY_SEARCH[words], search.main, arguments, error=SystemExit)


def test_numbers_are_printed_before_files_are_written(runs, exports, monkeypatch, capsys):
    monkeypatch.setattr(vipnas, "save_finished", None)
    words = f"--checkpoint {runs}/s/supernet.pt --gflops .016 --candidates 2 --out {exports}"
    with pytest.raises(TypeError):
        search.main(words.split())
    clips = data.PoseTrackClips(exports / "posetrack", "val", 1, (128, 96))
    nets = [PoseNet(TINY.smallest()).eval()]
    one_sentence("cannot be written", search.official, nets, clips, CPU, "/proc/a")
    printed = capsys.readouterr().out
    assert re.search("key frame .*\nval AP [0-9.]+\n", printed) and " Total\n" in printed


# ----------------------------------------------------------------------------------------- train.py

INNER = TINY.within(TINY.largest())  # what a stage t searches in


def examples_of(people, frames):
    """Four synthetic clips, in double precision, of which `frames` frames are to be predicted."""
    key_net = PoseNet(TINY.smallest()).eval() if frames > 1 else None
    examples = train.make_examples(people.batch(range(4)), people, frames, key_net, CPU)
    key_frame = examples.key_frame
    if key_frame:
        key_frame = key_frame._replace(heatmaps=key_frame.heatmaps.double())
    doubles = {name: getattr(examples, name).double() for name in ("images", "targets", "weights")}
    return examples._replace(key_frame=key_frame, **doubles)


@pytest.fixture
def chains(monkeypatch):
    """A list that gets the architectures of every subnet that is trained."""
    chains = []
    predict_chain = train.predict_chain

    def record(nets, archs, *others):
        chains.append(archs)
        return predict_chain(nets, archs, *others)

    monkeypatch.setattr(train, "predict_chain", record)
    return chains


def step(nets, examples, through=False):
    """One step of plain gradient descent: the weights change by minus the gradients."""
    optimizer = torch.optim.SGD(torch.nn.ModuleList(nets).parameters(), lr=1.0)
    return train.train_step(nets, examples, optimizer, random.Random(0), through)


def test_the_sandwich_is_largest_smallest_and_two_random_chains(people, chains):
    step([PoseNet(INNER).double()] * 3, examples_of(people, 3))
    largest, smallest, *others = chains
    for chain, end in ((largest, INNER.largest()), (smallest, INNER.smallest())):
        assert [replace(arch, fusion=end.fusion) for arch in chain] == [end] * 3
        assert len({arch.fusion for arch in chain}) > 1
    assert len(others) == 2
    assert all(len(set(chain)) == 3 for chain in others)  # every frame draws its own


def test_networks_that_train_alone_learn_from_the_ground_truth_alone(people, chains):
    nets = [PoseNet(INNER.sample(random.Random(t))).double() for t in range(3)]
    assert len(step(nets, examples_of(people, 3))) == 1
    assert chains == [[net.arch for net in nets]]


def loss_by_hand(net, archs, examples, teacher, through):
    """The loss of one chain, written out (synthetic people have one window for all frames)."""
    heatmaps = examples.key_frame and examples.key_frame.heatmaps
    predicted = []
    for t, arch in enumerate(archs):
        predicted.append(net(examples.images[:, t], arch, heatmaps))
        heatmaps = predicted[-1] if through else predicted[-1].detach()
    predicted = torch.stack(predicted, 1)
    error = ((predicted - examples.targets) ** 2).mean((3, 4))
    loss = 1000 * (error * examples.weights).mean()
    if teacher is not None and train.DISTILL:
        loss = loss / 2 + 1000 * ((predicted - teacher) ** 2).mean() / 2
    return loss, predicted.detach()


@pytest.mark.parametrize("through, distill", [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize("space, frames", [(TINY, 1), (INNER, 3)])  # stage s, stage t
def test_a_step_distills_in_place(people, chains, monkeypatch, space, frames, through, distill):
    monkeypatch.setattr(train, "DISTILL", distill)
    net = PoseNet(space).double()
    disturb(net.fusions, 0.1)
    examples = examples_of(people, frames)
    examples.weights[..., :5] = 0  # joints without truth are still learnt from the largest subnet
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    step([net] * frames, examples, through)
    after = {name: p.detach().clone() for name, p in net.named_parameters()}

    net.load_state_dict(before, strict=False)
    teacher = None
    for archs in chains:
        loss, predicted = loss_by_hand(net, archs, examples, teacher, through)
        loss.backward()
        teacher = predicted if teacher is None else teacher
    for name, p in net.named_parameters():
        close(after[name], before[name] - (0 if p.grad is None else p.grad), 1e-9)


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_is_for_gpus_that_have_it(monkeypatch, has_it):
    kinds = []
    monkeypatch.setattr(torch, "autocast", lambda *kind, enabled: kinds.append((*kind, enabled)))
    supported = {True: True, False: has_it}  # including emulation, or not

    def is_supported(including_emulation):
        return supported[including_emulation]

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    for kind in ("cuda", "cpu"):
        train.mixed_precision(torch.device(kind))
    assert kinds == [("cuda", torch.bfloat16, has_it), ("cpu", torch.bfloat16, False)]


T_BUDGET = [("resnet50", 1.43, 0.82), ("mobilenetv3", 0.6909, 0.37)]  # Table 1
T_BUDGET += [
    ("resnet50", 1.0, 0.57),
    ("resnet50", 2.0, 1.14),
    ("tiny", 0.02, 0.0114),
    ("hrnet_w32", 5.0, 2.85),
]  # a fraction


@pytest.mark.parametrize("backbone, key_gflops, expected", T_BUDGET)
def test_t_has_the_budget_of_table_1_or_a_fraction_of_s(backbone, key_gflops, expected):
    options = train.read_options(["--stage", "t", "--data", "posetrack", "--root", "x"])
    train.fill_in(options, backbone, key_gflops)
    assert options.gflops == pytest.approx(expected)


THROUGH = {"": None, "--through": True, "--data posetrack --root x": True}
THROUGH["--data posetrack --root x --no-through"] = False


@pytest.mark.parametrize("words", THROUGH)
def test_gradients_flow_through_the_chain_on_real_data_or_where_asked(words):
    assert options_of(f"--stage t {words}").through == THROUGH[words]


def options_of(words):
    """The options of a command line in the space tiny."""
    options = train.read_options(words.split())
    train.fill_in(options, "tiny", key_gflops=0.02)
    return options


RATES = {
    "--stage s --data coco --root x": {0: 1, 799: 1, 800: 0.1, 919: 0.1, 920: 0.01},
    "--stage s --data coco --root x --epochs 140 --milestones 90 120": {
        642: 1,
        643: 0.1,
        858: 0.01,
    },
    "--stage t --data posetrack --root x": {0: 1, 500: 0.5, 999: 0},
    "--stage t": {0: 0.01, 99: 0.976, 500: 0.5},  # ours rises at first
}


@pytest.mark.parametrize("words, expected", RATES.items())
def test_the_learning_rates_fall_as_in_the_paper(words, expected):
    options = options_of(f"{words} --lr 1")
    rates = {step: train.learning_rate(step, 1000, options) for step in expected}
    assert rates == pytest.approx(expected, abs=1e-3)


def test_a_batch_follows_from_seed_and_position_alone(people):
    batches = train.TrainingBatches(people, options_of("--stage s --batch 2"))
    expected = torch.cat([batches[2].images, batches[3].images])
    twice = train.TrainingBatches(people, options_of("--stage s --batch 4"))
    assert torch.equal(twice[1].images, expected)
    epochs = [train.shuffled(0, epoch, 24) for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24))
    assert epochs[0] != epochs[1]


def test_crops_without_known_sides_are_not_mirrored_but_else_the_same(people):
    options = options_of("--stage s --batch 16 --rotation 20")
    expected = train.TrainingBatches(people, options)[0].matrices
    people = people.head(24)
    people.skeleton = own_skeleton(" ".join(map(str, range(17))))
    matrices = train.TrainingBatches(people, options)[0].matrices
    assert (expected[..., :2].det() < 0).any() and (matrices[..., :2].det() > 0).all()
    assert torch.equal(matrices[..., 1, :], expected[..., 1, :])


def same_tensors(net, state):
    torch.testing.assert_close(dict(net.state_dict()), dict(state), rtol=0, atol=0)


def load_training(path):
    return vipnas.load_checkpoint(path, "supernet", "alone")


def test_both_stages_leave_a_whole_run(runs):
    files = {"supernet.pt", "arch.json", "search.json", "search.png", "log.jsonl", "report.json"}
    of_t = {"vipnas_t.pt", "poses.gif", "finish.pt", "rival.pt", "rival.json", "rival.png"}
    assert set(os.listdir(runs / "s")) == files | {"vipnas_s.pt", "poses.png", "finish.pt"}
    assert set(os.listdir(runs / "t")) == files | of_t
    assert Image.open(f"{runs}/t/poses.gif").n_frames == 4


def test_stage_t_leaves_s_alone_and_trains_a_chain_of_its_own(runs):
    (s,), _ = vipnas.load_networks(f"{runs}/s/vipnas_s.pt")
    (key, *others), about = vipnas.load_networks(f"{runs}/t/vipnas_t.pt")
    assert vipnas.read_archs(f"{runs}/s/arch.json") == [s.arch] == [key.arch]
    assert vipnas.read_archs(f"{runs}/t/arch.json") == [net.arch for net in others]
    same_tensors(key, s.state_dict())
    for net, state in zip(others, load_training(f"{runs}/t/finish.pt")["nets"], strict=True):
        same_tensors(net, state)  # batch-norm statistics too
        assert all(parameter.std() > 0 for parameter in net.fusions.parameters())


@pytest.mark.parametrize("name", ["s/finish.pt", "t/finish.pt"])
def test_networks_that_were_trained_alone_are_no_super_network(runs, tmp_path, name):
    contents = load_training(runs / name)
    assert contents["kind"] == "alone"
    for kind in ("alone", "supernet"):  # so older files call both
        vipnas.save_checkpoint({**contents, "kind": kind}, f"{tmp_path}/a.pt")
        one_sentence("trained .* alone", vipnas.load_supernet, f"{tmp_path}/a.pt")


def test_a_super_network_comes_back_with_the_key_frames_network(runs):
    (s,), _ = vipnas.load_networks(f"{runs}/s/vipnas_s.pt")
    supernet, key_net, contents = vipnas.load_supernet(f"{runs}/t/supernet.pt")
    assert supernet.is_supernet and supernet.space == TINY.within(s.arch)
    same_tensors(supernet, contents["nets"][0])
    assert key_net.arch == s.arch
    same_tensors(key_net, s.state_dict())


def same_run(mine, theirs, names):
    """The same weights, bit for bit, and the same tables."""
    for name in names:
        nets = load_training(mine / name)["nets"]
        torch.testing.assert_close(nets, load_training(theirs / name)["nets"], rtol=0, atol=0)
    for path in theirs.glob("*.json*"):
        if path.name != "report.json":  # which has milliseconds in it
            assert (mine / path.name).read_text() == path.read_text()
    assert not list(mine.glob("*.tmp"))


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(runs, tmp_path):
    s = f"{runs}/s/vipnas_s.pt"
    words = f"--stage t --steps 2 --s {s} --resume --out {tmp_path}/t {SMALL}"
    code = "import sys, train; train.SAVE_EVERY = 0; train.main(sys.argv[1:])"
    for name in ("search.json", "rival.pt", "nothing"):
        command = [sys.executable, "-c", code, *words.split()]
        process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "t" / name).exists():
            time.sleep(0.01)
        process.kill()
    assert process.wait() == 0
    same_run(tmp_path / "t", runs / "t", ("supernet.pt", "finish.pt", "rival.pt"))


def test_a_resumed_run_has_the_same_options_and_the_same_log(runs, tmp_path):
    shutil.copytree(runs / "s", tmp_path / "s")
    os.remove(tmp_path / "s" / "search.json")
    with open(tmp_path / "s" / "log.jsonl", "a") as log:
        log.write("a line of a step that is not in the checkpoint")
    words = f"--stage s --steps 2 --out {tmp_path}/s --resume {SMALL}"
    one_sentence("lr was 0.02", run_train, f"{words} --lr 1", error=SystemExit)
    run_train(f"{words} --workers 2")  # which may change
    same_run(tmp_path / "s", runs / "s", ("supernet.pt",))
    os.remove(tmp_path / "s" / "supernet.pt")
    one_sentence("has ended, and its supernet.pt is gone", run_train, words, error=SystemExit)


def test_a_run_does_not_go_on_from_other_weights(runs, tmp_path):
    words = f"--stage s --arch {runs}/s/arch.json --clips 4 --batch 4 --steps 1 --out {tmp_path}"
    run_train(words)
    assert list(read_json(tmp_path / "report.json")["rows"]) == ["s/arch.json"]
    words += f" --resume --init {runs}/s/vipnas_s.pt"
    one_sentence("weights of --init was None", run_train, words, error=SystemExit)


def test_pictures_that_vanish_stop_a_run(exports, monkeypatch):
    monkeypatch.chdir(exports)
    monkeypatch.setattr(train, "SAVE_EVERY", 0)
    save_training = train.save_training

    def save_and_unmount(*arguments):
        save_training(*arguments)
        if Path("coco/train2017").exists():
            Path("coco/train2017").rename("away")

    monkeypatch.setattr(train, "save_training", save_and_unmount)
    words = "--stage s --data coco --root coco --batch 2 --steps 9 --workers 0 --out run"
    one_sentence("picture of the last three steps", run_train, words, error=SystemExit)
    # what is half trained is not searched
    words = ["--checkpoint", "run/supernet.pt", "--gflops", ".016"]
    one_sentence("is at step 3 of 9", search.main, words, error=SystemExit)


def test_an_older_run_is_moved_aside(tmp_path):
    (tmp_path / "run").mkdir()
    for number in ("0", "1", "2"):
        with train.run_folder(tmp_path / "run", resumed=False):
            (tmp_path / "run" / number).touch()
    assert {path.name for path in tmp_path.glob("*/[0-9]")} == {"0", "1", "2"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.1", "run.2"}


def test_a_folder_in_which_a_run_lives_is_refused(tmp_path):
    words = f"--stage s --steps 1 --out {tmp_path} {SMALL}"
    (tmp_path / "log.jsonl").touch()
    with data.locked(tmp_path):
        one_sentence("another run writes to", run_train, words, error=SystemExit)
    assert os.listdir(tmp_path) == ["log.jsonl"]


LAST_STEPS = {
    "train": "--stage s",
    "search": "--checkpoint=~/s/supernet.pt --gflops .016",
    "search ": "--checkpoint=~/s/vipnas_s.pt --data coco --root x",
    "vipnas": "--video x --checkpoint x",
    "data": "--export coco",
}


@pytest.mark.parametrize("name", LAST_STEPS)
def test_the_last_step_is_tried_before_any_work(name, runs, monkeypatch):
    for module, work in ((data, "open_clips"), (vipnas, "follow"), (data, "export")):
        monkeypatch.setattr(module, work, None)
    monkeypatch.setenv("HOME", str(runs))
    monkeypatch.setattr(sys, "argv", [name, *LAST_STEPS[name].split(), "--out=~/s/arch.json/x"])
    message = f"written to {runs}/s/arch.json/x .Not a directory"
    one_sentence(message, MODULES[name.strip()].main, error=(UserError, SystemExit))


LEFT_OVER = ["WORLD_SIZE=3", "WORLD_SIZE=", "RANK=4 WORLD_SIZE=4", "LOCAL_RANK=2"]


@pytest.mark.parametrize("variables", [*LEFT_OVER, "LOCAL_WORLD_SIZE=0"])
def test_variables_that_a_launcher_left_over_are_told_before_any_work(variables, monkeypatch):
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    if variables == "LOCAL_RANK=2":
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    name, value = variables.split()[0].split("=")
    message = f" {name} is '{value}'.*: unset it, or start with torchrun"
    one_sentence(message, run_train, "--stage s --out /proc/a", error=SystemExit)


def test_a_thread_may_train(exports):
    words = f"--stage s --data coco --root {exports}/coco --steps 1 --batch 2 --candidates 1"
    thread = threading.Thread(target=run_train, args=[f"{words} --out {exports}/run"])
    thread.start()
    thread.join()
    assert (exports / "run" / "report.json").exists()


PRINTED = {
    "train.py": "--stage s --clips 2 --batch 2 --candidates 1 --steps 1 --finish 1 --out OUT",
    "search.py": "--checkpoint RUNS/s/supernet.pt --gflops .016 --candidates 1 --out OUT",
    "vipnas.py": "--arch hrnet_w32 --picture OUT/a.png",
    "data.py": "--export coco --clips 4 --out OUT",
}


@pytest.mark.parametrize("file", PRINTED)
def test_what_a_console_cannot_print_is_escaped(runs, file, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9_\xce\xb1")  # no UTF-8, and Greek
    folder.mkdir()
    words = PRINTED[file].replace("RUNS", str(runs)).replace("OUT", str(folder)).split()
    encoding = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run([sys.executable, HERE / file, *words], env=encoding, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert rb"caf\udce9_\u03b1" in run.stdout


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_says_what_is_wrong_with_its_run(tmp_path, capsys):
    words = f"--stage t --s /nowhere/s.pt --out {tmp_path}/run"
    thread = threading.Thread(target=run_train, args=[words])
    thread.start()
    thread.join()
    assert capsys.readouterr().err.startswith("train: there is no file /nowhere/s.pt")


@pytest.mark.parametrize("error, sentence", [(OSError(), "train: OSError"), (None, "stopped")])
def test_every_end_is_one_sentence(monkeypatch, error, sentence):
    def end(options, device):
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(train, "run_stage", end)
    one_sentence(sentence, run_train, "--stage s", error=SystemExit)


def test_a_loss_that_is_no_number_stops_the_run_before_the_step(tmp_path, monkeypatch):
    factors = iter([1.0] * 14 + [math.nan] + [1.0] * 6)  # seven losses a step; the third is corrupt
    heatmap_loss = train.heatmap_loss

    def corrupt(*arguments):
        return heatmap_loss(*arguments) * next(factors)

    monkeypatch.setattr(train, "heatmap_loss", corrupt)
    monkeypatch.setattr(train, "SAVE_EVERY", 0)
    words = f"--stage s --steps 4 --out {tmp_path} {SMALL}"
    one_sentence("not a finite number", run_train, words, error=SystemExit)
    saved = load_training(f"{tmp_path}/supernet.pt")
    assert saved["step"] == 2
    assert all(tensor.isfinite().all() for tensor in saved["nets"][0].values())


def train_a_part(rank, folder, world):
    """One step of one of `world` processes, of two clips or of all four if it is the only one."""
    torch.set_num_threads(1)  # they would get into each other's way
    if world > 1:
        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world)
    torch.manual_seed(0)
    net = PoseNet(TINY).double().eval()  # in training each would normalise its own part
    clips = data.SyntheticClips("train", 8, 1, workers=1)
    batch = train.TrainingBatches(clips, options_of(f"--stage s --batch {4 // world}"))[1]
    examples = train.make_examples(batch, clips, 1, None, CPU)
    examples = examples._replace(images=examples.images.double(), targets=examples.targets.double())
    losses = step([net], examples)
    torch.save((losses, net.state_dict()), f"{folder}/{world}_{rank}.pt")


def test_two_processes_make_the_step_of_one(tmp_path):
    train_a_part(0, tmp_path, 1)
    torch.multiprocessing.spawn(train_a_part, (tmp_path, 2), nprocs=2)
    whole = torch.load(tmp_path / "1_0.pt")
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"2_{rank}.pt"), whole)


def test_two_processes_share_a_run(runs, tmp_path):
    words = "--clips 4 --batch 2 --candidates 3 --steps 2 --finish 1 --frames 2"
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2 --"
    command = f"{launcher} train.py --stage t --s {runs}/s/vipnas_s.pt {words} --out {tmp_path}"
    run = subprocess.run(command.split(), cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run:") == run.stdout.count("all done") == 1
    table = read_json(f"{tmp_path}/search.json")["candidates"]
    assert len(table) == 3 and all(row["rounds"] for row in table)
    assert (tmp_path / "rival.pt").exists()
    saved = load_training(f"{tmp_path}/supernet.pt")
    assert saved["config"]["processes"] == 2 and saved["step"] == 2


def test_two_processes_find_what_one_finds(runs, tmp_path):
    words = f"--checkpoint {runs}/t/supernet.pt --gflops .016 --candidates 3 --plain --out"
    search.main([*words.split(), f"{tmp_path}/one"])
    launcher = "-m torch.distributed.run --standalone --nproc_per_node=2 -- search.py"
    command = [sys.executable, *f"{launcher} {words}".split(), f"{tmp_path}/two"]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("val AP") == 1
    one, two = (read_json(f"{tmp_path}/{name}/search.json") for name in ("one", "two"))
    assert one == two


def test_a_run_goes_on_where_everything_has_moved_but_not_with_other_people(exports, monkeypatch):
    monkeypatch.chdir(exports)
    small = "--stage s --data coco --batch 2 --candidates 2 --steps 2"
    run_train(f"{small} --root coco --out run")
    (exports / "coco").rename(exports / "people")
    (exports / "run").rename(exports / "moved")
    words = f"--root {exports}/people --out {exports}/moved"
    run_train(f"{small} {words} --resume")
    again = f"--checkpoint {exports}/moved/supernet.pt --gflops .016 --candidates 2"
    search.main(f"{again} --root {exports}/people --data coco".split())
    one_sentence(f"{exports}/coco", search.main, again.split(), error=SystemExit)
    data.export("coco", exports / "others", 12, size=(128, 96))
    words = f"--root {exports}/others --out {exports}/moved"
    one_sentence("boxes of train was", run_train, f"{small} {words} --resume", error=SystemExit)


def name_other_joints(root, splits="*"):
    """Make of an export in COCO's layout one of five joints with names of their own."""
    names = ["tail", "L_paw", "R_paw", "left_eye", "right_eye"]
    category = {"id": 7, "name": "cat", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}
    for path in (root / "annotations").glob(f"person_keypoints_{splits}.json"):
        page = read_json(path)
        for entry in page["annotations"]:
            entry["category_id"] = 7
            entry["keypoints"] = entry["keypoints"][:15]
        path.write_text(json.dumps({**page, "categories": [category]}))


@pytest.mark.parametrize("labelled, val", [(40, 8), (9, 4), (2, 1)])
def test_the_last_fifth_of_the_labelled_frames_is_for_validation(tmp_path, labelled, val):
    page = {"categories": [], "images": [], "annotations": []}
    for t in range(labelled + 5):  # in the last five nobody is seen
        page["images"].append({"id": t, "width": 20, "height": 20})
        label = {"image_id": t, "track_id": 0, "keypoints": [5, 5, 0.9]}
        page["annotations"].append(label | ({"bbox": [1, 2, 3, 4]} if t < labelled else {}))
    pictures = [tmp_path / f"images/film/{t}.jpg" for t in range(labelled + 5)]
    vipnas.write_labels(page, pictures, tmp_path, "s.pt")
    for split, people in {"train": labelled - val, "val": val}.items():
        labels = read_json(tmp_path / f"annotations/{split}/film.json")
        assert len(labels["annotations"]) == people


def test_joints_that_are_not_seen_and_lost_people_are_no_labels(tmp_path):
    image = {"id": 0, "file_name": "a.jpg", "width": 20, "height": 20}
    lost = {"image_id": 0, "track_id": 1}
    # unsure: the second; outside: the third
    lost["keypoints"] = [5, 5, 0.9, 7, 7, 0.1, 99, 7, 0.9, 6, 8, 0.3]
    found = {**lost, "track_id": 0, "bbox": [1, 2, 3, 4]}
    page = {"categories": [], "images": [image], "annotations": [found, lost]}
    vipnas.write_labels(page, [tmp_path / "images/film/0.jpg"], tmp_path, "s.pt")
    labels = read_json(f"{tmp_path}/annotations/val/film.json")
    assert labels["labelled_by"] == "s.pt" and len(labels["annotations"]) == 1
    assert labels["annotations"][0]["keypoints"] == [5, 5, 1, 0, 0, 0, 0, 0, 0, 6, 8, 1]
    assert labels["images"][0]["file_name"] == "images/film/0.jpg"


def test_train_and_val_have_the_same_joints(exports):
    name_other_joints(exports / "coco", "train2017")
    words = f"--stage s --data coco --root {exports}/coco --out {exports}/run"
    message = "a network for COCO val2017 predicts other joints than COCO train2017"
    one_sentence(message, run_train, words, error=SystemExit)


def test_stage_s_fine_tunes_a_finished_network_alone_and_in_its_heatmap_cells(tmp_path):
    about = data.about(data.COCO, (128, 96), cell=data.SBL_CELL)
    vipnas.save_finished(tmp_path / "a.pt", [PoseNet(TINY.sample(random.Random(0)))], about)
    words = f"--stage s --arch {tmp_path}/a.pt --init {tmp_path}/a.pt --clips 4 --batch 2"
    run_train(f"{words} --steps 1 --out {tmp_path}/s")
    (net,), about = vipnas.load_networks(f"{tmp_path}/s/vipnas_s.pt")
    assert net.arch == TINY.sample(random.Random(0)) and about["cell"] == data.SBL_CELL
    (trained,) = load_training(f"{tmp_path}/s/supernet.pt")["nets"]
    same_tensors(net, trained)  # no recalibration
    assert not (tmp_path / "s" / "search.json").exists()
    run = train.prepare_s(options_of(f"{words} --out {tmp_path}/s"), CPU)
    assert run.train.cell == run.val.cell == run.test.cell == data.SBL_CELL


def test_the_papers_initialisation_is_an_option(tmp_path):
    options = options_of(f"--stage s --init-std .001 --clips 4 --batch 2 --out {tmp_path}")
    (net,) = train.prepare_s(options, CPU).nets
    for weight in (net.stages[0].blocks[0].conv1.conv.weight, net.head.deconvs[0].conv.weight):
        assert abs(weight.std() - 0.001) < 0.0002


def test_stage_s_in_a_papers_space_and_stage_t_in_a_published_network(tmp_path, monkeypatch):
    monkeypatch.setattr(vipnas, "frame_times", lambda nets: [1.0] * len(nets))  # not measured
    small = "--clips 2 --batch 2 --steps 1 --finish 1 --candidates 1"
    run_train(f"--stage s --space mobilenetv3 {small} --out {tmp_path}/s")
    (net,), about = vipnas.load_networks(f"{tmp_path}/s/vipnas_s.pt")
    assert net.arch in SPACES["mobilenetv3"] and list(about["size"]) == [256, 192]

    name = "s_vipnas_mobilenetv3"
    torch.save(as_published(PoseNet(MOBILE), name), f"{tmp_path}/a.pth")
    words = f"--stage t --s {tmp_path}/a.pth --frames 1 --gflops .55"
    run_train(f"{words} {small} --out {tmp_path}/t")
    (key_net, net), about = vipnas.load_networks(f"{tmp_path}/t/vipnas_t.pt")
    assert key_net.arch == MOBILE and about["cell"] == data.SBL_CELL
    assert net.arch in SPACES["mobilenetv3"].within(MOBILE)


REFUSED = {
    "": "--stage",
    "--stage s --data coco": "needs --root",
    "--stage s --data coco --root /nowhere": "/nowhere",
    "--stage t --data coco --root x": "no videos",
    "--stage s --frames 2": "--frames belongs to --stage t",
    "--stage t --no-fusion": "--no-fusion belongs to --arch",
    "--stage s --arch RUNS/t/arch.json": "--stage t",
    "--stage t --s RUNS/s/vipnas_s.pt --gflops .001": "smallest",
    "--stage t --s RUNS/s/vipnas_s.pt --arch RUNS/t/arch.json --frames 2": "3 non-key",
    "--stage s --arch s_vipnas_resnet50 --init RUNS/s/vipnas_s.pt": "smaller",
    "--stage s --steps 0": "above zero",
    "--stage s --epochs 3": "--epochs belongs to --data coco or posetrack",
    "--stage s --data coco --root x --steps 9 --epochs 3": "both say how long",
    "--stage s --data coco --root x --epochs 140": "stay below the epochs: not 200 230 140",
    "--stage t --s RUNS/s/vipnas_s.pt --data posetrack --root x --milestones 9 9": "to rise",
    "--stage s --through": "--through belongs to --stage t",
    "--stage t --data posetrack --root x --compare 1": "search S at T's cost",
    "--stage t --s RUNS/t/vipnas_t.pt --compare 1": "not the super-network",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_succeed_is_refused_in_one_sentence(runs, tmp_path, words):
    command = words.replace("RUNS", str(runs)) + f" --out {tmp_path}/run"
    one_sentence(REFUSED[words], run_train, command, error=SystemExit)
    assert not (tmp_path / "run").exists()


def readme_commands(heading, values=""):
    """What bash would run of the README's code block below a heading. values: assignments in place
    of those in the block."""
    block = Path(__file__).with_name("README.md").read_text().split(heading)[1].split("```")[1]
    for pattern, small in {"^(?!R=)[A-Z]+=.*": "", "for B in .*;": "for B in .016;"}.items():
        block = re.sub(pattern, small, block, flags=re.M)
    block = block.replace("--gflops 1.0", "--gflops .016")
    script = f"{values}\npython() {{ echo python $@; }}\n{block}"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("python ")]


README_VALUES = """
COCO=coco POSETRACK=posetrack SPACE=tiny HAND=hand.json AVERAGE=0.016 RECIPE="--scale .3"
VAL=coco/annotations/person_detections_val2017.json
TEST=coco/annotations/person_detections_test-dev2017.json
"""


def run_readme_command(command, monkeypatch):
    """A command of the README, as small as can be; nothing is timed."""
    words = command.split()[1:]
    if words[0] == "train.py":
        words += ["--steps", "1", "--batch", "2"]
        words += [] if "--arch" in words else ["--candidates", "2"]
        words += ["--finish", "1"] if "--finish" in words else []
    monkeypatch.setattr(vipnas, "frame_times", lambda nets: [1.0] * len(nets))
    monkeypatch.setattr(sys, "argv", words)
    MODULES[words[0].removesuffix(".py")].main()


def test_the_commands_for_the_papers_tables_run_on_exports(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports)
    Path("hand.json").write_text(TINY.smallest().to_json())
    commands = readme_commands("## The paper's tables", README_VALUES)
    assert len(commands) == 19
    for command in commands:
        run_readme_command(command, monkeypatch)
    printed = capsys.readouterr().out
    # official numbers of all that was trained or found
    assert printed.count(" ARL\n") == 5 and printed.count(" Total\n") == 12
    assert printed.count("evaluation server") == 2 and "moved the run" not in printed
    folder = Path("runs/tiny")
    assert len(vipnas.read_archs(folder / "frames_2/arch.json")) == 2
    assert len(set(vipnas.read_archs(folder / "shared_.016/arch.json"))) == 1
    assert len(list((folder / "t/posetrack").glob("*_mpii_test.json"))) == 2
    assert "Total" in read_json(folder / "t/report.json")["official"]
    # an allocation alone: no search, and each frame has its own weights
    first, *others = load_training(folder / "none_.016/supernet.pt")["nets"]
    assert len(others) == 2 and not (folder / "none_.016/search.json").exists()
    assert vipnas.read_archs(folder / "none_.016/arch.json")[0].fusion is None
    assert not torch.equal(first["head.final.weight"], others[0]["head.final.weight"])


ROWS = ["T-ViPNAS", "S on every frame", "baseline on every frame", "key frame's pose, copied"]


def test_the_commands_from_pictures_to_t_run_on_other_joints(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports)
    # after one step hardly any joint would be sure
    monkeypatch.setattr(vipnas, "is_seen", lambda pose, size: np.ones(len(pose), bool))
    name_other_joints(Path("coco").rename("pictures"))
    Path("frames").mkdir()
    for t, file in enumerate(sorted(Path("posetrack/images").glob("train/*/*.jpg"))):
        file.rename(f"frames/{t}.jpg")
    learn, label, propagate = readme_commands("## Your own data")
    run_readme_command(learn, monkeypatch)
    assert len(read_json("runs/s/results.json")[0]["keypoints"]) == 15
    run_readme_command(label.replace("x,y,w,h", "0,0,96,128"), monkeypatch)
    (labels,) = Path("film/annotations/val").glob("*_frames.json")
    assert labels.stem == "_".join(Path("frames").resolve().parts[1:])[-100:]
    monkeypatch.delattr(data, "posetrack_ap")  # without head boxes it can tell nothing
    run_readme_command(propagate, monkeypatch)
    before, after = capsys.readouterr().out.rsplit("supernet step 1", 1)
    assert "9 people have no head box (bbox_head), so PoseTrack's official numbers" in before
    assert "the labels are those of runs/s/vipnas_s.pt: AP is agreement with it" in after
    words = ["--checkpoint", "runs/t/vipnas_t.pt", "--data", "posetrack", "--root", "film"]
    one_sentence("head box, which PoseTrack's numbers", search.main, words, error=SystemExit)


def test_reports_have_the_columns_of_the_papers_tables(runs):
    report = read_json(f"{runs}/t/report.json")
    rows = report["rows"]
    assert list(rows) == ROWS
    chain, _ = vipnas.load_networks(f"{runs}/t/vipnas_t.pt")
    gflops = [cost(net.arch, (128, 96)).gflops for net in chain]
    assert rows["T-ViPNAS"]["gflops"] == pytest.approx(np.mean(gflops))  # over all frames
    assert rows["S on every frame"]["gflops"] == pytest.approx(gflops[0])
    assert rows["T-ViPNAS"]["fps"] == pytest.approx(1000 / rows["T-ViPNAS"]["ms"])
    for row in rows.values():
        assert list(row["ap"]) == ["AP", "non-key", "t = 1", "t = 2", "t = 3"]
        assert len(row["ap_by_part"]) == 9
    assert [pair["other"] for pair in report["pairs"]] == ROWS[1:]
    assert list(report["conditions"]["clear"]["ap"]) == ROWS


def test_the_single_frame_baseline_costs_as_much_as_t_and_saw_as_many_images(runs):
    rows = read_json(f"{runs}/t/report.json")["rows"]
    gflops = rows["T-ViPNAS"]["gflops"]
    assert 0.98 * gflops <= rows["baseline on every frame"]["gflops"] <= gflops
    s, t = (load_training(runs / stage / "supernet.pt")["config"] for stage in "st")
    as_s = math.ceil(s["finish"] * s["batch"] / (3 * t["batch"]))  # three images a clip
    steps = load_training(f"{runs}/t/rival.pt")["step"]
    assert steps == as_s + t["steps"] + t["finish"]


def test_numbers_that_json_does_not_know_are_null_and_names_stay():
    page = {"NaN": [math.nan, 1.5], "Infinity": {"-NaN-": -math.inf}}
    assert train.without_nan(page) == {"NaN": [None, 1.5], "Infinity": {"-NaN-": None}}


def test_people_without_labels_count_neither_in_an_ap_nor_in_its_error():
    ours = np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, 0.5]])
    other = np.array([[0.5, np.nan], [np.nan, np.nan], [0.2, 0.4]])
    better, error = train.paired(ours, other)
    assert better == pytest.approx(100 * (0.5 + 0.3 + 0.1) / 3)
    assert error == pytest.approx(100 * np.std([0.5, 0.2]) / 2**0.5)  # of two clips


def test_where_memory_helps_is_told_by_frame_condition(capsys):
    conditions = np.zeros((2, 4, 4), bool)
    conditions[:, 0] = True  # of a key frame, which does not count
    conditions[:, 1, 0] = True  # every first non-key frame is dark
    conditions[:, 2:, 2] = True  # the later ones are shaken
    ours = np.array([[0, 0.5, 0.2, 0.4], [0, 0.5, 0.6, 0.8]])
    other = np.array([[1, 0.1, 0, 0], [1, 0.3, 0, 0]])
    table = train.compare_conditions(conditions, {"T": ours, "S": other})
    assert list(table) == ["dark", "shaken"]  # no frame is clear, blurred or occluded
    assert [group["frames"] for group in table.values()] == [2, 4]
    assert table["dark"]["ap"] == pytest.approx({"T": 50, "S": 20})
    # the error is that of two people, who differ by 30 and 70 on average, not of four frames
    assert table["shaken"]["better"]["S"] == pytest.approx((50, 20 / 2**0.5))
    assert "+50.0 +- 14.1" in capsys.readouterr().out


def test_ap_by_part_holds_each_joint_to_the_thresholds(people):
    clips = people.head(8)
    clips.joints = clips.joints.copy()
    clips.joints[:, 0, 9:11, 2] = 1  # wrists
    clips.joints[:5, 0, 10, 2] = 0
    keypoints = clips.joints[:, :1].copy()
    keypoints[:, :, 9] += 1000
    ap = search.ap_by_part(keypoints, clips, list(range(8)), first=0)
    assert ap["wrist"] == pytest.approx(100 * 3 / 11)  # of 8 left and 3 right ones
    assert all(value == 100 for part, value in ap.items() if part != "wrist")
    clips.skeleton = own_skeleton("rpaw lpaw 2 3 4 5 6 7 8 9 a b c d e f g")
    parts = list(search.ap_by_part(keypoints, clips, list(range(8)), first=0))
    assert parts == [*"23456789abcdefg", "lpaw"] or parts == ["lpaw", *"23456789abcdefg"]


# ---------------------------------------------------------------------------------- all the modules
MODULES = {module.__name__: module for module in (elastic, fusion, vipnas, search, train, data)}


@pytest.mark.parametrize("file", ["README.md", *[f"{name}.py" for name in MODULES]])
def test_what_the_texts_name_exists(file):
    text = (HERE / file).read_text()
    for module, path in re.findall(rf"`({'|'.join(MODULES)})\.([\w.]+)[`(]", text):
        place = MODULES[module]
        for name in path.split("."):
            if name not in ("py", "json", "png"):  # else it is a file
                assert hasattr(place, name), f"{file} names {module}.{path}"
                place = getattr(place, name)
