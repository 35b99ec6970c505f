"""An adapter in a run's directory is one of peft: it opens beside the pretrained network, and computes the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from emorec.encoders.lora import adapter
from tests.encoders.test_trained_encoders import Media, media_of, stored_batch, trained
from tests.encoders.tiny_checkpoints import TinyCheckpoints

# choice -> what a network of transformers makes of the input (N, …) that the run's part has prepared: (N, T, D)
NETWORKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "text/minilm": lambda network, tokens: network(input_ids=tokens).last_hidden_state,
    "audio/wav2vec2_base": lambda network, waveform: network(waveform).last_hidden_state,
    "audio/whisper_base": lambda network, bands: network(bands).last_hidden_state,
    "video/vit_base": lambda network, pixels: network(pixels.flatten(0, 1)).last_hidden_state.flatten(0, 1)[None],
}
# Whisper of transformers takes 30 s only, and layers below a cut read the clip alone
CASES = [(choice, cut) for choice in NETWORKS for cut in (0, 1) if (choice, cut) != ("audio/whisper_base", 1)]


@pytest.mark.parametrize(("choice", "train_from"), CASES)
def test_peft_opens_an_adapter_and_computes_what_the_run_does(
    choice: str, train_from: int, checkpoints: TinyCheckpoints, media: Media, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    def encoder_from(cut: int) -> Any:
        changes = {"window": "padded"} if "whisper" in choice else {}
        return trained(choice, checkpoints, training="lora", train_from=cut, **changes)

    encoder, sources = encoder_from(train_from), media_of(choice, media)[:1]
    part = encoder.trained().eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in part.trained():
            if "lora_B" in name:  # zero at first
                parameter.data.normal_(0, 0.5)
    settings, weights = adapter(part.stack.network, part.lora)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(weights, tmp_path / "adapter_model.safetensors")

    base = AutoModel.from_pretrained(settings["base_model_name_or_path"])
    base = getattr(base, "encoder", base) if "whisper" in choice else base
    whole = encoder_from(0)
    values, mask = stored_batch(whole, sources)
    reader, lengths = whole.trained(), mask.sum(1)
    inputs, _ = reader.prepared(reader.scaled(values, lengths), lengths)
    with torch.no_grad():
        plain = NETWORKS[choice](base.eval(), inputs)
        opened = PeftModel.from_pretrained(base, tmp_path).eval()
        found = NETWORKS[choice](opened, inputs)
        values, mask = stored_batch(encoder, sources)
        lengths = mask.sum(1)
        expected, _ = part.states(part.scaled(values, lengths), lengths)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=1e-5, rtol=1e-4)
    assert (found - plain).abs().max() > 0.01
    own = opened.state_dict()
    assert {name.replace(".default", "") for name in own if "lora_" in name} == weights.keys()
