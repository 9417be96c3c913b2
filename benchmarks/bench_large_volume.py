"""M-SAM on a volume of 300 x 512 x 512 with lesions of 5, 40 and 150 mm: memory, seconds a click, what is covered.

One click in each lesion, then corrective clicks as in the regime clicks_3d, answered on crops that follow them. The
volume is made by the phantom generator. A run of m_sam_phantom_lesions.yaml makes the answers worth a look; without
one the weights are random, and only places, time and memory mean something.

python benchmarks/bench_large_volume.py --checkpoint runs/m_sam_phantom_lesions/.../checkpoints/best.ckpt
python benchmarks/bench_large_volume.py --architecture vit_b_ori --spacing 1.5
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from samzoo.data.phantom_lesions import make_lesions
from samzoo.evaluation.session import CaseSession
from samzoo.methods import MSAM
from samzoo.metrics import overlap
from samzoo.prompts.simulate import corrective_click, deepest_point
from samzoo.types import Case, CasePrompt, Click

SHAPE, SPACING = (300, 512, 512), (1.0, 0.7, 0.7)
DIAMETERS = (5.0, 40.0, 150.0)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_case(seed: int) -> Case:
    image, label = make_lesions(SHAPE, SPACING, DIAMETERS, seed)
    image = torch.from_numpy(image).float().add_(1000).div_(2000).clamp_(0, 1)[None]
    return Case("large", "large", image, torch.from_numpy(label), SPACING, np.eye(4))


def covered(answer, grid, side: int, lesion: np.ndarray) -> float:
    """Share of a lesion's voxels that lie in some crop."""
    near, far = (np.array(v) for v in (grid.content, grid.native))
    places = (np.argwhere(lesion) + 0.5) * near / far + np.array(grid.offset)
    inside = [((places >= crop.corner) & (places < np.array(crop.corner) + side)).all(1) for crop in answer.crops]
    return float(np.any(inside, axis=0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="of a run of m_sam_phantom_lesions.yaml")
    parser.add_argument("--architecture", default="vit_tiny_3d")
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--corrections", type=int, default=3, help="clicks after the first three")
    parser.add_argument("--seed", type=int, default=0, help="of the volume")
    args = parser.parse_args()

    case = make_case(args.seed)
    truth = case.label.numpy() > 0
    parts, count = ndimage.label(truth, np.ones((3, 3, 3)))
    order = np.argsort(np.bincount(parts.ravel())[1:]) + 1
    print(
        f"{count} lesions of {', '.join(f'{d:g}' for d in DIAMETERS)} mm; volume in memory: peak {peak_gib():.2f} GiB"
    )

    torch.manual_seed(0)
    method = MSAM(args.architecture, spacing=args.spacing, zero=0.5, freeze_encoder=False).eval()
    if args.checkpoint:
        state = torch.load(args.checkpoint, weights_only=True, map_location="cpu")["state_dict"]
        missing, unknown = method.load_state_dict(state, strict=False)  # it holds what was trained
        trained = {name for name, p in method.named_parameters() if p.requires_grad}
        if unknown or trained & set(missing):
            raise SystemExit(f"{args.checkpoint} does not fit: {[*unknown, *sorted(trained & set(missing))][:3]}")
    session = CaseSession(method, case)
    side = method.window[0]
    prompt, answer = CasePrompt(1), None
    for number in range(count + args.corrections):
        if number < count:
            lesion = parts == order[number]
            where = ndimage.find_objects(lesion.astype(np.uint8))[0]
            near = [s.start for s in where]
            z, y, x = (int(i + n) for i, n in zip(deepest_point(lesion[where], SPACING), near, strict=True))
            click, name = Click(z, y, x, True), f"click in the lesion of {DIAMETERS[number]:g} mm"
        else:
            found = corrective_click(truth, answer.mask, SPACING)
            if found is None:
                break
            (x, y, z), positive = found
            click, name = Click(z, y, x, positive), f"correction ({'missed' if positive else 'extra'})"
        encoded, begin = session.cost.images_encoded, time.perf_counter()
        prompt = replace(prompt, clicks=(*prompt.clicks, click))
        (answer,) = session.segment([prompt], [answer])
        seconds = time.perf_counter() - begin
        mask = answer.mask
        shares = [covered(answer, session._adapter._grid, side, parts == k) for k in order]
        hit = [float(mask[parts == k].mean()) for k in order]
        print(
            f"{name}: {seconds:.2f} s, {session.cost.images_encoded - encoded} crops encoded, "
            f"{len(answer.crops)} in all, Dice {overlap(mask, truth).dice:.3f}; of each lesion "
            f"{' / '.join(f'{s:.0%}' for s in shares)} in crops, {' / '.join(f'{s:.0%}' for s in hit)} found; "
            f"peak {peak_gib():.2f} GiB",
            flush=True,
        )
    cost = session.cost
    print(
        f"{cost.images_encoded} crops encoded once each, {cost.prompts_decoded} answers; encode "
        f"{1000 * cost.encode_seconds / cost.images_encoded:.0f} ms, answer "
        f"{1000 * cost.decode_seconds / cost.prompts_decoded:.0f} ms"
    )


if __name__ == "__main__":
    main()
