"""Makes ``odapi/*.zip``: small exports by the Object Detection API itself, and what they compute.

    python make_odapi.py 1     (TensorFlow 1.15: a frozen graph and its SavedModel)
    python make_odapi.py 2     (TensorFlow 2.8: SavedModels)

in environments with the distribution ``tf-models-research-object-detection`` 2.8.0.post1
(Apache-2.0), or its sources on ``PYTHONPATH``. Networks are the API's, built of its own
configuration, with random weights; exporters are the API's too. The files are in the
repository, so that tests need neither.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

HERE = Path(__file__).parent / "odapi"
CLASSES = 3
FIXED = "fixed_shape_resizer { height: 64 width: 96 }"
RATIO = "keep_aspect_ratio_resizer { min_dimension: 96 max_dimension: 96 pad_to_max_dimension: %s }"
# Name: TensorFlow, feature extractor, resizer, score converter.
CASES = {
    "tf1_mobilenet": (1, "ssd_mobilenet_v1", FIXED, "SIGMOID"),
    "tf1_softmax": (1, "ssd_mobilenet_v2", FIXED, "SOFTMAX"),
    "tf1_keep_aspect": (1, "ssd_mobilenet_v1", RATIO % "true", "SIGMOID"),
    "tf2_mobilenet": (2, "ssd_mobilenet_v2_keras", FIXED, "SIGMOID"),
    "tf2_keep_aspect": (2, "ssd_mobilenet_v2_keras", RATIO % "true", "SIGMOID"),
}
_CONV = """conv_hyperparams {
  regularizer { l2_regularizer { weight: 0.00004 } }
  initializer { truncated_normal_initializer { stddev: 0.4 mean: 0.0 } }
  activation: RELU_6
  batch_norm { train: true scale: true center: true decay: 0.97 epsilon: 0.001 } }"""
CONFIG = """model { ssd {
  num_classes: %d
  image_resizer { %s }
  feature_extractor { type: "%s" depth_multiplier: 0.02 min_depth: 4 %s
    override_base_feature_extractor_hyperparams: true }
  box_coder { faster_rcnn_box_coder {
    y_scale: 10.0 x_scale: 10.0 height_scale: 5.0 width_scale: 5.0 } }
  matcher { argmax_matcher { matched_threshold: 0.5 unmatched_threshold: 0.5 } }
  similarity_calculator { iou_similarity { } }
  box_predictor { convolutional_box_predictor { %s
    min_depth: 0 max_depth: 0 num_layers_before_predictor: 0 use_dropout: false
    kernel_size: 1 box_code_size: 4 apply_sigmoid_to_scores: false } }
  anchor_generator { ssd_anchor_generator { num_layers: 6 min_scale: 0.2 max_scale: 0.95
    aspect_ratios: 1.0 aspect_ratios: 2.0 aspect_ratios: 0.5 } }
  post_processing {
    batch_non_max_suppression { score_threshold: 0.3 iou_threshold: 0.55
      max_detections_per_class: 20 max_total_detections: 30 }
    score_converter: %s }
  loss { localization_loss { weighted_smooth_l1 { } }
    classification_loss { weighted_sigmoid { } } }
} }"""


def config(extractor: str, resizer: str, converter: str) -> Any:
    from object_detection.protos import pipeline_pb2  # type: ignore[import-not-found]

    text = CONFIG % (CLASSES, resizer, extractor, _CONV, _CONV, converter)
    return text_format.Parse(text, pipeline_pb2.TrainEvalPipelineConfig())


def weights(name: str, value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Random ones that keep values in the middle of what a network uses."""
    if value.dtype.kind != "f":
        return value
    if re.search(r"moving_variance|gamma", name):
        return random.uniform(0.5, 1.5, value.shape).astype(value.dtype)
    if value.ndim < 2:
        return random.normal(0, 0.2, value.shape).astype(value.dtype)
    return random.normal(0, np.sqrt(2 / np.prod(value.shape[:-1])), value.shape).astype(value.dtype)


