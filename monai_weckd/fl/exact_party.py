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

"""A site in the rounds of the exact head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_weckd.bundle.output import check_output_dir
from monai_weckd.fl.bundle import SiteBundle
from monai_weckd.fl.exact import ExactHead, Sums
from monai_weckd.fl.exact_rounds import SiteAnswer
from monai_weckd.fl.exact_site import ExactSite
from monai_weckd.fl.faults import fault_of

__all__ = ["ExactParty"]

logger = logging.getLogger(__name__)


class ExactParty:
    """A site in the rounds; it reads its images when the first question comes.

    Args:
        settings: ``bundle``, ``dataset_dir``, ``output_dir``, and the arguments of
            :py:class:`~monai_weckd.fl.SiteBundle`; others have no effect.
        weights: of a network that the sites have trained, default None: the bundle's network is frozen.

    """

    def __init__(self, settings: Mapping[str, Any], weights: Sums | None = None) -> None:
        self._settings, self._weights = settings, weights
        self._bundle: SiteBundle | None = None
        self._site: ExactSite | None = None

    def answer(self, task: str, totals: Mapping[str, Sums]) -> SiteAnswer:
        """Answer a question of the server. An error stays in the site's log, because it may name an image.

        Args:
            task: name of the round.
            totals: sums of the earlier rounds over all sites.

        """
        try:
            if self._site is None:
                if self._weights is None:  # else the folder has what the site's training has left
                    check_output_dir(self._settings["output_dir"])
                self._site = self.bundle.site(self._settings["dataset_dir"])
            return SiteAnswer(getattr(self._site, task)(*totals.values()), self.bundle.identity)
        except Exception as error:  # any: the server must learn that this site has failed
            logger.exception("%s failed", task)
            return SiteAnswer({}, fault=fault_of(error))

    def write(
        self,
        head: ExactHead,
        sites: Sequence[str],
        *,
        stages: Sequence[Mapping[str, Any]] = (),
        again: bool = False,
    ) -> None:
        """Write the model of all sites into ``output_dir``.

        Args:
            head: the head.
            sites: the sites whose labels it has seen.
            stages: records of the stages that have trained the network.
            again: whether to replace the model, which an earlier server may have sent.

        """
        if again:
            Path(self._settings["output_dir"], "model.pt").unlink(missing_ok=True)
        path = self.bundle.write(head, self._settings["output_dir"], stages)
        logger.info("written %s, the head for the labels of %s", path, ", ".join(sites))

    @property
    def bundle(self) -> SiteBundle:
        """The bundle."""
        if self._bundle is None:
            given = {name: self._settings.get(name) for name in ("classes", "changes")}
            overlays = self._settings.get("overlays", ())
            self._bundle = SiteBundle(self._settings["bundle"], overlays=overlays, **given, weights=self._weights)
        return self._bundle
