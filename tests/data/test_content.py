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

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading

import monai.transforms
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, RandFlipd, ScaleIntensityRanged
from PIL import Image

from monai_weckd.data import ByteCacheDataset
from monai_weckd.data.content import UndescribedError, describe
from monai_weckd.transforms import BatchAugment, BatchRandAffine, LoadMedicalImaged


def helper(x):
    return torch.exp(x)


def make(gain, function=torch.exp):
    def inner(x, scale=gain):
        return function(x) * scale

    return inner


class Own(monai.transforms.Transform):
    def __call__(self, x):
        return x

    def method(self, x):
        return x


class Other(Own):
    pass


SCALE = ScaleIntensityRanged("image", 0, 255, -1, 1)

# what says by name, version and settings what it does
DESCRIBED = {
    "function of a library": lambda: torch.exp,
    "another one": lambda: torch.tanh,
    "ufunc": lambda: np.exp,
    "another ufunc": lambda: np.tanh,
    "builtin": lambda: abs,
    "another builtin": lambda: round,
    "partial": lambda: functools.partial(torch.clamp, min=0),
    "partial with another keyword": lambda: functools.partial(torch.clamp, max=0),
    "partial of another function": lambda: functools.partial(torch.add, 1),
    "partial with an argument": lambda: functools.partial(torch.add, 2),
    "method of an object with settings": lambda: SCALE.__call__,
    "of another": lambda: ScaleIntensityRanged("image", 0, 254, -1, 1).__call__,
    "transform": lambda: Compose([LoadMedicalImaged("image"), Lambdad("image", torch.exp)]),
    "with another function": lambda: Compose([LoadMedicalImaged("image"), Lambdad("image", torch.tanh)]),
    "with another number": lambda: Compose([LoadMedicalImaged("image", channels=1), Lambdad("image", torch.tanh)]),
    "batch transform": lambda: BatchAugment([BatchRandAffine(rotate_range=0.1)]),
    "with another angle": lambda: BatchAugment([BatchRandAffine(rotate_range=0.2)]),
    "network": lambda: torch.nn.Linear(2, 1, bias=False).requires_grad_(False),
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "half": lambda: torch.tensor([1.0, 2.0]).bfloat16(),
    "other tensor": lambda: torch.tensor([1.0, 3.0]),
    "array": lambda: np.array([1.0, 2.0]),
    "number": lambda: 1,
    "flag": lambda: True,
    "text": lambda: "1",
    "list": lambda: [1, 2],
    "tuple": lambda: (1, 2),
}
# whose code may be other code tomorrow, or calls code that may
REFUSED = {
    "lambda": lambda x: torch.exp(x),
    "function": helper,
    "closure": make(2),
    "default": lambda x, gain=2: x * gain,
    "inner function": lambda x: (lambda y: y + 1)(x),
    "method": Own().method,
    "callable object": Other(),
    "class": Own,
    "partial of a function": functools.partial(helper),
    "partial with a function": functools.partial(torch.add, helper),
    "in a transform": Compose([Lambdad("image", helper)]),
    "in a list": [1, [helper]],
    "in a dictionary": {"a": helper},
    "wrapped": functools.wraps(torch.exp)(lambda x: helper(x)),
    "lock": threading.Lock(),
    "object": object(),
    "array of objects": np.array([helper], dtype=object),
    "generator": (x for x in [1]),
    "method of a class": Own.method,
    "cached": functools.lru_cache(helper),
}


def test_each_has_a_description_of_its_own():
    torch.manual_seed(0)
    found = {name: str(describe(make_it())) for name, make_it in DESCRIBED.items()}
    assert len(set(found.values())) == len(DESCRIBED)


@pytest.mark.parametrize("name", sorted(set(DESCRIBED) - {"network"}))
def test_made_twice_it_has_one_description(name):
    assert describe(DESCRIBED[name]()) == describe(DESCRIBED[name]())


def test_a_recipe_says_what_the_code_of_anybody_does():
    one, other, same = make(2), make(3), make(2)
    one.recipe, other.recipe, same.recipe = "exp, times 2", "exp, times 3", "exp, times 2"
    assert describe(Lambdad("image", one)) == describe(Lambdad("image", same)) != describe(Lambdad("image", other))


def test_random_states_are_no_part_of_it():
    one, two = RandFlipd("image", prob=0.5), RandFlipd("image", prob=0.5)
    two.set_random_state(3)
    assert describe(one) == describe(two) != describe(RandFlipd("image", prob=0.4))


@pytest.mark.parametrize("name", REFUSED)
def test_code_of_anybody_is_refused(name):
    with pytest.raises(UndescribedError, match=r"^transform: expected classes and functions of monai_weckd, monai, "):
        describe(REFUSED[name])


def test_another_process_gives_the_same_description():
    # what needs no import of MONAI, which takes seconds
    code = (
        "import functools, torch; from monai_weckd.data.content import describe\n"
        "print(describe([set('abcdefgh'), functools.partial(torch.clamp, min=0), torch.tensor([1.0])]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    # here, with another seed of hashes, a set has another order
    found = describe([set("abcdefgh"), functools.partial(torch.clamp, min=0), torch.tensor([1.0])])
    assert done.stdout == f"{found}\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: torch.exp(x / 255), lambda x: torch.tanh(x / 255)),
        (lambda x: (x / 255).exp(), lambda x: (x / 255).tanh()),
        (lambda x, gain=1: x / 255 * gain, lambda x, gain=2: x / 255 * gain),
        (
            functools.partial(lambda x, f: f(x / 255), f=torch.exp),
            functools.partial(lambda x, f: f(x / 255), f=torch.tanh),
        ),
        (make(0.1, torch.sin), make(0.1, torch.cos)),
    ],
)
def test_a_file_never_serves_images_of_another_function(tmp_path, caplog, one, other):
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(tmp_path / "a.png")
    items, cache = [{"image": str(tmp_path / "a.png")}], tmp_path / "cache"
    for function in (one, other):
        transform = Compose([LoadMedicalImaged("image"), Lambdad("image", function)])
        with caplog.at_level(logging.WARNING):
            found = ByteCacheDataset(items, transform, cache_dir=cache)[0]["image"]
        assert found.mean() == pytest.approx(float(function(torch.tensor(200.0))), rel=2e-3)
    assert "cache_dir: not used. transform: expected classes and functions of" in caplog.text
