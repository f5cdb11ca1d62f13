"""The flow: the Gladier client that chains the tools of `tools/` in order, and its definition as plain data.

What the input holds is left to `request`, submitting and following runs to the client side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from gladier import CallbackLoginManager, GladierBaseClient, generate_flow_definition

from .request import input_schema
from .tools.common import COMPUTE_URL, state_name
from .tools.denoise import Denoise
from .tools.inspect_scan import Inspect
from .tools.preprocess import Preprocess
from .tools.publish_metrics import PublishMetrics
from .tools.quantify import Quantify
from .tools.reconstruct import Reconstruct
from .tools.segment import Segment
from .tools.separate_objects import OBJECT_STEPS, SeparateObjects
from .tools.transfer_results import TransferResults
from .tools.transfer_scan import TransferScan

TOOLS = (
    TransferScan,
    Inspect,
    Preprocess,
    Reconstruct,
    Denoise,
    Segment,
    SeparateObjects,
    Quantify,
    TransferResults,
    PublishMetrics,
)
# The states that do the work of a good run, in order; each tool is named after its state.
STAGE_STATES = tuple(tool.__name__ for tool in TOOLS)
# The same with the steps that come before the state of their stage.
ACTION_STATES = tuple(
    name
    for tool in TOOLS
    for name in ([state_name(step) for step in OBJECT_STEPS] if tool is SeparateObjects else [tool.__name__])
)


@generate_flow_definition
class TomographyClient(GladierBaseClient):  # type: ignore[misc]  # Gladier carries no types
    """From a raw X-ray tomography scan to reconstructed, segmented and measured volumes and searchable metrics."""

    app_name = "tomopipe"
    gladier_tools: ClassVar[list[Any]] = list(TOOLS)
    flow_schema: ClassVar[dict[str, Any]] = input_schema()

    def __init__(self, config_file: Path | None = None, **managers: Any) -> None:
        """Take Gladier's managers, and the file for what it remembers (by default one in the home folder)."""
        if config_file is not None:
            self.secret_config_filename = str(config_file)
        super().__init__(**managers)

    def _determine_storage(self) -> Any:
        # Gladier moves a file of its old versions, ~/.gladier-secrets.cfg, into a storage that holds nothing yet; ours
        # may be a passing one, and the user's file would be gone.
        storage = super()._determine_storage()
        storage.set_value("written_by", "tomopipe")
        return storage


def flow_definition(compute_wait_s: int | None = None) -> dict[str, Any]:
    """Definition of the flow as the Flows service takes it. Needs no account and no network, leaves no file.

    Parameters
    ----------
    compute_wait_s : int, optional
        How long a compute action may take, its time in the queue included; by default a week.
    """
    with tempfile.TemporaryDirectory(prefix="tomopipe-") as folder:
        client = TomographyClient(config_file=Path(folder) / "gladier.cfg", login_manager=CallbackLoginManager({}))
        definition: dict[str, Any] = client.get_flow_definition()
    if compute_wait_s is not None:
        for state in definition["States"].values():
            if state.get("ActionUrl") == COMPUTE_URL:
                state["WaitTime"] = compute_wait_s
    return definition


def flow_schema(defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema of the flow's input, as the Flows service takes it; see `request.input_schema`."""
    return input_schema(defaults)
