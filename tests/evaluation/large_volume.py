"""Lesions of 5, 40 and 150 mm in 300 x 512 x 512 voxels, one click each: python large_volume.py prints what is found.

The method finds what is bright around a click, on crops of 96 voxels at 1.5 mm; what is tried is how crops follow the
clicks, and what that takes.
"""

from __future__ import annotations

import json
import resource

import numpy as np
import torch
from evaluation_fakes import Crops
from scipy import ndimage

from samzoo.data.phantom_lesions import make_lesions
from samzoo.evaluation.scoring import Settings, score_case
from samzoo.evaluation.session import CaseSession
from samzoo.prompts.regimes import make_regime
from samzoo.prompts.simulate import deepest_point
from samzoo.types import Case, CasePrompt, Click

SPACING = (1.0, 0.7, 0.7)


def main() -> None:
    _, label = make_lesions((300, 512, 512), SPACING, (5.0, 40.0, 150.0), 0)
    image = torch.from_numpy(label).float()[None]
    case = Case("large", "large", image, torch.from_numpy(label), SPACING, np.eye(4))
    parts, _ = ndimage.label(label, np.ones((3, 3, 3)))
    clicks = []
    for where in ndimage.find_objects(parts):
        inside = deepest_point(parts[where] > 0, SPACING)
        clicks.append(Click(*(int(i + s.start) for i, s in zip(inside, where, strict=True)), True))
    method = Crops(side=96, spacing=1.5, num_classes=1, class_names=("lesion",))
    session = CaseSession(method, case)
    (answer,) = session.segment([CasePrompt(1, clicks=tuple(clicks))])
    found = [float(answer.mask[parts == k].mean()) for k in range(1, 4)]
    extra = float((answer.mask & (label == 0)).sum() / label.sum())
    result = score_case(method, case, [make_regime("clicks_3d", 3)], Settings("large", ("lesion",)))
    print(
        json.dumps(
            {
                "found": found,
                "extra": extra,
                "crops": len(answer.crops),
                "encoded": session.cost.images_encoded,
                "dice": [r.dice for r in result.records],
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    )


if __name__ == "__main__":
    main()
