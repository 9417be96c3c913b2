"""Small methods that know the answer or count the questions, and cases to ask about."""

from collections import Counter

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scipy.ndimage import gaussian_filter, label
from torch.utils.data import DataLoader

from samzoo.geometry import plan, plan_volume, resampled, volume_to_grid
from samzoo.methods.base import Method
from samzoo.methods.slab import SlabMethod
from samzoo.types import Case, MethodSpec


class BoxDrawer(Method):
    """Fills its box, else a square around each foreground click; counts how often it sees which slice.

    A slice is told by its mean grey value. The state holds the number of answers so far.
    """

    spec = MethodSpec("BoxDrawer", 2, "slice", frozenset({"box", "click"}), False, "everything")
    side, low = 64, 64

    def __init__(self, num_classes=2, class_names=("organ", "lesion")):
        super().__init__(num_classes, class_names)
        self.seen = Counter()
        self.decoded = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def prepare(self, image, size, spacing):
        grids = [plan((int(h), int(w)), self.side, "longest_side") for h, w in size.tolist()]
        return image.mean(dim=(1, 2, 3)), grids

    def encode(self, x):
        for value in x.tolist():
            self.seen[round(value, 4)] += 1
        return x.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    def decode(self, embedding, prompts, state=None):
        count = len(prompts)
        assert int(prompts.image_index.max()) < len(embedding)
        turn = torch.ones(count) if state is None else state["turn"] + 1
        clicks = 0 if prompts.points is None else prompts.points.shape[1]
        self.decoded.append((count, prompts.boxes is not None, clicks, turn.tolist()))
        centre = (torch.arange(self.low) + 0.5) * self.side / self.low
        x, y = centre[None, None, :], centre[None, :, None]

        def fill(x0, y0, x1, y1):
            (x0, y0, x1, y1) = (v[:, None, None] for v in (x0, y0, x1, y1))
            return torch.minimum(torch.minimum(x - x0, x1 - x), torch.minimum(y - y0, y1 - y))

        logits = torch.full((count, self.low, self.low), -1.0)
        if prompts.boxes is not None:
            logits = fill(*prompts.boxes.T)
        for i in range(clicks):
            px, py = prompts.points[:, i].T
            square = fill(px - 3, py - 3, px + 4, py + 4)
            positive = (prompts.point_labels[:, i] == 1)[:, None, None]
            logits = torch.where(positive, torch.maximum(logits, square), torch.minimum(logits, -square))
        return logits[:, None], {"turn": turn}


class Automatic(Method):
    """Class 1 wherever the picture is bright, class 2 nowhere; takes no prompts."""

    spec = MethodSpec("Automatic", 2, "slice", frozenset({"auto"}), True, "everything")

    def __init__(self, num_classes=2, class_names=("organ", "lesion")):
        super().__init__(num_classes, class_names)

    def prepare(self, image, size, spacing):
        h, w = (int(v) for v in size[0])
        padded = torch.nn.functional.pad(image[:, :1], (0, max(h, w) - w, 0, max(h, w) - h))
        return padded, [plan((h, w), max(h, w), "longest_side")] * len(image)

    def encode(self, x):
        return x

    def decode(self, embedding, prompts, state=None):
        return torch.cat((embedding - 0.5, -torch.ones_like(embedding)), dim=1), {}


