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

"""N4 bias field correction for MR images."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_numpy, optional_import

tqdm, _HAS_TQDM = optional_import("tqdm", name="tqdm")

__all__ = ["BiasFieldCorrection", "BiasFieldCorrectionD", "BiasFieldCorrectionDict", "BiasFieldCorrectiond"]

_OTSU = "otsu"
_MIN_SAMPLES = 16  # no axis is shrunk to fewer


class BiasFieldCorrection(Transform):
    """Correct the smooth intensity variation within each tissue of an MR image (N4).

    Each channel of a channel-first image ``(C, X, Y[, Z])`` is corrected separately, with ITK's
    ``N4BiasFieldCorrectionImageFilter``. The logarithm of the field is estimated on every ``shrink_factor``-th voxel;
    it is a B-spline, which is then evaluated at every voxel, so that the image keeps its resolution.

    N4 works on logarithms: use it before intensities are normalized. Voxels of 0 take no part in the estimate and
    stay 0; negative or non-finite voxels are refused. A channel that holds one value only, such as an empty slice, is
    left as it is. A field is known up to a factor only: normalize intensities afterwards.

    Several threads may use it, and workers of a data loader may be forked meanwhile: the fork waits for the filter.

    The transform is deterministic, so that ``CacheDataset`` and ``PersistentDataset`` run it once for each item. ITK
    runs in one thread, because its sums depend on the number of threads.

    Args:
        shrink_factor: voxels from one sample to the next along each axis, default 4. An axis is shrunk less where
            fewer than 16 samples would remain.
        mask: what the field is estimated on: "otsu" (default) the voxels above Otsu's threshold, ``None`` all voxels
            above 0. The field is applied to all voxels.
        num_iterations: maximum iterations at each level; each level has twice the knots of the one before. Default
            (50, 50, 50, 50).
        progress: show a bar of the iterations, if ``tqdm`` is installed and standard error is a terminal.
            Default ``False``.

    Raises:
        ValueError: When ``shrink_factor`` or ``num_iterations`` are not positive, or ``mask`` is neither "otsu" nor
            ``None``.

    N. J. Tustison et al., N4ITK: Improved N3 Bias Correction, IEEE TMI 29(6), 2010.

    Example::

        >>> image = torch.ones(1, 24, 24)
        >>> image[:, 6:18, 6:18] = torch.linspace(90, 110, 12)
        >>> before, after = (x[:, 6:18, 6:18].std() for x in (image, BiasFieldCorrection()(image)))
        >>> bool(after < before / 2)
        True

    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  (as in MONAI)

    def __init__(
        self,
        shrink_factor: int = 4,
        mask: str | None = _OTSU,
        *,
        num_iterations: Sequence[int] = (50, 50, 50, 50),
        progress: bool = False,
    ) -> None:
        if mask not in (_OTSU, None):
            raise ValueError(f"mask: expected 'otsu' or None, got {mask!r}. Pass a mask of your own with the image.")
        if shrink_factor < 1:
            raise ValueError(f"shrink_factor: expected 1 or more, got {shrink_factor}. Pass 1 to use every voxel.")
        if not len(num_iterations) or min(num_iterations) < 1:
            raise ValueError(
                f"num_iterations: expected 1 or more for each level, got {tuple(num_iterations)}. Leave out the level."
            )
        self.shrink_factor = shrink_factor
        self.mask = mask
        self.num_iterations = [int(count) for count in num_iterations]
        self.progress = progress

    def __call__(self, img: NdarrayOrTensor, mask: NdarrayOrTensor | None = None) -> NdarrayOrTensor:
        """Correct each channel.

        Args:
            img: image ``(C, X, Y[, Z])`` from 0 up.
            mask: voxels to estimate the field on, above 0, as ``(1, X, Y[, Z])`` or with ``img``'s channels. Takes the
                place of the transform's ``mask``. Default ``None``.

        Raises:
            ValueError: When the image is not 2-D or 3-D, or has negative or non-finite voxels.
            ValueError: When the mask does not fit the image, or has no voxel to estimate the field on.

        """
        array = convert_to_numpy(img, dtype=np.float32)
        if array.ndim not in (3, 4) or sum(size > 1 for size in array.shape[1:]) < 2:
            raise ValueError(f"img: expected (C, X, Y) or (C, X, Y, Z), got {array.shape}. Add the channel axis first.")
        if not np.isfinite(array).all() or (array < 0).any():
            raise ValueError(
                f"img: expected finite values from 0 up, got {array.min()} to {array.max()}. "
                "Correct the bias field before normalizing intensities."
            )
        masks: Any = [None] * len(array) if mask is None else _fitted(mask, array.shape)
        out = np.stack([self._correct(channel, inside) for channel, inside in zip(array, masks, strict=True)])
        return convert_to_dst_type(out, img, dtype=torch.float32 if isinstance(img, torch.Tensor) else np.float32)[0]

    def _correct(self, channel: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
        if channel.min() == channel.max():
            return channel
        flat = channel.squeeze()  # N4 has no use for an axis of one voxel
        steps = [max(1, min(self.shrink_factor, size // _MIN_SAMPLES)) for size in flat.shape]
        # centered, so that as little as possible of either border lies outside the samples
        offsets = [(size - 1) % step // 2 for size, step in zip(flat.shape, steps, strict=True)]
        every = tuple(slice(offset, None, step) for offset, step in zip(offsets, steps, strict=True))
        samples = np.ascontiguousarray(flat[every])
        with _one_thread:
            inside = self._inside(samples) if inside is None else inside.squeeze()[every]
            lattice = self._fit(samples, inside & (samples > 0))
        for size, offset, step, count in zip(flat.shape, offsets, steps, samples.shape, strict=True):
            position = np.clip((np.arange(size) - offset) / step / (count - 1), 0, 1)
            # contracts the first axis and appends it, evaluated, as the last: after all axes, their order is restored
            lattice = np.tensordot(lattice, _cubic_weights(position, lattice.shape[0]), axes=(0, 1))
        return (flat / np.exp(lattice)).astype(np.float32).reshape(channel.shape)

    def _inside(self, samples: np.ndarray) -> np.ndarray:
        """Return the samples to estimate the field on where the caller gave no mask."""
        if self.mask is None:
            return np.ones(samples.shape, dtype=bool)
        import itk

        image = itk.image_from_array(samples)
        above = itk.otsu_threshold_image_filter(image, inside_value=0, outside_value=1, number_of_histogram_bins=200)
        return itk.array_from_image(above) > 0

    def _fit(self, samples: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return the control points of the logarithm of the field, in the order of the samples' axes."""
        import itk

        if not inside.any():
            raise ValueError(
                "mask: expected voxels above 0 among the samples, got none. Correct the mask or lower shrink_factor."
            )
        image, mask = itk.image_from_array(samples), itk.image_from_array(inside.astype(np.uint8))
        with self._bar() as advance:
            n4 = itk.N4BiasFieldCorrectionImageFilter[type(image), type(mask), type(image)].New()
            n4.SetInput(image)
            n4.SetMaskImage(mask)
            n4.SetNumberOfFittingLevels(len(self.num_iterations))
            n4.SetMaximumNumberOfIterations(self.num_iterations)
            n4.AddObserver(itk.IterationEvent(), advance)
            n4.Update()
        points = n4.GetLogBiasFieldControlPointLattice()
        # read point by point, because ITK offers no array view of such an image; its first axis is NumPy's last
        shape = tuple(points.GetLargestPossibleRegion().GetSize())
        return np.array([points.GetPixel(index)[0] for index in np.ndindex(shape)]).reshape(shape).T

    @contextmanager
    def _bar(self) -> Iterator[Callable[[], Any]]:
        """Yield a function to call at each iteration."""
        if not (self.progress and _HAS_TQDM):
            yield lambda: None
            return
        # disable=None makes tqdm silent without a terminal
        with tqdm(total=sum(self.num_iterations), desc="N4", leave=False, disable=None) as bar:
            yield bar.update


class BiasFieldCorrectiond(MapTransform):
    """Dictionary-based wrapper of :py:class:`BiasFieldCorrection`.

    Args:
        keys: keys of the images to correct.
        shrink_factor: see :py:class:`BiasFieldCorrection`. Default 4.
        mask: "otsu" (default), ``None``, or the key of a mask in the item, for all images.
        num_iterations: see :py:class:`BiasFieldCorrection`. Default (50, 50, 50, 50).
        progress: see :py:class:`BiasFieldCorrection`. Default ``False``.
        allow_missing_keys: do not raise an exception if a key is missing. Default ``False``.

    """

    backend = BiasFieldCorrection.backend

    def __init__(
        self,
        keys: KeysCollection,
        shrink_factor: int = 4,
        *,
        mask: str | None = _OTSU,
        num_iterations: Sequence[int] = (50, 50, 50, 50),
        progress: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = None if mask in (_OTSU, None) else mask
        self.corrector = BiasFieldCorrection(
            shrink_factor,
            mask if self.mask_key is None else None,
            num_iterations=num_iterations,
            progress=progress,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct the image of each key.

        Args:
            data: an item with its images loaded, channel first.

        Raises:
            KeyError: When the item has no mask under the key given.

        """
        d = dict(data)
        if self.mask_key is not None and self.mask_key not in d:
            raise KeyError(f"mask: expected 'otsu', None or a key of the item, got {self.mask_key!r}. Load the mask.")
        mask = None if self.mask_key is None else d[self.mask_key]
        for key in self.key_iterator(d):
            d[key] = self.corrector(d[key], mask)
        return d


def _fitted(mask: NdarrayOrTensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask of the image's shape."""
    array = convert_to_numpy(mask)
    if array.shape[1:] != shape[1:] or array.shape[0] not in (1, shape[0]):
        raise ValueError(f"mask: expected {(1, *shape[1:])} or {shape}, got {array.shape}. Resample it like the image.")
    return np.broadcast_to(array > 0, shape)


def _cubic_weights(position: np.ndarray, points: int) -> np.ndarray:
    """Return the weight of each control point of a uniform cubic B-spline at each position in 0..1."""
    knot = position * (points - 3)
    first = np.minimum(knot.astype(int), points - 4)
    t = knot - first
    bases = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    weights = np.zeros((len(position), points))
    weights[np.arange(len(position))[:, None], first[:, None] + np.arange(4)] = np.stack(bases, axis=1) / 6
    return weights


class _OneThread:
    """Limit ITK to one thread while any thread of this process uses it, and let the process not fork meanwhile.

    N4 does not pass its own setting to the filters that it runs. A forked worker of a data loader would wait forever
    for what a thread of its parent held in ITK when it was forked.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._users = self._forks = self._threads = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._wait, after_in_parent=self._go_on, after_in_child=self._go_on)

    def __enter__(self) -> None:
        import itk

        with self._free:
            while self._forks:
                self._free.wait()
            if not self._users:
                self._threads = itk.get_nthreads()
                itk.set_nthreads(1)
            self._users += 1

    def __exit__(self, *error: object) -> None:
        import itk

        with self._free:
            self._users -= 1
            if not self._users:
                itk.set_nthreads(self._threads)
                self._free.notify_all()

    def _wait(self) -> None:
        self._free.acquire()
        self._forks += 1
        while self._users:
            self._free.wait()

    def _go_on(self) -> None:
        self._forks -= 1
        self._free.notify_all()
        self._free.release()


_one_thread = _OneThread()


BiasFieldCorrectionD = BiasFieldCorrectionDict = BiasFieldCorrectiond
