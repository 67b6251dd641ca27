"""Learned methods train the masks of all linears together, on frozen weights."""

import math
from typing import Annotated

from pydantic import Field

from pipeline.errors import InvalidSpec
from pipeline.methods.base import MethodBase
from pipeline.methods.single import Single
from pipeline.methods.wanda import Wanda
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.stored_masks import StoredMasks
from pipeline.tensor.needs import Needs

MAX_CANDIDATES = 70  # those of 4:8; every N:M with M up to 8 has as many or fewer

Prior = Annotated[Single | StoredMasks, Field(discriminator="kind")]


class LearnedMethod(MethodBase):
    """A method whose N:M masks are trained as `training` says.

    `prior`: the masks that learning starts from; without one it starts from random logits. `prior_strength`:
    a candidate's logit rises by 0.01 times this value for each weight that both it and the prior keep.
    """

    kind: str
    prior: Prior | None = Wanda()
    prior_strength: float = Field(default=3.0, gt=0, le=1000)
    training: MaskTraining

    @property
    def prior_method(self) -> Single | None:
        """The method whose masks learning starts from, if it starts from a method's."""
        return None if self.prior is None or isinstance(self.prior, StoredMasks) else self.prior

    @property
    def needs(self) -> Needs:
        """A learned method needs the statistics for its prior."""
        return self.prior_method.needs if self.prior_method is not None else frozenset()

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec unless the pattern is N:M with few enough candidate masks."""
        if not isinstance(pattern, NM):
            raise InvalidSpec(
                f"method {self.kind} learns N:M masks; use pattern kind nm, such as keep 2, group 4",
                "spec.prune.pattern.kind",
            )
        count = math.comb(pattern.group, pattern.keep)
        if count > MAX_CANDIDATES:
            raise InvalidSpec(
                f"NM({pattern.keep},{pattern.group}) has {count} candidate masks a group, each with a logit "
                f"that is trained; at most {MAX_CANDIDATES} are, which every group up to 8 keeps to",
                "spec.prune.pattern.group",
            )
