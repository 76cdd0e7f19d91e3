# Copyright (c) monai_weckd contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Make a weak view for the teacher and a strong view for the student."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import MAX_SEED, ensure_tuple

from monai_weckd.utils.enums import DistillationKeys

__all__ = ["WeakStrongViewsD", "WeakStrongViewsDict", "WeakStrongViewsd"]


class WeakStrongViewsd(Randomizable, MapTransform):
    """Make two views of one image: a strong one for the student and a weak one for the teacher.

    The strong view stays under the image's key, the weak one goes under the teacher's, where
    :py:class:`~monai_weckd.engines.Distiller` finds it in a batch. ``shared`` is drawn once for both views, so that
    they show the same geometry; ``weak`` and ``strong`` are drawn separately. All keys of an item get the
    same draws, so that several images of one patient stay aligned. It works on single items, in any MONAI pipeline;
    :py:class:`~monai_weckd.engines.PrepareViews` makes the views of whole batches of a stage, on their device.

    Args:
        keys: keys of the images.
        weak: makes the teacher's view: an array transform, such as ``monai.transforms.RandFlip``, or a ``Compose`` of
            several.
        strong: makes the student's view, likewise.
        shared: runs before both, likewise; default ``None``: nothing.
        teacher_keys: where the teacher's views go, one for each of ``keys``. Default "teacher_image", for one image.
        allow_missing_keys: do not raise an exception if a key is missing. Default ``False``.

    Raises:
        ValueError: When ``teacher_keys`` are not as many as ``keys``, repeat one, or name one of ``keys``.
        TypeError: When ``weak``, ``strong`` or ``shared`` is not an array transform.

    Weak and strong views after FixMatch, arXiv 2001.07685.

    Example::

        >>> import torch
        >>> from monai.transforms import RandFlip, RandGaussianNoise
        >>> views = WeakStrongViewsd("image", weak=RandFlip(prob=0.0), strong=RandGaussianNoise(prob=1.0))
        >>> item = views({"image": torch.zeros(3, 8, 8)})
        >>> bool((item["image"] == 0).all()), bool((item["teacher_image"] == 0).all())
        (False, True)

    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        weak: Callable,
        strong: Callable,
        shared: Callable | None = None,
        teacher_keys: KeysCollection = DistillationKeys.TEACHER_IMAGE,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.teacher_keys: tuple[Hashable, ...] = ensure_tuple(teacher_keys)
        if len(self.teacher_keys) != len(self.keys) or len({*self.keys, *self.teacher_keys}) != 2 * len(self.keys):
            raise ValueError(
                f"teacher_keys: expected another key for each of {self.keys}, got {self.teacher_keys}. "
                "Name one for each image."
            )
        for name, transform in (("weak", weak), ("strong", strong), ("shared", shared)):
            is_absent = transform is None and name == "shared"
            if not is_absent and (isinstance(transform, MapTransform) or not callable(transform)):
                raise TypeError(
                    f"{name}: expected an array transform, got {type(transform).__name__}. "
                    "Pass one such as RandFlip, or a Compose of some."
                )
        self.weak = weak
        self.strong = strong
        self.shared = shared
        self._seeds: tuple[int, ...] = ()

    def randomize(self, data: Any | None = None) -> None:
        """Draw the seeds of the transforms for one item."""
        self._seeds = tuple(int(self.R.randint(MAX_SEED, dtype="uint32")) for _ in range(3))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make both views of each image.

        Args:
            data: an item with its images loaded, channel first.

        """
        d = dict(data)
        self.randomize()
        shared, weak, strong = self._seeds
        for key, teacher_key in self.key_iterator(d, self.teacher_keys):
            image = _seeded(self.shared, shared)(d[key]) if self.shared is not None else d[key]
            # a copy, so that neither view changes the image or the metadata of the other
            d[teacher_key] = _seeded(self.weak, weak)(deepcopy(image))
            d[key] = _seeded(self.strong, strong)(image)
        return d


def _seeded(transform: Callable, seed: int) -> Callable:
    """Return a transform with its random state set, where it has one."""
    if isinstance(transform, Randomizable):
        transform.set_random_state(seed=seed)
    return transform


WeakStrongViewsD = WeakStrongViewsDict = WeakStrongViewsd