class Correctable(BoxDrawer):
    """Class 1 in a fixed square of the grid, class 2 nowhere; clicks add and take away from the last answer.

    Its features, the mean grey value of each slice, may be cached. As published it counts what it found and missed.
    """

    spec = MethodSpec("Correctable", 2, "slice", frozenset({"auto", "click"}), True, "everything")
    square = slice(16, 40)

    def decode(self, embedding, prompts, state=None):
        if prompts is None:
            return torch.stack([self.alone(k, len(embedding)) for k in (1, 2)], dim=1), {}
        before = torch.stack([self.alone(int(k), 1)[0] for k in prompts.class_id])[:, None]
        if state is not None:
            before = state["mask"]
        if prompts.points is None:
            self.decoded.append((len(prompts), False, 0, []))
            return before, {"mask": before}
        drawn, _ = super().decode(embedding, prompts)
        touched = torch.zeros_like(drawn, dtype=torch.bool)
        for i in range(prompts.points.shape[1]):
            for p, (x, y) in enumerate(prompts.points[:, i].long().tolist()):
                touched[p, 0, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = True
        mask = torch.where(touched, drawn, before)
        return mask, {"mask": mask}

    def alone(self, class_id, count):
        logits = torch.full((count, self.low, self.low), -1.0)
        if class_id == 1:
            logits[:, self.square, self.square] = 1.0
        return logits

    def features_signature(self):
        return "grey"

    def features(self, x):
        return (x,)

    def embed(self, features):
        (grey,) = features
        return grey.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    def published_scores(self, logits, truth, grid):
        assert logits.shape[1:] == (1, self.low, self.low) and truth.shape[1:] == grid.native
        assert truth.dtype == torch.bool and not torch.is_grad_enabled()
        found = (logits > 0).flatten(1).any(1)
        present = truth.flatten(1).any(1)
        agree = torch.where(found | present, (found == present).double(), torch.nan)
        return {"dice": agree, "lowest": logits.flatten(1).amin(1).double()}


class Cases(LightningDataModule):
    dataset_name = "made-up"
    num_classes, class_names = 2, ("organ", "lesion")

    def __init__(self, cases):
        super().__init__()
        self.cases = list(cases)

    def test_dataloader(self):
        return DataLoader(self.cases, batch_size=None)

    val_dataloader = predict_dataloader = test_dataloader


def make_case(case_id="a", shape=(6, 40, 52), spacing=(3.0, 1.0, 0.5), lesion=True, label=True):
    """An organ on all but the outer slices, with a notch; a lesion on two slices; slices told by their grey value."""
    depth, height, width = shape
    truth = np.zeros(shape, dtype=np.uint8)
    inner = range(1, depth - 1) if depth > 2 else range(depth)
    for z in inner:
        truth[z, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
        truth[z, height // 4 : height // 2, width // 4 : width // 3 + z] = 0
    if lesion:
        truth[depth // 2 : depth // 2 + 2, 2:6, 2:8] = 2
    grey = torch.linspace(0.1, 0.9, depth)[None, :, None, None].expand(1, *shape).clone()
    return Case(case_id, f"p_{case_id}", grey, torch.from_numpy(truth) if label else None, spacing, np.eye(4))


class Slabs(SlabMethod):
    """Class k where the grey value is near (k + 0.5) / (K + 1), on windows; every window adds a ramp of its own.

    Logits are functions of a voxel's value and of its place in the window, so that any stitching can be worked out.
    """

    spec = MethodSpec("Slabs", 3, "slab", frozenset({"auto"}), True, "everything")

    def __init__(self, patch=(4, 16, 20), spacing=None, ramp=0.0, num_classes=2, class_names=("organ", "lesion")):
        super().__init__(patch, spacing, 1, (0.0, 1.0), num_classes=num_classes, class_names=class_names)
        self.ramp = ramp
        self.calls = []
        self.convolution = torch.nn.Conv3d(1, 1, 1, bias=False)
        torch.nn.init.ones_(self.convolution.weight)

    def encode(self, x):
        assert x.shape[2:] == self.window
        self.calls.append(len(x))
        return self.convolution(x)

    def decode(self, embedding, prompts, state=None):
        assert prompts is None
        levels = (torch.arange(1, self.num_classes + 1) + 0.5) / (self.num_classes + 1)
        logits = 0.5 / (self.num_classes + 1) - (embedding - levels[:, None, None, None]).abs()
        ramps = [torch.linspace(0, self.ramp, side) ** 2 for side in self.window]
        return logits + ramps[0][:, None, None] - ramps[1][:, None] + 2 * ramps[2], {}


def grey_case(shape, spacing=(3.0, 1.0, 1.0), num_classes=2, seed=0, case_id="a"):
    """Smooth noise from 0 to 1, labelled as `Slabs` without a ramp would on these voxels."""
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), [min(2, n / 4) for n in shape])
    image = torch.from_numpy((noise - noise.min()) / np.ptp(noise)).float()
    label = (image * (num_classes + 1)).clamp(0, num_classes).byte()
    return Case(case_id, "p", image[None], label, spacing, np.eye(4))


class Crops(Method):
    """Bright parts of a crop that hold a click, or lie in the box; a negative click takes its part away.

    Its answers are functions of what lies in the crop, whose values it also keeps as the embedding.
    """

    spec = MethodSpec("Crops", 3, "crop", frozenset({"click", "box", "mask"}), False, "everything")

    def __init__(self, side=16, spacing=1.0, coarser=1, num_classes=2, class_names=("organ", "lesion")):
        super().__init__(num_classes, class_names)
        self.side, self.spacing, self.coarser = side, spacing, coarser
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.encoded, self.decoded = [], []

    @property
    def window(self):
        return (self.side,) * 3

    def prepare(self, image, size, spacing):
        native = tuple(size[0].tolist())
        content = resampled(native, spacing[0].tolist(), (self.spacing,) * 3)
        grid = plan_volume(native, content, self.window)
        return volume_to_grid(image, grid, fill=self.fill), [grid]

    def encode(self, x):
        assert x.shape[2:] == self.window
        self.encoded.append(len(x))
        return x

    def decode(self, embedding, prompts, state=None):
        clicks = 0 if prompts.points is None else prompts.points.shape[1]
        self.decoded.append((len(prompts), clicks, prompts.boxes is not None, state is not None))
        bright = (embedding[prompts.image_index, 0] > 0.5).cpu().numpy()
        answers = np.zeros_like(bright)
        for p, crop in enumerate(bright):
            parts, _ = label(crop)
            if prompts.boxes is not None:
                x0, y0, z0, x1, y1, z1 = prompts.boxes[p].round().int().tolist()
                assert min(x0, y0, z0) >= 0 and max(x1, y1, z1) <= self.side
                answers[p, z0:z1, y0:y1, x0:x1] = crop[z0:z1, y0:y1, x0:x1]
            for i in range(clicks):
                x, y, z = prompts.points[p, i].int().tolist()
                if found := parts[z, y, x]:
                    answers[p][parts == found] = prompts.point_labels[p, i] == 1
        logits = torch.from_numpy(answers).float()[:, None].to(embedding.device) * 8 - 4
        logits = torch.nn.functional.avg_pool3d(logits, self.coarser)
        return logits, {"low_res": logits}


def bright_case(shape, *parts, spacing=(1.0, 1.0, 1.0), label=None, case_id="a"):
    """Bright boxes (slices of z, y, x) on a dark ground, of class 1 unless `label` says otherwise."""
    image = torch.zeros(1, *shape)
    for part in parts:
        image[(0, *part)] = 1.0
    truth = image[0].byte() if label is None else torch.from_numpy(label)
    return Case(case_id, "p", image, truth, spacing, np.eye(4))
