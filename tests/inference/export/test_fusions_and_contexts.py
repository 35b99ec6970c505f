"""Every fusion and context of `conf/` is exported and equals its model, or is refused with its reason."""

from typing import Any

import pytest
import torch

from emorec.errors import UserError
from emorec.inference.export.graph import check_exportable
from emorec.inference.export.parity import TOLERANCE
from tests.discovery import names
from tests.inference.export.small_models import DIMS, context_of, feature_ports, fusion_of, model_of, parity_of

pytestmark = pytest.mark.slow

CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names("fusion")]
CASES += [("concat", {"pooling": pooling}) for pooling in ("attention", "attentive_statistics")]
CASES += [("self_attention", {"over": "time"})]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("transformer", {"views": ["all", "same", "other", "same"], "past": 2, "future": 1}),
    ("bilstm", {"speakers": "name", "depth": 2}),
]


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_fusion_is_exported_as_it_is(name: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    fusion = fusion_of(name, tuple(DIMS), **changes)
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


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_settings_of_a_context_are_exported(name: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    context = context_of(name, **changes)
    if context.names is not None:
        torch.nn.init.normal_(context.names.vectors)
    model = model_of(DIMS, fusion_of("concat", tuple(DIMS)), context=context)
    assert parity_of(model, feature_ports(DIMS)).difference <= TOLERANCE