def export_1(parsed: Any, folder: Path, images: np.ndarray) -> None:
    from object_detection import exporter  # type: ignore[import-not-found]
    from object_detection.builders import model_builder  # type: ignore[import-not-found]

    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(0)
        model = model_builder.build(parsed.model, is_training=False)
        exporter.build_detection_graph("image_tensor", model, None, "inference_op", None)
        session.run(tf.compat.v1.global_variables_initializer())
        random = np.random.default_rng(5)
        for variable in tf.compat.v1.global_variables():
            variable.load(weights(variable.name, session.run(variable), random), session)
        saver = tf.compat.v1.train.Saver()
        with tempfile.TemporaryDirectory() as checkpoint:
            prefix = saver.save(session, f"{checkpoint}/model.ckpt")
            made = Path(checkpoint) / "made"
            with tf.Graph().as_default():
                exporter.export_inference_graph("image_tensor", parsed, prefix, str(made))
            shutil.copy(made / "frozen_inference_graph.pb", folder / "frozen_inference_graph.pb")
            if folder.name == "tf1_mobilenet":
                (folder / "saved_model").mkdir()
                shutil.copy(made / "saved_model" / "saved_model.pb", folder / "saved_model")
    run_1(folder, images)


def run_1(folder: Path, images: np.ndarray) -> None:
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString((folder / "frozen_inference_graph.pb").read_bytes())
    names = {n.name for n in definition.node}
    wanted = [n for n in names if re.fullmatch(r"(raw_)?detection_\w+|num_detections", n)]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        found = session.run({n: f"{n}:0" for n in wanted}, {"image_tensor:0": images})
    np.savez_compressed(folder / "expected.npz", images=images, **found)


def export_2(parsed: Any, folder: Path, images: np.ndarray) -> None:
    from object_detection import exporter_lib_v2
    from object_detection.builders import model_builder

    model = model_builder.build(parsed.model, is_training=False)
    image, shapes = model.preprocess(tf.zeros((1, 64, 96, 3)))
    model.postprocess(model.predict(image, shapes), shapes)
    random = np.random.default_rng(5)
    for variable in model._feature_extractor.variables + model._box_predictor.variables:
        variable.assign(weights(variable.name, variable.numpy(), random))
    with tempfile.TemporaryDirectory() as checkpoint:
        saved = tf.train.Checkpoint(model=model)
        tf.train.CheckpointManager(saved, checkpoint, max_to_keep=1).save()
        made = Path(checkpoint) / "made"
        exporter_lib_v2.export_inference_graph("image_tensor", parsed, checkpoint, str(made))
        shutil.copytree(made / "saved_model", folder / "saved_model")
    shutil.rmtree(folder / "saved_model" / "assets", ignore_errors=True)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    function = loaded.signatures["serving_default"]
    each = [function(input_tensor=tf.constant(image[None])) for image in images]
    found: dict[str, Any] = {k: np.concatenate([one[k].numpy() for one in each]) for k in each[0]}
    strip(folder / "saved_model" / "saved_model.pb")
    (folder / "saved_model" / "fingerprint.pb").unlink(missing_ok=True)
    np.savez_compressed(folder / "expected.npz", images=images, **found)


def strip(path: Path) -> None:
    """Leave Keras's traces of each layer away, nine tenths of a file that no inference uses."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    pending = list(meta.graph_def.node)
    used: set[str] = set()
    while pending:
        for value in pending.pop().attr.values():
            name = value.func.name
            if name in functions and name not in used:
                used.add(name)
                pending.extend(functions[name].node_def)
    del meta.graph_def.library.function[:]
    meta.graph_def.library.function.extend(functions[name] for name in sorted(used))
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            node.ClearField("experimental_debug_info")
    meta.ClearField("object_graph_def")
    path.write_bytes(saved.SerializeToString(deterministic=True))


def main() -> None:
    version = int(sys.argv[1])
    if version == 2:
        # What only models use that are not made here.
        for name in (
            "official.legacy.image_classification.efficientnet",
            "official.modeling.optimization",
            "tensorflow_io",
        ):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(
                    ".".join(parts[:end]), types.ModuleType(".".join(parts[:end]))
                )
        for name, member in (
            ("official.legacy.image_classification.efficientnet", "efficientnet_model"),
            ("official.modeling.optimization", "ema_optimizer"),
        ):
            setattr(sys.modules[name], member, None)
    random = np.random.default_rng(0)
    for name, (made_by, extractor, resizer, converter) in CASES.items():
        if made_by != version or (len(sys.argv) > 2 and name not in sys.argv[2:]):
            continue
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shape = (2, 64, 96, 3) if "fixed" in resizer else (2, 96, 96, 3)
        images = random.integers(0, 256, shape).astype(np.uint8)
        parsed = config(extractor, resizer, converter)
        (export_1 if version == 1 else export_2)(parsed, folder, images)
        # Names of nodes make most of a file, and they repeat.
        shutil.make_archive(str(folder), "zip", folder)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
