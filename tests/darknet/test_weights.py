from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from boxwright.darknet.layers import BatchNorm, Connected, Convolutional, Shortcut
from boxwright.darknet.weights import WeightsReader
from boxwright.errors import WeightsError
from tests.darknet.cfgs import network, random_weights, write_weights

BODY = "[convolutional]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\n"


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 5), (1, 0, 0), (2, 0, 0)])
def test_both_headers(tmp_path: Path, version: tuple[int, int, int]) -> None:
    net = network(BODY)
    write_weights(tmp_path / "a.weights", random_weights(net), version)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        assert reader.header_size == (16 if version == (0, 1, 0) else 20)
        assert reader.images_seen == 64


def test_folding_uses_darknets_epsilon(tmp_path: Path) -> None:
    net = network(BODY)
    values = random_weights(net)
    biases, scales, means = values[0:4], values[4:8], values[8:12]
    variances = values[12:16]
    variances[0] = 1e-6  # where the place and the size of epsilon show
    weights = values[16 : 16 + 4 * 27].reshape(4, 3, 3, 3)
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, Convolutional)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        affine = reader.convolutional(layer)
    factor = scales.astype(float) / np.sqrt(variances.astype(float) + 1e-5)
    np.testing.assert_allclose(affine.weights, weights * factor[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(affine.biases, biases - means * factor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", [(0, 2, 5), (0, 1001, 0)])
def test_connected_matrices_may_lie_transposed(
    tmp_path: Path, version: tuple[int, int, int]
) -> None:
    net = network("[connected]\noutput=2\nactivation=linear\n", width=1, height=1)
    values = random_weights(net)
    write_weights(tmp_path / "a.weights", values, version)
    layer = net.layers[0]
    assert isinstance(layer, Connected)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        affine = reader.connected(layer)
    stored = values[2:8]
    expected = stored.reshape(3, 2).T if version[1] > 1000 else stored.reshape(2, 3)
    np.testing.assert_array_equal(affine.weights, expected)
    np.testing.assert_array_equal(affine.biases, values[:2])


def test_flipped_convolutions(tmp_path: Path) -> None:
    net = network("[convolutional]\nfilters=2\nsize=1\nflipped=1\n")
    values = random_weights(net)
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, Convolutional)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        affine = reader.convolutional(layer)
    np.testing.assert_array_equal(affine.weights.reshape(2, 3), values[2:8].reshape(3, 2).T)


def test_batchnorm_of_its_own(tmp_path: Path) -> None:
    net = network("[batchnorm]\n")
    values = random_weights(net)
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, BatchNorm)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        affine = reader.batchnorm(layer)
    biases, scales, means, variances = values[:12].reshape(4, 3).astype(float)
    factor = scales / np.sqrt(variances + 1e-5)
    np.testing.assert_allclose(affine.weights, factor, rtol=1e-6)
    np.testing.assert_allclose(affine.biases, biases - means * factor, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["relu", "softmax", "none"])
def test_shortcut_weights(tmp_path: Path, normalization: str) -> None:
    body = (
        "[convolutional]\n[convolutional]\n[shortcut]\nfrom=-2\n"
        f"weights_type=per_feature\nweights_normalization={normalization}\n"
    )
    net = network(body)
    values = random_weights(net)
    start = sum(layer.weight_count for layer in net.layers[:2])
    values[start : start + 2] = [-1.0, 3.0]
    write_weights(tmp_path / "a.weights", values)
    first, second, layer = net.layers[:3]
    assert isinstance(first, Convolutional)
    assert isinstance(second, Convolutional)
    assert isinstance(layer, Shortcut)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        reader.convolutional(first)
        reader.convolutional(second)
        got = reader.shortcut(layer).ravel()
    expected = {
        "none": [-1.0, 3.0],
        "relu": [0.0, 3 / 3.0001],
        "softmax": [np.exp(-4) / (np.exp(-4) + 1.0001), 1 / (np.exp(-4) + 1.0001)],
    }
    np.testing.assert_allclose(got, expected[normalization], rtol=1e-6)


def test_length_must_fit_exactly(tmp_path: Path) -> None:
    net = network(BODY)
    path = tmp_path / "a.weights"
    values = random_weights(net)
    write_weights(path, np.append(values, np.float32(1)))
    with pytest.raises(WeightsError, match="4 bytes too long; these weights belong"):
        WeightsReader(path, net)
    write_weights(path, values[:-1])
    with pytest.raises(WeightsError, match=r"ends within layer 1, \[convolutional\] of line 11"):
        WeightsReader(path, net)
    write_weights(path, values[:5])
    with pytest.raises(WeightsError, match=r"ends within layer 0, \[convolutional\] of line 5"):
        WeightsReader(path, net)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    net = network(BODY)
    path = tmp_path / "a.weights"
    with pytest.raises(WeightsError, match="cannot read"):
        WeightsReader(path, net)
    path.write_bytes(b"\0\1\2")
    with pytest.raises(WeightsError, match="too short"):
        WeightsReader(path, net)
    path.write_bytes(b"this is text, not weights")
    with pytest.raises(WeightsError, match="its header gives version"):
        WeightsReader(path, net)
    with pytest.raises(WeightsError, match=r"cannot read|regular file"):
        WeightsReader(tmp_path, net)


def test_a_large_sparse_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "sparse.weights"
    write_weights(path, np.zeros(0, np.float32))
    os.truncate(path, 10 << 30)
    with pytest.raises(WeightsError, match=r"10737418240 bytes .* too long"):
        WeightsReader(path, network(BODY))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20])
def test_values_must_be_finite(tmp_path: Path, value: float, place: int) -> None:
    net = network(BODY)
    values = random_weights(net)
    values[place] = value
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, Convolutional)
    with (
        WeightsReader(tmp_path / "a.weights", net) as reader,
        pytest.raises(WeightsError, match=r"layer 0, \[convolutional\] of test.cfg:5: .*finite"),
    ):
        reader.convolutional(layer)


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    net = network(BODY)
    values = random_weights(net)
    values[12] = -1
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, Convolutional)
    with (
        WeightsReader(tmp_path / "a.weights", net) as reader,
        pytest.raises(WeightsError, match="finite"),
    ):
        reader.convolutional(layer)


def test_large_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    net = network("[convolutional]\nfilters=4\n")
    values = random_weights(net)
    values[4:8] = 3e38
    write_weights(tmp_path / "a.weights", values)
    layer = net.layers[0]
    assert isinstance(layer, Convolutional)
    with WeightsReader(tmp_path / "a.weights", net) as reader:
        assert np.isfinite(reader.convolutional(layer).weights).all()
