"""A graph of one product for onnxruntime and DeepSparse. This is no bench itself."""

from onnx import TensorProto, helper, numpy_helper


def written(weight, batch):
    """y [batch, rows] = x [batch, columns] times the weight [rows, columns] transposed."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, rows])],
        [numpy_helper.from_array(weight.T.copy(), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
