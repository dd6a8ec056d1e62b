"""OpenVINO without Boxwright, called as its own documentation does: a peer for `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from boxwright.closing import Closing
from boxwright.model import IMAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from boxwright.backends.base import Tensors
    from boxwright.card import ModelCard
    from boxwright.model import Model


class BareOpenVino(Closing):
    """One contender of a benchmark (see `boxwright.evaluate.contenders`).

    Compiles the model for each batch size it meets, for a fixed shape is OpenVINO's
    fastest, and runs it on the caller's own memory. What a runner of ours costs more than
    this is our overhead.

    Args:
        model: The model.
        threads: For one inference, as the other contenders have it.
        precision: OpenVINO's: ``f32`` or ``bf16``.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """

    kind = "bare"
    fixed_batch = None

    def __init__(self, model: Model, threads: int, precision: str = "f32") -> None:
        from boxwright.backends.openvino.runtime import import_openvino, version

        self._core = import_openvino().Core()
        self._data = model.proto.SerializeToString()
        self._settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._requests: dict[int, Any] = {}
        self._names = [value.name for value in model.proto.graph.output]
        self.name, self.backend = "bare OpenVINO", f"openvino {version()}"
        self.card: ModelCard = model.card
        self.threads: int | None = threads
        self.precision = "fp32" if precision == "f32" else precision

    def network(self, batch: NDArray[Any]) -> Any:
        """See :class:`~boxwright.evaluate.contenders.Contender`."""
        request = self._requests.get(len(batch))
        if request is None:
            network = self._core.read_model(self._data)
            network.reshape({0: list(batch.shape)})
            compiled = self._core.compile_model(network, "CPU", self._settings)
            request = self._requests[len(batch)] = compiled.create_infer_request()
        # The results are the request's own memory, good until its next run.
        return request.infer({IMAGES: batch}, share_inputs=True, share_outputs=True)

    def tensors(self, raw: Any) -> Tensors:
        """Copies, under the names of the graph."""
        return {name: raw[name].copy() for name in self._names}

    def close(self) -> None:
        """Let the compiled models go."""
        self._requests.clear()
