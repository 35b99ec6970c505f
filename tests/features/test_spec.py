import json
import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emorec.features.spec import FeatureSpec
from tests.conftest import REPOSITORY

SPEC = FeatureSpec(
    encoder="HuggingFaceText",
    version=1,
    dtype="float32",
    checkpoint="some/model",
    revision="abc",
    layer=-1,
    pooling="mean",
    processor={"max_length": 128},
    media={"sample_rate": 16000},
    state=None,
)
OTHER = {
    "encoder": "LogMel",
    "version": 2,
    "dtype": "float16",
    "checkpoint": "other/model",
    "revision": "abd",
    "layer": 6,
    "pooling": "cls",
    "processor": {"max_length": 129},
    "media": {"sample_rate": 8000},
    "state": "learned",
    "schema": 2,
}


@pytest.mark.parametrize("field", [item.name for item in fields(FeatureSpec)])
def test_each_field_alone_changes_the_digest(field: str) -> None:
    assert replace(SPEC, **{field: OTHER[field]}).digest != SPEC.digest


def test_equal_specs_share_a_digest_and_a_folder() -> None:
    again = FeatureSpec(**json.loads(json.dumps(asdict(SPEC))))
    assert again.digest == SPEC.digest
    assert again.folder_name == f"hugging_face_text-{SPEC.digest[:12]}"


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=6))
def test_the_order_of_settings_does_not_count(settings: dict[str, object]) -> None:
    backwards = dict(reversed(settings.items()))
    assert replace(SPEC, processor=settings).digest == replace(SPEC, processor=backwards).digest


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_digest_is_the_same_in_another_process(hash_seed: str) -> None:
    code = f"import json; from emorec.features.spec import FeatureSpec; print(FeatureSpec(**json.loads({json.dumps(json.dumps(asdict(SPEC)))})).digest)"  # noqa: E501
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SPEC.digest
