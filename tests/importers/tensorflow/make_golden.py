"""Makes ``golden/``: small networks by TensorFlow itself, and what it computes with them.

    python make_golden.py      (in an environment with TensorFlow 2.16 or newer)

The files are in the repository, so that tests need no TensorFlow.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

HERE = Path(__file__).parent / "golden"
HEIGHT, WIDTH, CLASSES = 32, 48, 3


def network() -> tf.keras.Model:
    """A detector in small: what MobileNet-SSDs are made of, with random weights."""
    layers = tf.keras.layers
    image = layers.Input((HEIGHT, WIDTH, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(epsilon=1e-3)(x)
    x = layers.ReLU(6.0)(x)
    skip = x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.LeakyReLU(negative_slope=0.1)(x)
    x = layers.ZeroPadding2D(((1, 0), (0, 1)))(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.Conv2D(16, 3, dilation_rate=2, padding="same", activation="swish")(x)
    x = layers.AveragePooling2D(2, strides=1, padding="same")(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = layers.Cropping2D(((2, 0), (0, 2)))(x)
    x = layers.Concatenate()([x, skip])
    x = layers.SeparableConv2D(12, 3, strides=2, padding="same", activation="elu")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(12, 1, activation="hard_sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.MaxPooling2D(4)(x)
    boxes = layers.Reshape((-1, 4))(layers.Conv2D(8, 1, activation="sigmoid")(x))
    scores = layers.Reshape((-1, CLASSES))(layers.Conv2D(2 * CLASSES, 3, padding="same")(x))
    scores = layers.Activation("sigmoid")(scores)
    return tf.keras.Model(image, {"boxes": boxes, "scores": scores})


def randomise(model: tf.keras.Model, seed: int = 3) -> None:
    """Statistics other than 0 and 1, or a wrong order of them would go unseen."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            values = [random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            layer.set_weights([values[0], values[1] - 1, values[2] - 1, values[3]])
        elif layer.get_weights():
            layer.set_weights([w + random.normal(0, 0.1, w.shape) for w in layer.get_weights()])


def freeze(model: tf.keras.Model, path: Path) -> None:
    function = tf.function(lambda image: model(image)).get_concrete_function(
        tf.TensorSpec((None, HEIGHT, WIDTH, 3), tf.float32, name="image")
    )
    frozen = convert_variables_to_constants_v2(function)
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())


def lite(model: tf.keras.Model, images: np.ndarray, *, quantized: bool) -> bytes:
    fixed = tf.function(lambda image: model(image)).get_concrete_function(
        tf.TensorSpec((1, HEIGHT, WIDTH, 3), tf.float32, name="image")
    )
    fixed = convert_variables_to_constants_v2(fixed)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed])
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [image[None].astype(np.float32)] for image in images
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    return bytes(converter.convert())


def interpret(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    found: dict[int, list[np.ndarray]] = {}
    for image in images:
        interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
        interpreter.invoke()
        for detail in interpreter.get_output_details():
            value = interpreter.get_tensor(detail["index"])
            if value.dtype != np.float32:
                scale, zero = detail["quantization"]
                value = ((value.astype(np.float32) - zero) * scale).astype(np.float32)
            found.setdefault(value.shape[-1], []).append(value)
    return {
        "boxes": np.concatenate(found[4]),
        "scores": np.concatenate(found[CLASSES]),
    }


def main() -> None:
    tf.keras.utils.set_random_seed(1)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    model = network()
    randomise(model)
    images = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 3), np.uint8)
    truth = {k: np.asarray(v) for k, v in model(images[:3].astype(np.float32)).items()}
    model.export(str(HERE / "saved_model"), verbose=False)
    shutil.rmtree(HERE / "saved_model" / "assets", ignore_errors=True)
    (HERE / "saved_model" / "fingerprint.pb").unlink(missing_ok=True)
    freeze(model, HERE / "frozen.pb")
    content = {
        "float": lite(model, images, quantized=False),
        "int8": lite(model, images, quantized=True),
    }
    for name, data in content.items():
        (HERE / f"{name}.tflite").write_bytes(data)
    expected: dict[str, Any] = {f"keras_{k}": v for k, v in truth.items()}
    expected |= {
        f"{name}_{k}": v
        for name, data in content.items()
        for k, v in interpret(data, images[:3]).items()
    }
    np.savez_compressed(HERE / "expected.npz", images=images[:3], **expected)


if __name__ == "__main__":
    main()
