"""An engine of TensorRT, for the GPU of this machine."""

from typing import Any

from emorec.errors import UserError
from emorec.inference.export.card import sizes_of
from emorec.inference.export.graph import ExportGraph

WORKSPACE = 4 << 30  # bytes


def require_tensorrt() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise UserError(
            "format: expected the package tensorrt for format=tensorrt, got none; with format=onnx the folder's "
            "README.md has the command of trtexec that builds the engine on another machine"
        ) from error
    return tensorrt


def engine_of(content: bytes, graph: ExportGraph) -> bytes:
    """The engine of an ONNX file, for batches and lengths up to those that the card names.

    Raises:
        UserError: TensorRT cannot build it.
    """
    tensorrt = require_tensorrt()
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, builder.logger)
    if not parser.parse(content):
        raise UserError(f"expected a model that TensorRT can build, got one that it cannot: {parser.get_error(0)}")
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    sizes = [sizes_of(graph, which) for which in range(3)]
    for name in sizes[0]:
        profile.set_shape(name, *(tuple(int(size) for size in shapes[name].split("x")) for shapes in sizes))
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    if engine is None:
        raise UserError("expected a model that TensorRT can build, got one that it cannot")
    return bytes(engine)
