"""Poolings and fusions against values computed by hand."""

import pytest
import torch

from emorec.batch import MODALITIES
from emorec.errors import UserError
from emorec.fusion.attention_sum import AttentionSum
from emorec.fusion.concat import Concat
from emorec.fusion.gated import Gated
from emorec.fusion.low_rank import LowRank
from emorec.fusion.pooling import AttentionPooling, masked_mean
from emorec.fusion.self_attention import SelfAttention
from emorec.fusion.tensor_fusion import TensorFusion
from emorec.fusion.votes import WeightedLogits
from tests.fusion.test_every_fusion import HIDDEN, inputs

DIMS = dict.fromkeys(MODALITIES, HIDDEN)


def test_the_masked_mean_is_over_marked_frames_only() -> None:
    sequence = torch.tensor([[[1.0], [3.0], [99.0]], [[5.0], [99.0], [99.0]], [[99.0], [99.0], [99.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert masked_mean(sequence, mask).tolist() == [[2.0], [5.0], [0.0]]
    assert masked_mean(sequence[:, 2:], mask[:, :1]).tolist() == [[99.0], [99.0], [0.0]]


def test_attention_pooling_with_equal_scores_is_the_mean() -> None:
    pooling = AttentionPooling(4)
    torch.nn.init.zeros_(pooling.score[2].weight)
    sequence = torch.randn(3, 5, 4)
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    torch.testing.assert_close(pooling(sequence, mask), masked_mean(sequence, mask))


def test_attention_pooling_weighs_frames_by_the_softmax_of_their_scores() -> None:
    pooling = AttentionPooling(4)
    sequence = torch.randn(1, 3, 4)
    weights = pooling.score(sequence)[0, :, 0].softmax(0)
    expected = sum(weight * frame for weight, frame in zip(weights, sequence[0], strict=True))
    torch.testing.assert_close(pooling(sequence, torch.ones(1, 3, dtype=torch.bool))[0], expected)


def test_concat_is_one_layer_on_the_vectors_side_by_side() -> None:
    fusion = Concat(dims=DIMS, hidden=HIDDEN).eval().double()
    output = fusion(*inputs(MODALITIES))
    linear = fusion.layer[1]
    expected = torch.nn.functional.gelu(linear(torch.cat([output.vectors[name] for name in MODALITIES], dim=1)))
    torch.testing.assert_close(output.fused, expected)


def test_gated_takes_the_only_modality_whole() -> None:
    fusion = Gated(dims=DIMS, hidden=HIDDEN).eval().double()
    features, mask, present = inputs(MODALITIES)
    for modality in ("text", "video"):
        present[modality][:] = False
    output = fusion(features, mask, present)
    expected = torch.tanh(fusion.values["audio"](output.vectors["audio"]))
    torch.testing.assert_close(output.fused, expected)


def test_self_attention_never_looks_at_the_token_of_a_missing_modality() -> None:
    fusion = SelfAttention(dims=DIMS, hidden=HIDDEN).eval().double()
    features, mask, present = inputs(MODALITIES)
    present["audio"][:] = False
    before = fusion(features, mask, present).fused
    with torch.no_grad():
        fusion.kind[MODALITIES.index("audio")] += 3.0 * torch.randn(HIDDEN)
    torch.testing.assert_close(fusion(features, mask, present).fused, before)
    with torch.no_grad():
        fusion.kind[MODALITIES.index("text")] += torch.randn(HIDDEN)
    assert not torch.allclose(fusion(features, mask, present).fused, before)


def test_self_attention_needs_heads_that_divide_the_hidden_size() -> None:
    with pytest.raises(UserError, match=r"fusion\.heads: expected a divisor of model\.hidden=16, got 3"):
        SelfAttention(dims=DIMS, hidden=HIDDEN, heads=3)


def extended(vector: torch.Tensor) -> torch.Tensor:
    """[h; 1] of each row."""
    return torch.cat([vector, torch.ones_like(vector[:, :1])], dim=1)


def test_tensor_fusion_reads_the_outer_product_with_the_ones() -> None:
    fusion = TensorFusion(dims=DIMS, hidden=HIDDEN, width=3).eval().double()
    features, mask, present = inputs(MODALITIES)
    present["audio"][0] = False
    output = fusion(features, mask, present)
    narrow = {name: fusion.narrow[name](output.vectors[name]) for name in MODALITIES}
    narrow["audio"][0] = 0  # [0; 1]: the products of the others are left
    text, audio, video = (extended(narrow[name]) for name in MODALITIES)
    product = torch.stack([torch.einsum("i,j,k->ijk", *row).flatten() for row in zip(text, audio, video, strict=True)])
    torch.testing.assert_close(output.fused, fusion.layers(product))


def test_low_rank_fusion_is_tensor_fusion_with_a_weight_of_low_rank() -> None:
    fusion = LowRank(dims=DIMS, hidden=HIDDEN, rank=2).eval().double()
    torch.nn.init.normal_(fusion.bias)
    output = fusion(*inputs(MODALITIES))
    vectors = [extended(output.vectors[name]) for name in MODALITIES]
    factors = [fusion.factors[name] for name in MODALITIES]
    weight = torch.einsum("r,rih,rjh,rkh->ijkh", fusion.weights, *factors)
    expected = torch.einsum("bi,bj,bk,ijkh->bh", *vectors, weight) + fusion.bias
    torch.testing.assert_close(output.fused, expected)


def test_the_weights_of_the_attention_sum_are_not_normalised() -> None:
    fusion = AttentionSum(dims=DIMS, hidden=HIDDEN).eval().double()
    output = fusion(*inputs(MODALITIES))
    values = [fusion.networks[name](output.vectors[name]) for name in MODALITIES]
    weights = fusion.score(torch.cat(values, dim=1))  # (B, 3)
    expected = sum(weights[:, number, None] * value for number, value in enumerate(values))
    torch.testing.assert_close(output.fused, expected)
    torch.nn.init.constant_(fusion.score[2].weight, 0.0)
    torch.nn.init.constant_(fusion.score[2].bias, 5.0)
    torch.testing.assert_close(fusion(*inputs(MODALITIES)).fused, 5.0 * torch.stack(values).sum(0))


def test_weighted_voting_is_over_the_modalities_that_are_there() -> None:
    weights = {"text": 3.0, "audio": 1.0, "video": 2.0}
    fusion = WeightedLogits(dims=DIMS, hidden=HIDDEN, outputs=4, weights=weights).eval().double()
    features, mask, present = inputs(MODALITIES)
    present["video"][1] = False
    output = fusion(features, mask, present)
    assert output.logits is not None
    assert output.decided is not None
    text, audio, video = (output.logits[name] for name in MODALITIES)
    torch.testing.assert_close(output.decided[0], (3 * text[0] + audio[0] + 2 * video[0]) / 6)
    torch.testing.assert_close(output.decided[1], (3 * text[1] + audio[1]) / 4)
