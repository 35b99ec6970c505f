"""What 8 bits change in small networks."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from emorec.inference.export.onnx_file import Session
from emorec.inference.export.quantization import quantized

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("bound", [nn.ReLU6(), nn.ReLU()])
def test_the_steps_of_an_activation_are_those_of_what_it_leaves(bound: nn.Module) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        convolution.bias.copy_(torch.linspace(-60, 3, 8))  # most channels are far below zero
    network = nn.Sequential(convolution, bound, nn.Conv2d(8, 2, 1))
    pictures = torch.rand(16, 3, 12, 12)
    stream = io.BytesIO()
    torch.onnx.export(network, (pictures,), stream, input_names=["x"], dynamo=False)
    inputs = {"x": pictures.numpy()}
    small, method = quantized(stream.getvalue(), lambda: [inputs])
    assert method.startswith("static")
    expected, found = (Session(content)(inputs)[0] for content in (stream.getvalue(), small))
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)
