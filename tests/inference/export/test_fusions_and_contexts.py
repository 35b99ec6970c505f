"""Every fusion and context of `conf/` is exported and equals its model, or is refused with its reason."""

import pytest
import torch

from emorec.errors import UserError
from emorec.inference.export.graph import check_exportable
from emorec.inference.export.parity import TOLERANCE
from tests.discovery import names
from tests.inference.export.small_models import DIMS, context_of, feature_ports, fusion_of, model_of, parity_of

CASES = [(name, "mean") for name in names("fusion")]
CASES += [("concat", pooling) for pooling in ("attention", "attentive_statistics")]


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_a_fusion_is_exported_as_it_is(name: str, pooling: str) -> None:
    torch.manual_seed(0)
    fusion = fusion_of(name, tuple(DIMS), pooling=pooling)
    assert not fusion.unexportable
    assert parity_of(model_of(DIMS, fusion), feature_ports(DIMS)).difference <= TOLERANCE


@pytest.mark.parametrize("causal", [False, True], ids=["both_directions", "causal"])
@pytest.mark.parametrize("name", names("context"))
def test_a_context_is_exported_as_it_is_or_refused_with_its_reason(name: str, causal: bool) -> None:
    torch.manual_seed(0)
    dims = {"text": 6, "audio": 10}
    context = context_of(name, causal=causal)
    model = model_of(dims, fusion_of("concat", tuple(dims)), context=context)
    if context.unexportable:
        with pytest.raises(UserError, match=f"context .* got {type(context).__name__}: {context.unexportable}"):
            check_exportable(model)
        return
    check_exportable(model)
    assert parity_of(model, feature_ports(dims)).difference <= TOLERANCE
